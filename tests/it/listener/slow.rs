//! Slow clients and many of them: who takes too long is cut off and counted, who is merely slow is not, and nobody else
//! notices.

use crate::support::{gateway::KPI, tls::Http2, *};
use futures_util::{SinkExt, StreamExt};
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::sleep,
};
use tokio_tungstenite::tungstenite::Message;

const PATH: &str = "/api/widgets/kpi";
/// The time that clients have for everything: enough for a test that is held up by a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause of a dripping client between two bytes.
const DRIP: Duration = Duration::from_millis(50);
/// More than the kernel buffers on both sides.
const MUCH: usize = 64 << 20;

/// A gateway whose clients have [`PATIENCE`] for everything.
fn impatient(origin: &TestOrigin) -> GatewayBuilder {
    ["header_timeout", "body_timeout", "send_timeout"]
        .iter()
        .fold(Gateway::with(origin), |gateway, key| gateway.setting(&format!("{key} = \"2s\"")))
        .route(PATH, KPI)
        .route("/app/*", "")
        .route("/upload", "")
        .route("/download", "")
        .route("/ws/*", "websocket = {}")
        .event("order_created", &["kpi"])
        .access()
}

/// A connection with nothing between the test and the socket.
struct Client {
    stream: TcpStream,
    /// Not later than the accept.
    since: Instant,
    /// The bytes that were read beyond the last answer.
    ahead: Vec<u8>,
}

impl Client {
    async fn connect(to: &Gateway) -> Self {
        Self::from(TcpSocket::new_v4().unwrap(), to).await
    }

    /// A client for whom the kernel keeps next to nothing.
    async fn narrow(to: &Gateway) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self::from(socket, to).await
    }

    async fn from(socket: TcpSocket, to: &Gateway) -> Self {
        let since = Instant::now();
        let stream = socket.connect(to.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, since, ahead: Vec::new() }
    }

    /// A connection that may be refused.
    async fn try_from(socket: TcpSocket, to: SocketAddr) -> Option<Self> {
        let since = Instant::now();
        let stream = socket.connect(to).await.ok()?;
        Some(Self { stream, since, ahead: Vec::new() })
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Reads one answer with a `Content-Length`, and nothing of the next.
    async fn answer(&mut self) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.ahead);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let fields = head.to_ascii_lowercase();
                let length = fields.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                let length = length.parse::<usize>().unwrap();
                if body.len() >= length {
                    let rest = self.ahead.split_off(head.len() + 4 + length);
                    let answer = std::mem::replace(&mut self.ahead, rest);
                    return String::from_utf8(answer).unwrap();
                }
            }
            let n = tokio::time::timeout(SOON, self.stream.read_buf(&mut self.ahead)).await.unwrap().unwrap();
            assert_ne!(n, 0, "closed after {:?}", String::from_utf8_lossy(&self.ahead));
        }
    }

    /// Drips this byte until the other side has had enough. All that it said, and how long it took.
    async fn drip(mut self, byte: &[u8]) -> (String, Duration) {
        let (mut from, mut into) = self.stream.split();
        let mut said = Vec::new();
        let reading = async {
            // A reset may follow the answer.
            drop(from.read_to_end(&mut said).await);
        };
        let dripping = async {
            while into.write_all(byte).await.is_ok() {
                sleep(DRIP).await;
            }
            std::future::pending::<()>().await;
        };
        let ended = async {
            tokio::select! { () = reading => {} () = dripping => {} }
        };
        tokio::time::timeout(SOON, ended).await.unwrap();
        (String::from_utf8_lossy(&said).into_owned(), self.since.elapsed())
    }

    /// Says nothing more. All that the other side said until it closed, and how long it took.
    async fn silence(mut self) -> (String, Duration) {
        let mut said = Vec::new();
        drop(tokio::time::timeout(SOON, self.stream.read_to_end(&mut said)).await.unwrap());
        (String::from_utf8_lossy(&said).into_owned(), self.since.elapsed())
    }

    /// Reads so many bytes a drip until the connection ends, which it must do by breaking off.
    async fn sip(mut self, bytes: usize) -> Duration {
        let mut piece = vec![0; bytes];
        let sipping = async {
            loop {
                match self.stream.read(&mut piece).await {
                    Ok(0) => panic!("the answer came to its end"),
                    Ok(_) => sleep(DRIP).await,
                    Err(_) => return,
                }
            }
        };
        tokio::time::timeout(2 * SOON, sipping).await.unwrap();
        self.since.elapsed()
    }
}

