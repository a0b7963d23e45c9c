//! How long a client may take for its part of an exchange, and when it has taken too long.
//!
//! Pure: it is told what happened and asked what applies; the clock comes in as an argument, and is asked for only
//! where a client is waited for. What arrives and leaves without waiting costs a few comparisons.
//!
//! - A *head* has one deadline, from the accept or from the first byte of a further request to its end: bytes that
//!   drip in don't move it (slow loris).
//! - A *body* that the gateway waits for, and an *answer* that the client doesn't take, are watched with
//!   `Patience`: waiting uses it up, bytes give it back by the least rate. One deadline is both "nothing for so
//!   long" and "too little for so long", and what was sent fast earns no right to be slow for long.
//! - A connection between two requests is none of this module's business (keep-alive), unless places run short.
//!
//! What counts of an answer is what the client's system has acknowledged, not what ours has buffered: a buffer of a
//! megabyte reports room only after a third of it is gone, which an honest slow client may need minutes for.
//! Whoever enforces this looks at it from time to time (`LOOK`).
//!
//! Never does I/O, never reads a clock.

use crate::telemetry::labels::CutReason;
use std::time::{Duration, Instant};

/// How long a write waits before it is looked at what the client has taken; four times in `send_timeout` from then on.
const LOOK: Duration = Duration::from_secs(1);
/// How long a connection is kept between two requests while places are short.
pub(super) const CROWDED_IDLE: Duration = Duration::from_secs(1);

/// What clients are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// For a whole head.
    pub header_timeout: Duration,
    /// Between two pieces of a body.
    pub body_timeout: Duration,
    /// Bytes a second of a body; 0: any.
    pub body_min_rate: u64,
    /// For a pending write without any progress.
    pub send_timeout: Duration,
    /// Bytes a second of an answer that is waited with; 0: any.
    pub send_min_rate: u64,
}

/// What the gateway and the door tell of the exchange under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seen {
    /// Its number on this connection.
    pub(super) exchange: u32,
    /// Whether its head has been read.
    pub(super) handled: bool,
    /// Whether the gateway wants (more of) its body.
    pub(super) body: bool,
    /// Whether places for connections run short.
    pub(super) crowded: bool,
}

/// What applies to a client that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: it may take its time.
    Free,
    /// To be asked again then, if nothing happens before.
    Until(Instant),
    /// It took too long.
    Cut(CutReason),
}

/// What is known of one connection.
#[derive(Debug)]
pub(super) struct Guard {
    rules: Rules,
    exchange: u32,
    head: Head,
    body: Patience,
    sending: Patience,
    look: Option<Look>,
}

/// How far the head of the request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    /// Nothing of the first one has come.
    Silent { since: Instant },
    /// Between two requests.
    Idle { since: Option<Instant> },
    /// A part of it has come. The time is noted when the rest has to be waited for, which is at once.
    Begun { since: Option<Instant> },
    /// All of it.
    Read,
}

impl Guard {
    /// For a connection that was accepted then.
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

    /// What it goes by.
    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The client has sent so much.
    pub(super) fn read(&mut self, bytes: usize, seen: Seen, now: impl FnOnce() -> Instant) {
        self.notice(seen);
        match self.head {
            Head::Silent { since } => self.head = Head::Begun { since: Some(since) },
            Head::Idle { .. } => self.head = Head::Begun { since: None },
            Head::Begun { .. } => {}
            Head::Read => self.body.moved(bytes as u64, now),
        }
    }

    /// The gateway wants to read, and nothing is there.
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
                // Who is not wanted is not waited for: a body that an origin doesn't take yet, an upgraded connection.
                self.body.rest();
                Verdict::Free
            }
        }
    }

    /// So much of an answer has been written.
    pub(super) fn wrote(&mut self, bytes: usize, now: impl FnOnce() -> Instant) {
        // What was seen to be taken while this waited has counted already.
        let counted = self.look.take().map_or(0, |look| look.counted);
        self.sending.moved((bytes as u64).saturating_sub(counted), now);
    }

    /// A write can't go on. `taken`: how many bytes the client's system has acknowledged in all, if that is known.
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

    /// A request was answered of which the gateway was told nothing. `more`: something behind it has come.
    pub(super) fn answered(&mut self, more: bool) {
        self.head = if more { Head::Begun { since: None } } else { Head::Idle { since: None } };
    }

    /// The gateway has served a request that it got from who looks ahead. `more`: something behind it has come.
    pub(super) fn served(&mut self, seen: Seen, more: bool) {
        self.notice(seen);
        self.answered(more);
    }

    /// Whether a part of a head has come, and no more: what ends now, ends with a request under way.
    pub(super) fn is_within_head(&mut self, seen: Seen) -> bool {
        self.notice(seen);
        matches!(self.head, Head::Begun { .. })
    }

    /// Since when the head that is under way has been waited for.
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

/// What was seen of a write that waits.
#[derive(Debug)]
struct Look {
    next: Instant,
    /// What the client had acknowledged at the last look.
    taken: Option<u64>,
    /// What of this write has counted as progress.
    counted: u64,
}

/// Patience with a client that is waited for: so much at most. Each second of waiting uses up one; each byte gives
/// back the time that it may take by the least rate, any byte all of it where there is none.
#[derive(Debug)]
pub(super) struct Patience {
    most: Duration,
    rate: u64,
    left: Duration,
    since: Option<Instant>,
}

impl Patience {
    /// Patience of this length, at this least rate in bytes a second; 0: any.
    pub(super) fn new(most: Duration, rate: u64) -> Self {
        Self { most, rate, left: most, since: None }
    }

    /// Notes that bytes have come or gone.
    pub(super) fn moved(&mut self, bytes: u64, now: impl FnOnce() -> Instant) {
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(now().saturating_duration_since(since));
        }
        if self.left < self.most {
            self.left = self.left.saturating_add(self.worth(bytes)).min(self.most);
        }
    }

    /// It is waited, for nothing or for too little.
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
