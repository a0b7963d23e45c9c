use super::*;
use crate::cache::policy::test_kit::fields;

use proptest::prelude::*;

const PLAIN: StoredContent<'_> = StoredContent { coding: None, language: None, transformable: true };
const FIXED: StoredContent<'_> = StoredContent { coding: None, language: None, transformable: false };

fn selecting(vary: &str, request: &[(&str, &str)]) -> SelectingFields {
    match vary_rule(&fields(&[("vary", vary)]), &fields(request)) {
        VaryRule::By(selecting) => selecting,
        other => panic!("{other:?}"),
    }
}

/// Matches the answer to `first` with `second`.
fn is_for(
    vary: &str,
    first: &[(&str, &str)],
    second: &[(&str, &str)],
    answer: StoredContent<'_>,
) -> VariantMatch {
    let stored = selecting(vary, first);
    let found = stored.matches(&fields(second), answer);
    let digests = [first, second].map(|request| SelectingFields::digest(stored.names(), &fields(request)));
    if found == VariantMatch::Exact {
        assert_eq!(digests[0], digests[1]);
    } else if answer.transformable {
        assert_ne!(digests[0], digests[1]);
    }
    found
}

#[test]
fn a_star_anywhere_is_for_nobody() {
    let none = HeaderMap::new();
    for lines in
        [&["*"][..], &["*, *"], &["*", "*"], &[", *"], &["", "*"], &["*, Foo"], &["Foo, *"], &["a b"]]
    {
        let lines: Vec<_> = lines.iter().map(|line| ("vary", *line)).collect();
        assert_eq!(vary_rule(&fields(&lines), &none), VaryRule::Always, "{lines:?}");
    }
    assert_eq!(vary_rule(&none, &none), VaryRule::Never);
    assert_eq!(vary_rule(&fields(&[("vary", " , ")]), &none), VaryRule::Never);
    let names = selecting("Foo, bar,FOO", &[]);
    assert_eq!(names.names(), ["bar", "foo"]);
}

#[test]
fn a_field_matches_in_its_normal_form_only() {
    for (vary, first, second, expected) in [
        ("Foo", vec![("foo", "1")], vec![("foo", "1"), ("other", "2")], VariantMatch::Exact),
        ("Foo", vec![("foo", "1")], vec![("foo", "2")], VariantMatch::No),
        ("Foo", vec![], vec![("foo", "1")], VariantMatch::No),
        ("Foo", vec![("foo", "1")], vec![], VariantMatch::No),
        ("Foo", vec![], vec![], VariantMatch::Exact),
        ("Foo", vec![("foo", "")], vec![], VariantMatch::No),
        ("Foo", vec![("foo", "")], vec![("foo", " ")], VariantMatch::Exact),
        ("Foo", vec![("foo", "1, 2")], vec![("foo", "1"), ("foo", "2")], VariantMatch::Exact),
        ("Foo", vec![("foo", "1,2")], vec![("foo", " 1 ,  2 ")], VariantMatch::Exact),
        ("Foo", vec![("foo", "1,2")], vec![("foo", "2,1")], VariantMatch::No),
        ("Foo", vec![("foo", "A")], vec![("foo", "a")], VariantMatch::No),
        ("Foo", vec![("foo", "\"a, b\"")], vec![("foo", "\"a,b\"")], VariantMatch::No),
        ("Foo, Bar", vec![("foo", "1"), ("bar", "2")], vec![("bar", "2"), ("foo", "1")], VariantMatch::Exact),
        ("Foo, Bar", vec![("foo", "1"), ("bar", "2")], vec![("foo", "2"), ("bar", "1")], VariantMatch::No),
        ("Foo, Bar", vec![("foo", "1")], vec![("foo", "1")], VariantMatch::Exact),
        ("Foo, Bar", vec![("foo", "1")], vec![("bar", "1")], VariantMatch::No),
    ] {
        assert_eq!(is_for(vary, &first, &second, PLAIN), expected, "{vary}: {first:?} {second:?}");
    }
}

