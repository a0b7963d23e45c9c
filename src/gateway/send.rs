//! The ends of a request that is answered here: a refusal, a problem, a whole answer.

use super::{forward, refusal, Context, Gateway, Next, Result, CACHE_STATUS};
use crate::{
    representation::problem::Problem,
    telemetry::labels::{CacheResult, RejectReason},
};
use bytes::Bytes;
use http::{HeaderValue, Method};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

impl Gateway {
    pub(super) async fn refuse(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        reason: RejectReason,
    ) -> Result<Next> {
        self.refuse_with(session, ctx, reason, refusal::problem(reason)).await
    }

    pub(super) async fn refuse_with(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        reason: RejectReason,
        problem: Problem,
    ) -> Result<Next> {
        self.parts.metrics.rejected(reason);
        ctx.result = CacheResult::Local;
        ctx.detail = Some(reason.as_str());
        self.send_problem(session, ctx, problem).await
    }

    pub(super) async fn send_problem(
        &self,
        session: &mut Session,
        ctx: &Context,
        problem: Problem,
    ) -> Result<Next> {
        let (mut head, body) = problem.into_parts(ctx.id());
        let status = format!("tidegate; detail={}", ctx.detail.unwrap_or("refused"));
        self.mark(
            &mut head,
            ctx,
            &HeaderValue::from_str(&status).unwrap_or(HeaderValue::from_static("tidegate")),
        )?;
        let body = if session.req_header().method == Method::HEAD { Bytes::new() } else { body };
        self.send(session, head, body).await
    }

    /// What every answer carries.
    pub(super) fn mark(
        &self,
        head: &mut ResponseHeader,
        ctx: &Context,
        cache_status: &HeaderValue,
    ) -> Result<()> {
        head.insert_header(CACHE_STATUS, cache_status.clone())?;
        head.insert_header(forward::REQUEST_ID, ctx.request_id.clone())
    }

    /// Sends a whole answer.
    pub(super) async fn send(
        &self,
        session: &mut Session,
        head: Box<ResponseHeader>,
        body: Bytes,
    ) -> Result<Next> {
        let downstream = &mut session.downstream_session;
        downstream.write_response_header(head).await?;
        downstream.write_response_body(body, true).await?;
        Ok(Next::Answered)
    }
}
