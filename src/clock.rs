//! The time, by two clocks: one for durations, one for dates.
//!
//! [`now_ms`] is for lifetimes, pauses and marks. It starts at the wall clock of the process's start and
//! advances with the monotonic clock, so that setting the wall clock back makes no answer younger. If the
//! wall clock is ahead of it (set forward, or the machine has slept), it catches up, within [`STEP_CHECK_INTERVAL`]: a
//! lifetime that has ended by the wall clock has ended. [`wall_ms`] is the wall clock itself: for times
//! exchanged with other machines, in dates, tokens, signatures, logs, and in the envelopes of the store. A
//! [`ClockReading`] holds both, and converts one into the other.

use std::{
    sync::{
        atomic::{AtomicU64, Ordering},
        LazyLock,
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The interval at which the wall clock is read.
pub const STEP_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The tolerated difference between two machines' clocks, in milliseconds.
const TOLERANCE_MS: u64 = 2_000;
/// The smallest step of the wall clock that is logged.
const STEP: Duration = Duration::from_millis(500);
const NANOS_PER_MS: u64 = 1_000_000;

static CLOCK: LazyLock<MonotonicClock> =
    LazyLock::new(|| MonotonicClock::new(Instant::now(), since_1970(wall())));

/// Milliseconds since 1970 by a clock that never goes back.
pub fn now_ms() -> u64 {
    CLOCK.at(Instant::now()) / NANOS_PER_MS
}

/// Milliseconds since 1970 by the wall clock.
pub fn wall_ms() -> u64 {
    nanos(since_1970(wall())) / NANOS_PER_MS
}

/// The wall clock.
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// The time by both clocks.
pub fn reading() -> ClockReading {
    ClockReading { now_ms: now_ms(), wall_ms: wall_ms() }
}

/// The time by both clocks at an instant, without reading either: the wall clock as of the last look.
pub fn reading_at(instant: Instant) -> ClockReading {
    CLOCK.reading_at(instant)
}

/// Reads the wall clock at intervals, for ever.
pub async fn watch_wall_clock() {
    loop {
        tokio::time::sleep(STEP_CHECK_INTERVAL).await;
        // In this order a thread that is delayed in between sees the wall clock as late, never as early.
        let wall = since_1970(wall());
        match CLOCK.look(Instant::now(), wall) {
            ClockStep::None => {}
            ClockStep::Forward(by) => {
                tracing::warn!(
                    by_ms = by.as_millis(),
                    "the clock was set forward: lifetimes that are over by it have ended"
                );
            }
            ClockStep::Back(by) => {
                tracing::warn!(
                    by_ms = by.as_millis(),
                    "the clock was set back: lifetimes are not prolonged by it"
                );
            }
        }
    }
}

/// The time by both clocks, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// By the clock that never goes back: [`now_ms`].
    pub now_ms: u64,
    /// By the wall clock: [`wall_ms`].
    pub wall_ms: u64,
}

impl ClockReading {
    /// The wall clock's time at a moment given by the other clock.
    pub fn to_wall(self, then_ms: u64) -> u64 {
        self.wall_ms.saturating_sub(self.now_ms.saturating_sub(then_ms))
    }

    /// Converts a time by another machine's wall clock; a time slightly in the future becomes now. `None`: it
    /// is further ahead than the tolerance, so its age can't be determined.
    pub fn from_wall(self, told_ms: u64) -> Option<u64> {
        let is_right = told_ms <= self.wall_ms.saturating_add(TOLERANCE_MS);
        is_right.then(|| self.now_ms.saturating_sub(self.wall_ms.saturating_sub(told_ms)))
    }

    /// The wall clock's time.
    pub fn wall(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.wall_ms)
    }
}

/// A step of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClockStep {
    None,
    Forward(Duration),
    Back(Duration),
}

/// A clock that never goes back. It gets the monotonic clock's instants and the wall clock's time.
struct MonotonicClock {
    zero: Instant,
    /// The time at `zero`, in nanoseconds since 1970; grows when the wall clock is set forward.
    at_zero: AtomicU64,
    /// Nanoseconds by which it is ahead of the wall clock.
    ahead: AtomicU64,
}

impl MonotonicClock {
    fn new(zero: Instant, wall: Duration) -> Self {
        Self { zero, at_zero: AtomicU64::new(nanos(wall)), ahead: AtomicU64::new(0) }
    }

    /// The time at an instant, in nanoseconds since 1970.
    fn at(&self, instant: Instant) -> u64 {
        let passed = instant.saturating_duration_since(self.zero);
        self.at_zero.load(Ordering::Relaxed).saturating_add(nanos(passed))
    }

