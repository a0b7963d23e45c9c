//! Read your event: the answer to an event names the versions that it made, and a request that names one gets no
//! answer from before it, on any node, by any way.

use crate::support::{
    client::try_send,
    events::EventStream,
    proxy::Which,
    tls::{self, of_http2, request, Authority, Http2, TlsClient},
    webhook::Message,
    *,
};
use bytes::Bytes;
use http::HeaderName;
use serde_json::json;
use std::{
    net::SocketAddr,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc,
    },
    time::{Duration, Instant},
};
use tokio::net::TcpStream;

const HOST: &str = "dash.example";
const EVENT: &str = "order_created";
const VERSION: &str = "tidegate-version";
const MIN_VERSION: &str = "tidegate-min-version";
/// No time of this century: a version that is never made.
const FUTURE: &str = "kpi=4000000000000";

/// The way of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Http10,
    Http11,
    /// HTTP/1.1 by Pingora's lane.
    Aside,
    Tls,
    /// HTTP/2 with prior knowledge.
    Prior,
    Http2,
}

const WAYS: [Way; 6] = [Way::Http10, Way::Http11, Way::Aside, Way::Tls, Way::Prior, Way::Http2];

/// A node with a plain listener, one with TLS and one for prior knowledge.
struct Node {
    gateway: Gateway,
    tls: SocketAddr,
    prior: SocketAddr,
    client: TlsClient,
    _authority: Authority,
}

impl Node {
    async fn start(builder: &GatewayBuilder) -> Self {
        let authority = Authority::new();
        authority.issue("a", &[HOST]);
        let gateway = builder
            .clone()
            .raw(&authority.listener(&["a"], ""))
            .raw("[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true")
            .start()
            .await;
        let [_, tls, prior] = gateway.listeners(3).await.try_into().unwrap();
        Self { gateway, tls, prior, client: authority.trusting(), _authority: authority }
    }

    async fn ask(&self, way: Way, method: &str, path: &str, fields: &[(&str, &str)]) -> Reply {
        let plain = |fields: &[(&str, &str)]| {
            let request = self.gateway.request(method, path);
            fields.iter().fold(request, |request, (name, value)| request.header(*name, *value))
        };
        match way {
            Way::Http10 => send(plain(fields).version(http::Version::HTTP_10)).await,
            Way::Http11 => send(plain(fields)).await,
            // Holds for every answer, and is left to Pingora.
            Way::Aside => send(plain(fields).header("if-match", "*")).await,
            Way::Tls => {
                let stream = self.client.connect(self.tls, HOST).await.unwrap();
                tls::exchange(stream, request(method, HOST, path, fields)).await
            }
            Way::Prior | Way::Http2 => {
                let mut request = of_http2(method, HOST, path, Bytes::new());
                for (name, value) in fields {
                    let name: HeaderName = name.parse().unwrap();
                    request.headers_mut().append(name, value.parse().unwrap());
                }
                self.http2(way).await.send(request).await.unwrap()
            }
        }
    }

    async fn get(&self, way: Way, path: &str, fields: &[(&str, &str)]) -> Reply {
        self.ask(way, "GET", path, fields).await
    }

    async fn http2(&self, way: Way) -> Http2 {
        match way {
            Way::Prior => Http2::over(TcpStream::connect(self.prior).await.unwrap()).await,
            _ => Http2::connect(&self.client, self.tls, HOST).await,
        }
    }

    async fn stream(&self, way: Way, path: &str, least: &str) -> EventStream {
        if matches!(way, Way::Prior | Way::Http2) {
            let mut request = of_http2("GET", HOST, path, Bytes::new());
            request.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
            request.headers_mut().insert(MIN_VERSION, least.parse().unwrap());
            return EventStream::by_http2(self.http2(way).await, request).await;
        }
        EventStream::open(self.gateway.address(), path, &[(MIN_VERSION, least)]).await
    }

