//! Cached routes: from the request to the look-up in the cache, and from its result to the answer.

use super::{
    context::Context, dress, followed::Interim, forward, host, refusal, session::Session, websocket, Gateway,
    Hold, Next, Result, HIT,
};
use crate::{
    authority,
    cache::{
        key::{canonical_query, whose, Key, Parts},
        policy, Answer, AskOrigin, Fetch, FetchError, Fetched, Fetcher, Forward, Incoming, Look, Wanted,
    },
    clock::now_ms,
    config::{CacheRules, Route},
    files::accel::recharset,
    identity::Identity,
    name::Tenant,
    origin::{
        client::{is_malformed, Answering, Ask, AskError},
        pool::Nobody,
        Origins,
    },
    telemetry::labels::{CacheResult, FillOutcome, OriginOutcome},
};
use async_trait::async_trait;
use bytes::Bytes;
use http::{header, HeaderName, HeaderValue, Method, StatusCode};
use pingora_http::{RequestHeader, ResponseHeader};
use std::{borrow::Cow, fmt::Write as _, sync::Arc, time::Instant};

impl Gateway {
    /// Answers from the cache, or passes a request on to the proxy if its answer may not be shared.
    pub(super) async fn answer_cached(
        &self,
        session: &mut Session<'_>,
        ctx: &mut Context,
        route: &Route,
        rules: &Arc<CacheRules>,
    ) -> Result<Next> {
        let request = session.req_header();
        let query = canonical_query(&rules.query, request.uri.query().unwrap_or_default());
        let tenant = tenant(ctx.identity.as_deref());
        let user = ctx.identity.as_deref().and_then(|identity| identity.user.as_deref());
        let bound = bound_host(host(request), route);
        let parts = Parts { host: bound.as_deref(), tenant, user, path: ctx.path_of(request), query: &query };
        let key = Key::derive(rules, parts);
        let cache = &self.parts.cache;
        let now = now_ms();
        let usual = ctx.usual_time();
        let wanted =
            |key| Wanted { key, tenant: whose(rules.scope, tenant).clone(), rules: rules.clone(), usual };
        match cache.look(key.as_str(), now) {
            Look::Hit(entry) => return self.send_hit(session, ctx, &key, &entry).await,
            Look::Stale(entry) => {
                cache.refresh(&wanted(key), &entry, self.fetch(request, ctx, route, rules, &query));
                ctx.result = CacheResult::Stale;
                let status = stale(&entry.terms(), now);
                return self.send_entry(session, ctx, &entry, status).await;
            }
            Look::Nothing => {}
        }
        let wanted = wanted(key);
        let fetcher = self.fetch(request, ctx, route, rules, &query);
        let answer = session.meanwhile(Box::pin(cache.answer(&wanted, fetcher)).as_mut()).await?;
        Box::pin(self.send_answer(session, ctx, answer, Forward::UriMiss)).await
    }

    /// Sends the result of a look-up in the cache, with the reason for which the origin was asked, if it was.
    pub(super) async fn send_answer(
        &self,
        session: &mut Session<'_>,
        ctx: &mut Context,
        answer: Answer,
        forward: Forward,
    ) -> Result<Next> {
        ctx.detail = forward.as_strs().1;
        match answer {
            Answer::Entry(entry, CacheResult::Miss) if entry.part().is_some() => {
                // The client whose request fetched this part gets it as the origin sent it.
                ctx.result = CacheResult::Miss;
                let status = stored(forward, None, false);
                self.send_representation(session, ctx, &entry.representation, status).await
            }
            Answer::Entry(entry, how) => {
                ctx.result = how;
                let status = match how {
                    CacheResult::Miss => stored(forward, None, false),
                    CacheResult::Collapsed => stored(forward, None, true),
                    CacheResult::Revalidated => stored(forward, Some(StatusCode::NOT_MODIFIED), false),
                    CacheResult::Remote => HeaderValue::from_static("tidegate; hit; detail=redis"),
                    CacheResult::Stale => stale(&entry.terms(), now_ms()),
                    _ => HIT,
                };
                self.send_entry(session, ctx, &entry, status).await
            }
            Answer::StaleIfError(entry, failure) => {
                ctx.result = CacheResult::StaleIfError;
                let (status, why) = refusal::stood_in(Some(failure));
                ctx.detail = Some(why);
                self.send_entry(session, ctx, &entry, status).await
            }
            Answer::StaleIfSlow(entry) => {
                ctx.result = CacheResult::Stale;
                let (status, why) = refusal::stood_in(None);
                ctx.detail = Some(why);
                self.send_entry(session, ctx, &entry, status).await
            }
            Answer::Arriving(head, reader, how) => {
                ctx.result = how;
                let status = match head.outcome {
                    FillOutcome::Stored => stored(forward, None, how == CacheResult::Collapsed),
                    why => {
                        ctx.detail = Some(why.as_str());
                        not_stored(forward, head.status, why)
                    }
                };
                // In a future of its own: most answers are complete when they are sent.
                Box::pin(self.send_arriving(session, ctx, &head, reader, status)).await
            }
            Answer::Passing(what, why) => {
                ctx.result = CacheResult::Uncacheable;
                ctx.detail = Some(why.as_str());
                let status = not_stored(forward, what.status(), why);
                self.send_representation(session, ctx, &what, status).await
            }
            Answer::AskYourself(why) => {
                ctx.result = CacheResult::Uncacheable;
                ctx.detail = Some(why.as_str());
                Ok(Next::Proxy)
            }
            Answer::NotHere => {
                ctx.result = CacheResult::Local;
                ctx.detail = Some("only-if-cached");
                self.send_problem(session, ctx, refusal::not_here()).await
            }
            Answer::Failed(error) => {
                ctx.result = CacheResult::Error;
                ctx.detail = Some(refusal::name_of(error));
                self.send_problem(session, ctx, refusal::no_answer(error)).await
            }
        }
    }

