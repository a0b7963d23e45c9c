//! The second tier: Redis, shared by all nodes.
//!
//! What it holds is told in [`super::key`]. Every call passes through one wrapper that gives it a deadline, a
//! measured duration, and a breaker: after one that got no answer in time, requests don't wait for the store
//! until a heartbeat on the same connection is answered in time ([`super::doubt`]). What runs behind requests may take longer. Nothing here ever makes a request fail: a call that did not work is an
//! error for the caller to go around.

mod bump;
mod credentials;
mod event;
mod lease;
mod limit;
mod link;
mod log;
mod paying;
mod poll;
mod troubles;

pub use super::key::Place;
pub use event::EventStanding;
pub use lease::Wait;
pub use limit::Bucket;

use super::{
    doubt::{Coherence, Doubt},
    key::{Key, Names, Reported},
    purge::Purges,
    version::{Basis, Slot, Standing, Versions},
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
use credentials::{Made, Renewed};
use lease::Waiters;
use link::{Beat, Commands, Link, Servers};
use redis::{cmd, PushInfo, RedisResult, Value};
use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{watch, Mutex, Notify};
use troubles::{words, Troubles};

/// How long a call may take that no request waits for.
const UNHURRIED: Duration = Duration::from_millis(500);
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
    doubt: Arc<Doubt>,
    versions: Arc<Versions>,
    purges: Arc<Purges>,
    metrics: Arc<Metrics>,
    deadline: Duration,
    lease: Duration,
    poll: Duration,
    link: ArcSwapOption<Link>,
    waiters: Waiters,
    /// Held while the log of purges is read.
    log_reading: Mutex<()>,
    log_grown: Notify,
    /// A version was read and is believed.
    read: Notify,
    /// The servers, under the newest credentials.
    target: watch::Sender<Option<config::Redis>>,
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
        doubt: Arc<Doubt>,
        versions: Arc<Versions>,
        purges: Arc<Purges>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            names: Names::new(&store.prefix),
            doubt,
            versions,
            purges,
            metrics,
            deadline: store.deadline,
            lease: store.lease,
            poll: store.poll,
            link: ArcSwapOption::empty(),
            waiters: Waiters::default(),
            log_reading: Mutex::default(),
            log_grown: Notify::new(),
            read: Notify::new(),
            target: watch::Sender::new(store.redis.clone()),
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
    pub async fn keep_linked(self: Arc<Self>, mut target: config::Redis) {
        let place = self.troubles.place();
        let (mut servers, mut linked) = (Servers::new(target.clone()), None);
        self.authenticate(&target);
        loop {
            if let Some(other) = self.other_than(&target) {
                (servers, target) = (Servers::new(other.clone()), other);
            }
            let link = match linked.take() {
                Some(made) => Ok(made),
                None => self.connect(&servers).await,
            };
            match link {
                Ok(made) => match self.live(made, &target).await {
                    Ok(renewed) => {
                        (target, servers, linked) = (renewed.target, renewed.servers, Some(renewed.made));
                        continue;
                    }
                    Err(error) => {
                        self.troubles.away(&error);
                        tracing::warn!(redis = place, error = words(&error), "the link to redis is lost");
                    }
                },
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

    /// Lives with a link until it is lost, or until there is one by other credentials than those of `target`.
    async fn live(
        self: &Arc<Self>,
        Made { link, began_ms }: Made,
        target: &config::Redis,
    ) -> RedisResult<Renewed> {
        let link = Arc::new(link);
        self.troubles.linked();
        tracing::info!(redis = self.troubles.place(), tracked = link.tracked, "linked to redis");
        self.tell_bound(&link);
        self.link.store(Some(link.clone()));
        self.purges.grown();
        self.doubt.link(link.tracked, began_ms);
        self.metrics.store_up(true);
        self.metrics.store_tracking(link.tracked);
        let end = tokio::select! {
            error = link.watch(|beat| self.heard(beat)) => Err(error),
            () = link.given_up.notified() => Err((redis::ErrorKind::Io, "a connection ended").into()),
            renewed = self.renewed(target) => Ok(renewed),
            never = self.keep_paying() => match never {},
            never = self.keep_rereading() => match never {},
            never = self.keep_reading() => match never {},
            never = self.keep_fencing(&link) => match never {},
        };
        self.doubt.lose(now_ms());
        self.link.store(None);
        self.waiters.wake_all();
        self.metrics.store_up(false);
        self.metrics.store_tracking(false);
        self.metrics.invalidation(Invalidation::Lost);
        end
    }

    fn heard(&self, beat: Beat) {
        match beat {
            Beat::Reports { sent_ms } => self.doubt.beat(sent_ms),
            Beat::Commands { took, .. } if took <= self.deadline => self.answered(),
            Beat::Commands { sent_ms, .. } => self.unanswered(sent_ms),
        }
    }

    fn answered(&self) {
        if self.doubt.answered() {
            tracing::info!(redis = self.troubles.place(), "redis answers within the deadline again");
        }
    }

    fn unanswered(&self, sent_ms: u64) {
        if self.doubt.unanswered(sent_ms) {
            let (redis, deadline) = (self.troubles.place(), self.deadline);
            tracing::warn!(
                redis,
                ?deadline,
                "redis does not answer within the deadline: requests go on without it"
            );
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
                self.purges.reported();
                self.log_grown.notify_one();
                self.metrics.invalidation(Invalidation::Purge);
            }
            Reported::Foreign => {}
        }
    }

    fn is_untracked(&self) -> bool {
        self.doubt.coherence() == Coherence::Untracked
    }

    /// FLUSHALL or FLUSHDB: nothing that is known may be believed, nor come back.
    fn flushed(&self) {
        self.versions.forget_all(now_ms());
        self.purges.emptied();
        self.log_grown.notify_one();
        self.waiters.wake_all();
        self.metrics.invalidation(Invalidation::Flush);
    }

    /// The way to the store of a request: it waits for the deadline at most, and not at all while calls take longer.
    async fn call<T, F: Future<Output = RedisResult<T>>>(
        &self,
        what: StoreCall,
        run: impl FnOnce(Commands) -> F,
    ) -> Result<T, StoreError> {
        if !self.doubt.is_answering() && !orders(what) {
            self.metrics.store_call(what, Err(StoreError::Down), Duration::ZERO);
            return Err(StoreError::Down);
        }
        self.call_within(self.deadline, what, run).await
    }

    /// The way to the store of what no request waits for.
    async fn call_behind<T, F: Future<Output = RedisResult<T>>>(
        &self,
        what: StoreCall,
        run: impl FnOnce(Commands) -> F,
    ) -> Result<T, StoreError> {
        self.call_within(self.unhurried(), what, run).await
    }

    /// How long a call may take that no request waits for.
    fn unhurried(&self) -> Duration {
        self.deadline.max(UNHURRIED)
    }

    async fn call_within<T, F: Future<Output = RedisResult<T>>>(
        &self,
        at_most: Duration,
        what: StoreCall,
        run: impl FnOnce(Commands) -> F,
    ) -> Result<T, StoreError> {
        let (began, sent_ms) = (Instant::now(), now_ms());
        let result = match &*self.link.load() {
            None => Err(StoreError::Down),
            Some(link) => match tokio::time::timeout(at_most, run(link.commands.clone())).await {
                Ok(Ok(value)) => {
                    if began.elapsed() <= self.deadline {
                        self.answered();
                    }
                    self.troubles.worked(what);
                    Ok(value)
                }
                Ok(Err(error)) => Err(self.failed(link, what, &error)),
                Err(_) => {
                    self.unanswered(sent_ms);
                    Err(StoreError::Timeout)
                }
            },
        };
        self.metrics.store_call(what, result.as_ref().map(|_| ()).map_err(|e| *e), began.elapsed());
        result
    }

    /// The version that a request goes by: the believed one, else the store's, else the one that is assumed.
    pub async fn version(&self, slot: &Slot) -> Basis {
        let ticket = match slot.standing(now_ms()) {
            Standing::Current(version) => return Basis::read(version),
            Standing::Assumed(version) => return Basis::assumed(version),
            Standing::Ask(ticket) => ticket,
        };
        let known = slot.last_known();
        let read = match slot.owes_bump() {
            true => self.bump(slot, now_ms()).await,
            false => match self.read_version(slot).await {
                Ok(value) => self.believe_or_move(self.deadline, slot, ticket, &known, value).await,
                Err(error) => Err(error),
            },
        };
        match read {
            Ok(version) => Basis::read(version),
            Err(_) => Basis::assumed(slot.assumed()),
        }
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
        self.call_behind(StoreCall::Put, |mut c| async move {
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
        self.call_behind(StoreCall::Put, |mut c| async move { set.exec_async(&mut c).await }).await
    }

    /// Deletes answers that are over.
    ///
    /// # Errors
    /// If the store did not take it.
    pub async fn forget(&self, names: &[String]) -> Result<(), StoreError> {
        for name in names {
            // One by one: in a cluster they need not lie together.
            self.call_behind(
                StoreCall::Put,
                |mut c| async move { cmd("DEL").arg(name).exec_async(&mut c).await },
            )
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

/// Returns whether a call is tried however long others have taken: an order, or what other nodes wait for.
fn orders(what: StoreCall) -> bool {
    matches!(what, StoreCall::Event | StoreCall::Release)
}
