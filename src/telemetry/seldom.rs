//! A line in the log for what may happen a thousand times a second.
//!
//! Pure: the clock is an argument.

use std::time::{Duration, Instant};

/// No more than one line in this time.
const BETWEEN_LINES: Duration = Duration::from_secs(1);

/// When the last line was written, and what has happened since.
#[derive(Debug, Default)]
pub struct Seldom {
    last: Option<Instant>,
    since: u64,
}

impl Seldom {
    /// One more. How many there are to tell of, if it is time.
    pub fn add(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < BETWEEN_LINES) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_a_line_a_second() {
        let (mut line, begin) = (Seldom::default(), Instant::now());
        assert_eq!(line.add(begin), Some(1));
        let later = |ms: u64| begin + Duration::from_millis(ms);
        assert_eq!((1..1000).filter_map(|ms| line.add(later(ms))).count(), 0);
        assert_eq!(line.add(later(1000)), Some(1000));
        assert_eq!(line.add(later(1001)), None);
    }
}
