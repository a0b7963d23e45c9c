//! Routes with a namespace: look-up, version, flight and fallback.

use super::{
    origin_lookup::{ERRORS_OF_OTHERS, MOST_ERRORS_OF_OTHERS},
    origin_store,
    version_wait::is_at_least,
    versioned_fill::VersionedFill,
};
use crate::{
    cache::{
        coherence::{
            doubt::CoherenceState,
            purge::PurgeVerdict,
            version::{self, Version, VersionBasis, VersionSlot},
        },
        entry::{CacheEntry, EntryOrigin, OpenedEnvelope, Validity},
        fill::{
            coalescing::FlightJoin,
            draft::{DescribedBy, EntryDraft, StoreVerdict},
            job::FillJob,
            stale_after::{wait_or_stale, StaleDeadline, StaleReason},
            streaming_body::StreamingBody,
        },
        key::CacheKey,
        policy::{
            self,
            namespaced::{self, AnswerSharing},
            Freshness,
        },
        Cache, CacheAnswer, CacheRequest, FillFailure, FlightOutcome, LeadOutcome, MemoryLookup, MissFetcher,
        OriginFetchError,
    },
    clock::now_ms,
    config::{self, CacheRules},
    http::framing::content_length::content_length,
    name::{Namespace, Tenant},
    representation::{self, OutsideCaching, Representation},
    telemetry::labels::{CacheResult, FillOutcome, StoreError},
};

use http::{header, HeaderMap, HeaderValue, StatusCode};
use std::{sync::Arc, time::Instant};

impl Cache {
    /// Looks up an answer of a namespace in memory, without waiting.
    pub fn look(&self, key: &str, now_ms: u64) -> MemoryLookup {
        let Some(entry) = self.memory.entry(key) else { return MemoryLookup::Nothing };
        match &entry.standing {
            Validity::Version(version, slot)
                if slot.is_current(version, entry.is_provisional(), now_ms) == Some(true) =>
            {
                Self::by_age(entry, now_ms)
            }
            _ => MemoryLookup::Nothing,
        }
    }

    /// The terms of an answer that was fetched at `asked_ms`, in doubt or not.
    pub(crate) fn terms_since(
        &self,
        asked_ms: u64,
        is_doubtful: bool,
        terms: policy::FreshnessTerms,
    ) -> policy::FreshnessTerms {
        match self.partitions.outage_ttl_ms() {
            Some(ttl_ms) if is_doubtful => terms.provisional(asked_ms, ttl_ms),
            _ => terms,
        }
    }

    fn by_age(entry: Arc<CacheEntry>, now_ms: u64) -> MemoryLookup {
        match entry.terms().freshness(now_ms) {
            Freshness::Fresh => MemoryLookup::Hit(entry),
            Freshness::StaleWhileRevalidate => MemoryLookup::Stale(entry),
            Freshness::StaleIfError | Freshness::Expired => MemoryLookup::Nothing,
        }
    }

    /// Refreshes a stale entry in the background, unless that is under way already.
    pub fn refresh(self: &Arc<Self>, wanted: &CacheRequest, entry: &CacheEntry, fetcher: MissFetcher) {
        let Validity::Version(version, slot) = &entry.standing else { return };
        let is_read = matches!(slot.standing(now_ms()), version::SlotVersion::Current(_));
        self.refresh_by(
            wanted,
            slot,
            VersionBasis { version: version.clone(), is_assumed: !is_read },
            fetcher,
        );
    }

    fn refresh_by(
        self: &Arc<Self>,
        wanted: &CacheRequest,
        slot: &Arc<VersionSlot>,
        basis: VersionBasis,
        fetcher: MissFetcher,
    ) {
        let name = Self::flight_name(&wanted.key, slot, &basis);
        let is_paused = || self.pauses.is_paused(&name, now_ms());
        let begun = self.flights.begin_unless(&name, is_paused, || StreamingBody::begin(&self.arriving));
        if let Some((lead, follow)) = begun {
            // A flight may have landed since the entry was found.
            let now = self.memory.entry(wanted.key.as_str()).filter(|entry| entry.is_of(&basis.version));
            if let Some(MemoryLookup::Hit(fresh)) = now.map(|entry| Self::by_age(entry, now_ms())) {
                return lead.land(FlightOutcome::Filled(fresh));
            }
            let job = VersionedFill::job(wanted, slot.clone(), basis);
            let job = FillJob { refreshes: Some(name), ..job };
            drop(self.begin_fill(Some(lead), follow.cargo(), job, fetcher));
        }
    }

