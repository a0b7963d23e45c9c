//! The second tier: Redis, shared by all nodes.
//!
//! [`super::key`] describes its keys. Every call passes through one wrapper with a deadline, a measured
//! duration, and a breaker: after a call without an answer in time, requests don't wait for the store until a
//! heartbeat on the same connection is answered in time ([`super::coherence::doubt`]). Calls in the background may take
//! longer. Nothing here ever makes a request fail: the caller has to do without the result of a failed call.

mod bump;
mod credentials;
mod event;
pub(crate) mod lease;
mod limit;
mod link;
mod log;
mod masters;
mod poll;
mod recovery;
mod shard;
mod store_faults;

pub use event::EventStanding;
pub use {
    super::key::StorePlace,
    lease::{
        waiters::{LeaseWaiters, WaiterSeat},
        LeaseWait,
    },
    limit::StoreBucket,
};

use super::{
    coherence::{
        doubt::CoherenceState,
        partitions::StorePartitions,
        purge::PurgeTable,
        version::{ReadTicket, SlotVersion, VersionBasis, VersionSlot, VersionTable},
    },
    key::{CacheKey, ReportedKey, StoreKeys},
};
use crate::{
    clock::now_ms,
    config,
    telemetry::{
        labels::{Invalidation, StoreCall, StoreError},
        metrics::Metrics,
    },
};
use store_faults::describe_error;

use link::{CommandConnection, HeartbeatKind, RenewedLink, StoreLink, TimedLink};
use shard::{StoreShard, StoreShards};

use bytes::Bytes;

use futures_util::future::try_join_all;

use redis::{cmd, Cmd, ErrorKind, FromRedisValue, PushInfo, RedisResult, Value};

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{watch, Mutex, Notify};

/// The time that a call may take in the background.
const UNHURRIED: Duration = Duration::from_millis(500);
/// The pause before the link is made again.
const RECONNECT: Duration = Duration::from_millis(100);
/// The pause between two looks for bumps and purges that the store has missed.
const PAY_AGAIN: Duration = Duration::from_millis(100);

/// Deletes or renews a lease only if it is still this node's.
const RELEASE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
const RENEW: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0";

/// The second tier.
pub struct RedisStore {
    names: StoreKeys,
    partitions: Arc<StorePartitions>,
    versions: Arc<VersionTable>,
    purges: Arc<PurgeTable>,
    metrics: Arc<Metrics>,
    deadline: Duration,
    lease: Duration,
    poll: Duration,
    shards: Arc<StoreShards>,
    waiters: Arc<LeaseWaiters>,
    /// Held while the purge log is read.
    log_reading: Mutex<()>,
    log_grown: Notify,
    /// Notified when a version was read and is trusted.
    read: Notify,
    /// The servers, with the newest credentials.
    target: watch::Sender<Option<config::RedisConfig>>,
}

/// The state of an answer and its lease for a node that wants to fill.
#[derive(Debug)]
pub struct LeaseClaim {
    /// The value under the answer's key by now.
    pub found: Option<Bytes>,
    /// True if this node has the lease.
    pub ours: bool,
}

impl RedisStore {
    /// The store at `store.redis`, not yet connected: see [`RedisStore::keep_linked`].
    pub fn new(
        store: &config::StoreConfig,
        partitions: Arc<StorePartitions>,
        versions: Arc<VersionTable>,
        purges: Arc<PurgeTable>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let shards = match &store.redis {
            Some(cluster @ config::RedisConfig::Cluster(_)) => {
                StoreShards::of_cluster(partitions.clone(), cluster.place())
            }
            one => StoreShards::one(
                partitions.clone(),
                one.as_ref().map(config::RedisConfig::place).unwrap_or_default(),
            ),
        };
        Self {
            names: StoreKeys::new(&store.prefix),
            partitions,
            versions,
            purges,
            metrics,
            deadline: store.deadline,
            lease: store.lease,
            poll: store.poll,
            shards,
            waiters: Arc::default(),
            log_reading: Mutex::default(),
            log_grown: Notify::new(),
            read: Notify::new(),
            target: watch::Sender::new(store.redis.clone()),
        }
    }

