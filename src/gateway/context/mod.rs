//! The state of one request while it passes through the steps: what each leaves for the others.
//!
//! Values only: nothing here knows a step.

pub(crate) mod attempt;
pub(crate) mod connection;
pub(crate) mod file_handover;
pub(crate) mod handshake;
pub(crate) mod relay;
pub(crate) mod request_id;
pub(crate) mod signals;
pub(crate) mod tunnel;

use crate::{
    address::ClientAddress,
    cache::{coherence::version::MinVersion, fill::hedge::UsualFillTime, key::RequestScheme},
    config::RouteConfig,
    gateway::runtime_config::{RouteRuntime, RuntimeConfig},
    http::{canonical_path::CanonicalPath, date::response_date},
    identity::{Identity, TokenError},
    limits::rate::LimitTake,
    route::RouteMatch,
    telemetry::labels::{CacheResult, CutReason, RejectReason},
};
use attempt::{ContextServer, ServerSearch};
use connection::{ClientCertificate, ConnectionHold, ConnectionInfo, ListenerInfo};
use handshake::WebSocketHandshake;
use relay::ProxiedResponse;
use signals::ConnectionSignals;

use http::{header, HeaderMap, HeaderName, HeaderValue, Method};
use pingora_http::RequestHeader;
use std::{
    sync::{atomic::Ordering, Arc},
    time::{Duration, Instant},
};

/// The state of one request.
pub struct RequestContext {
    /// The runtime configuration that was current when the request began.
    pub(crate) site: Arc<RuntimeConfig>,
    /// The time at which its head had been read.
    pub(crate) began: Instant,
    /// The client: its address, scheme and host.
    pub(crate) client: ClientAddress,
    /// True if a trusted proxy has sent it.
    pub(crate) by_proxy: bool,
    /// The listener that it came by.
    pub(crate) entry: Option<Arc<ListenerInfo>>,
    /// The client's TLS name and certificate, if the listener asks for certificates.
    pub(crate) shown: Option<Arc<ClientCertificate>>,
    /// Its id in logs, answers and requests to the origin.
    pub(crate) request_id: HeaderValue,
    /// Its path in canonical form, by which rules are chosen.
    pub(crate) path: CanonicalPath,
    /// The index of its route.
    pub(crate) route: Option<usize>,
    /// The identity from its verified token.
    pub(crate) identity: Option<Arc<Identity>>,
    /// The accepted WebSocket handshake, if it is one.
    pub(crate) handshake: Option<Box<WebSocketHandshake>>,
    /// The source of its answer.
    pub(crate) result: CacheResult,
    /// The `detail` of that, as in `Cache-Status` and the access record.
    pub(crate) detail: Option<&'static str>,
    /// The error of its token, if it is refused for that.
    pub(crate) refused_token: Option<TokenError>,
    /// The number of bytes of its body that have been read.
    pub(crate) body_seen: u64,
    /// The server that it is proxied to.
    pub(crate) upstream: Option<ContextServer>,
    /// The state of its search for a server.
    pub(crate) seeking: ServerSearch,
    /// The time until the origin's answer began.
    pub(crate) origin_time: Option<Duration>,
    /// The flags that it shares with its connection.
    pub(crate) signals: Option<Arc<ConnectionSignals>>,
    /// The state of a proxied answer while it passes.
    pub(crate) passing: ProxiedResponse,
    /// The tokens that it took from the rate limits of its route.
    pub(crate) taken: Vec<LimitTake>,
    /// A guard that is held while any work for the request goes on.
    pub(crate) hold: Option<ConnectionHold>,
    /// True if the answer was a stream, which writes a record of its own.
    pub(crate) is_stream: bool,
    /// The wait that was granted (`Prefer: wait`).
    pub(crate) waited: Option<Duration>,
    /// The lines of its `Tidegate-Min-Version`.
    pub(crate) min_version_lines: Vec<HeaderValue>,
    /// The least version that it accepts on its route.
    pub(crate) min_version: MinVersion,
}

