use super::super::test_kit::{date, exchange, fields as map_of, rules, NOW, NOW_MS};
use super::*;
use http::Method;
use proptest::prelude::*;

fn stored(lines: &[(&str, &str)]) -> Vec<StoredField> {
    lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

fn lines(fields: &[StoredField]) -> Vec<(&str, &str)> {
    fields.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
}

fn kept(sent: &[(&str, &str)], rules: &FollowRules) -> Vec<String> {
    let answer = map_of(sent);
    let fields = stored_fields(&answer, &directives::response_directives(&answer), rules);
    fields.iter().map(|(name, _)| name.to_string()).collect()
}

#[test]
fn what_is_of_one_connection_is_not_stored() {
    let sent = [
        ("connection", "a, keep-alive"),
        ("Connection", "B"),
        ("a", "1"),
        ("b", "2"),
        ("c", "3"),
        ("keep-alive", "1"),
        ("proxy-authenticate", "1"),
        ("proxy-authentication-info", "1"),
        ("proxy-authorization", "1"),
        ("proxy-connection", "1"),
        ("te", "1"),
        ("trailer", "1"),
        ("transfer-encoding", "1"),
        ("upgrade", "1"),
        ("content-length", "5"),
        ("age", "5"),
        ("x-request-id", "1"),
        ("x-accel-expires", "1"),
        ("set-cookie", "a=b"),
        ("set-cookie2", "a=b"),
        ("content-range", "x"),
        ("date", "x"),
    ];
    assert_eq!(kept(&sent, &rules()), ["c", "set-cookie2", "content-range", "date"]);
    let keeps = FollowRules { set_cookie: true, ..rules() };
    assert_eq!(kept(&[("set-cookie", "a=b"), ("set-cookie", "c=d")], &keeps), ["set-cookie"; 2]);
    let qualified = [
        ("cache-control", "no-cache=\"a, C\", private=\"b\""),
        ("a", "1"),
        ("b", "2"),
        ("c", "3"),
        ("d", "4"),
    ];
    assert_eq!(kept(&qualified, &rules()), ["cache-control", "d"]);
}

#[test]
fn a_304_replaces_what_it_brings() {
    let before = stored(&[("a", "1"), ("b", "1"), ("a", "2"), ("content-encoding", "br"), ("etag", "\"x\"")]);
    let fresh = map_of(&[
        ("a", "3"),
        ("c", "1"),
        ("content-encoding", "gzip"),
        ("content-range", "x"),
        ("content-length", "0"),
        ("connection", "d"),
        ("d", "1"),
        ("age", "5"),
        ("set-cookie", "a=b"),
        ("content-type", "text/plain"),
    ]);
    let expected = [
        ("a", "3"),
        ("b", "1"),
        ("content-encoding", "br"),
        ("etag", "\"x\""),
        ("c", "1"),
        ("content-type", "text/plain"),
    ];
    assert_eq!(lines(&merge_fields(&before, &fresh, &rules())), expected);
}

#[test]
fn what_a_304_wants_left_out_goes() {
    let before = stored(&[("a", "1"), ("b", "1"), ("cache-control", "max-age=5")]);
    let fresh = map_of(&[("cache-control", "max-age=5, private=\"a\""), ("a", "2")]);
    assert_eq!(merge_fields(&before, &fresh, &rules())[..1], stored(&[("b", "1")])[..]);
    let still = stored(&[("cache-control", "no-cache=\"a\"")]);
    assert_eq!(merge_fields(&still, &map_of(&[("a", "2")]), &rules()), still);
}

#[test]
fn a_renewed_answer_is_as_old_as_its_304() {
    let (old, new) = (date(NOW - 1_000), date(NOW));
    let before = stored(&[("date", &old), ("cache-control", "max-age=60"), ("etag", "\"a\"")]);
    let renew = |sent: &[(&str, &str)]| {
        let answer = map_of(sent);
        let exchange =
            OriginExchange { method: &Method::HEAD, status: StatusCode::NOT_MODIFIED, ..exchange(&answer) };
        renew_terms(&rules(), &exchange, StatusCode::OK, &before)
    };
    let (fields, terms) = renew(&[("date", &new), ("age", "7"), ("cache-control", "max-age=90")]);
    assert_eq!(lines(&fields), [("date", new.as_str()), ("cache-control", "max-age=90"), ("etag", "\"a\"")]);
    let terms = terms.unwrap();
    assert_eq!((terms.initial_age_ms, terms.lifetime_ms, terms.received_ms), (7_000, 90_000, NOW_MS));
    let (fields, terms) = renew(&[]);
    assert_eq!(find_field(&fields, &header::DATE).unwrap(), new.as_str());
    assert_eq!(terms.unwrap().initial_age_ms, 0);
    assert_eq!(renew(&[("cache-control", "no-store")]).1, Err(FillOutcome::NoStore));
    assert_eq!(renew(&[("x-accel-expires", "0")]).1, Err(FillOutcome::NoStore));
    assert_eq!(renew(&[("x-accel-redirect", "/x")]).1, Err(FillOutcome::Accel));
}

#[test]
fn a_304_speaks_of_the_answer_whose_validator_it_names() {
    let both = stored(&[("etag", "\"a\""), ("last-modified", "yesterday")]);
    let weak = stored(&[("etag", "W/\"a\"")]);
    for (fresh, of_both, of_weak) in [
        (&[][..], true, true),
        (&[("etag", "\"a\"")], true, false),
        (&[("etag", "W/\"a\"")], true, true),
        (&[("etag", "\"b\"")], false, false),
        (&[("etag", "\"b\""), ("last-modified", "yesterday")], false, false),
        (&[("last-modified", "yesterday")], true, false),
        (&[("last-modified", "today")], false, false),
    ] {
        let fresh = map_of(fresh);
        assert_eq!((validates(&both, &fresh), validates(&weak, &fresh)), (of_both, of_weak), "{fresh:?}");
    }
}

#[test]
fn a_head_updates_what_it_agrees_with() {
    let before = stored(&[("etag", "\"a\""), ("last-modified", "yesterday")]);
    let of = |stored_status: StatusCode, authorized: bool, status: u16, sent: &[(&str, &str)]| {
        let (answer, status) = (map_of(sent), StatusCode::from_u16(status).unwrap());
        let exchange = OriginExchange { method: &Method::HEAD, status, authorized, ..exchange(&answer) };
        head_effect(&rules(), &exchange, stored_status, &before, 5)
    };
    let effect = |status, sent: &[(&str, &str)]| of(StatusCode::OK, false, status, sent);
    for agreeing in
        [&[][..], &[("etag", "\"a\""), ("content-length", "5")], &[("last-modified", "yesterday")]]
    {
        assert_eq!(effect(200, agreeing), HeadEffect::Update, "{agreeing:?}");
    }
    for other in
        [("etag", "\"b\""), ("last-modified", "today"), ("content-length", "6"), ("content-length", "x")]
    {
        assert_eq!(effect(200, &[other]), HeadEffect::Invalidate, "{other:?}");
    }
    for ended in [204, 301, 302, 308, 401, 403, 404, 409, 410, 418, 451] {
        assert_eq!(effect(ended, &[]), HeadEffect::Invalidate, "{ended}");
        assert_eq!(effect(ended, &[("cache-control", "max-age=9")]), HeadEffect::Invalidate, "{ended}");
    }
    for kept in [206, 304, 400, 405, 412, 429, 500, 503] {
        assert_eq!(effect(kept, &[]), HeadEffect::Nothing, "{kept}");
    }
    assert_eq!(effect(206, &[("etag", "\"b\"")]), HeadEffect::Invalidate);
    assert_eq!(of(StatusCode::GONE, false, 200, &[]), HeadEffect::Invalidate);
    // With credentials.
    let other = ("etag", "\"b\"");
    for (status, sent, effect) in [
        (200, &[other][..], HeadEffect::Nothing),
        (206, &[other], HeadEffect::Nothing),
        (403, &[], HeadEffect::Nothing),
        (404, &[], HeadEffect::Invalidate),
        (200, &[other, ("cache-control", "public, max-age=9")], HeadEffect::Invalidate),
    ] {
        assert_eq!(of(StatusCode::OK, true, status, sent), effect, "{status} {sent:?}");
    }
}

#[test]
fn a_part_is_of_another_representation_by_its_tag_in_the_same_form() {
    let tagged = stored(&[("etag", "\"a\""), ("last-modified", "yesterday")]);
    let dated = stored(&[("last-modified", "yesterday")]);
    for (part, of_tagged, of_dated) in [
        (&[("etag", "\"b\"")][..], true, false),
        (&[("etag", "W/\"b\"")], true, false),
        (&[("etag", "\"a\"")], false, false),
        (&[("etag", "W/\"a\"")], false, false),
        (&[("etag", "\"a\""), ("last-modified", "today")], false, true),
        (&[("last-modified", "today")], true, true),
        (&[("etag", "\"b\""), ("content-encoding", "gzip")], false, false),
        (&[("etag", "\"b\""), ("content-language", "de")], false, false),
        (&[], false, false),
    ] {
        let part = map_of(part);
        let found = (is_part_of_another(&tagged, &part), is_part_of_another(&dated, &part));
        assert_eq!(found, (of_tagged, of_dated), "{part:?}");
    }
}

#[test]
fn a_validation_asks_with_what_is_there() {
    let asks = |lines_stored: &[(&str, &str)]| condition_fields(&stored(lines_stored));
    let both = asks(&[("last-modified", "yesterday"), ("a", "1"), ("etag", "W/\"a\"")]);
    assert_eq!(lines(&both), [("if-none-match", "W/\"a\""), ("if-modified-since", "yesterday")]);
    assert_eq!(lines(&asks(&[("etag", "a")])), [("if-none-match", "a")]);
    assert!(asks(&[("etag", ""), ("a", "1")]).is_empty());
}

proptest! {
    /// Whatever a 304 says: a field is as it was, as the 304 has it, or gone, and the body's description
    /// stays.
    #[test]
    fn a_merge_makes_nothing_up(
        before in proptest::collection::vec((0..6_usize, 0..3_u8), 0..8),
        after in proptest::collection::vec((0..6_usize, 3..6_u8), 0..8),
    ) {
        let names = ["a", "b", "content-encoding", "content-length", "connection", "etag"];
        let text: Vec<String> = (0..6).map(|n: u8| n.to_string()).collect();
        let of = |pairs: &[(usize, u8)]| -> Vec<(&str, &str)> {
            pairs.iter().map(|(name, value)| (names[*name], text[usize::from(*value)].as_str())).collect()
        };
        let (old, new) = (stored(&of(&before)), map_of(&of(&after)));
        let merged = merge_fields(&old, &new, &rules());
        for name in names {
            let values = |fields: &[StoredField]| -> Vec<HeaderValue> {
                fields.iter().filter(|(n, _)| *n == name).map(|(_, v)| v.clone()).collect()
            };
            let brought: Vec<HeaderValue> = new.get_all(name).iter().cloned().collect();
            let replaced = matches!(name, "a" | "b" | "etag") && !brought.is_empty();
            prop_assert_eq!(values(&merged), if replaced { brought } else { values(&old) }, "{}", name);
        }
    }
}