    fn reading_at(&self, instant: Instant) -> ClockReading {
        let now = self.at(instant);
        let wall = now.saturating_sub(self.ahead.load(Ordering::Relaxed));
        ClockReading { now_ms: now / NANOS_PER_MS, wall_ms: wall / NANOS_PER_MS }
    }

    /// Records the wall clock's time at an instant. One caller at a time.
    fn look(&self, at: Instant, wall: Duration) -> ClockStep {
        let (now, wall) = (self.at(at), nanos(wall));
        let late_by = wall.saturating_sub(now);
        self.at_zero.fetch_add(late_by, Ordering::Relaxed);
        let ahead = now.saturating_sub(wall);
        let was_ahead = self.ahead.swap(ahead, Ordering::Relaxed);
        // A step forward by less than it was ahead is a step as well, and changes no duration.
        let forward = Duration::from_nanos(late_by.saturating_add(was_ahead.saturating_sub(ahead)));
        let back = Duration::from_nanos(ahead.saturating_sub(was_ahead));
        match (forward >= STEP, back >= STEP) {
            (true, _) => ClockStep::Forward(forward),
            (_, true) => ClockStep::Back(back),
            _ => ClockStep::None,
        }
    }
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Converts to nanoseconds, at most those of the year 2554.
fn nanos(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(time.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Duration = Duration::from_secs(1_800_000_000);
    const START_MS: u64 = 1_800_000_000_000;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The clock's reading two seconds after the wall clock was set, by this many seconds, at the tenth
    /// second.
    fn after_step(by_seconds: i64) -> ClockReading {
        let zero = Instant::now();
        let clock = MonotonicClock::new(zero, START);
        let wall = |second: u64| (START + secs(second)).as_secs().saturating_add_signed(by_seconds);
        clock.look(zero + secs(9), START + secs(9));
        clock.look(zero + secs(10), secs(wall(10)));
        clock.reading_at(zero + secs(12))
    }

    #[test]
    fn a_step_forward_is_followed_and_one_back_is_not() {
        let untouched = START_MS + 12_000;
        for (by_seconds, now_ms, wall_ms) in [
            (0, untouched, untouched),
            (600, untouched + 600_000, untouched + 600_000),
            (-600, untouched, untouched - 600_000),
            (-1, untouched, untouched - 1_000),
        ] {
            assert_eq!(after_step(by_seconds), ClockReading { now_ms, wall_ms }, "{by_seconds}");
        }
    }

    #[test]
    fn steps_are_told_once() {
        let zero = Instant::now();
        let clock = MonotonicClock::new(zero, START);
        let looks = [(1, 1), (2, 2), (3, 603), (4, 604), (5, 305), (6, 306), (7, 607), (8, 608)];
        let told = looks.map(|(second, wall)| clock.look(zero + secs(second), START + secs(wall)));
        let (forward, back) = (ClockStep::Forward(secs(600)), ClockStep::Back(secs(300)));
        let again = ClockStep::Forward(secs(300));
        assert_eq!(
            told,
            [
                ClockStep::None,
                ClockStep::None,
                forward,
                ClockStep::None,
                back,
                ClockStep::None,
                again,
                ClockStep::None
            ]
        );
    }

    #[test]
    fn moments_are_told_by_the_wall_clock_and_never_come_from_the_future() {
        // This node's clock was set back by a minute.
        let here = ClockReading { now_ms: 1_060_000, wall_ms: 1_000_000 };
        assert_eq!(here.to_wall(1_050_000), 990_000);
        assert_eq!(here.from_wall(990_000), Some(1_050_000));
        assert_eq!(here.from_wall(1_000_500), Some(here.now_ms), "another clock is a little ahead");
        assert_eq!(here.from_wall(1_000_000 + TOLERANCE_MS + 1), None);
        assert_eq!(here.from_wall(0), Some(60_000));
    }

    proptest! {
        #[test]
        fn it_never_goes_back_nor_stays_behind_the_wall_clock(
            steps in proptest::collection::vec((0_u64..5_000, -700_000_i64..700_000), 1..40)
        ) {
            let zero = Instant::now();
            let clock = MonotonicClock::new(zero, START);
            let (mut instant, mut wall_ms, mut last) = (zero, START_MS, 0);
            for (pass_ms, step_ms) in steps {
                instant += Duration::from_millis(pass_ms);
                wall_ms = (wall_ms + pass_ms).saturating_add_signed(step_ms);
                let before = clock.reading_at(instant).now_ms;
                prop_assert!(before >= last);
                clock.look(instant, Duration::from_millis(wall_ms));
                let after = clock.reading_at(instant);
                prop_assert_eq!(after.now_ms, before.max(wall_ms));
                prop_assert_eq!(after.wall_ms, wall_ms);
                last = after.now_ms;
            }
        }
    }
}
