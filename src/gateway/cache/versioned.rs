//! Cached routes: from the request to the look-up in the cache, and from its result to the answer.

use crate::{
    cache::{
        key::{canonical_query, tenant_of_scope, CacheKey, KeyParts},
        policy, AskOrigin, CacheAnswer, CacheRequest, FetchedHead, ForwardReason, IncomingBody, MemoryLookup,
        MissFetcher, OriginFetch, OriginFetchError,
    },
    clock::now_ms,
    config::{CacheRules, RouteConfig},
    files::accel::charset_content_type,
    gateway::{
        cache::origin_driven::InterimAnswers,
        context::{request_host, RequestContext},
        headers::{rules, to_origin},
        request::websocket,
        respond::errors,
        session::GatewaySession,
        ConnectionHold, Gateway, NextStep, Result,
    },
    http::{
        authority,
        cache_status::{CacheStatus, ForwardToken},
    },
    identity::tenant_of,
    origin::{
        client::{is_malformed, OriginError, OriginRequest, OriginResponse},
        servers::NoUpstream,
        OriginTable,
    },
    telemetry::labels::{CacheResult, FillOutcome, OriginOutcome},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{header, HeaderName, HeaderValue, Method, StatusCode};
use pingora_http::{RequestHeader, ResponseHeader};
use std::{borrow::Cow, sync::Arc, time::Instant};

impl Gateway {
    /// Answers from the cache, or passes a request on to the proxy if its answer may not be shared.
    pub(crate) async fn answer_cached(
        &self,
        session: &mut GatewaySession<'_>,
        ctx: &mut RequestContext,
        route: &RouteConfig,
        rules: &Arc<CacheRules>,
    ) -> Result<NextStep> {
        let request = session.req_header();
        let query = canonical_query(&rules.query, request.uri.query().unwrap_or_default());
        let tenant = tenant_of(ctx.identity.as_deref());
        let user = ctx.identity.as_deref().and_then(|identity| identity.user.as_deref());
        let bound = bound_host(request_host(request), route);
        let parts =
            KeyParts { host: bound.as_deref(), tenant, user, path: ctx.path_of(request), query: &query };
        let key = CacheKey::derive(rules, parts);
        let cache = &self.parts.cache;
        let now = now_ms();
        let usual = ctx.usual_fill_time();
        let wanted = |key| CacheRequest {
            key,
            tenant: tenant_of_scope(rules.scope, tenant).clone(),
            rules: rules.clone(),
            usual,
        };
        match cache.look(key.as_str(), now) {
            MemoryLookup::Hit(entry) => return self.send_hit(session, ctx, &key, &entry).await,
            MemoryLookup::Stale(entry) => {
                cache.refresh(&wanted(key), &entry, self.fetch(request, ctx, route, rules, &query));
                ctx.result = CacheResult::Stale;
                let status = stale_status(&entry.terms(), now);
                return self.send_entry(session, ctx, &entry, status).await;
            }
            MemoryLookup::Nothing => {}
        }
        let wanted = wanted(key);
        let fetcher = self.fetch(request, ctx, route, rules, &query);
        let answer = session.while_connected(Box::pin(cache.answer(&wanted, fetcher)).as_mut()).await?;
        Box::pin(self.send_answer(session, ctx, answer, ForwardReason::UriMiss)).await
    }

    /// Sends the result of a look-up in the cache, with the reason for which the origin was asked, if it was.
    pub(crate) async fn send_answer(
        &self,
        session: &mut GatewaySession<'_>,
        ctx: &mut RequestContext,
        answer: CacheAnswer,
        forward: ForwardReason,
    ) -> Result<NextStep> {
        ctx.detail = forward.fwd_and_detail().1;
        match answer {
            CacheAnswer::Entry(entry, CacheResult::Miss) if entry.part().is_some() => {
                // The client whose request fetched this part gets it as the origin sent it.
                ctx.result = CacheResult::Miss;
                let status = stored_status(forward, None, false);
                self.send_representation(session, ctx, &entry.representation, status).await
            }
            CacheAnswer::Entry(entry, how) => {
                ctx.result = how;
                let status = match how {
                    CacheResult::Miss => stored_status(forward, None, false),
                    CacheResult::Collapsed => stored_status(forward, None, true),
                    CacheResult::Revalidated => stored_status(forward, Some(StatusCode::NOT_MODIFIED), false),
                    CacheResult::Remote => CacheStatus::HIT.with_detail(Some("redis")),
                    CacheResult::Stale => stale_status(&entry.terms(), now_ms()),
                    _ => CacheStatus::HIT,
                };
                self.send_entry(session, ctx, &entry, status).await
            }
            CacheAnswer::StaleIfError(entry, failure) => {
                ctx.result = CacheResult::StaleIfError;
                let (status, why) = errors::stale_if_error_status(Some(failure));
                ctx.detail = Some(why);
                self.send_entry(session, ctx, &entry, status).await
            }
            CacheAnswer::StaleIfSlow(entry) => {
                ctx.result = CacheResult::Stale;
                let (status, why) = errors::stale_if_error_status(None);
                ctx.detail = Some(why);
                self.send_entry(session, ctx, &entry, status).await
            }
            CacheAnswer::Arriving(head, reader, how) => {
                ctx.result = how;
                let status = match head.outcome {
                    FillOutcome::Stored => stored_status(forward, None, how == CacheResult::Collapsed),
                    why => {
                        ctx.detail = Some(why.as_str());
                        not_stored_status(forward, head.status, why)
                    }
                };
                // In a future of its own: most answers are complete when they are sent.
                Box::pin(self.send_arriving(session, ctx, &head, reader, status)).await
            }
            CacheAnswer::Passing(what, why) => {
                ctx.result = CacheResult::Uncacheable;
                ctx.detail = Some(why.as_str());
                let status = not_stored_status(forward, what.status(), why);
                self.send_representation(session, ctx, &what, status).await
            }
            CacheAnswer::Pass(why) => {
                ctx.result = CacheResult::Uncacheable;
                ctx.detail = Some(why.as_str());
                Ok(NextStep::Proxy)
            }
            CacheAnswer::NotHere => {
                ctx.result = CacheResult::Local;
                ctx.detail = Some("only-if-cached");
                self.send_problem(session, ctx, errors::only_if_cached_problem()).await
            }
            CacheAnswer::Failed(error) => {
                ctx.result = CacheResult::Error;
                ctx.detail = Some(errors::error_name(error));
                self.send_problem(session, ctx, errors::fetch_problem(error)).await
            }
        }
    }

    /// The request that is sent to the origin on a miss. It is built from the fields in the key alone; a
    /// token is added only if it belongs to the key's tenant.
    fn fetch(
        &self,
        request: &RequestHeader,
        ctx: &RequestContext,
        route: &RouteConfig,
        rules: &Arc<CacheRules>,
        query: &str,
    ) -> MissFetcher {
        let path = ctx.path_of(request);
        // The token was read before: it is present and well formed, or there is no identity.
        let token =
            ctx.identity.as_ref().and_then(|_| websocket::request_token(route, request, None).ok().flatten());
        let token = token.map(|(token, _)| token);
        let mut ask = OriginRequest {
            method: Method::GET,
            target: if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") },
            host: bound_host(request_host(request), route).map(Cow::into_owned),
            headers: to_origin::fill_fields(rules, ctx, token.as_deref()),
            tenant: Some(tenant_of_scope(rules.scope, tenant_of(ctx.identity.as_deref())).to_string()),
            spare: false,
            body: Bytes::new(),
        };
        rules::apply_own_request_rules(request, ctx, &mut ask.headers, &mut ask.host);
        Box::new(FillFetcher {
            origins: ctx.site.plan.origins.clone(),
            origin: route.target.origin(),
            ask: Arc::new(ask),
            interim: None,
            _hold: ctx.hold.clone(),
        })
    }
}

/// Asks an origin as often as the cache requires it, and forwards interim answers.
pub(crate) struct FillFetcher {
    pub(crate) origins: Arc<OriginTable>,
    /// `None`: a route of files, which has no origin.
    pub(crate) origin: Option<usize>,
    pub(crate) ask: Arc<OriginRequest>,
    pub(crate) interim: Option<Arc<InterimAnswers>>,
    /// The request's hold, which is kept until the fill ends.
    pub(crate) _hold: Option<ConnectionHold>,
}

impl AskOrigin for FillFetcher {
    fn ask(&mut self, conditions: &[(HeaderName, HeaderValue)], by: Instant, spare: bool) -> OriginFetch {
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
            let Some(origin) = origin else { return Err(OriginFetchError::Unreachable) };
            match origins.begin(origin, &ask, Some(by), &on_interim).await {
                Ok(mut answering) => {
                    let mut headers = std::mem::take(&mut answering.headers);
                    if let Some(kind) = charset_content_type(&headers) {
                        headers.insert(header::CONTENT_TYPE, kind);
                    }
                    Ok(FetchedHead {
                        status: answering.status,
                        headers,
                        body: Box::new(OriginBody(answering)),
                    })
                }
                Err(error) => Err(log_origin_error(&error, &ask.target)),
            }
        })
    }

    fn is_failing(&self) -> bool {
        self.origin.is_some_and(|origin| self.origins.pool(origin).is_failing())
    }
}

