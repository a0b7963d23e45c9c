//! Hostile input: a 4xx, a counter, no panic, no key, and the process lives.

mod spellings;

use crate::support::{gateway::KPI, *};
use std::{collections::BTreeSet, fmt::Write};
use tokio::{io::AsyncWriteExt, net::TcpStream};

const PATH: &str = "/api/widgets/kpi";

/// A gateway with one widget and one uncached route, its store, and the keys of an ordinary day.
struct Stage {
    origin: TestOrigin,
    redis: Redis,
    gateway: Gateway,
    keys: BTreeSet<String>,
    seen: usize,
}

impl Stage {
    async fn set() -> Self {
        let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
        let gateway = Gateway::with(&origin)
            .redis(&redis.url())
            .route(PATH, KPI)
            .route("/app/*", "max_body = \"1KiB\"")
            .event("order_created", &["kpi"])
            .start()
            .await;
        gateway.get(PATH).await.ok();
        until("the store has the answer", SOON, || async {
            redis.keys().await.iter().any(|key| key.starts_with("dash:kpi:public:"))
        })
        .await;
        until("the lease is gone", SOON, || async {
            !redis.keys().await.iter().any(|key| key.contains("lock:"))
        })
        .await;
        let keys = redis.keys().await;
        let seen = origin.counts().values().sum();
        Self { origin, redis, gateway, keys, seen }
    }

    /// Sends bytes; the answer must be a 4xx, 501 or 505 (a problem document) or, where `may_close`, a closed connection.
    async fn refused(&self, what: &str, request: &[u8], may_close: bool) {
        let reply = raw_exchange(self.gateway.address(), request).await;
        if may_close && reply.status == 0 {
            return;
        }
        assert!(matches!(reply.status, 400..=499 | 501 | 505), "{what}: {reply:?}");
        // Pingora itself answers what it can't parse, without a body.
        if !reply.body.is_empty() {
            assert!(reply.head.contains("content-type: application/problem+json"), "{what}: {reply:?}");
            let problem: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
            assert_eq!(problem["status"], reply.status, "{what}");
        }
    }

    /// Nothing has changed: no key, no request to the origin; the process lives, serves and has counted.
    async fn unharmed(mut self) {
        assert_eq!(self.redis.keys().await, self.keys, "keys have come or gone");
        assert_eq!(self.origin.counts().values().sum::<usize>(), self.seen, "{:?}", self.origin.counts());
        self.gateway.assert_sound().await;
        assert!(self.gateway.get(PATH).await.ok().is_hit());
        assert!(self.gateway.metrics().await.value("tidegate_rejected_requests_total", &[]) > 0.0);
    }
}

fn get(target: &str, headers: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n").into_bytes()
}

