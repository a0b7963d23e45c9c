//! Stale answers: validated with conditions, refreshed in the background, served instead of an error. Also the
//! effect of answers to HEAD on stored ones.

use crate::{
    cache::following::{fresh, gateway, says, stale, with, FOLLOW, HEARS, MINUTE},
    support::*,
};
use futures_util::future::join_all;

#[tokio::test]
async fn a_304_renews_the_fields_and_keeps_the_body() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| match seen.header("if-none-match") {
        Some("\"v1\"") => {
            with("", &[MINUTE, ("etag", "\"v1\""), ("x-old", "new"), ("x-more", "1")]).status(304)
        }
        Some(other) => panic!("{other}"),
        None => stale("the page", "").header("etag", "\"v1\"").header("x-old", "old").header("x-kept", "1"),
    });
    let gateway = gateway(&origin).start().await;
    gateway.get("/x").await.ok();
    let validated = gateway.get("/x").await.ok();
    let hit = gateway.get("/x").await.ok();
    for reply in [&validated, &hit] {
        assert_eq!((reply.text(), reply.header("content-length")), ("the page", "8"));
        assert_eq!((&*reply.all("x-old"), reply.header("x-more"), reply.header("x-kept")), ("new", "1", "1"));
        assert_eq!((reply.header("content-type"), reply.header("etag")), ("text/plain", "\"v1\""));
        assert_eq!(&*reply.all("cache-control"), "max-age=60");
        let age: u64 = reply.header("age").parse().unwrap();
        assert!(age < 60, "the age starts anew: {reply:?}");
    }
    assert!(says(&validated, "fwd=stale") && says(&validated, "fwd-status=304"), "{validated:?}");
    assert!(hit.is_hit());
    assert_eq!(origin.count("/x"), 2);
}

#[tokio::test]
async fn a_304_of_something_else_is_not_believed() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| match (seen.number, seen.header("if-none-match")) {
        (1, _) => stale("old", "").header("etag", "\"v1\""),
        (_, Some(_)) => with("", &[MINUTE, ("etag", "\"v2\"")]).status(304),
        (_, None) => fresh("new").header("etag", "\"v2\""),
    });
    let gateway = gateway(&origin).start().await;
    assert_eq!(gateway.get("/x").await.ok().text(), "old");
    let reply = gateway.get("/x").await.ok();
    assert_eq!((reply.text(), reply.header("etag")), ("new", "\"v2\""));
    let hit = gateway.get("/x").await.ok();
    assert!(hit.is_hit() && hit.text() == "new", "{hit:?}");
    assert_eq!(origin.count("/x"), 3);
}

/// A client's own validator is for the client: a 304 about it is no answer for anybody else.
#[tokio::test]
async fn a_client_with_an_old_copy_spoils_nothing() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| match seen.header("if-none-match") {
        Some("\"mine\"") => with("", &[MINUTE, ("etag", "\"mine\"")]).status(304),
        _ => fresh("the page").header("etag", "\"v1\""),
    });
    let gateway = gateway(&origin).start().await;
    let mine = gateway.get_with("/x", &[("if-none-match", "\"mine\"")]).await;
    assert!(mine.status == 304 || mine.text() == "the page", "{mine:?}");
    let other = gateway.get("/x").await.ok();
    assert_eq!(other.text(), "the page");
    let mine = gateway.get_with("/x", &[("if-none-match", "W/\"v1\"")]).await;
    assert_eq!((mine.status.as_u16(), mine.is_hit()), (304, true), "{mine:?}");
}

#[tokio::test]
async fn what_is_stale_and_has_no_validator_is_fetched_anew() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| match seen.number {
        1 => stale("1", ", stale-if-error=600"),
        _ => fresh("2"),
    });
    let gateway = gateway(&origin).start().await;
    gateway.get("/x").await.ok();
    let reply = gateway.get("/x").await.ok();
    assert_eq!(reply.text(), "2");
    let seen = origin.seen("/x").pop().unwrap();
    assert!(seen.header("if-none-match").is_none() && seen.header("if-modified-since").is_none());
}

