//! The harness itself, where a fault would make the other tests lie.

use crate::support::{client, metrics::Metrics, python, *};
use futures_util::{SinkExt, StreamExt};
use std::time::{Duration, Instant};

#[tokio::test]
async fn redis_pauses_dies_and_comes_back_on_its_port() {
    let mut redis = Redis::start().await;
    let _: () = redis.run(&["SET", "a", "1"]).await;
    assert_eq!(redis.keys().await, ["a".to_owned()].into());
    redis.pause();
    let silent = tokio::time::timeout(Duration::from_millis(50), redis.run::<String>(&["PING"])).await;
    assert!(silent.is_err(), "a paused server answers");
    redis.resume();
    assert_eq!(redis.run::<String>(&["PING"]).await, "PONG");
    redis.kill();
    assert!(tokio::net::TcpStream::connect(redis.address()).await.is_err());
    redis.restart().await;
    assert!(redis.keys().await.is_empty());
    redis.stop().await;
    assert!(tokio::net::TcpStream::connect(redis.address()).await.is_err());
}

#[tokio::test]
async fn a_sentinel_makes_the_replica_master() {
    let mut sentinel = Sentinel::start().await;
    let _: () = sentinel.master.run(&["SET", "a", "1"]).await;
    until("the replica has the key", SOON, || async { sentinel.replica.keys().await.contains("a") }).await;
    sentinel.failover().await;
    let _: () = sentinel.replica.run(&["SET", "b", "1"]).await;
}

#[tokio::test]
async fn a_cluster_takes_keys_of_every_slot() {
    let cluster = Cluster::start().await;
    for index in 0..30 {
        let key = format!("k{index}");
        assert!(cluster.run_on_master(&["SET", &key, &index.to_string()]).await);
        assert_eq!(cluster.find(&key).await.unwrap(), index.to_string().into_bytes());
    }
    for node in &cluster.nodes {
        assert!(!node.keys().await.is_empty());
    }
}

#[tokio::test]
async fn the_origin_answers_counts_and_records() {
    let mut origin = TestOrigin::start().await;
    let client = client::client();
    let get = |path: &str| client.get(format!("{}{path}", origin.url()));
    let first = send(get("/a?x=1").header("x-tenant", "acme")).await.ok();
    assert_eq!(
        (first.json()["tenant"].as_str(), first.json()["query"].as_str()),
        (Some("acme"), Some("x=1"))
    );
    origin.on("/a", |_| Answer::new("text/plain", "no").status(500).header("x-a", "b"));
    let second = send(client.post(format!("{}/a", origin.url())).body("hello")).await;
    assert_eq!((second.status.as_u16(), second.header("x-a"), &second.body[..]), (500, "b", &b"no"[..]));
    assert_eq!((origin.count("/a"), origin.ends("/a").len()), (2, 2));
    assert_eq!(&origin.seen("/a")[1].body[..], b"hello");
    assert_eq!(origin.counts()["/a?x=1 acme"], 1);

    let address = origin.address();
    origin.kill();
    until("the origin is gone", SOON, || async { tokio::net::TcpStream::connect(address).await.is_err() })
        .await;
    origin.restart().await;
    assert_eq!(send(client.get(format!("{}/b", origin.url()))).await.seq(), 3);
}

#[tokio::test]
async fn the_origin_holds_answers_and_breaks_off() {
    let origin = TestOrigin::start().await;
    origin.on("/held", |seen| Answer::echo(seen).gated());
    origin.on("/parts", |_| Answer::new("text/plain", "one").then_held("two"));
    origin.on("/broken", |_| Answer::new("text/plain", "one").broken());
    origin.hold();
    let http = client::client();
    let held = tokio::spawn(send(http.get(format!("{}/held", origin.url()))));
    let mut parts = http.get(format!("{}/parts", origin.url())).send().await.unwrap();
    assert_eq!(&parts.chunk().await.unwrap().unwrap()[..], b"one");
    until("both are held", SOON, || async { origin.held() == 2 }).await;
    origin.release();
    held.await.unwrap().ok();
    assert_eq!(&parts.chunk().await.unwrap().unwrap()[..], b"two");
    assert!(parts.chunk().await.unwrap().is_none());
    assert_eq!(origin.held(), 0);
    assert!(client::try_send(http.get(format!("{}/broken", origin.url()))).await.is_err());
}

