//! What the program tells about itself: metrics, access records, log lines.
//!
//! `labels` holds the words, `metrics` declares every metric, `declare` ties a declaration to its registration.
//! Nothing here decides anything about a request, and nothing a client sent becomes a label.

mod declare;
mod families;
pub mod labels;
pub mod metrics;
mod process;

pub use declare::{Family, LabelSpec, Values};
pub use labels::{
    BumpSource, CacheResult, EventResult, FillOutcome, FlightRole, Invalidation, OriginOutcome, RejectReason,
    StatusClass, StoreCall, StoreError, StoreOutcome, TokenResult,
};
pub use metrics::{MemoryStats, Metrics, OpenConnection, RouteMetrics};
