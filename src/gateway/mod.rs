//! The full lane: the order of a request, phase by phase, on Pingora's `ProxyHttp`.
//!
//! Only the order stands here; each phase calls one module that decides. What can be answered without the origin
//! is answered in `request_filter`, everything else Pingora proxies.

mod cached;
mod context;
mod forward;
mod refusal;

pub use context::Context;

use crate::{
    cache::{Cache, FetchError},
    config::{Auth, CacheMode, CacheRules, Coding, Config, Route, Scope},
    events::{Endpoint, Events},
    identity::{self, Identity, Remembered, Verifier},
    limits,
    origin::{client, Origins},
    representation::problem::Problem,
    route::{Match, Routes},
    telemetry::{
        access::{AccessLog, Record},
        labels::{CacheResult, EventResult, OriginOutcome, RejectReason, TokenResult},
        metrics::{Metrics, RouteMetrics},
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use context::{RequestIds, Upstream};
use http::{header, HeaderName, HeaderValue, Method, StatusCode};
use pingora_core::{
    modules::http::HttpModules,
    upstreams::peer::{H1UpgradePolicy, HttpPeer},
    Error, ErrorType,
};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use std::{
    any::Any,
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    time::{Duration, Instant, SystemTime},
};

/// RFC 9211
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What stands for a route's name where there is none.
const UNROUTED: &str = "none";

type Result<T> = pingora_core::Result<T>;

/// What a connection tells the gateway of itself, with each request.
pub struct OnConnection {
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// To be set when a request has been read.
    pub handled: Arc<AtomicBool>,
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
    /// The access log, if it is wanted.
    pub access: Option<AccessLog>,
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
    prefer: Vec<Coding>,
}

struct PerRoute {
    metrics: Arc<RouteMetrics>,
    rules: Option<Arc<CacheRules>>,
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
            rules: match &route.cache {
                CacheMode::Off => None,
                CacheMode::Versioned(rules) => Some(Arc::new((**rules).clone())),
            },
        };
        Self {
            routes: Routes::new(&parts.config.routes),
            per_route: parts.config.routes.iter().map(per_route).collect(),
            unrouted: parts.metrics.route(UNROUTED),
            ids: RequestIds::new(),
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
        let (route, rules) = (&self.parts.config.routes[index], self.per_route[index].rules.as_ref());
        if let Err(reason) = self.admit(route, rules, session.req_header(), ctx) {
            return Box::pin(self.refuse(session, ctx, reason)).await;
        }
        match rules {
            Some(rules) if matches!(session.req_header().method, Method::GET | Method::HEAD) => {
                self.answer_cached(session, ctx, route, rules).await
            }
            Some(_) => {
                ctx.detail = Some("method");
                Ok(Next::Proxy)
            }
            None => Ok(Next::Proxy),
        }
    }

    /// Whether a route takes a request: its size, its upgrade, its token.
    fn admit(
        &self,
        route: &Route,
        rules: Option<&Arc<CacheRules>>,
        request: &RequestHeader,
        ctx: &mut Context,
    ) -> std::result::Result<(), RejectReason> {
        if content_length(request).is_some_and(|length| length > route.max_body) {
            return Err(RejectReason::BodyTooLarge);
        }
        if route.websocket.is_none() && wants_websocket(request) {
            return Err(RejectReason::UpgradeRefused);
        }
        ctx.identity = self.identify(route, rules, request)?;
        Ok(())
    }

    /// Who asks. Where the answer or the route depends on it, a token has to verify; elsewhere one that does not
    /// is none of the gateway's business and passes on to the origin.
    fn identify(
        &self,
        route: &Route,
        rules: Option<&Arc<CacheRules>>,
        request: &RequestHeader,
    ) -> std::result::Result<Option<Arc<Identity>>, RejectReason> {
        let scope = rules.map(|rules| rules.scope);
        let Some(verifier) = self.parts.verifier.as_ref().filter(|_| route.auth != Auth::Off) else {
            return Ok(None);
        };
        let needed = route.auth == Auth::Required || scope == Some(Scope::User);
        let matters = needed || scope == Some(Scope::Tenant);
        if !matters && scope == Some(Scope::Public) {
            return Ok(None);
        }
        let token = match token(route, request) {
            Ok(Some(token)) => token,
            Ok(None) if needed => return Err(RejectReason::TokenMissing),
            Ok(None) => return Ok(None),
            Err(_) if matters => return Err(RejectReason::Token),
            Err(_) => return Ok(None),
        };
        match verifier.verify(&token, SystemTime::now()) {
            // An answer for one user can't be told from another's where nobody says who it is.
            Ok((identity, _)) if scope == Some(Scope::User) && identity.user.is_none() => {
                self.parts.metrics.token(TokenResult::Refused);
                Err(RejectReason::Token)
            }
            Ok((identity, remembered)) => {
                self.parts.metrics.token(match remembered {
                    Remembered::Yes => TokenResult::Remembered,
                    Remembered::No => TokenResult::Verified,
                });
                Ok(Some(identity))
            }
            Err(error) => {
                self.parts.metrics.token(TokenResult::Refused);
                tracing::debug!(reason = error.as_str(), "a token was refused");
                if matters {
                    Err(RejectReason::Token)
                } else {
                    Ok(None)
                }
            }
        }
    }

    async fn take_event(&self, session: &mut Session, ctx: &mut Context, at: &Endpoint) -> Result<Next> {
        if session.req_header().method != Method::POST {
            let problem = refusal::method_not_allowed(&[Method::POST]);
            return self.refuse_with(session, ctx, RejectReason::MethodNotAllowed, problem).await;
        }
        ctx.result = CacheResult::Local;
        let events = &self.parts.events;
        let Some(body) = read_body(session, at.settings.max_body).await? else {
            return self.end_event(session, ctx, EventResult::TooLarge).await;
        };
        let result = events.take(at, &session.req_header().headers, &body).await;
        if result != EventResult::Accepted {
            return self.end_event(session, ctx, result).await;
        }
        if let Some(origin) = at.settings.forward {
            return self.forward_event(session, ctx, at, origin, body).await;
        }
        let result = events.remember(at, &session.req_header().headers).await;
        self.end_event(session, ctx, result).await
    }

    async fn end_event(&self, session: &mut Session, ctx: &mut Context, result: EventResult) -> Result<Next> {
        self.parts.metrics.event(result);
        ctx.detail = Some(result.as_str());
        if let Some(problem) = refusal::event(result) {
            return self.send_problem(session, ctx, problem).await;
        }
        let mut head = Box::new(ResponseHeader::build(StatusCode::NO_CONTENT, Some(8))?);
        self.mark(&mut head, ctx, &HeaderValue::from_static("tidegate; detail=event"))?;
        self.send(session, head, Bytes::new()).await
    }

    /// The origin gets the verified event as well, and its answer is the sender's. What the origin did not take is
    /// not remembered: the sender may send it again.
    async fn forward_event(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        at: &Endpoint,
        origin: usize,
        body: Bytes,
    ) -> Result<Next> {
        /// The largest answer to an event that is passed back.
        const ANSWER: u64 = 1 << 20;
        let request = session.req_header();
        let kept = |name: &HeaderName| name.as_str().starts_with("webhook-") || *name == header::CONTENT_TYPE;
        let kept = request.headers.iter().filter(|(name, _)| kept(name));
        let ask = client::Ask {
            method: Method::POST,
            target: request.uri.path().to_owned(),
            host: host(request).map(str::to_owned),
            headers: kept.map(|(n, v)| (n.clone(), v.clone())).collect(),
            body,
        };
        match self.parts.origins.ask(origin, &ask, ANSWER).await {
            Ok(got) => {
                let taken = match got.status.is_server_error() {
                    true => EventResult::Accepted,
                    false => self.parts.events.remember(at, &session.req_header().headers).await,
                };
                self.parts.metrics.event(taken);
                if let Some(problem) = refusal::event(taken) {
                    return self.send_problem(session, ctx, problem).await;
                }
                ctx.detail = Some(taken.as_str());
                let mut head = Box::new(ResponseHeader::build(got.status, Some(8))?);
                if let Some(kind) = got.headers.get(header::CONTENT_TYPE) {
                    head.insert_header(header::CONTENT_TYPE, kind.clone())?;
                }
                if got.status != StatusCode::NO_CONTENT {
                    head.insert_header(header::CONTENT_LENGTH, got.body.len())?;
                }
                self.mark(&mut head, ctx, &HeaderValue::from_static("tidegate; fwd=method"))?;
                self.send(session, head, got.body).await
            }
            Err(error) => {
                tracing::warn!(%error, "an event was not forwarded");
                self.send_problem(session, ctx, refusal::no_answer(cached::fetch_error(&error))).await
            }
        }
    }

    async fn refuse(&self, session: &mut Session, ctx: &mut Context, reason: RejectReason) -> Result<Next> {
        self.refuse_with(session, ctx, reason, refusal::problem(reason)).await
    }

    async fn refuse_with(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        reason: RejectReason,
        problem: Problem,
    ) -> Result<Next> {
        self.parts.metrics.rejected(reason);
        ctx.result = CacheResult::Local;
        ctx.detail = Some(reason.as_str());
        self.send_problem(session, ctx, problem).await
    }

    async fn send_problem(&self, session: &mut Session, ctx: &Context, problem: Problem) -> Result<Next> {
        let (mut head, body) = problem.into_parts(ctx.id());
        let status = format!("tidegate; detail={}", ctx.detail.unwrap_or("refused"));
        self.mark(
            &mut head,
            ctx,
            &HeaderValue::from_str(&status).unwrap_or(HeaderValue::from_static("tidegate")),
        )?;
        let body = if session.req_header().method == Method::HEAD { Bytes::new() } else { body };
        self.send(session, head, body).await
    }

    /// What every answer carries.
    fn mark(&self, head: &mut ResponseHeader, ctx: &Context, cache_status: &HeaderValue) -> Result<()> {
        head.insert_header(CACHE_STATUS, cache_status.clone())?;
        head.insert_header(forward::REQUEST_ID, ctx.request_id.clone())
    }

    /// Sends a whole answer.
    async fn send(&self, session: &mut Session, head: Box<ResponseHeader>, body: Bytes) -> Result<Next> {
        let downstream = &mut session.downstream_session;
        downstream.write_response_header(head).await?;
        downstream.write_response_body(body, true).await?;
        Ok(Next::Answered)
    }

    /// The pool learns once what became of a proxied request.
    fn report(&self, ctx: &mut Context, outcome: OriginOutcome) {
        if let Some(upstream) = ctx.upstream.as_mut().filter(|upstream| !upstream.reported) {
            upstream.reported = true;
            upstream.pool.report(upstream.server, outcome);
        }
    }
}

/// The token of a request: the header's, else the query's where the route reads it.
fn token<'r>(
    route: &Route,
    request: &'r RequestHeader,
) -> std::result::Result<Option<Cow<'r, str>>, identity::TokenError> {
    if let Some(token) = identity::bearer(&request.headers)? {
        return Ok(Some(token.into()));
    }
    match request.uri.query().filter(|_| route.token_query) {
        Some(query) => Ok(identity::query_token(query)),
        None => Ok(None),
    }
}

