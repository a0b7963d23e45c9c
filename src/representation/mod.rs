//! What is sent: a status, fields and a body, with its validators and its encodings.
//!
//! A [`Representation`] knows nothing of caches: no age, no version, no origin. It is immutable; giving it
//! encodings makes a new one that shares the body. The heads of its answers are kept when it is sent again, so that sending
//! it copies a head and adds what differs per request.
//!
//! There are two kinds. One is described by us: of what the origin said only the content fields are kept, the tag
//! is a hash of the content, and [`Outside`] says what caches outside are told. The other is verbatim: it says what
//! the origin said, and its validators are the origin's.

mod body;
pub mod conditional;
pub mod encoding;
mod heads;
pub mod problem;
pub mod range;
pub mod respond;
pub mod stream;
pub mod transform;

pub use body::Body;

use crate::config::{self, Coding};
use bytes::BytesMut;
use conditional::Validators;
use heads::Heads;
use http::{header, HeaderMap, HeaderName, HeaderValue, StatusCode};
use pingora_http::ResponseHeader;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use transform::Content;

/// Fields that end with the connection, framing apart (RFC 9110, 7.6.1).
pub static HOP_BY_HOP: [HeaderName; 6] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    header::TE,
    header::TRAILER,
];

/// Further fields of an origin's answer that are not content: they belong to the exchange, or are made anew by
/// whoever answers (RFC 9111, 3.1).
static NOT_CONTENT: [HeaderName; 15] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
    header::DATE,
    header::AGE,
    header::CACHE_CONTROL,
    header::EXPIRES,
    header::PRAGMA,
    header::ETAG,
    header::LAST_MODIFIED,
    header::VARY,
    header::SET_COOKIE,
    header::ACCEPT_RANGES,
    HeaderName::from_static("cache-status"),
];

/// Fields of a verbatim answer that are made anew: they frame it.
static FRAMING: [HeaderName; 3] = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION];

/// A status, fields and a body, with validators and encodings.
#[derive(Debug, Clone)]
pub struct Representation {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Body,
    known: Known,
    described: Described,
    content: Content,
    no_transform: bool,
    encodable: bool,
    /// Most answers have none.
    encoded: Option<Box<[Option<Body>; 3]>>,
    heads: Heads,
}

/// Who says what it is.
#[derive(Debug, Clone)]
enum Described {
    ByUs(Outside),
    Verbatim,
}

/// What validates an answer.
#[derive(Debug, Clone, Default)]
struct Known {
    etag: Option<HeaderValue>,
    last_modified: Option<SystemTime>,
    date: Option<SystemTime>,
}

/// What caches outside are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// `Cache-Control`
    pub cache_control: HeaderValue,
    /// Whether the answer depends on who asks (`Vary: Authorization`).
    pub varies_by_authorization: bool,
}

fn slot(coding: Coding) -> usize {
    match coding {
        Coding::Brotli => 0,
        Coding::Zstd => 1,
        Coding::Gzip => 2,
    }
}

impl Known {
    fn of(headers: &[(HeaderName, HeaderValue)]) -> Self {
        let date = |name| find(headers, &name).and_then(http_date);
        Self {
            etag: find(headers, &header::ETAG).cloned(),
            last_modified: date(header::LAST_MODIFIED),
            date: date(header::DATE),
        }
    }

    fn validators(&self, ours: bool) -> Validators<'_> {
        Validators {
            etag: self.etag.as_ref().map(HeaderValue::as_bytes),
            ours,
            last_modified: self.last_modified,
            date: self.date,
        }
    }
}

impl Representation {
    /// Described by us, from its parts, as a store keeps them.
    pub fn new(
        status: StatusCode,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: impl Into<Body>,
        last_modified: Option<SystemTime>,
        outside: Outside,
        rules: &config::Encoding,
    ) -> Self {
        let (mut headers, mut outside, body) = (headers, outside, body.into());
        let mut etag = HeaderValue::from_str(&format!("\"{:032x}\"", body.hash())).ok();
        let values = headers.iter_mut().map(|(_, value)| value);
        compact(values.chain(&mut etag).chain([&mut outside.cache_control]).collect());
        headers.shrink_to_fit();
        let known = Known { etag, last_modified, date: None };
        Self::build(status, headers, body, known, Described::ByUs(outside), rules)
    }

