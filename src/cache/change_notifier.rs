//! Wakes those who wait for a change of a version, or for a purge.

use super::coherence::change_listener::ChangeListener;
use crate::name::{Namespace, Tenant};
use ahash::RandomState;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};
use tokio::sync::Notify;

/// The number of entries of the map at the first sweep; each later one is when the number has doubled.
const FIRST_SWEEP: usize = 64;

type WaitedVersions = HashMap<(Namespace, Tenant), Weak<Notify>, RandomState>;

/// The changes that somebody waits for.
pub(crate) struct ChangeNotifier {
    versions: Mutex<(WaitedVersions, usize)>,
    purges: Arc<Notify>,
}

impl ChangeNotifier {
    pub(super) fn new() -> Self {
        Self { versions: Mutex::new((HashMap::default(), FIRST_SWEEP)), purges: Arc::default() }
    }

    /// Notifies all who wait on it when the version of this namespace and tenant changes.
    pub(crate) fn of_version(&self, namespace: &Namespace, tenant: &Tenant) -> Arc<Notify> {
        let (versions, sweep_at) = &mut *self.versions.lock();
        let key = (namespace.clone(), tenant.clone());
        if let Some(known) = versions.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        if versions.len() >= *sweep_at {
            versions.retain(|_, waited| waited.strong_count() > 0);
            *sweep_at = (versions.len() * 2).max(FIRST_SWEEP);
        }
        let made = Arc::new(Notify::new());
        versions.insert(key, Arc::downgrade(&made));
        made
    }

    /// Notifies all who wait on it when anything is purged.
    pub(crate) fn of_purges(&self) -> Arc<Notify> {
        self.purges.clone()
    }
}

impl ChangeListener for ChangeNotifier {
    fn version_changed(&self, namespace: &Namespace, tenant: &Tenant) {
        let versions = self.versions.lock();
        if versions.0.is_empty() {
            return;
        }
        if let Some(waited) = versions.0.get(&(namespace.clone(), tenant.clone())).and_then(Weak::upgrade) {
            waited.notify_waiters();
        }
    }

    fn purged(&self) {
        self.purges.notify_waiters();
    }

    fn all_changed(&self) {
        let versions = self.versions.lock();
        versions.0.values().filter_map(Weak::upgrade).for_each(|waited| waited.notify_waiters());
        self.purges.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn those_who_wait_for_a_version_are_told_of_it_and_of_no_other() {
        let changes = ChangeNotifier::new();
        let (kpi, acme, other) = ("kpi".parse().unwrap(), "acme".parse().unwrap(), "other".parse().unwrap());
        let (of_acme, of_other) = (changes.of_version(&kpi, &acme), changes.of_version(&kpi, &other));
        let (first, second) = (of_acme.clone().notified_owned(), of_other.notified_owned());
        let purged = changes.of_purges().notified_owned();
        changes.version_changed(&kpi, &acme);
        assert!(first.now_or_never().is_some());
        assert!(second.now_or_never().is_none());
        let third = of_acme.notified_owned();
        changes.all_changed();
        assert!(third.now_or_never().is_some());
        assert!(purged.now_or_never().is_some());
    }

    #[test]
    fn what_nobody_waits_for_is_forgotten() {
        let changes = ChangeNotifier::new();
        let kpi: Namespace = "kpi".parse().unwrap();
        for tenant in 0..10 * FIRST_SWEEP {
            drop(changes.of_version(&kpi, &format!("t{tenant}").parse().unwrap()));
        }
        assert!(changes.versions.lock().0.len() <= 2 * FIRST_SWEEP);
    }
}
