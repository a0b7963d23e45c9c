//! Routes that follow their origin (RFC 9111): look-up of a stored answer for a request, and the steps if
//! there is none.
//!
//! `policy` makes the decisions; here is their order: select a variant, ask the purge log, check its age,
//! revalidate or fetch, and fall back on a stale answer if that is allowed. Requests with an `Authorization`
//! or a `Range` ask the origin by themselves: their answers are as a rule for them alone, and no other
//! request should wait for them.

use super::{
    entry::{Entry, Standing},
    fill::{Job, On, Since},
    flight::Joined,
    hedge::UsualTime,
    key::Key,
    live::{Live, Reader},
    memory::Resource,
    policy::{self, Asked, Freshness, Match, Reuse, Selecting},
    purge::{Knowledge, Verdict as Purged},
    stale_at::{or_stale, Haste, StaleAt},
    variants::named,
    Answer, Cache, Failure, FetchError, Fetcher, Forward, Landing, Led, Look,
};
use crate::{
    clock::now_ms,
    config::FollowRules,
    representation::respond,
    telemetry::labels::{CacheResult, FillOutcome},
};
use http::{header, HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use std::{
    future::ready,
    sync::Arc,
    time::{Duration, Instant},
};

/// The number of flights that a request joins whose answers turn out to be for others, before it asks by
/// itself.
const JOINS: u32 = 3;
/// The time for which an origin is waited for while no request waits, and it is unknown if its answer may be
/// stored: a client that asks again at once finds the flight under way.
const UNWATCHED: Duration = Duration::from_secs(2);
/// The most leaders in a row that get a server's error which may be caused by their own request: the next one
/// gets it for all that wait.
pub(super) const ERRORS_OF_OTHERS: u32 = 8;
/// The same, whatever the number of waiting requests: after it a request asks by itself.
pub(super) const MOST_ERRORS_OF_OTHERS: u32 = 4 * ERRORS_OF_OTHERS;

/// A request for a resource of an origin that is followed.
#[derive(Debug)]
pub struct Asking {
    /// The resource.
    pub key: Key,
    /// The resource, by its number in the purge log.
    pub resource: u128,
    /// The host as requested.
    pub host: String,
    /// Path and query.
    pub target: String,
    /// GET, or POST if its answer may be stored.
    pub method: Method,
    /// The client's fields.
    pub headers: HeaderMap,
    /// The fields that the gateway sets for the origin, whatever the client sent.
    pub ours: Arc<[HeaderName]>,
    /// True if it has an `Authorization` or a token.
    pub authorized: bool,
    /// Its cache directives; none on a route that ignores them.
    pub asked: Asked,
    /// The rules of the route.
    pub rules: Arc<FollowRules>,
    /// The time that the fills of its route take.
    pub usual: Arc<UsualTime>,
}

impl Asking {
    /// Returns true if it is one of the requests whose answers are marked as not to be stored.
    fn is_marked(&self, why: FillOutcome) -> bool {
        why != FillOutcome::Cookie || self.headers.contains_key(header::COOKIE)
    }

    /// Returns true if its answer is as a rule for it alone.
    pub fn is_alone(&self) -> bool {
        self.authorized || self.asked.no_store || self.headers.contains_key(header::RANGE)
    }
}

/// The result of a look-up in memory.
enum Found {
    Serve(Arc<Entry>),
    ServeStale(Arc<Entry>),
    /// It has to be validated first, or can only be served on an error.
    Old(Arc<Entry>, Forward),
    Nothing(Forward),
}

/// The value of a request's field can't be given as one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Untold;

impl Cache {
    /// Looks up a resource in memory, without waiting.
    pub fn look_followed(&self, key: &Key, headers: &HeaderMap, asked: &Asked, now_ms: u64) -> Look {
        let knowledge = self.purges.knowledge(now_ms);
        if knowledge == Knowledge::Behind {
            return Look::Nothing;
        }
        match self.find(key, headers, asked, knowledge, now_ms) {
            Found::Serve(entry) => Look::Hit(entry),
            Found::ServeStale(entry) => Look::Stale(entry),
            Found::Old(..) | Found::Nothing(_) => Look::Nothing,
        }
    }

    /// The answer that may be served as it is to a request without cache directives: that of
    /// [`Self::look_followed`]. `said` returns the value of a field, `None` if it is absent; it fails if
    /// there is no single value. `None` is no statement.
    pub fn look_swiftly<'r>(
        &self,
        key: &str,
        said: impl Fn(&HeaderName) -> Result<Option<&'r [u8]>, Untold>,
        now_ms: u64,
    ) -> Option<Arc<Entry>> {
        let knowledge = self.purges.knowledge(now_ms);
        if knowledge == Knowledge::Behind {
            return None;
        }
        let resource = self.memory.resource(key)?;
        let entry = match &resource {
            Resource::One(entry) => (found(entry, &said)? != Match::No).then_some(entry),
            // Of variants by the same fields at most one is exact; the best of others is not chosen here.
            Resource::Several(entries) => {
                let first = entries.first()?.selecting()?.names();
                let is_like = |entry: &Entry| entry.selecting().is_some_and(|s| s.names() == first);
                let alike = entries.iter().all(|entry| is_like(entry) && entry.part().is_none());
                let mut entries = entries.iter().filter(|_| alike);
                entries.find(|entry| found(entry, &said) == Some(Match::Exact))
            }
        };
        let entry = entry?;
        count_use(&resource, entry);
        match self.judge(entry.clone(), &Asked::default(), knowledge, now_ms) {
            Found::Serve(entry) => Some(entry),
            Found::ServeStale(_) | Found::Old(..) | Found::Nothing(_) => None,
        }
    }

    fn find(
        &self,
        key: &Key,
        headers: &HeaderMap,
        asked: &Asked,
        knowledge: Knowledge,
        now_ms: u64,
    ) -> Found {
        let Some(resource) = self.memory.resource(key.as_str()) else {
            return Found::Nothing(Forward::UriMiss);
        };
        let Some(entry) = select(&resource, headers) else {
            let parts = resource.entries().iter().any(|entry| entry.part().is_some());
            return Found::Nothing(if parts { Forward::Partial } else { Forward::VaryMiss });
        };
        count_use(&resource, entry);
        self.judge(entry.clone(), asked, knowledge, now_ms)
    }

    fn judge(&self, entry: Arc<Entry>, asked: &Asked, knowledge: Knowledge, now_ms: u64) -> Found {
        let Standing::Log(stamp, _) = &entry.standing else { return Found::Nothing(Forward::UriMiss) };
        let purged = self.purges.verdict(stamp);
        let is_doubtful = knowledge == Knowledge::Doubtful;
        let is_known = matches!(purged, Purged::Hard | Purged::Unsure);
        if is_doubtful && !is_known && !self.purges.allows(entry.is_provisional(), now_ms) {
            return Found::Old(entry, Forward::Stale(policy::Why::Doubt));
        }
        match (purged, policy::reuse(&entry.terms(), asked, now_ms)) {
            (Purged::Hard, _) => Found::Nothing(Forward::UriMiss),
            (Purged::Unsure, _) => Found::Old(entry, Forward::Unsure),
            (Purged::Current, Reuse::Serve | Reuse::Allowed) => Found::Serve(entry),
            (Purged::Current, Reuse::ServeStale) => Found::ServeStale(entry),
            // Marked stale: of use while it is refreshed, if it may be of use at all then.
            (Purged::Soft, Reuse::Serve | Reuse::ServeStale)
                if entry.terms().stale_while_revalidate_ms > 0 =>
            {
                Found::ServeStale(entry)
            }
            (_, Reuse::Validate(why)) => Found::Old(entry, Forward::Stale(why)),
            (Purged::Soft, _) => Found::Old(entry, Forward::Purged),
        }
    }

    /// Refreshes a stale entry in the background, unless that is under way already, or the origin would be
    /// asked for what only one client may have: a part, an answer that it does not want stored, or one to its
    /// credentials.
    pub fn refresh_followed(self: &Arc<Self>, asking: Arc<Asking>, entry: Arc<Entry>, fetcher: Fetcher) {
        let is_ones_own = asking.authorized && !entry.may_be_for_credentials();
        if asking.headers.contains_key(header::RANGE) || asking.asked.no_store || is_ones_own {
            return;
        }
        let put_off = pause_of(&asking, &entry);
        let knowledge = self.purges.knowledge(now_ms());
        let name = self.flight_of(&asking, knowledge);
        let is_paused = || self.pauses.is_paused(&put_off, now_ms());
        let begun = self.flights.begin_unless(&name, is_paused, || Live::begin(&self.arriving));
        if let Some((lead, follow)) = begun {
            // A flight may have landed since the entry was found.
            let (key, headers, asked) = (&asking.key, &asking.headers, &asking.asked);
            if let Found::Serve(fresh) = self.find(key, headers, asked, knowledge, now_ms()) {
                return lead.land(Landing::Filled(fresh));
            }
            let is_doubtful = knowledge == Knowledge::Doubtful;
            let job = Job { refreshes: Some(put_off), ..self.job(asking, Some(entry), is_doubtful, None) };
            drop(self.begin_fill(Some(lead), follow.cargo(), job, fetcher));
        }
    }

    /// Answers a request that memory could not. Returns the reason why the origin had to be asked, if it had
    /// to be.
    pub async fn answer_followed(
        self: &Arc<Self>,
        asking: Arc<Asking>,
        fetcher: Fetcher,
    ) -> (Answer, Forward) {
        let knowledge = self.known_purges().await;
        let is_doubtful = knowledge == Knowledge::Doubtful;
        let mut forward = Forward::UriMiss;
        let (mut joins, mut errors) = (0, 0);
        while joins < JOINS && errors < MOST_ERRORS_OF_OTHERS {
            let old = match self.find(&asking.key, &asking.headers, &asking.asked, knowledge, now_ms()) {
                Found::Serve(entry) => return (Answer::Entry(entry, CacheResult::Hit), forward),
                Found::ServeStale(entry) => {
                    self.refresh_followed(asking, entry.clone(), fetcher);
                    return (Answer::Entry(entry, CacheResult::Stale), forward);
                }
                Found::Old(entry, why) => {
                    forward = why;
                    Some(entry)
                }
                Found::Nothing(why) => {
                    forward = why;
                    None
                }
            };
            if asking.asked.only_if_cached {
                return (Answer::NotHere, forward);
            }
            // The entry for the case of a failure.
            let past = old.clone().filter(|_| forward != Forward::Unsure);
            if asking.is_alone() {
                let unwatched = unwatched(&asking, old.is_some());
                let job = self.job(asking, old, is_doubtful, unwatched);
                let live = Live::begin(&self.arriving);
                return (self.lead(None, live, job, (past, forward), fetcher).await, forward);
            }
            // A stored answer is validated all the same.
            let marked = self.memory.marked(&asking.key, now_ms());
            if let Some(why) = marked.filter(|why| old.is_none() && asking.is_marked(*why)) {
                return (Answer::AskYourself(why), forward);
            }
            match self.flights.join(&self.flight_of(&asking, knowledge), || Live::begin(&self.arriving)) {
                Joined::Lead(lead, follow) => {
                    self.metrics.flight_led();
                    let live = follow.cargo().clone();
                    let shares_errors = errors >= ERRORS_OF_OTHERS;
                    let unwatched = unwatched(&asking, old.is_some());
                    let job = Job { shares_errors, ..self.job(asking, old, is_doubtful, unwatched) };
                    return (self.lead(Some(lead), live, job, (past, forward), fetcher).await, forward);
                }
                Joined::Follow(follow) => {
                    let began = Instant::now();
                    let reader = follow.cargo().reader();
                    let (flight, after) = (follow.cargo().began(), asking.rules.stale_after);
                    let stale_at = StaleAt::of(flight, after, fetcher.is_failing());
                    let find = |haste| ready(stale_of(&past, forward, haste));
                    let landing = or_stale(stale_at, follow.outcome(), find).await;
                    self.metrics.flight_followed(began.elapsed());
                    let landing = match landing {
                        Err(stale) => return (stale, forward),
                        Ok(landing) => landing,
                    };
                    let landing = match landing {
                        // It was given up at this very moment, because no request had waited.
                        Err(_) if reader.is_none() => {
                            joins += 1;
                            continue;
                        }
                        landing => landing.unwrap_or(Landing::Failed(FetchError::Abandoned)),
                    };
                    if is_an_error_of_its_own(&landing, &past) {
                        // It asks as well, after the failed one: its error may be another.
                        errors += 1;
                        continue;
                    }
                    joins += 1;
                    if self.is_for(&landing, &asking) {
                        let answer = self.landed_followed(landing, reader, past, CacheResult::Collapsed);
                        return (answer, forward);
                    }
                }
            }
        }
        match errors < MOST_ERRORS_OF_OTHERS {
            true => (Answer::AskYourself(FillOutcome::VaryAny), Forward::VaryMiss),
            false => (Answer::AskYourself(FillOutcome::Status), forward),
        }
    }

    /// Returns the knowledge of purges for a request that arrives now; waits for the log if that helps.
    async fn known_purges(&self) -> Knowledge {
        let (Knowledge::Behind, Some(redis)) = (self.purges.knowledge(now_ms()), &self.redis) else {
            return self.purges.knowledge(now_ms());
        };
        match Box::pin(redis.catch_up()).await {
            Ok(()) => Knowledge::Complete,
            Err(error) => {
                tracing::debug!(%error, "the log of purges was not read");
                Knowledge::Doubtful
            }
        }
    }

    async fn lead(
        self: &Arc<Self>,
        lead: Option<super::fill::Leading>,
        live: Arc<Live>,
        job: Job,
        (old, forward): (Option<Arc<Entry>>, Forward),
        fetcher: Fetcher,
    ) -> Answer {
        let reader = live.reader();
        let stale_at = StaleAt::of(live.began(), job.stale_after(), fetcher.is_failing());
        let find = |haste| ready(stale_of(&old, forward, haste));
        let job = Job { has_stale: old.as_ref().is_some_and(|old| stands_in(old)), ..job };
        let filling = self.begin_fill(lead, &live, job, fetcher);
        let led = match or_stale(stale_at, filling, find).await {
            Ok(led) => led,
            Err(stale) => return stale,
        };
        match led {
            Ok(Led::Landing(landing)) => self.landed_followed(landing, reader, old, CacheResult::Miss),
            Ok(Led::Own(head)) => match (stand_in(&old, head.status), reader) {
                (Some(past), _) => past,
                (None, Some(reader)) => Answer::Arriving(head, reader, CacheResult::Uncacheable),
                (None, None) => Answer::Failed(FetchError::Unreachable),
            },
            Err(_) => fallen(&old, FetchError::Abandoned),
        }
    }

    /// Returns true if the result of a flight answers this request too: before, the fields by which it varies
    /// and its tags were unknown.
    fn is_for(&self, landing: &Landing, asking: &Asking) -> bool {
        match landing {
            Landing::Filled(entry) | Landing::Validated(entry) | Landing::Remote(entry) => {
                let purged = match &entry.standing {
                    Standing::Log(stamp, _) => self.purges.verdict(stamp) != Purged::Current,
                    Standing::Version(..) => false,
                };
                !purged && fits(entry, &asking.headers) != Match::No
            }
            Landing::Arriving(head) => {
                let purged = head.stamp.as_ref().is_some_and(|s| self.purges.verdict(s) != Purged::Current);
                let content = policy::Content::of(&head.headers);
                !purged
                    && head.status != StatusCode::PARTIAL_CONTENT
                    && head
                        .selecting
                        .as_ref()
                        .is_none_or(|s| s.matches(&asking.headers, content) != Match::No)
            }
            Landing::Unshareable(why, _) => asking.is_marked(*why),
            Landing::Passing(_) | Landing::Failed(_) => true,
        }
    }

    fn landed_followed(
        &self,
        landing: Landing,
        reader: Option<Reader>,
        old: Option<Arc<Entry>>,
        role: CacheResult,
    ) -> Answer {
        match landing {
            Landing::Filled(entry) => Answer::Entry(entry, role),
            Landing::Validated(entry) => Answer::Entry(entry, CacheResult::Revalidated),
            Landing::Remote(entry) => Answer::Entry(entry, CacheResult::Remote),
            Landing::Unshareable(why, status) => {
                stand_in(&old, status.unwrap_or_default()).unwrap_or(Answer::AskYourself(why))
            }
            Landing::Passing(what) => match stand_in(&old, what.status()) {
                Some(past) => past,
                None => Answer::Passing(what, FillOutcome::Status),
            },
            Landing::Arriving(head) => match (stand_in(&old, head.status), reader) {
                (Some(past), _) => past,
                (None, Some(reader)) => Answer::Arriving(head, reader, role),
                (None, None) => Answer::AskYourself(head.outcome),
            },
            Landing::Failed(error) => fallen(&old, error),
        }
    }

    /// The name of the flight for a request: the resource, the fields that are known to tell its answers
    /// apart, and its last purge, after which no request may join an earlier flight; in doubt, also a
    /// possible purge.
    fn flight_of(&self, asking: &Asking, knowledge: Knowledge) -> String {
        let names = self.known_names(&asking.key);
        let purge = self.purges.last_purge(asking.resource);
        let mut name = String::with_capacity(asking.key.as_str().len() + 40);
        name.push_str(asking.key.as_str());
        // Parsed from its end, it can't be taken for another.
        name.push('|');
        if !names.is_empty() {
            name.push_str(&Selecting::digest(&names, &asking.headers));
        }
        name.push('|');
        if purge > 0 {
            name.push_str(&purge.to_string());
        }
        if knowledge == Knowledge::Doubtful {
            let (unread, period) = self.purges.doubtful_period(now_ms());
            name.push_str(&format!("@{unread}@{period}"));
        }
        name
    }

    /// The fields by which the answers of a resource are known to vary.
    pub(super) fn known_names(&self, key: &Key) -> Vec<HeaderName> {
        let Some(resource) = self.memory.resource(key.as_str()) else { return Vec::new() };
        let selecting = resource.entries().iter().filter_map(|entry| entry.selecting());
        let mut names: Vec<_> = selecting.flat_map(|s| s.names().iter().cloned()).collect();
        names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        names
    }

    fn job(
        &self,
        asking: Arc<Asking>,
        old: Option<Arc<Entry>>,
        is_doubtful: bool,
        unwatched: Option<Duration>,
    ) -> Job {
        let since = Since { is_doubtful, ..self.since() };
        // A part can't be validated by itself.
        let old = old.filter(|entry| entry.part().is_none());
        let key = asking.key.clone();
        let on = On::Follow { asking, old, since, told: Vec::new() };
        Job {
            key,
            began_ms: now_ms(),
            refreshes: None,
            shares_errors: false,
            has_stale: false,
            on,
            unwatched,
        }
    }

    /// Returns true if any stored answer of a resource has fields by which it varies.
    pub(super) fn names_variants(&self, key: &Key) -> bool {
        let resource = self.memory.resource(key.as_str());
        resource.is_some_and(|resource| resource.entries().iter().any(|entry| !named(entry).is_empty()))
    }

    /// The result for a request from an entry of the store.
    pub(super) fn usable_followed(
        &self,
        asking: &Asking,
        entry: Arc<Entry>,
    ) -> Result<Arc<Entry>, Option<Arc<Entry>>> {
        // The key it was found under distinguishes the known codings only.
        if fits(&entry, &asking.headers) == Match::No {
            return Err(None);
        }
        let now = now_ms();
        match self.judge(entry, &asking.asked, self.purges.knowledge(now), now) {
            Found::Serve(entry) => Ok(entry),
            Found::ServeStale(entry) | Found::Old(entry, _) => Err(Some(entry)),
            Found::Nothing(_) => Err(None),
        }
    }
}

