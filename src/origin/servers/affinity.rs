//! The affinity of requests and servers: a request goes by its session, or by the hash of a property, and the
//! answer of a server may name it for later requests: by a cookie, or by the session's id.

use super::{
    balance,
    choice::{LoadBalancing, ServerChoice},
    ServerGroup,
};
use crate::{
    config::{BalanceMethod, HashBy},
    origin::sticky::{self, engine_io::SessionSniffer, StickySniffer},
};

use http::{HeaderMap, HeaderValue, StatusCode};
use std::{net::IpAddr, time::Instant};

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
