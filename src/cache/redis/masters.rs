//! The masters of a cluster: their list, and a link with each, maintained separately.

use super::{
    link::{list_masters, newest_topology, ClusterSeeds, ClusterTopology, LinkServers},
    shard::StoreShard,
    store_faults::describe_error,
    RedisStore, RECONNECT,
};
use crate::{clock::now_ms, config};

use futures_util::future::join_all;
use redis::{ErrorKind, RedisResult};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio_util::task::AbortOnDropHandle;

/// The interval at which the masters are listed, besides [`RECONNECT`].
const LIST_MASTERS: Duration = Duration::from_millis(900);

impl RedisStore {
    /// Returns the way to a server, with these credentials.
    pub(super) fn servers(&self, shard: &StoreShard, target: &config::RedisConfig) -> LinkServers {
        match target {
            config::RedisConfig::Cluster(seeds) => {
                let (url, settings) = ClusterSeeds::new(seeds.clone()).node(shard.place());
                LinkServers::Node { url, settings, elsewhere: self.shards.elsewhere() }
            }
            other => LinkServers::new(other.clone()),
        }
    }

    /// Maintains a link with each master of a cluster. The masters are listed every second, and at once if
    /// there is a reason to.
    pub(super) async fn keep_cluster(self: &Arc<Self>, mut target: config::RedisConfig) {
        let (mut kept, mut current) =
            (BTreeMap::<String, AbortOnDropHandle<()>>::new(), ClusterTopology::default());
        loop {
            if let Some(other) = self.other_than(&target) {
                target = other;
            }
            match self.list_masters(&target).await {
                // A node that slept through a change must not bring the old masters back.
                Ok(listed) if listed.epoch >= current.epoch || !self.shards.is_any_linked() => {
                    self.shards.troubles.linked();
                    if listed.ranges != current.ranges {
                        self.follow(&listed, &target, &mut kept);
                    }
                    current = listed;
                }
                Ok(_) => {}
                Err(error) => {
                    if self.shards.troubles.away(&error) {
                        let (redis, error) = (self.shards.troubles.place(), describe_error(&error));
                        tracing::warn!(redis, error, "the masters of the cluster can't be listed; retrying");
                    }
                }
            }
            tokio::time::sleep(RECONNECT).await;
            tokio::select! {
                () = self.shards.outdated.notified() => {}
                () = tokio::time::sleep(LIST_MASTERS) => {}
            }
        }
    }

    /// Uses these masters from now on.
    fn follow(
        self: &Arc<Self>,
        listed: &ClusterTopology,
        target: &config::RedisConfig,
        kept: &mut BTreeMap<String, AbortOnDropHandle<()>>,
    ) {
        self.purges.grown();
        self.shards.update_slots(listed, now_ms());
        let shards = self.shards.all();
        let masters: Vec<_> = shards.iter().map(|shard| shard.place()).collect();
        tracing::info!(masters = masters.join(", "), "the cluster's hash slots are mapped");
        kept.retain(|place, _| masters.contains(&place.as_str()));
        for shard in &shards {
            kept.entry(shard.place().to_owned()).or_insert_with(|| {
                AbortOnDropHandle::new(tokio::spawn(self.clone().keep_shard(shard.clone(), target.clone())))
            });
        }
        // The log may be on another master now.
        self.read_log_again();
        self.count_links();
    }

    /// Returns the topology according to the linked masters, or to other nodes if none of them answers.
    async fn list_masters(&self, target: &config::RedisConfig) -> RedisResult<ClusterTopology> {
        let shards = self.shards.all();
        let linked = shards.iter().filter_map(|shard| Some((shard, shard.link.load_full()?)));
        let said = join_all(linked.map(|(shard, link)| async move {
            let said = list_masters(&link.commands.connection(), shard.place()).await;
            if said.as_ref().is_ok_and(|topology| topology.is_cut_off) {
                link.given_up.notify_one();
            }
            said.ok()
        }))
        .await;
        if let Some(newest) = newest_topology(said.into_iter().flatten()) {
            return Ok(newest);
        }
        let config::RedisConfig::Cluster(seeds) = target else { return Ok(ClusterTopology::default()) };
        let said = ClusterSeeds::new(seeds.clone())
            .ask(shards.iter().map(|shard| shard.place().to_owned()).collect())
            .await?;
        newest_topology(said).ok_or_else(|| (ErrorKind::Io, "no node reaches most of the masters").into())
    }
}
