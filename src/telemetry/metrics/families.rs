//! The declarations of metrics: name, unit, help text, labels, buckets; those of each request stand in
//! `by_route.rs`.
//!
//! Grouped by subject; `metrics/mod.rs` has the methods that change them. `docs/metrics.md` repeats each line
//! for operators, and a test compares the two.

use super::{
    by_route::RouteMetricsTable,
    declare::{configured, listed, DeclareResult, FamilyInfo, MetricRegistrar, PerLabel},
};
use crate::{
    config::ContentCoding,
    telemetry::labels::{
        AccelOutcome, CertificateReload, CutReason, Ejection, EventResult, FileOutcome, FillOutcome,
        FlightRole, Handshake, HedgeReason, Http2End, Invalidation, LimitOutcome, LimitedBy, OriginOutcome,
        ProxyHeader, PurgeKind, RefillCause, RefuseReason, RejectReason, Reload, StoreCall, StoreOutcome,
        StreamEnd, TokenResult,
    },
};

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
pub(crate) struct RequestFamilies {
    pub(crate) routes: RouteMetricsTable,
    pub(crate) fast: IntCounter,
    pub(crate) rejected: PerLabel<RejectReason, IntCounter>,
    pub(crate) tokens: PerLabel<TokenResult, IntCounter>,
    pub(crate) connections_open: IntGauge,
    pub(crate) connections_accepted: IntCounter,
    pub(crate) websockets_open: IntGauge,
    pub(crate) connections_refused: PerLabel<RefuseReason, IntCounter>,
    pub(crate) connections_cut: PerLabel<CutReason, IntCounter>,
    pub(crate) connections_most: IntGauge,
}