impl RequestContext {
    pub(crate) fn new(site: Arc<RuntimeConfig>) -> Self {
        Self {
            site,
            began: Instant::now(),
            client: ClientAddress::unknown(),
            by_proxy: false,
            entry: None,
            shown: None,
            request_id: HeaderValue::from_static(""),
            path: CanonicalPath::default(),
            route: None,
            identity: None,
            handshake: None,
            result: CacheResult::Bypass,
            detail: None,
            refused_token: None,
            body_seen: 0,
            upstream: None,
            seeking: ServerSearch::default(),
            origin_time: None,
            signals: None,
            passing: ProxiedResponse::default(),
            taken: Vec::new(),
            hold: None,
            is_stream: false,
            waited: None,
            min_version_lines: Vec::new(),
            min_version: MinVersion::default(),
        }
    }

    /// Notes the connection that the request came by.
    pub(crate) fn set_connection(&mut self, connection: ConnectionInfo, headers: &HeaderMap) {
        let ConnectionInfo { peer, signals, listener, shown, hold } = connection;
        self.hold = hold;
        self.signals = Some(signals);
        self.entry = self.site.plan.entries.get(listener).cloned();
        let scheme = self.entry.as_ref().map_or(RequestScheme::Http, |entry| entry.scheme);
        self.client = ClientAddress::of(peer.ip(), scheme, headers, &self.site.trusted);
        self.by_proxy = self.site.trusted.contains(peer.ip().to_canonical());
        self.shown = shown;
    }

    /// The scheme that its client used.
    pub(crate) fn scheme(&self) -> RequestScheme {
        self.client.scheme
    }

    /// The subject of its client's certificate, if an origin is told of it, and the field that carries it.
    pub(crate) fn subject(&self) -> Option<(&HeaderName, &HeaderValue)> {
        let name = self.entry.as_ref()?.subject.as_ref()?;
        Some((name, self.shown.as_ref()?.subject.as_ref()?))
    }

    /// Its path in the form by which rules are chosen.
    pub(crate) fn path_of<'r>(&'r self, request: &'r RequestHeader) -> &'r str {
        self.path.as_str(request.uri.path())
    }

    /// The route that it would match with this method.
    pub(crate) fn find_route(&self, request: &RequestHeader, method: &Method) -> RouteMatch<'_> {
        self.site.routes.find(request_host(request), &self.path, request.uri.path(), method)
    }

    /// Notes that it is refused because of its token.
    pub(crate) fn refuse_token(&mut self, error: TokenError) -> RejectReason {
        self.refused_token = Some(error);
        RejectReason::Token
    }

    /// The configuration of its route.
    pub(crate) fn routed(&self) -> Option<&RouteConfig> {
        self.site.plan.config.routes.get(self.route?)
    }

    /// The runtime state of its route.
    pub(crate) fn at_hand(&self) -> Option<&RouteRuntime> {
        self.site.per_route.get(self.route?)
    }

    /// Returns the statistics of the time that fills of its route take.
    pub(crate) fn usual_fill_time(&self) -> Arc<UsualFillTime> {
        self.at_hand().map(|at_hand| at_hand.usual.clone()).unwrap_or_default()
    }

    /// Keeps the answer's own `Date`, instead of the current time.
    pub(crate) fn dated(&self, headers: &HeaderMap) {
        if let Some(signals) = &self.signals {
            signals.date.store(response_date(headers), Ordering::Relaxed);
        }
    }

    /// Has the pieces of the next body flushed as they come.
    pub(crate) fn flows_at_once(&self) {
        if let Some(signals) = &self.signals {
            signals.at_once.store(true, Ordering::Relaxed);
        }
    }

    /// Tells the connection whether (more of) the request's body is awaited; if it is, `body_timeout` applies
    /// to the client.
    pub(crate) fn wants_body(&self, wanted: bool) {
        if let Some(signals) = &self.signals {
            signals.wants_body(wanted);
        }
    }

    /// The reason for which the connection, or its stream, was cut off.
    pub(crate) fn was_cut(&self) -> Option<CutReason> {
        self.signals.as_ref()?.was_cut()
    }

    /// The request id as text.
    pub(crate) fn id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }
}

/// The host of a request: HTTP/2 has it in the target.
pub(crate) fn request_host(request: &RequestHeader) -> Option<&str> {
    match request.headers.get(header::HOST) {
        Some(host) => host.to_str().ok(),
        None => request.uri.authority().map(http::uri::Authority::as_str),
    }
}
