//! The circuit breaker of a server's address, and the pause that a server asks for with `Retry-After`.
//!
//! Performs no I/O and reads no clock. After a few consecutive failures an address is left alone for a pause
//! that grows, then one request tries it again (half-open). A server that answers 503 with a `Retry-After`
//! (RFC 9110, 10.2.3) is avoided for that time if another server is available.

use crate::{http::date::parse_time, telemetry::labels::OriginOutcome};

use http::{header, HeaderMap, StatusCode};
use std::time::{Duration, Instant, SystemTime};

/// The number of consecutive failures that open the breaker.
const FAILURES_TO_OPEN: u32 = 3;
/// The first pause; doubled with each failed trial.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The least timeout of the trial of a server that hung.
const SHORTEST_TRIAL: Duration = Duration::from_secs(1);
/// The largest factor by which that timeout grows with failed trials.
const LONGEST_TRIAL: u32 = 4;
/// The longest pause that a server may ask for.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// The failures of one address of a server.
#[derive(Debug)]
pub(crate) struct Breaker {
    failures: u32,
    pause: Duration,
    left_alone_until: Option<Instant>,
    rests_until: Option<Instant>,
    /// The time at which the last failure was counted.
    counted: Option<Instant>,
    last: OriginOutcome,
    /// A moving average of its response times, in which slow answers weigh more.
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
    /// Checks whether the breaker lets requests pass at `now`.
    ///
    /// # Errors
    /// The last failure, if the breaker is open.
    pub(crate) fn may(&self, now: Instant) -> Result<(), OriginOutcome> {
        match self.left_alone_until {
            Some(until) if now < until => Err(self.last),
            _ => Ok(()),
        }
    }

    /// The same, for a request that is sent. The first request after the pause is the trial: further ones
    /// have to wait for another pause.
    ///
    /// # Errors
    /// The last failure, if the breaker is open.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), OriginOutcome> {
        self.may(now)?;
        if self.left_alone_until.is_some() {
            self.left_alone_until = Some(now + self.pause);
        }
        Ok(())
    }

    /// The timeout of the next request if it is the trial of a server that hung; `None`: it isn't.
    pub(crate) fn trial_time(&self) -> Option<Duration> {
        if self.left_alone_until.is_none() || self.last != OriginOutcome::Timeout {
            return None;
        }
        let failed = u32::try_from(self.pause.as_millis() / FIRST_PAUSE.as_millis()).unwrap_or(u32::MAX);
        Some((self.usual * 4).max(SHORTEST_TRIAL) * failed.clamp(1, LONGEST_TRIAL))
    }

    /// Returns true if the breaker is open or half-open.
    pub(crate) fn is_left_alone(&self) -> bool {
        self.left_alone_until.is_some()
    }

    /// Returns true if the pause that the server has asked for is not over.
    pub(crate) fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    /// Starts a pause of `time` at `now`. Returns true if there was none before.
    pub(crate) fn rest(&mut self, time: Duration, now: Instant) -> bool {
        let begins = !self.rests(now);
        self.rests_until = Some(now + time.min(LONGEST_REST));
        begins
    }

    /// Notes the outcome of a request that began at `began`, and whose answer's head came `took` after the
    /// attempt began, if it says something of the server. Returns whether the breaker opens or closes.
    /// Failures of requests that began before the last counted failure are not counted again: a retry, or
    /// requests that waited at the same time, say no more than one.
    pub(crate) fn note(
        &mut self,
        outcome: OriginOutcome,
        (began, took): (Instant, Option<Duration>),
        now: Instant,
    ) -> BreakerChange {
        match outcome {
            // Any answer shows that the server is there, even an error of the application.
            OriginOutcome::Ok | OriginOutcome::ServerError => {
                self.failures = 0;
                self.pause = FIRST_PAUSE;
                if let Some(took) = took {
                    self.usual = took.max(self.usual.mul_f64(0.9) + took.mul_f64(0.1));
                }
                self.left_alone_until.take().map_or(BreakerChange::None, |_| BreakerChange::Ends)
            }
            OriginOutcome::BreakerOpen
            | OriginOutcome::Unresolved
            | OriginOutcome::QueueFull
            | OriginOutcome::QueueTimeout => BreakerChange::None,
            // Concurrent failures count as one: many requests that wait for a hanging server say no more than
            // one.
            _ if self.counted.is_some_and(|counted| began < counted) => BreakerChange::None,
            OriginOutcome::ConnectFailed | OriginOutcome::Timeout | OriginOutcome::Broken => {
                self.counted = Some(now);
                self.failures = self.failures.saturating_add(1);
                self.last = outcome;
                if self.failures < FAILURES_TO_OPEN {
                    return BreakerChange::None;
                }
                let begins = self.left_alone_until.is_none();
                if !begins {
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                }
                self.left_alone_until = Some(now + self.pause);
                if begins {
                    BreakerChange::Begins
                } else {
                    BreakerChange::None
                }
            }
        }
    }
}

/// The change of the breaker's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BreakerChange {
    /// No change.
    None,
    /// It opens.
    Begins,
    /// It closes.
    Ends,
}

/// The pause that an answer asks for with `Retry-After`. That of a 429 is ignored: it is meant for one
/// client.
pub(crate) fn retry_after(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    if status != StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let time = match value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty() {
        true => Duration::from_secs(value.parse().unwrap_or(u64::MAX)),
        false => parse_time(value.as_bytes())?.duration_since(now).ok()?,
    };
    Some(time.min(LONGEST_REST)).filter(|time| !time.is_zero())
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
