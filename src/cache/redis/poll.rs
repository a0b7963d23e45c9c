//! A store that reports no changes: versions and the purge log are read again after a while (`poll` of `[store]`), and
//! nodes tell each other on a channel which keys they have changed.

use super::{link::Link, shard::Shard, Redis};
use crate::telemetry::labels::StoreCall;
use redis::{cmd, PushInfo};

impl Redis {
    /// Tells how old an answer may be by this link, where it may be older than a change that was reported would leave it.
    pub(super) fn tell_bound(&self, shard: &Shard, link: &Link) {
        if link.tracked {
            return;
        }
        let bound = match self.poll.is_zero() {
            true => "versions and purges are read with each request".to_owned(),
            false => format!("a change that an application makes there is seen within {:?}", self.poll),
        };
        let others = match link.channel {
            Some(_) => "one that a node makes at once",
            None => "so is one that another node makes: SUBSCRIBE is refused as well",
        };
        let told = match self.poll.is_zero() {
            true => bound,
            false => format!("{bound}, {others}"),
        };
        tracing::warn!(redis = shard.place(), "redis reports no changes: {told}");
        shard.troubles.unreported(told);
    }

    /// Another node, or this one, has changed the key that the message names.
    pub(super) fn told(&self, push: &PushInfo) {
        if let Some(key) = push.data.get(1) {
            self.reported(key);
        }
    }

    /// Tells other nodes that these keys have changed, where the store does not. What gets lost is found by reading.
    pub(super) async fn tell(&self, keys: impl IntoIterator<Item = String>) {
        let channel = self.names.channel();
        for key in keys {
            let is_untold = |shard: std::sync::Arc<Shard>| shard.is_linked() && !shard.is_tracked();
            if !self.shards.of_key(&key).is_some_and(is_untold) {
                continue;
            }
            let mut publish = cmd("PUBLISH");
            publish.arg(&channel).arg(&key);
            self.ask_behind::<()>(StoreCall::Bump, key, publish).await.unwrap_or_default();
        }
    }
}