fn is_408(said: &str) -> bool {
    let problem = said.split_once("\r\n\r\n").is_some_and(|(_, body)| {
        serde_json::from_str::<serde_json::Value>(body).is_ok_and(|body| body["status"] == 408)
    });
    let head = said.to_ascii_lowercase();
    head.starts_with("http/1.1 408 ") && head.contains("application/problem+json") && problem
}

async fn cut(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metrics().await.value("tidegate_connections_cut_total", &[("reason", reason)])
}

async fn was_cut(gateway: &Gateway, reason: &str, times: f64) {
    let what = format!("{times} connections cut for {reason}");
    until(&what, SOON, || async { cut(gateway, reason).await >= times }).await;
    assert_eq!(cut(gateway, reason).await, times, "{what}");
}

/// Waits until a record with all of these is in the log.
async fn recorded(gateway: &Gateway, words: &[&str]) {
    until(&format!("a record with {words:?}"), SOON, || async {
        gateway.output().lines().any(|line| line.contains("access") && words.iter().all(|w| line.contains(w)))
    })
    .await;
}

/// Lets that much time pass as the gateway sees it: a client that connected now and says nothing has been sent away.
async fn patience_passes(gateway: &Gateway) {
    let (said, _) = Client::connect(gateway).await.silence().await;
    assert_eq!(said, "");
}

#[tokio::test]
async fn who_says_nothing_is_sent_away_without_a_word() {
    let origin = TestOrigin::start().await;
    let mut gateway = impatient(&origin).start().await;
    let (said, took) = Client::connect(&gateway).await.silence().await;
    assert_eq!(said, "");
    assert!(took >= PATIENCE, "{took:?}");
    was_cut(&gateway, "silent", 1.0).await;
    gateway.assert_sound().await;
}

#[tokio::test]
async fn a_head_that_drips_gets_408() {
    let origin = TestOrigin::start().await;
    let mut gateway = impatient(&origin).start().await;
    let mut client = Client::connect(&gateway).await;
    client.send(b"GET /app/x HTTP/1.1\r\nHost: a\r\nX-Slow: ").await;
    let (said, took) = client.drip(b"x").await;
    assert!(is_408(&said), "{said}");
    assert!(said.to_ascii_lowercase().contains("connection: close"), "{said}");
    assert!(took >= PATIENCE, "{took:?}");
    was_cut(&gateway, "header_timeout", 1.0).await;
    recorded(&gateway, &["header_timeout", "408", "127.0.0.1"]).await;

    // One byte is the beginning of a request.
    let mut client = Client::connect(&gateway).await;
    client.send(b"G").await;
    let (said, _) = client.silence().await;
    assert!(is_408(&said), "{said}");
    was_cut(&gateway, "header_timeout", 2.0).await;
    assert_eq!(origin.counts().len(), 0, "nothing has reached the origin");
    gateway.assert_sound().await;
}

