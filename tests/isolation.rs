//! Nobody ever gets another's answer: not under load, not across bumps, not with a memory that always overflows.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a failure is a panic")]

mod support;

use std::{
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc,
    },
    time::{Duration, Instant},
};
use support::{client::client, gateway::token, *};

const PATH: &str = "/api/widgets/kpi";
const ROUTE: &str = r#"cache = { namespace = "kpi", scope = "tenant", ttl = "500ms", stale_while_revalidate = "1s", stale_if_error = "10m", query = ["p"] }"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_two_tenants_and_the_public_never_meet() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    // Some thirty entries fit: 200 parameters of three askers push each other out all the time.
    origin.on(PATH, |seen| {
        let tenant = seen.header("x-tenant").unwrap_or("none");
        let query = seen.query.as_deref().unwrap_or("none");
        Answer::new("application/json", format!("{tenant} {query} {}", tenant.repeat(300)))
    });
    let config = Gateway::with(&origin)
        .redis(&redis.url())
        .store("memory = \"64KiB\"")
        .route(PATH, ROUTE)
        .event("order_created", &["kpi"]);
    let mut nodes = [config.start().await, config.start().await];
    let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let http = client();
    let mut tasks = Vec::new();
    for asker in 0..24_usize {
        let tenant = ["acme", "globex", "public"][asker % 3];
        let bearer = (tenant != "public").then(|| token(tenant, "ann"));
        let url = nodes[asker % 2].url(PATH);
        let (http, stop, answers) = (http.clone(), stop.clone(), answers.clone());
        tasks.push(tokio::spawn(async move {
            let mut turn = asker;
            while !stop.load(Ordering::Relaxed) {
                turn = (turn * 31 + 17) % 1009;
                let query = format!("p={}", turn % 200);
                let mut request = http
                    .get(format!("{url}?{query}"))
                    .header("accept-encoding", ["", "gzip", "br"][turn % 3]);
                if let Some(bearer) = &bearer {
                    request = request.bearer_auth(bearer);
                }
                let reply = send(request).await.ok();
                let expected = format!("{tenant} {query} {}", tenant.repeat(300));
                let got = reply.decoded();
                assert!(
                    got == expected.as_bytes(),
                    "{tenant} {query} got {:?} with {:?}",
                    String::from_utf8_lossy(&got[..got.len().min(60)]),
                    reply.headers
                );
                answers.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let end = Instant::now() + Duration::from_secs(10);
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    let mut bumps = 0;
    while Instant::now() < end {
        pace.tick().await;
        nodes[bumps % 2].bump(["acme", "globex", "public"][bumps % 3]).await;
        bumps += 1;
        assert!(tasks.iter().all(|task| !task.is_finished()), "an asker has failed");
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    let evictions = nodes[0].metrics().await.value("tidegate_memory_evictions_total", &[]);
    println!("{} answers, {bumps} bumps, {evictions} evictions on one node", answers.load(Ordering::Relaxed));
    assert!(answers.load(Ordering::Relaxed) > 1000);
    assert!(evictions > 0.0, "the memory was never full: the test shows less than it should");
    for node in &mut nodes {
        node.assert_sound().await;
    }
}
