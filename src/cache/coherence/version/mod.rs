//! The versions that this node knows, and the conditions under which it trusts them.
//!
//! A version is read from the store once and then trusted until the store reports a change, or until the
//! connection for reports is lost. So a hit needs no round trip. The rules:
//!
//! - A [`VersionSlot`] holds the known version of one namespace and tenant. An entry of the cache keeps its
//!   slot, so that a hit asks the slot and not the table.
//! - A version is known with the *epoch* in which it was read. A lost connection, a FLUSHALL or a
//!   reconnection begins a new epoch: all known versions are in doubt at once, at the price of one addition.
//! - A read notes the slot's number of changes before it asks. If a change is reported meanwhile, the answer
//!   is used by the request that asked, and not trusted any longer.
//! - A version that was read but can't be right is bumped instead of trusted: a number below the known one, a
//!   value that was replaced before (`version/past.rs`), and the known one if it was written again
//!   ([`FenceCounter`]).
//! - While the store can't be asked, the last known version is *assumed*, within the bounds of
//!   [`super::doubt`]: a hit needs no store. A bump that could not be recorded raises the version here, and
//!   is made up for when the store is back.
//! - A change that was reported and could not be read ends the generation before it. Later fills have a
//!   made-up name of this node as their version, another one after each further report.
//!
//! No I/O happens here: `cache::redis` reads, writes and reports. Times are arguments.

mod fences;
mod minimum;
mod past;
mod pickle;
mod unread;
mod value;

pub use {
    fences::FenceCounter,
    minimum::{MinVersion, MinVersionError},
    unread::UnreadSlots,
};

pub use value::Version;

use super::{
    change_listener::{ChangeListener, ListenerSlot},
    doubt::{CoherenceDoubt, CoherenceState},
    partitions::StorePartitions,
};
use crate::name::{Namespace, Tenant};
use past::PastVersions;

use ahash::RandomState;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc, Weak,
    },
};

/// The version that a slot gives a request, or the need to read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotVersion {
    /// Trust this one.
    Current(Version),
    /// Ask the store, with this ticket.
    Ask(ReadTicket),
    /// The store can't be asked: assume this one.
    Assumed(Version),
}

/// The version that a request uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionBasis {
    /// The version.
    pub version: Version,
    /// It could not be read: answers filled under it are provisional, and stay on this node.
    pub is_assumed: bool,
}

impl VersionBasis {
    /// A version that the store named, or that is this node's own without a store.
    pub fn read(version: Version) -> Self {
        Self { version, is_assumed: false }
    }

    /// A version that could not be read.
    pub fn assumed(version: Version) -> Self {
        Self { version, is_assumed: true }
    }
}

/// The state of a slot when a read began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadTicket {
    epoch: u64,
    changes: u64,
    asked_ms: u64,
    rewritten: bool,
}

struct KnownVersion {
    version: Version,
    epoch: u64,
    /// The time when it was requested, or bumped here.
    read_ms: u64,
    /// The last fence that had begun when it was read; `None`: it was never read.
    fence: Option<u64>,
    /// The link by which it was read or bumped.
    link: u64,
}

/// The version of one namespace and tenant, as this node knows it.
pub struct VersionSlot {
    namespace: Namespace,
    tenant: Tenant,
    known: ArcSwapOption<KnownVersion>,
    changes: AtomicU64,
    /// The number of bumps made here without the store, and the number of those that the store knows.
    debts: AtomicU64,
    paid: AtomicU64,
    /// True if it is in the list of slots that owe; changed under that list's lock only.
    listed: AtomicBool,
    /// The epoch in which a change was last reported and not yet read; 0: none.
    doubted_in: AtomicU64,
    /// True if the known version was written again: a change was reported after a fence that followed its
    /// read.
    rewritten: AtomicBool,
    detached: AtomicBool,
    /// Held while a read's answer is checked against changes that arrive on another thread.
    judging: Mutex<PastVersions>,
    fences: Arc<FenceCounter>,
    /// The doubt of the server that holds its key.
    doubt: Arc<CoherenceDoubt>,
    owing: OwingSlots,
    /// True if it is in the list of touched slots.
    is_touched: AtomicBool,
    touched: Touched,
    me: Weak<Self>,
}

/// Slots whose bump the store has missed; the list keeps them until it has it.
type OwingSlots = Arc<Mutex<Vec<Arc<VersionSlot>>>>;

