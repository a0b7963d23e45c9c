//! Events: from a `POST` to the answer to its sender, and to the origin if it is to be told.

use crate::{
    cache::coherence::version::Version,
    events::{EventClaim, EventEndpoint, EventRefusal},
    gateway::{
        context::{request_host, RequestContext},
        headers::{rules, to_client::set_gateway_headers, to_origin},
        respond::{errors, refuse_with_problem, send_problem, send_whole},
        services::{GatewayServices, NextStep},
        session::GatewaySession,
    },
    http::{
        cache_status::{CacheStatus, ForwardToken},
        framing::content_length::content_length,
        names::VERSION,
    },
    name::Namespace,
    origin::{client, OriginTable},
    representation::Body,
    telemetry::labels::{CacheResult, EventResult, RejectReason},
};

use bytes::Bytes;
use http::{header, HeaderName, HeaderValue, Method, StatusCode};
use pingora_core::{ErrorType, OrErr, Result};
use pingora_http::ResponseHeader;
use std::sync::Arc;

/// Takes an event, and answers its sender.
pub(crate) async fn take_event(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    at: &EventEndpoint,
) -> Result<NextStep> {
    if session.req_header().method != Method::POST {
        let problem = errors::method_not_allowed(&[Method::POST]);
        return refuse_with_problem(services, session, ctx, RejectReason::MethodNotAllowed, problem).await;
    }
    ctx.result = CacheResult::Local;
    let events = ctx.site.plan.events.clone();
    let Some(body) = read_body(session, ctx, at.settings.max_body).await? else {
        return end_event(services, session, ctx, (EventResult::TooLarge, None)).await;
    };
    let claim = match events.take(at, &session.req_header().headers, &body).await {
        Ok(claim) => claim,
        Err(EventRefusal::Ended(EventResult::Replayed)) => {
            let present = version_field(&events.present_versions(at, &body).await);
            return end_event(services, session, ctx, (EventResult::Replayed, present)).await;
        }
        Err(EventRefusal::Ended(result)) => return end_event(services, session, ctx, (result, None)).await,
        Err(EventRefusal::Unsigned(error)) => {
            services.metrics.event(EventResult::BadSignature);
            ctx.detail = Some(error.as_str());
            return send_problem(session, ctx, errors::signature_problem(error)).await;
        }
    };
    if let Some(origin) = at.settings.forward {
        return forward_event(services, session, ctx, claim, origin, body).await;
    }
    let made = version_field(claim.made());
    let result = claim.remember().await;
    end_event(services, session, ctx, (result, made)).await
}

/// The value of `Tidegate-Version`. `None`: there are no versions.
fn version_field(versions: &[(Namespace, Version)]) -> Option<HeaderValue> {
    let members: Vec<_> =
        versions.iter().map(|(name, version)| format!("{name}={}", version.tag())).collect();
    // Names and tags are letters and digits.
    (!members.is_empty()).then(|| HeaderValue::try_from(members.join(", ")).ok()).flatten()
}

async fn end_event(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    (result, versions): (EventResult, Option<HeaderValue>),
) -> Result<NextStep> {
    services.metrics.event(result);
    ctx.detail = Some(result.as_str());
    if let Some(problem) = errors::event_problem(result) {
        return send_problem(session, ctx, problem).await;
    }
    let mut head = Box::new(ResponseHeader::build(StatusCode::NO_CONTENT, Some(8))?);
    if let Some(versions) = versions {
        head.insert_header(VERSION, versions)?;
    }
    set_gateway_headers(&mut head, ctx, CacheStatus::local("event"))?;
    rules::apply_answer_rules(session.req_header(), &mut head, ctx);
    send_whole(session, head, Body::new()).await
}

/// Forwards the verified event to the origin, and its answer to the sender. If the origin did not accept
/// the event, it is not remembered: the sender may send it again.
async fn forward_event(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    claim: EventClaim,
    origin: usize,
    body: Bytes,
) -> Result<NextStep> {
    let request = session.req_header();
    let kept = |name: &HeaderName| name.as_str().starts_with("webhook-") || *name == header::CONTENT_TYPE;
    let kept = request.headers.iter().filter(|(name, _)| kept(name)).map(|(n, v)| (n.clone(), v.clone()));
    let ask = client::OriginRequest {
        method: Method::POST,
        target: ctx.path_of(request).to_owned(),
        host: request_host(request).map(str::to_owned),
        headers: kept.chain(to_origin::gateway_fields_of(request, ctx)).collect(),
        tenant: None,
        spare: false,
        body,
    };
    let made = version_field(claim.made());
    // In a task of its own: the request to the origin completes even if the sender disconnects.
    let forwarding = tokio::spawn(send_event(ctx.site.plan.origins.clone(), origin, ask, claim));
    let forwarded = forwarding.await.or_err(ErrorType::InternalError, "an event was not forwarded")?;
    match forwarded {
        Ok((got, taken)) => {
            services.metrics.event(taken);
            if let Some(problem) = errors::event_problem(taken) {
                return send_problem(session, ctx, problem).await;
            }
            ctx.detail = Some(taken.as_str());
            let mut head = Box::new(ResponseHeader::build(got.status, Some(8))?);
            if let Some(kind) = got.headers.get(header::CONTENT_TYPE) {
                head.insert_header(header::CONTENT_TYPE, kind.clone())?;
            }
            if let Some(made) = made {
                head.insert_header(VERSION, made)?;
            }
            if got.status != StatusCode::NO_CONTENT {
                head.insert_header(header::CONTENT_LENGTH, got.body.len())?;
            }
            set_gateway_headers(&mut head, ctx, CacheStatus::forwarded(ForwardToken::Method))?;
            rules::apply_answer_rules(session.req_header(), &mut head, ctx);
            send_whole(session, head, got.body.into()).await
        }
        Err(error) => {
            tracing::warn!(%error, "an event was not forwarded");
            send_problem(session, ctx, errors::fetch_problem(errors::fetch_error(&error))).await
        }
    }
}

/// Sends the event to an origin, and marks it as received if the origin accepted it.
///
/// # Errors
/// If there was no answer.
async fn send_event(
    origins: Arc<OriginTable>,
    origin: usize,
    ask: client::OriginRequest,
    claim: EventClaim,
) -> std::result::Result<(client::WholeResponse, EventResult), client::OriginError> {
    /// The largest answer to an event that is forwarded, in bytes.
    const ANSWER: u64 = 1 << 20;
    match origins.ask(origin, &ask, ANSWER).await {
        Ok(got) if !got.status.is_server_error() => Ok((got, claim.remember().await)),
        failed => {
            claim.release().await;
            failed.map(|got| (got, EventResult::Accepted))
        }
    }
}

/// Reads the whole body; `None` if it is larger than `most` bytes.
async fn read_body(
    session: &mut GatewaySession<'_>,
    ctx: &RequestContext,
    most: u64,
) -> Result<Option<Bytes>> {
    if content_length(&session.req_header().headers).is_some_and(|length| length > most) {
        return Ok(None);
    }
    if session.req_header().headers.contains_key(header::EXPECT) {
        session.write_continue().await?;
    }
    ctx.wants_body(true);
    let mut body = Vec::new();
    while let Some(chunk) = session.read_request_body().await? {
        if (body.len() + chunk.len()) as u64 > most {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    ctx.wants_body(false);
    Ok(Some(body.into()))
}
