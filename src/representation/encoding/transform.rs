//! Content codings of answers in transit, and the effect of a change of coding on a head.
//!
//! Pure: a request and an answer's head in, a verdict or a changed head out; the codecs themselves are in
//! `stream`. RFC 9110: 7.7 (`no-transform`), 8.4 (`Content-Encoding`), 8.8.1 (strong tags name bytes), 12.5.3
//! (`Accept-Encoding`), 12.5.5 (`Vary`); RFC 9530 (digests).

use crate::{
    config::{self, ContentCoding},
    http::{
        field_lines::{field_lines, joined_lines},
        framing::content_length::content_length,
        framing::has_body::status_has_body,
    },
    representation::{conditional, encoding, response_head::set_field},
};

use http::{header, HeaderMap, HeaderName, HeaderValue, StatusCode};
use pingora_http::ResponseHeader;

/// The transformation of a body while it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyTransform {
    /// It is plain and is encoded.
    Encode(ContentCoding),
    /// It is in this coding and is decoded.
    Decode(ContentCoding),
}

/// The coding of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyCoding {
    Plain,
    /// One that can be decoded here.
    Coded(ContentCoding),
    /// An unknown one, or several.
    Foreign,
}

/// Fields that describe the very bytes that are sent, and are wrong for any others.
static BYTE_FIELDS: [HeaderName; 3] =
    [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::ACCEPT_RANGES];

/// Digests (RFC 9530, RFC 3230, RFC 1864): for content that was encoded here they would be wrong.
pub(crate) static DIGEST_FIELDS: [HeaderName; 4] = [
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// Fits the head of an answer to GET or HEAD in transit to the form in which it is sent; `transform` is the
/// transformation of its body.
pub fn fit_head(
    head: &mut ResponseHeader,
    request: &HeaderMap,
    transform: Option<BodyTransform>,
    rules: &config::EncodingConfig,
) {
    adjust_head(head, transform, rules);
    restore_held_tag(head, request);
}

/// Gives a 304 the tag of the answer that its client holds (RFC 9111, 4.3.4): if that was sent in another
/// coding than it was received in, its tag is weak, and the client holds no answer with the strong one.
fn restore_held_tag(head: &mut ResponseHeader, request: &HeaderMap) {
    if head.status != StatusCode::NOT_MODIFIED {
        return;
    }
    let Some(etag) = head.headers.get(header::ETAG).cloned() else { return };
    let Some(weak) = weaken_tag(&etag) else { return };
    if let Some(held) = conditional::held_tag(request, [etag, weak]) {
        set_field(head, header::ETAG, held);
    }
}

/// Plans the transformation of an origin's answer on its way to the client; `None`: it passes as it is. So
/// does an event stream: an encoder would hold back its events. A HEAD's head is that of the answer to GET
/// (RFC 9110, 9.3.2).
pub fn plan_transform(
    request: &HeaderMap,
    status: StatusCode,
    answer: &HeaderMap,
    rules: &config::EncodingConfig,
) -> Option<BodyTransform> {
    let alternative = alternative_form(status, answer, rules)?;
    if forbids_transform(field_lines(request, &header::CACHE_CONTROL)) {
        return None;
    }
    decide_transform(alternative, joined_lines(request, &header::ACCEPT_ENCODING).as_deref(), rules)
}

/// The plan for an answer that was made for another request: if the origin chose its coding by
/// `Accept-Encoding`, a client without that field accepts none.
pub fn plan_shared_transform(
    request: &HeaderMap,
    status: StatusCode,
    answer: &HeaderMap,
    rules: &config::EncodingConfig,
) -> Option<BodyTransform> {
    let says_nothing = !request.contains_key(header::ACCEPT_ENCODING);
    if says_nothing && varies_by_encoding(field_lines(answer, &header::VARY)) {
        return decide_transform(alternative_form(status, answer, rules)?, Some(b"identity"), rules);
    }
    plan_transform(request, status, answer, rules)
}

/// Returns true if the lines of a `Vary` name `Accept-Encoding`.
pub(crate) fn varies_by_encoding<'a>(lines: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut names = lines.flat_map(|line| line.split(|&b| b == b','));
    names.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"accept-encoding"))
}

/// The transformation of content that may be sent in another form.
fn decide_transform(
    content: BodyCoding,
    accepted: Option<&[u8]>,
    rules: &config::EncodingConfig,
) -> Option<BodyTransform> {
    match content {
        BodyCoding::Plain => {
            let choice = encoding::negotiate_coding(accepted, &rules.prefer, |_| true);
            choice.coding().map(BodyTransform::Encode)
        }
        BodyCoding::Coded(coding) => {
            refuses_coding(accepted, coding).then_some(BodyTransform::Decode(coding))
        }
        BodyCoding::Foreign => None,
    }
}

