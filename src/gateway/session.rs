//! A request and the way its answer takes: over Pingora's session, or over a plainer one of the gateway's own.
//!
//! Pingora's session reads requests, their bodies, and streams of HTTP/2. A request of HTTP/1.1 without a body that the
//! fast lane has read, and couldn't answer, needs none of that: [`Own`] holds its head, frames the answer (RFC 9112, 6)
//! and writes it. What is decided of a request is the same by either; nothing here looks at what it asks for.

use super::{context::Context, serialised::written};
use crate::clock::wall_ms;
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

/// A client's connection while a request of its is answered. What is written goes out when it is flushed, or before.
pub trait Client: AsyncWrite + Unpin + Send + Sync {
    /// Ready when the client has left. What it sends in the meantime is kept for the next request.
    fn poll_gone(&mut self, cx: &mut Task<'_>) -> Poll<io::Error>;
}

/// A request, and where its answer goes.
pub(super) enum Session<'s> {
    /// By Pingora: any request.
    Pingora(&'s mut pingora_proxy::Session),
    /// By the gateway itself: HTTP/1.1, without a body.
    Own(Own<'s>),
}

impl Session<'_> {
    pub(super) fn req_header(&self) -> &RequestHeader {
        match self {
            Self::Pingora(session) => session.req_header(),
            Self::Own(own) => &own.request,
        }
    }

    pub(super) fn req_header_mut(&mut self) -> &mut RequestHeader {
        match self {
            Self::Pingora(session) => session.req_header_mut(),
            Self::Own(own) => &mut own.request,
        }
    }

    pub(super) fn is_http2(&self) -> bool {
        self.req_header().version == Version::HTTP_2
    }

    /// Whether the client asked to go on with another protocol.
    pub(super) fn is_upgrade_req(&self) -> bool {
        matches!(self, Self::Pingora(session) if session.is_upgrade_req())
    }

    /// Whether it never had a body.
    pub(super) fn is_body_empty(&mut self) -> bool {
        match self {
            Self::Pingora(session) => session.as_mut().is_body_empty(),
            Self::Own(_) => true,
        }
    }

    /// Whether all of its body has come.
    pub(super) fn is_body_done(&mut self) -> bool {
        match self {
            Self::Pingora(session) => session.as_mut().is_body_done(),
            Self::Own(_) => true,
        }
    }

    /// Whether more of its body has gone by than could be sent again.
    pub(super) fn retry_buffer_truncated(&self) -> bool {
        matches!(self, Self::Pingora(session) if session.as_ref().retry_buffer_truncated())
    }

    /// From now on what is read of its body is kept, as far as there is room for it, to be sent again.
    pub(super) fn keep_for_again(&mut self) {
        if let Self::Pingora(session) = self {
            session.as_mut().enable_retry_buffering();
        }
    }

    /// What has been read of its body, where that was anything and all of it is kept.
    pub(super) fn again(&self) -> Option<Bytes> {
        match self {
            Self::Pingora(session) => session.as_ref().get_retry_buffer(),
            Self::Own(_) => None,
        }
    }

    pub(super) async fn read_request_body(&mut self) -> Result<Option<Bytes>> {
        match self {
            Self::Pingora(session) => session.downstream_session.read_request_body().await,
            Self::Own(_) => Ok(None),
        }
    }

    /// The head that was written last: of an interim answer or of the answer.
    pub(super) fn answered(&self) -> Option<StatusCode> {
        match self {
            Self::Pingora(session) => session.response_written().map(|head| head.status),
            Self::Own(own) => own.answered,
        }
    }

    /// Bytes of the answer's body that were written.
    pub(super) fn body_bytes_sent(&self) -> u64 {
        match self {
            Self::Pingora(session) => session.body_bytes_sent() as u64,
            Self::Own(own) => own.sent,
        }
    }

    /// The connection is not there for another request.
    pub(super) fn ends_connection(&mut self) {
        match self {
            Self::Pingora(session) => session.downstream_session.set_keepalive(None),
            Self::Own(own) => own.after = own.after.max(After::Ended),
        }
    }

    /// Returns whether an answer with this head goes out only when all of it is there: Pingora flushes what has a length at its
    /// end.
    pub(super) fn holds_back(&self, head: &ResponseHeader) -> bool {
        let pingoras = matches!(self, Self::Pingora(_)) && !self.is_http2();
        pingoras && head.headers.contains_key(header::CONTENT_LENGTH)
    }

    /// Ends the connection of HTTP/1.1 behind an answer that is whole, as Pingora doesn't where a request has failed.
    pub(super) async fn close(&mut self) {
        if self.is_http2() {
            return;
        }
        match self {
            Self::Pingora(session) => session.downstream_session.shutdown().await,
            Self::Own(_) => {}
        }
    }

    /// Interim answers are not for the client.
    pub(super) fn ignore_interim(&mut self) {
        match self {
            Self::Pingora(session) => session.downstream_session.set_ignore_info_resp(true),
            Self::Own(own) => own.ignores_interim = true,
        }
    }

    /// The answer that is written next has this date of its own. Pingora dates every answer with now.
    pub(super) fn dated(&self, head: &ResponseHeader, ctx: &Context) {
        if let Self::Pingora(_) = self {
            ctx.dated(&head.headers);
        }
    }

    /// Nobody looks any more at how long nothing comes.
    pub(super) fn never_times_out(&mut self) {
        if let Self::Pingora(session) = self {
            session.downstream_session.set_read_timeout(None);
        }
    }

    pub(super) async fn write_continue(&mut self) -> Result<()> {
        match self {
            Self::Pingora(session) => session.downstream_session.write_continue_response().await,
            Self::Own(_) => Ok(()),
        }
    }

    /// What goes wrong here is the client's.
    pub(super) async fn write_response_header(&mut self, head: Box<ResponseHeader>) -> Result<()> {
        let written = match self {
            Self::Pingora(session) => session.downstream_session.write_response_header(head).await,
            Self::Own(own) => own.write_head(&head).await,
        };
        written.map_err(|error| error.into_down())
    }

    /// What goes wrong here is the client's.
    pub(super) async fn write_response_body(&mut self, piece: Bytes, end: bool) -> Result<()> {
        let written = match self {
            Self::Pingora(session) => session.downstream_session.write_response_body(piece, end).await,
            Self::Own(own) => own.write_body(&piece, end).await,
        };
        written.map_err(|error| error.into_down())
    }

    /// Returns whether what comes behind a body is for the client: HTTP/1.1 would have to be told of it in the head, and Pingora
    /// has no way to write it.
    pub(super) fn takes_trailers(&self) -> bool {
        self.is_http2()
    }

    /// What goes wrong here is the client's.
    pub(super) async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        match self {
            Self::Pingora(session) => {
                let written = session.downstream_session.write_response_trailers(trailers).await;
                written.map_err(|error| error.into_down())
            }
            Self::Own(_) => Ok(()),
        }
    }

