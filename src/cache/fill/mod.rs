//! A fill, from the lease to its outcome: the part of the cache that continues even if no request waits.

pub mod coalescing;
pub(crate) mod deliver;
pub(crate) mod draft;
pub mod hedge;
pub(crate) mod refresh_backoff;
pub(crate) mod shared_tier;
pub(crate) mod stale_after;
pub mod streaming_body;
use super::{
    coherence::{
        purge::RecordId,
        version::{VersionBasis, VersionSlot},
    },
    entry::CacheEntry,
    key::CacheKey,
    mode::{origin_lookup::OriginLookup, origin_store::ForwardStart},
    policy::{self, millis},
    Cache, FetchedHead, FlightOutcome, LeadOutcome, MissFetcher, OriginFetchError,
};
use crate::{
    clock::now_ms,
    config::{CacheRules, CacheScope},
    name::Tenant,
    representation::{conditional::asks_if_modified, Body},
    telemetry::labels::FillOutcome,
};
use coalescing::FlightLead;
use deliver::{BodyEnd, FillOutputs, JoinsClosed};
use draft::{EntryDraft, StoreVerdict};
use hedge::UsualFillTime;
use shared_tier::{next_of, ClaimOutcome, RemoteFill};
use streaming_body::StreamingBody;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::{
    future::Future,
    panic::{catch_unwind, AssertUnwindSafe},
    pin::{pin, Pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    sync::oneshot::{self, error::RecvError},
};
use tokio_util::task::{task_tracker::TaskTrackerToken, TaskTracker};

/// The time for which an answer is remembered as one not to be stored (hit-for-miss), so that requests for it
/// don't wait for one another.
pub(crate) const HIT_FOR_MISS: Duration = Duration::from_secs(10);
/// The most requests to the origin in one fill: a second one if a body broke off before any of it was seen,
/// or a 304 does not match the stored answer.
const FILL_ATTEMPTS: u32 = 2;

/// The lead of a fill.
pub(crate) type FillLead = FlightLead<FlightOutcome, Arc<StreamingBody>>;

/// The work of a fill.
pub(crate) struct FillJob {
    pub(crate) key: CacheKey,
    /// The time when it began, in milliseconds since the epoch.
    pub(crate) began_ms: u64,
    /// It is a refresh that no request waits for; if it fails, refreshes of this name pause.
    pub(crate) refreshes: Option<String>,
    /// Its leader has waited for others that each got an error: one more is the origin's own.
    pub(crate) shares_errors: bool,
    /// True if a stale answer may be served in place of the new one.
    pub(crate) has_stale: bool,
    pub(crate) on: FillMode,
    /// The time for which the origin is waited for while no request waits, before its head shows if the
    /// answer may be stored; `None`: without a limit.
    pub(crate) unwatched: Option<Duration>,
}

/// The kind of route.
pub(crate) enum FillMode {
    /// A namespace.
    Version { rules: Arc<CacheRules>, slot: Arc<VersionSlot>, basis: VersionBasis, usual: Arc<UsualFillTime> },
    /// A route that follows its origin.
    Follow {
        asking: Arc<OriginLookup>,
        /// The stale entry to validate.
        old: Option<Arc<CacheEntry>>,
        since: PurgePosition,
        /// The fields by which other nodes tell the variants apart, if this one doesn't know any.
        told: Vec<HeaderName>,
    },
}

/// The position in the purge log when a fill began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PurgePosition {
    pub(crate) position: u64,
    pub(crate) id: Option<RecordId>,
    /// It was unknown then if the log had more records.
    pub(crate) is_doubtful: bool,
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
    fn of(draft: &EntryDraft) -> Self {
        if draft.ends_stored {
            Self::End
        } else {
            Self::Nothing
        }
    }
}

impl FillJob {
    /// Returns true if no request needs its result in order to be answered.
    fn is_spare(&self) -> bool {
        self.has_stale || self.refreshes.is_some()
    }

    fn timeout(&self) -> Duration {
        match &self.on {
            FillMode::Version { rules, .. } => rules.fill_timeout,
            FillMode::Follow { asking, .. } => asking.rules.fill_timeout,
        }
    }

