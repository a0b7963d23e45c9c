//! Tests of negotiation against examples and a naive model, and of encoding by the decoders.

use super::*;
use proptest::prelude::*;
use std::{collections::HashMap, io::Read};

const PREFER: &[ContentCoding] = &[ContentCoding::Brotli, ContentCoding::Zstd, ContentCoding::Gzip];

fn choose(value: &str) -> CodingChoice {
    negotiate_coding(Some(value.as_bytes()), PREFER, |_| true)
}

#[test]
fn negotiation_by_example() {
    use CodingChoice::{Coding as Is, Identity, NotAcceptable};
    use ContentCoding::{Brotli, Gzip, Zstd};
    let cases = [
        ("", Identity),
        ("gzip, deflate, br, zstd", Is(Brotli)),
        ("gzip, deflate, br", Is(Brotli)),
        ("gzip, deflate", Is(Gzip)),
        ("gzip", Is(Gzip)),
        ("zstd", Is(Zstd)),
        ("identity", Identity),
        ("x-gzip", Is(Gzip)),
        ("GZip;Q=0.3", Is(Gzip)),
        ("*", Is(Brotli)),
        ("*;q=0.001", Is(Brotli)),
        ("deflate", Identity),
        ("gzip;q=0.9, br;q=0.8", Is(Gzip)),
        ("gzip;q=1.000,zstd;q=1", Is(Zstd)),
        ("br;q=0, *", Is(Zstd)),
        ("br;q=0,\tzstd ; q=0.0 , gzip ;q=0.5", Is(Gzip)),
        ("gzip;q=0.5, identity", Identity),
        ("gzip;q=0.5, identity;q=0.5", Is(Gzip)),
        ("gzip;q=0", Identity),
        ("identity;q=0", NotAcceptable),
        ("*;q=0", NotAcceptable),
        ("*;q=0, identity;q=0.1", Identity),
        ("*;q=0, zstd", Is(Zstd)),
        ("br;q=0.5, zstd;q=0, gzip;q=0, *;q=0.8", Identity),
        // Malformed members are ignored.
        ("gzip;q=2", Identity),
        ("gzip;q=1.001", Identity),
        ("gzip;q=0.1234", Identity),
        ("gzip;q=.5", Identity),
        ("gzip;q=", Identity),
        ("gzip;level=9", Identity),
        ("gzip;q=0.5;q=1", Identity),
        ("g zip, ,,;q=1, br;q=0.2", Is(Brotli)),
        ("gzip;q=0, gzip", Identity),
    ];
    for (value, expected) in cases {
        assert_eq!(choose(value), expected, "{value:?}");
    }
    assert_eq!(negotiate_coding(None, PREFER, |_| true), Identity);
}

#[test]
fn only_what_is_there_is_chosen() {
    let all = Some(b"gzip, deflate, br, zstd".as_slice());
    assert_eq!(negotiate_coding(all, PREFER, |_| false), CodingChoice::Identity);
    assert_eq!(
        negotiate_coding(all, PREFER, |coding| coding == ContentCoding::Gzip),
        CodingChoice::Coding(ContentCoding::Gzip)
    );
    assert_eq!(
        negotiate_coding(all, &[ContentCoding::Gzip, ContentCoding::Brotli], |_| true),
        CodingChoice::Coding(ContentCoding::Gzip)
    );
    assert_eq!(negotiate_coding(all, &[], |_| true), CodingChoice::Identity);
    assert_eq!(CodingChoice::NotAcceptable.coding(), None);
}

#[test]
fn the_short_way_says_what_the_long_one_says() {
    let values: [&[u8]; 8] = [
        b"gzip, deflate, br, zstd",
        b"gzip, deflate, br",
        b"gzip, deflate",
        b"gzip",
        b"br",
        b"zstd",
        b"identity",
        b"",
    ];
    for value in values {
        assert_eq!(AcceptedWeights::common(value), Some(AcceptedWeights::parsed(value)), "{value:?}");
    }
    assert_eq!(AcceptedWeights::common(b"*"), None);
}

#[test]
fn tokens_and_tags_of_a_coding_agree() {
    for &coding in ContentCoding::ALL {
        assert_eq!(coding.etag_suffix(), format!("-{}", coding.token()));
        assert_eq!(ContentCoding::of_token(coding.token().as_bytes()), Some(coding));
    }
}

fn rules() -> EncodingConfig {
    EncodingConfig {
        types: vec!["application/json".to_owned(), "text/html".to_owned()],
        min_size: 1024,
        prefer: PREFER.to_vec(),
        levels: Default::default(),
        memory: 1 << 27,
    }
}

#[test]
fn worth_is_told_by_type_length_and_what_forbids_it() {
    let worth = |kind: &str, len| is_worth_encoding(&rules(), Some(kind.as_bytes()), false, false, len);
    assert!(worth("application/json", 1024));
    assert!(worth("Application/JSON ; charset=utf-8", 9999));
    assert!(!worth("application/json", 1023));
    assert!(!worth("application/jsonp", 9999));
    assert!(!worth("image/png", 9999));
    assert!(!worth("", 9999));
    assert!(!is_worth_encoding(&rules(), None, false, false, 9999));
    assert!(!is_worth_encoding(&rules(), Some(b"text/html"), true, false, 9999));
    assert!(!is_worth_encoding(&rules(), Some(b"text/html"), false, true, 9999));
}