    /// Waits until the client has left. What was written until now goes out first. Where the rest of a body is still to
    /// be read by HTTP/1.1, nobody can tell.
    async fn gone(&mut self) -> Box<Error> {
        if !self.is_http2() && !self.is_body_done() {
            return pending().await;
        }
        match self {
            Self::Pingora(session) => match session.downstream_session.read_body_or_idle(true).await {
                Err(error) => error.into_down(),
                Ok(_) => Error::explain(ErrorType::ConnectionClosed, "the client has left").into_down(),
            },
            Self::Own(own) => own.gone().await,
        }
    }

    /// What has come of an answer that broke off goes out, so that the client sees how far it came.
    pub(super) async fn break_off(&mut self, error: Box<Error>) -> Box<Error> {
        match self {
            Self::Pingora(session) => {
                let rest = vec![HttpTask::Body(None, false), HttpTask::Failed(error)];
                match session.downstream_session.response_duplex_vec(rest).await {
                    Err(error) => error,
                    Ok(_) => Error::explain(ErrorType::ReadError, "an answer broke off").into_up(),
                }
            }
            Self::Own(own) => match own.client.flush().await {
                Ok(()) => error,
                Err(gone) => {
                    Error::because(ErrorType::WriteError, "an answer that broke off", gone).into_down()
                }
            },
        }
    }

    /// Ends the connection: what was cut short must not look whole.
    pub(super) async fn shutdown(&mut self) {
        match self {
            Self::Pingora(session) => session.downstream_session.shutdown().await,
            Self::Own(own) => own.after = After::Broken,
        }
    }

