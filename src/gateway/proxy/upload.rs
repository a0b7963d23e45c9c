//! A request's body on its way to a server: the checks of each piece, its framing, and the answer that may
//! come meanwhile.
//!
//! One task does both: it forwards the client's bytes, and reads the server's answer. A server may answer
//! before it has read everything, and then stop reading: its answer is forwarded at once, and when that is
//! complete, nothing more is sent. While there is nothing to send to the server, the client is waited for
//! (`body_timeout`), and `read_timeout` does not apply to the server.
//!
//! A connection to a server is reused only if the whole request had been sent before the answer began:
//! otherwise the meaning of further bytes on it is uncertain.

use crate::{
    gateway::{context::RequestContext, proxy::upstream, services::GatewayServices, session::GatewaySession},
    http::framing::content_length::content_length,
    origin::client::native::{DuplexEvent, NativeExchange, OutgoingBytes},
    telemetry::labels::RejectReason,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{header, HeaderName, HeaderValue, Method};
use pingora_core::{Error, ErrorType, Result};
use std::{
    future::{poll_fn, Future},
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

/// The time after which the client gets 100 (Continue) if it asked for it (`Expect: 100-continue`) and the
/// server has not answered.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);
/// The most bytes of a body that are sent together with its head.
const MAX_WITH_HEAD: usize = 16 * 1024;

/// The framing of a body towards a server (RFC 9112, 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UploadFraming {
    /// No body.
    Nothing,
    /// By its length; the number of bytes that are still to come.
    Length(u64),
    Chunks,
}

/// The progress of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UploadState {
    /// More of it has to come from the client.
    Comes,
    /// The rest of it has to be sent to the server.
    Rest,
    /// All of it has been sent.
    Sent,
    /// The server has stopped reading.
    Refused,
}

/// A body that is being sent.
#[derive(Debug)]
pub(crate) struct RequestUpload {
    framing: UploadFraming,
    told: Option<u64>,
    state: UploadState,
    out: OutgoingBytes,
    /// The time at which the client gets 100 (Continue), if the server has not answered by then.
    go_on: Option<Instant>,
    told_to_go_on: bool,
    /// True if the answer began before all of the body had been sent.
    early: bool,
}

impl RequestUpload {
    /// The body of a request that is about to be sent, for the first time or in a retry.
    pub(crate) fn of(session: &mut GatewaySession<'_>) -> Self {
        let told = content_length(&session.req_header().headers);
        let framing = match (session.is_body_empty(), told) {
            (true, _) => UploadFraming::Nothing,
            (false, Some(length)) => UploadFraming::Length(length),
            (false, None) => UploadFraming::Chunks,
        };
        let state = if framing == UploadFraming::Nothing { UploadState::Sent } else { UploadState::Comes };
        if state == UploadState::Comes {
            session.keep_for_retry();
        }
        Self {
            framing,
            told,
            state,
            out: OutgoingBytes::default(),
            go_on: None,
            told_to_go_on: false,
            early: false,
        }
    }

    /// The field that frames it.
    pub(crate) fn field(&self) -> Option<(HeaderName, HeaderValue)> {
        match (self.framing, self.told) {
            (UploadFraming::Chunks, _) => {
                Some((header::TRANSFER_ENCODING, HeaderValue::from_static("chunked")))
            }
            (_, Some(length)) => Some((header::CONTENT_LENGTH, HeaderValue::from(length))),
            (_, None) => None,
        }
    }

    /// Returns true if more of it is to be sent.
    pub(crate) fn is_under_way(&self) -> bool {
        matches!(self.state, UploadState::Comes | UploadState::Rest)
    }

    /// Returns true if all of it had been sent before the answer began.
    pub(crate) fn was_in_time(&self) -> bool {
        self.state == UploadState::Sent && !self.early
    }

    /// Notes that the server wants the body. Returns true if the client has not been told so yet.
    pub(crate) fn goes_on(&mut self) -> bool {
        self.go_on = None;
        !std::mem::replace(&mut self.told_to_go_on, true)
    }

    /// Notes that the answer has begun.
    pub(crate) fn answered(&mut self) {
        self.early |= self.state != UploadState::Sent;
        self.go_on = None;
    }

    /// Adds a piece of it; with `end` it is the last one.
    fn push(&mut self, piece: Option<&Bytes>, end: bool) -> Result<()> {
        let piece = piece.cloned().unwrap_or_default();
        let ended = match &mut self.framing {
            UploadFraming::Nothing => true,
            UploadFraming::Length(left) => {
                *left = left.checked_sub(piece.len() as u64).ok_or_else(length_error)?;
                if end && *left > 0 {
                    return Err(length_error());
                }
                let ended = *left == 0;
                self.out.put(piece);
                ended
            }
            UploadFraming::Chunks => {
                self.out.put(encode_chunk(&piece, end));
                end
            }
        };
        if ended {
            self.state = if self.out.is_empty() { UploadState::Sent } else { UploadState::Rest };
        }
        Ok(())
    }