/// The time for which an origin is waited for after the client has left and while no request waits. An answer
/// for one client alone is hardly ever stored; events never end; a validation is always wanted.
fn unwatched(asking: &Asking, is_validation: bool) -> Option<Duration> {
    let accepts = asking.headers.get_all(header::ACCEPT).iter();
    let events =
        accepts.filter_map(|value| value.to_str().ok()).any(|value| value.contains("text/event-stream"));
    match asking.is_alone() || events {
        true => Some(Duration::ZERO),
        false if is_validation => None,
        false => Some(UNWATCHED),
    }
}

/// Counts a use: of several variants the least used is evicted first.
fn count_use(resource: &Resource, entry: &Entry) {
    if let (Resource::Several(_), Some(uses)) = (resource, entry.uses()) {
        uses.count_one();
    }
}

/// Matches an answer with a request's values. `None`: they are unknown.
fn found<'r>(
    entry: &Entry,
    said: &impl Fn(&HeaderName) -> Result<Option<&'r [u8]>, Untold>,
) -> Option<Match> {
    if entry.part().is_some() {
        return None;
    }
    let Some(selecting) = entry.selecting() else { return Some(Match::Exact) };
    if selecting.names().iter().any(|name| said(name).is_err()) {
        return None;
    }
    let values = || selecting.names().iter().map(|name| said(name).ok().flatten());
    if let Some(known) = entry.said().and_then(|said| said.known(values())) {
        return Some(known);
    }
    let mut headers = HeaderMap::new();
    for (name, value) in selecting.names().iter().zip(values()) {
        if let Some(value) = value {
            headers.insert(name.clone(), HeaderValue::from_bytes(value).ok()?);
        }
    }
    let fits = fits(entry, &headers);
    if let Some(said) = entry.said() {
        said.learn(values(), fits);
    }
    Some(fits)
}

