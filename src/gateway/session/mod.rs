//! A request and the path of its answer: Pingora's session, or a simpler one of the gateway's own.
//!
//! Pingora's session reads requests, their bodies, and HTTP/2 streams. An HTTP/1.1 request without a body,
//! which the prepared lane has read but couldn't answer, needs none of that: [`NativeSession`] holds its
//! head, frames the answer (RFC 9112, 6) and writes it. The steps of the gateway are the same for both;
//! nothing here depends on the contents of a request.

pub(crate) mod lifecycle;
pub(crate) mod native_request;
pub(crate) mod pingora;
use crate::{
    clock::wall_ms,
    gateway::{cache::prepared::head::serialized_head, context::RequestContext},
    http::{framing::content_length::content_length, framing::has_body::response_has_body},
};

use bytes::Bytes;
use http::{header, HeaderMap, Method, StatusCode, Version};
use pingora_core::{protocols::http::HttpTask, Error, ErrorType, OrErr};
use pingora_http::{RequestHeader, ResponseHeader};
use std::{
    future::{pending, poll_fn, Future},
    io,
    pin::Pin,
    task::{Context as Task, Poll},
};
use tokio::io::{AsyncWrite, AsyncWriteExt};

type Result<T> = pingora_core::Result<T>;

/// A client's connection while one of its requests is answered. Bytes that are written may be buffered until
/// a flush.
pub trait ClientWriter: AsyncWrite + Unpin + Send + Sync {
    /// Ready when the client has left. Bytes that it sends in the meantime are kept for the next request.
    fn poll_disconnected(&mut self, cx: &mut Task<'_>) -> Poll<io::Error>;
}

/// A request, and the path of its answer.
pub(crate) enum GatewaySession<'s> {
    /// Pingora's session: any request.
    Pingora(&'s mut pingora_proxy::Session),
    /// The gateway's session: HTTP/1.1 without a body.
    Native(NativeSession<'s>),
}

impl GatewaySession<'_> {
    pub(crate) fn req_header(&self) -> &RequestHeader {
        match self {
            Self::Pingora(session) => session.req_header(),
            Self::Native(own) => &own.request,
        }
    }

    pub(crate) fn req_header_mut(&mut self) -> &mut RequestHeader {
        match self {
            Self::Pingora(session) => session.req_header_mut(),
            Self::Native(own) => &mut own.request,
        }
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.req_header().version == Version::HTTP_2
    }

    /// Returns true if the client asks for an upgrade of the protocol.
    pub(crate) fn is_upgrade_req(&self) -> bool {
        matches!(self, Self::Pingora(session) if session.is_upgrade_req())
    }

    /// Returns true if the request has no body.
    pub(crate) fn is_body_empty(&mut self) -> bool {
        match self {
            Self::Pingora(session) => session.as_mut().is_body_empty(),
            Self::Native(_) => true,
        }
    }

    /// Returns true if the whole body has been read.
    pub(crate) fn is_body_done(&mut self) -> bool {
        match self {
            Self::Pingora(session) => session.as_mut().is_body_done(),
            Self::Native(_) => true,
        }
    }

    /// Returns true if more of the body has been read than can be kept for a retry.
    pub(crate) fn retry_buffer_truncated(&self) -> bool {
        matches!(self, Self::Pingora(session) if session.as_ref().retry_buffer_truncated())
    }

    /// Keeps the body that is read from now on for a retry, up to a limit.
    pub(crate) fn keep_for_retry(&mut self) {
        if let Self::Pingora(session) = self {
            session.as_mut().enable_retry_buffering();
        }
    }

    /// The part of the body that has been read; `None` if nothing was read or not all of it was kept.
    pub(crate) fn again(&self) -> Option<Bytes> {
        match self {
            Self::Pingora(session) => session.as_ref().get_retry_buffer(),
            Self::Native(_) => None,
        }
    }

    pub(crate) async fn read_request_body(&mut self) -> Result<Option<Bytes>> {
        match self {
            Self::Pingora(session) => session.downstream_session.read_request_body().await,
            Self::Native(_) => Ok(None),
        }
    }

    /// The status of the last head that was written, interim or final.
    pub(crate) fn answered(&self) -> Option<StatusCode> {
        match self {
            Self::Pingora(session) => session.response_written().map(|head| head.status),
            Self::Native(own) => own.answered,
        }
    }

    /// The number of bytes of the answer's body that were written.
    pub(crate) fn body_bytes_sent(&self) -> u64 {
        match self {
            Self::Pingora(session) => session.body_bytes_sent() as u64,
            Self::Native(own) => own.sent,
        }
    }

    /// Closes the connection after this answer.
    pub(crate) fn ends_connection(&mut self) {
        match self {
            Self::Pingora(session) => session.downstream_session.set_keepalive(None),
            Self::Native(own) => own.after = own.after.max(ConnectionFate::Ended),
        }
    }

    /// Returns true if an answer with this head is buffered until it is complete: Pingora flushes an answer
    /// with a length only at its end.
    pub(crate) fn holds_back(&self, head: &ResponseHeader) -> bool {
        let pingoras = matches!(self, Self::Pingora(_)) && !self.is_http2();
        pingoras && head.headers.contains_key(header::CONTENT_LENGTH)
    }

    /// Closes the HTTP/1.1 connection after a complete answer; Pingora doesn't if the request has failed.
    pub(crate) async fn close(&mut self) {
        if self.is_http2() {
            return;
        }
        match self {
            Self::Pingora(session) => session.downstream_session.shutdown().await,
            Self::Native(_) => {}
        }
    }

    /// Discards interim answers.
    pub(crate) fn ignore_interim(&mut self) {
        match self {
            Self::Pingora(session) => session.downstream_session.set_ignore_info_resp(true),
            Self::Native(own) => own.ignores_interim = true,
        }
    }

    /// Sets the date of the next answer to its own `Date`: Pingora sets the current time in every answer.
    pub(crate) fn dated(&self, head: &ResponseHeader, ctx: &RequestContext) {
        if let Self::Pingora(_) = self {
            ctx.dated(&head.headers);
        }
    }

    /// Switches off the read timeout.
    pub(crate) fn never_times_out(&mut self) {
        if let Self::Pingora(session) = self {
            session.downstream_session.set_read_timeout(None);
        }
    }

    pub(crate) async fn write_continue(&mut self) -> Result<()> {
        match self {
            Self::Pingora(session) => session.downstream_session.write_continue_response().await,
            Self::Native(_) => Ok(()),
        }
    }

    /// Writes a head. Errors are attributed to the client.
    pub(crate) async fn write_response_header(&mut self, head: Box<ResponseHeader>) -> Result<()> {
        let written = match self {
            Self::Pingora(session) => session.downstream_session.write_response_header(head).await,
            Self::Native(own) => own.write_head(&head).await,
        };
        written.map_err(|error| error.into_down())
    }

    /// Writes a piece of the body. Errors are attributed to the client.
    pub(crate) async fn write_response_body(&mut self, piece: Bytes, end: bool) -> Result<()> {
        let written = match self {
            Self::Pingora(session) => session.downstream_session.write_response_body(piece, end).await,
            Self::Native(own) => own.write_body(&piece, end).await,
        };
        written.map_err(|error| error.into_down())
    }

    /// Returns true if the client can receive trailers: HTTP/1.1 would have to announce them in the head, and
    /// Pingora can't write them.
    pub(crate) fn takes_trailers(&self) -> bool {
        self.is_http2()
    }

    /// Writes trailers. Errors are attributed to the client.
    pub(crate) async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        match self {
            Self::Pingora(session) => {
                let written = session.downstream_session.write_response_trailers(trailers).await;
                written.map_err(|error| error.into_down())
            }
            Self::Native(_) => Ok(()),
        }
    }

