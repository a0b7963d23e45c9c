//! The queue of log lines: a caller never waits, a thread of its own writes.
//!
//! Every line of the process goes this way, access records and those of `tracing`: a standard error that no
//! one reads (a full pipe) stops the writer thread only. An access record is written into a buffer of its
//! thread: as a rule no allocation, no contended lock, no system call. All other lines share one buffer. The
//! writer takes all buffers at once, merges their lines by time and writes them together: records at the
//! latest after 50 ms, other lines at once. So the records of a connection stay in order, whichever threads
//! served it. If a buffer is full, the line is dropped and counted; as soon as lines can be written again,
//! one of them reports the number of dropped lines.

use crate::{
    clock,
    telemetry::{
        access::{
            line::{LineFormat, RequestSpan},
            record::AccessRecord,
        },
        metrics::thread_slot::{self, CacheAligned},
    },
};

use parking_lot::{Condvar, Mutex};
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::{self, Write},
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc, OnceLock,
    },
    thread::{self, Thread},
    time::{Duration, Instant, UNIX_EPOCH},
};

/// Bytes of lines that may wait for the writer, per buffer.
const MAX_QUEUED_BYTES: usize = 1 << 20;
/// Bytes by which a buffer grows before the writer is woken.
const WAKE_AT: usize = 1 << 16;
/// Bytes that are written at a time, up to the end of a line.
const AT_ONCE: usize = 1 << 16;
/// The time for which the writer lets lines gather: a wake-up costs a request more than the record itself.
const GATHER: Duration = Duration::from_millis(50);
/// The interval at which a writer without work looks at the clocks.
const IDLE: Duration = Duration::from_secs(1);
/// The interval of attempts to write to a non-blocking standard error that is full.
const TRY_AGAIN: Duration = Duration::from_millis(10);
/// The time between two reports of dropped lines.
const BETWEEN_REPORTS: Duration = Duration::from_secs(1);

/// The time for which the end of the process waits for the last lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The queue of the process: there is one standard error.
static OF_PROCESS: OnceLock<Option<LogQueue>> = OnceLock::new();

/// Writes a text to standard error, after the queued log lines.
pub(crate) fn write_to_stderr(text: &str) {
    match LogQueue::of_process() {
        Some(queue) => queue.add_line(format!("{text}\n").as_bytes()),
        // A closed standard error has no reader: the error is ignored.
        None => writeln!(io::stderr(), "{text}").unwrap_or_default(),
    }
}

/// Waits, when it is dropped, until the queued log lines are written, 2 s at most.
#[derive(Debug)]
#[must_use = "lines that are queued are lost with the process"]
pub(crate) struct FlushGuard;

impl Drop for FlushGuard {
    fn drop(&mut self) {
        if let Some(queue) = LogQueue::of_process() {
            // Lines that are not written in time are lost: there is nowhere to report them.
            queue.flush(FLUSH_TIMEOUT);
        }
    }
}

/// The queue of log lines.
#[derive(Debug, Clone)]
pub(crate) struct LogQueue {
    shared: Arc<QueueShared>,
    thread: Thread,
}

/// The state that callers and the writer share.
#[derive(Debug)]
struct QueueShared {
    form: LineFormat,
    clock: RecordClock,
    /// Records that wait, by the slot of the thread that wrote them, and after them all other lines.
    buffers: Box<[CacheAligned<Mutex<Vec<u8>>>]>,
    /// True if the writer sleeps until it is woken: the first line wakes it.
    asleep: AtomicBool,
    /// True if a line waits that must be written at once.
    urgent: AtomicBool,
    /// The number of lines dropped so far.
    dropped: AtomicU64,
    /// The number of times that the writer has taken and written the buffers.
    rounds: Mutex<u64>,
    round_ended: Condvar,
}

