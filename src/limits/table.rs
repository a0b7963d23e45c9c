//! The clients seen lately and their buckets: the state of one limit, on this node.
//!
//! Bounded. An empty bucket needs no entry, so a client that has been quiet for a while costs nothing once
//! its place is needed. If more clients are active than there is room for, those with the emptiest buckets
//! are evicted: they lose the least, and a flood of addresses with one request each does not evict a client
//! that is being held back.
//!
//! The time is an argument; [`super::gcra`] interprets it.

use super::{
    client_key::BucketOwner,
    gcra::{LimitStanding, RequestRate},
};
use ahash::RandomState;
use parking_lot::Mutex;
use std::collections::HashMap;

/// The number of locks, so that threads seldom wait for each other.
const SHARDS: usize = 16;
/// Clients in a shard below which it is not searched for empty buckets.
const FEW_CLIENTS: usize = 64;

/// The state of one limit.
pub(crate) struct BucketTable {
    /// Seeded anew in each process, so that no client can choose its shard.
    hasher: RandomState,
    shards: [Mutex<BucketShard>; SHARDS],
}

struct BucketShard {
    /// The time at which each client's bucket is empty.
    empty_at: HashMap<BucketOwner, u64, RandomState>,
    /// The number of clients at which empty buckets are searched for.
    sweep_at: usize,
}

impl BucketTable {
    /// An empty table.
    pub(crate) fn new() -> Self {
        let hasher = RandomState::new();
        let shard = || BucketShard { empty_at: HashMap::with_hasher(hasher.clone()), sweep_at: FEW_CLIENTS };
        Self { shards: std::array::from_fn(|_| Mutex::new(shard())), hasher }
    }

    /// Counts one more request of a client. Keeps at most `most` clients; the number of those evicted with a
    /// bucket that was not empty is added to `driven_out`.
    pub(crate) fn take(
        &self,
        who: BucketOwner,
        rate: RequestRate,
        now: u64,
        most: usize,
        driven_out: &mut u64,
    ) -> LimitStanding {
        let mut shard = self.shard(who).lock();
        if let Some(empty_at) = shard.empty_at.get_mut(&who) {
            let (standing, after) = rate.take(*empty_at, now);
            *empty_at = after;
            return standing;
        }
        *driven_out += shard.make_room(now, (most / SHARDS).max(1));
        let (standing, after) = rate.take(0, now);
        shard.empty_at.insert(who, after);
        standing
    }

    /// Takes back a request that [`BucketTable::take`] allowed.
    pub(crate) fn give_back(&self, who: BucketOwner, rate: RequestRate) {
        if let Some(empty_at) = self.shard(who).lock().empty_at.get_mut(&who) {
            *empty_at = rate.give_back(*empty_at);
        }
    }

    /// Raises the content of a client's bucket: other nodes have seen requests of it too. An unknown client
    /// is not added, so that this never needs room.
    pub(crate) fn learn(&self, who: BucketOwner, empty_at: u64) {
        if let Some(known) = self.shard(who).lock().empty_at.get_mut(&who) {
            *known = empty_at.max(*known);
        }
    }

    /// The number of clients.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().empty_at.len()).sum()
    }

    fn shard(&self, who: BucketOwner) -> &Mutex<BucketShard> {
        // The map inside uses the lowest and the highest bits of the same hash.
        let bits = (self.hasher.hash_one(who) >> 32) as usize;
        &self.shards[bits % SHARDS]
    }
}

impl Default for BucketTable {
    fn default() -> Self {
        Self::new()
    }
}

impl BucketShard {
    /// Makes room for one more if there are `most`. Seldom does anything, and then for many at once.
    fn make_room(&mut self, now: u64, most: usize) -> u64 {
        if self.empty_at.len() < self.sweep_at.min(most) {
            return 0;
        }
        self.empty_at.retain(|_, empty_at| *empty_at > now);
        let driven_out = if self.empty_at.len() < most { 0 } else { self.evict_clients(most) };
        self.sweep_at = (self.empty_at.len() * 2).clamp(FEW_CLIENTS, most.max(FEW_CLIENTS));
        if self.empty_at.capacity() > 4 * self.sweep_at {
            self.empty_at.shrink_to(self.sweep_at);
        }
        driven_out
    }

