//! The search for a server for a proxied request: the choice, its timeouts, and retries.
//!
//! A request goes to the server of its session, or else to the one that the origin's balance chooses. If all
//! servers are at their limit, it waits in the queue. `request_timeout` bounds the whole exchange: the rest
//! of it bounds each connection and each read, and is checked with every piece of a body. It does not apply
//! to upgraded connections.

use crate::{
    address::RequestScheme,
    cache::OriginFetchError,
    config,
    gateway::{
        cache::versioned, context::attempt::ContextServer, proxy::native, respond::errors,
        session::GatewaySession, Gateway, RequestContext, Result,
    },
    identity::tenant_of,
    origin::{
        client,
        servers::{choice::LoadBalancing, ServerGroup},
        sticky,
    },
    telemetry::labels::OriginOutcome,
};

use bytes::Bytes;
use http::header;
use pingora_core::{
    upstreams::peer::{H1UpgradePolicy, HttpPeer},
    Error, ErrorSource, ErrorType,
};
use pingora_http::ResponseHeader;
use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

/// The time by which the timeout for a server exceeds that for its client.
const CLIENT_MARGIN: Duration = Duration::from_secs(1);

impl Gateway {
    /// The server for a request, as a peer of Pingora's.
    pub(crate) async fn peer(
        &self,
        session: &mut GatewaySession<'_>,
        ctx: &mut RequestContext,
    ) -> Result<Box<HttpPeer>> {
        self.choose(session, ctx);
        session.while_connected(pin!(self.seek(ctx))).await??;
        let began = ctx.began;
        let found = ctx.upstream.as_ref().and_then(|to| to.pool.peer(to.at(began)));
        let Some((mut peer, reached)) = found else {
            return Err(no_server_error(ctx, OriginFetchError::Unreachable));
        };
        if let Some(upstream) = &mut ctx.upstream {
            upstream.reached = Some(reached);
        }
        match &mut ctx.handshake {
            Some(handshake) => self.prepare_websocket(&mut peer, handshake),
            None => {
                peer.options.http_upstream_request_policy.h1_upgrade = H1UpgradePolicy::Deny;
                if !session.is_body_done() {
                    // While a body is being read, the client is waited for, and Pingora has one timeout for
                    // both sides.
                    let pause = ctx.site.plan.config.server.clients.body_timeout + CLIENT_MARGIN;
                    let time = &mut peer.options.read_timeout;
                    *time = time.map(|time| time.max(pause));
                }
                // HTTP/2 streams share a connection: a slow body of one must not affect the others.
                ctx.wants_body(!session.is_http2() && !session.is_body_done());
            }
        }
        if let Some(left) = ctx.seeking.left() {
            let options = &mut peer.options;
            let times = [
                &mut options.connection_timeout,
                &mut options.total_connection_timeout,
                &mut options.read_timeout,
                &mut options.write_timeout,
            ];
            times.into_iter().for_each(|time| *time = Some(time.map_or(left, |time| time.min(left))));
        }
        Ok(Box::new(peer))
    }

    /// Determines the preferences for the choice of a server, before the first attempt.
    pub(crate) fn choose(&self, session: &GatewaySession<'_>, ctx: &mut RequestContext) {
        let origin = ctx.routed().and_then(|route| route.target.origin());
        if let (Some(origin), None) = (origin, &ctx.seeking.choice) {
            let choice = ctx.site.plan.origins.pool(origin).choice(&choice_context(session, ctx));
            ctx.seeking.choice = Some(choice);
        }
    }

    /// Chooses a server for a request, and takes a place at it.
    pub(crate) async fn seek(&self, ctx: &mut RequestContext) -> Result<()> {
        let site = ctx.site.clone();
        let Some(origin) = ctx.routed().and_then(|route| route.target.origin()) else {
            return Error::e_explain(ErrorType::InternalError, "no route");
        };
        let pool = site.plan.origins.pool(origin);
        let limit = pool.settings.request_timeout.filter(|_| ctx.handshake.is_none());
        ctx.seeking.deadline.get_or_insert_with(|| limit.map(|limit| Instant::now() + limit));
        ctx.seeking.left.get_or_insert(pool.settings.retries);
        // The place at the failed server is released before another one is waited for.
        if ctx.upstream.take().is_some() && ctx.seeking.retried > 0 {
            tokio::time::sleep(client::retry_pause(ctx.seeking.retried - 1)).await;
        }
        let asked = self.upstream_for(ctx, pool).await;
        ctx.upstream = Some(asked.map_err(|error| no_server_error(ctx, error))?);
        // A retry sends the whole body again.
        ctx.body_seen = 0;
        if site.follows {
            ctx.passing.sent = Some(self.parts.cache.sent());
        }
        Ok(())
    }

