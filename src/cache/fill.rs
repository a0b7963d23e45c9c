//! A fill, from the lease to the landing: the part of the cache that runs on its own, whoever still waits.

use super::{
    entry::{self, Entry, Stored},
    flight::Lead,
    key::Key,
    now_ms, outside, policy,
    policy::{millis, Freshness, Sharing},
    redis::{Claim, Redis},
    version::{Slot, Version},
    Cache, Fetch, FetchError, Fetched, Landing, Own, Wanted,
};
use crate::{
    config::Scope,
    representation::{Outside, Representation},
    telemetry::labels::{FillOutcome, StoreError},
};
use bytes::Bytes;
use http::{header, HeaderValue};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How long an answer that may not be stored is remembered as such (hit-for-miss), so that those who want it don't
/// wait for one another.
const HIT_FOR_MISS: Duration = Duration::from_secs(10);

/// What a fill works on.
struct Job {
    wanted: Wanted,
    slot: Arc<Slot>,
    version: Version,
}

/// How a fill ended: what everyone gets, what only its leader gets, what the store is given.
struct Ended {
    landing: Landing,
    own: Option<Own>,
    outcome: FillOutcome,
    store: Option<ToStore>,
}

enum ToStore {
    Answer(Arc<Entry>),
    Mark,
}

impl Cache {
    /// Begins a fill as a task of its own: a client that leaves cancels nothing. What only the leader may have
    /// comes through the channel, before the flight lands.
    pub(super) fn begin_fill(
        self: &Arc<Self>,
        lead: Lead<Landing>,
        wanted: &Wanted,
        slot: Arc<Slot>,
        version: Version,
        fetch: Fetch,
    ) -> oneshot::Receiver<Own> {
        let (own, receiver) = oneshot::channel();
        let cache = self.clone();
        let job = Job { wanted: wanted.clone(), slot, version };
        self.tasks.spawn(async move { cache.fill(lead, job, fetch, own).await });
        receiver
    }

    async fn fill(self: Arc<Self>, lead: Lead<Landing>, job: Job, fetch: Fetch, own: oneshot::Sender<Own>) {
        let began = Instant::now();
        let deadline = tokio::time::Instant::now() + job.wanted.rules.fill_timeout;
        let redis = self.redis.as_deref();
        let token = match tokio::time::timeout_at(deadline, self.claim(redis, &job)).await {
            Ok(Claimed::Found(entry)) => return lead.land(Landing::Remote(entry)),
            Ok(Claimed::Marked) => return lead.land(Landing::Unshareable(FillOutcome::Private)),
            Ok(Claimed::Fill(token)) => token,
            Err(_) => return lead.land(Landing::Failed(FetchError::Timeout)),
        };
        let fetched = tokio::select! {
            fetched = tokio::time::timeout_at(deadline, fetch) => fetched.unwrap_or(Err(FetchError::Timeout)),
            () = renew(redis, &job, token.as_deref()) => Err(FetchError::Abandoned),
        };
        let ended = self.judge(&job, fetched);
        self.metrics.fill(ended.outcome, began.elapsed());
        if let Some(answer) = ended.own {
            // A leader that left doesn't want it any more.
            own.send(answer).unwrap_or_default();
        }
        lead.land(ended.landing);
        if let Some(redis) = redis {
            Self::hand_on(redis, &job, ended.store.as_ref(), token.as_deref()).await;
        }
        if let Some(ToStore::Answer(entry)) = ended.store {
            self.encode(job.wanted.key, entry).await;
        }
    }

