//! HTTP/2 (RFC 9113) with clients: one connection, many requests, each of which the gateway gets like any other, but
//! for those whose answers lie ready: they are answered here, by what the fast lane knows, and written together.
//!
//! Limits: [`STREAMS`] requests at once, each of which takes a place as a connection does ([`Shares`]), 64 KiB of header,
//! windows that bound what waits for a slow origin and what waits for a slow client, `frames.rs` against floods. A
//! connection without a request is closed as one of HTTP/1.1 is; one whose client does not answer a ping, or does not
//! send the rest of a header, is cut off. At the gateway's end, and after as many requests as a connection may have, the
//! client is told to take another (GOAWAY), and what is under way is let finish.
//!
//! A request is judged by the rules of HTTP/1.1 (`strict.rs`), and names its host in `Host` from here on: whoever comes
//! behind need not know how it came.

mod answer;
mod body_wait;
mod session;

use super::{
    caps::Shares,
    connection::{Connection, FrameWatch},
    fast_lane::head::{of_http2, MOST_FIELDS},
    frames::Bucket,
    strict, Door,
};
use crate::{
    gateway::{Caller, OnConnection, Signals, Words},
    representation::{
        problem::{self, Problem},
        Body,
    },
    telemetry::labels::{Http2End, RefuseReason},
};
use answer::{begin, pour, refuse};
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

/// Requests under way at once on one connection.
const STREAMS: u32 = 128;
/// Bytes of a request's body that are taken before the origin has taken them: of one request, and of all on a
/// connection.
const WINDOW: (u32, u32) = (256 * 1024, 1024 * 1024);
/// Bytes of an answer that wait for a slow client.
const SEND_BUFFER: usize = 64 * 1024;
/// Requests that are no requests: so many at once, and in a second.
const MALFORMED: (u32, u32) = (64, 8);
/// Streams that the library resets on one connection.
const MOST_RESETS: usize = 8 * 1024;
/// How often a client is asked whether it is there.
const BEAT: Duration = Duration::from_secs(30);
/// How long it may take to say so.
const ANSWER: Duration = Duration::from_secs(15);
/// How long a client that is told that the connection ends may take to hang up.
const PARTING: Duration = Duration::from_secs(1);

thread_local! {
    /// Buffers that the requests of a thread share.
    static WORDS: RefCell<Words> = RefCell::default();
}

/// What a connection may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// For the client's first bytes.
    pub(super) begin: Duration,
    /// Between requests.
    pub(super) idle: Duration,
    /// Requests; `None`: any number.
    pub(super) requests: Option<u32>,
    /// For a body to go on, and its least rate in bytes a second.
    pub(super) body: (Duration, u64),
    /// For a client to take some of an answer.
    pub(super) send: Duration,
}

impl Door {
    /// Serves a connection to its end.
    pub(super) async fn serve_http2(
        self: &Arc<Self>,
        mut connection: Connection,
        announce: impl Fn() -> OnConnection,
        terms: Terms,
    ) -> Http2End {
        let digest = Arc::new(Digest {
            timing_digest: connection.get_timing_digest(),
            socket_digest: connection.get_socket_digest(),
            ..Digest::default()
        });
        let watch = connection.watch_frames();
        let begun = timeout(terms.begin, handshake(Box::new(connection), Some(options()))).await;
        let Ok(Ok(mut h2)) = begun else { return Http2End::Broken };
        let ping = h2.ping_pong();
        let running = Running {
            door: self,
            digest,
            terms,
            streams: TaskTracker::new(),
            shares: Shares::new(self.places.clone(), STREAMS as usize),
            watch,
            served: 0,
            malformed: Bucket::new(MALFORMED, Instant::now()),
        };
        running.run(&mut h2, ping, announce).await
    }
}

fn options() -> H2Options {
    let mut options = default_h2_options();
    options
        .max_concurrent_streams(STREAMS)
        .initial_window_size(WINDOW.0)
        .initial_connection_window_size(WINDOW.1)
        .max_send_buffer_size(SEND_BUFFER)
        // What comes at once, before this is asked again, is counted by its rate (`frames.rs`): these bound memory alone.
        .max_pending_accept_reset_streams(2 * STREAMS as usize)
        .max_local_error_reset_streams(Some(MOST_RESETS));
    options
}

