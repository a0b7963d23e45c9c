//! Reads a file in pieces, for a connection that takes them one by one.
//!
//! Pieces in the page cache are read on the serving thread (`RWF_NOWAIT`: the read fails if it would have to
//! wait for the disk). If a piece isn't there, the next ones are read on threads that may block, one piece
//! ahead of the connection. A file is never in memory as a whole, and a positioned read shares no state with
//! other readers of the file.

use super::{nowait, root::OpenFile};
use bytes::{Bytes, BytesMut};
use std::{io, ops::Range, os::unix::fs::FileExt, sync::Arc};
use tokio::task::JoinHandle;

/// The size of one read in bytes. Pieces of 64 KiB cost some 8 % more CPU time per byte, of 1 MiB some 5 %
/// less.
pub(crate) const PIECE_BYTES: usize = 256 * 1024;

/// The number of pieces read on other threads before the page cache is tried again: the pieces after one on
/// the disk are likely to be on the disk as well.
const COLD_PIECES: u32 = 32;

/// A part of a file, read piece by piece.
#[derive(Debug)]
pub(crate) struct FileReader {
    opened: Arc<OpenFile>,
    at: u64,
    end: u64,
    most: usize,
    /// The buffer for the next piece.
    spare: Option<BytesMut>,
    /// The number of pieces that are still to be read on other threads.
    cold: u32,
    ahead: Option<JoinHandle<io::Result<BytesMut>>>,
}

impl FileReader {
    /// Reads these bytes of a file, in pieces of at most `most` bytes.
    pub(crate) fn new(opened: Arc<OpenFile>, range: Range<u64>, most: usize) -> Self {
        let most = most.clamp(1, PIECE_BYTES);
        Self { opened, at: range.start, end: range.end, most, spare: None, cold: 0, ahead: None }
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// If the file can't be read, or is shorter than it was.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let mut piece = match self.ahead.take() {
            Some(ahead) => ahead.await??,
            None => self.begin().await?,
        };
        if piece.is_empty() {
            return Err(truncated_error());
        }
        let left = self.end - self.at;
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX).min(piece.len()));
        self.at += piece.len() as u64;
        self.cold = self.cold.saturating_sub(1);
        if self.cold > 0 && self.at < self.end {
            self.ahead = Some(self.fetch());
        }
        Ok(Some(piece.freeze()))
    }

    /// Takes back a piece that is no longer used: the next one is read into its memory.
    pub(crate) fn recycle(&mut self, piece: Bytes) {
        self.spare = piece.try_into_mut().ok();
    }

    async fn begin(&mut self) -> io::Result<BytesMut> {
        if self.cold == 0 {
            let mut buffer = self.buffer();
            if let Some(read) = nowait::read(&self.opened.file, &mut buffer, self.at)? {
                buffer.truncate(read);
                return Ok(buffer);
            }
            self.spare = Some(buffer);
            self.cold = COLD_PIECES;
        }
        self.fetch().await?
    }

    /// Reads the next piece on a thread that may block.
    fn fetch(&mut self) -> JoinHandle<io::Result<BytesMut>> {
        let (opened, at, mut buffer) = (self.opened.clone(), self.at, self.buffer());
        tokio::task::spawn_blocking(move || {
            let read = retry_interrupted(|| opened.file.read_at(&mut buffer, at))?;
            buffer.truncate(read);
            Ok(buffer)
        })
    }

    /// A buffer for the next piece.
    fn buffer(&mut self) -> BytesMut {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let length = left.min(self.most);
        let mut buffer = self.spare.take().unwrap_or_default();
        buffer.resize(length, 0);
        buffer
    }
}

fn retry_interrupted(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Returns true if a part of a file is probably in the page cache, by a few samples: the kernel seldom reads
/// or evicts a single page.
///
/// # Errors
/// If the file can't be read, or is shorter.
pub(crate) fn is_in_page_cache(opened: &OpenFile, range: &Range<u64>) -> io::Result<bool> {
    const EVERY: usize = 128 * 1024;
    let last = range.end.saturating_sub(1);
    for at in range.clone().step_by(EVERY).chain([last]) {
        match nowait::read(&opened.file, &mut [0], at)? {
            None => return Ok(false),
            Some(0) => return Err(truncated_error()),
            Some(_) => {}
        }
    }
    Ok(true)
}

fn truncated_error() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a file became shorter while it was sent")
}

