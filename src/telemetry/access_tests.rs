//! Tests of the access log: what a record looks like, and that nobody waits for it.

use super::super::subscribe::dispatch;
use super::*;
use crate::config::LogFormat;
use serde_json::{json, Value};
use std::{
    io::{self, Write},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Instant, UNIX_EPOCH},
};
use tracing::Dispatch;
use tracing_subscriber::{fmt::MakeWriter, EnvFilter};

/// A place for lines, whose writes can be held up by holding the lock.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Lines {
    fn dispatch(&self, json: bool) -> Dispatch {
        dispatch(json, false, EnvFilter::new("info"), self.clone())
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).expect("UTF-8")
    }

    fn json(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new().expect("the declarations agree"))
}

fn start(lines: &Lines, json: bool, metrics: &Arc<Metrics>) -> AccessLog {
    let log = Log { format: LogFormat::Json, access: true };
    tracing::dispatcher::with_default(&lines.dispatch(json), || AccessLog::start(log, Arc::clone(metrics)))
}

fn dropped(metrics: &Metrics) -> u64 {
    let text = metrics.render();
    let line = text.lines().find(|line| line.starts_with("tidegate_access_records_dropped_total "));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("a counter")
}

fn record() -> Record {
    Record {
        time: UNIX_EPOCH + Duration::from_secs(784_111_777),
        request_id: "0f3a".to_owned(),
        client: [192, 0, 2, 7].into(),
        method: http::Method::GET,
        host: "dash.example".to_owned(),
        path: "/api/widgets/kpi".to_owned(),
        version: http::Version::HTTP_11,
        status: 200,
        bytes: 300,
        duration: Duration::from_micros(1234),
        route: Some("kpi".parse().expect("a name")),
        tenant: Some("acme".parse().expect("a name")),
        result: CacheResult::Miss,
        detail: Some("cold"),
        origin: Some(Duration::from_millis(150)),
    }
}

#[test]
fn a_record_is_one_json_line_that_drop_waits_for() {
    let lines = Lines::default();
    let log = start(&lines, true, &metrics());
    assert!(log.is_on());
    log.record(record());
    drop(log);
    let mut written = lines.json();
    assert_eq!(written.len(), 1);
    let fields = written[0].as_object_mut().expect("an object");
    assert!(fields.remove("timestamp").is_some());
    let expected = json!({
        "level": "INFO", "target": "access", "time": "1994-11-06T08:49:37Z", "request_id": "0f3a",
        "client": "192.0.2.7", "method": "GET", "host": "dash.example", "path": "/api/widgets/kpi",
        "version": "HTTP/1.1", "status": 200, "bytes": 300, "duration_ms": 1.234, "route": "kpi",
        "tenant": "acme", "result": "miss", "detail": "cold", "origin_ms": 150.0,
    });
    assert_eq!(written[0], expected);
}

#[test]
fn what_is_not_known_is_left_out_and_queries_are_cut() {
    let lines = Lines::default();
    let log = start(&lines, true, &metrics());
    let path = "/x?token=eyJhbGciOi".to_owned();
    log.record(Record { path, route: None, tenant: None, detail: None, origin: None, ..record() });
    drop(log);
    let written = lines.json();
    assert_eq!(written[0]["path"], "/x");
    for absent in ["route", "tenant", "detail", "origin_ms"] {
        assert!(written[0].get(absent).is_none(), "{absent}");
    }
    assert!(!lines.text().contains("eyJ"));
}

#[test]
fn as_text_nothing_sent_can_begin_a_line_or_a_colour() {
    let lines = Lines::default();
    let log = start(&lines, false, &metrics());
    log.record(Record { host: "a\nb\u{1b}[31m".to_owned(), path: "/a b\r\n".to_owned(), ..record() });
    drop(log);
    let text = lines.text();
    assert_eq!(text.lines().count(), 1, "{text:?}");
    assert!(text.trim_end().bytes().all(|b| b >= b' '), "{text:?}");
    assert!(text.contains("access:") && text.contains(r#"result="miss""#), "{text:?}");
}

#[test]
fn a_full_queue_drops_and_counts_and_holds_nobody_up() {
    let lines = Lines::default();
    let metrics = metrics();
    let mut log = start(&lines, true, &metrics);
    log.writer.as_mut().expect("a writer").flush = Duration::from_secs(60);
    let held = lines.0.lock();
    let sent = QUEUE + 100;
    for _ in 0..sent {
        log.record(record());
    }
    // The writer has taken one at most: it is held up by its line.
    let lost = dropped(&metrics);
    assert!((99..=100).contains(&lost), "{lost}");
    drop(held);
    drop(log);
    assert_eq!(lines.json().len() as u64 + lost, sent as u64);
}

#[test]
fn a_stuck_log_does_not_hold_up_the_end() {
    let lines = Lines::default();
    let mut log = start(&lines, true, &metrics());
    log.writer.as_mut().expect("a writer").flush = Duration::from_millis(20);
    let held = lines.0.lock();
    log.record(record());
    let (done, ended) = mpsc::channel::<()>();
    let begun = Instant::now();
    thread::spawn(move || {
        drop(log);
        drop(done);
    });
    assert_eq!(ended.recv_timeout(Duration::from_secs(30)), Err(RecvTimeoutError::Disconnected));
    assert!(begun.elapsed() >= Duration::from_millis(20), "it was not stuck");
    drop(held);
}

#[test]
fn switched_off_it_writes_and_counts_nothing() {
    let lines = Lines::default();
    let metrics = metrics();
    let log = Log { format: LogFormat::Json, access: false };
    let log = tracing::dispatcher::with_default(&lines.dispatch(true), || {
        AccessLog::start(log, Arc::clone(&metrics))
    });
    assert!(!log.is_on());
    log.record(record());
    drop(log);
    assert_eq!((lines.text().as_str(), dropped(&metrics)), ("", 0));
}
