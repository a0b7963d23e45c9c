//! A client's connection as Pingora sees it: a stream that buffers writes until they are flushed.
//!
//! Pingora writes the head and the body of an answer separately. Buffering puts both into one packet, one TLS
//! record and one system call; larger writes bypass the buffer. An idle connection has no buffer. Pingora
//! sets the current time as the `Date` of every answer; here a stored answer gets its own `Date` back (RFC
//! 9111, 5.1: its age is counted from it).
//!
//! Bytes of HTTP/1.1 pass through [`StrictReader`] on their way to Pingora's parser.
//!
//! After a 101 the connection is a tunnel (`Tunnel`), whose bytes Pingora does not see.
//!
//! HTTP/2 frames that are answered together are written together, and the client's frames, and the resets
//! that they cause, are counted.

pub(crate) mod frames;
pub(crate) mod lingering_close;
mod lookahead;
mod outgoing;
pub(crate) mod outgoing_body;
pub(crate) mod sendfile;
pub(crate) mod stream;
pub(crate) mod timed_stream;
pub(crate) mod timeouts;
pub(crate) mod timer;

use super::{
    h1::strict_reader::{StrictReader, REJECTED_BYTES},
    upgrade::tunnel::{GoingAwaySignal, Tunnel},
};
use crate::{
    clock,
    gateway::{ConnectionSignals, TunnelledConnection},
    http::date::{date_text, DATE_LENGTH},
    representation::problem,
    telemetry::{labels::CutReason, metrics::OpenWebSocket},
};
use frames::FramedState;
use timed_stream::TimedStream;
use timer::ReusableTimer;

