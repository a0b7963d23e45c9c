//! The servers of an origin: the choice of the next one, and the outcomes of requests.
//!
//! Fills and proxied requests share this state. A choice has three steps: the servers that are available
//! (checks, breakers, resolved names), the preference among them (the server of a session; not one that has
//! failed this request or asked for a pause, if there is another), and then `balance`. If all available
//! servers are at their limit of concurrent requests, a request waits in the queue. If none is available, one
//! may be asked in panic mode (`panic_mode.rs`), else the request fails at once.

mod affinity;
pub(crate) mod balance;
pub mod choice;
pub(crate) mod dial;
pub(crate) mod peer;
mod pingora_connector;
pub(crate) mod queue;
pub(crate) mod queue_wait;
pub(crate) mod state;
use super::{
    h1::{IdleConnections, SocketTarget},
    health::{
        breaker::{self, BreakerChange},
        CheckFailure,
    },
    sticky::{self, StickyEndpoint, StickyEndpoints},
};
use crate::{
    clock,
    config::{self, ServerAddress},
    telemetry::{
        labels::{Ejection, OriginOutcome},
        metrics::Metrics,
    },
};
use balance::{RoundRobinTurns, ServerCandidate};
use choice::ServerChoice;
use peer::PeerSettings;
use pingora_connector::OriginDialer;
use state::{AddressState, OriginState, ServerState};

use arc_swap::ArcSwap;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use pingora_core::upstreams::peer::HttpPeer;
use std::{
    fmt,
    net::SocketAddr,
    num::NonZeroU32,
    sync::{
        atomic::{AtomicUsize, Ordering},
        Arc,
    },
    time::{Duration, Instant},
};

