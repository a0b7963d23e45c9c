//! One hop as a proxy writes it: an address, with or without a port, or an identifier that hides it (RFC
//! 7239, 6).

use std::net::{IpAddr, Ipv6Addr};

/// The address of a node, in its canonical form: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`,
/// `[2001:db8::1]:80`. `None` for `unknown`, an obfuscated identifier (`_hidden`) or a malformed node.
pub(super) fn parse_node(text: &str) -> Option<IpAddr> {
    if let Some(inside) = text.strip_prefix('[') {
        let (address, rest) = inside.split_once(']')?;
        let port = rest.strip_prefix(':');
        if !rest.is_empty() && !port.is_some_and(is_port) {
            return None;
        }
        return address.parse::<Ipv6Addr>().ok().map(|address| IpAddr::V6(address).to_canonical());
    }
    let address = match text.split_once(':') {
        // A single colon precedes a port; an IPv6 address has at least two.
        Some((address, port)) if !port.contains(':') => Some(address).filter(|_| is_port(port))?,
        _ => text,
    };
    address.parse().ok().map(|address: IpAddr| address.to_canonical())
}

/// A number of up to five digits, or an obfuscated one.
fn is_port(text: &str) -> bool {
    let named =
        |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    match text.strip_prefix('_') {
        Some(name) => !name.is_empty() && named(name),
        None => (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes() {
        for (text, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:8080", "192.0.2.1"),
            ("192.0.2.1:_hidden", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:DB8::1]:4711", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:1", "192.0.2.1"),
            ("::1", "::1"),
        ] {
            assert_eq!(parse_node(text).map(|a| a.to_string()).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "unknown",
            "_hidden",
            "_",
            "example.com",
            "192.0.2",
            "192.0.2.1:",
            "192.0.2.1:123456",
            "192.0.2.1:8a",
            "192.0.2.01",
            "0x7f000001",
            "[192.0.2.1]",
            "[2001:db8::1",
            "[2001:db8::1]80",
            "[2001:db8::1]:",
            "[]",
            "[",
            "fe80::1%eth0",
            "192.0.2.1 ",
            "a:b:c",
            ":",
            "::1]:80",
            "é",
        ] {
            assert_eq!(parse_node(text), None, "{text}");
        }
    }
}
