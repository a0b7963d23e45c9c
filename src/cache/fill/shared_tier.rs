//! The second tier in a fill: the lease, a look-up in the store, and the hand-over to the other nodes.
//!
//! A store that can't be asked, or refuses a value, costs each node a fill and nothing else.

use super::{
    deliver::JoinsClosed,
    hedge::{self, HedgeCause, LeaseState, LeaseStep, LookPlan},
    job::{FillJob, StoreWrite, HIT_FOR_MISS},
};
use crate::{
    cache::{
        entry::{self, CacheEntry, OpenedEnvelope, StoredValue},
        key::{CacheKey, StorePlace},
        policy::{self, millis},
        redis::{LeaseClaim, RedisStore},
        Cache, FlightOutcome,
    },
    clock,
    telemetry::labels::{FillOutcome, HedgeReason, StoreError},
};

use bytes::Bytes;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64;

/// The keys of a fill's answer in the store, with its lease.
pub(crate) struct FillLease {
    place: StorePlace,
    /// `None`: this fill has no lease, and asks the origin beside another node's.
    token: Option<String>,
}

/// The answer of another node's fill, which may be in the store before the origin has answered this one.
pub(crate) struct RemoteFill {
    redis: Arc<RedisStore>,
    place: StorePlace,
    /// The time of the first look.
    at: Instant,
    /// The longest pause between two looks.
    pause: Duration,
    /// The hash of the last value, which was of no use.
    seen: Option<u64>,
}

impl RemoteFill {
    /// The next value under its key, never the same twice in a row.
    async fn next(&mut self) -> Bytes {
        tokio::time::sleep_until(self.at.into()).await;
        loop {
            let wait = self.redis.wait(&self.place);
            if let Ok(Some(found)) = self.redis.get(self.place.body.clone()).await {
                let hash = Some(xxh3_64(&found));
                if self.seen != hash {
                    self.seen = hash;
                    return found;
                }
            }
            wait.until_ended(self.pause).await;
        }
    }
}

/// The next answer of another node's fill; never ready if there is none.
pub(crate) async fn next_of(beside: &mut Option<RemoteFill>) -> Bytes {
    match beside {
        Some(beside) => beside.next().await,
        None => std::future::pending().await,
    }
}

/// Renews a lease, if there is one, for as long as it is polled.
async fn prolong_lease(redis: &RedisStore, place: &StorePlace, token: Option<&str>) {
    match token {
        Some(token) => redis.renew(place, token).await,
        None => std::future::pending().await,
    }
}

/// The result of asking for the lease.
pub(crate) enum ClaimOutcome {
    /// The answer is in the store.
    Found(Arc<CacheEntry>),
    /// The answer may not be stored.
    Marked,
    /// Fill, with or without a lease.
    Fill(Option<FillLease>),
}

impl ClaimOutcome {
    /// Returns the outcome for waiting requests; `None`: the origin has to be asked.
    pub(crate) fn landing(self) -> Option<FlightOutcome> {
        match self {
            Self::Found(entry) => Some(FlightOutcome::Remote(entry)),
            Self::Marked => Some(FlightOutcome::Unshareable(FillOutcome::Private, None)),
            Self::Fill(_) => None,
        }
    }
}

impl Cache {
    /// Redis, if it is there and stores this job's answers. An answer that is requested in doubt stays on
    /// this node.
    pub(crate) fn second_tier(&self, job: &FillJob) -> Option<&Arc<RedisStore>> {
        let is_wanted = job.mode.uses_second_tier() && !job.mode.is_provisional();
        // An assumed version may have another meaning on other nodes, and purges may be unknown.
        self.redis.as_ref().filter(|redis| is_wanted && redis.is_reachable())
    }

    /// Acquires the lease, unless the answer appears before. If the store can't be asked, or another node
    /// takes too long, the fill goes on without one.
    pub(crate) async fn claim(self: &Arc<Self>, job: &mut FillJob) -> ClaimOutcome {
        let Some(redis) = self.second_tier(job).cloned() else { return ClaimOutcome::Fill(None) };
        let Some(place) = job.mode.place(self, &redis).await else { return ClaimOutcome::Fill(None) };
        let token = format!("{:032x}", rand::random::<u128>());
        let (began, at_most) = (Instant::now(), job.longest_wait());
        loop {
            let wait = redis.wait(&place);
            let (found, lease) = match redis.claim(&place, &token).await {
                Ok(LeaseClaim { found, ours: true }) => (found, LeaseState::Ours),
                Ok(LeaseClaim { found, ours: false }) => (found, LeaseState::Theirs),
                Err(StoreError::Timeout) => (None, LeaseState::Unheard),
                Err(_) => (None, LeaseState::Unreachable),
            };
            if let Some(usable) = found.and_then(|value| self.usable(job, value)) {
                if lease == LeaseState::Ours {
                    redis.release(&place, &token).await;
                }
                return usable;
            }
            let lease = match lease {
                // A lease that can't be looked at is waited for as well, and no longer than another.
                LeaseState::Theirs => redis.look_at_lease(&place).await.unwrap_or(LeaseState::Theirs),
                known => known,
            };
            match hedge::next_lease_step(lease, began.elapsed(), at_most) {
                LeaseStep::Fill => return ClaimOutcome::Fill(Some(FillLease { place, token: Some(token) })),
                LeaseStep::Alone => return ClaimOutcome::Fill(None),
                LeaseStep::Again => {}
                LeaseStep::Wait(at_most) => wait.until_ended(at_most).await,
                LeaseStep::Hedge(why) => {
                    self.metrics.hedged(match why {
                        HedgeCause::Slow => HedgeReason::Slow,
                        HedgeCause::NoLease => HedgeReason::NoLease,
                    });
                    return ClaimOutcome::Fill(Some(FillLease { place, token: None }));
                }
            }
        }
    }

