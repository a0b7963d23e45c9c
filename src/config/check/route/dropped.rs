//! Warns of request fields that the configuration uses, but that are dropped before anything reads them.

use crate::config::{
    file::{
        fault::FaultReport,
        raw::{self, LimitKey, RawCache},
        PlacedValue, TableField,
    },
    reserved::{claim_of_field, FieldClaim},
    types::UnderscorePolicy,
};
use http::HeaderName;

/// Warns about them.
pub(crate) fn warn(
    routes: &[PlacedValue<raw::Route>],
    underscores: UnderscorePolicy,
    report: &mut FaultReport,
) {
    let mut warn = |name: &PlacedValue<HeaderName>| {
        let PlacedValue { value, place } = name;
        if claim_of_field(value.as_str()) == FieldClaim::Gateway {
            report.warn(place, "is dropped from every request: only the gateway says it");
        } else if underscores == UnderscorePolicy::Drop && value.as_str().contains('_') {
            report.warn(place, "is dropped from every request for its underscore: see server.underscores");
        }
    };
    for PlacedValue { value: route, .. } in routes {
        if let TableField::Given(limits) = &route.limit {
            for limit in &limits.value.0 {
                let TableField::Given(PlacedValue { value: LimitKey::Key(key), .. }) = &limit.value.by else {
                    continue;
                };
                if let TableField::Given(header) = &key.header {
                    warn(header);
                }
            }
        }
        if let TableField::Given(PlacedValue { value: RawCache::Follow(rules), .. }) = &route.cache {
            if let TableField::Given(names) = &rules.key_headers {
                names.value.iter().for_each(&mut warn);
            }
        }
    }
}
