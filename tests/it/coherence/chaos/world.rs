//! Nodes, their proxies, one Redis, one origin, those who ask and those who change.

use crate::{
    coherence::chaos::{
        report::Report,
        schedule::{Schedule, Step},
        truth::Truth,
    },
    support::{
        client::{client, try_send},
        eventually,
        gateway::{token, EVENT_KEY},
        redis_server::try_run,
        webhook::Message,
        Answer, Gateway, GatewayBuilder, Proxy, Redis, TestOrigin,
    },
};
use nix::sys::signal::Signal;
use serde_json::json;
use std::{
    future::Future,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Mutex,
    },
    time::{Duration, Instant},
};
use tokio::{task::AbortHandle, time::sleep};

/// One thing that is asked for and changed.
pub(crate) struct Subject {
    /// The tenant, or the page.
    pub(crate) name: &'static str,
    /// True if its route has a namespace; else it follows its origin.
    pub(crate) namespaced: bool,
    /// True if it is asked for and changed often.
    pub(crate) busy: bool,
}

const fn subject(name: &'static str, namespaced: bool, busy: bool) -> Subject {
    Subject { name, namespaced, busy }
}

/// All of them.
pub(crate) const SUBJECTS: &[Subject] = &[
    subject("acme", true, true),
    subject("globex", true, false),
    subject("initech", true, true),
    subject("page", false, true),
    subject("chart", false, false),
];

/// A way in which a change is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By a signed event to this node.
    Event(usize),
    /// The application writes the next number, as Flask-Caching stores an `int`.
    Number,
    /// The application writes the next number as a `str`, which Flask-Caching pickles.
    Pickle,
    /// The version key is lost, and the application writes it anew, pickled.
    Anew,
    /// By a purge of the URL on this node.
    Url(usize),
    /// By a purge of a tag on this node.
    Tag(usize),
}

impl Way {
    /// The node that it goes through.
    pub(crate) fn node(self) -> Option<usize> {
        match self {
            Way::Event(node) | Way::Url(node) | Way::Tag(node) => Some(node),
            Way::Number | Way::Pickle | Way::Anew => None,
        }
    }
}

/// One change of one thing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) subject: usize,
    pub(crate) way: Way,
}

impl Subject {
    /// The ways in which it can be changed.
    pub(crate) fn ways(&self, nodes: usize) -> Vec<Way> {
        let nodes = 0..nodes;
        if !self.namespaced {
            return nodes.flat_map(|node| [Way::Url(node), Way::Tag(node)]).collect();
        }
        let by_event = nodes.map(Way::Event);
        by_event.chain([Way::Number, Way::Pickle, Way::Anew]).collect()
    }

    fn path(&self) -> String {
        if self.namespaced {
            "/api/kpi".to_owned()
        } else {
            format!("/pages/{}", self.name)
        }
    }

    fn version_key(&self) -> String {
        format!("dash:ver:kpi:{}", self.name)
    }
}

/// The host that clients and purges name.
const HOST: &str = "dash.example";
/// The time for which a client waits: a request that is late is asked again, so that a node that was away for seconds is met by
/// requests that have just begun.
const PATIENCE: Duration = Duration::from_millis(900);
/// The time for which a sender tries to have a change acknowledged.
const INSIST: Duration = Duration::from_secs(5);
/// The time within which all nodes show what is true once nothing disturbs them.
const SETTLED: Duration = Duration::from_secs(10);

struct Node {
    gateway: Gateway,
    stop: Arc<AtomicBool>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// The pace at which the world is worked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Time between two requests of a client for what is busy.
    pub(crate) busy: Duration,
    /// The same for what is quiet.
    pub(crate) quiet: Duration,
    /// An answer older than this is a violation.
    pub(crate) bound: Option<Duration>,
}

/// All of it.
pub(crate) struct World {
    pub(crate) redis: tokio::sync::Mutex<Redis>,
    pub(crate) proxies: Vec<Arc<Proxy>>,
    pub(crate) report: Report,
    /// The memory that Redis may use, in bytes; 0: as much as it likes.
    memory: &'static str,
    url: String,
    config: Vec<GatewayBuilder>,
    nodes: Mutex<Vec<Option<Node>>>,
    truths: Arc<Vec<Truth>>,
    pace: Pace,
    background: Mutex<Vec<AbortHandle>>,
    changes: Mutex<tokio::task::JoinSet<()>>,
    origin: TestOrigin,
}

