//! Tests of ranges: by example, and against the bytes of a body.

use super::*;
use proptest::prelude::*;
use std::time::UNIX_EPOCH;
use RangeSelection::{Several, Single, Unsatisfiable, Whole};

#[test]
fn ranges_by_example() {
    let cases: [(&str, RangeSelection); 34] = [
        ("bytes=0-4", Single(0..5)),
        ("BYTES=0-4", Single(0..5)),
        (" bytes=0-4 ", Single(0..5)),
        ("bytes= 0-4 ,", Single(0..5)),
        ("bytes=,,0-4", Single(0..5)),
        ("bytes=5-", Single(5..10)),
        ("bytes=-3", Single(7..10)),
        ("bytes=-30", Single(0..10)),
        ("bytes=9-9", Single(9..10)),
        ("bytes=9-100", Single(9..10)),
        ("bytes=0-18446744073709551615", Single(0..10)),
        ("bytes=0-99999999999999999999999", Single(0..10)),
        ("bytes=0-0,-1", Several(vec![0..1, 9..10])),
        ("bytes=8-9,0-1", Several(vec![8..10, 0..2])),
        ("bytes=8-9,0-1,4-5", Several(vec![8..10, 0..2, 4..6])),
        ("bytes=0-1,50-60", Single(0..2)),
        // Ranges that overlap or touch are joined, at the place of the first.
        ("bytes=0-3,4-5", Single(0..6)),
        ("bytes=0-3,2-5,5-5", Single(0..6)),
        ("bytes=5-6,9-9,0-1,2-3", Several(vec![5..7, 9..10, 0..4])),
        ("bytes=10-", Unsatisfiable),
        ("bytes=10-12,99-", Unsatisfiable),
        ("bytes=-0", Unsatisfiable),
        ("bytes=99999999999999999999999-", Unsatisfiable),
        ("", Whole),
        ("bytes", Whole),
        ("bytes=", Whole),
        ("bytes=,", Whole),
        ("bytes=-", Whole),
        ("bytes=4-2", Whole),
        ("bytes=0-1,4-2", Whole),
        ("bytes=a-b", Whole),
        ("bytes=0-1-2", Whole),
        ("bytes=+0-1", Whole),
        ("lines=0-4", Whole),
    ];
    for (value, expected) in cases {
        assert_eq!(decide_range(value.as_bytes(), 10), expected, "{value:?}");
    }
    assert_eq!(decide_range(b"bytes=0-", 0), Unsatisfiable);
    assert_eq!(decide_range(b"bytes=-1", 0), Unsatisfiable);
}

#[test]
fn too_many_parts_are_the_whole() {
    let apart = |count: u64| {
        let ranges: Vec<String> = (0..count).map(|i| format!("{}-{}", i * 3, i * 3)).collect();
        decide_range(format!("bytes={}", ranges.join(",")).as_bytes(), 10_000)
    };
    assert!(matches!(apart(16), Several(ranges) if ranges.len() == 16));
    assert_eq!(apart(17), Whole);
    let same = |count: usize| decide_range(format!("bytes={}", vec!["0-1"; count].join(",")).as_bytes(), 10);
    assert_eq!(same(MAX_RANGES), Single(0..2));
    assert_eq!(same(MAX_RANGES + 1), Whole);
}

const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn selected(etag: Option<&str>, date_after: u64, lines: &[(&'static str, &'static str)]) -> RangeSelection {
    let changed = UNIX_EPOCH + Duration::from_secs(784_111_777);
    let validators = Validators {
        etag: etag.map(str::as_bytes),
        ours: false,
        last_modified: Some(changed),
        date: Some(changed + Duration::from_secs(date_after)),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_static(value));
    }
    select_range(&headers, &validators, 10)
}

