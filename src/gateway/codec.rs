//! A coding that is put on, or taken off, a body on its way.

use crate::{
    config,
    representation::{
        stream::{Decoder, Encoder},
        transform::Transform,
    },
};
use bytes::{Bytes, BytesMut};
use std::io::{self, ErrorKind};

/// A smaller piece comes from an origin that dribbles: what there is of it goes out at once.
const DRIBBLE: usize = 8 * 1024;
/// One piece that has to go on as one and decodes to more than this is not decoded: a few bytes could stand for
/// gigabytes, and Pingora holds several pieces at a time.
const MOST_OF_A_PIECE: usize = 8 << 20;

/// A coding on its way.
pub(super) enum Codec {
    Encode(Option<Encoder>),
    Decode(Option<Decoder>),
}

impl Codec {
    /// For what was planned; `length` is the body's, where it is known.
    ///
    /// # Errors
    /// What the codec reports, such as a lack of memory.
    pub(super) fn new(
        transform: Transform,
        rules: &config::Encoding,
        length: Option<u64>,
    ) -> io::Result<Self> {
        Ok(match transform {
            Transform::Encode(coding) => {
                let level = rules.levels.get(&coding).copied().unwrap_or_default();
                Self::Encode(Some(Encoder::new(coding, level, length)?))
            }
            Transform::Decode(coding) => Self::Decode(Some(Decoder::new(coding)?)),
        })
    }

    /// What comes of a piece at first; the rest is what [`Self::more`] gives.
    ///
    /// # Errors
    /// If it can't be decoded.
    pub(super) fn begin(&mut self, piece: Bytes) -> io::Result<Bytes> {
        match self {
            Self::Encode(Some(encoder)) if !piece.is_empty() => encoder.push(&piece, piece.len() < DRIBBLE),
            Self::Decode(Some(decoder)) if !piece.is_empty() => {
                decoder.push(piece);
                self.more()
            }
            _ => Ok(Bytes::new()),
        }
    }

    /// What else comes of the piece; nothing: that was all.
    ///
    /// # Errors
    /// If it can't be decoded.
    pub(super) fn more(&mut self) -> io::Result<Bytes> {
        match self {
            Self::Decode(Some(decoder)) => Ok(decoder.pull()?.unwrap_or_default()),
            _ => Ok(Bytes::new()),
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
        match self {
            Self::Encode(encoder) => encoder.take().map_or(Ok(Bytes::new()), Encoder::finish),
            Self::Decode(decoder) => decoder.take().map_or(Ok(()), Decoder::finish).map(|()| Bytes::new()),
        }
    }
}
