//! The cached routes: from a request to what the cache is asked, and from its answer to what is sent.

use super::{
    admission::token, context::Context, forward, host, refusal, Gateway, Next, Result, CACHE_STATUS,
};
use crate::{
    cache::{
        key::{canonical_query, whose, Key, Parts},
        now_ms, Answer, Failure, Fetch, FetchError, Fetched, Look, Wanted,
    },
    config::{CacheRules, Route},
    name::Tenant,
    origin::{
        client::{Ask, AskError},
        pool::Nobody,
    },
    representation::{respond, Representation},
    telemetry::labels::{CacheResult, FillOutcome, OriginOutcome},
};
use bytes::Bytes;
use http::{header, HeaderValue, Method};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use std::{borrow::Cow, fmt::Write as _, sync::Arc};

const HIT: HeaderValue = HeaderValue::from_static("tidegate; hit");

impl Gateway {
    /// Answers from the cache, or hands on to the proxy what may not be shared.
    pub(super) async fn answer_cached(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        route: &Route,
        rules: &Arc<CacheRules>,
    ) -> Result<Next> {
        let request = session.req_header();
        let query = canonical_query(&rules.query, request.uri.query().unwrap_or_default());
        let tenant = ctx.identity.as_deref().map_or(Tenant::public(), |identity| &identity.tenant);
        let user = ctx.identity.as_deref().and_then(|identity| identity.user.as_deref());
        let bound = bound_host(request, route);
        let parts = Parts { host: bound.as_deref(), tenant, user, path: request.uri.path(), query: &query };
        let key = Key::derive(rules, parts);
        let cache = &self.parts.cache;
        let now = now_ms();
        let wanted = |key| Wanted { key, tenant: whose(rules.scope, tenant).clone(), rules: rules.clone() };
        match cache.look(&key, rules, now) {
            Look::Hit(entry) => {
                ctx.result = CacheResult::Hit;
                return self.send_cached(session, ctx, &entry.representation, entry.age_ms(now), HIT).await;
            }
            Look::Stale(entry) => {
                cache.refresh(&wanted(key), &entry, || self.fetch(request, ctx, route, rules, &query));
                ctx.result = CacheResult::Stale;
                let age = entry.age_ms(now);
                return self.send_cached(session, ctx, &entry.representation, age, stale(rules, age)).await;
            }
            Look::Nothing => {}
        }
        let wanted = wanted(key);
        let answer = cache.answer(&wanted, || self.fetch(request, ctx, route, rules, &query));
        let answer = Box::pin(answer).await;
        Box::pin(self.send_answer(session, ctx, rules, answer)).await
    }

    async fn send_answer(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        rules: &CacheRules,
        answer: Answer,
    ) -> Result<Next> {
        match answer {
            Answer::Entry(entry, how) => {
                ctx.result = how;
                let age = entry.age_ms(now_ms());
                let status = match how {
                    CacheResult::Miss => HeaderValue::from_static("tidegate; fwd=uri-miss; stored"),
                    CacheResult::Collapsed => {
                        HeaderValue::from_static("tidegate; fwd=uri-miss; stored; collapsed")
                    }
                    CacheResult::Remote => HeaderValue::from_static("tidegate; hit; detail=redis"),
                    CacheResult::Stale => stale(rules, age),
                    _ => HIT,
                };
                self.send_cached(session, ctx, &entry.representation, age, status).await
            }
            Answer::StaleIfError(entry, failure) => {
                ctx.result = CacheResult::StaleIfError;
                let (status, why) = match failure {
                    Failure::Status(code) => (
                        text(format!(
                            "tidegate; fwd=stale; fwd-status={}; detail=stale-if-error",
                            code.as_u16()
                        )),
                        "origin-error",
                    ),
                    Failure::Fetch(error) => (
                        HeaderValue::from_static("tidegate; fwd=stale; detail=stale-if-error"),
                        refusal::name_of(error),
                    ),
                };
                ctx.detail = Some(why);
                let age = entry.age_ms(now_ms());
                self.send_cached(session, ctx, &entry.representation, age, status).await
            }
            Answer::Passing(what, own, why) => self.send_passing(session, ctx, &what, own, why).await,
            Answer::AskYourself(why) => {
                ctx.result = CacheResult::Uncacheable;
                ctx.detail = Some(why.as_str());
                Ok(Next::Proxy)
            }
            Answer::Failed(error) => {
                ctx.result = CacheResult::Error;
                ctx.detail = Some(refusal::name_of(error));
                self.send_problem(session, ctx, refusal::no_answer(error)).await
            }
        }
    }

