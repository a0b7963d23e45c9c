//! Two lanes, one answer: the prepared lane answers as Pingora's lane would have answered.
//!
//! Each request is sent twice: as it is, and with a second `Connection: keep-alive`, which has no meaning, but is left
//! to Pingora. The answers have to be the same bytes, except for values that change with time.

use crate::support::{
    exchange::{Reply, Wire},
    gateway::{sign, token},
    tls::{of_http2, Http2},
    *,
};
use rand::{rngs::StdRng, seq::IndexedRandom, Rng, SeedableRng};
use serde_json::json;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

/// Has no meaning, and is left to Pingora.
const ASIDE: &str = "Connection: keep-alive\r\nConnection: keep-alive\r\n";

const HEADERS: &str = r#"
security_headers = true
response_headers = { set = { "X-Served-By" = "edge", "Server" = "tidegate" }, remove = ["X-Powered-*"] }
"#;

fn namespace(scope: &str, more: &str) -> String {
    format!(
        r#"cache = {{ namespace = "kpi", scope = "{scope}", ttl = "10m", query = ["range", "a b"] }}{more}"#
    )
}

async fn set_up(more: &str) -> (TestOrigin, Gateway) {
    let origin = TestOrigin::start().await;
    let rows = |n: usize| json!(vec![json!({ "label": "order", "count": 17 }); n]);
    origin.on("/w/large", move |seen| Answer::json(&json!({ "n": seen.number, "rows": rows(100) })));
    origin.on("/w/huge", |_| Answer::new("application/octet-stream", noise(300_000, 7)));
    origin.on("/w/dated", |_| {
        Answer::new("text/plain", "dated").header("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")
    });
    origin.on("/w/gone", |_| Answer::new("text/plain", "no").status(404));
    origin.on("/f/plain", |seen| {
        Answer::new("text/css", format!("body {}", seen.number))
            .header("cache-control", "max-age=6000")
            .header("etag", "\"one\"")
            .header("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")
            .header("date", &httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(100)))
            .header("expires", "Sun, 06 Nov 2022 09:49:37 GMT")
            .header("x-powered-by", "a cat")
    });
    origin.on("/f/large", move |_| Answer::json(&rows(100)).header("cache-control", "max-age=600"));
    origin.on("/f/varies", |seen| {
        let said = seen.header("accept-language").unwrap_or("none").to_owned();
        Answer::new("text/plain", said)
            .header("cache-control", "max-age=600")
            .header("vary", "accept-language")
    });
    origin.on("/f/moved", |_| {
        Answer::new("text/plain", "there")
            .status(301)
            .header("location", "/there")
            .header("cache-control", "max-age=600")
    });
    let gateway = Gateway::with(&origin)
        .event("order_created", &["kpi"])
        .route("/w/*", &namespace("public", "\n"))
        .route("/w/dressed", &namespace("public", HEADERS))
        .route(
            "/w/variable",
            &namespace("public", "\nresponse_headers = { set = { \"X-Path\" = \"$path\" } }"),
        )
        .route("/w/cors", &namespace("public", "\ncors = { origins = [\"https://dash.example\"] }"))
        .route("/w/any", &namespace("public", "\ncors = { origins = \"*\" }"))
        .route("/w/limited", &namespace("public", "\nlimit = { rate = \"1000000/s\" }"))
        .route("/w/gone", r#"cache = { namespace = "kpi", ttl = "10m", negative_ttl = "10m" }"#)
        .route("/t/*", &namespace("tenant", "\n"))
        .route("/u/*", &namespace("user", "\n"))
        .route("/r/*", &namespace("public", "\nauth = \"required\""))
        .route("/h/*", &namespace("public", "\nhost = \"*.wild.example\""))
        .route("/f/*", "cache = \"origin\"\n")
        .route("/d/*", "cache = { follow = \"origin\", request_directives = true }\n")
        .raw(more)
        .start()
        .await;
    (origin, gateway)
}

/// A request without its last empty line.
#[derive(Debug, Clone)]
struct Request {
    text: String,
    is_head: bool,
}

