//! The decisions for routes with version keys: if an answer may be stored, and its lifetime.
//!
//! Pure. The route's rules set the lifetime; the origin decides if an answer may be shared at all:
//! `no-store`, `X-Accel-Expires: 0`, `Set-Cookie`, `Vary: *` and (outside of scope `user`) `private` are
//! always obeyed.

use super::{
    accel_expires::{self, AccelExpires},
    terms::{millis, FreshnessTerms},
};
use crate::{
    config::{CacheRules, CacheScope},
    telemetry::labels::FillOutcome,
};

use http::{header, HeaderMap, StatusCode};

/// The terms of an answer that was made at `made_ms`, in milliseconds since the epoch: its age counts from
/// then.
pub fn versioned_terms(rules: &CacheRules, status: StatusCode, made_ms: u64) -> FreshnessTerms {
    FreshnessTerms {
        received_ms: made_ms,
        initial_age_ms: 0,
        lifetime_ms: versioned_lifetime(rules, status),
        stale_while_revalidate_ms: millis(rules.stale_while_revalidate),
        stale_if_error_ms: millis(rules.stale_if_error),
        always_validate: false,
        never_stale: false,
        is_provisional: false,
    }
}

/// The freshness lifetime of an answer with this status, in milliseconds.
pub fn versioned_lifetime(rules: &CacheRules, status: StatusCode) -> u64 {
    millis(match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => rules.negative_ttl,
        _ => rules.ttl,
    })
}

/// Decides if an answer may be stored under a namespace.
///
/// # Errors
/// The reason why not, in the words of metrics and `Cache-Status`.
pub fn check_versioned_storable(
    rules: &CacheRules,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<(), FillOutcome> {
    if accel_expires::orders_a_file(headers) {
        return Err(FillOutcome::Accel);
    }
    let kept = match status {
        StatusCode::OK => true,
        StatusCode::NOT_FOUND | StatusCode::GONE => !rules.negative_ttl.is_zero(),
        _ => false,
    };
    if !kept {
        return Err(FillOutcome::Status);
    }
    if headers.contains_key(header::SET_COOKIE) {
        return Err(FillOutcome::SetCookie);
    }
    if lists(headers, header::VARY, "*") {
        return Err(FillOutcome::VaryAny);
    }
    if lists(headers, header::CACHE_CONTROL, "no-store")
        || accel_expires::accel_expires(headers) == Some(AccelExpires::Never)
    {
        return Err(FillOutcome::NoStore);
    }
    // `private="field"` forbids the field only; applying it to the whole answer is the safe reading.
    if rules.scope != CacheScope::User && lists(headers, header::CACHE_CONTROL, "private") {
        return Err(FillOutcome::Private);
    }
    Ok(())
}

/// The requests that may have an answer that is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerSharing {
    /// All waiting requests: the origin failed, or has nothing there, for all of them.
    Everyone,
    /// The leader alone, for this answer: the next one may differ (a refusal of this user, a redirect).
    Asker,
    /// The leader alone, each time: the resource can't be shared.
    AskerAlways,
}

/// Decides which requests may have an answer of `status` that is not stored for this reason.
pub fn decide_sharing(why_not_stored: FillOutcome, status: StatusCode) -> AnswerSharing {
    match why_not_stored {
        FillOutcome::Status
            if status.is_server_error() || matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) =>
        {
            AnswerSharing::Everyone
        }
        FillOutcome::Status => AnswerSharing::Asker,
        _ => AnswerSharing::AskerAlways,
    }
}

/// `Cache-Control` for downstream caches.
pub fn outside_cache_control(rules: &CacheRules, status: StatusCode) -> String {
    match (&rules.cache_control, rules.scope) {
        (Some(text), _) => text.clone(),
        (None, CacheScope::Public) => {
            format!("public, max-age=0, s-maxage={}", versioned_lifetime(rules, status) / 1_000)
        }
        // A browser revalidates each time, and gets a 304: it sees a bump at once.
        (None, CacheScope::Tenant | CacheScope::User) => "private, max-age=0, must-revalidate".to_owned(),
    }
}