/// Slots that have become unread since the last look; the list doesn't keep them.
type Touched = Arc<TouchedSlots>;

#[derive(Default)]
struct TouchedSlots {
    list: Mutex<Vec<Weak<VersionSlot>>>,
    /// Told of each change. Here, because all slots share it.
    listener: ListenerSlot,
}

impl VersionSlot {
    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The tenant.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Returns the doubt that decides if its version may be trusted.
    pub fn doubt(&self) -> &CoherenceDoubt {
        &self.doubt
    }

    /// Returns true if it is in one of the partitions of these doubts.
    pub fn is_in(&self, doubts: &[Arc<CoherenceDoubt>]) -> bool {
        doubts.iter().any(|doubt| Arc::ptr_eq(doubt, &self.doubt))
    }

    /// The version that a request may use now.
    pub fn standing(&self, now_ms: u64) -> SlotVersion {
        let ticket = self.ticket(now_ms);
        match self.doubt.coherence() {
            CoherenceState::Alone => return SlotVersion::Current(self.assumed()),
            CoherenceState::Away => return SlotVersion::Assumed(self.assumed()),
            coherence if !self.owes_or_is_gone() => {
                if let Some(known) = &*self.known.load() {
                    if known.epoch == ticket.epoch && self.is_believed(coherence, known, now_ms) {
                        return SlotVersion::Current(known.version.clone());
                    }
                }
            }
            _ => {}
        }
        match self.doubt.may_be_asked(now_ms) {
            true => SlotVersion::Ask(ticket),
            false => SlotVersion::Assumed(self.assumed()),
        }
    }

    /// Returns true if a version that was read in this epoch is still trusted.
    fn is_believed(&self, coherence: CoherenceState, known: &KnownVersion, now_ms: u64) -> bool {
        match coherence {
            CoherenceState::Tracked => self.doubt.is_heard(now_ms),
            CoherenceState::Untracked => {
                self.doubt.is_confirmed(now_ms) && self.doubt.is_polled(known.read_ms, now_ms)
            }
            CoherenceState::Alone | CoherenceState::Away => false,
        }
    }

    /// The state of the slot, for a read that begins now.
    pub fn ticket(&self, now_ms: u64) -> ReadTicket {
        let (epoch, changes) = self.moment();
        ReadTicket { epoch, changes, asked_ms: now_ms, rewritten: self.rewritten.load(Ordering::Acquire) }
    }

    /// Returns true if the version has to be read in this epoch: it has not been read since, or a change was
    /// reported.
    pub fn is_unread(&self) -> bool {
        let known = self.known.load();
        known.as_ref().is_none_or(|known| known.epoch != self.doubt.epoch()) || self.is_superseded()
    }

    /// Notes that it has to be read. Ignored without a link: the next one goes through all known versions
    /// anyway.
    pub fn touch(&self) {
        let is_linked = matches!(self.doubt.coherence(), CoherenceState::Tracked | CoherenceState::Untracked);
        if is_linked && !self.is_touched.swap(true, Ordering::AcqRel) {
            self.touched.list.lock().push(self.me.clone());
        }
    }

    /// Returns true if an answer made under `version` is of the current generation, without a call. `None`:
    /// the store has to be asked. `is_provisional`: it was made in doubt.
    #[inline]
    pub fn is_current(&self, version: &Version, is_provisional: bool, now_ms: u64) -> Option<bool> {
        let coherence = self.doubt.coherence();
        let is_told = matches!(coherence, CoherenceState::Alone | CoherenceState::Tracked)
            && self.doubt.is_heard(now_ms);
        if is_told && !self.owes_or_is_gone() {
            match &*self.known.load() {
                Some(known) if known.epoch == self.doubt.epoch() => return Some(known.version == *version),
                None if coherence == CoherenceState::Alone => return Some(version.is_absent()),
                _ => {}
            }
        }
        self.is_assumed(coherence, version, is_provisional, now_ms)
    }

    /// The same if the version is not certain.
    fn is_assumed(
        &self,
        coherence: CoherenceState,
        version: &Version,
        is_provisional: bool,
        now_ms: u64,
    ) -> Option<bool> {
        if coherence == CoherenceState::Untracked && !self.owes_or_is_gone() {
            if let Some(known) = &*self.known.load() {
                if known.epoch == self.doubt.epoch() && self.is_believed(coherence, known, now_ms) {
                    return Some(known.version == *version);
                }
            }
        }
        let may_ask = matches!(coherence, CoherenceState::Tracked | CoherenceState::Untracked)
            && self.doubt.may_be_asked(now_ms);
        if may_ask || self.detached.load(Ordering::Acquire) {
            return None;
        }
        Some(self.allows(is_provisional, now_ms) && self.assumed() == *version)
    }

