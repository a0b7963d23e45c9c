//! The servers of an origin: what is configured and known of them, their addresses and connections.
//!
//! Fills and proxied requests share this state. `pick.rs` chooses a server for a request, and
//! `health/reports.rs` learns from its outcome.

mod affinity;
pub(crate) mod balance;
pub(crate) mod choice;
pub(crate) mod dial;
pub(crate) mod peer;
mod pick;
mod pingora_connector;
pub(crate) mod queue;
pub(crate) mod queue_wait;
pub(crate) mod state;
use super::{
    h1::{IdleConnections, SocketTarget},
    sticky::{self, StickyEndpoints},
};
use crate::{
    config::{self, ServerAddress},
    telemetry::{labels::OriginOutcome, metrics::Metrics},
};
use balance::RoundRobinTurns;
use peer::PeerSettings;
use pingora_connector::OriginDialer;
use state::{OriginState, ServerState};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora_core::upstreams::peer::HttpPeer;
use std::{
    net::SocketAddr,
    num::NonZeroU32,
    sync::{atomic::AtomicUsize, Arc},
    time::{Duration, Instant},
};

pub(crate) use {dial::ReachedAddress, state::ActiveRequest};

/// The reason for which no server can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoUpstream {
    /// The breakers of all servers are open; the last failure.
    #[error("the servers are out after failures (circuit breaker)")]
    BreakerOpen(OriginOutcome),
    /// No server is healthy, according to the checks.
    #[error("no server is healthy")]
    Unhealthy,
    /// No server's name has an address.
    #[error("no server name has an address")]
    Unresolved,
    /// All servers are at their limit, and the queue is full.
    #[error("the servers are busy, and the queue is full")]
    QueueFull,
    /// No server had a free place in time.
    #[error("the servers are busy, and none had room in time")]
    QueueTimeout,
}

/// A chosen server; the outcome is reported with [`ServerGroup::report`].
#[derive(Debug)]
pub struct PickedServer {
    /// Its index in the configuration.
    pub server: usize,
    /// The address of it that is used; `None`: a UNIX socket.
    pub address: Option<SocketAddr>,
    /// The permit, to be held as long as the request is under way.
    pub under_way: ActiveRequest,
    /// The number of its endpoint, with sticky sessions.
    pub endpoint: Option<u64>,
    /// The timeout of its answer's head, if this is the trial of a server that hung and others are available.
    /// A request that may be repeated goes to another server after it.
    pub trial: Option<Duration>,
}

/// An attempt of a request: a server, one of its addresses, and its times.
#[derive(Debug, Clone, Copy)]
pub struct ServerAttempt {
    /// Its index in the configuration.
    pub server: usize,
    /// The address of it that is used; `None`: a UNIX socket.
    pub address: Option<SocketAddr>,
    /// The time at which the request began: all its attempts count as one failure.
    pub began: Instant,
    /// The time from the beginning of the attempt to the head of its answer; `None`: it says nothing of the
    /// server, since it has not come, or the client's body was waited for.
    pub took: Option<Duration>,
}

impl ServerAttempt {
    /// An attempt without an answer.
    pub fn new(server: usize, address: Option<SocketAddr>, began: Instant) -> Self {
        Self { server, address, began, took: None }
    }
}

/// The servers of an origin.
#[derive(Debug)]
pub struct ServerGroup {
    /// The settings of the origin.
    pub settings: config::OriginConfig,
    pub(crate) state: Arc<OriginState>,
    /// The number of this pool: later pools of the same origin have higher ones.
    number: u64,
    pub(crate) servers: Vec<GroupServer>,
    reach: PeerSettings,
    plain: bool,
    pub(crate) turns: Mutex<RoundRobinTurns>,
    next: AtomicUsize,
    pub(crate) endpoints: ArcSwap<StickyEndpoints>,
    pub(crate) metrics: Arc<Metrics>,
}

#[derive(Debug)]
pub(crate) struct GroupServer {
    pub(crate) at: ServerAddress,
    pub(crate) weight: u32,
    pub(crate) id: u64,
    pub(crate) state: Arc<ServerState>,
}

