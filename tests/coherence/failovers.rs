//! Failovers of the store: while they last, the application goes on bumping where the sentinels send it, askers never stop,
//! and the age of the oldest answer that was provably stale is held.

use super::*;
use std::collections::BTreeMap;
use support::redis_server::try_run;

/// An application that bumps, askers of every node, and what they prove.
struct Proof {
    stop: Arc<AtomicBool>,
    /// When the bump of each number was acknowledged.
    acknowledged: Arc<Mutex<BTreeMap<u64, Instant>>>,
    /// The ages of stale answers: from the acknowledgement of what they lack to their request.
    stale: Arc<Mutex<Vec<Duration>>>,
    failures: Arc<Mutex<Vec<String>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Proof {
    fn begin(data: &Data, nodes: &[Gateway], sentinel: String) -> Self {
        let mut proof = Self {
            stop: Arc::default(),
            acknowledged: Arc::default(),
            stale: Arc::default(),
            failures: Arc::default(),
            tasks: Vec::new(),
        };
        proof.tasks = nodes.iter().map(|node| proof.asker(node)).collect();
        proof.tasks.push(proof.application(data.value.clone(), sentinel));
        proof
    }

    fn asker(&self, node: &Gateway) -> tokio::task::JoinHandle<()> {
        let request = client().get(node.url(PATH)).bearer_auth(token("acme", "ann"));
        let (stop, acknowledged) = (self.stop.clone(), self.acknowledged.clone());
        let (stale, failures) = (self.stale.clone(), self.failures.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let asked = Instant::now();
                match try_send(request.try_clone().unwrap()).await {
                    Ok(reply) if reply.status == 200 => {
                        let missing =
                            acknowledged.lock().unwrap().range(reply.seq() + 1..).next().map(|(_, at)| *at);
                        if let Some(at) = missing.filter(|at| *at < asked) {
                            stale.lock().unwrap().push(asked - at);
                        }
                    }
                    other => failures.lock().unwrap().push(format!("{other:?}")),
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
    }

    /// Bumps on the master that the sentinel names. A bump that got no answer proves nothing.
    fn application(&self, value: Arc<AtomicU64>, sentinel: String) -> tokio::task::JoinHandle<()> {
        let (stop, acknowledged) = (self.stop.clone(), self.acknowledged.clone());
        let named = |url: String| async move {
            let words: [&[u8]; 3] = [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", Sentinel::MASTER.as_bytes()];
            let (host, port): (String, u16) = try_run(&url, &words).await?;
            try_run::<u64>(&format!("redis://{host}:{port}"), &[b"INCR", VERSION.as_bytes()]).await
        };
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let next = value.fetch_add(1, Ordering::SeqCst) + 1;
                let bump = tokio::time::timeout(Duration::from_millis(300), named(sentinel.clone()));
                if bump.await.is_ok_and(|answer| answer.is_ok()) {
                    acknowledged.lock().unwrap().insert(next, Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    }

    async fn bumps(&self, count: usize) {
        let end = self.acknowledged.lock().unwrap().len() + count;
        until("the application bumps", 6 * SOON, || async { self.acknowledged.lock().unwrap().len() >= end })
            .await;
    }

    /// Ends it: nothing failed, and no answer was older than `bound`.
    async fn end(self, bound: Duration) {
        self.stop.store(true, Ordering::Relaxed);
        join_all(self.tasks).await;
        let failures = self.failures.lock().unwrap();
        assert!(failures.is_empty(), "{} failed, as {}", failures.len(), failures[0]);
        let stale = self.stale.lock().unwrap();
        let oldest = stale.iter().max().copied().unwrap_or_default();
        println!("{} stale answers, the oldest {oldest:?}", stale.len());
        assert!(oldest < bound, "{} stale answers, the oldest {oldest:?}", stale.len());
    }
}

/// What befalls the master.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fall {
    Planned,
    Killed,
    Hung,
}

/// Three nodes that know one of three sentinels; another one leads the failover, and one that they know of hangs.
async fn a_failover_is_followed(fall: Fall) {
    let (data, mut sentinel) = (Data::start().await, Sentinel::start_with(3).await);
    let config = data.gateway().redis(&sentinel.url());
    let nodes = [config.start().await, config.start().await, config.start().await];
    all_serve(&nodes, 1, SOON).await;
    let leader = sentinel.sentinels[2].url();
    let proof = Proof::begin(&data, &nodes, leader);
    proof.bumps(20).await;
    match fall {
        Fall::Planned => {
            // It needs no votes: one that hangs is no hindrance.
            sentinel.sentinels[1].pause();
            sentinel.plan_failover().await;
        }
        Fall::Killed => sentinel.master.kill(),
        Fall::Hung => sentinel.master.pause(),
    }
    sentinel.replica_is_master().await;
    proof.bumps(100).await;
    for node in &nodes {
        until("the node is linked and told of changes", SOON, || async {
            (node.metrics().await.value("tidegate_store_tracking", &[]) - 1.0).abs() < f64::EPSILON
        })
        .await;
    }
    proof.end(COHERENT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_leaves_no_node_at_the_old_master() {
    a_failover_is_followed(Fall::Planned).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_of_a_killed_master_leaves_no_old_answer() {
    a_failover_is_followed(Fall::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_of_a_master_that_hangs_leaves_no_old_answer() {
    a_failover_is_followed(Fall::Hung).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_link_is_made_to_a_server_that_the_sentinels_no_longer_name() {
    let (data, sentinel) = (Data::start().await, Sentinel::start().await);
    sentinel.plan_failover().await;
    sentinel.replica_is_master().await;
    // The old master calls itself one until the sentinel has made it a replica, which takes it some seconds.
    assert!(sentinel.master.run::<String>(&["INFO", "replication"]).await.contains("role:master"));
    let node = data.gateway().redis(&sentinel.url()).start().await;
    all_serve(std::slice::from_ref(&node), 1, SOON).await;
    let value = data.change();
    let _: () = sentinel.replica.run(&["SET", VERSION, "7"]).await;
    all_serve(&[node], value, COHERENT).await;
}