impl LogQueue {
    /// The queue to standard error. The first call sets the format and starts the writer. `None` if its
    /// thread can't be started.
    pub(crate) fn to_stderr(form: LineFormat) -> Option<&'static Self> {
        OF_PROCESS.get_or_init(|| Self::start(form, io::stderr()).ok()).as_ref()
    }

    /// The queue to standard error, if it was started.
    pub(crate) fn of_process() -> Option<&'static Self> {
        OF_PROCESS.get().and_then(Option::as_ref)
    }

    /// Starts a writer to `sink`.
    ///
    /// # Errors
    /// If the thread can't be started.
    pub(crate) fn start(form: LineFormat, sink: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(QueueShared {
            form,
            clock: RecordClock::new(),
            buffers: (0..=thread_slot::wanted_slots()).map(|_| CacheAligned::default()).collect(),
            asleep: AtomicBool::new(false),
            urgent: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            rounds: Mutex::new(0),
            round_ended: Condvar::new(),
        });
        let work = LogWriter {
            shared: shared.clone(),
            sink: LogSink { sink, is_torn: false, works: false },
            taken: Vec::new(),
            merged: Vec::new(),
            reported: (0, None),
        };
        let writer = thread::Builder::new().name("log".to_owned()).spawn(move || work.run())?;
        Ok(Self { shared, thread: writer.thread().clone() })
    }

    /// Queues an access record; never waits.
    pub(crate) fn add_record(&self, record: &AccessRecord<'_>) {
        let shared = &*self.shared;
        let span = shared.clock.span(record.began, record.duration);
        let place = thread_slot::current_slot(shared.buffers.len() - 1).number;
        if shared.add(place, |lines| shared.form.write(lines, record, span)) {
            self.thread.unpark();
        }
    }

    /// Queues one or more lines, each with its line feed; never waits. They are written at once: one may be
    /// the last.
    pub(crate) fn add_line(&self, line: &[u8]) {
        self.shared.add(self.shared.buffers.len() - 1, |lines| lines.extend_from_slice(line));
        self.shared.urgent.store(true, Ordering::Relaxed);
        self.thread.unpark();
    }

    /// The number of lines dropped so far: a buffer was full, or they could not be written.
    pub(crate) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all lines queued before are written, or `deadline` is over. Blocks its thread. Returns
    /// true if all are written.
    pub(crate) fn flush(&self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        let mut rounds = self.shared.rounds.lock();
        // The round under way may have taken its lines already; the one after it takes them all.
        let wanted = *rounds + 2;
        while *rounds < wanted {
            self.thread.unpark();
            if Instant::now() >= end {
                return false;
            }
            // Waits in short steps: between two rounds the writer must be woken again.
            self.shared.round_ended.wait_for(&mut rounds, Duration::from_millis(2));
        }
        true
    }
}

/// Queues the lines of `tracing`, each of which comes in one call.
impl Write for &LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.add_line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl QueueShared {
    /// Lets `write` append a line to a buffer. Returns true if the writer has to be woken.
    fn add(&self, buffer: usize, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut lines = self.buffers[buffer].0.lock();
        let before = lines.len();
        write(&mut lines);
        let full = lines.len() > MAX_QUEUED_BYTES;
        if full {
            lines.truncate(before);
        }
        let grown = lines.len() / WAKE_AT != before / WAKE_AT;
        drop(lines);
        if full {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        // The writer sets `asleep` before it looks at this buffer for the last time: either it has seen the
        // line, or this thread sees the flag.
        let asleep = self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed);
        asleep || grown || full
    }

    /// Makes the writer wait while lines gather.
    fn gather(&self) {
        if !self.urgent.swap(false, Ordering::Relaxed) {
            thread::park_timeout(GATHER);
        }
    }

