//! Timeouts while a body is sent: the gateway waits for the client's body, or for the origin's answer.

use super::ends::{answered, connect};
use crate::support::{tls::Authority, *};
use bytes::Bytes;
use http::Request;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn impatient(origin: &TestOrigin, lines: &str) -> (Gateway, SocketAddr) {
    let gateway = Gateway::with(origin)
        .setting("body_timeout = \"20s\"\nbody_min_rate = 0")
        .origin(&format!("read_timeout = \"300ms\"\nretries = 0\n{lines}"))
        .raw("[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true")
        .route("/moved/*", "token_query = true")
        .route("/*", "")
        .start()
        .await;
    let to = gateway.listeners(2).await[1];
    (gateway, to)
}

/// Lets more time pass than the origin has for an answer.
async fn time_passes(gateway: &Gateway, origin: &TestOrigin) {
    origin.on("/silent", |_| Answer::new("text/plain", "late").gated());
    origin.hold();
    for _ in 0..2 {
        gateway.get("/silent").await.problem(504);
    }
    origin.release();
}

async fn pauses(origin: &TestOrigin, lines: &str) {
    let (gateway, to) = impatient(origin, lines).await;
    for path in ["/upload", "/moved/x"] {
        origin.on("/moved/x", |seen| Answer::new("text/plain", seen.body.clone()));
        for framing in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"]
        {
            let rest = if framing.starts_with('C') { "world" } else { "5\r\nworld\r\n0\r\n\r\n" };
            let mut client = TcpStream::connect(gateway.address()).await.unwrap();
            let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{framing}");
            client.write_all(head.as_bytes()).await.unwrap();
            time_passes(&gateway, origin).await;
            client.write_all(rest.as_bytes()).await.unwrap();
            let mut said = String::new();
            tokio::time::timeout(SOON, client.read_to_string(&mut said)).await.unwrap().unwrap();
            assert!(said.starts_with("HTTP/1.1 200"), "{path} {framing}: {said}");
            assert!(said.contains(&sha256(b"helloworld")) || said.contains("helloworld"), "{path}: {said}");
        }
        let mut h2 = connect(to).await;
        let request = Request::post(format!("http://a{path}")).body(()).unwrap();
        let (answer, mut body) = h2.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(b"hello"), false).unwrap();
        time_passes(&gateway, origin).await;
        body.send_data(Bytes::from_static(b"world"), false).unwrap();
        body.send_data(Bytes::new(), true).unwrap();
        let (status, said) = answered(answer).await;
        assert!(status == 200 && (said.contains(&sha256(b"helloworld")) || said == "helloworld"), "{said}");
    }
    // Once all of it is there, the origin is waited for.
    origin.on("/silent", |_| Answer::new("text/plain", "late").gated());
    origin.hold();
    send(gateway.request("POST", "/silent").body("hello")).await.problem(504);
    origin.release();
}

#[tokio::test]
async fn a_pause_of_a_body_is_the_clients() {
    pauses(&TestOrigin::start().await, "").await;
}

#[tokio::test]
async fn a_pause_of_a_body_is_the_clients_with_tls() {
    let authority = Authority::new();
    let tls = Some(authority.accept(&["127.0.0.1"], false, false));
    let origin = TestOrigin::start_as(Spoken { tls, ..Spoken::default() }).await;
    pauses(&origin, &format!("tls = {{ ca = {} }}", authority.toml("ca.pem"))).await;
}

#[tokio::test]
async fn a_body_goes_up_while_an_answer_comes_down() {
    // A server that says back each piece before it reads the next.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        let head = loop {
            if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
        };
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        // Chunks come as they were sent, and so they go back.
        read.drain(..head);
        loop {
            stream.write_all(&read).await.unwrap();
            if read.ends_with(b"0\r\n\r\n") {
                return;
            }
            read.clear();
            assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
        }
    });
    let gateway = GatewayBuilder::new(&url).route("/*", "").start().await;
    let mut client = TcpStream::connect(gateway.address()).await.unwrap();
    client.write_all(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    let mut read = Vec::new();
    let mut seen = 0;
    for n in 0..20 {
        client.write_all(format!("3\r\n{n:03}\r\n").as_bytes()).await.unwrap();
        let piece = format!("{n:03}");
        while !String::from_utf8_lossy(&read[seen..]).contains(&piece) {
            tokio::time::timeout(SOON, client.read_buf(&mut read)).await.unwrap().unwrap();
        }
        seen = read.len();
    }
    client.write_all(b"0\r\n\r\n").await.unwrap();
    while !read.ends_with(b"0\r\n\r\n") {
        assert_ne!(tokio::time::timeout(SOON, client.read_buf(&mut read)).await.unwrap().unwrap(), 0);
    }
    server.await.unwrap();
}

/// A client that expects `100 Continue` gets one: the origin's, or the gateway's if the origin sends none. Once.
#[tokio::test]
async fn who_asks_before_it_sends_is_told_to_go_on() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = Vec::new();
                while !String::from_utf8_lossy(&read).contains("\r\n\r\n") {
                    if stream.read_buf(&mut read).await.unwrap() == 0 {
                        return;
                    }
                }
                let head = String::from_utf8_lossy(&read).to_lowercase();
                assert!(head.contains("expect: 100-continue"), "{head}");
                if head.contains("/no") {
                    drop(stream.write_all(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno").await);
                    return;
                }
                if head.contains("/says") {
                    stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
                }
                while !read.ends_with(b"hello") && !read.ends_with(b"0\r\n\r\n") {
                    assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
                }
                if head.contains("/late") {
                    stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            });
        }
    });
    let gateway = GatewayBuilder::new(&url).route("/*", "").start().await;
    for path in ["/says", "/silent", "/late", "/no"] {
        for (framing, body) in
            [("Content-Length: 5", "hello"), ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n")]
        {
            let mut client = TcpStream::connect(gateway.address()).await.unwrap();
            let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nConnection: close\r\n{framing}\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            let mut said = Vec::new();
            while !String::from_utf8_lossy(&said).contains("\r\n\r\n") {
                let n = tokio::time::timeout(SOON, client.read_buf(&mut said)).await.unwrap().unwrap();
                assert_ne!(n, 0, "{path}");
            }
            if path == "/no" {
                assert!(said.starts_with(b"HTTP/1.1 403"), "{}", String::from_utf8_lossy(&said));
                continue;
            }
            assert!(said.starts_with(b"HTTP/1.1 100"), "{path}: {}", String::from_utf8_lossy(&said));
            client.write_all(body.as_bytes()).await.unwrap();
            tokio::time::timeout(SOON, client.read_to_end(&mut said)).await.unwrap().unwrap();
            let said = String::from_utf8_lossy(&said);
            assert_eq!(said.matches("HTTP/1.1 100").count(), 1, "{path}: {said}");
            assert_eq!(said.matches("HTTP/1.1 200").count(), 1, "{path}: {said}");
        }
    }
}
