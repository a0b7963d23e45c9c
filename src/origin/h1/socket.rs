//! The bytes of a connection to a server: TCP, a socket of this machine, or TLS, which is Pingora's.

use pingora_core::{
    connectors::TransportConnector, protocols::Stream, upstreams::peer::HttpPeer, Error, ErrorType,
};
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
    net::{TcpSocket, TcpStream, UnixStream},
};

/// Makes connections with TLS. It has read the authorities that servers are verified by where an origin names none.
static TLS: LazyLock<TransportConnector> = LazyLock::new(|| TransportConnector::new(None));

/// Where a server is.
#[derive(Debug)]
pub(in crate::origin) enum To<'a> {
    /// With a receive buffer of so many bytes; `None`: as the kernel likes.
    Tcp(SocketAddr, Option<u32>),
    Unix(&'a Path),
    Tls(Box<HttpPeer>),
}

/// A connected socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Stream),
}

impl Socket {
    /// Connects.
    ///
    /// # Errors
    /// If that is not possible, or the server is not the one that was meant.
    pub(super) async fn open(to: To<'_>) -> Result<Self, Box<Error>> {
        match to {
            To::Tcp(to, buffer) => tcp(to, buffer).await.map(Self::Tcp).map_err(not_connected),
            To::Unix(path) => UnixStream::connect(path).await.map(Self::Unix).map_err(not_connected),
            // Boxed: most connections are without, and its future is large.
            To::Tls(peer) => Box::pin(TLS.new_stream(&*peer)).await.map(Self::Tls),
        }
    }

    /// Whether nothing has come, not even the end.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let read = match self {
            Self::Tcp(stream) => stream.try_read(&mut byte),
            Self::Unix(stream) => stream.try_read(&mut byte),
            // A session ticket that has come meanwhile is nothing.
            Self::Tls(stream) => {
                let mut buf = ReadBuf::new(&mut byte);
                let mut cx = Context::from_waker(Waker::noop());
                return Pin::new(stream).poll_read(&mut cx, &mut buf).is_pending();
            }
        };
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

async fn tcp(to: SocketAddr, buffer: Option<u32>) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Before it connects: the window is told then.
    if let Some(size) = buffer {
        socket.set_recv_buffer_size(size)?;
    }
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn not_connected(error: io::Error) -> Box<Error> {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => ErrorType::ConnectNoRoute,
        _ => ErrorType::ConnectError,
    };
    Error::because(kind, "connecting to a server", error)
}

macro_rules! each {
    ($socket:expr, $stream:ident => $does:expr) => {
        match $socket.get_mut() {
            Socket::Tcp($stream) => $does,
            Socket::Unix($stream) => $does,
            Socket::Tls($stream) => $does,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
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
