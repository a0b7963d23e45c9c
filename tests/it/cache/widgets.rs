//! Widget answers: hit and miss, identities, validators, encodings, what is stored and what never is.

use crate::support::{
    client::try_send,
    gateway::{sign, token, KPI},
    *,
};
use futures_util::future::join_all;
use serde_json::json;
use std::time::{Duration, Instant};

const PATH: &str = "/api/widgets/kpi";

/// A cache table of namespace `kpi`, scope `public`, with these further keys.
fn public(rules: &str) -> String {
    format!(r#"cache = {{ namespace = "kpi", scope = "public", {rules} }}"#)
}

/// A JSON answer of about `len` bytes that compresses well.
fn large(seen: &Seen, len: usize) -> Answer {
    Answer::json(&json!({"seq": seen.number, "rows": vec![json!({"label": "order", "count": 17}); len / 30]}))
}

/// Returns true if the answer is marked as stale.
fn is_stale(reply: &Reply) -> bool {
    let status = reply.cache_status();
    status.contains("stale") || status.contains("ttl=-")
}

#[tokio::test]
async fn a_miss_is_stored_and_then_hit() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let gateway = Gateway::with(&origin).redis(&redis.url()).route(PATH, KPI).start().await;
    let first = gateway.get_as("acme", PATH).await.ok();
    assert_eq!(first.cache_status(), "tidegate; fwd=uri-miss; stored");
    let second = gateway.get_as("acme", PATH).await.ok();
    assert_eq!(second.cache_status(), "tidegate; hit");
    assert_eq!(first.body, second.body);
    assert_eq!(second.header("content-type"), "application/json");
    assert_eq!(origin.count(PATH), 1);
    assert_ne!(first.header("x-request-id"), "");
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
    // A request is counted when its answer has been sent: its client may be quicker.
    until("both requests are counted", SOON, || async {
        gateway.metrics().await.value("tidegate_requests_total", &[]) >= 2.0
    })
    .await;
    let metrics = gateway.metrics().await;
    assert!((metrics.value("tidegate_requests_total", &[("result", "hit")]) - 1.0).abs() < f64::EPSILON);
    assert!((metrics.value("tidegate_fills_total", &[("outcome", "stored")]) - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn another_node_takes_the_answer_from_the_store() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let config = Gateway::with(&origin).redis(&redis.url()).route(PATH, KPI);
    let (a, b) = (config.start().await, config.start().await);
    let first = a.get_as("acme", PATH).await.ok();
    until("the store has the answer", SOON, || async {
        redis.keys().await.iter().any(|k| k.starts_with("dash:kpi:"))
    })
    .await;
    let second = b.get_as("acme", PATH).await.ok();
    assert_eq!((&first.body, first.header("etag")), (&second.body, second.header("etag")));
    assert_eq!(origin.count(PATH), 1);
}

#[tokio::test]
async fn without_redis_memory_serves_alone() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route(PATH, KPI).event("order_created", &["kpi"]).start().await;
    assert_eq!(gateway.get_as("acme", PATH).await.ok().seq(), 1);
    assert_eq!(gateway.get_as("acme", PATH).await.ok().seq(), 1);
    gateway.bump("acme").await;
    assert_eq!(gateway.get_as("acme", PATH).await.ok().seq(), 2);
}

#[tokio::test]
async fn tenants_and_the_public_never_share() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let gateway = Gateway::with(&origin).redis(&redis.url()).route(PATH, KPI).start().await;
    for round in 0..2 {
        for tenant in ["acme", "globex"] {
            let reply = gateway.get_as(tenant, PATH).await.ok();
            assert_eq!(reply.json()["tenant"], tenant);
            assert_eq!(reply.is_hit(), round == 1);
        }
        let reply = gateway.get(PATH).await.ok();
        assert_eq!(reply.json()["tenant"], "public");
        assert_eq!(reply.is_hit(), round == 1);
    }
    assert_eq!(origin.count(PATH), 3);
}

