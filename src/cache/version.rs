//! The versions that this node knows, and whether it may believe them.
//!
//! A version is read from the store once and then believed until the store says that it changed, or until the
//! connection that would say so is lost. That makes a hit cost no round trip. The rules:
//!
//! - A [`Slot`] holds what is known of one namespace and tenant. An entry of the cache keeps its slot, so that
//!   a hit asks the slot and not the table.
//! - What is known carries the *epoch* in which it was read. A lost connection, a FLUSHALL or a reconnection
//!   begins a new epoch: everything known is doubted at once, at the price of one addition.
//! - A read notes the slot's change count before it asks. If a change was reported meanwhile, the answer serves
//!   the request that asked, but is not believed any longer than that.
//! - What a read names and the store can't mean is moved on instead of believed: a number below the known one, a value
//!   that was replaced before (`version/past.rs`), and the known one where it was written again ([`Fences`]).
//! - While the store can't be asked, the last known version is *assumed*, within the bounds of [`super::doubt`]: a hit
//!   needs no store. A bump that could not be recorded moves the version here and is made up for when the store is back.
//! - A change that was reported and could not be read ends the generation before it. What is filled then has a name of
//!   this node's, another one after each further report.
//!
//! No I/O happens here: `redis.rs` reads, writes and reports. Times are handed in.

mod fences;
mod past;
mod pickle;
mod unread;
mod value;

pub use fences::Fences;
pub use unread::Unread;
pub use value::Version;

use super::{
    doubt::{Coherence, Doubt},
    partitions::Partitions,
};
use crate::name::{Namespace, Tenant};
use ahash::RandomState;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use past::Past;
use std::{
    collections::HashMap,
    fmt,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc, Weak,
    },
};

/// What a request learns from a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Believe this.
    Current(Version),
    /// Ask the store, with this ticket.
    Ask(Ticket),
    /// Nobody can be asked: assume this.
    Assumed(Version),
}

/// The version that a request goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basis {
    /// The version.
    pub version: Version,
    /// It could not be read: what is filled under it is provisional, and stays on this node.
    pub is_assumed: bool,
}

impl Basis {
    /// A version that the store named, or that this node is the truth of.
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
pub struct Ticket {
    epoch: u64,
    changes: u64,
    asked_ms: u64,
    rewritten: bool,
}

struct Known {
    version: Version,
    epoch: u64,
    /// When it was asked for, or moved here.
    read_ms: u64,
    /// The last fence that had begun when it was read; `None`: it was never read.
    fence: Option<u64>,
    /// By which link it was read, or moved.
    link: u64,
}

/// What is known of one namespace and tenant.
pub struct Slot {
    namespace: Namespace,
    tenant: Tenant,
    known: ArcSwapOption<Known>,
    changes: AtomicU64,
    /// The number of bumps that were made here without the store, and of how many of them the store knows.
    debts: AtomicU64,
    paid: AtomicU64,
    /// Whether it is in the list of those who owe; changed under that list's lock only.
    listed: AtomicBool,
    /// The epoch in which a change was last reported and not yet read; 0: none.
    doubted_in: AtomicU64,
    /// True if what is known was written again: a change was reported after a fence that came after its read.
    rewritten: AtomicBool,
    detached: AtomicBool,
    /// Held while a read's answer is judged against changes that arrive on another thread.
    judging: Mutex<Past>,
    fences: Arc<Fences>,
    /// Of the server that its key lies on.
    doubt: Arc<Doubt>,
    owing: Owing,
    /// True if it is among those that were touched.
    is_touched: AtomicBool,
    touched: Touched,
    me: Weak<Self>,
}

/// Slots whose bump the store has missed; they are kept until it has it.
type Owing = Arc<Mutex<Vec<Arc<Slot>>>>;

/// Slots that have become unread since somebody looked; they are not kept by it.
type Touched = Arc<Mutex<Vec<Weak<Slot>>>>;

impl Slot {
    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The tenant.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Returns the state by which what is known of it may be believed.
    pub fn doubt(&self) -> &Doubt {
        &self.doubt
    }

    /// Returns whether it lies in one of the partitions of these doubts.
    pub fn is_in(&self, doubts: &[Arc<Doubt>]) -> bool {
        doubts.iter().any(|doubt| Arc::ptr_eq(doubt, &self.doubt))
    }

