//! Purging: a purge reaches every node, whoever orders it and whatever happens to the store.
//!
//! Most of this asks the library: a node here is a cache with a link, and an answer the stamp that is kept beside it.

use crate::support::{
    gateway::{tidegate_output, GatewayBuilder, KPI},
    *,
};
use bytes::Bytes;
use http::{header, HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::json;
use std::{
    path::Path,
    sync::{
        atomic::{AtomicUsize, Ordering},
        Arc,
    },
    time::Duration,
};
use tidegate::{
    cache::{
        coherence::purge::{LogKnowledge, PurgeOrder, PurgeStamp, PurgeTarget, PurgeVerdict},
        key::{self, CacheKey, RequestScheme},
        policy::RequestDirectives,
        Cache, FetchedHead, IncomingBody, MemoryLookup, MissFetcher, OriginFetch, OriginFetchError,
        OriginLookup,
    },
    clock::now_ms,
    config::{CacheMode, Config},
    telemetry::{Metrics, StoreError},
};

const LOG: &str = "dash:purge:log";
const HOST: &str = "dash.example";
const FOLLOW: &str = "cache = \"origin\"";
/// The time until all nodes must know: after a purge, after a lost connection, after the store's return.
const COHERENT: Duration = Duration::from_secs(1);

/// A cache with its link to a store.
/// Whether the log may hold what a node has not read.
fn is_behind(cache: &Cache) -> bool {
    cache.purges().knowledge(now_ms()) != LogKnowledge::Complete
}

struct Node {
    cache: Arc<Cache>,
    metrics: Arc<Metrics>,
    link: tokio::task::JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.link.abort();
    }
}

impl Node {
    /// Linked, and all of the log read.
    async fn start(builder: &GatewayBuilder) -> Self {
        let toml = builder.clone().route("/x", KPI).toml(free_address(), free_address());
        let secret = |_: &str| Some("a-secret-of-the-tests-with-more-than-32-bytes".to_owned());
        let config = Config::parse(&toml, "purging.toml", &secret).unwrap().config;
        let metrics = Arc::new(Metrics::new().unwrap());
        let cache = Cache::new(&config.store, config.encoding, metrics.clone());
        let link = tokio::spawn(cache.clone().keep_linked(config.store.redis));
        let node = Self { cache, metrics, link };
        until("the node is linked and has read the log", SOON, || async {
            node.cache.store_is_up() && node.cache.purges().log_id().is_some()
        })
        .await;
        node
    }

    async fn on(redis: &Redis) -> Self {
        Self::start(&GatewayBuilder::new("http://127.0.0.1:9").redis(&redis.url())).await
    }

    /// An answer to this path, with these tags, whose fill begins now.
    fn answer(&self, path: &str, tags: &[&str]) -> PurgeStamp {
        let purges = self.cache.purges();
        purges.stamp(purges.position(), key::resource_hash(HOST, path), tags)
    }

    /// The verdict that a request would get, with a look at the log if it is needed.
    async fn verdict(&self, answer: &PurgeStamp) -> PurgeVerdict {
        if is_behind(&self.cache) {
            // An error means that the last knowledge goes on.
            self.cache.redis().unwrap().catch_up().await.ok();
        }
        self.cache.purges().verdict(answer)
    }

    async fn finds(&self, answer: &PurgeStamp, verdict: PurgeVerdict) {
        until(&format!("{verdict:?}"), COHERENT, || async { self.verdict(answer).await == verdict }).await;
    }

    fn counted(&self, series: &str) -> bool {
        self.metrics.render().lines().any(|line| line == series)
    }
}

fn tag(text: &str) -> PurgeOrder {
    PurgeOrder::hard(PurgeTarget::tag(text).unwrap())
}

async fn log(redis: &Redis) -> Vec<(String, Vec<String>)> {
    redis.run(&["XRANGE", LOG, "-", "+"]).await
}

/// Returns true if a record of the log has this value of `k` or `v`.
async fn logged(redis: &Redis, value: &str) -> bool {
    log(redis).await.iter().any(|(_, fields)| fields.iter().any(|field| field == value))
}

