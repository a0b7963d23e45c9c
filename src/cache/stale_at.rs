//! The time at which a request that waits for a fill is served a stale answer instead, while the fill goes
//! on.
//!
//! Pure, except for [`or_stale`], which waits.

use super::{entry::Entry, policy::Freshness, Answer, Failure, FetchError};
use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

/// The reason why a request does not wait for its fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Haste {
    /// The fill takes longer than the route's `stale_after`.
    Slow,
    /// Every server of the origin is out of service: the stale answer would be served in the end.
    Failing,
}

/// The time, and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StaleAt {
    pub(super) at: Instant,
    pub(super) haste: Haste,
}

impl StaleAt {
    /// The time for a fill that began at `began`; `None`: it is waited for.
    pub(super) fn of(began: Instant, stale_after: Option<Duration>, is_failing: bool) -> Option<Self> {
        match (is_failing, stale_after) {
            (true, _) => Some(Self { at: began, haste: Haste::Failing }),
            (false, Some(after)) => Some(Self { at: began.checked_add(after)?, haste: Haste::Slow }),
            (false, None) => None,
        }
    }
}

impl Haste {
    /// Returns true if an entry may be served for this reason.
    pub(super) fn allows(self, entry: &Entry, now_ms: u64) -> bool {
        match self {
            Self::Slow => entry.terms().freshness(now_ms) != Freshness::Expired,
            Self::Failing => entry.terms().on_error(now_ms) == Freshness::StaleIfError,
        }
    }

    /// The answer with this entry, and the reason in it.
    pub(super) fn answer(self, entry: Arc<Entry>) -> Answer {
        match self {
            Self::Slow => Answer::StaleIfSlow(entry),
            Self::Failing => Answer::StaleIfError(entry, Failure::Fetch(FetchError::BreakerOpen)),
        }
    }
}

/// Waits for `work`; from the given time on for a stale answer as well, which is looked for meanwhile.
///
/// # Errors
/// The stale answer, if it is there first. Then `work` is dropped.
pub(super) async fn or_stale<T, F: Future<Output = Option<Arc<Entry>>>>(
    stale_at: Option<StaleAt>,
    work: impl Future<Output = T>,
    find: impl FnOnce(Haste) -> F,
) -> Result<T, Answer> {
    let Some(StaleAt { at, haste }) = stale_at else { return Ok(work.await) };
    let mut work = pin!(work);
    let stale = async {
        tokio::time::sleep_until(at.into()).await;
        find(haste).await
    };
    tokio::select! {
        biased;
        done = &mut work => return Ok(done),
        found = stale => if let Some(entry) = found {
            return Err(haste.answer(entry));
        }
    }
    Ok(work.await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stale_is_served_after_a_time_or_at_once() {
        let began = Instant::now();
        let after = Duration::from_millis(500);
        for (stale_after, is_failing, expected) in [
            (None, false, None),
            (Some(after), false, Some((after, Haste::Slow))),
            (None, true, Some((Duration::ZERO, Haste::Failing))),
            (Some(after), true, Some((Duration::ZERO, Haste::Failing))),
            (Some(Duration::MAX), false, None),
        ] {
            let expected = expected.map(|(after, haste)| StaleAt { at: began + after, haste });
            assert_eq!(StaleAt::of(began, stale_after, is_failing), expected, "{stale_after:?} {is_failing}");
        }
    }
}
