//! The watching end: what a stream holds of the entries that it watches.

use super::{
    cursor::StateTag,
    entry::{EntryState, WatchedEntry, WatcherKind, WatcherSignal},
    event::LiveEvent,
};
use std::{
    sync::Arc,
    task::{Context, Poll},
};

/// A change that a stream has to tell its client of.
#[derive(Debug)]
pub(crate) enum EntryChange {
    /// A new state of an entry; so many states before it were skipped.
    State(Arc<LiveEvent>, u64),
    /// The entry can't be read at present, for this reason: its last state stays.
    Stale(usize, &'static str),
    /// The entry with this index can be read again, and is what it was.
    Current(usize),
    /// The entry is watched no longer: the stream ends, and its client may come back.
    Over,
}

/// The entries that one stream watches.
#[derive(Debug, Default)]
pub(crate) struct LiveWatcher {
    signal: Arc<WatcherSignal>,
    watches: Vec<EntryWatch>,
    kind: WatcherKind,
}

/// One entry that a stream watches. It leaves the entry's list when it is dropped.
#[derive(Debug)]
struct EntryWatch {
    entry: Arc<WatchedEntry>,
    place: usize,
    kind: WatcherKind,
    /// The check that has to end before the entry's state is current for this stream.
    wish: u64,
    /// The last change that was looked at, and the number of states then.
    seen: u64,
    states: u64,
    /// The state that the client has: its tag, and its part of the id.
    sent: Option<(StateTag, Arc<str>)>,
    /// The reason that the client was told last.
    told: Option<&'static str>,
}

impl Drop for EntryWatch {
    fn drop(&mut self) {
        self.entry.leave(self.place, self.kind);
    }
}

impl EntryWatch {
    /// The change that its client has to be told of, if there is one.
    fn next(&mut self, index: usize, state: &EntryState) -> Option<EntryChange> {
        if state.over {
            return Some(EntryChange::Over);
        }
        if state.checked < self.wish {
            return None;
        }
        let is_current = !self.kind.is_strict || self.entry.last_read() >= self.wish;
        if let Some(event) = state.event.as_ref().filter(|_| is_current) {
            let is_new = self.sent.as_ref().is_none_or(|(tag, _)| *tag != event.tag());
            let skipped = match self.states {
                // The first state is the current one: none was missed.
                0 => 0,
                states => state.states.saturating_sub(states + 1),
            };
            self.states = state.states;
            if is_new {
                self.sent = Some((event.tag(), event.id().clone()));
                self.told = None;
                return Some(EntryChange::State(event.clone(), skipped));
            }
        }
        if state.fault != self.told {
            self.told = state.fault;
            return Some(match state.fault {
                Some(reason) => EntryChange::Stale(index, reason),
                None => EntryChange::Current(index),
            });
        }
        None
    }
}

impl LiveWatcher {
    /// A watcher of this kind.
    pub(crate) fn new(kind: WatcherKind) -> Self {
        Self { kind, ..Self::default() }
    }

    /// Begins to watch an entry, whose state is current for this stream when the check `wish` has ended.
    pub(super) fn add(&mut self, entry: Arc<WatchedEntry>, has: Option<StateTag>) {
        let kind = self.kind;
        let (place, wish) = entry.join(self.signal.clone(), kind);
        let sent = has.map(|tag| (tag, tag.to_string().into()));
        self.watches.push(EntryWatch { entry, place, kind, wish, seen: 0, states: 0, sent, told: None });
    }

    #[cfg(test)]
    pub(super) fn signal(&self) -> &WatcherSignal {
        &self.signal
    }

    /// Ready when there may be a change.
    pub(crate) fn poll_rung(&self, cx: &Context<'_>) -> Poll<()> {
        self.signal.poll_rung(cx)
    }

    /// The next change to tell the client of; `None`: it has the newest state of all entries that are current.
    pub(crate) fn next_change(&mut self) -> Option<EntryChange> {
        self.watches.iter_mut().enumerate().find_map(|(index, watch)| {
            let state = watch.entry.state();
            if watch.seen == state.change {
                return None;
            }
            let change = watch.next(index, &state);
            if change.is_none() && state.checked >= watch.wish {
                watch.seen = state.change;
            }
            change
        })
    }

    /// Returns true if all entries have been looked at for this stream.
    pub(crate) fn is_settled(&self) -> bool {
        self.watches.iter().all(|watch| watch.entry.state().checked >= watch.wish)
    }

    /// Notes that what was taken has been written.
    pub(crate) fn has_written(&self) {
        self.watches.iter().for_each(|watch| watch.entry.was_written());
    }

    /// Appends the id of the stream: the part of each entry, `-` for one without a state.
    pub(crate) fn push_id(&self, out: &mut Vec<u8>) {
        for (index, watch) in self.watches.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            let part = watch.sent.as_ref().map_or("-", |(_, id)| id);
            out.extend_from_slice(part.as_bytes());
        }
    }
}
