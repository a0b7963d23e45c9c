//! The life of a stream: it tells its client of each change, pings, and ends with a word on when to come back.
//!
//! It is small on purpose: in the native lane it outlives the request's session, and lies beside the connection
//! for hours.

use crate::{
    config::LiveRules,
    gateway::session::{ClientWriter, ConnectionFate},
    live::{
        event::{notice, retry_after},
        EntryChange, LiveHub, LiveWatcher, StreamEncoder, WatcherPermit,
    },
    telemetry::{
        access::{record::AccessRecord, AccessLog},
        labels::{CacheResult, StreamEnd},
        metrics::{Metrics, OpenStream, RouteMetrics},
    },
};

use super::{
    sink::{ChunkSink, StreamSink},
    source::LiveSource,
};
use bytes::Bytes;
use http::HeaderValue;
use std::{
    future::{poll_fn, Future},
    net::IpAddr,
    pin::{pin, Pin},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};
use tokio::time::{sleep_until, Sleep};

/// The time before `exp` at which a client is told that its token expires.
const TOKEN_NOTICE: Duration = Duration::from_secs(30);
/// The time after which a client comes back if nothing is known that speaks against it, in milliseconds.
const RETRY_MS: u64 = 1_000;
/// The shortest time over which clients come back after a shutdown, and how many a second do.
const RETURN_MS: u64 = 5_000;
const RETURNS_PER_SECOND: u64 = 5_000;
/// The part of `drain` over which streams are ended.
const DRAIN_SHARE: f64 = 0.8;
/// The most bytes of events that are put into one write.
const MAX_GATHERED: usize = 16 * 1024;

/// What the access record of a stream says, when it ends.
pub(crate) struct StreamRecord {
    pub(crate) access: Arc<AccessLog>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) route: Arc<RouteMetrics>,
    pub(crate) began: Instant,
    pub(crate) request_id: HeaderValue,
    pub(crate) client: IpAddr,
    pub(crate) host: Box<str>,
    pub(crate) path: Box<str>,
    pub(crate) version: http::Version,
    pub(crate) name: Box<str>,
    pub(crate) tenant: Option<Box<str>>,
}

impl StreamRecord {
    fn end(self, reason: StreamEnd, bytes: u64) {
        self.metrics.live_ended(reason);
        self.route.record_stream(CacheResult::Live, 200, bytes);
        self.access.record(&AccessRecord {
            began: self.began,
            duration: self.began.elapsed(),
            request_id: self.request_id.as_bytes(),
            client: self.client,
            method: "GET",
            host: self.host.as_bytes(),
            path: self.path.as_bytes(),
            version: self.version,
            status: 200,
            bytes,
            route: Some(&self.name),
            tenant: self.tenant.as_deref(),
            result: CacheResult::Live,
            detail: Some(reason.as_str()),
            origin: None,
        });
    }
}

/// The times of a stream.
#[derive(Debug, Clone, Copy)]
struct StreamTimes {
    /// The next ping, unless something is written before.
    ping: Instant,
    /// `exp` of the token, and the time at which the client is told of it.
    expires: Option<Instant>,
    notice: Option<Instant>,
    /// The end, once the gateway shuts down.
    drain: Option<Instant>,
}

impl StreamTimes {
    fn next(&self) -> Instant {
        let others = [self.expires, self.notice, self.drain];
        others.into_iter().flatten().fold(self.ping, Instant::min)
    }
}

/// A stream of watched entries.
pub struct LiveStream {
    pub(crate) hub: Arc<LiveHub<LiveSource>>,
    pub(crate) watcher: LiveWatcher,
    pub(crate) encoder: StreamEncoder,
    pub(crate) rules: Arc<LiveRules>,
    /// The names of the entries; none for the stream of one.
    pub(crate) names: Option<Arc<[String]>>,
    /// `exp` of the token.
    pub(crate) expires: Option<Instant>,
    /// The time that the gateway takes to shut down.
    pub(crate) drain: Duration,
    pub(crate) record: StreamRecord,
    pub(crate) _open: OpenStream,
    /// `None`: there were as many streams as there may be, and this one ends at once.
    pub(crate) permit: Option<WatcherPermit>,
}

impl LiveStream {
    /// Runs on a connection of HTTP/1.1 whose head has been sent, until it ends.
    pub async fn run_native(self: Box<Self>, client: &mut dyn ClientWriter) -> ConnectionFate {
        let mut sink = ChunkSink(client);
        match self.run(&mut sink).await {
            StreamEnd::Client => ConnectionFate::Broken,
            _ => ConnectionFate::Ended,
        }
    }

    /// Runs until it ends.
    pub(crate) async fn run<S: StreamSink>(mut self: Box<Self>, sink: &mut S) -> StreamEnd {
        let mut bytes = 0;
        let end = self.serve(sink, &mut bytes).await.unwrap_or(StreamEnd::Client);
        self.record.end(end, bytes);
        end
    }

