//! No difference to a direct connection: the same conversations with a server, directly and through the gateway, have to
//! be the same to the byte, for the client and for the server. The cases are those of Autobahn's groups 1 to 7, 9 and
//! 10: lengths, pings, reserved bits, opcodes, fragments, UTF-8, close codes, sizes up to 16 MB.
//!
//! What is wrong in a case is for the server to find; the gateway looks at no frame.

use crate::support::{websocket::*, *};
use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

const MASK: Option<[u8; 4]> = Some([0x37, 0xfa, 0x21, 0x3d]);
const FIN: u8 = 0x80;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// The bytes that a client sends after the handshake: a name, and pieces that are written one by one.
struct Case {
    name: String,
    pieces: Vec<Vec<u8>>,
}

/// A conversation: what the client got, and what the server got.
#[derive(PartialEq, Eq)]
struct Transcript {
    client: Vec<u8>,
    server: Vec<u8>,
}

/// The bytes that each connection has received, by its path.
type Received = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// A connection whose received bytes are written down.
struct Recorded {
    stream: TcpStream,
    path: String,
    received: Received,
}

impl AsyncRead for Recorded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let new = &buf.filled()[before..];
        self.received.lock().unwrap().entry(self.path.clone()).or_default().extend_from_slice(new);
        polled
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Echoes messages, and then receives whatever else comes: a connection closed with unread bytes is reset, and what was
/// sent may be lost.
async fn echo_to_the_end(recorded: Recorded) {
    let mut socket = echo(recorded).await;
    let inner = socket.get_mut();
    drop(inner.shutdown().await);
    drop(tokio::io::copy(inner, &mut tokio::io::sink()).await);
}

/// Sends the pieces and receives at the same time, up to the end.
async fn converse(to: SocketAddr, path: &str, case: &Case) -> Vec<u8> {
    let (mut from, mut into) = opened(to, path).await.into_split();
    let sending = async {
        for piece in &case.pieces {
            // A server that has had enough may be gone.
            if into.write_all(piece).await.is_err() {
                break;
            }
        }
    };
    let mut got = Vec::new();
    let receiving = async { from.read_to_end(&mut got).await.is_ok() };
    let both = async { tokio::join!(sending, receiving) };
    let (_, clean) =
        tokio::time::timeout(2 * SOON, both).await.unwrap_or_else(|_| panic!("{}: hangs", case.name));
    assert!(clean, "{}: the connection broke", case.name);
    got
}

fn text(payload: &[u8]) -> Vec<u8> {
    frame(FIN | TEXT, payload, MASK)
}

fn bye() -> Vec<u8> {
    frame(FIN | CLOSE, &reason(1000, ""), MASK)
}

/// Bytes as they are written one by one.
fn octets(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.iter().map(|byte| vec![*byte]).collect()
}

/// The message in fragments of `size`.
fn fragments(opcode: u8, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
    let pieces: Vec<&[u8]> = payload.chunks(size.max(1)).collect();
    let last = pieces.len() - 1;
    let one = |(at, piece): (usize, &&[u8])| {
        let first = if at == 0 { opcode } else { 0 };
        frame(if at == last { first | FIN } else { first }, piece, MASK)
    };
    pieces.iter().enumerate().map(one).collect()
}

