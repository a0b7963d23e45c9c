//! Assembly of the gateway, background tasks, and shutdown: the only module that uses all others.

mod background;
mod keys;
pub(crate) mod manager;
mod reload;

pub(crate) use reload::SeenFiles;

use crate::{
    address::TrustedProxies,
    admin,
    cache::{coherence::purge::PurgeOrder, Cache},
    certificate::{self, CertificateError},
    clock::{self, now_ms},
    config::{Config, JwtConfig, JwtKeys},
    events::{
        signature::{SecretError, WebhookKey},
        EventEndpoints,
    },
    gateway::{
        build_runtime_config, FastResponder, Gateway, GatewayParts, ListenerInfo, RuntimeConfig, RuntimeParts,
    },
    identity::{IdentityError, Verifier},
    listen::{self, descriptors, ConnectionServer, ConnectionSettings, ListenerSet, ProxyTrust},
    origin::OriginTable,
    telemetry::{access::AccessLog, metrics::Metrics},
};
use arc_swap::ArcSwap;
use background::spawn_watched;

use pingora_core::server::configuration::ServerConf;
use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch};

/// The time for which the start waits for Redis before it continues without it.
const STORE_TIMEOUT: Duration = Duration::from_secs(1);
/// The most idle connections to origins that Pingora keeps.
const UPSTREAM_POOL_SIZE: usize = 512;

