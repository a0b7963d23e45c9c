//! Age and freshness of answers: the arithmetic of RFC 9111, 4.2, and the extensions of RFC 5861. All of it
//! is computed once, when an answer is stored; a hit compares two numbers.
//!
//! Times are milliseconds. Lifetimes use a clock that never goes back; the origin's dates are compared with
//! the wall clock: if that was set back, an answer is too young when it arrives, and not afterwards.

use super::{
    directives::{self, ResponseDirectives},
    OriginExchange,
};
use crate::{
    cache::policy::millis,
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
/// A stale answer with a validator is kept for as long as it was fresh once more, within these bounds: a 304
/// is cheaper than the answer.
const VALIDATABLE: std::ops::RangeInclusive<u64> = 600_000..=86_400_000;

/// The permitted use of an entry at an age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Freshness {
    /// As it is.
    Fresh,
    /// At once, while one fill refreshes it (RFC 5861, `stale-while-revalidate`).
    StaleWhileRevalidate,
    /// Only if a fill fails (RFC 5861, `stale-if-error`).
    StaleIfError,
    /// Not at all.
    Expired,
}

/// The terms of an entry's freshness, computed once when it is stored. Used for both kinds of routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreshnessTerms {
    /// The time when the answer was received, in milliseconds since the epoch by [`crate::clock::now_ms`].
    pub received_ms: u64,
    /// Its age then, in milliseconds (RFC 9111, 4.2.3: `corrected_initial_age`).
    pub initial_age_ms: u64,
    /// The age until which it is fresh, in milliseconds.
    pub lifetime_ms: u64,
    /// The time for which it may be served stale while it is refreshed, in milliseconds; 0 if that is
    /// forbidden.
    pub stale_while_revalidate_ms: u64,
    /// The time for which it may be served stale because a fill failed, in milliseconds; 0 if that is
    /// forbidden.
    pub stale_if_error_ms: u64,
    /// `no-cache`: must be validated for each use, stale or not.
    pub always_validate: bool,
    /// `must-revalidate`, `proxy-revalidate`, `s-maxage`, `no-cache`: a client's `max-stale` is ignored.
    pub never_stale: bool,
    /// It was requested in doubt (see [`crate::cache::coherence::doubt`]).
    pub is_provisional: bool,
}

impl FreshnessTerms {
    /// The terms of an answer that was requested in doubt, at `asked_ms`: fresh for `ttl_ms` from then at
    /// most.
    pub fn provisional(self, asked_ms: u64, ttl_ms: u64) -> Self {
        let left_ms = asked_ms.saturating_add(ttl_ms).saturating_sub(self.received_ms);
        Self {
            lifetime_ms: self.lifetime_ms.min(self.initial_age_ms.saturating_add(left_ms)),
            stale_while_revalidate_ms: 0,
            is_provisional: true,
            ..self
        }
    }

    /// The age of the answer, in milliseconds (`current_age`).
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        self.initial_age_ms.saturating_add(now_ms.saturating_sub(self.received_ms))
    }

    /// The permitted use of the entry now, without a failure.
    pub fn freshness(&self, now_ms: u64) -> Freshness {
        let age = self.age_ms(now_ms);
        if self.always_validate {
            Freshness::Expired
        } else if age < self.lifetime_ms {
            Freshness::Fresh
        } else if age < self.lifetime_ms.saturating_add(self.stale_while_revalidate_ms) {
            Freshness::StaleWhileRevalidate
        } else {
            self.on_error(now_ms)
        }
    }

    /// The permitted use of the entry after a fill failed.
    pub fn on_error(&self, now_ms: u64) -> Freshness {
        let until = self.lifetime_ms.saturating_add(self.stale_if_error_ms);
        match !self.always_validate && self.age_ms(now_ms) < until {
            true => Freshness::StaleIfError,
            false => Freshness::Expired,
        }
    }

    /// The time for which a store has to keep the entry from [`FreshnessTerms::received_ms`] on, in milliseconds, at
    /// least 1; longer if it has a validator, with which it is of use when it is stale.
    pub fn keep_ms(&self, has_validator: bool) -> u64 {
        let validatable = match has_validator {
            true => self.lifetime_ms.clamp(*VALIDATABLE.start(), *VALIDATABLE.end()),
            false => 0,
        };
        let stale = self.stale_while_revalidate_ms.max(self.stale_if_error_ms).max(validatable);
        // The age on arrival does not reduce its worth for a validation.
        let left = self.lifetime_ms.saturating_add(stale).saturating_sub(self.initial_age_ms);
        left.max(validatable).max(1)
    }

    /// The milliseconds for which the entry stays fresh; negative if it is stale (`ttl` of `Cache-Status`,
    /// RFC 9211, which counts seconds).
    pub fn ttl_ms(&self, now_ms: u64) -> i64 {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        signed(self.lifetime_ms) - signed(self.age_ms(now_ms))
    }
}

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
