//! Credentials that change during a link: a link with the new ones is made beside it, and replaces it.

use super::{
    link::{LinkServers, OnPush, RenewedLink, TimedLink},
    shard::StoreShard,
    store_faults::describe_error,
    RedisStore,
};
use crate::{clock::now_ms, config};

use redis::{PushInfo, PushKind, RedisResult};
use std::{future::pending, sync::Arc, time::Duration};
use tokio::sync::Notify;

/// The pause before refused credentials are tried again: the server may learn them later than the gateway.
const TRY_AGAIN: Duration = Duration::from_secs(1);

impl RedisStore {
    /// Uses the credentials of `target`, whose servers are the same, for the next link, and makes one now.
    pub fn authenticate(&self, target: &config::RedisConfig) {
        self.target.send_if_modified(|now| {
            let differs = now.as_ref() != Some(target);
            if differs {
                *now = Some(target.clone());
            }
            differs
        });
    }

    /// The servers with other credentials than those of `current`, if there are any.
    pub(super) fn other_than(&self, current: &config::RedisConfig) -> Option<config::RedisConfig> {
        self.target.borrow().clone().filter(|target| target != current)
    }

    /// Makes a link. Each has a signal of its own: a failure of the last one must not end the next.
    pub(super) async fn connect(
        self: &Arc<Self>,
        shard: &Arc<StoreShard>,
        servers: &LinkServers,
    ) -> RedisResult<TimedLink> {
        let began_ms = now_ms();
        let given_up = Arc::new(Notify::new());
        let (weak, signal, reporter) = (Arc::downgrade(self), given_up.clone(), shard.clone());
        let on_push: OnPush = Arc::new(move |push: PushInfo| match weak.upgrade() {
            _ if push.kind == PushKind::Disconnection => signal.notify_one(),
            Some(store) if push.kind == PushKind::Invalidate => store.invalidated(&reporter, push),
            Some(store) if push.kind == PushKind::Message => store.told(&push),
            _ => {}
        });
        let link = servers.connect((&self.names.tracked(), &self.names.channel()), on_push, given_up).await?;
        Ok(TimedLink { link, began_ms })
    }

    /// Waits for other credentials than those of `current`, and for a link with them. Refused ones change
    /// nothing: they are logged, and tried again.
    pub(super) async fn renewed(
        self: &Arc<Self>,
        shard: &Arc<StoreShard>,
        current: &config::RedisConfig,
    ) -> RenewedLink {
        let mut targets = self.target.subscribe();
        loop {
            if targets.borrow().as_ref() == Some(current) {
                // Refused credentials may have been withdrawn meanwhile.
                shard.troubles.authenticated();
            }
            let other = targets.wait_for(|target| target.as_ref() != Some(current)).await;
            let Some(target) = other.ok().and_then(|target| target.clone()) else {
                return pending().await;
            };
            let servers = self.servers(shard, &target);
            match self.connect(shard, &servers).await {
                Ok(made) => {
                    tracing::info!(redis = shard.place(), "linked to redis by other credentials");
                    return RenewedLink { target, servers, made };
                }
                Err(error) if shard.troubles.not_authenticated(&error) => {
                    let (redis, error) = (shard.place(), describe_error(&error));
                    tracing::warn!(redis, error, "redis can't be reached with the new credentials; retrying");
                }
                Err(_) => {}
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }
}
