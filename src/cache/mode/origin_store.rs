//! Stored answers of an origin that is followed: from the head of an answer, a 304, a part, a HEAD and an
//! answer that passes through.

use super::origin_lookup::{is_stored_for, variant_of, OriginLookup};
use crate::{
    cache::{
        coherence::purge::{self, LogKnowledge, PurgeStamp, PurgeVerdict as Purged, RecordId},
        entry::{
            variants::{add_selecting_fields, varying_names, VariantArrival},
            CacheEntry, EntryOrigin, OpenedEnvelope, StoredRange, Validity,
        },
        fill::draft::{DescribedBy, EntryDraft, StoreVerdict},
        key::CacheKey,
        policy::{self, HeadEffect, OriginExchange, SelectingFields, VariantMatch, VaryRule},
        Cache,
    },
    clock::{self, now_ms},
    http::{
        framing::content_length::content_length,
        hop_by_hop::{connection_options, is_hop_by_hop},
        names::{is_accel_field, is_for_gateway},
    },
    representation::{range, Body, Representation},
    telemetry::labels::FillOutcome,
};

use bytes::Bytes;
use http::{header, HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use std::sync::Arc;

/// The state when a request went to the origin that the gateway only proxies.
#[derive(Debug, Clone, Copy)]
pub struct ForwardStart {
    pub(crate) at_ms: u64,
    pub(crate) since: PurgePosition,
}

/// The position in the purge log when a fill began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PurgePosition {
    pub(crate) position: u64,
    pub(crate) id: Option<RecordId>,
    /// It was unknown then if the log had more records.
    pub(crate) is_doubtful: bool,
}

/// An answer that passes through and is stored.
pub struct ResponseCapture {
    asking: OriginLookup,
    draft: EntryDraft,
    pieces: Vec<Bytes>,
    length: u64,
    keep: u64,
}

impl ResponseCapture {
    /// Adds the next piece of its body.
    pub fn push(&mut self, piece: &Bytes) {
        self.length += piece.len() as u64;
        if self.length <= self.keep {
            self.pieces.push(piece.clone());
        }
    }
}

impl Cache {
    /// Notes the state for a request that goes to the origin now.
    pub fn sent(&self) -> ForwardStart {
        let at_ms = now_ms();
        ForwardStart { at_ms, since: self.since(self.is_in_doubt(at_ms)) }
    }

    pub(crate) fn is_current(&self, standing: &Validity) -> bool {
        matches!(standing, Validity::Log(stamp, _) if self.purges.verdict(stamp) == Purged::Current)
    }

    fn is_in_doubt(&self, now_ms: u64) -> bool {
        self.purges.knowledge(now_ms) == LogKnowledge::Doubtful
    }

    /// The position of a fill that begins now.
    pub(crate) fn since(&self, is_doubtful: bool) -> PurgePosition {
        // First the position: a purge in between then counts against the answer on every node.
        let position = self.purges.position();
        PurgePosition { position, id: self.purges.log_id(), is_doubtful }
    }

    /// The stamp of an answer, and true if it has all of its tags.
    fn stamp(
        &self,
        since: PurgePosition,
        asking: &OriginLookup,
        answer: &HeaderMap,
    ) -> (Arc<PurgeStamp>, bool) {
        let tags = purge::tags_of(answer);
        self.metrics.tags_ignored(tags.ignored);
        let kept: Vec<&str> = tags.kept.iter().map(|tag| &**tag).collect();
        (Arc::new(self.purges.stamp(since.position, asking.resource, &kept)), tags.ignored == 0)
    }

