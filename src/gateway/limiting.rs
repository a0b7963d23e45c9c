//! The rate limits of a route: a request is counted before it is processed, and its client is told what is
//! left.
//!
//! The decision is made in `limits::rate`. Here Redis is asked if a limit is shared. If it does not answer,
//! this node's own counters decide: a failure of Redis never causes a 5xx, and never switches a limit off.

use super::{refusal, session::Session, Context, Gateway, Next, Result};
use crate::{
    cache::redis::{Bucket, Redis},
    config::LimitBy,
    limits::{
        fields::{QUOTA_EXCEEDED, RATE_LIMIT, RATE_LIMIT_POLICY},
        rate::{self, Limits, Shared, Stage, Taken},
        who::Who,
    },
    telemetry::labels::{LimitOutcome, LimitedBy, RejectReason},
};
use http::{header, HeaderValue};
use pingora_http::{RequestHeader, ResponseHeader};
use std::sync::Arc;

impl Gateway {
    /// Counts a request against the limits of its route that apply at this stage. Returns false if one
    /// refuses it.
    pub(super) async fn within_limits(
        &self,
        limits: Option<&Limits>,
        stage: Stage,
        request: &RequestHeader,
        ctx: &mut Context,
    ) -> bool {
        let Some(limits) = limits else { return true };
        let before = ctx.taken.len();
        let now = rate::nanoseconds(self.began, ctx.began);
        let mut taken = std::mem::take(&mut ctx.taken);
        let driven_out = limits.take(stage, &who(request, ctx), now, &mut taken);
        if driven_out > 0 {
            self.parts.metrics.limit_drove_out(driven_out);
        }
        let shared = limits.shared(stage, &taken);
        if let Some(redis) = self.parts.cache.redis().filter(|_| !shared.is_empty()) {
            Box::pin(self.ask_store(redis, limits, &shared, now, &mut taken)).await;
        }
        self.count(limits, &taken[before..]);
        ctx.taken = taken;
        !rate::refuses(&ctx.taken)
    }

    /// Counts a request in Redis, where the requests of the other nodes are counted as well.
    async fn ask_store(
        &self,
        redis: &Arc<Redis>,
        limits: &Limits,
        shared: &[(usize, Shared<'_>)],
        now: u64,
        taken: &mut [Taken],
    ) {
        let whose: Vec<String> = shared.iter().map(|(_, shared)| shared.who.digits()).collect();
        let mut buckets = Vec::with_capacity(shared.len());
        for ((_, shared), whose) in shared.iter().zip(&whose) {
            let (interval, capacity) = (shared.rate.interval(), shared.rate.capacity());
            buckets.push(Bucket { route: shared.route, limit: shared.limit, whose, interval, capacity });
        }
        match redis.take(&buckets).await {
            Ok(told) => {
                let told: Vec<_> = shared
                    .iter()
                    .zip(told)
                    .map(|((place, _), (passed, busy))| (*place, passed, busy))
                    .collect();
                limits.told(&told, now, taken);
            }
            Err(_) => self.parts.metrics.limit_decided_alone(),
        }
    }

    fn count(&self, limits: &Limits, taken: &[Taken]) {
        for taken in taken {
            let outcome = if taken.standing.passed { LimitOutcome::Passed } else { LimitOutcome::Refused };
            self.parts.metrics.limit_checked(label(limits.by(taken)), outcome);
        }
    }

    /// Sends the answer to a request that a limit refuses (RFC 6585, 4).
    pub(super) async fn refuse_for_now(&self, session: &mut Session<'_>, ctx: &mut Context) -> Result<Next> {
        let mut problem = refusal::problem(RejectReason::RateLimited)
            .with(header::RETRY_AFTER, HeaderValue::from(rate::retry_after(&ctx.taken)));
        if let Some(limits) = ctx.at_hand().and_then(|at_hand| at_hand.limits.as_ref()) {
            let names: Vec<&str> = limits.refusing(&ctx.taken).map(|name| name.as_str()).collect();
            problem = problem.saying("type", QUOTA_EXCEEDED).saying("violated-policies", names);
        }
        self.refuse_with(session, ctx, RejectReason::RateLimited, problem).await
    }
}

/// Sets the rate limit fields of an answer. Such fields in an answer from the cache were for another client
/// and are replaced; those of an origin that was just asked are kept.
pub(super) fn tell_limits(head: &mut ResponseHeader, ctx: &Context) -> Result<()> {
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

fn who<'r>(request: &'r RequestHeader, ctx: &'r Context) -> Who<'r> {
    let identity = ctx.identity.as_deref();
    Who {
        address: ctx.client.address,
        tenant: identity.and_then(|identity| Some(identity.tenant.as_ref()?.as_str())),
        user: identity.and_then(|identity| identity.user.as_deref()),
        headers: &request.headers,
        query: request.uri.query().unwrap_or_default(),
    }
}

fn label(by: &LimitBy) -> LimitedBy {
    match by {
        LimitBy::Address => LimitedBy::Address,
        LimitBy::Tenant => LimitedBy::Tenant,
        LimitBy::User => LimitedBy::User,
        LimitBy::Header(_) | LimitBy::Query(_) => LimitedBy::Key,
    }
}
