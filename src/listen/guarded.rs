//! The bytes of a connection under guard: what they do is told to the state machine of `guard.rs`, and what that says is
//! done.
//!
//! A timer is armed only where a client is waited for and a rule applies; one that is early is left as it is and looks
//! again when it fires. So a request whose head comes in one piece, and whose answer the socket takes at once, costs
//! neither a timer nor a look at the clock.
//!
//! Who is cut off within a head gets 408 (RFC 9110, 15.5.9) from here, for no request has reached the gateway; within a
//! body, from the gateway, which finds the reason in the signals. Who takes no answer gets a reset: what the system
//! still holds for it goes at once.

use super::{
    alarm::Alarm,
    bind::UNSENT,
    caps::Places,
    fast_lane::Outgoing,
    guard::{Guard, Rules, Seen, Verdict, CROWDED_IDLE},
    ledger::Ledger,
    sendfile,
    stream::Stream,
};
use crate::{gateway::Signals, representation::problem, telemetry::labels::CutReason};
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

/// Bytes of a file that the system takes beyond what it can send.
const UNSENT_OF_FILE: u32 = 4 << 20;

/// Whom a connection belongs to, and who is told of it.
pub(super) struct Party {
    /// The client.
    pub(super) peer: SocketAddr,
    /// What the gateway and the connection tell each other.
    pub(super) signals: Arc<Signals>,
    /// Who counts.
    pub(super) ledger: Arc<Ledger>,
    /// Whether places run short.
    pub(super) places: Arc<Places>,
}

/// A stream under guard.
pub(super) struct Guarded {
    stream: Stream,
    guard: Guard,
    party: Party,
    /// Whether it was told already that this connection is cut off.
    cut: bool,
    reading: Alarm,
    writing: Alarm,
    /// Whether the system may take more than it can send: a file's pages are its own, and cost no memory.
    roomy: bool,
}

impl Guarded {
    /// A connection that was accepted then.
    pub(super) fn new(stream: Stream, party: Party, rules: Rules, accepted: Instant) -> Self {
        let guard = Guard::new(rules, accepted);
        let (reading, writing) = (Alarm::default(), Alarm::default());
        Self { stream, guard, party, cut: false, reading, writing, roomy: false }
    }