#[tokio::test]
async fn stale_while_revalidate_answers_at_once_and_refreshes_once() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| match seen.number {
        1 => stale("old", ", stale-while-revalidate=600"),
        _ => fresh("new").gated(),
    });
    let gateway = gateway(&origin).start().await;
    gateway.get("/x").await.ok();
    origin.hold();
    // All are answered while the origin says nothing.
    for reply in join_all((0..20).map(|_| gateway.get("/x"))).await {
        assert!(reply.is_hit() && reply.text() == "old", "{reply:?}");
        let ttl = reply.cache_status().split(';').find_map(|said| said.trim().strip_prefix("ttl="));
        assert!(ttl.is_some_and(|ttl| ttl.parse::<i64>().unwrap() < 0), "{}", reply.cache_status());
    }
    until("the refresh is under way", SOON, || async { origin.held() == 1 }).await;
    assert!(gateway.get("/x").await.is_hit());
    origin.release();
    until("the new one is there", SOON, || async { gateway.get("/x").await.text() == "new" }).await;
    assert_eq!(origin.count("/x"), 2, "refreshed once");
}

/// Stale at first; then the origin says `status`. `directives` of the stored answer.
async fn when_the_origin_fails(directives: &'static str, status: u16) -> Reply {
    let origin = TestOrigin::start().await;
    origin.on("/x", move |seen| match seen.number {
        1 => stale("old", directives).header("etag", "\"v1\""),
        _ => with("down", &[]).status(status),
    });
    let gateway = gateway(&origin).start().await;
    gateway.get("/x").await.ok();
    let reply = gateway.get("/x").await;
    assert_eq!(origin.count("/x"), 2, "the origin was asked");
    reply
}

#[tokio::test]
async fn stale_if_error_stands_in_for_a_servers_error() {
    for status in [500, 502, 503, 504] {
        let reply = when_the_origin_fails(", stale-if-error=600", status).await.ok();
        assert_eq!(reply.text(), "old");
        assert!(says(&reply, "fwd=stale") && says(&reply, &format!("fwd-status={status}")), "{reply:?}");
        assert!(reply.header("age").parse::<u64>().unwrap() >= 100, "{reply:?}");
    }
}

#[tokio::test]
async fn stale_if_error_has_its_limits() {
    for (directives, status) in [
        ("", 503),
        (", stale-if-error=10", 503),
        (", stale-if-error=600, must-revalidate", 503),
        (", stale-if-error=600, proxy-revalidate", 503),
        (", stale-if-error=600, no-cache", 503),
        (", stale-if-error=600", 404),
        (", stale-if-error=600", 410),
    ] {
        let reply = when_the_origin_fails(directives, status).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (status, "down"), "{directives}: {reply:?}");
    }
}

#[tokio::test]
async fn stale_if_error_stands_in_for_an_origin_that_is_gone() {
    let mut origin = TestOrigin::start().await;
    origin.on("/kept", |_| stale("old", ", stale-if-error=600"));
    origin.on("/strict", |_| stale("old", ", stale-if-error=600, must-revalidate").header("etag", "\"v1\""));
    let gateway = gateway(&origin).start().await;
    gateway.get("/kept").await.ok();
    gateway.get("/strict").await.ok();
    origin.kill();
    // Also when the gateway has learnt to leave it alone.
    for _ in 0..6 {
        assert_eq!(gateway.get("/kept").await.ok().text(), "old");
        let strict = gateway.get("/strict").await;
        assert!(strict.status.is_server_error() && strict.text() != "old", "{strict:?}");
    }
}

#[tokio::test]
async fn only_if_cached_asks_nobody() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |_| fresh("x"));
    origin.on("/deaf", |_| fresh("x"));
    let gateway = Gateway::with(&origin).route("/x", HEARS).route("/deaf", FOLLOW).start().await;
    let only = [("cache-control", "only-if-cached")];
    gateway.get_with("/x", &only).await.problem(504);
    assert_eq!(
        send(gateway.request("HEAD", "/x").header("cache-control", "only-if-cached")).await.status,
        504
    );
    assert_eq!(origin.count("/x"), 0);
    gateway.get("/x").await.ok();
    assert!(gateway.get_with("/x", &only).await.ok().is_hit());
    assert_eq!(gateway.get_with("/deaf", &only).await.ok().text(), "x");
}

#[tokio::test]
async fn a_client_is_heard_only_where_the_route_says_so() {
    let origin = TestOrigin::start().await;
    for path in ["/x", "/deaf"] {
        origin.on(path, |seen| fresh(&seen.number.to_string()));
    }
    let gateway = Gateway::with(&origin).route("/x", HEARS).route("/deaf", FOLLOW).start().await;
    for path in ["/x", "/deaf"] {
        gateway.get(path).await.ok();
    }
    for asked in [("cache-control", "no-cache"), ("pragma", "no-cache")] {
        let reply = gateway.get_with("/x", &[asked]).await.ok();
        assert!(!reply.is_hit(), "{asked:?}: {reply:?}");
        assert!(gateway.get_with("/deaf", &[asked]).await.ok().is_hit(), "{asked:?}");
    }
}

