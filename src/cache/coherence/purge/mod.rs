//! The purges that this node knows, and the state of its knowledge.
//!
//! The tags of an answer are known only when it arrives, so no version can be read before a fill. Instead
//! purges are written to a log that every node reads (a stream in the store), and each answer is checked
//! against the purges since its fill began:
//!
//! - Each purge that is applied here gets a *position*, counted from 1. A fill notes the position when it
//!   begins. Purges with a higher one apply to its answer.
//! - A mark holds the positions of the last purges of one URL or tag. An answer's [`PurgeStamp`] holds its marks,
//!   so that a hit asks them and not a table, and only if anything was purged since they were asked last.
//! - The log's records are applied in its order, the node's own as well. So "known up to this record" has the
//!   same meaning on each node, and an answer in the store that names the record at which its fill began can
//!   be checked anywhere. Positions are not the names of records: those are no single number, and a purge
//!   counts here before it has one.
//! - A purge that is ordered here applies at once and is *owed* until the store has it and this node has read
//!   it back ([`PurgeDebt`]): if the store loses it later, this node finds that it is missing from the log.
//! - A node whose last record is no longer in the log can't know what it has missed: everything is purged. If
//!   the log still has older records, the store has lost its end, and the other nodes are told.
//! - The same is true of a node that knows no record, because it has just started or the store was emptied:
//!   its fills up to then are purged with the first reading.
//! - While the store can't be asked, the last knowledge stays in use, within the bounds of [`super::doubt`]:
//!   a hit needs no store. But a purge that was reported and could not be read may be about any answer: each
//!   one from before it is *unsure*, and has to be validated, until the log is read.
//!
//! No I/O happens here: `redis/log.rs` reads, writes and reports.

mod order;

pub use order::{
    beginning, tags_of, AnswerTags, InvalidRecordId, PurgeOrder, PurgeRefusal, PurgeTarget, RecordId,
    LONGEST_TAG, MOST_TAGS,
};

use super::{
    change_listener::{ChangeListener, ListenerSlot},
    doubt::{CoherenceDoubt, CoherenceState},
};
use crate::cache::key;
use ahash::RandomState;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc,
    },
};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// The number of purges that are remembered, and about the number of records in the log.
pub const MAX_REMEMBERED: u64 = 65_536;
/// The number of marks at the first sweep of unused ones; each later one is when the number has doubled.
const FIRST_SWEEP: usize = 65_536;
/// The most purges that may be owed; beyond it a purge of everything is owed instead.
const MOST_OWED: usize = 16_384;
/// The seed of the hashes of tags, which differs from that of resources.
const TAG_SEED: u64 = 1;

/// The effect of purges on an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeVerdict {
    /// None.
    Current,
    /// It is stale.
    Soft,
    /// There was a purge that could not be read: it has to be validated.
    Unsure,
    /// It is purged.
    Hard,
}

/// The moment at which a reading of the log began.
#[derive(Debug, Clone, Copy)]
pub struct LogReadStart {
    reports: u64,
    epoch: u64,
    at_ms: u64,
}

/// The state of what is known of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKnowledge {
    /// To its end.
    Complete,
    /// It may have unread records, and can be read.
    Behind,
    /// It may have unread records, and can't be read now.
    Doubtful,
}

/// The positions of the last purges of one target; 0: never.
#[derive(Debug, Default)]
struct PurgeMark {
    hard: AtomicU64,
    soft: AtomicU64,
}

impl PurgeMark {
    fn raise_mark(&self, soft: bool, position: u64) {
        let which = if soft { &self.soft } else { &self.hard };
        which.fetch_max(position, Ordering::AcqRel);
    }

    fn last(&self) -> u64 {
        self.hard.load(Ordering::Acquire).max(self.soft.load(Ordering::Acquire))
    }
}

/// The marks that an answer is checked by. Kept beside it.
pub struct PurgeStamp {
    since: u64,
    marks: Box<[Arc<PurgeMark>]>,
    /// The last position at which it was found current.
    current_at: AtomicU64,
}

