//! HTTP/2 with clients: by ALPN and with prior knowledge, many requests at once, its limits, floods and its end.

use crate::support::{
    gateway::KPI,
    tls::{of_http2, Authority, Http2, TlsClient},
    *,
};
use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::Full;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

mod attacks;
mod slow;
mod strict;
mod wire;

const HOST: &str = "dash.example";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

/// A gateway with a plain listener, one with TLS and one for prior knowledge.
struct Stage {
    origin: TestOrigin,
    client: TlsClient,
    gateway: Gateway,
    plain: SocketAddr,
    tls: SocketAddr,
    prior: SocketAddr,
    _authority: Authority,
}

impl Stage {
    async fn set(server: &str) -> Self {
        let (origin, authority) = (TestOrigin::start().await, Authority::new());
        authority.issue("a", &[HOST, "a"]);
        let gateway = Gateway::with(&origin)
            .setting(server)
            .raw(&authority.listener(&["a"], ""))
            .raw("[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true")
            .route("/kept", KPI)
            .route("/followed/*", "cache = \"origin\"")
            .route("/long/*", "cache = { namespace = \"long\", ttl = \"60s\", query = [\"n\"] }")
            .route("/*", "")
            .start()
            .await;
        let [plain, tls, prior] = gateway.listeners(3).await.try_into().unwrap();
        Self { origin, client: authority.trusting(), gateway, plain, tls, prior, _authority: authority }
    }

    async fn connect(&self) -> Http2 {
        Http2::connect(&self.client, self.tls, HOST).await
    }

    /// Waits until a connection has ended so.
    async fn ended(&self, end: &str) {
        until(&format!("a connection ends: {end}"), SOON, || async {
            self.gateway.metrics().await.value("tidegate_http2_connections_total", &[("end", end)]) > 0.0
        })
        .await;
    }
}

