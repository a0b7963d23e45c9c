//! The choice of a server for a request, and the place that it takes there.
//!
//! A choice has three steps: the servers that are available (checks, breakers, resolved names), the preference
//! among them (the server of a session; not one that has failed this request or asked for a pause, if there is
//! another), and then `balance`. If all available servers are at their limit of concurrent requests, a request
//! waits in the queue (`queue_wait.rs`). If none is available, one may be asked in panic mode
//! (`health/panic_mode.rs`), else the request fails at once.

use super::{
    balance::{self, ServerCandidate},
    choice::ServerChoice,
    state::AddressState,
    GroupServer, NoUpstream, PickRefusal, PickedServer, ServerGroup,
};
use crate::{
    origin::sticky::{self, StickyEndpoint},
    telemetry::labels::OriginOutcome,
};

use std::{
    sync::{atomic::Ordering, Arc},
    time::Instant,
};

impl ServerGroup {
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
