//! The listener of a request: scheme, peer, client certificate, and the checks that depend on these alone.
//!
//! A listener may redirect all requests to https (RFC 9110, 15.4). If clients present certificates, a request
//! for another host than that of the TLS handshake gets 421 (RFC 9110, 15.5.20). Routes don't matter here,
//! except for ACME: an HTTP challenge (RFC 8555, 8.3) is not redirected if a route exists for just that path.

use crate::{
    cache::key::RequestScheme,
    config::PathPattern,
    gateway::{
        context::{connection::ClientCertificate, request_host, signals::UNKNOWN_BYTES, RequestContext},
        headers::{rules, to_client::set_gateway_headers},
        respond::{refuse_request, send_whole},
        services::{GatewayServices, NextStep},
        session::GatewaySession,
    },
    http::{authority, cache_status::CacheStatus, framing::content_length::agreed_length},
    route::RouteMatch,
    telemetry::labels::{CacheResult, RejectReason},
};

use bytes::Bytes;
use http::{header, Method, StatusCode, Uri};
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};

/// The path prefix of ACME HTTP challenges.
const ACME_PREFIX: &str = "/.well-known/acme-challenge/";

/// The reason for which a request is answered by the listener's rules.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ListenerVerdict {
    /// A redirect to this URL.
    Redirect(String),
    /// A redirect is due, but the request names no host.
    NoHost,
    /// The request's host isn't that of the connection.
    Misdirected,
}

/// Answers a request that the listener's rules end.
pub(crate) async fn apply_listener_verdict(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    turn: ListenerVerdict,
) -> Result<NextStep> {
    match turn {
        ListenerVerdict::Redirect(location) => send_https_redirect(session, ctx, &location).await,
        ListenerVerdict::NoHost => refuse_request(services, session, ctx, RejectReason::BadHost).await,
        ListenerVerdict::Misdirected => {
            refuse_request(services, session, ctx, RejectReason::Misdirected).await
        }
    }
}

/// Sends a redirect: 301, which every client knows, for GET and HEAD; 308, which keeps the method, for
/// all others.
async fn send_https_redirect(
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    location: &str,
) -> Result<NextStep> {
    let status = match session.req_header().method {
        Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
        _ => StatusCode::PERMANENT_REDIRECT,
    };
    ctx.result = CacheResult::Local;
    ctx.detail = Some("https");
    let mut head = Box::new(ResponseHeader::build(status, Some(5))?);
    // The host was checked, and Pingora refuses control characters in targets.
    head.insert_header(header::LOCATION, location)?;
    head.insert_header(header::CONTENT_LENGTH, 0)?;
    set_gateway_headers(&mut head, ctx, CacheStatus::local("https"))?;
    rules::apply_answer_rules(session.req_header(), &mut head, ctx);
    send_whole(session, head, Bytes::new().into()).await
}

/// The number of bytes of an HTTP/1.1 request on the connection: its head, and its body if it has a length.
pub(crate) fn request_length(session: &pingora_proxy::Session) -> u64 {
    let headers = &session.req_header().headers;
    let body = match headers.contains_key(header::TRANSFER_ENCODING) {
        true => None,
        false => agreed_length(headers).ok().map(Option::unwrap_or_default),
    };
    let head = session.downstream_session.to_h1_raw().len() as u64;
    body.map_or(UNKNOWN_BYTES, |body: u64| head.saturating_add(body).min(UNKNOWN_BYTES))
}

/// The decision of the listener's rules on a request. `None`: it continues.
pub(crate) fn listener_verdict(request: &RequestHeader, ctx: &RequestContext) -> Option<ListenerVerdict> {
    let named = request_host(request).unwrap_or_default();
    let is_routed = || is_for_acme(request, ctx);
    let entry = ctx.entry.as_deref()?;
    // If a trusted proxy terminates TLS, its client uses https already.
    let redirect = entry.redirect.filter(|_| ctx.scheme() == RequestScheme::Http);
    decide_listener(redirect, ctx.shown.as_deref(), named, &request.uri, is_routed)
}

