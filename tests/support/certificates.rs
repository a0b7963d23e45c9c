//! Certificates of the tests: an authority, servers and clients below it.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::TempDir;
use tokio_rustls::{
    rustls::{
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
        server::WebPkiClientVerifier,
        RootCertStore, ServerConfig,
    },
    TlsAcceptor,
};

/// An authority; its certificate and those that it makes lie in a directory of their own.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

/// A certificate and its key.
pub struct Certificate {
    der: CertificateDer<'static>,
    key: KeyPair,
    /// Its PEM file.
    pub cert: PathBuf,
    /// The PEM file of its key.
    pub key_file: PathBuf,
}

impl Authority {
    /// One that nobody knows yet.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { issuer, dir: TempDir::new().unwrap() };
        std::fs::write(authority.ca(), authority.issuer.pem()).unwrap();
        authority
    }

    /// The PEM file that makes it known.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate for these names and addresses.
    pub fn certify(&self, names: &[&str]) -> Certificate {
        let params =
            CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.issuer).unwrap();
        Certificate::written(made, key, self.dir.path())
    }

    /// What a server takes who speaks TLS with this certificate, and asks its clients for one of this authority where
    /// `clients` says so.
    pub fn accept(&self, certificate: &Certificate, http2: bool, clients: bool) -> TlsAcceptor {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.unwrap();
        let builder = match clients {
            false => builder.with_no_client_auth(),
            true => {
                let mut roots = RootCertStore::empty();
                roots.add(self.issuer.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(certificate.key.serialize_der()));
        let mut config = builder.with_single_cert(vec![certificate.der.clone()], key).unwrap();
        if http2 {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        TlsAcceptor::from(Arc::new(config))
    }
}

impl Certificate {
    fn written(made: rcgen::Certificate, key: KeyPair, dir: &Path) -> Self {
        let serial = super::hex(&super::sha256(made.der()).as_bytes()[..8]);
        let (cert, key_file) = (dir.join(format!("{serial}.pem")), dir.join(format!("{serial}.key")));
        std::fs::write(&cert, made.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        Self { der: made.der().clone(), key, cert, key_file }
    }
}
