//! Tests of the metrics, and of `docs/metrics.md`, the page that documents them.

use super::{super::labels::CacheResult, declare::LabelValues, *};

use std::collections::{BTreeMap, BTreeSet};

/// `name{labels} value` → value
fn samples(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
            (series.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

fn metrics() -> Metrics {
    Metrics::new().expect("the declarations agree")
}

/// Touches everything that is not there from the start.
fn everything() -> Metrics {
    let metrics = metrics();
    metrics.route("kpi").record(CacheResult::Hit, 200, Duration::from_micros(20), 300);
    metrics.store_up(true);
    metrics.store_tracking(false);
    metrics.origin("app", OriginOutcome::Ok);
    metrics.origin_server_up("app", 0, true);
    metrics.origin_gauges("app").under_way.inc();
    metrics.origin_ejected("app", Ejection::Check);
    drop(metrics.live_watcher("kpi"));
    metrics.certificates(0, &[4_000_000_000, 4_000_000_001]);
    metrics
}

#[test]
fn a_request_moves_its_own_series_and_no_other() {
    let metrics = metrics();
    let route = metrics.route("kpi");
    metrics.route("chart").record(CacheResult::Miss, 502, Duration::from_secs(1), 7);
    route.record(CacheResult::Hit, 200, Duration::from_micros(20), 300);
    route.record(CacheResult::Hit, 206, Duration::from_micros(70), 200);
    route.record(CacheResult::Bypass, 0, Duration::from_secs(20), 0);
    let samples = samples(&metrics.render());
    let expected = [
        (r#"tidegate_requests_total{result="hit",route="kpi",status="2xx"}"#, 2.0),
        (r#"tidegate_requests_total{result="bypass",route="kpi",status="none"}"#, 1.0),
        (r#"tidegate_requests_total{result="miss",route="chart",status="5xx"}"#, 1.0),
        (r#"tidegate_sent_bytes_total{route="kpi"}"#, 500.0),
        (r#"tidegate_sent_bytes_total{route="chart"}"#, 7.0),
        (r#"tidegate_request_duration_seconds_bucket{result="hit",route="kpi",le="0.00005"}"#, 1.0),
        (r#"tidegate_request_duration_seconds_bucket{result="hit",route="kpi",le="0.0001"}"#, 2.0),
        (r#"tidegate_request_duration_seconds_bucket{result="bypass",route="kpi",le="10"}"#, 0.0),
        (r#"tidegate_request_duration_seconds_bucket{result="bypass",route="kpi",le="+Inf"}"#, 1.0),
        (r#"tidegate_request_duration_seconds_count{result="bypass",route="kpi"}"#, 1.0),
        (r#"tidegate_request_duration_seconds_sum{result="hit",route="kpi"}"#, 0.000_09),
    ];
    for (series, value) in expected {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
    let requests = samples.keys().filter(|series| series.starts_with("tidegate_requests_total")).count();
    assert_eq!(requests, 3);
}

#[test]
fn the_same_route_is_the_same_handle() {
    let metrics = metrics();
    assert!(Arc::ptr_eq(&metrics.route("kpi"), &metrics.route("kpi")));
    assert!(!Arc::ptr_eq(&metrics.route("kpi"), &metrics.route("chart")));
}

#[test]
fn each_method_moves_what_it_names() {
    let metrics = everything();
    metrics.rejected(RejectReason::BadHost);
    metrics.token(TokenResult::Refused);
    metrics.limit_checked(LimitedBy::Key, LimitOutcome::Refused);
    metrics.limit_decided_alone();
    metrics.limit_drove_out(5);
    metrics.connection_refused(RefuseReason::Address);
    metrics.connection_cut(CutReason::BodyRate);
    metrics.connections_limit(9);
    metrics.flight_led();
    metrics.flight_followed(Duration::from_millis(4));
    metrics.fill(FillOutcome::SetCookie, Duration::from_secs(1));
    metrics.encoded(ContentCoding::Zstd, Duration::from_micros(60));
    metrics.codecs_hold(7);
    metrics.coding_refused();
    metrics.bump();
    metrics.purge(PurgeKind::Invalidation);
    metrics.tags_ignored(2);
    metrics.variants_evicted(3);
    metrics.invalidation(Invalidation::Lost);
    metrics.store_call(StoreCall::Get, Err(StoreError::Timeout), Duration::from_millis(50));
    metrics.store_call(StoreCall::Put, Ok(()), Duration::from_millis(1));
    metrics.event(EventResult::Replayed);
    metrics.origin("app", OriginOutcome::BreakerOpen);
    metrics.origin_server_up("app", 1, false);
    metrics.origin_gauges("app").queued.inc();
    metrics.origin_ejected("app", Ejection::RetryAfter);
    metrics.certificates(0, &[4_000_000_002]);
    metrics.handshake(Handshake::NotTls);
    metrics.certificates_reloaded(CertificateReload::Refused);
    metrics.proxy_header(ProxyHeader::Local);
    metrics.http2_ended(Http2End::Flood);
    metrics.log_probe(Box::new(|| 3));
    let samples = samples(&metrics.render());
    let expected = [
        (r#"tidegate_rejected_requests_total{reason="bad_host"}"#, 1.0),
        (r#"tidegate_rejected_requests_total{reason="not_found"}"#, 0.0),
        (r#"tidegate_tokens_total{result="refused"}"#, 1.0),
        (r#"tidegate_limit_checks_total{by="key",outcome="refused"}"#, 1.0),
        (r#"tidegate_limit_checks_total{by="key",outcome="passed"}"#, 0.0),
        ("tidegate_limit_alone_total", 1.0),
        ("tidegate_limit_evictions_total", 5.0),
        (r#"tidegate_connections_refused_total{reason="max_connections_per_address"}"#, 1.0),
        (r#"tidegate_connections_refused_total{reason="max_connections"}"#, 0.0),
        (r#"tidegate_connections_cut_total{reason="body_rate"}"#, 1.0),
        (r#"tidegate_connections_limit"#, 9.0),
        (r#"tidegate_flights_total{role="leader"}"#, 1.0),
        (r#"tidegate_flights_total{role="follower"}"#, 1.0),
        (r#"tidegate_flight_wait_seconds_sum"#, 0.004),
        (r#"tidegate_fills_total{outcome="set_cookie"}"#, 1.0),
        (r#"tidegate_fill_duration_seconds_count"#, 1.0),
        (r#"tidegate_encoding_duration_seconds_count{coding="zstd"}"#, 1.0),
        (r#"tidegate_bumps_total"#, 1.0),
        (r#"tidegate_purges_total{kind="invalidation"}"#, 1.0),
        (r#"tidegate_purges_total{kind="url"}"#, 0.0),
        (r#"tidegate_tags_ignored_total"#, 2.0),
        ("tidegate_variant_evictions_total", 3.0),
        (r#"tidegate_invalidations_total{kind="lost"}"#, 1.0),
        (r#"tidegate_store_calls_total{call="get",outcome="timeout"}"#, 1.0),
        (r#"tidegate_store_calls_total{call="get",outcome="ok"}"#, 0.0),
        (r#"tidegate_store_calls_total{call="put",outcome="ok"}"#, 1.0),
        (r#"tidegate_store_call_duration_seconds_count{call="get"}"#, 1.0),
        (r#"tidegate_store_up"#, 1.0),
        (r#"tidegate_store_tracking"#, 0.0),
        (r#"tidegate_events_total{result="replayed"}"#, 1.0),
        (r#"tidegate_origin_requests_total{origin="app",outcome="breaker_open"}"#, 1.0),
        (r#"tidegate_origin_server_up{origin="app",server="1"}"#, 0.0),
        (r#"tidegate_origin_requests_under_way{origin="app"}"#, 1.0),
        (r#"tidegate_origin_queue_length{origin="app"}"#, 1.0),
        (r#"tidegate_origin_ejections_total{origin="app",reason="retry_after"}"#, 1.0),
        (r#"tidegate_log_lines_dropped_total"#, 3.0),
        (r#"tidegate_tls_certificate_expiry_time_seconds{certificate="0",listener="0"}"#, 4_000_000_002.0),
        (r#"tidegate_tls_handshakes_total{result="not_tls"}"#, 1.0),
        (r#"tidegate_tls_certificate_reloads_total{result="refused"}"#, 1.0),
        (r#"tidegate_proxy_headers_total{result="local"}"#, 1.0),
        (r#"tidegate_http2_connections_total{end="flood"}"#, 1.0),
    ];
    for (series, value) in expected {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
    let certificates = samples.keys().filter(|series| series.contains("certificate_expiry")).count();
    assert_eq!(certificates, 1, "one that is shown no more has no series");
}

#[test]
fn without_redis_the_store_has_no_state() {
    assert!(!metrics().render().contains("tidegate_store_up"));
}

#[test]
fn a_connection_is_open_as_long_as_its_guard() {
    let metrics = metrics();
    let open = || samples(&metrics.render())["tidegate_connections_open"];
    let first = metrics.connection();
    let second = metrics.connection();
    assert_eq!(open(), 2.0);
    drop(first);
    assert_eq!(open(), 1.0);
    drop(second);
    assert_eq!(open(), 0.0);
    assert_eq!(samples(&metrics.render())["tidegate_connections_accepted_total"], 2.0);
}

#[test]
fn memory_is_asked_at_each_scrape_and_evictions_never_fall() {
    let metrics = metrics();
    let evictions = Arc::new(Mutex::new(5));
    let probed = Arc::clone(&evictions);
    metrics.memory_probe(Box::new(move || MemoryStats {
        bytes: 10,
        entries: 2,
        evictions: *probed.lock(),
        capacity: 100,
        doubt: Duration::from_millis(1_500),
    }));
    for (now, shown) in [(5, 5.0), (5, 5.0), (9, 9.0), (1, 9.0)] {
        *evictions.lock() = now;
        let samples = samples(&metrics.render());
        assert_eq!(samples["tidegate_memory_evictions_total"], shown);
        assert_eq!(samples["tidegate_memory_bytes"], 10.0);
        assert_eq!(samples["tidegate_memory_entries"], 2.0);
        assert_eq!(samples["tidegate_memory_capacity_bytes"], 100.0);
        assert_eq!(samples["tidegate_store_doubt_seconds"], 1.5);
    }
}

#[test]
fn what_is_declared_is_what_is_shown() {
    let metrics = everything();
    let text = metrics.render();
    let shown: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let declared: BTreeSet<&str> = metrics.families.iter().map(|family| family.name).collect();
    assert_eq!(shown, declared);
    assert!(declared.iter().all(|name| name.starts_with("tidegate_")));
    for family in metrics.families.iter() {
        assert_eq!(family.name.ends_with("_total"), family.kind == "counter", "{}", family.name);
    }
}

/// The first four cells of a family's row in `docs/metrics.md`.
fn row(family: &DeclaredFamily) -> String {
    let labels: Vec<String> = family
        .labels
        .iter()
        .map(|label| match label.values {
            LabelValues::Configured => format!("`{}`", label.name),
            LabelValues::Listed(values) => {
                let values: Vec<String> = values().iter().map(|value| format!("`{value}`")).collect();
                format!("`{}`: {}", label.name, values.join(" "))
            }
        })
        .collect();
    let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
    format!("| `{}` | {} | {} | {} |", family.name, family.kind, family.unit, labels)
}

#[test]
fn the_page_tells_every_metric_and_no_other() {
    let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md"));
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let families = metrics().families;
    for family in &families {
        let expected = row(family);
        assert!(
            rows.iter().any(|row| row.starts_with(&expected)),
            "docs/metrics.md lacks a row that begins with\n{expected}"
        );
    }
    assert_eq!(rows.len(), families.len(), "a row too many, or the same metric twice");
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 6, "{row}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{row}");
    }
}
