//! An entry: a representation with its time and the condition on which it is valid; and the envelope in which
//! a store keeps it.
//!
//! The envelope is versioned and checksummed. A value that doesn't decode (an envelope of another version, a
//! damaged one, a value that another program wrote under the same key) is a miss and never an error.
//!
//! ```text
//! "TGE2"  magic and version, 4 bytes
//! u64     XXH3-64 of all that follows, little endian like every number here
//! u8      0: of a namespace; 1: as its origin's headers say
//! u64     when it was received, ms since the epoch by the wall clock of who sealed it
//!   0:  u64  Last-Modified in seconds since the epoch, 0: none
//!   1:  u64  initial age, lifetime, stale-while-revalidate, stale-if-error, each in ms
//!       u8   1: always to be validated; 2: never stale
//!       u8 + the last record of the purge log that was known when its fill began
//! u16     status
//! u16     number of headers, then each: u16 + name, u32 + value
//! …       the plain body
//! ```
//!
//! An answer that varies stands under a key of its own; under the resource's key stands `"TGV1"` and the
//! names of the fields it varies by, each ended by a line feed.

pub mod prepared_head;
pub(crate) mod variants;
pub mod vary_memo;
use super::{
    coherence::{
        purge::{PurgeStamp, RecordId},
        version::{Version, VersionSlot},
    },
    policy::{self, FreshnessTerms, SelectingFields},
};
use crate::{
    clock::ClockReading,
    representation::{allocated_size, respond, Body, Representation},
};
use prepared_head::PreparedHeads;
use vary_memo::VaryMemo;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode};
use std::{
    sync::{
        atomic::{AtomicBool, AtomicU8, Ordering},
        Arc,
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use xxhash_rust::xxh3::xxh3_64;

/// A representation in the cache. There may be a million of them: parts that few have are in a box.
#[derive(Debug, Clone)]
pub struct CacheEntry {
    /// The answer that is sent.
    pub representation: Representation,
    /// The condition on which it is valid.
    pub standing: Validity,
    /// The prepared heads of its answers.
    pub prepared: PreparedHeads,
    aside: Option<Box<RareParts>>,
    terms: PackedFreshness,
    /// The state of its encodings.
    pub encodings: EncodingRequests,
}

/// The parts that few entries have.
#[derive(Debug, Clone)]
struct RareParts {
    selecting: Option<SelectingFields>,
    part: Option<StoredRange>,
    said: VaryMemo,
    uses: UseCount,
}

/// Terms in fewer bytes. No time is longer than some thousand years.
#[derive(Debug, Clone, Copy)]
struct PackedFreshness {
    /// In the order of [`pack_terms`].
    times: [AtomicMillis; 5],
    flags: u8,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy)]
struct AtomicMillis([u8; 6]);

impl AtomicMillis {
    const LONGEST: u64 = (1 << 48) - 1;

    fn of(ms: u64) -> Self {
        let [a, b, c, d, e, f, _, _] = ms.min(Self::LONGEST).to_le_bytes();
        Self([a, b, c, d, e, f])
    }

    #[inline]
    fn ms(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }
}

impl PackedFreshness {
    fn of(terms: &FreshnessTerms) -> Self {
        let (times, flags) = pack_terms(terms);
        Self { times: times.map(AtomicMillis::of), flags }
    }

    #[inline]
    fn age_ms(&self, now_ms: u64) -> u64 {
        let [received, initial_age, ..] = self.times;
        initial_age.ms().saturating_add(now_ms.saturating_sub(received.ms()))
    }

    #[inline]
    fn unpack(&self) -> FreshnessTerms {
        unpack_terms(self.times.map(AtomicMillis::ms), self.flags)
    }
}

/// Takes terms apart: the times, and a byte with the flags.
fn pack_terms(terms: &FreshnessTerms) -> ([u64; 5], u8) {
    // Destructured completely, so that a new term can't be forgotten here.
    let FreshnessTerms {
        received_ms,
        initial_age_ms,
        lifetime_ms,
        stale_while_revalidate_ms,
        stale_if_error_ms,
        always_validate,
        never_stale,
        is_provisional,
    } = *terms;
    let times = [received_ms, initial_age_ms, lifetime_ms, stale_while_revalidate_ms, stale_if_error_ms];
    (times, u8::from(always_validate) | u8::from(never_stale) << 1 | u8::from(is_provisional) << 2)
}

/// The flag of [`FreshnessTerms::is_provisional`].
const PROVISIONAL: u8 = 4;

/// The inverse of [`pack_terms`].
#[inline]
fn unpack_terms(times: [u64; 5], flags: u8) -> FreshnessTerms {
    let [received_ms, initial_age_ms, lifetime_ms, stale_while_revalidate_ms, stale_if_error_ms] = times;
    FreshnessTerms {
        received_ms,
        initial_age_ms,
        lifetime_ms,
        stale_while_revalidate_ms,
        stale_if_error_ms,
        always_validate: flags & 1 != 0,
        never_stale: flags & 2 != 0,
        is_provisional: flags & PROVISIONAL != 0,
    }
}

/// A flag that an entry's encodings were requested, so that they are made once.
#[derive(Debug, Default)]
pub struct EncodingRequests(AtomicBool);

impl EncodingRequests {
    /// The state of an entry whose encodings are made, as far as they are worth it.
    pub fn made() -> Self {
        Self(AtomicBool::new(true))
    }

    /// Returns true, for one caller only, if they are still to be made.
    pub fn begin(&self) -> bool {
        !self.have_begun() && !self.0.swap(true, Ordering::Relaxed)
    }

    /// Returns true if they are made, or being made.
    pub fn have_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A copy has another body or other fields, so its encodings are its own.
impl Clone for EncodingRequests {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// The number of recent uses of one of several variants.
#[derive(Debug, Default)]
pub struct UseCount(AtomicU8);

impl UseCount {
    /// The largest count.
    const MOST: u8 = 15;

    /// The number of uses.
    pub fn count(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds one. Of two at the same moment one may be lost.
    #[inline]
    pub fn count_one(&self) {
        let count = self.count();
        if count < Self::MOST {
            self.0.store(count + 1, Ordering::Relaxed);
        }
    }

    /// Subtracts some of them.
    pub fn forget(&self, uses: u8) {
        self.0.store(self.count().saturating_sub(uses), Ordering::Relaxed);
    }

    /// Raises the number to at least this.
    pub fn raise(&self, uses: u8) {
        self.0.fetch_max(uses, Ordering::Relaxed);
    }
}

impl Clone for UseCount {
    fn clone(&self) -> Self {
        Self(AtomicU8::new(self.count()))
    }
}

/// The condition on which an entry is valid before its lifetime ends.
#[derive(Debug, Clone)]
pub enum Validity {
    /// The version that was current when its fill began, and the slot that knows the present one.
    Version(Version, Arc<VersionSlot>),
    /// The purge log, and its last record that was known when its fill began.
    Log(Arc<PurgeStamp>, Option<Box<RecordId>>),
}

/// A part of a representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredRange {
    /// The position of its first byte.
    pub first: u64,
    /// The length of the whole in bytes.
    pub total: u64,
}

impl StoredRange {
    /// This part with its representation.
    pub fn of(self, what: &Representation) -> respond::StoredPart<'_> {
        respond::StoredPart { fields: what.fields(), first: self.first, total: self.total, body: what.body() }
    }
}

impl CacheEntry {
    /// A whole answer for all requests for its key.
    pub fn new(representation: Representation, terms: &FreshnessTerms, standing: Validity) -> Self {
        Self {
            representation,
            standing,
            prepared: PreparedHeads::default(),
            aside: None,
            terms: PackedFreshness::of(terms),
            encodings: EncodingRequests::default(),
        }
    }

    /// The same for these requests only, and as this part, if given.
    pub fn narrow_entry(self, selecting: Option<SelectingFields>, part: Option<StoredRange>) -> Self {
        let narrow = selecting.is_some() || part.is_some();
        let uses = self.uses().cloned().unwrap_or_default();
        let aside = narrow.then(|| Box::new(RareParts { selecting, part, said: VaryMemo::default(), uses }));
        Self { aside, ..self }
    }

    /// Returns true if it may be the answer to a request with credentials.
    pub fn may_be_for_credentials(&self) -> bool {
        policy::may_be_for_credentials(&self.representation.headers().into_iter().collect())
    }

    /// The requests that it answers; `None`: all for its key.
    pub fn selecting(&self) -> Option<&SelectingFields> {
        self.aside.as_ref()?.selecting.as_ref()
    }

    /// The part of the whole that it is; `None`: all of it.
    pub fn part(&self) -> Option<StoredRange> {
        self.aside.as_ref()?.part
    }

    /// The memo of requests that were compared with it; `None` if it answers all.
    pub fn said(&self) -> Option<&VaryMemo> {
        self.aside.as_ref().map(|aside| &aside.said)
    }

    /// The number of its recent uses, if it is one of several variants.
    #[inline]
    pub fn uses(&self) -> Option<&UseCount> {
        self.aside.as_ref().map(|aside| &aside.uses)
    }

    /// The terms of its lifetime.
    #[inline]
    pub fn terms(&self) -> FreshnessTerms {
        self.terms.unpack()
    }

    /// Returns true if it was fetched in doubt.
    #[inline]
    pub fn is_provisional(&self) -> bool {
        self.terms.flags & PROVISIONAL != 0
    }

    /// Its age in milliseconds.
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        self.terms.age_ms(now_ms)
    }

    /// The memory it takes, in bytes: all that is allocated for it alone, by the allocator's size classes.
    /// Heads are left out: as a rule many entries share them.
    pub fn weight(&self) -> u64 {
        /// The reference counts of an `Arc`.
        const COUNTS: usize = 16;
        let standing = match &self.standing {
            Validity::Version(..) => 0,
            Validity::Log(stamp, id) => {
                stamp.weight() + id.as_ref().map_or(0, |id| allocated_size(size_of_val(&**id)))
            }
        };
        let aside = self.aside.as_ref().map_or(0, |aside| {
            allocated_size(size_of::<RareParts>())
                + aside.selecting.as_ref().map_or(0, SelectingFields::weight)
        });
        allocated_size(size_of::<Self>() + COUNTS) + self.representation.weight() + standing + aside
    }

    /// Returns true if it was made under this version.
    pub fn is_of(&self, version: &Version) -> bool {
        matches!(&self.standing, Validity::Version(of, _) if of == version)
    }

    /// The same, with another representation.
    pub fn with(&self, representation: Representation) -> Self {
        Self { representation, ..self.clone() }
    }
}

/// A value in a store under the key of an answer.
#[derive(Debug)]
pub enum StoredValue {
    /// An answer.
    Answer(OpenedEnvelope),
    /// The answer may not be stored: waiting requests should ask the origin themselves (hit-for-miss).
    Mark,
    /// The answer varies by these fields.
    Varies(Vec<HeaderName>),
}

/// An answer decoded from its envelope.
#[derive(Debug)]
pub struct OpenedEnvelope {
    /// The time and the terms of the answer.
    pub made: EntryOrigin,
    /// The status.
    pub status: StatusCode,
    /// The stored headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The plain body.
    pub body: Body,
}

/// The time and the terms of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryOrigin {
    /// Under a version: the route's rules determine the lifetime.
    Namespaced {
        /// The time when it was received, by [`crate::clock::now_ms`].
        received_ms: u64,
        /// The time of the last change according to the origin.
        last_modified: Option<SystemTime>,
    },
    /// By the headers of its origin.
    Followed {
        /// The terms of its lifetime.
        terms: FreshnessTerms,
        /// The last record of the purge log that was known when its fill began.
        since: RecordId,
    },
}

