//! Conditional requests: the preconditions of RFC 9110, section 13, in the order of 13.2.2.
//!
//! Pure: headers and validators in, a verdict out; no clock. `If-Range` is not decided here but with ranges.
//! What can't be read as the header's syntax is as good as absent.

use crate::config::Coding;
use http::{
    header::{HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE},
    HeaderMap, Method,
};
use std::time::{SystemTime, UNIX_EPOCH};

/// What is known of the content that is about to be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Validators<'a> {
    /// The strong tag of the plain content, quotes included (`"abc"`). That of its encodings is made from it
    /// (`"abc-br"`), so it has to be one of ours: of a foreign one `"abc-br"` may be the tag of something else.
    pub etag: Option<&'a str>,
    /// When the content changed last; fractions of a second are ignored, as HTTP can't say them.
    pub last_modified: Option<SystemTime>,
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

/// Evaluates the preconditions of a request for content that exists.
pub fn evaluate(method: &Method, headers: &HeaderMap, validators: &Validators<'_>) -> Verdict {
    // 13.2.1: methods that select no representation know no preconditions.
    if matches!(*method, Method::CONNECT | Method::OPTIONS | Method::TRACE) {
        return Verdict::Send;
    }
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let unchanged_for_writer = names(headers, &IF_MATCH, validators.etag, Comparison::Strong)
        .or_else(|| modified_after(headers, &IF_UNMODIFIED_SINCE, validators).map(|modified| !modified))
        .unwrap_or(true);
    if !unchanged_for_writer {
        return Verdict::PreconditionFailed;
    }
    match names(headers, &IF_NONE_MATCH, validators.etag, Comparison::Weak) {
        Some(true) if reads => Verdict::NotModified,
        Some(true) => Verdict::PreconditionFailed,
        Some(false) => Verdict::Send,
        None if reads && modified_after(headers, &IF_MODIFIED_SINCE, validators) == Some(false) => {
            Verdict::NotModified
        }
        None => Verdict::Send,
    }
}

/// RFC 9110, 8.8.3.2. Both take the encodings of one content as one: a tag with our suffix names the same
/// content, and it is the content that a condition on a whole resource is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    /// A weak tag never matches.
    Strong,
    /// `W/` makes no difference.
    Weak,
}

/// Whether the header names `ours` or is `*`; `None` where it isn't there.
fn names(
    headers: &HeaderMap,
    header: &HeaderName,
    ours: Option<&str>,
    comparison: Comparison,
) -> Option<bool> {
    let mut values = headers.get_all(header).iter().map(|value| value.as_bytes()).peekable();
    values.peek()?;
    let ours = ours.map(|tag| opaque(tag.as_bytes()));
    Some(values.any(|value| {
        value.trim_ascii() == b"*"
            || ours.is_some_and(|ours| {
                Tags(value)
                    .any(|tag| (comparison == Comparison::Weak || !tag.weak) && is_content(tag.opaque, ours))
            })
    }))
}

/// `"abc"` → `abc`
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"\"").and_then(|tag| tag.strip_suffix(b"\"")).unwrap_or(tag)
}

fn is_content(theirs: &[u8], ours: &[u8]) -> bool {
    theirs.strip_prefix(ours).is_some_and(|suffix| {
        suffix.is_empty() || Coding::ALL.iter().any(|coding| suffix == coding.etag_suffix().as_bytes())
    })
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
fn modified_after(headers: &HeaderMap, header: &HeaderName, validators: &Validators<'_>) -> Option<bool> {
    let modified = validators.last_modified?;
    let mut values = headers.get_all(header).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    let date = httpdate::parse_http_date(value.to_str().ok()?.trim()).ok()?;
    Some(seconds(modified) > seconds(date))
}

/// Whole seconds since 1970; anything earlier is 0.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
#[path = "conditional_tests.rs"]
mod tests;
