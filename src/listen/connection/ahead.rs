//! The half of a connection that whoever looks ahead of Pingora has: what is read before a request is anybody's, and what
//! is written in answer without Pingora.

use super::Connection;
use crate::{gateway::Client, listen::fast_lane::Outgoing};
use std::{
    io,
    pin::Pin,
    sync::atomic::Ordering,
    task::{ready, Context, Poll},
    time::{Duration, Instant},
};
use tokio::io::{AsyncRead, ReadBuf};

/// So much is read of the next request while one is answered, to see whether the client is still there.
const AHEAD: usize = 512;
/// The interval at which a client that has sent more is looked for: an end behind what isn't read can't be read.
const LOOK: Duration = Duration::from_secs(1);

impl Connection {
    /// Takes what was read ahead. `None`: it doesn't fit with room to spare, and stays.
    pub(in crate::listen) fn take_ahead(&mut self, into: &mut [u8]) -> Option<usize> {
        let length = self.ahead.len();
        if length > into.len() / 2 {
            return None;
        }
        if length > 0 {
            into.get_mut(..length)?.copy_from_slice(&self.ahead);
            self.ahead = Vec::new();
        }
        Some(length)
    }

    /// What was read ahead, and is for who reads next.
    pub(in crate::listen) fn put_ahead(&mut self, bytes: &[u8]) {
        self.ahead.extend_from_slice(bytes);
    }

    /// Reads for who looks ahead. Nothing: the end.
    pub(in crate::listen) fn poll_lane_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(into);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        self.heard = true;
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// The gateway has served a request that it got from who looks ahead; another exchange begins.
    pub(in crate::listen) fn served(&mut self) {
        self.wire.passed_by();
        self.proxied();
    }

    /// A request was served that Pingora has read; another exchange begins.
    pub(in crate::listen) fn proxied(&mut self) {
        self.signals.next_exchange();
        self.stream.served(!self.ahead.is_empty());
    }

    /// True if all of a request has come that is being answered: what comes now is of the next one, and nobody's yet.
    pub(super) fn is_answering(&self) -> bool {
        self.framed.is_none() && self.signals.handled.load(Ordering::Relaxed) && self.wire.is_between_bodies()
    }

    /// Waits for the client to leave. What it sends in the meantime is kept, as far as there is room, for the next
    /// request.
    pub(super) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut piece = [0; AHEAD];
        while self.ahead.len() < AHEAD {
            let mut buf = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.ahead.extend_from_slice(buf.filled());
        }
        while !self.stream.has_left() {
            ready!(self.looking.poll(Instant::now() + LOOK, cx));
        }
        Poll::Ready(Ok(()))
    }

    /// Requests were answered that nobody behind will see.
    pub(in crate::listen) fn answered(&mut self) {
        self.stream.answered(!self.ahead.is_empty());
    }

    /// Writes a head, or several answers, and a body behind it. What doesn't go out at once is kept for
    /// [`Self::poll_lane_out`].
    pub(in crate::listen) fn poll_lane_write(
        &mut self,
        cx: &mut Context<'_>,
        out: &[u8],
        rest: &mut Option<Outgoing>,
    ) -> Poll<io::Result<()>> {
        let mut written = 0;
        let sent = self.stream.poll_send_all(cx, out, &mut written, rest);
        self.owes = sent.is_pending();
        if self.owes {
            self.gathered.extend_from_slice(out.get(written..).unwrap_or_default());
        }
        sent
    }

    /// Whether all that was kept is out.
    pub(in crate::listen) fn poll_lane_out(
        &mut self,
        cx: &mut Context<'_>,
        rest: &mut Option<Outgoing>,
    ) -> Poll<io::Result<()>> {
        if self.owes {
            ready!(self.stream.poll_send_all(cx, &self.gathered, &mut self.written, rest))?;
            ready!(self.poll_gathered(cx))?;
            self.owes = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl Client for Connection {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Ready(match ready!(self.poll_left(cx)) {
            Ok(()) => io::ErrorKind::ConnectionReset.into(),
            Err(error) => error,
        })
    }
}
