//! The end of a stored answer before its time: by a newer one that is no error, stored itself or not.

use crate::{
    cache::following::{fresh, gateway, says, stale, with, HEARS, MINUTE},
    support::{gateway::token, *},
};
use std::sync::{
    atomic::{AtomicUsize, Ordering},
    Arc,
};

type Fields = &'static [(&'static str, &'static str)];

/// An origin's answer to a refresh or a validation, and whether it ends the stored one.
type Case = (&'static str, u16, Fields, bool);

const CASES: [Case; 26] = [
    ("/404", 404, &[], true),
    ("/404-short", 404, &[("cache-control", "max-age=0")], true),
    ("/410", 410, &[], true),
    ("/403", 403, &[], true),
    ("/401", 401, &[("www-authenticate", "Basic")], true),
    ("/302", 302, &[("location", "/login")], true),
    ("/204", 204, &[], true),
    ("/private", 200, &[("cache-control", "private")], true),
    ("/no-store", 200, &[("cache-control", "no-store")], true),
    ("/cookie", 200, &[MINUTE, ("set-cookie", "a=b")], true),
    ("/vary", 200, &[MINUTE, ("vary", "*")], true),
    ("/silent", 200, &[], true),
    ("/validated-private", 304, &[("cache-control", "private")], true),
    ("/validated-no-store", 304, &[("cache-control", "no-store")], true),
    ("/accel", 200, &[("x-accel-redirect", "/nowhere/x")], true),
    ("/accel-expires", 200, &[MINUTE, ("etag", "\"v1\""), ("x-accel-expires", "0")], true),
    ("/301", 301, &[MINUTE, ("location", "/x")], true),
    ("/405", 405, &[("allow", "POST")], true),
    ("/451", 451, &[], true),
    ("/other-part", 206, &[MINUTE, ("etag", "\"v2\""), ("content-range", "bytes 0-4/9")], true),
    ("/same-part", 206, &[MINUTE, ("etag", "\"v1\""), ("content-range", "bytes 0-4/9")], false),
    ("/502", 502, &[], false),
    ("/503", 503, &[], false),
    ("/500", 500, &[], false),
    ("/429", 429, &[("retry-after", "1")], false),
    ("/400", 400, &[], false),
];

/// An origin that sends an answer that is stale at once, then what the case says, and is down from then on.
fn program(origin: &TestOrigin, (path, status, fields, _): Case, grace: &'static str) {
    let asked = Arc::new(AtomicUsize::new(0));
    origin.on(path, move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => stale("old", grace).header("etag", "\"v1\""),
        1 => with(if matches!(status, 204 | 304) { "" } else { "newer" }, fields).status(status),
        _ => with("down", &[]).status(503),
    });
}

/// RFC 9111, 4.3.3
#[tokio::test]
async fn a_refresh_that_is_answered_ends_what_was_stale() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).start().await;
    for case in CASES {
        let (path, .., ends) = case;
        program(&origin, case, ", stale-while-revalidate=600, stale-if-error=600");
        gateway.get(path).await.ok();
        assert_eq!(gateway.get(path).await.ok().text(), "old", "{path}");
        until("it was refreshed", SOON, || async { origin.count(path) >= 2 }).await;
        if ends {
            until(&format!("{path}: what is over is no longer served"), SOON, || async {
                gateway.get(path).await.text() != "old"
            })
            .await;
        }
        for _ in 0..3 {
            let reply = gateway.get(path).await;
            assert_eq!(reply.text() == "old", !ends, "{path}: {reply:?}");
        }
    }
}

#[tokio::test]
async fn a_validation_that_is_answered_ends_what_was_stale() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).start().await;
    for case in CASES {
        let (path, status, _, ends) = case;
        program(&origin, case, ", stale-if-error=600");
        gateway.get(path).await.ok();
        let reply = gateway.get(path).await;
        let expected = match status {
            304 | 500 | 502 | 503 => "old",
            204 => "",
            _ if path == "/accel" => reply.text(),
            _ => "newer",
        };
        assert_eq!(reply.text(), expected, "{path}: {reply:?}");
        for _ in 0..3 {
            let reply = gateway.get(path).await;
            assert_eq!(reply.text() == "old", !ends, "{path}: {reply:?}");
        }
    }
}

