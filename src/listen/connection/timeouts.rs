//! Client timeouts: the time that a client may take for its part of an exchange.
//!
//! Pure: it is told events and returns verdicts. The clock is an argument, and is only read when a client is
//! waited for. Bytes that move without waiting cost a few comparisons.
//!
//! - A *head* has one deadline, from the accept or from the first byte of a further request to its end:
//!   single bytes don't extend it (slow loris).
//! - A *body* that the gateway waits for, and an *answer* that the client doesn't read, have a time budget
//!   (`RateDeadline`): waiting spends it, and bytes refund it according to the least rate. One deadline
//!   covers both a stalled and a slow transfer, and a fast beginning earns no right to be slow for long.
//! - An idle connection between two requests is not limited here (keep-alive), unless places run short.
//!
//! Progress of an answer is measured by what the client's system has acknowledged, not by what the kernel has
//! buffered: a buffer of a megabyte reports room only after a third of it is sent, which an honest slow
//! client may need minutes for. The enforcing code checks it from time to time (`LOOK`).
//!
//! Performs no I/O and reads no clock.

use crate::telemetry::labels::CutReason;
use std::time::{Duration, Instant};

/// The time for which a write waits before the acknowledged bytes are checked; then four times per
/// `send_timeout`.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The time for which an idle connection is kept while places run short.
pub(crate) const CROWDED_IDLE: Duration = Duration::from_secs(1);
/// The time for which an idle connection may still send a request after the shutdown began.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_millis(200);

/// The client timeouts and least rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeoutRules {
    /// The time for a whole head.
    pub header_timeout: Duration,
    /// The time between two pieces of a body.
    pub body_timeout: Duration,
    /// The least rate of a body, in bytes a second; 0: no limit.
    pub body_min_rate: u64,
    /// The time for a pending write without progress.
    pub send_timeout: Duration,
    /// The least rate of an answer whose write is pending, in bytes a second; 0: no limit.
    pub send_min_rate: u64,
}

/// The state of the exchange under way, as the gateway and the listener report it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ExchangeProgress {
    /// The index of the exchange on this connection.
    pub(crate) exchange: u32,
    /// True once its head has been read.
    pub(crate) handled: bool,
    /// True if the gateway awaits (more of) its body.
    pub(crate) body: bool,
    /// True if places for connections run short.
    pub(crate) crowded: bool,
}

/// The verdict on a client that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitVerdict {
    /// No limit applies.
    Free,
    /// Check again at this time, if nothing happens before.
    Until(Instant),
    /// It took too long.
    Cut(CutReason),
}

/// The timeouts of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionGuard {
    rules: TimeoutRules,
    exchange: u32,
    head: HeadProgress,
    body: RateDeadline,
    sending: RateDeadline,
    look: Option<WriteProgress>,
}

/// The state of the head of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeadProgress {
    /// No byte of the first one has come.
    Silent { since: Instant },
    /// Between two requests.
    Idle { since: Option<Instant> },
    /// A part of it has come. The time is noted when the rest is waited for, which is at once.
    Begun { since: Option<Instant> },
    /// It is complete.
    Read,
}

impl ConnectionGuard {
    /// The state of a connection that was accepted at `accepted`.
    pub(crate) fn new(rules: TimeoutRules, accepted: Instant) -> Self {
        Self {
            rules,
            exchange: 0,
            head: HeadProgress::Silent { since: accepted },
            body: RateDeadline::new(rules.body_timeout, rules.body_min_rate),
            sending: RateDeadline::new(rules.send_timeout, rules.send_min_rate),
            look: None,
        }
    }

    /// The timeouts and rates that apply.
    pub(crate) fn rules(&self) -> &TimeoutRules {
        &self.rules
    }

    /// Notes that the client has sent bytes.
    pub(crate) fn read(&mut self, bytes: usize, seen: ExchangeProgress, now: impl FnOnce() -> Instant) {
        self.notice(seen);
        match self.head {
            HeadProgress::Silent { since } => self.head = HeadProgress::Begun { since: Some(since) },
            HeadProgress::Idle { .. } => self.head = HeadProgress::Begun { since: None },
            HeadProgress::Begun { .. } => {}
            HeadProgress::Read => self.body.moved(bytes as u64, now),
        }
    }

    /// The verdict on a read that finds no bytes.
    pub(crate) fn waits_to_read(
        &mut self,
        seen: ExchangeProgress,
        now: impl FnOnce() -> Instant,
    ) -> WaitVerdict {
        self.notice(seen);
        match &mut self.head {
            HeadProgress::Silent { since } => {
                cut_when_due(*since + self.rules.header_timeout, now(), CutReason::Silent)
            }
            HeadProgress::Begun { since } => {
                let now = now();
                cut_when_due(*since.get_or_insert(now) + self.rules.header_timeout, now, CutReason::Header)
            }
            HeadProgress::Idle { since } if seen.crowded => {
                let now = now();
                cut_when_due(*since.get_or_insert(now) + CROWDED_IDLE, now, CutReason::Crowded)
            }
            HeadProgress::Read if seen.body => {
                self.body.wait(now(), CutReason::BodyTimeout, CutReason::BodyRate)
            }
            HeadProgress::Idle { .. } | HeadProgress::Read => {
                // A client isn't late while its bytes are not awaited: a body that an origin doesn't read
                // yet, an upgraded connection.
                self.body.rest();
                WaitVerdict::Free
            }
        }
    }

