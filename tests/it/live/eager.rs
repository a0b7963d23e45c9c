//! `on_bump = "eager"`: an entry is kept current though nobody watches it.

use super::*;

const EAGER: &str = "cache = { namespace = \"kpi\", ttl = \"60s\" }\nlive = { on_bump = \"eager\" }";

/// Waits until the origin was asked so many times.
async fn until_asked(origin: &TestOrigin, path: &str, times: usize) {
    until(&format!("{times} requests for {path}"), SOON, || async { origin.count(path) >= times }).await;
}

#[tokio::test]
async fn the_next_request_after_a_bump_is_a_hit() {
    let followed = "cache = \"origin\"\nlive = { on_bump = \"eager\" }";
    for (rules, is_followed) in [(EAGER, false), (followed, true)] {
        let (origin, orders) = (TestOrigin::start().await, Arc::new(AtomicU64::new(0)));
        let counted = orders.clone();
        origin.on("/kpi", move |_| {
            let body = json!({ "orders": counted.load(Ordering::SeqCst) });
            Answer::json(&body).header("cache-control", "max-age=60")
        });
        let gateway =
            Gateway::with(&origin).route("/kpi", rules).event("order_created", &["kpi"]).start().await;
        gateway.get("/kpi").await.ok();
        for n in 1..4_u64 {
            orders.store(n, Ordering::SeqCst);
            match is_followed {
                true => drop(gateway.purge(&json!({ "all": true })).await.ok()),
                false => gateway.bump("public").await,
            }
            until_asked(&origin, "/kpi", n as usize + 1).await;
            let current = json!({ "orders": n });
            until("the new answer is there", SOON, || async {
                gateway.get("/kpi").await.ok().json() == current
            })
            .await;
            assert!(gateway.get("/kpi").await.ok().is_hit(), "{rules}");
            assert_eq!(origin.count("/kpi"), n as usize + 1, "{rules}: one request for each change");
        }
    }
}

#[tokio::test]
async fn an_entry_that_nobody_watches_is_left_alone_without_it() {
    for trigger in ["watched", "lazy"] {
        let (origin, orders) = shop("/kpi").await;
        let rules = EAGER.replace("eager", trigger);
        let gateway =
            Gateway::with(&origin).route("/kpi", &rules).event("order_created", &["kpi"]).start().await;
        gateway.get("/kpi").await.ok();
        orders.store(1, Ordering::SeqCst);
        gateway.bump("public").await;
        let reply = gateway.get("/kpi").await.ok();
        assert!(!reply.is_hit(), "{trigger}: {reply:?}");
        assert_eq!((reply.json(), origin.count("/kpi")), (json!({ "orders": 1 }), 2), "{trigger}");
    }
}

#[tokio::test]
async fn streams_come_and_go_and_the_entry_stays_current() {
    let (origin, orders) = shop("/kpi").await;
    let gateway = Gateway::with(&origin).route("/kpi", EAGER).event("order_created", &["kpi"]).start().await;
    gateway.get("/kpi").await.ok();
    for n in 1..4_u64 {
        let mut stream = EventStream::open(gateway.address(), "/kpi", &[]).await;
        assert_eq!(stream.next().await.json(), json!({ "orders": 2 * n - 2 }));
        orders.store(2 * n - 1, Ordering::SeqCst);
        gateway.bump("public").await;
        assert_eq!(stream.next().await.json(), json!({ "orders": 2 * n - 1 }));
        drop(stream);
        until_watched_by(&gateway, "kpi", 0).await;
        orders.store(2 * n, Ordering::SeqCst);
        gateway.bump("public").await;
        until_asked(&origin, "/kpi", 2 * n as usize + 1).await;
    }
    assert_eq!(origin.count("/kpi"), 7, "one request for each change");
}

#[tokio::test]
async fn one_request_to_the_origin_serves_all_nodes() {
    let ((origin, orders), redis) = (shop("/kpi").await, Redis::start().await);
    let rules =
        "cache = { namespace = \"kpi\", ttl = \"60s\", hedge = \"20s\" }\nlive = { on_bump = \"eager\" }";
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let node = Gateway::with(&origin)
            .redis(&redis.url())
            .store("deadline = \"5s\"")
            .route("/kpi", rules)
            .event("order_created", &["kpi"])
            .start()
            .await;
        until("the node is linked", SOON, || node.is_linked()).await;
        node.get("/kpi").await.ok();
        nodes.push(node);
    }
    for n in 1..4_u64 {
        orders.store(n, Ordering::SeqCst);
        nodes[n as usize % 2].bump("public").await;
        until_asked(&origin, "/kpi", n as usize + 1).await;
        let current = json!({ "orders": n });
        for node in &nodes {
            until("the new answer is there", SOON, || async {
                node.get("/kpi").await.ok().json() == current
            })
            .await;
        }
        assert_eq!(origin.count("/kpi"), n as usize + 1, "one request for all nodes");
    }
}

#[tokio::test]
async fn an_origin_that_fails_is_asked_again_when_a_request_needs_it() {
    let (origin, failing) = (TestOrigin::start().await, Arc::new(AtomicU64::new(0)));
    let fails = failing.clone();
    origin.on("/kpi", move |_| match fails.load(Ordering::SeqCst) {
        0 => Answer::json(&json!({ "orders": 7 })),
        _ => Answer::new("text/plain", "broken").status(500),
    });
    let gateway = Gateway::with(&origin).route("/kpi", EAGER).event("order_created", &["kpi"]).start().await;
    gateway.get("/kpi").await.ok();
    failing.store(1, Ordering::SeqCst);
    gateway.bump("public").await;
    until_asked(&origin, "/kpi", 2).await;
    failing.store(0, Ordering::SeqCst);
    assert_eq!(gateway.get("/kpi").await.ok().json(), json!({ "orders": 7 }));
    gateway.bump("public").await;
    until("it is current by itself again", SOON, || async { gateway.get("/kpi").await.is_hit() }).await;
}
