//! Clients that are slower than the changes, and changes that are faster than anyone needs.

use crate::live::*;
use futures_util::future::join_all;
use std::time::{Duration, Instant};

const STATE_BYTES: usize = 64 * 1024;
const STATES: u64 = 200;

/// A state of 64 KiB of text: its number, and what doesn't compress.
fn state(number: u64) -> String {
    format!("{number:08}{}", hex(&noise(STATE_BYTES / 2, number)))
}

fn number(event: &crate::support::events::Event) -> u64 {
    event.data[..8].parse().unwrap()
}

#[tokio::test]
async fn clients_that_read_nothing_cost_no_memory_and_get_the_newest_state_when_they_read() {
    let (origin, current) = (TestOrigin::start().await, Arc::new(AtomicU64::new(0)));
    let shown = current.clone();
    origin.on("/kpi", move |_| Answer::new("text/plain", state(shown.load(Ordering::SeqCst))));
    let rules = "cache = { namespace = \"kpi\", ttl = \"60s\" }\nlive = { window = \"1ms\", ping = \"1s\" }";
    let gateway = Gateway::with(&origin)
        .store("memory = \"2MiB\"")
        .setting("send_timeout = \"60s\"")
        .route("/kpi", rules)
        .event("order_created", &["kpi"])
        .start()
        .await;
    let mut quick = EventStream::open(gateway.address(), "/kpi", &[]).await;
    quick.next().await;
    let accept = [("Accept", "text/event-stream")];
    let mut slow = Vec::new();
    for _ in 0..10 {
        slow.push(Transfer::ask_narrowly_with(gateway.address(), "/kpi", &accept).await);
    }
    until_watched_by(&gateway, "kpi", 11).await;
    let mut before = 0;
    for n in 1..=STATES {
        current.store(n, Ordering::SeqCst);
        gateway.bump("public").await;
        while number(&quick.next().await) < n {}
        if n == STATES / 4 {
            before = gateway.memory().0;
        }
    }
    let grown = gateway.memory().0.saturating_sub(before);
    // The states that were skipped are 9 MiB, once.
    assert!(grown < 6 << 20, "memory grew by {grown} bytes");
    for transfer in slow {
        let mut stream = EventStream::of(transfer).await;
        let (mut told, mut last) = (0, 0);
        while last < STATES {
            let next = number(&stream.next().await);
            assert!(told == 0 || next > last, "{next} after {last}");
            (told, last) = (told + 1, next);
        }
        // One in its own buffer and the kernel's, one on its way to them, and the newest.
        assert!(told <= 3, "{told} of {STATES} states were kept for it");
    }
    let skipped = gateway.metrics().await.value("tidegate_live_skipped_states_total", &[]);
    assert!(skipped >= 1_000.0, "{skipped}");
}

#[tokio::test]
async fn a_burst_of_bumps_is_few_requests_to_the_origin_and_ends_in_the_last_state() {
    let (origin, orders) = shop("/kpi").await;
    let gateway =
        Gateway::with(&origin).route("/kpi", LIVE_KPI).event("order_created", &["kpi"]).start().await;
    let mut stream = EventStream::open(gateway.address(), "/kpi", &[]).await;
    stream.next().await;
    for changes in [true, false] {
        let (before, began) = (origin.count("/kpi"), Instant::now());
        for _ in 0..50 {
            if changes {
                orders.fetch_add(1, Ordering::SeqCst);
            }
            join_all((0..10).map(|_| gateway.bump("public"))).await;
        }
        // Behind the last bump there may be one more read, and the last change is told.
        let mut bumped = began.elapsed();
        if changes {
            reaches(&mut stream, &json!({ "orders": 50 })).await;
            bumped = began.elapsed();
        }
        let asked = origin.count("/kpi") - before;
        let most = bumped.as_millis() / 50 + 3;
        assert!(asked as u128 <= most, "{asked} requests in {bumped:?}, changes: {changes}");
    }
    orders.store(99, Ordering::SeqCst);
    gateway.bump("public").await;
    tokio::time::timeout(Duration::from_secs(5), reaches(&mut stream, &json!({ "orders": 99 })))
        .await
        .unwrap();
}