    /// Returns true if all servers are linked.
    pub fn is_up(&self) -> bool {
        self.shards.are_linked().0
    }

    /// Returns true if some server is linked.
    pub fn is_reachable(&self) -> bool {
        self.shards.is_any_linked()
    }

    /// The faults of the store, a sentence each.
    pub fn troubles(&self) -> Vec<String> {
        self.shards
            .all()
            .iter()
            .flat_map(|shard| shard.troubles.list())
            .chain(self.shards.troubles.list())
            .collect()
    }

    /// Makes the links, watches them and makes them again, for ever.
    pub async fn keep_linked(self: Arc<Self>, target: config::RedisConfig) {
        let linking = async {
            match (&target, self.shards.all().first()) {
                (config::RedisConfig::Cluster(_), _) => self.keep_cluster(target.clone()).await,
                (_, Some(server)) => self.clone().keep_shard(server.clone(), target.clone()).await,
                (_, None) => {}
            }
        };
        tokio::select! {
            () = linking => {}
            never = self.keep_fencing() => match never {},
        }
    }

    async fn keep_shard(self: Arc<Self>, shard: Arc<StoreShard>, mut target: config::RedisConfig) {
        let place = shard.place();
        let (mut servers, mut linked) = (self.servers(&shard, &target), None);
        self.authenticate(&target);
        loop {
            if let Some(other) = self.other_than(&target) {
                (servers, target) = (self.servers(&shard, &other), other);
            }
            let link = match linked.take() {
                Some(made) => Ok(made),
                None => self.connect(&shard, &servers).await,
            };
            match link {
                Ok(made) => match self.live(&shard, made, &target).await {
                    Ok(renewed) => {
                        (target, servers, linked) = (renewed.target, renewed.servers, Some(renewed.made));
                        continue;
                    }
                    Err(error) => {
                        shard.troubles.away(&error);
                        tracing::warn!(
                            redis = place,
                            error = describe_error(&error),
                            "the link to redis is lost"
                        );
                    }
                },
                Err(error) => {
                    if shard.troubles.away(&error) {
                        tracing::warn!(
                            redis = place,
                            error = describe_error(&error),
                            "redis can't be reached; retrying"
                        );
                    }
                }
            }
            // Another server may have its slots by now.
            self.shards.outdated.notify_one();
            tokio::time::sleep(RECONNECT).await;
        }
    }

    /// Runs with a link until it is lost, or until there is one with other credentials than those of
    /// `target`.
    async fn live(
        self: &Arc<Self>,
        shard: &Arc<StoreShard>,
        TimedLink { link, began_ms }: TimedLink,
        target: &config::RedisConfig,
    ) -> RedisResult<RenewedLink> {
        let link = Arc::new(link);
        shard.troubles.linked();
        tracing::info!(redis = shard.place(), tracked = link.tracked, "linked to redis");
        self.tell_bound(shard, &link);
        let of_log = self.partitions.of_purge_log();
        let has_log = self.shards.doubts(shard).iter().any(|doubt| Arc::ptr_eq(doubt, of_log));
        // Before the link, so that the log does not count as read; and after it, so that it is read in the
        // new epoch.
        if has_log {
            self.purges.grown();
        }
        self.shards.begin(shard, link.clone(), began_ms);
        if has_log {
            self.read_log_again();
        }
        self.count_links();
        let end = tokio::select! {
            error = link.watch(|beat| self.heard(shard, beat)) => Err(error),
            () = link.given_up.notified() => Err((ErrorKind::Io, "a connection ended").into()),
            renewed = self.renewed(shard, target) => Ok(renewed),
            never = self.keep_paying(shard) => match never {},
            never = self.keep_rereading(shard) => match never {},
            never = self.keep_reading(shard) => match never {},
        };
        self.shards.end(shard, now_ms());
        self.waiters.wake_all();
        self.count_links();
        self.metrics.invalidation(Invalidation::Lost);
        end
    }

    fn read_log_again(&self) {
        self.purges.grown();
        self.log_grown.notify_one();
    }

