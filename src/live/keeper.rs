//! The keeper of a watched entry: one task for each, which reads the entry again when it may have changed.
//!
//! It acts on levels, not on edges: a bump wakes it, but whatever woke it, it asks for the current answer, and
//! it asks once a second in any case. A change that nobody reported (a poll, the end of an outage) is found
//! then. While an entry can't be read, its watchers keep the last state and are told so.

use super::{
    cursor::StateTag,
    entry::WatchedEntry,
    event::LiveEvent,
    source::{DeflateRules, EntrySnapshot, EntrySource, ReadFault},
};
use crate::{clock, telemetry::labels::RefillCause};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::sleep_until;

/// The time after which an entry is looked at without a cause.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The time for which an entry without watchers is kept: a page that is loaded anew finds it.
const LINGER: Duration = Duration::from_secs(5);
/// The pauses between reads that fail: the first, and the longest.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// The longest event that is compressed by the keeper itself, in bytes: well below a millisecond.
const MAX_DEFLATED_HERE: usize = 32 * 1024;

/// The list that an entry stands in while it is kept.
pub(super) trait EntryRegister {
    /// Removes an entry if nobody watches it; returns true if it is removed.
    fn retire(&self, entry: &WatchedEntry) -> bool;

    /// Removes an entry that is over: whoever comes next begins a new one.
    fn forget(&self, entry: &Arc<WatchedEntry>);

    /// Counts the time from a change to the last write of the new state.
    fn count_fan_out(&self, duration: Duration);
}

/// Keeps an entry until it has had no watchers for a while.
pub(super) async fn keep<S: EntrySource>(
    hub: Arc<impl EntryRegister>,
    entry: Arc<WatchedEntry>,
    source: Arc<S>,
) {
    let mut state = KeeperState::new(Instant::now());
    let (mut cause, mut due_ms) = (RefillCause::Watch, clock::now_ms());
    loop {
        let wishes = entry.wishes();
        // Those whose wish this read answers are in the list already.
        let is_watched = entry.watchers() > 0;
        // Before the read: a change during it is one more read.
        let changed = source.changed();
        let read = source.read(cause, is_watched).await;
        let read = read.and_then(|snapshot| match is_watched {
            true => encode(&*source, &entry, snapshot),
            // Its event would be made for nobody.
            false => Ok(snapshot.as_ref().map(ReadState::without_event)),
        });
        let (event, fresh_for, was_fetched) = match read {
            Ok(Some(state)) => (Ok(state.event), Some(state.fresh_for), state.was_fetched),
            Ok(None) => (Ok(None), None, false),
            Err(fault) => (Err(fault), None, false),
        };
        let is_over = event.as_ref().is_err_and(|fault| *fault == ReadFault::Over);
        let (has_failed, is_paced) = (event.is_err(), was_fetched || matches!(event, Ok(Some(_))));
        if is_over {
            hub.forget(&entry);
        }
        let newest = event.as_ref().ok().cloned().flatten().or_else(|| entry.event());
        if let Some(newest) = newest.filter(|event| entry.has_gzip() && event.is_plain()) {
            deflate(newest, source.deflate_rules()).await;
        }
        if fresh_for.is_some() {
            entry.has_read(wishes);
        }
        if entry.learn(event, (wishes, due_ms)) {
            entry.fan_out().await;
        }
        if is_over {
            return;
        }
        let pace = source.pace();
        state.has_read(
            Instant::now(),
            (has_failed, is_paced),
            fresh_for.filter(|_| pace.on_ttl),
            pace.window,
        );
        let look = state.next_look(Instant::now());
        cause = tokio::select! {
            () = changed => RefillCause::Bump,
            () = entry.wished.notified() => RefillCause::Watch,
            () = sleep_until(look.into()) => RefillCause::Ttl,
        };
        due_ms = clock::now_ms();
        // A second after the change, as a rule: by then all have it who read at all.
        let written = if cause == RefillCause::Ttl { entry.take_fan_out_ms() } else { None };
        if let Some(ms) = written {
            hub.count_fan_out(Duration::from_millis(ms));
        }
        let is_idle = entry.watchers() == 0 && !source.is_kept_unwatched();
        if state.is_abandoned(is_idle, Instant::now()) && hub.retire(&entry) {
            return;
        }
        sleep_until(state.earliest().into()).await;
    }
}

/// A state that was read.
struct ReadState {
    /// Its event, if its content is another one than before.
    event: Option<Arc<LiveEvent>>,
    fresh_for: Duration,
    was_fetched: bool,
}

impl ReadState {
    fn without_event(snapshot: &EntrySnapshot) -> Self {
        Self { event: None, fresh_for: snapshot.fresh_for, was_fetched: snapshot.was_fetched }
    }
}