/// A connection that is served.
struct Running<'d> {
    door: &'d Arc<Door>,
    digest: Arc<Digest>,
    terms: Terms,
    /// The requests under way.
    streams: TaskTracker,
    shares: Shares,
    watch: Arc<FrameWatch>,
    served: u32,
    malformed: Bucket,
}

/// The way a connection is to end, and what its client is told.
type Farewell = (Reason, Http2End);

/// A request with what answers it.
type Accepted = (Request<RecvStream>, SendResponse<Bytes>);

impl Running<'_> {
    async fn run(
        self,
        h2: &mut H2<Stream, Bytes>,
        ping: Option<PingPong>,
        announce: impl Fn() -> OnConnection,
    ) -> Http2End {
        match self.drive(h2, ping, announce).await {
            Ok(end) => end,
            Err((reason, end)) => part(h2, reason, end).await,
        }
    }

    /// How the connection has ended, or how it is to be ended, and what the client is told.
    async fn drive(
        mut self,
        h2: &mut H2<Stream, Bytes>,
        ping: Option<PingPong>,
        announce: impl Fn() -> OnConnection,
    ) -> Result<Http2End, Farewell> {
        // From now on it says when none is under way.
        self.streams.close();
        let watch = self.watch.clone();
        let mut closing = self.door.closing.clone();
        let mut heart = pin!(silence(ping));
        let mut ending = None;
        loop {
            let going = ending.is_none();
            let accepted = tokio::select! {
                biased;
                () = watch.told.notified() => return Err(dismissal(&watch)),
                () = closes(&mut closing), if going => {
                    // What is under way finishes, and what was sent before the client has heard of it.
                    ending = Some(Http2End::Drained);
                    h2.graceful_shutdown();
                    continue;
                }
                accepted = together(h2.accept(), &watch.holds) => accepted,
                () = &mut heart => return Ok(Http2End::Silent),
                () = idle(&self.streams, self.terms.idle), if going => {
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
                Some(Err(error)) => return Ok(ending.unwrap_or_else(|| judge(&error))),
            }
        }
    }

    /// Answers a request, or hands it to the gateway.
    fn take(&mut self, (request, mut respond): Accepted, connection: OnConnection) -> Result<(), Farewell> {
        self.served = self.served.saturating_add(1);
        let (request, body) = request.into_parts();
        if let Err(status) = strict::check_http2(&request) {
            self.door.ledger.unreadable(connection.peer, status, Version::HTTP_2);
            refuse(&mut respond, &request, problem::unreadable(status));
            // What is wrong with a stream ends no other, unless nothing else comes.
            return match self.malformed.take(Instant::now()) {
                true => Ok(()),
                false => Err((Reason::ENHANCE_YOUR_CALM, Http2End::Broken)),
            };
        }
        if !self.swiftly(&request, &body, &mut respond, &connection) {
            self.serve(request, body, respond, connection);
        }
        Ok(())
    }

    /// Sends the answer to a request, where it lies ready. Returns whether it did.
    fn swiftly(
        &self,
        request: &Parts,
        body: &RecvStream,
        respond: &mut SendResponse<Bytes>,
        connection: &OnConnection,
    ) -> bool {
        // To whom a certificate was shown is more than the lane asks.
        if connection.shown.is_some() || !body.is_end_stream() {
            return false;
        }
        let ready = &self.door.ready;
        let caller =
            Caller { peer: connection.peer.ip(), listener: connection.listener, version: Version::HTTP_2 };
        let visit = ready.visit(caller);
        let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
        let request = (&request.method, &request.uri, &request.headers);
        let answer = of_http2(request, &mut fields).and_then(|asked| {
            let (head, answered) = WORDS.with(|words| visit.answer_http2(&asked, &mut words.borrow_mut()))?;
            Some((head, answered, asked.host.as_bytes().to_vec(), asked.path.as_bytes().to_vec()))
        });
        let Some((head, mut answered, host, path)) = answer else { return false };
        ready.count(1);
        let body: Vec<Bytes> = answered.body.take().iter().flat_map(Body::pieces).rev().cloned().collect();
        let mut late = visit.late();
        late.add(answered, &host, &path);
        match begin(respond, head, &body) {
            Some(rest) => {
                let (door, patience) = (self.door.clone(), self.terms.send);
                let poured = async move {
                    pour(rest, body, patience).await;
                    late.tell(&door.ready, None);
                };
                drop(self.door.open.spawn(self.streams.track_future(poured)));
            }
            None => late.tell(ready, None),
        }
        true
    }

    /// Hands a request to the gateway.
    fn serve(
        &self,
        request: Parts,
        body: RecvStream,
        mut respond: SendResponse<Bytes>,
        mut connection: OnConnection,
    ) {
        let share = match self.shares.take() {
            Ok(share) => share,
            // The client may send it again, by whatever method (RFC 9113, 8.7).
            Err(reason @ RefuseReason::Streams) => {
                self.door.ledger.no_place(connection.peer, reason, None);
                return respond.send_reset(Reason::REFUSED_STREAM);
            }
            Err(reason) => {
                let full = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests are under way");
                let full = full.with(header::RETRY_AFTER, HeaderValue::from_static("1"));
                self.door.ledger.no_place(connection.peer, reason, Some(full.status));
                return refuse(&mut respond, &request, full);
            }
        };
        let signals = Arc::new(Signals::default());
        let party = (self.door.ledger.clone(), connection.peer);
        connection.signals = signals.clone();
        connection.hold = Some(Arc::new(share));
        let mut head = as_of_http1(request);
        head.extensions_mut().insert(connection);
        let wait = BodyWait::new(self.terms.body, self.watch.clone(), party);
        let told = (self.digest.clone(), signals);
        let session = StreamSession::new(head, body, respond, wait, told, self.terms.send);
        let session = ServerSession::new_custom(Box::new(session));
        let door = self.door.clone();
        let served = async move {
            door.proxy.process_new_http(session, &door.closing).await;
        };
        // A panic is told by the process's hook, and ends this request alone.
        drop(self.door.open.spawn(self.streams.track_future(served)));
    }
}