impl Request {
    fn plain(&self) -> Vec<u8> {
        format!("{}\r\n", self.text).into_bytes()
    }

    fn aside(&self) -> Vec<u8> {
        format!("{}{ASIDE}\r\n", self.text).into_bytes()
    }
}

fn get(path: &str, fields: &str) -> Request {
    Request { text: format!("GET {path} HTTP/1.1\r\nHost: dash.example\r\n{fields}"), is_head: false }
}

/// Returns the difference between the answers of two lanes; `None`: there is none.
fn difference(fast: &Reply, full: &Reply) -> Option<String> {
    let near = |a: Option<i64>, b: Option<i64>| match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= 1,
        (a, b) => a == b,
    };
    if fast.masked() != full.masked() {
        return Some(format!("heads:\n{}\n--\n{}", fast.masked(), full.masked()));
    }
    if fast.bare_body() != full.bare_body() || fast.last != full.last {
        return Some(format!("bodies of {} and {} bytes", fast.body.len(), full.body.len()));
    }
    if !near(fast.age(), full.age()) || !near(fast.date(), full.date()) {
        return Some(format!("times:\n{}\n--\n{}", fast.head, full.head));
    }
    None
}

async fn ask(wire: &mut Wire, pieces: &[&[u8]], is_head: bool) -> Reply {
    wire.send(pieces).await;
    wire.receive(is_head).await
}

const PATHS: &[&str] = &[
    "/w/small",
    "/w/small",
    "/w/small",
    "/w/large",
    "/w/large",
    "/w/huge",
    "/w/dated",
    "/w/dressed",
    "/w/variable",
    "/w/cors",
    "/w/any",
    "/w/limited",
    "/w/gone",
    "/w/small?range=7d",
    "/w/small?range=7d&other=1",
    "/w/small?range=%37d&a+b=c",
    "/w/small?a%20b=c",
    "/w/small?range=",
    "/w/small?range",
    "/t/kpi",
    "/t/kpi",
    "/t/kpi?range=7d",
    "/u/kpi",
    "/r/kpi",
    "/h/kpi",
    "/f/plain",
    "/f/plain",
    "/f/large",
    "/f/plain?x=%2F",
    "/f/varies",
    "/f/moved",
    "/d/small",
    "/w/%73mall",
    "/w/../w/small",
    "/w//small",
    "//w/small",
    "/nowhere",
    "/internal/events/order_created",
    "/w/.small",
    "/w/a.json",
];

struct Words {
    tokens: Vec<String>,
}

impl Words {
    fn new() -> Self {
        let now = now_ms() / 1_000;
        let (acme, zen, nobody) = (
            token("acme", "ann"),
            token("zen", "bob"),
            sign(&json!({ "tenant": "acme", "exp": now + 3_600 })),
        );
        let expired = sign(&json!({ "tenant": "acme", "sub": "ann", "exp": now - 10 }));
        let soon = sign(&json!({ "tenant": "acme", "sub": "ann", "exp": now + 5 }));
        let mut forged = acme.clone();
        forged.replace_range(forged.len() - 4.., "AAAA");
        let tokens = vec![
            format!("Bearer {acme}"),
            format!("Bearer {acme}"),
            format!("Bearer {zen}"),
            format!("Bearer {nobody}"),
            format!("bearer {acme}"),
            format!("Bearer  {acme}"),
            format!("Bearer {acme}, x"),
            format!("Bearer {expired}"),
            format!("Bearer {soon}"),
            format!("Bearer {forged}"),
            "Basic dTpw".to_owned(),
            "Bearer".to_owned(),
            String::new(),
        ];
        Self { tokens }
    }

