//! Pingora's phases: what is handed to it, and what is made of what it hands back.

use super::{
    cached, context::Upstream, forward, host, refusal, Context, Gateway, Next, OnConnection, Result,
};
use crate::{
    cache::FetchError,
    identity,
    origin::{client, upgrade},
    representation::problem::Problem,
    telemetry::{
        access::Record,
        labels::{CacheResult, OriginOutcome, RejectReason},
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use http::{header::TRANSFER_ENCODING, StatusCode, Version};
use pingora_core::{
    modules::http::HttpModules,
    upstreams::peer::{H1UpgradePolicy, HttpPeer},
    Error, ErrorType,
};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use std::{
    any::Any,
    net::{IpAddr, Ipv4Addr},
    sync::atomic::Ordering,
    time::{Duration, Instant, SystemTime},
};

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::new()
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
            ctx.peer = Some(connection.peer);
            ctx.signals = Some(connection.signals);
        }
    }

    async fn early_request_filter(&self, session: &mut Session, _: &mut Context) -> Result<()> {
        // Each request that is read sets the timeout back to none.
        if session.downstream_session.get_keepalive().is_some() {
            let idle = self.parts.config.server.keepalive.as_secs().max(1);
            session.downstream_session.set_keepalive(Some(idle));
        }
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        Ok(matches!(self.handle(session, ctx).await?, Next::Answered))
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        ctx.body_seen += body.as_ref().map_or(0, |b| b.len() as u64);
        match self.route(ctx) {
            // An upgraded connection has no body: its bytes have no end.
            Some(route) if ctx.body_seen > route.max_body && !session.was_upgraded() => {
                self.parts.metrics.rejected(RejectReason::BodyTooLarge);
                Error::e_explain(ErrorType::HTTPStatus(413), "the request body is too large")
            }
            _ => Ok(()),
        }
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        let Some(route) = self.route(ctx) else {
            return Error::e_explain(ErrorType::InternalError, "no route");
        };
        let pool = self.parts.origins.pool(route.origin).clone();
        let mut picked = match pool.pick() {
            Ok(picked) => picked,
            Err(nobody) => {
                let error = cached::fetch_error(&nobody.into());
                ctx.detail = Some(refusal::name_of(error));
                return Error::e_explain(
                    ErrorType::HTTPStatus(refusal::no_answer(error).status.as_u16()),
                    "nobody to ask",
                );
            }
        };
        match route.websocket {
            Some(socket) if session.is_upgrade_req() => {
                upgrade::prepare(&mut picked.peer);
                let options = &mut picked.peer.options;
                options.read_timeout = Some(socket.idle_timeout);
                session.downstream_session.set_read_timeout(Some(socket.idle_timeout));
            }
            _ => picked.peer.options.http_upstream_request_policy.h1_upgrade = H1UpgradePolicy::Deny,
        }
        // A retry sends the body once more.
        ctx.body_seen = 0;
        let retries = pool.settings.retries;
        ctx.retries.get_or_insert(retries);
        ctx.passing.sent = Some(self.parts.cache.sent());
        ctx.upstream = Some(Upstream { pool, server: picked.server, asked: Instant::now(), reported: false });
        Ok(Box::new(picked.peer))
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        forward::dress(request, ctx);
        if let Some(query) = request.uri.query().filter(|_| self.route(ctx).is_some_and(|r| r.token_query)) {
            let kept = identity::without_query_token(query);
            let path = request.uri.path();
            let target = if kept.is_empty() { path.to_owned() } else { format!("{path}?{kept}") };
            request.set_raw_path(target.as_bytes())?;
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        self.report(ctx, client::judge(head.status));
        ctx.origin_time = ctx.upstream.as_ref().map(|upstream| upstream.asked.elapsed());
        for name in forward::undress(&head.headers) {
            head.remove_header(&name);
        }
        self.head_passes(session, head, ctx)?;
        if session.req_header().version == Version::HTTP_10 && head.headers.contains_key(TRANSFER_ENCODING) {
            // A client of old knows no chunks: the end of the connection is the end of the body.
            head.remove_header(&TRANSFER_ENCODING);
            session.downstream_session.set_keepalive(None);
        }
        let status = cached::forwarded(ctx);
        self.mark(head, ctx, &status)
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Context,
    ) -> Result<Option<Duration>> {
        self.body_passes(body, end, ctx)?;
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        self.report(ctx, client::blame(&error));
        // Nothing was sent yet: any request may try another server.
        error.set_retry(self.may_retry(ctx));
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
        let idempotent = session.req_header().method.is_idempotent();
        if !idempotent || session.as_ref().retry_buffer_truncated() {
            error.set_retry(false);
        } else {
            error.retry.decide_reuse(client_reused);
        }
        if *error.esource() == pingora_core::ErrorSource::Upstream && !client_reused {
            self.report(ctx, client::blame(&error));
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        let status = match (error.etype(), error.esource()) {
            (ErrorType::HTTPStatus(code), _) => *code,
            (ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError, source)
                if *source == pingora_core::ErrorSource::Downstream =>
            {
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

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        let status = session.response_written().map_or(0, |head| head.status.as_u16());
        let bytes = session.body_bytes_sent() as u64;
        if let Some(error) = error.filter(|_| status >= 500 || status == 0) {
            tracing::debug!(%error, "a request failed");
        }
        let duration = ctx.began.elapsed();
        let metrics = ctx.route.map_or(&self.unrouted, |route| &self.per_route[route].metrics);
        metrics.record(ctx.result, status, duration.as_secs_f64(), bytes);
        if self.parts.access.is_on() {
            self.parts.access.record(self.record(session, ctx, status, bytes, duration));
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
    /// The pool learns once what became of a proxied request.
    fn report(&self, ctx: &mut Context, outcome: OriginOutcome) {
        if let Some(upstream) = ctx.upstream.as_mut().filter(|upstream| !upstream.reported) {
            upstream.reported = true;
            upstream.pool.report(upstream.server, outcome, upstream.asked);
        }
    }

    fn may_retry(&self, ctx: &mut Context) -> bool {
        let left = ctx.retries.unwrap_or(0);
        let affordable = left > 0 && ctx.upstream.as_ref().is_some_and(|upstream| upstream.pool.may_retry());
        if affordable {
            ctx.retries = Some(left - 1);
        }
        affordable
    }

    /// The answer to a request that could not be proxied. The connection ends after it.
    async fn answer_failure(&self, session: &mut Session, ctx: &mut Context, status: u16) {
        ctx.result = if status < 500 { CacheResult::Local } else { CacheResult::Error };
        let problem = match status {
            413 => refusal::problem(RejectReason::BodyTooLarge),
            400..=499 => refusal::problem(RejectReason::BadRequest),
            502 => refusal::no_answer(FetchError::Unreachable),
            503 => refusal::no_answer(FetchError::BreakerOpen),
            504 => refusal::no_answer(FetchError::Timeout),
            _ => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the gateway failed"),
        };
        ctx.detail = ctx.detail.or(Some(if status < 500 { "refused" } else { "origin-failed" }));
        session.downstream_session.set_keepalive(None);
        if let Err(error) = self.send_problem(session, ctx, problem).await {
            tracing::debug!(%error, "the client left before it was told");
        }
    }

    fn record(
        &self,
        session: &Session,
        ctx: &Context,
        status: u16,
        bytes: u64,
        duration: Duration,
    ) -> Record {
        let request = session.req_header();
        Record {
            time: SystemTime::now() - duration,
            request_id: ctx.id().to_owned(),
            client: ctx.peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip()),
            method: request.method.clone(),
            host: host(request).unwrap_or_default().to_owned(),
            path: request.uri.path().to_owned(),
            status,
            bytes,
            duration,
            route: self.route(ctx).map(|route| route.name.clone()),
            tenant: ctx.identity.as_ref().map(|identity| identity.tenant.clone()),
            result: ctx.result,
            detail: ctx.detail,
            origin: ctx.origin_time,
            version: request.version,
        }
    }
}
