//! Signed events: who may bump, what is refused, and what happens without a store.

use crate::support::{
    gateway::{GatewayBuilder, EVENT_KEY, KPI},
    webhook::Message,
    *,
};
use futures_util::future::join_all;
use serde_json::json;
use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const PATH: &str = "/api/widgets/kpi";
const EVENT: &str = "order_created";

fn gateway(origin: &TestOrigin) -> GatewayBuilder {
    Gateway::with(origin).route(PATH, KPI)
}

fn acme() -> Message {
    Message::new(json!({"tenant": "acme"}).to_string())
}

#[tokio::test]
async fn a_good_signature_bumps_its_tenant_alone() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let gateway = gateway(&origin).redis(&redis.url()).event(EVENT, &["kpi", "chart"]).start().await;
    let (acme, globex) = (gateway.get_as("acme", PATH).await.ok(), gateway.get_as("globex", PATH).await.ok());
    let before = now_ms();
    gateway.bump("acme").await;
    assert!(gateway.get_as("acme", PATH).await.ok().seq() > acme.seq());
    assert_eq!(gateway.get_as("globex", PATH).await.ok().seq(), globex.seq());
    for namespace in ["kpi", "chart"] {
        let version: u64 = redis.run(&["GET", &format!("dash:ver:{namespace}:acme")]).await;
        assert!(version >= before, "{namespace}: {version} < {before}");
    }
    let metrics = gateway.metrics().await;
    assert!((metrics.value("tidegate_events_total", &[("result", "accepted")]) - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn bad_signatures_are_refused_and_change_nothing() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let gateway = gateway(&origin).redis(&redis.url()).event(EVENT, &["kpi"]).start().await;
    let kept = gateway.get_as("acme", PATH).await.ok();
    until("the fill has given back its lease", SOON, || async {
        !redis.keys().await.iter().any(|key| key.contains("lock:"))
    })
    .await;
    let keys = redis.keys().await;
    let url = gateway.url(&format!("/internal/events/{EVENT}"));
    let client = gateway.client();
    let (message, old, early) = (
        acme(),
        Message { timestamp: now_ms() / 1000 - 301, ..acme() },
        Message { timestamp: now_ms() / 1000 + 330, ..acme() },
    );
    let signed = |message: &Message| message.signature(EVENT_KEY);
    let headers = |message: &Message, signature: &str| {
        client
            .post(&url)
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", message.timestamp.to_string())
            .header("webhook-signature", signature.to_owned())
            .body(message.body.clone())
    };
    let without = |name: &str| {
        let mut request = headers(&message, &signed(&message)).build().unwrap();
        request.headers_mut().remove(name);
        reqwest::RequestBuilder::from_parts(client.clone(), request)
    };
    let long = Message { id: "x".repeat(257), ..message.clone() };
    let bad = [
        ("webhook_signature", message.request(client, &url, b"another key")),
        ("webhook_signature", headers(&message, &signed(&message)).body(r#"{"tenant":"globex"}"#)),
        (
            "webhook_signature",
            headers(&Message { id: "msg_other".into(), ..message.clone() }, &signed(&message)),
        ),
        (
            "webhook_signature",
            headers(&Message { timestamp: message.timestamp - 1, ..message.clone() }, &signed(&message)),
        ),
        ("webhook_too_old", headers(&old, &signed(&old))),
        ("webhook_too_new", headers(&early, &signed(&early))),
        ("webhook_no_id", client.post(&url).body(message.body.clone())),
        ("webhook_no_id", without("webhook-id")),
        ("webhook_id", headers(&long, &signed(&long))),
        ("webhook_no_timestamp", without("webhook-timestamp")),
        ("webhook_timestamp", without("webhook-timestamp").header("webhook-timestamp", "now")),
        ("webhook_no_signature", without("webhook-signature")),
        ("webhook_no_signature", headers(&message, "")),
        ("webhook_version", headers(&message, &signed(&message).replace("v1,", "v2,"))),
        ("webhook_version", headers(&message, "v1,???")),
        // Who reads the last one of two reads what nobody has signed.
        ("webhook_repeated", message.request(client, &url, EVENT_KEY).header("webhook-id", "msg_other")),
        ("webhook_repeated", message.request(client, &url, EVENT_KEY).header("webhook-timestamp", "1")),
        ("webhook_repeated", message.request(client, &url, EVENT_KEY).header("webhook-signature", "v1,AAAA")),
    ];
    for (word, request) in bad {
        let reply = send(request).await.problem(401);
        assert_eq!(reply.cache_status(), format!("tidegate; detail={word}"));
        let told = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(told.starts_with("webhook-"), "{told}");
        until("the log tells which check it failed", SOON, || async { gateway.output().contains(&told) })
            .await;
    }
    assert_eq!(gateway.get_as("acme", PATH).await.ok().body, kept.body);
    assert_eq!(redis.keys().await, keys);
    assert!(gateway.metrics().await.value("tidegate_events_total", &[("result", "bad_signature")]) >= 10.0);
}

#[tokio::test]
async fn while_a_secret_rotates_both_are_taken() {
    let origin = TestOrigin::start().await;
    let event = "secret = [\"the old secret of the sender\", { env = \"EVENT_SECRET\" }]";
    let gateway = gateway(&origin)
        .raw(&format!("[[event]]\npath = \"/internal/events/{EVENT}\"\n{event}\nbump = [\"kpi\"]"))
        .start()
        .await;
    let url = gateway.url(&format!("/internal/events/{EVENT}"));
    for key in [EVENT_KEY, b"the old secret of the sender"] {
        let reply = send(acme().request(gateway.client(), &url, key)).await;
        assert!(reply.status.is_success(), "{reply:?}");
    }
    // A sender that rotates signs with both, in one header.
    let message = acme();
    let both = format!("{} {}", message.signature(b"a secret not known here"), message.signature(EVENT_KEY));
    let request = gateway.client().post(&url).header("webhook-id", &message.id);
    let request = request.header("webhook-timestamp", message.timestamp.to_string());
    let reply = send(request.header("webhook-signature", both).body(message.body)).await;
    assert!(reply.status.is_success(), "{reply:?}");
}

#[tokio::test]
async fn a_replay_is_acknowledged_and_changes_nothing() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let config = gateway(&origin).redis(&redis.url()).event(EVENT, &["kpi"]);
    let (a, b) = (config.start().await, config.start().await);
    let message = acme();
    let first = send(a.event_request(EVENT, &message)).await;
    assert!(first.status.is_success(), "{first:?}");
    let version: String = redis.run(&["GET", "dash:ver:kpi:acme"]).await;
    for node in [&a, &b] {
        let again = send(node.event_request(EVENT, &message)).await;
        assert!(again.status.is_success(), "{again:?}");
        assert_eq!(redis.run::<String>(&["GET", "dash:ver:kpi:acme"]).await, version);
    }
    assert!(
        (b.metrics().await.value("tidegate_events_total", &[("result", "replayed")]) - 1.0).abs()
            < f64::EPSILON
    );
}

#[tokio::test]
async fn bodies_that_cannot_be_meant_are_refused() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let gateway = gateway(&origin)
        .redis(&redis.url())
        .event_with(EVENT, "bump = [\"kpi\"]\nrate = 100000\nmax_body = \"1KiB\"")
        .start()
        .await;
    let keys = redis.keys().await;
    for (body, status) in [
        (String::new(), 400),
        ("{".to_owned(), 400),
        ("[]".to_owned(), 400),
        (r#"{"tenant": 7}"#.to_owned(), 400),
        (r#"{"tenant": ""}"#.to_owned(), 400),
        (r#"{"tenant": "a:b"}"#.to_owned(), 400),
        (r#"{"tenant": "a b"}"#.to_owned(), 400),
        (r#"{"tenant": "*"}"#.to_owned(), 400),
        (json!({"tenant": "é"}).to_string(), 400),
        (json!({"tenant": "x".repeat(65)}).to_string(), 400),
        (json!({"tenant": "acme", "note": "x".repeat(2000)}).to_string(), 413),
    ] {
        let reply = send(gateway.event_request(EVENT, &Message::new(body.clone()))).await;
        assert_eq!(reply.status.as_u16(), status, "{body:.80}: {reply:?}");
        reply.problem(status);
    }
    assert_eq!(redis.keys().await, keys, "refused events leave no key");
    let get = send(gateway.request("GET", &format!("/internal/events/{EVENT}"))).await;
    assert!(get.status.is_client_error(), "{get:?}");
    let unknown = send(gateway.event_request("unknown", &acme())).await;
    assert_eq!(unknown.status, 404, "{unknown:?}");
}

#[tokio::test]
async fn without_a_tenant_an_event_is_the_publics() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).event(EVENT, &["kpi"]).start().await;
    let (public, acme) = (gateway.get(PATH).await.ok(), gateway.get_as("acme", PATH).await.ok());
    let reply = gateway.event(EVENT, &json!({"order": 7})).await;
    assert!(reply.status.is_success(), "{reply:?}");
    assert!(gateway.get(PATH).await.ok().seq() > public.seq());
    assert_eq!(gateway.get_as("acme", PATH).await.ok().seq(), acme.seq());
}

#[tokio::test]
async fn a_storm_is_limited_in_rate() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).event_with(EVENT, "bump = [\"kpi\"]\nrate = 5").start().await;
    let mut refused = None;
    let mut accepted = 0;
    for _ in 0..200 {
        let reply = send(gateway.event_request(EVENT, &acme())).await;
        if reply.status.is_success() {
            accepted += 1;
        } else {
            refused = Some(reply);
            break;
        }
    }
    assert!(accepted >= 5, "{accepted} were accepted");
    let refused = refused.expect("200 events at once are too many at 5 a second").problem(429);
    assert!(refused.header("retry-after").parse::<u64>().is_ok(), "{refused:?}");
    until("the rate allows another", SOON, || async {
        send(gateway.event_request(EVENT, &acme())).await.status.is_success()
    })
    .await;
}

#[tokio::test]
async fn without_its_store_an_event_bumps_here_and_asks_for_a_retry() {
    let (origin, mut redis) = (TestOrigin::start().await, Redis::start().await);
    let gateway = gateway(&origin).redis(&redis.url()).event(EVENT, &["kpi"]).start().await;
    let old = gateway.get_as("acme", PATH).await.ok().seq();
    redis.kill();
    let message = acme();
    let reply = send(gateway.event_request(EVENT, &message)).await.problem(503);
    assert!(reply.header("retry-after").parse::<u64>().is_ok(), "{reply:?}");
    assert!(gateway.get_as("acme", PATH).await.ok().seq() > old, "this node has bumped");
    redis.restart().await;
    until("the sender's retry is taken", SOON, || async {
        send(gateway.event_request(EVENT, &message)).await.status.is_success()
    })
    .await;
    assert!(redis.run::<u64>(&["GET", "dash:ver:kpi:acme"]).await > 1);
}

#[tokio::test]
async fn junk_uses_up_nothing_of_the_senders_rate() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).event_with(EVENT, "bump = [\"kpi\"]\nrate = 1").start().await;
    let url = gateway.url(&format!("/internal/events/{EVENT}"));
    for _ in 0..10 {
        let junk = (0..30).map(|_| send(gateway.client().post(&url).body("junk")));
        for reply in join_all(junk).await {
            assert!(reply.status.is_client_error(), "{reply:?}");
        }
    }
    let reply = send(gateway.event_request(EVENT, &acme())).await;
    assert!(reply.status.is_success(), "{reply:?}");
}

