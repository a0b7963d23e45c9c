//! A parser for the chunked transfer coding (RFC 9112, 7.1). Pure.
//!
//! Strict: sizes are hexadecimal digits, lines end with CRLF. Extensions are ignored; trailers are kept.

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

/// The most digits of a chunk size.
const MOST_DIGITS: u8 = 16;
/// The most bytes of all extensions between two chunks, and of the trailers.
const MOST_PASSED_OVER: usize = 64 * 1024;
/// The most fields in the trailers.
const MOST_TRAILERS: usize = 64;

/// The state of the parser.
#[derive(Debug, Default)]
pub(super) struct ChunkDecoder {
    at: ChunkState,
    /// The number of bytes of the current chunk that are left.
    left: u64,
    digits: u8,
    passed_over: usize,
    /// The lines of the trailers that have come.
    trailers: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum ChunkState {
    #[default]
    Size,
    /// After the digits of a size.
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the beginning of a line of the trailers.
    Trailer,
    TrailerLine,
    TrailerLf,
    LastLf,
    End,
}

/// The next part of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ChunkPiece {
    Piece(Bytes),
    /// More bytes are needed.
    More,
    End,
}

/// The error for bytes that are not chunks.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the chunked coding is malformed")]
pub(super) struct BrokenChunks;

impl ChunkDecoder {
    /// Takes the next part of the body from the input.
    ///
    /// # Errors
    /// If it is malformed.
    pub(super) fn next(&mut self, input: &mut Bytes) -> Result<ChunkPiece, BrokenChunks> {
        self.pass_lines(input)?;
        if self.at == ChunkState::End {
            return Ok(ChunkPiece::End);
        }
        if input.is_empty() {
            return Ok(ChunkPiece::More);
        }
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
        let piece = input.split_to(length);
        self.left -= length as u64;
        if self.left == 0 {
            self.at = ChunkState::DataCr;
            // The last chunk may be in the input as well.
            self.pass_lines(input)?;
        }
        Ok(ChunkPiece::Piece(piece))
    }

    /// Parses up to the next byte of the body, or its end.
    fn pass_lines(&mut self, input: &mut Bytes) -> Result<(), BrokenChunks> {
        while self.at != ChunkState::Data && self.at != ChunkState::End && !input.is_empty() {
            let byte = input[0];
            input.advance(1);
            self.at = self.step(byte)?;
        }
        Ok(())
    }

    pub(super) fn has_ended(&self) -> bool {
        self.at == ChunkState::End
    }

