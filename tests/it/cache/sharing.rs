//! Routes that follow their origin, where somebody means harm or comes at the wrong moment: what one client says or is
//! told never becomes what another one gets, and what is gone stays gone.

use crate::support::*;
use futures_util::future::join_all;
use http::Method;
use serde_json::json;

const PATH: &str = "/page";
const FOLLOW: &str = r#"cache = "origin""#;

async fn gateway(origin: &TestOrigin, cache: &str) -> Gateway {
    Gateway::with(origin).origin("retries = 0").route("/*", cache).start().await
}

fn page(body: impl Into<bytes::Bytes>) -> Answer {
    Answer::new("text/plain", body)
}

/// A purged answer does not come back because a HEAD agrees with it.
#[tokio::test]
async fn a_head_does_not_bring_back_what_was_purged() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| page(format!("at {}", seen.number)).header("cache-control", "max-age=60"));
    let gateway = gateway(&origin, FOLLOW).await;
    let first = gateway.get(PATH).await.ok();
    assert!(gateway.get(PATH).await.ok().is_hit());
    let purge =
        gateway.client().post(gateway.admin_url("/api/purge")).json(&json!({ "url": gateway.url(PATH) }));
    send(purge).await.ok();
    send(gateway.request("HEAD", PATH)).await.ok();
    let next = gateway.get(PATH).await.ok();
    assert!(!next.is_hit() && next.body != first.body, "{next:?}");
}

/// One client's cookie, on an error that all who wait are told of.
#[tokio::test]
async fn the_cookie_of_an_error_reaches_nobody_else() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| {
        let who = seen.header("cookie").unwrap_or("nobody").to_owned();
        page(format!("sorry, {who}")).status(503).header("set-cookie", &who).gated()
    });
    let gateway = gateway(&origin, FOLLOW).await;
    origin.hold();
    let asking = |who: &'static str| send(gateway.request("GET", PATH).header("cookie", who));
    let replies = async { tokio::join!(asking("ann=1"), asking("bob=1")) };
    let release = async {
        until("one waits at the origin, the other for it", SOON, || async {
            gateway.metrics().await.value("tidegate_connections_open", &[]) >= 2.0 && origin.held() >= 1
        })
        .await;
        origin.release();
    };
    let ((ann, bob), ()) = tokio::join!(replies, release);
    assert_eq!((ann.header("set-cookie"), &ann.body[..]), ("ann=1", &b"sorry, ann=1"[..]), "{ann:?}");
    assert_eq!((bob.header("set-cookie"), &bob.body[..]), ("bob=1", &b"sorry, bob=1"[..]), "{bob:?}");
}

/// Larger than what is kept, and there at once.
#[tokio::test]
async fn a_large_answer_that_comes_at_once_comes_through() {
    let origin = TestOrigin::start().await;
    let whole = noise(8_000_000, 1);
    let answer = Answer::new("application/octet-stream", whole.clone())
        .chunked()
        .header("cache-control", "max-age=60");
    origin.on(PATH, move |_| answer.clone());
    let gateway = gateway(&origin, r#"cache = { follow = "origin", max_size = "1MiB" }"#).await;
    for _ in 0..20 {
        let path = PATH;
        let reply = gateway.get(path).await.ok();
        assert!(reply.body == whole, "{} bytes", reply.body.len());
    }
}

/// The refusal of one client's range or condition is no answer to others.
#[tokio::test]
async fn a_refused_range_or_condition_is_not_stored() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| {
        let answer = match (seen.header("range"), seen.header("if-match")) {
            (Some("bytes=999-"), _) => page("").status(416),
            (_, Some(_)) => page("").status(412),
            _ => page("whole"),
        };
        answer.header("cache-control", "max-age=60")
    });
    let gateway = gateway(&origin, FOLLOW).await;
    for (name, value) in [("range", "bytes=999-"), ("if-match", "\"x\"")] {
        let refused = gateway.request("GET", PATH).header(name, value).header("range", "bytes=999-");
        let refused =
            if name == "range" { gateway.request("GET", PATH).header(name, value) } else { refused };
        assert!(send(refused).await.status.is_client_error());
    }
    let reply = gateway.get(PATH).await.ok();
    assert_eq!(&reply.body[..], b"whole");
}