    /// Returns true if an answer may be served while the version is not certain.
    pub fn allows(&self, is_provisional: bool, now_ms: u64) -> bool {
        let read_ms = self.known.load().as_ref().map_or(0, |known| known.read_ms);
        self.doubt.allows(is_provisional, read_ms, now_ms)
    }

    /// The epoch and the number of changes: a read that began at another moment is not valid for this one.
    pub fn moment(&self) -> (u64, u64) {
        (self.doubt.epoch(), self.changes.load(Ordering::Acquire))
    }

    fn owes_or_is_gone(&self) -> bool {
        self.detached.load(Ordering::Acquire) || self.owes_bump()
    }

    /// The last known version, trusted or not; an unknown one counts as absent.
    pub fn last_known(&self) -> Version {
        self.known.load().as_ref().map_or_else(Version::absent, |k| k.version.clone())
    }

    /// The version for a request that can't ask the store: the last known one or, after a reported change
    /// that could not be read yet, a made-up name for the next one, another after each report. The generation
    /// before the change is over in any case.
    pub fn assumed(&self) -> Version {
        // Checked first: the known version is replaced before this ends.
        match self.is_superseded() {
            true => {
                let changes = self.changes.load(Ordering::Acquire);
                Version::named(format!("after-{changes}-{}", self.last_known().tag()))
            }
            false => self.last_known(),
        }
    }

    fn is_superseded(&self) -> bool {
        self.doubted_in.load(Ordering::Acquire) != 0
    }

    /// Records the store's answer to a read that began with `ticket`.
    pub fn learn_version(&self, ticket: ReadTicket, version: &Version) {
        let mut past = self.judging.lock();
        // Ignores an answer that a change has overtaken, and one from before another link.
        if self.moment() == (ticket.epoch, ticket.changes) {
            let known = KnownVersion {
                version: version.clone(),
                epoch: ticket.epoch,
                read_ms: ticket.asked_ms,
                fence: Some(self.fences.last()),
                link: self.doubt.links(),
            };
            self.know(&mut past, known);
        }
    }

    fn know(&self, past: &mut PastVersions, known: KnownVersion) {
        let (version, before) = (known.version.clone(), self.known.load());
        let is_change = before.as_ref().is_none_or(|before| before.version != version);
        if let Some(before) = before.as_ref().filter(|_| is_change) {
            past.add(&before.version);
            past.remove(&version);
        }
        self.known.store(Some(Arc::new(known)));
        self.rewritten.store(false, Ordering::Release);
        self.doubted_in.store(0, Ordering::Release);
        // Last: whoever is told sees the change.
        if is_change {
            self.tell();
        }
    }

    /// Bumps the version here without the store. With a store, the bump is owed to it ([`Self::owes_bump`]).
    pub fn bump_here(self: &Arc<Self>, now_ms: u64) -> Version {
        let mut past = self.judging.lock();
        let version = self.last_known().next_version(now_ms);
        let alone = self.doubt.coherence() == CoherenceState::Alone;
        if !alone {
            let mut owing = self.owing.lock();
            self.debts.fetch_add(1, Ordering::AcqRel);
            if !self.listed.swap(true, Ordering::AcqRel) {
                owing.push(self.clone());
            }
        }
        self.changes.fetch_add(1, Ordering::AcqRel);
        let epoch = self.doubt.epoch();
        let link = self.doubt.links();
        self.know(
            &mut past,
            KnownVersion { version: version.clone(), epoch, read_ms: now_ms, fence: None, link },
        );
        version
    }

    /// Returns true if a bump made here has not reached the store yet. A read of the version must bump it
    /// instead.
    pub fn owes_bump(&self) -> bool {
        self.debt() != self.paid.load(Ordering::Acquire)
    }

    /// The number of bumps made here without the store, paid or not.
    pub fn debt(&self) -> u64 {
        self.debts.load(Ordering::Acquire)
    }