    /// Decides on an answer whose head has arrived.
    pub(crate) fn draft_of_origin(
        &self,
        asking: &OriginLookup,
        sent: ForwardStart,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> EntryDraft {
        let ForwardStart { at_ms: requested_ms, since } = sent;
        let length = content_length(headers);
        // A 206 without a range in the request is not stored.
        let is_part = status == StatusCode::PARTIAL_CONTENT && asking.headers.contains_key(header::RANGE);
        let part = if is_part { stored_range(headers, length) } else { None };
        let exchange = OriginExchange {
            method: &asking.method,
            request: &asking.headers,
            authorized: asking.authorized,
            content_location_is_target: asking.method == Method::POST
                && policy::content_is_of_target(&asking.host, &asking.target, headers),
            // A part is stored on the terms of the whole.
            status: if part.is_some() { StatusCode::OK } else { status },
            answer: headers,
            requested_ms,
            received: clock::reading(),
        };
        let directives = policy::response_directives(headers);
        let storable = match policy::origin_driven::check_storable_as(&asking.rules, &exchange, &directives) {
            // Its cookie is not stored, and the leader gets it.
            Ok(_) if headers.contains_key(header::SET_COOKIE) && !asking.rules.set_cookie => {
                Err(FillOutcome::SetCookie)
            }
            other => other,
        };
        let mut kept = policy::stored_fields(headers, &directives, &asking.rules);
        if !headers.contains_key(header::DATE) {
            // RFC 9110, 6.6.1: a recipient with a clock adds a missing `Date`.
            kept.push((header::DATE, crate::http::date::format_date(exchange.received.wall_ms / 1_000)));
        }
        let selecting = match policy::vary_rule(headers, &asking.headers) {
            VaryRule::By(selecting) => Some(selecting),
            VaryRule::Never | VaryRule::Always => None,
        };
        // Values that the gateway sets for the origin can't be compared with those of a client.
        let ours =
            |selecting: &SelectingFields| selecting.names().iter().any(|name| asking.ours.contains(name));
        let storable = match storable {
            Ok(_) if selecting.as_ref().is_some_and(ours) => Err(FillOutcome::VaryAny),
            other => other,
        };
        let (stamp, is_tagged) = self.stamp(since, asking, headers);
        let storable = match storable {
            // A purge would not find it.
            Ok(_) if !is_tagged => Err(FillOutcome::Tags),
            other => other,
        };
        // A client that forbids storing its answer does not end a stored one of the same representation.
        let by_client = storable.is_ok() && asking.asked.no_store;
        let storable = if by_client { Err(FillOutcome::NoStore) } else { storable };
        let ends_stored = storable.is_err_and(|why| {
            !(by_client && status.is_success()) && policy::ends_stored(why, status, asking.authorized)
        });
        let orders_a_file = matches!(storable, Err(FillOutcome::Accel));
        let (verdict, terms) = match storable {
            Ok(terms) => (StoreVerdict::Keep, self.terms_since(requested_ms, since.is_doubtful, terms)),
            Err(why) if asking.is_alone() => (StoreVerdict::Asker(why), NEVER_FRESH),
            Err(why) if status.is_server_error() => match is_for_all(why, headers, selecting.as_ref()) {
                true => (StoreVerdict::Everyone(why), NEVER_FRESH),
                false => (StoreVerdict::Asker(why), NEVER_FRESH),
            },
            // A refusal, a redirection: the next answer may differ.
            Err(why @ FillOutcome::Status) => (StoreVerdict::Asker(why), NEVER_FRESH),
            // The next request may come without one.
            Err(why @ FillOutcome::Cookie) => (StoreVerdict::Asker(why), NEVER_FRESH),
            Err(why) => (StoreVerdict::AskerAlways(why), NEVER_FRESH),
        };
        let own = if orders_a_file { internal_fields(headers) } else { Vec::new() };
        let fields = match verdict {
            StoreVerdict::Keep => kept,
            _ => passed_fields(headers),
        };
        EntryDraft {
            verdict,
            status,
            fields,
            own,
            described: DescribedBy::Verbatim,
            length,
            terms,
            standing: Validity::Log(stamp, since.id.map(Box::new)),
            selecting,
            part,
            too_large: false,
            ends_stored,
        }
    }

    /// A stored answer that the origin has just validated, with the fields of the 304; and the decision if it
    /// may still be stored.
    pub(crate) fn validated(
        &self,
        asking: &OriginLookup,
        old: &CacheEntry,
        sent: ForwardStart,
        fresh: &HeaderMap,
    ) -> (CacheEntry, Result<(), FillOutcome>) {
        let ForwardStart { at_ms: requested_ms, since } = sent;
        let exchange = OriginExchange {
            method: &Method::GET,
            request: &asking.headers,
            authorized: asking.authorized,
            content_location_is_target: false,
            status: StatusCode::NOT_MODIFIED,
            answer: fresh,
            requested_ms,
            received: clock::reading(),
        };
        let what = &old.representation;
        let (fields, terms) =
            policy::renew_terms(&asking.rules, &exchange, whole_status(old), &what.headers());
        let answer: HeaderMap = fields.iter().cloned().collect();
        let selecting = match policy::vary_rule(&answer, &asking.headers) {
            // It may vary by more fields than before.
            VaryRule::By(now) if varying_names(old) != now.names() => Some(now),
            _ => old.selecting().cloned(),
        };
        let representation = what.with_headers(fields, &self.encoding.load());
        let (stamp, is_tagged) = self.stamp(since, asking, &answer);
        let terms = if is_tagged { terms } else { terms.and(Err(FillOutcome::Tags)) };
        let standing = Validity::Log(stamp, since.id.map(Box::new));
        let terms = terms.map(|terms| self.terms_since(requested_ms, since.is_doubtful, terms));
        let until =
            terms.unwrap_or(policy::FreshnessTerms { received_ms: exchange.received.now_ms, ..NEVER_FRESH });
        let entry = CacheEntry::new(representation, &until, standing).narrow_entry(selecting, None);
        (entry, terms.map(|_| ()))
    }

    /// Stores an answer, combined with the part that is there. `told`: the fields by which other nodes tell
    /// the variants of the resource apart, if this one doesn't know any.
    pub(crate) fn keep_followed(
        &self,
        asking: &OriginLookup,
        told: &[HeaderName],
        entry: Arc<CacheEntry>,
    ) -> Arc<CacheEntry> {
        let Validity::Log(stamp, _) = &entry.standing else { return entry };
        if self.purges.verdict(stamp) != Purged::Current {
            return entry;
        }
        let entry = match entry.part() {
            None => entry,
            Some(part) => {
                // By the fields of the part that it may be combined with.
                let mut names = [self.known_names(&asking.key), varying_names(&entry)].concat();
                names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
                names.dedup();
                let entry = add_selecting_fields(entry, &names, Some(&asking.headers));
                self.combined(&asking.key, &entry, part, asking.rules.max_size).map_or(entry, Arc::new)
            }
        };
        self.keep_variant(asking, told, entry)
    }

    /// Stores an answer beside the other variants of its resource.
    pub(crate) fn keep_variant(
        &self,
        asking: &OriginLookup,
        told: &[HeaderName],
        entry: Arc<CacheEntry>,
    ) -> Arc<CacheEntry> {
        let most = asking.rules.variants;
        let arrival = VariantArrival { request: &asking.headers, told, most, now_ms: now_ms() };
        let (kept, gone) = self.memory.keep_variant(asking.key.clone(), entry, &arrival);
        self.metrics.variants_evicted(gone);
        kept
    }

    /// Combines parts with the same strong tag, up to `max_size` bytes (RFC 9111, 3.4); all parts make the
    /// whole. Purged parts are not used.
    fn combined(
        &self,
        key: &CacheKey,
        entry: &CacheEntry,
        part: StoredRange,
        max_size: u64,
    ) -> Option<CacheEntry> {
        let resource = self.memory.resource(key.as_str())?;
        let tag = entry.representation.header(&header::ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""));
        let old = resource.entries().iter().find(|old| {
            old.part().is_some_and(|other| other.total == part.total)
                && old.selecting() == entry.selecting()
                && tag.is_some()
                && old.representation.header(&header::ETAG) == tag
                && self.is_current(&old.standing)
        });
        let (mut first, mut body) = (part.first, entry.representation.body().clone());
        if let Some((old, old_part)) = old.and_then(|old| Some((old, old.part()?))) {
            let have = (old_part.first, old.representation.body());
            (first, body) =
                range::combine_parts(have, (first, &body)).filter(|(_, body)| body.len() <= max_size)?;
        }
        let is_whole = first == 0 && body.len() == part.total;
        let representation = match is_whole {
            true => entry.representation.as_whole(body, &self.encoding.load()),
            false => entry.representation.with_body(body, &self.encoding.load()),
        };
        let part = (!is_whole).then_some(StoredRange { first, total: part.total });
        Some(entry.with(representation).narrow_entry(entry.selecting().cloned(), part))
    }

