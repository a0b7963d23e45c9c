//! Routes with a namespace: turns a request into a look-up in the cache.

use crate::{
    cache::{
        key::{canonical_query, tenant_of_scope, CacheKey, KeyParts},
        CacheRequest, ForwardReason, MemoryLookup, MissFetcher,
    },
    clock::now_ms,
    config::{CacheRules, RouteConfig},
    gateway::{
        cache::{
            fetch::FillFetcher,
            reply::{send_answer, stale_status},
        },
        context::{request_host, RequestContext},
        headers::{rules, to_origin},
        request::{min_version::refuse_unreached, websocket},
        respond::{send_entry, send_hit},
        services::{GatewayServices, NextStep},
        session::GatewaySession,
    },
    http::authority,
    identity::tenant_of,
    origin::client::OriginRequest,
    telemetry::labels::CacheResult,
};

use bytes::Bytes;
use http::Method;
use pingora_core::Result;
use pingora_http::RequestHeader;
use std::{borrow::Cow, sync::Arc};
use tokio::time::timeout;

/// Answers from the cache, or passes a request on to the proxy if its answer may not be shared.
pub(crate) async fn answer_cached(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    route: &RouteConfig,
    rules: &Arc<CacheRules>,
) -> Result<NextStep> {
    let request = session.req_header();
    let (key, query) = derive_key(request, ctx, route, rules);
    let cache = &services.cache;
    let now = now_ms();
    match cache.look(key.as_str(), now).at_least(&ctx.min_version) {
        MemoryLookup::Hit(entry) => return send_hit(services, session, ctx, &key, &entry).await,
        MemoryLookup::Stale(entry) => {
            let wanted = wanted_answer(key, ctx, rules);
            cache.refresh(&wanted, &entry, build_fetcher(request, ctx, route, rules, &query));
            ctx.result = CacheResult::Stale;
            let status = stale_status(&entry.terms(), now);
            return send_entry(services, session, ctx, &entry, status).await;
        }
        MemoryLookup::Nothing => {}
    }
    let wanted = wanted_answer(key, ctx, rules);
    let fetcher = build_fetcher(request, ctx, route, rules, &query);
    let answer = match wanted.at_least.is_empty() {
        true => session.while_connected(Box::pin(cache.answer(&wanted, fetcher)).as_mut()).await?,
        false => {
            let answering = timeout(rules.min_version_wait, cache.answer(&wanted, fetcher));
            match session.while_connected(Box::pin(answering).as_mut()).await? {
                Ok(answer) => answer,
                // The fill goes on.
                Err(_) => return Box::pin(refuse_unreached(session, ctx)).await,
            }
        }
    };
    Box::pin(send_answer(services, session, ctx, answer, ForwardReason::UriMiss)).await
}

/// The fetcher for a miss.
fn build_fetcher(
    request: &RequestHeader,
    ctx: &RequestContext,
    route: &RouteConfig,
    rules: &CacheRules,
    query: &str,
) -> MissFetcher {
    Box::new(FillFetcher {
        origins: ctx.site.plan.origins.clone(),
        origin: route.target.origin(),
        ask: Arc::new(fill_request(request, ctx, route, rules, query)),
        interim: None,
        _hold: ctx.hold.clone(),
    })
}

/// The key of the answer to a request, and its query in canonical form.
fn derive_key(
    request: &RequestHeader,
    ctx: &RequestContext,
    route: &RouteConfig,
    rules: &CacheRules,
) -> (CacheKey, String) {
    let query = canonical_query(&rules.query, request.uri.query().unwrap_or_default());
    let bound = bound_host(request_host(request), route);
    let identity = ctx.identity.as_deref();
    let parts = KeyParts {
        host: bound.as_deref(),
        tenant: tenant_of(identity),
        user: identity.and_then(|identity| identity.user.as_deref()),
        path: ctx.path_of(request),
        query: &query,
    };
    (CacheKey::derive(rules, parts), query)
}

fn wanted_answer(key: CacheKey, ctx: &RequestContext, rules: &Arc<CacheRules>) -> CacheRequest {
    let tenant = tenant_of(ctx.identity.as_deref());
    CacheRequest {
        key,
        tenant: tenant_of_scope(rules.scope, tenant).clone(),
        rules: rules.clone(),
        usual: ctx.usual_fill_time(),
        at_least: ctx.min_version.clone(),
    }
}

/// The question to the cache for a request, and its query in canonical form.
pub(crate) fn cache_request(
    request: &RequestHeader,
    ctx: &RequestContext,
    route: &RouteConfig,
    rules: &Arc<CacheRules>,
) -> (CacheRequest, String) {
    let (key, query) = derive_key(request, ctx, route, rules);
    (wanted_answer(key, ctx, rules), query)
}

/// The request that is sent to the origin on a miss. It is built from the fields in the key alone; a token is
/// added only if it belongs to the key's tenant.
pub(crate) fn fill_request(
    request: &RequestHeader,
    ctx: &RequestContext,
    route: &RouteConfig,
    rules: &CacheRules,
    query: &str,
) -> OriginRequest {
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
    ask
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
