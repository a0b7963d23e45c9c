//! A content coding that is applied to, or removed from, a body while it is sent.
//!
//! Encoding is slow: brotli processes 64 KiB or more at once, at its highest levels for half a second. It
//! runs off the threads that serve requests, at most [`TURN_BYTES`] bytes at a time, and on half of the
//! processors at most. The memory of all active codecs is counted. If it would exceed `memory` of
//! `[encoding]`, or if too many codecs wait, answers are sent without a coding.

use crate::{
    config,
    representation::encoding::{
        stream::{decoder_memory, encoder_memory, Decoder, Encoder},
        transform::BodyTransform,
    },
    telemetry::metrics::Metrics,
};

use bytes::{Bytes, BytesMut};
use std::{
    io::{self, ErrorKind},
    sync::{
        atomic::{AtomicU64, AtomicUsize, Ordering},
        Arc,
    },
};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Semaphore,
    task::block_in_place,
};

/// The most bytes that are encoded in one turn.
pub(crate) const TURN_BYTES: usize = 64 * 1024;
/// A piece smaller than this comes from a slow origin: its bytes are flushed at once.
const SMALL_PIECE_BYTES: usize = 8 * 1024;
/// The most bytes that a piece may decode to if it has to stay one piece. A few bytes could decode to
/// gigabytes, and Pingora holds several pieces at a time.
const MAX_DECODED_PIECE: usize = 8 << 20;
/// The number of encoders that may wait, for each one that may run.
const WAITING_PER_TURN: usize = 8;
/// A body longer than this is encoded as if its length were unknown, with the window of that case.
const MAX_KNOWN_LENGTH: u64 = 512 << 10;
/// The factor by which the memory of decoders may exceed that of encoders: without a decoder the answer can't
/// be sent.
const DECODERS_SHARE: u64 = 4;

/// The memory and processors that all active codecs of this node use.
pub(crate) struct CodecBudget {
    held: AtomicU64,
    turns: Semaphore,
    waiting: AtomicUsize,
    most_waiting: usize,
    metrics: Arc<Metrics>,
}

impl CodecBudget {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = (processors / 2).max(1);
        let (held, waiting) = (AtomicU64::new(0), AtomicUsize::new(0));
        Arc::new(Self {
            held,
            turns: Semaphore::new(turns),
            waiting,
            most_waiting: turns * WAITING_PER_TURN,
            metrics,
        })
    }

    /// Creates a codec for the planned transformation; `length` is the body's, if it is known. Returns `None`
    /// if the limits of memory or of waiting codecs are reached.
    ///
    /// # Errors
    /// The error of the codec, such as a lack of memory.
    pub(crate) fn begin(
        self: &Arc<Self>,
        transform: BodyTransform,
        rules: &config::EncodingConfig,
        length: Option<u64>,
    ) -> io::Result<Option<BodyCodec>> {
        // A larger window would be allocated for each of them.
        let length = length.filter(|length| *length <= MAX_KNOWN_LENGTH);
        let level = |coding| rules.levels.get(&coding).copied().unwrap_or_default();
        let claim = match transform {
            BodyTransform::Encode(_) if self.waiting.load(Ordering::Relaxed) >= self.most_waiting => None,
            BodyTransform::Encode(coding) => {
                self.claim(encoder_memory(coding, level(coding), length), rules.memory)
            }
            BodyTransform::Decode(coding) => {
                self.claim(decoder_memory(coding), rules.memory.saturating_mul(DECODERS_SHARE).max(1 << 26))
            }
        };
        let Some(claim) = claim else {
            self.metrics.coding_refused();
            return Ok(None);
        };
        let way = match transform {
            BodyTransform::Encode(coding) => {
                let encoder = Some(Encoder::new(coding, level(coding), length)?);
                CodecDirection::Encode(RunningEncoding {
                    encoder,
                    left: Bytes::new(),
                    dribbles: false,
                    kept: 0,
                })
            }
            BodyTransform::Decode(coding) => CodecDirection::Decode(Some(Decoder::new(coding)?)),
        };
        Ok(Some(BodyCodec { way, claim }))
    }

    fn claim(self: &Arc<Self>, bytes: u64, limit: u64) -> Option<MemoryClaim> {
        let more = |held: u64| held.checked_add(bytes).filter(|held| *held <= limit);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        self.metrics.codecs_hold(bytes.try_into().unwrap_or(i64::MAX));
        Some(MemoryClaim { codecs: self.clone(), bytes })
    }

    /// Runs slow work when a permit is available; other tasks of this thread continue on another one.
    fn turn<T>(&self, work: impl FnOnce() -> T) -> T {
        let Some(runtime) = Handle::try_current().ok().filter(is_multi_threaded) else { return work() };
        block_in_place(|| {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let turn = runtime.block_on(self.turns.acquire());
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let done = work();
            drop(turn);
            done
        })
    }
}

