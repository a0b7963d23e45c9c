//! The way of a proxied request to a server: which one, how long it may take, what is tried again.
//!
//! A request goes to the server of its session, else to whom the origin's balance chooses. It waits in line where all
//! have enough to do. `request_timeout` bounds the whole exchange: what is left of it bounds each connection and each
//! read, and every piece of a body is held to it. Upgraded connections have no such end.

use super::{
    cached, context::Upstream, direct, refusal, session::Session, websocket::Hearing, Context, Gateway,
    Result,
};
use crate::{
    address::Scheme,
    cache::FetchError,
    config,
    origin::{
        client,
        pool::Pool,
        session::{Choice, Chooser},
        sticky::{self, Ear},
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

/// The time by which a server is given up on later than its client.
const BEHIND: Duration = Duration::from_secs(1);

/// What is known of a request on its way to a server.
#[derive(Default)]
pub(super) struct Seeking {
    /// The value of its cookie that names a server.
    cookie: Option<String>,
    choice: Option<Choice>,
    /// When the exchange must be over, where it is known and there is such a time.
    deadline: Option<Option<Instant>>,
    /// Repetitions so far.
    retried: u32,
    /// The number of times that a server has not begun with it.
    refused_by: u32,
    /// Retries that are left.
    left: Option<u32>,
    /// Why nobody was asked.
    pub(super) refused: Option<FetchError>,
    /// Listens for the name of a session.
    ear: Option<Ear>,
}

impl Seeking {
    /// What is left of the time for the exchange; `None`: there is no end.
    pub(super) fn left(&self) -> Option<Duration> {
        self.deadline.flatten().map(|end| end.saturating_duration_since(Instant::now()))
    }

    /// Who listens for the name of a session to what does not pass through Pingora.
    pub(super) fn hearing(&mut self, upstream: Option<&Upstream>) -> Option<Hearing> {
        let (mut ear, pool) = (self.ear.take()?, upstream?.pool.clone());
        Some(Box::new(move |piece| {
            pool.hear(&mut ear, Some(piece), false);
            ear.listens()
        }))
    }

    /// Whether the exchange has taken too long.
    pub(super) fn is_late(&self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }
}

impl Gateway {
    /// The server that a request goes to, and how Pingora reaches it.
    pub(super) async fn peer(&self, session: &mut Session<'_>, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        self.choose(session, ctx);
        session.meanwhile(pin!(self.seek(ctx))).await??;
        let began = ctx.began;
        let found = ctx.upstream.as_ref().and_then(|to| to.pool.peer(to.at(began)));
        let Some((mut peer, reached)) = found else { return Err(nobody(ctx, FetchError::Unreachable)) };
        if let Some(upstream) = &mut ctx.upstream {
            upstream.reached = Some(reached);
        }
        match &mut ctx.handshake {
            Some(handshake) => self.prepare_websocket(&mut peer, handshake),
            None => {
                peer.options.http_upstream_request_policy.h1_upgrade = H1UpgradePolicy::Deny;
                if !session.is_body_done() {
                    // While a body comes it is the client who is waited for, and Pingora knows one time for both.
                    let pause = ctx.site.plan.config.server.clients.body_timeout + BEHIND;
                    let time = &mut peer.options.read_timeout;
                    *time = time.map(|time| time.max(pause));
                }
                // The streams of HTTP/2 share a connection: what one of them lacks is not the others'.
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

    /// Settles what a request wants of the choice of a server, before it is sought for the first time.
    pub(super) fn choose(&self, session: &Session<'_>, ctx: &mut Context) {
        let origin = ctx.routed().and_then(|route| route.target.origin());
        if let (Some(origin), None) = (origin, &ctx.seeking.choice) {
            let choice = ctx.site.plan.origins.pool(origin).choice(&chooser(session, ctx));
            ctx.seeking.choice = Some(choice);
        }
    }

    /// Finds the server that a request goes to, and takes a place there.
    pub(super) async fn seek(&self, ctx: &mut Context) -> Result<()> {
        let site = ctx.site.clone();
        let Some(origin) = ctx.routed().and_then(|route| route.target.origin()) else {
            return Error::e_explain(ErrorType::InternalError, "no route");
        };
        let pool = site.plan.origins.pool(origin);
        let limit = pool.settings.request_timeout.filter(|_| ctx.handshake.is_none());
        ctx.seeking.deadline.get_or_insert_with(|| limit.map(|limit| Instant::now() + limit));
        ctx.seeking.left.get_or_insert(pool.settings.retries);
        // The place at the server that has failed is given back before another one is waited for.
        if ctx.upstream.take().is_some() && ctx.seeking.retried > 0 {
            tokio::time::sleep(client::pause(ctx.seeking.retried - 1)).await;
        }
        let asked = self.upstream_for(ctx, pool).await;
        ctx.upstream = Some(asked.map_err(|error| nobody(ctx, error))?);
        // A retry sends the body once more.
        ctx.body_seen = 0;
        if site.follows {
            ctx.passing.sent = Some(self.parts.cache.sent());
        }
        Ok(())
    }

    async fn upstream_for(
        &self,
        ctx: &mut Context,
        pool: &Arc<Pool>,
    ) -> std::result::Result<Upstream, FetchError> {
        let left = ctx.seeking.left();
        if left.is_some_and(|left| left.is_zero()) {
            return Err(FetchError::Timeout);
        }
        let Some(choice) = &ctx.seeking.choice else { return Err(FetchError::Unreachable) };
        let picking = pool.pick(choice);
        let picked = match left {
            Some(left) => tokio::time::timeout(left, picking).await.map_err(|_| FetchError::Timeout)?,
            None => picking.await,
        };
        let picked = picked.map_err(|nobody| cached::fetch_error(&nobody.into()))?;
        Ok(Upstream {
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

    /// The head of a server's answer, as it came.
    pub(super) fn heed(&self, session: &Session<'_>, head: &ResponseHeader, ctx: &mut Context) {
        self.report(ctx, client::judge(head.status));
        let Some(upstream) = &ctx.upstream else { return };
        ctx.origin_time = Some(upstream.asked.elapsed());
        upstream.pool.heed(upstream.at(ctx.began), head.status, &head.headers);
        let query = session.req_header().uri.query();
        ctx.seeking.ear = upstream.pool.ear(upstream.endpoint, query, head.status, &head.headers);
    }

    /// A piece of a server's answer, as it came.
    ///
    /// # Errors
    /// If the exchange has taken too long.
    pub(super) fn hear(&self, piece: Option<&Bytes>, end: bool, ctx: &mut Context) -> Result<()> {
        if let (Some(ear), Some(upstream)) = (&mut ctx.seeking.ear, &ctx.upstream) {
            upstream.pool.hear(ear, piece.map(|piece| &piece[..]), end);
        }
        match ctx.seeking.is_late() && !end {
            true => Err(late()),
            false => Ok(()),
        }
    }

    /// The pool learns once what became of a proxied request.
    pub(super) fn report(&self, ctx: &mut Context, outcome: OriginOutcome) {
        let began = ctx.began;
        if let Some(upstream) = ctx.upstream.as_mut().filter(|upstream| !upstream.reported) {
            upstream.reported = true;
            upstream.pool.report(upstream.at(began), outcome);
        }
    }

    /// No connection: nothing was sent, so that any request may try another server.
    pub(super) fn not_connected(&self, ctx: &mut Context, error: &mut Error) {
        if let Some(upstream) = &ctx.upstream {
            upstream.pool.tell(upstream.server, error);
        }
        self.report(ctx, client::blame(error));
        error.set_retry(may_retry(ctx));
    }

    /// A failure after the request was sent, at least in part. What the server has not begun with is sent again. Else only
    /// a request that may be repeated, and whose client has seen nothing yet, is sent again: as a paid retry where the
    /// server broke off, and at no cost where a connection that has served before was closed meanwhile and the request
    /// changes nothing. One that says nothing is not asked again: the client has waited long enough.
    pub(super) fn broke(
        &self,
        session: &mut Session<'_>,
        ctx: &mut Context,
        error: &mut Error,
        reused: bool,
    ) {
        let upstream = *error.esource() == ErrorSource::Upstream;
        let can_be_sent = !session.retry_buffer_truncated() && session.answered().is_none();
        if upstream && can_be_sent && client::is_unprocessed(error) && may_repeat(ctx) {
            error.set_retry(true);
            return;
        }
        let blame = client::blame(error);
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
        if is_trial && direct::is_tried_with(session) {
            // Others are there, and no client is to wait for a trial in vain.
            error.set_retry(may_repeat(ctx));
            return;
        }
        error.retry.decide_reuse(reused && session.req_header().method.is_safe());
        if !error.retry() && upstream && blame == OriginOutcome::Broken {
            error.set_retry(may_retry(ctx));
        }
    }
}

/// A request that its server has not begun with is sent again at no cost, preferably to another one, but not for ever.
fn may_repeat(ctx: &mut Context) -> bool {
    let Some(upstream) = &ctx.upstream else { return false };
    if ctx.seeking.refused_by == client::MOST_REFUSALS || ctx.seeking.is_late() {
        return false;
    }
    if let Some(choice) = &mut ctx.seeking.choice {
        choice.avoid(upstream.server, upstream.address);
    }
    ctx.seeking.refused_by += 1;
    ctx.seeking.retried += 1;
    true
}

/// A retry: within the origin's budget, and preferably of another server.
fn may_retry(ctx: &mut Context) -> bool {
    let Some(upstream) = &ctx.upstream else { return false };
    if let Some(choice) = &mut ctx.seeking.choice {
        choice.avoid(upstream.server, upstream.address);
    }
    let left = ctx.seeking.left.unwrap_or(0);
    let affordable = left > 0 && !ctx.seeking.is_late() && upstream.pool.may_retry();
    if affordable {
        ctx.seeking.left = Some(left - 1);
        ctx.seeking.retried += 1;
    }
    affordable
}

fn nobody(ctx: &mut Context, error: FetchError) -> Box<Error> {
    ctx.seeking.refused = Some(error);
    ctx.detail = Some(refusal::name_of(error));
    let status = refusal::no_answer(error).status.as_u16();
    Error::explain(ErrorType::HTTPStatus(status), "nobody to ask")
}

/// The exchange has taken too long. Whose fault that is nobody says: the server's is a read that takes too long.
pub(super) fn late() -> Box<Error> {
    Error::explain(ErrorType::HTTPStatus(504), "the whole exchange took too long")
}

fn chooser<'r>(session: &'r Session<'_>, ctx: &'r Context) -> Chooser<'r> {
    let request = session.req_header();
    Chooser {
        client: Some(ctx.client.address),
        path: ctx.path_of(request),
        query: request.uri.query(),
        tenant: cached::tenant(ctx.identity.as_deref()).as_str(),
        cookie: ctx.seeking.cookie.as_deref(),
    }
}

/// Takes the cookie that names a server out of a request: it is the gateway's own, and tells answers apart for nobody.
pub(super) fn take_cookie(session: &mut Session<'_>, ctx: &mut Context) -> Result<()> {
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

/// Names the server that has answered to whoever will ask again, after everything that could keep the answer has seen
/// it.
pub(super) fn set_cookie(head: &mut ResponseHeader, ctx: &Context) -> Result<()> {
    let Some(upstream) = &ctx.upstream else { return Ok(()) };
    // Where a server has failed there is no session.
    if sticky_of(ctx).is_none() || head.status.is_server_error() {
        return Ok(());
    }
    let has = ctx.seeking.cookie.as_deref();
    let https = ctx.scheme() == Scheme::Https;
    let cookie = upstream.pool.cookie(upstream.endpoint, has, &head.headers, https);
    match cookie {
        Some(cookie) => head.append_header(header::SET_COOKIE, cookie).map(|_| ()),
        None => Ok(()),
    }
}

fn sticky_of(ctx: &Context) -> Option<&config::Sticky> {
    let origin = ctx.routed()?.target.origin()?;
    ctx.site.plan.config.origins.get(origin)?.sticky.as_ref()
}
