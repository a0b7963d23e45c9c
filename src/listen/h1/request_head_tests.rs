use super::*;
use crate::listen::h1::strict_reader::StrictReader;

use proptest::{prelude::*, sample::select};

/// Parses bytes, with storage that is leaked (only in tests).
fn read(bytes: &[u8]) -> LaneHead<'_> {
    super::read_head(bytes, Box::leak(Box::new(field_room())))
}

fn whole(text: &str) -> Option<(FastRequest<'_>, usize)> {
    match read(text.as_bytes()) {
        LaneHead::Whole(asked, length) => Some((asked, length)),
        LaneHead::Part | LaneHead::Other => None,
    }
}

fn with(fields: &str) -> String {
    format!("GET /a?b=c HTTP/1.1\r\nHost: dash.example\r\n{fields}\r\n")
}

#[test]
fn what_browsers_and_clients_send_is_taken() {
    let text = with(
        "Connection: Keep-Alive\r\nUser-Agent: Mozilla/5.0 (X11)\r\nAccept: */*\r\nAccept-Encoding: gzip, br\r\n\
         Accept-Language: de\r\nCookie: a=b\r\nAuthorization: Bearer x.y.z\r\nIf-None-Match: \"t\"\r\n\
         Cache-Control: no-cache\r\nReferer: https://dash.example/\r\nSec-Fetch-Mode: cors\r\nX-Request-ID: abc\r\n\
         traceparent: 00-0-0-01\r\nOrigin: https://dash.example\r\nX-Forwarded-For: 192.0.2.1\r\n",
    );
    let (asked, length) = whole(&text).unwrap();
    assert_eq!(length, text.len());
    assert_eq!((asked.target, asked.path, asked.query, asked.host), ("/a?b=c", "/a", "b=c", "dash.example"));
    assert_eq!(asked.authorization, Some(&b"Bearer x.y.z"[..]));
    assert_eq!(asked.accept_encoding, Some(&b"gzip, br"[..]));
    assert_eq!((asked.if_none_match, asked.request_id), (Some(&b"\"t\""[..]), Some(&b"abc"[..])));
    assert!(asked.origin && asked.directives && asked.forwarded && !asked.is_head);
    let (asked, length) = whole("HEAD / HTTP/1.1\r\nhost:a\r\n\r\nGET /next").unwrap();
    assert!(asked.is_head && length == 27 && asked.host == "a");
}

#[test]
fn what_has_a_meaning_that_the_lane_does_not_know_is_left() {
    for fields in [
        "Connection: close\r\n",
        "Connection: keep-alive, Upgrade\r\n",
        "Connection: keep-alive\r\nConnection: keep-alive\r\n",
        "Upgrade: websocket\r\n",
        "Content-Length: 0\r\n",
        "Content_Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer_encoding: chunked\r\n",
        "Expect: 100-continue\r\n",
        "Range: bytes=0-1\r\n",
        "If-Range: \"t\"\r\n",
        "If-Match: *\r\n",
        "If-Unmodified-Since: x\r\n",
        "Host: dash.example\r\n",
        "Authorization: a\r\nAuthorization: a\r\n",
        "If-None-Match: \"a\"\r\nIf-None-Match: \"b\"\r\n",
        "Accept-Encoding: gzip\r\naccept-encoding: br\r\n",
        "X-Request-Id: a\r\nX-Request-Id: a\r\n",
        " folded: a\r\n",
        "a : b\r\n",
        "a: b\n",
    ] {
        assert!(whole(&with(fields)).is_none(), "{fields:?}");
    }
    for line in [
        "POST / HTTP/1.1",
        "GET / HTTP/1.0",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET * HTTP/1.1",
        "GET http://a/ HTTP/1.1",
        "GET //a HTTP/1.1",
        "GET /a/../b HTTP/1.1",
        "GET /a/.b HTTP/1.1",
        "GET /%2e HTTP/1.1",
        "GET /a\\b HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "get / HTTP/1.1",
        "\r\nGET / HTTP/1.1",
    ] {
        assert!(whole(&format!("{line}\r\nHost: a\r\n\r\n")).is_none(), "{line:?}");
        assert!(whole(&format!("GET /?{} HTTP/1.1\r\nHost: a\r\n\r\n", "a&".repeat(501))).is_none());
    }
    assert!(whole("GET / HTTP/1.1\r\nA: b\r\n\r\n").is_none(), "no host");
    assert!(whole("GET / HTTP/1.1\nHost: a\r\n\r\n").is_none());
    assert!(whole("GET / HTTP/1.1\r\nHost: a\n\r\n").is_none());
    assert!(whole("GET / HTTP/1.1\r\nHost: a\r\n\n").is_none());
}