/// The variant for a request: one whose fields are equal, else one that fits; the newest first. A part only
/// if the request needs no more.
pub(super) fn select<'r>(resource: &'r Resource, headers: &HeaderMap) -> Option<&'r Arc<Entry>> {
    let mut fitting = None;
    for entry in resource.entries() {
        match fits(entry, headers) {
            Match::Exact => return Some(entry),
            Match::Fits => fitting = fitting.or(Some(entry)),
            Match::No => {}
        }
    }
    fitting
}

/// Returns true if an answer, or a part of it, is stored for requests like this one.
pub(super) fn is_stored_for(entry: &Entry, headers: &HeaderMap) -> bool {
    let stored = entry.representation.headers();
    entry
        .selecting()
        .is_none_or(|selecting| selecting.matches(headers, policy::Content::of(&stored)) != Match::No)
}

pub(super) fn fits(entry: &Entry, headers: &HeaderMap) -> Match {
    if let Some(part) = entry.part() {
        if respond::partial(part.of(&entry.representation), &Method::GET, headers).is_none() {
            return Match::No;
        }
    }
    let Some(selecting) = entry.selecting() else { return Match::Exact };
    let stored = entry.representation.headers();
    selecting.matches(headers, policy::Content::of(&stored))
}

/// Returns true if the leader got a server's error that may be caused by its own request, and there is no
/// stale answer.
fn is_an_error_of_its_own(landing: &Landing, old: &Option<Arc<Entry>>) -> bool {
    match landing {
        Landing::Unshareable(FillOutcome::Status | FillOutcome::NoFreshness, Some(status)) => {
            policy::may_be_the_requests_own(*status) && stand_in(old, *status).is_none()
        }
        _ => false,
    }
}

