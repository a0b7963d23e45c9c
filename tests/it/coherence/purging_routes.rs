//! Purges of routes that follow their origin, from the order on the admin listener to what clients get: by URL and by
//! tag, soft and hard, beside fills under way, on one node and on two.

use crate::support::{gateway::GatewayBuilder, *};
use serde_json::json;

const FOLLOW: &str = "cache = \"origin\"";
const TIER: &str = r#"cache = { follow = "origin", redis = "1MiB" }"#;
const HOST: (&str, &str) = ("host", "a.example");
const TAGS: (&str, &str) = ("cache-tag", "products, shop");

fn alone(origin: &TestOrigin) -> GatewayBuilder {
    Gateway::with(origin).origin("retries = 0").route("/*", FOLLOW)
}

/// Two nodes on one Redis, with this route.
async fn two(origin: &TestOrigin, redis: &Redis, route: &str) -> [Gateway; 2] {
    let config = Gateway::with(origin).origin("retries = 0").redis(&redis.url()).route("/*", route);
    [config.start().await, config.start().await]
}

/// Text that names the request that led to it, with this lifetime.
fn numbered(seen: &Seen, control: &str) -> Answer {
    Answer::new("text/plain", seen.number.to_string()).header("cache-control", control).header(TAGS.0, TAGS.1)
}

async fn get(gateway: &Gateway, path: &str) -> Reply {
    gateway.get_with(path, &[HOST]).await.ok()
}

/// Fills, and holds that it is served from memory now.
async fn filled(gateway: &Gateway, path: &str) -> String {
    let first = get(gateway, path).await;
    // Where its body came late, its last byte was sent a moment before it was stored.
    let hit = eventually("it is served from memory", SOON, || async {
        let reply = get(gateway, path).await;
        assert_eq!(reply.text(), first.text(), "{reply:?}");
        reply.is_hit().then_some(reply)
    });
    hit.await.text().to_owned()
}

#[tokio::test]
async fn a_url_goes_with_all_its_variants_and_nothing_else() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| numbered(seen, "max-age=60").header("vary", "X-V"));
    origin.on("/y", |seen| numbered(seen, "max-age=60"));
    let gateway = alone(&origin).start().await;
    let variants = ["a", "b", "c"];
    for value in variants {
        gateway.get_with("/x", &[HOST, ("x-v", value)]).await.ok();
    }
    for path in ["/x?q=1", "/y"] {
        filled(&gateway, path).await;
    }
    gateway.get_with("/y", &[("host", "b.example")]).await.ok();
    let reply = gateway.purge(&json!({"url": "http://A.example:80/x"})).await.ok();
    assert_eq!(reply.json(), json!({"purged": 3, "soft": false}), "each variant is one");
    for value in variants {
        let reply = gateway.get_with("/x", &[HOST, ("x-v", value)]).await.ok();
        assert!(!reply.is_hit(), "{value}: {reply:?}");
    }
    assert!(get(&gateway, "/x?q=1").await.is_hit() && get(&gateway, "/y").await.is_hit());
    gateway.purge(&json!({"urls": ["https://a.example/y", "http://a.example/x?q=1"]})).await.ok();
    assert!(!get(&gateway, "/x?q=1").await.is_hit() && !get(&gateway, "/y").await.is_hit());
    assert!(gateway.get_with("/y", &[("host", "b.example")]).await.ok().is_hit(), "another host's");
}

#[tokio::test]
async fn a_tag_goes_with_all_that_carry_it() {
    let origin = TestOrigin::start().await;
    for (path, name, tags) in [
        ("/cache-tag", "cache-tag", "products, shop"),
        ("/surrogate-key", "surrogate-key", "shop products"),
        ("/other", "cache-tag", "prod"),
        ("/none", "x-none", "products"),
    ] {
        origin.on(path, move |seen| {
            Answer::new("text/plain", seen.number.to_string())
                .header("cache-control", "max-age=60")
                .header(name, tags)
        });
    }
    let gateway = alone(&origin).start().await;
    for path in ["/cache-tag", "/surrogate-key", "/other", "/none"] {
        filled(&gateway, path).await;
    }
    gateway.purge(&json!({"tag": "products"})).await.ok();
    for (path, kept) in [("/cache-tag", false), ("/surrogate-key", false), ("/other", true), ("/none", true)]
    {
        assert_eq!(get(&gateway, path).await.is_hit(), kept, "{path}");
        filled(&gateway, path).await;
    }
    gateway.purge(&json!({"all": true})).await.ok();
    for path in ["/cache-tag", "/surrogate-key", "/other", "/none"] {
        assert!(!get(&gateway, path).await.is_hit(), "{path}");
    }
}