    fn request(&self, rng: &mut StdRng, etags: &[String]) -> Request {
        let is_head = rng.random_ratio(1, 6);
        let path = *PATHS.choose(rng).unwrap();
        let odd = rng.random_ratio(1, 40);
        let line = match rng.random_range(0..5) {
            _ if !odd => format!("{} {path} HTTP/1.1\r\n", if is_head { "HEAD" } else { "GET" }),
            0 => format!("GET {path} HTTP/1.0\r\nConnection: keep-alive\r\n"),
            1 => format!("GET http://dash.example{path} HTTP/1.1\r\n"),
            2 => format!("GET {path} HTTP/1.1\n"),
            3 => format!("TRACE {path} HTTP/1.1\r\n"),
            _ => format!("GET  {path} HTTP/1.1\r\n"),
        };
        let hosts = [
            "dash.example",
            "dash.example",
            "DASH.example:80",
            "a.wild.example",
            "A.Wild.Example.:8080",
            "127.0.0.1",
        ];
        let mut text = line;
        if !rng.random_ratio(1, 200) {
            text += &format!("Host: {}\r\n", hosts.choose(rng).unwrap());
        }
        for _ in 0..rng.random_range(0..7) {
            self.field(rng, etags, &mut text);
        }
        Request { is_head: is_head && text.starts_with("HEAD"), text }
    }

    fn field(&self, rng: &mut StdRng, etags: &[String], text: &mut String) {
        let etag = etags.choose(rng).cloned().unwrap_or_default();
        let etag = || etag.clone();
        let one = |rng: &mut StdRng, of: &[&str]| (*of.choose(rng).unwrap()).to_owned();
        let name = |rng: &mut StdRng, name: &str| match rng.random_range(0..4) {
            0 => name.to_ascii_lowercase(),
            1 => name.to_ascii_uppercase(),
            _ => name.to_owned(),
        };
        let (n, v) = match rng.random_range(0..23) {
            0..=2 => (
                "Accept-Encoding",
                one(
                    rng,
                    &[
                        "gzip",
                        "gzip, deflate, br, zstd",
                        "br;q=0.5, gzip",
                        "identity",
                        "*;q=0",
                        "",
                        "zstd",
                        "x-gzip",
                    ],
                ),
            ),
            3..=5 => ("Authorization", self.tokens.choose(rng).unwrap().clone()),
            6 | 7 => (
                "If-None-Match",
                match rng.random_range(0..5) {
                    0 => "*".to_owned(),
                    1 => format!("W/{}", etag()),
                    2 => format!("\"other\", {}", etag()),
                    3 => etag().trim_end_matches('"').to_owned() + "-gzip\"",
                    _ => etag(),
                },
            ),
            8 => (
                "If-Modified-Since",
                one(
                    rng,
                    &[
                        "Sun, 06 Nov 1994 08:49:37 GMT",
                        "Sat, 05 Nov 1994 08:49:37 GMT",
                        "Sun, 06 Nov 2022 08:49:37 GMT",
                        "never",
                        "",
                    ],
                ),
            ),
            9 => ("Range", one(rng, &["bytes=0-3", "bytes=-2", "bytes=9999999-", "lines=1"])),
            10 => (one(rng, &["If-Match", "If-Range"]).leak() as &str, etag()),
            11 => (
                "If-Unmodified-Since",
                one(rng, &["Sun, 06 Nov 1994 08:49:37 GMT", "Sat, 05 Nov 1994 08:49:37 GMT"]),
            ),
            12 => ("Cookie", one(rng, &["a=b", "session=1; theme=dark"])),
            13 => ("Cache-Control", one(rng, &["no-cache", "max-age=0", "only-if-cached", "no-store"])),
            14 => ("Pragma", "no-cache".to_owned()),
            15 => ("Origin", one(rng, &["https://dash.example", "https://other.example", "null"])),
            16 => ("X-Request-Id", one(rng, &["abc-1", "a b", "", "Z.9_"])),
            17 => ("X-Forwarded-For", one(rng, &["192.0.2.1", "unknown"])),
            18 => ("Connection", one(rng, &["keep-alive", "Keep-Alive", "close", "keep-alive, te", "x"])),
            19 => ("Accept-Language", one(rng, &["de", "en;q=0.5", "fr, de"])),
            20 => ("Content-Length", "0".to_owned()),
            21 if rng.random_ratio(1, 6) => (
                one(rng, &["Host", "Expect", "Upgrade", "Bad Name", "X_Tenant", ""]).leak() as &str,
                one(rng, &["a", "100-continue", "h2c"]),
            ),
            _ => (
                one(
                    rng,
                    &[
                        "User-Agent",
                        "Accept",
                        "Referer",
                        "Sec-Fetch-Mode",
                        "Traceparent",
                        "X-Custom",
                        "X-Tenant",
                        "DNT",
                        "TE",
                    ],
                )
                .leak() as &str,
                one(rng, &["x", "*/*", "trailers", "\u{e9}"]),
            ),
        };
        let space = one(rng, &[" ", " ", " ", "", "  ", "\t"]);
        *text += &format!("{}:{space}{v}\r\n", name(rng, n));
    }
}

