//! The body of a file: read piece by piece, or passed to a connection that sends files by itself.

use crate::{
    files::{
        answer::FilePiece,
        root::OpenFile,
        send::{self, FileReader},
    },
    gateway::{
        body::pacing::PacedBody,
        context::{file_handover::HANDOVER_BYTES, signals::ConnectionSignals},
    },
};

use bytes::Bytes;
use pingora_core::{Error, ErrorType, Result};
use std::{collections::VecDeque, io, ops::Range, sync::Arc};

/// The number of bytes that are read after the disk had to be waited for, before `sendfile` is used again.
const COLD_BYTES: u64 = 8 << 20;

/// The pieces of a file that is being sent.
pub(crate) struct FilePieces {
    opened: Arc<OpenFile>,
    left: VecDeque<FilePiece>,
    reader: Option<FileReader>,
    most: usize,
    /// The last piece: its buffer is reused if nobody else holds it any more.
    last: Bytes,
    pace: Option<PacedBody>,
    /// The connection, if it can send files by itself.
    to: Option<Arc<ConnectionSignals>>,
}

impl Drop for FilePieces {
    fn drop(&mut self) {
        self.take_back();
    }
}

impl FilePieces {
    pub(crate) fn new(
        opened: Arc<OpenFile>,
        pieces: Vec<FilePiece>,
        most: usize,
        rate: Option<u64>,
        to: Option<Arc<ConnectionSignals>>,
    ) -> Self {
        let most = rate.map_or(most, |rate| send::piece_size_at(rate).min(most));
        let (reader, last) = (None, Bytes::new());
        Self { opened, left: pieces.into(), reader, most, last, pace: rate.map(PacedBody::new), to }
    }

    /// The next piece.
    ///
    /// # Errors
    /// If the file can't be read to its end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        let piece = self.read().await.map_err(|error| {
            tracing::warn!(%error, "a file could not be sent to its end");
            Error::because(ErrorType::InternalError, "reading a file", error).into_in()
        })?;
        if let (Some(pace), Some(piece)) = (&mut self.pace, &piece) {
            pace.wait(piece.len()).await;
        }
        Ok(piece)
    }

    fn take_back(&self) {
        if let Some(to) = &self.to {
            to.file.take_back();
        }
    }

    async fn read(&mut self) -> io::Result<Option<Bytes>> {
        self.take_back();
        loop {
            if let Some(reader) = &mut self.reader {
                reader.recycle(std::mem::take(&mut self.last));
                if let Some(piece) = reader.next().await? {
                    self.last = piece.clone();
                    return Ok(Some(piece));
                }
                self.reader = None;
            }
            match self.left.pop_front() {
                None => return Ok(None),
                Some(FilePiece::Here(bytes)) => return Ok(Some(bytes)),
                Some(FilePiece::File(range)) => {
                    if let Some(handed) = self.hand(&range)? {
                        return Ok(Some(handed));
                    }
                    let end =
                        if self.to.is_some() { range.end.min(range.start + COLD_BYTES) } else { range.end };
                    self.go_on(end..range.end);
                    self.reader = Some(FileReader::new(self.opened.clone(), range.start..end, self.most));
                }
            }
        }
    }

    /// Passes the beginning of a range to the connection, if the connection can send it and the pages are in
    /// memory.
    fn hand(&mut self, range: &Range<u64>) -> io::Result<Option<Bytes>> {
        let Some(to) = self.to.clone() else { return Ok(None) };
        let most = if self.pace.is_some() { self.most } else { HANDOVER_BYTES };
        let length = usize::try_from(range.end - range.start).unwrap_or(most).min(most);
        let end = range.start + length as u64;
        if !send::is_in_page_cache(&self.opened, &(range.start..end))? {
            return Ok(None);
        }
        self.go_on(end..range.end);
        Ok(Some(to.file.hand(&self.opened, range.start, length)))
    }

    /// Makes the rest of a range the next one.
    fn go_on(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.left.push_front(FilePiece::File(range));
        }
    }
}
