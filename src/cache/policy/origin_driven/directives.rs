//! The cache directives of answers and requests: `Cache-Control` (RFC 9111, 5.2), `CDN-Cache-Control` (RFC
//! 9213) and `Pragma`.
//!
//! Parses only; [`super::freshness`] and [`super`] decide. A malformed directive gets its strictest
//! meaning: a lifetime that is no number is 0, of two lifetimes the shorter counts. `CDN-Cache-Control` is a
//! structured field: malformed, it counts as absent.

use crate::{
    cache::policy::accel_expires::{self, AccelExpires},
    http::delta_seconds::delta_seconds,
};
use http::{header, HeaderMap, HeaderName};
use sfv::{BareItem, ListEntry, Parser};
use std::borrow::Cow;

static CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// The directives of an answer for a shared cache. Times are seconds, as [`delta_seconds`] parses them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResponseDirectives {
    /// `no-store`
    pub no_store: bool,
    /// `no-cache` for the whole answer.
    pub no_cache: bool,
    /// `private` for the whole answer.
    pub private: bool,
    /// `public`
    pub public: bool,
    /// `must-revalidate`
    pub must_revalidate: bool,
    /// `proxy-revalidate`
    pub proxy_revalidate: bool,
    /// `must-understand`
    pub must_understand: bool,
    /// `no-transform`
    pub no_transform: bool,
    /// `immutable` (RFC 8246): for browsers; the rules of this cache stay the same.
    pub immutable: bool,
    /// `max-age`
    pub max_age: Option<u64>,
    /// `s-maxage`
    pub s_maxage: Option<u64>,
    /// `stale-while-revalidate` (RFC 5861)
    pub stale_while_revalidate: Option<u64>,
    /// `stale-if-error` (RFC 5861)
    pub stale_if_error: Option<u64>,
    /// The fields in `private="…"` and `no-cache="…"`: the answer may be stored without them.
    pub omit: Vec<HeaderName>,
    /// The end of its freshness, in seconds since 1970, for `X-Accel-Expires: @…`.
    pub until: Option<u64>,
    /// True if `CDN-Cache-Control` or `X-Accel-Expires` set them: `Cache-Control`, `Expires` and `Pragma` are
    /// for other caches then.
    pub targeted: bool,
}

/// Reads the directives of an answer. A valid `CDN-Cache-Control` replaces `Cache-Control` altogether, and
/// `X-Accel-Expires` both.
pub fn response_directives(headers: &HeaderMap) -> ResponseDirectives {
    accel_directives(headers).or_else(|| targeted_directives(headers)).unwrap_or_else(|| {
        let mut said = ResponseDirectives::default();
        each_directive(&join_field_lines(headers, &header::CACHE_CONTROL), |name, value| {
            said.take(name, value)
        });
        said
    })
}

/// The directives of a request. Times are seconds; the default has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    /// `only-if-cached`: a stored answer, or 504.
    pub only_if_cached: bool,
    /// `no-cache`: only an answer that was validated for this request.
    pub no_cache: bool,
    /// `no-store`: the answer must not be stored.
    pub no_store: bool,
    /// `max-age`: no older answer, and no stale one.
    pub max_age: Option<u64>,
    /// `max-stale`: an answer stale by at most this; `u64::MAX` without a number.
    pub max_stale: Option<u64>,
    /// `min-fresh`: only an answer that stays fresh for this time.
    pub min_fresh: Option<u64>,
}

/// Reads the directives of a request. `Pragma: no-cache` counts only without `Cache-Control` (RFC 9111, 5.4).
pub fn request_directives(request: &HeaderMap) -> RequestDirectives {
    let mut asked = RequestDirectives::default();
    if !request.contains_key(header::CACHE_CONTROL) {
        asked.no_cache = is_pragma_no_cache(request);
        return asked;
    }
    each_directive(&join_field_lines(request, &header::CACHE_CONTROL), |name, value| match name {
        "only-if-cached" => asked.only_if_cached = true,
        "no-cache" => asked.no_cache = true,
        "no-store" => asked.no_store = true,
        "max-age" => shorten(&mut asked.max_age, value.seconds()),
        "max-stale" if value == DirectiveValue::None => shorten(&mut asked.max_stale, u64::MAX),
        "max-stale" => shorten(&mut asked.max_stale, value.seconds()),
        "min-fresh" => asked.min_fresh = asked.min_fresh.max(Some(value.seconds())),
        _ => {}
    });
    asked
}

