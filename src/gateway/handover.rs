//! Parts of files that are handed to a connection, which sends them itself.
//!
//! The gateway writes as many bytes as the part has, and the connection sends the part's in their stead: framing,
//! counting, timeouts and keep-alive are Pingora's as with every body. Only a connection that offers it is handed
//! anything; elsewhere the bytes of the file are read and written.

use crate::files::root::Opened;
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

/// How much is handed over at once, in bytes.
pub(super) const HANDED: usize = 1 << 20;

/// What is written where a part stands for it. Nobody ever reads these bytes, and so they take no memory.
static BLANK: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; HANDED]));

/// What the gateway and a connection have in common.
#[derive(Debug, Default)]
pub struct Handover {
    offered: AtomicBool,
    there: AtomicBool,
    part: Mutex<Option<(Arc<Opened>, u64)>>,
    /// A file ended before its part did.
    short: AtomicBool,
}

impl Handover {
    /// The connection sends parts of files by itself.
    pub fn offer(&self) {
        self.offered.store(true, Ordering::Relaxed);
    }

    /// Whether what is written next stands for a part.
    pub fn is_there(&self) -> bool {
        self.there.load(Ordering::Relaxed)
    }

    /// Has `send` send some of the part, and notes how much that was.
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

    pub(super) fn is_offered(&self) -> bool {
        self.offered.load(Ordering::Relaxed)
    }

    /// Hands over `length` bytes, at most [`HANDED`], from `at` on; what is returned is to be written.
    pub(super) fn hand(&self, opened: &Arc<Opened>, at: u64, length: usize) -> Bytes {
        *self.part.lock() = Some((opened.clone(), at));
        self.there.store(true, Ordering::Relaxed);
        BLANK.slice(..length.min(HANDED))
    }

    /// Whether a file ended before its part did, which ends the connection.
    pub(super) fn was_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// From now on what is written is meant.
    pub(super) fn take_back(&self) {
        if self.there.swap(false, Ordering::Relaxed) {
            *self.part.lock() = None;
        }
    }
}
