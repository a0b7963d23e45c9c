//! TLS on listeners: certificates by name, their renewal, resumption, clients' certificates, and what follows for the
//! origin, the cache and the browser.

use crate::support::{
    gateway::KPI,
    tls::{exchange, request, Authority, Http2, TlsClient},
    *,
};
use futures_util::{SinkExt, StreamExt};
use rustls::HandshakeKind;
use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const HOST: &str = "dash.example";

/// An origin, an authority with `a` for [`HOST`] and a gateway with a plain listener, a TLS one and what is added.
struct Stage {
    origin: TestOrigin,
    authority: Authority,
    gateway: Gateway,
    tls: SocketAddr,
}

impl Stage {
    async fn set(listener: &str, rest: &str) -> Self {
        let (origin, authority) = (TestOrigin::start().await, Authority::new());
        authority.issue("a", &[HOST, "127.0.0.1"]);
        Self::on(origin, authority, &["a"], listener, rest).await
    }

    async fn on(
        origin: TestOrigin,
        authority: Authority,
        names: &[&str],
        listener: &str,
        rest: &str,
    ) -> Self {
        let builder = Self::builder(&origin, &authority, names, listener, rest);
        let gateway = builder.start().await;
        let [_, tls] = gateway.listeners(2).await.try_into().unwrap();
        Self { origin, authority, gateway, tls }
    }

    fn builder(
        origin: &TestOrigin,
        authority: &Authority,
        names: &[&str],
        listener: &str,
        rest: &str,
    ) -> GatewayBuilder {
        Gateway::with(origin)
            .raw(&authority.listener(names, listener))
            .route("/kept", KPI)
            .route("/followed/*", "cache = \"origin\"")
            .route("/*", "")
            .raw(rest)
    }

    fn client(&self) -> TlsClient {
        self.authority.trusting()
    }

    async fn handshakes(&self, result: &str) -> f64 {
        self.gateway.metrics().await.value("tidegate_tls_handshakes_total", &[("result", result)])
    }
}

#[tokio::test]
async fn both_versions_are_spoken_and_the_origin_knows_it_is_https() {
    let stage = Stage::set("", "").await;
    for client in [stage.client(), stage.client().tls12()] {
        stage.gateway.get("/x").await.ok();
        client.get(stage.tls, HOST, "/x").await.ok();
        let [plain, secure] = stage.origin.seen("/x").try_into().unwrap();
        assert_eq!(plain.header("x-forwarded-proto"), Some("http"));
        assert!(plain.header("forwarded").unwrap().contains("proto=http;"), "{plain:?}");
        assert_eq!(secure.header("x-forwarded-proto"), Some("https"));
        assert!(
            secure.header("forwarded").unwrap().contains(";proto=https;host=\"dash.example\""),
            "{secure:?}"
        );
        stage.origin.forget();
    }
    assert_eq!(stage.handshakes("full").await, 2.0);
}

#[tokio::test]
async fn each_host_gets_its_certificate_and_everyone_else_the_first() {
    let (origin, authority) = (TestOrigin::start().await, Authority::new());
    authority.issue("a", &["a.example"]);
    authority.issue("b", &["b.example", "*.b.example"]);
    let stage = Stage::on(origin, authority, &["a", "b"], "", "").await;
    let client = stage.client();
    for host in ["a.example", "b.example", "x.b.example"] {
        client.get(stage.tls, host, "/x").await.ok();
    }
    // The certificate of the first, which is not for them.
    for host in ["other.example", "y.x.b.example", "127.0.0.1"] {
        let error = client.connect(stage.tls, host).await.unwrap_err().to_string();
        assert!(error.contains("a.example"), "{host}: {error}");
    }
    until("refusals are counted", SOON, || async { stage.handshakes("refused").await == 3.0 }).await;
}