fn is_multi_threaded(runtime: &Handle) -> bool {
    matches!(runtime.runtime_flavor(), RuntimeFlavor::MultiThread)
}

/// Reserved memory.
struct MemoryClaim {
    codecs: Arc<CodecBudget>,
    bytes: u64,
}

impl Drop for MemoryClaim {
    fn drop(&mut self) {
        self.codecs.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.codecs.metrics.codecs_hold(self.bytes.try_into().map_or(i64::MIN, |bytes: i64| -bytes));
    }
}

/// An active codec.
pub(crate) struct BodyCodec {
    way: CodecDirection,
    claim: MemoryClaim,
}

enum CodecDirection {
    Encode(RunningEncoding),
    Decode(Option<Decoder>),
}

struct RunningEncoding {
    encoder: Option<Encoder>,
    /// The rest of a piece that is still to be encoded.
    left: Bytes,
    /// True if the piece is flushed at once.
    dribbles: bool,
    /// The most bytes of the input that the encoder may have buffered.
    kept: usize,
}

impl RunningEncoding {
    fn more(&mut self, codecs: &CodecBudget) -> io::Result<Bytes> {
        let Some(encoder) = &mut self.encoder else { return Ok(Bytes::new()) };
        while !self.left.is_empty() {
            let piece = self.left.split_to(self.left.len().min(TURN_BYTES));
            self.kept += piece.len();
            let made = match self.kept < SMALL_PIECE_BYTES {
                true => encoder.push(&piece, self.dribbles)?,
                false => codecs.turn(|| encoder.push(&piece, self.dribbles))?,
            };
            if self.dribbles {
                self.kept = 0;
            }
            if !made.is_empty() {
                return Ok(made);
            }
        }
        Ok(Bytes::new())
    }

    fn end(&mut self, codecs: &CodecBudget) -> io::Result<Bytes> {
        let Some(encoder) = self.encoder.take() else { return Ok(Bytes::new()) };
        match self.kept < SMALL_PIECE_BYTES {
            true => encoder.finish(),
            false => codecs.turn(|| encoder.finish()),
        }
    }
}

impl BodyCodec {
    /// Begins to code a piece, and returns the first output; [`Self::more`] returns the rest.
    ///
    /// # Errors
    /// If it can't be decoded.
    pub(crate) fn begin(&mut self, piece: Bytes) -> io::Result<Bytes> {
        match &mut self.way {
            _ if piece.is_empty() => return Ok(Bytes::new()),
            CodecDirection::Encode(encoding) => {
                encoding.dribbles = piece.len() < SMALL_PIECE_BYTES;
                encoding.left = piece;
            }
            CodecDirection::Decode(Some(decoder)) => decoder.push(piece),
            CodecDirection::Decode(None) => {}
        }
        self.more()
    }

    /// Returns further output for the piece; it is empty at the end.
    ///
    /// # Errors
    /// If it can't be decoded.
    pub(crate) fn more(&mut self) -> io::Result<Bytes> {
        match &mut self.way {
            CodecDirection::Encode(encoding) => encoding.more(&self.claim.codecs),
            CodecDirection::Decode(Some(decoder)) => Ok(decoder.pull()?.unwrap_or_default()),
            CodecDirection::Decode(None) => Ok(Bytes::new()),
        }
    }

    /// Codes a piece and returns all of its output, where it has to stay one piece.
    ///
    /// # Errors
    /// If it can't be decoded, or decodes to too many bytes.
    pub(crate) fn pass(&mut self, piece: Bytes) -> io::Result<Bytes> {
        let first = self.begin(piece)?;
        let (mut length, mut rest) = (first.len(), Vec::new());
        loop {
            let more = self.more()?;
            if more.is_empty() {
                break;
            }
            length += more.len();
            if length > MAX_DECODED_PIECE {
                return Err(ErrorKind::InvalidData.into());
            }
            rest.push(more);
        }
        if rest.is_empty() {
            return Ok(first);
        }
        let mut whole = BytesMut::with_capacity(length);
        whole.extend_from_slice(&first);
        rest.iter().for_each(|more| whole.extend_from_slice(more));
        Ok(whole.freeze())
    }

    /// Finishes the coding, and returns the rest of the output.
    ///
    /// # Errors
    /// If the body was cut short.
    pub(crate) fn end(&mut self) -> io::Result<Bytes> {
        match &mut self.way {
            CodecDirection::Encode(encoding) => encoding.end(&self.claim.codecs),
            CodecDirection::Decode(decoder) => {
                decoder.take().map_or(Ok(()), Decoder::finish).map(|()| Bytes::new())
            }
        }
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