    async fn upstream_for(
        &self,
        ctx: &mut RequestContext,
        pool: &Arc<ServerGroup>,
    ) -> std::result::Result<ContextServer, OriginFetchError> {
        let left = ctx.seeking.left();
        if left.is_some_and(|left| left.is_zero()) {
            return Err(OriginFetchError::Timeout);
        }
        let Some(choice) = &ctx.seeking.choice else { return Err(OriginFetchError::Unreachable) };
        let picking = pool.pick(choice);
        let picked = match left {
            Some(left) => tokio::time::timeout(left, picking).await.map_err(|_| OriginFetchError::Timeout)?,
            None => picking.await,
        };
        let picked = picked.map_err(|nobody| versioned::fetch_error(&nobody.into()))?;
        Ok(ContextServer {
            pool: pool.clone(),
            server: picked.server,
            address: picked.address,
            endpoint: picked.endpoint,
            under_way: picked.under_way,
            asked: Instant::now(),
            trial: picked.trial,
            reached: None,
            reported: false,
        })
    }

    /// Processes the head of a server's answer, unchanged.
    pub(crate) fn heed(&self, session: &GatewaySession<'_>, head: &ResponseHeader, ctx: &mut RequestContext) {
        self.report(ctx, client::classify_status(head.status));
        let Some(upstream) = &ctx.upstream else { return };
        ctx.origin_time = Some(upstream.asked.elapsed());
        upstream.pool.heed(upstream.at(ctx.began), head.status, &head.headers);
        let query = session.req_header().uri.query();
        ctx.seeking.ear = upstream.pool.ear(upstream.endpoint, query, head.status, &head.headers);
    }

    /// Processes a piece of a server's answer, unchanged.
    ///
    /// # Errors
    /// If `request_timeout` has passed.
    pub(crate) fn hear(&self, piece: Option<&Bytes>, end: bool, ctx: &mut RequestContext) -> Result<()> {
        if let (Some(ear), Some(upstream)) = (&mut ctx.seeking.ear, &ctx.upstream) {
            upstream.pool.hear(ear, piece.map(|piece| &piece[..]), end);
        }
        match ctx.seeking.is_late() && !end {
            true => Err(timeout_error()),
            false => Ok(()),
        }
    }

    /// Reports the outcome of a proxied request to the pool, once.
    pub(crate) fn report(&self, ctx: &mut RequestContext, outcome: OriginOutcome) {
        let began = ctx.began;
        if let Some(upstream) = ctx.upstream.as_mut().filter(|upstream| !upstream.reported) {
            upstream.reported = true;
            upstream.pool.report(upstream.at(began), outcome);
        }
    }

    /// Handles a failed connection: nothing was sent, so that any request may be retried on another server.
    pub(crate) fn not_connected(&self, ctx: &mut RequestContext, error: &mut Error) {
        if let Some(upstream) = &ctx.upstream {
            upstream.pool.tell(upstream.server, error);
        }
        self.report(ctx, client::classify_error(error));
        error.set_retry(may_retry(ctx));
    }

    /// Handles a failure after at least a part of the request was sent. A request that the server has not
    /// processed is sent again. Otherwise only an idempotent request, of whose answer the client has received
    /// nothing, is sent again: as a retry within the budget if the server broke off, and without cost if a
    /// reused connection had been closed and the method is safe. After a timeout there is no retry: the
    /// client has waited long enough.
    pub(crate) fn broke(
        &self,
        session: &mut GatewaySession<'_>,
        ctx: &mut RequestContext,
        error: &mut Error,
        reused: bool,
    ) {
        let upstream = *error.esource() == ErrorSource::Upstream;
        let can_be_sent = !session.retry_buffer_truncated() && session.answered().is_none();
        if upstream && can_be_sent && client::is_unprocessed(error) && may_repeat(ctx) {
            error.set_retry(true);
            return;
        }
        let blame = client::classify_error(error);
        // A server that waits for the rest of a request is not slow: its client is.
        let waited = *error.etype() == ErrorType::ReadTimedout && !session.is_body_done();
        let is_trial = ctx.upstream.as_ref().is_some_and(|upstream| upstream.trial.is_some());
        let is_trial = is_trial && upstream && blame == OriginOutcome::Timeout;
        if upstream && (!reused || is_trial) && !waited {
            if let Some(upstream) = &ctx.upstream {
                upstream.pool.tell(upstream.server, error);
            }
            self.report(ctx, blame);
        }
        if !can_be_sent || !session.req_header().method.is_idempotent() {
            error.set_retry(false);
            return;
        }
        if is_trial && native::is_tried_with(session) {
            // Other servers are available, and no client should wait for a failed trial.
            error.set_retry(may_repeat(ctx));
            return;
        }
        error.retry.decide_reuse(reused && session.req_header().method.is_safe());
        if !error.retry() && upstream && blame == OriginOutcome::Broken {
            error.set_retry(may_retry(ctx));
        }
    }
}

