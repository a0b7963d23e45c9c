//! A store that reports no changes: versions and the purge log are read again after a while (`poll` of
//! `[store]`), and nodes announce the keys that they have changed to each other on a channel.

use super::{link::StoreLink, shard::StoreShard, RedisStore};
use crate::{cache::coherence::version::VersionSlot, telemetry::labels::StoreCall};

use redis::{cmd, Cmd, PushInfo};
use std::sync::Arc;

impl RedisStore {
    /// Logs how old an answer may be with this link, if that is older than with reported changes.
    pub(super) fn tell_bound(&self, shard: &StoreShard, link: &StoreLink) {
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

    /// Handles the announcement that another node, or this one, has changed a key.
    pub(super) fn told(&self, push: &PushInfo) {
        if let Some(key) = push.data.get(1) {
            self.reported(key);
        }
    }

    /// Announces to other nodes that these versions have changed.
    pub(super) async fn tell_moved(&self, slots: &[&VersionSlot]) {
        let (_, are_tracked) = self.shards.are_linked();
        if !are_tracked {
            let names = slots.iter().map(|slot| self.names.version(slot.namespace(), slot.tenant()));
            self.tell(names.collect()).await;
        }
    }

    /// Announces changed keys to other nodes, if the store does not. A lost message is made up for by the
    /// next read.
    pub(super) async fn tell(&self, keys: Vec<String>) {
        drop(self.send_all(StoreCall::Bump, self.untold(keys)).await);
    }

    /// The announcements of those keys whose changes the store does not report.
    fn untold(&self, mut keys: Vec<String>) -> Vec<(String, Cmd)> {
        let is_untold = |shard: Arc<StoreShard>| shard.is_linked() && !shard.is_tracked();
        keys.retain(|key| self.shards.of_key(key).is_some_and(is_untold));
        let channel = self.names.channel();
        let publish = |key: String| {
            let mut publish = cmd("PUBLISH");
            publish.arg(&channel).arg(&key);
            (key, publish)
        };
        keys.into_iter().map(publish).collect()
    }
}
