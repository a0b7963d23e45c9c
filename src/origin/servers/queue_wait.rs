//! Waiting for a place at a server, in the origin's queue.

use super::{
    choice::ServerChoice,
    queue::{QueueEntry, QueueJoin, ServeOutcome},
    state::{ActiveRequest, OriginState, QueuedRequest},
    NoUpstream, PickRefusal, PickedServer, ServerGroup,
};
use std::{sync::Arc, time::Instant};
use tokio::sync::oneshot;

impl ServerGroup {
    /// Waits in the queue.
    ///
    /// # Errors
    /// If the queue is full, there was no place in time, or no server is available any more.
    pub(crate) async fn wait(self: &Arc<Self>, choice: &ServerChoice) -> Result<PickedServer, NoUpstream> {
        let (tell, told) = oneshot::channel();
        let waiter = QueueWaiter { pool: self.clone(), choice: choice.clone(), tell: Some(tell) };
        let waiter: QueuedRequest = Box::new(waiter);
        let place = match self.state.line.join(waiter, self.settings.queue) {
            None => return Err(NoUpstream::QueueFull),
            Some(QueueJoin::Served) => None,
            Some(QueueJoin::Waits(ticket)) => Some(QueuePlace::new(&self.state, ticket)),
        };
        let told = tokio::time::timeout(self.settings.queue_timeout, told).await;
        drop(place);
        match told {
            Ok(Ok(told)) => told,
            Ok(Err(_)) => Err(NoUpstream::Unhealthy),
            Err(_) => Err(NoUpstream::QueueTimeout),
        }
    }
}

/// A request that waits for a place.
#[derive(Debug)]
struct QueueWaiter {
    pool: Arc<ServerGroup>,
    choice: ServerChoice,
    tell: Option<oneshot::Sender<Result<PickedServer, NoUpstream>>>,
}

impl QueueEntry for QueueWaiter {
    type Left = Option<ActiveRequest>;

    fn serve(&mut self) -> ServeOutcome<Self::Left> {
        let Some(tell) = self.tell.take_if(|tell| !tell.is_closed()) else { return ServeOutcome::Done };
        let told = match self.pool.try_pick(&self.choice, Instant::now()) {
            Err(PickRefusal::Full) => {
                self.tell = Some(tell);
                return ServeOutcome::NotYet;
            }
            Err(PickRefusal::Nobody(nobody)) => Err(nobody),
            Ok(picked) => Ok(picked),
        };
        match tell.send(told) {
            Ok(()) => ServeOutcome::Done,
            Err(told) => ServeOutcome::Left(told.ok().map(|picked| picked.under_way)),
        }
    }

    fn is_choosy(&self) -> bool {
        self.choice.at.is_some()
    }
}

/// An entry in the queue. Dropping it leaves the queue.
struct QueuePlace<'a> {
    state: &'a OriginState,
    ticket: u64,
}

impl<'a> QueuePlace<'a> {
    fn new(state: &'a OriginState, ticket: u64) -> Self {
        state.metrics.queued.inc();
        Self { state, ticket }
    }
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.state.metrics.queued.dec();
        self.state.line.leave(self.ticket);
    }
}