    /// The request that is sent to the origin on a miss. It is built from the fields in the key alone; a
    /// token is added only if it belongs to the key's tenant.
    fn fetch(
        &self,
        request: &RequestHeader,
        ctx: &Context,
        route: &Route,
        rules: &Arc<CacheRules>,
        query: &str,
    ) -> Fetcher {
        let path = ctx.path_of(request);
        // The token was read before: it is present and well formed, or there is no identity.
        let token = ctx.identity.as_ref().and_then(|_| websocket::token(route, request, None).ok().flatten());
        let token = token.map(|(token, _)| token);
        let mut ask = Ask {
            method: Method::GET,
            target: if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") },
            host: bound_host(host(request), route).map(Cow::into_owned),
            headers: forward::fill_headers(rules, ctx, token.as_deref()),
            tenant: Some(whose(rules.scope, tenant(ctx.identity.as_deref())).to_string()),
            spare: false,
            body: Bytes::new(),
        };
        dress::asked(request, ctx, &mut ask.headers, &mut ask.host);
        Box::new(OriginFetcher {
            origins: ctx.site.plan.origins.clone(),
            origin: route.target.origin(),
            ask: Arc::new(ask),
            interim: None,
            _hold: ctx.hold.clone(),
        })
    }
}

/// The tenant of a request: `public` without an identity, or if the identity has no tenant.
pub(super) fn tenant(identity: Option<&Identity>) -> &Tenant {
    identity.and_then(|identity| identity.tenant.as_ref()).unwrap_or(Tenant::public())
}

/// Asks an origin as often as the cache requires it, and forwards interim answers.
pub(super) struct OriginFetcher {
    pub(super) origins: Arc<Origins>,
    /// `None`: a route of files, which has no origin.
    pub(super) origin: Option<usize>,
    pub(super) ask: Arc<Ask>,
    pub(super) interim: Option<Arc<Interim>>,
    /// The request's hold, which is kept until the fill ends.
    pub(super) _hold: Option<Hold>,
}

impl AskOrigin for OriginFetcher {
    fn ask(&mut self, conditions: &[(HeaderName, HeaderValue)], by: Instant, spare: bool) -> Fetch {
        let (origins, origin, interim) = (self.origins.clone(), self.origin, self.interim.clone());
        let mut ask = self.ask.clone();
        if !conditions.is_empty() || spare {
            let ask = Arc::make_mut(&mut ask);
            ask.headers.extend(conditions.iter().cloned());
            ask.spare = spare;
        }
        Box::pin(async move {
            let on_interim = move |head: &ResponseHeader| {
                if let Some(interim) = &interim {
                    interim.tell(head);
                }
            };
            let Some(origin) = origin else { return Err(FetchError::Unreachable) };
            match origins.begin(origin, &ask, Some(by), &on_interim).await {
                Ok(mut answering) => {
                    let mut headers = std::mem::take(&mut answering.headers);
                    if let Some(kind) = recharset(&headers) {
                        headers.insert(header::CONTENT_TYPE, kind);
                    }
                    Ok(Fetched { status: answering.status, headers, body: Box::new(FromOrigin(answering)) })
                }
                Err(error) => Err(complain(&error, &ask.target)),
            }
        })
    }

    fn is_failing(&self) -> bool {
        self.origin.is_some_and(|origin| self.origins.pool(origin).is_failing())
    }
}

/// A body from an origin.
struct FromOrigin(Answering);