/// `Connection` names what ends at the gateway: not what the gateway itself says.
#[tokio::test]
async fn a_client_can_not_strip_what_the_gateway_says() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |_| page("page").header("cache-control", "max-age=60"));
    let gateway = gateway(&origin, FOLLOW).await;
    let request = format!(
        "GET {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close, X-Forwarded-For, X-Real-IP, X-Mine\r\nX-Mine: 1\r\n\r\n"
    );
    assert_eq!(raw_exchange(gateway.address(), request.as_bytes()).await.status, 200);
    let seen = &origin.seen(PATH)[0];
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"), "{:?}", seen.headers);
    assert_eq!(seen.header("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-mine"), None);
}

/// A field that the origin does not get can't have selected the variant.
#[tokio::test]
async fn a_variant_is_for_what_the_origin_was_told() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| {
        let language = seen.header("x-language").unwrap_or("none").to_owned();
        page(language).header("cache-control", "max-age=60").header("vary", "X-Language")
    });
    let gateway = gateway(&origin, FOLLOW).await;
    let request = format!(
        "GET {PATH} HTTP/1.1\r\nHost: {}\r\nConnection: close, X-Language\r\nX-Language: de\r\n\r\n",
        gateway.address()
    );
    assert_eq!(raw_exchange(gateway.address(), request.as_bytes()).await.status, 200);
    let german = send(gateway.request("GET", PATH).header("x-language", "de")).await.ok();
    assert_eq!(&german.body[..], b"de", "{german:?}");
}

/// A HEAD, or a GET of a range, that finds a stale answer has the whole of it refreshed.
#[tokio::test]
async fn a_stale_answer_is_refreshed_as_a_whole() {
    for (method, range) in [(Method::HEAD, None), (Method::GET, Some("bytes=0-0"))] {
        let origin = TestOrigin::start().await;
        origin.on(PATH, |seen| {
            page(format!("whole {}", seen.number)).header(
                "cache-control",
                if seen.number == 1 { "max-age=1, stale-while-revalidate=600" } else { "max-age=600" },
            )
        });
        let gateway = gateway(&origin, FOLLOW).await;
        gateway.get(PATH).await.ok();
        let ask = || {
            let request = gateway.request(method.as_str(), PATH);
            send(match range {
                Some(range) => request.header("range", range),
                None => request,
            })
        };
        until("the answer was stale", SOON, || async {
            ask().await;
            origin.count(PATH) >= 2
        })
        .await;
        assert_eq!(origin.seen(PATH)[1].header("range"), None);
        until("the answer is fresh", SOON, || async {
            let reply = gateway.get(PATH).await.ok();
            &reply.body[..] != b"whole 1"
        })
        .await;
        let next = gateway.get(PATH).await.ok();
        assert!(next.is_hit(), "{method}: {next:?}");
        assert_eq!(&next.body[..], b"whole 2", "{method}");
    }
}

/// An answer that goes by is nothing that other nodes should wait for, least of all for a slow client of one of them.
#[tokio::test]
async fn no_node_waits_for_what_another_passes_on() {
    let redis = Redis::start().await;
    let origin = TestOrigin::start().await;
    origin.on(PATH, |_| page("one, ").header("cache-control", "no-store").then_held("two"));
    let cache = r#"cache = { follow = "origin", redis = "1MiB", fill_timeout = "5s" }"#;
    let node = || async {
        Gateway::with(&origin).origin("retries = 0").redis(&redis.url()).route("/*", cache).start().await
    };
    let (one, other) = (node().await, node().await);
    origin.hold();
    // The same resource, whichever node is asked for it.
    let ask = |gateway: &Gateway| gateway.request("GET", PATH).header("host", "dash.example").send();
    let first = ask(&one).await.unwrap();
    assert_eq!(first.status(), 200);
    let began = std::time::Instant::now();
    let second = ask(&other).await.unwrap();
    assert_eq!(second.status(), 200);
    assert!(began.elapsed().as_secs() < 3, "{:?}", began.elapsed());
    origin.release();
    for reply in join_all([first.text(), second.text()]).await {
        assert_eq!(reply.unwrap(), "one, two");
    }
}

