use super::*;
use proptest::prelude::*;

/// The number of bytes that pass, and the status if not all do.
fn pass(bytes: &[u8]) -> (usize, Option<u16>) {
    let mut wire = StrictReader::default();
    let passed = wire.pass(bytes);
    (passed, wire.refused().map(|status| status.as_u16()))
}

#[track_caller]
fn passes(text: &str) {
    assert_eq!(pass(text.as_bytes()), (text.len(), None), "{text:?}");
}

#[track_caller]
fn refused(text: &str, status: u16) {
    assert_eq!(pass(text.as_bytes()).1, Some(status), "{text:?}");
}

fn head(fields: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

fn chunks(body: &str) -> String {
    head("Transfer-Encoding: chunked\r\n") + body
}

#[test]
fn request_lines() {
    let with = |line: &str| format!("{line}\r\nHost: a\r\n\r\n");
    for line in [
        "GET / HTTP/1.1",
        "GET /a?b=%20|{}\"<> HTTP/1.0",
        "\r\nGET / HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET http://a/x HTTP/1.1",
        "GET HTTPS://a/x HTTP/1.1",
        "CONNECT a:443 HTTP/1.1",
        "M-SEARCH /x HTTP/1.1",
        "get / HTTP/1.1",
    ] {
        passes(&with(line));
    }
    for line in [
        "GET /",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /\r HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET /a\tb HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "GET /é HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET * HTTP/1.1",
        "GET a HTTP/1.1",
        "GET ../admin HTTP/1.1",
        "GET ftp://a/ HTTP/1.1",
        "GET http:a HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1.1\r",
        "\r\n\r\nGET / HTTP/1.1",
        "\nGET / HTTP/1.1",
        "GET / HTTP/1.",
        "GET / XTTP/1.1",
    ] {
        refused(&with(line), 400);
    }
    for line in ["GET / HTTP/1.2", "GET / HTTP/2.0", "PRI * HTTP/2.0", "GET / HTTP/0.9"] {
        let wanted = if line.starts_with("PRI") { 400 } else { 505 };
        refused(&with(line), wanted);
    }
    refused(&with(&format!("{} / HTTP/1.1", "A".repeat(33))), 501);
    refused(&with(&format!("GET /{} HTTP/1.1", "a".repeat(MAX_HEAD_BYTES))), 414);
    refused("GET / HTTP/1.1\nHost: a\r\n\r\n", 400);
}

#[test]
fn lengths() {
    for fields in ["Content-Length: 0\r\n", "content-length:\t 0\t\r\n", "Content-Length: 00\r\n", "X: y\r\n"]
    {
        passes(&head(fields));
    }
    for value in
        ["", "+1", "-1", "0x1", "1 1", "1,1", "1, 1", "1.0", "one", "1e1", "９", "9999999999999999999"]
    {
        refused(&head(&format!("Content-Length: {value}\r\n")), 400);
    }
    refused(&head("Content-Length: 0\r\nContent-Length: 0\r\n"), 400);
    refused(&head("Content-Length: 0\r\ncontent-length: 1\r\n"), 400);
    refused(&head("Content_Length: 0\r\n"), 400);
    passes(&head("X-Content-Length: z\r\nContent-Lengthy: 1\r\n"));
    let body = "hello";
    passes(&(head("Content-Length: 5\r\n") + body + "GET / HTTP/1.1\r\n\r\n"));
    refused(&(head("Content-Length: 4\r\n") + body + " GET / HTTP/1.1\r\n\r\n"), 400);
}

#[test]
fn codings() {
    passes(&chunks("0\r\n\r\n"));
    passes(&(head("TRANSFER-ENCODING:CHUNKED\r\n") + "0\r\n\r\nGET / HTTP/1.1\r\n\r\n"));
    for value in [
        "xchunked",
        "chunked, identity",
        "identity, chunked",
        "chunked,",
        ",chunked",
        "\"chunked\"",
        "'chunked'",
        "chunked;q=1",
        "chunked chunked",
        "gzip, chunked",
        "gzip",
        "",
        "\u{b}chunked",
        "chunk",
        "chunked\u{a0}",
    ] {
        refused(&head(&format!("Transfer-Encoding: {value}\r\n")), 501);
    }
    for fields in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Transfer_Encoding: chunked\r\n",
    ] {
        refused(&head(fields), 400);
    }
    refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400);
}

#[test]
fn lines_of_heads() {
    for fields in ["X: y\n", ": y\r\n", "nonsense\r\n", "X: y\r\n z\r\n", " X: y\r\n", "\n"] {
        refused(&head(fields), 400);
    }
    passes(&head("X:\r\nY: \u{ff}\r\n"));
    refused(&head(&format!("X: {}\r\n", "a".repeat(MAX_HEAD_BYTES))), 431);
}

