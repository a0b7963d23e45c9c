//! Processes a proxied answer while it is sent: checks its head, applies codings, updates the cache.

use crate::{
    cache::{key::CacheKey, policy},
    files::accel::{charset_content_type, AccelFields},
    gateway::{
        body::pacing::PacedBody,
        cache::origin_driven,
        context::{relay::AccelRedirect, request_host, RequestContext},
        headers::to_origin,
        proxy::accel,
        request::untrusted_fields,
        runtime_config::RouteMode,
        session::GatewaySession,
        Gateway, Result, RuntimeConfig,
    },
    http::{
        authority,
        framing::{self, ResponseFraming},
        via::via_value,
    },
    representation::{blank_head, conditional::asks_if_modified},
    websocket,
};

use bytes::Bytes;
use http::{header, Method, StatusCode, Version};
use pingora_core::{Error, ErrorType, OrErr};
use pingora_http::{RequestHeader, ResponseHeader};
use std::time::Duration;

/// Returns true if an answer was made for the host in its key: a trusted proxy may have named another one.
fn matches_own_host(ctx: &RequestContext, host: &str) -> bool {
    ctx.client.host.as_deref().is_none_or(|told| authority::normalize(told) == authority::normalize(host))
}

/// An error that is the origin's fault.
fn origin_fault(what: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, what).into_up()
}

impl Gateway {
    /// Checks the head of a proxied answer; returns true if it is an interim one to be forwarded.
    ///
    /// # Errors
    /// An ambiguous framing of the body, an upgrade or a 304 that was not requested, too many interim
    /// answers.
    pub(crate) fn on_interim_response(
        &self,
        session: &GatewaySession<'_>,
        head: &mut ResponseHeader,
        ctx: &mut RequestContext,
    ) -> Result<bool> {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let asked =
                session.is_upgrade_req() && ctx.routed().is_some_and(|route| route.websocket.is_some());
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
    pub(crate) fn head_is_read(
        &self,
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
        self.learn(request, head, ctx);
        Ok(())
    }

    /// Takes an `X-Accel-Redirect` out of the head of a proxied answer. The answer is then sent to nobody:
    /// its head becomes one that Pingora skips, its body is dropped, and the client gets nothing until the
    /// exchange has ended.
    pub(crate) fn takes_order(
        &self,
        session: &mut GatewaySession<'_>,
        head: &mut ResponseHeader,
        ctx: &mut RequestContext,
    ) -> bool {
        ctx.passing.orders = AccelFields::of(&head.headers);
        let Some(ordered) = self.ordered(ctx, head.status, &head.headers) else {
            ctx.passing.order = None;
            return false;
        };
        ctx.passing.order = Some(Box::new(ordered));
        *head = blank_head(StatusCode::EARLY_HINTS);
        session.ignore_interim();
        true
    }

    /// Sends the target of an `X-Accel-Redirect` when the exchange of the answer has ended.
    pub(crate) async fn carry_out(
        &self,
        session: &mut GatewaySession<'_>,
        ctx: &mut RequestContext,
        ordered: Box<AccelRedirect>,
    ) {
        if let Err(error) = self.send_accel_file(session, ctx, *ordered, accel::ACCEL_STATUS).await {
            tracing::debug!(%error, "a file was not sent to its end");
            // A truncated file must not look complete.
            session.shutdown().await;
        }
    }

    /// Completes the head of a proxied answer for the client.
    pub(crate) fn on_response_header(
        &self,
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
        let codec = self.fit(head, &request.headers, how, rules, None)?;
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
        &self,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut RequestContext,
    ) -> Result<Option<Duration>> {
        if ctx.passing.order.is_some() {
            *body = None;
            return Ok(None);
        }
        self.body_is_coded(body, end, ctx)?;
        let pace = ctx.passing.pace.as_mut().zip(body.as_ref());
        Ok(pace.map(|(pace, piece)| pace.pause(piece.len())))
    }

    fn body_is_coded(&self, body: &mut Option<Bytes>, end: bool, ctx: &mut RequestContext) -> Result<()> {
        if let Some(capture) = &mut ctx.passing.capture {
            if let Some(piece) = body.as_ref() {
                capture.push(piece);
            }
        }
        if end {
            if let Some(capture) = ctx.passing.capture.take() {
                self.parts.cache.keep_captured(capture);
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

    /// Updates the cache: a successful unsafe request invalidates the answers stored for its target (RFC
    /// 9111,
    /// 4.4), a HEAD refreshes them (4.3.5), and the answer to a POST may itself be stored (RFC 9110, 9.3.3).
    fn learn(&self, request: &RequestHeader, head: &ResponseHeader, ctx: &mut RequestContext) {
        let site = ctx.site.clone();
        let (Some(index), Some(sent)) = (ctx.route, ctx.passing.sent) else { return };
        let route = &site.plan.config.routes[index];
        let (cache, host) = (&self.parts.cache, request_host(request).unwrap_or_default());
        let target = origin_driven::cache_target(route, request);
        let RouteMode::Follow(rules) = &site.per_route[index].mode else {
            // The same URL may have an origin-driven route for other methods.
            return self.invalidate(&site, request, host, &target, head);
        };
        let asking = || {
            let key = CacheKey::of_resource(ctx.scheme(), host, &target);
            let asked = origin_driven::asked(rules, request);
            origin_driven::build_lookup(request, ctx, origin_driven::LookupWish { route, rules, key, asked })
        };
        if request.method == Method::HEAD {
            cache.head_seen(&asking(), sent, head.status, &head.headers);
        }
        let mut capture = match request.method {
            Method::POST
                if !untrusted_fields::has_unkeyed(&request.headers, rules) && matches_own_host(ctx, host) =>
            {
                cache.capture(asking(), sent, head.status, &head.headers)
            }
            _ => None,
        };
        self.invalidate(&site, request, host, &target, head);
        capture.iter_mut().for_each(|capture| cache.invalidated(capture));
        ctx.passing.capture = capture;
    }

    fn invalidate(
        &self,
        site: &RuntimeConfig,
        request: &RequestHeader,
        host: &str,
        target: &str,
        head: &ResponseHeader,
    ) {
        if site.follows && policy::invalidates(&request.method, head.status) {
            let also = policy::also_invalidated(host, target, &head.headers);
            let all: Vec<&str> = std::iter::once(target).chain(also.iter().map(String::as_str)).collect();
            self.parts.cache.invalidate(host, &all);
        }
    }
}
