//! Proxied requests without a body, in one task: read from the origin, written to the client, nothing in between.
//!
//! Pingora proxies with two halves that speak through channels, for a body may go up while another comes down. Most
//! requests have none. They go over the origin client's own connections (`origin::plain`), and through the same
//! functions as what Pingora proxies: who is asked and how often (`upstream`), what the origin is told (`forward`,
//! `dress`), what becomes of its answer (`answer_passes`, `passing`). What goes this way is decided by [`fits`]; bodies, upgrades, TLS and
//! HTTP/2 to the origin, and fields of a connection that need a closer look are left to Pingora.

use super::{dress, forward, session::Session, Context, Gateway, Result};
use crate::origin::plain::{self, Exchange};
use bytes::Bytes;
use http::{header, HeaderValue, Method, StatusCode, Version};
use pingora_core::{Error, ErrorSource, ErrorType};
use pingora_http::ResponseHeader;
use std::future::Future;

/// How often one request is sent at most, whatever is left of its retries: as often as Pingora does.
const ATTEMPTS: u32 = 16;

/// Whether a request that is to be proxied goes this way.
pub(super) fn fits(session: &mut Session<'_>, ctx: &Context) -> bool {
    if ctx.handshake.is_some() || !ctx.at_hand().is_some_and(|at_hand| at_hand.own) {
        return false;
    }
    let request = session.req_header();
    let headers = &request.headers;
    let closer_look = [header::UPGRADE, header::EXPECT, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    let connection = headers.get_all(header::CONNECTION).iter();
    matches!(request.method, Method::GET | Method::HEAD)
        && !closer_look.iter().any(|name| headers.contains_key(name))
        // Fields that it names end here, and some must not be named.
        && connection.map(|value| value.as_bytes()).all(is_plain)
        && request.uri.authority().is_none_or(|authority| !authority.as_str().contains('@'))
        && session.is_body_empty()
}

fn is_plain(option: &[u8]) -> bool {
    option.eq_ignore_ascii_case(b"keep-alive") || option.eq_ignore_ascii_case(b"close")
}

impl Gateway {
    /// Proxies a request that has no body.
    ///
    /// # Errors
    /// If there was no answer, or it broke off.
    pub(super) async fn proxy_directly(&self, session: &mut Session<'_>, ctx: &mut Context) -> Result<()> {
        let mut attempts = 1;
        loop {
            match self.attempt(session, ctx).await {
                Err(error) if error.retry() && attempts < ATTEMPTS => attempts += 1,
                ended => return ended,
            }
        }
    }

    async fn attempt(&self, session: &mut Session<'_>, ctx: &mut Context) -> Result<()> {
        self.choose(session, ctx);
        session.meanwhile(self.seek(ctx)).await??;
        let Some(upstream) = &ctx.upstream else {
            return Error::e_explain(ErrorType::InternalError, "nobody was chosen");
        };
        let at = (upstream.server, upstream.address);
        let connecting = Exchange::begin(&upstream.pool, at, ctx.seeking.left(), upstream.asked);
        let begun = session.meanwhile(connecting).await?;
        let (exchange, reused) = match begun {
            Ok(begun) => begun,
            Err(mut error) => {
                error.as_up();
                self.not_connected(ctx, &mut error);
                return Err(error);
            }
        };
        let passed = self.pass(session, ctx, exchange).await;
        passed.map_err(|mut error| {
            self.broke(session, ctx, &mut error, reused);
            error
        })
    }

    /// Sends the request and passes the answer on.
    async fn pass(&self, session: &mut Session<'_>, ctx: &mut Context, mut exchange: Exchange) -> Result<()> {
        let Some(text) = written(session, ctx) else {
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "a request that can't be written");
        };
        // What an earlier attempt brought is over.
        drop(ctx.passing.take_order());
        let method = session.req_header().method.clone();
        unless_gone(session, exchange.send(&text)).await?;
        let head = loop {
            let mut head = unless_gone(session, exchange.head(&method)).await?;
            frame(&method, &mut head, exchange.is_done())?;
            self.answer_passes(session, &mut head, ctx)?;
            if !head.status.is_informational() || ctx.passing.is_ordered() {
                break head;
            }
            session.write_response_header(Box::new(head)).await?;
        };
        let sent = !ctx.passing.is_ordered();
        if sent {
            session.write_response_header(Box::new(head)).await?;
        }
        if !exchange.is_done() {
            let passed = self.pass_body(session, ctx, &mut exchange, sent).await;
            if let Err(error) = passed {
                let by_client = *error.esource() == ErrorSource::Downstream;
                return Err(if sent && !by_client { session.break_off(error).await } else { error });
            }
        } else if sent {
            session.write_response_body(Bytes::new(), true).await?;
        }
        exchange.finish();
        Ok(())
    }

    /// Passes the body on, or drops it where something else is sent in the answer's stead.
    async fn pass_body(
        &self,
        session: &mut Session<'_>,
        ctx: &mut Context,
        exchange: &mut Exchange,
        sent: bool,
    ) -> Result<()> {
        loop {
            let mut piece = unless_gone(session, exchange.next()).await?;
            let end = exchange.is_done();
            self.hear(piece.as_ref(), end, ctx)?;
            if let Some(pause) = self.body_passes(&mut piece, end, ctx)? {
                session.meanwhile(tokio::time::sleep(pause)).await?;
            }
            let piece = piece.unwrap_or_default();
            if sent && (end || !piece.is_empty()) {
                session.write_response_body(piece, end).await?;
            }
            if end {
                return Ok(());
            }
        }
    }
}

/// Work with the origin, for as long as the client is there.
async fn unless_gone<T>(session: &mut Session<'_>, work: impl Future<Output = Result<T>>) -> Result<T> {
    session.meanwhile(work).await?.map_err(|error| error.into_up())
}

/// The request as the origin gets it.
fn written(session: &Session<'_>, ctx: &Context) -> Option<Vec<u8>> {
    let (request, upstream) = (session.req_header(), ctx.upstream.as_ref()?);
    // HTTP/2 says in the target for which host it is, HTTP/1.0 need not say it.
    let named = match request.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => request.headers.get(header::HOST).cloned(),
    };
    let mut fields = forward::proxied_headers(request, named.as_ref(), ctx);
    let mut host = None;
    dress::directly(request, ctx, &mut fields, &mut host);
    let host = host.and_then(|host| HeaderValue::try_from(host).ok()).or(named);
    let host = host.or_else(|| HeaderValue::try_from(upstream.pool.authority(upstream.server)).ok())?;
    plain::write(&request.method, request.raw_path(), host.as_bytes(), &fields, b"")
}

/// Frames an answer that ends with its connection: the client's goes on.
fn frame(method: &Method, head: &mut ResponseHeader, ended: bool) -> Result<()> {
    let bodiless = *method == Method::HEAD
        || head.status.is_informational()
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let framed = [header::TRANSFER_ENCODING, header::CONTENT_LENGTH];
    if !bodiless && !ended && !framed.iter().any(|name| head.headers.contains_key(name)) {
        head.set_version(Version::HTTP_11);
        head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    Ok(())
}
