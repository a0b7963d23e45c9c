//! Tests of the queue of log lines: no caller waits for it, no loss is uncounted, and lines are in order.

use super::*;
use crate::telemetry::CacheResult;
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

/// Longer than any machine takes.
const LONG: Duration = Duration::from_secs(60);

fn start(sink: impl Write + Send + 'static) -> LogQueue {
    LogQueue::start(LineFormat::Json, sink).expect("a thread")
}

fn record(path: &[u8]) -> AccessRecord<'_> {
    AccessRecord {
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
fn a_flush_waits_for_all_that_was_queued() {
    let lines = Lines::default();
    let queue = start(lines.clone());
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let queue = queue.clone();
            thread::spawn(move || (0..500).for_each(|_| queue.add_record(&record(b"/"))))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(queue.flush(LONG));
    assert_eq!((lines.json().len(), queue.dropped()), (8 * 500, 0));
}

#[test]
fn what_was_queued_is_written_soon_and_by_a_flush_at_once() {
    let lines = Lines::default();
    let queue = start(lines.clone());
    for round in 1..20 {
        queue.add_record(&record(b"/"));
        assert!(queue.flush(LONG));
        assert_eq!(lines.json().len(), round);
    }
    // Once more, out of its sleep.
    let begun = Instant::now();
    while !queue.shared.asleep.load(Ordering::Relaxed) {
        assert!(begun.elapsed() < LONG, "the writer never sleeps");
        thread::sleep(Duration::from_millis(1));
    }
    queue.add_record(&record(b"/"));
    while lines.json().len() < 20 {
        assert!(begun.elapsed() < LONG, "nobody woke the writer");
        thread::sleep(Duration::from_millis(1));
    }
}

/// One thing after the other, each time by another thread, while other threads have records as well.
#[test]
fn order_holds_whichever_threads_serve() {
    let lines = Lines::default();
    let queue = start(lines.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let noise = {
        let (queue, stop) = (queue.clone(), stop.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                queue.add_record(&record(b"/noise"));
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
            let (next, queue) = (senders[(which + 1) % 4].clone(), queue.clone());
            thread::spawn(move || {
                for turn in turns {
                    // On two threads no two things happen within a microsecond.
                    queue.add_record(&record(format!("/{turn}").as_bytes()));
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
    assert!(queue.flush(LONG));
    let paths = lines.json().into_iter().map(|line| line["path"].as_str().unwrap().to_owned());
    let turns: Vec<_> = paths.filter(|path| path != "/noise").collect();
    assert_eq!(turns, (0..steps).map(|turn| format!("/{turn}")).collect::<Vec<_>>());
}

#[test]
fn a_full_buffer_drops_and_counts_and_holds_nobody_up() {
    type Add = fn(&LogQueue);
    let kinds: [Add; 2] = [
        |queue| queue.add_record(&record(b"/api/widgets/kpi")),
        |queue| queue.add_line(format!("{{\"message\":\"{}\"}}\n", "x".repeat(300)).as_bytes()),
    ];
    for add in kinds {
        let lines = Lines::default();
        let queue = start(lines.clone());
        let held = lines.0.lock();
        // The writer may have taken one full buffer; it is held up by its line.
        let sent = 4 * MAX_QUEUED_BYTES / 200;
        (0..sent).for_each(|_| add(&queue));
        assert!(queue.shared.buffers.iter().all(|buffer| buffer.0.lock().len() <= MAX_QUEUED_BYTES));
        let lost = queue.dropped();
        assert!(lost > 0);
        drop(held);
        assert!(queue.flush(LONG));
        assert_eq!(lines.json().len() as u64 + lost, sent as u64);
    }
}

#[test]
fn a_flush_of_a_stuck_log_ends_in_time() {
    let lines = Lines::default();
    let queue = start(lines.clone());
    let held = lines.0.lock();
    queue.add_record(&record(b"/"));
    let (done, ended) = mpsc::channel();
    let flushed = queue.clone();
    thread::spawn(move || done.send(flushed.flush(Duration::from_millis(20))));
    assert_eq!(ended.recv_timeout(LONG), Ok(false));
    drop(held);
    assert!(queue.flush(LONG));
    assert_eq!(lines.json().len(), 1);
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
    let queue = start(Gone);
    (0..1000).for_each(|_| queue.add_record(&record(b"/")));
    assert!(queue.flush(LONG));
    assert_eq!(queue.dropped(), 1000);
}

/// The fate of the next bytes: so many of them are taken, or an error comes.
struct Scripted(Vec<Result<usize, io::ErrorKind>>, Vec<u8>);

impl Write for Scripted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = if self.0.is_empty() { bytes.len() } else { self.0.remove(0)?.min(bytes.len()) };
        self.1.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn errors_tear_no_other_line_and_what_may_pass_is_waited_for() {
    use io::ErrorKind::{Interrupted, StorageFull, WouldBlock};
    type Row<'r> = (&'r [Result<usize, io::ErrorKind>], u64, &'r str);
    let rows: [Row<'_>; 5] = [
        (&[Ok(3), Err(Interrupted), Ok(1)], 0, "first\nsecond\nthird\n"),
        (&[Ok(3), Err(WouldBlock), Err(WouldBlock), Ok(5)], 0, "first\nsecond\nthird\n"),
        (&[Err(StorageFull)], 2, "third\n"),
        (&[Ok(6), Err(StorageFull)], 1, "first\nthird\n"),
        (&[Ok(8), Err(StorageFull)], 1, "first\nse\nthird\n"),
    ];
    for (script, lost, expected) in rows {
        let mut sink = LogSink { sink: Scripted(script.to_vec(), Vec::new()), is_torn: false, works: false };
        let counted = sink.write(b"first\nsecond\n");
        assert_eq!((counted, sink.works), (lost, lost == 0), "{script:?}");
        assert_eq!((sink.write(b"third\n"), sink.works), (0, true), "{script:?}");
        assert_eq!(String::from_utf8(sink.sink.1).unwrap(), expected, "{script:?}");
    }
}

#[test]
fn lines_of_a_terminal_have_their_time() {
    let coloured = b"\x1b[2m1994-11-06T08:49:37.000001Z\x1b[0m \x1b[32m INFO\x1b[0m tidegate: ready\n";
    assert_eq!(LineFormat::Text.stamp_of(coloured), Some(&b"1994-11-06T08:49:37.000001Z"[..]));
    assert_eq!(LineFormat::Text.stamp_of(b"short\n"), None);
}

#[test]
fn instants_have_their_time_of_day() {
    let clock = RecordClock { zero: Instant::now(), at_zero: AtomicU64::new(5_000_000_000) };
    let (second, zero) = (Duration::from_secs(1), clock.zero);
    let span = |began| clock.span(began, Duration::from_millis(5));
    assert_eq!(span(zero + second), RequestSpan { began: 6_000_000_000, ended: 6_005_000_000 });
    if let Some(before) = zero.checked_sub(second) {
        assert_eq!(span(before).began, 4_000_000_000);
    }
    clock.read();
    assert!(span(zero).began > 1_700_000_000_000_000_000);
}

#[test]
fn a_message_of_several_lines_stays_together() {
    let at = |micros: u8, text: &str| format!("1994-11-06T08:49:37.00000{micros}Z {text}\n");
    let (one, four) = (at(1, "one\n  because\n\nof two"), at(4, "four"));
    let (two, three) = (at(2, "two"), at(3, "three\nand more"));
    let mut merged = Vec::new();
    let buffers = [format!("{one}{four}"), format!("no time\n{two}{three}")].map(String::into_bytes);
    merge(&buffers, LineFormat::Text, &mut merged);
    assert_eq!(String::from_utf8(merged).unwrap(), format!("no time\n{one}{two}{three}{four}"));
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
        merge(&texts, LineFormat::Text, &mut merged);
        let mut all: Vec<u8> = buffers.concat();
        all.sort_unstable();
        prop_assert_eq!(String::from_utf8(merged).unwrap(), all.iter().map(line).collect::<String>());
    }

    #[test]
    fn long_output_goes_out_in_whole_lines(lengths in prop::collection::vec(1..100_000_usize, 0..8)) {
        let text: String = lengths.iter().map(|length| "x".repeat(*length) + "\n").collect();
        let lines = Lines::default();
        let mut sink = LogSink { sink: lines.clone(), is_torn: false, works: false };
        prop_assert_eq!(sink.write(text.as_bytes()), 0);
        let written = lines.0.lock().clone();
        prop_assert_eq!(written, text.into_bytes());
    }
}