impl PurgeStamp {
    /// The memory that it takes, in bytes: with the mark of its resource, which as a rule is there for it
    /// alone, and those of very many tags.
    pub fn weight(&self) -> u64 {
        /// A mark, with its slot in the table.
        const MARK: u64 = 96;
        /// The counts of an `Arc`.
        const COUNTS: usize = 16;
        /// The number of tags that are assumed to be shared with other answers.
        const SHARED: usize = 64;
        let own = 1 + self.marks.len().saturating_sub(1 + SHARED) as u64;
        (size_of::<Self>() + COUNTS + size_of_val(&*self.marks)) as u64 + own * MARK
    }
}

impl fmt::Debug for PurgeStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "since {}, {} marks", self.since, self.marks.len())
    }
}

/// The purges that are found by visiting each answer of this node.
#[derive(Debug)]
pub struct PurgeSearch {
    marks: Vec<Arc<PurgeMark>>,
    all: bool,
}

impl PurgeSearch {
    /// Returns true if one of them affects this answer.
    pub fn finds(&self, stamp: &PurgeStamp) -> bool {
        let is_wanted = |mark: &Arc<PurgeMark>| self.marks.iter().any(|wanted| Arc::ptr_eq(wanted, mark));
        self.all || stamp.marks.iter().any(is_wanted)
    }
}

/// A record of the log.
#[derive(Debug, Clone)]
pub struct PurgeRecord {
    /// Its name.
    pub id: RecordId,
    /// Its order; `None`: none.
    pub purge: Option<PurgeOrder>,
}

/// The result of a reading of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogReadOutcome {
    /// The records were applied.
    Taken,
    /// There is no log: it has to be begun.
    Empty,
    /// Records are missing: everything is purged, and the log has to be read from its beginning.
    Gap,
    /// Another reading was faster: read again.
    Overtaken,
}

#[derive(Debug)]
struct OwedPurge {
    /// The position of the first of its orders: an older answer may not be trusted.
    first: u64,
    /// The position of the last one: paying an earlier one does not pay it all.
    last: u64,
    /// No task is about to pay it.
    waits: bool,
}

struct PurgeState {
    marks: HashMap<u128, Arc<PurgeMark>, RandomState>,
    sweep_at: usize,
    /// Unused marks with positions up to this one may have been swept.
    forgotten: u64,
    /// The records that were read, rising, each with the position after it.
    log: VecDeque<(RecordId, u64)>,
    /// The last record that was known before a gap, until the log is read again.
    missed: Option<RecordId>,
    owed: HashMap<PurgeOrder, OwedPurge, RandomState>,
}

/// All purges that this node knows.
pub struct PurgeTable {
    position: AtomicU64,
    everything: PurgeMark,
    /// The doubt of the server that holds the log.
    doubt: Arc<CoherenceDoubt>,
    /// The position of the last purge that could not be read; 0: there is none.
    unread: AtomicU64,
    /// The number of reasons to read the log so far.
    reports: AtomicU64,
    /// The number of these before the last reading began.
    heeded: AtomicU64,
    /// Their number at the last report of the store that the log has grown.
    told: AtomicU64,
    /// Their number when answers became unsure last.
    unsure_of: AtomicU64,
    /// The time when the log was last read to its end.
    read_ms: AtomicU64,
    /// The time since which it can't be read, though there is reason to; 0: it can.
    unread_since_ms: AtomicU64,
    state: Mutex<PurgeState>,
    remembered: u64,
    /// Told of each purge.
    listener: ListenerSlot,
}

impl PurgeTable {
    /// A state without purges.
    pub fn new(doubt: Arc<CoherenceDoubt>) -> Self {
        Self::remembering(doubt, MAX_REMEMBERED, FIRST_SWEEP)
    }

