//! What is done with a proxied answer while it passes: codings, and what the cache learns from it.

use super::{codec::Codec, context::Context, followed, forward, host, Gateway, Mode, Result};
use crate::{
    cache::{key::Key, policy, Capture, Sent},
    representation::transform,
};
use bytes::Bytes;
use http::{header, Method, StatusCode, Version};
use pingora_core::{ErrorType, OrErr};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

/// What is done with a proxied answer while it passes.
#[derive(Default)]
pub(super) struct Passing {
    codec: Option<Codec>,
    capture: Option<Capture>,
    /// When the request went to the origin.
    pub(super) sent: Option<Sent>,
}

impl Gateway {
    /// The head of a proxied answer.
    pub(super) fn head_passes(
        &self,
        session: &Session,
        head: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let request = session.req_header();
        self.learn(request, head, ctx);
        if head.status != StatusCode::SWITCHING_PROTOCOLS {
            // An offer to the gateway, not to its client.
            head.remove_header(&header::UPGRADE);
        }
        head.append_header(header::VIA, forward::via(head.version))?;
        ctx.dated(&head.headers);
        let rules = &self.parts.config.encoding;
        let plan = transform::plan(&request.method, &request.headers, head.status, &head.headers, rules);
        transform::adjust_head(head, plan, rules);
        if let Some(plan) = plan {
            let framed = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
            let delimited = framed.iter().any(|name| head.headers.contains_key(name));
            if !delimited && request.version == Version::HTTP_11 {
                // Pingora has framed it before this: by its length, which it no longer has. A body that ends with its
                // connection could have been cut short.
                head.set_version(Version::HTTP_11);
                head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
            }
            let codec = Codec::new(plan, rules, None);
            ctx.passing.codec = Some(codec.or_err(ErrorType::InternalError, "a codec can't be made")?);
        }
        Ok(())
    }

    /// A piece of a proxied answer's body.
    pub(super) fn body_passes(&self, body: &mut Option<Bytes>, end: bool, ctx: &mut Context) -> Result<()> {
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

    /// What the cache learns: a successful unsafe request ends what is stored of its target (RFC 9111, 4.4), a HEAD
    /// refreshes it (4.3.5), and the answer to a POST may itself be kept (RFC 9110, 9.3.3).
    fn learn(&self, request: &RequestHeader, head: &ResponseHeader, ctx: &mut Context) {
        let (Some(index), Some(sent)) = (ctx.route, ctx.passing.sent) else { return };
        let route = &self.parts.config.routes[index];
        let (cache, host) = (&self.parts.cache, host(request).unwrap_or_default());
        let target = followed::target(route, request);
        let Mode::Follow(rules) = &self.per_route[index].mode else {
            // The same URL may be followed for other methods.
            return self.invalidate(request, host, &target, head);
        };
        let asking = || {
            let key = Key::of_resource(host, &target);
            let asked = policy::Asked::default();
            followed::asking(request, ctx, followed::Wish { route, rules, key, asked })
        };
        if request.method == Method::HEAD {
            cache.head_seen(&asking(), sent, head.status, &head.headers);
        }
        let mut capture = match request.method {
            Method::POST => cache.capture(asking(), sent, head.status, &head.headers),
            _ => None,
        };
        self.invalidate(request, host, &target, head);
        capture.iter_mut().for_each(|capture| cache.invalidated(capture));
        ctx.passing.capture = capture;
    }

    fn invalidate(&self, request: &RequestHeader, host: &str, target: &str, head: &ResponseHeader) {
        if self.follows && policy::invalidates(&request.method, head.status) {
            let also = policy::also_invalidated(host, target, &head.headers);
            let all: Vec<&str> = std::iter::once(target).chain(also.iter().map(String::as_str)).collect();
            self.parts.cache.invalidate(host, &all);
        }
    }
}
