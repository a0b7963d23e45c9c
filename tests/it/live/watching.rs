//! A client watches the entry that it reads: the first state, each new one, and nothing twice.

use super::*;

#[tokio::test]
async fn a_bump_brings_the_new_state_to_all_who_watch_with_one_request_to_the_origin() {
    let (origin, orders) = shop("/kpi").await;
    let gateway =
        Gateway::with(&origin).route("/kpi", LIVE_KPI).event("order_created", &["kpi"]).start().await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = EventStream::open(gateway.address(), "/kpi", &[]).await;
        let first = stream.next().await;
        assert_eq!((first.name.as_str(), first.json()), ("metric_update", json!({ "orders": 0 })));
        streams.push(stream);
    }
    assert_eq!(streams[0].head.header("cache-control"), Some("no-store"));
    assert_eq!(origin.count("/kpi"), 1);
    for n in 1..4_u64 {
        orders.store(n, Ordering::SeqCst);
        gateway.bump("public").await;
        for stream in &mut streams {
            assert_eq!(stream.next().await.json(), json!({ "orders": n }));
        }
        assert_eq!(origin.count("/kpi"), n as usize + 1, "one request for all");
    }
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("tidegate_live_watchers", &[("route", "kpi")]), 20.0);
    let refills = |cause| metrics.value("tidegate_live_refills_total", &[("cause", cause)]);
    assert_eq!(
        (refills("bump"), refills("ttl")),
        (3.0, 0.0),
        "each bump is told, and none found by the look"
    );
    drop(streams);
    until("all streams have ended", SOON, || async {
        gateway.metrics().await.value("tidegate_live_watchers", &[("route", "kpi")]) == 0.0
    })
    .await;
}

#[tokio::test]
async fn a_client_that_comes_back_gets_nothing_twice() {
    let (origin, orders) = shop("/kpi").await;
    let gateway =
        Gateway::with(&origin).route("/kpi", LIVE_KPI).event("order_created", &["kpi"]).start().await;
    let first = EventStream::open(gateway.address(), "/kpi", &[]).await.next().await;
    let id = first.id.unwrap();
    let mut again = EventStream::open(gateway.address(), "/kpi", &[("Last-Event-ID", &id)]).await;
    // A bump without another state is no event either.
    gateway.bump("public").await;
    orders.store(1, Ordering::SeqCst);
    gateway.bump("public").await;
    assert_eq!(again.next().await.json(), json!({ "orders": 1 }));
    for id in ["nonsense", "f7172f4ef34e47ed@1", "", "1764547200-0"] {
        let mut stream = EventStream::open(gateway.address(), "/kpi", &[("Last-Event-ID", id)]).await;
        assert_eq!(stream.next().await.json(), json!({ "orders": 1 }), "{id}");
    }
}

#[tokio::test]
async fn while_the_origin_fails_the_last_state_stays_and_the_client_is_told() {
    let origin = TestOrigin::start().await;
    let failing = Arc::new(AtomicU64::new(0));
    let fails = failing.clone();
    origin.on("/kpi", move |_| match fails.load(Ordering::SeqCst) {
        0 => Answer::json(&json!({ "orders": 7 })),
        _ => Answer::new("text/plain", "broken").status(500),
    });
    let live = "cache = { namespace = \"kpi\", ttl = \"60s\" }\nlive = { ping = \"1s\" }";
    let gateway = Gateway::with(&origin).route("/kpi", live).event("order_created", &["kpi"]).start().await;
    let mut stream = EventStream::open(gateway.address(), "/kpi", &[]).await;
    assert_eq!(stream.next().await.json(), json!({ "orders": 7 }));
    assert_eq!(stream.next_named("ping").await.json(), json!({ "interval": 1 }));
    failing.store(1, Ordering::SeqCst);
    gateway.bump("public").await;
    let stale = stream.next().await;
    assert_eq!((stale.name.as_str(), stale.id.as_deref()), ("stale", None));
    failing.store(0, Ordering::SeqCst);
    assert_eq!(stream.next().await.name, "current", "it is what it was");
}

#[tokio::test]
async fn a_shutdown_ends_streams_with_a_word_on_when_to_come_back() {
    let (origin, _) = shop("/kpi").await;
    let mut gateway = Gateway::with(&origin).route("/kpi", LIVE_KPI).start().await;
    let mut stream = EventStream::open(gateway.address(), "/kpi", &[]).await;
    stream.next().await;
    gateway.sigterm();
    let (events, end) = stream.rest().await;
    assert_eq!(end, End::Clean);
    assert_eq!(events.last().map(|event| event.name.as_str()), Some("retry"), "{events:?}");
    assert!(gateway.wait(SOON).await.success());
}
