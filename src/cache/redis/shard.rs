//! The servers of the store: one, or the masters of a cluster, each with its link, its faults, and the
//! partitions that depend on it.
//!
//! Turns events of a link into doubt of the right partitions. A partition is sure while each server with some
//! of its slots is linked and answers; few depend on more than one.

use super::{
    link::{ClusterRedirect, ClusterTopology, MasterConfirmation, MasterLookup, StoreLink},
    store_faults::StoreTroubles,
};
use crate::cache::coherence::{
    doubt::CoherenceDoubt,
    partitions::{hash_slot, StorePartitions, HASH_SLOTS},
};

use arc_swap::ArcSwapOption;
use parking_lot::RwLock;
use std::{
    collections::BTreeSet,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc,
    },
};
use tokio::sync::Notify;

/// A server of the store.
pub(super) struct StoreShard {
    pub(super) troubles: StoreTroubles,
    pub(super) link: ArcSwapOption<StoreLink>,
    /// The time when the last answered heartbeat was sent.
    beat_ms: AtomicU64,
    /// The time of the last confirmation by most of the sentinels; [`u64::MAX`]: there are none.
    confirmed_ms: AtomicU64,
    /// True if calls are not answered within their deadline.
    is_silent: AtomicBool,
    /// The time of the last warning in the log, and a flag that its end is to be logged.
    warned_ms: AtomicU64,
    is_warned: AtomicBool,
}

impl StoreShard {
    /// A server that is not linked, at this address.
    pub(super) fn new(place: String) -> Arc<Self> {
        Arc::new(Self {
            troubles: StoreTroubles::new(place),
            link: ArcSwapOption::empty(),
            beat_ms: AtomicU64::new(0),
            confirmed_ms: AtomicU64::new(u64::MAX),
            is_silent: AtomicBool::new(false),
            warned_ms: AtomicU64::new(0),
            is_warned: AtomicBool::new(false),
        })
    }

    /// Returns true if it should be logged that calls are not answered in time: not again within ten seconds,
    /// since their times may be close to the deadline.
    pub(super) fn begin_warning(&self, now_ms: u64) -> bool {
        const BETWEEN_MS: u64 = 10_000;
        let last = self.warned_ms.load(Ordering::Relaxed);
        let is_due = last == 0 || now_ms.saturating_sub(last) >= BETWEEN_MS;
        if is_due {
            self.warned_ms.store(now_ms, Ordering::Relaxed);
            self.is_warned.store(true, Ordering::Relaxed);
        }
        is_due
    }

    /// Returns true if it should be logged that calls are answered again.
    pub(super) fn end_warning(&self) -> bool {
        self.is_warned.swap(false, Ordering::Relaxed)
    }

    /// Host and port.
    pub(super) fn place(&self) -> &str {
        self.troubles.place()
    }

    /// Returns true if a request may wait for it: its calls are answered within the deadline.
    pub(super) fn is_answering(&self) -> bool {
        !self.is_silent.load(Ordering::Relaxed)
    }

    fn confirm(&self, confirmation: Option<MasterConfirmation>) {
        let at_ms = confirmation.map_or(u64::MAX, |confirmation| confirmation.at_ms);
        self.confirmed_ms.store(at_ms, Ordering::Release);
    }

    pub(super) fn is_linked(&self) -> bool {
        self.link.load().is_some()
    }

    pub(super) fn is_tracked(&self) -> bool {
        self.link.load().as_ref().is_some_and(|link| link.tracked)
    }
}

/// All servers of the store.
pub(super) struct StoreShards {
    partitions: Arc<StorePartitions>,
    /// Held for writing while a link begins or ends, or slots move.
    map: RwLock<SlotMap>,
    /// Notified when the masters of a cluster should be listed again.
    pub(super) outdated: Notify,
    /// The faults of a cluster as a whole.
    pub(super) troubles: StoreTroubles,
}

