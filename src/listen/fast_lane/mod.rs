//! The fast lane: answers simple requests from memory, without creating a session.
//!
//! A connection between two requests waits here. Bytes are read into a buffer of the thread, and all complete
//! requests in it are answered in one write. The first request that can't be answered from memory
//! (`gateway::Ready`) is passed to the gateway. One that the lane doesn't understand (`head.rs`), or that
//! needs Pingora, is passed to the full lane together with all bytes behind it, unchanged. The same applies
//! to a head that doesn't come in one piece, to the last request that a connection may send, and to requests
//! during shutdown.
//!
//! The lane reads and writes through the guard: all timeouts of the full lane apply here as well. Bytes that
//! a client doesn't accept at once are kept with the connection; nothing more is read until they are sent.

pub(super) mod head;

use super::{alarm::Alarm, connection::Connection, LAST};
use crate::{
    gateway::{Answered, Caller, Late, Ready, Request, Visit, Words},
    representation::Body,
    telemetry::labels::CutReason,
};
use head::Head;
use std::{
    cell::RefCell,
    io,
    task::{ready, Context, Poll},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// The most bytes that are read at once. A longer request is not for the lane.
const READ: usize = 16 * 1024;
/// The number of answered bytes after which they are written before further requests are parsed.
const ENOUGH: usize = 64 * 1024;
/// The largest buffer that a thread keeps, in bytes.
const KEEP: usize = 256 * 1024;

/// The next step for a connection.
pub(super) enum Turn {
    /// The bytes that have come are for the full lane.
    Full,
    /// This request is for the gateway; bytes behind it wait.
    Serve(Request),
    /// The client has gone.
    Gone,
    /// Nothing has come in time.
    Part,
}

/// The result of a turn.
enum Step {
    /// There may be more to do.
    Again,
    /// Nothing has come.
    Wait,
    Done(Turn),
}

/// The fast lane of one connection.
pub(super) struct FastLane<'d> {
    ready: &'d Ready,
    closing: &'d watch::Receiver<bool>,
    caller: Caller,
    idle: Duration,
    /// The number of requests that the connection may send after the next one; `None`: any number.
    left: Option<u32>,
    /// The rest of a body that is being sent, behind the bytes that the connection holds.
    rest: Option<Outgoing>,
    /// The records of answers that are being sent.
    late: Option<Box<Late>>,
    /// The next step once everything has been sent.
    next: Option<Turn>,
    wait: Wait,
}

/// The rest of a body.
pub(super) struct Outgoing {
    pub(super) body: Body,
    pub(super) sent: u64,
}

/// The time for which nothing has come.
#[derive(Default)]
struct Wait {
    alarm: Alarm,
    /// The time at which the timer fires.
    fires: Option<Instant>,
    /// The end of the wait, and the reason for it.
    until: Option<(Instant, Option<CutReason>)>,
    closing: bool,
}

/// The buffers of a thread: nothing in them outlives a turn.
struct Bench {
    read: Box<[u8]>,
    out: Vec<u8>,
    words: Words,
    answers: Vec<(Answered, Place)>,
}

/// The position of a request's host and path in the bytes that were read.
#[derive(Clone, Copy)]
struct Place {
    host: (usize, usize),
    path: (usize, usize),
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new(Bench {
        read: vec![0; READ].into(),
        out: Vec::with_capacity(4 * 1024),
        words: Words::default(),
        answers: Vec::new(),
    });
}

impl<'d> FastLane<'d> {
    /// The lane of a connection that may be idle for `idle`, and send `left` requests after its first.
    pub(super) fn new(
        ready: &'d Ready,
        closing: &'d watch::Receiver<bool>,
        caller: Caller,
        (idle, left): (Duration, Option<u32>),
    ) -> Self {
        let wait = Wait::default();
        Self { ready, closing, caller, idle, left, rest: None, late: None, next: None, wait }
    }

    /// The number of requests that may follow the next one.
    pub(super) fn left(&self) -> Option<u32> {
        self.left
    }

    /// Counts a request that took the full lane.
    pub(super) fn passed(&mut self) {
        self.left = self.left.map(|left| left.saturating_sub(1));
    }