#[async_trait]
impl Incoming for FromOrigin {
    async fn next(&mut self) -> std::result::Result<Option<Bytes>, FetchError> {
        let piece = self.0.next().await.map_err(|error| complain(&error, ""))?;
        // Copied, because a stored slice would keep the buffer that it was read into, which may be many times
        // larger.
        Ok(piece.map(|piece| Bytes::copy_from_slice(&piece)))
    }

    fn at_hand(&mut self) -> Option<Bytes> {
        self.0.at_hand()
    }
}

fn complain(error: &AskError, target: &str) -> FetchError {
    let path = target.split('?').next().unwrap_or_default();
    tracing::warn!(%error, path, "a fill failed");
    fetch_error(error)
}

/// `Cache-Status` of an answer that came from the origin and is stored.
fn stored(forward: Forward, status: Option<StatusCode>, collapsed: bool) -> HeaderValue {
    let (fwd, detail) = forward.as_strs();
    match (forward, status, collapsed) {
        (Forward::UriMiss, None, false) => return HeaderValue::from_static("tidegate; fwd=uri-miss; stored"),
        (Forward::UriMiss, None, true) => {
            return HeaderValue::from_static("tidegate; fwd=uri-miss; stored; collapsed")
        }
        _ => {}
    }
    let status = status.map_or(String::new(), |status| format!("; fwd-status={}", status.as_u16()));
    let collapsed = if collapsed { "; collapsed" } else { "" };
    let detail = detail.map_or(String::new(), |detail| format!("; detail={detail}"));
    text(format!("tidegate; fwd={fwd}{status}; stored{collapsed}{detail}"))
}

/// `Cache-Status` of an answer that came from the origin and is not stored.
fn not_stored(forward: Forward, status: StatusCode, why: FillOutcome) -> HeaderValue {
    text(format!("tidegate; fwd={}; fwd-status={}; detail={why}", forward.as_strs().0, status.as_u16()))
}

/// The host that is part of the key; `None` if the route isn't bound to a host. Otherwise a client could fill
/// the cache by naming arbitrary hosts, or have an answer generated for a host of its choice.
pub(super) fn bound_host<'r>(named: Option<&'r str>, route: &'r Route) -> Option<Cow<'r, str>> {
    match route.host.as_deref() {
        None => None,
        Some(exact) if !exact.starts_with("*.") => Some(exact.into()),
        Some(_) => {
            // Without port, trailing dot and capitals, so that one host has one key.
            let name = authority::host_name(named?);
            match name.bytes().any(|b| b.is_ascii_uppercase()) {
                true => Some(name.to_ascii_lowercase().into()),
                false => Some(name.into()),
            }
        }
    }
}

/// `Cache-Status` of a stale answer: its `ttl` is negative (RFC 9211, 2.3).
pub(super) fn stale(terms: &policy::Terms, now_ms: u64) -> HeaderValue {
    text(format!(
        "tidegate; hit; ttl={}; detail=stale-while-revalidate",
        terms.ttl_ms(now_ms).div_euclid(1_000)
    ))
}

/// `Cache-Status` of a proxied answer.
pub(super) fn forwarded(ctx: &Context) -> HeaderValue {
    let mut status = String::from("tidegate; fwd=");
    status.push_str(match (ctx.result, ctx.detail) {
        (CacheResult::Uncacheable, _) => "uri-miss",
        (_, Some("method")) => return HeaderValue::from_static("tidegate; fwd=method"),
        _ => return HeaderValue::from_static("tidegate; fwd=bypass"),
    });
    if let Some(detail) = ctx.detail {
        // Writing to a String can't fail.
        write!(status, "; detail={detail}").unwrap_or_default();
    }
    text(status)
}

pub(super) fn text(status: String) -> HeaderValue {
    HeaderValue::try_from(status).unwrap_or(HeaderValue::from_static("tidegate"))
}

/// Translates a failure of the origin client into the error that requests waiting for the fill get.
pub(super) fn fetch_error(error: &AskError) -> FetchError {
    match error {
        AskError::Nobody(Nobody::Unhealthy) => FetchError::BreakerOpen,
        AskError::Nobody(Nobody::Unresolved) => FetchError::Unresolved,
        AskError::Nobody(Nobody::QueueFull | Nobody::QueueTimeout) => FetchError::Busy,
        AskError::Nobody(Nobody::LeftAlone(OriginOutcome::Timeout))
        | AskError::Failed { outcome: OriginOutcome::Timeout, .. } => FetchError::Timeout,
        AskError::Failed { error, .. } if is_malformed(error) => FetchError::Malformed,
        AskError::Nobody(Nobody::LeftAlone(_))
        | AskError::Failed { .. }
        | AskError::TooLarge(_)
        | AskError::Invalid => FetchError::Unreachable,
    }
}
