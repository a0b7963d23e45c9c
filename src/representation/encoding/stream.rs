//! Streaming codecs: an encoder and a decoder that take a body piece by piece.
//!
//! Neither holds more than its window and the input of the last push: the encoder returns its output with
//! each push, the decoder is asked for one bounded piece after the other, so that a small input that decodes
//! to a huge output costs only a caller that goes on asking. `transform` decides which bodies are recoded and
//! how the head changes. RFC 1952 (gzip), RFC 7932 (br), RFC 8878 with the window of RFC 9659 (zstd).

use crate::config::ContentCoding;
use brotli::{enc::StandardAlloc, BrotliDecompressStream, BrotliResult, BrotliState};
use bytes::{Buf, Bytes};
use flate2::{Decompress, FlushDecompress, Status};
use std::io::{self, ErrorKind, Write};
use zstd::stream::raw::{self, DParameter, Operation};

/// The most bytes that a decoder returns at once.
pub const PIECE_BYTES: usize = 64 << 10;

/// The window of a stream whose length is unknown, as a power of two: 512 KiB. It is held per stream.
const WINDOW_BITS: u32 = 19;
/// The largest window: brotli's default, and below the least that a client must support for zstd (RFC 9659:
/// 23).
const MAX_WINDOW_BITS: u32 = 22;

/// Encodes a body piece by piece.
pub struct Encoder(EncoderState);

enum EncoderState {
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
}

/// The approximate memory of an encoder in bytes: its window, its tables and its pending output. Brotli: ring
/// buffer, hasher (`ChooseHasher`) and commands of a block; zstd: by its levels, bounded by the window.
pub fn encoder_memory(coding: ContentCoding, level: i32, length: Option<u64>) -> u64 {
    let bits = length.map_or(WINDOW_BITS, window_bits);
    match coding {
        ContentCoding::Gzip => 320 << 10,
        ContentCoding::Zstd => {
            let tables = match level {
                ..=3 => 1 << 20,
                4..=9 => 4 << 20,
                10..=15 => 16 << 20,
                16..=19 => 32 << 20,
                _ => 96 << 20,
            };
            (1 << bits) + (512 << 10) + tables.min(16 << bits)
        }
        ContentCoding::Brotli => {
            let block = match level {
                ..=1 => bits,
                2..=3 => 14,
                4..=8 => 16,
                _ => bits.min(18),
            };
            let hasher = match level {
                ..=1 => 1 << 17,
                2..=4 => 4 << 20,
                5..=6 if length.is_none_or(|length| length <= 1 << 22) => 4 << (14 + level - 1),
                5..=8 => 4 << (15 + level - 1),
                9 => 32 << 20,
                _ => (8 << bits) + (1 << 19),
            };
            (2 << bits.max(block)) + (16 << block) + hasher.min(16 << bits)
        }
    }
}

/// The approximate most memory of a decoder, in bytes, for the output of usual encoders.
pub fn decoder_memory(coding: ContentCoding) -> u64 {
    let window = match coding {
        ContentCoding::Gzip => 1 << 15,
        ContentCoding::Brotli => 1 << MAX_WINDOW_BITS,
        ContentCoding::Zstd => 1 << 23,
    };
    window + 2 * PIECE_BYTES as u64
}

