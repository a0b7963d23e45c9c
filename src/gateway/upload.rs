//! A request's body on its way to a server: what is asked of every piece, where it ends, and what happens meanwhile.
//!
//! One task does both: it passes on what the client sends, and looks at what the server says. A server may answer before
//! it has read everything, and read no more: its answer goes out at once, and when that is whole nothing is sent any
//! more. While nothing is under way to the server, the client is the one who is waited for (`body_timeout`), and the
//! server is not asked for a sign of life (`read_timeout`).
//!
//! A connection to a server is used again only where all of the request had gone out before the answer began: what else
//! is read on it nobody knows for sure.

use super::{admission::content_length, direct::Half, session::Session, upstream, Context, Gateway, Result};
use crate::{
    origin::plain::{Came, Outgoing},
    telemetry::labels::RejectReason,
};
use bytes::{BufMut, Bytes, BytesMut};
use http::{header, HeaderName, HeaderValue};
use pingora_core::{Error, ErrorType};
use std::{
    future::{poll_fn, Future},
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

/// The time for which a server may keep a client waiting that asks before it sends its body (`Expect: 100-continue`).
const CONTINUE: Duration = Duration::from_secs(1);
/// What of a body is sent with its head, at most.
const WITH_HEAD: usize = 16 * 1024;

/// The framing of a body towards a server (RFC 9112, 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// There is none.
    Nothing,
    /// By its length, of which so much is still to come.
    Length(u64),
    Chunks,
}

/// The progress of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// More of it has to come from the client.
    Comes,
    /// The rest of it is to be sent.
    Rest,
    /// All of it has been sent.
    Sent,
    /// The server takes no more.
    Refused,
}

/// A body on its way.
#[derive(Debug)]
pub(super) struct Upload {
    framing: Framing,
    told: Option<u64>,
    state: State,
    out: Outgoing,
    /// When the client is told to send its body, if the server has said nothing by then.
    go_on: Option<Instant>,
    told_to_go_on: bool,
    /// Tells whether the answer began before all of it had been sent.
    early: bool,
}

impl Upload {
    /// The body of a request that is about to be sent, for the first time or once more.
    pub(super) fn of(session: &mut Session<'_>) -> Self {
        let told = content_length(session.req_header());
        let framing = match (session.is_body_empty(), told) {
            (true, _) => Framing::Nothing,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::Chunks,
        };
        let state = if framing == Framing::Nothing { State::Sent } else { State::Comes };
        if state == State::Comes {
            session.keep_for_again();
        }
        Self {
            framing,
            told,
            state,
            out: Outgoing::default(),
            go_on: None,
            told_to_go_on: false,
            early: false,
        }
    }

    /// The field that delimits it.
    pub(super) fn field(&self) -> Option<(HeaderName, HeaderValue)> {
        match (self.framing, self.told) {
            (Framing::Chunks, _) => Some((header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))),
            (_, Some(length)) => Some((header::CONTENT_LENGTH, HeaderValue::from(length))),
            (_, None) => None,
        }
    }

    /// Returns whether more of it is to be sent.
    pub(super) fn is_under_way(&self) -> bool {
        matches!(self.state, State::Comes | State::Rest)
    }

    /// Returns whether all of it had gone out before the answer began.
    pub(super) fn was_in_time(&self) -> bool {
        self.state == State::Sent && !self.early
    }

    /// The server wants the body. Whether the client has not been told so yet.
    pub(super) fn goes_on(&mut self) -> bool {
        self.go_on = None;
        !std::mem::replace(&mut self.told_to_go_on, true)
    }

    /// The answer has begun.
    pub(super) fn answered(&mut self) {
        self.early |= self.state != State::Sent;
        self.go_on = None;
    }

    /// Some more of it has come; `end`: nothing will come behind.
    fn push(&mut self, piece: Option<&Bytes>, end: bool) -> Result<()> {
        let piece = piece.cloned().unwrap_or_default();
        let ended = match &mut self.framing {
            Framing::Nothing => true,
            Framing::Length(left) => {
                *left = left.checked_sub(piece.len() as u64).ok_or_else(wrong_length)?;
                if end && *left > 0 {
                    return Err(wrong_length());
                }
                let ended = *left == 0;
                self.out.put(piece);
                ended
            }
            Framing::Chunks => {
                self.out.put(chunk(&piece, end));
                end
            }
        };
        if ended {
            self.state = if self.out.is_empty() { State::Sent } else { State::Rest };
        }
        Ok(())
    }

    /// What was to be sent has been.
    fn has_been_sent(&mut self) {
        if self.state == State::Rest {
            self.state = State::Sent;
        }
    }

    fn is_refused(&mut self) {
        self.state = State::Refused;
        self.out = Outgoing::default();
    }

    /// What goes out with the head.
    fn with_head(&mut self) -> Bytes {
        let bytes = self.out.take();
        self.has_been_sent();
        bytes
    }
}

fn wrong_length() -> Box<Error> {
    Error::explain(ErrorType::ReadError, "a body that is not as long as its head says").into_down()
}

