//! Connects to a server whose name has several addresses: the next address is tried after a delay, or at once
//! if one has failed (RFC 8305, 5); the first connection wins.

use pingora_core::{Error, ErrorType};
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::sleep,
};

/// The delay after which the next address is tried as well (RFC 8305, 8).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Connects to the first of these addresses that accepts a connection, and reports the addresses that failed
/// or were slower.
///
/// # Errors
/// The failure of the last address, if all failed.
pub(crate) async fn dial_server(
    addresses: &[SocketAddr],
    buffer: Option<u32>,
    missed: impl Fn(SocketAddr),
) -> io::Result<(TcpStream, SocketAddr)> {
    if let [only] = addresses {
        let connected = connect_tcp(*only, buffer).await;
        return connected.inspect_err(|_| missed(*only)).map(|stream| (stream, *only));
    }
    let (mut attempts, mut under_way) = (JoinSet::new(), Vec::new());
    let mut left = addresses.iter().copied();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match left.next() {
            Some(next) => {
                under_way.push(next);
                attempts.spawn(async move { (next, connect_tcp(next, buffer).await) });
            }
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        let ended = tokio::select! {
            biased;
            ended = attempts.join_next() => ended,
            () = sleep(NEXT_ADDRESS_AFTER), if left.len() > 0 => None,
        };
        match ended {
            Some(Ok((address, Ok(stream)))) => {
                under_way.into_iter().filter(|other| *other != address).for_each(missed);
                return Ok((stream, address));
            }
            Some(Ok((address, Err(error)))) => {
                under_way.retain(|other| *other != address);
                missed(address);
                last = error;
            }
            Some(Err(error)) => last = io::Error::other(error),
            None => {}
        }
    }
}

async fn connect_tcp(to: SocketAddr, buffer: Option<u32>) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Before connecting, since the window is announced then.
    if let Some(size) = buffer {
        socket.set_recv_buffer_size(size)?;
    }
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The address that a connection was made to; empty if none was opened.
pub(crate) type ReachedAddress = Arc<OnceLock<SocketAddr>>;

/// The error of a connection that was not made.
pub(in crate::origin) fn not_connected(error: io::Error) -> Box<Error> {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => ErrorType::ConnectNoRoute,
        _ => ErrorType::ConnectError,
    };
    Error::because(kind, "connecting to a server", error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use tokio::{net::TcpListener, time::timeout};

    /// An address that refuses connections.
    async fn dead() -> SocketAddr {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn the_first_that_is_there_is_taken_and_the_others_are_told() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let there = listener.local_addr().unwrap();
        // TEST-NET-1 (RFC 5737) and the discard prefix (RFC 6666): packets to them are lost, or the system
        // rejects them.
        let silent = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
        let discarded = SocketAddr::from((Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1), 9));
        let dead = dead().await;
        for (addresses, wanted) in [
            (vec![there], vec![]),
            (vec![there, dead], vec![]),
            (vec![dead, there], vec![dead]),
            (vec![silent, there], vec![silent]),
            (vec![discarded, dead, there], vec![discarded, dead]),
        ] {
            let missed = Mutex::new(Vec::new());
            let dialled = dial_server(&addresses, None, |address| missed.lock().push(address));
            let (_, reached) = timeout(Duration::from_secs(5), dialled).await.unwrap().unwrap();
            let mut missed = missed.into_inner();
            missed.sort_by_key(|missed| addresses.iter().position(|address| address == missed));
            assert_eq!((reached, missed), (there, wanted), "{addresses:?}");
        }
        let missed = Mutex::new(Vec::new());
        assert!(dial_server(&[dead, dead], None, |address| missed.lock().push(address)).await.is_err());
        assert_eq!(missed.into_inner(), [dead, dead]);
        assert!(dial_server(&[], None, |_| ()).await.is_err());
    }
}
