//! Warns of request fields that the configuration uses, but that are dropped before anything reads them.

use crate::config::{
    fault::Report,
    raw::{self, By, Cache},
    read::{At, Field},
    reserved::{claim, Claim},
    types::Underscores,
};
use http::HeaderName;

/// Warns about them.
pub(super) fn warn(routes: &[At<raw::Route>], underscores: Underscores, report: &mut Report) {
    let mut warn = |name: &At<HeaderName>| {
        let At { value, place } = name;
        if claim(value.as_str()) == Claim::Gateway {
            report.warn(place, "is dropped from every request: only the gateway says it");
        } else if underscores == Underscores::Drop && value.as_str().contains('_') {
            report.warn(place, "is dropped from every request for its underscore: see server.underscores");
        }
    };
    for At { value: route, .. } in routes {
        if let Field::Given(limits) = &route.limit {
            for limit in &limits.value.0 {
                let Field::Given(At { value: By::Key(key), .. }) = &limit.value.by else { continue };
                if let Field::Given(header) = &key.header {
                    warn(header);
                }
            }
        }
        if let Field::Given(At { value: Cache::Follow(rules), .. }) = &route.cache {
            if let Field::Given(names) = &rules.key_headers {
                names.value.iter().for_each(&mut warn);
            }
        }
    }
}
