//! The one way to answer with a [`Representation`]: conditions, ranges, encoding, HEAD.
//!
//! Pure: a request's method and headers in, a head and perhaps a body out. A transformation of the body is
//! planned here, and carried out elsewhere. RFC 9110: 8.4 (encodings), 9.3.2 (HEAD), 13 (conditions), 14
//! (ranges), 15.3.7 (206), 15.4.5 (304), 15.5.13 (412), 15.5.17 (416).

use super::{
    conditional::{self, ConditionVerdict},
    encoding::{
        self,
        transform::{self, BodyTransform},
    },
    range::{self, RangeSelection},
    response_head::{append_field, blank_head, set_field},
    Body, PackedFields, Representation,
};
use crate::{config::ContentCoding, http::field_lines::joined_lines};

use http::{header, HeaderMap, HeaderValue, Method, StatusCode};
use pingora_http::ResponseHeader;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_128;

/// An answer: a head, and the body if there is one to send.
#[derive(Debug)]
pub(crate) struct ContentReply {
    /// The head, complete except for fields of the exchange (`Age`, `Cache-Status`, the request id).
    pub head: Box<ResponseHeader>,
    /// The body; empty for HEAD, 304, 412 and 416.
    pub body: Body,
    /// The transformation of the body while it is sent. The head already reflects it, and has no length.
    pub transform: Option<BodyTransform>,
}

impl ContentReply {
    fn bare(head: ResponseHeader) -> Self {
        Self { head: Box::new(head), body: Body::new(), transform: None }
    }
}

/// A part of an answer, as an origin's 206 was stored.
#[derive(Debug, Clone, Copy)]
pub struct StoredPart<'a> {
    /// The fields of the 206.
    pub fields: &'a PackedFields,
    /// The position of its first byte in the whole.
    pub first: u64,
    /// The length of the whole, in bytes.
    pub total: u64,
    /// Its bytes.
    pub body: &'a Body,
}

/// Chooses the answer to a request.
pub(crate) fn choose_reply(
    what: &Representation,
    method: &Method,
    headers: &HeaderMap,
    prefer: &[ContentCoding],
) -> ContentReply {
    if conditional::has_preconditions(headers) && has_conditions(what) {
        match conditional::evaluate_preconditions(method, headers, &what.validators()) {
            ConditionVerdict::Send => {}
            ConditionVerdict::NotModified => {
                return not_modified_reply(what, choose_form(what, headers, prefer), headers)
            }
            ConditionVerdict::PreconditionFailed => return precondition_failed_reply(),
        }
    }
    if *method == Method::GET && headers.contains_key(header::RANGE) {
        if let Some(reply) = range_reply(what, headers) {
            return reply;
        }
    }
    let form = choose_form(what, headers, prefer);
    let mut reply = whole_reply(what, form);
    if *method == Method::HEAD {
        (reply.body, reply.transform) = (Body::new(), None);
    }
    reply
}

/// Answers a range request from a stored part; `None`: the whole is needed, or the origin has to answer.
pub(crate) fn partial_reply(
    part: StoredPart<'_>,
    method: &Method,
    headers: &HeaderMap,
) -> Option<ContentReply> {
    let validators = super::validators(part.fields, false);
    let accepted = joined_lines(headers, &header::ACCEPT_ENCODING);
    let readable = match transform::body_coding(part.fields.all(&header::CONTENT_ENCODING)) {
        transform::BodyCoding::Coded(coding) => !transform::refuses_coding(accepted.as_deref(), coding),
        transform::BodyCoding::Plain | transform::BodyCoding::Foreign => true,
    };
    if *method != Method::GET
        || !readable
        || conditional::evaluate_preconditions(method, headers, &validators) != ConditionVerdict::Send
    {
        return None;
    }
    let RangeSelection::Single(range) = range::select_range(headers, &validators, part.total) else {
        return None;
    };
    let begin = range.start.checked_sub(part.first)?;
    let body = part.body.slice(begin..range.end - part.first);
    if body.len() != range.end - range.start {
        return None;
    }
    let mut head = blank_head(StatusCode::PARTIAL_CONTENT);
    for (name, value) in part.fields.unpack() {
        if !super::FRAMING_FIELDS.contains(&name) {
            append_field(&mut head, name, value);
        }
    }
    Some(single_range_reply(head, &range, part.total, body))
}

/// RFC 9110, 13.2.1: conditions apply to answers that would be a success without them; of those, to the ones
/// whose content a client could hold.
fn has_conditions(what: &Representation) -> bool {
    match what.status() {
        StatusCode::OK => true,
        StatusCode::NON_AUTHORITATIVE_INFORMATION => what.is_verbatim(),
        _ => false,
    }
}

