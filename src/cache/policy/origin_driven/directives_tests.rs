use super::*;
use crate::{cache::policy::test_kit::fields, http::delta_seconds::MAX_DELTA_SECONDS};

use proptest::prelude::*;

fn said(lines: &[&str]) -> ResponseDirectives {
    response_directives(&fields(&lines.iter().map(|line| ("cache-control", *line)).collect::<Vec<_>>()))
}

fn targeted(line: &str) -> ResponseDirectives {
    response_directives(&fields(&[("cdn-cache-control", line), ("cache-control", "no-store, max-age=7")]))
}

fn wants(line: &str) -> RequestDirectives {
    request_directives(&fields(&[("cache-control", line), ("pragma", "no-cache")]))
}

#[test]
fn names_have_no_case_and_unknown_ones_no_meaning() {
    let read = said(&["MaX-aGe=3600, foobar, No-StOrE, community=\"UCI\", immutable"]);
    let expected = ResponseDirectives {
        max_age: Some(3_600),
        no_store: true,
        immutable: true,
        ..ResponseDirectives::default()
    };
    assert_eq!(read, expected);
    assert_eq!(said(&["", ",,", "=", " , =5"]), ResponseDirectives::default());
}

#[test]
fn a_lifetime_that_is_no_number_is_over() {
    for (text, seconds) in [
        ("max-age=3600", 3_600),
        ("max-age=003600", 3_600),
        ("max-age=\"3600\"", 3_600),
        ("max-age=2147483647", 2_147_483_647),
        ("max-age=2147483649", MAX_DELTA_SECONDS),
        ("max-age=99999999999999999999999", MAX_DELTA_SECONDS),
        ("max-age=0", 0),
        ("max-age=-3600", 0),
        ("max-age='3600'", 0),
        ("max-age=3600.0", 0),
        ("max-age=a3600", 0),
        ("max-age=3600a", 0),
        ("max-age =3600", 0),
        ("max-age= 3600", 0),
        ("max-age=3600 4", 0),
        ("max-age=\"3600", 0),
        ("max-age=\"3600\"x", 0),
        ("max-age=", 0),
        ("max-age", 0),
        ("max-age=1800, max-age=1", 1),
        ("max-age=1, max-age=1800", 1),
        ("max-age=5, max-age=x", 0),
    ] {
        assert_eq!(said(&[text]).max_age, Some(seconds), "{text}");
    }
    assert_eq!(said(&["max-age=5", "s-maxage=7"]).s_maxage, Some(7));
    assert_eq!(said(&["stale-while-revalidate=5, stale-if-error"]).stale_if_error, Some(0));
}

#[test]
fn what_stands_in_quotes_is_no_directive() {
    assert_eq!(said(&["extension=\"max-age=3600, no-store\", max-age=1"]).max_age, Some(1));
    assert!(!said(&["max-age=1, extension=\"a, no-store\""]).no_store);
    assert!(!said(&[r#"extension="a\", no-store, \\""#]).no_store);
    assert!(said(&["extension=\"a, no-store"]).no_store, "a quote that never ends hides nothing");
    assert!(!said(&["extension=\"a", "no-store\""]).no_store, "lines are one field");
}

#[test]
fn the_qualified_forms_name_fields() {
    let read = said(&["no-cache=\"Set-Cookie, a\", private=b, max-age=5"]);
    assert!(!read.no_cache && !read.private);
    assert_eq!(read.omit, ["set-cookie", "a", "b"]);
    for line in ["private", "private=", "private=\"\"", "private=\" , \"", "private=\"a b\"", "private x"] {
        assert!(said(&[line]).private, "{line}");
    }
    assert!(said(&["no-cache=\"a\", no-cache"]).no_cache);
    assert!(said(&["public"]).public && !said(&["public=1"]).public);
}

#[test]
fn a_valid_target_stands_for_everything() {
    let read = targeted("max-age=3600, foobar;x, must-understand, no-cache=\"a\"");
    let expected = ResponseDirectives {
        max_age: Some(3_600),
        must_understand: true,
        omit: vec![HeaderName::from_static("a")],
        targeted: true,
        ..ResponseDirectives::default()
    };
    assert_eq!(read, expected);
    assert!(targeted("foo").targeted);
    assert_eq!(targeted("max-age=99999999999").max_age, Some(MAX_DELTA_SECONDS));
    assert_eq!(targeted("max-age=-5").max_age, Some(0));
    assert!(targeted("private").private && targeted("no-store, no-cache").no_cache);
    assert!(!targeted("no-store=?0").no_store);
    assert_eq!(targeted("max-age=5, max-age=9").max_age, Some(9), "RFC 8941: the last one counts");
}

#[test]
fn a_malformed_target_is_not_there() {
    for line in [
        "",
        "max-age=10000, &&&&&",
        "max-age=\"10000\"",
        "max-age=5.0",
        "max-age",
        "max-age=(5)",
        "no-store=1",
        "no-cache=(\"a\")",
        "MaX-aGe=3600",
        "max-age =100",
        "max-age= 100",
        "max-age=100,",
        "max-age=9999999999999999",
    ] {
        let read = targeted(line);
        assert!(!read.targeted && read.no_store && read.max_age == Some(7), "{line}");
    }
    let lines = fields(&[("cdn-cache-control", "max-age=5"), ("cdn-cache-control", "private")]);
    assert!(response_directives(&lines).private && response_directives(&lines).max_age == Some(5));
}

#[test]
fn what_a_client_asks() {
    assert_eq!(wants("foo"), RequestDirectives::default());
    assert!(
        wants("No-Cache").no_cache && wants("no-store").no_store && wants("only-if-cached").only_if_cached
    );
    assert_eq!(wants("max-age=5, max-age=3").max_age, Some(3));
    assert_eq!(wants("max-age=x").max_age, Some(0));
    assert_eq!(wants("max-stale").max_stale, Some(u64::MAX));
    assert_eq!(wants("max-stale=60").max_stale, Some(60));
    assert_eq!(wants("max-stale=x").max_stale, Some(0));
    assert_eq!(wants("min-fresh=60, min-fresh=5").min_fresh, Some(60));
    assert!(request_directives(&fields(&[("pragma", "foo, No-Cache")])).no_cache);
    assert!(!request_directives(&fields(&[("pragma", "unrecognised")])).no_cache);
    assert_eq!(request_directives(&HeaderMap::new()), RequestDirectives::default());
}

proptest! {
    #[test]
    fn a_directive_more_never_allows_more(
        line in "[a-z=,\" -]{0,30}",
        more in prop::sample::select(vec!["no-store", "private", "no-cache", "must-revalidate", "max-age=0"]),
    ) {
        // Only before: behind an open quote it may be text.
        let (before, after) = (said(&[&line]), said(&[more, &line]));
        prop_assert!(after.no_store >= before.no_store && after.private >= before.private);
        prop_assert!(after.no_cache >= before.no_cache && after.public == before.public);
        let heard = match more {
            "no-store" => after.no_store,
            "private" => after.private,
            "no-cache" => after.no_cache,
            "max-age=0" => after.max_age == Some(0),
            _ => after.must_revalidate,
        };
        prop_assert!(heard);
    }

    #[test]
    fn members_lose_nothing_but_commas_and_space(text in "[a-z\",\\\\ ]{0,30}") {
        let kept: Vec<u8> = list_members(text.as_bytes()).collect::<Vec<_>>().concat();
        let strip = |bytes: &[u8]| {
            bytes.iter().copied().filter(|b| !b", ".contains(b)).collect::<Vec<u8>>()
        };
        prop_assert_eq!(strip(&kept), strip(text.as_bytes()));
    }
}
