//! Tests of the streaming codecs: each decodes what the other encodes, however it is cut.

use super::*;
use crate::representation::Body;
use proptest::prelude::*;

fn encoded(coding: ContentCoding, level: i32, pieces: &[&[u8]], flush: bool, length: Option<u64>) -> Vec<u8> {
    let mut encoder = Encoder::new(coding, level, length).expect("an encoder");
    let mut all = vec![];
    for piece in pieces {
        all.extend(encoder.push(piece, flush).expect("encodes"));
    }
    all.extend(encoder.finish().expect("finishes"));
    all
}

fn decoded(coding: ContentCoding, pieces: &[&[u8]]) -> io::Result<Vec<u8>> {
    let mut decoder = Decoder::new(coding)?;
    let mut all = vec![];
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece));
        while let Some(piece) = decoder.pull()? {
            assert!(!piece.is_empty() && piece.len() <= PIECE_BYTES);
            all.extend(piece);
        }
    }
    decoder.finish()?;
    Ok(all)
}

fn text(length: usize) -> Vec<u8> {
    (0..length).flat_map(|i| format!("{},", i * i % 977).into_bytes()).take(length).collect()
}

#[test]
fn every_cut_of_the_input_decodes_to_the_same() {
    let plain = text(900);
    for &coding in ContentCoding::ALL {
        let whole = encoded(coding, 5, &[&plain], false, Some(900));
        for at in 0..=whole.len() {
            let pieces = [&whole[..at], &whole[at..]];
            assert_eq!(decoded(coding, &pieces).expect("decodes"), plain, "{coding:?} {at}");
            if (1..whole.len()).contains(&at) {
                let error = decoded(coding, &pieces[..1]).expect_err("cut short");
                assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{coding:?} {at}");
            }
        }
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(decoded(coding, &bytes).expect("decodes"), plain, "{coding:?}");
        assert_eq!(decoded(coding, &[]).expect("an empty body"), b"", "{coding:?}");
    }
}

#[test]
fn junk_behind_the_end_is_refused() {
    for &coding in ContentCoding::ALL {
        let whole = encoded(coding, 5, &[b"some content"], false, None);
        for junk in [&b"x"[..], b"\0", b"0123456789abcdef"] {
            assert!(decoded(coding, &[&whole, junk]).is_err(), "{coding:?}");
            assert!(decoded(coding, &[&[&whole, junk].concat()]).is_err(), "{coding:?}");
        }
        assert!(decoded(coding, &[b"this was never encoded"]).is_err(), "{coding:?}");
    }
}

#[test]
fn members_and_frames_follow_each_other() {
    for coding in [ContentCoding::Gzip, ContentCoding::Zstd] {
        let two = [&b"one, "[..], b"two"].map(|text| encoded(coding, 5, &[text], false, None)).concat();
        assert_eq!(decoded(coding, &[&two]).expect("decodes"), b"one, two", "{coding:?}");
        let bytes: Vec<&[u8]> = two.chunks(1).collect();
        assert_eq!(decoded(coding, &bytes).expect("decodes"), b"one, two", "{coding:?}");
    }
}

#[test]
fn a_changed_checksum_is_found_out() {
    let mut whole = encoded(ContentCoding::Gzip, 5, &[b"some content"], false, None);
    let at = whole.len() - 6;
    whole[at] ^= 1;
    assert!(decoded(ContentCoding::Gzip, &[&whole]).is_err());
}

#[test]
fn a_flush_gives_all_that_was_taken() {
    for &coding in ContentCoding::ALL {
        let mut encoder = Encoder::new(coding, 5, None).expect("an encoder");
        let mut decoder = Decoder::new(coding).expect("a decoder");
        for line in ["first line\n", "second line\n", "third line\n"] {
            decoder.push(encoder.push(line.as_bytes(), true).expect("encodes"));
            let mut got = vec![];
            while let Some(piece) = decoder.pull().expect("decodes") {
                got.extend(piece);
            }
            assert_eq!(got, line.as_bytes(), "{coding:?}");
        }
    }
}

