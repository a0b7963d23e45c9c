//! A timer that is reused.

use std::{
    future::Future,
    pin::Pin,
    task::{ready, Context, Poll},
    time::Instant,
};
use tokio::time::{sleep_until, Sleep};

/// A timer that is created on first use. If it is set to an earlier time than required, it is left to fire
/// and is set again only then, so that a deadline that moves with each byte costs nothing.
#[derive(Default)]
pub(crate) struct ReusableTimer(Option<Pin<Box<Sleep>>>);

impl ReusableTimer {
    /// Ready when this time has been reached.
    pub(crate) fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let at = at.into();
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, time::Duration};

    #[tokio::test]
    async fn it_fires_when_the_time_has_come_however_it_was_set_before() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut alarm = ReusableTimer::default();
        for ms in [10_000, 20_000, 60] {
            let polled = alarm.poll(at(ms), &mut Context::from_waker(std::task::Waker::noop()));
            assert!(polled.is_pending());
        }
        poll_fn(|cx| alarm.poll(at(90), cx)).await;
        assert!(begin.elapsed() >= Duration::from_millis(90), "set to 60 before");
        poll_fn(|cx| alarm.poll(at(90), cx)).await;
        poll_fn(|cx| alarm.poll(at(120), cx)).await;
        assert!(begin.elapsed() >= Duration::from_millis(120));
        assert!(begin.elapsed() < Duration::from_secs(10), "set to 10 s before");
    }
}
