//! Which of the servers that may be asked is asked: in turn, the least busy, or always the same for the same key.
//!
//! Pure: the servers' weights and loads in, an index out. It knows nothing of health: who may not be asked stands
//! there as one that may not.
//!
//! In turn means *smoothly* (nginx's weighted round robin): weights 2 and 1 give A B A, not A A B. Keys are spread by
//! *rendezvous* hashing with weights: each server has a value for each key, and the highest one has it. When a server
//! goes, its keys go to others and no other key moves; all nodes and all restarts agree. So that a popular key does not
//! bury its server, a server that has far more under way than its share is passed over for the next in the key's order
//! (consistent hashing with bounded loads).

use crate::config::Balance;
use xxhash_rust::xxh3::xxh3_64;

/// A server, as far as choosing goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    /// Names it on all nodes: made of its address by [`key`].
    pub(super) id: u64,
    /// Its share, at least 1.
    pub(super) weight: u32,
    /// Requests under way.
    pub(super) active: u32,
    /// Whether it may be chosen.
    pub(super) may: bool,
}

/// Whose turn it is: what each server has saved up, by its index.
#[derive(Debug, Default)]
pub(super) struct Turns(Vec<i64>);

/// How much more than its share a server may have under way before its keys go on to the next.
const BOUND: f64 = 1.25;
/// With fewer than this under way a server keeps its keys, however idle the others are.
const FLOOR: f64 = 8.0;

/// The number that stands for a key or a server's address.
pub(super) fn key(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// Chooses one of those that may be; `None` where there is none. Without a `key` there is nothing to hash: then they
/// take turns.
pub(super) fn choose(
    balance: Balance,
    key: Option<u64>,
    servers: &[Candidate],
    turns: &mut Turns,
) -> Option<usize> {
    match (balance, key) {
        (Balance::Hash(_), Some(key)) => hashed(key, servers),
        (Balance::LeastConnections, _) => {
            let least = servers.iter().filter(|s| s.may).min_by(|a, b| busier(a, b))?;
            turns.next(servers, |s| busier(s, least).is_eq())
        }
        (Balance::RoundRobin | Balance::Hash(_), _) => turns.next(servers, |_| true),
    }
}

impl Turns {
    /// Everyone who takes part saves up his weight; who has most is next, and pays for all.
    fn next(&mut self, servers: &[Candidate], takes_part: impl Fn(&Candidate) -> bool) -> Option<usize> {
        self.0.resize(servers.len(), 0);
        let (mut total, mut next) = (0, None);
        for (index, server) in servers.iter().enumerate().filter(|(_, s)| s.may && takes_part(s)) {
            let saved = &mut self.0[index];
            *saved += i64::from(server.weight);
            total += i64::from(server.weight);
            if next.is_none_or(|(_, most)| *saved > most) {
                next = Some((index, *saved));
            }
        }
        let (index, _) = next?;
        self.0[index] -= total;
        Some(index)
    }
}

/// Who would have more under way for his weight with one more request.
fn busier(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    let load = |x: &Candidate, y: &Candidate| (u64::from(x.active) + 1) * u64::from(y.weight);
    load(a, b).cmp(&load(b, a))
}

/// The first in the key's order that is not overloaded. There is one: not all can have more than their share.
pub(super) fn hashed(key: u64, servers: &[Candidate]) -> Option<usize> {
    let all = || servers.iter().enumerate().filter(|(_, s)| s.may);
    let weight: f64 = all().map(|(_, s)| f64::from(s.weight)).sum();
    let active: f64 = all().map(|(_, s)| f64::from(s.active)).sum();
    let fits = |s: &Candidate| {
        let share = (active + 1.0) * f64::from(s.weight) / weight;
        f64::from(s.active) + 1.0 <= (share * BOUND).ceil().max(FLOOR)
    };
    let highest = |fits: &dyn Fn(&Candidate) -> bool| {
        let scored = all().filter(|(_, s)| fits(s)).map(|(index, s)| (index, score(key, s)));
        scored.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
    };
    highest(&fits).or_else(|| highest(&|_| true))
}

/// A server's value for a key (weighted rendezvous hashing): the highest of all values is his with the probability of
/// his share.
#[allow(clippy::cast_precision_loss, reason = "53 bits are enough for a share")]
fn score(key: u64, server: &Candidate) -> f64 {
    let uniform = ((mixed(key ^ server.id.rotate_left(32)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -f64::from(server.weight) / uniform.ln()
}

/// Spreads every bit over all others (the end of splitmix64).
fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
