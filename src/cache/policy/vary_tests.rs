use super::super::test_kit::fields;
use super::*;
use proptest::prelude::*;

const PLAIN: Content<'_> = Content { coding: None, language: None, transformable: true };
const FIXED: Content<'_> = Content { coding: None, language: None, transformable: false };

fn selecting(vary: &str, request: &[(&str, &str)]) -> Selecting {
    match varies(&fields(&[("vary", vary)]), &fields(request)) {
        Varies::By(selecting) => selecting,
        other => panic!("{other:?}"),
    }
}

/// Matches the answer to `first` with `second`.
fn is_for(vary: &str, first: &[(&str, &str)], second: &[(&str, &str)], answer: Content<'_>) -> Match {
    let stored = selecting(vary, first);
    let found = stored.matches(&fields(second), answer);
    let digests = [first, second].map(|request| Selecting::digest(stored.names(), &fields(request)));
    if found == Match::Exact {
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
        assert_eq!(varies(&fields(&lines), &none), Varies::Always, "{lines:?}");
    }
    assert_eq!(varies(&none, &none), Varies::Never);
    assert_eq!(varies(&fields(&[("vary", " , ")]), &none), Varies::Never);
    let names = selecting("Foo, bar,FOO", &[]);
    assert_eq!(names.names(), ["bar", "foo"]);
}

#[test]
fn a_field_matches_in_its_normal_form_only() {
    for (vary, first, second, expected) in [
        ("Foo", vec![("foo", "1")], vec![("foo", "1"), ("other", "2")], Match::Exact),
        ("Foo", vec![("foo", "1")], vec![("foo", "2")], Match::No),
        ("Foo", vec![], vec![("foo", "1")], Match::No),
        ("Foo", vec![("foo", "1")], vec![], Match::No),
        ("Foo", vec![], vec![], Match::Exact),
        ("Foo", vec![("foo", "")], vec![], Match::No),
        ("Foo", vec![("foo", "")], vec![("foo", " ")], Match::Exact),
        ("Foo", vec![("foo", "1, 2")], vec![("foo", "1"), ("foo", "2")], Match::Exact),
        ("Foo", vec![("foo", "1,2")], vec![("foo", " 1 ,  2 ")], Match::Exact),
        ("Foo", vec![("foo", "1,2")], vec![("foo", "2,1")], Match::No),
        ("Foo", vec![("foo", "A")], vec![("foo", "a")], Match::No),
        ("Foo", vec![("foo", "\"a, b\"")], vec![("foo", "\"a,b\"")], Match::No),
        ("Foo, Bar", vec![("foo", "1"), ("bar", "2")], vec![("bar", "2"), ("foo", "1")], Match::Exact),
        ("Foo, Bar", vec![("foo", "1"), ("bar", "2")], vec![("foo", "2"), ("bar", "1")], Match::No),
        ("Foo, Bar", vec![("foo", "1")], vec![("foo", "1")], Match::Exact),
        ("Foo, Bar", vec![("foo", "1")], vec![("bar", "1")], Match::No),
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
        assert_eq!(is(first, second, FIXED), Match::Exact, "{first} {second}");
    }
    assert_eq!((is("gzip", "br", PLAIN), is("gzip", "br", FIXED)), (Match::Fits, Match::No));
    let brotli = Content { coding: Some(b"br"), ..FIXED };
    assert_eq!(is("br", "br, deflate", brotli), Match::Exact);
    let deflated = Content { coding: Some(b"Deflate"), ..FIXED };
    assert_eq!(is("deflate", "gzip;q=0, deflate", deflated), Match::Exact);
    assert_eq!(is("deflate", "identity", deflated), Match::No, "another's coding goes to who names it");
    assert_eq!(is_for("accept-encoding", &[], &[], deflated), Match::Exact);
    assert_eq!(is_for("accept-encoding", &[], &[("accept-encoding", "gzip")], PLAIN), Match::Fits);
}

#[test]
fn of_accept_language_counts_what_is_wanted_how_much() {
    let is = |first, second, language| {
        let of = |value| [("accept-language", value)];
        is_for("accept-language", &of(first), &of(second), Content { language, ..PLAIN })
    };
    for (first, second) in [
        ("en, de", "de, en"),
        ("en, de", "eN, De"),
        ("en, de", " en ,   de"),
        ("en;q=0.5, de", "de;q=1.0,en; q=0.500"),
        ("en, en", "en"),
        ("some thing; x=1, b", "SOME thing; x=1,b"),
    ] {
        assert_eq!(is(first, second, None), Match::Exact, "{first} {second}");
    }
    assert_eq!(is("en, de", "de;q=0.5, en", None), Match::No);
    let german = Some(&b"de"[..]);
    assert_eq!(is("en, de", "fr;q=0.5, de;q=1.0", german), Match::Fits);
    assert_eq!(is("en, de", "DE", german), Match::Fits);
    for other in ["fr, de;q=0.9", "fr, de", "de;q=0", "*, de;q=0.5", "", "de;x"] {
        assert_eq!(is("en, de", other, german), Match::No, "{other}");
    }
    let both = |first: &[(&str, &str)], second: &[(&str, &str)]| {
        is_for("accept-encoding, accept-language", first, second, Content { language: german, ..PLAIN })
    };
    let first = [("accept-encoding", "br"), ("accept-language", "en, de")];
    assert_eq!(both(&first, &[("accept-encoding", "gzip"), ("accept-language", "de")]), Match::Fits);
    assert_eq!(both(&first, &[("accept-encoding", "br"), ("accept-language", "fr")]), Match::No);
}

#[test]
fn what_the_gateway_may_recode_is_seen_in_the_fields() {
    let of = |lines: &[(&str, &str)]| {
        let fields: Vec<(HeaderName, HeaderValue)> =
            lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        Content::of(&fields).transformable
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
        prop_assert_eq!(stored.matches(&request, PLAIN), Match::Exact);
        prop_assert_eq!(Selecting::digest(stored.names(), &request).len(), 32);
    }

    #[test]
    fn weights_are_read_as_written(thousandths_written in 0..=1_000_u16) {
        let text = format!("a;q={}.{:03}", thousandths_written / 1_000, thousandths_written % 1_000);
        prop_assert_eq!(weighed(text.as_bytes()), Some((b"a".to_vec(), thousandths_written)));
    }
}
