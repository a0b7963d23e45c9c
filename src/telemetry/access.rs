//! Access records: one per request, written by a thread of their own.
//!
//! A request never waits for its record: it goes into a bounded queue, and where that is full it is dropped and
//! counted. Records leave as `tracing` events of target `access`, in the form that [`super::init`] chose. Query
//! strings, tokens and cookies never get here; should a path hold a `?`, it is cut there.

use super::{CacheResult, Metrics};
use crate::{
    config::Log,
    name::{Name, Tenant},
};
use parking_lot::Mutex;
use std::{
    net::IpAddr,
    sync::{
        mpsc::{channel, sync_channel, Receiver, Sender, SyncSender},
        Arc,
    },
    thread::{self, Thread},
    time::{Duration, SystemTime},
};
use time::{format_description::well_known::Rfc3339, OffsetDateTime};

/// Records that may wait for the writer.
const QUEUE: usize = 8192;
/// How long the writer lets records gather: to wake it costs a request more than the record itself.
const GATHER: Duration = Duration::from_millis(10);
/// How long the last records may take to be written when the log is dropped.
const FLUSH: Duration = Duration::from_secs(2);

/// What is told about a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// When the request's head was read.
    pub time: SystemTime,
    /// `X-Request-Id`
    pub request_id: String,
    /// The client's address.
    pub client: IpAddr,
    /// The method.
    pub method: http::Method,
    /// The request's host, as sent; empty if none was.
    pub host: String,
    /// The path, without the query.
    pub path: String,
    /// HTTP's version towards the client.
    pub version: http::Version,
    /// The status sent; 0: none was.
    pub status: u16,
    /// Body bytes sent.
    pub bytes: u64,
    /// From the request's head to the answer's end.
    pub duration: Duration,
    /// The route's name, if one matched.
    pub route: Option<Name>,
    /// The tenant whose answer it was, on routes that know tenants.
    pub tenant: Option<Tenant>,
    /// Where the answer came from.
    pub result: CacheResult,
    /// Why, in a word of the gateway's.
    pub detail: Option<&'static str>,
    /// How long the origin took, if it was asked.
    pub origin: Option<Duration>,
}

/// The way of records to the log. Dropping it writes what is still queued.
#[derive(Debug)]
pub struct AccessLog {
    metrics: Arc<Metrics>,
    writer: Option<Writer>,
}

#[derive(Debug)]
struct Writer {
    /// `None` only while dropping: its end is what tells the writer to finish.
    queue: Option<SyncSender<Record>>,
    thread: Thread,
    /// Ends when the writer has ended.
    ended: Mutex<Receiver<()>>,
    flush: Duration,
}

impl AccessLog {
    /// Starts the writer, which logs to the `tracing` subscriber in force now: [`super::init`] comes first.
    /// With `access = false` nothing is started and records go nowhere.
    pub fn start(log: Log, metrics: Arc<Metrics>) -> Self {
        let writer = if log.access { Writer::start(FLUSH) } else { None };
        Self { metrics, writer }
    }

    /// Whether records are written; without it nobody needs to make one.
    pub fn is_on(&self) -> bool {
        self.writer.is_some()
    }

    /// Queues a record; never waits.
    pub fn record(&self, record: Record) {
        let Some(writer) = &self.writer else { return };
        let queued = writer.queue.as_ref().is_some_and(|queue| queue.try_send(record).is_ok());
        if !queued {
            self.metrics.access_dropped(1);
            writer.thread.unpark();
        }
    }
}

impl Writer {
    fn start(flush: Duration) -> Option<Self> {
        let (queue, records) = sync_channel(QUEUE);
        let (alive, ended) = channel();
        let dispatch = tracing::dispatcher::get_default(Clone::clone);
        let write = move || tracing::dispatcher::with_default(&dispatch, || write_all(&records, alive));
        match thread::Builder::new().name("access-log".to_owned()).spawn(write) {
            Ok(handle) => Some(Self {
                queue: Some(queue),
                thread: handle.thread().clone(),
                ended: Mutex::new(ended),
                flush,
            }),
            Err(error) => {
                tracing::error!(%error, "no thread for access records: none are written");
                None
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        self.thread.unpark();
        // Nothing is ever sent: this waits for the other end to go, but no longer than a stuck log allows.
        if self.ended.get_mut().recv_timeout(self.flush) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("the last access records were not written in time");
        }
    }
}

/// Writes until the queue's other end is gone and the queue empty. `_alive` ends with it, panics included.
fn write_all(records: &Receiver<Record>, _alive: Sender<()>) {
    while let Ok(record) = records.recv() {
        emit(&record);
        records.try_iter().for_each(|record| emit(&record));
        thread::park_timeout(GATHER);
    }
}

fn emit(record: &Record) {
    let path = record.path.split('?').next().unwrap_or_default();
    tracing::info!(
        target: "access",
        time = OffsetDateTime::from(record.time).format(&Rfc3339).ok(),
        request_id = record.request_id,
        client = %record.client,
        method = record.method.as_str(),
        host = record.host,
        path,
        version = ?record.version,
        status = record.status,
        bytes = record.bytes,
        duration_ms = milliseconds(record.duration),
        route = record.route.as_ref().map(Name::as_str),
        tenant = record.tenant.as_ref().map(Name::as_str),
        result = record.result.as_str(),
        detail = record.detail,
        origin_ms = record.origin.map(milliseconds),
    );
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
