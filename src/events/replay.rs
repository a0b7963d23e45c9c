//! Events that are being processed, and those that were, so that each takes effect once.
//!
//! The state of this node; the store holds that of other nodes. It outlives a reload.

use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use tokio::sync::{Mutex as Gate, OwnedMutexGuard};

/// The most events that are remembered here; the oldest are dropped first.
const MAX_REMEMBERED: usize = 100_000;

/// An event at an endpoint: a message may be sent to several endpoints under one id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct EventId {
    pub(super) endpoint: String,
    pub(super) id: String,
}

/// The events that this node knows.
#[derive(Default)]
pub(super) struct SeenEvents(Mutex<SeenTable>);

#[derive(Default)]
struct SeenTable {
    under_way: HashMap<EventId, Arc<Gate<()>>>,
    /// The time until which each is remembered, in milliseconds by the monotonic clock of [`crate::clock`].
    taken: HashMap<EventId, u64>,
    /// The oldest first.
    order: VecDeque<EventId>,
}

impl SeenEvents {
    /// Waits until no other request processes the same event on this node.
    pub(super) async fn turn(self: &Arc<Self>, id: &EventId) -> EventTurn {
        let gate = self.0.lock().under_way.entry(id.clone()).or_default().clone();
        let mut turn =
            EventTurn { seen: self.clone(), id: id.clone(), gate: Some(gate.clone()), guard: None };
        turn.guard = Some(gate.lock_owned().await);
        turn
    }

    /// Returns true if an event was processed before.
    pub(super) fn knows(&self, id: &EventId, now_ms: u64) -> bool {
        self.0.lock().taken.get(id).is_some_and(|until| *until > now_ms)
    }

    /// Remembers an event that was taken.
    pub(super) fn remember(&self, id: EventId, now_ms: u64, keep_ms: u64) {
        let mut table = self.0.lock();
        let SeenTable { taken, order, .. } = &mut *table;
        // All are remembered for the same time: the oldest expires first.
        while let Some(oldest) = order.front() {
            let over = taken.get(oldest).is_none_or(|until| *until <= now_ms);
            if !over && taken.len() < MAX_REMEMBERED {
                break;
            }
            taken.remove(oldest);
            order.pop_front();
        }
        if taken.insert(id.clone(), now_ms + keep_ms).is_none() {
            order.push_back(id);
        }
    }
}

/// The right to process an event; the next waiting request gets it when this is dropped.
pub(super) struct EventTurn {
    seen: Arc<SeenEvents>,
    id: EventId,
    gate: Option<Arc<Gate<()>>>,
    /// `None` while it waits.
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for EventTurn {
    fn drop(&mut self) {
        let mut table = self.seen.0.lock();
        drop((self.guard.take(), self.gate.take()));
        // No other request waits, and none can begin to: that needs the lock of the table.
        if table.under_way.get(&self.id).is_some_and(|gate| Arc::strong_count(gate) == 1) {
            table.under_way.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    fn id(text: &str) -> EventId {
        EventId { endpoint: "/e".to_owned(), id: text.to_owned() }
    }

    #[tokio::test]
    async fn one_at_a_time_and_nothing_is_left_over() {
        let seen = Arc::new(SeenEvents::default());
        let first = seen.turn(&id("a")).await;
        drop(seen.turn(&id("b")).await);
        for _ in 0..2 {
            assert!(timeout(Duration::from_millis(5), seen.turn(&id("a"))).await.is_err());
        }
        let next = tokio::spawn({
            let seen = seen.clone();
            async move { drop(seen.turn(&id("a")).await) }
        });
        tokio::task::yield_now().await;
        assert!(!next.is_finished());
        drop(first);
        next.await.unwrap();
        assert!(seen.0.lock().under_way.is_empty());
    }

    #[test]
    fn the_oldest_go_first() {
        let seen = SeenEvents::default();
        for n in 0..MAX_REMEMBERED + 10 {
            seen.remember(id(&n.to_string()), 1_000, 600);
        }
        let sizes = || {
            let table = seen.0.lock();
            (table.taken.len(), table.order.len())
        };
        assert_eq!(sizes(), (MAX_REMEMBERED, MAX_REMEMBERED));
        assert!(!seen.knows(&id("9"), 1_001) && seen.knows(&id("10"), 1_001));
        assert!(!seen.knows(&id("10"), 1_600), "its time is over");
        seen.remember(id("later"), 1_600, 600);
        assert_eq!(sizes(), (1, 1));
    }
}
