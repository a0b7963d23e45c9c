//! Long-polling by the validator: `Prefer: wait` (RFC 7240) with `If-None-Match`.

use crate::{
    cache::{Cache, MemoryLookup},
    clock::now_ms,
    config::LiveRules,
    gateway::{
        context::RequestContext,
        live::{
            plan::{watcher_permit, PlannedWatch},
            source::{LiveSource, WatchedRequest},
        },
        services::GatewayServices,
        session::GatewaySession,
    },
    live::LiveWatcher,
    representation::respond,
};

use http::{header, HeaderMap};
use pingora_core::Result;
use std::{
    future::{poll_fn, Future},
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::time::{sleep_until, Instant};

/// Waits until the request's validator names another state than the current one, at most this long. After
/// it the request is answered as any other.
pub(crate) async fn wait_for_change(
    services: &GatewayServices,
    session: &mut GatewaySession<'_>,
    ctx: &mut RequestContext,
    rules: &Arc<LiveRules>,
    planned: PlannedWatch,
    wait: Duration,
) -> Result<()> {
    let wait = wait.min(rules.max_wait);
    ctx.waited = Some(wait);
    let headers = &session.req_header().headers;
    if !headers.contains_key(header::IF_NONE_MATCH) {
        return Ok(());
    }
    let name = ctx.routed().map_or("none", |route| route.name.as_str()).to_owned();
    // A request that finds no place is answered at once.
    let Some(_permit) = watcher_permit(services, &name, ctx, &rules.limits) else { return Ok(()) };
    let _open = services.metrics.live_watcher(&name);
    let looking = PendingState::of(&planned.source, headers);
    let mut watcher = LiveWatcher::default();
    services.live.watch(&planned.key, planned.source, &mut watcher, None);
    let changed = async {
        let mut late = pin!(sleep_until(Instant::now() + wait));
        loop {
            // All that is known is looked at below.
            while watcher.next_change().is_some() {}
            if watcher.is_settled() && !looking.is_current(&services.cache) {
                return;
            }
            let is_late = poll_fn(|cx| match watcher.poll_rung(cx) {
                std::task::Poll::Ready(()) => std::task::Poll::Ready(false),
                std::task::Poll::Pending => late.as_mut().poll(cx).map(|()| true),
            });
            if is_late.await || services.live.is_draining() {
                return;
            }
        }
    };
    let mut changed = pin!(changed);
    let waited = session.while_connected(changed.as_mut()).await;
    waited
}

/// The state that a client has, and where the present one lies.
struct PendingState {
    request: PendingRequest,
    validators: Vec<u8>,
}

enum PendingRequest {
    Versioned(String),
    Followed(Arc<crate::cache::OriginLookup>),
}

impl PendingState {
    fn of(source: &LiveSource, headers: &HeaderMap) -> Self {
        let request = match &source.request {
            WatchedRequest::Versioned(wanted) => PendingRequest::Versioned(wanted.key.as_str().to_owned()),
            WatchedRequest::Followed(asking) => PendingRequest::Followed(asking.clone()),
        };
        let lines = headers.get_all(header::IF_NONE_MATCH).iter().map(http::HeaderValue::as_bytes);
        Self { request, validators: lines.collect::<Vec<_>>().join(&b", "[..]) }
    }

    /// Returns true if the client has the state that is in memory.
    fn is_current(&self, cache: &Cache) -> bool {
        let found = match &self.request {
            PendingRequest::Versioned(key) => cache.look(key, now_ms()),
            PendingRequest::Followed(asking) => {
                cache.look_followed(&asking.key, &asking.headers, &asking.asked, now_ms())
            }
        };
        match found {
            MemoryLookup::Hit(entry) | MemoryLookup::Stale(entry) => {
                respond::is_not_modified(&entry.representation, Some(&self.validators), None)
            }
            // It is on its way, or can't be read: the last state is the client's until there is another.
            MemoryLookup::Nothing => true,
        }
    }
}
