//! Failovers of the store: while they last, the application goes on bumping where the sentinels send it, askers never stop,
//! and the age of the oldest answer that was provably stale is held.

use super::{proof::Proof, *};
use support::redis_server::try_run;

/// Bumps on the master that this sentinel names.
async fn bump_by(sentinel: String) -> bool {
    let words: [&[u8]; 3] = [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", Sentinel::MASTER.as_bytes()];
    let Ok((host, port)) = try_run::<(String, u16)>(&sentinel, &words).await else { return false };
    try_run::<u64>(&format!("redis://{host}:{port}"), &[b"INCR", VERSION.as_bytes()]).await.is_ok()
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
    let mut proof = Proof::begin(&data, &nodes, &["acme".to_owned()]);
    proof.bump("acme", move || bump_by(leader.clone()));
    proof.bumps("acme", 20).await;
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
    proof.bumps("acme", 100).await;
    for node in &nodes {
        until("the node is linked and told of changes", SOON, || async {
            (node.metrics().await.value("tidegate_store_tracking", &[]) - 1.0).abs() < f64::EPSILON
        })
        .await;
    }
    proof.end(|_| COHERENT).await;
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
