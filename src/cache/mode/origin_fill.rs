//! Fills of routes that follow their origin: conditions for a validation, variants, and keys in Redis by the
//! fields that tell these apart.

use super::{origin_lookup::OriginLookup, origin_store::ForwardStart};
use crate::{
    cache::{
        entry::{self, variants::varying_names, CacheEntry, OpenedEnvelope, StoredValue},
        fill::{
            draft::{EntryDraft, StoreVerdict},
            hedge::UsualFillTime,
            job::FillJob,
            mode::{FillLimits, FillMode},
        },
        key::{CacheKey, StorePlace},
        policy::{self, SelectingFields},
        redis::RedisStore,
        Cache, FetchedHead,
    },
    clock,
    config::FollowRules,
    representation::conditional::asks_if_modified,
    telemetry::labels::FillOutcome,
};

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::{sync::Arc, time::Duration};

/// The fill of an answer whose origin decides.
struct OriginFill {
    asking: Arc<OriginLookup>,
    /// The time when it began, and the position in the purge log.
    sent: ForwardStart,
    /// The stale entry to validate.
    old: Option<Arc<CacheEntry>>,
    /// The fields by which other nodes tell the variants apart, if this one doesn't know any.
    told: Vec<HeaderName>,
}

#[async_trait]
impl FillMode for OriginFill {
    fn key(&self) -> &CacheKey {
        &self.asking.key
    }

    fn limits(&self) -> FillLimits {
        let FollowRules { fill_timeout: timeout, hedge, stale_after, max_size, redis, .. } =
            *self.asking.rules;
        FillLimits { timeout, hedge, stale_after, max_size, second_tier: Some(redis) }
    }

    fn usual(&self) -> &UsualFillTime {
        &self.asking.usual
    }

    fn is_provisional(&self) -> bool {
        self.sent.since.is_doubtful
    }

    fn is_asked_as_one(&self) -> bool {
        true
    }

    fn passes_not_modified(&self) -> bool {
        self.asking.is_alone() && asks_if_modified(&self.asking.headers)
    }

    fn conditions(&self) -> Vec<(HeaderName, HeaderValue)> {
        match &self.old {
            Some(old) if !self.asking.is_alone() => policy::condition_fields(&old.representation.headers()),
            _ => Vec::new(),
        }
    }

    fn draft(&self, cache: &Cache, fetched: &FetchedHead) -> EntryDraft {
        cache.draft_of_origin(&self.asking, self.sent, fetched.status, &fetched.headers)
    }

    fn renew(&self, cache: &Cache, fresh: &HeaderMap) -> Option<(Arc<CacheEntry>, Result<(), FillOutcome>)> {
        let old = self.old.as_ref().filter(|old| policy::validates(&old.representation.headers(), fresh))?;
        let (entry, storable) = cache.validated(&self.asking, old, self.sent, fresh);
        let entry = Arc::new(entry);
        Some(match storable {
            Ok(()) => (self.keep(cache, entry), Ok(())),
            refused => (entry, refused),
        })
    }

    fn keep(&self, cache: &Cache, entry: Arc<CacheEntry>) -> Arc<CacheEntry> {
        cache.keep_followed(&self.asking, &self.told, entry)
    }

    fn end_stored(&self, cache: &Cache) {
        // A fill with a lease deletes it from the store at its end.
        if self.asking.is_alone() {
            cache.forget_followed(&self.asking);
        }
        cache.end_followed(&self.asking, self.sent.at_ms, |_| true);
    }

    /// An answer for credentials alone has no effect.
    fn end_older(&self, cache: &Cache, draft: &EntryDraft) {
        let is_evidence = draft.verdict == StoreVerdict::Keep || !self.asking.authorized;
        let is_older = match draft.verdict.outcome() {
            _ if !is_evidence => return,
            _ if draft.status == StatusCode::PARTIAL_CONTENT => policy::is_part_of_another,
            FillOutcome::NoStore if !self.asking.asked.no_store => return,
            // What it was made for keeps it from being stored, not from being newer.
            FillOutcome::NoStore | FillOutcome::Cookie if draft.status.is_success() => {
                policy::is_other_than_stored
            }
            _ => return,
        };
        let answer = draft.fields.iter().cloned().collect();
        cache.end_older(&self.asking, self.sent.at_ms, |entry| {
            is_older(&entry.representation.headers(), &answer)
        });
    }