    /// Notes that everything in the buffer has been sent.
    fn mark_sent(&mut self) {
        if self.state == UploadState::Rest {
            self.state = UploadState::Sent;
        }
    }

    fn is_refused(&mut self) {
        self.state = UploadState::Refused;
        self.out = OutgoingBytes::default();
    }

    /// Takes the bytes that are sent together with the head.
    fn with_head(&mut self) -> Bytes {
        let bytes = self.out.take();
        self.mark_sent();
        bytes
    }
}

/// The server's half of an exchange.
pub(crate) struct OriginHalf {
    pub(crate) exchange: NativeExchange,
    /// The rest of the request's body.
    pub(crate) upload: RequestUpload,
    pub(crate) method: Method,
}

fn length_error() -> Box<Error> {
    Error::explain(ErrorType::ReadError, "a body whose length differs from its Content-Length").into_down()
}

/// Frames a piece as a chunk, and adds the last chunk at the end of the body. A chunk without content would
/// be the last one, which must occur once (RFC 9112, 7.1).
fn encode_chunk(piece: &Bytes, end: bool) -> Bytes {
    let mut bytes = BytesMut::with_capacity(piece.len() + 32);
    if !piece.is_empty() {
        bytes.put_slice(format!("{:X}\r\n", piece.len()).as_bytes());
        bytes.put_slice(piece);
        bytes.put_slice(b"\r\n");
    }
    if end {
        bytes.put_slice(b"0\r\n\r\n");
    }
    bytes.freeze()
}

/// Makes sure that the end of a body is written once. An HTTP/2 stream may end with an empty piece (RFC 9113,
/// 6.1). Pingora 0.9.1 writes that to an HTTP/1.1 server as an empty chunk, which is the last one, followed
/// by the last chunk: the server reads the second one as the next request.
pub(crate) fn end_once(body: &mut Option<Bytes>, end: bool) {
    if end && body.as_ref().is_some_and(Bytes::is_empty) {
        *body = None;
    }
}

/// Takes the part of a body that is available: the bytes that an earlier attempt has read, or that have
/// come with the head. Returns the bytes that may be sent together with the head.
///
/// # Errors
/// If the body is refused.
pub(crate) async fn begin_upload(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    upload: &mut RequestUpload,
) -> Result<Bytes> {
    if !upload.is_under_way() {
        ctx.wants_body(false);
        return Ok(Bytes::new());
    }
    ctx.wants_body(!session.is_http2() && !session.is_body_done());
    match session.again() {
        Some(again) => take_piece(services, session, ctx, upload, Some(again))?,
        None if session.is_body_done() => take_piece(services, session, ctx, upload, None)?,
        None => {
            if let Poll::Ready(piece) = poll_once(next_piece(session)).await {
                take_piece(services, session, ctx, upload, piece?)?;
            }
        }
    }
    let asks = session.req_header().headers.contains_key(header::EXPECT) && session.answered().is_none();
    if asks && ctx.body_seen == 0 && upload.is_under_way() {
        upload.go_on = Some(Instant::now() + CONTINUE_TIMEOUT);
    }
    Ok(if upload.out.len() <= MAX_WITH_HEAD { upload.with_head() } else { Bytes::new() })
}

/// Forwards a body until part of the answer comes; `None`: everything has been sent.
///
/// # Errors
/// If one of the two sides failed.
pub(crate) async fn upload_until(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    half: &mut OriginHalf,
) -> Result<Option<DuplexEvent>> {
    let OriginHalf { exchange, upload, method } = half;
    while upload.is_under_way() {
        if !upload.out.is_empty() {
            match exchange.go_on(&mut upload.out, method).await {
                Ok(DuplexEvent::Sent) => upload.mark_sent(),
                Ok(came) => return Ok(Some(came)),
                // It may have sent its answer before it stopped reading.
                Err(error) if *error.etype() == ErrorType::WriteError => upload.is_refused(),
                Err(error) => return Err(error.into_up()),
            }
            continue;
        }
        let go_on = upload.go_on;
        let late = ctx.seeking.left().map(|left| Instant::now() + left);
        tokio::select! {
            biased;
            came = exchange.go_on(&mut upload.out, method) => {
                return came.map(Some).map_err(|error| error.into_up());
            }
            piece = next_piece(session) => {
                upload.go_on = None;
                take_piece(services, session, ctx, upload, piece?)?;
            }
            () = wait_until(late) => return Err(upstream::timeout_error()),
            () = wait_until(go_on) => {
                if upload.goes_on() {
                    session.write_continue().await.map_err(|error| error.into_down())?;
                }
            }
        }
    }
    Ok(None)
}

