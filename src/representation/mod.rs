//! What is sent: a status, fields and a body, with its validators and its encodings.
//!
//! A [`Representation`] knows nothing of caches: no age, no version, no origin. It is immutable; giving it
//! encodings makes a new one that shares the body. Its fields are packed ([`Fields`]): a head is made of them when it is
//! sent.
//!
//! There are two kinds. One is described by us: of what the origin said only the content fields are kept, the tag
//! is a hash of the content, and [`Outside`] says what caches outside are told. The other is verbatim: it says what
//! the origin said, and its validators are the origin's.

mod body;
pub mod conditional;
pub mod encoding;
pub mod fields;
mod heads;
pub mod problem;
pub mod range;
pub mod respond;
pub mod stream;
pub mod transform;

pub use body::Body;
pub use fields::Fields;

use crate::config::{self, Coding};
use conditional::Validators;
use http::{header, HeaderMap, HeaderName, HeaderValue, StatusCode};
use pingora_http::ResponseHeader;
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
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

/// Fields of an answer of ours that say what we say. They stand before those of its content, the tag first: it is what is
/// asked for most. An origin's are not among these ([`NOT_CONTENT`]).
static OURS: [HeaderName; 2] = [header::ETAG, header::LAST_MODIFIED];

/// A status, fields and a body, with validators and encodings.
#[derive(Debug, Clone)]
pub struct Representation {
    fields: Fields,
    body: Body,
    /// Most answers have none.
    encoded: Option<Box<[Option<Body>; 3]>>,
    /// `None`: it says what the origin said. As a rule many answers share one.
    outside: Option<Arc<Outside>>,
    status: StatusCode,
    content: Content,
    no_transform: bool,
    encodable: bool,
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

/// What validates an answer that has these fields; `ours`: the tag is one of ours.
fn validators(fields: &Fields, ours: bool) -> Validators<'_> {
    let date = |name| fields.first(name).and_then(date_in);
    Validators {
        etag: fields.tag(),
        ours,
        last_modified: date(&header::LAST_MODIFIED),
        date: date(&header::DATE),
    }
}

impl Representation {
    /// Described by us, from its parts, as a store keeps them.
    pub fn new(
        status: StatusCode,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: impl Into<Body>,
        last_modified: Option<SystemTime>,
        outside: impl Into<Arc<Outside>>,
        rules: &config::Encoding,
    ) -> Self {
        let body = body.into();
        let etag = HeaderValue::from_str(&format!("\"{:032x}\"", body.hash())).ok();
        let mut all = Vec::with_capacity(headers.len() + OURS.len());
        all.extend(etag.map(|etag| (header::ETAG, etag)));
        all.extend(last_modified.and_then(format_date).map(|date| (header::LAST_MODIFIED, date)));
        all.extend(headers.into_iter().filter(|(name, _)| !OURS.contains(name)));
        Self::build(status, &all, body, Some(outside.into()), rules)
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
        Self::build(status, &headers, body.into(), None, rules)
    }

    fn build(
        status: StatusCode,
        headers: &[(HeaderName, HeaderValue)],
        body: Body,
        outside: Option<Arc<Outside>>,
        rules: &config::Encoding,
    ) -> Self {
        let fields = Fields::pack(headers.iter().map(|(name, value)| (name, value)));
        let all = |name| headers.iter().filter(move |(n, _)| *n == name).map(|(_, value)| value.as_bytes());
        let content = transform::content(all(header::CONTENT_ENCODING));
        let no_transform = transform::no_transform(all(header::CACHE_CONTROL));
        let encodable = encoding::worth_encoding(
            rules,
            all(header::CONTENT_TYPE).next(),
            content != Content::Plain,
            no_transform,
            body.len(),
        );
        let (encoded, body) = (None, body.compact());
        Self { fields, body, encoded, outside, status, content, no_transform, encodable }
    }

    /// A part that has grown: the same with a body of which its own is a part.
    pub fn with_body(&self, body: Body, rules: &config::Encoding) -> Self {
        if body.len() == self.body.len() {
            return self.clone();
        }
        let headers = self.headers_of_other_content();
        match &self.outside {
            Some(outside) => {
                Self::new(self.status, headers, body, self.last_modified(), outside.clone(), rules)
            }
            None => Self::verbatim(self.status, headers, body, rules),
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
        let mut headers = self.headers_of_other_content();
        headers.retain(|(name, _)| *name != header::CONTENT_RANGE);
        Self::verbatim(StatusCode::OK, headers, body, rules)
    }

    /// The fields that came, without the digests of what came (RFC 9530, 2; RFC 1864).
    fn headers_of_other_content(&self) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = self.headers();
        headers.retain(|(name, _)| !matches!(name.as_str(), "content-digest" | "content-md5"));
        headers
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

    /// All fields that are kept: of an answer of ours also its validators.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The fields that came: those of the content, or all where it is verbatim. Without those that are made when it is
    /// sent.
    pub fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = self.fields.unpack();
        if !self.is_verbatim() {
            headers.retain(|(name, _)| !OURS.contains(name));
        }
        headers
    }

