//! The steps that a request goes through before it is answered or proxied.

pub(crate) mod auth;
pub(crate) mod event;
pub(crate) mod listener;
pub(crate) mod min_version;
pub(crate) mod normalize;
pub(crate) mod preflight;
pub(crate) mod rate_limit;
pub(crate) mod untrusted_fields;
pub(crate) mod websocket;