/// Bumps as they are begun and ended: what is compared over one of them proves nothing.
#[derive(Default)]
struct Bumps(AtomicU64);

struct Compared {
    pairs: usize,
    hits: usize,
}

/// Sends random requests by both lanes and compares what comes back.
async fn compare(gateway: &Gateway, seed: u64, pairs: usize, bumps: &Bumps) -> Compared {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut fast, mut full) = (Wire::new(gateway.address()), Wire::new(gateway.address()));
    let words = Words::new();
    let mut etags = vec!["\"one\"".to_owned()];
    let mut hits = 0;
    for n in 0..pairs {
        let request = words.request(&mut rng, &etags);
        let (plain, aside) = (request.plain(), request.aside());
        let cut = rng.random_range(0..plain.len());
        let pieces: Vec<&[u8]> = match rng.random_ratio(1, 12) {
            true => vec![&plain[..cut], &plain[cut..]],
            false => vec![&plain],
        };
        for attempt in 0.. {
            let before = bumps.0.load(Ordering::SeqCst);
            // What is not stored yet is filled by the first of the two.
            let by_full = ask(&mut full, &[&aside], request.is_head).await;
            let by_fast = ask(&mut fast, &pieces, request.is_head).await;
            if by_fast.is_forwarded() && by_full.is_forwarded() {
                // The origin says what it likes: neither lane has answered.
                break;
            }
            let Some(why) = difference(&by_fast, &by_full) else {
                hits += usize::from(by_fast.is_hit() && by_full.is_hit());
                if let Some(etag) = by_full.lines("etag").first().filter(|_| rng.random_ratio(1, 8)) {
                    etags.push((*etag).to_owned());
                    etags.drain(..etags.len().saturating_sub(12));
                }
                break;
            };
            let undisturbed = bumps.0.load(Ordering::SeqCst) == before;
            let both_stored = by_fast.is_hit() && by_full.is_hit();
            let alike = by_fast.lines("content-encoding") == by_full.lines("content-encoding");
            // A bump, a fill, an encoding that is being made, or a token that has expired in between.
            let settled = attempt >= 30 || (attempt >= 2 && undisturbed && both_stored && alike);
            assert!(!settled, "seed {seed}, pair {n}, {request:?}:\n{why}");
            tokio::time::sleep(Duration::from_millis(100.min(20 * attempt))).await;
        }
    }
    Compared { pairs, hits }
}

