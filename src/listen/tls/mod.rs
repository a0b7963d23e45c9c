//! TLS: the certificates of a listener, the reloading of their files, and the handshake.
//!
//! TLS 1.2 and 1.3 of rustls, with aws-lc-rs. Sessions are resumed by tickets, whose keys change every 6
//! hours and never leave the process, or, for TLS 1.2 clients without tickets, from a cache. No early data: a
//! request in it could be replayed (RFC 8446, 8).
//!
//! Files are checked every few seconds. If any of them has changed, all are read: if one can't be used, the
//! previous ones stay in use. Open connections are not affected.

pub(crate) mod resumption;
pub(crate) mod sni;
use crate::{
    certificate::{self, CertificateError, CertificatePart, ServerCertificate, UnusableFile},
    config::{file_stamp, ClientCertificates, FileStamp, ListenerTls},
    telemetry::{
        labels::{CertificateReload, Handshake},
        metrics::Metrics,
    },
};
use resumption::Resumption;
use sni::SniCertificates;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{
    server::{danger::ClientCertVerifier, NoClientAuth, WebPkiClientVerifier},
    version::{TLS12, TLS13},
    AlertDescription, Error as TlsError, HandshakeKind, PeerIncompatible, ServerConfig,
};
use std::{io, path::PathBuf, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{server::TlsStream, TlsAcceptor};

/// The TLS state of a listener.
pub(crate) struct ReloadingTls {
    /// The index of the listener, for metrics and the log.
    listener: usize,
    settings: ListenerTls,
    http2: bool,
    now: ArcSwap<ServerConfig>,
    /// The stamps of the files when they were read last, and the resumption state.
    state: Mutex<TlsState>,
    metrics: Arc<Metrics>,
}

struct TlsState {
    files: Vec<FileStamp>,
    resumption: Resumption,
}

impl ReloadingTls {
    /// Reads the files that it needs.
    ///
    /// # Errors
    /// The first file that can't be used.
    pub(crate) fn new(
        listener: usize,
        settings: ListenerTls,
        http2: bool,
        metrics: Arc<Metrics>,
    ) -> Result<Self, CertificateError> {
        let files = file_stamps(&settings);
        let (config, resumption, expiries) = build_config(&settings, http2, None)?;
        metrics.certificates(listener, &expiries);
        Ok(Self {
            listener,
            settings,
            http2,
            now: ArcSwap::from_pointee(config),
            state: Mutex::new(TlsState { files, resumption }),
            metrics,
        })
    }

    /// Returns true if it was made from these settings.
    pub(crate) fn is(&self, settings: &ListenerTls, http2: bool) -> bool {
        self.settings == *settings && self.http2 == http2
    }

    /// Reads the files again if one of them has changed. Blocks.
    pub(crate) fn look(&self) {
        if file_stamps(&self.settings) != self.state.lock().files {
            self.reload();
        }
    }

    /// Reads the files again. If one can't be used, nothing changes. Blocks. Returns true if the files are in
    /// use.
    pub(crate) fn reload(&self) -> bool {
        let mut state = self.state.lock();
        // Taken before the files are read, so that a change during the read is noticed the next time.
        state.files = file_stamps(&self.settings);
        let listener = self.listener;
        match build_config(&self.settings, self.http2, Some(&state.resumption)) {
            Ok((config, resumption, expiries)) => {
                self.now.store(Arc::new(config));
                state.resumption = resumption;
                self.metrics.certificates(listener, &expiries);
                self.metrics.certificates_reloaded(CertificateReload::Applied);
                tracing::info!(listener, "the certificates were reloaded");
                true
            }
            Err(error) => {
                self.metrics.certificates_reloaded(CertificateReload::Refused);
                tracing::error!(%error, listener, "the certificates were not reloaded: the previous ones stay in use");
                false
            }
        }
    }

    /// Performs the handshake with a client.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Result<Box<TlsStream<TcpStream>>, Handshake> {
        let acceptor = TlsAcceptor::from(self.now.load_full());
        match acceptor.accept(stream).await {
            Ok(stream) => {
                let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                self.metrics.handshake(if resumed { Handshake::Resumed } else { Handshake::Full });
                Ok(Box::new(stream))
            }
            Err(error) => {
                tracing::debug!(%error, listener = self.listener, "a TLS handshake failed");
                Err(handshake_failure(&error))
            }
        }
    }
}

