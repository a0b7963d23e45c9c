//! Every way that a server is spoken to: sockets, HTTP/2, TLS with the gateway's own certificate.

use super::{echoes, socket};
use crate::support::tls::Authority;
use crate::support::*;
use http::Version;

/// All that a gateway asks an origin for: fills, proxied requests with bodies, WebSockets, checks.
async fn speaks(origin: &TestOrigin, lines: &str, version: Version) -> Gateway {
    let gateway = Gateway::with(origin)
        .origin(&format!("{lines}\nhealth = {{ path = \"/healthz\", interval = \"100ms\" }}"))
        .route("/app/*", "")
        .route("/kept/*", "cache = { namespace = \"n\", ttl = \"60s\" }")
        .route("/follow/*", "cache = \"origin\"")
        .route("/upload", "max_body = \"64MiB\"")
        .route("/download", "")
        .route("/ws/*", "websocket = {}")
        .start()
        .await;
    let body = noise(3_000_000, 5);
    for n in 0..3 {
        for path in ["app", "kept", "follow"] {
            let reply = gateway.get(&format!("/{path}/{n}?a=1")).await.ok();
            assert_eq!(reply.json()["path"], format!("/{path}/{n}"));
        }
        let report = send(gateway.request("POST", "/upload").body(body.clone())).await.ok().json();
        assert_eq!(report["sha256"], sha256(&body).as_str());
        assert!(gateway.get("/download?bytes=3000000&seed=5").await.ok().body == body);
        assert_eq!(send(gateway.request("HEAD", "/app/x")).await.ok().body.len(), 0);
    }
    for n in 0..20 {
        let mut open = socket(&gateway, "/ws/echo").await.unwrap_or_else(|error| panic!("{n}: {error}"));
        echoes(&mut open, "hello").await;
    }
    for path in ["/app/0", "/kept/0", "/follow/0", "/healthz"] {
        until(path, SOON, || async { origin.count(path) > 0 }).await;
        assert_eq!(origin.seen(path)[0].version, version, "{path}");
    }
    until("the check was seen", SOON, || async {
        gateway.metrics().await.value("tidegate_origin_server_up", &[("origin", "app")]) == 1.0
    })
    .await;
    assert!(origin.seen("/ws/echo").iter().all(|seen| seen.version == Version::HTTP_11));
    gateway
}

#[tokio::test]
async fn a_socket_of_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let unix = Some(dir.path().join("app.sock"));
    let mut origin = TestOrigin::start_as(Spoken { unix, ..Spoken::default() }).await;
    let gateway = speaks(&origin, "connect_timeout = \"1s\"", Version::HTTP_11).await;
    assert_eq!(origin.seen("/kept/0")[0].header("host"), Some("localhost"));
    // Connections are used again: far fewer came than requests and sockets.
    let (before, requests) = (origin.connections(), 50);
    for _ in 0..requests {
        gateway.get("/app/x").await.ok();
    }
    assert!(origin.connections() - before < 5, "{}", origin.connections() - before);
    origin.kill();
    until("its end is seen", SOON, || async { gateway.get("/app/x").await.status.is_server_error() }).await;
    origin.restart().await;
    until("its return is seen", SOON, || async { gateway.get("/app/x").await.status == 200 }).await;
}

#[tokio::test]
async fn tls_by_an_own_authority() {
    let authority = Authority::new();
    let tls = Some(authority.accept(&["127.0.0.1"], false, false));
    let origin = TestOrigin::start_as(Spoken { tls, ..Spoken::default() }).await;
    speaks(&origin, &format!("tls = {{ ca = {} }}", authority.toml("ca.pem")), Version::HTTP_11).await;
}

#[tokio::test]
async fn tls_with_a_certificate_of_the_gateways_own() {
    let authority = Authority::new();
    authority.issue("own", &["gateway.internal"]);
    let tls = Some(authority.accept(&["app.internal"], true, true));
    let origin = TestOrigin::start_as(Spoken { tls, ..Spoken::default() }).await;
    let (ca, own) = (authority.toml("ca.pem"), authority.files("own"));
    let own = own.trim_matches(['{', '}', ' ']);
    let lines = format!("tls = {{ ca = {ca}, {own}, server_name = \"app.internal\" }}");
    speaks(&origin, &lines, Version::HTTP_11).await;
    let without = format!("retries = 0\ntls = {{ ca = {ca}, server_name = \"app.internal\" }}");
    let gateway = Gateway::with(&origin).origin(&without).route("/app/*", "").start().await;
    gateway.get("/app/y").await.problem(502);
    assert_eq!(origin.count("/app/y"), 0);
}

