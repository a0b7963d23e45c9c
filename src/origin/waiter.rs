//! Waiting for a place at a server, in the origin's queue.

use super::{
    line::{Joined, Served, Waiting},
    pool::{Nobody, Picked, Pool, Refused},
    session::Choice,
    state::OriginState,
};
use std::{sync::Arc, time::Instant};
use tokio::sync::oneshot;

impl Pool {
    /// Waits in the queue.
    ///
    /// # Errors
    /// If the queue is full, there was no place in time, or no server is available any more.
    pub(super) async fn wait(self: &Arc<Self>, choice: &Choice) -> Result<Picked, Nobody> {
        let (tell, told) = oneshot::channel();
        let waiter = Waiter { pool: self.clone(), choice: choice.clone(), tell: Some(tell) };
        let place = match self.state.line.join(waiter, self.settings.queue) {
            None => return Err(Nobody::QueueFull),
            Some(Joined::Served) => None,
            Some(Joined::Waits(ticket)) => Some(InLine::new(&self.state, ticket)),
        };
        let told = tokio::time::timeout(self.settings.queue_timeout, told).await;
        drop(place);
        match told {
            Ok(Ok(told)) => told,
            Ok(Err(_)) => Err(Nobody::Unhealthy),
            Err(_) => Err(Nobody::QueueTimeout),
        }
    }
}

/// A request that waits for a place.
#[derive(Debug)]
pub(super) struct Waiter {
    pool: Arc<Pool>,
    choice: Choice,
    tell: Option<oneshot::Sender<Result<Picked, Nobody>>>,
}

impl Waiting for Waiter {
    type Left = Option<Picked>;

    fn serve(&mut self) -> Served<Self::Left> {
        let Some(tell) = self.tell.take_if(|tell| !tell.is_closed()) else { return Served::Done };
        let told = match self.pool.try_pick(&self.choice, Instant::now()) {
            Err(Refused::Full) => {
                self.tell = Some(tell);
                return Served::NotYet;
            }
            Err(Refused::Nobody(nobody)) => Err(nobody),
            Ok(picked) => Ok(picked),
        };
        match tell.send(told) {
            Ok(()) => Served::Done,
            Err(told) => Served::Left(told.ok()),
        }
    }

    fn is_choosy(&self) -> bool {
        self.choice.at.is_some()
    }
}

/// An entry in the queue. Dropping it leaves the queue.
struct InLine<'a> {
    state: &'a OriginState,
    ticket: u64,
}

impl<'a> InLine<'a> {
    fn new(state: &'a OriginState, ticket: u64) -> Self {
        state.metrics.queued.inc();
        Self { state, ticket }
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.state.metrics.queued.dec();
        self.state.line.leave(self.ticket);
    }
}