    /// Answers a request that memory could not: joins or begins the flight, and falls back on the last
    /// generation if the fill fails.
    pub async fn answer(self: &Arc<Self>, wanted: &CacheRequest, mut fetcher: MissFetcher) -> CacheAnswer {
        let slot = self.versions.slot(&wanted.rules.namespace, &wanted.tenant);
        let mut errors = 0;
        loop {
            match self.answer_as_one(wanted, &slot, fetcher, errors).await {
                Ok(answer) => return answer,
                Err(_) if errors >= MOST_ERRORS_OF_OTHERS => return CacheAnswer::Pass(FillOutcome::Status),
                // It asks as well, after the failed one: its error may be another.
                Err(unused) => (fetcher, errors) = (unused, errors + 1),
            }
        }
    }

    /// The answer for those who watch an entry: what is stale is refreshed first, by the flight that all share.
    pub async fn renew(self: &Arc<Self>, wanted: &CacheRequest, fetcher: MissFetcher) -> CacheAnswer {
        // Those who watch ask rarely, and want to know when it can be stored again.
        self.memory.unmark(&wanted.key);
        let MemoryLookup::Stale(stale) = self.look(wanted.key.as_str(), now_ms()) else {
            return self.answer(wanted, fetcher).await;
        };
        let slot = self.versions.slot(&wanted.rules.namespace, &wanted.tenant);
        let basis = self.version(&slot).await;
        let name = Self::flight_name(&wanted.key, &slot, &basis);
        self.refresh_by(wanted, &slot, basis, fetcher);
        // Without a flight it has landed already, or is put off after a failure.
        let Some(flight) = self.flights.follow(&name) else {
            let now = self.memory.entry(wanted.key.as_str()).unwrap_or(stale);
            return CacheAnswer::Entry(now, CacheResult::Hit);
        };
        let reader = flight.cargo().reader();
        let landing = flight.outcome().await;
        let landing = landing.unwrap_or(FlightOutcome::Failed(OriginFetchError::Abandoned));
        self.finish_landing(wanted, landing, reader, CacheResult::Collapsed).await
    }

    /// Returns true if a version or a purge has ended an answer in memory, whatever its age.
    pub fn is_superseded(&self, key: &str, now_ms: u64) -> bool {
        let Some(resource) = self.memory.resource(key) else { return false };
        resource.entries().iter().any(|entry| match &entry.standing {
            Validity::Version(version, slot) => {
                slot.is_current(version, entry.is_provisional(), now_ms) != Some(true)
            }
            Validity::Log(stamp, _) => self.purges.verdict(stamp) != PurgeVerdict::Current,
        })
    }