/// Why a client is sent away.
fn dismissal(watch: &FrameWatch) -> Farewell {
    match watch.slow.load(Ordering::Relaxed) {
        true => (Reason::NO_ERROR, Http2End::Slow),
        false => (Reason::ENHANCE_YOUR_CALM, Http2End::Flood),
    }
}

/// A request as HTTP/1.1 would say it: its host in a field (RFC 9113, 8.3.1), which was checked, and its cookies in one,
/// which HTTP/2 may cut into pieces (8.2.3).
fn as_of_http1(mut request: Parts) -> RequestHeader {
    let uri = std::mem::take(&mut request.uri).into_parts();
    request.uri = uri.path_and_query.map_or_else(Uri::default, Uri::from);
    if let Some(host) = uri.authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()) {
        request.headers.insert(header::HOST, host);
    }
    let cookies: Vec<&[u8]> =
        request.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1 {
        // What was made of valid values is one.
        if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
            request.headers.insert(header::COOKIE, joined);
        }
    }
    request.into()
}

/// Waits for the next request. What was answered before it goes out when there is none: all together.
async fn together<T>(next: impl Future<Output = T>, holds: &AtomicBool) -> T {
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

/// Waits until the door closes.
async fn closes(closing: &mut watch::Receiver<bool>) {
    drop(closing.wait_for(|closing| *closing).await);
}

/// Waits until no request has been under way for so long.
async fn idle(streams: &TaskTracker, so_long: Duration) {
    streams.wait().await;
    tokio::time::sleep(so_long).await;
}

/// Waits until a client does not answer.
async fn silence(ping: Option<PingPong>) {
    let Some(mut ping) = ping else { return std::future::pending().await };
    loop {
        tokio::time::sleep(BEAT).await;
        match timeout(ANSWER, ping.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection has ended, which is told elsewhere.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// Says why a connection ends, and ends it.
async fn part(h2: &mut H2<Stream, Bytes>, reason: Reason, end: Http2End) -> Http2End {
    h2.abrupt_shutdown(reason);
    // Whoever is not there to hear it is gone.
    drop(timeout(PARTING, poll_fn(|cx| h2.poll_closed(cx))).await);
    end
}

fn judge(error: &h2::Error) -> Http2End {
    match error.reason() {
        _ if error.is_io() || error.is_remote() => Http2End::Closed,
        Some(Reason::ENHANCE_YOUR_CALM) => Http2End::Flood,
        _ => Http2End::Broken,
    }
}
