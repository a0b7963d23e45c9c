//! The second tier: Redis, shared by all nodes.
//!
//! What it holds is told in [`super::key`]. Every call passes through one wrapper that gives it a deadline, a
//! measured duration and a place behind the breaker: after a few calls in a row that got no answer, calls stop at
//! once until the link has been made anew. Nothing here ever makes a request fail: a call that did not work is an
//! error for the caller to go around.

mod bump;
mod event;
mod lease;
mod limit;
mod link;
mod log;
mod troubles;

pub use super::key::Place;
pub use event::EventStanding;
pub use lease::Wait;
pub use limit::Bucket;

use super::{
    key::{Key, Names, Reported},
    purge::Purges,
    version::{Coherence, Slot, Standing, Version, Versions},
};
use crate::{
    clock::now_ms,
    config,
    telemetry::{
        labels::{Invalidation, StoreCall, StoreError},
        metrics::Metrics,
    },
};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use lease::Waiters;
use link::{Commands, Link, OnPush, Servers};
use redis::{cmd, PushInfo, PushKind, RedisResult, Value};
use std::{
    future::Future,
    sync::{
        atomic::{AtomicU32, Ordering},
        Arc,
    },
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, Notify};
use troubles::{words, Troubles};

/// Calls without an answer in a row after which the link is given up.
const BREAK_AFTER: u32 = 5;
/// Pause before the link is made anew.
const RECONNECT: Duration = Duration::from_millis(100);
/// Pause between two looks for bumps and purges that the store has missed.
const PAY_AGAIN: Duration = Duration::from_millis(100);

/// Deletes or prolongs a lease only if it is still ours.
const RELEASE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
const RENEW: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0";

/// The second tier.
pub struct Redis {
    names: Names,
    versions: Arc<Versions>,
    purges: Arc<Purges>,
    metrics: Arc<Metrics>,
    deadline: Duration,
    lease: Duration,
    link: ArcSwapOption<Link>,
    unanswered: AtomicU32,
    waiters: Waiters,
    /// Held while the log of purges is read.
    log_reading: Mutex<()>,
    log_grown: Notify,
    /// A version was read and is believed.
    read: Notify,
    troubles: Troubles,
}

/// What a node finds when it wants to fill.
#[derive(Debug)]
pub struct Claim {
    /// What stands under the answer's key by now.
    pub found: Option<Bytes>,
    /// Whether the lease is ours.
    pub ours: bool,
}

