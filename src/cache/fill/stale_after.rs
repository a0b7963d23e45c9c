//! The time at which a request that waits for a fill is served a stale answer instead, while the fill goes
//! on.
//!
//! Pure, except for [`wait_or_stale`], which waits.

use crate::cache::{entry::CacheEntry, policy::Freshness, CacheAnswer, FillFailure, OriginFetchError};
use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

/// The reason why a request does not wait for its fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StaleReason {
    /// The fill takes longer than the route's `stale_after`.
    Slow,
    /// Every server of the origin is out of service: the stale answer would be served in the end.
    Failing,
}

/// The time, and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StaleDeadline {
    pub(crate) at: Instant,
    pub(crate) haste: StaleReason,
}

impl StaleDeadline {
    /// The time for a fill that began at `began`; `None`: it is waited for.
    pub(crate) fn of(began: Instant, stale_after: Option<Duration>, is_failing: bool) -> Option<Self> {
        match (is_failing, stale_after) {
            (true, _) => Some(Self { at: began, haste: StaleReason::Failing }),
            (false, Some(after)) => Some(Self { at: began.checked_add(after)?, haste: StaleReason::Slow }),
            (false, None) => None,
        }
    }
}

impl StaleReason {
    /// Returns true if an entry may be served for this reason.
    pub(crate) fn allows(self, entry: &CacheEntry, now_ms: u64) -> bool {
        match self {
            Self::Slow => entry.terms().freshness(now_ms) != Freshness::Expired,
            Self::Failing => entry.terms().on_error(now_ms) == Freshness::StaleIfError,
        }
    }

    /// The answer with this entry, and the reason in it.
    pub(crate) fn answer(self, entry: Arc<CacheEntry>) -> CacheAnswer {
        match self {
            Self::Slow => CacheAnswer::StaleIfSlow(entry),
            Self::Failing => {
                CacheAnswer::StaleIfError(entry, FillFailure::Fetch(OriginFetchError::BreakerOpen))
            }
        }
    }
}

/// Waits for `work`; from the given time on for a stale answer as well, which is looked for meanwhile.
///
/// # Errors
/// The stale answer, if it is there first. Then `work` is dropped.
pub(crate) async fn wait_or_stale<T, F: Future<Output = Option<Arc<CacheEntry>>>>(
    stale_at: Option<StaleDeadline>,
    work: impl Future<Output = T>,
    find: impl FnOnce(StaleReason) -> F,
) -> Result<T, CacheAnswer> {
    let Some(StaleDeadline { at, haste }) = stale_at else { return Ok(work.await) };
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
            (Some(after), false, Some((after, StaleReason::Slow))),
            (None, true, Some((Duration::ZERO, StaleReason::Failing))),
            (Some(after), true, Some((Duration::ZERO, StaleReason::Failing))),
            (Some(Duration::MAX), false, None),
        ] {
            let expected = expected.map(|(after, haste)| StaleDeadline { at: began + after, haste });
            assert_eq!(
                StaleDeadline::of(began, stale_after, is_failing),
                expected,
                "{stale_after:?} {is_failing}"
            );
        }
    }
}
