//! The runtime configuration: an immutable value that is built from one configuration (`assemble.rs`) and
//! swapped as a whole.
//!
//! Each request uses the runtime configuration that is current when it begins, to its end: a reload never
//! affects a request that is under way. Parts that outlive a configuration (the cache, metrics, the log) are
//! not here.

use crate::{
    address::TrustedProxies,
    cache::{
        coherence::purge::{self, PurgeOrder},
        fill::hedge::UsualFillTime,
    },
    config::{CacheRules, Config, FollowRules, LiveEndpointConfig},
    events::EventEndpoints,
    files::{accel::InternalLocation, directory::Directory, root::FileRoot},
    gateway::context::connection::ListenerInfo,
    identity::{TokenRule, Verifier},
    limits::rate::{Limiters, RouteLimits},
    origin::OriginTable,
    route::RouteTable,
    telemetry::metrics::RouteMetrics,
};

use http::{HeaderName, HeaderValue};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The parts that a runtime configuration is built from.
pub struct RuntimeParts {
    /// The configuration.
    pub config: Arc<Config>,
    /// The origins.
    pub origins: Arc<OriginTable>,
    /// The verifier of tokens, if there is a `[jwt]`.
    pub verifier: Option<Arc<Verifier>>,
    /// The event endpoints.
    pub events: Arc<EventEndpoints>,
    /// The counters of the rate limits; a reload keeps them.
    pub limiters: Arc<Limiters>,
    /// The properties of the listeners, by their index.
    pub entries: Vec<Arc<ListenerInfo>>,
}

/// The runtime configuration.
pub struct RuntimeConfig {
    /// A number that is unique in this process.
    pub(crate) number: u32,
    pub(crate) plan: RuntimeParts,
    pub(crate) routes: RouteTable,
    /// The runtime state of the routes, by their index.
    pub(crate) per_route: Vec<RouteRuntime>,
    /// The metrics of requests without a route.
    pub(crate) unrouted: Arc<RouteMetrics>,
    /// True if any route follows its origin's `Cache-Control`.
    pub(crate) follows: bool,
    /// The proxies whose forwarding fields are trusted.
    pub(crate) trusted: TrustedProxies,
    /// The fields that carry the subject of a client's certificate to an origin: they are removed from
    /// requests.
    pub(crate) subjects: Vec<HeaderName>,
    /// The fields of the gateway's own that differ from one request for a resource to the next.
    pub(crate) ours: Arc<[HeaderName]>,
    /// The places for entries that are read anew for their watchers, by the index of the origin.
    pub(crate) refills: Vec<Arc<Semaphore>>,
    /// The internal locations that `X-Accel-Redirect` may name.
    pub(crate) accels: AccelLocations,
}

/// The runtime state of a route.
pub(crate) struct RouteRuntime {
    pub(crate) metrics: Arc<RouteMetrics>,
    pub(crate) mode: RouteMode,
    /// Statistics of the time that its fills take.
    pub(crate) usual: Arc<UsualFillTime>,
    /// Its rate limits.
    pub(crate) limits: Option<RouteLimits>,
    /// The rule by which it admits requests.
    pub(crate) token: TokenRule,
    /// What tells it from the route of its name in another configuration, if it can be watched.
    pub(crate) live: Option<u64>,
    /// True if the prepared lane may answer on it.
    pub(crate) swift: bool,
    /// True if requests without a body don't need Pingora on it.
    pub(crate) own: bool,
    /// True if requests with a body don't need Pingora on it.
    pub(crate) uploads: bool,
}

/// The cache mode of a route.
pub(crate) enum RouteMode {
    /// Nothing is stored.
    Off,
    /// Entries follow the route's rules and the version of their namespace.
    Versioned(Arc<CacheRules>),
    /// Entries follow the origin's `Cache-Control`.
    Follow(Arc<FollowRules>),
    /// No cache: the route serves files.
    Files(Box<RouteFiles>),
}

impl RuntimeConfig {
    /// The configuration that it was built from.
    pub fn config(&self) -> &Arc<Config> {
        &self.plan.config
    }

    /// Checks that purges can find anything.
    ///
    /// # Errors
    /// The first purge that can't, and the reason.
    pub fn purgeable(&self, wanted: &[PurgeOrder]) -> Result<(), String> {
        for purge in wanted {
            if let purge::PurgeTarget::Url { host, target } = &purge.target {
                let purgeable = self.routes.purgeable(&self.plan.config.routes, host, target);
                purgeable.map_err(|error| format!("http://{host}{target}: {error}"))?;
            }
        }
        Ok(())
    }

    /// The `[[live]]` that a path belongs to.
    pub(crate) fn endpoint(&self, path: &str) -> Option<(&LiveEndpointConfig, EndpointPart)> {
        self.plan.config.live.iter().find_map(|endpoint| match path.strip_prefix(endpoint.path.as_str())? {
            "" => Some((endpoint, EndpointPart::Stream)),
            ".js" => Some((endpoint, EndpointPart::Script)),
            _ => None,
        })
    }

    /// The parts that it was built from, for the next one.
    pub fn plan(&self) -> &RuntimeParts {
        &self.plan
    }
}

/// The runtime state of a route of files.
pub(crate) struct RouteFiles {
    pub(crate) directory: Arc<Directory>,
    /// The number of bytes of a request's path that belong to the route's prefix.
    pub(crate) base: usize,
    pub(crate) cache_control: HeaderValue,
}

/// The internal locations of a configuration.
pub(crate) struct AccelLocations {
    pub(crate) internals: Vec<InternalLocation>,
    /// The target of each location, by the same index.
    pub(crate) behind: Vec<LocationBackend>,
}

/// The target of an internal location.
pub(crate) enum LocationBackend {
    Root { root: Arc<FileRoot>, hidden: bool },
    Origin { origin: usize, prefix: String },
}

/// What a path of a `[[live]]` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndpointPart {
    /// The stream.
    Stream,
    /// The script for pages, at the same path with `.js`.
    Script,
}
