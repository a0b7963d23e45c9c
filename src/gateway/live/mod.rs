//! Live requests: a client watches the entry that it reads, by the same URL, or several by `[[live]]`.

pub(crate) mod endpoint;
pub(crate) mod long_poll;
pub(crate) mod plan;
pub(crate) mod script;
pub(crate) mod sink;
pub(crate) mod source;
pub(crate) mod stream;
pub(crate) mod wish;

use crate::{
    clock,
    config::{ContentCoding, LiveRules, LiveTrigger},
    gateway::{
        context::{request_host, RequestContext},
        headers::to_client::complete_head,
        request::min_version::refuse_unreached,
        services::{GatewayServices, NextStep},
        session::GatewaySession,
    },
    headers::vary_by,
    http::{cache_status::CacheStatus, field_lines::joined_lines},
    identity::Identity,
    live::{LiveWatcher, StreamEncoder, WatchCursor, WatcherKind},
    representation::encoding::negotiate_coding,
    telemetry::labels::CacheResult,
};
use long_poll::wait_for_change;
use plan::{plan_watch, watcher_permit, PlannedWatch};
use stream::{LiveStream, StreamRecord};
use wish::{LiveWish, EVENT_STREAM};

use futures_util::future::join_all;
use http::{header, HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

/// HTML Living Standard, 9.2.4
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Tells nginx not to hold back a response.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// RFC 10036: intermediaries should pass on what comes at once.
const INCREMENTAL: HeaderName = HeaderName::from_static("incremental");

/// Answers a request that wants to watch its route's entry.
pub(crate) async fn answer_live(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    (index, rules): (usize, &Arc<LiveRules>),
    wish: LiveWish,
) -> Result<Option<NextStep>> {
    let Some(planned) = plan_watch(services, session.req_header(), ctx, index, &rules.event) else {
        return Ok(None);
    };
    match wish {
        LiveWish::Stream => open_stream(services, session, ctx, rules, (vec![planned], None)).await.map(Some),
        LiveWish::Wait(wait) => {
            wait_for_change(services, session, ctx, rules, planned, wait).await?;
            Ok(None)
        }
    }
}

/// Has the entry that a request has filled kept current, if its route wants that.
pub(crate) fn keep_eagerly(
    services: &GatewayServices,
    session: &GatewaySession<'_>,
    ctx: &mut RequestContext,
    (index, rules): (usize, &LiveRules),
) {
    if ctx.result == CacheResult::Miss && rules.on_bump == LiveTrigger::Eager {
        if let Some(planned) = plan_watch(services, session.req_header(), ctx, index, &rules.event) {
            services.live.keep(&planned.key, planned.source);
        }
    }
}

/// Opens a stream of these entries, once the versions that the request knows of are there.
pub(crate) async fn open_stream(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    rules: &Arc<LiveRules>,
    (planned, names): (Vec<PlannedWatch>, Option<Arc<[String]>>),
) -> Result<NextStep> {
    if planned.iter().any(|planned| planned.at_least.is_some()) {
        let awaited = planned.iter().filter_map(|planned| planned.at_least.as_ref());
        let reached = join_all(awaited.map(|awaited| awaited.reached(&services.cache)));
        let reached = session.while_connected(pin!(reached)).await?;
        if reached.contains(&false) {
            return refuse_unreached(session, ctx).await;
        }
    }
    let stream = build_stream(services, session.req_header(), ctx, rules, planned, names);
    send_stream(session, ctx, stream).await
}

/// The stream of these entries, in the name of the context's route.
fn build_stream(
    services: &GatewayServices,
    request: &RequestHeader,
    ctx: &RequestContext,
    rules: &Arc<LiveRules>,
    planned: Vec<PlannedWatch>,
    names: Option<Arc<[String]>>,
) -> Box<LiveStream> {
    let name = ctx.routed().map_or("none", |route| route.name.as_str());
    let permit = watcher_permit(services, name, ctx, &rules.limits);
    let cursor =
        request.headers.get(LAST_EVENT_ID).map(|id| WatchCursor::parse(id.as_bytes(), planned.len()));
    let cursor = cursor.unwrap_or_default();
    let is_gzip = accepts_gzip(&request.headers, &ctx.site.config().encoding.prefer);
    let encoder = if is_gzip { StreamEncoder::gzip() } else { StreamEncoder::Plain };
    let is_strict = planned.iter().any(|planned| planned.at_least.is_some());
    let mut watcher = LiveWatcher::new(WatcherKind { is_gzip, is_strict });
    if permit.is_some() {
        for (place, PlannedWatch { key, source, .. }) in planned.into_iter().enumerate() {
            services.live.watch(&key, source, &mut watcher, cursor.of(place));
        }
    }
    let metrics = services.metrics.clone();
    let identity = ctx.identity.as_deref();
    let record = StreamRecord {
        access: services.access.clone(),
        route: ctx.at_hand().map_or(&ctx.site.unrouted, |at_hand| &at_hand.metrics).clone(),
        began: ctx.began,
        request_id: ctx.request_id.clone(),
        client: ctx.client.address,
        host: request_host(request).unwrap_or_default().into(),
        path: request.uri.path().into(),
        version: request.version,
        name: name.into(),
        tenant: identity.and_then(|identity| Some(identity.tenant.as_ref()?.as_str().into())),
        metrics: metrics.clone(),
    };
    Box::new(LiveStream {
        hub: services.live.clone(),
        watcher,
        encoder,
        rules: rules.clone(),
        names,
        expires: identity.and_then(expires_at),
        drain: ctx.site.config().server.drain,
        _open: metrics.live_watcher(name),
        record,
        permit,
    })
}

/// Sends the head of a stream. Whoever called the steps runs it.
async fn send_stream(
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    stream: Box<LiveStream>,
) -> Result<NextStep> {
    ctx.result = CacheResult::Live;
    ctx.flows_at_once();
    let mut head = Box::new(ResponseHeader::build(StatusCode::OK, Some(12))?);
    head.insert_header(header::CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM))?;
    head.insert_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))?;
    head.insert_header(X_ACCEL_BUFFERING, HeaderValue::from_static("no"))?;
    head.insert_header(INCREMENTAL, HeaderValue::from_static("?1"))?;
    if stream.encoder.is_gzip() {
        head.insert_header(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))?;
    }
    vary_by(head.as_mut(), "Accept-Encoding");
    if session.req_header().version == Version::HTTP_11 {
        head.insert_header(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
    } else if !session.is_http2() {
        session.ends_connection();
    }
    complete_head(&mut head, session.req_header(), ctx, CacheStatus::local("live"))?;
    session.write_response_header(head).await?;
    Ok(NextStep::Stream(stream))
}

/// Returns true if a client takes gzip, and the configuration offers it.
fn accepts_gzip(headers: &HeaderMap, offered: &[ContentCoding]) -> bool {
    let accepted = joined_lines(headers, &header::ACCEPT_ENCODING);
    let choice =
        negotiate_coding(accepted.as_deref(), &[ContentCoding::Gzip], |gzip| offered.contains(&gzip));
    choice.coding().is_some()
}

/// The time at which a token expires, by the clock that never goes back.
fn expires_at(identity: &Identity) -> Option<Instant> {
    let left = identity.expires.saturating_sub(clock::wall_ms());
    Instant::now().checked_add(Duration::from_millis(left))
}