fn seed() -> u64 {
    std::env::var("LANES_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lanes_answer_alike() {
    let (_origin, gateway) = set_up("").await;
    let (seed, bumps) = (seed(), Bumps::default());
    let compared = async {
        let all = (0..6).map(|n| compare(&gateway, seed.wrapping_add(n), 2_000, &bumps));
        futures_util::future::join_all(all).await
    };
    let bumping = async {
        loop {
            tokio::time::sleep(Duration::from_millis(150)).await;
            bumps.0.fetch_add(1, Ordering::SeqCst);
            gateway.bump("acme").await;
            gateway.bump("public").await;
            bumps.0.fetch_add(1, Ordering::SeqCst);
        }
    };
    let compared = tokio::select! { compared = compared => compared, () = bumping => unreachable!() };
    let (pairs, hits) = compared.iter().fold((0, 0), |(p, h), c| (p + c.pairs, h + c.hits));
    let by_lane = gateway.metrics().await.value("tidegate_fast_lane_total", &[]);
    println!("seed {seed}: {pairs} pairs, {hits} hits by both, {by_lane} by the prepared lane");
    assert!(hits * 4 > pairs, "{hits} of {pairs} were hits");
    // Most of what is made up here has something that the lane leaves to Pingora's.
    assert!(by_lane * 4.0 > hits as f64, "the prepared lane answered {by_lane} of {hits}");
    assert!(by_lane <= hits as f64 * 1.5, "none of those that were sent aside");
}

#[tokio::test]
async fn what_was_bumped_is_not_served_by_the_lane() {
    let (_origin, gateway) = set_up("").await;
    let mut wire = Wire::new(gateway.address());
    let request = get("/w/small", "").plain();
    let first = ask(&mut wire, &[&request], false).await;
    for _ in 0..20 {
        let before = ask(&mut wire, &[&request], false).await;
        assert!(before.is_hit());
        gateway.bump("public").await;
        let after = ask(&mut wire, &[&request], false).await;
        assert!(!after.is_hit() && after.body != before.body, "{after:?}");
    }
    assert!(first.line("age").is_empty() || first.line("age") == "0");
    assert!(gateway.metrics().await.value("tidegate_fast_lane_total", &[]) >= 20.0);
}

#[tokio::test]
async fn what_was_purged_or_has_expired_is_not_served_by_the_lane() {
    let (origin, gateway) = set_up("").await;
    origin.on("/f/short", |seen| {
        Answer::new("text/plain", seen.number.to_string()).header("cache-control", "max-age=1")
    });
    let mut wire = Wire::new(gateway.address());
    let (plain, short) = (get("/f/plain", "").plain(), get("/f/short", "").plain());
    ask(&mut wire, &[&plain], false).await;
    let before = ask(&mut wire, &[&plain], false).await;
    assert!(before.is_hit());
    gateway.purge(&json!({ "urls": ["http://dash.example/f/plain"] })).await;
    let after = ask(&mut wire, &[&plain], false).await;
    assert!(!after.is_hit() && after.body != before.body);
    let first = ask(&mut wire, &[&short], false).await;
    until("it is asked for anew", SOON, || async {
        let mut wire = Wire::new(gateway.address());
        let reply = ask(&mut wire, &[&short], false).await;
        assert!(reply.age().is_none_or(|age| age < 1), "{reply:?}");
        reply.body != first.body
    })
    .await;
}

#[tokio::test]
async fn a_request_may_be_cut_anywhere() {
    let (_origin, gateway) = set_up("").await;
    let mut wire = Wire::new(gateway.address());
    let request = get("/w/small", "Accept: */*\r\nIf-None-Match: \"x\"\r\n").plain();
    let whole = ask(&mut wire, &[&request], false).await;
    for at in 1..request.len() {
        let reply = ask(&mut wire, &[&request[..at], &request[at..]], false).await;
        assert_eq!((reply.status(), &reply.body), (200, &whole.body), "cut at {at}");
    }
    let bytes: Vec<&[u8]> = request.chunks(1).collect();
    assert_eq!(ask(&mut wire, &bytes, false).await.body, whole.body);
}

#[tokio::test]
async fn requests_one_behind_the_other_are_answered_in_their_order() {
    let (_origin, gateway) = set_up("").await;
    let (mut wire, mut alone) = (Wire::new(gateway.address()), Wire::new(gateway.address()));
    let mut rng = StdRng::seed_from_u64(seed());
    let requests = [
        get("/w/small", ""),
        get("/w/large", "Accept-Encoding: gzip\r\n"),
        get("/w/huge", ""),
        get("/f/plain", "If-None-Match: \"one\"\r\n"),
        get("/w/variable", ""),
        get("/w/small", "Range: bytes=0-1\r\n"),
        Request { text: "HEAD /w/small HTTP/1.1\r\nHost: a\r\n".to_owned(), is_head: true },
        get("/w/small", "Content-Length: 0\r\n"),
        Request { text: "POST /w/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /w/dated HTTP/1.1\r\nHost: a\r\n".to_owned(), is_head: false },
    ];
    for request in &requests[..8] {
        for _ in 0..3 {
            ask(&mut alone, &[&request.plain()], request.is_head).await;
        }
    }
    for round in 0..300 {
        let picked: Vec<&Request> =
            (0..rng.random_range(1..60)).map(|_| requests[..8].choose(&mut rng).unwrap()).collect();
        let bytes: Vec<u8> = picked.iter().flat_map(|request| request.plain()).collect();
        let cut = rng.random_range(0..bytes.len());
        wire.send(&[&bytes[..cut], &bytes[cut..]]).await;
        for (n, request) in picked.iter().enumerate() {
            let reply = wire.receive(request.is_head).await;
            let expected = ask(&mut alone, &[&request.aside()], request.is_head).await;
            if let Some(why) = difference(&reply, &expected) {
                // An encoding may have been made in between.
                let again = ask(&mut alone, &[&request.plain()], request.is_head).await;
                assert_eq!(
                    difference(&again, &expected),
                    None,
                    "round {round}, answer {n} to {request:?}: {why}"
                );
            }
        }
    }
    wire.send(&[&requests[8].plain()]).await;
    let posted = wire.receive(false).await;
    assert_eq!(posted.status(), 200);
    assert_eq!(wire.receive(false).await.body, b"dated");
}

#[tokio::test]
async fn a_connection_ends_after_as_many_requests_by_either_lane() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin)
        .setting("keepalive_requests = 5")
        .route("/w/*", &namespace("public", "\n"))
        .start()
        .await;
    let mut wire = Wire::new(gateway.address());
    let mut counts = Vec::new();
    for mode in 0..3 {
        let mut count = 0;
        loop {
            let request = get("/w/small", "");
            let by_full = mode == 1 || (mode == 2 && count % 2 == 0);
            let bytes = if by_full { request.aside() } else { request.plain() };
            let reply = ask(&mut wire, &[&bytes], false).await;
            count += 1;
            assert_eq!(reply.line("connection"), if reply.last { "close" } else { "keep-alive" });
            if reply.last {
                break;
            }
        }
        counts.push(count);
    }
    assert_eq!(counts, [counts[0]; 3]);
}

