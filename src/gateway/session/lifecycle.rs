//! The steps of a request that don't depend on the session: shared code, and requests served without
//! Pingora's session.
//!
//! Pingora's phases ([`super::proxied`]) and the gateway's own path ([`Gateway::serve`]) share this code: the
//! handling of an origin's head, the answer on a failure, and the access record at the end of a request.

use super::{ClientWriter, ConnectionFate, GatewaySession, NativeSession};
use crate::{
    cache::OriginFetchError,
    config::RouteConfig,
    gateway::{
        cache::versioned,
        context::request_host,
        headers::{rules, to_origin},
        proxy::{native, upstream},
        respond::errors,
        ConnectionInfo, FastRequest, Gateway, NextStep, RequestContext, Result, RuntimeConfig,
    },
    origin::{client, OriginTable},
    representation::problem::ProblemReply,
    route::RouteMatch,
    telemetry::{
        access::record::AccessRecord,
        labels::{CacheResult, CutReason, OriginOutcome, RejectReason},
    },
};

use bytes::Bytes;
use http::{
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version,
};
use pingora_core::{Error, ErrorSource, ErrorType};
use pingora_http::{RequestHeader, ResponseHeader};
use std::{
    sync::{atomic::Ordering, Arc},
    time::Duration,
};

/// A request that the gateway serves by itself: see [`Gateway::serve`].
pub struct NativeRequest {
    /// Its head.
    pub(crate) head: Box<RequestHeader>,
    /// The runtime configuration that applies to it.
    pub(crate) site: Arc<RuntimeConfig>,
}

/// The number of fields that may be added to a request.
const SPARE_FIELDS: usize = 2;

/// Returns true if requests without a body can be served on a route without Pingora: the origin is asked over
/// the gateway's own connections, and the target holds no token that would have to be moved.
pub(crate) fn is_native_route(route: &RouteConfig, origins: &OriginTable) -> bool {
    !route.token_query && route.target.origin().is_none_or(|origin| origins.pool(origin).is_plain())
}

impl NativeRequest {
    /// Builds a request from what the prepared lane has read in `bytes`, if the gateway can serve it without
    /// Pingora.
    pub(crate) fn of(asked: &FastRequest<'_>, bytes: &[u8], site: &Arc<RuntimeConfig>) -> Option<Self> {
        let method = if asked.is_head { Method::HEAD } else { Method::GET };
        let is_own = match site.routes.find_plain(Some(asked.host), asked.path, &method) {
            RouteMatch::Found(index) => site.per_route.get(index)?.own,
            RouteMatch::NotFound | RouteMatch::MethodNotAllowed(_) | RouteMatch::Ambiguous => true,
        };
        if !is_own {
            return None;
        }
        let (mut head, ()) = http::Request::new(()).into_parts();
        // Values that are kept share this buffer.
        let kept = Bytes::copy_from_slice(bytes);
        let part = |text: &[u8]| {
            let at = (text.as_ptr() as usize).checked_sub(bytes.as_ptr() as usize)?;
            (at.checked_add(text.len())? <= kept.len()).then(|| kept.slice(at..at + text.len()))
        };
        head.method = method;
        head.uri = Uri::from_maybe_shared(part(asked.target.as_bytes())?).ok()?;
        head.headers = HeaderMap::with_capacity(asked.fields.len() + SPARE_FIELDS);
        for field in asked.fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            head.headers.try_append(name, HeaderValue::from_maybe_shared(part(field.value)?).ok()?).ok()?;
        }
        Some(Self { head: Box::new(head.into()), site: Arc::clone(site) })
    }
}

impl Gateway {
    /// Serves an HTTP/1.1 request without a body, without Pingora.
    pub async fn serve(
        &self,
        client: &mut dyn ClientWriter,
        request: NativeRequest,
        connection: ConnectionInfo,
    ) -> ConnectionFate {
        let NativeRequest { head, site } = request;
        let mut ctx = RequestContext::new(site);
        ctx.request_id = self.ids.of(&head.headers);
        connection.signals.handled.store(true, Ordering::Relaxed);
        ctx.set_connection(connection, &head.headers);
        let mut session = GatewaySession::Native(NativeSession::new(client, head));
        let served = match self.handle(&mut session, &mut ctx).await {
            Ok(NextStep::Answered) => Ok(()),
            Ok(NextStep::Proxy) if native::takes_native_path(&mut session, &ctx) => {
                Box::pin(self.proxy_directly(&mut session, &mut ctx)).await
            }
            // The prepared lane passes no request that needs Pingora.
            Ok(NextStep::Proxy) => Error::e_explain(ErrorType::InternalError, "a request that needs Pingora"),
            Err(error) => Err(error),
        };
        let error = served.err();
        if let Some(error) = &error {
            Box::pin(self.failed(&mut session, error, &mut ctx)).await;
        }
        self.end(&mut session, error.as_deref(), &mut ctx).await;
        let GatewaySession::Native(own) = session else { return ConnectionFate::Broken };
        let after = own.finish().await;
        match error {
            None => after,
            Some(_) => after.max(ConnectionFate::Ended),
        }
    }

