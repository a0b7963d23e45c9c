//! The limits of a route: what a request takes from each, and what is given back where one refuses.
//!
//! All of a route's limits have to let a request through. Those that go by the address or by a key are asked before a
//! token is looked at, so that trying tokens is limited too; those that go by the tenant or the user after it.
//!
//! A limit that is shared is asked on this node first. What a node has let through the store has counted as well, so
//! that the store would refuse what this node refuses; a flood never gets there. What the store says is learned: a node
//! that has lost the store goes on from there, by itself.

use super::{
    fields,
    gcra::{Rate, Standing},
    table::Table,
    who::{Partition, Who},
};
use crate::{
    config::{LimitBy, Route},
    name::Name,
};
use http::HeaderValue;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// Clients that are kept in mind, over all limits together. One costs at most some 70 bytes.
const MOST: usize = 1 << 20;
/// The most and the least of them that one limit has room for.
const MOST_OF_ONE: usize = 1 << 17;
const LEAST_OF_ONE: usize = 1 << 12;

/// The state of all limits. Outlives the configuration: a limit of the same name on a route of the same name goes on
/// with what it knows, also at another rate.
#[derive(Default)]
pub struct Limiters(Mutex<HashMap<(Name, Name), Weak<Table>>>);

/// The limits of one route.
pub struct Limits {
    route: Name,
    limits: Vec<Limit>,
    policy: HeaderValue,
}

struct Limit {
    name: Name,
    rate: Rate,
    by: LimitBy,
    shared: bool,
    table: Arc<Table>,
    most: usize,
}

/// When a limit is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before a token is looked at.
    Anyone,
    /// When it is known who asks.
    Identified,
}

/// What a request took from one limit.
#[derive(Debug, Clone)]
pub struct Taken {
    index: usize,
    who: Partition,
    /// What became of it.
    pub standing: Standing,
}

/// What the store is asked of a limit.
#[derive(Debug, Clone, Copy)]
pub struct Shared<'l> {
    /// The route that the limit belongs to.
    pub route: &'l Name,
    /// The limit's name on it.
    pub limit: &'l Name,
    /// Whose bucket.
    pub who: Partition,
    /// How fast it leaks and what it holds.
    pub rate: Rate,
}

impl Limiters {
    /// The state of a limit: the one that there is, or a new one.
    fn table(&self, route: &Name, limit: &Name) -> Arc<Table> {
        let mut tables = self.0.lock();
        // What no configuration names any more is gone.
        tables.retain(|_, table| table.strong_count() > 0);
        let place = tables.entry((route.clone(), limit.clone())).or_default();
        if let Some(table) = place.upgrade() {
            return table;
        }
        let table = Arc::new(Table::new());
        *place = Arc::downgrade(&table);
        table
    }

    /// The limits of routes, in their order; nothing for a route without any.
    pub fn of(&self, routes: &[Route]) -> Vec<Option<Limits>> {
        let count: usize = routes.iter().map(|route| route.limits.len()).sum();
        let most = (MOST / count.max(1)).clamp(LEAST_OF_ONE, MOST_OF_ONE);
        let limits = |route: &Route| (!route.limits.is_empty()).then(|| self.of_route(route, most));
        routes.iter().map(limits).collect()
    }

    fn of_route(&self, route: &Route, most: usize) -> Limits {
        let limit = |limit: &crate::config::Limit| Limit {
            name: limit.name.clone(),
            rate: Rate::new(limit.requests, limit.window, limit.burst),
            by: limit.by.clone(),
            shared: limit.shared,
            table: self.table(&route.name, &limit.name),
            most,
        };
        Limits {
            route: route.name.clone(),
            limits: route.limits.iter().map(limit).collect(),
            policy: fields::policy(&route.limits),
        }
    }
}

impl Limits {
    /// `RateLimit-Policy`
    pub fn policy(&self) -> &HeaderValue {
        &self.policy
    }

    /// Whether any of them asks who it is.
    pub fn asks_who(&self) -> bool {
        self.limits.iter().any(|limit| limit.stage() == Stage::Identified)
    }

