//! `[[origin]]`, checked: the servers, the choice among them, the connections to them, and the limits of
//! requests. Each field names its key in the file and its default.

use super::secret::Secret;
use crate::name::Name;
use http::{HeaderName, HeaderValue};
use std::{fmt, num::NonZeroU32, path::PathBuf, time::Duration};

/// `[[origin]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginConfig {
    /// `name`
    pub name: Name,
    /// `servers`, at least one, no address twice.
    pub servers: Vec<ServerEntry>,
    /// `balance` (`round-robin`)
    pub balance: BalanceMethod,
    /// `sticky`; `None`: sessions are nothing to this origin.
    pub sticky: Option<StickyConfig>,
    /// `http2` (false): h2 by ALPN to `https`, with prior knowledge to the others.
    pub http2: bool,
    /// `tls`
    pub tls: OriginTls,
    /// `max_connections`: requests under way per server (`0` in the file: no limit).
    pub max_connections: Option<NonZeroU32>,
    /// `queue`: requests that may wait for a place (100).
    pub queue: usize,
    /// `queue_timeout`: how long one may wait (5 s).
    pub queue_timeout: Duration,
    /// `connect_timeout` (2 s), TLS included.
    pub connect_timeout: Duration,
    /// `read_timeout` between two reads (30 s).
    pub read_timeout: Duration,
    /// `request_timeout`: the whole exchange, retries and waiting included (`0s` in the file: none).
    pub request_timeout: Option<Duration>,
    /// `idle_timeout`: how long an idle connection is kept (60 s).
    pub idle_timeout: Duration,
    /// `receive_buffer` of a connection, in bytes (256 KiB); `None` (`0` in the file): as the kernel likes.
    pub receive_buffer: Option<u32>,
    /// `retries` of idempotent requests (2).
    pub retries: u32,
    /// `health = { path, interval, timeout, host, headers }`
    pub health: Option<HealthConfig>,
    /// `panic_mode`: ask the least bad of the servers where all are out (true).
    pub panic_mode: bool,
    /// `refills`: the most entries that are read anew for their watchers at a time (8).
    pub refills: u32,
}

impl OriginConfig {
    /// An origin of this name and these servers, with the defaults of the file in all else.
    pub fn with_defaults(name: Name, servers: Vec<ServerEntry>) -> Self {
        Self {
            name,
            servers,
            balance: BalanceMethod::RoundRobin,
            sticky: None,
            http2: false,
            tls: OriginTls::default(),
            max_connections: None,
            queue: 100,
            queue_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            read_timeout: Duration::from_secs(30),
            request_timeout: None,
            idle_timeout: Duration::from_secs(60),
            receive_buffer: Some(256 << 10),
            retries: 2,
            health: None,
            panic_mode: true,
            refills: 8,
        }
    }
}

/// One of `servers`: a URL, or `{ url, weight }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerEntry {
    /// Its address.
    pub address: ServerAddress,
    /// `weight` (1): its share of the requests, 1 to 1,000.
    pub weight: u32,
}

impl ServerEntry {
    /// A server of weight 1 at `http://host:port`, or `https://` with `tls`.
    pub fn at(tls: bool, host: impl Into<String>, port: u16) -> Self {
        Self { address: ServerAddress::Tcp { tls, host: host.into(), port }, weight: 1 }
    }
}

/// The address of a server. Displayed as the file writes it: this names the server over reloads and nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    /// `http://host:port`, `https://host[:port]`
    Tcp {
        /// TLS (always verified) or plain.
        tls: bool,
        /// A name or an address, never empty.
        host: String,
        /// The port.
        port: u16,
    },
    /// `unix:/path`: plain HTTP on a socket of this machine.
    Unix(PathBuf),
}

impl ServerAddress {
    /// Returns true if connections to it use TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp { tls: true, .. })
    }

    /// `host[:port]` as a `Host` field names it.
    pub fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".to_owned(),
            Self::Tcp { tls, host, port } => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                match (tls, port) {
                    (false, 80) | (true, 443) => host,
                    _ => format!("{host}:{port}"),
                }
            }
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { tls, host, port } => {
                let scheme = if *tls { "https" } else { "http" };
                match host.contains(':') {
                    true => write!(f, "{scheme}://[{host}]:{port}"),
                    false => write!(f, "{scheme}://{host}:{port}"),
                }
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `balance`: the rule that chooses the server for the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BalanceMethod {
    /// `"round-robin"`: in turn, by weight.
    RoundRobin,
    /// `"least-connections"`: the server with the fewest requests under way, by weight.
    LeastConnections,
    /// `{ hash = … }`: the same server for the same key, as long as it is there.
    Hash(HashBy),
}

/// `balance.hash`: the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashBy {
    /// `"client"`: the client's address.
    Client,
    /// `"path"`: the path, without the query.
    Path,
    /// `"tenant"`: the tenant.
    Tenant,
}

/// `sticky`: the requests of a session go to one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StickyConfig {
    /// `query`: the parameter that names the session (Socket.IO's `sid`).
    pub query: Option<String>,
    /// `cookie`: the cookie that names the server.
    pub cookie: Option<String>,
    /// `secret` of the HMAC in the cookie; without one, a salt that is public.
    pub secret: Option<Secret>,
}

/// `tls`: the verification of `https` servers, which can't be switched off, and the certificate that the
/// gateway presents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OriginTls {
    /// `ca`: the certificates (DER) that a server's must lead to; empty: the system's.
    pub ca: Vec<Vec<u8>>,
    /// `cert`, `key`: the gateway's certificate for mutual TLS.
    pub identity: Option<TlsIdentity>,
    /// `server_name`: the name that is asked for and verified, instead of the host in the URL.
    pub server_name: Option<String>,
}

/// A certificate of the gateway's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsIdentity {
    /// The certificate and what leads to its authority (DER), at least one.
    pub chain: Vec<Vec<u8>>,
    /// Its key (DER).
    pub key: Secret,
}

/// Active health checks: `GET path`, anything from 200 to 399 is healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthConfig {
    /// The path that is requested.
    pub path: String,
    /// The time from one check to the next (5 s).
    pub interval: Duration,
    /// The time that a check may take (2 s).
    pub timeout: Duration,
    /// The `Host` that is named; `None`: the server's own.
    pub host: Option<String>,
    /// Further fields.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}
