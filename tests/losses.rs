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

/// The bump of an application: it reads the version as Flask-Caching does, and writes what follows, pickled in the newest
/// protocol, or in the oldest.
async fn application_bumps(redis: &Redis, is_counted: bool, protocol: u8) {
    let mut client = redis.client().await;
    let read: Option<Vec<u8>> = redis::cmd("GET").arg(VERSION).query_async(&mut client).await.unwrap();
    let read = read.unwrap_or_else(|| b"1".to_vec());
    // The last run of digits is the number, in every form that is written here.
    let text = String::from_utf8_lossy(&read).into_owned();
    let text = text.trim_end_matches(|c: char| !c.is_ascii_digit() || c == 'p');
    let text = text.strip_suffix("\np0").unwrap_or(text);
    let current: u64 = text.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    let next = if is_counted { current + 1 } else { (current + 1).max(now_ms()) }.to_string();
    let pickled = match protocol {
        0 => format!("!V{next}\np0\n.").into_bytes(),
        _ => {
            let length = u8::try_from(next.len()).unwrap();
            [
                b"!\x80\x05\x95",
                &[length + 4, 0, 0, 0, 0, 0, 0, 0, 0x8c, length][..],
                next.as_bytes(),
                b"\x94.",
            ]
            .concat()
        }
    };
    let () = redis::cmd("SET").arg(VERSION).arg(pickled).query_async(&mut client).await.unwrap();
}

/// Writes until the key of the version is evicted.
async fn evict(redis: &Redis) {
    let mut client = redis.client().await;
    let memory: String = redis.run(&["INFO", "memory"]).await;
    let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let limit = (used.parse::<u64>().unwrap() + 400_000).to_string();
    let _: () =
        redis.run(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random", "maxmemory", &limit]).await;
    for filler in 0.. {
        let mut pipe = redis::pipe();
        pipe.cmd("SET").arg(format!("filler:{}", filler % 400)).arg(vec![b'x'; 2_000]).ignore();
        let (there,): (bool,) = pipe.cmd("EXISTS").arg(VERSION).query_async(&mut client).await.unwrap();
        if !there {
            break;
        }
    }
    let _: () = redis.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
}

/// An application that counts writes a number again that was there before.
#[tokio::test]
async fn the_applications_own_bump_moves_on_after_its_key_was_lost() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let config = gateway(&origin, &redis);
    let nodes = [config.start().await, config.start().await, config.start().await];
    for node in &nodes {
        link_is(node, true).await;
    }
    let newest = async || {
        let mut newest = 0;
        for node in &nodes {
            newest = newest.max(served(node).await);
        }
        newest
    };
    for round in 0..24_u8 {
        let old = newest().await;
        let loss = ["DEL", "PEXPIRE", "FLUSHALL", "evicted", "kept"][usize::from(round) % 5];
        match loss {
            "evicted" => evict(&redis).await,
            "DEL" => redis.run(&["DEL", VERSION]).await,
            "PEXPIRE" => redis.run(&["PEXPIRE", VERSION, "0"]).await,
            "FLUSHALL" => redis.run(&["FLUSHALL"]).await,
            _ => {}
        }
        application_bumps(&redis, round % 3 != 2, round % 2 * 5).await;
        for node in &nodes {
            until(&format!("round {round}, {loss}: the bump is seen"), SOON, || async {
                served(node).await > old
            })
            .await;
        }
        for node in nodes.iter().cycle().take(9) {
            assert!(served(node).await > old, "round {round}, {loss}: the old generation is back");
        }
    }
}

/// Two workers of an application count from the same value.
#[tokio::test]
async fn the_same_value_again_is_a_bump() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let config = gateway(&origin, &redis);
    let nodes = [config.start().await, config.start().await];
    for value in ["!\u{1}opaque", "1700000000000", "5", ""] {
        let _: () = redis.run(&["SET", VERSION, value]).await;
        let mut old = 0;
        for node in &nodes {
            old = old.max(served(node).await);
        }
        for node in &nodes {
            // A write is told from the one before it where the node has read that one.
            until(&format!("{value:?} is a bump"), SOON, || async {
                let _: () = redis.run(&["SET", VERSION, value]).await;
                served(node).await > old
            })
            .await;
        }
        // One bump, not one of each node after the other for ever.
        let settled: Vec<u8> = redis.run(&["GET", VERSION]).await;
        for node in nodes.iter().cycle().take(6) {
            served(node).await;
        }
        assert_eq!(redis.run::<Vec<u8>>(&["GET", VERSION]).await, settled, "{value:?}");
    }
}
