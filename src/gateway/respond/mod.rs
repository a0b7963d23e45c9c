//! The sending of answers that are not proxied: refusals, problems, stored answers.

pub(crate) mod errors;
pub(crate) mod files;

use crate::{
    cache::{entry::CacheEntry, key::CacheKey},
    clock::now_ms,
    config,
    gateway::{
        body::{codec::BodyCodec, pieces::BodyPieces},
        context::RequestContext,
        headers::{
            rules,
            to_client::{complete_head, set_age, set_gateway_headers},
        },
        services::{GatewayServices, NextStep},
        session::GatewaySession,
    },
    http::{cache_status::CacheStatus, framing::has_body::response_has_body},
    identity::TokenError,
    representation::{
        encoding::transform::{self, BodyTransform},
        problem::ProblemReply,
        respond, Body, Representation,
    },
    telemetry::labels::{CacheResult, RejectReason},
};

use bytes::Bytes;
use http::{header, HeaderMap, HeaderValue, Method, Version};
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::ResponseHeader;
use std::{pin::pin, sync::Arc, time::Duration};

/// The most bytes of a request's body that are read before an answer that does not need it, and the time for
/// that.
const MAX_REST_BYTES: usize = 64 * 1024;
const REST_TIMEOUT: Duration = Duration::from_millis(100);

/// Refuses a request, with the answer that this reason has.
pub(crate) async fn refuse_request(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    reason: RejectReason,
) -> Result<NextStep> {
    let problem = match ctx.refused_token.filter(|_| reason == RejectReason::Token) {
        Some(error) => errors::token_problem(error),
        None => errors::rejection_problem(reason),
    };
    refuse_with_problem(services, session, ctx, reason, problem).await
}

/// Refuses a request with this answer. The reason is counted and recorded.
pub(crate) async fn refuse_with_problem(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    reason: RejectReason,
    problem: ProblemReply,
) -> Result<NextStep> {
    services.metrics.rejected(reason);
    if errors::ends_connection(reason) {
        session.ends_connection();
    }
    ctx.result = CacheResult::Local;
    let of_token = ctx.refused_token.filter(|_| reason == RejectReason::Token);
    ctx.detail = Some(of_token.map_or(reason.as_str(), TokenError::as_str));
    send_problem(session, ctx, problem).await
}

/// Sends a problem document; the context's `detail` is that of `Cache-Status`.
pub(crate) async fn send_problem(
    session: &mut GatewaySession<'_>,
    ctx: &RequestContext,
    problem: ProblemReply,
) -> Result<NextStep> {
    drain_small_body(session).await;
    let (mut head, body) = problem.into_parts(ctx.id());
    set_gateway_headers(&mut head, ctx, CacheStatus::local(ctx.detail.unwrap_or("refused")))?;
    rules::apply_answer_rules(session.req_header(), &mut head, ctx);
    let body = if session.req_header().method == Method::HEAD { Bytes::new() } else { body };
    send_whole(session, head, body.into()).await
}

/// Sends a fresh entry from memory, and has it encoded in the background for later requests.
pub(crate) async fn send_hit(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    key: &CacheKey,
    entry: &Arc<CacheEntry>,
) -> Result<NextStep> {
    if session.req_header().headers.contains_key(header::ACCEPT_ENCODING) {
        services.cache.encode_behind(key, entry);
    }
    ctx.result = CacheResult::Hit;
    send_entry(services, session, ctx, entry, CacheStatus::HIT).await
}

/// Sends a stored answer.
pub(crate) async fn send_entry(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    entry: &CacheEntry,
    status: CacheStatus,
) -> Result<NextStep> {
    let request = session.req_header();
    let (method, headers, what) = (&request.method, &request.headers, &entry.representation);
    let prefer = &ctx.site.plan.config.encoding.prefer;
    let partial = entry.part().and_then(|part| respond::partial_reply(part.of(what), method, headers));
    let mut reply = partial.unwrap_or_else(|| respond::choose_reply(what, method, headers, prefer));
    set_age(&mut reply.head, entry.age_ms(now_ms()))?;
    send_reply(services, session, ctx, reply, status).await
}

/// Sends an answer that is not stored.
pub(crate) async fn send_representation(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    what: &Representation,
    status: CacheStatus,
) -> Result<NextStep> {
    let request = session.req_header();
    let prefer = &ctx.site.plan.config.encoding.prefer;
    let reply = respond::choose_reply(what, &request.method, &request.headers, prefer);
    send_reply(services, session, ctx, reply, status).await
}

async fn send_reply(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    reply: respond::ContentReply,
    status: CacheStatus,
) -> Result<NextStep> {
    let respond::ContentReply { mut head, body, transform } = reply;
    complete_head(&mut head, session.req_header(), ctx, status)?;
    session.dated(&head, ctx);
    let Some(transform) = transform else { return send_whole(session, head, body).await };
    let codec = begin_codec(services, transform, &ctx.site.plan.config.encoding, None)?;
    Box::pin(send_pieces(session, head, BodyPieces::Here(body), codec)).await
}

