//! Tests of the access log: nobody waits for it, nothing is lost unseen, and what happened first stands first.

use super::*;
use proptest::prelude::*;
use serde_json::Value;
use std::sync::mpsc;

/// A place for lines, whose writes can be held up by holding the lock.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(bytes.ends_with(b"\n"), "whole lines at a time");
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn json(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().clone()).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new().expect("the declarations agree"))
}

fn start(sink: impl Write + Send + 'static, metrics: &Arc<Metrics>, flush: Duration) -> AccessLog {
    AccessLog { writer: Writer::start(Form::Json, sink, metrics.clone(), flush) }
}

fn dropped(metrics: &Metrics) -> u64 {
    let text = metrics.render();
    let line = text.lines().find(|line| line.starts_with("tidegate_access_records_dropped_total "));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("a counter")
}

fn record(path: &[u8]) -> Record<'_> {
    Record {
        began: Instant::now(),
        duration: Duration::ZERO,
        request_id: b"0f3a",
        client: [192, 0, 2, 7].into(),
        method: "GET",
        host: b"dash.example",
        path,
        version: http::Version::HTTP_11,
        status: 200,
        bytes: 300,
        route: Some("kpi"),
        tenant: None,
        result: CacheResult::Hit,
        detail: None,
        origin: None,
    }
}

#[test]
fn drop_waits_for_all_that_was_recorded() {
    let (lines, metrics) = (Lines::default(), metrics());
    let log = Arc::new(start(lines.clone(), &metrics, FLUSH));
    assert!(log.is_on());
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let log = log.clone();
            thread::spawn(move || (0..500).for_each(|_| log.record(&record(b"/"))))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    drop(log);
    assert_eq!((lines.json().len(), dropped(&metrics)), (8 * 500, 0));
}

#[test]
fn what_was_recorded_is_written_soon_and_by_a_flush_at_once() {
    let lines = Lines::default();
    let log = start(lines.clone(), &metrics(), FLUSH);
    for round in 1..20 {
        log.record(&record(b"/"));
        assert!(log.flush(Duration::from_secs(60)));
        assert_eq!(lines.json().len(), round);
    }
    // Once more, out of its sleep.
    let begun = Instant::now();
    while !log.writer.as_ref().unwrap().shared.asleep.load(Ordering::Relaxed) {
        assert!(begun.elapsed() < Duration::from_secs(60), "the writer never sleeps");
        thread::sleep(Duration::from_millis(1));
    }
    log.record(&record(b"/"));
    while lines.json().len() < 20 {
        assert!(begun.elapsed() < Duration::from_secs(60), "nobody woke the writer");
        thread::sleep(Duration::from_millis(1));
    }
}

/// One thing after the other, each time by another thread, while other threads have records as well.
#[test]
fn order_holds_whichever_threads_serve() {
    let (lines, metrics) = (Lines::default(), metrics());
    let log = Arc::new(start(lines.clone(), &metrics, FLUSH));
    let stop = Arc::new(AtomicBool::new(false));
    let noise = {
        let (log, stop) = (log.clone(), stop.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                log.record(&record(b"/noise"));
                thread::sleep(Duration::from_micros(50));
            }
        })
    };
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..4).map(|_| mpsc::sync_channel::<u32>(1)).unzip();
    let steps = 2_000;
    let threads: Vec<_> = receivers
        .into_iter()
        .enumerate()
        .map(|(which, turns)| {
            let (next, log) = (senders[(which + 1) % 4].clone(), log.clone());
            thread::spawn(move || {
                for turn in turns {
                    // On two threads no two things happen within a microsecond.
                    log.record(&record(format!("/{turn}").as_bytes()));
                    let until = Instant::now() + Duration::from_micros(2);
                    while Instant::now() < until {}
                    if turn + 1 >= steps || next.send(turn + 1).is_err() {
                        return;
                    }
                }
            })
        })
        .collect();
    senders[0].send(0).unwrap();
    drop(senders);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    stop.store(true, Ordering::Relaxed);
    noise.join().unwrap();
    drop(log);
    let paths = lines.json().into_iter().map(|line| line["path"].as_str().unwrap().to_owned());
    let turns: Vec<_> = paths.filter(|path| path != "/noise").collect();
    assert_eq!(turns, (0..steps).map(|turn| format!("/{turn}")).collect::<Vec<_>>());
}

