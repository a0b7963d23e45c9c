//! A connection to a server: TCP, a UNIX socket, or TLS (Pingora's).

use crate::origin::servers::dial::{dial_server, not_connected, ReachedAddress};
use pingora_core::{connectors::TransportConnector, protocols::Stream, upstreams::peer::HttpPeer, Error};
use std::{
    io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll, Waker},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// Opens TLS connections. It has read the system's authorities, which verify servers if an origin names none.
static TLS: LazyLock<TransportConnector> = LazyLock::new(|| TransportConnector::new(None));

/// The endpoint of a server.
#[derive(Debug)]
pub(crate) enum SocketTarget<'a> {
    /// One of these addresses, with a receive buffer of this many bytes; `None`: the kernel's default.
    Tcp(&'a [SocketAddr], Option<u32>),
    Unix(&'a Path),
    /// Pingora's peer for TLS, and the address that was reached, if there are several.
    Tls(Box<(HttpPeer, ReachedAddress)>),
}

/// A connected socket.
#[derive(Debug)]
pub(super) enum OriginSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Stream),
}

impl OriginSocket {
    /// Connects, and returns the address, if it is known; addresses that failed are reported.
    ///
    /// # Errors
    /// If that is not possible, or the server's certificate isn't valid for it.
    pub(super) async fn open(
        to: SocketTarget<'_>,
        missed: impl Fn(SocketAddr),
    ) -> Result<(Self, Option<SocketAddr>), Box<Error>> {
        match to {
            SocketTarget::Tcp(addresses, buffer) => {
                let dialled = dial_server(addresses, buffer, missed).await.map_err(not_connected)?;
                Ok((Self::Tcp(dialled.0), Some(dialled.1)))
            }
            SocketTarget::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(not_connected)?;
                Ok((Self::Unix(stream), None))
            }
            SocketTarget::Tls(to) => {
                let (peer, reached) = *to;
                // Boxed: most connections are without TLS, and its future is large.
                let stream = Box::pin(TLS.new_stream(&peer)).await?;
                Ok((Self::Tls(stream), reached.get().copied()))
            }
        }
    }

    /// Returns true if nothing has been received, not even the end.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let read = match self {
            Self::Tcp(stream) => stream.try_read(&mut byte),
            Self::Unix(stream) => stream.try_read(&mut byte),
            // A session ticket that has come meanwhile doesn't count.
            Self::Tls(stream) => {
                let mut buf = ReadBuf::new(&mut byte);
                let mut cx = Context::from_waker(Waker::noop());
                return Pin::new(stream).poll_read(&mut cx, &mut buf).is_pending();
            }
        };
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

macro_rules! each {
    ($socket:expr, $stream:ident => $does:expr) => {
        match $socket.get_mut() {
            OriginSocket::Tcp($stream) => $does,
            OriginSocket::Unix($stream) => $does,
            OriginSocket::Tls($stream) => $does,
        }
    };
}

impl AsyncRead for OriginSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for OriginSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, data))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
