//! Checks that all parsers of a client's bytes agree, for arbitrary input. Not used while the gateway serves:
//! the fuzz targets (`fuzz/`) and its own tests call it.
//!
//! Three parsers read the same bytes: the prepared lane (`request_head.rs`), the strict reader
//! (`strict_reader.rs`), and httparse, which is Pingora's parser. If they disagreed on where a request ends,
//! one request could be hidden in another (RFC 9112, 11.2). The reference parser here is a fourth, as simple
//! as possible.

use super::{
    request_head::{self, field_room, LaneHead},
    strict_reader::StrictReader,
};
use http::{HeaderName, HeaderValue, Uri};
use httparse::{Header, Request, Status, EMPTY_HEADER};

/// The number of fields that Pingora's parser accepts.
const MAX_PARSED_FIELDS: usize = 256;
/// The most positions at which the bytes are cut.
const MAX_CUTS: usize = 64;

/// Parses a client's bytes with all parsers.
///
/// # Panics
/// If two of them disagree, or one of them depends on where the bytes are cut.
pub fn check_requests(bytes: &[u8]) {
    check_first_request(bytes);
    check_cuts(bytes);
    check_ends(bytes);
}

/// Checks the first request: if the prepared lane accepts it, its length and fields must be the same for the
/// others.
fn check_first_request(bytes: &[u8]) {
    let verdict = lane_verdict(bytes);
    for cut in cut_places(bytes) {
        let early = self::lane_verdict(&bytes[..cut]);
        let is_known = !matches!(early, LaneVerdict::Part);
        assert!(!is_known || early == verdict, "{early:?} of {cut} bytes, {verdict:?} of all");
        if let LaneVerdict::Whole(length) = verdict {
            assert_eq!(is_known, cut >= length, "a request of {length} bytes cut at {cut}");
        }
    }
    let LaneVerdict::Whole(length) = verdict else { return };
    let own = &bytes[..length];
    let mut wire = StrictReader::default();
    assert_eq!(wire.pass(own), length, "the strict reader refuses it with {:?}", wire.refused());
    assert!(wire.is_at_start() && !wire.asks(), "the strict reader waits for more");
    let mut room = field_room();
    let LaneHead::Whole(asked, _) = request_head::read_head(own, &mut room) else { return };
    let method = if asked.is_head { "HEAD" } else { "GET" };
    let (line, lines) = split_head(own);
    assert_eq!(line, format!("{method} {} HTTP/1.1", asked.target).as_bytes());
    let taken: Vec<_> = asked.fields.iter().map(|field| (field.name.as_bytes(), field.value)).collect();
    assert_eq!(taken, lines);
    let mut room = [EMPTY_HEADER; MAX_PARSED_FIELDS];
    let mut request = Request::new(&mut room);
    assert_eq!(request.parse(bytes), Ok(Status::Complete(length)));
    assert_eq!((request.method, request.path, request.version), (Some(method), Some(asked.target), Some(1)));
    assert_eq!(&*request.headers, asked.fields);
    let uri = asked.target.parse::<Uri>().unwrap_or_default();
    assert_eq!((uri.path(), uri.query().unwrap_or_default()), (asked.path, asked.query));
    for (name, value) in lines {
        assert!(HeaderName::from_bytes(name).is_ok() && HeaderValue::from_bytes(value).is_ok());
        assert!(!is_framing_field(name), "{:?} frames a message", name.escape_ascii().to_string());
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneVerdict {
    Whole(usize),
    Part,
    Other,
}

fn lane_verdict(bytes: &[u8]) -> LaneVerdict {
    match request_head::read_head(bytes, &mut field_room()) {
        LaneHead::Whole(_, length) => LaneVerdict::Whole(length),
        LaneHead::Part => LaneVerdict::Part,
        LaneHead::Other => LaneVerdict::Other,
    }
}

/// A field's name and its value.
type PlainField<'b> = (&'b [u8], &'b [u8]);

/// Splits a well-formed head into its first line and its fields.
fn split_head(head: &[u8]) -> (&[u8], Vec<PlainField<'_>>) {
    let mut lines = head.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.next().unwrap_or_default();
    let fields = lines.take_while(|line| !line.is_empty()).map(|line| {
        let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
        (&line[..colon], line.get(colon + 1..).unwrap_or_default().trim_ascii())
    });
    (first, fields.collect())
}

/// Returns true if some implementation could frame a message by a field of this name.
fn is_framing_field(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    matches!(
        &name.iter().map(|b| if *b == b'_' { b'-' } else { *b }).collect::<Vec<_>>()[..],
        b"content-length" | b"transfer-encoding"
    )
}

/// Checks that the strict reader's verdict is the same in one piece, in two pieces, and byte by byte.
fn check_cuts(bytes: &[u8]) {
    let verdict = |pieces: &[&[u8]]| {
        let mut wire = StrictReader::default();
        let passed: usize = pieces.iter().map(|piece| wire.pass(piece)).sum();
        let refused = wire.refused();
        assert!(passed <= bytes.len() && (refused.is_some() || passed == bytes.len()));
        assert!(refused.is_none() || wire.pass(bytes) == 0, "something passes after a refusal");
        (passed, (refused, wire.is_at_start(), wire.asks()))
    };
    let (passed, whole) = verdict(&[bytes]);
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    let cut = cut_places(bytes).map(|cut| verdict(&[&bytes[..cut], &bytes[cut..]]));
    for (more, same) in cut.chain(std::iter::once(verdict(&single))) {
        assert_eq!(same, whole);
        // A part of a refused line may have passed.
        assert!(more >= passed, "{more} bytes passed in pieces, {passed} in one");
    }
}

/// Checks that the strict reader and the parser find the same ends of messages, up to what the parser
/// refuses.
fn check_ends(bytes: &[u8]) {
    let (mut wire, mut ends, mut passed) = (StrictReader::default(), Vec::new(), 0);
    while passed < bytes.len() && !wire.asks() && wire.pass(&bytes[passed..=passed]) == 1 {
        passed += 1;
        if wire.is_at_start() {
            ends.push(passed);
        }
    }
    let (mut at, mut ends) = (0, ends.into_iter());
    // Both accept an empty line before a request, and neither accepts one without a request.
    loop {
        match parser_verdict(&bytes[at..passed]) {
            ParserVerdict::Message(length) => at += length,
            // The bytes behind the head are not parsed.
            ParserVerdict::WebSocket => return,
            ParserVerdict::Part => return assert_eq!(ends.next(), None, "the parser waits for more"),
            ParserVerdict::Refused => return,
        }
        assert_eq!(ends.next(), Some(at), "where the parser sees the end of a message");
    }
}

/// The result of Pingora's parser for the first message.
enum ParserVerdict {
    Message(usize),
    WebSocket,
    Part,
    Refused,
}

fn parser_verdict(bytes: &[u8]) -> ParserVerdict {
    let mut room = [EMPTY_HEADER; MAX_PARSED_FIELDS];
    let mut request = Request::new(&mut room);
    let head = match request.parse(bytes) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return ParserVerdict::Part,
        Err(_) => return ParserVerdict::Refused,
    };
    let first = |name: &str| request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
    let is_websocket = |field: &Header<'_>| {
        let mut words = field.value.split(|b| *b == b',');
        words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"websocket"))
    };
    let upgrades = |field: &&Header<'_>| field.name.eq_ignore_ascii_case("upgrade") && is_websocket(field);
    if request.version == Some(1) && request.headers.iter().any(|field| upgrades(&field)) {
        return ParserVerdict::WebSocket;
    }
    if first("transfer-encoding").is_some() {
        return parse_chunks(bytes, head);
    }
    let Some(length) = first("content-length") else { return ParserVerdict::Message(head) };
    let length = std::str::from_utf8(length.value).ok().and_then(|text| text.parse::<usize>().ok());
    match length.and_then(|length| length.checked_add(head)) {
        Some(end) if end <= bytes.len() => ParserVerdict::Message(end),
        Some(_) => ParserVerdict::Part,
        None => ParserVerdict::Refused,
    }
}

