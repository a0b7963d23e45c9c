//! Everything that is not cached: any method, streams both ways, WebSocket, the headers of a proxy.

use crate::support::{
    gateway::{token, GatewayBuilder, KPI},
    *,
};
use futures_util::{SinkExt, StreamExt};
use std::time::Duration;
use tokio_tungstenite::tungstenite::{client::IntoClientRequest, Error, Message};

fn gateway(origin: &TestOrigin) -> GatewayBuilder {
    Gateway::with(origin)
        .route("/api/widgets/kpi", KPI)
        .route("/ws/*", "websocket = { idle_timeout = \"75s\" }")
        .route("/small", "max_body = \"1KiB\"")
        .route("/app/*", "")
        .route("/upload", "max_body = \"64MiB\"")
        .route("/download", "")
}

#[tokio::test]
async fn every_method_passes_with_its_body_and_answer() {
    let origin = TestOrigin::start().await;
    origin.on("/app/x", |seen| Answer::echo(seen).status(207).header("x-own", "kept"));
    let gateway = gateway(&origin).start().await;
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "GET", "PROPFIND"] {
        let reply = send(gateway.request(method, "/app/x?a=1&b=2&a=3").body("hello")).await;
        assert_eq!((reply.status.as_u16(), reply.header("x-own")), (207, "kept"), "{method}: {reply:?}");
        let seen = origin.seen("/app/x").pop().unwrap();
        assert_eq!((seen.method.as_str(), &seen.body[..]), (method, &b"hello"[..]));
        assert_eq!(seen.query.as_deref(), Some("a=1&b=2&a=3"));
    }
    let head = send(gateway.request("HEAD", "/app/x")).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (207, 0));
    assert_eq!(origin.seen("/app/x").pop().unwrap().method, "HEAD");
}

#[tokio::test]
async fn unsafe_methods_on_a_cached_route_reach_the_origin() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).start().await;
    gateway.get("/api/widgets/kpi").await.ok();
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let reply = send(gateway.request(method, "/api/widgets/kpi").body("x")).await.ok();
        assert!(!reply.is_hit(), "{method}: {reply:?}");
    }
    assert_eq!(origin.count("/api/widgets/kpi"), 5);
    assert!(gateway.get("/api/widgets/kpi").await.ok().is_hit());
}

#[tokio::test]
async fn bodies_stream_both_ways_unharmed() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).start().await;
    let body = noise(20_000_000, 11);
    let whole = send(gateway.request("POST", "/upload").body(body.clone())).await.ok().json();
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> =
        body.chunks(70_001).map(|piece| Ok(piece.to_vec())).collect();
    let stream = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let chunked = send(gateway.request("POST", "/upload").body(stream)).await.ok().json();
    for report in [whole, chunked] {
        assert_eq!(report["bytes"], 20_000_000);
        assert_eq!(report["sha256"], sha256(&body).as_str());
    }
    let download = gateway.get("/download?bytes=20000000&seed=11").await.ok();
    assert!(download.body == body);
    let seen = origin.seen("/upload");
    assert_eq!(seen[0].header("content-length"), Some("20000000"));
    assert_eq!(seen[1].header("content-length"), None);
}

#[tokio::test]
async fn an_answer_is_passed_on_before_it_ends() {
    let origin = TestOrigin::start().await;
    origin.on("/app/events", |_| Answer::new("text/event-stream", "data: 1\n\n").then_held("data: 2\n\n"));
    let gateway = gateway(&origin).start().await;
    origin.hold();
    let mut reply = gateway.request("GET", "/app/events").send().await.unwrap();
    let first = tokio::time::timeout(SOON, reply.chunk()).await.expect("the first event comes at once");
    assert_eq!(&first.unwrap().unwrap()[..], b"data: 1\n\n");
    origin.release();
    assert_eq!(&reply.chunk().await.unwrap().unwrap()[..], b"data: 2\n\n");
}

