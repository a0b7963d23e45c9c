//! The values that proxies write: text, a scheme, a host.

use crate::{cache::key::RequestScheme, http::authority};

pub(super) fn text_or_empty(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or("?")
}

pub(super) fn parse_scheme(word: &str) -> Option<RequestScheme> {
    let named = |scheme: &RequestScheme| word.eq_ignore_ascii_case(scheme.as_str());
    [RequestScheme::Http, RequestScheme::Https].into_iter().find(named)
}

/// A host from a proxy's field: `None` if it is malformed; the root's dot is removed as for `Host`.
pub(super) fn parse_host(text: &str) -> Option<Box<str>> {
    let named = || authority::without_root_dot(text).map_or(text.into(), String::into_boxed_str);
    authority::is_host(text.as_bytes()).then(named)
}
