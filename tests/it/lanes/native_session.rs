//! Two sessions, one answer: the native session writes the same bytes as Pingora's.
//!
//! Each request goes twice to an origin that always answers the same: as it is, for the native session, and with a
//! second `Connection: keep-alive`, which has no meaning, but is left to Pingora. A request for nothing follows each at
//! once: if the connection stays open after the one answer, it has to stay open after the other.

use crate::support::{exchange::Reply, *};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const ASIDE: &str = "Connection: keep-alive\r\nConnection: keep-alive\r\n";
/// The last answer of a connection that goes on.
const NOTHING: &str = "GET /nowhere HTTP/1.1\r\nHost: a\r\nX-Request-Id: last\r\n\r\n";

/// The answers of a connection: heads with their bodies, and the rest where it broke off.
#[derive(Debug, PartialEq, Eq)]
struct Came {
    answers: Vec<(String, String)>,
    goes_on: bool,
}

/// Sends a request, and one for nothing behind it.
async fn exchange(to: SocketAddr, method: &str, path: &str, fields: &str) -> Came {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nX-Request-Id: it\r\n{fields}\r\n{NOTHING}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let whole = async {
        let mut piece = [0; 16 * 1024];
        loop {
            let came = Came::of(&bytes, method == "HEAD");
            if came.goes_on {
                return came;
            }
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => return came,
                Ok(n) => bytes.extend_from_slice(&piece[..n]),
            }
        }
    };
    tokio::time::timeout(SOON, whole).await.unwrap_or_else(|_| panic!("{method} {path}: no end"))
}

impl Came {
    fn of(mut bytes: &[u8], is_head: bool) -> Self {
        let mut came = Self { answers: Vec::new(), goes_on: false };
        while let Some(at) = find(bytes, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
            bytes = &bytes[at + 4..];
            let reply = Reply { head, body: Vec::new(), last: false };
            let is_last = reply.line("x-request-id") == "last";
            let bodiless = matches!(reply.status(), 100..=199 | 204 | 304);
            let value = |name| reply.lines(name).into_iter().next();
            let body = match (value("transfer-encoding"), value("content-length")) {
                _ if bodiless || is_head && !is_last => Vec::new(),
                (Some(_), _) => take_chunks(&mut bytes),
                (None, Some(length)) => {
                    let (body, rest) = bytes.split_at(length.parse::<usize>().unwrap().min(bytes.len()));
                    bytes = rest;
                    body.to_vec()
                }
                (None, None) => std::mem::take(&mut bytes).to_vec(),
            };
            came.answers.push((masked(&reply.head), format!("{} {:x?}", body.len(), sum(&body))));
            came.goes_on = is_last;
        }
        came
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Where chunks were cut is nobody's affair. A body that has no end says so.
fn take_chunks(bytes: &mut &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(at) = find(bytes, b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..at]).unwrap(), 16).unwrap();
        if bytes.len() < at + 2 + size + 2 {
            break;
        }
        body.extend_from_slice(&bytes[at + 2..at + 2 + size]);
        *bytes = &bytes[at + 2 + size + 2..];
        if size == 0 {
            return body;
        }
    }
    body.extend_from_slice(b" broken off");
    *bytes = &[];
    body
}

