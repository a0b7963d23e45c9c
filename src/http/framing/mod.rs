//! The framing of an origin's answer: checks that it is unambiguous.
//!
//! Pure. Pingora, or the native client, has parsed the head: it ignores a length beside a
//! transfer coding (RFC 9112, 6.3), and reads an answer with another coding than `chunked` up to the end of
//! the connection, chunk sizes included. An answer that is forwarded or stored has exactly one framing.
//!
//! An unregistered transfer coding means nothing to any recipient: all read up to the end of the connection,
//! as Pingora does (RFC 9112, 6.3). An answer with a coding that a recipient could decode, or take for
//! `chunked`, is refused.

pub(crate) mod content_length;
pub(crate) mod has_body;

use content_length::{agreed_length, LengthFault};

use http::{header, HeaderMap, HeaderValue, StatusCode};

/// Transfer codings that are or were registered.
const KNOWN: [&[u8]; 6] = [b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress", b"identity"];

/// The most interim answers (1xx) to one request; more are an error of the origin.
pub(crate) const MOST_INTERIM: u32 = 100;

/// The treatment of the fields that frame an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ResponseFraming {
    /// They are unambiguous.
    Plain,
    /// They are removed: there is no body.
    Bodiless,
    /// The body ends with its connection, and the field that names an unknown coding is removed.
    Ended,
    /// They are replaced by this length.
    Length(HeaderValue),
}

/// The error for a body whose end is ambiguous.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnframedBody {
    /// A coding that a recipient could decode, or take for `chunked`.
    #[error("an answer in a transfer coding other than chunked")]
    Coding,
    /// Lengths that are invalid, or differ (RFC 9110, 8.6; for HTTP/2 RFC 9113, 8.1.1).
    #[error("an answer with {0}")]
    Length(#[from] LengthFault),
}

/// Determines the framing of an answer.
///
/// # Errors
/// If it has a coding that is not supported, or lengths that differ.
pub(crate) fn response_framing(
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<ResponseFraming, UnframedBody> {
    // RFC 9110, 8.6 and RFC 9112, 6.1: neither field is allowed here, and some clients would wait for a body.
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        return Ok(ResponseFraming::Bodiless);
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            return Ok(ResponseFraming::Plain);
        }
        (Some(coding), None) if means_nothing(coding.as_bytes()) => {
            return Ok(ResponseFraming::Ended);
        }
        _ => return Err(UnframedBody::Coding),
    }
    let Some(length) = agreed_length(headers)? else { return Ok(ResponseFraming::Plain) };
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (Some(one), None) if !one.as_bytes().contains(&b',') => Ok(ResponseFraming::Plain),
        _ => Ok(ResponseFraming::Length(HeaderValue::from(length))),
    }
}

/// Returns true for a single unregistered coding that can't be taken for `chunked`.
fn means_nothing(coding: &[u8]) -> bool {
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let lower = coding.to_ascii_lowercase();
    !lower.is_empty()
        && lower.iter().all(token)
        && !KNOWN.contains(&lower.as_slice())
        && memchr::memmem::find(&lower, b"chunked").is_none()
}

/// Determines the framing of an answer, and adjusts its fields.
///
/// # Errors
/// As [`response_framing`].
pub(crate) fn settle_framing(status: StatusCode, headers: &mut HeaderMap) -> Result<(), UnframedBody> {
    match response_framing(status, headers)? {
        ResponseFraming::Plain => {}
        ResponseFraming::Bodiless => {
            headers.remove(header::CONTENT_LENGTH);
            headers.remove(header::TRANSFER_ENCODING);
        }
        ResponseFraming::Ended => {
            headers.remove(header::TRANSFER_ENCODING);
        }
        ResponseFraming::Length(length) => {
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
        let plain = |fields: &[_]| response_framing(StatusCode::OK, &headers(fields));
        for fields in [&[][..], &[(cl, "5")], &[(te, "chunked")], &[(te, "Chunked")]] {
            assert_eq!(plain(fields), Ok(ResponseFraming::Plain), "{fields:?}");
        }
        let five = || Ok(ResponseFraming::Length(HeaderValue::from_static("5")));
        for fields in [&[(cl, "5"), (cl, "5")][..], &[(cl, "5, 5")], &[(cl, "5 ,5"), (cl, "5")]] {
            assert_eq!(plain(fields), five(), "{fields:?}");
        }
        for fields in [&[(cl, "5"), (cl, "6")][..], &[(cl, "5, 6")], &[(cl, "5"), (cl, "5"), (cl, "6, 5")]] {
            assert_eq!(plain(fields), Err(LengthFault::Differing.into()), "{fields:?}");
        }
        for fields in [&[(cl, "five")][..], &[(cl, "5"), (cl, "+5")], &[(cl, "")]] {
            assert_eq!(plain(fields), Err(LengthFault::Invalid.into()), "{fields:?}");
        }
        assert_eq!(plain(&[(te, "Unheard-of")]), Ok(ResponseFraming::Ended));
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
            assert_eq!(plain(fields), Err(UnframedBody::Coding), "{fields:?}");
        }
    }

    #[test]
    fn what_has_no_body_has_no_frame() {
        for status in [StatusCode::NO_CONTENT, StatusCode::EARLY_HINTS] {
            let mut fields =
                headers(&[("content-length", "5"), ("transfer-encoding", "gzip"), ("x-kept", "1")]);
            assert_eq!(settle_framing(status, &mut fields), Ok(()));
            assert_eq!(fields, headers(&[("x-kept", "1")]));
        }
        let mut fields = headers(&[("content-length", "5, 5")]);
        assert_eq!(settle_framing(StatusCode::NOT_MODIFIED, &mut fields), Ok(()));
        assert_eq!(fields, headers(&[("content-length", "5")]));
    }
}
