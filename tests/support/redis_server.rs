//! Real redis servers: one, a master with a replica under a sentinel, a cluster of three masters.

use super::{eventually, free_address, process::Process, until, SOON};
use nix::sys::signal::Signal;
use redis::{aio::MultiplexedConnection, cmd, AsyncConnectionConfig, FromRedisValue};
use std::{collections::BTreeSet, net::SocketAddr, process::Command, time::Duration};
use tempfile::TempDir;

/// One redis-server without persistence.
pub struct Redis {
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
        for _ in 0..10 {
            let mut redis = Self {
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
        let mut command = Command::new("redis-server");
        command.arg(&file).args(["--port", &self.address.port().to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no", "--daemonize", "no", "--dir"]).arg(self.dir.path());
        command.args(&self.extra);
        let mut process = Process::spawn("redis-server", &mut command);
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

/// A master, its replica and one sentinel (quorum 1, `down-after` 500 ms); the master's name is `tide`.
pub struct Sentinel {
    /// The first master.
    pub master: Redis,
    /// Its replica, which takes over.
    pub replica: Redis,
    sentinel: Redis,
}

impl Sentinel {
    /// The name under which the sentinel knows the master.
    pub const MASTER: &'static str = "tide";

    /// Starts the three and waits until the sentinel knows the replica and the replica has synchronised.
    pub async fn start() -> Self {
        let master = Redis::start_with(&["--repl-diskless-sync-delay", "0"]).await;
        let port = master.address.port().to_string();
        let replica = Redis::start_with(&["--replicaof", &format!("127.0.0.1 {port}")]).await;
        until("the replica follows", SOON, || async {
            replica.run::<String>(&["INFO", "replication"]).await.contains("master_link_status:up")
        })
        .await;
        let sentinel = Redis::start_with(&["--sentinel"]).await;
        let url = sentinel.url();
        let _: () = run(&url, &["SENTINEL", "MONITOR", Self::MASTER, "127.0.0.1", &port, "1"]).await;
        for (option, value) in [("down-after-milliseconds", "500"), ("failover-timeout", "3000")] {
            let _: () = run(&url, &["SENTINEL", "SET", Self::MASTER, option, value]).await;
        }
        until("the sentinel knows the replica", 2 * SOON, || async {
            let replicas: Vec<redis::Value> = run(&url, &["SENTINEL", "REPLICAS", Self::MASTER]).await;
            !replicas.is_empty()
        })
        .await;
        Self { master, replica, sentinel }
    }

    /// `redis+sentinel://127.0.0.1:<port>/tide/0`
    pub fn url(&self) -> String {
        format!("redis+sentinel://{}/{}/0", self.sentinel.address, Self::MASTER)
    }

    /// Kills the master and waits until the replica has been made master.
    pub async fn failover(&mut self) {
        self.master.kill();
        let sentinel = self.sentinel.url();
        let wanted = self.replica.address.port().to_string();
        until("the sentinel names the replica as master", 3 * SOON, || async {
            let now: Vec<String> =
                run(&sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::MASTER]).await;
            now.get(1) == Some(&wanted)
        })
        .await;
        until("the replica is a master", SOON, || async {
            self.replica.run::<String>(&["INFO", "replication"]).await.contains("role:master")
        })
        .await;
    }
}

/// Three masters without replicas.
pub struct Cluster {
    /// The nodes, in the order of their slots.
    pub nodes: Vec<Redis>,
}

impl Cluster {
    /// Starts the three, gives each a third of the slots and waits until all of them see a whole cluster.
    pub async fn start() -> Self {
        let mut nodes = Vec::new();
        let mut buses = Vec::new();
        for _ in 0..3 {
            // By default the bus listens 10,000 ports higher, which may lie above 65,535.
            let bus = free_address().port().to_string();
            nodes.push(Redis::start_with(&["--cluster-enabled", "yes", "--cluster-port", &bus]).await);
            buses.push(bus);
        }
        for (index, (first, last)) in
            [("0", "5460"), ("5461", "10922"), ("10923", "16383")].into_iter().enumerate()
        {
            let node = &nodes[index];
            let _: () = node.run(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]).await;
            let _: () = node.run(&["CLUSTER", "ADDSLOTSRANGE", first, last]).await;
            if index > 0 {
                let port = node.address.port().to_string();
                let _: () = nodes[0].run(&["CLUSTER", "MEET", "127.0.0.1", &port, &buses[index]]).await;
            }
        }
        for node in &nodes {
            until("the cluster is whole", 3 * SOON, || async {
                let info = node.run::<String>(&["CLUSTER", "INFO"]).await;
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            })
            .await;
        }
        Self { nodes }
    }

    /// The nodes' URLs.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::url).collect()
    }

    /// Every key on every node.
    pub async fn keys(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for node in &self.nodes {
            all.extend(node.keys().await);
        }
        all
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
    let mut connection = connect(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    let mut command = cmd(words[0]);
    for word in &words[1..] {
        command.arg(*word);
    }
    command.query_async(&mut connection).await.unwrap_or_else(|error| panic!("{words:?} on {url}: {error}"))
}