/// Soft: what may be served stale is, while it is asked after; the validator is of use.
#[tokio::test]
async fn soft_is_stale_and_hard_is_gone() {
    let origin = TestOrigin::start().await;
    origin.on("/swr", |seen| {
        let answer = match seen.header("if-none-match") {
            Some(_) => numbered(seen, "max-age=60, stale-while-revalidate=60").status(304),
            None => numbered(seen, "max-age=60, stale-while-revalidate=60"),
        };
        let answer = answer.header("etag", "\"v1\"");
        if seen.number > 1 {
            answer.gated()
        } else {
            answer
        }
    });
    let gateway = alone(&origin).start().await;
    let old = filled(&gateway, "/swr").await;
    origin.hold();
    gateway.purge(&json!({"url": "http://a.example/swr", "soft": true})).await.ok();
    for _ in 0..3 {
        let reply = get(&gateway, "/swr").await;
        assert!(reply.is_hit() && reply.text() == old, "{reply:?}");
    }
    until("it is asked after", SOON, || async { origin.held() == 1 }).await;
    origin.release();
    until("it is fresh again", SOON, || async {
        let reply = get(&gateway, "/swr").await;
        assert_eq!(reply.text(), old);
        !reply.cache_status().contains("stale")
    })
    .await;
    assert_eq!(origin.count("/swr"), 2);
    assert_eq!(origin.seen("/swr")[1].header("if-none-match"), Some("\"v1\""));
    gateway.purge(&json!({"url": "http://a.example/swr"})).await.ok();
    let new = get(&gateway, "/swr").await;
    assert!(new.text() != old, "{new:?}");
    assert_eq!(origin.seen("/swr")[2].header("if-none-match"), None, "what is gone is not asked after");
}

#[tokio::test]
async fn soft_without_a_grace_is_asked_after_first() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| match seen.header("if-none-match") {
        Some(_) => numbered(seen, "max-age=60").status(304).header("etag", "\"v1\""),
        None => numbered(seen, "max-age=60").header("etag", "\"v1\""),
    });
    let gateway = alone(&origin).start().await;
    let old = filled(&gateway, "/x").await;
    gateway.purge(&json!({"tag": "shop", "soft": true})).await.ok();
    let reply = get(&gateway, "/x").await;
    assert_eq!((reply.text(), origin.count("/x")), (&*old, 2), "{reply:?}");
    assert!(get(&gateway, "/x").await.is_hit());
}

/// An answer that was purged hard must not be served instead of an error either; one that was purged softly may be.
#[tokio::test]
async fn an_origin_that_fails_brings_back_only_what_was_purged_softly() {
    let origin = TestOrigin::start().await;
    for path in ["/soft", "/hard"] {
        origin.on(path, |seen| match seen.header("x-fail") {
            Some(_) => Answer::new("text/plain", "down").status(503),
            None => numbered(seen, "max-age=60, stale-if-error=600"),
        });
    }
    let gateway = alone(&origin).start().await;
    for (path, soft, status) in [("/soft", true, 200), ("/hard", false, 503)] {
        filled(&gateway, path).await;
        gateway.purge(&json!({"url": format!("http://a.example{path}"), "soft": soft})).await.ok();
        let reply = gateway.get_with(path, &[HOST, ("x-fail", "1")]).await;
        assert_eq!(reply.status.as_u16(), status, "{path}: {reply:?}");
    }
}

