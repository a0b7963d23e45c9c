//! Bumps: raise a version in the store, whatever its present value.

use super::RedisStore;
use crate::{
    cache::coherence::version::{ReadTicket, Version, VersionSlot},
    clock::now_ms,
    telemetry::labels::{StoreCall, StoreError},
};

use redis::{cmd, Cmd, Script, Value};
use std::{sync::LazyLock, time::Duration};

/// `max(current + 1, at)`, atomically; the key no longer expires. If Redis can't count the present value, or
/// that is no longer the value that was read (`ARGV[2]`), nothing is written, and the value is returned in an
/// array: its successor is decided here. A key of another type counts as empty.
const BUMP: &str = r"
local at, judged = ARGV[1], ARGV[2]
local value = redis.pcall('GET', KEYS[1])
if type(value) ~= 'string' then value = '' end
if not judged then
  if type(redis.pcall('INCR', KEYS[1])) == 'table' then return {value} end
  local raised = redis.call('GET', KEYS[1])
  local is_longer = #raised > #at or (#raised == #at and raised >= at)
  if is_longer and string.sub(raised, 1, 1) ~= '-' then
    redis.call('PERSIST', KEYS[1])
    return raised
  end
elseif value ~= judged then
  return {value}
end
redis.call('SET', KEYS[1], at)
return at
";

/// The number of attempts to bump a value that others change at the same time.
const ATTEMPTS: u32 = 4;

/// The outcome of an attempt to bump a version.
pub(super) enum BumpOutcome {
    To(Version),
    /// The present value: it is not the one that was read, or Redis can't count it.
    Not(Vec<u8>),
}

impl BumpOutcome {
    /// Parses the result of [`BUMP`].
    pub(super) fn of(value: Value) -> Option<Self> {
        match value {
            Value::BulkString(value) => Some(Self::To(Version::new(&value))),
            Value::Array(values) => match values.into_iter().next() {
                Some(Value::BulkString(value)) => Some(Self::Not(value)),
                _ => None,
            },
            _ => None,
        }
    }
}

static DIGEST: LazyLock<String> = LazyLock::new(|| Script::new(BUMP).get_hash().to_owned());

/// The call of [`BUMP`] for the key of this name.
pub(super) fn bump_command(name: &str, at: u64, judged: Option<&[u8]>) -> Cmd {
    call("EVAL", BUMP, name, at, judged)
}

/// The same, for a server that has got the script by [`bump_command`] on this connection.
pub(super) fn bump_by_digest(name: &str, at: u64, judged: Option<&[u8]>) -> Cmd {
    call("EVALSHA", &DIGEST, name, at, judged)
}

fn call(by: &str, script: &str, name: &str, at: u64, judged: Option<&[u8]>) -> Cmd {
    let mut bump = cmd(by);
    bump.arg(script).arg(1).arg(name).arg(at);
    if let Some(judged) = judged {
        bump.arg(judged);
    }
    bump
}

impl RedisStore {
    /// Bumps a version for all nodes.
    ///
    /// # Errors
    /// If the store did not take it.
    pub async fn bump(&self, slot: &VersionSlot, at_ms: u64) -> Result<Version, StoreError> {
        self.bump_within(self.deadline, slot, at_ms).await
    }

    /// The same, with calls that may take this long.
    pub(super) async fn bump_within(
        &self,
        at_most: Duration,
        slot: &VersionSlot,
        at_ms: u64,
    ) -> Result<Version, StoreError> {
        let at_ms = at_ms.max(slot.last_known().successor());
        let (mut at, mut judged) = (at_ms, None);
        for _ in 0..ATTEMPTS {
            match self.move_on(at_most, slot, at, judged.as_deref()).await? {
                BumpOutcome::To(version) => return Ok(version),
                BumpOutcome::Not(value) => {
                    at = at_ms.max(Version::new(&value).successor());
                    judged = Some(value);
                }
            }
        }
        Err(StoreError::Protocol)
    }

    /// Checks the value that a read with `ticket` gave, `None` for an absent key, against the known version
    /// when the read began. A wrong version is bumped, once for all nodes that find it. A call may take
    /// `at_most`.
    ///
    /// # Errors
    /// If it has to be bumped, and the store did not take that.
    pub(super) async fn believe_or_move(
        &self,
        at_most: Duration,
        slot: &VersionSlot,
        ticket: ReadTicket,
        known: &Version,
        mut value: Option<Vec<u8>>,
    ) -> Result<Version, StoreError> {
        for _ in 0..ATTEMPTS {
            let read = value.as_deref().map_or_else(Version::absent, Version::new);
            if !slot.is_lost(ticket, known, &read) {
                slot.learn_version(ticket, &read);
                self.read.notify_one();
                return Ok(read);
            }
            let at = now_ms().max(known.successor()).max(read.successor());
            match self.move_on(at_most, slot, at, Some(&value.unwrap_or_default())).await? {
                BumpOutcome::To(version) => return Ok(version),
                BumpOutcome::Not(other) => value = Some(other).filter(|value| !value.is_empty()),
            }
        }
        Err(StoreError::Protocol)
    }

    async fn move_on(
        &self,
        at_most: Duration,
        slot: &VersionSlot,
        at: u64,
        judged: Option<&[u8]>,
    ) -> Result<BumpOutcome, StoreError> {
        let name = self.names.version(slot.namespace(), slot.tenant());
        let bump = bump_command(&name, at, judged);
        let debt = slot.debt();
        let value =
            self.call_within(at_most, StoreCall::Bump, &name, |mut c| async move {
                bump.query_async(&mut c).await
            })
            .await?;
        let moved = BumpOutcome::of(value).ok_or(StoreError::Protocol)?;
        if let BumpOutcome::To(version) = &moved {
            slot.paid(version, debt);
            self.tell_moved(&[slot]).await;
        }
        Ok(moved)
    }
}
