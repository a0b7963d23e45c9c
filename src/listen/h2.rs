//! HTTP/2 (RFC 9113) with clients: one connection, many requests, each of which the gateway gets like any other, but
//! for those whose answers lie ready: they are answered here, by what the fast lane knows, and written together.
//!
//! Limits: [`STREAMS`] requests at once, 64 KiB of header, windows that bound what waits for a slow origin and what
//! waits for a slow client, [`Frames`] against floods. A connection without a request is closed as one of HTTP/1.1 is;
//! one whose client does not answer a ping is cut off. At the gateway's end, and after as many requests as a connection
//! may have, the client is told to take another (GOAWAY), and what is under way is let finish.
//!
//! Pingora dates each answer with now: a cached one does not keep its own `Date` here. Its `Age` is right, so that no
//! cache behind takes it for fresher than it is.

use super::{
    connection::Connection,
    fast_lane::head::{of_http2, MOST_FIELDS},
    Door,
};
use crate::{
    gateway::{Caller, OnConnection, Words},
    representation::Body,
    telemetry::labels::Http2End,
};
use bytes::Bytes;
use h2::{server::Connection as H2, Ping, PingPong, Reason, SendStream};
use http::{header, HeaderValue, Version};
use pingora_core::{
    apps::HttpServerApp,
    protocols::{
        http::{
            v2::server::{default_h2_options, handshake, H2Accept, H2Options, HttpSession},
            ServerSession,
        },
        Digest, GetSocketDigest, GetTimingDigest, Stream,
    },
    Error,
};
use pingora_http::{RequestHeader, ResponseHeader};
use std::{
    cell::RefCell,
    future::{poll_fn, Future},
    pin::pin,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    task::Poll,
    time::Duration,
};
use tokio::{
    sync::{watch, Notify},
    time::timeout,
};
use tokio_util::task::TaskTracker;

/// Requests under way at once on one connection.
const STREAMS: u32 = 128;
/// Bytes of a request's body that are taken before the origin has taken them: of one request, and of all on a
/// connection.
const WINDOW: (u32, u32) = (256 * 1024, 1024 * 1024);
/// Bytes of an answer that wait for a slow client.
const SEND_BUFFER: usize = 64 * 1024;
/// Requests that are no requests, before a connection is given up.
const MALFORMED: u32 = 32;
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
        let (flood, holds) = connection.count_frames();
        let begun = timeout(terms.begin, handshake(Box::new(connection), Some(options()))).await;
        let Ok(Ok(mut h2)) = begun else { return Http2End::Broken };
        let ping = h2.ping_pong();
        let running = Running { door: self, digest, terms, streams: TaskTracker::new(), served: 0 };
        running.run(&mut h2, ping, (&flood, &holds), announce).await
    }
}

fn options() -> H2Options {
    let mut options = default_h2_options();
    options
        .max_concurrent_streams(STREAMS)
        .initial_window_size(WINDOW.0)
        .initial_connection_window_size(WINDOW.1)
        .max_send_buffer_size(SEND_BUFFER);
    options
}

/// A connection that is served.
struct Running<'d> {
    door: &'d Arc<Door>,
    digest: Arc<Digest>,
    terms: Terms,
    /// The requests under way.
    streams: TaskTracker,
    served: u32,
}