/// Asked for before the purge, answered after it: those who waited get it, and nobody later.
async fn a_fill_is_overtaken(order: serde_json::Value, answer: fn(&Seen) -> Answer) {
    let origin = TestOrigin::start().await;
    origin.on("/x", answer);
    let gateway = alone(&origin).start().await;
    origin.hold();
    let early = get(&gateway, "/x");
    let purge = async {
        until("the fill is under way", SOON, || async { origin.count("/x") == 1 }).await;
        gateway.purge(&order).await.ok();
        origin.release();
    };
    let (early, ()) = futures_util::join!(early, purge);
    assert!(early.text().starts_with('1'), "{early:?}");
    let late = get(&gateway, "/x").await;
    assert!(!late.is_hit() && late.text().starts_with('2'), "asked for before the purge: {late:?}");
    assert!(get(&gateway, "/x").await.is_hit());
}

#[tokio::test]
async fn a_fill_under_way_is_overtaken_by_a_purge_of_its_url() {
    a_fill_is_overtaken(json!({"url": "http://a.example/x"}), |seen| numbered(seen, "max-age=60").gated())
        .await;
}

#[tokio::test]
async fn a_fill_under_way_is_overtaken_by_a_purge_of_its_tag() {
    a_fill_is_overtaken(json!({"tag": "shop"}), |seen| numbered(seen, "max-age=60").gated()).await;
}

#[tokio::test]
async fn a_fill_whose_head_is_known_is_overtaken_by_a_purge_of_its_tag() {
    a_fill_is_overtaken(json!({"tag": "shop"}), |seen| {
        let answer = numbered(seen, "max-age=60");
        if seen.number == 1 {
            answer.then_held("!")
        } else {
            answer
        }
    })
    .await;
}

/// A request after the purge doesn't join a fill from before it.
#[tokio::test]
async fn nobody_joins_a_fill_that_began_before_the_purge() {
    for order in [json!({"url": "http://a.example/x"}), json!({"tag": "shop"})] {
        let origin = TestOrigin::start().await;
        origin.on("/x", |seen| {
            let answer = numbered(seen, "max-age=60");
            if seen.number == 1 {
                answer.then_held("!")
            } else {
                answer
            }
        });
        let gateway = alone(&origin).start().await;
        origin.hold();
        let mut early = Transfer::ask_with(gateway.address(), "/x", &[]).await;
        assert_eq!(early.final_head().await.status, 200);
        let host = gateway.address().to_string();
        let order = match order.get("url") {
            Some(_) => json!({"url": format!("http://{host}/x")}),
            None => order,
        };
        gateway.purge(&order).await.ok();
        let late = gateway.get("/x").await.ok();
        assert_eq!(late.text(), "2", "{order}: {late:?}");
        origin.release();
        assert_eq!(early.rest().await, (b"1!".to_vec(), End::Clean));
        let next = gateway.get("/x").await.ok();
        assert!(!next.text().starts_with('1'), "{order}: {next:?}");
    }
}

/// Both ways of ending: in memory alone, and in Redis as well.
async fn on_two_nodes(route: &str) {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on("/x", |seen| match seen.method.as_str() {
        "GET" => numbered(seen, "max-age=60"),
        _ => Answer::new("text/plain", "").status(204),
    });
    let nodes = two(&origin, &redis, route).await;
    let orders = [
        Some(json!({"url": "http://a.example/x"})),
        Some(json!({"tag": "products"})),
        Some(json!({"all": true})),
        None,
    ];
    for order in orders {
        let olds = [filled(&nodes[0], "/x").await, filled(&nodes[1], "/x").await];
        match &order {
            Some(order) => drop(nodes[0].purge(order).await.ok()),
            None => assert_eq!(nodes[0].send_with("DELETE", "/x", &[HOST]).await.status, 204),
        }
        let here = get(&nodes[0], "/x").await;
        assert!(!olds.iter().any(|old| old == here.text()), "{order:?}: {here:?}");
        until("the other node knows", SOON, || async {
            let there = get(&nodes[1], "/x").await;
            !olds.iter().any(|old| old == there.text())
        })
        .await;
    }
}

#[tokio::test]
async fn a_purge_ends_what_is_in_the_memory_of_every_node() {
    on_two_nodes(FOLLOW).await;
}