#[test]
fn a_bomb_goes_off_piece_by_piece() {
    let zeros = vec![0; 1 << 20];
    for &coding in ContentCoding::ALL {
        let pieces: Vec<&[u8]> = vec![&zeros; 32];
        let bomb = encoded(coding, 5, &pieces, false, None);
        let mut decoder = Decoder::new(coding).expect("a decoder");
        decoder.push(bomb.into());
        let mut total = 0;
        while let Some(piece) = decoder.pull().expect("decodes") {
            assert!(piece.len() <= PIECE_BYTES);
            total += piece.len();
        }
        decoder.finish().expect("complete");
        assert_eq!(total, 32 << 20, "{coding:?}");
    }
}

#[test]
fn a_length_that_was_wrong_is_no_clean_end() {
    let mut encoder = Encoder::new(ContentCoding::Zstd, 3, Some(10)).expect("an encoder");
    let ended = encoder.push(b"short", false).and_then(|_| encoder.finish());
    assert!(ended.is_err());
}

#[test]
fn every_level_makes_what_clients_have_to_take() {
    let plain = text(3_000_000);
    for (coding, level) in [
        (ContentCoding::Zstd, 19),
        (ContentCoding::Zstd, 22),
        (ContentCoding::Gzip, 9),
        (ContentCoding::Brotli, 4),
    ] {
        for length in [None, Some(plain.len() as u64)] {
            let whole = encoded(coding, level, &[&plain], false, length);
            assert!(decoded(coding, &[&whole]).expect("decodes") == plain, "{coding:?} {level}");
        }
    }
}

#[test]
fn codecs_may_be_held_by_a_task() {
    fn is_send<T: Send>() {}
    is_send::<Encoder>();
    is_send::<Decoder>();
}

#[test]
fn a_window_sees_the_whole_body() {
    for (len, bits) in [(0, 10), (1008, 10), (1009, 11), (65_520, 16), (65_521, 17), (100 << 20, 22)] {
        assert_eq!(window_bits(len), bits, "{len}");
    }
}

proptest! {
    #[test]
    fn what_is_encoded_in_pieces_decodes_in_pieces(
        pieces in prop::collection::vec(prop::collection::vec(0_u8..4, 0..2_000), 0..8),
        coding in prop::sample::select(ContentCoding::ALL.to_vec()),
        (level, flush, known) in (0..=7, any::<bool>(), any::<bool>()),
        step in 1_usize..500,
    ) {
        let plain = pieces.concat();
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let whole = encoded(coding, level, &pieces, flush, known.then_some(plain.len() as u64));
        let cut: Vec<&[u8]> = whole.chunks(step).collect();
        prop_assert_eq!(decoded(coding, &cut)?, plain);
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(
        input in prop::collection::vec(any::<u8>(), 0..300),
        (flip, at) in (any::<u8>(), any::<usize>()),
        coding in prop::sample::select(ContentCoding::ALL.to_vec()),
    ) {
        // The input decides whether it fails; it must end in any case.
        decoded(coding, &[&input]).unwrap_or_default();
        let mut whole = encoded(coding, 5, &[&input], false, None);
        let at = at % whole.len();
        whole[at] ^= flip;
        decoded(coding, &[&whole]).unwrap_or_default();
    }

    #[test]
    fn a_body_in_pieces_encodes_like_one(
        content in prop::collection::vec(0_u8..4, 200..3_000),
        at in 1_usize..199,
        coding in prop::sample::select(ContentCoding::ALL.to_vec()),
    ) {
        let pieces = [&content[..at], &content[at..]].map(Bytes::copy_from_slice).to_vec();
        let encoded = crate::representation::encoding::encode_body(coding, 5, &Body::from_pieces(pieces))?.expect("shrinks");
        prop_assert_eq!(decoded(coding, &[&encoded.to_bytes()])?, content);
    }
}
