//! Routes that follow their origin (RFC 9111): look-up of a stored answer for a request, and the steps if
//! there is none.
//!
//! `policy` makes the decisions; here is their order: select a variant, ask the purge log, check its age,
//! revalidate or fetch, and fall back on a stale answer if that is allowed. Requests with an `Authorization`
//! or a `Range` ask the origin by themselves: their answers are as a rule for them alone, and no other
//! request should wait for them.

use crate::{
    cache::{
        coherence::purge::{LogKnowledge, PurgeVerdict as Purged},
        entry::{variants::varying_names, CacheEntry, Validity},
        fill::{
            coalescing::FlightJoin,
            hedge::UsualFillTime,
            job::{FillJob, FillLead},
            stale_after::{wait_or_stale, StaleDeadline, StaleReason},
            streaming_body::{StreamReader, StreamingBody},
        },
        key::CacheKey,
        memory::MemoryResource,
        policy::{self, Freshness, RequestDirectives, ReuseVerdict, SelectingFields, VariantMatch},
        Cache, CacheAnswer, FillFailure, FlightOutcome, ForwardReason, LeadOutcome, MemoryLookup,
        MissFetcher, OriginFetchError,
    },
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
const MAX_JOINS: u32 = 3;
/// The time for which an origin is waited for while no request waits, and it is unknown if its answer may be
/// stored: a client that asks again at once finds the flight under way.
const UNWATCHED: Duration = Duration::from_secs(2);
/// The most leaders in a row that get a server's error which may be caused by their own request: the next one
/// gets it for all that wait.
pub(crate) const ERRORS_OF_OTHERS: u32 = 8;
/// The same, whatever the number of waiting requests: after it a request asks by itself.
pub(crate) const MOST_ERRORS_OF_OTHERS: u32 = 4 * ERRORS_OF_OTHERS;

/// A request for a resource of an origin that is followed.
#[derive(Debug)]
pub struct OriginLookup {
    /// The resource.
    pub key: CacheKey,
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
    pub asked: RequestDirectives,
    /// The rules of the route.
    pub rules: Arc<FollowRules>,
    /// The time that the fills of its route take.
    pub usual: Arc<UsualFillTime>,
}

impl OriginLookup {
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
enum LookupResult {
    Serve(Arc<CacheEntry>),
    ServeStale(Arc<CacheEntry>),
    /// It has to be validated first, or can only be served on an error.
    Old(Arc<CacheEntry>, ForwardReason),
    Nothing(ForwardReason),
}

/// The value of a request's field can't be given as one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AmbiguousRequest;

impl Cache {
    /// Looks up a resource in memory, without waiting.
    pub fn look_followed(
        &self,
        key: &CacheKey,
        headers: &HeaderMap,
        asked: &RequestDirectives,
        now_ms: u64,
    ) -> MemoryLookup {
        let knowledge = self.purges.knowledge(now_ms);
        if knowledge == LogKnowledge::Behind {
            return MemoryLookup::Nothing;
        }
        match self.find(key, headers, asked, knowledge, now_ms) {
            LookupResult::Serve(entry) => MemoryLookup::Hit(entry),
            LookupResult::ServeStale(entry) => MemoryLookup::Stale(entry),
            LookupResult::Old(..) | LookupResult::Nothing(_) => MemoryLookup::Nothing,
        }
    }

    /// The answer that may be served as it is to a request without cache directives: that of
    /// [`Self::look_followed`]. `said` returns the value of a field, `None` if it is absent; it fails if
    /// there is no single value. `None` is no statement.
    pub fn look_swiftly<'r>(
        &self,
        key: &str,
        said: impl Fn(&HeaderName) -> Result<Option<&'r [u8]>, AmbiguousRequest>,
        now_ms: u64,
    ) -> Option<Arc<CacheEntry>> {
        let knowledge = self.purges.knowledge(now_ms);
        if knowledge == LogKnowledge::Behind {
            return None;
        }
        let resource = self.memory.resource(key)?;
        let entry = match &resource {
            MemoryResource::One(entry) => {
                (find_in_memory(entry, &said)? != VariantMatch::No).then_some(entry)
            }
            // Of variants by the same fields at most one is exact; the best of others is not chosen here.
            MemoryResource::Several(entries) => {
                let first = entries.first()?.selecting()?.names();
                let is_like = |entry: &CacheEntry| entry.selecting().is_some_and(|s| s.names() == first);
                let alike = entries.iter().all(|entry| is_like(entry) && entry.part().is_none());
                let mut entries = entries.iter().filter(|_| alike);
                entries.find(|entry| find_in_memory(entry, &said) == Some(VariantMatch::Exact))
            }
        };
        let entry = entry?;
        count_use(&resource, entry);
        match self.judge(entry.clone(), &RequestDirectives::default(), knowledge, now_ms) {
            LookupResult::Serve(entry) => Some(entry),
            LookupResult::ServeStale(_) | LookupResult::Old(..) | LookupResult::Nothing(_) => None,
        }
    }

    fn find(
        &self,
        key: &CacheKey,
        headers: &HeaderMap,
        asked: &RequestDirectives,
        knowledge: LogKnowledge,
        now_ms: u64,
    ) -> LookupResult {
        let Some(resource) = self.memory.resource(key.as_str()) else {
            return LookupResult::Nothing(ForwardReason::UriMiss);
        };
        let Some(entry) = select_variant(&resource, headers) else {
            let parts = resource.entries().iter().any(|entry| entry.part().is_some());
            return LookupResult::Nothing(if parts {
                ForwardReason::Partial
            } else {
                ForwardReason::VaryMiss
            });
        };
        count_use(&resource, entry);
        self.judge(entry.clone(), asked, knowledge, now_ms)
    }

    fn judge(
        &self,
        entry: Arc<CacheEntry>,
        asked: &RequestDirectives,
        knowledge: LogKnowledge,
        now_ms: u64,
    ) -> LookupResult {
        let Validity::Log(stamp, _) = &entry.standing else {
            return LookupResult::Nothing(ForwardReason::UriMiss);
        };
        let purged = self.purges.verdict(stamp);
        let is_doubtful = knowledge == LogKnowledge::Doubtful;
        let is_known = matches!(purged, Purged::Hard | Purged::Unsure);
        if is_doubtful && !is_known && !self.purges.allows(entry.is_provisional(), now_ms) {
            return LookupResult::Old(entry, ForwardReason::Stale(policy::RevalidateReason::Doubt));
        }
        match (purged, policy::decide_reuse(&entry.terms(), asked, now_ms)) {
            (Purged::Hard, _) => LookupResult::Nothing(ForwardReason::UriMiss),
            (Purged::Unsure, _) => LookupResult::Old(entry, ForwardReason::Unsure),
            (Purged::Current, ReuseVerdict::Serve | ReuseVerdict::Allowed) => LookupResult::Serve(entry),
            (Purged::Current, ReuseVerdict::ServeStale) => LookupResult::ServeStale(entry),
            // Marked stale: of use while it is refreshed, if it may be of use at all then.
            (Purged::Soft, ReuseVerdict::Serve | ReuseVerdict::ServeStale)
                if entry.terms().stale_while_revalidate_ms > 0 =>
            {
                LookupResult::ServeStale(entry)
            }
            (_, ReuseVerdict::Validate(why)) => LookupResult::Old(entry, ForwardReason::Stale(why)),
            (Purged::Soft, _) => LookupResult::Old(entry, ForwardReason::Purged),
        }
    }

    /// Refreshes a stale entry in the background, unless that is under way already, or the origin would be
    /// asked for what only one client may have: a part, an answer that it does not want stored, or one to its
    /// credentials.
    pub fn refresh_followed(
        self: &Arc<Self>,
        asking: Arc<OriginLookup>,
        entry: Arc<CacheEntry>,
        fetcher: MissFetcher,
    ) {
        let is_ones_own = asking.authorized && !entry.may_be_for_credentials();
        if asking.headers.contains_key(header::RANGE) || asking.asked.no_store || is_ones_own {
            return;
        }
        let put_off = refresh_pause_name(&asking, &entry);
        let knowledge = self.purges.knowledge(now_ms());
        let name = self.flight_of(&asking, knowledge);
        let is_paused = || self.pauses.is_paused(&put_off, now_ms());
        let begun = self.flights.begin_unless(&name, is_paused, || StreamingBody::begin(&self.arriving));
        if let Some((lead, follow)) = begun {
            // A flight may have landed since the entry was found.
            let (key, headers, asked, now) = (&asking.key, &asking.headers, &asking.asked, now_ms());
            if let LookupResult::Serve(fresh) = self.find(key, headers, asked, knowledge, now) {
                return lead.land(FlightOutcome::Filled(fresh));
            }
            let is_doubtful = knowledge == LogKnowledge::Doubtful;
            let job = FillJob {
                refreshes: Some(put_off),
                ..self.origin_job(asking, Some(entry), (now, is_doubtful), None)
            };
            drop(self.begin_fill(Some(lead), follow.cargo(), job, fetcher));
        }
    }

    /// The answer for those who watch a resource: what is stale is refreshed first, by the flight that all share.
    pub async fn renew_followed(
        self: &Arc<Self>,
        asking: Arc<OriginLookup>,
        fetcher: MissFetcher,
    ) -> CacheAnswer {
        let look = || self.look_followed(&asking.key, &asking.headers, &asking.asked, now_ms());
        // Those who watch ask rarely, and want to know when it can be stored again.
        self.memory.unmark(&asking.key);
        let MemoryLookup::Stale(stale) = look() else {
            return self.answer_followed(asking, fetcher).await.0;
        };
        let name = self.flight_of(&asking, self.purges.knowledge(now_ms()));
        self.refresh_followed(asking.clone(), stale.clone(), fetcher);
        if let Some(flight) = self.flights.follow(&name) {
            // The outcome is in memory, if it is for others at all.
            drop(flight.outcome().await);
        }
        match look() {
            MemoryLookup::Hit(entry) | MemoryLookup::Stale(entry) => {
                CacheAnswer::Entry(entry, CacheResult::Hit)
            }
            MemoryLookup::Nothing => CacheAnswer::Entry(stale, CacheResult::Stale),
        }
    }

    /// Answers a request that memory could not. Returns the reason why the origin had to be asked, if it had
    /// to be.
    pub async fn answer_followed(
        self: &Arc<Self>,
        asking: Arc<OriginLookup>,
        fetcher: MissFetcher,
    ) -> (CacheAnswer, ForwardReason) {
        let knowledge = self.known_purges().await;
        let is_doubtful = knowledge == LogKnowledge::Doubtful;
        let mut forward = ForwardReason::UriMiss;
        let (mut joins, mut errors) = (0, 0);
        while joins < MAX_JOINS && errors < MOST_ERRORS_OF_OTHERS {
            let now = now_ms();
            let old = match self.find(&asking.key, &asking.headers, &asking.asked, knowledge, now) {
                LookupResult::Serve(entry) => return (CacheAnswer::Entry(entry, CacheResult::Hit), forward),
                LookupResult::ServeStale(entry) => {
                    self.refresh_followed(asking, entry.clone(), fetcher);
                    return (CacheAnswer::Entry(entry, CacheResult::Stale), forward);
                }
                LookupResult::Old(entry, why) => {
                    forward = why;
                    Some(entry)
                }
                LookupResult::Nothing(why) => {
                    forward = why;
                    None
                }
            };
            if asking.asked.only_if_cached {
                return (CacheAnswer::NotHere, forward);
            }
            // The entry for the case of a failure.
            let past = old.clone().filter(|_| forward != ForwardReason::Unsure);
            if asking.is_alone() {
                let unwatched = unwatched(&asking, old.is_some());
                let job = self.origin_job(asking, old, (now, is_doubtful), unwatched);
                let live = StreamingBody::begin(&self.arriving);
                return (self.lead(None, live, job, (past, forward), fetcher).await, forward);
            }
            // A stored answer is validated all the same.
            let marked = self.memory.marked(&asking.key, now);
            if let Some(why) = marked.filter(|why| old.is_none() && asking.is_marked(*why)) {
                return (CacheAnswer::Pass(why), forward);
            }
            match self
                .flights
                .join(&self.flight_of(&asking, knowledge), || StreamingBody::begin(&self.arriving))
            {
                FlightJoin::Lead(lead, follow) => {
                    // A flight may have landed since memory was looked at.
                    let again = self.find(&asking.key, &asking.headers, &asking.asked, knowledge, now);
                    if let LookupResult::Serve(entry) = again {
                        lead.land(FlightOutcome::Filled(entry.clone()));
                        return (CacheAnswer::Entry(entry, CacheResult::Hit), forward);
                    }
                    self.metrics.flight_led();
                    let live = follow.cargo().clone();
                    let shares_errors = errors >= ERRORS_OF_OTHERS;
                    let unwatched = unwatched(&asking, old.is_some());
                    let job = self.origin_job(asking, old, (now, is_doubtful), unwatched);
                    let job = FillJob { shares_errors, ..job };
                    return (self.lead(Some(lead), live, job, (past, forward), fetcher).await, forward);
                }
                FlightJoin::Follow(follow) => {
                    let began = Instant::now();
                    let reader = follow.cargo().reader();
                    let (flight, after) = (follow.cargo().began(), asking.rules.stale_after);
                    let stale_at = StaleDeadline::of(flight, after, fetcher.is_failing());
                    let find = |haste| ready(stale_entry(&past, forward, haste));
                    let landing = wait_or_stale(stale_at, follow.outcome(), find).await;
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
                        landing => landing.unwrap_or(FlightOutcome::Failed(OriginFetchError::Abandoned)),
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
            true => (CacheAnswer::Pass(FillOutcome::VaryAny), ForwardReason::VaryMiss),
            false => (CacheAnswer::Pass(FillOutcome::Status), forward),
        }
    }

    /// Returns the knowledge of purges for a request that arrives now; waits for the log if that helps.
    async fn known_purges(&self) -> LogKnowledge {
        let knowledge = self.purges.knowledge(now_ms());
        let (LogKnowledge::Behind, Some(redis)) = (knowledge, &self.redis) else { return knowledge };
        match Box::pin(redis.catch_up()).await {
            Ok(()) => LogKnowledge::Complete,
            Err(error) => {
                tracing::debug!(%error, "the log of purges was not read");
                LogKnowledge::Doubtful
            }
        }
    }

    async fn lead(
        self: &Arc<Self>,
        lead: Option<FillLead>,
        live: Arc<StreamingBody>,
        job: FillJob,
        (old, forward): (Option<Arc<CacheEntry>>, ForwardReason),
        fetcher: MissFetcher,
    ) -> CacheAnswer {
        let reader = live.reader();
        let stale_at = StaleDeadline::of(live.began(), job.mode.limits().stale_after, fetcher.is_failing());
        let find = |haste| ready(stale_entry(&old, forward, haste));
        let job = FillJob { has_stale: old.as_ref().is_some_and(|old| allows_stale_if_error(old)), ..job };
        let filling = self.begin_fill(lead, &live, job, fetcher);
        let led = match wait_or_stale(stale_at, filling, find).await {
            Ok(led) => led,
            Err(stale) => return stale,
        };
        match led {
            Ok(LeadOutcome::Landing(landing)) => {
                self.landed_followed(landing, reader, old, CacheResult::Miss)
            }
            Ok(LeadOutcome::Own(head)) => match (stale_if_status(&old, head.status), reader) {
                (Some(past), _) => past,
                (None, Some(reader)) => CacheAnswer::Arriving(head, reader, CacheResult::Uncacheable),
                (None, None) => CacheAnswer::Failed(OriginFetchError::Unreachable),
            },
            Err(_) => stale_if_error(&old, OriginFetchError::Abandoned),
        }
    }

    /// Returns true if the result of a flight answers this request too: before, the fields by which it varies
    /// and its tags were unknown.
    fn is_for(&self, landing: &FlightOutcome, asking: &OriginLookup) -> bool {
        // What has to be validated for each use was, for the one who asked: with another cookie it may be another.
        let has_cookie = asking.headers.contains_key(header::COOKIE);
        let is_settled =
            |terms: policy::FreshnessTerms| !has_cookie || terms.freshness(now_ms()) == Freshness::Fresh;
        match landing {
            FlightOutcome::Filled(entry) | FlightOutcome::Validated(entry) | FlightOutcome::Remote(entry) => {
                let purged = match &entry.standing {
                    Validity::Log(stamp, _) => self.purges.verdict(stamp) != Purged::Current,
                    Validity::Version(..) => false,
                };
                !purged
                    && match_variant(entry, &asking.headers) != VariantMatch::No
                    && is_settled(entry.terms())
            }
            FlightOutcome::Arriving(head) => {
                let purged = head.stamp.as_ref().is_some_and(|s| self.purges.verdict(s) != Purged::Current);
                let content = policy::StoredContent::of(&head.headers);
                !purged
                    && (head.outcome != FillOutcome::Stored || is_settled(head.terms))
                    && head.status != StatusCode::PARTIAL_CONTENT
                    && head
                        .selecting
                        .as_ref()
                        .is_none_or(|s| s.matches(&asking.headers, content) != VariantMatch::No)
            }
            FlightOutcome::Unshareable(why, _) => asking.is_marked(*why),
            FlightOutcome::Passing(_) | FlightOutcome::Failed(_) => true,
        }
    }

    fn landed_followed(
        &self,
        landing: FlightOutcome,
        reader: Option<StreamReader>,
        old: Option<Arc<CacheEntry>>,
        role: CacheResult,
    ) -> CacheAnswer {
        match landing {
            FlightOutcome::Filled(entry) => CacheAnswer::Entry(entry, role),
            FlightOutcome::Validated(entry) => CacheAnswer::Entry(entry, CacheResult::Revalidated),
            FlightOutcome::Remote(entry) => CacheAnswer::Entry(entry, CacheResult::Remote),
            FlightOutcome::Unshareable(why, status) => {
                stale_if_status(&old, status.unwrap_or_default()).unwrap_or(CacheAnswer::Pass(why))
            }
            FlightOutcome::Passing(what) => match stale_if_status(&old, what.status()) {
                Some(past) => past,
                None => CacheAnswer::Passing(what, FillOutcome::Status),
            },
            FlightOutcome::Arriving(head) => match (stale_if_status(&old, head.status), reader) {
                (Some(past), _) => past,
                (None, Some(reader)) => CacheAnswer::Arriving(head, reader, role),
                (None, None) => CacheAnswer::Pass(head.outcome),
            },
            FlightOutcome::Failed(error) => stale_if_error(&old, error),
        }
    }

    /// The name of the flight for a request: the resource, the fields that are known to tell its answers
    /// apart, and its last purge, after which no request may join an earlier flight; in doubt, also a
    /// possible purge.
    fn flight_of(&self, asking: &OriginLookup, knowledge: LogKnowledge) -> String {
        let names = self.known_names(&asking.key);
        let purge = self.purges.last_purge(asking.resource);
        let mut name = String::with_capacity(asking.key.as_str().len() + 40);
        name.push_str(asking.key.as_str());
        // Parsed from its end, it can't be taken for another.
        name.push('|');
        if !names.is_empty() {
            name.push_str(&SelectingFields::digest(&names, &asking.headers));
        }
        name.push('|');
        if purge > 0 {
            name.push_str(&purge.to_string());
        }
        if knowledge == LogKnowledge::Doubtful {
            let (unread, period) = self.purges.doubtful_period(now_ms());
            name.push_str(&format!("@{unread}@{period}"));
        }
        name
    }

    /// The fields by which the answers of a resource are known to vary.
    pub(crate) fn known_names(&self, key: &CacheKey) -> Vec<HeaderName> {
        let Some(resource) = self.memory.resource(key.as_str()) else { return Vec::new() };
        let selecting = resource.entries().iter().filter_map(|entry| entry.selecting());
        let mut names: Vec<_> = selecting.flat_map(|s| s.names().iter().cloned()).collect();
        names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        names
    }

    /// Returns true if any stored answer of a resource has fields by which it varies.
    pub(crate) fn names_variants(&self, key: &CacheKey) -> bool {
        let resource = self.memory.resource(key.as_str());
        resource
            .is_some_and(|resource| resource.entries().iter().any(|entry| !varying_names(entry).is_empty()))
    }

    /// The result for a request from an entry of the store.
    pub(crate) fn usable_followed(
        &self,
        asking: &OriginLookup,
        entry: Arc<CacheEntry>,
    ) -> Result<Arc<CacheEntry>, Option<Arc<CacheEntry>>> {
        // The key it was found under distinguishes the known codings only.
        if match_variant(&entry, &asking.headers) == VariantMatch::No {
            return Err(None);
        }
        let now = now_ms();
        match self.judge(entry, &asking.asked, self.purges.knowledge(now), now) {
            LookupResult::Serve(entry) => Ok(entry),
            LookupResult::ServeStale(entry) | LookupResult::Old(entry, _) => Err(Some(entry)),
            LookupResult::Nothing(_) => Err(None),
        }
    }
}

/// The time for which an origin is waited for after the client has left and while no request waits. An answer
/// for one client alone is hardly ever stored; events never end; a validation is always wanted.
fn unwatched(asking: &OriginLookup, is_validation: bool) -> Option<Duration> {
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
fn count_use(resource: &MemoryResource, entry: &CacheEntry) {
    if let (MemoryResource::Several(_), Some(uses)) = (resource, entry.uses()) {
        uses.count_one();
    }
}

/// Matches an answer with a request's values. `None`: they are unknown.
fn find_in_memory<'r>(
    entry: &CacheEntry,
    said: &impl Fn(&HeaderName) -> Result<Option<&'r [u8]>, AmbiguousRequest>,
) -> Option<VariantMatch> {
    if entry.part().is_some() {
        return None;
    }
    let Some(selecting) = entry.selecting() else { return Some(VariantMatch::Exact) };
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
    let fits = match_variant(entry, &headers);
    if let Some(said) = entry.said() {
        said.learn(values(), fits);
    }
    Some(fits)
}

/// The variant for a request: one whose fields are equal, else one that fits; the newest first. A part only
/// if the request needs no more.
pub(crate) fn select_variant<'r>(
    resource: &'r MemoryResource,
    headers: &HeaderMap,
) -> Option<&'r Arc<CacheEntry>> {
    let mut fitting = None;
    for entry in resource.entries() {
        match match_variant(entry, headers) {
            VariantMatch::Exact => return Some(entry),
            VariantMatch::Fits => fitting = fitting.or(Some(entry)),
            VariantMatch::No => {}
        }
    }
    fitting
}

/// Returns true if an answer, or a part of it, is stored for requests like this one.
pub(crate) fn is_stored_for(entry: &CacheEntry, headers: &HeaderMap) -> bool {
    variant_of(entry, headers) != VariantMatch::No
}

pub(crate) fn match_variant(entry: &CacheEntry, headers: &HeaderMap) -> VariantMatch {
    if let Some(part) = entry.part() {
        if respond::partial_reply(part.of(&entry.representation), &Method::GET, headers).is_none() {
            return VariantMatch::No;
        }
    }
    variant_of(entry, headers)
}

/// Matches a request with the one that led to an answer, or to a part of it.
pub(crate) fn variant_of(entry: &CacheEntry, headers: &HeaderMap) -> VariantMatch {
    let Some(selecting) = entry.selecting() else { return VariantMatch::Exact };
    let stored = entry.representation.headers();
    selecting.matches(headers, policy::StoredContent::of(&stored))
}

/// Returns true if the leader got a server's error that may be caused by its own request, and there is no
/// stale answer.
fn is_an_error_of_its_own(landing: &FlightOutcome, old: &Option<Arc<CacheEntry>>) -> bool {
    match landing {
        FlightOutcome::Unshareable(FillOutcome::Status | FillOutcome::NoFreshness, Some(status)) => {
            policy::may_be_the_requests_own(*status) && stale_if_status(old, *status).is_none()
        }
        _ => false,
    }
}

/// The name under which refreshes of an entry pause: one for each, and another for requests with properties
/// that others lack. Their answers may not be stored, and say nothing of those for others.
fn refresh_pause_name(asking: &OriginLookup, entry: &CacheEntry) -> String {
    let variant = entry.selecting().map(SelectingFields::name).unwrap_or_default();
    let own = if asking.is_alone() || asking.headers.contains_key(header::COOKIE) { "own" } else { "" };
    format!("{}|{variant}|{own}", asking.key.as_str())
}

/// The stale answer in place of a server's error, if it may be served.
fn stale_if_status(old: &Option<Arc<CacheEntry>>, status: StatusCode) -> Option<CacheAnswer> {
    let past = old.as_ref().filter(|_| status.is_server_error()).filter(|old| allows_stale_if_error(old))?;
    Some(CacheAnswer::StaleIfError(past.clone(), FillFailure::Status(status)))
}

fn stale_if_error(old: &Option<Arc<CacheEntry>>, error: OriginFetchError) -> CacheAnswer {
    match old.as_ref().filter(|old| allows_stale_if_error(old)) {
        Some(old) => CacheAnswer::StaleIfError(old.clone(), FillFailure::Fetch(error)),
        None => CacheAnswer::Failed(error),
    }
}

/// Returns the stale entry in place of a slow answer, if it may be served. A client that asked for another
/// answer waits for it, unless there will be none.
fn stale_entry(
    old: &Option<Arc<CacheEntry>>,
    forward: ForwardReason,
    haste: StaleReason,
) -> Option<Arc<CacheEntry>> {
    let is_stale =
        matches!(forward, ForwardReason::Stale(policy::RevalidateReason::Stale) | ForwardReason::Purged);
    let may =
        |old: &Arc<CacheEntry>| (is_stale || haste == StaleReason::Failing) && haste.allows(old, now_ms());
    old.clone().filter(may)
}

fn allows_stale_if_error(old: &CacheEntry) -> bool {
    matches!(old.terms().on_error(now_ms()), Freshness::Fresh | Freshness::StaleIfError)
}
