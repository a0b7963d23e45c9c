//! A store that loses writes: no generation comes back, and no bump that is owed gets lost with a connection.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a failure is a panic")]

mod support;

use std::collections::BTreeSet;
use support::{
    gateway::{GatewayBuilder, KPI},
    *,
};

const PATH: &str = "/api/widgets/kpi";
const VERSION: &str = "dash:ver:kpi:acme";

/// Every fill gets another sequence number: a higher one is a newer generation.
fn gateway(origin: &TestOrigin, redis: &Redis) -> GatewayBuilder {
    Gateway::with(origin).redis(&redis.url()).route(PATH, KPI).event("order_created", &["kpi"])
}

async fn served(node: &Gateway) -> u64 {
    node.get_as("acme", PATH).await.ok().seq()
}

/// Waits until the node's link to the store is there and tracked, or gone.
async fn link_is(node: &Gateway, there: bool) {
    let gauge = if there { "tidegate_store_tracking" } else { "tidegate_store_up" };
    until(&format!("the link is there: {there}"), SOON, || async {
        (node.metrics().await.value(gauge, &[]) > 0.5) == there
    })
    .await;
}

/// The store is killed and comes back empty; between the two, `away` is done.
async fn lose_everything(redis: &mut Redis, node: &Gateway, away: impl AsyncFnOnce()) {
    redis.kill();
    away().await;
    link_is(node, false).await;
    redis.restart().await;
    link_is(node, true).await;
}

#[tokio::test]
async fn an_acknowledged_bump_holds_when_the_store_forgets_it() {
    let (origin, mut redis) = (TestOrigin::start().await, Redis::start().await);
    let node = gateway(&origin, &redis).start().await;
    for round in 0..4 {
        let old = served(&node).await;
        assert_eq!(served(&node).await, old, "the old generation is in memory");
        node.bump("acme").await;
        // In every other round nobody asks before the empty store is back.
        lose_everything(&mut redis, &node, async || {
            if round % 2 == 1 {
                assert!(served(&node).await > old, "while the store is away");
            }
        })
        .await;
        for _ in 0..5 {
            assert!(served(&node).await > old, "round {round}: the old generation is back");
        }
    }
}

#[tokio::test]
async fn a_version_that_was_set_back_brings_nothing_back() {
    let (origin, mut redis) = (TestOrigin::start().await, Redis::start().await);
    let node = gateway(&origin, &redis).start().await;
    for asked in [false, true] {
        node.bump("acme").await;
        let old = served(&node).await;
        let older: String = redis.run(&["GET", VERSION]).await;
        node.bump("acme").await;
        if asked {
            assert!(served(&node).await > old);
        }
        // As a replica that had not got the last write, or a snapshot.
        lose_everything(&mut redis, &node, async || {}).await;
        let _: () = redis.run(&["SET", VERSION, &older]).await;
        for _ in 0..5 {
            assert!(served(&node).await > old, "asked: {asked}");
        }
        let now: u64 = redis.run(&["GET", VERSION]).await;
        assert!(now > older.parse().unwrap(), "the version has moved on for all nodes");
    }
}

#[tokio::test]
async fn who_only_heard_of_a_lost_bump_serves_nothing_older() {
    let (origin, mut redis) = (TestOrigin::start().await, Redis::start().await);
    let config = gateway(&origin, &redis);
    let (a, b) = (config.start().await, config.start().await);
    for _ in 0..2 {
        served(&a).await;
        let old = served(&b).await;
        let heard = async || b.metrics().await.value("tidegate_invalidations_total", &[("kind", "version")]);
        let before = heard().await;
        a.bump("acme").await;
        until("the other node has heard of it", SOON, || async { heard().await > before }).await;
        lose_everything(&mut redis, &b, async || {}).await;
        assert!(served(&b).await > old);
    }
}

#[tokio::test]
async fn all_bumps_that_the_store_missed_are_made_up_for_unasked() {
    let (origin, mut redis) = (TestOrigin::start().await, Redis::start().await);
    let node = gateway(&origin, &redis).start().await;
    let wanted: BTreeSet<String> = (0..30).map(|n| format!("dash:ver:kpi:tenant{n}")).collect();
    redis.kill();
    link_is(&node, false).await;
    let before = now_ms();
    for n in 0..30 {
        let tenant = serde_json::json!({ "tenant": format!("tenant{n}") });
        node.event("order_created", &tenant).await.problem(503);
    }
    redis.restart().await;
    // The first attempts fail, and take the link with them: what is owed has to outlive that.
    let _: () = redis.run(&["CLIENT", "PAUSE", "700", "WRITE"]).await;
    until("all thirty are recorded", SOON, || async { redis.keys().await.is_superset(&wanted) }).await;
    for key in &wanted {
        let version: u64 = redis.run(&["GET", key]).await;
        assert!(version >= before, "{key} is {version}");
    }
}
