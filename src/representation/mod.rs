//! Representations: a status, fields and a body, with validators and encodings.
//!
//! A [`Representation`] knows nothing of caches: no age, no version, no origin. It is immutable; giving it
//! encodings makes a new one that shares the body. Its fields are packed ([`PackedFields`]): a head is made
//! of them when it is sent.
//!
//! There are two kinds. One is described by the gateway: only the content fields of the origin's answer are
//! kept, the tag is a hash of the content, and [`OutsideCaching`] has the fields for downstream caches. The
//! other is verbatim: it repeats the origin's fields, and its validators are the origin's.

mod body;
pub(crate) mod conditional;
pub mod encoding;
pub(crate) mod fields;
mod heads;
pub(crate) mod problem;
pub mod range;
pub(crate) mod respond;
pub(crate) mod response_head;

pub use {
    body::{allocated_size, Body},
    fields::PackedFields,
    response_head::blank_head,
};

use super::http::{
    cache_status::CACHE_STATUS,
    date::{format_time, parse_time},
    hop_by_hop::{connection_options, is_hop_by_hop},
    names::is_for_gateway,
};
use crate::config::{self, ContentCoding};
use conditional::Validators;
use encoding::transform::BodyCoding;

use http::{header, HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// Further fields of an origin's answer that do not describe its content: they belong to the exchange, or are
/// made anew by the sender (RFC 9111, 3.1).
static NON_CONTENT_FIELDS: [HeaderName; 12] = [
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
    CACHE_STATUS,
];

/// Framing fields of a verbatim answer, which are made anew.
static FRAMING_FIELDS: [HeaderName; 3] =
    [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION];

/// Fields that the gateway makes for an answer that it describes. They come before those of the content, the
/// tag first, since it is read most. An origin's are left out ([`NON_CONTENT_FIELDS`]).
static GATEWAY_FIELDS: [HeaderName; 2] = [header::ETAG, header::LAST_MODIFIED];

/// A status, fields and a body, with validators and encodings.
#[derive(Debug, Clone)]
pub struct Representation {
    fields: PackedFields,
    body: Body,
    /// Most answers have none.
    encoded: Option<Box<[Option<Body>; 3]>>,
    /// `None`: a verbatim answer. As a rule many answers share one.
    outside: Option<Arc<OutsideCaching>>,
    status: StatusCode,
    content: BodyCoding,
    no_transform: bool,
    encodable: bool,
}

/// The fields for downstream caches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutsideCaching {
    /// `Cache-Control`
    pub cache_control: HeaderValue,
    /// True if the answer depends on the credentials (`Vary: Authorization`).
    pub varies_by_authorization: bool,
}

fn coding_slot(coding: ContentCoding) -> usize {
    match coding {
        ContentCoding::Brotli => 0,
        ContentCoding::Zstd => 1,
        ContentCoding::Gzip => 2,
    }
}

/// The validators of an answer that has these fields; `ours`: the gateway made the tag.
fn validators(fields: &PackedFields, ours: bool) -> Validators<'_> {
    let date = |name| fields.first(name).and_then(parse_time);
    Validators {
        etag: fields.tag(),
        ours,
        last_modified: date(&header::LAST_MODIFIED),
        date: date(&header::DATE),
    }
}

impl Representation {
    /// Makes an answer described by the gateway from its parts, as a store keeps them.
    pub fn new(
        status: StatusCode,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: impl Into<Body>,
        last_modified: Option<SystemTime>,
        outside: impl Into<Arc<OutsideCaching>>,
        rules: &config::EncodingConfig,
    ) -> Self {
        let body = body.into();
        let etag = HeaderValue::from_str(&format!("\"{:032x}\"", body.hash())).ok();
        let mut all = Vec::with_capacity(headers.len() + GATEWAY_FIELDS.len());
        all.extend(etag.map(|etag| (header::ETAG, etag)));
        all.extend(last_modified.and_then(format_time).map(|date| (header::LAST_MODIFIED, date)));
        all.extend(headers.into_iter().filter(|(name, _)| !GATEWAY_FIELDS.contains(name)));
        Self::build(status, &all, body, Some(outside.into()), rules)
    }

