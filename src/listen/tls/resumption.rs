//! Resumption of TLS sessions: tickets, or a session cache for TLS 1.2 clients without tickets.
//!
//! A resumed session is not verified again: the client's certificate is the one of the first handshake. So a
//! session expires with the certificates of its client: after that, the client has to present one again.

use crate::clock::wall_ms;
use rustls::{
    crypto::aws_lc_rs::Ticketer,
    server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions},
    Error, ServerConfig,
};
use std::{fmt, sync::Arc};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

/// The most sessions that are stored for clients without tickets.
const MAX_SESSIONS: usize = 4_096;

/// The session tickets and stored sessions of a listener.
#[derive(Clone)]
pub(crate) struct Resumption {
    ticketer: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
    /// The authorities of clients' certificates; `None` if clients are not asked for any.
    authorities: Option<Vec<u8>>,
}

impl Resumption {
    /// New keys and an empty session cache.
    ///
    /// # Errors
    /// If there is no randomness.
    pub(crate) fn new(authorities: Option<Vec<u8>>) -> Result<Self, Error> {
        let (ticketer, sessions) = (Ticketer::new()?, ServerSessionMemoryCache::new(MAX_SESSIONS));
        Ok(match authorities {
            None => Self { ticketer, sessions, authorities },
            Some(_) => {
                let sessions = Arc::new(UnexpiredSessions(sessions as Arc<dyn StoresServerSessions>));
                Self { ticketer: Arc::new(UnexpiredSessions(ticketer)), sessions, authorities }
            }
        })
    }

    /// Returns true if its sessions were begun with these authorities.
    pub(crate) fn is_for(&self, authorities: Option<&[u8]>) -> bool {
        self.authorities.as_deref() == authorities
    }

    /// Enables resumption in a configuration.
    pub(crate) fn apply(&self, config: &mut ServerConfig) {
        config.ticketer = self.ticketer.clone();
        config.session_storage = self.sessions.clone();
    }
}

/// Returns no session of a client whose certificates have expired.
struct UnexpiredSessions<T>(T);

impl<T> fmt::Debug for UnexpiredSessions<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unexpired(…)")
    }
}

impl ProducesTickets for UnexpiredSessions<Arc<dyn ProducesTickets>> {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(cipher).filter(|session| is_valid_session(session, unix_seconds()))
    }
}

impl StoresServerSessions for UnexpiredSessions<Arc<dyn StoresServerSessions>> {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.0.put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key).filter(|session| is_valid_session(session, unix_seconds()))
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.take(key).filter(|session| is_valid_session(session, unix_seconds()))
    }

    fn can_cache(&self) -> bool {
        self.0.can_cache()
    }
}

fn unix_seconds() -> i64 {
    i64::try_from(wall_ms() / 1_000).unwrap_or(i64::MAX)
}

/// Returns true if all certificates of a session, as rustls serialises it, are valid until `now`, in seconds
/// since 1970. A session that can't be parsed is not resumed: a full handshake follows.
fn is_valid_session(session: &[u8], now: i64) -> bool {
    let valid = |certificate: &[u8]| {
        let parsed = X509Certificate::from_der(certificate);
        parsed.is_ok_and(|(_, parsed)| parsed.validity().not_after.timestamp() >= now)
    };
    session_chain(session).is_some_and(|chain| chain.into_iter().all(valid))
}

/// The client's certificates in a session as rustls 0.23 serialises it (its `ServerSessionValue`); empty if
/// it presented none.
fn session_chain(session: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = session;
    if take_bytes(&mut rest, 1)? == [1] {
        // The host name of the client (SNI).
        take_prefixed(&mut rest, 1)?;
    }
    // The version, the cipher suite, the secret, and the flag for an extended one.
    take_bytes(&mut rest, 4)?;
    take_prefixed(&mut rest, 1)?;
    take_bytes(&mut rest, 1)?;
    let mut certificates = match take_bytes(&mut rest, 1)? {
        [1] => take_prefixed(&mut rest, 3)?,
        _ => return Some(Vec::new()),
    };
    let mut chain = Vec::new();
    while !certificates.is_empty() {
        chain.push(take_prefixed(&mut certificates, 3)?);
    }
    Some(chain)
}

/// Bytes with a length in front, which has `width` bytes itself.
fn take_prefixed<'a>(rest: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let length = take_bytes(rest, width)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    take_bytes(rest, length)
}

fn take_bytes<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(bytes)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{date_time_ymd, CertificateParams, KeyPair};
    use std::slice;

    fn certificate(year: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["a".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn behind_length(width: usize, bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        [&length[4 - width..], bytes].concat()
    }

    fn session(name: Option<&str>, chain: Option<&[Vec<u8>]>) -> Vec<u8> {
        let name = name.map_or(vec![0], |name| [vec![1], behind_length(1, name.as_bytes())].concat());
        let chain = chain.map_or(vec![0], |chain| {
            let all: Vec<u8> = chain.iter().flat_map(|one| behind_length(3, one)).collect();
            [vec![1], behind_length(3, &all)].concat()
        });
        let fixed = [&[3, 4, 0x13, 1][..], &behind_length(1, &[7; 48]), &[1]].concat();
        [name, fixed, chain, vec![0; 15]].concat()
    }

    #[test]
    fn a_session_ends_with_the_first_of_its_certificates() {
        let (now, soon) = (1_735_689_600, certificate(2030));
        let past = certificate(2024);
        for name in [None, Some("dash.example")] {
            assert!(is_valid_session(&session(name, None), now), "nobody has shown any");
            assert!(is_valid_session(&session(name, Some(slice::from_ref(&soon))), now));
            assert!(!is_valid_session(&session(name, Some(slice::from_ref(&past))), now));
            assert!(!is_valid_session(&session(name, Some(&[soon.clone(), past.clone()])), now));
            assert!(!is_valid_session(&session(name, Some(&[b"no certificate".to_vec()])), now));
        }
        let whole = session(Some("a"), Some(&[soon]));
        for length in 0..200 {
            assert!(!is_valid_session(&whole[..length], now), "cut short at {length}");
        }
    }
}
