//! Whether a server is asked after it has failed, or has said that it wants to be left alone.
//!
//! Decides by what it is told: it asks nobody and reads no clock. A server that fails a few times in a row is left
//! alone for a moment, longer each time, then one request tries it again (half-open). A server that answers 503 with
//! a `Retry-After` (RFC 9110, 10.2.3) rests for that long: whoever has another one to ask asks the other.

use crate::telemetry::labels::OriginOutcome;
use http::{header, HeaderMap, StatusCode};
use std::time::{Duration, Instant, SystemTime};

/// Failures in a row after which a server is left alone.
const FAILURES: u32 = 3;
/// How long it is left alone at first; doubled with each failed trial.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest it is left alone.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The shortest time that a trial of a server that hung is given.
const SHORTEST_TRIAL: Duration = Duration::from_secs(1);
/// The largest factor by which that time grows with failed trials.
const LONGEST_TRIAL: u32 = 4;
/// The longest that a server may rest by its own word.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// What is known of one server's failures.
#[derive(Debug)]
pub(super) struct Breaker {
    failures: u32,
    pause: Duration,
    left_alone_until: Option<Instant>,
    rests_until: Option<Instant>,
    /// When a failure was counted last.
    counted: Option<Instant>,
    last: OriginOutcome,
    /// The time that its answers have taken of late; the slow ones count for more.
    usual: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures: 0,
            pause: FIRST_PAUSE,
            left_alone_until: None,
            rests_until: None,
            counted: None,
            last: OriginOutcome::Ok,
            usual: Duration::ZERO,
        }
    }
}

impl Breaker {
    /// Whether the server may be asked at `now`.
    ///
    /// # Errors
    /// How it failed last, where it is left alone.
    pub(super) fn may(&self, now: Instant) -> Result<(), OriginOutcome> {
        match self.left_alone_until {
            Some(until) if now < until => Err(self.last),
            _ => Ok(()),
        }
    }

    /// The same, and it is asked. One who comes after the pause has the trial to himself: the next one waits another
    /// pause for its result.
    ///
    /// # Errors
    /// How it failed last, where it is left alone.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), OriginOutcome> {
        self.may(now)?;
        if self.left_alone_until.is_some() {
            self.left_alone_until = Some(now + self.pause);
        }
        Ok(())
    }

    /// The time that the next request is given, where it is the trial of a server that hung; `None`: it is none.
    pub(super) fn trial_time(&self) -> Option<Duration> {
        if self.left_alone_until.is_none() || self.last != OriginOutcome::Timeout {
            return None;
        }
        let failed = u32::try_from(self.pause.as_millis() / FIRST_PAUSE.as_millis()).unwrap_or(u32::MAX);
        Some((self.usual * 4).max(SHORTEST_TRIAL) * failed.clamp(1, LONGEST_TRIAL))
    }

    /// Returns whether it is left alone, but for trials.
    pub(super) fn is_left_alone(&self) -> bool {
        self.left_alone_until.is_some()
    }

    /// Whether the server has asked to be left alone for now.
    pub(super) fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    /// The server rests for `time` from `now` on. Whether it did not before.
    pub(super) fn rest(&mut self, time: Duration, now: Instant) -> bool {
        let begins = !self.rests(now);
        self.rests_until = Some(now + time.min(LONGEST_REST));
        begins
    }

    /// What became of a request that was sent at `began`. Whether the server is left alone from now on, and was not
    /// before, or the other way round. What a request that began before the last failure fails by is the same failure: a
    /// request that is tried again, or that waited beside others, says no more than one.
    pub(super) fn note(&mut self, outcome: OriginOutcome, began: Instant, now: Instant) -> Change {
        match outcome {
            // An answer is an answer, whatever it says: the application's own errors are not the server's absence.
            OriginOutcome::Ok | OriginOutcome::ServerError => {
                self.failures = 0;
                self.pause = FIRST_PAUSE;
                let took = now.saturating_duration_since(began);
                self.usual = took.max(self.usual.mul_f64(0.9) + took.mul_f64(0.1));
                self.left_alone_until.take().map_or(Change::None, |_| Change::Ends)
            }
            OriginOutcome::BreakerOpen
            | OriginOutcome::Unresolved
            | OriginOutcome::QueueFull
            | OriginOutcome::QueueTimeout => Change::None,
            // Failures at the same time are one: many who wait for one slow answer say no more than one does.
            _ if self.counted.is_some_and(|counted| began < counted) => Change::None,
            OriginOutcome::ConnectFailed | OriginOutcome::Timeout | OriginOutcome::Broken => {
                self.counted = Some(now);
                self.failures = self.failures.saturating_add(1);
                self.last = outcome;
                if self.failures < FAILURES {
                    return Change::None;
                }
                let begins = self.left_alone_until.is_none();
                if !begins {
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                }
                self.left_alone_until = Some(now + self.pause);
                if begins {
                    Change::Begins
                } else {
                    Change::None
                }
            }
        }
    }
}

/// Tells whether a server is left alone from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// As before.
    None,
    /// It is, and was not before.
    Begins,
    /// It was, and is not any more.
    Ends,
}

/// For how long an answer asks that its server be left alone. A 429 does not: it is meant for one client.
pub(super) fn rest_of(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    if status != StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let time = match value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty() {
        true => Duration::from_secs(value.parse().unwrap_or(u64::MAX)),
        false => httpdate::parse_http_date(value).ok()?.duration_since(now).ok()?,
    };
    Some(time.min(LONGEST_REST)).filter(|time| !time.is_zero())
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
