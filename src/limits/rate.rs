//! The rate limits of a route: a request counts against each, and is taken back if one refuses.
//!
//! A request must pass all limits of its route. Those by address or key are checked before a token is
//! verified, so that guessing tokens is limited too; those by tenant or user after it.
//!
//! A shared limit is checked on this node first. The store has counted all requests that this node allowed,
//! so it would refuse whatever this node refuses; a flood never reaches it. The store's answers update this
//! node's state: if the store is lost, the node goes on from there by itself.

use super::{
    client_key::{BucketOwner, ClientKey},
    fields,
    gcra::{LimitStanding, RequestRate},
    table::BucketTable,
};
use crate::{
    config::{LimitBy, RouteConfig},
    name::Name,
};

use http::HeaderValue;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// The most clients that are remembered, over all limits together. Each costs at most some 70 bytes.
const MAX_CLIENTS: usize = 1 << 20;
/// The most and the fewest clients that one limit has room for.
const MAX_CLIENTS_PER_LIMIT: usize = 1 << 17;
const MIN_CLIENTS_PER_LIMIT: usize = 1 << 12;

/// The state of all limits. It outlives the configuration: a limit of the same name on a route of the same
/// name keeps its state, even at another rate.
#[derive(Default)]
pub struct Limiters(Mutex<HashMap<(Name, Name), Weak<BucketTable>>>);

/// The limits of one route.
pub struct RouteLimits {
    route: Name,
    limits: Vec<RouteLimit>,
    policy: HeaderValue,
}

struct RouteLimit {
    name: Name,
    rate: RequestRate,
    by: LimitBy,
    shared: bool,
    table: Arc<BucketTable>,
    most: usize,
}

/// The stage at which a limit is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitStage {
    /// Before a token is verified.
    Anyone,
    /// After the client is identified.
    Identified,
}

/// The part of a request that counts against one limit.
#[derive(Debug, Clone)]
pub struct LimitTake {
    index: usize,
    who: BucketOwner,
    /// The decision and the bucket's state.
    pub standing: LimitStanding,
}

/// A shared limit that the store has to check.
#[derive(Debug, Clone, Copy)]
pub struct SharedLimit<'l> {
    /// The route that the limit belongs to.
    pub route: &'l Name,
    /// The limit's name on it.
    pub limit: &'l Name,
    /// The client.
    pub who: BucketOwner,
    /// The rate.
    pub rate: RequestRate,
}

impl Limiters {
    /// The state of a limit: the present one, or a new one.
    fn table(&self, route: &Name, limit: &Name) -> Arc<BucketTable> {
        let mut tables = self.0.lock();
        // Drops the state of limits that no configuration has any more.
        tables.retain(|_, table| table.strong_count() > 0);
        let place = tables.entry((route.clone(), limit.clone())).or_default();
        if let Some(table) = place.upgrade() {
            return table;
        }
        let table = Arc::new(BucketTable::new());
        *place = Arc::downgrade(&table);
        table
    }

    /// The limits of routes, in their order; `None` for a route without any.
    pub fn of(&self, routes: &[RouteConfig]) -> Vec<Option<RouteLimits>> {
        let count: usize = routes.iter().map(|route| route.limits.len()).sum();
        let most = (MAX_CLIENTS / count.max(1)).clamp(MIN_CLIENTS_PER_LIMIT, MAX_CLIENTS_PER_LIMIT);
        let limits = |route: &RouteConfig| (!route.limits.is_empty()).then(|| self.of_route(route, most));
        routes.iter().map(limits).collect()
    }

    fn of_route(&self, route: &RouteConfig, most: usize) -> RouteLimits {
        let limit = |limit: &crate::config::LimitConfig| RouteLimit {
            name: limit.name.clone(),
            rate: RequestRate::new(limit.requests, limit.window, limit.burst),
            by: limit.by.clone(),
            shared: limit.shared,
            table: self.table(&route.name, &limit.name),
            most,
        };
        RouteLimits {
            route: route.name.clone(),
            limits: route.limits.iter().map(limit).collect(),
            policy: fields::policy_value(&route.limits),
        }
    }
}

impl RouteLimits {
    /// `RateLimit-Policy`
    pub fn policy(&self) -> &HeaderValue {
        &self.policy
    }

    /// Returns true if any of them needs the client to be identified.
    pub fn needs_identity(&self) -> bool {
        self.limits.iter().any(|limit| limit.stage() == LimitStage::Identified)
    }

