//! The cache: entries in memory, fills for missing ones, and their validity.
//!
//! Two kinds of routes share one memory, one store and one way to fill. A route with a namespace is answered
//! by [`Cache::look`] and [`Cache::answer`] (`versioned.rs`): its rules set the lifetime, and a version ends
//! it. A route that follows its origin is answered by [`Cache::look_followed`] and [`Cache::answer_followed`]
//! (`origin_lookup.rs`): the origin's headers set the lifetime, and the purge log ends it. The first of each
//! pair answers from memory without waiting, the second does all the rest. None of them contacts an origin
//! itself: they are given a [`MissFetcher`].

pub(crate) mod change_notifier;
pub mod coherence;
pub mod entry;
pub mod fill;
pub mod key;
pub mod memory;
pub(crate) mod mode;
pub mod policy;
pub mod redis;

pub use mode::{
    origin_lookup::{AmbiguousRequest, OriginLookup},
    origin_store::{ForwardStart, ResponseCapture},
};

use crate::{
    clock::now_ms,
    config::{self, CacheRules},
    http::cache_status::ForwardToken,
    name::Tenant,
    representation::{OutsideCaching, Representation},
    telemetry::{
        labels::{CacheResult, FillOutcome, PurgeKind, StoreError},
        metrics::{MemoryStats, Metrics},
    },
};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use change_notifier::ChangeNotifier;
use coherence::{
    partitions::StorePartitions,
    purge::{PurgeOrder, PurgeStamp, PurgeTable, PurgeTarget},
    version::{MinVersion, VersionBasis, VersionTable},
};
use entry::{CacheEntry, Validity};
use fill::{
    coalescing::Flights,
    hedge::UsualFillTime,
    refresh_backoff::RefreshPauses,
    streaming_body::{StreamBudget, StreamReader, StreamingBody},
};
use key::{CacheKey, RequestScheme};
use memory::MemoryTier;
use policy::{millis, SelectingFields};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// A request to the origin.
pub type OriginFetch = Pin<Box<dyn Future<Output = Result<FetchedHead, OriginFetchError>> + Send>>;

/// The interface to the origin for a miss.
pub trait AskOrigin: Send {
    /// Sends the request, with these fields besides its own. The head of the answer has to be there `by`
    /// then, or it fails. Called again only if the first answer can't be used. `spare`: its client is served
    /// in any case.
    fn ask(&mut self, conditions: &[(HeaderName, HeaderValue)], by: Instant, spare: bool) -> OriginFetch;

    /// Returns true if every server of the origin is out of service.
    fn is_failing(&self) -> bool {
        false
    }
}

impl<F: FnMut(&[(HeaderName, HeaderValue)], Instant) -> OriginFetch + Send> AskOrigin for F {
    fn ask(&mut self, conditions: &[(HeaderName, HeaderValue)], by: Instant, _: bool) -> OriginFetch {
        self(conditions, by)
    }
}

/// The boxed interface to the origin for a miss.
pub type MissFetcher = Box<dyn AskOrigin>;

/// An answer of the origin: the head, and a body that is still to be read.
pub struct FetchedHead {
    /// The status.
    pub status: StatusCode,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Box<dyn IncomingBody>,
}

/// The body of an origin's answer.
#[async_trait]
pub trait IncomingBody: Send {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// If it broke off.
    async fn next(&mut self) -> Result<Option<Bytes>, OriginFetchError>;

    /// All of the body, if all of it has already arrived; then nothing is left to be read.
    fn at_hand(&mut self) -> Option<Bytes> {
        None
    }
}

/// The reason why the origin gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OriginFetchError {
    /// No server could be reached, or the connection broke.
    #[error("the origin can't be reached")]
    Unreachable,
    /// The answer of a server is malformed.
    #[error("the origin's answer is malformed")]
    Malformed,
    /// A timeout passed.
    #[error("the origin did not answer in time")]
    Timeout,
    /// The circuit breaker is open after too many failures.
    #[error("the origin is left alone after failures")]
    BreakerOpen,
    /// No server's name has an address.
    #[error("no name of the origin's servers has an address")]
    Unresolved,
    /// All servers are at their limit of requests, and so is the queue.
    #[error("the origin has as much to do as it may have")]
    Busy,
    /// The fill ended without an outcome: a panic, or a shutdown.
    #[error("the fill was abandoned")]
    Abandoned,
}

