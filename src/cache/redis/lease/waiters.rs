//! The waiters for the ends of leases.

use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::oneshot;

/// The waiters for the end of a lease, by its name. Several of one node may wait for the same: the leads of
/// flights from before and after a purge, and fills that look for another node's answer.
#[derive(Debug, Default)]
pub struct LeaseWaiters(Mutex<HashMap<String, Vec<oneshot::Sender<()>>>>);

impl LeaseWaiters {
    /// Takes a seat among the waiters for this lease.
    pub fn take(self: &Arc<Self>, name: &str) -> WaiterSeat {
        let (wake, woken) = oneshot::channel();
        self.0.lock().entry(name.to_owned()).or_default().push(wake);
        WaiterSeat { waiters: self.clone(), name: name.to_owned(), woken }
    }

    /// Wakes all waiters for this lease.
    pub fn wake(&self, name: &str) {
        for waiter in self.0.lock().remove(name).into_iter().flatten() {
            // A waiter that has gone needs no waking.
            waiter.send(()).unwrap_or_default();
        }
    }

    /// Wakes all waiters.
    pub fn wake_all(&self) {
        for waiter in self.0.lock().drain().flat_map(|(_, waiters)| waiters) {
            waiter.send(()).unwrap_or_default();
        }
    }
}

/// A seat among the waiters, which is freed when it is dropped.
#[derive(Debug)]
pub struct WaiterSeat {
    waiters: Arc<LeaseWaiters>,
    name: String,
    woken: oneshot::Receiver<()>,
}

impl WaiterSeat {
    /// The name of the lease.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits to be woken.
    pub async fn woken(&mut self) {
        // The other end is never dropped without a message.
        (&mut self.woken).await.unwrap_or_default();
    }

    /// Returns true if it was woken.
    pub fn is_woken(&mut self) -> bool {
        self.woken.try_recv() != Err(oneshot::error::TryRecvError::Empty)
    }
}

impl Drop for WaiterSeat {
    fn drop(&mut self) {
        self.woken.close();
        let mut waiters = self.waiters.0.lock();
        let Some(seats) = waiters.get_mut(&self.name) else { return };
        seats.retain(|seat| !seat.is_closed());
        if seats.is_empty() {
            waiters.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_who_waits_for_a_lease_has_a_seat_of_its_own() {
        let waiters = Arc::new(LeaseWaiters::default());
        let (mut first, mut second) = (waiters.take("a"), waiters.take("a"));
        assert!(!first.is_woken(), "the second one does not wake it");
        drop(waiters.take("a"));
        assert!(!second.is_woken(), "nor does one that leaves");
        waiters.wake("b");
        assert!(!first.is_woken() && !second.is_woken());
        waiters.wake("a");
        assert!(first.is_woken() && second.is_woken());
        let mut third = waiters.take("c");
        waiters.wake_all();
        assert!(third.is_woken());
        drop((first, second, third));
        assert!(waiters.0.lock().is_empty(), "nothing is left of them");
    }
}
