//! The state of an origin and its servers that outlives a configuration: health, failures, requests under
//! way, the retry budget, the queue, and sessions.
//!
//! A reload builds new pools. A pool takes over the state of the one before it: that of the origin if the
//! name is the same, that of a server if its address is the same. Both pools share the same values, so that
//! nothing is lost or counted twice.

use super::queue::{QueueEntry, WaitQueue};
use crate::{
    origin::{
        h1::IdleConnections,
        health::{
            breaker::{Breaker, BreakerChange},
            CheckHistory,
        },
    },
    telemetry::{
        labels::OriginOutcome,
        log::throttled_log::ThrottledLog,
        metrics::{Metrics, OriginMetrics},
    },
};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use std::{
    net::SocketAddr,
    sync::{
        atomic::{AtomicU32, AtomicU64, Ordering},
        Arc, OnceLock,
    },
    time::{Duration, Instant},
};

/// The part of a retry that each request earns: in the long run at most one request in five is a retry.
const RETRY_EARNED: f64 = 0.2;
/// The most retries that can be accumulated.
pub(crate) const MAX_RETRIES_SAVED: f64 = 10.0;
/// The most sessions whose server is remembered; beyond that the least used are evicted.
const SESSIONS: usize = 100_000;
/// The time for which a session is remembered after its last use. Socket.IO sends a request within each ping
/// interval.
const REMEMBERED: Duration = Duration::from_secs(600);

/// A request in the queue: it knows its pool and how it is served. A place that it no longer wants comes back.
pub(super) type QueuedRequest = Box<dyn QueueEntry<Left = Option<ActiveRequest>> + Send>;

/// The state that the pools of one origin share.
#[derive(Debug)]
pub(crate) struct OriginState {
    budget: Mutex<f64>,
    /// The queue of requests that wait for a place.
    pub(crate) line: WaitQueue<QueuedRequest>,
    /// The number of the endpoint ([`super::balance::key`]) and the expiry of each session, by its id.
    sessions: OnceLock<Cache<Box<str>, (u64, Instant)>>,
    /// The number of the newest pool.
    newest: AtomicU64,
    /// The metrics of the origin.
    pub(crate) metrics: OriginMetrics,
}

impl OriginState {
    pub(crate) fn new(name: &str, metrics: &Metrics) -> Self {
        Self {
            budget: Mutex::new(MAX_RETRIES_SAVED),
            line: WaitQueue::default(),
            sessions: OnceLock::new(),
            newest: AtomicU64::new(0),
            metrics: metrics.origin_gauges(name),
        }
    }

    /// The number for a pool that replaces the earlier ones.
    pub(crate) fn succeed(&self) -> u64 {
        self.newest.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Returns true if the pool with this number has not been replaced.
    pub(crate) fn is_newest(&self, number: u64) -> bool {
        self.newest.load(Ordering::SeqCst) == number
    }

    pub(crate) fn earn_retry(&self) {
        let mut budget = self.budget.lock();
        *budget = (*budget + RETRY_EARNED).min(MAX_RETRIES_SAVED);
    }

    /// Spends a retry of the budget. Returns false if none is left.
    pub(crate) fn may_retry(&self) -> bool {
        let mut budget = self.budget.lock();
        let affordable = *budget >= 1.0;
        if affordable {
            *budget -= 1.0;
        }
        affordable
    }

    /// Remembers the endpoint of a session.
    pub(crate) fn remember(&self, session: &str, endpoint: u64, now: Instant) {
        let sessions = self.sessions.get_or_init(|| Cache::new(SESSIONS));
        sessions.insert(session.into(), (endpoint, now + REMEMBERED));
    }

    /// The endpoint of a session; extends the time for which it is remembered.
    pub(crate) fn recall(&self, session: &str, now: Instant) -> Option<u64> {
        let sessions = self.sessions.get()?;
        let (endpoint, until) = sessions.get(session)?;
        if until <= now {
            sessions.remove(session);
            return None;
        }
        // Written only now and then, since a read is cheaper.
        if until < now + REMEMBERED / 2 {
            self.remember(session, endpoint, now);
        }
        Some(endpoint)
    }
}

/// The state of one server.
#[derive(Debug)]
pub(crate) struct ServerState {
    /// Its addresses, as of the last resolution.
    addresses: ArcSwap<Vec<Arc<AddressState>>>,
    pub(crate) checks: CheckHistory,
    active: AtomicU32,
    /// The number of requests under way that were sent while it was out.
    trials: AtomicU32,
    /// The rate limit of log lines about its failures.
    pub(crate) failed: Mutex<ThrottledLog>,
    /// Idle connections.
    pub(crate) idle: IdleConnections,
}

impl Default for ServerState {
    fn default() -> Self {
        Self {
            addresses: ArcSwap::default(),
            checks: CheckHistory::default(),
            active: AtomicU32::new(0),
            trials: AtomicU32::new(0),
            failed: Mutex::default(),
            idle: IdleConnections::default(),
        }
    }
}

impl ServerState {
    /// Its addresses, as of the last resolution; a UNIX socket has one entry with `None`.
    pub(crate) fn addresses(&self) -> Guard<Arc<Vec<Arc<AddressState>>>> {
        self.addresses.load()
    }