#[tokio::test]
async fn one_id_at_two_endpoints_is_two_events() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    for store in [None, Some(&redis)] {
        let mut config = gateway(&origin).route("/chart", &KPI.replace("kpi", "chart"));
        config = config.event(EVENT, &["kpi"]).event("order_paid", &["chart"]);
        if let Some(redis) = store {
            config = config.redis(&redis.url());
        }
        let gateway = config.start().await;
        let message = acme();
        for (event, path) in [(EVENT, PATH), ("order_paid", "/chart")] {
            let old = gateway.get_as("acme", path).await.ok().seq();
            let reply = send(gateway.event_request(event, &message)).await;
            assert!(reply.status.is_success(), "{event}: {reply:?}");
            let new = gateway.get_as("acme", path).await.ok().seq();
            assert!(new > old, "{event} has bumped");
            // And again it is a replay, at this endpoint.
            let reply = send(gateway.event_request(event, &message)).await;
            assert!(reply.status.is_success(), "{event}: {reply:?}");
            assert_eq!(gateway.get_as("acme", path).await.ok().seq(), new, "{event}");
        }
    }
}

#[tokio::test]
async fn a_forwarded_event_is_the_origins_until_it_has_taken_it() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let path = format!("/internal/events/{EVENT}");
    for store in [None, Some(&redis)] {
        let mut config =
            gateway(&origin).event_with(EVENT, "bump = [\"kpi\"]\nrate = 100000\nforward = true");
        if let Some(redis) = store {
            config = config.redis(&redis.url());
        }
        let gateway = config.start().await;
        origin.forget();
        let message = acme();
        // The origin's failure is the sender's to repeat.
        origin.on(&path, |seen| Answer::echo(seen).status(503));
        for sent in 1..=2 {
            let reply = send(gateway.event_request(EVENT, &message)).await;
            assert_eq!(reply.status, 503, "{reply:?}");
            assert_eq!(origin.count(&path), sent);
        }
        origin.on(&path, |seen| Answer::echo(seen).status(202));
        let spoofed = gateway.event_request(EVENT, &message).header("x-forwarded-for", "192.0.2.1");
        let reply = send(spoofed.header("cookie", "a=b")).await;
        assert_eq!((reply.status.as_u16(), origin.count(&path)), (202, 3), "{reply:?}");
        let seen = origin.seen(&path).pop().unwrap();
        assert_eq!(seen.body[..], message.body[..]);
        assert_eq!(seen.header("webhook-id"), Some(message.id.as_str()));
        // It bears what the gateway says of every request, and nothing else of the sender's.
        assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(seen.header("x-request-id"), Some(reply.header("x-request-id")));
        assert_eq!(seen.header("via"), Some("1.1 tidegate"));
        assert_eq!(seen.header("cookie"), None);
        // From here on it is known.
        for _ in 0..2 {
            let reply = send(gateway.event_request(EVENT, &message)).await;
            assert!(reply.status.is_success(), "{reply:?}");
        }
        assert_eq!(origin.count(&path), 3, "a replay is not forwarded");
    }
}

