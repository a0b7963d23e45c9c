//! Results of the checks of a server, and how far they are believed.
//!
//! A check that has succeeded once is believed from then on. One that never has may ask in a way that the application
//! refuses to everyone (a host that it doesn't know, a path that isn't there): requests find out, and where they succeed
//! the checks don't count until one succeeds. A server that nobody can reach is believed to be down all the same.
//! Decides by what it is told.

use parking_lot::Mutex;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// The interval at which a request may try a server whose checks have never succeeded.
const TRIAL: Duration = Duration::from_secs(1);

/// Why a check has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unwell {
    /// As the log says it.
    pub(super) why: String,
    pub(super) kind: Failing,
}

/// In which way a check has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failing {
    /// There was no connection: no request would fare better.
    Unreachable,
    /// It was there, and not well.
    Unwell,
    /// It was there, and refused the check (4xx).
    Refused,
}

/// What checks have said of a server.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// Tells whether the last one failed: where it did not, there is nothing to be decided.
    fail: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The failure of the last check; `None`: it succeeded, or there was none.
    failing: Option<Failing>,
    /// One has succeeded.
    proved: bool,
    /// Requests have succeeded while no check ever had.
    contradicted: bool,
    /// When a request may try the server.
    trial: Option<Instant>,
}

impl State {
    fn is_believed(&self) -> bool {
        self.proved || !(self.contradicted || self.failing == Some(Failing::Refused))
    }
}

impl Checks {
    /// Nothing that was found counts any more: the server is asked in another way from now on.
    pub(super) fn forget(&self) {
        *self.state.lock() = State::default();
        self.fail.store(false, Ordering::Relaxed);
    }

    /// Returns whether requests may go to the server.
    pub(super) fn is_well(&self) -> bool {
        if !self.fail.load(Ordering::Relaxed) {
            return true;
        }
        let state = self.state.lock();
        state.failing.is_none() || !state.is_believed()
    }

    /// The same, or one may try it now.
    pub(super) fn may_try(&self, now: Instant) -> bool {
        if !self.fail.load(Ordering::Relaxed) {
            return true;
        }
        let state = self.state.lock();
        match state.failing {
            None => true,
            Some(_) if !state.is_believed() => true,
            Some(Failing::Unwell) => !state.proved && state.trial.is_none_or(|trial| trial <= now),
            Some(Failing::Unreachable | Failing::Refused) => false,
        }
    }

    /// Returns a rank for where it may not be asked: 0 where checks say nothing against it, 2 where it can't be reached.
    pub(super) fn badness(&self) -> u8 {
        match self.state.lock().failing {
            None => 0,
            Some(Failing::Unwell | Failing::Refused) => 1,
            Some(Failing::Unreachable) => 2,
        }
    }

    /// A request goes to the server.
    pub(super) fn tries(&self, now: Instant) {
        if !self.fail.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state.lock();
        if state.failing.is_some() && !state.proved {
            state.trial = Some(now + TRIAL);
        }
    }

    /// What a check found. Whether the server may be asked from now on, and could not before, or the other way round.
    pub(super) fn found(&self, failing: Option<Failing>) -> bool {
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

    /// A request has succeeded. Whether that is the first that speaks against checks which have never succeeded.
    pub(super) fn answered(&self) -> bool {
        if !self.fail.load(Ordering::Relaxed) {
            return false;
        }
        let mut state = self.state.lock();
        let speaks = state.failing.is_some() && !state.proved && !state.contradicted;
        state.contradicted |= speaks;
        speaks
    }

    /// Returns whether they fail, have never succeeded, and are not believed.
    pub(super) fn are_doubted(&self) -> bool {
        let state = self.state.lock();
        state.failing.is_some() && !state.is_believed()
    }
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
