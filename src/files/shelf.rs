//! A cache of small files in memory, for a moment.
//!
//! A file that is requested often costs system calls once a second only. After that time it is read again,
//! whether it has changed or not, so that changes need no notification. Bounded by weight; no file is kept
//! open.

use super::{chosen::Chosen, path::Below};
use crate::config::Coding;
use ahash::RandomState;
use quick_cache::{
    sync::{Cache, DefaultLifecycle},
    OptionsBuilder, Weighter,
};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

/// The time for which a file is assumed to be unchanged.
const FOR: Duration = Duration::from_secs(1);
/// The capacity per directory, in bytes.
const CAPACITY: u64 = 16 << 20;
/// The expected size of an entry, in bytes.
const USUAL: u64 = 8 << 10;

/// The path and the codings of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) path: Below,
    pub(super) ranked: [Option<Coding>; 3],
}

type Kept = (Arc<Chosen>, Instant);

#[derive(Debug, Clone)]
struct Weigh;

impl Weighter<Key, Kept> for Weigh {
    fn weight(&self, key: &Key, kept: &Kept) -> u64 {
        const BESIDES: u64 = 512;
        kept.0.facts.length + key.path.as_str().len() as u64 + BESIDES
    }
}

/// The files of one directory.
pub(super) struct Shelf(Option<Cache<Key, Kept, Weigh, RandomState>>);

impl Shelf {
    pub(super) fn new() -> Self {
        let options = OptionsBuilder::new()
            .weight_capacity(CAPACITY)
            .estimated_items_capacity(usize::try_from(CAPACITY / USUAL).unwrap_or(1024))
            .build();
        // Both are set; without a cache every file is read each time.
        let lifecycle = DefaultLifecycle::default();
        Self(options.ok().map(|options| Cache::with_options(options, Weigh, RandomState::new(), lifecycle)))
    }

    /// The file that was kept less than a moment before `now`.
    pub(super) fn find(&self, key: &Key, now: Instant) -> Option<Arc<Chosen>> {
        let (chosen, since) = self.0.as_ref()?.get(key)?;
        (now.saturating_duration_since(since) < FOR).then_some(chosen)
    }

    /// Keeps a file that was read after `since`.
    pub(super) fn keep(&self, key: Key, chosen: &Arc<Chosen>, since: Instant) {
        if let Some(kept) = &self.0 {
            kept.insert(key, (chosen.clone(), since));
        }
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shelf({})", self.0.as_ref().map_or(0, Cache::len))
    }
}
