//! An application that writes its version key ten thousand times a second: few requests to the origin, and the last
//! state everywhere.

use crate::live::*;
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

const VERSION: &str = "dash:ver:kpi:public";
const RULES: &str = "cache = { namespace = \"kpi\", ttl = \"60s\" }\nlive = { window = \"50ms\" }";
/// `window` of the route.
const WINDOW: Duration = Duration::from_millis(50);
/// Writes go in batches.
const BATCH: u64 = 100;
const PAUSE: Duration = Duration::from_millis(10);
const WATCHERS: usize = 50;

/// Writes so many batches, and changes what is true before each; the time of the last write.
async fn write(redis: &Redis, orders: &AtomicU64, batches: u64) -> Instant {
    let mut connection = redis.client().await;
    let first = now_ms() + 10_000;
    let mut pace = tokio::time::interval(PAUSE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for batch in 1..=batches {
        pace.tick().await;
        orders.store(batch, Ordering::SeqCst);
        let mut pipe = redis::pipe();
        for n in 0..BATCH {
            pipe.cmd("SET").arg(VERSION).arg(first + batch * BATCH + n).ignore();
        }
        pipe.query_async::<()>(&mut connection).await.unwrap();
    }
    Instant::now()
}

async fn many_writes(batches: u64, soon: Duration) {
    let ((origin, orders), redis) = (shop("/kpi").await, Redis::start().await);
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let node = Gateway::with(&origin).redis(&redis.url()).route("/kpi", RULES).start().await;
        until("the node is linked", SOON, || node.is_linked()).await;
        nodes.push(node);
    }
    let mut streams = Vec::new();
    for n in 0..WATCHERS {
        let mut stream = EventStream::open(nodes[n % 2].address(), "/kpi", &[]).await;
        stream.next().await;
        streams.push(tokio::spawn(async move {
            reaches(&mut stream, &json!({ "orders": batches })).await;
            Instant::now()
        }));
    }
    let (asked, begin) = (origin.count("/kpi"), Instant::now());
    let written = write(&redis, &orders, batches).await;
    let mut last = written;
    for stream in streams {
        last = last.max(stream.await.unwrap());
    }
    let (asked, took, late) = (origin.count("/kpi") - asked, last - begin, last - written);
    let mut refills = Vec::new();
    for node in &nodes {
        refills.push(node.metrics().await.value("tidegate_live_refills_total", &[("cause", "bump")]));
    }
    let told = format!("{refills:?} refills and {asked} requests in {took:?}, the last state {late:?} late");
    println!("{} writes: {told}", batches * BATCH);
    // One for each window of a node, the first one at once, and one after the last write.
    let most = (took.as_millis() / WINDOW.as_millis() + 2) as f64;
    assert!(refills.iter().all(|of_node| *of_node <= most), "{told}");
    // Nodes that read at the same time share a request, and none asks without a refill.
    assert!(asked as f64 <= refills.iter().sum(), "{told}");
    assert!(late < soon, "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_ten_thousand_writes_of_a_version_are_a_refill_for_each_window_of_a_node() {
    many_writes(100, SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "holds a time, for a release build (TIDEGATE_BIN) on a machine of its own"]
async fn load_ten_thousand_writes_a_second_for_five_seconds() {
    many_writes(500, Duration::from_millis(300)).await;
}
