//! Flights: one request to the origin answers all who wait, on one node and on several, and nobody hangs.

use crate::support::{client::client, gateway::GatewayBuilder, *};
use futures_util::future::join_all;
use std::time::{Duration, Instant};

use tokio::{io::AsyncWriteExt, net::TcpStream};

const PATH: &str = "/api/widgets/kpi";
const FOLLOWED: &str = "/page";
/// As [`gateway::KPI`]; a node waits for the fill of another for longer than any test takes.
const PATIENT: &str = r#"cache = { namespace = "kpi", scope = "tenant", ttl = "60s", stale_if_error = "10m", query = ["range"], hedge = "20s" }"#;

fn gateway(origin: &TestOrigin) -> GatewayBuilder {
    Gateway::with(origin).route(PATH, PATIENT).event("order_created", &["kpi"])
}

/// A request for the cold key, under way on its own.
fn ask(gateway: &Gateway) -> tokio::task::JoinHandle<Reply> {
    tokio::spawn(send(gateway.request("GET", PATH)))
}

#[tokio::test]
async fn one_request_answers_all_on_one_node() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| Answer::echo(seen).gated());
    let gateway = gateway(&origin).start().await;
    origin.hold();
    let asking: Vec<_> = (0..100).map(|_| ask(&gateway)).collect();
    until("all wait", SOON, || async {
        let metrics = gateway.metrics().await;
        // A follower may be counted when it joins or when it is answered: waiting is what must be seen.
        metrics.value("tidegate_connections_open", &[]) >= 100.0 && origin.held() == 1
    })
    .await;
    origin.release();
    let mut bodies: Vec<_> =
        join_all(asking).await.into_iter().map(|reply| reply.unwrap().ok().body).collect();
    bodies.dedup();
    assert_eq!((bodies.len(), origin.count(PATH)), (1, 1));
    let metrics = gateway.metrics().await;
    assert!((metrics.value("tidegate_flights_total", &[("role", "leader")]) - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_leader_that_leaves_cancels_nothing() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| Answer::echo(seen).gated());
    let gateway = gateway(&origin).start().await;
    origin.hold();
    let mut leader = TcpStream::connect(gateway.address()).await.unwrap();
    leader.write_all(format!("GET {PATH} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
    until("the leader is at the origin", SOON, || async { origin.held() == 1 }).await;
    drop(leader);
    let follower = ask(&gateway);
    assert_eq!(origin.held(), 1, "the fill goes on");
    origin.release();
    follower.await.unwrap().ok();
    assert!(gateway.get(PATH).await.ok().is_hit());
    assert_eq!(origin.count(PATH), 1);
}

#[tokio::test]
async fn a_fill_that_nobody_waits_for_any_more_is_stored() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| Answer::echo(seen).gated());
    let gateway = gateway(&origin).start().await;
    origin.hold();
    let leader = ask(&gateway);
    until("the leader is at the origin", SOON, || async { origin.held() == 1 }).await;
    leader.abort();
    origin.release();
    until("the answer is there", SOON, || async { gateway.get(PATH).await.ok().is_hit() }).await;
    assert_eq!(origin.count(PATH), 1);
}

#[tokio::test]
async fn an_origin_that_fails_fails_all_quickly() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |_| Answer::new("text/plain", "oops").status(500).gated());
    let gateway = gateway(&origin).origin("retries = 0").start().await;
    origin.hold();
    let asking: Vec<_> = (0..50).map(|_| ask(&gateway)).collect();
    until("the leader is at the origin", SOON, || async { origin.held() > 0 }).await;
    origin.release();
    let start = Instant::now();
    for reply in join_all(asking).await {
        assert!(reply.unwrap().status.is_server_error());
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_origin_that_dies_fails_all_quickly() {
    let mut origin = TestOrigin::start().await;
    origin.on(PATH, |seen| Answer::echo(seen).gated());
    let gateway = gateway(&origin).start().await;
    origin.hold();
    let asking: Vec<_> = (0..50).map(|_| ask(&gateway)).collect();
    until("the leader is at the origin", SOON, || async { origin.held() > 0 }).await;
    origin.kill();
    let start = Instant::now();
    for reply in join_all(asking).await {
        let reply = reply.unwrap();
        assert!([502, 503].contains(&reply.status.as_u16()), "{reply:?}");
        let status = reply.status.as_u16();
        reply.problem(status);
    }
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_origin_that_hangs_is_given_up_at_the_fill_timeout() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| Answer::echo(seen).gated());
    let cache = r#"cache = { namespace = "kpi", ttl = "60s", fill_timeout = "700ms" }"#;
    let gateway = Gateway::with(&origin).origin("retries = 0").route(PATH, cache).start().await;
    origin.hold();
    let start = Instant::now();
    for reply in join_all((0..20).map(|_| ask(&gateway))).await {
        reply.unwrap().problem(504);
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(600) && took < Duration::from_secs(5), "{took:?}");
    origin.release();
    until("the origin's recovery is seen", SOON, || async { gateway.get(PATH).await.status == 200 }).await;
}

