//! Routes with a namespace: look-up, version, flight and fallback.

use super::{
    doubt::Coherence,
    draft::{Described, Draft, Verdict},
    entry::{Entry, Made, Opened, Standing},
    fill::{Job, On},
    flight::Joined,
    follow::{ERRORS_OF_OTHERS, MOST_ERRORS_OF_OTHERS},
    kept,
    key::Key,
    live::Live,
    policy::{
        self,
        namespaced::{self, Sharing},
        Freshness,
    },
    stale_at::{or_stale, Haste, StaleAt},
    version::{self, Basis, Slot, Version},
    Answer, Cache, Failure, FetchError, Fetcher, Landing, Led, Look, Wanted,
};
use crate::{
    clock::now_ms,
    config::{self, CacheRules},
    name::{Namespace, Tenant},
    representation::{self, Outside, Representation},
    telemetry::labels::{CacheResult, FillOutcome, StoreError},
};
use http::{header, HeaderMap, HeaderValue, StatusCode};
use std::{sync::Arc, time::Instant};

impl Cache {
    /// Looks up an answer of a namespace in memory, without waiting.
    pub fn look(&self, key: &str, now_ms: u64) -> Look {
        let Some(entry) = self.memory.entry(key) else { return Look::Nothing };
        match &entry.standing {
            Standing::Version(version, slot)
                if slot.is_current(version, entry.is_provisional(), now_ms) == Some(true) =>
            {
                Self::by_age(entry, now_ms)
            }
            _ => Look::Nothing,
        }
    }

    /// The terms of an answer that was fetched at `asked_ms`, in doubt or not.
    pub(super) fn terms_since(
        &self,
        asked_ms: u64,
        is_doubtful: bool,
        terms: policy::Terms,
    ) -> policy::Terms {
        match self.partitions.outage_ttl_ms() {
            Some(ttl_ms) if is_doubtful => terms.provisional(asked_ms, ttl_ms),
            _ => terms,
        }
    }

    fn by_age(entry: Arc<Entry>, now_ms: u64) -> Look {
        match entry.terms().freshness(now_ms) {
            Freshness::Fresh => Look::Hit(entry),
            Freshness::StaleWhileRevalidate => Look::Stale(entry),
            Freshness::StaleIfError | Freshness::Expired => Look::Nothing,
        }
    }

    /// Refreshes a stale entry in the background, unless that is under way already.
    pub fn refresh(self: &Arc<Self>, wanted: &Wanted, entry: &Entry, fetcher: Fetcher) {
        let Standing::Version(version, slot) = &entry.standing else { return };
        let is_read = matches!(slot.standing(now_ms()), version::Standing::Current(_));
        self.refresh_by(wanted, slot, Basis { version: version.clone(), is_assumed: !is_read }, fetcher);
    }

    fn refresh_by(self: &Arc<Self>, wanted: &Wanted, slot: &Arc<Slot>, basis: Basis, fetcher: Fetcher) {
        let name = Self::flight_name(&wanted.key, slot, &basis);
        let is_paused = || self.pauses.is_paused(&name, now_ms());
        let begun = self.flights.begin_unless(&name, is_paused, || Live::begin(&self.arriving));
        if let Some((lead, follow)) = begun {
            // A flight may have landed since the entry was found.
            let now = self.memory.entry(wanted.key.as_str()).filter(|entry| entry.is_of(&basis.version));
            if let Some(Look::Hit(fresh)) = now.map(|entry| Self::by_age(entry, now_ms())) {
                return lead.land(Landing::Filled(fresh));
            }
            let job = Job::of_namespace(wanted, slot.clone(), basis);
            let job = Job { refreshes: Some(name), ..job };
            drop(self.begin_fill(Some(lead), follow.cargo(), job, fetcher));
        }
    }

    /// Answers a request that memory could not: joins or begins the flight, and falls back on the last
    /// generation if the fill fails.
    pub async fn answer(self: &Arc<Self>, wanted: &Wanted, mut fetcher: Fetcher) -> Answer {
        let slot = self.versions.slot(&wanted.rules.namespace, &wanted.tenant);
        let mut errors = 0;
        loop {
            match self.answer_as_one(wanted, &slot, fetcher, errors).await {
                Ok(answer) => return answer,
                Err(_) if errors >= MOST_ERRORS_OF_OTHERS => return Answer::AskYourself(FillOutcome::Status),
                // It asks as well, after the failed one: its error may be another.
                Err(unused) => (fetcher, errors) = (unused, errors + 1),
            }
        }
    }

