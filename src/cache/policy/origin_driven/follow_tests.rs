use super::*;
use crate::cache::policy::test_kit::{date, exchange, fields, rules, NOW, NOW_MS};

use std::time::Duration;

const FRESH: (&str, &str) = ("cache-control", "max-age=60");
const TAG: (&str, &str) = ("etag", "\"a\"");

/// Decides if a 200 to a GET with these fields is stored.
fn stored(lines: &[(&str, &str)]) -> Result<FreshnessTerms, FillOutcome> {
    check_storable(&rules(), &exchange(&fields(lines)))
}

fn status(status: u16, lines: &[(&str, &str)]) -> Result<FreshnessTerms, FillOutcome> {
    let answer = fields(lines);
    check_storable(
        &rules(),
        &OriginExchange { status: StatusCode::from_u16(status).unwrap(), ..exchange(&answer) },
    )
}

#[test]
fn any_final_status_is_stored_where_the_origin_says_how_long() {
    for code in [200, 203, 204, 299, 301, 302, 303, 307, 308, 404, 405, 410, 499, 500, 502, 503, 504, 599] {
        assert!(status(code, &[FRESH]).is_ok(), "{code}");
    }
    assert_eq!(status(206, &[FRESH]), Err(FillOutcome::Partial));
    assert_eq!(status(304, &[FRESH]), Err(FillOutcome::Status));
    assert_eq!(status(101, &[FRESH]), Err(FillOutcome::Status));
    let changed = date(NOW - 1_000);
    assert_eq!(status(599, &[("last-modified", &changed)]), Err(FillOutcome::Status));
    assert!(status(599, &[("last-modified", &changed), ("cache-control", "public")]).is_ok());
}

#[test]
fn what_refuses_one_request_is_stored_only_where_the_route_names_it() {
    let answer = fields(&[FRESH]);
    for code in crate::config::REFUSALS {
        let of = |rules: &FollowRules| {
            check_storable(
                rules,
                &OriginExchange { status: StatusCode::from_u16(code).unwrap(), ..exchange(&answer) },
            )
        };
        assert_eq!(of(&rules()), Err(FillOutcome::Status), "{code}");
        assert!(of(&FollowRules { statuses: vec![code], ..rules() }).is_ok(), "{code}");
        let other = if code == 400 { 403 } else { 400 };
        assert_eq!(of(&FollowRules { statuses: vec![other], ..rules() }), Err(FillOutcome::Status), "{code}");
    }
}

#[test]
fn what_was_made_for_a_cookie_is_shared_where_somebody_says_so() {
    let changed = date(NOW - 1_000);
    let changed = ("last-modified", changed.as_str());
    let cookie = fields(&[("cookie", "a=b")]);
    let of = |lines: &[(&str, &str)], request: &HeaderMap| {
        check_storable(&rules(), &OriginExchange { request, ..exchange(&fields(lines)) }).map(|_| ())
    };
    for lines in [
        &[changed][..],
        &[changed, TAG],
        &[changed, ("vary", "accept")],
        &[TAG],
        &[TAG, ("cache-control", "no-cache")],
        &[TAG, ("cache-control", "max-age=60, no-cache")],
        &[TAG, ("cache-control", "max-age=0")],
        &[TAG, ("cache-control", "must-revalidate")],
        &[TAG, ("expires", "0")],
    ] {
        assert_eq!(of(lines, &cookie), Err(FillOutcome::Cookie), "{lines:?}");
        assert_eq!(of(lines, &HeaderMap::new()), Ok(()), "{lines:?}");
    }
    for lines in [
        &[changed, FRESH][..],
        &[changed, ("expires", &date(NOW + 60))],
        &[changed, ("cache-control", "public")],
        &[changed, ("vary", "Cookie")],
        &[TAG, ("cache-control", "public, no-cache")],
        &[TAG, ("cache-control", "no-cache"), ("vary", "Cookie")],
    ] {
        assert_eq!(of(lines, &cookie), Ok(()), "{lines:?}");
    }
    let undated = FollowRules { heuristic: false, ..rules() };
    let answer = fields(&[changed]);
    let exchange = OriginExchange { request: &cookie, ..exchange(&answer) };
    assert_eq!(check_storable(&undated, &exchange), Err(FillOutcome::Cookie));
}

