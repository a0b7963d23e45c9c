//! Origin-driven routes: turns a request into a look-up in the cache.

use crate::{
    cache::{
        key::{resource_hash, CacheKey},
        policy, MemoryLookup, MissFetcher, OriginLookup,
    },
    clock::now_ms,
    config::{FollowRules, RouteConfig},
    gateway::{
        cache::{
            fetch::{vary_fetcher, FillFetcher, InterimAnswers},
            reply::{send_answer, stale_status},
        },
        context::{request_host, RequestContext},
        headers::{rules, to_origin},
        request::{untrusted_fields, websocket},
        respond::{send_entry, send_hit},
        services::{GatewayServices, NextStep},
        session::GatewaySession,
    },
    http::{authority, hop_by_hop::connection_options},
    identity::{self, tenant_of},
    origin::client::OriginRequest,
    telemetry::labels::CacheResult,
};

use bytes::Bytes;
use http::{header, Method, Version};
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use std::{borrow::Cow, pin::pin, sync::Arc};

/// Answers from the cache according to the origin's headers, or leaves the request to the proxy.
pub(crate) async fn answer_followed(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    route: &RouteConfig,
    rules: &Arc<FollowRules>,
) -> Result<NextStep> {
    untrusted_fields::drop_unkeyed(session.req_header_mut(), rules);
    // Other clients get the answer too: it is made for the host in its key, not for the one that a proxy
    // names.
    ctx.client.host = None;
    // The fields of an HTTP/2 request don't show whether it has a body.
    let has_body = !session.is_body_done();
    let request = &*websocket::with_moved_token(session.req_header(), ctx);
    if has_body || request.headers.contains_key(header::UPGRADE) {
        ctx.detail = Some("content");
        return Ok(NextStep::Proxy);
    }
    let key = CacheKey::of_resource(
        ctx.scheme(),
        request_host(request).unwrap_or_default(),
        &cache_target(route, request),
    );
    let asked = asked(rules, request);
    let now = now_ms();
    let cache = &services.cache;
    let choosing = rules::selecting_fields(route, &request.method, &request.headers);
    match cache.look_followed(&key, &choosing, &asked, now) {
        MemoryLookup::Hit(entry) => send_hit(services, session, ctx, &key, &entry).await,
        MemoryLookup::Stale(entry) => {
            let wish = LookupWish { route, rules, key, asked: policy::RequestDirectives::default() };
            let (asking, fetcher) = prepare_refresh(request, ctx, wish, entry.may_be_for_credentials());
            cache.refresh_followed(asking, entry.clone(), fetcher);
            ctx.result = CacheResult::Stale;
            let status = stale_status(&entry.terms(), now);
            send_entry(services, session, ctx, &entry, status).await
        }
        MemoryLookup::Nothing if request.method == Method::HEAD && !asked.only_if_cached => {
            ctx.detail = Some("method");
            Ok(NextStep::Proxy)
        }
        MemoryLookup::Nothing => {
            let wish = LookupWish { route, rules, key, asked };
            Box::pin(answer_miss(services, session, ctx, wish)).await
        }
    }
}

async fn answer_miss(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    wish: LookupWish<'_>,
) -> Result<NextStep> {
    let interim = Arc::new(InterimAnswers::default());
    // In a block: a value that lives across an await enlarges the future, even if it was dropped.
    let (asking, fetcher) = {
        let request = websocket::with_moved_token(session.req_header(), ctx);
        prepare_lookup(&request, ctx, wish, Some(interim.clone()))
    };
    let mut answer = pin!(services.cache.answer_followed(asking, fetcher));
    let (answer, forward) = loop {
        let next = async {
            tokio::select! {
                biased;
                () = interim.told.notified() => None,
                answer = &mut answer => Some(answer),
            }
        };
        if let Some(answer) = session.while_connected(pin!(next)).await? {
            break answer;
        }
        let mut sending = pin!(send_interim(session, interim.take()));
        // The fill continues while the client reads them: other clients wait for it.
        tokio::select! {
            biased;
            sent = &mut sending => sent?,
            answer = &mut answer => {
                sending.await?;
                break answer;
            }
        }
    };
    send_interim(session, interim.take()).await?;
    send_answer(services, session, ctx, answer, forward).await
}

