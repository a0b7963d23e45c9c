//! `[[live]]`: several entries on one stream; what their bodies may be, and whose they are.

use super::*;
use crate::support::{
    gateway::{sign, token, GatewayBuilder},
    tls::{of_http2, Http2},
};
use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};

const ACCEPT: (&str, &str) = ("Accept", "text/event-stream");

/// Reads events of entries until each of them has told its state; the states, and the last id.
async fn states(stream: &mut EventStream, names: &[&str]) -> (BTreeMap<String, Value>, String) {
    let (mut states, mut id) = (BTreeMap::new(), String::new());
    while states.len() < names.len() {
        let event = stream.next().await;
        assert!(names.contains(&event.name.as_str()), "{event:?}");
        states.insert(event.name.clone(), event.json());
        id = event.id.unwrap();
    }
    (states, id)
}

/// Two entries in namespaces of their own: `kpi` and `chart`, which varies by `n`.
async fn two() -> (TestOrigin, Arc<AtomicU64>, GatewayBuilder) {
    let (origin, orders) = shop("/kpi").await;
    let counted = orders.clone();
    origin.on("/chart", move |seen| {
        Answer::json(&json!({ "orders": counted.load(Ordering::SeqCst), "query": seen.query }))
    });
    let chart = "cache = { namespace = \"chart\", ttl = \"60s\", query = [\"n\"] }\nlive = true";
    let builder = Gateway::with(&origin)
        .route("/kpi", LIVE_KPI)
        .route("/chart", chart)
        .event("order_created", &["kpi"])
        .event("chart_changed", &["chart"])
        .raw("[[live]]\npath = \"/live\"\nwatch = { kpi = \"/kpi\", chart = \"/chart\" }");
    (origin, orders, builder)
}

#[tokio::test]
async fn each_entry_is_told_by_its_name_and_the_id_holds_the_states_of_all() {
    let (origin, orders, builder) = two().await;
    let gateway = builder.start().await;
    let path = "/live?watch=chart,kpi&n=7";
    let mut stream = EventStream::open(gateway.address(), path, &[]).await;
    let (first, id) = states(&mut stream, &["kpi", "chart"]).await;
    assert_eq!(first["kpi"], json!({ "orders": 0 }));
    assert_eq!(first["chart"], json!({ "orders": 0, "query": "n=7" }));
    let parts: Vec<_> = id.split(',').collect();
    assert!(parts.len() == 2 && !parts.contains(&"-"), "{id}");

    orders.store(1, Ordering::SeqCst);
    gateway.bump("public").await;
    let event = stream.next().await;
    assert_eq!((event.name.as_str(), event.json()), ("kpi", json!({ "orders": 1 })));
    let next = event.id.unwrap();
    assert_eq!(next.split(',').next(), Some(parts[0]), "the chart is what it was");
    assert_ne!(next.split(',').nth(1), Some(parts[1]));

    // Whoever comes back has the state of both: the next event is the next change.
    let mut again = EventStream::open(gateway.address(), path, &[("Last-Event-ID", &next)]).await;
    let reply = gateway.event("chart_changed", &json!({ "tenant": "public" })).await;
    assert!(reply.status.is_success(), "{reply:?}");
    for stream in [&mut stream, &mut again] {
        let event = stream.next().await;
        assert_eq!((event.name.as_str(), event.json()["orders"].clone()), ("chart", json!(1)));
    }
    // Whoever has one of them gets the other.
    let half = format!("-,{}", next.split(',').nth(1).unwrap());
    let mut half = EventStream::open(gateway.address(), path, &[("Last-Event-ID", &half)]).await;
    assert_eq!(half.next().await.name, "chart");
    assert_eq!((origin.count("/kpi"), origin.count("/chart")), (2, 2), "one request for all");
}

#[tokio::test]
async fn several_entries_come_by_http2_as_well() {
    let (_origin, orders, builder) = two().await;
    let gateway = builder.raw("[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true").start().await;
    let prior = gateway.listeners(2).await[1];
    let stream = tokio::net::TcpStream::connect(prior).await.unwrap();
    let mut request = of_http2("GET", "dash.example", "/live?watch=kpi,chart", bytes::Bytes::new());
    request.headers_mut().insert("accept", "text/event-stream".parse().unwrap());
    let mut stream = EventStream::by_http2(Http2::over(stream).await, request).await;
    states(&mut stream, &["kpi", "chart"]).await;
    orders.store(1, Ordering::SeqCst);
    gateway.bump("public").await;
    assert_eq!(stream.next().await.json(), json!({ "orders": 1 }));
}

