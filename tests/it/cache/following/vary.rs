//! Variants: which requests share an answer, in which coding each client gets it, and how many are kept.

use crate::{
    cache::following::{fresh, gateway, with, MINUTE},
    support::{client::client, *},
};
use std::io::Write;

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// A page of some kilobytes; encoded by the origin for who takes gzip.
fn page() -> String {
    "a line of the page, \n".repeat(300)
}

fn coded_by_origin(origin: &TestOrigin, path: &str, control: &'static str) {
    origin.on(path, move |seen| {
        let answer = |body: Vec<u8>| {
            Answer::new("text/html", body).header("cache-control", control).header("vary", "Accept-Encoding")
        };
        match seen.header("accept-encoding").is_some_and(|accepted| accepted.contains("gzip")) {
            true => answer(gzip(&page())).header("content-encoding", "gzip").header("etag", "\"v1-gzip\""),
            false => answer(page().into_bytes()).header("etag", "\"v1\""),
        }
    });
}

#[tokio::test]
async fn languages_that_are_asked_for_alike_share_an_answer() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| {
        let language = seen.header("accept-language").unwrap_or("en").get(..2).unwrap().to_lowercase();
        with(&language, &[MINUTE, ("vary", "Accept-Language"), ("content-language", &language)])
    });
    let gateway = gateway(&origin).start().await;
    for asked in ["de,en;q=0.5", "de, en; q=0.5", "DE;q=1.0,en;q=0.500", "en;q=0.5,de"] {
        let reply = gateway.get_with("/x", &[("accept-language", asked)]).await.ok();
        assert_eq!(reply.text(), "de", "{asked}");
    }
    assert_eq!(origin.count("/x"), 1);
    for (asked, gets) in [("fr", "fr"), ("en,de;q=0.5", "en"), ("de,en;q=0.5", "de"), ("fr;q=0.9", "fr")] {
        let reply = gateway.get_with("/x", &[("accept-language", asked)]).await.ok();
        assert_eq!(reply.text(), gets, "{asked}");
    }
    assert_eq!(gateway.get("/x").await.ok().text(), "en");
}

#[tokio::test]
async fn each_client_gets_a_coding_that_it_takes() {
    let origin = TestOrigin::start().await;
    coded_by_origin(&origin, "/x", "max-age=60");
    let gateway = gateway(&origin).start().await;
    let first = gateway.get_with("/x", &[("accept-encoding", "gzip")]).await.ok();
    assert_eq!((first.header("content-encoding"), first.header("etag")), ("gzip", "\"v1-gzip\""));
    assert_eq!(first.decoded(), page().as_bytes());

    for accepted in
        [Some("gzip"), Some("gzip, br"), Some("br"), Some("identity"), Some("gzip;q=0"), Some(""), None]
    {
        let fields: Vec<_> = accepted.map(|accepted| ("accept-encoding", accepted)).into_iter().collect();
        let reply = gateway.get_with("/x", &fields).await.ok();
        assert_eq!(reply.decoded(), page().as_bytes(), "{accepted:?}: {:?}", reply.headers);
        let (coding, etag) = (reply.header("content-encoding"), reply.header("etag"));
        let takes = accepted.is_some_and(|accepted| accepted.contains(coding) && !accepted.contains("q=0"));
        assert!(coding.is_empty() || takes, "{accepted:?} got {coding:?}");
        assert!(reply.all("vary").to_lowercase().contains("accept-encoding"), "{:?}", reply.headers);
        // The strong tag names the origin's bytes and no others.
        let as_sent = (coding, etag) == ("gzip", "\"v1-gzip\"") || (coding, etag) == ("", "\"v1\"");
        assert!(as_sent || etag.starts_with("W/"), "{accepted:?}: {etag} of {coding:?}");

        let conditional = [&fields[..], &[("if-none-match", etag)]].concat();
        let again = gateway.get_with("/x", &conditional).await;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0), "{accepted:?}: {again:?}");
        assert_eq!(again.header("etag"), etag, "{accepted:?}");
    }
    assert!(origin.count("/x") <= 2, "{:?}", origin.seen("/x"));
}

