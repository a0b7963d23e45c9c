//! Flights: one fill for all requests that wait for it on this node (single flight).
//!
//! The first request for a name *leads*; all others *follow* and get the same outcome. A lead announces the
//! outcome once. It may do so before its work is done: then later requests get it too, until the lead leaves.
//! A lead that is dropped without an outcome, by a panic or a cancelled task, abandons the flight, so that no
//! follower hangs. All of a flight share its cargo from the beginning.

use ahash::RandomState;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::Notify;

/// The lead went away without an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the fill was abandoned")]
pub struct FlightAbandoned;

const FLIGHT_SHARDS: usize = 16;

type FlightKeys<T, C> = HashMap<Arc<str>, FlightFollower<T, C>, RandomState>;
type FlightShard<T, C> = Mutex<FlightKeys<T, C>>;

/// The flights under way on this node.
pub struct Flights<T, C = ()> {
    shards: Arc<[FlightShard<T, C>; FLIGHT_SHARDS]>,
    hasher: RandomState,
}

/// The role of a caller.
pub enum FlightJoin<T, C = ()> {
    /// The first: has to produce the outcome. It may wait for its own flight as a follower.
    Lead(FlightLead<T, C>, FlightFollower<T, C>),
    /// One of the others, which wait.
    Follow(FlightFollower<T, C>),
}

impl<T: Clone, C: Clone> Flights<T, C> {
    /// No flights.
    pub fn new() -> Self {
        Self { shards: Arc::new(std::array::from_fn(|_| FlightShard::default())), hasher: RandomState::new() }
    }

    /// Joins the flight of this name, or begins it with this cargo.
    pub fn join(&self, name: &str, cargo: impl FnOnce() -> C) -> FlightJoin<T, C> {
        let shard = self.shard_of(name);
        let mut flights = self.shards[shard].lock();
        match flights.get(name) {
            Some(flight) => FlightJoin::Follow(flight.clone()),
            None => {
                let (lead, follow) = self.begin(&mut flights, shard, name, cargo());
                FlightJoin::Lead(lead, follow)
            }
        }
    }

    /// The flight of this name, if it is under way.
    pub fn follow(&self, name: &str) -> Option<FlightFollower<T, C>> {
        self.shards[self.shard_of(name)].lock().get(name).cloned()
    }

    /// Begins the flight of this name, unless it is under way or `is_put_off`. That is called while no flight
    /// of the name can end: effects of the last one are visible.
    pub fn begin_unless(
        &self,
        name: &str,
        is_put_off: impl FnOnce() -> bool,
        cargo: impl FnOnce() -> C,
    ) -> Option<(FlightLead<T, C>, FlightFollower<T, C>)> {
        let shard = self.shard_of(name);
        let mut flights = self.shards[shard].lock();
        if flights.contains_key(name) || is_put_off() {
            return None;
        }
        Some(self.begin(&mut flights, shard, name, cargo()))
    }

    fn begin(
        &self,
        flights: &mut FlightKeys<T, C>,
        shard: usize,
        name: &str,
        cargo: C,
    ) -> (FlightLead<T, C>, FlightFollower<T, C>) {
        let board = Arc::new(OutcomeBoard { notice: Mutex::new(FlightNotice::None), changed: Notify::new() });
        let name: Arc<str> = name.into();
        let follow = FlightFollower { board: board.clone(), cargo };
        flights.insert(name.clone(), follow.clone());
        (FlightLead { shards: self.shards.clone(), shard, name: Some(name), board }, follow)
    }

    fn shard_of(&self, name: &str) -> usize {
        self.hasher.hash_one(name) as usize % FLIGHT_SHARDS
    }

    /// The number of flights under way.
    pub fn under_way(&self) -> usize {
        self.shards.iter().map(|s| s.lock().len()).sum()
    }
}

impl<T: Clone, C: Clone> Default for Flights<T, C> {
    fn default() -> Self {
        Self::new()
    }
}

/// The duty to produce an outcome.
pub struct FlightLead<T, C = ()> {
    shards: Arc<[FlightShard<T, C>; FLIGHT_SHARDS]>,
    shard: usize,
    /// `None`: it has left. Another flight may have its name by now.
    name: Option<Arc<str>>,
    board: Arc<OutcomeBoard<T>>,
}

impl<T, C> FlightLead<T, C> {
    /// Gives the outcome to all followers, and to those that join before the lead leaves.
    pub fn announce(&self, outcome: T) {
        self.board.put_up(FlightNotice::Outcome(outcome));
    }

