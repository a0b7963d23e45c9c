//! One fill for everyone who waits: local flights.
//!
//! The first who asks for a name *leads* and must land the flight; all others *follow* and are handed the same
//! outcome. A lead that is dropped, by a panic or a cancelled task, lands the flight as abandoned: nobody hangs.
//! The lead leaves the table before the outcome is handed out, so whoever comes later finds what was stored
//! or begins a flight of its own.

use ahash::RandomState;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::watch;

/// The lead went away without landing the flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the fill was abandoned")]
pub struct Abandoned;

const SHARDS: usize = 16;

type Shard<T> = Mutex<HashMap<Arc<str>, watch::Receiver<Option<T>>, RandomState>>;

/// The flights under way on this node.
pub struct Flights<T> {
    shards: Arc<[Shard<T>; SHARDS]>,
    hasher: RandomState,
}

/// What a caller is.
pub enum Joined<T: Clone> {
    /// The first: has to land the flight. It may wait for its own landing as a follower.
    Lead(Lead<T>, Follow<T>),
    /// One of those who wait.
    Follow(Follow<T>),
}

impl<T: Clone> Flights<T> {
    /// No flights.
    pub fn new() -> Self {
        Self { shards: Arc::new(std::array::from_fn(|_| Shard::default())), hasher: RandomState::new() }
    }

    /// Joins the flight of this name, or begins it.
    pub fn join(&self, name: &str) -> Joined<T> {
        let shard = self.hasher.hash_one(name) as usize % SHARDS;
        let mut flights = self.shards[shard].lock();
        if let Some(landing) = flights.get(name) {
            return Joined::Follow(Follow { landing: landing.clone() });
        }
        let (land, landing) = watch::channel(None);
        let name: Arc<str> = name.into();
        flights.insert(name.clone(), landing.clone());
        Joined::Lead(Lead { shards: self.shards.clone(), shard, name, land }, Follow { landing })
    }

    /// How many flights are under way.
    pub fn under_way(&self) -> usize {
        self.shards.iter().map(|s| s.lock().len()).sum()
    }
}

impl<T: Clone> Default for Flights<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The duty to land a flight.
pub struct Lead<T> {
    shards: Arc<[Shard<T>; SHARDS]>,
    shard: usize,
    name: Arc<str>,
    land: watch::Sender<Option<T>>,
}

impl<T> Lead<T> {
    /// Hands the outcome to everyone who waits.
    pub fn land(self, outcome: T) {
        self.leave();
        self.land.send_replace(Some(outcome));
    }

    fn leave(&self) {
        self.shards[self.shard].lock().remove(&self.name);
    }
}

impl<T> Drop for Lead<T> {
    fn drop(&mut self) {
        // Only a flight that was not landed is still in the table under this lead: a landed one may have been
        // followed by another of the same name.
        if self.land.borrow().is_none() {
            self.leave();
        }
    }
}

/// A place among those who wait.
pub struct Follow<T> {
    landing: watch::Receiver<Option<T>>,
}

impl<T: Clone> Follow<T> {
    /// Waits for the outcome.
    ///
    /// # Errors
    /// [`Abandoned`], if the lead went away without one.
    pub async fn outcome(mut self) -> Result<T, Abandoned> {
        match self.landing.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().ok_or(Abandoned),
            Err(_) => Err(Abandoned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(flights: &Flights<u32>) -> (Lead<u32>, Follow<u32>) {
        match flights.join("k") {
            Joined::Lead(lead, follow) => (lead, follow),
            Joined::Follow(_) => panic!("someone else leads"),
        }
    }

    fn follow(flights: &Flights<u32>) -> Follow<u32> {
        match flights.join("k") {
            Joined::Follow(follow) => follow,
            Joined::Lead(..) => panic!("no flight is under way"),
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
    async fn a_dropped_lead_wakes_everyone() {
        let flights = Flights::new();
        let (first, own) = lead(&flights);
        let follower = tokio::spawn(follow(&flights).outcome());
        drop(first);
        assert_eq!(follower.await.unwrap(), Err(Abandoned));
        assert_eq!(own.outcome().await, Err(Abandoned));
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
        assert_eq!(own.outcome().await, Err(Abandoned));
    }
}
