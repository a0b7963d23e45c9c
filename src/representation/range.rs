//! Byte ranges (RFC 9110, 14): the ranges of a request, the decision of `If-Range`, the parts of an answer,
//! and the combination of parts (RFC 9111, 3.4).
//!
//! Pure: fields, lengths and bodies in, a verdict or a body out. A malformed range, or a request for too many
//! parts, is answered with the whole. A range is half-open here (`0..5`); the fields name its last byte
//! (`bytes 0-4/10`).

use super::{
    body::Body,
    conditional::{self, Validators},
};
use crate::http::date::{parse_time, unix_seconds};
use bytes::Bytes;
use http::{header, HeaderMap, HeaderValue};
use std::{ops::Range, time::Duration};

/// The most parts of a multipart answer, after joining those that touch; beyond it the whole is sent.
const MAX_PARTS: usize = 16;
/// The most ranges that are read; a field with more is an attack and ignored.
const MAX_RANGES: usize = 128;

/// The meaning of a request's `Range` for a body of a certain length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeSelection {
    /// There is no range, or none that is valid.
    Whole,
    /// One range, within the body.
    Single(Range<u64>),
    /// At least two ranges within the body that don't touch, in the order of the request.
    Several(Vec<Range<u64>>),
    /// Ranges, none of which lies within the body.
    Unsatisfiable,
}

/// The ranges that `Range` asks for, if `If-Range` allows it.
pub fn select_range(headers: &HeaderMap, validators: &Validators<'_>, length: u64) -> RangeSelection {
    match range_field(headers) {
        Some(value) if if_range_allows(headers, validators) => decide_range(value, length),
        _ => RangeSelection::Whole,
    }
}

/// The value of `Range`, if there is exactly one: it is no list.
fn range_field(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::RANGE).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value.as_bytes())
}

/// Returns true if `If-Range` is absent or matches (RFC 9110, 13.1.5): the tag by strong comparison, or the
/// date of change to the second, if the origin's `Date` is at least a second later, so that there was no
/// other change (8.8.2.2).
fn if_range_allows(headers: &HeaderMap, validators: &Validators<'_>) -> bool {
    let mut values = headers.get_all(header::IF_RANGE).iter();
    let Some(value) = values.next() else { return true };
    if values.next().is_some() {
        return false;
    }
    if validators.etag.is_some_and(|etag| conditional::is_same_strong(value.as_bytes(), etag)) {
        return true;
    }
    match (parse_time(value.as_bytes()), validators.last_modified, validators.date) {
        (Some(asked), Some(changed), Some(date)) => {
            unix_seconds(asked) == unix_seconds(changed)
                && changed.checked_add(Duration::from_secs(1)).is_some_and(|later| later <= date)
        }
        _ => false,
    }
}

/// The ranges of a value of `Range` for a body of `length` bytes. A unit other than bytes, and a value that
/// is malformed in any part, count as absent.
pub fn decide_range(value: &[u8], length: u64) -> RangeSelection {
    let Some(asked) = parse_ranges(value) else { return RangeSelection::Whole };
    let within = join_ranges(asked.into_iter().filter_map(|one| one.within(length)).collect());
    match within.len() {
        0 => RangeSelection::Unsatisfiable,
        1 => RangeSelection::Single(within[0].clone()),
        2..=MAX_PARTS => RangeSelection::Several(within),
        _ => RangeSelection::Whole,
    }
}

/// One `range-spec` as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RangeSpec {
    /// `first-` or `first-last`; the last byte included.
    From(u64, Option<u64>),
    /// `-length`
    Last(u64),
}

impl RangeSpec {
    fn within(self, length: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::From(first, None) => first..length,
            Self::From(first, Some(last)) => first..last.saturating_add(1).min(length),
            Self::Last(suffix) => length.saturating_sub(suffix)..length,
        };
        (range.start < range.end).then_some(range)
    }
}

/// `bytes=` and a list of ranges, in which empty members are allowed as in every list.
fn parse_ranges(value: &[u8]) -> Option<Vec<RangeSpec>> {
    let value = value.trim_ascii();
    let at = value.iter().position(|&b| b == b'=')?;
    if !value[..at].eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let members = value[at + 1..].split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|one| !one.is_empty());
    let asked = members.take(MAX_RANGES + 1).map(parse_range).collect::<Option<Vec<_>>>()?;
    (1..=MAX_RANGES).contains(&asked.len()).then_some(asked)
}

fn parse_range(text: &[u8]) -> Option<RangeSpec> {
    let dash = text.iter().position(|&b| b == b'-')?;
    match (&text[..dash], &text[dash + 1..]) {
        (b"", suffix) => Some(RangeSpec::Last(parse_number(suffix)?)),
        (first, b"") => Some(RangeSpec::From(parse_number(first)?, None)),
        (first, last) => {
            let (first, last) = (parse_number(first)?, parse_number(last)?);
            (first <= last).then_some(RangeSpec::From(first, Some(last)))
        }
    }
}

/// `1*DIGIT`; a number too large for 64 bits lies beyond every body anyway.
fn parse_number(digits: &[u8]) -> Option<u64> {
    let all_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let add = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    all_digits.then(|| digits.iter().fold(0, add))
}

