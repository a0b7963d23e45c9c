//! Clusters of three masters, each with a replica: what befalls one shard leaves the others alone.

use super::{proof::Proof, *};

/// The longest time for which these nodes serve an answer in doubt.
const OUTAGE_TTL: Duration = Duration::from_secs(2);
/// Two tenants of each shard, by where their versions lie.
const TENANTS: usize = 2;

struct Shards {
    data: Data,
    cluster: Arc<Cluster>,
    nodes: Vec<Gateway>,
    /// Those of the first master, of the second, of the third.
    tenants: [Vec<String>; 3],
}

fn key(tenant: &str) -> String {
    format!("dash:ver:kpi:{tenant}")
}

impl Shards {
    /// Three nodes that have answered each tenant. `node_timeout_ms`: after how long a master is given up.
    async fn start(node_timeout_ms: u64) -> Self {
        let (data, cluster) =
            (Data::start().await, Arc::new(Cluster::start_with_replicas(node_timeout_ms).await));
        let config = data.gateway().cluster(&cluster.urls()).store("outage_ttl = \"2s\"");
        let nodes = vec![config.start().await, config.start().await, config.start().await];
        let mut tenants: [Vec<String>; 3] = Default::default();
        for tenant in (0..).map(|n| format!("tenant{n}")) {
            let of_shard = &mut tenants[cluster.shard_of(&key(&tenant)).await];
            if of_shard.len() < TENANTS {
                of_shard.push(tenant);
            }
            if tenants.iter().all(|of_shard| of_shard.len() == TENANTS) {
                break;
            }
        }
        for tenant in tenants.iter().flatten() {
            // An absent version means 1: the first bump has to be seen as well.
            assert!(cluster.run_on_master(&["SET", &key(tenant), "1000"]).await);
            for node in &nodes {
                until("it is a hit", SOON, || async { node.get_as(tenant, PATH).await.ok().is_hit() }).await;
            }
        }
        Self { data, cluster, nodes, tenants }
    }

    /// The same, while the application bumps one tenant of each shard: all nodes have seen it.
    async fn next_version(node_timeout_ms: u64) -> (Self, Proof) {
        let shards = Self::start(node_timeout_ms).await;
        let mut proof = shards.proof();
        shards.bump(&mut proof);
        for tenant in shards.tenants.iter().map(|of_shard| &of_shard[0]) {
            proof.bumps(tenant, 10).await;
        }
        (shards, proof)
    }

    fn proof(&self) -> Proof {
        let all: Vec<String> = self.tenants.iter().flatten().cloned().collect();
        Proof::begin(&self.data, &self.nodes, &all)
    }

    /// The application bumps one tenant of each shard.
    fn bump(&self, proof: &mut Proof) {
        for tenant in self.tenants.iter().map(|of_shard| &of_shard[0]) {
            let (cluster, key) = (self.cluster.clone(), key(tenant));
            proof.bump(tenant, move || {
                let (cluster, key) = (cluster.clone(), key.clone());
                async move { cluster.run_on_master(&["INCR", &key]).await }
            });
        }
    }

    /// The bound of a tenant whose shard may be away for some time.
    fn bound(&self, away: usize) -> impl Fn(&str) -> Duration + '_ {
        move |tenant| {
            let is_away = self.tenants[away].iter().any(|one| one == tenant);
            if is_away {
                OUTAGE_TTL + COHERENT
            } else {
                COHERENT
            }
        }
    }

    async fn all_are_up(&self) {
        for node in &self.nodes {
            until("all shards are linked", 2 * SOON, || async { node.is_linked().await }).await;
        }
    }

    /// Counts, for each node, the log lines of lost links and of new ones.
    fn told(&self) -> Vec<(usize, usize)> {
        let count = |output: &str, text: &str| output.lines().filter(|line| line.contains(text)).count();
        let outputs = self.nodes.iter().map(Gateway::output);
        outputs.map(|output| (count(&output, "is lost"), count(&output, "linked to redis"))).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_hangs_puts_its_shard_alone_in_doubt() {
    let shards = Shards::start(60_000).await;
    shards.all_are_up().await;
    let before = shards.told();
    let proof = shards.proof();
    assert_eq!(proof.misses(&shards.tenants[1][0], 200).await, 0);
    shards.cluster.nodes[0].pause();
    for node in &shards.nodes {
        until("the silence is noticed", SOON, || async { !node.is_linked().await }).await;
        let ready = send(node.client().get(node.admin_url("/readyz"))).await;
        let ready = String::from_utf8(ready.body.to_vec()).unwrap();
        let place = shards.cluster.nodes[0].address().to_string();
        assert!(ready.contains(&place) && ready.contains("in doubt"), "{ready}");
    }
    let (others, own) = tokio::join!(
        join_all(shards.tenants[1..].iter().flatten().map(|tenant| proof.misses(tenant, 1_000))),
        proof.misses(&shards.tenants[0][0], 1_000),
    );
    assert_eq!(others, [0; 2 * TENANTS], "the other shards' hits stay hits");
    assert!(own > 0, "what is in doubt is filled anew");
    shards.cluster.nodes[0].resume();
    shards.all_are_up().await;
    let told: Vec<_> =
        shards.told().iter().zip(before).map(|(now, before)| (now.0 - before.0, now.1 - before.1)).collect();
    assert_eq!(told, [(1, 1); 3], "once at the begin and once at the end");
    proof.end(|_| COHERENT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_hangs_for_a_while_leaves_no_old_answer() {
    let (shards, proof) = Shards::next_version(60_000).await;
    shards.cluster.nodes[0].pause();
    proof.bumps(&shards.tenants[1][0], 60).await;
    shards.cluster.nodes[0].resume();
    proof.bumps(&shards.tenants[0][0], 30).await;
    shards.all_are_up().await;
    proof.end(shards.bound(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_of_a_cluster_is_followed_to_its_replica() {
    let (shards, proof) = Shards::next_version(1_000).await;
    shards.cluster.nodes[0].end();
    // The replica takes over.
    proof.bumps(&shards.tenants[0][0], 60).await;
    for node in &shards.nodes {
        until("the replica is linked", SOON, || async { node.is_linked().await }).await;
    }
    proof.bumps(&shards.tenants[0][0], 30).await;
    proof.end(shards.bound(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_of_a_cluster_leaves_no_node_at_the_old_master() {
    let shards = Shards::start(60_000).await;
    let mut proof = shards.proof();
    shards.bump(&mut proof);
    proof.bumps(&shards.tenants[0][0], 10).await;
    let _: () = shards.cluster.replicas[0].run(&["CLUSTER", "FAILOVER"]).await;
    until("the replica is a master", 2 * SOON, || async {
        shards.cluster.replicas[0].run::<String>(&["INFO", "replication"]).await.contains("role:master")
    })
    .await;
    proof.bumps(&shards.tenants[0][0], 60).await;
    shards.all_are_up().await;
    proof.end(shards.bound(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_takes_its_versions_along() {
    let shards = Shards::start(60_000).await;
    let mut proof = shards.proof();
    shards.bump(&mut proof);
    for (from, to) in [(0, 1), (1, 2)] {
        let tenant = &shards.tenants[0][0];
        proof.bumps(tenant, 10).await;
        shards.cluster.move_slot_of(&key(tenant), from, to).await;
        proof.bumps(tenant, 40).await;
        for node in &shards.nodes {
            until("the partition is linked", SOON, || async { node.is_linked().await }).await;
        }
    }
    proof.end(|_| COHERENT).await;
}
