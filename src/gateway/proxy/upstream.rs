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
        context::{attempt::ContextServer, RequestContext},
        request::websocket::prepare_websocket,
        respond::errors,
        services::GatewayServices,
        session::GatewaySession,
    },
    identity::tenant_of,
    origin::{
        client,
        retry::{FailedAttempt, NextAttempt, RequestSource, RetryRequest, RetryTally},
        servers::{choice::LoadBalancing, ServerAttempt, ServerGroup},
        sticky,
    },
    telemetry::labels::OriginOutcome,
};

use bytes::Bytes;
use http::{header, Method};
use pingora_core::{
    upstreams::peer::{H1UpgradePolicy, HttpPeer},
    Error, ErrorSource, ErrorType, Result, RetryType,
};
use pingora_http::ResponseHeader;
use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

/// The time by which the timeout for a server exceeds that for its client.
const CLIENT_MARGIN: Duration = Duration::from_secs(1);

/// The server for a request, as a peer of Pingora's.
pub(crate) async fn find_peer(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
) -> Result<Box<HttpPeer>> {
    set_preferences(session, ctx);
    session.while_connected(pin!(find_server(services, ctx))).await??;
    let began = ctx.began;
    let found = ctx.upstream.as_ref().and_then(|to| to.pool.peer(to.at(began)));
    let Some((mut peer, reached)) = found else {
        return Err(no_server_error(ctx, OriginFetchError::Unreachable));
    };
    if let Some(upstream) = &mut ctx.upstream {
        upstream.reached = Some(reached);
    }
    match &mut ctx.handshake {
        Some(handshake) => prepare_websocket(services, &mut peer, handshake),
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
pub(crate) fn set_preferences(session: &GatewaySession<'_>, ctx: &mut RequestContext) {
    let origin = ctx.routed().and_then(|route| route.target.origin());
    if let (Some(origin), None) = (origin, &ctx.seeking.choice) {
        let choice = ctx.site.plan.origins.pool(origin).choice(&choice_context(session, ctx));
        ctx.seeking.choice = Some(choice);
    }
}

/// Chooses a server for a request, and takes a place at it.
pub(crate) async fn find_server(services: &GatewayServices, ctx: &mut RequestContext) -> Result<()> {
    let site = ctx.site.clone();
    let Some(origin) = ctx.routed().and_then(|route| route.target.origin()) else {
        return Error::e_explain(ErrorType::InternalError, "no route");
    };
    let pool = site.plan.origins.pool(origin);
    let limit = pool.settings.request_timeout.filter(|_| ctx.handshake.is_none());
    ctx.seeking.deadline.get_or_insert_with(|| limit.map(|limit| Instant::now() + limit));
    ctx.seeking.tally.get_or_insert_with(|| RetryTally::new(pool.settings.retries));
    // The place at the failed server is released before another one is waited for.
    drop(ctx.upstream.take());
    if let Some(pause) = ctx.seeking.pause.take() {
        tokio::time::sleep(pause).await;
    }
    let asked = take_server(ctx, pool).await;
    ctx.upstream = Some(asked.map_err(|error| no_server_error(ctx, error))?);
    // A retry sends the whole body again.
    ctx.body_seen = 0;
    if site.follows {
        ctx.passing.sent = Some(services.cache.sent());
    }
    Ok(())
}

async fn take_server(
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
    let picked = picked.map_err(|nobody| errors::fetch_error(&nobody.into()))?;
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
pub(crate) fn observe_head(session: &GatewaySession<'_>, head: &ResponseHeader, ctx: &mut RequestContext) {
    let took = ctx.upstream.as_ref().map(|upstream| upstream.asked.elapsed());
    // With a body, the time is the client's as well.
    report_outcome(ctx, client::classify_status(head.status), took.filter(|_| ctx.body_seen == 0));
    let Some(upstream) = &ctx.upstream else { return };
    ctx.origin_time = took;
    upstream.pool.heed(upstream.at(ctx.began), head.status, &head.headers);
    let query = session.req_header().uri.query();
    ctx.seeking.ear = upstream.pool.ear(upstream.endpoint, query, head.status, &head.headers);
}

/// Processes a piece of a server's answer, unchanged.
///
/// # Errors
/// If `request_timeout` has passed.
pub(crate) fn observe_piece(piece: Option<&Bytes>, end: bool, ctx: &mut RequestContext) -> Result<()> {
    if let (Some(ear), Some(upstream)) = (&mut ctx.seeking.ear, &ctx.upstream) {
        upstream.pool.hear(ear, piece.map(|piece| &piece[..]), end);
    }
    match ctx.seeking.is_late() && !end {
        true => Err(timeout_error()),
        false => Ok(()),
    }
}

/// Reports the outcome of a proxied request to the pool, once; `took`: the time to the head of its answer.
fn report_outcome(ctx: &mut RequestContext, outcome: OriginOutcome, took: Option<Duration>) {
    let began = ctx.began;
    if let Some(upstream) = ctx.upstream.as_mut().filter(|upstream| !upstream.reported) {
        upstream.reported = true;
        upstream.pool.report(ServerAttempt { took, ..upstream.at(began) }, outcome);
    }
}

/// Handles a failed connection.
pub(crate) fn on_connect_failure(
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    error: &mut Error,
) {
    if let Some(upstream) = &ctx.upstream {
        upstream.pool.tell(upstream.server, error);
    }
    let outcome = client::classify_error(error);
    report_outcome(ctx, outcome, None);
    let was_trial = may_leave_trial(session, ctx);
    let failed = FailedAttempt { was_sent: false, was_trial, ..FailedAttempt::of_server(outcome) };
    error.set_retry(next_attempt(session, ctx, failed).is_some());
}

/// Handles a failure after at least a part of the request was sent.
pub(crate) fn on_exchange_failure(
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    error: &mut Error,
    reused: bool,
) {
    let (outcome, by_server) = (client::classify_error(error), *error.esource() == ErrorSource::Upstream);
    let failed = FailedAttempt {
        outcome,
        by_server,
        was_sent: true,
        is_unprocessed: client::is_unprocessed(error),
        was_reused: reused && matches!(error.retry, RetryType::ReusedOnly),
        is_retryable: matches!(error.retry, RetryType::Decided(true)),
        was_trial: may_leave_trial(session, ctx),
    };
    let next = next_attempt(session, ctx, failed);
    error.set_retry(next.is_some());
    if next.is_some_and(|next| next.is_excused) {
        return;
    }
    // A server that waits for the rest of a request is not slow: its client is.
    let waited = *error.etype() == ErrorType::ReadTimedout && !session.is_body_done();
    let has_hung = outcome == OriginOutcome::Timeout
        && ctx.upstream.as_ref().is_some_and(|upstream| upstream.trial.is_some());
    if by_server && (!reused || has_hung) && !waited {
        if let Some(upstream) = &ctx.upstream {
            upstream.pool.tell(upstream.server, error);
        }
        report_outcome(ctx, outcome, None);
    }
}

/// Returns true if an attempt is the trial of a server that hung, and the request may be sent to another one.
fn may_leave_trial(session: &mut GatewaySession<'_>, ctx: &RequestContext) -> bool {
    ctx.upstream.as_ref().is_some_and(|upstream| upstream.trial.is_some()) && is_tried_with(session)
}

/// Decides whether a request is sent again after a failed attempt, and prepares that.
fn next_attempt(
    session: &GatewaySession<'_>,
    ctx: &mut RequestContext,
    failed: FailedAttempt,
) -> Option<NextAttempt> {
    let can_be_sent = !session.retry_buffer_truncated() && session.answered().is_none();
    let request = RetryRequest::new(RequestSource::Client, &session.req_header().method, can_be_sent);
    let is_late = ctx.seeking.is_late();
    let (upstream, tally) = (ctx.upstream.as_ref()?, ctx.seeking.tally.as_mut()?);
    let next = tally.settle(request, failed, is_late, || upstream.pool.may_retry())?;
    ctx.seeking.pause = next.pause;
    if let Some(choice) = ctx.seeking.choice.as_mut().filter(|_| next.elsewhere) {
        choice.avoid_server(upstream.server, upstream.address);
    }
    Some(next)
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

/// Returns true if a server that hung may be tried with this request under a short timeout: it must be
/// possible to send the request to another server then.
pub(crate) fn is_tried_with(session: &mut GatewaySession<'_>) -> bool {
    matches!(session.req_header().method, Method::GET | Method::HEAD) && session.is_body_done()
}
