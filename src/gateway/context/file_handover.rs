//! Parts of files that a connection sends by itself (`sendfile`).
//!
//! The gateway writes as many placeholder bytes as the part has, and the connection sends the file's bytes
//! instead: framing, counting, timeouts and keep-alive remain Pingora's as with every body. Parts are only
//! handed to a connection that offers this; elsewhere the file's bytes are read and written.

use crate::files::root::OpenFile;

use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    fs::File,
    io,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, LazyLock,
    },
    task::{ready, Poll},
};

/// The most bytes that are handed over at once.
pub(crate) const HANDOVER_BYTES: usize = 1 << 20;

/// The placeholder that is written for a part. Its bytes are never read, so that no physical memory is used.
static BLANK_BYTES: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; HANDOVER_BYTES]));

/// The state that the gateway and a connection share.
#[derive(Debug, Default)]
pub struct FileHandover {
    offered: AtomicBool,
    there: AtomicBool,
    part: Mutex<Option<(Arc<OpenFile>, u64)>>,
    /// True if a file ended before its part did.
    short: AtomicBool,
}

impl FileHandover {
    /// Notes that the connection can send parts of files.
    pub fn offer(&self) {
        self.offered.store(true, Ordering::Relaxed);
    }

    /// Returns true if the next bytes that are written are placeholders for a part.
    pub fn is_there(&self) -> bool {
        self.there.load(Ordering::Relaxed)
    }

    /// Lets `send` send some of the part, and notes how many bytes were sent.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn advance(
        &self,
        send: impl FnOnce(&File, u64) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut part = self.part.lock();
        let Some((opened, at)) = part.as_mut() else {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        let sent = ready!(send(&opened.file, *at));
        match &sent {
            Ok(sent) => *at += *sent as u64,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.short.store(true, Ordering::Relaxed);
            }
            Err(_) => {}
        }
        Poll::Ready(sent)
    }

    pub(crate) fn is_offered(&self) -> bool {
        self.offered.load(Ordering::Relaxed)
    }

    /// Hands over `length` bytes, at most [`HANDOVER_BYTES`], from `at` on; returns the placeholder to be
    /// written.
    pub(crate) fn hand(&self, opened: &Arc<OpenFile>, at: u64, length: usize) -> Bytes {
        *self.part.lock() = Some((opened.clone(), at));
        self.there.store(true, Ordering::Relaxed);
        BLANK_BYTES.slice(..length.min(HANDOVER_BYTES))
    }

    /// Returns true if a file ended before its part did; the connection is closed then.
    pub(crate) fn was_truncated(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// Ends the handover: bytes that are written from now on are real.
    pub(crate) fn take_back(&self) {
        if self.there.swap(false, Ordering::Relaxed) {
            *self.part.lock() = None;
        }
    }
}