/// The cache's request for the refresh of a stale answer, and the origin's. Ranges, conditions and
/// directives of the client are left out: the answer is for others too. Its credentials are sent only if
/// the stale answer may have been made for some.
fn prepare_refresh(
    request: &RequestHeader,
    ctx: &mut RequestContext,
    wish: LookupWish<'_>,
    for_credentials: bool,
) -> (Arc<OriginLookup>, MissFetcher) {
    let mut whole = to_origin::whole_request(request);
    if for_credentials {
        return prepare_lookup(&whole, ctx, wish, None);
    }
    whole.remove_header(&header::AUTHORIZATION);
    let target = cache_target(wish.route, request);
    // Without the token of the query.
    whole.set_raw_path(target.as_bytes()).unwrap_or_default();
    let shown = (ctx.identity.take(), ctx.shown.take());
    let asked = prepare_lookup(&whole, ctx, wish, None);
    (ctx.identity, ctx.shown) = shown;
    asked
}

/// Builds the lookup in the cache, and the fetcher for a miss.
fn prepare_lookup(
    request: &RequestHeader,
    ctx: &RequestContext,
    wish: LookupWish<'_>,
    interim: Option<Arc<InterimAnswers>>,
) -> (Arc<OriginLookup>, MissFetcher) {
    let origin = wish.route.target.origin();
    let (asking, ask) = lookup_and_request(request, ctx, wish);
    let interim = interim.filter(|_| request.version >= Version::HTTP_11);
    let fetcher = FillFetcher {
        origins: ctx.site.plan.origins.clone(),
        origin,
        ask: Arc::new(ask),
        interim,
        _hold: ctx.hold.clone(),
    };
    (asking.clone(), vary_fetcher(fetcher, &asking.rules))
}

/// The lookup of a request in the cache, and the request to the origin for a miss.
fn lookup_and_request(
    request: &RequestHeader,
    ctx: &RequestContext,
    wish: LookupWish<'_>,
) -> (Arc<OriginLookup>, OriginRequest) {
    let asking = Arc::new(OriginLookup { method: Method::GET, ..build_lookup(request, ctx, wish) });
    // As in the key: a client's own spelling must not influence an answer for others.
    let host = request_host(request).map(authority::normalize);
    let mut ask = OriginRequest {
        method: Method::GET,
        target: asking.target.clone(),
        headers: to_origin::origin_driven_fields(request, host.as_deref(), ctx, asking.is_alone()),
        host,
        tenant: Some(tenant_of(ctx.identity.as_deref()).to_string()),
        spare: false,
        body: Bytes::new(),
    };
    // The client's `Origin` is sent only if it selects a variant.
    ask.headers.retain(|(name, _)| *name != header::ORIGIN || asking.headers.contains_key(name));
    rules::apply_own_request_rules(request, ctx, &mut ask.headers, &mut ask.host);
    (asking, ask)
}

/// The lookup for a stream that watches a resource, and the request to its origin.
pub(crate) fn watch_request(
    request: &RequestHeader,
    ctx: &mut RequestContext,
    route: &RouteConfig,
    rules: &Arc<FollowRules>,
) -> (Arc<OriginLookup>, OriginRequest) {
    let mut request = request.clone();
    untrusted_fields::drop_unkeyed(&mut request, rules);
    // Others get the answer too, as with every request.
    ctx.client.host = None;
    let request = websocket::with_moved_token(&request, ctx).into_owned();
    let target = cache_target(route, &request).into_owned();
    let key = CacheKey::of_resource(ctx.scheme(), request_host(&request).unwrap_or_default(), &target);
    let wish = LookupWish { route, rules, key, asked: policy::RequestDirectives::default() };
    lookup_and_request(&request, ctx, wish)
}

