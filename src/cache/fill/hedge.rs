//! The time for which a fill waits for that of another node, before it asks the origin itself (a hedged
//! request).
//!
//! Leases save requests to the origin; they must never cost a client more than the origin would. So a wait is
//! bounded by the usual time of the route's fills, and a key in place of a lease that would never expire is
//! ignored. Decides by its arguments. [`UsualFillTime`] holds state, and reads no clock.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The shortest wait, unless the route sets one: a fill that took a millisecond may take a hundred the next
/// time.
const SHORTEST_WAIT: Duration = Duration::from_millis(500);
/// The interval at which a lease is looked at, if no report announces its end.
const LOOK: Duration = Duration::from_millis(25);
/// The multiple of the usual time that is waited for.
const USUAL_TIMES: u32 = 2;
/// The weight of the mean against that of one more fill, 1.
const WEIGHT: u64 = 7;

/// The time that the fills of a route take: an exponentially weighted mean.
#[derive(Debug, Default)]
pub struct UsualFillTime(AtomicU64);

impl UsualFillTime {
    /// Adds the time of a fill that got an answer. Of two at the same moment one may be lost.
    pub fn learn(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).clamp(1, u64::MAX / (WEIGHT + 1));
        let next = match self.0.load(Ordering::Relaxed) {
            0 => took,
            mean => (mean * WEIGHT + took) / (WEIGHT + 1),
        };
        self.0.store(next.max(1), Ordering::Relaxed);
    }

    /// The mean; `None`: there was no fill yet.
    pub fn mean(&self) -> Option<Duration> {
        Some(self.0.load(Ordering::Relaxed)).filter(|mean| *mean > 0).map(Duration::from_micros)
    }
}

/// The longest time that a fill waits for another node's: the configured one, else by the usual time of its
/// fills.
pub fn longest_wait(configured: Option<Duration>, usual: Option<Duration>) -> Duration {
    configured.unwrap_or_else(|| (usual.unwrap_or_default() * USUAL_TIMES).max(SHORTEST_WAIT))
}

/// The state of the lease that a fill has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseState {
    /// This fill holds it.
    Ours,
    /// Another fill holds it, until it expires or is released.
    Theirs,
    /// It has just ended.
    Gone,
    /// The key would never expire, or has another type: it is no lease.
    Invalid,
    /// The store did not answer in time: this fill may hold it, and others wait until it is released.
    Unheard,
    /// The store can't be asked.
    Unreachable,
}

/// The next step of a fill that has not found its answer in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseStep {
    /// Asks the origin, and others wait for it.
    Fill,
    /// Asks the origin, unknown to other nodes.
    Alone,
    /// Asks the store again at once.
    Again,
    /// Waits for the end of the lease, at most this long, then asks the store again.
    Wait(Duration),
    /// Asks the origin beside the other fill.
    Hedge(HedgeCause),
}

/// The reason why a fill no longer waits for the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HedgeCause {
    /// The other fill takes too long.
    Slow,
    /// There is a value, but no lease.
    NoLease,
}

/// Decides the next step of a fill that has `waited` this long, and may wait for `at_most`.
pub fn next_lease_step(lease: LeaseState, waited: Duration, at_most: Duration) -> LeaseStep {
    match lease {
        LeaseState::Ours | LeaseState::Unheard => LeaseStep::Fill,
        LeaseState::Unreachable => LeaseStep::Alone,
        LeaseState::Invalid => LeaseStep::Hedge(HedgeCause::NoLease),
        LeaseState::Theirs | LeaseState::Gone if waited >= at_most => LeaseStep::Hedge(HedgeCause::Slow),
        LeaseState::Gone => LeaseStep::Again,
        LeaseState::Theirs => LeaseStep::Wait(at_most - waited),
    }
}

/// The time after which a waiting fill asks for the lease again without a report of its end: a `lease`, after
/// which the present one has expired or was renewed; a moment if the store reports nothing.
pub fn lease_patience(is_reported: bool, lease: Duration, at_most: Duration) -> Duration {
    let patience = if is_reported { lease } else { LOOK };
    patience.min(at_most)
}

/// The times at which a fill that asks the origin looks for the answer of another node's fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LookPlan {
    /// The time until the first look.
    pub first: Duration,
    /// The longest pause between two.
    pub pause: Duration,
}