/// A request that joins a streaming answer, in a coding that was chosen for another one, gets no coding that it
/// does not accept.
#[tokio::test]
async fn who_joins_an_answer_gets_a_coding_that_they_take() {
    let origin = TestOrigin::start().await;
    let coded = gzip(&"a line of the page, \n".repeat(3000));
    let (begin, rest) = (coded[..20].to_vec(), coded[20..].to_vec());
    let answer = Answer::new("text/html", begin).then_held(rest);
    let answer = answer.header("content-encoding", "gzip").header("cache-control", "max-age=60");
    let answer = answer.header("vary", "Accept-Encoding").header("etag", "\"v1\"");
    origin.on("/x", move |_| answer.clone());
    let gateway = gateway(&origin).start().await;
    origin.hold();
    let mut leader = Transfer::ask_with(gateway.address(), "/x", &[("Accept-Encoding", "gzip")]).await;
    assert_eq!(leader.final_head().await.header("content-encoding"), Some("gzip"));
    for accepted in [&[][..], &[("Accept-Encoding", "br")], &[("Accept-Encoding", "identity")]] {
        let mut follower = Transfer::ask_with(gateway.address(), "/x", accepted).await;
        let head = follower.final_head().await;
        assert_eq!(head.header("content-encoding").filter(|coding| *coding == "gzip"), None, "{accepted:?}");
        assert!(head.header("etag").is_none_or(|etag| etag.starts_with("w/")), "{accepted:?}: {}", head.text);
    }
    origin.release();
    leader.rest().await;
    assert_eq!(origin.count("/x"), 1);
}

#[tokio::test]
async fn what_is_stored_plain_goes_out_encoded() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |_| with(&page(), &[MINUTE, ("etag", "\"v1\"")]));
    let gateway = gateway(&origin).start().await;
    for coding in ["gzip", "br", "zstd"] {
        let reply = eventually("the encoding is there", SOON, || async {
            let reply = gateway.get_with("/x", &[("accept-encoding", coding)]).await.ok();
            (reply.is_hit() && reply.header("content-encoding") == coding).then_some(reply)
        })
        .await;
        assert_eq!((reply.decoded(), reply.header("etag")), (page().into_bytes(), "W/\"v1\""));
        assert!(reply.body.len() < page().len() / 2);
        assert!(reply.all("vary").contains("Accept-Encoding"), "{reply:?}");
        let fields = [("accept-encoding", coding), ("if-none-match", "\"v1\"")];
        assert_eq!(gateway.get_with("/x", &fields).await.status, 304);
    }
    let plain = gateway.get("/x").await.ok();
    assert_eq!((plain.text(), plain.header("etag")), (&*page(), "\"v1\""));
    assert_eq!(origin.count("/x"), 1);
}

#[tokio::test]
async fn no_transform_leaves_the_bytes_alone() {
    let origin = TestOrigin::start().await;
    for path in ["/x", "/off/x"] {
        origin.on(path, |_| {
            with(&page(), &[("cache-control", "max-age=60, no-transform"), ("etag", "\"v1\"")])
        });
    }
    coded_by_origin(&origin, "/coded", "max-age=60, no-transform");
    let gateway = gateway(&origin).start().await;
    for path in ["/x", "/x", "/off/x"] {
        let reply = gateway.get_with(path, &[("accept-encoding", "gzip, br")]).await.ok();
        assert_eq!((reply.text(), reply.header("etag")), (&*page(), "\"v1\""), "{path}");
    }
    for _ in 0..2 {
        let coded = gateway.get_with("/coded", &[("accept-encoding", "gzip")]).await.ok();
        assert_eq!((&coded.body[..], coded.header("etag")), (&gzip(&page())[..], "\"v1-gzip\""));
        let plain = gateway.get_with("/coded", &[("accept-encoding", "identity")]).await.ok();
        assert_eq!((plain.text(), plain.header("etag")), (&*page(), "\"v1\""));
    }
}

/// As many as the route says, of which those go that are used least.
#[tokio::test]
async fn many_variants_are_each_right_and_not_all_kept() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| with(seen.header("x-v").unwrap_or("none"), &[MINUTE, ("vary", "X-V")]));
    let eight = r#"cache = { follow = "origin", variants = 8 }"#;
    let gateway = Gateway::with(&origin).route("/*", eight).start().await;
    let ask = |n: usize| {
        let gateway = &gateway;
        async move {
            let value = format!("v{n}");
            let reply = gateway.get_with("/x", &[("x-v", &value)]).await.ok();
            assert_eq!(reply.text(), value);
            reply.is_hit()
        }
    };
    for n in 0..30 {
        assert!(!ask(n).await);
        assert!(ask(n).await, "the newest is kept");
        if n > 0 {
            assert!(ask(0).await, "what is used stays: {n}");
        }
    }
    let metrics = gateway.metrics().await;
    assert!(metrics.value("tidegate_memory_entries", &[]) <= 1.0, "one resource is one entry");
    assert!((metrics.value("tidegate_variant_evictions_total", &[]) - 22.0).abs() < f64::EPSILON);
    // One more in turn than are kept.
    let mut hits = 0;
    for n in (100..109).cycle().take(180) {
        hits += usize::from(ask(n).await);
    }
    assert!(hits > 60, "{hits} of 180");
}

