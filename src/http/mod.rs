//! Rules of HTTP messages and their addresses: each stands here once, and every lane calls it. Stands on nothing.

pub(crate) mod authority;
pub(crate) mod cache_status;
pub(crate) mod canonical_path;
pub(crate) mod cross_origin;
pub(crate) mod date;
pub(crate) mod delta_seconds;
pub(crate) mod field_lines;
pub(crate) mod framing;
pub(crate) mod hop_by_hop;
pub(crate) mod names;
pub(crate) mod refusal_reasons;
pub(crate) mod via;
