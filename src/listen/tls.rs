//! TLS: a listener's certificates in use, their files watched, and the handshake.
//!
//! TLS 1.2 and 1.3 as rustls has them, with aws-lc-rs. Sessions are taken up again by tickets, whose keys change every
//! 6 hours and never leave the process, or, by clients of TLS 1.2 without tickets, from memory. No early data: a
//! request in it could be sent twice (RFC 8446, 8).
//!
//! Files are looked at every few seconds. What has changed is read as a whole: if any of it can't be used, what was
//! there before goes on. Connections that are open keep what they began with.

use super::{certificates::Certificates, resumption::Resumption};
use crate::{
    certificate::{self, Certificate, CertificateError, Part, Unusable},
    config::{ClientCertificates, ListenerTls},
    telemetry::{
        labels::{CertificateReload, Handshake},
        metrics::Metrics,
    },
};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{
    server::{danger::ClientCertVerifier, NoClientAuth, WebPkiClientVerifier},
    version::{TLS12, TLS13},
    AlertDescription, Error as TlsError, HandshakeKind, PeerIncompatible, ServerConfig,
};
use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::net::TcpStream;
use tokio_rustls::{server::TlsStream, TlsAcceptor};

/// TLS on a listener.
pub(super) struct Tls {
    /// The listener's number, for metrics and the log.
    listener: usize,
    settings: ListenerTls,
    http2: bool,
    now: ArcSwap<ServerConfig>,
    /// As the files were when they were read last, and what resumes sessions.
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

struct State {
    files: Vec<Stamp>,
    resumption: Resumption,
}

/// Tells one state of a file from another.
type Stamp = Option<(u64, i64, i64, u64)>;

impl Tls {
    /// Reads what it needs.
    ///
    /// # Errors
    /// The first file that can't be used.
    pub(super) fn new(
        listener: usize,
        settings: ListenerTls,
        http2: bool,
        metrics: Arc<Metrics>,
    ) -> Result<Self, CertificateError> {
        let files = stamps(&settings);
        let (config, resumption, expiries) = assemble(&settings, http2, None)?;
        metrics.certificates(listener, &expiries);
        Ok(Self {
            listener,
            settings,
            http2,
            now: ArcSwap::from_pointee(config),
            state: Mutex::new(State { files, resumption }),
            metrics,
        })
    }

    /// Whether it is what these settings ask for.
    pub(super) fn is(&self, settings: &ListenerTls, http2: bool) -> bool {
        self.settings == *settings && self.http2 == http2
    }

    /// Reads the files again if one of them has changed. Blocks.
    pub(super) fn look(&self) {
        if stamps(&self.settings) != self.state.lock().files {
            self.reload();
        }
    }

    /// Reads the files again. What can't be used changes nothing. Blocks. Returns whether they are in use.
    pub(super) fn reload(&self) -> bool {
        let mut state = self.state.lock();
        // Before they are read: what changes meanwhile is seen the next time.
        state.files = stamps(&self.settings);
        let listener = self.listener;
        match assemble(&self.settings, self.http2, Some(&state.resumption)) {
            Ok((config, resumption, expiries)) => {
                self.now.store(Arc::new(config));
                state.resumption = resumption;
                self.metrics.certificates(listener, &expiries);
                self.metrics.certificates_reloaded(CertificateReload::Applied);
                tracing::info!(listener, "the certificates were read again");
                true
            }
            Err(error) => {
                self.metrics.certificates_reloaded(CertificateReload::Refused);
                tracing::error!(%error, listener, "the certificates were not read again: those from before stay");
                false
            }
        }
    }

    /// The handshake with a client.
    pub(super) async fn accept(&self, stream: TcpStream) -> Result<Box<TlsStream<TcpStream>>, Handshake> {
        let acceptor = TlsAcceptor::from(self.now.load_full());
        match acceptor.accept(stream).await {
            Ok(stream) => {
                let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                self.metrics.handshake(if resumed { Handshake::Resumed } else { Handshake::Full });
                Ok(Box::new(stream))
            }
            Err(error) => {
                tracing::debug!(%error, listener = self.listener, "a TLS handshake failed");
                Err(why(&error))
            }
        }
    }
}

/// A configuration for connections, what resumes their sessions, and when the certificates expire.
fn assemble(
    settings: &ListenerTls,
    http2: bool,
    before: Option<&Resumption>,
) -> Result<(ServerConfig, Resumption, Vec<i64>), CertificateError> {
    let all: Result<Vec<_>, _> = settings.certificates.iter().map(Certificate::load).collect();
    let certificates = Certificates::new(all?);
    let expiries = certificates.expiries();
    let (verifier, authorities) = match &settings.clients {
        Some(clients) => verifier(clients).map(|(verifier, authorities)| (verifier, Some(authorities)))?,
        None => (Arc::new(NoClientAuth) as Arc<dyn ClientCertVerifier>, None),
    };
    let resumption = match before.filter(|before| before.is_for(authorities.as_deref())) {
        Some(before) => before.clone(),
        None => Resumption::new(authorities).map_err(|error| unusable(settings, &error))?,
    };
    let builder = ServerConfig::builder_with_provider(certificate::provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| unusable(settings, &error))?;
    let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(certificates));
    resumption.apply(&mut config);
    // The first one that a client offers as well (RFC 7301, 3.2).
    let protocols = [&b"h2"[..], b"http/1.1", b"http/1.0"];
    config.alpn_protocols = protocols.iter().skip(usize::from(!http2)).map(|name| name.to_vec()).collect();
    Ok((config, resumption, expiries))
}

/// Who verifies clients' certificates, and what tells its authorities from others.
fn verifier(
    clients: &ClientCertificates,
) -> Result<(Arc<dyn ClientCertVerifier>, Vec<u8>), CertificateError> {
    let roots = certificate::authorities(&clients.ca)?;
    let mut known = vec![u8::from(clients.required)];
    known.extend(roots.roots.iter().flat_map(|root| root.subject_public_key_info.as_ref().iter().copied()));
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), certificate::provider());
    let builder = if clients.required { builder } else { builder.allow_unauthenticated() };
    let fault = |error: &dyn std::fmt::Display| CertificateError {
        part: Part::Ca,
        path: clients.ca.clone(),
        fault: Unusable::Damaged(error.to_string()),
    };
    builder.build().map(|verifier| (verifier, known)).map_err(|error| fault(&error))
}

/// What fails where no file is at fault: no randomness, no protocol.
fn unusable(settings: &ListenerTls, error: &TlsError) -> CertificateError {
    let path = settings.certificates.first().map_or_else(PathBuf::new, |files| files.cert.clone());
    CertificateError { part: Part::Cert, path, fault: Unusable::Damaged(error.to_string()) }
}

fn stamps(settings: &ListenerTls) -> Vec<Stamp> {
    let certificates = settings.certificates.iter();
    let files = certificates.flat_map(|files| [Some(&files.cert), Some(&files.key), files.ocsp.as_ref()]);
    files
        .chain([settings.clients.as_ref().map(|clients| &clients.ca)])
        .flatten()
        .map(|path| stamp(path))
        .collect()
}

/// Follows links: a file may be swapped by swapping a directory that it lies in.
fn stamp(path: &Path) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
}

/// Why a handshake failed.
fn why(error: &io::Error) -> Handshake {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) {
        Some(error) => why_tls(error),
        None => Handshake::Closed,
    }
}

fn why_tls(error: &TlsError) -> Handshake {
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
