//! Strict requests: HTTP/2 refuses the requests that HTTP/1.1 refuses, a stream at a time.

use super::{wire::*, *};

const PROTOCOL_ERROR: u32 = 1;

/// The expected outcome of a request.
enum Fate {
    /// The gateway answers.
    Status(u16),
    /// The library resets the stream.
    Reset,
}

/// Method, path, fields.
type Case<'c> = (&'c str, &'c [u8], &'c [(&'c str, &'c [u8])], Fate);

#[tokio::test]
async fn what_http1_refuses_is_refused_and_the_connection_goes_on() {
    use Fate::{Reset, Status};
    let mut stage = Stage::set("").await;
    let long = "M".repeat(33);
    let body = b"hello";
    let cases: Vec<Case<'_>> = vec![
        ("POST", b"/x", &[("content-length", b"5"), ("content-length", b"5")], Status(400)),
        ("POST", b"/x", &[("content-length", b"5"), ("content-length", b"6")], Reset),
        ("POST", b"/x", &[("content-length", b"5, 5")], Reset),
        ("POST", b"/x", &[("content-length", b"+5")], Reset),
        ("POST", b"/x", &[("content_length", b"5")], Status(400)),
        ("POST", b"/x", &[("transfer_encoding", b"chunked")], Status(400)),
        ("POST", b"/x", &[("transfer-encoding", b"chunked")], Reset),
        ("POST", b"/x", &[("connection", b"close")], Reset),
        ("POST", b"/x", &[("x", b" y")], Status(400)),
        ("POST", b"/x", &[("x", b"y ")], Status(400)),
        ("POST", b"/x", &[("x", b"\ty")], Status(400)),
        ("POST", b"/x", &[("cookie", b"a=1 ")], Status(400)),
        ("POST", b"/x", &[("host", b"b")], Status(400)),
        ("POST", b"/x", &[("host", b"a"), ("host", b"a")], Status(400)),
        ("POST", "/\u{e9}".as_bytes(), &[], Status(400)),
        ("POST", b"/x?\xc3\xa9", &[], Status(400)),
        ("POST", b"http://a/x", &[], Reset),
        ("POST", b"*", &[], Status(400)),
        (&long, b"/x", &[], Status(501)),
        ("TRACE", b"/x", &[], Status(501)),
    ];
    for (method, path, fields, fate) in cases {
        let case = format!("{method} {} {fields:?}", String::from_utf8_lossy(path));
        let mut wire = Wire::connect(stage.prior).await;
        let head = frame(HEADERS, END_HEADERS, 1, &request(method, path, fields));
        wire.send(&[head, frame(DATA, END_STREAM, 1, body)].concat()).await;
        let outcome = wire.outcome(1).await;
        match fate {
            Status(status) => assert!(outcome.is(status), "{case}: {outcome:?}"),
            Reset => assert_eq!(outcome, Outcome::Reset(PROTOCOL_ERROR), "{case}"),
        }
        wire.send(&get(3, "/after")).await;
        assert!(wire.outcome(3).await.is(200), "{case}");
    }
    assert_eq!(stage.origin.count("/x"), 0);
    stage.gateway.assert_sound().await;
}

/// A connection that many clients share, a proxy's perhaps, does not end for what some of them send now and then.
#[tokio::test]
async fn malformed_requests_end_the_connection_only_where_nothing_else_comes() {
    let stage = Stage::set("").await;
    let bad = |stream: u32| {
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET", b"/x", &[("x", b" y")]))
    };
    let mut wire = Wire::connect(stage.prior).await;
    for round in 0..50 {
        wire.send(&[bad(4 * round + 1), get(4 * round + 3, "/fine")].concat()).await;
        assert!(matches!(wire.outcome(4 * round + 3).await, Outcome::Answered(_)), "{round}");
    }
    let mut flood = Wire::connect(stage.prior).await;
    let all: Vec<u8> = (0..500).flat_map(|n| bad(2 * n + 1)).collect();
    flood.try_send(&all).await;
    assert_eq!(flood.farewell().await, Some(ENHANCE_YOUR_CALM));
    assert_eq!(stage.origin.count("/x"), 0);
}

/// RFC 9110, 9.3.7: it is about the server.
#[tokio::test]
async fn options_of_the_server_are_the_gateways_own() {
    let stage = Stage::set("").await;
    let ask = |host: &str| format!("OPTIONS * HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let said = raw_exchange(stage.plain, ask("a").as_bytes()).await;
    assert_eq!(said.status, 204, "{said:?}");
    assert!(said.head.contains("allow: get, head, post, put, patch, delete, options"), "{said:?}");
    // The host is needed as elsewhere.
    assert_eq!(raw_exchange(stage.plain, ask("").as_bytes()).await.status, 400);
    let mut wire = Wire::connect(stage.prior).await;
    wire.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("OPTIONS", b"*", &[]))).await;
    // 204, by the static table.
    assert!(matches!(wire.outcome(1).await, Outcome::Answered(fields) if fields[0] == 0x89));
    assert!(stage.origin.counts().is_empty(), "{:?}", stage.origin.counts());
}