    /// Records that the store has bumped the version to this one. It is known from now on, but not trusted
    /// before it was read: others may bump it at the same time.
    pub fn moved(&self, to: &Version) {
        self.paid(to, self.debt());
    }

    /// The same by a call that was sent when this was the debt: later bumps are still owed.
    pub fn paid(&self, to: &Version, debt: u64) {
        let mut past = self.judging.lock();
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.paid.fetch_max(debt, Ordering::AcqRel);
        let last = self.last_known();
        let version = if to.is_behind(&last) { last } else { to.clone() };
        let read_ms = self.known.load().as_ref().map_or(0, |known| known.read_ms);
        let link = self.doubt.links();
        self.know(&mut past, KnownVersion { version, epoch: 0, read_ms, fence: None, link });
        self.touch();
    }

    /// Returns true if a version that was read must not be trusted, because the store has lost a later one.
    /// `known`: the last known version when the read began.
    pub fn is_lost(&self, ticket: ReadTicket, known: &Version, read: &Version) -> bool {
        let is_past = || read != known && self.judging.lock().has(read);
        // About the version that was known then: a bump of this node may have moved it since.
        let is_rewritten = ticket.rewritten && read == known;
        read.is_behind(known) || is_rewritten || self.missed_a_change(ticket, read) || is_past()
    }

    /// Returns true if the version read is the same as before, although there was a change: the store has lost
    /// it in an earlier epoch, or counting has started anew.
    fn missed_a_change(&self, ticket: ReadTicket, read: &Version) -> bool {
        let doubted = self.doubted_in.load(Ordering::Acquire);
        let is_over = doubted != 0 && doubted < ticket.epoch;
        (is_over || self.is_counted_anew(read)) && *read == self.last_known()
    }

    /// Returns true if a version with this value may be another one than before: without a link the store may
    /// have been emptied, and counting may have reached the same number again. Bumped, it is a time: this
    /// happens once.
    fn is_counted_anew(&self, read: &Version) -> bool {
        let known = self.known.load();
        known.as_ref().is_some_and(|known| known.link != self.doubt.links()) && !read.is_time()
    }

    /// Tells the listener that answers may have ended.
    fn tell(&self) {
        if let Some(listener) = self.touched.listener.get() {
            listener.version_changed(&self.namespace, &self.tenant);
        }
    }

    /// Records a reported change.
    fn changed(&self) {
        let _judging = self.judging.lock();
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.doubted_in.store(self.doubt.epoch(), Ordering::Release);
        // The version stays as the last known one, for when the store goes away; its epoch is past.
        if let Some(known) = &*self.known.load() {
            let (version, read_ms, fence) = (known.version.clone(), known.read_ms, known.fence);
            if fence.is_some_and(|fence| self.fences.is_past(fence)) {
                self.rewritten.store(true, Ordering::Release);
            }
            let link = known.link;
            self.known.store(Some(Arc::new(KnownVersion { version, epoch: 0, read_ms, fence, link })));
        }
        self.touch();
        self.tell();
    }
}

impl fmt::Debug for VersionSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} {:?}", self.namespace, self.tenant, self.last_known())
    }
}

type SlotFamily = (Namespace, Tenant);

/// The table of all slots.
pub struct VersionTable {
    slots: Mutex<HashMap<SlotFamily, Arc<VersionSlot>, RandomState>>,
    fences: Arc<FenceCounter>,
    partitions: Arc<StorePartitions>,
    owing: OwingSlots,
    touched: Touched,
    sweep_at: AtomicU64,
}

/// The number of slots at the first sweep; each later one is when the number has doubled.
const FIRST_SWEEP: u64 = 65_536;

impl VersionTable {
    /// An empty table for a store with these partitions.
    pub fn new(partitions: Arc<StorePartitions>) -> Self {
        Self {
            slots: Mutex::default(),
            fences: Arc::default(),
            partitions,
            owing: OwingSlots::default(),
            touched: Touched::default(),
            sweep_at: AtomicU64::new(FIRST_SWEEP),
        }
    }

    /// Has changes told to a listener, from now on.
    pub fn tell_changes(&self, listener: Arc<dyn ChangeListener>) {
        self.touched.listener.set(listener);
    }

    /// The fences for reads.
    pub fn fences(&self) -> &FenceCounter {
        &self.fences
    }

