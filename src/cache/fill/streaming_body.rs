//! A body that is still arriving: one writer, any number of readers, each at its own pace.
//!
//! Up to `keep` bytes the whole body stays in memory, however slow its readers: it will be stored. Beyond
//! that it passes through, and only a window of it is kept: a request that was told of it can begin to read
//! while its beginning is still there. Then the fastest reader sets the pace of the writer, and a reader that
//! falls behind by more than the window is cut off: it delays no others. If the writer goes away before the
//! end, the body breaks off for all readers, and none takes it for complete.

use crate::representation::Body;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc,
    },
    time::{Duration, Instant},
};
use tokio::{sync::Notify, time::timeout};

/// Pieces smaller than this are joined, so that an origin that sends many small ones doesn't cost a multiple
/// of their bytes.
const SMALL: usize = 8 * 1024;
/// The most bytes by which the writer may be ahead of the fastest reader of a body that passes through.
const AHEAD: u64 = 512 * 1024;
/// The beginning of a body that passes through is kept until this many bytes have arrived, for requests that
/// were told of it and have not begun to read.
const BEGINNING: u64 = 1 << 20;
/// The least window of a body that passes through.
const WINDOW: u64 = 4 << 20;

/// The body broke off, or its reader fell too far behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer broke off")]
pub struct BodyBroken;

/// The most bytes that all arriving bodies may hold together: beyond it the next piece makes its body pass
/// through.
#[derive(Debug)]
pub struct StreamBudget {
    used: AtomicU64,
    limit: u64,
}

