//! The runtime configuration: an immutable value that is built from one configuration and swapped as a whole.
//!
//! Each request uses the runtime configuration that is current when it begins, to its end: a reload never
//! affects a request that is under way. Parts that outlive a configuration (the cache, metrics, the log) are
//! not here.

use super::{accel::Accels, direct, exchange, files::FilesAt, forward, ready, Entry};
use crate::{
    address::Trusted,
    cache::{
        hedge::UsualTime,
        purge::{self, Purge},
    },
    config::{CacheMode, CacheRules, Config, FollowRules, Listener, Route, Target},
    events::Events,
    identity::Verifier,
    limits::rate::{Limiters, Limits},
    origin::Origins,
    route::Routes,
    telemetry::metrics::{Metrics, RouteMetrics},
};
use http::HeaderName;
use std::sync::{
    atomic::{AtomicU32, Ordering},
    Arc,
};

/// The route's name in metrics for requests without a route.
const UNROUTED: &str = "none";

/// The parts that a runtime configuration is built from.
pub struct Plan {
    /// The configuration.
    pub config: Arc<Config>,
    /// The origins.
    pub origins: Arc<Origins>,
    /// The verifier of tokens, if there is a `[jwt]`.
    pub verifier: Option<Arc<Verifier>>,
    /// The event endpoints.
    pub events: Arc<Events>,
    /// The counters of the rate limits; a reload keeps them.
    pub limiters: Arc<Limiters>,
    /// The properties of the listeners, by their index.
    pub entries: Vec<Arc<Entry>>,
}

/// The runtime configuration.
pub struct Site {
    /// A number that is unique in this process.
    pub(super) number: u32,
    pub(super) plan: Plan,
    pub(super) routes: Routes,
    /// The runtime state of the routes, by their index.
    pub(super) per_route: Vec<PerRoute>,
    /// The metrics of requests without a route.
    pub(super) unrouted: Arc<RouteMetrics>,
    /// True if any route follows its origin's `Cache-Control`.
    pub(super) follows: bool,
    /// The proxies whose forwarding fields are trusted.
    pub(super) trusted: Trusted,
    /// The fields that carry the subject of a client's certificate to an origin: they are removed from
    /// requests.
    pub(super) subjects: Vec<HeaderName>,
    /// The fields of the gateway's own that differ from one request for a resource to the next.
    pub(super) ours: Arc<[HeaderName]>,
    /// The internal locations that `X-Accel-Redirect` may name.
    pub(super) accels: Accels,
}

/// The runtime state of a route.
pub(super) struct PerRoute {
    pub(super) metrics: Arc<RouteMetrics>,
    pub(super) mode: Mode,
    /// Statistics of the time that its fills take.
    pub(super) usual: Arc<UsualTime>,
    /// Its rate limits.
    pub(super) limits: Option<Limits>,
    /// True if the fast lane may answer on it.
    pub(super) swift: bool,
    /// True if requests without a body don't need Pingora on it.
    pub(super) own: bool,
    /// True if requests with a body don't need Pingora on it.
    pub(super) uploads: bool,
}

/// The cache mode of a route.
pub(super) enum Mode {
    /// Nothing is stored.
    Off,
    /// Entries follow the route's rules and the version of their namespace.
    Versioned(Arc<CacheRules>),
    /// Entries follow the origin's `Cache-Control`.
    Follow(Arc<FollowRules>),
    /// No cache: the route serves files.
    Files(Box<FilesAt>),
}

impl Mode {
    pub(super) fn rules(&self) -> Option<&Arc<CacheRules>> {
        match self {
            Self::Versioned(rules) => Some(rules),
            Self::Off | Self::Follow(_) | Self::Files(_) => None,
        }
    }
}

impl Site {
    /// Builds a runtime configuration. A route that keeps its name keeps its metrics.
    pub fn new(plan: Plan, metrics: &Metrics) -> Self {
        let routes = &plan.config.routes;
        let per_route = |(route, limits): (&Route, Option<Limits>)| PerRoute {
            swift: limits.is_none() && ready::is_swift(route),
            own: exchange::is_own(route, &plan.origins),
            uploads: direct::takes_uploads(route, &plan.origins),
            limits,
            usual: Arc::default(),
            metrics: metrics.route(route.name.as_str()),
            mode: match (&route.target, &route.cache) {
                (Target::Files(files), _) => Mode::Files(Box::new(FilesAt::new(route, files))),
                (_, CacheMode::Off) => Mode::Off,
                (_, CacheMode::Versioned(rules)) => Mode::Versioned(Arc::new((**rules).clone())),
                (_, CacheMode::Follow(rules)) => Mode::Follow(Arc::new((**rules).clone())),
            },
        };
        let subject = |listener: &Listener| listener.tls.as_ref()?.clients.as_ref()?.header.clone();
        let subjects: Vec<_> = plan.config.listeners.iter().filter_map(subject).collect();
        static NUMBERS: AtomicU32 = AtomicU32::new(0);
        Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            ours: forward::OURS_THAT_VARY.iter().chain(&subjects).cloned().collect(),
            subjects,
            routes: Routes::new(routes),
            per_route: routes.iter().zip(plan.limiters.of(routes)).map(per_route).collect(),
            unrouted: metrics.route(UNROUTED),
            trusted: Trusted::new(&plan.config.server.trusted_proxies),
            follows: routes.iter().any(|route| matches!(route.cache, CacheMode::Follow(_))),
            accels: Accels::new(&plan.config.accels),
            plan,
        }
    }

    /// The configuration that it was built from.
    pub fn config(&self) -> &Arc<Config> {
        &self.plan.config
    }

    /// Checks that purges can find anything.
    ///
    /// # Errors
    /// The first purge that can't, and the reason.
    pub fn purgeable(&self, wanted: &[Purge]) -> Result<(), String> {
        for purge in wanted {
            if let purge::Target::Url { host, target } = &purge.target {
                let purgeable = self.routes.purgeable(&self.plan.config.routes, host, target);
                purgeable.map_err(|error| format!("http://{host}{target}: {error}"))?;
            }
        }
        Ok(())
    }

    /// The parts that it was built from, for the next one.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}
