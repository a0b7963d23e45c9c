//! The preferences of a request for a server: by its session, or by the hash of a property.
//!
//! The answer of a server may set these for later requests: a cookie that names the server, or the session's
//! id.

use super::{balance, ServerGroup};
use crate::{
    config::{BalanceMethod, HashBy},
    origin::sticky::{self, engine_io::SessionSniffer, StickySniffer},
};

use http::{HeaderMap, HeaderValue, StatusCode};
use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

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

/// The preferences of a request, from [`ServerGroup::choice`], and the servers that have failed it.
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

impl ServerGroup {
    /// The preferences of a request with these properties.
    pub fn choice(&self, who: &LoadBalancing<'_>) -> ServerChoice {
        let hashed = |by| match by {
            HashBy::Client => who.client.map(|ip| match ip.to_canonical() {
                IpAddr::V4(ip) => balance::hash_key(&ip.octets()),
                // A client has the whole /64, and changes its address within it.
                IpAddr::V6(ip) => balance::hash_key(&ip.octets()[..8]),
            }),
            HashBy::Path => Some(balance::hash_key(who.path.as_bytes())),
            HashBy::Tenant => Some(balance::hash_key(who.tenant.as_bytes())),
        };
        let key = match self.settings.balance {
            // Requests without a client are distributed by their path.
            BalanceMethod::Hash(by) => hashed(by).or_else(|| hashed(HashBy::Path)),
            BalanceMethod::RoundRobin | BalanceMethod::LeastConnections => None,
        };
        let at = self.settings.sticky.as_ref().and_then(|sticky| {
            let session = sticky::named_session(sticky, who.query);
            let recalled = session.and_then(|session| self.state.recall(session, Instant::now()));
            recalled.or_else(|| self.endpoints.load().named(who.cookie?))
        });
        ServerChoice { key, at, ..ServerChoice::default() }
    }

    /// The cookie that leads the next requests of a session to the endpoint that has answered this one;
    /// `None` if the session has it already (`has`), or if the answer may be stored by shared caches.
    pub fn cookie(
        &self,
        endpoint: Option<u64>,
        has: Option<&str>,
        answer: &HeaderMap,
        https: bool,
    ) -> Option<HeaderValue> {
        let name = self.settings.sticky.as_ref()?.cookie.as_deref()?;
        let endpoints = self.endpoints.load();
        let token = endpoints.token(endpoint?)?;
        if has == Some(token) || sticky::is_publicly_cacheable(answer) {
            return None;
        }
        sticky::set_cookie(name, token, https)
    }

    /// The search for the id of a session in an answer; `None` if the answer begins none.
    pub fn ear(
        &self,
        endpoint: Option<u64>,
        query: Option<&str>,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Option<StickySniffer> {
        let name = self.settings.sticky.as_ref()?.query.as_deref()?;
        Some(StickySniffer::new(SessionSniffer::to(name, query, status, headers)?, endpoint?))
    }

    /// Processes a piece of an answer.
    pub fn hear(&self, ear: &mut StickySniffer, piece: Option<&[u8]>, end: bool) {
        if let Some(session) = ear.hear(piece, end) {
            self.state.remember(&session, ear.endpoint, Instant::now());
        }
    }
}
