//! Makes up for missed writes and reads as soon as there is a link: bumps and purges that this node owes, and
//! concurrently the versions that it knew, read again. In batches, so that other commands are not delayed,
//! and independently, so that a large number of one kind does not delay the other.

use super::{
    bump::{self, BumpOutcome},
    shard::StoreShard,
    RedisStore, PAY_AGAIN,
};
use crate::{
    cache::coherence::{
        doubt::CoherenceDoubt,
        version::{ReadTicket, UnreadSlots, Version, VersionSlot},
    },
    clock::now_ms,
    telemetry::labels::{StoreCall, StoreError},
};

use futures_util::future::try_join_all;
use parking_lot::Mutex;
use redis::{cmd, Cmd, FromRedisValue, Value};
use std::{convert::Infallible, sync::Arc, time::Duration};

/// The number of versions that one message reads or bumps.
const BATCH: usize = 256;
/// The pause after versions could not be read again.
const READ_AGAIN: Duration = Duration::from_millis(500);

/// A version that is to be bumped.
struct DueBump<'a> {
    slot: &'a VersionSlot,
    at: u64,
    /// The debt that this pays.
    debt: u64,
    lost: Option<DoubtfulRead>,
}

/// The result of a read that must not be trusted.
struct DoubtfulRead {
    ticket: ReadTicket,
    known: Version,
    value: Vec<u8>,
}

impl RedisStore {
    /// Makes up for bumps and purges that a server has missed, even if no request needs them on this node:
    /// the other nodes wait for them.
    pub(super) async fn keep_paying(&self, shard: &Arc<StoreShard>) -> Infallible {
        loop {
            let doubts = self.shards.doubts(shard);
            let mut owing = self.versions.owing();
            owing.retain(|slot| slot.is_in(&doubts));
            for owing in owing.chunks(BATCH) {
                // Those that fail stay on the list.
                if self.pay_bumps(owing).await.is_err() {
                    break;
                }
            }
            self.versions.settle();
            if self.has_log(shard) {
                self.pay_purges().await;
            }
            tokio::time::sleep(PAY_AGAIN).await;
        }
    }

    async fn pay_bumps(&self, owing: &[Arc<VersionSlot>]) -> Result<(), StoreError> {
        let due = owing.iter().filter(|slot| slot.owes_bump()).map(|slot| {
            let at = now_ms().max(slot.last_known().successor());
            DueBump { slot, at, debt: slot.debt(), lost: None }
        });
        self.move_all(due.collect()).await
    }

