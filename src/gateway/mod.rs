//! The gateway: the order of a request's steps, phase by phase, on Pingora's `ProxyHttp`.
//!
//! Only the order is defined here (`handle`); each step is a module of its own. Requests that can be answered
//! without Pingora's proxy are answered in `request_filter`; Pingora proxies all others.

mod assemble;
pub(crate) mod body;
pub(crate) mod cache;
pub(crate) mod context;
pub(crate) mod headers;
pub(crate) mod proxy;
pub(crate) mod request;
pub(crate) mod respond;
mod runtime_config;
pub(crate) mod session;

pub use {
    crate::cache::key::RequestScheme,
    assemble::build_runtime_config,
    cache::prepared::{
        FastAnswer, FastCaller, FastRequest, FastResponder, KeyBuffers, PendingLog, RequestBatch,
    },
    context::{
        connection::{ClientCertificate, ConnectionHold, ConnectionInfo, ListenerInfo},
        file_handover::FileHandover,
        signals::{ConnectionSignals, UNKNOWN_BYTES},
        tunnel::{OriginObserver, TunnelledConnection},
        RequestContext,
    },
    runtime_config::{RuntimeConfig, RuntimeParts},
    session::{lifecycle::NativeRequest, ClientWriter, ConnectionFate},
};

use crate::{
    cache::Cache,
    http::canonical_path::CanonicalPath,
    limits::{self, rate::LimitStage},
    origin::upgrade::UpgradeConnector,
    route::RouteMatch,
    telemetry::{access::AccessLog, labels::RejectReason, metrics::Metrics},
};
use arc_swap::ArcSwap;
use body::codec::CodecBudget;
use context::request_id::RequestIdSource;
use runtime_config::RouteMode;
use session::GatewaySession;

use http::{header, Method};
use std::{sync::Arc, time::Instant};

type Result<T> = pingora_core::Result<T>;

/// The parts that outlive a change of the configuration.
#[derive(Clone)]
pub struct GatewayParts {
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
    parts: GatewayParts,
    /// The runtime configuration for requests that begin now.
    site: Arc<ArcSwap<RuntimeConfig>>,
    ids: Arc<RequestIdSource>,
    /// The origin of the clock that rate limits use.
    began: Instant,
    upgrades: Arc<UpgradeConnector>,
    codecs: Arc<CodecBudget>,
}

/// The result of a step: the request is answered, or still has to be proxied.
pub(crate) enum NextStep {
    Answered,
    Proxy,
}

impl Gateway {
    /// A gateway that uses the current value of `site`.
    pub fn new(parts: GatewayParts, site: Arc<ArcSwap<RuntimeConfig>>) -> Self {
        let (ids, codecs) = (Arc::new(RequestIdSource::new()), CodecBudget::new(parts.metrics.clone()));
        Self { parts, site, ids, began: Instant::now(), upgrades: Arc::new(UpgradeConnector::new()), codecs }
    }

    /// The prepared lane's view of the gateway: the same parts, the same runtime configuration.
    pub fn ready(&self) -> FastResponder {
        FastResponder::new(self.clone())
    }

    /// Runs the steps of a request in order. Steps that a hit doesn't need are boxed: the future of each
    /// request has room for all steps, and is moved as a whole.
    async fn handle(&self, session: &mut GatewaySession<'_>, ctx: &mut RequestContext) -> Result<NextStep> {
        let site = ctx.site.clone();
        if let Err(reason) = request::normalize::normalize_request(session.req_header_mut()) {
            return Box::pin(self.refuse(session, ctx, reason)).await;
        }
        request::untrusted_fields::drop_untrusted(session.req_header_mut(), ctx);
        let request = session.req_header();
        if let Err(reason) = limits::request::check_request(&request.uri, request.version, &request.headers) {
            return Box::pin(self.refuse(session, ctx, reason)).await;
        }
        if request::normalize::is_server_wide(request) {
            return Box::pin(self.answer_of_server(session, ctx)).await;
        }
        request::normalize::strip_root_dot(session.req_header_mut());
        let request = session.req_header();
        ctx.path = match CanonicalPath::of(request.uri.path()) {
            Ok(path) => path,
            Err(_) => return Box::pin(self.refuse(session, ctx, RejectReason::BadPath)).await,
        };
        if let Some(turn) = request::listener::listener_verdict(request, ctx) {
            return Box::pin(self.apply_listener_verdict(session, ctx, turn)).await;
        }
        if let Some(endpoint) = site.plan.events.at(ctx.path_of(request)) {
            return Box::pin(self.take_event(session, ctx, endpoint)).await;
        }
        // The signature of an event must not be bypassed by another spelling of its path, whatever a route
        // allows.
        if ctx.path.unescaped().is_some_and(|path| site.plan.events.at(path).is_some()) {
            return Box::pin(self.refuse(session, ctx, RejectReason::EscapedSlash)).await;
        }
        if let Some(index) = request::preflight::preflight_route(request, ctx) {
            return Box::pin(self.answer_preflight(session, ctx, index)).await;
        }
        let index = match ctx.find_route(request, &request.method) {
            RouteMatch::Found(index) => index,
            RouteMatch::Ambiguous => {
                return Box::pin(self.refuse(session, ctx, RejectReason::EscapedSlash)).await
            }
            RouteMatch::NotFound => return Box::pin(self.refuse(session, ctx, RejectReason::NotFound)).await,
            RouteMatch::MethodNotAllowed(allowed) => {
                let problem = respond::errors::method_not_allowed(allowed);
                let refused = self.refuse_with(session, ctx, RejectReason::MethodNotAllowed, problem);
                return Box::pin(refused).await;
            }
        };
        ctx.route = Some(index);
        proxy::upstream::take_sticky_cookie(session, ctx)?;
        let (route, at_hand) = (&site.plan.config.routes[index], &site.per_route[index]);
        let (mode, limits) = (&at_hand.mode, at_hand.limits.as_ref());
        if !self.within_limits(limits, LimitStage::Anyone, session.req_header(), ctx).await {
            return Box::pin(self.refuse_limited(session, ctx)).await;
        }
        if let Err(reason) = request::preflight::verify_signed_url(session.req_header_mut(), ctx) {
            return Box::pin(self.refuse(session, ctx, reason)).await;
        }
        if let Err(reason) = self.admit(route, mode.rules(), session.req_header(), ctx).await {
            return Box::pin(self.refuse(session, ctx, reason)).await;
        }
        if !self.within_limits(limits, LimitStage::Identified, session.req_header(), ctx).await {
            return Box::pin(self.refuse_limited(session, ctx)).await;
        }
        if ctx.handshake.is_some() {
            // In one line, whatever else was offered.
            session.req_header_mut().insert_header(header::UPGRADE, "websocket")?;
            return Ok(NextStep::Proxy);
        }
        let reads = matches!(session.req_header().method, Method::GET | Method::HEAD);
        match mode {
            RouteMode::Versioned(rules) if reads => self.answer_cached(session, ctx, route, rules).await,
            RouteMode::Follow(rules) if reads => self.answer_followed(session, ctx, route, rules).await,
            RouteMode::Versioned(_) | RouteMode::Follow(_) => {
                ctx.detail = Some("method");
                Ok(NextStep::Proxy)
            }
            RouteMode::Off => Ok(NextStep::Proxy),
            RouteMode::Files(files) => Box::pin(self.answer_file(session, ctx, files)).await,
        }
    }
}