/// The host that a request names: HTTP/2 puts it into the target.
fn host(request: &RequestHeader) -> Option<&str> {
    match request.headers.get(header::HOST) {
        Some(host) => host.to_str().ok(),
        None => request.uri.authority().map(http::uri::Authority::as_str),
    }
}

fn content_length(request: &RequestHeader) -> Option<u64> {
    request.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn wants_websocket(request: &RequestHeader) -> bool {
    let upgrade = request.headers.get(header::UPGRADE).and_then(|v| v.to_str().ok());
    upgrade.is_some_and(|to| to.eq_ignore_ascii_case("websocket"))
}

/// The whole body; `None` if it is larger than `most` bytes.
async fn read_body(session: &mut Session, most: u64) -> Result<Option<Bytes>> {
    if content_length(session.req_header()).is_some_and(|length| length > most) {
        return Ok(None);
    }
    if session.req_header().headers.contains_key(header::EXPECT) {
        session.downstream_session.write_continue_response().await?;
    }
    let mut body = Vec::new();
    while let Some(chunk) = session.downstream_session.read_request_body().await? {
        if (body.len() + chunk.len()) as u64 > most {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.into()))
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::new()
    }

    /// No modules: Pingora's compression is not for us (see the decision on encodings).
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    fn on_connection_reuse(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        from: Box<dyn Any + Send + Sync>,
    ) {
        ctx.request_id = self.ids.of(&session.req_header().headers);
        if let Ok(connection) = from.downcast::<OnConnection>() {
            connection.handled.store(true, Ordering::Relaxed);
            ctx.peer = Some(connection.peer);
        }
    }

    async fn early_request_filter(&self, session: &mut Session, _: &mut Context) -> Result<()> {
        // Each request that is read sets the timeout back to none.
        if session.downstream_session.get_keepalive().is_some() {
            let idle = self.parts.config.server.keepalive.as_secs().max(1);
            session.downstream_session.set_keepalive(Some(idle));
        }
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        Ok(matches!(self.handle(session, ctx).await?, Next::Answered))
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        ctx.body_seen += body.as_ref().map_or(0, |b| b.len() as u64);
        match self.route(ctx) {
            // An upgraded connection has no body: its bytes have no end.
            Some(route) if ctx.body_seen > route.max_body && !session.was_upgraded() => {
                self.parts.metrics.rejected(RejectReason::BodyTooLarge);
                Error::e_explain(ErrorType::HTTPStatus(413), "the request body is too large")
            }
            _ => Ok(()),
        }
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        let Some(route) = self.route(ctx) else {
            return Error::e_explain(ErrorType::InternalError, "no route");
        };
        let pool = self.parts.origins.pool(route.origin).clone();
        let mut picked = match pool.pick() {
            Ok(picked) => picked,
            Err(nobody) => {
                let error = cached::fetch_error(&nobody.into());
                ctx.detail = Some(refusal::name_of(error));
                return Error::e_explain(
                    ErrorType::HTTPStatus(refusal::no_answer(error).status.as_u16()),
                    "nobody to ask",
                );
            }
        };
        let options = &mut picked.peer.options;
        match route.websocket {
            Some(socket) if session.is_upgrade_req() => {
                options.read_timeout = Some(socket.idle_timeout);
                session.downstream_session.set_read_timeout(Some(socket.idle_timeout));
            }
            _ => options.http_upstream_request_policy.h1_upgrade = H1UpgradePolicy::Deny,
        }
        // A retry sends the body once more.
        ctx.body_seen = 0;
        let retries = pool.settings.retries;
        ctx.retries.get_or_insert(retries);
        ctx.upstream = Some(Upstream { pool, server: picked.server, asked: Instant::now(), reported: false });
        Ok(Box::new(picked.peer))
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        forward::dress(request, ctx);
        if let Some(query) = request.uri.query().filter(|_| self.route(ctx).is_some_and(|r| r.token_query)) {
            let kept = identity::without_query_token(query);
            let path = request.uri.path();
            let target = if kept.is_empty() { path.to_owned() } else { format!("{path}?{kept}") };
            request.set_raw_path(target.as_bytes())?;
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        _: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        self.report(ctx, client::judge(head.status));
        ctx.origin_time = ctx.upstream.as_ref().map(|upstream| upstream.asked.elapsed());
        for name in forward::undress(&head.headers) {
            head.remove_header(&name);
        }
        let status = cached::forwarded(ctx);
        self.mark(head, ctx, &status)
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        self.report(ctx, client::blame(&error));
        // Nothing was sent yet: any request may try another server.
        error.set_retry(self.may_retry(ctx));
        error
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Context,
        client_reused: bool,
    ) -> Box<Error> {
        let mut error = error.more_context(format!("peer: {peer}"));
        let idempotent = session.req_header().method.is_idempotent();
        if !idempotent || session.as_ref().retry_buffer_truncated() {
            error.set_retry(false);
        } else {
            error.retry.decide_reuse(client_reused);
        }
        if *error.esource() == pingora_core::ErrorSource::Upstream && !client_reused {
            self.report(ctx, client::blame(&error));
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        let status = match (error.etype(), error.esource()) {
            (ErrorType::HTTPStatus(code), _) => *code,
            (ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError, source)
                if *source == pingora_core::ErrorSource::Downstream =>
            {
                return FailToProxy { error_code: 0, can_reuse_downstream: false };
            }
            (_, source) if *source == pingora_core::ErrorSource::Downstream => 400,
            (etype, source) if *source == pingora_core::ErrorSource::Upstream => match client::blame(error) {
                OriginOutcome::Timeout => 504,
                _ => {
                    tracing::debug!(?etype, "the origin failed");
                    502
                }
            },
            _ => 500,
        };
        let started = session.response_written().is_some_and(|head| !head.status.is_informational());
        if !started {
            self.answer_failure(session, ctx, status).await;
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        let status = session.response_written().map_or(0, |head| head.status.as_u16());
        let bytes = session.body_bytes_sent() as u64;
        if let Some(error) = error.filter(|_| status >= 500 || status == 0) {
            tracing::debug!(%error, "a request failed");
        }
        let duration = ctx.began.elapsed();
        let metrics = ctx.route.map_or(&self.unrouted, |route| &self.per_route[route].metrics);
        metrics.record(ctx.result, status, duration.as_secs_f64(), bytes);
        if let Some(access) = self.parts.access.as_ref().filter(|access| access.is_on()) {
            access.record(self.record(session, ctx, status, bytes, duration));
        }
    }

    /// Pingora's own lines would show the query, and with it a token: what happened is in the access record.
    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Context, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }

    fn request_summary(&self, session: &Session, ctx: &Context) -> String {
        let request = session.req_header();
        format!("{} {} {}", request.method, request.uri.path(), ctx.id())
    }
}

impl Gateway {
    fn may_retry(&self, ctx: &mut Context) -> bool {
        let left = ctx.retries.unwrap_or(0);
        let affordable = left > 0 && ctx.upstream.as_ref().is_some_and(|upstream| upstream.pool.may_retry());
        if affordable {
            ctx.retries = Some(left - 1);
        }
        affordable
    }

    /// The answer to a request that could not be proxied. The connection ends after it.
    async fn answer_failure(&self, session: &mut Session, ctx: &mut Context, status: u16) {
        ctx.result = if status < 500 { CacheResult::Local } else { CacheResult::Error };
        let problem = match status {
            413 => refusal::problem(RejectReason::BodyTooLarge),
            400..=499 => refusal::problem(RejectReason::BadRequest),
            502 => refusal::no_answer(FetchError::Unreachable),
            503 => refusal::no_answer(FetchError::BreakerOpen),
            504 => refusal::no_answer(FetchError::Timeout),
            _ => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the gateway failed"),
        };
        ctx.detail = ctx.detail.or(Some(if status < 500 { "refused" } else { "origin-failed" }));
        session.downstream_session.set_keepalive(None);
        if let Err(error) = self.send_problem(session, ctx, problem).await {
            tracing::debug!(%error, "the client left before it was told");
        }
    }

    fn record(
        &self,
        session: &Session,
        ctx: &Context,
        status: u16,
        bytes: u64,
        duration: Duration,
    ) -> Record {
        let request = session.req_header();
        Record {
            time: SystemTime::now(),
            request_id: ctx.id().to_owned(),
            client: ctx.peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip()),
            method: request.method.clone(),
            host: host(request).unwrap_or_default().to_owned(),
            path: request.uri.path().to_owned(),
            status,
            bytes,
            duration,
            route: self.route(ctx).map(|route| route.name.clone()),
            tenant: ctx.identity.as_ref().map(|identity| identity.tenant.clone()),
            result: ctx.result,
            detail: ctx.detail,
            origin: ctx.origin_time,
            version: request.version,
        }
    }
}
