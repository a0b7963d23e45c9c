//! The cache: entries in memory, fills for missing ones, and their validity.
//!
//! Two kinds of routes share one memory, one store and one way to fill. A route with a namespace is answered
//! by [`Cache::look`] and [`Cache::answer`] (`versioned.rs`): its rules set the lifetime, and a version ends
//! it. A route that follows its origin is answered by [`Cache::look_followed`] and [`Cache::answer_followed`]
//! (`follow.rs`): the origin's headers set the lifetime, and the purge log ends it. The first of each pair
//! answers from memory without waiting, the second does all the rest. None of them contacts an origin itself:
//! they are given a [`Fetcher`].

mod carry;
pub mod doubt;
mod draft;
mod encode;
pub mod entry;
mod fill;
pub mod flight;
mod follow;
pub mod hedge;
mod kept;
pub mod key;
pub mod live;
pub mod memory;
pub mod partitions;
mod pauses;
pub mod policy;
pub mod prepared;
pub mod purge;
pub mod redis;
pub mod said;
mod stale_at;
mod tier;
mod variants;
pub mod version;
mod versioned;

pub use follow::{Asking, Untold};
pub use kept::{Capture, Sent};

use crate::{
    clock::now_ms,
    config::{self, CacheRules},
    name::Tenant,
    representation::{Outside, Representation},
    telemetry::{
        labels::{CacheResult, FillOutcome, PurgeKind, StoreError},
        metrics::{MemoryStats, Metrics},
    },
};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use entry::{Entry, Standing};
use flight::Flights;
use hedge::UsualTime;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use key::{Key, Scheme};
use live::{Budget, Live, Reader};
use memory::Memory;
use partitions::Partitions;
use pauses::Pauses;
use policy::{millis, Selecting};
use purge::{Purge, Purges, Stamp, Target};
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use version::{Basis, Versions};

/// A request to the origin.
pub type Fetch = Pin<Box<dyn Future<Output = Result<Fetched, FetchError>> + Send>>;

/// The interface to the origin for a miss.
pub trait AskOrigin: Send {
    /// Sends the request, with these fields besides its own. The head of the answer has to be there `by`
    /// then, or it fails. Called again only if the first answer can't be used. `spare`: its client is served
    /// in any case.
    fn ask(&mut self, conditions: &[(HeaderName, HeaderValue)], by: Instant, spare: bool) -> Fetch;

    /// Returns true if every server of the origin is out of service.
    fn is_failing(&self) -> bool {
        false
    }
}

impl<F: FnMut(&[(HeaderName, HeaderValue)], Instant) -> Fetch + Send> AskOrigin for F {
    fn ask(&mut self, conditions: &[(HeaderName, HeaderValue)], by: Instant, _: bool) -> Fetch {
        self(conditions, by)
    }
}

/// The boxed interface to the origin for a miss.
pub type Fetcher = Box<dyn AskOrigin>;

/// An answer of the origin: the head, and a body that is still to be read.
pub struct Fetched {
    /// The status.
    pub status: StatusCode,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Box<dyn Incoming>,
}

/// The body of an origin's answer.
#[async_trait]
pub trait Incoming: Send {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// If it broke off.
    async fn next(&mut self) -> Result<Option<Bytes>, FetchError>;

    /// All of the body, if all of it has already arrived; then nothing is left to be read.
    fn at_hand(&mut self) -> Option<Bytes> {
        None
    }
}

/// The reason why the origin gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
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
pub struct Wanted {
    /// The key of the answer.
    pub key: Key,
    /// The tenant whose version applies.
    pub tenant: Tenant,
    /// The rules of the route.
    pub rules: Arc<CacheRules>,
    /// The time that the fills of its route take.
    pub usual: Arc<UsualTime>,
}

/// The result of a look-up in memory.
#[derive(Debug)]
pub enum Look {
    /// Fresh and current.
    Hit(Arc<Entry>),
    /// Usable while it is refreshed.
    Stale(Arc<Entry>),
    /// Nothing that may be used at once.
    Nothing,
}