fn take_piece(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    upload: &mut RequestUpload,
    piece: Option<Bytes>,
) -> Result<()> {
    let end = piece.is_none() || session.is_body_done();
    check_body_piece(services, piece.as_ref(), end, false, ctx)?;
    upload.push(piece.as_ref(), end)
}

/// Checks a piece of a request's body, or of an upgraded connection (`upgraded`).
///
/// # Errors
/// If it is too large, or too late.
pub(crate) fn check_body_piece(
    services: &GatewayServices,
    piece: Option<&Bytes>,
    end: bool,
    upgraded: bool,
    ctx: &mut RequestContext,
) -> Result<()> {
    if end {
        ctx.wants_body(false);
    }
    ctx.body_seen += piece.map_or(0, |piece| piece.len() as u64);
    match ctx.routed() {
        // An upgraded connection has no body: `max_body` does not apply.
        Some(route) if ctx.body_seen > route.max_body && !upgraded => {
            services.metrics.rejected(RejectReason::BodyTooLarge);
            Error::e_explain(ErrorType::HTTPStatus(413), "the request body is too large")
        }
        _ if ctx.seeking.is_late() => Err(upstream::timeout_error()),
        _ => Ok(()),
    }
}

/// Reads the next piece of a body from the client. It can be dropped without losing bytes.
async fn next_piece(session: &mut GatewaySession<'_>) -> Result<Option<Bytes>> {
    session.read_request_body().await.map_err(|error| error.into_down())
}

/// Polls some work once, without waiting for it.
async fn poll_once<T>(work: impl Future<Output = T>) -> Poll<T> {
    let mut work = pin!(work);
    poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await
}

/// Waits for a point in time, if there is one.
async fn wait_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(framing: UploadFraming) -> RequestUpload {
        let state = UploadState::Comes;
        RequestUpload {
            framing,
            told: None,
            state,
            out: OutgoingBytes::default(),
            go_on: None,
            told_to_go_on: false,
            early: false,
        }
    }

    #[test]
    fn an_empty_piece_is_nothing_where_the_body_ends() {
        for (piece, end, left) in [
            (Some(""), true, None),
            (Some("x"), true, Some("x")),
            (None, true, None),
            // An empty chunk would be the end.
            (Some(""), false, Some("")),
            (Some("x"), false, Some("x")),
        ] {
            let mut body = piece.map(Bytes::from);
            end_once(&mut body, end);
            assert_eq!(body, left.map(Bytes::from), "{piece:?} {end}");
        }
    }

    #[test]
    fn chunks_end_once() {
        for (pieces, sent) in [
            (&[(Some("hello"), false), (Some(""), false), (Some(""), true)][..], "5\r\nhello\r\n0\r\n\r\n"),
            (&[(Some("hello"), true)], "5\r\nhello\r\n0\r\n\r\n"),
            (&[(Some("hello"), false), (None, true)], "5\r\nhello\r\n0\r\n\r\n"),
            (&[(None, true)], "0\r\n\r\n"),
            (&[(Some(""), true)], "0\r\n\r\n"),
        ] {
            let mut upload = upload(UploadFraming::Chunks);
            for (piece, end) in pieces {
                upload.push(piece.map(Bytes::from).as_ref(), *end).unwrap();
            }
            assert_eq!(upload.state, UploadState::Rest);
            assert_eq!(upload.with_head(), sent);
            assert!(upload.was_in_time() && !upload.is_under_way());
        }
    }

    #[test]
    fn a_length_is_kept() {
        let mut whole = upload(UploadFraming::Length(5));
        whole.push(Some(&"hel".into()), false).unwrap();
        assert_eq!((whole.state, whole.with_head()), (UploadState::Comes, "hel".into()));
        whole.push(Some(&"lo".into()), false).unwrap();
        assert_eq!(
            (whole.state, whole.with_head(), whole.state),
            (UploadState::Rest, "lo".into(), UploadState::Sent)
        );
        assert!(upload(UploadFraming::Length(5)).push(Some(&"hello!".into()), false).is_err());
        assert!(upload(UploadFraming::Length(5)).push(Some(&"hell".into()), true).is_err());
        assert!(upload(UploadFraming::Length(5)).push(None, true).is_err());
    }

    #[test]
    fn an_answer_before_the_end_is_early() {
        let mut early = upload(UploadFraming::Chunks);
        early.push(Some(&"hello".into()), false).unwrap();
        early.with_head();
        early.answered();
        early.push(None, true).unwrap();
        early.with_head();
        assert!(!early.is_under_way() && !early.was_in_time());
    }
}
