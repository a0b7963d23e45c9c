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
//!   that was replaced before ([`Past`]), and the known one where it was written again ([`Fences`]).
//! - While the store is away, the last known version goes on: a hit needs no store. A bump that could not be
//!   recorded moves the version here and is made up for when the store is back.
//!
//! No I/O happens here: `redis.rs` reads, writes and reports.

mod fences;
mod past;
mod pickle;
mod value;

pub use fences::Fences;
pub use value::Version;

use crate::name::{Namespace, Tenant};
use ahash::RandomState;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use past::Past;
use std::{
    collections::HashMap,
    fmt,
    sync::{
        atomic::{AtomicBool, AtomicU64, AtomicU8, Ordering},
        Arc,
    },
};

/// How far versions may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Coherence {
    /// There is no store: this table is the truth.
    Alone = 0,
    /// The store reports changes.
    Tracked = 1,
    /// The store doesn't report changes: each request reads.
    Untracked = 2,
    /// The store is away: the last known version goes on.
    Away = 3,
}

/// What a request learns from a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Believe this.
    Current(Version),
    /// Ask the store, with this ticket.
    Ask(Ticket),
}

/// The state of a slot when a read began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    epoch: u64,
    changes: u64,
    rewritten: bool,
}

struct Known {
    version: Version,
    epoch: u64,
    /// The last fence that had begun when it was read; `None`: it was never read.
    fence: Option<u64>,
}

/// What is known of one namespace and tenant.
pub struct Slot {
    namespace: Namespace,
    tenant: Tenant,
    known: ArcSwapOption<Known>,
    changes: AtomicU64,
    unrecorded: AtomicBool,
    /// Whether it is in the list of those who owe; changed under that list's lock only.
    listed: AtomicBool,
    /// Whether this node has moved it: then this node sees to it that no store forgets.
    moved_here: AtomicBool,
    /// The epoch in which a change was last reported and not yet read; 0: none.
    doubted_in: AtomicU64,
    /// Whether what is known was written again: a change was reported after a fence that came after its read.
    rewritten: AtomicBool,
    detached: AtomicBool,
    /// Held while a read's answer is judged against changes that arrive on another thread.
    judging: Mutex<Past>,
    fences: Arc<Fences>,
    shared: Arc<Shared>,
}

struct Shared {
    epoch: AtomicU64,
    coherence: AtomicU8,
    /// Slots whose bump the store has missed; they are kept until it has it.
    owing: Mutex<Vec<Arc<Slot>>>,
}

impl Shared {
    fn coherence(&self) -> Coherence {
        match self.coherence.load(Ordering::Acquire) {
            0 => Coherence::Alone,
            1 => Coherence::Tracked,
            2 => Coherence::Untracked,
            _ => Coherence::Away,
        }
    }
}

impl Slot {
    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The tenant.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// What a request may go by now.
    pub fn standing(&self) -> Standing {
        let ticket = || Ticket {
            epoch: self.shared.epoch.load(Ordering::Acquire),
            changes: self.changes.load(Ordering::Acquire),
            rewritten: self.rewritten.load(Ordering::Acquire),
        };
        match self.shared.coherence() {
            Coherence::Alone | Coherence::Away => Standing::Current(self.assumed()),
            Coherence::Untracked => Standing::Ask(ticket()),
            Coherence::Tracked => {
                let ticket = ticket();
                match &*self.known.load() {
                    Some(known) if known.epoch == ticket.epoch && !self.is_in_doubt() => {
                        Standing::Current(known.version.clone())
                    }
                    _ => Standing::Ask(ticket),
                }
            }
        }
    }

