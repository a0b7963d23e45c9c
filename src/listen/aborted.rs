//! Metrics, access records and rate-limited log lines of connections that ended badly.
//!
//! The gateway writes the record of a request that has reached it. These records are for connections without
//! one: they have no more than the time and the client's address.

use crate::telemetry::{
    access::{record::AccessRecord, AccessLog},
    labels::{CacheResult, CutReason, RefuseReason, RejectReason},
    log::throttled_log::ThrottledLog,
    metrics::Metrics,
};
use http::{StatusCode, Version};
use parking_lot::Mutex;
use std::{net::SocketAddr, sync::Arc, time::Instant};

/// The metrics and records of connections.
pub(crate) struct ConnectionLedger {
    metrics: Arc<Metrics>,
    access: Arc<AccessLog>,
    refused: Mutex<ThrottledLog>,
}

impl ConnectionLedger {
    pub(crate) fn new(metrics: Arc<Metrics>, access: Arc<AccessLog>) -> Self {
        Self { metrics, access, refused: Mutex::default() }
    }

    /// Records that a connection was closed at the accept, or that a request on one was refused.
    pub(crate) fn refused(&self, reason: RefuseReason) {
        self.metrics.connection_refused(reason);
        if let Some(count) = self.refused.lock().add(Instant::now()) {
            tracing::warn!(count, reason = reason.as_str(), "connections were refused");
        }
    }

    /// Records that a request could not be parsed and was answered with `status`.
    pub(crate) fn unreadable(&self, peer: SocketAddr, status: StatusCode, version: Version) {
        let reason = match status {
            StatusCode::URI_TOO_LONG => RejectReason::UriTooLong,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => RejectReason::HeadersTooLarge,
            _ => RejectReason::BadRequest,
        };
        self.metrics.rejected(reason);
        self.record(peer, (status.as_u16(), version), Instant::now(), reason.as_str());
    }

    /// Records that an HTTP/2 request got no place; `status` is its answer, if it got one.
    pub(crate) fn no_place(&self, peer: SocketAddr, reason: RefuseReason, status: Option<StatusCode>) {
        self.refused(reason);
        if let Some(status) = status {
            self.record(peer, (status.as_u16(), Version::HTTP_2), Instant::now(), reason.as_str());
        }
    }

    /// Records that a connection was cut off. `head`: the time since which an incomplete head was awaited,
    /// and the status of the answer.
    pub(crate) fn cut(&self, peer: SocketAddr, reason: CutReason, head: Option<(Instant, u16)>) {
        self.metrics.connection_cut(reason);
        tracing::debug!(%peer, reason = reason.as_str(), "a connection was cut off");
        if let Some((since, status)) = head {
            self.record(peer, (status, Version::HTTP_11), since, reason.as_str());
        }
    }

    fn record(
        &self,
        peer: SocketAddr,
        (status, version): (u16, Version),
        since: Instant,
        detail: &'static str,
    ) {
        self.access.record(&AccessRecord {
            began: since,
            duration: since.elapsed(),
            request_id: b"",
            client: peer.ip(),
            method: "-",
            host: b"",
            path: b"-",
            version,
            status,
            bytes: 0,
            route: None,
            tenant: None,
            result: CacheResult::Local,
            detail: Some(detail),
            origin: None,
        });
    }
}