#[test]
fn a_full_buffer_drops_and_counts_and_holds_nobody_up() {
    let (lines, metrics) = (Lines::default(), metrics());
    let log = start(lines.clone(), &metrics, Duration::from_secs(60));
    let held = lines.0.lock();
    // The writer may have taken one full buffer; it is held up by its line.
    let sent = 4 * MOST / 200;
    for _ in 0..sent {
        log.record(&record(b"/api/widgets/kpi"));
    }
    assert!(log.writer.as_ref().unwrap().shared.places.iter().all(|place| place.0.lock().len() <= MOST));
    let lost = dropped(&metrics);
    assert!(lost > 0);
    drop(held);
    drop(log);
    assert_eq!(lines.json().len() as u64 + lost, sent as u64);
}

#[test]
fn a_stuck_log_does_not_hold_up_the_end() {
    let lines = Lines::default();
    let log = start(lines.clone(), &metrics(), Duration::from_millis(20));
    let held = lines.0.lock();
    log.record(&record(b"/"));
    assert!(!log.flush(Duration::from_millis(10)));
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

/// A place for lines that is gone.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_cannot_be_written_is_counted() {
    let metrics = metrics();
    let log = start(Gone, &metrics, FLUSH);
    (0..1000).for_each(|_| log.record(&record(b"/")));
    drop(log);
    assert_eq!(dropped(&metrics), 1000);
}

#[test]
fn switched_off_it_takes_nothing() {
    let metrics = metrics();
    let log =
        AccessLog::start(Log { format: crate::config::LogFormat::Json, access: false }, metrics.clone());
    assert!(!log.is_on());
    log.record(&record(b"/"));
    assert!(log.flush(Duration::ZERO));
    drop(log);
    assert_eq!(dropped(&metrics), 0);
}

#[test]
fn instants_have_their_time_of_day() {
    let clock = Clock { zero: Instant::now(), at_zero: AtomicU64::new(5_000_000_000) };
    let (second, zero) = (Duration::from_secs(1), clock.zero);
    let span = |began| clock.span(began, Duration::from_millis(5));
    assert_eq!(span(zero + second), Span { began: 6_000_000_000, ended: 6_005_000_000 });
    if let Some(before) = zero.checked_sub(second) {
        assert_eq!(span(before).began, 4_000_000_000);
    }
    clock.read();
    assert!(span(zero).began > 1_700_000_000_000_000_000);
}

proptest! {
    #[test]
    fn merged_lines_are_in_order_and_none_is_lost(
        buffers in prop::collection::vec(prop::collection::vec(0..50_u8, 0..12), 0..6),
    ) {
        // Within a buffer times rise.
        let mut buffers = buffers;
        buffers.iter_mut().for_each(|times| times.sort_unstable());
        let line = |time: &u8| format!("1994-11-06T08:49:37.{time:06}Z {time}\n");
        let texts: Vec<Vec<u8>> =
            buffers.iter().map(|times| times.iter().map(line).collect::<String>().into_bytes()).collect();
        let mut merged = Vec::new();
        merge(&texts, Form::Text, &mut merged);
        let mut all: Vec<u8> = buffers.concat();
        all.sort_unstable();
        prop_assert_eq!(String::from_utf8(merged).unwrap(), all.iter().map(line).collect::<String>());
    }

    #[test]
    fn long_output_goes_out_in_whole_lines(lengths in prop::collection::vec(1..100_000_usize, 0..8)) {
        let text: String = lengths.iter().map(|length| "x".repeat(*length) + "\n").collect();
        let mut lines = Lines::default();
        prop_assert_eq!(write(&mut lines, text.as_bytes()), 0);
        let written = lines.0.lock().clone();
        prop_assert_eq!(written, text.into_bytes());
    }
}
