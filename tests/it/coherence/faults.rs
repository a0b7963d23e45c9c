//! Coherence: a bump reaches every node at once, whoever makes it and whatever happens to the store.

mod clusters;
mod doubt;
mod failovers;
mod proof;

use crate::support::{
    client::{client, try_send},
    gateway::{token, GatewayBuilder, KPI},
    *,
};
use futures_util::future::join_all;
use std::{
    sync::{
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        Arc, Mutex,
    },
    time::{Duration, Instant},
};

const PATH: &str = "/api/widgets/kpi";
const VERSION: &str = "dash:ver:kpi:acme";
/// The time until all nodes must be coherent: after a change, after a lost connection, after the store's return.
const COHERENT: Duration = Duration::from_secs(1);

/// An origin whose answer is a number that the test sets.
struct Data {
    origin: TestOrigin,
    value: Arc<AtomicU64>,
}

impl Data {
    async fn start() -> Self {
        let (origin, value) = (TestOrigin::start().await, Arc::new(AtomicU64::new(1)));
        let shown = value.clone();
        origin.on(PATH, move |_| {
            Answer::json(&serde_json::json!({ "seq": shown.load(Ordering::SeqCst) })).gated()
        });
        Self { origin, value }
    }

    /// The next number.
    fn change(&self) -> u64 {
        self.value.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn gateway(&self) -> GatewayBuilder {
        Gateway::with(&self.origin).route(PATH, KPI).event("order_created", &["kpi"])
    }
}

async fn served(node: &Gateway) -> u64 {
    node.get_as("acme", PATH).await.ok().seq()
}

/// Waits until all nodes serve at least this number, and tells how long that took.
async fn all_serve(nodes: &[Gateway], value: u64, deadline: Duration) -> Duration {
    let start = Instant::now();
    for (index, node) in nodes.iter().enumerate() {
        until(&format!("node {index} serves {value}"), deadline, || async { served(node).await >= value })
            .await;
    }
    start.elapsed()
}

/// Askers who never stop, one for each node; a status other than 200 is a failure.
struct Load {
    stop: Arc<AtomicBool>,
    taken: Arc<Mutex<Vec<Duration>>>,
    failures: Arc<Mutex<Vec<String>>>,
    asked: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn on(nodes: &[Gateway]) -> Self {
        let (stop, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (failures, asked) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let tasks = nodes
            .iter()
            .map(|node| {
                let request = client().get(node.url(PATH)).bearer_auth(token("acme", "ann"));
                let (stop, taken, failures, asked) =
                    (stop.clone(), taken.clone(), failures.clone(), asked.clone());
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let start = Instant::now();
                        match try_send(request.try_clone().unwrap()).await {
                            Ok(reply) if reply.status == 200 => {
                                if reply.is_hit() {
                                    taken.lock().unwrap().push(start.elapsed());
                                }
                            }
                            other => failures.lock().unwrap().push(format!("{other:?}")),
                        }
                        asked.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                })
            })
            .collect();
        Self { stop, taken, failures, asked, tasks }
    }

    /// Lets it run for so many more requests, and prints the hits' latency in this phase.
    async fn phase(&self, name: &str, requests: usize) {
        let end = self.asked.load(Ordering::Relaxed) + requests;
        until(name, 6 * SOON, || async { self.asked.load(Ordering::Relaxed) >= end }).await;
        let mut taken = std::mem::take(&mut *self.taken.lock().unwrap());
        if !taken.is_empty() {
            let hits = taken.len();
            println!(
                "{name}: {hits} hits, p50 {:?}, p99 {:?}",
                quantile(&mut taken, 0.5),
                quantile(&mut taken, 0.99)
            );
        }
    }

