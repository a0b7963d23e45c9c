//! A client's connection as Pingora sees it: a stream whose writes are gathered until they are flushed.
//!
//! Pingora writes the head and the body of an answer apart. Gathering them makes one packet, one TLS record and one
//! system call of both; what is larger than the buffer is written through. An idle connection keeps no buffer. Pingora
//! dates every answer with now; one that was made before gets its own `Date` back here (RFC 9111, 5.1 counts from it).
//!
//! What comes by HTTP/1.1 passes [`Wire`] on its way to Pingora's parser.
//!
//! Behind a 101 it is a tunnel ([`Tunnel`]), whose bytes Pingora does not see.
//!
//! Frames of HTTP/2 that are answered together leave together as well, and those of the client, and what it provokes, are
//! counted.

mod ahead;
mod framed;

pub(super) use framed::FrameWatch;

use super::{
    alarm::Alarm,
    guarded::Guarded,
    linger,
    tunnel::{GoingAway, Tunnel},
    wire::{Wire, POISON},
};
use crate::{
    clock,
    gateway::{Signals, Tunnelled},
    representation::problem,
    telemetry::{labels::CutReason, metrics::OpenWebSocket},
};
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

/// Answers up to this size leave in one write.
const GATHER: usize = 16 * 1024;
/// A buffer of at most this size is kept between answers.
const KEEP: usize = 2 * 1024;

/// A client's connection.
pub(super) struct Connection {
    stream: Guarded,
    gathered: Vec<u8>,
    written: usize,
    /// What has been read to know the protocol, and not yet been read by who speaks it.
    ahead: Vec<u8>,
    /// Bytes that have come, and that the gateway has seen.
    read: u64,
    /// Whether anything has come at all.
    heard: bool,
    /// Whether something of who looks ahead is still to be written.
    owes: bool,
    /// Wakes who looks whether the client has left.
    looking: Alarm,
    /// Where it speaks HTTP/2.
    framed: Option<Box<framed::Framed>>,
    socket: Arc<SocketDigest>,
    since: SystemTime,
    wire: Wire,
    /// How much of [`POISON`] the parser has got.
    poisoned: usize,
    /// What the gateway has to tell.
    signals: Arc<Signals>,
    closing: watch::Receiver<bool>,
    upgrade: Upgrade,
}

/// What has become of the connection behind a 101.
enum Upgrade {
    /// It has not begun.
    No,
    Tunnel {
        tunnel: Box<Tunnel<pingora_core::protocols::Stream>>,
        /// Counts it for as long as it is there.
        _open: OpenWebSocket,
    },
    Over,
}