    /// Verbatim: an answer as the origin described it. All fields are kept in their order but those that frame it,
    /// the length is made from the body, and the validators are those that the fields name.
    pub fn verbatim(
        status: StatusCode,
        mut headers: Vec<(HeaderName, HeaderValue)>,
        body: impl Into<Body>,
        rules: &config::Encoding,
    ) -> Self {
        headers.retain(|(name, _)| !FRAMING.contains(name));
        compact(headers.iter_mut().map(|(_, value)| value).collect());
        headers.shrink_to_fit();
        let known = Known::of(&headers);
        Self::build(status, headers, body.into(), known, Described::Verbatim, rules)
    }

    fn build(
        status: StatusCode,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Body,
        known: Known,
        described: Described,
        rules: &config::Encoding,
    ) -> Self {
        let all = |name| headers.iter().filter(move |(n, _)| *n == name).map(|(_, value)| value);
        let content = transform::content(all(header::CONTENT_ENCODING));
        let no_transform = transform::no_transform(all(header::CACHE_CONTROL));
        let encodable = encoding::worth_encoding(
            rules,
            find(&headers, &header::CONTENT_TYPE).map(HeaderValue::as_bytes),
            content != Content::Plain,
            no_transform,
            body.len(),
        );
        let (encoded, heads) = (None, Heads::default());
        Self { status, headers, body, known, described, content, no_transform, encodable, encoded, heads }
    }

    /// The same with another body.
    pub fn with_body(&self, body: Body, rules: &config::Encoding) -> Self {
        let (status, headers, changed) = (self.status, self.headers.clone(), self.known.last_modified);
        match &self.described {
            Described::ByUs(outside) => Self::new(status, headers, body, changed, outside.clone(), rules),
            Described::Verbatim => Self::verbatim(status, headers, body, rules),
        }
    }

    /// A verbatim answer with other fields and the same body, in the codings that there are.
    pub fn with_headers(&self, headers: Vec<(HeaderName, HeaderValue)>, rules: &config::Encoding) -> Self {
        let mut renewed = Self::verbatim(self.status, headers, self.body.clone(), rules);
        if renewed.encodable {
            renewed.encoded.clone_from(&self.encoded);
        }
        renewed
    }

    /// A verbatim part with the body of the whole.
    pub fn as_whole(&self, body: Body, rules: &config::Encoding) -> Self {
        let mut headers = self.headers.clone();
        headers.retain(|(name, _)| *name != header::CONTENT_RANGE);
        Self::verbatim(StatusCode::OK, headers, body, rules)
    }

    /// The same with every encoding of `rules` that makes it smaller; `made` hears how long each took. Takes its
    /// time: not for an async thread.
    pub fn with_encodings(&self, rules: &config::Encoding, mut made: impl FnMut(Coding, Duration)) -> Self {
        let mut whole = self.clone();
        let mut encoded = whole.encoded.take().map_or([const { None }; 3], |encoded| *encoded);
        for (coding, level) in rules.levels.iter().filter(|(coding, _)| rules.prefer.contains(coding)) {
            if self.encodable {
                let began = Instant::now();
                // An encoder that fails leaves the body plain: the answer stays right.
                encoded[slot(*coding)] = encoding::encode(*coding, *level, &self.body).unwrap_or_default();
                made(*coding, began.elapsed());
            }
        }
        whole.encoded = encoded.iter().any(Option::is_some).then(|| Box::new(encoded));
        whole
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The fields that were kept: those of the content, or all where it is verbatim. Without those that are made
    /// when it is sent.
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// The first line of a field that was kept.
    pub fn header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        find(&self.headers, name)
    }

    /// The body as the origin sent it.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// When the origin says that the content changed last.
    pub fn last_modified(&self) -> Option<SystemTime> {
        self.known.last_modified
    }

    /// The tag of the body as it is, with its quotes: a strong one of ours, or what the origin said.
    pub fn etag(&self) -> Option<&HeaderValue> {
        self.known.etag.as_ref()
    }

    /// Whether it says what the origin said.
    pub fn is_verbatim(&self) -> bool {
        matches!(self.described, Described::Verbatim)
    }

    /// Whether encodings are worth making.
    pub fn is_encodable(&self) -> bool {
        self.encodable
    }

    /// Whether it may go out in another coding than it came in: in none or one that is known here, and nothing
    /// forbids it (`Cache-Control: no-transform`).
    pub fn is_transformable(&self) -> bool {
        self.content != Content::Foreign && !self.no_transform
    }

    /// The body in a coding that was made here, if there is one.
    pub fn encoded(&self, coding: Coding) -> Option<&Body> {
        self.encoded.as_ref()?[slot(coding)].as_ref()
    }

