//! HTTP/2 (RFC 9113) with clients: one connection, many requests. Requests that can be answered from memory
//! are answered here, as in the prepared lane, and written together; all others are passed to the gateway.
//!
//! Limits: [`MAX_STREAMS`] concurrent requests, each of which takes a place as a connection does
//! ([`RequestShares`]), 64 KiB of header, flow-control windows that bound the bytes waiting for a slow origin
//! or a slow client, and `flood.rs` against floods. An idle connection is closed as with HTTP/1.1; one whose
//! client does not answer a PING, or does not send the rest of a header, is cut off. On shutdown, and after
//! `requests` requests, the client gets a GOAWAY, and requests under way are finished.
//!
//! A request is checked by the rules of HTTP/1.1 (`request_syntax.rs`), and has its host in `Host` from here
//! on: later steps don't depend on the version.

mod answer;
mod body_wait;
pub(crate) mod flood;
mod session;

use super::{
    connection::{frames::FrameWatch, HttpConnection},
    connection_limits::RequestShares,
    connection_services::ConnectionServices,
    h1::request_head::{from_http2, MAX_LANE_FIELDS},
    request_syntax,
};
use crate::{
    gateway::{ConnectionInfo, ConnectionSignals, FastCaller, KeyBuffers},
    representation::{
        problem::{self, ProblemReply},
        Body,
    },
    telemetry::labels::{Http2End, RefuseReason},
};
use answer::{refuse_request, send_body, send_head};
use flood::TokenBucket;

use body_wait::BodyWait;
use bytes::Bytes;
use h2::{
    server::{Connection as H2, SendResponse},
    Ping, PingPong, Reason, RecvStream,
};
use http::{header, request::Parts, HeaderValue, Request, StatusCode, Uri, Version};
use pingora_core::{
    apps::HttpServerApp,
    protocols::{
        http::{
            v2::server::{default_h2_options, handshake, H2Options},
            ServerSession,
        },
        Digest, GetSocketDigest, GetTimingDigest, Stream,
    },
};
use pingora_http::RequestHeader;
use session::StreamSession;
use std::{
    cell::RefCell,
    future::{poll_fn, Future},
    pin::pin,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    task::Poll,
    time::{Duration, Instant},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::task::TaskTracker;

/// The most concurrent requests on one connection.
const MAX_STREAMS: u32 = 128;
/// The most bytes of request bodies that are buffered before the origin has accepted them: of one request,
/// and of a connection.
const WINDOW_BYTES: (u32, u32) = (256 * 1024, 1024 * 1024);
/// The most bytes of an answer that are buffered for a slow client.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Malformed requests that are tolerated: in a burst, and per second.
const MALFORMED_LIMIT: (u32, u32) = (64, 8);
/// The most streams that the library resets on one connection.
const MAX_RESETS: usize = 8 * 1024;
/// The interval of PING frames to a client.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// The time that the client may take to answer one.
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// The time that a client may take to close the connection after an error.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

thread_local! {
    /// Buffers that the requests of a thread share.
    static WORDS: RefCell<KeyBuffers> = RefCell::default();
}

/// The settings of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Http2Settings {
    /// The time for the client's first bytes.
    pub(crate) begin: Duration,
    /// The time that it may be idle between requests.
    pub(crate) idle: Duration,
    /// The most requests; `None`: any number.
    pub(crate) requests: Option<u32>,
    /// The timeout of a body, and its least rate in bytes a second.
    pub(crate) body: (Duration, u64),
    /// The timeout of a pending write of an answer.
    pub(crate) send: Duration,
}

/// Serves a connection to its end.
pub(super) async fn serve_http2(
    services: &Arc<ConnectionServices>,
    mut connection: HttpConnection,
    announce: impl Fn() -> ConnectionInfo,
    terms: Http2Settings,
) -> Http2End {
    let digest = Arc::new(Digest {
        timing_digest: connection.get_timing_digest(),
        socket_digest: connection.get_socket_digest(),
        ..Digest::default()
    });
    let watch = connection.watch_frames();
    let begun = timeout(terms.begin, handshake(Box::new(connection), Some(agreement_options()))).await;
    let Ok(Ok(mut h2)) = begun else { return Http2End::Broken };
    let ping = h2.ping_pong();
    let running = RunningConnection {
        services,
        digest,
        terms,
        streams: TaskTracker::new(),
        shares: RequestShares::new(services.places.clone(), MAX_STREAMS as usize),
        watch,
        served: 0,
        malformed: TokenBucket::new(MALFORMED_LIMIT, Instant::now()),
    };
    running.run(&mut h2, ping, announce).await
}

fn agreement_options() -> H2Options {
    let mut options = default_h2_options();
    options
        .max_concurrent_streams(MAX_STREAMS)
        .initial_window_size(WINDOW_BYTES.0)
        .initial_connection_window_size(WINDOW_BYTES.1)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        // Their rate is limited in `flood.rs`; these limits bound memory alone.
        .max_pending_accept_reset_streams(2 * MAX_STREAMS as usize)
        .max_local_error_reset_streams(Some(MAX_RESETS));
    options
}