#[tokio::test]
async fn the_origin_is_told_who_asked() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).start().await;
    let request = gateway.request("GET", "/app/x").header("x-forwarded-for", "203.0.113.7");
    let request = request.header("x-real-ip", "203.0.113.7").header("forwarded", "for=203.0.113.7");
    let reply = send(request.header("host", "dash.example.com").header("x-forwarded-host", "evil.example"))
        .await
        .ok();
    for path in ["/app/x", "/api/widgets/kpi"] {
        send(gateway.request("GET", path).header("host", "dash.example.com")).await.ok();
    }
    let seen = origin.seen("/app/x");
    assert_eq!(seen[0].header("x-real-ip"), Some("127.0.0.1"));
    // Nobody in front of this gateway is trusted: what a client claims does not pass as the truth.
    let address = seen[0].header("x-forwarded-for").unwrap();
    assert_eq!(address.rsplit(',').next().unwrap().trim(), "127.0.0.1");
    assert_eq!(seen[0].header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen[0].header("x-forwarded-host"), Some("dash.example.com"));
    let forwarded = seen[0].header("forwarded").unwrap().to_ascii_lowercase();
    let last = forwarded.rsplit(',').next().unwrap();
    for part in ["for=127.0.0.1", "proto=http", "host="] {
        assert!(last.contains(part), "{forwarded}");
    }
    assert_eq!(seen[0].header("x-request-id"), Some(reply.header("x-request-id")));
    assert_ne!(seen[0].header("x-request-id"), seen[1].header("x-request-id"));
    // A fill answers many: it names no client, but has an id of its own.
    assert!(origin.seen("/api/widgets/kpi")[0].header("x-request-id").is_some());
}

#[tokio::test]
async fn hop_by_hop_headers_stay_on_their_hop() {
    let origin = TestOrigin::start().await;
    origin.on("/app/x", |seen| {
        Answer::echo(seen)
            .header("connection", "x-hop-answer")
            .header("x-hop-answer", "1")
            .header("keep-alive", "timeout=5")
            .header("proxy-authenticate", "Basic")
    });
    let gateway = gateway(&origin).start().await;
    let request =
        "GET /app/x HTTP/1.1\r\nHost: a\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
                   Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nTE: trailers\r\n\
                   Trailer: x-t\r\nX-End: 1\r\n\r\n";
    let reply = raw_exchange(gateway.address(), request.as_bytes()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    for name in ["x-hop-answer:", "keep-alive: timeout", "proxy-authenticate:"] {
        assert!(!reply.head.contains(name), "{reply:?}");
    }
    let seen = origin.seen("/app/x").pop().unwrap();
    for name in ["x-hop", "keep-alive", "proxy-connection", "proxy-authorization", "trailer"] {
        assert_eq!(seen.header(name), None, "{name}: {seen:?}");
    }
    assert_eq!(seen.header("x-end"), Some("1"));
}

#[tokio::test]
async fn websockets_pass_where_the_route_allows_them() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).start().await;
    let address = gateway.address();
    let mut request = format!("ws://{address}/ws/echo").into_client_request().unwrap();
    let bearer = format!("Bearer {}", token("acme", "ann"));
    request.headers_mut().insert("authorization", bearer.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let large = noise(300_000, 9);
    for message in [Message::text("hello"), Message::binary(large), Message::text("")] {
        socket.send(message.clone()).await.unwrap();
        let echoed = tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
        assert!(echoed == message);
    }
    assert_eq!(origin.seen("/ws/echo")[0].header("x-tenant"), Some("acme"));
    socket.close(None).await.unwrap();

    let refused = tokio_tungstenite::connect_async(format!("ws://{address}/app/x")).await;
    assert!(matches!(&refused, Err(Error::Http(reply)) if reply.status() != 101), "{refused:?}");
}

#[tokio::test]
async fn no_route_is_a_404_of_the_gateway() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin)
        .route("/only", "methods = [\"GET\"]")
        .route("/hosted", "host = \"dash.example.com\"")
        .start()
        .await;
    gateway.get("/nowhere").await.problem(404);
    gateway.get("/app").await.problem(404);
    gateway.get("/hosted").await.problem(404);
    send(gateway.request("GET", "/hosted").header("host", "dash.example.com")).await.ok();
    send(gateway.request("GET", "/only")).await.ok();
    let other = send(gateway.request("POST", "/only")).await;
    assert!([404, 405].contains(&other.status.as_u16()), "{other:?}");
    assert_eq!(origin.count("/nowhere") + origin.count("/app"), 0);
    assert!(
        gateway.metrics().await.value("tidegate_rejected_requests_total", &[("reason", "not_found")]) >= 3.0
    );
}