/// An answer replaces the one that its request would have got, whatever it varies by: for each way in which a stored
/// answer comes to be asked for anew.
#[tokio::test]
async fn an_answer_under_another_vary_ends_what_it_replaces() {
    const ASKS: [(&str, &str); 1] = [("x-v", "1")];
    const ANEW: [(&str, &str); 2] = [("x-v", "1"), ("cache-control", "no-cache")];
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let alone = Gateway::with(&origin).origin("retries = 0").route("/*", HEARS).start().await;
    let route = r#"cache = { follow = "origin", redis = "1MiB", request_directives = true }"#;
    let shared =
        Gateway::with(&origin).origin("retries = 0").redis(&redis.url()).route("/*", route).start().await;
    let before = [("/varied", Some("X-W")), ("/plain", None)];
    let after: [(&str, u16, Fields); 5] = [
        ("/404", 404, &[MINUTE, ("vary", "X-V")]),
        ("/200", 200, &[MINUTE, ("etag", "\"v2\""), ("vary", "X-V")]),
        ("/200-other", 200, &[MINUTE, ("etag", "\"v2\""), ("vary", "X-V, X-W, Cookie")]),
        ("/200-coding", 200, &[MINUTE, ("etag", "\"v2\""), ("vary", "Accept-Encoding, X-V")]),
        ("/304", 304, &[MINUTE, ("etag", "\"v1\""), ("vary", "X-V, X-W")]),
    ];
    let ways: [(&str, &str, Fields); 4] = [
        ("GET", ", stale-while-revalidate=600, stale-if-error=600", &ASKS),
        ("GET", ", stale-if-error=600", &ASKS),
        ("GET", "fresh", &ANEW),
        ("HEAD", ", stale-if-error=600", &ANEW),
    ];
    for (gateway, node) in [(&alone, "alone"), (&shared, "shared")] {
        for ((kind, vary), (to, status, fields)) in
            before.iter().flat_map(|b| after.iter().map(move |a| (b, a)))
        {
            for (number, (method, grace, asks)) in ways.iter().enumerate() {
                if *method == "HEAD" && *status == 304 {
                    continue; // It is none to a request without conditions.
                }
                let path = &*format!("/{node}{kind}{to}/{number}");
                let (vary, status, grace) = (*vary, *status, *grace);
                let (fields, asked) = (fields.to_vec(), AtomicUsize::new(0));
                origin.on(path, move |_| match asked.fetch_add(1, Ordering::SeqCst) {
                    0 => {
                        let old = if grace == "fresh" { fresh("old") } else { stale("old", grace) };
                        let old = old.header("etag", "\"v1\"");
                        vary.into_iter().fold(old, |old, vary| old.header("vary", vary))
                    }
                    1 => with(if status == 304 { "" } else { "newer" }, &fields).status(status),
                    _ => with("down", &[]).status(503),
                });
                gateway.get(path).await.ok();
                gateway.send_with(method, path, asks).await;
                until("it was asked for anew", SOON, || async { origin.count(path) >= 2 }).await;
                until(&format!("{path}: what is over is no longer served"), SOON, || async {
                    gateway.get(path).await.text() != "old"
                })
                .await;
                for other in [&[][..], &[("x-v", "2")], &[("x-w", "1")]] {
                    let reply = gateway.get_with(path, other).await;
                    assert_ne!(reply.text(), "old", "{path} {other:?}: {reply:?}");
                }
                // The newer one is for who asks like that.
                let reply = gateway.get_with(path, &ASKS).await;
                let expected = match (*method, status) {
                    ("HEAD", _) => "down",
                    (_, 304) => "old",
                    _ => "newer",
                };
                assert_eq!(reply.text(), expected, "{path}: {reply:?}");
            }
        }
    }
}