#[test]
fn if_range_lets_only_the_same_content_be_cut() {
    let with = |etag, value| selected(Some(etag), 60, &[("range", "bytes=1-2"), ("if-range", value)]);
    assert_eq!(with("\"a\"", "\"a\""), Single(1..3));
    assert_eq!(with("\"a\"", "\"b\""), Whole);
    assert_eq!(with("\"a\"", "W/\"a\""), Whole);
    assert_eq!(with("W/\"a\"", "W/\"a\""), Whole);
    assert_eq!(with("\"a\"", "\"a\", \"b\""), Whole);
    assert_eq!(with("\"a\"", "a"), Whole);
    assert_eq!(with("a", "a"), Whole);
    assert_eq!(with("\"a\"", "*"), Whole);
    assert_eq!(with("\"a\"", THEN), Single(1..3));
    assert_eq!(with("\"a\"", "Sun, 06 Nov 1994 08:49:36 GMT"), Whole);
    assert_eq!(with("\"a\"", "Sun, 06 Nov 1994 08:49:38 GMT"), Whole);
    // A change in the second of the answer may not have been the last one.
    assert_eq!(selected(None, 0, &[("range", "bytes=1-2"), ("if-range", THEN)]), Whole);
    assert_eq!(selected(None, 1, &[("range", "bytes=1-2"), ("if-range", THEN)]), Single(1..3));
    let twice = [("range", "bytes=1-2"), ("if-range", "\"a\""), ("if-range", "\"a\"")];
    assert_eq!(selected(Some("\"a\""), 60, &twice), Whole);
    assert_eq!(selected(None, 60, &[("if-range", THEN)]), Whole);
    assert_eq!(selected(None, 60, &[("range", "bytes=1-2"), ("range", "bytes=1-2")]), Whole);
}

#[test]
fn an_origins_content_range_is_read_strictly() {
    assert_eq!(parse_content_range(b"bytes 0-4/10"), Some((0..5, 10)));
    assert_eq!(parse_content_range(b"bytes 9-9/10"), Some((9..10, 10)));
    for value in [
        "bytes 0-4/*",
        "bytes */10",
        "bytes 0-10/10",
        "bytes 4-3/10",
        "bytes=0-4/10",
        "bytes 0-4",
        "bytes 0-4/",
        "bytes -4/10",
        "bytes  0-4/10",
        "bytes 0 - 4/10",
        "bytes 0-4/10/10",
        "bytes 0-4/99999999999999999999999",
        "bytes 99999999999999999999999-99999999999999999999999/999999999999999999999999",
        "lines 0-4/10",
        "",
    ] {
        assert_eq!(parse_content_range(value.as_bytes()), None, "{value}");
    }
}

#[test]
fn parts_are_combined_where_they_touch() {
    let (low, high) = (Body::from(b"01234".to_vec()), Body::from(b"456789".to_vec()));
    let is = |combined: Option<(u64, Body)>| combined.map(|(first, body)| (first, body.to_bytes().to_vec()));
    assert_eq!(is(combine_parts((0, &low), (4, &high))), Some((0, b"0123456789".to_vec())));
    assert_eq!(is(combine_parts((4, &high), (0, &low))), Some((0, b"0123456789".to_vec())));
    assert_eq!(is(combine_parts((0, &low), (5, &high))), Some((0, b"01234456789".to_vec())));
    assert_eq!(is(combine_parts((0, &low), (6, &high))), None);
    assert_eq!(is(combine_parts((4, &high), (5, &high.slice(1..3)))), Some((4, b"456789".to_vec())));
    assert_eq!(is(combine_parts((u64::MAX - 2, &low), (0, &high))), None);
}

/// Parses a multipart body as a client would: a part ends where the boundary begins.
fn parts_of(content: &[u8], boundary: &str) -> Vec<(Range<u64>, Vec<u8>)> {
    let find = |text: &[u8], what: &[u8]| text.windows(what.len()).position(|window| window == what);
    let delimiter = format!("\r\n--{boundary}");
    let mut rest = &[b"\r\n", content].concat()[..];
    assert!(rest.starts_with(delimiter.as_bytes()));
    let mut parts = vec![];
    loop {
        rest = &rest[delimiter.len()..];
        if rest == b"--\r\n" {
            return parts;
        }
        let head = find(rest, b"\r\n\r\n").expect("an end of the head");
        let lines = std::str::from_utf8(&rest[..head]).expect("text");
        let line = lines.lines().find_map(|line| line.strip_prefix("Content-Range: ")).expect("its range");
        assert!(lines.contains("Content-Type: text/plain"));
        rest = &rest[head + 4..];
        let end = find(rest, delimiter.as_bytes()).expect("an end of the part");
        let (range, _) = parse_content_range(line.as_bytes()).expect("a range");
        parts.push((range, rest[..end].to_vec()));
        rest = &rest[end..];
    }
}