    /// Waits until the client has left. Buffered bytes are flushed first. With HTTP/1.1 this can't be
    /// detected while a body is still to be read.
    async fn gone(&mut self) -> Box<Error> {
        if !self.is_http2() && !self.is_body_done() {
            return pending().await;
        }
        match self {
            Self::Pingora(session) => match session.downstream_session.read_body_or_idle(true).await {
                Err(error) => error.into_down(),
                Ok(_) => Error::explain(ErrorType::ConnectionClosed, "the client has left").into_down(),
            },
            Self::Native(own) => own.gone().await,
        }
    }

    /// Flushes what has come of an answer that broke off, so that the client sees how far it came.
    pub(crate) async fn abort_response(&mut self, error: Box<Error>) -> Box<Error> {
        match self {
            Self::Pingora(session) => {
                let rest = vec![HttpTask::Body(None, false), HttpTask::Failed(error)];
                match session.downstream_session.response_duplex_vec(rest).await {
                    Err(error) => error,
                    Ok(_) => Error::explain(ErrorType::ReadError, "the answer was cut short").into_up(),
                }
            }
            Self::Native(own) => match own.client.flush().await {
                Ok(()) => error,
                Err(gone) => {
                    Error::because(ErrorType::WriteError, "an answer that broke off", gone).into_down()
                }
            },
        }
    }

    /// Closes the connection, so that an answer that was cut short does not look complete.
    pub(crate) async fn shutdown(&mut self) {
        match self {
            Self::Pingora(session) => session.downstream_session.shutdown().await,
            Self::Native(own) => own.after = ConnectionFate::Broken,
        }
    }

    /// Waits for `work`, or until the client leaves. Buffered bytes are flushed first, unless the work is
    /// done already. The caller pins the work: a future that is passed by value would take its size twice in
    /// an async function.
    ///
    /// # Errors
    /// If the client has left; the work is dropped.
    pub(crate) async fn while_connected<T>(&mut self, work: Pin<&mut impl Future<Output = T>>) -> Result<T> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            gone = self.gone() => Err(gone),
        }
    }
}