    /// What a request may go by now.
    pub fn standing(&self, now_ms: u64) -> Standing {
        let ticket = self.ticket(now_ms);
        match self.doubt.coherence() {
            Coherence::Alone => return Standing::Current(self.assumed()),
            Coherence::Away => return Standing::Assumed(self.assumed()),
            coherence if !self.owes_or_is_gone() => {
                if let Some(known) = &*self.known.load() {
                    if known.epoch == ticket.epoch && self.is_believed(coherence, known, now_ms) {
                        return Standing::Current(known.version.clone());
                    }
                }
            }
            _ => {}
        }
        match self.doubt.may_be_asked(now_ms) {
            true => Standing::Ask(ticket),
            false => Standing::Assumed(self.assumed()),
        }
    }

    /// Returns whether what was read in this epoch is believed still.
    fn is_believed(&self, coherence: Coherence, known: &Known, now_ms: u64) -> bool {
        match coherence {
            Coherence::Tracked => self.doubt.is_heard(now_ms),
            Coherence::Untracked => {
                self.doubt.is_confirmed(now_ms) && self.doubt.is_polled(known.read_ms, now_ms)
            }
            Coherence::Alone | Coherence::Away => false,
        }
    }

    /// The state of the slot, for a read that begins now.
    pub fn ticket(&self, now_ms: u64) -> Ticket {
        let (epoch, changes) = self.moment();
        Ticket { epoch, changes, asked_ms: now_ms, rewritten: self.rewritten.load(Ordering::Acquire) }
    }

    /// Returns whether the store has to be asked what is known in this epoch: nobody has read it since, or a change
    /// was reported.
    pub fn is_unread(&self) -> bool {
        let known = self.known.load();
        known.as_ref().is_none_or(|known| known.epoch != self.doubt.epoch()) || self.is_superseded()
    }

    /// Notes that it has to be read. Where there is no link nobody would look: what was known is looked through with the
    /// next one.
    pub fn touch(&self) {
        let is_linked = matches!(self.doubt.coherence(), Coherence::Tracked | Coherence::Untracked);
        if is_linked && !self.is_touched.swap(true, Ordering::AcqRel) {
            self.touched.lock().push(self.me.clone());
        }
    }

    /// Returns whether an answer made under `version` is of the current generation, without asking anyone. `None`: the
    /// store has to be asked. `is_provisional`: it was made in doubt.
    #[inline]
    pub fn is_current(&self, version: &Version, is_provisional: bool, now_ms: u64) -> Option<bool> {
        let coherence = self.doubt.coherence();
        let is_told =
            matches!(coherence, Coherence::Alone | Coherence::Tracked) && self.doubt.is_heard(now_ms);
        if is_told && !self.owes_or_is_gone() {
            match &*self.known.load() {
                Some(known) if known.epoch == self.doubt.epoch() => return Some(known.version == *version),
                None if coherence == Coherence::Alone => return Some(version.is_absent()),
                _ => {}
            }
        }
        self.is_assumed(coherence, version, is_provisional, now_ms)
    }

    /// The same where the version is not known for sure.
    fn is_assumed(
        &self,
        coherence: Coherence,
        version: &Version,
        is_provisional: bool,
        now_ms: u64,
    ) -> Option<bool> {
        if coherence == Coherence::Untracked && !self.owes_or_is_gone() {
            if let Some(known) = &*self.known.load() {
                if known.epoch == self.doubt.epoch() && self.is_believed(coherence, known, now_ms) {
                    return Some(known.version == *version);
                }
            }
        }
        let may_ask =
            matches!(coherence, Coherence::Tracked | Coherence::Untracked) && self.doubt.may_be_asked(now_ms);
        if may_ask || self.detached.load(Ordering::Acquire) {
            return None;
        }
        Some(self.allows(is_provisional, now_ms) && self.assumed() == *version)
    }

    /// Returns whether an answer may be served while the version is not known for sure.
    pub fn allows(&self, is_provisional: bool, now_ms: u64) -> bool {
        let read_ms = self.known.load().as_ref().map_or(0, |known| known.read_ms);
        self.doubt.allows(is_provisional, read_ms, now_ms)
    }

    /// The epoch and the count of changes: a read that began at another moment may not speak for this one.
    pub fn moment(&self) -> (u64, u64) {
        (self.doubt.epoch(), self.changes.load(Ordering::Acquire))
    }

    fn owes_or_is_gone(&self) -> bool {
        self.detached.load(Ordering::Acquire) || self.owes_bump()
    }