#[tokio::test]
async fn followers_read_the_body_as_it_streams() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |_| Answer::new("text/plain", "one").then_held("two"));
    let gateway = gateway(&origin).start().await;
    origin.hold();
    for _ in 0..2 {
        let begun = tokio::time::timeout(SOON, gateway.request("GET", PATH).send()).await;
        let mut reply = begun.expect("the head is there before the body's end").unwrap();
        let first = tokio::time::timeout(SOON, reply.chunk()).await.expect("the body's beginning is there");
        assert_eq!(&first.unwrap().unwrap()[..], b"one");
    }
    origin.release();
    assert_eq!(&gateway.get(PATH).await.ok().body[..], b"onetwo");
    assert_eq!(origin.count(PATH), 1);
}

#[tokio::test]
async fn a_node_that_dies_in_a_fill_leaves_its_lease_to_another() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on(PATH, |seen| Answer::echo(seen).gated());
    let config = gateway(&origin).redis(&redis.url()).store("lease = \"1s\"");
    let (a, b) = (config.start().await, config.start().await);
    origin.hold();
    let lost = ask(&a);
    until("the leader is at the origin", SOON, || async { origin.held() == 1 }).await;
    let waiting = ask(&b);
    lost.abort();
    drop(a);
    until("the other node takes over", SOON, || async { origin.count(PATH) == 2 }).await;
    origin.release();
    waiting.await.unwrap().ok();
}

#[tokio::test]
async fn a_fill_longer_than_its_lease_keeps_it() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on(PATH, |seen| Answer::echo(seen).after(Duration::from_millis(2500)));
    let config = gateway(&origin).redis(&redis.url()).store("lease = \"1s\"");
    let (a, b) = (config.start().await, config.start().await);
    let (one, two) = (ask(&a), ask(&b));
    assert_eq!(one.await.unwrap().ok().body, two.await.unwrap().ok().body);
    assert_eq!(origin.count(PATH), 1);
}

/// Three nodes, 300 askers, one cold key, 50 rounds: one request to the origin each, and the followers' lag.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_three_nodes_ask_the_origin_once() {
    const ROUNDS: usize = 50;
    const ASKERS: usize = 100;
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on(PATH, |seen| Answer::echo(seen).gated());
    // Of a call that takes longer, which a busy machine is enough for, nodes don't wait for one another.
    let config = gateway(&origin).redis(&redis.url()).store("deadline = \"1s\"");
    let nodes = [config.start().await, config.start().await, config.start().await];
    let http = client();
    let mut lags = Vec::new();
    for round in 1..=ROUNDS {
        origin.hold();
        let asking: Vec<_> = (0..ASKERS)
            .flat_map(|_| &nodes)
            .map(|node| {
                let request = http.get(node.url(&format!("{PATH}?range={round}")));
                tokio::spawn(async move {
                    let reply = send(request).await;
                    (reply, Instant::now())
                })
            })
            .collect();
        until("the leader is at the origin", SOON, || async { origin.held() > 0 }).await;
        // Every connection has its request on the way before the answer comes.
        for node in &nodes {
            until("all askers are connected", SOON, || async {
                node.metrics().await.value("tidegate_connections_open", &[]) >= f64::from(ASKERS as u32)
            })
            .await;
        }
        origin.release();
        let replies: Vec<_> = join_all(asking).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(origin.count(PATH), round, "one request to the origin a round");
        let end = *origin.ends(PATH).last().unwrap();
        let slowest = replies.iter().map(|(_, at)| at.saturating_duration_since(end)).max().unwrap();
        for (reply, _) in replies {
            assert_eq!(reply.ok().seq(), round as u64);
        }
        lags.push(slowest);
    }
    let (median, worst) = (quantile(&mut lags, 0.5), quantile(&mut lags, 1.0));
    // Told, and no more: clients, origin and other tests share the machine.
    println!("slowest of {} followers after the fill's end: median {median:?}, worst {worst:?}", 3 * ASKERS);
}

