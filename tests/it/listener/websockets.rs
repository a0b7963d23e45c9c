//! WebSockets through the gateway: who may open one, how its bytes pass, and how it ends.

use crate::support::{
    exchange::Wire,
    gateway::{sign, token, GatewayBuilder},
    websocket::*,
    *,
};
use futures_util::{SinkExt, StreamExt};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{
    protocol::{frame::coding::CloseCode, CloseFrame},
    Message,
};

const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

/// A gateway before a [`SocketServer`].
fn before(server: &SocketServer, websocket: &str) -> GatewayBuilder {
    GatewayBuilder::new(&server.url()).route("/*", &format!("websocket = {websocket}"))
}

/// A server that does nothing but hold its connections until the other end has gone.
async fn silent() -> SocketServer {
    SocketServer::start(|mut stream, _| async move {
        drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await);
    })
    .await
}

#[tokio::test]
async fn pages_of_listed_origins_only() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin)
        .route("/ws/*", "websocket = { origins = [\"https://dash.example.com\", \"https://*.example.org\"] }")
        .route("/open/*", "websocket = {}")
        .start()
        .await;
    origin.on("/open/x", |_| Answer::new("text/plain", "no socket here").status(404));
    for (lines, status) in [
        (&["Origin: https://dash.example.com"][..], 101),
        (&["Origin: https://a.b.example.org"], 101),
        // No browser: whoever can leave the field out can as well write what he likes into it.
        (&[], 101),
        (&["Origin: https://example.org"], 403),
        (&["Origin: https://dash.example.com.evil.example"], 403),
        (&["Origin: http://dash.example.com"], 403),
        (&["Origin: null"], 403),
        (&["Origin: https://dash.example.com", "Origin: https://evil.example"], 403),
    ] {
        origin.forget();
        let (_, head) = open(gateway.address(), "/ws/echo", lines).await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{lines:?}: {head}");
        assert_eq!(origin.count("/ws/echo"), usize::from(status == 101), "{lines:?}");
        assert_eq!(head.contains("application/problem+json"), status == 403, "{head}");
    }
    // Where no origins are listed, the application judges.
    let (_, head) = open(gateway.address(), "/open/x", &["Origin: https://evil.example"]).await;
    assert!(head.starts_with("http/1.1 404"), "{head}");
    let rejected = gateway.metrics().await.value("tidegate_rejected_requests_total", &[("reason", "origin")]);
    assert!((rejected - 5.0).abs() < 0.1, "{rejected}");
}