    /// One attempt of the same; the fetcher is returned if the request waited for another one that got an
    /// error which may have been its own. `errors`: the number of such attempts before.
    async fn answer_as_one(
        self: &Arc<Self>,
        wanted: &Wanted,
        slot: &Arc<Slot>,
        fetcher: Fetcher,
        errors: u32,
    ) -> Result<Answer, Fetcher> {
        let basis = self.version(slot).await;
        let entry = self.memory.entry(wanted.key.as_str()).filter(|entry| {
            let is_usable = !basis.is_assumed || slot.allows(entry.is_provisional(), now_ms());
            is_usable && entry.is_of(&basis.version)
        });
        if let Some(entry) = entry {
            match Self::by_age(entry, now_ms()) {
                Look::Hit(entry) => return Ok(Answer::Entry(entry, CacheResult::Hit)),
                Look::Stale(entry) => {
                    self.refresh_by(wanted, slot, basis, fetcher);
                    return Ok(Answer::Entry(entry, CacheResult::Stale));
                }
                Look::Nothing => {}
            }
        }
        if let Some(why) = self.memory.marked(&wanted.key, now_ms()) {
            return Ok(Answer::AskYourself(why));
        }
        let is_failing = fetcher.is_failing();
        let stale_at = |began| StaleAt::of(began, wanted.rules.stale_after, is_failing);
        let find = |haste| self.past(wanted, haste);
        match self.flights.join(&Self::flight_name(&wanted.key, slot, &basis), || Live::begin(&self.arriving))
        {
            Joined::Lead(lead, follow) => {
                self.metrics.flight_led();
                let live = follow.cargo();
                let reader = live.reader();
                let job = Job::of_namespace(wanted, slot.clone(), basis);
                let known = self.memory.entry(wanted.key.as_str());
                let has_stale = known.is_some_and(|entry| Haste::Failing.allows(&entry, now_ms()));
                let job = Job { shares_errors: errors >= ERRORS_OF_OTHERS, has_stale, ..job };
                let filling = self.begin_fill(Some(lead), live, job, fetcher);
                let led = match or_stale(stale_at(live.began()), filling, find).await {
                    Ok(led) => led,
                    Err(stale) => return Ok(stale),
                };
                Ok(match led {
                    Ok(Led::Landing(landing)) => {
                        self.landed(wanted, landing, reader, CacheResult::Miss).await
                    }
                    Ok(Led::Own(head)) => match (self.stand_in(wanted, head.status).await, reader) {
                        (Some(past), _) => past,
                        (None, Some(reader)) => Answer::Arriving(head, reader, CacheResult::Uncacheable),
                        (None, None) => Answer::Failed(FetchError::Unreachable),
                    },
                    Err(_) => self.fallen(wanted, FetchError::Abandoned).await,
                })
            }
            Joined::Follow(follow) => {
                let began = Instant::now();
                let reader = follow.cargo().reader();
                let stale_at = stale_at(follow.cargo().began());
                let landing = or_stale(stale_at, follow.outcome(), find).await;
                self.metrics.flight_followed(began.elapsed());
                let landing = match landing {
                    Err(stale) => return Ok(stale),
                    Ok(landing) => landing,
                };
                let landing = match landing {
                    // It was given up at this very moment, because no request had waited.
                    Err(_) if reader.is_none() => return Ok(Answer::AskYourself(FillOutcome::Cancelled)),
                    landing => landing.unwrap_or(Landing::Failed(FetchError::Abandoned)),
                };
                if let Landing::Unshareable(FillOutcome::Status, Some(status)) = &landing {
                    if policy::may_be_the_requests_own(*status) {
                        return match self.stand_in(wanted, *status).await {
                            Some(past) => Ok(past),
                            None => Err(fetcher),
                        };
                    }
                }
                Ok(self.landed(wanted, landing, reader, CacheResult::Collapsed).await)
            }
        }
    }

