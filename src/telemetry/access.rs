//! Access records: one line per request, written by a thread of their own.
//!
//! A request writes its line into the buffer of its thread and goes on: no allocation as a rule, no lock that another
//! request wants, no system call. A writer takes all buffers at once, puts their lines in the order of their times and
//! writes them together, at the latest after 50 ms; so the records of a connection stay in order, whichever
//! threads served it. A full buffer drops the record and counts it. Lines go where [`super::init`] sends those of
//! `tracing`, never within one of them, and only if its filter lets events of target `access` pass. Query strings,
//! tokens and cookies never get here; should a path hold a `?`, it is cut there.

use super::{
    line::{Form, Span},
    place::{self, Apart},
    subscribe, CacheResult, Metrics,
};
use crate::{clock, config::Log};
use parking_lot::{Condvar, Mutex};
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::{self, IsTerminal, Write},
    net::IpAddr,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{channel, Receiver, RecvTimeoutError, Sender},
        Arc,
    },
    thread::{self, Thread},
    time::{Duration, Instant, UNIX_EPOCH},
};

/// Bytes of lines that may wait for the writer, per place.
const MOST: usize = 1 << 20;
/// The writer is woken each time that a buffer has grown by so much.
const WAKE_AT: usize = 1 << 16;
/// Bytes that are written at a time, up to the end of a line: nobody else's line can come in between.
const AT_ONCE: usize = 1 << 16;
/// How long the writer lets records gather: to wake it costs a request more than the record itself.
const GATHER: Duration = Duration::from_millis(50);
/// How often a writer without work looks at the clocks.
const IDLE: Duration = Duration::from_secs(1);
/// How long the last records may take to be written when the log is dropped.
const FLUSH: Duration = Duration::from_secs(2);

/// What is told about a request. Nothing of it needs to be text: what isn't is replaced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Record<'a> {
    /// When the request's head was read.
    pub began: Instant,
    /// From the request's head to the answer's end.
    pub duration: Duration,
    /// `X-Request-Id`
    pub request_id: &'a [u8],
    /// The client's address.
    pub client: IpAddr,
    /// The method.
    pub method: &'a str,
    /// The request's host, as sent; empty if none was.
    pub host: &'a [u8],
    /// The path, without the query.
    pub path: &'a [u8],
    /// HTTP's version towards the client.
    pub version: http::Version,
    /// The status sent; 0: none was.
    pub status: u16,
    /// Body bytes sent.
    pub bytes: u64,
    /// The route's name, if one matched.
    pub route: Option<&'a str>,
    /// The tenant whose answer it was, on routes that know tenants.
    pub tenant: Option<&'a str>,
    /// Where the answer came from.
    pub result: CacheResult,
    /// Why, in a word of the gateway's.
    pub detail: Option<&'a str>,
    /// How long the origin took, if it was asked.
    pub origin: Option<Duration>,
}

/// The way of records to the log. Dropping it writes what is still waiting.
#[derive(Debug)]
pub struct AccessLog {
    writer: Option<Writer>,
}

#[derive(Debug)]
struct Writer {
    shared: Arc<Shared>,
    thread: Thread,
    /// Ends when the writer has ended.
    ended: Mutex<Receiver<()>>,
    flush: Duration,
}

/// What requests and the writer share.
#[derive(Debug)]
struct Shared {
    form: Form,
    clock: Clock,
    /// Lines that wait, by the place of the thread that wrote them.
    places: Box<[Apart<Mutex<Vec<u8>>>]>,
    /// Whether the writer sleeps until it is woken: the first record wakes it.
    asleep: AtomicBool,
    closing: AtomicBool,
    /// How often the writer has taken and written what there was.
    rounds: Mutex<u64>,
    round_ended: Condvar,
    metrics: Arc<Metrics>,
}

impl AccessLog {
    /// Starts the writer, which goes by the filter of [`super::init`], called before. With `access = false` nothing is
    /// started and records go nowhere.
    pub fn start(log: Log, metrics: Arc<Metrics>) -> Self {
        if !log.access || !tracing::enabled!(target: "access", tracing::Level::INFO) {
            return Self { writer: None };
        }
        let is_json = subscribe::is_json(log.format, io::stderr().is_terminal());
        let form = if is_json { Form::Json } else { Form::Text };
        Self { writer: Writer::start(form, io::stderr(), metrics, FLUSH) }
    }

