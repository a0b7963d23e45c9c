//! Addresses to listen on: no two may take the same connections, and nothing is bound to find out.

use crate::config::file::{fault::FaultReport, PlacedValue};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Reports an address that no client can connect to, or that another listener already uses; `taken` has
/// `None` for a faulty one.
pub(super) fn check_address(
    address: &PlacedValue<SocketAddr>,
    taken: &[Option<SocketAddr>],
    report: &mut FaultReport,
) {
    let (own, place) = (address.value, &address.place);
    let ip = own.ip().to_canonical();
    if ip.is_multicast() || ip == Ipv4Addr::BROADCAST {
        report.fault(place, "no client can connect to a multicast or broadcast address");
    }
    let overlaps = |other: &Option<SocketAddr>| other.is_some_and(|other| overlap(own, other));
    let Some((index, Some(other))) = taken.iter().enumerate().find(|(_, other)| overlaps(other)) else {
        return;
    };
    let twin = format!("listener[{index}]");
    report.fault(
        place,
        match (is_whole(own), is_whole(*other)) {
            (false, true) => format!("{twin} takes it as well: {other} is every IPv{} address", family(own)),
            (true, false) => {
                format!("is every IPv{} address, and so takes {other} of {twin} as well", family(own))
            }
            _ => format!("the same address as {twin}"),
        },
    );
}

/// Returns true if some connection matches both addresses. An IPv6 listener takes no IPv4 connections if
/// another listener has them. Port 0 is a new port each time.
fn overlap(one: SocketAddr, two: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), two.ip().to_canonical());
    one.port() == two.port()
        && one.port() != 0
        && a.is_ipv4() == b.is_ipv4()
        && (is_whole(one) || is_whole(two) || (a == b && scope(one) == scope(two)))
}

/// Returns true if it stands for every address of its family.
fn is_whole(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_unspecified()
}

fn family(address: SocketAddr) -> u8 {
    match address.ip().to_canonical() {
        IpAddr::V4(_) => 4,
        IpAddr::V6(_) => 6,
    }
}

/// The scope id of a link-local IPv6 address: the link that it is on (RFC 4007).
fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_the_same_connections_overlaps() {
        for (one, two, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.2:80", true),
            ("0.0.0.0:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "[::]:80", false),
            ("127.0.0.1:80", "[::]:80", false),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "[::1]:80", true),
            ("[::1]:80", "[::1]:80", true),
            ("[::1]:80", "[::2]:80", false),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
            ("[::ffff:127.0.0.1]:80", "0.0.0.0:80", true),
            ("[::ffff:127.0.0.1]:80", "[::]:80", false),
            ("[fe80::1%1]:80", "[fe80::1%2]:80", false),
            ("[fe80::1%1]:80", "[fe80::1%1]:80", true),
        ] {
            let (a, b) = (one.parse().unwrap(), two.parse().unwrap());
            assert_eq!((overlap(a, b), overlap(b, a)), (expected, expected), "{one} {two}");
        }
    }
}
