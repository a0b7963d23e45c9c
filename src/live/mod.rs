//! Live entries: a client watches the entry that it reads.
//!
//! A watched entry ([`WatchedEntry`]) has one keeper ([`keeper`]), which reads it again after a bump, a purge or
//! the end of its lifetime, and a list of watchers. A new state is encoded once ([`event`]), put into the
//! entry, and the watchers are woken in batches that yield to other requests. A watcher ([`LiveWatcher`]) is a
//! small value beside its connection: it holds no queue, and looks at the newest state whenever it can write.
//! So a slow client skips states, and nothing depends on what it missed.
//!
//! The module knows no route, no origin and no HTTP: it is told how to read an entry by an [`EntrySource`].

pub(crate) mod cursor;
pub(crate) mod encoder;
pub(crate) mod entry;
pub(crate) mod event;
pub(crate) mod gzip;
pub(crate) mod hub;
pub(crate) mod keeper;
pub(crate) mod quota;
pub(crate) mod source;
pub(crate) mod watcher;

pub(crate) use {
    cursor::WatchCursor,
    encoder::StreamEncoder,
    entry::WatcherKind,
    hub::LiveHub,
    quota::{WatcherOwner, WatcherPermit},
    source::{DeflateRules, EntrySnapshot, EntrySource, LivePace, ReadFault},
    watcher::{EntryChange, LiveWatcher},
};
