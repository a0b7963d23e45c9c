//! Conditional requests: the preconditions of RFC 9110, section 13, in the order of 13.2.2.
//!
//! Pure: headers and validators in, a verdict out; no clock. `range` decides `If-Range`. A value with a
//! syntax error counts as absent.

use crate::{
    config::ContentCoding,
    http::date::{parse_time, unix_seconds},
};

use http::{
    header::{HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE},
    HeaderMap, HeaderValue, Method,
};
use std::time::SystemTime;

/// The validators of the content that is about to be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Validators<'a> {
    /// The tag of the plain content as its field has it, with quotes and `W/`. A value that is no tag by RFC
    /// 9110 matches the same bytes only.
    pub etag: Option<&'a [u8]>,
    /// True if the gateway made the tag. Those of the encodings are then derived from it (`"abc-br"`); of an
    /// origin's tag, `"abc-br"` may be the tag of other content.
    pub ours: bool,
    /// The time when the content changed last; fractions of a second are ignored, as HTTP can't express them.
    pub last_modified: Option<SystemTime>,
    /// The time when the origin made the answer: replaces an unknown time of change in `If-Modified-Since`
    /// (RFC 9111, 4.3.2).
    pub date: Option<SystemTime>,
}

/// The result of the preconditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConditionVerdict {
    /// Answer as if there were no preconditions.
    Send,
    /// 304
    NotModified,
    /// 412
    PreconditionFailed,
}

/// Returns true if a request may be answered with a 304.
pub(crate) fn asks_if_modified(headers: &HeaderMap) -> bool {
    headers.contains_key(IF_NONE_MATCH) || headers.contains_key(IF_MODIFIED_SINCE)
}

/// Returns true if a request has preconditions.
pub(crate) fn has_preconditions(headers: &HeaderMap) -> bool {
    [IF_MATCH, IF_UNMODIFIED_SINCE, IF_NONE_MATCH, IF_MODIFIED_SINCE]
        .iter()
        .any(|name| headers.contains_key(name))
}

/// Evaluates the preconditions of a request for content that exists.
pub(crate) fn evaluate_preconditions(
    method: &Method,
    headers: &HeaderMap,
    validators: &Validators<'_>,
) -> ConditionVerdict {
    // 13.2.1: methods that select no representation know no preconditions.
    if matches!(*method, Method::CONNECT | Method::OPTIONS | Method::TRACE) {
        return ConditionVerdict::Send;
    }
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let changed = validators.last_modified;
    let unchanged_for_writer = header_names(headers, &IF_MATCH, validators, TagComparison::Strong)
        .or_else(|| modified_after(headers, &IF_UNMODIFIED_SINCE, changed).map(|modified| !modified))
        .unwrap_or(true);
    if !unchanged_for_writer {
        return ConditionVerdict::PreconditionFailed;
    }
    match header_names(headers, &IF_NONE_MATCH, validators, TagComparison::Weak) {
        Some(true) if reads => ConditionVerdict::NotModified,
        Some(true) => ConditionVerdict::PreconditionFailed,
        Some(false) => ConditionVerdict::Send,
        None if reads
            && modified_after(headers, &IF_MODIFIED_SINCE, changed.or(validators.date)) == Some(false) =>
        {
            ConditionVerdict::NotModified
        }
        None => ConditionVerdict::Send,
    }
}

/// Returns true if GET or HEAD is answered with 304, for a request whose only conditions are at most one
/// `If-None-Match` and one `If-Modified-Since`. Decides like [`evaluate_preconditions`], for fields that are not in a map.
pub(crate) fn is_not_modified(
    if_none_match: Option<&[u8]>,
    if_modified_since: Option<&[u8]>,
    validators: &Validators<'_>,
) -> bool {
    match (if_none_match, if_modified_since) {
        (Some(tags), _) => line_names_tag(tags, validators, TagComparison::Weak),
        (None, Some(date)) => {
            let changed = validators.last_modified.or(validators.date);
            changed
                .zip(parse_time(date))
                .is_some_and(|(changed, since)| unix_seconds(changed) <= unix_seconds(since))
        }
        (None, None) => false,
    }
}

/// The one of these tags that the client holds: the first in its `If-None-Match`, compared without `W/`.
pub(super) fn held_tag(
    headers: &HeaderMap,
    tags: impl IntoIterator<Item = HeaderValue>,
) -> Option<HeaderValue> {
    let lines = || headers.get_all(IF_NONE_MATCH).iter();
    tags.into_iter().find(|ours| {
        let Some(ours) = parse_tag(ours.as_bytes()) else { return false };
        let is_it = |theirs: EntityTag<'_>| theirs.weak == ours.weak && theirs.opaque == ours.opaque;
        lines().any(|line| EntityTags(line.as_bytes()).any(is_it))
    })
}

