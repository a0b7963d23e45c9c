//! The interface of a cache mode to its fills: the rules of one answer that is missing.
//!
//! A fill knows the order of its steps and no mode. A mode has one type that implements [`FillMode`], and gives
//! it to each fill in its job.

use super::{draft::EntryDraft, hedge::UsualFillTime};
use crate::{
    cache::{
        entry::{CacheEntry, OpenedEnvelope},
        key::{CacheKey, StorePlace},
        redis::RedisStore,
        Cache, FetchedHead,
    },
    telemetry::labels::FillOutcome,
};

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::{sync::Arc, time::Duration};

/// The limits of a fill by the rules of its route.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FillLimits {
    /// The longest time up to the head of the answer.
    pub(crate) timeout: Duration,
    /// The longest wait for the fill of another node; `None`: by the usual time of the route's fills.
    pub(crate) hedge: Option<Duration>,
    /// The time that a request waits for it before a stale answer is served; `None`: until it ends.
    pub(crate) stale_after: Option<Duration>,
    /// The largest body that is stored, in bytes.
    pub(crate) max_size: u64,
    /// The largest body that is stored in Redis, in bytes; `None`: as in memory.
    pub(crate) second_tier: Option<u64>,
}

/// The decisions of a cache mode in one fill, and the state that they need.
#[async_trait]
pub(crate) trait FillMode: Send + Sync {
    /// The key of the answer.
    fn key(&self) -> &CacheKey;

    /// The limits by the rules of the route.
    fn limits(&self) -> FillLimits;

    /// The usual time of the route's fills.
    fn usual(&self) -> &UsualFillTime;

    /// Returns true if the fill began in doubt: its answer is provisional, and stays on this node.
    fn is_provisional(&self) -> bool;

    /// Returns true if the request to the origin has more than all waiting requests have in common.
    fn is_asked_as_one(&self) -> bool;

    /// Returns true if a 304 may be meant for the leader, which asked for itself, with conditions of its own.
    fn passes_not_modified(&self) -> bool {
        false
    }

    /// The conditions of the request to the origin.
    fn conditions(&self) -> Vec<(HeaderName, HeaderValue)> {
        Vec::new()
    }

    /// Decides on an answer whose head has arrived.
    fn draft(&self, cache: &Cache, fetched: &FetchedHead) -> EntryDraft;

    /// Renews the stored answer that a 304 confirms, and stores it if it may still be stored. The error is the
    /// reason why it may not. `None`: the 304 is about another answer.
    fn renew(
        &self,
        _cache: &Cache,
        _fresh: &HeaderMap,
    ) -> Option<(Arc<CacheEntry>, Result<(), FillOutcome>)> {
        None
    }

    /// Stores a new answer in memory. Returns the entry that is stored.
    fn keep(&self, cache: &Cache, entry: Arc<CacheEntry>) -> Arc<CacheEntry>;

    /// Ends the stored answers, from before this fill began, for requests like the one that led to it (RFC
    /// 9111, 4.3.3).
    fn end_stored(&self, cache: &Cache);

    /// Ends the stored answers that an answer shows to be of an older representation, although it does not
    /// end them by itself: a part, one that its client forbids to store, or one that is made for a cookie.
    fn end_older(&self, _cache: &Cache, _draft: &EntryDraft) {}

    /// Returns true if the answer may be stored in Redis.
    fn uses_second_tier(&self) -> bool;

    /// The keys of the answer in Redis, before it is known. `None`: Redis can't tell.
    async fn place(&mut self, cache: &Cache, redis: &RedisStore) -> Option<StorePlace>;

    /// The entry from a value of Redis, stored in memory, if it makes the fill unnecessary.
    fn reopen(&mut self, cache: &Cache, opened: OpenedEnvelope) -> Option<Arc<CacheEntry>>;

    /// The keys of the answer in Redis, once it is known. `None`: it is not stored there.
    fn place_of(&self, redis: &RedisStore, entry: &CacheEntry) -> Option<StorePlace>;

    /// The keys in Redis of the answers that the fill ends, if `place` is that of its own.
    fn ended_keys(&self, _redis: &RedisStore, place: &StorePlace) -> Vec<String> {
        vec![place.body.clone()]
    }
}