    fn remembering(doubt: Arc<CoherenceDoubt>, remembered: u64, sweep_at: usize) -> Self {
        let state = PurgeState {
            marks: HashMap::default(),
            sweep_at,
            forgotten: 0,
            log: VecDeque::new(),
            missed: None,
            owed: HashMap::default(),
        };
        // Everything was purged at 1: a stamp since 0 is never current.
        let everything = PurgeMark::default();
        everything.raise_mark(false, 1);
        doubt.hold_log();
        Self {
            position: AtomicU64::new(1),
            everything,
            doubt,
            unread: AtomicU64::new(0),
            reports: AtomicU64::new(0),
            heeded: AtomicU64::new(0),
            told: AtomicU64::new(0),
            unsure_of: AtomicU64::new(0),
            read_ms: AtomicU64::new(0),
            unread_since_ms: AtomicU64::new(0),
            state: Mutex::new(state),
            remembered,
            listener: ListenerSlot::default(),
        }
    }

    /// The present position, for a fill that begins now.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    /// The last known record, noted when a fill begins: an answer that is stored for other nodes has to name
    /// it. `None`: the log was never read.
    pub fn log_id(&self) -> Option<RecordId> {
        self.state.lock().log.back().map(|(id, _)| *id)
    }

    /// The stamp of an answer whose fill began at the position `since`; `resource` is [`key::resource_hash`].
    pub fn stamp(&self, since: u64, resource: u128, tags: &[&str]) -> PurgeStamp {
        self.make_stamp(&mut self.state.lock(), since, resource, tags)
    }

    /// The stamp of an answer from the store whose fill began when `id` was the last known record. `None`:
    /// this node doesn't know that record (any longer, or yet), so the answer can't be checked.
    pub fn stamp_from(&self, id: RecordId, resource: u128, tags: &[&str]) -> Option<PurgeStamp> {
        let state = &mut *self.state.lock();
        let place = state.log.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        // An owed purge has no record yet: an answer from before it may name a record that came after it.
        let owed = state.owed.values().map(|owed| owed.first.saturating_sub(1)).min();
        let since = state.log[place].1.min(owed.unwrap_or(u64::MAX));
        Some(self.make_stamp(state, since, resource, tags))
    }

    fn make_stamp(&self, state: &mut PurgeState, since: u64, resource: u128, tags: &[&str]) -> PurgeStamp {
        let names = std::iter::once(resource).chain(tags.iter().map(|tag| tag_name(tag)));
        let marks = names.map(|name| state.mark(name, self.position(), self.remembered)).collect();
        // A purge after `since` may have been forgotten.
        let since = if since < state.forgotten { 0 } else { since };
        PurgeStamp { since, marks, current_at: AtomicU64::new(0) }
    }

    /// The position of the last purge of a resource by its URL; 0: none, as far as is remembered.
    pub fn last_purge(&self, resource: u128) -> u64 {
        self.state.lock().marks.get(&resource).map_or(0, |mark| mark.last())
    }

    /// Returns the effect of known purges on an answer. [`Self::knowledge`] tells how far to trust it.
    pub fn verdict(&self, stamp: &PurgeStamp) -> PurgeVerdict {
        let position = self.position();
        if stamp.current_at.load(Ordering::Relaxed) == position {
            return PurgeVerdict::Current;
        }
        let is_unsure = self.unread.load(Ordering::Acquire) > stamp.since;
        let mut verdict = if is_unsure { PurgeVerdict::Unsure } else { PurgeVerdict::Current };
        for mark in std::iter::once(&self.everything).chain(stamp.marks.iter().map(|mark| &**mark)) {
            if mark.hard.load(Ordering::Acquire) > stamp.since {
                return PurgeVerdict::Hard;
            }
            if !is_unsure && mark.soft.load(Ordering::Acquire) > stamp.since {
                verdict = PurgeVerdict::Soft;
            }
        }
        if verdict == PurgeVerdict::Current {
            stamp.current_at.store(position, Ordering::Relaxed);
        }
        verdict
    }

    /// The purges among these that are found by visiting each answer; `None`: none.
    pub fn search(&self, wanted: &[PurgeOrder]) -> Option<PurgeSearch> {
        let state = self.state.lock();
        let mut search = PurgeSearch { marks: Vec::new(), all: false };
        for purge in wanted {
            match &purge.target {
                PurgeTarget::Tag(tag) => search.marks.extend(state.marks.get(&tag_name(tag)).cloned()),
                PurgeTarget::All => search.all = true,
                PurgeTarget::Url { .. } | PurgeTarget::Resource(_) => {}
            }
        }
        (search.all || !search.marks.is_empty()).then_some(search)
    }

