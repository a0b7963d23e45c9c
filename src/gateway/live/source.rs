//! How a watched entry is read: from memory, else by the flight that all requests for it share.

use crate::{
    cache::{
        entry::{CacheEntry, Validity},
        Cache, CacheAnswer, CacheRequest, MemoryLookup, OriginLookup,
    },
    clock::{self, now_ms},
    config::{ContentCoding, LiveRules, LiveTrigger},
    gateway::{
        cache::fetch::{vary_fetcher, FillFetcher},
        respond::errors,
        runtime_config::RuntimeConfig,
    },
    live::{DeflateRules, EntrySnapshot, EntrySource, LivePace, ReadFault},
    name::Name,
    origin::client::OriginRequest,
    representation::Body,
    telemetry::{
        labels::{FillOutcome, RefillCause},
        metrics::Metrics,
    },
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::StatusCode;
use parking_lot::Mutex;
use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    time::Duration,
};
use tokio::sync::{futures::OwnedNotified, Notify};

/// The largest content that is sent as one event, in bytes.
const MAX_EVENT_BYTES: u64 = 1 << 20;

/// The question to the cache.
pub(crate) enum WatchedRequest {
    /// An answer of a namespace.
    Versioned(CacheRequest),
    /// A resource of an origin that is followed.
    Followed(Arc<OriginLookup>),
}

/// The request to the origin: that of the watcher whose token is good for longest.
pub(crate) struct RefillRequest {
    pub(crate) ask: Arc<OriginRequest>,
    /// `exp` of the token, in milliseconds since the epoch; 0: there is none.
    pub(crate) expires: u64,
}

/// The parts of the gateway that reading needs, and the route.
pub(crate) struct LiveSource {
    pub(crate) cache: Arc<Cache>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) site: Arc<ArcSwap<RuntimeConfig>>,
    pub(crate) route: Name,
    /// Tells if the route is the same after a reload.
    pub(crate) fingerprint: u64,
    pub(crate) rules: Arc<LiveRules>,
    pub(crate) event: Arc<str>,
    pub(crate) request: WatchedRequest,
    pub(crate) refill: Mutex<RefillRequest>,
    pub(crate) changes: Arc<Notify>,
    pub(crate) has_read: AtomicBool,
    /// True if the origin failed when it was asked last.
    pub(crate) has_failed: AtomicBool,
}

impl LiveSource {
    /// The place of the route in the present configuration, if it is still the same.
    fn route_in(&self, site: &RuntimeConfig) -> Option<usize> {
        let index = site.config().routes.iter().position(|route| route.name == self.route)?;
        (site.per_route.get(index)?.live == Some(self.fingerprint)).then_some(index)
    }

    fn look(&self, now_ms: u64) -> MemoryLookup {
        match &self.request {
            WatchedRequest::Versioned(wanted) => self.cache.look(wanted.key.as_str(), now_ms),
            WatchedRequest::Followed(asking) => {
                self.cache.look_followed(&asking.key, &asking.headers, &asking.asked, now_ms)
            }
        }
    }

    /// Returns true if the origin may be asked for an entry that memory doesn't have, or has only stale.
    fn may_refill(&self, cause: RefillCause, is_watched: bool, now_ms: u64) -> bool {
        let (key, is_told) = match &self.request {
            WatchedRequest::Versioned(wanted) => (&wanted.key, false),
            // What was purged may be gone from memory.
            WatchedRequest::Followed(asking) => (&asking.key, is_watched && cause == RefillCause::Bump),
        };
        let is_superseded = is_told || self.cache.is_superseded(key.as_str(), now_ms);
        let is_due = match if is_superseded { self.rules.on_bump } else { self.rules.on_ttl } {
            // An origin that fails is asked again for those who watch, else at the next bump.
            LiveTrigger::Eager => {
                is_watched || cause == RefillCause::Bump || !self.has_failed.load(Ordering::Relaxed)
            }
            LiveTrigger::Watched => is_watched,
            LiveTrigger::Lazy => false,
        };
        is_due || is_watched && (cause == RefillCause::Watch || !self.has_read.load(Ordering::Relaxed))
    }

    /// Asks for the current answer, as a request would.
    async fn refill(&self, site: &RuntimeConfig, index: usize) -> Result<Option<EntrySnapshot>, ReadFault> {
        let origin = site.config().routes.get(index).and_then(|route| route.target.origin());
        let places = origin.and_then(|origin| site.refills.get(origin)).cloned();
        let _place = match places {
            Some(places) => places.acquire_owned().await.ok(),
            None => None,
        };
        // It may have been filled while this waited.
        if let MemoryLookup::Hit(entry) = self.look(now_ms()) {
            return snapshot(&entry).map(Some);
        }
        let fetcher = FillFetcher {
            origins: site.plan().origins.clone(),
            origin,
            ask: self.refill.lock().ask.clone(),
            interim: None,
            _hold: None,
        };
        let answer = match &self.request {
            WatchedRequest::Versioned(wanted) => self.cache.renew(wanted, Box::new(fetcher)).await,
            WatchedRequest::Followed(asking) => {
                let fetcher = vary_fetcher(fetcher, &asking.rules);
                self.cache.renew_followed(asking.clone(), fetcher).await
            }
        };
        let mut read = self.take_answer(answer).await?;
        if let Some(snapshot) = &mut read {
            snapshot.was_fetched = true;
        }
        Ok(read)
    }

