//! A route's `cache` table: what is kept, under which key, for how long and for whom.

use super::{positive, positive_size};
use crate::config::{
    fault::Report,
    raw,
    read::{At, Field, Place, Size},
    types::{CacheRules, FollowRules, Scope, RESERVED_NAMESPACES},
};
use std::time::Duration;

/// Checks the table, which stands at `place`.
pub(super) fn rules(raw: raw::CacheRules, place: &Place, report: &mut Report) -> Option<CacheRules> {
    let namespace = raw.namespace.required("namespace", place, report);
    if let Some(At { value, place }) = &namespace {
        if RESERVED_NAMESPACES.contains(&value.as_str()) {
            report.fault(place, format!("{value:?} is reserved: keys of the store begin with it"));
        }
    }
    let scope = raw.scope.or(Scope::Public);
    let ttl = match raw.ttl.required("ttl", place, report) {
        Some(ttl) => positive(Field::Given(ttl), Duration::ZERO, report),
        None => None,
    };
    let stale_while_revalidate = raw.stale_while_revalidate.or(Duration::ZERO);
    let stale_if_error = raw.stale_if_error.or(Duration::ZERO);
    let query = raw.query.or(Vec::new()).map(sorted);
    let negative_ttl = raw.negative_ttl.or(Duration::ZERO);
    let max_size = positive_size(raw.max_size, 1 << 20, report);
    let fill_timeout = positive(raw.fill_timeout, Duration::from_secs(30), report);
    let cache_control = raw.cache_control.optional().map(|given| {
        given.map(|At { value, place }| {
            check_cache_control(&value, scope, &place, report);
            value
        })
    });
    Some(CacheRules {
        namespace: namespace?.value,
        scope: scope?,
        ttl: ttl?,
        stale_while_revalidate: stale_while_revalidate?,
        stale_if_error: stale_if_error?,
        query: query?,
        negative_ttl: negative_ttl?,
        max_size: max_size?,
        fill_timeout: fill_timeout?,
        cache_control: cache_control?,
    })
}

/// Checks the table of a route that follows its origin.
pub(super) fn follow(raw: raw::FollowRules, report: &mut Report) -> Option<FollowRules> {
    let max_size = positive_size(raw.max_size, 16 << 20, report);
    let fill_timeout = positive(raw.fill_timeout, Duration::from_secs(30), report);
    let raw::Follow::Origin = raw.follow.or(raw::Follow::Origin)?;
    Some(FollowRules {
        request_directives: raw.request_directives.or(false)?,
        heuristic: raw.heuristic.or(true)?,
        set_cookie: raw.set_cookie.or(false)?,
        stale_while_revalidate: raw.stale_while_revalidate.or(Duration::ZERO)?,
        stale_if_error: raw.stale_if_error.or(Duration::ZERO)?,
        max_size: max_size?,
        fill_timeout: fill_timeout?,
        redis: raw.redis.or(Size(0))?.0,
    })
}

fn sorted(names: Vec<At<String>>) -> Vec<String> {
    let mut names: Vec<String> = names.into_iter().map(|name| name.value).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// A header value; and for what belongs to a tenant or a user none that lets a shared cache keep it, since
/// the URL alone does not tell whose answer it is.
fn check_cache_control(value: &str, scope: Option<Scope>, place: &Place, report: &mut Report) {
    if http::HeaderValue::from_str(value).is_err() || !value.is_ascii() {
        report.fault(place, "must be a header value: printable ASCII");
    }
    let shared = |directive: &str| {
        let name = directive.split('=').next().unwrap_or("").trim().to_ascii_lowercase();
        name == "public" || name == "s-maxage"
    };
    if matches!(scope, Some(Scope::Tenant | Scope::User)) && value.split(',').any(shared) {
        report.fault(place, "\"public\" and \"s-maxage\" can't go with scope \"tenant\" or \"user\"");
    }
}