#[test]
fn of_accept_encoding_counts_what_the_gateway_can_make() {
    let is = |first, second, answer| {
        let of = |value| [("accept-encoding", value)];
        is_for("accept-encoding", &of(first), &of(second), answer)
    };
    for (first, second) in [
        ("gzip, br", "BR;q=0.5,deflate, gzip;q=1.0"),
        ("gzip, br, zstd", "*"),
        ("gzip", "gzip, br;q=0, zstd;q=0.000, *"),
        ("x-gzip", "gzip"),
        ("", "identity"),
        ("deflate", "gzip;q=0"),
    ] {
        assert_eq!(is(first, second, FIXED), VariantMatch::Exact, "{first} {second}");
    }
    assert_eq!((is("gzip", "br", PLAIN), is("gzip", "br", FIXED)), (VariantMatch::Fits, VariantMatch::No));
    let brotli = StoredContent { coding: Some(b"br"), ..FIXED };
    assert_eq!(is("br", "br, deflate", brotli), VariantMatch::Exact);
    let deflated = StoredContent { coding: Some(b"Deflate"), ..FIXED };
    assert_eq!(is("deflate", "gzip;q=0, deflate", deflated), VariantMatch::Exact);
    assert_eq!(
        is("deflate", "identity", deflated),
        VariantMatch::No,
        "another's coding goes to who names it"
    );
    assert_eq!(is_for("accept-encoding", &[], &[], deflated), VariantMatch::Exact);
    assert_eq!(is_for("accept-encoding", &[], &[("accept-encoding", "gzip")], PLAIN), VariantMatch::Fits);
}

#[test]
fn of_accept_language_counts_what_is_wanted_how_much() {
    let is = |first, second, language| {
        let of = |value| [("accept-language", value)];
        is_for("accept-language", &of(first), &of(second), StoredContent { language, ..PLAIN })
    };
    for (first, second) in [
        ("en, de", "de, en"),
        ("en, de", "eN, De"),
        ("en, de", " en ,   de"),
        ("en;q=0.5, de", "de;q=1.0,en; q=0.500"),
        ("en, en", "en"),
        ("some thing; x=1, b", "SOME thing; x=1,b"),
    ] {
        assert_eq!(is(first, second, None), VariantMatch::Exact, "{first} {second}");
    }
    assert_eq!(is("en, de", "de;q=0.5, en", None), VariantMatch::No);
    let german = Some(&b"de"[..]);
    assert_eq!(is("en, de", "fr;q=0.5, de;q=1.0", german), VariantMatch::Fits);
    assert_eq!(is("en, de", "DE", german), VariantMatch::Fits);
    for other in ["fr, de;q=0.9", "fr, de", "de;q=0", "*, de;q=0.5", "", "de;x"] {
        assert_eq!(is("en, de", other, german), VariantMatch::No, "{other}");
    }
    let both = |first: &[(&str, &str)], second: &[(&str, &str)]| {
        is_for("accept-encoding, accept-language", first, second, StoredContent { language: german, ..PLAIN })
    };
    let first = [("accept-encoding", "br"), ("accept-language", "en, de")];
    assert_eq!(both(&first, &[("accept-encoding", "gzip"), ("accept-language", "de")]), VariantMatch::Fits);
    assert_eq!(both(&first, &[("accept-encoding", "br"), ("accept-language", "fr")]), VariantMatch::No);
}

#[test]
fn what_the_gateway_may_recode_is_seen_in_the_fields() {
    let of = |lines: &[(&str, &str)]| {
        let fields: Vec<(HeaderName, HeaderValue)> =
            lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        StoredContent::of(&fields).transformable
    };
    for lines in [
        &[][..],
        &[("content-encoding", "GZIP")],
        &[("cache-control", "max-age=5"), ("content-encoding", "br")],
    ] {
        assert!(of(lines), "{lines:?}");
    }
    for lines in [
        &[("content-encoding", "deflate")][..],
        &[("content-encoding", "gzip, br")],
        &[("content-encoding", "gzip"), ("content-encoding", "br")],
        &[("cache-control", "max-age=5"), ("cache-control", "a, No-Transform")],
    ] {
        assert!(!of(lines), "{lines:?}");
    }
}

proptest! {
    #[test]
    fn nothing_that_is_sent_panics(value in "[ -~]{0,40}", name in "foo|accept-encoding|accept-language") {
        let request = fields(&[(name.as_str(), value.as_str())]);
        let stored = selecting(&name, &[(name.as_str(), value.as_str())]);
        prop_assert_eq!(stored.matches(&request, PLAIN), VariantMatch::Exact);
        prop_assert_eq!(SelectingFields::digest(stored.names(), &request).len(), 32);
    }

    #[test]
    fn weights_are_read_as_written(thousandths_written in 0..=1_000_u16) {
        let text = format!("a;q={}.{:03}", thousandths_written / 1_000, thousandths_written % 1_000);
        prop_assert_eq!(parse_weight(text.as_bytes()), Some((b"a".to_vec(), thousandths_written)));
    }
}
