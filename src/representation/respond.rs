//! The one way to answer with a [`Representation`]: conditions, ranges, encoding, HEAD.
//!
//! Pure: a request's method and headers in, a head and perhaps a body out. A transformation of the body is
//! planned here, and carried out elsewhere. RFC 9110: 8.4 (encodings), 9.3.2 (HEAD), 13 (conditions), 14
//! (ranges), 15.3.7 (206), 15.4.5 (304), 15.5.13 (412), 15.5.17 (416).

use super::{
    conditional::{self, Verdict},
    encoding,
    field_lines::joined,
    range::{self, Selection},
    response_head::{append, blank, set},
    transform::{self, Transform},
    Body, Fields, Representation,
};
use crate::config::Coding;
use http::{header, HeaderMap, HeaderValue, Method, StatusCode};
use pingora_http::ResponseHeader;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_128;

/// An answer: a head, and the body if there is one to send.
#[derive(Debug)]
pub struct Reply {
    /// The head, complete except for fields of the exchange (`Age`, `Cache-Status`, the request id).
    pub head: Box<ResponseHeader>,
    /// The body; empty for HEAD, 304, 412 and 416.
    pub body: Body,
    /// The transformation of the body while it is sent. The head already reflects it, and has no length.
    pub transform: Option<Transform>,
}

impl Reply {
    fn bare(head: ResponseHeader) -> Self {
        Self { head: Box::new(head), body: Body::new(), transform: None }
    }
}

/// A part of an answer, as an origin's 206 was stored.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// The fields of the 206.
    pub fields: &'a Fields,
    /// The position of its first byte in the whole.
    pub first: u64,
    /// The length of the whole, in bytes.
    pub total: u64,
    /// Its bytes.
    pub body: &'a Body,
}

/// Chooses the answer to a request.
pub fn reply(what: &Representation, method: &Method, headers: &HeaderMap, prefer: &[Coding]) -> Reply {
    if conditional::are_there(headers) && has_conditions(what) {
        match conditional::evaluate(method, headers, &what.validators()) {
            Verdict::Send => {}
            Verdict::NotModified => return not_modified(what, choose(what, headers, prefer), headers),
            Verdict::PreconditionFailed => return precondition_failed(),
        }
    }
    if *method == Method::GET && headers.contains_key(header::RANGE) {
        if let Some(reply) = ranged(what, headers) {
            return reply;
        }
    }
    let form = choose(what, headers, prefer);
    let mut reply = whole(what, form);
    if *method == Method::HEAD {
        (reply.body, reply.transform) = (Body::new(), None);
    }
    reply
}

