//! Listeners: sockets, connections, and shutdown.
//!
//! Each connection is a task: the PROXY header if there is one, the TLS handshake, then one request after
//! another (HTTP/1.1) or many at once (HTTP/2). On shutdown no connection is accepted any more, idle ones are
//! closed, and requests under way are finished.
//!
//! `connection_limits` bounds the number of connections; `connection::timeouts` decides the client timeouts,
//! and `connection::timed_stream` enforces them.

mod aborted;
mod bind;
pub(crate) mod connection;
pub(crate) mod connection_limits;
mod connection_services;
mod connection_settings;
mod connection_start;
pub(crate) mod descriptors;
pub mod h1;
pub(crate) mod h2;
mod listeners;
mod proxy_protocol;
mod request_syntax;
pub(crate) mod tls;
pub(crate) mod upgrade;

pub(crate) use {
    bind::bind_address,
    connection_settings::{ConnectionSettings, Keepalive},
    listeners::{ListenerSet, ProxyTrust},
};

use crate::{
    gateway::{
        ConnectionFate, ConnectionInfo, ConnectionSignals, FastCaller, FastResponder, Gateway, ServedRequest,
    },
    telemetry::{
        access::AccessLog, labels::RefuseReason, log::throttled_log::ThrottledLog, metrics::Metrics,
    },
};
use aborted::ConnectionLedger;
use arc_swap::ArcSwap;
use connection::{timeouts::DRAIN_GRACE, HttpConnection};
use connection_limits::{ConnectionLimiter, ConnectionPermit};
use connection_services::ConnectionServices;
use h1::fast_path::{FastLane, LaneExit};

use pingora_core::{
    apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream},
    protocols::{http::ServerSession, Shutdown},
};
use pingora_proxy::HttpProxy;
use std::{
    future::{poll_fn, Future},
    io,
    net::SocketAddr,
    pin::pin,
    sync::{atomic::Ordering, Arc},
    task::Poll,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::unconstrained,
    time::timeout,
};
use tokio_util::task::TaskTracker;

/// The time that a client may take to close its side of the connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The interval at which the files of certificates are checked.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(2);
/// The pause after an accept that failed for lack of descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(20);

/// Accepts connections and serves them.
pub struct ConnectionServer {
    services: Arc<ConnectionServices>,
    metrics: Arc<Metrics>,
    ways: ArcSwap<ListenerSet>,
    terms: ArcSwap<ConnectionSettings>,
}

impl ConnectionServer {
    /// A server for a gateway; it shuts down when `closing` becomes true.
    pub fn new(
        (proxy, ready): (HttpProxy<Gateway>, FastResponder),
        metrics: Arc<Metrics>,
        access: Arc<AccessLog>,
        closing: watch::Receiver<bool>,
        terms: ConnectionSettings,
        ways: ListenerSet,
    ) -> Arc<Self> {
        let services = ConnectionServices {
            proxy: Arc::new(proxy),
            ready,
            ledger: Arc::new(ConnectionLedger::new(metrics.clone(), access)),
            places: ConnectionLimiter::new(terms.limits),
            closing,
            open: TaskTracker::new(),
        };
        let door = Self {
            services: Arc::new(services),
            metrics,
            ways: ArcSwap::from_pointee(ways),
            terms: ArcSwap::from_pointee(terms),
        };
        door.change(terms);
        Arc::new(door)
    }

    /// Changes the settings for new connections. Existing ones stay, and count against the limits.
    pub fn change(&self, terms: ConnectionSettings) {
        self.services.places.limit(terms.limits);
        self.metrics.connections_limit(terms.limits.all as u64);
        self.terms.store(Arc::new(terms));
    }

    /// The current listeners.
    pub fn ways(&self) -> Arc<ListenerSet> {
        self.ways.load_full()
    }

    /// Replaces the listeners, for new connections, and for requests on open ones. New listeners have read
    /// their certificates; those that stay read theirs again.
    pub async fn go_by(self: &Arc<Self>, ways: ListenerSet) {
        self.ways.store(Arc::new(ways));
        self.with_files(ListenerSet::reload).await;
    }

    /// Reloads certificates when their files change. Never returns.
    pub async fn keep_certificates(self: Arc<Self>) {
        loop {
            tokio::time::sleep(CERTIFICATE_INTERVAL).await;
            self.with_files(ListenerSet::look).await;
        }
    }

