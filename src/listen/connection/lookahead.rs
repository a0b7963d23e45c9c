//! The prepared lane's access to a connection: reads before a request is given to Pingora, and writes that
//! bypass Pingora.

use super::{outgoing_body::OutgoingBody, HttpConnection};
use crate::gateway::ClientWriter;

use std::{
    io,
    pin::Pin,
    sync::atomic::Ordering,
    task::{ready, Context, Poll},
    time::{Duration, Instant},
};
use tokio::io::{AsyncRead, ReadBuf};

/// The most bytes of the next request that are read while one is answered, to detect that the client has
/// left.
const LOOKAHEAD_BYTES: usize = 512;
/// The interval of the check whether a client that has sent more has left: its end can't be read before the
/// bytes.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl HttpConnection {
    /// Takes the bytes that were read ahead. `None`: they don't fit, and stay.
    pub(crate) fn take_ahead(&mut self, into: &mut [u8]) -> Option<usize> {
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

    /// Puts bytes back to be read by Pingora.
    pub(crate) fn put_ahead(&mut self, bytes: &[u8]) {
        self.ahead.extend_from_slice(bytes);
    }

    /// Reads for the prepared lane; 0 bytes at the end of the connection.
    pub(crate) fn poll_lane_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(into);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        self.heard = true;
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Notes that the gateway has served a request of the prepared lane; the next exchange begins.
    pub(crate) fn served(&mut self) {
        self.wire.passed_by();
        self.proxied();
    }

    /// Notes that a request that Pingora has read was served; the next exchange begins.
    pub(crate) fn proxied(&mut self) {
        self.signals.next_exchange();
        self.stream.served(!self.ahead.is_empty());
    }

    /// Returns true if a request has been read completely and is being answered: further bytes belong to the
    /// next one.
    pub(crate) fn is_answering(&self) -> bool {
        self.framed.is_none() && self.signals.handled.load(Ordering::Relaxed) && self.wire.is_between_bodies()
    }

    /// Waits for the client to leave. Bytes that it sends in the meantime are kept for the next request, up
    /// to a limit.
    pub(crate) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut piece = [0; LOOKAHEAD_BYTES];
        while self.ahead.len() < LOOKAHEAD_BYTES {
            let mut buf = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.ahead.extend_from_slice(buf.filled());
        }
        while !self.stream.has_left() {
            ready!(self.looking.poll(Instant::now() + LOOK_INTERVAL, cx));
        }
        Poll::Ready(Ok(()))
    }

    /// Notes that the prepared lane has answered requests that neither the gateway nor Pingora will see.
    pub(crate) fn answered(&mut self) {
        self.stream.answered(!self.ahead.is_empty());
    }

    /// Writes a head, or several answers, and a body behind it. The rest that can't be written at once is
    /// kept for [`Self::poll_lane_out`].
    pub(crate) fn poll_lane_write(
        &mut self,
        cx: &mut Context<'_>,
        out: &[u8],
        rest: &mut Option<OutgoingBody>,
    ) -> Poll<io::Result<()>> {
        let mut written = 0;
        let sent = self.stream.poll_send_all(cx, out, &mut written, rest);
        self.owes = sent.is_pending();
        if self.owes {
            self.gathered.extend_from_slice(out.get(written..).unwrap_or_default());
        }
        sent
    }

    /// Writes the kept bytes; ready when all are written.
    pub(crate) fn poll_lane_out(
        &mut self,
        cx: &mut Context<'_>,
        rest: &mut Option<OutgoingBody>,
    ) -> Poll<io::Result<()>> {
        if self.owes {
            ready!(self.stream.poll_send_all(cx, &self.gathered, &mut self.written, rest))?;
            ready!(self.poll_gathered(cx))?;
            self.owes = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl ClientWriter for HttpConnection {
    fn poll_disconnected(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Ready(match ready!(self.poll_left(cx)) {
            Ok(()) => io::ErrorKind::ConnectionReset.into(),
            Err(error) => error,
        })
    }
}