impl EntryOrigin {
    fn received_ms(&mut self) -> &mut u64 {
        match self {
            Self::Namespaced { received_ms, .. } => received_ms,
            Self::Followed { terms, .. } => &mut terms.received_ms,
        }
    }
}

/// The reason why a value is not a valid envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// It lacks the magic of this version.
    #[error("not an envelope of this version")]
    Foreign,
    /// It is truncated or corrupted.
    #[error("damaged")]
    Damaged,
    /// It is from the future by this node's clock: its age can't be determined.
    #[error("from the future: the clocks of the nodes differ")]
    Future,
}

const ANSWER_MAGIC: &[u8; 4] = b"TGE2";
const HIT_FOR_MISS_MAGIC: &[u8; 4] = b"TGM1";
const VARIES_MAGIC: &[u8; 4] = b"TGV1";

/// The value that marks an answer as not to be stored.
pub fn hit_for_miss_envelope() -> Bytes {
    Bytes::from_static(HIT_FOR_MISS_MAGIC)
}

/// The value that lists the fields by which an answer varies.
pub fn varies_envelope(names: &[HeaderName]) -> Bytes {
    let mut text = BytesMut::from(&VARIES_MAGIC[..]);
    for name in names {
        text.put_slice(name.as_str().as_bytes());
        text.put_u8(b'\n');
    }
    text.freeze()
}