    async fn landed(
        &self,
        wanted: &Wanted,
        landing: Landing,
        reader: Option<super::live::Reader>,
        role: CacheResult,
    ) -> Answer {
        match landing {
            Landing::Filled(entry) | Landing::Validated(entry) => Answer::Entry(entry, role),
            Landing::Remote(entry) => Answer::Entry(entry, CacheResult::Remote),
            Landing::Unshareable(why, _) => Answer::AskYourself(why),
            Landing::Passing(what) => match self.stand_in(wanted, what.status()).await {
                Some(past) => past,
                None => Answer::Passing(what, FillOutcome::Status),
            },
            Landing::Arriving(head) => match (self.stand_in(wanted, head.status).await, reader) {
                (Some(past), _) => past,
                (None, Some(reader)) => Answer::Arriving(head, reader, role),
                (None, None) => Answer::AskYourself(head.outcome),
            },
            Landing::Failed(error) => self.fallen(wanted, error).await,
        }
    }

    /// The last generation in place of a server's error, if it may still be served.
    async fn stand_in(&self, wanted: &Wanted, status: StatusCode) -> Option<Answer> {
        if !status.is_server_error() {
            return None;
        }
        let past = self.past(wanted, Haste::Failing).await?;
        Some(Answer::StaleIfError(past, Failure::Status(status)))
    }

    async fn fallen(&self, wanted: &Wanted, error: FetchError) -> Answer {
        match self.past(wanted, Haste::Failing).await {
            Some(entry) => Answer::StaleIfError(entry, Failure::Fetch(error)),
            None => Answer::Failed(error),
        }
    }

    /// The last generation, if it may be served in place of an answer that failed, or is late.
    async fn past(&self, wanted: &Wanted, haste: Haste) -> Option<Arc<Entry>> {
        let usable = |entry: &Entry| haste.allows(entry, now_ms());
        if let Some(entry) = self.memory.entry(wanted.key.as_str()).filter(|entry| usable(entry)) {
            return Some(entry);
        }
        let (tag, value) = self.redis.as_ref()?.last_answer(&wanted.key).await.ok()??;
        let slot = self.versions.slot(&wanted.rules.namespace, &wanted.tenant);
        let version = Version::named(tag);
        let entry = self.reopened(&wanted.rules, &slot, &version, self.opened(&wanted.key, value)?)?;
        usable(&entry).then(|| {
            self.memory.keep(wanted.key.clone(), entry.clone(), now_ms());
            entry
        })
    }

    /// An entry from a value of a store.
    pub(super) fn reopened(
        &self,
        rules: &CacheRules,
        slot: &Arc<Slot>,
        version: &Version,
        opened: Opened,
    ) -> Option<Arc<Entry>> {
        let Opened { made: Made::Namespaced { received_ms, last_modified }, status, headers, body } = opened
        else {
            return None;
        };
        let told = self.outside(rules, status);
        let representation =
            Representation::new(status, headers, body, last_modified, told, &self.encoding.load());
        let terms = namespaced::terms(rules, status, received_ms);
        let standing = Standing::Version(version.clone(), slot.clone());
        Some(Arc::new(Entry::new(representation, &terms, standing)))
    }

    /// The version for a request. Requests at the same moment share one read.
    async fn version(self: &Arc<Self>, slot: &Arc<Slot>) -> Basis {
        let Some(redis) = &self.redis else { return Basis::read(slot.assumed()) };
        match slot.standing(now_ms()) {
            version::Standing::Current(version) => return Basis::read(version),
            version::Standing::Assumed(version) => return Basis::assumed(version),
            version::Standing::Ask(_) => {}
        }
        if slot.doubt().coherence() == Coherence::Untracked {
            // A read that is under way may be older than a bump before this request.
            return redis.version(slot).await;
        }
        let (epoch, changes) = slot.moment();
        let name = format!("{}:{}:{epoch}:{changes}", slot.namespace(), slot.tenant());
        let reading = match self.reads.join(&name, || ()) {
            Joined::Follow(reading) => reading,
            Joined::Lead(lead, reading) => {
                let (redis, slot) = (redis.clone(), slot.clone());
                self.tasks.spawn(async move { lead.land(redis.version(&slot).await) });
                reading
            }
        };
        reading.outcome().await.unwrap_or_else(|_| Basis::assumed(slot.assumed()))
    }

    /// The name of a flight. In doubt it holds the period, so that a request doesn't join a flight that began
    /// too long ago.
    fn flight_name(key: &Key, slot: &Slot, basis: &Basis) -> String {
        let name = format!("{}:v{}", key.as_str(), basis.version.tag());
        match basis.is_assumed {
            true => format!("{name}@{}", slot.doubt().period(now_ms())),
            false => name,
        }
    }