    /// Returns the state of what is known at this moment.
    #[inline]
    pub fn knowledge(&self, now_ms: u64) -> LogKnowledge {
        let is_read = match self.doubt.coherence() {
            CoherenceState::Alone => return LogKnowledge::Complete,
            CoherenceState::Tracked => self.doubt.is_heard(now_ms) && self.has_heeded(self.reports()),
            CoherenceState::Untracked => {
                self.doubt.is_confirmed(now_ms)
                    && self.doubt.is_polled(self.read_ms.load(Ordering::Relaxed), now_ms)
                    && self.has_heeded(self.reports())
            }
            CoherenceState::Away => return self.doubtful(),
        };
        match is_read {
            true => LogKnowledge::Complete,
            false if self.doubt.may_be_asked(now_ms) => LogKnowledge::Behind,
            false => self.doubtful(),
        }
    }

    fn doubtful(&self) -> LogKnowledge {
        if self.unsure_of.load(Ordering::Acquire) < self.told.load(Ordering::Acquire) {
            self.could_not_read();
        }
        LogKnowledge::Doubtful
    }

    /// Returns true if an answer may be served while the knowledge is doubtful.
    pub fn allows(&self, is_provisional: bool, now_ms: u64) -> bool {
        self.doubt.allows(is_provisional, self.read_ms.load(Ordering::Relaxed), now_ms)
    }

    /// Distinguishes fills that must not be joined: those from before a purge that could not be read and, in
    /// doubt, those that began too long ago.
    pub fn doubtful_period(&self, now_ms: u64) -> (u64, u64) {
        (self.unread.load(Ordering::Acquire), self.doubt.period(now_ms))
    }

    /// Applies purges here, at once. With a store they are owed to it.
    pub fn order(self: &Arc<Self>, wanted: Vec<PurgeOrder>) -> PurgeDebt {
        let state = &mut *self.state.lock();
        let is_alone = self.doubt.coherence() == CoherenceState::Alone;
        let mut owed = Vec::new();
        for purge in wanted {
            let purge = purge.bounded();
            let position = self.apply(state, &purge);
            if !is_alone {
                state.add_owed(&purge, position, false);
                owed.push((purge, position));
            }
        }
        PurgeDebt { purges: self.clone(), owed }
    }

    /// Purges that are owed and that no task is about to pay, at most this many.
    pub fn take_debt(self: &Arc<Self>, at_most: usize) -> PurgeDebt {
        let state = &mut *self.state.lock();
        let waiting = state.owed.iter_mut().filter(|(_, owed)| owed.waits).take(at_most);
        let owed = waiting
            .map(|(purge, owed)| {
                owed.waits = false;
                (purge.clone(), owed.last)
            })
            .collect();
        PurgeDebt { purges: self.clone(), owed }
    }

    /// Notes a reason to read the log: a new link, or a request that wants to know.
    pub fn grown(&self) {
        self.reports.fetch_add(1, Ordering::AcqRel);
    }

    /// Records the store's report that the log has grown.
    pub fn reported(&self) {
        let reports = self.reports.fetch_add(1, Ordering::AcqRel) + 1;
        self.told.fetch_max(reports, Ordering::AcqRel);
        if !self.doubt.is_answering() {
            self.could_not_read();
        }
    }

    /// Records that the log could not be read. Purges reported since the last reading may affect any answer.
    pub fn could_not_read(&self) {
        let _state = self.state.lock();
        let told = self.told.load(Ordering::Acquire);
        // Once for each report: answers filled since are certainly newer.
        if self.unsure_of.fetch_max(told, Ordering::AcqRel) < told && !self.has_heeded(told) {
            let position = self.position() + 1;
            self.unread.store(position, Ordering::Release);
            self.position.store(position, Ordering::Release);
        }
    }

