//! Pingora's peers for the servers of an origin: address, TLS, protocol, timeouts.
//!
//! Server certificates are always verified. Pingora 0.9.1 verifies nothing if the name is empty
//! (`connectors/tls/rustls`), and verifies another name if the first label holds an underscore. The
//! configuration has no such names; should one come here all the same, a reserved name is verified, which no
//! server has. An IP address is verified against the addresses in the certificate. `verify_cert` and
//! `verify_hostname` are never set.
//!
//! Pingora distinguishes pooled connections by address, name and the serial numbers of client certificates,
//! but not by authorities or protocol: the group key does that.

use crate::config::{OriginConfig, OriginTls, ServerAddress};
use pingora_core::{
    protocols::tls::ALPN,
    upstreams::peer::HttpPeer,
    utils::tls::{parse_x509, CertKey, WrappedX509},
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use xxhash_rust::xxh3::Xxh3;

/// The most streams on one HTTP/2 connection, if the server allows as many.
const STREAMS: usize = 128;
/// The interval of PING frames on an HTTP/2 connection.
const PING: Duration = Duration::from_secs(15);
/// A reserved name (RFC 6761, 6.4).
const INVALID_NAME: &str = "invalid";

/// The settings for reaching the servers of an origin.
#[derive(Debug)]
pub(crate) struct PeerSettings {
    ca: Option<Arc<[WrappedX509]>>,
    identity: Option<Arc<CertKey>>,
    server_name: Option<String>,
    http2: bool,
    /// The group key: only connections with the same one may be shared.
    group: u64,
    connect: Duration,
    read: Duration,
    idle: Duration,
    receive_buffer: Option<usize>,
}

impl PeerSettings {
    pub(crate) fn new(settings: &OriginConfig) -> Self {
        let tls = &settings.tls;
        let parsed = |der: &Vec<u8>| WrappedX509::new(der.clone(), parse_x509);
        Self {
            ca: (!tls.ca.is_empty()).then(|| tls.ca.iter().map(parsed).collect()),
            identity: tls
                .identity
                .as_ref()
                .map(|own| Arc::new(CertKey::new(own.chain.clone(), own.key.reveal().to_vec()))),
            server_name: tls.server_name.clone(),
            http2: settings.http2,
            group: connection_group(tls, settings.http2),
            connect: settings.connect_timeout,
            read: settings.read_timeout,
            idle: settings.idle_timeout,
            // Requests that share a connection have flow-control windows of their own.
            receive_buffer: settings.receive_buffer.filter(|_| !settings.http2).map(|size| size as usize),
        }
    }

    /// The group key: only connections with the same one may be shared.
    pub(crate) fn group(&self) -> u64 {
        self.group
    }

    /// The peer for a server, `to` being one of its addresses; `None` if the path of a UNIX socket isn't
    /// valid.
    pub(crate) fn peer(&self, at: &ServerAddress, to: Option<SocketAddr>) -> Option<HttpPeer> {
        let mut peer = match (at, to) {
            (ServerAddress::Tcp { tls, host, .. }, Some(to)) => {
                HttpPeer::new(to, *tls, self.verified_name(host))
            }
            (ServerAddress::Unix(path), _) => HttpPeer::new_uds(path.to_str()?, false, String::new()).ok()?,
            (ServerAddress::Tcp { .. }, None) => return None,
        };
        peer.group_key = self.group;
        let options = &mut peer.options;
        options.connection_timeout = Some(self.connect);
        options.total_connection_timeout = Some(self.connect);
        options.read_timeout = Some(self.read);
        options.write_timeout = Some(self.read);
        options.idle_timeout = Some(self.idle);
        options.tcp_recv_buf = self.receive_buffer;
        if peer.is_tls() {
            peer.options.ca.clone_from(&self.ca);
            peer.client_cert_key.clone_from(&self.identity);
        }
        if self.http2 {
            let options = &mut peer.options;
            options.alpn = if at.is_tls() { ALPN::H2H1 } else { ALPN::H2 };
            options.max_h2_streams = STREAMS;
            options.h2_ping_interval = Some(PING);
        }
        Some(peer)
    }

    /// The name for SNI, and for the verification of the certificate. Never empty.
    fn verified_name(&self, host: &str) -> String {
        let name = self.server_name.as_deref().unwrap_or(host);
        let first = name.split('.').next().unwrap_or_default();
        if first.is_empty() || first.contains('_') { INVALID_NAME } else { name }.to_owned()
    }
}

/// The hash of the settings that shared connections must have in common. Lengths are included, so that
/// different settings have different bytes.
fn connection_group(tls: &OriginTls, http2: bool) -> u64 {
    let mut hash = Xxh3::new();
    let mut put = |part: &[u8]| {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    put(&[u8::from(http2)]);
    put(&tls.ca.len().to_le_bytes());
    tls.ca.iter().for_each(|der| put(der));
    if let Some(own) = &tls.identity {
        own.chain.iter().for_each(|der| put(der));
        put(own.key.reveal());
    }
    put(tls.server_name.as_deref().unwrap_or_default().as_bytes());
    hash.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServerEntry;

    use pingora_core::upstreams::peer::Peer;
    use proptest::prelude::*;

    fn origin() -> OriginConfig {
        OriginConfig::with_defaults("app".parse().unwrap(), vec![ServerEntry::at(true, "app", 443)])
    }

    fn tls(host: &str) -> ServerAddress {
        ServerAddress::Tcp { tls: true, host: host.to_owned(), port: 443 }
    }

    const TO: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 443);

    proptest! {
        /// Whatever the name is: it is not empty, and it is verified.
        #[test]
        fn every_tls_server_is_verified(host in ".{0,12}", name in proptest::option::of(".{0,12}"), http2: bool) {
            let mut origin = origin();
            origin.http2 = http2;
            origin.tls.server_name = name.clone();
            let peer = PeerSettings::new(&origin).peer(&tls(&host), Some(TO)).expect("has an address");
            prop_assert!(peer.is_tls() && !peer.sni().is_empty());
            prop_assert!(peer.verify_cert() && peer.verify_hostname());
            prop_assert!(peer.options.alternative_cn.is_none());
            let wanted = name.unwrap_or(host);
            prop_assert!(peer.sni() == wanted || peer.sni() == INVALID_NAME);
        }
    }

    #[test]
    fn names_that_would_be_verified_as_others_are_nobodys() {
        let reach = PeerSettings::new(&origin());
        for host in ["", "_", "a_b.example.com", ".example.com"] {
            assert_eq!(reach.verified_name(host), INVALID_NAME, "{host:?}");
        }
        for host in ["a", "a.b_c.com", "127.0.0.1", "::1"] {
            assert_eq!(reach.verified_name(host), host);
        }
    }

    #[test]
    fn settings_that_differ_share_no_connections() {
        let der = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let (one, two) = (der("a"), der("b"));
        let own = |key: &rcgen::CertifiedKey<rcgen::KeyPair>| crate::config::TlsIdentity {
            chain: vec![key.cert.der().to_vec()],
            key: crate::config::Secret::new(key.signing_key.serialize_der()),
        };
        let plain = OriginTls::default();
        let all = [
            (plain.clone(), false),
            (plain.clone(), true),
            (OriginTls { ca: vec![one.cert.der().to_vec()], ..plain.clone() }, false),
            (OriginTls { ca: vec![two.cert.der().to_vec()], ..plain.clone() }, false),
            (OriginTls { identity: Some(own(&one)), ..plain.clone() }, false),
            (OriginTls { identity: Some(own(&two)), ..plain.clone() }, false),
            (OriginTls { server_name: Some("b".to_owned()), ..plain.clone() }, false),
        ];
        let hashes: std::collections::BTreeSet<u64> = all
            .iter()
            .map(|(tls_settings, http2)| {
                let origin = OriginConfig { tls: tls_settings.clone(), http2: *http2, ..origin() };
                PeerSettings::new(&origin).peer(&tls("app"), Some(TO)).unwrap().reuse_hash()
            })
            .collect();
        assert_eq!(hashes.len(), all.len());
    }

    #[test]
    fn a_socket_is_reached_by_its_path() {
        let peer =
            PeerSettings::new(&origin()).peer(&ServerAddress::Unix("/run/app.sock".into()), None).unwrap();
        assert!(!peer.is_tls());
        assert_eq!(peer.address().as_unix().unwrap().as_pathname().unwrap().to_str(), Some("/run/app.sock"));
        assert!(PeerSettings::new(&origin()).peer(&tls("app"), None).is_none());
    }
}
