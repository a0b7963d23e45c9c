//! Requests that are decided before routing and authentication: preflights and `OPTIONS *`, which are
//! answered here, and signed URLs.

use super::{cached::text, dress, refusal, session::Session, Context, Gateway, Next, Result};
use crate::{
    clock::wall_ms,
    cors::{self, Preflight},
    representation::Body,
    route::Match,
    signed::{self, Refusal},
    telemetry::labels::{CacheResult, RejectReason},
};
use http::{header, uri::PathAndQuery, StatusCode, Uri};
use pingora_http::{RequestHeader, ResponseHeader};

/// The route that a preflight is for: the one that matches the requested method, if it has `cors`.
pub(super) fn preflighted(request: &RequestHeader, ctx: &Context) -> Option<usize> {
    let method = cors::preflighted(&request.method, &request.headers)?;
    match ctx.find_route(request, &method) {
        Match::Found(index) => ctx.site.plan.config.routes[index].cors.is_some().then_some(index),
        Match::MethodNotAllowed(_) | Match::NotFound | Match::Ambiguous => None,
    }
}

/// Verifies a signed URL, and removes the signature from the request: later steps and the origin don't see
/// it.
pub(super) fn verify_link(
    request: &mut RequestHeader,
    ctx: &Context,
) -> std::result::Result<(), RejectReason> {
    let Some(secrets) = ctx.routed().and_then(|route| route.signed.as_ref()) else { return Ok(()) };
    let target = request.uri.path_and_query().map_or("", PathAndQuery::as_str);
    // With a clock before 1970 no signature is expired.
    let now = wall_ms() / 1_000;
    let bare = signed::verify(secrets, target, now).map_err(|refusal| match refusal {
        Refusal::Signature => RejectReason::Signature,
        Refusal::Expired => RejectReason::Expired,
    })?;
    let mut parts = request.uri.clone().into_parts();
    parts.path_and_query = bare.parse().ok();
    let uri = Uri::from_parts(parts).map_err(|_| RejectReason::BadRequest)?;
    request.set_uri(uri);
    Ok(())
}

impl Gateway {
    /// Answers a preflight for the route with this index.
    pub(super) async fn answer_preflight(
        &self,
        session: &mut Session<'_>,
        ctx: &mut Context,
        index: usize,
    ) -> Result<Next> {
        ctx.route = Some(index);
        let site = ctx.site.clone();
        let Some(cors) = &site.plan.config.routes[index].cors else { return Ok(Next::Proxy) };
        let fields = match cors::preflight(cors, &session.req_header().headers) {
            Preflight::Allowed(fields) => fields,
            Preflight::Refused => {
                let reason = RejectReason::Preflight;
                let problem = refusal::problem(reason).with(header::VARY, cors::PREFLIGHT_VARIES);
                return self.refuse_with(session, ctx, reason, problem).await;
            }
        };
        (ctx.result, ctx.detail) = (CacheResult::Local, Some(RejectReason::Preflight.as_str()));
        let mut head = Box::new(ResponseHeader::build(StatusCode::NO_CONTENT, Some(12))?);
        for (name, value) in fields {
            head.append_header(name, value)?;
        }
        self.mark(&mut head, ctx, &text(format!("tidegate; detail={}", RejectReason::Preflight)))?;
        dress::rules_for_answer(session.req_header(), &mut head, ctx);
        self.send(session, head, Body::new()).await
    }

    /// Answers `OPTIONS *`, which asks for the capabilities of the server (RFC 9110, 9.3.7).
    pub(super) async fn answer_of_server(
        &self,
        session: &mut Session<'_>,
        ctx: &mut Context,
    ) -> Result<Next> {
        (ctx.result, ctx.detail) = (CacheResult::Local, Some("options"));
        let mut head = Box::new(ResponseHeader::build(StatusCode::NO_CONTENT, Some(5))?);
        head.insert_header(header::ALLOW, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")?;
        self.mark(&mut head, ctx, &text("tidegate; detail=options".to_owned()))?;
        self.send(session, head, Body::new()).await
    }
}