#[tokio::test]
async fn the_lane_goes_by_the_configuration_that_stands() {
    let origin = TestOrigin::start().await;
    let route = |lines: &str| Gateway::with(&origin).route("/w/*", &namespace("public", lines));
    let gateway = route("\n").start().await;
    let mut wire = Wire::new(gateway.address());
    let request = get("/w/small", "").plain();
    for _ in 0..3 {
        assert!(ask(&mut wire, &[&request], false).await.lines("x-frame-options").is_empty());
    }
    assert!(gateway.reload(&route("\nsecurity_headers = true")).await);
    for _ in 0..3 {
        let reply = ask(&mut wire, &[&request], false).await;
        assert!(reply.is_hit());
        assert_eq!(reply.lines("x-frame-options"), ["SAMEORIGIN"]);
    }
    assert!(gateway.reload(&route("\nauth = \"required\"")).await);
    assert_eq!(ask(&mut wire, &[&request], false).await.status(), 401);
}

#[tokio::test]
async fn both_lanes_write_the_same_record() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).access().route("/t/*", &namespace("tenant", "\n")).start().await;
    let mut wire = Wire::new(gateway.address());
    let request = |id: &str| {
        let token = token("acme", "ann");
        get("/t/kpi?range=7d&secret=1", &format!("Authorization: Bearer {token}\r\nX-Request-Id: {id}\r\n"))
    };
    ask(&mut wire, &[&request("first").plain()], false).await;
    ask(&mut wire, &[&request("by-lane").plain()], false).await;
    ask(&mut wire, &[&request("by-full").aside()], false).await;
    let record = |id: &'static str| {
        let gateway = &gateway;
        eventually("the record is written", SOON, move || async move {
            gateway.output().lines().find(|line| line.contains(id)).map(str::to_owned)
        })
    };
    let (lane, full) = (record("by-lane").await, record("by-full").await);
    let bare = |line: &str| {
        let volatile = ["time=", "request_id=", "duration_ms="];
        let words = line.split(' ').skip(1).filter(|word| !volatile.iter().any(|v| word.contains(v)));
        words.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(bare(&lane), bare(&full));
    assert!(lane.contains("tenant") && !lane.contains("secret"), "{lane}");
    let metrics = gateway.metrics().await;
    let near = |value: f64, expected: f64| assert!((value - expected).abs() < f64::EPSILON, "{value}");
    near(metrics.value("tidegate_fast_lane_total", &[]), 1.0);
    near(metrics.value("tidegate_requests_total", &[("result", "hit")]), 2.0);
    near(metrics.value("tidegate_tokens_total", &[("result", "remembered")]), 2.0);
}