/// The reason for which the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// An address can't be bound.
    #[error("can't listen on {address} ({key}): {error}{}", bind_advice(error))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The configuration key that names it.
        key: String,
        /// The error of the system.
        #[source]
        error: io::Error,
    },
    /// The keys of `[jwt]` can't be used.
    #[error("jwt: {0}")]
    Keys(#[from] IdentityError),
    /// A secret of an event can't be used.
    #[error("event: {0}")]
    Secret(#[from] SecretError),
    /// A certificate can't be used.
    #[error("listener: {0}")]
    Certificate(#[from] CertificateError),
    /// A metric can't be registered.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Advice for an address that can't be bound.
fn bind_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; choose another port there, or end the process that has this one",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    }
}

/// A running gateway.
pub(crate) struct RunningGateway {
    /// The addresses of the listeners, in the configuration's order, with the actual ports.
    pub addresses: Vec<SocketAddr>,
    /// The address of the admin listener.
    pub admin: Option<SocketAddr>,
    /// The cache.
    pub cache: Arc<Cache>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    site: Arc<ArcSwap<RuntimeConfig>>,
    door: Arc<ConnectionServer>,
    /// The limit of open files.
    files: u64,
    closing: watch::Sender<bool>,
}

/// Starts the gateway on the current runtime: it accepts requests when this returns.
///
/// # Errors
/// If an address can't be bound, or a key or a certificate can't be used; nothing is started then.
pub(crate) async fn start_gateway(config: Config) -> Result<RunningGateway, StartError> {
    certificate::install_provider();
    let admin = config.admin.as_ref();
    let all: Vec<_> = listen_addresses(&config).into_iter().chain(admin.map(|admin| admin.address)).collect();
    let keyed = |(number, at): (usize, &SocketAddr)| bind_listener(*at, listener_key(number), &all);
    let listeners = listen_addresses(&config).iter().enumerate().map(keyed).collect::<Result<Vec<_>, _>>()?;
    let admin_listener =
        admin.map(|admin| bind_listener(admin.address, ADMIN_KEY.to_owned(), &all)).transpose()?;
    let hosts = admin.map(|admin| admin.hosts.clone()).unwrap_or_default();
    let addresses = listeners.iter().map(local_address).collect::<Result<Vec<_>, _>>()?;
    let admin = admin_listener.as_ref().map(local_address).transpose()?;

    let metrics = Arc::new(Metrics::new()?);
    let ways = ListenerSet::new(&config, None, proxy_trust(&config).as_ref(), &metrics)?;
    let cache = Cache::new(&config.store, config.encoding.clone(), metrics.clone());
    let access = Arc::new(AccessLog::start(config.log, &metrics));
    spawn_watched("clock", clock::watch_wall_clock());
    spawn_watched("store", cache.clone().keep_linked(config.store.redis.clone()));
    let config = Arc::new(config);
    let plan = plan_runtime(config.clone(), &addresses, &cache, &metrics, None).await?;
    let site = Arc::new(ArcSwap::from_pointee(build_runtime_config(plan, &metrics)));
    wait_for_store(&cache).await;

    let (closing, is_closing) = watch::channel(false);
    let parts = GatewayParts { cache: cache.clone(), metrics: metrics.clone(), access: access.clone() };
    let conf = ServerConf { upstream_keepalive_pool_size: UPSTREAM_POOL_SIZE, ..ServerConf::default() };
    let gateway = Gateway::new(parts, site.clone());
    let ready = FastResponder::new(gateway.clone());
    let proxy = pingora_proxy::http_proxy(&Arc::new(conf), gateway);
    let files = descriptors::raise_file_limit();
    let terms = ConnectionSettings::of(&config.server, files);
    let door =
        ConnectionServer::new((proxy, ready), metrics.clone(), access, is_closing.clone(), terms, ways);
    for (number, listener) in listeners.into_iter().enumerate() {
        spawn_watched("listener", door.clone().accept(listener, number));
    }
    spawn_watched("certificates", door.clone().keep_certificates());
    if let Some(listener) = admin_listener {
        let state = admin_state(hosts, metrics.clone(), cache.clone(), site.clone(), is_closing);
        // Runs until the process ends, so that it can answer while connections are drained.
        spawn_watched("admin", admin::serve(listener, state));
    }
    spawn_watched("watchdog", manager::notify_watchdog());
    metrics.configured();
    Ok(RunningGateway { addresses, admin, cache, metrics, site, door, files, closing })
}

impl RunningGateway {
    /// Shuts down: accepts no connections, and waits for requests under way, at most for the configured time.
    /// Returns as soon as nothing is left to do, with true if everything has finished.
    pub(crate) async fn stop(&self) -> bool {
        self.closing.send_replace(true);
        let drain = self.site.load().config().server.drain;
        let finished = self.door.drain(drain).await;
        self.cache.drain(Duration::from_secs(1)).await;
        finished
    }
}

/// Builds the parts of a runtime configuration. Parts of `before` that are unchanged in this configuration
/// are carried over.
async fn plan_runtime(
    config: Arc<Config>,
    addresses: &[SocketAddr],
    cache: &Arc<Cache>,
    metrics: &Arc<Metrics>,
    before: Option<&RuntimeConfig>,
) -> Result<RuntimeParts, StartError> {
    let before = before.map(RuntimeConfig::plan);
    let events = match before.filter(|before| before.config.events == config.events) {
        Some(before) => before.events.clone(),
        None => {
            let before = before.map(|before| &*before.events);
            Arc::new(EventEndpoints::new(&config.events, cache.clone(), before)?)
        }
    };
    let verifier = match (&config.jwt, before.filter(|before| before.config.jwt == config.jwt)) {
        (_, Some(before)) => before.verifier.clone(),
        (Some(jwt), None) => {
            let verifier = Arc::new(Verifier::new(jwt)?);
            // The issuer may be unreachable just now.
            let same = |old: &JwtConfig| old.keys == jwt.keys && old.algorithms == jwt.algorithms;
            let before = before.filter(|before| before.config.jwt.as_ref().is_some_and(same));
            if let Some(before) = before.and_then(|before| before.verifier.as_ref()) {
                verifier.take_over(before);
            }
            keys::keep_key_set(&jwt.keys, &verifier, metrics.clone()).await?;
            Some(verifier)
        }
        (None, None) => None,
    };
    let origins = OriginTable::new(&config.origins, metrics, before.map(|before| &*before.origins));
    origins.resolve().await;
    spawn_watched("origins", origins.keep_watch());
    let limiters = before.map(|before| before.limiters.clone()).unwrap_or_default();
    let entries = ListenerInfo::all(&config, addresses);
    Ok(RuntimeParts { config, origins: Arc::new(origins), verifier, events, limiters, entries })
}

/// The addresses of the listeners in a configuration.
fn listen_addresses(config: &Config) -> Vec<SocketAddr> {
    config.listeners.iter().map(|listener| listener.address).collect()
}

/// Checks that the gateway would start with a configuration: performs the steps of [`start_gateway`] that have no
/// visible effect. Nothing listens, and no request is sent.
///
/// # Errors
/// As [`start_gateway`].
pub(crate) fn rehearse_start(config: &Config) -> Result<(), StartError> {
    certificate::install_provider();
    for (number, listener) in config.listeners.iter().enumerate() {
        check_local_address(listener.address, listener_key(number))?;
    }
    let admin = config.admin.as_ref();
    admin.map(|admin| check_local_address(admin.address, ADMIN_KEY.to_owned())).transpose()?;
    ListenerSet::new(config, None, proxy_trust(config).as_ref(), &Arc::new(Metrics::new()?))?;
    for secret in config.events.iter().flat_map(|event| &event.secrets) {
        WebhookKey::new(secret)?;
    }
    let Some(jwt) = &config.jwt else { return Ok(()) };
    let verifier = Verifier::new(jwt)?;
    if let JwtKeys::JwksFile(path) = &jwt.keys {
        verifier.begin_with_file(path)?;
    }
    Ok(())
}

/// Checks that this machine has an address. A UDP socket can test that without occupying a TCP port.
fn check_local_address(address: SocketAddr, key: String) -> Result<(), StartError> {
    match UdpSocket::bind((address.ip(), 0)) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            Err(StartError::Bind { address, key, error })
        }
        _ => Ok(()),
    }
}

