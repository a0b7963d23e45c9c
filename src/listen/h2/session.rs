//! An HTTP/2 request as a session for Pingora.
//!
//! Pingora's own HTTP/2 session has no timeout for a body, passes an empty last frame on in addition to the
//! end (which an HTTP/1.1 server would get as two last chunks), and sets the current time as the date of
//! every answer. This one has the timeouts of the other lanes ([`BodyWait`]), and a stored answer keeps its
//! date.
//!
//! Interim answers are dropped: the library can't send them (hyperium/h2#167).

use super::body_wait::BodyWait;
use crate::{
    gateway::ConnectionSignals,
    http::{
        date::format_date,
        framing::content_length::content_length,
        hop_by_hop::{KEEP_ALIVE, PROXY_CONNECTION},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use h2::{server::SendResponse, Reason, RecvStream, SendStream};
use http::{header, HeaderMap, HeaderName, HeaderValue, Response};
use pingora_core::{
    protocols::{
        http::{
            body_buffer::FixedBuffer,
            custom::{server, CustomMessageWrite},
            date::get_cached_date,
            v2::write_body,
            HttpTask,
        },
        l4::socket::SocketAddr,
        Digest,
    },
    Error, ErrorType, OrErr,
};
use pingora_http::{RequestHeader, ResponseHeader};
use std::{
    future::poll_fn,
    sync::{atomic::Ordering, Arc},
    task::{ready, Context, Poll},
    time::Duration,
};
use tokio::time::timeout;

type Result<T> = pingora_core::Result<T>;
type CustomMessage = Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;

/// The most bytes of a body that are kept for a retry.
const MAX_RESEND_BYTES: usize = 64 * 1024;

/// A request, and the stream of its answer.
pub(super) struct StreamSession {
    request: RequestHeader,
    body: RecvStream,
    wait: BodyWait,
    /// True once all of the body has been read.
    read: bool,
    received: usize,
    again: Option<FixedBuffer>,
    respond: SendResponse<Bytes>,
    writer: Option<SendStream<Bytes>>,
    written: Option<Box<ResponseHeader>>,
    ended: bool,
    sent: usize,
    digest: Arc<Digest>,
    signals: Arc<ConnectionSignals>,
    send: Option<Duration>,
    drain: Option<Duration>,
}

impl StreamSession {
    pub(super) fn new(
        request: RequestHeader,
        body: RecvStream,
        respond: SendResponse<Bytes>,
        wait: BodyWait,
        (digest, signals): (Arc<Digest>, Arc<ConnectionSignals>),
        send: Duration,
    ) -> Self {
        Self {
            request,
            body,
            wait,
            read: false,
            received: 0,
            again: None,
            respond,
            writer: None,
            written: None,
            ended: false,
            sent: 0,
            digest,
            signals,
            send: Some(send),
            drain: None,
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        loop {
            match self.body.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    // An empty frame is not a piece; the end of the stream is reported separately.
                    if data.is_empty() {
                        continue;
                    }
                    self.wait.came(data.len());
                    // A closed stream has no window any more.
                    self.body.flow_control().release_capacity(data.len()).unwrap_or_default();
                    self.received += data.len();
                    if let Some(again) = &mut self.again {
                        again.write_to_buffer(&data);
                    }
                    return Poll::Ready(Ok(Some(data)));
                }
                Poll::Ready(Some(Err(error))) => {
                    let error = Error::because(ErrorType::ReadError, "reading a body", error);
                    return Poll::Ready(Err(error.into_down()));
                }
                Poll::Ready(None) => {
                    self.read = true;
                    return Poll::Ready(Ok(None));
                }
                Poll::Pending => {
                    let reason = ready!(self.wait.poll_body_timeout(self.body.stream_id().as_u32(), cx));
                    self.signals.cut_off(reason);
                    let error = Error::explain(ErrorType::ReadTimedout, reason.as_str());
                    return Poll::Ready(Err(error.into_down()));
                }
            }
        }
    }

    /// Waits until the client resets the stream.
    async fn reset(&mut self) -> Box<Error> {
        let reset = poll_fn(|cx| match &mut self.writer {
            Some(writer) => writer.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        });
        match reset.await {
            Ok(reason) => Error::explain(ErrorType::H2Error, format!("the client has left: {reason}")),
            Err(error) => Error::because(ErrorType::H2Error, "the client has left", error),
        }
        .into_down()
    }

    fn write_head(&mut self, mut head: Box<ResponseHeader>, end: bool) -> Result<()> {
        if self.ended || self.written.is_some() || head.status.is_informational() {
            return Ok(());
        }
        head.insert_header(header::DATE, date_value(self.signals.date.swap(0, Ordering::Relaxed)))?;
        for name in &HTTP1_FIELDS {
            head.remove_header(name);
        }
        let response = Response::from_parts(head.as_owned_parts(), ());
        let writer = self.respond.send_response(response, end);
        self.writer =
            Some(writer.or_err(ErrorType::WriteError, "writing a head").map_err(|e| e.into_down())?);
        self.written = Some(head);
        self.ended = end;
        Ok(())
    }

    async fn write(&mut self, piece: Bytes, end: bool) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let Some(writer) = &mut self.writer else {
            return Error::e_explain(ErrorType::H2Error, "a body without a head");
        };
        let length = piece.len();
        write_body(writer, piece, end, self.send).await.map_err(|error| error.into_down())?;
        self.sent += length;
        self.ended = end;
        Ok(())
    }

    fn end_with(&mut self, trailers: HeaderMap) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let Some(writer) = &mut self.writer else {
            return Error::e_explain(ErrorType::H2Error, "trailers without a head");
        };
        self.ended = true;
        let sent = writer.send_trailers(trailers).or_err(ErrorType::WriteError, "writing trailers");
        sent.map_err(|error| error.into_down())
    }

    /// Ends the answer. Without a head nothing is sent: the stream is reset when this is dropped.
    fn end(&mut self) -> Result<()> {
        let Some(writer) = self.writer.as_mut().filter(|_| !self.ended) else { return Ok(()) };
        self.ended = true;
        let sent = writer.send_data(Bytes::new(), true).or_err(ErrorType::WriteError, "ending an answer");
        sent.map_err(|error| error.into_down())
    }

    /// Performs a step of an answer. Returns true if the answer ends with it.
    async fn perform(&mut self, task: HttpTask) -> Result<bool> {
        match task {
            HttpTask::Header(head, end) => self.write_head(head, end).map(|()| end),
            HttpTask::Body(Some(piece), end) if !piece.is_empty() => {
                self.write(piece, end).await.map(|()| end)
            }
            HttpTask::Body(_, end) => Ok(end),
            HttpTask::Trailer(Some(trailers)) => self.end_with(*trailers).map(|()| true),
            HttpTask::Trailer(None) | HttpTask::Done => Ok(true),
            HttpTask::Failed(error) => Err(error),
            HttpTask::UpgradedBody(..) => {
                Error::e_explain(ErrorType::InternalError, "a protocol upgrade on an HTTP/2 stream")
            }
        }
    }
}