/// By HTTP/2 as well.
#[tokio::test]
async fn the_lanes_answer_alike_by_http2() {
    let (_origin, gateway) = set_up("[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true").await;
    let to = gateway.listeners(2).await[1];
    let h2 = Http2::over(tokio::net::TcpStream::connect(to).await.unwrap()).await;
    let mut etags = vec!["\"one\"".to_owned(), "*".to_owned()];
    let mut hits = 0;
    for (n, (path, coding, method)) in cases_of_http2().enumerate() {
        let etag = etags.get(n / 2 % (2 * etags.len())).cloned().unwrap_or_default();
        for attempt in 0.. {
            let ask = |aside| h2.send(asked_by_http2((method, path, coding, &etag), aside));
            let (full, fast) = (ask(true).await.unwrap(), ask(false).await.unwrap());
            let both = |word| [&full, &fast].iter().all(|reply| reply.header("cache-status").contains(word));
            hits += usize::from(both("hit"));
            // What is forwarded says what it likes: neither lane has answered.
            if both("fwd=") || said_by_http2(&fast) == said_by_http2(&full) {
                break;
            }
            // A fill, or an encoding that is being made.
            assert!(attempt < 30, "{method} {path} {coding:?} {etag:?}:\n{fast:?}\n{full:?}");
            tokio::time::sleep(Duration::from_millis(100.min(20 * attempt))).await;
            etags.extend(full.headers.get("etag").map(|etag| etag.to_str().unwrap().to_owned()));
        }
    }
    let by_lane = gateway.metrics().await.value("tidegate_fast_lane_total", &[]);
    assert!(by_lane * 3.0 > hits as f64, "the prepared lane answered {by_lane} of {hits}");
    assert!(by_lane <= hits as f64, "none of those that were sent aside");
}

fn cases_of_http2() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let methods = ["GET", "HEAD", "GET", "HEAD"];
    let codings = ["", "gzip", "br, gzip;q=0.5"];
    let of = move |path| codings.into_iter().flat_map(move |c| methods.map(|method| (path, c, method)));
    (0..3).flat_map(move |_| PATHS.iter().copied().flat_map(of))
}

/// A request. A length of nothing says nothing, and is not for the lane.
fn asked_by_http2(
    (method, path, coding, etag): (&str, &str, &str, &str),
    aside: bool,
) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    let mut request = of_http2(method, "dash.example", path, bytes::Bytes::new());
    let bearer = format!("Bearer {}", token("acme", "ann"));
    let whose = ["/t/", "/u/", "/r/"].iter().any(|begin| path.starts_with(begin));
    for (name, value, given) in [
        ("accept-encoding", coding, !coding.is_empty()),
        ("if-none-match", etag, !etag.is_empty()),
        ("content-length", "0", aside),
        ("authorization", &bearer, whose),
    ] {
        if given {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
    }
    request
}

/// An answer but for what differs from one moment to the next.
fn said_by_http2(reply: &client::Reply) -> (http::StatusCode, Vec<String>, Vec<u8>) {
    let mut fields: Vec<_> =
        reply.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    fields.retain(|field| {
        ["date: ", "age: ", "x-request-id: "].iter().all(|masked| !field.starts_with(masked))
    });
    fields.sort();
    let masked = ["date", "age", "x-request-id"].map(|name| reply.headers.contains_key(name));
    fields.push(format!("{masked:?}"));
    let body = match std::str::from_utf8(&reply.body) {
        // A problem names the request.
        Ok(text) => text.replace(reply.header("x-request-id"), "-").into_bytes(),
        Err(_) => reply.body.to_vec(),
    };
    (reply.status, fields, body)
}
