//! Routes that follow their origin (RFC 9111): which stored answer a request may have, and what is done where there
//! is none.
//!
//! The decisions are `policy`'s; here is their order: select a variant, ask the purge log, judge its age, revalidate
//! or fetch, and fall back on what is stale where that is allowed. Requests that name an `Authorization` or a `Range`
//! ask the origin by themselves: what they get is as a rule for them alone, and nobody should wait for it.

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

/// How often a request joins a flight whose answer turns out to be for others, before it asks by itself.
const JOINS: u32 = 3;
/// The time for which an origin is waited for though nobody else waits, and nobody knows whether its answer may be stored: who
/// asks again at once finds the flight under way.
const UNWATCHED: Duration = Duration::from_secs(2);
/// The most of those who were waited for that get a server's error that may have been of their own making: the next one gets it
/// for all who wait.
pub(super) const ERRORS_OF_OTHERS: u32 = 8;
/// However many more there were: then a request asks by itself.
pub(super) const MOST_ERRORS_OF_OTHERS: u32 = 4 * ERRORS_OF_OTHERS;

/// A request for a resource of an origin that is followed.
#[derive(Debug)]
pub struct Asking {
    /// The resource.
    pub key: Key,
    /// The resource, as the purge log names it.
    pub resource: u128,
    /// The host, as it was asked for.
    pub host: String,
    /// Path and query.
    pub target: String,
    /// GET, or POST where its answer may be kept.
    pub method: Method,
    /// The client's fields.
    pub headers: HeaderMap,
    /// The fields that the origin is told by the gateway, whatever the client said.
    pub ours: Arc<[HeaderName]>,
    /// Whether it shows an `Authorization` or a token.
    pub authorized: bool,
    /// What it asks of caches; nothing where the route doesn't listen.
    pub asked: Asked,
    /// By which rules.
    pub rules: Arc<FollowRules>,
    /// The time that the fills of its route take.
    pub usual: Arc<UsualTime>,
}

impl Asking {
    /// Returns whether it is one of those for whom the answers to a resource may not be stored.
    fn is_marked(&self, why: FillOutcome) -> bool {
        why != FillOutcome::Cookie || self.headers.contains_key(header::COOKIE)
    }

    /// Whether what it gets is as a rule for it alone.
    pub fn is_alone(&self) -> bool {
        self.authorized || self.asked.no_store || self.headers.contains_key(header::RANGE)
    }
}

/// What memory has for a request.
enum Found {
    Serve(Arc<Entry>),
    ServeStale(Arc<Entry>),
    /// It has to be validated first, or can only stand in for a failure.
    Old(Arc<Entry>, Forward),
    Nothing(Forward),
}

/// What a request says in a field can't be told in one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Untold;

impl Cache {
    /// What memory says of a resource, without waiting for anything.
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

    /// The answer that may be served as it is to a request that asks nothing of caches: what [`Self::look_followed`] would
    /// say then. `said` tells the value of a field, `None` where it isn't there; and fails where that can't be told.
    /// `None` says nothing.
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
            // Of variants by the same fields only one is an exact one; which of others fits best is not for here.
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

