//! Real redis servers: one, a master with a replica under sentinels, a cluster of three masters with replicas or without.

use super::{eventually, free_address, process::Process, until, SOON};
use nix::sys::signal::Signal;
use redis::{aio::MultiplexedConnection, cmd, AsyncConnectionConfig, FromRedisValue};
use std::{collections::BTreeSet, net::SocketAddr, process::Command, time::Duration};
use tempfile::TempDir;

/// One redis-server without persistence.
pub struct Redis {
    program: String,
    address: SocketAddr,
    dir: TempDir,
    extra: Vec<String>,
    process: Option<Process>,
}

impl Redis {
    /// Starts a server and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// [`Redis::start`] with further options of the command line.
    pub async fn start_with(extra: &[&str]) -> Self {
        Self::start_as("redis-server", extra).await
    }

    /// The same with another program that takes the options of redis-server.
    pub async fn start_as(program: &str, extra: &[&str]) -> Self {
        for _ in 0..10 {
            let mut redis = Self {
                program: program.to_owned(),
                address: free_address(),
                dir: TempDir::new().unwrap(),
                extra: extra.iter().map(|&e| e.to_owned()).collect(),
                process: None,
            };
            if redis.launch().await {
                return redis;
            }
        }
        panic!("no redis-server would start on any of ten ports");
    }

