//! Processed events, and claims of nodes that process one: both under one key, so that only one of several
//! nodes processes the same event.

use super::{RedisStore, RELEASE, RENEW};
use crate::{
    cache::millis,
    telemetry::labels::{StoreCall, StoreError},
};

use redis::cmd;
use std::time::Duration;

/// The value of the key of a processed event.
const TAKEN: &str = "1";
/// Claims an event unless it was processed, or another node has claimed it.
const CLAIM: &str = r"
local held = redis.call('GET', KEYS[1])
if held == ARGV[3] then return 1 end
if held and held ~= ARGV[1] then return 2 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 0
";

/// The state of an event for a node that wants to process it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventStanding {
    /// Claimed by this node for the time of a lease, to be renewed.
    Claimed,
    /// It was processed before.
    Taken,
    /// Another node is processing it.
    UnderWay,
}

impl RedisStore {
    /// Claims an event with a token of the caller's.
    ///
    /// # Errors
    /// If the store can't be asked.
    pub async fn claim_event(
        &self,
        endpoint: &str,
        id: &str,
        token: &str,
    ) -> Result<EventStanding, StoreError> {
        let (name, token, lease_ms) = (self.names.event(endpoint, id), token.to_owned(), millis(self.lease));
        let mut claim = cmd("EVAL");
        claim.arg(CLAIM).arg(1).arg(&name).arg(token).arg(lease_ms).arg(TAKEN);
        let held: i64 = self.ask(StoreCall::Event, &name, claim).await?;
        Ok(match held {
            0 => EventStanding::Claimed,
            1 => EventStanding::Taken,
            _ => EventStanding::UnderWay,
        })
    }

    /// Renews a claim for as long as it is polled.
    pub async fn renew_event(&self, endpoint: &str, id: &str, token: &str) {
        let lease_ms = millis(self.lease);
        loop {
            tokio::time::sleep(self.lease / 3).await;
            let (name, token) = (self.names.event(endpoint, id), token.to_owned());
            // If a claim could not be renewed, another node may take it: the event is processed twice at
            // worst.
            let mut renew = cmd("EVAL");
            renew.arg(RENEW).arg(1).arg(&name).arg(token).arg(lease_ms);
            self.ask::<()>(StoreCall::Event, &name, renew).await.unwrap_or_default();
        }
    }

    /// Releases a claim, if it is still this node's.
    pub async fn release_event(&self, endpoint: &str, id: &str, token: &str) {
        let (name, token) = (self.names.event(endpoint, id), token.to_owned());
        // A claim that could not be released expires by itself.
        let mut release = cmd("EVAL");
        release.arg(RELEASE).arg(1).arg(&name).arg(token);
        self.ask::<()>(StoreCall::Event, &name, release).await.unwrap_or_default();
    }

    /// Remembers a processed event.
    ///
    /// # Errors
    /// If the store did not take it.
    pub async fn remember_event(&self, endpoint: &str, id: &str, keep: Duration) -> Result<(), StoreError> {
        let name = self.names.event(endpoint, id);
        let seconds = keep.as_secs();
        let mut remember = cmd("SET");
        remember.arg(&name).arg(TAKEN).arg("EX").arg(seconds);
        self.ask(StoreCall::Event, &name, remember).await
    }
}