/// A body from an origin.
struct OriginBody(OriginResponse);

#[async_trait]
impl IncomingBody for OriginBody {
    async fn next(&mut self) -> std::result::Result<Option<Bytes>, OriginFetchError> {
        let piece = self.0.next().await.map_err(|error| log_origin_error(&error, ""))?;
        // Copied, because a stored slice would keep the buffer that it was read into, which may be many times
        // larger.
        Ok(piece.map(|piece| Bytes::copy_from_slice(&piece)))
    }

    fn at_hand(&mut self) -> Option<Bytes> {
        self.0.at_hand()
    }
}

fn log_origin_error(error: &OriginError, target: &str) -> OriginFetchError {
    let path = target.split('?').next().unwrap_or_default();
    tracing::warn!(%error, path, "a fill failed");
    fetch_error(error)
}

/// `Cache-Status` of an answer that came from the origin and is stored.
fn stored_status(forward: ForwardReason, status: Option<StatusCode>, collapsed: bool) -> CacheStatus {
    let (why, detail) = forward.fwd_and_detail();
    let stored = CacheStatus::forwarded(why).stored(collapsed).with_detail(detail);
    status.map_or(stored, |status| stored.with_fwd_status(status))
}

/// `Cache-Status` of an answer that came from the origin and is not stored.
fn not_stored_status(forward: ForwardReason, status: StatusCode, why: FillOutcome) -> CacheStatus {
    CacheStatus::forwarded(forward.fwd_and_detail().0).with_fwd_status(status).with_detail(Some(why.as_str()))
}

