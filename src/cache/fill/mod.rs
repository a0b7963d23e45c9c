//! A fill, from the lease to its outcome: the part of the cache that continues even if no request waits.

pub mod coalescing;
pub(crate) mod deliver;
pub(crate) mod draft;
pub mod hedge;
pub(crate) mod job;
pub(crate) mod mode;
pub(crate) mod refresh_backoff;
pub(crate) mod shared_tier;
pub(crate) mod stale_after;
pub mod streaming_body;
use super::{
    key::CacheKey,
    policy::{self, millis},
    Cache, FetchedHead, FlightOutcome, LeadOutcome, MissFetcher, OriginFetchError,
};
use crate::{clock::now_ms, representation::Body, telemetry::labels::FillOutcome};
use deliver::{BodyEnd, FillOutputs, JoinsClosed};
use draft::{EntryDraft, StoreVerdict};
use job::{FillJob, FillLead, StoreWrite, HIT_FOR_MISS};
use mode::FillLimits;
use shared_tier::{next_of, ClaimOutcome, RemoteFill};
use streaming_body::StreamingBody;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use std::{
    future::Future,
    panic::{catch_unwind, AssertUnwindSafe},
    pin::{pin, Pin},
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};
use tokio::{
    runtime::Handle,
    sync::oneshot::{self, error::RecvError},
};
use tokio_util::task::{task_tracker::TaskTrackerToken, TaskTracker};

/// The most requests to the origin in one fill: a second one if a body broke off before any of it was seen,
/// or a 304 does not match the stored answer.
const FILL_ATTEMPTS: u32 = 2;

/// A fill under way, and the leader's share of it. The leader's task drives it for as long as it waits: most
/// fills end then, and need no task of their own. If the leader goes, early or with its answer, the rest
/// becomes a task.
pub(crate) struct RunningFill {
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    led: oneshot::Receiver<LeadOutcome>,
    tasks: TaskTracker,
    /// Makes the shutdown wait for it until it has ended or is a task.
    _counted: TaskTrackerToken,
}

impl Future for RunningFill {
    type Output = Result<LeadOutcome, RecvError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(mut work) = self.work.take() {
            // The panic hook reports a panic, which ends the fill alone: waiting requests see that it was
            // abandoned.
            if let Ok(Poll::Pending) = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
                self.work = Some(work);
            }
        }
        Pin::new(&mut self.led).poll(cx)
    }
}

impl Drop for RunningFill {
    fn drop(&mut self) {
        // Without a runtime everything is shutting down.
        if let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            drop(self.tasks.spawn_on(work, &runtime));
        }
    }
}

impl Cache {
    /// Begins a fill, which does not depend on its leader: a client that leaves cancels nothing that may be
    /// stored or that others wait for.
    pub(crate) fn begin_fill(
        self: &Arc<Self>,
        lead: Option<FillLead>,
        live: &Arc<StreamingBody>,
        job: FillJob,
        fetcher: MissFetcher,
    ) -> RunningFill {
        let (own, led) = oneshot::channel();
        let hands = FillOutputs::new(lead, own, live.writer());
        let work = Box::pin(self.clone().fill(hands, job, fetcher));
        RunningFill { work: Some(work), led, tasks: self.tasks.clone(), _counted: self.tasks.token() }
    }

    async fn fill(self: Arc<Self>, mut hands: FillOutputs, mut job: FillJob, mut fetcher: MissFetcher) {
        let began = Instant::now();
        let deadline = tokio::time::Instant::from_std(began) + job.mode.limits().timeout;
        // Boxed only if there is a second tier: most of what a fill could wait for is there.
        let shared = self.second_tier(&job).is_some();
        let claimed = match shared {
            true => tokio::time::timeout_at(deadline, Box::pin(self.claim(&mut job))).await,
            false => Ok(ClaimOutcome::Fill(None)),
        };
        let claimed = match claimed {
            Ok(ClaimOutcome::Fill(lease)) => lease,
            Ok(found) => return found.landing().map_or((), |landing| hands.land(landing)),
            Err(_) => return hands.land(FlightOutcome::Failed(OriginFetchError::Timeout)),
        };
        let lease = claimed.as_ref();
        let left = lease.map(|_| hands.left());
        let asked = if shared { Instant::now() } else { began };
        let (outcome, to_store) = {
            let beside = lease.and_then(|lease| self.beside(lease, job.longest_wait()));
            let mut working =
                pin!(self.fetch_and_carry(&mut hands, &mut job, &mut fetcher, deadline, beside));
            match left {
                None => working.await,
                Some(left) => {
                    let mut holding = Box::pin(self.hold(lease, left));
                    tokio::select! {
                        ended = &mut working => ended,
                        () = &mut holding => (FillOutcome::Cancelled, StoreWrite::Nothing),
                    }
                }
            }
        };
        drop(hands);
        let ended = Instant::now();
        if matches!(outcome, FillOutcome::Stored | FillOutcome::Validated) {
            job.mode.usual().learn(ended - asked);
        }
        self.metrics.fill(outcome, ended - began);
        if shared {
            Box::pin(self.hand_on(&job, &to_store, lease)).await;
        }
    }

