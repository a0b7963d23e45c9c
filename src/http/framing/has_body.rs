//! Messages that have a body, and those that end with their head (RFC 9110, 6.4.1; RFC 9112, 6.3).
//!
//! Pure. The gateway refuses `CONNECT`, whose 2xx have none either.

use super::content_length::agreed_length;

use http::{header, HeaderMap, Method, StatusCode};

/// Returns true if an answer with this status has a body, unless it is one to `HEAD`. The body may be empty.
pub(crate) fn status_has_body(status: StatusCode) -> bool {
    !status.is_informational() && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Returns true if an answer with this status to this method has a body, which may be empty.
pub(crate) fn response_has_body(method: &Method, status: StatusCode) -> bool {
    *method != Method::HEAD && status_has_body(status)
}

/// Returns true if the fields of an HTTP/1.1 request announce a body of at least one byte, or one whose length
/// is not known or not valid.
pub(crate) fn request_has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING) || !matches!(agreed_length(headers), Ok(None | Some(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn an_answer_has_a_body_by_its_status_and_method() {
        for (status, has) in [
            (100, false),
            (101, false),
            (103, false),
            (200, true),
            (201, true),
            (204, false),
            (205, true),
            (206, true),
            (301, true),
            (304, false),
            (404, true),
            (500, true),
            (599, true),
        ] {
            let code = StatusCode::from_u16(status).unwrap();
            assert_eq!(status_has_body(code), has, "{status}");
            for method in [Method::GET, Method::POST, Method::OPTIONS] {
                assert_eq!(response_has_body(&method, code), has, "{method} {status}");
            }
            assert!(!response_has_body(&Method::HEAD, code), "HEAD {status}");
        }
    }

    #[test]
    fn a_request_has_a_body_by_its_fields() {
        let (te, cl) = (header::TRANSFER_ENCODING, header::CONTENT_LENGTH);
        for (fields, has) in [
            (&[][..], false),
            (&[(&cl, "0")], false),
            (&[(&cl, "00")], false),
            (&[(&cl, "5")], true),
            (&[(&cl, "0"), (&cl, "5")], true),
            (&[(&cl, "")], true),
            (&[(&cl, "x")], true),
            (&[(&te, "chunked")], true),
            (&[(&te, "")], true),
            (&[(&te, "chunked"), (&cl, "0")], true),
        ] {
            let fields: &[(&HeaderName, &'static str)] = fields;
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(request_has_body(&headers), has, "{fields:?}");
        }
    }
}