/// Parses chunks from `at` on with httparse.
fn parse_chunks(bytes: &[u8], mut at: usize) -> ParserVerdict {
    loop {
        let size = match httparse::parse_chunk_size(&bytes[at..]) {
            Ok(Status::Complete((line, size))) => {
                at += line;
                size
            }
            Ok(Status::Partial) => return ParserVerdict::Part,
            Err(_) => return ParserVerdict::Refused,
        };
        if size == 0 {
            break;
        }
        let Some(end) = usize::try_from(size).ok().and_then(|size| at.checked_add(size)) else {
            return ParserVerdict::Part;
        };
        match bytes.get(end..).unwrap_or_default() {
            [b'\r', b'\n', ..] => at = end + 2,
            [] | [b'\r'] => return ParserVerdict::Part,
            _ => return ParserVerdict::Refused,
        }
    }
    // The number of trailers is limited by bytes only: they are skipped line by line.
    loop {
        let Some(line) = bytes[at..].iter().position(|b| *b == b'\n') else { return ParserVerdict::Part };
        let is_last = bytes[at..at + line].trim_ascii().is_empty();
        at += line + 1;
        if is_last {
            return ParserVerdict::Message(at);
        }
    }
}

/// Positions all over the bytes at which they are cut.
fn cut_places(bytes: &[u8]) -> impl Iterator<Item = usize> {
    (0..bytes.len()).step_by(bytes.len() / MAX_CUTS + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prelude::*, sample::select};

    proptest! {
        #[test]
        fn the_readers_agree(
            pieces in prop::collection::vec(select(vec![
                "GET / HTTP/1.1\r\n", "HEAD /a?b=c HTTP/1.1\r\n", "POST /x HTTP/1.1\r\n", "GET / HTTP/1.0\r\n",
                "Host: a\r\n", "host:b \r\n", "\r\n", "\n", "\r", "Content-Length: 3\r\n", "Content_Length: 3\r\n",
                "Transfer-Encoding: chunked\r\n", "abc", "3\r\nabc\r\n", "0\r\n\r\n", "0\r\nX: y\r\n\r\n", "X: y\r\n",
                " ", ":", "\0", "\u{e9}", "Upgrade: websocket\r\n", "Connection: close\r\n",
            ]), 0..16),
        ) {
            check_requests(pieces.concat().as_bytes());
        }
    }
}
