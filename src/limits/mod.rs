//! Limits: of one request, and of many.
//!
//! [`request`] limits the size and form of a request. [`rate`] limits the requests of one client in a time:
//! by the pure [`gcra`], over a [`table`] of the clients seen lately, which [`client_key`] tells apart; [`fields`]
//! reports the limits to clients. Nothing here reads a clock or calls the store: the caller does, and passes
//! the results in.

pub(crate) mod client_key;
pub(crate) mod fields;
pub(crate) mod gcra;
pub(crate) mod rate;
pub(crate) mod request;
pub(crate) mod table;