    fn count_links(&self) {
        let (are_linked, are_tracked) = self.shards.are_linked();
        self.metrics.store_up(are_linked);
        self.metrics.store_tracking(are_tracked);
    }

    /// Returns true if this server holds the purge log.
    fn has_log(&self, shard: &Arc<StoreShard>) -> bool {
        self.shards.of_key(&self.names.purge_log()).is_some_and(|of_log| Arc::ptr_eq(&of_log, shard))
    }

    fn heard(&self, shard: &Arc<StoreShard>, beat: HeartbeatKind) {
        match beat {
            HeartbeatKind::Reports { sent_ms, confirmation } => {
                self.shards.beat(shard, sent_ms, confirmation);
                shard.troubles.confirmed(confirmation, now_ms());
            }
            HeartbeatKind::Commands { took, .. } if took <= self.deadline => self.answered(shard),
            HeartbeatKind::Commands { sent_ms, .. } => self.unanswered(shard, sent_ms),
        }
    }

    fn answered(&self, shard: &Arc<StoreShard>) {
        if self.shards.answered(shard) && shard.end_warning() {
            tracing::info!(redis = shard.place(), "redis answers within the deadline again");
        }
    }

    fn unanswered(&self, shard: &Arc<StoreShard>, sent_ms: u64) {
        if self.shards.unanswered(shard, sent_ms) && shard.begin_warning(now_ms()) {
            let (redis, deadline) = (shard.place(), self.deadline);
            tracing::warn!(
                redis,
                ?deadline,
                "redis does not answer within the deadline: requests go on without it"
            );
        }
    }

    /// Begins and passes fences for the reads of versions, for as long as there is a store.
    async fn keep_fencing(&self) -> std::convert::Infallible {
        loop {
            self.read.notified().await;
            let fence = self.versions.fences().begin();
            let links: Vec<_> = self.shards.all().iter().filter_map(|shard| shard.link.load_full()).collect();
            if links.iter().any(|link| !link.tracked) {
                continue;
            }
            if try_join_all(links.iter().map(|link| link.hear_all())).await.is_ok() {
                self.versions.fences().pass(fence);
            } else {
                // Without the server that does not answer, once its link has ended.
                tokio::time::sleep(PAY_AGAIN).await;
                self.read.notify_one();
            }
        }
    }

    fn invalidated(&self, shard: &Arc<StoreShard>, push: PushInfo) {
        match push.data.into_iter().next() {
            Some(Value::Array(keys)) => keys.iter().for_each(|key| self.reported(key)),
            _ => self.flushed(shard),
        }
    }

    fn reported(&self, key: &Value) {
        let Value::BulkString(key) = key else { return };
        let Ok(key) = std::str::from_utf8(key) else { return };
        match self.names.classify_key(key) {
            ReportedKey::Version { namespace, tenant } => {
                self.versions.changed(namespace, tenant);
                self.metrics.invalidation(Invalidation::Version);
            }
            ReportedKey::Lease => {
                self.waiters.wake(key);
                self.metrics.invalidation(Invalidation::Lease);
            }
            ReportedKey::PurgeLog => {
                self.purges.reported();
                self.log_grown.notify_one();
                self.metrics.invalidation(Invalidation::Purge);
            }
            ReportedKey::Foreign => {}
        }
    }

    /// Returns true if the growth of the purge log is not reported.
    fn is_log_untold(&self) -> bool {
        let of_log = self.partitions.of_purge_log();
        of_log.coherence() == CoherenceState::Untracked || !of_log.is_heard(now_ms())
    }

    /// Handles FLUSHALL or FLUSHDB: no known version or answer may be trusted, nor come back.
    fn flushed(&self, shard: &Arc<StoreShard>) {
        self.versions.forget_all(&self.shards.doubts(shard), now_ms());
        if self.has_log(shard) {
            self.purges.mark_emptied();
            self.log_grown.notify_one();
        }
        self.waiters.wake_all();
        self.metrics.invalidation(Invalidation::Flush);
    }

