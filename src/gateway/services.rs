//! The services that the steps of a request share, and the result of a step.

use crate::{
    cache::Cache,
    gateway::{
        body::codec::CodecBudget,
        context::request_id::RequestIdSource,
        live::{source::LiveSource, stream::LiveStream},
        runtime_config::RuntimeConfig,
    },
    live::LiveHub,
    origin::upgrade::UpgradeConnector,
    telemetry::{access::AccessLog, metrics::Metrics},
};

use arc_swap::ArcSwap;
use std::{sync::Arc, time::Instant};

/// The parts that outlive a change of the configuration.
#[derive(Clone)]
pub struct GatewayParts {
    /// The cache.
    pub cache: Arc<Cache>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The access log; it may be switched off.
    pub access: Arc<AccessLog>,
}

/// The services that the steps of a request share. All configurations use the same.
#[derive(Clone)]
pub(crate) struct GatewayServices {
    pub(crate) cache: Arc<Cache>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access: Arc<AccessLog>,
    pub(crate) ids: Arc<RequestIdSource>,
    /// The origin of the clock that rate limits use.
    pub(crate) began: Instant,
    pub(crate) upgrades: Arc<UpgradeConnector>,
    pub(crate) codecs: Arc<CodecBudget>,
    /// The entries that are watched.
    pub(crate) live: Arc<LiveHub<LiveSource>>,
    /// The current runtime configuration, for what outlives a request.
    pub(crate) site: Arc<ArcSwap<RuntimeConfig>>,
}

impl GatewayServices {
    pub(crate) fn new(parts: GatewayParts, site: Arc<ArcSwap<RuntimeConfig>>) -> Self {
        let GatewayParts { cache, metrics, access } = parts;
        Self {
            cache,
            access,
            ids: Arc::new(RequestIdSource::new()),
            began: Instant::now(),
            upgrades: Arc::new(UpgradeConnector::new()),
            codecs: CodecBudget::new(metrics.clone()),
            live: Arc::new(LiveHub::new(metrics.clone())),
            site,
            metrics,
        }
    }
}

/// The result of a step: the request is answered, or still has to be proxied.
pub(crate) enum NextStep {
    Answered,
    Proxy,
    /// The head of a stream was sent: whoever called the steps runs it.
    Stream(Box<LiveStream>),
}
