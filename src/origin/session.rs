//! What a request wants of the choice of a server: the same as those before it of its session, or of its kind.
//!
//! And what its answer tells for the requests after it: a cookie that names the server, the session's name.

use super::{
    balance,
    engine::Listening,
    pool::Pool,
    sticky::{self, Ear},
};
use crate::config::{Balance, HashBy};
use http::{HeaderMap, HeaderValue, StatusCode};
use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

/// Who asks, and for what: all that a choice may depend on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chooser<'r> {
    /// The client's address; none for what the gateway asks for all.
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

/// What a request wants, to be had by [`Pool::choice`], and which servers have failed it.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// What is hashed.
    pub(super) key: Option<u64>,
    /// The number of its session's endpoint.
    pub(super) at: Option<u64>,
    /// Servers that have failed the request, and at which of their addresses.
    pub(super) tried: Vec<(usize, Option<SocketAddr>)>,
    /// Somebody is served whatever becomes of it: a server that is out is not to be troubled with it.
    pub(super) spare: bool,
}

impl Choice {
    /// This server has failed the request, at this address: another one is better.
    pub fn avoid(&mut self, server: usize, address: Option<SocketAddr>) {
        self.tried.push((server, address));
    }

    pub(super) fn has_tried(&self, server: usize) -> bool {
        self.tried.iter().any(|(tried, _)| *tried == server)
    }
}

impl Pool {
    /// What a request of this kind wants.
    pub fn choice(&self, who: &Chooser<'_>) -> Choice {
        let hashed = |by| match by {
            HashBy::Client => who.client.map(|ip| match ip.to_canonical() {
                IpAddr::V4(ip) => balance::key(&ip.octets()),
                // A client has the whole network, and changes its address within it.
                IpAddr::V6(ip) => balance::key(&ip.octets()[..8]),
            }),
            HashBy::Path => Some(balance::key(who.path.as_bytes())),
            HashBy::Tenant => Some(balance::key(who.tenant.as_bytes())),
        };
        let key = match self.settings.balance {
            // What is asked for all is asked by what it is.
            Balance::Hash(by) => hashed(by).or_else(|| hashed(HashBy::Path)),
            Balance::RoundRobin | Balance::LeastConnections => None,
        };
        let at = self.settings.sticky.as_ref().and_then(|sticky| {
            let session = sticky::named_session(sticky, who.query);
            let recalled = session.and_then(|session| self.state.recall(session, Instant::now()));
            recalled.or_else(|| self.endpoints.load().named(who.cookie?))
        });
        Choice { key, at, ..Choice::default() }
    }

    /// The cookie that brings a session's next requests to the endpoint that has answered this one; `None` where the
    /// session has it already (`has`), or where others may keep the answer.
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
        if has == Some(token) || sticky::is_for_all(answer) {
            return None;
        }
        sticky::set_cookie(name, token, https)
    }

    /// Who listens for the name of a session in an answer; `None` where it begins none.
    pub fn ear(
        &self,
        endpoint: Option<u64>,
        query: Option<&str>,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Option<Ear> {
        let name = self.settings.sticky.as_ref()?.query.as_deref()?;
        Some(Ear::new(Listening::to(name, query, status, headers)?, endpoint?))
    }

    /// A piece of an answer.
    pub fn hear(&self, ear: &mut Ear, piece: Option<&[u8]>, end: bool) {
        if let Some(session) = ear.hear(piece, end) {
            self.state.remember(&session, ear.endpoint, Instant::now());
        }
    }
}