#[tokio::test]
async fn many_requests_share_a_connection_and_are_answered_like_any_other() {
    let stage = Stage::set("").await;
    let h2 = stage.connect().await;
    h2.get(HOST, "/kept").await.ok();
    let hits = join_all((0..100).map(|_| h2.get(HOST, "/kept"))).await;
    assert!(hits.into_iter().all(|reply| reply.ok().is_hit()));
    let paths: Vec<String> = (0..100).map(|i| format!("/x{i}")).collect();
    for (reply, path) in join_all(paths.iter().map(|path| h2.get(HOST, path))).await.into_iter().zip(&paths) {
        assert_eq!(reply.ok().json()["path"], **path);
    }
    let seen = stage.origin.seen("/x7").pop().unwrap();
    assert_eq!(seen.header("host"), Some(HOST));
    assert_eq!(seen.header("via"), Some("2 tidegate"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some(HOST));
    assert_eq!(seen.header("x-real-ip"), Some("127.0.0.1"));
    h2.get(HOST, "/a/%2e%2e/b").await.problem(400);
    let followed = h2.get(HOST, "/followed/x").await.ok();
    assert_eq!(followed.json()["path"], "/followed/x");
    assert_eq!(stage.gateway.metrics().await.value("tidegate_connections_open", &[]), 1.0);
}

#[tokio::test]
async fn bodies_of_any_size_go_both_ways() {
    let stage = Stage::set("").await;
    let h2 = stage.connect().await;
    let body = h2.get(HOST, "/download?bytes=5000000&seed=3").await.ok().body;
    assert!(body == noise(5_000_000, 3));
    let sent = noise(5_000_000, 4);
    let reply = h2.send(of_http2("POST", HOST, "/upload", sent.clone().into())).await.unwrap().ok();
    assert_eq!(reply.json()["sha256"], sha256(&sent));
    let head = h2.send(of_http2("HEAD", HOST, "/kept", Bytes::new())).await.unwrap().ok();
    assert!(head.body.is_empty() && head.headers.contains_key("content-length"));
    // A body that is too large is refused, and the connection goes on.
    let large = h2.send(of_http2("POST", HOST, "/small/x", noise(20 << 20, 5).into())).await;
    assert!(large.is_err() || large.unwrap().status == 413);
    h2.get(HOST, "/kept").await.ok();
}

#[tokio::test]
async fn who_knows_it_needs_no_tls_where_that_is_allowed() {
    let stage = Stage::set("").await;
    let h2 = Http2::over(TcpStream::connect(stage.prior).await.unwrap()).await;
    let ask = Request::get(format!("http://{HOST}/x")).body(Full::default()).unwrap();
    h2.send(ask).await.unwrap().ok();
    assert_eq!(stage.origin.seen("/x").pop().unwrap().header("x-forwarded-proto"), Some("http"));
    // The first bytes may come one by one.
    let mut slow = TcpStream::connect(stage.prior).await.unwrap();
    slow.set_nodelay(true).unwrap();
    for byte in PREFACE.chunks(1).chain([&frame(4, 0, 0, b"")[..]]) {
        slow.write_all(byte).await.unwrap();
    }
    let mut head = [0; 9];
    slow.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "SETTINGS come first");
    // HTTP/1.1 is spoken there all the same, by whatever method.
    for method in ["GET", "POST", "PUT", "PATCH"] {
        let ask = format!("{method} /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(raw_exchange(stage.prior, ask.as_bytes()).await.status, 200);
    }
    // Elsewhere it is not HTTP/1.1.
    let refused = raw_exchange(stage.plain, &[PREFACE, &frame(4, 0, 0, b"")].concat()).await;
    assert!(matches!(refused.status, 0 | 400 | 505), "{refused:?}");
}

/// A cache behind reckons from `Date` and `Expires` too (RFC 9111, 4.2).
#[tokio::test]
async fn a_cached_answer_keeps_its_date() {
    let stage = Stage::set("").await;
    let then = std::time::SystemTime::now() - Duration::from_secs(100);
    let then = httpdate::fmt_http_date(then);
    let date = then.clone();
    stage.origin.on("/followed/dated", move |_| {
        Answer::new("text/plain", "x").header("date", &date).header("cache-control", "max-age=3600")
    });
    let h2 = stage.connect().await;
    h2.get(HOST, "/followed/dated").await.ok();
    let ask = || Request::get(format!("https://{HOST}/followed/dated"));
    // What lies ready, what the gateway makes anew, and a part.
    for fields in [&[][..], &[("if-match", "*")], &[("range", "bytes=0-0")]] {
        let ask = fields.iter().fold(ask(), |ask, (name, value)| ask.header(*name, *value));
        let reply = h2.send(ask.body(Full::default()).unwrap()).await.unwrap();
        assert!(reply.is_hit(), "{fields:?}: {reply:?}");
        assert_eq!(reply.header("date"), then, "{fields:?}");
    }
    // What passes is of now.
    assert_ne!(h2.get(HOST, "/x").await.ok().header("date"), then);
}

#[tokio::test]
async fn cookies_in_pieces_are_one_again() {
    let stage = Stage::set("").await;
    let h2 = stage.connect().await;
    let ask = Request::get(format!("https://{HOST}/x")).header("cookie", "a=1").header("cookie", "b=2");
    h2.send(ask.body(Full::default()).unwrap()).await.unwrap().ok();
    assert_eq!(stage.origin.seen("/x").pop().unwrap().header("cookie"), Some("a=1; b=2"));
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A GET of `/x`, by HPACK's static table and one literal.
fn head() -> Vec<u8> {
    [&[0x82, 0x87, 0x04, 0x02][..], b"/x", &[0x41, 0x0c], HOST.as_bytes()].concat()
}

/// Sends frames over TLS and reads what comes until the connection ends: kinds and payloads.
async fn frames(stage: &Stage, sent: Vec<u8>) -> Vec<(u8, Vec<u8>)> {
    let stream = stage.client.clone().alpn(&["h2"]).connect(stage.tls, HOST).await.unwrap();
    let (mut from, mut into) = tokio::io::split(stream);
    let write = tokio::spawn(async move {
        // Whoever refuses it closes the connection under the writer.
        drop(into.write_all(&[PREFACE, &frame(4, 0, 0, b""), &sent].concat()).await);
        into
    });
    let mut read = Vec::new();
    drop(timeout(SOON, from.read_to_end(&mut read)).await.unwrap());
    drop(write);
    let mut frames = Vec::new();
    let mut rest = &read[..];
    while let [a, b, c, kind, _, _, _, _, _, payload @ ..] = rest {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let Some(payload_now) = payload.get(..length) else { break };
        frames.push((*kind, payload_now.to_vec()));
        rest = &payload[length..];
    }
    frames
}

/// The reason of the GOAWAY among these frames.
fn farewell(frames: &[(u8, Vec<u8>)]) -> Option<u32> {
    let (_, payload) = frames.iter().rfind(|(kind, _)| *kind == 7)?;
    Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()))
}