#[tokio::test]
async fn a_purge_ends_what_is_in_redis() {
    on_two_nodes(TIER).await;
}

/// A fill under way on another node than the one where the purge is ordered.
#[tokio::test]
async fn a_fill_of_another_node_is_overtaken_by_a_purge() {
    for route in [FOLLOW, TIER] {
        let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
        origin.on("/x", |seen| {
            let answer = numbered(seen, "max-age=60");
            if seen.number == 1 {
                answer.gated()
            } else {
                answer
            }
        });
        let nodes = two(&origin, &redis, route).await;
        origin.hold();
        let early = get(&nodes[1], "/x");
        let purge = async {
            until("the fill is under way", SOON, || async { origin.held() == 1 }).await;
            nodes[0].purge(&json!({"tag": "products"})).await.ok();
            until("the other node has heard of it", SOON, || async {
                nodes[1].metrics().await.value("tidegate_invalidations_total", &[("kind", "purge")]) >= 1.0
            })
            .await;
            origin.release();
        };
        let (early, ()) = futures_util::join!(early, purge);
        assert_eq!(early.text(), "1");
        for node in &nodes {
            let late = get(node, "/x").await;
            assert!(late.text() != "1", "{route}: {late:?}");
        }
    }
}

/// The store is away: the purge counts here at once, and there when it is back.
#[tokio::test]
async fn a_purge_that_the_store_missed_reaches_all_when_it_is_back() {
    let (origin, mut redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on("/x", |seen| numbered(seen, "max-age=60"));
    let nodes = two(&origin, &redis, TIER).await;
    let olds = [filled(&nodes[0], "/x").await, filled(&nodes[1], "/x").await];
    redis.kill();
    nodes[0].purge(&json!({"tag": "products"})).await.problem(503);
    let here = get(&nodes[0], "/x").await;
    assert!(!olds.iter().any(|old| old == here.text()), "{here:?}");
    redis.restart().await;
    until("the other node knows", SOON, || async {
        let there = get(&nodes[1], "/x").await;
        !olds.iter().any(|old| old == there.text())
    })
    .await;
}

/// On this node, and not those that are gone already.
#[tokio::test]
async fn a_purge_says_how_many_answers_it_was_about() {
    let origin = TestOrigin::start().await;
    for path in ["/a", "/b", "/c"] {
        origin.on(path, |seen| numbered(seen, "max-age=60"));
    }
    let gateway = alone(&origin).start().await;
    let url = |path: &str| format!("http://a.example{path}");
    for (order, found) in [
        (json!({"tag": "products"}), 3),
        (json!({"tags": ["products", "shop", "other"]}), 3),
        (json!({"tag": "other"}), 0),
        (json!({"all": true}), 3),
        (json!({"urls": [url("/a"), url("/b"), url("/b"), url("/d")]}), 2),
        (json!({"tag": "shop", "soft": true}), 3),
    ] {
        for path in ["/a", "/b", "/c"] {
            filled(&gateway, path).await;
        }
        let reply = gateway.purge(&order).await.ok();
        assert_eq!(reply.json()["purged"], found, "{order}");
        if found > 0 && order["soft"].is_null() {
            assert_eq!(gateway.purge(&order).await.ok().json()["purged"], 0, "{order}: they are gone");
        }
    }
}

/// Nothing is ever stored there for a purge to find: who orders it is told so, and nothing is purged.
#[tokio::test]
async fn a_purge_that_can_find_nothing_says_why() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| numbered(seen, "max-age=60"));
    let kpi = r#"cache = { namespace = "kpi", ttl = "60s" }"#;
    let gateway = Gateway::with(&origin)
        .route("/*", &format!("host = \"a.example\"\n{FOLLOW}"))
        .route("/kpi/*", &format!("host = \"a.example\"\n{kpi}"))
        .route("/off/*", "host = \"a.example\"")
        .raw("[[route]]\nhost = \"a.example\"\npath = \"/files/*\"\nfiles = { root = \"/tmp\" }")
        .start()
        .await;
    filled(&gateway, "/x").await;
    for (url, why) in [
        ("http://a.example/kpi/x?y=1", "namespace kpi"),
        ("http://a.example/files/x", "files"),
        ("http://a.example/off/x", "caches nothing"),
        ("http://b.example/x", "no route"),
        ("http://a.example/y/../x", "dot segment"),
        ("http://a.example/x%zz", "percent-encoding"),
        ("http://a.example/kpi%2Fx", "escaped slash"),
    ] {
        for order in [json!({"url": url}), json!({"urls": ["http://a.example/x", url], "soft": true})] {
            let detail = gateway.purge(&order).await.problem(422).json()["detail"].to_string();
            assert!(detail.contains(url.split('?').next().unwrap()) && detail.contains(why), "{detail}");
        }
        assert!(get(&gateway, "/x").await.is_hit(), "nothing was purged");
    }
    assert_eq!(gateway.purge(&json!({"url": "http://a.example/x"})).await.ok().json()["purged"], 1);
}

