//! Doubt: how far this node may trust its view of the store, and for how long it serves answers when it can't
//! be sure.
//!
//! A node is *sure* while the store reports changes, the last heartbeat on the connection of the reports was
//! answered recently, the sentinels, if there are any, confirm its server, and everything reported has been
//! read. Otherwise it is in *doubt*: it may have missed a change. Answers from before the doubt are then
//! served for another `outage_ttl`, counted from the last moment at which the node was sure; an answer that
//! is filled in doubt is *provisional*: fresh for `outage_ttl` at most, and kept on this node only.
//!
//! There is one [`CoherenceDoubt`] for each server that reports. Versions and the purge log query it; the link updates
//! it. No I/O and no clock: times are milliseconds of [`crate::clock::now_ms`], passed as arguments.

use crate::cache::policy::millis;
use parking_lot::Mutex;
use std::{
    sync::atomic::{AtomicBool, AtomicU64, AtomicU8, Ordering},
    time::Duration,
};

/// The time for which an answered heartbeat counts, in milliseconds from when it was sent.
pub const TRUST_MS: u64 = 1_000;
/// A time after all others.
const NEVER: u64 = u64::MAX;

/// The state of the connection to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CoherenceState {
    /// There is no store: this node's state is authoritative.
    Alone = 0,
    /// The store reports changes.
    Tracked = 1,
    /// The store doesn't report changes: a value that was read is trusted for a while.
    Untracked = 2,
    /// The store can't be reached.
    Away = 3,
}

/// The state of the connections to one server of the store.
#[derive(Debug)]
pub struct CoherenceDoubt {
    coherence: AtomicU8,
    /// The present epoch: a value that was read in another one is not trusted.
    epoch: AtomicU64,
    /// The number of links made so far.
    links: AtomicU64,
    /// True if the link reports changes, or the last one did.
    is_reported: AtomicBool,
    /// The time until which the last answered heartbeat counts.
    sure_until_ms: AtomicU64,
    /// The time until which the server counts as the master; [`NEVER`] if there are no sentinels to confirm
    /// it.
    confirmed_until_ms: AtomicU64,
    /// The time since which values that were not read again are in doubt; 0: all were read.
    unread_since_ms: AtomicU64,
    /// The time since which calls are not answered within their deadline; 0: they are.
    silent_since_ms: AtomicU64,
    /// The last epoch in which all versions were read, and the last in which the purge log was.
    versions_read_in: AtomicU64,
    log_read_in: AtomicU64,
    /// True if this server holds the purge log.
    has_log: AtomicBool,
    /// The time for which answers are served in doubt, in milliseconds.
    outage_ttl_ms: u64,
    /// The time for which a value is trusted if the store reports no changes, in milliseconds.
    poll_ms: u64,
    /// Held while an epoch begins, or reads of one are settled.
    changing: Mutex<()>,
}

impl CoherenceDoubt {
    /// The doubt without a store: there is none.
    pub fn none() -> Self {
        Self::new(CoherenceState::Alone, NEVER, NEVER)
    }

    /// The doubt of a store that is not linked yet at `now_ms`. `outage_ttl`: the time for which answers are
    /// served in doubt; `None`: without a limit.
    pub fn of_store(outage_ttl: Option<Duration>, now_ms: u64) -> Self {
        Self::new(CoherenceState::Away, now_ms, outage_ttl.map_or(NEVER, millis))
    }

    /// The same, with values trusted for `poll` if the store reports no changes.
    #[must_use]
    pub fn polling(self, poll: Duration) -> Self {
        Self { poll_ms: millis(poll), ..self }
    }

    fn new(coherence: CoherenceState, sure_until_ms: u64, outage_ttl_ms: u64) -> Self {
        Self {
            coherence: AtomicU8::new(coherence as u8),
            epoch: AtomicU64::new(1),
            links: AtomicU64::new(0),
            is_reported: AtomicBool::new(true),
            sure_until_ms: AtomicU64::new(sure_until_ms),
            confirmed_until_ms: AtomicU64::new(NEVER),
            unread_since_ms: AtomicU64::new(0),
            silent_since_ms: AtomicU64::new(0),
            versions_read_in: AtomicU64::new(0),
            log_read_in: AtomicU64::new(0),
            has_log: AtomicBool::new(false),
            outage_ttl_ms,
            poll_ms: 0,
            changing: Mutex::new(()),
        }
    }

    /// The state of the connection to the store.
    #[inline]
    pub fn coherence(&self) -> CoherenceState {
        match self.coherence.load(Ordering::Acquire) {
            0 => CoherenceState::Alone,
            1 => CoherenceState::Tracked,
            2 => CoherenceState::Untracked,
            _ => CoherenceState::Away,
        }
    }

