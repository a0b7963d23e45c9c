//! What a request may look like before anything else is asked of it.
//!
//! Pure. Pingora has parsed the request by now (RFC 9112 framing is its part); these are the gateway's own limits. Of
//! HTTP/1 a head that is larger has been turned away while it came (see `listen::head`).

use crate::{cache::key::count_parameters, telemetry::labels::RejectReason};
use http::{header, HeaderMap, HeaderName, HeaderValue, Uri, Version};

/// The longest path and query, in bytes.
pub const LONGEST_TARGET: usize = 16 * 1024;
/// The most header fields. Pingora reads no more in HTTP/1; in HTTP/2 it counts their bytes alone.
pub const MOST_FIELDS: usize = 256;
/// The most bytes of their names and values. In HTTP/2 Pingora goes by the same number (RFC 9113, 6.5.2).
pub const LARGEST_FIELDS: usize = 64 * 1024;
/// The most bytes of a head that is read before it is known what it says: target, fields, and what separates them.
pub const LARGEST_HEAD: usize = LONGEST_TARGET + LARGEST_FIELDS + 8 * MOST_FIELDS;
/// The most query parameters.
pub const MOST_PARAMETERS: usize = 1_000;

/// Checks a request's target, the size of its header, and `Host`.
///
/// # Errors
/// The reason for which it is refused.
pub fn check(uri: &Uri, version: Version, headers: &HeaderMap) -> Result<(), RejectReason> {
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    if path.len() + query.len() > LONGEST_TARGET {
        return Err(RejectReason::UriTooLong);
    }
    if !path.starts_with('/') {
        return Err(RejectReason::BadRequest);
    }
    if may_climb(path) {
        return Err(RejectReason::BadRequest);
    }
    // No parameters are as many as their separators at least: most requests are through here.
    if !query.is_empty() && query.len() > MOST_PARAMETERS && count_parameters(query) > MOST_PARAMETERS {
        return Err(RejectReason::TooManyParameters);
    }
    let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    if headers.len() > MOST_FIELDS || headers.iter().map(size).sum::<usize>() > LARGEST_FIELDS {
        return Err(RejectReason::HeadersTooLarge);
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        // RFC 9112, 3.2: only HTTP/1.1 has to say it; HTTP/2 puts the host into the target.
        (None, None) if version != Version::HTTP_11 => match uri.authority() {
            Some(authority) if !is_host(authority.as_str().as_bytes()) => Err(RejectReason::BadHost),
            _ => Ok(()),
        },
        _ => Err(RejectReason::BadHost),
    }
}

/// Whether a path has a `.` or `..` segment, or a NUL, in any spelling that a server behind might undo: such a path
/// would be judged by other rules here than there.
fn may_climb(path: &str) -> bool {
    // Most paths have neither a dot nor an escape.
    if !path.bytes().any(|b| matches!(b, b'.' | b'%' | b'\\')) {
        return false;
    }
    let decoded: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
    decoded.contains(&0)
        || decoded.split(|b| matches!(b, b'/' | b'\\')).any(|segment| matches!(segment, b"." | b".."))
}

/// Whether a text is `host[:port]` (RFC 9110, 7.2): a name, an IPv4 address or a bracketed IPv6 address.
pub fn is_host(text: &[u8]) -> bool {
    let (host, port) = match text.first() {
        Some(b'[') => match text.iter().position(|b| *b == b']') {
            Some(end) => {
                let address = std::str::from_utf8(&text[1..end]).ok();
                if address.and_then(|a| a.parse::<std::net::Ipv6Addr>().ok()).is_none() {
                    return false;
                }
                (&text[..0], &text[end + 1..])
            }
            None => return false,
        },
        Some(_) => {
            let end = text.iter().position(|b| !NAMED[usize::from(*b)]).unwrap_or(text.len());
            if end == 0 {
                return false;
            }
            text.split_at(end)
        }
        None => return false,
    };
    let numbered = match port.split_first() {
        None => true,
        Some((b':', digits)) => {
            let number = digits.iter().try_fold(0_u32, |number, b| {
                let digit = b.is_ascii_digit().then(|| u32::from(b - b'0'))?;
                Some(number * 10 + digit).filter(|number| *number <= u32::from(u16::MAX))
            });
            number.is_some()
        }
        Some(_) => false,
    };
    host.len() <= 253 && numbered
}

/// Bytes of names and of IPv4 addresses.
static NAMED: [bool; 256] = {
    let (mut named, mut byte) = ([false; 256], 0_u8);
    loop {
        named[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if byte == u8::MAX {
            break named;
        }
        byte += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    fn with_host(host: &str) -> HeaderMap {
        let value = http::HeaderValue::from_bytes(host.as_bytes()).unwrap();
        HeaderMap::from_iter([(header::HOST, value)])
    }

    #[test]
    fn hosts() {
        for good in ["a", "example.com", "example.com:8080", "127.0.0.1:1", "[::1]", "[::1]:443", "a_b", "a:"]
        {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a b", "a/b", "a@b", "a:b", "a:99999", "a:+80", "[::1", "[x]", "[::1]x", "a,b", "é",
            "a%41",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn paths_that_climb() {
        for bad in [
            "/..",
            "/a/../b",
            "/a/.",
            "/./a",
            "/a/%2e%2E/b",
            "/a/.%2e",
            "/a%2f..%2fb",
            "/a\\..\\b",
            "/a%5c..",
            "/a%00b",
        ] {
            assert!(may_climb(bad), "{bad}");
        }
        for good in ["/", "/a.b", "/..a", "/a..", "/...", "/a%2Fb", "/a/b.json", "/.well-known/x"] {
            assert!(!may_climb(good), "{good}");
        }
    }

    #[test]
    fn what_is_too_much() {
        let host = with_host("a");
        let check = |target: String, headers: &HeaderMap| {
            super::check(&target.parse().unwrap(), Version::HTTP_11, headers)
        };
        assert_eq!(check("/".into(), &host), Ok(()));
        assert_eq!(check(format!("/?{}", "a&".repeat(1_000)), &host), Ok(()));
        assert_eq!(check(format!("/?{}", "a&".repeat(1_001)), &host), Err(RejectReason::TooManyParameters));
        assert_eq!(check(format!("/{}", "a".repeat(LONGEST_TARGET)), &host), Err(RejectReason::UriTooLong));
        assert_eq!(check("*".into(), &host), Err(RejectReason::BadRequest));
        let large = |fields: usize, size: usize| {
            let mut headers = with_host("a");
            for _ in 0..fields {
                headers.append("x", HeaderValue::from_str(&"v".repeat(size)).unwrap());
            }
            check("/".into(), &headers)
        };
        assert_eq!(large(MOST_FIELDS - 1, 1), Ok(()));
        assert_eq!(large(MOST_FIELDS, 1), Err(RejectReason::HeadersTooLarge));
        assert_eq!(large(1, LARGEST_FIELDS - 6), Ok(()));
        assert_eq!(large(1, LARGEST_FIELDS - 5), Err(RejectReason::HeadersTooLarge));
        assert_eq!(check("/".into(), &with_host("evil host")), Err(RejectReason::BadHost));
        assert_eq!(check("/".into(), &HeaderMap::new()), Err(RejectReason::BadHost));
        assert_eq!(super::check(&"/".parse().unwrap(), Version::HTTP_10, &HeaderMap::new()), Ok(()));
        let mut two = with_host("a");
        two.append(header::HOST, "b".parse().unwrap());
        assert_eq!(check("/".into(), &two), Err(RejectReason::BadHost));
    }
}