#[test]
fn a_part_is_told_from_what_is_not_for_the_lane() {
    let text = with("A: b\r\n");
    for end in 0..text.len() {
        assert!(matches!(read(&text.as_bytes()[..end]), LaneHead::Part), "{end}");
    }
}

/// Fragments of well-formed and malformed requests.
fn any_request() -> impl Strategy<Value = String> {
    let methods = select(vec!["GET", "GET", "GET", "HEAD", "POST", "get", "GET ", "\r\nGET"]);
    let targets = select(vec![
        "/",
        "/a",
        "/a?b=%20&c[]=1",
        "/a/..",
        "/.",
        "//a",
        "*",
        "/a#",
        "/\"",
        "/a\tb",
        "http://a/",
        "/é",
        "",
    ]);
    let versions =
        select(vec!["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/1.1 ", " HTTP/1.1"]);
    let ends = || select(vec!["\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r\r\n", "\r"]);
    let names = select(vec![
        "Host",
        "host",
        "Accept",
        "Content-Length",
        "content_length",
        "Transfer-Encoding",
        "Connection",
        "Upgrade",
        "Cookie",
        "A b",
        "",
        " Folded",
        "X-\u{e9}",
        "If-None-Match",
        "Range",
        "Expect",
    ]);
    let values = select(vec![
        "a",
        "a:80",
        "",
        "0",
        "chunked",
        "close",
        "keep-alive",
        "websocket",
        "a\tb",
        "\u{e9}",
        "\0",
        "\r",
        "a\r b",
    ]);
    let colons = select(vec![": ", ":", ":\t", " : ", "", ":  "]);
    let field = (names, colons, values, ends()).prop_map(|(n, c, v, e)| format!("{n}{c}{v}{e}"));
    let fields = prop::collection::vec(field, 0..5);
    (methods, targets, versions, ends(), any::<bool>(), fields, ends(), ".{0,6}").prop_map(
        |(m, t, v, e, host, fields, end, rest)| {
            let host = if host { "Host: a\r\n" } else { "" };
            format!("{m} {t} {v}{e}{host}{}{end}{rest}", fields.concat())
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// A request that the lane accepts passes the strict reader as one message without a body, and Pingora's
    /// parser reads the same in it.
    #[test]
    fn what_is_taken_is_what_the_others_read(text in any_request()) {
        if let LaneHead::Whole(asked, length) = read(text.as_bytes()) {
            let mut wire = StrictReader::default();
            prop_assert_eq!(wire.pass(&text.as_bytes()[..length]), length);
            prop_assert!(wire.is_at_start() && wire.refused().is_none());
            let mut fields = [httparse::EMPTY_HEADER; 256];
            let mut request = Request::new(&mut fields);
            prop_assert_eq!(request.parse(text.as_bytes()), Ok(Status::Complete(length)));
            prop_assert_eq!(request.method, Some(if asked.is_head { "HEAD" } else { "GET" }));
            prop_assert_eq!((request.path, request.version), (Some(asked.target), Some(1)));
            let hosts: Vec<_> = request.headers.iter().filter(|f| f.name.eq_ignore_ascii_case("host")).collect();
            prop_assert_eq!(hosts.len(), 1);
            prop_assert_eq!(hosts[0].value, asked.host.as_bytes());
            let whole: http::Uri = asked.target.parse().unwrap();
            prop_assert_eq!((whole.path(), whole.query().unwrap_or_default()), (asked.path, asked.query));
            prop_assert_eq!(whole.path_and_query().unwrap().as_str(), asked.target);
        }
    }

    #[test]
    fn any_bytes_get_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read(&bytes);
    }

    #[test]
    fn any_text_behind_a_sound_line_gets_a_verdict(text in ".{0,200}") {
        read(format!("GET / HTTP/1.1\r\nHost: a\r\n{text}").as_bytes());
    }
}
