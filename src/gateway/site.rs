//! What one configuration makes of the gateway: a value that never changes and is swapped as a whole.
//!
//! Each request takes the site that stands when it begins and keeps it to its end: a reload changes nothing under a
//! request's feet. What outlives a configuration (the cache, metrics, the log) is not here.

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

/// What stands for a route's name where there is none.
const UNROUTED: &str = "none";

/// What a site is assembled from.
pub struct Plan {
    /// The configuration.
    pub config: Arc<Config>,
    /// The origins.
    pub origins: Arc<Origins>,
    /// Who verifies tokens, where there is a `[jwt]`.
    pub verifier: Option<Arc<Verifier>>,
    /// The event endpoints.
    pub events: Arc<Events>,
    /// What limits know of clients. Goes from one plan to the next.
    pub limiters: Arc<Limiters>,
    /// How requests come in, by a listener's number.
    pub entries: Vec<Arc<Entry>>,
}

/// What one configuration makes of the gateway.
pub struct Site {
    /// No other site of this process has it.
    pub(super) number: u32,
    pub(super) plan: Plan,
    pub(super) routes: Routes,
    /// By a route's index.
    pub(super) per_route: Vec<PerRoute>,
    /// For requests that no route takes.
    pub(super) unrouted: Arc<RouteMetrics>,
    /// Whether any route follows its origin.
    pub(super) follows: bool,
    /// Whose word on a client is believed.
    pub(super) trusted: Trusted,
    /// The fields that tell an origin of a client's certificate: no client may say them.
    pub(super) subjects: Vec<HeaderName>,
    /// The fields of the gateway's own that differ from one request for a resource to the next.
    pub(super) ours: Arc<[HeaderName]>,
    /// Where `X-Accel-Redirect` may lead.
    pub(super) accels: Accels,
}

/// What a route needs at hand.
pub(super) struct PerRoute {
    pub(super) metrics: Arc<RouteMetrics>,
    pub(super) mode: Mode,
    /// The time that its fills take.
    pub(super) usual: Arc<UsualTime>,
    /// How many requests it takes.
    pub(super) limits: Option<Limits>,
    /// Whether the fast lane may answer on it.
    pub(super) swift: bool,
    /// Whether requests without a body need no Pingora on it.
    pub(super) own: bool,
    /// Tells whether those with one don't.
    pub(super) uploads: bool,
}

/// Whose word counts on a route.
pub(super) enum Mode {
    /// Nothing is kept.
    Off,
    /// Its rules'.
    Versioned(Arc<CacheRules>),
    /// Its origin's.
    Follow(Arc<FollowRules>),
    /// Nobody's: it sends files.
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
    /// Assembles a site. A route that has its name from before goes on counting where it was.
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

    /// The configuration that it was made of.
    pub fn config(&self) -> &Arc<Config> {
        &self.plan.config
    }

    /// Tells whether purges can find anything here.
    ///
    /// # Errors
    /// Which one can't, and why.
    pub fn purgeable(&self, wanted: &[Purge]) -> Result<(), String> {
        for purge in wanted {
            if let purge::Target::Url { host, target } = &purge.target {
                let purgeable = self.routes.purgeable(&self.plan.config.routes, host, target);
                purgeable.map_err(|error| format!("http://{host}{target}: {error}"))?;
            }
        }
        Ok(())
    }

    /// What it was assembled from, for the next one.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}
