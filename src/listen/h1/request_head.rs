//! The prepared lane's parser: recognises a request that the lane can answer at the beginning of the bytes.
//!
//! Pure. A request is accepted only if the strict reader (`strict_reader.rs`) would pass it, Pingora's parser
//! (the same one) would read the same, and nothing in it has a meaning that the lane doesn't implement. All
//! other bytes are left unchanged to Pingora: this is never a refusal of a request.

use crate::{gateway::FastRequest, http::canonical_path::CanonicalPath};
use http::{HeaderMap, Method, Uri};
use httparse::{Header, Request, Status};
use std::mem::MaybeUninit;

/// The most fields of a request that the lane accepts.
pub(crate) const MAX_LANE_FIELDS: usize = 64;
/// The longest query, in bytes: it can't have more parameters than any request may have.
const MAX_QUERY_BYTES: usize = 1_000;

/// The result of parsing.
#[derive(Debug)]
pub(crate) enum LaneHead<'b> {
    /// A request, and its length in bytes.
    Whole(FastRequest<'b>, usize),
    /// Possibly an incomplete request.
    Part,
    /// Bytes that Pingora has to read.
    Other,
}

/// Storage for the fields of a request.
pub(crate) type FieldRoom<'b> = [MaybeUninit<Header<'b>>; MAX_LANE_FIELDS];

/// Empty storage for fields.
pub(crate) const fn field_room<'b>() -> FieldRoom<'b> {
    [const { MaybeUninit::uninit() }; MAX_LANE_FIELDS]
}

/// Parses the first request.
pub(crate) fn read_head<'b>(bytes: &'b [u8], fields: &'b mut FieldRoom<'b>) -> LaneHead<'b> {
    let (is_head, target_at) = match bytes {
        [b'G', b'E', b'T', b' ', ..] => (false, 4),
        [b'H', b'E', b'A', b'D', b' ', ..] => (true, 5),
        _ if b"GET ".starts_with(bytes) || b"HEAD ".starts_with(bytes) => return LaneHead::Part,
        _ => return LaneHead::Other,
    };
    let mut request = Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, fields) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return LaneHead::Part,
        Err(_) => return LaneHead::Other,
    };
    let at = |text: &[u8]| (text.as_ptr() as usize).wrapping_sub(bytes.as_ptr() as usize);
    let target =
        request.path.filter(|target| request.version == Some(1) && at(target.as_bytes()) == target_at);
    let Some(mut asked) = target.and_then(request_for) else { return LaneHead::Other };
    asked.is_head = is_head;
    // The parser accepts lines without CR.
    let begins_a_line = |at: usize| at.checked_sub(2).and_then(|from| bytes.get(from..at)) == Some(b"\r\n");
    let ends = length.checked_sub(4).and_then(|from| bytes.get(from..length)) == Some(b"\r\n\r\n");
    if !ends || !request.headers.iter().all(|field| begins_a_line(at(field.name.as_bytes()))) {
        return LaneHead::Other;
    }
    asked.fields = request.headers;
    match note_fields(&mut asked, request.headers) {
        Some(()) => LaneHead::Whole(asked, length),
        None => LaneHead::Other,
    }
}

/// Converts an HTTP/2 request without a body. `None`: it is not for the lane. The host is in one place only.
pub(crate) fn from_http2<'b>(
    (method, uri, headers): (&Method, &'b Uri, &'b HeaderMap),
    fields: &'b mut [Header<'b>; MAX_LANE_FIELDS],
) -> Option<FastRequest<'b>> {
    let is_head = match *method {
        Method::GET => false,
        Method::HEAD => true,
        _ => return None,
    };
    let mut asked = request_for(uri.path_and_query()?.as_str())?;
    asked.is_head = is_head;
    let host = uri.authority()?.as_str();
    let named = headers.iter().map(|(name, value)| Header { name: name.as_str(), value: value.as_bytes() });
    let mut count = 0;
    for field in std::iter::once(Header { name: "host", value: host.as_bytes() }).chain(named) {
        *fields.get_mut(count)? = field;
        count += 1;
    }
    let fields: &'b [Header<'b>] = fields;
    let fields = &fields[..count];
    asked.fields = fields;
    note_fields(&mut asked, fields)?;
    Some(asked)
}

/// A request for this target, without fields.
fn request_for(target: &str) -> Option<FastRequest<'_>> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let is_plain = CanonicalPath::is_plain(path) && query.bytes().all(|b| QUERY_CHARACTERS[usize::from(b)]);
    (is_plain && query.len() <= MAX_QUERY_BYTES).then(|| FastRequest {
        target,
        path,
        query,
        ..FastRequest::default()
    })
}

/// Evaluates the fields. `None`: one of them is not for the lane, or there is no host.
fn note_fields<'b>(asked: &mut FastRequest<'b>, fields: &'b [Header<'b>]) -> Option<()> {
    let (mut host, mut connection) = (None, None);
    for Header { name, value } in fields {
        let (name, value) = (name.as_bytes(), *value);
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        match name.len() {
            4 if is(b"host") => set_once(&mut host, value)?,
            5 if is(b"range") => return None,
            6 if is(b"expect") => return None,
            6 if is(b"origin") => asked.origin = true,
            6 if is(b"pragma") => asked.directives = true,
            7 if is(b"upgrade") => return None,
            8 if is(b"if-match") || is(b"if-range") => return None,
            9 if is(b"forwarded") || is(b"x-real-ip") => asked.forwarded = true,
            10 if is(b"connection") => set_once(&mut connection, value)?,
            12 if is(b"x-request-id") => set_once(&mut asked.request_id, value)?,
            13 if is(b"authorization") => set_once(&mut asked.authorization, value)?,
            13 if is(b"cache-control") => asked.directives = true,
            13 if is(b"if-none-match") => set_once(&mut asked.if_none_match, value)?,
            14 if is(b"content-length") || is(b"content_length") => return None,
            15 if is(b"accept-encoding") => set_once(&mut asked.accept_encoding, value)?,
            15..=17 if is_forwarded(name) => asked.forwarded = true,
            17 if is(b"if-modified-since") => set_once(&mut asked.if_modified_since, value)?,
            17 if is(b"transfer-encoding") || is(b"transfer_encoding") => return None,
            19 if is(b"if-unmodified-since") => return None,
            20 if is(b"tidegate-min-version") => asked.min_version = true,
            _ => {}
        }
    }
    asked.host = std::str::from_utf8(host?).ok()?;
    connection.is_none_or(|says| says.eq_ignore_ascii_case(b"keep-alive")).then_some(())
}

/// Returns true for `X-Forwarded-For` and similar fields.
fn is_forwarded(name: &[u8]) -> bool {
    name.get(..12).is_some_and(|begin| begin.eq_ignore_ascii_case(b"x-forwarded-"))
}

/// Stores a value; `None` for a second line, which the lane doesn't accept.
fn set_once<'b>(place: &mut Option<&'b [u8]>, value: &'b [u8]) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

/// The characters of a query that all parsers read alike.
const QUERY_CHARACTERS: [bool; 256] = byte_table(b"-._~!$&'()*+,;=:@/?%[]");

const fn byte_table(signs: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut at = 0;
    while at < 128 {
        // `at` is below 128 here.
        table[at] = (at as u8).is_ascii_alphanumeric();
        at += 1;
    }
    at = 0;
    while at < signs.len() {
        table[signs[at] as usize] = true;
        at += 1;
    }
    table
}

#[cfg(test)]
#[path = "request_head_tests.rs"]
mod tests;
