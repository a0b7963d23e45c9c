//! The preferences of a request for a server, and the properties that they come from (`affinity.rs`).

use std::net::{IpAddr, SocketAddr};

/// The properties of a request that the choice of a server may depend on.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadBalancing<'r> {
    /// The client's address; `None` for requests of the gateway's own whose answer is shared.
    pub client: Option<IpAddr>,
    /// The path, without the query.
    pub path: &'r str,
    /// The query.
    pub query: Option<&'r str>,
    /// The tenant.
    pub tenant: &'r str,
    /// The value of the cookie that names a server.
    pub cookie: Option<&'r str>,
}

/// The preferences of a request, from [`super::ServerGroup::choice`], and the servers that have failed it.
#[derive(Debug, Clone, Default)]
pub struct ServerChoice {
    /// The key that is hashed.
    pub(crate) key: Option<u64>,
    /// The number of its session's endpoint.
    pub(crate) at: Option<u64>,
    /// The servers that have failed the request, with their addresses.
    pub(crate) tried: Vec<(usize, Option<SocketAddr>)>,
    /// True if a client can be answered without it: a server that is out doesn't get it.
    pub(crate) spare: bool,
}

impl ServerChoice {
    /// Notes that this server has failed the request, at this address: another one is preferred.
    pub fn avoid_server(&mut self, server: usize, address: Option<SocketAddr>) {
        self.tried.push((server, address));
    }

    pub(crate) fn has_tried(&self, server: usize) -> bool {
        self.tried.iter().any(|(tried, _)| *tried == server)
    }
}