/// Encodes an entry in its envelope.
pub fn seal_entry(entry: &CacheEntry, now: ClockReading) -> Bytes {
    let representation = &entry.representation;
    let mut inner = BytesMut::with_capacity(512 + usize::try_from(representation.body().len()).unwrap_or(0));
    inner.put_slice(ANSWER_MAGIC);
    inner.put_u64_le(0);
    match &entry.standing {
        Validity::Version(..) => {
            inner.put_u8(0);
            inner.put_u64_le(now.to_wall(entry.terms().received_ms));
            let changed = representation.last_modified().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
            inner.put_u64_le(changed.map_or(0, |since| since.as_secs()));
        }
        Validity::Log(_, since) => {
            inner.put_u8(1);
            let terms = entry.terms();
            put_terms(&mut inner, &FreshnessTerms { received_ms: now.to_wall(terms.received_ms), ..terms });
            let since = since.as_ref().map(|id| id.to_string()).unwrap_or_default();
            inner.put_u8(u8::try_from(since.len()).unwrap_or(0));
            inner.put_slice(since.as_bytes());
        }
    }
    inner.put_u16_le(representation.status().as_u16());
    // An HTTP parser returns no more headers, and no longer ones, than the counters hold.
    let lines = representation.stored_lines();
    inner.put_u16_le(u16::try_from(lines.clone().count()).unwrap_or(u16::MAX));
    for line in lines.take(usize::from(u16::MAX)) {
        let name = line.name.as_bytes();
        inner.put_u16_le(u16::try_from(name.len()).unwrap_or(u16::MAX));
        inner.put_slice(name);
        inner.put_u32_le(u32::try_from(line.value.len()).unwrap_or(u32::MAX));
        inner.put_slice(line.value);
    }
    for piece in representation.body().pieces() {
        inner.put_slice(piece);
    }
    let sum = xxh3_64(&inner[12..]);
    inner[4..12].copy_from_slice(&sum.to_le_bytes());
    inner.freeze()
}

