//! Age and freshness of answers on arrival: the arithmetic of RFC 9111, 4.2, and the extensions of RFC 5861.
//! All of it is computed once, when an answer is stored.
//!
//! Times are milliseconds. Lifetimes use a clock that never goes back; the origin's dates are compared with
//! the wall clock: if that was set back, an answer is too young when it arrives, and not afterwards.

use super::{
    directives::{self, ResponseDirectives},
    exchange::OriginExchange,
};
use crate::{
    cache::policy::terms::{millis, FreshnessTerms},
    config::FollowRules,
    http::{date, delta_seconds::delta_seconds},
};

use http::{header, HeaderMap, HeaderName, StatusCode};

/// The part of the time since the last change that an answer without a lifetime is fresh: a tenth (RFC 9111,
/// 4.2.2).
const HEURISTIC_PART: u64 = 10;
/// The longest heuristic lifetime: a day.
const HEURISTIC_MOST: u64 = 86_400_000;
/// The rounding of `Date` to whole seconds: the true time may be this much later.
const DATE_IS_CUT_BY: u64 = 999;
/// The freshness lifetime of an answer in milliseconds, and its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FreshnessLifetime {
    /// Set by the origin.
    Explicit(u64),
    /// Derived from the last change.
    Heuristic(u64),
    /// Unknown.
    Unsaid,
}

impl FreshnessLifetime {
    fn ms(self) -> u64 {
        match self {
            Self::Explicit(ms) | Self::Heuristic(ms) => ms,
            Self::Unsaid => 0,
        }
    }
}

/// The freshness lifetime (RFC 9111, 4.2.1): `s-maxage`, `max-age`, `Expires`, and last the heuristic.
pub(crate) fn freshness_lifetime(
    rules: &FollowRules,
    exchange: &OriginExchange<'_>,
    said: &ResponseDirectives,
) -> FreshnessLifetime {
    if let Some(until) = said.until {
        return FreshnessLifetime::Explicit(until.saturating_mul(1_000).saturating_sub(made_ms(exchange)));
    }
    if let Some(seconds) = said.s_maxage.or(said.max_age) {
        return FreshnessLifetime::Explicit(seconds * 1_000);
    }
    if !said.targeted && exchange.answer.contains_key(header::EXPIRES) {
        let until = date_of(exchange, &header::EXPIRES).unwrap_or(0);
        return FreshnessLifetime::Explicit(until.saturating_sub(made_ms(exchange)));
    }
    let guessable = said.public || is_heuristically_cacheable(exchange.status);
    if !rules.heuristic || !guessable || (!said.targeted && directives::is_pragma_no_cache(exchange.answer)) {
        return FreshnessLifetime::Unsaid;
    }
    match date_of(exchange, &header::LAST_MODIFIED) {
        Some(changed) => {
            let unchanged_for = made_ms(exchange).saturating_sub(changed);
            FreshnessLifetime::Heuristic((unchanged_for / HEURISTIC_PART).min(HEURISTIC_MOST))
        }
        None => FreshnessLifetime::Unsaid,
    }
}

/// The terms of an answer that is fresh for `lifetime`.
pub(crate) fn freshness_terms(
    rules: &FollowRules,
    exchange: &OriginExchange<'_>,
    said: &ResponseDirectives,
    lifetime: FreshnessLifetime,
) -> FreshnessTerms {
    let never = said.must_revalidate || said.proxy_revalidate || said.no_cache;
    let grace = |said_seconds: Option<u64>, of_route: u64| match (said_seconds, said.s_maxage) {
        _ if never => 0,
        (Some(seconds), _) => seconds * 1_000,
        // `s-maxage` forbids stale use that the origin doesn't allow itself (RFC 9111, 5.2.2.10).
        (None, Some(_)) => 0,
        (None, None) => of_route,
    };
    let while_revalidate = match lifetime {
        // An answer that was never declared fresh isn't served without validation.
        FreshnessLifetime::Unsaid => 0,
        FreshnessLifetime::Explicit(_) | FreshnessLifetime::Heuristic(_) => {
            millis(rules.stale_while_revalidate)
        }
    };
    FreshnessTerms {
        received_ms: exchange.received.now_ms,
        initial_age_ms: initial_age_ms(exchange),
        lifetime_ms: lifetime.ms(),
        stale_while_revalidate_ms: grace(said.stale_while_revalidate, while_revalidate),
        stale_if_error_ms: grace(said.stale_if_error, millis(rules.stale_if_error)),
        always_validate: said.no_cache,
        never_stale: never || said.s_maxage.is_some(),
        is_provisional: false,
    }
}

/// Statuses that are cacheable without a lifetime from the origin (RFC 9110, 15.1). The 206 is missing: parts
/// are not stored by these rules.
pub(crate) fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// RFC 9111, 4.2.3: `corrected_initial_age`.
fn initial_age_ms(exchange: &OriginExchange<'_>) -> u64 {
    let OriginExchange { requested_ms, received, .. } = *exchange;
    let apparent = received.wall_ms.saturating_sub(made_ms(exchange).saturating_add(DATE_IS_CUT_BY));
    let delay = received.now_ms.saturating_sub(requested_ms);
    apparent.max(said_age_ms(exchange.answer).saturating_add(delay))
}

/// `Age`, the first member of the first line (RFC 9111, 5.1); 0 if that is no number.
fn said_age_ms(answer: &HeaderMap) -> u64 {
    let first = answer.get(header::AGE).and_then(|line| line.as_bytes().split(|b| *b == b',').next());
    first.and_then(|age| delta_seconds(age.trim_ascii())).unwrap_or(0) * 1_000
}

/// The time when the origin made the answer, by the wall clock: its `Date`; without a valid one, when it was
/// received (RFC 9110, 6.6.1).
fn made_ms(exchange: &OriginExchange<'_>) -> u64 {
    date_of(exchange, &header::DATE).unwrap_or(exchange.received.wall_ms)
}

/// Reads a field's date, in milliseconds since the epoch; `None` if it is missing, invalid or repeated.
fn date_of(exchange: &OriginExchange<'_>, field: &HeaderName) -> Option<u64> {
    let mut lines = exchange.answer.get_all(field).iter();
    let first = lines.next()?;
    let alone = lines.all(|line| line == first);
    let seconds = alone.then(|| date::parse_date(first.as_bytes(), exchange.received.wall_ms)).flatten();
    seconds.map(|seconds| seconds.saturating_mul(1_000))
}

#[cfg(test)]
#[path = "freshness_tests.rs"]
mod tests;
