//! Watching entries: streams of events, long-polling, and what ends them.

mod chaos;
mod coherence;
mod eager;
mod entries;
mod limits;
mod long_poll;
mod pages;
mod protocols;
mod robustness;
mod watching;

use crate::support::{events::EventStream, *};
use serde_json::{json, Value};
use std::sync::{
    atomic::{AtomicU64, Ordering},
    Arc,
};

const LIVE_KPI: &str = "cache = { namespace = \"kpi\", ttl = \"60s\" }\nlive = true";

/// An origin whose answer is the number of orders, and the number.
async fn shop(path: &str) -> (TestOrigin, Arc<AtomicU64>) {
    let (origin, orders) = (TestOrigin::start().await, Arc::new(AtomicU64::new(0)));
    let counted = orders.clone();
    origin.on(path, move |_| Answer::json(&json!({ "orders": counted.load(Ordering::SeqCst) })));
    (origin, orders)
}

/// Reads states until this one comes. What comes before may be an older one, or a notice.
async fn reaches(stream: &mut EventStream, state: &Value) {
    loop {
        let event = stream.next().await;
        if event.name == "metric_update" && event.json() == *state {
            return;
        }
    }
}

/// Waits until a route has so many streams and requests that wait.
async fn until_watched_by(gateway: &Gateway, route: &str, watchers: u32) {
    let watchers = f64::from(watchers);
    until(&format!("{watchers} watch {route}"), 2 * SOON, || async {
        let metrics = gateway.metrics().await;
        (metrics.value("tidegate_live_watchers", &[("route", route)]) - watchers).abs() < f64::EPSILON
    })
    .await;
}

/// The number of streams that ended for this reason.
async fn ended(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metrics().await.value("tidegate_live_streams_ended_total", &[("reason", reason)])
}

/// The seed of what is random: `LIVE_SEED`, else another one each time. A test that fails shows it.
fn seed() -> u64 {
    let told = std::env::var("LIVE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = told.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!("again: LIVE_SEED={seed}");
    seed
}
