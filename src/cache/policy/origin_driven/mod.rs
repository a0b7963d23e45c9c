//! Routes that follow their origin: the decisions whether an answer may be stored (RFC 9111, 3), and whether
//! a stored one may be used (4).
//!
//! Those of a shared cache, each with a reason in the words of `Cache-Status`, the access record and the
//! metrics. [`super::fields`] selects the stored fields, [`invalidation`] ends stored answers,
//! [`vary`] decides for which requests they are.

pub mod directives;
mod exchange;
pub mod freshness;
pub mod invalidation;
pub mod vary;

pub use exchange::OriginExchange;

use super::{
    accel_expires, status,
    terms::{Freshness, FreshnessTerms},
};
use crate::{
    config::{FollowRules, REFUSALS},
    telemetry::labels::FillOutcome,
};
use directives::{RequestDirectives, ResponseDirectives};
use freshness::FreshnessLifetime;
use vary::VaryRule;

use http::{header, HeaderMap, Method, StatusCode};

/// Decides if an answer may be stored, and on which terms.
///
/// # Errors
/// The reason why not, in the words of metrics and `Cache-Status`.
pub fn check_storable(
    rules: &FollowRules,
    exchange: &OriginExchange<'_>,
) -> Result<FreshnessTerms, FillOutcome> {
    let terms = check_storable_as(rules, exchange, &directives::response_directives(exchange.answer))?;
    match rules.request_directives && directives::request_directives(exchange.request).no_store {
        true => Err(FillOutcome::NoStore),
        false => Ok(terms),
    }
}

/// The same with the directives of the answer, which are already parsed, and without the client's `no-store`:
/// that has no effect on what is stored.
///
/// # Errors
/// The reason why not, in the words of metrics and `Cache-Status`.
pub fn check_storable_as(
    rules: &FollowRules,
    exchange: &OriginExchange<'_>,
    said: &ResponseDirectives,
) -> Result<FreshnessTerms, FillOutcome> {
    let terms = still_storable(rules, exchange, said)?;
    match is_made_for_a_cookie(rules, exchange, said) {
        true => Err(FillOutcome::Cookie),
        false => Ok(terms),
    }
}

/// Returns true if an answer may be specific to one client's cookie: its origin gave it no time for which it is
/// fresh, it is not `public`, and does not vary by the cookie. A validation could tell it from the answer to
/// another cookie, but not everything that is stored is validated: those who wait for it get it, and it may
/// be served stale.
fn is_made_for_a_cookie(
    rules: &FollowRules,
    exchange: &OriginExchange<'_>,
    said: &ResponseDirectives,
) -> bool {
    exchange.request.contains_key(header::COOKIE)
        && !is_for_any_cookie(exchange, said)
        && !has_lifetime(rules, exchange, said)
}

/// Returns true if the fields of a 304, or of a HEAD's answer, may be specific to one client's cookie: it says
/// nothing of a time for which it is fresh, and the answer that it renews is not for any cookie.
pub(crate) fn is_renewed_for_a_cookie(
    rules: &FollowRules,
    fresh: &OriginExchange<'_>,
    renewed: &OriginExchange<'_>,
) -> bool {
    fresh.request.contains_key(header::COOKIE)
        && !is_for_any_cookie(renewed, &directives::response_directives(renewed.answer))
        && !has_lifetime(rules, fresh, &directives::response_directives(fresh.answer))
}

fn is_for_any_cookie(exchange: &OriginExchange<'_>, said: &ResponseDirectives) -> bool {
    said.public
        || match vary::vary_rule(exchange.answer, exchange.request) {
            VaryRule::By(selecting) => selecting.names().contains(&header::COOKIE),
            VaryRule::Never | VaryRule::Always => false,
        }
}

fn has_lifetime(rules: &FollowRules, exchange: &OriginExchange<'_>, said: &ResponseDirectives) -> bool {
    match freshness::freshness_lifetime(rules, exchange, said) {
        FreshnessLifetime::Explicit(ms) => ms > 0 && !said.no_cache,
        FreshnessLifetime::Heuristic(_) | FreshnessLifetime::Unsaid => false,
    }
}

