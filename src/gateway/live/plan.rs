//! From a request to the entry that it wants to watch, and a place for one more stream.

use super::source::{LiveSource, RefillRequest, WatchedRequest};
use crate::{
    config::WatcherLimits,
    gateway::{
        cache::{origin_driven, versioned},
        context::RequestContext,
        headers::to_origin,
        runtime_config::RouteMode,
        services::GatewayServices,
    },
    live::{WatcherOwner, WatcherPermit},
};

use parking_lot::Mutex;
use pingora_http::RequestHeader;
use std::sync::{atomic::AtomicBool, Arc};

/// An entry that a request wants to watch.
pub(crate) struct PlannedWatch {
    pub(crate) key: String,
    pub(crate) source: LiveSource,
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
    let (key, watched, ask, changes) = match &at_hand.mode {
        RouteMode::Versioned(rules) => {
            let (wanted, query) = versioned::cache_request(request, ctx, route, rules);
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
    Some(PlannedWatch { key, source })
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