/// The time to wait after `sent` bytes in `elapsed` to stay at `rate` bytes a second.
pub(crate) fn pacing_pause(sent: u64, rate: u64, elapsed: std::time::Duration) -> std::time::Duration {
    let due = u128::from(sent) * 1_000_000_000 / u128::from(rate.max(1));
    let due = std::time::Duration::from_nanos(u64::try_from(due).unwrap_or(u64::MAX));
    due.saturating_sub(elapsed)
}

/// The size of pieces at a rate in bytes a second: a fifth of a second's worth, for a steady flow.
pub(crate) fn piece_size_at(rate: u64) -> usize {
    usize::try_from(rate / 5).unwrap_or(PIECE_BYTES).clamp(1024, PIECE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::answer::FileIdentity;

    use std::{io::Write, time::Duration};

    fn file(length: usize) -> (Arc<OpenFile>, Vec<u8>) {
        let content: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        (
            Arc::new(OpenFile {
                file,
                stamp: FileIdentity { length: length as u64, ..FileIdentity::default() },
            }),
            content,
        )
    }

    async fn all(mut reader: FileReader) -> Vec<u8> {
        let mut read = Vec::new();
        while let Some(piece) = reader.next().await.unwrap() {
            assert!(piece.len() <= reader.most);
            read.extend_from_slice(&piece);
            reader.recycle(piece);
        }
        read
    }

    /// Needs a file system in memory, as on every Linux with /dev/shm.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_file_in_memory_is_always_at_hand() {
        let Ok(mut file) = tempfile::tempfile_in("/dev/shm") else { return };
        let content = vec![7; 3 * PIECE_BYTES];
        file.write_all(&content).unwrap();
        let opened = Arc::new(OpenFile {
            file,
            stamp: FileIdentity { length: content.len() as u64, ..FileIdentity::default() },
        });
        assert!(is_in_page_cache(&opened, &(0..opened.stamp.length)).unwrap());
        assert!(is_in_page_cache(&opened, &(0..opened.stamp.length + 1)).is_err());
        let mut reader = FileReader::new(opened.clone(), 0..opened.stamp.length, PIECE_BYTES);
        reader.next().await.unwrap();
        assert_eq!(reader.cold, 0, "no other thread was asked");
    }

    #[tokio::test]
    async fn a_part_is_read_whole_in_pieces_hot_and_cold() {
        let (file, content) = file(3 * PIECE_BYTES + 17);
        for range in [
            0..content.len(),
            5..6,
            PIECE_BYTES - 1..PIECE_BYTES + 1,
            PIECE_BYTES..2 * PIECE_BYTES,
            9..2 * PIECE_BYTES,
            7..7,
        ] {
            for cold in [0, 2, COLD_PIECES] {
                let within = range.start as u64..range.end as u64;
                let reader = FileReader { cold, ..FileReader::new(file.clone(), within, PIECE_BYTES) };
                assert_eq!(all(reader).await, content[range.clone()], "{range:?} {cold}");
            }
        }
        assert_eq!(all(FileReader::new(file, 0..5000, 7)).await, content[..5000]);
    }

    #[tokio::test]
    async fn a_file_that_became_shorter_is_an_error() {
        let (file, _) = file(PIECE_BYTES + 100);
        for cold in [0, COLD_PIECES] {
            let mut reader =
                FileReader { cold, ..FileReader::new(file.clone(), 0..2 * PIECE_BYTES as u64, PIECE_BYTES) };
            assert_eq!(reader.next().await.unwrap().unwrap().len(), PIECE_BYTES);
            assert_eq!(reader.next().await.unwrap().unwrap().len(), 100);
            assert_eq!(reader.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn who_is_limited_waits_for_what_was_sent() {
        let second = Duration::from_secs(1);
        assert_eq!(pacing_pause(1000, 1000, Duration::ZERO), second);
        assert_eq!(pacing_pause(1000, 1000, second), Duration::ZERO);
        assert_eq!(pacing_pause(2000, 1000, second), second);
        assert_eq!(pacing_pause(u64::MAX, 1, Duration::ZERO), Duration::from_nanos(u64::MAX));
        assert_eq!(pacing_pause(1, 0, second), Duration::ZERO);
        assert_eq!(
            (piece_size_at(1), piece_size_at(100_000), piece_size_at(u64::MAX)),
            (1024, 20_000, PIECE_BYTES)
        );
    }
}
