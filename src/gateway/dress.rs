//! The header rules of a route, applied to requests to the origin, to answers, and to the fields by which a
//! request selects a stored answer. The rules themselves are implemented in `headers` and `cors`.

use super::{cached::tenant, host, site::Mode, Context};
use crate::{
    authority,
    config::Route,
    cors,
    headers::{self, Facts, Fields},
};
use http::{header, HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use pingora_http::{RequestHeader, ResponseHeader};
use std::borrow::Cow;

/// Applies header rules and CORS to an answer before it is sent, stored or not: their result is never stored.
pub(super) fn answer(request: &RequestHeader, head: &mut ResponseHeader, ctx: &Context) {
    rules_for_answer(request, head, ctx);
    // A script can't read the 101 of an upgrade: CORS doesn't apply to it.
    let cors = ctx.routed().and_then(|route| route.cors.as_deref());
    if let Some(cors) = cors.filter(|_| head.status != StatusCode::SWITCHING_PROTOCOLS) {
        cors::dress(cors, &request.headers, head);
    }
}

/// Applies the header rules alone.
pub(super) fn rules_for_answer(request: &RequestHeader, head: &mut ResponseHeader, ctx: &Context) {
    let headers = ctx.routed().map_or(&ctx.site.plan.config.headers, |route| &route.headers);
    if headers.security || !headers.response.is_empty() {
        headers::to_client(headers, &facts(request, ctx), head.status, head);
    }
}

/// Applies the rules to a proxied request; `request` is the client's.
pub(super) fn proxied(request: &RequestHeader, to_origin: &mut RequestHeader, ctx: &Context) {
    let Some(route) = ctx.routed() else { return };
    if keeps_origin_back(request, ctx) {
        to_origin.remove_header(&header::ORIGIN);
    }
    if route.headers.request.is_empty() {
        return;
    }
    let before = to_origin.headers.get(header::HOST).cloned();
    headers::to_origin(&route.headers, &facts(request, ctx), to_origin);
    let good = to_origin.headers.get(header::HOST).is_some_and(is_host);
    if let Some(before) = before.filter(|_| !good) {
        to_origin.insert_header(header::HOST, before).unwrap_or_default();
    }
}

/// Applies the rules to the fields of a proxied request; `host` is set if the rules set one.
pub(super) fn directly(
    request: &RequestHeader,
    ctx: &Context,
    fields: &mut Vec<(HeaderName, HeaderValue)>,
    host: &mut Option<String>,
) {
    if keeps_origin_back(request, ctx) {
        fields.retain(|(name, _)| *name != header::ORIGIN);
    }
    asked(request, ctx, fields, host);
}

/// Returns true if a proxied request is sent without its `Origin`.
fn keeps_origin_back(request: &RequestHeader, ctx: &Context) -> bool {
    let follows = ctx.at_hand().is_some_and(|at_hand| matches!(at_hand.mode, Mode::Follow(_)));
    follows
        && !request.headers.contains_key(header::UPGRADE)
        && ctx.routed().is_some_and(|route| hides_origin(route, &request.method))
}

/// Applies the rules to a request that the gateway sends because of a client's; `host` is its `Host`.
pub(super) fn asked(
    request: &RequestHeader,
    ctx: &Context,
    fields: &mut Vec<(HeaderName, HeaderValue)>,
    host: &mut Option<String>,
) {
    let Some(route) = ctx.routed().filter(|route| !route.headers.request.is_empty()) else { return };
    headers::to_origin(&route.headers, &facts(request, ctx), fields);
    if let Some(at) = fields.iter().position(|(name, _)| *name == header::HOST) {
        let (_, value) = fields.remove(at);
        *host = value.to_str().ok().filter(|_| is_host(&value)).map(str::to_owned).or(host.take());
    }
}

/// The fields of a request that may select a stored answer: a field that rules remove or replace selects
/// none.
pub(super) fn choosing<'r>(route: &Route, method: &Method, request: &'r HeaderMap) -> Cow<'r, HeaderMap> {
    if route.headers.request.is_empty() && route.cors.is_none() {
        return Cow::Borrowed(request);
    }
    let is_hidden = |name: &&HeaderName| {
        !headers::passes(&route.headers, name) || (**name == header::ORIGIN && hides_origin(route, method))
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
fn hides_origin(route: &Route, method: &Method) -> bool {
    route.cors.is_some() && matches!(*method, Method::GET | Method::HEAD)
}

fn is_host(value: &HeaderValue) -> bool {
    authority::is_host(value.as_bytes())
}

/// The values that variables in rules can name.
fn facts<'a>(request: &'a RequestHeader, ctx: &'a Context) -> Facts<'a> {
    let identity = ctx.identity.as_deref();
    Facts {
        client: Some(ctx.client.address),
        remote: Some(ctx.client.proxies.last().copied().unwrap_or(ctx.client.address)),
        scheme: ctx.scheme().as_str(),
        host: host(request).unwrap_or_default(),
        path: request.uri.path(),
        request_id: ctx.id(),
        route: ctx.routed().map_or("", |route| route.name.as_str()),
        tenant: tenant(identity).as_str(),
        user: identity.and_then(|identity| identity.user.as_deref()),
        role: identity.and_then(|identity| identity.role.as_deref()),
        cache: ctx.result.as_str(),
    }
}

/// Implements `Fields` for a head of Pingora's.
macro_rules! fields {
    ($head:ty) => {
        impl Fields for $head {
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