    /// Answers requests until something else has to be done.
    pub(super) fn poll(&mut self, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<Turn> {
        loop {
            if let Err(error) = ready!(connection.poll_lane_out(cx, &mut self.rest)) {
                tracing::debug!(%error, "a client closed the connection before its answer was sent");
                self.tell_late(connection);
                return Poll::Ready(Turn::Gone);
            }
            self.tell_late(connection);
            if let Some(next) = self.next.take() {
                return Poll::Ready(next);
            }
            let step = BENCH.with(|bench| match bench.try_borrow_mut() {
                Ok(mut bench) => self.turn(connection, &mut bench, cx),
                // Turns never nest.
                Err(_) => Step::Done(Turn::Full),
            });
            match step {
                Step::Again => {}
                Step::Wait => return self.poll_wait(connection, cx),
                Step::Done(turn) => return Poll::Ready(turn),
            }
        }
    }

    fn tell_late(&mut self, connection: &Connection) {
        if let Some(late) = self.late.take() {
            late.tell(self.ready, connection.was_cut().map(CutReason::as_str));
        }
    }

    /// Reads once, and answers the requests that can be answered.
    fn turn(&mut self, connection: &mut Connection, bench: &mut Bench, cx: &mut Context<'_>) -> Step {
        let Some(mut length) = connection.take_ahead(&mut bench.read) else { return Step::Done(Turn::Full) };
        // The bytes read ahead may hold a whole request already.
        if matches!(head::read(&bench.read[..length], &mut head::fields()), Head::Part) {
            match connection.poll_lane_read(cx, &mut bench.read[length..]) {
                Poll::Ready(Ok(more)) if more > 0 => length += more,
                Poll::Pending if length == 0 => return Step::Wait,
                Poll::Ready(_) if length == 0 => return Step::Done(Turn::Gone),
                Poll::Pending | Poll::Ready(_) => {
                    connection.put_ahead(&bench.read[..length]);
                    return Step::Done(Turn::Full);
                }
            }
        }
        self.wait.until = None;
        if self.left == Some(0) || self.is_closing() {
            connection.put_ahead(&bench.read[..length]);
            return Step::Done(Turn::Full);
        }
        self.answer(connection, bench, length, cx)
    }

    /// Answers the requests that were read.
    fn answer(
        &mut self,
        connection: &mut Connection,
        bench: &mut Bench,
        length: usize,
        cx: &mut Context<'_>,
    ) -> Step {
        let Bench { read, out, words, answers } = bench;
        let read = &read[..length];
        let visit = self.ready.visit(self.caller);
        let mut at = 0;
        out.clear();
        answers.clear();
        while at < length && out.len() < ENOUGH && self.left != Some(0) {
            let mut fields = head::fields();
            let (asked, taken) = match head::read(&read[at..], &mut fields) {
                Head::Whole(asked, taken) => (asked, taken),
                Head::Part => break,
                Head::Other => {
                    self.next = Some(Turn::Full);
                    break;
                }
            };
            let Some(mut answered) = visit.answer(&asked, words, out) else {
                let request = visit.request(&asked, &read[at..at + taken]);
                at += request.as_ref().map_or(0, |_| taken);
                self.next = Some(request.map_or(Turn::Full, Turn::Serve));
                break;
            };
            let begin = read.as_ptr() as usize;
            let place = |text: &str| ((text.as_ptr() as usize).wrapping_sub(begin), text.len());
            let place = Place { host: place(asked.host), path: place(asked.path) };
            self.rest = answered.body.take().map(|body| Outgoing { body, sent: 0 });
            answers.push((answered, place));
            self.passed();
            at += taken;
            if self.rest.is_some() {
                break;
            }
        }
        connection.put_ahead(&read[at..]);
        if answers.is_empty() {
            // A part of a head, or a request for the full lane.
            return Step::Done(self.next.take().unwrap_or(Turn::Full));
        }
        connection.answered();
        self.ready.count(answers.len());
        let sent = connection.poll_lane_write(cx, out, &mut self.rest);
        self.tell(&visit, read, answers, &sent, connection);
        if out.capacity() > KEEP {
            *out = Vec::new();
        }
        match sent {
            Poll::Ready(Err(_)) => Step::Done(Turn::Gone),
            Poll::Ready(Ok(())) | Poll::Pending => Step::Again,
        }
    }

    /// Records answers that have been sent, and keeps the others to be recorded later.
    fn tell(
        &mut self,
        visit: &Visit<'_>,
        read: &[u8],
        answers: &mut Vec<(Answered, Place)>,
        sent: &Poll<io::Result<()>>,
        connection: &Connection,
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
            self.tell_late(connection);
        }
    }

    fn is_closing(&self) -> bool {
        // If the sender is dropped, the gateway has ended.
        self.closing.has_changed().unwrap_or(true)
    }

    /// Waits for a request. On shutdown, a client that is just sending one gets a last answer; the task is
    /// woken then (see [`super::Door`]).
    fn poll_wait(&mut self, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<Turn> {
        let now = Instant::now();
        let Wait { alarm, fires, until, closing } = &mut self.wait;
        let (at, reason) = until.get_or_insert_with(|| {
            let (patience, reason) = connection.patience(self.idle);
            (now + patience, reason)
        });
        if !*closing && self.closing.has_changed().unwrap_or(true) {
            (*closing, *at, *reason) = (true, (*at).min(now + LAST), None);
        }
        // An armed timer is not polled before its time: it wakes this task by itself.
        if fires.is_none_or(|fires| fires <= now || fires > *at) {
            *fires = Some(*at);
            ready!(alarm.poll(*at, cx));
            reason.take().into_iter().for_each(|reason| connection.gave_up(reason));
            return Poll::Ready(Turn::Part);
        }
        Poll::Pending
    }
}
