//! The pieces of a body, from any of its sources.

use crate::{
    cache::fill::streaming_body::StreamReader,
    gateway::body::{file_pieces::FilePieces, pacing::PacedBody},
    origin::client::OriginResponse,
    representation::Body,
};

use bytes::Bytes;
use pingora_core::{ErrorType, OrErr, Result};

/// The source of the pieces of a body.
pub(crate) enum BodyPieces {
    Here(Body),
    Arriving(StreamReader),
    File(Box<FilePieces>),
    /// At most at the given rate, if there is one.
    Origin(Box<OriginResponse>, Option<PacedBody>),
}

impl BodyPieces {
    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        match self {
            Self::Here(body) => {
                let first = body.pieces().next().cloned();
                if let Some(first) = &first {
                    *body = body.slice(first.len() as u64..body.len());
                }
                Ok(first)
            }
            Self::Arriving(reader) => reader.next().await.or_err(ErrorType::ReadError, "the origin's answer"),
            Self::File(pieces) => pieces.next().await,
            Self::Origin(answering, pace) => {
                let piece = answering.next().await.or_err(ErrorType::ReadError, "the origin's answer")?;
                if let (Some(pace), Some(piece)) = (pace, &piece) {
                    pace.wait(piece.len()).await;
                }
                Ok(piece)
            }
        }
    }
}
