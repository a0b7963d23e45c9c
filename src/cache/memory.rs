//! The first tier: this node's memory.
//!
//! Entries are weighed in bytes; when the memory is full the least valuable are evicted (S3-FIFO-like
//! Clock-PRO of `quick_cache`: one pass over many keys doesn't flush popular entries). An entry is found
//! under its [`Key`] whatever its version: a bump changes nothing here, the old generation is simply no
//! longer current and stays until its successor replaces it, to be served if the origin fails. The variants
//! of one resource are kept under one key, and are evicted together.

use super::{
    entry::{Entry, Standing},
    key::Key,
    variants::{self, Arrival},
};
use crate::{representation::allocated, telemetry::labels::FillOutcome};
use ahash::RandomState;
use parking_lot::Mutex;
use quick_cache::{sync::Cache, Lifecycle, OptionsBuilder, Weighter};
use std::{
    collections::HashMap,
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc,
    },
};

/// The bytes of a slot in the table, with a share of the free ones.
const PLACE: u64 = 64;

/// The value under a key.
#[derive(Debug, Clone)]
pub enum Resource {
    /// One entry, as a rule.
    One(Arc<Entry>),
    /// The variants, or parts, of one resource, the newest first.
    Several(Arc<[Arc<Entry>]>),
}

impl Resource {
    fn of(mut entries: Vec<Arc<Entry>>) -> Option<Self> {
        match entries.len() {
            0 => None,
            1 => entries.pop().map(Self::One),
            _ => Some(Self::Several(entries.into())),
        }
    }

    /// All of them, the newest first.
    pub fn entries(&self) -> &[Arc<Entry>] {
        match self {
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Several(entries) => entries,
        }
    }
}

#[derive(Clone)]
struct Weigh;

impl Weighter<Key, Resource> for Weigh {
    fn weight(&self, key: &Key, resource: &Resource) -> u64 {
        let several = match resource {
            Resource::One(_) => 0,
            Resource::Several(entries) => allocated(size_of_val(&**entries) + 16),
        };
        let entries = resource.entries().iter().map(|entry| entry.weight()).sum::<u64>();
        PLACE + allocated(key.as_str().len()) + several + entries
    }
}

#[derive(Clone)]
struct CountEvictions(Arc<AtomicU64>);

impl Lifecycle<Key, Resource> for CountEvictions {
    /// The key that is being written: a value replaced under it was not evicted.
    type RequestState = Option<Key>;

