//! Conditional requests: the preconditions of RFC 9110, section 13, in the order of 13.2.2.
//!
//! Pure: headers and validators in, a verdict out; no clock. `If-Range` is decided with ranges.
//! What can't be read as the header's syntax is as good as absent.

use crate::config::Coding;
use http::{
    header::{HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE},
    HeaderMap, HeaderValue, Method,
};
use std::time::{SystemTime, UNIX_EPOCH};

/// What is known of the content that is about to be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Validators<'a> {
    /// The tag of the plain content as its field says it, quotes and `W/` included. One that is no tag by RFC 9110
    /// matches the very same bytes and nothing else.
    pub etag: Option<&'a [u8]>,
    /// Whether the tag is one of ours: those of the encodings are then made from it (`"abc-br"`). Of a foreign one
    /// `"abc-br"` may be the tag of something else.
    pub ours: bool,
    /// When the content changed last; fractions of a second are ignored, as HTTP can't say them.
    pub last_modified: Option<SystemTime>,
    /// When the origin made the answer: stands in for an unknown change in `If-Modified-Since` (RFC 9111, 4.3.2).
    pub date: Option<SystemTime>,
}

/// What the preconditions ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Answer as if there were no preconditions.
    Send,
    /// 304
    NotModified,
    /// 412
    PreconditionFailed,
}

/// Returns whether a request may be answered by a 304.
pub fn asks_if_modified(headers: &HeaderMap) -> bool {
    headers.contains_key(IF_NONE_MATCH) || headers.contains_key(IF_MODIFIED_SINCE)
}

/// Whether a request has preconditions.
pub fn are_there(headers: &HeaderMap) -> bool {
    [IF_MATCH, IF_UNMODIFIED_SINCE, IF_NONE_MATCH, IF_MODIFIED_SINCE]
        .iter()
        .any(|name| headers.contains_key(name))
}

/// Evaluates the preconditions of a request for content that exists.
pub fn evaluate(method: &Method, headers: &HeaderMap, validators: &Validators<'_>) -> Verdict {
    // 13.2.1: methods that select no representation know no preconditions.
    if matches!(*method, Method::CONNECT | Method::OPTIONS | Method::TRACE) {
        return Verdict::Send;
    }
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let changed = validators.last_modified;
    let unchanged_for_writer = names(headers, &IF_MATCH, validators, Comparison::Strong)
        .or_else(|| modified_after(headers, &IF_UNMODIFIED_SINCE, changed).map(|modified| !modified))
        .unwrap_or(true);
    if !unchanged_for_writer {
        return Verdict::PreconditionFailed;
    }
    match names(headers, &IF_NONE_MATCH, validators, Comparison::Weak) {
        Some(true) if reads => Verdict::NotModified,
        Some(true) => Verdict::PreconditionFailed,
        Some(false) => Verdict::Send,
        None if reads
            && modified_after(headers, &IF_MODIFIED_SINCE, changed.or(validators.date)) == Some(false) =>
        {
            Verdict::NotModified
        }
        None => Verdict::Send,
    }
}

/// Whether GET or HEAD is answered with 304, where nothing is asked but in one `If-None-Match` and one
/// `If-Modified-Since` at most: as [`evaluate`] decides it, of fields that are in no map.
pub fn is_not_modified(
    if_none_match: Option<&[u8]>,
    if_modified_since: Option<&[u8]>,
    validators: &Validators<'_>,
) -> bool {
    match (if_none_match, if_modified_since) {
        (Some(tags), _) => line_names(tags, validators, Comparison::Weak),
        (None, Some(date)) => {
            let changed = validators.last_modified.or(validators.date);
            let since =
                Some(date).filter(|date| date.is_ascii()).and_then(|date| std::str::from_utf8(date).ok());
            let since = since.and_then(|date| httpdate::parse_http_date(date.trim()).ok());
            changed.zip(since).is_some_and(|(changed, since)| seconds(changed) <= seconds(since))
        }
        (None, None) => false,
    }
}

/// The one of these tags that the client of a request holds: the first that stands in its `If-None-Match`, with its mark of
/// a weak one or without.
pub(super) fn held(headers: &HeaderMap, tags: impl IntoIterator<Item = HeaderValue>) -> Option<HeaderValue> {
    let lines = || headers.get_all(IF_NONE_MATCH).iter();
    tags.into_iter().find(|ours| {
        let Some(ours) = whole(ours.as_bytes()) else { return false };
        let is_it = |theirs: Tag<'_>| theirs.weak == ours.weak && theirs.opaque == ours.opaque;
        lines().any(|line| Tags(line.as_bytes()).any(is_it))
    })
}