impl Connection {
    pub(super) fn new(stream: Guarded, closing: watch::Receiver<bool>) -> Self {
        let (peer, signals) = (stream.party().peer, stream.party().signals.clone());
        let socket = SocketDigest::from_raw_fd(stream.as_raw_fd());
        // Only a second setting could fail.
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
            looking: Alarm::default(),
            framed: None,
            socket: Arc::new(socket),
            since: clock::wall(),
            wire: Wire::default(),
            poisoned: 0,
            signals,
            closing,
            upgrade: Upgrade::No,
        }
    }

    /// Whether a client begins with HTTP/2 unasked (RFC 9113, 3.3). Nothing is lost of what it sends.
    pub(super) async fn begins_with_http2(&mut self) -> io::Result<bool> {
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

    /// Whether nothing of the next request has come while the last one was read.
    pub(super) fn is_between_requests(&self) -> bool {
        self.ahead.is_empty() && self.read == self.signals.taken.load(Ordering::Relaxed)
    }

    /// How long it may be idle, and why it is closed sooner than it could.
    pub(super) fn patience(&self, idle: Duration) -> (Duration, Option<CutReason>) {
        self.stream.patience(self.is_fresh(), idle)
    }

    /// Nothing came in time.
    pub(super) fn gave_up(&mut self, reason: CutReason) {
        self.stream.gave_up(reason);
    }

    /// From now on it is HTTP/2: its heads are within frames, and nothing that comes is a part of one for the guard.
    pub(super) fn speaks_http2(&self) {
        self.signals.handled.store(true, Ordering::Relaxed);
    }

    /// Waits until something comes, or the end, without a buffer for it.
    pub(super) async fn ready(&mut self) -> io::Result<()> {
        self.stream.ready(self.is_fresh()).await
    }

    fn is_fresh(&self) -> bool {
        self.read == 0 && !self.heard
    }

    /// Whether what comes next is a request of HTTP/1.1 from its first byte on, of which nobody has seen anything but
    /// who looks ahead.
    pub(super) fn is_at_start(&self) -> bool {
        let taken = self.signals.taken.load(Ordering::Relaxed);
        self.read == taken && self.wire.is_at_start() && matches!(self.upgrade, Upgrade::No)
    }

    /// Why it was cut off, if it was.
    pub(super) fn was_cut(&self) -> Option<CutReason> {
        self.signals.was_cut()
    }

    /// Gathers what is to leave in one write; what is too long for that is written behind it.
    fn poll_gather(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.gathered.len() + data.len() > GATHER {
            ready!(self.poll_gathered(cx))?;
        }
        if data.len() > GATHER {
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
        if self.gathered.capacity() > KEEP {
            self.gathered = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what there is of an answer, as far as the client takes it. By HTTP/1.1 who reads while a request is answered
    /// waits, for the rest of it or for the client: what has a length Pingora flushes only at its end.
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

    /// A connection that has switched protocols: its bytes go through the tunnel, and past Pingora, which gets the end
    /// of it for a read.
    fn poll_upgraded(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_gathered(cx))?;
        if matches!(self.upgrade, Upgrade::No) {
            // Who has sent anything before the answer has been refused (RFC 6455, 4.1).
            let taken = self.signals.tunnelled.lock().take().filter(|_| self.wire.refused().is_none());
            let Some(Tunnelled { origin, idle, open, hearing }) = taken else {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            };
            let tunnel = Tunnel::new(origin.stream, origin.first, idle, self.going_away());
            let tunnel = tunnel.heard_by(hearing);
            self.upgrade = Upgrade::Tunnel { tunnel: Box::new(tunnel), _open: open };
        }
        if let Upgrade::Tunnel { tunnel, .. } = &mut self.upgrade {
            let ended = tunnel.poll(cx, &mut self.stream);
            self.signals.sent.store(tunnel.sent(), Ordering::Relaxed);
            ready!(ended)?;
            // The origin's end is closed with it.
            self.upgrade = Upgrade::Over;
        }
        Poll::Ready(Ok(()))
    }

    fn going_away(&self) -> GoingAway {
        let mut closing = self.closing.clone();
        // Whoever could tell is gone: so are we.
        Box::pin(async move { drop(closing.wait_for(|closing| *closing).await) })
    }

    /// What is written before the request has reached the gateway is Pingora's own refusal of what it can't parse.
    /// It gets the document that all refusals have.
    fn refuse(&mut self, head: &[u8]) {
        const STATUS: std::ops::Range<usize> = 9..12;
        let parsers = head.get(STATUS).and_then(|s| StatusCode::from_bytes(s).ok());
        let status = self.wire.refused().or(parsers).unwrap_or(StatusCode::BAD_REQUEST);
        self.gathered.extend_from_slice(&problem::unreadable_written(status));
        let party = self.stream.party();
        party.ledger.unreadable(party.peer, status, Version::HTTP_11);
    }

    /// What was refused, was so behind a request for a WebSocket, where nothing reaches the parser any more, or elsewhere.
    /// The request may still wait for the one before it, which is answered all the same.
    fn poll_refused(&mut self, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.wire.awaits_answer(self.signals.exchange.load(Ordering::Relaxed)) {
            true => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            false => self.poll_poison(buf),
        }
    }

    /// Instead of what was refused the parser gets what it refuses as well, then nothing: an end would break off the
    /// request before, which may be under way.
    fn poll_poison(&mut self, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = &POISON[self.poisoned..];
        if left.is_empty() {
            return Poll::Pending;
        }
        let n = left.len().min(buf.remaining());
        buf.put_slice(&left[..n]);
        self.poisoned += n;
        Poll::Ready(Ok(()))
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
            // It may be of the body of the next request: then nobody reads on before this one is answered.
            self.signals.at_once.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
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

impl Drop for Connection {
    /// Where a request is not at its end, its client may still be sending it, and has not read the answer.
    fn drop(&mut self) {
        let within = self.framed.is_none() && matches!(self.upgrade, Upgrade::No) && !self.wire.is_at_start();
        if within && self.signals.was_cut().is_none() {
            linger::let_go(self.stream.socket());
        }
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
