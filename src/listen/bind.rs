//! Sockets that listen.

use socket2::SockRef;
use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
};
use tokio::net::{TcpListener, TcpSocket};

/// Connections that the kernel keeps for us until we accept them.
const BACKLOG: u32 = 4_096;
/// Bytes of an answer that the system takes beyond what it can send: without a limit it buffers megabytes for a client
/// that takes nothing.
pub(super) const UNSENT: u32 = 128 * 1024;

/// Binds an address; `all` are those that the configuration lists.
///
/// # Errors
/// Why it can't be bound.
pub fn bind(address: SocketAddr, all: &[SocketAddr]) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        SockRef::from(&socket).set_only_v6(leaves_ipv4(address, all))?;
    }
    // Connections have it from their listener. A system without it goes on as before.
    SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT).unwrap_or_default();
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Returns whether an IPv6 address leaves the IPv4 connections of its port to another listener (RFC 3493, 5.3): `[::]` takes
/// them where nobody else is listed for any of them.
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
