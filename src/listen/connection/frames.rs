//! The state of an HTTP/2 connection: its frames are counted, and may be held back to be written together.

use super::timer::ReusableTimer;
use crate::listen::h2::flood::FloodGuard;

use std::{
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc,
    },
    task::{ready, Context, Poll},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// The additional state of an HTTP/2 connection.
pub(super) struct FramedState {
    frames: FloodGuard,
    pub(super) watch: Arc<FrameWatch>,
    /// True if the client is to be disconnected: nothing more is read.
    pub(super) over: bool,
    /// The timer for the rest of a header.
    alarm: ReusableTimer,
    /// True if frames were held back.
    pub(super) late: bool,
}

impl FramedState {
    pub(super) fn new() -> Self {
        Self {
            frames: FloodGuard::new(Instant::now()),
            watch: Arc::default(),
            over: false,
            alarm: ReusableTimer::default(),
            late: false,
        }
    }

    /// Counts frames of the client. Returns false if they are a flood: the client is to be disconnected.
    pub(super) fn received(&mut self, bytes: &[u8]) -> bool {
        if !self.frames.received(bytes, Instant::now) {
            self.end(false);
            return false;
        }
        self.watch.arrives(self.frames.arriving());
        true
    }

    /// Counts frames that are sent.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        if !self.over && !self.frames.sent(bytes, Instant::now) {
            self.end(false);
        }
    }

    /// Ready once the rest of a header has not come within this time: the client is to be disconnected.
    pub(super) fn poll_header_timeout(&mut self, within: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let Some(since) = self.frames.unfinished_since() else { return Poll::Pending };
        ready!(self.alarm.poll(since + within, cx));
        self.end(true);
        Poll::Ready(())
    }

    fn end(&mut self, slow: bool) {
        self.over = true;
        self.watch.slow.store(slow, Ordering::Relaxed);
        self.watch.told.notify_one();
    }
}

/// The state that an HTTP/2 connection and the task that serves it share.
#[derive(Debug, Default)]
pub(crate) struct FrameWatch {
    /// True while frames are held back to be written together; the task that serves the connection sets it.
    ///
    /// A task that stores `true` must store `false` and poll once more: the library flushes after each answer
    /// of more than a few bytes, and answers to one batch should be written together.
    pub(crate) holds: AtomicBool,
    /// Notified when the client is to be disconnected. Nothing more is read then.
    pub(crate) told: Notify,
    /// True if that is because of a slow header; otherwise because of a flood.
    pub(crate) slow: AtomicBool,
    /// The stream that a partly received DATA frame belongs to (upper half), and the number of its bytes
    /// (lower half).
    arriving: AtomicU64,
}

impl FrameWatch {
    /// The number of bytes of an incomplete DATA frame of this stream that have come.
    pub(crate) fn arriving(&self, stream: u32) -> usize {
        let arriving = self.arriving.load(Ordering::Relaxed);
        let bytes = usize::try_from(arriving & u64::from(u32::MAX)).unwrap_or(0);
        if arriving >> 32 == u64::from(stream) {
            bytes
        } else {
            0
        }
    }

    fn arrives(&self, part: Option<(u32, usize)>) {
        // A frame has less than 2^24 bytes.
        let part = part.map_or(0, |(stream, bytes)| u64::from(stream) << 32 | bytes as u64);
        self.arriving.store(part, Ordering::Relaxed);
    }
}