    fn on_evict(&self, kept: &mut Option<Key>, gone: Key, _: Resource) {
        if kept.as_ref() != Some(&gone) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The first tier.
pub struct Memory {
    entries: Cache<Key, Resource, Weigh, RandomState, CountEvictions>,
    /// Held while the variants of a resource are changed.
    changing: Mutex<()>,
    evictions: Arc<AtomicU64>,
    marks: Mutex<HashMap<Key, (u64, FillOutcome), RandomState>>,
}

/// The most marks: beyond it all of them, which are short-lived, are dropped at once.
const MOST_MARKS: usize = 10_000;

impl Memory {
    /// An empty memory of `capacity` bytes, for answers of up to `largest` bytes.
    pub fn new(capacity: u64, largest: u64) -> Self {
        /// The weight of a typical entry, for the size of the tables.
        const TYPICAL: u64 = 4_096;
        /// The most slots that are allocated at first: the memory of more would be used up by the first few
        /// entries.
        const MOST: u64 = 1 << 17;
        /// The most shards, each with its lock. An answer lies within one, which must have room for some of
        /// them.
        const MOST_PARTS: u64 = 64;
        let evictions = Arc::new(AtomicU64::new(0));
        let expected = usize::try_from((capacity / TYPICAL).clamp(64, MOST)).unwrap_or(64);
        let parts = (capacity / 2 / largest.max(1)).clamp(1, MOST_PARTS);
        // A power of two, since other numbers are rounded up to one.
        let parts = 1 << parts.ilog2();
        let counting = CountEvictions(evictions.clone());
        let options = OptionsBuilder::new()
            .estimated_items_capacity(expected)
            // As many evicted keys are remembered.
            .ghost_allocation(1.0)
            .weight_capacity(capacity)
            .shards(parts)
            .build();
        let entries = match options {
            Ok(options) => Cache::with_options(options, Weigh, RandomState::new(), counting),
            // Fails only without one of the numbers.
            Err(_) => Cache::with(expected, capacity, Weigh, RandomState::new(), counting),
        };
        Self { entries, changing: Mutex::default(), evictions, marks: Mutex::default() }
    }

    /// The value under a key, of any generation.
    pub fn resource(&self, key: &str) -> Option<Resource> {
        self.entries.get(key)
    }

    /// The entry under the key of a namespace, of any generation.
    pub fn entry(&self, key: &str) -> Option<Arc<Entry>> {
        match self.entries.get(key)? {
            Resource::One(entry) => Some(entry),
            Resource::Several(entries) => entries.first().cloned(),
        }
    }

    /// Keeps the entry of a namespace, unless a newer one of the current generation is already there: a fill
    /// that was overtaken by a bump must not replace a later one.
    pub fn keep(&self, key: Key, entry: Arc<Entry>, now_ms: u64) {
        let outdated = self.entries.peek(&key).is_some_and(|there| match &there.entries()[0].standing {
            Standing::Version(version, slot) => {
                let is_current = slot.is_current(version, there.entries()[0].is_provisional(), now_ms);
                !entry.is_of(version) && is_current == Some(true)
            }
            Standing::Log(..) => false,
        });
        if !outdated {
            self.put(key, Resource::One(entry));
        }
    }

    /// Keeps a variant of a resource. Returns it with the fields by which variants are told apart now, and
    /// the number of variants evicted for it.
    pub(super) fn keep_variant(
        &self,
        key: Key,
        entry: Arc<Entry>,
        arrival: &Arrival<'_>,
    ) -> (Arc<Entry>, usize) {
        let mut kept = (entry.clone(), 0);
        self.change(key, |entries| {
            let (entries, gone) = variants::with(entries, entry, arrival);
            kept = (entries.first().unwrap_or(&kept.0).clone(), gone);
            entries
        });
        kept
    }

    /// Drops an entry, if it is still there.
    pub fn drop_entry(&self, key: &Key, entry: &Arc<Entry>) {
        self.change(key.clone(), |mut entries| {
            entries.retain(|there| !Arc::ptr_eq(there, entry));
            entries
        });
    }

    /// Removes the entries under a key that are over.
    pub fn end(&self, key: &Key, is_over: impl Fn(&Entry) -> bool) {
        if self.entries.peek(key).is_some_and(|there| there.entries().iter().any(|entry| is_over(entry))) {
            self.change(key.clone(), |mut entries| {
                entries.retain(|entry| !is_over(entry));
                entries
            });
        }
    }

    fn change(&self, key: Key, change: impl FnOnce(Vec<Arc<Entry>>) -> Vec<Arc<Entry>>) {
        let _changing = self.changing.lock();
        let there = self.entries.peek(&key).map_or_else(Vec::new, |resource| resource.entries().to_vec());
        match Resource::of(change(there)) {
            Some(resource) => self.put(key, resource),
            None => drop(self.entries.remove(&key)),
        }
    }

    fn put(&self, key: Key, resource: Resource) {
        self.entries.insert_with_lifecycle(key.clone(), resource, &mut Some(key));
    }

    /// Returns true if this very entry is kept under a key.
    pub fn holds(&self, key: &Key, entry: &Arc<Entry>) -> bool {
        self.entries.peek(key).is_some_and(|there| there.entries().iter().any(|e| Arc::ptr_eq(e, entry)))
    }

    /// Replaces an entry by another form of it, if it is still there.
    pub fn replace(&self, key: Key, old: &Arc<Entry>, new: Arc<Entry>) {
        let _changing = self.changing.lock();
        let Some(there) = self.entries.peek(&key) else { return };
        let mut entries = there.entries().to_vec();
        let Some(place) = entries.iter_mut().find(|entry| Arc::ptr_eq(entry, old)) else { return };
        *place = new;
        if let Some(resource) = Resource::of(entries) {
            // Refused if it has just been evicted: then there is nothing to replace.
            let mut kept = Some(key.clone());
            self.entries.replace_with_lifecycle(key, resource, true, &mut kept).unwrap_or_default();
        }
    }

    /// Remembers until `until_ms` that the answer under a key may not be stored, and why.
    pub fn mark(&self, key: Key, why: FillOutcome, now_ms: u64, until_ms: u64) {
        let mut marks = self.marks.lock();
        if marks.len() >= MOST_MARKS {
            marks.retain(|_, (until, _)| *until > now_ms);
            if marks.len() >= MOST_MARKS {
                marks.clear();
            }
        }
        marks.insert(key, (until_ms, why));
    }

    /// The reason why the answer under a key may not be stored, if it is marked.
    pub fn marked(&self, key: &Key, now_ms: u64) -> Option<FillOutcome> {
        let mut marks = self.marks.lock();
        let (until, why) = *marks.get(key)?;
        if until <= now_ms {
            marks.remove(key);
            return None;
        }
        Some(why)
    }

    /// Counts the entries that match. Visits all of them.
    pub fn count(&self, is_meant: impl Fn(&Entry) -> bool) -> u64 {
        let of_resource = |resource: &Resource| resource.entries().iter().filter(|e| is_meant(e)).count();
        self.entries.iter().map(|(_, resource)| of_resource(&resource) as u64).sum()
    }

    /// Bytes in use.
    pub fn bytes(&self) -> u64 {
        self.entries.weight()
    }

    /// The capacity in bytes.
    pub fn capacity(&self) -> u64 {
        self.entries.capacity()
    }

    /// Entries of all generations.
    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Returns true if there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of evictions since the start.
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::{
            partitions::Partitions,
            policy::Terms,
            version::{Version, Versions},
        },
        config,
        representation::{Outside, Representation},
    };
    use http::{HeaderMap, HeaderValue, StatusCode};

    fn entry(body: usize) -> Arc<Entry> {
        let rules = config::Encoding {
            types: Vec::new(),
            min_size: 1_024,
            prefer: Vec::new(),
            levels: Default::default(),
            memory: 1 << 27,
        };
        let outside =
            Outside { cache_control: HeaderValue::from_static("private"), varies_by_authorization: true };
        let what = Representation::new(StatusCode::OK, Vec::new(), vec![7; body], None, outside, &rules);
        let versions = Versions::new(Partitions::none());
        let slot = versions.slot(&"kpi".parse().unwrap(), &"acme".parse().unwrap());
        let terms = Terms {
            received_ms: 0,
            initial_age_ms: 0,
            lifetime_ms: 1_000,
            stale_while_revalidate_ms: 0,
            stale_if_error_ms: 0,
            always_validate: false,
            never_stale: false,
            is_provisional: false,
        };
        Arc::new(Entry::new(what, &terms, Standing::Version(Version::new(b"1"), slot)))
    }

    fn key(n: u32) -> Key {
        Key::of_resource(crate::cache::key::Scheme::Http, "a.example", &format!("/{n}"))
    }

    #[test]
    fn what_is_replaced_is_not_evicted() {
        let memory = Memory::new(1 << 20, 1 << 16);
        let (old, new) = (entry(100), entry(50));
        memory.keep(key(1), old.clone(), 0);
        memory.replace(key(1), &old, new.clone());
        assert!(memory.holds(&key(1), &new));
        memory.keep(key(1), entry(100), 0);
        let arrival = Arrival { request: &HeaderMap::new(), told: &[], most: 9, now_ms: 0 };
        memory.keep_variant(key(1), entry(70), &arrival);
        assert_eq!((memory.len(), memory.evictions()), (1, 0));
    }

    #[test]
    fn what_goes_for_others_is_evicted() {
        let memory = Memory::new(1 << 20, 1 << 16);
        for n in 0..100 {
            memory.keep(key(n), entry(40_000), 0);
        }
        assert!(memory.len() < 50, "{}", memory.len());
        assert_eq!(memory.len() + memory.evictions(), 100);
        assert!(memory.bytes() <= memory.capacity());
    }

    #[test]
    fn a_small_entry_weighs_little_more_than_its_body() {
        let memory = Memory::new(1 << 20, 1 << 16);
        memory.keep(key(1), entry(300), 0);
        let beside = memory.bytes() - 300;
        assert!((250..400).contains(&beside), "{beside}");
    }
}