#[tokio::test]
async fn a_further_request_has_its_own_time() {
    let origin = TestOrigin::start().await;
    let gateway = impatient(&origin).start().await;
    let request = format!("GET {PATH} HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut client = Client::connect(&gateway).await;
    client.send(request.as_bytes()).await;
    assert!(client.answer().await.starts_with("HTTP/1.1 200"));

    // Between two requests it may wait longer than for a head.
    patience_passes(&gateway).await;
    // Two at once, as pipelining has it.
    client.send(request.repeat(2).as_bytes()).await;
    for _ in 0..2 {
        assert!(client.answer().await.starts_with("HTTP/1.1 200"));
    }
    patience_passes(&gateway).await;
    client.since = Instant::now();
    client.send(&request.as_bytes()[..20]).await;
    let (said, took) = client.drip(b"x").await;
    assert!(is_408(&said), "{said}");
    assert!(took >= PATIENCE, "{took:?}");
    was_cut(&gateway, "header_timeout", 1.0).await;
    was_cut(&gateway, "silent", 2.0).await;
}

/// On HTTP/2 only the stream with the dripping body ends; another one of its connection goes on.
/// The same where its beginning came while the one before was served.
#[tokio::test]
async fn a_request_that_begins_behind_another_has_its_own_time() {
    let origin = TestOrigin::start().await;
    origin.on("/app/slow", |seen| Answer::echo(seen).gated());
    origin.hold();
    let gateway = impatient(&origin).start().await;
    let mut client = Client::connect(&gateway).await;
    client.send(b"GET /app/slow HTTP/1.1\r\nHost: a\r\n\r\nGET /app/next HT").await;
    until("the origin is asked", SOON, || async { origin.count("/app/slow") == 1 }).await;
    origin.release();
    assert!(client.answer().await.starts_with("HTTP/1.1 200"));
    let (answer, _) = client.silence().await;
    assert!(is_408(&answer), "{answer}");
    was_cut(&gateway, "header_timeout", 1.0).await;
}

#[tokio::test]
async fn a_stream_whose_body_drips_gets_408() {
    let origin = TestOrigin::start().await;
    let (mut gateway, to) = with_http2(&origin).await;
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let post = http::Request::post("http://a/app/x").body(()).unwrap();
    let (answer, mut body) = client.send_request(post, false).unwrap();
    let dripping = async {
        while body.send_data("x".into(), false).is_ok() {
            sleep(DRIP).await;
        }
        std::future::pending::<()>().await;
    };
    let answered = async {
        tokio::select! { answer = answer => answer.unwrap(), () = dripping => unreachable!() }
    };
    assert_eq!(tokio::time::timeout(SOON, answered).await.unwrap().status(), 408);
    was_cut(&gateway, "body_rate", 1.0).await;
    recorded(&gateway, &["body_rate", "408", "/app/x"]).await;
    let get = http::Request::get("http://a/app/y").body(()).unwrap();
    let other = client.send_request(get, true).unwrap().0;
    assert_eq!(tokio::time::timeout(SOON, other).await.unwrap().unwrap().status(), 200);
    drop((client, driver));
    gateway.assert_sound().await;
}

/// A connection of HTTP/2 on which nothing comes is not within a head: neither while an answer takes its time nor
/// between two requests.
#[tokio::test]
async fn a_connection_of_http2_may_be_quiet() {
    let origin = TestOrigin::start().await;
    origin.on("/app/slow", |_| Answer::new("text/plain", "late").gated());
    let (mut gateway, to) = with_http2(&origin).await;
    let h2 = Http2::over(TcpStream::connect(to).await.unwrap()).await;
    assert_eq!(h2.get("a", "/app/x").await.status, 200);
    patience_passes(&gateway).await;
    origin.hold();
    let asked = async {
        patience_passes(&gateway).await;
        origin.release();
    };
    let (reply, ()) = tokio::join!(h2.get("a", "/app/slow"), asked);
    assert_eq!(reply.status, 200);
    assert_eq!(h2.get("a", "/app/x").await.status, 200);
    gateway.assert_sound().await;
}

/// The address of an impatient gateway for HTTP/2 with prior knowledge.
async fn with_http2(origin: &TestOrigin) -> (Gateway, SocketAddr) {
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";
    let gateway = impatient(origin).raw(listener).start().await;
    let to = gateway.listeners(2).await[1];
    (gateway, to)
}

/// A proxied request and an event, each with a body that stops and one that drips.
#[tokio::test]
async fn a_body_that_stops_or_drips_gets_408() {
    let origin = TestOrigin::start().await;
    let mut gateway = impatient(&origin).start().await;
    for (round, path) in ["/app/x", "/internal/events/order_created"].iter().enumerate() {
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
        let count = f64::from(u8::try_from(round + 1).unwrap());
        let mut client = Client::connect(&gateway).await;
        client.send(head.as_bytes()).await;
        client.send(b"some").await;
        let (said, took) = client.silence().await;
        assert!(is_408(&said), "{path}: {said}");
        assert!(took >= PATIENCE, "{path}: {took:?}");
        was_cut(&gateway, "body_timeout", count).await;
        recorded(&gateway, &["body_timeout", "408", path]).await;

        let mut client = Client::connect(&gateway).await;
        client.send(head.as_bytes()).await;
        let (said, took) = client.drip(b"x").await;
        assert!(is_408(&said), "{path}: {said}");
        assert!(took >= PATIENCE, "{path}: {took:?}");
        was_cut(&gateway, "body_rate", count).await;
        recorded(&gateway, &["body_rate", "408", path]).await;
    }
    // Chunks that never end, and a body of which nothing comes.
    for rest in ["Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "Content-Length: 5\r\n\r\n"] {
        let mut client = Client::connect(&gateway).await;
        client.send(format!("POST /app/x HTTP/1.1\r\nHost: a\r\n{rest}").as_bytes()).await;
        let (said, _) = client.silence().await;
        assert!(is_408(&said), "{rest}: {said}");
    }
    assert_eq!(origin.count("/app/x"), 0, "the origin saw no whole request");
    gateway.assert_sound().await;
}

#[tokio::test]
async fn a_body_that_is_merely_slow_arrives() {
    let origin = TestOrigin::start().await;
    let gateway = impatient(&origin).start().await;
    let body = noise(80_000, 7);
    let mut client = Client::connect(&gateway).await;
    client
        .send(
            format!("POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(),
        )
        .await;
    // 20 kB a second, for longer than anything is waited for.
    for piece in body.chunks(1_000) {
        client.send(piece).await;
        sleep(DRIP).await;
    }
    let answer = client.answer().await;
    assert!(answer.contains(&sha256(&body)), "{answer}");
    // What the gateway does not wait for takes its time: the origin's answer, the next request.
    origin.hold();
    origin.on("/app/x", |_| Answer::new("text/plain", "taken").gated());
    client.send(b"POST /app/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
    until("the origin has it", SOON, || async { origin.held() == 1 }).await;
    patience_passes(&gateway).await;
    origin.release();
    let answer = client.answer().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    was_cut(&gateway, "silent", 1.0).await;
    for reason in ["header_timeout", "body_timeout", "body_rate", "send_timeout", "send_rate"] {
        was_cut(&gateway, reason, 0.0).await;
    }
}

/// Proxied, and out of the cache.
#[tokio::test]
async fn who_takes_nothing_or_next_to_nothing_is_cut_off() {
    let origin = TestOrigin::start().await;
    origin.on("/big", |_| Answer::new("text/plain", "x".repeat(MUCH)).header("cache-control", "max-age=600"));
    let mut gateway = impatient(&origin)
        .store("memory = \"256MiB\"")
        .setting("send_min_rate = \"64KiB\"")
        .route("/big", "cache = { follow = \"origin\", max_size = \"100MiB\" }")
        .start()
        .await;
    for _ in 0..2 {
        assert_eq!(gateway.get("/big").await.ok().body.len(), MUCH);
    }
    for (round, target) in [format!("/download?bytes={MUCH}"), "/big".to_owned()].iter().enumerate() {
        let path = target.split('?').next().unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let count = f64::from(u8::try_from(round + 1).unwrap());
        let mut client = Client::narrow(&gateway).await;
        client.send(request.as_bytes()).await;
        was_cut(&gateway, "send_timeout", count).await;
        assert!(client.since.elapsed() >= PATIENCE);
        recorded(&gateway, &["send_timeout", path]).await;
        assert!(client.stream.read_to_end(&mut Vec::new()).await.is_err(), "{path}: a reset");

        let mut client = Client::narrow(&gateway).await;
        client.send(request.as_bytes()).await;
        // 40 kB a second. Five bytes a second would be nothing at all for minutes: so small a window is not offered.
        let took = client.sip(2_000).await;
        assert!(took >= PATIENCE, "{path}: {took:?}");
        was_cut(&gateway, "send_rate", count).await;
        recorded(&gateway, &["send_rate", path]).await;
    }
    assert_eq!(gateway.get("/big").await.ok().body.len(), MUCH);
    gateway.assert_sound().await;
}

/// A kernel that holds megabytes for it shows no room for long: what counts is what the client takes.
#[tokio::test]
async fn who_takes_it_slowly_gets_it_all() {
    let origin = TestOrigin::start().await;
    let gateway = impatient(&origin).start().await;
    let mut client = Client::narrow(&gateway).await;
    client.send(format!("GET /download?bytes={MUCH} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await;
    let mut piece = [0; 2_000];
    // 40 kB a second, for three times as long as would be waited for one who takes nothing.
    while client.since.elapsed() < 3 * PATIENCE {
        client.stream.read_exact(&mut piece).await.unwrap();
        sleep(DRIP).await;
    }
    let mut read = 0;
    let mut rest = vec![0; 1 << 20];
    while read < MUCH / 2 {
        read += client.stream.read(&mut rest).await.unwrap();
    }
    for reason in ["send_timeout", "send_rate"] {
        was_cut(&gateway, reason, 0.0).await;
    }
}

/// The whole answer lies in the kernel's buffer: nobody writes, and the client takes nothing all the same.
#[tokio::test]
async fn the_system_gives_up_where_nobody_writes() {
    let origin = TestOrigin::start().await;
    let gateway = impatient(&origin).start().await;
    let mut client = Client::narrow(&gateway).await;
    client.send(b"GET /download?bytes=60000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    was_cut(&gateway, "send_timeout", 1.0).await;
    assert!(client.stream.read_to_end(&mut Vec::new()).await.is_err(), "a reset");
}

#[tokio::test]
async fn an_upgraded_connection_may_be_silent() {
    let origin = TestOrigin::start().await;
    let gateway = impatient(&origin).start().await;
    let url = format!("ws://{}/ws/echo", gateway.address());
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    for text in ["first", "second"] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
        patience_passes(&gateway).await;
        patience_passes(&gateway).await;
    }
    was_cut(&gateway, "silent", 4.0).await;
    for reason in ["header_timeout", "body_timeout", "body_rate"] {
        was_cut(&gateway, reason, 0.0).await;
    }
}

/// Upgraded connections take what they are sent, or go as all others.
#[tokio::test]
async fn an_upgraded_connection_that_takes_nothing_is_cut_off() {
    let origin = TestOrigin::start().await;
    let gateway = impatient(&origin).start().await;
    let client = Client::narrow(&gateway).await;
    let request = format!("ws://{}/ws/echo", gateway.address());
    let (mut socket, _) = tokio_tungstenite::client_async(request, client.stream).await.unwrap();
    let message = Message::binary(noise(1 << 20, 3));
    let flood = async {
        // Until the way back is full the echoes make room for more.
        while socket.send(message.clone()).await.is_ok() {}
    };
    let cut =
        async { until("it is cut off", SOON, || async { cut(&gateway, "send_timeout").await > 0.0 }).await };
    tokio::select! { () = flood => {} () = cut => {} }
    was_cut(&gateway, "send_timeout", 1.0).await;
}

#[tokio::test]
async fn two_hundred_slow_clients_hold_nobody_up() {
    let origin = TestOrigin::start().await;
    let mut gateway = impatient(&origin).start().await;
    gateway.get(PATH).await.ok();
    let before = median(&gateway).await;
    let slow: Vec<_> = (0..200)
        .map(|index| {
            let address = gateway.address();
            tokio::spawn(async move {
                let mut client = Client::try_from(TcpSocket::new_v4().unwrap(), address).await.unwrap();
                match index % 3 {
                    0 => client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ").await,
                    1 => client.send(b"POST /app/x HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\n").await,
                    _ => {}
                }
                let (said, _) = if index % 3 == 2 { client.silence().await } else { client.drip(b"x").await };
                (index % 3, said)
            })
        })
        .collect();
    until("all are there", SOON, || async {
        gateway.metrics().await.value("tidegate_connections_open", &[]) > 150.0
    })
    .await;
    let during = median(&gateway).await;
    assert!(during < 10 * before + Duration::from_millis(50), "{before:?} before, {during:?} during");
    for client in slow {
        let (kind, said) = client.await.unwrap();
        assert_eq!(is_408(&said), kind != 2, "{kind}: {said}");
    }
    was_cut(&gateway, "header_timeout", 67.0).await;
    was_cut(&gateway, "body_rate", 67.0).await;
    was_cut(&gateway, "silent", 66.0).await;
    gateway.assert_sound().await;
}

async fn median(gateway: &Gateway) -> Duration {
    let mut times = Vec::new();
    for _ in 0..200 {
        let begin = Instant::now();
        assert!(gateway.get(PATH).await.ok().is_hit());
        times.push(begin.elapsed());
    }
    quantile(&mut times, 0.5)
}

/// Returns true if the gateway accepts a connection: it answers on it.
async fn is_taken(client: &mut Client) -> bool {
    let request = format!("GET {PATH} HTTP/1.1\r\nHost: a\r\n\r\n");
    if client.stream.write_all(request.as_bytes()).await.is_err() {
        return false;
    }
    let mut read = [0; 4096];
    client.stream.read(&mut read).await.is_ok_and(|n| read[..n].starts_with(b"HTTP/1.1 200"))
}

async fn refused(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metrics().await.value("tidegate_connections_refused_total", &[("reason", reason)])
}

#[tokio::test]
async fn there_are_only_so_many_places() {
    let origin = TestOrigin::start().await;
    let mut gateway = Gateway::with(&origin).route(PATH, KPI).setting("max_connections = 7").start().await;
    assert_eq!(gateway.metrics().await.value("tidegate_connections_limit", &[]), 7.0);
    let mut held = Vec::new();
    for _ in 0..7 {
        let mut client = Client::connect(&gateway).await;
        assert!(is_taken(&mut client).await);
        held.push(client);
    }
    let begin = Instant::now();
    for _ in 0..50 {
        // It may be gone before the handshake is noticed here.
        if let Some(mut client) = Client::try_from(TcpSocket::new_v4().unwrap(), gateway.address()).await {
            assert!(!is_taken(&mut client).await);
        }
    }
    assert_eq!(refused(&gateway, "max_connections").await, 50.0);
    gateway.says("connections were refused").await;
    let lines = gateway.output().matches("connections were refused").count();
    let most = usize::try_from(begin.elapsed().as_secs()).unwrap() + 1;
    assert!((1..=most).contains(&lines), "{lines} lines:\n{}", gateway.output());
    // Those who are in stay in, and a place that is left is free.
    assert!(is_taken(&mut held[0]).await);
    drop(held.pop());
    eventually("a place is free", SOON, || async {
        let mut client = Client::try_from(TcpSocket::new_v4().unwrap(), gateway.address()).await?;
        is_taken(&mut client).await.then_some(())
    })
    .await;
    drop(held);
    gateway.assert_sound().await;
}

#[tokio::test]
async fn an_address_has_only_so_many_places() {
    let origin = TestOrigin::start().await;
    let gateway =
        Gateway::with(&origin).route(PATH, KPI).setting("max_connections_per_address = 3").start().await;
    let gateway = &gateway;
    let come = |last: u8| async move {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0))).unwrap();
        let mut client = Client::try_from(socket, gateway.address()).await?;
        is_taken(&mut client).await.then_some(client)
    };
    let mut held = Vec::new();
    for last in [2, 3] {
        for _ in 0..3 {
            held.push(come(last).await.unwrap());
        }
        assert!(come(last).await.is_none(), "127.0.0.{last} has three");
    }
    assert_eq!(refused(gateway, "max_connections_per_address").await, 2.0);
    held.remove(0);
    held.push(eventually("127.0.0.2 has a place again", SOON, || come(2)).await);
    assert!(come(3).await.is_none());
}

/// Those who are there stay; who comes finds what holds now.
#[tokio::test]
async fn a_reload_changes_limits_and_times() {
    let origin = TestOrigin::start().await;
    let first = Gateway::with(&origin).route(PATH, KPI).setting("max_connections = 2");
    let gateway = first.start().await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(&gateway).await;
        assert!(is_taken(&mut client).await);
        held.push(client);
    }
    let next = Gateway::with(&origin).route(PATH, KPI);
    let fewer = next.clone().setting("max_connections = 1");
    assert!(gateway.reload(&fewer).await);
    assert!(is_taken(&mut held[0]).await && is_taken(&mut held[1]).await);
    let more = next.setting("max_connections = 3").setting("header_timeout = \"1s\"");
    assert!(gateway.reload(&more).await);
    let mut third = Client::connect(&gateway).await;
    third.send(b"G").await;
    let (said, _) = third.silence().await;
    assert!(is_408(&said), "{said}");
}

/// As far as the process may: what it was started with is raised to what it may have.
#[tokio::test]
async fn the_limit_follows_from_the_files_that_may_be_open() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route(PATH, KPI).start().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.pid())).unwrap();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let files: Vec<f64> = files.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    assert_eq!(files[0], files[1], "soft and hard");
    let most = gateway.metrics().await.value("tidegate_connections_limit", &[]);
    assert_eq!(most, ((files[0].min(1_048_576.0) - 64.0) / 2.0).floor());
}

