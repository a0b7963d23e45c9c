//! Origins: the servers behind the gateway, and how they are asked.

pub mod client;
pub mod pool;
pub mod upgrade;

use crate::{config, telemetry::metrics::Metrics};
use client::{Answering, Ask, AskError, Got, OnInterim};
use http::Method;
use pingora_core::connectors::http::Connector;
use pool::Pool;
use std::{sync::Arc, time::Duration};

/// How often names are resolved anew.
const RESOLVE: Duration = Duration::from_secs(30);
/// The largest body of a health check's answer that is read.
const CHECK_BODY: u64 = 1 << 20;

/// All origins of a configuration, by their index there.
pub struct Origins {
    pools: Vec<Arc<Pool>>,
    connector: Arc<Connector>,
}

impl Origins {
    /// Origins whose names are not resolved yet.
    pub fn new(origins: &[config::Origin], metrics: &Arc<Metrics>) -> Self {
        let pools = origins.iter().map(|o| Arc::new(Pool::new(o.clone(), metrics.clone()))).collect();
        Self { pools, connector: client::connector() }
    }

    /// The pool of an origin.
    ///
    /// # Panics
    /// Never for an index out of a checked configuration.
    pub fn pool(&self, origin: usize) -> &Arc<Pool> {
        &self.pools[origin]
    }

    /// Asks an origin on the gateway's own account.
    ///
    /// # Errors
    /// See [`client::ask`].
    pub async fn ask(&self, origin: usize, ask: &Ask, max_size: u64) -> Result<Got, AskError> {
        client::ask(&self.connector, self.pool(origin), ask, max_size).await
    }

    /// Asks an origin on the gateway's own account, and returns when the head of the answer is there.
    ///
    /// # Errors
    /// See [`client::begin`].
    pub async fn begin(
        &self,
        origin: usize,
        ask: &Ask,
        on_interim: OnInterim<'_>,
    ) -> Result<Answering, AskError> {
        client::begin(&self.connector, self.pool(origin), ask, on_interim).await
    }

    /// Resolves all names once.
    pub async fn resolve(&self) {
        for pool in &self.pools {
            pool.resolve().await;
        }
    }

    /// Resolves names anew and checks health, for ever.
    pub async fn keep_watch(self: Arc<Self>) {
        let mut watchers = tokio::task::JoinSet::new();
        for pool in &self.pools {
            let pool = pool.clone();
            let resolving = pool.clone();
            watchers.spawn(async move {
                loop {
                    tokio::time::sleep(RESOLVE).await;
                    resolving.resolve().await;
                }
            });
            if let Some(health) = pool.settings.health.clone() {
                let connector = self.connector.clone();
                watchers.spawn(async move {
                    loop {
                        check(&connector, &pool, &health).await;
                        tokio::time::sleep(health.interval).await;
                    }
                });
            }
        }
        while let Some(ended) = watchers.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a watcher of an origin failed");
            }
        }
    }
}

async fn check(connector: &Arc<Connector>, pool: &Arc<Pool>, health: &config::Health) {
    let ask = Ask {
        method: Method::GET,
        target: health.path.clone(),
        host: None,
        headers: vec![],
        body: bytes::Bytes::new(),
    };
    for picked in pool.all() {
        let server = picked.server;
        let asked = client::once(connector, pool, &ask, picked, CHECK_BODY);
        let healthy = match tokio::time::timeout(health.timeout, asked).await {
            Ok(Ok(status)) => (200..400).contains(&status.as_u16()),
            _ => false,
        };
        pool.set_healthy(server, healthy);
    }
}
