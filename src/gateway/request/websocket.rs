//! WebSockets: the check of a handshake, and the tunnel after the origin has accepted it.
//!
//! Everything is checked before the origin is asked: the form of the handshake, the page that opens the
//! socket, the token. Only HTTP/1.1 carries WebSockets here; they are not offered over HTTP/2 (RFC 8441).

use crate::{
    config::{RouteConfig, TokenPlace, WebSocketConfig},
    cors,
    gateway::{
        context::{handshake::WebSocketHandshake, request_host, tunnel::TunnelledConnection, RequestContext},
        services::GatewayServices,
        session::GatewaySession,
    },
    http::cross_origin::is_cross_origin,
    identity::{self, TokenError},
    telemetry::labels::RejectReason,
    websocket::{self, HandshakeFault, TokenOffer},
};

use http::{header, HeaderValue};
use pingora_core::{upstreams::peer::HttpPeer, Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use std::{borrow::Cow, sync::atomic::Ordering, time::Duration};

/// Checks whether a route accepts a handshake: its form, then the page it comes from.
pub(crate) fn admit_websocket(
    rules: &WebSocketConfig,
    request: &RequestHeader,
    ctx: &mut RequestContext,
) -> std::result::Result<WebSocketHandshake, RejectReason> {
    websocket::check_handshake(&request.method, request.version, &request.headers).map_err(|fault| {
        match fault {
            HandshakeFault::Malformed => RejectReason::Handshake,
            HandshakeFault::Version => RejectReason::WebSocketVersion,
        }
    })?;
    if !websocket::is_origin_allowed(&rules.origins, &request.headers) {
        return Err(RejectReason::Origin);
    }
    let offer = match rules.tokens.contains(&TokenPlace::Subprotocol) {
        true => {
            websocket::offered_token(&request.headers).map_err(|_| ctx.refuse_token(TokenError::Malformed))?
        }
        false => None,
    };
    Ok(WebSocketHandshake { offer, handover: None })
}

/// Prepares the connection to the origin for a handshake.
pub(crate) fn prepare_websocket(
    services: &GatewayServices,
    peer: &mut HttpPeer,
    handshake: &mut WebSocketHandshake,
) {
    handshake.handover = Some(services.upgrades.prepare(peer));
}

/// Prepares the switch to a tunnel after the origin's 101: the connection becomes one once the head has
/// been sent.
pub(crate) fn switch_to_tunnel(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    head: &mut ResponseHeader,
    ctx: &mut RequestContext,
) -> Result<()> {
    let rules = ctx.routed().and_then(|route| route.websocket.as_ref());
    let idle = rules.map_or(Duration::ZERO, |rules| rules.idle_timeout);
    let handshake = ctx.handshake.as_mut();
    let taken = handshake.and_then(|handshake| Some((handshake.handover.take()?.take()?, &handshake.offer)));
    let (Some((origin, offer)), Some(signals)) = (taken, &ctx.signals) else {
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "a 101 without a request for an upgrade");
    };
    // A browser closes a socket for which it offered subprotocols and got none.
    if let Some(offer) = offer.as_ref().filter(|_| !head.headers.contains_key(SUBPROTOCOL)) {
        head.insert_header(SUBPROTOCOL, offer.mark.clone())?;
    }
    // From here on the tunnel enforces its own timeout.
    session.never_times_out();
    let open = services.metrics.websocket();
    let hearing = ctx.seeking.hearing(ctx.upstream.as_ref());
    *signals.tunnelled.lock() = Some(TunnelledConnection { origin, idle, open, hearing });
    signals.switched.store(true, Ordering::Relaxed);
    Ok(())
}

const SUBPROTOCOL: header::HeaderName = header::SEC_WEBSOCKET_PROTOCOL;

/// The places in which requests of a route may carry their token.
pub(crate) fn token_places<'a>(
    route: &'a RouteConfig,
    handshake: Option<&WebSocketHandshake>,
) -> &'a [TokenPlace] {
    let own = handshake.and(route.websocket.as_ref()).map(|rules| &rules.tokens[..]);
    match own.filter(|places| !places.is_empty()) {
        Some(places) => places,
        None => match (route.token_cookie.is_some(), route.token_query) {
            (false, false) => &[TokenPlace::Header],
            (false, true) => &[TokenPlace::Header, TokenPlace::Query],
            (true, false) => &[TokenPlace::Header, TokenPlace::Cookie],
            (true, true) => &[TokenPlace::Header, TokenPlace::Cookie, TokenPlace::Query],
        },
    }
}

