//! The state of this node as the pages show it, and what they can do to it.

use super::hosts::KnownHosts;
use crate::{
    cache::coherence::purge::PurgeOrder,
    telemetry::{Metrics, StoreError},
};

use serde::Serialize;
use std::{fmt, future::Future, pin::Pin, sync::Arc};

/// A purge under way; its result is the number of entries of this node that were purged.
pub(crate) type PurgeFuture = Pin<Box<dyn Future<Output = Result<u64, PurgeFailure>> + Send>>;

/// The reason for which a purge failed, entirely or on other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PurgeFailure {
    /// No entry can match it, and nothing was purged.
    Nothing(String),
    /// The store did not accept it; this node has purged.
    Store(StoreError),
}

/// The readiness of this node for requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Readiness {
    /// True if it is ready.
    pub ready: bool,
    /// The reasons for which it isn't; or, if it is, the parts that don't work.
    pub reasons: Vec<String>,
}

/// The state of the admin pages.
#[derive(Clone)]
pub(crate) struct AdminState {
    /// The metrics for `/metrics`.
    pub metrics: Arc<Metrics>,
    /// The host names that are accepted.
    pub hosts: Arc<KnownHosts>,
    /// Called for each `/readyz`; must return at once.
    pub readiness: Arc<dyn Fn() -> Readiness + Send + Sync>,
    /// Purges entries on all nodes.
    pub purge: Arc<dyn Fn(Vec<PurgeOrder>) -> PurgeFuture + Send + Sync>,
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState").finish_non_exhaustive()
    }
}
