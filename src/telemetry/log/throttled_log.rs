//! Limits a log line for an event that may happen a thousand times a second.
//!
//! Pure: the clock is an argument.

use std::time::{Duration, Instant};

/// The least time between two lines.
const BETWEEN_LINES: Duration = Duration::from_secs(1);

/// The time of the last line, and the number of events since.
#[derive(Debug, Default)]
pub(crate) struct ThrottledLog {
    last: Option<Instant>,
    since: u64,
}

impl ThrottledLog {
    /// Counts an event. Returns the number of events to report if a line is due.
    pub(crate) fn add(&mut self, now: Instant) -> Option<u64> {
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
        let (mut line, begin) = (ThrottledLog::default(), Instant::now());
        assert_eq!(line.add(begin), Some(1));
        let later = |ms: u64| begin + Duration::from_millis(ms);
        assert_eq!((1..1000).filter_map(|ms| line.add(later(ms))).count(), 0);
        assert_eq!(line.add(later(1000)), Some(1000));
        assert_eq!(line.add(later(1001)), None);
    }
}