#[tokio::test]
async fn while_places_run_short_nobody_is_kept_for_nothing() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route(PATH, KPI).setting("max_connections = 16").start().await;
    let mut held = Vec::new();
    for _ in 0..16 {
        let mut client = Client::connect(&gateway).await;
        assert!(is_taken(&mut client).await);
        held.push(client);
    }
    // The last two came into a crowd; so may the one before have done that they met at the door.
    until("idle ones are closed", SOON, || async { cut(&gateway, "crowded").await >= 2.0 }).await;
    let mut stayed = 0.0;
    for client in &mut held {
        stayed += f64::from(u8::from(is_taken(client).await));
    }
    assert!(stayed >= 13.0, "{stayed} stayed");
    assert_eq!(stayed + cut(&gateway, "crowded").await, 16.0);
}

/// Whoever can open a connection could otherwise write as many lines as he likes.
#[tokio::test]
async fn clients_that_leave_within_a_head_are_no_line_in_the_log() {
    let origin = TestOrigin::start().await;
    let gateway = impatient(&origin).start().await;
    for round in 0..20 {
        let mut client = Client::connect(&gateway).await;
        client.send(b"GET / HTTP/1.1\r\nHo").await;
        if round % 2 == 0 {
            client.stream.set_zero_linger().unwrap();
        }
    }
    until("all are gone", SOON, || async {
        gateway.metrics().await.value("tidegate_connections_open", &[]) == 0.0
    })
    .await;
    let output = gateway.output();
    assert!(!output.contains("ERROR") && !output.contains("Fail to proxy"), "{output}");
}
