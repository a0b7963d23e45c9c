//! Nobody ever gets another's answer: not under load, not across bumps, not with a memory that always overflows.

use crate::support::{
    client::client,
    gateway::{sign, token, KPI},
    *,
};
use std::{
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc,
    },
    time::{Duration, Instant},
};

const PATH: &str = "/api/widgets/kpi";
const ROUTE: &str = r#"cache = { namespace = "kpi", scope = "tenant", ttl = "500ms", stale_while_revalidate = "1s", stale_if_error = "10m", query = ["p"] }"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_two_tenants_and_the_public_never_meet() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    // Some thirty entries fit: 200 parameters of three askers push each other out all the time.
    origin.on(PATH, |seen| {
        let tenant = seen.header("x-tenant").unwrap_or("none");
        let query = seen.query.as_deref().unwrap_or("none");
        Answer::new("application/json", format!("{tenant} {query} {}", tenant.repeat(300)))
    });
    let config = Gateway::with(&origin)
        .redis(&redis.url())
        .store("memory = \"64KiB\"")
        .route(PATH, ROUTE)
        .event("order_created", &["kpi"]);
    let mut nodes = [config.start().await, config.start().await];
    let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let http = client();
    let mut tasks = Vec::new();
    for asker in 0..24_usize {
        let tenant = ["acme", "globex", "public"][asker % 3];
        let bearer = (tenant != "public").then(|| token(tenant, "ann"));
        let url = nodes[asker % 2].url(PATH);
        let (http, stop, answers) = (http.clone(), stop.clone(), answers.clone());
        tasks.push(tokio::spawn(async move {
            let mut turn = asker;
            while !stop.load(Ordering::Relaxed) {
                turn = (turn * 31 + 17) % 1009;
                let query = format!("p={}", turn % 200);
                let mut request = http
                    .get(format!("{url}?{query}"))
                    .header("accept-encoding", ["", "gzip", "br"][turn % 3]);
                if let Some(bearer) = &bearer {
                    request = request.bearer_auth(bearer);
                }
                let reply = send(request).await.ok();
                let expected = format!("{tenant} {query} {}", tenant.repeat(300));
                let got = reply.decoded();
                assert!(
                    got == expected.as_bytes(),
                    "{tenant} {query} got {:?} with {:?}",
                    String::from_utf8_lossy(&got[..got.len().min(60)]),
                    reply.headers
                );
                answers.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let end = Instant::now() + Duration::from_secs(10);
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    let mut bumps = 0;
    while Instant::now() < end {
        pace.tick().await;
        nodes[bumps % 2].bump(["acme", "globex", "public"][bumps % 3]).await;
        bumps += 1;
        assert!(tasks.iter().all(|task| !task.is_finished()), "an asker has failed");
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    let evictions = nodes[0].metrics().await.value("tidegate_memory_evictions_total", &[]);
    println!("{} answers, {bumps} bumps, {evictions} evictions on one node", answers.load(Ordering::Relaxed));
    assert!(answers.load(Ordering::Relaxed) > 1000);
    assert!(evictions > 0.0, "the memory was never full: the test shows less than it should");
    for node in &mut nodes {
        node.assert_sound().await;
    }
}

/// Without a name, one user's answer can't be told from another's.
#[tokio::test]
async fn a_token_that_names_no_user_gets_no_users_answer() {
    let origin = TestOrigin::start().await;
    let route = r#"cache = { namespace = "mine", scope = "user", ttl = "60s" }"#;
    let gateway = Gateway::with(&origin).route("/me", route).start().await;
    gateway.get_as("acme", "/me").await.ok();
    let exp = now_ms() / 1000 + 600;
    for claims in [
        serde_json::json!({"tenant": "acme", "exp": exp}),
        serde_json::json!({"tenant": "acme", "exp": exp, "role": "viewer", "name": "ann"}),
        serde_json::json!({"tenant": "acme", "exp": exp, "sub": null}),
        serde_json::json!({"tenant": "acme", "exp": exp, "sub": ""}),
    ] {
        let token = sign(&claims);
        // The second time the token is remembered.
        for _ in 0..2 {
            let reply = send(gateway.request("GET", "/me").bearer_auth(&token)).await.problem(401);
            let challenge = reply.header("www-authenticate");
            assert!(challenge.contains(r#"Bearer error="invalid_token""#), "{claims}: {reply:?}");
        }
    }
    assert_eq!(origin.count("/me"), 1, "ann's alone");
}

#[tokio::test]
async fn a_path_cannot_pose_as_another_host() {
    let origin = TestOrigin::start().await;
    let cache = r#"cache = { namespace = "pub", scope = "public", ttl = "60s" }"#;
    let gateway = Gateway::with(&origin)
        .route("/pub/*", &format!("host = \"app.example\"\n{cache}"))
        .route("/*", cache)
        .start()
        .await;
    for target in ["//app.example/pub/x", "/@app.example/pub/x", "/%2Fapp.example/pub/x"] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: other.example\r\n\r\n");
        let reply = raw_exchange(gateway.address(), request.as_bytes()).await;
        assert!(reply.status == 200 || reply.status == 400, "{target}: {reply:?}");
    }
    let asked = origin.counts().values().sum::<usize>();
    assert!(asked > 0, "one of them was answered, and stored");
    for hit in [false, true] {
        let reply = send(gateway.request("GET", "/pub/x").header("host", "app.example")).await.ok();
        assert_eq!(reply.json()["path"], "/pub/x");
        assert_eq!(reply.is_hit(), hit, "{reply:?}");
    }
    assert_eq!(origin.seen("/pub/x")[0].header("host"), Some("app.example"));
}

/// The origin may refuse one user of a tenant what it gives to others.
#[tokio::test]
async fn a_refusal_of_one_user_is_not_the_followers() {
    let origin = TestOrigin::start().await;
    let refused = token("acme", "ann");
    let bearer = format!("Bearer {refused}");
    origin.on(PATH, move |seen| {
        let status = if seen.header("authorization") == Some(&bearer) { 403 } else { 200 };
        Answer::echo(seen).status(status).gated()
    });
    let gateway = Gateway::with(&origin).route(PATH, KPI).start().await;
    origin.hold();
    let ask = |token: &str| tokio::spawn(send(client().get(gateway.url(PATH)).bearer_auth(token)));
    let leader = ask(&refused);
    until("the leader is at the origin", SOON, || async { origin.held() == 1 }).await;
    let followers: Vec<_> = (0..10).map(|n| ask(&token("acme", &format!("bob{n}")))).collect();
    until("the followers are connected", SOON, || async {
        gateway.metrics().await.value("tidegate_connections_open", &[]) >= 11.0
    })
    .await;
    origin.release();
    assert_eq!(leader.await.unwrap().status, 403);
    for follower in followers {
        assert_eq!(follower.await.unwrap().ok().json()["tenant"], "acme");
    }
}