/// One resource has one key: any spelling by which a request gets its answer orders its purge as well.
#[tokio::test]
async fn a_purge_finds_what_a_request_of_the_same_spelling_gets() {
    let origin = TestOrigin::start().await;
    origin.on("/~f/x", |seen| numbered(seen, "max-age=60"));
    let gateway = Gateway::with(&origin).route("/*", FOLLOW).start().await;
    for spelling in ["/~f/x", "//~f/x", "///~f/x", "/%7Ef/x", "/%7ef/x", "//%7Ef/%78"] {
        filled(&gateway, "/~f/x").await;
        assert!(get(&gateway, spelling).await.is_hit(), "{spelling}");
        let order = json!({"url": format!("http://{}{spelling}", HOST.1)});
        assert_eq!(gateway.purge(&order).await.ok().json()["purged"], 1, "{spelling}");
        assert!(!get(&gateway, "/~f/x").await.is_hit(), "{spelling}: it is gone");
    }
}

/// Whatever a page is tagged with, a purge finds it, or it isn't stored.
#[tokio::test]
async fn every_tag_of_what_is_stored_is_found() {
    let origin = TestOrigin::start().await;
    let many = |count: usize| (0..count).map(|n| format!("tag-{n}")).collect::<Vec<_>>().join(",");
    let pages = [
        ("/many", many(1_000).into_bytes(), Some("tag-999")),
        ("/utf-8", "a, \u{e4}pfel, b".as_bytes().to_vec(), Some("\u{e4}pfel")),
        ("/latin-1", b"a, \xf6l, b".to_vec(), Some("\u{f6}l")),
        ("/beside-latin-1", b"a, \xe4pfel, beside".to_vec(), Some("beside")),
        ("/long", "x".repeat(1_024).into_bytes(), Some("x")),
        ("/too-many", many(1_025).into_bytes(), None),
        ("/too-long", "x".repeat(1_025).into_bytes(), None),
        (
            "/too-much",
            (0..20).map(|n| format!("{n:a>1000}")).collect::<Vec<_>>().join(",").into_bytes(),
            None,
        ),
    ];
    for (path, tags, _) in &pages {
        let tags = tags.clone();
        origin.on(path, move |seen| {
            let answer = Answer::new("text/plain", seen.number.to_string());
            answer.header("cache-control", "max-age=60").header_bytes("cache-tag", &tags)
        });
    }
    let gateway = alone(&origin).start().await;
    let reply = |path: &'static str| {
        let gateway = &gateway;
        async move { gateway.get_with(path, &[HOST]).await.ok() }
    };
    for (path, _, tag) in pages {
        let first = reply(path).await;
        let Some(tag) = tag else {
            assert!(first.cache_status().contains("detail=tags"), "{path}: {}", first.cache_status());
            assert!(!reply(path).await.is_hit(), "{path}");
            continue;
        };
        assert!(reply(path).await.is_hit(), "{path}");
        let tag = if path == "/long" { "x".repeat(1_024) } else { tag.to_owned() };
        assert_eq!(gateway.purge(&json!({"tag": tag})).await.ok().json()["purged"], 1, "{path}");
        assert!(!reply(path).await.is_hit(), "{path}");
    }
}
