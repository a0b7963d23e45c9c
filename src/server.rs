//! Assembly, background work, shutdown: the only file that knows everyone.

use crate::{
    admin,
    cache::Cache,
    config::{Config, JwtKeys, Origin, OriginServer},
    events::{signature::SecretError, Events},
    gateway::{Gateway, Parts},
    identity::{IdentityError, Verifier, MAX_JWKS},
    listen::{self, Door, Keepalive},
    origin::{
        client::{self, Ask},
        pool::Pool,
        Origins,
    },
    telemetry::{access::AccessLog, metrics::Metrics},
};
use http::Method;
use pingora_core::{connectors::http::Connector, server::configuration::ServerConf};
use std::{future::Future, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch};

/// How long the start waits for the store before it goes on without.
const WAIT_FOR_STORE: Duration = Duration::from_secs(1);
/// How often a JWKS file is looked at.
const LOOK_AT_FILE: Duration = Duration::from_secs(5);
/// How soon a JWKS that could not be fetched is tried again.
const FETCH_AGAIN: Duration = Duration::from_secs(5);
/// Idle connections that Pingora keeps to origins.
const UPSTREAM_POOL: usize = 512;

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address can't be bound.
    #[error("can't listen on {address}: {error}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// The keys of `[jwt]` can't be used.
    #[error("jwt: {0}")]
    Keys(#[from] IdentityError),
    /// A secret of an event can't be used.
    #[error("event: {0}")]
    Secret(#[from] SecretError),
    /// A metric can't be registered.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// A gateway that runs.
pub struct Running {
    /// Where it listens, in the configuration's order, with the ports that were chosen.
    pub addresses: Vec<SocketAddr>,
    /// Where the admin listener is.
    pub admin: Option<SocketAddr>,
    /// The cache.
    pub cache: Arc<Cache>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    door: Arc<Door>,
    closing: watch::Sender<bool>,
    drain: Duration,
}

/// Starts the gateway on the current runtime: it answers when this returns.
///
/// # Errors
/// If an address can't be bound or a key can't be used; nothing runs then.
pub async fn start(config: Config) -> Result<Running, StartError> {
    let listeners = config.listeners.iter().map(|l| bind(l.address)).collect::<Result<Vec<_>, _>>()?;
    let admin_listener = config.admin.map(bind).transpose()?;
    let addresses = listeners.iter().map(local).collect::<Result<Vec<_>, _>>()?;
    let admin = admin_listener.as_ref().map(local).transpose()?;

    let metrics = Arc::new(Metrics::new()?);
    let cache = Cache::new(&config.store, config.encoding.clone(), metrics.clone());
    let origins = Arc::new(Origins::new(&config.origins, &metrics));
    let verifier = config.jwt.as_ref().map(Verifier::new).transpose()?.map(Arc::new);
    let events = Arc::new(Events::new(&config.events, cache.clone())?);
    let access = AccessLog::start(config.log, metrics.clone());

    origins.resolve().await;
    watched("origins", origins.clone().keep_watch());
    watched("store", cache.clone().keep_linked(config.store.redis.clone()));
    if let (Some(jwt), Some(verifier)) = (&config.jwt, &verifier) {
        keep_keys(&jwt.keys, verifier.clone(), metrics.clone()).await?;
    }
    wait_for_store(&cache).await;

    let (closing, is_closing) = watch::channel(false);
    let keepalive = Keepalive {
        idle: config.server.keepalive,
        requests: Some(config.server.keepalive_requests).filter(|n| *n > 0),
    };
    let drain = config.server.drain;
    let config = Arc::new(config);
    let parts =
        Parts { config, cache: cache.clone(), origins, verifier, events, metrics: metrics.clone(), access };
    let conf = ServerConf { upstream_keepalive_pool_size: UPSTREAM_POOL, ..ServerConf::default() };
    let proxy = pingora_proxy::http_proxy(&Arc::new(conf), Gateway::new(parts));
    let door = Door::new(proxy, metrics.clone(), is_closing.clone(), keepalive);
    for listener in listeners {
        watched("listener", door.clone().accept(listener));
    }
    if let Some(listener) = admin_listener {
        watched("admin", serve_admin(listener, metrics.clone(), cache.clone(), is_closing));
    }
    Ok(Running { addresses, admin, cache, metrics, door, closing, drain })
}

impl Running {
    /// Ends: accepts nothing more, lets what is under way finish, as long as the configuration allows. Returns as
    /// soon as nothing is left to do, and whether everything could finish.
    pub async fn stop(self) -> bool {
        self.closing.send_replace(true);
        let finished = self.door.drain(self.drain).await;
        self.cache.drain(Duration::from_secs(1)).await;
        finished
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    listen::bind(address).map_err(|error| StartError::Bind { address, error })
}

fn local(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    listener.local_addr().map_err(|error| StartError::Bind { address: unknown, error })
}

/// A task whose end by a panic is seen.
fn watched(name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    let task = tokio::spawn(work);
    // Ends with the task it watches, and can't panic itself.
    drop(tokio::spawn(async move {
        if let Err(error) = task.await {
            tracing::error!(%error, name, "a background task failed");
        }
    }));
}

/// A node that has just started should not answer from assumptions where a moment's wait gives it the truth.
async fn wait_for_store(cache: &Cache) {
    let linked = async {
        while !cache.store_is_up() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(WAIT_FOR_STORE, linked).await.is_err() {
        tracing::warn!("the store is not there: starting without it");
    }
}

/// Answers for as long as the process lives: who asks while it drains is told so.
async fn serve_admin(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    cache: Arc<Cache>,
    draining: watch::Receiver<bool>,
) {
    let purging = cache.clone();
    let purge = move |wanted| -> admin::Purging {
        let cache = purging.clone();
        Box::pin(async move { cache.purge(wanted).await })
    };
    let readiness = move || {
        let is_draining = *draining.borrow();
        // A store that is away makes no node unready: it answers all the same.
        let mut reasons = Vec::new();
        if is_draining {
            reasons.push("draining".to_owned());
        }
        if !cache.store_is_up() {
            reasons.push("the store is away".to_owned());
        }
        admin::Readiness { ready: !is_draining, reasons }
    };
    let router =
        admin::router(admin::AdminState { metrics, readiness: Arc::new(readiness), purge: Arc::new(purge) });
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the admin listener stopped");
    }
}

/// Loads a key set before the first request, and keeps it up to date. One that can't be fetched at first is tried
/// on: until then tokens are refused, everything else works.
async fn keep_keys(keys: &JwtKeys, verifier: Arc<Verifier>, metrics: Arc<Metrics>) -> Result<(), StartError> {
    match keys {
        JwtKeys::Secrets(_) => {}
        JwtKeys::JwksFile(path) => {
            verifier.load_jwks_file(path)?;
            watched("jwks file", reload_keys(path.clone(), verifier));
        }
        JwtKeys::JwksUrl { url, refresh } => {
            let Some((origin, target)) = jwks_origin(url) else { return Ok(()) };
            let pool = Arc::new(Pool::new(origin, metrics));
            pool.resolve().await;
            let fetcher = Fetcher { connector: client::connector(), pool, target, verifier };
            let loaded = fetcher.fetch().await;
            watched("jwks url", fetcher.keep(*refresh, loaded));
        }
    }
    Ok(())
}

async fn reload_keys(path: PathBuf, verifier: Arc<Verifier>) {
    loop {
        tokio::time::sleep(LOOK_AT_FILE).await;
        let (path, verifier) = (path.clone(), verifier.clone());
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
    verifier: Arc<Verifier>,
}

impl Fetcher {
    async fn keep(self, refresh: Duration, mut loaded: bool) {
        let mut pause = if loaded { refresh } else { FETCH_AGAIN };
        loop {
            tokio::time::sleep(pause).await;
            self.pool.resolve().await;
            loaded |= self.fetch().await;
            pause = if loaded { refresh } else { FETCH_AGAIN };
        }
    }

    async fn fetch(&self) -> bool {
        let ask = Ask {
            method: Method::GET,
            target: self.target.clone(),
            host: None,
            headers: vec![],
            body: bytes::Bytes::new(),
        };
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
        match std::str::from_utf8(&got.body).map(|text| self.verifier.replace_jwks(text)) {
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
    let origin = Origin {
        name: "jwks".parse().ok()?,
        servers: vec![OriginServer { tls, host, port }],
        connect_timeout: Duration::from_secs(2),
        read_timeout: Duration::from_secs(5),
        retries: 2,
        health: None,
    };
    Some((origin, uri.path_and_query().map_or("/", |p| p.as_str()).to_owned()))
}
