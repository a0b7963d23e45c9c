//! HTTP/2 answers without a session: those from memory, and refusals.

use super::session::HTTP1_FIELDS;
use crate::representation::problem::ProblemReply;

use bytes::Bytes;
use h2::{server::SendResponse, Reason, SendStream};
use http::{header, request::Parts, Method, Response};
use pingora_core::protocols::http::date::get_cached_date;
use pingora_http::ResponseHeader;
use std::{future::poll_fn, time::Duration};
use tokio::time::timeout;

/// Answers a request that is refused.
pub(super) fn refuse_request(respond: &mut SendResponse<Bytes>, request: &Parts, problem: ProblemReply) {
    let (head, body) = problem.into_parts("");
    let body = Some(body).filter(|_| request.method != Method::HEAD);
    // The rest is dropped if the client is slow or gone.
    drop(send_head(respond, *head, body.as_slice()));
}

/// Sends the head of an answer, and its body if flow control permits all of it at once, so that answers to
/// one batch are written together. Otherwise returns the stream for the body. `body` holds its pieces, the
/// last one first.
pub(super) fn send_head(
    respond: &mut SendResponse<Bytes>,
    head: ResponseHeader,
    body: &[Bytes],
) -> Option<SendStream<Bytes>> {
    let mut head: http::response::Parts = head.into();
    // A stored answer has a date of its own.
    head.headers.entry(header::DATE).or_insert_with(get_cached_date);
    for name in &HTTP1_FIELDS {
        head.headers.remove(name);
    }
    let mut to = match respond.send_response(Response::from_parts(head, ()), body.is_empty()) {
        Ok(to) => to,
        Err(error) => {
            tracing::debug!(%error, "a client closed the connection before its answer was sent");
            return None;
        }
    };
    if body.is_empty() {
        return None;
    }
    let [piece] = body else { return Some(to) };
    to.reserve_capacity(piece.len());
    if to.capacity() < piece.len() {
        return Some(to);
    }
    if let Err(error) = to.send_data(piece.clone(), true) {
        tracing::debug!(%error, "a client closed the connection before its answer was sent");
    }
    None
}

/// Sends a body as fast as the client accepts it, if it accepts some of it in time.
pub(super) async fn send_body(mut to: SendStream<Bytes>, mut body: Vec<Bytes>, patience: Duration) {
    while let Some(mut piece) = body.pop() {
        while !piece.is_empty() {
            to.reserve_capacity(piece.len());
            let room = poll_fn(|cx| to.poll_capacity(cx));
            let Ok(Some(Ok(room))) = timeout(patience, room).await else {
                // A failure means that the client is gone.
                return to.send_reset(Reason::CANCEL);
            };
            let now = piece.split_to(room.min(piece.len()));
            if to.send_data(now, body.is_empty() && piece.is_empty()).is_err() {
                return;
            }
        }
    }
}