#[test]
fn what_forbids_storing_has_a_name() {
    for (line, why) in [
        ("no-store, max-age=60", FillOutcome::NoStore),
        ("private, max-age=60", FillOutcome::Private),
        ("max-age=0", FillOutcome::NoFreshness),
        ("no-cache, max-age=60", FillOutcome::NoFreshness),
        ("public", FillOutcome::NoFreshness),
        ("max-age=60, private=\"a b\"", FillOutcome::Private),
    ] {
        assert_eq!(stored(&[("cache-control", line)]), Err(why), "{line}");
    }
    assert_eq!(stored(&[]), Err(FillOutcome::NoFreshness));
    assert_eq!(stored(&[FRESH, ("age", "60")]), Err(FillOutcome::NoFreshness), "stale as it comes");
    assert_eq!(stored(&[FRESH, ("vary", "a"), ("vary", "*")]), Err(FillOutcome::VaryAny));
    assert_eq!(stored(&[FRESH, ("set-cookie", "a=b")]), Err(FillOutcome::SetCookie));
    let keeps = FollowRules { set_cookie: true, ..rules() };
    assert!(check_storable(&keeps, &exchange(&fields(&[FRESH, ("set-cookie", "a=b")]))).is_ok());
    let without = ("cache-control", "max-age=60, private=\"Set-Cookie\"");
    assert!(
        stored(&[without, ("set-cookie", "a=b")]).is_ok(),
        "the cookie is not kept, and so forbids nothing"
    );
}

#[test]
fn what_can_be_validated_is_worth_storing() {
    let terms = stored(&[("cache-control", "no-cache, max-age=60"), TAG]).unwrap();
    assert_eq!(
        decide_reuse(&terms, &RequestDirectives::default(), NOW_MS),
        ReuseVerdict::Validate(RevalidateReason::NoCache)
    );
    for line in ["max-age=0", "foo"] {
        let terms = stored(&[("cache-control", line), TAG]).unwrap();
        assert_eq!(
            decide_reuse(&terms, &RequestDirectives::default(), NOW_MS),
            ReuseVerdict::Validate(RevalidateReason::Stale),
            "{line}"
        );
    }
    assert!(stored(&[("cache-control", "max-age=0, stale-while-revalidate=5")]).is_ok());
}

#[test]
fn must_understand_overrules_no_store_for_a_known_status() {
    let line = ("cache-control", "max-age=60, no-store, must-understand");
    assert!(status(200, &[line]).is_ok());
    assert_eq!(status(599, &[line]), Err(FillOutcome::MustUnderstand));
    let alone = ("cache-control", "max-age=60, must-understand");
    assert_eq!(status(299, &[alone]), Err(FillOutcome::MustUnderstand));
}

#[test]
fn an_authorized_answer_is_for_others_only_if_it_says_so() {
    let authorized = |lines: &[(&str, &str)]| {
        check_storable(&rules(), &OriginExchange { authorized: true, ..exchange(&fields(lines)) }).map(|_| ())
    };
    for line in ["max-age=60, public", "max-age=60, must-revalidate", "s-maxage=60"] {
        assert_eq!(authorized(&[("cache-control", line)]), Ok(()), "{line}");
    }
    for line in ["max-age=60", "max-age=60, proxy-revalidate", "max-age=60, public=1"] {
        assert_eq!(authorized(&[("cache-control", line)]), Err(FillOutcome::Authorization), "{line}");
    }
    // The targeted field governs alone.
    let both = [("cdn-cache-control", "max-age=60"), ("cache-control", "public")];
    assert_eq!(authorized(&both), Err(FillOutcome::Authorization));
}

#[test]
fn a_post_is_stored_only_as_what_a_get_will_find() {
    let answer = fields(&[FRESH]);
    let of = |method: Method, content_location_is_target, status| {
        let method = &method;
        let exchange = OriginExchange { method, content_location_is_target, status, ..exchange(&answer) };
        check_storable(&rules(), &exchange).map(|_| ())
    };
    assert_eq!(of(Method::POST, true, StatusCode::OK), Ok(()));
    assert_eq!(of(Method::POST, false, StatusCode::OK), Err(FillOutcome::Method));
    assert_eq!(of(Method::POST, true, StatusCode::CREATED), Err(FillOutcome::Method));
    for method in [Method::HEAD, Method::PUT, Method::OPTIONS] {
        assert_eq!(of(method.clone(), true, StatusCode::OK), Err(FillOutcome::Method), "{method}");
    }
    let answer = fields(&[TAG]);
    let guessed =
        OriginExchange { method: &Method::POST, content_location_is_target: true, ..exchange(&answer) };
    assert_eq!(check_storable(&rules(), &guessed), Err(FillOutcome::Method));
}