    /// Refreshes a stale entry behind an answer, unless that is under way already, or the origin would be asked for a
    /// part only: others may join.
    pub fn refresh_followed(self: &Arc<Self>, asking: Arc<Asking>, entry: Arc<Entry>, fetcher: Fetcher) {
        if asking.headers.contains_key(header::RANGE) {
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

    /// Answers what memory could not; and says why it had to be asked for, if it had to be.
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
            // What may stand in for a failure.
            let past = old.clone().filter(|_| forward != Forward::Unsure);
            if asking.is_alone() {
                let unwatched = unwatched(&asking, old.is_some());
                let job = self.job(asking, old, is_doubtful, unwatched);
                let live = Live::begin(&self.arriving);
                return (self.lead(None, live, job, (past, forward), fetcher).await, forward);
            }
            // What is here is validated all the same.
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
                        // It was given up at this very moment, for nobody had waited.
                        Err(_) if reader.is_none() => {
                            joins += 1;
                            continue;
                        }
                        landing => landing.unwrap_or(Landing::Failed(FetchError::Abandoned)),
                    };
                    if is_an_error_of_its_own(&landing, &past) {
                        // It asks as well, one after the other: the next one's may be another.
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

    /// Returns the extent of what is known of purges for a request that asks now; waits for the log where that helps.
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

    /// Whether what a flight brought answers this request too: nobody knew before by what it varies, nor what it is
    /// tagged with.
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

    /// The name of the flight for a request: the resource, the fields that are known to tell its answers apart, and
    /// its last purge, after which nobody may join what began before it; in doubt, also what may have been one.
    fn flight_of(&self, asking: &Asking, knowledge: Knowledge) -> String {
        let names = self.known_names(&asking.key);
        let purge = self.purges.last_purge(asking.resource);
        let mut name = String::with_capacity(asking.key.as_str().len() + 40);
        name.push_str(asking.key.as_str());
        // Read from its end, it can't be taken for another.
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

    /// Returns whether any answer of a resource that is here names fields by which it varies.
    pub(super) fn names_variants(&self, key: &Key) -> bool {
        let resource = self.memory.resource(key.as_str());
        resource.is_some_and(|resource| resource.entries().iter().any(|entry| !named(entry).is_empty()))
    }

    /// What of a stored entry may be used for a request.
    pub(super) fn usable_followed(
        &self,
        asking: &Asking,
        entry: Arc<Entry>,
    ) -> Result<Arc<Entry>, Option<Arc<Entry>>> {
        // The name it was found under tells the gateway's codings apart, and no others.
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

/// The time for which an origin is waited for though the client has left and nobody else waits. What is asked for by one alone is
/// hardly ever stored; events never end; what is validated is wanted.
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

/// Of several variants the one that is used least goes first.
fn count_use(resource: &Resource, entry: &Entry) {
    if let (Resource::Several(_), Some(uses)) = (resource, entry.uses()) {
        uses.count_one();
    }
}

/// How an answer fits a request that says this. `None`: it can't be told.
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

/// The variant for a request: one whose fields are the same, else one that fits; the newest first. A part only where
/// the request asks for no more.
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

/// Returns whether an answer, or a part of it, is stored for requests like this one.
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

/// Returns whether the one who was waited for got a server's error that may have been of its own making, and nothing stands in.
fn is_an_error_of_its_own(landing: &Landing, old: &Option<Arc<Entry>>) -> bool {
    match landing {
        Landing::Unshareable(FillOutcome::Status | FillOutcome::NoFreshness, Some(status)) => {
            policy::may_be_the_requests_own(*status) && stand_in(old, *status).is_none()
        }
        _ => false,
    }
}

/// Under which name the refreshes of an entry are put off: one for each, and one more for those who bring what others
/// don't. What they get may not be stored, and says nothing of what others get.
fn pause_of(asking: &Asking, entry: &Entry) -> String {
    let variant = entry.selecting().map(Selecting::name).unwrap_or_default();
    let own = if asking.is_alone() || asking.headers.contains_key(header::COOKIE) { "own" } else { "" };
    format!("{}|{variant}|{own}", asking.key.as_str())
}

/// What is stale in the place of a server's error, if it may.
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

/// Returns the stale entry in the place of an answer that takes its time, if it may. A client that asked for another answer waits for
/// it, unless there will be none.
fn stale_of(old: &Option<Arc<Entry>>, forward: Forward, haste: Haste) -> Option<Arc<Entry>> {
    let is_stale = matches!(forward, Forward::Stale(policy::Why::Stale) | Forward::Purged);
    let may = |old: &Arc<Entry>| (is_stale || haste == Haste::Failing) && haste.allows(old, now_ms());
    old.clone().filter(may)
}

fn stands_in(old: &Entry) -> bool {
    matches!(old.terms().on_error(now_ms()), Freshness::Fresh | Freshness::StaleIfError)
}
