use super::*;
use crate::cache::policy::{
    terms::Freshness,
    test_kit::{at, date, exchange, fields, rules, NOW, NOW_MS},
};

use std::time::Duration;

const DAY: u64 = 86_400;

fn of(lines: &[(&str, &str)]) -> (FreshnessLifetime, FreshnessTerms) {
    with(&rules(), StatusCode::OK, lines)
}

fn with(
    rules: &FollowRules,
    status: StatusCode,
    lines: &[(&str, &str)],
) -> (FreshnessLifetime, FreshnessTerms) {
    let answer = fields(lines);
    let exchange = OriginExchange { status, ..exchange(&answer) };
    let said = directives::response_directives(&answer);
    let lifetime = freshness_lifetime(rules, &exchange, &said);
    (lifetime, freshness_terms(rules, &exchange, &said, lifetime))
}

#[test]
fn the_strongest_word_counts() {
    let (past, future) = (date(NOW - 10), date(NOW + 100));
    for (lines, seconds) in [
        (vec![("cache-control", "max-age=1, s-maxage=3600")], 3_600),
        (vec![("cache-control", "s-maxage=1"), ("cache-control", "max-age=3600")], 1),
        (vec![("cache-control", "max-age=0, s-maxage=3600"), ("expires", &past)], 3_600),
        (vec![("cache-control", "max-age=3600"), ("expires", "0")], 3_600),
        (vec![("cache-control", "max-age=0"), ("expires", &future)], 0),
        (vec![("cache-control", "max-age=x"), ("expires", &future)], 0),
        (vec![("expires", &future)], 100),
        (vec![("cache-control", "no-cache"), ("expires", &future)], 100),
        (vec![("cdn-cache-control", "max-age=1"), ("cache-control", "max-age=3600")], 1),
    ] {
        assert_eq!(of(&lines).0, FreshnessLifetime::Explicit(seconds * 1_000), "{lines:?}");
    }
    let targeted = [("cdn-cache-control", "foo"), ("cache-control", "max-age=5"), ("expires", &*future)];
    assert_eq!(of(&targeted).0, FreshnessLifetime::Unsaid);
}

#[test]
fn expires_counts_from_the_date() {
    let at = |seconds: u64| date(NOW + seconds);
    for (expires, made, seconds) in [
        (at(300), Some(at(400)), 0),
        (at(300), Some(at(100)), 200),
        (at(10), Some("foo".to_owned()), 10),
        (at(10), None, 10),
        (at(0), Some(at(0)), 0),
        ("0".to_owned(), Some(at(0)), 0),
        ("Thu, 18 Aug 2050 02:01:18 UTC".to_owned(), Some(at(0)), 0),
    ] {
        let mut lines = vec![("expires", expires.as_str())];
        lines.extend(made.as_deref().map(|made| ("date", made)));
        assert_eq!(of(&lines).0, FreshnessLifetime::Explicit(seconds * 1_000), "{lines:?}");
    }
    let (one, other) = (at(300), at(301));
    assert_eq!(of(&[("expires", &one), ("expires", &other)]).0, FreshnessLifetime::Explicit(0));
    assert_eq!(of(&[("expires", &one), ("expires", &one)]).0, FreshnessLifetime::Explicit(300_000));
}

#[test]
fn a_lifetime_is_guessed_only_where_that_is_allowed() {
    let guess = |lines: &[(&str, &str)], status: u16| {
        let changed = date(NOW - 1_000);
        let lines = [&[("last-modified", changed.as_str())], lines].concat();
        with(&rules(), StatusCode::from_u16(status).unwrap(), &lines).0
    };
    for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
        assert_eq!(guess(&[], status), FreshnessLifetime::Heuristic(100_000), "{status}");
    }
    for status in [201, 202, 302, 307, 403, 500, 502, 503, 504, 599] {
        assert_eq!(guess(&[], status), FreshnessLifetime::Unsaid, "{status}");
        assert_eq!(
            guess(&[("cache-control", "public")], status),
            FreshnessLifetime::Heuristic(100_000),
            "{status}"
        );
    }
    assert_eq!(guess(&[("pragma", "no-cache")], 200), FreshnessLifetime::Unsaid);
    assert_eq!(
        guess(&[("pragma", "no-cache"), ("cdn-cache-control", "foo")], 200),
        FreshnessLifetime::Heuristic(100_000)
    );
    let early = date(NOW - 500);
    assert_eq!(guess(&[("date", &early)], 200), FreshnessLifetime::Heuristic(50_000));
    let never = FollowRules { heuristic: false, ..rules() };
    let changed = date(NOW - 1_000);
    assert_eq!(with(&never, StatusCode::OK, &[("last-modified", &changed)]).0, FreshnessLifetime::Unsaid);
    let (long, later) = (date(NOW - 100 * DAY), date(NOW + 5));
    assert_eq!(of(&[("last-modified", &long)]).0, FreshnessLifetime::Heuristic(DAY * 1_000));
    assert_eq!(of(&[("last-modified", &later)]).0, FreshnessLifetime::Heuristic(0));
    assert_eq!(of(&[("last-modified", "yesterday")]).0, FreshnessLifetime::Unsaid);
    assert_eq!(of(&[]).0, FreshnessLifetime::Unsaid);
}

