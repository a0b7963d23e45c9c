//! How an entry is read, as its keeper sees it.

use crate::{representation::Body, telemetry::labels::RefillCause};
use async_trait::async_trait;
use std::{sync::Arc, time::Duration};
use tokio::sync::futures::OwnedNotified;

/// An entry as it was read.
#[derive(Debug)]
pub(crate) struct EntrySnapshot {
    /// Its content.
    pub body: Body,
    /// Its version, if it has one.
    pub version: Option<Arc<str>>,
    /// The time for which it stays fresh.
    pub fresh_for: Duration,
    /// True if more than memory was asked for it. Such reads keep the pace of the route, whatever they find.
    pub was_fetched: bool,
}

/// The reason why an entry could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadFault {
    /// It may work later; the word is for clients and records.
    Failed(&'static str),
    /// The entry is another one now, or is no longer served: its streams end.
    Over,
}

/// The pace at which an entry is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LivePace {
    /// Changes within this time after a change are told together.
    pub window: Duration,
    /// True if the entry is read again when its lifetime ends.
    pub on_ttl: bool,
}

/// How events are compressed for streams in gzip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeflateRules {
    /// The least size of a content that is compressed, in bytes.
    pub min_size: u64,
    /// The level, 0 to 9.
    pub level: u32,
}

/// How an entry is read.
#[async_trait]
pub(crate) trait EntrySource: Send + Sync + 'static {
    /// The name of its events.
    fn event(&self) -> Arc<str>;

    /// The pace of its route.
    fn pace(&self) -> LivePace;

    /// How its events are compressed, if somebody watches who takes gzip.
    fn deflate_rules(&self) -> DeflateRules;

    /// Reads the current entry: from memory, else by the flight that all requests share. `None`: nothing newer
    /// is there, and the route's rules say not to ask. `is_watched`: somebody watches it.
    ///
    /// # Errors
    /// If there is no current entry.
    async fn read(&self, cause: RefillCause, is_watched: bool) -> Result<Option<EntrySnapshot>, ReadFault>;

    /// Returns true if the entry is kept current though nobody watches it.
    fn is_kept_unwatched(&self) -> bool;

    /// Completes when the entry may have changed after this call.
    fn changed(&self) -> OwnedNotified;

    /// Takes over from a newer stream what reading needs (credentials).
    fn renew(&self, newer: Self)
    where
        Self: Sized;
}