#[tokio::test]
async fn scope_user_tells_users_apart_and_needs_one() {
    let origin = TestOrigin::start().await;
    let route = r#"cache = { namespace = "mine", scope = "user", ttl = "60s" }"#;
    let gateway = Gateway::with(&origin).route("/me", route).start().await;
    let ask = |tenant: &'static str, user: &'static str| {
        let request = gateway.request("GET", "/me").bearer_auth(token(tenant, user));
        async move { send(request).await.ok() }
    };
    for hit in [false, true] {
        for (tenant, user) in [("acme", "ann"), ("acme", "bob"), ("globex", "ann")] {
            let reply = ask(tenant, user).await;
            assert_eq!(
                (reply.json()["tenant"].as_str(), reply.json()["user"].as_str()),
                (Some(tenant), Some(user))
            );
            assert_eq!(reply.is_hit(), hit);
            assert!(reply.header("cache-control").contains("private"), "{reply:?}");
        }
    }
    let refused = gateway.get("/me").await.problem(401);
    assert!(refused.header("www-authenticate").starts_with("Bearer"), "{refused:?}");
    assert_eq!(origin.count("/me"), 3);
}

#[tokio::test]
async fn a_token_that_does_not_verify_is_refused_even_beside_a_hit() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route(PATH, KPI).start().await;
    gateway.get_as("acme", PATH).await.ok();
    gateway.get(PATH).await.ok();
    let (good, other_tenant) = (token("acme", "ann"), token("globex", "ann"));
    let now = now_ms() / 1000;
    let (_, signature) = good.rsplit_once('.').unwrap();
    let (other, _) = other_tenant.rsplit_once('.').unwrap();
    let forged = format!("{other}.{signature}");
    let none = format!("eyJhbGciOiJub25lIn0.{}.", good.split('.').nth(1).unwrap());
    let bad = [
        ("expired", sign(&json!({"sub": "ann", "tenant": "acme", "exp": now - 60}))),
        ("not yet valid", sign(&json!({"sub": "ann", "tenant": "acme", "exp": now + 600, "nbf": now + 300}))),
        ("without exp", sign(&json!({"sub": "ann", "tenant": "acme"}))),
        ("with a tenant that is no name", sign(&json!({"sub": "ann", "tenant": "a:b", "exp": now + 600}))),
        ("forged", forged),
        ("alg none", none),
        ("garbage", "garbage".to_owned()),
    ];
    for (what, token) in bad {
        let reply = send(gateway.request("GET", PATH).bearer_auth(&token)).await;
        assert_eq!(reply.status, 401, "{what}: {reply:?}");
        let reply = reply.problem(401);
        assert!(
            reply.header("www-authenticate").contains(r#"Bearer error="invalid_token""#),
            "{what}: {reply:?}"
        );
    }
    assert_eq!(origin.count(PATH), 2);
}

#[tokio::test]
async fn a_token_in_the_query_serves_where_allowed_and_goes_no_further() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin)
        .route(PATH, &format!("token_query = true\n{KPI}"))
        .route("/other", &KPI.replace("kpi", "other"))
        .start()
        .await;
    let query = format!("?token={}", token("acme", "ann"));
    assert_eq!(gateway.get(&format!("{PATH}{query}")).await.ok().json()["tenant"], "acme");
    assert!(gateway.get_as("acme", PATH).await.ok().is_hit());
    assert_eq!(origin.seen(PATH)[0].query, None);
    assert_eq!(gateway.get(&format!("/other{query}")).await.ok().json()["tenant"], "public");
    assert_eq!(origin.seen("/other")[0].query, None);
}

#[tokio::test]
async fn the_identity_headers_come_from_the_claims_alone() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route(PATH, KPI).route("/plain", "").start().await;
    for path in [PATH, "/plain"] {
        let forged = |request: reqwest::RequestBuilder| {
            request.header("x-tenant", "globex").header("X-User", "eve").header("x-role", "admin")
        };
        let known =
            send(forged(gateway.request("GET", path)).bearer_auth(token("acme", "ann"))).await.ok().json();
        // A fill for a whole tenant names the tenant alone: whoever asks first must not shape the answer.
        let shared = path == PATH;
        let (user, role) = if shared { (json!(null), json!(null)) } else { (json!("ann"), json!("viewer")) };
        assert_eq!(
            (&known["tenant"], &known["user"], &known["role"]),
            (&json!("acme"), &user, &role),
            "{path}"
        );
        let unknown = send(forged(gateway.request("GET", path))).await.ok().json();
        assert_ne!(unknown["tenant"], "globex", "{path}");
        assert_eq!((&unknown["user"], &unknown["role"]), (&json!(null), &json!(null)), "{path}");
    }
}

