//! Flags that the gateway and a connection share during an exchange. They are needed because Pingora is
//! between the two and passes only bytes.

use crate::{
    gateway::context::{file_handover::FileHandover, tunnel::TunnelledConnection},
    telemetry::labels::CutReason,
};

use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicU8, Ordering};

/// More bytes than any connection can have.
pub(crate) const UNKNOWN_BYTES: u64 = 1 << 62;

/// The flags that the gateway and a connection share. Each connection has its own; they are used by one task
/// after another, so that no memory ordering is needed.
#[derive(Debug, Default)]
pub struct ConnectionSignals {
    /// The index of the exchange on the connection, from 0.
    pub exchange: AtomicU32,
    /// True once a request has been read.
    pub handled: AtomicBool,
    /// The `Date` of the answer, in seconds since the epoch; 0: the current time.
    pub date: AtomicU64,
    /// True if the body arrives slowly: each piece is flushed.
    pub at_once: AtomicBool,
    /// True if the origin has switched protocols: after the head the connection is a tunnel.
    pub switched: AtomicBool,
    /// The tunnel. The connection takes it.
    pub tunnelled: Mutex<Option<TunnelledConnection>>,
    /// The number of bytes that the tunnel has sent to the client.
    pub sent: AtomicU64,
    /// The part of a file that the connection sends by itself.
    pub file: FileHandover,
    /// The number of bytes of the connection that were requests; at least [`UNKNOWN_BYTES`] if it is not known.
    pub taken: AtomicU64,
    /// True while the gateway awaits (more of) the request's body.
    pub body: AtomicBool,
    /// True if the connection is at its end, and no request is under way.
    pub over: AtomicBool,
    /// The index of the reason in its list plus one; 0: not cut off.
    cut: AtomicU8,
}

impl ConnectionSignals {
    /// Ends the exchange, and resets the flags for the next one.
    pub fn next_exchange(&self) {
        self.handled.store(false, Ordering::Relaxed);
        self.at_once.store(false, Ordering::Relaxed);
        self.body.store(false, Ordering::Relaxed);
        self.exchange.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes whether the gateway awaits (more of) the body from now on.
    pub fn wants_body(&self, wanted: bool) {
        self.body.store(wanted, Ordering::Relaxed);
    }

    /// Notes the reason for which the client is cut off.
    pub fn cut_off(&self, reason: CutReason) {
        let place = CutReason::ALL.iter().position(|one| *one == reason);
        let place = place.and_then(|place| u8::try_from(place + 1).ok());
        self.cut.store(place.unwrap_or(u8::MAX), Ordering::Relaxed);
    }

    /// The reason for which the connection was cut off.
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
        let signals = ConnectionSignals::default();
        assert_eq!(signals.was_cut(), None);
        for reason in CutReason::ALL {
            signals.cut_off(*reason);
            assert_eq!(signals.was_cut(), Some(*reason));
        }
    }
}