    fn uses_second_tier(&self) -> bool {
        self.asking.rules.redis > 0 && !self.asking.is_alone()
    }

    /// For a resource that varies, the store is asked for the fields.
    async fn place(&mut self, cache: &Cache, redis: &RedisStore) -> Option<StorePlace> {
        let OriginLookup { key, headers, .. } = &*self.asking;
        if cache.names_variants(key) {
            return Some(store_place(redis, key, &cache.known_names(key), headers));
        }
        let value = redis.get(redis.names().of_resource(key).body).await.ok()?;
        if let Some(Ok(StoredValue::Varies(fields))) =
            value.map(|value| entry::open_envelope(value, clock::reading()))
        {
            self.told = fields;
        }
        Some(store_place(redis, key, &self.told, headers))
    }

    fn reopen(&mut self, cache: &Cache, opened: OpenedEnvelope) -> Option<Arc<CacheEntry>> {
        let entry = cache.reopened_followed(&self.asking, opened)?;
        match cache.usable_followed(&self.asking, entry) {
            Ok(entry) => Some(cache.keep_variant(&self.asking, &self.told, entry)),
            Err(stale) => {
                self.old = self.old.take().or(stale);
                None
            }
        }
    }

    fn place_of(&self, redis: &RedisStore, entry: &CacheEntry) -> Option<StorePlace> {
        let OriginLookup { key, headers, rules, .. } = &*self.asking;
        if entry.part().is_some() || entry.representation.body().len() > rules.redis {
            return None;
        }
        let names = entry.selecting().map_or(&[][..], |s| s.names());
        let mut place = store_place(redis, key, names, headers);
        if self.told.iter().any(|name| !varying_names(entry).contains(name)) {
            // Another answer names these fields, and sets the time for which they count.
            place.pointer = None;
        }
        Some(place)
    }
}

impl Cache {
    /// The fill for a request, which begins at `now_ms`. `old`: the stale entry to validate.
    pub(crate) fn origin_job(
        &self,
        asking: Arc<OriginLookup>,
        old: Option<Arc<CacheEntry>>,
        (now_ms, is_doubtful): (u64, bool),
        unwatched: Option<Duration>,
    ) -> FillJob {
        // A part can't be validated by itself.
        let old = old.filter(|entry| entry.part().is_none());
        let sent = ForwardStart { at_ms: now_ms, since: self.since(is_doubtful) };
        FillJob { unwatched, ..FillJob::new(OriginFill { asking, sent, old, told: Vec::new() }) }
    }

    /// Deletes from the store the answer to requests like this one, after an answer that ends it came outside of a
    /// fill with a lease.
    pub(crate) fn forget_followed(&self, asking: &OriginLookup) {
        let redis = self.redis.as_ref().filter(|redis| asking.rules.redis > 0 && redis.is_reachable());
        let Some(redis) = redis.cloned() else { return };
        let place = store_place(&redis, &asking.key, &self.known_names(&asking.key), &asking.headers);
        self.tasks.spawn(async move {
            if let Err(error) = redis.forget(&[place.body]).await {
                tracing::debug!(%error, "an answer that has ended was not deleted from Redis");
            }
        });
    }
}

/// The keys of the answer to a request that varies by these fields.
fn store_place(redis: &RedisStore, key: &CacheKey, names: &[HeaderName], headers: &HeaderMap) -> StorePlace {
    match names {
        [] => redis.names().of_resource(key),
        _ => redis.names().of_variant(
            key,
            &SelectingFields::digest(names, headers),
            entry::varies_envelope(names),
        ),
    }
}