    /// The usual time of its route's fills.
    pub(crate) fn usual(&self) -> &UsualFillTime {
        match &self.on {
            FillMode::Version { usual, .. } => usual,
            FillMode::Follow { asking, .. } => &asking.usual,
        }
    }

    /// The longest time that it waits for the fill of another node.
    pub(crate) fn longest_wait(&self) -> Duration {
        let configured = match &self.on {
            FillMode::Version { rules, .. } => rules.hedge,
            FillMode::Follow { asking, .. } => asking.rules.hedge,
        };
        hedge::longest_wait(configured, self.usual().mean())
    }

    /// Returns true if it began in doubt: its answer is provisional, and stays on this node.
    pub(crate) fn is_provisional(&self) -> bool {
        match &self.on {
            FillMode::Version { basis, .. } => basis.is_assumed,
            FillMode::Follow { since, .. } => since.is_doubtful,
        }
    }

    /// The time that a request waits for it before a stale answer is served.
    pub(crate) fn stale_after(&self) -> Option<Duration> {
        match &self.on {
            FillMode::Version { rules, .. } => rules.stale_after,
            FillMode::Follow { asking, .. } => asking.rules.stale_after,
        }
    }

    /// The largest body that is stored, in bytes.
    pub(crate) fn max_size(&self) -> u64 {
        match &self.on {
            FillMode::Version { rules, .. } => rules.max_size,
            FillMode::Follow { asking, .. } => asking.rules.max_size,
        }
    }

    /// The largest body that is stored in Redis, in bytes.
    fn second_tier_limit(&self) -> Option<u64> {
        match &self.on {
            FillMode::Version { .. } => None,
            FillMode::Follow { asking, .. } => Some(asking.rules.redis),
        }
    }

    /// Returns true if its request to the origin has more than all waiting requests have in common.
    fn is_asked_as_one(&self) -> bool {
        match &self.on {
            FillMode::Version { rules, slot, .. } => shares_one_fill(rules.scope, slot.tenant()),
            FillMode::Follow { .. } => true,
        }
    }

    /// Returns true if a 304 may be meant for the leader, which asked for itself, with conditions of its own.
    fn passes_not_modified(&self) -> bool {
        matches!(&self.on, FillMode::Follow { asking, .. } if asking.is_alone() && asks_if_modified(&asking.headers))
    }

    /// The conditions of its request to the origin.
    fn conditions(&self) -> Vec<(HeaderName, HeaderValue)> {
        match &self.on {
            FillMode::Follow { old: Some(old), asking, .. } if !asking.is_alone() => {
                policy::condition_fields(&old.representation.headers())
            }
            _ => Vec::new(),
        }
    }
}

