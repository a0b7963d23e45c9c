//! The first tier: this node's memory.
//!
//! Entries are weighed in bytes; when the memory is full the least valuable are evicted (S3-FIFO-like
//! Clock-PRO of `quick_cache`: one pass over many keys doesn't flush popular entries). An entry is found
//! under its [`CacheKey`] whatever its version: a bump changes nothing here, the old generation is simply no
//! longer current and stays until its successor replaces it, to be served if the origin fails. The variants
//! of one resource are kept under one key, and are evicted together.

use super::{
    entry::{
        variants::{self, VariantArrival},
        CacheEntry, Validity,
    },
    key::CacheKey,
};
use crate::{representation::allocated_size, telemetry::labels::FillOutcome};

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
pub enum MemoryResource {
    /// One entry, as a rule.
    One(Arc<CacheEntry>),
    /// The variants, or parts, of one resource, the newest first.
    Several(Arc<[Arc<CacheEntry>]>),
}

impl MemoryResource {
    fn of(mut entries: Vec<Arc<CacheEntry>>) -> Option<Self> {
        match entries.len() {
            0 => None,
            1 => entries.pop().map(Self::One),
            _ => Some(Self::Several(entries.into())),
        }
    }

    /// All of them, the newest first.
    pub fn entries(&self) -> &[Arc<CacheEntry>] {
        match self {
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Several(entries) => entries,
        }
    }
}

#[derive(Clone)]
struct EntryWeighter;

impl Weighter<CacheKey, MemoryResource> for EntryWeighter {
    fn weight(&self, key: &CacheKey, resource: &MemoryResource) -> u64 {
        let several = match resource {
            MemoryResource::One(_) => 0,
            MemoryResource::Several(entries) => allocated_size(size_of_val(&**entries) + 16),
        };
        let entries = resource.entries().iter().map(|entry| entry.weight()).sum::<u64>();
        PLACE + allocated_size(key.as_str().len()) + several + entries
    }
}

#[derive(Clone)]
struct EvictionCounter(Arc<AtomicU64>);

impl Lifecycle<CacheKey, MemoryResource> for EvictionCounter {
    /// The key that is being written: a value replaced under it was not evicted.
    type RequestState = Option<CacheKey>;

