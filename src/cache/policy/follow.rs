//! Routes that follow their origin: may an answer be stored (RFC 9111, 3), and may a stored one be used (4)?
//!
//! A shared cache's decisions, each with a reason that `Cache-Status`, the access record and the metrics name
//! alike. What is stored of an answer is said in [`super::fields`], what ends it in [`super::invalidation`],
//! for whom it is in [`super::vary`].

use super::{
    accel,
    directives::{self, Asked, Directives},
    fields,
    freshness::{self, Freshness, Lifetime, Terms},
    vary::{self, Varies},
};
use crate::{
    clock::Reading,
    config::{FollowRules, REFUSALS},
    telemetry::labels::FillOutcome,
};
use http::{header, HeaderMap, Method, StatusCode};

/// A request to the origin and its answer.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// The method.
    pub method: &'a Method,
    /// The request's fields.
    pub request: &'a HeaderMap,
    /// The request carried `Authorization` or a token.
    pub authorized: bool,
    /// The answer names the request's target as its own place: [`super::invalidation::content_is_of_target`].
    /// Read for POST alone.
    pub content_location_is_target: bool,
    /// The answer's status.
    pub status: StatusCode,
    /// The answer's fields.
    pub answer: &'a HeaderMap,
    /// When the request was sent, by the clock that never goes back.
    pub requested_ms: u64,
    /// When the answer's head had come. The origin's dates are compared with the wall clock.
    pub received: Reading,
}

/// Whether an answer may be stored, and on which terms.
///
/// # Errors
/// Why not, as metrics and `Cache-Status` name it.
pub fn storable(rules: &FollowRules, exchange: &Exchange<'_>) -> Result<Terms, FillOutcome> {
    storable_as(rules, exchange, &directives::of_answer(exchange.answer))
}

/// The same, where it is known already what the answer says.
///
/// # Errors
/// Why not, as metrics and `Cache-Status` name it.
pub fn storable_as(
    rules: &FollowRules,
    exchange: &Exchange<'_>,
    said: &Directives,
) -> Result<Terms, FillOutcome> {
    let terms = still_storable(rules, exchange, said)?;
    match is_made_for_a_cookie(rules, exchange, said) {
        true => Err(FillOutcome::Cookie),
        false => Ok(terms),
    }
}

/// Returns whether an answer may be that of one client's cookie alone: nobody said for how long it is fresh, nor that it is for
/// all, nor that it varies by the cookie. A tag tells it from that of another cookie when it is validated; a date doesn't.
fn is_made_for_a_cookie(rules: &FollowRules, exchange: &Exchange<'_>, said: &Directives) -> bool {
    let varies = || match vary::varies(exchange.answer, exchange.request) {
        Varies::By(selecting) => selecting.names().contains(&header::COOKIE),
        Varies::Never | Varies::Always => false,
    };
    let is_guessed = || match freshness::lifetime(rules, exchange, said) {
        Lifetime::Heuristic(_) => true,
        Lifetime::Unsaid => !exchange.answer.contains_key(header::ETAG),
        Lifetime::Explicit(_) => false,
    };
    exchange.request.contains_key(header::COOKIE) && !said.public && is_guessed() && !varies()
}

/// Returns whether what is stored, whoever asked for it first, may be kept on the terms of this exchange.
///
/// # Errors
/// Why not, as metrics and `Cache-Status` name it.
pub(super) fn still_storable(
    rules: &FollowRules,
    exchange: &Exchange<'_>,
    said: &Directives,
) -> Result<Terms, FillOutcome> {
    if accel::orders_a_file(exchange.answer) {
        return Err(FillOutcome::Accel);
    }
    is_kind_that_is_stored(rules, exchange)?;
    is_allowed(rules, exchange, said)?;
    let lifetime = freshness::lifetime(rules, exchange, said);
    let explicit = matches!(lifetime, Lifetime::Explicit(_));
    if exchange.method == Method::POST && !explicit {
        return Err(FillOutcome::Method);
    }
    if !explicit && !said.public && !freshness::is_heuristically_cacheable(exchange.status) {
        return Err(FillOutcome::Status);
    }
    let terms = freshness::terms(rules, exchange, said, lifetime);
    match is_of_use(rules, &terms, lifetime) || fields::has_validator(exchange.answer) {
        true => Ok(terms),
        false => Err(FillOutcome::NoFreshness),
    }
}

/// GET, or POST where the answer stands for the target; whole and final.
fn is_kind_that_is_stored(rules: &FollowRules, exchange: &Exchange<'_>) -> Result<(), FillOutcome> {
    let Exchange { method, status, content_location_is_target, .. } = *exchange;
    // What a GET finds after a POST is a 200 (RFC 9110, 9.3.3).
    let posted = method == Method::POST && content_location_is_target && status == StatusCode::OK;
    if method != Method::GET && !posted {
        return Err(FillOutcome::Method);
    }
    match status {
        StatusCode::PARTIAL_CONTENT => Err(FillOutcome::Partial),
        StatusCode::NOT_MODIFIED => Err(FillOutcome::Status),
        // They refuse what one request said beside its target: the next one doesn't say it.
        StatusCode::PRECONDITION_FAILED
        | StatusCode::RANGE_NOT_SATISFIABLE
        | StatusCode::EXPECTATION_FAILED => Err(FillOutcome::Status),
        status if status.is_informational() => Err(FillOutcome::Status),
        // Nor these, as a rule.
        status if REFUSALS.contains(&status.as_u16()) && !rules.statuses.contains(&status.as_u16()) => {
            Err(FillOutcome::Status)
        }
        _ => Ok(()),
    }
}

