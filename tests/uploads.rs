//! Requests with bodies: where they end, who is waited for, answers that come before the end, and what is sent again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a failure is a panic")]

#[path = "uploads/ends.rs"]
mod ends;
mod support;
