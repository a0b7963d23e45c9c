//! The fields that the gateway adds to requests to an origin: the client's identity and address, `Via`, the
//! request id.
//!
//! These fields of a client have been removed before (`untrusted_fields`): an origin can trust them. The
//! values of trusted proxies were evaluated before (`address`), and are written anew.

use crate::{
    address,
    config::{CacheRules, CacheScope},
    gateway::context::RequestContext,
    http::{
        hop_by_hop::{connection_options, HOP_BY_HOP_FIELDS},
        names::{
            is_accel_field, FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, ORIGIN_FIELDS, REAL_IP,
            REQUEST_ID, ROLE, TENANT, USER,
        },
        via::via_value,
    },
    identity::{tenant_of, Identity},
    name::Tenant,
    representation::encoding,
};

use http::{header, HeaderMap, HeaderName, HeaderValue, Version};
use pingora_http::{RequestHeader, ResponseHeader};

/// The gateway's own fields whose values differ between requests for one resource: host and scheme are in its
/// key.
pub(crate) fn varying_fields() -> impl Iterator<Item = HeaderName> {
    ORIGIN_FIELDS.iter().filter(|name| ![FORWARDED_HOST, FORWARDED_PROTO].contains(name)).cloned()
}

/// Adds the gateway's fields to a proxied request; `received` is the version that it came in.
pub(crate) fn set_gateway_fields(request: &mut RequestHeader, received: Version, ctx: &RequestContext) {
    set_gateway_fields_for(request, received, ctx, ctx.client.host.as_deref());
}

/// Adds the gateway's fields to a request that was sent for `host`, or else for the host that it names.
fn set_gateway_fields_for(
    request: &mut RequestHeader,
    received: Version,
    ctx: &RequestContext,
    host: Option<&str>,
) {
    let named = request.headers.get(header::HOST).cloned();
    let host = host.and_then(|host| HeaderValue::from_str(host).ok()).or(named);
    request.remove_header(&header::PROXY_AUTHORIZATION);
    for name in &HOP_BY_HOP_FIELDS {
        request.remove_header(name);
    }
    for (name, value) in gateway_fields(ctx, host) {
        insert_field(request, name, Ok(value));
    }
    request.append_header(header::VIA, via_value(received)).unwrap_or_default();
}

/// The fields that the gateway adds for a request that was sent for this host, each field once.
fn gateway_fields(ctx: &RequestContext, host: Option<HeaderValue>) -> Vec<(HeaderName, HeaderValue)> {
    let mut fields = Vec::with_capacity(GATEWAY_FIELD_COUNT);
    if let Some(identity) = &ctx.identity {
        push_claims(&mut fields, identity.tenant.as_ref(), Some(identity));
    }
    let client = &ctx.client;
    let mut text = String::with_capacity(96);
    let mut push = |name, write: &dyn Fn(&mut String)| {
        text.clear();
        write(&mut text);
        // Claims were checked for control characters, and addresses have none.
        fields.extend(HeaderValue::from_str(&text).map(|value| (name, value)));
    };
    push(REAL_IP, &|text| address::push_address(text, client.address));
    push(FORWARDED_FOR, &|text| client.write_forwarded_for(text));
    let host_text = host.as_ref().and_then(|host| host.to_str().ok());
    push(header::FORWARDED, &|text| client.write_forwarded(host_text, text));
    fields.push((FORWARDED_PROTO, HeaderValue::from_static(client.scheme.as_str())));
    fields.extend(host.map(|host| (FORWARDED_HOST, host)));
    fields.extend(ctx.subject().map(|(name, subject)| (name.clone(), subject.clone())));
    fields.push((REQUEST_ID, ctx.request_id.clone()));
    fields
}

/// The fields for a request that the gateway makes because of this one.
pub(crate) fn gateway_fields_of(
    request: &RequestHeader,
    ctx: &RequestContext,
) -> Vec<(HeaderName, HeaderValue)> {
    let host = ctx.client.host.as_deref().and_then(|host| HeaderValue::from_str(host).ok());
    let mut fields = gateway_fields(ctx, host.or_else(|| request.headers.get(header::HOST).cloned()));
    fields.push((header::VIA, via_value(request.version)));
    fields
}

/// Fields of a client that are not forwarded, or are written anew.
static REPLACED_FIELDS: [HeaderName; 3] = [header::HOST, header::PROXY_AUTHORIZATION, REQUEST_ID];