#[tokio::test]
async fn the_origin_streams_and_breaks_off_in_either_framing() {
    let origin = TestOrigin::start().await;
    let body = noise(200_000, 8);
    let part = Answer::new("text/plain", body[..100_000].to_vec());
    let (cut, chunks) = (part.clone().length(200_000).broken(), part.clone().broken());
    origin.on("/length", move |_| cut.clone());
    origin.on("/chunks", move |_| chunks.clone());
    for (path, framing) in [("/length", "content-length"), ("/chunks", "transfer-encoding")] {
        origin.hold();
        let mut transfer = Transfer::ask(origin.address(), path).await;
        assert!(transfer.final_head().await.header(framing).is_some(), "{path}");
        let mut read = Vec::new();
        while read.len() < 100_000 {
            read.extend_from_slice(&transfer.piece().await.unwrap());
        }
        origin.release();
        assert!(read == body[..100_000] && transfer.piece().await == Err(End::Broken), "{path}");
        assert_eq!(origin.sent(path).unwrap().bytes, 100_000);
    }
    let (paced, whole) = (part.clone().paced(1_000_000), part.then_held(body[100_000..].to_vec()));
    origin.on("/paced", move |_| paced.clone());
    origin.on("/whole", move |_| whole.clone());
    let mut transfer = Transfer::ask(origin.address(), "/paced").await;
    assert_eq!(transfer.final_head().await.header("content-length"), Some("100000"));
    assert!(transfer.rest().await == (body[..100_000].to_vec(), End::Clean));
    // The last of two pieces of 64 KiB is due when the first has had its time.
    assert!(origin.sent("/paced").unwrap().begun.elapsed() >= Duration::from_millis(65));
    let mut transfer = Transfer::ask(origin.address(), "/whole").await;
    assert_eq!(transfer.final_head().await.header("transfer-encoding"), Some("chunked"));
    assert!(transfer.rest().await == (body, End::Clean));
}

#[tokio::test]
async fn interim_answers_come_before_the_origin_is_released() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none";
    let origin = RawOrigin::start("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n", head).await;
    let mut transfer = Transfer::ask(origin.address(), "/").await;
    let hints = transfer.head().await;
    assert_eq!((hints.status, hints.header("link"), origin.requests()), (103, Some("<a>"), 1));
    origin.release();
    assert_eq!(transfer.head().await.status, 200);
    assert_eq!(transfer.rest().await, (b"one".to_vec(), End::Clean));
}

#[tokio::test]
async fn the_origin_takes_streams_and_sockets() {
    let origin = TestOrigin::start().await;
    let http = client::client();
    let body = noise(3_000_000, 7);
    let report = send(http.post(format!("{}/upload", origin.url())).body(body.clone())).await.ok().json();
    assert_eq!(
        (report["bytes"].as_u64(), report["sha256"].as_str()),
        (Some(3_000_000), Some(&*sha256(&body)))
    );
    let download = send(http.get(format!("{}/download?bytes=3000000&seed=7", origin.url()))).await.ok();
    assert!(download.body == body);
    let url = format!("ws://{}/ws/echo", origin.address());
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    socket.send("hello".into()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().to_text().unwrap(), "hello");
}

#[tokio::test]
async fn flask_caching_writes_what_it_reads() {
    let redis = Redis::start().await;
    let app = |words: &'static [&'static str]| {
        let mut all = vec![redis.url(), "dash:".to_owned()];
        all.extend(words.iter().map(|&w| w.to_owned()));
        async move { python::run("bump.py", &all.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };
    assert_eq!(app(&["get", "kpi", "acme"]).await, "None");
    assert_eq!(app(&["count", "kpi", "acme"]).await, "2");
    assert!(redis.run::<Vec<u8>>(&["GET", "dash:ver:kpi:acme"]).await.starts_with(b"!"), "a pickle");
    let _: () = redis.run(&["SET", "dash:ver:kpi:acme", "17"]).await;
    assert_eq!(app(&["get", "kpi", "acme"]).await, "17", "digits are read as well");
    assert_eq!(app(&["count", "kpi", "acme"]).await, "18");
}

#[test]
fn a_scrape_is_read_by_name_and_labels() {
    let metrics = Metrics::parse("# HELP a\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\nb 0.5\n");
    assert!((metrics.value("a", &[("x", "1")]) - 7.0).abs() < f64::EPSILON);
    assert!((metrics.value("a", &[("y", "3")]) - 4.0).abs() < f64::EPSILON);
    assert!((metrics.value("b", &[]) - 0.5).abs() < f64::EPSILON);
    assert!(metrics.has("b") && !metrics.has("c"));
}

#[tokio::test]
async fn waiting_ends_with_the_condition() {
    let start = Instant::now();
    until("a moment passes", SOON, || async { start.elapsed() > Duration::from_millis(20) }).await;
    assert!(start.elapsed() < SOON);
    let mut values: Vec<_> = (1..=100).map(Duration::from_millis).collect();
    assert_eq!(quantile(&mut values, 0.99), Duration::from_millis(99));
}