    /// Spawns the process; `false` if it ended instead of answering (its port was taken).
    async fn launch(&mut self) -> bool {
        // A sentinel wants a file that it can write to.
        let file = self.dir.path().join("redis.conf");
        std::fs::write(&file, "").unwrap();
        let mut command = Command::new(&self.program);
        command.arg(&file).args(["--port", &self.address.port().to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no", "--daemonize", "no", "--dir"]).arg(self.dir.path());
        command.args(&self.extra);
        let mut process = Process::spawn(&self.program, &mut command);
        let answered = eventually("redis-server answers or ends", SOON, || {
            let ended = process.ended().is_some();
            let url = self.url();
            async move {
                if ended {
                    return Some(false);
                }
                ping(&url).await.then_some(true)
            }
        })
        .await;
        // Another server may answer on the port while ours has just failed to bind it.
        let ours = answered && process.ended().is_none();
        if ours {
            self.process = Some(process);
        }
        ours
    }

    /// `redis://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A new connection.
    pub async fn client(&self) -> MultiplexedConnection {
        connect(&self.url()).await.unwrap()
    }

    /// One command on a new connection.
    pub async fn run<T: FromRedisValue>(&self, words: &[&str]) -> T {
        run(&self.url(), words).await
    }

    /// Every key there is.
    pub async fn keys(&self) -> BTreeSet<String> {
        self.run(&["KEYS", "*"]).await
    }

    /// Ends it in order (SIGTERM).
    pub async fn stop(&mut self) {
        let mut process = self.process.take().expect("redis runs");
        process.signal(Signal::SIGTERM);
        process.wait(SOON).await;
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&mut self) {
        self.process.take().expect("redis runs").kill();
    }

    /// Ends it at once while others hold it as well; it is not started again.
    pub fn end(&self) {
        self.process.as_ref().expect("redis runs").signal(Signal::SIGKILL);
    }

    /// Holds it (SIGSTOP): connections stay open and silent.
    pub fn pause(&self) {
        self.process.as_ref().expect("redis runs").signal(Signal::SIGSTOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.process.as_ref().expect("redis runs").signal(Signal::SIGCONT);
    }

    /// Starts it again on the same port, empty.
    pub async fn restart(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
        assert!(self.launch().await, "redis-server does not come back on {}", self.address);
    }
}

/// A master, its replica and sentinels (`down-after` 500 ms); the master's name is `tide`.
pub struct Sentinel {
    /// The first master.
    pub master: Redis,
    /// Its replica, which takes over.
    pub replica: Redis,
    /// Those that watch the master.
    pub sentinels: Vec<Redis>,
}

impl Sentinel {
    /// The name under which the sentinels know the master.
    pub const MASTER: &'static str = "tide";

    /// Starts one sentinel (see [`Self::start_with`]).
    pub async fn start() -> Self {
        Self::start_with(1).await
    }

    /// Starts so many sentinels and waits until they know the replica and each other, and the replica has synchronised.
    pub async fn start_with(count: usize) -> Self {
        let master = Redis::start_with(&["--repl-diskless-sync-delay", "0"]).await;
        let port = master.address.port().to_string();
        let replica = Redis::start_with(&["--replicaof", &format!("127.0.0.1 {port}")]).await;
        until("the replica follows", SOON, || async {
            replica.run::<String>(&["INFO", "replication"]).await.contains("master_link_status:up")
        })
        .await;
        let mut sentinels = Vec::new();
        for _ in 0..count {
            sentinels.push(Redis::start_with(&["--sentinel"]).await);
        }
        let quorum = (count / 2 + 1).to_string();
        for sentinel in &sentinels {
            let _: () =
                sentinel.run(&["SENTINEL", "MONITOR", Self::MASTER, "127.0.0.1", &port, &quorum]).await;
            for (option, value) in [("down-after-milliseconds", "500"), ("failover-timeout", "3000")] {
                let _: () = sentinel.run(&["SENTINEL", "SET", Self::MASTER, option, value]).await;
            }
        }
        for sentinel in &sentinels {
            until("the sentinel knows the replica and the other sentinels", 3 * SOON, || async {
                let listed = |what| async move {
                    sentinel.run::<Vec<redis::Value>>(&["SENTINEL", what, Self::MASTER]).await.len()
                };
                listed("REPLICAS").await == 1 && listed("SENTINELS").await == count - 1
            })
            .await;
        }
        Self { master, replica, sentinels }
    }

    /// `redis+sentinel://127.0.0.1:<port>/tide/0`: the first sentinel knows the others.
    pub fn url(&self) -> String {
        format!("redis+sentinel://{}/{}/0", self.sentinels[0].address, Self::MASTER)
    }

    /// The URL of the master that the last sentinel names.
    pub async fn named(&self) -> String {
        let sentinel = self.sentinels.last().unwrap();
        let (host, port): (String, u16) =
            sentinel.run(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::MASTER]).await;
        format!("redis://{host}:{port}")
    }

    /// Waits until the last sentinel names the replica as master, and it is one.
    pub async fn replica_is_master(&self) {
        let wanted = self.replica.url();
        until("the sentinel names the replica as master", 6 * SOON, || async {
            self.named().await == wanted
        })
        .await;
        until("the replica is a master", SOON, || async {
            self.replica.run::<String>(&["INFO", "replication"]).await.contains("role:master")
        })
        .await;
    }

    /// Orders a failover of the last sentinel, while the master is well.
    pub async fn plan_failover(&self) {
        let url = self.sentinels.last().unwrap().url();
        until("the sentinel takes the order", 3 * SOON, || async {
            let words: [&[u8]; 3] = [b"SENTINEL", b"FAILOVER", Self::MASTER.as_bytes()];
            // It knows a replica some time before it deems it a good one.
            try_run::<()>(&url, &words).await.is_ok()
        })
        .await;
    }

    /// Kills the master and waits until the replica has been made master.
    pub async fn failover(&mut self) {
        self.master.kill();
        self.replica_is_master().await;
    }
}

/// Three masters, with or without replicas.
pub struct Cluster {
    /// The masters, in the order of their slots.
    pub nodes: Vec<Redis>,
    /// Their replicas in the same order.
    pub replicas: Vec<Redis>,
}

impl Cluster {
    /// Starts three masters, gives each a third of the slots and waits until all of them see a whole cluster.
    pub async fn start() -> Self {
        Self::launch(0, 15_000).await
    }

    /// The same with a replica for each. After `node_timeout_ms` a master that doesn't answer is given up.
    pub async fn start_with_replicas(node_timeout_ms: u64) -> Self {
        Self::launch(3, node_timeout_ms).await
    }

    async fn launch(replicas: usize, node_timeout_ms: u64) -> Self {
        let mut nodes = Vec::new();
        let mut buses = Vec::new();
        let timeout = node_timeout_ms.to_string();
        for _ in 0..3 + replicas {
            // By default the bus listens 10,000 ports higher, which may lie above 65,535.
            let bus = free_address().port().to_string();
            let options = ["--cluster-enabled", "yes", "--cluster-port", &bus];
            let more = ["--cluster-node-timeout", &timeout, "--repl-diskless-sync-delay", "0"];
            nodes.push(Redis::start_with(&[options, more].concat()).await);
            buses.push(bus);
        }
        for (index, (first, last)) in
            [("0", "5460"), ("5461", "10922"), ("10923", "16383")].into_iter().enumerate()
        {
            let _: () = nodes[index].run(&["CLUSTER", "ADDSLOTSRANGE", first, last]).await;
        }
        for (index, node) in nodes.iter().enumerate() {
            let _: () = node.run(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]).await;
            if index > 0 {
                let port = node.address.port().to_string();
                let _: () = nodes[0].run(&["CLUSTER", "MEET", "127.0.0.1", &port, &buses[index]]).await;
            }
        }
        let known = format!("cluster_known_nodes:{}", nodes.len());
        for node in &nodes {
            until("the cluster is whole", 3 * SOON, || async {
                let info = node.run::<String>(&["CLUSTER", "INFO"]).await;
                info.contains("cluster_state:ok") && info.contains(&known)
            })
            .await;
        }
        let replicas = nodes.split_off(3);
        for (master, replica) in nodes.iter().zip(&replicas) {
            let id: String = master.run(&["CLUSTER", "MYID"]).await;
            let _: () = replica.run(&["CLUSTER", "REPLICATE", &id]).await;
            until("the replica follows", 3 * SOON, || async {
                replica.run::<String>(&["INFO", "replication"]).await.contains("master_link_status:up")
            })
            .await;
        }
        for node in nodes.iter().chain(&replicas) {
            until("the node knows who is a replica", 3 * SOON, || async {
                let known: String = node.run(&["CLUSTER", "NODES"]).await;
                known.lines().filter(|line| line.contains("slave")).count() == replicas.len()
            })
            .await;
        }
        Self { nodes, replicas }
    }

    /// The master in `nodes` that a key lies on as long as no slot moves.
    pub async fn shard_of(&self, key: &str) -> usize {
        let slot: usize = self.nodes[0].run(&["CLUSTER", "KEYSLOT", key]).await;
        [5461, 10_923].iter().filter(|first| slot >= **first).count()
    }

    /// One command on whichever node takes it for its key's master, as the others say. Whether it was answered.
    pub async fn run_on_master(&self, words: &[&str]) -> bool {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        for node in self.nodes.iter().chain(&self.replicas) {
            let url = node.url();
            let on_this =
                tokio::time::timeout(Duration::from_millis(100), try_run::<redis::Value>(&url, &words));
            // A replica sends on to its master, as every other node does; none of them does it by itself.
            if on_this.await.is_ok_and(|answer| answer.is_ok()) {
                return true;
            }
        }
        false
    }

    /// Moves the slot of a key from one master to another, with all of its keys.
    pub async fn move_slot_of(&self, key: &str, from: usize, to: usize) {
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        let slot = from.run::<u16>(&["CLUSTER", "KEYSLOT", key]).await.to_string();
        let from_id: String = from.run(&["CLUSTER", "MYID"]).await;
        let to_id: String = to.run(&["CLUSTER", "MYID"]).await;
        let _: () = to.run(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await;
        let _: () = from.run(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await;
        let port = to.address.port().to_string();
        loop {
            let keys: Vec<String> = from.run(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]).await;
            if keys.is_empty() {
                break;
            }
            for key in &keys {
                let _: () = from.run(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]).await;
            }
        }
        for node in [to, from].into_iter().chain(&self.nodes) {
            let _: () = node.run(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).await;
        }
    }

    /// The nodes' URLs.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::url).collect()
    }

