//! How a request came in: by which listener, over what, who was at the other end; and what follows from that alone.
//!
//! A listener may send everything to https (RFC 9110, 15.4), and where clients show certificates, a request for
//! another host than the one that the certificate was shown to is turned away (RFC 9110, 15.5.20). Neither asks a route,
//! but for ACME: who proves by HTTP that a name is his (RFC 8555, 8.3) is let through where a route is for just that.

use super::{dress, host, session::Session, Context, Gateway, Next, Result, Signals, UNKNOWN};
use crate::{
    authority,
    cache::key::Scheme,
    config::{Config, Listener, PathPattern},
    route::Match,
    telemetry::labels::{CacheResult, RejectReason},
};
use bytes::Bytes;
use http::{header, HeaderName, HeaderValue, Method, StatusCode, Uri};
use pingora_http::{RequestHeader, ResponseHeader};
use std::{any::Any, net::SocketAddr, sync::Arc};

/// Where certificates' authorities look for a proof.
const ACME: &str = "/.well-known/acme-challenge/";

/// What all requests have in common that come in by one listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Over what.
    pub scheme: Scheme,
    /// Everything is sent to https, at this port.
    pub redirect: Option<u16>,
    /// `Strict-Transport-Security` of every answer.
    pub hsts: Option<HeaderValue>,
    /// The field that tells an origin whose certificate the client showed.
    pub subject: Option<HeaderName>,
}

impl Entry {
    /// Those of a configuration whose listeners are at these addresses.
    pub fn all(config: &Config, addresses: &[SocketAddr]) -> Vec<Arc<Self>> {
        let entry = |listener: &Listener| {
            let clients = listener.tls.as_ref().and_then(|tls| tls.clients.as_ref());
            Arc::new(Self {
                scheme: if listener.tls.is_some() { Scheme::Https } else { Scheme::Http },
                redirect: listener.redirect_to.and_then(|to| addresses.get(to)).map(SocketAddr::port),
                hsts: listener.hsts.as_ref().and_then(|value| HeaderValue::from_str(value).ok()),
                subject: clients.and_then(|clients| clients.header.clone()),
            })
        };
        config.listeners.iter().map(entry).collect()
    }
}

/// What is known of a client where the listener asks for certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// The host that it asked for when it began the connection (SNI), as TLS names hosts.
    pub to: Option<Box<str>>,
    /// The subject of its certificate; none where it showed none.
    pub subject: Option<HeaderValue>,
}

/// Held for as long as anything is under way for a request, whatever becomes of its client.
pub type Hold = Arc<dyn Any + Send + Sync>;

/// What a connection tells the gateway of itself, with each request.
#[derive(Clone)]
pub struct OnConnection {
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// What the gateway tells the connection.
    pub signals: Arc<Signals>,
    /// By which listener it came: its number, from 0.
    pub listener: usize,
    /// What its client has shown, where it was asked.
    pub shown: Option<Arc<Shown>>,
    /// What is held for this request, where the connection has many at once.
    pub hold: Option<Hold>,
}

/// Why a request goes no further than to the listener.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is to be sent there.
    Elsewhere(String),
    /// It is to be sent elsewhere, and says no host.
    NoHost,
    /// It is for another host than the connection.
    Misdirected,
}

impl Gateway {
    /// Answers a request that goes no further than to its listener.
    pub(super) async fn take_turn(
        &self,
        session: &mut Session<'_>,
        ctx: &mut Context,
        turn: Turn,
    ) -> Result<Next> {
        match turn {
            Turn::Elsewhere(location) => self.send_elsewhere(session, ctx, &location).await,
            Turn::NoHost => self.refuse(session, ctx, RejectReason::BadHost).await,
            Turn::Misdirected => self.refuse(session, ctx, RejectReason::Misdirected).await,
        }
    }

    /// 301 is known to everyone and keeps GET and HEAD; 308 keeps every method.
    async fn send_elsewhere(
        &self,
        session: &mut Session<'_>,
        ctx: &mut Context,
        location: &str,
    ) -> Result<Next> {
        let status = match session.req_header().method {
            Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
            _ => StatusCode::PERMANENT_REDIRECT,
        };
        ctx.result = CacheResult::Local;
        ctx.detail = Some("https");
        let mut head = Box::new(ResponseHeader::build(status, Some(5))?);
        // A host was checked, and no target has control characters: Pingora refuses them.
        head.insert_header(header::LOCATION, location)?;
        head.insert_header(header::CONTENT_LENGTH, 0)?;
        self.mark(&mut head, ctx, &HeaderValue::from_static("tidegate; detail=https"))?;
        dress::answer(session.req_header(), &mut head, ctx);
        self.send(session, head, Bytes::new().into()).await
    }
}

