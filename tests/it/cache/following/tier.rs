//! The second tier: what one node has fetched the others find in Redis, and nothing that is anybody's own.

use crate::{
    cache::following::{fresh, says, with, MINUTE},
    support::{gateway::token, *},
};
use futures_util::future::join_all;
use serde_json::json;

const TIER: &str = r#"cache = { follow = "origin", redis = "1MiB" }"#;
const HOST: (&str, &str) = ("host", "a.example");

/// In front of this origin, with this Redis behind.
fn node(origin: &TestOrigin, redis: &Redis) -> GatewayBuilder {
    Gateway::with(origin).origin("retries = 0").redis(&redis.url()).route("/*", TIER)
}

async fn get(gateway: &Gateway, path: &str) -> Reply {
    gateway.get_with(path, &[HOST]).await.ok()
}

/// The keys of answers, or of what leads to them.
async fn answers(redis: &Redis) -> Vec<String> {
    let keys = redis.keys().await.into_iter();
    keys.filter(|key| key.contains('@') && !key.contains("lock:")).collect()
}

/// Waits until Redis has this many of them and no fill is under way.
async fn stored(redis: &Redis, count: usize) {
    until("the answers are in redis", SOON, || async {
        let quiet = !redis.keys().await.iter().any(|key| key.contains("lock:"));
        quiet && answers(redis).await.len() == count
    })
    .await;
}

#[tokio::test]
async fn what_one_node_has_fetched_the_other_finds() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on("/x", |_| with("the page", &[MINUTE, ("etag", "\"v1\""), ("x-own", "1"), ("age", "20")]));
    let nodes = [node(&origin, &redis).start().await, node(&origin, &redis).start().await];
    get(&nodes[0], "/x").await;
    stored(&redis, 1).await;
    let reply = get(&nodes[1], "/x").await;
    assert!(says(&reply, "hit") && reply.text() == "the page", "{reply:?}");
    assert_eq!((reply.header("etag"), reply.header("x-own")), ("\"v1\"", "1"));
    assert!(reply.header("age").parse::<u64>().unwrap() >= 20, "its age goes with it: {reply:?}");
    assert!(get(&nodes[1], "/x").await.is_hit());
    assert_eq!(origin.count("/x"), 1);
}

#[tokio::test]
async fn variants_are_found_as_well() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on("/x", |seen| with(seen.header("x-v").unwrap_or("none"), &[MINUTE, ("vary", "X-V")]));
    let nodes = [node(&origin, &redis).start().await, node(&origin, &redis).start().await];
    for value in ["a", "b"] {
        nodes[0].get_with("/x", &[HOST, ("x-v", value)]).await.ok();
    }
    stored(&redis, 3).await;
    for value in ["b", "a", "b"] {
        let reply = nodes[1].get_with("/x", &[HOST, ("x-v", value)]).await.ok();
        assert!(reply.is_hit() && reply.text() == value, "{value}: {reply:?}");
    }
    assert_eq!(origin.count("/x"), 2);
    let other = nodes[1].get_with("/x", &[HOST, ("x-v", "c")]).await.ok();
    assert_eq!((other.text(), other.is_hit()), ("c", false));
}

#[tokio::test]
async fn what_is_too_large_stays_on_its_node() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let large = noise(1_100_000, 3);
    origin.on("/large", move |_| {
        Answer::new("application/octet-stream", large.clone()).header(MINUTE.0, MINUTE.1)
    });
    origin.on("/small", |_| fresh("x"));
    let nodes = [node(&origin, &redis).start().await, node(&origin, &redis).start().await];
    for path in ["/large", "/small"] {
        get(&nodes[0], path).await;
        assert!(get(&nodes[0], path).await.is_hit());
    }
    stored(&redis, 1).await;
    assert!(!get(&nodes[1], "/large").await.is_hit());
    assert_eq!(origin.count("/large"), 2);
}