/// A connection that is being served.
struct RunningConnection<'d> {
    services: &'d Arc<ConnectionServices>,
    digest: Arc<Digest>,
    terms: Http2Settings,
    /// The requests under way.
    streams: TaskTracker,
    shares: RequestShares,
    watch: Arc<FrameWatch>,
    served: u32,
    malformed: TokenBucket,
}

/// The error code that the client gets, and the reason that is recorded.
type ConnectionFarewell = (Reason, Http2End);

/// A request and the sender of its answer.
type AcceptedRequest = (Request<RecvStream>, SendResponse<Bytes>);

impl RunningConnection<'_> {
    async fn run(
        self,
        h2: &mut H2<Stream, Bytes>,
        ping: Option<PingPong>,
        announce: impl Fn() -> ConnectionInfo,
    ) -> Http2End {
        match self.drive(h2, ping, announce).await {
            Ok(end) => end,
            Err((reason, end)) => end_connection(h2, reason, end).await,
        }
    }

    /// Serves requests until the connection ends. `Err`: it has to be closed, with the error code for the
    /// client.
    async fn drive(
        mut self,
        h2: &mut H2<Stream, Bytes>,
        ping: Option<PingPong>,
        announce: impl Fn() -> ConnectionInfo,
    ) -> Result<Http2End, ConnectionFarewell> {
        // From now on it can report that no request is under way.
        self.streams.close();
        let watch = self.watch.clone();
        let mut closing = self.services.closing.clone();
        let mut heart = pin!(wait_for_silence(ping));
        let mut ending = None;
        loop {
            let going = ending.is_none();
            let accepted = tokio::select! {
                biased;
                () = watch.told.notified() => return Err(dismissal_reason(&watch)),
                () = wait_for_close(&mut closing), if going => {
                    // Requests under way are finished, as are those that were sent before the client received
                    // the GOAWAY.
                    ending = Some(Http2End::Drained);
                    h2.graceful_shutdown();
                    continue;
                }
                accepted = next_together(h2.accept(), &watch.holds) => accepted,
                () = &mut heart => return Ok(Http2End::Silent),
                () = wait_until_idle(&self.streams, self.terms.idle), if going => {
                    return Err((Reason::NO_ERROR, Http2End::Idle));
                }
            };
            match accepted {
                Some(Ok(asked)) => {
                    self.take(asked, announce())?;
                    if going && self.terms.requests.is_some_and(|most| self.served >= most) {
                        ending = Some(Http2End::Spent);
                        h2.graceful_shutdown();
                    }
                }
                None => return Ok(ending.unwrap_or(Http2End::Closed)),
                Some(Err(error)) => return Ok(ending.unwrap_or_else(|| classify_error(&error))),
            }
        }
    }

    /// Answers a request, or passes it to the gateway.
    fn take(
        &mut self,
        (request, mut respond): AcceptedRequest,
        connection: ConnectionInfo,
    ) -> Result<(), ConnectionFarewell> {
        self.served = self.served.saturating_add(1);
        let (request, body) = request.into_parts();
        if let Err(status) = request_syntax::check_http2(&request) {
            self.services.ledger.unreadable(connection.peer, status, Version::HTTP_2);
            refuse_request(&mut respond, &request, problem::unreadable_problem(status));
            // A malformed request only ends its stream, unless there are too many.
            return match self.malformed.take(Instant::now()) {
                true => Ok(()),
                false => Err((Reason::ENHANCE_YOUR_CALM, Http2End::Broken)),
            };
        }
        if !self.answer_from_memory(&request, &body, &mut respond, &connection) {
            self.serve(request, body, respond, connection);
        }
        Ok(())
    }

    /// Sends the answer to a request if it can be answered from memory. Returns true if it was.
    fn answer_from_memory(
        &self,
        request: &Parts,
        body: &RecvStream,
        respond: &mut SendResponse<Bytes>,
        connection: &ConnectionInfo,
    ) -> bool {
        // Client certificates are not for the prepared lane.
        if connection.shown.is_some() || !body.is_end_stream() {
            return false;
        }
        let ready = &self.services.ready;
        let caller = FastCaller {
            peer: connection.peer.ip(),
            listener: connection.listener,
            version: Version::HTTP_2,
        };
        let visit = ready.visit(caller);
        let mut fields = [httparse::EMPTY_HEADER; MAX_LANE_FIELDS];
        let request = (&request.method, &request.uri, &request.headers);
        let answer = from_http2(request, &mut fields).and_then(|asked| {
            let (head, answered) = WORDS.with(|words| visit.answer_http2(&asked, &mut words.borrow_mut()))?;
            Some((head, answered, asked.host.as_bytes().to_vec(), asked.path.as_bytes().to_vec()))
        });
        let Some((head, mut answered, host, path)) = answer else { return false };
        ready.count(1);
        let body: Vec<Bytes> = answered.body.take().iter().flat_map(Body::pieces).rev().cloned().collect();
        let mut late = visit.late();
        late.add(answered, &host, &path);
        match send_head(respond, head, &body) {
            Some(rest) => {
                let (services, patience) = (self.services.clone(), self.terms.send);
                let poured = async move {
                    send_body(rest, body, patience).await;
                    late.tell(&services.ready, None);
                };
                drop(self.services.open.spawn(self.streams.track_future(poured)));
            }
            None => late.tell(ready, None),
        }
        true
    }

    /// Passes a request to the gateway.
    fn serve(
        &self,
        request: Parts,
        body: RecvStream,
        mut respond: SendResponse<Bytes>,
        mut connection: ConnectionInfo,
    ) {
        let share = match self.shares.take() {
            Ok(share) => share,
            // The client may send it again, whatever its method (RFC 9113, 8.7).
            Err(reason @ RefuseReason::Streams) => {
                self.services.ledger.no_place(connection.peer, reason, None);
                return respond.send_reset(Reason::REFUSED_STREAM);
            }
            Err(reason) => {
                let full =
                    ProblemReply::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests are under way");
                let full = full.with(header::RETRY_AFTER, HeaderValue::from_static("1"));
                self.services.ledger.no_place(connection.peer, reason, Some(full.status));
                return refuse_request(&mut respond, &request, full);
            }
        };
        let signals = Arc::new(ConnectionSignals::default());
        let party = (self.services.ledger.clone(), connection.peer);
        connection.signals = signals.clone();
        connection.hold = Some(Arc::new(share));
        let mut head = to_http1_request(request);
        head.extensions_mut().insert(connection);
        let wait = BodyWait::new(self.terms.body, self.watch.clone(), party);
        let told = (self.digest.clone(), signals);
        let session = StreamSession::new(head, body, respond, wait, told, self.terms.send);
        let session = ServerSession::new_custom(Box::new(session));
        let services = self.services.clone();
        let served = async move {
            services.proxy.process_new_http(session, &services.closing).await;
        };
        // A panic is logged by the process's hook, and ends this request alone.
        drop(self.services.open.spawn(self.streams.track_future(served)));
    }
}