    /// An entry from a value of the store; `None` if it is unknown whether it was purged.
    pub(crate) fn reopened_followed(
        &self,
        asking: &OriginLookup,
        opened: OpenedEnvelope,
    ) -> Option<Arc<CacheEntry>> {
        let OpenedEnvelope { made: EntryOrigin::Followed { terms, since }, status, headers, body } = opened
        else {
            return None;
        };
        let representation = Representation::verbatim(status, headers, body, &self.encoding.load());
        let fields: HeaderMap = representation.headers().into_iter().collect();
        let tags = purge::tags_of(&fields);
        let kept: Vec<&str> = tags.kept.iter().map(|tag| &**tag).collect();
        let stamp = self.purges.stamp_from(since, asking.resource, &kept).filter(|_| tags.ignored == 0)?;
        let selecting = match policy::vary_rule(&fields, &asking.headers) {
            VaryRule::By(selecting) => Some(selecting),
            VaryRule::Never => None,
            VaryRule::Always => return None,
        };
        let standing = Validity::Log(Arc::new(stamp), Some(Box::new(since)));
        Some(Arc::new(CacheEntry::new(representation, &terms, standing).narrow_entry(selecting, None)))
    }

    /// Captures the answer to a proxied request, if the origin's headers allow to store it for GET: that of a
    /// POST whose `Content-Location` is its own target. Must be called before the POST invalidates stored
    /// answers: an answer from before a purge is not stored.
    pub fn capture(
        &self,
        asking: OriginLookup,
        sent: ForwardStart,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Option<ResponseCapture> {
        let draft = self.draft_of_origin(&asking, sent, status, headers);
        let keep = asking.rules.max_size;
        let small = draft.length.is_none_or(|length| length <= keep);
        let whole = draft.verdict == StoreVerdict::Keep && draft.part.is_none() && small;
        (whole && self.is_current(&draft.standing)).then(|| ResponseCapture {
            asking,
            draft,
            pieces: Vec::new(),
            length: 0,
            keep,
        })
    }

    /// Excludes the invalidation by the POST itself from the purges that count against its answer.
    pub fn invalidated(&self, capture: &mut ResponseCapture) {
        let since = self.since(self.is_in_doubt(now_ms()));
        let fields: HeaderMap = capture.draft.fields.iter().cloned().collect();
        capture.draft.standing =
            Validity::Log(self.stamp(since, &capture.asking, &fields).0, since.id.map(Box::new));
    }

    /// Stores a captured answer, which is complete now.
    pub fn keep_captured(&self, capture: ResponseCapture) {
        let ResponseCapture { asking, draft, pieces, length, keep } = capture;
        if length <= keep && draft.length.is_none_or(|told| told == length) {
            let entry = Arc::new(draft.entry(Body::from_pieces(pieces), &self.encoding.load()));
            self.keep_followed(&asking, &[], entry);
        }
    }

    /// Ends the answers to requests like this one that were received before then, if `is_over` is true of them
    /// (RFC 9111, 4.3.3).
    pub(crate) fn end_followed(
        &self,
        asking: &OriginLookup,
        before_ms: u64,
        is_over: impl Fn(&CacheEntry) -> bool,
    ) {
        self.memory.end(&asking.key, |entry| {
            is_stored_for(entry, &asking.headers) && entry.terms().received_ms <= before_ms && is_over(entry)
        });
    }

    /// Ends the answers to requests like this one that were received before then, here and in the store, if
    /// any answer of the resource is shown to be older.
    pub(crate) fn end_older(
        &self,
        asking: &OriginLookup,
        before_ms: u64,
        is_older: impl Fn(&CacheEntry) -> bool,
    ) {
        let resource = self.memory.resource(asking.key.as_str());
        if resource.is_some_and(|resource| resource.entries().iter().any(|entry| is_older(entry))) {
            self.forget_followed(asking);
            self.end_followed(asking, before_ms, is_older);
        }
    }

    /// Updates or ends a stored answer to GET by an answer to HEAD (RFC 9111, 4.3.5); has no effect if it was
    /// purged.
    pub fn head_seen(
        &self,
        asking: &OriginLookup,
        sent: ForwardStart,
        status: StatusCode,
        answer: &HeaderMap,
    ) {
        let exchange = OriginExchange {
            method: &asking.method,
            request: &asking.headers,
            authorized: asking.authorized,
            content_location_is_target: false,
            status,
            answer,
            requested_ms: sent.at_ms,
            received: clock::reading(),
        };
        if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            // The status is that of the resource, in each of its codings and languages.
            if policy::head_ends(&asking.rules, &exchange) {
                self.forget_followed(asking);
                self.end_followed(asking, sent.at_ms, |_| true);
            }
            return;
        }
        let Some(resource) = self.memory.resource(asking.key.as_str()) else { return };
        // A HEAD's answer in another coding or language is not about this one.
        let is_meant = |entry: &&Arc<CacheEntry>| {
            variant_of(entry, &asking.headers) == VariantMatch::Exact && self.is_current(&entry.standing)
        };
        for entry in resource.entries().iter().filter(is_meant) {
            let what = &entry.representation;
            // A part is judged as the whole that it is a part of.
            let (stored_status, length) = match entry.part() {
                Some(part) => (StatusCode::OK, part.total),
                None => (what.status(), what.body().len()),
            };
            let ended =
                match policy::head_effect(&asking.rules, &exchange, stored_status, &what.headers(), length) {
                    HeadEffect::Nothing => false,
                    HeadEffect::Invalidate => true,
                    HeadEffect::Update => match self.validated(asking, entry, sent, answer) {
                        (fresh, Ok(())) => {
                            if entry.part().is_none() {
                                self.keep_variant(asking, &[], Arc::new(fresh));
                            }
                            false
                        }
                        (_, Err(why)) => policy::ends_stored(why, status, asking.authorized),
                    },
                };
            // An answer that was received after the HEAD was sent is newer than that.
            if ended && entry.terms().received_ms <= sent.at_ms {
                self.forget_followed(asking);
                self.memory.drop_entry(&asking.key, entry);
            }
        }
    }
}