/// A request for an answer of a namespace.
#[derive(Debug, Clone)]
pub struct CacheRequest {
    /// The key of the answer.
    pub key: CacheKey,
    /// The tenant whose version applies.
    pub tenant: Tenant,
    /// The rules of the route.
    pub rules: Arc<CacheRules>,
    /// The time that the fills of its route take.
    pub usual: Arc<UsualFillTime>,
    /// The least version that it accepts.
    pub at_least: MinVersion,
}

/// The result of a look-up in memory.
#[derive(Debug)]
pub enum MemoryLookup {
    /// Fresh and current.
    Hit(Arc<CacheEntry>),
    /// Usable while it is refreshed.
    Stale(Arc<CacheEntry>),
    /// Nothing that may be used at once.
    Nothing,
}

/// The result for a caller.
#[derive(Debug)]
pub enum CacheAnswer {
    /// An entry, and its source.
    Entry(Arc<CacheEntry>, CacheResult),
    /// An entry of a past generation or lifetime, because the fill failed in this way.
    StaleIfError(Arc<CacheEntry>, FillFailure),
    /// A stale entry, because the fill is slow; it goes on.
    StaleIfSlow(Arc<CacheEntry>),
    /// An answer that is not stored.
    Passing(Arc<Representation>, FillOutcome),
    /// An answer that is still arriving.
    Arriving(Arc<ArrivingHead>, StreamReader, CacheResult),
    /// Pass: the caller has to ask the origin itself, because the answer may not be shared.
    Pass(FillOutcome),
    /// The client accepts only a stored answer (`only-if-cached`), and there is none.
    NotHere,
    /// There is no answer.
    Failed(OriginFetchError),
}

/// The reason why the origin had to be asked, for `Cache-Status` (RFC 9211, 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardReason {
    /// Nothing is stored under the key.
    UriMiss,
    /// The stored answers are for other requests.
    VaryMiss,
    /// The stored answer has to be validated first: it is stale, or may never be used without.
    Stale(policy::RevalidateReason),
    /// It was marked as stale by a purge.
    Purged,
    /// A purge that could not be read may be about it: it may not even be served on an error.
    Unsure,
    /// Only another part of it is stored.
    Partial,
}

impl ForwardReason {
    /// The value of `fwd`, and of `detail` if there is more to say.
    pub const fn fwd_and_detail(self) -> (ForwardToken, Option<&'static str>) {
        match self {
            Self::UriMiss => (ForwardToken::UriMiss, None),
            Self::VaryMiss => (ForwardToken::VaryMiss, None),
            Self::Stale(policy::RevalidateReason::Stale) => (ForwardToken::Stale, None),
            Self::Stale(why @ (policy::RevalidateReason::NoCache | policy::RevalidateReason::Doubt)) => {
                (ForwardToken::Stale, Some(why.as_str()))
            }
            Self::Stale(why) => (ForwardToken::Request, Some(why.as_str())),
            Self::Purged => (ForwardToken::Stale, Some("purged")),
            Self::Unsure => (ForwardToken::Stale, Some("doubt")),
            Self::Partial => (ForwardToken::Partial, None),
        }
    }
}

/// The head of an answer that is still arriving.
#[derive(Debug)]
pub struct ArrivingHead {
    /// The status.
    pub status: StatusCode,
    /// The headers that are sent, without the length.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The length of its body, if the head has one.
    pub length: Option<u64>,
    /// The outcome of the fill if nothing goes wrong.
    pub outcome: FillOutcome,
    /// The requests that it answers.
    selecting: Option<SelectingFields>,
    /// The stamp by which a purge could end it.
    stamp: Option<Arc<PurgeStamp>>,
    terms: policy::FreshnessTerms,
}

impl ArrivingHead {
    /// Its age in milliseconds, if it is stored, or would be if it were smaller. Other answers have the `Age`
    /// of the origin.
    pub fn age_ms(&self, now_ms: u64) -> Option<u64> {
        matches!(self.outcome, FillOutcome::Stored | FillOutcome::TooLarge).then(|| self.terms.age_ms(now_ms))
    }
}

/// The way in which a fill failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FillFailure {
    /// The origin answered with this status.
    Status(StatusCode),
    /// The origin did not answer.
    Fetch(OriginFetchError),
}

/// The outcome of a flight, or its progress, for its followers.
#[derive(Debug, Clone)]
pub(crate) enum FlightOutcome {
    Filled(Arc<CacheEntry>),
    /// The origin confirmed that this entry is still good.
    Validated(Arc<CacheEntry>),
    Remote(Arc<CacheEntry>),
    Passing(Arc<Representation>),
    Arriving(Arc<ArrivingHead>),
    /// The answer is for the leader alone; with its status, if there is one.
    Unshareable(FillOutcome, Option<StatusCode>),
    Failed(OriginFetchError),
}

