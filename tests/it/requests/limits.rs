//! Rate limits per client, the address of a client behind proxies, and the largest request.

use crate::support::{
    gateway::{token, KPI},
    *,
};
use futures_util::StreamExt;
use serde_json::json;
use std::fmt::Write as _;

/// Makes everyone on this machine a proxy, so that a test says who the client is.
const TRUST: &str = "trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]";

async fn ask(gateway: &Gateway, path: &str, client: &str) -> Reply {
    gateway.get_with(path, &[("x-forwarded-for", client)]).await
}

const PATH: &str = "/api/widgets/kpi";

/// The rest of the only limit, and the time for it.
fn left(reply: &Reply) -> (u64, u64) {
    let field = reply.header("ratelimit");
    let number = |name: &str| {
        let found = field.split(';').find_map(|parameter| parameter.strip_prefix(name));
        found.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no {name} in {field:?}: {reply:?}"))
    };
    (number("r="), number("t="))
}

#[tokio::test]
async fn a_burst_passes_and_the_next_is_told_when_to_come_back() {
    let origin = TestOrigin::start().await;
    let limit = r#"limit = { rate = "3/1h" }"#;
    let gateway = Gateway::with(&origin).route("/app/*", limit).route("/free", "").start().await;
    for expected in [(2, 2400), (1, 1200), (0, 1200)] {
        let reply = gateway.get("/app/x").await.ok();
        assert_eq!(reply.header("ratelimit-policy"), "\"address\";q=3;w=3600");
        assert_eq!(left(&reply), expected);
    }
    for _ in 0..3 {
        let reply = gateway.get("/app/y").await.problem(429);
        let wait: u64 = reply.header("retry-after").parse().unwrap();
        assert!((1_100..=1_200).contains(&wait), "{reply:?}");
        assert_eq!(left(&reply), (0, wait));
        assert_eq!(reply.cache_status(), "tidegate; detail=rate_limited");
        let body = reply.json();
        assert_eq!(body["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
        assert_eq!(body["violated-policies"], json!(["address"]));
        assert!(body["request_id"].is_string());
    }
    assert_eq!(origin.count("/app/x") + origin.count("/app/y"), 3);
    let free = gateway.get("/free").await.ok();
    assert!(!free.headers.contains_key("ratelimit") && !free.headers.contains_key("ratelimit-policy"));
    let metrics = gateway.metrics().await;
    let of =
        |outcome| metrics.value("tidegate_limit_checks_total", &[("by", "address"), ("outcome", outcome)]);
    assert_eq!((of("passed"), of("refused")), (3.0, 3.0));
    let refused = metrics.value("tidegate_rejected_requests_total", &[("reason", "rate_limited")]);
    assert_eq!(refused, 3.0);
}

#[tokio::test]
async fn a_bucket_fills_again() {
    let origin = TestOrigin::start().await;
    let gateway =
        Gateway::with(&origin).route("/app/*", r#"limit = { rate = "2/s", burst = 1 }"#).start().await;
    gateway.get("/app/x").await.ok();
    until("half a second is over", SOON, || async { gateway.get("/app/x").await.status == 200 }).await;
}

/// Hits, fills and answers that pass through, as well as refusals of another kind.
#[tokio::test]
async fn every_answer_of_a_limited_route_tells() {
    let origin = TestOrigin::start().await;
    let (limit, mine) = (r#"limit = { rate = "100/1h" }"#, "\"theirs\";r=7;t=7");
    origin.on("/follow", move |seen| {
        Answer::echo(seen).header("cache-control", "max-age=60").header("ratelimit", mine)
    });
    origin.on("/app/x", move |seen| Answer::echo(seen).header("ratelimit", mine));
    let gateway = Gateway::with(&origin)
        .route(PATH, &format!("{KPI}\n{limit}"))
        .route("/follow", &format!("cache = \"origin\"\n{limit}"))
        .route("/app/*", &format!("auth = \"required\"\n{limit}"))
        .start()
        .await;
    for path in [PATH, "/follow"] {
        for (hit, expected) in [(false, 99), (true, 98), (true, 97)] {
            let reply = gateway.get(path).await.ok();
            assert_eq!((reply.is_hit(), left(&reply).0), (hit, expected), "{reply:?}");
            assert_eq!(reply.all("ratelimit-policy"), "\"address\";q=100;w=3600");
        }
    }
    let refused = gateway.get("/app/x").await.problem(401);
    assert_eq!(left(&refused).0, 99);
    let proxied = gateway.get_as("acme", "/app/x").await.ok();
    assert_eq!(proxied.all("ratelimit"), format!("{mine}, \"address\";r=98;t=3528"));
    let head = gateway.send_with("HEAD", PATH, &[]).await;
    assert_eq!((head.status.as_u16(), left(&head).0), (200, 96));
}

#[tokio::test]
async fn clients_are_told_apart_by_what_the_limit_is_about() {
    let origin = TestOrigin::start().await;
    let route = |by: &str| format!("limit = {{ rate = \"1/1h\", by = {by} }}");
    let builder = Gateway::with(&origin)
        .route("/address", &route("\"address\""))
        .route("/tenant", &route("\"tenant\""))
        .route("/user", &route("\"user\""))
        .route("/header", &route("{ header = \"X-Api-Key\" }"))
        .route("/query", &route("{ query = \"key\" }"))
        .route(
            "/public",
            &format!("cache = {{ namespace = \"p\", ttl = \"60s\" }}\n{}", route("\"tenant\"")),
        );
    let gateway = builder.setting(TRUST).start().await;
    let bearer = |tenant, user| format!("Bearer {}", token(tenant, user));
    let from = |path: &'static str, client: &'static str, fields: Vec<(&'static str, String)>| {
        let gateway = &gateway;
        async move {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            gateway
                .get_with(path, &[&fields[..], &[("x-forwarded-for", client)]].concat())
                .await
                .status
                .as_u16()
        }
    };
    let (one, two) = ("192.0.2.1", "192.0.2.2");
    assert_eq!(from("/address", one, vec![]).await, 200);
    assert_eq!(from("/address", one, vec![]).await, 429);
    assert_eq!(from("/address", two, vec![]).await, 200);
    assert_eq!(from("/address", "2001:db8::1", vec![]).await, 200);
    assert_eq!(from("/address", "2001:db8::2", vec![]).await, 429);
    assert_eq!(from("/address", "2001:db8:0:1::2", vec![]).await, 200);

    for path in ["/tenant", "/public"] {
        let acme = vec![("authorization", bearer("acme", "ann"))];
        assert_eq!(from(path, one, acme.clone()).await, 200);
        assert_eq!(from(path, two, vec![("authorization", bearer("acme", "bob"))]).await, 429);
        assert_eq!(from(path, one, vec![("authorization", bearer("globex", "ann"))]).await, 200);
        // Without a token each address is one.
        assert_eq!(from(path, one, vec![]).await, 200);
        assert_eq!(from(path, one, vec![("authorization", "Bearer nonsense".to_owned())]).await, 429);
        assert_eq!(from(path, two, vec![]).await, 200);
    }
    assert_eq!(from("/user", one, vec![("authorization", bearer("acme", "ann"))]).await, 200);
    assert_eq!(from("/user", two, vec![("authorization", bearer("acme", "ann"))]).await, 429);
    assert_eq!(from("/user", one, vec![("authorization", bearer("acme", "bob"))]).await, 200);
    assert_eq!(from("/user", one, vec![("authorization", bearer("globex", "ann"))]).await, 200);

    let key = |value: &str| vec![("x-api-key", value.to_owned())];
    assert_eq!(from("/header", one, key("a")).await, 200);
    assert_eq!(from("/header", two, key("a")).await, 429);
    assert_eq!(from("/header", one, key("b")).await, 200);
    assert_eq!(from("/header", one, vec![]).await, 200);
    assert_eq!(from("/header", one, [key("c"), key("d")].concat()).await, 429);
    assert_eq!(from("/query?key=a", one, vec![]).await, 200);
    assert_eq!(from("/query?key=%61&x=1", two, vec![]).await, 429);
    assert_eq!(from("/query?key=b", one, vec![]).await, 200);
    assert_eq!(from("/query", one, vec![]).await, 200);
    assert_eq!(from("/query?x=1", one, vec![]).await, 429);
}

#[tokio::test]
async fn all_limits_have_to_let_a_request_through() {
    let origin = TestOrigin::start().await;
    let limit = r#"limit = [
        { rate = "4/1h", name = "few" },
        { rate = "1/1h", by = { header = "X-Api-Key" } },
        { rate = "2/1h", by = "tenant" },
    ]"#;
    let gateway = Gateway::with(&origin).route("/app/*", limit).start().await;
    let ask = |key: &'static str| {
        send(gateway.request("GET", "/app/x").header("x-api-key", key).bearer_auth(token("acme", "ann")))
    };
    let reply = ask("a").await.ok();
    assert_eq!(
        reply.header("ratelimit-policy"),
        "\"few\";q=4;w=3600, \"key\";q=1;w=3600, \"tenant\";q=2;w=3600"
    );
    assert_eq!(reply.header("ratelimit"), "\"few\";r=3;t=2700, \"key\";r=0;t=3600, \"tenant\";r=1;t=1800");
    let violated = |reply: Reply| reply.problem(429).json()["violated-policies"].clone();
    assert_eq!(violated(ask("a").await), json!(["key"]));
    ask("b").await.ok();
    assert_eq!(violated(ask("c").await), json!(["tenant"]));
    assert_eq!(violated(ask("d").await), json!(["tenant"]));
    // Nothing was taken from the first limit by what the others refused.
    let other =
        send(gateway.request("GET", "/app/x").header("x-api-key", "c").bearer_auth(token("globex", "ann")))
            .await
            .ok();
    assert!(other.header("ratelimit").starts_with("\"few\";r=1;t=900"), "{other:?}");
}

#[tokio::test]
async fn a_reload_forgets_nobody() {
    let origin = TestOrigin::start().await;
    let with = |limit: &str| Gateway::with(&origin).route("/app/*", limit);
    let first = with(r#"limit = { rate = "2/1h" }"#);
    let gateway = first.start().await;
    gateway.get("/app/x").await.ok();
    gateway.get("/app/x").await.ok();
    gateway.get("/app/x").await.problem(429);
    assert!(gateway.reload(&first.clone().route("/more", "")).await);
    gateway.get("/app/x").await.problem(429);
    // Another rate goes on with what is there.
    assert!(gateway.reload(&with(r#"limit = { rate = "4/1h" }"#)).await);
    let reply = gateway.get("/app/x").await;
    assert_eq!(reply.status, 429, "{reply:?}");
    assert!(gateway.reload(&with("")).await);
    gateway.get("/app/x").await.ok();
}

const SHARED: &str = r#"limit = { rate = "10/1h", by = { header = "X-Api-Key" }, shared = true }"#;

/// Two nodes let through together what one limit allows, whichever is asked, and nothing more when many ask at once.
#[tokio::test]
async fn nodes_share_a_limit() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let builder = Gateway::with(&origin).redis(&redis.url()).route("/app/*", SHARED);
    let nodes = [builder.start().await, builder.start().await];
    let ask =
        |node: &Gateway, key: &'static str| send(node.request("GET", "/app/x").header("x-api-key", key));
    for n in 0..10 {
        let reply = ask(&nodes[n % 2], "secret-key").await.ok();
        assert_eq!(left(&reply).0, 9 - n as u64, "{reply:?}");
    }
    for node in &nodes {
        let reply = ask(node, "secret-key").await.problem(429);
        let wait: u64 = reply.header("retry-after").parse().unwrap();
        assert!((340..=360).contains(&wait), "{reply:?}");
    }
    let together = futures_util::future::join_all((0..40).map(|n| ask(&nodes[n % 2], "another"))).await;
    assert_eq!(together.iter().filter(|reply| reply.status == 200).count(), 10);
    assert_eq!(together.iter().filter(|reply| reply.status == 429).count(), 30);

    let keys: Vec<String> = redis.keys().await.into_iter().filter(|key| key.contains("limit:")).collect();
    assert_eq!(keys.len(), 2, "{keys:?}");
    for key in &keys {
        assert!(key.starts_with("dash:limit:app_any:key:") && !key.contains("secret"), "{key}");
        let expires: i64 = redis.run(&["PTTL", key]).await;
        assert!((3_000_000..=3_600_000).contains(&expires), "{expires}");
    }
    // What a node has to refuse it refuses without asking.
    let calls = || async {
        let (first, second) = (nodes[0].metrics().await, nodes[1].metrics().await);
        let of =
            |metrics: &metrics::Metrics| metrics.value("tidegate_store_calls_total", &[("call", "limit")]);
        of(&first) + of(&second)
    };
    let before = calls().await;
    for n in 0..50 {
        ask(&nodes[n % 2], "secret-key").await.problem(429);
    }
    assert_eq!(calls().await, before);
    for node in &nodes {
        assert_eq!(node.metrics().await.value("tidegate_limit_alone_total", &[]), 0.0);
        assert!(!node.output().contains("secret-key"));
    }
}

/// A seventh of an hour is no whole number of microseconds.
#[tokio::test]
async fn a_shared_limit_counts_exactly() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let limit = r#"limit = { rate = "7/1h", shared = true }"#;
    let builder = Gateway::with(&origin).redis(&redis.url()).route("/app/*", limit);
    let nodes = [builder.start().await, builder.start().await];
    for n in 0..7 {
        let reply = nodes[n % 2].get("/app/x").await.ok();
        assert_eq!(left(&reply).0, 6 - n as u64, "{reply:?}");
    }
    for node in &nodes {
        node.get("/app/x").await.problem(429);
    }
}

/// All limits that are shared take together, or none does.
#[tokio::test]
async fn shared_limits_take_together() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let limit = r#"limit = [
        { rate = "3/1h", shared = true },
        { rate = "1/1h", by = { header = "X-Api-Key" }, shared = true },
    ]"#;
    let builder = Gateway::with(&origin).redis(&redis.url()).route("/app/*", limit);
    let nodes = [builder.start().await, builder.start().await];
    let ask =
        |node: &Gateway, key: &'static str| send(node.request("GET", "/app/x").header("x-api-key", key));
    ask(&nodes[0], "a").await.ok();
    // The second node does not know the key: the store refuses, and takes nothing of the address.
    for _ in 0..3 {
        let body = ask(&nodes[1], "a").await.problem(429).json();
        assert_eq!(body["violated-policies"], json!(["key"]));
    }
    let reply = ask(&nodes[1], "b").await.ok();
    assert!(reply.header("ratelimit").starts_with("\"address\";r=1;"), "{reply:?}");
}

#[tokio::test]
async fn without_redis_each_node_goes_on_with_what_it_knows() {
    let (origin, mut redis) = (TestOrigin::start().await, Redis::start().await);
    let builder = Gateway::with(&origin).redis(&redis.url()).route("/app/*", SHARED);
    let nodes = [builder.start().await, builder.start().await];
    let ask = |node: &Gateway| send(node.request("GET", "/app/x").header("x-api-key", "k"));
    for n in 0..8 {
        ask(&nodes[n % 2]).await.ok();
    }
    redis.kill();
    let mut passed = [0, 0];
    for (node, passed) in nodes.iter().zip(&mut passed) {
        for _ in 0..20 {
            let reply = ask(node).await;
            assert!(reply.status == 200 || reply.status == 429, "{reply:?}");
            *passed += usize::from(reply.status == 200);
        }
        assert!(node.metrics().await.value("tidegate_limit_alone_total", &[]) >= 1.0);
    }
    // The first node knew of seven or eight when the store went, the second of all eight.
    assert!((2..=3).contains(&passed[0]) && passed[1] == 2, "{passed:?}");
    redis.restart().await;
    let mut keys = (0..).map(|n| format!("new-{n}"));
    until("the store counts again", SOON, || {
        let asked = send(nodes[1].request("GET", "/app/x").header("x-api-key", keys.next().unwrap()));
        let redis = &redis;
        async move {
            asked.await.ok();
            redis.keys().await.iter().any(|key| key.contains("limit:"))
        }
    })
    .await;
}

/// A cluster keeps the keys of one request apart.
#[tokio::test]
async fn a_cluster_counts_too() {
    let (origin, cluster) = (TestOrigin::start().await, Cluster::start().await);
    let limit = r#"limit = [
        { rate = "100/1h", shared = true },
        { rate = "4/1h", by = { header = "X-Api-Key" }, shared = true },
    ]"#;
    let builder =
        Gateway::with(&origin).cluster(&cluster.urls()).store("deadline = \"1s\"").route("/app/*", limit);
    let nodes = [builder.start().await, builder.start().await];
    let ask =
        |n: usize, key: &'static str| send(nodes[n % 2].request("GET", "/app/x").header("x-api-key", key));
    for key in ["a", "b", "c", "d", "e"] {
        for n in 0..4 {
            ask(n, key).await.ok();
        }
        for n in 0..2 {
            ask(n, key).await.problem(429);
        }
    }
    for node in &nodes {
        assert_eq!(node.metrics().await.value("tidegate_limit_alone_total", &[]), 0.0);
    }
}

#[tokio::test]
async fn an_untrusted_peer_is_the_client_whatever_it_says() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route("/app/*", r#"limit = { rate = "2/1h" }"#).start().await;
    for (n, expected) in [(1, 200), (2, 200), (3, 429), (4, 429)] {
        let address = format!("192.0.2.{n}");
        let forwarded = format!("for={address};proto=https;host=evil");
        let fields = [
            ("x-forwarded-for", &*address),
            ("forwarded", &forwarded),
            ("x-real-ip", &address),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
        ];
        assert_eq!(gateway.get_with("/app/x", &fields).await.status, expected);
    }
    let seen = &origin.seen("/app/x")[0];
    let host = gateway.address().to_string();
    assert_eq!(seen.header("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some(&*host));
    assert_eq!(seen.header("forwarded"), Some(&*format!("for=127.0.0.1;proto=http;host=\"{host}\"")));
}

#[tokio::test]
async fn what_trusted_proxies_say_is_believed_and_passed_on() {
    let origin = TestOrigin::start().await;
    let builder = Gateway::with(&origin).route("/app/*", r#"limit = { rate = "2/1h" }"#);
    let gateway = builder.setting(TRUST).start().await;
    let fields = [
        ("x-forwarded-for", "6.6.6.6, 192.0.2.1"),
        ("x-forwarded-for", "10.0.0.2"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "dash.example.com"),
        ("forwarded", "for=7.7.7.7"),
        ("x-real-ip", "8.8.8.8"),
    ];
    gateway.get_with("/app/x", &fields).await.ok();
    let seen = &origin.seen("/app/x")[0];
    assert_eq!(seen.header("x-real-ip"), Some("192.0.2.1"));
    assert_eq!(seen.header("x-forwarded-for"), Some("192.0.2.1, 10.0.0.2, 127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some("dash.example.com"));
    let expected = "for=192.0.2.1;proto=https;host=\"dash.example.com\", for=10.0.0.2, for=127.0.0.1";
    assert_eq!(seen.header("forwarded"), Some(expected));
    assert_eq!(seen.headers.get_all("x-forwarded-for").iter().count(), 1);

    let element = [("forwarded", "for=6.6.6.6, for=\"[2001:db8::7]:4711\";proto=https;host=a.example")];
    gateway.get_with("/app/y", &element).await.ok();
    let seen = &origin.seen("/app/y")[0];
    assert_eq!(seen.header("x-forwarded-for"), Some("2001:db8::7, 127.0.0.1"));
    let expected = "for=\"[2001:db8::7]\";proto=https;host=\"a.example\", for=127.0.0.1";
    assert_eq!(seen.header("forwarded"), Some(expected));
    // Limits go by whom it is: the first client has one left, and what others claim costs it nothing.
    for n in 0..5 {
        ask(&gateway, "/app/x", &format!("192.0.2.1, 198.51.100.{n}")).await.ok();
    }
    ask(&gateway, "/app/x", "192.0.2.1").await.ok();
    ask(&gateway, "/app/x", "192.0.2.1").await.problem(429);
}

/// An answer that is kept must be the same for whoever asks next.
#[tokio::test]
async fn what_is_kept_is_made_for_the_scheme_and_the_host_that_it_is_kept_under() {
    let origin = TestOrigin::start().await;
    origin.on("/page", |seen| {
        let said = |name| seen.header(name).unwrap_or_default().to_owned();
        let body = format!("{}://{}", said("x-forwarded-proto"), said("x-forwarded-host"));
        Answer::new("text/plain", body).header("cache-control", "max-age=60")
    });
    let builder = Gateway::with(&origin).route("/page", "cache = \"origin\"");
    let gateway = builder.setting(TRUST).start().await;
    let host = gateway.address().to_string();
    for (scheme, hit) in [("http", false), ("https", false), ("http", true), ("https", true)] {
        let fields = [("x-forwarded-proto", scheme), ("x-forwarded-host", "evil.example")];
        let reply = gateway.get_with("/page", &fields).await.ok();
        assert_eq!((reply.text(), reply.is_hit()), (&*format!("{scheme}://{host}"), hit), "{reply:?}");
    }
}

#[tokio::test]
async fn access_records_name_the_client() {
    let origin = TestOrigin::start().await;
    let builder = Gateway::with(&origin).route("/app/*", "").access();
    let gateway = builder.setting(TRUST).start().await;
    ask(&gateway, "/app/x", "192.0.2.77").await.ok();
    until("the record is written", SOON, || async { gateway.output().contains("client=192.0.2.77") }).await;
}

/// One head that is too large in one way, and what is answered.
#[tokio::test]
async fn heads_that_are_too_large() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route("/app/*", "").start().await;
    let mut many = String::new();
    (0..260).for_each(|n| write!(many, "X-{n}: 1\r\n").unwrap());
    let long = |length: usize| format!("X-Long: {}\r\n", "x".repeat(length));
    let several = long(9_000).repeat(8);
    for (what, target, fields, expected) in [
        ("many", "/app/x", many.clone(), 431),
        ("a large one", "/app/x", long(66_000), 431),
        ("several", "/app/x", several.clone(), 431),
        ("far too large", "/app/x", long(2_000_000), 431),
        ("far too many", "/app/x", many.repeat(100), 431),
        ("a long target", &format!("/app/{}", "x".repeat(17_000)), String::new(), 414),
        ("a target without end", &format!("/app/{}", "x".repeat(2_000_000)), String::new(), 414),
        ("much, but not too much", "/app/x", long(9_000).repeat(7), 200),
        ("a body beside it", "/app/x", format!("Content-Length: 5\r\n{several}"), 431),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let reply = raw_exchange(gateway.address(), request.as_bytes()).await;
        assert_eq!(reply.status, expected, "{what}: {:.300} {:.300}", reply.head, reply.body);
        if expected != 200 {
            assert!(reply.head.contains("content-type: application/problem+json"), "{what}: {}", reply.head);
            let problem: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
            assert_eq!(problem["status"], expected, "{what}");
        }
    }
    assert_eq!(origin.count("/app/x"), 1);
    let metrics = gateway.metrics().await;
    let refused = |reason| metrics.value("tidegate_rejected_requests_total", &[("reason", reason)]);
    assert_eq!(
        (refused("headers_too_large"), refused("uri_too_long"), refused("bad_request")),
        (6.0, 2.0, 0.0)
    );
}

/// A head that is as large as it may be does not count against the next on the same connection, nor does a body.
#[tokio::test]
async fn each_head_is_counted_by_itself() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route("/app/*", "").start().await;
    let client = client::client();
    for n in 0..5 {
        let request = client
            .post(gateway.url("/app/x"))
            .header("x-long", "x".repeat(60_000))
            .body(vec![b'\n'; 300_000]);
        let reply = send(request).await.ok();
        assert_eq!(reply.seq(), n + 1);
    }
    let accepted = gateway.metrics().await.value("tidegate_connections_accepted_total", &[]);
    assert!(accepted <= 2.0, "{accepted}");
}

/// Limits cost the others nothing: a flood from many addresses is held in bounded memory.
#[tokio::test]
async fn a_flood_of_addresses_stays_bounded() {
    let origin = TestOrigin::start().await;
    let builder = Gateway::with(&origin).route(PATH, &format!("{KPI}\nlimit = {{ rate = \"2/1h\" }}"));
    let gateway = builder.setting(TRUST).start().await;
    for _ in 0..3 {
        ask(&gateway, PATH, "192.0.2.1").await;
    }
    let (before, _) = gateway.memory();
    let flood = futures_util::stream::iter(0..20_000_u32).for_each_concurrent(50, |n| {
        let (gateway, address) = (&gateway, format!("11.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255));
        async move { drop(ask(gateway, PATH, &address).await.ok()) }
    });
    flood.await;
    let (after, _) = gateway.memory();
    assert!(after < before + (32 << 20), "{before} {after}");
    ask(&gateway, PATH, "192.0.2.1").await.problem(429);
    assert_eq!(gateway.metrics().await.value("tidegate_limit_evictions_total", &[]), 0.0);
}