/// The name under which refreshes of an entry pause: one for each, and another for requests with properties
/// that others lack. Their answers may not be stored, and say nothing of those for others.
fn pause_of(asking: &Asking, entry: &Entry) -> String {
    let variant = entry.selecting().map(Selecting::name).unwrap_or_default();
    let own = if asking.is_alone() || asking.headers.contains_key(header::COOKIE) { "own" } else { "" };
    format!("{}|{variant}|{own}", asking.key.as_str())
}

/// The stale answer in place of a server's error, if it may be served.
fn stand_in(old: &Option<Arc<Entry>>, status: StatusCode) -> Option<Answer> {
    let past = old.as_ref().filter(|_| status.is_server_error()).filter(|old| stands_in(old))?;
    Some(Answer::StaleIfError(past.clone(), Failure::Status(status)))
}

fn fallen(old: &Option<Arc<Entry>>, error: FetchError) -> Answer {
    match old.as_ref().filter(|old| stands_in(old)) {
        Some(old) => Answer::StaleIfError(old.clone(), Failure::Fetch(error)),
        None => Answer::Failed(error),
    }
}

/// Returns the stale entry in place of a slow answer, if it may be served. A client that asked for another
/// answer waits for it, unless there will be none.
fn stale_of(old: &Option<Arc<Entry>>, forward: Forward, haste: Haste) -> Option<Arc<Entry>> {
    let is_stale = matches!(forward, Forward::Stale(policy::Why::Stale) | Forward::Purged);
    let may = |old: &Arc<Entry>| (is_stale || haste == Haste::Failing) && haste.allows(old, now_ms());
    old.clone().filter(may)
}

fn stands_in(old: &Entry) -> bool {
    matches!(old.terms().on_error(now_ms()), Freshness::Fresh | Freshness::StaleIfError)
}