    /// Makes a call of a request about a key: it waits until the deadline at most, and not at all while calls
    /// to that server take longer.
    async fn call<T, F: Future<Output = RedisResult<T>>>(
        &self,
        what: StoreCall,
        key: &str,
        run: impl FnOnce(CommandConnection) -> F,
    ) -> Result<T, StoreError> {
        let is_answering = self.shards.of_key(key).is_none_or(|shard| shard.is_answering());
        if !is_answering && !is_order(what) {
            self.metrics.store_call_skipped(what);
            return Err(StoreError::Down);
        }
        self.call_within(self.deadline, what, key, run).await
    }

    /// The same with one command.
    async fn ask<T: FromRedisValue>(
        &self,
        what: StoreCall,
        key: &str,
        command: Cmd,
    ) -> Result<T, StoreError> {
        self.call(what, key, |mut c| async move { command.query_async(&mut c).await }).await
    }

    /// Returns the time that a call may take in the background.
    fn relaxed_timeout(&self) -> Duration {
        self.deadline.max(UNHURRIED)
    }

    async fn call_within<T, F: Future<Output = RedisResult<T>>>(
        &self,
        at_most: Duration,
        what: StoreCall,
        key: &str,
        run: impl FnOnce(CommandConnection) -> F,
    ) -> Result<T, StoreError> {
        let (began, sent_ms) = (Instant::now(), now_ms());
        let linked = self.shards.of_key(key).and_then(|shard| Some((shard.link.load_full()?, shard)));
        let result = match linked {
            None => Err(StoreError::Down),
            Some((link, shard)) => {
                let mut running = pin!(run(link.commands.clone()));
                let mut answer = tokio::time::timeout(self.deadline.min(at_most), &mut running).await.ok();
                if answer.is_none() {
                    // Others don't wait as well.
                    self.unanswered(&shard, sent_ms);
                    let left = at_most.saturating_sub(began.elapsed());
                    answer = tokio::time::timeout(left, running).await.ok();
                }
                match answer {
                    Some(Ok(value)) => {
                        shard.troubles.record_success(what);
                        Ok(value)
                    }
                    Some(Err(error)) => Err(Self::failed(&shard, &link, what, &error)),
                    None => Err(StoreError::Timeout),
                }
            }
        };
        self.metrics.store_call(what, result.as_ref().map(|_| ()).map_err(|e| *e), began.elapsed());
        result
    }

    /// The version for a request: the trusted one, else the store's, else the assumed one.
    pub async fn version(&self, slot: &VersionSlot) -> VersionBasis {
        let ticket = match slot.standing(now_ms()) {
            SlotVersion::Current(version) => return VersionBasis::read(version),
            SlotVersion::Assumed(version) => return VersionBasis::assumed(version),
            SlotVersion::Ask(ticket) => ticket,
        };
        self.read_by(slot, ticket).await
    }

    /// The store's version, read again although the known one may be trusted; else the assumed one.
    pub async fn read_anew(&self, slot: &VersionSlot) -> VersionBasis {
        match slot.standing(now_ms()) {
            SlotVersion::Assumed(version) => VersionBasis::assumed(version),
            SlotVersion::Ask(ticket) => self.read_by(slot, ticket).await,
            SlotVersion::Current(_) => self.read_by(slot, slot.ticket(now_ms())).await,
        }
    }

    /// The version by a read with this ticket.
    async fn read_by(&self, slot: &VersionSlot, ticket: ReadTicket) -> VersionBasis {
        let known = slot.last_known();
        let read = match slot.owes_bump() {
            true => self.bump(slot, now_ms()).await,
            false => match self.read_version(slot).await {
                Ok(value) => self.believe_or_move(self.deadline, slot, ticket, &known, value).await,
                Err(error) => Err(error),
            },
        };
        match read {
            Ok(version) => VersionBasis::read(version),
            Err(_) => VersionBasis::assumed(slot.assumed()),
        }
    }

    async fn read_version(&self, slot: &VersionSlot) -> Result<Option<Vec<u8>>, StoreError> {
        let name = self.names.version(slot.namespace(), slot.tenant());
        self.ask(StoreCall::ReadVersion, &name, get_command(&name)).await
    }