/// The host that is part of the key; `None` if the route isn't bound to a host. Otherwise a client could fill
/// the cache by naming arbitrary hosts, or have an answer generated for a host of its choice.
pub(crate) fn bound_host<'r>(named: Option<&'r str>, route: &'r RouteConfig) -> Option<Cow<'r, str>> {
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

/// `Cache-Status` of a stale answer.
pub(crate) fn stale_status(terms: &policy::FreshnessTerms, now_ms: u64) -> CacheStatus {
    CacheStatus::hit_with_ttl(terms.ttl_ms(now_ms).div_euclid(1_000))
        .with_detail(Some("stale-while-revalidate"))
}

/// `Cache-Status` of a proxied answer.
pub(crate) fn forwarded_status(ctx: &RequestContext) -> CacheStatus {
    match (ctx.result, ctx.detail) {
        (CacheResult::Uncacheable, why) => CacheStatus::forwarded(ForwardToken::UriMiss).with_detail(why),
        (_, Some("method")) => CacheStatus::forwarded(ForwardToken::Method),
        _ => CacheStatus::forwarded(ForwardToken::Bypass),
    }
}

/// Translates a failure of the origin client into the error that requests waiting for the fill get.
pub(crate) fn fetch_error(error: &OriginError) -> OriginFetchError {
    match error {
        OriginError::Nobody(NoUpstream::Unhealthy) => OriginFetchError::BreakerOpen,
        OriginError::Nobody(NoUpstream::Unresolved) => OriginFetchError::Unresolved,
        OriginError::Nobody(NoUpstream::QueueFull | NoUpstream::QueueTimeout) => OriginFetchError::Busy,
        OriginError::Nobody(NoUpstream::BreakerOpen(OriginOutcome::Timeout))
        | OriginError::Failed { outcome: OriginOutcome::Timeout, .. } => OriginFetchError::Timeout,
        OriginError::Failed { error, .. } if is_malformed(error) => OriginFetchError::Malformed,
        OriginError::Nobody(NoUpstream::BreakerOpen(_))
        | OriginError::Failed { .. }
        | OriginError::TooLarge(_)
        | OriginError::Invalid => OriginFetchError::Unreachable,
    }
}
