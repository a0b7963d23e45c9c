//! Pingora's phases: what is handed to it, and what is made of what it hands back.

use super::{
    cached, direct, dress, entry, forward, host, refusal, upstream, websocket, Context, Gateway, Next,
    OnConnection, Result,
};
use crate::{
    cache::FetchError,
    origin::client,
    representation::problem::Problem,
    telemetry::{
        access::Record,
        labels::{CacheResult, CutReason, OriginOutcome, RejectReason},
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use http::{
    header::{self, TRANSFER_ENCODING},
    StatusCode, Version,
};
use pingora_core::{modules::http::HttpModules, upstreams::peer::HttpPeer, Error, ErrorType};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use std::{any::Any, sync::atomic::Ordering, time::Duration};

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::new(self.site.load_full())
    }

    /// No modules: Pingora's compression is not for us (see the decision on encodings).
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    fn on_connection_reuse(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        from: Box<dyn Any + Send + Sync>,
    ) {
        ctx.request_id = self.ids.of(&session.req_header().headers);
        if let Ok(connection) = from.downcast::<OnConnection>() {
            connection.signals.handled.store(true, Ordering::Relaxed);
            ctx.came_by(*connection, &session.req_header().headers);
        }
    }

    /// Called when a request has been answered and its connection is kept. What is persisted is the connection's own
    /// affair; it is told here how much of what came was this request.
    fn persist_connection_context(
        &self,
        session: &Session,
        ctx: &Context,
    ) -> Option<Box<dyn Any + Send + Sync>> {
        if let Some(signals) = ctx.signals.as_ref().filter(|_| !session.is_http2()) {
            signals.taken.fetch_add(entry::length(session), Ordering::Relaxed);
        }
        None
    }

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<()> {
        // What comes by HTTP/2 brings it along: there it is no connection that is taken up again.
        if let Some(connection) = session.req_header_mut().extensions_mut().remove::<OnConnection>() {
            ctx.request_id = self.ids.of(&session.req_header().headers);
            ctx.came_by(connection, &session.req_header().headers);
        }
        // Each request that is read sets the timeout back to none.
        if session.downstream_session.get_keepalive().is_some() {
            let idle = ctx.site.plan.config.server.keepalive.as_secs().max(1);
            session.downstream_session.set_keepalive(Some(idle));
        }
        // RFC 9110, 15.2: HTTP/1.0 knows none, and would take one for the answer.
        if session.req_header().version < Version::HTTP_11 {
            session.downstream_session.set_ignore_info_resp(true);
        }
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        match self.handle(session, ctx).await? {
            Next::Answered => Ok(true),
            Next::Proxy if direct::fits(session, ctx) => {
                Box::pin(self.proxy_directly(session, ctx)).await.map(|()| true)
            }
            Next::Proxy => Ok(false),
        }
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        if end {
            ctx.wants_body(false);
        }
        ctx.body_seen += body.as_ref().map_or(0, |b| b.len() as u64);
        match ctx.routed() {
            // An upgraded connection has no body: its bytes have no end.
            Some(route) if ctx.body_seen > route.max_body && !session.was_upgraded() => {
                self.parts.metrics.rejected(RejectReason::BodyTooLarge);
                Error::e_explain(ErrorType::HTTPStatus(413), "the request body is too large")
            }
            _ if ctx.seeking.is_late() => Err(upstream::late()),
            _ if session.is_http2() && !end && ctx.drips() => {
                ctx.dripped = Some(CutReason::BodyRate);
                self.parts.metrics.connection_cut(CutReason::BodyRate);
                Error::e_explain(ErrorType::HTTPStatus(408), "the request body comes too slowly")
            }
            _ => Ok(()),
        }
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        self.peer(session, ctx).await
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        forward::dress(request, session.req_header().version, ctx);
        if let Some(upstream) = ctx.upstream.as_ref().filter(|_| !request.headers.contains_key(header::HOST))
        {
            // HTTP/1.0 need not say it, HTTP/1.1 has to.
            request.insert_header(header::HOST, upstream.pool.authority(upstream.server))?;
        }
        websocket::move_token(request, ctx)?;
        dress::proxied(session.req_header(), request, ctx);
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        self.answer_passes(session, head, ctx)
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Context,
    ) -> Result<Option<Duration>> {
        self.hear(body.as_ref(), end, ctx)?;
        self.body_passes(body, end, ctx)
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        self.not_connected(ctx, &mut error);
        error
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Context,
        client_reused: bool,
    ) -> Box<Error> {
        let mut error = error.more_context(format!("peer: {peer}"));
        self.broke(session, ctx, &mut error, client_reused);
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        let cut = ctx.was_cut();
        ctx.detail = cut.map(CutReason::as_str).or(ctx.detail);
        let status = match (error.etype(), error.esource()) {
            _ if matches!(cut, Some(CutReason::BodyTimeout | CutReason::BodyRate)) => 408,
            (ErrorType::HTTPStatus(code), _) => *code,
            (
                ErrorType::ConnectionClosed
                | ErrorType::ReadError
                | ErrorType::WriteError
                | ErrorType::H2Error,
                source,
            ) if *source == pingora_core::ErrorSource::Downstream => {
                ctx.detail = ctx.detail.or(Some("client-left"));
                return FailToProxy { error_code: 0, can_reuse_downstream: false };
            }
            (_, source) if *source == pingora_core::ErrorSource::Downstream => 400,
            (etype, source) if *source == pingora_core::ErrorSource::Upstream => match client::blame(error) {
                OriginOutcome::Timeout => 504,
                _ => {
                    tracing::debug!(?etype, "the origin failed");
                    502
                }
            },
            _ => 500,
        };
        let started = session.response_written().is_some_and(|head| !head.status.is_informational());
        if !started {
            self.answer_failure(session, ctx, status).await;
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    /// The last phase, and the only one after the exchange with an origin: here goes what that ordered.
    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        if let Some(ordered) = ctx.passing.take_order().filter(|_| error.is_none()) {
            // The exchange is over: what was ordered may need its place.
            ctx.upstream = None;
            Box::pin(self.carry_out(session, ctx, ordered)).await;
        }
        let status = session.response_written().map_or(0, |head| head.status.as_u16());
        let tunnelled = ctx.signals.as_ref().map_or(0, |signals| signals.sent.swap(0, Ordering::Relaxed));
        let bytes = session.body_bytes_sent() as u64 + tunnelled;
        if let Some(error) = error.filter(|_| status >= 500 || status == 0) {
            tracing::debug!(%error, "a request failed");
        }
        let duration = ctx.began.elapsed();
        let metrics = ctx.at_hand().map_or(&ctx.site.unrouted, |at_hand| &at_hand.metrics);
        metrics.record(ctx.result, status, duration, bytes);
        if self.parts.access.is_on() {
            self.record(session, ctx, status, bytes, duration);
        }
    }

    /// Pingora's own lines would show the query, and with it a token: what happened is in the access record.
    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Context, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }

    fn request_summary(&self, session: &Session, ctx: &Context) -> String {
        let request = session.req_header();
        format!("{} {} {}", request.method, request.uri.path(), ctx.id())
    }
}

