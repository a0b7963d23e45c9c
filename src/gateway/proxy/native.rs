//! Proxied requests in one task: read from the origin, written to the client, without channels in between.
//!
//! Pingora proxies with two tasks that communicate through channels, and each of them does one thing at a
//! time: while a server does not read the body, its answer is not read. Here both directions run at once
//! (`upload`). Requests use the origin client's own connections (`origin::client::native`), and the same
//! functions as requests that Pingora proxies: the choice of a server and retries (`upstream`), the fields to
//! the origin (`headers`), the handling of its answer (`pass_answer`, `response`). [`takes_native_path`]
//! decides which requests take this path. Upgrades, HTTP/2 to the origin, TLS without a body, and unusual
//! `Connection` fields are left to Pingora.

use crate::{
    config::RouteConfig,
    gateway::{
        context::RequestContext,
        headers::{rules, to_origin},
        proxy::{
            response::{on_response_chunk, pass_answer},
            upload::{begin_upload, upload_until, OriginHalf, RequestUpload},
            upstream::{
                find_server, is_tried_with, observe_piece, on_connect_failure, on_exchange_failure,
                set_preferences,
            },
        },
        respond,
        services::GatewayServices,
        session::GatewaySession,
    },
    http::framing::has_body::response_has_body,
    origin::{
        client::native::{self, DuplexEvent, NativeExchange},
        OriginTable,
    },
};

use bytes::Bytes;
use http::{header, HeaderValue, Method, StatusCode, Version};
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::ResponseHeader;
use std::{
    future::Future,
    pin::{pin, Pin},
};

/// The most attempts for one request, whatever the budget of retries: the same number as in Pingora.
const MAX_ATTEMPTS: u32 = 16;

/// Returns true if a request that is to be proxied takes this path.
pub(crate) fn takes_native_path(session: &mut GatewaySession<'_>, ctx: &RequestContext) -> bool {
    let request = session.req_header();
    let headers = &request.headers;
    let connection = headers.get_all(header::CONNECTION).iter();
    let plain = ctx.handshake.is_none()
        && !headers.contains_key(header::UPGRADE)
        // The fields that it names are removed here, and some fields must not be named.
        && connection.map(|value| value.as_bytes()).all(is_plain)
        && request.uri.authority().is_none_or(|authority| !authority.as_str().contains('@'));
    let framed = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    let reads = matches!(request.method, Method::GET | Method::HEAD)
        && !framed.iter().any(|name| headers.contains_key(name));
    let Some(at_hand) = ctx.at_hand().filter(|_| plain) else { return false };
    match reads && session.is_body_empty() {
        true => at_hand.own,
        false => at_hand.uploads,
    }
}

/// Returns true if requests without a body can be served on a route without Pingora: the origin is asked over
/// the gateway's own connections, and the target holds no token that would have to be moved.
pub(crate) fn is_native_route(route: &RouteConfig, origins: &OriginTable) -> bool {
    !route.token_query && route.target.origin().is_none_or(|origin| origins.pool(origin).is_plain())
}

/// Returns true if requests with bodies take this path on a route: its origin speaks HTTP/1.1, and the target
/// holds no token that would have to be moved.
pub(crate) fn takes_uploads(route: &RouteConfig, origins: &OriginTable) -> bool {
    !route.token_query && route.target.origin().is_some_and(|origin| origins.pool(origin).is_http1())
}

fn is_plain(option: &[u8]) -> bool {
    option.eq_ignore_ascii_case(b"keep-alive") || option.eq_ignore_ascii_case(b"close")
}

/// Proxies a request.
///
/// # Errors
/// If there was no answer, or it was cut short.
pub(crate) async fn proxy_directly(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
) -> Result<()> {
    let mut attempts = 1;
    loop {
        match try_server(services, session, ctx).await {
            Err(error) if error.retry() && attempts < MAX_ATTEMPTS => attempts += 1,
            ended => return ended,
        }
    }
}

async fn try_server(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
) -> Result<()> {
    set_preferences(session, ctx);
    session.while_connected(pin!(find_server(services, ctx))).await??;
    let Some(upstream) = &ctx.upstream else {
        return Error::e_explain(ErrorType::InternalError, "no server was chosen");
    };
    let at = upstream.at(ctx.began);
    let trial = upstream.trial.filter(|_| is_tried_with(session));
    let left = ctx.seeking.left().into_iter().chain(trial).min();
    let connecting = NativeExchange::begin(&upstream.pool, at, left, upstream.asked);
    let begun = session.while_connected(pin!(connecting)).await?;
    let (exchange, reused) = match begun {
        Ok(begun) => begun,
        Err(mut error) => {
            error.as_up();
            on_connect_failure(session, ctx, &mut error);
            return Err(error);
        }
    };
    if let Some(upstream) = &mut ctx.upstream {
        upstream.set_server_address(exchange.address());
    }
    let passed = forward_exchange(services, session, ctx, exchange).await;
    passed.map_err(|mut error| {
        on_exchange_failure(session, ctx, &mut error, reused);
        error
    })
}

