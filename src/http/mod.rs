//! Rules of HTTP messages and their addresses: each stands here once, and every lane calls it. Stands on nothing.

pub mod authority;
pub mod cache_status;
pub mod canonical_path;
pub mod date;
pub mod delta_seconds;
pub mod field_lines;
pub mod framing;
pub mod hop_by_hop;
pub mod names;
pub(crate) mod refusal_reasons;
pub mod via;
