//! Client timeouts: the time that a client may take for its part of an exchange.
//!
//! Pure: it is told events and returns verdicts. The clock is an argument, and is only read when a client is
//! waited for. Bytes that move without waiting cost a few comparisons.
//!
//! - A *head* has one deadline, from the accept or from the first byte of a further request to its end:
//!   single bytes don't extend it (slow loris).
//! - A *body* that the gateway waits for, and an *answer* that the client doesn't read, have a time budget
//!   (`Patience`): waiting spends it, and bytes refund it according to the least rate. One deadline covers
//!   both a stalled and a slow transfer, and a fast beginning earns no right to be slow for long.
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
const LOOK: Duration = Duration::from_secs(1);
/// The time for which an idle connection is kept while places run short.
pub(super) const CROWDED_IDLE: Duration = Duration::from_secs(1);

/// The client timeouts and least rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
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
pub(super) struct Seen {
    /// The index of the exchange on this connection.
    pub(super) exchange: u32,
    /// True once its head has been read.
    pub(super) handled: bool,
    /// True if the gateway awaits (more of) its body.
    pub(super) body: bool,
    /// True if places for connections run short.
    pub(super) crowded: bool,
}

/// The verdict on a client that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No limit applies.
    Free,
    /// Check again at this time, if nothing happens before.
    Until(Instant),
    /// It took too long.
    Cut(CutReason),
}

/// The timeouts of one connection.
#[derive(Debug)]
pub(super) struct Guard {
    rules: Rules,
    exchange: u32,
    head: Head,
    body: Patience,
    sending: Patience,
    look: Option<Look>,
}

/// The state of the head of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    /// No byte of the first one has come.
    Silent { since: Instant },
    /// Between two requests.
    Idle { since: Option<Instant> },
    /// A part of it has come. The time is noted when the rest is waited for, which is at once.
    Begun { since: Option<Instant> },
    /// It is complete.
    Read,
}

impl Guard {
    /// The state of a connection that was accepted at `accepted`.
    pub(super) fn new(rules: Rules, accepted: Instant) -> Self {
        Self {
            rules,
            exchange: 0,
            head: Head::Silent { since: accepted },
            body: Patience::new(rules.body_timeout, rules.body_min_rate),
            sending: Patience::new(rules.send_timeout, rules.send_min_rate),
            look: None,
        }
    }

    /// The timeouts and rates that apply.
    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Notes that the client has sent bytes.
    pub(super) fn read(&mut self, bytes: usize, seen: Seen, now: impl FnOnce() -> Instant) {
        self.notice(seen);
        match self.head {
            Head::Silent { since } => self.head = Head::Begun { since: Some(since) },
            Head::Idle { .. } => self.head = Head::Begun { since: None },
            Head::Begun { .. } => {}
            Head::Read => self.body.moved(bytes as u64, now),
        }
    }

    /// The verdict on a read that finds no bytes.
    pub(super) fn waits_to_read(&mut self, seen: Seen, now: impl FnOnce() -> Instant) -> Verdict {
        self.notice(seen);
        match &mut self.head {
            Head::Silent { since } => due(*since + self.rules.header_timeout, now(), CutReason::Silent),
            Head::Begun { since } => {
                let now = now();
                due(*since.get_or_insert(now) + self.rules.header_timeout, now, CutReason::Header)
            }
            Head::Idle { since } if seen.crowded => {
                let now = now();
                due(*since.get_or_insert(now) + CROWDED_IDLE, now, CutReason::Crowded)
            }
            Head::Read if seen.body => self.body.wait(now(), CutReason::BodyTimeout, CutReason::BodyRate),
            Head::Idle { .. } | Head::Read => {
                // A client isn't late while its bytes are not awaited: a body that an origin doesn't read
                // yet, an upgraded connection.
                self.body.rest();
                Verdict::Free
            }
        }
    }

