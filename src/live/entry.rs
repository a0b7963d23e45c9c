//! An entry that is watched: its newest state, and the list of those who watch it.

use super::{cursor::StateTag, event::LiveEvent, source::ReadFault};
use crate::clock;
use arc_swap::{ArcSwap, Guard};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use slab::Slab;
use std::{
    fmt,
    sync::{
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        Arc,
    },
    task::{Context, Poll},
};
use tokio::sync::Notify;

/// The number of watchers that are woken at once: other requests are served between two batches.
const FAN_OUT_BATCH: usize = 64;

/// The bell of a stream. It is rung for each change of an entry that the stream watches.
#[derive(Debug, Default)]
pub(super) struct WatcherSignal {
    waker: AtomicWaker,
    rung: AtomicBool,
}

impl WatcherSignal {
    pub(super) fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(super) fn poll_rung(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        match self.rung.swap(false, Ordering::AcqRel) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// What watchers of an entry look at. Replaced as a whole.
#[derive(Debug, Default)]
pub(super) struct EntryState {
    /// The number of this state among all changes.
    pub(super) change: u64,
    /// The number of events that there have been.
    pub(super) states: u64,
    /// The newest event.
    pub(super) event: Option<Arc<LiveEvent>>,
    /// The reason why the entry can't be read at present.
    pub(super) fault: Option<&'static str>,
    /// The last check that has ended; see [`WatchedEntry::join`].
    pub(super) checked: u64,
    /// True when nobody keeps the entry any longer.
    pub(super) over: bool,
}

/// The kind of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct WatcherKind {
    /// Its content is in gzip.
    pub(crate) is_gzip: bool,
    /// It gets no state from before it came, even if the entries can't be read at present.
    pub(crate) is_strict: bool,
}

/// A watcher that waits for a check to end.
struct JoiningWatcher {
    wish: u64,
    /// True if that check has to have read the entry.
    is_strict: bool,
    signal: Arc<WatcherSignal>,
}

/// An entry that is watched.
pub(crate) struct WatchedEntry {
    key: Box<str>,
    state: ArcSwap<EntryState>,
    watchers: Mutex<Slab<Arc<WatcherSignal>>>,
    /// The number of watchers whose streams are in gzip.
    in_gzip: AtomicUsize,
    joining: Mutex<Vec<JoiningWatcher>>,
    /// The number of checks that were wished for.
    wishes: AtomicU64,
    /// The last check that has read the entry, and not failed or been put off.
    read: AtomicU64,
    /// Wakes the keeper.
    pub(super) wished: Notify,
    /// The time at which the newest state was known to be due, and at which it was written last, in
    /// milliseconds of [`clock::now_ms`]; 0: not yet.
    due_ms: AtomicU64,
    written_ms: AtomicU64,
}

impl WatchedEntry {
    pub(super) fn new(key: &str) -> Self {
        Self {
            key: key.into(),
            state: ArcSwap::default(),
            watchers: Mutex::default(),
            in_gzip: AtomicUsize::new(0),
            joining: Mutex::default(),
            wishes: AtomicU64::new(0),
            read: AtomicU64::new(0),
            wished: Notify::new(),
            due_ms: AtomicU64::new(0),
            written_ms: AtomicU64::new(0),
        }
    }

    /// The key of the entry.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// The number of its watchers.
    pub(crate) fn watchers(&self) -> usize {
        self.watchers.lock().len()
    }

    pub(super) fn state(&self) -> Guard<Arc<EntryState>> {
        self.state.load()
    }

    /// Adds a watcher; returns its place, and the check after which the state is current for it. The state from
    /// before may be one that a bump has just ended. A strict one waits for a check that has read the entry.
    pub(super) fn join(&self, signal: Arc<WatcherSignal>, kind: WatcherKind) -> (usize, u64) {
        // Before the wish: the check that it waits for compresses the state.
        self.in_gzip.fetch_add(usize::from(kind.is_gzip), Ordering::AcqRel);
        let place = self.watchers.lock().insert(signal.clone());
        let mut joining = self.joining.lock();
        let wish = self.wishes.fetch_add(1, Ordering::AcqRel) + 1;
        joining.push(JoiningWatcher { wish, is_strict: kind.is_strict, signal });
        drop(joining);
        self.wished.notify_one();
        (place, wish)
    }

