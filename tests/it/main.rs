//! The integration tests, by feature. Each starts the servers that it needs, on free ports of 127.0.0.1.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code: a failure is a panic")]
#![allow(unreachable_pub, reason = "modules of a test")]

mod architecture;
mod cache;
mod coherence;
mod lanes;
mod listener;
mod live;
mod origin;
mod requests;
mod running;
mod support;