/// The result for a caller.
#[derive(Debug)]
pub enum Answer {
    /// An entry, and its source.
    Entry(Arc<Entry>, CacheResult),
    /// An entry of a past generation or lifetime, because the fill failed in this way.
    StaleIfError(Arc<Entry>, Failure),
    /// A stale entry, because the fill is slow; it goes on.
    StaleIfSlow(Arc<Entry>),
    /// An answer that is not stored.
    Passing(Arc<Representation>, FillOutcome),
    /// An answer that is still arriving.
    Arriving(Arc<Arriving>, Reader, CacheResult),
    /// Pass: the caller has to ask the origin itself, because the answer may not be shared.
    AskYourself(FillOutcome),
    /// The client accepts only a stored answer (`only-if-cached`), and there is none.
    NotHere,
    /// There is no answer.
    Failed(FetchError),
}

/// The reason why the origin had to be asked, for `Cache-Status` (RFC 9211, 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// Nothing is stored under the key.
    UriMiss,
    /// The stored answers are for other requests.
    VaryMiss,
    /// The stored answer has to be validated first: it is stale, or may never be used without.
    Stale(policy::Why),
    /// It was marked as stale by a purge.
    Purged,
    /// A purge that could not be read may be about it: it may not even be served on an error.
    Unsure,
    /// Only another part of it is stored.
    Partial,
}

impl Forward {
    /// The value of `fwd`, and of `detail` if there is more to say.
    pub const fn as_strs(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::UriMiss => ("uri-miss", None),
            Self::VaryMiss => ("vary-miss", None),
            Self::Stale(policy::Why::Stale) => ("stale", None),
            Self::Stale(why @ (policy::Why::NoCache | policy::Why::Doubt)) => ("stale", Some(why.as_str())),
            Self::Stale(why) => ("request", Some(why.as_str())),
            Self::Purged => ("stale", Some("purged")),
            Self::Unsure => ("stale", Some("doubt")),
            Self::Partial => ("partial", None),
        }
    }
}

/// The head of an answer that is still arriving.
#[derive(Debug)]
pub struct Arriving {
    /// The status.
    pub status: StatusCode,
    /// The headers that are sent, without the length.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The length of its body, if the head has one.
    pub length: Option<u64>,
    /// The outcome of the fill if nothing goes wrong.
    pub outcome: FillOutcome,
    /// The requests that it answers.
    selecting: Option<Selecting>,
    /// The stamp by which a purge could end it.
    stamp: Option<Arc<Stamp>>,
    terms: policy::Terms,
}

impl Arriving {
    /// Its age in milliseconds, if it is stored, or would be if it were smaller. Other answers have the `Age`
    /// of the origin.
    pub fn age_ms(&self, now_ms: u64) -> Option<u64> {
        matches!(self.outcome, FillOutcome::Stored | FillOutcome::TooLarge).then(|| self.terms.age_ms(now_ms))
    }
}

/// The way in which a fill failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The origin answered with this status.
    Status(StatusCode),
    /// The origin did not answer.
    Fetch(FetchError),
}

/// The outcome of a flight, or its progress, for its followers.
#[derive(Debug, Clone)]
enum Landing {
    Filled(Arc<Entry>),
    /// The origin confirmed that this entry is still good.
    Validated(Arc<Entry>),
    Remote(Arc<Entry>),
    Passing(Arc<Representation>),
    Arriving(Arc<Arriving>),
    /// The answer is for the leader alone; with its status, if there is one.
    Unshareable(FillOutcome, Option<StatusCode>),
    Failed(FetchError),
}

/// The outcome of a fill, or its progress, for its leader.
#[derive(Debug)]
enum Led {
    Landing(Landing),
    /// An answer for the leader alone; it is arriving.
    Own(Arc<Arriving>),
}

/// The cache of this node.
pub struct Cache {
    memory: Memory,
    flights: Flights<Landing, Arc<Live>>,
    /// The memory that all flights may use together.
    arriving: Arc<Budget>,
    reads: Flights<Basis>,
    pauses: Pauses,
    partitions: Arc<Partitions>,
    versions: Arc<Versions>,
    purges: Arc<Purges>,
    redis: Option<Arc<redis::Redis>>,
    metrics: Arc<Metrics>,
    encoding: ArcSwap<config::Encoding>,
    /// The recent sets of fields for downstream caches.
    told: ArcSwap<Vec<Arc<Outside>>>,
    encoders: Semaphore,
    encoding_queue: Semaphore,
    tasks: TaskTracker,
}

