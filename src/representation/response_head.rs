//! Heads of answers, made from a status and fields.

use http::{HeaderName, HeaderValue, StatusCode};
use pingora_http::ResponseHeader;

/// The number of fields for which a head has room at first.
const HEAD_ROOM: usize = 12;

/// A head of this status without fields.
pub fn blank_head(status: StatusCode) -> ResponseHeader {
    // A status that exists already can't be refused.
    ResponseHeader::build_no_case(status, Some(HEAD_ROOM)).unwrap_or_else(|_| empty_head())
}

fn empty_head() -> ResponseHeader {
    http::Response::new(()).into_parts().0.into()
}

/// A head of this status with these fields. Appending to a head singly would write and parse each name once
/// more.
pub(super) fn filled_head(status: StatusCode, fields: Vec<(HeaderName, HeaderValue)>) -> ResponseHeader {
    let mut parts = http::Response::new(()).into_parts().0;
    parts.status = status;
    parts.headers.reserve(HEAD_ROOM);
    for (name, value) in fields {
        if let Err(error) = parts.headers.try_append(name, value) {
            tracing::warn!(%error, "a field of a head was left out");
        }
    }
    parts.into()
}

/// Adds a field to a head.
pub(crate) fn append_field(head: &mut ResponseHeader, name: HeaderName, value: HeaderValue) {
    // Names and values are valid already; only a map of 32,768 fields could refuse one more.
    if let Err(error) = head.append_header(name, value) {
        tracing::warn!(%error, "a field of a head was left out");
    }
}

pub(super) fn set_field(head: &mut ResponseHeader, name: HeaderName, value: HeaderValue) {
    if let Err(error) = head.insert_header(name, value) {
        tracing::warn!(%error, "a field of a head was left out");
    }
}
