//! The metrics as the rest of the program sees them: a value on a registry of its own, no globals.
//!
//! The methods are typed and cheap: handles are resolved once, and the numbers of each request are counted
//! per thread. Labels are enums ([`super::labels`]) or names from the configuration, never anything that a
//! client sent. `families.rs` declares the metrics; `docs/metrics.md` describes them.

pub(crate) mod by_route;
pub(crate) mod declare;
pub(crate) mod families;
pub(crate) mod process;
pub(crate) mod thread_slot;
use super::labels::{
    AccelOutcome, CertificateReload, CutReason, Ejection, EventResult, FileOutcome, FillOutcome, FlightRole,
    Handshake, HedgeReason, Http2End, Invalidation, LimitOutcome, LimitedBy, OriginOutcome, ProxyHeader,
    PurgeKind, RefillCause, RefuseReason, RejectReason, Reload, StoreCall, StoreError, StreamEnd,
    TokenResult,
};
use crate::{clock, config::ContentCoding};
pub use by_route::RouteMetrics;
use declare::{DeclaredFamily, MetricRegistrar};
use families::{
    CacheFamilies, FileFamilies, LimitFamilies, ListenerFamilies, LiveFamilies, OriginFamilies,
    ProcessFamilies, RequestFamilies, StoreFamilies,
};

use parking_lot::Mutex;
use prometheus::{IntGauge, Registry, TextEncoder};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

/// The state of the cache at a scrape.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes held.
    pub bytes: u64,
    /// Entries held.
    pub entries: u64,
    /// Entries evicted for want of room, since the start.
    pub evictions: u64,
    /// Bytes that may be held.
    pub capacity: u64,
    /// The time since the store last confirmed that the entries are current.
    pub doubt: Duration,
}

type MemoryProbe = Box<dyn Fn() -> MemoryStats + Send + Sync>;
/// Returns the number of log lines dropped since the start.
type LogProbe = Box<dyn Fn() -> u64 + Send + Sync>;

/// The metrics of one gateway. Two of them in one process (tests) are independent.
pub struct Metrics {
    registry: Registry,
    families: Vec<DeclaredFamily>,
    requests: RequestFamilies,
    limits: LimitFamilies,
    cache: CacheFamilies,
    store: StoreFamilies,
    live: LiveFamilies,
    origins: OriginFamilies,
    listeners: ListenerFamilies,
    files: FileFamilies,
    process: ProcessFamilies,
    probe: Mutex<Option<MemoryProbe>>,
    log_probe: Mutex<Option<LogProbe>>,
}

impl Metrics {
    /// Declares and registers everything, and takes now as the time of the start.
    ///
    /// # Errors
    /// Only if two declarations contradict each other, which a test rules out.
    pub fn new() -> Result<Self, prometheus::Error> {
        let mut d = MetricRegistrar::default();
        let requests = RequestFamilies::declare(&mut d)?;
        let limits = LimitFamilies::declare(&mut d)?;
        let cache = CacheFamilies::declare(&mut d)?;
        let store = StoreFamilies::declare(&mut d)?;
        let live = LiveFamilies::declare(&mut d)?;
        let origins = OriginFamilies::declare(&mut d)?;
        let listeners = ListenerFamilies::declare(&mut d)?;
        let files = FileFamilies::declare(&mut d)?;
        let process = ProcessFamilies::declare(&mut d)?;
        process.build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        process.started.set(now_seconds());
        let (registry, families) = d.finish();
        Ok(Self {
            registry,
            families,
            requests,
            limits,
            cache,
            store,
            live,
            origins,
            listeners,
            files,
            process,
            probe: Mutex::new(None),
            log_probe: Mutex::new(None),
        })
    }

    /// The declared families, in order.
    pub fn families(&self) -> &[DeclaredFamily] {
        &self.families
    }

    /// The handles of the route `name`; the same ones for the same name. Meant to be called once, when routes
    /// are built.
    pub fn route(&self, name: &str) -> Arc<RouteMetrics> {
        self.requests.routes.of(name)
    }