#[tokio::test]
async fn http2_by_alpn() {
    let authority = Authority::new();
    let tls = Some(authority.accept(&["127.0.0.1"], true, false));
    let origin = TestOrigin::start_as(Spoken { tls, ..Spoken::default() }).await;
    let lines = format!("http2 = true\ntls = {{ ca = {} }}", authority.toml("ca.pem"));
    speaks(&origin, &lines, Version::HTTP_2).await;
    let authority = origin.seen("/kept/0")[0].authority.clone().unwrap();
    assert_eq!(format!("https://{authority}"), origin.url());
}

#[tokio::test]
async fn http2_where_the_server_has_none_is_http1() {
    let authority = Authority::new();
    let tls = Some(authority.accept(&["127.0.0.1"], false, false));
    let origin = TestOrigin::start_as(Spoken { tls, ..Spoken::default() }).await;
    let lines = format!("http2 = true\ntls = {{ ca = {} }}", authority.toml("ca.pem"));
    speaks(&origin, &lines, Version::HTTP_11).await;
}

#[tokio::test]
async fn http2_with_prior_knowledge_shares_a_connection() {
    let origin = TestOrigin::start_as(Spoken { http2: true, ..Spoken::default() }).await;
    for path in ["/app/slow", "/kept/slow"] {
        origin.on(path, |seen| Answer::echo(seen).gated());
    }
    let gateway = Gateway::with(&origin)
        .origin("http2 = true")
        .route("/app/*", "")
        .route("/kept/*", "cache = { namespace = \"n\", ttl = \"60s\", query = [\"n\"] }")
        .start()
        .await;
    gateway.get("/app/x").await.ok();
    gateway.get("/kept/x").await.ok();
    origin.hold();
    let mut asking = Vec::new();
    for n in 0..40 {
        asking.push(tokio::spawn(send(gateway.request("GET", &format!("/app/slow?{n}")))));
        asking.push(tokio::spawn(send(gateway.request("GET", &format!("/kept/slow?n={n}")))));
    }
    until("all are there at once", SOON, || async { origin.held() == 80 }).await;
    // One for fills, one for what is proxied, and some where two looked for one at the same moment.
    assert!(origin.connections() < 40, "{}", origin.connections());
    origin.release();
    for asking in asking {
        asking.await.unwrap().ok();
    }
    assert!(origin.seen("/app/slow").iter().all(|seen| seen.version == Version::HTTP_2));
}

/// A server that resets each request is asked a few times and no more.
#[tokio::test]
async fn http2_that_breaks_is_a_502() {
    let origin = TestOrigin::start_as(Spoken { http2: true, ..Spoken::default() }).await;
    for path in ["/app/broken", "/kept/broken"] {
        origin.on(path, |_| Answer::new("text/plain", "abc").length(10).broken());
    }
    for path in ["/app/bare", "/kept/bare"] {
        origin.on(path, |_| Answer::new("text/plain", "").length(10).bare());
    }
    let gateway = Gateway::with(&origin)
        .origin("http2 = true\nretries = 1")
        .route("/app/*", "")
        .route("/kept/*", "cache = { namespace = \"n\", ttl = \"60s\" }")
        .start()
        .await;
    gateway.get("/app/x").await.ok();
    gateway.get("/kept/x").await.ok();
    for path in ["/app/broken", "/kept/broken", "/app/bare", "/kept/bare"] {
        let reply = client::try_send(gateway.request("GET", path)).await;
        assert!(reply.is_err() || reply.as_ref().is_ok_and(|reply| reply.status == 502), "{path}: {reply:?}");
        assert!((1..=6).contains(&origin.count(path)), "{path}: {}", origin.count(path));
    }
    gateway.get("/app/x").await.ok();
}
