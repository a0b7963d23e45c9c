//! Replies to a look-up: sends what the cache has found, whatever its mode.

use crate::{
    cache::{fill::streaming_body::StreamReader, policy, ArrivingHead, CacheAnswer, ForwardReason},
    clock::now_ms,
    gateway::{
        body::pieces::BodyPieces,
        context::RequestContext,
        headers::{
            rules,
            to_client::{append_via, set_gateway_headers},
        },
        proxy::accel::{accel_order, send_accel_file},
        respond::{apply_coding, errors, send_entry, send_pieces, send_problem, send_representation},
        services::{GatewayServices, NextStep},
        session::GatewaySession,
    },
    http::{cache_status::CacheStatus, names::is_accel_field},
    representation::encoding::transform,
    telemetry::labels::{CacheResult, FillOutcome},
};

use http::{header, HeaderValue, Method, StatusCode};
use pingora_core::Result;
use pingora_http::ResponseHeader;

/// Sends the result of a look-up in the cache, with the reason for which the origin was asked, if it was.
pub(crate) async fn send_answer(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    answer: CacheAnswer,
    forward: ForwardReason,
) -> Result<NextStep> {
    ctx.detail = forward.fwd_and_detail().1;
    match answer {
        CacheAnswer::Entry(entry, CacheResult::Miss) if entry.part().is_some() => {
            // The client whose request fetched this part gets it as the origin sent it.
            ctx.result = CacheResult::Miss;
            let status = stored_status(forward, None, false);
            send_representation(services, session, ctx, &entry.representation, status).await
        }
        CacheAnswer::Entry(entry, how) => {
            ctx.result = how;
            let status = match how {
                CacheResult::Miss => stored_status(forward, None, false),
                CacheResult::Collapsed => stored_status(forward, None, true),
                CacheResult::Revalidated => stored_status(forward, Some(StatusCode::NOT_MODIFIED), false),
                CacheResult::Remote => CacheStatus::HIT.with_detail(Some("redis")),
                CacheResult::Stale => stale_status(&entry.terms(), now_ms()),
                _ => CacheStatus::HIT,
            };
            send_entry(services, session, ctx, &entry, status).await
        }
        CacheAnswer::StaleIfError(entry, failure) => {
            ctx.result = CacheResult::StaleIfError;
            let (status, why) = errors::stale_if_error_status(Some(failure));
            ctx.detail = Some(why);
            send_entry(services, session, ctx, &entry, status).await
        }
        CacheAnswer::StaleIfSlow(entry) => {
            ctx.result = CacheResult::Stale;
            let (status, why) = errors::stale_if_error_status(None);
            ctx.detail = Some(why);
            send_entry(services, session, ctx, &entry, status).await
        }
        CacheAnswer::Arriving(head, reader, how) => {
            ctx.result = how;
            let status = match head.outcome {
                FillOutcome::Stored => stored_status(forward, None, how == CacheResult::Collapsed),
                why => {
                    ctx.detail = Some(why.as_str());
                    not_stored_status(forward, head.status, why)
                }
            };
            // In a future of its own: most answers are complete when they are sent.
            Box::pin(send_arriving(services, session, ctx, &head, reader, status)).await
        }
        CacheAnswer::Passing(what, why) => {
            ctx.result = CacheResult::Uncacheable;
            ctx.detail = Some(why.as_str());
            let status = not_stored_status(forward, what.status(), why);
            send_representation(services, session, ctx, &what, status).await
        }
        CacheAnswer::Pass(why) => {
            ctx.result = CacheResult::Uncacheable;
            ctx.detail = Some(why.as_str());
            Ok(NextStep::Proxy)
        }
        CacheAnswer::NotHere => {
            ctx.result = CacheResult::Local;
            ctx.detail = Some("only-if-cached");
            send_problem(session, ctx, errors::only_if_cached_problem()).await
        }
        CacheAnswer::Failed(error) => {
            ctx.result = CacheResult::Error;
            ctx.detail = Some(errors::error_name(error));
            send_problem(session, ctx, errors::fetch_problem(error)).await
        }
    }
}

/// Sends an answer while it is fetched.
async fn send_arriving(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    arriving: &ArrivingHead,
    reader: StreamReader,
    status: CacheStatus,
) -> Result<NextStep> {
    if arriving.outcome == FillOutcome::Accel {
        let headers = arriving.headers.iter().cloned().collect();
        if let Some(ordered) = accel_order(services, ctx, arriving.status, &headers) {
            return Box::pin(send_accel_file(services, session, ctx, ordered, status)).await;
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
    set_gateway_headers(&mut head, ctx, status)?;
    append_via(&mut head, ctx)?;
    let rules = &ctx.site.plan.config.encoding;
    let plan = transform::plan_shared_transform(&request.headers, head.status, &head.headers, rules);
    let bodyless = request.method == Method::HEAD;
    let codec =
        apply_coding(services, &mut head, &request.headers, (plan, bodyless), rules, arriving.length)?;
    rules::apply_answer_rules(request, &mut head, ctx);
    session.dated(&head, ctx);
    ctx.flows_at_once();
    send_pieces(session, head, BodyPieces::Arriving(reader), codec).await
}

/// `Cache-Status` of an answer that came from the origin and is stored.
fn stored_status(forward: ForwardReason, status: Option<StatusCode>, collapsed: bool) -> CacheStatus {
    let (why, detail) = forward.fwd_and_detail();
    let stored = CacheStatus::forwarded(why).stored(collapsed).with_detail(detail);
    status.map_or(stored, |status| stored.with_fwd_status(status))
}

/// `Cache-Status` of an answer that came from the origin and is not stored.
fn not_stored_status(forward: ForwardReason, status: StatusCode, why: FillOutcome) -> CacheStatus {
    CacheStatus::forwarded(forward.fwd_and_detail().0).with_fwd_status(status).with_detail(Some(why.as_str()))
}

/// `Cache-Status` of a stale answer.
pub(crate) fn stale_status(terms: &policy::FreshnessTerms, now_ms: u64) -> CacheStatus {
    CacheStatus::hit_with_ttl(terms.ttl_ms(now_ms).div_euclid(1_000))
        .with_detail(Some("stale-while-revalidate"))
}