#[tokio::test]
async fn names_that_are_none_are_refused() {
    let (origin, _, builder) = two().await;
    let gateway = builder.start().await;
    let many = format!("/live?watch={}", vec!["kpi"; 1_000].join(","));
    let unknown =
        format!("/live?watch={}", (0..1_000).map(|n| format!("e{n}")).collect::<Vec<_>>().join(","));
    for path in [
        "/live",
        "/live?watch=",
        "/live?watch=orders",
        "/live?watch=kpi,orders",
        "/live?watch=kpi,kpi",
        "/live?watch=kpi&watch=kpi",
        "/live?watch=%ff",
        &many,
        &unknown,
    ] {
        let refused = gateway.get_with(path, &[ACCEPT]).await.problem(400);
        assert_eq!(refused.cache_status(), "tidegate; detail=bad_watch", "{path}");
    }
    for accept in ["*/*", "application/json", "text/event-stream;q=0"] {
        gateway.get_with("/live?watch=kpi", &[("Accept", accept)]).await.problem(406);
    }
    for method in ["POST", "PUT", "DELETE"] {
        let refused = gateway.send_with(method, "/live?watch=kpi", &[ACCEPT]).await.problem(405);
        assert_eq!(refused.header("allow"), "GET", "{method}");
    }
    assert_eq!(origin.count("/kpi"), 0);
}

#[tokio::test]
async fn one_entry_that_is_refused_refuses_all() {
    let origin = TestOrigin::start().await;
    let live = |namespace: &str, more: &str| {
        format!("cache = {{ namespace = \"{namespace}\", ttl = \"60s\" }}\nlive = true\n{more}")
    };
    let signed = "methods = [\"GET\"]\nsigned = { secret = \"a secret of links that is long enough\" }";
    let gateway = Gateway::with(&origin)
        .route("/open", &live("kpi", ""))
        .route("/secret", &live("kpi", "auth = \"required\""))
        .route("/signed", &live("kpi", signed))
        .route("/elsewhere", &live("kpi", "host = \"other.example\""))
        .route("/limited", &live("kpi", "limit = { rate = \"1/1h\" }"))
        .raw(
            "[[live]]\npath = \"/live\"\nwatch = { open = \"/open\", secret = \"/secret\", signed = \"/signed\", \
             elsewhere = \"/elsewhere\", limited = \"/limited\" }",
        )
        .start()
        .await;
    let get = |names: &str| {
        let path = format!("/live?watch={names}");
        let gateway = &gateway;
        async move { gateway.get_with(&path, &[ACCEPT]).await }
    };
    for (refused, status) in [("secret", 401), ("signed", 403), ("elsewhere", 404)] {
        for names in [refused.to_owned(), format!("open,{refused}"), format!("{refused},open")] {
            get(&names).await.problem(status);
        }
    }
    let path = "/live?watch=open,limited";
    let first = EventStream::open(gateway.address(), path, &[]).await;
    let limited = get("open,limited").await.problem(429);
    assert!(!limited.header("retry-after").is_empty(), "{limited:?}");
    drop(first);
    until_watched_by(&gateway, "open", 0).await;
}

