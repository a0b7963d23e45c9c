//! The servers of an origin: which one is asked next, and what became of it.
//!
//! Fills and proxied requests share this view. Choosing has three steps: who may be asked at all (checks, failures,
//! names that resolve), whom of these to prefer (a session's own server; not one that has failed this request or wants
//! to rest, where there is another), and then `balance`. Where all that are left have as much under way as they may,
//! whoever asks waits in line. Whoever asks is told at once when nobody is left to ask.

use super::{
    balance::{self, Candidate, Turns},
    breaker,
    h1::{Idle, To},
    peer::Reach,
    session::Choice,
    state::{OriginState, ServerState},
    sticky::{self, Endpoint, Endpoints},
};
use crate::{
    config::{self, ServerAddress},
    telemetry::{
        labels::{Ejection, OriginOutcome},
        metrics::Metrics,
    },
};
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
    time::{Instant, SystemTime},
};

pub use super::state::UnderWay;

/// Why nobody can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Nobody {
    /// The servers failed lately, the last time like this.
    #[error("the servers are left alone after failures")]
    LeftAlone(OriginOutcome),
    /// The checks say that no server is healthy, or no name resolves.
    #[error("no server is healthy")]
    Unhealthy,
    /// All servers have as much to do as they may, and as many wait as may.
    #[error("the servers are busy, and the queue is full")]
    QueueFull,
    /// No server had a place in time.
    #[error("the servers are busy, and none had a place in time")]
    QueueTimeout,
}

/// A server that was chosen, to be reported on with [`Pool::report`].
#[derive(Debug)]
pub struct Picked {
    /// Its place in the configuration.
    pub server: usize,
    /// Which of its addresses; `None`: a socket of this machine.
    pub address: Option<SocketAddr>,
    /// To be held for as long as the request is under way.
    pub under_way: UnderWay,
    /// The number of its endpoint, where sessions are kept together.
    pub endpoint: Option<u64>,
}