    /// The present epoch, to be noted with a read.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Returns true if all that the store reported until a moment ago has arrived.
    #[inline]
    pub fn is_heard(&self, now_ms: u64) -> bool {
        now_ms < self.sure_until_ms.load(Ordering::Relaxed)
    }

    /// Returns true if a value read at `read_ms` is still trusted, for a store that reports no changes.
    pub fn is_polled(&self, read_ms: u64, now_ms: u64) -> bool {
        now_ms < read_ms.saturating_add(self.poll_ms)
    }

    /// Returns true if the server counts as the master. Checked before a call to the store: a heartbeat
    /// doesn't count for longer, so [`Self::is_heard`] implies it.
    pub fn is_confirmed(&self, now_ms: u64) -> bool {
        now_ms < self.confirmed_until_ms.load(Ordering::Relaxed)
    }

    /// Returns true if a request may wait for the store and trust its answer.
    pub fn may_be_asked(&self, now_ms: u64) -> bool {
        self.is_answering() && self.is_confirmed(now_ms)
    }

    /// Returns true if calls are answered within the deadline.
    #[inline]
    pub fn is_answering(&self) -> bool {
        self.silent_since_ms.load(Ordering::Relaxed) == 0
    }

    /// Returns true if an answer may be served in doubt. `read_ms`: the last read of its version, or of the
    /// log.
    pub fn allows(&self, is_provisional: bool, read_ms: u64, now_ms: u64) -> bool {
        let since = match (self.since_ms(now_ms), self.is_reported.load(Ordering::Relaxed)) {
            (since, true) => since,
            // A later change would not have been reported.
            (since, false) => Some(since.map_or(read_ms, |since| since.min(read_ms))),
        };
        // A provisional answer has a shorter lifetime of its own.
        is_provisional || since.is_none_or(|since| now_ms <= since.saturating_add(self.outage_ttl_ms))
    }

    /// The time since which this node is not sure; `None`: it is sure.
    pub fn since_ms(&self, now_ms: u64) -> Option<u64> {
        let unread = self.unread_since_ms.load(Ordering::Acquire);
        let silent = self.silent_since_ms.load(Ordering::Relaxed);
        let unheard = if self.is_heard(now_ms) { 0 } else { self.last_beat_ms().max(1) };
        [unread, silent, unheard].into_iter().filter(|since| *since > 0).min()
    }

    /// The time for which answers are served in doubt, in milliseconds; `None`: without a limit.
    pub fn outage_ttl_ms(&self) -> Option<u64> {
        Some(self.outage_ttl_ms).filter(|ttl| *ttl < NEVER)
    }

    /// The number of the present period of `outage_ttl`: a flight that began in an earlier one is too old to
    /// be joined.
    pub fn period(&self, now_ms: u64) -> u64 {
        now_ms / self.outage_ttl_ms.max(1)
    }

    fn last_beat_ms(&self) -> u64 {
        self.sure_until_ms.load(Ordering::Relaxed).saturating_sub(TRUST_MS)
    }

    /// Records that the sentinels confirmed the server at `at_ms` last; `None`: there are no sentinels.
    pub fn confirm(&self, at_ms: Option<u64>) {
        // A heartbeat counts only as long as the confirmation: this node was sure until the last one.
        let until_ms = at_ms.map_or(NEVER, |at_ms| at_ms.max(self.last_beat_ms()).saturating_add(TRUST_MS));
        self.confirmed_until_ms.store(until_ms, Ordering::Relaxed);
    }

    /// Records the answer to a heartbeat that was sent at `sent_ms`: all earlier reports have arrived. It
    /// counts for as long as the server counts as the master.
    pub fn beat(&self, sent_ms: u64) {
        if self.coherence() != CoherenceState::Alone {
            let confirmed_ms = self.confirmed_until_ms.load(Ordering::Relaxed).saturating_sub(TRUST_MS);
            let sent_ms = sent_ms.min(confirmed_ms);
            self.sure_until_ms.fetch_max(sent_ms.saturating_add(TRUST_MS), Ordering::Relaxed);
        }
    }

    /// Records a new link, whose making began at `began_ms`; all that was known before has to be read again.
    pub fn link(&self, is_tracked: bool, began_ms: u64) {
        let coherence = if is_tracked { CoherenceState::Tracked } else { CoherenceState::Untracked };
        self.links.fetch_add(1, Ordering::AcqRel);
        self.begin_epoch(began_ms);
        self.is_reported.store(is_tracked, Ordering::Relaxed);
        self.silent_since_ms.store(0, Ordering::Relaxed);
        self.coherence.store(coherence as u8, Ordering::Release);
        self.beat(began_ms);
    }