    /// What it weighs in memory, in bytes: bodies, heads and the like.
    pub fn weight(&self) -> u64 {
        /// One kept head; measured.
        const HEADS: usize = 1_250;
        let encoded = self.encoded.iter().flat_map(|encoded| encoded.iter().flatten());
        let bodies = encoded.map(Body::weight).sum::<u64>() + self.body.weight();
        let headers = self.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 64).sum::<usize>();
        bodies + (headers + HEADS + size_of::<Self>()) as u64
    }

    /// The tag of the body in a coding: one of ours gets a suffix (`"tag"`, `"tag-br"`), one of the origin's names
    /// other bytes and is weak.
    fn etag_of(&self, coding: Option<Coding>) -> Option<HeaderValue> {
        let etag = self.known.etag.as_ref()?;
        let Some(coding) = coding else { return Some(etag.clone()) };
        match self.described {
            Described::ByUs(_) => {
                let opened = etag.as_bytes().strip_suffix(b"\"").unwrap_or_default();
                HeaderValue::from_bytes(&[opened, coding.etag_suffix().as_bytes(), b"\""].concat()).ok()
            }
            Described::Verbatim => transform::weakened(etag).or_else(|| Some(etag.clone())),
        }
    }

    fn validators(&self) -> Validators<'_> {
        self.known.validators(!self.is_verbatim())
    }

    /// The coding that its body came in and that can be taken off for who doesn't take it.
    fn removable(&self) -> Option<Coding> {
        match self.content {
            Content::Coded(coding) if self.is_verbatim() && !self.no_transform => Some(coding),
            _ => None,
        }
    }
}

/// The fields of an origin's answer that describe its content.
pub fn content_fields(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let nominated = nominated_by_connection(headers);
    headers
        .iter()
        .filter(|(name, _)| {
            ![HOP_BY_HOP.as_slice(), &NOT_CONTENT, &nominated].iter().any(|l| l.contains(name))
        })
        .filter(|(name, _)| !name.as_str().starts_with("x-accel-") && *name != "x-request-id")
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Puts values into a buffer of their own, one for all. As they came they share the buffer that their head was read into,
/// which is larger than most answers and would stay as long as any of them.
fn compact(values: Vec<&mut HeaderValue>) {
    let mut all = BytesMut::with_capacity(values.iter().map(|value| value.len()).sum());
    values.iter().for_each(|value| all.extend_from_slice(value.as_bytes()));
    let mut all = all.freeze();
    for value in values {
        let sensitive = value.is_sensitive();
        // What was a value is one.
        if let Ok(copy) = HeaderValue::from_maybe_shared(all.split_to(value.len())) {
            *value = copy;
            value.set_sensitive(sensitive);
        }
    }
}

/// When an origin says that the content changed last.
pub fn last_modified(headers: &HeaderMap) -> Option<SystemTime> {
    headers.get(header::LAST_MODIFIED).and_then(http_date)
}

fn find<'a>(headers: &'a [(HeaderName, HeaderValue)], name: &HeaderName) -> Option<&'a HeaderValue> {
    headers.iter().find(|(n, _)| n == name).map(|(_, value)| value)
}

/// A head of this status without fields.
pub fn blank(status: StatusCode) -> ResponseHeader {
    // A status that is one already can't be refused.
    ResponseHeader::build_no_case(status, Some(12)).unwrap_or_else(|_| empty_head())
}

fn empty_head() -> ResponseHeader {
    http::Response::new(()).into_parts().0.into()
}

/// Adds a field to a head.
pub fn append(head: &mut ResponseHeader, name: HeaderName, value: HeaderValue) {
    // Names and values are valid already; only a map of 32,768 fields could refuse one more.
    if let Err(error) = head.append_header(name, value) {
        tracing::warn!(%error, "a field of a head was left out");
    }
}

fn set(head: &mut ResponseHeader, name: HeaderName, value: HeaderValue) {
    if let Err(error) = head.insert_header(name, value) {
        tracing::warn!(%error, "a field of a head was left out");
    }
}

/// The fields that `Connection` names: they end with the connection as well.
pub fn nominated_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).filter_map(|n| n.trim().parse().ok()).collect()
}

fn http_date(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?.trim()).ok()
}

/// A time as HTTP writes it; `None` outside of the years that a date can name.
pub fn format_date(time: SystemTime) -> Option<HeaderValue> {
    // httpdate panics before 1970 and beyond the year 9999.
    const LAST: u64 = 253_402_300_799;
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    (seconds <= LAST).then(|| HeaderValue::from_str(&httpdate::fmt_http_date(time)).ok())?
}
