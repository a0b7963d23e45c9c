//! Limits of servers: concurrent requests, the queue, and the time for an exchange.

use super::{before, counts, echoes, origins, socket};
use crate::support::*;
use std::time::{Duration, Instant};

fn slow(origin: &TestOrigin) {
    for path in ["/app/slow", "/kept"] {
        origin.on(path, |seen| Answer::echo(seen).gated());
    }
    origin.hold();
}

async fn queued(gateway: &Gateway, n: f64) {
    until("so many wait", SOON, || async {
        gateway.metrics().await.value("tidegate_origin_queue_length", &[("origin", "app")]) == n
    })
    .await;
}

#[tokio::test]
async fn who_finds_no_place_waits_fills_and_proxied_alike() {
    let all = origins(2).await;
    all.iter().for_each(slow);
    let gateway = before(&all)
        .origin("max_connections = 1\nqueue = 2\nqueue_timeout = \"60s\"")
        .route("/app/*", "")
        .route("/kept", "cache = { namespace = \"n\", ttl = \"60s\" }")
        .start()
        .await;
    let ask = |path| tokio::spawn(send(gateway.request("GET", path)));
    let held = [ask("/app/slow"), ask("/app/slow")];
    until("both servers are busy", SOON, || async { counts(&all, "/app/slow") == [1, 1] }).await;
    let fill = ask("/kept");
    queued(&gateway, 1.0).await;
    let proxied = ask("/app/slow");
    queued(&gateway, 2.0).await;
    for path in ["/app/x", "/app/slow"] {
        let refused = gateway.get(path).await.problem(503);
        assert_eq!(refused.header("retry-after"), "1");
        assert!(refused.text().contains("as much to do as it may"), "{refused:?}");
    }
    let metrics = gateway.metrics().await;
    let outcome = |outcome| metrics.value("tidegate_origin_requests_total", &[("outcome", outcome)]);
    assert_eq!(outcome("queue_full"), 2.0);
    assert_eq!(metrics.value("tidegate_origin_requests_under_way", &[]), 2.0);
    assert_eq!(counts(&all, "/kept"), [0, 0]);
    all.iter().for_each(TestOrigin::release);
    for asking in held.into_iter().chain([fill, proxied]) {
        asking.await.unwrap().ok();
    }
    queued(&gateway, 0.0).await;
    gateway.get("/app/x").await.ok();
}

#[tokio::test]
async fn nobody_waits_longer_than_he_may() {
    let all = origins(1).await;
    slow(&all[0]);
    let gateway = before(&all)
        .origin("max_connections = 1\nqueue_timeout = \"300ms\"")
        .route("/app/*", "")
        .route("/kept", "cache = { namespace = \"n\", ttl = \"60s\" }")
        .start()
        .await;
    let held = tokio::spawn(send(gateway.request("GET", "/app/slow")));
    until("the server is busy", SOON, || async { all[0].count("/app/slow") == 1 }).await;
    for path in ["/app/x", "/kept"] {
        let began = Instant::now();
        gateway.get(path).await.problem(503);
        assert!(began.elapsed() >= Duration::from_millis(300), "{path}: {:?}", began.elapsed());
    }
    let timeouts =
        gateway.metrics().await.value("tidegate_origin_requests_total", &[("outcome", "queue_timeout")]);
    assert_eq!(timeouts, 2.0);
    all[0].release();
    held.await.unwrap().ok();
    gateway.get("/app/x").await.ok();
}

#[tokio::test]
async fn a_websocket_has_its_place_while_it_is_open() {
    let all = origins(1).await;
    let gateway = before(&all)
        .origin("max_connections = 1\nqueue = 0\nrequest_timeout = \"300ms\"")
        .route("/app/*", "")
        .route("/ws/*", "websocket = {}")
        .start()
        .await;
    let mut open = socket(&gateway, "/ws/echo").await.unwrap();
    echoes(&mut open, "one").await;
    gateway.get("/app/x").await.problem(503);
    // Its time is not that of a request.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(600) {
        echoes(&mut open, "two").await;
    }
    drop(open);
    until("its place is free", SOON, || async { gateway.get("/app/x").await.status == 200 }).await;
}

