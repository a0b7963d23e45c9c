//! Tests of the choice: shares, order, stability of keys.

use super::*;
use crate::config::HashBy;
use proptest::prelude::*;

const HASH: BalanceMethod = BalanceMethod::Hash(HashBy::Path);

fn server(n: usize, weight: u32) -> ServerCandidate {
    ServerCandidate {
        id: hash_key(format!("http://10.0.0.{n}:5000").as_bytes()),
        weight,
        active: 0,
        may: true,
    }
}

fn servers(weights: &[u32]) -> Vec<ServerCandidate> {
    weights.iter().enumerate().map(|(n, weight)| server(n, *weight)).collect()
}

fn keys(n: u32) -> impl Iterator<Item = u64> {
    (0..n).map(|n| hash_key(format!("/some/path/{n}").as_bytes()))
}

/// Servers with arbitrary loads, some of them unavailable.
fn any_servers() -> impl Strategy<Value = Vec<ServerCandidate>> {
    let one = (any::<u64>(), 1..=1000_u32, 0..500_u32, any::<bool>());
    proptest::collection::vec(
        one.prop_map(|(id, weight, active, may)| ServerCandidate { id, weight, active, may }),
        0..12,
    )
}

fn any_balance() -> impl Strategy<Value = BalanceMethod> {
    prop_oneof![Just(BalanceMethod::RoundRobin), Just(BalanceMethod::LeastConnections), Just(HASH)]
}