/// One event that comes several times at once acts once, on one node and on several; who waits is told what became of it.
#[tokio::test]
async fn an_event_that_comes_eight_times_at_once_is_forwarded_once() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let path = format!("/internal/events/{EVENT}");
    for store in [None, Some(&redis)] {
        let mut config =
            gateway(&origin).event_with(EVENT, "bump = [\"kpi\"]\nrate = 100000\nforward = true");
        if let Some(redis) = store {
            config = config.redis(&redis.url());
        }
        let nodes = match store {
            None => vec![config.start().await],
            Some(_) => vec![config.start().await, config.start().await],
        };
        for (status, last) in [(202, 202), (503, 202)] {
            origin.forget();
            let (before, failing) = (origin.count(&path), Arc::new(AtomicBool::new(status == 503)));
            let fails = failing.clone();
            origin.on(&path, move |seen| {
                let status = if fails.swap(false, Ordering::SeqCst) { 503 } else { 202 };
                Answer::echo(seen).status(status).after(Duration::from_millis(300))
            });
            let message = acme();
            let sent = (0..8).map(|n| send(nodes[n % nodes.len()].event_request(EVENT, &message)));
            let replies = join_all(sent).await;
            // The one that fails is told so, the next one tries it, and the others hear that it was taken.
            let mut statuses: Vec<u16> = replies.iter().map(|reply| reply.status.as_u16()).collect();
            statuses.sort_unstable();
            let mut expected = vec![204; 6];
            expected.extend(if status == 503 { vec![last, status] } else { vec![204, status] });
            expected.sort_unstable();
            assert_eq!(statuses, expected, "with a store: {}", store.is_some());
            let asked = origin.count(&path) - before;
            assert_eq!(asked, if status == 503 { 2 } else { 1 }, "with a store: {}", store.is_some());
        }
    }
    assert!(!redis.keys().await.is_empty());
}