/// What the origin, and the client where it is heard, forbid.
fn is_allowed(rules: &FollowRules, exchange: &Exchange<'_>, said: &Directives) -> Result<(), FillOutcome> {
    let Exchange { request, authorized, status, answer, .. } = *exchange;
    if said.must_understand && !is_understood(status) {
        return Err(FillOutcome::MustUnderstand);
    }
    // Who understands the status may store, whatever `no-store` tells those who don't (5.2.2.3).
    if said.no_store && !said.must_understand {
        return Err(FillOutcome::NoStore);
    }
    if rules.request_directives && directives::asked(request).no_store {
        return Err(FillOutcome::NoStore);
    }
    if said.private {
        return Err(FillOutcome::Private);
    }
    if authorized && !(said.public || said.must_revalidate || said.s_maxage.is_some()) {
        return Err(FillOutcome::Authorization);
    }
    if matches!(vary::varies(answer, request), Varies::Always) {
        return Err(FillOutcome::VaryAny);
    }
    let cookie = answer.contains_key(header::SET_COOKIE) && !said.omit.contains(&header::SET_COOKIE);
    match cookie && !rules.set_cookie {
        true => Err(FillOutcome::SetCookie),
        false => Ok(()),
    }
}

/// Whether an entry without a validator would ever answer anyone.
fn is_of_use(rules: &FollowRules, terms: &Terms, lifetime: Lifetime) -> bool {
    if lifetime == Lifetime::Unsaid || terms.always_validate {
        return false;
    }
    let grace = terms.stale_while_revalidate_ms.max(terms.stale_if_error_ms);
    let until = terms.lifetime_ms.saturating_add(grace);
    // A client that is heard may take it however stale it is (`max-stale`).
    let may_be_welcome = rules.request_directives && !terms.never_stale && until > 0;
    may_be_welcome || terms.initial_age_ms < until
}

/// Statuses whose meaning for a cache is known: those of RFC 9110, but for the parts and the 304.
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=205 | 300..=303 | 305 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505)
}

/// What a stored answer is good for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// It is fresh.
    Serve,
    /// It is stale and may be served all the same, while one fill refreshes it (`stale-while-revalidate`).
    ServeStale,
    /// It is stale, and the client takes it so (`max-stale`).
    Allowed,
    /// The origin is to be asked first.
    Validate(Why),
}

/// Why a stored answer is not used without asking the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is stale.
    Stale,
    /// The origin said `no-cache`.
    NoCache,
    /// The client said `no-cache`.
    Request,
    /// It is older than the client's `max-age`.
    MaxAge,
    /// It will be stale sooner than the client's `min-fresh`.
    MinFresh,
    /// Nobody knows whether it is still current: the store can't be asked.
    Doubt,
}

impl Why {
    /// The word for it in `Cache-Status` and the access record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::NoCache => "no-cache",
            Self::Request => "request",
            Self::MaxAge => "max-age",
            Self::MinFresh => "min-fresh",
            Self::Doubt => "doubt",
        }
    }
}

/// Whether a stored answer may be used now (RFC 9111, 4; what the client asks: 5.2.1).
///
/// `asked` is the default where the route doesn't hear its clients.
pub fn reuse(terms: &Terms, asked: &Asked, now_ms: u64) -> Reuse {
    let (age, left) = (terms.age_ms(now_ms), terms.ttl_ms(now_ms));
    let ms = |seconds: u64| seconds.saturating_mul(1_000);
    if asked.no_cache {
        return Reuse::Validate(Why::Request);
    }
    if terms.always_validate {
        return Reuse::Validate(Why::NoCache);
    }
    if asked.max_age.is_some_and(|most| age > ms(most)) {
        return Reuse::Validate(Why::MaxAge);
    }
    // What is stale has no freshness left, however little is asked for.
    if asked.min_fresh.is_some_and(|least| u64::try_from(left).is_ok_and(|left| left < ms(least))) {
        return Reuse::Validate(Why::MinFresh);
    }
    let stale_by = age.saturating_sub(terms.lifetime_ms);
    let allowed = !terms.never_stale && asked.max_stale.is_some_and(|most| stale_by <= ms(most));
    let wants_fresh = (asked.max_age.is_some() || asked.min_fresh.is_some()) && asked.max_stale.is_none();
    match terms.freshness(now_ms) {
        Freshness::Fresh => Reuse::Serve,
        Freshness::StaleWhileRevalidate if !wants_fresh => Reuse::ServeStale,
        _ if allowed => Reuse::Allowed,
        _ => Reuse::Validate(Why::Stale),
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
