//! Encodings of entries, made behind the answers of those who ask again.

use super::{
    entry::{Encodings, Entry},
    key::Key,
    Cache,
};
use crate::config::{self, Coding};
use std::sync::Arc;

impl Cache {
    /// Encodes by these rules from now on.
    pub fn encode_by(&self, rules: config::Encoding) {
        self.encoding.store(Arc::new(rules));
    }

    /// Has the encodings of an entry made, behind the answer to a request that would have one of them. What is never
    /// asked for again is never encoded.
    pub fn encode_behind(self: &Arc<Self>, key: &Key, entry: &Arc<Entry>) {
        if Self::is_worth_encoding(entry) && entry.encodings.begin() {
            let (cache, key, entry) = (self.clone(), key.clone(), entry.clone());
            self.tasks.spawn(async move { cache.encode(key, entry).await });
        }
    }

    /// Whether [`Self::encode_behind`] would have the encodings of an entry made now.
    pub fn would_encode(entry: &Entry) -> bool {
        !entry.encodings.have_begun() && Self::is_worth_encoding(entry)
    }

    fn is_worth_encoding(entry: &Entry) -> bool {
        /// A larger body would keep an encoder busy for too long.
        const LARGEST: u64 = 8 << 20;
        let what = &entry.representation;
        // What was validated has the codings that it had before.
        let is_encoded = || Coding::ALL.iter().any(|coding| what.encoded(*coding).is_some());
        what.is_encodable() && !is_encoded() && what.body().len() <= LARGEST && entry.part().is_none()
    }

    /// Makes the encodings of an entry, off the async threads, and puts them in its place.
    async fn encode(&self, key: Key, entry: Arc<Entry>) {
        // Beyond a certain number of waiters an answer stays plain: it costs bandwidth, not memory.
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
                encoded.encodings = Encodings::made();
                self.memory.replace(key, &entry, Arc::new(encoded));
            }
            Err(error) => tracing::error!(%error, "an encoder failed"),
        }
    }
}