#[tokio::test]
async fn the_longest_match_wins() {
    let (one, two) = (TestOrigin::start().await, TestOrigin::start().await);
    let gateway = Gateway::with(&one)
        .raw(&format!("[[origin]]\nname = \"other\"\nservers = [\"{}\"]", two.url()))
        .route("/*", "")
        .raw("[[route]]\npath = \"/a/*\"\norigin = \"other\"")
        .route("/a/b", "")
        .start()
        .await;
    for path in ["/a/b", "/a/c", "/a", "/b", "/a/b/c"] {
        gateway.get(path).await.ok();
    }
    assert_eq!((one.count("/a/b"), one.count("/a"), one.count("/b")), (1, 1, 1));
    assert_eq!((two.count("/a/c"), two.count("/a/b/c")), (1, 1));
}

#[tokio::test]
async fn a_dead_origin_is_a_502_and_comes_back() {
    let mut origin = TestOrigin::start().await;
    let gateway = gateway(&origin).start().await;
    origin.kill();
    for method in ["GET", "POST"] {
        send(gateway.request(method, "/app/x")).await.problem(502);
    }
    gateway.says("an origin failed").await;
    gateway.says("refused").await;
    origin.restart().await;
    until("the origin's return is seen", SOON, || async { gateway.get("/app/x").await.status == 200 }).await;
}

/// An answer that can't be read is told from an origin that can't be reached: to who waits for a fill, and to whom it is
/// proxied.
#[tokio::test]
async fn a_malformed_answer_is_told_as_that() {
    let malformed = "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello";
    let origin = Recorder::start(move |_: &strict::Message| Say::bytes(malformed).closing()).await;
    let (nobody, _refusing) = refused_address();
    for (url, says) in [(origin.url(), "malformed"), (format!("http://{nobody}"), "reached")] {
        let gateway = GatewayBuilder::new(&url)
            .origin("retries = 0")
            .route("/kept", "cache = { namespace = \"n\", ttl = \"60s\" }")
            .route("/follow", "cache = \"origin\"")
            .route("/moved", "token_query = true")
            .route("/off", "")
            .start()
            .await;
        for path in ["/kept", "/follow", "/moved", "/off"] {
            for method in ["GET", "POST"] {
                let reply = send(gateway.request(method, path).body("")).await.problem(502);
                let detail = reply.json()["detail"].to_string();
                assert!(detail.contains(says), "{method} {path}: {detail}");
                if method == "GET" {
                    let told = reply.cache_status().contains("origin-malformed");
                    assert_eq!(told, says == "malformed", "{path}: {}", reply.cache_status());
                }
            }
        }
    }
}

