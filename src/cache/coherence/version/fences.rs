//! Fences: they tell reports of changes after a read from those before it.
//!
//! Reports and replies come over different connections, so that a report may arrive after a read that has
//! already seen its change. A *fence* is a question on the reporting connections. Its answer follows the
//! reports of all earlier changes: a change that is reported after the answer was made after the read.

use std::sync::atomic::{AtomicU64, Ordering};

/// The fences of a store, numbered.
#[derive(Debug, Default)]
pub struct FenceCounter {
    begun: AtomicU64,
    passed: AtomicU64,
}

impl FenceCounter {
    /// Begins a fence; the question is sent after this.
    pub fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Records that the question of this fence was answered.
    pub fn pass(&self, fence: u64) {
        self.passed.fetch_max(fence, Ordering::AcqRel);
    }

    /// The last fence that has begun: one that begins after a read has a higher number.
    pub(crate) fn last(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// Returns true if a fence was passed that began after this one.
    pub(crate) fn is_past(&self, last: u64) -> bool {
        self.passed.load(Ordering::Acquire) > last
    }
}
