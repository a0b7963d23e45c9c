//! Faults of Redis, in its own words and with its address: logged when they begin, and shown on `/readyz` for
//! as long as they last.

use super::link::MasterConfirmation;
use crate::{cache::coherence::doubt::TRUST_MS, telemetry::labels::StoreCall};

use parking_lot::Mutex;
use redis::RedisError;
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// The present faults.
#[derive(Debug)]
pub(super) struct StoreTroubles {
    /// Host and port.
    place: String,
    /// A bit for each kind of call that was refused: the usual case needs no lock.
    any: AtomicU32,
    state: Mutex<TroubleState>,
}

#[derive(Debug, Default)]
struct TroubleState {
    away: Option<String>,
    not_authenticated: Option<String>,
    unreported: Option<String>,
    /// The number of sentinels that answer, and of all.
    unconfirmed: Option<(usize, usize)>,
    refused: Vec<(StoreCall, String)>,
    /// For each kind of call: the time of the last warning in the log, and a flag that its end is to be
    /// logged.
    told: Vec<(StoreCall, Instant, bool)>,
}

impl TroubleState {
    /// Returns true if the refusal of such a call should be logged: calls of one kind may be refused and
    /// accepted in turn.
    fn begin_warning(&mut self, call: StoreCall) -> bool {
        const BETWEEN: Duration = Duration::from_secs(10);
        let before = self.told.iter().find(|(of, ..)| *of == call);
        if before.is_some_and(|(_, when, _)| when.elapsed() < BETWEEN) {
            return false;
        }
        self.told.retain(|(of, ..)| *of != call);
        self.told.push((call, Instant::now(), true));
        true
    }

    /// Returns true if it should be logged that such a call is accepted again.
    fn end_warning(&mut self, call: StoreCall) -> bool {
        let told = self.told.iter_mut().find(|(of, ..)| *of == call);
        told.is_some_and(|(.., is_open)| std::mem::take(is_open))
    }
}

impl StoreTroubles {
    pub(super) fn new(place: String) -> Self {
        Self { place, any: AtomicU32::new(0), state: Mutex::default() }
    }

    /// Host and port, for log lines.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Records that there is no link. Returns true if the error is a new one.
    pub(super) fn away(&self, error: &RedisError) -> bool {
        is_news(&mut self.state.lock().away, error)
    }

    /// Records that there is a link, but none with the newest credentials. Returns true if the error is a new
    /// one.
    pub(super) fn not_authenticated(&self, error: &RedisError) -> bool {
        is_news(&mut self.state.lock().not_authenticated, error)
    }

    /// Records that the link uses the newest credentials.
    pub(super) fn authenticated(&self) {
        self.state.lock().not_authenticated = None;
    }

    /// Records a new link; it has refused nothing yet.
    pub(super) fn linked(&self) {
        *self.state.lock() = TroubleState::default();
        self.any.store(0, Ordering::Relaxed);
    }

    /// Records that the link reports no changes, with the consequence.
    pub(super) fn unreported(&self, told: String) {
        self.state.lock().unreported = Some(told);
    }

    /// Records the last confirmation of the server by the sentinels, if there are any.
    pub(super) fn confirmed(&self, confirmation: Option<MasterConfirmation>, now_ms: u64) {
        let Some(MasterConfirmation { at_ms, answering, known }) = confirmation else { return };
        let is_confirmed = now_ms < at_ms.saturating_add(TRUST_MS);
        let unconfirmed = (!is_confirmed).then_some((answering, known));
        let before = std::mem::replace(&mut self.state.lock().unconfirmed, unconfirmed);
        let redis = &self.place;
        match (before, unconfirmed) {
            (None, Some(_)) => tracing::warn!(
                redis,
                answering,
                sentinels = known,
                "most of the sentinels don't answer: the others may have made another server the master"
            ),
            (Some(_), None) => tracing::info!(redis, "most of the sentinels answer again"),
            _ => {}
        }
    }

    /// Records a refused call.
    pub(super) fn refused(&self, call: StoreCall, error: &RedisError) {
        let said = describe_error(error);
        let mut state = self.state.lock();
        if state.refused.iter().any(|(of, before)| *of == call && *before == said) {
            return;
        }
        if state.begin_warning(call) {
            tracing::warn!(redis = self.place, call = call.as_str(), error = said, "redis refuses a call");
        }
        state.refused.retain(|(of, _)| *of != call);
        state.refused.push((call, said));
        self.any.fetch_or(bit(call), Ordering::Relaxed);
    }

