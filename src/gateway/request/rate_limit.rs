//! The rate limits of a route: a request is counted before it is processed, and its client is told what is
//! left.
//!
//! The decision is made in `limits::rate`. Here Redis is asked if a limit is shared. If it does not answer,
//! this node's own counters decide: a failure of Redis never causes a 5xx, and never switches a limit off.

use crate::{
    cache::redis::{RedisStore, StoreBucket},
    config::LimitBy,
    gateway::{
        context::RequestContext,
        respond::{errors, refuse_with_problem},
        services::{GatewayServices, NextStep},
        session::GatewaySession,
    },
    limits::{
        client_key::ClientKey,
        fields::QUOTA_EXCEEDED,
        rate::{self, LimitStage, LimitTake, RouteLimits, SharedLimit},
    },
    telemetry::labels::{LimitOutcome, LimitedBy, RejectReason},
};

use http::{header, HeaderValue};
use pingora_core::Result;
use pingora_http::RequestHeader;
use std::sync::Arc;

/// Counts a request against the limits of its route that apply at this stage. Returns false if one
/// refuses it.
pub(crate) async fn within_limits(
    services: &GatewayServices,
    limits: Option<&RouteLimits>,
    stage: LimitStage,
    request: &RequestHeader,
    ctx: &mut RequestContext,
) -> bool {
    let Some(limits) = limits else { return true };
    let before = ctx.taken.len();
    let now = rate::limit_clock(services.began, ctx.began);
    let mut taken = std::mem::take(&mut ctx.taken);
    let driven_out = limits.take(stage, &client_key(request, ctx), now, &mut taken);
    if driven_out > 0 {
        services.metrics.limit_drove_out(driven_out);
    }
    let shared = limits.shared(stage, &taken);
    if let Some(redis) = services.cache.redis().filter(|_| !shared.is_empty()) {
        Box::pin(ask_store(services, redis, limits, &shared, now, &mut taken)).await;
    }
    count_taken(services, limits, &taken[before..]);
    ctx.taken = taken;
    !rate::any_refuses(&ctx.taken)
}

/// Counts a request in Redis, where the requests of the other nodes are counted as well.
async fn ask_store(
    services: &GatewayServices,
    redis: &Arc<RedisStore>,
    limits: &RouteLimits,
    shared: &[(usize, SharedLimit<'_>)],
    now: u64,
    taken: &mut [LimitTake],
) {
    let whose: Vec<String> = shared.iter().map(|(_, shared)| shared.who.digits()).collect();
    let mut buckets = Vec::with_capacity(shared.len());
    for ((_, shared), whose) in shared.iter().zip(&whose) {
        let (interval, capacity) = (shared.rate.interval(), shared.rate.capacity());
        buckets.push(StoreBucket { route: shared.route, limit: shared.limit, whose, interval, capacity });
    }
    match redis.take(&buckets).await {
        Ok(told) => {
            let told: Vec<_> =
                shared.iter().zip(told).map(|((place, _), (passed, busy))| (*place, passed, busy)).collect();
            limits.told(&told, now, taken);
        }
        Err(_) => services.metrics.limit_decided_alone(),
    }
}

fn count_taken(services: &GatewayServices, limits: &RouteLimits, taken: &[LimitTake]) {
    for taken in taken {
        let outcome = if taken.standing.passed { LimitOutcome::Passed } else { LimitOutcome::Refused };
        services.metrics.limit_checked(limit_label(limits.by(taken)), outcome);
    }
}

/// Sends the answer to a request that a limit refuses (RFC 6585, 4).
pub(crate) async fn refuse_limited(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
) -> Result<NextStep> {
    let mut problem = errors::rejection_problem(RejectReason::RateLimited)
        .with(header::RETRY_AFTER, HeaderValue::from(rate::retry_after_seconds(&ctx.taken)));
    if let Some(limits) = ctx.at_hand().and_then(|at_hand| at_hand.limits.as_ref()) {
        let names: Vec<&str> = limits.refusing(&ctx.taken).map(|name| name.as_str()).collect();
        problem = problem.with_member("type", QUOTA_EXCEEDED).with_member("violated-policies", names);
    }
    refuse_with_problem(services, session, ctx, RejectReason::RateLimited, problem).await
}

fn client_key<'r>(request: &'r RequestHeader, ctx: &'r RequestContext) -> ClientKey<'r> {
    let identity = ctx.identity.as_deref();
    ClientKey {
        address: ctx.client.address,
        tenant: identity.and_then(|identity| Some(identity.tenant.as_ref()?.as_str())),
        user: identity.and_then(|identity| identity.user.as_deref()),
        headers: &request.headers,
        query: request.uri.query().unwrap_or_default(),
    }
}

fn limit_label(by: &LimitBy) -> LimitedBy {
    match by {
        LimitBy::Address => LimitedBy::Address,
        LimitBy::Tenant => LimitedBy::Tenant,
        LimitBy::User => LimitedBy::User,
        LimitBy::Header(_) | LimitBy::Query(_) => LimitedBy::Key,
    }
}
