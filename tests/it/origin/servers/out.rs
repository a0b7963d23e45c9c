//! An origin that is slow, or whose servers are all out: who is served what is stale, who waits, and who is asked.

use super::{before, counts, origins};
use crate::support::*;
use futures_util::future::join_all;
use std::time::{Duration, Instant};

const VERSIONED: &str = "/kept";
const FOLLOWED: &str = "/page";

/// Both kinds of routes with this rule, whose answers are stale at once and may stand in for long; and one that is proxied.
fn routes(builder: gateway::GatewayBuilder, rule: &str) -> gateway::GatewayBuilder {
    let versioned = format!(
        r#"cache = {{ namespace = "kpi", ttl = "50ms", stale_if_error = "10m", fill_timeout = "20s", query = ["n"], {rule} }}"#
    );
    let followed =
        format!(r#"cache = {{ follow = "origin", stale_if_error = "10m", fill_timeout = "20s", {rule} }}"#);
    builder.route(VERSIONED, &versioned).route(FOLLOWED, &followed).route("/app/*", "")
}

/// Answers on all paths while nothing is held.
fn answers(origin: &TestOrigin) {
    for path in [VERSIONED, FOLLOWED, "/app/x", "/app/y"] {
        origin.on(path, |seen| {
            Answer::echo(seen).header("cache-control", "max-age=0").header("etag", "\"a\"").gated()
        });
    }
}

fn ask(gateway: &Gateway, target: &str) -> tokio::task::JoinHandle<(Reply, Duration)> {
    let (request, began) = (gateway.request("GET", target), Instant::now());
    tokio::spawn(async move { (send(request).await, began.elapsed()) })
}

#[tokio::test]
async fn what_is_stale_is_served_while_a_slow_fill_goes_on() {
    let origin = TestOrigin::start().await;
    answers(&origin);
    let gateway = routes(Gateway::with(&origin), "stale_after = \"700ms\"").start().await;
    for path in [VERSIONED, FOLLOWED] {
        origin.release();
        let first = gateway.get(path).await.ok();
        tokio::time::sleep(Duration::from_millis(100)).await;
        origin.hold();
        let before = origin.count(path);
        let asking: Vec<_> = (0..4).map(|_| ask(&gateway, path)).collect();
        for (reply, took) in join_all(asking).await.into_iter().map(Result::unwrap) {
            let reply = reply.ok();
            assert_eq!(reply.body, first.body, "{path}");
            assert_eq!(reply.cache_status(), "tidegate; fwd=stale; detail=slow-origin", "{path}");
            assert!(took > Duration::from_millis(300) && took < Duration::from_secs(10), "{path}: {took:?}");
        }
        // One fill, which has been slow for long enough by now.
        assert_eq!((origin.held(), origin.count(path)), (1, before + 1), "{path}");
        let (reply, took) = ask(&gateway, path).await.unwrap();
        assert!(reply.ok().cache_status().contains("slow-origin"), "{path}");
        assert!(took < Duration::from_millis(500), "{path}: {took:?}");
        // A client that has nothing here waits.
        let other = format!("{path}?n=other");
        let waits = ask(&gateway, &other);
        until("it is asked for", SOON, || async { origin.held() == 2 }).await;
        origin.release();
        waits.await.unwrap().0.ok();
        until("the fill has ended", SOON, || async {
            let reply = gateway.get(path).await.ok();
            reply.body != first.body
        })
        .await;
    }
    let stale = gateway.metrics().await.value("tidegate_requests_total", &[("result", "stale")]);
    assert!(stale >= 10.0, "{stale}");
}

/// The only server hangs: who can be served without it waits for nothing, the others find it as it is, a few at once.
#[tokio::test]
async fn one_server_alone_is_never_left_out() {
    let origin = TestOrigin::start().await;
    answers(&origin);
    let timeouts = "retries = 0\nread_timeout = \"1s\"";
    let gateway = routes(Gateway::with(&origin).origin(timeouts), "max_size = \"1MiB\"").start().await;
    for path in [VERSIONED, FOLLOWED] {
        gateway.get(path).await.ok();
    }
    origin.hold();
    let up = async || gateway.metrics().await.value("tidegate_origin_server_up", &[("origin", "app")]);
    until("it has failed three times in a row", SOON, || async {
        gateway.get("/app/x").await.problem(504);
        up().await == 0.0
    })
    .await;
    for path in [VERSIONED, FOLLOWED] {
        for _ in 0..3 {
            let (reply, took) = ask(&gateway, path).await.unwrap();
            assert!(reply.ok().cache_status().starts_with("tidegate; fwd=stale; detail=origin-"), "{path}");
            assert!(took < Duration::from_millis(700), "{path} waited for a trial: {took:?}");
        }
    }
    // As many as may try it at once; the others are told at once.
    until("nothing is under way", SOON, || async {
        gateway.metrics().await.value("tidegate_origin_requests_under_way", &[]) == 0.0
    })
    .await;
    origin.forget();
    let asking: Vec<_> = (0..20).map(|_| ask(&gateway, "/app/y")).collect();
    let replies: Vec<_> = join_all(asking).await.into_iter().map(Result::unwrap).collect();
    let waited = replies.iter().filter(|(_, took)| *took > Duration::from_millis(900)).count();
    assert!((1..=9).contains(&waited) && origin.count("/app/y") <= 9, "{waited} of {}", replies.len());
    replies.into_iter().for_each(|(reply, _)| drop(reply.problem(504)));
    let ejections = gateway.metrics().await.value("tidegate_origin_ejections_total", &[]);
    assert_eq!(ejections, 0.0);
    // The first that gets an answer ends it.
    origin.release();
    gateway.get("/app/x").await.ok();
    assert_eq!(up().await, 1.0);
}

/// Checks of all servers fail, and they would answer.
#[tokio::test]
async fn where_all_servers_are_out_the_least_bad_is_asked_unless_that_is_forbidden() {
    let all = origins(2).await;
    for origin in &all {
        origin.on("/healthz", |_| Answer::new("text/plain", ""));
    }
    let config = |rule: &str| {
        let health = "health = { path = \"/healthz\", interval = \"50ms\" }";
        before(&all).origin(&format!("{health}\n{rule}")).route("/app/*", "")
    };
    let (panics, refuses) = (config("").start().await, config("panic_mode = false").start().await);
    for gateway in [&panics, &refuses] {
        until("both have been well", SOON, || async { counts(&all, "/healthz").iter().all(|n| *n > 4) })
            .await;
        gateway.get("/app/x").await.ok();
    }
    for origin in &all {
        origin.on("/healthz", |_| Answer::new("text/plain", "").status(503));
    }
    until("all are out", SOON, || async { refuses.get("/app/x").await.status == 503 }).await;
    refuses.get("/app/x").await.problem(503);
    until("all are out", SOON, || async {
        let up = panics.metrics().await.value("tidegate_origin_server_up", &[]);
        up == 0.0
    })
    .await;
    all.iter().for_each(TestOrigin::forget);
    for _ in 0..6 {
        panics.get("/app/x").await.ok();
    }
    assert_eq!(counts(&all, "/app/x"), [3, 3], "in turn, as ever");
}
