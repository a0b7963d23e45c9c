//! The rate limit fields of answers: `RateLimit-Policy` and `RateLimit`, in the form of
//! draft-ietf-httpapi-ratelimit-headers-11, both lists of structured fields (RFC 9651).
//!
//! Pure. `r` requests may be sent at this moment. `t` is chosen so that `r` requests in `t` seconds do not
//! exceed the rate; if `r` is 0, it is the time until the next one is allowed. The draft asks for such a
//! bound: a client that spreads the remaining requests over that time stays within the limit, however full
//! its bucket was.

use super::gcra::{LimitStanding, RequestRate};
use crate::{config::LimitConfig, name::Name};

use http::{HeaderName, HeaderValue};
use std::{fmt::Write as _, time::Duration};

/// The field with the limits.
pub(crate) const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// The field with the remaining requests.
pub(crate) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// The type of the problem document that goes with a refusal.
pub(crate) const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// The longest time in the fields, in seconds.
const MAX_SECONDS: u64 = 999_999_999;

/// Formats the policy: `"address";q=100;w=60, …`
pub(crate) fn policy_value(limits: &[LimitConfig]) -> HeaderValue {
    join_members(limits.iter(), |text, limit| {
        let window = limit.window.as_secs().clamp(1, MAX_SECONDS);
        // Writing to a String can't fail. A name needs no escaping.
        write!(text, "\"{}\";q={};w={window}", limit.name, limit.requests).unwrap_or_default();
    })
}

/// Formats the rest: `"address";r=50;t=30, …`
pub(crate) fn remaining_value<'l>(
    limits: impl Iterator<Item = (&'l Name, RequestRate, LimitStanding)>,
) -> HeaderValue {
    join_members(limits, |text, (name, rate, standing)| {
        let time = reset_seconds(rate, standing);
        write!(text, "\"{name}\";r={};t={time}", standing.remaining).unwrap_or_default();
    })
}

/// Converts a time to whole seconds: rounded up, at least one.
pub(crate) fn whole_seconds(time: Duration) -> u64 {
    let whole = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    whole.clamp(1, MAX_SECONDS)
}

fn reset_seconds(rate: RequestRate, standing: LimitStanding) -> u64 {
    match standing.remaining {
        0 => whole_seconds(standing.wait),
        remaining => {
            let nanoseconds = rate.interval().as_nanos().saturating_mul(u128::from(remaining));
            whole_seconds(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)))
        }
    }
}

fn join_members<T>(members: impl Iterator<Item = T>, write: impl Fn(&mut String, T)) -> HeaderValue {
    let mut text = String::with_capacity(48);
    for member in members {
        if !text.is_empty() {
            text.push_str(", ");
        }
        write(&mut text, member);
    }
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LimitBy;

    fn limit(name: &str, requests: u32, seconds: u64, burst: u32) -> LimitConfig {
        let name = name.parse().unwrap();
        let window = Duration::from_secs(seconds);
        LimitConfig { name, requests, window, burst, by: LimitBy::Address, shared: false }
    }

    fn after(limit: &LimitConfig, count: usize) -> HeaderValue {
        let rate = RequestRate::new(limit.requests, limit.window, limit.burst);
        let (mut standing, mut empty_at) = rate.take(0, 1);
        for _ in 1..count {
            (standing, empty_at) = rate.take(empty_at, 1);
        }
        remaining_value(std::iter::once((&limit.name, rate, standing)))
    }

    #[test]
    fn fields_are_lists_of_strings_with_parameters() {
        let limits = [limit("address", 100, 60, 20), limit("key", 1_000, 3_600, 1_000)];
        assert_eq!(policy_value(&limits), "\"address\";q=100;w=60, \"key\";q=1000;w=3600");
        assert_eq!(after(&limits[0], 1), "\"address\";r=19;t=12");
        assert_eq!(after(&limits[0], 20), "\"address\";r=0;t=1");
        assert_eq!(after(&limits[1], 500), "\"key\";r=500;t=1800");
        assert_eq!(after(&limit("slow", 1, 3_600, 1), 1), "\"slow\";r=0;t=3600");
        assert_eq!(after(&limit("slow", 1, 3_600, 1), 2), "\"slow\";r=0;t=3600");
        for value in [policy_value(&limits), after(&limits[0], 3)] {
            assert!(!sfv::Parser::parse_list(value.as_bytes()).unwrap().is_empty());
        }
    }

    #[test]
    fn times_are_whole_seconds() {
        for (millis, expected) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (60_000, 60)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), expected, "{millis}");
        }
        assert_eq!(whole_seconds(Duration::MAX), MAX_SECONDS);
    }
}