    /// Gives the outcome to all present followers, and no others: the lead leaves first, so that later
    /// requests find the stored answer or begin a flight of their own.
    pub fn land(mut self, outcome: T) {
        self.leave();
        self.announce(outcome);
    }

    /// Lets no more requests join.
    pub fn leave(&mut self) {
        if let Some(name) = self.name.take() {
            self.shards[self.shard].lock().remove(&name);
        }
    }
}

impl<T, C> Drop for FlightLead<T, C> {
    fn drop(&mut self) {
        self.leave();
        if matches!(*self.board.notice.lock(), FlightNotice::Outcome(_)) {
            return;
        }
        self.board.put_up(FlightNotice::Abandoned);
    }
}

/// A follower's place in a flight.
pub struct FlightFollower<T, C = ()> {
    board: Arc<OutcomeBoard<T>>,
    cargo: C,
}

impl<T, C: Clone> Clone for FlightFollower<T, C> {
    fn clone(&self) -> Self {
        Self { board: self.board.clone(), cargo: self.cargo.clone() }
    }
}

impl<T: Clone, C> FlightFollower<T, C> {
    /// The cargo of the flight.
    pub fn cargo(&self) -> &C {
        &self.cargo
    }

    /// Waits for the outcome.
    ///
    /// # Errors
    /// [`FlightAbandoned`], if the lead went away without one.
    pub async fn outcome(self) -> Result<T, FlightAbandoned> {
        loop {
            // Registered first, so that a later announcement wakes it.
            let changed = self.board.changed.notified();
            match &*self.board.notice.lock() {
                FlightNotice::None => {}
                FlightNotice::Outcome(outcome) => return Ok(outcome.clone()),
                FlightNotice::Abandoned => return Err(FlightAbandoned),
            }
            changed.await;
        }
    }
}

/// The place where the lead announces to followers. Much smaller than a channel, as most flights have no
/// followers.
struct OutcomeBoard<T> {
    notice: Mutex<FlightNotice<T>>,
    changed: Notify,
}

enum FlightNotice<T> {
    None,
    Outcome(T),
    Abandoned,
}

impl<T> OutcomeBoard<T> {
    fn put_up(&self, notice: FlightNotice<T>) {
        *self.notice.lock() = notice;
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(flights: &Flights<u32>) -> (FlightLead<u32>, FlightFollower<u32>) {
        match flights.join("k", || ()) {
            FlightJoin::Lead(lead, follow) => (lead, follow),
            FlightJoin::Follow(_) => panic!("someone else leads"),
        }
    }

    fn follow(flights: &Flights<u32>) -> FlightFollower<u32> {
        match flights.join("k", || ()) {
            FlightJoin::Follow(follow) => follow,
            FlightJoin::Lead(..) => panic!("no flight is under way"),
        }
    }

    #[tokio::test]
    async fn all_get_the_one_outcome_and_the_next_begins_anew() {
        let flights = Flights::new();
        let (first, own) = lead(&flights);
        let followers: Vec<_> = (0..100).map(|_| tokio::spawn(follow(&flights).outcome())).collect();
        first.land(7);
        assert_eq!(own.outcome().await, Ok(7));
        for follower in followers {
            assert_eq!(follower.await.unwrap(), Ok(7));
        }
        let _second = lead(&flights);
        assert_eq!(flights.under_way(), 1);
    }

    #[tokio::test]
    async fn an_announced_outcome_is_handed_out_until_the_lead_leaves() {
        let flights = Flights::new();
        let (mut first, own) = lead(&flights);
        first.announce(7);
        assert_eq!(follow(&flights).outcome().await, Ok(7));
        first.leave();
        let (second, _) = lead(&flights);
        drop(first);
        assert_eq!(flights.under_way(), 1, "the first doesn't end the second");
        second.land(8);
        assert_eq!(own.outcome().await, Ok(7));
    }

    #[tokio::test]
    async fn a_dropped_lead_wakes_everyone() {
        let flights = Flights::new();
        let (first, own) = lead(&flights);
        let follower = tokio::spawn(follow(&flights).outcome());
        drop(first);
        assert_eq!(follower.await.unwrap(), Err(FlightAbandoned));
        assert_eq!(own.outcome().await, Err(FlightAbandoned));
        assert_eq!(flights.under_way(), 0);
    }

    #[tokio::test]
    async fn a_panicking_lead_wakes_everyone() {
        let flights = Flights::new();
        let (first, own) = lead(&flights);
        let task = tokio::spawn(async move {
            let _held = first;
            panic!("on purpose");
        });
        assert!(task.await.is_err());
        assert_eq!(own.outcome().await, Err(FlightAbandoned));
    }
}
