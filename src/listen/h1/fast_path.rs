//! The prepared lane: answers simple requests from memory, without creating a session.
//!
//! A connection between two requests waits here. Bytes are read into a buffer of the thread, and all complete
//! requests in it are answered in one write. The first request that can't be answered from memory
//! ([`FastResponder`]) is passed to the gateway. One that the lane doesn't understand (`request_head.rs`), or
//! that needs Pingora, is passed to Pingora together with all bytes behind it, unchanged. The same applies to
//! a head that doesn't come in one piece, to the last request that a connection may send, and to requests
//! during shutdown.
//!
//! The lane reads and writes through [`HttpConnection`]: the client timeouts of the other lanes apply. Bytes
//! that a client doesn't accept at once are kept with the connection; nothing more is read until they are
//! sent.

use super::request_head::LaneHead;
use crate::{
    gateway::{FastAnswer, FastCaller, FastResponder, KeyBuffers, NativeRequest, PendingLog, RequestBatch},
    listen::connection::{
        outgoing_body::OutgoingBody, timeouts::DRAIN_GRACE, timer::ReusableTimer, HttpConnection,
    },
    telemetry::labels::CutReason,
};

use std::{
    cell::RefCell,
    io,
    task::{ready, Context, Poll},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// The most bytes that are read at once. A longer request is not for the lane.
const READ_BYTES: usize = 16 * 1024;
/// The number of answered bytes after which they are written before further requests are parsed.
const FLUSH_BYTES: usize = 64 * 1024;
/// The largest buffer that a thread keeps, in bytes.
const MAX_KEPT_BUFFER: usize = 256 * 1024;

/// The next step for a connection.
pub(crate) enum LaneExit {
    /// The bytes that have come are for Pingora.
    Pingora,
    /// This request is for the gateway; bytes behind it wait.
    Native(NativeRequest),
    /// The client has gone.
    Disconnected,
    /// Nothing has come in time.
    Close,
}

/// The result of a turn.
enum LaneStep {
    /// There may be more to do.
    Again,
    /// Nothing has come.
    Wait,
    Done(LaneExit),
}

/// The prepared lane of one connection.
pub(crate) struct FastLane<'d> {
    ready: &'d FastResponder,
    closing: &'d watch::Receiver<bool>,
    caller: FastCaller,
    idle: Duration,
    /// The number of requests that the connection may send after the next one; `None`: any number.
    left: Option<u32>,
    /// The rest of a body that is being sent, behind the bytes that the connection holds.
    rest: Option<OutgoingBody>,
    /// The records of answers that are being sent.
    late: Option<Box<PendingLog>>,
    /// The next step once everything has been sent.
    next: Option<LaneExit>,
    wait: IdleWait,
}

/// The time for which nothing has come.
#[derive(Default)]
struct IdleWait {
    alarm: ReusableTimer,
    /// The time at which the timer fires.
    fires: Option<Instant>,
    /// The end of the wait, and the reason for it.
    until: Option<(Instant, Option<CutReason>)>,
    closing: bool,
}

/// The buffers of a thread: nothing in them outlives a turn.
struct LaneScratch {
    read: Box<[u8]>,
    out: Vec<u8>,
    words: KeyBuffers,
    answers: Vec<(FastAnswer, HeadPlace)>,
}

/// The position of a request's host and path in the bytes that were read.
#[derive(Clone, Copy)]
struct HeadPlace {
    host: (usize, usize),
    path: (usize, usize),
}

thread_local! {
    static BENCH: RefCell<LaneScratch> = RefCell::new(LaneScratch {
        read: vec![0; READ_BYTES].into(),
        out: Vec::with_capacity(4 * 1024),
        words: KeyBuffers::default(),
        answers: Vec::new(),
    });
}

impl<'d> FastLane<'d> {
    /// The lane of a connection that may be idle for `idle`, and send `left` requests after its first.
    pub(crate) fn new(
        ready: &'d FastResponder,
        closing: &'d watch::Receiver<bool>,
        caller: FastCaller,
        (idle, left): (Duration, Option<u32>),
    ) -> Self {
        let wait = IdleWait::default();
        Self { ready, closing, caller, idle, left, rest: None, late: None, next: None, wait }
    }

    /// The number of requests that may follow the next one.
    pub(crate) fn left(&self) -> Option<u32> {
        self.left
    }

    /// Counts a request that took another lane.
    pub(crate) fn passed(&mut self) {
        self.left = self.left.map(|left| left.saturating_sub(1));
    }

    /// Answers requests until something else has to be done.
    pub(crate) fn poll(&mut self, connection: &mut HttpConnection, cx: &mut Context<'_>) -> Poll<LaneExit> {
        loop {
            if let Err(error) = ready!(connection.poll_lane_out(cx, &mut self.rest)) {
                tracing::debug!(%error, "a client closed the connection before its answer was sent");
                self.log_pending(connection);
                return Poll::Ready(LaneExit::Disconnected);
            }
            self.log_pending(connection);
            if let Some(next) = self.next.take() {
                return Poll::Ready(next);
            }
            let step = BENCH.with(|bench| match bench.try_borrow_mut() {
                Ok(mut bench) => self.turn(connection, &mut bench, cx),
                // Turns never nest.
                Err(_) => LaneStep::Done(LaneExit::Pingora),
            });
            match step {
                LaneStep::Again => {}
                LaneStep::Wait => return self.poll_wait(connection, cx),
                LaneStep::Done(turn) => return Poll::Ready(turn),
            }
        }
    }

    fn log_pending(&mut self, connection: &HttpConnection) {
        if let Some(late) = self.late.take() {
            late.tell(self.ready, connection.was_cut().map(CutReason::as_str));
        }
    }