/// Fields of an HTTP/1.1 connection, which are forbidden in HTTP/2 (RFC 9113, 8.2.2).
pub(super) static HTTP1_FIELDS: [HeaderName; 5] =
    [header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE, KEEP_ALIVE, PROXY_CONNECTION];

/// The date of an answer, in seconds since the epoch; 0: the current time.
fn date_value(seconds: u64) -> HeaderValue {
    if seconds == 0 {
        return get_cached_date();
    }
    format_date(seconds)
}

#[async_trait]
impl server::Session for StreamSession {
    fn req_header(&self) -> &RequestHeader {
        &self.request
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.request
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_body(cx)).await
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if no_body_expected || self.is_body_done() {
            return Err(self.reset().await);
        }
        self.read_body_bytes().await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        let at_most = self.drain.unwrap_or(Duration::MAX);
        let drained = timeout(at_most, async {
            while !self.is_body_done() && self.read_body_bytes().await?.is_some() {}
            Ok(())
        });
        drained.await.unwrap_or_else(|_| Error::e_explain(ErrorType::ReadTimedout, "draining a body"))
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.write_head(head, end)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.write_head(Box::new(head.clone()), end)
    }

    async fn write_body(&mut self, piece: Bytes, end: bool) -> Result<()> {
        self.write(piece, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.end_with(trailers)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut ends = false;
        for task in tasks {
            ends |= self.perform(task).await?;
        }
        if ends {
            self.end()?;
        }
        Ok(ends)
    }

    fn set_read_timeout(&mut self, _: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.send = timeout;
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.send
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.drain = timeout;
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.drain
    }

    fn request_summary(&self) -> String {
        format!("{} {}", self.request.method, self.request.uri.path())
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.written.as_deref()
    }

    async fn shutdown(&mut self, _: u32, _: &str) {
        if !self.ended {
            self.respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }

    fn is_body_done(&mut self) -> bool {
        self.read || self.is_body_empty() || self.body.is_end_stream()
    }

    async fn finish(&mut self) -> Result<()> {
        self.end()
    }

    fn is_body_empty(&mut self) -> bool {
        self.received == 0
            && (self.read || self.body.is_end_stream() || content_length(&self.request.headers) == Some(0))
    }

    fn body_bytes_sent(&self) -> usize {
        self.sent
    }

    fn body_bytes_read(&self) -> usize {
        self.received
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        Arc::get_mut(&mut self.digest)
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref()?.peer_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.digest.socket_digest.as_ref()?.local_addr()
    }

    /// Used for subrequests of Pingora, which don't occur.
    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    fn enable_retry_buffering(&mut self) {
        self.again.get_or_insert_with(|| FixedBuffer::new(MAX_RESEND_BYTES));
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.again.as_ref().is_some_and(FixedBuffer::is_truncated)
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.again.as_ref().filter(|again| !again.is_truncated())?.get_buffer()
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<CustomMessage> {
        None
    }

    fn restore_custom_message_reader(&mut self, _: CustomMessage) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
