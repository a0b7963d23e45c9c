//! HTTP/1.1 to servers: one exchange at a time on a connection.
//!
//! Most requests to applications use this client, so that it does no more than the exchange needs: one write
//! for a request, one read for a small answer, a timer that stays armed ([`patience`]), idle connections in a
//! list of their server ([`idle`]). [`head`] parses heads, [`chunks`] chunks; both are pure. [`duplex`] sends
//! the body of a request while the answer is read. Pingora implements TLS ([`socket`]) and HTTP/2
//! (`client::pingora`).
//!
//! A connection whose answer was not read to its end, or that has sent unexpected bytes, is never reused.

#[cfg(any(test, fuzzing))]
pub mod agreement;
mod chunks;
mod duplex;
mod head;
mod idle;
mod socket;
mod timer;

pub(crate) use duplex::{DuplexEvent, OutgoingBytes};
pub(super) use {idle::IdleConnections, socket::SocketTarget};

use bytes::{Bytes, BytesMut};
use chunks::{ChunkDecoder, ChunkPiece};
use head::{BodyFraming, MalformedHead};
use socket::OriginSocket;
use timer::ConnectionTimer;

use http::{HeaderMap, Method};

use pingora_core::{Error, ErrorType, RetryType};
use pingora_http::ResponseHeader;

use std::{
    future::{poll_fn, Future},
    io,
    net::SocketAddr,
    pin::pin,
    task::Poll,
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The size of the first read of an answer, in bytes: its head, and most bodies.
const FIRST_READ: usize = 4 * 1024;
/// The most bytes of a body that are read at once.
const LARGEST_READ: usize = 64 * 1024;

/// The timeouts.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionTimeouts {
    /// The timeout of connecting.
    pub(super) connect: Duration,
    /// The timeout of one read, or one write.
    pub(super) step: Duration,
}

/// A connection to a server.
#[derive(Debug)]
pub(super) struct OriginConnection {
    socket: OriginSocket,
    patience: ConnectionTimer,
    /// Bytes that were read and not used yet.
    input: Bytes,
    body: BodyProgress,
    /// The trailers of a body that has ended.
    trailers: Option<Box<HeaderMap>>,
    keeps: bool,
}

/// The part of an answer that is still to come.
#[derive(Debug)]
enum BodyProgress {
    /// Its head.
    Head,
    Length(u64),
    Chunks(ChunkDecoder),
    /// Everything until the end of the connection.
    UntilClose,
    Nothing,
}

impl OriginConnection {
    /// Opens a connection, and returns its address; addresses that failed are reported.
    ///
    /// # Errors
    /// If there is no connection in time.
    pub(super) async fn open(
        to: SocketTarget<'_>,
        limits: ConnectionTimeouts,
        missed: impl Fn(SocketAddr),
    ) -> Result<(Box<Self>, Option<SocketAddr>), Box<Error>> {
        let opening = OriginSocket::open(to, missed);
        let (socket, address) = match tokio::time::timeout(limits.connect, opening).await {
            Ok(opened) => opened?,
            Err(_) => return Error::e_explain(ErrorType::ConnectTimedout, "connecting to a server"),
        };
        let (patience, input) = (ConnectionTimer::default(), Bytes::new());
        let connection =
            Self { socket, patience, input, body: BodyProgress::Nothing, trailers: None, keeps: false };
        Ok((Box::new(connection), address))
    }

    /// Returns true if an idle connection has received nothing, not even its end. Asks the kernel only if an
    /// event is pending.
    fn is_quiet(&mut self) -> bool {
        self.socket.is_quiet()
    }

    /// Sends a serialised request.
    ///
    /// # Errors
    /// If that fails or times out. A reused connection may have been closed by the server.
    pub(super) async fn send(
        &mut self,
        request: &[u8],
        limits: ConnectionTimeouts,
    ) -> Result<(), Box<Error>> {
        let Self { socket, patience, .. } = self;
        (self.body, self.trailers, self.keeps) = (BodyProgress::Head, None, false);
        patience.begin();
        let mut writing = pin!(socket.write_all(request));
        let written = poll_fn(|cx| match writing.as_mut().poll(cx) {
            Poll::Pending => patience.poll(cx, limits.step).map(|()| None),
            ready => ready.map(Some),
        });
        match written.await {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(not_written(error)),
            None => Error::e_explain(ErrorType::WriteTimedout, "while writing a request"),
        }
    }

    /// Reads the next head of the answer: an interim one, or the final one.
    ///
    /// # Errors
    /// If there is none.
    pub(super) async fn head(
        &mut self,
        method: &Method,
        limits: ConnectionTimeouts,
    ) -> Result<ResponseHeader, Box<Error>> {
        loop {
            if let Some(head) = self.take_head(method)? {
                return Ok(head);
            }
            let mut buffer = head::reopen(std::mem::take(&mut self.input));
            buffer.reserve(FIRST_READ);
            let read = self.read(&mut buffer, limits).await?;
            self.input = buffer.freeze();
            if read == 0 {
                return Err(no_head());
            }
        }
    }

    /// The next head in the input; `None`: more bytes have to be read.
    fn take_head(&mut self, method: &Method) -> Result<Option<ResponseHeader>, Box<Error>> {
        if self.input.is_empty() {
            return Ok(None);
        }
        let head = head::take_head(&mut self.input, method).map_err(malformed)?;
        Ok(head.map(|head| {
            if !head.head.status.is_informational() {
                self.begin_body(&head);
            }
            head.head
        }))
    }

    fn begin_body(&mut self, head: &head::OriginHead) {
        self.keeps = head.keeps;
        self.body = match head.end {
            BodyFraming::Length(0) => BodyProgress::Nothing,
            BodyFraming::Length(length) => BodyProgress::Length(length),
            BodyFraming::Chunks => BodyProgress::Chunks(ChunkDecoder::default()),
            BodyFraming::Connection => BodyProgress::UntilClose,
        };
    }

