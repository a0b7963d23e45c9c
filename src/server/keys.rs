//! The key sets of `[jwt]`: loaded before the first request, kept up to date for as long as somebody verifies by them.

use super::watched;
use crate::{
    config::{JwtKeys, Origin, OriginServer},
    identity::{IdentityError, Verifier, MAX_JWKS},
    origin::{
        client::{self, Ask},
        connector,
        pool::Pool,
    },
    telemetry::metrics::Metrics,
};
use pingora_core::connectors::http::Connector;
use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

/// How often a JWKS file is looked at.
const LOOK_AT_FILE: Duration = Duration::from_secs(5);
/// How soon a JWKS that could not be fetched is tried again.
const FETCH_AGAIN: Duration = Duration::from_secs(5);

/// Loads a key set before the first request, and keeps it up to date. One that can't be fetched at first is tried
/// on: until then tokens are refused, everything else works.
pub(super) async fn keep(
    keys: &JwtKeys,
    verifier: &Arc<Verifier>,
    metrics: Arc<Metrics>,
) -> Result<(), IdentityError> {
    match keys {
        JwtKeys::Secrets(_) => {}
        JwtKeys::JwksFile(path) => {
            verifier.load_jwks_file(path)?;
            watched("jwks file", reload(path.clone(), Arc::downgrade(verifier)));
        }
        JwtKeys::JwksUrl { url, refresh } => {
            let Some((origin, target)) = jwks_origin(url) else { return Ok(()) };
            let pool = Arc::new(Pool::new(origin, metrics, None));
            pool.resolve().await;
            let fetcher = Fetcher { connector: connector::connector(), pool, target };
            let loaded = fetcher.fetch(verifier).await;
            watched("jwks url", fetcher.keep(*refresh, loaded, Arc::downgrade(verifier)));
        }
    }
    Ok(())
}

async fn reload(path: PathBuf, verifier: Weak<Verifier>) {
    loop {
        tokio::time::sleep(LOOK_AT_FILE).await;
        let Some(verifier) = verifier.upgrade() else { return };
        let path = path.clone();
        match tokio::task::spawn_blocking(move || verifier.load_jwks_file(&path)).await {
            Ok(Err(error)) => tracing::warn!(%error, "the key set is not usable; the last good one is kept"),
            Ok(Ok(_)) => {}
            Err(error) => tracing::error!(%error, "reading the key set failed"),
        }
    }
}

struct Fetcher {
    connector: Arc<Connector>,
    pool: Arc<Pool>,
    target: String,
}

impl Fetcher {
    async fn keep(self, refresh: Duration, mut loaded: bool, verifier: Weak<Verifier>) {
        let mut pause = if loaded { refresh } else { FETCH_AGAIN };
        loop {
            tokio::time::sleep(pause).await;
            let Some(verifier) = verifier.upgrade() else { return };
            self.pool.resolve().await;
            loaded |= self.fetch(&verifier).await;
            pause = if loaded { refresh } else { FETCH_AGAIN };
        }
    }

    async fn fetch(&self, verifier: &Verifier) -> bool {
        let ask = Ask::get(self.target.clone());
        let got = match client::ask(&self.connector, &self.pool, &ask, MAX_JWKS as u64).await {
            Ok(got) if got.status.is_success() => got,
            Ok(got) => {
                tracing::warn!(status = got.status.as_u16(), "the key set was not fetched");
                return false;
            }
            Err(error) => {
                tracing::warn!(%error, "the key set was not fetched");
                return false;
            }
        };
        match std::str::from_utf8(&got.body).map(|text| verifier.replace_jwks(text)) {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the key set is not usable; the last good one is kept");
                false
            }
            Err(_) => false,
        }
    }
}

/// A key set's URL as an origin of its own, and what to ask it for.
fn jwks_origin(url: &str) -> Option<(Origin, String)> {
    let uri: http::Uri = url.parse().ok()?;
    let tls = uri.scheme_str() == Some("https");
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let servers = vec![OriginServer::at(tls, host, port)];
    let read_timeout = Duration::from_secs(5);
    let origin = Origin { read_timeout, ..Origin::with_defaults("jwks".parse().ok()?, servers) };
    Some((origin, uri.path_and_query().map_or("/", |p| p.as_str()).to_owned()))
}