    /// Takes all lines that wait, of all buffers at one moment: a later line is never taken before an earlier
    /// one.
    fn take(&self, into: &mut Vec<Vec<u8>>) {
        into.resize_with(self.buffers.len(), Vec::new);
        let mut all: Vec<_> = self.buffers.iter().map(|buffer| buffer.0.lock()).collect();
        for (lines, taken) in all.iter_mut().zip(into) {
            taken.clear();
            if !lines.is_empty() {
                std::mem::swap(&mut **lines, taken);
            }
        }
    }
}

/// Converts instants to the time of day. One reading of both clocks serves many records.
#[derive(Debug)]
struct RecordClock {
    zero: Instant,
    /// The time at `zero`, in nanoseconds since 1970, by the last reading of the wall clock.
    at_zero: AtomicU64,
}

impl RecordClock {
    fn new() -> Self {
        let clock = Self { zero: Instant::now(), at_zero: AtomicU64::new(0) };
        clock.read();
        clock
    }

    fn read(&self) {
        let now = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.at_zero.store(nanos(now.saturating_sub(self.zero.elapsed())), Ordering::Relaxed);
    }

    fn span(&self, began: Instant, duration: Duration) -> RequestSpan {
        let at_zero = self.at_zero.load(Ordering::Relaxed);
        let began = match began.checked_duration_since(self.zero) {
            Some(after) => at_zero.saturating_add(nanos(after)),
            None => at_zero.saturating_sub(nanos(self.zero.saturating_duration_since(began))),
        };
        RequestSpan { began, ended: began.saturating_add(nanos(duration)) }
    }
}

fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

/// The state of the writer's thread.
struct LogWriter<W> {
    shared: Arc<QueueShared>,
    sink: LogSink<W>,
    taken: Vec<Vec<u8>>,
    merged: Vec<u8>,
    /// The number of dropped lines at the last report, and its time.
    reported: (u64, Option<Instant>),
}

impl<W: Write> LogWriter<W> {
    /// Writes for as long as the process runs.
    fn run(mut self) {
        let shared = self.shared.clone();
        loop {
            shared.clock.read();
            let wrote = self.round();
            *shared.rounds.lock() += 1;
            shared.round_ended.notify_all();
            // After a round without lines the writer sleeps if the next one finds none either: callers see
            // the flag by now.
            if wrote {
                shared.asleep.store(false, Ordering::Relaxed);
                shared.gather();
            } else if shared.asleep.swap(true, Ordering::Relaxed) {
                thread::park_timeout(IDLE);
                if !shared.asleep.load(Ordering::Relaxed) {
                    shared.gather();
                }
            }
        }
    }

    /// Takes and writes all queued lines. Returns true if there were any.
    fn round(&mut self) -> bool {
        self.shared.take(&mut self.taken);
        // Now that the buffers are empty, there is room for the report.
        self.report_dropped();
        let mut filled = self.taken.iter_mut().filter(|lines| !lines.is_empty());
        let (Some(first), second) = (filled.next(), filled.next()) else { return false };
        let lines = if second.is_none() {
            first
        } else {
            self.merged.clear();
            merge(&self.taken, self.shared.form, &mut self.merged);
            &mut self.merged
        };
        let lost = self.sink.write(lines);
        if lost > 0 {
            self.shared.dropped.fetch_add(lost, Ordering::Relaxed);
        }
        // A rush leaves no large buffers behind.
        for buffer in self.taken.iter_mut().chain([&mut self.merged]) {
            if buffer.capacity() > 2 * WAKE_AT && buffer.len() < buffer.capacity() / 4 {
                buffer.clear();
                buffer.shrink_to(2 * WAKE_AT);
            }
        }
        true
    }

    /// Queues a report of the dropped lines for the next round, if lines can be written: otherwise it would
    /// be dropped itself.
    fn report_dropped(&mut self) {
        let (dropped, (told, last)) = (self.shared.dropped.load(Ordering::Relaxed), self.reported);
        if dropped == told || !self.sink.works || last.is_some_and(|last| last.elapsed() < BETWEEN_REPORTS) {
            return;
        }
        self.reported = (dropped, Some(Instant::now()));
        tracing::warn!("{} log lines were dropped: the log's reader is too slow", dropped - told);
    }
}