/// The form in which the content is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentForm {
    /// As received.
    AsItIs,
    /// In a coding that was made here.
    Encoded(ContentCoding),
    /// Decoded from the coding in which it was received.
    Decoded(ContentCoding),
}

fn choose_form(what: &Representation, headers: &HeaderMap, prefer: &[ContentCoding]) -> ContentForm {
    accepted_form(what, joined_lines(headers, &header::ACCEPT_ENCODING).as_deref(), prefer)
}

/// The form for a client with this `Accept-Encoding`, all lines of it joined.
pub(crate) fn accepted_form(
    what: &Representation,
    accepted: Option<&[u8]>,
    prefer: &[ContentCoding],
) -> ContentForm {
    if what.is_encodable() {
        let choice = encoding::negotiate_coding(accepted, prefer, |coding| what.encoded(coding).is_some());
        // RFC 9110, 12.5.3: a client that accepts no form gets the plain body rather than a 406.
        return choice.coding().map_or(ContentForm::AsItIs, ContentForm::Encoded);
    }
    match what.removable() {
        Some(coding) if is_unreadable(what, accepted, coding) => ContentForm::Decoded(coding),
        _ => ContentForm::AsItIs,
    }
}

/// Returns true if a client with only these conditions gets a 304.
pub(crate) fn is_not_modified(
    what: &Representation,
    if_none_match: Option<&[u8]>,
    if_modified_since: Option<&[u8]>,
) -> bool {
    if (if_none_match.is_none() && if_modified_since.is_none()) || !has_conditions(what) {
        return false;
    }
    let validators = match if_none_match {
        // The date is ignored then.
        Some(_) => what.tag(),
        None => what.validators(),
    };
    conditional::is_not_modified(if_none_match, if_modified_since, &validators)
}

/// The head of a 200, or of a 304, in a form, as [`choose_reply`] would make it; not cached. `None` if the body has
/// to be transformed while it is sent, or does not exist in this form.
pub(crate) fn head_in(
    what: &Representation,
    form: ContentForm,
    not_modified: bool,
) -> Option<ResponseHeader> {
    let coding = match form {
        ContentForm::AsItIs => None,
        ContentForm::Encoded(coding) => Some(coding),
        ContentForm::Decoded(_) => return None,
    };
    if !not_modified {
        let body = coding.map_or(Some(&what.body), |coding| what.encoded(coding))?;
        return Some(what.make_head(coding, body.len()));
    }
    let mut head = what.make_not_modified(&what.make_head(None, what.body.len()));
    set_not_modified_tag(&mut head, what, form);
    Some(head)
}

/// Returns true if a client can't accept the coding in which the body was received. A client without
/// `Accept-Encoding` accepts everything, unless the origin chose the coding for another client.
fn is_unreadable(what: &Representation, accepted: Option<&[u8]>, coding: ContentCoding) -> bool {
    match accepted {
        Some(accepted) => transform::refuses_coding(Some(accepted), coding),
        None => transform::varies_by_encoding(what.fields.all(&header::VARY)),
    }
}

fn whole_reply(what: &Representation, form: ContentForm) -> ContentReply {
    let as_it_is = || (what.head(None), what.body());
    let (head, body) = match form {
        ContentForm::AsItIs => as_it_is(),
        ContentForm::Encoded(coding) => match what.encoded(coding) {
            Some(body) => (what.head(Some(coding)), body),
            None => as_it_is(),
        },
        ContentForm::Decoded(coding) => {
            let mut head = what.head(None);
            transform::recode_head(&mut head, None);
            let transform = Some(BodyTransform::Decode(coding));
            return ContentReply { head: Box::new(head), body: what.body().to_send(), transform };
        }
    };
    ContentReply { head: Box::new(head), body: body.to_send(), transform: None }
}

/// The tag of a 304 is that of the answer that the client holds, which may have been sent in another form
/// than a 200 would be now (RFC 9111, 4.3.4); else that of the 200.
fn not_modified_reply(what: &Representation, form: ContentForm, headers: &HeaderMap) -> ContentReply {
    let mut head = what.not_modified_head();
    set_not_modified_tag(&mut head, what, form);
    let likely = head.headers.get(header::ETAG).cloned();
    let codings = std::iter::once(None).chain(ContentCoding::ALL.iter().map(|coding| Some(*coding)));
    let others = codings.filter_map(|coding| what.etag_of(coding));
    if let Some(held) = conditional::held_tag(headers, likely.into_iter().chain(others)) {
        set_field(&mut head, header::ETAG, held);
    }
    ContentReply::bare(head)
}

