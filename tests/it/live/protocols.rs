//! The same stream by every protocol and both lanes, and what is no stream.

use super::*;
use crate::support::{
    exchange::Wire,
    gateway::token,
    tls::{of_http2, Authority, Http2, TlsClient},
};
use bytes::Bytes;
use http::{HeaderName, Request};
use http_body_util::Full;
use std::net::SocketAddr;
use tokio::net::TcpStream;

const HOST: &str = "dash.example";
/// Has no meaning, and is left to Pingora.
const ASIDE: (&str, &str) = ("Connection", "keep-alive\r\nConnection: keep-alive");
const ACCEPT: (&str, &str) = ("Accept", "text/event-stream");

/// The way to the gateway.
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

/// A gateway with a plain listener, one with TLS and one for prior knowledge.
struct Stage {
    origin: TestOrigin,
    orders: Arc<AtomicU64>,
    gateway: Gateway,
    tls: SocketAddr,
    prior: SocketAddr,
    client: TlsClient,
    _authority: Authority,
}

impl Stage {
    async fn set() -> Self {
        let (origin, orders, authority) =
            (TestOrigin::start().await, Arc::new(AtomicU64::new(0)), Authority::new());
        authority.issue("a", &[HOST]);
        for (path, control) in [
            ("/bumped", "no-cache"),
            ("/short", "no-cache"),
            ("/dressed", "no-cache"),
            ("/query", "no-cache"),
            ("/plain", "no-cache"),
            ("/followed/purged", "max-age=60"),
            ("/followed/short", "max-age=1"),
        ] {
            let counted = orders.clone();
            origin.on(path, move |seen| {
                let orders = counted.load(Ordering::SeqCst);
                let body = json!({ "orders": orders, "method": seen.method.as_str() });
                Answer::json(&body).header("cache-control", control)
            });
        }
        let counted = orders.clone();
        origin.on("/long", move |_| {
            let rows: Vec<_> = (0..500).map(|n| json!({ "row": n, "name": "a customer" })).collect();
            Answer::json(&json!({ "orders": counted.load(Ordering::SeqCst), "rows": rows }))
        });
        let namespace = |ttl: &str, more: &str| {
            format!("cache = {{ namespace = \"kpi\", ttl = \"{ttl}\" }}\nlive = true\n{more}")
        };
        let dressed = "cors = { origins = [\"https://app.example\"] }\n\
            response_headers = { set = { \"X-Served-By\" = \"edge\" } }";
        let gateway = Gateway::with(&origin)
            .raw(&authority.listener(&["a"], ""))
            .raw("[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true")
            .route("/bumped", &namespace("60s", ""))
            .route("/short", &namespace("1s", ""))
            .route("/long", &namespace("60s", ""))
            .raw("[[live]]\npath = \"/live\"\nwatch = { long = \"/long\", short = \"/bumped\" }")
            .route("/dressed", &namespace("60s", dressed))
            .route("/query", &namespace("60s", "auth = \"required\"\ntoken_query = true"))
            .route("/plain", "cache = { namespace = \"kpi\", ttl = \"60s\" }")
            .route("/followed/*", "cache = \"origin\"\nlive = true")
            .event("order_created", &["kpi"])
            .start()
            .await;
        let [_, tls, prior] = gateway.listeners(3).await.try_into().unwrap();
        Self { origin, orders, gateway, tls, prior, client: authority.trusting(), _authority: authority }
    }

    async fn open(&self, way: Way, path: &str, fields: &[(&str, &str)]) -> EventStream {
        let mut fields = [&[ACCEPT], fields].concat();
        if matches!(way, Way::Prior | Way::Http2) {
            return EventStream::by_http2(self.http2(way).await, http2_request("GET", path, &fields)).await;
        }
        fields.extend((way == Way::Aside).then_some(ASIDE));
        let version = if way == Way::Http10 { "1.0" } else { "1.1" };
        let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!("GET {path} HTTP/{version}\r\nHost: {HOST}\r\n{lines}\r\n");
        EventStream::of(match way {
            Way::Tls => Transfer::over(self.client.connect(self.tls, HOST).await.unwrap(), &request).await,
            _ => Transfer::over(TcpStream::connect(self.gateway.address()).await.unwrap(), &request).await,
        })
        .await
    }