const ADMIN_KEY: &str = "admin.address";

fn listener_key(number: usize) -> String {
    format!("listener[{number}].address")
}

fn bind_listener(address: SocketAddr, key: String, all: &[SocketAddr]) -> Result<TcpListener, StartError> {
    listen::bind_address(address, all).map_err(|error| StartError::Bind { address, key, error })
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    let key = "listener.address".to_owned();
    listener.local_addr().map_err(|error| StartError::Bind { address: unknown, key, error })
}

/// The test for trusted senders of PROXY headers; `None` if all are trusted.
fn proxy_trust(config: &Config) -> Option<ProxyTrust> {
    let networks = &config.server.trusted_proxies;
    let trusted = (!networks.is_empty()).then(|| TrustedProxies::new(networks))?;
    Some(Arc::new(move |peer| trusted.contains(peer)))
}

/// Waits a moment for Redis, so that a node that has just started doesn't answer without knowing the current
/// versions.
async fn wait_for_store(cache: &Cache) {
    let linked = async {
        while !cache.store_is_up() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(STORE_TIMEOUT, linked).await.is_err() {
        tracing::warn!("the store is not reachable: starting without it");
    }
}

/// The state of the admin listener.
fn admin_state(
    hosts: Vec<String>,
    metrics: Arc<Metrics>,
    cache: Arc<Cache>,
    site: Arc<ArcSwap<RuntimeConfig>>,
    draining: watch::Receiver<bool>,
) -> admin::AdminState {
    let (purging, routed) = (cache.clone(), site.clone());
    let purge = move |wanted: Vec<PurgeOrder>| -> admin::PurgeFuture {
        let (cache, purgeable) = (purging.clone(), routed.load().purgeable(&wanted));
        Box::pin(async move {
            purgeable.map_err(admin::PurgeFailure::Nothing)?;
            cache.purge(wanted).await.map_err(admin::PurgeFailure::Store)
        })
    };
    let readiness = move || {
        let is_draining = *draining.borrow();
        // A missing store doesn't make a node unready: it can still answer.
        let mut reasons = Vec::new();
        if is_draining {
            reasons.push("draining".to_owned());
        }
        let troubles = cache.store_troubles();
        if !cache.store_is_up() && troubles.is_empty() {
            reasons.push("the store is away".to_owned());
        }
        reasons.extend(troubles);
        let site = site.load();
        let verifier = &site.plan().verifier;
        reasons.extend(verifier.as_ref().and_then(|verifier| verifier.trouble(now_ms())));
        // Health checks that are not trusted don't make it unready either.
        reasons.extend(site.plan().origins.doubts());
        admin::Readiness { ready: !is_draining, reasons }
    };
    let hosts = Arc::new(admin::KnownHosts::new(hosts));
    admin::AdminState { metrics, hosts, readiness: Arc::new(readiness), purge: Arc::new(purge) }
}