/// An origin's servers.
#[derive(Debug)]
pub struct Pool {
    /// What the configuration says.
    pub settings: config::Origin,
    pub(super) state: Arc<OriginState>,
    /// Among the pools of this origin, later ones have higher ones.
    number: u64,
    servers: Vec<Server>,
    reach: Reach,
    plain: bool,
    turns: Mutex<Turns>,
    next: AtomicUsize,
    pub(super) endpoints: ArcSwap<Endpoints>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Server {
    at: ServerAddress,
    weight: u32,
    id: u64,
    state: Arc<ServerState>,
}

/// Why nobody was chosen.
#[derive(Debug)]
pub(super) enum Refused {
    /// All have as much under way as they may.
    Full,
    Nobody(Nobody),
}

impl Pool {
    /// A pool whose names are not resolved yet, but for those of servers that `before`, the last pool of this origin,
    /// has as well: these go on as they are.
    pub fn new(settings: config::Origin, metrics: Arc<Metrics>, before: Option<&Self>) -> Self {
        let name = settings.name.as_str();
        let state = before.map(|before| before.state.clone());
        let state = state.unwrap_or_else(|| Arc::new(OriginState::new(name, &metrics)));
        let server = |server: &config::OriginServer| {
            let known = before.and_then(|b| b.servers.iter().find(|known| known.at == server.address));
            let known = known.map(|known| known.state.clone()).unwrap_or_default();
            if settings.health.is_none() {
                // Nobody would ever say otherwise.
                known.set_healthy(true);
            }
            let id = sticky::id(&server.address, None);
            Server { at: server.address.clone(), weight: server.weight, id, state: known }
        };
        let pool = Self {
            servers: settings.servers.iter().map(server).collect(),
            reach: Reach::new(&settings),
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
        pool
    }

    /// Whether no pool has taken over from this one.
    pub(super) fn is_newest(&self) -> bool {
        self.state.is_newest(self.number)
    }

    /// Resolves the servers' names; what no longer resolves keeps its last addresses.
    pub async fn resolve(&self) {
        for server in &self.servers {
            let ServerAddress::Tcp { host, port, .. } = &server.at else { continue };
            match tokio::net::lookup_host((host.as_str(), *port)).await {
                Ok(found) => {
                    let mut found: Vec<_> = found.collect();
                    found.sort();
                    found.dedup();
                    if !found.is_empty() {
                        server.state.addresses.store(Arc::new(found));
                    }
                }
                Err(error) => tracing::warn!(%error, origin = %self.settings.name, host, "no address"),
            }
        }
        self.find_endpoints();
    }

    fn find_endpoints(&self) {
        if let Some(sticky) = &self.settings.sticky {
            let servers = self.servers.iter().map(|s| (&s.at, s.state.addresses.load().to_vec()));
            self.endpoints.store(Arc::new(Endpoints::new(sticky, self.settings.name.as_str(), servers)));
        }
    }

    /// Chooses a server, and waits in line for a place where the origin has a limit.
    ///
    /// # Errors
    /// If nobody can be asked.
    pub async fn pick(self: &Arc<Self>, choice: &Choice) -> Result<Picked, Nobody> {
        self.state.earn();
        let found = match self.state.line.is_empty() {
            true => self.try_pick(choice, Instant::now()),
            false => Err(Refused::Full),
        };
        let found = match found {
            Err(Refused::Full) => Box::pin(self.wait(choice)).await,
            Err(Refused::Nobody(nobody)) => Err(nobody),
            Ok(picked) => Ok(picked),
        };
        if let Err(nobody) = found {
            let outcome = match nobody {
                Nobody::LeftAlone(_) | Nobody::Unhealthy => OriginOutcome::BreakerOpen,
                Nobody::QueueFull => OriginOutcome::QueueFull,
                Nobody::QueueTimeout => OriginOutcome::QueueTimeout,
            };
            self.metrics.origin(self.settings.name.as_str(), outcome);
        }
        found
    }

    pub(super) fn try_pick(&self, choice: &Choice, now: Instant) -> Result<Picked, Refused> {
        let own = choice.at.and_then(|id| self.endpoints.load().at(id));
        if let Some(own) = own.filter(|own| !choice.tried.contains(&own.server)) {
            if self.may(own.server, now).is_ok() {
                match self.enter(own, now) {
                    // Its session is there and nowhere else.
                    Ok(picked) => return Ok(picked),
                    Err(Refused::Full) => return Err(Refused::Full),
                    Err(Refused::Nobody(_)) => {}
                }
            }
        }
        self.try_any(choice, now)
    }

    fn try_any(&self, choice: &Choice, now: Instant) -> Result<Picked, Refused> {
        if self.servers.len() == 1 {
            return self.try_only(choice, now);
        }
        let mut why = Nobody::Unhealthy;
        let mut ranks = Vec::with_capacity(self.servers.len());
        for index in 0..self.servers.len() {
            ranks.push(match self.may(index, now) {
                Ok(_) if choice.tried.contains(&index) => Some(2),
                Ok(Rests(rests)) => Some(u8::from(rests)),
                Err(nobody) => {
                    why = worse(why, nobody);
                    None
                }
            });
        }
        loop {
            let Some(best) = ranks.iter().copied().flatten().min() else { return Err(Refused::Nobody(why)) };
            let candidates: Vec<Candidate> = self
                .servers
                .iter()
                .zip(&ranks)
                .map(|(server, rank)| {
                    let active = server.state.active();
                    let may = *rank == Some(best) && active < self.most();
                    Candidate { id: server.id, weight: server.weight, active, may }
                })
                .collect();
            let chosen =
                balance::choose(self.settings.balance, choice.key, &candidates, &mut self.turns.lock());
            let Some(server) = chosen else { return Err(Refused::Full) };
            let Some(endpoint) = self.endpoint(server, choice.key) else {
                ranks[server] = None;
                continue;
            };
            match self.enter(endpoint, now) {
                // Others were faster; its load is looked at again.
                Err(Refused::Full) => {}
                Err(Refused::Nobody(nobody)) => {
                    why = worse(why, nobody);
                    ranks[server] = None;
                }
                Ok(picked) => return Ok(picked),
            }
        }
    }

    /// The one server that there is: nobody to compare it with.
    fn try_only(&self, choice: &Choice, now: Instant) -> Result<Picked, Refused> {
        self.may(0, now).map_err(Refused::Nobody)?;
        let endpoint = self.endpoint(0, choice.key).ok_or(Refused::Nobody(Nobody::Unhealthy))?;
        self.enter(endpoint, now)
    }

    /// Whether a server may be asked, and if so, whether it wants to rest.
    fn may(&self, server: usize, now: Instant) -> Result<Rests, Nobody> {
        let Server { at, state, .. } = self.servers.get(server).ok_or(Nobody::Unhealthy)?;
        let is_there = matches!(at, ServerAddress::Unix(_)) || !state.addresses.load().is_empty();
        if !state.is_healthy() || !is_there {
            return Err(Nobody::Unhealthy);
        }
        let breaker = state.breaker.lock();
        breaker.may(now).map_err(Nobody::LeftAlone)?;
        Ok(Rests(breaker.rests(now)))
    }

    /// One of a server's addresses: always the same for a key, else in turn.
    fn endpoint(&self, server: usize, key: Option<u64>) -> Option<Endpoint> {
        let Server { at, state, .. } = self.servers.get(server)?;
        if let ServerAddress::Unix(_) = at {
            return Some(Endpoint { server, address: None });
        }
        let addresses = state.addresses.load();
        let address = match (addresses.len(), key) {
            (0, _) => return None,
            (1, _) => addresses[0],
            (_, Some(key)) => {
                let candidate =
                    |to| Candidate { id: sticky::id(at, Some(to)), weight: 1, active: 0, may: true };
                let all: Vec<_> = addresses.iter().copied().map(candidate).collect();
                addresses[balance::hashed(key, &all)?]
            }
            (n, None) => addresses[self.next.fetch_add(1, Ordering::Relaxed) % n],
        };
        Some(Endpoint { server, address: Some(address) })
    }

    fn most(&self) -> u32 {
        self.settings.max_connections.map_or(u32::MAX, NonZeroU32::get)
    }

    fn enter(&self, Endpoint { server, address }: Endpoint, now: Instant) -> Result<Picked, Refused> {
        let unhealthy = Refused::Nobody(Nobody::Unhealthy);
        let Some(Server { at, state, .. }) = self.servers.get(server) else { return Err(unhealthy) };
        if address.is_none() && !matches!(at, ServerAddress::Unix(_)) {
            return Err(unhealthy);
        }
        if state.active() >= self.most() {
            return Err(Refused::Full);
        }
        // First: a place that is given back here would have to serve the line, which may be doing just this.
        let taken = state.breaker.lock().take(now);
        taken.map_err(|last| Refused::Nobody(Nobody::LeftAlone(last)))?;
        let Some(under_way) = state.enter(&self.state, self.most()) else { return Err(Refused::Full) };
        let endpoint = self.settings.sticky.as_ref().map(|_| sticky::id(at, address));
        Ok(Picked { server, address, under_way, endpoint })
    }

    /// Every server and one of its addresses, for checks: health and failures don't matter here.
    pub(super) fn all(&self) -> Vec<(usize, Option<SocketAddr>)> {
        let place = |(index, server): (usize, &Server)| match server.at {
            ServerAddress::Unix(_) => Some((index, None)),
            ServerAddress::Tcp { .. } => Some((index, Some(*server.state.addresses.load().first()?))),
        };
        self.servers.iter().enumerate().filter_map(place).collect()
    }

    /// Whether all servers are asked by HTTP/1.1 without TLS: over connections of the gateway's own ([`super::plain`]).
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// Whether all servers are asked by HTTP/1.1, with TLS or without.
    pub fn is_http1(&self) -> bool {
        !self.settings.http2
    }

    /// The number of what its servers are verified by.
    pub(super) fn group(&self) -> u64 {
        self.reach.group()
    }

    /// How Pingora reaches a server; `None` where that can't be.
    pub fn peer(&self, server: usize, address: Option<SocketAddr>) -> Option<HttpPeer> {
        self.reach.peer(&self.servers.get(server)?.at, address)
    }

    /// Where a server is.
    pub(super) fn place(&self, server: usize, address: Option<SocketAddr>) -> Option<To<'_>> {
        match (&self.servers.get(server)?.at, address) {
            (ServerAddress::Unix(path), _) => Some(To::Unix(path)),
            (ServerAddress::Tcp { tls: true, .. }, Some(_)) => {
                Some(To::Tls(Box::new(self.peer(server, address)?)))
            }
            (ServerAddress::Tcp { .. }, Some(address)) => {
                Some(To::Tcp(address, self.settings.receive_buffer))
            }
            (ServerAddress::Tcp { .. }, None) => None,
        }
    }