/// The reason for which no server was chosen.
#[derive(Debug)]
pub(crate) enum PickRefusal {
    /// All are at their limit of concurrent requests.
    Full,
    Nobody(NoUpstream),
}

impl ServerGroup {
    /// A pool whose names are not resolved yet. Servers that `before`, the last pool of this origin, has as
    /// well keep their state and addresses.
    pub fn new(settings: config::OriginConfig, metrics: Arc<Metrics>, before: Option<&Self>) -> Self {
        let name = settings.name.as_str();
        let state = before.map(|before| before.state.clone());
        let state = state.unwrap_or_else(|| Arc::new(OriginState::new(name, &metrics)));
        let server = |server: &config::ServerEntry| {
            let known = before.and_then(|b| b.servers.iter().find(|known| known.at == server.address));
            let known = known.map(|known| known.state.clone()).unwrap_or_default();
            if before.is_some_and(|before| before.settings.health != settings.health) {
                // Without checks nothing would reset the results, and other checks have other results.
                known.checks.forget();
            }
            if let ServerAddress::Unix(_) = server.address {
                known.has_addresses([None]);
            }
            let id = sticky::endpoint_id(&server.address, None);
            GroupServer { at: server.address.clone(), weight: server.weight, id, state: known }
        };
        let pool = Self {
            servers: settings.servers.iter().map(server).collect(),
            reach: PeerSettings::new(&settings),
            plain: !settings.http2 && settings.servers.iter().all(|server| !server.address.is_tls()),
            number: state.succeed(),
            state,
            turns: Mutex::default(),
            next: AtomicUsize::new(0),
            endpoints: ArcSwap::default(),
            metrics,
            settings,
        };
        pool.find_endpoints();
        (0..pool.servers.len()).for_each(|server| pool.tell_whether_up(server));
        pool
    }

    /// Returns true if no pool has replaced this one.
    pub(crate) fn is_newest(&self) -> bool {
        self.state.is_newest(self.number)
    }

    /// Resolves the servers' names; a name that no longer resolves keeps its last addresses.
    pub async fn resolve(&self) {
        for (index, server) in self.servers.iter().enumerate() {
            let ServerAddress::Tcp { host, port, .. } = &server.at else { continue };
            match tokio::net::lookup_host((host.as_str(), *port)).await {
                Ok(found) => {
                    let mut found: Vec<_> = found.collect();
                    found.sort();
                    found.dedup();
                    if !found.is_empty() {
                        server.state.has_addresses(found.into_iter().map(Some));
                        self.tell_whether_up(index);
                    }
                }
                Err(error) => tracing::warn!(%error, origin = %self.settings.name, host, "no address"),
            }
        }
        self.find_endpoints();
    }

    fn find_endpoints(&self) {
        if let Some(sticky) = &self.settings.sticky {
            let servers = self
                .servers
                .iter()
                .map(|s| (&s.at, s.state.addresses().iter().filter_map(|state| state.address).collect()));
            self.endpoints.store(Arc::new(StickyEndpoints::new(
                sticky,
                self.settings.name.as_str(),
                servers,
            )));
        }
    }

    /// The number of a server's endpoint at this address.
    pub fn endpoint_of(&self, server: usize, address: Option<SocketAddr>) -> Option<u64> {
        self.servers.get(server).map(|server| sticky::endpoint_id(&server.at, address))
    }

    /// The addresses of a server to be tried: this one, then the others that are available.
    pub(crate) fn addresses(
        &self,
        server: usize,
        first: Option<SocketAddr>,
        now: Instant,
    ) -> Vec<SocketAddr> {
        let known = self.servers.get(server).map(|server| server.state.addresses());
        let others = known.iter().flat_map(|known| known.iter());
        let others = others.filter(|of| of.address != first && of.breaker.lock().may(now).is_ok());
        first.into_iter().chain(others.filter_map(|of| of.address)).collect()
    }

    /// Notes that one of a server's addresses could not be connected to, for a request that began at `began`.
    pub(crate) fn missed(&self, server: usize, address: SocketAddr, began: Instant) {
        let Some(GroupServer { state, .. }) = self.servers.get(server) else { return };
        // If it is the only address, the caller reports the failure.
        if state.addresses().len() > 1 {
            state.missed(address, began);
        }
    }

