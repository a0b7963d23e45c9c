//! What an origin is told besides the request itself: who asks, through whom, and under which id.
//!
//! What a client claims of itself in these fields is removed first: an origin may believe them.

use super::context::Context;
use crate::{
    config::{CacheRules, Scope},
    identity::Identity,
    representation::{encoding, nominated_by_connection, HOP_BY_HOP},
};
use http::{header, HeaderMap, HeaderName, HeaderValue, Version};
use pingora_http::RequestHeader;
use std::net::IpAddr;

const TENANT: HeaderName = HeaderName::from_static("x-tenant");
const USER: HeaderName = HeaderName::from_static("x-user");
const ROLE: HeaderName = HeaderName::from_static("x-role");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The request's id, in both directions.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Fields that only the gateway may set.
const OURS: [HeaderName; 8] =
    [TENANT, USER, ROLE, REAL_IP, FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, header::FORWARDED];

/// Those that differ from one request for a resource to the next.
pub(super) static OURS_THAT_VARY: [HeaderName; 8] =
    [TENANT, USER, ROLE, REAL_IP, FORWARDED_FOR, header::FORWARDED, header::VIA, REQUEST_ID];

/// Dresses a proxied request.
pub(super) fn dress(request: &mut RequestHeader, ctx: &Context) {
    let host = request.headers.get(header::HOST).cloned();
    for name in claimed(&request.headers).into_iter().chain([header::PROXY_AUTHORIZATION]) {
        request.remove_header(&name);
    }
    let mut fields = Vec::with_capacity(10);
    if let Some(identity) = &ctx.identity {
        push_claims(&mut fields, identity, true);
    }
    if let Some(ip) = ctx.peer.map(|peer| peer.ip().to_canonical()) {
        fields.push((REAL_IP, ip.to_string()));
        fields.push((FORWARDED_FOR, ip.to_string()));
        fields.push((header::FORWARDED, forwarded(ip, host.as_ref())));
    }
    fields.push((FORWARDED_PROTO, "http".to_owned()));
    for (name, value) in fields {
        insert(request, name, HeaderValue::from_str(&value));
    }
    if let Some(host) = host {
        insert(request, FORWARDED_HOST, Ok(host));
    }
    insert(request, REQUEST_ID, Ok(ctx.request_id.clone()));
    let version = request.version;
    request.append_header(header::VIA, via(version)).unwrap_or_default();
}

/// RFC 9110, 7.6.3: through whom a message came, and in which version it came to us.
pub(super) fn via(received: Version) -> HeaderValue {
    HeaderValue::from_static(match received {
        Version::HTTP_10 => "1.0 tidegate",
        Version::HTTP_2 => "2 tidegate",
        _ => "1.1 tidegate",
    })
}

/// The fields of a request that only the gateway may set, or that an application behind CGI or WSGI couldn't tell
/// from them: there `X_Tenant` and `X-Tenant` are one.
fn claimed(headers: &HeaderMap) -> Vec<HeaderName> {
    let is_ours = |name: &HeaderName| {
        OURS.contains(name)
            || name.as_str().contains('_') && {
                let dashed = name.as_str().replace('_', "-");
                OURS.iter().any(|ours| *ours == dashed.as_str())
            }
    };
    headers.keys().filter(|name| is_ours(name)).cloned().collect()
}

fn insert(
    request: &mut RequestHeader,
    name: HeaderName,
    value: Result<HeaderValue, http::header::InvalidHeaderValue>,
) {
    // Claims were checked for control characters, addresses and ids have none.
    if let Ok(value) = value {
        request.insert_header(name, value).unwrap_or_default();
    }
}

/// RFC 7239: an IPv6 address stands in brackets and quotes.
fn forwarded(ip: IpAddr, host: Option<&HeaderValue>) -> String {
    let mut text = match ip {
        IpAddr::V4(ip) => format!("for={ip};proto=http"),
        IpAddr::V6(ip) => format!("for=\"[{ip}]\";proto=http"),
    };
    if let Some(host) = host.and_then(|h| h.to_str().ok()) {
        text.push_str(";host=\"");
        text.push_str(host);
        text.push('"');
    }
    text
}