    /// Counts requests that were answered by the prepared lane.
    pub fn answered_fast(&self, requests: u64) {
        self.requests.fast.inc_by(requests);
    }

    /// Counts a request that the gateway refused.
    pub fn rejected(&self, reason: RejectReason) {
        self.requests.rejected.of(reason).inc();
    }

    /// Counts a request that a limit has checked.
    pub fn limit_checked(&self, by: LimitedBy, outcome: LimitOutcome) {
        self.limits.checks.of(by).of(outcome).inc();
    }

    /// Counts a request of a shared limit that was decided without the store.
    pub fn limit_decided_alone(&self) {
        self.limits.alone.inc();
    }

    /// Counts clients that a limit evicted early for want of room.
    pub fn limit_drove_out(&self, clients: u64) {
        self.limits.driven_out.inc_by(clients);
    }

    /// Counts a token that was checked.
    pub fn token(&self, result: TokenResult) {
        self.requests.tokens.of(result).inc();
    }

    /// Counts an accepted client connection; it counts as open until the guard is dropped.
    pub fn connection(&self) -> OpenConnection {
        self.requests.connections_accepted.inc();
        self.requests.connections_open.inc();
        OpenConnection(self.requests.connections_open.clone())
    }

    /// Counts a client connection that was closed as soon as it was accepted.
    pub fn connection_refused(&self, reason: RefuseReason) {
        self.requests.connections_refused.of(reason).inc();
    }

    /// Counts a client connection that was cut off.
    pub fn connection_cut(&self, reason: CutReason) {
        self.requests.connections_cut.of(reason).inc();
    }

    /// Sets the number of client connections that may be open.
    pub fn connections_limit(&self, most: u64) {
        self.requests.connections_most.set(gauge(most));
    }

    /// Counts an opened WebSocket; it counts as open until the guard is dropped.
    pub fn websocket(&self) -> OpenWebSocket {
        self.requests.websockets_open.inc();
        OpenWebSocket(self.requests.websockets_open.clone())
    }

    /// Counts a request that began a flight.
    pub fn flight_led(&self) {
        self.cache.flights.of(FlightRole::Leader).inc();
    }

    /// Counts a request that waited `wait` on another one's flight.
    pub fn flight_followed(&self, wait: Duration) {
        self.cache.flights.of(FlightRole::Follower).inc();
        self.cache.flight_wait.observe(wait.as_secs_f64());
    }

    /// Counts a fill that ended.
    pub fn fill(&self, outcome: FillOutcome, duration: Duration) {
        self.cache.fills.of(outcome).inc();
        self.cache.fill_seconds.observe(duration.as_secs_f64());
    }

    /// Counts a fill that asks the origin beside that of another node.
    pub fn hedged(&self, reason: HedgeReason) {
        self.cache.hedged.of(reason).inc();
    }

    /// Counts a body that was encoded, even if the result was not kept.
    pub fn encoded(&self, coding: ContentCoding, duration: Duration) {
        self.cache.encoding_seconds.of(coding).observe(duration.as_secs_f64());
    }

    /// Adds to the bytes that codecs of answers in transit hold.
    pub fn codecs_hold(&self, more: i64) {
        self.cache.codec_memory.add(more);
    }

    /// Counts an answer in transit that was not coded for want of memory.
    pub fn coding_refused(&self) {
        self.cache.codings_refused.inc();
    }

    /// Counts a value in the store that is not an envelope of this version.
    pub fn envelope_refused(&self) {
        self.cache.envelopes_refused.inc();
    }

    /// Counts variants of a resource that were evicted for another one.
    pub fn variants_evicted(&self, n: usize) {
        self.cache.variants_evicted.inc_by(n as u64);
    }

    /// Sets the probe for the memory tier's state, called at each scrape; it replaces an earlier one.
    pub fn memory_probe(&self, probe: Box<dyn Fn() -> MemoryStats + Send + Sync>) {
        *self.probe.lock() = Some(probe);
    }

    /// Sets the probe for the number of dropped log lines, called at each scrape; it replaces an earlier one.
    pub fn log_probe(&self, probe: LogProbe) {
        *self.log_probe.lock() = Some(probe);
    }