/// Joins ranges that overlap or touch; the others keep their order (RFC 9110, 15.3.7.2).
fn join_ranges(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut ranges: Vec<(usize, Range<u64>)> = ranges.into_iter().enumerate().collect();
    ranges.sort_unstable_by_key(|(_, range)| range.start);
    let mut joined: Vec<(usize, Range<u64>)> = Vec::with_capacity(ranges.len());
    for (place, range) in ranges {
        match joined.last_mut() {
            Some((first, last)) if range.start <= last.end => {
                last.end = last.end.max(range.end);
                *first = place.min(*first);
            }
            _ => joined.push((place, range)),
        }
    }
    joined.sort_unstable_by_key(|(place, _)| *place);
    joined.into_iter().map(|(_, range)| range).collect()
}

/// `Content-Range` of a part that is not empty: `bytes 0-4/10`.
pub fn content_range(range: &Range<u64>, total: u64) -> String {
    format!("bytes {}-{}/{total}", range.start, range.end.saturating_sub(1))
}

/// `Content-Range` of a 416: `bytes */10`.
pub fn unsatisfied_range(total: u64) -> String {
    format!("bytes */{total}")
}

/// The range and the total length in an origin's `Content-Range`: `bytes 0-4/10`. `None` for anything else,
/// including an unknown length.
pub fn parse_content_range(value: &[u8]) -> Option<(Range<u64>, u64)> {
    let exact = |digits: &[u8]| parse_number(digits).filter(|number| *number < u64::MAX);
    let text = value.trim_ascii().strip_prefix(b"bytes ")?;
    let slash = text.iter().position(|&b| b == b'/')?;
    let dash = text[..slash].iter().position(|&b| b == b'-')?;
    let [first, last, total] = [&text[..dash], &text[dash + 1..slash], &text[slash + 1..]].map(exact);
    let (first, last, total) = (first?, last?, total?);
    (first <= last && last < total).then_some((first..last + 1, total))
}

/// The frame of a 206 with several parts (RFC 9110, 14.6): everything around the bytes of the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MultipartFrame {
    /// The text before the bytes of each range, in the order of the ranges.
    pub heads: Vec<Bytes>,
    /// The text after the last one.
    pub end: Bytes,
    /// The `Content-Type` of the whole.
    pub content_type: String,
}

/// Frames ranges of a content of `total` bytes. The boundary must consist of letters and digits, and should
/// be one that no content can foresee.
pub fn frame_parts(
    total: u64,
    ranges: &[Range<u64>],
    content_type: Option<&HeaderValue>,
    boundary: &str,
) -> MultipartFrame {
    let head = |(place, range): (usize, &Range<u64>)| {
        let mut head = Vec::with_capacity(160);
        head.extend_from_slice(if place == 0 { b"--" } else { b"\r\n--" });
        head.extend_from_slice(boundary.as_bytes());
        if let Some(content_type) = content_type {
            head.extend_from_slice(b"\r\nContent-Type: ");
            head.extend_from_slice(content_type.as_bytes());
        }
        head.extend_from_slice(b"\r\nContent-Range: ");
        head.extend_from_slice(content_range(range, total).as_bytes());
        head.extend_from_slice(b"\r\n\r\n");
        Bytes::from(head)
    };
    MultipartFrame {
        heads: ranges.iter().enumerate().map(head).collect(),
        end: Bytes::from(format!("\r\n--{boundary}--\r\n")),
        content_type: format!("multipart/byteranges; boundary={boundary}"),
    }
}

/// The body of a 206 with several parts, and its `Content-Type`: the [`frame_parts`] with the bytes.
pub fn multipart_body(
    body: &Body,
    ranges: &[Range<u64>],
    content_type: Option<&HeaderValue>,
    boundary: &str,
) -> (Body, String) {
    let MultipartFrame { heads, end, content_type } = frame_parts(body.len(), ranges, content_type, boundary);
    let mut pieces = Vec::with_capacity(ranges.len() * 2 + 1);
    for (head, range) in heads.into_iter().zip(ranges) {
        pieces.push(head);
        pieces.extend(body.slice(range.clone()).pieces().cloned());
    }
    pieces.push(end);
    (Body::from_pieces(pieces), content_type)
}

/// Combines two parts of one content, each with the position of its first byte; `None` if there is a gap
/// between them. The caller knows by a strong validator that both are of one content (RFC 9111, 3.4).
pub fn combine_parts(have: (u64, &Body), more: (u64, &Body)) -> Option<(u64, Body)> {
    let (low, high) = if have.0 <= more.0 { (have, more) } else { (more, have) };
    let end = low.0.checked_add(low.1.len())?;
    if high.0 > end {
        return None;
    }
    let beyond = high.1.slice(end - high.0..u64::MAX);
    let pieces = low.1.pieces().chain(beyond.pieces()).cloned();
    Some((low.0, Body::from_pieces(pieces.collect())))
}

#[cfg(test)]
#[path = "range_tests.rs"]
mod tests;