/// Routes count by limits of their own, and not every route reads the token.
#[tokio::test]
async fn entries_of_unlike_routes_are_watched_together() {
    let origin = TestOrigin::start().await;
    let live = |more: &str| format!("cache = {{ namespace = \"kpi\", ttl = \"60s\" }}\nlive = true\n{more}");
    let limits = "limit = [{ rate = \"1000/1m\", name = \"a\" }, { rate = \"1000/1m\", name = \"b\" }]";
    let mut gateway = Gateway::with(&origin)
        .route("/free", &live("auth = \"off\""))
        .route("/one", &live("limit = { rate = \"1000/1m\", name = \"one\" }"))
        .route("/two", &live(limits))
        .route("/private", &live("auth = \"required\""))
        .raw(
            "[[live]]\npath = \"/live\"\n\
             watch = { free = \"/free\", one = \"/one\", two = \"/two\", private = \"/private\" }",
        )
        .start()
        .await;
    for (names, told) in [
        ("free,two", None),
        ("one,two", Some("\"one\";q=1000")),
        ("two,one", Some("\"a\";q=1000")),
        ("one,free", Some("\"one\";q=1000")),
    ] {
        let path = format!("/live?watch={names}");
        let mut stream = EventStream::open(gateway.address(), &path, &[]).await;
        states(&mut stream, &names.split(',').collect::<Vec<_>>()).await;
        let policy = stream.head.header("ratelimit-policy");
        assert_eq!(policy.map(|policy| &policy[..told.unwrap_or_default().len()]), told, "{names}");
    }
    for names in ["private,free", "free,private"] {
        let expires = now_ms() / 1_000 + 3;
        let token = sign(&json!({ "tenant": "acme", "sub": "ann", "exp": expires }));
        let bearer = format!("Bearer {token}");
        let fields = [("Authorization", bearer.as_str())];
        let path = format!("/live?watch={names}");
        let mut stream = EventStream::open(gateway.address(), &path, &fields).await;
        let (events, end) = stream.rest().await;
        let told: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
        assert!(told.contains(&"token") && end == End::Clean, "{names}: {events:?}");
        assert!(now_ms() + 50 >= expires * 1_000, "{names}: it ended too early");
    }
    gateway.assert_sound().await;
}

#[tokio::test]
async fn tenants_and_users_see_their_own_alone() {
    let (origin, orders) = (TestOrigin::start().await, Arc::new(AtomicU64::new(0)));
    for path in ["/tenant", "/user"] {
        let counted = orders.clone();
        origin.on(path, move |seen| {
            let (tenant, user) = (seen.header("x-tenant"), seen.header("x-user"));
            Answer::json(&json!({ "tenant": tenant, "user": user, "orders": counted.load(Ordering::SeqCst) }))
        });
    }
    let live = |scope: &str| {
        format!("cache = {{ namespace = \"kpi\", scope = \"{scope}\", ttl = \"60s\" }}\nlive = true")
    };
    let gateway = Gateway::with(&origin)
        .route("/tenant", &live("tenant"))
        .route("/user", &live("user"))
        .event("order_created", &["kpi"])
        .raw("[[live]]\npath = \"/live\"\nwatch = { tenant = \"/tenant\", user = \"/user\" }")
        .start()
        .await;
    let mut streams = Vec::new();
    for (tenant, user) in [("acme", "ann"), ("acme", "bob"), ("zen", "ann")] {
        let bearer = format!("Bearer {}", token(tenant, user));
        let fields = [("Authorization", bearer.as_str())];
        let mut stream = EventStream::open(gateway.address(), "/live?watch=tenant,user", &fields).await;
        let mut alone = EventStream::open(gateway.address(), "/user", &fields).await;
        let (first, _) = states(&mut stream, &["tenant", "user"]).await;
        assert_eq!((&first["tenant"]["tenant"], &first["user"]["user"]), (&json!(tenant), &json!(user)));
        assert_eq!(first["user"], alone.next().await.json());
        streams.push((tenant, user, stream, alone));
    }
    assert_eq!((origin.count("/tenant"), origin.count("/user")), (2, 3));
    // First the one, then the other: had the first bump reached the other tenant, it would have told of it.
    for (n, bumped) in [(1, "acme"), (2, "zen"), (3, "acme")] {
        orders.store(n, Ordering::SeqCst);
        gateway.bump(bumped).await;
        for (tenant, user, stream, alone) in streams.iter_mut().filter(|stream| stream.0 == bumped) {
            let (told, _) = states(stream, &["tenant", "user"]).await;
            for state in [&told["tenant"], &told["user"], &alone.next().await.json()] {
                assert_eq!((&state["tenant"], &state["orders"]), (&json!(tenant), &json!(n)), "{user}");
            }
            assert_eq!(told["user"]["user"], json!(user));
        }
    }
}