    /// Makes a verbatim answer. All fields are kept in their order except framing fields; the length is that
    /// of the body, and the validators are those that the fields name.
    pub fn verbatim(
        status: StatusCode,
        mut headers: Vec<(HeaderName, HeaderValue)>,
        body: impl Into<Body>,
        rules: &config::EncodingConfig,
    ) -> Self {
        headers.retain(|(name, _)| !FRAMING_FIELDS.contains(name));
        Self::build(status, &headers, body.into(), None, rules)
    }

    fn build(
        status: StatusCode,
        headers: &[(HeaderName, HeaderValue)],
        body: Body,
        outside: Option<Arc<OutsideCaching>>,
        rules: &config::EncodingConfig,
    ) -> Self {
        let fields = PackedFields::pack(headers.iter().map(|(name, value)| (name, value)));
        let all = |name| headers.iter().filter(move |(n, _)| *n == name).map(|(_, value)| value.as_bytes());
        let content = encoding::transform::body_coding(all(header::CONTENT_ENCODING));
        let no_transform = encoding::transform::forbids_transform(all(header::CACHE_CONTROL));
        let encodable = encoding::is_worth_encoding(
            rules,
            all(header::CONTENT_TYPE).next(),
            content != BodyCoding::Plain,
            no_transform,
            body.len(),
        );
        let (encoded, body) = (None, body.compact());
        Self { fields, body, encoded, outside, status, content, no_transform, encodable }
    }

    /// The same with a longer body, of which the present one is a part.
    pub fn with_body(&self, body: Body, rules: &config::EncodingConfig) -> Self {
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

    /// The same verbatim answer with other fields, and the body in the codings that were made.
    pub fn with_headers(
        &self,
        headers: Vec<(HeaderName, HeaderValue)>,
        rules: &config::EncodingConfig,
    ) -> Self {
        let mut renewed = Self::verbatim(self.status, headers, self.body.clone(), rules);
        if renewed.encodable {
            renewed.encoded.clone_from(&self.encoded);
        }
        renewed
    }

    /// A verbatim part with the body of the whole answer.
    pub fn as_whole(&self, body: Body, rules: &config::EncodingConfig) -> Self {
        let mut headers = self.headers_of_other_content();
        headers.retain(|(name, _)| *name != header::CONTENT_RANGE);
        Self::verbatim(StatusCode::OK, headers, body, rules)
    }

    /// The origin's fields, without digests of the content as received (RFC 9530, 2; RFC 1864).
    fn headers_of_other_content(&self) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = self.headers();
        headers.retain(|(name, _)| !matches!(name.as_str(), "content-digest" | "content-md5"));
        headers
    }