/// Returns true if `Pragma` has `no-cache`.
pub fn is_pragma_no_cache(headers: &HeaderMap) -> bool {
    let mut found = false;
    each_directive(&join_field_lines(headers, &header::PRAGMA), |name, _| found |= name == "no-cache");
    found
}

/// The members of a list field, without the space around them. A comma in a quoted string does not separate,
/// unless the string is unterminated.
pub(crate) fn list_members(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut left = Some(text);
    std::iter::from_fn(move || {
        let text = left?;
        let end = end_of_member(text);
        left = end.map(|end| &text[end + 1..]);
        Some(text[..end.unwrap_or(text.len())].trim_ascii())
    })
}

/// The offset of the comma after the first member.
fn end_of_member(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b',' => return Some(at),
            b'"' => at += quoted(&text[at..]).unwrap_or(0),
            _ => {}
        }
        at += 1;
    }
    None
}

/// All lines of a field joined, as RFC 9110, 5.3 joins them.
pub(crate) fn join_field_lines<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Cow<'h, [u8]> {
    let mut lines = headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
    match (lines.next(), lines.next()) {
        (None, _) => Cow::Borrowed(&[]),
        (Some(one), None) => Cow::Borrowed(one),
        (Some(one), Some(another)) => {
            let all: Vec<&[u8]> = [one, another].into_iter().chain(lines).collect();
            Cow::Owned(all.join(&b", "[..]))
        }
    }
}

/// The offset of the closing quote of the quoted string at the beginning of `text`.
fn quoted(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    None
}

/// The value after a directive's `=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DirectiveValue<'a> {
    /// There is no `=`.
    None,
    /// A token, or the content of a quoted string.
    Text(&'a [u8]),
    /// Neither.
    Malformed,
}

impl DirectiveValue<'_> {
    /// A time; an invalid one counts as 0 (RFC 9111, 4.2.1).
    fn seconds(self) -> u64 {
        match self {
            Self::Text(text) => delta_seconds(text).unwrap_or(0),
            Self::None | Self::Malformed => 0,
        }
    }
}