#[tokio::test]
async fn any_text_arrives_with_its_lines() {
    let (origin, body) = (TestOrigin::start().await, Arc::new(Mutex::new(Vec::new())));
    let shown = body.clone();
    origin.on("/kpi", move |_| Answer::new("text/plain", shown.lock().unwrap().clone()));
    let gateway =
        Gateway::with(&origin).route("/kpi", LIVE_KPI).event("order_created", &["kpi"]).start().await;
    let mut stream = EventStream::open(gateway.address(), "/kpi", &[]).await;
    assert_eq!(stream.next().await.data, "", "an empty body");
    let cases: &[(&[u8], &str)] = &[
        (b"one", "one"),
        (b"a\rb\nc\r\nd", "a\nb\nc\nd"),
        (b"a\n\r\r\nb\n", "a\n\n\nb\n"),
        (b"\r\n\r\n", "\n\n"),
        (b"\n\nevent: ping\ndata: {}\n\nid: x\n\n", "\n\nevent: ping\ndata: {}\n\nid: x\n\n"),
        (b" led by a space", " led by a space"),
        (b"nul \0 and \x7f and tab\t", "nul \0 and \x7f and tab\t"),
        ("\u{feff}büro \u{2028} \u{85} 図".as_bytes(), "\u{feff}büro \u{2028} \u{85} 図"),
        (b"<!doctype html>\n<p>no stream</p>", "<!doctype html>\n<p>no stream</p>"),
    ];
    for (content, expected) in cases {
        *body.lock().unwrap() = content.to_vec();
        gateway.bump("public").await;
        let event = stream.next().await;
        assert_eq!((event.name.as_str(), event.data.as_str()), ("metric_update", *expected));
    }
    for broken in [&b"\xff\xfe"[..], b"cut off \xc3", b"surrogate \xed\xa0\x80"] {
        *body.lock().unwrap() = broken.to_vec();
        gateway.bump("public").await;
        let stale = stream.next().await;
        assert_eq!(stale.name, "stale", "{stale:?}");
        assert_eq!(stale.json(), json!({ "event": "metric_update", "reason": "not-text" }));
        *body.lock().unwrap() = [b"good again ", broken.len().to_string().as_bytes()].concat();
        gateway.bump("public").await;
        assert!(stream.next().await.data.starts_with("good again"));
    }
}

#[tokio::test]
async fn what_can_not_be_told_at_first_is_told_when_it_can() {
    let origin = TestOrigin::start().await;
    let answer = Arc::new(Mutex::new(Answer::new("text/plain", "good")));
    let shown = answer.clone();
    origin.on("/kpi", move |_| shown.lock().unwrap().clone());
    let followed = shown_by(&answer);
    origin.on("/followed", move |_| followed().header("cache-control", "max-age=60"));
    let large = || Answer::new("text/plain", "x".repeat(3 << 20));
    let cases = [
        (Answer::new("text/plain", "broken").status(500), None),
        (Answer::new("text/plain", "away").status(503), None),
        (Answer::new("text/html", "<p>nothing</p>").status(404), None),
        (large(), Some("too_large")),
        (large().chunked(), Some("too_large")),
        (Answer::new("image/png", &b"\x89PNG\xff"[..]), Some("not-text")),
    ];
    for (bad, reason) in cases {
        // A gateway that has read nothing yet.
        let gateway = Gateway::with(&origin)
            .origin("retries = 0")
            .route("/kpi", LIVE_KPI)
            .route("/followed", "cache = \"origin\"\nlive = true")
            .event("order_created", &["kpi"])
            .start()
            .await;
        *answer.lock().unwrap() = bad;
        let mut streams = Vec::new();
        for path in ["/kpi", "/followed"] {
            let mut stream = EventStream::open(gateway.address(), path, &[]).await;
            let stale = stream.next().await;
            assert_eq!((stale.name.as_str(), &stale.id), ("stale", &None), "{path}: {stale:?}");
            let told = stale.json()["reason"].as_str().unwrap().to_owned();
            assert_eq!(reason.unwrap_or(&told), told, "{path}");
            streams.push((path, stream));
        }
        *answer.lock().unwrap() = Answer::new("text/plain", "good");
        gateway.bump("public").await;
        gateway.purge(&json!({ "all": true })).await.ok();
        let began = Instant::now();
        for (path, stream) in &mut streams {
            let event = stream.next_named("metric_update").await;
            assert_eq!(event.data, "good", "{path}");
        }
        assert!(began.elapsed() < Duration::from_secs(8), "the pauses are at most 2.5 s");
    }
}

fn shown_by(answer: &Arc<Mutex<Answer>>) -> impl Fn() -> Answer + Send + Sync + 'static {
    let shown = answer.clone();
    move || shown.lock().unwrap().clone()
}