    /// One attempt of the same; the fetcher is returned if the request waited for another one that got an
    /// error which may have been its own. `errors`: the number of such attempts before.
    async fn answer_as_one(
        self: &Arc<Self>,
        wanted: &CacheRequest,
        slot: &Arc<VersionSlot>,
        fetcher: MissFetcher,
        errors: u32,
    ) -> Result<CacheAnswer, MissFetcher> {
        let basis = self.version_at_least(slot, &wanted.at_least).await;
        if let Some(entry) = self.usable_entry(wanted, slot, &basis) {
            match Self::by_age(entry, now_ms()) {
                MemoryLookup::Hit(entry) => return Ok(CacheAnswer::Entry(entry, CacheResult::Hit)),
                MemoryLookup::Stale(entry) => {
                    self.refresh_by(wanted, slot, basis, fetcher);
                    return Ok(CacheAnswer::Entry(entry, CacheResult::Stale));
                }
                MemoryLookup::Nothing => {}
            }
        }
        if let Some(why) = self.memory.marked(&wanted.key, now_ms()) {
            return Ok(CacheAnswer::Pass(why));
        }
        let is_failing = fetcher.is_failing();
        let stale_at = |began| StaleDeadline::of(began, wanted.rules.stale_after, is_failing);
        let find = |haste| self.past(wanted, haste);
        match self
            .flights
            .join(&Self::flight_name(&wanted.key, slot, &basis), || StreamingBody::begin(&self.arriving))
        {
            FlightJoin::Lead(lead, follow) => {
                // A flight may have landed since memory was looked at.
                let landed =
                    self.usable_entry(wanted, slot, &basis).map(|entry| Self::by_age(entry, now_ms()));
                if let Some(MemoryLookup::Hit(entry)) = landed {
                    lead.land(FlightOutcome::Filled(entry.clone()));
                    return Ok(CacheAnswer::Entry(entry, CacheResult::Hit));
                }
                self.metrics.flight_led();
                let live = follow.cargo();
                let reader = live.reader();
                let job = VersionedFill::job(wanted, slot.clone(), basis);
                let known = self.memory.entry(wanted.key.as_str());
                let has_stale = known.is_some_and(|entry| {
                    StaleReason::Failing.allows(&entry, now_ms()) && is_at_least(&entry, &wanted.at_least)
                });
                let job = FillJob { shares_errors: errors >= ERRORS_OF_OTHERS, has_stale, ..job };
                let filling = self.begin_fill(Some(lead), live, job, fetcher);
                let led = match wait_or_stale(stale_at(live.began()), filling, find).await {
                    Ok(led) => led,
                    Err(stale) => return Ok(stale),
                };
                Ok(match led {
                    Ok(LeadOutcome::Landing(landing)) => {
                        self.finish_landing(wanted, landing, reader, CacheResult::Miss).await
                    }
                    Ok(LeadOutcome::Own(head)) => match (self.stand_in(wanted, head.status).await, reader) {
                        (Some(past), _) => past,
                        (None, Some(reader)) => CacheAnswer::Arriving(head, reader, CacheResult::Uncacheable),
                        (None, None) => CacheAnswer::Failed(OriginFetchError::Unreachable),
                    },
                    Err(_) => self.fallen(wanted, OriginFetchError::Abandoned).await,
                })
            }
            FlightJoin::Follow(follow) => {
                let began = Instant::now();
                let reader = follow.cargo().reader();
                let stale_at = stale_at(follow.cargo().began());
                let landing = wait_or_stale(stale_at, follow.outcome(), find).await;
                self.metrics.flight_followed(began.elapsed());
                let landing = match landing {
                    Err(stale) => return Ok(stale),
                    Ok(landing) => landing,
                };
                let landing = match landing {
                    // It was given up at this very moment, because no request had waited.
                    Err(_) if reader.is_none() => return Ok(CacheAnswer::Pass(FillOutcome::Cancelled)),
                    landing => landing.unwrap_or(FlightOutcome::Failed(OriginFetchError::Abandoned)),
                };
                if let FlightOutcome::Unshareable(FillOutcome::Status, Some(status)) = &landing {
                    if policy::may_be_the_requests_own(*status) {
                        return match self.stand_in(wanted, *status).await {
                            Some(past) => Ok(past),
                            None => Err(fetcher),
                        };
                    }
                }
                Ok(self.finish_landing(wanted, landing, reader, CacheResult::Collapsed).await)
            }
        }
    }

    /// The entry in memory of the version that a request goes by.
    fn usable_entry(
        &self,
        wanted: &CacheRequest,
        slot: &VersionSlot,
        basis: &VersionBasis,
    ) -> Option<Arc<CacheEntry>> {
        self.memory.entry(wanted.key.as_str()).filter(|entry| {
            let is_usable = !basis.is_assumed || slot.allows(entry.is_provisional(), now_ms());
            is_usable && entry.is_of(&basis.version)
        })
    }