#[tokio::test]
async fn an_exchange_that_takes_too_long_is_a_504() {
    let all = origins(1).await;
    slow(&all[0]);
    let gateway = before(&all)
        .origin("request_timeout = \"500ms\"")
        .route("/app/*", "")
        .route("/kept", "cache = { namespace = \"n\", ttl = \"60s\" }")
        .start()
        .await;
    for path in ["/app/slow", "/kept"] {
        let began = Instant::now();
        gateway.get(path).await.problem(504);
        let took = began.elapsed();
        assert!((Duration::from_millis(500)..Duration::from_secs(5)).contains(&took), "{path}: {took:?}");
    }
    gateway.get("/app/x").await.ok();
    all[0].release();
}

/// A client that takes its time with its request makes no server look slow.
#[tokio::test]
async fn a_slow_client_costs_no_server_its_good_name() {
    let all = origins(1).await;
    let gateway = before(&all)
        .origin("request_timeout = \"300ms\"\nread_timeout = \"200ms\"\nretries = 0")
        .route("/app/*", "")
        .start()
        .await;
    for pause in [50, 1_000_000] {
        for _ in 0..4 {
            let pieces = futures_util::stream::unfold(0, move |n| async move {
                if n > 0 {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                Some((Ok::<_, std::io::Error>("x"), n + 1))
            });
            let request = gateway.request("POST", "/app/x").body(reqwest::Body::wrap_stream(pieces));
            let reply = client::try_send(request).await;
            assert!(reply.as_ref().map_or(true, |reply| reply.status == 504), "{reply:?}");
        }
    }
    gateway.get("/app/y").await.ok();
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("tidegate_origin_ejections_total", &[]), 0.0);
}

/// Every read is in time, and the whole is not.
#[tokio::test]
async fn a_body_that_never_ends_is_cut_off() {
    let all = origins(1).await;
    for path in ["/app/endless", "/kept"] {
        all[0].on(path, |_| Answer::new("text/plain", vec![b'x'; 64 * 1024 * 200]).paced(64 * 1024 * 10));
    }
    let gateway = before(&all)
        .origin("request_timeout = \"1s\"")
        .route("/app/*", "")
        .route("/kept", "cache = { namespace = \"n\", ttl = \"60s\", max_size = \"64MiB\" }")
        .start()
        .await;
    for path in ["/app/endless", "/kept"] {
        let began = Instant::now();
        let mut transfer = Transfer::ask(gateway.address(), path).await;
        assert_eq!(transfer.head().await.status, 200, "{path}");
        assert_eq!(transfer.rest().await.1, End::Broken, "{path}");
        assert!(began.elapsed() < Duration::from_secs(10), "{path}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn limits_change_with_a_reload_and_those_under_way_are_counted_on() {
    let all = origins(1).await;
    slow(&all[0]);
    let first = before(&all).route("/app/*", "");
    let limit =
        |n: u32| first.clone().origin(&format!("max_connections = {n}\nqueue = 1\nqueue_timeout = \"60s\""));
    let gateway = limit(1).start().await;
    let ask = || tokio::spawn(send(gateway.request("GET", "/app/slow")));
    let held = ask();
    until("the server is busy", SOON, || async { all[0].count("/app/slow") == 1 }).await;
    let waits = ask();
    queued(&gateway, 1.0).await;
    gateway.get("/app/x").await.problem(503);
    assert!(gateway.reload(&limit(3)).await);
    gateway.get("/app/x").await.ok();
    let more = ask();
    until("there is room", SOON, || async { all[0].count("/app/slow") >= 2 }).await;
    all[0].release();
    for asking in [held, waits, more] {
        asking.await.unwrap().ok();
    }
    until("nothing is under way", SOON, || async {
        gateway.metrics().await.value("tidegate_origin_requests_under_way", &[]) == 0.0
    })
    .await;
}
