//! Load balancing: the choice among available servers, round robin, least connections, or by the hash of a
//! key.
//!
//! Pure: the servers' weights and loads in, an index out. Health is not considered here: unavailable servers
//! are marked as such.
//!
//! Round robin is *smooth* (as nginx's weighted round robin): weights 2 and 1 give A B A, not A A B. Keys are
//! distributed by weighted *rendezvous* hashing: each server has a score for each key, and the highest score
//! wins. If a server is removed, its keys go to others and no other key moves; all nodes agree, also after a
//! restart. To keep a popular key from overloading its server, a server with far more requests than its share
//! is skipped in favour of the next one in the key's order (consistent hashing with bounded loads).

use crate::config::BalanceMethod;
use xxhash_rust::xxh3::xxh3_64;

/// A server, as input for the choice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerCandidate {
    /// The hash of its address by [`key`], the same on all nodes.
    pub(crate) id: u64,
    /// Its weight, at least 1.
    pub(crate) weight: u32,
    /// The number of requests under way.
    pub(crate) active: u32,
    /// True if it is available.
    pub(crate) may: bool,
}

/// The state of smooth weighted round robin: the current weight of each server, by its index.
#[derive(Debug, Default)]
pub(crate) struct RoundRobinTurns(Vec<i64>);

/// The factor by which a server's load may exceed its share before its keys go to the next server.
const LOAD_BOUND: f64 = 1.25;
/// The number of requests under way below which a server keeps its keys, even if all others are idle.
const LOAD_FLOOR: f64 = 8.0;

/// The hash of a key, or of a server's address.
pub(crate) fn hash_key(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// Chooses an available server; `None` if there is none. Hashing without a `key` falls back to round robin.
pub(crate) fn choose_server(
    balance: BalanceMethod,
    key: Option<u64>,
    servers: &[ServerCandidate],
    turns: &mut RoundRobinTurns,
) -> Option<usize> {
    match (balance, key) {
        (BalanceMethod::Hash(_), Some(key)) => choose_by_hash(key, servers),
        (BalanceMethod::LeastConnections, _) => {
            let least = servers.iter().filter(|s| s.may).min_by(|a, b| busier(a, b))?;
            turns.next(servers, |s| busier(s, least).is_eq())
        }
        (BalanceMethod::RoundRobin | BalanceMethod::Hash(_), _) => turns.next(servers, |_| true),
    }
}

impl RoundRobinTurns {
    /// Adds the weight of each participating server to its current weight, chooses the largest, and subtracts
    /// the total from it.
    fn next(
        &mut self,
        servers: &[ServerCandidate],
        takes_part: impl Fn(&ServerCandidate) -> bool,
    ) -> Option<usize> {
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

/// Compares the loads relative to the weights that two servers would have with one more request.
fn busier(a: &ServerCandidate, b: &ServerCandidate) -> std::cmp::Ordering {
    let load = |x: &ServerCandidate, y: &ServerCandidate| (u64::from(x.active) + 1) * u64::from(y.weight);
    load(a, b).cmp(&load(b, a))
}

/// The first server in the key's order that is not overloaded. There always is one: not all can exceed their
/// share.
pub(crate) fn choose_by_hash(key: u64, servers: &[ServerCandidate]) -> Option<usize> {
    let all = || servers.iter().enumerate().filter(|(_, s)| s.may);
    let weight: f64 = all().map(|(_, s)| f64::from(s.weight)).sum();
    let active: f64 = all().map(|(_, s)| f64::from(s.active)).sum();
    let fits = |s: &ServerCandidate| {
        let share = (active + 1.0) * f64::from(s.weight) / weight;
        f64::from(s.active) + 1.0 <= (share * LOAD_BOUND).ceil().max(LOAD_FLOOR)
    };
    let highest = |fits: &dyn Fn(&ServerCandidate) -> bool| {
        let scored = all().filter(|(_, s)| fits(s)).map(|(index, s)| (index, score(key, s)));
        scored.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
    };
    highest(&fits).or_else(|| highest(&|_| true))
}

/// The score of a server for a key (weighted rendezvous hashing): the probability that it is the highest is
/// the server's share.
#[allow(clippy::cast_precision_loss, reason = "53 bits are enough for a share")]
fn score(key: u64, server: &ServerCandidate) -> f64 {
    let uniform = ((mix_hash(key ^ server.id.rotate_left(32)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -f64::from(server.weight) / uniform.ln()
}

/// Mixes the bits of a number (the finalizer of splitmix64).
fn mix_hash(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