    /// Sends the event as senders do, and tells the versions that it has made.
    async fn event(&self) -> String {
        eventually("the event is accepted", SOON, || async {
            let reply = self.gateway.event(EVENT, &json!({ "tenant": "public" })).await;
            (reply.status == 204).then(|| reply.header(VERSION).to_owned())
        })
        .await
    }
}

/// An origin whose answers are a number that the test sets.
struct Shop {
    origin: TestOrigin,
    orders: Arc<AtomicU64>,
    fails: Arc<AtomicBool>,
}

impl Shop {
    async fn start() -> Self {
        let origin = TestOrigin::start().await;
        let (orders, fails) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        for path in ["/kpi", "/chart", "/short", "/followed", "/plain"] {
            let (orders, fails) = (orders.clone(), fails.clone());
            origin.on(path, move |_| {
                let answer = Answer::json(&json!({ "orders": orders.load(Ordering::SeqCst) }));
                let status = if fails.load(Ordering::SeqCst) { 500 } else { 200 };
                answer.status(status).header("cache-control", "max-age=60").gated()
            });
        }
        Self { origin, orders, fails }
    }

    fn change(&self) -> u64 {
        self.orders.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn gateway(&self) -> GatewayBuilder {
        let cache = |namespace: &str, more: &str| {
            format!(
                "cache = {{ namespace = \"{namespace}\", ttl = \"60s\", stale_if_error = \"10m\"{more} }}"
            )
        };
        Gateway::with(&self.origin)
            .route("/kpi", &format!("{}\nlive = true", cache("kpi", "")))
            .route("/chart", &format!("{}\nlive = true", cache("chart", "")))
            .route("/short", &cache("kpi", ", min_version_wait = \"300ms\""))
            .route("/followed", "cache = \"origin\"")
            .route("/plain", "")
            .raw("[[live]]\npath = \"/live\"\nwatch = { kpi = \"/kpi\", chart = \"/chart\" }")
            .event(EVENT, &["kpi", "chart"])
    }
}

#[track_caller]
fn orders(reply: &Reply) -> u64 {
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["orders"].as_u64().unwrap()
}

#[track_caller]
fn is_unreached(reply: Reply) {
    assert_eq!(reply.cache_status(), "tidegate; detail=min-version", "{reply:?}");
    assert!(reply.problem(504).json()["detail"].as_str().unwrap().contains("Tidegate-Min-Version"));
}

#[tokio::test]
async fn an_event_at_one_node_is_read_at_another_at_once_by_every_way() {
    let (shop, redis) = (Shop::start().await, Redis::start().await);
    // The other node hears of changes late, and would go on with what it has.
    let proxy = Proxy::start(redis.address()).await;
    let here = Node::start(&shop.gateway().redis(&redis.url())).await;
    let there = Node::start(&shop.gateway().redis(&proxy.url())).await;
    until("the other node is linked", SOON, || there.gateway.is_linked()).await;
    proxy.delay(Which::Reports, Duration::ZERO, Duration::from_millis(300));
    let mut old = 0;
    for round in 0..200 {
        let way = WAYS[round % WAYS.len()];
        there.get(way, "/kpi", &[]).await.ok();
        let now = shop.change();
        let versions = here.event().await;
        if round < 20 {
            old += u32::from(orders(&there.get(way, "/kpi", &[]).await) < now);
        }
        let reply = there.get(way, "/kpi", &[(MIN_VERSION, &versions)]).await;
        assert_eq!(orders(&reply), now, "round {round} {way:?} {versions}: {reply:?}");
        // Once it is there it is a hit, and a HEAD or a conditional request goes by it as well.
        let reply = there.get(way, "/kpi", &[(MIN_VERSION, &versions)]).await;
        assert!(orders(&reply) == now && reply.is_hit(), "{way:?} {reply:?}");
        if round < WAYS.len() {
            let tag = reply.header("etag").to_owned();
            let head = there.ask(way, "HEAD", "/kpi", &[(MIN_VERSION, &versions)]).await;
            assert_eq!((head.status.as_u16(), head.header("etag")), (200, &*tag), "{way:?}");
            let same = [(MIN_VERSION, versions.as_str()), ("if-none-match", &tag)];
            assert_eq!(there.get(way, "/kpi", &same).await.status, 304, "{way:?}");
        }
    }
    assert!(old > 0, "no answer without the field was old: this test shows nothing");
}

#[tokio::test]
async fn streams_and_requests_that_wait_begin_no_earlier() {
    let (shop, redis) = (Shop::start().await, Redis::start().await);
    let proxy = Proxy::start(redis.address()).await;
    let here = Node::start(&shop.gateway().redis(&redis.url())).await;
    let there = Node::start(&shop.gateway().redis(&proxy.url())).await;
    until("the other node is linked", SOON, || there.gateway.is_linked()).await;
    proxy.delay(Which::Reports, Duration::ZERO, Duration::from_millis(300));
    for way in [Way::Http11, Way::Prior, Way::Http2] {
        // Somebody watches already, and keeps the state from before.
        let mut before = EventStream::open(there.gateway.address(), "/live?watch=kpi,chart", &[]).await;
        before.next().await;
        let tag = there.get(way, "/kpi", &[]).await.ok().header("etag").to_owned();
        let now = shop.change();
        let versions = here.event().await;
        let mut one = there.stream(way, "/kpi", &versions).await;
        assert_eq!(one.next().await.json(), json!({ "orders": now }), "{way:?}");
        let mut both = there.stream(way, "/live?watch=kpi,chart", &versions).await;
        for _ in 0..2 {
            assert_eq!(both.next().await.json(), json!({ "orders": now }), "{way:?}");
        }
        let fields = [(MIN_VERSION, versions.as_str()), ("prefer", "wait=5"), ("if-none-match", &tag)];
        assert_eq!(orders(&there.get(way, "/kpi", &fields).await), now, "{way:?}");
    }
    // A state that can't be read is not told of as if it were new.
    shop.fails.store(true, Ordering::SeqCst);
    let now = shop.change();
    let versions = here.event().await;
    let mut stream = there.stream(Way::Http11, "/kpi", &versions).await;
    assert_eq!(stream.next().await.name, "stale");
    shop.fails.store(false, Ordering::SeqCst);
    let event = stream.next_named("metric_update").await;
    assert_eq!(event.json(), json!({ "orders": now }));
    let watch = there
        .gateway
        .get_with("/live?watch=kpi", &[("accept", "text/event-stream"), (MIN_VERSION, "kpi=soon")]);
    assert_eq!(watch.await.problem(400).cache_status(), "tidegate; detail=bad_min_version");
}

#[tokio::test]
async fn what_is_not_there_in_time_is_a_504_and_never_an_older_answer() {
    let (shop, mut redis) = (Shop::start().await, Redis::start().await);
    let node = Node::start(&shop.gateway().redis(&redis.url())).await;
    let path = "/short";
    let old = shop.change();
    let known = node.event().await;
    for way in WAYS {
        assert_eq!(orders(&node.get(way, path, &[(MIN_VERSION, &known)]).await), old, "{way:?}");
        let began = Instant::now();
        is_unreached(node.get(way, path, &[(MIN_VERSION, FUTURE)]).await);
        assert!(began.elapsed() >= Duration::from_millis(300), "{way:?}");
        assert_eq!(node.ask(way, "HEAD", path, &[(MIN_VERSION, FUTURE)]).await.status, 504, "{way:?}");
    }
    // All members of the namespace count.
    is_unreached(node.get(Way::Http11, path, &[(MIN_VERSION, &format!("{FUTURE}, {known}"))]).await);

    // The origin fails: the last generation stands in for nobody who knows of a later one.
    let next = shop.change();
    shop.fails.store(true, Ordering::SeqCst);
    let versions = node.event().await;
    for way in WAYS {
        assert_eq!(orders(&node.get(way, path, &[]).await), old, "{way:?}");
        assert_eq!(node.get(way, path, &[(MIN_VERSION, &versions)]).await.status, 500, "{way:?}");
        // For who knows of it, it does.
        assert_eq!(orders(&node.get(way, path, &[(MIN_VERSION, &known)]).await), old, "{way:?}");
    }
    shop.fails.store(false, Ordering::SeqCst);

    // The fill takes too long, and goes on.
    shop.origin.hold();
    is_unreached(node.get(Way::Http11, path, &[(MIN_VERSION, &versions)]).await);
    shop.origin.release();
    until("the fill has landed", SOON, || async {
        node.get(Way::Http11, path, &[(MIN_VERSION, &versions)]).await.is_hit()
    })
    .await;

    // Redis is away: what is known to be late enough is served, and nothing else.
    redis.kill();
    for way in WAYS {
        is_unreached(node.get(way, path, &[(MIN_VERSION, FUTURE)]).await);
        assert_eq!(orders(&node.get(way, path, &[(MIN_VERSION, &versions)]).await), next, "{way:?}");
    }
    let refused = node.gateway.event(EVENT, &json!({ "tenant": "public" })).await.problem(503);
    assert_eq!(refused.header(VERSION), "", "no version was made for all nodes");
    redis.restart().await;
    let now = shop.change();
    let versions = node.event().await;
    let reply = node.get(Way::Http11, "/kpi", &[(MIN_VERSION, &versions)]).await;
    assert_eq!(orders(&reply), now);
}

#[tokio::test]
async fn a_request_waits_for_a_version_that_is_made_meanwhile() {
    let (shop, redis) = (Shop::start().await, Redis::start().await);
    for builder in [shop.gateway().redis(&redis.url()), shop.gateway()] {
        let node = Node::start(&builder).await;
        let first = node.event().await;
        let kpi = first.split(',').next().unwrap();
        let made: u64 = kpi.strip_prefix("kpi=").unwrap().parse().unwrap();
        node.get(Way::Http11, "/kpi", &[]).await.ok();
        let next = format!("kpi={}", made + 1);
        let fields = [(MIN_VERSION, next.as_str())];
        let waiting = node.get(Way::Http11, "/kpi", &fields);
        let now = shop.orders.load(Ordering::SeqCst) + 1;
        let (reply, _) = tokio::join!(waiting, async {
            tokio::task::yield_now().await;
            shop.change();
            node.event().await
        });
        assert_eq!(orders(&reply), now);
    }
}

#[tokio::test]
async fn a_value_without_an_order_is_read_from_redis_after_the_request() {
    let (shop, redis) = (Shop::start().await, Redis::start().await);
    let proxy = Proxy::start(redis.address()).await;
    let node = Node::start(&shop.gateway().redis(&proxy.url())).await;
    until("the node is linked", SOON, || node.gateway.is_linked()).await;
    let number = node.event().await;
    proxy.delay(Which::Reports, Duration::ZERO, Duration::from_millis(300));
    for (round, value) in ["build-41", "build-42"].into_iter().enumerate() {
        node.get(Way::Http11, "/kpi", &[]).await.ok();
        let now = shop.change();
        redis.run::<()>(&["SET", "dash:ver:kpi:public", value]).await;
        // The number is known to be over, and the text to be what is there.
        let tag = format!("kpi=x{}", &sha256(value.as_bytes())[..24]);
        for least in [&tag, &number] {
            let reply = node.get(Way::Http11, "/kpi", &[(MIN_VERSION, least)]).await;
            assert_eq!(orders(&reply), now, "round {round}, {least}");
        }
    }
}

#[tokio::test]
async fn bad_fields_are_refused_and_none_reaches_an_origin() {
    let (shop, redis) = (Shop::start().await, Redis::start().await);
    let node = Node::start(&shop.gateway().redis(&redis.url())).await;
    let many = vec!["kpi=1"; 17].join(", ");
    for way in WAYS {
        for (field, said) in [
            ("", "not a namespace and a version"),
            ("kpi", "not a namespace and a version"),
            ("kpi=", "not a namespace and a version"),
            ("kpi=1,", "not a namespace and a version"),
            ("kpi=-1", "not a namespace and a version"),
            ("kpi=\"1\"", "not a namespace and a version"),
            ("kpi=1;q=1", "not a namespace and a version"),
            ("kpi=xyz", "not a namespace and a version"),
            ("k/pi=1", "not a namespace and a version"),
            ("kpi=1, orders=1", "that no route has"),
            (&many, "more than 16"),
        ] {
            let reply = node.get(way, "/kpi", &[(MIN_VERSION, field)]).await.problem(400);
            assert_eq!(reply.cache_status(), "tidegate; detail=bad_min_version", "{way:?} {field:?}");
            assert!(reply.json()["detail"].as_str().unwrap().contains(said), "{way:?} {field:?} {reply:?}");
            // Routes without a namespace have no versions.
            for path in ["/followed", "/plain"] {
                node.get(way, path, &[(MIN_VERSION, field)]).await.ok();
            }
        }
        // Other namespaces say nothing of this one.
        node.get(way, "/kpi", &[(MIN_VERSION, "chart=4000000000000")]).await.ok();
        node.get(way, "/kpi", &[(MIN_VERSION, "kpi=1, chart=1")]).await.ok();
        node.ask(way, "POST", "/kpi", &[(MIN_VERSION, FUTURE), ("content-length", "0")]).await.ok();
    }
    for path in ["/kpi", "/followed", "/plain"] {
        let seen = shop.origin.seen(path);
        assert!(!seen.is_empty() && seen.iter().all(|seen| seen.header(MIN_VERSION).is_none()), "{path}");
    }
    let metrics = node.gateway.metrics().await;
    let refused = metrics.value("tidegate_rejected_requests_total", &[("reason", "bad_min_version")]);
    assert!((refused - 66.0).abs() < f64::EPSILON, "{refused}");
}

#[tokio::test]
async fn the_answer_to_an_event_names_the_versions_that_it_made() {
    let (shop, redis) = (Shop::start().await, Redis::start().await);
    let forwarded = "forward = true\nrate = 100000\nbump = [\"chart\"]";
    let builder = shop.gateway().redis(&redis.url()).event_with("forwarded", forwarded);
    let nodes = [Node::start(&builder).await, Node::start(&builder).await];
    shop.origin.on("/internal/events/forwarded", |seen| {
        Answer::echo(seen).status(202).header(VERSION, "chart=7").header(VERSION, "chart=8")
    });
    let version = async |namespace: &str, tenant: &str| {
        redis.run::<String>(&["GET", &format!("dash:ver:{namespace}:{tenant}")]).await
    };
    for tenant in ["public", "acme"] {
        let message = Message::new(json!({ "tenant": tenant }).to_string());
        let accepted = async |node: &Node, event: &str| {
            let request = || node.gateway.event_request(event, &message);
            eventually("the event is accepted", SOON, || async {
                try_send(request()).await.ok().filter(|reply| reply.status.is_success())
            })
            .await
        };
        let made = accepted(&nodes[0], EVENT).await.all(VERSION);
        let expected =
            format!("kpi={}, chart={}", version("kpi", tenant).await, version("chart", tenant).await);
        assert_eq!(made, expected, "{tenant}");
        // A repeated event has made none: its sender is told of those that are there.
        for node in &nodes {
            assert_eq!(accepted(node, EVENT).await.all(VERSION), expected, "{tenant}");
        }
        let reply = accepted(&nodes[1], "forwarded").await;
        assert_eq!(reply.status, 202);
        assert_eq!(reply.all(VERSION), format!("chart={}", version("chart", tenant).await), "{tenant}");
    }
    let bad = nodes[0].gateway.event(EVENT, &json!({ "tenant": "a:b" })).await.problem(400);
    assert_eq!(bad.header(VERSION), "");
}
