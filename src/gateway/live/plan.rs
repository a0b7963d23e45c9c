//! From a request to the entry that it wants to watch, and a place for one more stream.

use super::source::{LiveSource, RefillRequest, WatchedRequest};
use crate::{
    cache::{coherence::version::MinVersion, Cache},
    config::WatcherLimits,
    gateway::{
        cache::{origin_driven, versioned},
        context::RequestContext,
        headers::to_origin,
        runtime_config::RouteMode,
        services::GatewayServices,
    },
    live::{WatcherOwner, WatcherPermit},
    name::{Namespace, Tenant},
};

use parking_lot::Mutex;
use pingora_http::RequestHeader;
use std::{
    sync::{atomic::AtomicBool, Arc},
    time::Duration,
};

/// An entry that a request wants to watch.
pub(crate) struct PlannedWatch {
    pub(crate) key: String,
    pub(crate) source: LiveSource,
    /// The least version that this request accepts, and how long it waits for it.
    pub(crate) at_least: Option<AwaitedVersion>,
}

/// A version that a request waits for before it watches.
pub(crate) struct AwaitedVersion {
    namespace: Namespace,
    tenant: Tenant,
    minimum: MinVersion,
    wait: Duration,
}

impl AwaitedVersion {
    /// Waits for it; returns true if it was reached in time.
    pub(crate) async fn reached(&self, cache: &Arc<Cache>) -> bool {
        let reaching = cache.reach_version(&self.namespace, &self.tenant, &self.minimum);
        tokio::time::timeout(self.wait, reaching).await.is_ok()
    }
}

/// The key of the entry that a request reads, and how it is read. `None`: its route stores nothing.
pub(crate) fn plan_watch(
    services: &GatewayServices,
    request: &RequestHeader,
    ctx: &mut RequestContext,
    index: usize,
    event: &str,
) -> Option<PlannedWatch> {
    let site = ctx.site.clone();
    let (route, at_hand) = (site.config().routes.get(index)?, site.per_route.get(index)?);
    let cache = &services.cache;
    let mut at_least = None;
    let (key, watched, ask, changes) = match &at_hand.mode {
        RouteMode::Versioned(rules) => {
            let (mut wanted, query) = versioned::cache_request(request, ctx, route, rules);
            // Others watch by the same source.
            let minimum = std::mem::take(&mut wanted.at_least);
            at_least = (!minimum.is_empty()).then(|| AwaitedVersion {
                namespace: rules.namespace.clone(),
                tenant: wanted.tenant.clone(),
                minimum,
                wait: rules.min_version_wait,
            });
            let ask = versioned::fill_request(request, ctx, route, rules, &query);
            let changes = cache.changes().of_version(&rules.namespace, &wanted.tenant);
            let key = format!("{}\n{event}\n{}", route.name, wanted.key.as_str());
            (key, WatchedRequest::Versioned(wanted), ask, changes)
        }
        RouteMode::Follow(rules) => {
            let request = to_origin::watching_request(request);
            let (asking, ask) = origin_driven::watch_request(&request, ctx, route, rules);
            let key = format!("{}\n{event}\n{}", route.name, origin_driven::watch_key(&asking, ctx));
            (key, WatchedRequest::Followed(asking), ask, cache.changes().of_purges())
        }
        RouteMode::Off | RouteMode::Files(_) => return None,
    };
    let expires = ctx.identity.as_ref().map_or(0, |identity| identity.expires);
    let source = LiveSource {
        cache: cache.clone(),
        metrics: services.metrics.clone(),
        site: services.site.clone(),
        route: route.name.clone(),
        fingerprint: at_hand.live?,
        rules: route.live.clone()?,
        event: event.into(),
        request: watched,
        refill: Mutex::new(RefillRequest { ask: Arc::new(ask), expires }),
        changes,
        has_read: AtomicBool::new(false),
        has_failed: AtomicBool::new(false),
    };
    Some(PlannedWatch { key, source, at_least })
}

/// A place for one more stream; `None`: there are as many as there may be.
pub(crate) fn watcher_permit(
    services: &GatewayServices,
    route: &str,
    ctx: &RequestContext,
    limits: &WatcherLimits,
) -> Option<WatcherPermit> {
    let (route, identity) = (|| Box::from(route), ctx.identity.as_deref());
    let tenant = identity.and_then(|identity| identity.tenant.as_ref()).map_or("", |tenant| tenant.as_str());
    let user = identity.and_then(|identity| identity.user.as_deref());
    let mut owners = Vec::new();
    owners.extend(limits.route.map(|most| (WatcherOwner::Route(route()), most)));
    owners.extend(limits.tenant.map(|most| (WatcherOwner::Tenant(route(), tenant.into()), most)));
    owners.extend(
        limits
            .user
            .zip(user)
            .map(|(most, user)| (WatcherOwner::User(route(), tenant.into(), user.into()), most)),
    );
    owners.extend(limits.address.map(|most| (WatcherOwner::Address(route(), ctx.client.address), most)));
    services.live.quota().take(owners)
}
