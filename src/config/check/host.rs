//! Hosts and ports as they stand in URLs and in `host` keys.

use std::net::Ipv6Addr;

/// A name or an IPv4 address: dotted labels of letters, digits, `-` and `_`, at most 253 bytes (RFC 1035,
/// 2.3.4).
pub(super) fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// The address in `[::1]`.
pub(super) fn bracketed(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    inner.parse::<Ipv6Addr>().is_ok().then_some(inner)
}

/// `host`, `host:port`, `[::1]` or `[::1]:port`: the host without brackets, and the port.
pub(super) fn host_and_port(text: &str, default_port: u16) -> Option<(&str, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let digits = port.bytes().all(|b| b.is_ascii_digit());
            (host, port.parse().ok().filter(|port| digits && *port > 0)?)
        }
        _ => (text, default_port),
    };
    let host = if is_name(host) { host } else { bracketed(host)? };
    Some((host, port))
}

/// An exact host or `*.` and one, in lower case.
pub(super) fn check_host(text: &str) -> Result<String, &'static str> {
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix('.').unwrap_or(&text);
    let exact = text.strip_prefix("*.").unwrap_or(text);
    if is_name(exact) || bracketed(text).is_some() {
        return Ok(text.to_owned());
    }
    Err(match (exact.contains('*'), exact.contains(':')) {
        (true, _) => "\"*\" may only stand at the beginning, as \"*.\"",
        (_, true) => "must not hold a port, and an IPv6 address stands in brackets",
        _ => "must be a host such as \"dash.example.com\" or \"*.example.com\"",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        assert_eq!(host_and_port("a.b-c_d", 80), Some(("a.b-c_d", 80)));
        assert_eq!(host_and_port("10.0.0.1:65535", 80), Some(("10.0.0.1", 65_535)));
        assert_eq!(host_and_port("[::1]:5", 80), Some(("::1", 5)));
        assert_eq!(host_and_port("[::1]", 80), Some(("::1", 80)));
        for bad in [
            "", ":80", "a:", "a:0", "a:65536", "a:+1", "a:x", "::1", "[::1", "::1]", "[a]:1", "a b", "u@a",
            "a..b", "a:1:2",
        ] {
            assert_eq!(host_and_port(bad, 80), None, "{bad:?}");
        }
    }
}