    /// The same with every encoding of `rules` that makes it smaller; `made` is called with the time that
    /// each took. CPU-bound: not for an async thread.
    pub fn with_encodings(
        &self,
        rules: &config::EncodingConfig,
        mut made: impl FnMut(ContentCoding, Duration),
    ) -> Self {
        let mut whole = self.clone();
        let mut encoded = whole.encoded.take().map_or([const { None }; 3], |encoded| *encoded);
        for (coding, level) in rules.levels.iter().filter(|(coding, _)| rules.prefer.contains(coding)) {
            if self.encodable {
                let began = Instant::now();
                // If an encoder fails, the answer stays plain, which is still correct.
                encoded[coding_slot(*coding)] =
                    encoding::encode_body(*coding, *level, &self.body).unwrap_or_default();
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

    /// All stored fields, with the validators of an answer described by the gateway.
    pub fn fields(&self) -> &PackedFields {
        &self.fields
    }

    /// The origin's fields: those of the content, or all of a verbatim answer. Without those that are made
    /// when it is sent.
    pub fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = self.fields.unpack();
        if !self.is_verbatim() {
            headers.retain(|(name, _)| !GATEWAY_FIELDS.contains(name));
        }
        headers
    }

    /// The same in packed form.
    pub fn stored_lines(&self) -> impl Iterator<Item = fields::PackedLine<'_>> + Clone {
        let verbatim = self.is_verbatim();
        self.fields
            .iter()
            .filter(move |line| verbatim || !GATEWAY_FIELDS.iter().any(|name| line.name.is(name)))
    }

    /// The first line of a stored field.
    pub fn header(&self, name: &HeaderName) -> Option<HeaderValue> {
        HeaderValue::from_bytes(self.fields.first(name)?).ok()
    }

    /// The body as the origin sent it.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// The time when the content changed last, according to the origin.
    pub fn last_modified(&self) -> Option<SystemTime> {
        self.fields.first(&header::LAST_MODIFIED).and_then(parse_time)
    }

    /// The tag of the body as it is, with its quotes: a strong one made by the gateway, or the origin's.
    pub fn etag(&self) -> Option<HeaderValue> {
        self.header(&header::ETAG)
    }

    /// Returns true if it repeats the origin's fields.
    pub fn is_verbatim(&self) -> bool {
        self.outside.is_none()
    }

    /// Returns true if encodings are worth making.
    pub fn is_encodable(&self) -> bool {
        self.encodable
    }

    /// Returns true if it may be sent in another coding than it came in: it came in none or a known one, and
    /// transformation is allowed (no `Cache-Control: no-transform`).
    pub fn is_transformable(&self) -> bool {
        self.content != BodyCoding::Foreign && !self.no_transform
    }

    /// The body in a coding that was made here, if there is one.
    pub fn encoded(&self, coding: ContentCoding) -> Option<&Body> {
        self.encoded.as_ref()?[coding_slot(coding)].as_ref()
    }

    /// The memory that it takes beside itself, in bytes: fields and bodies.
    pub fn weight(&self) -> u64 {
        let encoded = self.encoded.iter().flat_map(|encoded| encoded.iter().flatten());
        let bodies = encoded.map(Body::weight).sum::<u64>() + self.body.weight();
        let handles = self.encoded.as_ref().map_or(0, |encoded| size_of_val(&**encoded));
        bodies + allocated_size(self.fields.len()) + allocated_size(handles)
    }

    /// The tag of the body in a coding: one made by the gateway gets a suffix (`"tag"`, `"tag-br"`); an
    /// origin's names other bytes and becomes weak.
    fn etag_of(&self, coding: Option<ContentCoding>) -> Option<HeaderValue> {
        let etag = self.etag()?;
        let Some(coding) = coding else { return Some(etag) };
        match &self.outside {
            Some(_) => {
                let opened = etag.as_bytes().strip_suffix(b"\"").unwrap_or_default();
                HeaderValue::from_bytes(&[opened, coding.etag_suffix().as_bytes(), b"\""].concat()).ok()
            }
            None => encoding::transform::weaken_tag(&etag).or(Some(etag)),
        }
    }

    /// The validators except the dates.
    fn tag(&self) -> Validators<'_> {
        let etag = self.fields.tag();
        Validators { etag, ours: !self.is_verbatim(), ..Validators::default() }
    }

    fn validators(&self) -> Validators<'_> {
        validators(&self.fields, !self.is_verbatim())
    }

    /// The coding that its body came in and that can be decoded for clients that don't accept it.
    fn removable(&self) -> Option<ContentCoding> {
        match self.content {
            BodyCoding::Coded(coding) if self.is_verbatim() && !self.no_transform => Some(coding),
            _ => None,
        }
    }
}

/// The fields of an origin's answer that describe its content.
pub fn content_fields(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let nominated = connection_options(headers);
    headers
        .iter()
        .filter(|(name, _)| {
            !is_hop_by_hop(name) && !NON_CONTENT_FIELDS.contains(name) && !nominated.contains(name)
        })
        .filter(|(name, _)| !is_for_gateway(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The time of the last change according to an origin: not later than its answer (RFC 9110, 8.8.2.1).
pub fn last_modified(headers: &HeaderMap) -> Option<SystemTime> {
    let changed = headers.get(header::LAST_MODIFIED).and_then(|value| parse_time(value.as_bytes()))?;
    let made = headers.get(header::DATE).and_then(|value| parse_time(value.as_bytes()));
    Some(made.map_or(changed, |made| changed.min(made)))
}