#[test]
fn a_client_is_heard_only_where_the_route_says_so() {
    let (answer, request) = (fields(&[FRESH]), fields(&[("cache-control", "no-store")]));
    let exchange = OriginExchange { request: &request, ..exchange(&answer) };
    assert!(check_storable(&rules(), &exchange).is_ok());
    let hears = FollowRules { request_directives: true, ..rules() };
    assert_eq!(check_storable(&hears, &exchange), Err(FillOutcome::NoStore));
}

/// Fresh for 60 s, then 10 s while it is refreshed.
const TERMS: FreshnessTerms = FreshnessTerms {
    received_ms: NOW_MS,
    initial_age_ms: 0,
    lifetime_ms: 60_000,
    stale_while_revalidate_ms: 10_000,
    stale_if_error_ms: 0,
    always_validate: false,
    never_stale: false,
    is_provisional: false,
};

fn after(seconds: u64, asked: RequestDirectives) -> ReuseVerdict {
    decide_reuse(&TERMS, &asked, NOW_MS + seconds * 1_000)
}

#[test]
fn who_asks_nothing_gets_what_the_origin_allows() {
    let nothing = RequestDirectives::default();
    assert_eq!(after(0, nothing), ReuseVerdict::Serve);
    assert_eq!(after(59, nothing), ReuseVerdict::Serve);
    assert_eq!(after(60, nothing), ReuseVerdict::ServeStale);
    assert_eq!(after(69, nothing), ReuseVerdict::ServeStale);
    assert_eq!(after(70, nothing), ReuseVerdict::Validate(RevalidateReason::Stale));
    let on_error = FreshnessTerms { stale_if_error_ms: 600_000, ..TERMS };
    assert_eq!(
        decide_reuse(&on_error, &nothing, NOW_MS + 80_000),
        ReuseVerdict::Validate(RevalidateReason::Stale)
    );
}

#[test]
fn a_client_may_ask_for_more_and_for_less() {
    let asks = |max_age, max_stale, min_fresh| RequestDirectives {
        max_age,
        max_stale,
        min_fresh,
        ..RequestDirectives::default()
    };
    for (seconds, asked, verdict) in [
        (
            0,
            RequestDirectives { no_cache: true, ..RequestDirectives::default() },
            ReuseVerdict::Validate(RevalidateReason::Request),
        ),
        (5, asks(Some(5), None, None), ReuseVerdict::Serve),
        (6, asks(Some(5), None, None), ReuseVerdict::Validate(RevalidateReason::MaxAge)),
        (61, asks(Some(100), None, None), ReuseVerdict::Validate(RevalidateReason::Stale)),
        (61, asks(Some(100), Some(5), None), ReuseVerdict::ServeStale),
        (40, asks(None, None, Some(20)), ReuseVerdict::Serve),
        (41, asks(None, None, Some(20)), ReuseVerdict::Validate(RevalidateReason::MinFresh)),
        (61, asks(None, None, Some(1)), ReuseVerdict::Validate(RevalidateReason::Stale)),
        (80, asks(None, Some(20), None), ReuseVerdict::Allowed),
        (81, asks(None, Some(20), None), ReuseVerdict::Validate(RevalidateReason::Stale)),
        (u32::MAX.into(), asks(None, Some(u64::MAX), None), ReuseVerdict::Allowed),
    ] {
        assert_eq!(after(seconds, asked), verdict, "{seconds} s, {asked:?}");
    }
    let strict = FreshnessTerms { never_stale: true, stale_while_revalidate_ms: 0, ..TERMS };
    let any = asks(None, Some(u64::MAX), None);
    assert_eq!(decide_reuse(&strict, &any, NOW_MS + 60_000), ReuseVerdict::Validate(RevalidateReason::Stale));
}

#[test]
fn the_routes_grace_makes_an_answer_without_a_validator_worth_storing() {
    let graced = FollowRules { stale_if_error: Duration::from_secs(60), ..rules() };
    assert!(check_storable(&graced, &exchange(&fields(&[("cache-control", "max-age=0")]))).is_ok());
    assert_eq!(check_storable(&graced, &exchange(&fields(&[]))), Err(FillOutcome::NoFreshness));
}
