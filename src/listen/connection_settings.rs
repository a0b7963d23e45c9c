//! The settings of connections in `[server]`: keep-alive, client timeouts, and limits of their number.

use super::{connection::timeouts::TimeoutRules, connection_limits::ConnectionCaps, descriptors};
use crate::config;

use std::time::Duration;

/// The settings of new connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionSettings {
    /// The keep-alive time, and the most requests.
    pub keepalive: Keepalive,
    /// The client timeouts.
    pub rules: TimeoutRules,
    /// The most connections.
    pub limits: ConnectionCaps,
}

impl ConnectionSettings {
    /// The settings of `[server]`, with a limit of open files.
    pub fn of(server: &config::GatewayConfig, files: u64) -> Self {
        let clients = &server.clients;
        let count = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
        if clients.max_connections.is_some_and(|most| u64::from(most) > files) {
            tracing::warn!(files, "max_connections exceeds the limit of open files");
        }
        Self {
            keepalive: Keepalive::of(server),
            rules: TimeoutRules {
                header_timeout: clients.header_timeout,
                body_timeout: clients.body_timeout,
                body_min_rate: clients.body_min_rate,
                send_timeout: clients.send_timeout,
                send_min_rate: clients.send_min_rate,
            },
            limits: ConnectionCaps {
                all: clients.max_connections.map_or_else(|| descriptors::connections_for(files), count),
                address: clients.max_per_address.map(count),
            },
        }
    }
}

/// The keep-alive settings: the time between requests, and the most requests.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// The time that a connection may be idle between requests.
    pub idle: Duration,
    /// The most requests on one connection; `None`: any number.
    pub requests: Option<u32>,
}

impl Keepalive {
    /// The settings of `[server]`.
    pub fn of(server: &config::GatewayConfig) -> Self {
        Self { idle: server.keepalive, requests: Some(server.keepalive_requests).filter(|n| *n > 0) }
    }
}
