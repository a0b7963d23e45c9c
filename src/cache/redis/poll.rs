//! A store that reports no changes: versions and the purge log are read again after a while (`poll` of `[store]`), and
//! nodes tell each other on a channel which keys they have changed.

use super::{link::Link, shard::Shard, Redis};
use crate::{cache::version::Slot, telemetry::labels::StoreCall};
use redis::{cmd, Cmd, PushInfo};
use std::sync::Arc;

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

    /// Tells other nodes that these versions have moved.
    pub(super) async fn tell_moved(&self, slots: &[&Slot]) {
        let (_, are_tracked) = self.shards.are_linked();
        if !are_tracked {
            let names = slots.iter().map(|slot| self.names.version(slot.namespace(), slot.tenant()));
            self.tell(names.collect()).await;
        }
    }

    /// Tells other nodes that these keys have changed, where the store does not. What gets lost is found by reading.
    pub(super) async fn tell(&self, keys: Vec<String>) {
        drop(self.send_all(StoreCall::Bump, self.untold(keys)).await);
    }

    /// What there is to tell of these keys.
    fn untold(&self, mut keys: Vec<String>) -> Vec<(String, Cmd)> {
        let is_untold = |shard: Arc<Shard>| shard.is_linked() && !shard.is_tracked();
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
