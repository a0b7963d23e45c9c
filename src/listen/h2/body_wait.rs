//! The time that a client may take for a body that it sends by HTTP/2.

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

/// The time that the client may take for its body: as long as one of HTTP/1.1, of whom each byte is seen. Here frames are
/// whole before they are; of one that is long and slow, the connection tells how much has come.
pub(super) struct BodyWait {
    patience: Patience,
    alarm: Alarm,
    watch: Arc<FrameWatch>,
    /// Bytes of the next frame that have counted.
    counted: usize,
    /// It has taken too long.
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