impl Gateway {
    /// The head of an origin's answer on its way to the client.
    pub(super) fn answer_passes(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        if self.interim_passes(session, head, ctx)? {
            forward::remove_orders(head);
            return Ok(());
        }
        self.heed(session, head, ctx);
        if self.takes_order(session, head, ctx) {
            return Ok(());
        }
        for name in forward::undress(&head.headers) {
            head.remove_header(&name);
        }
        self.head_passes(session, head, ctx)?;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            self.switch(session, head, ctx)?;
        }
        if session.req_header().version == Version::HTTP_10 && head.headers.contains_key(TRANSFER_ENCODING) {
            // A client of old knows no chunks: the end of the connection is the end of the body.
            head.remove_header(&TRANSFER_ENCODING);
            session.downstream_session.set_keepalive(None);
        }
        if head.version < Version::HTTP_11 {
            // RFC 9110, 6.2: who passes a message on speaks a version of its own.
            head.set_version(Version::HTTP_11);
        }
        let status = cached::forwarded(ctx);
        self.mark(head, ctx, &status)?;
        upstream::set_cookie(head, ctx)?;
        dress::answer(session.req_header(), head, ctx);
        Ok(())
    }

    /// The answer to a request that could not be proxied. The connection ends after it.
    async fn answer_failure(&self, session: &mut Session, ctx: &mut Context, status: u16) {
        ctx.result = if status < 500 { CacheResult::Local } else { CacheResult::Error };
        let problem = match status {
            502..=504 if ctx.seeking.refused.is_some() => {
                refusal::no_answer(ctx.seeking.refused.unwrap_or(FetchError::Unreachable))
            }
            408 => Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
            413 => refusal::problem(RejectReason::BodyTooLarge),
            400..=499 => refusal::problem(RejectReason::BadRequest),
            502 => refusal::no_answer(FetchError::Unreachable),
            503 => refusal::no_answer(FetchError::BreakerOpen),
            504 => refusal::no_answer(FetchError::Timeout),
            _ => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the gateway failed"),
        };
        ctx.detail = ctx.detail.or(Some(match status {
            413 => RejectReason::BodyTooLarge.as_str(),
            400..=499 => RejectReason::BadRequest.as_str(),
            _ => "origin-failed",
        }));
        session.downstream_session.set_keepalive(None);
        if let Err(error) = self.send_problem(session, ctx, problem).await {
            tracing::debug!(%error, "the client left before it was told");
        }
    }

    fn record(&self, session: &Session, ctx: &Context, status: u16, bytes: u64, duration: Duration) {
        let request = session.req_header();
        self.parts.access.record(&Record {
            began: ctx.began,
            duration,
            request_id: ctx.request_id.as_bytes(),
            client: ctx.client.address,
            method: request.method.as_str(),
            host: host(request).unwrap_or_default().as_bytes(),
            path: request.uri.path().as_bytes(),
            version: request.version,
            status,
            bytes,
            route: ctx.routed().map(|route| route.name.as_str()),
            tenant: ctx.identity.as_ref().map(|identity| identity.tenant.as_str()),
            result: ctx.result,
            detail: ctx.detail,
            origin: ctx.origin_time,
        });
    }
}
