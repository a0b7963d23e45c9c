//! Answers that come before all of a body has: they are passed on at once, and what is left of the body is for nobody.

use super::ends::{answered, connect};
use crate::support::{client::raw_exchange, tls::Authority, *};
use bytes::Bytes;
use http::Request;
use std::{
    net::Ipv4Addr,
    sync::{
        atomic::{AtomicUsize, Ordering},
        Arc,
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

/// More than all buffers between a client and an origin hold.
const MUCH: usize = 64 << 20;

/// An origin that answers a GET with `ok`, and anything else as soon as its head is there: with what its path names, and
/// without reading on.
struct Hasty {
    url: String,
    connections: Arc<AtomicUsize>,
    server: AbortHandle,
}

impl Hasty {
    async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("{}://{address}", if tls.is_some() { "https" } else { "http" });
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let serving = tokio::spawn(async move {
            // Dropped with this task, and every connection with it.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                match tls.clone() {
                    None => connections.spawn(hasten(stream)),
                    Some(tls) => connections.spawn(async move { hasten(tls.accept(stream).await?).await }),
                };
            }
        });
        Self { url, connections, server: serving.abort_handle() }
    }
}

impl Drop for Hasty {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn hasten<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> std::io::Result<()> {
    let mut read = Vec::new();
    loop {
        while !read.windows(4).any(|four| four == b"\r\n\r\n") {
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        }
        let head = String::from_utf8_lossy(&read).into_owned();
        if head.starts_with("GET ") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
            stream.flush().await?;
            read.clear();
            continue;
        }
        let said = match head.split(' ').nth(1).unwrap_or_default() {
            "/401" => "HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n\r\nnever",
            "/413" => "HTTP/1.1 413 Too Large\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nnever\r\n0\r\n\r\n",
            "/200" => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Long: 1\r\n\r\nnever",
            "/hint" => "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\nnever",
            "/close" => "HTTP/1.1 400 Bad\r\nConnection: close\r\nContent-Length: 5\r\n\r\nnever",
            "/end" => "HTTP/1.1 503 Busy\r\n\r\nnever",
            other => panic!("{other}"),
        };
        stream.write_all(said.as_bytes()).await?;
        stream.flush().await?;
        if said.contains("close") || said.contains("Busy") {
            return stream.shutdown().await;
        }
        // Not one byte more is read.
        std::future::pending::<()>().await;
    }
}

/// By HTTP/1.1 with a length and in chunks, and by HTTP/2; to origins with TLS and without. The origin has an hour.
async fn passes_at_once(origin: &Hasty, lines: &str) {
    let mut gateway = GatewayBuilder::new(&origin.url)
        .origin(&format!("read_timeout = \"1h\"\nretries = 0\n{lines}"))
        .raw("[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true")
        .route("/*", "max_body = \"1GiB\"")
        .start()
        .await;
    let to = gateway.listeners(2).await[1];
    for (path, status) in
        [("/401", 401), ("/413", 413), ("/200", 200), ("/hint", 403), ("/close", 400), ("/end", 503)]
    {
        // A connection that waits for another request.
        gateway.get("/x").await.ok();
        let body = vec![b'x'; MUCH];
        let whole = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {MUCH}\r\n\r\n");
        let said = raw_exchange(gateway.address(), &[whole.as_bytes(), &body].concat()).await;
        let all = format!("{}\r\n\r\n{}", said.head, said.body).to_lowercase();
        assert!(all.contains(&format!("http/1.1 {status} ")), "{path}: {all}");
        assert!(all.contains("never"), "{path}: {all}");
        let chunks =
            format!("PUT {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{MUCH:x}\r\n");
        let said = raw_exchange(gateway.address(), &[chunks.as_bytes(), &body].concat()).await;
        let all = format!("{}\r\n\r\n{}", said.head, said.body);
        assert!(all.contains("never"), "{path}: {all}");

        let mut h2 = connect(to).await;
        let request = Request::post(format!("http://a{path}")).body(()).unwrap();
        let (answer, mut stream) = h2.send_request(request, false).unwrap();
        stream.send_data(Bytes::from(body), false).unwrap();
        let (came, text) = answered(answer).await;
        assert_eq!((came, text.as_str()), (status, "never"), "{path}");
        // Others have theirs, on connections whose ends are known.
        for _ in 0..3 {
            assert_eq!(gateway.get("/x").await.ok().text(), "ok", "behind {path}");
        }
    }
    gateway.assert_sound().await;
}