    /// The last version that was known here, believed or not; an unknown one counts as absent.
    pub fn last_known(&self) -> Version {
        self.known.load().as_ref().map_or_else(Version::absent, |k| k.version.clone())
    }

    /// What a request goes by that can't ask: the last known version or, after a change was reported that nobody could
    /// read yet, a name for what comes after it, another one after each report. The generation before the change is over
    /// in any case.
    pub fn assumed(&self) -> Version {
        // Asked first: what is known is replaced before this ends.
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

    /// The store answered a read that began with `ticket`.
    pub fn learned(&self, ticket: Ticket, version: &Version) {
        let mut past = self.judging.lock();
        // Neither what a change has overtaken nor what was read before another link was made.
        if self.moment() == (ticket.epoch, ticket.changes) {
            let known = Known {
                version: version.clone(),
                epoch: ticket.epoch,
                read_ms: ticket.asked_ms,
                fence: Some(self.fences.last()),
                link: self.doubt.links(),
            };
            self.know(&mut past, known);
        }
    }

    fn know(&self, past: &mut Past, known: Known) {
        let version = known.version.clone();
        if let Some(known) = self.known.load().as_ref().filter(|known| known.version != version) {
            past.add(&known.version);
            past.remove(&version);
        }
        self.known.store(Some(Arc::new(known)));
        self.rewritten.store(false, Ordering::Release);
        self.doubted_in.store(0, Ordering::Release);
    }

    /// Moves the version here without the store. With a store, the bump is owed to it ([`Self::owes_bump`]).
    pub fn bump_here(self: &Arc<Self>, now_ms: u64) -> Version {
        let mut past = self.judging.lock();
        let version = self.last_known().bumped(now_ms);
        let alone = self.doubt.coherence() == Coherence::Alone;
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
        self.know(&mut past, Known { version: version.clone(), epoch, read_ms: now_ms, fence: None, link });
        version
    }

    /// Whether a bump made here has not reached the store yet. Reading the version must bump it instead.
    pub fn owes_bump(&self) -> bool {
        self.debt() != self.paid.load(Ordering::Acquire)
    }

    /// The number of bumps that were made here without the store, paid or not.
    pub fn debt(&self) -> u64 {
        self.debts.load(Ordering::Acquire)
    }

    /// The store has moved the version to this one. It is known from now on, but not believed before it was read:
    /// others may be moving it at the same time.
    pub fn moved(&self, to: &Version) {
        self.paid(to, self.debt());
    }

    /// The same by a call that was sent when this was the debt: what was bumped here since is owed still.
    pub fn paid(&self, to: &Version, debt: u64) {
        let mut past = self.judging.lock();
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.paid.fetch_max(debt, Ordering::AcqRel);
        let last = self.last_known();
        let version = if to.is_behind(&last) { last } else { to.clone() };
        let read_ms = self.known.load().as_ref().map_or(0, |known| known.read_ms);
        let link = self.doubt.links();
        self.know(&mut past, Known { version, epoch: 0, read_ms, fence: None, link });
        self.touch();
    }

    /// Returns whether what was read is not to be believed, because the store has lost what came after it. `known`: the
    /// last known version when the read began.
    pub fn is_lost(&self, ticket: Ticket, known: &Version, read: &Version) -> bool {
        let is_past = || read != known && self.judging.lock().has(read);
        read.is_behind(known) || self.missed_a_change(ticket, read) || is_past()
    }

    /// Returns whether what is read now is what was known before, and stands for a later change all the same: one was reported,
    /// and it was written again; or that was in an epoch that is over, and the store has lost the change; or it was counted anew.
    fn missed_a_change(&self, ticket: Ticket, read: &Version) -> bool {
        let doubted = self.doubted_in.load(Ordering::Acquire);
        let is_over = doubted != 0 && doubted < ticket.epoch;
        (is_over || ticket.rewritten || self.is_counted_anew(read)) && *read == self.last_known()
    }

    /// Returns whether a version of this value may be another one than it was: while there was no link the store may have
    /// been emptied, and whoever counts may have got to the same number again. Moved on, it is a time: this happens once.
    fn is_counted_anew(&self, read: &Version) -> bool {
        let known = self.known.load();
        known.as_ref().is_some_and(|known| known.link != self.doubt.links()) && !read.is_time()
    }

    /// A change was reported.
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
            self.known.store(Some(Arc::new(Known { version, epoch: 0, read_ms, fence, link })));
        }
        self.touch();
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} {:?}", self.namespace, self.tenant, self.last_known())
    }
}

