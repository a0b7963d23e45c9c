//! Long-polling: `Prefer: wait` with the validator of what the client has.

use super::*;
use crate::support::{
    client::try_send,
    tls::{of_http2, Http2},
};
use std::time::{Duration, Instant};
use tokio::{io::AsyncWriteExt, net::TcpStream};

const FOLLOWED: &str = "cache = \"origin\"\nlive = true";

/// A gateway in front of a shop with a versioned and a followed route, and their entity tags.
async fn set_up(live: &str) -> (TestOrigin, Arc<AtomicU64>, Gateway) {
    let (origin, orders) = shop("/kpi").await;
    let counted = orders.clone();
    origin.on("/followed", move |_| {
        let orders = counted.load(Ordering::SeqCst);
        Answer::json(&json!({ "orders": orders }))
            .header("cache-control", "max-age=60")
            .header("etag", &format!("\"{orders}\""))
    });
    let gateway = Gateway::with(&origin)
        .raw("[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true")
        .route("/kpi", &format!("cache = {{ namespace = \"kpi\", ttl = \"60s\" }}\nlive = {live}"))
        .route("/followed", FOLLOWED)
        .event("order_created", &["kpi"])
        .start()
        .await;
    (origin, orders, gateway)
}

/// A request that waits for another state than this.
fn waiting(
    gateway: &Gateway,
    path: &str,
    tag: &str,
    wait: u32,
) -> tokio::task::JoinHandle<reqwest::Result<Reply>> {
    let request = gateway.request("GET", path).header("if-none-match", tag);
    tokio::spawn(try_send(request.header("prefer", format!("wait={wait}"))))
}

/// The tag of what is current.
async fn tag(gateway: &Gateway, path: &str) -> String {
    gateway.get(path).await.ok();
    gateway.get(path).await.ok().header("etag").to_owned()
}

#[track_caller]
fn is_told(reply: &Reply, status: u16, wait: &str) {
    assert_eq!(reply.status.as_u16(), status, "{reply:?}");
    assert_eq!(reply.header("cache-control"), "no-store", "{reply:?}");
    assert_eq!(reply.header("preference-applied"), format!("wait={wait}"), "{reply:?}");
}

#[tokio::test]
async fn the_answer_comes_with_the_change() {
    let (origin, orders, gateway) = set_up("true").await;
    for n in 1..=3_u64 {
        for path in ["/kpi", "/followed"] {
            let (tag, route) = (tag(&gateway, path).await, &path[1..]);
            let waits: Vec<_> = (0..5).map(|_| waiting(&gateway, path, &tag, 50)).collect();
            until_watched_by(&gateway, route, 5).await;
            orders.store(2 * n + u64::from(path == "/kpi"), Ordering::SeqCst);
            let before = origin.count(path);
            gateway.bump("public").await;
            gateway.purge(&json!({ "all": true })).await.ok();
            for wait in waits {
                let reply = wait.await.unwrap().unwrap();
                is_told(&reply, 200, "50");
                assert_eq!(reply.json()["orders"], orders.load(Ordering::SeqCst), "{path}");
                assert_ne!(reply.header("etag"), tag);
            }
            // The bump and the purge may be one change each.
            assert!(origin.count(path) - before <= 2, "{path}");
            until_watched_by(&gateway, route, 0).await;
        }
    }
}

#[tokio::test]
async fn a_change_by_http2_and_by_the_other_lane() {
    let (_origin, orders, gateway) = set_up("true").await;
    let prior = gateway.listeners(2).await[1];
    let tag = tag(&gateway, "/kpi").await;
    let http2 = Http2::over(TcpStream::connect(prior).await.unwrap()).await;
    let mut request = of_http2("GET", "dash.example", "/kpi", bytes::Bytes::new());
    for (name, value) in [("if-none-match", tag.as_str()), ("prefer", "wait=50")] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let by_http2 = tokio::spawn(async move { http2.send(request).await.unwrap() });
    let twice = "keep-alive\r\nConnection: keep-alive";
    let fields = [("If-None-Match", tag.as_str()), ("Prefer", "wait=50"), ("Connection", twice)];
    let mut aside = Transfer::ask_with(gateway.address(), "/kpi", &fields).await;
    until_watched_by(&gateway, "kpi", 2).await;
    orders.store(1, Ordering::SeqCst);
    gateway.bump("public").await;
    let reply = by_http2.await.unwrap();
    is_told(&reply, 200, "50");
    assert_eq!(reply.json(), json!({ "orders": 1 }));
    let head = aside.final_head().await;
    assert_eq!((head.status, head.header("preference-applied")), (200, Some("wait=50")), "{}", head.text);
    assert_eq!(aside.rest().await, (json!({ "orders": 1 }).to_string().into_bytes(), End::Clean));
}

