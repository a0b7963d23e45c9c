//! Fills of routes with a namespace: the answer belongs to one version, and the rules of the route decide.

use crate::{
    cache::{
        coherence::version::{VersionBasis, VersionSlot},
        entry::{CacheEntry, OpenedEnvelope},
        fill::{
            draft::EntryDraft,
            hedge::UsualFillTime,
            job::FillJob,
            mode::{FillLimits, FillMode},
        },
        key::{CacheKey, StorePlace},
        policy::Freshness,
        redis::RedisStore,
        Cache, CacheRequest, FetchedHead,
    },
    clock::now_ms,
    config::{CacheRules, CacheScope},
    name::Tenant,
};

use async_trait::async_trait;
use std::sync::Arc;

/// The fill of an answer under a version.
pub(crate) struct VersionedFill {
    key: CacheKey,
    /// The time when it began, in milliseconds since the epoch.
    began_ms: u64,
    rules: Arc<CacheRules>,
    slot: Arc<VersionSlot>,
    basis: VersionBasis,
    usual: Arc<UsualFillTime>,
}

impl VersionedFill {
    /// The fill for a request; it begins now.
    pub(crate) fn job(wanted: &CacheRequest, slot: Arc<VersionSlot>, basis: VersionBasis) -> FillJob {
        FillJob::new(Self {
            key: wanted.key.clone(),
            began_ms: now_ms(),
            rules: wanted.rules.clone(),
            slot,
            basis,
            usual: wanted.usual.clone(),
        })
    }
}

#[async_trait]
impl FillMode for VersionedFill {
    fn key(&self) -> &CacheKey {
        &self.key
    }

    fn limits(&self) -> FillLimits {
        let CacheRules { fill_timeout: timeout, hedge, stale_after, max_size, .. } = *self.rules;
        FillLimits { timeout, hedge, stale_after, max_size, second_tier: None }
    }

    fn usual(&self) -> &UsualFillTime {
        &self.usual
    }

    fn is_provisional(&self) -> bool {
        self.basis.is_assumed
    }

    fn is_asked_as_one(&self) -> bool {
        shares_one_fill(self.rules.scope, self.slot.tenant())
    }

    fn draft(&self, cache: &Cache, fetched: &FetchedHead) -> EntryDraft {
        let VersionBasis { version, is_assumed } = &self.basis;
        let draft =
            cache.draft_of_namespace(&self.rules, version, &self.slot, fetched.status, &fetched.headers);
        EntryDraft { terms: cache.terms_since(self.began_ms, *is_assumed, draft.terms), ..draft }
    }

    fn keep(&self, cache: &Cache, entry: Arc<CacheEntry>) -> Arc<CacheEntry> {
        cache.memory.keep(self.key.clone(), entry.clone(), now_ms());
        entry
    }

    fn end_stored(&self, cache: &Cache) {
        cache.memory.end(&self.key, |entry| entry.terms().received_ms <= self.began_ms);
    }

    fn uses_second_tier(&self) -> bool {
        true
    }

    async fn place(&mut self, _: &Cache, redis: &RedisStore) -> Option<StorePlace> {
        Some(redis.names().of_version(&self.key, self.basis.version.tag()))
    }

    fn reopen(&mut self, cache: &Cache, opened: OpenedEnvelope) -> Option<Arc<CacheEntry>> {
        let entry = cache.reopen_entry(&self.rules, &self.slot, &self.basis.version, opened)?;
        let is_fresh = entry.terms().freshness(now_ms()) == Freshness::Fresh;
        is_fresh.then(|| self.keep(cache, entry))
    }

    fn place_of(&self, redis: &RedisStore, _: &CacheEntry) -> Option<StorePlace> {
        Some(redis.names().of_version(&self.key, self.basis.version.tag()))
    }

    /// In any generation.
    fn ended_keys(&self, redis: &RedisStore, place: &StorePlace) -> Vec<String> {
        vec![place.body.clone(), redis.names().last(&self.key)]
    }
}

/// Returns true if a request for this scope has more than all have in common who get the answer: a token of a
/// tenant is one user's. Without a token it has nothing of the client.
fn shares_one_fill(scope: CacheScope, tenant: &Tenant) -> bool {
    scope == CacheScope::Tenant && tenant != Tenant::public()
}