#[tokio::test]
async fn a_malformed_handshake_never_reaches_the_origin() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route("/ws/*", "websocket = {}").route("/plain", "").start().await;
    let without = |name: &str| -> Vec<&str> {
        HANDSHAKE.into_iter().filter(|line| !line.starts_with(name)).collect::<Vec<_>>()
    };
    for (lines, status) in [
        (without("Connection"), 400),
        (without("Sec-WebSocket-Key"), 400),
        ([without("Sec-WebSocket-Key"), vec!["Sec-WebSocket-Key: c2hvcnQ="]].concat(), 400),
        ([without("none"), vec!["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]].concat(), 400),
        (without("Sec-WebSocket-Version"), 426),
        ([without("Sec-WebSocket-Version"), vec!["Sec-WebSocket-Version: 8"]].concat(), 426),
        ([without("none"), vec!["Transfer-Encoding: chunked"]].concat(), 400),
    ] {
        let reply = raw_exchange(gateway.address(), request("/ws/echo", &lines).as_bytes()).await;
        assert_eq!(reply.status, status, "{lines:?}: {reply:?}");
        if status == 426 {
            assert!(reply.head.contains("sec-websocket-version: 13"), "{reply:?}");
            assert!(reply.head.contains("upgrade: websocket"), "{reply:?}");
        }
    }
    let post = request("/ws/echo", &HANDSHAKE).replacen("GET", "POST", 1);
    assert_eq!(raw_exchange(gateway.address(), post.as_bytes()).await.status, 400);
    let old = request("/ws/echo", &HANDSHAKE).replacen("HTTP/1.1", "HTTP/1.0", 1);
    assert_eq!(raw_exchange(gateway.address(), old.as_bytes()).await.status, 400);
    let nowhere = raw_exchange(gateway.address(), request("/plain", &HANDSHAKE).as_bytes()).await;
    assert_eq!(nowhere.status, 403, "{nowhere:?}");
    assert_eq!(origin.count("/ws/echo") + origin.count("/plain"), 0);
    // The field alone asks for nothing that has to be refused: an ordinary request passes.
    gateway.get_with("/ws/echo", &[("sec-websocket-version", "8")]).await.ok();
    // And a protocol that is not for WebSockets is not spoken with the origin.
    let lines =
        ["Host: a", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"];
    let reply = raw_exchange(gateway.address(), request("/ws/echo", &lines).as_bytes()).await;
    assert_eq!((reply.status, origin.seen("/ws/echo").pop().unwrap().header("upgrade")), (200, None));
}

#[tokio::test]
async fn a_cached_route_opens_sockets_as_well() {
    let origin = TestOrigin::start().await;
    for cache in ["\"origin\"", "{ namespace = \"kpi\", ttl = \"60s\" }"] {
        let route = format!("cache = {cache}\nwebsocket = {{}}");
        let gateway = Gateway::with(&origin).route("/ws/*", &route).start().await;
        for _ in 0..2 {
            let mut socket = opened(gateway.address(), "/ws/echo").await;
            socket.write_all(&frame(0x81, b"hello", MASK)).await.unwrap();
            assert_eq!(exactly(&mut socket, 7).await, frame(0x81, b"hello", None));
        }
    }
}

/// Where the token stands, and what the origin sees of it.
#[tokio::test]
async fn tokens_are_checked_before_the_origin_hears_of_it() {
    let origin = TestOrigin::start().await;
    let required = |token: &str| format!("auth = \"required\"\nwebsocket = {{ token = {token} }}");
    let gateway = Gateway::with(&origin)
        .route("/ws/echo", &required("[\"header\", \"query\", \"subprotocol\"]"))
        .route("/only/header", &required("\"header\""))
        .route("/only/query", &required("\"query\""))
        .route("/only/subprotocol", &required("\"subprotocol\""))
        .start()
        .await;
    let good = token("acme", "ann");
    let expired = sign(&serde_json::json!({ "tenant": "acme", "exp": 1000 }));
    let (bearer, offer) =
        (format!("Authorization: Bearer {good}"), format!("Sec-WebSocket-Protocol: bearer, {good}"));
    let more = format!("Sec-WebSocket-Protocol: chat, Bearer, {good}, v2");
    let query = format!("/ws/echo?a=1&token={good}&b=2");
    for (path, lines, passed) in [
        ("/ws/echo", vec![bearer.as_str()], None),
        (&query, vec![], None),
        ("/ws/echo", vec![&offer], None),
        ("/ws/echo", vec![&more], Some("chat, v2")),
        // The first place that has one counts, the others are taken away.
        (&query, vec![&bearer, &offer], None),
    ] {
        origin.forget();
        let (mut socket, head) = open(gateway.address(), path, &lines).await;
        assert!(head.starts_with("http/1.1 101"), "{path} {lines:?}: {head}");
        let seen = origin.seen("/ws/echo").pop().unwrap();
        assert_eq!((seen.header("x-tenant"), seen.header("x-user")), (Some("acme"), Some("ann")));
        assert_eq!(seen.header("authorization"), Some(format!("Bearer {good}").as_str()), "{lines:?}");
        assert_eq!(seen.query.as_deref(), (path != "/ws/echo").then_some("a=1&b=2"));
        assert_eq!(seen.header("sec-websocket-protocol"), passed, "{lines:?}");
        // This origin chooses no subprotocol; a browser wants one of those that it offered.
        let chosen = head.lines().find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
        assert_eq!(chosen, lines.iter().any(|line| line.starts_with("Sec")).then_some("bearer"), "{head}");
        socket.write_all(&frame(0x81, b"x", MASK)).await.unwrap();
        assert_eq!(exactly(&mut socket, 3).await, frame(0x81, b"x", None));
    }
    origin.forget();
    let (query, bad) = (format!("token={good}"), format!("Sec-WebSocket-Protocol: bearer, {expired}"));
    for (path, lines) in [
        ("/ws/echo", &[][..]),
        ("/ws/echo", &[bad.as_str()]),
        ("/ws/echo?token=", &[]),
        ("/ws/echo", &["Sec-WebSocket-Protocol: bearer"]),
        ("/ws/echo", &["Sec-WebSocket-Protocol: chat"]),
        (&format!("/only/header?{query}"), &[&offer]),
        ("/only/query", &[&bearer, &offer]),
        (&format!("/only/subprotocol?{query}"), &[&bearer]),
    ] {
        let (_, head) = open(gateway.address(), path, lines).await;
        assert!(head.starts_with("http/1.1 401"), "{path} {lines:?}: {head}");
        assert!(head.contains("www-authenticate: bearer"), "{head}");
    }
    assert_eq!(origin.count("/ws/echo"), 0);
}

/// An application that chooses a subprotocol has the last word.
#[tokio::test]
async fn the_origins_subprotocol_passes() {
    let origin = RawOrigin::start(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\
         Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
        "",
    )
    .await;
    let gateway = GatewayBuilder::new(&origin.url())
        .route("/*", "websocket = { token = \"subprotocol\" }")
        .start()
        .await;
    let offer = format!("Sec-WebSocket-Protocol: bearer, {}, chat", token("acme", "ann"));
    let (_, head) = open(gateway.address(), "/", &[&offer]).await;
    for line in ["sec-websocket-protocol: chat", "sec-websocket-extensions: permessage-deflate"] {
        assert!(head.contains(line), "{head}");
    }
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    assert!(!head.contains("bearer"), "{head}");
}

#[tokio::test]
async fn another_answer_than_101_passes_as_it_is() {
    let origin = TestOrigin::start().await;
    origin.on("/refused", |_| Answer::new("text/plain", "not today").status(403));
    let gateway = Gateway::with(&origin).route("/*", "websocket = {}").start().await;
    let (mut stream, head) = open(gateway.address(), "/refused", &[]).await;
    assert!(head.starts_with("http/1.1 403") && head.contains("content-length: 9"), "{head}");
    assert_eq!(exactly(&mut stream, 9).await, b"not today");
}

/// Whoever takes it for a grant would read frames where there are none.
#[tokio::test]
async fn a_101_that_grants_something_else_opens_no_tunnel() {
    const PROTOCOL: &str = "Upgrade: websocket\r\n";
    const HOP: &str = "Connection: Upgrade\r\n";
    const PROOF: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    for (fields, status) in [
        (&[PROTOCOL, HOP, PROOF][..], 101),
        (&["Upgrade: h2c\r\n", HOP, PROOF], 502),
        (&["Upgrade: websocket, h2c\r\n", HOP, PROOF], 502),
        (&[HOP, PROOF], 502),
        (&[PROTOCOL, PROOF], 502),
        (&[PROTOCOL, HOP], 502),
        (&[PROTOCOL, HOP, "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n"], 502),
        (&[PROTOCOL, HOP, PROOF, PROOF], 502),
        (&[PROTOCOL, HOP, PROOF, "Content-Length: 0\r\n"], 502),
        (&[PROTOCOL, HOP, PROOF, "Content-Length: 100\r\n"], 502),
        (&[PROTOCOL, HOP, PROOF, "Transfer-Encoding: chunked\r\n"], 502),
        (&[PROTOCOL, HOP, PROOF, "X-Accel-Redirect: /x\r\n"], 101),
    ] {
        let behind = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret";
        let head = format!("HTTP/1.1 101 Switching Protocols\r\n{}\r\n", fields.concat());
        let origin = RawOrigin::start([head.as_bytes(), behind].concat(), "").await;
        let gateway = GatewayBuilder::new(&origin.url())
            .origin("retries = 0")
            .route("/*", "websocket = { idle_timeout = \"300ms\" }")
            .start()
            .await;
        let (mut stream, head) = open(gateway.address(), "/", &[]).await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{fields:?}: {head}");
        let behind = String::from_utf8(to_the_end(&mut stream).await).unwrap();
        assert_eq!(behind.contains("secret"), status == 101, "{fields:?}: {behind}");
        assert_eq!(head.contains("application/problem+json"), status == 502, "{head}");
    }
}

#[tokio::test]
async fn a_silent_origin_is_a_504_and_a_dead_one_a_502() {
    let mut origin = TestOrigin::start().await;
    origin.on("/slow", |seen| Answer::echo(seen).gated());
    let gateway = Gateway::with(&origin)
        .origin("read_timeout = \"300ms\"\nretries = 0")
        .route("/*", "websocket = {}")
        .start()
        .await;
    origin.hold();
    let (_, head) = open(gateway.address(), "/slow", &[]).await;
    assert!(head.starts_with("http/1.1 504"), "{head}");
    origin.release();
    origin.kill();
    let (_, head) = open(gateway.address(), "/slow", &[]).await;
    assert!(head.starts_with("http/1.1 502"), "{head}");
}

#[tokio::test]
async fn silence_ends_a_socket_and_either_side_can_break_it() {
    let server = SocketServer::start(|mut stream, head| async move {
        if head.starts_with("GET /ticks") {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if stream.write_all(&frame(0x81, b"t", None)).await.is_err() {
                    return;
                }
            }
        }
        drop(stream.read_to_end(&mut Vec::new()).await);
    })
    .await;
    let gateway = before(&server, "{ idle_timeout = \"400ms\" }").start().await;
    let mut quiet = opened(gateway.address(), "/quiet").await;
    let begin = Instant::now();
    assert_eq!(to_the_end(&mut quiet).await, b"");
    assert!(begin.elapsed() >= Duration::from_millis(390), "{:?}", begin.elapsed());
    // The client says nothing for a second, and gets all of it.
    let mut ticks = opened(gateway.address(), "/ticks").await;
    assert_eq!(to_the_end(&mut ticks).await, frame(0x81, b"t", None).repeat(20));
    until("no socket is left", SOON, || async {
        gateway.metrics().await.value("tidegate_websockets_open", &[]) < 0.5
    })
    .await;
}

/// Much data in both directions at once, by ends that write without reading in between.
#[tokio::test]
async fn neither_direction_stops_the_other() {
    const PIECE: usize = 1 << 20;
    const PIECES: usize = 40;
    // Four bytes for one, written before the next is read.
    let server = SocketServer::start(|mut stream, _| async move {
        let mut piece = vec![0; PIECE];
        while let Ok(n) = stream.read(&mut piece).await {
            if n == 0 || stream.write_all(&piece[..n].repeat(4)).await.is_err() {
                return;
            }
        }
    })
    .await;
    let gateway = before(&server, "{}").start().await;
    let (mut from, mut to) = opened(gateway.address(), "/").await.into_split();
    let writing = tokio::spawn(async move {
        for piece in 0..PIECES {
            to.write_all(&vec![u8::try_from(piece).unwrap(); PIECE]).await.unwrap();
        }
        to
    });
    let mut counts = [0_usize; PIECES];
    let mut buffer = vec![0; 1 << 18];
    while counts.iter().sum::<usize>() < 4 * PIECE * PIECES {
        let n = tokio::time::timeout(SOON, from.read(&mut buffer)).await.expect("it does not stall").unwrap();
        assert!(n > 0, "the connection ended: {counts:?}");
        buffer[..n].iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    }
    assert_eq!(counts, [4 * PIECE; PIECES]);
    drop((from, writing.await.unwrap()));
    // Pingora sees none of these bytes; they are counted all the same.
    #[allow(clippy::cast_precision_loss)]
    let all = (4 * PIECE * PIECES) as f64;
    until("the bytes are counted", SOON, || async {
        gateway.metrics().await.value("tidegate_sent_bytes_total", &[("route", "any")]) >= all
    })
    .await;
}

#[tokio::test]
async fn messages_of_any_size_and_pings_pass() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route("/ws/*", "websocket = {}").start().await;
    let url = format!("ws://{}/ws/echo", gateway.address());
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    for (seed, size) in [0, 1, 125, 126, 65_535, 65_536, 1_000_000, 16_000_000].into_iter().enumerate() {
        let message = Message::binary(noise(size, seed as u64));
        socket.send(message.clone()).await.unwrap();
        let echoed = tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
        assert!(echoed == message, "{size}");
    }
    socket.send(Message::Ping("are you there".into())).await.unwrap();
    let pong = tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(pong, Message::Pong("are you there".into()));
}

#[tokio::test]
async fn close_codes_pass_in_both_directions() {
    let server = SocketServer::start(|mut stream, head| async move {
        // One closes of its own accord and is answered, the other answers.
        let (own, answer) = (reason(4321, "server says"), reason(3001, "yes"));
        if head.starts_with("GET /own") {
            drop(stream.write_all(&frame(0x88, &own, None)).await);
            drop(stream.read_exact(&mut vec![0; 6 + own.len()]).await);
        } else {
            drop(stream.read_exact(&mut [0; 6 + 2 + 3]).await);
            drop(stream.write_all(&frame(0x88, &answer, None)).await);
        }
    })
    .await;
    let gateway = before(&server, "{}").start().await;
    let url = format!("ws://{}/own", gateway.address());
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let closed = socket.next().await.unwrap().unwrap();
    let expected = CloseFrame { code: CloseCode::from(4321), reason: "server says".into() };
    assert_eq!(closed, Message::Close(Some(expected)));
    assert!(socket.next().await.is_none());
    let mut raw = opened(gateway.address(), "/asked").await;
    raw.write_all(&frame(0x88, &reason(4001, "bye"), MASK)).await.unwrap();
    assert_eq!(to_the_end(&mut raw).await, frame(0x88, &reason(3001, "yes"), None));
}

/// A client that sends frames before it has the answer breaks a rule (RFC 6455, 4.1): they could be meant for whoever
/// answers if there is no upgrade. Nothing of them passes.
#[tokio::test]
async fn frames_that_come_too_early_do_not_pass() {
    let (told, mut hears) = tokio::sync::mpsc::channel(8);
    let server = SocketServer::start(move |mut stream, _| {
        let told = told.clone();
        async move {
            let mut came = Vec::new();
            stream.read_to_end(&mut came).await.ok();
            told.send(came).await.ok();
        }
    })
    .await;
    let gateway = before(&server, "{}").start().await;
    let early = frame(0x82, &[7; 50], MASK);
    let mut stream = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
    stream.write_all(&[request("/", &HANDSHAKE).as_bytes(), &early].concat()).await.unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.ok();
    drop(stream);
    if let Ok(Some(came)) = tokio::time::timeout(Duration::from_millis(300), hears.recv()).await {
        assert!(came.is_empty(), "{came:?}");
    }
}

/// Requests that Pingora never sees count as well where a handshake is matched with its answer.
#[tokio::test]
async fn what_was_asked_before_makes_no_difference_to_a_handshake() {
    let origin = TestOrigin::start().await;
    origin.on("/refused", |_| Answer::new("text/plain", "not today").status(403));
    let gateway = Gateway::with(&origin).route("/*", "websocket = {}").start().await;
    let plain = request("/plain", &["Host: a"]);
    let aside = request("/plain", &["Host: a", "Content-Length: 0"]);
    let refused = request("/refused", &HANDSHAKE);
    let mut wire = Wire::new(gateway.address());
    for (text, status) in
        [&plain, &refused, &plain, &aside, &refused, &aside, &plain, &plain, &refused, &plain]
            .into_iter()
            .map(|text| (text, if *text == refused { 403 } else { 200 }))
    {
        wire.send(&[text.as_bytes()]).await;
        let reply = wire.receive(false).await;
        assert_eq!((reply.status(), reply.last), (status, false), "{text}: {reply:?}");
    }
    // What comes before its answer passes nowhere, and the answer to the request before it is not taken for that.
    origin.on("/gated", |seen| Answer::echo(seen).gated());
    origin.hold();
    let both = [aside.as_bytes(), request("/gated", &HANDSHAKE).as_bytes()].concat();
    wire.send(&[&both]).await;
    assert_eq!(wire.receive(false).await.status(), 200);
    until("the origin has the handshake", SOON, || async { origin.count("/gated") == 1 }).await;
    wire.send(&[request("/early", &["Host: a"]).as_bytes()]).await;
    let rest = wire.receive(false).await;
    assert!(rest.last && rest.head.is_empty(), "{rest:?}");
    origin.release();
    assert_eq!(origin.count("/early"), 0);
}

/// With TLS; HTTP/2 has no WebSockets here.
#[tokio::test]
async fn sockets_pass_through_tls() {
    let authority = tls::Authority::new();
    authority.issue("a", &["dash.example.com"]);
    let server = SocketServer::start(|mut stream, _| async move {
        let (mut from, mut to) = stream.split();
        drop(tokio::io::copy(&mut from, &mut to).await);
    })
    .await;
    let mut gateway = before(&server, "{}").raw(&authority.listener(&["a"], "")).drain("60s").start().await;
    let to = gateway.listeners(2).await[1];
    for client in [authority.trusting(), authority.trusting().tls12()] {
        let stream = client.connect(to, "dash.example.com").await.unwrap();
        let (mut from, mut into) = tokio::io::split(stream);
        into.write_all(request("/", &HANDSHAKE).as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(from.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"));
        let message = frame(0x82, &noise(5_000_000, 3), MASK);
        let sent = message.clone();
        let sending = tokio::spawn(async move {
            into.write_all(&sent).await.unwrap();
            into
        });
        let mut echoed = vec![0; message.len()];
        tokio::time::timeout(SOON, from.read_exact(&mut echoed)).await.unwrap().unwrap();
        assert!(echoed == message);
        drop(sending.await.unwrap());
    }
    // The last one stays, and is told.
    let mut stream = authority.trusting().connect(to, "dash.example.com").await.unwrap();
    stream.write_all(request("/", &HANDSHAKE).as_bytes()).await.unwrap();
    until("it is open", SOON, || async {
        gateway.metrics().await.value("tidegate_websockets_open", &[]) > 0.5
    })
    .await;
    gateway.sigterm();
    let mut got = Vec::new();
    let goodbye = frame(0x88, &reason(1001, ""), None);
    while !got.ends_with(&goodbye) {
        got.push(tokio::time::timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
    }
    stream.write_all(&frame(0x88, &reason(1001, ""), MASK)).await.unwrap();
    assert_eq!(tokio::time::timeout(SOON, stream.read(&mut [0; 9])).await.unwrap().unwrap(), 0);
    assert!(gateway.wait(SOON).await.success());
}

/// At shutdown clients are told, answer, and that is the end: long before the time for it is over.
#[tokio::test]
async fn a_shutdown_says_going_away() {
    let origin = TestOrigin::start().await;
    let mut gateway = Gateway::with(&origin).drain("60s").route("/ws/*", "websocket = {}").start().await;
    let url = format!("ws://{}/ws/echo", gateway.address());
    let mut sockets = Vec::new();
    for _ in 0..20 {
        let (mut socket, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
        socket.send(Message::text("hello")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
        sockets.push(socket);
    }
    let open = gateway.metrics().await.value("tidegate_websockets_open", &[]);
    assert!((open - 20.0).abs() < 0.1, "{open}");
    let begin = Instant::now();
    gateway.sigterm();
    for socket in &mut sockets {
        let said = tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(said, Message::Close(Some(CloseFrame { code: CloseCode::Away, reason: "".into() })));
        // This client answers while it waits for the end.
        assert!(tokio::time::timeout(SOON, socket.next()).await.unwrap().is_none());
    }
    assert!(gateway.wait(SOON).await.success());
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    until("it says how it ended", SOON, || async { gateway.output().contains("finished=true") }).await;
}

#[tokio::test]
async fn a_shutdown_never_cuts_a_frame() {
    let release = std::sync::Arc::new(tokio::sync::Notify::new());
    let released = release.clone();
    let server = SocketServer::start(move |mut stream, _| {
        let released = released.clone();
        async move {
            let message = frame(0x02, &[7; 100_000], None);
            let (begin, end) = message.split_at(60_000);
            stream.write_all(begin).await.unwrap();
            released.notified().await;
            stream.write_all(end).await.unwrap();
            // What the origin says after that goes nowhere.
            stream.write_all(&frame(0x80, b"the rest of the message", None)).await.unwrap();
            drop(stream.read_to_end(&mut Vec::new()).await);
        }
    })
    .await;
    let mut gateway = before(&server, "{}").drain("60s").start().await;
    let mut socket = opened(gateway.address(), "/").await;
    assert_eq!(exactly(&mut socket, 60_000).await.len(), 60_000);
    gateway.sigterm();
    until("it drains", SOON, || async {
        let ready = gateway.client().get(gateway.admin_url("/readyz"));
        client::try_send(ready).await.is_ok_and(|reply| reply.status == 503)
    })
    .await;
    release.notify_one();
    let rest = exactly(&mut socket, 100_010 - 60_000).await;
    assert!(rest.iter().all(|byte| *byte == 7));
    assert_eq!(exactly(&mut socket, 4).await, frame(0x88, &reason(1001, ""), None));
    socket.write_all(&frame(0x88, &reason(1001, ""), MASK)).await.unwrap();
    assert_eq!(to_the_end(&mut socket).await, b"");
    assert!(gateway.wait(SOON).await.success());
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_cut_off_in_time() {
    let server = silent().await;
    let mut gateway = before(&server, "{}").drain("1s").start().await;
    let mut socket = opened(gateway.address(), "/").await;
    let begin = Instant::now();
    gateway.sigterm();
    assert_eq!(to_the_end(&mut socket).await, frame(0x88, &reason(1001, ""), None));
    assert!(gateway.wait(SOON).await.success());
    assert!(begin.elapsed() >= Duration::from_secs(1));
    until("it says how it ended", SOON, || async { gateway.output().contains("finished=false") }).await;
}

#[tokio::test]
async fn a_reload_touches_no_socket() {
    let origin = TestOrigin::start().await;
    let builder = Gateway::with(&origin).route("/ws/*", "websocket = {}");
    let gateway = builder.start().await;
    let mut socket = opened(gateway.address(), "/ws/echo").await;
    // Even where the new configuration would open none.
    assert!(gateway.reload(&Gateway::with(&origin).route("/ws/*", "")).await);
    for text in [&b"still"[..], b"here"] {
        socket.write_all(&frame(0x81, text, MASK)).await.unwrap();
        assert_eq!(exactly(&mut socket, text.len() + 2).await, frame(0x81, text, None));
    }
    let (_, head) = open(gateway.address(), "/ws/echo", &[]).await;
    assert!(head.starts_with("http/1.1 403"), "{head}");
}
