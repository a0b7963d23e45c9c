//! A timeout for each step of a connection, with a timer that stays armed.
//!
//! Each read and each write has its own timeout, and most complete long before it. Arming and disarming a
//! timer for each would cost more than the step. This timer stays armed over steps and requests; when it
//! fires, it checks whether the current step is late, and otherwise is armed again for it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// The timer of one connection.
#[derive(Debug, Default)]
pub(crate) struct ConnectionTimer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// The time at which the current step is late; `None`: no step has waited yet.
    late: Option<Instant>,
}

impl ConnectionTimer {
    /// Begins another step.
    pub(crate) fn begin(&mut self) {
        self.late = None;
    }

    /// Polled while a step waits: ready if it has taken longer than `limit`.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let late = match self.late {
            Some(late) => late,
            None => *self.late.insert(Instant::now() + limit),
        };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(late)));
        if sleep.deadline() > late {
            sleep.as_mut().reset(late);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= late {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(late);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test]
    async fn each_step_has_its_own_limit() {
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(600));
        let mut patience = ConnectionTimer::default();
        let waits = |patience: &mut ConnectionTimer, limit| {
            patience.begin();
            let waker = std::task::Waker::noop();
            assert!(patience.poll(&mut Context::from_waker(waker), limit).is_pending());
        };
        let start = Instant::now();
        poll_fn(|cx| patience.poll(cx, short)).await;
        assert!(start.elapsed() >= short);
        // A step that completes in time, then one that doesn't, with the timer armed for the first.
        waits(&mut patience, short);
        patience.begin();
        let start = Instant::now();
        poll_fn(|cx| patience.poll(cx, 3 * short)).await;
        assert!(start.elapsed() >= 3 * short);
        // A timer that is armed for much later.
        waits(&mut patience, long);
        patience.begin();
        poll_fn(|cx| patience.poll(cx, short)).await;
        assert!(start.elapsed() < long);
    }
}
