//! Sends the body of a request to a server while the answer is read.
//!
//! A server may answer before it has read the whole request, and then stop reading: a client that only writes
//! would wait for ever. So the answer is read first, whatever is still to be sent. The server has a timeout
//! for bytes that are sent to it; while there are none, the client is waited for, and the server may be
//! silent.

use super::{
    head, no_head, not_read, not_written, BodyProgress, ConnectionTimeouts, OriginConnection, FIRST_READ,
};
use bytes::{Buf, Bytes};
use http::Method;
use pingora_core::{Error, ErrorType};
use pingora_http::ResponseHeader;
use std::{
    future::{poll_fn, Future},
    io,
    pin::{pin, Pin},
    task::{ready, Context, Poll},
};
use tokio::io::{AsyncReadExt, AsyncWrite};

/// The event that happens first while a request is being sent.
#[derive(Debug)]
pub(crate) enum DuplexEvent {
    /// The next head of the answer.
    Head(Box<ResponseHeader>),
    /// The next piece of its body; `None` at its end.
    Piece(Option<Bytes>),
    /// Everything has been sent.
    Sent,
}

/// Bytes that are to be sent.
#[derive(Debug, Default)]
pub(crate) struct OutgoingBytes {
    bytes: Bytes,
    /// True if bytes have been written but may not have been sent (TLS buffers some).
    unflushed: bool,
}

impl OutgoingBytes {
    /// Appends bytes.
    pub(crate) fn put(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.unflushed = true;
        self.bytes = match self.bytes.is_empty() {
            true => bytes,
            false => [&self.bytes[..], &bytes].concat().into(),
        };
    }

    /// Takes all bytes.
    pub(crate) fn take(&mut self) -> Bytes {
        self.unflushed = false;
        std::mem::take(&mut self.bytes)
    }

    /// The number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns true if nothing is left to be sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.unflushed
    }
}

impl OriginConnection {
    /// Sends, and reads the answer; returns the first event. It can be dropped without losing bytes.
    ///
    /// # Errors
    /// If the connection failed, or a write timed out: a `WriteError` or `WriteTimedout` means that nothing
    /// more can be sent.
    pub(in crate::origin) async fn go_on(
        &mut self,
        out: &mut OutgoingBytes,
        method: &Method,
        limits: ConnectionTimeouts,
    ) -> Result<DuplexEvent, Box<Error>> {
        self.patience.begin();
        poll_fn(|cx| self.poll_go_on(cx, out, method, limits)).await
    }

    fn poll_go_on(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut OutgoingBytes,
        method: &Method,
        limits: ConnectionTimeouts,
    ) -> Poll<Result<DuplexEvent, Box<Error>>> {
        if let Poll::Ready(came) = self.poll_answer(cx, method) {
            return Poll::Ready(came);
        }
        if out.is_empty() {
            return Poll::Pending;
        }
        match self.poll_out(cx, out) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(DuplexEvent::Sent)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(not_written(error))),
            Poll::Pending => {
                ready!(self.patience.poll(cx, limits.step));
                Poll::Ready(Error::e_explain(ErrorType::WriteTimedout, "while writing a body"))
            }
        }
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
    ) -> Poll<Result<DuplexEvent, Box<Error>>> {
        loop {
            let is_head = matches!(self.body, BodyProgress::Head);
            if is_head {
                if let Some(head) = self.take_head(method)? {
                    return Poll::Ready(Ok(DuplexEvent::Head(Box::new(head))));
                }
            } else if let Some(piece) = self.take()? {
                return Poll::Ready(Ok(DuplexEvent::Piece(piece)));
            }
            if ready!(self.poll_fill(cx)).map_err(not_read)? == 0 {
                return Poll::Ready(match is_head {
                    true => Err(no_head()),
                    false => self.end_of_connection().map(|()| DuplexEvent::Piece(None)),
                });
            }
        }
    }

    /// Reads more bytes behind the input.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = head::reopen(std::mem::take(&mut self.input));
        buffer.reserve(FIRST_READ);
        let read = pin!(self.socket.read_buf(&mut buffer)).poll(cx);
        self.input = buffer.freeze();
        read
    }

    fn poll_out(&mut self, cx: &mut Context<'_>, out: &mut OutgoingBytes) -> Poll<io::Result<()>> {
        while !out.bytes.is_empty() {
            let n = ready!(Pin::new(&mut self.socket).poll_write(cx, &out.bytes))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            out.bytes.advance(n);
            // Progress restarts the timeout.
            self.patience.begin();
        }
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        out.unflushed = false;
        Poll::Ready(Ok(()))
    }
}
