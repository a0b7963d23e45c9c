//! Connections for upgrades: the first read waits a moment.
//!
//! Pingora 0.9.1 ends a tunnel at once if it reads the origin's 101 before it has taken the (empty) end of the
//! request's body from its own pipe, which an origin close by is fast enough for. Holding back the first read lets
//! the pipe go first. Such a connection serves one upgrade and is never used again. To be removed with the first
//! release of Pingora that gets the order right.

use async_trait::async_trait;
use pingora_core::{
    connectors::L4Connect,
    protocols::l4::{
        socket::SocketAddr,
        stream::Stream,
        virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream},
    },
    upstreams::peer::HttpPeer,
    Error, ErrorType, OrErr, Result,
};
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{ready, Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

/// How long the first read waits.
const HOLD: Duration = Duration::from_millis(1);
/// Keeps these connections apart from those that are used again.
const GROUP: u64 = 1;

/// Makes a peer fit for an upgrade.
pub fn prepare(peer: &mut HttpPeer) {
    let timeout = peer.options.connection_timeout;
    peer.group_key = GROUP;
    peer.options.idle_timeout = Some(Duration::ZERO);
    peer.options.custom_l4 = Some(Arc::new(Connect { timeout }));
}

#[derive(Debug)]
struct Connect {
    timeout: Option<Duration>,
}

#[async_trait]
impl L4Connect for Connect {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let Some(address) = address.as_inet() else {
            return Error::e_explain(ErrorType::ConnectError, "not an internet address");
        };
        let connecting = TcpStream::connect(address);
        let stream = match self.timeout {
            Some(timeout) => tokio::time::timeout(timeout, connecting)
                .await
                .or_err(ErrorType::ConnectTimedout, "connecting for an upgrade")?,
            None => connecting.await,
        };
        let stream = stream.or_err(ErrorType::ConnectRefused, "connecting for an upgrade")?;
        Ok(VirtualSocketStream::new(Box::new(Held { stream, hold: Hold::Before })).into())
    }
}

#[derive(Debug)]
struct Held {
    stream: TcpStream,
    hold: Hold,
}

#[derive(Debug)]
enum Hold {
    Before,
    During(Pin<Box<Sleep>>),
    Over,
}

impl VirtualSocket for Held {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.stream.set_nodelay(true),
            _ => Ok(()),
        }
    }
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if matches!(self.hold, Hold::Before) {
            self.hold = Hold::During(Box::pin(tokio::time::sleep(HOLD)));
        }
        if let Hold::During(sleep) = &mut self.hold {
            ready!(sleep.as_mut().poll(cx));
            self.hold = Hold::Over;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
