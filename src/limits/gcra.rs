//! The generic cell rate algorithm (ITU-T I.371): a leaky bucket, kept as one number.
//!
//! Pure. The state of a client is the time at which its bucket will be empty. A request adds one *interval*
//! and is refused if the bucket would overflow; the bucket drains with time. So a client within the rate is
//! never refused, one above it gets exactly the rate, and nothing happens at the boundary of a window.
//!
//! Times are nanoseconds on any clock that never goes back; 0 is before all of them.

use std::time::Duration;

/// A rate: requests per time, and a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRate {
    /// The amount that one request adds, in nanoseconds; never 0.
    interval: u64,
    /// The capacity of the bucket, in nanoseconds.
    capacity: u64,
}

/// The decision on a request, and the state of the bucket after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitStanding {
    /// True if the request is allowed.
    pub passed: bool,
    /// The number of further requests that would be allowed at this moment.
    pub remaining: u64,
    /// The time until one more would be allowed.
    pub wait: Duration,
    /// The time until the bucket is empty.
    pub busy: Duration,
}

impl RequestRate {
    /// A rate of `requests` in `window`, at most `burst` of them at once. None of them may be 0; the least
    /// interval is 1 ns.
    pub fn new(requests: u32, window: Duration, burst: u32) -> Self {
        let window = duration_nanoseconds(window);
        let interval = (window / u64::from(requests.max(1))).max(1);
        Self { interval, capacity: interval.saturating_mul(u64::from(burst.max(1))) }
    }

    /// Decides on one more request at `now` of a client whose bucket is empty at `empty_at`. The second value
    /// is the time when it will be empty then; unchanged if the request is refused.
    pub fn take(self, empty_at: u64, now: u64) -> (LimitStanding, u64) {
        let busy = self.busy(empty_at, now);
        let poured = busy.saturating_add(self.interval);
        let passed = poured <= self.capacity;
        let busy = if passed { poured } else { busy };
        (self.standing(passed, busy), now.saturating_add(busy))
    }

    /// Takes back a request that was allowed.
    pub fn give_back(self, empty_at: u64) -> u64 {
        empty_at.saturating_sub(self.interval)
    }

    /// The state of a bucket that will be empty after `busy`, for requests of any node.
    pub fn told(self, passed: bool, busy: Duration) -> LimitStanding {
        self.standing(passed, duration_nanoseconds(busy).min(self.capacity))
    }

    /// The amount that one request adds.
    pub fn interval(self) -> Duration {
        Duration::from_nanos(self.interval)
    }

    /// The capacity of the bucket.
    pub fn capacity(self) -> Duration {
        Duration::from_nanos(self.capacity)
    }

    fn standing(self, passed: bool, busy: u64) -> LimitStanding {
        let room = self.capacity - busy;
        let missing = self.interval.saturating_sub(room);
        LimitStanding {
            passed,
            remaining: room / self.interval,
            wait: Duration::from_nanos(missing),
            busy: Duration::from_nanos(busy),
        }
    }

    /// The content of the bucket, at most its capacity: the rate may have changed.
    fn busy(self, empty_at: u64, now: u64) -> u64 {
        empty_at.saturating_sub(now).min(self.capacity)
    }
}

fn duration_nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    const SECOND: u64 = 1_000_000_000;

    fn rate(requests: u32, seconds: u64, burst: u32) -> RequestRate {
        RequestRate::new(requests, Duration::from_secs(seconds), burst)
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let rate = rate(60, 60, 3);
        let (mut empty_at, mut now) = (0, 5 * SECOND);
        for left in [2, 1, 0] {
            let (standing, after) = rate.take(empty_at, now);
            assert_eq!((standing.passed, standing.remaining), (true, left));
            empty_at = after;
        }
        let (refused, after) = rate.take(empty_at, now);
        assert_eq!((refused.passed, refused.remaining, refused.wait.as_millis()), (false, 0, 1_000));
        assert_eq!((after, refused.busy.as_secs()), (empty_at, 3));
        now += SECOND * 4 / 10;
        assert_eq!(rate.take(empty_at, now).0.wait.as_millis(), 600);
        now += SECOND * 6 / 10;
        let (passed, after) = rate.take(empty_at, now);
        assert!(passed.passed && passed.remaining == 0 && passed.wait.as_secs() == 1);
        assert_eq!(rate.give_back(after), empty_at);
        assert_eq!(rate.take(after, now + 100 * SECOND).0.remaining, 2);
    }

    #[test]
    fn another_rate_goes_on_with_what_there_is() {
        let (slow, quick) = (rate(1, 3_600, 10), rate(10, 1, 10));
        let (_, empty_at) = slow.take(0, SECOND);
        let (standing, _) = quick.take(empty_at, SECOND);
        assert_eq!((standing.passed, standing.wait.as_millis()), (false, 100));
        assert!(slow.take(quick.take(0, SECOND).1, SECOND).0.passed);
    }

    #[test]
    fn extremes_do_no_harm() {
        for (requests, window, burst) in [
            (1, Duration::MAX, u32::MAX),
            (u32::MAX, Duration::from_nanos(1), u32::MAX),
            (0, Duration::ZERO, 0),
        ] {
            let rate = RequestRate::new(requests, window, burst);
            for now in [0, 1, u64::MAX] {
                for empty_at in [0, 1, u64::MAX] {
                    let (standing, after) = rate.take(empty_at, now);
                    assert!(standing.busy <= rate.capacity() && after >= now.min(after));
                }
            }
        }
    }

    proptest! {
        /// In any time t, no more requests pass than the burst and t times the rate.
        #[test]
        fn no_more_pass_than_the_rate(
            requests in 1_u32..50, seconds in 1_u64..20, burst in 1_u32..30,
            pauses in vec(0_u64..SECOND, 1..300),
        ) {
            let rate = rate(requests, seconds, burst);
            let (mut empty_at, mut now, mut passed) = (0, SECOND, 0_u64);
            for pause in pauses {
                now += pause;
                let (standing, after) = rate.take(empty_at, now);
                prop_assert_eq!(standing.passed, after != empty_at || standing.passed);
                // The reported values hold.
                let again = rate.take(after, now + u64::try_from(standing.wait.as_nanos()).unwrap()).0;
                prop_assert!(again.passed);
                let ahead = standing.remaining;
                let mut at = after;
                for _ in 0..ahead {
                    let (more, next) = rate.take(at, now);
                    prop_assert!(more.passed);
                    at = next;
                }
                prop_assert!(!rate.take(at, now).0.passed);
                empty_at = after;
                passed += u64::from(standing.passed);
            }
            let interval = u64::try_from(rate.interval().as_nanos()).unwrap();
            prop_assert!(passed <= u64::from(burst) + (now - SECOND) / interval);
        }

        /// A client within the rate is never refused.
        #[test]
        fn who_keeps_to_the_rate_passes(requests in 1_u32..50, burst in 1_u32..5, count in 1_usize..100) {
            let rate = rate(requests, 1, burst);
            let step = u64::try_from(rate.interval().as_nanos()).unwrap();
            let mut empty_at = 0;
            for n in 0..count {
                let (standing, after) = rate.take(empty_at, SECOND + step * n as u64);
                prop_assert!(standing.passed);
                empty_at = after;
            }
        }
    }
}
