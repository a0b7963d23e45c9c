//! Strict checks of a request's method, target and fields, for all versions of HTTP.
//!
//! `h1/strict_reader.rs` applies them to lines of HTTP/1.1, `h2` to the fields that the library has read.
//! Both refuse the same requests, since an origin gets HTTP/1.1 in either case.
//!
//! Pure.

use crate::http::framing::content_length::request_length;

use http::{header, request::Parts, Method, StatusCode};

/// The fault of a head, as the status of the answer.
pub(crate) type HeadFault = StatusCode;
pub(crate) const MALFORMED_HEAD: HeadFault = StatusCode::BAD_REQUEST;

/// The longest method in bytes. The longest registered one has 17 letters.
const MAX_METHOD_BYTES: usize = 32;

/// The fields of a head that frame the body.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct RequestFraming {
    pub(crate) http_10: bool,
    pub(crate) length: Option<u64>,
    pub(crate) chunked: bool,
    pub(crate) websocket: bool,
}

impl RequestFraming {
    /// Checks a field; `value` has no surrounding whitespace.
    pub(crate) fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), HeadFault> {
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                let mut offered = value.split(|b| *b == b',').map(trim_blanks);
                self.websocket |= offered.any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"));
            }
            14 if is_confusable(name, b"content-length") => {
                // RFC 9110, 8.6 permits repeating the same length. No client needs that.
                let length = request_length(value).filter(|_| self.length.is_none() && name[7] == b'-');
                self.length = Some(length.ok_or(MALFORMED_HEAD)?);
            }
            17 if is_confusable(name, b"transfer-encoding") => {
                if name[8] != b'-' || self.chunked {
                    return Err(MALFORMED_HEAD);
                }
                // RFC 9112, 6.1: an unknown transfer coding gets 501.
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(StatusCode::NOT_IMPLEMENTED);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Checks a method and a target.
pub(crate) fn check_request(method: &[u8], target: &[u8]) -> Result<(), HeadFault> {
    if method.is_empty() || !method.iter().all(|b| is_token_byte(*b)) || !is_target(method, target) {
        return Err(MALFORMED_HEAD);
    }
    if method.len() > MAX_METHOD_BYTES {
        return Err(StatusCode::NOT_IMPLEMENTED);
    }
    Ok(())
}

/// Checks an HTTP/2 request, which the library has read (RFC 9113, 8.2 and 8.3). A fragment, which is not
/// allowed, has been dropped by the library.
pub(crate) fn check_http2(request: &Parts) -> Result<(), HeadFault> {
    if request.method == Method::CONNECT {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    // RFC 9110, 7.1: a request for another scheme is not for an HTTP origin.
    if !matches!(request.uri.scheme_str(), None | Some("http" | "https")) {
        return Err(MALFORMED_HEAD);
    }
    let path = request.uri.path_and_query().ok_or(MALFORMED_HEAD)?.as_str().as_bytes();
    if !matches!(path, [b'/', ..] | b"*") {
        return Err(MALFORMED_HEAD);
    }
    check_request(request.method.as_str().as_bytes(), path)?;
    // RFC 9113, 8.3.1: `:authority` and `Host` must be equal if both are present.
    let authority = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    let (mut host, mut hosts) = (authority, 0);
    let mut framing = RequestFraming::default();
    for (name, value) in &request.headers {
        let value = value.as_bytes();
        if matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t']) {
            return Err(MALFORMED_HEAD);
        }
        if *name == header::HOST {
            hosts += 1;
            if *host.get_or_insert(value) != value {
                return Err(MALFORMED_HEAD);
            }
        }
        framing.field(name.as_str().as_bytes(), value)?;
    }
    match host {
        Some(_) if hosts <= 1 && !framing.chunked => Ok(()),
        _ => Err(MALFORMED_HEAD),
    }
}

/// Returns true if a target has one of the forms of RFC 9112, 3.2, in visible ASCII (RFC 3986), without a
/// fragment.
fn is_target(method: &[u8], target: &[u8]) -> bool {
    // Without a branch the compiler vectorises the loop.
    let strange = |strange, b: &u8| strange | !matches!(b, 0x21..=0x7e) | (*b == b'#');
    if target.iter().fold(false, strange) {
        return false;
    }
    let begins = |with: &[u8]| target.get(..with.len()).is_some_and(|t| t.eq_ignore_ascii_case(with));
    match target {
        [b'/', ..] => true,
        b"*" => method == b"OPTIONS",
        // The parser would keep any other target, and treat it as `/`.
        _ => begins(b"http://") || begins(b"https://") || method == b"CONNECT" && !target.is_empty(),
    }
}

/// Returns true if a name is this one, or one that CGI and WSGI can't distinguish from it.
pub(crate) fn is_confusable(name: &[u8], of: &[u8]) -> bool {
    name.iter().zip(of).all(|(n, o)| n.eq_ignore_ascii_case(o) || (*n, *o) == (b'_', b'-'))
}

pub(crate) fn trim_blanks(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// RFC 9110, 5.6.2
pub(crate) fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// Returns true for bytes that are allowed in a field value (RFC 9110, 5.5).
pub(crate) fn is_value_byte(b: u8) -> bool {
    b == b'\t' || b >= b' ' && b != 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue, Request};

    fn check(method: &str, uri: &str, fields: &[(&str, &str)]) -> Option<u16> {
        let (mut parts, ()) = Request::builder().method(method).uri(uri).body(()).unwrap().into_parts();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            parts.headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        check_http2(&parts).err().map(|status| status.as_u16())
    }

    #[test]
    fn what_http1_refuses_http2_refuses_too() {
        const TO: &str = "https://a/x";
        let long = "M".repeat(MAX_METHOD_BYTES + 1);
        for (method, uri, fields, status) in [
            ("POST", TO, &[("content-length", "5"), ("content-length", "5")][..], 400),
            ("POST", TO, &[("content-length", "+5")], 400),
            ("POST", TO, &[("content-length", "5,5")], 400),
            ("POST", TO, &[("content_length", "5")], 400),
            ("POST", TO, &[("transfer_encoding", "chunked")], 400),
            ("POST", TO, &[("transfer-encoding", "chunked")], 400),
            ("POST", TO, &[("transfer-encoding", "gzip")], 501),
            ("GET", TO, &[("x", " y")], 400),
            ("GET", TO, &[("x", "y\t")], 400),
            ("GET", "https://a/\u{e9}", &[], 400),
            ("GET", "/x", &[], 400),
            ("GET", "/x", &[("host", "a"), ("host", "a")], 400),
            ("GET", TO, &[("host", "b")], 400),
            ("GET", "ftp://a/x", &[], 400),
            ("GET", "javascript://a/x", &[], 400),
            ("GET", TO, &[("host", "A")], 400),
            ("CONNECT", "a:443", &[], 405),
            (&long, TO, &[], 501),
        ] {
            assert_eq!(check(method, uri, fields), Some(status), "{method} {uri} {fields:?}");
        }
        for (method, uri, fields) in [
            ("GET", TO, &[][..]),
            ("GET", TO, &[("host", "a"), ("x", ""), ("y", "b c")]),
            ("GET", "/x", &[("host", "a")]),
            ("OPTIONS", "*", &[("host", "a")]),
            ("POST", TO, &[("content-length", "5")]),
            (&long[1..], TO, &[]),
        ] {
            assert_eq!(check(method, uri, fields), None, "{method} {uri} {fields:?}");
        }
    }
}
