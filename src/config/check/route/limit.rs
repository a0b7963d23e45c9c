//! A route's `limit`s: how many requests of one client in which time.

use crate::{
    config::{
        file::{
            fault::FaultReport,
            place::FilePlace,
            raw::{self, LimitKey, LimitPerson},
            PlacedValue, TableField,
        },
        types::{LimitBy, LimitConfig, StoreConfig},
    },
    name::Name,
};
use std::{collections::HashSet, time::Duration};

/// The most limits of one route: each is looked up with each request.
const MOST: usize = 8;
/// The shortest and the longest window of a rate. The fields for clients count in whole seconds.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(31 * 86_400);
/// The most requests in a second.
const FASTEST: u32 = 1_000_000;

/// Checks a route's limits. `tokens`: tokens of its requests can be verified.
pub(crate) fn check_limits(
    raw: Vec<PlacedValue<raw::Limit>>,
    tokens: bool,
    report: &mut FaultReport,
) -> Option<Vec<LimitConfig>> {
    if let Some(PlacedValue { place, .. }) = raw.get(MOST) {
        report.fault(place, format!("there may be {MOST} at most"));
    }
    let mut names = LimitNames::reserve(&raw, report);
    let check = |PlacedValue { value, place }: PlacedValue<raw::Limit>| {
        check_limit(value, &place, tokens, &mut names, report)
    };
    let checked: Vec<_> = raw.into_iter().map(check).collect();
    checked.into_iter().collect()
}

/// Warns about limits that are to be shared, and nothing is there to share them by.
pub(crate) fn check_shared_limits(
    routes: &[PlacedValue<raw::Route>],
    store: &StoreConfig,
    report: &mut FaultReport,
) {
    let limits = routes.iter().filter_map(|route| match &route.value.limit {
        TableField::Given(limits) => Some(&limits.value.0),
        TableField::Absent | TableField::Faulty => None,
    });
    for limit in limits.flatten() {
        if let TableField::Given(PlacedValue { value: true, place }) = &limit.value.shared {
            if store.redis.is_none() {
                report.warn(place, "without store.redis each node counts by itself");
            }
        }
    }
}

fn check_limit(
    raw: raw::Limit,
    place: &FilePlace,
    tokens: bool,
    names: &mut LimitNames,
    report: &mut FaultReport,
) -> Option<LimitConfig> {
    let rate = raw.rate.required("rate", place, report);
    if let Some(PlacedValue { value, place }) = &rate {
        check_rate(*value, place, report);
    }
    let requests = rate.as_ref().map(|rate| rate.value.requests);
    let burst = raw.burst.or_if(
        requests.unwrap_or(1),
        |burst| *burst > 0,
        crate::config::check::values::NOT_ZERO,
        report,
    );
    let by = check_limit_key(raw.by, tokens, report);
    let name = match (raw.name.optional()?, &by) {
        (Some(PlacedValue { value, .. }), _) => Some(value),
        (None, Some(by)) => names.derive(by),
        (None, None) => None,
    };
    let shared = raw.shared.or(false);
    let raw::RawRate { requests, window } = rate?.value;
    Some(LimitConfig { name: name?, requests, window, burst: burst?, by: by?, shared: shared? })
}

fn check_rate(rate: raw::RawRate, place: &FilePlace, report: &mut FaultReport) {
    let raw::RawRate { requests, window } = rate;
    if requests == 0 {
        report.fault(place, "must allow for one request at least");
    }
    if window < SHORTEST || window > LONGEST || window.subsec_nanos() > 0 {
        report.fault(place, "must be for whole seconds, from 1s to 31d");
    } else if u64::from(requests) / window.as_secs() > u64::from(FASTEST) {
        report.fault(place, format!("must be at most {FASTEST} a second"));
    }
}

/// Checks `by`, the key that identifies a client. Tenants and users need a `[jwt]` table.
fn check_limit_key(raw: TableField<LimitKey>, tokens: bool, report: &mut FaultReport) -> Option<LimitBy> {
    let Some(PlacedValue { value, place }) = raw.optional()? else { return Some(LimitBy::Address) };
    let mut of_token = |by: LimitBy| {
        if !tokens {
            report.fault(&place, "is read from tokens: needs a [jwt], and can't go with auth = \"off\"");
        }
        Some(by)
    };
    match value {
        LimitKey::Word(LimitPerson::Address) => Some(LimitBy::Address),
        LimitKey::Word(LimitPerson::Tenant) => of_token(LimitBy::Tenant),
        LimitKey::Word(LimitPerson::User) => of_token(LimitBy::User),
        LimitKey::Key(raw::Key { header, query }) => match (header.optional()?, query.optional()?) {
            (Some(header), None) => Some(LimitBy::Header(header.value)),
            (None, Some(query)) => Some(LimitBy::Query(query.value)),
            _ => {
                report.fault(&place, "must have either header or query");
                None
            }
        },
    }
}

/// The names of a route's limits, each once.
struct LimitNames(HashSet<Name>);

impl LimitNames {
    /// Takes the names that the file gives, so that no derived one meets them.
    fn reserve(limits: &[PlacedValue<raw::Limit>], report: &mut FaultReport) -> Self {
        let mut taken = HashSet::new();
        for limit in limits {
            if let TableField::Given(PlacedValue { value, place }) = &limit.value.name {
                if !taken.insert(value.clone()) {
                    report.fault(place, "another limit of the route has the same name");
                }
            }
        }
        Self(taken)
    }

    fn derive(&mut self, by: &LimitBy) -> Option<Name> {
        let word = match by {
            LimitBy::Address => "address",
            LimitBy::Tenant => "tenant",
            LimitBy::User => "user",
            LimitBy::Header(_) | LimitBy::Query(_) => "key",
        };
        let numbered = (2..).map(|number| format!("{word}-{number}"));
        let mut names = std::iter::once(word.to_owned()).chain(numbered);
        names.find_map(|name| name.parse::<Name>().ok().filter(|name| self.0.insert(name.clone())))
    }
}