#[derive(Default)]
struct SlotMap {
    shards: Vec<Arc<StoreShard>>,
    /// The index in `shards` for each hash slot; empty if there is one server.
    of_slot: Vec<Option<u16>>,
    /// The servers that each partition depends on.
    of_partition: Vec<(Arc<CoherenceDoubt>, Vec<Arc<StoreShard>>)>,
}

impl SlotMap {
    /// The partitions that depend on a server, each with all its servers.
    fn of<'m>(
        &'m self,
        shard: &'m Arc<StoreShard>,
    ) -> impl Iterator<Item = (&'m Arc<CoherenceDoubt>, &'m Vec<Arc<StoreShard>>)> {
        let depends = move |shards: &[Arc<StoreShard>]| shards.iter().any(|one| Arc::ptr_eq(one, shard));
        self.of_partition
            .iter()
            .filter(move |(_, shards)| depends(shards))
            .map(|(doubt, shards)| (doubt, shards))
    }
}

impl StoreShards {
    /// One server.
    pub(super) fn one(partitions: Arc<StorePartitions>, place: String) -> Arc<Self> {
        let shard = StoreShard::new(place);
        let of_partition =
            partitions.iter().map(|(_, _, doubt)| (doubt.clone(), vec![shard.clone()])).collect();
        let map = SlotMap { shards: vec![shard], of_slot: Vec::new(), of_partition };
        Self::with(partitions, map, String::new())
    }

    /// A cluster whose nodes are at this address, and whose masters are not known yet.
    pub(super) fn of_cluster(partitions: Arc<StorePartitions>, place: String) -> Arc<Self> {
        let map = SlotMap { of_slot: vec![None; usize::from(HASH_SLOTS)], ..SlotMap::default() };
        Self::with(partitions, map, place)
    }

    fn with(partitions: Arc<StorePartitions>, map: SlotMap, place: String) -> Arc<Self> {
        let troubles = StoreTroubles::new(place);
        Arc::new(Self { partitions, map: RwLock::new(map), outdated: Notify::new(), troubles })
    }

    /// Returns the way to the masters that commands are redirected to.
    pub(super) fn elsewhere(self: &Arc<Self>) -> MasterLookup {
        let shards = Arc::downgrade(self);
        Arc::new(move |address, why| {
            let shards = shards.upgrade()?;
            if why == ClusterRedirect::Moved {
                shards.outdated.notify_one();
            }
            Some(shards.at(address)?.link.load_full()?.commands.connection())
        })
    }

    /// All known servers.
    pub(super) fn all(&self) -> Vec<Arc<StoreShard>> {
        self.map.read().shards.clone()
    }

    /// The server that holds a key; `None`: it is unknown.
    pub(super) fn of_key(&self, key: &str) -> Option<Arc<StoreShard>> {
        let map = self.map.read();
        match map.of_slot.is_empty() {
            true => map.shards.first().cloned(),
            false => map.shards.get(usize::from((*map.of_slot.get(usize::from(hash_slot(key)))?)?)).cloned(),
        }
    }

    /// The server at this address.
    fn at(&self, place: &str) -> Option<Arc<StoreShard>> {
        self.map.read().shards.iter().find(|shard| shard.place() == place).cloned()
    }

    /// Returns true if all keys are on one server: then one call may name several.
    pub(super) fn is_one(&self) -> bool {
        self.map.read().of_slot.is_empty()
    }

    /// Returns two flags: all are linked, and all of them report changes.
    pub(super) fn are_linked(&self) -> (bool, bool) {
        let map = self.map.read();
        let is_any = !map.shards.is_empty();
        let are = |is: fn(&StoreShard) -> bool| is_any && map.shards.iter().all(|shard| is(shard));
        (are(StoreShard::is_linked), are(StoreShard::is_tracked))
    }

    /// Returns true if one of them is linked.
    pub(super) fn is_any_linked(&self) -> bool {
        self.map.read().shards.iter().any(|shard| shard.is_linked())
    }

    /// The doubts of the partitions that depend on a server.
    pub(super) fn doubts(&self, shard: &Arc<StoreShard>) -> Vec<Arc<CoherenceDoubt>> {
        self.map.read().of(shard).map(|(doubt, _)| doubt.clone()).collect()
    }

