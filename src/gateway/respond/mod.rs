//! The sending of answers that are not proxied: refusals, problems, stored answers.

pub(crate) mod errors;
pub(crate) mod files;
use crate::{
    cache::{entry::CacheEntry, fill::streaming_body::StreamReader, key::CacheKey, ArrivingHead},
    clock::now_ms,
    config,
    gateway::{
        body::{codec::BodyCodec, pieces::BodyPieces},
        cache::prepared::head::{write_decimal, MAX_DIGITS},
        headers::rules,
        request::rate_limit::set_limit_fields,
        runtime_config::RouteMode,
        session::GatewaySession,
        Gateway, NextStep, RequestContext, Result,
    },
    http::{
        cache_status::{CacheStatus, CACHE_STATUS},
        has_body::response_has_body,
        names::{is_accel_field, REQUEST_ID},
        via::via_value,
    },
    identity::TokenError,
    representation::{
        encoding::transform::{self, BodyTransform},
        problem::ProblemReply,
        respond, Body, Representation,
    },
    telemetry::labels::{CacheResult, FillOutcome, RejectReason},
};

use bytes::Bytes;
use http::{header, HeaderMap, HeaderValue, Method, Version};
use pingora_core::{Error, ErrorType, OrErr};
use pingora_http::{RequestHeader, ResponseHeader};
use std::{pin::pin, sync::Arc, time::Duration};

/// The most bytes of a request's body that are read before an answer that does not need it, and the time for
/// that.
const MAX_REST_BYTES: usize = 64 * 1024;
const REST_TIMEOUT: Duration = Duration::from_millis(100);

impl Gateway {
    pub(crate) async fn refuse(
        &self,
        session: &mut GatewaySession<'_>,
        ctx: &mut RequestContext,
        reason: RejectReason,
    ) -> Result<NextStep> {
        let problem = match ctx.refused_token.filter(|_| reason == RejectReason::Token) {
            Some(error) => errors::token_problem(error),
            None => errors::rejection_problem(reason),
        };
        self.refuse_with(session, ctx, reason, problem).await
    }

    pub(crate) async fn refuse_with(
        &self,
        session: &mut GatewaySession<'_>,
        ctx: &mut RequestContext,
        reason: RejectReason,
        problem: ProblemReply,
    ) -> Result<NextStep> {
        self.parts.metrics.rejected(reason);
        if errors::ends_connection(reason) {
            session.ends_connection();
        }
        ctx.result = CacheResult::Local;
        let of_token = ctx.refused_token.filter(|_| reason == RejectReason::Token);
        ctx.detail = Some(of_token.map_or(reason.as_str(), TokenError::as_str));
        self.send_problem(session, ctx, problem).await
    }

    pub(crate) async fn send_problem(
        &self,
        session: &mut GatewaySession<'_>,
        ctx: &RequestContext,
        problem: ProblemReply,
    ) -> Result<NextStep> {
        drain_small_body(session).await;
        let (mut head, body) = problem.into_parts(ctx.id());
        self.mark(&mut head, ctx, CacheStatus::local(ctx.detail.unwrap_or("refused")))?;
        rules::apply_answer_rules(session.req_header(), &mut head, ctx);
        let body = if session.req_header().method == Method::HEAD { Bytes::new() } else { body };
        self.send(session, head, body.into()).await
    }

    /// Adds the fields that every answer has.
    pub(crate) fn mark(
        &self,
        head: &mut ResponseHeader,
        ctx: &RequestContext,
        cache_status: CacheStatus,
    ) -> Result<()> {
        set_gateway_headers(head, ctx, cache_status)
    }

    /// Sends a fresh entry from memory, and has it encoded in the background for later requests.
    pub(crate) async fn send_hit(
        &self,
        session: &mut GatewaySession<'_>,
        ctx: &mut RequestContext,
        key: &CacheKey,
        entry: &Arc<CacheEntry>,
    ) -> Result<NextStep> {
        if session.req_header().headers.contains_key(header::ACCEPT_ENCODING) {
            self.parts.cache.encode_behind(key, entry);
        }
        ctx.result = CacheResult::Hit;
        self.send_entry(session, ctx, entry, CacheStatus::HIT).await
    }

    /// Sends a stored answer.
    pub(crate) async fn send_entry(
        &self,
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
        self.send_reply(session, ctx, reply, status).await
    }

    /// Sends an answer that is not stored.
    pub(crate) async fn send_representation(
        &self,
        session: &mut GatewaySession<'_>,
        ctx: &mut RequestContext,
        what: &Representation,
        status: CacheStatus,
    ) -> Result<NextStep> {
        let request = session.req_header();
        let reply = respond::choose_reply(what, &request.method, &request.headers, &[]);
        self.send_reply(session, ctx, reply, status).await
    }

    async fn send_reply(
        &self,
        session: &mut GatewaySession<'_>,
        ctx: &mut RequestContext,
        reply: respond::ContentReply,
        status: CacheStatus,
    ) -> Result<NextStep> {
        let respond::ContentReply { mut head, body, transform } = reply;
        complete_head(&mut head, session.req_header(), ctx, status)?;
        session.dated(&head, ctx);
        let Some(transform) = transform else { return self.send(session, head, body).await };
        let codec = self.codec(transform, &ctx.site.plan.config.encoding, None)?;
        Box::pin(self.send_pieces(session, head, BodyPieces::Here(body), codec)).await
    }