    /// Notes that bytes of an answer have been written.
    pub(crate) fn wrote(&mut self, bytes: usize, now: impl FnOnce() -> Instant) {
        // Bytes that were acknowledged while this write waited have counted already.
        let counted = self.look.take().map_or(0, |look| look.counted);
        self.sending.moved((bytes as u64).saturating_sub(counted), now);
    }

    /// The verdict on a write that can't continue. `taken` returns the total of acknowledged bytes, if it is
    /// known.
    pub(crate) fn waits_to_write(
        &mut self,
        now: Instant,
        taken: impl FnOnce() -> Option<u64>,
    ) -> WaitVerdict {
        let every = self.rules.send_timeout / 4;
        let look = self.look.get_or_insert(WriteProgress {
            next: now + LOOK_INTERVAL.min(every),
            taken: None,
            counted: 0,
        });
        if now >= look.next {
            let before = std::mem::replace(&mut look.taken, taken());
            look.next = now + every;
            let progress = look.taken.zip(before).map_or(0, |(after, before)| after.saturating_sub(before));
            if progress > 0 {
                look.counted += progress;
                self.sending.moved(progress, || now);
            }
        }
        let next = look.next;
        match self.sending.wait(now, CutReason::SendTimeout, CutReason::SendRate) {
            WaitVerdict::Until(at) => WaitVerdict::Until(at.min(next)),
            other => other,
        }
    }

    /// Notes that the prepared lane has answered a request. `more`: further bytes have come behind it.
    pub(crate) fn answered(&mut self, more: bool) {
        self.head =
            if more { HeadProgress::Begun { since: None } } else { HeadProgress::Idle { since: None } };
    }

    /// Notes that the gateway has served a request of the prepared lane. `more`: further bytes have come
    /// behind it.
    pub(crate) fn served(&mut self, seen: ExchangeProgress, more: bool) {
        self.notice(seen);
        self.answered(more);
    }

    /// Returns true if an incomplete head has come: if the connection ends now, it ends within a request.
    pub(crate) fn is_within_head(&mut self, seen: ExchangeProgress) -> bool {
        self.notice(seen);
        matches!(self.head, HeadProgress::Begun { .. })
    }

    /// The time since which the current head has been awaited.
    pub(crate) fn head_since(&self) -> Option<Instant> {
        match self.head {
            HeadProgress::Begun { since } => since,
            HeadProgress::Silent { since } => Some(since),
            HeadProgress::Idle { .. } | HeadProgress::Read => None,
        }
    }

    fn notice(&mut self, seen: ExchangeProgress) {
        if seen.exchange != self.exchange {
            self.exchange = seen.exchange;
            self.head = HeadProgress::Idle { since: None };
            self.body = RateDeadline::new(self.rules.body_timeout, self.rules.body_min_rate);
        }
        if seen.handled {
            self.head = HeadProgress::Read;
        }
    }
}

fn cut_when_due(at: Instant, now: Instant, reason: CutReason) -> WaitVerdict {
    if now < at {
        WaitVerdict::Until(at)
    } else {
        WaitVerdict::Cut(reason)
    }
}

/// The progress of a pending write.
#[derive(Debug)]
struct WriteProgress {
    next: Instant,
    /// The bytes that the client had acknowledged at the last check.
    taken: Option<u64>,
    /// The bytes of this write that have counted as progress.
    counted: u64,
}

/// A time budget for a client that is waited for, of at most `most`. Waiting spends it; each byte refunds
/// 1/`rate` seconds, or all of it without a least rate.
#[derive(Debug)]
pub(crate) struct RateDeadline {
    most: Duration,
    rate: u64,
    left: Duration,
    since: Option<Instant>,
}

impl RateDeadline {
    /// A budget of this size, with a least rate in bytes a second; 0: no least rate.
    pub(crate) fn new(most: Duration, rate: u64) -> Self {
        Self { most, rate, left: most, since: None }
    }

    /// Notes that bytes have moved.
    pub(crate) fn moved(&mut self, bytes: u64, now: impl FnOnce() -> Instant) {
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(now().saturating_duration_since(since));
        }
        if self.left < self.most {
            self.left = self.left.saturating_add(self.worth(bytes)).min(self.most);
        }
    }

    /// The verdict while waiting: `nothing` is the reason for a stalled transfer, `too_little` for a slow
    /// one.
    pub(crate) fn wait(&mut self, now: Instant, nothing: CutReason, too_little: CutReason) -> WaitVerdict {
        let since = *self.since.get_or_insert(now);
        let reason = if now.saturating_duration_since(since) < self.most { too_little } else { nothing };
        cut_when_due(since + self.left, now, reason)
    }

    fn rest(&mut self) {
        self.since = None;
    }

    fn worth(&self, bytes: u64) -> Duration {
        match bytes.saturating_mul(1_000_000_000).checked_div(self.rate) {
            Some(nanos) => Duration::from_nanos(nanos),
            None => self.most,
        }
    }
}

#[cfg(test)]
#[path = "timeouts_tests.rs"]
mod tests;
