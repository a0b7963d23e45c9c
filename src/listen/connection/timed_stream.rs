//! The bytes of a connection with client timeouts: reports events to the state machine in `guard.rs`, and
//! carries out its verdicts.
//!
//! A timer is armed only if a client is waited for and a limit applies; one that is early is left alone and
//! checks again when it fires. So a request whose head comes in one piece, and whose answer the socket
//! accepts at once, needs neither a timer nor the clock.
//!
//! A client that is too slow with a head gets 408 (RFC 9110, 15.5.9) from here, because no request has
//! reached the gateway; one that is too slow with a body gets it from the gateway, which finds the reason in
//! the signals. A connection whose client doesn't read the answer is reset, so that the kernel frees its
//! buffers at once.

use super::{
    outgoing_body::{gather_slices, OutgoingBody, MAX_PIECES},
    sendfile,
    stream::ClientSocket,
    timeouts::{ConnectionGuard, ExchangeProgress, TimeoutRules, WaitVerdict, CROWDED_IDLE},
    timer::ReusableTimer,
};
use crate::{
    gateway::ConnectionSignals,
    listen::{aborted::ConnectionLedger, bind::MAX_UNSENT_BYTES, connection_limits::ConnectionLimiter},
    representation::problem,
    telemetry::labels::CutReason,
};