    /// Whether records are written; without it nobody needs to make one.
    pub fn is_on(&self) -> bool {
        self.writer.is_some()
    }

    /// Hands over a record; never waits.
    pub fn record(&self, record: &Record<'_>) {
        if let Some(writer) = &self.writer {
            if writer.shared.add(record) {
                writer.thread.unpark();
            }
        }
    }

    /// Waits until everything that was recorded before is written, or `deadline` is over. Blocks its thread. Whether
    /// all is written.
    pub fn flush(&self, deadline: Duration) -> bool {
        self.writer.as_ref().is_none_or(|writer| writer.flush(deadline))
    }
}

impl Writer {
    fn start(
        form: Form,
        sink: impl Write + Send + 'static,
        metrics: Arc<Metrics>,
        flush: Duration,
    ) -> Option<Self> {
        let places = (0..place::wanted()).map(|_| Apart::default()).collect();
        let shared = Arc::new(Shared {
            form,
            clock: Clock::new(),
            places,
            asleep: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            rounds: Mutex::new(0),
            round_ended: Condvar::new(),
            metrics,
        });
        let (alive, ended) = channel();
        let work = Work { shared: shared.clone(), sink, taken: Vec::new(), merged: Vec::new() };
        match thread::Builder::new().name("access-log".to_owned()).spawn(move || work.run(alive)) {
            Ok(handle) => {
                Some(Self { shared, thread: handle.thread().clone(), ended: Mutex::new(ended), flush })
            }
            Err(error) => {
                tracing::error!(%error, "no thread for access records: none are written");
                None
            }
        }
    }

    fn flush(&self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        let mut rounds = self.shared.rounds.lock();
        // The round under way may have taken its lines already; the one after it takes them all.
        let wanted = *rounds + 2;
        while *rounds < wanted {
            self.thread.unpark();
            if Instant::now() >= end {
                return false;
            }
            // Waits in short steps: between two rounds the writer has to be told again.
            self.shared.round_ended.wait_for(&mut rounds, Duration::from_millis(2));
        }
        true
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.thread.unpark();
        // Nothing is ever sent: this waits for the other end to go, but no longer than a stuck log allows.
        if self.ended.get_mut().recv_timeout(self.flush) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the last access records were not written in time");
        }
    }
}

impl Shared {
    /// Writes the line of a record into the buffer of this thread. Whether the writer is to be woken.
    fn add(&self, record: &Record<'_>) -> bool {
        let span = self.clock.span(record.began, record.duration);
        let mut lines = self.places[place::mine(self.places.len()).number].0.lock();
        let before = lines.len();
        self.form.write(&mut lines, record, span);
        let full = lines.len() > MOST;
        if full {
            lines.truncate(before);
        }
        let grown = lines.len() / WAKE_AT != before / WAKE_AT;
        drop(lines);
        if full {
            self.metrics.access_dropped(1);
        }
        // The writer said that it sleeps before it looked at this buffer for the last time: either it has seen the
        // line, or it is seen here that it sleeps.
        let asleep = self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed);
        asleep || grown || full
    }

    /// Takes all lines that wait, those of all places at one moment: what happened later can't be taken earlier.
    fn take(&self, into: &mut Vec<Vec<u8>>) {
        into.resize_with(self.places.len(), Vec::new);
        let mut all: Vec<_> = self.places.iter().map(|place| place.0.lock()).collect();
        for (lines, taken) in all.iter_mut().zip(into) {
            taken.clear();
            if !lines.is_empty() {
                std::mem::swap(&mut **lines, taken);
            }
        }
    }
}

/// Which time of day belongs to an instant. One reading of both clocks serves many records.
#[derive(Debug)]
struct Clock {
    zero: Instant,
    /// What time it was at `zero`, in nanoseconds since 1970, by the clock as it was set last.
    at_zero: AtomicU64,
}

