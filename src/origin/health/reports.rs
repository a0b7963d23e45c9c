//! Lessons from requests and checks: what their outcomes change, who is told of it, and what goes on record.

use super::{
    breaker::{self, BreakerChange},
    CheckFailure,
};
use crate::{
    clock,
    config::ServerAddress,
    origin::servers::{GroupServer, ServerAttempt, ServerGroup},
    telemetry::labels::{Ejection, OriginOutcome},
};

use http::{HeaderMap, StatusCode};
use std::{fmt, time::Instant};

impl ServerGroup {
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

    /// The servers whose checks fail and are not trusted.
    pub(crate) fn doubted(&self) -> impl Iterator<Item = &ServerAddress> {
        self.servers.iter().filter(|server| server.state.checks.are_doubted()).map(|server| &server.at)
    }

    /// Updates the metric of whether requests go to a server.
    pub(crate) fn tell_whether_up(&self, server: usize) {
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
}
