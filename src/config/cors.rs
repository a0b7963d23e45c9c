//! `cors` as the program uses it: origins that were checked, and the values of the fields, made once.

use http::HeaderValue;

/// `cors = { origins = […], … }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorsConfig {
    /// `origins`, at least one.
    pub origins: AllowedOrigins,
    /// `methods` (the route's, else `GET, HEAD, POST`), as a preflight's answer names them.
    pub methods: HeaderValue,
    /// `headers` of requests, as a preflight's answer names them; `None`: those that need no permission.
    pub headers: Option<HeaderValue>,
    /// `expose`: the fields of answers that scripts may read, as answers name them; `None`: those that need
    /// no permission.
    pub expose: Option<HeaderValue>,
    /// `credentials`: cookies and the like may go along (false).
    pub credentials: bool,
    /// `max_age` of a preflight's answer (1 h), in seconds.
    pub max_age: HeaderValue,
}

/// The origins whose scripts may read answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// `"*"`: everyone's.
    Any,
    /// These.
    Listed(Vec<OriginPattern>),
}

/// One of `origins`, in the form in which browsers send them: lower case, without a default port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPattern {
    /// `https://app.example.com`, or `null`.
    Exact(Box<str>),
    /// `https://*.example.com:8443`: one or more labels in the place of the `*`.
    Below {
        /// `https://`
        scheme: Box<str>,
        /// `.example.com:8443`
        domain: Box<str>,
    },
}

impl OriginPattern {
    /// Reads `scheme://host[:port]`, `scheme://*.host[:port]` or `null`.
    ///
    /// # Errors
    /// A message that says why the text is no pattern.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str =
            "must be an origin such as \"https://app.example.com\" or \"https://*.example.com\"";
        let text = text.to_ascii_lowercase();
        if text == "null" {
            return Ok(Self::Exact(text.into()));
        }
        let (scheme, authority) = text.split_once("://").ok_or(FORM)?;
        if authority.contains(['/', '?', '#']) {
            return Err("must end with the host or its port: an origin has no path");
        }
        let mut letters = scheme.bytes();
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        if !letters.next().is_some_and(|b| b.is_ascii_lowercase()) || !letters.all(known) {
            return Err(FORM);
        }
        let (wild, authority) = match authority.strip_prefix("*.") {
            Some(below) => (true, below),
            None => (false, authority),
        };
        let (host, port) = split_port(authority).ok_or(FORM)?;
        if authority.contains('*') {
            return Err(
                "\"*\" may only stand for whole labels at the beginning, as in \"https://*.example.com\"",
            );
        }
        let host = in_one_form(host).filter(|host| !(wild && host.starts_with('['))).ok_or(FORM)?;
        let port = match (scheme, port) {
            (_, None) | ("https", Some("443")) | ("http", Some("80")) => String::new(),
            (_, Some(port)) => format!(":{port}"),
        };
        Ok(match wild {
            true => {
                Self::Below { scheme: format!("{scheme}://").into(), domain: format!(".{host}{port}").into() }
            }
            false => Self::Exact(format!("{scheme}://{host}{port}").into()),
        })
    }
}

/// `host[:port]`; a port is a number from 1 without zeros before it, as browsers write it.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let number: u16 = port.parse().ok().filter(|number| *number > 0)?;
            (number.to_string() == port).then_some((host, Some(port)))
        }
        _ => Some((authority, None)),
    }
}

/// A host as browsers write it.
fn in_one_form(host: &str) -> Option<String> {
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<std::net::Ipv6Addr>().ok().map(|address| format!("[{address}]"));
    }
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    (host.len() <= 253 && host.split('.').all(label)).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_as_browsers_write_them() {
        let exact = |text: &str| Ok(OriginPattern::Exact(text.into()));
        for (text, read) in [
            ("https://App.Example.com", "https://app.example.com"),
            ("https://a:443", "https://a"),
            ("http://a:80", "http://a"),
            ("http://a:443", "http://a:443"),
            ("http://127.0.0.1:5173", "http://127.0.0.1:5173"),
            ("http://[0:0::1]:3000", "http://[::1]:3000"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("NULL", "null"),
        ] {
            assert_eq!(OriginPattern::parse(text), exact(read), "{text}");
        }
        let below = |scheme: &str, domain: &str| {
            Ok(OriginPattern::Below { scheme: scheme.into(), domain: domain.into() })
        };
        assert_eq!(OriginPattern::parse("https://*.a.b"), below("https://", ".a.b"));
        assert_eq!(OriginPattern::parse("https://*.a.b:8443"), below("https://", ".a.b:8443"));
        assert_eq!(OriginPattern::parse("http://*.localhost:80"), below("http://", ".localhost"));
    }

    #[test]
    fn what_is_no_origin() {
        for bad in [
            "",
            "*",
            "a",
            "a.example.com",
            "https://",
            "https://*",
            "https://*.",
            "https://a/",
            "https://a/x",
            "https://a*.b",
            "https://a.*.b",
            "https://*.*.b",
            "https://u@a",
            "https://a b",
            "https://a:0",
            "https://a:080",
            "https://a:x",
            "https://*.[::1]",
            "://a",
            "https:a",
            "https://a..b",
            "https://é",
        ] {
            assert!(OriginPattern::parse(bad).is_err(), "{bad:?}");
        }
    }
}