    /// Runs work that reads files on a blocking thread.
    async fn with_files(&self, work: impl FnOnce(&ListenerSet) + Send + 'static) {
        let ways = self.ways();
        if let Err(error) = tokio::task::spawn_blocking(move || work(&ways)).await {
            tracing::error!(%error, "reading certificates failed");
        }
    }

    /// Accepts connections of the listener with this index until the shutdown.
    pub async fn accept(self: Arc<Self>, listener: TcpListener, number: usize) {
        let (mut closing, mut failures) = (self.services.closing.clone(), ThrottledLog::default());
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                // If the sender is dropped, the gateway has ended.
                _ = closing.wait_for(|closing| *closing) => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let Some(place) = self.admit(&stream) else { continue };
                    let door = self.clone();
                    self.services.open.spawn(async move { door.serve(stream, peer, number, place).await });
                }
                Err(error) if is_client_error(&error) => {}
                Err(error) => {
                    if let Some(times) = failures.add(Instant::now()) {
                        tracing::error!(%error, times, "no connection can be accepted");
                    }
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    /// Takes a place for a connection, if there is one; its client may be named later, by a proxy.
    fn admit(&self, stream: &TcpStream) -> Option<ConnectionPermit> {
        self.services.places.take().map_err(|reason| self.refuse(stream, reason)).ok()
    }

    /// Resets a connection that gets no place, so that the kernel keeps no state of it.
    fn refuse(&self, stream: &TcpStream, reason: RefuseReason) {
        self.services.ledger.refused(reason);
        // A connection that is gone already needs none.
        stream.set_zero_linger().unwrap_or_default();
    }

    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        number: usize,
        mut place: ConnectionPermit,
    ) {
        let accepted = Instant::now();
        let _open = self.metrics.connection();
        let terms = **self.terms.load();
        let Some(way) = self.ways.load().0.get(number).cloned() else { return };
        let mut closing = self.services.closing.clone();
        let begun = tokio::select! {
            begun = self.begin(stream, peer, &way, &mut place, (terms.rules, accepted)) => begun,
            // On shutdown, connections without a protocol are dropped.
            _ = closing.wait_for(|closing| *closing) => None,
        };
        let Some(begun) = begun else { return };
        let (connection, peer, signals, shown) = (begun.connection, begun.peer, begun.signals, begun.shown);
        let over = signals.clone();
        let announce = move || ConnectionInfo {
            peer,
            signals: signals.clone(),
            listener: number,
            shown: shown.clone(),
            hold: None,
        };
        let serving = async {
            match begun.http2 {
                true => {
                    connection.speaks_http2();
                    let terms = http2_settings(&terms);
                    let end = Box::pin(h2::serve_http2(&self.services, *connection, announce, terms)).await;
                    self.metrics.http2_ended(end);
                }
                false => self.serve_http1(connection, announce, &terms).await,
            }
        };
        serve_until_over(&over, serving).await;
    }

