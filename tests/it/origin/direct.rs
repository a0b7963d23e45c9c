//! Requests without a body, over the gateway's own connections to an origin: what is used again, what is sent once more,
//! who is waited for. What becomes of requests and answers on the way is held by the other tests, whichever way they go.

use crate::support::{client::raw_exchange, strict::Message, *};
use std::sync::{
    atomic::{AtomicUsize, Ordering},
    Arc,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A gateway that keeps nothing, before this origin.
async fn before(url: &str) -> Gateway {
    gateway::GatewayBuilder::new(url).route("/*", "").start().await
}

#[tokio::test]
async fn one_connection_serves_all_that_ask_one_after_another() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route("/*", "").start().await;
    for n in 0..20 {
        assert_eq!(gateway.get(&format!("/{n}")).await.status, 200);
        assert_eq!(gateway.send_with("HEAD", &format!("/{n}"), &[]).await.status, 200);
    }
    assert_eq!(origin.connections(), 1);
}

/// Each answer, however framed, leaves the connections of both sides in step.
#[tokio::test]
async fn every_frame_ends_where_it_ends() {
    let origin = Recorder::start(|request: &Message| {
        let (fields, body) = match request.target() {
            "/chunks" => ("Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"),
            "/old" => return Say::bytes("HTTP/1.0 200 OK\r\n\r\nok").closing(),
            "/end" => return Say::bytes("HTTP/1.1 200 OK\r\n\r\nok").closing(),
            _ => ("Content-Length: 2\r\n", "ok"),
        };
        Say::bytes(format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}"))
    })
    .await;
    let gateway = before(&origin.url()).await;
    for _ in 0..3 {
        for path in ["/length", "/chunks", "/old", "/end"] {
            let reply = gateway.get(path).await;
            assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &b"ok"[..]), "{path}");
        }
    }
    assert_eq!(origin.take().illegal, Vec::<String>::new());
}

/// A server may close an idle connection just when it is used again.
#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_no_failure() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let origin = Recorder::start(move |request: &Message| {
        // Every second request finds that the server has had enough of the connection.
        match count.fetch_add(1, Ordering::SeqCst) % 2 {
            1 => Say::bytes("").closing(),
            _ => Say::plain(request),
        }
    })
    .await;
    let gateway = before(&origin.url()).await;
    for n in 0..10 {
        assert_eq!(gateway.get(&format!("/{n}")).await.status, 200, "{n}");
    }
    assert!(asked.load(Ordering::SeqCst) > 15);
}

/// The request to the origin ends when its client has disconnected.
#[tokio::test]
async fn who_leaves_is_not_waited_for() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route("/*", "").start().await;
    origin.on("/slow", |seen| Answer::echo(seen).gated());
    origin.hold();
    let mut client = TcpStream::connect(gateway.address()).await.unwrap();
    client.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    until("the origin is asked", SOON, || async { origin.held() == 1 }).await;
    let under_way = || async { gateway.metrics().await.value("tidegate_origin_requests_under_way", &[]) };
    assert_eq!(under_way().await, 1.0);
    drop(client);
    until("its place is free", SOON, || async { under_way().await == 0.0 }).await;
    origin.release();
}

/// A client that sends its next request at once gets both answers, in their order.
#[tokio::test]
async fn the_next_request_may_be_there_before_the_answer() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route("/*", "").start().await;
    let both = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let mut client = TcpStream::connect(gateway.address()).await.unwrap();
    client.write_all(both).await.unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).await.unwrap();
    assert_eq!(said.matches("HTTP/1.1 200").count(), 2, "{said}");
    assert_eq!((origin.count("/1"), origin.count("/2")), (1, 1));
}

/// Without a `Host` (HTTP/1.0) the origin is told its own name.
#[tokio::test]
async fn an_origin_is_always_told_a_host() {
    let origin = Recorder::start(Say::plain).await;
    let gateway = before(&origin.url()).await;
    let said = raw_exchange(gateway.address(), b"GET /x HTTP/1.0\r\n\r\n").await;
    assert_eq!(said.status, 200);
    let record = origin.take();
    assert_eq!(record.requests[0].head.field("host"), Some(origin.address().to_string()));
}
