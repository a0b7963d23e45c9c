//! A route's `cache` table: the key, the lifetime and the scope of what is stored.

use crate::config::{
    check::values::{positive, positive_if_given, positive_size},
    file::{fault::FaultReport, place::FilePlace, raw, ByteSize, PlacedValue, TableField},
    types::{CacheRules, CacheScope, FollowRules, REFUSALS, RESERVED_NAMESPACES},
    MessageDirection,
};

use http::{header, HeaderName};
use std::time::Duration;

/// The most fields that tell answers apart beside `Vary`.
const MOST_KEY_HEADERS: usize = 16;

/// Checks the table at `place`.
pub(crate) fn check_cache_rules(
    raw: raw::CacheRules,
    place: &FilePlace,
    report: &mut FaultReport,
) -> Option<CacheRules> {
    let namespace = raw.namespace.required("namespace", place, report);
    if let Some(PlacedValue { value, place }) = &namespace {
        if RESERVED_NAMESPACES.contains(&value.as_str()) {
            report.fault(place, format!("{value:?} is reserved: keys of the store begin with it"));
        }
    }
    let scope = raw.scope.or(CacheScope::Public);
    let ttl = match raw.ttl.required("ttl", place, report) {
        Some(ttl) => positive(TableField::Given(ttl), Duration::ZERO, report),
        None => None,
    };
    let stale_while_revalidate = raw.stale_while_revalidate.or(Duration::ZERO);
    let stale_if_error = raw.stale_if_error.or(Duration::ZERO);
    let query = raw.query.or(Vec::new()).map(sorted);
    let negative_ttl = raw.negative_ttl.or(Duration::ZERO);
    let max_size = positive_size(raw.max_size, 1 << 20, report);
    let fill_timeout = positive(raw.fill_timeout, Duration::from_secs(30), report);
    let hedge = positive_if_given(raw.hedge, report);
    let stale_after = stale_after(raw.stale_after, fill_timeout, report);
    let min_version_wait = positive(raw.min_version_wait, Duration::from_secs(5), report);
    let cache_control = raw.cache_control.optional().map(|given| {
        given.map(|PlacedValue { value, place }| {
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
        hedge: hedge?,
        stale_after: stale_after?,
        min_version_wait: min_version_wait?,
        cache_control: cache_control?,
    })
}

/// Checks the table of a route that follows its origin.
pub(crate) fn check_follow_rules(raw: raw::FollowRules, report: &mut FaultReport) -> Option<FollowRules> {
    let max_size = positive_size(raw.max_size, 16 << 20, report);
    let fill_timeout = positive(raw.fill_timeout, Duration::from_secs(30), report);
    let hedge = positive_if_given(raw.hedge, report);
    let stale_after = stale_after(raw.stale_after, fill_timeout, report);
    let key_headers = raw.key_headers.or(Vec::new()).map(|names| key_headers(names, report));
    let raw::FollowWord::Origin = raw.follow.or(raw::FollowWord::Origin)?;
    let statuses = raw.statuses.or(Vec::new()).and_then(|given| statuses(given, report));
    let variants = variants(raw.variants, report);
    Some(FollowRules {
        request_directives: raw.request_directives.or(false)?,
        heuristic: raw.heuristic.or(true)?,
        set_cookie: raw.set_cookie.or(false)?,
        stale_while_revalidate: raw.stale_while_revalidate.or(Duration::ZERO)?,
        stale_if_error: raw.stale_if_error.or(Duration::ZERO)?,
        max_size: max_size?,
        fill_timeout: fill_timeout?,
        hedge: hedge?,
        stale_after: stale_after?,
        redis: raw.redis.or(ByteSize(0))?.0,
        key_headers: key_headers?,
        statuses: statuses?,
        variants: variants?,
    })
}

fn stale_after(
    given: TableField<Duration>,
    fill_timeout: Option<Duration>,
    report: &mut FaultReport,
) -> Option<Option<Duration>> {
    if let (TableField::Given(PlacedValue { value, place }), Some(fill_timeout)) = (&given, fill_timeout) {
        if *value >= fill_timeout {
            report.warn(place, format!("has no effect: a fill ends after fill_timeout ({fill_timeout:?})"));
        }
    }
    positive_if_given(given, report)
}

fn statuses(given: Vec<PlacedValue<u32>>, report: &mut FaultReport) -> Option<Vec<u16>> {
    let count = given.len();
    let known = given.into_iter().filter_map(|PlacedValue { value, place }| {
        let known = REFUSALS.into_iter().find(|status| u32::from(*status) == value);
        if known.is_none() {
            let all = REFUSALS.map(|status| status.to_string()).join(", ");
            report.fault(
                &place,
                format!("{value} is none of those that are kept only where they are named: {all}"),
            );
        }
        known
    });
    let known: Vec<u16> = known.collect();
    (known.len() == count).then_some(known)
}

fn variants(given: TableField<u32>, report: &mut FaultReport) -> Option<usize> {
    // Each request is compared with all of them.
    let number = given.or_if(32, |number| (1..=1_024).contains(number), "must be from 1 to 1024", report);
    number.and_then(|number| usize::try_from(number).ok())
}

/// Fields that a client may say, and that are not in the key already.
fn key_headers(names: Vec<PlacedValue<HeaderName>>, report: &mut FaultReport) -> Vec<HeaderName> {
    if let Some(PlacedValue { place, .. }) = names.get(MOST_KEY_HEADERS) {
        report.fault(place, format!("there may be {MOST_KEY_HEADERS} at most"));
    }
    let mut all = Vec::with_capacity(names.len());
    for PlacedValue { value, place } in names {
        let why = match MessageDirection::Request.reserved(value.as_str()) {
            Some(why) => Some(why),
            None if value == header::HOST => Some("the host is in the key already"),
            None if value == header::AUTHORIZATION => Some("a request with it is for one client alone"),
            None => None,
        };
        if let Some(why) = why {
            report.fault(&place, format!("can't tell answers apart: {why}"));
        }
        all.push(value);
    }
    all.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    all.dedup();
    all
}

fn sorted(names: Vec<PlacedValue<String>>) -> Vec<String> {
    let mut names: Vec<String> = names.into_iter().map(|name| name.value).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Checks a value for `Cache-Control`. With scope `tenant` or `user`, one that lets a shared cache store the
/// answer is a fault: the URL alone does not say whose answer it is.
fn check_cache_control(value: &str, scope: Option<CacheScope>, place: &FilePlace, report: &mut FaultReport) {
    if http::HeaderValue::from_str(value).is_err() || !value.is_ascii() {
        report.fault(place, "must be a header value: printable ASCII");
    }
    let shared = |directive: &str| {
        let name = directive.split('=').next().unwrap_or("").trim().to_ascii_lowercase();
        name == "public" || name == "s-maxage"
    };
    if matches!(scope, Some(CacheScope::Tenant | CacheScope::User)) && value.split(',').any(shared) {
        report.fault(place, "\"public\" and \"s-maxage\" can't go with scope \"tenant\" or \"user\"");
    }
}