    /// Records a link to a server, whose making began at `began_ms`.
    pub(super) fn begin(&self, shard: &Arc<StoreShard>, link: Arc<StoreLink>, began_ms: u64) {
        let map = self.map.write();
        shard.is_silent.store(false, Ordering::Relaxed);
        shard.beat_ms.fetch_max(began_ms, Ordering::AcqRel);
        shard.confirm(link.confirmation());
        shard.link.store(Some(link));
        for (doubt, shards) in map.of(shard) {
            relink(doubt, shards);
        }
    }

    /// Records the loss of the link to a server.
    pub(super) fn end(&self, shard: &Arc<StoreShard>, now_ms: u64) {
        let map = self.map.write();
        shard.link.store(None);
        for (doubt, _) in map.of(shard) {
            doubt.lose(now_ms);
        }
    }

    /// Records the answer to a heartbeat of a server that was sent at `sent_ms`, with the confirmation by its
    /// sentinels.
    pub(super) fn beat(
        &self,
        shard: &Arc<StoreShard>,
        sent_ms: u64,
        confirmation: Option<MasterConfirmation>,
    ) {
        shard.confirm(confirmation);
        shard.beat_ms.fetch_max(sent_ms, Ordering::AcqRel);
        for (doubt, shards) in self.map.read().of(shard) {
            if shards.iter().all(|shard| shard.is_linked()) {
                doubt.confirm(last_confirmed_ms(shards));
                doubt.beat(last_beat_ms(shards));
            }
        }
    }

    /// Records a call that was answered within its deadline. Returns true if this is a change.
    pub(super) fn answered(&self, shard: &Arc<StoreShard>) -> bool {
        if shard.is_answering() || !shard.is_silent.swap(false, Ordering::AcqRel) {
            return false;
        }
        for (doubt, shards) in self.map.read().of(shard) {
            if shards.iter().all(|shard| shard.is_answering()) {
                doubt.answered();
            }
        }
        true
    }

    /// Records a call, sent to a server at `sent_ms`, that was not answered within its deadline. Returns true
    /// if this is a change.
    pub(super) fn unanswered(&self, shard: &Arc<StoreShard>, sent_ms: u64) -> bool {
        let map = self.map.read();
        // A link that has ended meanwhile can't answer.
        if !shard.is_linked() || shard.is_silent.swap(true, Ordering::AcqRel) {
            return false;
        }
        for (doubt, _) in map.of(shard) {
            doubt.unanswered(sent_ms);
        }
        true
    }

    /// Takes over the assignment of a cluster's slots. Partitions that depend on other servers than before
    /// are in doubt until they are read again.
    pub(super) fn update_slots(&self, topology: &ClusterTopology, now_ms: u64) {
        let mut map = self.map.write();
        let places: BTreeSet<&String> = topology.ranges.iter().map(|(_, _, place)| place).collect();
        let known = |place: &str| map.shards.iter().find(|shard| shard.place() == place).cloned();
        let shards: Vec<_> = places
            .iter()
            .map(|place| known(place).unwrap_or_else(|| StoreShard::new((*place).clone())))
            .collect();
        let mut of_slot = vec![None; usize::from(HASH_SLOTS)];
        for (first, last, place) in &topology.ranges {
            let index =
                places.iter().position(|one| *one == place).and_then(|index| u16::try_from(index).ok());
            let range = of_slot.get_mut(usize::from(*first)..=usize::from(*last));
            range.unwrap_or_default().fill(index);
        }
        let of_partition: Vec<_> = self
            .partitions
            .iter()
            .map(|(first, last, doubt)| {
                let served = of_slot[usize::from(first)..=usize::from(last)].iter();
                let indices: BTreeSet<u16> = served.filter_map(|index| *index).collect();
                (
                    doubt.clone(),
                    indices.iter().map(|index| shards[usize::from(*index)].clone()).collect::<Vec<_>>(),
                )
            })
            .collect();
        for (index, (doubt, now)) in of_partition.iter().enumerate() {
            let before = map.of_partition.get(index).map_or(&[][..], |(_, shards)| shards);
            if before.len() != now.len()
                || before.iter().zip(now).any(|(one, other)| !Arc::ptr_eq(one, other))
            {
                doubt.lose(now_ms);
                relink(doubt, now);
            }
        }
        for gone in map.shards.iter().filter(|shard| !places.contains(&shard.place().to_owned())) {
            gone.link.store(None);
        }
        *map = SlotMap { shards, of_slot, of_partition };
    }
}

