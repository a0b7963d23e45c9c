//! The client of a request: its address, scheme and host, from the peer and from the fields of trusted
//! proxies.
//!
//! Pure. A proxy adds the address that it received a request from to `X-Forwarded-For` (or to `Forwarded`,
//! RFC 7239). An entry is only as trustworthy as the proxy that wrote it: the list is read from right to
//! left, from the peer outwards, as long as each hop is one of `server.trusted_proxies`; the first address
//! that isn't is the client. Entries beyond it may have been written by the client itself. If the peer is not
//! trusted, no field is read at all.
//!
//! One field decides. `X-Forwarded-For` wins over `Forwarded`, and both over `X-Real-IP`: nearly every proxy
//! writes the first and forwards the second as the client sent it. An entry that is no address (`unknown`, an
//! obfuscated identifier, a malformed one) ends the walk: the proxy that wrote it counts as the client.

mod forwarded;
mod node;
mod value;

pub(crate) use crate::cache::key::RequestScheme;

use http::{header, HeaderMap, HeaderName};
use ipnet::{IpNet, Ipv4Net};
use std::{
    fmt::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The proxies whose fields are trusted.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// The networks of `server.trusted_proxies`.
    pub(crate) fn new(networks: &[IpNet]) -> Self {
        Self(networks.iter().map(|network| canonical_network(*network)).collect())
    }

    /// Returns true if an address, in its canonical form, lies within one of the networks.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// Converts IPv4-mapped IPv6 networks to IPv4, the form of the addresses that they are compared with.
fn canonical_network(network: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    let IpNet::V6(v6) = network else { return network };
    let narrowed = v6.prefix_len().checked_sub(MAPPED).zip(v6.addr().to_ipv4_mapped());
    narrowed.and_then(|(prefix, address)| Ipv4Net::new(address, prefix).ok()).map_or(network, IpNet::V4)
}

/// The client of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientAddress {
    /// The client's address, in its canonical form.
    pub address: IpAddr,
    /// The scheme of the client's request to the outermost trusted proxy, or to the gateway.
    pub scheme: RequestScheme,
    /// The host that the client named, if a trusted proxy reports it. Checked to have the syntax of a host
    /// and a port, and nothing else.
    pub host: Option<Box<str>>,
    /// The trusted proxies between the client and the gateway, the peer last; empty if the peer is the
    /// client.
    pub proxies: Vec<IpAddr>,
}

impl ClientAddress {
    /// The peer as the client, over a connection of this scheme.
    pub(crate) fn peer(address: IpAddr, scheme: RequestScheme) -> Self {
        Self { address: address.to_canonical(), scheme, host: None, proxies: Vec::new() }
    }

    /// A client of unknown address.
    pub(crate) fn unknown() -> Self {
        Self::peer(IpAddr::V4(Ipv4Addr::UNSPECIFIED), RequestScheme::Http)
    }

    /// The client of a request that `peer` sent with these headers, over a connection of this scheme.
    pub(crate) fn of(
        peer: IpAddr,
        scheme: RequestScheme,
        headers: &HeaderMap,
        trusted: &TrustedProxies,
    ) -> Self {
        let peer = Self::peer(peer, scheme);
        if !trusted.contains(peer.address) {
            return peer;
        }
        let said = ForwardingSource::by(headers);
        let (mut client, mut speakers) = (peer, 0);
        for hop in said.hops() {
            speakers += 1;
            // A proxy that does not name the address before it counts as the client.
            let Some(address) = hop else { break };
            client.proxies.push(std::mem::replace(&mut client.address, address));
            if !trusted.contains(address) {
                break;
            }
        }
        client.proxies.reverse();
        let ForwardedClaims { scheme: told, host } = said.told(headers, speakers);
        client.scheme = told.unwrap_or(scheme);
        client.host = host;
        client
    }

    /// Writes the value of `X-Forwarded-For` for an origin: the client, then the proxies from the outermost
    /// to the peer.
    pub(crate) fn write_forwarded_for(&self, text: &mut String) {
        push_address(text, self.address);
        for proxy in &self.proxies {
            text.push_str(", ");
            push_address(text, *proxy);
        }
    }

    /// Writes the value of `Forwarded` for an origin (RFC 7239): an element for each hop. The first has the
    /// scheme and the host of the client's request.
    pub(crate) fn write_forwarded(&self, host: Option<&str>, text: &mut String) {
        push_node(text, self.address);
        [";proto=", self.scheme.as_str()].iter().for_each(|part| text.push_str(part));
        if let Some(host) = host {
            [";host=\"", host, "\""].iter().for_each(|part| text.push_str(part));
        }
        for proxy in &self.proxies {
            text.push_str(", ");
            push_node(text, *proxy);
        }
    }
}