/// Group 1: lengths. 2: pings and pongs.
fn lengths_and_pings(add: &mut impl FnMut(&str, Vec<Vec<u8>>)) {
    for size in [0, 125, 126, 127, 128, 65_535, 65_536] {
        for (kind, opcode) in [("text", TEXT), ("binary", BINARY)] {
            add(&format!("1 {kind} of {size}"), vec![frame(FIN | opcode, &vec![b'*'; size], MASK), bye()]);
        }
    }
    let long = text(&[b'*'; 65_536]);
    add("1 text of 65536 in pieces", long.chunks(997).map(<[u8]>::to_vec).chain([bye()]).collect());
    // The length in a longer form than needed.
    let mut odd = vec![FIN | TEXT, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, b'x'];
    odd.extend(bye());
    add("1 a length in long form", vec![odd]);
    for size in [0, 5, 125, 126, 300] {
        add(&format!("2 ping of {size}"), vec![frame(FIN | PING, &vec![0xfe; size], MASK), bye()]);
        add(&format!("2 pong of {size}"), vec![frame(FIN | PONG, &vec![0xfe; size], MASK), bye()]);
    }
    let pings: Vec<u8> =
        (0..10).flat_map(|n| frame(FIN | PING, format!("payload-{n}").as_bytes(), MASK)).collect();
    add("2 ten pings", vec![pings.clone(), bye()]);
    add("2 ten pings octet by octet", octets(&[pings, bye()].concat()));
    add("2 ping in pieces", octets(&[frame(FIN | PING, &[0xfe; 125], MASK), bye()].concat()));
}

/// Group 3: reserved bits. 4: opcodes.
fn bits_and_opcodes(add: &mut impl FnMut(&str, Vec<Vec<u8>>)) {
    for bits in 1..8_u8 {
        let bad = frame(FIN | bits << 4 | TEXT, b"Hello", MASK);
        add(&format!("3 bits {bits} alone"), vec![bad.clone(), bye()]);
        let between = [text(b"first"), bad, frame(FIN | PING, b"", MASK)].concat();
        add(&format!("3 bits {bits} after a message"), vec![between.clone(), bye()]);
        add(&format!("3 bits {bits} octet by octet"), octets(&[between, bye()].concat()));
    }
    for opcode in (3..8).chain(11..16) {
        for payload in [&b""[..], b"reserved opcode payload"] {
            let bytes = [text(b"first"), frame(FIN | opcode, payload, MASK), text(b"last")].concat();
            add(&format!("4 opcode {opcode} with {}", payload.len()), vec![bytes.clone(), bye()]);
            add(&format!("4 opcode {opcode} with {} by octets", payload.len()), octets(&bytes));
        }
    }
}

/// Group 5: fragments.
fn fragmentation(add: &mut impl FnMut(&str, Vec<Vec<u8>>)) {
    let first = frame(TEXT, b"fragment1", MASK);
    let (more, last) = (frame(0, b"fragment2", MASK), frame(FIN, b"fragment3", MASK));
    let ping = frame(FIN | PING, b"ping in between", MASK);
    for (name, frames) in [
        ("ping in fragments", vec![frame(PING, b"a", MASK), frame(FIN, b"b", MASK)]),
        ("pong in fragments", vec![frame(PONG, b"a", MASK), frame(FIN, b"b", MASK)]),
        ("two fragments", vec![first.clone(), last.clone()]),
        ("three fragments", vec![first.clone(), more.clone(), last.clone()]),
        (
            "a ping between fragments",
            vec![first.clone(), ping.clone(), more.clone(), ping.clone(), last.clone()],
        ),
        ("a continuation of nothing", vec![last.clone(), text(b"Hello")]),
        ("an unfinished continuation of nothing", vec![more.clone(), text(b"Hello")]),
        ("a message inside a message", vec![first.clone(), text(b"inside")]),
        ("a new fragment inside a message", vec![first.clone(), frame(TEXT, b"inside", MASK), last.clone()]),
        ("empty fragments", vec![frame(TEXT, b"", MASK), frame(0, b"", MASK), frame(FIN, b"", MASK)]),
        ("a close inside a message", vec![first]),
    ] {
        add(&format!("5 {name}"), frames.iter().cloned().chain([bye()]).collect());
        add(&format!("5 {name}, at once"), vec![[frames.concat(), bye()].concat()]);
        add(&format!("5 {name}, octet by octet"), octets(&[frames.concat(), bye()].concat()));
    }
}