impl Encoder {
    /// An encoder at a level of the coding's own, clamped to its range. `length` is the body's exact length
    /// in bytes, if it is known: it allows a better fit.
    ///
    /// # Errors
    /// The encoder's error, such as a lack of memory.
    pub fn new(coding: ContentCoding, level: i32, length: Option<u64>) -> io::Result<Self> {
        Ok(Self(match coding {
            ContentCoding::Brotli => {
                let params = brotli::enc::BrotliEncoderParams {
                    quality: level.clamp(0, 11),
                    lgwin: length.map_or(WINDOW_BITS, window_bits).try_into().unwrap_or_default(),
                    size_hint: length.unwrap_or_default().try_into().unwrap_or_default(),
                    ..Default::default()
                };
                EncoderState::Brotli(Box::new(brotli::CompressorWriter::with_params(
                    vec![],
                    4 << 10,
                    &params,
                )))
            }
            ContentCoding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(vec![], level)?;
                encoder.set_pledged_src_size(length)?;
                match length {
                    None => encoder.window_log(WINDOW_BITS)?,
                    // The highest levels would take a larger window than a client has to support.
                    Some(_) if level > 19 => encoder.window_log(MAX_WINDOW_BITS)?,
                    Some(_) => {}
                }
                EncoderState::Zstd(encoder)
            }
            ContentCoding::Gzip => {
                let level = flate2::Compression::new(level.clamp(0, 9).unsigned_abs());
                EncoderState::Gzip(flate2::write::GzEncoder::new(vec![], level))
            }
        }))
    }

    /// Takes a piece and returns the output so far. With `flush` that covers all input so far, at the cost of
    /// some bytes; without it the encoder may hold back much of it.
    ///
    /// # Errors
    /// The encoder's error.
    pub fn push(&mut self, piece: &[u8], flush: bool) -> io::Result<Bytes> {
        self.write(piece)?;
        if flush {
            self.writer().flush()?;
        }
        Ok(std::mem::take(self.made()).into())
    }

    /// Takes a piece; the output stays in the encoder.
    pub(crate) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.writer().write_all(piece)
    }

    /// The output that was not taken yet.
    pub(crate) fn made(&mut self) -> &mut Vec<u8> {
        match &mut self.0 {
            EncoderState::Brotli(encoder) => encoder.get_mut(),
            EncoderState::Zstd(encoder) => encoder.get_mut(),
            EncoderState::Gzip(encoder) => encoder.get_mut(),
        }
    }

    /// Returns the end of the encoded body.
    ///
    /// # Errors
    /// The encoder's error, including a body of another length than it was given.
    pub fn finish(self) -> io::Result<Bytes> {
        let rest = match self.0 {
            EncoderState::Brotli(encoder) => encoder.into_inner(),
            EncoderState::Zstd(encoder) => encoder.finish()?,
            EncoderState::Gzip(encoder) => encoder.finish()?,
        };
        Ok(rest.into())
    }

    fn writer(&mut self) -> &mut dyn Write {
        match &mut self.0 {
            EncoderState::Brotli(encoder) => encoder,
            EncoderState::Zstd(encoder) => encoder,
            EncoderState::Gzip(encoder) => encoder,
        }
    }
}

/// The smallest window (RFC 7932, 9.1: 2^n − 16 bytes, n from 10 to 24) that sees all of `length` bytes, up
/// to brotli's default of 22: neither side then sets memory aside that it can't use.
fn window_bits(length: u64) -> u32 {
    (10..MAX_WINDOW_BITS).find(|&bits| length <= (1_u64 << bits) - 16).unwrap_or(MAX_WINDOW_BITS)
}

/// Decodes a body piece by piece: all output of a push has to be pulled before the next one.
pub struct Decoder {
    decoding: DecoderState,
    input: Bytes,
    room: Box<[u8]>,
    /// The last piece filled all room: there may be more output without further input.
    full: bool,
    at: DecoderPosition,
}

enum DecoderState {
    Brotli(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>),
    Zstd(raw::Decoder<'static>),
    Gzip(Decompress),
}

/// The position of a decoder in its input.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DecoderPosition {
    /// Nothing has been read yet.
    Begin,
    Within,
    /// The coding's own end has been read.
    End,
}

/// The result of one step of a decoder.
struct DecoderStep {
    read: usize,
    written: usize,
    ended: bool,
}