/// Changes the head of an answer in transit to fit its body; `transform` is the plan for it. If another
/// client could get another form, `Vary` says so, even if this one is unchanged.
fn adjust_head(head: &mut ResponseHeader, transform: Option<BodyTransform>, rules: &config::EncodingConfig) {
    if alternative_form(head.status, &head.headers, rules).is_some() {
        vary_by_encoding(head);
    }
    match transform {
        Some(BodyTransform::Encode(coding)) => recode_head(head, Some(coding)),
        Some(BodyTransform::Decode(_)) => recode_head(head, None),
        None => {}
    }
}

/// The present coding of an answer that may be sent in another form as well.
fn alternative_form(
    status: StatusCode,
    answer: &HeaderMap,
    rules: &config::EncodingConfig,
) -> Option<BodyCoding> {
    // The body of a 205 is empty (RFC 9110, 15.3.6), and ranges refer to one coding.
    const LEFT_ALONE: [StatusCode; 2] = [StatusCode::RESET_CONTENT, StatusCode::PARTIAL_CONTENT];
    if !status_has_body(status) || LEFT_ALONE.contains(&status) {
        return None;
    }
    let content = body_coding(field_lines(answer, &header::CONTENT_ENCODING));
    let worth = match content {
        BodyCoding::Plain => is_worth_encoding(answer, rules),
        BodyCoding::Coded(_) => content_length(answer) != Some(0),
        BodyCoding::Foreign => false,
    };
    // Tested last: most answers are too short, or encoded already.
    let may_change = || {
        !answer.contains_key(header::CONTENT_RANGE)
            && !forbids_transform(field_lines(answer, &header::CACHE_CONTROL))
    };
    (worth && may_change()).then_some(content)
}

fn is_worth_encoding(answer: &HeaderMap, rules: &config::EncodingConfig) -> bool {
    let length = content_length(answer).unwrap_or(u64::MAX);
    if length < rules.min_size {
        return false;
    }
    let kind = answer.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let events = kind.is_some_and(|kind| {
        kind.split(|&b| b == b';')
            .next()
            .is_some_and(|e| e.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
    });
    !events && encoding::is_worth_encoding(rules, kind, false, false, length)
}

/// The coding of a body according to the lines of `Content-Encoding`.
pub(crate) fn body_coding<'a>(lines: impl Iterator<Item = &'a [u8]>) -> BodyCoding {
    let members = lines.flat_map(|line| line.split(|&b| b == b','));
    let mut codings = members
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity"));
    match (codings.next(), codings.next()) {
        (None, _) => BodyCoding::Plain,
        (Some(one), None) => ContentCoding::of_token(one).map_or(BodyCoding::Foreign, BodyCoding::Coded),
        _ => BodyCoding::Foreign,
    }
}

/// Returns true if the lines of a `Cache-Control` forbid a change of the coding.
pub(crate) fn forbids_transform<'a>(lines: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut directives = lines.flat_map(|line| line.split(|&b| b == b','));
    directives.any(|directive| directive.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
}

/// Returns true if a client with this `Accept-Encoding` can't accept `coding`, but accepts identity. A client
/// without the field accepts everything.
pub(crate) fn refuses_coding(accepted: Option<&[u8]>, coding: ContentCoding) -> bool {
    accepted
        .is_some_and(|value| !encoding::accepts_coding(value, coding) && encoding::accepts_identity(value))
}

/// Changes a head for the same content in another coding, or in none: the bytes differ, so fields about the
/// original bytes are removed, and a strong tag becomes weak.
pub(crate) fn recode_head(head: &mut ResponseHeader, coding: Option<ContentCoding>) {
    for name in BYTE_FIELDS.iter().chain(&DIGEST_FIELDS) {
        head.remove_header(name);
    }
    if let Some(coding) = coding {
        set_field(head, header::CONTENT_ENCODING, HeaderValue::from_static(coding.token()));
    }
    if let Some(weak) = head.headers.get(header::ETAG).and_then(weaken_tag) {
        set_field(head, header::ETAG, weak);
    }
}

/// The weak form of a strong tag.
pub(crate) fn weaken_tag(etag: &HeaderValue) -> Option<HeaderValue> {
    let strong = etag.as_bytes().starts_with(b"\"");
    strong.then(|| HeaderValue::from_bytes(&[b"W/", etag.as_bytes()].concat()).ok())?
}

/// Adds `Accept-Encoding` to `Vary`, unless it is there.
pub(crate) fn vary_by_encoding(head: &mut ResponseHeader) {
    let Some(names) = joined_lines(&head.headers, &header::VARY) else {
        return set_field(head, header::VARY, HeaderValue::from_static("Accept-Encoding"));
    };
    let says = |name: &[u8]| name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding");
    if !names.split(|&b| b == b',').any(|name| says(name.trim_ascii())) {
        if let Ok(more) = HeaderValue::from_bytes(&[&names[..], b", Accept-Encoding"].concat()) {
            set_field(head, header::VARY, more);
        }
    }
}

#[cfg(test)]
#[path = "transform_tests.rs"]
mod tests;