/// An origin that accepts and never answers costs nobody any time who can be served without: they get what is stale at
/// once. The others wait for it, as there is no other server.
#[tokio::test]
async fn a_hung_origin_is_left_alone() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| Answer::echo(seen).gated());
    let cache = r#"cache = { namespace = "kpi", ttl = "200ms", stale_if_error = "10m", fill_timeout = "1s", query = ["n"] }"#;
    let gateway = Gateway::with(&origin).origin("retries = 0").route(PATH, cache).start().await;
    let ask = |n: usize| {
        let request = client().get(gateway.url(&format!("{PATH}?n={n}")));
        async move {
            let start = Instant::now();
            (send(request).await, start.elapsed())
        }
    };
    for (reply, _) in join_all((0..8).map(ask)).await {
        reply.ok();
    }
    origin.hold();
    let timeouts =
        async || gateway.metrics().await.value("tidegate_origin_requests_total", &[("outcome", "timeout")]);
    // The answers' freshness ends. Many that time out at the same time are one failure: the server may be well.
    until("some have timed out", SOON, || async {
        join_all((0..3).map(ask)).await;
        timeouts().await >= 3.0
    })
    .await;
    let waited = async || join_all((0..1).map(ask)).await[0].1 > Duration::from_millis(900);
    assert!(waited().await, "given up after failures at the same time");
    // Three in a row are too many.
    until("the server is left alone", SOON, || async { !waited().await }).await;
    let replies = join_all((3..13).map(ask)).await;
    for (n, (reply, took)) in (3..13).zip(replies) {
        assert!(n >= 8 || took < Duration::from_millis(500), "{n} waited for an origin that hangs: {took:?}");
        if n < 8 {
            assert!(reply.ok().cache_status().contains("stale"), "{n}");
        } else {
            reply.problem(504);
        }
    }
    origin.release();
    until("the origin's recovery is seen", SOON, || async { ask(20).await.0.status == 200 }).await;
}

/// The lease is granted after the node has stopped waiting for it: it is given back all the same.
#[tokio::test]
async fn a_lease_whose_grant_came_too_late_is_given_back() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on(PATH, |seen| Answer::echo(seen).gated());
    let config = gateway(&origin).redis(&redis.url()).store("lease = \"30s\"");
    let (a, b) = (config.start().await, config.start().await);
    // Both know the version: nothing but the lease is asked for from here.
    for node in [&a, &b] {
        node.get(&format!("{PATH}?range=0")).await.ok();
    }
    origin.forget();
    origin.hold();
    redis.pause();
    let leader = ask(&a);
    until("the leader fills without having heard", SOON, || async { origin.held() == 1 }).await;
    redis.resume();
    until("the lease was granted", SOON, || async {
        redis.keys().await.iter().any(|key| key.contains("lock:"))
    })
    .await;
    let claims = async || {
        let labels = [("call", "lease"), ("outcome", "ok")];
        b.metrics().await.value("tidegate_store_calls_total", &labels)
    };
    until("the other node asks the store again", SOON, || async {
        b.metrics().await.value("tidegate_store_doubt_seconds", &[]) == 0.0
    })
    .await;
    let before = claims().await;
    let follower = ask(&b);
    until("the other node has asked for the lease", SOON, || async { claims().await > before }).await;
    origin.release();
    let released = Instant::now();
    let (led, followed) = (leader.await.unwrap().ok(), follower.await.unwrap().ok());
    assert!(released.elapsed() < Duration::from_secs(3), "{:?} of a lease of 30 s", released.elapsed());
    assert_eq!((led.body, origin.count(PATH)), (followed.body, 1));
}