    /// One more request, as far as this node knows. What it takes is added to `taken`; where a limit refuses, the
    /// others are given back what was taken from them. Returns how many clients were driven out of their places.
    pub fn take(&self, stage: Stage, who: &Who<'_>, now: u64, taken: &mut Vec<Taken>) -> u64 {
        let mut driven_out = 0;
        for (index, limit) in self.limits.iter().enumerate().filter(|(_, limit)| limit.stage() == stage) {
            let who = Partition::of(&limit.by, who);
            let standing = limit.table.take(who, limit.rate, now, limit.most, &mut driven_out);
            taken.push(Taken { index, who, standing });
        }
        if refuses(taken) {
            self.give_back(taken);
        }
        driven_out
    }

    /// What the store has to be asked, with the places in `taken`: nothing where this node refuses.
    pub fn shared<'l>(&'l self, stage: Stage, taken: &[Taken]) -> Vec<(usize, Shared<'l>)> {
        if refuses(taken) {
            return Vec::new();
        }
        let of_stage = |taken: &Taken| {
            let limit = &self.limits[taken.index];
            (limit.shared && limit.stage() == stage).then_some(Shared {
                route: &self.route,
                limit: &limit.name,
                who: taken.who,
                rate: limit.rate,
            })
        };
        taken.iter().enumerate().filter_map(|(place, t)| Some((place, of_stage(t)?))).collect()
    }

    /// The store has answered: for each place whether its limit lets the request through, and for how long the bucket
    /// is not empty. Where one does not, it has taken nothing, and nothing is taken here.
    pub fn told(&self, told: &[(usize, bool, Duration)], now: u64, taken: &mut [Taken]) {
        let refused = told.iter().any(|(_, passed, _)| !passed);
        if refused {
            self.give_back(taken);
        }
        for (place, passed, busy) in told {
            let Some(Taken { index, who, standing }) = taken.get_mut(*place) else { continue };
            let limit = &self.limits[*index];
            *standing = limit.rate.told(*passed, *busy);
            let nanoseconds = u64::try_from(standing.busy.as_nanos()).unwrap_or(u64::MAX);
            limit.table.learn(*who, now.saturating_add(nanoseconds));
        }
    }

    /// The names of the limits that refuse.
    pub fn refusing<'l>(&'l self, taken: &'l [Taken]) -> impl Iterator<Item = &'l Name> {
        taken.iter().filter(|taken| !taken.standing.passed).map(|taken| &self.limits[taken.index].name)
    }

    /// What goes by which: for the metrics.
    pub fn by(&self, taken: &Taken) -> &LimitBy {
        &self.limits[taken.index].by
    }

    /// `RateLimit`: what is left of each limit that was asked, or of those alone that refuse.
    pub fn left(&self, taken: &[Taken]) -> HeaderValue {
        let refused = refuses(taken);
        let told = taken.iter().filter(|taken| !(refused && taken.standing.passed));
        fields::left(told.map(|taken| {
            let limit = &self.limits[taken.index];
            (&limit.name, limit.rate, taken.standing)
        }))
    }

    fn give_back(&self, taken: &mut [Taken]) {
        for Taken { index, who, standing } in taken.iter_mut().filter(|taken| taken.standing.passed) {
            let limit = &self.limits[*index];
            limit.table.give_back(*who, limit.rate);
            *standing = limit.rate.told(true, standing.busy.saturating_sub(limit.rate.interval()));
        }
    }
}

impl Limit {
    fn stage(&self) -> Stage {
        match self.by {
            LimitBy::Address | LimitBy::Header(_) | LimitBy::Query(_) => Stage::Anyone,
            LimitBy::Tenant | LimitBy::User => Stage::Identified,
        }
    }
}

/// Whether any limit refuses.
pub fn refuses(taken: &[Taken]) -> bool {
    taken.iter().any(|taken| !taken.standing.passed)
}

/// How long a client that is refused should wait, in whole seconds, at least one.
pub fn retry_after(taken: &[Taken]) -> u64 {
    let refusing = taken.iter().filter(|taken| !taken.standing.passed);
    refusing.map(|taken| fields::seconds(taken.standing.wait)).max().unwrap_or(1)
}

/// The nanoseconds of the clock that limits go by. Never 0.
pub fn nanoseconds(since: Instant, now: Instant) -> u64 {
    let elapsed = now.saturating_duration_since(since).as_nanos();
    u64::try_from(elapsed).unwrap_or(u64::MAX).saturating_add(1)
}

#[cfg(test)]
#[path = "rate_tests.rs"]
mod tests;
