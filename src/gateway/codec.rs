//! A coding that is put on, or taken off, a body on its way.
//!
//! Encoding takes its time: brotli works on 64 KiB and more at once, at its highest levels for half a second. That happens
//! off the threads that serve requests, at most [`TURN`] bytes at a time, and on half of the processors at most. What all
//! codings on their way hold is counted: beyond `memory` of `[encoding]`, and where too many wait for their turn, answers
//! go out plain.

use crate::{
    config,
    representation::{
        stream::{decoder_memory, encoder_memory, Decoder, Encoder},
        transform::Transform,
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

/// What is encoded in one turn, at most.
pub(super) const TURN: usize = 64 * 1024;
/// A smaller piece comes from an origin that dribbles: what there is of it goes out at once.
const DRIBBLE: usize = 8 * 1024;
/// One piece that has to go on as one and decodes to more than this is not decoded: a few bytes could stand for
/// gigabytes, and Pingora holds several pieces at a time.
const MOST_OF_A_PIECE: usize = 8 << 20;
/// Encoders that may wait for a turn, for each that may have one.
const WAITING: usize = 8;
/// A longer body is encoded as one whose length isn't known: with a window of that size.
const LARGEST_KNOWN: u64 = 512 << 10;
/// The factor by which decoders may hold more than encoders: in their place nothing else can be sent.
const DECODERS_SHARE: u64 = 4;

/// What all codings on their way take of the node.
pub(super) struct Codecs {
    held: AtomicU64,
    turns: Semaphore,
    waiting: AtomicUsize,
    most_waiting: usize,
    metrics: Arc<Metrics>,
}

impl Codecs {
    pub(super) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = (processors / 2).max(1);
        let (held, waiting) = (AtomicU64::new(0), AtomicUsize::new(0));
        Arc::new(Self { held, turns: Semaphore::new(turns), waiting, most_waiting: turns * WAITING, metrics })
    }

    /// A codec for what was planned; `length` is the body's, where it is known. `None`: there is no room for it.
    ///
    /// # Errors
    /// What the codec reports, such as a lack of memory.
    pub(super) fn begin(
        self: &Arc<Self>,
        transform: Transform,
        rules: &config::Encoding,
        length: Option<u64>,
    ) -> io::Result<Option<Codec>> {
        // A larger window would be held for each of them.
        let length = length.filter(|length| *length <= LARGEST_KNOWN);
        let level = |coding| rules.levels.get(&coding).copied().unwrap_or_default();
        let claim = match transform {
            Transform::Encode(_) if self.waiting.load(Ordering::Relaxed) >= self.most_waiting => None,
            Transform::Encode(coding) => {
                self.claim(encoder_memory(coding, level(coding), length), rules.memory)
            }
            Transform::Decode(coding) => {
                self.claim(decoder_memory(coding), rules.memory.saturating_mul(DECODERS_SHARE).max(1 << 26))
            }
        };
        let Some(claim) = claim else {
            self.metrics.coding_refused();
            return Ok(None);
        };
        let way = match transform {
            Transform::Encode(coding) => {
                let encoder = Some(Encoder::new(coding, level(coding), length)?);
                Way::Encode(Encoding { encoder, left: Bytes::new(), dribbles: false, kept: 0 })
            }
            Transform::Decode(coding) => Way::Decode(Some(Decoder::new(coding)?)),
        };
        Ok(Some(Codec { way, claim }))
    }

    fn claim(self: &Arc<Self>, bytes: u64, limit: u64) -> Option<Claim> {
        let more = |held: u64| held.checked_add(bytes).filter(|held| *held <= limit);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        self.metrics.codecs_hold(bytes.try_into().unwrap_or(i64::MAX));
        Some(Claim { codecs: self.clone(), bytes })
    }

    /// Does what takes its time, when it is its turn: other tasks of this thread go on on another one.
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

/// Memory that was set aside.
struct Claim {
    codecs: Arc<Codecs>,
    bytes: u64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.codecs.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.codecs.metrics.codecs_hold(self.bytes.try_into().map_or(i64::MIN, |bytes: i64| -bytes));
    }
}

/// A coding on its way.
pub(super) struct Codec {
    way: Way,
    claim: Claim,
}

enum Way {
    Encode(Encoding),
    Decode(Option<Decoder>),
}

struct Encoding {
    encoder: Option<Encoder>,
    /// What is still to be encoded of a piece.
    left: Bytes,
    /// Tells whether the piece goes out at once.
    dribbles: bool,
    /// What the encoder may have held back of what it was given.
    kept: usize,
}

impl Encoding {
    fn more(&mut self, codecs: &Codecs) -> io::Result<Bytes> {
        let Some(encoder) = &mut self.encoder else { return Ok(Bytes::new()) };
        while !self.left.is_empty() {
            let piece = self.left.split_to(self.left.len().min(TURN));
            self.kept += piece.len();
            let made = match self.kept < DRIBBLE {
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

    fn end(&mut self, codecs: &Codecs) -> io::Result<Bytes> {
        let Some(encoder) = self.encoder.take() else { return Ok(Bytes::new()) };
        match self.kept < DRIBBLE {
            true => encoder.finish(),
            false => codecs.turn(|| encoder.finish()),
        }
    }
}

impl Codec {
    /// What comes of a piece at first; the rest is what [`Self::more`] gives.
    ///
    /// # Errors
    /// If it can't be decoded.
    pub(super) fn begin(&mut self, piece: Bytes) -> io::Result<Bytes> {
        match &mut self.way {
            _ if piece.is_empty() => return Ok(Bytes::new()),
            Way::Encode(encoding) => {
                encoding.dribbles = piece.len() < DRIBBLE;
                encoding.left = piece;
            }
            Way::Decode(Some(decoder)) => decoder.push(piece),
            Way::Decode(None) => {}
        }
        self.more()
    }

    /// What else comes of the piece; nothing: that was all.
    ///
    /// # Errors
    /// If it can't be decoded.
    pub(super) fn more(&mut self) -> io::Result<Bytes> {
        match &mut self.way {
            Way::Encode(encoding) => encoding.more(&self.claim.codecs),
            Way::Decode(Some(decoder)) => Ok(decoder.pull()?.unwrap_or_default()),
            Way::Decode(None) => Ok(Bytes::new()),
        }
    }

    /// All that comes of a piece, where it has to go on as one.
    ///
    /// # Errors
    /// If it can't be decoded, or decodes to too much.
    pub(super) fn pass(&mut self, piece: Bytes) -> io::Result<Bytes> {
        let first = self.begin(piece)?;
        let (mut length, mut rest) = (first.len(), Vec::new());
        loop {
            let more = self.more()?;
            if more.is_empty() {
                break;
            }
            length += more.len();
            if length > MOST_OF_A_PIECE {
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

    /// What is left at the end.
    ///
    /// # Errors
    /// If the body was cut short.
    pub(super) fn end(&mut self) -> io::Result<Bytes> {
        match &mut self.way {
            Way::Encode(encoding) => encoding.end(&self.claim.codecs),
            Way::Decode(decoder) => decoder.take().map_or(Ok(()), Decoder::finish).map(|()| Bytes::new()),
        }
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
