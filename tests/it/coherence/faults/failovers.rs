//! Failovers of the store: while they last, the application goes on bumping where the sentinels send it, askers never stop,
//! and the age of the oldest answer that was provably stale is held.

use super::{proof::Proof, *};
use crate::support::redis_server::try_run;

/// Bumps on the master that this sentinel names, as a user of both, where there is one.
async fn bump_by(sentinel: String) -> bool {
    let user = sentinel.split_once("://").and_then(|(_, rest)| rest.split_once('@'));
    let user = user.map_or(String::new(), |(user, _)| format!("{user}@"));
    let words: [&[u8]; 3] = [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", Sentinel::MASTER.as_bytes()];
    let Ok((host, port)) = try_run::<(String, u16)>(&sentinel, &words).await else { return false };
    try_run::<u64>(&format!("redis://{user}{host}:{port}"), &[b"INCR", VERSION.as_bytes()]).await.is_ok()
}

/// A fault of the master.
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

/// A network with two sides: the first master, its sentinel and the nodes; and the replica with two sentinels. They reach
/// each other as users who can be shut out. Whoever is shut out is anybody (`default`), who is shut out as well, but where
/// the nodes are anybody: there, nobody is told of a new master.
struct Sides {
    servers: Sentinel,
}

impl Sides {
    /// The users of the sentinels of each side, of servers and of sentinels, and one who is never shut out.
    const HERE: &str = "here";
    const THERE: &str = "there";
    const ALWAYS: &str = "always";

    async fn start() -> Self {
        let servers = Sentinel::start_with(3).await;
        let all = [&servers.master, &servers.replica].into_iter().chain(&servers.sentinels);
        for server in all {
            for user in [Self::HERE, Self::THERE, Self::ALWAYS] {
                let _: () = server.run(&["ACL", "SETUSER", user, "on", ">word", "~*", "&*", "+@all"]).await;
            }
        }
        for (index, sentinel) in servers.sentinels.iter().enumerate() {
            let user = if index == 0 { Self::HERE } else { Self::THERE };
            for (option, value) in [("auth-pass", "word"), ("auth-user", user)] {
                let _: () = sentinel.run(&["SENTINEL", "SET", Sentinel::MASTER, option, value]).await;
            }
            for (option, value) in [("sentinel-pass", "word"), ("sentinel-user", user)] {
                let _: () = sentinel.run(&["SENTINEL", "CONFIG", "SET", option, value]).await;
            }
        }
        let _: () = servers.sentinels[0].run(&["ACL", "SETUSER", "default", "-publish"]).await;
        let sides = Self { servers };
        for sentinel in &sides.servers.sentinels {
            for (what, count) in [("REPLICAS", 1), ("SENTINELS", 2)] {
                until("the sentinel reaches the others as its user", 6 * SOON, || async {
                    let listed: Vec<std::collections::HashMap<String, String>> =
                        sentinel.run(&["SENTINEL", what, Sentinel::MASTER]).await;
                    let well =
                        |flags: &String| ["down", "disconnected"].iter().all(|bad| !flags.contains(bad));
                    listed.iter().filter(|one| one.get("flags").is_some_and(well)).count() == count
                })
                .await;
            }
        }
        sides
    }

    /// The URL for the nodes, which are never shut out of the master.
    fn url(&self) -> String {
        self.servers.url().replace("://", &format!("://{}:word@", Self::ALWAYS))
    }

    /// Says who may reach a server, and ends the connections of those who may not.
    async fn admit(server: &Redis, user: &str, is_admitted: bool) {
        let url = format!("redis://{}:word@{}", Self::ALWAYS, server.address());
        let state: &[u8] = if is_admitted { b"on" } else { b"off" };
        try_run::<()>(&url, &[b"ACL", b"SETUSER", user.as_bytes(), state]).await.unwrap();
        if !is_admitted {
            try_run::<u64>(&url, &[b"CLIENT", b"KILL", b"USER", user.as_bytes()]).await.unwrap();
        }
    }

    /// Parts the two sides, or joins them.
    async fn join(&self, are_joined: bool) {
        let Sentinel { master, replica, sentinels } = &self.servers;
        for (server, users) in [
            (&sentinels[1], &[Self::HERE, "default"][..]),
            (&sentinels[2], &[Self::HERE, "default"]),
            (&sentinels[0], &[Self::THERE]),
            (master, &[Self::THERE, "default"]),
            (replica, &[Self::HERE, "default"]),
        ] {
            for user in users {
                Self::admit(server, user, are_joined).await;
            }
        }
    }

    /// Where the application is, on the other side, and asks for the master.
    fn there(&self) -> String {
        format!("redis://{}:word@{}", Self::ALWAYS, self.servers.sentinels[1].address())
    }

    async fn is_failed_over(&self) {
        let (there, replica) = (self.there(), self.servers.replica.address().port());
        until("the other side has a master of its own", 8 * SOON, || async {
            let words: [&[u8]; 3] = [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", Sentinel::MASTER.as_bytes()];
            try_run::<(String, u16)>(&there, &words).await.is_ok_and(|(_, port)| port == replica)
        })
        .await;
    }
}

async fn readyz(node: &Gateway) -> String {
    client().get(node.admin_url("/readyz")).send().await.unwrap().text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_side_of_the_fewer_sentinels_no_old_answer_outlives_the_doubt() {
    let (data, sides) = (Data::start().await, Sides::start().await);
    let outage_ttl = Duration::from_secs(1);
    let node = data.gateway().store("outage_ttl = \"1s\"").redis(&sides.url()).start().await;
    all_serve(std::slice::from_ref(&node), 1, SOON).await;
    until("it hears most of the sentinels", SOON, || async { !doubts(&node).await }).await;
    let mut proof = Proof::begin(&data, std::slice::from_ref(&node), &["acme".to_owned()]);
    let there = sides.there();
    proof.bump("acme", move || bump_by(there.clone()));
    proof.bumps("acme", 20).await;
    sides.join(false).await;
    sides.is_failed_over().await;
    proof.bumps("acme", 150).await;
    // Its own master answers as ever, and the one sentinel that it hears names it.
    let master = format!("redis://{}:word@{}", Sides::ALWAYS, sides.servers.master.address());
    let role = try_run::<Vec<redis::Value>>(&master, &[b"ROLE"]).await.unwrap();
    assert_eq!(role[0], redis::Value::BulkString(b"master".to_vec()));
    assert!(doubts(&node).await);
    let told = readyz(&node).await;
    assert!(
        told.contains("the store may have another master") && told.contains("1 of 3 sentinels"),
        "{told}"
    );
    sides.join(true).await;
    until("it is sure of the new master", 8 * SOON, || async { !doubts(&node).await }).await;
    assert!(!readyz(&node).await.contains("another master"));
    proof.bumps("acme", 20).await;
    proof.end(|_| outage_ttl + COHERENT).await;
}

async fn doubts(node: &Gateway) -> bool {
    node.metrics().await.value("tidegate_store_doubt_seconds", &[]) > 0.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_are_slow_or_few_are_no_reason_for_doubt() {
    let (data, servers) = (Data::start().await, Sentinel::start_with(3).await);
    let node = data.gateway().redis(&servers.url()).start().await;
    all_serve(std::slice::from_ref(&node), 1, SOON).await;
    until("it hears most of the sentinels", SOON, || async { !doubts(&node).await }).await;
    for _ in 0..5 {
        servers.sentinels[0].pause();
        servers.sentinels[1].pause();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let told = readyz(&node).await;
        assert!(!told.contains("another master"), "{told}");
        servers.sentinels[0].resume();
        servers.sentinels[1].resume();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // Two of three are most of them.
    servers.sentinels[0].end();
    let since = Instant::now();
    until("more than a second has passed", SOON, || async { since.elapsed() > 2 * COHERENT }).await;
    let told = readyz(&node).await;
    assert!(!told.contains("another master"), "{told}");
    let value = data.change();
    let _: () = servers.master.run(&["SET", VERSION, "7"]).await;
    all_serve(&[node], value, COHERENT).await;
}