use http::StatusCode;
use pingora_core::protocols::l4::ext::get_tcp_info;
use socket2::SockRef;
use std::{
    fs::File,
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
    pin::Pin,
    sync::{atomic::Ordering, Arc},
    task::{ready, Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The most unsent bytes of a file that the kernel buffers.
const MAX_UNSENT_FILE_BYTES: u32 = 4 << 20;
/// The most unsent bytes of a stream of events that the kernel buffers: what is there can't be skipped.
const MAX_UNSENT_EVENT_BYTES: u32 = 16 * 1024;

/// The client of a connection, and the shared state that is told of it.
pub(crate) struct ConnectionParty {
    /// The client's address.
    pub(crate) peer: SocketAddr,
    /// The flags that the gateway and the connection share.
    pub(crate) signals: Arc<ConnectionSignals>,
    /// The metrics and records of connections.
    pub(crate) ledger: Arc<ConnectionLedger>,
    /// The counters of connections.
    pub(crate) places: Arc<ConnectionLimiter>,
}

/// A stream with client timeouts.
pub(crate) struct TimedStream {
    stream: ClientSocket,
    guard: ConnectionGuard,
    party: ConnectionParty,
    /// True once it has been recorded that this connection is cut off.
    cut: bool,
    reading: ReusableTimer,
    writing: ReusableTimer,
    /// True if the kernel may buffer more than usual: pages of a file cost no memory.
    roomy: bool,
}

impl TimedStream {
    /// A connection that was accepted at `accepted`.
    pub(crate) fn new(
        stream: ClientSocket,
        party: ConnectionParty,
        rules: TimeoutRules,
        accepted: Instant,
    ) -> Self {
        let guard = ConnectionGuard::new(rules, accepted);
        let (reading, writing) = (ReusableTimer::default(), ReusableTimer::default());
        Self { stream, guard, party, cut: false, reading, writing, roomy: false }
    }

    /// Returns true for a socket without TLS.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.stream, ClientSocket::Plain(_))
    }

    /// Waits for bytes or the end of the connection, without allocating a buffer; see
    /// [`ClientSocket::ready`].
    pub(crate) async fn ready(&mut self, fresh: bool) -> io::Result<()> {
        self.stream.ready(fresh).await
    }

    /// The time that the client may take for a head.
    pub(crate) fn header_timeout(&self) -> Duration {
        self.guard.rules().header_timeout
    }

    /// The time that the connection may be idle: at most `header_timeout` before the first byte, and a second
    /// if places run short.
    pub(crate) fn patience(&self, fresh: bool, idle: Duration) -> (Duration, Option<CutReason>) {
        match fresh {
            true => (idle.min(self.guard.rules().header_timeout), Some(CutReason::Silent)),
            false if self.party.places.is_crowded() => (idle.min(CROWDED_IDLE), Some(CutReason::Crowded)),
            false => (idle, None),
        }
    }

    /// Notes that the prepared lane has answered a request; see [`ConnectionGuard::answered`].
    pub(crate) fn answered(&mut self, more: bool) {
        self.guard.answered(more);
    }

    /// Notes that the gateway has served a request of the prepared lane; see [`ConnectionGuard::served`].
    pub(crate) fn served(&mut self, more: bool) {
        let seen = self.seen();
        self.guard.served(seen, more);
    }

    /// Records that nothing came in time.
    pub(crate) fn gave_up(&mut self, reason: CutReason) {
        self.tell(reason, None);
    }

    /// Sends a part of a file.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        file: &File,
        at: u64,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        self.make_room(true);
        let ClientSocket::Plain(socket) = &self.stream else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        let result = sendfile::poll_sendfile(socket, cx, file, at, most);
        self.written(cx, result, |bytes| *bytes)
    }

    /// Limits the unsent bytes for a stream of events, with which the connection ends.
    pub(crate) fn begin_events(&mut self) {
        self.roomy = false;
        let socket = SockRef::from(self.stream.socket());
        socket.set_tcp_notsent_lowat(MAX_UNSENT_EVENT_BYTES).unwrap_or_default();
    }

    /// Sets the limit of unsent bytes: the kernel's copies of other bytes than a file's cost memory.
    fn make_room(&mut self, roomy: bool) {
        if self.roomy != roomy {
            self.roomy = roomy;
            let most = if roomy { MAX_UNSENT_FILE_BYTES } else { MAX_UNSENT_BYTES };
            // Without support for it everything works as before.
            SockRef::from(self.stream.socket()).set_tcp_notsent_lowat(most).unwrap_or_default();
        }
    }

    /// Sends `bytes` from `written` on, and the body behind it; `rest` counts the bytes of the body that have
    /// been sent. Ready when everything is sent; `rest` is empty then.
    pub(crate) fn poll_send_all(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        written: &mut usize,
        rest: &mut Option<OutgoingBody>,
    ) -> Poll<io::Result<()>> {
        loop {
            let front = bytes.get(*written..).unwrap_or_default();
            let body = rest.as_ref().filter(|rest| rest.sent < rest.body.len());
            let n = match body {
                None if front.is_empty() => break,
                None => ready!(Pin::new(&mut *self).poll_write(cx, front))?,
                Some(rest) => {
                    let mut pieces = [IoSlice::new(&[]); MAX_PIECES];
                    let count = gather_slices(front, rest, &mut pieces);
                    ready!(Pin::new(&mut *self).poll_write_vectored(cx, &pieces[..count]))?
                }
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_front = n.min(front.len());
            *written += of_front;
            if let Some(rest) = rest.as_mut() {
                rest.sent += (n - of_front) as u64;
            }
        }
        *rest = None;
        Pin::new(self).poll_flush(cx)
    }

    /// Returns true if the client has ended the connection, even if bytes that it sent before are still
    /// unread.
    pub(crate) fn has_left(&self) -> bool {
        const ESTABLISHED: u8 = 1;
        get_tcp_info(self.stream.as_raw_fd()).is_ok_and(|info| info.tcpi_state != ESTABLISHED)
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> &TcpStream {
        self.stream.socket()
    }

    /// The client, and the shared state.
    pub(crate) fn party(&self) -> &ConnectionParty {
        &self.party
    }

    fn seen(&self) -> ExchangeProgress {
        let signals = &self.party.signals;
        ExchangeProgress {
            exchange: signals.exchange.load(Ordering::Relaxed),
            handled: signals.handled.load(Ordering::Relaxed),
            body: signals.body.load(Ordering::Relaxed),
            crowded: self.party.places.is_crowded(),
        }
    }

    fn wait_to_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.guard.waits_to_read(self.seen(), Instant::now) {
                WaitVerdict::Free => return Poll::Pending,
                WaitVerdict::Until(at) => ready!(self.reading.poll(at, cx)),
                WaitVerdict::Cut(reason @ (CutReason::Silent | CutReason::Crowded)) => {
                    self.tell(reason, None);
                    return self.end(cx);
                }
                WaitVerdict::Cut(CutReason::Header) => {
                    let since = self.guard.head_since();
                    self.tell(CutReason::Header, since.map(|since| (since, 408)));
                    self.answer_late(cx);
                    return self.end(cx);
                }
                WaitVerdict::Cut(reason) => return Poll::Ready(Err(self.cut_off(reason))),
            }
        }
    }

    fn wait_to_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let fd = self.stream.as_raw_fd();
            match self.guard.waits_to_write(Instant::now(), || acknowledged_bytes(fd)) {
                WaitVerdict::Free => return Poll::Pending,
                WaitVerdict::Until(at) => ready!(self.writing.poll(at, cx)),
                WaitVerdict::Cut(reason) => {
                    // If it can't be set, the connection is gone already.
                    self.stream.socket().set_zero_linger().unwrap_or_default();
                    return Poll::Ready(self.cut_off(reason));
                }
            }
        }
    }

    /// Ends the exchange under way with an error; the gateway finds the reason in the signals.
    fn cut_off(&mut self, reason: CutReason) -> io::Error {
        self.party.signals.cut_off(reason);
        self.tell(reason, None);
        io::ErrorKind::TimedOut.into()
    }

    fn tell(&mut self, reason: CutReason, head: Option<(Instant, u16)>) {
        if !std::mem::replace(&mut self.cut, true) {
            self.party.ledger.cut(self.party.peer, reason, head);
        }
    }

    /// Ends a connection without a request: the task that serves it stops. An error would make Pingora write
    /// a log line, and a client could cause any number of them.
    fn end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Bytes that can't be written at once are dropped.
        drop(Pin::new(&mut self.stream).poll_shutdown(cx));
        self.party.signals.over.store(true, Ordering::Relaxed);
        Poll::Pending
    }

    /// Sends 408. No answer is being written at this time: the one before this request was flushed.
    fn answer_late(&mut self, cx: &mut Context<'_>) {
        let answer = problem::unreadable_bytes(StatusCode::REQUEST_TIMEOUT);
        drop(Pin::new(&mut self.stream).poll_write(cx, &answer));
        drop(Pin::new(&mut self.stream).poll_flush(cx));
    }

    /// Reports the result of a write: bytes, an error, or a wait, which is limited.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(Ok(value)) => {
                self.guard.wrote(bytes(&value), Instant::now);
                Poll::Ready(Ok(value))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.failed(error))),
            Poll::Pending => self.wait_to_write(cx).map(Err),
        }
    }

    /// Translates an error: the kernel closes a connection whose client reads nothing (`TCP_USER_TIMEOUT`).
    fn failed(&mut self, error: io::Error) -> io::Error {
        match error.kind() {
            io::ErrorKind::TimedOut => self.cut_off(CutReason::SendTimeout),
            _ => error,
        }
    }
}

/// The total of bytes that the client's system has acknowledged.
fn acknowledged_bytes(fd: RawFd) -> Option<u64> {
    get_tcp_info(fd).ok().map(|info| info.tcpi_bytes_acked)
}

impl AsRawFd for TimedStream {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(Ok(())) if buf.filled().len() > before => {
                this.guard.read(buf.filled().len() - before, this.seen(), Instant::now);
                Poll::Ready(Ok(()))
            }
            Poll::Pending => this.wait_to_read(cx),
            // Closed within a head: there is no client to answer.
            Poll::Ready(_) if this.guard.is_within_head(this.seen()) => this.end(cx),
            Poll::Ready(result) => Poll::Ready(result.map_err(|error| this.failed(error))),
        }
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.make_room(false);
        let result = Pin::new(&mut this.stream).poll_write(cx, data);
        this.written(cx, result, |bytes| *bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.make_room(false);
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, pieces);
        this.written(cx, result, |bytes| *bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let result = Pin::new(&mut this.stream).poll_flush(cx);
        this.written(cx, result, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let result = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.written(cx, result, |()| 0)
    }
}