/// Decides when a fill looks for another's answer: at once if the other one was first, else once this one
/// takes so long that others no longer wait for it.
pub fn plan_looks(has_lease: bool, longest_wait: Duration) -> LookPlan {
    match has_lease {
        true => LookPlan { first: longest_wait, pause: longest_wait },
        false => LookPlan { first: Duration::ZERO, pause: Duration::MAX },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_wait_is_bounded_by_the_route_or_by_its_usual_fills() {
        for (configured, usual, longest) in [
            (None, None, 500),
            (None, Some(20), 500),
            (None, Some(400), 800),
            (None, Some(7_000), 14_000),
            (Some(50), Some(7_000), 50),
            (Some(9_000), Some(20), 9_000),
        ] {
            let found = longest_wait(configured.map(ms), usual.map(ms));
            assert_eq!(found, ms(longest), "{configured:?} {usual:?}");
        }
    }

    #[test]
    fn what_is_usual_is_learned_and_forgotten() {
        let usual = UsualFillTime::default();
        assert_eq!(usual.mean(), None);
        usual.learn(ms(80));
        assert_eq!(usual.mean(), Some(ms(80)));
        usual.learn(ms(880));
        assert_eq!(usual.mean(), Some(ms(180)), "one is no rule");
        (0..60).for_each(|_| usual.learn(ms(880)));
        assert!(usual.mean().is_some_and(|mean| mean > ms(870)), "{usual:?}");
        (0..100).for_each(|_| usual.learn(Duration::ZERO));
        assert!(usual.mean().is_some_and(|mean| mean < ms(1)), "{usual:?}");
        usual.learn(Duration::MAX);
    }

    #[test]
    fn a_fill_asks_waits_or_hedges() {
        let (short, long) = (ms(100), ms(500));
        for (lease, waited, turn_expected) in [
            (LeaseState::Ours, short, LeaseStep::Fill),
            (LeaseState::Ours, long, LeaseStep::Fill),
            (LeaseState::Theirs, short, LeaseStep::Wait(ms(400))),
            (LeaseState::Theirs, long, LeaseStep::Hedge(HedgeCause::Slow)),
            (LeaseState::Gone, short, LeaseStep::Again),
            (LeaseState::Gone, long, LeaseStep::Hedge(HedgeCause::Slow)),
            (LeaseState::Invalid, Duration::ZERO, LeaseStep::Hedge(HedgeCause::NoLease)),
            (LeaseState::Unheard, short, LeaseStep::Fill),
            (LeaseState::Unreachable, short, LeaseStep::Alone),
        ] {
            assert_eq!(next_lease_step(lease, waited, long), turn_expected, "{lease:?} {waited:?}");
        }
    }

    #[test]
    fn a_wait_ends_without_a_report() {
        let lease = ms(300);
        for (is_reported, at_most, longest) in [
            (true, ms(500), lease),
            (true, ms(100), ms(100)),
            (false, ms(500), LOOK),
            (false, ms(10), ms(10)),
        ] {
            assert_eq!(lease_patience(is_reported, lease, at_most), longest, "{is_reported} {at_most:?}");
        }
    }

    #[test]
    fn a_fill_without_the_lease_looks_at_once() {
        let beside = |has_lease| plan_looks(has_lease, ms(500));
        assert_eq!(beside(true), LookPlan { first: ms(500), pause: ms(500) });
        assert_eq!(beside(false), LookPlan { first: Duration::ZERO, pause: Duration::MAX });
    }

    proptest! {
        #[test]
        fn nobody_waits_for_longer_than_it_may(
            states in proptest::collection::vec((0_usize..3, 0_u64..300), 0..50), at_most in 0_u64..2_000,
        ) {
            let mut waited = 0;
            for (state, passed) in states {
                let lease = [LeaseState::Theirs, LeaseState::Gone, LeaseState::Invalid][state];
                match next_lease_step(lease, ms(waited), ms(at_most)) {
                    LeaseStep::Wait(left) => prop_assert_eq!(ms(waited) + left, ms(at_most)),
                    LeaseStep::Again => prop_assert!(waited < at_most),
                    LeaseStep::Fill | LeaseStep::Alone | LeaseStep::Hedge(_) => break,
                }
                waited += passed;
            }
            prop_assert!(matches!(next_lease_step(LeaseState::Theirs, ms(waited.max(at_most)), ms(at_most)), LeaseStep::Hedge(_)));
        }
    }
}
