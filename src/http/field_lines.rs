//! The lines of a field (RFC 9110, 5.2).

use http::{HeaderMap, HeaderName, HeaderValue};
use std::borrow::Cow;

pub(crate) fn field_lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes)
}

/// All lines of a field joined; `None` if it is absent.
pub(crate) fn joined_lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let first = lines.next()?;
    let rest: Vec<&[u8]> = lines.collect();
    Some(if rest.is_empty() {
        Cow::Borrowed(first)
    } else {
        Cow::Owned([&[first], &rest[..]].concat().join(&b", "[..]))
    })
}
