//! Fields that end with the connection: an intermediary removes them (RFC 9110, 7.6.1).
//!
//! Pure.

use super::field_lines::field_lines;

use http::{header, HeaderMap, HeaderName};

/// How long a connection of HTTP/1.0 and 1.1 stays open.
pub(crate) const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// `Connection`, as some clients send it to a proxy.
pub(crate) const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Fields that end with the connection, whether `Connection` names them or not. `Connection` itself, `Upgrade`
/// and `Transfer-Encoding` are not among them: [`is_hop_by_hop`] includes those.
pub(crate) static HOP_BY_HOP_FIELDS: [HeaderName; 7] = [
    KEEP_ALIVE,
    HeaderName::from_static("http2-settings"),
    PROXY_CONNECTION,
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    header::TE,
    header::TRAILER,
];

/// Returns true for a field of one connection. Those that `Connection` names are such fields as well
/// ([`connection_options`]).
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP_FIELDS.contains(name)
        || [header::CONNECTION, header::UPGRADE, header::TRANSFER_ENCODING].contains(name)
}

/// The options of all lines of `Connection`, without the whitespace around them.
fn options(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    field_lines(headers, &header::CONNECTION)
        .flat_map(|line| line.split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
}

/// The fields that `Connection` names: they are hop-by-hop as well.
pub(crate) fn connection_options(headers: &HeaderMap) -> Vec<HeaderName> {
    options(headers).filter_map(|name| HeaderName::from_bytes(name).ok()).collect()
}

/// Returns true if `Connection` has this option, such as `close`.
pub(crate) fn has_connection_option(headers: &HeaderMap, option: &str) -> bool {
    options(headers).any(|one| one.eq_ignore_ascii_case(option.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn options_are_of_all_lines_in_any_case() {
        for (lines, names) in [
            (&[][..], &[][..]),
            (&["close"], &["close"]),
            (&["X-A, Close"], &["x-a", "close"]),
            (&["keep-alive", " x-b\t,,x-c "], &["keep-alive", "x-b", "x-c"]),
            (&["", "x y, x-d"], &["x-d"]),
            (&["\u{00e9}, x-e"], &["x-e"]),
            (&["\"x-f, x-g\", x-h"], &["x-h"]),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::CONNECTION, HeaderValue::from_bytes(line.as_bytes()).unwrap());
            }
            assert_eq!(connection_options(&headers), names, "{lines:?}");
            for name in names {
                assert!(has_connection_option(&headers, &name.to_ascii_uppercase()), "{lines:?} {name}");
            }
            assert!(!has_connection_option(&headers, "x-absent"), "{lines:?}");
        }
    }

    #[test]
    fn fields_of_a_connection_are_known() {
        let of_a_connection = [
            "connection",
            "upgrade",
            "transfer-encoding",
            "keep-alive",
            "te",
            "trailer",
            "http2-settings",
            "proxy-connection",
            "proxy-authenticate",
            "proxy-authentication-info",
        ];
        for (names, is) in [(&of_a_connection[..], true), (&["content-length", "via", "host"], false)] {
            for name in names {
                assert_eq!(is_hop_by_hop(&HeaderName::from_static(name)), is, "{name}");
            }
        }
    }
}
