//! The cache: what stands in memory, who fills what is missing, and whether it is still true.
//!
//! [`Cache::look`] answers from memory without waiting. [`Cache::answer`] does whatever else it takes: it asks
//! for the version, joins the flight, and falls back on the last generation when the fill fails. It never asks an
//! origin itself: it is handed a [`Fetch`].

pub mod entry;
mod fill;
pub mod flight;
pub mod key;
pub mod memory;
pub mod policy;
pub mod redis;
pub mod version;

use crate::{
    config::{self, CacheRules},
    name::{Namespace, Tenant},
    representation::{Outside, Representation},
    telemetry::{
        labels::{CacheResult, FillOutcome, StoreError},
        metrics::{MemoryStats, Metrics},
    },
};
use bytes::Bytes;
use entry::Entry;
use flight::{Flights, Joined};
use http::{HeaderMap, HeaderValue, StatusCode};
use key::Key;
use memory::Memory;
use policy::{millis, Freshness};
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use version::{Coherence, Slot, Version, Versions};

/// Milliseconds since the epoch.
pub fn now_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The one request to the origin that answers a miss.
pub type Fetch = Pin<Box<dyn Future<Output = Result<Fetched, FetchError>> + Send>>;

/// What the origin answered.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The status.
    pub status: StatusCode,
    /// All headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Why the origin gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Above the route's `max_size`: this answer has to be streamed.
    #[error("the answer is larger than max_size")]
    TooLarge,
    /// No server could be reached, or it broke off.
    #[error("the origin can't be reached")]
    Unreachable,
    /// A timeout passed.
    #[error("the origin did not answer in time")]
    Timeout,
    /// The origin failed so often that it is left alone for a moment.
    #[error("the origin is left alone after failures")]
    BreakerOpen,
    /// The fill ended without a word: a panic, or a shutdown.
    #[error("the fill was abandoned")]
    Abandoned,
}

/// What a caller wants.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Under which key.
    pub key: Key,
    /// Whose version counts.
    pub tenant: Tenant,
    /// By which rules.
    pub rules: Arc<CacheRules>,
}

/// What memory says at once.
#[derive(Debug)]
pub enum Look {
    /// Fresh and current.
    Hit(Arc<Entry>),
    /// Current and usable while it is refreshed.
    Stale(Arc<Entry>),
    /// Nothing that may be used without asking further.
    Nothing,
}

/// What a caller gets.
#[derive(Debug)]
pub enum Answer {
    /// An entry, and how it was come by.
    Entry(Arc<Entry>, CacheResult),
    /// An entry of a past generation or a past lifetime, because this happened to the fill.
    StaleIfError(Arc<Entry>, Failure),
    /// An answer that is not stored.
    Passing(Arc<Representation>, Option<Arc<HeaderMap>>, FillOutcome),
    /// Ask the origin yourself: the answer may not be shared.
    AskYourself(FillOutcome),
    /// There is no answer.
    Failed(FetchError),
}

/// How a fill failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The origin answered with this status.
    Status(StatusCode),
    /// The origin did not answer.
    Fetch(FetchError),
}

/// How a flight ended.
#[derive(Debug, Clone)]
enum Landing {
    Filled(Arc<Entry>),
    Remote(Arc<Entry>),
    Passing(Arc<Representation>),
    Unshareable(FillOutcome),
    Failed(FetchError),
}

/// An answer that only the one who led the fill may have: its representation and the headers that are not content.
type Own = (Arc<Representation>, Arc<HeaderMap>, FillOutcome);

/// The cache of this node.
pub struct Cache {
    memory: Memory,
    flights: Flights<Landing>,
    reads: Flights<Version>,
    versions: Arc<Versions>,
    redis: Option<Arc<redis::Redis>>,
    metrics: Arc<Metrics>,
    encoding: config::Encoding,
    encoders: Semaphore,
    encoding_queue: Semaphore,
    tasks: TaskTracker,
}