    /// Counts a version bump.
    pub fn bump(&self) {
        self.store.bumps.inc();
    }

    /// Counts a purge that was ordered on this node.
    pub fn purge(&self, kind: PurgeKind) {
        self.store.purges.of(kind).inc();
    }

    /// Counts tags that could not be kept, so that their answer wasn't stored.
    pub fn tags_ignored(&self, n: usize) {
        self.store.tags_ignored.inc_by(n as u64);
    }

    /// Counts an invalidation from the store, or a lost connection to it.
    pub fn invalidation(&self, kind: Invalidation) {
        self.store.invalidations.of(kind).inc();
    }

    /// Counts a call to the store that ended.
    pub fn store_call(&self, call: StoreCall, result: Result<(), StoreError>, duration: Duration) {
        self.store.calls.of(call).of(result.into()).inc();
        self.store.seconds.of(call).observe(duration.as_secs_f64());
    }

    /// Counts a call to the store that was not made because other calls take too long.
    pub fn store_call_skipped(&self, call: StoreCall) {
        self.store.calls.of(call).of(Err(StoreError::Down).into()).inc();
    }

    /// Sets the gauge that is 1 while the store answers. Never called without Redis: the series is then
    /// absent.
    pub fn store_up(&self, up: bool) {
        self.store.up.with_label_values::<&str>(&[]).set(up.into());
    }

    /// Sets the gauge that is 1 while the store pushes changes (`CLIENT TRACKING`). Never called without
    /// Redis.
    pub fn store_tracking(&self, tracking: bool) {
        self.store.tracking.with_label_values::<&str>(&[]).set(tracking.into());
    }

    /// Counts a received event.
    pub fn event(&self, result: EventResult) {
        self.store.events.of(result).inc();
    }

    /// Counts a stream that watches an entry of the route `route`, until the guard is dropped.
    pub fn live_watcher(&self, route: &str) -> OpenStream {
        let watchers = self.live.watchers.with_label_values(&[route]);
        watchers.inc();
        OpenStream(watchers)
    }

    /// Counts a state that was written to a stream, and those that the stream skipped before it.
    pub fn live_event(&self, skipped: u64) {
        self.live.events.inc();
        self.live.skipped.inc_by(skipped);
    }

    /// Counts a watched entry that was read anew.
    pub fn live_refill(&self, cause: RefillCause) {
        self.live.refills.of(cause).inc();
    }

    /// Counts a stream that ended.
    pub fn live_ended(&self, reason: StreamEnd) {
        self.live.ended.of(reason).inc();
    }

    /// Counts the time from a change to the last write of the new state.
    pub fn live_fan_out(&self, duration: Duration) {
        self.live.fan_out.observe(duration.as_secs_f64());
    }

    /// Counts a request to the origin `name` (as configured) that ended.
    pub fn origin(&self, name: &str, outcome: OriginOutcome) {
        self.origins.requests.with_label_values(&[name, outcome.as_str()]).inc();
    }

    /// Sets the gauge that is 1 while server number `server` (from 0, in the file's order) of the origin
    /// `name` is healthy.
    pub fn origin_server_up(&self, name: &str, server: usize, up: bool) {
        self.origins.up.with_label_values(&[name, server.to_string().as_str()]).set(up.into());
    }

    /// The gauges of requests under way to the origin `name` and waiting for it. Meant to be called once.
    pub fn origin_gauges(&self, name: &str) -> OriginMetrics {
        OriginMetrics {
            under_way: self.origins.under_way.with_label_values(&[name]),
            queued: self.origins.queued.with_label_values(&[name]),
        }
    }

    /// Counts an ejection of a server of the origin `name`.
    pub fn origin_ejected(&self, name: &str, why: Ejection) {
        self.origins.ejections.with_label_values(&[name, why.as_str()]).inc();
    }

    /// Counts a TLS handshake that ended.
    pub fn handshake(&self, result: Handshake) {
        self.listeners.handshakes.of(result).inc();
    }