/// The framing of an answer's body (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AnswerFraming {
    /// By its length; the number of bytes that are left, 0 without a body.
    Length(u64),
    /// By chunks, ended by an empty one.
    Chunks,
    /// By the end of the connection.
    Connection,
    /// Everything has been written.
    Done,
}

impl AnswerFraming {
    fn of(method: &Method, head: &ResponseHeader) -> Self {
        let headers = &head.headers;
        if !response_has_body(method, head.status) {
            return Self::Length(0);
        }
        // An origin's answer was checked before (`http::framing`): it has at most one, and that is
        // `chunked`.
        if headers.contains_key(header::TRANSFER_ENCODING) {
            return Self::Chunks;
        }
        content_length(headers).map_or(Self::Connection, Self::Length)
    }
}

/// The state of a connection when a request has been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionFate {
    /// It can be used for another request.
    Kept,
    /// It ends, and the client was told so (`Connection: close`).
    Ended,
    /// The answer was cut short: the connection must be closed.
    Broken,
}

/// An HTTP/1.1 request without a body, and its connection.
pub(crate) struct NativeSession<'s> {
    client: &'s mut dyn ClientWriter,
    request: Box<RequestHeader>,
    answered: Option<StatusCode>,
    framing: AnswerFraming,
    sent: u64,
    after: ConnectionFate,
    ignores_interim: bool,
}

impl<'s> NativeSession<'s> {
    pub(crate) fn new(client: &'s mut dyn ClientWriter, request: Box<RequestHeader>) -> Self {
        let (framing, after) = (AnswerFraming::Length(0), ConnectionFate::Kept);
        Self { client, request, answered: None, framing, sent: 0, after, ignores_interim: false }
    }

    async fn write_head(&mut self, head: &ResponseHeader) -> Result<()> {
        let interim = head.status.is_informational();
        if interim && self.ignores_interim || self.answered.is_some_and(|status| !status.is_informational()) {
            return Ok(());
        }
        if !interim {
            self.framing = AnswerFraming::of(&self.request.method, head);
            if self.framing == AnswerFraming::Connection {
                self.after = self.after.max(ConnectionFate::Ended);
            }
        }
        let bytes = serialized_head(
            head,
            (!interim).then_some(self.after == ConnectionFate::Kept),
            wall_ms() / 1_000,
        );
        self.client.write_all(&bytes).await.or_err(ErrorType::WriteError, "writing a head")?;
        self.answered = Some(head.status);
        match interim {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    /// Writes a piece of the body; bytes beyond its length are dropped.
    async fn write_body(&mut self, piece: &[u8], end: bool) -> Result<()> {
        let piece = match &mut self.framing {
            AnswerFraming::Done => return Ok(()),
            AnswerFraming::Length(left) => {
                let most = usize::try_from(*left).map_or(piece.len(), |left| left.min(piece.len()));
                *left -= most as u64;
                &piece[..most]
            }
            AnswerFraming::Chunks | AnswerFraming::Connection => piece,
        };
        let written = match self.framing {
            AnswerFraming::Chunks => write_chunk(self.client, piece, end).await,
            _ => self.client.write_all(piece).await,
        };
        written.or_err(ErrorType::WriteError, "writing a body")?;
        self.sent += piece.len() as u64;
        if end && !matches!(self.framing, AnswerFraming::Length(_)) {
            self.framing = AnswerFraming::Done;
        }
        match end || self.framing == AnswerFraming::Length(0) {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    async fn flush(&mut self) -> Result<()> {
        self.client.flush().await.or_err(ErrorType::WriteError, "sending an answer")
    }

    async fn gone(&mut self) -> Box<Error> {
        let left = match self.client.flush().await {
            Ok(()) => poll_fn(|cx| self.client.poll_disconnected(cx)).await,
            Err(error) => error,
        };
        Error::because(ErrorType::ConnectionClosed, "the client has left", left).into_down()
    }

    /// Ends the exchange. An answer that was not written to its end was cut short.
    pub(crate) async fn finish(mut self) -> ConnectionFate {
        let answered = self.answered.is_some_and(|status| !status.is_informational());
        let whole = answered && matches!(self.framing, AnswerFraming::Done | AnswerFraming::Length(0));
        match whole && self.flush().await.is_ok() {
            true => self.after,
            false => ConnectionFate::Broken,
        }
    }
}

/// Writes a chunk, and the last chunk if the body ends.
async fn write_chunk(client: &mut dyn ClientWriter, piece: &[u8], end: bool) -> io::Result<()> {
    if !piece.is_empty() {
        client.write_all(format!("{:X}\r\n", piece.len()).as_bytes()).await?;
        client.write_all(piece).await?;
        client.write_all(b"\r\n").await?;
    }
    match end {
        true => client.write_all(b"0\r\n\r\n").await,
        false => Ok(()),
    }
}