#[test]
fn sizes_of_chunks() {
    for body in [
        "5\r\nhello\r\n0\r\n\r\n",
        "005\r\nhello\r\n000\r\n\r\n",
        "5;a=b\r\nhello\r\n0;x\r\n\r\n",
        "5 ; a=\"b c\"\r\nhello\r\n0\r\n\r\n",
        "a\r\nhellohello\r\n0\r\n\r\n",
        "A\r\nhellohello\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n",
    ] {
        passes(&(chunks(body) + "GET / HTTP/1.1\r\n\r\n"));
    }
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello\r\n\r\n",
        "\r\n\r\n",
        ";x\r\n\r\n",
        "-5\r\nhello\r\n",
        "+5\r\nhello\r\n",
        "0x5\r\nhello\r\n",
        "0X5\r\nhello\r\n",
        "5_0\r\nhello\r\n",
        " 5\r\nhello\r\n",
        "5 \r\nhello\r\n",
        "5\t\r\nhello\r\n",
        "5 a\r\nhello\r\n",
        "g\r\n",
        "5;a\n\r\nhello\r\n",
        "5;a\nb\r\nhello\r\n",
        "5;a\rb\r\nhello\r\n",
        "5;\0\r\nhello\r\n",
        "10000000000000000\r\nhello\r\n",
        "ffffffffffffffff\r\nhello\r\n",
        "0000000000000005\r\nhello\r\n",
        "0\r\nContent-Length: 5\r\n\r\n",
        "0\r\ntransfer_encoding: chunked\r\n\r\n",
        "0\r\nHost: b\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\n folded\r\n\r\n",
        "0\r\nX: \0\r\n\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\nGET / HTTP/1.1\r\n\r\n",
    ] {
        refused(&chunks(body), 400);
    }
    refused(&chunks(&format!("5;{}", "a".repeat(MAX_SIZE_LINE))), 400);
}

#[test]
fn a_websocket_frees_the_connection_once_it_is_granted() {
    let ask = head("Upgrade: WebSocket\r\n");
    let granted = |answers: &[&str]| {
        let mut wire = StrictReader::default();
        assert_eq!(wire.pass(ask.as_bytes()), ask.len());
        for answer in answers {
            if wire.awaits_answer(0) {
                wire.answer(answer.as_bytes());
            }
        }
        (wire.pass(b"\x81\x00\r\n"), wire.awaits_answer(0))
    };
    assert_eq!(granted(&["HTTP/1.1 101 Switching Protocols\r\n\r\n"]), (4, false));
    assert_eq!(granted(&["HTTP/1.1 103 Early Hints\r\n\r\n", "HTTP/1.1 101 X\r\n\r\n"]), (4, false));
    // Refused: the bytes are the next request.
    assert_eq!(granted(&["HTTP/1.1 403 Forbidden\r\n\r\n", "HTTP/1.1 101 as a body"]), (0, false));
    // Not answered yet.
    assert_eq!(granted(&[]), (0, true));
    // The answer to the request before doesn't matter.
    let mut wire = StrictReader::default();
    let both = head("") + &ask;
    assert_eq!(wire.pass(both.as_bytes()), both.len());
    assert_eq!((wire.awaits_answer(0), wire.awaits_answer(1)), (false, true));
    // Upgrades to other protocols are not forwarded, and HTTP/1.0 has none.
    passes(&(head("Upgrade: h2c\r\n") + "GET / HTTP/1.1\r\n\r\n"));
    passes("GET / HTTP/1.0\r\nUpgrade: websocket\r\n\r\nGET / HTTP/1.1\r\n\r\n");
}

#[test]
fn nothing_passes_after_a_refusal() {
    let mut wire = StrictReader::default();
    assert_eq!(wire.pass(b"GET / HTTP/1.1\r\nHost: a\nX: y"), 16);
    assert_eq!(wire.pass(b"GET / HTTP/1.1\r\n\r\n"), 0);
}

/// The parser accepts the poison nowhere: neither at the beginning of a line, nor within one.
#[test]
fn the_poison_is_no_http() {
    for begun in [
        "",
        "GET",
        "GET ",
        "GET /x",
        "GET / HTTP/1.1",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nX",
        "GET / HTTP/1.1\r\nX: y",
    ] {
        let mut fields = [httparse::EMPTY_HEADER; 4];
        let poisoned = [begun.as_bytes(), REJECTED_BYTES].concat();
        assert!(httparse::Request::new(&mut fields).parse(&poisoned).is_err(), "{begun:?}");
    }
    for begun in ["", "5", "5;x"] {
        assert!(
            httparse::parse_chunk_size(&[begun.as_bytes(), REJECTED_BYTES].concat()).is_err(),
            "{begun:?}"
        );
    }
}

proptest! {
    /// The verdict is the same however the bytes are cut; a part of a refused line may have passed.
    #[test]
    fn cuts_change_nothing(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("GET / HTTP/1.1\r\n"), Just("POST /x HTTP/1.1\r\n"), Just("Host: a\r\n"), Just("\r\n"), Just("\n"),
                Just("Content-Length: 3\r\n"), Just("Transfer-Encoding: chunked\r\n"), Just("abc"), Just("3\r\nabc\r\n"),
                Just("0\r\n\r\n"), Just("X: y\r\n"), Just("0\r\n"), Just(" "), Just("Upgrade: websocket\r\n"),
            ],
            0..12,
        ),
        cuts in proptest::collection::vec(1_usize..9, 1..20),
    ) {
        let bytes = pieces.concat().into_bytes();
        let (whole, status) = pass(&bytes);
        let mut wire = StrictReader::default();
        let (mut at, mut passed, mut cut) = (0, 0, cuts.iter().cycle());
        while at < bytes.len() {
            let end = bytes.len().min(at + cut.next().unwrap());
            passed += wire.pass(&bytes[at..end]);
            at = end;
        }
        prop_assert_eq!(wire.refused().map(|status| status.as_u16()), status);
        prop_assert!(passed >= whole);
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(pass(&bytes).0 <= bytes.len());
    }
}

#[test]
fn heads_have_a_size_and_a_number_of_fields() {
    let many = |n: usize| head(&"a: b\r\n".repeat(n));
    let before = many(0).len();
    refused(&many(MAX_FIELDS + 1), 431);
    let large = |n: usize| head(&format!("a: {}\r\n", "x".repeat(n)).repeat(2));
    refused(&large(MAX_HEAD_BYTES / 2), 431);
    passes(&large(MAX_HEAD_BYTES / 2 - before));
}