    /// Sets the expiry of the certificates of listener number `listener` (from 0), in seconds since 1970.
    pub fn certificates(&self, listener: usize, expiries: &[i64]) {
        let (family, listener) = (&self.listeners.expiry, listener.to_string());
        for (certificate, expiry) in expiries.iter().enumerate() {
            family.with_label_values(&[listener.as_str(), &certificate.to_string()]).set(*expiry);
        }
        // There may have been more of them before.
        let mut beyond = expiries.len();
        while family.remove_label_values(&[listener.as_str(), &beyond.to_string()]).is_ok() {
            beyond += 1;
        }
    }

    /// Counts a reload of a listener's certificate files.
    pub fn certificates_reloaded(&self, result: CertificateReload) {
        self.listeners.certificate_reloads.of(result).inc();
    }

    /// Counts the PROXY protocol header of a connection, or its absence.
    pub fn proxy_header(&self, said: ProxyHeader) {
        self.listeners.proxy_headers.of(said).inc();
    }

    /// Counts an HTTP/2 connection that ended.
    pub fn http2_ended(&self, end: Http2End) {
        self.listeners.http2_ends.of(end).inc();
    }

    /// Counts a request for a file that ended.
    pub fn file(&self, outcome: FileOutcome) {
        self.files.outcomes.of(outcome).inc();
    }

    /// Counts an answer with `X-Accel-Redirect`.
    pub fn accel(&self, outcome: AccelOutcome) {
        self.files.accel.of(outcome).inc();
    }

    /// Records that the gateway uses a new configuration from now on.
    pub fn configured(&self) {
        self.process.configured.set(now_seconds());
    }

    /// Counts a reload of the configuration.
    pub fn reloaded(&self, result: Reload) {
        self.process.reloads.of(result).inc();
    }

    /// Renders all metrics in Prometheus' text format 0.0.4. Calls the probes and reads `/proc`: not for a
    /// hot path.
    pub fn render(&self) -> String {
        self.look();
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|error| {
            tracing::error!(%error, "the metrics can't be written");
            String::new()
        })
    }

    /// Sets the values that are read at a scrape. One scrape at a time: two at once must not add the same
    /// rise twice.
    fn look(&self) {
        let probe = self.probe.lock();
        if let Some(probe) = probe.as_ref() {
            let MemoryStats { bytes, entries, evictions, capacity, doubt } = probe();
            self.store.doubt.set(doubt.as_secs_f64());
            self.cache.bytes.set(gauge(bytes));
            self.cache.entries.set(gauge(entries));
            self.cache.capacity.set(gauge(capacity));
            self.cache.evictions.inc_by(evictions.saturating_sub(self.cache.evictions.get()));
        }
        if let Some(dropped) = self.log_probe.lock().as_ref().map(|dropped| dropped()) {
            self.process.lines_dropped.inc_by(dropped.saturating_sub(self.process.lines_dropped.get()));
        }
        if let Some(bytes) = process::resident_bytes() {
            self.process.resident.set(gauge(bytes));
        }
        if let Some(seconds) = process::cpu_seconds() {
            self.process.cpu.inc_by((seconds - self.process.cpu.get()).max(0.0));
        }
    }
}

fn now_seconds() -> f64 {
    clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("families", &self.families.len()).finish_non_exhaustive()
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The gauges of one origin.
#[derive(Debug)]
pub struct OriginMetrics {
    /// Requests under way.
    pub under_way: IntGauge,
    /// Requests that wait for a slot.
    pub queued: IntGauge,
}

/// A client connection that is open; dropping it ends the count.
#[derive(Debug)]
#[must_use = "the connection counts as closed once this is dropped"]
pub struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A stream that is open; dropping it ends the count.
#[derive(Debug)]
#[must_use = "the stream counts as ended once this is dropped"]
pub struct OpenStream(IntGauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A WebSocket that is open; dropping it ends the count.
#[derive(Debug)]
#[must_use = "the socket counts as closed once this is dropped"]
pub struct OpenWebSocket(IntGauge);

impl Drop for OpenWebSocket {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
