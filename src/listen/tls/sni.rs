//! The choice of a certificate: the one for the host that the client names (SNI, RFC 6066, 3), else the
//! first.
//!
//! An exact name takes precedence over a wildcard; `*.` matches one label (RFC 6125, 6.4.3). If several
//! certificates have the name (RSA and ECDSA), the first with a signature scheme that the client supports is
//! used.

use crate::certificate::ServerCertificate;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    SignatureScheme,
};
use std::{collections::HashMap, sync::Arc};

/// The certificates of a listener.
#[derive(Debug)]
pub(crate) struct SniCertificates {
    all: Vec<ServerCertificate>,
    /// The certificates by name, in lower case; a wildcard is stored as the part after its `*`.
    by_name: HashMap<String, Vec<usize>>,
}

impl SniCertificates {
    /// At least one; the first is used for clients that name no known host.
    pub(crate) fn new(all: Vec<ServerCertificate>) -> Self {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, certificate) in all.iter().enumerate() {
            for name in &certificate.names {
                let key = name.strip_prefix('*').unwrap_or(name);
                by_name.entry(key.to_owned()).or_default().push(index);
            }
        }
        Self { all, by_name }
    }

    /// The expiry of each certificate, in seconds since 1970.
    pub(crate) fn expiries(&self) -> Vec<i64> {
        self.all.iter().map(|certificate| certificate.not_after).collect()
    }

    /// The certificates for a host; at least the first of all.
    fn for_host(&self, host: Option<&str>) -> &[usize] {
        const FIRST: &[usize] = &[0];
        let Some(host) = host else { return FIRST };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        // A name never begins with a dot, and a wildcard is stored with its dot, so that they can't be
        // confused.
        let wildcard = || self.by_name.get(host.get(host.find('.').filter(|dot| *dot > 0)?..)?);
        let exact = self.by_name.get(&host).filter(|_| !host.starts_with('.'));
        exact.or_else(wildcard).map_or(FIRST, Vec::as_slice)
    }

    fn choose(&self, host: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let candidates =
            || self.for_host(host).iter().filter_map(|index| self.all.get(*index)).map(|c| &c.key);
        let understood = candidates().find(|key| key.key.choose_scheme(schemes).is_some());
        understood.or_else(|| candidates().next()).cloned()
    }
}

impl ResolvesServerCert for SniCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::CertificatePaths;

    use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
    use SignatureScheme as Scheme;

    fn certificate(names: &[&str], algorithm: &'static SignatureAlgorithm) -> ServerCertificate {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("both.pem");
        let key = KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let cert = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        std::fs::write(&path, cert.pem() + &key.serialize_pem()).unwrap();
        ServerCertificate::load(&CertificatePaths { cert: path.clone(), key: path, ocsp: None }).unwrap()
    }

    fn certificates(names: &[&[&str]]) -> SniCertificates {
        SniCertificates::new(names.iter().map(|names| certificate(names, &PKCS_ECDSA_P256_SHA256)).collect())
    }

    #[test]
    fn the_nearest_name_wins() {
        let shown = certificates(&[
            &["default.example"],
            &["*.a.example"],
            &["x.a.example", "A.example"],
            &["*.x.a.example"],
        ]);
        for (host, index) in [
            ("default.example", 0),
            ("a.example", 2),
            ("A.EXAMPLE.", 2),
            ("x.a.example", 2),
            ("y.a.example", 1),
            ("Y.A.example", 1),
            ("y.x.a.example", 3),
            // Exactly one label.
            ("z.y.a.example", 0),
            (".a.example", 0),
            ("*.a.example", 1),
            ("other.example", 0),
            ("example", 0),
            ("", 0),
            (".", 0),
        ] {
            assert_eq!(shown.for_host(Some(host)), [index], "{host}");
        }
        assert_eq!(shown.for_host(None), [0]);
    }

    #[test]
    fn of_two_for_one_host_the_one_that_the_client_understands() {
        let shown = SniCertificates::new(vec![
            certificate(&["other"], &PKCS_ECDSA_P256_SHA256),
            certificate(&["a"], &PKCS_ED25519),
            certificate(&["a"], &PKCS_ECDSA_P256_SHA256),
        ]);
        let index = |host: &str, schemes: &[Scheme]| {
            let chosen = shown.choose(Some(host), schemes).unwrap();
            shown.all.iter().position(|c| Arc::ptr_eq(&c.key, &chosen)).unwrap()
        };
        assert_eq!(index("a", &[Scheme::ED25519, Scheme::ECDSA_NISTP256_SHA256]), 1);
        assert_eq!(index("a", &[Scheme::ECDSA_NISTP256_SHA256]), 2);
        // A certificate of another host is never chosen because of its signature scheme.
        assert_eq!(index("a", &[Scheme::RSA_PSS_SHA256]), 1);
    }
}