/// Decides if a stored answer, whatever request led to it, may be kept on the terms of this exchange.
///
/// # Errors
/// The reason why not, in the words of metrics and `Cache-Status`.
pub(crate) fn still_storable(
    rules: &FollowRules,
    exchange: &OriginExchange<'_>,
    said: &ResponseDirectives,
) -> Result<FreshnessTerms, FillOutcome> {
    if accel_expires::orders_a_file(exchange.answer) {
        return Err(FillOutcome::Accel);
    }
    is_kind_that_is_stored(rules, exchange)?;
    is_allowed(rules, exchange, said)?;
    let lifetime = freshness::freshness_lifetime(rules, exchange, said);
    let explicit = matches!(lifetime, FreshnessLifetime::Explicit(_));
    if exchange.method == Method::POST && !explicit {
        return Err(FillOutcome::Method);
    }
    if !explicit && !said.public && !freshness::is_heuristically_cacheable(exchange.status) {
        return Err(FillOutcome::Status);
    }
    let terms = freshness::freshness_terms(rules, exchange, said, lifetime);
    match is_of_use(rules, &terms, lifetime) || has_validator(exchange.answer) {
        true => Ok(terms),
        false => Err(FillOutcome::NoFreshness),
    }
}

/// Checks the kind of answer: to a GET, or to a POST if it stands for its target; complete and final.
fn is_kind_that_is_stored(rules: &FollowRules, exchange: &OriginExchange<'_>) -> Result<(), FillOutcome> {
    let OriginExchange { method, status, content_location_is_target, .. } = *exchange;
    // A GET after the POST would be answered with 200 (RFC 9110, 9.3.3).
    let posted = method == Method::POST && content_location_is_target && status == StatusCode::OK;
    if method != Method::GET && !posted {
        return Err(FillOutcome::Method);
    }
    match status {
        StatusCode::PARTIAL_CONTENT => Err(FillOutcome::Partial),
        StatusCode::NOT_MODIFIED => Err(FillOutcome::Status),
        // They refuse a part of one request beside its target, which the next request may not have.
        StatusCode::PRECONDITION_FAILED
        | StatusCode::RANGE_NOT_SATISFIABLE
        | StatusCode::EXPECTATION_FAILED => Err(FillOutcome::Status),
        status if status.is_informational() => Err(FillOutcome::Status),
        // The same is usually true of these.
        status if REFUSALS.contains(&status.as_u16()) && !rules.statuses.contains(&status.as_u16()) => {
            Err(FillOutcome::Status)
        }
        _ => Ok(()),
    }
}

/// Returns true if the answer to a request with credentials may be stored (RFC 9111, 3.5).
fn is_shared_despite_credentials(said: &ResponseDirectives) -> bool {
    said.public || said.must_revalidate || said.s_maxage.is_some()
}

/// Returns true if a stored answer may be the answer to a request with credentials.
pub fn may_be_for_credentials(stored: &HeaderMap) -> bool {
    is_shared_despite_credentials(&directives::response_directives(stored))
}

/// Returns true if the answer to a HEAD ends the stored answer to GET: the same answer to a GET would end it, or
/// replace it. A 405 doesn't: it refuses the method, and GET may be allowed (RFC 9110, 15.5.6).
pub fn head_ends(rules: &FollowRules, exchange: &OriginExchange<'_>) -> bool {
    if exchange.status == StatusCode::METHOD_NOT_ALLOWED {
        return false;
    }
    let exchange = OriginExchange { method: &Method::GET, ..*exchange };
    match check_storable_as(rules, &exchange, &directives::response_directives(exchange.answer)) {
        Ok(_) => status::ends_stored(FillOutcome::Stored, exchange.status, false),
        // It is known to be another one, whatever it was made for.
        Err(FillOutcome::Cookie) => !exchange.authorized,
        Err(why) => status::ends_stored(why, exchange.status, exchange.authorized),
    }
}