impl Redis {
    /// The store at `store.redis`, not yet connected: see [`Redis::keep_linked`].
    pub fn new(
        store: &config::Store,
        versions: Arc<Versions>,
        purges: Arc<Purges>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            names: Names::new(&store.prefix),
            versions,
            purges,
            metrics,
            deadline: store.deadline,
            lease: store.lease,
            link: ArcSwapOption::empty(),
            unanswered: AtomicU32::new(0),
            waiters: Waiters::default(),
            log_reading: Mutex::default(),
            log_grown: Notify::new(),
            read: Notify::new(),
            troubles: Troubles::new(store.redis.as_ref().map(config::Redis::place).unwrap_or_default()),
        }
    }

    /// Whether there is a link.
    pub fn is_up(&self) -> bool {
        self.link.load().is_some()
    }

    /// What is wrong with the store, a sentence each.
    pub fn troubles(&self) -> Vec<String> {
        self.troubles.list()
    }

    /// Makes the link, watches it and makes it anew, for ever.
    pub async fn keep_linked(self: Arc<Self>, target: config::Redis) {
        let prefixes = self.names.tracked();
        let place = self.troubles.place();
        let servers = Servers::new(target);
        loop {
            // Each link has a signal of its own: what befell the last one must not end the next.
            let given_up = Arc::new(Notify::new());
            let (weak, signal) = (Arc::downgrade(&self), given_up.clone());
            let on_push: OnPush = Arc::new(move |push: PushInfo| match weak.upgrade() {
                _ if push.kind == PushKind::Disconnection => signal.notify_one(),
                Some(store) if push.kind == PushKind::Invalidate => store.invalidated(push),
                _ => {}
            });
            match servers.connect(&prefixes, on_push, given_up).await {
                Ok(link) => {
                    let error = self.live(link).await;
                    self.troubles.away(&error);
                    tracing::warn!(redis = place, error = words(&error), "the link to redis is lost");
                }
                Err(error) => {
                    if self.troubles.away(&error) {
                        tracing::warn!(
                            redis = place,
                            error = words(&error),
                            "redis can't be reached; trying on"
                        );
                    }
                }
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }

    async fn live(&self, link: Link) -> redis::RedisError {
        let link = Arc::new(link);
        self.troubles.linked();
        tracing::info!(redis = self.troubles.place(), tracked = link.tracked, "linked to redis");
        self.unanswered.store(0, Ordering::Release);
        self.link.store(Some(link.clone()));
        self.versions.begin_epoch(if link.tracked { Coherence::Tracked } else { Coherence::Untracked });
        self.purges.linked(link.tracked);
        self.metrics.store_up(true);
        self.metrics.store_tracking(link.tracked);
        let error = tokio::select! {
            error = link.watch() => error,
            () = link.given_up.notified() => (redis::ErrorKind::Io, "calls are not answered").into(),
            never = self.keep_paying() => match never {},
            never = self.keep_reading() => match never {},
            never = self.keep_fencing(&link) => match never {},
        };
        self.versions.begin_epoch(Coherence::Away);
        self.purges.unlinked();
        self.link.store(None);
        self.waiters.wake_all();
        self.metrics.store_up(false);
        self.metrics.store_tracking(false);
        self.metrics.invalidation(Invalidation::Lost);
        error
    }

    /// Makes up for bumps and purges that the store has missed, and for bumps that it took and lost since, whether or not
    /// anyone asks for them on this node: the other nodes wait for them.
    async fn keep_paying(&self) -> std::convert::Infallible {
        for slot in self.versions.moved_here() {
            self.version(&slot).await;
        }
        loop {
            for slot in self.versions.owing() {
                // One that fails stays on the list.
                if slot.owes_bump() && self.bump(&slot, now_ms()).await.is_err() {
                    break;
                }
            }
            self.versions.settle();
            self.pay_purges().await;
            tokio::time::sleep(PAY_AGAIN).await;
        }
    }

    /// Puts a fence behind the reads of versions.
    async fn keep_fencing(&self, link: &Link) -> std::convert::Infallible {
        loop {
            self.read.notified().await;
            let fence = self.versions.fences().begin();
            // Where it is not answered, the heartbeat isn't either.
            if link.tracked && link.hear_all().await.is_ok() {
                self.versions.fences().pass(fence);
            }
        }
    }

    fn invalidated(&self, push: PushInfo) {
        match push.data.into_iter().next() {
            Some(Value::Array(keys)) => keys.iter().for_each(|key| self.reported(key)),
            _ => self.flushed(),
        }
    }

    fn reported(&self, key: &Value) {
        let Value::BulkString(key) = key else { return };
        let Ok(key) = std::str::from_utf8(key) else { return };
        match self.names.recognise(key) {
            Reported::Version { namespace, tenant } => {
                self.versions.changed(namespace, tenant);
                self.metrics.invalidation(Invalidation::Version);
            }
            Reported::Lease => {
                self.waiters.wake(key);
                self.metrics.invalidation(Invalidation::Lease);
            }
            Reported::PurgeLog => {
                self.purges.grown();
                self.log_grown.notify_one();
                self.metrics.invalidation(Invalidation::Purge);
            }
            Reported::Foreign => {}
        }
    }

    fn is_untracked(&self) -> bool {
        self.versions.coherence() == Coherence::Untracked
    }

    /// FLUSHALL or FLUSHDB: nothing that is known may be believed, nor come back.
    fn flushed(&self) {
        self.versions.forget_all();
        self.purges.emptied();
        self.log_grown.notify_one();
        self.waiters.wake_all();
        self.metrics.invalidation(Invalidation::Flush);
    }

    /// The one way to the store.
    async fn call<T, F: Future<Output = RedisResult<T>>>(
        &self,
        what: StoreCall,
        run: impl FnOnce(Commands) -> F,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        let result = match &*self.link.load() {
            None => Err(StoreError::Down),
            Some(link) => match tokio::time::timeout(self.deadline, run(link.commands.clone())).await {
                Ok(Ok(value)) => {
                    self.unanswered.store(0, Ordering::Relaxed);
                    self.troubles.worked(what);
                    Ok(value)
                }
                Ok(Err(error)) => Err(self.failed(link, what, &error)),
                Err(_) => {
                    if self.unanswered.fetch_add(1, Ordering::AcqRel) + 1 == BREAK_AFTER {
                        link.given_up.notify_one();
                    }
                    Err(StoreError::Timeout)
                }
            },
        };
        self.metrics.store_call(what, result.as_ref().map(|_| ()).map_err(|e| *e), began.elapsed());
        result
    }

    /// The version that a request goes by: the believed one, else the store's, else the last known.
    pub async fn version(&self, slot: &Slot) -> Version {
        let ticket = match slot.standing() {
            Standing::Current(version) => return version,
            Standing::Ask(ticket) => ticket,
        };
        let known = slot.last_known();
        let read = match slot.owes_bump() {
            true => self.bump(slot, now_ms().max(known.successor())).await,
            false => match self.read_version(slot).await {
                Ok(value) => self.believe_or_move(slot, ticket, &known, value).await,
                Err(error) => Err(error),
            },
        };
        read.unwrap_or_else(|_| slot.assumed())
    }

    async fn read_version(&self, slot: &Slot) -> Result<Option<Vec<u8>>, StoreError> {
        let name = self.names.version(slot.namespace(), slot.tenant());
        self.call(
            StoreCall::ReadVersion,
            |mut c| async move { cmd("GET").arg(name).query_async(&mut c).await },
        )
        .await
    }

    /// What stands under a name.
    ///
    /// # Errors
    /// If the store can't be asked.
    pub async fn get(&self, name: String) -> Result<Option<Bytes>, StoreError> {
        self.call(StoreCall::Get, |mut c| async move { cmd("GET").arg(name).query_async(&mut c).await }).await
    }

    /// The newest answer that was stored under the key of a namespace, of whichever generation, with its version.
    ///
    /// # Errors
    /// If the store can't be asked.
    pub async fn last_answer(&self, key: &Key) -> Result<Option<(String, Bytes)>, StoreError> {
        let Some(last) = self.get(self.names.last(key)).await? else { return Ok(None) };
        let Ok(version) = String::from_utf8(last.to_vec()) else { return Ok(None) };
        let body = self.names.of_version(key, &version).body;
        Ok(self.get(body).await?.map(|body| (version, body)))
    }

    /// Stores an answer for `keep_ms`.
    ///
    /// # Errors
    /// If the store did not take it.
    pub async fn store(&self, place: &Place, value: Bytes, keep_ms: u64) -> Result<(), StoreError> {
        let Place { body, lease: _, pointer } = place;
        let set = |name: &str, value: &[u8]| {
            let mut set = cmd("SET");
            set.arg(name).arg(value).arg("PX").arg(keep_ms.max(1));
            set
        };
        let put = set(body, &value);
        let point = pointer.as_ref().map(|(name, to)| set(name, to));
        self.call(StoreCall::Put, |mut c| async move {
            let Some(point) = point else { return put.exec_async(&mut c).await };
            if c.can_pipeline() {
                return redis::pipe().add_command(put).add_command(point).exec_async(&mut c).await;
            }
            put.exec_async(&mut c).await?;
            point.exec_async(&mut c).await
        })
        .await
    }

    /// Marks an answer that may not be stored; with `over`, in the place of one that stands there. Without, that one may
    /// still serve when the origin fails.
    ///
    /// # Errors
    /// If the store did not take it.
    pub async fn mark(&self, place: &Place, mark: Bytes, keep_ms: u64, over: bool) -> Result<(), StoreError> {
        let mut set = cmd("SET");
        set.arg(&place.body).arg(&mark[..]).arg("PX").arg(keep_ms);
        if !over {
            set.arg("NX");
        }
        self.call(StoreCall::Put, |mut c| async move { set.exec_async(&mut c).await }).await
    }

    /// Deletes answers that are over.
    ///
    /// # Errors
    /// If the store did not take it.
    pub async fn forget(&self, names: &[String]) -> Result<(), StoreError> {
        for name in names {
            // One by one: in a cluster they need not lie together.
            self.call(StoreCall::Put, |mut c| async move { cmd("DEL").arg(name).exec_async(&mut c).await })
                .await?;
        }
        Ok(())
    }

    fn failed(&self, link: &Link, what: StoreCall, error: &redis::RedisError) -> StoreError {
        if error.is_unrecoverable_error() || error.is_io_error() {
            link.given_up.notify_one();
            return StoreError::Down;
        }
        self.troubles.refused(what, error);
        // A demoted master refuses writes: the link has to find the new one.
        if error.code() == Some("READONLY") {
            link.given_up.notify_one();
        }
        StoreError::Protocol
    }

    /// The names of keys.
    pub fn names(&self) -> &Names {
        &self.names
    }
}