/// The name in the certificate that a connection is shown.
async fn shown(stage: &Stage, client: &TlsClient) -> Vec<u8> {
    let stream = client.connect(stage.tls, HOST).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn changed_files_are_shown_and_broken_ones_are_not() {
    let stage = Stage::set("", "").await;
    let client = stage.client();
    let reloads = |result: &'static str| {
        let gateway = &stage.gateway;
        async move {
            gateway.metrics().await.value("tidegate_tls_certificate_reloads_total", &[("result", result)])
        }
    };
    let first = shown(&stage, &client).await;
    let kept = client.connect(stage.tls, HOST).await.unwrap();
    let expiry = stage.gateway.metrics().await.value("tidegate_tls_certificate_expiry_time_seconds", &[]);
    assert!(expiry > 1e9, "{expiry}");

    stage.authority.issue("a", &[HOST]);
    until("the new certificate is shown", SOON, || async { shown(&stage, &client).await != first }).await;
    assert_eq!(reloads("applied").await, 1.0);
    let second = shown(&stage, &client).await;
    // A connection that is open goes on.
    exchange(kept, request("GET", HOST, "/x", &[])).await.ok();

    std::fs::write(stage.authority.path("a.key"), "nonsense").unwrap();
    until("the fault is counted", SOON, || async { reloads("refused").await == 1.0 }).await;
    assert_eq!(shown(&stage, &client).await, second);
    assert!(stage.gateway.output().contains("holds no private key"), "{}", stage.gateway.output());

    stage.authority.issue("a", &[HOST]);
    until("the third is shown", SOON, || async { shown(&stage, &client).await != second }).await;
}