/// Sends the request and forwards the answer.
async fn forward_exchange(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    mut exchange: NativeExchange,
) -> Result<()> {
    let mut upload = RequestUpload::of(session);
    let begun = begin_upload(services, session, ctx, &mut upload).await?;
    let Some(mut text) = write_request(session, ctx, &upload) else {
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "a request that can't be serialised");
    };
    text.extend_from_slice(&begun);
    // An order of an earlier attempt is void.
    drop(ctx.passing.take_order());
    until_disconnected(session, pin!(exchange.send(&text))).await?;
    let mut half = OriginHalf { exchange, upload, method: session.req_header().method.clone() };
    let head = forward_interim(services, session, ctx, &mut half).await?;
    half.exchange.be_patient(ctx.seeking.left());
    let sent = !ctx.passing.is_ordered();
    if sent {
        if !half.exchange.is_at_hand() && session.holds_back(&head) {
            // The part that has come is not held back for the rest.
            ctx.flows_at_once();
        }
        session.write_response_header(head).await?;
    }
    if !half.exchange.is_done() {
        let passed = forward_body(services, session, ctx, &mut half, sent).await;
        if let Err(error) = passed {
            let by_client = *error.esource() == ErrorSource::Downstream;
            return Err(if sent && !by_client { session.abort_response(error).await } else { error });
        }
    } else if sent {
        session.write_response_body(Bytes::new(), true).await?;
    }
    end_upload(session, ctx, half).await;
    Ok(())
}

/// Forwards interim answers, up to the head of the final answer.
async fn forward_interim(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    half: &mut OriginHalf,
) -> Result<Box<ResponseHeader>> {
    loop {
        let mut head = read_head(services, session, ctx, half).await?;
        frame_answer(&half.method, &mut head, half.exchange.is_done())?;
        pass_answer(services, session, &mut head, ctx)?;
        if !head.status.is_informational() || ctx.passing.is_ordered() {
            half.upload.answered();
            return Ok(head);
        }
        if head.status != StatusCode::CONTINUE || half.upload.goes_on() {
            session.write_response_header(head).await?;
        }
    }
}

async fn read_head(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    half: &mut OriginHalf,
) -> Result<Box<ResponseHeader>> {
    match upload_until(services, session, ctx, half).await? {
        Some(DuplexEvent::Head(head)) => Ok(head),
        Some(DuplexEvent::Piece(_) | DuplexEvent::Sent) => {
            Error::e_explain(ErrorType::InternalError, "a body without a head")
        }
        None => until_disconnected(session, pin!(half.exchange.head(&half.method))).await.map(Box::new),
    }
}

/// Forwards the body, or discards it if something else is sent instead of the answer.
async fn forward_body(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    half: &mut OriginHalf,
    sent: bool,
) -> Result<()> {
    loop {
        let mut piece = match upload_until(services, session, ctx, half).await? {
            Some(DuplexEvent::Piece(piece)) => piece,
            Some(DuplexEvent::Head(_) | DuplexEvent::Sent) => {
                return Error::e_explain(ErrorType::InternalError, "a head within a body");
            }
            None => until_disconnected(session, pin!(half.exchange.next())).await?,
        };
        let end = half.exchange.is_done();
        observe_piece(piece.as_ref(), end, ctx)?;
        if let Some(pause) = on_response_chunk(services, &mut piece, end, ctx)? {
            session.while_connected(pin!(tokio::time::sleep(pause))).await?;
        }
        let piece = piece.unwrap_or_default();
        let trailers = half.exchange.take_trailers().filter(|_| end && session.takes_trailers());
        let trailers = trailers.filter(|_| sent && !ctx.passing.is_coded());
        if sent && (end || !piece.is_empty()) {
            session.write_response_body(piece, end && trailers.is_none()).await?;
        }
        if let Some(mut trailers) = trailers {
            to_origin::strip_trailers(&mut trailers);
            session.write_trailers(*trailers).await?;
        }
        if end {
            return Ok(());
        }
    }
}

/// Ends the exchange after the answer. If the server did not read the whole request, neither connection
/// is reused: the beginning of the next message on them would be uncertain.
async fn end_upload(session: &mut GatewaySession<'_>, ctx: &mut RequestContext, half: OriginHalf) {
    if half.upload.was_in_time() {
        return half.exchange.finish();
    }
    drop(half);
    ctx.wants_body(false);
    if !session.is_body_done() {
        session.ends_connection();
        respond::drain_small_body(session).await;
    }
}

/// Runs work with the origin until it is done or the client has left.
async fn until_disconnected<T>(
    session: &mut GatewaySession<'_>,
    work: Pin<&mut impl Future<Output = Result<T>>>,
) -> Result<T> {
    session.while_connected(work).await?.map_err(|error| error.into_up())
}

/// Serialises the request for the origin.
fn write_request(
    session: &GatewaySession<'_>,
    ctx: &RequestContext,
    upload: &RequestUpload,
) -> Option<Vec<u8>> {
    let (request, upstream) = (session.req_header(), ctx.upstream.as_ref()?);
    // HTTP/2 has the host in the target, HTTP/1.0 need not have one.
    let named = match request.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => request.headers.get(header::HOST).cloned(),
    };
    let mut fields = to_origin::proxied_fields(request, named.as_ref(), ctx);
    let mut host = None;
    rules::apply_field_rules(request, ctx, &mut fields, &mut host);
    fields.extend(upload.field());
    let host = host.and_then(|host| HeaderValue::try_from(host).ok()).or(named);
    let host = host.or_else(|| HeaderValue::try_from(upstream.pool.authority(upstream.server)).ok())?;
    native::write_head(&request.method, request.raw_path(), host.as_bytes(), &fields, b"")
}

/// Frames an answer that is delimited by the end of the origin's connection: the client's connection is kept.
fn frame_answer(method: &Method, head: &mut ResponseHeader, ended: bool) -> Result<()> {
    let has_body = response_has_body(method, head.status);
    let framed = [header::TRANSFER_ENCODING, header::CONTENT_LENGTH];
    if has_body && !ended && !framed.iter().any(|name| head.headers.contains_key(name)) {
        head.set_version(Version::HTTP_11);
        head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    Ok(())
}