    /// Sends an answer while it is fetched.
    pub(crate) async fn send_arriving(
        &self,
        session: &mut GatewaySession<'_>,
        ctx: &mut RequestContext,
        arriving: &ArrivingHead,
        reader: StreamReader,
        status: CacheStatus,
    ) -> Result<NextStep> {
        if arriving.outcome == FillOutcome::Accel {
            let headers = arriving.headers.iter().cloned().collect();
            if let Some(ordered) = self.ordered(ctx, arriving.status, &headers) {
                return Box::pin(self.send_accel_file(session, ctx, ordered, status)).await;
            }
        }
        let request = session.req_header();
        let mut head = Box::new(ResponseHeader::build(arriving.status, Some(arriving.headers.len() + 4))?);
        for (name, value) in arriving.headers.iter().filter(|(name, _)| !is_accel_field(name)) {
            head.append_header(name.clone(), value.clone())?;
        }
        if let Some(age) = arriving.age_ms(now_ms()) {
            head.insert_header(header::AGE, HeaderValue::from(age / 1_000))?;
        }
        if let Some(length) = arriving.length {
            head.insert_header(header::CONTENT_LENGTH, HeaderValue::from(length))?;
        }
        self.mark(&mut head, ctx, status)?;
        append_via(&mut head, ctx)?;
        let rules = &ctx.site.plan.config.encoding;
        let plan = transform::plan_shared_transform(&request.headers, head.status, &head.headers, rules);
        let bodyless = request.method == Method::HEAD;
        let codec = self.code(&mut head, &request.headers, (plan, bodyless), rules, arriving.length)?;
        rules::apply_answer_rules(request, &mut head, ctx);
        session.dated(&head, ctx);
        ctx.flows_at_once();
        self.send_pieces(session, head, BodyPieces::Arriving(reader), codec).await
    }

    /// Turns the head of an upstream answer into that of the form that is sent, and returns the
    /// transformation of its body. With `at_once` pieces are flushed as they come, and no encoder may hold
    /// them back. `length` is the body's, if it is known.
    ///
    /// # Errors
    /// If the client can't get it unchanged, and there is no memory for a codec.
    pub(crate) fn fit(
        &self,
        head: &mut ResponseHeader,
        request: &HeaderMap,
        (at_once, bodyless): (bool, bool),
        rules: &config::EncodingConfig,
        length: Option<u64>,
    ) -> Result<Option<BodyCodec>> {
        let plan = transform::plan_transform(request, head.status, &head.headers, rules).filter(|_| !at_once);
        self.code(head, request, (plan, bodyless), rules, length)
    }

    /// Sets up the planned coding of a body, if there is memory for it, and adjusts the head, also for HEAD.
    fn code(
        &self,
        head: &mut ResponseHeader,
        request: &HeaderMap,
        (plan, bodyless): (Option<BodyTransform>, bool),
        rules: &config::EncodingConfig,
        length: Option<u64>,
    ) -> Result<Option<BodyCodec>> {
        let codec = match plan.filter(|_| !bodyless) {
            Some(plan) => self.codec(plan, rules, length)?,
            None => None,
        };
        transform::fit_head(head, request, plan.filter(|_| bodyless || codec.is_some()), rules);
        Ok(codec)
    }

    /// The codec for a planned transformation; `None`: there is no memory for it, and the body is sent
    /// unchanged.
    fn codec(
        &self,
        plan: BodyTransform,
        rules: &config::EncodingConfig,
        length: Option<u64>,
    ) -> Result<Option<BodyCodec>> {
        let codec = self.codecs.begin(plan, rules, length);
        match (codec.or_err(ErrorType::InternalError, "a codec can't be made")?, plan) {
            (None, BodyTransform::Decode(_)) => {
                Error::e_explain(ErrorType::HTTPStatus(503), "no memory for a decoder")
            }
            (codec, _) => Ok(codec),
        }
    }

    /// Sends a complete answer.
    pub(crate) async fn send(
        &self,
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
        &self,
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
}

/// Adds the fields that every answer has.
fn set_gateway_headers(
    head: &mut ResponseHeader,
    ctx: &RequestContext,
    cache_status: CacheStatus,
) -> Result<()> {
    // Each cache on the way appends a member (RFC 9211, 2).
    head.append_header(CACHE_STATUS, cache_status.value())?;
    set_limit_fields(head, ctx)?;
    if let Some(hsts) = ctx.entry.as_ref().and_then(|entry| entry.hsts.as_ref()) {
        head.insert_header(header::STRICT_TRANSPORT_SECURITY, hsts.clone())?;
    }
    head.insert_header(REQUEST_ID, ctx.request_id.clone())
}

/// Adds `Via` to an answer of a route that follows its origin (RFC 9110, 7.6.3); on a route with a namespace
/// the gateway counts as the origin.
fn append_via(head: &mut ResponseHeader, ctx: &RequestContext) -> Result<()> {
    match ctx.at_hand().map(|at_hand| &at_hand.mode) {
        Some(RouteMode::Follow(_)) => head.append_header(header::VIA, via_value(Version::HTTP_11)).map(drop),
        _ => Ok(()),
    }
}

/// Sets the `Age` of a stored answer.
pub(crate) fn set_age(head: &mut ResponseHeader, age_ms: u64) -> Result<()> {
    let mut digits = [0; MAX_DIGITS];
    // Digits are a valid value.
    let age = HeaderValue::from_bytes(write_decimal(age_ms / 1_000, &mut digits));
    head.insert_header(header::AGE, age.unwrap_or(HeaderValue::from_static("0")))
}

/// Completes the head of an answer; the prepared lane uses it for its heads as well.
pub(crate) fn complete_head(
    head: &mut ResponseHeader,
    request: &RequestHeader,
    ctx: &RequestContext,
    status: CacheStatus,
) -> Result<()> {
    set_gateway_headers(head, ctx, status)?;
    append_via(head, ctx)?;
    rules::apply_answer_rules(request, head, ctx);
    Ok(())
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
