//! Listening: sockets, connections, and their end.
//!
//! Each connection is a task that hands one request after another to Pingora's `HttpProxy`. On shutdown no
//! connection is accepted any more, idle ones are closed, and requests under way are let finish.

mod connection;

use crate::{
    gateway::{Gateway, OnConnection, Signals},
    telemetry::{labels::RejectReason, metrics::Metrics},
};
use connection::{Connection, OnUnreadable};
use pingora_core::{apps::HttpServerApp, protocols::http::ServerSession};
use pingora_proxy::HttpProxy;
use std::{
    io,
    net::SocketAddr,
    sync::{atomic::Ordering, Arc},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
};
use tokio_util::task::TaskTracker;

/// Connections that the kernel keeps for us until we accept them.
const BACKLOG: u32 = 4_096;
/// Pause after an accept that failed for want of descriptors or memory.
const BREATHE: Duration = Duration::from_millis(20);

/// Binds an address.
///
/// # Errors
/// Why it can't be bound.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What all connections share.
pub struct Door {
    proxy: Arc<HttpProxy<Gateway>>,
    metrics: Arc<Metrics>,
    closing: watch::Receiver<bool>,
    open: TaskTracker,
    keepalive: Keepalive,
    on_unreadable: OnUnreadable,
}

/// How long connections are kept between requests, and for how many.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// Between requests.
    pub idle: Duration,
    /// Requests on one connection; `None`: any number.
    pub requests: Option<u32>,
}

impl Door {
    /// A door to a gateway; it closes when `closing` says so.
    pub fn new(
        proxy: HttpProxy<Gateway>,
        metrics: Arc<Metrics>,
        closing: watch::Receiver<bool>,
        keepalive: Keepalive,
    ) -> Arc<Self> {
        let counting = metrics.clone();
        let on_unreadable: OnUnreadable = Arc::new(move || counting.rejected(RejectReason::BadRequest));
        let proxy = Arc::new(proxy);
        Arc::new(Self { proxy, metrics, closing, open: TaskTracker::new(), keepalive, on_unreadable })
    }

    /// Accepts connections until the door closes.
    pub async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut closing = self.closing.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                // Whoever could close the door is gone: so are we.
                _ = closing.wait_for(|closing| *closing) => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let door = self.clone();
                    self.open.spawn(async move { door.serve(stream, peer).await });
                }
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted");
                    tokio::time::sleep(BREATHE).await;
                }
            }
        }
    }

    async fn serve(&self, stream: TcpStream, peer: SocketAddr) {
        let _open = self.metrics.connection();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone at once");
            return;
        }
        let signals = Arc::new(Signals::default());
        let announce = || Box::new(OnConnection { peer, signals: signals.clone() });
        let connection = Connection::new(stream, peer, signals.clone(), self.on_unreadable.clone());
        let mut session = ServerSession::new_http1(Box::new(connection));
        let idle = if *self.closing.borrow() { None } else { Some(self.keepalive.idle.as_secs().max(1)) };
        session.set_keepalive(idle);
        session.set_keepalive_reuses_remaining(self.keepalive.requests);
        session.set_pipelining_enabled(true);
        session.set_connection_user_context(Some(announce()));
        let mut next = self.proxy.process_new_http(session, &self.closing).await;
        while let Some((stream, settings)) = next.map(|reused| reused.consume()) {
            signals.handled.store(false, Ordering::Relaxed);
            signals.at_once.store(false, Ordering::Relaxed);
            let mut session = ServerSession::new_http1(stream);
            if let Some(settings) = settings {
                settings.apply_to_session(&mut session);
            }
            session.set_connection_user_context(Some(announce()));
            next = self.proxy.process_new_http(session, &self.closing).await;
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

fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