fn a_value() -> impl Strategy<Value = String> {
    let number = || prop_oneof![4 => (0_u64..80).prop_map(|n| n.to_string()), 1 => Just(String::new())];
    let junk = prop_oneof![9 => Just(""), 1 => prop::sample::select(vec![" ", "-", "x", "="])];
    let one = (number(), junk, number()).prop_map(|(first, junk, last)| format!("{first}-{junk}{last}"));
    prop::collection::vec(one, 0..24).prop_map(|ranges| format!("bytes={}", ranges.join(",")))
}

/// The positions that a well-formed value names, one flag per byte.
fn named(value: &str, length: u64) -> Vec<bool> {
    let mut named = vec![false; length as usize];
    for one in value["bytes=".len()..].split(',').filter(|one| !one.trim().is_empty()) {
        let (first, last) = one.split_once('-').expect("a dash");
        for (at, named) in named.iter_mut().enumerate() {
            *named |= match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
                (Ok(first), Ok(last)) => first <= at && at <= last,
                (Ok(first), Err(_)) => first <= at,
                (Err(_), Ok(suffix)) => at + suffix >= length as usize,
                (Err(_), Err(_)) => false,
            };
        }
    }
    named
}

proptest! {
    #[test]
    fn any_bytes_are_decided(value in prop::collection::vec(any::<u8>(), 0..64), length in any::<u64>()) {
        let value = [b"bytes=", &value[..]].concat();
        decide_range(&value, length);
        parse_content_range(&value);
    }

    #[test]
    fn what_is_selected_is_what_was_named(value in a_value(), length in 0_u64..64) {
        let ranges = match decide_range(value.as_bytes(), length) {
            Whole => return Ok(()),
            Unsatisfiable => vec![],
            Single(range) => vec![range],
            Several(ranges) => {
                prop_assert!((2..=16).contains(&ranges.len()));
                ranges
            }
        };
        prop_assert!(ranges.iter().all(|range| range.start < range.end && range.end <= length));
        let selected: Vec<bool> = (0..length)
            .map(|at| ranges.iter().filter(|range| range.contains(&at)).count())
            .map(|count| { assert!(count < 2, "{value}"); count == 1 })
            .collect();
        prop_assert_eq!(selected, named(&value, length), "{}", value);
    }

    #[test]
    fn a_multipart_body_gives_the_same_bytes_back(
        content in prop::collection::vec(any::<u8>(), 64..300),
        cuts in prop::collection::btree_set(0_u64..64, 4..16),
        at in 1_usize..63,
    ) {
        let cuts: Vec<u64> = cuts.into_iter().collect();
        let ranges: Vec<Range<u64>> = cuts.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect();
        let pieces = [&content[..at], &content[at..]].map(Bytes::copy_from_slice).to_vec();
        let kind = HeaderValue::from_static("text/plain");
        let (body, content_type) = multipart_body(&Body::from_pieces(pieces), &ranges, Some(&kind), "b0undary");
        prop_assert_eq!(content_type, "multipart/byteranges; boundary=b0undary");
        let expected: Vec<_> = ranges
            .iter()
            .map(|range| (range.clone(), content[range.start as usize..range.end as usize].to_vec()))
            .collect();
        prop_assert_eq!(parts_of(&body.to_bytes(), "b0undary"), expected);
    }

    #[test]
    fn combined_parts_are_the_part_that_both_cover(
        content in prop::collection::vec(any::<u8>(), 1..100),
        a in (0_u64..100, 0_u64..60), b in (0_u64..100, 0_u64..60),
    ) {
        let whole = Body::from(content);
        let [a, b] = [a, b].map(|(first, length)| first.min(whole.len())..(first + length).min(whole.len()));
        let [x, y] = [&a, &b].map(|range| whole.slice(range.start..range.end.max(range.start)));
        let combined = combine_parts((a.start, &x), (b.start, &y));
        let covers = a.start.max(b.start) <= if a.start <= b.start { a.end } else { b.end };
        prop_assert_eq!(combined.is_some(), covers);
        if let Some((first, body)) = combined {
            prop_assert_eq!(first, a.start.min(b.start));
            prop_assert_eq!(body, whole.slice(first..a.end.max(b.end)));
        }
    }
}