    async fn finish_landing(
        &self,
        wanted: &CacheRequest,
        landing: FlightOutcome,
        reader: Option<crate::cache::fill::streaming_body::StreamReader>,
        role: CacheResult,
    ) -> CacheAnswer {
        match landing {
            FlightOutcome::Filled(entry) | FlightOutcome::Validated(entry) => CacheAnswer::Entry(entry, role),
            FlightOutcome::Remote(entry) => CacheAnswer::Entry(entry, CacheResult::Remote),
            FlightOutcome::Unshareable(why, _) => CacheAnswer::Pass(why),
            FlightOutcome::Passing(what) => match self.stand_in(wanted, what.status()).await {
                Some(past) => past,
                None => CacheAnswer::Passing(what, FillOutcome::Status),
            },
            FlightOutcome::Arriving(head) => match (self.stand_in(wanted, head.status).await, reader) {
                (Some(past), _) => past,
                (None, Some(reader)) => CacheAnswer::Arriving(head, reader, role),
                (None, None) => CacheAnswer::Pass(head.outcome),
            },
            FlightOutcome::Failed(error) => self.fallen(wanted, error).await,
        }
    }

    /// The last generation in place of a server's error, if it may still be served.
    async fn stand_in(&self, wanted: &CacheRequest, status: StatusCode) -> Option<CacheAnswer> {
        if !status.is_server_error() {
            return None;
        }
        let past = self.past(wanted, StaleReason::Failing).await?;
        Some(CacheAnswer::StaleIfError(past, FillFailure::Status(status)))
    }

    async fn fallen(&self, wanted: &CacheRequest, error: OriginFetchError) -> CacheAnswer {
        match self.past(wanted, StaleReason::Failing).await {
            Some(entry) => CacheAnswer::StaleIfError(entry, FillFailure::Fetch(error)),
            None => CacheAnswer::Failed(error),
        }
    }

    /// The last generation, if it may be served in place of an answer that failed, or is late.
    async fn past(&self, wanted: &CacheRequest, haste: StaleReason) -> Option<Arc<CacheEntry>> {
        let usable =
            |entry: &CacheEntry| haste.allows(entry, now_ms()) && is_at_least(entry, &wanted.at_least);
        if let Some(entry) = self.memory.entry(wanted.key.as_str()).filter(|entry| usable(entry)) {
            return Some(entry);
        }
        let (tag, value) = self.redis.as_ref()?.last_answer(&wanted.key).await.ok()??;
        let slot = self.versions.slot(&wanted.rules.namespace, &wanted.tenant);
        let version = Version::named(tag);
        let entry = self.reopen_entry(&wanted.rules, &slot, &version, self.opened(&wanted.key, value)?)?;
        usable(&entry).then(|| {
            self.memory.keep(wanted.key.clone(), entry.clone(), now_ms());
            entry
        })
    }

    /// An entry from a value of a store.
    pub(crate) fn reopen_entry(
        &self,
        rules: &CacheRules,
        slot: &Arc<VersionSlot>,
        version: &Version,
        opened: OpenedEnvelope,
    ) -> Option<Arc<CacheEntry>> {
        let OpenedEnvelope {
            made: EntryOrigin::Namespaced { received_ms, last_modified },
            status,
            headers,
            body,
        } = opened
        else {
            return None;
        };
        let told = self.outside(rules, status);
        let representation =
            Representation::new(status, headers, body, last_modified, told, &self.encoding.load());
        let terms = namespaced::versioned_terms(rules, status, received_ms);
        let standing = Validity::Version(version.clone(), slot.clone());
        Some(Arc::new(CacheEntry::new(representation, &terms, standing)))
    }

