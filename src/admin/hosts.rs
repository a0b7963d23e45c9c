//! The host names under which the admin listener may be addressed.
//!
//! A web page can resolve its own name to this listener (DNS rebinding): the browser of somebody on the admin
//! network would give it the answers. Such a request has the page's host, never an address of this machine.

use std::net::IpAddr;

/// The accepted hosts: loopback, the address that a connection was made to, and those of the configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownHosts {
    exact: Vec<String>,
    /// The part of each wildcard after `*`, with its dot.
    wildcards: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl KnownHosts {
    /// The hosts of the configuration: names, `*.example.com`, addresses (IPv6 in brackets), in lower case.
    pub(crate) fn new(hosts: Vec<String>) -> Self {
        let mut known = Self::default();
        for host in hosts {
            match (parse_host_address(&host), host.strip_prefix('*')) {
                (Some(address), _) => known.addresses.push(address),
                (None, Some(wildcard)) => known.wildcards.push(wildcard.to_owned()),
                (None, None) => known.exact.push(host),
            }
        }
        known
    }

    /// Returns true if a request for this host, with or without a port, is accepted by the listener at
    /// `local`. The port doesn't matter: it may be mapped.
    pub(super) fn admits(&self, host: &str, local: IpAddr) -> bool {
        let host = strip_port(host).to_ascii_lowercase();
        if let Some(address) = parse_host_address(&host) {
            return address.is_loopback()
                || address == local.to_canonical()
                || self.addresses.contains(&address);
        }
        let host = host.strip_suffix('.').unwrap_or(&host);
        let below = |end: &String| host.strip_suffix(end.as_str()).is_some_and(|begin| !begin.is_empty());
        host == "localhost"
            || self.exact.iter().any(|known| known == host)
            || self.wildcards.iter().any(below)
    }
}

fn strip_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Parses an address as it is written in a URL; an IPv4-mapped one becomes IPv4.
fn parse_host_address(host: &str) -> Option<IpAddr> {
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let address = match bracketed {
        Some(host) => IpAddr::V6(host.parse().ok()?),
        None => IpAddr::V4(host.parse().ok()?),
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_known_and_nothing_else() {
        let hosts = ["tidegate.internal", "*.mesh.example", "192.0.2.9", "[2001:db8::9]"];
        let known = KnownHosts::new(hosts.map(str::to_owned).to_vec());
        let local = "10.0.0.5".parse().unwrap();
        for host in [
            "localhost",
            "LocalHost:9180",
            "localhost.",
            "127.0.0.1:9180",
            "127.8.9.10",
            "[::1]",
            "[::1]:9180",
            "[::ffff:127.0.0.1]",
            "10.0.0.5:80",
            "[::ffff:10.0.0.5]:80",
            "tidegate.internal",
            "TideGate.internal.:9180",
            "node-1.mesh.example:9180",
            "192.0.2.9",
            "[2001:DB8::9]:1",
        ] {
            assert!(known.admits(host, local), "{host}");
        }
        for host in [
            "",
            ".",
            ":9180",
            "evil.example",
            "localhost.evil.example",
            "evil.localhost",
            "127.0.0.1.evil.example",
            "127.0.0.1.",
            "127.1",
            "2130706433",
            "0x7f.0.0.1",
            "0.0.0.0",
            "[::]",
            "::1",
            "[127.0.0.1]",
            "10.0.0.6",
            "mesh.example",
            ".mesh.example",
            "evil-mesh.example",
            "tidegate.internal..",
            "tidegate.internal@evil.example",
            "evil.example@tidegate.internal",
            "localhost:9180:9180",
            "localhost:x",
            "localhost, evil.example",
        ] {
            assert!(!known.admits(host, local), "{host}");
        }
        assert!(known.admits("[fe80::1]", "fe80::1".parse().unwrap()));
        assert!(known.admits("10.0.0.5", "::ffff:10.0.0.5".parse().unwrap()));
    }
}