    async fn serve<S: StreamSink>(&mut self, sink: &mut S, sent: &mut u64) -> Result<StreamEnd, ()> {
        let mut opening = self.encoder.header().map_or_else(Vec::new, <[u8]>::to_vec);
        if self.permit.is_none() {
            if !opening.is_empty() {
                sink.send(opening.into()).await?;
            }
            let retry = RETURN_MS + rand::random_range(0..RETURN_MS);
            return self.finish(sink, StreamEnd::Limit, retry).await;
        }
        // The client learns the interval before it has to rely on it, and a proxy that holds events back is found out
        // at once.
        self.encoder.push_text(&mut opening, &self.ping());
        *sent += opening.len() as u64;
        sink.send(opening.into()).await?;
        let now = Instant::now();
        let mut times = StreamTimes {
            ping: now + self.rules.ping,
            expires: self.expires,
            notice: self.expires.map(|at| at.checked_sub(TOKEN_NOTICE).unwrap_or(now)),
            drain: None,
        };
        let mut timer = pin!(sleep_until(times.next().into()));
        loop {
            if let Some(end) = self.tell(sink, sent, &mut times).await? {
                let retry = RETRY_MS + rand::random_range(0..RETRY_MS);
                return self.finish(sink, end, retry).await;
            }
            if times.drain.is_none() && self.hub.is_draining() {
                let share = rand::random::<f64>() * DRAIN_SHARE;
                times.drain = Some(Instant::now() + self.drain.mul_f64(share));
                timer.as_mut().reset(times.next().into());
            }
            let rung = {
                let mut next = pin!(next_wake(&self.watcher, timer.as_mut()));
                sink.while_connected(next.as_mut()).await.ok_or(())?
            };
            if rung {
                continue;
            }
            let now = Instant::now();
            if times.drain.is_some_and(|at| now >= at) {
                let span = RETURN_MS.max(self.hub.watchers() * 1_000 / RETURNS_PER_SECOND);
                return self.finish(sink, StreamEnd::Drain, rand::random_range(500..span)).await;
            }
            if times.expires.is_some_and(|at| now >= at) {
                return self.finish(sink, StreamEnd::Token, RETRY_MS).await;
            }
            if times.notice.is_some_and(|at| now >= at) {
                times.notice = None;
                let left = times.expires.map_or(0, |at| at.saturating_duration_since(now).as_secs());
                let text = notice("token", &format!("{{\"expires_in\":{left}}}"));
                self.notify(sink, &text, sent).await?;
            }
            if now >= times.ping {
                self.notify(sink, &self.ping(), sent).await?;
                times.ping = now + self.rules.ping;
            }
            timer.as_mut().reset(times.next().into());
        }
    }

    /// Writes all that the client doesn't know yet; the end, if the stream is over.
    async fn tell<S: StreamSink>(
        &mut self,
        sink: &mut S,
        sent: &mut u64,
        times: &mut StreamTimes,
    ) -> Result<Option<StreamEnd>, ()> {
        while let Some(change) = self.watcher.next_change() {
            match (change, self.names.is_none()) {
                (EntryChange::Over, _) => return Ok(Some(StreamEnd::Reload)),
                (EntryChange::State(event, skipped), true) => {
                    let content = self.encoder.event(&event);
                    *sent += content.length() as u64;
                    sink.send_framed(&content).await?;
                    self.record.metrics.live_event(skipped);
                }
                (change, _) => {
                    let content = self.gather(change);
                    *sent += content.len() as u64;
                    sink.send(content).await?;
                }
            }
            times.ping = Instant::now() + self.rules.ping;
            self.watcher.has_written();
        }
        Ok(None)
    }

    /// The events for a change and for those that have come with it, to be written at once.
    fn gather(&mut self, first: EntryChange) -> Bytes {
        let (mut out, mut next) = (Vec::new(), Some(first));
        while let Some(change) = next.take() {
            match change {
                EntryChange::State(event, skipped) => {
                    self.encoder.push_event(&mut out, &event);
                    let mut id = b"id: ".to_vec();
                    self.watcher.push_id(&mut id);
                    id.extend_from_slice(b"\n\n");
                    self.encoder.push_text(&mut out, &id);
                    self.record.metrics.live_event(skipped);
                }
                EntryChange::Stale(index, reason) => {
                    let text = notice("stale", &self.about(index, Some(reason)));
                    self.encoder.push_text(&mut out, &text);
                }
                EntryChange::Current(index) => {
                    let text = notice("current", &self.about(index, None));
                    self.encoder.push_text(&mut out, &text);
                }
                // Seen again by the next look.
                EntryChange::Over => break,
            }
            if out.len() < MAX_GATHERED {
                next = self.watcher.next_change();
            }
        }
        out.into()
    }

    /// The data of a notice about an entry.
    fn about(&self, index: usize, reason: Option<&str>) -> String {
        let name = self.names.as_ref().and_then(|names| names.get(index));
        let name = name.map_or(self.rules.event.as_str(), String::as_str);
        match reason {
            Some(reason) => format!("{{\"event\":\"{name}\",\"reason\":\"{reason}\"}}"),
            None => format!("{{\"event\":\"{name}\"}}"),
        }
    }

    /// The event that says how often there is one.
    fn ping(&self) -> Bytes {
        notice("ping", &format!("{{\"interval\":{}}}", self.rules.ping.as_secs()))
    }

    /// Writes an event of the gateway's own.
    async fn notify<S: StreamSink>(&mut self, sink: &mut S, text: &[u8], sent: &mut u64) -> Result<(), ()> {
        let mut content = Vec::new();
        self.encoder.push_text(&mut content, text);
        *sent += content.len() as u64;
        sink.send(content.into()).await
    }

    /// Ends the stream, and tells the client when to come back.
    async fn finish<S: StreamSink>(
        &mut self,
        sink: &mut S,
        end: StreamEnd,
        retry_ms: u64,
    ) -> Result<StreamEnd, ()> {
        let mut content = Vec::new();
        self.encoder.push_text(&mut content, &retry_after(retry_ms));
        self.encoder.push_trailer(&mut content);
        sink.send(content.into()).await?;
        sink.finish().await?;
        Ok(end)
    }
}

/// Waits until there may be a change (true), or the timer is due.
async fn next_wake(watcher: &LiveWatcher, mut timer: Pin<&mut Sleep>) -> bool {
    poll_fn(|cx| match watcher.poll_rung(cx) {
        Poll::Ready(()) => Poll::Ready(true),
        Poll::Pending => timer.as_mut().poll(cx).map(|()| false),
    })
    .await
}
