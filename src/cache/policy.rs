//! What may be stored, and for how long it answers: the decisions for routes with version keys.
//!
//! Pure. The route's rules decide the lifetime; the origin decides whether an answer is for others at all:
//! `no-store`, `Set-Cookie`, `Vary: *` and (outside of scope `user`) `private` are always obeyed.

use crate::{
    config::{CacheRules, Scope},
    telemetry::labels::FillOutcome,
};
use http::{header, HeaderMap, StatusCode};

/// How an entry may be used at an age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Freshness {
    /// As it is.
    Fresh,
    /// At once, while one fill refreshes it (RFC 5861, `stale-while-revalidate`).
    StaleWhileRevalidate,
    /// Only if a fill fails (RFC 5861, `stale-if-error`).
    StaleIfError,
    /// Not at all.
    Expired,
}

/// How an entry of the *current* generation may be used `age_ms` after it was made.
pub fn freshness(rules: &CacheRules, status: StatusCode, age_ms: u64) -> Freshness {
    let ttl = lifetime(rules, status);
    if age_ms < ttl {
        Freshness::Fresh
    } else if age_ms < ttl.saturating_add(millis(rules.stale_while_revalidate)) {
        Freshness::StaleWhileRevalidate
    } else {
        on_error(rules, status, age_ms)
    }
}

/// How an entry of any generation may be used when a fill failed.
pub fn on_error(rules: &CacheRules, status: StatusCode, age_ms: u64) -> Freshness {
    match age_ms < lifetime(rules, status).saturating_add(millis(rules.stale_if_error)) {
        true => Freshness::StaleIfError,
        false => Freshness::Expired,
    }
}

/// How long the store has to keep an entry, in milliseconds.
pub fn keep(rules: &CacheRules, status: StatusCode) -> u64 {
    let stale = rules.stale_while_revalidate.max(rules.stale_if_error);
    lifetime(rules, status).saturating_add(millis(stale)).max(1)
}

/// How long an answer of this status is fresh, in milliseconds.
pub fn lifetime(rules: &CacheRules, status: StatusCode) -> u64 {
    millis(match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => rules.negative_ttl,
        _ => rules.ttl,
    })
}

/// Whether an answer may be stored under a namespace; if not, why.
///
/// # Errors
/// The reason, as metrics and `Cache-Status` name it.
pub fn storable(rules: &CacheRules, status: StatusCode, headers: &HeaderMap) -> Result<(), FillOutcome> {
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
    if lists(headers, header::VARY, "*") || lists(headers, header::CACHE_CONTROL, "no-store") {
        return Err(FillOutcome::Private);
    }
    // `private="field"` forbids the field only; taking it for the whole is the safe reading.
    if rules.scope != Scope::User && lists(headers, header::CACHE_CONTROL, "private") {
        return Err(FillOutcome::Private);
    }
    Ok(())
}

/// Who may have an answer that is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Everyone who waited: the origin failed, or has nothing there, for all of them.
    Everyone,
    /// The one who asked, this time: the next answer may be another (a refusal of this user, a redirect).
    Asker,
    /// The one who asked, each time: the resource is not for sharing.
    AskerAlways,
}

/// Who may have an answer of `status` that is not stored for this reason.
pub fn sharing(why_not_stored: FillOutcome, status: StatusCode) -> Sharing {
    match why_not_stored {
        FillOutcome::Status
            if status.is_server_error() || matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) =>
        {
            Sharing::Everyone
        }
        FillOutcome::Status => Sharing::Asker,
        _ => Sharing::AskerAlways,
    }
}

/// `Cache-Control` for the outside.
pub fn outside(rules: &CacheRules, status: StatusCode) -> String {
    match (&rules.cache_control, rules.scope) {
        (Some(text), _) => text.clone(),
        (None, Scope::Public) => {
            format!("public, max-age=0, s-maxage={}", lifetime(rules, status) / 1_000)
        }
        // A browser asks again each time, and is answered by a 304: it sees a bump at once.
        (None, Scope::Tenant | Scope::User) => "private, max-age=0, must-revalidate".to_owned(),
    }
}

pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whether a comma-separated field names `member`, with or without an argument.
fn lists(headers: &HeaderMap, field: header::HeaderName, member: &str) -> bool {
    headers.get_all(field).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).any(|m| {
        let name = m.split('=').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case(member)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn rules(scope: Scope) -> CacheRules {
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
            cache_control: None,
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn an_entry_ages_from_fresh_to_expired() {
        let rules = rules(Scope::Tenant);
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
            assert_eq!(freshness(&rules, StatusCode::OK, age), expected, "{age}");
        }
        assert_eq!(on_error(&rules, StatusCode::OK, 0), Freshness::StaleIfError);
        assert_eq!(keep(&rules, StatusCode::OK), 620_000);
    }

    #[test]
    fn what_is_not_for_others_is_not_stored() {
        let public = rules(Scope::Public);
        let ok = StatusCode::OK;
        assert_eq!(storable(&public, ok, &headers(&[("cache-control", "no-cache, max-age=0")])), Ok(()));
        for (field, value, why) in [
            ("set-cookie", "a=b", FillOutcome::SetCookie),
            ("cache-control", "max-age=3, No-Store", FillOutcome::Private),
            ("cache-control", "private=\"x\"", FillOutcome::Private),
            ("vary", "accept, *", FillOutcome::Private),
        ] {
            assert_eq!(storable(&public, ok, &headers(&[(field, value)])), Err(why), "{field}: {value}");
        }
        let private = headers(&[("cache-control", "private")]);
        assert_eq!(storable(&rules(Scope::Tenant), ok, &private), Err(FillOutcome::Private));
        assert_eq!(storable(&rules(Scope::User), ok, &private), Ok(()));
    }

    #[test]
    fn errors_are_stored_only_where_the_route_says_so() {
        let mut rules = rules(Scope::Public);
        let none = HeaderMap::new();
        assert_eq!(storable(&rules, StatusCode::NOT_FOUND, &none), Err(FillOutcome::Status));
        rules.negative_ttl = Duration::from_secs(5);
        assert_eq!(storable(&rules, StatusCode::NOT_FOUND, &none), Ok(()));
        assert_eq!(lifetime(&rules, StatusCode::GONE), 5_000);
        for status in [206, 301, 302, 304, 400, 401, 403, 500, 502, 503] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(storable(&rules, status, &none), Err(FillOutcome::Status), "{status}");
        }
    }

    #[test]
    fn a_refusal_of_one_is_not_everyones() {
        let of = |status| sharing(FillOutcome::Status, StatusCode::from_u16(status).unwrap());
        assert_eq!((of(500), of(503), of(404)), (Sharing::Everyone, Sharing::Everyone, Sharing::Everyone));
        assert_eq!((of(401), of(403), of(302)), (Sharing::Asker, Sharing::Asker, Sharing::Asker));
        assert_eq!(sharing(FillOutcome::SetCookie, StatusCode::OK), Sharing::AskerAlways);
    }

    #[test]
    fn the_outside_learns_the_scope() {
        assert_eq!(outside(&rules(Scope::Public), StatusCode::OK), "public, max-age=0, s-maxage=20");
        assert!(outside(&rules(Scope::User), StatusCode::OK).starts_with("private"));
        let said = CacheRules { cache_control: Some("no-cache".into()), ..rules(Scope::Public) };
        assert_eq!(outside(&said, StatusCode::OK), "no-cache");
    }
}
