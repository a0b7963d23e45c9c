//! Requests that are decided before routing and authentication: preflights and `OPTIONS *`, which are
//! answered here, and signed URLs.

use crate::{
    clock::wall_ms,
    cors::{self, PreflightAnswer},
    gateway::{
        context::RequestContext,
        headers::{rules, to_client::set_gateway_headers},
        respond::{errors, refuse_with_problem, send_whole},
        services::{GatewayServices, NextStep},
        session::GatewaySession,
    },
    http::cache_status::CacheStatus,
    representation::Body,
    route::RouteMatch,
    signed::{self, SignatureRefusal},
    telemetry::labels::{CacheResult, RejectReason},
};

use http::{header, uri::PathAndQuery, StatusCode, Uri};
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};

/// The route that a preflight is for: the one that matches the requested method, if it has `cors`.
pub(crate) fn preflight_route(request: &RequestHeader, ctx: &RequestContext) -> Option<usize> {
    let method = cors::preflight_method(&request.method, &request.headers)?;
    match ctx.find_route(request, &method) {
        RouteMatch::Found(index) => ctx.site.plan.config.routes[index].cors.is_some().then_some(index),
        RouteMatch::MethodNotAllowed(_) | RouteMatch::NotFound | RouteMatch::Ambiguous => None,
    }
}

/// Verifies a signed URL, and removes the signature from the request: later steps and the origin don't see
/// it.
pub(crate) fn verify_signed_url(
    request: &mut RequestHeader,
    ctx: &RequestContext,
) -> std::result::Result<(), RejectReason> {
    let Some(secrets) = ctx.routed().and_then(|route| route.signed.as_ref()) else { return Ok(()) };
    let target = request.uri.path_and_query().map_or("", PathAndQuery::as_str);
    // With a clock before 1970 no signature is expired.
    let now = wall_ms() / 1_000;
    let bare = signed::verify_target(secrets, target, now).map_err(|refusal| match refusal {
        SignatureRefusal::Signature => RejectReason::Signature,
        SignatureRefusal::Expired => RejectReason::Expired,
    })?;
    let mut parts = request.uri.clone().into_parts();
    parts.path_and_query = bare.parse().ok();
    let uri = Uri::from_parts(parts).map_err(|_| RejectReason::BadRequest)?;
    request.set_uri(uri);
    Ok(())
}

/// Answers a preflight for the route with this index.
pub(crate) async fn answer_preflight(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    index: usize,
) -> Result<NextStep> {
    ctx.route = Some(index);
    let site = ctx.site.clone();
    let Some(cors) = &site.plan.config.routes[index].cors else { return Ok(NextStep::Proxy) };
    let fields = match cors::answer_preflight(cors, &session.req_header().headers) {
        PreflightAnswer::Allowed(fields) => fields,
        PreflightAnswer::Refused => {
            let reason = RejectReason::Preflight;
            let problem = errors::rejection_problem(reason).with(header::VARY, cors::PREFLIGHT_VARY);
            return refuse_with_problem(services, session, ctx, reason, problem).await;
        }
    };
    (ctx.result, ctx.detail) = (CacheResult::Local, Some(RejectReason::Preflight.as_str()));
    let mut head = Box::new(ResponseHeader::build(StatusCode::NO_CONTENT, Some(12))?);
    for (name, value) in fields {
        head.append_header(name, value)?;
    }
    set_gateway_headers(&mut head, ctx, CacheStatus::local(RejectReason::Preflight.as_str()))?;
    rules::apply_header_rules(session.req_header(), &mut head, ctx);
    send_whole(session, head, Body::new()).await
}

/// Answers `OPTIONS *`, which asks for the capabilities of the server (RFC 9110, 9.3.7).
pub(crate) async fn answer_server_options(
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
) -> Result<NextStep> {
    (ctx.result, ctx.detail) = (CacheResult::Local, Some("options"));
    let mut head = Box::new(ResponseHeader::build(StatusCode::NO_CONTENT, Some(5))?);
    head.insert_header(header::ALLOW, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")?;
    set_gateway_headers(&mut head, ctx, CacheStatus::local("options"))?;
    send_whole(session, head, Body::new()).await
}
