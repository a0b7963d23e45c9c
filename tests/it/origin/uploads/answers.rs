//! Answers to requests of any method go out as they come, head and body, and as far as they come: one that breaks off
//! doesn't look whole.

use crate::support::{
    tls::{Authority, TlsClient},
    *,
};
use bytes::Bytes;
use h2::{client::SendRequest, RecvStream};
use http::Request;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

/// The part of a body that an origin sends at once, and the part that it sends later, or never.
const FIRST: &str = "as far as it came";
const REST: &str = ", and the rest";

/// A client's protocol.
#[derive(Debug, Clone, Copy)]
enum By {
    Http1,
    Http1Tls,
    Http2,
    Http2Tls,
}

const CLIENTS: [By; 4] = [By::Http1, By::Http1Tls, By::Http2, By::Http2Tls];

/// A property of a request beside its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    Nothing,
    /// A field that ends here.
    Hop,
    /// The next request behind it.
    Pipelined,
}

/// Requests: a method, a route, a body.
type Asked = (&'static str, &'static str, Option<&'static str>, More);

const ASKED: [Asked; 16] = [
    ("GET", "/plain", None, More::Nothing),
    ("DELETE", "/plain", None, More::Nothing),
    ("POST", "/plain", None, More::Nothing),
    ("POST", "/plain", Some("hello"), More::Nothing),
    ("PUT", "/plain", Some("hello"), More::Nothing),
    ("PATCH", "/plain", Some("hello"), More::Nothing),
    ("DELETE", "/plain", Some("hello"), More::Nothing),
    ("POST", "/followed", Some("hello"), More::Nothing),
    ("DELETE", "/followed", None, More::Nothing),
    ("POST", "/namespaced", Some("hello"), More::Nothing),
    ("POST", "/token", Some("hello"), More::Nothing),
    ("DELETE", "/token", None, More::Nothing),
    ("PUT", "/plain", Some("hello"), More::Hop),
    ("GET", "/plain", None, More::Pipelined),
    ("POST", "/plain", Some("hello"), More::Pipelined),
    ("POST", "/token", Some("hello"), More::Pipelined),
];

/// An answer on its way.
enum Coming {
    Http1(Transfer),
    /// With its connection, which lasts as long as somebody may ask.
    Http2(RecvStream, #[allow(dead_code)] SendRequest<Bytes>),
}

impl Coming {
    async fn piece(&mut self) -> Result<Bytes, End> {
        match self {
            Self::Http1(transfer) => transfer.piece().await,
            Self::Http2(body, _) => match body.data().await {
                Some(Ok(piece)) => {
                    body.flow_control().release_capacity(piece.len()).unwrap();
                    Ok(piece)
                }
                Some(Err(_)) => Err(End::Broken),
                None => Err(End::Clean),
            },
        }
    }

    /// Reads so much, or up to its end.
    async fn read(&mut self, length: usize) -> (String, Option<End>) {
        let mut text = Vec::new();
        while text.len() < length {
            match self.piece().await {
                Ok(piece) => text.extend_from_slice(&piece),
                Err(end) => return (String::from_utf8(text).unwrap(), Some(end)),
            }
        }
        (String::from_utf8(text).unwrap(), None)
    }
}

/// A gateway that is asked in every way.
struct Front {
    gateway: Gateway,
    http2: SocketAddr,
    tls: SocketAddr,
    client: TlsClient,
}

impl Front {
    async fn start(url: &str, authority: &Authority, lines: &str) -> Self {
        authority.issue("door", &["a"]);
        let gateway = GatewayBuilder::new(url)
            .origin("retries = 0")
            .origin(lines)
            .raw("[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true")
            .raw(&authority.listener(&["door"], ""))
            .route("/followed/*", "cache = \"origin\"")
            .route("/namespaced/*", r#"cache = { namespace = "kpi", scope = "public", ttl = "60s" }"#)
            .route("/token/*", "token_query = true")
            .route("/*", "")
            .start()
            .await;
        let [_, http2, tls] = gateway.listeners(3).await.try_into().unwrap();
        Self { gateway, http2, tls, client: authority.trusting() }
    }

    async fn ask(&self, by: By, (method, _, body, more): Asked, path: &str) -> Coming {
        let length = body.map_or(String::new(), |body| format!("Content-Length: {}\r\n", body.len()));
        let body = body.unwrap_or_default();
        let (fields, next) = match more {
            More::Nothing => ("", ""),
            More::Hop => ("Connection: x-hop\r\nX-Hop: 1\r\n", ""),
            More::Pipelined => ("", "GET /plain/next HTTP/1.1\r\nHost: a\r\n\r\n"),
        };
        let text = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{length}{fields}\r\n{body}{next}");
        let request = Request::builder().method(method).uri(format!("http://a{path}"));
        match by {
            By::Http1 => {
                let stream = TcpStream::connect(self.gateway.address()).await.unwrap();
                by_http1(Transfer::over(stream, &text).await).await
            }
            By::Http1Tls => {
                let stream = self.client.connect(self.tls, "a").await.unwrap();
                by_http1(Transfer::over(stream, &text).await).await
            }
            By::Http2 => by_http2(TcpStream::connect(self.http2).await.unwrap(), request, body).await,
            By::Http2Tls => {
                let client = self.client.clone().alpn(&["h2"]);
                by_http2(client.connect(self.tls, "a").await.unwrap(), request, body).await
            }
        }
    }
}

async fn by_http1(mut transfer: Transfer) -> Coming {
    assert_eq!(transfer.final_head().await.status, 200);
    Coming::Http1(transfer)
}

async fn by_http2<S>(stream: S, request: http::request::Builder, body: &'static str) -> Coming
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut h2, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = match body.len() {
        0 => request,
        length => request.header("content-length", length),
    };
    let (answer, mut sending) = h2.send_request(request.body(()).unwrap(), body.is_empty()).unwrap();
    if !body.is_empty() {
        sending.send_data(Bytes::from_static(body.as_bytes()), true).unwrap();
    }
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    Coming::Http2(answer.into_body(), h2)
}

/// Asks in every way, and holds that what has come is passed on while the origin waits, and then what it does.
async fn streams(front: &Front, hold: impl Fn(bool), answers: &[(&str, &str, End)]) {
    let mut faults = Vec::new();
    for asked in ASKED {
        for by in CLIENTS {
            for (name, rest, end) in answers {
                if asked.3 != More::Nothing && matches!(by, By::Http2 | By::Http2Tls) {
                    continue;
                }
                hold(true);
                let path = format!("{}/{name}", asked.1);
                let exchange = async {
                    let mut coming = front.ask(by, asked, &path).await;
                    let begun = coming.read(FIRST.len()).await;
                    hold(false);
                    (begun, coming.read(usize::MAX).await)
                };
                let wanted = ((FIRST.to_owned(), None), ((*rest).to_owned(), Some(*end)));
                match timeout(SOON / 4, exchange).await {
                    Ok(got) if got == wanted => {}
                    Ok(got) => faults.push(format!("{asked:?} by {by:?}, {name}: {got:?}")),
                    Err(_) => faults.push(format!("{asked:?} by {by:?}, {name}: nothing came")),
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// To an origin that is spoken to in this way.
async fn streams_of(spoken: Spoken, authority: &Authority, lines: &str) {
    let origin = TestOrigin::start_as(spoken).await;
    let whole = FIRST.len() + REST.len();
    let answer = || Answer::new("application/octet-stream", FIRST).header("cache-control", "max-age=60");
    let answers = [
        ("length", answer().then_held(REST).length(whole)),
        ("chunks", answer().then_held(REST)),
        ("length-cut", answer().broken().length(whole)),
        ("chunks-cut", answer().broken().chunked()),
    ];
    for prefix in ["/plain", "/followed", "/namespaced", "/token"] {
        for (name, answer) in answers.clone() {
            origin.on(&format!("{prefix}/{name}"), move |_| answer.clone());
        }
    }
    let front = Front::start(&origin.url(), authority, lines).await;
    let hold = |wanted| if wanted { origin.hold() } else { origin.release() };
    let ends = [
        ("length", REST, End::Clean),
        ("chunks", REST, End::Clean),
        ("length-cut", "", End::Broken),
        ("chunks-cut", "", End::Broken),
    ];
    streams(&front, hold, &ends).await;
}

#[tokio::test]
async fn answers_to_every_method_stream() {
    streams_of(Spoken::default(), &Authority::new(), "").await;
}

#[tokio::test]
async fn answers_to_every_method_stream_from_an_origin_with_tls() {
    let authority = Authority::new();
    let tls = Some(authority.accept(&["127.0.0.1"], false, false));
    let ca = authority.toml("ca.pem");
    streams_of(Spoken { tls, ..Spoken::default() }, &authority, &format!("tls = {{ ca = {ca} }}")).await;
}

#[tokio::test]
async fn answers_to_every_method_stream_from_an_origin_of_http2() {
    streams_of(Spoken { http2: true, ..Spoken::default() }, &Authority::new(), "http2 = true").await;
}

#[tokio::test]
async fn answers_to_every_method_stream_from_an_origin_of_http2_with_tls() {
    let authority = Authority::new();
    let tls = Some(authority.accept(&["127.0.0.1"], true, false));
    let lines = format!("http2 = true\ntls = {{ ca = {} }}", authority.toml("ca.pem"));
    streams_of(Spoken { tls, ..Spoken::default() }, &authority, &lines).await;
}

/// Without TLS nobody can tell whether such an answer is whole.
#[tokio::test]
async fn answers_that_end_with_their_connection_stream() {
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n\r\n";
    let origin = RawOrigin::start_closing(format!("{head}{FIRST}"), REST).await;
    let front = Front::start(&origin.url(), &Authority::new(), "").await;
    let hold = |wanted| if wanted { origin.hold() } else { origin.release() };
    streams(&front, hold, &[("end", REST, End::Clean)]).await;
}