#[tokio::test]
async fn a_reload_brings_another_list_and_refuses_a_bad_one() {
    let stage = Stage::set("", "").await;
    stage.authority.issue("b", &["b.example"]);
    let builder =
        |names: &[&str], lines: &str| Stage::builder(&stage.origin, &stage.authority, names, lines, "");
    let client = stage.client();
    assert!(client.connect(stage.tls, "b.example").await.is_err());

    let hsts = "hsts = { max_age = \"1d\" }";
    let mut open = client.clone().connect(stage.tls, HOST).await.unwrap();
    assert!(stage.gateway.reload(&builder(&["a", "b"], hsts)).await);
    assert_eq!(
        client.get(stage.tls, "b.example", "/x").await.header("strict-transport-security"),
        "max-age=86400"
    );
    // The next request on a connection from before goes by it as well.
    open.write_all(format!("GET /x HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).await.unwrap();
    assert!(answer.to_lowercase().contains("strict-transport-security: max-age=86400"), "{answer}");

    std::fs::write(stage.authority.path("b.key"), "").unwrap();
    assert!(!stage.gateway.reload(&builder(&["b"], "")).await);
    client.get(stage.tls, HOST, "/x").await.ok();
}

#[tokio::test]
async fn sessions_are_resumed_also_across_a_renewal() {
    let stage = Stage::set("", "").await;
    for client in [stage.client().resuming(), stage.client().tls12().resuming()] {
        let kind = || async {
            let stream = client.connect(stage.tls, HOST).await.unwrap();
            let kind = stream.get_ref().1.handshake_kind().unwrap();
            // Tickets of TLS 1.3 come behind the handshake.
            exchange(stream, request("GET", HOST, "/x", &[])).await.ok();
            kind
        };
        assert_eq!(kind().await, HandshakeKind::Full);
        assert_eq!(kind().await, HandshakeKind::Resumed);
        stage.authority.issue("a", &[HOST]);
        assert!(stage.gateway.reload(&Stage::builder(&stage.origin, &stage.authority, &["a"], "", "")).await);
        assert_eq!(kind().await, HandshakeKind::Resumed);
    }
    assert_eq!((stage.handshakes("full").await, stage.handshakes("resumed").await), (2.0, 4.0));
}

#[tokio::test]
async fn what_is_no_tls_is_counted_and_closed() {
    let mut stage = Stage::set("", "").await;
    for bytes in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"\x16\x03\x01\x00\x05hello", &[0xff; 600]] {
        let mut stream = TcpStream::connect(stage.tls).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // An alert, or nothing, or a connection that was reset.
        drop(stream.read_to_end(&mut answer).await);
        assert!(answer.len() < 20 && !answer.starts_with(b"HTTP"), "{answer:?}");
    }
    drop(TcpStream::connect(stage.tls).await.unwrap());
    until("all are counted", SOON, || async {
        stage.handshakes("not_tls").await + stage.handshakes("broken").await == 3.0
            && stage.handshakes("closed").await == 1.0
    })
    .await;
    assert!(stage.client().alpn(&["spdy/3"]).connect(stage.tls, HOST).await.is_err());
    until("a protocol is counted", SOON, || async { stage.handshakes("protocol").await == 1.0 }).await;
    stage.gateway.assert_sound().await;
    stage.client().get(stage.tls, HOST, "/x").await.ok();
}

#[tokio::test]
async fn the_end_of_a_connection_is_told() {
    let stage = Stage::set("", "").await;
    let mut stream = stage.client().connect(stage.tls, HOST).await.unwrap();
    stream
        .write_all(format!("GET /x HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = Vec::new();
    // Without a close_notify this is an error.
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn large_bodies_go_both_ways() {
    let stage = Stage::set("", "").await;
    let client = stage.client();
    let body = client.get(stage.tls, HOST, "/download?bytes=3000000&seed=7").await.ok().body;
    assert!(body == noise(3_000_000, 7));
    let stream = client.connect(stage.tls, HOST).await.unwrap();
    let sent = noise(3_000_000, 8);
    let upload = http::Request::post("/upload")
        .header("host", HOST)
        .body(http_body_util::Full::new(sent.clone().into()));
    let reply = exchange(stream, upload.unwrap()).await.ok();
    assert_eq!(reply.json()["sha256"], sha256(&sent));
}

#[tokio::test]
async fn sockets_are_upgraded() {
    let socket = "[[route]]\npath = \"/ws/*\"\norigin = \"app\"\nwebsocket = {}\n";
    let stage = Stage::set("", socket).await;
    let stream = stage.client().connect(stage.tls, HOST).await.unwrap();
    let url = format!("wss://{HOST}/ws/echo");
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    socket.send("hello".into()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap().as_str(), "hello");
    assert_eq!(stage.origin.seen("/ws/echo")[0].header("x-forwarded-proto"), Some("https"));
}

#[tokio::test]
async fn what_the_authority_says_is_passed_on() {
    let (origin, authority) = (TestOrigin::start().await, Authority::new());
    authority.issue("a", &[HOST]);
    let response = [0x30, 0x08, 0x0a, 0x01, 0x00, 0xa0, 0x03, 0x30, 0x01, 0x00];
    std::fs::write(authority.path("a.ocsp"), response).unwrap();
    let files = authority.files("a").replace(" }", &format!(", ocsp = {} }}", authority.toml("a.ocsp")));
    let listener = format!("[[listener]]\naddress = \"127.0.0.1:0\"\ncertificates = [{files}]");
    let gateway = Gateway::with(&origin).raw(&listener).route("/*", "").start().await;
    let tls = gateway.listeners(2).await[1];
    assert_eq!(authority.trusting().staple(tls, HOST).await, response);
}

#[tokio::test]
async fn clients_without_a_certificate_stay_outside() {
    let (origin, authority) = (TestOrigin::start().await, Authority::new());
    authority.issue("a", &[HOST]);
    let lines = format!(
        "client_certificates = {{ ca = {}, header = \"X-Client-Subject\" }}",
        authority.toml("ca.pem")
    );
    let stage = Stage::on(origin, authority, &["a"], &lines, "").await;
    let bare = stage.client();
    // TLS 1.3 lets a client believe that it is in until it reads.
    for client in
        [bare.clone(), bare.clone().tls12(), bare.clone().showing(Authority::new().client("Evil", "x"))]
    {
        let outside = async {
            let mut stream = client.connect(stage.tls, HOST).await?;
            stream.write_all(b"GET / HTTP/1.1\r\n").await?;
            stream.read_u8().await
        };
        outside.await.unwrap_err();
    }
    until("they are counted", SOON, || async { stage.handshakes("client_certificate").await == 3.0 }).await;

    let again = bare.showing(stage.authority.client("Example, Inc.", "kiosk 7"));
    let known = again.clone().resuming();
    for _ in 0..2 {
        known
            .get_with(
                stage.tls,
                HOST,
                "/x",
                &[
                    ("X-Client-Subject", "CN=root"),
                    ("X_Client_Subject", "CN=root"),
                    ("X.Client.Subject", "CN=root"),
                ],
            )
            .await
            .ok();
    }
    assert_eq!(stage.handshakes("resumed").await, 1.0);
    stage.gateway.get_with("/x", &[("X-Client-Subject", "CN=root")]).await.ok();
    let seen = stage.origin.seen("/x");
    let subjects: Vec<_> = seen.iter().map(|seen| seen.header("x-client-subject")).collect();
    let subject = Some("CN=kiosk 7,O=Example\\, Inc.");
    assert_eq!(subjects, [subject, subject, None], "a client can't name itself, here or elsewhere");
    for name in ["x_client_subject", "x.client.subject"] {
        assert!(seen.iter().all(|seen| seen.header(name).is_none()), "{name}");
    }

    let misdirected = known.connect(stage.tls, HOST).await.unwrap();
    exchange(misdirected, request("GET", "other.example", "/x", &[])).await.problem(421);
    let h2 = Http2::connect(&again, stage.tls, HOST).await;
    h2.get("other.example", "/x").await.problem(421);
    h2.get(HOST, "/x").await.ok();
    assert_eq!(stage.origin.seen("/x").last().unwrap().header("x-client-subject"), subject);
}

/// A session that is taken up again is not verified again.
#[tokio::test]
async fn an_expired_certificate_is_not_taken_by_resumption() {
    const GOOD: Duration = Duration::from_secs(6);
    let (origin, authority) = (TestOrigin::start().await, Authority::new());
    authority.issue("a", &[HOST]);
    for required in [true, false] {
        let lines =
            format!("client_certificates = {{ ca = {}, required = {required} }}", authority.toml("ca.pem"));
        let gateway = Stage::builder(&origin, &authority, &["a"], &lines, "").start().await;
        let tls = gateway.listeners(2).await[1];
        let end = SystemTime::now() + GOOD;
        let soon = authority.client_until(end.into());
        let clients = [authority.trusting(), authority.trusting().tls12()]
            .map(|client| client.showing((soon.0.clone(), soon.1.clone_key())).resuming());
        for client in &clients {
            for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
                let stream = client.connect(tls, HOST).await.unwrap();
                assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind));
                exchange(stream, request("GET", HOST, "/x", &[])).await.ok();
            }
        }
        until("the certificate has expired", 2 * GOOD, || async {
            SystemTime::now() > end + Duration::from_secs(1)
        })
        .await;
        for client in &clients {
            let outside = async {
                let mut stream = client.connect(tls, HOST).await?;
                stream.write_all(b"GET /x HTTP/1.1\r\nHost: dash.example\r\n\r\n").await?;
                stream.read_u8().await
            };
            outside.await.unwrap_err();
        }
        until("they are counted", SOON, || async {
            let metrics = gateway.metrics().await;
            let of = |result| metrics.value("tidegate_tls_handshakes_total", &[("result", result)]);
            (of("resumed"), of("client_certificate")) == (2.0, 2.0)
        })
        .await;
        // Who has shown none has nothing that could expire.
        if !required {
            let bare = authority.trusting().resuming();
            for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
                let stream = bare.connect(tls, HOST).await.unwrap();
                assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind));
                exchange(stream, request("GET", HOST, "/x", &[])).await.ok();
            }
        }
    }
}

