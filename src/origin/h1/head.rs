//! Parses the head of an HTTP/1.1 answer (RFC 9112): its fields, the framing of its body, and keep-alive.
//!
//! Pure. Accepts and refuses the same heads as Pingora, so that it makes no difference which of the two has
//! sent the request: folded fields and whitespace before a colon are repaired (5.1, 5.2), an answer with
//! differing lengths is refused, and a length beside a transfer coding is dropped (6.3). `http::framing`
//! checks codings other than `chunked`.

use crate::http::{
    framing::content_length::{agreed_length, LengthFault},
    framing::has_body::response_has_body,
    hop_by_hop::has_connection_option,
};

use bytes::{Bytes, BytesMut};
use http::{header, HeaderMap, HeaderName, Method, StatusCode, Version};
use pingora_http::{header_value_from_raw, ResponseHeader};
use std::mem::MaybeUninit;

/// The most fields of a head.
const MOST_FIELDS: usize = 256;
/// The most bytes of a head.
const MAX_HEAD_BYTES: usize = 1 << 20;

/// The head of an answer.
#[derive(Debug)]
pub(super) struct OriginHead {
    pub(super) head: ResponseHeader,
    pub(super) end: BodyFraming,
    /// True if the connection may be reused after the body.
    pub(super) keeps: bool,
}

/// The end of a body (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyFraming {
    /// After this number of bytes.
    Length(u64),
    /// With the last chunk.
    Chunks,
    /// With the connection.
    Connection,
}

/// The error for bytes that are not an HTTP/1.1 answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MalformedHead {
    /// The head can't be parsed.
    #[error("the head is malformed: {0}")]
    Head(#[from] httparse::Error),
    /// The head is too large.
    #[error("the head is too large")]
    TooLarge,
    /// A part of the head is not valid.
    #[error("a head with {0}")]
    With(&'static str),
    /// The length of the body is not valid.
    #[error("a head with {0}")]
    Length(#[from] LengthFault),
}

/// Parses the head at the beginning of `input`, of an answer to a request with this method. Bytes behind it
/// are left there. `None`: more bytes are needed.
///
/// # Errors
/// If it is malformed.
pub(super) fn take_head(input: &mut Bytes, method: &Method) -> Result<Option<OriginHead>, MalformedHead> {
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut answer = httparse::Response::new(&mut []);
    let mut parser = httparse::ParserConfig::default();
    parser.allow_spaces_after_header_name_in_responses(true);
    parser.allow_obsolete_multiline_headers_in_responses(true);
    let length = match parser.parse_response_with_uninit_headers(&mut answer, input, &mut fields)? {
        httparse::Status::Complete(length) if length <= MAX_HEAD_BYTES => length,
        httparse::Status::Complete(_) => return Err(MalformedHead::TooLarge),
        httparse::Status::Partial if input.len() > MAX_HEAD_BYTES => return Err(MalformedHead::TooLarge),
        httparse::Status::Partial => return Ok(None),
    };
    let (Some(code), Some(minor)) = (answer.code, answer.version) else {
        return Err(MalformedHead::With("no status"));
    };
    let status = StatusCode::from_u16(code).map_err(|_| MalformedHead::With("an invalid status"))?;
    let mut parts = http::Response::new(()).into_parts().0;
    (parts.status, parts.version) = (status, if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 });
    parts.headers = HeaderMap::with_capacity(answer.headers.len() + SPARE);
    for field in &*answer.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let name = name.map_err(|_| MalformedHead::With("an invalid field name"))?;
        let value = header_value_from_raw(input.slice_ref(field.value));
        parts.headers.try_append(name, value).map_err(|_| MalformedHead::With("too many fields"))?;
    }
    let mut head = ResponseHeader::from(parts);
    let reason = answer.reason.filter(|reason| Some(*reason) != status.canonical_reason());
    if reason.is_some() {
        head.set_reason_phrase(reason).map_err(|_| MalformedHead::With("an invalid reason phrase"))?;
    }
    let end = body_framing(&mut head, method)?;
    let keeps = end != BodyFraming::Connection && keeps_alive(&head);
    drop(input.split_to(length));
    Ok(Some(OriginHead { head, end, keeps }))
}

/// The capacity for fields that the gateway adds.
const SPARE: usize = 6;

/// Makes `input` a buffer that more can be read into, behind its bytes.
pub(super) fn reopen(input: Bytes) -> BytesMut {
    input.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]))
}

fn body_framing(head: &mut ResponseHeader, method: &Method) -> Result<BodyFraming, MalformedHead> {
    let codings = head.headers.get_all(header::TRANSFER_ENCODING).iter().next_back();
    let coding = codings.map(|last| {
        let last = last.as_bytes().rsplit(|b| *b == b',').next().unwrap_or_default();
        last.trim_ascii().eq_ignore_ascii_case(b"chunked")
    });
    let length = match coding {
        Some(_) => {
            head.remove_header(&header::CONTENT_LENGTH);
            None
        }
        None => agreed_length(&head.headers)?,
    };
    Ok(match (response_has_body(method, head.status), coding, length) {
        (false, ..) => BodyFraming::Length(0),
        (true, Some(true), _) => BodyFraming::Chunks,
        (true, None, Some(length)) => BodyFraming::Length(length),
        (true, ..) => BodyFraming::Connection,
    })
}