    /// Sets a key, at the node that takes it.
    pub async fn set(&self, key: &str, value: &str) {
        for node in &self.nodes {
            if try_run::<()>(&node.url(), &[b"SET", key.as_bytes(), value.as_bytes()]).await.is_ok() {
                return;
            }
        }
        panic!("no node takes {key}");
    }

    /// The value of a key, from the node that has it.
    pub async fn find(&self, key: &str) -> Option<Vec<u8>> {
        for node in &self.nodes {
            if node.keys().await.contains(key) {
                return node.run(&["GET", key]).await;
            }
        }
        None
    }
}

/// One command on a new connection, which may fail.
///
/// # Errors
/// If the server can't be reached, does not answer or refuses the command.
pub async fn try_run<T: FromRedisValue>(url: &str, words: &[&[u8]]) -> redis::RedisResult<T> {
    let mut command = cmd(std::str::from_utf8(words[0]).unwrap());
    for word in &words[1..] {
        command.arg(*word);
    }
    command.query_async(&mut connect(url).await?).await
}

async fn connect(url: &str) -> redis::RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(2)))
        .set_response_timeout(Some(Duration::from_secs(5)));
    redis::Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await
}

async fn ping(url: &str) -> bool {
    match connect(url).await {
        Ok(mut connection) => cmd("PING").query_async::<String>(&mut connection).await.is_ok(),
        Err(_) => false,
    }
}

async fn run<T: FromRedisValue>(url: &str, words: &[&str]) -> T {
    let bytes: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    try_run(url, &bytes).await.unwrap_or_else(|error| panic!("{words:?} on {url}: {error}"))
}
