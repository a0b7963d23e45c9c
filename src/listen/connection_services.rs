//! The parts of the gateway that serve connections, whatever their protocol.

use super::{aborted::ConnectionLedger, connection_limits::ConnectionLimiter};
use crate::gateway::{FastResponder, Gateway};

use pingora_proxy::HttpProxy;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// The parts that all connections share.
pub(super) struct ConnectionServices {
    pub(super) proxy: Arc<HttpProxy<Gateway>>,
    /// The answers that lie ready in memory.
    pub(super) ready: FastResponder,
    /// The metrics and records of connections.
    pub(super) ledger: Arc<ConnectionLedger>,
    /// The counters of connections.
    pub(super) places: Arc<ConnectionLimiter>,
    /// Becomes true when the shutdown begins.
    pub(super) closing: watch::Receiver<bool>,
    /// The tasks that serve connections and requests.
    pub(super) open: TaskTracker,
}
