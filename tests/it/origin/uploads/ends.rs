//! Each body has one end, however its stream ends: what is behind it on a connection to the origin is the next request.

use crate::support::{strict::Message, tls::Authority, *};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request};
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};
use tokio::net::TcpStream;

/// The end of an HTTP/2 stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With its head.
    Head,
    /// With the last piece.
    Last,
    /// With a piece that is empty.
    Empty,
    /// With trailers.
    Trailers,
    /// The last piece, another that is empty, and one more that ends it.
    Empties,
}

/// A body: its pieces, whether its length is told, and its end.
pub(super) type Case = (&'static [&'static str], bool, End);

pub(super) const CASES: [Case; 12] = [
    (&["hello"], false, End::Last),
    (&["hello"], false, End::Empty),
    (&["hello"], false, End::Trailers),
    (&["hello"], false, End::Empties),
    (&["hello", ", ", "brothers"], false, End::Empty),
    (&["hello"], true, End::Last),
    (&["hello"], true, End::Empty),
    (&["hello"], true, End::Trailers),
    (&[], false, End::Empty),
    (&[], false, End::Trailers),
    (&[], true, End::Empty),
    (&[], false, End::Empties),
];

/// Uploads a body, and returns status and body of the answer.
pub(super) async fn upload(
    h2: &mut SendRequest<Bytes>,
    method: &str,
    path: &str,
    case: Case,
) -> (u16, String) {
    let (pieces, told, end) = case;
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut request = Request::builder().method(method).uri(format!("http://a{path}"));
    if told {
        request = request.header("content-length", length);
    }
    let (answer, mut body) = h2.send_request(request.body(()).unwrap(), end == End::Head).unwrap();
    // The head is on its way by itself: what a stream holds when its request is sent on tells nothing of its end.
    tokio::task::yield_now().await;
    for (n, piece) in pieces.iter().enumerate() {
        body.send_data(Bytes::from_static(piece.as_bytes()), end == End::Last && n + 1 == pieces.len())
            .unwrap();
        tokio::task::yield_now().await;
    }
    match end {
        End::Head | End::Last => {}
        End::Empty => body.send_data(Bytes::new(), true).unwrap(),
        End::Trailers => {
            // No origin sees them, and they frame nothing.
            let fields = [("x-sum", "1"), ("content-length", "1"), ("host", "b.example"), ("x-tenant", "b")];
            let fields = fields.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            body.send_trailers(HeaderMap::from_iter(fields)).unwrap();
        }
        End::Empties => {
            body.send_data(Bytes::new(), false).unwrap();
            body.send_data(Bytes::new(), true).unwrap();
        }
    }
    answered(answer).await
}