/// Capacity for the gateway's fields.
const GATEWAY_FIELD_COUNT: usize = ORIGIN_FIELDS.len();

/// The fields of a request to the origin, without `Host`: the client's without those that `ends_here` names,
/// and the gateway's. `host` is the host that it was sent for.
fn request_fields(
    request: &RequestHeader,
    ctx: &RequestContext,
    host: Option<HeaderValue>,
    ends_here: impl Fn(&HeaderName) -> bool,
) -> Vec<(HeaderName, HeaderValue)> {
    let ends = |name: &HeaderName| REPLACED_FIELDS.contains(name) || ends_here(name);
    let told = gateway_fields(ctx, host);
    let mut fields = Vec::with_capacity(request.headers.len() + told.len() + 4);
    let copied = request.headers.iter().filter(|(name, _)| !ends(name));
    fields.extend(copied.map(|(name, value)| (name.clone(), value.clone())));
    fields.extend(told);
    fields.push((header::VIA, via_value(request.version)));
    fields
}

/// The fields of a proxied request, without `Host` and without those that frame its body; `named` is the host
/// that it names. Its `Connection` names no field.
pub(crate) fn proxied_fields(
    request: &RequestHeader,
    named: Option<&HeaderValue>,
    ctx: &RequestContext,
) -> Vec<(HeaderName, HeaderValue)> {
    let told = ctx.client.host.as_deref().and_then(|host| HeaderValue::from_str(host).ok());
    request_fields(request, ctx, told.or_else(|| named.cloned()), |name| {
        HOP_BY_HOP_FIELDS.contains(name)
            || [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name)
    })
}

fn insert_field(
    request: &mut RequestHeader,
    name: HeaderName,
    value: Result<HeaderValue, http::header::InvalidHeaderValue>,
) {
    // Claims were checked for control characters, and addresses and ids have none.
    if let Ok(value) = value {
        request.insert_header(name, value).unwrap_or_default();
    }
}

fn push_claims(fields: &mut Vec<(HeaderName, HeaderValue)>, tenant: Option<&Tenant>, of: Option<&Identity>) {
    let mut push = |name, text: &str| fields.extend(HeaderValue::from_str(text).map(|value| (name, value)));
    tenant.iter().for_each(|tenant| push(TENANT, tenant.as_str()));
    if let Some(identity) = of {
        identity.user.iter().for_each(|user| push(USER, user));
        identity.role.iter().for_each(|role| push(ROLE, role));
    }
}

/// The fields of a fill: exactly those that the answer may depend on. For a tenant's answer these are the
/// tenant and one of its tokens, never the user; for a public answer nothing of the client that asked first.
pub(crate) fn fill_fields(
    rules: &CacheRules,
    ctx: &RequestContext,
    token: Option<&str>,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::with_capacity(GATEWAY_FIELD_COUNT);
    match (rules.scope, &ctx.identity) {
        (CacheScope::Public, _) | (_, None) => push_claims(&mut headers, Some(Tenant::public()), None),
        (scope, Some(identity)) => {
            // The tenant of the key.
            let tenant = tenant_of(Some(&**identity));
            push_claims(&mut headers, Some(tenant), Some(&**identity).filter(|_| scope == CacheScope::User));
            let bearer = token.and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok());
            headers.extend(bearer.map(|bearer| (header::AUTHORIZATION, bearer)));
        }
    }
    headers.push((REQUEST_ID, ctx.request_id.clone()));
    headers.push((header::VIA, via_value(Version::HTTP_11)));
    headers.push((header::ACCEPT, HeaderValue::from_static("*/*")));
    headers.push((header::ACCEPT_ENCODING, HeaderValue::from_static("identity")));
    headers.push((
        header::USER_AGENT,
        HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION"))),
    ));
    headers
}

/// The fields of a request on a route that follows its origin's `Cache-Control`: the client's, without those
/// of its connection, without those that only the gateway may set, and, if the answer may be shared, without
/// those that ask for less than the whole (`Range`, conditions). `host` is the host of the key.
pub(crate) fn origin_driven_fields(
    request: &RequestHeader,
    host: Option<&str>,
    ctx: &RequestContext,
    alone: bool,
) -> Vec<(HeaderName, HeaderValue)> {
    let ends = hop_by_hop_names(&request.headers);
    let told = host.and_then(|host| HeaderValue::from_str(host).ok());
    let told = told.or_else(|| request.headers.get(header::HOST).cloned());
    let offered = encoding::offered_codings(&request.headers).filter(|_| !alone);
    let mut fields = request_fields(request, ctx, told, |name| {
        ends.contains(name)
            || RESTATED_FIELDS.contains(name)
            || !alone && PARTIAL_REQUEST_FIELDS.contains(name)
            || offered.is_some() && *name == header::ACCEPT_ENCODING
    });
    fields.extend(offered.map(|offered| (header::ACCEPT_ENCODING, offered)));
    fields
}

