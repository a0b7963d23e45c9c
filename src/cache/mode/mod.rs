//! Cache modes: the rules of answers under version keys, and of those whose origin decides (RFC 9111).

pub(crate) mod encode;
mod origin_fill;
pub(crate) mod origin_lookup;
pub(crate) mod origin_store;
mod version_wait;
pub(crate) mod versioned;
mod versioned_fill;
