//! Cross-origin requests at the edge: preflights, permissions on answers from everywhere, and one stored answer for all
//! origins. What a browser makes of it is in `browser.rs`.

use crate::support::*;

const APP: &str = "https://app.example.com";
const BELOW: &str = "https://a.b.example.com";
const EVIL: &str = "https://evil.example";
const CORS: &str = r#"cors = { origins = ["https://app.example.com", "https://*.example.com"], methods = ["GET", "PUT"], headers = ["Authorization"], expose = ["ETag"], credentials = true }"#;

/// An application with CORS of its own: it allows every origin that asks, or only the first one.
fn theirs(seen: &Seen) -> Answer {
    let answer = Answer::new("text/plain", format!("for {:?}", seen.header("origin")));
    let origin = seen.header("origin").unwrap_or("https://theirs.example").to_owned();
    let answer = answer.header("access-control-allow-origin", &origin).header("access-control-max-age", "5");
    answer.header("vary", "Origin").header("cache-control", "max-age=60").header("etag", "\"v1\"")
}

async fn gateway(origin: &TestOrigin) -> Gateway {
    let versioned = r#"cache = { namespace = "n", ttl = "60s" }"#;
    for path in ["/off", "/followed", "/versioned"] {
        origin.on(path, theirs);
    }
    Gateway::with(origin)
        .origin("retries = 0")
        .route("/off", CORS)
        .route("/followed", &format!("cache = \"origin\"\n{CORS}"))
        .route("/versioned", &format!("{versioned}\n{CORS}"))
        .route("/everyone", "cors = { origins = \"*\" }")
        .route("/plain", "")
        .start()
        .await
}

async fn from(gateway: &Gateway, method: &str, path: &str, origin: Option<&str>) -> Reply {
    let fields: Vec<_> = origin.map(|origin| ("origin", origin)).into_iter().collect();
    gateway.send_with(method, path, &fields).await
}

/// Holds what an answer permits: to this origin, or to nobody.
#[track_caller]
fn permits(reply: &Reply, origin: Option<&str>) {
    assert_eq!(reply.all("access-control-allow-origin"), origin.unwrap_or_default(), "{:?}", reply.headers);
    let with = |text: &'static str| if origin.is_some() { text } else { "" };
    assert_eq!(reply.all("access-control-allow-credentials"), with("true"));
    assert_eq!(reply.all("access-control-expose-headers"), with("ETag"));
    assert!(!reply.headers.contains_key("access-control-max-age"), "theirs: {:?}", reply.headers);
    let vary = reply.all("vary").to_ascii_lowercase();
    assert_eq!(vary.matches("origin").count(), 1, "{vary}");
}

#[tokio::test]
async fn every_answer_permits_whom_the_route_permits() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).await;
    let turns = [Some(APP), Some(EVIL), None, Some(BELOW), Some("null"), Some(APP)];
    for path in ["/off", "/followed", "/versioned"] {
        for from_origin in turns {
            let reply = from(&gateway, "GET", path, from_origin).await.ok();
            permits(&reply, from_origin.filter(|origin| [APP, BELOW].contains(origin)));
        }
    }
    // One for all of them, that no origin was named for.
    for path in ["/followed", "/versioned"] {
        assert_eq!(origin.count(path), 1, "{path}");
        assert_eq!(from(&gateway, "GET", path, Some(EVIL)).await.text(), "for None");
    }
    assert_eq!(from(&gateway, "GET", "/off", Some(APP)).await.text(), format!("for Some({APP:?})"));
}

#[tokio::test]
async fn what_is_validated_or_has_no_body_permits_as_well() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).await;
    for path in ["/followed", "/versioned"] {
        let tag = from(&gateway, "GET", path, Some(EVIL)).await.ok().header("etag").to_owned();
        let reply = gateway.get_with(path, &[("origin", APP), ("if-none-match", &tag)]).await;
        assert_eq!(reply.status, 304, "{path}");
        permits(&reply, Some(APP));
        permits(&from(&gateway, "HEAD", path, Some(BELOW)).await.ok(), Some(BELOW));
    }
}

#[tokio::test]
async fn what_may_be_stored_is_asked_for_without_an_origin() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).await;
    // Not stored yet, so that it goes to the origin.
    permits(&from(&gateway, "HEAD", "/followed?head", Some(APP)).await.ok(), Some(APP));
    from(&gateway, "GET", "/followed?get", Some(APP)).await.ok();
    from(&gateway, "PUT", "/followed", Some(APP)).await.ok();
    from(&gateway, "GET", "/off", Some(APP)).await.ok();
    let named = |path| origin.seen(path).iter().map(|s| s.header("origin").is_some()).collect::<Vec<_>>();
    assert_eq!((named("/followed"), named("/off")), (vec![false, false, true], vec![true]));
}

#[tokio::test]
async fn problems_permit_too_so_that_scripts_can_read_why() {
    let mut origin = TestOrigin::start().await;
    let gateway = gateway(&origin).await;
    origin.kill();
    for path in ["/off", "/followed", "/versioned"] {
        let reply = from(&gateway, "GET", path, Some(APP)).await.problem(502);
        permits(&reply, Some(APP));
        permits(&from(&gateway, "GET", path, Some(EVIL)).await.problem(502), None);
    }
}

async fn preflight(gateway: &Gateway, path: &str, origin: &str, method: &str) -> Reply {
    let asked = [
        ("origin", origin),
        ("access-control-request-method", method),
        ("access-control-request-headers", "authorization"),
    ];
    gateway.send_with("OPTIONS", path, &asked).await
}