    /// Reads once, and answers the requests that can be answered.
    fn turn(
        &mut self,
        connection: &mut HttpConnection,
        bench: &mut LaneScratch,
        cx: &mut Context<'_>,
    ) -> LaneStep {
        let Some(mut length) = connection.take_ahead(&mut bench.read) else {
            return LaneStep::Done(LaneExit::Pingora);
        };
        // The bytes read ahead may hold a whole request already.
        if matches!(
            super::request_head::read_head(&bench.read[..length], &mut super::request_head::field_room()),
            LaneHead::Part
        ) {
            match connection.poll_lane_read(cx, &mut bench.read[length..]) {
                Poll::Ready(Ok(more)) if more > 0 => length += more,
                Poll::Pending if length == 0 => return LaneStep::Wait,
                Poll::Ready(_) if length == 0 => return LaneStep::Done(LaneExit::Disconnected),
                Poll::Pending | Poll::Ready(_) => {
                    connection.put_ahead(&bench.read[..length]);
                    return LaneStep::Done(LaneExit::Pingora);
                }
            }
        }
        self.wait.until = None;
        if self.left == Some(0) || self.is_closing() {
            connection.put_ahead(&bench.read[..length]);
            return LaneStep::Done(LaneExit::Pingora);
        }
        self.answer(connection, bench, length, cx)
    }

    /// Answers the requests that were read.
    fn answer(
        &mut self,
        connection: &mut HttpConnection,
        bench: &mut LaneScratch,
        length: usize,
        cx: &mut Context<'_>,
    ) -> LaneStep {
        let LaneScratch { read, out, words, answers } = bench;
        let read = &read[..length];
        let visit = self.ready.visit(self.caller);
        let mut at = 0;
        out.clear();
        answers.clear();
        while at < length && out.len() < FLUSH_BYTES && self.left != Some(0) {
            let mut fields = super::request_head::field_room();
            let (asked, taken) = match super::request_head::read_head(&read[at..], &mut fields) {
                LaneHead::Whole(asked, taken) => (asked, taken),
                LaneHead::Part => break,
                LaneHead::Other => {
                    self.next = Some(LaneExit::Pingora);
                    break;
                }
            };
            let Some(mut answered) = visit.answer(&asked, words, out) else {
                let request = visit.request(&asked, &read[at..at + taken]);
                at += request.as_ref().map_or(0, |_| taken);
                self.next = Some(request.map_or(LaneExit::Pingora, LaneExit::Native));
                break;
            };
            let begin = read.as_ptr() as usize;
            let place = |text: &str| ((text.as_ptr() as usize).wrapping_sub(begin), text.len());
            let place = HeadPlace { host: place(asked.host), path: place(asked.path) };
            self.rest = answered.body.take().map(|body| OutgoingBody { body, sent: 0 });
            answers.push((answered, place));
            self.passed();
            at += taken;
            if self.rest.is_some() {
                break;
            }
        }
        connection.put_ahead(&read[at..]);
        if answers.is_empty() {
            // A part of a head, or a request for Pingora.
            return LaneStep::Done(self.next.take().unwrap_or(LaneExit::Pingora));
        }
        connection.answered();
        self.ready.count(answers.len());
        let sent = connection.poll_lane_write(cx, out, &mut self.rest);
        self.tell(&visit, read, answers, &sent, connection);
        if out.capacity() > MAX_KEPT_BUFFER {
            *out = Vec::new();
        }
        match sent {
            Poll::Ready(Err(_)) => LaneStep::Done(LaneExit::Disconnected),
            Poll::Ready(Ok(())) | Poll::Pending => LaneStep::Again,
        }
    }

    /// Records answers that have been sent, and keeps the others to be recorded later.
    fn tell(
        &mut self,
        visit: &RequestBatch<'_>,
        read: &[u8],
        answers: &mut Vec<(FastAnswer, HeadPlace)>,
        sent: &Poll<io::Result<()>>,
        connection: &HttpConnection,
    ) {
        let text = |(at, length): (usize, usize)| read.get(at..at + length).unwrap_or_default();
        if let Poll::Ready(Ok(())) = sent {
            let lasted = visit.lasted();
            for (answered, place) in answers.drain(..) {
                visit.tell(&answered, text(place.host), text(place.path), lasted);
            }
            return;
        }
        let mut late = Box::new(visit.late());
        for (answered, place) in answers.drain(..) {
            late.add(answered, text(place.host), text(place.path));
        }
        self.late = Some(late);
        if sent.is_ready() {
            self.log_pending(connection);
        }
    }

    fn is_closing(&self) -> bool {
        // If the sender is dropped, the gateway has ended.
        self.closing.has_changed().unwrap_or(true)
    }

    /// Waits for a request. On shutdown, a client that is just sending one gets a last answer; the task is
    /// woken then (see [`crate::listen::ConnectionServer`]).
    fn poll_wait(&mut self, connection: &mut HttpConnection, cx: &mut Context<'_>) -> Poll<LaneExit> {
        let now = Instant::now();
        let IdleWait { alarm, fires, until, closing } = &mut self.wait;
        let (at, reason) = until.get_or_insert_with(|| {
            let (patience, reason) = connection.patience(self.idle);
            (now + patience, reason)
        });
        if !*closing && self.closing.has_changed().unwrap_or(true) {
            (*closing, *at, *reason) = (true, (*at).min(now + DRAIN_GRACE), None);
        }
        // An armed timer is not polled before its time: it wakes this task by itself.
        if fires.is_none_or(|fires| fires <= now || fires > *at) {
            *fires = Some(*at);
            ready!(alarm.poll(*at, cx));
            reason.take().into_iter().for_each(|reason| connection.gave_up(reason));
            return Poll::Ready(LaneExit::Close);
        }
        Poll::Pending
    }
}