    async fn http2(&self, way: Way) -> Http2 {
        match way {
            Way::Prior => Http2::over(TcpStream::connect(self.prior).await.unwrap()).await,
            _ => Http2::connect(&self.client, self.tls, HOST).await,
        }
    }

    fn state(&self) -> Value {
        json!({ "orders": self.orders.load(Ordering::SeqCst), "method": "GET" })
    }

    fn change(&self) -> Value {
        self.orders.fetch_add(1, Ordering::SeqCst);
        self.state()
    }
}

fn http2_request(method: &str, path: &str, fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = of_http2(method, HOST, path, Bytes::new());
    for (name, value) in fields {
        let name: HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Bump,
    Purge,
    EndOfLifetime,
}

#[tokio::test]
async fn every_change_reaches_the_streams_of_all_protocols() {
    let stage = Stage::set().await;
    for (path, cause) in [
        ("/bumped", Cause::Bump),
        ("/short", Cause::EndOfLifetime),
        ("/followed/purged", Cause::Purge),
        ("/followed/short", Cause::EndOfLifetime),
    ] {
        let mut streams = Vec::new();
        for way in WAYS {
            let mut stream = stage.open(way, path, &[]).await;
            assert_eq!(stream.next().await.json(), stage.state(), "{path} {way:?}");
            streams.push((way, stream));
        }
        for _ in 0..2 {
            let state = stage.change();
            match cause {
                Cause::Bump => stage.gateway.bump("public").await,
                Cause::Purge => drop(stage.gateway.purge(&json!({ "all": true })).await.ok()),
                Cause::EndOfLifetime => {}
            }
            for (way, stream) in &mut streams {
                let event = stream.next().await;
                assert_eq!(
                    (event.name.as_str(), event.json()),
                    ("metric_update", state.clone()),
                    "{path} {way:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_shutdown_ends_the_streams_of_all_protocols_as_their_framing_says() {
    let mut stage = Stage::set().await;
    let mut streams = Vec::new();
    for way in WAYS {
        let mut stream = stage.open(way, "/bumped", &[]).await;
        stream.next().await;
        streams.push((way, stream));
    }
    stage.gateway.sigterm();
    for (way, mut stream) in streams {
        let (events, end) = stream.rest().await;
        let names: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!((names, end), (vec!["retry"], End::Clean), "{way:?}");
    }
    assert!(stage.gateway.wait(SOON).await.success());
}

/// Compressed once for all, event by event; what joins later, and what watches several entries, gets it as well.
#[tokio::test]
async fn a_client_that_takes_gzip_gets_the_same_events_in_fewer_bytes() {
    let mut stage = Stage::set().await;
    let gzip = [("Accept-Encoding", "gzip, deflate, br, zstd")];
    for path in ["/long", "/live?watch=long,short", "/live?watch=short"] {
        let mut streams = Vec::new();
        for way in WAYS {
            for fields in [&gzip[..], &[("Accept-Encoding", "gzip;q=0, br")], &[]] {
                let mut stream = stage.open(way, path, fields).await;
                let is_gzip = fields.first() == gzip.first();
                assert_eq!(stream.head.header("content-encoding").is_some(), is_gzip, "{path} {way:?}");
                stream.next().await;
                streams.push((way, is_gzip, stream));
            }
        }
        let state = stage.change();
        stage.gateway.bump("public").await;
        let mut ids = Vec::new();
        for (way, is_gzip, stream) in &mut streams {
            let of_entry = if path.ends_with("=short") { "short" } else { "long" };
            let event = loop {
                let event = stream.next().await;
                if event.json()["orders"] == state["orders"] && (path == "/long" || event.name == of_entry) {
                    break event;
                }
            };
            let is_small = *is_gzip && !path.ends_with("=short");
            assert_eq!(
                stream.received < 12_000,
                is_small || path.ends_with("=short"),
                "{path} {way:?}: {}",
                stream.received
            );
            ids.push(event.id.clone().map(|id| id.split(',').next().map(str::to_owned)));
        }
        assert!(ids.windows(2).all(|two| two[0] == two[1]), "{ids:?}");
        drop(streams);
    }
    let mut streams = Vec::new();
    for way in WAYS {
        streams.push((way, stage.open(way, "/long", &gzip).await));
    }
    stage.gateway.sigterm();
    for (way, mut stream) in streams {
        let (events, end) = stream.rest().await;
        let last = events.last().map(|event| event.name.as_str());
        assert_eq!((last, end), (Some("retry"), End::Clean), "{way:?}");
    }
    assert!(stage.gateway.wait(SOON).await.success());
}

#[tokio::test]
async fn a_stream_has_the_fields_of_its_route() {
    let stage = Stage::set().await;
    for way in WAYS {
        let head = stage.open(way, "/dressed", &[("Origin", "https://app.example")]).await.head;
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-accel-buffering", "no"),
            ("incremental", "?1"),
            ("cache-status", "tidegate; detail=live"),
            ("x-served-by", "edge"),
            ("access-control-allow-origin", "https://app.example"),
        ] {
            assert_eq!(head.header(name), Some(value), "{way:?}: {}", head.text);
        }
        assert!(head.header("x-request-id").is_some(), "{way:?}: {}", head.text);
        let chunked = matches!(way, Way::Http11 | Way::Aside | Way::Tls);
        assert_eq!(head.header("transfer-encoding").is_some(), chunked, "{way:?}: {}", head.text);
        let foreign = stage.open(way, "/dressed", &[("Origin", "https://other.example")]).await.head;
        assert_eq!(foreign.header("access-control-allow-origin"), None, "{way:?}");
    }
}

#[tokio::test]
async fn a_token_in_the_query_opens_a_stream() {
    let stage = Stage::set().await;
    stage.gateway.get_with("/query", &[ACCEPT]).await.problem(401);
    let path = format!("/query?token={}", token("acme", "ann"));
    for way in WAYS {
        assert_eq!(stage.open(way, &path, &[]).await.next().await.json(), stage.state(), "{way:?}");
    }
    assert_eq!(stage.origin.count("/query"), 1);
}

#[tokio::test]
async fn what_does_not_ask_for_a_stream_is_answered_as_before() {
    let stage = Stage::set().await;
    let gateway = &stage.gateway;
    let head = gateway.send_with("HEAD", "/bumped", &[ACCEPT]).await.ok();
    assert_eq!((head.header("content-type"), head.body.len()), ("application/json", 0));
    let posted = gateway.send_with("POST", "/bumped", &[ACCEPT]).await.ok();
    assert_eq!(posted.json()["method"], "POST");
    assert!(posted.cache_status().contains("fwd=method"), "{posted:?}");
    for accept in ["*/*", "text/*", "application/json", "text/event-stream;q=0"] {
        for path in ["/bumped", "/followed/purged"] {
            let reply = gateway.get_with(path, &[("Accept", accept)]).await.ok();
            assert_eq!(reply.json()["orders"], 0, "{path} {accept}");
        }
    }
    assert_eq!(gateway.get_with("/plain", &[ACCEPT]).await.ok().json()["orders"], 0);
    assert!(gateway.get_with("/plain", &[ACCEPT]).await.is_hit(), "a route without live");
}

#[tokio::test]
async fn plain_requests_stay_hits_of_the_prepared_lane_beside_streams() {
    let stage = Stage::set().await;
    let gateway = &stage.gateway;
    let by_lane = || async { gateway.metrics().await.value("tidegate_fast_lane_total", &[]) };
    for path in ["/bumped", "/followed/purged"] {
        gateway.get(path).await.ok();
        let before = by_lane().await;
        let mut streams = Vec::new();
        for way in WAYS {
            let mut stream = stage.open(way, path, &[]).await;
            assert_eq!(stream.next().await.json(), stage.state(), "{path} {way:?}");
            streams.push(stream);
        }
        assert!((by_lane().await - before).abs() < f64::EPSILON, "{path}: no stream is a hit");
        for _ in 0..3 {
            assert!(gateway.get(path).await.ok().is_hit(), "{path}");
        }
        assert!((by_lane().await - before - 3.0).abs() < f64::EPSILON, "{path}");
    }
}

/// A cache between the client and the gateway must not answer a request for a stream with a stored answer.
#[tokio::test]
async fn plain_answers_of_a_watched_route_vary_by_accept() {
    let stage = Stage::set().await;
    let gateway = &stage.gateway;
    let varies =
        |vary: &str| vary.split(',').filter(|name| name.trim().eq_ignore_ascii_case("accept")).count();
    let http2 = stage.http2(Way::Http2).await;
    for path in ["/bumped", "/followed/purged"] {
        let miss = gateway.get(path).await.ok();
        let tag = miss.header("etag").to_owned();
        let conditional = [("If-None-Match", tag.as_str())];
        let mut replies = vec![miss];
        for _ in 0..2 {
            replies.push(gateway.get(path).await.ok());
            replies.push(gateway.send_with("HEAD", path, &[]).await.ok());
            replies.push(http2.send(http2_request("GET", path, &[])).await.unwrap());
            if !tag.is_empty() {
                replies.push(gateway.get_with(path, &conditional).await);
            }
        }
        replies.push(gateway.send_with("POST", path, &[]).await.ok());
        for reply in replies {
            assert_eq!(varies(&reply.all("vary")), 1, "{path}: {reply:?}");
        }
        let mut wire = Wire::new(gateway.address());
        let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{}: {}\r\n\r\n", ASIDE.0, ASIDE.1);
        wire.send(&[request.as_bytes()]).await;
        assert_eq!(varies(&wire.receive(false).await.lines("vary").join(", ")), 1, "{path}");
    }
    let reply = gateway.get_with("/dressed", &[("Origin", "https://app.example")]).await.ok();
    assert_eq!(varies(&reply.all("vary")), 1, "{reply:?}");
    assert!(reply.all("vary").to_ascii_lowercase().contains("origin"), "{reply:?}");
    assert_eq!(varies(&gateway.get("/plain").await.ok().all("vary")), 0, "a route without live");
}

/// The script of a `[[live]]`: asked for each time, and hardly ever sent.
#[tokio::test]
async fn the_script_is_validated_by_each_page_and_sent_once() {
    const SCRIPT: &str = "/live.js";
    let stage = Stage::set().await;
    let http2 = stage.http2(Way::Http2).await;
    let mut tags = Vec::new();
    for by_http2 in [false, true] {
        let ask = |method: &'static str, fields: Vec<(&'static str, String)>| {
            let (gateway, http2) = (&stage.gateway, &http2);
            async move {
                let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
                match by_http2 {
                    true => http2.send(http2_request(method, SCRIPT, &fields)).await.unwrap(),
                    false => gateway.send_with(method, SCRIPT, &fields).await,
                }
            }
        };
        let plain = ask("GET", vec![]).await.ok();
        assert!(plain.text().contains("self.tidegate"), "{plain:?}");
        for coding in ["gzip", "br", "zstd"] {
            let encoded = ask("GET", vec![("accept-encoding", coding.to_owned())]).await.ok();
            assert_eq!(encoded.header("content-encoding"), coding);
            assert_eq!(encoded.decoded(), plain.body, "{coding}");
            assert!(encoded.body.len() <= 3_072, "{coding}: {} bytes", encoded.body.len());
            let head = ask("HEAD", vec![("accept-encoding", coding.to_owned())]).await.ok();
            assert_eq!((head.body.len(), head.header("content-encoding")), (0, coding));
            assert_eq!(head.header("content-length"), encoded.body.len().to_string());
            for reply in [&plain, &encoded, &head] {
                assert_eq!(reply.header("content-type"), "text/javascript; charset=utf-8");
                assert_eq!(reply.header("cache-control"), "no-cache");
                assert_eq!(reply.header("vary").to_ascii_lowercase(), "accept-encoding");
            }
            for (method, reply) in [("GET", &plain), ("HEAD", &plain), ("GET", &encoded)] {
                let fields = vec![
                    ("accept-encoding", reply.header("content-encoding").to_owned()),
                    ("if-none-match", reply.header("etag").to_owned()),
                ];
                let same = ask(method, fields).await;
                assert_eq!((same.status.as_u16(), same.body.len()), (304, 0), "{method} {coding}");
                assert_eq!(same.header("etag"), reply.header("etag"));
                assert_eq!(same.header("cache-control"), "no-cache");
            }
            tags.push(encoded.header("etag").to_owned());
        }
        let refused = ask("POST", vec![]).await.problem(405);
        assert_eq!(refused.header("allow").replace(' ', ""), "GET,HEAD");
    }
    assert_eq!(tags[..3], tags[3..], "of all protocols");
    assert_eq!(stage.origin.count(SCRIPT), 0);
}
