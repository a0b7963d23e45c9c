//! The PROXY protocol, versions 1 and 2: a header in which a TCP proxy names the client.
//!
//! Reads the header and not a byte more; the rest is the client's. With `LOCAL` and `UNKNOWN` the address of
//! the peer is used. Checksums and other TLVs of version 2 are ignored.
//! See <https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>.

use crate::telemetry::labels::ProxyHeader;
use ppp::{v1, v2};
use std::{io, net::SocketAddr};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The least length of a header; version 2 is recognised by these bytes.
const SIGNATURE_BYTES: usize = 12;
/// The length of a version 2 header before its addresses.
const FIXED_BYTES: usize = 16;
/// The longest line of version 1, in bytes.
const MAX_LINE_BYTES: usize = 107;
/// The most bytes of version 2 after its fixed part: addresses and TLVs.
const MAX_VARIABLE_BYTES: usize = 4_096;

/// Reads the client's address; `None`: the peer's address applies.
///
/// # Errors
/// If there is no valid header.
pub(super) async fn read_header(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<SocketAddr>, ProxyHeader> {
    let mut header = vec![0; SIGNATURE_BYTES];
    map_read_error(stream.read_exact(&mut header).await)?;
    if header == v2::PROTOCOL_PREFIX {
        header.resize(FIXED_BYTES, 0);
        map_read_error(stream.read_exact(&mut header[SIGNATURE_BYTES..]).await)?;
        let length = usize::from(u16::from_be_bytes([header[FIXED_BYTES - 2], header[FIXED_BYTES - 1]]));
        if length > MAX_VARIABLE_BYTES {
            return Err(ProxyHeader::Malformed);
        }
        header.resize(FIXED_BYTES + length, 0);
        map_read_error(stream.read_exact(&mut header[FIXED_BYTES..]).await)?;
        return parse_version_2(&header);
    }
    if !header.starts_with(b"PROXY ") {
        return Err(ProxyHeader::Malformed);
    }
    // A line has no length: it is read byte by byte, since further bytes could be the client's.
    while !header.ends_with(b"\r\n") {
        if header.len() == MAX_LINE_BYTES {
            return Err(ProxyHeader::Malformed);
        }
        header.push(map_read_error(stream.read_u8().await)?);
    }
    parse_version_1(&header)
}

fn map_read_error<T>(read: io::Result<T>) -> Result<T, ProxyHeader> {
    read.map_err(|_| ProxyHeader::Closed)
}

fn parse_version_1(header: &[u8]) -> Result<Option<SocketAddr>, ProxyHeader> {
    let parsed = v1::Header::try_from(header).map_err(|_| ProxyHeader::Malformed)?;
    Ok(match parsed.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
    })
}

fn parse_version_2(header: &[u8]) -> Result<Option<SocketAddr>, ProxyHeader> {
    let parsed = v2::Header::try_from(header).map_err(|_| ProxyHeader::Malformed)?;
    Ok(match (parsed.command, parsed.addresses) {
        (v2::Command::Local, _) | (_, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
        (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => Some((ip.source_address, ip.source_port).into()),
        (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => Some((ip.source_address, ip.source_port).into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// Parses some bytes; returns the result and the number of bytes that are left.
    fn read_all(bytes: &[u8]) -> (Result<Option<SocketAddr>, ProxyHeader>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut rest = bytes;
        (runtime.block_on(read_header(&mut rest)), rest.len())
    }

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[0x20 | command, family], &length, rest].concat()
    }

    #[test]
    fn an_address_is_read_and_what_follows_is_left() {
        let four = b"\x01\x02\x03\x04\x7f\x00\x00\x01\x12\x34\x01\xbb";
        for (header, address) in [
            (b"PROXY TCP4 1.2.3.4 127.0.0.1 4660 443\r\n".to_vec(), "1.2.3.4:4660"),
            (b"PROXY TCP6 2001:db8::1 ::1 4660 443\r\n".to_vec(), "[2001:db8::1]:4660"),
            (version_2(1, 0x11, four), "1.2.3.4:4660"),
            (version_2(1, 0x11, &[&four[..], b"\x04\x00\x01x"].concat()), "1.2.3.4:4660"),
            (
                version_2(
                    1,
                    0x21,
                    &[&Ipv6Addr::LOCALHOST.octets()[..], &[0; 16], b"\x12\x34\x01\xbb"].concat(),
                ),
                "[::1]:4660",
            ),
        ] {
            let sent = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(read_all(&sent), (Ok(Some(address.parse().unwrap())), 16), "{address}");
        }
    }

    #[test]
    fn who_speaks_for_nobody_changes_nothing() {
        let unix = [0; 216];
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff::1 ::1 1 2\r\n".to_vec(),
            version_2(0, 0x00, b""),
            version_2(0, 0x11, b"\x01\x02\x03\x04\x7f\x00\x00\x01\x12\x34\x01\xbb"),
            version_2(1, 0x00, b"abc"),
            version_2(1, 0x31, &unix),
        ] {
            assert_eq!(read_all(&header), (Ok(None), 0), "{header:?}");
        }
    }

    #[test]
    fn anything_else_is_malformed_or_cut_short() {
        let long = format!("PROXY TCP4 {}\r\n", "1".repeat(200));
        for bad in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00",
            b"PROXY TCP4 1.2.3.4 127.0.0.1 4660 99999\r\n",
            b"PROXY TCP4 1.2.3.4\r\n......",
            b"PROXY TCP6 1.2.3.4 127.0.0.1 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 127.0.0.1 1 2\n\r\n",
            b"proxy tcp4 1.2.3.4 127.0.0.1 1 2\r\n",
            long.as_bytes(),
            &version_2(2, 0x11, &[0; 12]),
            &version_2(1, 0x11, &[0; 11]),
            &version_2(1, 0x41, &[0; 12]),
            &version_2(1, 0x11, &[0; 5_000]),
        ] {
            assert_eq!(read_all(bad).0, Err(ProxyHeader::Malformed), "{:?}", String::from_utf8_lossy(bad));
        }
        for cut in [&b""[..], b"PROXY TCP4 1.2.3.4 127", &version_2(1, 0x11, &[0; 12])[..20]] {
            assert_eq!(read_all(cut).0, Err(ProxyHeader::Closed), "{cut:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_told(
            begin in prop_oneof![Just(&b"PROXY "[..]), Just(v2::PROTOCOL_PREFIX), Just(&b""[..])],
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let sent = [begin, &bytes].concat();
            let (_, left) = read_all(&sent);
            prop_assert!(left <= sent.len());
        }

        #[test]
        fn any_text_is_read_or_told(text in "PROXY (TCP4|TCP6|UNKNOWN|X)? ?[0-9a-f:. ]{0,60}(\r\n)?[ -~]{0,60}") {
            read_all(text.as_bytes()).0.ok();
        }

        #[test]
        fn every_address_comes_through(ip: u32, port: u16, tail in proptest::collection::vec(any::<u8>(), 0..50)) {
            let address = SocketAddr::from((Ipv4Addr::from(ip), port));
            let text = format!("PROXY TCP4 {} 127.0.0.1 {port} 443\r\n", address.ip());
            let both = [&ip.to_be_bytes()[..], &[127, 0, 0, 1], &port.to_be_bytes(), &[1, 187]].concat();
            for header in [text.into_bytes(), version_2(1, 0x11, &both)] {
                let sent = [&header[..], &tail].concat();
                prop_assert_eq!(read_all(&sent), (Ok(Some(address)), tail.len()));
            }
        }
    }
}
