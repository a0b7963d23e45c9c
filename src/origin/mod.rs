//! Origins: the servers behind the gateway, and the clients for them.

pub(crate) mod client;
mod h1;
pub(crate) mod health;
pub(crate) mod retry;
pub(crate) mod servers;
pub(crate) mod sticky;
pub(crate) mod upgrade;

#[cfg(any(test, fuzzing))]
pub use h1::agreement;

use crate::{
    config,
    telemetry::{labels::OriginOutcome, metrics::Metrics},
};
use client::{InterimSink, OriginError, OriginRequest, OriginResponse, WholeResponse};
use health::{CheckFailure, CheckFailureKind};
use servers::ServerGroup;

use pingora_core::connectors::http::Connector;

use std::{
    future::Future,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// The interval at which names are resolved again.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);
/// The same while a name has no address.
const RESOLVE_RETRY: Duration = Duration::from_secs(3);
/// The interval at which idle connections are checked.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// The most bytes of a health check's answer that are read.
const CHECK_BODY: u64 = 1 << 20;
/// The longest interval of health checks while no server is healthy.
const DOWN: Duration = Duration::from_secs(1);

/// All origins of a configuration, by their index there.
pub struct OriginTable {
    pools: Vec<Arc<ServerGroup>>,
    /// The pools of `pools` without background tasks so far.
    new: Vec<Arc<ServerGroup>>,
    connector: Arc<Connector>,
}

impl OriginTable {
    /// The origins, with names that are not resolved yet. An origin that `before` has with the same settings
    /// is carried over. One with other settings keeps the state of the origin and of the servers that stay.
    pub fn new(origins: &[config::OriginConfig], metrics: &Arc<Metrics>, before: Option<&Self>) -> Self {
        let mut new = Vec::new();
        let mut pool = |settings: &config::OriginConfig| {
            let same = before.and_then(|b| b.pools.iter().find(|pool| pool.settings == *settings));
            same.cloned().unwrap_or_else(|| {
                let last = before.and_then(|b| b.pools.iter().find(|p| p.settings.name == settings.name));
                let pool =
                    Arc::new(ServerGroup::new(settings.clone(), metrics.clone(), last.map(|last| &**last)));
                new.push(pool.clone());
                pool
            })
        };
        let pools = origins.iter().map(&mut pool).collect();
        let connector =
            before.map_or_else(client::pingora::make_connector, |before| before.connector.clone());
        Self { pools, new, connector }
    }

    /// The pool of an origin.
    ///
    /// # Panics
    /// Never for an index of a checked configuration.
    pub fn pool(&self, origin: usize) -> &Arc<ServerGroup> {
        &self.pools[origin]
    }

    /// Sends a request of the gateway's own to an origin.
    ///
    /// # Errors
    /// See [`client::send_request`].
    pub async fn ask(
        &self,
        origin: usize,
        ask: &OriginRequest,
        max_size: u64,
    ) -> Result<WholeResponse, OriginError> {
        client::send_request(&self.connector, self.pool(origin), ask, max_size).await
    }

    /// Sends a request of the gateway's own to an origin, and returns as soon as the head of the answer is
    /// read, which must be before `by`.
    ///
    /// # Errors
    /// See [`client::begin_request`].
    pub async fn begin(
        &self,
        origin: usize,
        ask: &OriginRequest,
        by: Option<Instant>,
        on_interim: InterimSink<'_>,
    ) -> Result<OriginResponse, OriginError> {
        client::begin_request(&self.connector, self.pool(origin), ask, by, on_interim).await
    }

    /// The health checks that fail and are not trusted, for `/readyz`.
    pub fn doubts(&self) -> Vec<String> {
        let told = |origin: &str, server: &config::ServerAddress| {
            format!("checks of origin {origin}, server {server}, have never succeeded, and are not believed")
        };
        let of = |pool: &Arc<ServerGroup>| {
            let origin = pool.settings.name.as_str();
            pool.doubted().map(|server| told(origin, server)).collect::<Vec<_>>()
        };
        self.pools.iter().flat_map(of).collect()
    }

    /// Resolves the names of the new pools.
    pub async fn resolve(&self) {
        for pool in &self.new {
            pool.resolve().await;
        }
    }

    /// Resolves names and checks health in the background, for as long as the new pools are in use and not
    /// replaced.
    pub fn keep_watch(&self) -> impl Future<Output = ()> + Send + 'static {
        let (pools, connector) = (self.new.clone(), self.connector.clone());
        async move {
            let mut watchers = tokio::task::JoinSet::new();
            for pool in pools {
                if let Some(health) = pool.settings.health.clone() {
                    watchers.spawn(keep_checking(Arc::downgrade(&pool), health, connector.clone()));
                }
                watchers.spawn(keep_resolving(Arc::downgrade(&pool)));
                watchers.spawn(keep_sweeping(Arc::downgrade(&pool)));
            }
            while let Some(ended) = watchers.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "a background task of an origin failed");
                }
            }
        }
    }
}

