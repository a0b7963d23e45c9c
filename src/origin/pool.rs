//! The servers of an origin: which one is asked next, and what is known of their health.
//!
//! Fills and proxied requests share this view. A server that fails a few times in a row is left alone for a
//! moment, longer each time, then one request tries it again (a circuit breaker with half-open trials); active
//! checks, where the origin has them, take a server out and put it back. Whoever asks is told at once when
//! nobody is left to ask.

use crate::{
    config,
    telemetry::{labels::OriginOutcome, metrics::Metrics},
};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora_core::upstreams::peer::HttpPeer;
use std::{
    net::SocketAddr,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        Arc,
    },
    time::{Duration, Instant},
};

/// Failures in a row after which a server is left alone.
const FAILURES: u32 = 3;
/// How long it is left alone at first; doubled with each failed trial.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest it is left alone.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long an idle connection to a server is kept.
const IDLE: Duration = Duration::from_secs(60);

/// Why nobody can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Nobody {
    /// The servers failed lately, the last time like this.
    #[error("the servers are left alone after failures")]
    LeftAlone(OriginOutcome),
    /// The checks say that no server is healthy, or no name resolves.
    #[error("no server is healthy")]
    Unhealthy,
}

/// An origin's servers.
#[derive(Debug)]
pub struct Pool {
    /// What the configuration says.
    pub settings: config::Origin,
    servers: Vec<Server>,
    next: AtomicUsize,
    budget: Mutex<f64>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Server {
    at: config::OriginServer,
    addresses: ArcSwap<Vec<SocketAddr>>,
    healthy: AtomicBool,
    lately: Mutex<Lately>,
}

#[derive(Debug)]
struct Lately {
    failures: u32,
    pause: Duration,
    left_alone_until: Option<Instant>,
    /// When a failure was counted last.
    counted: Option<Instant>,
    last: OriginOutcome,
}

/// A server that was chosen, to be reported on with [`Pool::report`].
#[derive(Debug)]
pub struct Picked {
    /// Its place in the configuration.
    pub server: usize,
    /// How to reach it.
    pub peer: HttpPeer,
}

/// Each request earns this much of a retry: at most one request in five is a retry for long.
const EARN: f64 = 0.2;
/// Retries that can be saved up.
const SAVED: f64 = 10.0;

impl Pool {
    /// A pool whose names are not resolved yet.
    pub fn new(settings: config::Origin, metrics: Arc<Metrics>) -> Self {
        let server = |at: &config::OriginServer| Server {
            at: at.clone(),
            addresses: ArcSwap::default(),
            healthy: AtomicBool::new(true),
            lately: Mutex::new(Lately {
                failures: 0,
                pause: FIRST_PAUSE,
                left_alone_until: None,
                counted: None,
                last: OriginOutcome::Ok,
            }),
        };
        let servers = settings.servers.iter().map(server).collect();
        Self { settings, servers, next: AtomicUsize::new(0), budget: Mutex::new(SAVED), metrics }
    }

    /// Resolves the servers' names; what no longer resolves keeps its last addresses.
    pub async fn resolve(&self) {
        for server in &self.servers {
            match tokio::net::lookup_host((server.at.host.as_str(), server.at.port)).await {
                Ok(found) => {
                    let mut found: Vec<_> = found.collect();
                    found.sort();
                    if !found.is_empty() {
                        server.addresses.store(Arc::new(found));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, origin = %self.settings.name, host = server.at.host, "no address");
                }
            }
        }
    }

    /// Chooses a server: in turn, leaving out those that are unhealthy or left alone.
    ///
    /// # Errors
    /// If nobody can be asked.
    pub fn pick(&self) -> Result<Picked, Nobody> {
        self.earn();
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut why = Nobody::Unhealthy;
        for step in 0..self.servers.len() {
            let index = (turn.wrapping_add(step)) % self.servers.len();
            let server = &self.servers[index];
            let addresses = server.addresses.load();
            if !server.healthy.load(Ordering::Relaxed) || addresses.is_empty() {
                continue;
            }
            if let Err(last) = server.lately.lock().try_now(now) {
                why = Nobody::LeftAlone(last);
                continue;
            }
            let address = addresses[turn % addresses.len()];
            return Ok(Picked { server: index, peer: self.peer(&server.at, address) });
        }
        self.metrics.origin(self.settings.name.as_str(), OriginOutcome::BreakerOpen);
        Err(why)
    }

    /// Every server and address, for checks: health and failures don't matter here.
    pub(super) fn all(&self) -> Vec<Picked> {
        let peer = |(server, s): (usize, &Server)| {
            let address = *s.addresses.load().first()?;
            Some(Picked { server, peer: self.peer(&s.at, address) })
        };
        self.servers.iter().enumerate().filter_map(peer).collect()
    }

    fn peer(&self, at: &config::OriginServer, address: SocketAddr) -> HttpPeer {
        let mut peer = HttpPeer::new(address, at.tls, at.host.clone());
        let options = &mut peer.options;
        options.connection_timeout = Some(self.settings.connect_timeout);
        options.total_connection_timeout = Some(self.settings.connect_timeout);
        options.read_timeout = Some(self.settings.read_timeout);
        options.write_timeout = Some(self.settings.read_timeout);
        options.idle_timeout = Some(IDLE);
        peer
    }

    /// What became of a request to a server that was asked at `began`.
    pub fn report(&self, server: usize, outcome: OriginOutcome, began: Instant) {
        self.metrics.origin(self.settings.name.as_str(), outcome);
        // One that breaks off fails at once: to leave it alone would spare nobody anything where there is no other, and
        // take all its answers away for one that it can't give.
        if outcome == OriginOutcome::Broken && self.servers.len() == 1 {
            return;
        }
        if let Some(server) = self.servers.get(server) {
            server.lately.lock().note(outcome, began, Instant::now());
        }
    }