    /// The version for a request. Requests at the same moment share one read.
    pub(super) async fn version(self: &Arc<Self>, slot: &Arc<VersionSlot>) -> VersionBasis {
        let Some(redis) = &self.redis else { return VersionBasis::read(slot.assumed()) };
        match slot.standing(now_ms()) {
            version::SlotVersion::Current(version) => return VersionBasis::read(version),
            version::SlotVersion::Assumed(version) => return VersionBasis::assumed(version),
            version::SlotVersion::Ask(_) => {}
        }
        if slot.doubt().coherence() == CoherenceState::Untracked {
            // A read that is under way may be older than a bump before this request.
            return redis.version(slot).await;
        }
        let (epoch, changes) = slot.moment();
        let name = format!("{}:{}:{epoch}:{changes}", slot.namespace(), slot.tenant());
        let reading = match self.reads.join(&name, || ()) {
            FlightJoin::Follow(reading) => reading,
            FlightJoin::Lead(lead, reading) => {
                let (redis, slot) = (redis.clone(), slot.clone());
                self.tasks.spawn(async move { lead.land(redis.version(&slot).await) });
                reading
            }
        };
        reading.outcome().await.unwrap_or_else(|_| VersionBasis::assumed(slot.assumed()))
    }

    /// The name of a flight. In doubt it holds the period, so that a request doesn't join a flight that began
    /// too long ago.
    fn flight_name(key: &CacheKey, slot: &VersionSlot, basis: &VersionBasis) -> String {
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
    pub(crate) fn draft_of_namespace(
        &self,
        rules: &CacheRules,
        version: &Version,
        slot: &Arc<VersionSlot>,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> EntryDraft {
        let storable = namespaced::check_versioned_storable(rules, status, headers);
        let told = match storable {
            Ok(()) => self.outside(rules, status),
            // An answer that is not stored here is not recommended to other caches.
            Err(_) => Arc::new(OutsideCaching {
                cache_control: headers
                    .get(header::CACHE_CONTROL)
                    .cloned()
                    .unwrap_or(HeaderValue::from_static("no-store")),
                varies_by_authorization: rules.scope != config::CacheScope::Public,
            }),
        };
        let verdict = match storable {
            Ok(()) => StoreVerdict::Keep,
            Err(why) => match namespaced::decide_sharing(why, status) {
                AnswerSharing::Everyone => StoreVerdict::Everyone(why),
                AnswerSharing::Asker => StoreVerdict::Asker(why),
                AnswerSharing::AskerAlways => StoreVerdict::AskerAlways(why),
            },
        };
        let own = match verdict {
            _ if storable == Err(FillOutcome::Accel) => origin_store::internal_fields(headers),
            StoreVerdict::Keep | StoreVerdict::Everyone(_) => Vec::new(),
            StoreVerdict::Asker(_) | StoreVerdict::AskerAlways(_) => {
                let cookies = headers.get_all(header::SET_COOKIE).iter();
                cookies.map(|cookie| (header::SET_COOKIE, cookie.clone())).collect()
            }
        };
        let (fields, described) = match storable {
            // All fields are for the file that is sent instead.
            Err(FillOutcome::Accel) => (origin_store::passed_fields(headers), DescribedBy::Verbatim),
            _ => (
                representation::content_fields(headers),
                DescribedBy::ByUs(told, representation::last_modified(headers)),
            ),
        };
        EntryDraft {
            verdict,
            status,
            fields,
            own,
            described,
            length: content_length(headers),
            terms: namespaced::versioned_terms(rules, status, now_ms()),
            standing: Validity::Version(version.clone(), slot.clone()),
            selecting: None,
            part: None,
            too_large: false,
            ends_stored: storable.is_err_and(|why| policy::ends_stored(why, status, false)),
        }
    }

    /// The fields for downstream caches; equal ones are shared.
    fn outside(&self, rules: &CacheRules, status: StatusCode) -> Arc<OutsideCaching> {
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

/// The fields for downstream caches.
fn outside(rules: &CacheRules, status: StatusCode) -> OutsideCaching {
    let text = namespaced::outside_cache_control(rules, status);
    OutsideCaching {
        // The text was checked with the configuration.
        cache_control: HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("no-store")),
        varies_by_authorization: rules.scope != config::CacheScope::Public,
    }
}
