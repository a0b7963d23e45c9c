//! Processes a proxied answer while it is sent: checks its head, and completes it for the client; applies
//! codings.

use crate::{
    files::accel::{charset_content_type, AccelFields},
    gateway::{
        body::pacing::PacedBody,
        cache::invalidation::learn_from_answer,
        context::{relay::AccelRedirect, RequestContext},
        headers::{rules, to_client::set_gateway_headers, to_origin},
        proxy::{
            accel::{self, accel_order, send_accel_file},
            upstream::{self, observe_head},
        },
        request::{untrusted_fields, websocket::switch_to_tunnel},
        respond::fit_to_client,
        runtime_config::RouteMode,
        services::GatewayServices,
        session::GatewaySession,
    },
    http::{
        cache_status::{CacheStatus, ForwardToken},
        framing::{self, ResponseFraming},
        via::via_value,
    },
    representation::{blank_head, conditional::asks_if_modified},
    telemetry::labels::CacheResult,
    websocket,
};

use bytes::Bytes;
use http::{
    header::{self, CONTENT_LENGTH, TRANSFER_ENCODING},
    Method, StatusCode, Version,
};
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use std::time::Duration;

/// An error that is the origin's fault.
fn origin_fault(what: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, what).into_up()
}

/// Processes the head of an origin's answer before it is sent to the client.
pub(crate) fn pass_answer(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    head: &mut ResponseHeader,
    ctx: &mut RequestContext,
) -> Result<()> {
    if on_interim_response(session, head, ctx)? {
        to_origin::strip_accel_fields(head);
        return Ok(());
    }
    observe_head(session, head, ctx);
    read_origin_head(services, session.req_header(), head, ctx)?;
    if take_accel_order(services, session, head, ctx) {
        return Ok(());
    }
    for name in to_origin::hop_by_hop_names(&head.headers) {
        head.remove_header(&name);
    }
    on_response_header(services, session, head, ctx)?;
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        switch_to_tunnel(services, session, head, ctx)?;
    }
    if session.req_header().version == Version::HTTP_10 {
        // HTTP/1.0 has no chunks: a body without a length ends with the connection.
        head.remove_header(&TRANSFER_ENCODING);
        if !head.headers.contains_key(CONTENT_LENGTH) {
            session.ends_connection();
        }
    }
    if head.version < Version::HTTP_11 {
        // RFC 9110, 6.2: an intermediary sends its own version.
        head.set_version(Version::HTTP_11);
    }
    set_gateway_headers(head, ctx, forwarded_status(ctx))?;
    upstream::set_sticky_cookie(head, ctx)?;
    rules::apply_answer_rules(session.req_header(), head, ctx);
    Ok(())
}

/// `Cache-Status` of a proxied answer.
fn forwarded_status(ctx: &RequestContext) -> CacheStatus {
    match (ctx.result, ctx.detail) {
        (CacheResult::Uncacheable, why) => CacheStatus::forwarded(ForwardToken::UriMiss).with_detail(why),
        (_, Some("method")) => CacheStatus::forwarded(ForwardToken::Method),
        _ => CacheStatus::forwarded(ForwardToken::Bypass),
    }
}

/// Checks the head of a proxied answer; returns true if it is an interim one to be forwarded.
///
/// # Errors
/// An ambiguous framing of the body, an upgrade or a 304 that was not requested, too many interim
/// answers.
fn on_interim_response(
    session: &GatewaySession<'_>,
    head: &mut ResponseHeader,
    ctx: &mut RequestContext,
) -> Result<bool> {
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let asked = session.is_upgrade_req() && ctx.routed().is_some_and(|route| route.websocket.is_some());
        let request = &session.req_header().headers;
        return match asked && websocket::is_upgrade_granted(request, head.version, &head.headers) {
            true => Ok(false),
            false => Err(origin_fault("an upgrade that nobody asked for")),
        };
    }
    if head.status.is_informational() {
        ctx.passing.interim += 1;
        if ctx.passing.interim > framing::MOST_INTERIM {
            return Err(origin_fault("interim answers without an end"));
        }
        to_origin::strip_interim(head);
        return Ok(true);
    }
    if head.status == StatusCode::NOT_MODIFIED && !asks_if_modified(&session.req_header().headers) {
        // The client has no stored answer that it could refer to.
        return Err(origin_fault("a 304 that nobody asked for"));
    }
    match framing::response_framing(head.status, &head.headers)
        .map_err(|_| origin_fault("the frame of an answer"))?
    {
        ResponseFraming::Plain => {}
        ResponseFraming::Bodiless => {
            head.remove_header(&header::CONTENT_LENGTH);
            head.remove_header(&header::TRANSFER_ENCODING);
        }
        ResponseFraming::Ended => drop(head.remove_header(&header::TRANSFER_ENCODING)),
        ResponseFraming::Length(length) => head.insert_header(header::CONTENT_LENGTH, length)?,
    }
    Ok(false)
}

