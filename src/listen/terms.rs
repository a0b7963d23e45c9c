//! What holds for connections, as `[server]` says it: how long they are kept, how long clients may take, how many there
//! may be.

use super::{caps::Limits, descriptors, guard::Rules};
use crate::config;
use std::time::Duration;

/// What holds for connections that come in from now on.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// How long they are kept, and for how many requests.
    pub keepalive: Keepalive,
    /// How long clients may take.
    pub rules: Rules,
    /// How many there may be.
    pub limits: Limits,
}

impl Terms {
    /// As `[server]` says, where so many files may be open.
    pub fn of(server: &config::Server, files: u64) -> Self {
        let clients = &server.clients;
        let count = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
        if clients.max_connections.is_some_and(|most| u64::from(most) > files) {
            tracing::warn!(files, "max_connections is more than the files that may be open");
        }
        Self {
            keepalive: Keepalive::of(server),
            rules: Rules {
                header_timeout: clients.header_timeout,
                body_timeout: clients.body_timeout,
                body_min_rate: clients.body_min_rate,
                send_timeout: clients.send_timeout,
                send_min_rate: clients.send_min_rate,
            },
            limits: Limits {
                all: clients.max_connections.map_or_else(|| descriptors::connections(files), count),
                address: clients.max_per_address.map(count),
            },
        }
    }
}

/// How long connections are kept between requests, and for how many.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// Between requests.
    pub idle: Duration,
    /// Requests on one connection; `None`: any number.
    pub requests: Option<u32>,
}

impl Keepalive {
    /// As `[server]` says.
    pub fn of(server: &config::Server) -> Self {
        Self { idle: server.keepalive, requests: Some(server.keepalive_requests).filter(|n| *n > 0) }
    }
}
