//! How an origin's answer is framed, and whether everyone reads it so.
//!
//! Pure. Pingora has read the head: it takes a length that comes several times where all are equal, drops one beside
//! a coding (RFC 9112, 6.3), and takes whatever has another coding for a body that ends with its connection, chunk sizes
//! included. What is passed on to a client, or kept, is framed in one way.
//!
//! A coding that nobody has registered is a word without a meaning to everyone alike: whoever reads it does as Pingora
//! does, for there is nothing else to do (RFC 9112, 6.3). A coding that somebody could undo, or take for `chunked`, is
//! another matter.

use http::{header, HeaderMap, HeaderValue, StatusCode};

/// Transfer codings that have a meaning, or had one.
const KNOWN: [&[u8]; 6] = [b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress", b"identity"];

/// Interim answers (1xx) to one request; beyond, the origin is out of order.
pub const MOST_INTERIM: u32 = 100;

/// What is to be done with the fields that frame an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Framing {
    /// They are plain.
    Plain,
    /// They are to go: there is no body to frame.
    Bodiless,
    /// The body ends with its connection, and the field that names a coding nobody knows is to go.
    Ended,
    /// This length replaces them.
    Length(HeaderValue),
}

/// A body whose end nobody knows for sure.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an answer in a transfer coding other than chunked")]
pub struct Unframed;

/// Reads how an answer is framed.
///
/// # Errors
/// If it is in a coding that is not understood.
pub fn of(status: StatusCode, headers: &HeaderMap) -> Result<Framing, Unframed> {
    // RFC 9110, 8.6 and RFC 9112, 6.1: neither field belongs here, and some clients would wait for a body.
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        return Ok(Framing::Bodiless);
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            return Ok(Framing::Plain);
        }
        (Some(coding), None) if means_nothing(coding.as_bytes()) => {
            return Ok(Framing::Ended);
        }
        _ => return Err(Unframed),
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(Framing::Plain),
        (Some(one), None) if !one.as_bytes().contains(&b',') => Ok(Framing::Plain),
        // They are all the same.
        (Some(first), _) => {
            let first = first.as_bytes().split(|b| *b == b',').next().unwrap_or_default().trim_ascii();
            HeaderValue::from_bytes(first).map(Framing::Length).map_err(|_| Unframed)
        }
    }
}

/// Whether it is one coding that nobody knows, and nobody could take for `chunked`.
fn means_nothing(coding: &[u8]) -> bool {
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let lower = coding.to_ascii_lowercase();
    !lower.is_empty()
        && lower.iter().all(token)
        && !KNOWN.contains(&lower.as_slice())
        && memchr::memmem::find(&lower, b"chunked").is_none()
}

/// The same, and done to the fields.
///
/// # Errors
/// As [`of`].
pub fn settle(status: StatusCode, headers: &mut HeaderMap) -> Result<(), Unframed> {
    match of(status, headers)? {
        Framing::Plain => {}
        Framing::Bodiless => {
            headers.remove(header::CONTENT_LENGTH);
            headers.remove(header::TRANSFER_ENCODING);
        }
        Framing::Ended => {
            headers.remove(header::TRANSFER_ENCODING);
        }
        Framing::Length(length) => {
            headers.insert(header::CONTENT_LENGTH, length);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn frames() {
        let (te, cl) = ("transfer-encoding", "content-length");
        let plain = |fields: &[_]| of(StatusCode::OK, &headers(fields));
        for fields in [&[][..], &[(cl, "5")], &[(te, "chunked")], &[(te, "Chunked")]] {
            assert_eq!(plain(fields), Ok(Framing::Plain), "{fields:?}");
        }
        let five = || Ok(Framing::Length(HeaderValue::from_static("5")));
        for fields in [&[(cl, "5"), (cl, "5")][..], &[(cl, "5, 5")], &[(cl, "5 ,5"), (cl, "5")]] {
            assert_eq!(plain(fields), five(), "{fields:?}");
        }
        assert_eq!(plain(&[(te, "Unheard-of")]), Ok(Framing::Ended));
        for fields in [
            &[(te, "gzip")][..],
            &[(te, "Identity")],
            &[(te, "xchunked")],
            &[(te, "gzip, chunked")],
            &[(te, "a, b")],
            &[(te, "a;q=1")],
            &[(te, "chunked"), (te, "chunked")],
            &[(te, "a"), (te, "chunked")],
            &[(te, "")],
        ] {
            assert_eq!(plain(fields), Err(Unframed), "{fields:?}");
        }
    }

    #[test]
    fn what_has_no_body_has_no_frame() {
        for status in [StatusCode::NO_CONTENT, StatusCode::EARLY_HINTS] {
            let mut fields =
                headers(&[("content-length", "5"), ("transfer-encoding", "gzip"), ("x-kept", "1")]);
            assert_eq!(settle(status, &mut fields), Ok(()));
            assert_eq!(fields, headers(&[("x-kept", "1")]));
        }
        let mut fields = headers(&[("content-length", "5, 5")]);
        assert_eq!(settle(StatusCode::NOT_MODIFIED, &mut fields), Ok(()));
        assert_eq!(fields, headers(&[("content-length", "5")]));
    }
}
