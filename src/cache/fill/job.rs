//! The work of a fill: its mode, the requests that depend on it, and the value that it leaves for the store.

use super::{
    coalescing::FlightLead,
    draft::EntryDraft,
    hedge,
    mode::{FillLimits, FillMode},
    streaming_body::StreamingBody,
};
use crate::cache::{entry::CacheEntry, FlightOutcome};

use std::{sync::Arc, time::Duration};

/// The time for which an answer is remembered as one not to be stored (hit-for-miss), so that requests for it
/// don't wait for one another.
pub(crate) const HIT_FOR_MISS: Duration = Duration::from_secs(10);

/// The lead of a fill.
pub(crate) type FillLead = FlightLead<FlightOutcome, Arc<StreamingBody>>;

/// The work of a fill.
pub(crate) struct FillJob {
    /// The decisions by the kind of its route.
    pub(crate) mode: Box<dyn FillMode>,
    /// It is a refresh that no request waits for; if it fails, refreshes of this name pause.
    pub(crate) refreshes: Option<String>,
    /// Its leader has waited for others that each got an error: one more is the origin's own.
    pub(crate) shares_errors: bool,
    /// True if a stale answer may be served in place of the new one.
    pub(crate) has_stale: bool,
    /// The time for which the origin is waited for while no request waits, before its head shows if the
    /// answer may be stored; `None`: without a limit.
    pub(crate) unwatched: Option<Duration>,
}

impl FillJob {
    /// The fill of an answer that a request waits for, by the decisions of its mode.
    pub(crate) fn new(mode: impl FillMode + 'static) -> Self {
        Self {
            mode: Box::new(mode),
            refreshes: None,
            shares_errors: false,
            has_stale: false,
            unwatched: None,
        }
    }

    /// Returns true if no request needs its result in order to be answered.
    pub(crate) fn is_spare(&self) -> bool {
        self.has_stale || self.refreshes.is_some()
    }

    /// The longest time that it waits for the fill of another node.
    pub(crate) fn longest_wait(&self) -> Duration {
        let FillLimits { hedge, .. } = self.mode.limits();
        hedge::longest_wait(hedge, self.mode.usual().mean())
    }
}

/// The value for the store.
pub(crate) enum StoreWrite {
    Answer(Arc<CacheEntry>),
    /// A mark that the answer may not be stored. With `ended`, the stored value is removed as well.
    Mark {
        ended: bool,
    },
    /// The stored value is removed.
    End,
    Nothing,
}

impl StoreWrite {
    /// The value for an answer that only the waiting requests get.
    pub(crate) fn of(draft: &EntryDraft) -> Self {
        if draft.ends_stored {
            Self::End
        } else {
            Self::Nothing
        }
    }
}