/// Returns true if a request for this scope has more than all have in common who get the answer: a token of a
/// tenant is one user's. Without a token it has nothing of the client.
pub(crate) fn shares_one_fill(scope: CacheScope, tenant: &Tenant) -> bool {
    scope == CacheScope::Tenant && tenant != Tenant::public()
}

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
        let deadline = tokio::time::Instant::now() + job.timeout();
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
        let asked = Instant::now();
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
        if matches!(outcome, FillOutcome::Stored | FillOutcome::Validated) {
            job.usual().learn(asked.elapsed());
        }
        self.metrics.fill(outcome, began.elapsed());
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
        let mut conditions = job.conditions();
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
            if fetched.status == StatusCode::NOT_MODIFIED && !job.passes_not_modified() {
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
                    None => return self.failed(hands, job, OriginFetchError::Unreachable),
                }
            }
            let mut draft = self.draft(job, &fetched);
            draft.too_large = draft.length.is_some_and(|length| length > job.max_size());
            if job.second_tier_limit().is_some_and(|limit| draft.length.is_some_and(|length| length > limit))
            {
                hands.let_go_of_the_lease();
            }
            self.head_has_come(hands, job, &draft);
            let keep = match draft.verdict.is_shared() && !draft.too_large {
                true => job.max_size(),
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
        let mut draft = match &job.on {
            FillMode::Version { rules, slot, basis, .. } => {
                let draft =
                    self.draft_of_namespace(rules, &basis.version, slot, fetched.status, &fetched.headers);
                EntryDraft { terms: self.terms_since(job.began_ms, basis.is_assumed, draft.terms), ..draft }
            }
            FillMode::Follow { asking, since, .. } => {
                let sent = ForwardStart { at_ms: job.began_ms, since: *since };
                self.draft_of_origin(asking, sent, fetched.status, &fetched.headers)
            }
        };
        if let StoreVerdict::Everyone(why) = draft.verdict {
            if job.is_asked_as_one() && !job.shares_errors && policy::may_be_the_requests_own(draft.status) {
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
        let FillMode::Follow { asking, old: Some(old), since, told } = &job.on else { return None };
        if !policy::validates(&old.representation.headers(), fresh) {
            return None;
        }
        let (entry, storable) =
            self.validated(asking, old, ForwardStart { at_ms: job.began_ms, since: *since }, fresh);
        let mut entry = Arc::new(entry);
        let stored = storable.is_ok();
        match storable {
            Ok(()) => entry = self.keep_followed(asking, told, entry),
            Err(why) => {
                self.end_stored(job);
                hands.release(why, StatusCode::NOT_MODIFIED, JoinsClosed::ThisTime);
            }
        }
        self.finish_refresh(job, true);
        hands.land(FlightOutcome::Validated(entry.clone()));
        Some((FillOutcome::Validated, if stored { StoreWrite::Answer(entry) } else { StoreWrite::End }))
    }

    /// Ends the stored answers, from before this fill began, for requests like the one that led to it (RFC
    /// 9111, 4.3.3).
    fn end_stored(&self, job: &FillJob) {
        match &job.on {
            FillMode::Version { .. } => {
                self.memory.end(&job.key, |entry| entry.terms().received_ms <= job.began_ms);
            }
            FillMode::Follow { asking, .. } => {
                // A fill with a lease deletes it from the store at its end.
                if asking.is_alone() {
                    self.forget_followed(asking);
                }
                self.end_followed(asking, job.began_ms, |_| true);
            }
        }
    }

    /// Ends the stored answers that a part shows to be of an older representation. A part for credentials
    /// alone has no effect.
    fn part_has_come(&self, job: &FillJob, draft: &EntryDraft) {
        let FillMode::Follow { asking, .. } = &job.on else { return };
        if draft.verdict == StoreVerdict::Keep || !asking.authorized {
            self.end_others(asking, job.began_ms, &draft.fields.iter().cloned().collect());
        }
    }

    /// Does what the head of an answer decides by itself: ends a stored answer that is over, and releases
    /// followers at once if the answer is the leader's alone.
    fn head_has_come(&self, hands: &mut FillOutputs, job: &FillJob, draft: &EntryDraft) {
        if draft.ends_stored {
            self.end_stored(job);
        } else if draft.status == StatusCode::PARTIAL_CONTENT {
            self.part_has_come(job, draft);
        }
        if draft.verdict != StoreVerdict::Keep {
            self.finish_refresh(job, draft.ends_stored);
        }
        match draft.verdict {
            StoreVerdict::Keep | StoreVerdict::Everyone(_) => {}
            StoreVerdict::Asker(why) => {
                if why == FillOutcome::Cookie {
                    // Only for requests with a token as well: see `OriginLookup::is_marked`.
                    self.mark(&job.key, why);
                }
                hands.release(why, draft.status, JoinsClosed::ThisTime);
            }
            StoreVerdict::AskerAlways(why) => {
                self.mark(&job.key, why);
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
                let kept = match &job.on {
                    FillMode::Version { .. } => {
                        self.memory.keep(job.key.clone(), entry.clone(), now_ms());
                        entry.clone()
                    }
                    FillMode::Follow { asking, told, .. } => self.keep_followed(asking, told, entry.clone()),
                };
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
                self.end_stored(job);
                self.finish_refresh(job, true);
                self.mark(&job.key, FillOutcome::TooLarge);
                (FillOutcome::TooLarge, StoreWrite::Mark { ended: true })
            }
            StoreVerdict::AskerAlways(why) => (why, StoreWrite::Mark { ended: draft.ends_stored }),
            StoreVerdict::Everyone(why) | StoreVerdict::Asker(why) => (why, StoreWrite::of(draft)),
        }
    }
}
