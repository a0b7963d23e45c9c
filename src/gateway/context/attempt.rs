//! The server that a request is proxied to, and the search for it.

use crate::{
    cache::OriginFetchError,
    gateway::context::tunnel::OriginObserver,
    origin::{
        retry::RetryTally,
        servers::{choice::ServerChoice, ActiveRequest, ReachedAddress, ServerAttempt, ServerGroup},
        sticky::StickySniffer,
    },
};

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// A server that a request is proxied to.
pub(crate) struct ContextServer {
    pub(crate) pool: Arc<ServerGroup>,
    pub(crate) server: usize,
    /// The address of it that is used; `None` for a UNIX socket.
    pub(crate) address: Option<SocketAddr>,
    /// The number of its endpoint, with sticky sessions.
    pub(crate) endpoint: Option<u64>,
    /// The time within which the answer has to begin, if the request is the trial of a server that hung.
    pub(crate) trial: Option<Duration>,
    /// The permit of this request; when it is dropped, the next request in the queue is served.
    #[allow(dead_code, reason = "held, not read")]
    pub(crate) under_way: ActiveRequest,
    pub(crate) asked: Instant,
    /// The address that Pingora has connected to, if it opened a connection.
    pub(crate) reached: Option<ReachedAddress>,
    /// True if the outcome has been reported to the pool.
    pub(crate) reported: bool,
}

impl ContextServer {
    /// Notes the address that it was reached at.
    pub(crate) fn set_server_address(&mut self, address: Option<SocketAddr>) {
        if self.address != address {
            self.address = address;
            self.endpoint = self.endpoint.and_then(|_| self.pool.endpoint_of(self.server, address));
        }
    }

    /// The server, as seen by a request that began at `began`.
    pub(crate) fn at(&self, began: Instant) -> ServerAttempt {
        let reached = self.reached.as_ref().and_then(|reached| reached.get().copied());
        ServerAttempt::new(self.server, reached.or(self.address), began)
    }
}

/// The state of a request on its way to a server.
#[derive(Default)]
pub(crate) struct ServerSearch {
    /// The value of its cookie that names a server.
    pub(crate) cookie: Option<String>,
    pub(crate) choice: Option<ServerChoice>,
    /// The end of the time for the exchange: `None` if it is not known yet, `Some(None)` without a limit.
    pub(crate) deadline: Option<Option<Instant>>,
    /// The further attempts; `None` before the first.
    pub(crate) tally: Option<RetryTally>,
    /// The pause before the next attempt.
    pub(crate) pause: Option<Duration>,
    /// The reason for which no server was asked.
    pub(crate) refused: Option<OriginFetchError>,
    /// Searches the answer for the id of a session.
    pub(crate) ear: Option<StickySniffer>,
}

impl ServerSearch {
    /// The rest of the time for the exchange; `None` without a limit.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.deadline.flatten().map(|end| end.saturating_duration_since(Instant::now()))
    }

    /// Takes the search for the id of a session, for bytes that don't pass through Pingora.
    pub(crate) fn hearing(&mut self, upstream: Option<&ContextServer>) -> Option<OriginObserver> {
        let (mut ear, pool) = (self.ear.take()?, upstream?.pool.clone());
        Some(Box::new(move |piece| {
            pool.hear(&mut ear, Some(piece), false);
            ear.listens()
        }))
    }

    /// Returns true if `request_timeout` has passed.
    pub(crate) fn is_late(&self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }
}
