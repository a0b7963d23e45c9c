//! Builds the runtime configuration: asks each step what it may do on a route, and keeps the answers.
//!
//! It stands above the steps, and [`RuntimeConfig`], which the steps read, below them.

use super::{
    cache::prepared,
    headers::to_origin,
    proxy::native,
    runtime_config::{
        AccelLocations, LocationBackend, RouteFiles, RouteMode, RouteRuntime, RuntimeConfig, RuntimeParts,
    },
};
use crate::{
    address::TrustedProxies,
    config::{
        AccelLocation, AccelTarget, AuthMode, CacheMode, FilesConfig, ListenerConfig, PathPattern,
        RouteConfig, RouteTarget,
    },
    files::{accel::InternalLocation, directory::Directory, root::FileRoot},
    identity::TokenRule,
    limits::rate::RouteLimits,
    route::RouteTable,
    telemetry::metrics::Metrics,
};

use std::sync::{
    atomic::{AtomicU32, Ordering},
    Arc,
};
use tokio::sync::Semaphore;
use xxhash_rust::xxh3::xxh3_64;

/// The route's name in metrics for requests without a route.
const NO_ROUTE_NAME: &str = "none";

/// The number of the next runtime configuration.
static NEXT_NUMBER: AtomicU32 = AtomicU32::new(0);

/// Builds a runtime configuration. A route that keeps its name keeps its metrics.
pub(crate) fn build_runtime_config(plan: RuntimeParts, metrics: &Metrics) -> RuntimeConfig {
    let routes = &plan.config.routes;
    let per_route = |(route, limits): (&RouteConfig, Option<RouteLimits>)| RouteRuntime {
        token: token_rule(&plan, route, limits.as_ref()),
        swift: limits.is_none() && prepared::fast_path_ok(route),
        live: route.live.is_some().then(|| route_fingerprint(route)),
        own: native::is_native_route(route, &plan.origins),
        uploads: native::takes_uploads(route, &plan.origins),
        limits,
        usual: Arc::default(),
        metrics: metrics.route(route.name.as_str()),
        mode: route_mode(route),
    };
    let subject = |listener: &ListenerConfig| listener.tls.as_ref()?.clients.as_ref()?.header.clone();
    let subjects: Vec<_> = plan.config.listeners.iter().filter_map(subject).collect();
    RuntimeConfig {
        number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
        ours: to_origin::varying_fields().chain(subjects.iter().cloned()).collect(),
        subjects,
        routes: RouteTable::new(routes),
        per_route: routes.iter().zip(plan.limiters.of(routes)).map(per_route).collect(),
        unrouted: metrics.route(NO_ROUTE_NAME),
        trusted: TrustedProxies::new(&plan.config.server.trusted_proxies),
        follows: routes.iter().any(|route| matches!(route.cache, CacheMode::Follow(_))),
        refills: plan
            .config
            .origins
            .iter()
            .map(|origin| Arc::new(Semaphore::new(origin.refills as usize)))
            .collect(),
        accels: build_accel_locations(&plan.config.accels),
        plan,
    }
}

fn token_rule(plan: &RuntimeParts, route: &RouteConfig, limits: Option<&RouteLimits>) -> TokenRule {
    let auth = if plan.verifier.is_some() { route.auth } else { AuthMode::Off };
    let scope = match &route.cache {
        CacheMode::Versioned(rules) if route.target.origin().is_some() => Some(rules.scope),
        CacheMode::Versioned(_) | CacheMode::Follow(_) | CacheMode::Off => None,
    };
    TokenRule::new(auth, scope, limits.is_some_and(RouteLimits::needs_identity))
}

/// What tells a route of one configuration from the route of its name in another.
fn route_fingerprint(route: &RouteConfig) -> u64 {
    xxh3_64(format!("{route:?}").as_bytes())
}

fn route_mode(route: &RouteConfig) -> RouteMode {
    match (&route.target, &route.cache) {
        (RouteTarget::Files(files), _) => RouteMode::Files(Box::new(build_route_files(route, files))),
        (_, CacheMode::Off) => RouteMode::Off,
        (_, CacheMode::Versioned(rules)) => RouteMode::Versioned(Arc::new((**rules).clone())),
        (_, CacheMode::Follow(rules)) => RouteMode::Follow(Arc::new((**rules).clone())),
    }
}

fn build_route_files(route: &RouteConfig, files: &FilesConfig) -> RouteFiles {
    let base = match &route.path {
        PathPattern::Prefix(before) => before.len(),
        PathPattern::Exact(path) => path.rfind('/').map_or(0, |slash| slash + 1),
    };
    let private = route.auth == AuthMode::Required;
    let directory = Arc::new(Directory::new(files.clone(), private));
    RouteFiles { directory, base, cache_control: files.cache_control.clone() }
}

fn build_accel_locations(accels: &[AccelLocation]) -> AccelLocations {
    let usable = accels.iter().filter_map(|accel| {
        let behind = match &accel.to {
            AccelTarget::Root { root, symlinks, hidden } => LocationBackend::Root {
                root: Arc::new(FileRoot::new(root.clone(), *symlinks)),
                hidden: *hidden,
            },
            AccelTarget::Origin { origin, prefix } => {
                LocationBackend::Origin { origin: *origin, prefix: prefix.clone() }
            }
        };
        // Its path was checked with the configuration.
        Some((InternalLocation::new(&accel.internal).ok()?, behind))
    });
    let (internals, behind) = usable.unzip();
    AccelLocations { internals, behind }
}