/// The token of a request, and its place: the first that is found.
pub(crate) fn request_token<'r>(
    route: &RouteConfig,
    request: &'r RequestHeader,
    handshake: Option<&'r WebSocketHandshake>,
) -> std::result::Result<Option<(Cow<'r, str>, TokenPlace)>, TokenError> {
    for place in token_places(route, handshake) {
        let token = match place {
            TokenPlace::Header => identity::bearer_token(&request.headers)?.map(Cow::Borrowed),
            TokenPlace::Cookie => match route.token_cookie.as_deref() {
                Some(_) if is_of_another_page(route, request, handshake) => None,
                Some(name) => identity::cookie_token(&request.headers, name)?.map(Cow::Borrowed),
                None => None,
            },
            TokenPlace::Query => request.uri.query().and_then(identity::query_token),
            TokenPlace::Subprotocol => {
                handshake.and_then(|h| h.offer.as_ref()).map(|offer| offer.token.as_str().into())
            }
        };
        if let Some(token) = token {
            return Ok(Some((token, *place)));
        }
    }
    Ok(None)
}

/// Returns true if a request has a token in a cookie that does not count, because a page of another origin caused
/// it.
pub(crate) fn has_foreign_cookie(
    route: &RouteConfig,
    request: &RequestHeader,
    handshake: Option<&WebSocketHandshake>,
) -> bool {
    let is_read = token_places(route, handshake).contains(&TokenPlace::Cookie);
    let name = route.token_cookie.as_deref().filter(|_| is_read);
    let has_token = |name| !matches!(identity::cookie_token(&request.headers, name), Ok(None));
    name.is_some_and(has_token) && is_of_another_page(route, request, handshake)
}

/// Returns true if a page caused a request that neither is of its own origin, nor may send credentials by `cors`, nor
/// open a WebSocket by `websocket.origins`.
fn is_of_another_page(
    route: &RouteConfig,
    request: &RequestHeader,
    handshake: Option<&WebSocketHandshake>,
) -> bool {
    let sockets = handshake.and(route.websocket.as_ref()).map_or(&[][..], |rules| &rules.origins);
    let permitted = |origin: &str| {
        sockets.iter().any(|pattern| cors::matches_origin(pattern, origin))
            || route.cors.as_ref().is_some_and(|rules| cors::may_send_credentials(rules, origin))
    };
    is_cross_origin(&request.method, &request.headers, request_host(request), permitted)
}

/// The value of `Authorization` for a token that was found in another place. Credentials of another scheme
/// belong to the application and are kept; what no scheme has is not: an application could read a token in it
/// that nobody has verified.
fn moved_token(
    route: &RouteConfig,
    request: &RequestHeader,
    handshake: Option<&WebSocketHandshake>,
) -> Option<HeaderValue> {
    let (token, place) = request_token(route, request, handshake).ok().flatten()?;
    let headers = &request.headers;
    let others = identity::has_other_scheme(headers);
    // A token that isn't a valid field value doesn't verify either.
    // A cookie is passed on as it is.
    let is_moved = !matches!(place, TokenPlace::Header | TokenPlace::Cookie) && !others;
    let moved = is_moved.then(|| format!("Bearer {token}"))?;
    HeaderValue::try_from(moved).ok()
}

/// The request as an origin that the gateway asks by itself sees it: with the token of its query in
/// `Authorization`. The token is removed from the target elsewhere.
pub(crate) fn with_moved_token<'r>(
    request: &'r RequestHeader,
    ctx: &RequestContext,
) -> Cow<'r, RequestHeader> {
    let in_query = |route: &&RouteConfig| route.token_query && request.uri.query().is_some();
    let moved = ctx.routed().filter(in_query).and_then(|route| moved_token(route, request, None));
    match moved {
        None => Cow::Borrowed(request),
        Some(credentials) => {
            let mut request = request.clone();
            // The capacity allows for one field more than a client may send.
            request.insert_header(header::AUTHORIZATION, credentials).unwrap_or_default();
            Cow::Owned(request)
        }
    }
}

/// Removes a request's tokens from the places where an origin doesn't expect them, or would log them, and
/// puts the valid one into `Authorization`.
pub(crate) fn move_token(request: &mut RequestHeader, ctx: &RequestContext) -> Result<()> {
    let Some(route) = ctx.routed() else { return Ok(()) };
    let handshake = ctx.handshake.as_deref();
    let moved = moved_token(route, request, handshake);
    let in_query = route.token_query || token_places(route, handshake).contains(&TokenPlace::Query);
    if let Some(query) = request.uri.query().filter(|_| in_query) {
        let kept = identity::without_query_token(query);
        let path = request.uri.path();
        let target = if kept.is_empty() { path.to_owned() } else { format!("{path}?{kept}") };
        request.set_raw_path(target.as_bytes())?;
    }
    match handshake.and_then(|handshake| handshake.offer.as_ref()) {
        Some(TokenOffer { others: Some(others), .. }) => {
            request.insert_header(SUBPROTOCOL, others.clone())?
        }
        Some(TokenOffer { others: None, .. }) => drop(request.remove_header(&SUBPROTOCOL)),
        None => {}
    }
    if let Some(credentials) = moved {
        request.insert_header(header::AUTHORIZATION, credentials)?;
    }
    Ok(())
}