    /// Records an answered call.
    pub(super) fn record_success(&self, call: StoreCall) {
        if self.any.load(Ordering::Relaxed) & bit(call) == 0 {
            return;
        }
        let mut state = self.state.lock();
        state.refused.retain(|(of, _)| *of != call);
        self.any.fetch_and(!bit(call), Ordering::Relaxed);
        if state.end_warning(call) {
            tracing::info!(redis = self.place, call = call.as_str(), "redis accepts such calls again");
        }
    }

    /// The present faults, a sentence each.
    pub(super) fn list(&self) -> Vec<String> {
        let (state, place) = (self.state.lock(), &self.place);
        let away = state.away.iter().map(|said| format!("the store is away: redis at {place}: {said}"));
        let refused = state.refused.iter().map(|(call, said)| {
            let what = if writes(*call) { "writes" } else { "reads" };
            format!("the store refuses {what}: redis at {place}: {said}")
        });
        let not_authenticated = state.not_authenticated.iter();
        let not_authenticated = not_authenticated
            .map(|said| format!("the store refuses the new credentials: redis at {place}: {said}"));
        let unreported = state.unreported.iter();
        let unreported =
            unreported.map(|told| format!("the store reports no changes: redis at {place}: {told}"));
        let unconfirmed = state.unconfirmed.iter().map(|(answering, known)| {
            format!("the store may have another master: redis at {place}: {answering} of {known} sentinels answer")
        });
        let mut list: Vec<String> =
            away.chain(not_authenticated).chain(unreported).chain(unconfirmed).chain(refused).collect();
        list.sort();
        list.dedup();
        list
    }
}

/// Records a fault. Returns true if it is a new one.
fn is_news(known: &mut Option<String>, error: &RedisError) -> bool {
    let said = Some(describe_error(error));
    std::mem::replace(known, said.clone()) != said
}

fn bit(call: StoreCall) -> u32 {
    1 << call as u32
}

fn writes(call: StoreCall) -> bool {
    !matches!(call, StoreCall::ReadVersion | StoreCall::Get | StoreCall::ReadPurges)
}

/// The error message of Redis, or that of the connection.
pub(super) fn describe_error(error: &RedisError) -> String {
    // Of several commands sent together, the first that was refused.
    let said = error.clone().into_server_errors();
    match said.as_deref().and_then(<[_]>::first) {
        Some((_, error)) => format!("{} {}", error.code(), error.details().unwrap_or_default()),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::ErrorKind;

    #[test]
    fn what_is_wrong_is_told_until_it_is_right_again() {
        let troubles = StoreTroubles::new("127.0.0.1:6379".to_owned());
        let error = |text: &'static str| RedisError::from((ErrorKind::Io, text));
        assert!(troubles.list().is_empty());
        assert!(troubles.away(&error("refused")));
        assert!(!troubles.away(&error("refused")));
        assert!(troubles.away(&error("reset")));
        assert_eq!(troubles.list().len(), 1);
        assert!(troubles.list()[0].starts_with("the store is away: redis at 127.0.0.1:6379: reset"));
        troubles.linked();
        for call in [StoreCall::Put, StoreCall::Lease, StoreCall::Get] {
            troubles.refused(call, &error("no"));
        }
        let told = troubles.list();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].starts_with("the store refuses reads") && told[1].starts_with("the store refuses writes")
        );
        troubles.record_success(StoreCall::Put);
        assert_eq!(troubles.list().len(), 2);
        troubles.record_success(StoreCall::Lease);
        troubles.record_success(StoreCall::Get);
        assert!(troubles.list().is_empty());
        let answering = |at_ms| Some(MasterConfirmation { at_ms, answering: 1, known: 3 });
        troubles.confirmed(None, 10_000);
        troubles.confirmed(answering(10_000 - TRUST_MS + 1), 10_000);
        assert!(troubles.list().is_empty(), "no longer than a heartbeat");
        troubles.confirmed(answering(10_000 - TRUST_MS), 10_000);
        assert!(troubles.list()[0].ends_with("1 of 3 sentinels answer"));
        troubles.confirmed(answering(10_000), 10_000);
        assert!(troubles.list().is_empty());
    }
}
