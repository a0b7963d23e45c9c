//! The steps of a request before anything is looked up.

use crate::config;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use http::Method;
use std::{fmt::Write as _, hint::black_box};
use tidegate::{
    cache::key::{canonical_query, CacheKey, KeyParts},
    config::{CacheMode, CacheRules, ContentCoding},
    listen::h1::strict_reader::StrictReader,
    name::Tenant,
    representation::{encoding::negotiate_coding, range},
    route::RouteTable,
};

const SHORT: &str = "GET /api/widgets/kpi HTTP/1.1\r\nHost: dash.example\r\n\r\n";
const OF_A_BROWSER: &str = "GET /api/widgets/chart?hours=12&theme=dark HTTP/1.1\r\n\
    Host: dash.example\r\n\
    Connection: keep-alive\r\n\
    sec-ch-ua: \"Chromium\";v=\"142\", \"Not_A Brand\";v=\"99\"\r\n\
    sec-ch-ua-mobile: ?0\r\n\
    sec-ch-ua-platform: \"Linux\"\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\n\
    Accept: application/json\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-Mode: cors\r\n\
    Sec-Fetch-Dest: empty\r\n\
    Referer: https://dash.example/\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    If-None-Match: \"efc575c9c9153558eca38bbaa01c267c\"\r\n\r\n";

/// Strict reading of heads.
pub(crate) fn heads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("strict reading");
    for (name, head) in [("two lines", SHORT), ("of a browser", OF_A_BROWSER)] {
        group.throughput(Throughput::Bytes(head.len() as u64));
        group.bench_function(name, |bencher| {
            let mut wire = StrictReader::default();
            bencher.iter(|| assert_eq!(wire.pass(black_box(head.as_bytes())), head.len()));
        });
    }
    group.finish();
}

/// The rules of one cached route.
fn rules(scope: &str) -> CacheRules {
    let route = "[[route]]\npath = \"/*\"\norigin = \"app\"\n";
    let cache = format!(
        "cache = {{ namespace = \"chart\", scope = \"{scope}\", ttl = \"20s\", query = [\"hours\"] }}\n"
    );
    let jwt = "[jwt]\nalgorithms = [\"HS256\"]\nsecret = \"only-for-benchmarks-0123456789abcdef\"\n";
    match config(&format!("{jwt}{route}{cache}")).routes.swap_remove(0).cache {
        CacheMode::Versioned(rules) => *rules,
        other => unreachable!("{other:?}"),
    }
}

/// From a request's parts to the key of its answer.
pub(crate) fn keys(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("key");
    let tenant: Tenant = "acme".parse().unwrap();
    for (scope, user) in [("public", None), ("tenant", None), ("user", Some("alice@example.org"))] {
        let rules = rules(scope);
        group.bench_function(scope, |bencher| {
            bencher.iter(|| {
                let query = canonical_query(&rules.query, black_box("hours=12&theme=dark"));
                let path = black_box("/api/widgets/chart");
                CacheKey::derive(&rules, KeyParts { host: None, tenant: &tenant, user, path, query: &query })
            });
        });
    }
    group.finish();
}

/// The route of a path, among few and many, some of them prefixes.
pub(crate) fn routes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for count in [10, 10_000] {
        let mut text = String::new();
        for number in 0..count {
            let end = if number % 5 == 0 { "/*" } else { "" };
            write!(text, "[[route]]\npath = \"/api/v1/section{number}{end}\"\norigin = \"app\"\n").unwrap();
        }
        let routes = RouteTable::new(&config(&text).routes);
        let (exact, below) =
            (format!("/api/v1/section{}", count - 1), format!("/api/v1/section{}/a/b", count / 2 / 5 * 5));
        for (name, path) in [("exact", exact.as_str()), ("prefix", &below), ("none", "/elsewhere/entirely")] {
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| routes.find_plain(Some("dash.example"), black_box(path), &Method::GET));
            });
        }
    }
    group.finish();
}

/// Which coding a client gets.
pub(crate) fn encodings(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("Accept-Encoding");
    for (name, value) in [
        ("none", None),
        ("of a browser", Some("gzip, deflate, br, zstd")),
        ("weighed", Some("br;q=0.5, gzip;q=0.8, *;q=0.1, identity;q=0")),
    ] {
        group.bench_function(name, |bencher| {
            bencher
                .iter(|| negotiate_coding(black_box(value.map(str::as_bytes)), ContentCoding::ALL, |_| true));
        });
    }
    group.finish();
}

/// Which bytes a client gets.
pub(crate) fn ranges(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("Range");
    for (name, value) in
        [("one", "bytes=0-1023"), ("suffix", "bytes=-500"), ("four", "bytes=0-9,20-29,40-49,-10")]
    {
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || value.as_bytes(),
                |value| range::decide_range(black_box(value), 100_000),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}