/// A client may forbid to store its answer, which shows all the same that the stored one is older.
#[tokio::test]
async fn an_answer_that_its_client_forbids_to_store_ends_an_older_one() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).origin("retries = 0").route("/*", HEARS).start().await;
    let large = "newer".repeat(4_000_000);
    for (path, etag, body, fields, ends) in [
        ("/same", Some("\"v1\""), "old", &[][..], false),
        ("/other", Some("\"v2\""), "newer", &[], true),
        ("/untold", None, "newer", &[], true),
        ("/large", Some("\"v2\""), &large, &[], true),
        ("/mine", Some("\"v2\""), "newer", &[("authorization", "Basic YW5u")], false),
    ] {
        for grace in ["fresh", ", stale-if-error=600"] {
            let path = &*format!("{path}/{}", grace.len());
            let (body, asked) = (body.to_owned(), AtomicUsize::new(0));
            origin.on(path, move |_| match asked.fetch_add(1, Ordering::SeqCst) {
                0 if grace == "fresh" => fresh("old").header("etag", "\"v1\""),
                0 => stale("old", grace).header("etag", "\"v1\""),
                1 => etag.into_iter().fold(fresh(&body), |answer, etag| answer.header("etag", etag)),
                _ => with("down", &[]).status(503),
            });
            gateway.get(path).await.ok();
            let asks = [fields, &[("cache-control", "no-cache, no-store")]].concat();
            gateway.get_with(path, &asks).await.ok();
            let reply = gateway.get(path).await;
            assert_eq!(reply.text() == "old", !ends, "{path}: {reply:?}");
        }
    }
}

/// What is made for a cookie is nobody else's, and shows all the same that the stored answer is older.
#[tokio::test]
async fn an_answer_that_is_made_for_a_cookie_ends_an_older_one() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let alone = gateway(&origin).start().await;
    let route = r#"cache = { follow = "origin", redis = "1MiB" }"#;
    let shared =
        Gateway::with(&origin).origin("retries = 0").redis(&redis.url()).route("/*", route).start().await;
    let cases: [(&str, Fields, bool); 5] = [
        ("/no-cache", &[("etag", "\"v2\""), ("cache-control", "no-cache")], true),
        ("/zero", &[("etag", "\"v2\""), ("cache-control", "max-age=0")], true),
        ("/untold", &[("etag", "\"v2\"")], true),
        ("/dated", &[("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")], true),
        ("/same", &[("etag", "\"v1\"")], false),
    ];
    let ways = [
        ("GET", ", stale-if-error=600"),
        ("GET", ", stale-while-revalidate=600, stale-if-error=600"),
        ("HEAD", ", stale-if-error=600"),
    ];
    for (gateway, node) in [(&alone, "alone"), (&shared, "shared")] {
        for ((to, fields, ends), (number, (method, grace))) in
            cases.iter().flat_map(|case| ways.iter().enumerate().map(move |way| (case, way)))
        {
            let path = &*format!("/{node}{to}/{number}");
            let (grace, fields, asked) = (*grace, fields.to_vec(), AtomicUsize::new(0));
            origin.on(path, move |_| match asked.fetch_add(1, Ordering::SeqCst) {
                0 => stale("old", grace).header("etag", "\"v1\""),
                1 => with("new", &fields),
                _ => with("down", &[]).status(503),
            });
            gateway.get(path).await.ok();
            gateway.send_with(method, path, &[("cookie", "s=1")]).await;
            until("it was asked for anew", SOON, || async { origin.count(path) >= 2 }).await;
            if *ends {
                until(&format!("{path}: what is over is no longer served"), SOON, || async {
                    gateway.get(path).await.text() != "old"
                })
                .await;
            }
            let reply = gateway.get(path).await;
            assert_eq!(reply.text() == "old", !ends, "{path}: {reply:?}");
            assert_ne!(reply.text(), "new", "{path}: it was one client's");
        }
    }
}