#[tokio::test]
async fn a_certificate_may_be_left_to_the_client() {
    let (origin, authority) = (TestOrigin::start().await, Authority::new());
    authority.issue("a", &[HOST]);
    origin.on("/followed/me", |seen| {
        let who = seen.header("x-client-subject").unwrap_or("nobody").to_owned();
        Answer::new("text/plain", who).header("cache-control", "max-age=60")
    });
    let lines = format!(
        "client_certificates = {{ ca = {}, required = false, header = \"X-Client-Subject\" }}",
        authority.toml("ca.pem")
    );
    let stage = Stage::on(origin, authority, &["a"], &lines, "").await;
    let bare = stage.client();
    let known = bare.clone().showing(stage.authority.client("Example", "ann"));
    let me = |client: &TlsClient| {
        let client = client.clone();
        let to = stage.tls;
        async move { client.get(to, HOST, "/followed/me").await.ok().text().to_owned() }
    };
    // What an origin says to one who has shown himself is for nobody else.
    assert_eq!(me(&known).await, "CN=ann,O=Example");
    assert_eq!(me(&bare).await, "nobody");
    let stranger = bare.clone().showing(Authority::new().client("Evil", "x"));
    assert!(
        stranger.connect(stage.tls, HOST).await.is_err() || {
            until("the stranger is counted", SOON, || async {
                stage.handshakes("client_certificate").await == 1.0
            })
            .await;
            true
        }
    );
}