impl RequestFamilies {
    pub(crate) fn declare(d: &mut MetricRegistrar) -> DeclareResult<Self> {
        let about = FamilyInfo::new;
        Ok(Self {
            routes: RouteMetricsTable::declare(d)?,
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
pub(crate) struct LimitFamilies {
    pub(crate) checks: PerLabel<LimitedBy, PerLabel<LimitOutcome, IntCounter>>,
    pub(crate) alone: IntCounter,
    pub(crate) driven_out: IntCounter,
}

impl LimitFamilies {
    pub(crate) fn declare(d: &mut MetricRegistrar) -> DeclareResult<Self> {
        let about = FamilyInfo::new;
        let checks = d.counters(
            about(
                "tidegate_limit_checks_total",
                "checks",
                "Requests looked at by limits, each limit counted.",
            ),
            &[listed::<LimitedBy>("by"), listed::<LimitOutcome>("outcome")],
        )?;
        let outcomes_of = |by: LimitedBy| {
            PerLabel::new(|outcome: LimitOutcome| checks.with_label_values(&[by.as_str(), outcome.as_str()]))
        };
        Ok(Self {
            checks: PerLabel::new(outcomes_of),
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
pub(crate) struct CacheFamilies {
    pub(crate) flights: PerLabel<FlightRole, IntCounter>,
    pub(crate) flight_wait: Histogram,
    pub(crate) fills: PerLabel<FillOutcome, IntCounter>,
    pub(crate) hedged: PerLabel<HedgeReason, IntCounter>,
    pub(crate) fill_seconds: Histogram,
    pub(crate) encoding_seconds: PerLabel<ContentCoding, Histogram>,
    pub(crate) codec_memory: IntGauge,
    pub(crate) codings_refused: IntCounter,
    pub(crate) envelopes_refused: IntCounter,
    pub(crate) bytes: IntGauge,
    pub(crate) entries: IntGauge,
    pub(crate) capacity: IntGauge,
    pub(crate) evictions: IntCounter,
    pub(crate) variants_evicted: IntCounter,
}

impl CacheFamilies {
    pub(crate) fn declare(d: &mut MetricRegistrar) -> DeclareResult<Self> {
        let about = FamilyInfo::new;
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
pub(crate) struct StoreFamilies {
    pub(crate) bumps: IntCounter,
    pub(crate) purges: PerLabel<PurgeKind, IntCounter>,
    pub(crate) tags_ignored: IntCounter,
    pub(crate) invalidations: PerLabel<Invalidation, IntCounter>,
    pub(crate) calls: PerLabel<StoreCall, PerLabel<StoreOutcome, IntCounter>>,
    pub(crate) seconds: PerLabel<StoreCall, Histogram>,
    pub(crate) up: IntGaugeVec,
    pub(crate) tracking: IntGaugeVec,
    pub(crate) doubt: Gauge,
    pub(crate) events: PerLabel<EventResult, IntCounter>,
}

impl StoreFamilies {
    pub(crate) fn declare(d: &mut MetricRegistrar) -> DeclareResult<Self> {
        let about = FamilyInfo::new;
        let calls = d.counters(
            about("tidegate_store_calls_total", "calls", "Calls to the store."),
            &[listed::<StoreCall>("call"), listed::<StoreOutcome>("outcome")],
        )?;
        let outcomes_of = |call: StoreCall| {
            PerLabel::new(|outcome: StoreOutcome| calls.with_label_values(&[call.as_str(), outcome.as_str()]))
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
            calls: PerLabel::new(outcomes_of),
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

/// Watched entries and their streams.
pub(crate) struct LiveFamilies {
    pub(crate) watchers: IntGaugeVec,
    pub(crate) events: IntCounter,
    pub(crate) skipped: IntCounter,
    pub(crate) refills: PerLabel<RefillCause, IntCounter>,
    pub(crate) ended: PerLabel<StreamEnd, IntCounter>,
    pub(crate) fan_out: Histogram,
}

impl LiveFamilies {
    pub(crate) fn declare(d: &mut MetricRegistrar) -> DeclareResult<Self> {
        let about = FamilyInfo::new;
        Ok(Self {
            watchers: d.gauges(
                about("tidegate_live_watchers", "streams", "Streams that watch an entry of a route."),
                &[configured("route")],
            )?,
            events: d.counter(about(
                "tidegate_live_events_total",
                "events",
                "States of entries written to streams.",
            ))?,
            skipped: d.counter(about(
                "tidegate_live_skipped_states_total",
                "states",
                "States that a stream skipped, because its client was slower than they changed.",
            ))?,
            refills: d.counter_per(
                about("tidegate_live_refills_total", "fills", "Watched entries read anew beyond memory."),
                "cause",
            )?,
            ended: d.counter_per(
                about("tidegate_live_streams_ended_total", "streams", "Streams that ended."),
                "reason",
            )?,
            fan_out: d.histogram(
                about(
                    "tidegate_live_fan_out_seconds",
                    "seconds",
                    "The time from a change to the last write of the new state on this node.",
                ),
                FILL_BUCKETS,
            )?,
        })
    }
}

/// The origins.
pub(crate) struct OriginFamilies {
    pub(crate) requests: IntCounterVec,
    pub(crate) up: IntGaugeVec,
    pub(crate) under_way: IntGaugeVec,
    pub(crate) queued: IntGaugeVec,
    pub(crate) ejections: IntCounterVec,
}

impl OriginFamilies {
    pub(crate) fn declare(d: &mut MetricRegistrar) -> DeclareResult<Self> {
        let about = FamilyInfo::new;
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
pub(crate) struct ListenerFamilies {
    pub(crate) handshakes: PerLabel<Handshake, IntCounter>,
    pub(crate) expiry: IntGaugeVec,
    pub(crate) certificate_reloads: PerLabel<CertificateReload, IntCounter>,
    pub(crate) proxy_headers: PerLabel<ProxyHeader, IntCounter>,
    pub(crate) http2_ends: PerLabel<Http2End, IntCounter>,
}

impl ListenerFamilies {
    pub(crate) fn declare(d: &mut MetricRegistrar) -> DeclareResult<Self> {
        let about = FamilyInfo::new;
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
pub(crate) struct FileFamilies {
    pub(crate) outcomes: PerLabel<FileOutcome, IntCounter>,
    pub(crate) accel: PerLabel<AccelOutcome, IntCounter>,
}

impl FileFamilies {
    pub(crate) fn declare(d: &mut MetricRegistrar) -> DeclareResult<Self> {
        let about = FamilyInfo::new;
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
pub(crate) struct ProcessFamilies {
    pub(crate) lines_dropped: IntCounter,
    pub(crate) build: IntGaugeVec,
    pub(crate) started: Gauge,
    pub(crate) configured: Gauge,
    pub(crate) reloads: PerLabel<Reload, IntCounter>,
    pub(crate) resident: IntGauge,
    pub(crate) cpu: Counter,
}

impl ProcessFamilies {
    pub(crate) fn declare(d: &mut MetricRegistrar) -> DeclareResult<Self> {
        let about = FamilyInfo::new;
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