/// Ends the state of no link for a partition, if all servers that it depends on are linked.
fn relink(doubt: &CoherenceDoubt, shards: &[Arc<StoreShard>]) {
    if !shards.is_empty() && shards.iter().all(|shard| shard.is_linked()) {
        doubt.confirm(last_confirmed_ms(shards));
        doubt.link(shards.iter().all(|shard| shard.is_tracked()), last_beat_ms(shards));
        for silent in shards.iter().filter(|shard| !shard.is_answering()) {
            doubt.unanswered(silent.beat_ms.load(Ordering::Acquire));
        }
    }
}

fn last_beat_ms(shards: &[Arc<StoreShard>]) -> u64 {
    shards.iter().map(|shard| shard.beat_ms.load(Ordering::Acquire)).min().unwrap_or_default()
}

/// The earliest of the last confirmations of these servers; `None`: none needs to be confirmed.
fn last_confirmed_ms(shards: &[Arc<StoreShard>]) -> Option<u64> {
    let times = shards.iter().map(|shard| shard.confirmed_ms.load(Ordering::Acquire));
    times.min().filter(|at_ms| *at_ms < u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "test code: a failure is a panic")]
mod tests {
    use super::*;
    use crate::cache::coherence::doubt::CoherenceState;

    const NOW: u64 = 100_000;

    fn topology(ranges: &[(u16, u16, &str)]) -> ClusterTopology {
        let ranges = ranges.iter().map(|(first, last, place)| (*first, *last, (*place).to_owned())).collect();
        ClusterTopology { ranges, epoch: 1, is_cut_off: false }
    }

    #[test]
    fn slots_that_move_put_their_partitions_alone_in_doubt() {
        let partitions = StorePartitions::of_cluster("dash:", || CoherenceDoubt::of_store(None, NOW));
        let shards = StoreShards::of_cluster(partitions.clone(), "a:1".to_owned());
        assert!(!shards.is_one() && shards.of_key("foo").is_none());
        let epochs = || partitions.iter().map(|(_, _, doubt)| doubt.epoch()).collect::<Vec<_>>();
        shards.update_slots(&topology(&[(0, 8_191, "a:1"), (8_192, 16_383, "b:1")]), NOW);
        assert_eq!(shards.of_key("bar").unwrap().place(), "a:1", "slot 5,061");
        let foo = shards.of_key("foo").unwrap();
        assert_eq!((foo.place(), shards.doubts(&foo).len()), ("b:1", 128), "slot 12,182");
        let before = epochs();
        shards.update_slots(
            &topology(&[(0, 8_191, "a:1"), (8_192, 12_182, "a:1"), (12_183, 16_383, "b:1")]),
            NOW,
        );
        assert_eq!(shards.of_key("foo").unwrap().place(), "a:1");
        let of_b = shards.at("b:1").unwrap();
        assert!(Arc::ptr_eq(&foo, &of_b), "the other master is the same as before");
        let changed = before.iter().zip(epochs()).filter(|(before, now)| *before != now).count();
        assert_eq!(changed, (12_182 - 8_192) / 64 + 1);
        // The partition of slot 12,182 depends on both; nothing is linked.
        assert_eq!(shards.doubts(&of_b).len(), 256 - 12_183 / 64);
        assert_eq!(partitions.of_key("foo").coherence(), CoherenceState::Away);
        shards.update_slots(&topology(&[(0, 99, "a:1")]), NOW);
        assert!(shards.of_key("foo").is_none(), "nobody serves it");
    }
}