fn encode<S: EntrySource>(
    source: &S,
    entry: &WatchedEntry,
    snapshot: Option<EntrySnapshot>,
) -> Result<Option<ReadState>, ReadFault> {
    let Some(snapshot) = snapshot else { return Ok(None) };
    let EntrySnapshot { body, version, .. } = &snapshot;
    let event = match entry.tag() == Some(StateTag::of(body)) {
        true => None,
        false => {
            let event = LiveEvent::encode(&source.event(), body, version.as_deref());
            Some(Arc::new(event.map_err(|_| ReadFault::Failed("not-text"))?))
        }
    };
    Ok(Some(ReadState { event, ..ReadState::without_event(&snapshot) }))
}

/// Compresses an event that is large enough; a long one beside the workers.
async fn deflate(event: Arc<LiveEvent>, rules: DeflateRules) {
    match event.whole().length() {
        length if (length as u64) < rules.min_size => {}
        0..=MAX_DEFLATED_HERE => event.deflate(rules.level),
        // It fails only if the runtime ends: the event stays as it is then.
        _ => tokio::task::spawn_blocking(move || event.deflate(rules.level)).await.unwrap_or_default(),
    }
}

/// When the keeper reads next. Pure: times are arguments.
#[derive(Debug)]
struct KeeperState {
    /// No read begins before this time.
    earliest: Instant,
    /// The time at which the entry's lifetime ends, if it is read again then.
    ends: Option<Instant>,
    failures: u32,
    /// The time since which nobody watches.
    idle: Option<Instant>,
}

impl KeeperState {
    fn new(now: Instant) -> Self {
        Self { earliest: now, ends: None, failures: 0, idle: None }
    }

    /// Notes a read that ended now. The next one keeps the pace if this one found a new state, or was a request
    /// to others.
    fn has_read(
        &mut self,
        now: Instant,
        (has_failed, is_paced): (bool, bool),
        fresh_for: Option<Duration>,
        window: Duration,
    ) {
        self.failures = if has_failed { self.failures.saturating_add(1) } else { 0 };
        self.ends = fresh_for.map(|fresh_for| now + fresh_for);
        self.earliest = match (has_failed, is_paced) {
            (true, _) => {
                now + FIRST_BACKOFF.saturating_mul(1 << self.failures.min(8)).min(LONGEST_BACKOFF) / 2
            }
            (false, true) => now + window,
            (false, false) => now,
        };
    }

    fn earliest(&self) -> Instant {
        self.earliest
    }

    /// The time of the next look without a cause.
    fn next_look(&self, now: Instant) -> Instant {
        let look = now + LOOK_INTERVAL;
        self.ends.map_or(look, |ends| ends.min(look)).max(self.earliest)
    }

    /// Returns true if nobody has watched for a while.
    fn is_abandoned(&mut self, is_idle: bool, now: Instant) -> bool {
        match (is_idle, self.idle) {
            (false, _) => self.idle = None,
            (true, None) => self.idle = Some(now),
            (true, Some(since)) => return now.duration_since(since) >= LINGER,
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_millis(50);

    #[test]
    fn the_first_change_is_told_at_once_and_those_that_follow_together() {
        let begin = Instant::now();
        let mut state = KeeperState::new(begin);
        assert_eq!(state.earliest(), begin);
        state.has_read(begin, (false, true), None, WINDOW);
        assert_eq!(state.earliest(), begin + WINDOW);
        state.has_read(begin + WINDOW, (false, false), None, WINDOW);
        assert_eq!(state.earliest(), begin + WINDOW, "it was in memory, and is what it was");
    }

    #[test]
    fn reads_that_fail_become_rarer_and_the_first_that_works_ends_that() {
        let now = Instant::now();
        let mut state = KeeperState::new(now);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            state.has_read(now, (true, false), None, WINDOW);
            pauses.push((state.earliest() - now).as_millis());
        }
        assert_eq!(pauses, [500, 1_000, 2_000, 2_500, 2_500, 2_500]);
        state.has_read(now, (false, true), None, WINDOW);
        assert_eq!(state.earliest(), now + WINDOW);
    }

    #[test]
    fn the_end_of_a_lifetime_is_a_look_of_its_own() {
        let now = Instant::now();
        let mut state = KeeperState::new(now);
        assert_eq!(state.next_look(now), now + LOOK_INTERVAL);
        state.has_read(now, (false, false), Some(Duration::from_millis(300)), WINDOW);
        assert_eq!(state.next_look(now), now + Duration::from_millis(300));
        state.has_read(now, (false, false), Some(Duration::from_secs(30)), WINDOW);
        assert_eq!(state.next_look(now), now + LOOK_INTERVAL);
    }

    #[test]
    fn an_entry_is_kept_for_a_while_after_its_last_watcher() {
        let now = Instant::now();
        let mut state = KeeperState::new(now);
        assert!(!state.is_abandoned(true, now));
        assert!(!state.is_abandoned(true, now + Duration::from_secs(4)));
        assert!(!state.is_abandoned(false, now + Duration::from_secs(5)), "somebody has come back");
        assert!(!state.is_abandoned(true, now + Duration::from_secs(6)));
        assert!(state.is_abandoned(true, now + Duration::from_secs(11)));
    }
}
