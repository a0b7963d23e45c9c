//! The ends of streams: a connection of HTTP/1.1, or a session of another lane.

use crate::{
    gateway::session::{ClientWriter, GatewaySession},
    live::event::FramedContent,
};

use bytes::Bytes;
use std::{
    future::{poll_fn, Future},
    pin::Pin,
    task::Poll,
};
use tokio::io::AsyncWriteExt;

/// The way from a stream to its client.
pub(crate) trait StreamSink: Send {
    /// Writes content in the form that was made for all.
    fn send_framed(&mut self, content: &FramedContent) -> impl Future<Output = Result<(), ()>> + Send;

    /// Writes content of this stream alone.
    fn send(&mut self, content: Bytes) -> impl Future<Output = Result<(), ()>> + Send;

    /// Ends the stream.
    fn finish(&mut self) -> impl Future<Output = Result<(), ()>> + Send;

    /// Waits for `work`; `None` if the client leaves before.
    fn while_connected<T: Send>(
        &mut self,
        work: Pin<&mut (impl Future<Output = T> + Send)>,
    ) -> impl Future<Output = Option<T>> + Send;
}

/// A connection of HTTP/1.1, by chunks.
pub(crate) struct ChunkSink<'c>(pub(crate) &'c mut dyn ClientWriter);

impl ChunkSink<'_> {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let written = async {
            self.0.write_all(bytes).await?;
            self.0.flush().await
        };
        written.await.map_err(drop)
    }
}

impl StreamSink for ChunkSink<'_> {
    async fn send_framed(&mut self, content: &FramedContent) -> Result<(), ()> {
        self.write(content.chunk()).await
    }

    async fn send(&mut self, content: Bytes) -> Result<(), ()> {
        self.write(FramedContent::new(&content).chunk()).await
    }

    async fn finish(&mut self) -> Result<(), ()> {
        self.write(b"0\r\n\r\n").await
    }

    async fn while_connected<T: Send>(
        &mut self,
        mut work: Pin<&mut (impl Future<Output = T> + Send)>,
    ) -> Option<T> {
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => self.0.poll_disconnected(cx).map(|_| None),
        })
        .await
    }
}

/// A session: HTTP/2, or HTTP/1.1 in Pingora's lane.
pub(crate) struct SessionSink<'c, 's>(pub(crate) &'c mut GatewaySession<'s>);

impl StreamSink for SessionSink<'_, '_> {
    async fn send_framed(&mut self, content: &FramedContent) -> Result<(), ()> {
        self.send(content.content()).await
    }

    async fn send(&mut self, content: Bytes) -> Result<(), ()> {
        self.0.write_response_body(content, false).await.map_err(drop)
    }

    async fn finish(&mut self) -> Result<(), ()> {
        self.0.write_response_body(Bytes::new(), true).await.map_err(drop)
    }

    async fn while_connected<T: Send>(
        &mut self,
        work: Pin<&mut (impl Future<Output = T> + Send)>,
    ) -> Option<T> {
        self.0.while_connected(work).await.ok()
    }
}
