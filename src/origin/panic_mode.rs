//! Asking servers that are out where no other is left: Envoy's panic mode.
//!
//! To leave all servers alone spares nobody anything: their clients get errors either way, and one that has recovered
//! would be found out late. So the least bad of them are asked, a few requests at a time each: what hangs holds no more of
//! them. One server alone is never taken out for its failures (as with nginx); whether its checks, or the failures of
//! several, take all of them out is for `panic_mode` to say. A request that somebody has a stale answer for needs none of
//! that: it goes when a trial is due, and not before.

use super::{
    balance::{self, Candidate},
    pool::{Nobody, Picked, Pool, Refused},
    session::Choice,
    sticky,
};
use std::time::Instant;

/// The most requests that are under way at a server while it is out, beside the trials of its breaker.
pub(super) const MOST_TRIALS: u32 = 8;

impl Pool {
    /// Returns whether every server is out: fails its checks, or is left alone after failures.
    pub fn is_failing(&self) -> bool {
        !self.servers.iter().any(|server| server.state.checks.is_well() && server.state.is_there())
    }

    /// Returns whether there is one server, at one address.
    pub(super) fn has_one(&self) -> bool {
        matches!(&self.servers[..], [only] if only.state.addresses().len() <= 1)
    }

    /// Chooses of the servers that are out, where `why` none may be asked: those first of which checks say the least
    /// bad, then by `balance`. No request is sent to one of them twice.
    pub(super) fn try_least_bad(
        &self,
        choice: &Choice,
        now: Instant,
        why: Nobody,
    ) -> Result<Picked, Refused> {
        let refused = || Refused::Nobody(why);
        if choice.spare || why == Nobody::Unresolved {
            return Err(refused());
        }
        let mut left: Vec<_> =
            (0..self.servers.len()).filter(|server| self.is_last(*server, choice)).collect();
        let badness = |server: usize| self.servers[server].state.checks.badness();
        let (mut full, own) = (false, choice.at.and_then(|id| self.endpoints.load().at(id)));
        while let Some(least) = left.iter().map(|server| badness(*server)).min() {
            let candidates: Vec<Candidate> = self
                .servers
                .iter()
                .enumerate()
                .map(|(index, server)| {
                    let (active, trials) = (server.state.active(), server.state.trials());
                    let may = left.contains(&index) && badness(index) == least && trials < MOST_TRIALS;
                    full |= may && active >= self.most();
                    Candidate {
                        id: server.id,
                        weight: server.weight,
                        active,
                        may: may && active < self.most(),
                    }
                })
                .collect();
            let own = own.map(|own| own.server).filter(|own| candidates.get(*own).is_some_and(|own| own.may));
            let chosen = own.or_else(|| {
                balance::choose(self.settings.balance, choice.key, &candidates, &mut self.turns.lock())
            });
            match chosen.map(|server| (server, self.enter_trial(server, now))) {
                Some((_, Some(picked))) => return Ok(picked),
                Some((server, None)) => left.retain(|other| *other != server),
                None => left.retain(|other| badness(*other) != least),
            }
        }
        // Who waits for a place at a server that is out gets it as at any other.
        Err(if full { Refused::Full } else { refused() })
    }

    /// Returns whether a server may be asked for want of another.
    fn is_last(&self, server: usize, choice: &Choice) -> bool {
        let Some(known) = self.servers.get(server) else { return false };
        let is_alone = self.servers.len() == 1 && known.state.checks.is_well();
        (self.settings.panic_mode || is_alone)
            && !known.state.addresses().is_empty()
            && !choice.has_tried(server)
    }

    fn enter_trial(&self, server: usize, now: Instant) -> Option<Picked> {
        let known = self.servers.get(server)?;
        let (addresses, first) = (known.state.addresses(), self.next_address());
        let in_turn = || addresses.iter().cycle().skip(first % addresses.len().max(1)).take(addresses.len());
        let there = in_turn().find(|of| of.breaker.lock().may(now).is_ok());
        let chosen = there.or_else(|| in_turn().next())?;
        let under_way = known.state.enter_trial(&self.state, self.most(), MOST_TRIALS)?;
        known.state.checks.tries(now);
        let endpoint = self.settings.sticky.as_ref().map(|_| sticky::id(&known.at, chosen.address));
        // Nobody else is there to answer.
        Some(Picked { server, address: chosen.address, under_way, endpoint, trial: None })
    }
}

#[cfg(test)]
#[path = "panic_mode_tests.rs"]
mod tests;
