//! A cache of small files in memory, for a moment.
//!
//! A file that is requested often costs system calls once a second only. After that time it is read again,
//! whether it has changed or not, so that changes need no notification. Bounded by weight; no file is kept
//! open.

use super::chosen::ChosenFile;
use crate::{config::ContentCoding, files::path::RelativePath};

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
const FILE_LIFETIME: Duration = Duration::from_secs(1);
/// The capacity per directory, in bytes.
const CAPACITY_BYTES: u64 = 16 << 20;
/// The expected size of an entry, in bytes.
const USUAL_ENTRY_BYTES: u64 = 8 << 10;

/// The path and the codings of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FileKey {
    pub(crate) path: RelativePath,
    pub(crate) ranked: [Option<ContentCoding>; 3],
}

type CachedFile = (Arc<ChosenFile>, Instant);

#[derive(Debug, Clone)]
struct FileWeighter;

impl Weighter<FileKey, CachedFile> for FileWeighter {
    fn weight(&self, key: &FileKey, kept: &CachedFile) -> u64 {
        const BESIDES: u64 = 512;
        kept.0.facts.length + key.path.as_str().len() as u64 + BESIDES
    }
}

/// The files of one directory.
pub(crate) struct SmallFileCache(Option<Cache<FileKey, CachedFile, FileWeighter, RandomState>>);

impl SmallFileCache {
    pub(crate) fn new() -> Self {
        let options = OptionsBuilder::new()
            .weight_capacity(CAPACITY_BYTES)
            .estimated_items_capacity(usize::try_from(CAPACITY_BYTES / USUAL_ENTRY_BYTES).unwrap_or(1024))
            .build();
        // Both are set; without a cache every file is read each time.
        let lifecycle = DefaultLifecycle::default();
        Self(
            options
                .ok()
                .map(|options| Cache::with_options(options, FileWeighter, RandomState::new(), lifecycle)),
        )
    }

    /// The file that was kept less than a moment before `now`.
    pub(crate) fn find(&self, key: &FileKey, now: Instant) -> Option<Arc<ChosenFile>> {
        let (chosen, since) = self.0.as_ref()?.get(key)?;
        (now.saturating_duration_since(since) < FILE_LIFETIME).then_some(chosen)
    }

    /// Keeps a file that was read after `since`.
    pub(crate) fn keep(&self, key: FileKey, chosen: &Arc<ChosenFile>, since: Instant) {
        if let Some(kept) = &self.0 {
            kept.insert(key, (chosen.clone(), since));
        }
    }
}

impl fmt::Debug for SmallFileCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shelf({})", self.0.as_ref().map_or(0, Cache::len))
    }
}