/// Turns the head of an upstream answer into that of the form that is sent, and returns the
/// transformation of its body. With `at_once` pieces are flushed as they come, and no encoder may hold
/// them back. `length` is the body's, if it is known.
///
/// # Errors
/// If the client can't get it unchanged, and there is no memory for a codec.
pub(crate) fn fit_to_client(
    services: &GatewayServices,
    head: &mut ResponseHeader,
    request: &HeaderMap,
    (at_once, bodyless): (bool, bool),
    rules: &config::EncodingConfig,
    length: Option<u64>,
) -> Result<Option<BodyCodec>> {
    let plan = transform::plan_transform(request, head.status, &head.headers, rules).filter(|_| !at_once);
    apply_coding(services, head, request, (plan, bodyless), rules, length)
}

/// Sets up the planned coding of a body, if there is memory for it, and adjusts the head, also for HEAD.
pub(crate) fn apply_coding(
    services: &GatewayServices,
    head: &mut ResponseHeader,
    request: &HeaderMap,
    (plan, bodyless): (Option<BodyTransform>, bool),
    rules: &config::EncodingConfig,
    length: Option<u64>,
) -> Result<Option<BodyCodec>> {
    let codec = match plan.filter(|_| !bodyless) {
        Some(plan) => begin_codec(services, plan, rules, length)?,
        None => None,
    };
    transform::fit_head(head, request, plan.filter(|_| bodyless || codec.is_some()), rules);
    Ok(codec)
}

/// The codec for a planned transformation; `None`: there is no memory for it, and the body is sent
/// unchanged.
fn begin_codec(
    services: &GatewayServices,
    plan: BodyTransform,
    rules: &config::EncodingConfig,
    length: Option<u64>,
) -> Result<Option<BodyCodec>> {
    let codec = services.codecs.begin(plan, rules, length);
    match (codec.or_err(ErrorType::InternalError, "a codec can't be made")?, plan) {
        (None, BodyTransform::Decode(_)) => {
            Error::e_explain(ErrorType::HTTPStatus(503), "no memory for a decoder")
        }
        (codec, _) => Ok(codec),
    }
}

/// Sends a complete answer.
pub(crate) async fn send_whole(
    session: &mut GatewaySession<'_>,
    head: Box<ResponseHeader>,
    body: Body,
) -> Result<NextStep> {
    session.write_response_header(head).await?;
    let mut pieces = body.pieces();
    let mut piece = pieces.next().cloned().unwrap_or_default();
    for next in pieces {
        session.write_response_body(std::mem::replace(&mut piece, next.clone()), false).await?;
    }
    session.write_response_body(piece, true).await?;
    Ok(NextStep::Answered)
}

/// Sends pieces, each through a codec if there is one. If they break off, the connection is closed, so
/// that the client can't take the answer for complete.
pub(crate) async fn send_pieces(
    session: &mut GatewaySession<'_>,
    mut head: Box<ResponseHeader>,
    mut pieces: BodyPieces,
    mut codec: Option<BodyCodec>,
) -> Result<NextStep> {
    let bodyless = !response_has_body(&session.req_header().method, head.status);
    let delimited = head.headers.contains_key(header::CONTENT_LENGTH);
    if !delimited && !bodyless {
        if session.req_header().version == Version::HTTP_11 {
            head.insert_header(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
        } else if !session.is_http2() {
            session.ends_connection();
        }
    }
    session.write_response_header(head).await?;
    loop {
        let next = session.while_connected(pin!(pieces.next())).await??;
        let Some(piece) = next else { break };
        let mut ready = match &mut codec {
            Some(codec) => codec.begin(piece).or_err(ErrorType::InternalError, "coding a body")?,
            None => piece,
        };
        while !ready.is_empty() && !bodyless {
            session.write_response_body(ready, false).await?;
            let more = codec.as_mut().map_or(Ok(Bytes::new()), BodyCodec::more);
            ready = more.or_err(ErrorType::InternalError, "coding a body")?;
        }
    }
    let last = match &mut codec {
        Some(codec) => codec.end().or_err(ErrorType::InternalError, "coding a body")?,
        None => Bytes::new(),
    };
    session.write_response_body(if bodyless { Bytes::new() } else { last }, true).await?;
    Ok(NextStep::Answered)
}

/// Reads the rest of a small body that is still arriving. If an HTTP/2 stream is answered and reset before
/// its body has come, some clients lose the answer (RFC 9113, 8.1 allows both; curl before 8 does).
pub(crate) async fn drain_small_body(session: &mut GatewaySession<'_>) {
    if !session.is_http2() || session.is_body_done() {
        return;
    }
    let rest = async {
        let mut left = MAX_REST_BYTES;
        while let Ok(Some(piece)) = session.read_request_body().await {
            left = left.saturating_sub(piece.len());
            if left == 0 {
                return;
            }
        }
    };
    // The rest that doesn't arrive in this time is dropped.
    drop(tokio::time::timeout(REST_TIMEOUT, rest).await);
}
