//! The ways in: what each listener needs to take a connection, made of the configuration before anything goes by it.
//!
//! Another configuration makes other ways; connections that are open keep theirs to their end. What has not changed
//! (certificates, the keys of tickets) goes on.

use super::tls::Tls;
use crate::{
    certificate::CertificateError,
    config::{Config, Listener},
    telemetry::metrics::Metrics,
};
use std::{net::IpAddr, sync::Arc};

/// Who may say for whom a connection is.
pub type Trusts = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// The ways in of one configuration, in its order.
pub struct Ways(pub(super) Vec<Arc<Way>>);

/// One way in.
pub(super) struct Way {
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) http2: bool,
    /// Whether clients are asked for certificates.
    pub(super) asks: bool,
    /// Each connection says for whom it is, and whose word counts; none: everyone's.
    pub(super) proxied: Option<Option<Trusts>>,
}

impl Ways {
    /// The ways of a configuration. `before` is what stands; `trusts` says whose PROXY header counts, where not
    /// everyone's does.
    ///
    /// # Errors
    /// The first file that can't be used.
    pub fn new(
        config: &Config,
        before: Option<&Self>,
        trusts: Option<&Trusts>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, CertificateError> {
        let way = |(number, listener): (usize, &Listener)| {
            let before = before.and_then(|before| before.0.get(number)?.tls.clone());
            let tls = tls(number, listener, before, metrics)?;
            let proxied = listener.proxy_protocol.then(|| trusts.cloned());
            let asks = listener.tls.as_ref().is_some_and(|tls| tls.clients.is_some());
            Ok(Arc::new(Way { tls, http2: listener.http2, asks, proxied }))
        };
        config.listeners.iter().enumerate().map(way).collect::<Result<_, _>>().map(Self)
    }

    /// Reads all certificates again, whether or not their files have changed. Blocks.
    pub(super) fn reload(&self) {
        self.0.iter().filter_map(|way| way.tls.as_ref()).for_each(|tls| {
            tls.reload();
        });
    }

    /// Reads those certificates again whose files have changed. Blocks.
    pub(super) fn look(&self) {
        self.0.iter().filter_map(|way| way.tls.as_ref()).for_each(|tls| tls.look());
    }
}

fn tls(
    number: usize,
    listener: &Listener,
    before: Option<Arc<Tls>>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<Tls>>, CertificateError> {
    let Some(settings) = &listener.tls else {
        metrics.certificates(number, &[]);
        return Ok(None);
    };
    match before.filter(|before| before.is(settings, listener.http2)) {
        Some(before) => Ok(Some(before)),
        None => {
            Tls::new(number, settings.clone(), listener.http2, metrics.clone()).map(|tls| Some(Arc::new(tls)))
        }
    }
}