    /// Waits for what is done for the client, for as long as it is there. What was written until now goes out first,
    /// unless the work is done already. The work is pinned by who asks: an argument that is a future lies twice in the
    /// future of an async function.
    ///
    /// # Errors
    /// The client has left; the work is dropped.
    pub(super) async fn meanwhile<T>(&mut self, work: Pin<&mut impl Future<Output = T>>) -> Result<T> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            gone = self.gone() => Err(gone),
        }
    }
}

/// How the body of an answer is delimited (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// By its length, of which so much is left: nothing, where there is no body.
    Length(u64),
    /// By chunks, the last of which is empty.
    Chunks,
    /// By the end of the connection.
    Connection,
    /// It has been written.
    Done,
}

impl Framing {
    fn of(method: &Method, head: &ResponseHeader) -> Self {
        let headers = &head.headers;
        if *method == Method::HEAD || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        {
            return Self::Length(0);
        }
        // What comes from an origin was judged before (`origin::framing`): there is one of them, and it is plain.
        if headers.contains_key(header::TRANSFER_ENCODING) {
            return Self::Chunks;
        }
        let length =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        length.map_or(Self::Connection, Self::Length)
    }
}

/// What becomes of a connection when a request has been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum After {
    /// It is there for another.
    Kept,
    /// The client was told that there will be none.
    Ended,
    /// The answer broke off, and must not look whole.
    Broken,
}

/// A request of HTTP/1.1 without a body, and its connection.
pub(super) struct Own<'s> {
    client: &'s mut dyn Client,
    request: Box<RequestHeader>,
    answered: Option<StatusCode>,
    framing: Framing,
    sent: u64,
    after: After,
    ignores_interim: bool,
}

impl<'s> Own<'s> {
    pub(super) fn new(client: &'s mut dyn Client, request: Box<RequestHeader>) -> Self {
        let (framing, after) = (Framing::Length(0), After::Kept);
        Self { client, request, answered: None, framing, sent: 0, after, ignores_interim: false }
    }

    async fn write_head(&mut self, head: &ResponseHeader) -> Result<()> {
        let interim = head.status.is_informational();
        if interim && self.ignores_interim || self.answered.is_some_and(|status| !status.is_informational()) {
            return Ok(());
        }
        if !interim {
            self.framing = Framing::of(&self.request.method, head);
            if self.framing == Framing::Connection {
                self.after = self.after.max(After::Ended);
            }
        }
        let bytes = written(head, (!interim).then_some(self.after == After::Kept), wall_ms() / 1_000);
        self.client.write_all(&bytes).await.or_err(ErrorType::WriteError, "writing a head")?;
        self.answered = Some(head.status);
        match interim {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    /// What is beyond the length of a body is not sent.
    async fn write_body(&mut self, piece: &[u8], end: bool) -> Result<()> {
        let piece = match &mut self.framing {
            Framing::Done => return Ok(()),
            Framing::Length(left) => {
                let most = usize::try_from(*left).map_or(piece.len(), |left| left.min(piece.len()));
                *left -= most as u64;
                &piece[..most]
            }
            Framing::Chunks | Framing::Connection => piece,
        };
        let written = match self.framing {
            Framing::Chunks => write_chunk(self.client, piece, end).await,
            _ => self.client.write_all(piece).await,
        };
        written.or_err(ErrorType::WriteError, "writing a body")?;
        self.sent += piece.len() as u64;
        if end && !matches!(self.framing, Framing::Length(_)) {
            self.framing = Framing::Done;
        }
        match end || self.framing == Framing::Length(0) {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    async fn flush(&mut self) -> Result<()> {
        self.client.flush().await.or_err(ErrorType::WriteError, "sending an answer")
    }

    async fn gone(&mut self) -> Box<Error> {
        let left = match self.client.flush().await {
            Ok(()) => poll_fn(|cx| self.client.poll_gone(cx)).await,
            Err(error) => error,
        };
        Error::because(ErrorType::ConnectionClosed, "the client has left", left).into_down()
    }

    /// The exchange is over. An answer that was not written to its end has broken off.
    pub(super) async fn finish(mut self) -> After {
        let answered = self.answered.is_some_and(|status| !status.is_informational());
        let whole = answered && matches!(self.framing, Framing::Done | Framing::Length(0));
        match whole && self.flush().await.is_ok() {
            true => self.after,
            false => After::Broken,
        }
    }
}

/// Writes a chunk, and the last one behind it where the body ends.
async fn write_chunk(client: &mut dyn Client, piece: &[u8], end: bool) -> io::Result<()> {
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
