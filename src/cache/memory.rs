//! The first tier: this node's memory.
//!
//! Entries are weighed in bytes; when the memory is full the least valuable go (S3-FIFO-like Clock-PRO of
//! `quick_cache`: one pass over many keys doesn't flush what is asked for often). An entry is found under its
//! [`Key`] whatever its version: a bump touches nothing here, the old generation simply stops being current
//! and stays until its successor replaces it, as the one to serve when the origin fails.

use super::{entry::Entry, key::Key};
use ahash::RandomState;
use parking_lot::Mutex;
use quick_cache::{sync::Cache, Lifecycle, Weighter};
use std::{
    collections::HashMap,
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc,
    },
};

/// Memory that an entry takes beside its representation, in bytes: the key, the table, the entry itself.
const OVERHEAD: u64 = 200;

#[derive(Clone)]
struct Weigh;

impl Weighter<Key, Arc<Entry>> for Weigh {
    fn weight(&self, key: &Key, entry: &Arc<Entry>) -> u64 {
        key.as_str().len() as u64 + entry.representation.weight() + OVERHEAD
    }
}

#[derive(Clone)]
struct CountEvictions(Arc<AtomicU64>);

impl Lifecycle<Key, Arc<Entry>> for CountEvictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: Key, _: Arc<Entry>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The first tier.
pub struct Memory {
    entries: Cache<Key, Arc<Entry>, Weigh, RandomState, CountEvictions>,
    evictions: Arc<AtomicU64>,
    marks: Mutex<HashMap<Key, u64, RandomState>>,
}

/// Marks are short-lived; beyond this many the oldest knowledge is dropped as a whole.
const MOST_MARKS: usize = 10_000;

impl Memory {
    /// An empty memory of `capacity` bytes.
    pub fn new(capacity: u64) -> Self {
        /// What a typical entry weighs, for the size of the tables.
        const TYPICAL: u64 = 4_096;
        let evictions = Arc::new(AtomicU64::new(0));
        let expected = usize::try_from((capacity / TYPICAL).clamp(64, 1 << 20)).unwrap_or(64);
        Self {
            entries: Cache::with(
                expected,
                capacity,
                Weigh,
                RandomState::new(),
                CountEvictions(evictions.clone()),
            ),
            evictions,
            marks: Mutex::default(),
        }
    }

    /// The entry under a key, of whichever generation.
    pub fn entry(&self, key: &Key) -> Option<Arc<Entry>> {
        self.entries.get(key)
    }

    /// Keeps an entry, unless a newer one of the current generation stands there already: a fill that a bump
    /// overtook must not push out what came after it.
    pub fn keep(&self, key: Key, entry: Arc<Entry>) {
        let outdated = self.entries.peek(&key).is_some_and(|there| {
            there.version != entry.version && there.slot.is_current(&there.version) == Some(true)
        });
        if !outdated {
            self.entries.insert(key, entry);
        }
    }

    /// Whether this very entry is kept under a key.
    pub fn holds(&self, key: &Key, entry: &Arc<Entry>) -> bool {
        self.entries.peek(key).is_some_and(|there| Arc::ptr_eq(&there, entry))
    }

    /// Puts the encoded form of an entry in its place, if it is still there.
    pub fn replace(&self, key: Key, plain: &Arc<Entry>, encoded: Arc<Entry>) {
        if self.holds(&key, plain) {
            // Refused when it has just been evicted: then there is nothing to replace.
            self.entries.replace(key, encoded, true).unwrap_or_default();
        }
    }

    /// Remembers until `until_ms` that the answer under a key may not be stored.
    pub fn mark(&self, key: Key, now_ms: u64, until_ms: u64) {
        let mut marks = self.marks.lock();
        if marks.len() >= MOST_MARKS {
            marks.retain(|_, until| *until > now_ms);
            if marks.len() >= MOST_MARKS {
                marks.clear();
            }
        }
        marks.insert(key, until_ms);
    }

    /// Whether the answer under a key may not be stored.
    pub fn is_marked(&self, key: &Key, now_ms: u64) -> bool {
        let mut marks = self.marks.lock();
        match marks.get(key) {
            Some(until) if *until > now_ms => true,
            Some(_) => marks.remove(key).is_none(),
            None => false,
        }
    }

    /// Bytes in use.
    pub fn bytes(&self) -> u64 {
        self.entries.weight()
    }

    /// Bytes there are.
    pub fn capacity(&self) -> u64 {
        self.entries.capacity()
    }

    /// Entries of all generations.
    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Entries that had to go for others since the start.
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }
}