#[test]
fn age_is_what_the_origin_said() {
    for (age, seconds) in [
        ("7200", 7_200),
        ("2147483649", 1 << 31),
        ("99999999999999999999", 1 << 31),
        ("7200, 0", 7_200),
        ("0, 7200", 0),
        (" 5 ,x", 5),
        ("abc", 0),
        ("-7200", 0),
        ("7200.0", 0),
        ("7200;foo=bar", 0),
        ("", 0),
    ] {
        assert_eq!(of(&[("age", age)]).1.initial_age_ms, seconds * 1_000, "{age}");
    }
    assert_eq!(of(&[("age", "7200"), ("age", "0")]).1.initial_age_ms, 7_200_000);
}

#[test]
fn the_greater_age_counts() {
    let answer = fields(&[("age", "5"), ("date", &date(NOW - 20))]);
    let age = |requested_ms, received_ms| {
        initial_age_ms(&OriginExchange { requested_ms, received: at(received_ms), ..exchange(&answer) })
    };
    assert_eq!(age(NOW_MS, NOW_MS), 20_000 - 999);
    assert_eq!(age(NOW_MS, NOW_MS + 999), 20_000);
    assert_eq!(age(NOW_MS - 30_000, NOW_MS), 35_000, "the delay counts to what the origin said");
    assert_eq!(age(NOW_MS + 5_000, NOW_MS), 20_000 - 999, "a clock that steps back adds nothing");
    let answer = fields(&[("date", &date(NOW + 60))]);
    assert_eq!(initial_age_ms(&exchange(&answer)), 0);
}

#[test]
fn the_origin_decides_about_stale_answers_and_the_route_where_it_is_silent() {
    let rules = FollowRules {
        stale_while_revalidate: Duration::from_secs(30),
        stale_if_error: Duration::from_secs(60),
        ..rules()
    };
    for (line, while_revalidate, if_error) in [
        ("max-age=5", 30, 60),
        ("max-age=5, stale-while-revalidate=7", 7, 60),
        ("max-age=5, stale-while-revalidate=0, stale-if-error=9", 0, 9),
        ("s-maxage=5", 0, 0),
        ("s-maxage=5, stale-while-revalidate=7", 7, 0),
        ("max-age=5, must-revalidate, stale-while-revalidate=7", 0, 0),
        ("max-age=5, proxy-revalidate, stale-if-error=7", 0, 0),
        ("max-age=5, no-cache, stale-if-error=7", 0, 0),
        ("public", 0, 60),
    ] {
        let terms = with(&rules, StatusCode::OK, &[("cache-control", line)]).1;
        let found = (terms.stale_while_revalidate_ms, terms.stale_if_error_ms);
        assert_eq!(found, (while_revalidate * 1_000, if_error * 1_000), "{line}");
        let never = ["must-", "proxy-", "s-max", "no-cache"].iter().any(|word| line.contains(word));
        assert_eq!(terms.never_stale, never, "{line}");
    }
}

const TERMS: FreshnessTerms = FreshnessTerms {
    received_ms: NOW_MS,
    initial_age_ms: 5_000,
    lifetime_ms: 20_000,
    stale_while_revalidate_ms: 10_000,
    stale_if_error_ms: 600_000,
    always_validate: false,
    never_stale: false,
    is_provisional: false,
};

#[test]
fn an_entry_ages_from_fresh_to_expired() {
    for (after, freshness, ttl) in [
        (0, Freshness::Fresh, 15_000),
        (14_999, Freshness::Fresh, 1),
        (15_000, Freshness::StaleWhileRevalidate, 0),
        (24_999, Freshness::StaleWhileRevalidate, -9_999),
        (25_000, Freshness::StaleIfError, -10_000),
        (614_999, Freshness::StaleIfError, -599_999),
        (615_000, Freshness::Expired, -600_000),
    ] {
        assert_eq!(TERMS.freshness(NOW_MS + after), freshness, "{after}");
        assert_eq!(TERMS.ttl_ms(NOW_MS + after), ttl);
    }
    assert_eq!(
        TERMS.age_ms(NOW_MS - 7_000),
        5_000,
        "a clock that steps back makes nothing younger than it came"
    );
    assert_eq!(TERMS.freshness(u64::MAX), Freshness::Expired);
    assert!(TERMS.ttl_ms(u64::MAX) < 0);
    assert_eq!(TERMS.on_error(NOW_MS), Freshness::StaleIfError);
    let validated = FreshnessTerms { always_validate: true, ..TERMS };
    let verdicts = (validated.freshness(NOW_MS), validated.on_error(NOW_MS));
    assert_eq!(verdicts, (Freshness::Expired, Freshness::Expired));
}

#[test]
fn a_store_keeps_what_may_still_be_of_use() {
    assert_eq!(TERMS.keep_ms(false), 615_000);
    let short = FreshnessTerms { stale_if_error_ms: 0, ..TERMS };
    assert_eq!((short.keep_ms(false), short.keep_ms(true)), (25_000, 615_000));
    let day = FreshnessTerms { lifetime_ms: DAY * 1_000, initial_age_ms: 0, ..short };
    assert_eq!(day.keep_ms(true), 2 * DAY * 1_000);
    let over = FreshnessTerms { initial_age_ms: 1 << 40, ..short };
    assert_eq!((over.keep_ms(false), over.keep_ms(true)), (1, 600_000));
}
