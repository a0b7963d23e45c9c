//! Connections of HTTP/1.1 between requests: what they cost, what is sent ahead on them, and how they end.

use crate::support::{
    gateway::KPI,
    tls::{Authority, TlsClient},
    *,
};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const HOST: &str = "dash.example";

/// A gateway with a plain listener and one with TLS.
struct Stage {
    origin: TestOrigin,
    gateway: Gateway,
    client: TlsClient,
    plain: SocketAddr,
    tls: SocketAddr,
    _authority: Authority,
}

trait Both: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Both for T {}

impl Stage {
    async fn set(server: &str) -> Self {
        let (origin, authority) = (TestOrigin::start().await, Authority::new());
        authority.issue("a", &[HOST]);
        let gateway = Gateway::with(&origin)
            .setting(server)
            .raw(&authority.listener(&["a"], ""))
            .route("/kept", KPI)
            .route("/*", "")
            .start()
            .await;
        let [plain, tls] = gateway.listeners(2).await.try_into().unwrap();
        Self { origin, gateway, client: authority.trusting(), plain, tls, _authority: authority }
    }

    async fn connect(&self, tls: bool) -> Box<dyn Both> {
        match tls {
            true => Box::new(self.client.connect(self.tls, HOST).await.unwrap()),
            false => Box::new(TcpStream::connect(self.plain).await.unwrap()),
        }
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
}

/// Reads answers until one has this path in its body.
async fn read_until(stream: &mut (impl AsyncRead + Unpin), path: &str) -> String {
    let mut read = Vec::new();
    let wanted = format!("{path:?}");
    let reading = async {
        while !String::from_utf8_lossy(&read).contains(&wanted) {
            let mut piece = [0; 4_096];
            let n = stream.read(&mut piece).await.unwrap();
            assert!(n > 0, "the connection ended: {}", String::from_utf8_lossy(&read));
            read.extend_from_slice(&piece[..n]);
        }
    };
    timeout(SOON, reading).await.unwrap_or_else(|_| panic!("no answer for {path}"));
    String::from_utf8(read).unwrap()
}

/// Thousands of them wait for their next request, most for nothing.
#[tokio::test]
async fn an_idle_connection_is_small() {
    const CONNECTIONS: u64 = 500;
    let stage = Stage::set("").await;
    let mut open = Vec::new();
    let mut cost = async |tls: bool, asks: bool| {
        let (before, _) = stage.gateway.memory();
        for _ in 0..CONNECTIONS {
            let mut stream = stage.connect(tls).await;
            if asks {
                stream.write_all(get("/kept").as_bytes()).await.unwrap();
                read_until(&mut stream, "/kept").await;
            }
            open.push(stream);
        }
        let (after, _) = stage.gateway.memory();
        after.saturating_sub(before) / CONNECTIONS
    };
    // The first ones make room that the others use.
    cost(false, true).await;
    cost(true, true).await;
    let fresh = (cost(false, false).await, cost(true, false).await);
    let asked = (cost(false, true).await, cost(true, true).await);
    println!("bytes for an idle connection: {fresh:?} before, {asked:?} after a request (plain, TLS)");
    assert!(fresh.0.max(asked.0) < 25_000 && fresh.1.max(asked.1) < 45_000, "{fresh:?} {asked:?}");
}

#[tokio::test]
async fn what_is_sent_ahead_is_answered_in_its_order() {
    let stage = Stage::set("").await;
    let post = |framing: &str| format!("POST /p HTTP/1.1\r\nHost: {HOST}\r\n{framing}");
    for tls in [false, true] {
        for first in [
            get("/first"),
            get("/kept"),
            post("Content-Length: 5\r\n\r\nhello"),
            post("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ] {
            let mut stream = stage.connect(tls).await;
            for round in 0..3 {
                // Two at once, then one by itself: nothing may wait for what is there already.
                let last = format!("/last{round}");
                stream.write_all(format!("{first}{}", get(&last)).as_bytes()).await.unwrap();
                let answers = read_until(&mut stream, &last).await;
                assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
                stream.write_all(get("/alone").as_bytes()).await.unwrap();
                read_until(&mut stream, "/alone").await;
            }
            // One and a half.
            let (half, rest) = (get("/half"), get("/half").split_off(10));
            stream.write_all(format!("{first}{}", &half[..10]).as_bytes()).await.unwrap();
            read_until(
                &mut stream,
                if first.contains("/kept") {
                    "/kept"
                } else {
                    &first[first.find('/').unwrap()..first.find(" HTTP").unwrap()]
                },
            )
            .await;
            stream.write_all(rest.as_bytes()).await.unwrap();
            read_until(&mut stream, "/half").await;
        }
    }
}

#[tokio::test]
async fn a_connection_ends_when_nothing_comes() {
    let stage = Stage::set("keepalive = \"1s\"").await;
    for tls in [false, true] {
        for asks in [false, true] {
            let mut stream = stage.connect(tls).await;
            if asks {
                stream.write_all(get("/x").as_bytes()).await.unwrap();
                read_until(&mut stream, "/x").await;
            }
            let mut rest = Vec::new();
            // With TLS its end is told, or this is an error.
            timeout(SOON, stream.read_to_end(&mut rest)).await.expect("it ends").unwrap();
            assert!(rest.is_empty());
        }
    }
    // A request that takes longer is not idle.
    stage.origin.on("/slow", |seen| Answer::echo(seen).after(Duration::from_millis(2_500)));
    let mut stream = stage.connect(true).await;
    stream.write_all(get("/slow").as_bytes()).await.unwrap();
    read_until(&mut stream, "/slow").await;
}
