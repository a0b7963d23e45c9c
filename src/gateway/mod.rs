//! The gateway: what it does with a request, on Pingora's `ProxyHttp`.
//!
//! `pipeline.rs` has the order of the steps. A step is a module with functions that take the services, the
//! session, and the request's context, which holds values only. Requests that can be answered without Pingora's
//! proxy are answered in `request_filter`; Pingora proxies all others.

mod assemble;
pub(crate) mod body;
pub(crate) mod cache;
pub(crate) mod context;
pub(crate) mod headers;
pub(crate) mod live;
mod pipeline;
pub(crate) mod proxy;
pub(crate) mod request;
pub(crate) mod respond;
mod runtime_config;
pub(crate) mod services;
pub(crate) mod session;

pub(crate) use {
    assemble::build_runtime_config,
    cache::prepared::{
        request::{FastCaller, FastRequest},
        FastAnswer, FastResponder, KeyBuffers, PendingLog, RequestBatch,
    },
    context::{
        connection::{ClientCertificate, ConnectionInfo, ListenerInfo},
        signals::ConnectionSignals,
        tunnel::{OriginObserver, TunnelledConnection},
    },
    runtime_config::{RuntimeConfig, RuntimeParts},
    services::GatewayParts,
    session::{lifecycle::ServedRequest, native_request::NativeRequest, ClientWriter, ConnectionFate},
};

use arc_swap::ArcSwap;
use services::GatewayServices;
use std::sync::Arc;

/// The gateway: the services that outlive a configuration, and the current configuration.
#[derive(Clone)]
pub struct Gateway {
    services: GatewayServices,
    /// The runtime configuration for requests that begin now.
    site: Arc<ArcSwap<RuntimeConfig>>,
}

impl Gateway {
    /// A gateway that uses the current value of `site`.
    pub fn new(parts: GatewayParts, site: Arc<ArcSwap<RuntimeConfig>>) -> Self {
        Self { services: GatewayServices::new(parts, site.clone()), site }
    }

    /// Has all streams end, spread over the time of the shutdown.
    pub fn drain_streams(&self) {
        self.services.live.drain();
    }
}
