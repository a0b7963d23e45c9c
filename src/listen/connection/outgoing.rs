//! An HTTP/2 connection: its frames are counted, and written together.

use super::HttpConnection;
use crate::{
    listen::{connection::timer::ReusableTimer, h2::flood::FloodGuard},
    telemetry::labels::CutReason,
};

use std::{
    io,
    pin::Pin,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc,
    },
    task::{ready, Context, Poll},
    time::Instant,
};
use tokio::{
    io::{AsyncWrite, ReadBuf},
    sync::Notify,
};

/// The additional state of an HTTP/2 connection.
pub(crate) struct FramedState {
    frames: FloodGuard,
    pub(crate) watch: Arc<FrameWatch>,
    /// True if the client is to be disconnected: nothing more is read.
    pub(crate) over: bool,
    /// The timer for the rest of a header.
    alarm: ReusableTimer,
    /// True if frames were held back.
    pub(crate) late: bool,
}

impl FramedState {
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

impl HttpConnection {
    /// Begins to count its frames.
    pub(crate) fn watch_frames(&mut self) -> Arc<FrameWatch> {
        let (frames, watch) = (FloodGuard::new(Instant::now()), Arc::new(FrameWatch::default()));
        let framed = FramedState {
            frames,
            watch: watch.clone(),
            over: false,
            alarm: ReusableTimer::default(),
            late: false,
        };
        self.framed = Some(Box::new(framed));
        watch
    }

    /// Processes bytes that the client has sent.
    pub(crate) fn poll_framed(&mut self, buf: &mut ReadBuf<'_>, before: usize) -> Poll<io::Result<()>> {
        if let Some(framed) = self.framed.as_deref_mut() {
            if !framed.frames.received(&buf.filled()[before..], Instant::now) {
                framed.end(false);
                buf.set_filled(before);
                return Poll::Pending;
            }
            framed.watch.arrives(framed.frames.arriving());
        }
        Poll::Ready(Ok(()))
    }

    /// Waits while nothing comes. `header_timeout` applies to the rest of a header, as with HTTP/1.1.
    pub(crate) fn wait_for_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(framed) = self.framed.as_deref_mut() {
            let by = framed.frames.unfinished_since().map(|since| since + self.stream.header_timeout());
            if by.is_some_and(|by| framed.alarm.poll(by, cx).is_ready()) {
                framed.end(true);
                self.stream.gave_up(CutReason::Header);
            }
        }
        Poll::Pending
    }

    /// Buffers frames to be written.
    pub(crate) fn poll_write_frames(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let n = ready!(self.poll_gather(cx, data))?;
        if let Some(framed) = self.framed.as_deref_mut().filter(|framed| !framed.over) {
            if !framed.frames.sent(&data[..n], Instant::now) {
                framed.end(false);
            }
        }
        Poll::Ready(Ok(n))
    }

    /// Writes buffered frames, as far as the client accepts them; the task is woken for the rest.
    pub(crate) fn send_late(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Poll::Ready(sent) = self.poll_gathered(cx) {
            sent?;
            // An idle connection has no buffer.
            self.gathered = Vec::new();
            if let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx) {
                flushed?;
                self.framed.iter_mut().for_each(|framed| framed.late = false);
            }
        }
        Ok(())
    }
}