/// The file that lines are written to.
struct LogSink<W> {
    sink: W,
    /// True if the last line that was written lacks its end.
    is_torn: bool,
    /// True if the last write succeeded.
    works: bool,
}

impl<W: Write> LogSink<W> {
    /// Writes whole lines, many at a time. Returns the number that could not be written.
    fn write(&mut self, mut lines: &[u8]) -> u64 {
        let mut lost = 0;
        while !lines.is_empty() {
            let most = lines.len().min(AT_ONCE);
            let end = memchr::memrchr(b'\n', &lines[..most]).or_else(|| memchr::memchr(b'\n', lines));
            let (now, rest) = lines.split_at(end.map_or(lines.len(), |end| end + 1));
            let unwritten = self.write_all(now);
            lost += memchr::memchr_iter(b'\n', unwritten).count() as u64;
            lines = rest;
        }
        lost
    }

    /// Writes all, however long it takes, or up to the first error. Returns the rest.
    fn write_all<'l>(&mut self, lines: &'l [u8]) -> &'l [u8] {
        if self.is_torn {
            self.is_torn = !self.write_up_to_error(b"\n").is_empty();
        }
        let unwritten = self.write_up_to_error(lines);
        let written = lines.len() - unwritten.len();
        self.works = unwritten.is_empty();
        self.is_torn |= written > 0 && lines[written - 1] != b'\n';
        unwritten
    }

    fn write_up_to_error<'l>(&mut self, mut bytes: &'l [u8]) -> &'l [u8] {
        while !bytes.is_empty() {
            match self.sink.write(bytes) {
                Ok(0) => break,
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process that shares the pipe may have made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(TRY_AGAIN),
                Err(_) => break,
            }
        }
        bytes
    }
}

/// Merges the lines of several buffers by the times that they begin with. Those of one buffer keep their
/// order, and a line without a time stays with the line before it.
fn merge(buffers: &[Vec<u8>], form: LineFormat, into: &mut Vec<u8>) {
    let time_of = |lines: &[u8]| time(lines, form).unwrap_or_default();
    let mut rests: Vec<&[u8]> = buffers.iter().map(Vec::as_slice).filter(|lines| !lines.is_empty()).collect();
    let mut next: BinaryHeap<_> =
        rests.iter().enumerate().map(|(which, lines)| Reverse((time_of(lines), which))).collect();
    while let Some(Reverse((_, which))) = next.pop() {
        let other = next.peek().map(|Reverse((time, _))| *time);
        let mut end = 0;
        // All lines before the first one of any other buffer are taken at once.
        loop {
            end += message(&rests[which][end..], form);
            let lines = &rests[which][end..];
            if lines.is_empty() || other.is_some_and(|other| time_of(lines) > other) {
                break;
            }
        }
        let (now, rest) = rests[which].split_at(end);
        into.extend_from_slice(now);
        rests[which] = rest;
        if !rest.is_empty() {
            next.push(Reverse((time_of(rest), which)));
        }
    }
}

/// The time that a line begins with.
fn time(lines: &[u8], form: LineFormat) -> Option<[u8; 27]> {
    let stamp: [u8; 27] = form.stamp_of(lines)?.try_into().ok()?;
    matches!(stamp, [b'0'..=b'9', .., b'Z']).then_some(stamp)
}

/// The length of the first message: its line, and those after it that have no time. Text may hold line feeds.
fn message(lines: &[u8], form: LineFormat) -> usize {
    let line = |lines: &[u8]| memchr::memchr(b'\n', lines).map_or(lines.len(), |end| end + 1);
    let mut end = line(lines);
    while end < lines.len() && time(&lines[end..], form).is_none() {
        end += line(&lines[end..]);
    }
    end
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