#[test]
fn what_does_not_shrink_is_not_encoded() {
    for &coding in ContentCoding::ALL {
        assert_eq!(encode_body(coding, 5, &Body::new()).expect("encodes"), None);
        assert_eq!(encode_body(coding, 5, &b"0123456789abcdef".to_vec().into()).expect("encodes"), None);
        let encoded = encode_body(coding, 5, &vec![b'x'; 4096].into()).expect("encodes").expect("shrinks");
        assert!(encoded.len() < 100, "{coding:?}: {}", encoded.len());
    }
}

#[test]
fn levels_out_of_range_are_brought_into_it() {
    let body = b"abcabcabd".repeat(200);
    for &coding in ContentCoding::ALL {
        for level in [i32::MIN, -1, 0, 100, i32::MAX] {
            if let Some(encoded) = encode_body(coding, level, &body.clone().into()).expect("encodes") {
                assert_eq!(decode(coding, &encoded.to_bytes()), body, "{coding:?} {level}");
            }
        }
    }
}

fn decode(coding: ContentCoding, encoded: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    let result = match coding {
        ContentCoding::Brotli => brotli::Decompressor::new(encoded, 4096).read_to_end(&mut body),
        ContentCoding::Zstd => {
            zstd::Decoder::new(encoded).and_then(|mut decoder| decoder.read_to_end(&mut body))
        }
        ContentCoding::Gzip => flate2::read::MultiGzDecoder::new(encoded).read_to_end(&mut body),
    };
    result.expect("decodes");
    body
}

/// A member of the header: its text and its meaning (`None`: it is malformed).
#[derive(Debug, Clone)]
struct Member {
    text: String,
    meaning: Option<(String, f64)>,
}

fn a_member() -> impl Strategy<Value = Member> {
    let name =
        prop::sample::select(vec!["gzip", "br", "zstd", "identity", "*", "x-gzip", "deflate", "GZIP", "Br"]);
    let weight = prop::sample::select(vec![
        ("", Some(1.0)),
        (";q=1", Some(1.0)),
        (" ; q=1.0", Some(1.0)),
        (";Q=0.75", Some(0.75)),
        (";\tq=0.5", Some(0.5)),
        (";q=0.001", Some(0.001)),
        (";q=0", Some(0.0)),
        (";q=0.000 ", Some(0.0)),
        (";q=1.5", None),
        (";q=a", None),
        (";v=1", None),
        (";", None),
    ]);
    (name, weight, prop::sample::select(vec!["", " ", "\t "])).prop_map(|(name, (weight, q), space)| {
        let canonical = name.to_lowercase().replace("x-gzip", "gzip");
        Member { text: format!("{space}{name}{weight}"), meaning: q.map(|q| (canonical, q)) }
    })
}

/// RFC 9110, 12.5.3, word by word.
fn model(members: &[Member], prefer: &[ContentCoding], there: &[ContentCoding]) -> CodingChoice {
    let mut weights: HashMap<&str, f64> = HashMap::new();
    for (name, q) in members.iter().filter_map(|member| member.meaning.as_ref()) {
        weights.entry(name).or_insert(*q);
    }
    let weight = |name: &str| weights.get(name).or(weights.get("*")).copied();
    let mut choices: Vec<(f64, CodingChoice)> = prefer
        .iter()
        .filter(|coding| there.contains(coding))
        .filter_map(|&coding| Some((weight(coding.token())?, CodingChoice::Coding(coding))))
        .collect();
    choices.push((weight("identity").unwrap_or(f64::MIN_POSITIVE), CodingChoice::Identity));
    choices.retain(|(q, _)| *q > 0.0);
    choices.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    choices.first().map_or(CodingChoice::NotAcceptable, |(_, choice)| *choice)
}

proptest! {
    #[test]
    fn negotiation_is_what_the_rfc_says(
        members in prop::collection::vec(a_member(), 0..6),
        prefer in Just(PREFER.to_vec()).prop_shuffle(),
        there in prop::sample::subsequence(PREFER.to_vec(), 0..=3),
    ) {
        let value = members.iter().map(|member| member.text.as_str()).collect::<Vec<_>>().join(",");
        let choice = negotiate_coding(Some(value.as_bytes()), &prefer, |coding| there.contains(&coding));
        prop_assert_eq!(choice, model(&members, &prefer, &there), "{:?}", value);
    }

    #[test]
    fn any_bytes_are_negotiated(value in prop::collection::vec(any::<u8>(), 0..64)) {
        let choice = negotiate_coding(Some(&value), PREFER, |_| false);
        prop_assert_eq!(choice.coding(), None);
    }

    #[test]
    fn decoders_give_the_body_back(
        seed in prop::collection::vec(any::<u8>(), 1..200),
        repeats in 1_usize..40,
        coding in prop::sample::select(PREFER.to_vec()),
        level in 0..=9,
    ) {
        let body = seed.repeat(repeats);
        if let Some(encoded) = encode_body(coding, level, &body.clone().into())? {
            prop_assert!(encoded.len() < body.len() as u64);
            prop_assert_eq!(decode(coding, &encoded.to_bytes()), body);
        }
    }
}