/// Calls `take` for each directive, with its name in lower case and its value.
fn each_directive(text: &[u8], mut take: impl FnMut(&str, DirectiveValue<'_>)) {
    for member in list_members(text) {
        let end = member.iter().position(|b| !is_token(*b)).unwrap_or(member.len());
        let (name, rest) = member.split_at(end);
        let value = match rest {
            [] => DirectiveValue::None,
            [b'=', value @ ..] => argument(value),
            _ => DirectiveValue::Malformed,
        };
        match std::str::from_utf8(name) {
            Ok(name) if name.bytes().any(|b| b.is_ascii_uppercase()) => {
                take(&name.to_ascii_lowercase(), value)
            }
            Ok(name) => take(name, value),
            Err(_) => {}
        }
    }
}

fn argument(value: &[u8]) -> DirectiveValue<'_> {
    match value {
        [b'"', inner @ .., b'"'] if quoted(value) == Some(value.len() - 1) => DirectiveValue::Text(inner),
        [] => DirectiveValue::Malformed,
        token if token.iter().all(|b| is_token(*b)) => DirectiveValue::Text(token),
        _ => DirectiveValue::Malformed,
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Of two times in one answer, the shorter counts.
fn shorten(time: &mut Option<u64>, said: u64) {
    *time = Some(time.map_or(said, |before| before.min(said)));
}

impl ResponseDirectives {
    fn take(&mut self, name: &str, value: DirectiveValue<'_>) {
        match name {
            "no-store" => self.no_store = true,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "must-understand" => self.must_understand = true,
            "no-transform" => self.no_transform = true,
            "immutable" => self.immutable = true,
            // It grants a permission: with an undefined argument it grants none.
            "public" => self.public |= value == DirectiveValue::None,
            "no-cache" => self.no_cache |= !self.is_omitted(value),
            "private" => self.private |= !self.is_omitted(value),
            "max-age" => shorten(&mut self.max_age, value.seconds()),
            "s-maxage" => shorten(&mut self.s_maxage, value.seconds()),
            "stale-while-revalidate" => shorten(&mut self.stale_while_revalidate, value.seconds()),
            "stale-if-error" => shorten(&mut self.stale_if_error, value.seconds()),
            _ => {}
        }
    }

    /// Adds the fields of a qualified directive. Returns false if it has none that could be left out: then it
    /// applies to the whole answer.
    fn is_omitted(&mut self, value: DirectiveValue<'_>) -> bool {
        let DirectiveValue::Text(text) = value else { return false };
        let names: Result<Vec<HeaderName>, _> =
            list_members(text).filter(|name| !name.is_empty()).map(HeaderName::from_bytes).collect();
        let names = names.unwrap_or_default();
        let any = !names.is_empty();
        self.omit.extend(names);
        any
    }
}

/// Reads `X-Accel-Expires`; `None` if it has no meaning.
fn accel_directives(headers: &HeaderMap) -> Option<ResponseDirectives> {
    let targeted = ResponseDirectives { targeted: true, ..ResponseDirectives::default() };
    Some(match accel_expires::accel_expires(headers)? {
        AccelExpires::Never => ResponseDirectives { no_store: true, ..targeted },
        AccelExpires::For(seconds) => ResponseDirectives { max_age: Some(seconds), ..targeted },
        AccelExpires::Until(seconds) => ResponseDirectives { until: Some(seconds), ..targeted },
    })
}

/// Reads `CDN-Cache-Control`; `None` if it is missing, empty or malformed in any part (RFC 9213, 2.1).
fn targeted_directives(headers: &HeaderMap) -> Option<ResponseDirectives> {
    if !headers.contains_key(&CDN_CACHE_CONTROL) {
        return None;
    }
    let dictionary = Parser::parse_dictionary(&join_field_lines(headers, &CDN_CACHE_CONTROL)).ok()?;
    let mut said = ResponseDirectives { targeted: true, ..ResponseDirectives::default() };
    for (name, entry) in &dictionary {
        said.take_typed(name, entry)?;
    }
    (!dictionary.is_empty()).then_some(said)
}

/// The type of a directive's value.
enum DirectiveKind {
    /// An integer.
    Seconds,
    /// A boolean: present or not.
    Flag,
    /// A boolean, or a string with names of fields.
    Fields,
}

fn directive_kind(name: &str) -> Option<DirectiveKind> {
    Some(match name {
        "max-age" | "s-maxage" | "stale-while-revalidate" | "stale-if-error" => DirectiveKind::Seconds,
        "no-cache" | "private" => DirectiveKind::Fields,
        "no-store" | "must-revalidate" | "proxy-revalidate" | "must-understand" | "no-transform"
        | "immutable" | "public" => DirectiveKind::Flag,
        _ => return None,
    })
}

impl ResponseDirectives {
    /// Like [`Self::take`], with the type of the value checked; `None` if it is not the directive's.
    fn take_typed(&mut self, name: &str, entry: &ListEntry) -> Option<()> {
        let Some(kind) = directive_kind(name) else { return Some(()) };
        let ListEntry::Item(item) = entry else { return None };
        match (kind, &item.bare_item) {
            // A negative time counts as 0.
            (DirectiveKind::Seconds, BareItem::Integer(n)) => {
                self.take(name, DirectiveValue::Text(n.max(&0).to_string().as_bytes()));
            }
            (DirectiveKind::Fields, BareItem::String(fields)) => {
                self.take(name, DirectiveValue::Text(fields.as_bytes()))
            }
            (DirectiveKind::Flag | DirectiveKind::Fields, BareItem::Boolean(true)) => {
                self.take(name, DirectiveValue::None)
            }
            (DirectiveKind::Flag | DirectiveKind::Fields, BareItem::Boolean(false)) => {}
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
#[path = "directives_tests.rs"]
mod tests;
