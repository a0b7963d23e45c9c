//! The timeout of a request's body by HTTP/2.

use crate::{
    listen::{
        alarm::Alarm,
        connection::FrameWatch,
        guard::{Patience, Verdict},
        ledger::Ledger,
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
    patience: Patience,
    alarm: Alarm,
    watch: Arc<FrameWatch>,
    /// The number of bytes of the next frame that have been counted.
    counted: usize,
    /// The reason, once it has taken too long.
    late: Option<CutReason>,
    ledger: Arc<Ledger>,
    peer: SocketAddr,
}

impl BodyWait {
    pub(super) fn new(
        (most, rate): (Duration, u64),
        watch: Arc<FrameWatch>,
        (ledger, peer): (Arc<Ledger>, SocketAddr),
    ) -> Self {
        Self {
            patience: Patience::new(most, rate),
            alarm: Alarm::default(),
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
    pub(super) fn poll_late(&mut self, stream: u32, cx: &mut Context<'_>) -> Poll<CutReason> {
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
                Verdict::Free => return Poll::Pending,
                Verdict::Until(at) => ready!(self.alarm.poll(at, cx)),
                Verdict::Cut(reason) => {
                    self.ledger.cut(self.peer, reason, None);
                    self.late = Some(reason);
                    return Poll::Ready(reason);
                }
            }
        }
    }
}
