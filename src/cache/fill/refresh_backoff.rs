//! Pauses between refreshes that fail, each twice as long as the one before: an origin that answers with
//! errors is not asked again for every request for a stale entry.

use ahash::RandomState;
use parking_lot::Mutex;
use std::collections::HashMap;

/// The first pause, in milliseconds.
const FIRST_PAUSE_MS: u64 = 500;
/// The longest pause, in milliseconds.
const LONGEST_PAUSE_MS: u64 = 10_000;
/// The most entries with a pause; beyond it those whose pauses are over are forgotten, or all.
const MAX_PAUSES: usize = 10_000;

#[derive(Debug, Clone, Copy)]
struct RefreshPause {
    until_ms: u64,
    length_ms: u64,
}

/// The pauses of this node.
#[derive(Default)]
pub(crate) struct RefreshPauses(Mutex<HashMap<Box<str>, RefreshPause, RandomState>>);

impl RefreshPauses {
    /// Returns true if the refresh of this name has to wait.
    pub(crate) fn is_paused(&self, name: &str, now_ms: u64) -> bool {
        self.0.lock().get(name).is_some_and(|pause| now_ms < pause.until_ms)
    }

    /// Records a refresh that has failed.
    pub(crate) fn begin(&self, name: &str, now_ms: u64) {
        let pauses = &mut *self.0.lock();
        if pauses.len() >= MAX_PAUSES && !pauses.contains_key(name) {
            pauses.retain(|_, pause| now_ms < pause.until_ms);
            if pauses.len() >= MAX_PAUSES {
                pauses.clear();
            }
        }
        let before = pauses.get(name).map_or(0, |pause| pause.length_ms);
        let length_ms = (before * 2).clamp(FIRST_PAUSE_MS, LONGEST_PAUSE_MS);
        pauses.insert(name.into(), RefreshPause { until_ms: now_ms.saturating_add(length_ms), length_ms });
    }

    /// Records a refresh that has succeeded.
    pub(crate) fn end(&self, name: &str) {
        self.0.lock().remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_makes_the_pause_longer() {
        let pauses = RefreshPauses::default();
        let mut now = 1_000;
        assert!(!pauses.is_paused("x", now));
        for length in [500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
            pauses.begin("x", now);
            assert!(pauses.is_paused("x", now + length - 1), "{length}");
            assert!(!pauses.is_paused("x", now + length) && !pauses.is_paused("y", now));
            now += length;
        }
        pauses.end("x");
        assert!(!pauses.is_paused("x", now));
        pauses.begin("x", now);
        assert!(!pauses.is_paused("x", now + 500), "it begins anew");
    }

    #[test]
    fn no_more_are_remembered_than_so_many() {
        let pauses = RefreshPauses::default();
        for n in 0..3 * MAX_PAUSES {
            pauses.begin(&n.to_string(), 0);
        }
        assert!(pauses.0.lock().len() <= MAX_PAUSES);
    }
}
