//! The answer with a file: conditions, ranges, HEAD.
//!
//! Pure: a request's method and fields, and the file's facts, in; a head and a list of pieces out. No file is
//! read here. RFC 9110: 8.8 (validators), 9.3.2 (HEAD), 13 (conditions), 14 (ranges), 15.3.7 (206), 15.4.5
//! (304), 15.5.13 (412), 15.5.17 (416).

use crate::{
    http::date::format_time,
    representation::{
        conditional::{self, ConditionVerdict, Validators},
        range::{self, RangeSelection},
        response_head::{append_field, blank_head},
    },
};
use bytes::Bytes;
use http::{header, HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use pingora_http::ResponseHeader;
use std::{
    ops::Range,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use xxhash_rust::xxh3::xxh3_128;

/// The system's metadata of a file. A change of the file, or another file in its place, changes the stamp.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    /// Its length in bytes.
    pub length: u64,
    /// The time of the last change of the content (mtime): seconds since 1970, and nanoseconds. The file's
    /// owner can set it.
    pub modified: (i64, u32),
    /// The time of the last change of content or metadata (ctime), which only the system sets.
    pub changed: (i64, u32),
    /// The inode number.
    pub inode: u64,
}

/// Times before 1981, in seconds since 1970, are no dates: archives and package managers write them for an
/// unknown time (0 and 1; zip: 1980).
const FIRST_DATE: u64 = 347_155_200;

/// The length and validators of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileFacts {
    /// Its length in bytes.
    pub length: u64,
    /// A strong tag, with its quotes.
    pub etag: HeaderValue,
    /// The time of the last change; `None` if unknown.
    pub modified: Option<SystemTime>,
}

impl FileFacts {
    /// The facts of a file with this content. `suffix` distinguishes its forms (`-br`). Two machines with a
    /// copy of it make the same tag.
    pub(crate) fn of_content(content: &[u8], stamp: &FileIdentity, suffix: &str) -> Self {
        Self::tagged(xxh3_128(content), stamp, suffix)
    }

    /// The facts of a file whose content is not read. Each copy of it has a tag of its own.
    pub(crate) fn of_file(stamp: &FileIdentity, suffix: &str) -> Self {
        Self::tagged(xxh3_128(format!("{stamp:?}").as_bytes()), stamp, suffix)
    }

    fn tagged(hash: u128, stamp: &FileIdentity, suffix: &str) -> Self {
        let (seconds, nanoseconds) = stamp.modified;
        let since = u64::try_from(seconds).ok().filter(|seconds| *seconds >= FIRST_DATE);
        let since = since.map(|seconds| Duration::new(seconds, nanoseconds));
        Self {
            length: stamp.length,
            // Digits, letters and signs.
            etag: HeaderValue::try_from(format!("\"{hash:032x}{suffix}\""))
                .unwrap_or(HeaderValue::from_static("\"\"")),
            modified: since.and_then(|since| UNIX_EPOCH.checked_add(since)),
        }
    }
}

/// The planned answer.
#[derive(Debug)]
pub(crate) struct SendPlan {
    /// The head, with its length.
    pub head: Box<ResponseHeader>,
    /// The body; empty for HEAD, 304, 412 and 416.
    pub pieces: Vec<FilePiece>,
}

/// A piece of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FilePiece {
    /// Bytes in memory.
    Here(Bytes),
    /// A range of the file, not empty.
    File(Range<u64>),
}

/// Fields that describe the bytes of a 200: a 304, a 412 and a 416 have none of them (15.4.5).
static CONTENT_FIELDS: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE, header::CONTENT_DISPOSITION];

/// Plans the answer with a file that has these fields. `now` gives the age of its date of change; a date in
/// the future is sent as now (RFC 9110, 8.8.2.1).
pub(crate) fn plan_answer(
    method: &Method,
    request: &HeaderMap,
    facts: &FileFacts,
    fields: &[(HeaderName, HeaderValue)],
    now: SystemTime,
) -> SendPlan {
    let facts = &FileFacts { modified: facts.modified.map(|modified| modified.min(now)), ..facts.clone() };
    let validators = Validators {
        etag: Some(facts.etag.as_bytes()),
        ours: false,
        last_modified: facts.modified,
        date: Some(now),
    };
    match conditional::evaluate_preconditions(method, request, &validators) {
        ConditionVerdict::Send => {}
        ConditionVerdict::NotModified => return plan_bodyless(StatusCode::NOT_MODIFIED, facts, fields),
        ConditionVerdict::PreconditionFailed => {
            return plan_bodyless(StatusCode::PRECONDITION_FAILED, facts, fields)
        }
    }
    let mut plan = match *method == Method::GET && !refuses_ranges(fields) {
        true => match range::select_range(request, &validators, facts.length) {
            RangeSelection::Whole => plan_whole(facts, fields),
            RangeSelection::Single(range) => plan_range(range, facts, fields),
            RangeSelection::Several(ranges) => plan_multipart(&ranges, facts, fields),
            RangeSelection::Unsatisfiable => plan_unsatisfiable(facts, fields),
        },
        false => plan_whole(facts, fields),
    };
    if *method == Method::HEAD {
        plan.pieces.clear();
    }
    plan
}

