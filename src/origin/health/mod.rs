//! The results of a server's health checks, and whether they are trusted.
//!
//! Once a check has succeeded, the results are trusted. A check that never has may be misconfigured (a host
//! that the application doesn't know, a path that doesn't exist): if requests succeed, failed checks are
//! ignored until one succeeds. A server that can't be connected to is down in any case. Performs no I/O.

pub(crate) mod breaker;
pub(crate) mod panic_mode;
mod reports;
use parking_lot::Mutex;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// The interval at which a request may try a server whose checks have never succeeded.
const TRIAL_INTERVAL: Duration = Duration::from_secs(1);

/// The failure of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CheckFailure {
    /// The reason, for the log.
    pub(crate) why: String,
    pub(crate) kind: CheckFailureKind,
}

/// The kind of a failed check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckFailureKind {
    /// No connection: a request would fail as well.
    Unreachable,
    /// The server answered, and is not healthy.
    Unwell,
    /// The server refused the check (4xx).
    Refused,
}

/// The results of a server's checks.
#[derive(Debug, Default)]
pub(crate) struct CheckHistory {
    /// True if the last check failed; if not, the state needs no look.
    fail: AtomicBool,
    state: Mutex<CheckState>,
}

#[derive(Debug, Default)]
struct CheckState {
    /// The failure of the last check; `None`: it succeeded, or there was none.
    failing: Option<CheckFailureKind>,
    /// True once a check has succeeded.
    proved: bool,
    /// True if requests have succeeded while no check ever had.
    contradicted: bool,
    /// The time from which a request may try the server.
    trial: Option<Instant>,
}

impl CheckState {
    fn is_believed(&self) -> bool {
        self.proved || !(self.contradicted || self.failing == Some(CheckFailureKind::Refused))
    }
}

impl CheckHistory {
    /// Forgets all results, because the way in which the server is checked or reached has changed.
    pub(crate) fn forget(&self) {
        *self.state.lock() = CheckState::default();
        self.fail.store(false, Ordering::Relaxed);
    }

    /// Returns true if requests may go to the server.
    pub(crate) fn is_well(&self) -> bool {
        if !self.fail.load(Ordering::Relaxed) {
            return true;
        }
        let state = self.state.lock();
        state.failing.is_none() || !state.is_believed()
    }

    /// Returns true if requests may go to the server, or one may try it now.
    pub(crate) fn may_try(&self, now: Instant) -> bool {
        if !self.fail.load(Ordering::Relaxed) {
            return true;
        }
        let state = self.state.lock();
        match state.failing {
            None => true,
            Some(_) if !state.is_believed() => true,
            Some(CheckFailureKind::Unwell) => !state.proved && state.trial.is_none_or(|trial| trial <= now),
            Some(CheckFailureKind::Unreachable | CheckFailureKind::Refused) => false,
        }
    }

    /// A rank among servers that are out: 0 if the checks don't fail, 1 if they do, 2 if there is no
    /// connection.
    pub(crate) fn unhealthiness(&self) -> u8 {
        match self.state.lock().failing {
            None => 0,
            Some(CheckFailureKind::Unwell | CheckFailureKind::Refused) => 1,
            Some(CheckFailureKind::Unreachable) => 2,
        }
    }

    /// Notes that a request goes to the server.
    pub(crate) fn tries(&self, now: Instant) {
        if !self.fail.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state.lock();
        if state.failing.is_some() && !state.proved {
            state.trial = Some(now + TRIAL_INTERVAL);
        }
    }

    /// Notes the result of a check. Returns true if the server becomes healthy or unhealthy by it.
    pub(crate) fn found(&self, failing: Option<CheckFailureKind>) -> bool {
        let before = self.is_well();
        {
            let mut state = self.state.lock();
            state.failing = failing;
            self.fail.store(failing.is_some(), Ordering::Relaxed);
            if failing.is_none() {
                (state.proved, state.contradicted) = (true, false);
            }
        }
        self.is_well() != before
    }

    /// Notes that a request has succeeded. Returns true if it is the first that contradicts checks which have
    /// never succeeded.
    pub(crate) fn answered(&self) -> bool {
        if !self.fail.load(Ordering::Relaxed) {
            return false;
        }
        let mut state = self.state.lock();
        let speaks = state.failing.is_some() && !state.proved && !state.contradicted;
        state.contradicted |= speaks;
        speaks
    }

    /// Returns true if the checks fail and are not trusted.
    pub(crate) fn are_doubted(&self) -> bool {
        let state = self.state.lock();
        state.failing.is_some() && !state.is_believed()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
