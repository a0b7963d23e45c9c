//! Checks: how they ask, and how far they are believed; what is told of servers that can't be asked.

use crate::support::*;
use std::time::Duration;

const OFTEN: &str = "path = \"/healthz\", interval = \"50ms\"";

async fn up(gateway: &Gateway) -> f64 {
    gateway.metrics().await.value("tidegate_origin_server_up", &[("origin", "app")])
}

async fn reasons(gateway: &Gateway) -> String {
    let reply = send(gateway.client().get(gateway.admin_url("/readyz"))).await.ok();
    reply.json()["reasons"].to_string()
}

/// An application that knows its own host only, as Django's ALLOWED_HOSTS has it.
fn knows_its_host(origin: &TestOrigin) {
    origin.on("/healthz", |seen| {
        let known = seen.header("host") == Some("app.example") && seen.header("x-probe") == Some("1");
        Answer::new("text/plain", "").status(if known { 200 } else { 400 })
    });
}

#[tokio::test]
async fn a_check_names_a_host_and_fields() {
    let origin = TestOrigin::start().await;
    knows_its_host(&origin);
    let health = format!(
        "panic_mode = false\nhealth = {{ {OFTEN}, host = \"app.example\", headers = {{ X-Probe = \"1\" }} }}"
    );
    let gateway = Gateway::with(&origin).origin(&health).route("/*", "").start().await;
    until("a few checks", SOON, || async { origin.count("/healthz") > 2 }).await;
    assert_eq!((up(&gateway).await, reasons(&gateway).await.as_str()), (1.0, "[]"));
    gateway.get("/x").await.ok();
    // One that has succeeded is believed when it fails.
    origin.on("/healthz", |_| Answer::new("text/plain", "").status(400));
    until("it is left out", SOON, || async { gateway.get("/x").await.status == 503 }).await;
    assert_eq!(up(&gateway).await, 0.0);
    knows_its_host(&origin);
    until("it is back", SOON, || async { gateway.get("/x").await.status == 200 }).await;
    assert_eq!(up(&gateway).await, 1.0);
}

/// A check that is refused, or that asks for what is broken or slow, from the beginning.
#[tokio::test]
async fn a_check_that_has_never_succeeded_does_not_take_the_site_down() {
    for (status, delay) in [(400, 0), (404, 0), (500, 0), (503, 0), (200, 5)] {
        let origin = TestOrigin::start().await;
        origin.on("/healthz", move |_| {
            Answer::new("text/plain", "").status(status).after(Duration::from_secs(delay))
        });
        let health = format!("health = {{ {OFTEN}, timeout = \"100ms\" }}");
        let gateway = Gateway::with(&origin).origin(&health).route("/*", "").start().await;
        let told = "no check of this server has ever succeeded";
        until("it is told", SOON, || async {
            let answered = gateway.get("/x").await.status;
            assert!(answered == 200 || answered == 503 && status >= 500 || delay > 0, "{status}: {answered}");
            gateway.output().contains(told)
        })
        .await;
        for _ in 0..20 {
            gateway.get("/x").await.ok();
        }
        assert!(reasons(&gateway).await.contains("have never succeeded, and are not believed"), "{status}");
        assert_eq!(up(&gateway).await, 1.0, "{status}");
        origin.on("/healthz", |_| Answer::new("text/plain", ""));
        until("a check succeeds", SOON, || async { reasons(&gateway).await == "[]" }).await;
    }
}

/// Without checks too the metric tells whether requests go to a server; one request that is tried again is one failure.
#[tokio::test]
async fn one_request_ejects_no_lone_server_and_the_metric_follows() {
    let mut origin = TestOrigin::start().await;
    let gateway =
        Gateway::with(&origin).route("/app/*", "").route("/followed/*", "cache = \"origin\"").start().await;
    assert_eq!(up(&gateway).await, 1.0);
    origin.kill();
    for (n, path) in ["/app/1", "/followed/2", "/app/3"].into_iter().enumerate() {
        assert_eq!(up(&gateway).await, 1.0, "{n}");
        let reply = gateway.get(path).await.problem(502);
        assert_eq!(reply.json()["detail"], "the origin can't be reached", "{n}");
    }
    assert_eq!(up(&gateway).await, 0.0);
    assert_eq!(
        gateway.metrics().await.value("tidegate_origin_ejections_total", &[("reason", "failures")]),
        0.0,
        "there is no other"
    );
    origin.restart().await;
    until("it is back", SOON, || async { gateway.get("/app/x").await.status == 200 }).await;
    assert_eq!(up(&gateway).await, 1.0);
}

/// A name without an address is told from a server that refuses.
#[tokio::test]
async fn a_name_without_an_address_is_told_from_a_server_that_refuses() {
    let gateway = gateway::GatewayBuilder::new("http://nobody.invalid:1")
        .route("/app/*", "")
        .route("/followed/*", "cache = \"origin\"")
        .start()
        .await;
    for path in ["/app/x", "/followed/x"] {
        let reply = gateway.get(path).await.problem(503);
        assert_eq!(reply.json()["detail"], "no name of the origin's servers has an address", "{path}");
        assert!(reply.cache_status().contains("origin-unresolved"), "{path}: {}", reply.cache_status());
        assert_eq!(reply.header("retry-after"), "1");
    }
    let unresolved = [("outcome", "unresolved")];
    assert_eq!(gateway.metrics().await.value("tidegate_origin_requests_total", &unresolved), 2.0);
    assert_eq!(up(&gateway).await, 0.0);
}