    /// Gets hold of the lease, unless the answer turns up before. Where the store can't be asked, the fill goes on
    /// without one.
    async fn claim(self: &Arc<Self>, redis: Option<&Redis>, job: &Job) -> Claimed {
        let Some(redis) = redis.filter(|r| r.is_up()) else { return Claimed::Fill(None) };
        let token = format!("{:032x}", rand::random::<u128>());
        loop {
            let wait = redis.wait(&job.wanted.key, &job.version);
            let Claim { found, ours } = match redis.claim(&job.wanted.key, &job.version, &token).await {
                Ok(claim) => claim,
                // It may be ours all the same: then others wait until it is given back.
                Err(StoreError::Timeout) => return Claimed::Fill(Some(token)),
                Err(_) => return Claimed::Fill(None),
            };
            if let Some(usable) = found.and_then(|value| self.usable(job, value)) {
                if ours {
                    redis.release(&job.wanted.key, &job.version, &token).await;
                }
                return usable;
            }
            if ours {
                return Claimed::Fill(Some(token));
            }
            wait.until_ended().await;
        }
    }

    /// What was found in the store, if it makes the fill unnecessary.
    fn usable(self: &Arc<Self>, job: &Job, value: Bytes) -> Option<Claimed> {
        let wanted = &job.wanted;
        if value == entry::mark() {
            let now = now_ms();
            self.memory.mark(wanted.key.clone(), now, now + millis(HIT_FOR_MISS));
            return Some(Claimed::Marked);
        }
        let entry = self.open(wanted, &job.slot, &job.version, value)?;
        let age = entry.age_ms(now_ms());
        if policy::freshness(&wanted.rules, entry.representation.status(), age) != Freshness::Fresh {
            return None;
        }
        self.memory.keep(wanted.key.clone(), entry.clone());
        self.encode_later(wanted.key.clone(), entry.clone());
        Some(Claimed::Found(entry))
    }

    /// Opens an envelope; a foreign or damaged one is a miss.
    pub(super) fn open(
        &self,
        wanted: &Wanted,
        slot: &Arc<Slot>,
        version: &Version,
        value: Bytes,
    ) -> Option<Arc<Entry>> {
        let told = |status| outside(&wanted.rules, status);
        match entry::open(value, told, &self.encoding) {
            Ok(Stored::Answer { representation, made_ms }) => Some(Arc::new(Entry {
                representation: *representation,
                made_ms,
                version: version.clone(),
                slot: slot.clone(),
            })),
            Ok(Stored::Mark) => None,
            Err(error) => {
                self.metrics.envelope_refused();
                tracing::debug!(%error, key = wanted.key.as_str(), "an envelope was not understood");
                None
            }
        }
    }

