//! A connection that speaks HTTP/2: its frames are counted, and written together.

use super::Connection;
use crate::{
    listen::{alarm::Alarm, frames::Frames},
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

/// The state of a connection that HTTP/2 needs besides.
pub(super) struct Framed {
    frames: Frames,
    pub(super) watch: Arc<FrameWatch>,
    /// The client is to be sent away: nothing more is read.
    pub(super) over: bool,
    /// For the rest of a header.
    alarm: Alarm,
    /// Tells whether frames were held back.
    pub(super) late: bool,
}

impl Framed {
    fn end(&mut self, slow: bool) {
        self.over = true;
        self.watch.slow.store(slow, Ordering::Relaxed);
        self.watch.told.notify_one();
    }
}

/// What a connection of HTTP/2 and who serves it tell each other.
#[derive(Debug, Default)]
pub(in crate::listen) struct FrameWatch {
    /// Tells whether frames are held back for those that follow; who serves the connection says so, and for how long.
    ///
    /// Whoever stores `true` has to store `false` and poll once more: HTTP/2 asks for a flush behind each answer of more
    /// than a few bytes, and what is answered together is to go out together.
    pub(in crate::listen) holds: AtomicBool,
    /// Told when the client is to be sent away. Nothing more is read then.
    pub(in crate::listen) told: Notify,
    /// It was slow with a header. Else it has sent too much that only costs.
    pub(in crate::listen) slow: AtomicBool,
    /// The stream of whose body a part of a frame has come, above its bytes.
    arriving: AtomicU64,
}

impl FrameWatch {
    /// Bytes that have come of a frame of this stream's body, the rest of which has not.
    pub(in crate::listen) fn arriving(&self, stream: u32) -> usize {
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

impl Connection {
    /// From now on its frames are counted.
    pub(in crate::listen) fn watch_frames(&mut self) -> Arc<FrameWatch> {
        let (frames, watch) = (Frames::new(Instant::now()), Arc::new(FrameWatch::default()));
        let framed =
            Framed { frames, watch: watch.clone(), over: false, alarm: Alarm::default(), late: false };
        self.framed = Some(Box::new(framed));
        watch
    }

    /// Takes what the client has sent by HTTP/2.
    pub(super) fn poll_framed(&mut self, buf: &mut ReadBuf<'_>, before: usize) -> Poll<io::Result<()>> {
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

    /// Nothing has come. Where the rest of a header by HTTP/2 is waited for, that has its time, as with HTTP/1.1.
    pub(super) fn wait_for_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(framed) = self.framed.as_deref_mut() {
            let by = framed.frames.unfinished_since().map(|since| since + self.stream.header_timeout());
            if by.is_some_and(|by| framed.alarm.poll(by, cx).is_ready()) {
                framed.end(true);
                self.stream.gave_up(CutReason::Header);
            }
        }
        Poll::Pending
    }

    /// Takes frames to be written.
    pub(super) fn poll_write_frames(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let n = ready!(self.poll_gather(cx, data))?;
        if let Some(framed) = self.framed.as_deref_mut().filter(|framed| !framed.over) {
            if !framed.frames.sent(&data[..n], Instant::now) {
                framed.end(false);
            }
        }
        Poll::Ready(Ok(n))
    }

    /// Sends the frames that were gathered, as many as the client takes: for the rest the task is woken.
    pub(super) fn send_late(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Poll::Ready(sent) = self.poll_gathered(cx) {
            sent?;
            // A connection that is idle keeps no buffer.
            self.gathered = Vec::new();
            if let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx) {
                flushed?;
                self.framed.iter_mut().for_each(|framed| framed.late = false);
            }
        }
        Ok(())
    }
}