    /// Serves one request after another. Between requests the connection waits here: the session of a
    /// request, about 20 kB, is only created when one comes.
    async fn serve_http1(
        &self,
        mut connection: Box<HttpConnection>,
        announce: impl Fn() -> ConnectionInfo,
        terms: &ConnectionSettings,
    ) {
        let Keepalive { idle, requests } = terms.keepalive;
        // The guard's timeout for a body comes first.
        let backstop = Some(2 * terms.rules.body_timeout);
        let mut settings: Option<HttpPersistentSettings> = None;
        let mut closing = self.services.closing.clone();
        let first = announce();
        let caller =
            FastCaller { peer: first.peer.ip(), listener: first.listener, version: http::Version::HTTP_11 };
        let mut lane = FastLane::new(&self.services.ready, &self.services.closing, caller, (idle, requests));
        // Once polled, it wakes this task on shutdown, whatever the task waits for then.
        let mut wakes = self.services.closing.clone();
        let mut wakes = pin!(unconstrained(wakes.wait_for(|closing| *closing)));
        poll_fn(|cx| {
            drop(wakes.as_mut().poll(cx));
            Poll::Ready(())
        })
        .await;
        loop {
            // Client certificates are not for the prepared lane.
            let turn = if connection.is_at_start() && first.shown.is_none() {
                poll_fn(|cx| lane.poll(&mut connection, cx)).await
            } else if connection.is_between_requests()
                && !wait_for_request(&mut connection, idle, &mut closing).await
            {
                LaneExit::Close
            } else {
                LaneExit::Pingora
            };
            let after = match turn {
                LaneExit::Pingora => None,
                LaneExit::Disconnected => return,
                LaneExit::Close => Some(ConnectionFate::Ended),
                LaneExit::Native(request) => {
                    lane.passed();
                    let gateway = self.services.ready.gateway();
                    let served = Box::pin(gateway.serve(&mut *connection, request, announce())).await;
                    Some(match served {
                        ServedRequest::Done(fate) => fate,
                        ServedRequest::Stream(stream) => {
                            connection.begin_events();
                            Box::pin(stream.run_native(&mut *connection)).await
                        }
                    })
                }
            };
            match after {
                None => {}
                Some(ConnectionFate::Kept) => {
                    connection.served();
                    continue;
                }
                Some(ConnectionFate::Broken) => return,
                Some(ConnectionFate::Ended) => {
                    // The client may have gone already.
                    drop(timeout(CLOSE_TIMEOUT, connection.shutdown()).await);
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
            if *self.services.closing.borrow() {
                session.set_keepalive(None);
            }
            session.set_read_timeout(backstop);
            session.set_connection_user_context(Some(Box::new(announced)));
            let reused = self.services.proxy.process_new_http(session, &self.services.closing).await;
            let Some((stream, kept)) = reused.map(ReusedHttpStream::consume) else { return };
            let Ok(same) = stream.into_any().downcast::<HttpConnection>() else { return };
            (connection, settings) = (same, kept);
            connection.proxied();
        }
    }

    /// Closes idle connections and waits for the others, for at most this time. The shutdown must have begun.
    /// Returns true if all have ended.
    pub async fn drain(&self, at_most: Duration) -> bool {
        self.services.open.close();
        self.services.ready.gateway().drain_streams();
        let all = async {
            // A connection that was between two requests at the first call is closed by the next.
            while !self.services.open.is_empty() {
                self.services.proxy.http_cleanup().await;
                let pause = tokio::time::sleep(Duration::from_millis(10));
                tokio::select! {
                    () = self.services.open.wait() => return,
                    () = pause => {}
                }
            }
        };
        tokio::time::timeout(at_most, all).await.is_ok()
    }
}

/// Waits for a request. Returns true if bytes come in time. On shutdown, a client that is just sending a
/// request gets a last answer, with `Connection: close`.
async fn wait_for_request(
    connection: &mut HttpConnection,
    idle: Duration,
    closing: &mut watch::Receiver<bool>,
) -> bool {
    let (patience, reason) = connection.patience(idle);
    let comes = async {
        tokio::select! {
            biased;
            ready = connection.ready() => return ready.is_ok(),
            _ = closing.wait_for(|closing| *closing) => {}
        }
        timeout(DRAIN_GRACE, connection.ready()).await.is_ok_and(|ready| ready.is_ok())
    };
    // This timer is imprecise by some milliseconds, and nearly free.
    match (pingora_timeout::timeout(patience, comes).await, reason) {
        (Ok(comes), _) => comes,
        (Err(_), reason) => {
            reason.into_iter().for_each(|reason| connection.gave_up(reason));
            false
        }
    }
}

fn http2_settings(terms: &ConnectionSettings) -> h2::Http2Settings {
    let (Keepalive { idle, requests }, rules) = (terms.keepalive, &terms.rules);
    h2::Http2Settings {
        begin: rules.header_timeout,
        idle,
        requests,
        body: (rules.body_timeout, rules.body_min_rate),
        send: rules.send_timeout,
    }
}

/// Serves a connection until it reports that it is over: there is no client any more then.
async fn serve_until_over(signals: &ConnectionSignals, serving: impl Future<Output = ()>) {
    let mut serving = pin!(serving);
    poll_fn(|cx| match serving.as_mut().poll(cx) {
        Poll::Pending if signals.over.load(Ordering::Relaxed) => Poll::Ready(()),
        polled => polled,
    })
    .await;
}

fn is_client_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
