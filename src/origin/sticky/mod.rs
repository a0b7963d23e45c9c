//! Sticky sessions: requests of a session go to the server that created it.
//!
//! A session is found by the cookie that the gateway has set, or by the id that the server gave it, which the
//! gateway reads from its answer (see `engine_io`). The cookie's value is a keyed hash of the server's
//! address: all nodes compute the same, also after a restart, and the address can't be read from it. Without
//! `sticky.secret` an attacker could test guesses of an address against the cookie.

pub(crate) mod engine_io;
use super::servers::balance;
use crate::config::{ServerAddress, StickyConfig};
use engine_io::{SessionSniffer, SniffResult};

use base64::{prelude::BASE64_URL_SAFE_NO_PAD, Engine as _};
use hmac::{Hmac, KeyInit, Mac};
use http::{header, HeaderMap, HeaderValue};
use sha2::Sha256;
use std::{collections::HashMap, net::SocketAddr};

/// The salt if there is no secret.
const SALT: &[u8] = b"tidegate sticky";
/// The length of a cookie's value in bytes, before it is encoded as text.
const TOKEN: usize = 12;

/// A server, and one of its addresses, if it has any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StickyEndpoint {
    /// Its index in the configuration.
    pub(crate) server: usize,
    /// `None`: a UNIX socket.
    pub(crate) address: Option<SocketAddr>,
}

/// The endpoints on which the sessions of an origin can be.
#[derive(Debug, Default)]
pub(crate) struct StickyEndpoints {
    by_token: HashMap<String, u64>,
    by_id: HashMap<u64, (StickyEndpoint, String)>,
}

impl StickyEndpoints {
    /// All endpoints of these servers.
    pub(crate) fn new<'s>(
        sticky: &StickyConfig,
        origin: &str,
        servers: impl Iterator<Item = (&'s ServerAddress, Vec<SocketAddr>)>,
    ) -> Self {
        let mut all = Self::default();
        for (server, (at, addresses)) in servers.enumerate() {
            let addresses: Vec<_> = match at {
                ServerAddress::Unix(_) => vec![None],
                ServerAddress::Tcp { .. } => addresses.into_iter().map(Some).collect(),
            };
            for address in addresses {
                let id = endpoint_id(at, address);
                let token = cookie_token(sticky, origin, at, address);
                all.by_token.insert(token.clone(), id);
                all.by_id.insert(id, (StickyEndpoint { server, address }, token));
            }
        }
        all
    }

    /// The endpoint with this number, if it still exists.
    pub(crate) fn at(&self, id: u64) -> Option<StickyEndpoint> {
        self.by_id.get(&id).map(|(endpoint, _)| *endpoint)
    }

    /// The value of the cookie for it.
    pub(crate) fn token(&self, id: u64) -> Option<&str> {
        self.by_id.get(&id).map(|(_, token)| token.as_str())
    }

    /// The number of the endpoint that a cookie's value names.
    pub(crate) fn named(&self, token: &str) -> Option<u64> {
        self.by_token.get(token).copied()
    }
}

/// The number of an endpoint, the same on all nodes.
pub(crate) fn endpoint_id(at: &ServerAddress, address: Option<SocketAddr>) -> u64 {
    balance::hash_key(endpoint_text(at, address).as_bytes())
}

fn endpoint_text(at: &ServerAddress, address: Option<SocketAddr>) -> String {
    match address {
        Some(address) => format!("{at} {address}"),
        None => at.to_string(),
    }
}

fn cookie_token(
    sticky: &StickyConfig,
    origin: &str,
    at: &ServerAddress,
    address: Option<SocketAddr>,
) -> String {
    let key = sticky.secret.as_ref().map_or(SALT, |secret| secret.reveal());
    // HMAC accepts a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
    mac.update(origin.as_bytes());
    mac.update(b"\0");
    mac.update(endpoint_text(at, address).as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(&mac.finalize().into_bytes()[..TOKEN])
}

/// The value of the first cookie of this name, and the `Cookie` lines without cookies of this name: neither
/// the origin nor the cache may see them.
pub(crate) fn cookie_of(headers: &HeaderMap, name: &str) -> Option<(String, Vec<HeaderValue>)> {
    let is_ours = |pair: &str| pair.split_once('=').is_some_and(|(key, _)| key.trim() == name);
    let all = headers.get_all(header::COOKIE).iter();
    let texts: Vec<&str> = all.map(|value| value.to_str().unwrap_or_default()).collect();
    let found = texts.iter().flat_map(|text| text.split(';')).find(|pair| is_ours(pair));
    let value = found?.split_once('=')?.1.trim().to_owned();
    let kept: Vec<HeaderValue> = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| match value.to_str() {
            Ok(text) if text.split(';').any(is_ours) => {
                let kept: Vec<&str> = text.split(';').filter(|pair| !is_ours(pair)).map(str::trim).collect();
                HeaderValue::try_from(kept.join("; ")).ok().filter(|kept| !kept.is_empty())
            }
            _ => Some(value.clone()),
        })
        .collect();
    Some((value, kept))
}

/// The id of the session in a request's query.
pub(crate) fn named_session<'q>(sticky: &StickyConfig, query: Option<&'q str>) -> Option<&'q str> {
    engine_io::query_parameter(query?, sticky.query.as_deref()?)
}

/// `Set-Cookie` for a server's token, with the path `/`: a session is valid on all routes of the origin. The
/// token is of no use but to reach the same server again.
pub(crate) fn set_cookie(name: &str, token: &str, https: bool) -> Option<HeaderValue> {
    let secure = if https { "; Secure" } else { "" };
    HeaderValue::try_from(format!("{name}={token}; Path=/; HttpOnly; SameSite=Lax{secure}")).ok()
}