/// The reason for which a client is disconnected.
fn dismissal_reason(watch: &FrameWatch) -> ConnectionFarewell {
    match watch.slow.load(Ordering::Relaxed) {
        true => (Reason::NO_ERROR, Http2End::Slow),
        false => (Reason::ENHANCE_YOUR_CALM, Http2End::Flood),
    }
}

/// Converts a request to the form of HTTP/1.1: its host, which was checked, in a field (RFC 9113, 8.3.1), and
/// its cookies in one line, which HTTP/2 may split (8.2.3).
fn to_http1_request(mut request: Parts) -> RequestHeader {
    let uri = std::mem::take(&mut request.uri).into_parts();
    request.uri = uri.path_and_query.map_or_else(Uri::default, Uri::from);
    if let Some(host) = uri.authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()) {
        request.headers.insert(header::HOST, host);
    }
    let cookies: Vec<&[u8]> =
        request.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1 {
        // The joined value consists of valid ones.
        if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
            request.headers.insert(header::COOKIE, joined);
        }
    }
    request.into()
}

/// Waits for the next request. Answers to earlier ones are held back until there is none, and written
/// together.
async fn next_together<T>(next: impl Future<Output = T>, holds: &AtomicBool) -> T {
    let mut next = pin!(next);
    poll_fn(|cx| {
        holds.store(true, Ordering::Relaxed);
        let polled = next.as_mut().poll(cx);
        holds.store(false, Ordering::Relaxed);
        match polled {
            Poll::Pending => next.as_mut().poll(cx),
            ready => ready,
        }
    })
    .await
}

/// Waits for the shutdown.
async fn wait_for_close(closing: &mut watch::Receiver<bool>) {
    drop(closing.wait_for(|closing| *closing).await);
}

/// Waits until no request has been under way for `so_long`.
async fn wait_until_idle(streams: &TaskTracker, so_long: Duration) {
    streams.wait().await;
    tokio::time::sleep(so_long).await;
}

/// Waits until the client fails to answer a PING.
async fn wait_for_silence(ping: Option<PingPong>) {
    let Some(mut ping) = ping else { return std::future::pending().await };
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        match timeout(PING_TIMEOUT, ping.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection has ended, which is handled elsewhere.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// Sends the reason for which a connection ends, and closes it.
async fn end_connection(h2: &mut H2<Stream, Bytes>, reason: Reason, end: Http2End) -> Http2End {
    h2.abrupt_shutdown(reason);
    // Without an answer the client is gone.
    drop(timeout(CLOSE_TIMEOUT, poll_fn(|cx| h2.poll_closed(cx))).await);
    end
}

fn classify_error(error: &h2::Error) -> Http2End {
    match error.reason() {
        _ if error.is_io() || error.is_remote() => Http2End::Closed,
        Some(Reason::ENHANCE_YOUR_CALM) => Http2End::Flood,
        _ => Http2End::Broken,
    }
}