#[tokio::test]
async fn a_stored_answer_answers_head() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |_| fresh("the page").header("etag", "\"v1\""));
    let gateway = gateway(&origin).start().await;
    gateway.get("/x").await.ok();
    let head = gateway.send_with("HEAD", "/x", &[]).await.ok();
    assert!(head.is_hit() && head.body.is_empty(), "{head:?}");
    assert_eq!((head.header("content-length"), head.header("etag")), ("8", "\"v1\""));
    let head = gateway.send_with("HEAD", "/x", &[("range", "bytes=0-1")]).await;
    assert_eq!(head.status, 200, "RFC 9110, 14.2: Range is for GET");
    let head = gateway.send_with("HEAD", "/x", &[("if-none-match", "\"v1\"")]).await;
    assert_eq!(head.status, 304);
    assert_eq!(origin.count("/x"), 1);
}

#[tokio::test]
async fn an_answer_to_head_is_no_answer_to_get() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |_| fresh("the page"));
    let gateway = gateway(&origin).start().await;
    for _ in 0..2 {
        let head = gateway.send_with("HEAD", "/x", &[]).await.ok();
        assert!(!head.is_hit() && head.body.is_empty(), "{head:?}");
    }
    assert!(origin.seen("/x").iter().all(|seen| seen.method == "HEAD"));
    assert_eq!(gateway.get("/x").await.ok().text(), "the page");
    assert_eq!(origin.count("/x"), 3);
}

/// RFC 9111, 4.3.5
#[tokio::test]
async fn head_renews_or_ends_what_is_stored() {
    let origin = TestOrigin::start().await;
    for (path, tag) in [("/same", "\"v1\""), ("/other", "\"v2\"")] {
        origin.on(path, move |seen| match seen.method.as_str() {
            "HEAD" => with("the page", &[MINUTE, ("etag", tag), ("x-told", "by head")]),
            _ => stale("the page", ", stale-if-error=600").header("etag", "\"v1\""),
        });
    }
    let gateway = gateway(&origin).start().await;
    for path in ["/same", "/other"] {
        gateway.get(path).await.ok();
        gateway.send_with("HEAD", path, &[]).await.ok();
    }
    let same = gateway.get("/same").await.ok();
    assert!(same.is_hit() && same.header("x-told") == "by head", "{same:?}");
    assert_eq!(same.text(), "the page");
    assert_eq!(origin.count("/same"), 2);
    assert!(!gateway.get("/other").await.ok().is_hit());
    assert_eq!(origin.count("/other"), 3);
}

/// A refresh that fails costs nobody the answer that there is.
#[tokio::test]
async fn a_refresh_that_fails_leaves_what_is_stale() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| match seen.number {
        1 => stale("old", ", stale-while-revalidate=600"),
        2 => with("down", &[]).status(503),
        3 => with("mine", &[("cache-control", "private")]),
        _ => fresh("new"),
    });
    let gateway = gateway(&origin).start().await;
    gateway.get("/x").await.ok();
    until("it is refreshed at last", SOON, || async {
        let reply = gateway.get("/x").await.ok();
        assert!(["old", "new"].contains(&reply.text()), "what was fetched behind an answer: {reply:?}");
        reply.text() == "new"
    })
    .await;
    assert_eq!(origin.count("/x"), 4);
}

/// Of the refreshes that fail there are fewer and fewer: not one with each request.
#[tokio::test]
async fn a_refresh_that_fails_is_put_off() {
    let origin = TestOrigin::start().await;
    let kpi = r#"cache = { namespace = "kpi", ttl = "1ms", stale_while_revalidate = "10m" }"#;
    let gateway = gateway(&origin).route("/kpi/*", kpi).start().await;
    for path in ["/503", "/429", "/kpi/503"] {
        origin.forget();
        let asked = std::sync::atomic::AtomicUsize::new(0);
        origin.on(path, move |_| match asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => stale("old", ", stale-while-revalidate=600"),
            _ => with("down", &[]).status(if path.ends_with("503") { 503 } else { 429 }),
        });
        gateway.get(path).await.ok();
        let began = std::time::Instant::now();
        until("it was tried again", SOON, || async {
            for _ in 0..20 {
                assert_eq!(gateway.get(path).await.ok().text(), "old", "{path}");
            }
            origin.count(path) >= 4
        })
        .await;
        // The first one, at once, after half a second, after another one.
        assert!(began.elapsed().as_millis() >= 1_400, "{path}: {:?}", began.elapsed());
    }
}
