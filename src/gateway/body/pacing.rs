//! The rate at which a body is sent.

use crate::files::send;

use std::time::{Duration, Instant};

/// A limit of the rate at which a body is sent.
pub(crate) struct PacedBody {
    began: Instant,
    sent: u64,
    rate: u64,
}

impl PacedBody {
    /// A limit of `rate` bytes a second, from now on.
    pub(crate) fn new(rate: u64) -> Self {
        Self { began: Instant::now(), sent: 0, rate }
    }

    /// Waits until `more` bytes may be sent.
    pub(crate) async fn wait(&mut self, more: usize) {
        tokio::time::sleep(self.pause(more)).await;
    }

    /// The time to wait until `more` bytes may be sent.
    pub(crate) fn pause(&mut self, more: usize) -> Duration {
        let pause = send::pacing_pause(self.sent, self.rate, self.began.elapsed());
        self.sent += more as u64;
        pause
    }
}