    /// Returns true if the whole answer was read.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.body, BodyProgress::Nothing)
    }

    /// Returns true if nothing of the body is still to come.
    pub(super) fn is_at_hand(&self) -> bool {
        match &self.body {
            BodyProgress::Nothing => true,
            BodyProgress::Length(left) => *left <= self.input.len() as u64,
            BodyProgress::Head | BodyProgress::Chunks(_) | BodyProgress::UntilClose => false,
        }
    }

    /// The whole body, if its length is known and all of it has come.
    pub(super) fn at_hand(&mut self) -> Option<Bytes> {
        let length = match &self.body {
            BodyProgress::Length(left) => {
                usize::try_from(*left).ok().filter(|left| *left <= self.input.len())?
            }
            BodyProgress::Nothing => 0,
            BodyProgress::Head | BodyProgress::Chunks(_) | BodyProgress::UntilClose => return None,
        };
        self.body = BodyProgress::Nothing;
        Some(self.input.split_to(length))
    }

    /// Returns true if the connection may be reused.
    pub(super) fn may_be_kept(&self) -> bool {
        self.is_done() && self.keeps && self.input.is_empty()
    }

    /// Reads the next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// If it was cut short, or is malformed.
    pub(super) async fn next(&mut self, limits: ConnectionTimeouts) -> Result<Option<Bytes>, Box<Error>> {
        loop {
            if let Some(taken) = self.take()? {
                return Ok(taken);
            }
            let size = match &self.body {
                // One byte more than expected: a read that is not full needs no second one to detect
                // unexpected bytes.
                BodyProgress::Length(left) => {
                    usize::try_from(*left).unwrap_or(LARGEST_READ).saturating_add(1)
                }
                _ => LARGEST_READ,
            };
            let mut buffer = BytesMut::with_capacity(size.min(LARGEST_READ));
            if self.read(&mut buffer, limits).await? == 0 {
                return self.end_of_connection().map(|()| None);
            }
            self.input = buffer.freeze();
        }
    }

    /// Handles the end of the connection within a body.
    ///
    /// # Errors
    /// If that is not the end of the body.
    fn end_of_connection(&mut self) -> Result<(), Box<Error>> {
        let ended = matches!(self.body, BodyProgress::UntilClose);
        self.body = BodyProgress::Nothing;
        self.keeps = false;
        match ended {
            true => Ok(()),
            false => Error::e_explain(ErrorType::ConnectionClosed, "before the end of a body"),
        }
    }

    /// The next piece of the body in the input; `None`: more bytes have to be read.
    fn take(&mut self) -> Result<Option<Option<Bytes>>, Box<Error>> {
        let input = &mut self.input;
        let taken = match &mut self.body {
            BodyProgress::Nothing => return Ok(Some(None)),
            BodyProgress::Head => return Error::e_explain(ErrorType::InternalError, "a body without a head"),
            BodyProgress::Length(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= length as u64;
                input.split_to(length)
            }
            BodyProgress::UntilClose => std::mem::take(input),
            BodyProgress::Chunks(chunks) => match chunks.next(input) {
                Ok(ChunkPiece::Piece(piece)) => piece,
                Ok(ChunkPiece::More | ChunkPiece::End) => Bytes::new(),
                Err(error) => return Error::e_because(ErrorType::InvalidHTTPHeader, "a body", error),
            },
        };
        let ended = match &mut self.body {
            BodyProgress::Length(left) => *left == 0,
            BodyProgress::Chunks(chunks) => chunks.has_ended(),
            _ => false,
        };
        if ended {
            if let BodyProgress::Chunks(chunks) = &mut self.body {
                self.trailers = chunks.take_trailers().map(Box::new);
            }
            self.body = BodyProgress::Nothing;
        }
        Ok(match (taken.is_empty(), ended) {
            (false, _) => Some(Some(taken)),
            (true, true) => Some(None),
            (true, false) => None,
        })
    }

    /// The trailers (RFC 9110, 6.5).
    pub(super) fn take_trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.trailers.take()
    }

    /// Reads more, at least one byte; 0 at the end of the connection.
    async fn read(&mut self, buffer: &mut BytesMut, limits: ConnectionTimeouts) -> Result<usize, Box<Error>> {
        let Self { socket, patience, .. } = self;
        patience.begin();
        let read = poll_fn(|cx| match pin!(socket.read_buf(buffer)).poll(cx) {
            Poll::Pending => patience.poll(cx, limits.step).map(|()| None),
            ready => ready.map(Some),
        });
        match read.await {
            Some(Ok(read)) => Ok(read),
            Some(Err(error)) => Err(not_read(error)),
            None => Error::e_explain(ErrorType::ReadTimedout, "while reading an answer"),
        }
    }
}

/// Marks an error as retryable on a reused connection: the server may have closed it, which is no failure of
/// it.
fn once_more(mut error: Box<Error>) -> Box<Error> {
    error.retry = RetryType::ReusedOnly;
    error
}

fn no_head() -> Box<Error> {
    once_more(Error::explain(ErrorType::ConnectionClosed, "before the end of a head"))
}

fn not_written(error: io::Error) -> Box<Error> {
    once_more(Error::because(ErrorType::WriteError, "while writing a request", error))
}

fn not_read(error: io::Error) -> Box<Error> {
    once_more(Error::because(ErrorType::ReadError, "while reading an answer", error))
}

fn malformed(error: MalformedHead) -> Box<Error> {
    Error::because(ErrorType::InvalidHTTPHeader, "the head of an answer", error)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
