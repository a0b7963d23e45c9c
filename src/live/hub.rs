//! The entries that are watched on this node.

use super::{
    cursor::StateTag,
    entry::WatchedEntry,
    keeper::{self, EntryRegister},
    quota::WatcherQuota,
    source::EntrySource,
    watcher::LiveWatcher,
};
use crate::telemetry::metrics::Metrics;
use ahash::RandomState;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fmt,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    time::Duration,
};

struct KeptEntry<S> {
    entry: Arc<WatchedEntry>,
    source: Arc<S>,
}

/// The most entries that are kept on a node, those that are watched among them, so that another one is kept that
/// nobody watches.
const MAX_UNWATCHED: usize = 1_000;

/// The watched entries of this node, by their keys.
pub(crate) struct LiveHub<S> {
    entries: Mutex<HashMap<Box<str>, KeptEntry<S>, RandomState>>,
    quota: Arc<WatcherQuota>,
    metrics: Arc<Metrics>,
    is_draining: AtomicBool,
}

impl<S: EntrySource> LiveHub<S> {
    /// A hub without entries.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            entries: Mutex::default(),
            quota: Arc::default(),
            metrics,
            is_draining: AtomicBool::new(false),
        }
    }

    /// How many streams each owner has.
    pub(crate) fn quota(&self) -> &Arc<WatcherQuota> {
        &self.quota
    }

    /// Has a stream watch an entry. The first one begins to keep it; for each other the source is renewed.
    /// `has`: the state that its client has.
    pub(crate) fn watch(
        self: &Arc<Self>,
        key: &str,
        source: S,
        watcher: &mut LiveWatcher,
        has: Option<StateTag>,
    ) {
        // The watcher joins under the lock: the keeper retires an entry without watchers under it.
        let mut entries = self.entries.lock();
        if let Some(kept) = entries.get(key) {
            kept.source.renew(source);
            return watcher.add(kept.entry.clone(), has);
        }
        let (entry, source) = (Arc::new(WatchedEntry::new(key)), Arc::new(source));
        watcher.add(entry.clone(), has);
        entries.insert(key.into(), KeptEntry { entry: entry.clone(), source: source.clone() });
        drop(entries);
        tokio::spawn(keeper::keep(self.clone(), entry, source));
    }

    /// Begins to keep an entry that nobody watches; its source says for how long. For one that is kept already
    /// the source is renewed. Beyond a number of entries it is not kept.
    pub(crate) fn keep(self: &Arc<Self>, key: &str, source: S) {
        let mut entries = self.entries.lock();
        if let Some(kept) = entries.get(key) {
            return kept.source.renew(source);
        }
        if entries.len() < MAX_UNWATCHED {
            let (entry, source) = (Arc::new(WatchedEntry::new(key)), Arc::new(source));
            entries.insert(key.into(), KeptEntry { entry: entry.clone(), source: source.clone() });
            drop(entries);
            tokio::spawn(keeper::keep(self.clone(), entry, source));
        }
    }

    /// Has all streams end; each chooses its time.
    pub(crate) fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
        let entries: Vec<_> = self.entries.lock().values().map(|kept| kept.entry.clone()).collect();
        entries.iter().for_each(|entry| entry.ring_all());
    }

    /// Returns true if the gateway shuts down.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    /// The number of streams that watch entries, one that watches several counted for each.
    pub(crate) fn watchers(&self) -> u64 {
        self.entries.lock().values().map(|kept| kept.entry.watchers() as u64).sum()
    }

    /// The number of entries that are watched.
    pub(crate) fn entries(&self) -> usize {
        self.entries.lock().len()
    }
}

impl<S: EntrySource> EntryRegister for LiveHub<S> {
    fn retire(&self, entry: &WatchedEntry) -> bool {
        // Under the lock under which watchers join.
        let mut entries = self.entries.lock();
        let is_idle = entry.watchers() == 0;
        if is_idle {
            entries.remove(entry.key());
        }
        is_idle
    }

    fn forget(&self, entry: &Arc<WatchedEntry>) {
        let mut entries = self.entries.lock();
        if entries.get(entry.key()).is_some_and(|kept| Arc::ptr_eq(&kept.entry, entry)) {
            entries.remove(entry.key());
        }
    }

    fn count_fan_out(&self, duration: Duration) {
        self.metrics.live_fan_out(duration);
    }
}

impl<S: EntrySource> fmt::Debug for LiveHub<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveHub").field("entries", &self.entries()).finish_non_exhaustive()
    }
}
