use super::*;
use crate::{config, representation::OutsideCaching};

use proptest::prelude::*;

fn rules() -> config::EncodingConfig {
    config::EncodingConfig {
        types: vec!["application/json".into()],
        min_size: 1_024,
        prefer: vec![],
        levels: Default::default(),
        memory: 1 << 27,
    }
}

fn outside() -> OutsideCaching {
    OutsideCaching { cache_control: HeaderValue::from_static("private"), varies_by_authorization: true }
}

/// No times of the tests lie after it.
const NOW: ClockReading = ClockReading { now_ms: 1 << 48, wall_ms: 1 << 48 };

fn changed() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(7)
}

fn terms(numbers: [u64; 5], flags: (bool, bool)) -> FreshnessTerms {
    let [received_ms, initial_age_ms, lifetime_ms, stale_while_revalidate_ms, stale_if_error_ms] = numbers;
    FreshnessTerms {
        received_ms,
        initial_age_ms,
        lifetime_ms,
        stale_while_revalidate_ms,
        stale_if_error_ms,
        always_validate: flags.0,
        never_stale: flags.1,
        is_provisional: false,
    }
}

fn entry(body: Vec<u8>, value: &[u8], standing: Validity, terms: FreshnessTerms) -> CacheEntry {
    let headers = vec![(http::header::CONTENT_TYPE, HeaderValue::from_bytes(value).unwrap())];
    let body = Body::from(body);
    let representation = match standing {
        Validity::Version(..) => {
            Representation::new(StatusCode::OK, headers, body, Some(changed()), outside(), &rules())
        }
        Validity::Log(..) => Representation::verbatim(StatusCode::NOT_FOUND, headers, body, &rules()),
    };
    CacheEntry::new(representation, &terms, standing)
}

fn of_version() -> Validity {
    let versions = crate::cache::coherence::version::VersionTable::new(
        crate::cache::coherence::partitions::StorePartitions::none(),
    );
    let slot = versions.slot(&"kpi".parse().unwrap(), &"acme".parse().unwrap());
    Validity::Version(Version::new(b"7"), slot)
}

fn id(ms: u64, seq: u64) -> RecordId {
    format!("{ms}-{seq}-1").parse().unwrap()
}

fn of_log(ms: u64, seq: u64) -> Validity {
    let purges = crate::cache::coherence::purge::PurgeTable::new(Arc::new(
        crate::cache::coherence::doubt::CoherenceDoubt::none(),
    ));
    Validity::Log(Arc::new(purges.stamp(1, 1, &[])), Some(Box::new(id(ms, seq))))
}

fn opened(entry: &CacheEntry) -> OpenedEnvelope {
    match open_envelope(seal_entry(entry, NOW), NOW) {
        Ok(StoredValue::Answer(opened)) => opened,
        other => panic!("no answer: {other:?}"),
    }
}

proptest! {
    #[test]
    fn what_is_sealed_comes_out_the_same(
        body in proptest::collection::vec(any::<u8>(), 0..300),
        value in "[ -~]{0,40}",
        numbers in proptest::array::uniform5(0_u64..1 << 48),
        flags in any::<(bool, bool)>(),
        place in any::<(u64, u64)>(),
    ) {
        let terms = terms(numbers, flags);
        let namespaced = entry(body.clone(), value.as_bytes(), of_version(), terms);
        let followed = entry(body, value.as_bytes(), of_log(place.0, place.1), terms);
        for (sealed, made) in [
            (&namespaced, EntryOrigin::Namespaced { received_ms: numbers[0], last_modified: Some(changed()) }),
            (&followed, EntryOrigin::Followed { terms, since: id(place.0, place.1) }),
        ] {
            let opened = opened(sealed);
            prop_assert_eq!(opened.made, made);
            prop_assert_eq!(opened.status, sealed.representation.status());
            prop_assert_eq!(&opened.body, sealed.representation.body());
            prop_assert_eq!(&opened.headers[..], sealed.representation.headers());
        }
    }

    #[test]
    fn a_damaged_envelope_is_found_out(at in 0_usize..200, flip in 1_u8..=255, cut in 0_usize..200) {
        let whole = seal_entry(&entry(vec![7; 150], b"application/json", of_log(1, 2), terms([1; 5], (true, false))), NOW);
        let mut bent = whole.to_vec();
        let at = at % bent.len();
        bent[at] ^= flip;
        prop_assert!(open_envelope(bent.into(), NOW).is_err());
        let cut = cut % whole.len();
        prop_assert!(open_envelope(whole.slice(..cut), NOW).is_err());
    }

    #[test]
    fn anything_else_is_foreign(value in proptest::collection::vec(any::<u8>(), 0..100)) {
        prop_assume!(!value.starts_with(ANSWER_MAGIC) && value != HIT_FOR_MISS_MAGIC && !value.starts_with(VARIES_MAGIC));
        prop_assert_eq!(open_envelope(value.into(), NOW).err(), Some(EnvelopeError::Foreign));
    }
}