/// A connection of HTTP/2.
pub(super) async fn connect(to: SocketAddr) -> SendRequest<Bytes> {
    let (h2, connection) = h2::client::handshake(TcpStream::connect(to).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    h2
}

/// Status and body of an answer.
pub(super) async fn answered(answer: ResponseFuture) -> (u16, String) {
    let answer = tokio::time::timeout(SOON, answer).await.unwrap().unwrap();
    let (status, mut body) = (answer.status().as_u16(), answer.into_body());
    let mut text = Vec::new();
    while let Some(piece) = tokio::time::timeout(SOON, body.data()).await.unwrap() {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        text.extend_from_slice(&piece);
    }
    (status, String::from_utf8(text).unwrap())
}

/// Tells what it got.
fn told(request: &Message) -> Say {
    let said = format!("{} {} [{}]", request.method(), request.target(), request.text());
    let body = if request.method() == "HEAD" { "" } else { &said };
    Say::bytes(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", said.len()))
}

/// A gateway whose second listener knows HTTP/2. `/moved/*` is a route on which tokens may stand in the query.
async fn before(origin: &Recorder, lines: &str) -> (Gateway, SocketAddr) {
    let gateway = GatewayBuilder::new(&origin.url())
        .origin(lines)
        .raw("[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true")
        .route("/moved/*", "token_query = true")
        .route("/follow/*", "cache = \"origin\"")
        .route("/*", "")
        .start()
        .await;
    let to = gateway.listeners(2).await[1];
    (gateway, to)
}

/// Uploads by HTTP/2 in every way that a stream ends, with requests of others between them. Everyone gets the answer to
/// what was asked, and the origin sees those requests and nothing else.
async fn ends_once(origin: &Recorder, lines: &str) {
    let (mut gateway, to) = before(origin, lines).await;
    let mut h2 = connect(to).await;
    let mut asked = 0;
    for method in ["POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS"] {
        for prefix in ["/x", "/moved", "/follow"] {
            for case in CASES {
                asked += 1;
                let path = format!("{prefix}/{asked}");
                let answer = upload(&mut h2, method, &path, case).await;
                let wanted = |body: &str| (200, format!("{method} {path} [{body}]"));
                assert_eq!(answer, wanted(&case.0.concat()), "{method} {path} {case:?}");
                // By the same connections to the origin.
                let other = gateway.get(&format!("/other/{asked}")).await;
                assert_eq!(other.text(), format!("GET /other/{asked} []"), "behind {method} {path} {case:?}");
            }
        }
    }
    let record = origin.settled().await;
    assert_eq!(record.illegal, Vec::<String>::new());
    assert_eq!(record.cut_off, Vec::<Vec<u8>>::new());
    assert_eq!(record.requests.len(), 2 * asked, "nothing but what was asked for");
    let text = record.requests.iter().map(|request| format!("{request:?}")).collect::<String>();
    assert!(!text.contains("x-sum") && !text.contains("b.example"), "trailers went on");
    gateway.assert_sound().await;
}

#[tokio::test]
async fn a_stream_ends_once_at_an_origin() {
    ends_once(&Recorder::start(told).await, "").await;
}

#[tokio::test]
async fn a_stream_ends_once_at_an_origin_with_tls() {
    let authority = Authority::new();
    let tls = Some(authority.accept(&["127.0.0.1"], false, false));
    let origin = Recorder::start_as(Spoken { tls, ..Spoken::default() }, told).await;
    let ca = authority.toml("ca.pem");
    ends_once(&origin, &format!("tls = {{ ca = {ca} }}")).await;
    // HTTP/2 is offered, and the server has none.
    ends_once(&origin, &format!("http2 = true\ntls = {{ ca = {ca} }}")).await;
}

#[tokio::test]
async fn a_stream_ends_once_at_a_socket_of_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let unix = Some(dir.path().join("app.sock"));
    ends_once(&Recorder::start_as(Spoken { unix, ..Spoken::default() }, told).await, "").await;
}

/// The body is sent again, to its end: as often as it has to be, and once each time.
#[tokio::test]
async fn a_body_that_is_sent_again_ends_once_as_well() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let origin = Recorder::start(|request: &Message| match request.method() {
        // The first of two gets no answer.
        "PUT" if ASKED.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) => Say::bytes("").closing(),
        _ => told(request),
    })
    .await;
    let (gateway, to) = before(&origin, "retries = 5").await;
    let mut h2 = connect(to).await;
    for (n, case) in CASES.into_iter().enumerate() {
        for prefix in ["/x", "/moved"] {
            let path = format!("{prefix}/{n}");
            let answer = upload(&mut h2, "PUT", &path, case).await;
            assert_eq!(answer, (200, format!("PUT {path} [{}]", case.0.concat())), "{case:?}");
            // They earn what the next retry costs.
            for _ in 0..5 {
                gateway.get("/other").await.ok();
            }
        }
    }
    let record = origin.settled().await;
    assert_eq!((record.illegal, record.cut_off), (Vec::new(), Vec::new()));
    let count = |method: &str| record.requests.iter().filter(|request| request.method() == method).count();
    assert_eq!((count("PUT"), count("GET")), (4 * CASES.len(), 10 * CASES.len()));
}