#[tokio::test]
async fn each_encoding_has_its_tag_and_any_of_them_validates() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| large(seen, 8000));
    let gateway = Gateway::with(&origin).route(PATH, &public(r#"ttl = "60s""#)).start().await;
    let ask = |encoding: &'static str| send(gateway.request("GET", PATH).header("accept-encoding", encoding));
    let mut tags = Vec::new();
    let plain = ask("identity").await.ok();
    for encoding in ["identity", "gzip", "br", "zstd"] {
        let reply = eventually("the answer comes encoded", SOON, || async {
            let reply = ask(encoding).await.ok();
            (encoding == "identity" || reply.header("content-encoding") == encoding).then_some(reply)
        })
        .await;
        assert!(reply.decoded() == plain.body, "{encoding}");
        assert!(reply.body.len() < plain.body.len() || encoding == "identity", "{encoding}");
        assert!(
            reply.header("vary").to_ascii_lowercase().contains("accept-encoding"),
            "{encoding}: {reply:?}"
        );
        let tag = reply.header("etag").to_owned();
        assert!(tag.starts_with('"') && tag.ends_with('"') && !tags.contains(&tag), "{encoding}: {tag}");
        tags.push(tag);
    }
    for tag in &tags {
        for accepted in ["identity", "br"] {
            for condition in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
                let request = gateway.request("GET", PATH).header("accept-encoding", accepted);
                let reply = send(request.header("if-none-match", &condition)).await;
                assert_eq!((reply.status.as_u16(), reply.body.len()), (304, 0), "{condition}: {reply:?}");
                assert!(reply.header("etag").starts_with('"'), "{reply:?}");
                assert_ne!(reply.header("cache-control"), "", "{reply:?}");
                assert_ne!(reply.header("vary"), "", "{reply:?}");
            }
        }
    }
    let other = send(gateway.request("GET", PATH).header("if-none-match", "\"other\"")).await;
    assert_eq!(other.status, 200);
    assert_eq!(origin.count(PATH), 1);
}

