//! A tunnel for an upgraded connection: forwards bytes in both directions independently.
//!
//! Neither direction waits for the other, so that the tunnel adds no deadlock. A half-close is passed on.
//! Bytes that are read are written at once; only bytes that the other side does not accept are buffered, and
//! an idle tunnel has no buffer.
//!
//! It ends when both ends have stopped, when one of them fails, when both are silent for too long, or on
//! shutdown. On shutdown the client gets a close frame (1001, RFC 6455, 7.4.1) between two frames of the
//! origin's, later bytes of the origin are dropped, and the tunnel ends with the client's close frame. A
//! closing handshake that is under way is left to the two ends.

use super::websocket_frames::{WebSocketFrames, GOING_AWAY_FRAME};
use crate::gateway::OriginObserver;

use std::{
    future::Future,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{ready, Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// The most bytes that are read at once.
const PIECE_BYTES: usize = 64 * 1024;
/// The time that a half-closed tunnel may be silent.
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Resolves on shutdown.
pub(crate) type GoingAwaySignal = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// A tunnel to an origin.
pub(crate) struct Tunnel<O> {
    origin: O,
    /// The direction from the origin to the client.
    down: TunnelFlow,
    /// The direction from the client to the origin.
    up: TunnelFlow,
    idle: TunnelIdle,
    /// The future of the shutdown; `None` once it has resolved.
    going_away: Option<GoingAwaySignal>,
}

impl<O: AsyncRead + AsyncWrite + Unpin> Tunnel<O> {
    /// A tunnel to `origin`, which has sent `first` already. It ends when both sides are silent for `idle`.
    pub(crate) fn new(origin: O, first: Vec<u8>, idle: Duration, going_away: GoingAwaySignal) -> Self {
        let (down, up) = (TunnelFlow::with_pending(first), TunnelFlow::with_pending(Vec::new()));
        Self { origin, down, up, idle: TunnelIdle::new(idle), going_away: Some(going_away) }
    }

    /// Adds a callback for the bytes from the origin.
    pub(crate) fn with_observer(mut self, hearing: Option<OriginObserver>) -> Self {
        self.down.hearing = hearing;
        if !self.down.rest.is_empty() {
            let first = std::mem::take(&mut self.down.rest);
            self.down.tell(&first);
            self.down.rest = first;
        }
        self
    }

    /// The number of bytes that the client has accepted.
    pub(crate) fn sent(&self) -> u64 {
        self.down.written
    }

    /// Forwards as many bytes as possible. Ready when the tunnel has ended.
    ///
    /// # Errors
    /// If one of the ends fails.
    pub(crate) fn poll<C>(&mut self, cx: &mut Context<'_>, client: &mut C) -> Poll<io::Result<()>>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        if self.going_away.as_mut().is_some_and(|going| going.as_mut().poll(cx).is_ready()) {
            self.going_away = None;
            if !self.down.frames.closed() && !self.up.frames.closed() {
                self.down.farewell = TunnelFarewell::Due;
            }
        }
        let before = (self.down.moves(), self.up.moves());
        let down = self.down.poll(cx, &mut self.origin, client)?;
        let up = self.up.poll(cx, client, &mut self.origin)?;
        let over = match self.down.farewell {
            TunnelFarewell::Said => up.is_ready() || (self.up.frames.closed() && self.up.is_drained()),
            TunnelFarewell::No | TunnelFarewell::Due => up.is_ready() && down.is_ready(),
        };
        if over {
            return Poll::Ready(Ok(()));
        }
        if before != (self.down.moves(), self.up.moves()) {
            self.idle.restart_idle();
        }
        let half = self.down.ended || self.up.ended;
        self.idle.poll(cx, half).map(Ok)
    }
}

/// The state of the close frame that announces the shutdown in a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TunnelFarewell {
    No,
    /// To be sent before the next frame.
    Due,
    /// Sent: nothing more is forwarded in this direction.
    Said,
}

/// One direction of a tunnel.
struct TunnelFlow {
    hearing: Option<OriginObserver>,
    frames: WebSocketFrames,
    farewell: TunnelFarewell,
    /// Bytes that were read, and not written yet from `at` on.
    rest: Vec<u8>,
    at: usize,
    read: u64,
    written: u64,
    /// True if written bytes have not been flushed.
    dirty: bool,
    /// True if the sender has stopped.
    ended: bool,
}

