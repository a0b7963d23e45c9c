//! Tests of what is ordered and how it is written.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a failure is a panic")]

use super::*;
use http::HeaderValue;
use proptest::prelude::*;

fn url(host: &str, target: &str) -> Result<PurgeTarget, PurgeRefusal> {
    Ok(PurgeTarget::Url { host: host.into(), target: target.into() })
}

#[test]
fn a_url_is_a_host_and_a_target() {
    for (text, host, target) in [
        ("http://a.example/x?y=1", "a.example", "/x?y=1"),
        ("HTTPS://A.Example:443/X", "a.example", "/X"),
        ("http://a.example", "a.example", "/"),
        ("http://a.example?y", "a.example", "/?y"),
        ("http://a.example/x#part/y", "a.example", "/x"),
        ("http://a.example./x://y", "a.example", "/x://y"),
        ("http://a.example//f//x", "a.example", "/f//x"),
        ("http://a.example///", "a.example", "/"),
        ("http://a.example/%7Eann/%c3", "a.example", "/~ann/%C3"),
        ("http://[::1]:8080/%c3%A4", "[::1]:8080", "/%C3%A4"),
    ] {
        assert_eq!(PurgeTarget::url(text), url(host, target), "{text}");
    }
    for (text, why) in [
        ("", PurgeRefusal::Relative),
        ("/x", PurgeRefusal::Relative),
        ("//a.example/x", PurgeRefusal::Relative),
        ("ws://a.example/x", PurgeRefusal::Relative),
        ("http:///x", PurgeRefusal::Host),
        ("http://:80/x", PurgeRefusal::Host),
        ("http://ann:word@a.example/x", PurgeRefusal::Host),
        ("http://a.example/x y", PurgeRefusal::Characters),
        ("http://a.example/ä", PurgeRefusal::Characters),
        ("http://a.example/x\n", PurgeRefusal::Characters),
    ] {
        assert_eq!(PurgeTarget::url(text), Err(why), "{text}");
    }
}

#[test]
fn a_tag_is_what_an_answer_can_have() {
    for text in ["a", "Produkte für alle", "a,b", &"x".repeat(LONGEST_TAG)] {
        assert_eq!(PurgeTarget::tag(text), Ok(PurgeTarget::Tag(text.into())));
    }
    for text in ["", " ", "a ", "\ta", "a\nb", &"x".repeat(LONGEST_TAG + 1)] {
        assert_eq!(PurgeTarget::tag(text), Err(PurgeRefusal::Tag), "{text:?}");
    }
}

fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
    let value = |v: &[u8]| HeaderValue::from_bytes(v).unwrap();
    lines.iter().map(|(name, v)| (http::HeaderName::from_static(name), value(v))).collect()
}

#[test]
fn tags_are_read_from_both_fields() {
    let lines: [(&str, &[u8]); 5] = [
        ("cache-tag", b"a, b c ,,a"),
        ("surrogate-key", b"d  a e,f"),
        ("cache-tag", "g,é".as_bytes()),
        ("cache-tag", b"h\xff"),
        ("cache-control", b"no"),
    ];
    let headers = headers(&lines);
    let tags = tags_of(&headers);
    assert_eq!(tags.kept, ["a", "b c", "d", "e,f", "g", "h\u{ff}", "\u{e9}"]);
    assert_eq!(tags.ignored, 0);
    assert_eq!(tags_of(&HeaderMap::new()), AnswerTags::default());
}

#[test]
fn what_a_purge_can_not_be_told_of_is_counted() {
    let ignored = |line: &str| tags_of(&headers(&[("surrogate-key", line.as_bytes())])).ignored;
    let many = |count: usize| (0..count).map(|n| format!("t{n}")).collect::<Vec<_>>().join(" ");
    assert_eq!((ignored(&many(MOST_TAGS)), ignored(&many(MOST_TAGS + 3))), (0, 3));
    assert_eq!((ignored(&"x".repeat(LONGEST_TAG)), ignored(&"x".repeat(LONGEST_TAG + 1))), (0, 1));
    let wide = |count: usize| (0..count).map(|n| format!("{n:x>1024}")).collect::<Vec<_>>().join(" ");
    assert_eq!((ignored(&wide(16)), ignored(&wide(17))), (0, 1));
    assert_eq!(ignored("a\tb"), 1, "no purge can name it");
}

