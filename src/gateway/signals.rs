//! What the gateway and a connection tell each other of the exchange under way: flags that both see, for Pingora stands
//! between them and passes bytes alone.

use super::{Handover, Tunnelled};
use crate::telemetry::labels::CutReason;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicU8, Ordering};

/// More bytes than any connection ever has.
pub const UNKNOWN: u64 = 1 << 62;

/// What the gateway and a connection tell each other. Each connection has its own, and tasks of one connection follow
/// each other: nothing here has to be ordered.
#[derive(Debug, Default)]
pub struct Signals {
    /// Which exchange of the connection it is, from 0.
    pub exchange: AtomicU32,
    /// A request has been read.
    pub handled: AtomicBool,
    /// The `Date` of the answer, in seconds since the epoch; 0: now.
    pub date: AtomicU64,
    /// The body arrives slowly: what there is goes out at once.
    pub at_once: AtomicBool,
    /// The origin has switched protocols: behind the head, the connection is a tunnel.
    pub switched: AtomicBool,
    /// To whom. Taken by the connection.
    pub tunnelled: Mutex<Option<Tunnelled>>,
    /// Bytes that went through the tunnel to the client.
    pub sent: AtomicU64,
    /// A part of a file that the connection sends itself.
    pub file: Handover,
    /// Bytes that the requests of the connection were made of; not less than [`UNKNOWN`] where that can't be said.
    pub taken: AtomicU64,
    /// The gateway wants (more of) the request's body.
    pub body: AtomicBool,
    /// The connection is at its end, and no request is under way.
    pub over: AtomicBool,
    /// One more than the place of the reason in its list; 0: not cut off.
    cut: AtomicU8,
}

impl Signals {
    /// The exchange is over, and the connection is there for another.
    pub fn next_exchange(&self) {
        self.handled.store(false, Ordering::Relaxed);
        self.at_once.store(false, Ordering::Relaxed);
        self.body.store(false, Ordering::Relaxed);
        self.exchange.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the gateway wants (more of) the body from now on.
    pub fn wants_body(&self, wanted: bool) {
        self.body.store(wanted, Ordering::Relaxed);
    }

    /// The client took too long: why the exchange ends.
    pub fn cut_off(&self, reason: CutReason) {
        let place = CutReason::ALL.iter().position(|one| *one == reason);
        let place = place.and_then(|place| u8::try_from(place + 1).ok());
        self.cut.store(place.unwrap_or(u8::MAX), Ordering::Relaxed);
    }

    /// Why the connection was cut off, if it was.
    pub fn was_cut(&self) -> Option<CutReason> {
        let place = usize::from(self.cut.load(Ordering::Relaxed)).checked_sub(1)?;
        CutReason::ALL.get(place).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_comes_back_as_it_was_given() {
        let signals = Signals::default();
        assert_eq!(signals.was_cut(), None);
        for reason in CutReason::ALL {
            signals.cut_off(*reason);
            assert_eq!(signals.was_cut(), Some(*reason));
        }
    }
}