    /// Evicts the eighth of the clients whose buckets are empty first.
    fn evict_clients(&mut self, most: usize) -> u64 {
        let mut times: Vec<u64> = self.empty_at.values().copied().collect();
        let surplus = times.len() + 1 - most.min(times.len());
        let mut go = (most / 8).max(surplus).min(times.len());
        let last = go - 1;
        let latest = *times.select_nth_unstable(last).1;
        let before = self.empty_at.len();
        // Of those that are empty at the same moment, not all need to go.
        self.empty_at.retain(|_, empty_at| {
            *empty_at > latest || go == 0 || {
                go -= 1;
                false
            }
        });
        (before - self.empty_at.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;
    const MOST: usize = SHARDS * 128;

    fn who(n: u128) -> BucketOwner {
        BucketOwner::of_test(n)
    }

    fn per_minute(burst: u32) -> RequestRate {
        RequestRate::new(60, Duration::from_secs(60), burst)
    }

    fn take(table: &BucketTable, n: u128, now: u64) -> (LimitStanding, u64) {
        let mut driven_out = 0;
        let standing = table.take(who(n), per_minute(5), now, MOST, &mut driven_out);
        (standing, driven_out)
    }

    #[test]
    fn each_has_a_bucket() {
        let table = BucketTable::new();
        for left in (0..5).rev() {
            assert_eq!(take(&table, 1, SECOND).0.remaining, left);
        }
        assert!(!take(&table, 1, SECOND).0.passed);
        assert!(take(&table, 2, SECOND).0.passed);
        table.give_back(who(1), per_minute(5));
        assert!(take(&table, 1, SECOND).0.passed);
        table.learn(who(2), 6 * SECOND);
        assert!(!take(&table, 2, SECOND).0.passed);
        table.learn(who(2), 3 * SECOND);
        assert!(!take(&table, 2, SECOND).0.passed);
        // An unknown client is not added.
        table.learn(who(3), 6 * SECOND);
        table.give_back(who(3), per_minute(5));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn those_who_ask_no_more_cost_nothing() {
        let table = BucketTable::new();
        let mut now = SECOND;
        for n in 0..100_000 {
            assert_eq!(take(&table, n, now).1, 0);
            now += SECOND / 100;
        }
        // A bucket lasts a second here: a hundred of them at once.
        assert!(table.len() <= SHARDS * FEW_CLIENTS, "{}", table.len());
        let capacity: usize = table.shards.iter().map(|shard| shard.lock().empty_at.capacity()).sum();
        assert!(capacity <= SHARDS * FEW_CLIENTS * 8, "{capacity}");
    }

    #[test]
    fn a_flood_takes_no_more_than_its_room_and_frees_nobody() {
        let table = BucketTable::new();
        let held_back = 1_000_000..1_000_020;
        for n in held_back.clone() {
            for _ in 0..6 {
                take(&table, n, SECOND);
            }
        }
        let mut driven_out = 0;
        for n in 0..50_000 {
            driven_out += take(&table, n, SECOND + n as u64).1;
        }
        assert!(table.len() <= MOST, "{}", table.len());
        assert!(driven_out as usize + table.len() >= 50_000);
        for n in held_back {
            assert!(!take(&table, n, SECOND + SECOND / 2).0.passed, "{n} was let go");
        }
    }

    #[test]
    fn equals_make_room_too() {
        let table = BucketTable::new();
        for n in 0..10_000 {
            assert!(take(&table, n, SECOND).0.passed);
        }
        let len = table.len();
        assert!((MOST / 2..=MOST).contains(&len), "{len}");
        let mut driven_out = 0;
        for n in 10_000..11_000 {
            table.take(who(n), per_minute(1), SECOND, 1, &mut driven_out);
        }
        assert!(table.len() <= SHARDS, "{}", table.len());
    }
}
