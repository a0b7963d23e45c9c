//! What the program tells about itself: metrics, access records, log lines.
//!
//! `labels` holds the words, `families` declares every metric out of them, `metrics` has the methods that move
//! them, those of each request in `by_route`; `access` writes one record per request, in the form of `line`; `init`
//! says where log lines go, `seldom` how often; all of them go through `log_queue`, which never makes anyone wait. Nothing here decides anything about a request, and nothing that a client
//! sent becomes a label.

pub mod access;
mod by_route;
mod declare;
mod families;
pub mod labels;
mod line;
mod log_queue;
pub mod metrics;
mod place;
mod process;
pub mod seldom;
mod subscribe;

pub use access::{AccessLog, Record};
pub use declare::{Family, LabelSpec, Values};
pub use labels::{
    CacheResult, CutReason, Ejection, EventResult, FillOutcome, FlightRole, Invalidation, OriginOutcome,
    PurgeKind, RefuseReason, RejectReason, StatusClass, StoreCall, StoreError, StoreOutcome, TokenResult,
};
pub use log_queue::{complain, FlushGuard};
pub use metrics::{MemoryStats, Metrics, OpenConnection, RouteMetrics};
pub use subscribe::init;