    /// The slot of a namespace and tenant.
    pub fn slot(&self, namespace: &Namespace, tenant: &Tenant) -> Arc<VersionSlot> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(&(namespace.clone(), tenant.clone())) {
            return slot.clone();
        }
        if slots.len() as u64 >= self.sweep_at.load(Ordering::Relaxed) {
            Self::sweep(&mut slots);
            self.sweep_at.store((slots.len() as u64 * 2).max(FIRST_SWEEP), Ordering::Relaxed);
        }
        let slot = Arc::new_cyclic(|me| VersionSlot {
            namespace: namespace.clone(),
            tenant: tenant.clone(),
            known: ArcSwapOption::empty(),
            changes: AtomicU64::new(0),
            debts: AtomicU64::new(0),
            paid: AtomicU64::new(0),
            listed: AtomicBool::new(false),
            doubted_in: AtomicU64::new(0),
            detached: AtomicBool::new(false),
            rewritten: AtomicBool::new(false),
            judging: Mutex::default(),
            fences: self.fences.clone(),
            doubt: self.partitions.of_version(namespace, tenant).clone(),
            owing: self.owing.clone(),
            is_touched: AtomicBool::new(false),
            touched: self.touched.clone(),
            me: me.clone(),
        });
        slots.insert((namespace.clone(), tenant.clone()), slot.clone());
        slot.touch();
        slot
    }

    /// The slots whose bump the store has missed.
    pub fn owing(&self) -> Vec<Arc<VersionSlot>> {
        self.owing.lock().clone()
    }

    /// The slots of these partitions that have to be read again, found by a look at all: see [`UnreadSlots`].
    pub fn unread(&self, doubts: &[Arc<CoherenceDoubt>]) -> Vec<Arc<VersionSlot>> {
        // The table is locked only while it is copied.
        let mut slots: Vec<_> = self.slots.lock().values().cloned().collect();
        slots.retain(|slot| slot.is_unread() && slot.is_in(doubts));
        slots
    }

    /// Takes the slots of these partitions that were touched, each once.
    fn take_touched(&self, doubts: &[Arc<CoherenceDoubt>]) -> Vec<Arc<VersionSlot>> {
        let touched = std::mem::take(&mut *self.touched.list.lock());
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        for slot in touched.iter().filter_map(Weak::upgrade) {
            match slot.is_in(doubts) {
                true => {
                    // Before it is looked at: a later event touches it again.
                    slot.is_touched.swap(false, Ordering::AcqRel);
                    ours.push(slot);
                }
                false => others.push(Arc::downgrade(&slot)),
            }
        }
        if !others.is_empty() {
            self.touched.list.lock().append(&mut others);
        }
        ours
    }

    /// Removes the slots that no longer owe from the list.
    pub fn settle(&self) {
        self.owing.lock().retain(|slot| {
            let owes = slot.owes_bump();
            slot.listed.store(owes, Ordering::Release);
            owes
        });
    }

    /// Records the reported change of a version.
    pub fn changed(&self, namespace: &str, tenant: &str) {
        let (Ok(namespace), Ok(tenant)) = (namespace.parse(), tenant.parse()) else { return };
        let slot = self.slots.lock().get(&(namespace, tenant)).cloned();
        if let Some(slot) = slot {
            slot.changed();
        }
    }

    /// Records that these partitions of the store were emptied: all their versions are in doubt, and each is
    /// bumped when it is read next, so that no earlier generation comes back under a number that is counted
    /// anew.
    pub fn forget_all(&self, doubts: &[Arc<CoherenceDoubt>], now_ms: u64) {
        let slots = self.slots.lock();
        // First the debts: no read in the new epoch may miss them.
        for slot in slots.values().filter(|slot| slot.is_in(doubts)) {
            slot.debts.fetch_add(1, Ordering::AcqRel);
        }
        for doubt in doubts {
            doubt.begin_epoch(now_ms);
        }
        if let Some(listener) = self.touched.listener.get() {
            listener.all_changed();
        }
    }

    /// Drops the slots that no entry and no request holds. No slot can be cloned meanwhile: the table's lock
    /// is held.
    fn sweep(slots: &mut HashMap<SlotFamily, Arc<VersionSlot>, RandomState>) {
        slots.retain(|_, slot| {
            let used = Arc::strong_count(slot) > 1 || slot.owes_bump();
            if !used {
                slot.detached.store(true, Ordering::Release);
            }
            used
        });
    }
}

impl fmt::Debug for VersionTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Versions").field("partitions", &self.partitions).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