    /// Bumps the version of a namespace and tenant: every node discards the generation.
    ///
    /// # Errors
    /// If the store did not record it. This node has bumped all the same, and tries again when the store is
    /// back; the others have not.
    pub async fn bump(&self, namespace: &Namespace, tenant: &Tenant) -> Result<Version, StoreError> {
        self.metrics.bump();
        let slot = self.versions.slot(namespace, tenant);
        let Some(redis) = &self.redis else { return Ok(slot.bump_here(now_ms())) };
        match redis.bump(&slot, now_ms()).await {
            Ok(version) => Ok(version),
            Err(error) => {
                slot.bump_here(now_ms());
                Err(error)
            }
        }
    }

    /// Decides on an answer whose head has arrived.
    pub(super) fn draft_of_namespace(
        &self,
        rules: &CacheRules,
        version: &Version,
        slot: &Arc<Slot>,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Draft {
        let storable = namespaced::storable(rules, status, headers);
        let told = match storable {
            Ok(()) => self.outside(rules, status),
            // An answer that is not stored here is not recommended to other caches.
            Err(_) => Arc::new(Outside {
                cache_control: headers
                    .get(header::CACHE_CONTROL)
                    .cloned()
                    .unwrap_or(HeaderValue::from_static("no-store")),
                varies_by_authorization: rules.scope != config::Scope::Public,
            }),
        };
        let verdict = match storable {
            Ok(()) => Verdict::Keep,
            Err(why) => match namespaced::sharing(why, status) {
                Sharing::Everyone => Verdict::Everyone(why),
                Sharing::Asker => Verdict::Asker(why),
                Sharing::AskerAlways => Verdict::AskerAlways(why),
            },
        };
        let own = match verdict {
            _ if storable == Err(FillOutcome::Accel) => kept::orders(headers),
            Verdict::Keep | Verdict::Everyone(_) => Vec::new(),
            Verdict::Asker(_) | Verdict::AskerAlways(_) => {
                let cookies = headers.get_all(header::SET_COOKIE).iter();
                cookies.map(|cookie| (header::SET_COOKIE, cookie.clone())).collect()
            }
        };
        let (fields, described) = match storable {
            // All fields are for the file that is sent instead.
            Err(FillOutcome::Accel) => (kept::passed_fields(headers), Described::Verbatim),
            _ => (
                representation::content_fields(headers),
                Described::ByUs(told, representation::last_modified(headers)),
            ),
        };
        Draft {
            verdict,
            status,
            fields,
            own,
            described,
            length: told_length(headers),
            terms: namespaced::terms(rules, status, now_ms()),
            standing: Standing::Version(version.clone(), slot.clone()),
            selecting: None,
            part: None,
            too_large: false,
            ends_stored: storable.is_err_and(|why| policy::ends_stored(why, status, false)),
        }
    }

    /// The fields for downstream caches; equal ones are shared.
    fn outside(&self, rules: &CacheRules, status: StatusCode) -> Arc<Outside> {
        /// The most that are shared; beyond it the list starts anew, and some are kept twice.
        const MOST: usize = 64;
        let wanted = outside(rules, status);
        let told = self.told.load();
        if let Some(known) = told.iter().find(|known| ***known == wanted) {
            return known.clone();
        }
        let wanted = Arc::new(wanted);
        let before = if told.len() < MOST { &told[..] } else { &[] };
        self.told.store(Arc::new(before.iter().chain([&wanted]).cloned().collect()));
        wanted
    }
}

/// The length of a body, if the head has it.
pub(super) fn told_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl Job {
    fn of_namespace(wanted: &Wanted, slot: Arc<Slot>, basis: Basis) -> Self {
        let (rules, usual) = (wanted.rules.clone(), wanted.usual.clone());
        let on = On::Version { rules, slot, basis, usual };
        Self {
            key: wanted.key.clone(),
            began_ms: now_ms(),
            refreshes: None,
            shares_errors: false,
            has_stale: false,
            on,
            unwatched: None,
        }
    }
}

/// The fields for downstream caches.
fn outside(rules: &CacheRules, status: StatusCode) -> Outside {
    let text = namespaced::outside(rules, status);
    Outside {
        // The text was checked with the configuration.
        cache_control: HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("no-store")),
        varies_by_authorization: rules.scope != config::Scope::Public,
    }
}
