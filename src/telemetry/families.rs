//! The declarations of metrics: name, unit, help text, labels, buckets; those of each request stand in `by_route.rs`.
//!
//! Grouped by subject; `metrics.rs` has the methods that change them. `docs/metrics.md` repeats each line for
//! operators, and a test compares the two.

use super::{
    by_route::Routes,
    declare::{configured, listed, About, Declarations, Declared, Per},
    labels::{
        AccelOutcome, CertificateReload, CutReason, Ejection, EventResult, FileOutcome, FillOutcome,
        FlightRole, Handshake, HedgeReason, Http2End, Invalidation, LimitOutcome, LimitedBy, OriginOutcome,
        ProxyHeader, PurgeKind, RefuseReason, RejectReason, Reload, StoreCall, StoreOutcome, TokenResult,
    },
};
use crate::config::Coding;
use prometheus::{Counter, Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

/// Seconds of work for an origin, or of waiting for it.
const FILL_BUCKETS: &[f64] =
    &[0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Seconds of a call whose deadline is some 50 ms.
const STORE_BUCKETS: &[f64] = &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1];
/// Seconds of encoding one body.
const ENCODING_BUCKETS: &[f64] =
    &[0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5];

/// Requests and client connections.
pub(super) struct Requests {
    pub(super) routes: Routes,
    pub(super) fast: IntCounter,
    pub(super) rejected: Per<RejectReason, IntCounter>,
    pub(super) tokens: Per<TokenResult, IntCounter>,
    pub(super) connections_open: IntGauge,
    pub(super) connections_accepted: IntCounter,
    pub(super) websockets_open: IntGauge,
    pub(super) connections_refused: Per<RefuseReason, IntCounter>,
    pub(super) connections_cut: Per<CutReason, IntCounter>,
    pub(super) connections_most: IntGauge,
}

impl Requests {
    pub(super) fn declare(d: &mut Declarations) -> Declared<Self> {
        let about = About::new;
        Ok(Self {
            routes: Routes::declare(d)?,
            fast: d.counter(about(
                "tidegate_fast_lane_total",
                "requests",
                "Requests answered by the fast lane; they count in tidegate_requests_total as well.",
            ))?,
            rejected: d.counter_per(
                about("tidegate_rejected_requests_total", "requests", "Requests that the gateway refused."),
                "reason",
            )?,
            tokens: d.counter_per(about("tidegate_tokens_total", "tokens", "Tokens looked at."), "result")?,
            connections_open: d.gauge(about(
                "tidegate_connections_open",
                "connections",
                "Client connections that are open.",
            ))?,
            connections_accepted: d.counter(about(
                "tidegate_connections_accepted_total",
                "connections",
                "Client connections accepted.",
            ))?,
            connections_refused: d.counter_per(
                about(
                    "tidegate_connections_refused_total",
                    "connections",
                    "Client connections closed as soon as they were accepted, and requests of HTTP/2 refused.",
                ),
                "reason",
            )?,
            connections_cut: d.counter_per(
                about(
                    "tidegate_connections_cut_total",
                    "connections",
                    "Client connections, or streams of HTTP/2, cut off because the client took too long.",
                ),
                "reason",
            )?,
            connections_most: d.gauge(about(
                "tidegate_connections_limit",
                "connections",
                "Client connections that may be open.",
            ))?,
            websockets_open: d.gauge(about(
                "tidegate_websockets_open",
                "connections",
                "WebSockets that are open.",
            ))?,
        })
    }
}

/// Rate limits.
pub(super) struct Limits {
    pub(super) checks: Per<LimitedBy, Per<LimitOutcome, IntCounter>>,
    pub(super) alone: IntCounter,
    pub(super) driven_out: IntCounter,
}

impl Limits {
    pub(super) fn declare(d: &mut Declarations) -> Declared<Self> {
        let about = About::new;
        let checks = d.counters(
            about(
                "tidegate_limit_checks_total",
                "checks",
                "Requests looked at by limits, each limit counted.",
            ),
            &[listed::<LimitedBy>("by"), listed::<LimitOutcome>("outcome")],
        )?;
        let outcomes_of = |by: LimitedBy| {
            Per::new(|outcome: LimitOutcome| checks.with_label_values(&[by.as_str(), outcome.as_str()]))
        };
        Ok(Self {
            checks: Per::new(outcomes_of),
            alone: d.counter(about(
                "tidegate_limit_alone_total",
                "requests",
                "Requests on which this node decided alone, because the store did not answer.",
            ))?,
            driven_out: d.counter(about(
                "tidegate_limit_evictions_total",
                "clients",
                "Clients that limits have forgotten early, for want of room.",
            ))?,
        })
    }
}

/// The cache: flights, fills and stored entries.
pub(super) struct Cache {
    pub(super) flights: Per<FlightRole, IntCounter>,
    pub(super) flight_wait: Histogram,
    pub(super) fills: Per<FillOutcome, IntCounter>,
    pub(super) hedged: Per<HedgeReason, IntCounter>,
    pub(super) fill_seconds: Histogram,
    pub(super) encoding_seconds: Per<Coding, Histogram>,
    pub(super) codec_memory: IntGauge,
    pub(super) codings_refused: IntCounter,
    pub(super) envelopes_refused: IntCounter,
    pub(super) bytes: IntGauge,
    pub(super) entries: IntGauge,
    pub(super) capacity: IntGauge,
    pub(super) evictions: IntCounter,
    pub(super) variants_evicted: IntCounter,
}

impl Cache {
    pub(super) fn declare(d: &mut Declarations) -> Declared<Self> {
        let about = About::new;
        Ok(Self {
            flights: d.counter_per(
                about("tidegate_flights_total", "requests", "Requests that led or followed a flight."),
                "role",
            )?,
            flight_wait: d.histogram(
                about("tidegate_flight_wait_seconds", "seconds", "How long followers waited."),
                FILL_BUCKETS,
            )?,
            fills: d.counter_per(
                about("tidegate_fills_total", "fills", "Fills, by how they ended."),
                "outcome",
            )?,
            hedged: d.counter_per(
                about(
                    "tidegate_fills_hedged_total",
                    "fills",
                    "Fills that asked the origin beside that of another node.",
                ),
                "reason",
            )?,
            fill_seconds: d.histogram(
                about(
                    "tidegate_fill_duration_seconds",
                    "seconds",
                    "How long fills took, however they ended.",
                ),
                FILL_BUCKETS,
            )?,
            encoding_seconds: d.histogram_per(
                about("tidegate_encoding_duration_seconds", "seconds", "How long encoding a body took."),
                "coding",
                ENCODING_BUCKETS,
            )?,
            codec_memory: d.gauge(about(
                "tidegate_codec_memory_bytes",
                "bytes",
                "Bytes that codings of answers on their way hold, about.",
            ))?,
            codings_refused: d.counter(about(
                "tidegate_codings_refused_total",
                "codings",
                "Codings of answers on their way for which there was no room.",
            ))?,
            bytes: d.gauge(about("tidegate_memory_bytes", "bytes", "Bytes of entries in memory."))?,
            entries: d.gauge(about("tidegate_memory_entries", "entries", "Entries in memory."))?,
            capacity: d.gauge(about(
                "tidegate_memory_capacity_bytes",
                "bytes",
                "Bytes of entries that memory may hold.",
            ))?,
            envelopes_refused: d.counter(about(
                "tidegate_envelopes_refused_total",
                "values",
                "Values found in the store that were damaged, not ours or from the future; each was a miss.",
            ))?,
            evictions: d.counter(about(
                "tidegate_memory_evictions_total",
                "entries",
                "Entries that went for want of room.",
            ))?,
            variants_evicted: d.counter(about(
                "tidegate_variant_evictions_total",
                "variants",
                "Variants of a resource that went because it had as many as its route keeps.",
            ))?,
        })
    }
}

/// The store, and what keeps the nodes coherent.
pub(super) struct Store {
    pub(super) bumps: IntCounter,
    pub(super) purges: Per<PurgeKind, IntCounter>,
    pub(super) tags_ignored: IntCounter,
    pub(super) invalidations: Per<Invalidation, IntCounter>,
    pub(super) calls: Per<StoreCall, Per<StoreOutcome, IntCounter>>,
    pub(super) seconds: Per<StoreCall, Histogram>,
    pub(super) up: IntGaugeVec,
    pub(super) tracking: IntGaugeVec,
    pub(super) doubt: Gauge,
    pub(super) events: Per<EventResult, IntCounter>,
}

impl Store {
    pub(super) fn declare(d: &mut Declarations) -> Declared<Self> {
        let about = About::new;
        let calls = d.counters(
            about("tidegate_store_calls_total", "calls", "Calls to the store."),
            &[listed::<StoreCall>("call"), listed::<StoreOutcome>("outcome")],
        )?;
        let outcomes_of = |call: StoreCall| {
            Per::new(|outcome: StoreOutcome| calls.with_label_values(&[call.as_str(), outcome.as_str()]))
        };
        Ok(Self {
            bumps: d.counter(about("tidegate_bumps_total", "bumps", "Versions that events moved here."))?,
            purges: d
                .counter_per(about("tidegate_purges_total", "purges", "Purges ordered here."), "kind")?,
            tags_ignored: d.counter(about(
                "tidegate_tags_ignored_total",
                "tags",
                "Tags of answers that were too many or too long; the answers were not stored.",
            ))?,
            invalidations: d.counter_per(
                about("tidegate_invalidations_total", "messages", "What the store told this node to forget."),
                "kind",
            )?,
            calls: Per::new(outcomes_of),
            seconds: d.histogram_per(
                about("tidegate_store_call_duration_seconds", "seconds", "How long calls to the store took."),
                "call",
                STORE_BUCKETS,
            )?,
            up: d.gauges(
                about("tidegate_store_up", "0 or 1", "Whether the store answers; absent without Redis."),
                &[],
            )?,
            tracking: d.gauges(
                about(
                    "tidegate_store_tracking",
                    "0 or 1",
                    "Whether the store pushes changes; absent without Redis.",
                ),
                &[],
            )?,
            doubt: d.float_gauge(about(
                "tidegate_store_doubt_seconds",
                "seconds",
                "How long this node has not been sure that it knows all changes in the store; 0: it is.",
            ))?,
            events: d
                .counter_per(about("tidegate_events_total", "events", "Signed events received."), "result")?,
        })
    }
}

/// The origins.
pub(super) struct Origins {
    pub(super) requests: IntCounterVec,
    pub(super) up: IntGaugeVec,
    pub(super) under_way: IntGaugeVec,
    pub(super) queued: IntGaugeVec,
    pub(super) ejections: IntCounterVec,
}

impl Origins {
    pub(super) fn declare(d: &mut Declarations) -> Declared<Self> {
        let about = About::new;
        Ok(Self {
            requests: d.counters(
                about(
                    "tidegate_origin_requests_total",
                    "requests",
                    "Requests to origins, each retry counted.",
                ),
                &[configured("origin"), listed::<OriginOutcome>("outcome")],
            )?,
            up: d.gauges(
                about("tidegate_origin_server_up", "0 or 1", "Whether requests go to a server of an origin."),
                &[configured("origin"), configured("server")],
            )?,
            under_way: d.gauges(
                about(
                    "tidegate_origin_requests_under_way",
                    "requests",
                    "Requests to origins that are under way, WebSockets while they are open.",
                ),
                &[configured("origin")],
            )?,
            queued: d.gauges(
                about(
                    "tidegate_origin_queue_length",
                    "requests",
                    "Requests that wait for a place at a server.",
                ),
                &[configured("origin")],
            )?,
            ejections: d.counters(
                about(
                    "tidegate_origin_ejections_total",
                    "ejections",
                    "Servers of origins that were left out from then on.",
                ),
                &[configured("origin"), listed::<Ejection>("reason")],
            )?,
        })
    }
}

/// The listeners: TLS, the PROXY protocol, HTTP/2.
pub(super) struct Listeners {
    pub(super) handshakes: Per<Handshake, IntCounter>,
    pub(super) expiry: IntGaugeVec,
    pub(super) certificate_reloads: Per<CertificateReload, IntCounter>,
    pub(super) proxy_headers: Per<ProxyHeader, IntCounter>,
    pub(super) http2_ends: Per<Http2End, IntCounter>,
}

impl Listeners {
    pub(super) fn declare(d: &mut Declarations) -> Declared<Self> {
        let about = About::new;
        Ok(Self {
            handshakes: d.counter_per(
                about("tidegate_tls_handshakes_total", "handshakes", "TLS handshakes, by how they ended."),
                "result",
            )?,
            expiry: d.gauges(
                about(
                    "tidegate_tls_certificate_expiry_time_seconds",
                    "unix seconds",
                    "When a certificate that is shown expires.",
                ),
                &[configured("listener"), configured("certificate")],
            )?,
            certificate_reloads: d.counter_per(
                about(
                    "tidegate_tls_certificate_reloads_total",
                    "reloads",
                    "Certificates of a listener read again because their files had changed.",
                ),
                "result",
            )?,
            proxy_headers: d.counter_per(
                about(
                    "tidegate_proxy_headers_total",
                    "connections",
                    "Connections to listeners with proxy_protocol, by what they said of their client.",
                ),
                "result",
            )?,
            http2_ends: d.counter_per(
                about(
                    "tidegate_http2_connections_total",
                    "connections",
                    "HTTP/2 connections of clients, by how they ended.",
                ),
                "end",
            )?,
        })
    }
}

/// Files.
pub(super) struct Files {
    pub(super) outcomes: Per<FileOutcome, IntCounter>,
    pub(super) accel: Per<AccelOutcome, IntCounter>,
}

impl Files {
    pub(super) fn declare(d: &mut Declarations) -> Declared<Self> {
        let about = About::new;
        Ok(Self {
            outcomes: d.counter_per(
                about("tidegate_files_total", "requests", "Requests for files, by what became of them."),
                "outcome",
            )?,
            accel: d.counter_per(
                about("tidegate_accel_total", "answers", "Answers with X-Accel-Redirect."),
                "outcome",
            )?,
        })
    }
}

/// The process itself.
pub(super) struct Process {
    pub(super) lines_dropped: IntCounter,
    pub(super) build: IntGaugeVec,
    pub(super) started: Gauge,
    pub(super) configured: Gauge,
    pub(super) reloads: Per<Reload, IntCounter>,
    pub(super) resident: IntGauge,
    pub(super) cpu: Counter,
}

impl Process {
    pub(super) fn declare(d: &mut Declarations) -> Declared<Self> {
        let about = About::new;
        Ok(Self {
            lines_dropped: d.counter(about(
                "tidegate_log_lines_dropped_total",
                "lines",
                "Log lines dropped, access records among them: the queue was full, or they could not be written.",
            ))?,
            build: d.gauges(
                about("tidegate_build_info", "always 1", "The version that runs, as a label."),
                &[configured("version")],
            )?,
            started: d.float_gauge(about(
                "tidegate_process_start_time_seconds",
                "unix seconds",
                "When the gateway started.",
            ))?,
            configured: d.float_gauge(about(
                "tidegate_config_loaded_time_seconds",
                "unix seconds",
                "Since when the gateway goes by its configuration.",
            ))?,
            reloads: d.counter_per(
                about(
                    "tidegate_config_reloads_total",
                    "reloads",
                    "Configurations read while the gateway runs.",
                ),
                "result",
            )?,
            resident: d.gauge(about(
                "tidegate_process_resident_memory_bytes",
                "bytes",
                "Resident memory of the process; 0 where it can't be read.",
            ))?,
            cpu: d.float_counter(about(
                "tidegate_process_cpu_seconds_total",
                "seconds",
                "CPU time of all threads, user and system; 0 where it can't be read.",
            ))?,
        })
    }
}
