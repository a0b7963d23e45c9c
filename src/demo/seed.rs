//! A day of plausible orders, so that the dashboard has something to show.
//!
//! Deterministic: an hour of a tenant holds the same orders whenever the demo starts, no matter on which
//! machine. Nothing here is random in the sense of unpredictable, and nothing must be secret.

use super::orders::{DemoTime, OrderBook, DAY, HOUR};
use crate::name::{Name, NameError, Tenant};

use std::collections::HashMap;

/// The tenants with a history, and the number of orders in their busiest hour.
const TENANTS: [(&str, u64); 3] = [("acme", 120), ("globex", 54), ("public", 26)];
/// The load of each hour of the UTC day, in percent of the busiest.
const HOURLY_CURVE: [u64; 24] =
    [22, 15, 11, 9, 10, 16, 29, 46, 61, 72, 80, 88, 93, 84, 76, 73, 78, 88, 97, 100, 92, 74, 52, 34];
const USERS: [&str; 32] = [
    "alice", "amir", "beatriz", "bogdan", "carla", "chen", "dana", "dmitri", "elif", "emeka", "farah",
    "finn", "grace", "hana", "hugo", "ines", "ivan", "jana", "joon", "kofi", "lena", "luca", "maya", "mina",
    "noah", "olga", "priya", "rosa", "sami", "tuva", "yuki", "zoe",
];

/// The names of the tenants with a history.
pub(super) fn seed_tenants() -> impl Iterator<Item = &'static str> {
    TENANTS.iter().map(|(name, _)| *name)
}

/// The last 24 hours of every tenant, up to `now`.
///
/// # Errors
/// [`NameError`] if one of the names above is not valid.
pub(super) fn seed_books(now: DemoTime) -> Result<HashMap<Tenant, OrderBook>, NameError> {
    TENANTS.iter().map(|(name, busiest)| Ok((name.parse()?, seed_book(name, *busiest, now)?))).collect()
}

fn seed_book(tenant: &str, busiest: u64, now: DemoTime) -> Result<OrderBook, NameError> {
    let created: Name = "order_created".parse()?;
    let renewed: Name = "order_renewed".parse()?;
    let mut book = OrderBook::default();
    let first = DemoTime(now.0 - DAY).hour();
    for hour in (first.0..=now.0).step_by(HOUR as usize) {
        let mut dice = SeedRandom::of(tenant, hour);
        let busy = HOURLY_CURVE[(hour / HOUR).rem_euclid(24) as usize];
        let count = (busiest * busy * (80 + dice.below(41)) / 10_000).max(1);
        let mut times: Vec<i64> = (0..count).map(|_| hour + dice.below(HOUR as u64) as i64).collect();
        times.sort_unstable();
        for at in times {
            let kind = if dice.below(6) == 0 { &renewed } else { &created };
            // The product of two random numbers: many small amounts, a few large ones.
            let amount = 4_900 + (dice.below(300) * dice.below(300) / 100) * 100;
            let user = USERS[dice.below(USERS.len() as u64) as usize];
            if (now.0 - DAY..=now.0).contains(&at) {
                book.add(kind.clone(), amount, user.to_owned(), DemoTime(at));
            }
        }
    }
    Ok(book)
}

/// SplitMix64: small, and the same on all platforms.
struct SeedRandom(u64);

impl SeedRandom {
    /// The generator for one hour of a tenant (FNV-1a of both).
    fn of(tenant: &str, hour: i64) -> Self {
        let bytes = tenant.bytes().chain(hour.to_le_bytes());
        Self(bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn chart(now: DemoTime, tenant: &str) -> Value {
        let books = seed_books(now).unwrap();
        serde_json::to_value(books[&tenant.parse::<Name>().unwrap()].chart(24, now)).unwrap()
    }

    fn orders(chart: &Value) -> Vec<u64> {
        let points = chart["points"].as_array().unwrap();
        points.iter().map(|p| p["orders"].as_u64().unwrap()).collect()
    }

    #[test]
    fn every_tenant_has_its_own_full_day() {
        // Ten minutes before the end of an hour: the current hour is nearly over.
        let now = DemoTime(1_750_000_000_000 / HOUR * HOUR + 50 * 60_000);
        let days: Vec<_> = seed_tenants().map(|tenant| orders(&chart(now, tenant))).collect();
        for day in &days {
            assert!(day.iter().all(|&n| n > 0), "{day:?}");
        }
        assert!(days[0].iter().sum::<u64>() > days[1].iter().sum::<u64>());
        assert!(days[1].iter().sum::<u64>() > days[2].iter().sum::<u64>());
    }

    #[test]
    fn a_later_start_tells_the_same_past() {
        let now = DemoTime(1_750_000_000_000);
        assert_eq!(chart(now, "acme"), chart(now, "acme"));
        let later = DemoTime(now.0 + 3 * HOUR);
        let (early, late) = (orders(&chart(now, "acme")), orders(&chart(later, "acme")));
        assert_eq!(early[3..23], late[..20], "all but the hour that was still running");
        assert_eq!(seed_books(now).unwrap()[Name::public()].recent().len(), crate::demo::orders::RECENT_ROWS);
    }

    #[test]
    fn nothing_is_older_than_a_day_or_from_the_future() {
        let now = DemoTime(1_750_000_123_456);
        let books = seed_books(now).unwrap();
        let sum = |hours, now| -> u64 {
            let chart = books[&"acme".parse::<Name>().unwrap()].chart(hours, now);
            orders(&serde_json::to_value(chart).unwrap()).iter().sum()
        };
        assert_eq!(sum(168, DemoTime(now.0 + DAY)), sum(25, now), "the last 24 hours touch 25 clock hours");
    }
}