/// Takes connections and never answers.
struct Hole(std::net::SocketAddr, tokio::task::JoinHandle<()>);

impl Hole {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut taken = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                taken.push(stream);
            }
        });
        Self(address, task)
    }
}

impl Drop for Hole {
    fn drop(&mut self) {
        self.1.abort();
    }
}

/// Both kinds of routes, with these further rules, their answers kept in this Redis.
fn nodes_of(server: &str, redis: &Redis, ttl: &str, rules: &str) -> GatewayBuilder {
    let versioned = format!(
        r#"cache = {{ namespace = "kpi", ttl = "{ttl}", stale_if_error = "10m", query = ["n"], fill_timeout = "20s", {rules} }}"#
    );
    let followed =
        format!(r#"cache = {{ follow = "origin", redis = "1MiB", fill_timeout = "20s", {rules} }}"#);
    let builder = GatewayBuilder::new(server).origin("retries = 0").redis(&redis.url());
    builder.route(PATH, &versioned).route(FOLLOWED, &followed)
}

/// A request that means the same on every node.
fn ask_for(node: &Gateway, target: &str) -> tokio::task::JoinHandle<(Reply, Duration)> {
    let request = node.request("GET", target).header("host", "dash.example");
    let began = Instant::now();
    tokio::spawn(async move { (send(request).await, began.elapsed()) })
}

async fn hedged(node: &Gateway, reason: &str) -> f64 {
    node.metrics().await.value("tidegate_fills_hedged_total", &[("reason", reason)])
}

async fn leases(redis: &Redis) -> Vec<String> {
    redis.keys().await.into_iter().filter(|key| key.starts_with("dash:lock:")).collect()
}

/// A fresh answer of the followed route, and of the other one.
async fn origin_of_both() -> TestOrigin {
    let origin = TestOrigin::start().await;
    origin.on(FOLLOWED, |seen| Answer::echo(seen).header("cache-control", "max-age=600"));
    origin
}

#[tokio::test]
async fn a_node_whose_way_to_the_origin_is_a_hole_holds_up_no_other() {
    let (origin, hole, redis) = (origin_of_both().await, Hole::start().await, Redis::start().await);
    let cut_off = nodes_of(&format!("http://{}", hole.0), &redis, "60s", "").start().await;
    let config = nodes_of(&origin.url(), &redis, "60s", "");
    let (other, third) = (config.start().await, config.start().await);
    for (number, path) in [PATH, FOLLOWED].into_iter().enumerate() {
        let hanging = ask_for(&cut_off, path);
        until("it has the lease", SOON, || async { !leases(&redis).await.is_empty() }).await;
        let asking: Vec<_> = (0..5).map(|_| ask_for(&other, path)).collect();
        for (reply, took) in join_all(asking).await.into_iter().map(Result::unwrap) {
            reply.ok();
            assert!(took > Duration::from_millis(300) && took < Duration::from_secs(5), "{path}: {took:?}");
        }
        assert_eq!(origin.count(path), 1, "{path}: one of the node asks");
        assert!((hedged(&other, "slow").await - (number + 1) as f64).abs() < f64::EPSILON, "{path}");
        // What that brought is there for the others.
        until("it is stored", SOON, || async {
            ask_for(&third, path).await.unwrap().0.ok();
            let found = ask_for(&third, path).await.unwrap().0.ok();
            found.is_hit()
        })
        .await;
        assert_eq!(origin.count(path), 1, "{path}");
        // And for the one that is cut off, whose own fill goes on for twenty seconds.
        let (reply, took) = hanging.await.unwrap();
        assert_eq!(reply.ok().cache_status(), "tidegate; hit; detail=redis", "{path}");
        assert!(took < Duration::from_secs(8), "{path}: {took:?}");
        until("its lease is given back", SOON, || async { leases(&redis).await.is_empty() }).await;
    }
}

#[tokio::test]
async fn what_stands_in_the_place_of_a_lease_is_not_waited_for() {
    let (origin, redis) = (origin_of_both().await, Redis::start().await);
    origin.on(PATH, |seen| Answer::echo(seen).gated());
    origin.on(FOLLOWED, |seen| Answer::echo(seen).header("cache-control", "max-age=600").gated());
    let node = nodes_of(&origin.url(), &redis, "60s", "hedge = \"1s\"").start().await;
    // The names of the leases.
    for (target, other) in [(format!("{PATH}?n=0"), PATH), (format!("{FOLLOWED}?n=0"), FOLLOWED)] {
        origin.hold();
        let filling = ask_for(&node, &target);
        let own = async || leases(&redis).await.into_iter().find(|name| name.contains("n=0"));
        until("it has the lease", SOON, || async { own().await.is_some() }).await;
        let name = own().await.unwrap();
        origin.release();
        filling.await.unwrap().0.ok();
        let orders: [(&[&str], &str); 5] = [
            (&["SET", "NAME", "gone", "PX", "600000"], "slow"),
            (&["SET", "NAME", "gone"], "no_lease"),
            (&["RPUSH", "NAME", "gone"], "no_lease"),
            (&["HSET", "NAME", "gone", "1"], "no_lease"),
            (&["SADD", "NAME", "gone"], "no_lease"),
        ];
        for (n, (order, reason)) in (1..).zip(orders) {
            let name = name.replace("n=0", &format!("n={n}"));
            let order: Vec<&str> =
                order.iter().map(|word| if *word == "NAME" { &name } else { *word }).collect();
            let _: redis::Value = redis.run(&order).await;
            let before = hedged(&node, reason).await;
            let (reply, took) = ask_for(&node, &format!("{other}?n={n}")).await.unwrap();
            reply.ok();
            let waits = reason == "slow";
            assert_eq!(took >= Duration::from_secs(1), waits, "{other} {order:?}: {took:?}");
            assert!(took < Duration::from_secs(5), "{other} {order:?}: {took:?}");
            assert!(hedged(&node, reason).await > before, "{other} {order:?}");
        }
    }
}

/// While a node asks beside another one, the first answer of both is for its clients, whether or not an answer that is over
/// stands in its place.
#[tokio::test]
async fn whichever_of_two_fills_ends_first_answers() {
    let (origin, hole, redis) = (origin_of_both().await, Hole::start().await, Redis::start().await);
    for path in [PATH, FOLLOWED] {
        let fields = ("max-age=1, stale-if-error=600", "\"a\"");
        origin.on(path, move |seen| {
            Answer::echo(seen).header("cache-control", fields.0).header("etag", fields.1).gated()
        });
    }
    let first = nodes_of(&origin.url(), &redis, "1s", "").start().await;
    let cut_off = nodes_of(&format!("http://{}", hole.0), &redis, "1s", "hedge = \"100ms\"").start().await;
    let mut hedges = 0.0;
    for path in [PATH, FOLLOWED] {
        for round in 0..2 {
            origin.hold();
            let filling = ask_for(&first, path);
            until("it has the lease", SOON, || async { !leases(&redis).await.is_empty() }).await;
            let beside = ask_for(&cut_off, path);
            hedges += 1.0;
            until("the other one asks beside it", SOON, || async {
                hedged(&cut_off, "slow").await >= hedges
            })
            .await;
            origin.release();
            let (filled, found) = (filling.await.unwrap().0.ok(), beside.await.unwrap().0.ok());
            assert_eq!(filled.body, found.body, "{path} {round}");
            assert_eq!(found.cache_status(), "tidegate; hit; detail=redis", "{path} {round}");
            until("it is over", SOON, || async { leases(&redis).await.is_empty() }).await;
            tokio::time::sleep(Duration::from_millis(1_100)).await;
        }
    }
}

#[tokio::test]
async fn a_fill_that_takes_no_longer_than_usual_is_waited_for() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on(PATH, |seen| Answer::echo(seen).after(Duration::from_millis(1_500)));
    let config = nodes_of(&origin.url(), &redis, "60s", "");
    let (a, b) = (config.start().await, config.start().await);
    // Both learn it.
    for (n, node) in [&a, &b].into_iter().enumerate() {
        ask_for(node, &format!("{PATH}?n={n}")).await.unwrap().0.ok();
    }
    origin.forget();
    let (one, two) = (ask_for(&a, PATH), ask_for(&b, PATH));
    assert_eq!(one.await.unwrap().0.ok().body, two.await.unwrap().0.ok().body);
    assert_eq!(origin.count(PATH), 1);
}