    /// The trailers of a body that has ended; `None` if there are none, or they are malformed.
    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        if self.trailers.is_empty() {
            return None;
        }
        let lines = [&std::mem::take(&mut self.trailers)[..], b"\r\n"].concat();
        let mut fields = [httparse::EMPTY_HEADER; MOST_TRAILERS];
        let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&lines, &mut fields) else {
            return None;
        };
        let field = |field: &httparse::Header<'_>| {
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(field.value).ok()?))
        };
        Some(fields.iter().filter_map(field).collect())
    }

    fn step(&mut self, byte: u8) -> Result<ChunkState, BrokenChunks> {
        if matches!(self.at, ChunkState::TrailerLine | ChunkState::TrailerLf)
            || self.at == ChunkState::Trailer && byte != b'\r'
        {
            self.trailers.push(byte);
        }
        Ok(match (self.at, byte) {
            (ChunkState::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.digits += 1;
                if self.digits > MOST_DIGITS {
                    return Err(BrokenChunks);
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                self.left = self.left << 4 | u64::from(digit);
                ChunkState::Size
            }
            (ChunkState::Size, _) if self.digits == 0 => return Err(BrokenChunks),
            (ChunkState::Size, b'\r') => ChunkState::SizeLf,
            (ChunkState::Size, b';' | b' ' | b'\t') => ChunkState::Extension,
            (ChunkState::Extension, b'\r') => ChunkState::SizeLf,
            (ChunkState::Extension | ChunkState::TrailerLine, byte) if byte != b'\n' && byte != b'\r' => {
                self.pass_over()?
            }
            (ChunkState::SizeLf, b'\n') => {
                self.digits = 0;
                if self.left == 0 {
                    ChunkState::Trailer
                } else {
                    ChunkState::Data
                }
            }
            (ChunkState::DataCr, b'\r') => ChunkState::DataLf,
            (ChunkState::DataLf, b'\n') => ChunkState::Size,
            (ChunkState::Trailer, b'\r') => ChunkState::LastLf,
            (ChunkState::Trailer, byte) if byte != b'\n' => {
                self.at = ChunkState::TrailerLine;
                self.pass_over()?
            }
            (ChunkState::TrailerLine, b'\r') => ChunkState::TrailerLf,
            (ChunkState::TrailerLf, b'\n') => ChunkState::Trailer,
            (ChunkState::LastLf, b'\n') => ChunkState::End,
            _ => return Err(BrokenChunks),
        })
    }

    fn pass_over(&mut self) -> Result<ChunkState, BrokenChunks> {
        self.passed_over += 1;
        if self.passed_over > MOST_PASSED_OVER {
            Err(BrokenChunks)
        } else {
            Ok(self.at)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The body, the bytes behind it, and true if it has ended; the input is cut into pieces of this size.
    fn read(text: &[u8], size: usize) -> Result<(Vec<u8>, Vec<u8>, bool), BrokenChunks> {
        let (mut chunks, mut body, mut rest) = (ChunkDecoder::default(), Vec::new(), Vec::new());
        for piece in text.chunks(size) {
            let mut input = Bytes::copy_from_slice(piece);
            while let ChunkPiece::Piece(piece) = chunks.next(&mut input)? {
                body.extend_from_slice(&piece);
            }
            rest.extend_from_slice(&input);
        }
        Ok((body, rest, chunks.has_ended()))
    }

    #[test]
    fn chunks_and_what_is_none() {
        for size in 1..40 {
            let whole = b"5\r\nhello\r\n0A;a=\"b\"\r\n, brothers\r\n0 \r\nA: b\r\nC: d\r\n\r\nnext";
            let (body, rest, ended) = read(whole, size).unwrap();
            assert_eq!((&body[..], &rest[..], ended), (&b"hello, brothers"[..], &b"next"[..], true));
            assert!(!read(b"5\r\nhello\r\n0\r\n", size).unwrap().2);
            for wrong in [
                "\r\n",
                "-5\r\n",
                "0x5\r\n",
                "g\r\n",
                "5\n",
                "5;a\n",
                "4\r\nhello\r\n",
                "1\r\na\n",
                " 5\r\n",
                "10000000000000005\r\n",
                "0\r\n\n",
                "0\r\na\n\r\n",
                "0\r\n\rX",
                "5\r\r\n",
            ] {
                assert_eq!(read(wrong.as_bytes(), size), Err(BrokenChunks), "{wrong:?}");
            }
        }
        let long = format!("5;{}", "a".repeat(MOST_PASSED_OVER + 1));
        assert_eq!(read(long.as_bytes(), 1000), Err(BrokenChunks));
        // The largest size is one that no body reaches.
        assert!(read(b"ffffffffffffffff\r\nhello", 3).is_ok());
    }

    proptest! {
        #[test]
        fn any_body_comes_back(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..10),
            size in 1_usize..60,
        ) {
            let mut text = Vec::new();
            for piece in &pieces {
                text.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                text.extend_from_slice(piece);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(read(&text, size).unwrap(), (pieces.concat(), Vec::new(), true));
        }

        #[test]
        fn anything_may_come(noise in proptest::collection::vec(any::<u8>(), 0..200), size in 1_usize..60) {
            drop(read(&noise, size));
        }
    }
}
