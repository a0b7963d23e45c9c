//! The window that a `.zst` file asks of its reader (RFC 8878, 3.1.1).
//!
//! Pure: the beginning of a file in. RFC 9659: as a content coding, zstd has a window of 8 MB at most. Browsers refuse
//! what asks for more, which `zstd --ultra` and `--long` make.

/// The largest window that a client has to accept, in bytes.
const LARGEST: u64 = 8 << 20;

/// How much of a file is looked at: small frames that are to be skipped may stand before the content.
pub(super) const LOOKED_AT: usize = 128;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Whether the first frame of a file that begins so can be read by every client that takes zstd. The frames behind it are
/// not looked at.
pub(super) fn is_for_everyone(begin: &[u8]) -> bool {
    content_frame(begin).and_then(window).is_some_and(|window| window <= LARGEST)
}

/// The first frame that holds content, behind its magic number.
fn content_frame(begin: &[u8]) -> Option<&[u8]> {
    let (magic, rest) = begin.split_first_chunk::<4>()?;
    match magic {
        _ if *magic == MAGIC => Some(rest),
        // To be skipped (3.1.2).
        [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            let (length, rest) = rest.split_first_chunk::<4>()?;
            content_frame(rest.get(usize::try_from(u32::from_le_bytes(*length)).ok()?..)?)
        }
        _ => None,
    }
}

/// The window of a frame, in bytes; `None` where there is none, or only a dictionary makes it readable.
fn window(frame: &[u8]) -> Option<u64> {
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
        // The content is its own window.
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

    /// 9 MiB that can't be told from noise, or less.
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
            ("with a dictionary", [&MAGIC[..], &[0x21, 9, 5]].concat(), false),
            ("half a head", small[..5].to_vec(), false),
            ("no zstd", b"beforehand".to_vec(), false),
            ("nothing", Vec::new(), false),
        ] {
            assert_eq!(is_for_everyone(&file[..file.len().min(LOOKED_AT)]), expected, "{what}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_read(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            is_for_everyone(&[&MAGIC[..], &bytes].concat());
            is_for_everyone(&bytes);
        }
    }
}