    /// Reads known versions again, whenever this node is in doubt, so that the doubt ends.
    pub(super) async fn keep_rereading(&self, shard: &Arc<StoreShard>) -> Infallible {
        // Debts go first.
        tokio::task::yield_now().await;
        let mut unread = UnreadSlots::default();
        loop {
            let pause = match self.read_again(&self.shards.doubts(shard), &mut unread).await {
                Ok(()) => PAY_AGAIN,
                Err(_) => READ_AGAIN,
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Reads the versions known from before, in a new epoch or while requests don't wait for the store.
    async fn read_again(
        &self,
        all: &[Arc<CoherenceDoubt>],
        unread: &mut UnreadSlots,
    ) -> Result<(), StoreError> {
        let now_ms = now_ms();
        let doubts: Vec<_> = all.iter().filter(|doubt| doubt.since_ms(now_ms).is_some()).cloned().collect();
        let epochs: Vec<_> = doubts.iter().map(|doubt| doubt.epoch()).collect();
        let slots = unread.take(&self.versions, all, &doubts);
        if let Err(error) = self.read_slots(&slots).await {
            unread.leave(slots);
            return Err(error);
        }
        for (doubt, epoch) in doubts.iter().zip(epochs) {
            doubt.settle(epoch);
        }
        Ok(())
    }

    async fn read_slots(&self, slots: &[Arc<VersionSlot>]) -> Result<(), StoreError> {
        let batches = Mutex::new(slots.chunks(BATCH));
        // Bumps take the server longer than reads: one message at a time leaves room for others.
        let moving = tokio::sync::Mutex::new(());
        let reader = || async {
            loop {
                let next = batches.lock().next();
                match next {
                    Some(slots) => self.read_versions(slots, &moving).await?,
                    None => return Ok(()),
                }
            }
        };
        // While one waits for its answer, another one processes its own.
        tokio::try_join!(reader(), reader(), reader(), reader()).map(drop)
    }

    /// Reads the versions of these slots, and bumps those that the store has lost.
    async fn read_versions(
        &self,
        slots: &[Arc<VersionSlot>],
        moving: &tokio::sync::Mutex<()>,
    ) -> Result<(), StoreError> {
        let before: Vec<_> =
            slots.iter().map(|slot| (slot.ticket(now_ms()), slot.last_known(), slot.debt())).collect();
        let names = slots.iter().map(|slot| self.names.version(slot.namespace(), slot.tenant())).collect();
        let values = self.read_all(names).await?;
        let mut due = Vec::new();
        for ((slot, (ticket, known, debt)), value) in slots.iter().zip(before).zip(values) {
            let read = value.as_deref().map_or_else(Version::absent, Version::new);
            if slot.owes_bump() {
                // Another task pays it.
            } else if !slot.is_lost(ticket, &known, &read) {
                slot.learn_version(ticket, &read);
            } else {
                let at = now_ms().max(known.successor()).max(read.successor());
                let value = value.unwrap_or_default();
                due.push(DueBump { slot, at, debt, lost: Some(DoubtfulRead { ticket, known, value }) });
            }
        }
        self.read.notify_one();
        let _alone = moving.lock().await;
        match self.move_all(due).await {
            // Refused, by a store that takes no writes: lost versions are not trusted, and the others are
            // read all the same.
            Err(StoreError::Protocol) => {
                slots.iter().filter(|slot| slot.is_unread()).for_each(|slot| slot.touch());
                Ok(())
            }
            moved => moved,
        }
    }

    /// Bumps versions; one whose value has changed since it was read is checked again, by itself.
    async fn move_all(&self, due: Vec<DueBump<'_>>) -> Result<(), StoreError> {
        if due.is_empty() {
            return Ok(());
        }
        let is_one = self.shards.is_one();
        let command = |(number, due): (usize, &DueBump<'_>)| {
            let name = self.names.version(due.slot.namespace(), due.slot.tenant());
            // A single server gets the script with the first.
            let form = if is_one && number > 0 { bump::bump_by_digest } else { bump::bump_command };
            let bump = form(&name, due.at, due.lost.as_ref().map(|lost| &lost.value[..]));
            (name, bump)
        };
        let values = self.send_all(StoreCall::Bump, due.iter().enumerate().map(command).collect()).await?;
        let (mut moved, mut others) = (Vec::with_capacity(due.len()), Vec::new());
        for (due, value) in due.into_iter().zip(values) {
            match BumpOutcome::of(value) {
                Some(BumpOutcome::To(version)) => {
                    due.slot.paid(&version, due.debt);
                    moved.push(due.slot);
                }
                other => others.push((due, other)),
            }
        }
        self.tell_moved(&moved).await;
        for (due, value) in others {
            match (value, due.lost) {
                (Some(BumpOutcome::Not(value)), Some(lost)) => {
                    let value = Some(value).filter(|value| !value.is_empty());
                    let DoubtfulRead { ticket, known, .. } = &lost;
                    self.believe_or_move(self.relaxed_timeout(), due.slot, *ticket, known, value).await?;
                }
                // A value that Redis can't count.
                (_, None) => self.bump_within(self.relaxed_timeout(), due.slot, due.at).await.map(|_| ())?,
                (_, Some(_)) => return Err(StoreError::Protocol),
            }
        }
        Ok(())
    }

    /// Reads keys: from one server by one command, in a cluster concurrently.
    async fn read_all(&self, names: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let what = StoreCall::ReadVersion;
        match (self.shards.is_one(), names.first().cloned()) {
            (_, None) => Ok(Vec::new()),
            (true, Some(first)) => {
                let mut all = cmd("MGET");
                all.arg(names);
                self.ask_behind(what, first, all).await
            }
            (false, Some(_)) => {
                try_join_all(
                    names
                        .into_iter()
                        .map(|name| self.ask_behind(what, name.clone(), super::get_command(&name))),
                )
                .await
            }
        }
    }

    /// Sends commands about one key each at once: to one server in one pipeline, in a cluster concurrently.
    pub(super) async fn send_all(
        &self,
        what: StoreCall,
        each: Vec<(String, Cmd)>,
    ) -> Result<Vec<Value>, StoreError> {
        match (self.shards.is_one(), each.first().map(|(name, _)| name.clone())) {
            (_, None) => Ok(Vec::new()),
            (true, Some(first)) => {
                let mut all = redis::pipe();
                for (_, command) in each {
                    all.add_command(command);
                }
                let run = |mut c| async move { all.query_async(&mut c).await };
                self.call_within(self.relaxed_timeout(), what, &first, run).await
            }
            (false, Some(_)) => {
                try_join_all(each.into_iter().map(|(name, command)| self.ask_behind(what, name, command)))
                    .await
            }
        }
    }

    pub(super) async fn ask_behind<T: FromRedisValue>(
        &self,
        what: StoreCall,
        key: String,
        command: Cmd,
    ) -> Result<T, StoreError> {
        let run = |mut c| async move { command.query_async(&mut c).await };
        self.call_within(self.relaxed_timeout(), what, &key, run).await
    }
}