    async fn fetch_and_carry(
        self: &Arc<Self>,
        hands: &mut FillOutputs,
        job: &mut FillJob,
        fetcher: &mut MissFetcher,
        deadline: tokio::time::Instant,
        mut beside: Option<RemoteFill>,
    ) -> (FillOutcome, StoreWrite) {
        let FillLimits { max_size, second_tier, .. } = job.mode.limits();
        let mut conditions = job.mode.conditions();
        let mut attempt = 1;
        loop {
            let mut fetching = fetcher.ask(&conditions, deadline.into_std(), job.is_spare());
            let fetched = loop {
                tokio::select! {
                    biased;
                    fetched = &mut fetching => break fetched,
                    found = next_of(&mut beside) => {
                        if let Some(landing) = self.usable(job, found).and_then(ClaimOutcome::landing) {
                            hands.land(landing);
                            return (FillOutcome::Cancelled, StoreWrite::Nothing);
                        }
                    }
                    () = hands.forsaken(job.unwatched) => return (FillOutcome::Cancelled, StoreWrite::Nothing),
                }
            };
            let mut fetched = match fetched {
                Ok(fetched) => fetched,
                Err(error) => return self.failed(hands, job, error),
            };
            if fetched.status == StatusCode::NOT_MODIFIED && !job.mode.passes_not_modified() {
                // Reading to the end frees the connection.
                drop(fetched.body.next().await);
                let asked = !conditions.is_empty();
                match asked.then(|| self.accept(hands, job, &fetched.headers)).flatten() {
                    Some(ended) => return ended,
                    None if attempt < FILL_ATTEMPTS => {
                        conditions.clear();
                        attempt += 1;
                        continue;
                    }
                    None => return self.failed(hands, job, OriginFetchError::Malformed),
                }
            }
            let mut draft = self.draft(job, &fetched);
            let exceeds = |limit| draft.length.is_some_and(|length| length > limit);
            let too_large = exceeds(max_size);
            if second_tier.is_some_and(exceeds) {
                hands.let_go_of_the_lease();
            }
            draft.too_large = too_large;
            self.head_has_come(hands, job, &draft);
            let keep = match draft.verdict.is_shared() && !draft.too_large {
                true => max_size,
                false => 0,
            };
            if keep > 0 {
                if let Some(whole) = fetched.body.at_hand() {
                    // Copied: its present buffer is larger, and would be kept as well.
                    return self.land(hands, job, draft, Body::from(Bytes::copy_from_slice(&whole)));
                }
            }
            match self.carry(hands, &draft, fetched.body, keep, deadline).await {
                BodyEnd::Whole(body) => return self.land(hands, job, draft, body),
                BodyEnd::Passed => return self.passed(job, &draft),
                // Given up only because no request waits: it is too large to be stored.
                BodyEnd::Unwanted if draft.verdict == StoreVerdict::Keep && !draft.is_event_stream() => {
                    return self.passed(job, &draft)
                }
                BodyEnd::Unwanted => {
                    let ended = draft.ends_stored;
                    let to_store = match draft.verdict {
                        StoreVerdict::AskerAlways(_) => StoreWrite::Mark { ended },
                        _ => StoreWrite::of(&draft),
                    };
                    return (FillOutcome::Cancelled, to_store);
                }
                BodyEnd::Broken(error)
                    if hands.are_full() && attempt < FILL_ATTEMPTS && draft.verdict.is_shared() =>
                {
                    tracing::debug!(%error, "a body broke off before any of it was seen");
                    attempt += 1;
                }
                BodyEnd::Broken(error) => return self.failed(hands, job, error),
            }
        }
    }

    /// Records the result of a refresh: after a failure there is a pause.
    fn finish_refresh(&self, job: &FillJob, well: bool) {
        match &job.refreshes {
            Some(name) if well => self.pauses.end(name),
            Some(name) => self.pauses.begin(name, now_ms()),
            None => {}
        }
    }

    fn failed(
        &self,
        hands: &mut FillOutputs,
        job: &FillJob,
        error: OriginFetchError,
    ) -> (FillOutcome, StoreWrite) {
        self.finish_refresh(job, false);
        hands.fail(error);
        let outcome = match error {
            OriginFetchError::Timeout => FillOutcome::Timeout,
            OriginFetchError::Abandoned => FillOutcome::Cancelled,
            OriginFetchError::Unreachable
            | OriginFetchError::Malformed
            | OriginFetchError::BreakerOpen
            | OriginFetchError::Unresolved
            | OriginFetchError::Busy => FillOutcome::OriginError,
        };
        (outcome, StoreWrite::Nothing)
    }

