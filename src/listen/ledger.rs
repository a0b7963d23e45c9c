//! What is told of connections that ended badly: counters, access records, and log lines that can't become a flood.
//!
//! A request that has reached the gateway gets its record there. Here are those that did not: nothing of them is known
//! but when and from where.

use crate::telemetry::{
    access::{AccessLog, Record},
    labels::{CacheResult, CutReason, RefuseReason, RejectReason},
    metrics::Metrics,
    seldom::Seldom,
};
use http::{StatusCode, Version};
use parking_lot::Mutex;
use std::{net::SocketAddr, sync::Arc, time::Instant};

/// What is told of connections.
pub(super) struct Ledger {
    metrics: Arc<Metrics>,
    access: Arc<AccessLog>,
    refused: Mutex<Seldom>,
}

impl Ledger {
    pub(super) fn new(metrics: Arc<Metrics>, access: Arc<AccessLog>) -> Self {
        Self { metrics, access, refused: Mutex::default() }
    }

    /// A connection was closed as soon as it was accepted, or a request on one was refused.
    pub(super) fn refused(&self, reason: RefuseReason) {
        self.metrics.connection_refused(reason);
        if let Some(count) = self.refused.lock().add(Instant::now()) {
            tracing::warn!(count, reason = reason.as_str(), "connections were refused");
        }
    }

    /// A request could not be read, and was told so.
    pub(super) fn unreadable(&self, peer: SocketAddr, status: StatusCode, version: Version) {
        let reason = match status {
            StatusCode::URI_TOO_LONG => RejectReason::UriTooLong,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => RejectReason::HeadersTooLarge,
            _ => RejectReason::BadRequest,
        };
        self.metrics.rejected(reason);
        self.record(peer, (status.as_u16(), version), Instant::now(), reason.as_str());
    }

    /// A request of HTTP/2 got no place, and was told so where it has a status.
    pub(super) fn no_place(&self, peer: SocketAddr, reason: RefuseReason, status: Option<StatusCode>) {
        self.refused(reason);
        if let Some(status) = status {
            self.record(peer, (status.as_u16(), Version::HTTP_2), Instant::now(), reason.as_str());
        }
    }

    /// A connection was cut off. `head`: since when the head of a request was waited for, of which a part had come,
    /// and the status that it was answered with.
    pub(super) fn cut(&self, peer: SocketAddr, reason: CutReason, head: Option<(Instant, u16)>) {
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
        self.access.record(&Record {
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