/// Whether a field names the very content that `etag` does, bit for bit: both are the same tag and neither is weak
/// (RFC 9110, 8.8.3.2, strong comparison).
pub(super) fn is_same_strong(field: &[u8], etag: &[u8]) -> bool {
    match (whole(field.trim_ascii()), whole(etag)) {
        (Some(theirs), Some(ours)) => !theirs.weak && !ours.weak && theirs.opaque == ours.opaque,
        _ => false,
    }
}

/// RFC 9110, 8.8.3.2. Both take the encodings of one content as one where the tag is ours: a tag with our suffix
/// names the same content, and it is the content that a condition on a whole resource is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    /// A weak tag never matches.
    Strong,
    /// `W/` makes no difference.
    Weak,
}

/// Whether the header names our tag or is `*`; `None` where it isn't there.
fn names(
    headers: &HeaderMap,
    header: &HeaderName,
    validators: &Validators<'_>,
    comparison: Comparison,
) -> Option<bool> {
    let mut values = headers.get_all(header).iter().map(HeaderValue::as_bytes).peekable();
    values.peek()?;
    Some(values.any(|value| line_names(value, validators, comparison)))
}

/// Whether one line of such a header does.
fn line_names(value: &[u8], validators: &Validators<'_>, comparison: Comparison) -> bool {
    let value = value.trim_ascii();
    value == b"*"
        || match validators.etag.map(|etag| (etag, whole(etag))) {
            None => false,
            Some((malformed, None)) => value == malformed,
            Some((_, Some(ours))) => {
                Tags(value).any(|theirs| is_same(&theirs, &ours, validators.ours, comparison))
            }
        }
}

fn is_same(theirs: &Tag<'_>, ours: &Tag<'_>, suffixes: bool, comparison: Comparison) -> bool {
    if comparison == Comparison::Strong && (theirs.weak || ours.weak) {
        return false;
    }
    theirs.opaque.strip_prefix(ours.opaque).is_some_and(|suffix| {
        suffix.is_empty()
            || suffixes && Coding::ALL.iter().any(|coding| suffix == coding.etag_suffix().as_bytes())
    })
}

/// A text that is one well-formed tag and nothing else.
fn whole(text: &[u8]) -> Option<Tag<'_>> {
    quoted(text).filter(|(tag, behind)| behind.is_empty() && tag.is_well_formed()).map(|(tag, _)| tag)
}

/// A tag of a list, without its quotes.
struct Tag<'a> {
    weak: bool,
    opaque: &'a [u8],
}

/// The well-formed tags of one header line: `#entity-tag`, where a tag may hold commas. What is malformed is
/// skipped up to the next comma outside of quotes.
struct Tags<'a>(&'a [u8]);

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        while !self.0.is_empty() {
            let text = self.0.trim_ascii_start();
            let (tag, behind) = quoted(text).map_or((None, text), |(tag, behind)| (Some(tag), behind));
            let end = behind.iter().position(|&b| b == b',').unwrap_or(behind.len());
            let (junk, rest) = behind.split_at(end);
            self.0 = rest.strip_prefix(b",").unwrap_or(rest);
            if let Some(tag) = tag.filter(|tag| tag.is_well_formed() && junk.trim_ascii().is_empty()) {
                return Some(tag);
            }
        }
        None
    }
}

impl Tag<'_> {
    /// `*etagc`
    fn is_well_formed(&self) -> bool {
        self.opaque.iter().all(|&b| b == 0x21 || (0x23..=0x7e).contains(&b) || b >= 0x80)
    }
}

/// `[ "W/" ] DQUOTE … DQUOTE`, and what is behind it. There is no escaping in it.
fn quoted(text: &[u8]) -> Option<(Tag<'_>, &[u8])> {
    let (weak, text) = text.strip_prefix(b"W/").map_or((false, text), |text| (true, text));
    let inner = text.strip_prefix(b"\"")?;
    let end = inner.iter().position(|&b| b == b'"')?;
    Some((Tag { weak, opaque: &inner[..end] }, &inner[end + 1..]))
}

/// Whether the content changed after the header's date; `None` where there is no single valid date, or it isn't
/// known when the content changed (13.1.3, 13.1.4).
fn modified_after(headers: &HeaderMap, header: &HeaderName, changed: Option<SystemTime>) -> Option<bool> {
    let modified = changed?;
    let mut values = headers.get_all(header).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    Some(seconds(modified) > seconds(super::http_date(value)?))
}

/// Whole seconds since 1970; anything earlier is 0.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
#[path = "conditional_tests.rs"]
mod tests;
