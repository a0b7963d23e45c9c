//! Another configuration while the gateway runs: what changes, what goes on, and what a bad file does. Its end.

use crate::support::{
    gateway::tidegate, process::Process, until, Answer, Gateway, TestOrigin, Transfer, SOON,
};
use nix::sys::signal::Signal;
use serde_json::json;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const KEPT: &str = r#"cache = { namespace = "kpi", ttl = "60s" }"#;

#[tokio::test]
async fn routes_change_and_what_is_cached_stays() {
    let origin = TestOrigin::start().await;
    let first = Gateway::with(&origin).route("/kept", KEPT);
    let gateway = first.start().await;
    assert_eq!(gateway.get("/kept").await.status, 200);
    assert_eq!(gateway.get("/new").await.status, 404);

    assert!(gateway.reload(&first.clone().route("/new", "")).await);
    assert_eq!(gateway.get("/new").await.status, 200);
    assert_eq!(gateway.get("/kept").await.header("cache-status"), "tidegate; hit");
    assert_eq!(origin.count("/kept"), 1);

    assert!(gateway.reload(&first).await);
    assert_eq!(gateway.get("/new").await.status, 404);
}

#[tokio::test]
async fn a_file_with_a_fault_changes_nothing() {
    let origin = TestOrigin::start().await;
    let first = Gateway::with(&origin).route("/a", "");
    let gateway = first.start().await;
    assert!(!gateway.reload(&first.clone().route("/b", "orign = \"app\"")).await);
    assert_eq!(gateway.get("/a").await.status, 200);
    assert_eq!(gateway.get("/b").await.status, 404);
    gateway.says("the one before stays").await;
    assert!(gateway.reload(&first.clone().route("/b", "")).await);
    assert_eq!(gateway.get("/b").await.status, 200);
}

#[tokio::test]
async fn a_changed_file_is_read_unasked() {
    let origin = TestOrigin::start().await;
    let first = Gateway::with(&origin).route("/a", "");
    let gateway = first.start().await;
    let admin = gateway.admin_url("").trim_start_matches("http://").parse().unwrap();
    let toml = first.clone().route("/b", "").toml(gateway.address(), admin);
    std::fs::write(gateway.config(), toml).unwrap();
    until("the file is read", SOON, || async { gateway.get("/b").await.status == 200 }).await;
}

/// A client that connects as soon as there is a process need not wait until it listens.
#[tokio::test]
async fn asked_while_it_starts_it_reads_the_file_again() {
    let (origin, issuer) = (TestOrigin::start().await, TestOrigin::start().await);
    issuer.on("/keys.json", |_| Answer::json(&json!({ "keys": [] })).gated());
    issuer.hold();
    let place = format!("url = \"{}/keys.json\"", issuer.url());
    let any = "127.0.0.1:0".parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tidegate.toml");
    std::fs::write(&file, Gateway::with(&origin).jwks("EdDSA", &place).toml(any, any)).unwrap();
    let mut command = tidegate(&["run", "--config", file.to_str().unwrap()]);
    let process = Process::spawn("tidegate", &mut command);
    until("it waits for the key set", SOON, || async { issuer.held() == 1 }).await;
    process.signal(Signal::SIGHUP);
    issuer.release();
    until("it has read the file again", SOON, || async {
        process.output().contains("the configuration was reloaded")
    })
    .await;
}

/// A request keeps the configuration that it began with, and its connection the next one.
#[tokio::test]
async fn what_is_under_way_ends_as_it_began() {
    let origin = TestOrigin::start().await;
    origin.on("/slow", |_| Answer::new("text/plain", "slow").gated());
    origin.hold();
    let first = Gateway::with(&origin).route("/slow", "");
    let gateway = first.start().await;
    let mut client = Transfer::ask(gateway.address(), "/slow").await;
    until("the origin is asked", SOON, || async { origin.count("/slow") == 1 }).await;
    let another = TestOrigin::start().await;
    let second = Gateway::with(&another).route("/other", "");
    assert!(gateway.reload(&second).await);
    assert_eq!(gateway.get("/slow").await.status, 404);
    assert_eq!(gateway.get("/other").await.status, 200);
    origin.release();
    assert_eq!(client.final_head().await.status, 200);
}

#[tokio::test]
async fn what_needs_a_restart_is_named() {
    let origin = TestOrigin::start().await;
    let first = Gateway::with(&origin).route("/a", "");
    let gateway = first.start().await;
    assert!(gateway.reload(&first.clone().store("memory = \"7MiB\"")).await);
    gateway.says("need a restart").await;
    gateway.says("store").await;
    assert_eq!(gateway.get("/a").await.status, 200);
}

/// Reloads one after the other while clients ask on kept connections: none of them notices.
#[tokio::test]
async fn load_nobody_notices_twenty_reloads() {
    let origin = TestOrigin::start().await;
    let first = Gateway::with(&origin).route("/kept", KEPT).route("/passed", "");
    let gateway = first.start().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let mut askers = tokio::task::JoinSet::new();
    for path in ["/kept", "/passed", "/kept", "/passed"] {
        let (client, url, stop) = (gateway.client().clone(), gateway.url(path), stop.clone());
        askers.spawn(async move {
            let mut answers = 0;
            while !stop.is_cancelled() {
                let reply = client.get(&url).timeout(Duration::from_secs(10)).send().await;
                assert_eq!(reply.map(|reply| reply.status().as_u16()).ok(), Some(200), "{url}");
                answers += 1;
            }
            answers
        });
    }
    for n in 0..20 {
        assert!(gateway.reload(&first.clone().route(&format!("/only/{n}"), "")).await);
    }
    stop.cancel();
    let answers: u32 = askers.join_all().await.into_iter().sum();
    assert!(answers > 100, "{answers}");
}

/// SIGTERM while clients ask on kept connections: each request that was sent is answered, the last answer on a
/// connection says that it is the last, and the process ends soon after.
#[tokio::test]
async fn load_a_shutdown_leaves_no_request_unanswered() {
    let origin = TestOrigin::start().await;
    let mut gateway = Gateway::with(&origin).route("/kept", KEPT).route("/passed", "").start().await;
    let mut askers = tokio::task::JoinSet::new();
    let (told, mut tells) = tokio::sync::mpsc::channel(64);
    for n in 0..16 {
        let (address, told) = (gateway.address(), told.clone());
        let path = if n % 4 == 0 { "/passed" } else { "/kept" };
        askers.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            for answers in 1_u32.. {
                let head = format!("GET {path} HTTP/1.1\r\nHost: dash.example\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                let head = answer(&mut stream).await;
                assert!(head.starts_with("http/1.1 200"), "{head}");
                if head.contains("connection: close") {
                    return answers;
                }
                if answers == 20 {
                    told.send(()).await.unwrap();
                }
            }
            0
        });
    }
    for _ in 0..16 {
        tokio::time::timeout(SOON, tells.recv()).await.unwrap().unwrap();
    }
    gateway.sigterm();
    let answers: u32 = tokio::time::timeout(SOON, askers.join_all()).await.unwrap().into_iter().sum();
    assert!(answers > 16 * 20, "{answers}");
    // Long before the time for it is over.
    assert!(gateway.wait(SOON).await.success());
}

/// The head of an answer in small letters, its body read and dropped.
async fn answer(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    head
}