    async fn take_answer(&self, answer: CacheAnswer) -> Result<Option<EntrySnapshot>, ReadFault> {
        match answer {
            CacheAnswer::Entry(entry, _) => snapshot(&entry).map(Some),
            // The fill goes on.
            CacheAnswer::StaleIfSlow(_) | CacheAnswer::NotHere => Ok(None),
            CacheAnswer::Arriving(head, mut reader, _) => {
                if head.outcome != FillOutcome::Stored {
                    return Err(ReadFault::Failed(head.outcome.as_str()));
                }
                check_status(head.status)?;
                let (mut pieces, mut length) = (Vec::new(), 0);
                loop {
                    match reader.next().await {
                        Ok(Some(piece)) => {
                            length += piece.len() as u64;
                            if length > MAX_EVENT_BYTES {
                                return Err(ReadFault::Failed("too_large"));
                            }
                            pieces.push(piece);
                        }
                        Ok(None) => break,
                        Err(_) => return Err(ReadFault::Failed("origin-failed")),
                    }
                }
                match self.look(now_ms()) {
                    MemoryLookup::Hit(entry) => snapshot(&entry).map(Some),
                    // It lands in a moment.
                    MemoryLookup::Stale(_) | MemoryLookup::Nothing => Ok(Some(EntrySnapshot {
                        body: Body::from_pieces(pieces),
                        version: None,
                        fresh_for: Duration::ZERO,
                        was_fetched: false,
                    })),
                }
            }
            CacheAnswer::StaleIfError(_, failure) => {
                Err(ReadFault::Failed(errors::stale_if_error_status(Some(failure)).1))
            }
            CacheAnswer::Passing(_, why) | CacheAnswer::Pass(why) => Err(ReadFault::Failed(why.as_str())),
            CacheAnswer::Failed(error) => Err(ReadFault::Failed(errors::error_name(error))),
        }
    }
}

#[async_trait]
impl EntrySource for LiveSource {
    fn event(&self) -> Arc<str> {
        self.event.clone()
    }

    fn pace(&self) -> LivePace {
        LivePace { window: self.rules.window, on_ttl: self.rules.on_ttl == LiveTrigger::Watched }
    }

    fn deflate_rules(&self) -> DeflateRules {
        let site = self.site.load();
        let rules = &site.config().encoding;
        let level = rules.levels.get(&ContentCoding::Gzip).copied().unwrap_or_default();
        DeflateRules { min_size: rules.min_size, level: level.unsigned_abs() }
    }

    async fn read(&self, cause: RefillCause, is_watched: bool) -> Result<Option<EntrySnapshot>, ReadFault> {
        let site = self.site.load_full();
        let Some(index) = self.route_in(&site) else { return Err(ReadFault::Over) };
        let now = now_ms();
        let may_refill = match self.look(now) {
            MemoryLookup::Hit(entry) => {
                self.has_read.store(true, Ordering::Relaxed);
                return snapshot(&entry).map(Some);
            }
            MemoryLookup::Stale(entry) if self.rules.on_ttl == LiveTrigger::Lazy => {
                self.has_read.store(true, Ordering::Relaxed);
                return snapshot(&entry).map(Some);
            }
            MemoryLookup::Stale(_) | MemoryLookup::Nothing => self.may_refill(cause, is_watched, now),
        };
        if !may_refill {
            return Ok(None);
        }
        self.metrics.live_refill(cause);
        let read = Box::pin(self.refill(&site, index)).await;
        self.has_failed.store(read.is_err(), Ordering::Relaxed);
        if matches!(read, Ok(Some(_))) {
            self.has_read.store(true, Ordering::Relaxed);
        }
        read
    }

    fn is_kept_unwatched(&self) -> bool {
        let expires = self.refill.lock().expires;
        self.rules.on_bump == LiveTrigger::Eager && (expires == 0 || clock::wall_ms() < expires)
    }

    fn changed(&self) -> OwnedNotified {
        self.changes.clone().notified_owned()
    }

    fn renew(&self, newer: Self) {
        let newer = newer.refill.into_inner();
        let mut refill = self.refill.lock();
        if newer.expires >= refill.expires {
            *refill = newer;
        }
    }
}

/// The state of an entry.
fn snapshot(entry: &CacheEntry) -> Result<EntrySnapshot, ReadFault> {
    let what = &entry.representation;
    check_status(what.status())?;
    if entry.part().is_some() {
        return Err(ReadFault::Failed("partial"));
    }
    if what.body().len() > MAX_EVENT_BYTES {
        return Err(ReadFault::Failed("too_large"));
    }
    let version = match &entry.standing {
        Validity::Version(version, _) => Some(version.tag().into()),
        Validity::Log(..) => None,
    };
    let ttl = u64::try_from(entry.terms().ttl_ms(now_ms())).unwrap_or(0);
    let fresh_for = Duration::from_millis(ttl);
    Ok(EntrySnapshot { body: what.body().clone(), version, fresh_for, was_fetched: false })
}

fn check_status(status: StatusCode) -> Result<(), ReadFault> {
    match status {
        StatusCode::OK => Ok(()),
        _ => Err(ReadFault::Failed("status")),
    }
}