/// Returns true if the server keeps the connection open (RFC 9112, 9.3).
fn keeps_alive(head: &ResponseHeader) -> bool {
    let says = |option| has_connection_option(&head.headers, option);
    match head.version {
        // HTTP/1.0 has no chunks.
        Version::HTTP_10 => {
            !head.headers.contains_key(header::TRANSFER_ENCODING) && says("keep-alive") && !says("close")
        }
        _ => !says("close"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Option<OriginHead>, MalformedHead> {
        take_head(&mut Bytes::copy_from_slice(text.as_bytes()), &Method::GET)
    }

    fn end(fields: &str) -> Option<(BodyFraming, bool)> {
        let head = read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).ok()??;
        Some((head.end, head.keeps))
    }

    #[test]
    fn where_a_body_ends() {
        let (te, cl) = ("Transfer-Encoding: ", "Content-Length: ");
        assert_eq!(end(""), Some((BodyFraming::Connection, false)));
        assert_eq!(end(&format!("{cl}5\r\n")), Some((BodyFraming::Length(5), true)));
        assert_eq!(end(&format!("{cl}5, 5\r\n{cl}5\r\n")), Some((BodyFraming::Length(5), true)));
        assert_eq!(end(&format!("{te}chunked\r\n{cl}5\r\n")), Some((BodyFraming::Chunks, true)));
        assert_eq!(end(&format!("{te}gzip\r\n{te}x, Chunked\r\n")), Some((BodyFraming::Chunks, true)));
        assert_eq!(end(&format!("{te}gzip\r\n{cl}5\r\n")), Some((BodyFraming::Connection, false)));
        assert_eq!(end(&format!("{te}chunked,\r\n")), Some((BodyFraming::Connection, false)));
        for wrong in ["+5", "-5", "", "5,6", "5;", "5.0", "18446744073709551616"] {
            assert_eq!(end(&format!("{cl}{wrong}\r\n")), None, "{wrong:?}");
        }
        for bodiless in ["204 X", "304 X", "103 X"] {
            let head = read(&format!("HTTP/1.1 {bodiless}\r\n{cl}5\r\n\r\n")).unwrap().unwrap();
            assert_eq!(head.end, BodyFraming::Length(0), "{bodiless}");
        }
        let mut input = Bytes::from_static(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nrest");
        assert_eq!(take_head(&mut input, &Method::HEAD).unwrap().unwrap().end, BodyFraming::Length(0));
        assert_eq!(&input[..], b"rest");
    }

    #[test]
    fn who_goes_on() {
        let of = |version: &str, fields: &str| {
            read(&format!("HTTP/{version} 200 OK\r\nContent-Length: 0\r\n{fields}\r\n"))
                .unwrap()
                .unwrap()
                .keeps
        };
        assert!(of("1.1", ""));
        assert!(of("1.1", "Connection: keep-alive\r\n"));
        assert!(!of("1.1", "Connection: x, Close\r\n"));
        assert!(!of("1.1", "Connection: keep-alive\r\nConnection: close\r\n"));
        assert!(!of("1.0", ""));
        assert!(of("1.0", "Connection: Keep-Alive\r\n"));
        assert!(!of("1.0", "Connection: Keep-Alive\r\nTransfer-Encoding: chunked\r\n"));
    }

    #[test]
    fn a_head_may_come_in_pieces_and_is_mended() {
        let whole = "HTTP/1.1 404 Gone Fishing\r\nX : a\r\n b\r\nContent-Length: 0\r\n\r\n";
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut]).unwrap().is_none(), "{cut}");
        }
        let head = read(whole).unwrap().unwrap().head;
        assert_eq!((head.status.as_u16(), head.get_reason_phrase()), (404, Some("Gone Fishing")));
        assert_eq!(head.headers["x"], "a b");
        for end in ["", "\r\n\r\n"] {
            assert!(read(&format!("HTTP/1.1 200 OK\r\nX: {}{end}", "y".repeat(MAX_HEAD_BYTES))).is_err());
        }
        assert!(read(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(300))).is_err());
    }

    proptest! {
        /// For arbitrary input: no panic, and the rest is the end of the input.
        #[test]
        fn anything_may_come(noise in proptest::collection::vec(any::<u8>(), 0..200), head: bool) {
            let start: &[u8] = if head { b"HTTP/1.1 200 OK\r\n" } else { b"" };
            let all = [start, &noise].concat();
            let mut input = Bytes::from(all.clone());
            let before = input.len();
            if let Ok(read) = take_head(&mut input, &Method::GET) {
                prop_assert!(all.ends_with(&input));
                prop_assert_eq!(read.is_some(), input.len() < before);
            }
        }

        /// Wherever a head is cut, the rest completes it.
        #[test]
        fn fields_are_read_as_they_were_written(
            fields in proptest::collection::vec(("x-[a-z]{1,8}", "[!-~]([ -~]{0,20}[!-~])?"), 0..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut text = String::from("HTTP/1.1 200 OK\r\n");
            fields.iter().for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
            text += "\r\nbody";
            let cut = cut.index(text.len() - "\r\nbody".len());
            let mut first = Bytes::copy_from_slice(&text.as_bytes()[..cut]);
            prop_assert!(take_head(&mut first, &Method::GET).unwrap().is_none());
            let mut all = reopen(first);
            all.extend_from_slice(&text.as_bytes()[cut..]);
            let mut all = all.freeze();
            let head = take_head(&mut all, &Method::GET).unwrap().unwrap().head;
            prop_assert_eq!(&all[..], b"body");
            let mut want: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
            let mut got: Vec<_> = head.headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
            want.sort();
            got.sort();
            prop_assert_eq!(want, got);
        }
    }
}
