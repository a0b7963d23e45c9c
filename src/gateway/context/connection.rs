//! The connection of a request: its listener, its peer, and the client's certificate.

use crate::{
    cache::key::RequestScheme,
    config::{Config, ListenerConfig},
    gateway::context::signals::ConnectionSignals,
};

use http::{HeaderName, HeaderValue};
use std::{any::Any, net::SocketAddr, sync::Arc};

/// The properties that all requests of one listener share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListenerInfo {
    /// The scheme of the listener.
    pub scheme: RequestScheme,
    /// The port of the https URL that requests are redirected to; `None` without a redirect.
    pub redirect: Option<u16>,
    /// The value of `Strict-Transport-Security` in every answer.
    pub hsts: Option<HeaderValue>,
    /// The field that carries the subject of the client's certificate to the origin.
    pub subject: Option<HeaderName>,
}

impl ListenerInfo {
    /// The entries of a configuration whose listeners have these addresses.
    pub fn all(config: &Config, addresses: &[SocketAddr]) -> Vec<Arc<Self>> {
        let entry = |listener: &ListenerConfig| {
            let clients = listener.tls.as_ref().and_then(|tls| tls.clients.as_ref());
            Arc::new(Self {
                scheme: if listener.tls.is_some() { RequestScheme::Https } else { RequestScheme::Http },
                redirect: listener.redirect_to.and_then(|to| addresses.get(to)).map(SocketAddr::port),
                hsts: listener.hsts.as_ref().and_then(|value| HeaderValue::from_str(value).ok()),
                subject: clients.and_then(|clients| clients.header.clone()),
            })
        };
        config.listeners.iter().map(entry).collect()
    }
}

/// The TLS name and certificate of a client, if the listener asks for certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The host name of the TLS handshake (SNI), in the form that TLS uses.
    pub to: Option<Box<str>>,
    /// The subject of its certificate; `None` if it presented none.
    pub subject: Option<HeaderValue>,
}

/// A guard that is held while any work for a request goes on, even if its client has left.
pub(crate) type ConnectionHold = Arc<dyn Any + Send + Sync>;

/// The properties of a connection that are passed to the gateway with each request.
#[derive(Clone)]
pub struct ConnectionInfo {
    /// The address of the other end.
    pub peer: SocketAddr,
    /// The flags that the gateway and the connection share.
    pub signals: Arc<ConnectionSignals>,
    /// The index of its listener, from 0.
    pub listener: usize,
    /// The client's TLS name and certificate, if the listener asks for certificates.
    pub shown: Option<Arc<ClientCertificate>>,
    /// The guard that is held for this request, if the connection can carry many at once.
    pub hold: Option<ConnectionHold>,
}
