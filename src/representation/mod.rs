//! What is sent: a status, content headers and a body, with its validators and its encodings.
//!
//! A [`Representation`] knows nothing of caches: no age, no version, no origin. It is immutable; giving it
//! encodings makes a new one that shares the body. The heads of its answers are prepared once, so that sending
//! it copies a head and adds what differs per request.

pub mod conditional;
pub mod encoding;
pub mod problem;
pub mod respond;

use crate::config::{self, Coding};
use bytes::Bytes;
use http::{header, HeaderMap, HeaderName, HeaderValue, StatusCode};
use pingora_http::ResponseHeader;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use xxhash_rust::xxh3::xxh3_128;

/// Fields that end with the connection, framing apart (RFC 9110, 7.6.1).
pub const HOP_BY_HOP: [HeaderName; 6] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    header::TE,
    header::TRAILER,
];

/// Further fields of an origin's answer that are not content: they belong to the exchange, or are made anew by
/// whoever answers (RFC 9111, 3.1).
const NOT_CONTENT: [HeaderName; 15] = [
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

/// A status, content headers and a body, with validators and encodings.
#[derive(Debug, Clone)]
pub struct Representation {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    etag: Box<str>,
    last_modified: Option<SystemTime>,
    outside: Outside,
    encodable: bool,
    encoded: [Option<Bytes>; 3],
    heads: Box<Heads>,
}

#[derive(Debug, Clone)]
struct Heads {
    identity: ResponseHeader,
    encoded: [Option<ResponseHeader>; 3],
    not_modified: ResponseHeader,
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

impl Representation {
    /// From an origin's answer: its content headers are kept, everything else is left behind.
    pub fn from_origin(
        status: StatusCode,
        headers: &HeaderMap,
        body: Bytes,
        outside: Outside,
        rules: &config::Encoding,
    ) -> Self {
        let nominated = nominated_by_connection(headers);
        let kept = headers
            .iter()
            .filter(|(name, _)| {
                ![HOP_BY_HOP.as_slice(), &NOT_CONTENT, &nominated].iter().any(|l| l.contains(name))
            })
            .filter(|(name, _)| !name.as_str().starts_with("x-accel-") && *name != "x-request-id")
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let last_modified = headers.get(header::LAST_MODIFIED).and_then(http_date);
        Self::new(status, kept, body, last_modified, outside, rules)
    }

    /// From its parts, as a store keeps them.
    pub fn new(
        status: StatusCode,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Bytes,
        last_modified: Option<SystemTime>,
        outside: Outside,
        rules: &config::Encoding,
    ) -> Self {
        let find = |name: HeaderName| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_bytes());
        let encodable = encoding::worth_encoding(
            rules,
            find(header::CONTENT_TYPE),
            find(header::CONTENT_ENCODING).is_some(),
            false,
            body.len() as u64,
        );
        let etag = format!("\"{:032x}\"", xxh3_128(&body)).into_boxed_str();
        let heads = Box::new(Heads::blank());
        let encoded = [None, None, None];
        let mut made =
            Self { status, headers, body, etag, last_modified, outside, encodable, encoded, heads };
        made.prepare_heads();
        made
    }

    /// The same with every encoding of `rules` that makes it smaller; `made` hears how long each took. Takes its
    /// time: not for an async thread.
    pub fn with_encodings(&self, rules: &config::Encoding, mut made: impl FnMut(Coding, Duration)) -> Self {
        let mut whole = self.clone();
        for (coding, level) in rules.levels.iter().filter(|(coding, _)| rules.prefer.contains(coding)) {
            if self.encodable {
                let began = Instant::now();
                // An encoder that fails leaves the body plain: the answer stays right.
                whole.encoded[slot(*coding)] =
                    encoding::encode(*coding, *level, &self.body).unwrap_or_default();
                made(*coding, began.elapsed());
            }
        }
        whole.prepare_heads();
        whole
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The content headers, without validators.
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// The body as the origin sent it.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// When the origin says that the content changed last.
    pub fn last_modified(&self) -> Option<SystemTime> {
        self.last_modified
    }

    /// The strong tag of the plain body, with its quotes.
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// Whether encodings are worth making.
    pub fn is_encodable(&self) -> bool {
        self.encodable
    }

    /// The body in a coding, if there is one.
    pub fn encoded(&self, coding: Coding) -> Option<&Bytes> {
        self.encoded[slot(coding)].as_ref()
    }

    /// What it weighs in memory, in bytes: bodies, heads and the like.
    pub fn weight(&self) -> u64 {
        const HEADS: usize = 1_500;
        let bodies = self.encoded.iter().flatten().map(Bytes::len).sum::<usize>() + self.body.len();
        let headers = self.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 64).sum::<usize>();
        (bodies + headers + HEADS + size_of::<Self>()) as u64
    }

    fn head(&self, coding: Option<Coding>) -> Option<&ResponseHeader> {
        match coding {
            None => Some(&self.heads.identity),
            Some(coding) => self.heads.encoded[slot(coding)].as_ref(),
        }
    }

    fn prepare_heads(&mut self) {
        let mut heads = Heads::blank();
        heads.identity = self.make_head(None, self.body.len());
        for coding in [Coding::Brotli, Coding::Zstd, Coding::Gzip] {
            heads.encoded[slot(coding)] = self.encoded(coding).map(|b| self.make_head(Some(coding), b.len()));
        }
        heads.not_modified = self.make_not_modified();
        *self.heads = heads;
    }

    fn make_head(&self, coding: Option<Coding>, length: usize) -> ResponseHeader {
        let mut head = blank(self.status);
        for (name, value) in &self.headers {
            append(&mut head, name.clone(), value.clone());
        }
        if let Some(coding) = coding {
            append(&mut head, header::CONTENT_ENCODING, HeaderValue::from_static(coding.token()));
        }
        // RFC 9110, 8.6
        if self.status != StatusCode::NO_CONTENT {
            append(&mut head, header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        self.append_common(&mut head, coding);
        head
    }

    /// RFC 9110, 15.4.5: what a 200 would have said of validators and caching, and nothing of the content.
    fn make_not_modified(&self) -> ResponseHeader {
        let mut head = blank(StatusCode::NOT_MODIFIED);
        self.append_common(&mut head, None);
        head
    }

    fn append_common(&self, head: &mut ResponseHeader, coding: Option<Coding>) {
        // Only a 200 is a representation that a client could hold and ask about.
        if let (StatusCode::OK, Ok(etag)) = (self.status, HeaderValue::from_str(&self.etag_of(coding))) {
            append(head, header::ETAG, etag);
        }
        if let Some(date) = self.last_modified.and_then(format_date) {
            append(head, header::LAST_MODIFIED, date);
        }
        append(head, header::CACHE_CONTROL, self.outside.cache_control.clone());
        let vary = match (self.encodable, self.outside.varies_by_authorization) {
            (true, true) => "Accept-Encoding, Authorization",
            (true, false) => "Accept-Encoding",
            (false, true) => "Authorization",
            (false, false) => return,
        };
        append(head, header::VARY, HeaderValue::from_static(vary));
    }

    /// The strong tag of the body in a coding: `"tag"`, `"tag-br"`.
    pub fn etag_of(&self, coding: Option<Coding>) -> String {
        match coding {
            None => self.etag.to_string(),
            Some(coding) => {
                format!("{}{}\"", self.etag.trim_end_matches('"'), coding.etag_suffix())
            }
        }
    }
}

impl Heads {
    fn blank() -> Self {
        Self {
            identity: blank(StatusCode::OK),
            encoded: [None, None, None],
            not_modified: blank(StatusCode::NOT_MODIFIED),
        }
    }
}

fn blank(status: StatusCode) -> ResponseHeader {
    // A status that is one already can't be refused.
    ResponseHeader::build_no_case(status, Some(12)).unwrap_or_else(|_| empty_head())
}

fn empty_head() -> ResponseHeader {
    http::Response::new(()).into_parts().0.into()
}

fn append(head: &mut ResponseHeader, name: HeaderName, value: HeaderValue) {
    // Names and values are valid already; only a map of 32,768 fields could refuse one more.
    if let Err(error) = head.append_header(name, value) {
        tracing::warn!(%error, "a field of a head was left out");
    }
}

/// The fields that `Connection` names: they end with the connection as well.
pub fn nominated_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).filter_map(|n| n.trim().parse().ok()).collect()
}

fn http_date(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

fn format_date(time: SystemTime) -> Option<HeaderValue> {
    // httpdate panics before 1970 and beyond the year 9999.
    const LAST: u64 = 253_402_300_799;
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    (seconds <= LAST).then(|| HeaderValue::from_str(&httpdate::fmt_http_date(time)).ok())?
}