impl StreamBudget {
    /// A budget of this many bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0), limit })
    }

    /// Takes bytes. Returns true if there is room for them.
    fn take(&self, bytes: u64) -> bool {
        self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= self.limit
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A body that is still arriving.
#[derive(Debug)]
pub struct StreamingBody {
    budget: Arc<StreamBudget>,
    state: Mutex<StreamState>,
    /// Wakes readers.
    grown: Notify,
    /// Wakes the writer: something was taken, or a reader has come or gone.
    taken: Notify,
    began: Instant,
}

#[derive(Debug)]
struct StreamState {
    pieces: VecDeque<Bytes>,
    /// The number of pieces that were dropped at the front.
    gone: u64,
    /// The last small pieces, joined.
    tail: BytesMut,
    /// Bytes that have arrived.
    length: u64,
    /// The number of bytes that were dropped.
    forgotten: u64,
    keep: u64,
    passing: bool,
    end: StreamEnd,
    readers: HashMap<u64, u64>,
    next_reader: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamEnd {
    Open,
    Whole,
    Broken,
}

impl StreamingBody {
    /// An empty body.
    pub fn begin(budget: &Arc<StreamBudget>) -> Arc<Self> {
        let state = StreamState {
            pieces: VecDeque::new(),
            gone: 0,
            tail: BytesMut::new(),
            length: 0,
            forgotten: 0,
            keep: u64::MAX,
            passing: false,
            end: StreamEnd::Open,
            readers: HashMap::new(),
            next_reader: 0,
        };
        let (grown, taken) = (Notify::new(), Notify::new());
        let began = Instant::now();
        Arc::new(Self { budget: budget.clone(), state: Mutex::new(state), grown, taken, began })
    }

    /// The time when its fill began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// The writer; there must be only one.
    pub fn writer(self: &Arc<Self>) -> StreamWriter {
        StreamWriter { live: self.clone() }
    }

    /// Another reader, from the beginning; `None` if that was dropped, or the body broke off.
    pub fn reader(self: &Arc<Self>) -> Option<StreamReader> {
        let mut state = self.state.lock();
        if state.forgotten > 0 || state.end == StreamEnd::Broken {
            return None;
        }
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(id, 0);
        self.taken.notify_waiters();
        Some(StreamReader { live: self.clone(), id, at: 0, piece: 0, offset: 0 })
    }
}

impl Drop for StreamingBody {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        self.budget.give_back(state.length - state.forgotten);
    }
}

impl StreamState {
    fn push(&mut self, piece: Bytes) {
        self.length += piece.len() as u64;
        if piece.len() >= SMALL {
            self.seal();
            self.pieces.push_back(piece);
        } else {
            self.tail.extend_from_slice(&piece);
            if self.tail.len() >= 4 * SMALL {
                self.seal();
            }
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
    }

    fn fastest_reader(&self) -> Option<u64> {
        self.readers.values().max().copied()
    }

    /// Drops pieces that all readers have, and those outside of the window.
    fn forget(&mut self, budget: &StreamBudget) {
        if self.forgotten == 0 && self.length <= BEGINNING {
            return;
        }
        let slowest = self.readers.values().min().copied().unwrap_or(self.length);
        let window = self.keep.max(WINDOW);
        while let Some(first) = self.pieces.front() {
            let end = self.forgotten + first.len() as u64;
            if end > slowest && self.length - self.forgotten <= window {
                return;
            }
            // The fastest reader still needs it: the writer waits.
            if self.fastest_reader().is_some_and(|fastest| fastest < end) {
                return;
            }
            budget.give_back(end - self.forgotten);
            self.forgotten = end;
            self.gone += 1;
            self.pieces.pop_front();
        }
    }
}

/// The writer of a body.
#[derive(Debug)]
pub struct StreamWriter {
    live: Arc<StreamingBody>,
}

impl StreamWriter {
    /// Keeps up to this many bytes; 0: the body passes through.
    pub fn keep(&self, bytes: u64) {
        let mut state = self.live.state.lock();
        state.keep = bytes;
        state.passing = bytes == 0;
    }

    /// Discards what was written. No reader may have seen any of it.
    pub fn start_over(&self) {
        let mut state = self.live.state.lock();
        self.live.budget.give_back(state.length - state.forgotten);
        (state.pieces, state.tail, state.length) = (VecDeque::new(), BytesMut::new(), 0);
    }

    /// Appends a piece. Returns true if the body passes through by now: then the writer has to call
    /// [`Self::in_step`], once its readers know that there is something to read.
    pub fn append(&self, piece: Bytes) -> bool {
        let passing = {
            let mut state = self.live.state.lock();
            let room = self.live.budget.take(piece.len() as u64);
            state.push(piece);
            if state.length > state.keep || !room {
                state.passing = true;
            }
            if state.passing {
                state.forget(&self.live.budget);
            }
            state.passing
        };
        self.live.grown.notify_waiters();
        passing
    }

    /// Waits until there has been no reader for this long. From then on none can begin: the body has broken
    /// off.
    pub async fn forsaken(&self, so_long: Duration) {
        loop {
            self.until(|state| state.readers.is_empty()).await;
            let read_again = self.until(|state| !state.readers.is_empty());
            if timeout(so_long, read_again).await.is_ok() {
                continue;
            }
            let mut state = self.live.state.lock();
            if state.readers.is_empty() {
                state.end = StreamEnd::Broken;
                return;
            }
        }
    }

    async fn until(&self, holds: impl Fn(&StreamState) -> bool) {
        loop {
            // Registered first, so that a later change wakes it.
            let changed = self.live.taken.notified();
            if holds(&self.live.state.lock()) {
                return;
            }
            changed.await;
        }
    }

    /// Waits until the fastest reader is close; `false` if there is no reader, and from then on none can
    /// begin.
    pub async fn in_step(&self) -> bool {
        loop {
            // Registered first, so that a later read wakes it.
            let taken = self.live.taken.notified();
            {
                let mut state = self.live.state.lock();
                match state.fastest_reader() {
                    None => {
                        state.end = StreamEnd::Broken;
                        return false;
                    }
                    Some(fastest) if state.length - fastest <= AHEAD => return true,
                    Some(_) => {}
                }
            }
            taken.await;
        }
    }

    /// Ends a complete body. Returns it if all of it was kept.
    pub fn finish(self) -> Option<Body> {
        let body = {
            let mut state = self.live.state.lock();
            state.seal();
            state.end = StreamEnd::Whole;
            (!state.passing).then(|| Body::from_pieces(state.pieces.iter().cloned().collect()))
        };
        self.live.grown.notify_waiters();
        body
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        let mut state = self.live.state.lock();
        if state.end == StreamEnd::Open {
            state.end = StreamEnd::Broken;
            drop(state);
            self.live.grown.notify_waiters();
        }
    }
}

/// A reader of a body.
#[derive(Debug)]
pub struct StreamReader {
    live: Arc<StreamingBody>,
    id: u64,
    /// The number of bytes read.
    at: u64,
    /// The next piece to read, counted from the body's beginning.
    piece: u64,
    /// The number of bytes read of that piece: it may have been the tail, which grows.
    offset: usize,
}

impl StreamReader {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`BodyBroken`]: the bytes read so far are not the whole body.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyBroken> {
        loop {
            let live = self.live.clone();
            // Registered first, so that a later piece wakes it.
            let grown = live.grown.notified();
            match self.take() {
                Some(taken) => return taken,
                None => grown.await,
            }
        }
    }

    fn take(&mut self) -> Option<Result<Option<Bytes>, BodyBroken>> {
        let mut state = self.live.state.lock();
        loop {
            if self.piece < state.gone {
                if self.at < state.forgotten {
                    return Some(Err(BodyBroken));
                }
                // A dropped piece was read to its end, while it was the tail.
                (self.piece, self.offset) = (state.gone, 0);
            }
            let place = usize::try_from(self.piece - state.gone).unwrap_or(usize::MAX);
            let piece = match state.pieces.get(place) {
                Some(piece) => {
                    let rest = piece.slice(self.offset.min(piece.len())..);
                    self.piece += 1;
                    self.offset = 0;
                    rest
                }
                None => {
                    let rest = Bytes::copy_from_slice(&state.tail[self.offset.min(state.tail.len())..]);
                    self.offset += rest.len();
                    rest
                }
            };
            if !piece.is_empty() {
                self.at += piece.len() as u64;
                state.readers.insert(self.id, self.at);
                if state.passing {
                    state.forget(&self.live.budget);
                    self.live.taken.notify_waiters();
                }
                return Some(Ok(Some(piece)));
            }
            // The empty rest of a piece that was read as the tail: on to the next one.
            if state.pieces.get(place).is_none() {
                return match state.end {
                    StreamEnd::Open => None,
                    StreamEnd::Whole => Some(Ok(None)),
                    StreamEnd::Broken => Some(Err(BodyBroken)),
                };
            }
        }
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        let mut state = self.live.state.lock();
        state.readers.remove(&self.id);
        if state.passing {
            state.forget(&self.live.budget);
        }
        drop(state);
        self.live.taken.notify_waiters();
    }
}

#[cfg(test)]
#[path = "streaming_body_tests.rs"]
mod tests;
