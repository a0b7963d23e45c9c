//! Retries: may a request be sent again after an attempt that failed, to which server, how often, and after
//! which pause.
//!
//! Pure, but for the length of a pause. One rule for the gateway's own requests and for proxied ones, over
//! whichever connections they are sent; `docs/origins.md` describes it for users. An answer is never a reason
//! to send a request again, whatever its status.

use crate::telemetry::labels::OriginOutcome;
use http::Method;
use std::time::Duration;

/// The most times that one request is sent again at no cost of `retries`.
const MAX_REPEATS: u32 = 3;
/// The first pause before a retry, before randomisation; doubled with each.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The sender of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestSource {
    /// The gateway: a fill, an event. No client has seen anything of an answer.
    Gateway,
    /// A client, whose request is proxied.
    Client,
}

/// The properties of a request that retries depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetryRequest {
    source: RequestSource,
    is_idempotent: bool,
    is_safe: bool,
    can_be_sent: bool,
}

impl RetryRequest {
    /// A request with this method. `can_be_sent`: its whole body is there to be sent once more, and its client
    /// has seen nothing of an answer.
    pub(crate) fn new(source: RequestSource, method: &Method, can_be_sent: bool) -> Self {
        Self { source, is_idempotent: method.is_idempotent(), is_safe: method.is_safe(), can_be_sent }
    }
}

/// The failure of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FailedAttempt {
    /// The kind of failure.
    pub outcome: OriginOutcome,
    /// True if there was a connection: a part of the request may have been sent.
    pub was_sent: bool,
    /// True if the server's side failed.
    pub by_server: bool,
    /// True if the server reports that it has not processed the request (RFC 9113, 8.7).
    pub is_unprocessed: bool,
    /// True if the connection was reused, and the server may have closed it before.
    pub was_reused: bool,
    /// True if another connection will do, whatever the cause: the server wants HTTP/1.1, for instance.
    pub is_retryable: bool,
    /// True if it was the trial of a server that hung, which the request may leave for another one.
    pub was_trial: bool,
}

impl FailedAttempt {
    /// An attempt that failed like this after the request was sent.
    pub(crate) const fn of_server(outcome: OriginOutcome) -> Self {
        Self {
            outcome,
            was_sent: true,
            by_server: true,
            is_unprocessed: false,
            was_reused: false,
            is_retryable: false,
            was_trial: false,
        }
    }
}

/// Another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RetryVerdict {
    /// None.
    Fail,
    /// At once, over another connection to the same server, without a count.
    Reconnect,
    /// At no cost of `retries`, preferably to another server.
    Repeat,
    /// The same, at once: no client should wait for a failed trial.
    RepeatAtOnce,
    /// Within `retries` and the budget of the origin, preferably to another server.
    Retry,
}

/// Decides about another attempt. `has_repeats`: some are left that cost nothing.
fn decide_retry(request: RetryRequest, failed: FailedAttempt, has_repeats: bool) -> RetryVerdict {
    let is_own = request.source == RequestSource::Gateway;
    if failed.is_unprocessed && failed.by_server && request.can_be_sent && has_repeats {
        return RetryVerdict::Repeat;
    }
    // Nothing of a client's request was sent: its method does not matter.
    let is_unsent = !failed.was_sent && !is_own;
    let may_be_repeated = request.is_idempotent && request.can_be_sent;
    if !is_unsent && !may_be_repeated {
        return RetryVerdict::Fail;
    }
    let has_hung = failed.was_trial && failed.by_server && failed.outcome == OriginOutcome::Timeout;
    if (has_hung || failed.was_trial && is_own) && has_repeats {
        return RetryVerdict::RepeatAtOnce;
    }
    // A client's request that changes something could have been carried out.
    if failed.is_retryable || failed.was_reused && (is_own || request.is_safe) {
        return RetryVerdict::Reconnect;
    }
    // A client has waited long enough after a timeout.
    match is_unsent || is_own || failed.by_server && failed.outcome == OriginOutcome::Broken {
        true => RetryVerdict::Retry,
        false => RetryVerdict::Fail,
    }
}

/// A further attempt that is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NextAttempt {
    /// True if another server is preferred.
    pub elsewhere: bool,
    /// The pause before it.
    pub pause: Option<Duration>,
    /// True if the server has refused the request so far, which is no failure of it.
    pub is_excused: bool,
}

/// The further attempts of one request.
#[derive(Debug)]
pub(crate) struct RetryTally {
    /// The retries that are left.
    left: u32,
    /// The attempts that cost nothing.
    repeated: u32,
    paused: u32,
}

impl RetryTally {
    /// A request with this number of `retries`.
    pub(crate) fn new(retries: u32) -> Self {
        Self { left: retries, repeated: 0, paused: 0 }
    }

    /// Decides about another attempt, and counts it; `None`: there is none. `is_late`: the time for the request
    /// is over. `spend` takes a retry out of the origin's budget, and returns false if there is none.
    pub(crate) fn settle(
        &mut self,
        request: RetryRequest,
        failed: FailedAttempt,
        is_late: bool,
        spend: impl FnOnce() -> bool,
    ) -> Option<NextAttempt> {
        let elsewhere = |pause| Some(NextAttempt { elsewhere: true, pause, is_excused: false });
        match decide_retry(request, failed, self.repeated < MAX_REPEATS && !is_late) {
            RetryVerdict::Fail => None,
            RetryVerdict::Reconnect => Some(NextAttempt { elsewhere: false, pause: None, is_excused: false }),
            RetryVerdict::Repeat => {
                self.repeated += 1;
                let pause = Some(self.next_pause());
                Some(NextAttempt { elsewhere: true, pause, is_excused: true })
            }
            RetryVerdict::RepeatAtOnce => {
                self.repeated += 1;
                elsewhere(None)
            }
            RetryVerdict::Retry => {
                let affordable = self.left > 0 && !is_late && spend();
                self.left -= u32::from(affordable);
                if affordable {
                    elsewhere(Some(self.next_pause()))
                } else {
                    None
                }
            }
        }
    }

    /// The next pause: it grows with each, and is randomised.
    fn next_pause(&mut self) -> Duration {
        let factor = 2_u32.saturating_pow(self.paused.min(10));
        self.paused += 1;
        (FIRST_PAUSE * factor).mul_f64(rand::random_range(0.5..1.5))
    }
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
