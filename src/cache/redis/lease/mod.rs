//! Leases: one fill across all nodes, for efficiency. Correctness never depends on them.
//!
//! A lease is `SET NX PX` with a token, renewed while the fill runs and deleted by compare-and-delete. A
//! waiting fill is woken by the report of its deletion, not by polling; without reports, and as a fallback
//! for a lost report, it looks again after a while.

pub(crate) mod waiters;
use super::{LeaseClaim, RedisStore, RELEASE, RENEW};
use crate::{
    cache::{
        fill::hedge::{self, LeaseState},
        key::StorePlace,
        millis,
    },
    telemetry::labels::{StoreCall, StoreError},
};
use waiters::WaiterSeat;

use bytes::Bytes;
use redis::cmd;
use std::time::Duration;

/// A wait for the end of a lease, begun before the lease is requested, so that no report is missed.
pub struct LeaseWait<'a> {
    store: &'a RedisStore,
    seat: WaiterSeat,
}

impl LeaseWait<'_> {
    /// Waits until the lease has probably ended, at most this long.
    pub async fn until_ended(mut self, at_most: Duration) {
        let tracked = self.store.shards.of_key(self.seat.name()).is_some_and(|shard| shard.is_tracked());
        let patience = hedge::lease_patience(tracked, self.store.lease, at_most);
        // Woken, or timed out: in both cases the caller looks again.
        drop(tokio::time::timeout(patience, self.seat.woken()).await);
    }
}

impl RedisStore {
    /// Takes a seat among the waiters for the lease of this answer.
    pub fn wait(&self, place: &StorePlace) -> LeaseWait<'_> {
        LeaseWait { store: self, seat: self.waiters.take(&place.lease) }
    }

    /// Requests the lease, and looks for the answer. The look comes after the request: a fill that gets the
    /// lease right after another's finds the answer stored by that one. The caller makes the token: a lease
    /// whose grant was not reported in time can be released all the same.
    ///
    /// # Errors
    /// If the store can't be asked.
    pub async fn claim(&self, place: &StorePlace, token: &str) -> Result<LeaseClaim, StoreError> {
        let mut take = cmd("SET");
        let lease_ms = millis(self.lease);
        take.arg(&place.lease).arg(token).arg("NX").arg("PX").arg(lease_ms);
        let mut look = cmd("GET");
        look.arg(&place.body);
        let what = StoreCall::Lease;
        let (taken, found): (Option<String>, Option<Bytes>) = if self.shards.is_one() {
            let both = |mut c| async move {
                redis::pipe().add_command(take).add_command(look).query_async(&mut c).await
            };
            self.call(what, &place.lease, both).await?
        } else {
            (self.ask(what, &place.lease, take).await?, self.ask(what, &place.body, look).await?)
        };
        Ok(LeaseClaim { found, ours: taken.is_some() })
    }

    /// Looks at the key of a lease that was not granted.
    ///
    /// # Errors
    /// If the store can't be asked.
    pub async fn look_at_lease(&self, place: &StorePlace) -> Result<LeaseState, StoreError> {
        /// Redis's results for a missing key, and for one without expiry.
        const GONE: i64 = -2;
        const ENDLESS: i64 = -1;
        let (mut kind, mut left) = (cmd("TYPE"), cmd("PTTL"));
        kind.arg(&place.lease);
        left.arg(&place.lease);
        let (kind, left): (String, i64) = self
            .call(StoreCall::Lease, &place.lease, |mut c| async move {
                redis::pipe().add_command(kind).add_command(left).query_async(&mut c).await
            })
            .await?;
        Ok(match (kind.as_str(), left) {
            ("none", _) | (_, GONE) => LeaseState::Gone,
            ("string", left) if left != ENDLESS => LeaseState::Theirs,
            _ => LeaseState::Invalid,
        })
    }

    /// Renews a lease for as long as it is polled.
    pub async fn renew(&self, place: &StorePlace, token: &str) {
        let lease_ms = millis(self.lease);
        loop {
            tokio::time::sleep(self.lease / 3).await;
            let (name, token) = (place.lease.clone(), token.to_owned());
            // A lease that could not be renewed costs a second fill at worst.
            let mut order = cmd("EVAL");
            order.arg(RENEW).arg(1).arg(&name).arg(token).arg(lease_ms);
            self.ask::<()>(StoreCall::Lease, &name, order).await.unwrap_or_default();
        }
    }

    /// Releases a lease, if it is still this node's.
    pub async fn release(&self, place: &StorePlace, token: &str) {
        let (name, token) = (place.lease.clone(), token.to_owned());
        // A lease that could not be released expires by itself.
        let mut order = cmd("EVAL");
        order.arg(RELEASE).arg(1).arg(&name).arg(token);
        self.ask::<()>(StoreCall::Release, &name, order).await.unwrap_or_default();
    }
}