    pub(crate) fn most(&self) -> u32 {
        self.settings.max_connections.map_or(u32::MAX, NonZeroU32::get)
    }

    /// Every server with one of its addresses, for health checks: the current health doesn't matter.
    pub(crate) fn all(&self, now: Instant) -> Vec<ServerAttempt> {
        let place = |(server, known): (usize, &GroupServer)| {
            let addresses = known.state.addresses();
            let there = addresses.iter().find(|of| !of.breaker.lock().is_left_alone());
            let address = there.or(addresses.first())?.address;
            Some(ServerAttempt::new(server, address, now))
        };
        self.servers.iter().enumerate().filter_map(place).collect()
    }

    /// Returns true if all servers use HTTP/1.1 without TLS, over connections of the gateway's own
    /// (`super::plain`).
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// Returns true if all servers use HTTP/1.1, with or without TLS.
    pub fn is_http1(&self) -> bool {
        !self.settings.http2
    }

    /// The number of the verification settings of its servers.
    pub(crate) fn group(&self) -> u64 {
        self.reach.group()
    }

    /// Pingora's peer for a server, at this address or else another one of it; `None` if there is no address.
    /// Also returns a cell that receives the address, if a connection is opened and there are several.
    pub fn peer(&self, at: ServerAttempt) -> Option<(HttpPeer, ReachedAddress)> {
        let GroupServer { at: place, state, .. } = self.servers.get(at.server)?;
        let mut peer = self.reach.peer(place, at.address)?;
        let reached = ReachedAddress::default();
        let addresses = self.addresses(at.server, at.address, Instant::now());
        if addresses.len() > 1 {
            peer.options.custom_l4 = Some(Arc::new(OriginDialer {
                server: state.clone(),
                addresses,
                buffer: self.settings.receive_buffer.filter(|_| !self.settings.http2),
                within: self.settings.connect_timeout,
                began: at.began,
                reached: reached.clone(),
            }));
        }
        Some((peer, reached))
    }

    /// The endpoint of a server with these addresses.
    pub(crate) fn place<'a>(
        &'a self,
        at: ServerAttempt,
        addresses: &'a [SocketAddr],
    ) -> Option<SocketTarget<'a>> {
        match &self.servers.get(at.server)?.at {
            ServerAddress::Unix(path) => Some(SocketTarget::Unix(path)),
            ServerAddress::Tcp { .. } if addresses.is_empty() => None,
            ServerAddress::Tcp { tls: true, .. } => {
                self.peer(at).map(|peer| SocketTarget::Tls(Box::new(peer)))
            }
            ServerAddress::Tcp { .. } => Some(SocketTarget::Tcp(addresses, self.settings.receive_buffer)),
        }
    }

    /// The idle connections of a server.
    pub(crate) fn idle(&self, server: usize) -> Option<&IdleConnections> {
        self.servers.get(server).map(|server| &server.state.idle)
    }

    /// Closes idle connections that can't be reused any more; returns true if any are left.
    pub(crate) fn sweep(&self, now: Instant) -> bool {
        self.servers.iter().for_each(|server| server.state.idle.sweep(now));
        self.servers.iter().any(|server| !server.state.idle.is_empty())
    }

    /// Returns true if no server is healthy, according to the checks.
    pub(crate) fn is_down(&self) -> bool {
        !self.servers.iter().any(|server| server.state.checks.is_well())
    }

    /// Returns true if a server's name has no address.
    pub(crate) fn has_unresolved(&self) -> bool {
        self.servers.iter().any(|server| server.state.addresses().is_empty())
    }

    /// Spends a retry of the budget. Returns false if none is left.
    pub fn may_retry(&self) -> bool {
        self.state.may_retry()
    }

    /// `host:port` of a server for a `Host` field.
    pub fn authority(&self, server: usize) -> String {
        self.servers.get(server).map_or_else(String::new, |server| server.at.authority())
    }

    /// Returns true if TLS is used with a server.
    pub(crate) fn is_tls(&self, server: usize) -> bool {
        self.servers.get(server).is_some_and(|server| server.at.is_tls())
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
