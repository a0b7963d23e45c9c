//! Listening: sockets, connections, and their end.
//!
//! Each connection is a task: the PROXY header where there is one, the TLS handshake, then one request after another
//! (HTTP/1.1) or many at once (HTTP/2) to Pingora's `HttpProxy`. On shutdown no connection is accepted any more, idle
//! ones are closed, and requests under way are let finish.
//!
//! Who may come in is decided by `caps`, how long a client may take by `guard`, which `guarded` enforces byte by byte.

#[cfg(any(test, fuzzing))]
pub mod agreement;
mod alarm;
mod bind;
pub mod caps;
mod certificates;
mod connection;
pub mod descriptors;
mod fast_lane;
mod frames;
pub mod guard;
mod guarded;
mod h2;
mod ledger;
mod linger;
mod proxy_protocol;
mod resumption;
mod sendfile;
mod stream;
mod strict;
mod terms;
mod tls;
mod tunnel;
mod ways;
mod websocket;
mod wire;

pub use bind::bind;
pub use terms::{Keepalive, Terms};
pub use ways::{Trusts, Ways};

use crate::{
    certificate,
    gateway::{After, Caller, Gateway, OnConnection, Ready, Shown, Signals},
    telemetry::{
        access::AccessLog,
        labels::{Handshake, ProxyHeader, RefuseReason},
        metrics::Metrics,
        seldom::Seldom,
    },
};
use arc_swap::ArcSwap;
use caps::{Place, Places};
use connection::Connection;
use fast_lane::{FastLane, Turn};
use guard::Rules;
use guarded::{Guarded, Party};
use http::HeaderValue;
use ledger::Ledger;
use pingora_core::{
    apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream},
    protocols::{http::ServerSession, Shutdown},
};
use pingora_proxy::HttpProxy;
use rustls::ServerConnection;
use socket2::SockRef;
use std::{
    future::{poll_fn, Future},
    io,
    net::SocketAddr,
    pin::pin,
    sync::{atomic::Ordering, Arc},
    task::Poll,
    time::{Duration, Instant},
};
use stream::Stream;
use tls::Tls;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::unconstrained,
    time::{timeout, timeout_at, Instant as Deadline},
};
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;
use ways::Way;

/// How long a client that is about to ask may take when the door closes.
const LAST: Duration = Duration::from_millis(200);
/// For a client to hear that its connection ends.
const PART: Duration = Duration::from_secs(1);
/// How often the files of certificates are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Pause after an accept that failed for want of descriptors or memory.
const BREATHE: Duration = Duration::from_millis(20);
/// How much later than we the system gives up on a client that takes nothing: it does so too while nobody writes.
const AFTER_US: Duration = Duration::from_secs(2);

/// What all connections share.
pub struct Door {
    proxy: Arc<HttpProxy<Gateway>>,
    ready: Ready,
    metrics: Arc<Metrics>,
    closing: watch::Receiver<bool>,
    open: TaskTracker,
    ways: ArcSwap<Ways>,
    places: Arc<Places>,
    ledger: Arc<Ledger>,
    terms: ArcSwap<Terms>,
}

impl Door {
    /// A door to a gateway; it closes when `closing` says so.
    pub fn new(
        (proxy, ready): (HttpProxy<Gateway>, Ready),
        metrics: Arc<Metrics>,
        access: Arc<AccessLog>,
        closing: watch::Receiver<bool>,
        terms: Terms,
        ways: Ways,
    ) -> Arc<Self> {
        let door = Self {
            proxy: Arc::new(proxy),
            ready,
            ledger: Arc::new(Ledger::new(metrics.clone(), access)),
            metrics,
            closing,
            open: TaskTracker::new(),
            ways: ArcSwap::from_pointee(ways),
            places: Places::new(terms.limits),
            terms: ArcSwap::from_pointee(terms),
        };
        door.change(terms);
        Arc::new(door)
    }

    /// Other terms for connections that come from now on. Those that are there stay, and count.
    pub fn change(&self, terms: Terms) {
        self.places.limit(terms.limits);
        self.metrics.connections_limit(terms.limits.all as u64);
        self.terms.store(Arc::new(terms));
    }