/// How many bytes of an HTTP/1.1 connection a request was: its head, and its body where it has a length.
pub(super) fn length(session: &pingora_proxy::Session) -> u64 {
    let headers = &session.req_header().headers;
    let body = match (headers.get(header::TRANSFER_ENCODING), headers.get(header::CONTENT_LENGTH)) {
        (None, None) => Some(0),
        (None, Some(length)) => length.to_str().ok().and_then(|length| length.parse().ok()),
        (Some(_), _) => None,
    };
    let head = session.downstream_session.to_h1_raw().len() as u64;
    body.map_or(UNKNOWN, |body: u64| head.saturating_add(body).min(UNKNOWN))
}

/// What the way in decides of a request. `None`: it goes on.
pub(super) fn turn_of(request: &RequestHeader, ctx: &Context) -> Option<Turn> {
    let named = host(request).unwrap_or_default();
    let is_routed = || is_for_acme(request, ctx);
    let entry = ctx.entry.as_deref()?;
    // Where a trusted proxy speaks TLS, its client has what it is to be sent to.
    let redirect = entry.redirect.filter(|_| ctx.scheme() == Scheme::Http);
    turn(redirect, ctx.shown.as_deref(), named, &request.uri, is_routed)
}

/// Whether the route of a request is for proofs alone.
fn is_for_acme(request: &RequestHeader, ctx: &Context) -> bool {
    let Match::Found(index) = ctx.find_route(request, &request.method) else { return false };
    match ctx.site.plan.config.routes.get(index).map(|route| &route.path) {
        Some(PathPattern::Exact(path) | PathPattern::Prefix(path)) => path.starts_with(ACME),
        None => false,
    }
}

/// `redirect` is the port of https; `is_routed` is asked where the path is one of ACME's. Most requests are through with two comparisons.
fn turn(
    redirect: Option<u16>,
    shown: Option<&Shown>,
    host: &str,
    uri: &Uri,
    is_routed: impl FnOnce() -> bool,
) -> Option<Turn> {
    let name = authority::host_name(host);
    if let Some(to) = shown.and_then(|shown| shown.to.as_deref()) {
        if !name.eq_ignore_ascii_case(authority::host_name(to)) {
            return Some(Turn::Misdirected);
        }
    }
    let port = redirect?;
    if uri.path().starts_with(ACME) && is_routed() {
        return None;
    }
    if name.is_empty() {
        return Some(Turn::NoHost);
    }
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    Some(Turn::Elsewhere(match port {
        443 => format!("https://{name}{target}"),
        port => format!("https://{name}:{port}{target}"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirected(port: u16, host: &str, uri: &str) -> Option<Turn> {
        turn(Some(port), None, host, &uri.parse().unwrap(), || uri.contains("routed"))
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
                Some(Turn::Elsewhere(location.to_owned())),
                "{host}{uri}"
            );
        }
        assert_eq!(redirected(443, "a", "/.well-known/acme-challenge/routed"), None);
        assert_eq!(redirected(443, "", "/a"), Some(Turn::NoHost));
    }

    #[test]
    fn a_certificate_is_shown_to_one_host() {
        let misdirected = |to: Option<&str>, host: &str| {
            let shown = Shown { to: to.map(Into::into), subject: None };
            turn(None, Some(&shown), host, &"/".parse().unwrap(), || false).is_some()
        };
        for host in ["a.example", "A.Example:8443", "a.example."] {
            assert!(!misdirected(Some("a.example"), host), "{host}");
        }
        for host in ["b.example", "a.example.evil", "", "[::1]", "127.0.0.1"] {
            assert!(misdirected(Some("a.example"), host), "{host}");
        }
        // Who names no host to TLS asks for an address, or is no browser.
        assert!(!misdirected(None, "a.example"));
        assert_eq!(turn(None, None, "b.example", &"/".parse().unwrap(), || false), None);
    }
}