type Family = (Namespace, Tenant);

/// The table of all slots.
pub struct Versions {
    slots: Mutex<HashMap<Family, Arc<Slot>, RandomState>>,
    fences: Arc<Fences>,
    partitions: Arc<Partitions>,
    owing: Owing,
    touched: Touched,
    sweep_at: AtomicU64,
}

/// Slots that nobody uses are swept when their number has doubled; below this it is not worth it.
const FIRST_SWEEP: u64 = 65_536;

impl Versions {
    /// An empty table of what a store knows better, as far as the doubts of its partitions say.
    pub fn new(partitions: Arc<Partitions>) -> Self {
        Self {
            slots: Mutex::default(),
            fences: Arc::default(),
            partitions,
            owing: Owing::default(),
            touched: Touched::default(),
            sweep_at: AtomicU64::new(FIRST_SWEEP),
        }
    }

    /// The fences behind reads.
    pub fn fences(&self) -> &Fences {
        &self.fences
    }

    /// The slot of a namespace and tenant.
    pub fn slot(&self, namespace: &Namespace, tenant: &Tenant) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(&(namespace.clone(), tenant.clone())) {
            return slot.clone();
        }
        if slots.len() as u64 >= self.sweep_at.load(Ordering::Relaxed) {
            Self::sweep(&mut slots);
            self.sweep_at.store((slots.len() as u64 * 2).max(FIRST_SWEEP), Ordering::Relaxed);
        }
        let slot = Arc::new_cyclic(|me| Slot {
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
    pub fn owing(&self) -> Vec<Arc<Slot>> {
        self.owing.lock().clone()
    }

    /// The slots of these partitions that have to be read again, found by a look at all: see [`Unread`].
    pub fn unread(&self, doubts: &[Arc<Doubt>]) -> Vec<Arc<Slot>> {
        // The table is held for as long as it takes to copy it.
        let mut slots: Vec<_> = self.slots.lock().values().cloned().collect();
        slots.retain(|slot| slot.is_unread() && slot.is_in(doubts));
        slots
    }

    /// The slots of these partitions that were touched, once.
    fn take_touched(&self, doubts: &[Arc<Doubt>]) -> Vec<Arc<Slot>> {
        let touched = std::mem::take(&mut *self.touched.lock());
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        for slot in touched.iter().filter_map(Weak::upgrade) {
            match slot.is_in(doubts) {
                true => {
                    // Before it is looked at: what happens from now on touches it again.
                    slot.is_touched.store(false, Ordering::Release);
                    ours.push(slot);
                }
                false => others.push(Arc::downgrade(&slot)),
            }
        }
        if !others.is_empty() {
            self.touched.lock().append(&mut others);
        }
        ours
    }

    /// Strikes those off the list that no longer owe.
    pub fn settle(&self) {
        self.owing.lock().retain(|slot| {
            let owes = slot.owes_bump();
            slot.listed.store(owes, Ordering::Release);
            owes
        });
    }

    /// A change of this version was reported.
    pub fn changed(&self, namespace: &str, tenant: &str) {
        let (Ok(namespace), Ok(tenant)) = (namespace.parse(), tenant.parse()) else { return };
        let slot = self.slots.lock().get(&(namespace, tenant)).cloned();
        if let Some(slot) = slot {
            slot.changed();
        }
    }

    /// These partitions of the store were emptied: everything known of them is doubted, and each version is moved on when it is read next, so
    /// that no generation from before comes back under a number that is counted anew.
    pub fn forget_all(&self, doubts: &[Arc<Doubt>], now_ms: u64) {
        let slots = self.slots.lock();
        // First the debts: nobody may read in the new epoch without paying.
        for slot in slots.values().filter(|slot| slot.is_in(doubts)) {
            slot.debts.fetch_add(1, Ordering::AcqRel);
        }
        for doubt in doubts {
            doubt.begin_epoch(now_ms);
        }
    }

    /// Drops the slots that no entry and no request holds. A slot that is dropped while someone is about to
    /// clone it can't be: the table's lock is held.
    fn sweep(slots: &mut HashMap<Family, Arc<Slot>, RandomState>) {
        slots.retain(|_, slot| {
            let used = Arc::strong_count(slot) > 1 || slot.owes_bump();
            if !used {
                slot.detached.store(true, Ordering::Release);
            }
            used
        });
    }
}

impl fmt::Debug for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Versions").field("partitions", &self.partitions).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "version_tests.rs"]
mod tests;