const ENHANCE_YOUR_CALM: u32 = 11;

#[tokio::test]
async fn streams_that_are_opened_to_be_reset_end_the_connection() {
    let mut stage = Stage::set("").await;
    let mut flood = Vec::new();
    for stream in (1..4_001).step_by(2) {
        flood.extend(frame(1, END_HEADERS | END_STREAM, stream, &head()));
        flood.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    let said = frames(&stage, flood).await;
    assert_eq!(farewell(&said), Some(ENHANCE_YOUR_CALM), "{said:?}");
    assert!(stage.origin.count("/x") < 600, "{}", stage.origin.count("/x"));
    stage.gateway.assert_sound().await;
    stage.connect().await.get(HOST, "/x").await.ok();
}

#[tokio::test]
async fn floods_of_what_carries_nothing_end_the_connection() {
    let mut stage = Stage::set("").await;
    for (what, flood) in [
        ("pings", frame(6, 0, 0, &[0; 8]).repeat(5_000)),
        ("settings", frame(4, 0, 0, b"").repeat(5_000)),
        ("priorities", frame(2, 0, 1, &[0, 0, 0, 0, 1]).repeat(5_000)),
    ] {
        let said = frames(&stage, flood).await;
        assert_eq!(farewell(&said), Some(ENHANCE_YOUR_CALM), "{what}: {said:?}");
    }
    // A header without end, in pieces (CVE-2024-27316).
    let endless =
        [frame(1, END_STREAM, 1, &head()), frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b']).repeat(100_000)]
            .concat();
    let said = frames(&stage, endless).await;
    assert!(farewell(&said).is_some(), "{said:?}");
    stage.ended("flood").await;
    stage.gateway.assert_sound().await;
    assert_eq!(stage.origin.count("/x"), 0);
}

#[tokio::test]
async fn a_header_beyond_all_measure_is_refused_alone() {
    let stage = Stage::set("").await;
    let h2 = stage.connect().await;
    let mut ask = Request::get(format!("https://{HOST}/x"));
    for i in 0..100 {
        ask = ask.header(format!("x-{i}"), "v".repeat(1_000));
    }
    let refused = h2.send(ask.body(Full::default()).unwrap()).await;
    assert!(refused.is_err() || refused.unwrap().status == 431);
    h2.get(HOST, "/x").await.ok();
}

#[tokio::test]
async fn no_more_requests_at_once_than_are_allowed() {
    let stage = Stage::set("").await;
    stage.origin.on("/x", |seen| Answer::echo(seen).gated());
    stage.origin.hold();
    let streams: Vec<u8> =
        (1..401).step_by(2).flat_map(|n| frame(1, END_HEADERS | END_STREAM, n, &head())).collect();
    let said = tokio::spawn({
        let client = stage.client.clone();
        let to = stage.tls;
        async move {
            let mut stream = client.alpn(&["h2"]).connect(to, HOST).await.unwrap();
            stream.write_all(&[PREFACE, &frame(4, 0, 0, b""), &streams].concat()).await.unwrap();
            // 72 of 200 are refused (RST_STREAM of 13 bytes).
            let mut read = Vec::new();
            let mut refused = 0;
            while refused < 72 {
                let mut piece = [0; 4_096];
                let n = stream.read(&mut piece).await.unwrap();
                assert!(n > 0, "the connection goes on");
                read.extend_from_slice(&piece[..n]);
                refused = read.windows(5).filter(|w| *w == [0, 0, 4, 3, 0]).count();
            }
            stream
        }
    });
    let _open = timeout(2 * SOON, said).await.unwrap().unwrap();
    until("the rest is held", SOON, || async { stage.origin.held() == 128 }).await;
    stage.origin.release();
}

#[tokio::test]
async fn the_end_is_announced_and_requests_under_way_finish() {
    let mut stage = Stage::set("").await;
    stage.origin.on("/slow", |_| Answer::new("text/plain", "slow").gated());
    stage.origin.hold();
    let (busy, idle) = (stage.connect().await, stage.connect().await);
    idle.get(HOST, "/x").await.ok();
    let slow = busy.get(HOST, "/slow");
    let drained = async {
        until("the origin is asked", SOON, || async { stage.origin.count("/slow") == 1 }).await;
        stage.gateway.sigterm();
        timeout(SOON, idle.ended()).await.expect("the idle one ends").unwrap();
        stage.origin.release();
    };
    let (slow, ()) = tokio::join!(slow, drained);
    assert_eq!(slow.ok().text(), "slow");
    assert!(busy.send(of_http2("GET", HOST, "/x", Bytes::new())).await.is_err());
    assert!(stage.gateway.wait(SOON).await.success());
}

#[tokio::test]
async fn a_connection_ends_after_a_while_and_after_its_share() {
    let stage = Stage::set("keepalive = \"1s\"\nkeepalive_requests = 5").await;
    let idle = stage.connect().await;
    idle.get(HOST, "/x").await.ok();
    timeout(SOON, idle.ended()).await.expect("it ends").unwrap();
    stage.ended("idle").await;

    let spent = stage.connect().await;
    for _ in 0..5 {
        spent.get(HOST, "/x").await.ok();
    }
    timeout(SOON, spent.ended()).await.expect("it ends").unwrap();
    stage.ended("spent").await;
    // One that is busy is not idle.
    stage.origin.on("/slow", |_| Answer::new("text/plain", "slow").after(Duration::from_millis(2_500)));
    stage.connect().await.get(HOST, "/slow").await.ok();
}

#[tokio::test]
async fn a_client_that_goes_is_no_error() {
    let mut stage = Stage::set("").await;
    stage.origin.on("/slow", |_| Answer::new("text/plain", "slow").gated());
    stage.origin.hold();
    let h2 = stage.connect().await;
    let slow = timeout(Duration::from_millis(300), h2.get(HOST, "/slow")).await;
    assert!(slow.is_err());
    h2.get(HOST, "/x").await.ok();
    drop(h2);
    stage.origin.release();
    stage.gateway.assert_sound().await;
}

/// An origin of HTTP/2 that sends trailers behind each answer.
async fn trailing() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut h2 = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut answer))) = h2.accept().await {
                    let mut body = answer.send_response(http::Response::new(()), false).unwrap();
                    body.send_data(Bytes::from_static(b"hello"), false).unwrap();
                    let fields = [("x-sum", "1"), ("set-cookie", "a=1")];
                    let fields = fields.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
                    body.send_trailers(http::HeaderMap::from_iter(fields)).unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn trailers_reach_clients() {
    let said = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=1\r\n\r\n";
    let plain = Recorder::start(move |_: &crate::support::strict::Message| Say::bytes(said)).await;
    for (url, lines) in [(plain.url(), ""), (format!("http://{}", trailing().await), "http2 = true")] {
        let gateway = GatewayBuilder::new(&url)
            .origin(lines)
            .raw("[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true")
            .route("/*", "")
            .start()
            .await;
        let to = gateway.listeners(2).await[1];
        let (mut h2, connection) =
            h2::client::handshake(TcpStream::connect(to).await.unwrap()).await.unwrap();
        tokio::spawn(connection);
        for method in ["GET", "POST"] {
            let ask = Request::builder().method(method).uri("http://a/x").body(()).unwrap();
            let (answer, mut sent) = h2.send_request(ask, method == "GET").unwrap();
            if method == "POST" {
                sent.send_data(Bytes::from_static(b"hello"), true).unwrap();
            }
            let mut body = timeout(SOON, answer).await.unwrap().unwrap().into_body();
            let mut text = Vec::new();
            while let Some(piece) = timeout(SOON, body.data()).await.unwrap() {
                text.extend_from_slice(&piece.unwrap());
            }
            let trailers = timeout(SOON, body.trailers()).await.unwrap().unwrap();
            let trailers = trailers.unwrap_or_else(|| panic!("no trailers behind {method} of {url}"));
            assert_eq!(
                (&text[..], trailers["x-sum"].as_bytes()),
                (&b"hello"[..], &b"1"[..]),
                "{method} {url}"
            );
            assert!(!trailers.contains_key("set-cookie"), "{method} {url}: {trailers:?}");
        }
        // HTTP/1.1 gets the body alone.
        assert_eq!(gateway.get("/x").await.ok().text(), "hello");
    }
}
