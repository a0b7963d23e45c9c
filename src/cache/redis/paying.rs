//! Making up for what was missed, as soon as there is a link: bumps and purges that this node owes, and beside them the
//! versions that it knew, read again. In batches, so that other commands are not held up, and whatever the number of the
//! ones, the others don't wait for it.

use super::{
    bump::{self, Moved},
    Commands, Redis, PAY_AGAIN,
};
use crate::{
    cache::version::{Slot, Ticket, Version},
    clock::now_ms,
    telemetry::labels::{StoreCall, StoreError},
};
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use redis::{cmd, Cmd, RedisResult, Value};
use std::{convert::Infallible, sync::Arc, time::Duration};

/// Versions that are read or moved by one message.
const BATCH: usize = 256;
/// Pause after versions could not be read again.
const READ_AGAIN: Duration = Duration::from_millis(500);

/// A version that is to be moved.
struct Due<'a> {
    slot: &'a Slot,
    at: u64,
    /// The debt that this pays.
    debt: u64,
    lost: Option<Lost>,
}

/// What a read found, and is not to be believed.
struct Lost {
    ticket: Ticket,
    known: Version,
    value: Vec<u8>,
}

impl Redis {
    /// Makes up for bumps and purges that the store has missed, whether or not anyone asks for them on this node: the other
    /// nodes wait for them.
    pub(super) async fn keep_paying(&self) -> Infallible {
        loop {
            for owing in self.versions.owing().chunks(BATCH) {
                // Those that fail stay on the list.
                if self.pay_bumps(owing).await.is_err() {
                    break;
                }
            }
            self.versions.settle();
            self.pay_purges().await;
            tokio::time::sleep(PAY_AGAIN).await;
        }
    }

    async fn pay_bumps(&self, owing: &[Arc<Slot>]) -> Result<(), StoreError> {
        let due = owing.iter().filter(|slot| slot.owes_bump()).map(|slot| {
            let at = now_ms().max(slot.last_known().successor());
            Due { slot, at, debt: slot.debt(), lost: None }
        });
        self.move_all(due.collect()).await
    }

    /// Reads again what was known, whenever this node is in doubt, so that the doubt ends.
    pub(super) async fn keep_rereading(&self) -> Infallible {
        // What is owed goes first.
        tokio::task::yield_now().await;
        loop {
            let pause = match self.read_again().await {
                Ok(()) => PAY_AGAIN,
                Err(_) => READ_AGAIN,
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Reads the versions that are known from before, in an epoch that has just begun or while requests don't wait for it.
    async fn read_again(&self) -> Result<(), StoreError> {
        let epoch = self.doubt.epoch();
        if self.doubt.since_ms(now_ms()).is_none() {
            return Ok(());
        }
        let unread = self.versions.unread();
        let batches = Mutex::new(unread.chunks(BATCH));
        // Moves take the server longer than reads: one message at a time leaves room for others.
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
        // While one waits for its answer, another one works on what has come.
        tokio::try_join!(reader(), reader(), reader(), reader())?;
        self.doubt.settle(epoch);
        Ok(())
    }

    /// Reads the versions of these slots, and moves on those that the store has lost.
    async fn read_versions(
        &self,
        slots: &[Arc<Slot>],
        moving: &tokio::sync::Mutex<()>,
    ) -> Result<(), StoreError> {
        let before: Vec<_> =
            slots.iter().map(|slot| (slot.ticket(now_ms()), slot.last_known(), slot.debt())).collect();
        let names = slots.iter().map(|slot| self.names.version(slot.namespace(), slot.tenant())).collect();
        let values = self.call_behind(StoreCall::ReadVersion, |commands| read_all(commands, names)).await?;
        let mut due = Vec::new();
        for ((slot, (ticket, known, debt)), value) in slots.iter().zip(before).zip(values) {
            let read = value.as_deref().map_or_else(Version::absent, Version::new);
            if slot.owes_bump() {
                // It is paid by another.
            } else if !slot.is_lost(ticket, &known, &read) {
                slot.learned(ticket, &read);
            } else {
                let at = now_ms().max(known.successor()).max(read.successor());
                let value = value.unwrap_or_default();
                due.push(Due { slot, at, debt, lost: Some(Lost { ticket, known, value }) });
            }
        }
        self.read.notify_one();
        let _alone = moving.lock().await;
        self.move_all(due).await
    }

    /// Moves versions; one of which something else is found than was judged is judged anew, by itself.
    async fn move_all(&self, due: Vec<Due<'_>>) -> Result<(), StoreError> {
        if due.is_empty() {
            return Ok(());
        }
        let is_one = self.link.load().as_ref().is_some_and(|link| link.commands.can_pipeline());
        let command = |(number, due): (usize, &Due<'_>)| {
            let name = self.names.version(due.slot.namespace(), due.slot.tenant());
            // One server gets the script with the first.
            let form = if is_one && number > 0 { bump::by_digest } else { bump::command };
            form(&name, due.at, due.lost.as_ref().map(|lost| &lost.value[..]))
        };
        let each: Vec<Cmd> = due.iter().enumerate().map(command).collect();
        let values = self.call_behind(StoreCall::Bump, |commands| at_once(commands, each)).await?;
        for (due, value) in due.into_iter().zip(values) {
            match (Moved::of(value), due.lost) {
                (Some(Moved::To(version)), _) => {
                    due.slot.paid(&version, due.debt);
                    self.tell([self.names.version(due.slot.namespace(), due.slot.tenant())]).await;
                }
                (Some(Moved::Not(value)), Some(lost)) => {
                    let value = Some(value).filter(|value| !value.is_empty());
                    let Lost { ticket, known, .. } = &lost;
                    self.believe_or_move(self.unhurried(), due.slot, *ticket, known, value).await?;
                }
                // A value that Redis can't count.
                (_, None) => self.bump_within(self.unhurried(), due.slot, due.at).await.map(|_| ())?,
                (None, Some(_)) => return Err(StoreError::Protocol),
            }
        }
        Ok(())
    }
}

/// Reads keys: of one server by one command.
async fn read_all(mut commands: Commands, names: Vec<String>) -> RedisResult<Vec<Option<Vec<u8>>>> {
    if commands.can_pipeline() {
        return cmd("MGET").arg(names).query_async(&mut commands).await;
    }
    let reads = names.into_iter().map(|name| {
        let mut commands = commands.clone();
        async move { cmd("GET").arg(name).query_async(&mut commands).await }
    });
    try_join_all(reads).await
}

/// Sends commands at once: in one pipeline, or where they are for several servers beside one another.
async fn at_once(mut all: Commands, each: Vec<Cmd>) -> RedisResult<Vec<Value>> {
    if all.can_pipeline() {
        let mut pipeline = redis::pipe();
        for command in each {
            pipeline.add_command(command);
        }
        return pipeline.query_async(&mut all).await;
    }
    let each = each.into_iter().map(|command| {
        let mut all = all.clone();
        async move { command.query_async(&mut all).await }
    });
    try_join_all(each).await
}