/// Answers a range request from a stored part; `None`: the whole is needed, or the origin has to answer.
pub fn partial(part: Part<'_>, method: &Method, headers: &HeaderMap) -> Option<Reply> {
    let validators = super::validators(part.fields, false);
    let accepted = joined(headers, &header::ACCEPT_ENCODING);
    let readable = match transform::content(part.fields.all(&header::CONTENT_ENCODING)) {
        transform::Content::Coded(coding) => !transform::refuses(accepted.as_deref(), coding),
        transform::Content::Plain | transform::Content::Foreign => true,
    };
    if *method != Method::GET
        || !readable
        || conditional::evaluate(method, headers, &validators) != Verdict::Send
    {
        return None;
    }
    let Selection::Single(range) = range::select(headers, &validators, part.total) else { return None };
    let begin = range.start.checked_sub(part.first)?;
    let body = part.body.slice(begin..range.end - part.first);
    if body.len() != range.end - range.start {
        return None;
    }
    let mut head = blank(StatusCode::PARTIAL_CONTENT);
    for (name, value) in part.fields.unpack() {
        if !super::FRAMING.contains(&name) {
            append(&mut head, name, value);
        }
    }
    Some(single(head, &range, part.total, body))
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
pub enum Form {
    /// As received.
    AsItIs,
    /// In a coding that was made here.
    Encoded(Coding),
    /// Decoded from the coding in which it was received.
    Decoded(Coding),
}

fn choose(what: &Representation, headers: &HeaderMap, prefer: &[Coding]) -> Form {
    form(what, joined(headers, &header::ACCEPT_ENCODING).as_deref(), prefer)
}

/// The form for a client with this `Accept-Encoding`, all lines of it joined.
pub fn form(what: &Representation, accepted: Option<&[u8]>, prefer: &[Coding]) -> Form {
    if what.is_encodable() {
        let choice = encoding::negotiate(accepted, prefer, |coding| what.encoded(coding).is_some());
        // RFC 9110, 12.5.3: a client that accepts no form gets the plain body rather than a 406.
        return choice.coding().map_or(Form::AsItIs, Form::Encoded);
    }
    match what.removable() {
        Some(coding) if is_unreadable(what, accepted, coding) => Form::Decoded(coding),
        _ => Form::AsItIs,
    }
}

/// Returns true if a client with only these conditions gets a 304.
pub fn is_not_modified(
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

/// The head of a 200, or of a 304, in a form, as [`reply`] would make it; not cached. `None` if the body has
/// to be transformed while it is sent, or does not exist in this form.
pub fn head_in(what: &Representation, form: Form, not_modified: bool) -> Option<ResponseHeader> {
    let coding = match form {
        Form::AsItIs => None,
        Form::Encoded(coding) => Some(coding),
        Form::Decoded(_) => return None,
    };
    if !not_modified {
        let body = coding.map_or(Some(&what.body), |coding| what.encoded(coding))?;
        return Some(what.make_head(coding, body.len()));
    }
    let mut head = what.make_not_modified(&what.make_head(None, what.body.len()));
    tag_not_modified(&mut head, what, form);
    Some(head)
}

/// Returns true if a client can't accept the coding in which the body was received. A client without
/// `Accept-Encoding` accepts everything, unless the origin chose the coding for another client.
fn is_unreadable(what: &Representation, accepted: Option<&[u8]>, coding: Coding) -> bool {
    match accepted {
        Some(accepted) => transform::refuses(Some(accepted), coding),
        None => transform::varies_by_encoding(what.fields.all(&header::VARY)),
    }
}

fn whole(what: &Representation, form: Form) -> Reply {
    let as_it_is = || (what.head(None), what.body());
    let (head, body) = match form {
        Form::AsItIs => as_it_is(),
        Form::Encoded(coding) => match what.encoded(coding) {
            Some(body) => (what.head(Some(coding)), body),
            None => as_it_is(),
        },
        Form::Decoded(coding) => {
            let mut head = what.head(None);
            transform::recode(&mut head, None);
            let transform = Some(Transform::Decode(coding));
            return Reply { head: Box::new(head), body: what.body().to_send(), transform };
        }
    };
    Reply { head: Box::new(head), body: body.to_send(), transform: None }
}

/// The tag of a 304 is that of the answer that the client holds, which may have been sent in another form
/// than a 200 would be now (RFC 9111, 4.3.4); else that of the 200.
fn not_modified(what: &Representation, form: Form, headers: &HeaderMap) -> Reply {
    let mut head = what.not_modified_head();
    tag_not_modified(&mut head, what, form);
    let likely = head.headers.get(header::ETAG).cloned();
    let codings = std::iter::once(None).chain(Coding::ALL.iter().map(|coding| Some(*coding)));
    let others = codings.filter_map(|coding| what.etag_of(coding));
    if let Some(held) = conditional::held(headers, likely.into_iter().chain(others)) {
        set(&mut head, header::ETAG, held);
    }
    Reply::bare(head)
}

/// Returns true if `If-None-Match` consists of the tag of one form: then a 304 in that form has the tag that
/// the client holds.
pub fn holds(what: &Representation, form: Form, if_none_match: &[u8]) -> bool {
    let (held, Some(tag)) = (if_none_match.trim_ascii(), what.fields.tag()) else { return false };
    match form {
        Form::AsItIs => held == tag,
        Form::Encoded(coding) | Form::Decoded(coding) if !what.is_verbatim() => {
            let opened = held.strip_suffix(b"\"");
            let opened = opened.and_then(|held| held.strip_suffix(coding.etag_suffix().as_bytes()));
            opened.is_some() && opened == tag.strip_suffix(b"\"")
        }
        Form::Encoded(_) | Form::Decoded(_) => {
            held.strip_prefix(b"W/").unwrap_or_default() == tag || held == tag && tag.starts_with(b"W/")
        }
    }
}

fn tag_not_modified(head: &mut ResponseHeader, what: &Representation, form: Form) {
    if let Form::Encoded(coding) | Form::Decoded(coding) = form {
        if let Some(etag) = what.etag_of(Some(coding)) {
            set(head, header::ETAG, etag);
        }
    }
}

fn precondition_failed() -> Reply {
    let mut head = blank(StatusCode::PRECONDITION_FAILED);
    set(&mut head, header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    Reply::bare(head)
}

/// The requested ranges of a 200, of the body as it is; `None`: the whole.
fn ranged(what: &Representation, headers: &HeaderMap) -> Option<Reply> {
    let accepted = joined(headers, &header::ACCEPT_ENCODING);
    let unreadable = what.removable().is_some_and(|coding| is_unreadable(what, accepted.as_deref(), coding));
    if what.status() != StatusCode::OK || unreadable {
        return None;
    }
    let total = what.body().len();
    let head = || what.head(None);
    match range::select(headers, &what.validators(), total) {
        Selection::Whole => None,
        Selection::Single(range) => {
            let body = what.body().slice(range.clone());
            Some(single(head(), &range, total, body))
        }
        Selection::Several(ranges) => Some(several(head(), what, &ranges)),
        Selection::Unsatisfiable => Some(unsatisfiable(total)),
    }
}

fn single(mut head: ResponseHeader, range: &Range<u64>, total: u64, body: Body) -> Reply {
    become_part(&mut head, body.len());
    set(&mut head, header::CONTENT_RANGE, text(range::content_range(range, total)));
    Reply { head: Box::new(head), body, transform: None }
}

fn several(mut head: ResponseHeader, what: &Representation, ranges: &[Range<u64>]) -> Reply {
    let content_type = what.header(&header::CONTENT_TYPE);
    let (body, kind) = range::multipart(what.body(), ranges, content_type.as_ref(), &boundary(what, ranges));
    become_part(&mut head, body.len());
    head.remove_header(&header::CONTENT_RANGE);
    set(&mut head, header::CONTENT_TYPE, text(kind));
    Reply { head: Box::new(head), body, transform: None }
}

/// The boundary, a hash of the content: an author who writes it into the content misleads the readers of that
/// content alone.
fn boundary(what: &Representation, ranges: &[Range<u64>]) -> String {
    let etag = what.fields.tag();
    format!("{:032x}", xxh3_128(format!("{etag:?} {} {ranges:?}", what.body().len()).as_bytes()))
}

/// Makes a head that of a part: removes the fields that describe the bytes of the whole.
fn become_part(head: &mut ResponseHeader, length: u64) {
    if let Err(error) = head.set_status(StatusCode::PARTIAL_CONTENT) {
        tracing::warn!(%error, "a status was refused");
    }
    for name in ["content-md5", "content-digest"] {
        head.remove_header(name);
    }
    set(head, header::CONTENT_LENGTH, HeaderValue::from(length));
}

fn unsatisfiable(total: u64) -> Reply {
    let mut head = blank(StatusCode::RANGE_NOT_SATISFIABLE);
    set(&mut head, header::CONTENT_RANGE, text(range::unsatisfied_range(total)));
    set(&mut head, header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    Reply::bare(head)
}

/// A field value of digits and signs.
fn text(value: String) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
#[path = "respond_tests.rs"]
mod tests;