/// An answer that is streamed is as old as the origin says.
#[tokio::test]
async fn an_answer_tells_its_age_while_it_arrives() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |_| {
        page("one, ").header("cache-control", "max-age=600").header("age", "100").then_held("two")
    });
    let gateway = gateway(&origin, FOLLOW).await;
    origin.hold();
    let mut reader = Transfer::ask(gateway.address(), PATH).await;
    let head = reader.final_head().await;
    let age: u64 = head.header("age").expect("an age").parse().unwrap();
    assert!((100..110).contains(&age), "{age}");
    origin.release();
    reader.rest().await;
}

/// A 304 that makes an answer one client's own hands it to nobody else.
#[tokio::test]
async fn a_validation_that_says_private_is_for_one() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| match (seen.number, seen.header("if-none-match")) {
        (1, _) => page("page").header("cache-control", "max-age=0").header("etag", "\"a\""),
        (_, Some(_)) => {
            let who = seen.header("cookie").unwrap_or("nobody").to_owned();
            page("")
                .status(304)
                .header("cache-control", "private")
                .header("etag", "\"a\"")
                .header("x-who", &who)
                .gated()
        }
        _ => page("mine")
            .header("cache-control", "private")
            .header("x-who", seen.header("cookie").unwrap_or("nobody")),
    });
    let gateway = gateway(&origin, FOLLOW).await;
    gateway.get(PATH).await.ok();
    origin.hold();
    let asking = |who: &'static str| send(gateway.request("GET", PATH).header("cookie", who));
    let replies = async { tokio::join!(asking("ann=1"), asking("bob=1")) };
    let release = async {
        until("one waits at the origin, the other for it", SOON, || async {
            gateway.metrics().await.value("tidegate_connections_open", &[]) >= 2.0 && origin.held() >= 1
        })
        .await;
        origin.release();
    };
    let ((ann, bob), ()) = tokio::join!(replies, release);
    assert_eq!(ann.header("x-who"), "ann=1", "{ann:?}");
    assert_eq!(bob.header("x-who"), "bob=1", "{bob:?}");
}

/// A 304 may name new fields by which the answer varies: from then on it is for requests like that one.
#[tokio::test]
async fn a_validation_may_narrow_whom_an_answer_is_for() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| {
        let who = seen.header("x-who").unwrap_or("nobody").to_owned();
        match (seen.number, seen.header("if-none-match")) {
            (1, _) => page("nobody").header("cache-control", "max-age=0").header("etag", "\"a\""),
            (_, Some("\"a\"")) if who == "nobody" => page("")
                .status(304)
                .header("cache-control", "max-age=600")
                .header("vary", "X-Who")
                .header("etag", "\"a\""),
            _ => page(who).header("cache-control", "max-age=600").header("vary", "X-Who"),
        }
    });
    let gateway = gateway(&origin, FOLLOW).await;
    gateway.get(PATH).await.ok();
    gateway.get(PATH).await.ok();
    assert!(gateway.get(PATH).await.ok().is_hit());
    let ann = send(gateway.request("GET", PATH).header("x-who", "ann")).await.ok();
    assert_eq!(&ann.body[..], b"ann", "{ann:?}");
}

/// One spelling of a host is what others' answers are made for.
#[tokio::test]
async fn a_host_has_one_spelling_for_the_origin() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| {
        page(format!("http://{}/next", seen.header("host").unwrap())).header("cache-control", "max-age=60")
    });
    let gateway = gateway(&origin, FOLLOW).await;
    let ask = |host: &'static str| send(gateway.request("GET", PATH).header("host", host));
    ask("Dash.Example.:443").await.ok();
    let reply = ask("dash.example").await.ok();
    assert!(reply.is_hit());
    assert_eq!(&reply.body[..], b"http://dash.example/next");
    assert_eq!(origin.seen(PATH)[0].header("x-forwarded-host"), Some("dash.example"));
}

/// An answer that is encoded on its way has a framed end: a closed connection could as well be a failure.
#[tokio::test]
async fn an_encoded_answer_says_where_it_ends() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |_| page("text ".repeat(2_000)));
    let gateway = gateway(&origin, r#"cache = "off""#).await;
    let request =
        format!("GET {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept-Encoding: gzip\r\n\r\n");
    let raw = raw_exchange(gateway.address(), request.as_bytes()).await;
    assert!(raw.head.contains("content-encoding: gzip"), "{raw:?}");
    assert!(raw.head.contains("transfer-encoding: chunked"), "{}", raw.head);
}