#[test]
fn turns_are_smooth() {
    let (servers, mut turns) = (servers(&[5, 1, 1]), RoundRobinTurns::default());
    let order: Vec<_> = (0..7)
        .map(|_| choose_server(BalanceMethod::RoundRobin, None, &servers, &mut turns).unwrap())
        .collect();
    assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn the_least_busy_is_asked_and_equals_take_turns() {
    let mut all = servers(&[1, 1, 2]);
    let mut turns = RoundRobinTurns::default();
    let mut next = |all: &[ServerCandidate]| {
        choose_server(BalanceMethod::LeastConnections, None, all, &mut turns).unwrap()
    };
    (all[0].active, all[1].active, all[2].active) = (1, 3, 3);
    assert_eq!([next(&all), next(&all), next(&all)].iter().filter(|n| **n == 1).count(), 0);
    (all[0].active, all[1].active, all[2].active) = (9, 2, 9);
    assert_eq!(next(&all), 1);
    // Twice the weight and twice the load: as busy as the other.
    (all[0].active, all[1].active, all[2].active) = (9, 1, 3);
    let chosen: Vec<_> = (0..6).map(|_| next(&all)).collect();
    assert!(chosen.contains(&1) && chosen.contains(&2) && !chosen.contains(&0), "{chosen:?}");
}

#[test]
fn keys_are_spread_by_weight() {
    let all = servers(&[1, 2, 3, 4]);
    let mut got = [0_u32; 4];
    for key in keys(20_000) {
        got[choose_by_hash(key, &all).unwrap()] += 1;
    }
    for (n, got) in got.into_iter().enumerate() {
        let share = 2_000 * (u32::try_from(n).unwrap() + 1);
        assert!(got.abs_diff(share) < share / 10, "server {n}: {got} of {share}");
    }
}

#[test]
fn a_popular_key_does_not_bury_its_server() {
    let mut all = servers(&[1, 1, 1, 1]);
    let popular = hash_key(b"/hot");
    for n in 1..=400_u32 {
        let chosen = choose_by_hash(popular, &all).unwrap();
        all[chosen].active += 1;
        let most = all.iter().map(|s| s.active).max().unwrap();
        assert!(f64::from(most) <= (f64::from(n) / 4.0 * LOAD_BOUND).ceil().max(LOAD_FLOOR), "{most} of {n}");
    }
}

#[test]
fn a_key_keeps_its_server_while_there_is_little_to_do() {
    let mut all = servers(&[1, 1, 1]);
    let first = choose_by_hash(7, &all).unwrap();
    for _ in 0..8 {
        assert_eq!(choose_by_hash(7, &all), Some(first));
        all[first].active += 1;
    }
    assert_ne!(choose_by_hash(7, &all), Some(first));
}

proptest! {
    /// In each round every server is chosen exactly as often as its weight says, even if others are
    /// unavailable.
    #[test]
    fn a_round_has_everyones_share(weights in proptest::collection::vec((1..20_u32, any::<bool>()), 1..8)) {
        let mut all = servers(&weights.iter().map(|(w, _)| *w).collect::<Vec<_>>());
        all.iter_mut().zip(&weights).for_each(|(server, (_, may))| server.may = *may);
        let mut turns = RoundRobinTurns::default();
        let round: u32 = all.iter().filter(|s| s.may).map(|s| s.weight).sum();
        let mut got = vec![0; all.len()];
        for _ in 0..round {
            got[choose_server(BalanceMethod::RoundRobin, None, &all, &mut turns).expect("someone may")] += 1;
        }
        for (server, got) in all.iter().zip(got) {
            prop_assert_eq!(got, if server.may { server.weight } else { 0 });
        }
    }

    /// An unavailable server is never chosen, and one is chosen if any is available.
    #[test]
    fn only_those_who_may_are_chosen(balance in any_balance(), all in any_servers(), key: Option<u64>, n in 1..20) {
        let mut turns = RoundRobinTurns::default();
        for _ in 0..n {
            let chosen = choose_server(balance, key, &all, &mut turns);
            prop_assert_eq!(chosen.is_some(), all.iter().any(|s| s.may));
            prop_assert!(chosen.is_none_or(|index| all[index].may));
        }
    }

    #[test]
    fn nobody_is_less_busy_than_the_least(all in any_servers()) {
        if let Some(chosen) = choose_server(BalanceMethod::LeastConnections, None, &all, &mut RoundRobinTurns::default()) {
            prop_assert!(all.iter().filter(|s| s.may).all(|s| busier(&all[chosen], s).is_le()));
        }
    }

    /// If a server is removed, its keys move and no others.
    #[test]
    fn few_keys_move_when_a_server_goes(
        weights in proptest::collection::vec(1..100_u32, 2..10),
        gone in any::<proptest::sample::Index>(),
        seed in any::<u64>(),
    ) {
        let before = servers(&weights);
        let gone = gone.index(before.len());
        let mut after = before.clone();
        after[gone].may = false;
        for key in keys(200).map(|key| key ^ seed) {
            let (old, new) = (choose_by_hash(key, &before), choose_by_hash(key, &after));
            prop_assert!(new != Some(gone));
            prop_assert!(old == Some(gone) || old == new);
        }
        // The same if it is removed from the configuration, and the indexes of the others change.
        let mut left = before.clone();
        left.remove(gone);
        for key in keys(200).map(|key| key ^ seed) {
            let new = choose_by_hash(key, &left).map(|n| left[n].id);
            let masked = choose_by_hash(key, &after).map(|n| after[n].id);
            prop_assert_eq!(new, masked);
        }
    }

    /// No server exceeds its bounded share, whatever the keys are.
    #[test]
    fn loads_are_bounded(weights in proptest::collection::vec(1..10_u32, 1..8), seeds in proptest::collection::vec(0..5_u64, 1..300)) {
        let mut all = servers(&weights);
        let weight: u32 = weights.iter().sum();
        for (n, seed) in seeds.into_iter().enumerate() {
            let chosen = choose_by_hash(seed, &all).expect("all may");
            all[chosen].active += 1;
            let share = (n as f64 + 1.0) * f64::from(all[chosen].weight) / f64::from(weight);
            prop_assert!(f64::from(all[chosen].active) <= (share * LOAD_BOUND).ceil().max(LOAD_FLOOR));
        }
    }
}