/// The outcome of a fill, or its progress, for its leader.
#[derive(Debug)]
pub(crate) enum LeadOutcome {
    Landing(FlightOutcome),
    /// An answer for the leader alone; it is arriving.
    Own(Arc<ArrivingHead>),
}

/// The cache of this node.
pub struct Cache {
    memory: MemoryTier,
    flights: Flights<FlightOutcome, Arc<StreamingBody>>,
    /// The memory that all flights may use together.
    arriving: Arc<StreamBudget>,
    reads: Flights<VersionBasis>,
    pauses: RefreshPauses,
    partitions: Arc<StorePartitions>,
    versions: Arc<VersionTable>,
    purges: Arc<PurgeTable>,
    changes: Arc<ChangeNotifier>,
    redis: Option<Arc<redis::RedisStore>>,
    metrics: Arc<Metrics>,
    encoding: ArcSwap<config::EncodingConfig>,
    /// The recent sets of fields for downstream caches.
    told: ArcSwap<Vec<Arc<OutsideCaching>>>,
    encoders: Semaphore,
    encoding_queue: Semaphore,
    tasks: TaskTracker,
}

impl Cache {
    /// A cache with the store's settings. With Redis, [`Cache::keep_linked`] has to run beside it.
    pub fn new(
        store: &config::StoreConfig,
        encoding: config::EncodingConfig,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        /// The number of encodings made at the same time.
        const ENCODERS: usize = 2;
        /// The number of answers that wait for an encoding or have one made.
        const WAITING: usize = 256;
        let partitions = StorePartitions::of_store(store, now_ms());
        let versions = Arc::new(VersionTable::new(partitions.clone()));
        let purges = Arc::new(PurgeTable::new(partitions.of_purge_log().clone()));
        let changes = Arc::new(ChangeNotifier::new());
        versions.tell_changes(changes.clone());
        purges.tell_purges(changes.clone());
        let redis = store.redis.as_ref().map(|_| {
            let (partitions, versions, purges) = (partitions.clone(), versions.clone(), purges.clone());
            Arc::new(redis::RedisStore::new(store, partitions, versions, purges, metrics.clone()))
        });
        let cache = Arc::new(Self {
            memory: MemoryTier::new(store.memory, store.largest),
            flights: Flights::new(),
            arriving: StreamBudget::new(store.memory),
            reads: Flights::new(),
            pauses: RefreshPauses::default(),
            partitions,
            versions,
            purges,
            changes,
            redis,
            metrics: metrics.clone(),
            encoding: ArcSwap::from_pointee(encoding),
            told: ArcSwap::default(),
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
                doubt: cache.doubt_lasts(now_ms()),
            },
            None => MemoryStats::default(),
        }));
        cache
    }

    /// Maintains the link to Redis, for ever; returns at once without Redis.
    pub async fn keep_linked(self: Arc<Self>, target: Option<config::RedisConfig>) {
        if let (Some(redis), Some(target)) = (&self.redis, target) {
            redis.clone().keep_linked(target).await;
        }
    }

    /// Uses the credentials of `target`, whose servers are the same.
    pub fn authenticate(&self, target: Option<&config::RedisConfig>) {
        if let (Some(redis), Some(target)) = (&self.redis, target) {
            redis.authenticate(target);
        }
    }

    /// The faults of the store, a sentence each.
    pub fn store_troubles(&self) -> Vec<String> {
        let mut troubles = self.redis.as_ref().map(|redis| redis.troubles()).unwrap_or_default();
        let now = now_ms();
        let (sure_not, log) = (self.partitions.since_ms(now), self.purges.unread_since_ms());
        if let (None, Some(since)) = (sure_not, log) {
            let seconds = lasts_since(since, now).as_secs_f64();
            troubles.push(format!(
                "in doubt for {seconds:.1} s: the log of purges can't be read; answers of routes that follow their origin \
                 from before are validated first"
            ));
        }
        if let Some(since) = sure_not {
            let served = match self.partitions.outage_ttl_ms() {
                Some(0) => "no longer".to_owned(),
                Some(ttl) => format!("for {:?} from then at most", Duration::from_millis(ttl)),
                None => "as long as they are fresh".to_owned(),
            };
            let seconds = lasts_since(since, now).as_secs_f64();
            troubles.push(format!(
                "in doubt for {seconds:.1} s: changes in the store may have been missed; answers from before are served {served}"
            ));
        }
        troubles
    }

    /// The time for which this node has not been sure that it knows all changes in the store; zero: it is
    /// sure.
    fn doubt_lasts(&self, now_ms: u64) -> Duration {
        let since = self.partitions.since_ms(now_ms).into_iter().chain(self.purges.unread_since_ms()).min();
        since.map_or(Duration::ZERO, |since| lasts_since(since, now_ms))
    }

    /// Returns true if the store is there, or none is configured.
    pub fn store_is_up(&self) -> bool {
        self.redis.as_ref().is_none_or(|r| r.is_up())
    }

    /// Purges on every node; on this one it has taken effect when this returns, or before. Returns the number
    /// of this node's answers that it affects.
    ///
    /// # Errors
    /// If the store did not take all of it. This node has purged all the same, and tries again when the store
    /// is back; the others have not purged.
    pub async fn purge(self: &Arc<Self>, wanted: Vec<PurgeOrder>) -> Result<u64, StoreError> {
        for purge in &wanted {
            self.metrics.purge(match purge.target {
                PurgeTarget::Url { .. } | PurgeTarget::Resource(_) => PurgeKind::Url,
                PurgeTarget::Tag(_) => PurgeKind::Tag,
                PurgeTarget::All => PurgeKind::All,
            });
        }
        let (found, debt) = match self.purges.search(&wanted) {
            None => (self.found_by_url(&wanted), self.purges.order(wanted)),
            // Off the workers: there may be a million answers. It goes on if the caller goes away.
            Some(search) => {
                let cache = self.clone();
                let ordered = tokio::task::spawn_blocking(move || {
                    let is_found = |entry: &CacheEntry| match &entry.standing {
                        Validity::Log(stamp, _) => search.finds(stamp) && cache.is_there(entry),
                        Validity::Version(..) => false,
                    };
                    let found = cache.memory.count(is_found) + cache.found_by_url(&wanted);
                    (found, cache.purges.order(wanted))
                });
                ordered.await.map_err(|_| StoreError::Down)?
            }
        };
        match &self.redis {
            Some(redis) => redis.pay(debt).await.map(|()| found),
            None => Ok(found),
        }
    }

    /// The number of answers of this node under the URLs of these purges.
    fn found_by_url(&self, wanted: &[PurgeOrder]) -> u64 {
        let mut keys = Vec::new();
        for purge in wanted {
            if let PurgeTarget::Url { host, target } = &purge.target {
                keys.extend(
                    [RequestScheme::Http, RequestScheme::Https]
                        .map(|scheme| CacheKey::of_resource(scheme, host, target)),
                );
            }
        }
        keys.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        keys.dedup();
        let of_key = |key: &CacheKey| {
            let resource = self.memory.resource(key.as_str());
            resource.map_or(0, |all| all.entries().iter().filter(|entry| self.is_there(entry)).count() as u64)
        };
        keys.iter().map(of_key).sum()
    }

    /// Returns true if an answer that follows its origin was not purged before.
    fn is_there(&self, entry: &CacheEntry) -> bool {
        match &entry.standing {
            Validity::Log(stamp, _) => self.purges.verdict(stamp) != coherence::purge::PurgeVerdict::Hard,
            Validity::Version(..) => false,
        }
    }

    /// Purges these resources of `host` (paths and queries), because an unsafe method succeeded (RFC 9111,
    /// 4.4): here at once, on the other nodes in the background.
    pub fn invalidate(self: &Arc<Self>, host: &str, targets: &[&str]) {
        targets.iter().for_each(|_| self.metrics.purge(PurgeKind::Invalidation));
        let debt = self
            .purges
            .order(targets.iter().map(|target| PurgeOrder::hard(PurgeTarget::of(host, target))).collect());
        if let Some(redis) = self.redis.clone() {
            self.tasks.spawn(async move {
                // Purges that the store doesn't take stay owed.
                redis.pay(debt).await.unwrap_or_default();
            });
        }
    }

    /// The changes that somebody can wait for.
    pub(crate) fn changes(&self) -> &ChangeNotifier {
        &self.changes
    }

    /// The purges that this node knows.
    pub fn purges(&self) -> &Arc<PurgeTable> {
        &self.purges
    }

    /// The second tier, if there is one.
    pub fn redis(&self) -> Option<&Arc<redis::RedisStore>> {
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

/// The time since then, more than zero.
fn lasts_since(since_ms: u64, now_ms: u64) -> Duration {
    Duration::from_millis(now_ms.saturating_sub(since_ms).max(1))
}