    /// Whether it is a socket without TLS.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.stream, Stream::Plain(_))
    }

    /// Waits until something comes, or the end, without a buffer for it; see [`Stream::ready`].
    pub(super) async fn ready(&mut self, fresh: bool) -> io::Result<()> {
        self.stream.ready(fresh).await
    }

    /// The time that the client may take for a head.
    pub(super) fn header_timeout(&self) -> Duration {
        self.guard.rules().header_timeout
    }

    /// How long it may be idle: until the client's first bytes less than between two requests, and next to nothing where
    /// places run short.
    pub(super) fn patience(&self, fresh: bool, idle: Duration) -> (Duration, Option<CutReason>) {
        match fresh {
            true => (idle.min(self.guard.rules().header_timeout), Some(CutReason::Silent)),
            false if self.party.places.is_crowded() => (idle.min(CROWDED_IDLE), Some(CutReason::Crowded)),
            false => (idle, None),
        }
    }

    /// A request was answered of which the gateway was told nothing; see [`Guard::answered`].
    pub(super) fn answered(&mut self, more: bool) {
        self.guard.answered(more);
    }

    /// The gateway has served a request that it got from who looks ahead; see [`Guard::served`].
    pub(super) fn served(&mut self, more: bool) {
        let seen = self.seen();
        self.guard.served(seen, more);
    }

    /// Nothing came in time.
    pub(super) fn gave_up(&mut self, reason: CutReason) {
        self.tell(reason, None);
    }

    /// Sends a part of a file.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        file: &File,
        at: u64,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        self.make_room(true);
        let Stream::Plain(socket) = &self.stream else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        let result = sendfile::poll(socket, cx, file, at, most);
        self.written(cx, result, |bytes| *bytes)
    }

    /// What else is sent is copied into the system's memory.
    fn make_room(&mut self, roomy: bool) {
        if self.roomy != roomy {
            self.roomy = roomy;
            let most = if roomy { UNSENT_OF_FILE } else { UNSENT };
            // A system without it goes on as before.
            SockRef::from(self.stream.socket()).set_tcp_notsent_lowat(most).unwrap_or_default();
        }
    }

    /// Sends bytes, from `written` on, and a body behind them, of which `rest` says how much has been sent. Ready when
    /// all of it is out; `rest` is empty then.
    pub(super) fn poll_send_all(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        written: &mut usize,
        rest: &mut Option<Outgoing>,
    ) -> Poll<io::Result<()>> {
        loop {
            let front = bytes.get(*written..).unwrap_or_default();
            let body = rest.as_ref().filter(|rest| rest.sent < rest.body.len());
            let n = match body {
                None if front.is_empty() => break,
                None => ready!(Pin::new(&mut *self).poll_write(cx, front))?,
                Some(rest) => {
                    let mut pieces = [IoSlice::new(&[]); PIECES];
                    let count = slices(front, rest, &mut pieces);
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

    /// Returns whether the client has ended the connection, though what it sent before is not read yet.
    pub(super) fn has_left(&self) -> bool {
        const ESTABLISHED: u8 = 1;
        get_tcp_info(self.stream.as_raw_fd()).is_ok_and(|info| info.tcpi_state != ESTABLISHED)
    }

    /// Its socket.
    pub(super) fn socket(&self) -> &TcpStream {
        self.stream.socket()
    }

    /// The client.
    pub(super) fn party(&self) -> &Party {
        &self.party
    }

    fn seen(&self) -> Seen {
        let signals = &self.party.signals;
        Seen {
            exchange: signals.exchange.load(Ordering::Relaxed),
            handled: signals.handled.load(Ordering::Relaxed),
            body: signals.body.load(Ordering::Relaxed),
            crowded: self.party.places.is_crowded(),
        }
    }

    fn wait_to_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.guard.waits_to_read(self.seen(), Instant::now) {
                Verdict::Free => return Poll::Pending,
                Verdict::Until(at) => ready!(self.reading.poll(at, cx)),
                Verdict::Cut(reason @ (CutReason::Silent | CutReason::Crowded)) => {
                    self.tell(reason, None);
                    return self.end(cx);
                }
                Verdict::Cut(CutReason::Header) => {
                    let since = self.guard.head_since();
                    self.tell(CutReason::Header, since.map(|since| (since, 408)));
                    self.answer_late(cx);
                    return self.end(cx);
                }
                Verdict::Cut(reason) => return Poll::Ready(Err(self.cut_off(reason))),
            }
        }
    }

    fn wait_to_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let fd = self.stream.as_raw_fd();
            match self.guard.waits_to_write(Instant::now(), || taken(fd)) {
                Verdict::Free => return Poll::Pending,
                Verdict::Until(at) => ready!(self.writing.poll(at, cx)),
                Verdict::Cut(reason) => {
                    // What can't be set is lost with the connection.
                    self.stream.socket().set_zero_linger().unwrap_or_default();
                    return Poll::Ready(self.cut_off(reason));
                }
            }
        }
    }

    /// The end of the exchange under way, by an error that the gateway finds the reason of in the signals.
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

    /// There is no request that could fail: the task that serves the connection ends it. To Pingora an error here would
    /// be worth a line in the log, and anybody could write as many as he likes.
    fn end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whatever doesn't leave at once is lost with the connection.
        drop(Pin::new(&mut self.stream).poll_shutdown(cx));
        self.party.signals.over.store(true, Ordering::Relaxed);
        Poll::Pending
    }

    /// Nothing has been written that is still under way: the answer before this request was flushed.
    fn answer_late(&mut self, cx: &mut Context<'_>) {
        let answer = problem::unreadable_written(StatusCode::REQUEST_TIMEOUT);
        drop(Pin::new(&mut self.stream).poll_write(cx, &answer));
        drop(Pin::new(&mut self.stream).poll_flush(cx));
    }

    /// What became of writing: bytes, an error, or a wait that is watched.
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

    /// The system gives up on a client that takes nothing (`TCP_USER_TIMEOUT`).
    fn failed(&mut self, error: io::Error) -> io::Error {
        match error.kind() {
            io::ErrorKind::TimedOut => self.cut_off(CutReason::SendTimeout),
            _ => error,
        }
    }
}

/// The most pieces of an answer that are handed to the system at once.
const PIECES: usize = 16;

/// What is to be sent, as far as there are places for it; how many were taken.
fn slices<'s>(front: &'s [u8], rest: &'s Outgoing, places: &mut [IoSlice<'s>; PIECES]) -> usize {
    let (mut skip, mut count) = (rest.sent, 0);
    let behind = rest.body.pieces().filter_map(|piece| {
        let passed = usize::try_from(skip).map_or(piece.len(), |skip| skip.min(piece.len()));
        skip -= passed as u64;
        Some(&piece[passed..]).filter(|left| !left.is_empty())
    });
    let all = Some(front).filter(|front| !front.is_empty()).into_iter().chain(behind);
    for (place, piece) in places.iter_mut().zip(all) {
        *place = IoSlice::new(piece);
        count += 1;
    }
    count
}

/// What the client's system has acknowledged in all.
fn taken(fd: RawFd) -> Option<u64> {
    get_tcp_info(fd).ok().map(|info| info.tcpi_bytes_acked)
}

impl AsRawFd for Guarded {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl AsyncRead for Guarded {
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
            // Gone within a head: nobody is left to be answered.
            Poll::Ready(_) if this.guard.is_within_head(this.seen()) => this.end(cx),
            Poll::Ready(result) => Poll::Ready(result.map_err(|error| this.failed(error))),
        }
    }
}

impl AsyncWrite for Guarded {
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