/// A piece as a chunk, and the last one behind it where the body ends. A chunk without content would be the last one:
/// there is one of them (RFC 9112, 7.1).
fn chunk(piece: &Bytes, end: bool) -> Bytes {
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

/// Sees to it that the end of a body is written once. A stream of HTTP/2 may end with a piece that is empty (RFC 9113,
/// 6.1). Pingora 0.9.1 writes that to a server of HTTP/1.1 as a chunk without content, which is the last one, and behind
/// it the last one: the server reads the second as the next request.
pub(super) fn end_once(body: &mut Option<Bytes>, end: bool) {
    if end && body.as_ref().is_some_and(Bytes::is_empty) {
        *body = None;
    }
}

impl Gateway {
    /// Takes what is here of a body: what an earlier attempt has read, and what has come with the head. Returns what may
    /// go out with the head.
    ///
    /// # Errors
    /// If it goes no further.
    pub(super) async fn begin_upload(
        &self,
        session: &mut Session<'_>,
        ctx: &mut Context,
        upload: &mut Upload,
    ) -> Result<Bytes> {
        if !upload.is_under_way() {
            ctx.wants_body(false);
            return Ok(Bytes::new());
        }
        ctx.wants_body(!session.is_http2() && !session.is_body_done());
        match session.again() {
            Some(again) => self.take_piece(session, ctx, upload, Some(again))?,
            None if session.is_body_done() => self.take_piece(session, ctx, upload, None)?,
            None => {
                if let Poll::Ready(piece) = once(next_piece(session)).await {
                    self.take_piece(session, ctx, upload, piece?)?;
                }
            }
        }
        let asks = session.req_header().headers.contains_key(header::EXPECT) && session.answered().is_none();
        if asks && ctx.body_seen == 0 && upload.is_under_way() {
            upload.go_on = Some(Instant::now() + CONTINUE);
        }
        Ok(if upload.out.len() <= WITH_HEAD { upload.with_head() } else { Bytes::new() })
    }

    /// Passes a body on until something of the answer comes; `None`: there is nothing more to be sent.
    ///
    /// # Errors
    /// If one of the two sides failed.
    pub(super) async fn upload_until(
        &self,
        session: &mut Session<'_>,
        ctx: &mut Context,
        half: &mut Half,
    ) -> Result<Option<Came>> {
        let Half { exchange, upload, method } = half;
        while upload.is_under_way() {
            if !upload.out.is_empty() {
                match exchange.go_on(&mut upload.out, method).await {
                    Ok(Came::Sent) => upload.has_been_sent(),
                    Ok(came) => return Ok(Some(came)),
                    // Before it took no more it may have said why.
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
                    self.take_piece(session, ctx, upload, piece?)?;
                }
                () = passes(late) => return Err(upstream::late()),
                () = passes(go_on) => {
                    if upload.goes_on() {
                        session.write_continue().await.map_err(|error| error.into_down())?;
                    }
                }
            }
        }
        Ok(None)
    }

    fn take_piece(
        &self,
        session: &mut Session<'_>,
        ctx: &mut Context,
        upload: &mut Upload,
        piece: Option<Bytes>,
    ) -> Result<()> {
        let end = piece.is_none() || session.is_body_done();
        self.body_comes(piece.as_ref(), end, false, ctx)?;
        upload.push(piece.as_ref(), end)
    }

    /// A piece of a request's body has come, or one from behind a 101 (`upgraded`).
    ///
    /// # Errors
    /// If it goes no further: it is too large, or too late.
    pub(super) fn body_comes(
        &self,
        piece: Option<&Bytes>,
        end: bool,
        upgraded: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        if end {
            ctx.wants_body(false);
        }
        ctx.body_seen += piece.map_or(0, |piece| piece.len() as u64);
        match ctx.routed() {
            // An upgraded connection has no body: its bytes have no end.
            Some(route) if ctx.body_seen > route.max_body && !upgraded => {
                self.parts.metrics.rejected(RejectReason::BodyTooLarge);
                Error::e_explain(ErrorType::HTTPStatus(413), "the request body is too large")
            }
            _ if ctx.seeking.is_late() => Err(upstream::late()),
            _ => Ok(()),
        }
    }
}

/// The next piece of a body, as it comes from the client. Nothing is lost where this is dropped before.
async fn next_piece(session: &mut Session<'_>) -> Result<Option<Bytes>> {
    session.read_request_body().await.map_err(|error| error.into_down())
}

/// What is there at once of some work, which is not waited for.
async fn once<T>(work: impl Future<Output = T>) -> Poll<T> {
    let mut work = pin!(work);
    poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await
}

/// Waits for a moment, if there is one.
async fn passes(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(framing: Framing) -> Upload {
        let state = State::Comes;
        Upload {
            framing,
            told: None,
            state,
            out: Outgoing::default(),
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
            // Nothing would be the end.
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
            let mut upload = upload(Framing::Chunks);
            for (piece, end) in pieces {
                upload.push(piece.map(Bytes::from).as_ref(), *end).unwrap();
            }
            assert_eq!(upload.state, State::Rest);
            assert_eq!(upload.with_head(), sent);
            assert!(upload.was_in_time() && !upload.is_under_way());
        }
    }

    #[test]
    fn a_length_is_kept() {
        let mut whole = upload(Framing::Length(5));
        whole.push(Some(&"hel".into()), false).unwrap();
        assert_eq!((whole.state, whole.with_head()), (State::Comes, "hel".into()));
        whole.push(Some(&"lo".into()), false).unwrap();
        assert_eq!((whole.state, whole.with_head(), whole.state), (State::Rest, "lo".into(), State::Sent));
        assert!(upload(Framing::Length(5)).push(Some(&"hello!".into()), false).is_err());
        assert!(upload(Framing::Length(5)).push(Some(&"hell".into()), true).is_err());
        assert!(upload(Framing::Length(5)).push(None, true).is_err());
    }

    #[test]
    fn an_answer_before_the_end_is_early() {
        let mut early = upload(Framing::Chunks);
        early.push(Some(&"hello".into()), false).unwrap();
        early.with_head();
        early.answered();
        early.push(None, true).unwrap();
        early.with_head();
        assert!(!early.is_under_way() && !early.was_in_time());
    }
}
