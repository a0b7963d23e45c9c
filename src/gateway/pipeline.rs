//! The order of the steps of a request, in every lane but the prepared one.

use crate::{
    gateway::{
        cache::{origin_driven::answer_followed, versioned::answer_cached},
        context::RequestContext,
        live::{answer_live, endpoint::answer_endpoint, keep_eagerly, script::answer_script, wish::LiveWish},
        proxy::upstream,
        request::{
            auth::admit,
            event::take_event,
            listener::{self, apply_listener_verdict},
            min_version::read_min_version,
            normalize,
            preflight::{self, answer_preflight, answer_server_options},
            rate_limit::{refuse_limited, within_limits},
            untrusted_fields,
        },
        respond::{errors, files::answer_file, refuse_request, refuse_with_problem},
        runtime_config::{EndpointPart, RouteMode},
        services::{GatewayServices, NextStep},
        session::GatewaySession,
    },
    http::canonical_path::CanonicalPath,
    limits::{self, rate::LimitStage},
    route::RouteMatch,
    telemetry::labels::RejectReason,
};

use http::{header, Method};
use pingora_core::Result;

/// Runs the steps of a request in order. Steps that a hit doesn't need are boxed: the future of each request
/// has room for all steps, and is moved as a whole.
pub(crate) async fn handle_request(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
) -> Result<NextStep> {
    let site = ctx.site.clone();
    if let Err(reason) = normalize::normalize_request(session.req_header_mut()) {
        return Box::pin(refuse_request(services, session, ctx, reason)).await;
    }
    untrusted_fields::drop_untrusted(session.req_header_mut(), ctx);
    let request = session.req_header();
    if let Err(reason) = limits::request::check_request(&request.uri, request.version, &request.headers) {
        return Box::pin(refuse_request(services, session, ctx, reason)).await;
    }
    if normalize::is_server_wide(request) {
        return Box::pin(answer_server_options(session, ctx)).await;
    }
    normalize::strip_root_dot(session.req_header_mut());
    let request = session.req_header();
    ctx.path = match CanonicalPath::of(request.uri.path()) {
        Ok(path) => path,
        Err(_) => return Box::pin(refuse_request(services, session, ctx, RejectReason::BadPath)).await,
    };
    if let Some(turn) = listener::listener_verdict(request, ctx) {
        return Box::pin(apply_listener_verdict(services, session, ctx, turn)).await;
    }
    if let Some(endpoint) = site.plan.events.at(ctx.path_of(request)) {
        return Box::pin(take_event(services, session, ctx, endpoint)).await;
    }
    // The signature of an event must not be bypassed by another spelling of its path, whatever a route
    // allows.
    if ctx.path.unescaped().is_some_and(|path| site.plan.events.at(path).is_some()) {
        return Box::pin(refuse_request(services, session, ctx, RejectReason::EscapedSlash)).await;
    }
    match site.endpoint(ctx.path_of(request)) {
        Some((endpoint, EndpointPart::Stream)) => {
            return Box::pin(answer_endpoint(services, session, ctx, endpoint)).await
        }
        Some((_, EndpointPart::Script)) => return Box::pin(answer_script(services, session, ctx)).await,
        None => {}
    }
    if let Some(index) = preflight::preflight_route(request, ctx) {
        return Box::pin(answer_preflight(services, session, ctx, index)).await;
    }
    let index = match ctx.find_route(request, &request.method) {
        RouteMatch::Found(index) => index,
        RouteMatch::Ambiguous => {
            return Box::pin(refuse_request(services, session, ctx, RejectReason::EscapedSlash)).await
        }
        RouteMatch::NotFound => {
            return Box::pin(refuse_request(services, session, ctx, RejectReason::NotFound)).await
        }
        RouteMatch::MethodNotAllowed(allowed) => {
            let problem = errors::method_not_allowed(allowed);
            let refused =
                refuse_with_problem(services, session, ctx, RejectReason::MethodNotAllowed, problem);
            return Box::pin(refused).await;
        }
    };
    ctx.route = Some(index);
    upstream::take_sticky_cookie(session, ctx)?;
    let (route, at_hand) = (&site.plan.config.routes[index], &site.per_route[index]);
    let (mode, limits) = (&at_hand.mode, at_hand.limits.as_ref());
    if !within_limits(services, limits, LimitStage::Anyone, session.req_header(), ctx).await {
        return Box::pin(refuse_limited(services, session, ctx)).await;
    }
    if let Err(reason) = preflight::verify_signed_url(session.req_header_mut(), ctx) {
        return Box::pin(refuse_request(services, session, ctx, reason)).await;
    }
    if let Err(reason) = admit(services, route, at_hand.token, session.req_header(), ctx).await {
        return Box::pin(refuse_request(services, session, ctx, reason)).await;
    }
    if !within_limits(services, limits, LimitStage::Identified, session.req_header(), ctx).await {
        return Box::pin(refuse_limited(services, session, ctx)).await;
    }
    if ctx.handshake.is_some() {
        // In one line, whatever else was offered.
        session.req_header_mut().insert_header(header::UPGRADE, "websocket")?;
        return Ok(NextStep::Proxy);
    }
    let reads = matches!(session.req_header().method, Method::GET | Method::HEAD);
    if reads && !ctx.min_version_lines.is_empty() {
        ctx.min_version = match read_min_version(ctx, mode) {
            Ok(minimum) => minimum,
            Err(why) => {
                let problem = errors::bad_min_version(why);
                let refused =
                    refuse_with_problem(services, session, ctx, RejectReason::BadMinVersion, problem);
                return Box::pin(refused).await;
            }
        };
    }
    if let Some(rules) = &route.live {
        let request = session.req_header();
        let wish = LiveWish::of(&request.headers).filter(|_| request.method == Method::GET);
        if let Some(wish) = wish {
            let answered = Box::pin(answer_live(services, session, ctx, (index, rules), wish)).await?;
            if let Some(done) = answered {
                return Ok(done);
            }
        }
    }
    let answered = match mode {
        RouteMode::Versioned(rules) if reads => answer_cached(services, session, ctx, route, rules).await,
        RouteMode::Follow(rules) if reads => answer_followed(services, session, ctx, route, rules).await,
        RouteMode::Versioned(_) | RouteMode::Follow(_) => {
            ctx.detail = Some("method");
            Ok(NextStep::Proxy)
        }
        RouteMode::Off => Ok(NextStep::Proxy),
        RouteMode::Files(files) => Box::pin(answer_file(services, session, ctx, files)).await,
    };
    if let Some(rules) = &route.live {
        keep_eagerly(services, session, ctx, (index, rules));
    }
    answered
}