/// The status of a stored answer; of a part that of the whole.
fn whole_status(entry: &CacheEntry) -> StatusCode {
    match entry.part() {
        Some(_) => StatusCode::OK,
        None => entry.representation.status(),
    }
}

/// The terms of an answer that is not stored.
const NEVER_FRESH: policy::FreshnessTerms = policy::FreshnessTerms {
    received_ms: 0,
    initial_age_ms: 0,
    lifetime_ms: 0,
    stale_while_revalidate_ms: 0,
    stale_if_error_ms: 0,
    always_validate: true,
    never_stale: true,
    is_provisional: false,
};

/// All fields of an answer that is not stored, except those of its connection and its length.
pub(crate) fn passed_fields(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let nominated = connection_options(headers);
    let kept = |name: &HeaderName| {
        !is_hop_by_hop(name)
            && !nominated.contains(name)
            && *name != header::CONTENT_LENGTH
            && !is_for_gateway(name)
    };
    let fields = headers.iter().filter(|(name, _)| kept(name));
    fields.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The instructions to the gateway in an answer, for the leader: they are not forwarded.
pub(crate) fn internal_fields(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let orders = headers.iter().filter(|(name, _)| is_accel_field(name));
    orders.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The part in a 206, if it names one. It ends where its body ends: a body that is shorter than named, of a
/// part up to the end, still reaches the end. One that is named as the whole, and is shorter, is invalid.
fn stored_range(headers: &HeaderMap, length: Option<u64>) -> Option<StoredRange> {
    let (said, total) = range::parse_content_range(headers.get(header::CONTENT_RANGE)?.as_bytes())?;
    let length = length?;
    let end = said.start + length;
    let total = if said.end == total { end } else { total };
    let cut_short = said.start == 0 && total < said.end;
    (length > 0 && end <= said.end && !cut_short).then_some(StoredRange { first: said.start, total })
}

/// Returns true if a server's error that isn't stored is the same for all waiting requests: it is not
/// specific to a client.
fn is_for_all(why: FillOutcome, headers: &HeaderMap, selecting: Option<&SelectingFields>) -> bool {
    let unsaid = matches!(why, FillOutcome::Status | FillOutcome::NoFreshness);
    let alike = selecting.is_none_or(|s| s.names().iter().all(|name| *name == header::ACCEPT_ENCODING));
    unsaid && alike && !headers.contains_key(header::SET_COOKIE)
}