    /// The ways in that stand.
    pub fn ways(&self) -> Arc<Ways> {
        self.ways.load_full()
    }

    /// Takes connections, and requests on those that are open, by other ways from now on. Those have read their
    /// certificates; those that were there before read theirs again.
    pub async fn go_by(self: &Arc<Self>, ways: Ways) {
        self.ways.store(Arc::new(ways));
        self.with_files(Ways::reload).await;
    }

    /// Shows new certificates when their files have changed. Never returns.
    pub async fn keep_certificates(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.with_files(Ways::look).await;
        }
    }

    /// Reading blocks, and a disk may be slow.
    async fn with_files(&self, work: impl FnOnce(&Ways) + Send + 'static) {
        let ways = self.ways();
        if let Err(error) = tokio::task::spawn_blocking(move || work(&ways)).await {
            tracing::error!(%error, "reading certificates failed");
        }
    }

    /// Accepts connections by the way of this number until the door closes.
    pub async fn accept(self: Arc<Self>, listener: TcpListener, number: usize) {
        let (mut closing, mut failures) = (self.closing.clone(), Seldom::default());
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                // Whoever could close the door is gone: so are we.
                _ = closing.wait_for(|closing| *closing) => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let Some(place) = self.admit(&stream) else { continue };
                    let door = self.clone();
                    self.open.spawn(async move { door.serve(stream, peer, number, place).await });
                }
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    if let Some(times) = failures.add(Instant::now()) {
                        tracing::error!(%error, times, "no connection can be accepted");
                    }
                    tokio::time::sleep(BREATHE).await;
                }
            }
        }
    }

    /// A place for a connection, if there is one, of nobody yet: a proxy in front may name the client.
    fn admit(&self, stream: &TcpStream) -> Option<Place> {
        self.places.take().map_err(|reason| self.refuse(stream, reason)).ok()
    }

    /// Who gets no place is reset: nothing of it is left to be kept.
    fn refuse(&self, stream: &TcpStream, reason: RefuseReason) {
        self.ledger.refused(reason);
        // A connection that is gone already needs none.
        stream.set_zero_linger().unwrap_or_default();
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, number: usize, mut place: Place) {
        let accepted = Instant::now();
        let _open = self.metrics.connection();
        let terms = **self.terms.load();
        if let Err(error) = prepare(&stream, &terms.rules) {
            tracing::debug!(%error, "a connection was gone at once");
            return;
        }
        let Some(way) = self.ways.load().0.get(number).cloned() else { return };
        let mut closing = self.closing.clone();
        let begun = tokio::select! {
            begun = self.begin(stream, peer, &way, &mut place, (terms.rules, accepted)) => begun,
            // Who has not come in yet stays outside.
            _ = closing.wait_for(|closing| *closing) => None,
        };
        let Some(Begun { connection, peer, signals, shown, http2 }) = begun else { return };
        let over = signals.clone();
        let announce = move || OnConnection {
            peer,
            signals: signals.clone(),
            listener: number,
            shown: shown.clone(),
            hold: None,
        };
        let serving = async {
            match http2 {
                true => {
                    connection.speaks_http2();
                    let terms = http2_terms(&terms);
                    let end = Box::pin(self.serve_http2(connection, announce, terms)).await;
                    self.metrics.http2_ended(end);
                }
                false => self.serve_http1(connection, announce, &terms).await,
            }
        };
        unless_over(&over, serving).await;
    }

    /// What comes before the first request. `None` where nothing comes of it.
    async fn begin(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
        way: &Way,
        place: &mut Place,
        (rules, accepted): (Rules, Instant),
    ) -> Option<Begun> {
        // The PROXY header, the TLS handshake and the first bytes of a protocol that is not known, all together.
        let by = (accepted + rules.header_timeout).into();
        let peer = self.proxied(&mut stream, peer, way, by).await?;
        if let Err(reason) = place.belongs_to(peer.ip()) {
            self.refuse(&stream, reason);
            return None;
        }
        let (stream, shown, negotiated) = match &way.tls {
            None => (Stream::Plain(stream), None, None),
            Some(tls) => {
                let stream = self.handshake(tls, stream, by).await?;
                let session = stream.get_ref().1;
                let shown = way.asks.then(|| Arc::new(shown(session)));
                let http2 = session.alpn_protocol() == Some(b"h2");
                (Stream::Tls(stream), shown, Some(http2))
            }
        };
        let signals = Arc::new(Signals::default());
        let (ledger, places) = (self.ledger.clone(), self.places.clone());
        let party = Party { peer, signals: signals.clone(), ledger, places };
        let guarded = Guarded::new(stream, party, rules, accepted);
        let mut connection = Connection::new(guarded, self.closing.clone());
        let http2 = match negotiated {
            Some(http2) => http2,
            None if way.http2 => timeout_at(by, connection.begins_with_http2()).await.ok()?.ok()?,
            None => false,
        };
        Some(Begun { connection, peer, signals, shown, http2 })
    }

    /// For whom a connection is.
    async fn proxied(
        &self,
        stream: &mut TcpStream,
        peer: SocketAddr,
        way: &Way,
        by: Deadline,
    ) -> Option<SocketAddr> {
        let Some(trusts) = &way.proxied else { return Some(peer) };
        let read = match trusts {
            Some(trusts) if !trusts(peer.ip().to_canonical()) => Err(ProxyHeader::Untrusted),
            _ => match timeout_at(by, proxy_protocol::read(stream)).await {
                Ok(read) => read,
                Err(_) => Err(ProxyHeader::Timeout),
            },
        };
        let (said, peer) = match read {
            Ok(Some(client)) => (ProxyHeader::Proxied, Some(client)),
            Ok(None) => (ProxyHeader::Local, Some(peer)),
            Err(why) => {
                tracing::debug!(%peer, %why, "a connection without a PROXY header was closed");
                (why, None)
            }
        };
        self.metrics.proxy_header(said);
        peer
    }

    async fn handshake(
        &self,
        tls: &Tls,
        stream: TcpStream,
        by: Deadline,
    ) -> Option<Box<TlsStream<TcpStream>>> {
        let failed = match timeout_at(by, tls.accept(stream)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(why)) => why,
            Err(_) => Handshake::Timeout,
        };
        self.metrics.handshake(failed);
        None
    }

    /// One request after another. Between two of them the connection waits here: all that a request needs is made when
    /// one comes, and is some 20 kB.
    async fn serve_http1(&self, connection: Connection, announce: impl Fn() -> OnConnection, terms: &Terms) {
        let Keepalive { idle, requests } = terms.keepalive;
        // The guard is the first to lose patience with a body.
        let backstop = Some(2 * terms.rules.body_timeout);
        let mut connection = Box::new(connection);
        let mut settings: Option<HttpPersistentSettings> = None;
        let mut closing = self.closing.clone();
        let first = announce();
        let caller =
            Caller { peer: first.peer.ip(), listener: first.listener, version: http::Version::HTTP_11 };
        let mut lane = FastLane::new(&self.ready, &self.closing, caller, (idle, requests));
        // Asked once, it wakes this task when the door closes, whatever that waits for then.
        let mut wakes = self.closing.clone();
        let mut wakes = pin!(unconstrained(wakes.wait_for(|closing| *closing)));
        poll_fn(|cx| {
            drop(wakes.as_mut().poll(cx));
            Poll::Ready(())
        })
        .await;
        loop {
            // To whom a certificate was shown is more than the lane asks.
            let turn = if connection.is_at_start() && first.shown.is_none() {
                poll_fn(|cx| lane.poll(&mut connection, cx)).await
            } else if connection.is_between_requests() && !comes(&mut connection, idle, &mut closing).await {
                Turn::Part
            } else {
                Turn::Full
            };
            let after = match turn {
                Turn::Full => None,
                Turn::Gone => return,
                Turn::Part => Some(After::Ended),
                Turn::Serve(request) => {
                    lane.passed();
                    let gateway = self.ready.gateway();
                    Some(Box::pin(gateway.serve(&mut *connection, request, announce())).await)
                }
            };
            match after {
                None => {}
                Some(After::Kept) => {
                    connection.served();
                    continue;
                }
                Some(After::Broken) => return,
                Some(After::Ended) => {
                    // Who has gone already does not hear it.
                    drop(timeout(PART, connection.shutdown()).await);
                    return;
                }
            }
            let announced = announce();
            let mut session = ServerSession::new_http1(connection);
            match settings {
                Some(settings) => settings.apply_to_session(&mut session),
                None => {
                    session.set_keepalive(Some(idle.as_secs().max(1)));
                    session.set_pipelining_enabled(true);
                }
            }
            session.set_keepalive_reuses_remaining(lane.left());
            lane.passed();
            if *self.closing.borrow() {
                session.set_keepalive(None);
            }
            session.set_read_timeout(backstop);
            session.set_connection_user_context(Some(Box::new(announced)));
            let reused = self.proxy.process_new_http(session, &self.closing).await;
            let Some((stream, kept)) = reused.map(ReusedHttpStream::consume) else { return };
            let Ok(same) = stream.into_any().downcast::<Connection>() else { return };
            (connection, settings) = (same, kept);
            connection.proxied();
        }
    }

    /// Closes idle connections and waits for the others, at most this long. The door must be closing already.
    /// Returns whether all have ended.
    pub async fn drain(&self, at_most: Duration) -> bool {
        self.open.close();
        let all = async {
            // A connection that was between two requests when the first call came is caught by the next.
            while !self.open.is_empty() {
                self.proxy.http_cleanup().await;
                let pause = tokio::time::sleep(Duration::from_millis(10));
                tokio::select! {
                    () = self.open.wait() => return,
                    () = pause => {}
                }
            }
        };
        tokio::time::timeout(at_most, all).await.is_ok()
    }
}