impl Running<'_> {
    async fn run(
        self,
        h2: &mut H2<Stream, Bytes>,
        ping: Option<PingPong>,
        (flood, holds): (&Notify, &AtomicBool),
        announce: impl Fn() -> OnConnection,
    ) -> Http2End {
        match self.drive(h2, ping, (flood, holds), announce).await {
            Ok(end) => end,
            Err((reason, end)) => part(h2, reason, end).await,
        }
    }

    /// How the connection has ended, or how it is to be ended, and what the client is told.
    async fn drive(
        mut self,
        h2: &mut H2<Stream, Bytes>,
        ping: Option<PingPong>,
        (flood, holds): (&Notify, &AtomicBool),
        announce: impl Fn() -> OnConnection,
    ) -> Result<Http2End, (Reason, Http2End)> {
        // From now on it says when none is under way.
        self.streams.close();
        let mut closing = self.door.closing.clone();
        let mut heart = pin!(silence(ping));
        let mut ending = None;
        let mut malformed = 0;
        loop {
            let going = ending.is_none();
            let accepted = tokio::select! {
                biased;
                () = flood.notified() => return Err((Reason::ENHANCE_YOUR_CALM, Http2End::Flood)),
                () = closes(&mut closing), if going => {
                    // What is under way finishes, and what was sent before the client has heard of it.
                    ending = Some(Http2End::Drained);
                    h2.graceful_shutdown();
                    continue;
                }
                accepted = together(HttpSession::from_h2_conn(h2, self.digest.clone()), holds) => accepted,
                () = &mut heart => return Ok(Http2End::Silent),
                () = idle(&self.streams, self.terms.idle), if going => {
                    return Err((Reason::NO_ERROR, Http2End::Idle));
                }
            };
            match accepted {
                Ok(Some(H2Accept::Session(session))) => {
                    self.serve(session, announce());
                    if going && self.terms.requests.is_some_and(|most| self.served >= most) {
                        ending = Some(Http2End::Spent);
                        h2.graceful_shutdown();
                    }
                }
                Ok(Some(H2Accept::Rejected)) => {
                    malformed += 1;
                    if malformed == MALFORMED {
                        return Err((Reason::ENHANCE_YOUR_CALM, Http2End::Broken));
                    }
                }
                Ok(None) => return Ok(ending.unwrap_or(Http2End::Closed)),
                Err(error) => return Ok(ending.unwrap_or_else(|| judge(&error))),
            }
        }
    }

    /// Sends the answer to a request, where it lies ready. Gives back what is for the gateway.
    fn swiftly(&self, mut session: HttpSession, connection: &OnConnection) -> Option<HttpSession> {
        // To whom a certificate was shown is more than the lane asks.
        if connection.shown.is_some() || !session.is_body_empty() {
            return Some(session);
        }
        let (ready, request) = (&self.door.ready, session.req_header());
        let caller =
            Caller { peer: connection.peer.ip(), listener: connection.listener, version: Version::HTTP_2 };
        let visit = ready.visit(caller);
        let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
        let request = (&request.method, &request.uri, &request.headers);
        let answer = of_http2(request, &mut fields).and_then(|asked| {
            let (head, answered) = WORDS.with(|words| visit.answer_http2(&asked, &mut words.borrow_mut()))?;
            Some((head, answered, asked.host.as_bytes().to_vec(), asked.path.as_bytes().to_vec()))
        });
        let Some((head, mut answered, host, path)) = answer else { return Some(session) };
        ready.count(1);
        let body: Vec<Bytes> = answered.body.take().iter().flat_map(Body::pieces).rev().cloned().collect();
        let mut late = visit.late();
        late.add(answered, &host, &path);
        match begin(&mut session, head, &body) {
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
        None
    }

    /// Hands a request to the gateway.
    fn serve(&mut self, session: HttpSession, connection: OnConnection) {
        self.served = self.served.saturating_add(1);
        let Some(session) = self.swiftly(session, &connection) else { return };
        let mut session = ServerSession::new_http2(session);
        session.set_write_timeout(Some(self.terms.send));
        let request = session.req_header_mut();
        join_cookies(request);
        request.extensions_mut().insert(connection);
        let door = self.door.clone();
        let served = async move {
            door.proxy.process_new_http(session, &door.closing).await;
        };
        // A panic is told by the process's hook, and ends this request alone.
        drop(self.door.open.spawn(self.streams.track_future(served)));
    }
}

/// Sends the head of an answer, and its body where the client takes it at once, as it does with most: then what is
/// answered together is written together. Else gives back where to send it to. `body`: its pieces, the last one first.
fn begin(session: &mut HttpSession, head: ResponseHeader, body: &[Bytes]) -> Option<SendStream<Bytes>> {
    if let Err(error) = session.write_response_header(Box::new(head), body.is_empty()) {
        tracing::debug!(%error, "a client left before its answer");
        return None;
    }
    let mut to = session.take_response_body_writer().filter(|_| !body.is_empty())?;
    let [piece] = body else { return Some(to) };
    to.reserve_capacity(piece.len());
    if to.capacity() < piece.len() {
        return Some(to);
    }
    if let Err(error) = to.send_data(piece.clone(), true) {
        tracing::debug!(%error, "a client left before its answer");
    }
    None
}

/// Sends a body as fast as the client takes it, if it takes some of it in time.
async fn pour(mut to: SendStream<Bytes>, mut body: Vec<Bytes>, patience: Duration) {
    while let Some(mut piece) = body.pop() {
        while !piece.is_empty() {
            to.reserve_capacity(piece.len());
            let room = poll_fn(|cx| to.poll_capacity(cx));
            let Ok(Some(Ok(room))) = timeout(patience, room).await else {
                // Whoever is gone does not hear it.
                return to.send_reset(Reason::CANCEL);
            };
            let now = piece.split_to(room.min(piece.len()));
            if to.send_data(now, body.is_empty() && piece.is_empty()).is_err() {
                return;
            }
        }
    }
}

/// HTTP/2 may cut a cookie field into pieces; what is not HTTP/2 knows but one (RFC 9113, 8.2.3).
fn join_cookies(request: &mut RequestHeader) {
    let all: Vec<&[u8]> = request.headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if all.len() > 1 {
        // What was made of valid values is one.
        if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
            request.insert_header(header::COOKIE, joined).unwrap_or_default();
        }
    }
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

fn judge(error: &Error) -> Http2End {
    let cause = error.cause.as_ref().and_then(|cause| cause.downcast_ref::<h2::Error>());
    match cause {
        Some(error) if error.is_io() || error.is_remote() => Http2End::Closed,
        _ => Http2End::Broken,
    }
}