    /// An answer that is not stored: it is sent as it came, with the cookies that are this client's own.
    async fn send_passing(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        what: &Representation,
        own: Option<Arc<http::HeaderMap>>,
        why: FillOutcome,
    ) -> Result<Next> {
        ctx.result = CacheResult::Uncacheable;
        ctx.detail = Some(why.as_str());
        let request = session.req_header();
        let mut reply = respond::reply(what, &request.method, &request.headers, &[]);
        for cookie in own.iter().flat_map(|headers| headers.get_all(header::SET_COOKIE)) {
            reply.head.append_header(header::SET_COOKIE, cookie.clone())?;
        }
        let (code, detail) = (what.status().as_u16(), why.as_str());
        let status = text(format!("tidegate; fwd=uri-miss; fwd-status={code}; detail={detail}"));
        self.mark(&mut reply.head, ctx, &status)?;
        self.send(session, reply.head, reply.body).await
    }

    async fn send_cached(
        &self,
        session: &mut Session,
        ctx: &Context,
        what: &Representation,
        age_ms: u64,
        status: HeaderValue,
    ) -> Result<Next> {
        let request = session.req_header();
        let mut reply = respond::reply(what, &request.method, &request.headers, &self.prefer);
        reply.head.insert_header(header::AGE, HeaderValue::from(age_ms / 1_000))?;
        reply.head.insert_header(CACHE_STATUS, status)?;
        reply.head.insert_header(forward::REQUEST_ID, ctx.request_id.clone())?;
        self.send(session, reply.head, reply.body).await
    }

    /// The one request that answers a miss. It is made of what is in the key, and of nothing else that the client
    /// sent; only a token of the key's own tenant goes along.
    fn fetch(
        &self,
        request: &RequestHeader,
        ctx: &Context,
        route: &Route,
        rules: &Arc<CacheRules>,
        query: &str,
    ) -> Fetch {
        let path = request.uri.path();
        // The token was read before: it is there and well-formed, or there is no identity.
        let token = ctx.identity.as_ref().and_then(|_| token(route, request).ok().flatten());
        let ask = Ask {
            method: Method::GET,
            target: if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") },
            host: bound_host(request, route).map(Cow::into_owned),
            headers: forward::fill_headers(rules, ctx, token.as_deref()),
            body: Bytes::new(),
        };
        let (origins, origin, max_size) = (self.parts.origins.clone(), route.origin, rules.max_size);
        Box::pin(async move {
            match origins.ask(origin, &ask, max_size).await {
                Ok(got) => Ok(Fetched { status: got.status, headers: got.headers, body: got.body }),
                Err(error) => {
                    let reason = fetch_error(&error);
                    if reason != FetchError::TooLarge {
                        let path = ask.target.split('?').next().unwrap_or_default();
                        tracing::warn!(%error, path, "a fill failed");
                    }
                    Err(reason)
                }
            }
        })
    }
}

/// The host counts only where the route is bound to one: elsewhere a client could fill the cache by naming others,
/// or have an answer made for a host of its choice.
fn bound_host<'r>(request: &'r RequestHeader, route: &'r Route) -> Option<Cow<'r, str>> {
    match route.host.as_deref() {
        None => None,
        Some(exact) if !exact.starts_with("*.") => Some(exact.into()),
        Some(_) => {
            // Without its port, a final dot and capitals: one host is one host.
            let host = host(request)?;
            let name = host.split_once(':').map_or(host, |(name, _)| name).trim_end_matches('.');
            Some(name.to_ascii_lowercase().into())
        }
    }
}

/// A stale answer says for how long it has been so (RFC 9211, 2.3: a negative ttl).
fn stale(rules: &CacheRules, age_ms: u64) -> HeaderValue {
    let over = (age_ms / 1_000).saturating_sub(rules.ttl.as_secs());
    text(format!("tidegate; hit; ttl=-{over}; detail=stale-while-revalidate"))
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

fn text(status: String) -> HeaderValue {
    HeaderValue::try_from(status).unwrap_or(HeaderValue::from_static("tidegate"))
}

/// What a failure of the origin client means for those who wait.
pub(super) fn fetch_error(error: &AskError) -> FetchError {
    match error {
        AskError::TooLarge(_) => FetchError::TooLarge,
        AskError::Nobody(Nobody::Unhealthy) => FetchError::BreakerOpen,
        AskError::Nobody(Nobody::LeftAlone(OriginOutcome::Timeout))
        | AskError::Failed { outcome: OriginOutcome::Timeout, .. } => FetchError::Timeout,
        AskError::Nobody(Nobody::LeftAlone(_)) | AskError::Failed { .. } | AskError::Invalid => {
            FetchError::Unreachable
        }
    }
}