    fn on_evict(&self, kept: &mut Option<CacheKey>, gone: CacheKey, _: MemoryResource) {
        if kept.as_ref() != Some(&gone) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The first tier.
pub struct MemoryTier {
    entries: Cache<CacheKey, MemoryResource, EntryWeighter, RandomState, EvictionCounter>,
    /// Held while the variants of a resource are changed.
    changing: Mutex<()>,
    evictions: Arc<AtomicU64>,
    marks: Mutex<HashMap<CacheKey, (u64, FillOutcome), RandomState>>,
}

/// The most marks: beyond it all of them, which are short-lived, are dropped at once.
const MOST_MARKS: usize = 10_000;

impl MemoryTier {
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
        let counting = EvictionCounter(evictions.clone());
        let options = OptionsBuilder::new()
            .estimated_items_capacity(expected)
            // As many evicted keys are remembered.
            .ghost_allocation(1.0)
            .weight_capacity(capacity)
            .shards(parts)
            .build();
        let entries = match options {
            Ok(options) => Cache::with_options(options, EntryWeighter, RandomState::new(), counting),
            // Fails only without one of the numbers.
            Err(_) => Cache::with(expected, capacity, EntryWeighter, RandomState::new(), counting),
        };
        Self { entries, changing: Mutex::default(), evictions, marks: Mutex::default() }
    }

    /// The value under a key, of any generation.
    pub fn resource(&self, key: &str) -> Option<MemoryResource> {
        self.entries.get(key)
    }

    /// The entry under the key of a namespace, of any generation.
    pub fn entry(&self, key: &str) -> Option<Arc<CacheEntry>> {
        match self.entries.get(key)? {
            MemoryResource::One(entry) => Some(entry),
            MemoryResource::Several(entries) => entries.first().cloned(),
        }
    }

    /// Keeps the entry of a namespace, unless a newer one of the current generation is already there: a fill
    /// that was overtaken by a bump must not replace a later one.
    pub fn keep(&self, key: CacheKey, entry: Arc<CacheEntry>, now_ms: u64) {
        let outdated = self.entries.peek(&key).is_some_and(|there| match &there.entries()[0].standing {
            Validity::Version(version, slot) => {
                let is_current = slot.is_current(version, there.entries()[0].is_provisional(), now_ms);
                !entry.is_of(version) && is_current == Some(true)
            }
            Validity::Log(..) => false,
        });
        if !outdated {
            self.put(key, MemoryResource::One(entry));
        }
    }

    /// Keeps a variant of a resource. Returns it with the fields by which variants are told apart now, and
    /// the number of variants evicted for it.
    pub(super) fn keep_variant(
        &self,
        key: CacheKey,
        entry: Arc<CacheEntry>,
        arrival: &VariantArrival<'_>,
    ) -> (Arc<CacheEntry>, usize) {
        let mut kept = (entry.clone(), 0);
        self.change(key, |entries| {
            let (entries, gone) = variants::insert_variant(entries, entry, arrival);
            kept = (entries.first().unwrap_or(&kept.0).clone(), gone);
            entries
        });
        kept
    }

    /// Drops an entry, if it is still there.
    pub fn drop_entry(&self, key: &CacheKey, entry: &Arc<CacheEntry>) {
        self.change(key.clone(), |mut entries| {
            entries.retain(|there| !Arc::ptr_eq(there, entry));
            entries
        });
    }

    /// Removes the entries under a key that are over.
    pub fn end(&self, key: &CacheKey, is_over: impl Fn(&CacheEntry) -> bool) {
        if self.entries.peek(key).is_some_and(|there| there.entries().iter().any(|entry| is_over(entry))) {
            self.change(key.clone(), |mut entries| {
                entries.retain(|entry| !is_over(entry));
                entries
            });
        }
    }

    fn change(&self, key: CacheKey, change: impl FnOnce(Vec<Arc<CacheEntry>>) -> Vec<Arc<CacheEntry>>) {
        let _changing = self.changing.lock();
        let there = self.entries.peek(&key).map_or_else(Vec::new, |resource| resource.entries().to_vec());
        match MemoryResource::of(change(there)) {
            Some(resource) => self.put(key, resource),
            None => drop(self.entries.remove(&key)),
        }
    }

    fn put(&self, key: CacheKey, resource: MemoryResource) {
        self.entries.insert_with_lifecycle(key.clone(), resource, &mut Some(key));
    }

    /// Returns true if this very entry is kept under a key.
    pub fn holds(&self, key: &CacheKey, entry: &Arc<CacheEntry>) -> bool {
        self.entries.peek(key).is_some_and(|there| there.entries().iter().any(|e| Arc::ptr_eq(e, entry)))
    }

    /// Replaces an entry by another form of it, if it is still there.
    pub fn replace(&self, key: CacheKey, old: &Arc<CacheEntry>, new: Arc<CacheEntry>) {
        let _changing = self.changing.lock();
        let Some(there) = self.entries.peek(&key) else { return };
        let mut entries = there.entries().to_vec();
        let Some(place) = entries.iter_mut().find(|entry| Arc::ptr_eq(entry, old)) else { return };
        *place = new;
        if let Some(resource) = MemoryResource::of(entries) {
            // Refused if it has just been evicted: then there is nothing to replace.
            let mut kept = Some(key.clone());
            self.entries.replace_with_lifecycle(key, resource, true, &mut kept).unwrap_or_default();
        }
    }

    /// Remembers until `until_ms` that the answer under a key may not be stored, and why.
    pub fn mark(&self, key: CacheKey, why: FillOutcome, now_ms: u64, until_ms: u64) {
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
    pub fn marked(&self, key: &CacheKey, now_ms: u64) -> Option<FillOutcome> {
        let mut marks = self.marks.lock();
        let (until, why) = *marks.get(key)?;
        if until <= now_ms {
            marks.remove(key);
            return None;
        }
        Some(why)
    }

    /// Forgets that the answer under a key may not be stored.
    pub fn unmark(&self, key: &CacheKey) {
        self.marks.lock().remove(key);
    }

    /// Counts the entries that match. Visits all of them.
    pub fn count(&self, is_meant: impl Fn(&CacheEntry) -> bool) -> u64 {
        let of_resource =
            |resource: &MemoryResource| resource.entries().iter().filter(|e| is_meant(e)).count();
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
            coherence::{
                partitions::StorePartitions,
                version::{Version, VersionTable},
            },
            policy::FreshnessTerms,
        },
        config,
        representation::{OutsideCaching, Representation},
    };

    use http::{HeaderMap, HeaderValue, StatusCode};

    fn entry(body: usize) -> Arc<CacheEntry> {
        let rules = config::EncodingConfig {
            types: Vec::new(),
            min_size: 1_024,
            prefer: Vec::new(),
            levels: Default::default(),
            memory: 1 << 27,
        };
        let outside = OutsideCaching {
            cache_control: HeaderValue::from_static("private"),
            varies_by_authorization: true,
        };
        let what = Representation::new(StatusCode::OK, Vec::new(), vec![7; body], None, outside, &rules);
        let versions = VersionTable::new(StorePartitions::none());
        let slot = versions.slot(&"kpi".parse().unwrap(), &"acme".parse().unwrap());
        let terms = FreshnessTerms {
            received_ms: 0,
            initial_age_ms: 0,
            lifetime_ms: 1_000,
            stale_while_revalidate_ms: 0,
            stale_if_error_ms: 0,
            always_validate: false,
            never_stale: false,
            is_provisional: false,
        };
        Arc::new(CacheEntry::new(what, &terms, Validity::Version(Version::new(b"1"), slot)))
    }

    fn key(n: u32) -> CacheKey {
        CacheKey::of_resource(crate::cache::key::RequestScheme::Http, "a.example", &format!("/{n}"))
    }

    #[test]
    fn what_is_replaced_is_not_evicted() {
        let memory = MemoryTier::new(1 << 20, 1 << 16);
        let (old, new) = (entry(100), entry(50));
        memory.keep(key(1), old.clone(), 0);
        memory.replace(key(1), &old, new.clone());
        assert!(memory.holds(&key(1), &new));
        memory.keep(key(1), entry(100), 0);
        let arrival = VariantArrival { request: &HeaderMap::new(), told: &[], most: 9, now_ms: 0 };
        memory.keep_variant(key(1), entry(70), &arrival);
        assert_eq!((memory.len(), memory.evictions()), (1, 0));
    }

    #[test]
    fn what_goes_for_others_is_evicted() {
        let memory = MemoryTier::new(1 << 20, 1 << 16);
        for n in 0..100 {
            memory.keep(key(n), entry(40_000), 0);
        }
        assert!(memory.len() < 50, "{}", memory.len());
        assert_eq!(memory.len() + memory.evictions(), 100);
        assert!(memory.bytes() <= memory.capacity());
    }

    #[test]
    fn a_small_entry_weighs_little_more_than_its_body() {
        let memory = MemoryTier::new(1 << 20, 1 << 16);
        memory.keep(key(1), entry(300), 0);
        let beside = memory.bytes() - 300;
        assert!((250..400).contains(&beside), "{beside}");
    }
}