/// Returns true if a field names exactly the bytes that `etag` names: both are the same tag and neither is
/// weak (RFC 9110, 8.8.3.2, strong comparison).
pub(super) fn is_same_strong(field: &[u8], etag: &[u8]) -> bool {
    match (parse_tag(field.trim_ascii()), parse_tag(etag)) {
        (Some(theirs), Some(ours)) => !theirs.weak && !ours.weak && theirs.opaque == ours.opaque,
        _ => false,
    }
}

/// The comparisons of RFC 9110, 8.8.3.2. Both treat the encodings of one content as one if the gateway made
/// the tag: a tag with one of its suffixes names the same content, and a condition on a whole resource is
/// about the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TagComparison {
    /// A weak tag never matches.
    Strong,
    /// `W/` makes no difference.
    Weak,
}

/// Returns true if the header names the tag or is `*`; `None` if it is absent.
fn header_names(
    headers: &HeaderMap,
    header: &HeaderName,
    validators: &Validators<'_>,
    comparison: TagComparison,
) -> Option<bool> {
    let mut values = headers.get_all(header).iter().map(HeaderValue::as_bytes).peekable();
    values.peek()?;
    Some(values.any(|value| line_names_tag(value, validators, comparison)))
}

/// Returns true if one line of such a header names the tag.
fn line_names_tag(value: &[u8], validators: &Validators<'_>, comparison: TagComparison) -> bool {
    let value = value.trim_ascii();
    value == b"*"
        || match validators.etag.map(|etag| (etag, parse_tag(etag))) {
            None => false,
            Some((malformed, None)) => value == malformed,
            Some((_, Some(ours))) => {
                EntityTags(value).any(|theirs| is_same_tag(&theirs, &ours, validators.ours, comparison))
            }
        }
}

fn is_same_tag(
    theirs: &EntityTag<'_>,
    ours: &EntityTag<'_>,
    suffixes: bool,
    comparison: TagComparison,
) -> bool {
    if comparison == TagComparison::Strong && (theirs.weak || ours.weak) {
        return false;
    }
    theirs.opaque.strip_prefix(ours.opaque).is_some_and(|suffix| {
        suffix.is_empty()
            || suffixes && ContentCoding::ALL.iter().any(|coding| suffix == coding.etag_suffix().as_bytes())
    })
}

/// Parses a text that is one well-formed tag and nothing else.
fn parse_tag(text: &[u8]) -> Option<EntityTag<'_>> {
    parse_quoted(text).filter(|(tag, behind)| behind.is_empty() && tag.is_well_formed()).map(|(tag, _)| tag)
}

/// A tag of a list, without its quotes.
struct EntityTag<'a> {
    weak: bool,
    opaque: &'a [u8],
}

/// The well-formed tags of one header line: `#entity-tag`, where a tag may hold commas. Malformed members are
/// skipped up to the next comma outside of quotes.
struct EntityTags<'a>(&'a [u8]);

impl<'a> Iterator for EntityTags<'a> {
    type Item = EntityTag<'a>;

    fn next(&mut self) -> Option<EntityTag<'a>> {
        while !self.0.is_empty() {
            let text = self.0.trim_ascii_start();
            let (tag, behind) = parse_quoted(text).map_or((None, text), |(tag, behind)| (Some(tag), behind));
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

impl EntityTag<'_> {
    /// `*etagc`
    fn is_well_formed(&self) -> bool {
        self.opaque.iter().all(|&b| b == 0x21 || (0x23..=0x7e).contains(&b) || b >= 0x80)
    }
}

/// Parses `[ "W/" ] DQUOTE … DQUOTE`, and returns the rest as well. There is no escaping in it.
fn parse_quoted(text: &[u8]) -> Option<(EntityTag<'_>, &[u8])> {
    let (weak, text) = text.strip_prefix(b"W/").map_or((false, text), |text| (true, text));
    let inner = text.strip_prefix(b"\"")?;
    let end = inner.iter().position(|&b| b == b'"')?;
    Some((EntityTag { weak, opaque: &inner[..end] }, &inner[end + 1..]))
}

/// Returns true if the content changed after the header's date; `None` if there is no single valid date, or
/// the time of change is unknown (13.1.3, 13.1.4).
fn modified_after(headers: &HeaderMap, header: &HeaderName, changed: Option<SystemTime>) -> Option<bool> {
    let modified = changed?;
    let mut values = headers.get_all(header).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    Some(unix_seconds(modified) > unix_seconds(parse_time(value.as_bytes())?))
}

#[cfg(test)]
#[path = "conditional_tests.rs"]
mod tests;