/// A sender that gives up and comes again doesn't undo what has begun.
#[tokio::test]
async fn a_sender_that_leaves_has_its_event_forwarded_once() {
    let origin = TestOrigin::start().await;
    let path = format!("/internal/events/{EVENT}");
    origin.on(&path, |seen| Answer::echo(seen).status(202).gated());
    let gateway = gateway(&origin).event_with(EVENT, "bump = [\"kpi\"]\nforward = true").start().await;
    origin.hold();
    let message = acme();
    let request = gateway.event_request(EVENT, &message);
    let first = tokio::spawn(send(request));
    until("the origin is asked", SOON, || async { origin.held() == 1 }).await;
    first.abort();
    let again = tokio::spawn(send(gateway.event_request(EVENT, &message)));
    tokio::task::yield_now().await;
    origin.release();
    assert_eq!(again.await.unwrap().status, 204);
    assert_eq!(origin.count(&path), 1);
}

/// Without a store a node's memory is all there is, and a reload is no reason to lose it.
#[tokio::test]
async fn a_reload_forgets_no_event() {
    let origin = TestOrigin::start().await;
    let path = format!("/internal/events/{EVENT}");
    let config = |lines: &str| {
        let lines = format!("bump = [\"kpi\"]\nforward = true\n{lines}");
        gateway(&origin).event_with(EVENT, &lines).event("order_paid", &["kpi"])
    };
    let gateway = config("rate = 2").start().await;
    let message = acme();
    assert_eq!(send(gateway.event_request(EVENT, &message)).await.status, 200);
    for lines in ["rate = 2\nmax_body = \"1MiB\"", "rate = 3"] {
        assert!(gateway.reload(&config(lines)).await);
        assert_eq!(send(gateway.event_request(EVENT, &message)).await.status, 204, "{lines}");
    }
    assert_eq!(origin.count(&path), 1);
}

/// RFC 9110, 10.1.1: who asks for it waits for it.
#[tokio::test]
async fn a_sender_that_expects_to_be_told_to_go_on_is_told() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).event(EVENT, &["kpi"]).start().await;
    let message = acme();
    let head = format!(
        "POST /internal/events/{EVENT} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\
         webhook-id: {}\r\nwebhook-timestamp: {}\r\nwebhook-signature: {}\r\n\r\n",
        message.body.len(),
        message.id,
        message.timestamp,
        message.signature(EVENT_KEY),
    );
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 100 "));
    stream.write_all(&message.body).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 204 "));
}

/// One head, read byte by byte so that nothing of the next is taken.
async fn answer(stream: &mut TcpStream) -> String {
    let reading = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    };
    tokio::time::timeout(SOON, reading).await.unwrap_or_else(|_| panic!("no answer before the body was sent"))
}