#[tokio::test]
async fn nothing_of_anybodys_own_reaches_redis() {
    const SECRET: &str = "a-word-that-nobody-else-may-read";
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    for (path, fields) in [
        ("/private", &[("cache-control", "private, max-age=60")][..]),
        ("/no-store", &[("cache-control", "no-store")]),
        ("/authorized", &[MINUTE]),
        ("/cookie", &[MINUTE, ("set-cookie", SECRET)]),
        ("/error", &[("cache-control", "private")]),
        ("/public", &[MINUTE]),
    ] {
        let status = if path == "/error" { 500 } else { 200 };
        let text = if path == "/public" { "public" } else { SECRET };
        origin.on(path, move |_| with(text, fields).status(status));
    }
    let gateway = node(&origin, &redis).start().await;
    for _ in 0..2 {
        for path in ["/private", "/no-store", "/cookie", "/error", "/public"] {
            let cookie = ("cookie", "session=a-word-that-nobody-else-may-read");
            gateway.get_with(path, &[HOST, cookie]).await;
        }
        let bearer = format!("Bearer {}", token("acme", SECRET));
        gateway.get_with("/authorized", &[HOST, ("authorization", &bearer)]).await.ok();
    }
    until("what may be shared is there", SOON, || async {
        answers(&redis).await.iter().any(|key| key.contains("/public"))
    })
    .await;
    let mut public = false;
    for key in redis.keys().await {
        assert!(!key.contains(SECRET), "{key}");
        let kind: String = redis.run(&["TYPE", &key]).await;
        let value: Vec<u8> = match kind.as_str() {
            "string" => redis.run::<Option<Vec<u8>>>(&["GET", &key]).await.unwrap_or_default(),
            _ => redis.run::<Vec<u8>>(&["DUMP", &key]).await,
        };
        let holds = |word: &str| value.windows(word.len()).any(|window| window == word.as_bytes());
        assert!(!holds(SECRET), "{key} holds the secret");
        public |= holds("public");
    }
    assert!(public, "the scan finds what is there");
}

#[tokio::test]
async fn a_damaged_envelope_is_a_miss_and_a_counter() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on("/x", |_| fresh("the page"));
    let first = node(&origin, &redis).start().await;
    get(&first, "/x").await;
    stored(&redis, 1).await;
    let key = answers(&redis).await.remove(0);
    let whole: Vec<u8> = redis.run(&["GET", &key]).await;
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let damaged = [b"TGE9 something of another version".to_vec(), whole[..whole.len() / 2].to_vec(), flipped];
    for (turn, value) in damaged.into_iter().enumerate() {
        let node = node(&origin, &redis).start().await;
        let mut connection = redis.client().await;
        let _: () = redis::cmd("SET").arg(&key).arg(&value).query_async(&mut connection).await.unwrap();
        let reply = get(&node, "/x").await;
        assert!(!reply.is_hit() && reply.text() == "the page", "{reply:?}");
        let refused = node.metrics().await.value("tidegate_envelopes_refused_total", &[]);
        assert!((refused - 1.0).abs() < f64::EPSILON, "{refused}");
        assert_eq!(origin.count("/x"), turn + 2);
        until("it is mended", SOON, || async { redis.run::<Vec<u8>>(&["GET", &key]).await != value }).await;
        stored(&redis, 1).await;
    }
}

#[tokio::test]
async fn a_purge_ends_it_on_every_node_and_in_redis() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on("/url", |seen| fresh(&seen.number.to_string()));
    origin.on("/tag", |seen| fresh(&seen.number.to_string()).header("cache-tag", "products, all-of-it"));
    let nodes = [node(&origin, &redis).start().await, node(&origin, &redis).start().await];
    for (path, order) in
        [("/url", json!({"url": "http://a.example/url"})), ("/tag", json!({"tag": "products"}))]
    {
        let old = get(&nodes[0], path).await.text().to_owned();
        until("the other node has it too", SOON, || async {
            let reply = get(&nodes[1], path).await;
            assert_eq!(reply.text(), old);
            reply.is_hit()
        })
        .await;
        nodes[0].purge(&order).await.ok();
        // At once here; there as soon as the word is out.
        let new = get(&nodes[0], path).await;
        assert!(new.text() != old, "{path}: {new:?}");
        until("it has ended on the other node", SOON, || async { get(&nodes[1], path).await.text() != old })
            .await;
        assert_eq!(origin.count(path), 2, "the other node found the new one in redis");
    }
}

/// A purge covers the answers in Redis also for a node that starts later.
#[tokio::test]
async fn a_node_that_starts_later_knows_of_the_purge() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on("/x", |seen| fresh(&seen.number.to_string()).header("cache-tag", "products"));
    origin.on("/y", |seen| fresh(&seen.number.to_string()));
    let first = node(&origin, &redis).start().await;
    get(&first, "/x").await;
    get(&first, "/y").await;
    stored(&redis, 2).await;
    first.purge(&json!({"tag": "products"})).await.ok();
    let second = node(&origin, &redis).start().await;
    let reply = get(&second, "/x").await;
    assert!(!reply.is_hit() && origin.count("/x") == 2, "{reply:?}");
    assert!(get(&second, "/y").await.is_hit(), "what wasn't purged is of use");
}

