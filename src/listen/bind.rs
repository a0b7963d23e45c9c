//! Listening sockets.

use socket2::SockRef;
use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
};
use tokio::net::{TcpListener, TcpSocket};

/// The length of the kernel's queue of connections that have not been accepted.
const LISTEN_BACKLOG: u32 = 4_096;
/// The most unsent bytes of an answer that the kernel buffers (`TCP_NOTSENT_LOWAT`): without a limit it
/// buffers megabytes for a client that reads nothing.
pub(super) const MAX_UNSENT_BYTES: u32 = 128 * 1024;

/// Binds an address; `all` are the addresses of the configuration.
///
/// # Errors
/// If it can't be bound.
pub(crate) fn bind_address(address: SocketAddr, all: &[SocketAddr]) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        SockRef::from(&socket).set_only_v6(leaves_ipv4(address, all))?;
    }
    // Connections inherit it from their listener. Without support for it everything works as before.
    SockRef::from(&socket).set_tcp_notsent_lowat(MAX_UNSENT_BYTES).unwrap_or_default();
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

/// Returns true if an IPv6 address leaves the IPv4 connections of its port to another listener (RFC 3493,
/// 5.3): `[::]` accepts them only if no IPv4 address of the port is listed.
fn leaves_ipv4(address: SocketAddr, all: &[SocketAddr]) -> bool {
    let is_ipv4 = |other: &SocketAddr| other.ip().to_canonical().is_ipv4();
    address.ip() == Ipv6Addr::UNSPECIFIED
        && address.port() != 0
        && all.iter().any(|other| other.port() == address.port() && is_ipv4(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_is_left_to_who_is_listed_for_it() {
        for (address, other, leaves) in [
            ("[::]:80", "0.0.0.0:80", true),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "[::ffff:127.0.0.1]:80", true),
            ("[::]:80", "0.0.0.0:81", false),
            ("[::]:80", "[::1]:81", false),
            ("[::]:0", "0.0.0.0:0", false),
            ("[::1]:80", "0.0.0.0:80", false),
            ("[::ffff:127.0.0.1]:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "[::]:80", false),
        ] {
            let all = [address.parse().unwrap(), other.parse().unwrap()];
            assert_eq!(leaves_ipv4(all[0], &all), leaves, "{address} {other}");
        }
    }
}
