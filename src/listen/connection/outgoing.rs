//! The frames of an HTTP/2 connection on their way: counted, and written together.

use super::{
    frames::{FrameWatch, FramedState},
    HttpConnection,
};
use crate::telemetry::labels::CutReason;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{ready, Context, Poll},
};
use tokio::io::{AsyncWrite, ReadBuf};

impl HttpConnection {
    /// Begins to count its frames.
    pub(crate) fn watch_frames(&mut self) -> Arc<FrameWatch> {
        let framed = FramedState::new();
        let watch = framed.watch.clone();
        self.framed = Some(Box::new(framed));
        watch
    }

    /// Processes bytes that the client has sent.
    pub(crate) fn poll_framed(&mut self, buf: &mut ReadBuf<'_>, before: usize) -> Poll<io::Result<()>> {
        if let Some(framed) = self.framed.as_deref_mut() {
            if !framed.received(&buf.filled()[before..]) {
                buf.set_filled(before);
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Waits while nothing comes. `header_timeout` applies to the rest of a header, as with HTTP/1.1.
    pub(crate) fn wait_for_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(framed) = self.framed.as_deref_mut() {
            if framed.poll_header_timeout(self.stream.header_timeout(), cx).is_ready() {
                self.stream.gave_up(CutReason::Header);
            }
        }
        Poll::Pending
    }

    /// Buffers frames to be written.
    pub(crate) fn poll_write_frames(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let n = ready!(self.poll_gather(cx, data))?;
        if let Some(framed) = self.framed.as_deref_mut() {
            framed.sent(&data[..n]);
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
