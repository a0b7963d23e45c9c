//! The gateway: the order of a request's steps, phase by phase, on Pingora's `ProxyHttp`.
//!
//! Only the order is defined here (`handle`); each step is a module of its own. Requests that can be answered
//! without Pingora's proxy are answered in `request_filter`; Pingora proxies all others.

mod accel;
mod admission;
mod cached;
mod claims;
mod codec;
mod context;
mod direct;
mod dress;
mod entry;
mod event;
mod exchange;
mod files;
mod followed;
mod form;
mod forward;
mod handover;
mod limiting;
mod passing;
mod permit;
mod proxied;
mod ready;
mod refusal;
mod send;
mod serialised;
mod session;
mod signals;
mod site;
mod upload;
mod upstream;
mod websocket;

pub use crate::cache::key::Scheme;
pub use context::Context;
pub use entry::{Entry, Hold, OnConnection, Shown};
pub use exchange::Request;
pub use handover::Handover;
pub use ready::{Answered, Asked, Caller, Late, Ready, Visit, Words};
pub use session::{After, Client};
pub use signals::{Signals, UNKNOWN};
pub use site::{Plan, Site};
pub use websocket::{Hearing, Tunnelled};

use crate::{
    cache::Cache,
    canonical_path::CanonicalPath,
    limits::{self, rate::Stage},
    origin::upgrade::Upgrades,
    route::Match,
    telemetry::{access::AccessLog, labels::RejectReason, metrics::Metrics},
};
use arc_swap::ArcSwap;
use codec::Codecs;
use context::RequestIds;
use http::{header, HeaderName, HeaderValue, Method};
use pingora_http::RequestHeader;
use session::Session;
use site::Mode;
use std::{sync::Arc, time::Instant};

/// RFC 9211
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

const HIT: HeaderValue = HeaderValue::from_static("tidegate; hit");

type Result<T> = pingora_core::Result<T>;

/// The parts that outlive a change of the configuration.
#[derive(Clone)]
pub struct Parts {
    /// The cache.
    pub cache: Arc<Cache>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The access log; it may be switched off.
    pub access: Arc<AccessLog>,
}

/// The gateway.
#[derive(Clone)]
pub struct Gateway {
    parts: Parts,
    /// The runtime configuration for requests that begin now.
    site: Arc<ArcSwap<Site>>,
    ids: Arc<RequestIds>,
    /// The origin of the clock that rate limits use.
    began: Instant,
    upgrades: Arc<Upgrades>,
    codecs: Arc<Codecs>,
}

/// The result of a step: the request is answered, or still has to be proxied.
enum Next {
    Answered,
    Proxy,
}

impl Gateway {
    /// A gateway that uses the current value of `site`.
    pub fn new(parts: Parts, site: Arc<ArcSwap<Site>>) -> Self {
        let (ids, codecs) = (Arc::new(RequestIds::new()), Codecs::new(parts.metrics.clone()));
        Self { parts, site, ids, began: Instant::now(), upgrades: Arc::new(Upgrades::new()), codecs }
    }

    /// The fast lane's view of the gateway: the same parts, the same runtime configuration.
    pub fn ready(&self) -> Ready {
        Ready::new(self.clone())
    }

    /// Runs the steps of a request in order. Steps that a hit doesn't need are boxed: the future of each
    /// request has room for all steps, and is moved as a whole.
    async fn handle(&self, session: &mut Session<'_>, ctx: &mut Context) -> Result<Next> {
        let site = ctx.site.clone();
        if let Err(reason) = form::settle(session.req_header_mut()) {
            return Box::pin(self.refuse(session, ctx, reason)).await;
        }
        claims::drop_from(session.req_header_mut(), ctx);
        let request = session.req_header();
        if let Err(reason) = limits::request::check(&request.uri, request.version, &request.headers) {
            return Box::pin(self.refuse(session, ctx, reason)).await;
        }
        if form::is_of_server(request) {
            return Box::pin(self.answer_of_server(session, ctx)).await;
        }
        form::strip_root_dot(session.req_header_mut());
        let request = session.req_header();
        ctx.path = match CanonicalPath::of(request.uri.path()) {
            Ok(path) => path,
            Err(_) => return Box::pin(self.refuse(session, ctx, RejectReason::BadPath)).await,
        };
        if let Some(turn) = entry::turn_of(request, ctx) {
            return Box::pin(self.take_turn(session, ctx, turn)).await;
        }
        if let Some(endpoint) = site.plan.events.at(ctx.path_of(request)) {
            return Box::pin(self.take_event(session, ctx, endpoint)).await;
        }
        // The signature of an event must not be bypassed by another spelling of its path, whatever a route
        // allows.
        if ctx.path.unescaped().is_some_and(|path| site.plan.events.at(path).is_some()) {
            return Box::pin(self.refuse(session, ctx, RejectReason::EscapedSlash)).await;
        }
        if let Some(index) = permit::preflighted(request, ctx) {
            return Box::pin(self.answer_preflight(session, ctx, index)).await;
        }
        let index = match ctx.find_route(request, &request.method) {
            Match::Found(index) => index,
            Match::Ambiguous => return Box::pin(self.refuse(session, ctx, RejectReason::EscapedSlash)).await,
            Match::NotFound => return Box::pin(self.refuse(session, ctx, RejectReason::NotFound)).await,
            Match::MethodNotAllowed(allowed) => {
                let problem = refusal::method_not_allowed(allowed);
                let refused = self.refuse_with(session, ctx, RejectReason::MethodNotAllowed, problem);
                return Box::pin(refused).await;
            }
        };
        ctx.route = Some(index);
        upstream::take_cookie(session, ctx)?;
        let (route, at_hand) = (&site.plan.config.routes[index], &site.per_route[index]);
        let (mode, limits) = (&at_hand.mode, at_hand.limits.as_ref());
        if !self.within_limits(limits, Stage::Anyone, session.req_header(), ctx).await {
            return Box::pin(self.refuse_for_now(session, ctx)).await;
        }
        if let Err(reason) = permit::verify_link(session.req_header_mut(), ctx) {
            return Box::pin(self.refuse(session, ctx, reason)).await;
        }
        if let Err(reason) = self.admit(route, mode.rules(), session.req_header(), ctx).await {
            return Box::pin(self.refuse(session, ctx, reason)).await;
        }
        if !self.within_limits(limits, Stage::Identified, session.req_header(), ctx).await {
            return Box::pin(self.refuse_for_now(session, ctx)).await;
        }
        if ctx.handshake.is_some() {
            // In one line, whatever else was offered.
            session.req_header_mut().insert_header(header::UPGRADE, "websocket")?;
            return Ok(Next::Proxy);
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
            Mode::Files(files) => Box::pin(self.answer_file(session, ctx, files)).await,
        }
    }
}

/// The host of a request: HTTP/2 has it in the target.
fn host(request: &RequestHeader) -> Option<&str> {
    match request.headers.get(header::HOST) {
        Some(host) => host.to_str().ok(),
        None => request.uri.authority().map(http::uri::Authority::as_str),
    }
}