/// Returns true if shared caches may store an answer by its `Cache-Control`: it must not set a session cookie
/// then.
pub(crate) fn is_publicly_cacheable(headers: &HeaderMap) -> bool {
    let directives = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    directives.flat_map(|text| text.split(',')).any(|directive| {
        let name = directive.split('=').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case("public") || name.eq_ignore_ascii_case("s-maxage")
    })
}

/// The search for the id of a new session in an answer that passes.
#[derive(Debug)]
pub struct StickySniffer {
    listening: Option<SessionSniffer>,
    pub(crate) endpoint: u64,
}

impl StickySniffer {
    pub(crate) fn new(listening: SessionSniffer, endpoint: u64) -> Self {
        Self { listening: Some(listening), endpoint }
    }

    /// Returns true while the search is not over.
    pub fn listens(&self) -> bool {
        self.listening.is_some()
    }

    /// Processes a piece of the answer; returns the id once it is found.
    pub(crate) fn hear(&mut self, piece: Option<&[u8]>, end: bool) -> Option<String> {
        match self.listening.take()?.hear(piece, end) {
            SniffResult::More(listening) => self.listening = Some(listening),
            SniffResult::Session(session) => return Some(session),
            SniffResult::Nothing => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn sticky(secret: Option<&str>) -> StickyConfig {
        let secret = secret.map(Secret::new);
        StickyConfig { query: Some("sid".to_owned()), cookie: Some("app".to_owned()), secret }
    }

    fn server(port: u16) -> (ServerAddress, Vec<SocketAddr>) {
        let at = ServerAddress::Tcp { tls: false, host: "10.0.0.1".to_owned(), port };
        (at, vec![SocketAddr::from(([10, 0, 0, 1], port))])
    }

    fn endpoints(sticky: &StickyConfig, servers: &[(ServerAddress, Vec<SocketAddr>)]) -> StickyEndpoints {
        StickyEndpoints::new(sticky, "app", servers.iter().map(|(at, to)| (at, to.clone())))
    }

    #[test]
    fn a_token_names_the_same_server_wherever_it_stands() {
        let (one, two) = (server(1), server(2));
        let first = endpoints(&sticky(None), &[one.clone(), two.clone()]);
        let other = endpoints(&sticky(None), &[two.clone(), one.clone()]);
        let id = endpoint_id(&one.0, Some(one.1[0]));
        let token = first.token(id).unwrap();
        assert_eq!(other.token(id), Some(token));
        assert_eq!(first.at(first.named(token).unwrap()).unwrap().server, 0);
        assert_eq!(other.at(other.named(token).unwrap()).unwrap().server, 1);
        assert_eq!((token.len(), token.contains("10")), (16, false));
        assert_eq!(endpoints(&sticky(None), &[two]).named(token), None);
        let secret = endpoints(&sticky(Some("s")), &[one]);
        assert_ne!(secret.token(id), Some(token));
        assert_eq!(first.named(""), None);
    }

    #[test]
    fn a_name_with_several_addresses_has_several_endpoints() {
        let at = ServerAddress::Tcp { tls: false, host: "app".to_owned(), port: 1 };
        let to = vec![SocketAddr::from(([10, 0, 0, 1], 1)), SocketAddr::from(([10, 0, 0, 2], 1))];
        let all =
            endpoints(&sticky(None), &[(at.clone(), to.clone()), (ServerAddress::Unix("/a".into()), vec![])]);
        assert_eq!(all.by_id.len(), 3);
        for address in to {
            assert_eq!(
                all.at(endpoint_id(&at, Some(address))),
                Some(StickyEndpoint { server: 0, address: Some(address) })
            );
        }
        let socket = endpoint_id(&ServerAddress::Unix("/a".into()), None);
        assert_eq!(all.at(socket), Some(StickyEndpoint { server: 1, address: None }));
    }

    #[test]
    fn the_cookie_is_taken_out_and_the_others_stay() {
        let take = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::COOKIE, line.parse().unwrap());
            }
            let (value, kept) = cookie_of(&headers, "app")?;
            let kept: Vec<_> = kept.iter().map(|v| v.to_str().unwrap()).collect();
            Some((value, kept.join(" | ")))
        };
        let found = |value: &str, kept: &str| Some((value.to_owned(), kept.to_owned()));
        assert_eq!(take(&["a=1; app=x; b=2"]), found("x", "a=1; b=2"));
        assert_eq!(take(&["app=x"]), found("x", ""));
        assert_eq!(take(&["a=1", "app=x; app=y", "b=2"]), found("x", "a=1 | b=2"));
        assert_eq!(take(&["a=1;  b=2", "xapp=3; apps=4"]), None);
        assert_eq!(take(&[]), None);
    }

    #[test]
    fn the_cookie_says_where_and_how_it_may_go() {
        let cookie = |https| set_cookie("app", "t", https).unwrap().to_str().unwrap().to_owned();
        assert_eq!(cookie(false), "app=t; Path=/; HttpOnly; SameSite=Lax");
        assert_eq!(cookie(true), "app=t; Path=/; HttpOnly; SameSite=Lax; Secure");
    }

    #[test]
    fn what_others_may_keep_names_no_server() {
        let with = |value: &str| HeaderMap::from_iter([(header::CACHE_CONTROL, value.parse().unwrap())]);
        for value in ["public", "max-age=1, Public", "s-maxage=5"] {
            assert!(is_publicly_cacheable(&with(value)), "{value}");
        }
        for value in ["private", "no-store", "max-age=5", ""] {
            assert!(!is_publicly_cacheable(&with(value)), "{value}");
        }
        assert!(!is_publicly_cacheable(&HeaderMap::new()));
    }
}