    fn judge(&self, job: &Job, fetched: Result<Fetched, FetchError>) -> Ended {
        let Wanted { key, rules, .. } = &job.wanted;
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(FetchError::TooLarge) => return self.unshareable(key, FillOutcome::TooLarge, None),
            Err(error) => {
                let outcome = match error {
                    FetchError::Timeout => FillOutcome::Timeout,
                    FetchError::Abandoned => FillOutcome::Cancelled,
                    _ => FillOutcome::OriginError,
                };
                return Ended { landing: Landing::Failed(error), own: None, outcome, store: None };
            }
        };
        let Fetched { status, headers, body } = fetched;
        let verdict = policy::storable(rules, status, &headers);
        let told = match verdict {
            Ok(()) => outside(rules, status),
            // What is not stored here is not ours to recommend to others.
            Err(_) => Outside {
                cache_control: headers
                    .get(header::CACHE_CONTROL)
                    .cloned()
                    .unwrap_or(HeaderValue::from_static("no-store")),
                varies_by_authorization: rules.scope != Scope::Public,
            },
        };
        let representation = Representation::from_origin(status, &headers, body, told, &self.encoding);
        match verdict {
            Ok(()) => {
                let entry = Arc::new(Entry {
                    representation,
                    made_ms: now_ms(),
                    version: job.version.clone(),
                    slot: job.slot.clone(),
                });
                self.memory.keep(key.clone(), entry.clone());
                let store = Some(ToStore::Answer(entry.clone()));
                Ended { landing: Landing::Filled(entry), own: None, outcome: FillOutcome::Stored, store }
            }
            Err(why) => {
                let representation = Arc::new(representation);
                let own = Some((representation.clone(), Arc::new(headers), why));
                match policy::sharing(why, status) {
                    Sharing::Everyone => Ended {
                        landing: Landing::Passing(representation),
                        own: None,
                        outcome: why,
                        store: None,
                    },
                    Sharing::Asker => {
                        Ended { landing: Landing::Unshareable(why), own, outcome: why, store: None }
                    }
                    Sharing::AskerAlways => self.unshareable(key, why, own),
                }
            }
        }
    }

    /// The answer is for whoever asked alone, and so will the next ones be.
    fn unshareable(&self, key: &Key, why: FillOutcome, own: Option<Own>) -> Ended {
        let now = now_ms();
        self.memory.mark(key.clone(), now, now + millis(HIT_FOR_MISS));
        Ended { landing: Landing::Unshareable(why), own, outcome: why, store: Some(ToStore::Mark) }
    }

    /// Stores what the other nodes wait for, then wakes them by giving back the lease. A store that does not take
    /// it costs them a fill of their own, and nothing else.
    async fn hand_on(redis: &Redis, job: &Job, what: Option<&ToStore>, token: Option<&str>) {
        let Wanted { key, rules, .. } = &job.wanted;
        let stored = match what {
            Some(ToStore::Answer(entry)) => {
                let keep = policy::keep(rules, entry.representation.status());
                let value = entry::seal(&entry.representation, entry.made_ms);
                redis.store(key, &job.version, value, keep, true).await
            }
            Some(ToStore::Mark) => {
                redis.store(key, &job.version, entry::mark(), millis(HIT_FOR_MISS), false).await
            }
            None => Ok(()),
        };
        if let Err(error) = stored {
            tracing::debug!(%error, key = key.as_str(), "an answer was not stored in redis");
        }
        if let Some(token) = token {
            redis.release(key, &job.version, token).await;
        }
    }

    fn encode_later(self: &Arc<Self>, key: Key, entry: Arc<Entry>) {
        let cache = self.clone();
        self.tasks.spawn(async move { cache.encode(key, entry).await });
    }

    /// Makes the encodings of an entry, off the async threads, and puts them in its place.
    async fn encode(&self, key: Key, entry: Arc<Entry>) {
        if !entry.representation.is_encodable() {
            return;
        }
        // Beyond a certain number of waiters an answer stays plain: it costs bandwidth, not memory.
        let Ok(_place) = self.encoding_queue.try_acquire() else { return };
        let Ok(_permit) = self.encoders.acquire().await else { return };
        if !self.memory.holds(&key, &entry) {
            return;
        }
        let (rules, plain, metrics) = (self.encoding.clone(), entry.clone(), self.metrics.clone());
        let encode =
            move || plain.representation.with_encodings(&rules, |coding, took| metrics.encoded(coding, took));
        let encoded = tokio::task::spawn_blocking(encode).await;
        match encoded {
            Ok(representation) => {
                let Entry { representation: _, made_ms, version, slot } = &*entry;
                let encoded =
                    Entry { representation, made_ms: *made_ms, version: version.clone(), slot: slot.clone() };
                self.memory.replace(key, &entry, Arc::new(encoded));
            }
            Err(error) => tracing::error!(%error, "an encoder failed"),
        }
    }
}

/// What came of asking for the lease.
enum Claimed {
    /// The answer is there.
    Found(Arc<Entry>),
    /// The answer may not be stored.
    Marked,
    /// Fill, with or without a lease.
    Fill(Option<String>),
}

/// Prolongs the lease for as long as the fill runs; never returns.
async fn renew(redis: Option<&Redis>, job: &Job, token: Option<&str>) {
    match (redis, token) {
        (Some(redis), Some(token)) => redis.renew(&job.wanted.key, &job.version, token).await,
        _ => std::future::pending().await,
    }
}
