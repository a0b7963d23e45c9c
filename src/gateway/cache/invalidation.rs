//! What a proxied answer does to the cache: it invalidates, refreshes or fills it.

use crate::{
    cache::{key::CacheKey, policy},
    gateway::{
        cache::origin_driven,
        context::{request_host, RequestContext},
        request::untrusted_fields,
        runtime_config::{RouteMode, RuntimeConfig},
        services::GatewayServices,
    },
    http::authority,
};

use http::Method;
use pingora_http::{RequestHeader, ResponseHeader};

/// Updates the cache: a successful unsafe request invalidates the answers stored for its target (RFC 9111,
/// 4.4), a HEAD refreshes them (4.3.5), and the answer to a POST may itself be stored (RFC 9110, 9.3.3).
pub(crate) fn learn_from_answer(
    services: &GatewayServices,
    request: &RequestHeader,
    head: &ResponseHeader,
    ctx: &mut RequestContext,
) {
    let site = ctx.site.clone();
    let (Some(index), Some(sent)) = (ctx.route, ctx.passing.sent) else { return };
    let route = &site.plan.config.routes[index];
    let (cache, host) = (&services.cache, request_host(request).unwrap_or_default());
    let target = origin_driven::cache_target(route, request);
    let RouteMode::Follow(rules) = &site.per_route[index].mode else {
        // The same URL may have an origin-driven route for other methods.
        return invalidate_target(services, &site, request, host, &target, head);
    };
    let asking = || {
        let key = CacheKey::of_resource(ctx.scheme(), host, &target);
        let asked = origin_driven::asked(rules, request);
        origin_driven::build_lookup(request, ctx, origin_driven::LookupWish { route, rules, key, asked })
    };
    if request.method == Method::HEAD {
        cache.head_seen(&asking(), sent, head.status, &head.headers);
    }
    let mut capture = match request.method {
        Method::POST
            if !untrusted_fields::has_unkeyed(&request.headers, rules) && matches_own_host(ctx, host) =>
        {
            cache.capture(asking(), sent, head.status, &head.headers)
        }
        _ => None,
    };
    invalidate_target(services, &site, request, host, &target, head);
    capture.iter_mut().for_each(|capture| cache.invalidated(capture));
    ctx.passing.capture = capture;
}

fn invalidate_target(
    services: &GatewayServices,
    site: &RuntimeConfig,
    request: &RequestHeader,
    host: &str,
    target: &str,
    head: &ResponseHeader,
) {
    if site.follows && policy::invalidates(&request.method, head.status) {
        let also = policy::also_invalidated(host, target, &head.headers);
        let all: Vec<&str> = std::iter::once(target).chain(also.iter().map(String::as_str)).collect();
        services.cache.invalidate(host, &all);
    }
}

/// Returns true if an answer was made for the host in its key: a trusted proxy may have named another one.
fn matches_own_host(ctx: &RequestContext, host: &str) -> bool {
    ctx.client.host.as_deref().is_none_or(|told| authority::normalize(told) == authority::normalize(host))
}
