//! How many streams a route, a tenant, a user or an address may have at a time.

use ahash::RandomState;
use parking_lot::Mutex;
use std::{collections::HashMap, fmt, sync::Arc};

/// The owner that a stream counts for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum WatcherOwner {
    /// A route, by its name.
    Route(Box<str>),
    /// A tenant on a route.
    Tenant(Box<str>, Box<str>),
    /// A user of a tenant on a route.
    User(Box<str>, Box<str>, Box<str>),
    /// A client's address on a route.
    Address(Box<str>, std::net::IpAddr),
}

/// The number of streams of each owner that has a limit.
#[derive(Default)]
pub(crate) struct WatcherQuota(Mutex<HashMap<WatcherOwner, u32, RandomState>>);

impl WatcherQuota {
    /// Counts a stream for all of its owners, or for none if one of them has as many as it may have.
    pub(crate) fn take(self: &Arc<Self>, owners: Vec<(WatcherOwner, u32)>) -> Option<WatcherPermit> {
        if owners.is_empty() {
            return Some(WatcherPermit { quota: self.clone(), owners: Box::default() });
        }
        let mut counts = self.0.lock();
        if owners.iter().any(|(owner, most)| counts.get(owner).copied().unwrap_or(0) >= *most) {
            return None;
        }
        let owners: Box<[_]> = owners.into_iter().map(|(owner, _)| owner).collect();
        for owner in &owners {
            *counts.entry(owner.clone()).or_default() += 1;
        }
        Some(WatcherPermit { quota: self.clone(), owners })
    }

    /// The number of owners that have a stream.
    pub(crate) fn owners(&self) -> usize {
        self.0.lock().len()
    }
}

impl fmt::Debug for WatcherQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatcherQuota").field("owners", &self.owners()).finish()
    }
}

/// A stream's place; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct WatcherPermit {
    quota: Arc<WatcherQuota>,
    owners: Box<[WatcherOwner]>,
}

impl Drop for WatcherPermit {
    fn drop(&mut self) {
        if self.owners.is_empty() {
            return;
        }
        let mut counts = self.quota.0.lock();
        for owner in &self.owners {
            match counts.get_mut(owner) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(counts.remove(owner)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_counts_for_all_of_its_owners_until_it_ends() {
        let quota = Arc::new(WatcherQuota::default());
        let route = || (WatcherOwner::Route("kpi".into()), 3);
        let tenant = |name: &str| (WatcherOwner::Tenant("kpi".into(), name.into()), 2);
        let take = |name: &str| quota.take(vec![route(), tenant(name)]);
        let (first, _second) = (take("acme").unwrap(), take("acme").unwrap());
        assert!(take("acme").is_none(), "the tenant has two");
        let _third = take("other").unwrap();
        assert!(take("other").is_none(), "the route has three");
        drop(first);
        let _fourth = take("acme").unwrap();
        assert!(quota.take(Vec::new()).is_some());
        drop((_second, _third, _fourth));
        assert_eq!(quota.owners(), 0);
    }
}