#[tokio::test]
async fn requests_that_are_none() {
    let stage = Stage::set().await;
    for (what, request) in [
        ("garbage", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n".to_vec()),
        ("no version", b"GET /\r\n\r\n".to_vec()),
        ("another protocol", b"GET / HTTP/7.3\r\nHost: a\r\n\r\n".to_vec()),
        ("a space in a name", get(PATH, "X Y: z\r\n")),
        ("a space before the colon", get(PATH, "Content-Length : 0\r\n")),
        ("no colon", get(PATH, "nonsense\r\n")),
        ("a NUL", get(PATH, "X-A: a\0b\r\n")),
        ("a bare CR", get(PATH, "X-A: a\rX-B: b\r\n")),
        ("a folded header", get(PATH, "X-A: a\r\n b\r\n")),
        ("two lengths", get("/app/x", "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello")),
        ("no length", get("/app/x", "Content-Length: five\r\n\r\nhello")),
        ("a negative length", get("/app/x", "Content-Length: -5\r\n\r\nhello")),
        ("an unknown coding", get("/app/x", "Transfer-Encoding: chunked, cow\r\n\r\n0\r\n\r\n")),
        ("a method in disguise", b"GE\tT / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("the PRI of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
    ] {
        stage.refused(what, &request, true).await;
    }
    // Something that is refused by name, so that there is a count.
    stage.refused("nowhere", &get("/nowhere", ""), false).await;
    stage.unharmed().await;
}

/// RFC 9112, 6.3: refused, or read as chunked with the connection closed behind it. Nothing is smuggled in.
#[tokio::test]
async fn a_length_beside_chunks_smuggles_nothing() {
    let stage = Stage::set().await;
    let inner = "GET /app/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let body = format!("0\r\n\r\n{inner}");
    for order in [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", body.len()),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {}\r\n", body.len()),
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n", body.len()),
    ] {
        let request = format!("POST /app/outer HTTP/1.1\r\nHost: a\r\n{order}\r\n{body}");
        let reply = raw_exchange(stage.gateway.address(), request.as_bytes()).await;
        let closed = reply.status == 200 && reply.head.contains("connection: close");
        assert!(closed || reply.status == 400, "{order}: {reply:?}");
    }
    assert_eq!(stage.origin.count("/app/smuggled"), 0);
    for seen in stage.origin.seen("/app/outer") {
        assert!(seen.body.is_empty() && seen.header("content-length").is_none_or(|l| l == "0"), "{seen:?}");
    }
}

#[tokio::test]
async fn hosts_that_are_none() {
    let stage = Stage::set().await;
    for host in
        ["a b", "a/b", "a@b", "a\\b", "<script>", "a:b:c", "a:99999", "[::1", "a\tb", "%00", "a,b", ""]
    {
        let request = format!("GET {PATH} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        stage.refused(&format!("host {host:?}"), request.as_bytes(), false).await;
    }
    let request = format!("GET {PATH} HTTP/1.1\r\n\r\n");
    stage.refused("no host", request.as_bytes(), false).await;
    let request = format!("GET {PATH} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    stage.refused("two hosts", request.as_bytes(), false).await;
    let long = format!("GET {PATH} HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(5000));
    stage.refused("a long host", long.as_bytes(), true).await;
    stage.unharmed().await;
}

#[tokio::test]
async fn another_host_is_no_other_key() {
    let stage = Stage::set().await;
    for host in ["b.example.com", "evil.example", "127.0.0.1", "[::1]:80"] {
        let reply = send(stage.gateway.request("GET", PATH).header("host", host)).await.ok();
        assert!(reply.is_hit(), "{host}: {reply:?}");
    }
    stage.refused("nowhere", &get("/nowhere", ""), false).await;
    stage.unharmed().await;
}

#[tokio::test]
async fn queries_of_ten_thousand_parameters() {
    let stage = Stage::set().await;
    let mut many = String::new();
    for index in 0..10_000 {
        write!(many, "&p{index}=1").unwrap();
    }
    stage.refused("10,000 parameters", &get(&format!("{PATH}?{many}"), ""), false).await;
    let same = "&range=1".repeat(10_000);
    stage.refused("10,000 listed parameters", &get(&format!("{PATH}?{same}"), ""), false).await;
    stage.refused("a long target", &get(&format!("{PATH}?{}", "x".repeat(200_000)), ""), true).await;
    stage.unharmed().await;
}

#[tokio::test]
async fn unlisted_and_broken_queries_make_no_key() {
    let stage = Stage::set().await;
    for query in ["?%", "?%zz=1", "?=", "?&&&", "?a=%00", "?RANGE=1", "?range%5B%5D=1", "?a=1#b", "?x=é"] {
        let reply = raw_exchange(stage.gateway.address(), &get(&format!("{PATH}{query}"), "")).await;
        let hit = reply.status == 200 && reply.head.contains("cache-status: tidegate; hit");
        assert!(hit || reply.status == 400, "{query}: {reply:?}");
    }
    stage.refused("nowhere", &get("/nowhere", ""), false).await;
    stage.unharmed().await;
}

#[tokio::test]
async fn headers_beyond_measure() {
    let stage = Stage::set().await;
    let long = format!("X-Long: {}\r\n", "x".repeat(2_000_000));
    stage.refused("a header of 2 MB", &get(PATH, &long), true).await;
    let many: String = (0..20_000).fold(String::new(), |mut all, index| {
        write!(all, "X-{index}: 1\r\n").unwrap();
        all
    });
    stage.refused("20,000 headers", &get(PATH, &many), true).await;
    stage.refused("nowhere", &get("/nowhere", ""), false).await;
    stage.unharmed().await;
}

#[tokio::test]
async fn bodies_beyond_the_limit() {
    let stage = Stage::set().await;
    let huge = "POST /app/x HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\nhello";
    let reply = raw_exchange(stage.gateway.address(), huge.as_bytes()).await;
    assert_eq!(reply.status, 413, "{reply:?}");
    assert!(reply.head.contains("application/problem+json"), "{reply:?}");
    let event =
        "POST /internal/events/order_created HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\nhello";
    let reply = raw_exchange(stage.gateway.address(), event.as_bytes()).await;
    assert!([400, 401, 413].contains(&reply.status), "{reply:?}");
    stage.unharmed().await;
}

#[tokio::test]
async fn tokens_that_are_none() {
    let stage = Stage::set().await;
    let header = "eyJhbGciOiJIUzI1NiJ9";
    for token in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        "a.b.c".to_owned(),
        format!("{header}.."),
        format!("{header}.bnVsbA.AAAA"),
        "x".repeat(30_000),
        format!("{header}.{}.AAAA", "A".repeat(20_000)),
        "\"'<>".to_owned(),
    ] {
        let request = get(PATH, &format!("Authorization: Bearer {token}\r\n"));
        let reply = raw_exchange(stage.gateway.address(), &request).await;
        // An empty token may count as none; nothing else may pass.
        let passed = reply.status == 200 && token.is_empty();
        assert!(passed || [400, 401, 431].contains(&reply.status), "{token:.40}: {reply:?}");
    }
    stage.unharmed().await;
}

#[tokio::test]
async fn paths_that_climb_are_not_the_widget() {
    let stage = Stage::set().await;
    for target in
        ["/app/../api/widgets/secret", "/app/%2e%2e/secret", "//app/x", "/app//..//x", "/app/\\..\\x", "*"]
    {
        let reply = raw_exchange(stage.gateway.address(), &get(target, "")).await;
        // Passed on as it stands or refused: never rewritten into another route's path.
        assert!(reply.status == 200 || (400..500).contains(&reply.status), "{target}: {reply:?}");
        assert!(!reply.head.contains("; hit"), "{target}: {reply:?}");
    }
    assert_eq!(stage.origin.count("/api/widgets/secret") + stage.origin.count("/secret"), 0);
    assert_eq!(stage.redis.keys().await, stage.keys);
}

#[tokio::test]
async fn half_requests_hold_nobody_up() {
    let stage = Stage::set().await;
    let mut open = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(stage.gateway.address()).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
        open.push(stream);
    }
    for _ in 0..20 {
        assert!(stage.gateway.get(PATH).await.ok().is_hit());
    }
    drop(open);
    stage.refused("nowhere", &get("/nowhere", ""), false).await;
    stage.unharmed().await;
}

/// A path that a server behind might resolve would be judged by one route's rules and answered by another's.
#[tokio::test]
async fn dot_segments_and_nul_reach_nobody() {
    let stage = Stage::set().await;
    for target in [
        "/app/../admin/x",
        "/app/./x",
        "/app/..",
        "/app/%2e%2e/admin/x",
        "/app/.%2E/admin/x",
        "/app/..%2fadmin/x",
        "/app/%2e%2e%2fadmin/x",
        "/app/..\\admin\\x",
        "/app/%5c..%5cadmin",
        "/app/../api/widgets/kpi",
        "/api/widgets/../widgets/kpi",
        "http://a/app/../admin/x",
        "/app/a%00b",
        "/app/../internal/events/order_created",
    ] {
        for method in ["GET", "HEAD", "POST"] {
            let request = format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let reply = raw_exchange(stage.gateway.address(), request.as_bytes()).await;
            assert_eq!(reply.status, 400, "{method} {target}: {reply:?}");
            assert!(
                reply.head.contains("content-type: application/problem+json"),
                "{method} {target}: {reply:?}"
            );
        }
    }
    // Dots that mean nothing pass.
    for (count, target) in ["/app/..a", "/app/a.b", "/app/...", "/app/a%2Fb"].iter().enumerate() {
        let reply = raw_exchange(stage.gateway.address(), &get(target, "")).await;
        assert_eq!(reply.status, 200, "{target}: {reply:?}");
        let asked = stage.origin.counts().values().sum::<usize>();
        assert_eq!(asked, stage.seen + count + 1, "{target} alone reached the origin");
    }
}
