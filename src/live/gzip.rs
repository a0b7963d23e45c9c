//! Streams of events in gzip (RFC 1952): the deflate block of a state is made once, for all who watch.
//!
//! A block ends at a byte, and refers to nothing before it (`Z_FULL_FLUSH`): so the same block fits into every
//! stream, and a client decodes each event as it comes. What is not compressed, a notice or a small state, is a
//! stored block. A stream keeps eight bytes, the checksum and the length for its trailer; the checksum of a
//! block is added to it without a look at the content.

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress};

/// The head of a gzip stream: no name, no time, no system.
pub(crate) const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// The last block of a stream, without content.
const LAST_BLOCK: [u8; 2] = [3, 0];
/// The most bytes of a stored block (RFC 1951, 3.2.4).
const MAX_STORED: usize = 0xffff;

/// The polynomial of the checksum, and the number 1, with bits in the order of RFC 1952.
const POLYNOMIAL: u32 = 0xedb8_8320;
const ONE: u32 = 1 << 31;
/// x to the power of 2 to the power of the index, modulo the polynomial.
const POWERS: [u32; 32] = powers();

const fn powers() -> [u32; 32] {
    let mut powers = [ONE >> 1; 32];
    let mut n = 1;
    while n < 32 {
        powers[n] = multiply(powers[n - 1], powers[n - 1]);
        n += 1;
    }
    powers
}

/// The product of two polynomials modulo that of the checksum.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let (mut bit, mut product) = (ONE, 0);
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = (b >> 1) ^ if b & 1 == 1 { POLYNOMIAL } else { 0 };
        bit >>= 1;
    }
    product
}

/// The checksum and the length of a piece of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ContentSum {
    crc: u32,
    /// By what the checksum of all that comes before is multiplied: x to the power of the length in bits.
    shift: u32,
    length: u32,
}

impl ContentSum {
    /// The sum of this content.
    pub(crate) fn of(content: &[u8]) -> Self {
        let mut crc = Crc::new();
        crc.update(content);
        // Eight bits to a byte: the length begins at the power of 2 to the power of 3.
        let (mut shift, mut left, mut power) = (ONE, content.len(), 3);
        while left > 0 {
            if left & 1 == 1 {
                shift = multiply(POWERS[power % POWERS.len()], shift);
            }
            (left, power) = (left >> 1, power + 1);
        }
        Self { crc: crc.sum(), shift, length: crc.amount() }
    }
}

/// The checksum and the length of all that a stream has sent.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamSum {
    crc: u32,
    length: u32,
}

impl StreamSum {
    /// Adds a piece of content.
    pub(crate) fn add(&mut self, piece: &ContentSum) {
        self.crc = multiply(piece.shift, self.crc) ^ piece.crc;
        self.length = self.length.wrapping_add(piece.length);
    }

    /// The end of the stream.
    pub(crate) fn trailer(&self) -> [u8; 10] {
        let mut trailer = [0; 10];
        trailer[..2].copy_from_slice(&LAST_BLOCK);
        trailer[2..6].copy_from_slice(&self.crc.to_le_bytes());
        trailer[6..].copy_from_slice(&self.length.to_le_bytes());
        trailer
    }
}

/// Appends content as stored blocks.
pub(crate) fn push_stored(out: &mut Vec<u8>, content: &[u8]) {
    for piece in content.chunks(MAX_STORED) {
        // A chunk is never longer.
        let length = u16::try_from(piece.len()).unwrap_or(u16::MAX);
        out.push(0);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(piece);
    }
}

/// Content as blocks that end at a byte; `None` if stored blocks would be as short.
pub(crate) fn deflate(content: &[u8], level: u32) -> Option<Bytes> {
    let mut encoder = Compress::new(Compression::new(level.min(9)), false);
    let mut out = Vec::with_capacity(content.len() / 3 + 64);
    loop {
        let read = usize::try_from(encoder.total_in()).ok()?;
        encoder.compress_vec(content.get(read..)?, &mut out, FlushCompress::Full).ok()?;
        // All has been written if there is still room.
        if out.len() < out.capacity() {
            break;
        }
        out.reserve(out.len().max(64));
    }
    (out.len() < content.len()).then(|| out.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;

    /// The stream of these pieces, every second one compressed, and its content.
    fn stream(pieces: &[Vec<u8>]) -> (Vec<u8>, Vec<u8>) {
        let (mut sum, mut stream) = (StreamSum::default(), GZIP_HEADER.to_vec());
        for (n, piece) in pieces.iter().enumerate() {
            match deflate(piece, 6).filter(|_| n % 2 == 0) {
                Some(block) => stream.extend_from_slice(&block),
                None => push_stored(&mut stream, piece),
            }
            sum.add(&ContentSum::of(piece));
        }
        stream.extend_from_slice(&sum.trailer());
        (stream, pieces.concat())
    }

    fn decoded(stream: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        flate2::read::GzDecoder::new(stream).read_to_end(&mut content).unwrap();
        content
    }

    #[test]
    fn each_piece_is_decoded_before_the_next_one_comes() {
        let text = b"data: {\"orders\": 41}\n".repeat(40);
        let block = deflate(&text, 6).unwrap();
        assert!(block.len() < 100 && block.ends_with(&[0, 0, 0xff, 0xff]), "{block:?}");
        let mut decoder = flate2::Decompress::new(false);
        for piece in [block.clone(), block] {
            let mut out = Vec::with_capacity(4_096);
            decoder.decompress_vec(&piece, &mut out, flate2::FlushDecompress::Sync).unwrap();
            assert_eq!(out, text);
        }
    }

    #[test]
    fn long_content_is_stored_in_several_blocks() {
        let noise: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (stream, content) = stream(&[noise.clone(), noise]);
        assert!(decoded(&stream) == content);
    }

    proptest! {
        #[test]
        fn the_pieces_are_one_stream(
            pieces in proptest::collection::vec("[a-c{}\": \n]{0,3000}".prop_map(String::into_bytes), 0..8)
        ) {
            let (stream, content) = stream(&pieces);
            prop_assert_eq!(decoded(&stream), content);
        }
    }
}
