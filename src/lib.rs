//! Tidegate: an edge cache gateway for dashboards and APIs.
//!
//! The way of a request:
//!
//! ```text
//! accept (listen) → prepared lane: a plain hit is written at once
//! → gateway (native session, or Pingora's phases): route → limits → identity → key → cache
//!        hit      → reply (representation)
//!        stale    → reply, and refresh in the background
//!        miss     → join the flight: memory → Redis → lease → origin → store → reply
//!        anything else → the native client or Pingora proxies it to the origin
//! → access record, metrics (telemetry)
//! ```
//!
//! `docs/architecture.md` describes the modules and who may use whom; `tests/it/architecture.rs` holds the code
//! to it.
//!
//! The crate is a program. Public is what its binary, the models and benchmarks of the cache, and the fuzzers
//! call; all else is the crate's own, so that the compiler names what nobody calls.

mod address;
mod admin;
pub mod cache;
mod certificate;
pub mod cli;
pub mod clock;
pub mod config;
mod cors;
pub mod demo;
mod events;
mod files;
mod gateway;
mod headers;
mod http;
mod identity;
mod limits;
pub mod listen;
mod live;
pub mod name;
pub mod origin;
pub mod representation;
pub mod route;
mod server;
mod signed;
pub mod telemetry;
mod websocket;
