//! The life of a request in the native lane, from its head to its access record, and the ends that it shares
//! with Pingora's lane: the answer to a request that failed, and the record.

use crate::{
    cache::OriginFetchError,
    gateway::{
        context::{connection::ConnectionInfo, request_host, RequestContext},
        live::stream::LiveStream,
        pipeline::handle_request,
        proxy::{
            native::{self, proxy_directly},
            response::carry_out_order,
        },
        respond::{errors, send_problem},
        services::{GatewayServices, NextStep},
        session::{
            native_request::NativeRequest, ClientWriter, ConnectionFate, GatewaySession, NativeSession,
        },
        Gateway,
    },
    origin::client,
    representation::problem::ProblemReply,
    telemetry::{
        access::record::AccessRecord,
        labels::{CacheResult, CutReason, OriginOutcome, RejectReason},
    },
};

use http::StatusCode;
use pingora_core::{Error, ErrorSource, ErrorType};
use std::{sync::atomic::Ordering, time::Duration};

/// What is left of a request that was served.
pub enum ServedRequest {
    /// The state of its connection.
    Done(ConnectionFate),
    /// A stream, whose head has been sent: the connection runs it.
    Stream(Box<LiveStream>),
}

impl Gateway {
    /// Serves an HTTP/1.1 request without a body, without Pingora.
    pub async fn serve(
        &self,
        client: &mut dyn ClientWriter,
        request: NativeRequest,
        connection: ConnectionInfo,
    ) -> ServedRequest {
        let NativeRequest { head, site } = request;
        let mut ctx = RequestContext::new(site);
        ctx.request_id = self.services.ids.of(&head.headers);
        connection.signals.handled.store(true, Ordering::Relaxed);
        ctx.set_connection(connection, &head.headers);
        let mut session = GatewaySession::Native(NativeSession::new(client, head));
        let served = match handle_request(&self.services, &mut session, &mut ctx).await {
            Ok(NextStep::Answered) => Ok(()),
            Ok(NextStep::Stream(stream)) => return ServedRequest::Stream(stream),
            Ok(NextStep::Proxy) if native::takes_native_path(&mut session, &ctx) => {
                Box::pin(proxy_directly(&self.services, &mut session, &mut ctx)).await
            }
            // The prepared lane passes no request that needs Pingora.
            Ok(NextStep::Proxy) => Error::e_explain(ErrorType::InternalError, "a request that needs Pingora"),
            Err(error) => Err(error),
        };
        let error = served.err();
        if let Some(error) = &error {
            Box::pin(fail_request(&mut session, error, &mut ctx)).await;
        }
        end_request(&self.services, &mut session, error.as_deref(), &mut ctx).await;
        let GatewaySession::Native(own) = session else { return ServedRequest::Done(ConnectionFate::Broken) };
        let after = own.finish().await;
        ServedRequest::Done(match error {
            None => after,
            Some(_) => after.max(ConnectionFate::Ended),
        })
    }
}

/// Handles a request that failed: sends an error to the client if that is still possible. Returns the
/// status for the access record; 0 if the client has left.
pub(crate) async fn fail_request(
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
            ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError | ErrorType::H2Error,
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
        answer_failure(session, ctx, status, malformed).await;
    }
    status
}

/// Ends a request after the exchange with an origin, or without one: sends a file that the origin
/// ordered, and writes the access record.
pub(crate) async fn end_request(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    error: Option<&Error>,
    ctx: &mut RequestContext,
) {
    if let Some(ordered) = ctx.passing.take_order().filter(|_| error.is_none()) {
        // Releases the server's place: the ordered request may need it.
        ctx.upstream = None;
        Box::pin(carry_out_order(services, session, ctx, ordered)).await;
    }
    let status = session.answered().map_or(0, |status| status.as_u16());
    if ctx.is_stream {
        return;
    }
    let tunnelled = ctx.signals.as_ref().map_or(0, |signals| signals.sent.swap(0, Ordering::Relaxed));
    let bytes = session.body_bytes_sent() + tunnelled;
    if let Some(error) = error.filter(|_| status >= 500 || status == 0) {
        tracing::debug!(%error, "a request failed");
    }
    let duration = ctx.began.elapsed();
    let metrics = ctx.at_hand().map_or(&ctx.site.unrouted, |at_hand| &at_hand.metrics);
    // These last as long as their client likes.
    let is_open_ended = ctx.waited.is_some() || status == StatusCode::SWITCHING_PROTOCOLS.as_u16();
    match is_open_ended {
        true => metrics.record_stream(ctx.result, status, bytes),
        false => metrics.record(ctx.result, status, duration, bytes),
    }
    if services.access.is_on() {
        record_access(services, session, ctx, status, bytes, duration);
    }
}

/// Sends the answer to a request that could not be proxied. The connection is closed after it.
async fn answer_failure(
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
    if let Err(error) = send_problem(session, ctx, problem).await {
        tracing::debug!(%error, "the client closed the connection before its error answer");
    }
    session.close().await;
}

fn record_access(
    services: &GatewayServices,
    session: &GatewaySession<'_>,
    ctx: &RequestContext,
    status: u16,
    bytes: u64,
    duration: Duration,
) {
    let request = session.req_header();
    services.access.record(&AccessRecord {
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
