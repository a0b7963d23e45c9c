//! Variants: which requests share an answer, in which coding each client gets it, and how many are kept.

use crate::{
    fresh, gateway,
    support::{client::client, *},
    with, MINUTE,
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

/// Who joins an answer that is still arriving, in a coding that was chosen for somebody else, gets none that they
/// did not ask for.
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

#[tokio::test]
async fn many_variants_are_each_right_and_not_all_kept() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| with(seen.header("x-v").unwrap_or("none"), &[MINUTE, ("vary", "X-V")]));
    let gateway = gateway(&origin).start().await;
    for n in 0..50 {
        let value = format!("v{n}");
        assert_eq!(gateway.get_with("/x", &[("x-v", &value)]).await.ok().text(), value);
    }
    assert_eq!(origin.count("/x"), 50);
    assert!(gateway.get_with("/x", &[("x-v", "v49")]).await.ok().is_hit(), "the newest is kept");
    let oldest = gateway.get_with("/x", &[("x-v", "v0")]).await.ok();
    assert!(!oldest.is_hit() && oldest.text() == "v0", "the oldest went: {oldest:?}");
    let entries = gateway.metrics().await.value("tidegate_memory_entries", &[]);
    assert!(entries <= 1.0, "one resource is one entry: {entries}");
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