impl Decoder {
    /// A decoder of a coding.
    ///
    /// # Errors
    /// If memory is short.
    pub fn new(coding: ContentCoding) -> io::Result<Self> {
        let decoding = match coding {
            ContentCoding::Brotli => {
                let alloc = StandardAlloc::default;
                // Strict: without the large windows that are no part of the coding `br`.
                DecoderState::Brotli(Box::new(BrotliState::new_strict(alloc(), alloc(), alloc())))
            }
            ContentCoding::Zstd => {
                let mut decoder = raw::Decoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(23))?;
                DecoderState::Zstd(decoder)
            }
            ContentCoding::Gzip => DecoderState::Gzip(gzip_decoder()),
        };
        let room = vec![0; PIECE_BYTES].into_boxed_slice();
        Ok(Self { decoding, input: Bytes::new(), room, full: false, at: DecoderPosition::Begin })
    }

    /// Takes a piece, whose decoded output is then pulled. The rest of the last one comes first.
    pub fn push(&mut self, piece: Bytes) {
        self.input = if self.input.is_empty() { piece } else { [&self.input[..], &piece].concat().into() };
    }

    /// The next decoded piece, at most [`PIECE_BYTES`] long; `None`: push, or finish.
    ///
    /// # Errors
    /// If the input is not of this coding, or continues after its end.
    pub fn pull(&mut self) -> io::Result<Option<Bytes>> {
        while !self.input.is_empty() || self.full {
            if self.at == DecoderPosition::End {
                self.decoding.go_on_behind_end()?;
            }
            let step = self.decoding.step(&self.input, &mut self.room)?;
            if step.read == 0 && step.written == 0 && !self.input.is_empty() {
                return Err(ErrorKind::InvalidData.into());
            }
            self.input.advance(step.read);
            self.at = if step.ended { DecoderPosition::End } else { DecoderPosition::Within };
            self.full = step.written == self.room.len() && !step.ended;
            if step.written > 0 {
                return Ok(Some(Bytes::copy_from_slice(&self.room[..step.written])));
            }
        }
        Ok(None)
    }

    /// Ends the decoding after all output was pulled. Empty input counts as an empty body.
    ///
    /// # Errors
    /// If the input was cut short.
    pub fn finish(self) -> io::Result<()> {
        let complete = self.at != DecoderPosition::Within && self.input.is_empty();
        if complete {
            Ok(())
        } else {
            Err(ErrorKind::UnexpectedEof.into())
        }
    }
}

fn gzip_decoder() -> Decompress {
    Decompress::new_gzip(15)
}

impl DecoderState {
    /// Handles input after the end: another member or frame, if the coding has such.
    fn go_on_behind_end(&mut self) -> io::Result<()> {
        match self {
            Self::Brotli(_) => return Err(ErrorKind::InvalidData.into()),
            Self::Zstd(_) => {}
            Self::Gzip(decompress) => *decompress = gzip_decoder(),
        }
        Ok(())
    }

    fn step(&mut self, input: &[u8], room: &mut [u8]) -> io::Result<DecoderStep> {
        match self {
            Self::Brotli(state) => step_brotli(state, input, room),
            Self::Zstd(decoder) => {
                let status = decoder.run_on_buffers(input, room)?;
                let ended = status.remaining == 0;
                Ok(DecoderStep { read: status.bytes_read, written: status.bytes_written, ended })
            }
            Self::Gzip(decompress) => {
                let (read, written) = (decompress.total_in(), decompress.total_out());
                let status = decompress.decompress(input, room, FlushDecompress::None)?;
                Ok(DecoderStep {
                    read: (decompress.total_in() - read) as usize,
                    written: (decompress.total_out() - written) as usize,
                    ended: status == Status::StreamEnd,
                })
            }
        }
    }
}

fn step_brotli(
    state: &mut BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    input: &[u8],
    room: &mut [u8],
) -> io::Result<DecoderStep> {
    let (mut in_left, mut read, mut out_left, mut written) = (input.len(), 0, room.len(), 0);
    let mut total = 0;
    let result = BrotliDecompressStream(
        &mut in_left,
        &mut read,
        input,
        &mut out_left,
        &mut written,
        room,
        &mut total,
        state,
    );
    match result {
        BrotliResult::ResultFailure => Err(ErrorKind::InvalidData.into()),
        result => Ok(DecoderStep { read, written, ended: matches!(result, BrotliResult::ResultSuccess) }),
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