/// Allows a request that its server has not processed to be sent again without cost, preferably to another
/// server, and a limited number of times.
fn may_repeat(ctx: &mut RequestContext) -> bool {
    let Some(upstream) = &ctx.upstream else { return false };
    if ctx.seeking.refused_by == client::MOST_REFUSALS || ctx.seeking.is_late() {
        return false;
    }
    if let Some(choice) = &mut ctx.seeking.choice {
        choice.avoid_server(upstream.server, upstream.address);
    }
    ctx.seeking.refused_by += 1;
    ctx.seeking.retried += 1;
    true
}

/// Allows a retry: within the origin's budget, and preferably on another server.
fn may_retry(ctx: &mut RequestContext) -> bool {
    let Some(upstream) = &ctx.upstream else { return false };
    if let Some(choice) = &mut ctx.seeking.choice {
        choice.avoid_server(upstream.server, upstream.address);
    }
    let left = ctx.seeking.left.unwrap_or(0);
    let affordable = left > 0 && !ctx.seeking.is_late() && upstream.pool.may_retry();
    if affordable {
        ctx.seeking.left = Some(left - 1);
        ctx.seeking.retried += 1;
    }
    affordable
}

fn no_server_error(ctx: &mut RequestContext, error: OriginFetchError) -> Box<Error> {
    ctx.seeking.refused = Some(error);
    ctx.detail = Some(errors::error_name(error));
    let status = errors::fetch_problem(error).status.as_u16();
    Error::explain(ErrorType::HTTPStatus(status), "no server available")
}

/// The error after `request_timeout`. It is not counted as a failure of the server: only a read that takes
/// too long is.
pub(crate) fn timeout_error() -> Box<Error> {
    Error::explain(ErrorType::HTTPStatus(504), "the exchange exceeded its deadline")
}

fn choice_context<'r>(session: &'r GatewaySession<'_>, ctx: &'r RequestContext) -> LoadBalancing<'r> {
    let request = session.req_header();
    LoadBalancing {
        client: Some(ctx.client.address),
        path: ctx.path_of(request),
        query: request.uri.query(),
        tenant: tenant_of(ctx.identity.as_deref()).as_str(),
        cookie: ctx.seeking.cookie.as_deref(),
    }
}

/// Removes the cookie that names a server from a request: it belongs to the gateway, and must not select a
/// stored answer.
pub(crate) fn take_sticky_cookie(session: &mut GatewaySession<'_>, ctx: &mut RequestContext) -> Result<()> {
    let headers = &session.req_header().headers;
    if !headers.contains_key(header::COOKIE) {
        return Ok(());
    }
    let Some(name) = sticky_of(ctx).and_then(|sticky| sticky.cookie.as_deref()) else { return Ok(()) };
    let Some((value, kept)) = sticky::cookie_of(headers, name) else { return Ok(()) };
    ctx.seeking.cookie = Some(value);
    let request = session.req_header_mut();
    request.remove_header(&header::COOKIE);
    for value in kept {
        request.append_header(header::COOKIE, value)?;
    }
    Ok(())
}

/// Sets the cookie that names the server that has answered, after the answer has been stored, if it is.
pub(crate) fn set_sticky_cookie(head: &mut ResponseHeader, ctx: &RequestContext) -> Result<()> {
    let Some(upstream) = &ctx.upstream else { return Ok(()) };
    // A failed server gets no session.
    if sticky_of(ctx).is_none() || head.status.is_server_error() {
        return Ok(());
    }
    let has = ctx.seeking.cookie.as_deref();
    let https = ctx.scheme() == RequestScheme::Https;
    let cookie = upstream.pool.cookie(upstream.endpoint, has, &head.headers, https);
    match cookie {
        Some(cookie) => head.append_header(header::SET_COOKIE, cookie).map(|_| ()),
        None => Ok(()),
    }
}

fn sticky_of(ctx: &RequestContext) -> Option<&config::StickyConfig> {
    let origin = ctx.routed()?.target.origin()?;
    ctx.site.plan.config.origins.get(origin)?.sticky.as_ref()
}