/// Group 6: UTF-8.
fn utf8(add: &mut impl FnMut(&str, Vec<Vec<u8>>)) {
    let valid: &[&[u8]] = &[
        b"",
        "Hello-µ@ßöäüàá-UTF-8!!".as_bytes(),
        "κόσμε".as_bytes(),
        b"\x00",
        b"\xc2\x80",
        b"\xe0\xa0\x80",
        b"\xf0\x90\x80\x80",
        b"\x7f",
        b"\xdf\xbf",
        b"\xef\xbf\xbf",
        b"\xf4\x8f\xbf\xbf",
        b"\xed\x9f\xbf",
        b"\xee\x80\x80",
        b"\xef\xbf\xbd",
        b"\xef\xbf\xbe",
        b"\xf0\x9f\xbf\xbe",
    ];
    let invalid: &[&[u8]] = &[
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited",
        b"\xf8\x88\x80\x80\x80",
        b"\xfc\x84\x80\x80\x80\x80",
        b"\xf7\xbf\xbf\xbf",
        b"\x80",
        b"\xbf",
        b"\x80\xbf\x80",
        b"\xc0\xc1",
        b"\xe2\x82",
        b"\xf0\x9f\x98",
        b"\xfe\xfe\xff\xff",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xed\xa0\x80\xed\xb0\x80",
    ];
    for (number, payload) in valid.iter().chain(invalid).enumerate() {
        add(&format!("6 text {number}"), vec![text(payload), bye()]);
        add(&format!("6 text {number} octet by octet"), octets(&[text(payload), bye()].concat()));
        if !payload.is_empty() {
            let split = fragments(TEXT, payload, 1);
            add(
                &format!("6 text {number} in fragments of one byte"),
                split.into_iter().chain([bye()]).collect(),
            );
        }
    }
}

/// Group 7: closing.
fn closing(add: &mut impl FnMut(&str, Vec<Vec<u8>>)) {
    let close = |payload: &[u8]| frame(FIN | CLOSE, payload, MASK);
    for (name, frames) in [
        ("a message, then close", vec![text(b"Hello"), bye()]),
        ("close twice", vec![bye(), bye()]),
        ("ping after close", vec![bye(), frame(FIN | PING, b"", MASK)]),
        ("text after close", vec![bye(), text(b"Hello")]),
        ("a fragment, close, a fragment", vec![frame(TEXT, b"a", MASK), bye(), frame(FIN, b"b", MASK)]),
        ("much, then close", vec![text(&[b'B'; 262_144]), bye(), frame(FIN | PING, b"", MASK)]),
        ("no payload", vec![close(b"")]),
        ("one byte", vec![close(b"a")]),
        ("a code", vec![close(&reason(1000, ""))]),
        ("a reason", vec![close(&reason(1000, "Hello World!"))]),
        ("a reason of 123 bytes", vec![close(&reason(1000, &"*".repeat(123)))]),
        ("a reason of 124 bytes", vec![close(&reason(1000, &"*".repeat(124)))]),
        (
            "a reason that is no text",
            vec![close(b"\x03\xe8\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80")],
        ),
        ("nothing but the end of a fragment", vec![frame(TEXT, b"a", MASK), close(b"")]),
    ] {
        add(&format!("7 {name}"), frames.clone());
        add(&format!("7 {name}, at once"), vec![frames.concat()]);
        if frames.concat().len() < 1000 {
            add(&format!("7 {name}, octet by octet"), octets(&frames.concat()));
        }
    }
    let valid = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
    let invalid = [0, 999, 1004, 1005, 1006, 1012, 1013, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 65_535];
    for code in valid.into_iter().chain(invalid) {
        add(&format!("7 code {code}"), vec![close(&reason(code, ""))]);
    }
}