impl World {
    /// The log of purges.
    pub(crate) const LOG: &str = "dash:purge:log";

    /// Starts so many nodes, with a place for one more, and a Redis that may use so much memory.
    pub(crate) async fn start(nodes: usize, store: &str, pace: Pace, memory: &'static str) -> Arc<Self> {
        let options = ["--maxmemory", memory, "--maxmemory-policy", "allkeys-lru"];
        Self::on(Redis::start_with(&options).await, "", nodes, store, pace, memory).await
    }

    /// The same with this server, and the user and password of nodes before an `@`.
    pub(crate) async fn on(
        redis: Redis,
        user: &str,
        nodes: usize,
        store: &str,
        pace: Pace,
        memory: &'static str,
    ) -> Arc<Self> {
        let origin = TestOrigin::start().await;
        let truths: Arc<Vec<Truth>> = Arc::new(SUBJECTS.iter().map(|_| Truth::default()).collect());
        show(&origin, &truths);
        let mut proxies = Vec::new();
        for _ in 0..=nodes {
            proxies.push(Arc::new(Proxy::start(redis.address()).await));
        }
        let config = proxies.iter().map(|proxy| {
            Gateway::with(&origin)
                .redis(&format!("redis://{user}{}", proxy.address()))
                .store(store)
                .route(
                    "/api/kpi",
                    r#"cache = { namespace = "kpi", scope = "tenant", ttl = "10m", stale_if_error = "10m" }"#,
                )
                .route("/pages/*", r#"cache = { follow = "origin", redis = "1MiB" }"#)
                .event("order_created", &["kpi"])
        });
        let world = Arc::new(Self {
            report: Report::new(crate::coherence::chaos::fault::Kind::ALL.iter().map(|kind| kind.name())),
            memory,
            url: redis.url(),
            redis: tokio::sync::Mutex::new(redis),
            config: config.collect(),
            nodes: Mutex::new(proxies.iter().map(|_| None).collect()),
            proxies,
            truths,
            pace,
            background: Mutex::default(),
            changes: Mutex::default(),
            origin,
        });
        let starting = (0..nodes).map(|node| world.clone().launch(node));
        futures_util::future::join_all(starting).await;
        world
    }

    /// The place of a node that is added; also how many nodes there are from the begin.
    pub(crate) fn spare(&self) -> usize {
        self.proxies.len() - 1
    }

    /// The keys of all versions.
    pub(crate) fn version_keys(&self) -> Vec<String> {
        SUBJECTS.iter().filter(|subject| subject.namespaced).map(Subject::version_key).collect()
    }

    async fn launch(self: Arc<Self>, place: usize) {
        let gateway = self.config[place].start().await;
        let stop = Arc::new(AtomicBool::new(false));
        for (subject, what) in SUBJECTS.iter().enumerate() {
            let (world, stop, url) = (self.clone(), stop.clone(), gateway.url(&what.path()));
            tokio::spawn(async move { world.ask(place, subject, &url, &stop).await });
        }
        self.report.note(&format!("node {place} is ready"));
        self.nodes.lock().unwrap()[place] = Some(Node { gateway, stop });
    }

    /// Kills a node, if there is one, and starts a new one in its place.
    pub(crate) fn restart(self: &Arc<Self>, place: usize) {
        drop(self.nodes.lock().unwrap()[place].take());
        self.changes.lock().unwrap().spawn(self.clone().launch(place));
    }

    /// Sends a signal to a node.
    pub(crate) fn signal(&self, place: usize, signal: Signal) {
        if let Some(node) = &self.nodes.lock().unwrap()[place] {
            node.gateway.signal(signal);
        }
    }

    /// Runs this until [`World::quiet`].
    pub(crate) fn background(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.background.lock().unwrap().push(tokio::spawn(task).abort_handle());
    }

    /// Ends what runs in the background.
    pub(crate) fn quiet(&self) {
        self.background.lock().unwrap().drain(..).for_each(|task| task.abort());
    }

    async fn redis_run<T: redis::FromRedisValue>(&self, words: &[&[u8]]) -> redis::RedisResult<T> {
        tokio::time::timeout(Duration::from_secs(1), try_run(&self.url, words))
            .await
            .unwrap_or_else(|_| Err((redis::ErrorKind::Io, "no answer").into()))
    }

    /// One command, by the way; a server that is away has other worries.
    pub(crate) async fn redis_once(&self, words: &[&str]) {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        drop(self.redis_run::<redis::Value>(&words).await);
    }

    /// A command again and again, until [`World::quiet`].
    pub(crate) fn redis_again(self: &Arc<Self>, pause: Duration, commands: &[&[&str]]) {
        let world = self.clone();
        let commands: Vec<Vec<String>> =
            commands.iter().map(|words| words.iter().map(|&word| word.to_owned()).collect()).collect();
        self.background(async move {
            loop {
                for words in &commands {
                    world.redis_once(&words.iter().map(String::as_str).collect::<Vec<_>>()).await;
                }
                sleep(pause).await;
            }
        });
    }

    /// Fills a small memory, so that keys are evicted all the time.
    pub(crate) async fn press_memory(self: &Arc<Self>) {
        let used: String = self.redis_run(&[b"INFO", b"memory"]).await.unwrap_or_default();
        let used =
            used.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse::<u64>().ok());
        let most = (used.unwrap_or(2 << 20) + (256 << 10)).to_string();
        self.redis_once(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
        self.redis_once(&["CONFIG", "SET", "maxmemory", &most]).await;
        self.background(self.clone().fill(Duration::from_millis(2)));
    }

    /// Writes keys that nobody reads, for ever.
    pub(crate) async fn fill(self: Arc<Self>, pause: Duration) {
        let filler = vec![b'x'; 16 << 10];
        for n in 0_u64.. {
            let key = format!("filler:{}", n % 1000);
            drop(self.redis_run::<redis::Value>(&[b"SET", key.as_bytes(), &filler]).await);
            sleep(pause).await;
        }
    }

    /// Ends that.
    pub(crate) async fn release_memory(&self) {
        self.redis_once(&["CONFIG", "SET", "maxmemory", self.memory]).await;
    }

    /// Asks a node for one thing again and again, and judges what comes.
    async fn ask(self: Arc<Self>, place: usize, subject: usize, url: &str, stop: &AtomicBool) {
        let what = &SUBJECTS[subject];
        let pause = if what.busy { self.pace.busy } else { self.pace.quiet };
        let request =
            client().get(url).bearer_auth(token(what.name, "ann")).header("host", HOST).timeout(PATIENCE);
        while !stop.load(Ordering::SeqCst) {
            let begun = Instant::now();
            let reply = try_send(request.try_clone().unwrap()).await;
            if stop.load(Ordering::SeqCst) {
                break;
            }
            self.judge(place, subject, begun, reply.ok());
            sleep(pause).await;
        }
    }

    fn judge(&self, place: usize, subject: usize, begun: Instant, reply: Option<crate::support::Reply>) {
        let name = SUBJECTS[subject].name;
        let Some(reply) = reply else { return self.report.count(|seen| seen.silent += 1) };
        let status = reply.cache_status().to_owned();
        if reply.status != 200 {
            self.report.count(|seen| seen.errors += 1);
            return self
                .report
                .violation(&format!("node {place} answers {} for {name} ({status})", reply.status));
        }
        let shown = reply.json()["truth"].as_u64().unwrap();
        let marks = ["detail=stale", "detail=slow-origin", "detail=origin-", "detail=fill-abandoned"];
        if marks.iter().any(|mark| status.contains(mark)) {
            return self.report.count(|seen| (seen.answers += 1, seen.marked += 1).0);
        }
        let age = self.truths[subject].age(shown, begun);
        self.report.count(|seen| {
            seen.answers += 1;
            seen.old += u64::from(age.is_some());
            seen.worst = seen.worst.max(age.unwrap_or_default());
        });
        let Some(age) = age else { return };
        let told = format!("node {place} shows {shown} of {name}, which is {age:?} old ({status})");
        if self.pace.bound.is_some_and(|bound| age > bound) {
            self.report.violation_once((place, subject, shown), &told);
        } else if age > Duration::from_millis(200) {
            self.report.note(&told);
        }
    }

    /// Changes what is true, and tells it in this way.
    async fn change(self: Arc<Self>, change: Change) {
        let (what, truth) = (&SUBJECTS[change.subject], &self.truths[change.subject]);
        let value = truth.change();
        let (begun, mut took) = (Instant::now(), false);
        let message = Message::new(json!({ "tenant": what.name }).to_string());
        while !took && begun.elapsed() < INSIST {
            took = match change.way {
                Way::Event(node) => self.event(node, &message).await,
                Way::Url(node) => {
                    self.purge(node, &json!({ "url": format!("http://{HOST}{}", what.path()) })).await
                }
                Way::Tag(node) => self.purge(node, &json!({ "tag": what.name })).await,
                Way::Number => self.write(what, false).await,
                Way::Pickle => self.write(what, true).await,
                Way::Anew => {
                    self.redis_once(&["DEL", &what.version_key()]).await;
                    self.write(what, true).await
                }
            };
            if !took {
                sleep(Duration::from_millis(200)).await;
            }
        }
        if took {
            truth.acknowledge(value);
        }
        self.report.count(|seen| if took { seen.acknowledged += 1 } else { seen.refused += 1 });
        let (way, taken) = (change.way, if took { "acknowledged" } else { "not acknowledged" });
        self.report.note(&format!("{} is {value}: {way:?} {taken} after {:?}", what.name, begun.elapsed()));
    }

    async fn event(&self, place: usize, message: &Message) -> bool {
        let request = {
            let nodes = self.nodes.lock().unwrap();
            let Some(node) = &nodes[place] else { return false };
            message.request(
                node.gateway.client(),
                &node.gateway.url("/internal/events/order_created"),
                EVENT_KEY,
            )
        };
        try_send(request.timeout(INSIST)).await.is_ok_and(|reply| reply.status.is_success())
    }

    async fn purge(&self, place: usize, order: &serde_json::Value) -> bool {
        let request = {
            let nodes = self.nodes.lock().unwrap();
            let Some(node) = &nodes[place] else { return false };
            node.gateway.client().post(node.gateway.admin_url("/api/purge")).json(order)
        };
        try_send(request.timeout(INSIST)).await.is_ok_and(|reply| reply.status.is_success())
    }

    /// Counts as the application does with Flask-Caching: the next number after the one that is there, after 1 where none is.
    async fn write(&self, what: &Subject, pickled: bool) -> bool {
        let key = what.version_key();
        let Ok(now) = self.redis_run::<Option<Vec<u8>>>(&[b"GET", key.as_bytes()]).await else {
            return false;
        };
        let next = (now.as_deref().and_then(number).unwrap_or(1) + 1).to_string();
        let value = if pickled { pickle(&next) } else { next.into_bytes() };
        self.redis_run::<redis::Value>(&[b"SET", key.as_bytes(), &value]).await.is_ok()
    }

    /// Does all of it at its time.
    pub(crate) async fn run(self: &Arc<Self>, schedule: &Schedule) {
        let begun = Instant::now();
        for (at, step) in schedule {
            sleep(at.saturating_sub(begun.elapsed())).await;
            match *step {
                Step::Begin(fault) => {
                    self.report.under(fault.kind.name());
                    self.report.note(&format!("begins: {fault:?}"));
                    fault.begin(self).await;
                }
                Step::End(fault) => {
                    fault.end(self).await;
                    self.report.note(&format!("ended: {fault:?}"));
                }
                Step::Calm => self.report.under(crate::coherence::chaos::report::CALM),
                Step::Change(change) => drop(self.changes.lock().unwrap().spawn(self.clone().change(change))),
            }
        }
    }

    /// Ends every fault and waits until all nodes show what was acknowledged last, and then one more change each.
    pub(crate) async fn settle(self: &Arc<Self>) {
        self.quiet();
        self.proxies.iter().for_each(|proxy| proxy.heal());
        (0..self.proxies.len()).for_each(|place| self.signal(place, Signal::SIGCONT));
        for words in [["maxmemory", "0"], ["min-replicas-to-write", "0"]] {
            eventually("redis answers", SETTLED, || async {
                self.redis_run::<redis::Value>(&[b"CONFIG", b"SET", words[0].as_bytes(), words[1].as_bytes()])
                    .await
                    .ok()
            })
            .await;
        }
        let changes = std::mem::take(&mut *self.changes.lock().unwrap());
        changes.join_all().await;
        let acknowledged: Vec<u64> = self.truths.iter().map(Truth::last_acknowledged).collect();
        self.all_show(&acknowledged, "an acknowledged change is lost").await;
        for (subject, what) in SUBJECTS.iter().enumerate() {
            let way = what.ways(1)[0];
            self.clone().change(Change { subject, way }).await;
        }
        let last: Vec<u64> = self.truths.iter().map(Truth::value).collect();
        self.all_show(&last, "a change after the faults does not arrive").await;
        self.origin.forget();
    }

    async fn all_show(&self, wanted: &[u64], otherwise: &str) {
        let asked: Vec<_> = {
            let nodes = self.nodes.lock().unwrap();
            nodes
                .iter()
                .enumerate()
                .filter_map(|(place, node)| Some((place, node.as_ref()?.gateway.url(""))))
                .collect()
        };
        let (begun, client) = (Instant::now(), client());
        for (place, url) in asked {
            for (subject, wanted) in SUBJECTS.iter().zip(wanted) {
                let request =
                    client.get(format!("{url}{}", subject.path())).bearer_auth(token(subject.name, "ann"));
                loop {
                    let reply = try_send(request.try_clone().unwrap().header("host", HOST)).await;
                    let shown = reply
                        .ok()
                        .filter(|reply| reply.status == 200)
                        .map(|reply| reply.json()["truth"].as_u64());
                    let shown = shown.flatten().unwrap_or_default();
                    if shown >= *wanted {
                        break;
                    }
                    if begun.elapsed() > SETTLED {
                        let name = subject.name;
                        self.report.violation(&format!(
                            "{otherwise}: node {place} shows {shown} of {name}, not {wanted}"
                        ));
                        break;
                    }
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    /// Holds that every node lives and that none has panicked.
    pub(crate) async fn assert_sound(&self) {
        let nodes: Vec<Node> = self.nodes.lock().unwrap().iter_mut().filter_map(Option::take).collect();
        for mut node in nodes {
            node.gateway.assert_sound().await;
        }
    }
}

/// Shows the truths: by tenant on the route with a namespace, by page on the one that follows.
fn show(origin: &TestOrigin, truths: &Arc<Vec<Truth>>) {
    let shown = truths.clone();
    origin.on("/api/kpi", move |seen| {
        let tenant = seen.header("x-tenant");
        let subject = SUBJECTS.iter().position(|subject| Some(subject.name) == tenant).unwrap();
        Answer::json(&json!({ "truth": shown[subject].value() })).after(Duration::from_millis(3))
    });
    for (index, subject) in SUBJECTS.iter().enumerate().filter(|(_, subject)| !subject.namespaced) {
        let shown = truths.clone();
        origin.on(&subject.path(), move |seen| {
            let value = shown[index].value();
            let tag = format!("\"{value}\"");
            let same = seen.header("if-none-match") == Some(&tag);
            let answer =
                Answer::json(&json!({ "truth": value })).header("cache-control", "public, max-age=600");
            let answer =
                answer.header("etag", &tag).header("cache-tag", subject.name).after(Duration::from_millis(3));
            if same {
                answer.status(304)
            } else {
                answer
            }
        });
    }
}

/// The bytes that `pickle.dumps(text)` writes by protocol 4, after the mark of Flask-Caching.
fn pickle(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    let mut out = b"!\x80\x04\x95".to_vec();
    out.extend_from_slice(&u64::from(length + 4).to_le_bytes());
    out.extend_from_slice(&[0x8c, length]);
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\x94.");
    out
}

/// The number in a version: plain, or pickled as above.
fn number(version: &[u8]) -> Option<u64> {
    let digits = match version.strip_prefix(b"!") {
        Some(pickled) => pickled.get(13..pickled.len().checked_sub(2)?)?,
        None => version,
    };
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[test]
fn a_number_is_read_back_from_its_pickle() {
    assert_eq!(pickle("123"), b"!\x80\x04\x95\x07\0\0\0\0\0\0\0\x8c\x03123\x94.");
    for text in ["2", "1783000000000", "18446744073709551615"] {
        assert_eq!(number(&pickle(text)), text.parse().ok());
        assert_eq!(number(text.as_bytes()), text.parse().ok());
    }
    assert_eq!(number(b"!x"), None);
}