/// Waits for a request. Returns whether anything comes in time. Where the door closes, a client that is about to ask gets
/// a last answer, and hears in it that there will be no other.
async fn comes(connection: &mut Connection, idle: Duration, closing: &mut watch::Receiver<bool>) -> bool {
    let (patience, reason) = connection.patience(idle);
    let comes = async {
        tokio::select! {
            biased;
            ready = connection.ready() => return ready.is_ok(),
            _ = closing.wait_for(|closing| *closing) => {}
        }
        timeout(LAST, connection.ready()).await.is_ok_and(|ready| ready.is_ok())
    };
    // Some milliseconds more or less: its clock costs next to nothing.
    match (pingora_timeout::timeout(patience, comes).await, reason) {
        (Ok(comes), _) => comes,
        (Err(_), reason) => {
            reason.into_iter().for_each(|reason| connection.gave_up(reason));
            false
        }
    }
}

fn http2_terms(terms: &Terms) -> h2::Terms {
    let (Keepalive { idle, requests }, rules) = (terms.keepalive, &terms.rules);
    h2::Terms {
        begin: rules.header_timeout,
        idle,
        requests,
        body: (rules.body_timeout, rules.body_min_rate),
        send: rules.send_timeout,
    }
}

/// A connection whose protocol is known.
struct Begun {
    connection: Connection,
    peer: SocketAddr,
    signals: Arc<Signals>,
    shown: Option<Arc<Shown>>,
    http2: bool,
}

/// What a client has shown of itself in its handshake.
fn shown(session: &ServerConnection) -> Shown {
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let subject = certificate.and_then(|certificate| certificate::subject(certificate));
    Shown {
        to: session.server_name().map(Into::into),
        subject: subject.and_then(|subject| HeaderValue::from_str(&subject).ok()),
    }
}

/// An answer's last piece should not wait for a client's acknowledgement, and a client that takes nothing is given up
/// also where all has been written already, or where it is only in the system's buffers.
fn prepare(stream: &TcpStream, rules: &Rules) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_user_timeout(Some(rules.send_timeout + AFTER_US))
}

/// Serves a connection until it says that it is over: then there is nobody to be served.
async fn unless_over(signals: &Signals, serving: impl Future<Output = ()>) {
    let mut serving = pin!(serving);
    poll_fn(|cx| match serving.as_mut().poll(cx) {
        Poll::Pending if signals.over.load(Ordering::Relaxed) => Poll::Ready(()),
        polled => polled,
    })
    .await;
}

fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