    /// The value under a key.
    ///
    /// # Errors
    /// If the store can't be asked.
    pub async fn get(&self, name: String) -> Result<Option<Bytes>, StoreError> {
        self.ask(StoreCall::Get, &name, get_command(&name)).await
    }

    /// The newest answer that was stored under the key of a namespace, of any generation, with its version.
    ///
    /// # Errors
    /// If the store can't be asked.
    pub async fn last_answer(&self, key: &CacheKey) -> Result<Option<(String, Bytes)>, StoreError> {
        let Some(last) = self.get(self.names.last(key)).await? else { return Ok(None) };
        let Ok(version) = String::from_utf8(last.to_vec()) else { return Ok(None) };
        let body = self.names.of_version(key, &version).body;
        Ok(self.get(body).await?.map(|body| (version, body)))
    }

    /// Stores an answer for `keep_ms`.
    ///
    /// # Errors
    /// If the store did not take it.
    pub async fn store(&self, place: &StorePlace, value: Bytes, keep_ms: u64) -> Result<(), StoreError> {
        let StorePlace { body, lease: _, pointer } = place;
        let set = |name: &str, value: &[u8]| {
            let mut set = cmd("SET");
            set.arg(name).arg(value).arg("PX").arg(keep_ms.max(1));
            set
        };
        let put = set(body, &value);
        let point = pointer.as_ref().map(|(name, to)| set(name, to));
        let (Some(point), Some((name, _))) = (point, pointer) else {
            return self.put(body, put).await;
        };
        if self.shards.is_one() {
            let both = |mut c| async move {
                redis::pipe().add_command(put).add_command(point).exec_async(&mut c).await
            };
            return self.call_within(self.relaxed_timeout(), StoreCall::Put, body, both).await;
        }
        self.put(body, put).await?;
        self.put(name, point).await
    }

    /// Writes in the background.
    async fn put(&self, name: &str, put: Cmd) -> Result<(), StoreError> {
        let put = |mut c| async move { put.exec_async(&mut c).await };
        self.call_within(self.relaxed_timeout(), StoreCall::Put, name, put).await
    }

    /// Marks an answer as not to be stored; with `over`, in place of a stored one. Without, that one may
    /// still be served if the origin fails.
    ///
    /// # Errors
    /// If the store did not take it.
    pub async fn mark(
        &self,
        place: &StorePlace,
        mark: Bytes,
        keep_ms: u64,
        over: bool,
    ) -> Result<(), StoreError> {
        let mut set = cmd("SET");
        set.arg(&place.body).arg(&mark[..]).arg("PX").arg(keep_ms);
        if !over {
            set.arg("NX");
        }
        self.put(&place.body, set).await
    }

    /// Deletes answers that are over.
    ///
    /// # Errors
    /// If the store did not take it.
    pub async fn forget(&self, names: &[String]) -> Result<(), StoreError> {
        for name in names {
            // One by one: in a cluster they may be on several servers.
            let mut delete = cmd("DEL");
            delete.arg(name);
            self.put(name, delete).await?;
        }
        Ok(())
    }

    fn failed(
        shard: &StoreShard,
        link: &StoreLink,
        what: StoreCall,
        error: &redis::RedisError,
    ) -> StoreError {
        if error.is_unrecoverable_error() || error.is_io_error() {
            link.given_up.notify_one();
            return StoreError::Down;
        }
        shard.troubles.refused(what, error);
        // A demoted master refuses writes: the link has to find the new one.
        if error.code() == Some("READONLY") {
            link.given_up.notify_one();
        }
        StoreError::Protocol
    }

    /// The names of keys.
    pub fn names(&self) -> &StoreKeys {
        &self.names
    }
}

/// Returns true for calls that are tried however long others have taken: orders, and values that other nodes
/// wait for.
fn is_order(what: StoreCall) -> bool {
    matches!(what, StoreCall::Event | StoreCall::Release)
}

fn get_command(name: &str) -> Cmd {
    let mut get = cmd("GET");
    get.arg(name);
    get
}