impl Clock {
    fn new() -> Self {
        let clock = Self { zero: Instant::now(), at_zero: AtomicU64::new(0) };
        clock.read();
        clock
    }

    fn read(&self) {
        let now = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.at_zero.store(nanos(now.saturating_sub(self.zero.elapsed())), Ordering::Relaxed);
    }

    fn span(&self, began: Instant, duration: Duration) -> Span {
        let at_zero = self.at_zero.load(Ordering::Relaxed);
        let began = match began.checked_duration_since(self.zero) {
            Some(after) => at_zero.saturating_add(nanos(after)),
            None => at_zero.saturating_sub(nanos(self.zero.saturating_duration_since(began))),
        };
        Span { began, ended: began.saturating_add(nanos(duration)) }
    }
}

fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

/// The writer's own.
struct Work<W> {
    shared: Arc<Shared>,
    sink: W,
    taken: Vec<Vec<u8>>,
    merged: Vec<u8>,
}

impl<W: Write> Work<W> {
    /// Writes until the log is dropped and nothing waits. `_alive` ends with it, panics included.
    fn run(mut self, _alive: Sender<()>) {
        let shared = self.shared.clone();
        loop {
            let closing = shared.closing.load(Ordering::Acquire);
            shared.clock.read();
            let wrote = self.round();
            *shared.rounds.lock() += 1;
            shared.round_ended.notify_all();
            if closing {
                return;
            }
            // After a round without lines: it sleeps if it finds none again, now that requests know of it.
            if wrote {
                shared.asleep.store(false, Ordering::Relaxed);
                thread::park_timeout(GATHER);
            } else if shared.asleep.swap(true, Ordering::Relaxed) {
                thread::park_timeout(IDLE);
                if !shared.asleep.load(Ordering::Relaxed) {
                    thread::park_timeout(GATHER);
                }
            }
        }
    }

    /// Whether there was anything to write.
    fn round(&mut self) -> bool {
        self.shared.take(&mut self.taken);
        let mut filled = self.taken.iter_mut().filter(|lines| !lines.is_empty());
        let (Some(first), second) = (filled.next(), filled.next()) else { return false };
        let lines = if second.is_none() {
            first
        } else {
            self.merged.clear();
            merge(&self.taken, self.shared.form, &mut self.merged);
            &mut self.merged
        };
        let lost = write(&mut self.sink, lines);
        if lost > 0 {
            self.shared.metrics.access_dropped(lost);
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
}

/// Writes whole lines, many at a time. How many could not be written.
fn write(sink: &mut impl Write, mut lines: &[u8]) -> u64 {
    let mut lost = 0;
    while !lines.is_empty() {
        let most = lines.len().min(AT_ONCE);
        let end = memchr::memrchr(b'\n', &lines[..most]).or_else(|| memchr::memchr(b'\n', lines));
        let (now, rest) = lines.split_at(end.map_or(lines.len(), |end| end + 1));
        if sink.write_all(now).is_err() {
            lost += memchr::memchr_iter(b'\n', now).count() as u64;
        }
        lines = rest;
    }
    lost
}

/// The lines of several buffers, in the order of the times that they begin with. Those of one buffer keep their order.
fn merge(buffers: &[Vec<u8>], form: Form, into: &mut Vec<u8>) {
    let stamp = form.stamp();
    let time_of = |lines: &[u8]| -> [u8; 27] {
        lines.get(stamp.clone()).and_then(|time| time.try_into().ok()).unwrap_or_default()
    };
    let mut rests: Vec<&[u8]> = buffers.iter().map(Vec::as_slice).filter(|lines| !lines.is_empty()).collect();
    let mut next: BinaryHeap<_> =
        rests.iter().enumerate().map(|(which, lines)| Reverse((time_of(lines), which))).collect();
    while let Some(Reverse((_, which))) = next.pop() {
        let other = next.peek().map(|Reverse((time, _))| *time);
        let mut end = 0;
        // All that come before the first line of any other buffer go at once.
        loop {
            let lines = &rests[which][end..];
            end += memchr::memchr(b'\n', lines).map_or(lines.len(), |end| end + 1);
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

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