    /// Records that the log is refused, as of now; the caller tries again until it is read.
    pub fn is_refused(&self, now_ms: u64) {
        let since = &self.unread_since_ms;
        since.compare_exchange(0, now_ms.max(1), Ordering::AcqRel, Ordering::Acquire).unwrap_or_default();
    }

    /// The time since which the log can't be read, though there is reason to; `None`: it can.
    pub fn unread_since_ms(&self) -> Option<u64> {
        Some(self.unread_since_ms.load(Ordering::Acquire)).filter(|since| *since > 0)
    }

    /// Records that the store was emptied: everything is purged, as are the records of the log.
    pub fn mark_emptied(&self) {
        let state = &mut *self.state.lock();
        state.log.clear();
        state.missed = None;
        self.apply(state, &PurgeOrder::hard(PurgeTarget::All));
        self.grown();
    }

    /// The number of reasons to read the log so far.
    pub fn reports(&self) -> u64 {
        self.reports.load(Ordering::Acquire)
    }

    /// Begins a reading of the log.
    pub fn begin_reading(&self, now_ms: u64) -> LogReadStart {
        LogReadStart { reports: self.reports(), epoch: self.doubt.epoch(), at_ms: now_ms }
    }

    /// Returns true if the log was read to its end since this number of reports.
    pub fn has_heeded(&self, reports: u64) -> bool {
        self.heeded.load(Ordering::Acquire) >= reports
    }

    /// Records that this reading reached the end of the log.
    pub fn heed(&self, reading: LogReadStart) {
        self.doubt.settle_log(reading.epoch);
        self.read_ms.fetch_max(reading.at_ms, Ordering::Relaxed);
        self.unread_since_ms.store(0, Ordering::Release);
        let _state = self.state.lock();
        self.heeded.fetch_max(reading.reports, Ordering::AcqRel);
        if self.has_heeded(self.told.load(Ordering::Acquire)) {
            self.unread.store(0, Ordering::Release);
        }
    }

    /// Applies the records of a reading: from `from` on, inclusive, or all of them.
    pub fn read(&self, from: Option<RecordId>, records: &[PurgeRecord]) -> LogReadOutcome {
        let state = &mut *self.state.lock();
        if state.log.back().map(|(id, _)| *id) != from {
            return LogReadOutcome::Overtaken;
        }
        let new = match (from, records.split_first()) {
            (None, None) => {
                state.missed = None;
                return LogReadOutcome::Empty;
            }
            (None, Some(_)) => {
                // Lost records may be about any answer filled since the log was known last.
                self.apply(state, &PurgeOrder::hard(PurgeTarget::All));
                records
            }
            (Some(last), Some((first, rest))) if first.id == last => rest,
            (Some(last), _) => {
                state.log.clear();
                state.missed = Some(last);
                self.apply(state, &PurgeOrder::hard(PurgeTarget::All));
                return LogReadOutcome::Gap;
            }
        };
        for record in new {
            let position = match &record.purge {
                Some(purge) => self.apply(state, purge),
                None => self.position(),
            };
            state.log.push_back((record.id, position));
        }
        let too_many = state.log.len().saturating_sub(self.remembered as usize);
        state.log.drain(..too_many);
        self.tell_of_loss(state, from, new);
        LogReadOutcome::Taken
    }

    /// Reports a loss to other nodes: a log that begins before the missing record was not just trimmed or
    /// emptied, it lost its end, perhaps in a failover. A node that had not read that end would not notice.
    fn tell_of_loss(&self, state: &mut PurgeState, from: Option<RecordId>, records: &[PurgeRecord]) {
        let (None, Some(first), Some(missed)) = (from, records.first(), state.missed.take()) else { return };
        if first.id < missed {
            let all = PurgeOrder::hard(PurgeTarget::All);
            let position = self.apply(state, &all);
            state.add_owed(&all, position, true);
        }
    }