impl Cache {
    /// A cache with the store's settings. With Redis, [`Cache::keep_linked`] has to run beside it.
    pub fn new(store: &config::Store, encoding: config::Encoding, metrics: Arc<Metrics>) -> Arc<Self> {
        /// The number of encodings made at the same time.
        const ENCODERS: usize = 2;
        /// The number of answers that wait for an encoding or have one made.
        const WAITING: usize = 256;
        let partitions = Partitions::of_store(store, now_ms());
        let versions = Arc::new(Versions::new(partitions.clone()));
        let purges = Arc::new(Purges::new(partitions.of_purge_log().clone()));
        let redis = store.redis.as_ref().map(|_| {
            let (partitions, versions, purges) = (partitions.clone(), versions.clone(), purges.clone());
            Arc::new(redis::Redis::new(store, partitions, versions, purges, metrics.clone()))
        });
        let cache = Arc::new(Self {
            memory: Memory::new(store.memory, store.largest),
            flights: Flights::new(),
            arriving: Budget::new(store.memory),
            reads: Flights::new(),
            pauses: Pauses::default(),
            partitions,
            versions,
            purges,
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
    pub async fn keep_linked(self: Arc<Self>, target: Option<config::Redis>) {
        if let (Some(redis), Some(target)) = (&self.redis, target) {
            redis.clone().keep_linked(target).await;
        }
    }

    /// Uses the credentials of `target`, whose servers are the same.
    pub fn authenticate(&self, target: Option<&config::Redis>) {
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
    pub async fn purge(self: &Arc<Self>, wanted: Vec<Purge>) -> Result<u64, StoreError> {
        for purge in &wanted {
            self.metrics.purge(match purge.target {
                Target::Url { .. } | Target::Resource(_) => PurgeKind::Url,
                Target::Tag(_) => PurgeKind::Tag,
                Target::All => PurgeKind::All,
            });
        }
        let (found, debt) = match self.purges.search(&wanted) {
            None => (self.found_by_url(&wanted), self.purges.order(wanted)),
            // Off the workers: there may be a million answers. It goes on if the caller goes away.
            Some(search) => {
                let cache = self.clone();
                let ordered = tokio::task::spawn_blocking(move || {
                    let is_found = |entry: &Entry| match &entry.standing {
                        Standing::Log(stamp, _) => search.finds(stamp) && cache.is_there(entry),
                        Standing::Version(..) => false,
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
    fn found_by_url(&self, wanted: &[Purge]) -> u64 {
        let mut keys = Vec::new();
        for purge in wanted {
            if let Target::Url { host, target } = &purge.target {
                keys.extend(
                    [Scheme::Http, Scheme::Https].map(|scheme| Key::of_resource(scheme, host, target)),
                );
            }
        }
        keys.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        keys.dedup();
        let of_key = |key: &Key| {
            let resource = self.memory.resource(key.as_str());
            resource.map_or(0, |all| all.entries().iter().filter(|entry| self.is_there(entry)).count() as u64)
        };
        keys.iter().map(of_key).sum()
    }

    /// Returns true if an answer that follows its origin was not purged before.
    fn is_there(&self, entry: &Entry) -> bool {
        match &entry.standing {
            Standing::Log(stamp, _) => self.purges.verdict(stamp) != purge::Verdict::Hard,
            Standing::Version(..) => false,
        }
    }

    /// Purges these resources of `host` (paths and queries), because an unsafe method succeeded (RFC 9111,
    /// 4.4): here at once, on the other nodes in the background.
    pub fn invalidate(self: &Arc<Self>, host: &str, targets: &[&str]) {
        targets.iter().for_each(|_| self.metrics.purge(PurgeKind::Invalidation));
        let debt =
            self.purges.order(targets.iter().map(|target| Purge::hard(Target::of(host, target))).collect());
        if let Some(redis) = self.redis.clone() {
            self.tasks.spawn(async move {
                // Purges that the store doesn't take stay owed.
                redis.pay(debt).await.unwrap_or_default();
            });
        }
    }

    /// The purges that this node knows.
    pub fn purges(&self) -> &Arc<Purges> {
        &self.purges
    }

    /// The second tier, if there is one.
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

/// The time since then, more than zero.
fn lasts_since(since_ms: u64, now_ms: u64) -> Duration {
    Duration::from_millis(now_ms.saturating_sub(since_ms).max(1))
}
