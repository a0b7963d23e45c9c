//! Helpers of the policy's tests: fields, rules and exchanges in one line.

use super::origin_driven::OriginExchange;
use crate::{clock::ClockReading, config::FollowRules};

use http::{HeaderMap, Method, StatusCode};
use std::{sync::LazyLock, time::Duration};

/// 2026-01-01, in seconds and milliseconds since the epoch.
pub(super) const NOW: u64 = 1_767_225_600;
pub(super) const NOW_MS: u64 = NOW * 1_000;

static NOTHING: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);

/// A moment by both clocks, which agree.
pub(super) fn at(ms: u64) -> ClockReading {
    ClockReading { now_ms: ms, wall_ms: ms }
}

/// `name: value` lines, in their order.
pub(super) fn fields(lines: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
    }
    map
}

/// A date of HTTP.
pub(super) fn date(seconds: u64) -> String {
    crate::http::date::format_date(seconds).to_str().unwrap().to_owned()
}

/// The defaults of a route that follows its origin.
pub(super) fn rules() -> FollowRules {
    FollowRules {
        request_directives: false,
        heuristic: true,
        set_cookie: false,
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        max_size: 1 << 24,
        fill_timeout: Duration::from_secs(30),
        hedge: None,
        stale_after: None,
        redis: 0,
        statuses: Vec::new(),
        variants: 32,
        key_headers: Vec::new(),
    }
}

/// A GET, answered with a 200 at once.
pub(super) fn exchange(answer: &HeaderMap) -> OriginExchange<'_> {
    OriginExchange {
        method: &Method::GET,
        request: &NOTHING,
        authorized: false,
        content_location_is_target: false,
        status: StatusCode::OK,
        answer,
        requested_ms: NOW_MS,
        received: at(NOW_MS),
    }
}