/// What tells streams apart that may get different answers: the resource, and every field that could choose
/// a variant.
pub(crate) fn watch_key(asking: &OriginLookup, ctx: &RequestContext) -> String {
    let mut lines: Vec<_> =
        asking.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    lines.sort_unstable();
    let mut fields = Vec::new();
    // An origin is told of these by fields of the gateway's own.
    if let Some(identity) = &ctx.identity {
        let texts = [
            identity.tenant.as_ref().map(|tenant| tenant.as_str()),
            identity.user.as_deref(),
            identity.role.as_deref(),
        ];
        fields.extend_from_slice(format!("{texts:?}\n").as_bytes());
    }
    if let Some((_, subject)) = ctx.subject() {
        fields.extend_from_slice(subject.as_bytes());
        fields.push(b'\n');
    }
    for (name, value) in lines {
        for part in [name.as_bytes(), b"\n", value, b"\n"] {
            fields.extend_from_slice(part);
        }
    }
    format!("{}\n{:032x}", asking.key.as_str(), xxhash_rust::xxh3::xxh3_128(&fields))
}

/// A request to the cache: its route, its rules, its key and its directives.
pub(crate) struct LookupWish<'r> {
    pub(crate) route: &'r RouteConfig,
    pub(crate) rules: &'r Arc<FollowRules>,
    pub(crate) key: CacheKey,
    pub(crate) asked: policy::RequestDirectives,
}

/// The client's directives for caches, on a route that honours them.
pub(crate) fn asked(rules: &FollowRules, request: &RequestHeader) -> policy::RequestDirectives {
    match rules.request_directives {
        true => policy::request_directives(&request.headers),
        false => policy::RequestDirectives::default(),
    }
}

/// Builds the lookup of a request in the cache.
pub(crate) fn build_lookup(
    request: &RequestHeader,
    ctx: &RequestContext,
    wish: LookupWish<'_>,
) -> OriginLookup {
    let LookupWish { route, rules, key, asked } = wish;
    let request = &*websocket::with_moved_token(request, ctx);
    let (host, target) =
        (request_host(request).unwrap_or_default(), cache_target(route, request).into_owned());
    let mut headers = rules::selecting_fields(route, &request.method, &request.headers).into_owned();
    // They are not sent to the origin, so that they select no variant.
    for name in connection_options(&request.headers) {
        headers.remove(name);
    }
    OriginLookup {
        resource: resource_hash(host, &target),
        key,
        host: host.to_owned(),
        method: request.method.clone(),
        authorized: ctx.identity.is_some()
            || ctx.subject().is_some()
            || headers.contains_key(header::AUTHORIZATION),
        headers,
        ours: ctx.site.ours.clone(),
        asked,
        rules: rules.clone(),
        usual: ctx.usual_fill_time(),
        target,
    }
}

/// Path and query, without a token.
pub(crate) fn cache_target<'r>(route: &RouteConfig, request: &'r RequestHeader) -> Cow<'r, str> {
    let whole = request.uri.path_and_query().map_or("/", |target| target.as_str());
    match request.uri.query().filter(|_| route.token_query) {
        None => whole.into(),
        Some(query) => {
            let (path, kept) = (request.uri.path(), identity::without_query_token(query));
            if kept.is_empty() {
                path.into()
            } else {
                format!("{path}?{kept}").into()
            }
        }
    }
}

/// Sends interim answers (1xx), which have no effect on the final one.
async fn send_interim(session: &mut GatewaySession<'_>, waiting: Vec<ResponseHeader>) -> Result<()> {
    for mut interim in waiting {
        to_origin::strip_interim(&mut interim);
        session.write_response_header(Box::new(interim)).await?;
    }
    Ok(())
}