    /// Idle connections to a server.
    pub(super) fn idle(&self, server: usize) -> Option<&Idle> {
        self.servers.get(server).map(|server| &server.state.idle)
    }

    /// Closes idle connections that are of no use any more; whether any are left.
    pub(super) fn sweep(&self, now: Instant) -> bool {
        self.servers.iter().for_each(|server| server.state.idle.sweep(now));
        self.servers.iter().any(|server| !server.state.idle.is_empty())
    }

    /// What became of a request to a server that was asked at `began`.
    pub fn report(&self, server: usize, outcome: OriginOutcome, began: Instant) {
        self.metrics.origin(self.settings.name.as_str(), outcome);
        // One that breaks off fails at once: to leave it alone would spare nobody anything where there is no other, and
        // take all its answers away for one that it can't give.
        if outcome == OriginOutcome::Broken && self.servers.len() == 1 {
            return;
        }
        let Some(server) = self.servers.get(server) else { return };
        let ejected = server.state.breaker.lock().note(outcome, began, Instant::now());
        if ejected {
            self.ejected(server, Ejection::Failures);
        }
    }

    /// Heeds what the head of a server's answer says of the server itself.
    pub fn heed(&self, server: usize, status: StatusCode, headers: &HeaderMap) {
        let Some(rest) = breaker::rest_of(status, headers, SystemTime::now()) else { return };
        let Some(server) = self.servers.get(server) else { return };
        let begins = server.state.breaker.lock().rest(rest, Instant::now());
        if begins {
            self.ejected(server, Ejection::RetryAfter);
        }
    }