/// A 304 to a cookie, or a HEAD's answer, renews what is stored, and adds nothing of its client's.
#[tokio::test]
async fn what_renews_an_answer_for_a_cookie_adds_no_fields_to_it() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).start().await;
    const ONE: (&str, &str) = ("x-csrf", "one");
    let cases: [(&str, Fields, bool); 4] = [
        ("/untold", &[ONE], false),
        ("/zero", &[ONE, ("cache-control", "max-age=0, stale-if-error=600")], false),
        ("/fresh", &[ONE, MINUTE], true),
        ("/public", &[ONE, ("cache-control", "public, max-age=0, stale-if-error=600")], true),
    ];
    for (path, fields, adds) in cases {
        for method in ["GET", "HEAD"] {
            let path = &*format!("{path}/{method}");
            let asked = AtomicUsize::new(0);
            origin.on(path, move |_| match asked.fetch_add(1, Ordering::SeqCst) {
                0 => stale("old", ", stale-if-error=600").header("etag", "\"v1\""),
                1 => with(if method == "GET" { "" } else { "old" }, fields)
                    .header("etag", "\"v1\"")
                    .status(if method == "GET" { 304 } else { 200 }),
                _ => with("down", &[]).status(503),
            });
            gateway.get(path).await.ok();
            gateway.send_with(method, path, &[("cookie", "s=1")]).await;
            assert_eq!(origin.count(path), 2, "{path}");
            let reply = gateway.get(path).await;
            assert_eq!((reply.text(), reply.header("x-csrf") == "one"), ("old", adds), "{path}: {reply:?}");
        }
    }
}

/// RFC 9111, 4.3.5: what a HEAD gets is what a GET would.
#[tokio::test]
async fn a_head_that_is_answered_ends_what_was_stale() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).start().await;
    // A 304 is none to a request without conditions.
    for case in CASES.into_iter().filter(|(_, status, ..)| *status != 304) {
        let (path, status, _, ends) = case;
        // An application that has no HEAD says nothing of its GET.
        let ends = ends && status != 405;
        program(&origin, case, ", stale-if-error=600");
        gateway.get(path).await.ok();
        let head = gateway.send_with("HEAD", path, &[]).await;
        assert!(path == "/accel" || head.status == status, "{path}: {head:?}");
        for _ in 0..3 {
            let reply = gateway.get(path).await;
            assert_eq!(reply.text() == "old", !ends, "{path}: {reply:?}");
        }
    }
}

/// The refresh behind an answer is the gateway's own request: it is not decided by what one client shows, or asks of caches.
#[tokio::test]
async fn a_refresh_is_not_asked_for_with_what_is_ones_own() {
    let token = token("acme", "ann");
    let bearer = format!("Bearer {token}");
    let targets = [
        ("/x".to_owned(), vec![("authorization", "Basic YW5u")]),
        ("/x".to_owned(), vec![("authorization", "Bearer a.b.c")]),
        ("/x".to_owned(), vec![("authorization", bearer.as_str())]),
        ("/x".to_owned(), vec![("cache-control", "no-store")]),
        (format!("/x?token={token}"), vec![]),
    ];
    let origin = TestOrigin::start().await;
    let route = format!("auth = \"optional\"\ntoken_query = true\n{HEARS}");
    for (status, says) in [(403, "no-store"), (301, "max-age=0"), (200, "no-store"), (200, "private")] {
        for (target, fields) in &targets {
            let asked = AtomicUsize::new(0);
            origin.on("/x", move |_| match asked.fetch_add(1, Ordering::SeqCst) {
                0 => stale("old", ", stale-while-revalidate=600, stale-if-error=600"),
                _ => with("newer", &[("cache-control", says)]).status(status),
            });
            origin.forget();
            let gateway = Gateway::with(&origin).origin("retries = 0").route("/*", &route).start().await;
            gateway.get("/x").await.ok();
            assert_eq!(gateway.get_with(target, fields).await.ok().text(), "old", "{target} {fields:?}");
            until(&format!("{status} {says} to {target} {fields:?} ends what was stale"), SOON, || async {
                gateway.get_with(target, fields).await.text() != "old"
            })
            .await;
            let refresh = &origin.seen("/x")[1];
            let shown = (refresh.header("authorization"), refresh.header("x-user"));
            assert_eq!(shown, (None, None), "{refresh:?}");
        }
    }
}

/// An answer that may have been made for credentials is refreshed with credentials.
#[tokio::test]
async fn a_refresh_of_what_is_shared_despite_credentials_is_asked_for_with_them() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| match (seen.number, seen.header("authorization")) {
        (1, _) => stale("old", ", public, stale-while-revalidate=600"),
        (_, Some(_)) => with("new", &[("cache-control", "public, max-age=60")]),
        (_, None) => with("who are you?", &[]).status(401),
    });
    let gateway = gateway(&origin).start().await;
    let shown = [("authorization", "Basic YW5u")];
    gateway.get_with("/x", &shown).await.ok();
    assert_eq!(gateway.get_with("/x", &shown).await.ok().text(), "old");
    until("it is refreshed", SOON, || async { gateway.get_with("/x", &shown).await.ok().text() == "new" })
        .await;
    assert_eq!(origin.count("/x"), 2);
}

