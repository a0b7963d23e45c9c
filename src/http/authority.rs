//! The host that a request names: its syntax (RFC 9110, 7.2) and its canonical form. Routes, keys, rules and
//! origins use the same parser. Pure.

use memchr::memrchr;

/// Returns true if a text is `host[:port]`: a name without empty labels, an IPv4 address or a bracketed IPv6
/// address.
pub(crate) fn is_host(text: &[u8]) -> bool {
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
            let Some(end) = name_length(text) else { return false };
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

/// The length of the name that a text begins with. `None` if it has an empty label; one is allowed after the
/// last dot, for the root.
fn name_length(text: &[u8]) -> Option<usize> {
    let mut begins_label = true;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'.' if begins_label => return None,
            byte if NAME_BYTES[usize::from(*byte)] => begins_label = *byte == b'.',
            _ => return (at > 0).then_some(at),
        }
    }
    Some(text.len())
}

/// Bytes of names and of IPv4 addresses.
static NAME_BYTES: [bool; 256] = {
    let (mut named, mut byte) = ([false; 256], 0_u8);
    loop {
        named[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if byte == u8::MAX {
            break named;
        }
        byte += 1;
    }
};

/// Normalizes a host (RFC 3986, 6.2.2.1 and 6.2.3): in lower case, without the default port of either scheme,
/// without the root's dot.
pub(crate) fn normalize(text: &str) -> String {
    let mut host = String::with_capacity(text.len());
    push_normalized(&mut host, text);
    host
}

/// Appends a host in the form that [`normalize`] returns.
pub(crate) fn push_normalized(out: &mut String, text: &str) {
    let (name, port) = split_port(text);
    let begin = out.len();
    out.push_str(name);
    out[begin..].make_ascii_lowercase();
    if !matches!(port, "" | "80" | "443") {
        out.push(':');
        out.push_str(port);
    }
}

/// The name of `name[:port]`, without the root's dot; an IPv6 address keeps its brackets.
pub(crate) fn host_name(text: &str) -> &str {
    split_port(text).0
}

/// `name[:port]` without the root's dot: the host is the same with and without it (RFC 1034, 3.1). `None`: it
/// has none.
pub(crate) fn without_root_dot(text: &str) -> Option<String> {
    let (name, port) = split_port(text);
    let has_dot = text.get(name.len()..)?.starts_with('.');
    has_dot.then(|| if port.is_empty() { name.to_owned() } else { format!("{name}:{port}") })
}

/// The name without the root's dot, and the port, which may be empty.
fn split_port(text: &str) -> (&str, &str) {
    let digits = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    let (name, port) = match memrchr(b':', text.as_bytes()) {
        Some(colon) if digits(&text[colon + 1..]) => (&text[..colon], &text[colon + 1..]),
        _ => (text, ""),
    };
    (name.strip_suffix('.').unwrap_or(name), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in [
            "a",
            "example.com",
            "example.com:8080",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:443",
            "a_b",
            "a:",
            "a.",
            "a.b.:80",
        ] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a b", "a/b", "a@b", "a:b", "a:99999", "a:+80", "[::1", "[x]", "[::1]x", "a,b", "é",
            "a%41", ".", "..", ".a", "a..", "a..:80", "a..b", "a.b..", "..a", ".:80",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_name_has_neither_a_port_nor_the_roots_dot() {
        for (text, bare, whole) in [
            ("a.example", "a.example", None),
            ("a.example:80", "a.example", None),
            ("a.example.", "a.example", Some("a.example")),
            ("A.example.:8443", "A.example", Some("A.example:8443")),
            ("a.:", "a", Some("a")),
            ("[::1]", "[::1]", None),
            ("[::1]:80", "[::1]", None),
        ] {
            assert_eq!((host_name(text), without_root_dot(text).as_deref()), (bare, whole), "{text}");
        }
    }

    #[test]
    fn a_host_has_one_form() {
        for (written, form) in [
            ("Dash.Example", "dash.example"),
            ("dash.example.", "dash.example"),
            ("dash.example.:443", "dash.example"),
            ("dash.example:80", "dash.example"),
            ("dash.example:", "dash.example"),
            ("dash.example:8080", "dash.example:8080"),
            ("[2001:DB8::1]", "[2001:db8::1]"),
            ("[2001:db8::80]:80", "[2001:db8::80]"),
            ("[2001:db8::80]:81", "[2001:db8::80]:81"),
            ("", ""),
        ] {
            assert_eq!(normalize(written), form);
            assert_eq!(normalize(&normalize(written)), form);
        }
    }
}