/// Where the end of the connection is the end of a body, no client is promised that it is kept.
#[tokio::test]
async fn an_old_client_is_not_promised_what_is_not_kept() {
    let origin = Recorder::start(|request: &strict::Message| {
        let text = "a line of the page, \n".repeat(300);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n";
        match request.target() {
            "/chunks" => {
                Say::bytes(format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
            }
            "/end" => Say::bytes(format!("{head}\r\nhello")).closing(),
            _ => Say::bytes(format!("{head}Content-Length: {}\r\n\r\n{text}", text.len())),
        }
    })
    .await;
    let gateway = GatewayBuilder::new(&origin.url())
        .route("/moved", "token_query = true")
        .route("/*", "")
        .start()
        .await;
    for (path, fields) in [
        ("/chunks", ""),
        ("/end", ""),
        ("/encoded", "Accept-Encoding: gzip\r\n"),
        ("/moved", "Accept-Encoding: gzip\r\n"),
    ] {
        for (method, body) in [("GET", ""), ("POST", "Content-Length: 5\r\n\r\nhello")] {
            let rest = if body.is_empty() { "\r\n" } else { body };
            let ask =
                format!("{method} {path} HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n{fields}{rest}");
            let said = client::raw_exchange(gateway.address(), ask.as_bytes()).await;
            assert_eq!(said.status, 200, "{method} {path}");
            assert!(!said.head.contains("transfer-encoding"), "{method} {path}: {}", said.head);
            assert!(said.head.contains("connection: close"), "{method} {path}: {}", said.head);
        }
    }
}

#[tokio::test]
async fn a_silent_origin_is_a_504() {
    let origin = TestOrigin::start().await;
    origin.on("/app/x", |seen| Answer::echo(seen).gated());
    let gateway = gateway(&origin).origin("read_timeout = \"500ms\"\nretries = 0").start().await;
    origin.hold();
    gateway.get("/app/x").await.problem(504);
    origin.release();
}

#[tokio::test]
async fn idempotent_requests_are_tried_on_another_server() {
    let mut dead = TestOrigin::start().await;
    let alive = TestOrigin::start().await;
    dead.kill();
    let gateway = gateway(&dead).server(&alive.url()).start().await;
    for _ in 0..10 {
        gateway.get("/app/x").await.ok();
        gateway.get("/api/widgets/kpi").await.ok();
    }
    assert_eq!(alive.count("/app/x"), 10);
}

#[tokio::test]
async fn a_post_that_reached_the_origin_is_not_repeated() {
    let mut origin = TestOrigin::start().await;
    origin.on("/app/orders", |seen| Answer::echo(seen).after(Duration::from_secs(30)));
    let gateway = gateway(&origin).start().await;
    let asking = tokio::spawn(send(gateway.request("POST", "/app/orders").body("{}")));
    until("the order is at the origin", SOON, || async { origin.count("/app/orders") == 1 }).await;
    origin.kill();
    origin.restart().await;
    asking.await.unwrap().problem(502);
    assert_eq!(origin.count("/app/orders"), 1);
}

#[tokio::test]
async fn a_body_above_the_routes_limit_is_a_413() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).start().await;
    send(gateway.request("POST", "/small").body(vec![b'x'; 1024])).await.ok();
    send(gateway.request("POST", "/small").body(vec![b'x'; 1025])).await.problem(413);
    assert_eq!(origin.count("/small"), 1);
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> = (0..8).map(|_| Ok(vec![b'x'; 1000])).collect();
    let stream = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let reply = send(gateway.request("POST", "/small").body(stream)).await;
    assert_eq!(reply.status, 413, "{reply:?}");
    assert_eq!(reply.header("cache-status"), "tidegate; detail=body_too_large");
}

/// Behind CGI and WSGI `X_Tenant` and `X-Tenant` are one variable.
#[tokio::test]
async fn underscores_smuggle_no_identity() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).start().await;
    let names =
        ["X_Tenant", "X_User", "x_role", "X_Real_IP", "X_Real-IP", "X-Forwarded_For", "X_Forwarded_Host"];
    let claims: String = names.iter().map(|name| format!("{name}: forged\r\n")).collect();
    for path in ["/app/x", "/api/widgets/kpi"] {
        for bearer in [String::new(), format!("Authorization: Bearer {}\r\n", token("acme", "ann"))] {
            origin.forget();
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: a\r\nX_Other: forged\r\n{claims}{bearer}\r\n");
            let reply = raw_exchange(gateway.address(), request.as_bytes()).await;
            assert_eq!(reply.status, 200, "{path}: {reply:?}");
            let seen = origin.seen(path).pop().unwrap();
            assert!(seen.headers.values().all(|value| value != "forged"), "{path}: {seen:?}");
            let own = path == "/app/x";
            assert_eq!(seen.header("x_other"), None, "{path}: {seen:?}");
            let tenant = if !bearer.is_empty() { Some("acme") } else { (!own).then_some("public") };
            assert_eq!(seen.header("x-tenant"), tenant, "{path}: {seen:?}");
        }
    }
}