    /// Notes that bytes of an answer have been written.
    pub(super) fn wrote(&mut self, bytes: usize, now: impl FnOnce() -> Instant) {
        // Bytes that were acknowledged while this write waited have counted already.
        let counted = self.look.take().map_or(0, |look| look.counted);
        self.sending.moved((bytes as u64).saturating_sub(counted), now);
    }

    /// The verdict on a write that can't continue. `taken` returns the total of acknowledged bytes, if it is
    /// known.
    pub(super) fn waits_to_write(&mut self, now: Instant, taken: impl FnOnce() -> Option<u64>) -> Verdict {
        let every = self.rules.send_timeout / 4;
        let look = self.look.get_or_insert(Look { next: now + LOOK.min(every), taken: None, counted: 0 });
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
            Verdict::Until(at) => Verdict::Until(at.min(next)),
            other => other,
        }
    }

    /// Notes that the fast lane has answered a request. `more`: further bytes have come behind it.
    pub(super) fn answered(&mut self, more: bool) {
        self.head = if more { Head::Begun { since: None } } else { Head::Idle { since: None } };
    }

    /// Notes that the gateway has served a request of the fast lane. `more`: further bytes have come behind
    /// it.
    pub(super) fn served(&mut self, seen: Seen, more: bool) {
        self.notice(seen);
        self.answered(more);
    }

    /// Returns true if an incomplete head has come: if the connection ends now, it ends within a request.
    pub(super) fn is_within_head(&mut self, seen: Seen) -> bool {
        self.notice(seen);
        matches!(self.head, Head::Begun { .. })
    }

    /// The time since which the current head has been awaited.
    pub(super) fn head_since(&self) -> Option<Instant> {
        match self.head {
            Head::Begun { since } => since,
            Head::Silent { since } => Some(since),
            Head::Idle { .. } | Head::Read => None,
        }
    }

    fn notice(&mut self, seen: Seen) {
        if seen.exchange != self.exchange {
            self.exchange = seen.exchange;
            self.head = Head::Idle { since: None };
            self.body = Patience::new(self.rules.body_timeout, self.rules.body_min_rate);
        }
        if seen.handled {
            self.head = Head::Read;
        }
    }
}

fn due(at: Instant, now: Instant, reason: CutReason) -> Verdict {
    if now < at {
        Verdict::Until(at)
    } else {
        Verdict::Cut(reason)
    }
}

/// The progress of a pending write.
#[derive(Debug)]
struct Look {
    next: Instant,
    /// The bytes that the client had acknowledged at the last check.
    taken: Option<u64>,
    /// The bytes of this write that have counted as progress.
    counted: u64,
}

/// A time budget for a client that is waited for, of at most `most`. Waiting spends it; each byte refunds
/// 1/`rate` seconds, or all of it without a least rate.
#[derive(Debug)]
pub(super) struct Patience {
    most: Duration,
    rate: u64,
    left: Duration,
    since: Option<Instant>,
}

impl Patience {
    /// A budget of this size, with a least rate in bytes a second; 0: no least rate.
    pub(super) fn new(most: Duration, rate: u64) -> Self {
        Self { most, rate, left: most, since: None }
    }

    /// Notes that bytes have moved.
    pub(super) fn moved(&mut self, bytes: u64, now: impl FnOnce() -> Instant) {
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(now().saturating_duration_since(since));
        }
        if self.left < self.most {
            self.left = self.left.saturating_add(self.worth(bytes)).min(self.most);
        }
    }

    /// The verdict while waiting: `nothing` is the reason for a stalled transfer, `too_little` for a slow
    /// one.
    pub(super) fn wait(&mut self, now: Instant, nothing: CutReason, too_little: CutReason) -> Verdict {
        let since = *self.since.get_or_insert(now);
        let reason = if now.saturating_duration_since(since) < self.most { too_little } else { nothing };
        due(since + self.left, now, reason)
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
#[path = "guard_tests.rs"]
mod tests;
