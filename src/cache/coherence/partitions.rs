//! The partitions of the store: groups of keys, each with the doubt of the servers that hold them.
//!
//! One server is one partition. In a cluster the 16,384 hash slots make 256 partitions of 64 neighbours,
//! whatever the masters are. So a version has its doubt for life: when slots move to another master, only the
//! connections change that a partition depends on. As masters have slots in long ranges, few partitions
//! depend on two.

use super::doubt::CoherenceDoubt;
use crate::{
    cache::key::StoreKeys,
    config,
    name::{Namespace, Tenant},
};

use std::sync::Arc;

/// The number of hash slots of a cluster.
pub const HASH_SLOTS: u16 = 16_384;
/// The number of neighbouring slots in a partition.
const SLOTS_OF_ONE: u16 = 64;

/// All partitions of a store.
#[derive(Debug)]
pub struct StorePartitions {
    doubts: Box<[Arc<CoherenceDoubt>]>,
    /// The names of keys, needed if there are several partitions.
    names: Option<StoreKeys>,
}

impl StorePartitions {
    /// One partition, with this doubt.
    pub fn one(doubt: Arc<CoherenceDoubt>) -> Arc<Self> {
        Arc::new(Self { doubts: Box::new([doubt]), names: None })
    }

    /// The one partition without a store: this node's state is authoritative.
    pub fn none() -> Arc<Self> {
        Self::one(Arc::new(CoherenceDoubt::none()))
    }

    /// The partitions of a store that is not linked yet at `now_ms`.
    pub fn of_store(store: &config::StoreConfig, now_ms: u64) -> Arc<Self> {
        let doubt = || CoherenceDoubt::of_store(store.outage_ttl, now_ms).polling(store.poll);
        match &store.redis {
            None => Self::none(),
            Some(config::RedisConfig::Cluster(_)) => Self::of_cluster(&store.prefix, doubt),
            Some(_) => Self::one(Arc::new(doubt())),
        }
    }

    /// The partitions of a cluster whose keys begin with `prefix`.
    pub fn of_cluster(prefix: &str, doubt: impl Fn() -> CoherenceDoubt) -> Arc<Self> {
        let doubts = (0..HASH_SLOTS / SLOTS_OF_ONE).map(|_| Arc::new(doubt())).collect();
        Arc::new(Self { doubts, names: Some(StoreKeys::new(prefix)) })
    }

    /// The doubt of a version.
    pub fn of_version(&self, namespace: &Namespace, tenant: &Tenant) -> &Arc<CoherenceDoubt> {
        match &self.names {
            Some(names) => self.of_key(&names.version(namespace, tenant)),
            None => &self.doubts[0],
        }
    }

    /// The doubt of the log of purges.
    pub fn of_purge_log(&self) -> &Arc<CoherenceDoubt> {
        match &self.names {
            Some(names) => self.of_key(&names.purge_log()),
            None => &self.doubts[0],
        }
    }

    /// The doubt of a key.
    pub fn of_key(&self, key: &str) -> &Arc<CoherenceDoubt> {
        match self.doubts.len() {
            1 => &self.doubts[0],
            _ => &self.doubts[usize::from(hash_slot(key) / SLOTS_OF_ONE)],
        }
    }

    /// All of them, each with its first and its last hash slot.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u16, &Arc<CoherenceDoubt>)> {
        let width = if self.doubts.len() == 1 { HASH_SLOTS } else { SLOTS_OF_ONE };
        (0..)
            .step_by(usize::from(width))
            .zip(&*self.doubts)
            .map(move |(first, doubt)| (first, first + width - 1, doubt))
    }

    /// The time since which this node is not sure of at least one of them; `None`: it is sure of all.
    pub fn since_ms(&self, now_ms: u64) -> Option<u64> {
        self.doubts.iter().filter_map(|doubt| doubt.since_ms(now_ms)).min()
    }

    /// The time for which answers are served in doubt, in milliseconds; `None`: without a limit.
    pub fn outage_ttl_ms(&self) -> Option<u64> {
        self.doubts[0].outage_ttl_ms()
    }
}

/// The hash slot of a key in a cluster: of the text between the first `{` and the next `}`, if that is not
/// empty, else of the whole key.
pub fn hash_slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    crc16(tag.filter(|tag| !tag.is_empty()).unwrap_or(key).as_bytes()) % HASH_SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_lies_where_the_cluster_says() {
        assert_eq!(crc16(b"123456789"), 0x31c3, "as the cluster's specification says");
        for (key, slot) in [("foo", 12_182), ("bar", 5_061), ("{foo}x", 12_182), ("a{bar}{foo}", 5_061)] {
            assert_eq!(hash_slot(key), slot, "{key}");
        }
        // An empty tag is ignored.
        assert_eq!(hash_slot("foo{}{bar}"), crc16(b"foo{}{bar}") % HASH_SLOTS);
        assert_eq!(hash_slot("foo{bar"), crc16(b"foo{bar") % HASH_SLOTS);
    }

    #[test]
    fn each_hash_slot_has_its_partition() {
        let cluster = StorePartitions::of_cluster("dash:", CoherenceDoubt::none);
        let all: Vec<_> = cluster.iter().collect();
        assert_eq!((all.len(), all[0].0, all[255].1), (256, 0, HASH_SLOTS - 1));
        for key in ["foo", "bar", "dash:ver:kpi:acme"] {
            let (first, last, _) =
                cluster.iter().find(|(_, _, doubt)| Arc::ptr_eq(doubt, cluster.of_key(key))).unwrap();
            assert!((first..=last).contains(&hash_slot(key)), "{key}");
        }
        let (namespace, tenant) = ("kpi".parse().unwrap(), "acme".parse().unwrap());
        let of_version = cluster.of_version(&namespace, &tenant);
        assert!(Arc::ptr_eq(of_version, cluster.of_key("dash:ver:kpi:acme")));
        let one = StorePartitions::one(Arc::new(CoherenceDoubt::none()));
        assert_eq!(
            one.iter().map(|(first, last, _)| (first, last)).collect::<Vec<_>>(),
            [(0, HASH_SLOTS - 1)]
        );
    }
}
