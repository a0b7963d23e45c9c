//! Fences: which reports of changes are of a change after a read.
//!
//! Reports and replies come over different connections, so that a report may come after a read that has seen its change
//! already. A *fence* is a question on the reporting connections. Its answer comes behind the reports of all changes that
//! were made before it was asked: what is reported after the answer was changed after the read.

use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers the fences of a store.
#[derive(Debug, Default)]
pub struct Fences {
    begun: AtomicU64,
    passed: AtomicU64,
}

impl Fences {
    /// Begins a fence; the question is sent after this.
    pub fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The question of this fence was answered.
    pub fn pass(&self, fence: u64) {
        self.passed.fetch_max(fence, Ordering::AcqRel);
    }

    /// The last fence that has begun: one that comes after a read has a higher number.
    pub(super) fn last(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// Returns whether a fence was passed that began after this one.
    pub(super) fn is_past(&self, last: u64) -> bool {
        self.passed.load(Ordering::Acquire) > last
    }
}