impl Cache {
    /// A cache with the store's settings. With Redis, [`Cache::keep_linked`] has to run beside it.
    pub fn new(store: &config::Store, encoding: config::Encoding, metrics: Arc<Metrics>) -> Arc<Self> {
        /// Encodings that are made at the same time.
        const ENCODERS: usize = 2;
        /// Answers that wait for theirs or have them made.
        const WAITING: usize = 256;
        let coherence = if store.redis.is_some() { Coherence::Away } else { Coherence::Alone };
        let versions = Arc::new(Versions::new(coherence));
        let redis = store
            .redis
            .as_ref()
            .map(|_| Arc::new(redis::Redis::new(store, versions.clone(), metrics.clone())));
        let cache = Arc::new(Self {
            memory: Memory::new(store.memory),
            flights: Flights::new(),
            reads: Flights::new(),
            versions,
            redis,
            metrics: metrics.clone(),
            encoding,
            encoders: Semaphore::new(ENCODERS),
            encoding_queue: Semaphore::new(WAITING),
            tasks: TaskTracker::new(),
        });
        let probe = Arc::downgrade(&cache);
        metrics.memory_probe(Box::new(move || match probe.upgrade() {
            Some(cache) => MemoryStats {
                bytes: cache.memory.bytes(),
                entries: cache.memory.len(),
                evictions: cache.memory.evictions(),
                capacity: cache.memory.capacity(),
            },
            None => MemoryStats::default(),
        }));
        cache
    }

    /// Keeps the link to Redis, for ever; returns at once where there is none.
    pub async fn keep_linked(self: Arc<Self>, target: Option<config::Redis>) {
        if let (Some(redis), Some(target)) = (&self.redis, target) {
            redis.clone().keep_linked(target).await;
        }
    }

    /// Whether the store is there, or none is wanted.
    pub fn store_is_up(&self) -> bool {
        self.redis.as_ref().is_none_or(|r| r.is_up())
    }

    /// What memory says, without waiting for anything.
    pub fn look(&self, key: &Key, rules: &CacheRules, now_ms: u64) -> Look {
        let Some(entry) = self.memory.entry(key) else { return Look::Nothing };
        if entry.slot.is_current(&entry.version) != Some(true) {
            return Look::Nothing;
        }
        Self::by_age(entry, rules, now_ms)
    }

    fn by_age(entry: Arc<Entry>, rules: &CacheRules, now_ms: u64) -> Look {
        match policy::freshness(rules, entry.representation.status(), entry.age_ms(now_ms)) {
            Freshness::Fresh => Look::Hit(entry),
            Freshness::StaleWhileRevalidate => Look::Stale(entry),
            Freshness::StaleIfError | Freshness::Expired => Look::Nothing,
        }
    }

    /// Refreshes a stale entry behind an answer, unless that is under way already.
    pub fn refresh(self: &Arc<Self>, wanted: &Wanted, entry: &Arc<Entry>, fetch: impl FnOnce() -> Fetch) {
        let name = flight_name(&wanted.key, &entry.version);
        if let Joined::Lead(lead, _) = self.flights.join(&name) {
            self.begin_fill(lead, wanted, entry.slot.clone(), entry.version.clone(), fetch());
        }
    }

    /// Answers what memory could not: joins the flight or begins it, and falls back on what is left of the past
    /// when the fill fails.
    pub async fn answer(self: &Arc<Self>, wanted: &Wanted, fetch: impl FnOnce() -> Fetch) -> Answer {
        let slot = self.versions.slot(&wanted.rules.namespace, &wanted.tenant);
        let version = self.version(&slot).await;
        if let Some(entry) = self.memory.entry(&wanted.key).filter(|e| e.version == version) {
            match Self::by_age(entry, &wanted.rules, now_ms()) {
                Look::Hit(entry) => return Answer::Entry(entry, CacheResult::Hit),
                Look::Stale(entry) => {
                    self.refresh(wanted, &entry, fetch);
                    return Answer::Entry(entry, CacheResult::Stale);
                }
                Look::Nothing => {}
            }
        }
        if self.memory.is_marked(&wanted.key, now_ms()) {
            return Answer::AskYourself(FillOutcome::Private);
        }
        match self.flights.join(&flight_name(&wanted.key, &version)) {
            Joined::Lead(lead, landing) => {
                self.metrics.flight_led();
                let mut own = self.begin_fill(lead, wanted, slot, version, fetch());
                let landing = landing.outcome().await.unwrap_or(Landing::Failed(FetchError::Abandoned));
                // The fill hands over the leader's own answer before it lands.
                match own.try_recv() {
                    Ok((what, headers, why)) => Answer::Passing(what, Some(headers), why),
                    Err(_) => self.landed(wanted, landing, CacheResult::Miss).await,
                }
            }
            Joined::Follow(landing) => {
                let began = Instant::now();
                let landing = landing.outcome().await.unwrap_or(Landing::Failed(FetchError::Abandoned));
                self.metrics.flight_followed(began.elapsed());
                self.landed(wanted, landing, CacheResult::Collapsed).await
            }
        }
    }