impl TunnelFlow {
    fn with_pending(rest: Vec<u8>) -> Self {
        let mut frames = WebSocketFrames::default();
        frames.follow(&rest);
        let read = rest.len() as u64;
        let (farewell, hearing) = (TunnelFarewell::No, None);
        Self { hearing, frames, farewell, rest, at: 0, read, written: 0, dirty: false, ended: false }
    }

    fn tell(&mut self, piece: &[u8]) {
        if let Some(mut hearing) = self.hearing.take() {
            self.hearing = hearing(piece).then_some(hearing);
        }
    }

    /// A value that changes whenever bytes have moved.
    fn moves(&self) -> (u64, u64, bool) {
        (self.read, self.written, self.ended)
    }

    /// Returns true if all bytes that were read have been written and flushed.
    fn is_drained(&self) -> bool {
        self.rest.is_empty() && !self.dirty
    }

    /// Ready when this direction has ended, and its end was passed on.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            ready!(self.poll_rest(cx, to))?;
            if self.farewell == TunnelFarewell::Due && self.frames.between() {
                self.rest.extend_from_slice(&GOING_AWAY_FRAME);
                self.farewell = TunnelFarewell::Said;
                continue;
            }
            if self.ended {
                // It doesn't matter if the other end is closed already.
                return Pin::new(to).poll_shutdown(cx).map(|_| Ok(()));
            }
            let mut space = [const { MaybeUninit::uninit() }; PIECE_BYTES];
            let mut piece = ReadBuf::uninit(&mut space);
            if let Poll::Ready(read) = Pin::new(&mut *from).poll_read(cx, &mut piece) {
                read?;
                self.take(cx, piece.filled(), to)?;
            } else {
                if self.dirty {
                    ready!(Pin::new(to).poll_flush(cx))?;
                    self.dirty = false;
                }
                return Poll::Pending;
            }
        }
    }

    /// Writes as many bytes as possible, and keeps the rest.
    fn take<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        piece: &[u8],
        to: &mut W,
    ) -> io::Result<()> {
        self.ended = piece.is_empty();
        self.read += piece.len() as u64;
        self.tell(piece);
        let mut piece = match self.farewell {
            TunnelFarewell::No => {
                self.frames.follow(piece);
                piece
            }
            TunnelFarewell::Due => &piece[..self.frames.finish(piece)],
            TunnelFarewell::Said => &[],
        };
        while !piece.is_empty() {
            let Poll::Ready(written) = Pin::new(&mut *to).poll_write(cx, piece)? else { break };
            self.wrote(written)?;
            piece = &piece[written..];
        }
        self.rest.extend_from_slice(piece);
        Ok(())
    }

    fn poll_rest<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        while self.at < self.rest.len() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.rest[self.at..]))?;
            self.wrote(written)?;
            self.at += written;
        }
        (self.rest, self.at) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, bytes: usize) -> io::Result<()> {
        if bytes == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.written += bytes as u64;
        self.dirty = true;
        Ok(())
    }
}

/// The time for which nothing has moved.
struct TunnelIdle {
    limit: Duration,
    since: Instant,
    half: bool,
    timer: Pin<Box<Sleep>>,
}

impl TunnelIdle {
    fn new(limit: Duration) -> Self {
        let timer = Box::pin(tokio::time::sleep(limit));
        Self { limit, since: Instant::now(), half: false, timer }
    }

    /// Notes that something has moved. The timer checks this when it fires.
    fn restart_idle(&mut self) {
        self.since = Instant::now();
    }

    /// Ready when nothing has moved for too long; the limit is shorter for a half-closed tunnel.
    fn poll(&mut self, cx: &mut Context<'_>, half: bool) -> Poll<()> {
        if half && !self.half {
            self.half = true;
            self.limit = self.limit.min(HALF_CLOSE_TIMEOUT);
            self.timer.as_mut().reset(self.since + self.limit);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let end = self.since + self.limit;
            if Instant::now() >= end {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(end);
        }
    }
}

#[cfg(test)]
#[path = "tunnel_tests.rs"]
mod tests;