    /// The same as they are kept.
    pub fn kept_lines(&self) -> impl Iterator<Item = fields::Line<'_>> + Clone {
        let verbatim = self.is_verbatim();
        self.fields.iter().filter(move |line| verbatim || !OURS.iter().any(|name| line.name.is(name)))
    }

    /// The first line of a field that is kept.
    pub fn header(&self, name: &HeaderName) -> Option<HeaderValue> {
        HeaderValue::from_bytes(self.fields.first(name)?).ok()
    }

    /// The body as the origin sent it.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// When the origin says that the content changed last.
    pub fn last_modified(&self) -> Option<SystemTime> {
        self.fields.first(&header::LAST_MODIFIED).and_then(date_in)
    }

    /// The tag of the body as it is, with its quotes: a strong one of ours, or what the origin said.
    pub fn etag(&self) -> Option<HeaderValue> {
        self.header(&header::ETAG)
    }

    /// Whether it says what the origin said.
    pub fn is_verbatim(&self) -> bool {
        self.outside.is_none()
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

    /// What it weighs in memory beside itself, in bytes: fields and bodies.
    pub fn weight(&self) -> u64 {
        let encoded = self.encoded.iter().flat_map(|encoded| encoded.iter().flatten());
        let bodies = encoded.map(Body::weight).sum::<u64>() + self.body.weight();
        let handles = self.encoded.as_ref().map_or(0, |encoded| size_of_val(&**encoded));
        bodies + allocated(self.fields.len()) + allocated(handles)
    }

    /// The tag of the body in a coding: one of ours gets a suffix (`"tag"`, `"tag-br"`), one of the origin's names
    /// other bytes and is weak.
    fn etag_of(&self, coding: Option<Coding>) -> Option<HeaderValue> {
        let etag = self.etag()?;
        let Some(coding) = coding else { return Some(etag) };
        match &self.outside {
            Some(_) => {
                let opened = etag.as_bytes().strip_suffix(b"\"").unwrap_or_default();
                HeaderValue::from_bytes(&[opened, coding.etag_suffix().as_bytes(), b"\""].concat()).ok()
            }
            None => transform::weakened(&etag).or(Some(etag)),
        }
    }

    /// The validators but for the dates.
    fn tag(&self) -> Validators<'_> {
        let etag = self.fields.tag();
        Validators { etag, ours: !self.is_verbatim(), ..Validators::default() }
    }

    fn validators(&self) -> Validators<'_> {
        validators(&self.fields, !self.is_verbatim())
    }

    /// The coding that its body came in and that can be taken off for who doesn't take it.
    fn removable(&self) -> Option<Coding> {
        match self.content {
            Content::Coded(coding) if self.is_verbatim() && !self.no_transform => Some(coding),
            _ => None,
        }
    }
}

/// What `bytes` bytes take of the allocator: it knows four sizes between one power of two and the next.
pub fn allocated(bytes: usize) -> u64 {
    let step = (bytes.next_power_of_two() / 8).max(16);
    bytes.next_multiple_of(step) as u64
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

/// When an origin says that the content changed last: not after its answer (RFC 9110, 8.8.2.1).
pub fn last_modified(headers: &HeaderMap) -> Option<SystemTime> {
    let changed = headers.get(header::LAST_MODIFIED).and_then(http_date)?;
    let made = headers.get(header::DATE).and_then(http_date);
    Some(made.map_or(changed, |made| changed.min(made)))
}

/// Fields for which a head has room at first.
const ROOM: usize = 12;

/// A head of this status without fields.
pub fn blank(status: StatusCode) -> ResponseHeader {
    // A status that is one already can't be refused.
    ResponseHeader::build_no_case(status, Some(ROOM)).unwrap_or_else(|_| empty_head())
}

fn empty_head() -> ResponseHeader {
    http::Response::new(()).into_parts().0.into()
}

/// A head of this status with these fields. What is appended to a head by itself is written and parsed once more.
fn filled(status: StatusCode, fields: Vec<(HeaderName, HeaderValue)>) -> ResponseHeader {
    let mut parts = http::Response::new(()).into_parts().0;
    parts.status = status;
    parts.headers.reserve(ROOM);
    for (name, value) in fields {
        if let Err(error) = parts.headers.try_append(name, value) {
            tracing::warn!(%error, "a field of a head was left out");
        }
    }
    parts.into()
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
    date_in(value.as_bytes())
}

fn date_in(value: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.is_ascii())?;
    httpdate::parse_http_date(text.trim()).ok()
}

/// A time as HTTP writes it; `None` outside of the years that a date can name.
pub fn format_date(time: SystemTime) -> Option<HeaderValue> {
    // httpdate panics before 1970 and beyond the year 9999.
    const LAST: u64 = 253_402_300_799;
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    (seconds <= LAST).then(|| HeaderValue::from_str(&httpdate::fmt_http_date(time)).ok())?
}
