//! What is too much: of one request, and of many.
//!
//! [`request`] says what a request may look like. [`rate`] says how many there may be of one client in a time: by the
//! pure [`gcra`], over a [`table`] of those that have asked of late, whom [`who`] tells apart; [`fields`] is how clients
//! are told. Nothing here reads a clock or asks the store: whoever orders a request does, and brings the answers back.

pub mod fields;
pub mod gcra;
pub mod rate;
pub mod request;
pub mod table;
pub mod who;
