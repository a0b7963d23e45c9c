//! The wait for a version that a client knows of, and this node possibly not yet.

use crate::{
    cache::{
        coherence::version::{MinVersion, Version, VersionBasis, VersionSlot},
        entry::{CacheEntry, Validity},
        fill::coalescing::FlightJoin,
        Cache, MemoryLookup,
    },
    name::{Namespace, Tenant},
};

use std::{sync::Arc, time::Duration};

/// The interval at which a version that is waited for is looked at again, if no change is reported: where
/// the store reports none, or a link is made anew.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

impl MemoryLookup {
    /// The same, if what was found is no earlier than this minimum.
    pub fn at_least(self, minimum: &MinVersion) -> Self {
        match &self {
            Self::Hit(entry) | Self::Stale(entry) if !is_at_least(entry, minimum) => Self::Nothing,
            _ => self,
        }
    }
}

/// Returns true if an entry is certainly no earlier than this minimum.
pub(crate) fn is_at_least(entry: &CacheEntry, minimum: &MinVersion) -> bool {
    match &entry.standing {
        Validity::Version(version, _) => minimum.admits(version),
        Validity::Log(..) => minimum.is_empty(),
    }
}

impl Cache {
    /// Waits until this node knows a version of a namespace and tenant that is no earlier than the minimum.
    /// The caller bounds the wait.
    pub async fn reach_version(
        self: &Arc<Self>,
        namespace: &Namespace,
        tenant: &Tenant,
        minimum: &MinVersion,
    ) {
        if !minimum.is_empty() {
            let slot = self.versions.slot(namespace, tenant);
            self.await_version(&slot, minimum).await;
        }
    }

    /// The version of a namespace and tenant that the store has now. `None`: it can't be asked.
    ///
    /// The read begins after the call: no change that was recorded before is missing.
    pub async fn version_now(self: &Arc<Self>, namespace: &Namespace, tenant: &Tenant) -> Option<Version> {
        let slot = self.versions.slot(namespace, tenant);
        let read = self.read_anew(&slot).await;
        (!read.is_assumed).then_some(read.version)
    }

    /// The version for a request that accepts no earlier one than the minimum.
    pub(super) async fn version_at_least(
        self: &Arc<Self>,
        slot: &Arc<VersionSlot>,
        minimum: &MinVersion,
    ) -> VersionBasis {
        match minimum.is_empty() {
            true => self.version(slot).await,
            // In a future of its own: few requests have a minimum.
            false => Box::pin(self.await_version(slot, minimum)).await,
        }
    }

    /// Waits until the version of a slot is no earlier than the minimum.
    ///
    /// Whoever names a version has learned of it when the store had it. So what the store says after that is
    /// no earlier, even if the values have no order; unless it has lost it.
    async fn await_version(self: &Arc<Self>, slot: &Arc<VersionSlot>, minimum: &MinVersion) -> VersionBasis {
        let changes = self.changes.of_version(slot.namespace(), slot.tenant());
        let mut is_read_since = false;
        loop {
            // Before the look: a change during it is one more look.
            let changed = changes.notified();
            let mut basis = self.version(slot).await;
            if !is_read_since && !minimum.admits(&basis.version) {
                // The report of the change may be on its way.
                basis = self.read_anew(slot).await;
                is_read_since = !basis.is_assumed;
            }
            match minimum.compare(&basis.version) {
                Some(true) => return basis,
                None if is_read_since && !basis.is_assumed => return basis,
                None | Some(false) => {}
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// Reads a version again, although the known one may be trusted. Requests share a read that begins after
    /// they have come.
    async fn read_anew(self: &Arc<Self>, slot: &Arc<VersionSlot>) -> VersionBasis {
        let Some(redis) = &self.redis else { return VersionBasis::read(slot.assumed()) };
        let name = format!("{}:{}:anew", slot.namespace(), slot.tenant());
        let mut is_first = true;
        loop {
            let (reading, is_late_enough) = match self.reads.join(&name, || ()) {
                FlightJoin::Follow(reading) => (reading, !is_first),
                FlightJoin::Lead(lead, reading) => {
                    let (redis, slot) = (redis.clone(), slot.clone());
                    self.tasks.spawn(async move { lead.land(redis.read_anew(&slot).await) });
                    (reading, true)
                }
            };
            let read = reading.outcome().await;
            if is_late_enough {
                return read.unwrap_or_else(|_| VersionBasis::assumed(slot.assumed()));
            }
            // It may have begun before this request.
            is_first = false;
        }
    }
}