/// Appends a node: an IPv6 address is in brackets and quotes (RFC 7239, 6).
fn push_node(text: &mut String, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            text.push_str("for=");
            push_v4(text, address);
        }
        IpAddr::V6(address) => append_text(text, format_args!("for=\"[{address}]\"")),
    }
}

/// Writes an address.
pub(crate) fn push_address(text: &mut String, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => push_v4(text, v4),
        IpAddr::V6(v6) => append_text(text, format_args!("{v6}")),
    }
}

/// Appends an IPv4 address like its `Display`, but faster: every proxied request writes an address three
/// times.
fn push_v4(text: &mut String, address: Ipv4Addr) {
    for (place, octet) in address.octets().into_iter().enumerate() {
        if place > 0 {
            text.push('.');
        }
        if octet >= 100 {
            push_digit(text, octet / 100);
        }
        if octet >= 10 {
            push_digit(text, octet / 10 % 10);
        }
        push_digit(text, octet % 10);
    }
}

fn push_digit(text: &mut String, digit: u8) {
    text.push(char::from(b'0' + digit));
}

fn append_text(text: &mut String, what: fmt::Arguments<'_>) {
    // Writing to a String can't fail.
    text.write_fmt(what).unwrap_or_default();
}

/// The network of one customer of a provider: an IPv4 address, or the first half of an IPv6 one.
pub(crate) fn network_of(address: IpAddr) -> IpAddr {
    const CUSTOMER: u128 = !0 << 64;
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & CUSTOMER)),
    }
}

/// The field that decides.
enum ForwardingSource<'h> {
    For(&'h HeaderMap),
    Forwarded(&'h HeaderMap),
    RealIp(&'h HeaderMap),
}

/// The scheme and the host of the request according to the proxies.
#[derive(Default)]
struct ForwardedClaims {
    scheme: Option<RequestScheme>,
    host: Option<Box<str>>,
}

impl<'h> ForwardingSource<'h> {
    fn by(headers: &'h HeaderMap) -> Self {
        if headers.contains_key(FORWARDED_FOR) {
            Self::For(headers)
        } else if headers.contains_key(header::FORWARDED) {
            Self::Forwarded(headers)
        } else {
            Self::RealIp(headers)
        }
    }

    /// The addresses that the hops received the request from, the nearest hop's entry first; `None` for an
    /// entry that is no address.
    fn hops(&self) -> Box<dyn Iterator<Item = Option<IpAddr>> + 'h> {
        match self {
            Self::For(headers) => Box::new(members_from_end(headers, &FORWARDED_FOR).map(node::parse_node)),
            Self::Forwarded(headers) => {
                let elements = forwarded::elements_from_end(headers);
                Box::new(
                    elements.map(|element| element.and_then(|e| e.node()).and_then(|n| node::parse_node(&n))),
                )
            }
            // It holds the client alone: one line, and no list.
            Self::RealIp(headers) => {
                let last = headers.get_all(REAL_IP).iter().next_back();
                Box::new(last.map(|value| value.to_str().ok().and_then(node::parse_node)).into_iter())
            }
        }
    }

    /// The scheme and the host from the outermost of this number of trusted hops. A list may be shorter than
    /// that: many proxies replace these two fields instead of appending to them.
    fn told(&self, headers: &HeaderMap, speakers: usize) -> ForwardedClaims {
        let hop = speakers.max(1);
        let mut told = match self {
            Self::Forwarded(headers) => {
                let element = forwarded::elements_from_end(headers).nth(hop - 1).flatten();
                element.map(|e| ForwardedClaims { scheme: e.proto(), host: e.host() }).unwrap_or_default()
            }
            Self::For(_) | Self::RealIp(_) => ForwardedClaims::default(),
        };
        if told.scheme.is_none() {
            told.scheme = member_at_hop(headers, &FORWARDED_PROTO, hop).and_then(value::parse_scheme);
        }
        if told.host.is_none() {
            told.host = member_at_hop(headers, &FORWARDED_HOST, hop).and_then(value::parse_host);
        }
        told
    }
}

/// The member of a list that the hop of this number (from 1, the nearest) wrote, or the outermost one.
fn member_at_hop<'h>(headers: &'h HeaderMap, name: &HeaderName, hop: usize) -> Option<&'h str> {
    members_from_end(headers, name).take(hop).last()
}

/// The members of a comma-separated list on any number of lines, the last first. One that is no text becomes
/// a member without meaning, and does not affect those beside it.
fn members_from_end<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(name).iter().rev();
    let members = lines.flat_map(|line| line.as_bytes().rsplit(|b| *b == b','));
    members.map(|member| value::text_or_empty(member.trim_ascii())).filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests;
