//! Tests of the amount of work per turn, and of the memory that is counted.

use super::*;
use crate::config::ContentCoding;

use std::collections::BTreeMap;

fn rules(memory: u64) -> config::EncodingConfig {
    let levels =
        BTreeMap::from([(ContentCoding::Brotli, 5), (ContentCoding::Zstd, 3), (ContentCoding::Gzip, 6)]);
    config::EncodingConfig { types: vec![], min_size: 0, prefer: vec![], levels, memory }
}

fn codecs() -> Arc<CodecBudget> {
    CodecBudget::new(Arc::new(Metrics::new().unwrap()))
}

fn text(length: usize) -> Bytes {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"some words of a page, and 26 other letters"[(state >> 16) as usize % 42]
    };
    (0..length).map(|_| next()).collect::<Vec<u8>>().into()
}

#[test]
fn a_large_piece_takes_many_turns_and_comes_out_whole() {
    for &coding in ContentCoding::ALL {
        let mut encode =
            codecs().begin(BodyTransform::Encode(coding), &rules(1 << 27), None).unwrap().expect("room");
        let whole = text(3 << 20);
        let mut made = vec![encode.begin(whole.clone()).unwrap()];
        let CodecDirection::Encode(encoding) = &encode.way else { panic!("it encodes") };
        // Brotli buffers up to a megabyte; the rest waits for further turns.
        assert!(encoding.left.len() > TURN_BYTES, "{coding:?}: {} left", encoding.left.len());
        loop {
            let more = encode.more().unwrap();
            if more.is_empty() {
                break;
            }
            made.push(more);
        }
        made.push(encode.end().unwrap());
        let mut decode =
            codecs().begin(BodyTransform::Decode(coding), &rules(1 << 27), None).unwrap().expect("room");
        let decoded = decode.pass(made.concat().into()).unwrap();
        assert!(decoded == whole, "{coding:?}");
        assert!(decode.end().unwrap().is_empty());
    }
}

#[test]
fn what_dribbles_goes_out_at_once() {
    let mut encode = codecs()
        .begin(BodyTransform::Encode(ContentCoding::Brotli), &rules(1 << 27), None)
        .unwrap()
        .expect("room");
    for _ in 0..20 {
        assert!(!encode.begin(text(100)).unwrap().is_empty());
        let CodecDirection::Encode(encoding) = &encode.way else { panic!("it encodes") };
        assert_eq!(encoding.kept, 0);
    }
}

#[test]
fn what_codings_hold_is_bounded_and_given_back() {
    let (codecs, rules) = (codecs(), rules(16 << 20));
    let begin = || codecs.begin(BodyTransform::Encode(ContentCoding::Brotli), &rules, None).unwrap();
    let mut held = Vec::new();
    while let Some(codec) = begin() {
        held.push(codec);
        assert!(held.len() < 100);
    }
    assert!(held.len() >= 3, "{}", held.len());
    assert!(codecs.held.load(Ordering::Relaxed) <= 16 << 20);
    let gzip = codecs.begin(BodyTransform::Encode(ContentCoding::Gzip), &rules, None).unwrap();
    let decoder = codecs.begin(BodyTransform::Decode(ContentCoding::Brotli), &rules, None).unwrap();
    assert!(decoder.is_some(), "nothing else could be sent");
    drop((gzip, decoder));
    held.pop();
    assert!(begin().is_some());
    held.clear();
    assert_eq!(codecs.held.load(Ordering::Relaxed), 0);
    let none = self::rules(0);
    assert!(codecs.begin(BodyTransform::Encode(ContentCoding::Gzip), &none, None).unwrap().is_none());
}

#[test]
fn higher_levels_and_longer_bodies_take_more() {
    for &coding in ContentCoding::ALL {
        for length in [None, Some(100), Some(100_000), Some(6 << 20)] {
            let levels = 1..=11;
            let all: Vec<_> = levels.map(|level| encoder_memory(coding, level, length)).collect();
            assert!(
                all.iter().all(|bytes| (1 << 12..=128 << 20).contains(bytes)),
                "{coding:?} {length:?} {all:?}"
            );
        }
        assert!(encoder_memory(coding, 5, Some(1000)) <= encoder_memory(coding, 5, Some(6 << 20)));
    }
}
