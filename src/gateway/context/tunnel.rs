//! A connection that becomes a tunnel after an upgrade.

use crate::{origin::upgrade::UpgradedStream, telemetry::metrics::OpenWebSocket};

use std::{fmt, time::Duration};

/// A connection that continues as a tunnel.
pub struct TunnelledConnection {
    /// The origin's end of the connection.
    pub origin: UpgradedStream,
    /// The time for which both ends may be silent.
    pub idle: Duration,
    /// The gauge of open WebSockets, held until the tunnel ends.
    pub open: OpenWebSocket,
    /// Receives the bytes from the origin until it returns false.
    pub hearing: Option<OriginObserver>,
}

/// A callback for bytes from an origin; returns true if it wants more.
pub(crate) type OriginObserver = Box<dyn FnMut(&[u8]) -> bool + Send + Sync>;

impl fmt::Debug for TunnelledConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnelled")
            .field("origin", &self.origin)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}