fn sum(body: &[u8]) -> u64 {
    body.iter().fold(7, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
}

/// Without what differs from one moment to the next, and in one order: that of different fields says nothing.
fn masked(head: &str) -> String {
    const NOW: &str = " 20";
    let line = |line: &str| match line.split_once(": ") {
        Some(("Date", date)) if date.contains(NOW) => "Date: now".to_owned(),
        Some(("Age", _)) => "Age: …".to_owned(),
        _ => line.to_owned(),
    };
    let mut lines: Vec<String> = head.split("\r\n").map(line).collect();
    lines[1..].sort_by_key(|line| line.split(':').next().map(str::to_ascii_lowercase));
    lines.join("\n")
}

fn compressible() -> String {
    "many words, many words; ".repeat(200)
}

/// An answer of an origin, and whether the origin closes the connection behind it.
fn answers() -> Vec<(&'static str, String, bool)> {
    let text = compressible();
    let large = "x".repeat(300_000);
    let length = |fields: &str, body: &str| {
        format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let chunk = |body: &str| format!("{:x}\r\n{body}\r\n", body.len());
    let chunks = |fields: &str, pieces: &[&str]| {
        let pieces: String = pieces.iter().map(|piece| chunk(piece)).collect();
        format!("HTTP/1.1 200 OK\r\n{fields}Transfer-Encoding: chunked\r\n\r\n{pieces}0\r\n\r\n")
    };
    let kind = "Content-Type: text/html\r\n";
    let old = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    vec![
        ("a length", length(kind, "hello"), false),
        ("nothing", length("", ""), false),
        ("its own date", length(old, "hello"), false),
        ("a date that is none", length("Date: tomorrow\r\n", "hello"), false),
        ("two dates", length(&format!("{old}{old}"), "hello"), false),
        (
            "many fields",
            length("X-A: 1\r\nx-b: 2\r\nX-A: 3\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\nX-E:\r\n", "hi"),
            false,
        ),
        (
            "a connection's fields",
            length(
                "Connection: keep-alive, X-A\r\nX-A: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\n",
                "hi",
            ),
            false,
        ),
        ("a large body", length("", &large), false),
        ("chunks", chunks(kind, &["one", "two", "three"]), false),
        ("large chunks", chunks("", &[&large, "end"]), false),
        ("no chunks", chunks("", &[]), false),
        ("the end of the connection", format!("HTTP/1.1 200 OK\r\n{kind}\r\n{text}"), true),
        ("the end of an old connection", format!("HTTP/1.0 200 OK\r\n{kind}\r\nold"), true),
        (
            "an old version",
            "HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nold".to_owned(),
            false,
        ),
        ("text", length(kind, &text), false),
        ("text in chunks", chunks(kind, &[&text, &text]), false),
        ("no content", "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n".to_owned(), false),
        (
            "not modified",
            "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 7\r\n\r\n".to_owned(),
            false,
        ),
        ("a reason", "HTTP/1.1 404 Gone Fishing\r\nContent-Length: 2\r\n\r\nno".to_owned(), false),
        ("a status of nobody's", "HTTP/1.1 599 \r\nContent-Length: 2\r\n\r\nno".to_owned(), false),
        ("hints", format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{}", length(kind, "hi")), false),
        ("what can be kept", length("Cache-Control: max-age=60\r\nETag: \"a\"\r\n", "hello"), false),
        ("text that can be kept", length(&format!("Cache-Control: max-age=60\r\n{kind}"), &text), false),
        ("less than its length", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort".to_owned(), true),
        (
            "chunks without an end",
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}", chunk("one")),
            true,
        ),
        ("no answer", "no".to_owned(), true),
        ("an upgrade", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".to_owned(), false),
        (
            "lengths that differ",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nno".to_owned(),
            false,
        ),
        (
            "an order",
            "HTTP/1.1 200 OK\r\nX-Accel-Redirect: /nowhere\r\nContent-Length: 0\r\n\r\n".to_owned(),
            false,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sessions_write_the_same() {
    let mut written = 0;
    for (what, answer, closes) in answers() {
        let origin = match closes {
            true => RawOrigin::start_closing(answer, "").await,
            false => RawOrigin::start(answer, "").await,
        };
        origin.release();
        let gateway = GatewayBuilder::new(&origin.url())
            .origin("retries = 0")
            .route("/p/*", "cache = \"off\"\n")
            .route("/f/*", "cache = \"origin\"\n")
            .route("/v/*", "cache = { namespace = \"kpi\", ttl = \"1m\" }\n")
            .start()
            .await;
        for (method, kind, fields) in ["GET", "HEAD"].into_iter().flat_map(|method| {
            ["p", "f", "v"]
                .into_iter()
                .flat_map(move |kind| ["", "Accept-Encoding: gzip\r\n"].map(|f| (method, kind, f)))
        }) {
            let asked = |way: &str, more: &str| {
                let (path, fields) =
                    (format!("/{kind}/{method}/{way}/{}", fields.len()), format!("{fields}{more}"));
                let to = gateway.address();
                async move { exchange(to, method, &path, &fields).await }
            };
            let (own, pingoras) = (asked("own", "").await, asked("aside", ASIDE).await);
            assert_eq!(own, pingoras, "{what}: {method} of {kind} with {fields:?}");
            written += own.answers.len();
        }
    }
    assert!(written > 300, "{written}");
}
