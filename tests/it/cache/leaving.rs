//! Clients that leave before they have their answer: each is let go at once, by whichever lane it came, and an origin that
//! works for nobody, on what nobody could have later, may stop.

use crate::support::{
    gateway::GatewayBuilder,
    tls::{Authority, Http2},
    *,
};
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const NAMESPACED: &str = r#"cache = { namespace = "kpi", scope = "public", ttl = "60s" }"#;
const FOLLOW: &str = "cache = \"origin\"";
const MINUTE: (&str, &str) = ("cache-control", "max-age=60");
/// The fields that choose a lane: native, or Pingora's.
const NATIVE: &str = "";
const PINGORAS: &str = "Connection: keep-alive\r\nConnection: keep-alive\r\n";

fn gateway(origin: &TestOrigin) -> GatewayBuilder {
    Gateway::with(origin)
        .access()
        .route("/kept/*", NAMESPACED)
        .route("/followed/*", FOLLOW)
        .route("/proxied/*", "")
}

/// A connection, with TLS or without.
trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Duplex for S {}

/// Asks, and doesn't read.
async fn ask(gateway: &Gateway, path: &str, fields: &str) -> TcpStream {
    let mut client = TcpStream::connect(gateway.address()).await.unwrap();
    let host = gateway.address();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    client
}

async fn open(gateway: &Gateway) -> f64 {
    gateway.metrics().await.value("tidegate_connections_open", &[])
}

async fn are_open(gateway: &Gateway, n: f64) {
    until(&format!("{n} are open"), SOON, || async { open(gateway).await == n }).await;
}

/// Records of requests whose client has left.
fn left(gateway: &Gateway) -> usize {
    gateway.output().lines().filter(|line| line.contains("client-left")).count()
}

#[tokio::test]
async fn who_leads_and_who_follows_is_let_go_at_once() {
    let origin = TestOrigin::start().await;
    for path in ["/kept/x", "/followed/x"] {
        origin.on(path, |seen| Answer::echo(seen).header("cache-control", "max-age=60").gated());
    }
    let gateway = gateway(&origin).start().await;
    origin.hold();
    let mut gone = 0;
    for path in ["/kept/x", "/followed/x"] {
        let mut all = vec![ask(&gateway, path, NATIVE).await];
        until("the leader is at the origin", SOON, || async { origin.count(path) == 1 }).await;
        all.push(ask(&gateway, path, NATIVE).await);
        all.push(ask(&gateway, path, PINGORAS).await);
        let stays = ask(&gateway, path, PINGORAS).await;
        are_open(&gateway, 4.0).await;
        // They wait: who leaves before it is heard is no matter of a lane.
        until("all are heard", SOON, || async {
            gateway.metrics().await.value("tidegate_flights_total", &[("role", "leader")]) >= 1.0
        })
        .await;
        drop(all);
        are_open(&gateway, 1.0).await;
        gone += 3;
        assert_eq!(origin.count(path), 1, "one waits yet");
        drop(stays);
        are_open(&gateway, 0.0).await;
        gone += 1;
        until("all are recorded", SOON, || async { left(&gateway) == gone }).await;
    }
    origin.release();
}

/// Nineteen impatient clients of twenty that may be there: the door stays open.
#[tokio::test]
async fn impatient_clients_do_not_shut_the_door() {
    let origin = TestOrigin::start().await;
    origin.on("/kept/slow", |seen| Answer::echo(seen).gated());
    let gateway = gateway(&origin).setting("max_connections = 20").start().await;
    gateway.get("/kept/hit").await.ok();
    origin.hold();
    for _ in 0..3 {
        let mut all = Vec::new();
        for _ in 0..19 {
            all.push(ask(&gateway, "/kept/slow", NATIVE).await);
        }
        until("they are in", SOON, || async { open(&gateway).await >= 19.0 }).await;
        drop(all);
        until("the door is open", SOON, || async { open(&gateway).await <= 1.0 }).await;
    }
    assert!(gateway.get("/kept/hit").await.ok().is_hit());
    origin.release();
}

