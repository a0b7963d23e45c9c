//! Tests of the preconditions.

use super::*;
use http::HeaderValue;
use proptest::prelude::*;
use std::time::{Duration, UNIX_EPOCH};

/// Sun, 06 Nov 1994 08:49:37 GMT
const CHANGED: u64 = 784_111_777;
const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

fn verdict_of(method: &Method, etag: Option<&str>, lines: &[(&'static str, &str)]) -> ConditionVerdict {
    let mut headers = HeaderMap::new();
    for &(name, value) in lines {
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a header value"));
    }
    // Half a second, which no header can express.
    let last_modified = Some(UNIX_EPOCH + Duration::from_millis(CHANGED * 1000 + 500));
    let etag = etag.map(str::as_bytes);
    evaluate_preconditions(method, &headers, &Validators { etag, ours: true, last_modified, date: None })
}

fn get(lines: &[(&'static str, &str)]) -> ConditionVerdict {
    verdict_of(&Method::GET, Some("\"abc\""), lines)
}

fn put(lines: &[(&'static str, &str)]) -> ConditionVerdict {
    verdict_of(&Method::PUT, Some("\"abc\""), lines)
}

use ConditionVerdict::{NotModified, PreconditionFailed, Send};

#[test]
fn without_preconditions_it_is_sent() {
    assert_eq!(get(&[]), Send);
    assert_eq!(put(&[]), Send);
}

#[test]
fn if_none_match_compares_weakly_and_across_the_encodings() {
    let same = [
        r#""abc""#,
        r#"W/"abc""#,
        r#""abc-br""#,
        r#"W/"abc-br""#,
        r#""abc-gzip""#,
        r#""abc-zstd""#,
        "*",
        "  * ",
        r#""x", "abc""#,
        r#""x","y",W/"abc-gzip" , "z""#,
        r#""a,b", "abc""#,
        r#""", "abc""#,
        r#",, "abc","#,
        r#"junk, "abc""#,
        r#""x"junk, "abc""#,
    ];
    for value in same {
        assert_eq!(get(&[("if-none-match", value)]), NotModified, "{value}");
        assert_eq!(put(&[("if-none-match", value)]), PreconditionFailed, "{value}");
    }
    let other = [
        r#""abcd""#,
        r#""ab""#,
        r#""abc-""#,
        r#""abc-deflate""#,
        r#""abc-br-br""#,
        r#""ABC""#,
        r#"w/"abc""#,
        r#""x,"abc""#,
        r#""abc"x"#,
        r#""abc"#,
        "abc",
        "",
        r#""x", *"#,
        r#""x, "abc", y""#,
    ];
    for value in other {
        assert_eq!(get(&[("if-none-match", value)]), Send, "{value}");
        assert_eq!(put(&[("if-none-match", value)]), Send, "{value}");
    }
}

#[test]
fn a_comma_inside_a_tag_splits_nothing() {
    let comma = Some(r#""a,b""#);
    assert_eq!(verdict_of(&Method::GET, comma, &[("if-none-match", r#""x", "a,b""#)]), NotModified);
    assert_eq!(verdict_of(&Method::GET, Some(r#""b""#), &[("if-none-match", r#""a,b""#)]), Send);
}

#[test]
fn a_list_may_stand_on_several_lines() {
    assert_eq!(get(&[("if-none-match", r#""x""#), ("if-none-match", r#""y", "abc""#)]), NotModified);
    assert_eq!(get(&[("if-match", r#""x""#), ("if-match", r#""abc""#)]), Send);
    assert_eq!(get(&[("if-none-match", r#""x""#), ("if-none-match", r#""y""#)]), Send);
}

#[test]
fn if_match_compares_strongly() {
    for value in [r#""abc""#, r#""abc-br""#, "*", r#"W/"abc", "abc""#] {
        assert_eq!(put(&[("if-match", value)]), Send, "{value}");
        assert_eq!(get(&[("if-match", value)]), Send, "{value}");
    }
    for value in [r#"W/"abc""#, r#""x""#, "abc", "", r#"W/"abc-br""#] {
        assert_eq!(put(&[("if-match", value)]), PreconditionFailed, "{value}");
        assert_eq!(get(&[("if-match", value)]), PreconditionFailed, "{value}");
    }
}

#[test]
fn content_without_a_tag_is_matched_by_the_star_alone() {
    let untagged = |lines: &[(&'static str, &str)]| verdict_of(&Method::GET, None, lines);
    assert_eq!(untagged(&[("if-none-match", r#""abc""#)]), Send);
    assert_eq!(untagged(&[("if-none-match", "*")]), NotModified);
    assert_eq!(untagged(&[("if-match", r#""abc""#)]), PreconditionFailed);
    assert_eq!(untagged(&[("if-match", "*")]), Send);
}

#[test]
fn if_modified_since_is_for_reading_alone() {
    for (date, verdict) in [(BEFORE, Send), (THEN, NotModified), (AFTER, NotModified)] {
        assert_eq!(get(&[("if-modified-since", date)]), verdict, "{date}");
        assert_eq!(verdict_of(&Method::HEAD, None, &[("if-modified-since", date)]), verdict, "{date}");
        assert_eq!(put(&[("if-modified-since", date)]), Send, "{date}");
    }
}

#[test]
fn if_unmodified_since_is_for_all() {
    for (date, verdict) in [(BEFORE, PreconditionFailed), (THEN, Send), (AFTER, Send)] {
        assert_eq!(get(&[("if-unmodified-since", date)]), verdict, "{date}");
        assert_eq!(put(&[("if-unmodified-since", date)]), verdict, "{date}");
    }
}

#[test]
fn dates_have_three_forms() {
    for date in [
        THEN,
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        " Sun, 06 Nov 1994 08:49:37 GMT ",
    ] {
        assert_eq!(get(&[("if-modified-since", date)]), NotModified, "{date}");
    }
}

#[test]
fn malformed_and_repeated_dates_are_as_good_as_absent() {
    for date in ["", "yesterday", "0", "Sun, 06 Nov 1994 08:49:37", "Sun, 99 Nov 1994 08:49:37 GMT", "\u{e9}"]
    {
        assert_eq!(get(&[("if-modified-since", date)]), Send, "{date}");
        assert_eq!(put(&[("if-unmodified-since", date)]), Send, "{date}");
    }
    assert_eq!(get(&[("if-modified-since", AFTER), ("if-modified-since", AFTER)]), Send);
}

#[test]
fn without_a_date_of_its_own_no_date_is_compared() {
    let mut headers = HeaderMap::new();
    headers.insert(IF_UNMODIFIED_SINCE, HeaderValue::from_static(BEFORE));
    headers.insert(IF_MODIFIED_SINCE, HeaderValue::from_static(AFTER));
    assert_eq!(evaluate_preconditions(&Method::GET, &headers, &Validators::default()), Send);
}

#[test]
fn a_foreign_tag_has_no_suffixes_of_ours() {
    let verdict = |etag: &'static str, name: &'static str, value: &str| {
        let headers = HeaderMap::from_iter([(
            HeaderName::from_static(name),
            HeaderValue::from_bytes(value.as_bytes()).expect("a header value"),
        )]);
        evaluate_preconditions(
            &Method::GET,
            &headers,
            &Validators { etag: Some(etag.as_bytes()), ..Validators::default() },
        )
    };
    for (etag, value, expected) in [
        (r#""abc""#, r#""abc""#, NotModified),
        (r#""abc""#, r#"W/"abc""#, NotModified),
        (r#"W/"abc""#, r#""abc""#, NotModified),
        (r#"W/"abc""#, r#"W/"abc""#, NotModified),
        (r#""abc""#, r#""abc-br""#, Send),
        // A value that is no tag is compared byte by byte.
        ("abc", "abc", NotModified),
        (r#"w/"abc""#, r#"w/"abc""#, NotModified),
        ("abc", r#""abc""#, Send),
        ("abc", "x, abc", Send),
        (r#""abc""#, "abc", Send),
    ] {
        assert_eq!(verdict(etag, "if-none-match", value), expected, "{etag} {value}");
    }
    assert_eq!(verdict(r#""abc""#, "if-match", r#""abc""#), Send);
    assert_eq!(verdict(r#"W/"abc""#, "if-match", r#"W/"abc""#), PreconditionFailed);
    assert_eq!(verdict(r#"W/"abc""#, "if-match", r#""abc""#), PreconditionFailed);
    assert_eq!(verdict(r#"W/"abc""#, "if-match", "*"), Send);
}

#[test]
fn the_date_stands_in_for_an_unknown_change_when_reading() {
    let date = Some(UNIX_EPOCH + Duration::from_secs(CHANGED));
    for (value, read) in [(BEFORE, Send), (THEN, NotModified), (AFTER, NotModified)] {
        let validators = Validators { date, ..Validators::default() };
        let since = |name| HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        assert_eq!(
            evaluate_preconditions(&Method::GET, &since(IF_MODIFIED_SINCE), &validators),
            read,
            "{value}"
        );
        assert_eq!(
            evaluate_preconditions(&Method::GET, &since(IF_UNMODIFIED_SINCE), &validators),
            Send,
            "{value}"
        );
    }
    // If the time of change is known, it counts.
    let validators = Validators {
        date: date.map(|date| date + Duration::from_secs(60)),
        last_modified: date,
        ..Validators::default()
    };
    let headers = HeaderMap::from_iter([(IF_MODIFIED_SINCE, HeaderValue::from_static(THEN))]);
    assert_eq!(evaluate_preconditions(&Method::GET, &headers, &validators), NotModified);
}

#[test]
fn tags_come_before_dates_and_writers_before_readers() {
    let cases: [(&[(&'static str, &str)], ConditionVerdict); 7] = [
        // A tag that matches: the date is not looked at.
        (&[("if-match", r#""abc""#), ("if-unmodified-since", BEFORE)], Send),
        (&[("if-match", r#""x""#), ("if-unmodified-since", AFTER)], PreconditionFailed),
        (&[("if-none-match", r#""x""#), ("if-modified-since", AFTER)], Send),
        (&[("if-none-match", r#""abc""#), ("if-modified-since", BEFORE)], NotModified),
        // A malformed list of tags still counts as present.
        (&[("if-none-match", "junk"), ("if-modified-since", AFTER)], Send),
        (&[("if-match", r#""x""#), ("if-none-match", r#""abc""#)], PreconditionFailed),
        (&[("if-unmodified-since", THEN), ("if-none-match", r#""abc""#)], NotModified),
    ];
    for (lines, verdict) in cases {
        assert_eq!(get(lines), verdict, "{lines:?}");
    }
}

#[test]
fn methods_that_select_nothing_know_no_preconditions() {
    for method in [Method::OPTIONS, Method::TRACE, Method::CONNECT] {
        assert_eq!(verdict_of(&method, Some("\"abc\""), &[("if-match", r#""x""#)]), Send);
        assert_eq!(verdict_of(&method, Some("\"abc\""), &[("if-none-match", "*")]), Send);
    }
}

const OURS: [&str; 4] = ["abc", "abc-br", "abc-zstd", "abc-gzip"];

fn a_tag() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[!#-~]{0,6}",
        1 => prop::sample::select(vec!["ab", "abc-", "abc,", "abc-br-br", "abc-deflate"]).prop_map(str::to_owned),
        1 => prop::sample::select(OURS.to_vec()).prop_map(str::to_owned),
    ]
}

proptest! {
    /// A list of any well-formed tags matches exactly if ours is among them.
    #[test]
    fn a_tag_is_found_among_any_others(
        tags in prop::collection::vec((a_tag(), any::<bool>()), 0..6),
        space in "[ \t]{0,2}",
    ) {
        let list: Vec<String> =
            tags.iter().map(|(tag, weak)| format!("{}\"{tag}\"", if *weak { "W/" } else { "" })).collect();
        let value = list.join(&format!("{space},{space}"));
        let same = |tag: &String| OURS.contains(&tag.as_str());
        let named = tags.iter().any(|(tag, _)| same(tag));
        let named_strongly = tags.iter().any(|(tag, weak)| !weak && same(tag));
        prop_assert_eq!(get(&[("if-none-match", &value)]), if named { NotModified } else { Send });
        prop_assert_eq!(get(&[("if-match", &value)]), if named_strongly { Send } else { PreconditionFailed });
    }

    #[test]
    fn any_bytes_are_evaluated(value in prop::collection::vec(0x20_u8..=0xff, 0..64)) {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            headers.insert(IF_NONE_MATCH, value.clone());
            headers.insert(IF_UNMODIFIED_SINCE, value);
        }
        let validators = Validators { etag: Some(b"\"0\""), ours: true, ..Validators::default() };
        let verdict = evaluate_preconditions(&Method::GET, &headers, &validators);
        prop_assert_ne!(verdict, PreconditionFailed);
    }
}
