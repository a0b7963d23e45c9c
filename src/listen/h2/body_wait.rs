//! The timeout of a request's body by HTTP/2.

use crate::{
    listen::{
        aborted::ConnectionLedger,
        connection::{
            frames::FrameWatch,
            timeouts::{RateDeadline, WaitVerdict},
            timer::ReusableTimer,
        },
    },
    telemetry::labels::CutReason,
};
use std::{
    net::SocketAddr,
    sync::Arc,
    task::{ready, Context, Poll},
    time::{Duration, Instant},
};

/// The timeout of a request's body, as with HTTP/1.1. The library delivers only whole frames; for a long and
/// slow one the connection reports the bytes that have come.
pub(super) struct BodyWait {
    patience: RateDeadline,
    alarm: ReusableTimer,
    watch: Arc<FrameWatch>,
    /// The number of bytes of the next frame that have been counted.
    counted: usize,
    /// The reason, once it has taken too long.
    late: Option<CutReason>,
    ledger: Arc<ConnectionLedger>,
    peer: SocketAddr,
}

impl BodyWait {
    pub(super) fn new(
        (most, rate): (Duration, u64),
        watch: Arc<FrameWatch>,
        (ledger, peer): (Arc<ConnectionLedger>, SocketAddr),
    ) -> Self {
        Self {
            patience: RateDeadline::new(most, rate),
            alarm: ReusableTimer::default(),
            watch,
            counted: 0,
            late: None,
            ledger,
            peer,
        }
    }

    /// Notes that bytes of it have come.
    pub(super) fn came(&mut self, bytes: usize) {
        let more = bytes.saturating_sub(std::mem::take(&mut self.counted));
        self.patience.moved(more as u64, Instant::now);
    }

    /// Ready with the reason when the client has taken too long.
    pub(super) fn poll_body_timeout(&mut self, stream: u32, cx: &mut Context<'_>) -> Poll<CutReason> {
        if let Some(reason) = self.late {
            return Poll::Ready(reason);
        }
        loop {
            let arriving = self.watch.arriving(stream);
            if arriving > self.counted {
                self.patience.moved((arriving - self.counted) as u64, Instant::now);
                self.counted = arriving;
            }
            match self.patience.wait(Instant::now(), CutReason::BodyTimeout, CutReason::BodyRate) {
                WaitVerdict::Free => return Poll::Pending,
                WaitVerdict::Until(at) => ready!(self.alarm.poll(at, cx)),
                WaitVerdict::Cut(reason) => {
                    self.ledger.cut(self.peer, reason, None);
                    self.late = Some(reason);
                    return Poll::Ready(reason);
                }
            }
        }
    }
}
