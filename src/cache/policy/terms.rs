//! The terms on which a stored answer may be used, for both kinds of routes: set once, when it is stored; a
//! hit compares two numbers.
//!
//! Times are milliseconds, by a clock that never goes back.

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

/// Converts a duration to whole milliseconds.
pub(crate) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
