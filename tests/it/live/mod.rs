//! Watching entries: streams of events, long-polling, and what ends them.

mod watching;