/// A fresh answer is over as well where a client had it validated, on this node and in Redis.
#[tokio::test]
async fn what_is_over_does_not_come_back_out_of_redis() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let route = r#"cache = { follow = "origin", redis = "1MiB", request_directives = true }"#;
    let gateway = Gateway::with(&origin).redis(&redis.url()).route("/*", route).start().await;
    for (path, status, fields) in
        [("/gone", 404, &[][..]), ("/mine", 200, &[("cache-control", "private")]), ("/302", 302, &[])]
    {
        let asked = Arc::new(AtomicUsize::new(0));
        origin.on(path, move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => fresh("old"),
            _ => with("newer", fields).status(status),
        });
        let kept =
            || async { redis.keys().await.iter().any(|key| key.ends_with(path) && !key.contains("lock:")) };
        gateway.get(path).await.ok();
        until("it is in redis", SOON, &kept).await;
        let reply = gateway.get_with(path, &[("cache-control", "no-cache")]).await;
        assert_eq!(reply.text(), "newer", "{path}: {reply:?}");
        until("its lease is given back", SOON, || async {
            !redis.keys().await.iter().any(|key| key.contains("lock:"))
        })
        .await;
        let reply = gateway.get(path).await;
        assert_eq!(reply.text(), "newer", "{path}: {reply:?}");
    }
    // What ends it beside any fill that has a lease.
    for (path, method, field) in [
        ("/head", "HEAD", ("cache-control", "no-cache")),
        ("/ranged", "GET", ("range", "bytes=0-1")),
        ("/credentials", "GET", ("authorization", "Basic YW5u")),
    ] {
        let asked = Arc::new(AtomicUsize::new(0));
        origin.on(path, move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => fresh("old"),
            _ => with("newer", &[]).status(404),
        });
        let kept =
            || async { redis.keys().await.iter().any(|key| key.ends_with(path) && !key.contains("lock:")) };
        gateway.get(path).await.ok();
        until("it is in redis", SOON, &kept).await;
        let reply = gateway.send_with(method, path, &[field, ("cache-control", "no-cache")]).await;
        assert_eq!(reply.status, 404, "{path}: {reply:?}");
        until(&format!("{path}: it is out of redis"), SOON, || async { !kept().await }).await;
        let reply = gateway.get(path).await;
        assert_eq!(reply.text(), "newer", "{path}: {reply:?}");
    }
}

/// An answer that is too large to store still replaces the stored one, read to its end or not.
#[tokio::test]
async fn an_answer_that_is_too_large_ends_what_was_stale() {
    let origin = TestOrigin::start().await;
    let follow = r#"cache = { follow = "origin", max_size = "64KiB" }"#;
    let kpi =
        r#"cache = { namespace = "kpi", ttl = "1ms", stale_while_revalidate = "10m", max_size = "64KiB" }"#;
    let gateway = Gateway::with(&origin).route("/follow/*", follow).route("/kpi/*", kpi).start().await;
    for path in ["/follow/told", "/follow/chunks", "/kpi/told", "/kpi/chunks"] {
        let asked = Arc::new(AtomicUsize::new(0));
        origin.on(path, move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => stale("old", ", stale-while-revalidate=600"),
            _ => {
                let large = with(&"new ".repeat(100_000), &[MINUTE]);
                if path.ends_with("chunks") {
                    large.chunked()
                } else {
                    large
                }
            }
        });
        gateway.get(path).await.ok();
        assert_eq!(gateway.get(path).await.ok().text(), "old", "{path}");
        until(&format!("{path}: what is over is no longer served"), SOON, || async {
            gateway.get(path).await.ok().text() != "old"
        })
        .await;
    }
}