    /// Whether an answer made under `version` is of the current generation, without asking anyone. `None`: the
    /// store has to be asked.
    pub fn is_current(&self, version: &Version) -> Option<bool> {
        let coherence = self.shared.coherence();
        match coherence {
            Coherence::Untracked => return None,
            Coherence::Tracked if self.is_in_doubt() => return None,
            _ if self.detached.load(Ordering::Acquire) => return None,
            _ => {}
        }
        match &*self.known.load() {
            Some(known) if coherence == Coherence::Tracked => {
                let believed = known.epoch == self.shared.epoch.load(Ordering::Acquire);
                believed.then(|| known.version == *version)
            }
            _ if self.is_superseded() => Some(self.assumed() == *version),
            Some(known) => Some(known.version == *version),
            None if coherence == Coherence::Tracked => None,
            None => Some(version.is_absent()),
        }
    }

    /// The epoch and the count of changes: a read that began at another moment may not speak for this one.
    pub fn moment(&self) -> (u64, u64) {
        (self.shared.epoch.load(Ordering::Acquire), self.changes.load(Ordering::Acquire))
    }

    fn is_in_doubt(&self) -> bool {
        self.detached.load(Ordering::Acquire) || self.unrecorded.load(Ordering::Acquire)
    }

    /// The last version that was known here, believed or not; an unknown one counts as absent.
    pub fn last_known(&self) -> Version {
        self.known.load().as_ref().map_or_else(Version::absent, |k| k.version.clone())
    }

    /// What a request goes by that can't ask: the last known version or, after a change was reported that nobody could
    /// read yet, a name for what comes after it. The generation before the change is over in any case.
    pub fn assumed(&self) -> Version {
        let last = self.last_known();
        match self.is_superseded() {
            true => Version::named(format!("after-{}", last.tag())),
            false => last,
        }
    }

    fn is_superseded(&self) -> bool {
        self.doubted_in.load(Ordering::Acquire) != 0
    }

    /// The store answered a read that began with `ticket`.
    pub fn learned(&self, ticket: Ticket, version: &Version) {
        let mut past = self.judging.lock();
        if self.changes.load(Ordering::Acquire) == ticket.changes {
            self.know(&mut past, version.clone(), ticket.epoch, Some(self.fences.last()));
        }
    }

    fn know(&self, past: &mut Past, version: Version, epoch: u64, fence: Option<u64>) {
        self.doubted_in.store(0, Ordering::Release);
        self.rewritten.store(false, Ordering::Release);
        if let Some(known) = self.known.load().as_ref().filter(|known| known.version != version) {
            past.add(&known.version);
            past.remove(&version);
        }
        self.known.store(Some(Arc::new(Known { version, epoch, fence })));
    }

    /// Moves the version here without the store. With a store, the bump is owed to it ([`Self::owes_bump`]).
    pub fn bump_here(self: &Arc<Self>, now_ms: u64) -> Version {
        let mut past = self.judging.lock();
        let version = self.last_known().bumped(now_ms);
        let alone = self.shared.coherence() == Coherence::Alone;
        if !alone {
            let mut owing = self.shared.owing.lock();
            self.unrecorded.store(true, Ordering::Release);
            if !self.listed.swap(true, Ordering::AcqRel) {
                owing.push(self.clone());
            }
        }
        self.changes.fetch_add(1, Ordering::AcqRel);
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        self.know(&mut past, version.clone(), epoch, None);
        version
    }

    /// Whether a bump made here has not reached the store yet. Reading the version must bump it instead.
    pub fn owes_bump(&self) -> bool {
        self.unrecorded.load(Ordering::Acquire)
    }

    /// The store has moved the version to this one. It is known from now on, but not believed before it was read:
    /// others may be moving it at the same time.
    pub fn moved(&self, to: &Version) {
        let mut past = self.judging.lock();
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.unrecorded.store(false, Ordering::Release);
        self.moved_here.store(true, Ordering::Release);
        let last = self.last_known();
        let version = if to.is_behind(&last) { last } else { to.clone() };
        self.know(&mut past, version, 0, None);
    }

    /// Returns whether what was read is not to be believed, because the store has lost what came after it. `known`: the
    /// last known version when the read began.
    pub fn is_lost(&self, ticket: Ticket, known: &Version, read: &Version) -> bool {
        let is_past = || read != known && self.judging.lock().has(read);
        read.is_behind(known) || self.missed_a_change(ticket, read) || is_past()
    }

