//! The runtime state of the listeners, built from a configuration before it is used.
//!
//! A new configuration has new state; open connections keep theirs to their end. Unchanged parts
//! (certificates, ticket keys) are carried over.

use super::tls::ReloadingTls;
use crate::{
    certificate::CertificateError,
    config::{Config, ListenerConfig},
    telemetry::metrics::Metrics,
};

use std::{net::IpAddr, sync::Arc};

/// Returns true if PROXY headers of this address are trusted.
pub(crate) type ProxyTrust = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// The listeners of one configuration, in its order.
pub struct ListenerSet(pub(crate) Vec<Arc<BoundListener>>);

/// One listener.
pub(crate) struct BoundListener {
    pub(crate) tls: Option<Arc<ReloadingTls>>,
    pub(crate) http2: bool,
    /// True if clients are asked for certificates.
    pub(crate) asks: bool,
    /// `Some` if each connection begins with a PROXY header; its content says whose is trusted, `None`:
    /// everyone's.
    pub(crate) proxied: Option<Option<ProxyTrust>>,
}

impl ListenerSet {
    /// The listeners of a configuration. `before` is the current state; `trusts` decides whose PROXY header
    /// is trusted, unless everyone's is.
    ///
    /// # Errors
    /// The first file that can't be used.
    pub fn new(
        config: &Config,
        before: Option<&Self>,
        trusts: Option<&ProxyTrust>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, CertificateError> {
        let way = |(number, listener): (usize, &ListenerConfig)| {
            let before = before.and_then(|before| before.0.get(number)?.tls.clone());
            let tls = listener_tls(number, listener, before, metrics)?;
            let proxied = listener.proxy_protocol.then(|| trusts.cloned());
            let asks = listener.tls.as_ref().is_some_and(|tls| tls.clients.is_some());
            Ok(Arc::new(BoundListener { tls, http2: listener.http2, asks, proxied }))
        };
        config.listeners.iter().enumerate().map(way).collect::<Result<_, _>>().map(Self)
    }

    /// Reads all certificates again, even if their files have not changed. Blocks.
    pub(crate) fn reload(&self) {
        self.0.iter().filter_map(|way| way.tls.as_ref()).for_each(|tls| {
            tls.reload();
        });
    }

    /// Reads the certificates whose files have changed. Blocks.
    pub(crate) fn look(&self) {
        self.0.iter().filter_map(|way| way.tls.as_ref()).for_each(|tls| tls.look());
    }
}

fn listener_tls(
    number: usize,
    listener: &ListenerConfig,
    before: Option<Arc<ReloadingTls>>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<ReloadingTls>>, CertificateError> {
    let Some(settings) = &listener.tls else {
        metrics.certificates(number, &[]);
        return Ok(None);
    };
    match before.filter(|before| before.is(settings, listener.http2)) {
        Some(before) => Ok(Some(before)),
        None => ReloadingTls::new(number, settings.clone(), listener.http2, metrics.clone())
            .map(|tls| Some(Arc::new(tls))),
    }
}