    async fn landed(&self, wanted: &Wanted, landing: Landing, role: CacheResult) -> Answer {
        let failure = match landing {
            Landing::Filled(entry) => return Answer::Entry(entry, role),
            Landing::Remote(entry) => return Answer::Entry(entry, CacheResult::Remote),
            Landing::Unshareable(why) => return Answer::AskYourself(why),
            Landing::Passing(what) if !what.status().is_server_error() => {
                return Answer::Passing(what, None, FillOutcome::Status);
            }
            Landing::Passing(what) => match self.past(wanted).await {
                None => return Answer::Passing(what, None, FillOutcome::Status),
                Some(entry) => return Answer::StaleIfError(entry, Failure::Status(what.status())),
            },
            Landing::Failed(error) => error,
        };
        match self.past(wanted).await {
            Some(entry) => Answer::StaleIfError(entry, Failure::Fetch(failure)),
            None => Answer::Failed(failure),
        }
    }

    /// The last generation, if it may still stand in for an answer that could not be had.
    async fn past(&self, wanted: &Wanted) -> Option<Arc<Entry>> {
        let usable = |entry: &Arc<Entry>| {
            let status = entry.representation.status();
            policy::on_error(&wanted.rules, status, entry.age_ms(now_ms())) == Freshness::StaleIfError
        };
        if let Some(entry) = self.memory.entry(&wanted.key).filter(usable) {
            return Some(entry);
        }
        let (tag, value) = self.redis.as_ref()?.last_answer(&wanted.key).await.ok()??;
        let slot = self.versions.slot(&wanted.rules.namespace, &wanted.tenant);
        let entry = self.open(wanted, &slot, &Version::new(tag.as_bytes()), value)?;
        usable(&entry).then(|| {
            self.memory.keep(wanted.key.clone(), entry.clone());
            entry
        })
    }

    /// The version that a request goes by. Requests that ask at the same moment share one read.
    async fn version(self: &Arc<Self>, slot: &Arc<Slot>) -> Version {
        let Some(redis) = &self.redis else { return slot.assumed() };
        if let version::Standing::Current(version) = slot.standing() {
            return version;
        }
        if self.versions.coherence() == Coherence::Untracked {
            // A read that is under way may have looked before a bump that this request came after.
            return redis.version(slot).await;
        }
        let (epoch, changes) = slot.moment();
        let name = format!("{}:{}:{epoch}:{changes}", slot.namespace(), slot.tenant());
        let reading = match self.reads.join(&name) {
            Joined::Follow(reading) => reading,
            Joined::Lead(lead, reading) => {
                let (redis, slot) = (redis.clone(), slot.clone());
                self.tasks.spawn(async move { lead.land(redis.version(&slot).await) });
                reading
            }
        };
        reading.outcome().await.unwrap_or_else(|_| slot.assumed())
    }

    /// Moves the version of a namespace and tenant: every node drops the generation.
    ///
    /// # Errors
    /// If the store did not record it. This node has moved on all the same, and makes up for it when the store
    /// is back; the others have not.
    pub async fn bump(&self, namespace: &Namespace, tenant: &Tenant) -> Result<Version, StoreError> {
        self.metrics.bump();
        let slot = self.versions.slot(namespace, tenant);
        let Some(redis) = &self.redis else { return Ok(slot.bump_here(now_ms())) };
        match redis.bump(&slot, now_ms()).await {
            Ok(version) => Ok(version),
            Err(error) => {
                slot.bump_here(now_ms());
                Err(error)
            }
        }
    }

    /// The second tier, where there is one.
    pub fn redis(&self) -> Option<&Arc<redis::Redis>> {
        self.redis.as_ref()
    }

    /// Waits until no fill is under way, at most this long.
    pub async fn drain(&self, at_most: Duration) {
        self.tasks.close();
        if tokio::time::timeout(at_most, self.tasks.wait()).await.is_err() {
            tracing::warn!(fills = self.flights.under_way(), "fills were cut off");
        }
    }
}

fn flight_name(key: &Key, version: &Version) -> String {
    format!("{}:v{}", key.as_str(), version.tag())
}

/// What caches outside are told of an answer.
fn outside(rules: &CacheRules, status: StatusCode) -> Outside {
    let text = policy::outside(rules, status);
    Outside {
        // The text was checked with the configuration.
        cache_control: HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("no-store")),
        varies_by_authorization: rules.scope != config::Scope::Public,
    }
}