/// Builds a configuration for connections, the resumption state, and the expiry of the certificates.
fn build_config(
    settings: &ListenerTls,
    http2: bool,
    before: Option<&Resumption>,
) -> Result<(ServerConfig, Resumption, Vec<i64>), CertificateError> {
    let all: Result<Vec<_>, _> = settings.certificates.iter().map(ServerCertificate::load).collect();
    let certificates = SniCertificates::new(all?);
    let expiries = certificates.expiries();
    let (verifier, authorities) = match &settings.clients {
        Some(clients) => {
            client_verifier(clients).map(|(verifier, authorities)| (verifier, Some(authorities)))?
        }
        None => (Arc::new(NoClientAuth) as Arc<dyn ClientCertVerifier>, None),
    };
    let resumption = match before.filter(|before| before.is_for(authorities.as_deref())) {
        Some(before) => before.clone(),
        None => Resumption::new(authorities).map_err(|error| unusable_config(settings, &error))?,
    };
    let builder = ServerConfig::builder_with_provider(certificate::crypto_provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| unusable_config(settings, &error))?;
    let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(certificates));
    resumption.apply(&mut config);
    // The first protocol that the client offers as well is used (RFC 7301, 3.2).
    let protocols = [&b"h2"[..], b"http/1.1", b"http/1.0"];
    config.alpn_protocols = protocols.iter().skip(usize::from(!http2)).map(|name| name.to_vec()).collect();
    Ok((config, resumption, expiries))
}

/// The verifier of clients' certificates, and bytes that identify its authorities.
fn client_verifier(
    clients: &ClientCertificates,
) -> Result<(Arc<dyn ClientCertVerifier>, Vec<u8>), CertificateError> {
    let roots = certificate::read_authorities(&clients.ca)?;
    let mut known = vec![u8::from(clients.required)];
    known.extend(roots.roots.iter().flat_map(|root| root.subject_public_key_info.as_ref().iter().copied()));
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), certificate::crypto_provider());
    let builder = if clients.required { builder } else { builder.allow_unauthenticated() };
    let fault = |error: &dyn std::fmt::Display| CertificateError {
        part: CertificatePart::Ca,
        path: clients.ca.clone(),
        fault: UnusableFile::Damaged(error.to_string()),
    };
    builder.build().map(|verifier| (verifier, known)).map_err(|error| fault(&error))
}

/// An error that no file causes: no randomness, no protocol version.
fn unusable_config(settings: &ListenerTls, error: &TlsError) -> CertificateError {
    let path = settings.certificates.first().map_or_else(PathBuf::new, |files| files.cert.clone());
    CertificateError { part: CertificatePart::Cert, path, fault: UnusableFile::Damaged(error.to_string()) }
}

fn file_stamps(settings: &ListenerTls) -> Vec<FileStamp> {
    let certificates = settings.certificates.iter();
    let files = certificates.flat_map(|files| [Some(&files.cert), Some(&files.key), files.ocsp.as_ref()]);
    files
        .chain([settings.clients.as_ref().map(|clients| &clients.ca)])
        .flatten()
        .map(|path| file_stamp(path))
        .collect()
}

/// The reason for a failed handshake.
fn handshake_failure(error: &io::Error) -> Handshake {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) {
        Some(error) => tls_failure(error),
        None => Handshake::Closed,
    }
}

fn tls_failure(error: &TlsError) -> Handshake {
    match error {
        TlsError::InvalidMessage(_) => Handshake::NotTls,
        TlsError::NoApplicationProtocol => Handshake::Protocol,
        TlsError::NoCertificatesPresented | TlsError::InvalidCertificate(_) => Handshake::ClientCertificate,
        TlsError::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => Handshake::Version,
        TlsError::PeerIncompatible(_) => Handshake::NothingInCommon,
        TlsError::AlertReceived(AlertDescription::CloseNotify | AlertDescription::UserCanceled) => {
            Handshake::Closed
        }
        TlsError::AlertReceived(_) => Handshake::Refused,
        _ => Handshake::Broken,
    }
}