const OF_A: (&str, &str) = ("origin", "https://a.example");
const OF_B: (&str, &str) = ("origin", "https://b.example");

/// A storage that speaks of origins only to who names one; `control` of its answers.
fn storage(origin: &TestOrigin, path: &str, control: fn(&Seen) -> &'static str) {
    origin.on(path, move |seen| {
        let answer =
            with("the object", &[("cache-control", control(seen)), ("age", "100"), ("etag", "\"v1\"")]);
        match seen.header("origin") {
            Some(page) => answer.header("vary", "Origin").header("access-control-allow-origin", page),
            None => answer,
        }
    });
}

async fn permits(gateway: &Gateway, path: &str, page: Option<(&str, &str)>) -> String {
    let reply = gateway.get_with(path, page.as_slice()).await.ok();
    assert_eq!(reply.text(), "the object");
    reply.header("access-control-allow-origin").to_owned()
}

/// RFC 9111, 4.1
#[tokio::test]
async fn an_answer_without_vary_is_not_for_whom_another_names() {
    let origin = TestOrigin::start().await;
    storage(&origin, "/x", |_| "max-age=600");
    let gateway = gateway(&origin).start().await;
    for turn in 0..3 {
        for (page, permitted) in [(Some(OF_A), OF_A.1), (None, ""), (Some(OF_B), OF_B.1)] {
            assert_eq!(permits(&gateway, "/x", page).await, permitted, "{turn}");
        }
    }
    assert_eq!(origin.count("/x"), 3, "and each is kept");
}

/// The same where `Vary` comes with a later 200, or with a 304, and what is stored may be served stale.
#[tokio::test]
async fn a_later_vary_counts_for_what_is_stored_already() {
    for (control, validates) in [
        ("max-age=60, stale-while-revalidate=600", false),
        ("max-age=60, stale-if-error=600", false),
        ("max-age=60, stale-while-revalidate=600", true),
        ("max-age=60, stale-if-error=600", true),
    ] {
        let origin = TestOrigin::start().await;
        origin.on("/x", move |seen| {
            let fields = [("cache-control", control), ("age", "100"), ("etag", "\"v1\"")];
            let answer = match seen.header("if-none-match") {
                Some(_) if validates => with("", &fields).status(304),
                _ => with("the object", &fields),
            };
            match seen.header("origin") {
                Some("https://b.example") => with("down", &[]).status(503),
                Some(page) => answer.header("vary", "Origin").header("access-control-allow-origin", page),
                None => answer,
            }
        });
        let gateway = gateway(&origin).start().await;
        assert_eq!(permits(&gateway, "/x", None).await, "");
        // The first one may get what is stale: nobody knows yet.
        gateway.get_with("/x", &[OF_A]).await.ok();
        until("the right one is there", SOON, || async {
            permits(&gateway, "/x", Some(OF_A)).await == OF_A.1
        })
        .await;
        assert_eq!(permits(&gateway, "/x", None).await, "", "{control}");
        assert_eq!(permits(&gateway, "/x", Some(OF_A)).await, OF_A.1, "{control}");
        let reply = gateway.get_with("/x", &[OF_B]).await;
        assert_eq!(reply.status, 503, "nothing that is stored is for this page: {control}: {reply:?}");
    }
}

/// Another node, which has only Redis to ask, knows it as well.
#[tokio::test]
async fn another_node_knows_by_which_fields_answers_are_told_apart() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    storage(&origin, "/x", |_| "max-age=600");
    let tier = r#"cache = { follow = "origin", redis = "1MiB" }"#;
    let config = Gateway::with(&origin).redis(&redis.url()).route("/*", tier);
    let host = ("host", "a.example");
    let (one, two) = (config.start().await, config.start().await);
    one.get_with("/x", &[host, OF_A]).await.ok();
    until("it is in redis", SOON, || async { redis.keys().await.len() >= 3 }).await;
    two.get_with("/x", &[host]).await.ok();
    let three = config.start().await;
    let reply = three.get_with("/x", &[host, OF_A]).await.ok();
    assert_eq!(reply.header("access-control-allow-origin"), OF_A.1, "{reply:?}");
    let reply = three.get_with("/x", &[host, OF_B]).await.ok();
    assert_eq!(reply.header("access-control-allow-origin"), OF_B.1, "{reply:?}");
}

#[tokio::test]
async fn what_varies_by_everything_is_never_kept() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| fresh(&seen.number.to_string()).header("vary", "*"));
    let gateway = gateway(&origin).start().await;
    for number in 1..=3 {
        let reply = send(client().get(gateway.url("/x"))).await.ok();
        assert_eq!(reply.text(), number.to_string());
    }
}