    /// Returns the wait for the answer of another node's fill, beside which this one asks the origin: from
    /// now on if the other one was first, else once this one takes so long that others no longer wait for it.
    pub(crate) fn beside(&self, lease: &FillLease, longest_wait: Duration) -> Option<RemoteFill> {
        let (redis, place) = (self.redis.clone()?, lease.place.clone());
        let LookPlan { first, pause } = hedge::plan_looks(lease.token.is_some(), longest_wait);
        Some(RemoteFill { redis, place, at: Instant::now().checked_add(first)?, pause, seen: None })
    }

    /// The result from a value of the store, if it makes the fill unnecessary.
    pub(crate) fn usable(self: &Arc<Self>, job: &mut FillJob, value: Bytes) -> Option<ClaimOutcome> {
        if value == entry::hit_for_miss_envelope() {
            // A refreshed entry has been served since: this node has to learn itself that it is over.
            if job.refreshes.is_some() {
                return None;
            }
            // The node that knows the reason has it in its own memory.
            self.mark(job.mode.key(), FillOutcome::Private);
            return Some(ClaimOutcome::Marked);
        }
        let opened = self.opened(job.mode.key(), value)?;
        job.mode.reopen(self, opened).map(ClaimOutcome::Found)
    }

    /// Opens an envelope; a foreign or damaged one is a miss.
    pub(crate) fn opened(&self, key: &CacheKey, value: Bytes) -> Option<OpenedEnvelope> {
        match entry::open_envelope(value, clock::reading()) {
            Ok(StoredValue::Answer(opened)) => Some(opened),
            Ok(StoredValue::Mark | StoredValue::Varies(_)) => None,
            Err(error) => {
                self.metrics.envelope_refused();
                tracing::debug!(%error, key = key.as_str(), "a value in the store is no valid envelope");
                None
            }
        }
    }

    /// Renews the lease until no request may join any more, then releases it: other nodes should not wait for
    /// a body that passes through, least of all for a slow client of this one. Never returns.
    pub(crate) async fn hold(
        &self,
        lease: Option<&FillLease>,
        mut left: watch::Receiver<Option<JoinsClosed>>,
    ) {
        if let (Some(redis), Some(FillLease { place, token })) = (&self.redis, lease) {
            let left = tokio::select! {
                () = prolong_lease(redis, place, token.as_deref()) => None,
                left = left.wait_for(Option::is_some) => left.ok().and_then(|left| *left),
            };
            if left == Some(JoinsClosed::EachTime) {
                redis
                    .mark(place, entry::hit_for_miss_envelope(), millis(HIT_FOR_MISS), false)
                    .await
                    .unwrap_or_default();
            }
            if let (Some(_), Some(token)) = (left, token) {
                redis.release(place, token).await;
            }
        }
        std::future::pending().await
    }

    /// Stores the answer that the other nodes wait for, then wakes them by releasing the lease. A store that
    /// does not take it costs them a fill of their own, and nothing else.
    pub(crate) async fn hand_on(&self, job: &FillJob, what: &StoreWrite, lease: Option<&FillLease>) {
        let Some(redis) = self.second_tier(job) else { return };
        let stored = match what {
            StoreWrite::Answer(entry) => self.hand_on_entry(redis, job, entry).await,
            StoreWrite::Mark { ended } => match lease {
                Some(lease) => self.mark_there(redis, job, &lease.place, *ended).await,
                None => Ok(()),
            },
            StoreWrite::End => match lease {
                Some(lease) => redis.forget(&job.mode.ended_keys(redis, &lease.place)).await,
                None => Ok(()),
            },
            StoreWrite::Nothing => Ok(()),
        };
        if let Err(error) = stored {
            tracing::debug!(%error, key = job.mode.key().as_str(), "an answer was not stored in redis");
        }
        if let Some(FillLease { place, token: Some(token) }) = lease {
            redis.release(place, token).await;
        }
    }

    async fn mark_there(
        &self,
        redis: &RedisStore,
        job: &FillJob,
        place: &StorePlace,
        ended: bool,
    ) -> Result<(), StoreError> {
        if ended {
            redis.forget(&job.mode.ended_keys(redis, place)).await?;
        }
        redis.mark(place, entry::hit_for_miss_envelope(), millis(HIT_FOR_MISS), ended).await
    }

    async fn hand_on_entry(
        &self,
        redis: &RedisStore,
        job: &FillJob,
        entry: &CacheEntry,
    ) -> Result<(), StoreError> {
        let Some(place) = job.mode.place_of(redis, entry) else { return Ok(()) };
        let has_validator = !policy::condition_fields(&entry.representation.headers()).is_empty();
        redis
            .store(&place, entry::seal_entry(entry, clock::reading()), entry.terms().keep_ms(has_validator))
            .await
    }
}