#[tokio::test]
async fn preflights_are_answered_here() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).await;
    for path in ["/off", "/followed", "/versioned"] {
        let reply = preflight(&gateway, path, APP, "PUT").await;
        assert_eq!((reply.status.as_u16(), reply.body.len()), (204, 0), "{path}: {:?}", reply.headers);
        for (name, value) in [
            ("access-control-allow-origin", APP),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "GET, PUT"),
            ("access-control-allow-headers", "Authorization"),
            ("access-control-max-age", "3600"),
            ("vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
            ("cache-status", "tidegate; detail=preflight"),
        ] {
            assert_eq!(reply.all(name), value, "{path}: {name}");
        }
        let refused = preflight(&gateway, path, EVIL, "PUT").await.problem(403);
        assert!(
            !refused.headers.keys().any(|name| name.as_str().starts_with("access-control")),
            "{refused:?}"
        );
        assert!(refused.all("vary").contains("Origin"), "{refused:?}");
        assert_eq!(origin.count(path), 0);
    }
    let everyone = preflight(&gateway, "/everyone", "null", "POST").await;
    assert_eq!((everyone.status.as_u16(), everyone.header("access-control-allow-origin")), (204, "*"));
    assert_eq!(everyone.header("access-control-allow-methods"), "GET, HEAD, POST");
    assert!(!everyone.headers.contains_key("access-control-allow-credentials"));
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("tidegate_rejected_requests_total", &[("reason", "preflight")]), 3.0);
}

#[tokio::test]
async fn other_options_are_requests_like_any_other() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).await;
    assert_eq!(preflight(&gateway, "/plain", APP, "PUT").await.ok().json()["path"], "/plain");
    assert_eq!(origin.seen("/plain")[0].method, "OPTIONS");
    let reply = from(&gateway, "OPTIONS", "/off", Some(APP)).await.ok();
    permits(&reply, Some(APP));
    assert_eq!(origin.seen("/off")[0].method, "OPTIONS");
}

#[tokio::test]
async fn everyone_gets_one_answer() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).await;
    for from_origin in [None, Some(APP), Some("null")] {
        let reply = from(&gateway, "GET", "/everyone", from_origin).await.ok();
        assert_eq!(reply.all("access-control-allow-origin"), "*");
        assert!(!reply.all("vary").to_ascii_lowercase().contains("origin"), "{:?}", reply.headers);
    }
}

#[tokio::test]
async fn a_preflight_is_about_the_route_that_takes_its_method() {
    let origin = TestOrigin::start().await;
    let lines = |method: &str, host: &str| {
        format!("methods = [\"{method}\"]\nauth = \"required\"\ncors = {{ origins = \"https://{host}\" }}")
    };
    let gateway = Gateway::with(&origin)
        .route(
            "/x",
            &format!(
                "{}\nsigned = {{ secret = \"0123456789012345678901234567890123456789\" }}",
                lines("GET", "a")
            ),
        )
        .route("/x", &lines("PUT", "b"))
        .start()
        .await;
    for (asked, method, status) in [
        ("https://a", "GET", 204),
        ("https://a", "PUT", 403),
        ("https://b", "PUT", 204),
        ("https://a", "DELETE", 405),
    ] {
        let reply = preflight(&gateway, "/x", asked, method).await;
        assert_eq!(reply.status.as_u16(), status, "{asked} {method}");
    }
    let allowed = preflight(&gateway, "/x", "https://a", "GET").await;
    assert_eq!(allowed.header("access-control-allow-methods"), "GET, HEAD");
    // Neither the token nor the signature was asked for, and both are, of the request itself.
    let reply = from(&gateway, "GET", "/x", Some("https://a")).await.problem(403);
    assert_eq!(reply.header("access-control-allow-origin"), "https://a");
    let reply = from(&gateway, "PUT", "/x", Some("https://b")).await.problem(401);
    assert_eq!(reply.header("access-control-allow-origin"), "https://b");
}

#[tokio::test]
async fn a_preflight_gets_the_rules_for_answers_as_well() {
    let origin = TestOrigin::start().await;
    let rules = "security_headers = true\nresponse_headers = { set = { \"X-Edge\" = \"$cache\" } }";
    let gateway = Gateway::with(&origin).route("/x", &format!("{CORS}\n{rules}")).start().await;
    let reply = preflight(&gateway, "/x", APP, "GET").await;
    assert_eq!((reply.header("x-edge"), reply.header("x-content-type-options")), ("local", "nosniff"));
}

#[tokio::test]
async fn a_handshake_keeps_its_origin() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin)
        .route("/ws/echo", &format!("cache = \"origin\"\nwebsocket = {{}}\n{CORS}"))
        .start()
        .await;
    let request = "GET /ws/echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: https://a\r\n\r\n";
    let raw = raw_exchange_head(gateway.address(), request).await;
    assert!(raw.starts_with("http/1.1 101"), "{raw}");
    assert_eq!(origin.seen("/ws/echo")[0].header("origin"), Some("https://a"));
}

/// Writes `request` and reads the head of the answer.
async fn raw_exchange_head(to: std::net::SocketAddr, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            read.push(stream.read_u8().await.expect("an answer"));
        }
        String::from_utf8(read).unwrap().to_ascii_lowercase()
    };
    tokio::time::timeout(SOON, exchange).await.expect("an answer in time")
}