#[tokio::test]
async fn the_encoding_follows_the_q_values_and_then_the_servers_preference() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| large(seen, 8000));
    let gateway = Gateway::with(&origin).route(PATH, &public(r#"ttl = "60s""#)).start().await;
    for (accepted, chosen) in [
        ("gzip, deflate, br, zstd", "br"),
        ("zstd, gzip", "zstd"),
        ("gzip;q=1.0, br;q=0.5", "gzip"),
        ("br;q=0, gzip", "gzip"),
        ("*;q=0.5, br;q=0", "zstd"),
        ("identity, br;q=0.5", ""),
        ("", ""),
        ("deflate", ""),
    ] {
        until(&format!("{accepted:?} gets {chosen:?}"), SOON, || async {
            let reply = send(gateway.request("GET", PATH).header("accept-encoding", accepted)).await.ok();
            reply.decoded();
            reply.header("content-encoding") == chosen
        })
        .await;
    }
}

#[tokio::test]
async fn what_is_small_or_does_not_shrink_stays_plain() {
    let origin = TestOrigin::start().await;
    origin.on("/small", |_| Answer::json(&json!({"a": "a".repeat(900)})));
    origin.on("/image", |_| Answer::new("image/png", vec![b'a'; 4000]));
    origin.on("/noise", |_| Answer::new("text/plain", noise(4000, 3)));
    let mut config = Gateway::with(&origin);
    for path in ["/small", "/image", "/noise"] {
        let namespace = path.trim_start_matches('/');
        config = config.route(path, &format!(r#"cache = {{ namespace = "{namespace}", ttl = "60s" }}"#));
    }
    let gateway = config.start().await;
    for path in ["/small", "/image", "/noise"] {
        for _ in 0..20 {
            let reply =
                send(gateway.request("GET", path).header("accept-encoding", "br, gzip, zstd")).await.ok();
            assert_eq!(reply.header("content-encoding"), "", "{path}");
        }
    }
}

#[tokio::test]
async fn head_is_the_answer_without_its_body() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route(PATH, KPI).start().await;
    let cold = send(gateway.request("HEAD", PATH)).await.ok();
    let get = gateway.get(PATH).await.ok();
    let warm = send(gateway.request("HEAD", PATH)).await.ok();
    for head in [&cold, &warm] {
        assert!(head.body.is_empty());
        assert_eq!(head.header("etag"), get.header("etag"));
        assert_eq!(head.header("content-type"), get.header("content-type"));
    }
    assert_eq!(warm.header("content-length"), get.body.len().to_string());
    assert!(get.is_hit(), "a HEAD's fill is the GET's: {get:?}");
    assert_eq!(origin.seen(PATH).len(), 1);
    assert_eq!(origin.seen(PATH)[0].method, "GET");
}

#[tokio::test]
async fn last_modified_validates_too() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| Answer::echo(seen).header("last-modified", "Sat, 01 Aug 2026 10:00:00 GMT"));
    let gateway = Gateway::with(&origin).route(PATH, KPI).start().await;
    assert_eq!(gateway.get(PATH).await.ok().header("last-modified"), "Sat, 01 Aug 2026 10:00:00 GMT");
    for (since, status) in [
        ("Sat, 01 Aug 2026 10:00:00 GMT", 304),
        ("Sat, 01 Aug 2026 09:59:59 GMT", 200),
        ("Sun, 02 Aug 2026 10:00:00 GMT", 304),
        ("nonsense", 200),
    ] {
        let reply = send(gateway.request("GET", PATH).header("if-modified-since", since)).await;
        assert_eq!(reply.status.as_u16(), status, "{since}");
    }
    // If-None-Match wins over If-Modified-Since (RFC 9110, 13.2.2).
    let both = gateway.request("GET", PATH).header("if-none-match", "\"x\"");
    assert_eq!(send(both.header("if-modified-since", "Sun, 02 Aug 2026 10:00:00 GMT")).await.status, 200);
}

