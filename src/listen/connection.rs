//! A client's connection as Pingora sees it: a stream whose writes are gathered until they are flushed.
//!
//! Pingora writes the head and the body of an answer apart. Gathering them makes one packet and one system call of
//! both; what is larger than the buffer is written through. An idle connection keeps no buffer. Pingora dates every
//! answer with now; one that was made before gets its own `Date` back here (RFC 9111, 5.1 counts from it).

use crate::{gateway::Signals, representation::problem};
use async_trait::async_trait;
use http::StatusCode;
use pingora_core::protocols::{
    Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use std::{
    fmt, io,
    net::SocketAddr,
    os::fd::AsRawFd,
    pin::Pin,
    sync::{atomic::Ordering, Arc},
    task::{ready, Context, Poll},
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

/// Answers up to this size leave in one write.
const GATHER: usize = 16 * 1024;
/// A buffer of at most this size is kept between answers.
const KEEP: usize = 2 * 1024;

/// Called when a request could not be read.
pub(super) type OnUnreadable = Arc<dyn Fn() + Send + Sync>;

/// A client's connection.
pub(super) struct Connection {
    stream: TcpStream,
    gathered: Vec<u8>,
    written: usize,
    socket: Arc<SocketDigest>,
    since: SystemTime,
    /// What the gateway has to tell.
    signals: Arc<Signals>,
    on_unreadable: OnUnreadable,
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        peer: SocketAddr,
        signals: Arc<Signals>,
        on_unreadable: OnUnreadable,
    ) -> Self {
        let socket = SocketDigest::from_raw_fd(stream.as_raw_fd());
        // Only a second setting could fail.
        socket.peer_addr.set(Some(peer.into())).unwrap_or_default();
        Self {
            stream,
            gathered: Vec::new(),
            written: 0,
            socket: Arc::new(socket),
            since: SystemTime::now(),
            signals,
            on_unreadable,
        }
    }

    fn poll_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.gathered.len() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        self.gathered.clear();
        self.written = 0;
        if self.gathered.capacity() > KEEP {
            self.gathered = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// What is written before the request has reached the gateway is Pingora's own refusal of what it can't parse.
    /// It gets the document that all refusals have.
    fn refuse(&mut self, head: &[u8]) {
        const STATUS: std::ops::Range<usize> = 9..12;
        let status =
            head.get(STATUS).and_then(|s| StatusCode::from_bytes(s).ok()).unwrap_or(StatusCode::BAD_REQUEST);
        self.gathered.extend_from_slice(&problem::unreadable(status));
        (self.on_unreadable)();
    }
}

/// Whether this is the head of an answer that ends the exchange, as Pingora writes it: in one piece.
fn is_final_head(data: &[u8]) -> bool {
    data.starts_with(b"HTTP/1.") && data.get(9).is_some_and(|class| *class != b'1')
}

/// Puts another time into the `Date` of a head: all dates are of one length (RFC 9110, 5.6.7).
fn set_date(head: &mut [u8], seconds: u64) {
    const FIELD: &[u8] = b"\r\nDate: ";
    const LENGTH: usize = 29;
    let text = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    let place = head.windows(FIELD.len()).position(|w| w.eq_ignore_ascii_case(FIELD));
    let value = place.and_then(|at| head.get_mut(at + FIELD.len()..at + FIELD.len() + LENGTH));
    if let Some(value) = value.filter(|_| text.len() == LENGTH) {
        value.copy_from_slice(text.as_bytes());
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if !self.signals.handled.load(Ordering::Relaxed) {
            if self.gathered.is_empty() {
                self.refuse(data);
            }
            return Poll::Ready(Ok(data.len()));
        }
        if self.gathered.len() + data.len() > GATHER {
            ready!(self.poll_gathered(cx))?;
        }
        if self.signals.date.load(Ordering::Relaxed) != 0 && is_final_head(data) {
            let date = self.signals.date.swap(0, Ordering::Relaxed);
            let begin = self.gathered.len();
            self.gathered.extend_from_slice(data);
            set_date(&mut self.gathered[begin..], date);
            return Poll::Ready(Ok(data.len()));
        }
        if self.signals.at_once.load(Ordering::Relaxed) {
            ready!(self.poll_gathered(cx))?;
            return Pin::new(&mut self.stream).poll_write(cx, data);
        }
        if data.len() > GATHER {
            return Pin::new(&mut self.stream).poll_write(cx, data);
        }
        self.gathered.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_gathered(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_gathered(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.socket.peer_addr())
    }
}

#[async_trait]
impl Shutdown for Connection {
    async fn shutdown(&mut self) {
        // The client may have closed it already.
        AsyncWriteExt::shutdown(self).await.unwrap_or_default();
    }
}

impl UniqueID for Connection {
    fn id(&self) -> UniqueIDType {
        self.stream.as_raw_fd()
    }
}

impl Ssl for Connection {}

impl Peek for Connection {}

impl GetTimingDigest for Connection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest { established_ts: self.since, ..TimingDigest::default() })]
    }
}

impl GetProxyDigest for Connection {
    fn get_proxy_digest(&self) -> Option<Arc<pingora_core::protocols::raw_connect::ProxyDigest>> {
        Digest::default().proxy_digest
    }
}

impl GetSocketDigest for Connection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket.clone())
    }
}
