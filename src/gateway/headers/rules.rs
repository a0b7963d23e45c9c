//! The header rules of a route, applied to requests to the origin, to answers, and to the fields by which a
//! request selects a stored answer. The rules themselves are implemented in `headers` and `cors`.

use crate::{
    config::RouteConfig,
    cors,
    gateway::{
        context::{request_host, RequestContext},
        runtime_config::RouteMode,
    },
    headers::{self, MessageFields, RuleFacts},
    http::authority,
    identity::tenant_of,
};

use http::{header, HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use pingora_http::{RequestHeader, ResponseHeader};
use std::borrow::Cow;

/// Applies header rules and CORS to an answer before it is sent, stored or not: their result is never stored.
pub(crate) fn apply_answer_rules(request: &RequestHeader, head: &mut ResponseHeader, ctx: &RequestContext) {
    apply_header_rules(request, head, ctx);
    // A script can't read the 101 of an upgrade: CORS doesn't apply to it.
    let cors = ctx.routed().and_then(|route| route.cors.as_deref());
    if let Some(cors) = cors.filter(|_| head.status != StatusCode::SWITCHING_PROTOCOLS) {
        cors::apply_cors(cors, &request.headers, head);
    }
}

/// Applies the header rules alone.
pub(crate) fn apply_header_rules(request: &RequestHeader, head: &mut ResponseHeader, ctx: &RequestContext) {
    let headers = ctx.routed().map_or(&ctx.site.plan.config.headers, |route| &route.headers);
    if headers.security || !headers.response.is_empty() {
        headers::apply_to_client(headers, &rule_facts(request, ctx), head.status, head);
    }
}

/// Applies the rules to a proxied request; `request` is the client's.
pub(crate) fn apply_proxy_rules(
    request: &RequestHeader,
    to_origin: &mut RequestHeader,
    ctx: &RequestContext,
) {
    let Some(route) = ctx.routed() else { return };
    if drops_origin_field(request, ctx) {
        to_origin.remove_header(&header::ORIGIN);
    }
    if route.headers.request.is_empty() {
        return;
    }
    let before = to_origin.headers.get(header::HOST).cloned();
    headers::apply_to_origin(&route.headers, &rule_facts(request, ctx), to_origin);
    let good = to_origin.headers.get(header::HOST).is_some_and(is_host);
    if let Some(before) = before.filter(|_| !good) {
        to_origin.insert_header(header::HOST, before).unwrap_or_default();
    }
}

/// Applies the rules to the fields of a proxied request; `host` is set if the rules set one.
pub(crate) fn apply_field_rules(
    request: &RequestHeader,
    ctx: &RequestContext,
    fields: &mut Vec<(HeaderName, HeaderValue)>,
    host: &mut Option<String>,
) {
    if drops_origin_field(request, ctx) {
        fields.retain(|(name, _)| *name != header::ORIGIN);
    }
    apply_own_request_rules(request, ctx, fields, host);
}

/// Returns true if a proxied request is sent without its `Origin`.
fn drops_origin_field(request: &RequestHeader, ctx: &RequestContext) -> bool {
    let follows = ctx.at_hand().is_some_and(|at_hand| matches!(at_hand.mode, RouteMode::Follow(_)));
    follows
        && !request.headers.contains_key(header::UPGRADE)
        && ctx.routed().is_some_and(|route| omits_origin_field(route, &request.method))
}

/// Applies the rules to a request that the gateway sends because of a client's; `host` is its `Host`.
pub(crate) fn apply_own_request_rules(
    request: &RequestHeader,
    ctx: &RequestContext,
    fields: &mut Vec<(HeaderName, HeaderValue)>,
    host: &mut Option<String>,
) {
    let Some(route) = ctx.routed().filter(|route| !route.headers.request.is_empty()) else { return };
    headers::apply_to_origin(&route.headers, &rule_facts(request, ctx), fields);
    if let Some(at) = fields.iter().position(|(name, _)| *name == header::HOST) {
        let (_, value) = fields.remove(at);
        *host = value.to_str().ok().filter(|_| is_host(&value)).map(str::to_owned).or(host.take());
    }
}

/// The fields of a request that may select a stored answer: a field that rules remove or replace selects
/// none.
pub(crate) fn selecting_fields<'r>(
    route: &RouteConfig,
    method: &Method,
    request: &'r HeaderMap,
) -> Cow<'r, HeaderMap> {
    if route.headers.request.is_empty() && route.cors.is_none() {
        return Cow::Borrowed(request);
    }
    let is_hidden = |name: &&HeaderName| {
        !headers::passes_unchanged(&route.headers, name)
            || (**name == header::ORIGIN && omits_origin_field(route, method))
    };
    let hidden: Vec<HeaderName> = request.keys().filter(is_hidden).cloned().collect();
    if hidden.is_empty() {
        return Cow::Borrowed(request);
    }
    let mut seen = request.clone();
    for name in hidden {
        seen.remove(name);
    }
    Cow::Owned(seen)
}

/// Returns true if `Origin` is hidden from the origin: a storable answer is requested without it and is the
/// same for all, and the CORS fields are set when it is sent.
fn omits_origin_field(route: &RouteConfig, method: &Method) -> bool {
    route.cors.is_some() && matches!(*method, Method::GET | Method::HEAD)
}

fn is_host(value: &HeaderValue) -> bool {
    authority::is_host(value.as_bytes())
}

/// The values that variables in rules can name.
fn rule_facts<'a>(request: &'a RequestHeader, ctx: &'a RequestContext) -> RuleFacts<'a> {
    let identity = ctx.identity.as_deref();
    RuleFacts {
        client: Some(ctx.client.address),
        remote: Some(ctx.client.proxies.last().copied().unwrap_or(ctx.client.address)),
        scheme: ctx.scheme().as_str(),
        host: request_host(request).unwrap_or_default(),
        path: request.uri.path(),
        request_id: ctx.id(),
        route: ctx.routed().map_or("", |route| route.name.as_str()),
        tenant: tenant_of(identity).as_str(),
        user: identity.and_then(|identity| identity.user.as_deref()),
        role: identity.and_then(|identity| identity.role.as_deref()),
        cache: ctx.result.as_str(),
    }
}

/// Implements `Fields` for a head of Pingora's.
macro_rules! fields {
    ($head:ty) => {
        impl MessageFields for $head {
            fn names(&self) -> Vec<HeaderName> {
                self.headers.names()
            }

            fn joined(&self, name: &HeaderName) -> Option<Vec<u8>> {
                self.headers.joined(name)
            }

            fn remove(&mut self, name: &HeaderName) {
                self.remove_header(name);
            }

            fn append(&mut self, name: HeaderName, value: HeaderValue) {
                // Names and values are valid already; an error is only possible with more than 32,768 fields.
                self.append_header(name, value).unwrap_or_default();
            }
        }
    };
}

fields!(RequestHeader);
fields!(ResponseHeader);