    /// The number of the last link: while there was none, the store may have lost data.
    pub fn links(&self) -> u64 {
        self.links.load(Ordering::Acquire)
    }

    /// Records the loss of the link.
    pub fn lose(&self, now_ms: u64) {
        // Reports since the last answered heartbeat may be lost with it.
        self.begin_epoch(now_ms.min(self.last_beat_ms()));
        self.coherence.store(CoherenceState::Away as u8, Ordering::Release);
    }

    /// Begins an epoch: all that was known at `now_ms` has to be read again.
    pub fn begin_epoch(&self, now_ms: u64) {
        let _changing = self.changing.lock();
        // Of several losses the first counts, until everything was read again.
        let since = self.since_ms(now_ms).map_or(now_ms, |since| since.min(now_ms)).max(1);
        self.unread_since_ms.store(since, Ordering::Release);
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Records that this server holds the purge log: the doubt lasts until that was read as well.
    pub fn hold_log(&self) {
        self.has_log.store(true, Ordering::Release);
    }

    /// Records that all known versions were read again in this epoch.
    pub fn settle(&self, epoch: u64) {
        self.settle_part(&self.versions_read_in, epoch);
    }

    /// Records that the purge log was read to its end in this epoch.
    pub fn settle_log(&self, epoch: u64) {
        if self.log_read_in.load(Ordering::Acquire) != epoch {
            self.settle_part(&self.log_read_in, epoch);
        }
    }

    fn settle_part(&self, part: &AtomicU64, epoch: u64) {
        let _changing = self.changing.lock();
        if self.epoch() != epoch {
            return;
        }
        part.store(epoch, Ordering::Release);
        let is_read = |part: &AtomicU64| part.load(Ordering::Acquire) == epoch;
        let log_is_read = !self.has_log.load(Ordering::Acquire) || is_read(&self.log_read_in);
        if is_read(&self.versions_read_in) && log_is_read {
            self.unread_since_ms.store(0, Ordering::Release);
        }
    }

    /// Records a call that was answered within its deadline. Returns true if this is a change.
    pub fn answered(&self) -> bool {
        !self.is_answering() && self.silent_since_ms.swap(0, Ordering::AcqRel) != 0
    }

    /// Records a call, sent at `sent_ms`, that was not answered within its deadline. Returns true if this is
    /// a change.
    pub fn unanswered(&self, sent_ms: u64) -> bool {
        let silent = &self.silent_since_ms;
        silent.compare_exchange(0, sent_ms.max(1), Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 100_000;

    /// A linked server of which everything was read.
    fn linked(confirmed_ms: Option<u64>) -> CoherenceDoubt {
        let doubt = CoherenceDoubt::of_store(Some(Duration::from_secs(5)), NOW);
        doubt.confirm(confirmed_ms);
        doubt.link(true, NOW);
        doubt.settle(doubt.epoch());
        doubt
    }

    #[test]
    fn a_heartbeat_counts_as_far_as_the_sentinels_stand_by_its_server() {
        for (confirmed_ms, beat_ms, since_ms, is_confirmed, why) in [
            (None, NOW + 5_000, None, true, "there are none"),
            (Some(NOW + 4_500), NOW + 5_000, None, true, "they answered a moment ago"),
            (Some(NOW + 2_000), NOW + 5_000, Some(NOW + 2_000), false, "they no longer answer"),
            (Some(NOW + 5_000), NOW + 2_000, Some(NOW + 2_000), true, "the server no longer does"),
        ] {
            let doubt = linked(Some(NOW));
            doubt.confirm(confirmed_ms);
            doubt.beat(beat_ms);
            assert_eq!(doubt.since_ms(NOW + 5_000), since_ms, "{why}");
            assert_eq!(doubt.may_be_asked(NOW + 5_000), is_confirmed, "{why}");
            doubt.confirm(Some(NOW + 6_000));
            doubt.beat(NOW + 6_000);
            assert_eq!((doubt.since_ms(NOW + 6_100), doubt.may_be_asked(NOW + 6_100)), (None, true), "{why}");
        }
    }

    #[test]
    fn a_link_that_no_sentinels_stand_by_is_in_doubt_from_the_beginning() {
        let doubt = linked(Some(0));
        assert!(!doubt.may_be_asked(NOW) && !doubt.is_heard(NOW));
        assert_eq!(doubt.since_ms(NOW), Some(NOW - TRUST_MS));
        doubt.confirm(Some(NOW + 300));
        doubt.beat(NOW + 250);
        assert!(doubt.since_ms(NOW + 300).is_none(), "it has heard the others");
    }
}