    /// Marks the targets of a purge, then moves the position: a thread that sees the position sees the marks.
    fn apply(&self, state: &mut PurgeState, purge: &PurgeOrder) -> u64 {
        let position = self.position() + 1;
        let name = match &purge.target {
            PurgeTarget::Url { host, target } => Some(key::resource_hash(host, target)),
            PurgeTarget::Resource(digest) => Some(*digest),
            PurgeTarget::Tag(tag) => Some(tag_name(tag)),
            PurgeTarget::All => None,
        };
        match name {
            Some(name) => state.mark(name, position, self.remembered).raise_mark(purge.soft, position),
            None => self.everything.raise_mark(purge.soft, position),
        }
        self.position.store(position, Ordering::Release);
        if let Some(listener) = self.listener.get() {
            listener.purged();
        }
        position
    }

    /// Has purges told to a listener, from now on.
    pub fn tell_purges(&self, listener: Arc<dyn ChangeListener>) {
        self.listener.set(listener);
    }
}

impl fmt::Debug for PurgeTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Purges")
            .field("position", &self.position)
            .field("everything", &self.everything)
            .field("unread", &self.unread)
            .field("reports", &self.reports)
            .field("heeded", &self.heeded)
            .field("told", &self.told)
            .field("unsure_of", &self.unsure_of)
            .field("read_ms", &self.read_ms)
            .field("is_missing", &state.missed.is_some())
            .field("owed", &state.owed.values())
            .finish_non_exhaustive()
    }
}

fn tag_name(tag: &str) -> u128 {
    xxh3_128_with_seed(tag.as_bytes(), TAG_SEED)
}

impl PurgeState {
    fn mark(&mut self, name: u128, position: u64, remembered: u64) -> Arc<PurgeMark> {
        if let Some(mark) = self.marks.get(&name) {
            return mark.clone();
        }
        if self.marks.len() >= self.sweep_at {
            // Marks are acquired through the table, whose lock is held: an unused one stays unused.
            let forgotten = position.saturating_sub(remembered);
            self.marks.retain(|_, mark| Arc::strong_count(mark) > 1 || mark.last() > forgotten);
            self.forgotten = forgotten;
            self.sweep_at = self.sweep_at.max(self.marks.len() * 2);
        }
        let mark = Arc::<PurgeMark>::default();
        self.marks.insert(name, mark.clone());
        mark
    }

    fn add_owed(&mut self, purge: &PurgeOrder, position: u64, waits: bool) {
        if let Some(owed) = self.owed.get_mut(purge) {
            (owed.last, owed.waits) = (position, waits);
            return;
        }
        let mut owed = OwedPurge { first: position, last: position, waits };
        if self.owed.len() < MOST_OWED {
            self.owed.insert(purge.clone(), owed);
            return;
        }
        owed.first = self.owed.values().map(|owed| owed.first).fold(position, u64::min);
        owed.waits = true;
        self.owed.clear();
        self.owed.insert(PurgeOrder::hard(PurgeTarget::All), owed);
    }
}

/// Purges that are owed to the store. If it is dropped before it is settled, the next payment includes them:
/// an order is not lost when its client goes away.
#[must_use = "what is dropped unsettled is paid later"]
pub struct PurgeDebt {
    purges: Arc<PurgeTable>,
    owed: Vec<(PurgeOrder, u64)>,
}

impl PurgeDebt {
    /// Returns true if nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// The orders to be written to the log.
    pub fn orders(&self) -> impl Iterator<Item = &PurgeOrder> {
        self.owed.iter().map(|(purge, _)| purge)
    }

    /// Settles the debt: all of it is in the log, and was read there.
    pub fn settle(mut self) {
        let owed = &mut self.purges.state.lock().owed;
        for (purge, position) in self.owed.drain(..) {
            // The same may have been ordered again since.
            if owed.get(&purge).is_some_and(|owed| owed.last == position) {
                owed.remove(&purge);
            }
        }
    }
}

impl Drop for PurgeDebt {
    fn drop(&mut self) {
        if self.owed.is_empty() {
            return;
        }
        let state = &mut *self.purges.state.lock();
        for (purge, _) in &self.owed {
            if let Some(owed) = state.owed.get_mut(purge) {
                owed.waits = true;
            }
        }
    }
}

impl fmt::Debug for PurgeDebt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} purges owed", self.owed.len())
    }
}

#[cfg(test)]
mod tests;