    /// Returns whether a change was reported, and what is read now is what was known before it: it was written again, or,
    /// where the report was in an epoch that is over, the store has lost the change.
    fn missed_a_change(&self, ticket: Ticket, read: &Version) -> bool {
        let doubted = self.doubted_in.load(Ordering::Acquire);
        let is_over = doubted != 0 && doubted < ticket.epoch;
        (is_over || ticket.rewritten) && *read == self.last_known()
    }

    fn doubt(&self) {
        let _judging = self.judging.lock();
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.doubted_in.store(self.shared.epoch.load(Ordering::Acquire), Ordering::Release);
        // The version stays as the last known one, for when the store goes away; its epoch is past.
        if let Some(known) = &*self.known.load() {
            let (version, fence) = (known.version.clone(), known.fence);
            if fence.is_some_and(|fence| self.fences.is_past(fence)) {
                self.rewritten.store(true, Ordering::Release);
            }
            self.known.store(Some(Arc::new(Known { version, epoch: 0, fence })));
        }
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
    shared: Arc<Shared>,
    sweep_at: AtomicU64,
}

/// Slots that nobody uses are swept when their number has doubled; below this it is not worth it.
const FIRST_SWEEP: u64 = 65_536;

impl Versions {
    /// An empty table.
    pub fn new(coherence: Coherence) -> Self {
        let shared = Shared {
            epoch: AtomicU64::new(1),
            coherence: AtomicU8::new(coherence as u8),
            owing: Mutex::default(),
        };
        Self {
            slots: Mutex::default(),
            fences: Arc::default(),
            shared: Arc::new(shared),
            sweep_at: AtomicU64::new(FIRST_SWEEP),
        }
    }

    /// The fences behind reads.
    pub fn fences(&self) -> &Fences {
        &self.fences
    }

    /// How far versions may be believed now.
    pub fn coherence(&self) -> Coherence {
        self.shared.coherence()
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
        let slot = Arc::new(Slot {
            namespace: namespace.clone(),
            tenant: tenant.clone(),
            known: ArcSwapOption::empty(),
            changes: AtomicU64::new(0),
            unrecorded: AtomicBool::new(false),
            listed: AtomicBool::new(false),
            moved_here: AtomicBool::new(false),
            doubted_in: AtomicU64::new(0),
            detached: AtomicBool::new(false),
            rewritten: AtomicBool::new(false),
            judging: Mutex::default(),
            fences: self.fences.clone(),
            shared: self.shared.clone(),
        });
        slots.insert((namespace.clone(), tenant.clone()), slot.clone());
        slot
    }

    /// The slots whose bump the store has missed.
    pub fn owing(&self) -> Vec<Arc<Slot>> {
        self.shared.owing.lock().clone()
    }

    /// The slots that this node has moved.
    pub fn moved_here(&self) -> Vec<Arc<Slot>> {
        let slots = self.slots.lock();
        slots.values().filter(|slot| slot.moved_here.load(Ordering::Acquire)).cloned().collect()
    }

    /// Strikes those off the list that no longer owe.
    pub fn settle(&self) {
        self.shared.owing.lock().retain(|slot| {
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
            slot.doubt();
        }
    }

    /// Everything known is doubted, and believed from now on as `coherence` says.
    pub fn begin_epoch(&self, coherence: Coherence) {
        self.shared.epoch.fetch_add(1, Ordering::AcqRel);
        self.shared.coherence.store(coherence as u8, Ordering::Release);
    }

    /// Everything known is doubted.
    pub fn doubt_all(&self) {
        self.shared.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// The store was emptied: everything known is doubted, and each version is moved on when it is read next, so
    /// that no generation from before comes back under a number that is counted anew.
    pub fn forget_all(&self) {
        let slots = self.slots.lock();
        // First the debts: nobody may read in the new epoch without paying.
        for slot in slots.values() {
            slot.unrecorded.store(true, Ordering::Release);
        }
        self.doubt_all();
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
        f.debug_struct("Versions").field("coherence", &self.coherence()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "version_tests.rs"]
mod tests;