    /// Ends it, and holds that nothing failed.
    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        join_all(self.tasks).await;
        let failures = self.failures.lock().unwrap();
        assert!(failures.is_empty(), "{} failed, as {}", failures.len(), failures[0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_an_event_on_one_node_reaches_the_others() {
    const BUMPS: usize = 500;
    let (data, redis) = (Data::start().await, Redis::start().await);
    let config = data.gateway().redis(&redis.url());
    let nodes = [config.start().await, config.start().await, config.start().await];
    all_serve(&nodes, 1, SOON).await;
    let load = Load::on(&nodes);
    let mut lags = Vec::new();
    for round in 0..BUMPS {
        let value = data.change();
        nodes[round % 3].bump("acme").await;
        let acknowledged = Instant::now();
        // The last old answer that a node gave, counted to its arrival.
        let lag = |node| async move {
            let mut last = Duration::ZERO;
            while served(node).await < value {
                last = acknowledged.elapsed();
                assert!(last < SOON, "the old generation for {last:?}");
            }
            last
        };
        lags.push(join_all(nodes.iter().map(lag)).await.into_iter().max().unwrap());
    }
    load.end().await;
    let old = lags.iter().filter(|lag| !lag.is_zero()).count();
    println!(
        "the old generation after an acknowledged bump, {BUMPS} bumps: seen in {old}, p50 {:?}, p99 {:?}, worst {:?}",
        quantile(&mut lags, 0.5),
        quantile(&mut lags, 0.99),
        quantile(&mut lags, 1.0)
    );
    // Clients, origin and nodes share this machine: what is required holds all the same.
    assert!(quantile(&mut lags, 0.99) <= Duration::from_millis(20));
}

#[tokio::test]
async fn what_a_bump_overtakes_is_never_served_again() {
    let (data, redis) = (Data::start().await, Redis::start().await);
    let config = data.gateway().redis(&redis.url());
    let nodes = [config.start().await, config.start().await];
    data.origin.hold();
    let ask =
        |node: &Gateway| tokio::spawn(send(node.request("GET", PATH).bearer_auth(token("acme", "ann"))));
    let overtaken = ask(&nodes[0]);
    until("the first fill is at the origin", SOON, || async { data.origin.held() == 1 }).await;
    let value = data.change();
    nodes[1].bump("acme").await;
    let fresh = eventually("a second fill is at the origin", SOON, || async {
        // The push to this node may still be under way: then this joins the first flight.
        let fresh = ask(&nodes[0]);
        let sent = Instant::now();
        while sent.elapsed() < Duration::from_millis(100) {
            if data.origin.held() >= 2 {
                return Some(fresh);
            }
            tokio::task::yield_now().await;
        }
        None
    })
    .await;
    data.origin.release();
    overtaken.await.unwrap().ok();
    assert_eq!(fresh.await.unwrap().ok().seq(), value);
    for node in &nodes {
        assert_eq!(served(node).await, value);
    }
}

#[tokio::test]
async fn the_application_bumps_with_its_own_cache_set() {
    let (data, redis) = (Data::start().await, Redis::start().await);
    let config = data.gateway().redis(&redis.url());
    let nodes = [config.start().await, config.start().await];
    let app = |command: &'static str| {
        let url = redis.url();
        async move { crate::support::python::run("bump.py", &[&url, "dash:", command, "kpi", "acme"]).await }
    };
    for command in ["count", "bump", "count", "bump"] {
        all_serve(&nodes, data.value.load(Ordering::SeqCst), SOON).await;
        let value = data.change();
        app(command).await;
        all_serve(&nodes, value, COHERENT).await;
    }
    // Tidegate's own bump on top of a pickle, read by the application.
    let (value, before) = (data.change(), now_ms());
    nodes[0].bump("acme").await;
    all_serve(&nodes, value, COHERENT).await;
    let read: u64 = app("get").await.parse().unwrap();
    assert!(read >= before, "{read} < {before}");
    // And the application's on top of Tidegate's.
    let value = data.change();
    assert_eq!(app("count").await, (read + 1).to_string());
    all_serve(&nodes, value, COHERENT).await;
}

#[tokio::test]
async fn any_change_of_bytes_is_a_new_version() {
    let (data, redis) = (Data::start().await, Redis::start().await);
    let nodes = [data.gateway().redis(&redis.url()).start().await];
    for version in ["7", "07", "!\u{1}pickle", "", "7:8", "x y\r\n", &"9".repeat(300)] {
        let value = data.change();
        let _: () = redis.run(&["SET", VERSION, version]).await;
        all_serve(&nodes, value, COHERENT).await;
        assert!(nodes[0].get_as("acme", PATH).await.ok().is_hit(), "{version:?}");
    }
    // A version that goes by itself means 1.
    let _: () = redis.run(&["SET", VERSION, "8"]).await;
    all_serve(&nodes, data.value.load(Ordering::SeqCst), COHERENT).await;
    let value = data.change();
    let _: () = redis.run(&["PEXPIRE", VERSION, "100"]).await;
    all_serve(&nodes, value, SOON).await;
}

#[tokio::test]
async fn a_version_never_goes_backwards() {
    let (data, redis) = (Data::start().await, Redis::start().await);
    let gateway = data.gateway().redis(&redis.url()).start().await;
    let bumped = || async {
        gateway.bump("acme").await;
        redis.run::<u64>(&["GET", VERSION]).await
    };
    let before = now_ms();
    for version in ["5", "x", "!pickle", "-3"] {
        let _: () = redis.run(&["SET", VERSION, version]).await;
        assert!(bumped().await >= before, "{version}");
    }
    let first = bumped().await;
    assert!(bumped().await > first);
    let _: () = redis.run(&["FLUSHALL"]).await;
    assert!(bumped().await > first);
    let ahead = now_ms() + 1_000_000;
    let pickled = format!("!V{ahead}\np0\n.");
    for (version, number) in [(ahead.to_string(), ahead), (pickled, ahead), (format!("0{ahead}"), ahead)] {
        let _: () = redis.run(&["SET", VERSION, &version]).await;
        assert!(bumped().await > number, "{version:?}");
    }
    // At once: a version that is lost is written forward by the gateway.
    let replace = "redis.call('DEL', KEYS[1]) return redis.call('HSET', KEYS[1], 'a', 'b')";
    let _: () = redis.run(&["EVAL", replace, "1", VERSION]).await;
    assert!(bumped().await > ahead, "a key of another type");
}

/// Redis counts up to 2⁶³ - 1.
#[tokio::test]
async fn a_version_that_can_be_counted_no_further_still_moves() {
    let (data, redis) = (Data::start().await, Redis::start().await);
    let config = data.gateway().redis(&redis.url());
    let nodes = [config.start().await, config.start().await];
    for number in [i64::MAX as u64 - 1, i64::MAX as u64, u64::MAX - 1, u64::MAX] {
        for form in [number.to_string(), format!("!V{number}\np0\n.")] {
            let value = data.change();
            let _: () = redis.run(&["SET", VERSION, &form]).await;
            all_serve(&nodes, value, COHERENT).await;
            for bump in 0..4 {
                let value = data.change();
                nodes[bump % 2].bump("acme").await;
                all_serve(&nodes, value, COHERENT).await;
            }
        }
    }
}

#[tokio::test]
async fn flushall_is_noticed() {
    let (data, redis) = (Data::start().await, Redis::start().await);
    let config = data.gateway().redis(&redis.url());
    let nodes = [config.start().await, config.start().await];
    let value = data.change();
    nodes[0].bump("acme").await;
    all_serve(&nodes, value, SOON).await;
    let value = data.change();
    let _: () = redis.run(&["FLUSHALL"]).await;
    all_serve(&nodes, value, COHERENT).await;
    let value = data.change();
    nodes[1].bump("acme").await;
    all_serve(&nodes, value, COHERENT).await;
}

#[tokio::test]
async fn a_lost_connection_hides_no_bump() {
    let (data, redis) = (Data::start().await, Redis::start().await);
    let config = data.gateway().redis(&redis.url());
    let nodes = [config.start().await, config.start().await];
    all_serve(&nodes, 1, SOON).await;
    let mut slowest = Duration::ZERO;
    for round in 0..10 {
        let kind = ["normal", "pubsub"][round % 2];
        let value = data.change();
        let mut connection = redis.client().await;
        // In one breath: nobody has reconnected when the version moves.
        let _: redis::Value = redis::pipe()
            .cmd("CLIENT")
            .arg(&["KILL", "TYPE", kind, "SKIPME", "yes"])
            .cmd("SET")
            .arg(VERSION)
            .arg(1000 + round)
            .query_async(&mut connection)
            .await
            .unwrap();
        slowest = slowest.max(all_serve(&nodes, value, COHERENT).await);
    }
    println!("coherent after a lost connection within {slowest:?}");
    // Pushes come again: the next bump needs no loss to be noticed.
    for node in &nodes {
        until("tracking is back", SOON, || async {
            (node.metrics().await.value("tidegate_store_tracking", &[]) - 1.0).abs() < f64::EPSILON
        })
        .await;
    }
    let value = data.change();
    let _: () = redis.run(&["SET", VERSION, "5000"]).await;
    all_serve(&nodes, value, COHERENT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_a_killed_store_costs_no_answer() {
    let (data, mut redis) = (Data::start().await, Redis::start().await);
    let config = data.gateway().redis(&redis.url());
    let mut nodes = [config.start().await, config.start().await];
    all_serve(&nodes, 1, SOON).await;
    let load = Load::on(&nodes);
    load.phase("with the store", 1500).await;
    redis.kill();
    load.phase("the store killed", 1500).await;
    redis.restart().await;
    let value = data.change();
    let _: () = redis.run(&["SET", VERSION, "77"]).await;
    let took = all_serve(&nodes, value, COHERENT).await;
    println!("coherent {took:?} after the store's return");
    load.phase("the store back", 1500).await;
    load.end().await;
    for node in &mut nodes {
        node.assert_sound().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_a_paused_store_costs_no_answer() {
    let (data, redis) = (Data::start().await, Redis::start().await);
    let config = data.gateway().redis(&redis.url());
    let mut nodes = [config.start().await, config.start().await];
    all_serve(&nodes, 1, SOON).await;
    let load = Load::on(&nodes);
    load.phase("with the store", 1500).await;
    redis.pause();
    load.phase("the store paused", 1500).await;
    for node in &nodes {
        until("the silence is noticed", 3 * SOON, || async {
            node.metrics().await.value("tidegate_store_up", &[]).abs() < f64::EPSILON
        })
        .await;
    }
    // Cold keys are filled without it.
    for node in &nodes {
        node.get_as("globex", PATH).await.ok();
    }
    redis.resume();
    let value = data.change();
    let _: () = redis.run(&["SET", VERSION, "77"]).await;
    let took = all_serve(&nodes, value, COHERENT).await;
    println!("coherent {took:?} after the store's return");
    load.phase("the store back", 1500).await;
    load.end().await;
    for node in &mut nodes {
        node.assert_sound().await;
    }
}

#[tokio::test]
async fn a_bump_that_the_store_missed_is_made_up_for() {
    let (data, mut redis) = (Data::start().await, Redis::start().await);
    let config = data.gateway().redis(&redis.url());
    let nodes = [config.start().await, config.start().await];
    all_serve(&nodes, 1, SOON).await;
    redis.kill();
    let value = data.change();
    let reply = nodes[0].event("order_created", &serde_json::json!({"tenant": "acme"})).await;
    assert_eq!(reply.status, 503, "{reply:?}");
    assert_eq!(served(&nodes[0]).await, value, "the node that took the event serves the new generation");
    redis.restart().await;
    // Only the other node is asked: the one that owes the bump pays without being reminded.
    all_serve(&nodes[1..], value, SOON).await;
}

#[tokio::test]
async fn a_gateway_starts_without_its_store_and_finds_it_later() {
    let (data, mut redis) = (Data::start().await, Redis::start().await);
    redis.kill();
    let nodes = [data.gateway().redis(&redis.url()).start().await];
    all_serve(&nodes, 1, SOON).await;
    redis.restart().await;
    until("the store is found", SOON, || async {
        (nodes[0].metrics().await.value("tidegate_store_tracking", &[]) - 1.0).abs() < f64::EPSILON
    })
    .await;
    let value = data.change();
    let _: () = redis.run(&["SET", VERSION, "7"]).await;
    all_serve(&nodes, value, COHERENT).await;
}

#[tokio::test]
async fn a_new_node_serves_the_previous_generation_of_a_dead_origin() {
    let (mut data, redis) = (Data::start().await, Redis::start().await);
    let config = data.gateway().redis(&redis.url());
    let old = config.start().await;
    assert_eq!(served(&old).await, 1);
    until("the store has the answer", SOON, || async {
        redis.keys().await.iter().any(|key| key.starts_with("dash:kpi:acme:"))
    })
    .await;
    old.bump("acme").await;
    drop(old);
    data.origin.kill();
    let new = config.start().await;
    let reply = new.get_as("acme", PATH).await.ok();
    assert_eq!(reply.seq(), 1);
    assert!(reply.cache_status().contains("stale"), "{reply:?}");
    let other = new.get_as("globex", PATH).await;
    assert!([502, 503].contains(&other.status.as_u16()), "{other:?}");
    // The origin's return ends it.
    let value = data.change();
    data.origin.restart().await;
    all_serve(&[new], value, 2 * SOON).await;
}

/// By the rights of each row: changes of an application within `poll`, those of a node at once, where it may tell.
#[tokio::test]
async fn where_tracking_is_refused_versions_are_read_after_a_while() {
    let (data, redis) = (Data::start().await, Redis::start().await);
    for (rights, poll, tells) in [
        ("-client|tracking", "0s", "with each request"),
        ("-client|tracking", "300ms", "within 300ms, one that a node makes at once"),
        ("-client|tracking", "60s", "within 60s, one that a node makes at once"),
        ("-client|tracking -subscribe", "300ms", "SUBSCRIBE is refused as well"),
    ] {
        let all = format!("ACL SETUSER hosted on >word resetkeys ~* resetchannels &* +@all {rights}");
        let _: () = redis.run(&all.split(' ').collect::<Vec<_>>()).await;
        let url = format!("redis://hosted:word@{}", redis.address());
        let config = data.gateway().redis(&url).store(&format!("poll = {poll:?}"));
        let nodes = [config.start().await, config.start().await];
        all_serve(&nodes, data.value.load(Ordering::SeqCst), SOON).await;
        assert!(nodes[0].get_as("acme", PATH).await.ok().is_hit());
        assert!(nodes[0].metrics().await.value("tidegate_store_tracking", &[]).abs() < f64::EPSILON);
        for node in &nodes {
            assert!(node.output().contains(tells), "{}", node.output());
            let ready = send(node.client().get(node.admin_url("/readyz"))).await.ok();
            assert!(ready.text().contains("the store reports no changes: redis at "), "{}", ready.text());
            assert!(ready.text().contains(tells), "{}", ready.text());
        }
        let reads = async || {
            let metrics = nodes[0].metrics().await;
            metrics.value("tidegate_store_calls_total", &[("call", "read_version")])
        };
        let before = reads().await;
        for _ in 0..20 {
            served(&nodes[0]).await;
        }
        let read = reads().await - before;
        match poll {
            "0s" => assert!(read >= 20.0, "{read}"),
            "60s" => assert!(read <= 1.0, "{read}"),
            _ => {}
        }
        if poll != "60s" {
            let value = data.change();
            let _: () = redis.run(&["SET", VERSION, &(now_ms() + 1_000).to_string()]).await;
            for node in &nodes {
                match poll {
                    "0s" => assert_eq!(served(node).await, value, "no push is needed, and no time"),
                    _ => until("it is seen", SOON, || async { served(node).await >= value }).await,
                }
            }
        }
        let value = data.change();
        nodes[0].bump("acme").await;
        all_serve(&nodes, value, SOON).await;
    }
}

#[tokio::test]
async fn where_a_cluster_refuses_tracking_nodes_tell_each_other() {
    let (data, cluster) = (Data::start().await, Cluster::start().await);
    let rights = ["ACL", "SETUSER", "default", "-client|tracking"];
    for node in &cluster.nodes {
        let _: () = node.run(&rights).await;
    }
    let config = data.gateway().cluster(&cluster.urls()).store("poll = \"60s\"");
    let nodes = [config.start().await, config.start().await];
    for round in 0..4 {
        all_serve(&nodes, data.value.load(Ordering::SeqCst), SOON).await;
        let value = data.change();
        nodes[round % 2].bump("acme").await;
        all_serve(&nodes, value, COHERENT).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_of_the_sentinels_master_is_followed() {
    let (data, mut sentinel) = (Data::start().await, Sentinel::start().await);
    let config = data.gateway().redis(&sentinel.url());
    let nodes = [config.start().await, config.start().await];
    let value = data.change();
    nodes[0].bump("acme").await;
    all_serve(&nodes, value, SOON).await;
    let load = Load::on(&nodes);
    sentinel.failover().await;
    let value = data.change();
    until("a bump is recorded on the new master", 2 * SOON, || async {
        nodes[0].event("order_created", &serde_json::json!({"tenant": "acme"})).await.status.is_success()
    })
    .await;
    all_serve(&nodes, value, SOON).await;
    until("pushes come from the new master", SOON, || async {
        (nodes[1].metrics().await.value("tidegate_store_tracking", &[]) - 1.0).abs() < f64::EPSILON
    })
    .await;
    let value = data.change();
    let _: () = sentinel.replica.run(&["SET", VERSION, "!app"]).await;
    all_serve(&nodes, value, COHERENT).await;
    load.end().await;
}

#[tokio::test]
async fn a_cluster_is_tracked_on_each_of_its_masters() {
    let (data, cluster) = (Data::start().await, Cluster::start().await);
    let config = data.gateway().cluster(&cluster.urls());
    let nodes = [config.start().await, config.start().await];
    // Twelve tenants lie on all three masters.
    for tenant in (0..12).map(|n| format!("tenant{n}")) {
        for node in &nodes {
            node.get_as(&tenant, PATH).await.ok();
        }
        let value = data.change();
        nodes[0].bump(&tenant).await;
        for node in &nodes {
            until("the node serves the new generation", COHERENT, || async {
                node.get_as(&tenant, PATH).await.ok().seq() >= value
            })
            .await;
        }
        assert!(cluster.find(&format!("dash:ver:kpi:{tenant}")).await.is_some());
    }
    for node in &cluster.nodes {
        assert!(
            node.keys().await.iter().any(|key| key.starts_with("dash:ver:kpi:")),
            "no version on one master"
        );
    }
}