fn part(range: &str, body: &'static str) -> Answer {
    page(body)
        .status(206)
        .header("content-range", range)
        .header("etag", "\"a\"")
        .header("cache-control", "max-age=60")
}

async fn get_range(gateway: &Gateway, range: &str) -> Reply {
    send(gateway.request("GET", PATH).header("range", range)).await
}

/// Parts from before and after a purge make no whole.
#[tokio::test]
async fn what_was_purged_is_no_part_of_anything() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| match seen.header("range") {
        Some("bytes=0-3") => part("bytes 0-3/8", "old,"),
        Some("bytes=4-7") => part("bytes 4-7/8", "new."),
        _ => page("new,new.").header("cache-control", "max-age=60"),
    });
    let gateway = gateway(&origin, FOLLOW).await;
    assert_eq!(get_range(&gateway, "bytes=0-3").await.status, 206);
    let purge =
        gateway.client().post(gateway.admin_url("/api/purge")).json(&json!({ "url": gateway.url(PATH) }));
    send(purge).await.ok();
    assert_eq!(get_range(&gateway, "bytes=4-7").await.status, 206);
    assert_eq!(&gateway.get(PATH).await.ok().body[..], b"new,new.");
}

/// Parts are put together up to the size that is kept.
#[tokio::test]
async fn parts_grow_no_larger_than_what_is_kept() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| match seen.header("range") {
        Some("bytes=0-3") => part("bytes 0-3/8", "one,"),
        Some("bytes=4-7") => part("bytes 4-7/8", "two."),
        _ => page("whole"),
    });
    let gateway = gateway(&origin, r#"cache = { follow = "origin", max_size = "6B" }"#).await;
    for range in ["bytes=0-3", "bytes=4-7"] {
        assert_eq!(get_range(&gateway, range).await.status, 206);
    }
    assert_eq!(&gateway.get(PATH).await.ok().body[..], b"whole");
}

/// A part that says it is all, and isn't, doesn't become all.
#[tokio::test]
async fn a_part_cut_short_is_no_whole() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| match seen.header("range") {
        Some(_) => part("bytes 0-7/8", "shor"),
        None => page("whole.").header("cache-control", "max-age=60"),
    });
    let gateway = gateway(&origin, FOLLOW).await;
    for _ in 0..2 {
        assert_eq!(get_range(&gateway, "bytes=0-").await.header("content-range"), "bytes 0-7/8");
    }
    assert_eq!(&gateway.get(PATH).await.ok().body[..], b"whole.");
}

/// Nobody asked the origin of a fill to switch protocols.
#[tokio::test]
async fn no_client_is_told_to_switch() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    let origin = RawOrigin::start(switch, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage").await;
    origin.release();
    let gateway =
        gateway::GatewayBuilder::new(&origin.url()).origin("retries = 0").route("/*", FOLLOW).start().await;
    let mut client = Transfer::ask(gateway.address(), PATH).await;
    assert_ne!(client.head().await.status, 101);
}

/// An answer whose origin calls it good is not encoded again each time.
#[tokio::test]
async fn what_is_validated_keeps_its_codings() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| {
        let answer = match seen.header("if-none-match") {
            Some(_) => page("").status(304),
            None => page("text ".repeat(2_000)),
        };
        answer.header("cache-control", "max-age=1").header("etag", "\"a\"")
    });
    let gateway = gateway(&origin, FOLLOW).await;
    let made = || async { gateway.metrics().await.value("tidegate_encoding_duration_seconds_count", &[]) };
    let ask = || send(gateway.request("GET", PATH).header("accept-encoding", "gzip"));
    until("it is encoded", SOON, || async { ask().await.ok().header("content-encoding") == "gzip" }).await;
    let (before, asked) = (made().await, origin.count(PATH));
    until("it was validated", SOON, || async {
        ask().await.ok();
        origin.count(PATH) > asked
    })
    .await;
    until("it is a hit", SOON, || async { ask().await.is_hit() }).await;
    let hit = ask().await.ok();
    assert_eq!(hit.header("content-encoding"), "gzip", "{hit:?}");
    assert!(made().await <= before, "{before}, then {}", made().await);
}