/// Groups 9 and 10: sizes.
fn sizes(add: &mut impl FnMut(&str, Vec<Vec<u8>>)) {
    for size in [65_536, 262_144, 1 << 20, 4 << 20, 8 << 20, 16 << 20] {
        add(&format!("9 text of {size}"), vec![text(&vec![b'*'; size]), bye()]);
        add(&format!("9 binary of {size}"), vec![frame(FIN | BINARY, &noise(size, 5), MASK), bye()]);
    }
    let four = noise(4 << 20, 6);
    for size in [64, 256, 1024, 65_536, 1 << 20] {
        // At most 16,384 of them, as each is written by itself.
        let message = fragments(BINARY, &four[..four.len().min(size * 16_384)], size);
        add(&format!("9 in fragments of {size}"), message.into_iter().chain([bye()]).collect());
    }
    for size in [128, 1000, 65_536] {
        let message = frame(FIN | BINARY, &four[..1 << 20], MASK);
        add(
            &format!("9 in pieces of {size}"),
            message.chunks(size).map(<[u8]>::to_vec).chain([bye()]).collect(),
        );
    }
    for size in [0, 16, 64, 256, 1024, 2048, 4096] {
        let messages = frame(FIN | BINARY, &noise(size, 7), MASK).repeat(200);
        add(&format!("9 200 messages of {size}"), vec![messages, bye()]);
    }
    let fragmented = fragments(TEXT, &[b'*'; 65_536], 1300);
    add("10 fragments of 1300", fragmented.into_iter().chain([bye()]).collect());
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let mut add = |name: &str, pieces: Vec<Vec<u8>>| all.push(Case { name: name.to_owned(), pieces });
    lengths_and_pings(&mut add);
    bits_and_opcodes(&mut add);
    fragmentation(&mut add);
    utf8(&mut add);
    closing(&mut add);
    sizes(&mut add);
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_conversation_is_the_same_through_the_gateway() {
    let received = Received::default();
    let records = received.clone();
    let server = SocketServer::start(move |stream, head| {
        let path = head.split(' ').nth(1).unwrap().to_owned();
        echo_to_the_end(Recorded { stream, path, received: records.clone() })
    })
    .await;
    let mut gateway = through_to(server.address()).await;
    let mut differing = Vec::new();
    let cases = cases();
    for (number, case) in cases.iter().enumerate() {
        let mut transcripts = Vec::new();
        for (way, to) in [("direct", server.address()), ("gateway", gateway.address())] {
            let path = format!("/{number}/{way}");
            let client = converse(to, &path, case).await;
            // The client is gone now; the server knows it a moment later.
            let expected: usize = case.pieces.iter().map(Vec::len).sum();
            let of = |map: &HashMap<String, Vec<u8>>| map.get(&path).map_or(0, Vec::len);
            until(&case.name, SOON, || async { of(&received.lock().unwrap()) == expected }).await;
            let server = received.lock().unwrap().remove(&path).unwrap_or_default();
            transcripts.push(Transcript { client, server });
        }
        assert!(!transcripts[0].client.is_empty(), "{}: the server says nothing", case.name);
        if transcripts[0] != transcripts[1] {
            differing.push(case.name.as_str());
        }
    }
    println!("{} conversations, {} of them differ", cases.len(), differing.len());
    assert_eq!(differing, [""; 0], "of {} cases", cases.len());
    gateway.assert_sound().await;
}

/// The other way round: whatever a server sends, in whatever pieces, is what the client gets.
#[tokio::test]
async fn every_byte_of_a_server_arrives() {
    let cases: Vec<Case> = cases().into_iter().filter(|case| !case.name.starts_with('9')).collect();
    let scripts: Arc<Vec<Vec<Vec<u8>>>> = Arc::new(cases.iter().map(|case| case.pieces.clone()).collect());
    let playing = scripts.clone();
    let server = SocketServer::start(move |mut stream, head| {
        let number: usize = head.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
        let playing = playing.clone();
        async move {
            for piece in &playing[number] {
                stream.write_all(piece).await.unwrap();
            }
            drop(stream.shutdown().await);
            drop(stream.read_to_end(&mut Vec::new()).await);
        }
    })
    .await;
    let gateway = through_to(server.address()).await;
    for (number, script) in scripts.iter().enumerate() {
        let mut socket = opened(gateway.address(), &format!("/{number}")).await;
        assert!(to_the_end(&mut socket).await == script.concat(), "{}", cases[number].name);
    }
}
