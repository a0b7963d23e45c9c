//! An upgraded connection: the bytes of its two ends, each direction by itself.
//!
//! Neither direction waits for the other, so that two ends that could talk directly can talk through it. An end that
//! stops sending is passed on as it is (a half-closed connection). What is read goes out at once; nothing is kept but
//! what the other side does not take, and an idle tunnel keeps no buffer.
//!
//! It ends when both ends have stopped, when one of them breaks, when both are silent for too long, or when the gateway
//! goes away: then the client is told so in a close frame (1001, RFC 6455, 7.4.1) between two frames of the origin's,
//! what comes from the origin after that goes nowhere, and with the client's close frame the tunnel has ended. A closing
//! handshake that is under way is left to the two ends.

use super::websocket::{Frames, GOING_AWAY};
use crate::gateway::Hearing;
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

/// The most that is read at once.
const PIECE: usize = 64 * 1024;
/// How long a tunnel of which one end has stopped may stay silent.
const LINGER: Duration = Duration::from_secs(5);

/// Resolves when the gateway goes away.
pub(super) type GoingAway = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// A tunnel to an origin.
pub(super) struct Tunnel<O> {
    origin: O,
    /// From the origin to the client.
    down: Flow,
    /// From the client to the origin.
    up: Flow,
    idle: Idle,
    /// Until it has resolved.
    going_away: Option<GoingAway>,
}

impl<O: AsyncRead + AsyncWrite + Unpin> Tunnel<O> {
    /// A tunnel to `origin`, which has sent `first` already. It ends when both are silent for `idle`.
    pub(super) fn new(origin: O, first: Vec<u8>, idle: Duration, going_away: GoingAway) -> Self {
        let (down, up) = (Flow::beginning_with(first), Flow::beginning_with(Vec::new()));
        Self { origin, down, up, idle: Idle::new(idle), going_away: Some(going_away) }
    }

    /// The same, and somebody is told what comes from the origin.
    pub(super) fn heard_by(mut self, hearing: Option<Hearing>) -> Self {
        self.down.hearing = hearing;
        if !self.down.rest.is_empty() {
            let first = std::mem::take(&mut self.down.rest);
            self.down.tell(&first);
            self.down.rest = first;
        }
        self
    }

    /// Bytes that the client has taken.
    pub(super) fn sent(&self) -> u64 {
        self.down.written
    }

    /// Moves what can be moved. Ready when the tunnel has ended.
    ///
    /// # Errors
    /// If one of the ends breaks.
    pub(super) fn poll<C>(&mut self, cx: &mut Context<'_>, client: &mut C) -> Poll<io::Result<()>>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        if self.going_away.as_mut().is_some_and(|going| going.as_mut().poll(cx).is_ready()) {
            self.going_away = None;
            if !self.down.frames.closed() && !self.up.frames.closed() {
                self.down.farewell = Farewell::Due;
            }
        }
        let before = (self.down.moves(), self.up.moves());
        let down = self.down.poll(cx, &mut self.origin, client)?;
        let up = self.up.poll(cx, client, &mut self.origin)?;
        let over = match self.down.farewell {
            Farewell::Said => up.is_ready() || (self.up.frames.closed() && self.up.is_through()),
            Farewell::No | Farewell::Due => up.is_ready() && down.is_ready(),
        };
        if over {
            return Poll::Ready(Ok(()));
        }
        if before != (self.down.moves(), self.up.moves()) {
            self.idle.begin_anew();
        }
        let half = self.down.ended || self.up.ended;
        self.idle.poll(cx, half).map(Ok)
    }
}

/// Whether the one at the end of a flow is told that the gateway goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    No,
    /// Between the next two frames.
    Due,
    /// Nothing goes this way any more.
    Said,
}

/// One direction.
struct Flow {
    hearing: Option<Hearing>,
    frames: Frames,
    farewell: Farewell,
    /// What was read, from `at` on not written yet.
    rest: Vec<u8>,
    at: usize,
    read: u64,
    written: u64,
    /// Something was written and not flushed.
    dirty: bool,
    /// Nothing more comes.
    ended: bool,
}

impl Flow {
    fn beginning_with(rest: Vec<u8>) -> Self {
        let mut frames = Frames::default();
        frames.follow(&rest);
        let read = rest.len() as u64;
        let (farewell, hearing) = (Farewell::No, None);
        Self { hearing, frames, farewell, rest, at: 0, read, written: 0, dirty: false, ended: false }
    }

    fn tell(&mut self, piece: &[u8]) {
        if let Some(mut hearing) = self.hearing.take() {
            self.hearing = hearing(piece).then_some(hearing);
        }
    }

    /// Changes whenever something has moved.
    fn moves(&self) -> (u64, u64, bool) {
        (self.read, self.written, self.ended)
    }

    /// Whether all that was read has gone out.
    fn is_through(&self) -> bool {
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
            if self.farewell == Farewell::Due && self.frames.between() {
                self.rest.extend_from_slice(&GOING_AWAY);
                self.farewell = Farewell::Said;
                continue;
            }
            if self.ended {
                // That the other end is gone already is as good.
                return Pin::new(to).poll_shutdown(cx).map(|_| Ok(()));
            }
            let mut space = [const { MaybeUninit::uninit() }; PIECE];
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

    /// Writes what was read as far as possible, and keeps the rest.
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
            Farewell::No => {
                self.frames.follow(piece);
                piece
            }
            Farewell::Due => &piece[..self.frames.finish(piece)],
            Farewell::Said => &[],
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

/// How long nothing has moved.
struct Idle {
    limit: Duration,
    since: Instant,
    half: bool,
    timer: Pin<Box<Sleep>>,
}

impl Idle {
    fn new(limit: Duration) -> Self {
        let timer = Box::pin(tokio::time::sleep(limit));
        Self { limit, since: Instant::now(), half: false, timer }
    }

    /// Something has moved. The timer finds out when it rings.
    fn begin_anew(&mut self) {
        self.since = Instant::now();
    }

    /// Ready when nothing has moved for too long; that is sooner where one end has stopped.
    fn poll(&mut self, cx: &mut Context<'_>, half: bool) -> Poll<()> {
        if half && !self.half {
            self.half = true;
            self.limit = self.limit.min(LINGER);
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