#[tokio::test]
async fn without_redis_both_go_on() {
    let (origin, mut redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on("/x", |_| fresh("x"));
    origin.on("/y", |_| fresh("y"));
    let mut nodes = [node(&origin, &redis).start().await, node(&origin, &redis).start().await];
    for node in &nodes {
        get(node, "/x").await;
    }
    redis.kill();
    for node in &nodes {
        for path in ["/x", "/y", "/y"] {
            get(node, path).await;
        }
        assert!(get(node, "/x").await.is_hit() && get(node, "/y").await.is_hit());
    }
    redis.restart().await;
    for node in &mut nodes {
        assert_eq!(get(node, "/y").await.text(), "y");
        node.assert_sound().await;
    }
}

#[tokio::test]
async fn many_on_both_nodes_are_one_request() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on("/x", |_| fresh("x").gated());
    let nodes = [node(&origin, &redis).start().await, node(&origin, &redis).start().await];
    origin.hold();
    let asking = join_all((0..40).map(|n| get(&nodes[n % 2], "/x")));
    let release = async {
        until("all wait", 2 * SOON, || async {
            let open = join_all(nodes.iter().map(Gateway::metrics)).await;
            let open: f64 = open.iter().map(|m| m.value("tidegate_connections_open", &[])).sum();
            open >= 40.0 && origin.held() == 1
        })
        .await;
        origin.release();
    };
    let (replies, ()) = futures_util::join!(asking, release);
    assert!(replies.iter().all(|reply| reply.text() == "x"));
    assert_eq!(origin.count("/x"), 1);
}

/// One node is in the middle of an answer that the other can't have from it: nobody there waits for its end, which
/// may be far off.
async fn the_other_node_does_not_wait(answer: Answer) {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on("/x", move |seen| if seen.number == 1 { answer.clone() } else { fresh("mine") });
    let nodes = [node(&origin, &redis).start().await, node(&origin, &redis).start().await];
    origin.hold();
    let mut first = Transfer::ask_with(nodes[0].address(), "/x", &[]).await;
    assert_eq!(first.final_head().await.status, 200);
    let host = nodes[0].address().to_string();
    let asked = send(nodes[1].request("GET", "/x").header("host", host).timeout(SOON / 2));
    assert_eq!(asked.await.ok().text(), "mine");
    origin.release();
}

#[tokio::test]
async fn nobody_waits_for_what_is_private_on_another_node() {
    the_other_node_does_not_wait(with("a", &[("cache-control", "private")]).then_held("b")).await;
}

#[tokio::test]
async fn nobody_waits_for_events_of_another_node() {
    let events = Answer::new("text/event-stream", "data: 1\n\n").header("cache-control", "no-store");
    the_other_node_does_not_wait(events.then_held("data: 2\n\n")).await;
}

#[tokio::test]
async fn nobody_waits_for_what_is_too_large_for_redis() {
    let large = noise(2_000_000, 9);
    let answer = Answer::new("application/octet-stream", large[..1000].to_vec()).header(MINUTE.0, MINUTE.1);
    the_other_node_does_not_wait(answer.then_held(large[1000..].to_vec()).length(large.len()).broken()).await;
}

/// The gateway's own fields tell variants apart in Redis, too.
#[tokio::test]
async fn tenants_stay_apart_in_redis() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on("/x", |seen| {
        let who = seen.header("x-tenant").unwrap_or("nobody");
        with(who, &[("cache-control", "public, max-age=60"), ("vary", "X-Tenant")])
    });
    let nodes = [node(&origin, &redis).start().await, node(&origin, &redis).start().await];
    for (node, tenant) in [(0, "acme"), (1, "globex"), (1, "acme"), (0, "globex")] {
        let bearer = format!("Bearer {}", token(tenant, "ann"));
        let reply = nodes[node].get_with("/x", &[HOST, ("authorization", &bearer)]).await.ok();
        assert_eq!(reply.text(), tenant, "another tenant's answer: {reply:?}");
    }
}