#[tokio::test]
async fn everything_is_sent_to_https_but_proofs() {
    let (origin, authority) = (TestOrigin::start().await, Authority::new());
    authority.issue("a", &[HOST]);
    let redirecting = "[[listener]]\naddress = \"127.0.0.1:0\"\nredirect_to_https = true\n";
    let acme = "[[route]]\npath = \"/.well-known/acme-challenge/*\"\norigin = \"app\"\nmethods = [\"GET\"]\n";
    let builder = Stage::builder(&origin, &authority, &["a"], "", &format!("{redirecting}{acme}"))
        .event("order_created", &["kpi"]);
    let gateway = builder.start().await;
    let [_, tls, redirecting] = gateway.listeners(3).await.try_into().unwrap();
    let port = tls.port();
    let ask = |method: &str, path: &str| {
        let url = format!("http://{redirecting}{path}");
        let request =
            gateway.client().request(method.parse().unwrap(), url).header("host", "Dash.example:81");
        send(request)
    };
    for (method, path, status) in [
        ("GET", "/kept?range=1&x=%20", 301),
        ("HEAD", "/", 301),
        ("POST", "/app", 308),
        ("DELETE", "/nowhere", 308),
        ("POST", "/internal/events/order_created", 308),
        ("GET", "/.well-known/acme-challenge", 301),
        ("POST", "/.well-known/acme-challenge/x", 308),
    ] {
        let reply = ask(method, path).await;
        assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
        assert_eq!(reply.header("location"), format!("https://Dash.example:{port}{path}"));
        assert_eq!(reply.header("content-length"), "0");
        assert!(!reply.header("x-request-id").is_empty());
    }
    assert_eq!(origin.counts().values().sum::<usize>(), 0, "{:?}", origin.counts());
    ask("GET", "/.well-known/acme-challenge/token").await.ok();
    assert_eq!(origin.count("/.well-known/acme-challenge/token"), 1);
    let bare = raw_exchange(redirecting, b"GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(bare.status, 400, "{bare:?}");
    // One connection was kept for all of them.
    assert_eq!(gateway.metrics().await.value("tidegate_connections_accepted_total", &[]), 2.0);
}

#[tokio::test]
async fn every_answer_over_tls_asks_for_https() {
    let stage = Stage::set("hsts = { max_age = \"365d\", include_subdomains = true }", "").await;
    stage.origin.on("/own", |seen| Answer::echo(seen).header("strict-transport-security", "max-age=1"));
    let client = stage.client();
    let expected = "max-age=31536000; includeSubDomains";
    for path in ["/kept", "/kept", "/x", "/own", "/a/../b", "/followed/x"] {
        let reply = client.get(stage.tls, HOST, path).await;
        assert_eq!(reply.all("strict-transport-security"), expected, "{path}: {reply:?}");
    }
    let h2 = Http2::connect(&client, stage.tls, HOST).await;
    assert_eq!(h2.get(HOST, "/kept").await.header("strict-transport-security"), expected);
    for path in ["/kept", "/x"] {
        assert_eq!(stage.gateway.get(path).await.ok().header("strict-transport-security"), "");
    }
}

/// An origin that sends http to https must not send https to itself for ever.
#[tokio::test]
async fn what_is_kept_for_http_is_not_for_https() {
    let stage = Stage::set("", "").await;
    stage.origin.on("/followed/page", |seen| match seen.header("x-forwarded-proto") {
        Some("https") => Answer::new("text/plain", "the page").header("cache-control", "max-age=60"),
        _ => Answer::new("text/plain", "")
            .status(301)
            .header("location", "https://dash.example/followed/page")
            .header("cache-control", "max-age=60"),
    });
    let client = stage.client();
    let plain = || stage.gateway.get_with("/followed/page", &[("host", HOST)]);
    let secure = || client.get(stage.tls, HOST, "/followed/page");
    for hit in [false, true] {
        let (plain, secure) = (plain().await, secure().await);
        assert_eq!((plain.status.as_u16(), secure.status.as_u16()), (301, 200));
        assert_eq!((plain.is_hit(), secure.is_hit()), (hit, hit));
    }
    // A purge of either is one of both.
    for scheme in ["http", "https"] {
        let url = format!("{scheme}://{HOST}/followed/page");
        assert_eq!(stage.gateway.purge(&serde_json::json!({ "url": url })).await.status, 200);
        for hit in [false, true] {
            assert_eq!((plain().await.is_hit(), secure().await.is_hit()), (hit, hit), "{scheme}");
        }
    }
}

#[tokio::test]
async fn requests_under_way_finish_and_idle_connections_end() {
    let mut stage = Stage::set("", "").await;
    stage.origin.on("/slow", |_| Answer::new("text/plain", "slow").gated());
    stage.origin.hold();
    let client = stage.client();
    let mut idle = client.connect(stage.tls, HOST).await.unwrap();
    idle.write_all(format!("GET /x HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    idle.read_u8().await.unwrap();
    let halfway = TcpStream::connect(stage.tls).await.unwrap();
    let slow = client.get(stage.tls, HOST, "/slow");
    let drained = async {
        until("the origin is asked", SOON, || async { stage.origin.count("/slow") == 1 }).await;
        stage.gateway.sigterm();
        let mut rest = Vec::new();
        drop(tokio::time::timeout(SOON, idle.read_to_end(&mut rest)).await.unwrap());
        stage.origin.release();
    };
    let (slow, ()) = tokio::join!(slow, drained);
    assert_eq!(slow.ok().text(), "slow");
    assert!(stage.gateway.wait(SOON).await.success());
    drop(halfway);
}

/// The least that a proxy says.
fn proxy_line(client: &str) -> String {
    format!("PROXY TCP4 {client} 127.0.0.1 4711 443\r\n")
}

#[tokio::test]
async fn a_proxy_says_for_whom_it_asks() {
    let (origin, authority) = (TestOrigin::start().await, Authority::new());
    authority.issue("a", &[HOST]);
    let plain = "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\n";
    let gateway = Stage::builder(&origin, &authority, &["a"], "proxy_protocol = true", plain).start().await;
    let [_, tls, plain] = gateway.listeners(3).await.try_into().unwrap();
    let ask = b"GET /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n";
    let version_2 =
        [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x05\x06\x07\x08\x7f\0\0\x01\x12\x67\x01\xbb", &ask[..]]
            .concat();
    let local = [b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", &ask[..]].concat();
    let line = [proxy_line("1.2.3.4").as_bytes(), ask].concat();
    for (sent, client) in [(&line, "1.2.3.4"), (&version_2, "5.6.7.8"), (&local, "127.0.0.1")] {
        assert_eq!(raw_exchange(plain, sent).await.status, 200);
        let seen = origin.seen("/x").pop().unwrap();
        assert_eq!((seen.header("x-real-ip"), seen.header("x-forwarded-for")), (Some(client), Some(client)));
    }
    let mut stream = TcpStream::connect(tls).await.unwrap();
    stream.write_all(proxy_line("1.2.3.5").as_bytes()).await.unwrap();
    let secure = authority.trusting().over(stream, HOST).await.unwrap();
    exchange(secure, request("GET", HOST, "/x", &[])).await.ok();
    assert_eq!(origin.seen("/x").pop().unwrap().header("x-real-ip"), Some("1.2.3.5"));

    let asked = origin.count("/x");
    for nothing in [&ask[..], b"PROXY TCP4 nonsense\r\n", &[0xff; 200]] {
        assert_eq!(raw_exchange(plain, nothing).await.status, 0);
    }
    drop(TcpStream::connect(plain).await.unwrap());
    assert_eq!(origin.count("/x"), asked);
    until("all are counted", SOON, || async {
        let metrics = gateway.metrics().await;
        let of = |result| metrics.value("tidegate_proxy_headers_total", &[("result", result)]);
        (of("proxied"), of("local"), of("malformed"), of("closed")) == (3.0, 1.0, 3.0, 1.0)
    })
    .await;
}

#[tokio::test]
async fn only_a_trusted_proxy_is_believed() {
    let (origin, authority) = (TestOrigin::start().await, Authority::new());
    authority.issue("a", &[HOST]);
    let plain = |trusted: &str| {
        Stage::builder(
            &origin,
            &authority,
            &["a"],
            "",
            "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\n",
        )
        .setting(&format!("trusted_proxies = [{trusted:?}]"))
    };
    let gateway = plain("10.0.0.0/8").start().await;
    let to = gateway.listeners(3).await[2];
    let ask = format!("{}GET /x HTTP/1.1\r\nHost: a\r\n\r\n", proxy_line("1.2.3.4"));
    assert_eq!(raw_exchange(to, ask.as_bytes()).await.status, 0);
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("tidegate_proxy_headers_total", &[("result", "untrusted")]), 1.0);
    assert!(gateway.reload(&plain("127.0.0.0/8")).await);
    assert_eq!(raw_exchange(to, ask.as_bytes()).await.status, 200);
    assert_eq!(origin.seen("/x").pop().unwrap().header("x-real-ip"), Some("1.2.3.4"));
}

/// Behind a proxy that speaks TLS itself, a redirect would never end.
#[tokio::test]
async fn who_comes_by_https_through_a_proxy_is_not_sent_there_again() {
    let (origin, authority) = (TestOrigin::start().await, Authority::new());
    authority.issue("a", &[HOST]);
    let redirecting = "[[listener]]\naddress = \"127.0.0.1:0\"\nredirect_to_https = true\n";
    let gateway = Stage::builder(&origin, &authority, &["a"], "", redirecting)
        .setting("trusted_proxies = [\"127.0.0.1/32\"]")
        .start()
        .await;
    let to = gateway.listeners(3).await[2];
    for (proto, status) in [("http", 301), ("https", 200)] {
        let ask = format!(
            "GET /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: {proto}\r\n\r\n"
        );
        assert_eq!(raw_exchange(to, ask.as_bytes()).await.status, status, "{proto}");
    }
}