/// Requests to an origin, each with whether it may end once the only client has disconnected.
#[tokio::test]
async fn an_origin_works_for_nobody_only_on_what_is_stored() {
    let origin = TestOrigin::start().await;
    let events = || Answer::new("text/event-stream", "data: 1\n\n").then_held("data: 2\n\n");
    let no_store = ("cache-control", "no-store");
    origin.on("/followed/events", move |_| events());
    origin.on("/followed/no-cache", move |_| events().header("cache-control", "no-cache"));
    origin.on("/followed/private", move |_| {
        Answer::new("text/plain", "1").header(no_store.0, no_store.1).then_held("2")
    });
    for path in ["/kept/cookie", "/kept/error"] {
        let status = if path == "/kept/error" { 500 } else { 200 };
        origin.on(path, move |_| {
            Answer::new("text/plain", "1").status(status).header("set-cookie", "a=1").then_held("2")
        });
    }
    for path in ["/followed/poll", "/followed/alone", "/followed/soon-events", "/proxied/poll"] {
        origin.on(path, |seen| Answer::echo(seen).gated());
    }
    origin.on("/kept/page", |seen| Answer::echo(seen).gated());
    origin.on("/followed/page", |_| Answer::new("text/plain", "1").header(MINUTE.0, MINUTE.1).then_held("2"));
    let gateway = gateway(&origin).start().await;
    origin.hold();
    let stops = [
        ("/followed/events", ""),
        ("/followed/no-cache", ""),
        ("/followed/private", ""),
        ("/kept/cookie", ""),
        ("/kept/error", ""),
        ("/followed/poll", ""),
        ("/followed/alone", "Authorization: Basic YTpi\r\n"),
        ("/followed/soon-events", "Accept: text/event-stream\r\n"),
        ("/proxied/poll", ""),
    ];
    for (path, fields) in stops {
        for lane in [NATIVE, PINGORAS] {
            let client = ask(&gateway, path, &format!("{lane}{fields}")).await;
            until(&format!("{path} is held"), SOON, || async { origin.held() == 1 }).await;
            drop(client);
            until(&format!("{path} stops"), SOON, || async { origin.held() == 0 }).await;
        }
    }
    // Nobody has failed: the server is asked as before.
    let metrics = gateway.metrics().await;
    for outcome in ["timeout", "broken", "connect-failed"] {
        assert_eq!(
            metrics.value("tidegate_origin_requests_total", &[("outcome", outcome)]),
            0.0,
            "{outcome}"
        );
    }
    for (n, path) in ["/kept/page", "/followed/page"].into_iter().enumerate() {
        drop(ask(&gateway, path, NATIVE).await);
        until(&format!("{path} is held"), SOON, || async { origin.held() == n + 1 }).await;
    }
    are_open(&gateway, 0.0).await;
    assert_eq!(origin.held(), 2, "what is stored goes on");
    origin.release();
    for path in ["/kept/page", "/followed/page"] {
        until("it is there", SOON, || async { gateway.get(path).await.ok().is_hit() }).await;
        assert_eq!(origin.count(path), 1);
    }
}

/// A client that soon asks again joins the fill that it left.
#[tokio::test]
async fn who_comes_back_at_once_joins_what_was_begun() {
    let origin = TestOrigin::start().await;
    origin.on("/followed/x", |seen| Answer::echo(seen).header(MINUTE.0, MINUTE.1).gated());
    let gateway = gateway(&origin).start().await;
    origin.hold();
    let first = ask(&gateway, "/followed/x", NATIVE).await;
    until("it is held", SOON, || async { origin.held() == 1 }).await;
    drop(first);
    are_open(&gateway, 0.0).await;
    let again = gateway.get("/followed/x");
    let release = async {
        are_open(&gateway, 1.0).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        origin.release();
    };
    let (again, ()) = futures_util::join!(again, release);
    again.ok();
    assert_eq!(origin.count("/followed/x"), 1);
}

/// Pipelined bytes of a next request, however many, do not hide that the client has disconnected.
#[tokio::test]
async fn who_has_begun_another_request_is_let_go_as_well() {
    let (origin, authority) = (TestOrigin::start().await, Authority::new());
    authority.issue("door", &["a"]);
    origin.on("/proxied/poll", |seen| Answer::echo(seen).gated());
    let gateway = gateway(&origin).raw(&authority.listener(&["door"], "")).start().await;
    let tls = gateway.listeners(2).await[1];
    origin.hold();
    for lane in [NATIVE, PINGORAS] {
        for length in [1, 100, 600, 5_000, 100_000] {
            for (at_once, by_tls) in [(true, false), (false, false), (true, true), (false, true)] {
                let what = format!("{length} bytes, at once: {at_once}, TLS: {by_tls}, {lane:?}");
                let mut client: Box<dyn Duplex> = match by_tls {
                    true => Box::new(authority.trusting().connect(tls, "a").await.unwrap()),
                    false => Box::new(TcpStream::connect(gateway.address()).await.unwrap()),
                };
                let first = format!("GET /proxied/poll HTTP/1.1\r\nHost: a\r\n{lane}\r\n");
                let more = format!("GET /kept/x HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(length));
                let (first, more) = match at_once {
                    true => (first + &more[..length], ""),
                    false => (first, &more[..length]),
                };
                client.write_all(first.as_bytes()).await.unwrap();
                client.flush().await.unwrap();
                until(&format!("{what}: it is held"), SOON, || async { origin.held() == 1 }).await;
                // The gateway need not take all of it.
                drop(timeout(Duration::from_millis(200), client.write_all(more.as_bytes())).await);
                drop(client);
                until(&format!("{what}: it stops"), SOON, || async { origin.held() == 0 }).await;
                are_open(&gateway, 0.0).await;
            }
        }
    }
}

/// A stream of HTTP/2 that is reset, and all of a connection that ends.
#[tokio::test]
async fn streams_that_are_reset_are_let_go_at_once() {
    let origin = TestOrigin::start().await;
    for path in ["/kept/x", "/followed/x"] {
        origin.on(path, |seen| Answer::echo(seen).gated());
    }
    let gateway = gateway(&origin).raw("[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true").start().await;
    let listeners = gateway.listeners(2).await;
    origin.hold();
    for (n, path) in ["/kept/x", "/followed/x"].into_iter().enumerate() {
        let h2 = Http2::over(TcpStream::connect(listeners[1]).await.unwrap()).await;
        let asking = (0..3).map(|_| h2.get("a", path));
        let all = futures_util::future::join_all(asking);
        let held = until("it is held", SOON, || async { origin.count(path) == 1 });
        tokio::select! {
            _ = all => panic!("no answer was let go"),
            () = held => {}
        }
        // Dropped: the streams are reset.
        let before = 3 * n;
        until("the streams are recorded", SOON, || async { left(&gateway) == before + 3 }).await;
        drop(h2);
    }
    are_open(&gateway, 0.0).await;
    origin.release();
}