/// Returns true if a comma-separated field has `member`, with or without an argument.
fn lists(headers: &HeaderMap, field: header::HeaderName, member: &str) -> bool {
    headers.get_all(field).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).any(|m| {
        let name = m.split('=').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case(member)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::policy::Freshness;
    use std::time::Duration;

    fn rules(scope: CacheScope) -> CacheRules {
        CacheRules {
            namespace: "kpi".parse().unwrap(),
            scope,
            ttl: Duration::from_secs(20),
            stale_while_revalidate: Duration::from_secs(10),
            stale_if_error: Duration::from_secs(600),
            query: vec![],
            negative_ttl: Duration::ZERO,
            max_size: 1 << 20,
            fill_timeout: Duration::from_secs(30),
            hedge: None,
            stale_after: None,
            min_version_wait: Duration::from_secs(5),
            cache_control: None,
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn an_entry_ages_from_fresh_to_expired() {
        let rules = rules(CacheScope::Tenant);
        for (age, expected) in [
            (0, Freshness::Fresh),
            (19_999, Freshness::Fresh),
            (20_000, Freshness::StaleWhileRevalidate),
            (29_999, Freshness::StaleWhileRevalidate),
            (30_000, Freshness::StaleIfError),
            (619_999, Freshness::StaleIfError),
            (620_000, Freshness::Expired),
            (u64::MAX, Freshness::Expired),
        ] {
            assert_eq!(versioned_terms(&rules, StatusCode::OK, 0).freshness(age), expected, "{age}");
        }
        assert_eq!(versioned_terms(&rules, StatusCode::OK, 0).on_error(0), Freshness::StaleIfError);
        assert_eq!(versioned_terms(&rules, StatusCode::OK, 0).keep_ms(false), 620_000);
    }

    #[test]
    fn what_is_not_for_others_is_not_stored() {
        let public = rules(CacheScope::Public);
        let ok = StatusCode::OK;
        assert_eq!(
            check_versioned_storable(&public, ok, &headers(&[("cache-control", "no-cache, max-age=0")])),
            Ok(())
        );
        for (field, value, why) in [
            ("set-cookie", "a=b", FillOutcome::SetCookie),
            ("cache-control", "max-age=3, No-Store", FillOutcome::NoStore),
            ("cache-control", "private=\"x\"", FillOutcome::Private),
            ("vary", "accept, *", FillOutcome::VaryAny),
        ] {
            assert_eq!(
                check_versioned_storable(&public, ok, &headers(&[(field, value)])),
                Err(why),
                "{field}: {value}"
            );
        }
        let private = headers(&[("cache-control", "private")]);
        assert_eq!(
            check_versioned_storable(&rules(CacheScope::Tenant), ok, &private),
            Err(FillOutcome::Private)
        );
        assert_eq!(check_versioned_storable(&rules(CacheScope::User), ok, &private), Ok(()));
    }

    #[test]
    fn errors_are_stored_only_where_the_route_says_so() {
        let mut rules = rules(CacheScope::Public);
        let none = HeaderMap::new();
        assert_eq!(check_versioned_storable(&rules, StatusCode::NOT_FOUND, &none), Err(FillOutcome::Status));
        rules.negative_ttl = Duration::from_secs(5);
        assert_eq!(check_versioned_storable(&rules, StatusCode::NOT_FOUND, &none), Ok(()));
        assert_eq!(versioned_lifetime(&rules, StatusCode::GONE), 5_000);
        for status in [206, 301, 302, 304, 400, 401, 403, 500, 502, 503] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(check_versioned_storable(&rules, status, &none), Err(FillOutcome::Status), "{status}");
        }
    }

    #[test]
    fn a_refusal_of_one_is_not_everyones() {
        let of = |status| decide_sharing(FillOutcome::Status, StatusCode::from_u16(status).unwrap());
        assert_eq!(
            (of(500), of(503), of(404)),
            (AnswerSharing::Everyone, AnswerSharing::Everyone, AnswerSharing::Everyone)
        );
        assert_eq!(
            (of(401), of(403), of(302)),
            (AnswerSharing::Asker, AnswerSharing::Asker, AnswerSharing::Asker)
        );
        assert_eq!(decide_sharing(FillOutcome::SetCookie, StatusCode::OK), AnswerSharing::AskerAlways);
    }

    #[test]
    fn the_outside_learns_the_scope() {
        assert_eq!(
            outside_cache_control(&rules(CacheScope::Public), StatusCode::OK),
            "public, max-age=0, s-maxage=20"
        );
        assert!(outside_cache_control(&rules(CacheScope::User), StatusCode::OK).starts_with("private"));
        let said = CacheRules { cache_control: Some("no-cache".into()), ..rules(CacheScope::Public) };
        assert_eq!(outside_cache_control(&said, StatusCode::OK), "no-cache");
    }
}