#[tokio::test]
async fn an_answer_before_the_end_is_passed_on_at_once() {
    passes_at_once(&Hasty::start(None).await, "").await;
}

#[tokio::test]
async fn an_answer_before_the_end_is_passed_on_at_once_with_tls() {
    let authority = Authority::new();
    let origin = Hasty::start(Some(authority.accept(&["127.0.0.1"], false, false))).await;
    passes_at_once(&origin, &format!("tls = {{ ca = {} }}", authority.toml("ca.pem"))).await;
}

/// Where an answer came before the end of the request, nobody knows where the next one would begin.
#[tokio::test]
async fn a_connection_whose_end_is_in_doubt_is_not_used_again() {
    let origin = Hasty::start(None).await;
    let gateway = GatewayBuilder::new(&origin.url).route("/*", "").start().await;
    gateway.get("/x").await.ok();
    assert_eq!(origin.connections.load(Ordering::SeqCst), 1);
    let half = b"POST /401 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello";
    assert_eq!(raw_exchange(gateway.address(), half).await.status, 401);
    gateway.get("/x").await.ok();
    assert_eq!(origin.connections.load(Ordering::SeqCst), 2);
    // The same body, whole.
    gateway.get("/x").await.ok();
    assert_eq!(origin.connections.load(Ordering::SeqCst), 2);
}

/// Paths at which a body is refused, each with its status.
const REFUSED: [(&str, u16); 3] = [("/small", 413), ("/private", 401), ("/nowhere", 404)];

/// Writes all of its body before it looks at the answer, as many clients do.
async fn stubborn<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, path: &str, chunked: bool) -> String {
    let framing = match chunked {
        true => format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", 8 << 20),
        false => format!("Content-Length: {}\r\n\r\n", 8 << 20),
    };
    let head = format!("POST {path} HTTP/1.1\r\nHost: dash.example\r\nConnection: close\r\n{framing}");
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b'x'; 64 * 1024];
    for _ in 0..(8 << 20) / piece.len() {
        stream.write_all(&piece).await.unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    stream.flush().await.unwrap();
    let mut said = Vec::new();
    // The end of it may be any.
    drop(stream.read_to_end(&mut said).await);
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_still_sending_sees_the_answer() {
    let (origin, authority) = (TestOrigin::start().await, Authority::new());
    authority.issue("a", &["dash.example"]);
    let gateway = Gateway::with(&origin)
        .raw(&authority.listener(&["a"], ""))
        .route("/small", "max_body = \"1KiB\"")
        .route("/private", "auth = \"required\"")
        .start()
        .await;
    let [plain, tls] = gateway.listeners(2).await.try_into().unwrap();
    let client = authority.trusting();
    let mut all = Vec::new();
    for n in 0..32 {
        let (path, status) = REFUSED[n % REFUSED.len()];
        let (client, chunked) = (client.clone(), n.is_multiple_of(2));
        all.push(tokio::spawn(async move {
            let by_tls = stubborn(client.connect(tls, "dash.example").await.unwrap(), path, chunked).await;
            let by_tcp = stubborn(TcpStream::connect(plain).await.unwrap(), path, chunked).await;
            for said in [by_tls, by_tcp] {
                assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {said:?}");
                let body = said.split_once("\r\n\r\n").unwrap().1;
                let problem: serde_json::Value = serde_json::from_str(body).unwrap();
                assert_eq!(problem["status"], status);
            }
        }));
    }
    for client in all {
        client.await.unwrap();
    }
}

/// A refused request takes no place of `max_connections` while its client goes on sending.
#[tokio::test]
async fn who_is_let_go_has_no_place() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route("/small", "max_body = \"1KiB\"").start().await;
    let mut client = TcpStream::connect(gateway.address()).await.unwrap();
    client.write_all(b"POST /small HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    tokio::time::timeout(SOON, client.read_to_end(&mut said)).await.unwrap().unwrap();
    assert!(said.starts_with(b"HTTP/1.1 413"));
    let open = || async { gateway.metrics().await.value("tidegate_connections_open", &[]) };
    until("its place is free", SOON, || async { open().await == 0.0 }).await;
}
