//! A request's body on its way to a server: what is asked of every piece, and where it ends.

use super::{upstream, Context, Gateway, Result};
use crate::telemetry::labels::RejectReason;
use bytes::Bytes;
use pingora_core::{Error, ErrorType};

/// Sees to it that the end of a body is written once. A stream of HTTP/2 may end with a piece that is empty (RFC 9113,
/// 6.1). Pingora 0.9.1 writes that to a server of HTTP/1.1 as a chunk without content, which is the last one, and behind
/// it the last one: the server reads the second as the next request.
pub(super) fn end_once(body: &mut Option<Bytes>, end: bool) {
    if end && body.as_ref().is_some_and(Bytes::is_empty) {
        *body = None;
    }
}

impl Gateway {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