pub use {dial::ReachedAddress, state::ActiveRequest};

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

    /// Chooses a server, and waits in the queue for a place if the origin has a limit.
    ///
    /// # Errors
    /// If no server is available.
    pub async fn pick(self: &Arc<Self>, choice: &ServerChoice) -> Result<PickedServer, NoUpstream> {
        self.state.earn_retry();
        let found = match self.state.line.is_empty() {
            true => self.try_pick(choice, Instant::now()),
            false => Err(PickRefusal::Full),
        };
        let found = match found {
            Err(PickRefusal::Full) => Box::pin(self.wait(choice)).await,
            Err(PickRefusal::Nobody(nobody)) => Err(nobody),
            Ok(picked) => Ok(picked),
        };
        if let Err(nobody) = found {
            let outcome = match nobody {
                NoUpstream::BreakerOpen(_) | NoUpstream::Unhealthy => OriginOutcome::BreakerOpen,
                NoUpstream::Unresolved => OriginOutcome::Unresolved,
                NoUpstream::QueueFull => OriginOutcome::QueueFull,
                NoUpstream::QueueTimeout => OriginOutcome::QueueTimeout,
            };
            self.metrics.origin(self.settings.name.as_str(), outcome);
        }
        found
    }

    pub(crate) fn try_pick(&self, choice: &ServerChoice, now: Instant) -> Result<PickedServer, PickRefusal> {
        let own = choice.at.and_then(|id| self.endpoints.load().at(id));
        if let Some(own) = own.filter(|own| !choice.has_tried(own.server)) {
            if self.may(own.server, now).is_ok() {
                match self.enter(own, now) {
                    // The session exists on this server only.
                    Ok(picked) => return Ok(picked),
                    Err(PickRefusal::Full) => return Err(PickRefusal::Full),
                    Err(PickRefusal::Nobody(_)) => {}
                }
            }
        }
        match self.try_any(choice, now) {
            Err(PickRefusal::Nobody(why)) => self.try_least_bad(choice, now, why),
            found => found,
        }
    }

    fn try_any(&self, choice: &ServerChoice, now: Instant) -> Result<PickedServer, PickRefusal> {
        if self.servers.len() == 1 {
            return self.try_only(choice, now);
        }
        let mut why = NoUpstream::Unresolved;
        let mut ranks = Vec::with_capacity(self.servers.len());
        for index in 0..self.servers.len() {
            ranks.push(match self.may(index, now) {
                Ok(_) if choice.has_tried(index) => Some(3),
                // One trial of a server that is out is enough for a request.
                Ok(_) if !choice.tried.is_empty() && !self.servers[index].state.is_there() => Some(2),
                Ok(RestState(rests)) => Some(u8::from(rests)),
                Err(nobody) => {
                    why = worse_reason(why, nobody);
                    None
                }
            });
        }
        loop {
            let Some(best) = ranks.iter().copied().flatten().min() else {
                return Err(PickRefusal::Nobody(why));
            };
            let candidates: Vec<ServerCandidate> = self
                .servers
                .iter()
                .zip(&ranks)
                .map(|(server, rank)| {
                    let active = server.state.active();
                    let may = *rank == Some(best) && active < self.most();
                    ServerCandidate { id: server.id, weight: server.weight, active, may }
                })
                .collect();
            let chosen = balance::choose_server(
                self.settings.balance,
                choice.key,
                &candidates,
                &mut self.turns.lock(),
            );
            let Some(server) = chosen else { return Err(PickRefusal::Full) };
            let Some(endpoint) = self.endpoint(server, choice, now) else {
                ranks[server] = None;
                continue;
            };
            match self.enter(endpoint, now) {
                // Other requests were faster; the loads have to be compared again.
                Err(PickRefusal::Full) => {}
                Err(PickRefusal::Nobody(nobody)) => {
                    why = worse_reason(why, nobody);
                    ranks[server] = None;
                }
                Ok(picked) => return Ok(picked),
            }
        }
    }

    /// Chooses the only server, without a comparison.
    fn try_only(&self, choice: &ServerChoice, now: Instant) -> Result<PickedServer, PickRefusal> {
        self.may(0, now).map_err(PickRefusal::Nobody)?;
        let endpoint = self.endpoint(0, choice, now).ok_or(PickRefusal::Nobody(NoUpstream::Unhealthy))?;
        self.enter(endpoint, now)
    }

    /// Returns `Ok` if a server is available, with true in it if the server has asked for a pause.
    fn may(&self, server: usize, now: Instant) -> Result<RestState, NoUpstream> {
        let state = &self.servers.get(server).ok_or(NoUpstream::Unhealthy)?.state;
        let mut found = Err(NoUpstream::Unresolved);
        for address in state.addresses().iter() {
            let breaker = address.breaker.lock();
            found = match (breaker.may(now), found) {
                (Ok(()), Ok(RestState(rests))) => Ok(RestState(rests && breaker.rests(now))),
                (Ok(()), Err(_)) => Ok(RestState(breaker.rests(now))),
                (Err(_), Ok(rests)) => Ok(rests),
                (Err(last), Err(_)) => Err(NoUpstream::BreakerOpen(last)),
            };
        }
        match state.checks.may_try(now) {
            false if !matches!(found, Err(NoUpstream::Unresolved)) => Err(NoUpstream::Unhealthy),
            _ => found,
        }
    }

    /// Chooses one of a server's addresses: by the hash of a key, else round robin; among those available,
    /// one that has not failed the request, if there is one.
    fn endpoint(&self, server: usize, choice: &ServerChoice, now: Instant) -> Option<StickyEndpoint> {
        let GroupServer { at, state, .. } = self.servers.get(server)?;
        let addresses = state.addresses();
        if let [only] = &addresses[..] {
            return Some(StickyEndpoint { server, address: only.address });
        }
        let may = |of: &AddressState| of.breaker.lock().may(now).is_ok();
        let is_new = |of: &AddressState| !choice.tried.contains(&(server, of.address));
        let any_new = addresses.iter().any(|of| may(of) && is_new(of));
        let may = |of: &AddressState| may(of) && (is_new(of) || !any_new);
        let chosen = match choice.key {
            Some(key) => {
                let candidate = |of: &Arc<AddressState>| ServerCandidate {
                    id: sticky::endpoint_id(at, of.address),
                    weight: 1,
                    active: 0,
                    may: may(of),
                };
                let all: Vec<_> = addresses.iter().map(candidate).collect();
                addresses.get(balance::choose_by_hash(key, &all)?)?
            }
            None => {
                let first = self.next_address() % addresses.len().max(1);
                addresses.iter().cycle().skip(first).take(addresses.len()).find(|of| may(of))?
            }
        };
        Some(StickyEndpoint { server, address: chosen.address })
    }

    /// The round-robin counter for the addresses of servers.
    pub(crate) fn next_address(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed)
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

    fn enter(
        &self,
        StickyEndpoint { server, address }: StickyEndpoint,
        now: Instant,
    ) -> Result<PickedServer, PickRefusal> {
        let unhealthy = PickRefusal::Nobody(NoUpstream::Unhealthy);
        let Some(GroupServer { at, state, .. }) = self.servers.get(server) else { return Err(unhealthy) };
        // The address of a session may be gone.
        let Some(known) = state.at(address) else { return Err(unhealthy) };
        if state.active() >= self.most() {
            return Err(PickRefusal::Full);
        }
        // First, since a place that is given back here would serve the queue, which may be in progress.
        let (trial, taken) = {
            let mut breaker = known.breaker.lock();
            (breaker.trial_time(), breaker.take(now))
        };
        taken.map_err(|last| PickRefusal::Nobody(NoUpstream::BreakerOpen(last)))?;
        let Some(under_way) = state.enter(&self.state, self.most()) else { return Err(PickRefusal::Full) };
        state.checks.tries(now);
        let endpoint = self.settings.sticky.as_ref().map(|_| sticky::endpoint_id(at, address));
        let trial = trial.filter(|_| !self.is_failing());
        Ok(PickedServer { server, address, under_way, endpoint, trial })
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

    /// Reports the outcome of a request to a server.
    pub fn report(&self, at: ServerAttempt, outcome: OriginOutcome) {
        self.metrics.origin(self.settings.name.as_str(), outcome);
        let Some(server) = self.servers.get(at.server) else { return };
        let is_only = self.has_one();
        // A connection that breaks off fails at once: leaving the only server alone would spare nothing, and
        // one failed answer would cost all others.
        if outcome == OriginOutcome::Broken && is_only {
            return;
        }
        if outcome == OriginOutcome::Ok && server.state.checks.answered() {
            tracing::error!(
                origin = %self.settings.name, server = %server.at,
                "no check of this server has ever succeeded, but requests do: the checks are not believed \
                 (see health.path, health.host and health.headers)"
            );
            self.tell_whether_up(at.server);
        }
        let Some(known) = server.state.at(at.address) else { return };
        let change = known.breaker.lock().note(outcome, (at.began, at.took), Instant::now());
        match change {
            BreakerChange::Begins if is_only => {
                tracing::warn!(origin = %self.settings.name, server = %server.at, "the only server fails");
                self.state.line.serve();
            }
            BreakerChange::Begins => self.ejected(server, Ejection::Failures),
            BreakerChange::None | BreakerChange::Ends => {}
        }
        if change != BreakerChange::None {
            self.tell_whether_up(at.server);
        }
    }

    /// Processes `Retry-After` in the head of a server's answer.
    pub fn heed(&self, at: ServerAttempt, status: StatusCode, headers: &HeaderMap) {
        let Some(rest) = breaker::retry_after(status, headers, clock::wall()) else { return };
        let Some(server) = self.servers.get(at.server) else { return };
        let Some(known) = server.state.at(at.address) else { return };
        let begins = known.breaker.lock().rest(rest, Instant::now());
        if begins {
            self.ejected(server, Ejection::RetryAfter);
        }
    }

    /// Logs the reason of a failed request to a server, at most once a second.
    pub fn tell(&self, server: usize, error: &dyn fmt::Display) {
        let Some(GroupServer { at, state, .. }) = self.servers.get(server) else { return };
        if let Some(count) = state.failed.lock().add(Instant::now()) {
            tracing::warn!(origin = %self.settings.name, server = %at, count, %error, "an origin failed");
        }
    }

    /// Returns true if no server is healthy, according to the checks.
    pub(crate) fn is_down(&self) -> bool {
        !self.servers.iter().any(|server| server.state.checks.is_well())
    }

    /// Returns true if a server's name has no address.
    pub(crate) fn has_unresolved(&self) -> bool {
        self.servers.iter().any(|server| server.state.addresses().is_empty())
    }

    /// The servers whose checks fail and are not trusted.
    pub(crate) fn doubted(&self) -> impl Iterator<Item = &ServerAddress> {
        self.servers.iter().filter(|server| server.state.checks.are_doubted()).map(|server| &server.at)
    }

    /// Updates the metric of whether requests go to a server.
    fn tell_whether_up(&self, server: usize) {
        let Some(GroupServer { state, .. }) = self.servers.get(server) else { return };
        let up = state.checks.is_well() && state.is_there();
        self.metrics.origin_server_up(self.settings.name.as_str(), server, up);
    }

    /// Notes the result of a check; `Err` has the reason for which a server is not healthy.
    pub(crate) fn checked(&self, server: usize, found: Result<(), CheckFailure>) {
        let Some(GroupServer { at, state, .. }) = self.servers.get(server) else { return };
        let (origin, was_doubted) = (&self.settings.name, state.checks.are_doubted());
        let changed = state.checks.found(found.as_ref().err().map(|unwell| unwell.kind));
        match found {
            Ok(()) if changed => {
                tracing::info!(%origin, server = %at, healthy = true, "health changed");
                self.state.line.serve();
            }
            Err(CheckFailure { why, .. }) if !was_doubted && state.checks.are_doubted() => tracing::error!(
                %origin, server = %at, why,
                "no check of this server has ever succeeded, and it refuses them: they are not believed \
                 (see health.path, health.host and health.headers)"
            ),
            Err(CheckFailure { why, .. }) if changed => {
                tracing::warn!(%origin, server = %at, healthy = false, why, "health changed");
                if let Some(server) = self.servers.get(server) {
                    self.ejected(server, Ejection::Check);
                }
            }
            Ok(()) | Err(_) => {}
        }
        self.tell_whether_up(server);
    }

    fn ejected(&self, server: &GroupServer, why: Ejection) {
        tracing::info!(origin = %self.settings.name, server = %server.at, why = why.as_str(), "a server is left out");
        self.metrics.origin_ejected(self.settings.name.as_str(), why);
        // Requests that waited for it may go to others now.
        self.state.line.serve();
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

/// True if a server has asked for a pause (`Retry-After`).
struct RestState(bool);

/// The more informative of two reasons: a failed server before an unhealthy one, and that before an
/// unresolved name.
fn worse_reason(one: NoUpstream, other: NoUpstream) -> NoUpstream {
    match (one, other) {
        (NoUpstream::Unresolved, other) | (NoUpstream::Unhealthy, other @ NoUpstream::BreakerOpen(_)) => {
            other
        }
        (one, _) => one,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