/// Returns true if `If-None-Match` consists of the tag of one form: then a 304 in that form has the tag that
/// the client holds.
pub(crate) fn holds_tag(what: &Representation, form: ContentForm, if_none_match: &[u8]) -> bool {
    let (held, Some(tag)) = (if_none_match.trim_ascii(), what.fields.tag()) else { return false };
    match form {
        ContentForm::AsItIs => held == tag,
        ContentForm::Encoded(coding) | ContentForm::Decoded(coding) if !what.is_verbatim() => {
            let opened = held.strip_suffix(b"\"");
            let opened = opened.and_then(|held| held.strip_suffix(coding.etag_suffix().as_bytes()));
            opened.is_some() && opened == tag.strip_suffix(b"\"")
        }
        ContentForm::Encoded(_) | ContentForm::Decoded(_) => {
            held.strip_prefix(b"W/").unwrap_or_default() == tag || held == tag && tag.starts_with(b"W/")
        }
    }
}

fn set_not_modified_tag(head: &mut ResponseHeader, what: &Representation, form: ContentForm) {
    if let ContentForm::Encoded(coding) | ContentForm::Decoded(coding) = form {
        if let Some(etag) = what.etag_of(Some(coding)) {
            set_field(head, header::ETAG, etag);
        }
    }
}

fn precondition_failed_reply() -> ContentReply {
    let mut head = blank_head(StatusCode::PRECONDITION_FAILED);
    set_field(&mut head, header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    ContentReply::bare(head)
}

/// The requested ranges of a 200, of the body as it is; `None`: the whole.
fn range_reply(what: &Representation, headers: &HeaderMap) -> Option<ContentReply> {
    let accepted = joined_lines(headers, &header::ACCEPT_ENCODING);
    let unreadable = what.removable().is_some_and(|coding| is_unreadable(what, accepted.as_deref(), coding));
    if what.status() != StatusCode::OK || unreadable {
        return None;
    }
    let total = what.body().len();
    let head = || what.head(None);
    match range::select_range(headers, &what.validators(), total) {
        RangeSelection::Whole => None,
        RangeSelection::Single(range) => {
            let body = what.body().slice(range.clone());
            Some(single_range_reply(head(), &range, total, body))
        }
        RangeSelection::Several(ranges) => Some(multipart_reply(head(), what, &ranges)),
        RangeSelection::Unsatisfiable => Some(unsatisfiable_reply(total)),
    }
}

fn single_range_reply(mut head: ResponseHeader, range: &Range<u64>, total: u64, body: Body) -> ContentReply {
    make_partial(&mut head, body.len());
    set_field(&mut head, header::CONTENT_RANGE, digits_value(range::content_range(range, total)));
    ContentReply { head: Box::new(head), body, transform: None }
}

fn multipart_reply(mut head: ResponseHeader, what: &Representation, ranges: &[Range<u64>]) -> ContentReply {
    let content_type = what.header(&header::CONTENT_TYPE);
    let (body, kind) =
        range::multipart_body(what.body(), ranges, content_type.as_ref(), &make_boundary(what, ranges));
    make_partial(&mut head, body.len());
    head.remove_header(&header::CONTENT_RANGE);
    set_field(&mut head, header::CONTENT_TYPE, digits_value(kind));
    ContentReply { head: Box::new(head), body, transform: None }
}

/// The boundary, a hash of the content: an author who writes it into the content misleads the readers of that
/// content alone.
fn make_boundary(what: &Representation, ranges: &[Range<u64>]) -> String {
    let etag = what.fields.tag();
    format!("{:032x}", xxh3_128(format!("{etag:?} {} {ranges:?}", what.body().len()).as_bytes()))
}

/// Makes a head that of a part: removes the fields that describe the bytes of the whole.
fn make_partial(head: &mut ResponseHeader, length: u64) {
    if let Err(error) = head.set_status(StatusCode::PARTIAL_CONTENT) {
        tracing::warn!(%error, "a status was refused");
    }
    for name in ["content-md5", "content-digest"] {
        head.remove_header(name);
    }
    set_field(head, header::CONTENT_LENGTH, HeaderValue::from(length));
}

fn unsatisfiable_reply(total: u64) -> ContentReply {
    let mut head = blank_head(StatusCode::RANGE_NOT_SATISFIABLE);
    set_field(&mut head, header::CONTENT_RANGE, digits_value(range::unsatisfied_range(total)));
    set_field(&mut head, header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    ContentReply::bare(head)
}

/// A field value of digits and signs.
fn digits_value(value: String) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
#[path = "respond_tests.rs"]
mod tests;