/// Another node hears it from the origin, whatever Redis says of others.
#[tokio::test]
async fn what_is_over_on_one_node_is_refreshed_on_the_others() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let follow = r#"cache = { follow = "origin", redis = "1MiB" }"#;
    let kpi = r#"cache = { namespace = "kpi", ttl = "1ms", stale_while_revalidate = "10m" }"#;
    let node = || async {
        let node = Gateway::with(&origin).redis(&redis.url());
        node.route("/follow/*", follow).route("/kpi/*", kpi).start().await
    };
    let (one, other) = (node().await, node().await);
    for (path, says, status) in [
        ("/follow/private", "private", 200),
        ("/follow/no-store", "no-store", 200),
        ("/follow/gone", "max-age=0", 404),
        ("/kpi/private", "private", 200),
        ("/kpi/gone", "max-age=0", 404),
    ] {
        origin.on(path, |_| stale("old", ", stale-while-revalidate=600"));
        for node in [&one, &other] {
            node.get(path).await.ok();
            until("it is served stale", SOON, || async {
                node.get(path).await.cache_status().contains("ttl=-")
            })
            .await;
        }
        origin.on(path, move |_| with("newer", &[("cache-control", says)]).status(status));
        for node in [&one, &other] {
            until(&format!("{path}: what is over is no longer served"), SOON, || async {
                // The first one is asked all the time: it marks what may not be shared again and again.
                one.get(path).await;
                node.get(path).await.text() != "old"
            })
            .await;
        }
    }
}

/// An answer to credentials is no evidence of what others get, except for a 404 or 410.
#[tokio::test]
async fn what_is_for_credentials_alone_leaves_what_others_get() {
    const CREDENTIALS: [(&str, u16); 5] =
        [("/kept", 200), ("/login", 302), ("/bad", 401), ("/not-yours", 403), ("/gone", 404)];
    let origin = TestOrigin::start().await;
    for (path, status) in CREDENTIALS {
        origin.on(path, move |seen| match seen.header("authorization") {
            Some(_) => with("mine", &[MINUTE]).status(status),
            None if seen.header("if-none-match").is_some() => with("", &[MINUTE]).status(304),
            None => stale("old", "").header("etag", "\"v1\""),
        });
    }
    for method in ["GET", "HEAD"] {
        let gateway = gateway(&origin).start().await;
        for (path, status) in CREDENTIALS {
            let forward = if status == 404 { "fwd=uri-miss" } else { "fwd=stale" };
            gateway.get(path).await.ok();
            gateway.send_with(method, path, &[("authorization", "Basic YW5u")]).await;
            let reply = gateway.get(path).await.ok();
            assert!(says(&reply, forward), "{method} {path}: {reply:?}");
        }
    }
}

/// A 304 is an answer to a condition: who sent none can make nothing of it.
#[tokio::test]
async fn a_304_that_nobody_asked_for_is_not_passed_on() {
    let origin = TestOrigin::start().await;
    for path in ["/once", "/off/once", "/kpi/once", "/always", "/off/always", "/kpi/always"] {
        let asked = Arc::new(AtomicUsize::new(0));
        origin.on(path, move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => with("", &[("etag", "\"v1\"")]).status(304),
            _ if path.ends_with("always") => with("", &[("etag", "\"v1\"")]).status(304),
            _ => fresh("the page"),
        });
    }
    let kpi = r#"cache = { namespace = "kpi", ttl = "60s" }"#;
    let gateway = gateway(&origin).route("/kpi/*", kpi).start().await;
    for path in ["/once", "/kpi/once"] {
        assert_eq!(gateway.get(path).await.ok().text(), "the page", "{path}");
    }
    for path in ["/always", "/kpi/always", "/off/always", "/off/once"] {
        let reply = gateway.get(path).await;
        assert!(says(&reply, "detail=origin-malformed"), "{path}: {reply:?}");
        reply.problem(502);
    }
    assert_eq!(gateway.get_with("/always", &[("authorization", "Basic x")]).await.status, 502);
    // Who asked for it gets it.
    for path in ["/off/always", "/always"] {
        let fields = [("if-none-match", "\"v1\""), ("authorization", "Basic x")];
        assert_eq!(gateway.get_with(path, &fields).await.status, 304, "{path}");
    }
}