#[tokio::test]
async fn without_a_change_it_is_304_after_the_wait() {
    let (origin, _, gateway) = set_up("true").await;
    for path in ["/kpi", "/followed"] {
        let tag = tag(&gateway, path).await;
        let (began, before) = (Instant::now(), origin.count(path));
        let wait = waiting(&gateway, path, &tag, 1);
        // A bump without another state is no change.
        until_watched_by(&gateway, &path[1..], 1).await;
        gateway.bump("public").await;
        let reply = wait.await.unwrap().unwrap();
        is_told(&reply, 304, "1");
        assert!(reply.body.is_empty() && began.elapsed() >= Duration::from_millis(950), "{path}");
        assert!(origin.count(path) - before <= 1, "{path}");
    }
}

#[tokio::test]
async fn nothing_is_waited_for_where_there_is_nothing_to_wait_for() {
    let (_origin, orders, gateway) = set_up("true").await;
    for path in ["/kpi", "/followed"] {
        let tag = tag(&gateway, path).await;
        let began = Instant::now();
        let reply = gateway.get_with(path, &[("Prefer", "wait=50")]).await.ok();
        is_told(&reply, 200, "50");
        let reply = gateway.get_with(path, &[("Prefer", "wait=50"), ("If-None-Match", "\"old\"")]).await;
        is_told(&reply, 200, "50");
        let many = format!("\"old\", {tag}");
        let reply = gateway.get_with(path, &[("Prefer", "wait=0"), ("If-None-Match", &many)]).await;
        is_told(&reply, 304, "0");
        for prefer in ["wait", "wait=x", "return=minimal"] {
            let reply = gateway.get_with(path, &[("Prefer", prefer), ("If-None-Match", &tag)]).await;
            assert_eq!((reply.status.as_u16(), reply.header("preference-applied")), (304, ""), "{prefer}");
        }
        let posted = gateway.send_with("POST", path, &[("Prefer", "wait=50"), ("If-None-Match", &tag)]).await;
        assert_eq!(posted.header("preference-applied"), "", "{posted:?}");
        assert!(began.elapsed() < Duration::from_secs(20), "{path}: {:?}", began.elapsed());
    }
    // What has changed while the client was away.
    let tag = tag(&gateway, "/kpi").await;
    orders.store(1, Ordering::SeqCst);
    gateway.bump("public").await;
    let reply = waiting(&gateway, "/kpi", &tag, 15).await.unwrap().unwrap();
    is_told(&reply, 200, "15");
    assert_eq!(reply.json(), json!({ "orders": 1 }));
}

#[tokio::test]
async fn a_wait_is_at_most_max_wait_and_takes_a_place() {
    let (_origin, _, gateway) = set_up("{ max_wait = \"1s\", max_watchers = 1 }").await;
    let tag = tag(&gateway, "/kpi").await;
    is_told(&waiting(&gateway, "/kpi", &tag, 600).await.unwrap().unwrap(), 304, "1");
    // Without a place it is answered at once.
    let mut stream = EventStream::open(gateway.address(), "/kpi", &[]).await;
    stream.next().await;
    assert_eq!(waiting(&gateway, "/kpi", &tag, 600).await.unwrap().unwrap().status, 304);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_wait_with_it() {
    let (_origin, _, gateway) = set_up("true").await;
    let tag = tag(&gateway, "/kpi").await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = TcpStream::connect(gateway.address()).await.unwrap();
        let request =
            format!("GET /kpi HTTP/1.1\r\nHost: a\r\nIf-None-Match: {tag}\r\nPrefer: wait=60\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        clients.push(client);
    }
    until_watched_by(&gateway, "kpi", 5).await;
    drop(clients);
    until_watched_by(&gateway, "kpi", 0).await;
    assert!(gateway.get("/kpi").await.ok().is_hit());
}

#[tokio::test]
async fn a_shutdown_answers_those_that_wait() {
    let (_origin, _, mut gateway) = set_up("true").await;
    let tag = tag(&gateway, "/kpi").await;
    let waits: Vec<_> = (0..5).map(|_| waiting(&gateway, "/kpi", &tag, 60)).collect();
    until_watched_by(&gateway, "kpi", 5).await;
    gateway.sigterm();
    for wait in waits {
        is_told(&wait.await.unwrap().unwrap(), 304, "60");
    }
    assert!(gateway.wait(SOON).await.success());
}