fn put_terms(out: &mut BytesMut, terms: &FreshnessTerms) {
    let (times, flags) = pack_terms(terms);
    times.into_iter().for_each(|time| out.put_u64_le(time));
    out.put_u8(flags);
}

fn take_terms(from: &mut Bytes) -> Option<FreshnessTerms> {
    let mut times = [0; 5];
    for time in &mut times {
        *time = from.try_get_u64_le().ok()?;
    }
    Some(unpack_terms(times, from.try_get_u8().ok()?))
}

/// Decodes a value of a store.
///
/// # Errors
/// If the value is not a complete envelope of this version, or is from the future.
pub fn open_envelope(value: Bytes, now: ClockReading) -> Result<StoredValue, EnvelopeError> {
    if &value[..] == HIT_FOR_MISS_MAGIC {
        return Ok(StoredValue::Mark);
    }
    let mut rest = value;
    if let Some(names) = rest.strip_prefix(VARIES_MAGIC) {
        let names: Option<Vec<_>> = names
            .split_inclusive(|&b| b == b'\n')
            .map(|n| HeaderName::from_bytes(n.strip_suffix(b"\n")?).ok())
            .collect();
        return names.map(StoredValue::Varies).ok_or(EnvelopeError::Damaged);
    }
    if rest.len() < 12 || &rest[..4] != ANSWER_MAGIC {
        return Err(EnvelopeError::Foreign);
    }
    rest.advance(4);
    if rest.get_u64_le() != xxh3_64(&rest) {
        return Err(EnvelopeError::Damaged);
    }
    let mut opened = open_fields(rest).ok_or(EnvelopeError::Damaged)?;
    let received_ms = opened.made.received_ms();
    *received_ms = now.from_wall(*received_ms).ok_or(EnvelopeError::Future)?;
    Ok(StoredValue::Answer(opened))
}

fn open_fields(mut rest: Bytes) -> Option<OpenedEnvelope> {
    let made = match rest.try_get_u8().ok()? {
        0 => {
            let received_ms = rest.try_get_u64_le().ok()?;
            let changed = Duration::from_secs(rest.try_get_u64_le().ok()?);
            let last_modified = if changed.is_zero() { None } else { Some(UNIX_EPOCH.checked_add(changed)?) };
            EntryOrigin::Namespaced { received_ms, last_modified }
        }
        1 => {
            let terms = take_terms(&mut rest)?;
            let length = usize::from(rest.try_get_u8().ok()?);
            let since = take_bytes(&mut rest, length)?;
            EntryOrigin::Followed { terms, since: std::str::from_utf8(&since).ok()?.parse().ok()? }
        }
        _ => return None,
    };
    let status = StatusCode::from_u16(rest.try_get_u16_le().ok()?).ok()?;
    let count = rest.try_get_u16_le().ok()?;
    let mut headers = Vec::with_capacity(usize::from(count).min(64));
    for _ in 0..count {
        let length = usize::from(rest.try_get_u16_le().ok()?);
        let name = HeaderName::from_bytes(&take_bytes(&mut rest, length)?).ok()?;
        let length = usize::try_from(rest.try_get_u32_le().ok()?).ok()?;
        let value = HeaderValue::from_maybe_shared(take_bytes(&mut rest, length)?).ok()?;
        headers.push((name, value));
    }
    // The body is not copied: it shares the buffer of the value.
    Some(OpenedEnvelope { made, status, headers, body: rest.into() })
}

fn take_bytes(rest: &mut Bytes, length: usize) -> Option<Bytes> {
    (rest.len() >= length).then(|| rest.split_to(length))
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