/// Fields that requests of the gateway set anew, or omit.
static RESTATED_FIELDS: [HeaderName; 6] = [
    header::HOST,
    header::CONNECTION,
    header::UPGRADE,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::EXPECT,
];
/// Fields that would make an answer incomplete: ranges and conditions.
pub(crate) static PARTIAL_REQUEST_FIELDS: [HeaderName; 6] = [
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// A copy of a request without ranges and conditions.
pub(crate) fn whole_request(request: &RequestHeader) -> RequestHeader {
    let mut request = request.clone();
    for name in &PARTIAL_REQUEST_FIELDS {
        request.remove_header(name);
    }
    request
}

/// A copy of a request as a client would send it that doesn't watch: without ranges, conditions and directives,
/// for any type of content.
pub(crate) fn watching_request(request: &RequestHeader) -> RequestHeader {
    let mut request = whole_request(request);
    for name in ["last-event-id", "prefer", "cache-control", "pragma"] {
        request.remove_header(name);
    }
    if request.insert_header(header::ACCEPT, "*/*").is_err() {
        request.remove_header(&header::ACCEPT);
    }
    request
}

/// The fields to remove from a message: those of its connection (RFC 9110, 7.6.1), and orders to the gateway.
/// Pingora handles framing.
pub(crate) fn hop_by_hop_names(headers: &HeaderMap) -> Vec<HeaderName> {
    let framing = [header::UPGRADE, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    let nominated = connection_options(headers);
    let ends = |name: &&HeaderName| {
        HOP_BY_HOP_FIELDS.contains(name)
            || is_accel_field(name)
            || nominated.contains(name) && !framing.contains(name)
    };
    headers.keys().filter(ends).cloned().collect()
}

fn accel_names(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> + '_ {
    headers.keys().filter(|name| is_accel_field(name)).cloned()
}

/// Removes orders to the gateway (`X-Accel-*`) from an answer.
pub(crate) fn strip_accel_fields(head: &mut ResponseHeader) {
    let orders: Vec<_> = accel_names(&head.headers).collect();
    for name in &orders {
        head.remove_header(name);
    }
}

/// Fields that are not allowed in trailers: framing, authentication, content format, and caching (RFC 9110,
/// 6.5.1).
static FORBIDDEN_TRAILERS: [HeaderName; 18] = [
    header::AGE,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::DATE,
    header::EXPIRES,
    header::HOST,
    header::LOCATION,
    header::RETRY_AFTER,
    header::SET_COOKIE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::VARY,
    header::WARNING,
    header::WWW_AUTHENTICATE,
];

/// Removes the trailers of an answer that are not for the client, or not allowed as trailers.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    for name in hop_by_hop_names(trailers).iter().chain(&FORBIDDEN_TRAILERS) {
        trailers.remove(name);
    }
}

/// Removes the fields of an interim answer that are not for the client; it has no body that could be framed.
pub(crate) fn strip_interim(head: &mut ResponseHeader) {
    for name in
        hop_by_hop_names(&head.headers).into_iter().chain([header::CONTENT_LENGTH, header::TRANSFER_ENCODING])
    {
        head.remove_header(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MessageDirection;

    #[test]
    fn no_rule_may_touch_what_is_ours_or_of_the_connection() {
        let ours =
            [&ORIGIN_FIELDS[..], &HOP_BY_HOP_FIELDS, &RESTATED_FIELDS, &PARTIAL_REQUEST_FIELDS].concat();
        for name in ours.iter().filter(|name| **name != header::HOST) {
            assert!(MessageDirection::Request.reserved(name.as_str()).is_some(), "{name}");
        }
        for name in [&HOP_BY_HOP_FIELDS[..], &[header::VIA, REQUEST_ID]].concat() {
            assert!(MessageDirection::Response.reserved(name.as_str()).is_some(), "{name}");
        }
    }
}