    /// Tells the log why a request to a server failed, at most once a second.
    pub fn tell(&self, server: usize, error: &dyn fmt::Display) {
        let Some(Server { at, state, .. }) = self.servers.get(server) else { return };
        if let Some(count) = state.failed.lock().add(Instant::now()) {
            tracing::warn!(origin = %self.settings.name, server = %at, count, %error, "an origin failed");
        }
    }

    /// Whether checks find nobody well.
    pub(super) fn is_down(&self) -> bool {
        !self.servers.iter().any(|server| server.state.is_healthy())
    }

    /// What a check found: `Err` says why a server is not well.
    pub(super) fn checked(&self, server: usize, found: Result<(), String>) {
        let healthy = found.is_ok();
        let why = found.err();
        let Some(found) = self.servers.get(server) else { return };
        if found.state.set_healthy(healthy) {
            let (origin, server) = (&self.settings.name, &found.at);
            match why {
                None => {
                    tracing::info!(%origin, %server, healthy, "health changed");
                    self.state.line.serve();
                }
                Some(why) => {
                    tracing::warn!(%origin, %server, healthy, why, "health changed");
                    self.ejected(found, Ejection::Check);
                }
            }
        }
        self.metrics.origin_server_up(self.settings.name.as_str(), server, healthy);
    }

    fn ejected(&self, server: &Server, why: Ejection) {
        tracing::info!(origin = %self.settings.name, server = %server.at, why = why.as_str(), "a server is left out");
        self.metrics.origin_ejected(self.settings.name.as_str(), why);
        // Those who waited for it may go to others now.
        self.state.line.serve();
    }

    /// Whether one more retry is within the budget; if so, it is spent.
    pub fn may_retry(&self) -> bool {
        self.state.may_retry()
    }

    /// `host:port` of a server as a `Host` field names it.
    pub fn authority(&self, server: usize) -> String {
        self.servers.get(server).map_or_else(String::new, |server| server.at.authority())
    }

    /// Whether a server is spoken to by TLS.
    pub(super) fn is_tls(&self, server: usize) -> bool {
        self.servers.get(server).is_some_and(|server| server.at.is_tls())
    }
}

/// Whether a server has asked not to be asked for now.
struct Rests(bool);

/// Which of two reasons is told: that a server has failed says more than that another one isn't there.
fn worse(one: Nobody, other: Nobody) -> Nobody {
    match (one, other) {
        (Nobody::Unhealthy, other) => other,
        (one, _) => one,
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
