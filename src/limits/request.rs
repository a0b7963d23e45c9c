//! Limits on the form and size of a request, checked before anything else.
//!
//! Pure. Pingora has parsed the request by now (including RFC 9112 framing); these are the gateway's own
//! limits. A larger HTTP/1 head has already been refused while it was read (see `listen::head`).

use crate::{cache::key::count_parameters, http::authority::is_host, telemetry::labels::RejectReason};
use http::{header, HeaderMap, HeaderName, HeaderValue, Uri, Version};

/// The longest path and query, in bytes.
pub(crate) const MAX_TARGET_BYTES: usize = 16 * 1024;
/// The most header fields. Pingora reads no more in HTTP/1; in HTTP/2 it counts their bytes alone.
pub(crate) const MAX_FIELDS: usize = 256;
/// The most bytes of their names and values. In HTTP/2 Pingora uses the same number (RFC 9113, 6.5.2).
pub(crate) const MAX_FIELDS_BYTES: usize = 64 * 1024;
/// The most bytes of a head that are read before it is parsed: target, fields, and separators.
pub(crate) const MAX_HEAD_BYTES: usize = MAX_TARGET_BYTES + MAX_FIELDS_BYTES + 8 * MAX_FIELDS;
/// The most query parameters.
pub(crate) const MAX_PARAMETERS: usize = 1_000;

/// Checks a request's target, the size of its header, and `Host`.
///
/// # Errors
/// The reason why it is refused.
pub(crate) fn check_request(uri: &Uri, version: Version, headers: &HeaderMap) -> Result<(), RejectReason> {
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    if path.len() + query.len() > MAX_TARGET_BYTES {
        return Err(RejectReason::UriTooLong);
    }
    // `*` means the server (RFC 9112, 3.2.4); its methods were checked before.
    if !path.starts_with('/') && path != "*" {
        return Err(RejectReason::BadRequest);
    }
    // There are at most as many parameters as bytes: this decides most requests.
    if !query.is_empty() && query.len() > MAX_PARAMETERS && count_parameters(query) > MAX_PARAMETERS {
        return Err(RejectReason::TooManyParameters);
    }
    let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    if headers.len() > MAX_FIELDS || headers.iter().map(size).sum::<usize>() > MAX_FIELDS_BYTES {
        return Err(RejectReason::HeadersTooLarge);
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        // RFC 9112, 3.2: only HTTP/1.1 requires it; HTTP/2 puts the host into the target.
        (None, None) if version != Version::HTTP_11 => match uri.authority() {
            Some(authority) if !is_host(authority.as_str().as_bytes()) => Err(RejectReason::BadHost),
            _ => Ok(()),
        },
        _ => Err(RejectReason::BadHost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_host(host: &str) -> HeaderMap {
        let value = http::HeaderValue::from_bytes(host.as_bytes()).unwrap();
        HeaderMap::from_iter([(header::HOST, value)])
    }

    #[test]
    fn what_is_too_much() {
        let host = with_host("a");
        let check = |target: String, headers: &HeaderMap| {
            super::check_request(&target.parse().unwrap(), Version::HTTP_11, headers)
        };
        assert_eq!(check("/".into(), &host), Ok(()));
        assert_eq!(check(format!("/?{}", "a&".repeat(1_000)), &host), Ok(()));
        assert_eq!(check(format!("/?{}", "a&".repeat(1_001)), &host), Err(RejectReason::TooManyParameters));
        assert_eq!(check(format!("/{}", "a".repeat(MAX_TARGET_BYTES)), &host), Err(RejectReason::UriTooLong));
        assert_eq!(check("*".into(), &host), Ok(()));
        assert_eq!(check("*".into(), &with_host("")), Err(RejectReason::BadHost));
        let large = |fields: usize, size: usize| {
            let mut headers = with_host("a");
            for _ in 0..fields {
                headers.append("x", HeaderValue::from_str(&"v".repeat(size)).unwrap());
            }
            check("/".into(), &headers)
        };
        assert_eq!(large(MAX_FIELDS - 1, 1), Ok(()));
        assert_eq!(large(MAX_FIELDS, 1), Err(RejectReason::HeadersTooLarge));
        assert_eq!(large(1, MAX_FIELDS_BYTES - 6), Ok(()));
        assert_eq!(large(1, MAX_FIELDS_BYTES - 5), Err(RejectReason::HeadersTooLarge));
        assert_eq!(check("/".into(), &with_host("evil host")), Err(RejectReason::BadHost));
        assert_eq!(check("/".into(), &HeaderMap::new()), Err(RejectReason::BadHost));
        assert_eq!(super::check_request(&"/".parse().unwrap(), Version::HTTP_10, &HeaderMap::new()), Ok(()));
        let mut two = with_host("a");
        two.append(header::HOST, "b".parse().unwrap());
        assert_eq!(check("/".into(), &two), Err(RejectReason::BadHost));
    }
}
