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

pub mod address;
pub mod admin;
pub mod cache;
pub mod certificate;
pub mod cli;
pub mod clock;
pub mod config;
pub mod cors;
pub mod demo;
pub mod events;
pub mod files;
pub mod gateway;
pub mod headers;
pub mod http;
pub mod identity;
pub mod limits;
pub mod listen;
pub mod live;
pub mod name;
pub mod origin;
pub mod representation;
pub mod route;
pub mod server;
pub mod signed;
pub mod telemetry;
pub mod websocket;