    fn draft(&self, job: &FillJob, fetched: &FetchedHead) -> EntryDraft {
        let mut draft = job.mode.draft(self, fetched);
        if let StoreVerdict::Everyone(why) = draft.verdict {
            if job.mode.is_asked_as_one()
                && !job.shares_errors
                && policy::may_be_the_requests_own(draft.status)
            {
                draft.verdict = StoreVerdict::Asker(why);
            }
        }
        draft
    }

    /// Handles a 304: the stored answer is still good. `None`: it is about another one.
    fn accept(
        &self,
        hands: &mut FillOutputs,
        job: &FillJob,
        fresh: &HeaderMap,
    ) -> Option<(FillOutcome, StoreWrite)> {
        let (entry, storable) = job.mode.renew(self, fresh)?;
        if let Err(why) = storable {
            job.mode.end_stored(self);
            hands.release(why, StatusCode::NOT_MODIFIED, JoinsClosed::ThisTime);
        }
        self.finish_refresh(job, true);
        hands.land(FlightOutcome::Validated(entry.clone()));
        let to_store = match storable {
            Ok(()) => StoreWrite::Answer(entry),
            Err(_) => StoreWrite::End,
        };
        Some((FillOutcome::Validated, to_store))
    }

    /// Does what the head of an answer decides by itself: ends a stored answer that is over, and releases
    /// followers at once if the answer is the leader's alone.
    fn head_has_come(&self, hands: &mut FillOutputs, job: &FillJob, draft: &EntryDraft) {
        if draft.ends_stored {
            job.mode.end_stored(self);
        } else {
            job.mode.end_older(self, draft);
        }
        if draft.verdict != StoreVerdict::Keep {
            self.finish_refresh(job, draft.ends_stored);
        }
        match draft.verdict {
            StoreVerdict::Keep | StoreVerdict::Everyone(_) => {}
            StoreVerdict::Asker(why) => {
                if why == FillOutcome::Cookie {
                    // Only for requests with a token as well: see `OriginLookup::is_marked`.
                    self.mark(job.mode.key(), why);
                }
                hands.release(why, draft.status, JoinsClosed::ThisTime);
            }
            StoreVerdict::AskerAlways(why) => {
                self.mark(job.mode.key(), why);
                hands.release(why, draft.status, JoinsClosed::EachTime);
            }
        }
    }

    pub(crate) fn mark(&self, key: &CacheKey, why: FillOutcome) {
        let now = now_ms();
        self.memory.mark(key.clone(), why, now, now + millis(HIT_FOR_MISS));
    }

    /// Stores and hands out a complete body.
    fn land(
        self: &Arc<Self>,
        hands: &mut FillOutputs,
        job: &FillJob,
        draft: EntryDraft,
        body: Body,
    ) -> (FillOutcome, StoreWrite) {
        match draft.verdict {
            StoreVerdict::Keep => {
                let entry = Arc::new(draft.entry(body, &self.encoding.load()));
                let kept = job.mode.keep(self, entry.clone());
                self.finish_refresh(job, true);
                // A follower asked for the part, even if it was combined with another.
                hands.land(FlightOutcome::Filled(if entry.part().is_some() { entry } else { kept.clone() }));
                (FillOutcome::Stored, StoreWrite::Answer(kept))
            }
            StoreVerdict::Everyone(why) => {
                let to_store = StoreWrite::of(&draft);
                hands.land(FlightOutcome::Passing(Arc::new(
                    draft.representation(body, &self.encoding.load()),
                )));
                (why, to_store)
            }
            // An answer for the leader alone is never kept: it passed through.
            StoreVerdict::Asker(why) | StoreVerdict::AskerAlways(why) => (why, StoreWrite::of(&draft)),
        }
    }

    /// Ends a fill whose body has passed through.
    fn passed(&self, job: &FillJob, draft: &EntryDraft) -> (FillOutcome, StoreWrite) {
        match draft.verdict {
            StoreVerdict::Keep => {
                job.mode.end_stored(self);
                self.finish_refresh(job, true);
                self.mark(job.mode.key(), FillOutcome::TooLarge);
                (FillOutcome::TooLarge, StoreWrite::Mark { ended: true })
            }
            StoreVerdict::AskerAlways(why) => (why, StoreWrite::Mark { ended: draft.ends_stored }),
            StoreVerdict::Everyone(why) | StoreVerdict::Asker(why) => (why, StoreWrite::of(draft)),
        }
    }
}