/// RFC 9110, 4.2.1: a URL of `http` without a host is not valid, however it is written.
#[tokio::test]
async fn an_empty_host_is_refused_by_every_version() {
    let stage = Stage::set("").await;
    for version in ["1.1", "1.0"] {
        let ask = format!("GET /x HTTP/{version}\r\nHost:\r\n\r\n");
        assert_eq!(raw_exchange(stage.plain, ask.as_bytes()).await.status, 400, "{version}");
    }
    for fields in [field(":authority", b""), field("host", b"")] {
        let mut wire = Wire::connect(stage.prior).await;
        let begin = [(":method", &b"GET"[..]), (":scheme", b"http"), (":path", b"/x")];
        let begin: Vec<u8> = begin.iter().flat_map(|(name, value)| field(name, value)).collect();
        let head = [begin, fields].concat();
        wire.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)).await;
        let outcome = wire.outcome(1).await;
        assert!(outcome.is(400) || outcome == Outcome::Reset(PROTOCOL_ERROR), "{outcome:?}");
    }
    assert_eq!(stage.origin.count("/x"), 0);
}

/// The origin gets one message whatever the frames were.
#[tokio::test]
async fn a_body_has_one_end() {
    let stage = Stage::set("").await;
    let post = |fields| frame(HEADERS, END_HEADERS, 1, &request("POST", b"/x", fields));
    for (fields, frames) in [
        (&[][..], vec![frame(DATA, 0, 1, b"hello"), frame(DATA, END_STREAM, 1, b"")]),
        (&[][..], vec![frame(DATA, 0, 1, b"hello"), frame(DATA, 0, 1, b""), frame(DATA, END_STREAM, 1, b"")]),
        (&[][..], vec![frame(DATA, END_STREAM, 1, b"hello")]),
        (
            &[("content-length", &b"5"[..])],
            vec![frame(DATA, 0, 1, b"hello"), frame(DATA, END_STREAM, 1, b"")],
        ),
        // Trailers end it as well.
        (
            &[][..],
            vec![
                frame(DATA, 0, 1, b"hello"),
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &field("x-sum", b"1")),
            ],
        ),
    ] {
        let mut wire = Wire::connect(stage.prior).await;
        wire.send(&post(fields)).await;
        for piece in &frames {
            // Each comes by itself.
            wire.send(&frame(PING, 0, 0, &[0; 8])).await;
            while wire.next().await.is_some_and(|frame| frame.kind != PING) {}
            wire.send(piece).await;
        }
        assert!(wire.outcome(1).await.is(200), "{frames:?}");
        let seen = stage.origin.seen("/x").pop().unwrap();
        assert_eq!(&seen.body[..], b"hello", "{frames:?}");
        // Whatever stood behind it would be read as the next request.
        wire.send(&get(3, "/next")).await;
        assert!(matches!(wire.outcome(3).await, Outcome::Answered(_)));
    }
    assert_eq!(stage.origin.count("/next"), 5);
    assert_eq!(stage.origin.counts().len(), 2, "{:?}", stage.origin.counts());
}

/// Neither a rule nor the origin sees a field of a request's trailers. The library keeps pseudo fields of trailers to
/// itself, and resets streams whose trailers have fields of an HTTP/1.1 connection.
#[tokio::test]
async fn no_trailer_changes_a_request() {
    let stage = Stage::set("").await;
    for (name, value, resets) in [
        ("x-sum", "1", false),
        (":path", "/other", false),
        (":authority", "b.example", false),
        ("host", "b.example", false),
        ("content-length", "1", false),
        ("authorization", "Basic eA==", false),
        ("x-forwarded-for", "1.2.3.4", false),
        ("transfer-encoding", "chunked", true),
        ("connection", "close", true),
        ("proxy-connection", "close", true),
    ] {
        let mut wire = Wire::connect(stage.prior).await;
        let post = frame(HEADERS, END_HEADERS, 1, &request("POST", b"/x", &[]));
        let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &field(name, value.as_bytes()));
        wire.send(&[post, frame(DATA, 0, 1, b"hello"), trailers].concat()).await;
        let outcome = wire.outcome(1).await;
        match resets {
            true => assert_eq!(outcome, Outcome::Reset(PROTOCOL_ERROR), "{name}"),
            false => {
                assert!(outcome.is(200), "{name}: {outcome:?}");
                let seen = stage.origin.seen("/x").pop().unwrap();
                assert_eq!(&seen.body[..], b"hello", "{name}");
                assert!(!format!("{:?}", seen.headers).contains(&format!("{value:?}")), "{name}");
            }
        }
        wire.send(&get(3, "/next")).await;
        assert!(matches!(wire.outcome(3).await, Outcome::Answered(_)), "{name}");
    }
    assert_eq!(stage.origin.count("/other"), 0);
}

/// RFC 7301: it has a name there like the others.
#[tokio::test]
async fn a_client_that_offers_nothing_but_http_1_0_is_served() {
    let stage = Stage::set("").await;
    let mut stream = stage.client.clone().alpn(&["http/1.0"]).connect(stage.tls, HOST).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.0"[..]));
    stream.write_all(format!("GET /x HTTP/1.0\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    let mut said = Vec::new();
    // Some end without a word of TLS.
    drop(timeout(SOON, stream.read_to_end(&mut said)).await.unwrap());
    assert!(said.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&said));
    // Whoever offers more gets the best of it.
    for (offered, taken) in [(&["http/1.0", "http/1.1"][..], "http/1.1"), (&["http/1.0", "h2"], "h2")] {
        let stream = stage.client.clone().alpn(offered).connect(stage.tls, HOST).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(taken.as_bytes()), "{offered:?}");
    }
}