/// The envelope holds the wall clock's time, which may have been set back since, or differ from that of the
/// node that opens it.
#[test]
fn times_are_told_by_the_wall_clock() {
    let sealed = |wall_ms| {
        let entry = entry(vec![1], b"a", of_version(), terms([9_000, 0, 0, 0, 0], (false, false)));
        seal_entry(&entry, ClockReading { now_ms: 10_000, wall_ms })
    };
    let received =
        |value: Bytes, wall_ms| match open_envelope(value, ClockReading { now_ms: 20_000, wall_ms }) {
            Ok(StoredValue::Answer(OpenedEnvelope {
                made: EntryOrigin::Namespaced { received_ms, .. },
                ..
            })) => Ok(received_ms),
            Err(error) => Err(error),
            other => panic!("no answer: {other:?}"),
        };
    for (sealed_at, opened_at, age) in [
        // One second old when it was sealed.
        (10_000, 20_000, Ok(11_000)),
        // Either node's clock is a minute behind the time of its process's start.
        (70_000, 80_000, Ok(11_000)),
        // The other node's clock is a little ahead, and far ahead.
        (10_000, 8_000, Ok(0)),
        (10_000, 6_000, Err(EnvelopeError::Future)),
    ] {
        let found = received(sealed(sealed_at), opened_at).map(|received_ms| 20_000 - received_ms);
        assert_eq!(found, age, "{sealed_at} {opened_at}");
    }
}

#[test]
fn marks_and_fields() {
    assert!(matches!(open_envelope(hit_for_miss_envelope(), NOW), Ok(StoredValue::Mark)));
    let names = [http::header::ACCEPT, http::header::COOKIE];
    assert!(
        matches!(open_envelope(varies_envelope(&names), NOW), Ok(StoredValue::Varies(found)) if found == names)
    );
    assert!(open_envelope(Bytes::from_static(b"TGV1accept"), NOW).is_err());
    assert!(open_envelope(Bytes::from_static(b"TGV1a b\n"), NOW).is_err());
}

#[test]
fn terms_are_kept_as_they_are() {
    let flags = [(false, false), (true, false), (false, true), (true, true)];
    for (n, flags) in (0..).zip(flags) {
        let year_10_000 = 253_402_300_799_999;
        let terms = terms([year_10_000, n, u64::from(u32::MAX) * 1_000, 0, 1], flags);
        assert_eq!(PackedFreshness::of(&terms).unpack(), terms);
    }
    let endless = PackedFreshness::of(&terms([1, 0, u64::MAX, u64::MAX, 0], (false, false))).unpack();
    assert_eq!(endless.freshness(1 << 47), crate::cache::policy::Freshness::Fresh);
}

#[test]
fn what_narrows_an_entry_stands_aside() {
    let whole = entry(vec![1], b"a", of_version(), terms([1; 5], (false, false)));
    assert!(whole.selecting().is_none() && whole.part().is_none() && whole.said().is_none());
    let part = StoredRange { first: 3, total: 10 };
    let weight = whole.weight();
    let narrowed = whole.narrow_entry(None, Some(part));
    assert_eq!((narrowed.part(), narrowed.selecting().is_none()), (Some(part), true));
    assert_eq!(narrowed.with(narrowed.representation.clone()).part(), Some(part));
    assert!(narrowed.weight() > weight);
}

/// There may be a million of them: who adds a field that few entries have puts it into a box.
#[test]
fn an_entry_stays_small() {
    assert!(size_of::<CacheEntry>() <= 144, "{} bytes", size_of::<CacheEntry>());
}