    /// Sets its addresses. Addresses that it had before keep their state.
    pub(crate) fn has_addresses(&self, found: impl IntoIterator<Item = Option<SocketAddr>>) {
        let before = self.addresses.load();
        let state = |address: Option<SocketAddr>| {
            let known = before.iter().find(|known| known.address == address);
            known.cloned().unwrap_or_else(|| Arc::new(AddressState { address, breaker: Mutex::default() }))
        };
        self.addresses.store(Arc::new(found.into_iter().map(state).collect()));
    }

    /// The state of one of its addresses.
    pub(crate) fn at(&self, address: Option<SocketAddr>) -> Option<Arc<AddressState>> {
        self.addresses.load().iter().find(|known| known.address == address).cloned()
    }

    /// Notes that one of its addresses could not be connected to, for a request that began at `began` and
    /// used another one.
    pub(crate) fn missed(&self, address: SocketAddr, began: Instant) {
        if let Some(state) = self.at(Some(address)) {
            let change =
                state.breaker.lock().note(OriginOutcome::ConnectFailed, (began, None), Instant::now());
            if change == BreakerChange::Begins {
                tracing::warn!(%address, "an address of a server is not used any more: others are reachable");
            }
        }
    }

    /// Returns true if it has an address whose breaker is not open.
    pub(crate) fn is_there(&self) -> bool {
        self.addresses.load().iter().any(|state| !state.breaker.lock().is_left_alone())
    }

    /// The number of requests under way.
    pub(crate) fn active(&self) -> u32 {
        self.active.load(Ordering::SeqCst)
    }

    /// Counts a request under way; `None` if there are `most` already.
    pub(crate) fn enter(self: &Arc<Self>, origin: &Arc<OriginState>, most: u32) -> Option<ActiveRequest> {
        let one_more = |active: u32| (active < most).then(|| active.saturating_add(1));
        self.active.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).ok()?;
        origin.metrics.under_way.inc();
        Some(ActiveRequest { server: self.clone(), origin: origin.clone(), is_trial: false })
    }

    /// The number of requests under way that were sent while it was out.
    pub(crate) fn trials(&self) -> u32 {
        self.trials.load(Ordering::SeqCst)
    }

    /// The same for a server that is out; `None` if there are `most` requests, or `most_trials` such
    /// requests, already.
    pub(crate) fn enter_trial(
        self: &Arc<Self>,
        origin: &Arc<OriginState>,
        most: u32,
        most_trials: u32,
    ) -> Option<ActiveRequest> {
        let one_more = |trials: u32| (trials < most_trials).then(|| trials.saturating_add(1));
        self.trials.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).ok()?;
        match self.enter(origin, most) {
            Some(mut under_way) => {
                under_way.is_trial = true;
                Some(under_way)
            }
            None => {
                self.trials.fetch_sub(1, Ordering::SeqCst);
                None
            }
        }
    }
}

/// The state of one address of a server.
#[derive(Debug)]
pub(crate) struct AddressState {
    /// `None`: a UNIX socket.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) breaker: Mutex<Breaker>,
}

/// The permit of a request under way, or of an open WebSocket. Dropping it frees the place, and serves the
/// queue.
#[derive(Debug)]
#[must_use = "the request counts as over once this is dropped"]
pub struct ActiveRequest {
    server: Arc<ServerState>,
    origin: Arc<OriginState>,
    is_trial: bool,
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.server.active.fetch_sub(1, Ordering::SeqCst);
        if self.is_trial {
            self.server.trials.fetch_sub(1, Ordering::SeqCst);
        }
        self.origin.metrics.under_way.dec();
        self.origin.line.serve();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> Arc<OriginState> {
        Arc::new(OriginState::new("app", &Metrics::new().unwrap()))
    }

    #[test]
    fn retries_have_a_budget() {
        let state = state();
        assert_eq!((0..100).filter(|_| state.may_retry()).count(), MAX_RETRIES_SAVED as usize);
        (0..5).for_each(|_| state.earn_retry());
        assert!(state.may_retry());
        assert!(!state.may_retry());
    }

    #[test]
    fn a_session_is_remembered_while_it_is_used() {
        let (state, start) = (state(), Instant::now());
        state.remember("a", 7, start);
        assert_eq!(state.recall("b", start), None);
        let mut now = start;
        for _ in 0..5 {
            now += REMEMBERED - Duration::from_secs(1);
            assert_eq!(state.recall("a", now), Some(7));
        }
        assert_eq!(state.recall("a", now + REMEMBERED), None);
    }

    #[test]
    fn sessions_are_bounded() {
        let (state, now) = (state(), Instant::now());
        for n in 0..SESSIONS + 50_000 {
            state.remember(&n.to_string(), 1, now);
        }
        assert!(state.sessions.get().unwrap().len() <= SESSIONS);
    }

    #[test]
    fn no_more_are_under_way_than_may_be() {
        let (state, server) = (state(), Arc::new(ServerState::default()));
        let first = server.enter(&state, 2).unwrap();
        let second = server.enter(&state, 2).unwrap();
        assert!(server.enter(&state, 2).is_none());
        assert_eq!((server.active(), state.metrics.under_way.get()), (2, 2));
        drop(first);
        assert!(server.enter(&state, 2).is_some());
        drop(second);
        assert_eq!((server.active(), state.metrics.under_way.get()), (0, 0));
    }
}