fn push_claims(fields: &mut Vec<(HeaderName, String)>, identity: &Identity, whole: bool) {
    fields.push((TENANT, identity.tenant.to_string()));
    if whole {
        fields.extend(identity.user.iter().map(|user| (USER, user.clone())));
        fields.extend(identity.role.iter().map(|role| (ROLE, role.clone())));
    }
}

/// What a fill tells the origin: exactly what the answer may depend on. For a tenant's answer that is the tenant
/// and a token of it, never the user; for a public one nothing of whoever happened to ask first.
pub(super) fn fill_headers(
    rules: &CacheRules,
    ctx: &Context,
    token: Option<&str>,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut fields = Vec::with_capacity(6);
    match (rules.scope, &ctx.identity) {
        (Scope::Public, _) | (_, None) => fields.push((TENANT, "public".to_owned())),
        (scope, Some(identity)) => {
            push_claims(&mut fields, identity, scope == Scope::User);
            fields.extend(token.map(|token| (header::AUTHORIZATION, format!("Bearer {token}"))));
        }
    }
    let mut headers: Vec<_> = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name, HeaderValue::from_str(&value).ok()?)))
        .collect();
    headers.push((REQUEST_ID, ctx.request_id.clone()));
    headers.push((header::VIA, via(Version::HTTP_11)));
    headers.push((header::ACCEPT, HeaderValue::from_static("*/*")));
    headers.push((header::ACCEPT_ENCODING, HeaderValue::from_static("identity")));
    headers.push((
        header::USER_AGENT,
        HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION"))),
    ));
    headers
}

/// What a request tells an origin that is followed: what the client said, but for what belongs to its connection, for
/// what the gateway alone may say, and, where the answer is for others as well, for what would make it less than
/// whole. `host` is the one that the answer is kept under.
pub(super) fn followed_headers(
    request: &RequestHeader,
    host: Option<&str>,
    ctx: &Context,
    alone: bool,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut request = request.clone();
    // First what ends with the client's connection: no client names the gateway's own fields among it.
    for name in undress(&request.headers) {
        request.remove_header(&name);
    }
    if let Some(host) = host {
        insert(&mut request, header::HOST, HeaderValue::from_str(host));
    }
    dress(&mut request, ctx);
    let whole = WHOLE.into_iter().filter(|_| !alone);
    for name in NOT_FORWARDED.into_iter().chain(whole) {
        request.remove_header(&name);
    }
    if let Some(offered) = encoding::offered(&request.headers).filter(|_| !alone) {
        insert(&mut request, header::ACCEPT_ENCODING, Ok(offered));
    }
    request.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// What a request of the gateway's own says anew, or not at all.
const NOT_FORWARDED: [HeaderName; 6] = [
    header::HOST,
    header::CONNECTION,
    header::UPGRADE,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::EXPECT,
];
/// What would make an answer less than whole.
const WHOLE: [HeaderName; 6] = [
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// A request for all of what a client wants perhaps a part of, perhaps only if it has changed.
pub(super) fn of_the_whole(request: &RequestHeader) -> RequestHeader {
    let mut request = request.clone();
    for name in &WHOLE {
        request.remove_header(name);
    }
    request
}

/// Removes from an answer what belongs to the connection to the origin (RFC 9110, 7.6.1). Framing is Pingora's.
pub(super) fn undress(headers: &HeaderMap) -> Vec<HeaderName> {
    let framing = [header::UPGRADE, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    let nominated = nominated_by_connection(headers).into_iter().filter(|name| !framing.contains(name));
    nominated.chain(HOP_BY_HOP).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_ours_is_removed() {
        let fields = ["x-tenant", "X_Tenant", "x_real-ip", "x-other", "x_other", "forwarded"];
        let headers: HeaderMap =
            fields.iter().map(|f| (f.parse().unwrap(), HeaderValue::from_static("v"))).collect();
        let mut removed: Vec<_> = claimed(&headers).iter().map(ToString::to_string).collect();
        removed.sort();
        assert_eq!(removed, ["forwarded", "x-tenant", "x_real-ip", "x_tenant"]);
    }
}
