//! Metrics, access records and log lines.
//!
//! `labels` holds the label values. `metrics` declares every metric (`families`) and has the methods that
//! change them; `by_route` has those of each request. `access` writes one record per request. `log` sets the
//! target of log lines and limits how often a line is repeated (`throttled_log`); all lines go through its
//! queue, which never makes a caller wait. Nothing here makes a decision about a request, and no value that a
//! client sent becomes a label.

pub(crate) mod access;
pub mod labels;
pub(crate) mod log;
pub mod metrics;

pub use labels::{
    CacheResult, CutReason, Ejection, EventResult, FillOutcome, FlightRole, Invalidation, OriginOutcome,
    PurgeKind, RefuseReason, RejectReason, StatusClass, StoreCall, StoreError, StoreOutcome, TokenResult,
};
pub(crate) use log::{
    init_logging,
    queue::{write_to_stderr, FlushGuard},
};
pub use metrics::{
    declare::{DeclaredFamily, LabelSpec, LabelValues},
    MemoryStats, Metrics, OpenConnection, RouteMetrics,
};