/// Returns true if the fields forbid ranges (`Accept-Ranges: none`).
fn refuses_ranges(fields: &[(HeaderName, HeaderValue)]) -> bool {
    fields.iter().any(|(name, value)| *name == header::ACCEPT_RANGES && value.as_bytes() == b"none")
}

fn answer_head(
    status: StatusCode,
    facts: &FileFacts,
    fields: &[(HeaderName, HeaderValue)],
    skip: &[HeaderName],
) -> Box<ResponseHeader> {
    let mut head = Box::new(blank_head(status));
    for (name, value) in fields.iter().filter(|(name, _)| !skip.contains(name)) {
        append_field(&mut head, name.clone(), value.clone());
    }
    append_field(&mut head, header::ETAG, facts.etag.clone());
    if let Some(date) = facts.modified.and_then(format_time) {
        append_field(&mut head, header::LAST_MODIFIED, date);
    }
    if !head.headers.contains_key(header::ACCEPT_RANGES) {
        append_field(&mut head, header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    head
}

fn plan_bodyless(status: StatusCode, facts: &FileFacts, fields: &[(HeaderName, HeaderValue)]) -> SendPlan {
    let mut head = answer_head(status, facts, fields, &CONTENT_FIELDS);
    if status != StatusCode::NOT_MODIFIED {
        append_field(&mut head, header::CONTENT_LENGTH, HeaderValue::from(0));
    }
    SendPlan { head, pieces: Vec::new() }
}

fn plan_whole(facts: &FileFacts, fields: &[(HeaderName, HeaderValue)]) -> SendPlan {
    let mut head = answer_head(StatusCode::OK, facts, fields, &[]);
    append_field(&mut head, header::CONTENT_LENGTH, HeaderValue::from(facts.length));
    let pieces = (facts.length > 0).then_some(FilePiece::File(0..facts.length));
    SendPlan { head, pieces: pieces.into_iter().collect() }
}

fn plan_range(range: Range<u64>, facts: &FileFacts, fields: &[(HeaderName, HeaderValue)]) -> SendPlan {
    let mut head = answer_head(StatusCode::PARTIAL_CONTENT, facts, fields, &[]);
    append_field(&mut head, header::CONTENT_RANGE, digits_value(range::content_range(&range, facts.length)));
    append_field(&mut head, header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    SendPlan { head, pieces: vec![FilePiece::File(range)] }
}

fn plan_multipart(
    ranges: &[Range<u64>],
    facts: &FileFacts,
    fields: &[(HeaderName, HeaderValue)],
) -> SendPlan {
    let kind = fields.iter().find(|(name, _)| *name == header::CONTENT_TYPE).map(|(_, value)| value);
    // An author who writes it into the file misleads the readers of that file alone.
    let boundary = format!("{:032x}", xxh3_128(format!("{:?} {ranges:?}", facts.etag).as_bytes()));
    let frame = range::frame_parts(facts.length, ranges, kind, &boundary);
    let mut head = answer_head(StatusCode::PARTIAL_CONTENT, facts, fields, &[header::CONTENT_TYPE]);
    append_field(&mut head, header::CONTENT_TYPE, digits_value(frame.content_type));
    let mut pieces = Vec::with_capacity(ranges.len() * 2 + 1);
    for (head, range) in frame.heads.into_iter().zip(ranges) {
        pieces.extend([FilePiece::Here(head), FilePiece::File(range.clone())]);
    }
    pieces.push(FilePiece::Here(frame.end));
    append_field(&mut head, header::CONTENT_LENGTH, HeaderValue::from(body_length(&pieces)));
    SendPlan { head, pieces }
}

fn plan_unsatisfiable(facts: &FileFacts, fields: &[(HeaderName, HeaderValue)]) -> SendPlan {
    let mut plan = plan_bodyless(StatusCode::RANGE_NOT_SATISFIABLE, facts, fields);
    append_field(&mut plan.head, header::CONTENT_RANGE, digits_value(range::unsatisfied_range(facts.length)));
    plan
}

/// The length in bytes of a body of these pieces.
pub(crate) fn body_length(pieces: &[FilePiece]) -> u64 {
    let of = |piece: &FilePiece| match piece {
        FilePiece::Here(bytes) => bytes.len() as u64,
        FilePiece::File(range) => range.end - range.start,
    };
    pieces.iter().map(of).sum()
}

/// A field value of digits and signs.
fn digits_value(value: String) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
