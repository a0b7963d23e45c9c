//! Encodings of entries, made in the background after a later request.

use crate::{
    cache::{
        entry::{CacheEntry, EncodingRequests},
        key::CacheKey,
        Cache,
    },
    config::{self, ContentCoding},
};

use std::sync::Arc;

impl Cache {
    /// Sets the rules for encodings from now on.
    pub fn encode_by(&self, rules: config::EncodingConfig) {
        self.encoding.store(Arc::new(rules));
    }

    /// Makes the encodings of an entry in the background, after a request that would get one of them. An
    /// entry that is not requested again is never encoded.
    pub fn encode_behind(self: &Arc<Self>, key: &CacheKey, entry: &Arc<CacheEntry>) {
        if Self::is_worth_encoding(entry) && entry.encodings.begin() {
            let (cache, key, entry) = (self.clone(), key.clone(), entry.clone());
            self.tasks.spawn(async move { cache.encode(key, entry).await });
        }
    }

    /// Returns true if [`Self::encode_behind`] would make the encodings of an entry now.
    pub fn would_encode(entry: &CacheEntry) -> bool {
        !entry.encodings.have_begun() && Self::is_worth_encoding(entry)
    }

    fn is_worth_encoding(entry: &CacheEntry) -> bool {
        /// The largest body that is encoded: a larger one would keep an encoder busy for too long.
        const LARGEST: u64 = 8 << 20;
        let what = &entry.representation;
        // A validated entry has the codings that it had before.
        let is_encoded = || ContentCoding::ALL.iter().any(|coding| what.encoded(*coding).is_some());
        what.is_encodable() && !is_encoded() && what.body().len() <= LARGEST && entry.part().is_none()
    }

    /// Makes the encodings of an entry, off the async threads, and replaces the entry.
    async fn encode(&self, key: CacheKey, entry: Arc<CacheEntry>) {
        // With too many waiting, an answer stays plain: that costs bandwidth, not memory.
        let Ok(_place) = self.encoding_queue.try_acquire() else { return };
        let Ok(_permit) = self.encoders.acquire().await else { return };
        if !self.memory.holds(&key, &entry) {
            return;
        }
        let (rules, plain, metrics) = (self.encoding.load_full(), entry.clone(), self.metrics.clone());
        let encode =
            move || plain.representation.with_encodings(&rules, |coding, took| metrics.encoded(coding, took));
        match tokio::task::spawn_blocking(encode).await {
            Ok(representation) => {
                let mut encoded = entry.with(representation);
                encoded.encodings = EncodingRequests::made();
                self.memory.replace(key, &entry, Arc::new(encoded));
            }
            Err(error) => tracing::error!(%error, "an encoder failed"),
        }
    }
}