#[tokio::test]
async fn the_outside_is_told_how_old_and_for_whom() {
    let origin = TestOrigin::start().await;
    let own = format!("{}\n", public(r#"ttl = "60s", cache_control = "no-cache""#).replace("kpi", "own"));
    let gateway = Gateway::with(&origin)
        .route(PATH, KPI)
        .route("/chart", &public(r#"ttl = "60s""#).replace("kpi", "chart"))
        .route("/own", &own)
        .start()
        .await;
    let tenant = gateway.get_as("acme", PATH).await.ok();
    assert!(tenant.header("cache-control").contains("private"), "{tenant:?}");
    let shared = gateway.get("/chart").await.ok();
    assert!(shared.header("cache-control").contains("public"), "{shared:?}");
    assert!(shared.header("cache-control").contains("s-maxage="), "{shared:?}");
    assert_eq!(gateway.get("/own").await.ok().header("cache-control"), "no-cache");
    until("the answer ages", SOON, || async {
        let age: u64 = gateway.get("/chart").await.ok().header("age").parse().unwrap();
        assert!(age < 20);
        age >= 1
    })
    .await;
}

#[tokio::test]
async fn only_the_listed_parameters_count_in_whatever_order() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let gateway = Gateway::with(&origin)
        .redis(&redis.url())
        .route(PATH, &public(r#"ttl = "60s", query = ["hours", "unit"]"#))
        .start()
        .await;
    let first = gateway.get(&format!("{PATH}?hours=24&unit=eur&utm_source=x")).await.ok();
    for same in ["?unit=eur&hours=24", "?hours=24&a=b&unit=eur&_=17", "?ho%75rs=24&unit=%65ur"] {
        let reply = gateway.get(&format!("{PATH}{same}")).await.ok();
        assert!(reply.is_hit(), "{same}: {reply:?}");
        assert_eq!(reply.body, first.body);
    }
    for other in ["?hours=24", "?hours=25&unit=eur", "?hours=24&unit=", "?hours=24&hours=25&unit=eur", ""] {
        assert!(!gateway.get(&format!("{PATH}{other}")).await.ok().is_hit(), "{other}");
    }
    for seen in origin.seen(PATH) {
        let query = seen.query.unwrap_or_default();
        assert!(query
            .split('&')
            .all(|pair| pair.is_empty() || pair.starts_with("hours=") || pair.starts_with("unit=")));
    }
    assert_eq!(origin.seen(PATH)[0].query.as_deref(), Some("hours=24&unit=eur"));
    assert_eq!(origin.count(PATH), 6);
}

#[tokio::test]
async fn a_set_cookie_is_never_stored_nor_shared() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on(PATH, |seen| {
        Answer::echo(seen).header("set-cookie", &format!("session={}", seen.number)).gated()
    });
    let gateway = Gateway::with(&origin).redis(&redis.url()).route(PATH, KPI).start().await;
    origin.hold();
    let asking = tokio::spawn(join_all((0..5).map(|_| send(gateway.request("GET", PATH)))));
    until("the leader is at the origin", SOON, || async { origin.held() > 0 }).await;
    origin.release();
    let mut cookies = Vec::new();
    for reply in asking.await.unwrap() {
        let reply = reply.ok();
        assert!(!reply.is_hit(), "{reply:?}");
        if let Some(cookie) = reply.headers.get("set-cookie") {
            assert!(!cookies.contains(cookie), "a cookie given twice: {reply:?}");
            cookies.push(cookie.clone());
        }
    }
    let before = origin.count(PATH);
    assert!(!gateway.get(PATH).await.ok().is_hit());
    assert_eq!(origin.count(PATH), before + 1);
    // A mark that tells others not to wait may be there, but no answer.
    for key in redis.keys().await.into_iter().filter(|key| key != "dash:purge:log") {
        let value: Vec<u8> = redis.run(&["GET", &key]).await;
        let value = String::from_utf8_lossy(&value);
        assert!(!value.contains("session=") && !value.contains("seq"), "{key}: {value}");
    }
}

#[tokio::test]
async fn a_5xx_is_not_stored() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on(PATH, |_| Answer::new("text/plain", "oops").status(500));
    let gateway = Gateway::with(&origin).redis(&redis.url()).route(PATH, KPI).start().await;
    let failed = gateway.get(PATH).await;
    assert!(failed.status.is_server_error(), "{failed:?}");
    origin.on(PATH, Answer::echo);
    until("the origin's recovery is seen", SOON, || async { gateway.get(PATH).await.status == 200 }).await;
    assert!(gateway.get(PATH).await.ok().is_hit());
}

#[tokio::test]
async fn a_404_is_stored_only_where_the_route_says_so() {
    let origin = TestOrigin::start().await;
    for path in ["/kept", "/asked"] {
        origin.on(path, |seen| Answer::echo(seen).status(404));
    }
    let gateway = Gateway::with(&origin)
        .route("/kept", &public(r#"ttl = "60s", negative_ttl = "300ms""#))
        .route("/asked", &public(r#"ttl = "60s""#).replace("kpi", "asked"))
        .start()
        .await;
    let first = gateway.get("/kept").await;
    assert_eq!((first.status.as_u16(), first.seq()), (404, gateway.get("/kept").await.seq()));
    until("the 404 goes", SOON, || async { gateway.get("/kept").await.seq() != first.seq() }).await;
    let (one, two) = (gateway.get("/asked").await, gateway.get("/asked").await);
    assert_eq!((one.status.as_u16(), two.status.as_u16()), (404, 404));
    assert_ne!(one.seq(), two.seq());
}

#[tokio::test]
async fn what_exceeds_max_size_is_delivered_but_not_stored() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    for (path, chunked) in [("/whole", false), ("/chunked", true)] {
        origin.on(path, move |_| {
            let answer = Answer::new("application/octet-stream", noise(100_000, 5));
            if chunked {
                answer.chunked()
            } else {
                answer
            }
        });
    }
    let gateway = Gateway::with(&origin)
        .redis(&redis.url())
        .route("/whole", &public(r#"ttl = "60s", max_size = "64KiB""#))
        .route("/chunked", &public(r#"ttl = "60s", max_size = "64KiB""#).replace("kpi", "chunked"))
        .start()
        .await;
    for path in ["/whole", "/chunked"] {
        for asked in 1..=3 {
            let reply = gateway.get(path).await.ok();
            assert!(reply.body == noise(100_000, 5), "{path}: {} bytes", reply.body.len());
            assert!(!reply.is_hit(), "{path}: {:?}", reply.headers);
            // Of chunks nobody knows how many come.
            let told = reply.cache_status();
            assert!(
                path == "/chunked" || told.contains("detail=too_large") && !told.contains("stored"),
                "{told}"
            );
            // The first may cost the origin a second request: what was read of it is too much to be kept.
            assert!(origin.count(path) <= asked + 1, "{path}: {}", origin.count(path));
        }
    }
    assert!(gateway.metrics().await.value("tidegate_fills_total", &[("outcome", "too_large")]) >= 1.0);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_stored() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |_| Answer::json(&json!({"seq": 0})).broken());
    let gateway = Gateway::with(&origin).origin("retries = 0").route(PATH, KPI).start().await;
    match try_send(gateway.request("GET", PATH)).await {
        Ok(reply) => assert!(reply.status.is_server_error(), "half an answer as a whole one: {reply:?}"),
        Err(error) => assert!(error.is_body() || error.is_decode() || error.is_request(), "{error:?}"),
    }
    origin.on(PATH, Answer::echo);
    until("the origin's recovery is seen", SOON, || async { gateway.get(PATH).await.status == 200 }).await;
    assert_ne!(gateway.get(PATH).await.ok().seq(), 0);
}

#[tokio::test]
async fn who_waits_on_what_may_not_be_stored_does_not_queue() {
    let origin = TestOrigin::start().await;
    let delay = Duration::from_millis(250);
    origin.on(PATH, move |seen| Answer::echo(seen).header("set-cookie", "a=b").after(delay).gated());
    let gateway = Gateway::with(&origin).route(PATH, KPI).start().await;
    let start = Instant::now();
    for reply in join_all((0..12).map(|_| gateway.get(PATH))).await {
        reply.ok();
    }
    let took = start.elapsed();
    assert!(took < 5 * delay, "twelve askers took {took:?}: one after another would be {:?}", 12 * delay);
    // Marked by now: all reach the origin side by side.
    origin.hold();
    let asking = tokio::spawn(join_all((0..12).map(|_| send(gateway.request("GET", PATH)))));
    until("all twelve are at the origin", SOON, || async { origin.held() == 12 }).await;
    origin.release();
    for reply in asking.await.unwrap() {
        reply.ok();
    }
}

#[tokio::test]
async fn stale_while_revalidate_answers_at_once_and_refreshes_once() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on(PATH, |seen| Answer::echo(seen).gated());
    let rules = public(r#"ttl = "300ms", stale_while_revalidate = "60s""#);
    let gateway = Gateway::with(&origin).redis(&redis.url()).route(PATH, &rules).start().await;
    let old = gateway.get(PATH).await.ok().seq();
    origin.hold();
    until("a refresh is under way", SOON, || async {
        assert_eq!(gateway.get(PATH).await.ok().seq(), old);
        origin.held() == 1
    })
    .await;
    for _ in 0..20 {
        let reply = gateway.get(PATH).await.ok();
        assert_eq!(reply.seq(), old);
        assert!(is_stale(&reply), "{reply:?}");
    }
    assert_eq!(origin.count(PATH), 2, "one refreshes");
    origin.release();
    until("the new answer is served", SOON, || async { gateway.get(PATH).await.ok().seq() > old }).await;
}

#[tokio::test]
async fn a_dead_origin_leaves_the_last_answer_until_its_window_ends() {
    let (mut origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let rules = public(r#"ttl = "200ms", stale_if_error = "3s""#);
    let config = Gateway::with(&origin).redis(&redis.url()).route(PATH, &rules);
    let gateway = config.start().await;
    let old = gateway.get(PATH).await.ok().seq();
    origin.kill();
    until("the answer is served as stale", SOON, || async {
        let reply = gateway.get(PATH).await.ok();
        assert_eq!(reply.seq(), old);
        is_stale(&reply)
    })
    .await;
    let failed = eventually("the window ends", SOON, || async {
        let reply = gateway.get(PATH).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    // 503 once the breaker has opened.
    assert!([502, 503].contains(&failed.status.as_u16()), "{failed:?}");
    let status = failed.status.as_u16();
    failed.problem(status);
    origin.restart().await;
    until("the origin's return is seen", 2 * SOON, || async { gateway.get(PATH).await.status == 200 }).await;
}

#[tokio::test]
async fn an_origin_error_leaves_the_last_answer_after_a_bump_too() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let gateway = Gateway::with(&origin)
        .redis(&redis.url())
        .route(PATH, KPI)
        .event("order_created", &["kpi"])
        .start()
        .await;
    let old = gateway.get_as("acme", PATH).await.ok().seq();
    origin.on(PATH, |_| Answer::new("text/plain", "oops").status(503));
    gateway.bump("acme").await;
    let reply = gateway.get_as("acme", PATH).await.ok();
    assert_eq!(reply.seq(), old);
    assert!(is_stale(&reply), "{reply:?}");
    assert!(!gateway.get_as("globex", PATH).await.status.is_success(), "nobody else's answer");
    origin.on(PATH, Answer::echo);
    until("the new generation is served", 2 * SOON, || async {
        let reply = gateway.get_as("acme", PATH).await.ok();
        reply.seq() > old && !is_stale(&reply)
    })
    .await;
}

/// An answer that is no error ends what was stored: while it is refreshed, and after a bump.
#[tokio::test]
async fn what_is_gone_or_refused_outlives_nothing() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let rules = r#"ttl = "100ms", stale_while_revalidate = "60s", stale_if_error = "10m""#;
    let gateway = Gateway::with(&origin)
        .redis(&redis.url())
        .route("/kpi/*", &public(rules))
        .event("order_created", &["kpi"])
        .start()
        .await;
    type Case = (&'static str, u16, &'static [(&'static str, &'static str)], bool);
    const CASES: [Case; 8] = [
        ("/kpi/404", 404, &[], true),
        ("/kpi/403", 403, &[], true),
        ("/kpi/302", 302, &[("location", "/login")], true),
        ("/kpi/204", 204, &[], true),
        ("/kpi/private", 200, &[("cache-control", "private")], true),
        ("/kpi/cookie", 200, &[("set-cookie", "a=b")], true),
        ("/kpi/503", 503, &[], false),
        ("/kpi/429", 429, &[], false),
    ];
    for bump in [false, true] {
        for (path, status, fields, ends) in CASES {
            let asked = std::sync::atomic::AtomicUsize::new(0);
            origin.on(path, move |_| {
                let answer = match asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
                    0 => return Answer::new("text/plain", "old"),
                    1 => Answer::new("text/plain", if status == 204 { "" } else { "newer" }).status(status),
                    _ => Answer::new("text/plain", "down").status(503),
                };
                fields.iter().fold(answer, |answer, (name, value)| answer.header(name, value))
            });
            origin.forget();
            assert_eq!(gateway.get(path).await.ok().text(), "old", "{path}");
            if bump {
                gateway.bump("public").await;
            }
            until("the origin was asked again", SOON, || async {
                gateway.get(path).await;
                origin.count(path) >= 2
            })
            .await;
            if ends {
                until(&format!("{path}: what is over is no longer served"), SOON, || async {
                    gateway.get(path).await.text() != "old"
                })
                .await;
            }
            for _ in 0..3 {
                let reply = gateway.get(path).await;
                assert_eq!(reply.text() == "old", !ends, "{path}, bumped: {bump}: {reply:?}");
            }
        }
    }
}
