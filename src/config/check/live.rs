//! `route.live` and `[[live]]`: what can be watched, and how it is told.

use super::values::{positive, NOT_ZERO};
use crate::config::{
    file::{fault::FaultReport, place::FilePlace, raw, PlacedValue, TableField},
    types::{CacheMode, EventConfig, PathPattern, RouteConfig},
    LiveEndpointConfig, LiveRules, LiveTrigger, WatcherLimits,
};

use std::{sync::Arc, time::Duration};

/// Names of the gateway's own events, which no entry may have.
const OWN_EVENTS: [&str; 4] = ["ping", "token", "stale", "current"];
/// The longest name of an event, in bytes.
const MAX_EVENT: usize = 64;
/// The most entries of one `[[live]]`: an id names the state of each.
const MAX_ENTRIES: usize = 64;

/// Checks `live` of a route.
pub(crate) fn check_live(
    raw: TableField<raw::RawLive>,
    cache: Option<&CacheMode>,
    methods: Option<&[http::Method]>,
    report: &mut FaultReport,
) -> Option<Option<Arc<LiveRules>>> {
    let Some(PlacedValue { value: raw::RawLive::Rules(raw), place }) = raw.optional()? else {
        return Some(None);
    };
    if matches!(cache, Some(CacheMode::Off)) {
        report.fault(&place, "needs a cache: what is not stored can't be watched");
    }
    if methods.is_some_and(|methods| !methods.is_empty() && !methods.contains(&http::Method::GET)) {
        report.fault(&place, "needs GET among the methods");
    }
    let raw = *raw;
    let event = raw.event.or_else_checked("metric_update", report);
    let range = Duration::from_secs(1)..=Duration::from_secs(300);
    let ping =
        raw.ping.or_if(Duration::from_secs(15), |ping| range.contains(ping), "must be from 1s to 5m", report);
    let short = |window: &Duration| *window <= Duration::from_secs(10);
    let window = raw.window.or_if(Duration::from_millis(50), short, "must be at most 10s", report);
    let on_bump = raw.on_bump.or(LiveTrigger::Watched);
    let known = |trigger: &LiveTrigger| *trigger != LiveTrigger::Eager;
    let on_ttl = raw.on_ttl.or_if(LiveTrigger::Watched, known, "must be \"watched\" or \"lazy\"", report);
    let max_wait = positive(raw.max_wait, Duration::from_secs(60), report);
    let most = |raw: TableField<u32>| raw.or(0).map(|most| Some(most).filter(|most| *most > 0));
    let limits = (
        most(raw.max_watchers),
        most(raw.max_watchers_per_tenant),
        most(raw.max_watchers_per_user),
        most(raw.max_watchers_per_address),
    );
    Some(Some(Arc::new(LiveRules {
        event: event?,
        ping: ping?,
        window: window?,
        on_bump: on_bump?,
        on_ttl: on_ttl?,
        max_wait: max_wait?,
        limits: WatcherLimits { route: limits.0?, tenant: limits.1?, user: limits.2?, address: limits.3? },
    })))
}

impl TableField<String> {
    /// The name of an event, or this default.
    fn or_else_checked(self, default: &str, report: &mut FaultReport) -> Option<String> {
        let Some(PlacedValue { value, place }) = self.optional()? else { return Some(default.to_owned()) };
        check_event_name(&value).map(|()| value).map_err(|complaint| report.fault(&place, complaint)).ok()
    }
}

/// Checks that a name can be that of an event.
fn check_event_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    if name.is_empty() || name.len() > MAX_EVENT || !name.bytes().all(plain) {
        return Err(format!(
            "must be a name of at most {MAX_EVENT} letters, digits, \"-\", \"_\", \".\" and \":\""
        ));
    }
    match OWN_EVENTS.contains(&name) {
        true => Err("is the name of an event of the gateway's own".to_owned()),
        false => Ok(()),
    }
}

/// Checks every `[[live]]`.
pub(super) fn check_endpoints(
    raw: Vec<PlacedValue<raw::LiveEndpoint>>,
    routes: Option<&[RouteConfig]>,
    events: Option<&[EventConfig]>,
    report: &mut FaultReport,
) -> Option<Vec<LiveEndpointConfig>> {
    let mut taken: Vec<String> = events.iter().copied().flatten().map(|event| event.path.clone()).collect();
    let mut checked = Vec::new();
    for PlacedValue { value, place } in raw {
        checked.push(check_endpoint(value, &place, routes, &mut taken, report));
    }
    checked.into_iter().collect()
}

fn check_endpoint(
    raw: raw::LiveEndpoint,
    place: &FilePlace,
    routes: Option<&[RouteConfig]>,
    taken: &mut Vec<String>,
    report: &mut FaultReport,
) -> Option<LiveEndpointConfig> {
    let path = raw.path.required("path", place, report).and_then(|PlacedValue { value, place }| {
        let path = raw::exact_path(&value).map_err(|complaint| report.fault(&place, complaint)).ok()?;
        match taken.contains(&path) {
            true => {
                report.fault(&place, "is taken by another [[live]] or [[event]]");
                None
            }
            false => {
                taken.push(path.clone());
                Some(path)
            }
        }
    });
    let watch = raw.watch.required("watch", place, report).and_then(|PlacedValue { value, place }| {
        let count = value.0.len();
        if count == 0 || count > MAX_ENTRIES {
            report.fault(&place, format!("must name 1 to {MAX_ENTRIES} entries"));
            return None;
        }
        let named: Vec<_> = value.0.into_iter().map(|entry| check_entry(entry, routes, report)).collect();
        named.into_iter().collect::<Option<Vec<_>>>()
    });
    let mut watch = watch?;
    watch.sort();
    Some(LiveEndpointConfig { path: path?, watch })
}

/// Checks that a name can be an event's, and that a route with `live` takes its target.
fn check_entry(
    (name, target): (PlacedValue<String>, PlacedValue<String>),
    routes: Option<&[RouteConfig]>,
    report: &mut FaultReport,
) -> Option<(String, String)> {
    let named = check_event_name(&name.value).map_err(|complaint| report.fault(&name.place, complaint));
    let (path, query) = match target.value.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target.value.as_str(), None),
    };
    let path = raw::exact_path(path).map_err(|complaint| report.fault(&target.place, complaint)).ok()?;
    let takes = |route: &RouteConfig| match &route.path {
        PathPattern::Exact(exact) => *exact == path,
        PathPattern::Prefix(prefix) => path.starts_with(prefix.as_str()),
    };
    if let Some(routes) = routes {
        if !routes.iter().any(|route| route.live.is_some() && takes(route)) {
            report.fault(&target.place, "no route with live takes this path");
            return None;
        }
    }
    if query.is_some_and(|query| !query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')) {
        report.fault(&target.place, "must be written as in a request: no spaces, no \"#\"");
        return None;
    }
    named.ok()?;
    Some((name.value, query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"))))
}

/// Checks `refills` of an origin.
pub(super) fn check_refills(raw: TableField<u32>, report: &mut FaultReport) -> Option<u32> {
    raw.or_if(8, |refills| *refills > 0, NOT_ZERO, report)
}