#[tokio::test]
async fn a_purge_reaches_every_node() {
    let redis = Redis::start().await;
    let nodes = [Node::on(&redis).await, Node::on(&redis).await];
    let answers = [nodes[0].answer("/x", &["a"]), nodes[1].answer("/x", &["a"])];
    let others = [nodes[0].answer("/y", &["b"]), nodes[1].answer("/y", &["b"])];
    nodes[0].cache.purge(vec![PurgeOrder { target: PurgeTarget::of(HOST, "/x"), soft: true }]).await.unwrap();
    assert_eq!(
        nodes[0].cache.purges().verdict(&answers[0]),
        PurgeVerdict::Soft,
        "no later than acknowledged"
    );
    nodes[1].finds(&answers[1], PurgeVerdict::Soft).await;
    nodes[1].cache.purge(vec![tag("c"), tag("a")]).await.unwrap();
    assert_eq!(nodes[1].cache.purges().verdict(&answers[1]), PurgeVerdict::Hard);
    nodes[0].finds(&answers[0], PurgeVerdict::Hard).await;
    for (node, other) in nodes.iter().zip(&others) {
        assert_eq!(node.verdict(other).await, PurgeVerdict::Current);
    }
    nodes[0].cache.invalidate("DASH.example:80", &["/y", "/z"]);
    for (node, other) in nodes.iter().zip(&others) {
        node.finds(other, PurgeVerdict::Hard).await;
    }
    assert!(nodes[0].counted(r#"tidegate_purges_total{kind="invalidation"} 2"#));
    assert!(nodes[1].counted(r#"tidegate_purges_total{kind="tag"} 2"#));
    assert_eq!(log(&redis).await.iter().filter(|(_, fields)| fields[1] != "begin").count(), 5);
}

#[tokio::test]
async fn an_answer_filled_after_a_purge_is_not_purged_by_its_echo() {
    let redis = Redis::start().await;
    let node = Node::on(&redis).await;
    for _ in 0..50 {
        node.cache.purge(vec![tag("a")]).await.unwrap();
        let answer = node.answer("/x", &["a"]);
        // The report of the node's own purge may come now.
        until("the log is read", SOON, || async { !is_behind(&node.cache) }).await;
        assert_eq!(node.verdict(&answer).await, PurgeVerdict::Current);
    }
}

#[tokio::test]
async fn the_application_purges_with_its_own_record() {
    let redis = Redis::start().await;
    let node = Node::on(&redis).await;
    let (x, y) = (node.answer("/x?y=1", &[]), node.answer("/y", &["products"]));
    // What is no purge is passed over, and what follows it counts.
    for record in [&["k", "prefix", "v", "/x"][..], &["k", "url", "v", "/x?y=1"], &["k", "tag", "v", "\u{1}"]]
    {
        let _: String = redis.run(&[&["XADD", LOG, "*"], record].concat()).await;
    }
    let _: String =
        redis.run(&["XADD", LOG, "*", "k", "url", "v", "https://dash.example/x?y=1", "soft", "1"]).await;
    node.finds(&x, PurgeVerdict::Soft).await;
    assert_eq!(node.verdict(&y).await, PurgeVerdict::Current);
    let _: String = redis.run(&["XADD", LOG, "*", "k", "tag", "v", "products"]).await;
    node.finds(&y, PurgeVerdict::Hard).await;
    let z = node.answer("/z", &[]);
    let _: String = redis.run(&["XADD", LOG, "*", "k", "all", "soft", "0"]).await;
    node.finds(&z, PurgeVerdict::Hard).await;
}

/// Anybody's POST has one written: a long URL takes no more room than a short one.
#[tokio::test]
async fn a_record_of_the_log_has_a_bound() {
    let redis = Redis::start().await;
    let nodes = [Node::on(&redis).await, Node::on(&redis).await];
    let long = format!("/x?{}", "y".repeat(16_000));
    let near = format!("{long}z");
    let answers = [nodes[0].answer(&long, &[]), nodes[1].answer(&long, &[])];
    let others = [nodes[0].answer(&near, &[]), nodes[1].answer(&near, &[])];
    for _ in 0..20 {
        nodes[0].cache.invalidate(HOST, &[&long, "/short"]);
    }
    for (node, answer) in nodes.iter().zip(&answers) {
        node.finds(answer, PurgeVerdict::Hard).await;
    }
    for (node, other) in nodes.iter().zip(&others) {
        assert_eq!(node.verdict(other).await, PurgeVerdict::Current, "another resource");
    }
    let log = log(&redis).await;
    let longest = log.iter().map(|(_, fields)| fields.concat().len()).max().unwrap();
    assert!(longest <= 200, "{longest}");
    assert!(logged(&redis, "http://dash.example/short").await, "a short one can be read");
    // A new node reads it as well, and what nodes of before have written.
    let _: String =
        redis.run(&["XADD", LOG, "*", "k", "url", "v", &format!("http://{HOST}{near}"), "soft", "0"]).await;
    for (node, other) in nodes.iter().zip(&others) {
        node.finds(other, PurgeVerdict::Hard).await;
    }
}

#[tokio::test]
async fn a_lost_connection_hides_no_purge() {
    let redis = Redis::start().await;
    let node = Node::on(&redis).await;
    for round in 0..6 {
        let kind = ["normal", "pubsub"][round % 2];
        let (purged, kept) = (node.answer("/x", &["a"]), node.answer("/y", &["b"]));
        let mut connection = redis.client().await;
        // In one breath: nobody has reconnected when the log grows.
        let _: redis::Value = redis::pipe()
            .cmd("CLIENT")
            .arg(&["KILL", "TYPE", kind, "SKIPME", "yes"])
            .cmd("XADD")
            .arg(&[LOG, "*", "k", "tag", "v", "a"])
            .query_async(&mut connection)
            .await
            .unwrap();
        node.finds(&purged, PurgeVerdict::Hard).await;
        assert_eq!(node.verdict(&kept).await, PurgeVerdict::Current, "only what was purged is gone");
    }
    assert!(node.counted(r#"tidegate_invalidations_total{kind="purge_gap"} 0"#));
}

#[tokio::test]
async fn what_was_trimmed_unread_may_have_been_anything() {
    let redis = Redis::start().await;
    let node = Node::on(&redis).await;
    let answer = node.answer("/x", &[]);
    let mut connection = redis.client().await;
    let _: redis::Value = redis::pipe()
        .atomic()
        .cmd("XADD")
        .arg(&[LOG, "*", "k", "tag", "v", "unrelated"])
        .cmd("XTRIM")
        .arg(&[LOG, "MAXLEN", "1"])
        .query_async(&mut connection)
        .await
        .unwrap();
    node.finds(&answer, PurgeVerdict::Hard).await;
    assert!(node.counted(r#"tidegate_invalidations_total{kind="purge_gap"} 1"#));
    assert_eq!(log(&redis).await.len(), 1, "the other nodes have read it");
    // Then it goes on as before.
    let (purged, kept) = (node.answer("/x", &["a"]), node.answer("/y", &[]));
    let _: String = redis.run(&["XADD", LOG, "*", "k", "tag", "v", "a"]).await;
    node.finds(&purged, PurgeVerdict::Hard).await;
    assert_eq!(node.verdict(&kept).await, PurgeVerdict::Current);
}

#[tokio::test]
async fn a_log_that_is_gone_purges_everything_and_is_begun_anew() {
    let redis = Redis::start().await;
    let nodes = [Node::on(&redis).await, Node::on(&redis).await];
    for lost in [&["FLUSHALL"][..], &["DEL", LOG], &["FLUSHDB"]] {
        let before = nodes[0].cache.purges().log_id().unwrap();
        let answers = [nodes[0].answer("/x", &[]), nodes[1].answer("/x", &[])];
        let _: redis::Value = redis.run(lost).await;
        for (node, answer) in nodes.iter().zip(&answers) {
            node.finds(answer, PurgeVerdict::Hard).await;
        }
        until("the log is begun and read", COHERENT, || async {
            nodes.iter().all(|n| n.cache.purges().log_id().is_some_and(|id| id != before))
        })
        .await;
        assert!(nodes[0].cache.purges().stamp_from(before, 7, &[]).is_none(), "{lost:?}");
        let (purged, kept) = (nodes[1].answer("/x", &["a"]), nodes[1].answer("/y", &[]));
        nodes[0].cache.purge(vec![tag("a")]).await.unwrap();
        nodes[1].finds(&purged, PurgeVerdict::Hard).await;
        assert_eq!(nodes[1].verdict(&kept).await, PurgeVerdict::Current);
    }
}

#[tokio::test]
async fn a_log_that_lost_its_end_is_told_to_all() {
    let redis = Redis::start().await;
    let node = Node::on(&redis).await;
    node.cache.purge(vec![tag("a")]).await.unwrap();
    let answer = node.answer("/x", &[]);
    // As after a failover to a replica that had not got it yet.
    let last = node.cache.purges().log_id().unwrap().number();
    let _: u64 = redis.run(&["XDEL", LOG, &last]).await;
    node.finds(&answer, PurgeVerdict::Hard).await;
    // Who had read no further than the common part learns it from the log.
    until("the log says so", COHERENT, || async { logged(&redis, "all").await }).await;
}

#[tokio::test]
async fn where_tracking_is_refused_each_look_reads_the_log() {
    let redis = Redis::start().await;
    let rights = ["ACL", "SETUSER", "hosted", "on", ">word", "~*", "&*", "+@all", "-client|tracking"];
    let _: () = redis.run(&rights).await;
    let url = format!("redis://hosted:word@{}", redis.address());
    let node =
        Node::start(&GatewayBuilder::new("http://127.0.0.1:9").redis(&url).store("poll = \"0s\"")).await;
    assert!(is_behind(&node.cache));
    for _ in 0..20 {
        let (purged, kept) = (node.answer("/x", &["a"]), node.answer("/y", &[]));
        let _: String = redis.run(&["XADD", LOG, "*", "k", "tag", "v", "a"]).await;
        assert_eq!(node.verdict(&purged).await, PurgeVerdict::Hard, "no report is needed, and no time");
        assert_eq!(node.verdict(&kept).await, PurgeVerdict::Current);
    }
}

/// The purges of other nodes are told; those of an application are found by reading.
#[tokio::test]
async fn where_tracking_is_refused_the_log_is_read_after_a_while() {
    let redis = Redis::start().await;
    let rights = ["ACL", "SETUSER", "hosted", "on", ">word", "~*", "&*", "+@all", "-client|tracking"];
    let _: () = redis.run(&rights).await;
    let url = format!("redis://hosted:word@{}", redis.address());
    for (poll, by_application) in [("60s", false), ("200ms", false), ("200ms", true)] {
        let builder =
            GatewayBuilder::new("http://127.0.0.1:9").redis(&url).store(&format!("poll = {poll:?}"));
        let nodes = [Node::start(&builder).await, Node::start(&builder).await];
        let answer = nodes[1].answer("/x", &["a"]);
        nodes[1].finds(&answer, PurgeVerdict::Current).await;
        assert!(!is_behind(&nodes[1].cache), "it was read a moment ago");
        match by_application {
            true => drop(redis.run::<String>(&["XADD", LOG, "*", "k", "tag", "v", "a"]).await),
            false => drop(nodes[0].cache.purge(vec![tag("a")]).await.unwrap()),
        }
        nodes[1].finds(&answer, PurgeVerdict::Hard).await;
    }
}

#[tokio::test]
async fn those_who_look_at_the_same_moment_share_a_reading() {
    let redis = Redis::start().await;
    let node = Node::on(&redis).await;
    let reads = || {
        let text = node.metrics.render();
        let series = r#"tidegate_store_calls_total{call="read_purges",outcome="ok"} "#;
        text.lines().find_map(|line| line.strip_prefix(series)?.parse::<u64>().ok()).unwrap()
    };
    let before = reads();
    node.cache.purges().grown();
    let store = node.cache.redis().unwrap();
    futures_util::future::join_all((0..200).map(|_| store.catch_up()))
        .await
        .into_iter()
        .for_each(Result::unwrap);
    assert_eq!(reads() - before, 1);
}

#[tokio::test]
async fn a_purge_that_the_store_missed_is_made_up_for() {
    let redis = Redis::start().await;
    let nodes = [Node::on(&redis).await, Node::on(&redis).await];
    let answers = [nodes[0].answer("/x", &["a"]), nodes[1].answer("/x", &["a"])];
    let kept = nodes[1].answer("/y", &["b"]);
    redis.pause();
    until("the store is missed", SOON, || async { nodes.iter().all(|n| !n.cache.store_is_up()) }).await;
    assert_eq!(nodes[0].cache.purge(vec![tag("a")]).await, Err(StoreError::Down));
    assert_eq!(nodes[0].verdict(&answers[0]).await, PurgeVerdict::Hard, "here at once");
    assert_eq!(nodes[1].verdict(&answers[1]).await, PurgeVerdict::Current, "the last knowledge goes on");
    redis.resume();
    until("it is in the log", SOON, || async { logged(&redis, "a").await }).await;
    nodes[1].finds(&answers[1], PurgeVerdict::Hard).await;
    assert_eq!(nodes[1].verdict(&kept).await, PurgeVerdict::Current);
}

#[tokio::test]
async fn a_purge_that_an_empty_store_comes_back_without_is_made_up_for() {
    let mut redis = Redis::start().await;
    let node = Node::on(&redis).await;
    redis.kill();
    until("the store is missed", SOON, || async { !node.cache.store_is_up() }).await;
    let answer = node.answer("/x", &[]);
    assert_eq!(node.cache.purge(vec![tag("a")]).await, Err(StoreError::Down));
    redis.restart().await;
    until("it is in the log", SOON, || async { logged(&redis, "a").await }).await;
    node.finds(&answer, PurgeVerdict::Hard).await;
}

#[tokio::test]
async fn a_purge_whose_caller_went_away_is_made_up_for() {
    let redis = Redis::start().await;
    let node = Node::on(&redis).await;
    redis.pause();
    {
        let purge = node.cache.purge(vec![tag("a")]);
        tokio::pin!(purge);
        // Begun, and left alone.
        assert!(futures_util::poll!(&mut purge).is_pending());
    }
    redis.resume();
    until("it is in the log", SOON, || async { logged(&redis, "a").await }).await;
}

#[tokio::test]
async fn a_new_node_judges_what_others_have_stored() {
    let redis = Redis::start().await;
    // Of a call that takes longer, which a busy machine is enough for, a purge is not recorded yet.
    let builder = GatewayBuilder::new("http://127.0.0.1:9").redis(&redis.url()).store("deadline = \"2s\"");
    let old = Node::start(&builder).await;
    let before = old.cache.purges().log_id().unwrap();
    // More than one page.
    let wanted = (0..2_500).map(|n| tag(&format!("t{n}"))).collect();
    old.cache.purge(wanted).await.unwrap();
    let after = old.cache.purges().log_id().unwrap();
    let new = Node::start(&builder).await;
    let verdict = |id, tags: &[&str]| {
        let purges = new.cache.purges();
        purges.stamp_from(id, key::resource_hash(HOST, "/x"), tags).map(|stamp| purges.verdict(&stamp))
    };
    until("the log is read", SOON, || async { !is_behind(&new.cache) }).await;
    for n in [0, 999, 1_000, 2_499] {
        assert_eq!(verdict(before, &[&format!("t{n}")]), Some(PurgeVerdict::Hard), "{n}");
        assert_eq!(verdict(after, &[&format!("t{n}")]), Some(PurgeVerdict::Current), "{n}");
    }
    assert_eq!(verdict(before, &["t2500"]), Some(PurgeVerdict::Current));
    assert_eq!(verdict("1-1-1".parse().unwrap(), &[]), None);
}

#[tokio::test]
async fn a_key_that_is_no_log_costs_no_answer() {
    let redis = Redis::start().await;
    let node = Node::on(&redis).await;
    let answer = node.answer("/x", &["a"]);
    let _: () = redis.run(&["SET", LOG, "text"]).await;
    until("it is noticed", SOON, || async { is_behind(&node.cache) }).await;
    assert_eq!(node.verdict(&answer).await, PurgeVerdict::Unsure, "what has changed can't be read");
    let later = node.answer("/x", &["a"]);
    assert_eq!(node.verdict(&later).await, PurgeVerdict::Current);
    assert_eq!(node.cache.purge(vec![tag("a")]).await, Err(StoreError::Protocol));
    assert_eq!(node.verdict(&answer).await, PurgeVerdict::Hard);
    assert_eq!(node.verdict(&later).await, PurgeVerdict::Hard);
    let _: u64 = redis.run(&["DEL", LOG]).await;
    until("it is paid", SOON, || async {
        let kind: String = redis.run(&["TYPE", LOG]).await;
        kind == "stream" && logged(&redis, "a").await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_of_the_sentinels_master_is_followed() {
    let mut sentinel = Sentinel::start().await;
    let builder = GatewayBuilder::new("http://127.0.0.1:9").redis(&sentinel.url());
    let nodes = [Node::start(&builder).await, Node::start(&builder).await];
    sentinel.failover().await;
    let purged = nodes[1].answer("/x", &["a"]);
    until("a purge is recorded on the new master", 2 * SOON, || async {
        nodes[0].cache.purge(vec![tag("a")]).await.is_ok()
    })
    .await;
    until("the other node knows", SOON, || async { nodes[1].verdict(&purged).await == PurgeVerdict::Hard })
        .await;
}

#[tokio::test]
async fn a_cluster_has_one_log() {
    let cluster = Cluster::start().await;
    let builder = GatewayBuilder::new("http://127.0.0.1:9").cluster(&cluster.urls());
    let nodes = [Node::start(&builder).await, Node::start(&builder).await];
    let (purged, kept) = (nodes[1].answer("/x", &["t299"]), nodes[1].answer("/y", &[]));
    nodes[0].cache.purge((0..300).map(|n| tag(&format!("t{n}"))).collect()).await.unwrap();
    nodes[1].finds(&purged, PurgeVerdict::Hard).await;
    assert_eq!(nodes[1].verdict(&kept).await, PurgeVerdict::Current);
}

/// `POST /api/purge` of a gateway.
async fn order(gateway: &Gateway, body: &serde_json::Value) -> Reply {
    send(gateway.client().post(gateway.admin_url("/api/purge")).json(body)).await
}

#[tokio::test]
async fn operators_purge_by_the_admin_listener() {
    let (origin, mut redis) = (TestOrigin::start().await, Redis::start().await);
    let gateway = Gateway::with(&origin).redis(&redis.url()).route("/*", FOLLOW).start().await;
    let node = Node::on(&redis).await;
    let (x, y) = (node.answer("/x", &[]), node.answer("/y", &["a"]));
    let reply = order(&gateway, &json!({"urls": ["http://dash.example/x"], "soft": true})).await.ok();
    assert_eq!(reply.json(), json!({"purged": 0, "soft": true}), "nothing is stored there on this node");
    node.finds(&x, PurgeVerdict::Soft).await;
    order(&gateway, &json!({"tag": "a"})).await.ok();
    node.finds(&y, PurgeVerdict::Hard).await;
    order(&gateway, &json!({"url": "/x"})).await.problem(400);
    redis.kill();
    let reply = order(&gateway, &json!({"all": true})).await.problem(503);
    assert_eq!(reply.header("retry-after"), "1");
    let metrics = gateway.metrics().await;
    for kind in ["url", "tag", "all"] {
        assert!(
            (metrics.value("tidegate_purges_total", &[("kind", kind)]) - 1.0).abs() < f64::EPSILON,
            "{kind}"
        );
    }
}

#[tokio::test]
async fn without_redis_a_gateway_purges_for_itself() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route("/x", KPI).start().await;
    let reply = order(&gateway, &json!({"all": true})).await.ok();
    assert_eq!(reply.json(), json!({"purged": 0, "soft": false}));
}

async fn command(config: &Path, words: &[&str]) -> (Option<i32>, String) {
    let words = [&["purge", "--config", config.to_str().unwrap()], words].concat();
    let output = tidegate_output(&words).await;
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn operators_purge_by_a_command() {
    let redis = Redis::start().await;
    let node = Node::on(&redis).await;
    let files = "[[route]]\npath = \"/files/*\"\nfiles = { root = \"/tmp\" }";
    let builder = GatewayBuilder::new("http://127.0.0.1:9").route("/*", FOLLOW).route("/kpi", KPI).raw(files);
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("tidegate.toml");
    let write = |builder: GatewayBuilder| {
        std::fs::write(&file, builder.toml(free_address(), free_address())).unwrap();
    };
    write(builder.clone().redis(&redis.url()));
    let (x, y) = (node.answer("/x", &[]), node.answer("/y", &["a"]));
    let (code, text) = command(&file, &["--soft", "http://dash.example/x", "http://dash.example/z"]).await;
    assert_eq!((code, text.as_str()), (Some(0), "purged: 2\n"));
    node.finds(&x, PurgeVerdict::Soft).await;
    let (code, text) = command(&file, &["--tag", "b", "--tag", "a"]).await;
    assert_eq!(code, Some(0), "{text}");
    node.finds(&y, PurgeVerdict::Hard).await;
    for (words, code) in [
        (&["/x"][..], 64),
        (&["--tag", ""], 64),
        (&[], 2),
        (&["http://a/", "--tag", "a"], 2),
        (&["http://a/x", "http://a/kpi"], 64),
        (&["http://a/files/x"], 64),
        (&["http://a/y/../x"], 64),
    ] {
        let (got, text) = command(&file, words).await;
        assert_eq!(got, Some(code), "{words:?}: {text}");
    }
    write(builder.clone());
    let (code, text) = command(&file, &["http://dash.example/x"]).await;
    assert!(code == Some(64) && text.contains("POST /api/purge"), "{text}");
    let (nobody, _refusing) = refused_address();
    write(builder.redis(&format!("redis://{nobody}")));
    assert_eq!(command(&file, &["http://dash.example/x"]).await.0, Some(69));
}

struct NoBody;

#[async_trait::async_trait]
impl IncomingBody for NoBody {
    async fn next(&mut self) -> Result<Option<Bytes>, OriginFetchError> {
        Ok(None)
    }
}

/// Between a look and the refresh that it leads to, another one may land.
#[tokio::test]
async fn what_is_fresh_by_now_is_not_refreshed() {
    let any = "127.0.0.1:0".parse().unwrap();
    let builder = GatewayBuilder::new("http://127.0.0.1:9").route("/x", "cache = \"origin\"");
    let secret = |_: &str| Some("a-secret-of-the-tests-with-more-than-32-bytes".to_owned());
    let config = Config::parse(&builder.toml(any, any), "fresh.toml", &secret).unwrap().config;
    let CacheMode::Follow(rules) = &config.routes[0].cache else { panic!("another mode") };
    let cache = Cache::new(&config.store, config.encoding, Arc::new(Metrics::new().unwrap()));
    let asked = Arc::new(AtomicUsize::new(0));
    let fetcher = || -> MissFetcher {
        let asked = asked.clone();
        Box::new(move |_: &[(http::HeaderName, HeaderValue)], _: std::time::Instant| -> OriginFetch {
            asked.fetch_add(1, Ordering::SeqCst);
            let control = HeaderValue::from_static("max-age=60, stale-while-revalidate=60");
            let headers = HeaderMap::from_iter([(header::CACHE_CONTROL, control)]);
            Box::pin(async { Ok(FetchedHead { status: StatusCode::OK, headers, body: Box::new(NoBody) }) })
        })
    };
    let key = CacheKey::of_resource(RequestScheme::Http, HOST, "/x");
    let asking = Arc::new(OriginLookup {
        key: key.clone(),
        resource: key::resource_hash(HOST, "/x"),
        host: HOST.to_owned(),
        target: "/x".to_owned(),
        method: Method::GET,
        headers: HeaderMap::new(),
        ours: Arc::new([]),
        authorized: false,
        asked: RequestDirectives::default(),
        rules: Arc::new((**rules).clone()),
        usual: Arc::default(),
    });
    let look = || cache.look_followed(&key, &HeaderMap::new(), &RequestDirectives::default(), now_ms());
    cache.answer_followed(asking.clone(), fetcher()).await;
    cache.purge(vec![PurgeOrder { target: PurgeTarget::of(HOST, "/x"), soft: true }]).await.unwrap();
    let MemoryLookup::Stale(old) = look() else { panic!("not stale") };
    cache.refresh_followed(asking.clone(), old.clone(), fetcher());
    until("it is fresh", SOON, || async { matches!(look(), MemoryLookup::Hit(_)) }).await;
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    cache.refresh_followed(asking, old, fetcher());
    // All is on this thread: whatever was begun goes on now.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}
