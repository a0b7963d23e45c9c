//! The fields that the gateway adds to answers, stored or not: `Cache-Status`, rate limits, HSTS, the request
//! id, `Via`, `Age`.

use crate::{
    gateway::{
        cache::prepared::head::{write_decimal, MAX_DIGITS},
        context::RequestContext,
        headers::rules,
        runtime_config::RouteMode,
    },
    headers::vary_by,
    http::{
        cache_status::{CacheStatus, CACHE_STATUS},
        names::REQUEST_ID,
        via::via_value,
    },
    limits::fields::{RATE_LIMIT, RATE_LIMIT_POLICY},
};

use http::{header, HeaderName, HeaderValue, Version};
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};

/// RFC 7240
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Adds the fields that every answer has.
pub(crate) fn set_gateway_headers(
    head: &mut ResponseHeader,
    ctx: &RequestContext,
    cache_status: CacheStatus,
) -> Result<()> {
    // Each cache on the way appends a member (RFC 9211, 2).
    head.append_header(CACHE_STATUS, cache_status.value())?;
    set_limit_fields(head, ctx)?;
    if ctx.routed().is_some_and(|route| route.live.is_some()) {
        // A cache on the way must not answer a request for a stream with this.
        vary_by(head, "Accept");
    }
    if let Some(hsts) = ctx.entry.as_ref().and_then(|entry| entry.hsts.as_ref()) {
        head.insert_header(header::STRICT_TRANSPORT_SECURITY, hsts.clone())?;
    }
    head.insert_header(REQUEST_ID, ctx.request_id.clone())
}

/// Adds `Via` to an answer of a route that follows its origin (RFC 9110, 7.6.3); on a route with a namespace
/// the gateway counts as the origin.
pub(crate) fn append_via(head: &mut ResponseHeader, ctx: &RequestContext) -> Result<()> {
    match ctx.at_hand().map(|at_hand| &at_hand.mode) {
        Some(RouteMode::Follow(_)) => head.append_header(header::VIA, via_value(Version::HTTP_11)).map(drop),
        _ => Ok(()),
    }
}

/// Sets the `Age` of a stored answer.
pub(crate) fn set_age(head: &mut ResponseHeader, age_ms: u64) -> Result<()> {
    let mut digits = [0; MAX_DIGITS];
    // Digits are a valid value.
    let age = HeaderValue::from_bytes(write_decimal(age_ms / 1_000, &mut digits));
    head.insert_header(header::AGE, age.unwrap_or(HeaderValue::from_static("0")))
}

/// Completes the head of an answer; the prepared lane uses it for its heads as well.
pub(crate) fn complete_head(
    head: &mut ResponseHeader,
    request: &RequestHeader,
    ctx: &RequestContext,
    status: CacheStatus,
) -> Result<()> {
    set_gateway_headers(head, ctx, status)?;
    append_via(head, ctx)?;
    if let Some(wait) = ctx.waited {
        // It is the answer to this request alone.
        head.insert_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))?;
        head.insert_header(PREFERENCE_APPLIED, format!("wait={}", wait.as_secs()))?;
    }
    rules::apply_answer_rules(request, head, ctx);
    Ok(())
}

/// Sets the rate limit fields of an answer. Such fields in an answer from the cache were for another client
/// and are replaced; those of an origin that was just asked are kept.
fn set_limit_fields(head: &mut ResponseHeader, ctx: &RequestContext) -> Result<()> {
    let limits = ctx.at_hand().and_then(|at_hand| at_hand.limits.as_ref());
    let Some(limits) = limits.filter(|_| !ctx.taken.is_empty()) else { return Ok(()) };
    let (policy, left) = (limits.policy().clone(), limits.left(&ctx.taken));
    if ctx.upstream.is_none() {
        head.insert_header(RATE_LIMIT_POLICY, policy)?;
        return head.insert_header(RATE_LIMIT, left);
    }
    head.append_header(RATE_LIMIT_POLICY, policy)?;
    head.append_header(RATE_LIMIT, left).map(drop)
}