#[test]
fn a_record_has_a_bound_whatever_the_url_is() {
    let long = PurgeTarget::of("a.example", &format!("/{}", "x".repeat(1 << 20)));
    for soft in [false, true] {
        let purge = PurgeOrder { target: long.clone(), soft }.bounded();
        let fields = purge.fields().map(|(k, v)| (k.to_owned(), v));
        assert!(fields.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() < 64, "{fields:?}");
        assert_eq!(PurgeOrder::read(&fields), Ok(Some(purge.clone())));
        assert_eq!(purge.clone().bounded(), purge);
    }
    let short = PurgeOrder::hard(PurgeTarget::of("a.example", "/x"));
    assert_eq!(short.clone().bounded(), short);
    for text in ["", "0", "+0000000000000000000000000000000", &"0".repeat(33), "xyz"] {
        let fields = [("k".to_owned(), "resource".to_owned()), ("v".to_owned(), text.to_owned())];
        assert_eq!(PurgeOrder::read(&fields), Err(PurgeRefusal::Digest), "{text}");
    }
}

fn fields(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn a_record_of_the_application_needs_no_more_than_it_says() {
    let read = |pairs: &[(&str, &str)]| PurgeOrder::read(&fields(pairs));
    assert_eq!(read(&[("k", "tag"), ("v", "a")]), Ok(Some(PurgeOrder::hard(PurgeTarget::Tag("a".into())))));
    assert_eq!(
        read(&[("soft", "1"), ("k", "all")]),
        Ok(Some(PurgeOrder { target: PurgeTarget::All, soft: true }))
    );
    // In doubt hard.
    assert_eq!(read(&[("k", "all"), ("soft", "true")]), Ok(Some(PurgeOrder::hard(PurgeTarget::All))));
    let begin = beginning(7).map(|(k, v)| (k.to_owned(), v));
    assert_eq!(PurgeOrder::read(&begin), Ok(None));
    assert_eq!(read(&[("k", "prefix"), ("v", "/x")]), Err(PurgeRefusal::Kind));
    assert_eq!(read(&[("v", "a")]), Err(PurgeRefusal::Kind));
    assert_eq!(read(&[("k", "tag")]), Err(PurgeRefusal::Tag));
    assert_eq!(read(&[("k", "url"), ("v", "/x")]), Err(PurgeRefusal::Relative));
}

#[test]
fn an_id_is_a_number_and_what_the_record_says() {
    let id = |number: &str| RecordId::new(number, &["k", "all"]).unwrap();
    assert!(id("9-9") < id("10-0") && id("10-0") < id("10-2") && id("10-2") < id("10-10"));
    assert_eq!(id("1763700000000-3").number(), "1763700000000-3");
    let others = [&["k", "al", "l"][..], &["ka", "ll"], &["k", "tag"], &[]];
    for words in others {
        assert_ne!(RecordId::new("9-9", words).unwrap(), id("9-9"), "{words:?}");
    }
    for number in ["9-9", "0-1", "18446744073709551615-18446744073709551615"] {
        assert_eq!(id(number).to_string().parse(), Ok(id(number)));
    }
    for text in ["", "-", "1-", "1-2", "1-2-", "x-1-1", "1-2-x", "1-2-3-4"] {
        assert_eq!(text.parse::<RecordId>(), Err(InvalidRecordId), "{text}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        host in "[A-Za-z0-9.-]{1,12}[a-z](:[0-9]{1,4})?",
        path in "/[ -~äß]{0,20}",
        tag in "[a-z]([ -~é]{0,10}[a-z])?",
        kind in 0..3_u8,
        soft: bool,
    ) {
        let path = path.replace('#', "");
        let target = match kind {
            0 => PurgeTarget::of(&host, &path),
            1 => PurgeTarget::tag(&tag).unwrap(),
            _ => PurgeTarget::All,
        };
        let purge = PurgeOrder { target, soft };
        let written: Vec<_> = purge.fields().into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        prop_assert_eq!(PurgeOrder::read(&written), Ok(Some(purge)));
    }
}
