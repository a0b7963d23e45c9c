//! Header fields that the gateway adds, changes and removes, both ways.

pub(crate) mod rules;
pub(crate) mod to_client;
pub(crate) mod to_origin;
