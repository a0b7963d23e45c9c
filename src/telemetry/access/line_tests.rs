//! Tests of the lines of access records: what they hold, and that nothing in them ends them early.

use super::*;
use crate::telemetry::CacheResult;
use proptest::prelude::*;
use serde_json::{json, Value};
use std::time::Instant;
use time::{format_description::well_known::Rfc3339, OffsetDateTime};

const SPAN: RequestSpan = RequestSpan { began: 784_111_777 * NANOS, ended: 784_111_777 * NANOS + 1_234_567 };

fn record() -> AccessRecord<'static> {
    AccessRecord {
        began: Instant::now(),
        duration: Duration::from_micros(1234),
        request_id: b"0f3a",
        client: [192, 0, 2, 7].into(),
        method: "GET",
        host: b"dash.example",
        path: b"/api/widgets/kpi",
        version: http::Version::HTTP_11,
        status: 200,
        bytes: 300,
        route: Some("kpi"),
        tenant: Some("acme"),
        result: CacheResult::Miss,
        detail: Some("cold"),
        origin: Some(Duration::from_millis(150)),
    }
}

fn line(form: LineFormat, record: &AccessRecord<'_>, span: RequestSpan) -> String {
    let mut out = Vec::new();
    form.write(&mut out, record, span);
    let line = String::from_utf8(out).expect("UTF-8");
    assert!(line.ends_with('\n') && line.lines().count() == 1, "{line:?}");
    line
}

fn parsed(record: &AccessRecord<'_>, span: RequestSpan) -> Value {
    serde_json::from_str(&line(LineFormat::Json, record, span)).expect("a JSON line")
}

#[test]
fn a_record_as_json() {
    let expected = concat!(
        r#"{"timestamp":"1994-11-06T08:49:37.001234Z","level":"INFO","time":"1994-11-06T08:49:37Z","#,
        r#""request_id":"0f3a","client":"192.0.2.7","method":"GET","host":"dash.example","#,
        r#""path":"/api/widgets/kpi","version":"HTTP/1.1","status":200,"bytes":300,"duration_ms":1.234,"#,
        r#""route":"kpi","tenant":"acme","result":"miss","detail":"cold","origin_ms":150.0,"#,
        r#""target":"access"}"#,
        "\n"
    );
    assert_eq!(line(LineFormat::Json, &record(), SPAN), expected);
}

#[test]
fn a_record_as_text() {
    let expected = concat!(
        r#"1994-11-06T08:49:37.001234Z  INFO access: time="1994-11-06T08:49:37Z" request_id="0f3a" "#,
        r#"client=192.0.2.7 method="GET" host="dash.example" path="/api/widgets/kpi" version=HTTP/1.1 "#,
        r#"status=200 bytes=300 duration_ms=1.234 route="kpi" tenant="acme" result="miss" "#,
        r#"detail="cold" origin_ms=150.0"#,
        "\n"
    );
    assert_eq!(line(LineFormat::Text, &record(), SPAN), expected);
}

#[test]
fn what_is_not_known_is_left_out_and_queries_are_cut() {
    let path = b"/x?token=eyJhbGciOi".as_slice();
    let record = AccessRecord { path, route: None, tenant: None, detail: None, origin: None, ..record() };
    let written = parsed(&record, SPAN);
    assert_eq!(written["path"], "/x");
    for absent in ["route", "tenant", "detail", "origin_ms"] {
        assert!(written.get(absent).is_none(), "{absent}");
        assert!(!line(LineFormat::Text, &record, SPAN).contains(&format!("{absent}=")), "{absent}");
    }
    for form in [LineFormat::Json, LineFormat::Text] {
        assert!(!line(form, &record, SPAN).contains("eyJ"));
    }
}

#[test]
fn versions_are_named_as_http_names_them() {
    for version in [
        http::Version::HTTP_09,
        http::Version::HTTP_10,
        http::Version::HTTP_11,
        http::Version::HTTP_2,
        http::Version::HTTP_3,
    ] {
        assert_eq!(version_name(version), format!("{version:?}"));
    }
}

fn some_text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        any::<String>().prop_map(String::into_bytes),
        "[a-z/]{0,80}".prop_map(String::into_bytes),
        Just(b"\"\\\n\r\t\x00\x1f\x7f\x08\x0c".to_vec()),
    ]
}

proptest! {
    #[test]
    fn any_bytes_come_back_as_they_were(
        texts in [some_text(), some_text(), some_text()],
        words in [any::<String>(), any::<String>(), any::<String>(), any::<String>()],
        client in any::<IpAddr>(),
        (status, bytes) in (any::<u16>(), any::<u64>()),
        (duration, origin) in (0..u64::from(u32::MAX) * 1_000, 0..10_000_000_u64),
        result in 0..CacheResult::ALL.len(),
    ) {
        let [request_id, host, path] = &texts;
        let [method, route, tenant, detail] = &words;
        let record = AccessRecord {
            request_id, host, path, client, status, bytes, method,
            route: Some(route), tenant: Some(tenant), detail: Some(detail),
            result: CacheResult::ALL[result],
            duration: Duration::from_micros(duration),
            origin: Some(Duration::from_micros(origin)),
            ..record()
        };
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let ms = |micros: u64| micros as f64 / 1000.0;
        let path = lossy(path.split(|b| *b == b'?').next().unwrap());
        prop_assert_eq!(parsed(&record, SPAN), json!({
            "timestamp": "1994-11-06T08:49:37.001234Z", "level": "INFO", "time": "1994-11-06T08:49:37Z",
            "request_id": lossy(request_id), "client": client.to_string(), "method": method,
            "host": lossy(host), "path": path, "version": "HTTP/1.1", "status": status, "bytes": bytes,
            "duration_ms": ms(duration), "route": route, "tenant": tenant,
            "result": record.result.as_str(), "detail": detail, "origin_ms": ms(origin), "target": "access",
        }));
        let text = line(LineFormat::Text, &record, SPAN);
        prop_assert!(text.trim_end().bytes().all(|b| b >= b' '), "{:?}", text);
    }

    #[test]
    fn times_are_those_of_the_calendar(began in any::<u64>()) {
        let span = RequestSpan { began, ended: began };
        let written = parsed(&record(), span);
        let known = OffsetDateTime::from_unix_timestamp_nanos(i128::from(began)).unwrap();
        prop_assert_eq!(&written["time"], &json!(known.format(&Rfc3339).unwrap()));
        let stamp = written["timestamp"].as_str().unwrap();
        let stamp = OffsetDateTime::parse(stamp, &Rfc3339).unwrap();
        prop_assert_eq!(stamp.unix_timestamp_nanos(), i128::from(began / 1000 * 1000));
        for form in [LineFormat::Json, LineFormat::Text] {
            let line = line(form, &record(), span);
            prop_assert!(OffsetDateTime::parse(str::from_utf8(form.stamp_of(line.as_bytes()).unwrap()).unwrap(), &Rfc3339).is_ok());
        }
    }
}