/// Checks the directives of the origin.
fn is_allowed(
    rules: &FollowRules,
    exchange: &OriginExchange<'_>,
    said: &ResponseDirectives,
) -> Result<(), FillOutcome> {
    let OriginExchange { request, authorized, status, answer, .. } = *exchange;
    if said.must_understand && !is_understood(status) {
        return Err(FillOutcome::MustUnderstand);
    }
    // A cache that understands the status may store the answer, whatever `no-store` says to others (5.2.2.3).
    if said.no_store && !said.must_understand {
        return Err(FillOutcome::NoStore);
    }
    if said.private {
        return Err(FillOutcome::Private);
    }
    if authorized && !is_shared_despite_credentials(said) {
        return Err(FillOutcome::Authorization);
    }
    if matches!(vary::vary_rule(answer, request), VaryRule::Always) {
        return Err(FillOutcome::VaryAny);
    }
    let cookie = answer.contains_key(header::SET_COOKIE) && !said.omit.contains(&header::SET_COOKIE);
    match cookie && !rules.set_cookie {
        true => Err(FillOutcome::SetCookie),
        false => Ok(()),
    }
}

/// Returns true if an entry could ever be used, in case it has no validator.
fn is_of_use(rules: &FollowRules, terms: &FreshnessTerms, lifetime: FreshnessLifetime) -> bool {
    if lifetime == FreshnessLifetime::Unsaid || terms.always_validate {
        return false;
    }
    let grace = terms.stale_while_revalidate_ms.max(terms.stale_if_error_ms);
    let until = terms.lifetime_ms.saturating_add(grace);
    // Clients whose directives are honoured may accept it stale (`max-stale`).
    let may_be_welcome = rules.request_directives && !terms.never_stale && until > 0;
    may_be_welcome || terms.initial_age_ms < until
}

/// Returns true if an answer has a validator.
fn has_validator(answer: &HeaderMap) -> bool {
    let there = |name| answer.get(name).is_some_and(|value| !value.is_empty());
    there(header::ETAG) || there(header::LAST_MODIFIED)
}

/// Statuses whose meaning for a cache is known: those of RFC 9110, but for the parts and the 304.
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=205 | 300..=303 | 305 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505)
}

/// The permitted use of a stored answer now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReuseVerdict {
    /// It is fresh.
    Serve,
    /// It is stale and may be served all the same, while one fill refreshes it (`stale-while-revalidate`).
    ServeStale,
    /// It is stale, and the client accepts that (`max-stale`).
    Allowed,
    /// The origin has to be asked first.
    Validate(RevalidateReason),
}

/// The reason why a stored answer is not used without asking the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevalidateReason {
    /// It is stale.
    Stale,
    /// The origin's `no-cache`.
    NoCache,
    /// The client's `no-cache`.
    Request,
    /// It is older than the client's `max-age`.
    MaxAge,
    /// It will be stale sooner than the client's `min-fresh`.
    MinFresh,
    /// The store can't be asked, so it may be outdated.
    Doubt,
}

impl RevalidateReason {
    /// The word in `Cache-Status` and the access record.
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

/// Decides if a stored answer may be used now (RFC 9111, 4; the directives of the client: 5.2.1).
///
/// `asked` is the default on a route that ignores its clients' directives.
pub fn decide_reuse(terms: &FreshnessTerms, asked: &RequestDirectives, now_ms: u64) -> ReuseVerdict {
    let (age, left) = (terms.age_ms(now_ms), terms.ttl_ms(now_ms));
    let ms = |seconds: u64| seconds.saturating_mul(1_000);
    if asked.no_cache {
        return ReuseVerdict::Validate(RevalidateReason::Request);
    }
    if terms.always_validate {
        return ReuseVerdict::Validate(RevalidateReason::NoCache);
    }
    if asked.max_age.is_some_and(|most| age > ms(most)) {
        return ReuseVerdict::Validate(RevalidateReason::MaxAge);
    }
    // A stale answer has no freshness left, however little is requested.
    if asked.min_fresh.is_some_and(|least| u64::try_from(left).is_ok_and(|left| left < ms(least))) {
        return ReuseVerdict::Validate(RevalidateReason::MinFresh);
    }
    let stale_by = age.saturating_sub(terms.lifetime_ms);
    let allowed = !terms.never_stale && asked.max_stale.is_some_and(|most| stale_by <= ms(most));
    let wants_fresh = (asked.max_age.is_some() || asked.min_fresh.is_some()) && asked.max_stale.is_none();
    match terms.freshness(now_ms) {
        Freshness::Fresh => ReuseVerdict::Serve,
        Freshness::StaleWhileRevalidate if !wants_fresh => ReuseVerdict::ServeStale,
        _ if allowed => ReuseVerdict::Allowed,
        _ => ReuseVerdict::Validate(RevalidateReason::Stale),
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
