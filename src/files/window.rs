//! The decoder window that a precompressed file requires.
//!
//! Pure: the beginning of a file in. As content codings, zstd has a window of 8 MB at most (RFC 9659), and
//! brotli one of 16 MB (RFC 7932, 9.1). Browsers refuse larger ones: `zstd --ultra` and `--long`, `brotli
//! --large_window`.

use crate::config::ContentCoding;

/// The largest window of zstd that every client has to support, in bytes.
const MAX_WINDOW: u64 = 8 << 20;

/// Bytes of a file that are read: small skippable frames may come before the content.
pub(super) const INSPECTED_BYTES: usize = 128;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Returns true if every client that accepts the coding can decode a file that begins so. For zstd the first
/// frame is checked.
pub(super) fn is_for_everyone(coding: ContentCoding, begin: &[u8]) -> bool {
    match coding {
        ContentCoding::Zstd => {
            content_frame(begin).and_then(frame_window).is_some_and(|window| window <= MAX_WINDOW)
        }
        // Seven bits that encode no window in RFC 7932.
        ContentCoding::Brotli => begin.first().is_some_and(|first| first & 0x7f != 0x11),
        ContentCoding::Gzip => true,
    }
}

/// The first frame with content, after its magic number.
fn content_frame(begin: &[u8]) -> Option<&[u8]> {
    let (magic, rest) = begin.split_first_chunk::<4>()?;
    match magic {
        _ if *magic == ZSTD_MAGIC => Some(rest),
        // A skippable frame (3.1.2).
        [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            let (length, rest) = rest.split_first_chunk::<4>()?;
            content_frame(rest.get(usize::try_from(u32::from_le_bytes(*length)).ok()?..)?)
        }
        _ => None,
    }
}

/// The window of a frame, in bytes; `None` if it is malformed, or needs a dictionary.
fn frame_window(frame: &[u8]) -> Option<u64> {
    let (descriptor, rest) = frame.split_first()?;
    let is_single = descriptor & 0x20 != 0;
    let (window, rest) = match is_single {
        true => (None, rest),
        false => rest.split_first().map(|(window, rest)| (Some(*window), rest))?,
    };
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let (dictionary, rest) = rest.split_at_checked(dictionary)?;
    if dictionary.iter().any(|b| *b != 0) {
        return None;
    }
    Some(match window {
        Some(window) => {
            let base = 1_u64 << (10 + (window >> 3));
            base + base / 8 * u64::from(window & 7)
        }
        // A single segment: the window is the size of the content.
        None => {
            let size = rest.get(..1 << (descriptor >> 6))?;
            let number = size.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
            if size.len() == 2 {
                number + 256
            } else {
                number
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// 9 MiB of noise, or less.
    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    fn made(level: i32, window: Option<u32>, content: &[u8], told: bool) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).unwrap();
        if let Some(window) = window {
            encoder.window_log(window).unwrap();
        }
        if told {
            encoder.set_pledged_src_size(Some(content.len() as u64)).unwrap();
        }
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn windows_of_eight_megabytes_are_for_everyone() {
        let large = content(9 << 20);
        let skipped = |length: u32| [&[0x50, 0x2a, 0x4d, 0x18][..], &length.to_le_bytes(), &[7; 4]].concat();
        let small = made(3, None, b"small", true);
        for (what, file, expected) in [
            ("a usual file", made(3, None, &large, true), true),
            ("8 MiB", made(3, Some(23), &large, false), true),
            ("16 MiB", made(3, Some(24), &large, false), false),
            ("--ultra -22", made(22, None, &large, true), false),
            ("its own window", small.clone(), true),
            ("of two bytes", made(3, None, &content(300), true), true),
            ("behind a frame to be skipped", [&skipped(4)[..], &small].concat(), true),
            ("behind a long one", [&skipped(1000)[..], &small].concat(), false),
            ("with a dictionary", [&ZSTD_MAGIC[..], &[0x21, 9, 5]].concat(), false),
            ("half a head", small[..5].to_vec(), false),
            ("no zstd", b"beforehand".to_vec(), false),
            ("nothing", Vec::new(), false),
        ] {
            assert_eq!(
                is_for_everyone(ContentCoding::Zstd, &file[..file.len().min(INSPECTED_BYTES)]),
                expected,
                "{what}"
            );
        }
        for (what, begin, expected) in [
            ("of 22 bits", &[0x0b][..], true),
            ("of 24 bits", &[0x8f], true),
            ("large", &[0x11, 0x1e], false),
            ("large, with more behind", &[0x91], false),
            ("nothing", &[], false),
        ] {
            assert_eq!(is_for_everyone(ContentCoding::Brotli, begin), expected, "{what}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_read(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            is_for_everyone(ContentCoding::Zstd, &[&ZSTD_MAGIC[..], &bytes].concat());
            is_for_everyone(ContentCoding::Zstd, &bytes);
        }
    }
}