/// Reads the head of a proxied answer as the origin sent it, with the fields for the gateway alone.
fn read_origin_head(
    services: &GatewayServices,
    request: &RequestHeader,
    head: &mut ResponseHeader,
    ctx: &mut RequestContext,
) -> Result<()> {
    if let Some(kind) = charset_content_type(&head.headers) {
        // It stays valid with another charset, so that this can't fail.
        head.insert_header(header::CONTENT_TYPE, kind).unwrap_or_default();
    }
    if let Some(RouteMode::Follow(rules)) = ctx.at_hand().map(|at_hand| &at_hand.mode) {
        for line in untrusted_fields::vary_lines(&rules.key_headers) {
            head.append_header(header::VARY, line)?;
        }
    }
    learn_from_answer(services, request, head, ctx);
    Ok(())
}

/// Takes an `X-Accel-Redirect` out of the head of a proxied answer. The answer is then sent to nobody:
/// its head becomes one that Pingora skips, its body is dropped, and the client gets nothing until the
/// exchange has ended.
fn take_accel_order(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    head: &mut ResponseHeader,
    ctx: &mut RequestContext,
) -> bool {
    ctx.passing.orders = AccelFields::of(&head.headers);
    let Some(ordered) = accel_order(services, ctx, head.status, &head.headers) else {
        ctx.passing.order = None;
        return false;
    };
    ctx.passing.order = Some(Box::new(ordered));
    *head = blank_head(StatusCode::EARLY_HINTS);
    session.ignore_interim();
    true
}

/// Sends the target of an `X-Accel-Redirect` when the exchange of the answer has ended.
pub(crate) async fn carry_out_order(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    ordered: Box<AccelRedirect>,
) {
    if let Err(error) = send_accel_file(services, session, ctx, *ordered, accel::ACCEL_STATUS).await {
        tracing::debug!(%error, "a file was not sent to its end");
        // A truncated file must not look complete.
        session.shutdown().await;
    }
}

/// Completes the head of a proxied answer for the client.
fn on_response_header(
    services: &GatewayServices,
    session: &GatewaySession<'_>,
    head: &mut ResponseHeader,
    ctx: &mut RequestContext,
) -> Result<()> {
    let request = session.req_header();
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        // The origin offers it to the gateway, not to the client.
        head.remove_header(&header::UPGRADE);
    }
    head.append_header(header::VIA, via_value(head.version))?;
    session.dated(head, ctx);
    let rules = &ctx.site.plan.config.encoding;
    let orders = ctx.passing.orders;
    let how = (orders.at_once, request.method == Method::HEAD);
    let codec = fit_to_client(services, head, &request.headers, how, rules, None)?;
    ctx.passing.pace = orders.rate.map(PacedBody::new);
    if orders.at_once {
        ctx.flows_at_once();
    }
    if codec.is_some() {
        let framed = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
        let delimited = framed.iter().any(|name| head.headers.contains_key(name));
        if !delimited && request.version == Version::HTTP_11 {
            // Pingora has already framed it by its length, which the coding removes. A body that ends
            // with its connection could be truncated unnoticed.
            head.set_version(Version::HTTP_11);
            head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
        }
    }
    ctx.passing.codec = codec;
    Ok(())
}

/// Processes a piece of a proxied answer's body; returns the delay before it is sent, if any.
pub(crate) fn on_response_chunk(
    services: &GatewayServices,
    body: &mut Option<Bytes>,
    end: bool,
    ctx: &mut RequestContext,
) -> Result<Option<Duration>> {
    if ctx.passing.order.is_some() {
        *body = None;
        return Ok(None);
    }
    code_piece(services, body, end, ctx)?;
    let pace = ctx.passing.pace.as_mut().zip(body.as_ref());
    Ok(pace.map(|(pace, piece)| pace.pause(piece.len())))
}

fn code_piece(
    services: &GatewayServices,
    body: &mut Option<Bytes>,
    end: bool,
    ctx: &mut RequestContext,
) -> Result<()> {
    if let Some(capture) = &mut ctx.passing.capture {
        if let Some(piece) = body.as_ref() {
            capture.push(piece);
        }
    }
    if end {
        if let Some(capture) = ctx.passing.capture.take() {
            services.cache.keep_captured(capture);
        }
    }
    let Some(codec) = &mut ctx.passing.codec else { return Ok(()) };
    let piece = body.take().unwrap_or_default();
    let mut passed = codec.pass(piece).or_err(ErrorType::ReadError, "a coded body is damaged")?;
    if end {
        let rest = codec.end().or_err(ErrorType::ReadError, "a coded body is cut short")?;
        passed = if passed.is_empty() { rest } else { [&passed[..], &rest].concat().into() };
    }
    *body = Some(passed).filter(|passed| !passed.is_empty());
    Ok(())
}
