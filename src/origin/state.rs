//! What is known of an origin and its servers beyond one configuration: health, failures, requests under way, the
//! budget for retries, who waits, which session is where.
//!
//! A reload makes new pools. A pool takes over what the one before it knew: all of it where the origin has the same
//! name, each server's where the server has the same address. Nothing is lost and nothing is counted twice, for both
//! pools hold the same values.

use super::{
    breaker::{Breaker, Change},
    checks::Checks,
    h1::Idle,
    line::Line,
    waiter::Waiter,
};
use crate::telemetry::{
    labels::OriginOutcome,
    metrics::{Metrics, OriginMetrics},
    seldom::Seldom,
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

/// Each request earns this much of a retry: at most one request in five is a retry for long.
const EARN: f64 = 0.2;
/// Retries that can be saved up.
pub(super) const SAVED: f64 = 10.0;
/// Sessions whose server is remembered; beyond that those that were used least go.
const SESSIONS: usize = 100_000;
/// How long a session is remembered after it was last used. Socket.IO asks again within its ping's interval.
const REMEMBERED: Duration = Duration::from_secs(600);

/// What the pools of one origin have in common.
#[derive(Debug)]
pub(super) struct OriginState {
    budget: Mutex<f64>,
    /// Who waits for a place.
    pub(super) line: Line<Waiter>,
    /// By the session's name: its server's number ([`super::balance::key`] of its endpoint), and until when.
    sessions: OnceLock<Cache<Box<str>, (u64, Instant)>>,
    /// The newest pool's number.
    newest: AtomicU64,
    /// What is counted.
    pub(super) metrics: OriginMetrics,
}

impl OriginState {
    pub(super) fn new(name: &str, metrics: &Metrics) -> Self {
        Self {
            budget: Mutex::new(SAVED),
            line: Line::default(),
            sessions: OnceLock::new(),
            newest: AtomicU64::new(0),
            metrics: metrics.origin_gauges(name),
        }
    }

    /// The number of a pool that takes over from those before.
    pub(super) fn succeed(&self) -> u64 {
        self.newest.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Whether a pool of this number has not been followed by another one.
    pub(super) fn is_newest(&self, number: u64) -> bool {
        self.newest.load(Ordering::SeqCst) == number
    }

    pub(super) fn earn(&self) {
        let mut budget = self.budget.lock();
        *budget = (*budget + EARN).min(SAVED);
    }

    /// Whether one more retry is within the budget; if so, it is spent.
    pub(super) fn may_retry(&self) -> bool {
        let mut budget = self.budget.lock();
        let affordable = *budget >= 1.0;
        if affordable {
            *budget -= 1.0;
        }
        affordable
    }

    /// The session is at this endpoint.
    pub(super) fn remember(&self, session: &str, endpoint: u64, now: Instant) {
        let sessions = self.sessions.get_or_init(|| Cache::new(SESSIONS));
        sessions.insert(session.into(), (endpoint, now + REMEMBERED));
    }

    /// Where the session is; from now on it is remembered as long as at first.
    pub(super) fn recall(&self, session: &str, now: Instant) -> Option<u64> {
        let sessions = self.sessions.get()?;
        let (endpoint, until) = sessions.get(session)?;
        if until <= now {
            sessions.remove(session);
            return None;
        }
        // Written again only now and then: a look is cheaper.
        if until < now + REMEMBERED / 2 {
            self.remember(session, endpoint, now);
        }
        Some(endpoint)
    }
}

/// What is known of one server.
#[derive(Debug)]
pub(super) struct ServerState {
    /// Its addresses, as they resolved last.
    addresses: ArcSwap<Vec<Arc<AddressState>>>,
    pub(super) checks: Checks,
    active: AtomicU32,
    /// Those of them that were sent though it is out.
    trials: AtomicU32,
    /// What is told of its failures.
    pub(super) failed: Mutex<Seldom>,
    /// Connections that nobody uses at the moment.
    pub(super) idle: Idle,
}

impl Default for ServerState {
    fn default() -> Self {
        Self {
            addresses: ArcSwap::default(),
            checks: Checks::default(),
            active: AtomicU32::new(0),
            trials: AtomicU32::new(0),
            failed: Mutex::default(),
            idle: Idle::default(),
        }
    }
}

impl ServerState {
    /// Its addresses, as they resolved last; `None` in place of the one that a socket of this machine has.
    pub(super) fn addresses(&self) -> Guard<Arc<Vec<Arc<AddressState>>>> {
        self.addresses.load()
    }

    /// It has these addresses from now on. What is known of those that it had goes on.
    pub(super) fn has_addresses(&self, found: impl IntoIterator<Item = Option<SocketAddr>>) {
        let before = self.addresses.load();
        let state = |address: Option<SocketAddr>| {
            let known = before.iter().find(|known| known.address == address);
            known.cloned().unwrap_or_else(|| Arc::new(AddressState { address, breaker: Mutex::default() }))
        };
        self.addresses.store(Arc::new(found.into_iter().map(state).collect()));
    }

    /// One of its addresses.
    pub(super) fn at(&self, address: Option<SocketAddr>) -> Option<Arc<AddressState>> {
        self.addresses.load().iter().find(|known| known.address == address).cloned()
    }

    /// One of its addresses was not there, for a request that began then and found another one.
    pub(super) fn missed(&self, address: SocketAddr, began: Instant) {
        if let Some(state) = self.at(Some(address)) {
            let change = state.breaker.lock().note(OriginOutcome::ConnectFailed, began, Instant::now());
            if change == Change::Begins {
                tracing::warn!(%address, "an address of a server is left out: others are there");
            }
        }
    }

    /// Returns whether requests can come to it: it has addresses, and is not left alone at all of them.
    pub(super) fn is_there(&self) -> bool {
        self.addresses.load().iter().any(|state| !state.breaker.lock().is_left_alone())
    }

    /// Requests under way.
    pub(super) fn active(&self) -> u32 {
        self.active.load(Ordering::SeqCst)
    }

    /// One more request under way; `None` where there are `most` already.
    pub(super) fn enter(self: &Arc<Self>, origin: &Arc<OriginState>, most: u32) -> Option<UnderWay> {
        let one_more = |active: u32| (active < most).then(|| active.saturating_add(1));
        self.active.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).ok()?;
        origin.metrics.under_way.inc();
        Some(UnderWay { server: self.clone(), origin: origin.clone(), is_trial: false })
    }

    /// Requests under way that were sent though it is out.
    pub(super) fn trials(&self) -> u32 {
        self.trials.load(Ordering::SeqCst)
    }

    /// The same for a server that is out; `None` where there are `most_trials` already as well.
    pub(super) fn enter_trial(
        self: &Arc<Self>,
        origin: &Arc<OriginState>,
        most: u32,
        most_trials: u32,
    ) -> Option<UnderWay> {
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

/// What is known of one address of a server.
#[derive(Debug)]
pub(super) struct AddressState {
    /// `None`: a socket of this machine.
    pub(super) address: Option<SocketAddr>,
    pub(super) breaker: Mutex<Breaker>,
}

/// A request under way to a server, a WebSocket while it is open. Dropping it makes room for who waits.
#[derive(Debug)]
#[must_use = "the request counts as over once this is dropped"]
pub struct UnderWay {
    server: Arc<ServerState>,
    origin: Arc<OriginState>,
    is_trial: bool,
}

impl Drop for UnderWay {
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
        assert_eq!((0..100).filter(|_| state.may_retry()).count(), SAVED as usize);
        (0..5).for_each(|_| state.earn());
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