/// Returns true if the route of a request is for ACME challenges alone.
fn is_for_acme(request: &RequestHeader, ctx: &RequestContext) -> bool {
    let RouteMatch::Found(index) = ctx.find_route(request, &request.method) else { return false };
    match ctx.site.plan.config.routes.get(index).map(|route| &route.path) {
        Some(PathPattern::Exact(path) | PathPattern::Prefix(path)) => path.starts_with(ACME_PREFIX),
        None => false,
    }
}

/// `redirect` is the port of https. `is_routed` is called only for ACME paths. Most requests need two
/// comparisons.
fn decide_listener(
    redirect: Option<u16>,
    shown: Option<&ClientCertificate>,
    host: &str,
    uri: &Uri,
    is_routed: impl FnOnce() -> bool,
) -> Option<ListenerVerdict> {
    let name = authority::host_name(host);
    if let Some(to) = shown.and_then(|shown| shown.to.as_deref()) {
        if !name.eq_ignore_ascii_case(authority::host_name(to)) {
            return Some(ListenerVerdict::Misdirected);
        }
    }
    let port = redirect?;
    if uri.path().starts_with(ACME_PREFIX) && is_routed() {
        return None;
    }
    if name.is_empty() {
        return Some(ListenerVerdict::NoHost);
    }
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    Some(ListenerVerdict::Redirect(match port {
        443 => format!("https://{name}{target}"),
        port => format!("https://{name}:{port}{target}"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirected(port: u16, host: &str, uri: &str) -> Option<ListenerVerdict> {
        decide_listener(Some(port), None, host, &uri.parse().unwrap(), || uri.contains("routed"))
    }

    #[test]
    fn everything_is_sent_to_the_same_place_over_https() {
        for (port, host, uri, location) in [
            (443, "dash.example", "/", "https://dash.example/"),
            (443, "Dash.example:80", "/a/b?c=%20d&e", "https://Dash.example/a/b?c=%20d&e"),
            (8443, "dash.example.:8080", "/a", "https://dash.example:8443/a"),
            (443, "[::1]:80", "/a", "https://[::1]/a"),
            (8443, "[::1]", "http://[::1]/a?b", "https://[::1]:8443/a?b"),
            (443, "a", "/.well-known/acme-challenge/other", "https://a/.well-known/acme-challenge/other"),
            (
                443,
                "a",
                "/routed/.well-known/acme-challenge/x",
                "https://a/routed/.well-known/acme-challenge/x",
            ),
        ] {
            assert_eq!(
                redirected(port, host, uri),
                Some(ListenerVerdict::Redirect(location.to_owned())),
                "{host}{uri}"
            );
        }
        assert_eq!(redirected(443, "a", "/.well-known/acme-challenge/routed"), None);
        assert_eq!(redirected(443, "", "/a"), Some(ListenerVerdict::NoHost));
    }

    #[test]
    fn a_certificate_is_shown_to_one_host() {
        let misdirected = |to: Option<&str>, host: &str| {
            let shown = ClientCertificate { to: to.map(Into::into), subject: None };
            decide_listener(None, Some(&shown), host, &"/".parse().unwrap(), || false).is_some()
        };
        for host in ["a.example", "A.Example:8443", "a.example."] {
            assert!(!misdirected(Some("a.example"), host), "{host}");
        }
        for host in ["b.example", "a.example.evil", "", "[::1]", "127.0.0.1"] {
            assert!(misdirected(Some("a.example"), host), "{host}");
        }
        // A client that sends no SNI uses an address, or isn't a browser.
        assert!(!misdirected(None, "a.example"));
        assert_eq!(decide_listener(None, None, "b.example", &"/".parse().unwrap(), || false), None);
    }
}
