//! Decisions of the cache on an answer, and the look-up of one.

use crate::config;
use criterion::{BenchmarkId, Criterion};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use std::{hint::black_box, sync::Arc};
use tidegate::{
    cache::{
        coherence::{
            partitions::StorePartitions,
            version::{Version, VersionTable},
        },
        entry::{CacheEntry, Validity},
        key::{CacheKey, RequestScheme},
        memory::MemoryTier,
        policy::{
            origin_driven::{self, directives},
            FreshnessTerms,
        },
    },
    clock::ClockReading,
    config::{CacheMode, FollowRules},
    representation::Representation,
};

/// 2026-11-21 12:00:00 UTC, in milliseconds.
const NOW_MS: u64 = 1_795_262_400_000;

fn fields(all: &[(&str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&str, &str)| {
        (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
    };
    all.iter().map(field).collect()
}

fn rules() -> FollowRules {
    match config("[[route]]\npath = \"/*\"\norigin = \"app\"\ncache = \"origin\"\n")
        .routes
        .swap_remove(0)
        .cache
    {
        CacheMode::Follow(rules) => *rules,
        other => unreachable!("{other:?}"),
    }
}

/// `Cache-Control` read, and what follows from it.
pub(crate) fn policy(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("Cache-Control");
    let request = fields(&[("host", "dash.example"), ("accept", "*/*")]);
    for (name, control) in [
        ("short", "max-age=60"),
        ("long", "public, max-age=60, s-maxage=600, stale-while-revalidate=30, stale-if-error=86400, must-revalidate"),
    ] {
        let answer = fields(&[
            ("content-type", "application/json"),
            ("cache-control", control),
            ("date", "Sat, 21 Nov 2026 12:00:00 GMT"),
            ("etag", "\"one\""),
        ]);
        group.bench_function(BenchmarkId::new("read", name), |bencher| {
            bencher.iter(|| directives::response_directives(black_box(&answer)));
        });
        let exchange = origin_driven::OriginExchange {
            method: &Method::GET,
            request: &request,
            authorized: false,
            content_location_is_target: false,
            status: StatusCode::OK,
            answer: &answer,
            requested_ms: NOW_MS,
            received: ClockReading { now_ms: NOW_MS, wall_ms: NOW_MS },
        };
        let rules = rules();
        let terms = origin_driven::check_storable(&rules, &exchange).unwrap();
        group.bench_function(BenchmarkId::new("may it be stored", name), |bencher| {
            bencher.iter(|| origin_driven::check_storable(&rules, black_box(&exchange)));
        });
        group.bench_function(BenchmarkId::new("may it be used", name), |bencher| {
            bencher.iter(|| origin_driven::decide_reuse(&terms, &directives::request_directives(black_box(&request)), NOW_MS + 1_000));
        });
    }
    group.finish();
}

/// An answer of 300 bytes.
fn entry(versions: &VersionTable) -> Arc<CacheEntry> {
    let encoding = config("").encoding;
    let headers = vec![(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let slot = versions.slot(&"kpi".parse().unwrap(), &"acme".parse().unwrap());
    let what = Representation::verbatim(StatusCode::OK, headers, vec![b' '; 300], &encoding);
    let terms = FreshnessTerms {
        received_ms: NOW_MS,
        initial_age_ms: 0,
        lifetime_ms: 3_600_000,
        stale_while_revalidate_ms: 0,
        stale_if_error_ms: 0,
        always_validate: false,
        never_stale: false,
        is_provisional: false,
    };
    Arc::new(CacheEntry::new(what, &terms, Validity::Version(Version::new(b"7"), slot)))
}

/// A hit in the first tier, among few and many.
pub(crate) fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup");
    let versions = VersionTable::new(StorePartitions::none());
    for count in [1_000_usize, 100_000] {
        let memory = MemoryTier::new(4 << 30, 16 << 20);
        let keys: Vec<CacheKey> = (0..count)
            .map(|number| {
                CacheKey::of_resource(RequestScheme::Https, "dash.example", &format!("/entry/{number}"))
            })
            .collect();
        for key in &keys {
            memory.keep(key.clone(), entry(&versions), 0);
        }
        let mut next = 0;
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| {
                // A step that has no divisor in common with the count: every key, in no order that helps.
                next = (next + 7_919) % count;
                assert!(memory.entry(black_box(keys[next].as_str())).is_some());
            });
        });
    }
    group.finish();
}