use async_trait::async_trait;
use http::{StatusCode, Version};
use pingora_core::protocols::{
    Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use std::{
    fmt, io,
    os::fd::AsRawFd,
    pin::Pin,
    sync::{atomic::Ordering, Arc},
    task::{ready, Context, Poll},
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::watch,
};

/// The largest answer that is sent in one write, in bytes.
const GATHER_BYTES: usize = 16 * 1024;
/// The largest buffer that is kept between answers, in bytes.
const MAX_KEPT_BUFFER: usize = 2 * 1024;

/// A client's connection.
pub(crate) struct HttpConnection {
    stream: TimedStream,
    gathered: Vec<u8>,
    written: usize,
    /// Bytes that were read to detect the protocol, or ahead, and that its parser has not read yet.
    ahead: Vec<u8>,
    /// The number of bytes that the gateway has read.
    read: u64,
    /// True once anything has been read.
    heard: bool,
    /// True while an answer of the prepared lane is not written completely.
    owes: bool,
    /// Wakes the task that checks whether the client has left.
    looking: ReusableTimer,
    /// The state of HTTP/2, if the connection speaks it.
    framed: Option<Box<FramedState>>,
    socket: Arc<SocketDigest>,
    since: SystemTime,
    wire: StrictReader,
    /// The number of bytes of [`REJECTED_BYTES`] that the parser has read.
    poisoned: usize,
    /// The flags that the gateway and the connection share.
    signals: Arc<ConnectionSignals>,
    closing: watch::Receiver<bool>,
    upgrade: UpgradeState,
}

/// The state of an upgrade (101).
enum UpgradeState {
    /// No upgrade so far.
    No,
    Tunnel {
        tunnel: Box<Tunnel<pingora_core::protocols::Stream>>,
        /// Counts the WebSocket while it is open.
        _open: OpenWebSocket,
    },
    Over,
}

impl HttpConnection {
    pub(crate) fn new(stream: TimedStream, closing: watch::Receiver<bool>) -> Self {
        let (peer, signals) = (stream.party().peer, stream.party().signals.clone());
        let socket = SocketDigest::from_raw_fd(stream.as_raw_fd());
        // Setting it fails only if it is set already.
        socket.peer_addr.set(Some(peer.into())).unwrap_or_default();
        if stream.is_plain() {
            signals.file.offer();
        }
        Self {
            stream,
            gathered: Vec::new(),
            written: 0,
            ahead: Vec::new(),
            read: 0,
            heard: false,
            owes: false,
            looking: ReusableTimer::default(),
            framed: None,
            socket: Arc::new(socket),
            since: clock::wall(),
            wire: StrictReader::default(),
            poisoned: 0,
            signals,
            closing,
            upgrade: UpgradeState::No,
        }
    }

    /// Returns true if a client begins with the HTTP/2 preface (RFC 9113, 3.3). The bytes remain to be read.
    pub(crate) async fn begins_with_http2(&mut self) -> io::Result<bool> {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        while self.ahead.len() < PREFACE.len() {
            let mut piece = [0; PREFACE.len()];
            let wanted = PREFACE.len() - self.ahead.len();
            let read = self.stream.read(&mut piece[..wanted]).await?;
            self.ahead.extend_from_slice(&piece[..read]);
            if read == 0 || !PREFACE.starts_with(&self.ahead) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Begins a stream of events, with which the connection ends; see [`TimedStream::begin_events`].
    pub(crate) fn begin_events(&mut self) {
        self.stream.begin_events();
    }

    /// Returns true if no part of the next request has come with the last one.
    pub(crate) fn is_between_requests(&self) -> bool {
        self.ahead.is_empty() && self.read == self.signals.taken.load(Ordering::Relaxed)
    }

    /// The time that it may be idle, and the reason if that is shorter than configured.
    pub(crate) fn patience(&self, idle: Duration) -> (Duration, Option<CutReason>) {
        self.stream.patience(self.is_fresh(), idle)
    }

    /// Records that nothing came in time.
    pub(crate) fn gave_up(&mut self, reason: CutReason) {
        self.stream.gave_up(reason);
    }

    /// Switches to HTTP/2: `header_timeout` for heads of HTTP/1.1 no longer applies.
    pub(crate) fn speaks_http2(&self) {
        self.signals.handled.store(true, Ordering::Relaxed);
    }

    /// Waits for bytes or the end of the connection, without allocating a buffer.
    pub(crate) async fn ready(&mut self) -> io::Result<()> {
        self.stream.ready(self.is_fresh()).await
    }

    fn is_fresh(&self) -> bool {
        self.read == 0 && !self.heard
    }

    /// Returns true if the next byte begins an HTTP/1.1 request that Pingora has not seen any part of.
    pub(crate) fn is_at_start(&self) -> bool {
        let taken = self.signals.taken.load(Ordering::Relaxed);
        self.read == taken && self.wire.is_at_start() && matches!(self.upgrade, UpgradeState::No)
    }

    /// The reason for which it was cut off.
    pub(crate) fn was_cut(&self) -> Option<CutReason> {
        self.signals.was_cut()
    }

    /// Buffers bytes to be sent in one write; bytes that don't fit are written behind the buffer.
    fn poll_gather(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.gathered.len() + data.len() > GATHER_BYTES {
            ready!(self.poll_gathered(cx))?;
        }
        if data.len() > GATHER_BYTES {
            return Pin::new(&mut self.stream).poll_write(cx, data);
        }
        self.gathered.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
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
        if self.gathered.capacity() > MAX_KEPT_BUFFER {
            self.gathered = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the buffered part of an answer, as far as the client accepts it. A read during an HTTP/1.1
    /// request means that Pingora waits for the rest of the answer or for the client: it flushes an answer
    /// with a length only at its end.
    fn send_gathered(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        match self.poll_gathered(cx) {
            Poll::Ready(Ok(())) => match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(flushed) => flushed,
                Poll::Pending => Ok(()),
            },
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Ok(()),
        }
    }

    /// Runs the tunnel of a connection that has switched protocols: its bytes bypass Pingora, which sees a
    /// read that ends with the tunnel.
    fn poll_upgraded(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_gathered(cx))?;
        if matches!(self.upgrade, UpgradeState::No) {
            // A client that sent anything before the answer was refused (RFC 6455, 4.1).
            let taken = self.signals.tunnelled.lock().take().filter(|_| self.wire.refused().is_none());
            let Some(TunnelledConnection { origin, idle, open, hearing }) = taken else {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            };
            let tunnel = Tunnel::new(origin.stream, origin.first, idle, self.going_away());
            let tunnel = tunnel.with_observer(hearing);
            self.upgrade = UpgradeState::Tunnel { tunnel: Box::new(tunnel), _open: open };
        }
        if let UpgradeState::Tunnel { tunnel, .. } = &mut self.upgrade {
            let ended = tunnel.poll(cx, &mut self.stream);
            self.signals.sent.store(tunnel.sent(), Ordering::Relaxed);
            ready!(ended)?;
            // This closes the connection to the origin.
            self.upgrade = UpgradeState::Over;
        }
        Poll::Ready(Ok(()))
    }

    fn going_away(&self) -> GoingAwaySignal {
        let mut closing = self.closing.clone();
        // If the sender is dropped, the gateway has ended.
        Box::pin(async move { drop(closing.wait_for(|closing| *closing).await) })
    }

    /// Replaces Pingora's own answer to a request that it can't parse, which never reaches the gateway, by
    /// the usual problem document.
    fn refuse(&mut self, head: &[u8]) {
        const STATUS: std::ops::Range<usize> = 9..12;
        let parsers = head.get(STATUS).and_then(|s| StatusCode::from_bytes(s).ok());
        let status = self.wire.refused().or(parsers).unwrap_or(StatusCode::BAD_REQUEST);
        self.gathered.extend_from_slice(&problem::unreadable_bytes(status));
        let party = self.stream.party();
        party.ledger.unreadable(party.peer, status, Version::HTTP_11);
    }

    /// Handles bytes that the strict reader has refused: behind a request for a WebSocket the parser reads
    /// nothing more, so that the read fails; otherwise the parser gets a syntax error. An earlier request may
    /// still be under way, and is answered.
    fn poll_refused(&mut self, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.wire.awaits_answer(self.signals.exchange.load(Ordering::Relaxed)) {
            true => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            false => self.poll_rejected(buf),
        }
    }

    /// Gives the parser a syntax error instead of the refused bytes, and then nothing: an end would abort the
    /// request before, which may be under way.
    fn poll_rejected(&mut self, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = &REJECTED_BYTES[self.poisoned..];
        if left.is_empty() {
            return Poll::Pending;
        }
        let n = left.len().min(buf.remaining());
        buf.put_slice(&left[..n]);
        self.poisoned += n;
        Poll::Ready(Ok(()))
    }
}

/// Returns true if this is the head of a final answer, which Pingora writes in one piece.
fn is_final_head(data: &[u8]) -> bool {
    data.starts_with(b"HTTP/1.") && data.get(9).is_some_and(|class| *class != b'1')
}

/// Replaces the `Date` of a head: all HTTP dates have the same length (RFC 9110, 5.6.7).
fn set_date(head: &mut [u8], seconds: u64) {
    const FIELD: &[u8] = b"\r\nDate: ";
    let place = head.windows(FIELD.len()).position(|w| w.eq_ignore_ascii_case(FIELD));
    let value = place.and_then(|at| head.get_mut(at + FIELD.len()..at + FIELD.len() + DATE_LENGTH));
    if let Some(value) = value {
        value.copy_from_slice(&date_text(seconds));
    }
}

impl AsyncRead for HttpConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.signals.switched.load(Ordering::Relaxed) {
            return self.poll_upgraded(cx);
        }
        if self.framed.is_none() {
            self.send_gathered(cx)?;
        }
        if self.wire.refused().is_some() {
            return self.poll_refused(buf);
        }
        match self.framed.as_deref() {
            Some(framed) if framed.over => return Poll::Pending,
            Some(framed) if framed.late && !framed.watch.holds.load(Ordering::Relaxed) => {
                self.send_late(cx)?
            }
            _ => {}
        }
        if self.is_answering() {
            return self.poll_left(cx);
        }
        let before = buf.filled().len();
        if self.ahead.is_empty() {
            match Pin::new(&mut self.stream).poll_read(cx, buf) {
                Poll::Pending => return self.wait_for_rest(cx),
                Poll::Ready(read) => read?,
            }
        } else {
            let ahead = std::mem::take(&mut self.ahead);
            let (now, later) = ahead.split_at(ahead.len().min(buf.remaining()));
            buf.put_slice(now);
            self.ahead = later.to_vec();
        }
        self.read = self.read.saturating_add((buf.filled().len() - before) as u64);
        if self.framed.is_some() {
            return self.poll_framed(buf, before);
        }
        let passed = before + self.wire.pass(&buf.filled()[before..]);
        if passed < buf.filled().len() {
            buf.set_filled(passed);
            return if passed > before && self.wire.asks() {
                Poll::Ready(Ok(()))
            } else {
                self.poll_refused(buf)
            };
        }
        if self.signals.handled.load(Ordering::Relaxed) && !self.signals.body.load(Ordering::Relaxed) {
            // These may be the body of the next request: it is not read before this one is answered.
            self.signals.at_once.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HttpConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.framed.is_some() {
            return self.poll_write_frames(cx, data);
        }
        if !self.signals.handled.load(Ordering::Relaxed) {
            if self.gathered.is_empty() {
                self.refuse(data);
            }
            return Poll::Ready(Ok(data.len()));
        }
        if self.wire.awaits_answer(self.signals.exchange.load(Ordering::Relaxed)) {
            self.wire.answer(data);
        }
        if self.signals.file.is_there() {
            ready!(self.poll_gathered(cx))?;
            let Self { stream, signals, .. } = &mut *self;
            return signals.file.advance(|file, at| stream.poll_send(cx, file, at, data.len()));
        }
        if self.gathered.len() + data.len() > GATHER_BYTES {
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
        self.poll_gather(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(framed) = self.framed.as_deref_mut().filter(|f| f.watch.holds.load(Ordering::Relaxed)) {
            framed.late = true;
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_gathered(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_gathered(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for HttpConnection {
    /// Closes gracefully if a request was not read to its end: its client may still be sending it, and has
    /// not read the answer.
    fn drop(&mut self) {
        let within =
            self.framed.is_none() && matches!(self.upgrade, UpgradeState::No) && !self.wire.is_at_start();
        if within && self.signals.was_cut().is_none() {
            lingering_close::linger_close(self.stream.socket());
        }
    }
}

impl fmt::Debug for HttpConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.socket.peer_addr())
    }
}

#[async_trait]
impl Shutdown for HttpConnection {
    async fn shutdown(&mut self) {
        // The client may have closed it already.
        AsyncWriteExt::shutdown(self).await.unwrap_or_default();
    }
}

impl UniqueID for HttpConnection {
    fn id(&self) -> UniqueIDType {
        self.stream.as_raw_fd()
    }
}

impl Ssl for HttpConnection {}

impl Peek for HttpConnection {}

impl GetTimingDigest for HttpConnection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest { established_ts: self.since, ..TimingDigest::default() })]
    }
}

impl GetProxyDigest for HttpConnection {
    fn get_proxy_digest(&self) -> Option<Arc<pingora_core::protocols::raw_connect::ProxyDigest>> {
        Digest::default().proxy_digest
    }
}

impl GetSocketDigest for HttpConnection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket.clone())
    }
}