    pub(super) fn leave(&self, place: usize, kind: WatcherKind) {
        self.in_gzip.fetch_sub(usize::from(kind.is_gzip), Ordering::AcqRel);
        let mut watchers = self.watchers.lock();
        watchers.try_remove(place);
        if watchers.is_empty() {
            watchers.shrink_to_fit();
        }
    }

    /// The number of the last check that was wished for: one that begins now ends all up to it.
    pub(super) fn wishes(&self) -> u64 {
        self.wishes.load(Ordering::Acquire)
    }

    /// Records that a check has read the entry which began when `wishes` was the last one wished for. Called
    /// before its result is recorded.
    pub(super) fn has_read(&self, wishes: u64) {
        self.read.store(wishes, Ordering::Release);
    }

    /// The last check that has read the entry.
    pub(super) fn last_read(&self) -> u64 {
        self.read.load(Ordering::Acquire)
    }

    /// Records the result of a check that began when `wishes` was the last one wished for. Returns true if the
    /// watchers have to be woken. `due_ms`: the time at which a change was known. Called by the keeper alone.
    pub(super) fn learn(
        &self,
        read: Result<Option<Arc<LiveEvent>>, ReadFault>,
        (wishes, due_ms): (u64, u64),
    ) -> bool {
        let before = self.state.load();
        let (mut event, mut states, mut over) = (before.event.clone(), before.states, before.over);
        let mut fault = None;
        match read {
            Ok(Some(new)) if event.as_ref().is_none_or(|event| event.tag() != new.tag()) => {
                (event, states) = (Some(new), states + 1);
                self.written_ms.store(0, Ordering::Relaxed);
                self.due_ms.store(due_ms, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(ReadFault::Failed(reason)) => fault = Some(reason),
            Err(ReadFault::Over) => over = true,
        }
        let is_change = states != before.states || fault != before.fault || over;
        // Those that join wait for a check, whether it finds a change or not.
        let change = before.change + 1;
        self.state.store(Arc::new(EntryState { change, states, event, fault, checked: wishes, over }));
        // Those that joined during the check wait for the next one, unless there is none.
        let read = self.last_read();
        self.joining.lock().retain(|joining| {
            let ended = if joining.is_strict { read } else { wishes };
            let waits_on = joining.wish > ended && !over;
            if !waits_on {
                joining.signal.ring();
            }
            waits_on
        });
        is_change
    }

    /// The tag of the newest state.
    pub(super) fn tag(&self) -> Option<StateTag> {
        self.state.load().event.as_ref().map(|event| event.tag())
    }

    /// The newest event.
    pub(super) fn event(&self) -> Option<Arc<LiveEvent>> {
        self.state.load().event.clone()
    }

    /// Returns true if somebody watches by a stream in gzip.
    pub(super) fn has_gzip(&self) -> bool {
        self.in_gzip.load(Ordering::Acquire) > 0
    }

    /// Wakes all watchers, in batches that yield to other tasks.
    pub(super) async fn fan_out(&self) {
        let mut from = 0;
        loop {
            let more = {
                let watchers = self.watchers.lock();
                let places = from..(from + FAN_OUT_BATCH).min(watchers.capacity());
                places.filter_map(|place| watchers.get(place)).for_each(|signal| signal.ring());
                from += FAN_OUT_BATCH;
                from < watchers.capacity()
            };
            if !more {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn ring_all(&self) {
        self.watchers.lock().iter().for_each(|(_, signal)| signal.ring());
    }

    pub(super) fn was_written(&self) {
        self.written_ms.store(clock::now_ms(), Ordering::Relaxed);
    }

    /// The time from the change to the last write of the newest state, in milliseconds; once for each state.
    pub(super) fn take_fan_out_ms(&self) -> Option<u64> {
        match self.written_ms.load(Ordering::Relaxed) {
            0 => None,
            written => match self.due_ms.swap(0, Ordering::Relaxed) {
                0 => None,
                due => Some(written.saturating_sub(due)),
            },
        }
    }
}

impl fmt::Debug for WatchedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedEntry").field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{live::LiveWatcher, representation::Body};
    use std::task::Waker;

    fn event(text: &str) -> Arc<LiveEvent> {
        Arc::new(LiveEvent::encode("m", &Body::from(text.as_bytes().to_vec()), None).unwrap())
    }

    fn is_rung(signal: &WatcherSignal) -> bool {
        signal.poll_rung(&Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn who_joins_during_a_check_is_told_of_the_next_one() {
        let entry = WatchedEntry::new("kpi");
        let (first, late) = (Arc::<WatcherSignal>::default(), Arc::<WatcherSignal>::default());
        let (_, wish) = entry.join(first.clone(), WatcherKind::default());
        let begun = entry.wishes();
        assert_eq!(wish, begun);
        let (_, wish) = entry.join(late.clone(), WatcherKind::default());
        assert!(entry.learn(Ok(Some(event("1"))), (begun, 1)));
        assert!(is_rung(&first) && !is_rung(&late));
        assert!(entry.state().checked < wish);
        assert!(!entry.learn(Ok(Some(event("1"))), (entry.wishes(), 2)), "nothing has changed");
        assert!(is_rung(&late));
    }

    #[test]
    fn a_strict_watcher_gets_no_state_from_before_it_came() {
        let entry = Arc::new(WatchedEntry::new("kpi"));
        entry.learn(Ok(Some(event("old"))), (entry.wishes(), 1));
        let mut watcher = LiveWatcher::new(WatcherKind { is_strict: true, is_gzip: false });
        watcher.add(entry.clone(), None);
        // It could not be read, or was put off.
        entry.learn(Err(ReadFault::Failed("origin-error")), (entry.wishes(), 1));
        let told = watcher.next_change();
        assert!(matches!(told, Some(super::super::EntryChange::Stale(0, "origin-error"))), "{told:?}");
        entry.learn(Ok(None), (entry.wishes(), 1));
        let told = watcher.next_change();
        assert!(matches!(told, Some(super::super::EntryChange::Current(0))), "{told:?}");
        assert!(watcher.next_change().is_none());
        while is_rung(watcher.signal()) {}
        // The state is what it was.
        entry.has_read(entry.wishes());
        entry.learn(Ok(None), (entry.wishes(), 1));
        assert!(is_rung(watcher.signal()));
        assert!(matches!(watcher.next_change(), Some(super::super::EntryChange::State(..))));
        assert!(watcher.next_change().is_none());
    }

    #[test]
    fn a_watcher_skips_to_the_newest_state_and_gets_none_twice() {
        let entry = Arc::new(WatchedEntry::new("kpi"));
        let mut watcher = LiveWatcher::default();
        watcher.add(entry.clone(), None);
        assert!(watcher.next_change().is_none() && !watcher.is_settled());
        for text in ["1", "2", "3"] {
            entry.learn(Ok(Some(event(text))), (entry.wishes(), 1));
        }
        let tag = |watcher: &mut LiveWatcher| match watcher.next_change() {
            Some(super::super::EntryChange::State(event, skipped)) => Some((event.tag(), skipped)),
            _ => None,
        };
        assert_eq!(tag(&mut watcher), Some((event("3").tag(), 0)), "the first state is the newest");
        assert_eq!(tag(&mut watcher), None);
        for text in ["4", "5"] {
            entry.learn(Ok(Some(event(text))), (entry.wishes(), 1));
        }
        assert_eq!(tag(&mut watcher), Some((event("5").tag(), 1)));
        assert_eq!(entry.watchers(), 1);
        drop(watcher);
        assert_eq!(entry.watchers(), 0);
    }
}