    /// Handles a request that failed: sends an error to the client if that is still possible. Returns the
    /// status for the access record; 0 if the client has left.
    pub(crate) async fn failed(
        &self,
        session: &mut GatewaySession<'_>,
        error: &Error,
        ctx: &mut RequestContext,
    ) -> u16 {
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
            ) if *source == ErrorSource::Downstream => {
                ctx.detail = ctx.detail.or(Some("client-left"));
                return 0;
            }
            (_, source) if *source == ErrorSource::Downstream => 400,
            (etype, source) if *source == ErrorSource::Upstream => match client::classify_error(error) {
                OriginOutcome::Timeout => 504,
                _ => {
                    tracing::debug!(?etype, "the origin failed");
                    502
                }
            },
            _ => 500,
        };
        let started = session.answered().is_some_and(|status| !status.is_informational());
        if !started {
            let malformed = *error.esource() == ErrorSource::Upstream && client::is_malformed(error);
            self.answer_failure(session, ctx, status, malformed).await;
        }
        status
    }

    /// Ends a request after the exchange with an origin, or without one: sends a file that the origin
    /// ordered, and writes the access record.
    pub(crate) async fn end(
        &self,
        session: &mut GatewaySession<'_>,
        error: Option<&Error>,
        ctx: &mut RequestContext,
    ) {
        if let Some(ordered) = ctx.passing.take_order().filter(|_| error.is_none()) {
            // Releases the server's place: the ordered request may need it.
            ctx.upstream = None;
            Box::pin(self.carry_out(session, ctx, ordered)).await;
        }
        let status = session.answered().map_or(0, |status| status.as_u16());
        let tunnelled = ctx.signals.as_ref().map_or(0, |signals| signals.sent.swap(0, Ordering::Relaxed));
        let bytes = session.body_bytes_sent() + tunnelled;
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

    /// Processes the head of an origin's answer before it is sent to the client.
    pub(crate) fn pass_answer(
        &self,
        session: &mut GatewaySession<'_>,
        head: &mut ResponseHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        if self.on_interim_response(session, head, ctx)? {
            to_origin::strip_accel_fields(head);
            return Ok(());
        }
        self.heed(session, head, ctx);
        self.head_is_read(session.req_header(), head, ctx)?;
        if self.takes_order(session, head, ctx) {
            return Ok(());
        }
        for name in to_origin::hop_by_hop_names(&head.headers) {
            head.remove_header(&name);
        }
        self.on_response_header(session, head, ctx)?;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            self.switch(session, head, ctx)?;
        }
        if session.req_header().version == Version::HTTP_10 {
            // HTTP/1.0 has no chunks: a body without a length ends with the connection.
            head.remove_header(&TRANSFER_ENCODING);
            if !head.headers.contains_key(CONTENT_LENGTH) {
                session.ends_connection();
            }
        }
        if head.version < Version::HTTP_11 {
            // RFC 9110, 6.2: an intermediary sends its own version.
            head.set_version(Version::HTTP_11);
        }
        self.mark(head, ctx, versioned::forwarded_status(ctx))?;
        upstream::set_sticky_cookie(head, ctx)?;
        rules::apply_answer_rules(session.req_header(), head, ctx);
        Ok(())
    }

    /// Sends the answer to a request that could not be proxied. The connection is closed after it.
    async fn answer_failure(
        &self,
        session: &mut GatewaySession<'_>,
        ctx: &mut RequestContext,
        status: u16,
        malformed: bool,
    ) {
        ctx.result = if status < 500 { CacheResult::Local } else { CacheResult::Error };
        let why = match status {
            502..=504 if ctx.seeking.refused.is_some() => ctx.seeking.refused,
            502 if malformed => Some(OriginFetchError::Malformed),
            502 => Some(OriginFetchError::Unreachable),
            503 => Some(OriginFetchError::BreakerOpen),
            504 => Some(OriginFetchError::Timeout),
            _ => None,
        };
        let problem = match status {
            _ if why.is_some() => errors::fetch_problem(why.unwrap_or(OriginFetchError::Unreachable)),
            408 => ProblemReply::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
            413 => errors::rejection_problem(RejectReason::BodyTooLarge),
            400..=499 => errors::rejection_problem(RejectReason::BadRequest),
            _ => ProblemReply::new(StatusCode::INTERNAL_SERVER_ERROR, "the gateway failed"),
        };
        ctx.detail = match why {
            // The failure replaces an earlier detail.
            Some(error) => Some(errors::error_name(error)),
            None => ctx.detail.or(Some(match status {
                413 => RejectReason::BodyTooLarge.as_str(),
                400..=499 => RejectReason::BadRequest.as_str(),
                _ => "gateway-failed",
            })),
        };
        session.ends_connection();
        if let Err(error) = self.send_problem(session, ctx, problem).await {
            tracing::debug!(%error, "the client closed the connection before its error answer");
        }
        session.close().await;
    }

    fn record(
        &self,
        session: &GatewaySession<'_>,
        ctx: &RequestContext,
        status: u16,
        bytes: u64,
        duration: Duration,
    ) {
        let request = session.req_header();
        self.parts.access.record(&AccessRecord {
            began: ctx.began,
            duration,
            request_id: ctx.request_id.as_bytes(),
            client: ctx.client.address,
            method: request.method.as_str(),
            host: request_host(request).unwrap_or_default().as_bytes(),
            path: request.uri.path().as_bytes(),
            version: request.version,
            status,
            bytes,
            route: ctx.routed().map(|route| route.name.as_str()),
            tenant: ctx.identity.as_ref().and_then(|identity| Some(identity.tenant.as_ref()?.as_str())),
            result: ctx.result,
            detail: ctx.detail,
            origin: ctx.origin_time,
        });
    }
}
