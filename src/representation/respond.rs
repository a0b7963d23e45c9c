//! The one way to answer with a [`Representation`]: conditions, encoding, HEAD.
//!
//! Pure: a request's method and headers in, a head and perhaps a body out. RFC 9110: 8.4 (encodings), 9.3.2
//! (HEAD), 13 (conditions), 15.4.5 (304), 15.5.13 (412).

use super::{conditional, encoding, Representation};
use crate::config::Coding;
use bytes::Bytes;
use http::{header, HeaderMap, HeaderValue, Method, StatusCode};
use pingora_http::ResponseHeader;

/// What is sent: a head, and the body where there is one to send.
#[derive(Debug)]
pub struct Reply {
    /// The head, complete but for what differs per exchange (`Age`, `Cache-Status`, the request id).
    pub head: Box<ResponseHeader>,
    /// The body; empty for HEAD, 304 and 412.
    pub body: Bytes,
}

/// Chooses what to send.
pub fn reply(what: &Representation, method: &Method, headers: &HeaderMap, prefer: &[Coding]) -> Reply {
    if what.status() == StatusCode::OK {
        let validators =
            conditional::Validators { etag: Some(what.etag()), last_modified: what.last_modified() };
        match conditional::evaluate(method, headers, &validators) {
            conditional::Verdict::Send => {}
            conditional::Verdict::NotModified => return not_modified(what, headers, prefer),
            conditional::Verdict::PreconditionFailed => return precondition_failed(),
        }
    }
    let coding = choose(what, headers, prefer);
    let (head, body) = match coding.and_then(|c| Some((what.head(coding)?, what.encoded(c)?))) {
        Some(encoded) => encoded,
        None => (&what.heads.identity, what.body()),
    };
    let body = if method == Method::HEAD { Bytes::new() } else { body.clone() };
    Reply { head: Box::new(head.clone()), body }
}

fn choose(what: &Representation, headers: &HeaderMap, prefer: &[Coding]) -> Option<Coding> {
    if !what.is_encodable() {
        return None;
    }
    let mut lines = headers.get_all(header::ACCEPT_ENCODING).iter();
    let first = lines.next()?;
    let has = |coding| what.encoded(coding).is_some();
    let choice = match lines.next() {
        None => encoding::negotiate(Some(first.as_bytes()), prefer, has),
        Some(_) => {
            let all = headers.get_all(header::ACCEPT_ENCODING).iter().map(HeaderValue::as_bytes);
            encoding::negotiate(Some(&all.collect::<Vec<_>>().join(&b","[..])), prefer, has)
        }
    };
    match choice {
        encoding::Choice::Coding(coding) => Some(coding),
        // RFC 9110, 12.5.3: a client that refuses even the plain body gets it all the same rather than a 406.
        _ => None,
    }
}

/// The tag of a 304 is that of the answer that a 200 would have been.
fn not_modified(what: &Representation, headers: &HeaderMap, prefer: &[Coding]) -> Reply {
    let mut head = Box::new(what.heads.not_modified.clone());
    let coding = choose(what, headers, prefer);
    if coding.is_some() {
        if let Ok(etag) = HeaderValue::from_str(&what.etag_of(coding)) {
            // Replacing a field of a short head can't exceed its limit.
            head.insert_header(header::ETAG, etag).unwrap_or_default();
        }
    }
    Reply { head, body: Bytes::new() }
}

fn precondition_failed() -> Reply {
    let mut head = Box::new(super::blank(StatusCode::PRECONDITION_FAILED));
    head.insert_header(header::CONTENT_LENGTH, HeaderValue::from_static("0")).unwrap_or_default();
    Reply { head, body: Bytes::new() }
}
