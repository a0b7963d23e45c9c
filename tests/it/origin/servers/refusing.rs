//! Servers of HTTP/2 that say that they have not begun with a request (RFC 9113, 8.7).

use crate::support::{gateway::GatewayBuilder, *};
use http::Version;
use std::{
    collections::HashSet,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        atomic::{AtomicUsize, Ordering},
        Arc, Mutex,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const PREFACE: usize = 24;

/// A way to refuse a request.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    /// Its stream is reset for this reason.
    Reset(u32),
    /// The connection ends for this reason, and none of its streams was begun with.
    GoAway(u32),
}

/// A server that refuses as many requests as it is told.
struct Refusing {
    address: SocketAddr,
    left: Arc<Mutex<(usize, Refusal)>>,
    refused: Arc<AtomicUsize>,
    answered: Arc<AtomicUsize>,
    server: AbortHandle,
}

impl Refusing {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let left = Arc::new(Mutex::new((0, Refusal::Reset(0))));
        let (refused, answered) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let shared = (left.clone(), refused.clone(), answered.clone());
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (left, refused, answered) = shared.clone();
                tokio::spawn(async move { drop(serve(stream, &left, &refused, &answered).await) });
            }
        });
        Self { address, left, refused, answered, server: serving.abort_handle() }
    }

    fn refuse(&self, times: usize, how: Refusal) {
        *self.left.lock().unwrap() = (times, how);
        self.refused.store(0, Ordering::SeqCst);
        self.answered.store(0, Ordering::SeqCst);
    }

    /// Requests that were refused, and those that were answered.
    fn counts(&self) -> (usize, usize) {
        (self.refused.load(Ordering::SeqCst), self.answered.load(Ordering::SeqCst))
    }
}

impl Drop for Refusing {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

async fn serve(
    mut stream: TcpStream,
    left: &Mutex<(usize, Refusal)>,
    refused: &AtomicUsize,
    answered: &AtomicUsize,
) -> io::Result<()> {
    stream.write_all(&[frame(SETTINGS, 0, 0, b""), frame(SETTINGS, 1, 0, b"")].concat()).await?;
    stream.read_exact(&mut [0; PREFACE]).await?;
    let mut over = HashSet::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, s, t, u, v] = head;
        let mut payload = vec![0; usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)];
        stream.read_exact(&mut payload).await?;
        let number = u32::from_be_bytes([s, t, u, v]);
        let how = (kind == HEADERS).then(|| {
            let mut left = left.lock().unwrap();
            let refuses = left.0 > 0;
            left.0 -= usize::from(refuses);
            refuses.then_some(left.1)
        });
        if let Some(how) = how.flatten() {
            refused.fetch_add(1, Ordering::SeqCst);
            over.insert(number);
            let said = match how {
                Refusal::Reset(reason) => frame(RST_STREAM, 0, number, &reason.to_be_bytes()),
                Refusal::GoAway(reason) => frame(
                    GOAWAY,
                    0,
                    0,
                    &[number.saturating_sub(2).to_be_bytes(), reason.to_be_bytes()].concat(),
                ),
            };
            stream.write_all(&said).await?;
        } else if matches!(kind, 0 | HEADERS) && flags & 1 != 0 && !over.contains(&number) {
            answered.fetch_add(1, Ordering::SeqCst);
            // `:status: 200`
            stream.write_all(&frame(HEADERS, 5, number, &[0x88])).await?;
        }
    }
}

#[tokio::test]
async fn what_a_server_has_not_begun_with_is_sent_again_whatever_the_method() {
    const REFUSED_STREAM: u32 = 7;
    let origin = Refusing::start().await;
    let gateway = GatewayBuilder::new(&format!("http://{}", origin.address))
        .origin("http2 = true\nretries = 0")
        .route("/app/*", "")
        .route("/kept/*", "cache = { namespace = \"n\", ttl = \"60s\" }")
        .route("/followed/*", "cache = \"origin\"")
        .start()
        .await;
    // A stream is the second of its connection at least: there is a last one before it.
    gateway.get("/app/first").await.ok();
    gateway.get("/kept/first").await.ok();
    let hows = [Refusal::Reset(REFUSED_STREAM), Refusal::GoAway(0), Refusal::GoAway(11)];
    for (round, how) in hows.into_iter().enumerate() {
        for (method, path, body) in [
            ("GET", "/app/x", None),
            ("POST", "/app/x", Some("body")),
            ("POST", "/app/x", None),
            ("PATCH", "/app/x", Some("body")),
            ("GET", "/kept/x", None),
            ("GET", "/followed/x", None),
            ("POST", "/followed/x", Some("body")),
        ] {
            let case = format!("{how:?} {method} {path}{round}");
            origin.refuse(1, how);
            let mut ask = gateway.request(method, &format!("{path}{round}"));
            if let Some(body) = body {
                ask = ask.body(body);
            }
            assert_eq!(send(ask).await.status, 200, "{case}");
            assert_eq!(origin.counts(), (1, 1), "{case}");
            // The next one goes by a connection that has a stream behind it.
            gateway.get("/app/next").await.ok();
            gateway.get(&format!("/kept/next-{method}{path}{round}")).await.ok();
        }
    }
    // Not for ever, and not for other reasons.
    origin.refuse(100, Refusal::Reset(REFUSED_STREAM));
    gateway.request("POST", "/app/x").send().await.map(|reply| assert_eq!(reply.status(), 502)).unwrap();
    assert!((2..=5).contains(&origin.counts().0), "{:?}", origin.counts());
    origin.refuse(100, Refusal::Reset(2));
    gateway.request("POST", "/app/x").send().await.map(|reply| assert_eq!(reply.status(), 502)).unwrap();
    assert_eq!(origin.counts().0, 1);
}

/// The host is the client's, as an origin of HTTP/1.1 sees it.
#[tokio::test]
async fn an_origin_of_http2_sees_the_host_that_clients_of_either_version_asked_for() {
    let origin = TestOrigin::start_as(Spoken { http2: true, ..Spoken::default() }).await;
    let gateway = Gateway::with(&origin)
        .origin("http2 = true")
        .raw("[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true")
        .route("/app/*", "")
        .route("/followed/*", "cache = \"origin\"")
        .start()
        .await;
    let prior = gateway.listeners(2).await[1];
    let h2 = tls::Http2::over(TcpStream::connect(prior).await.unwrap()).await;
    for path in ["/app/x", "/app/y", "/followed/x"] {
        let post = http::Request::post(format!("http://dash.example:81{path}"));
        let post = post.body(http_body_util::Full::from("body")).unwrap();
        h2.send(post).await.unwrap().ok();
        h2.get("dash.example:81", path).await.ok();
        gateway.get_with(&format!("{path}?1"), &[("host", "dash.example:81")]).await.ok();
        let all = origin.seen(path);
        assert_eq!(all.len(), 3, "{path}");
        for seen in all {
            assert_eq!(seen.version, Version::HTTP_2);
            assert_eq!(seen.authority.as_deref(), Some("dash.example:81"), "{path}: {seen:?}");
            assert_eq!(seen.header("x-forwarded-host"), Some("dash.example:81"), "{path}: {seen:?}");
            assert_eq!(seen.header("host"), None);
        }
    }
}