async fn keep_resolving(pool: Weak<ServerGroup>) {
    loop {
        let Some(used) = pool.upgrade().filter(|pool| pool.is_newest()) else { return };
        let pause = if used.has_unresolved() { RESOLVE_RETRY } else { RESOLVE_INTERVAL };
        drop(used);
        tokio::time::sleep(pause).await;
        let Some(pool) = pool.upgrade().filter(|pool| pool.is_newest()) else { return };
        pool.resolve().await;
    }
}

/// Closes connections that have been idle for too long, or that a server has closed.
async fn keep_sweeping(pool: Weak<ServerGroup>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(pool) = pool.upgrade().filter(|pool| pool.is_newest()) else { return };
        pool.sweep(Instant::now());
    }
}

async fn keep_checking(pool: Weak<ServerGroup>, health: config::HealthConfig, connector: Arc<Connector>) {
    loop {
        let Some(used) = pool.upgrade().filter(|pool| pool.is_newest()) else { return };
        check_servers(&connector, &used, &health).await;
        // While no server is healthy, the first one to recover should be noticed soon.
        let pause = if used.is_down() { health.interval.min(DOWN) } else { health.interval };
        drop(used);
        tokio::time::sleep(pause).await;
    }
}

/// Checks all servers at the same time, so that one that hangs delays no other.
async fn check_servers(connector: &Arc<Connector>, pool: &Arc<ServerGroup>, health: &config::HealthConfig) {
    let ask = OriginRequest::get(health.path.clone());
    let ask = Arc::new(OriginRequest { host: health.host.clone(), headers: health.headers.clone(), ..ask });
    let mut checks = tokio::task::JoinSet::new();
    for at in pool.all(Instant::now()) {
        let (connector, pool, ask, timeout) = (connector.clone(), pool.clone(), ask.clone(), health.timeout);
        checks.spawn(async move {
            let asked = client::send_once(&connector, &pool, &ask, at, CHECK_BODY);
            let found = match tokio::time::timeout(timeout, asked).await {
                Ok(Ok(status)) if (200..400).contains(&status.as_u16()) => Ok(()),
                Ok(Ok(status)) => {
                    let kind = if status.is_client_error() {
                        CheckFailureKind::Refused
                    } else {
                        CheckFailureKind::Unwell
                    };
                    Err(CheckFailure { why: format!("status {}", status.as_u16()), kind })
                }
                Ok(Err(error)) => {
                    let unreachable =
                        matches!(error, OriginError::Failed { outcome: OriginOutcome::ConnectFailed, .. });
                    let kind =
                        if unreachable { CheckFailureKind::Unreachable } else { CheckFailureKind::Unwell };
                    Err(CheckFailure { why: error.to_string(), kind })
                }
                Err(_) => Err(CheckFailure {
                    why: format!("no answer within {timeout:?}"),
                    kind: CheckFailureKind::Unwell,
                }),
            };
            if pool.is_newest() {
                pool.checked(at.server, found);
            }
        });
    }
    while let Some(checked) = checks.join_next().await {
        if let Err(error) = checked {
            tracing::error!(%error, "a check of an origin failed");
        }
    }
}
