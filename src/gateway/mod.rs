//! The full lane: the order of a request, phase by phase, on Pingora's `ProxyHttp`.
//!
//! Only the order stands here (`handle`); each step is a module of its own. What can be answered without
//! the origin is answered in `request_filter`, everything else Pingora proxies.

mod admission;
mod cached;
mod codec;
mod context;
mod event;
mod followed;
mod forward;
mod passing;
mod proxied;
mod refusal;
mod send;

pub use context::Context;

use crate::{
    cache::Cache,
    config::{CacheMode, CacheRules, Coding, Config, FollowRules, Route},
    events::Events,
    identity::Verifier,
    limits,
    origin::Origins,
    route::{Match, Routes},
    telemetry::{
        access::AccessLog,
        labels::RejectReason,
        metrics::{Metrics, RouteMetrics},
    },
};
use context::RequestIds;
use http::{header, HeaderName, HeaderValue, Method};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use std::{
    net::SocketAddr,
    sync::{
        atomic::{AtomicBool, AtomicU64},
        Arc,
    },
};

/// RFC 9211
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

const HIT: HeaderValue = HeaderValue::from_static("tidegate; hit");

/// What stands for a route's name where there is none.
const UNROUTED: &str = "none";

type Result<T> = pingora_core::Result<T>;

/// What a connection tells the gateway of itself, with each request.
pub struct OnConnection {
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// What the gateway tells the connection.
    pub signals: Arc<Signals>,
}

/// What the gateway tells a connection of the exchange that it is about to write.
#[derive(Debug, Default)]
pub struct Signals {
    /// A request has been read.
    pub handled: AtomicBool,
    /// The `Date` of the answer, in seconds since the epoch; 0: now.
    pub date: AtomicU64,
    /// The body arrives slowly: what there is goes out at once.
    pub at_once: AtomicBool,
}

/// What the gateway is assembled from.
pub struct Parts {
    /// The configuration.
    pub config: Arc<Config>,
    /// The cache.
    pub cache: Arc<Cache>,
    /// The origins.
    pub origins: Arc<Origins>,
    /// Who verifies tokens, where there is a `[jwt]`.
    pub verifier: Option<Arc<Verifier>>,
    /// The event endpoints.
    pub events: Arc<Events>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The access log; it knows whether it is wanted.
    pub access: AccessLog,
}

/// The full lane.
pub struct Gateway {
    parts: Parts,
    routes: Routes,
    /// By a route's index.
    per_route: Vec<PerRoute>,
    /// For requests that no route takes.
    unrouted: Arc<RouteMetrics>,
    ids: RequestIds,
    /// Whether any route follows its origin.
    follows: bool,
    prefer: Vec<Coding>,
}

struct PerRoute {
    metrics: Arc<RouteMetrics>,
    mode: Mode,
}

/// Whose word counts on a route.
enum Mode {
    /// Nothing is kept.
    Off,
    /// Its rules'.
    Versioned(Arc<CacheRules>),
    /// Its origin's.
    Follow(Arc<FollowRules>),
}

impl Mode {
    fn rules(&self) -> Option<&Arc<CacheRules>> {
        match self {
            Self::Versioned(rules) => Some(rules),
            Self::Off | Self::Follow(_) => None,
        }
    }
}

/// Whether a request is answered or still has to be proxied.
enum Next {
    Answered,
    Proxy,
}

impl Gateway {
    /// Assembles the gateway.
    pub fn new(parts: Parts) -> Self {
        let per_route = |route: &Route| PerRoute {
            metrics: parts.metrics.route(route.name.as_str()),
            mode: match &route.cache {
                CacheMode::Off => Mode::Off,
                CacheMode::Versioned(rules) => Mode::Versioned(Arc::new((**rules).clone())),
                CacheMode::Follow(rules) => Mode::Follow(Arc::new((**rules).clone())),
            },
        };
        Self {
            routes: Routes::new(&parts.config.routes),
            per_route: parts.config.routes.iter().map(per_route).collect(),
            unrouted: parts.metrics.route(UNROUTED),
            ids: RequestIds::new(),
            follows: parts.config.routes.iter().any(|route| matches!(route.cache, CacheMode::Follow(_))),
            prefer: parts.config.encoding.prefer.clone(),
            parts,
        }
    }

    fn route(&self, ctx: &Context) -> Option<&Route> {
        self.parts.config.routes.get(ctx.route?)
    }

    /// The order of a request. What a hit doesn't go through is boxed: the future of each request has room for all
    /// that could happen to it, and is moved as a whole.
    async fn handle(&self, session: &mut Session, ctx: &mut Context) -> Result<Next> {
        let request = session.req_header();
        if let Err(reason) = limits::check(&request.uri, request.version, &request.headers) {
            return Box::pin(self.refuse(session, ctx, reason)).await;
        }
        if let Some(endpoint) = self.parts.events.at(request.uri.path()) {
            return Box::pin(self.take_event(session, ctx, endpoint)).await;
        }
        let index = match self.routes.find(host(request), request.uri.path(), &request.method) {
            Match::Found(index) => index,
            Match::NotFound => return Box::pin(self.refuse(session, ctx, RejectReason::NotFound)).await,
            Match::MethodNotAllowed(allowed) => {
                let problem = refusal::method_not_allowed(allowed);
                let refused = self.refuse_with(session, ctx, RejectReason::MethodNotAllowed, problem);
                return Box::pin(refused).await;
            }
        };
        ctx.route = Some(index);
        let (route, mode) = (&self.parts.config.routes[index], &self.per_route[index].mode);
        if let Err(reason) = self.admit(route, mode.rules(), session.req_header(), ctx) {
            return Box::pin(self.refuse(session, ctx, reason)).await;
        }
        let reads = matches!(session.req_header().method, Method::GET | Method::HEAD);
        match mode {
            Mode::Versioned(rules) if reads => self.answer_cached(session, ctx, route, rules).await,
            Mode::Follow(rules) if reads => self.answer_followed(session, ctx, route, rules).await,
            Mode::Versioned(_) | Mode::Follow(_) => {
                ctx.detail = Some("method");
                Ok(Next::Proxy)
            }
            Mode::Off => Ok(Next::Proxy),
        }
    }
}

/// The host that a request names: HTTP/2 puts it into the target.
fn host(request: &RequestHeader) -> Option<&str> {
    match request.headers.get(header::HOST) {
        Some(host) => host.to_str().ok(),
        None => request.uri.authority().map(http::uri::Authority::as_str),
    }
}