    /// Counts one more request on this node. Adds its counts to `taken`; if a limit refuses, the others take
    /// theirs back. Returns the number of clients that were evicted.
    pub fn take(&self, stage: LimitStage, who: &ClientKey<'_>, now: u64, taken: &mut Vec<LimitTake>) -> u64 {
        let mut driven_out = 0;
        for (index, limit) in self.limits.iter().enumerate().filter(|(_, limit)| limit.stage() == stage) {
            let who = BucketOwner::of(&limit.by, who);
            let standing = limit.table.take(who, limit.rate, now, limit.most, &mut driven_out);
            taken.push(LimitTake { index, who, standing });
        }
        if any_refuses(taken) {
            self.give_back(taken);
        }
        driven_out
    }

    /// The limits that the store has to check, with their indices in `taken`: empty if this node refuses.
    pub fn shared<'l>(&'l self, stage: LimitStage, taken: &[LimitTake]) -> Vec<(usize, SharedLimit<'l>)> {
        if any_refuses(taken) {
            return Vec::new();
        }
        let of_stage = |taken: &LimitTake| {
            let limit = &self.limits[taken.index];
            (limit.shared && limit.stage() == stage).then_some(SharedLimit {
                route: &self.route,
                limit: &limit.name,
                who: taken.who,
                rate: limit.rate,
            })
        };
        taken.iter().enumerate().filter_map(|(place, t)| Some((place, of_stage(t)?))).collect()
    }

    /// Applies the store's answer: for each index, whether its limit allows the request, and the time until
    /// the bucket is empty. If one refuses, the store has counted nothing, and nothing is counted here.
    pub fn told(&self, told: &[(usize, bool, Duration)], now: u64, taken: &mut [LimitTake]) {
        let refused = told.iter().any(|(_, passed, _)| !passed);
        if refused {
            self.give_back(taken);
        }
        for (place, passed, busy) in told {
            let Some(LimitTake { index, who, standing }) = taken.get_mut(*place) else { continue };
            let limit = &self.limits[*index];
            *standing = limit.rate.told(*passed, *busy);
            let nanoseconds = u64::try_from(standing.busy.as_nanos()).unwrap_or(u64::MAX);
            limit.table.learn(*who, now.saturating_add(nanoseconds));
        }
    }

    /// The names of the limits that refuse.
    pub fn refusing<'l>(&'l self, taken: &'l [LimitTake]) -> impl Iterator<Item = &'l Name> {
        taken.iter().filter(|taken| !taken.standing.passed).map(|taken| &self.limits[taken.index].name)
    }

    /// The key of the limit, for the metrics.
    pub fn by(&self, taken: &LimitTake) -> &LimitBy {
        &self.limits[taken.index].by
    }

    /// `RateLimit`: the rest of each checked limit, or only of those that refuse.
    pub fn left(&self, taken: &[LimitTake]) -> HeaderValue {
        let refused = any_refuses(taken);
        let told = taken.iter().filter(|taken| !(refused && taken.standing.passed));
        fields::remaining_value(told.map(|taken| {
            let limit = &self.limits[taken.index];
            (&limit.name, limit.rate, taken.standing)
        }))
    }

    fn give_back(&self, taken: &mut [LimitTake]) {
        for LimitTake { index, who, standing } in taken.iter_mut().filter(|taken| taken.standing.passed) {
            let limit = &self.limits[*index];
            limit.table.give_back(*who, limit.rate);
            *standing = limit.rate.told(true, standing.busy.saturating_sub(limit.rate.interval()));
        }
    }
}

impl RouteLimit {
    fn stage(&self) -> LimitStage {
        match self.by {
            LimitBy::Address | LimitBy::Header(_) | LimitBy::Query(_) => LimitStage::Anyone,
            LimitBy::Tenant | LimitBy::User => LimitStage::Identified,
        }
    }
}

/// Returns true if any limit refuses.
pub(crate) fn any_refuses(taken: &[LimitTake]) -> bool {
    taken.iter().any(|taken| !taken.standing.passed)
}

/// The time that a refused client should wait, in whole seconds, at least one.
pub(crate) fn retry_after_seconds(taken: &[LimitTake]) -> u64 {
    let refusing = taken.iter().filter(|taken| !taken.standing.passed);
    refusing.map(|taken| fields::whole_seconds(taken.standing.wait)).max().unwrap_or(1)
}

/// Nanoseconds of the clock for limits. Never 0.
pub(crate) fn limit_clock(since: Instant, now: Instant) -> u64 {
    let elapsed = now.saturating_duration_since(since).as_nanos();
    u64::try_from(elapsed).unwrap_or(u64::MAX).saturating_add(1)
}

#[cfg(test)]
#[path = "rate_tests.rs"]
mod tests;