    /// What a check found.
    pub(super) fn set_healthy(&self, server: usize, healthy: bool) {
        let Some(found) = self.servers.get(server) else { return };
        if found.healthy.swap(healthy, Ordering::Relaxed) != healthy {
            let at = &found.at;
            tracing::warn!(origin = %self.settings.name, host = at.host, port = at.port, healthy, "health changed");
        }
        self.metrics.origin_server_up(self.settings.name.as_str(), server, healthy);
    }

    fn earn(&self) {
        let mut budget = self.budget.lock();
        *budget = (*budget + EARN).min(SAVED);
    }

    /// Whether one more retry is within the budget; if so, it is spent.
    pub fn may_retry(&self) -> bool {
        let mut budget = self.budget.lock();
        let affordable = *budget >= 1.0;
        if affordable {
            *budget -= 1.0;
        }
        affordable
    }

    /// `host:port` of a server as a `Host` field names it.
    pub fn authority(&self, server: usize) -> String {
        let Some(Server { at: config::OriginServer { tls, host, port }, .. }) = self.servers.get(server)
        else {
            return String::new();
        };
        match (tls, port) {
            (false, 80) | (true, 443) => host.clone(),
            _ => format!("{host}:{port}"),
        }
    }
}

impl Lately {
    /// Whether the server may be asked at `now`. One who comes after the pause has the trial to himself: the
    /// next one waits another pause for its result.
    fn try_now(&mut self, now: Instant) -> Result<(), OriginOutcome> {
        match self.left_alone_until {
            None => Ok(()),
            Some(until) if now < until => Err(self.last),
            Some(_) => {
                self.left_alone_until = Some(now + self.pause);
                Ok(())
            }
        }
    }

    fn note(&mut self, outcome: OriginOutcome, began: Instant, now: Instant) {
        match outcome {
            // An answer is an answer, whatever it says: the application's own errors are not the server's absence.
            OriginOutcome::Ok | OriginOutcome::ServerError => {
                self.failures = 0;
                self.pause = FIRST_PAUSE;
                self.left_alone_until = None;
            }
            OriginOutcome::BreakerOpen => {}
            // Failures at the same time are one: many who wait for one slow answer say no more than one does.
            _ if self.counted.is_some_and(|counted| began < counted) => {}
            OriginOutcome::ConnectFailed | OriginOutcome::Timeout | OriginOutcome::Broken => {
                self.counted = Some(now);
                self.failures += 1;
                self.last = outcome;
                if self.failures >= FAILURES {
                    if self.left_alone_until.is_some() {
                        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                    }
                    self.left_alone_until = Some(now + self.pause);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn servers_are_asked_in_turn_and_retries_have_a_budget() {
        let server = |port| config::OriginServer { tls: false, host: "127.0.0.1".into(), port };
        let settings = config::Origin {
            name: "app".parse().unwrap(),
            servers: vec![server(1), server(2)],
            connect_timeout: Duration::from_secs(1),
            read_timeout: Duration::from_secs(1),
            retries: 2,
            health: None,
        };
        let pool = Pool::new(settings, Arc::new(Metrics::new().unwrap()));
        assert_eq!(pool.pick().err(), Some(Nobody::Unhealthy));
        pool.resolve().await;
        let picked: Vec<_> = (0..4).map(|_| pool.pick().unwrap().server).collect();
        assert_eq!((picked[0], picked[1]), (picked[2], picked[3]));
        assert_ne!(picked[0], picked[1]);
        pool.set_healthy(0, false);
        assert_eq!((pool.pick().unwrap().server, pool.pick().unwrap().server), (1, 1));
        let retries = (0..100).filter(|_| pool.may_retry()).count();
        assert_eq!(retries, SAVED as usize);
        (0..5).for_each(|_| drop(pool.pick()));
        assert!(pool.may_retry());
        assert!(!pool.may_retry());
    }

    fn lately() -> Lately {
        Lately {
            failures: 0,
            pause: FIRST_PAUSE,
            left_alone_until: None,
            counted: None,
            last: OriginOutcome::Ok,
        }
    }

    #[test]
    fn a_server_that_fails_is_left_alone_then_tried_once() {
        let (mut server, start) = (lately(), Instant::now());
        for _ in 0..FAILURES {
            assert!(server.try_now(start).is_ok());
            server.note(OriginOutcome::Timeout, start, start);
        }
        assert_eq!(server.try_now(start), Err(OriginOutcome::Timeout));
        let later = start + FIRST_PAUSE;
        assert!(server.try_now(later).is_ok());
        assert!(server.try_now(later).is_err());
        server.note(OriginOutcome::ConnectFailed, later, later);
        assert_eq!(server.try_now(later + FIRST_PAUSE), Err(OriginOutcome::ConnectFailed));
        assert!(server.try_now(later + FIRST_PAUSE * 2).is_ok());
        server.note(OriginOutcome::Ok, later, later);
        assert!(server.try_now(later).is_ok());
        assert!(server.try_now(later).is_ok());
    }

    #[test]
    fn failures_at_the_same_time_are_one() {
        let (mut server, start) = (lately(), Instant::now());
        let end = start + Duration::from_secs(1);
        for _ in 0..100 {
            server.note(OriginOutcome::Timeout, start, end);
        }
        assert!(server.try_now(end).is_ok());
    }

    #[test]
    fn an_error_of_the_application_is_an_answer() {
        let (mut server, start) = (lately(), Instant::now());
        for _ in 0..100 {
            server.note(OriginOutcome::ServerError, start, start);
        }
        assert!(server.try_now(start).is_ok());
    }
}
