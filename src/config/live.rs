//! What can be watched: `route.live` and `[[live]]`.

use std::time::Duration;

/// `live = { … }` of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveRules {
    /// `event`: the name of its events (`metric_update`).
    pub event: String,
    /// `ping`: the interval of `ping` events (15 s).
    pub ping: Duration,
    /// `window`: changes within this time after a change are told together (50 ms).
    pub window: Duration,
    /// `on_bump`: when an entry is read again after a bump or a purge (`watched`).
    pub on_bump: LiveTrigger,
    /// `on_ttl`: when an entry is read again at the end of its lifetime (`watched`).
    pub on_ttl: LiveTrigger,
    /// `max_wait`: the longest wait of a request with `Prefer: wait` (60 s).
    pub max_wait: Duration,
    /// The most streams at a time.
    pub limits: WatcherLimits,
}

/// The most streams that watch a route at a time; `None`: any number (`0` in the file).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatcherLimits {
    /// `max_watchers`: in all.
    pub route: Option<u32>,
    /// `max_watchers_per_tenant`
    pub tenant: Option<u32>,
    /// `max_watchers_per_user`
    pub user: Option<u32>,
    /// `max_watchers_per_address`
    pub address: Option<u32>,
}

/// The condition under which an entry is read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveTrigger {
    /// Whether somebody watches it or not, once it was read.
    Eager,
    /// While somebody watches it.
    Watched,
    /// Only when a request asks for it.
    Lazy,
}

/// `[[live]]`: several entries on one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveEndpointConfig {
    /// `path`, exact.
    pub path: String,
    /// `watch`: the names of entries, and the targets that they stand for, sorted by name.
    pub watch: Vec<(String, String)>,
}
