//! Panic mode (as in Envoy): requests to servers that are out, if no other is left.
//!
//! Leaving all servers alone spares nothing: clients get errors either way, and a recovery would be noticed
//! late. So the best of them get requests, a few at a time each, so that a server that hangs holds no more of
//! them. A single server is never taken out for its failures (as in nginx); `panic_mode` decides whether
//! failed checks, or failures of several servers, can take all of them out. A request that can be answered
//! with a stale entry doesn't use panic mode: it is only sent as a due trial.

use crate::origin::{
    servers::{
        balance::{self, ServerCandidate},
        choice::ServerChoice,
        NoUpstream, PickRefusal, PickedServer, ServerGroup,
    },
    sticky,
};
use std::time::Instant;

/// The most concurrent requests to a server while it is out, in addition to the trials of its breaker.
pub(crate) const MOST_TRIALS: u32 = 8;

impl ServerGroup {
    /// Returns true if every server is out: it fails its checks, or its breaker is open.
    pub fn is_failing(&self) -> bool {
        !self.servers.iter().any(|server| server.state.checks.is_well() && server.state.is_there())
    }

    /// Returns true if there is one server with one address.
    pub(crate) fn has_one(&self) -> bool {
        matches!(&self.servers[..], [only] if only.state.addresses().len() <= 1)
    }

    /// Chooses among the servers that are out, if none is available because of `why`: those whose checks
    /// report the least severe failure first, then by the origin's `balance`. No request is sent to one of
    /// them twice.
    pub(crate) fn try_least_bad(
        &self,
        choice: &ServerChoice,
        now: Instant,
        why: NoUpstream,
    ) -> Result<PickedServer, PickRefusal> {
        let refused = || PickRefusal::Nobody(why);
        if choice.spare || why == NoUpstream::Unresolved {
            return Err(refused());
        }
        let mut left: Vec<_> =
            (0..self.servers.len()).filter(|server| self.is_last(*server, choice)).collect();
        let badness = |server: usize| self.servers[server].state.checks.unhealthiness();
        let (mut full, own) = (false, choice.at.and_then(|id| self.endpoints.load().at(id)));
        while let Some(least) = left.iter().map(|server| badness(*server)).min() {
            let candidates: Vec<ServerCandidate> = self
                .servers
                .iter()
                .enumerate()
                .map(|(index, server)| {
                    let (active, trials) = (server.state.active(), server.state.trials());
                    let may = left.contains(&index) && badness(index) == least && trials < MOST_TRIALS;
                    full |= may && active >= self.most();
                    ServerCandidate {
                        id: server.id,
                        weight: server.weight,
                        active,
                        may: may && active < self.most(),
                    }
                })
                .collect();
            let own = own.map(|own| own.server).filter(|own| candidates.get(*own).is_some_and(|own| own.may));
            let chosen = own.or_else(|| {
                balance::choose_server(self.settings.balance, choice.key, &candidates, &mut self.turns.lock())
            });
            match chosen.map(|server| (server, self.enter_trial(server, now))) {
                Some((_, Some(picked))) => return Ok(picked),
                Some((server, None)) => left.retain(|other| *other != server),
                None => left.retain(|other| badness(*other) != least),
            }
        }
        // Requests wait for a place at a server that is out as at any other.
        Err(if full { PickRefusal::Full } else { refused() })
    }

    /// Returns true if a server that is out may get a request, since no other is available.
    fn is_last(&self, server: usize, choice: &ServerChoice) -> bool {
        let Some(known) = self.servers.get(server) else { return false };
        let is_alone = self.servers.len() == 1 && known.state.checks.is_well();
        (self.settings.panic_mode || is_alone)
            && !known.state.addresses().is_empty()
            && !choice.has_tried(server)
    }

    fn enter_trial(&self, server: usize, now: Instant) -> Option<PickedServer> {
        let known = self.servers.get(server)?;
        let (addresses, first) = (known.state.addresses(), self.next_address());
        let in_turn = || addresses.iter().cycle().skip(first % addresses.len().max(1)).take(addresses.len());
        let there = in_turn().find(|of| of.breaker.lock().may(now).is_ok());
        let chosen = there.or_else(|| in_turn().next())?;
        let under_way = known.state.enter_trial(&self.state, self.most(), MOST_TRIALS)?;
        known.state.checks.tries(now);
        let endpoint = self.settings.sticky.as_ref().map(|_| sticky::endpoint_id(&known.at, chosen.address));
        // No other server could answer.
        Some(PickedServer { server, address: chosen.address, under_way, endpoint, trial: None })
    }
}

#[cfg(test)]
#[path = "panic_mode_tests.rs"]
mod tests;
