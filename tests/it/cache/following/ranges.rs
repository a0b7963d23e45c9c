//! Parts: of what is stored, of what isn't, put together only where they belong together, and never a failed range in
//! the place of the whole.

use crate::{
    cache::following::{fresh, gateway, stale, with, MINUTE},
    support::*,
};
use std::sync::{
    atomic::{AtomicBool, Ordering},
    Arc,
};

const TEXT: &str = "0123456789";

fn digits(origin: &TestOrigin, path: &str) {
    origin.on(path, |_| {
        with(TEXT, &[MINUTE, ("etag", "\"v1\""), ("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT")])
    });
}

/// The bounds that a request asks for, as `bytes=2-4`.
fn asked(seen: &Seen) -> Option<(usize, usize)> {
    let (first, last) = seen.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// An origin's answer to a range: this part of `whole`.
fn part(whole: &[u8], (first, last): (usize, usize), tag: &str) -> Answer {
    let content_range = format!("bytes {first}-{last}/{}", whole.len());
    let answer = Answer::new("application/octet-stream", whole[first..=last].to_vec()).status(206);
    answer.header("content-range", &content_range).header("etag", tag).header(MINUTE.0, MINUTE.1)
}

/// Answers ranges of `TEXT` with this tag, and the whole likewise.
fn in_parts(origin: &TestOrigin, path: &str, tag: impl Fn() -> &'static str + Send + Sync + 'static) {
    origin.on(path, move |seen| match asked(seen) {
        Some(bounds) => part(TEXT.as_bytes(), bounds, tag()),
        None => with(TEXT, &[MINUTE, ("etag", tag())]),
    });
}

async fn range(gateway: &Gateway, path: &str, range: &str) -> Reply {
    gateway.get_with(path, &[("range", range)]).await
}

#[tokio::test]
async fn parts_of_a_stored_answer() {
    let origin = TestOrigin::start().await;
    digits(&origin, "/x");
    let gateway = gateway(&origin).start().await;
    gateway.get("/x").await.ok();
    for (asked, gets, said) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=0-99", TEXT, "bytes 0-9/10"),
        ("bytes=-99", TEXT, "bytes 0-9/10"),
        ("bytes=9-9", "9", "bytes 9-9/10"),
    ] {
        let reply = range(&gateway, "/x", asked).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (206, gets), "{asked}: {reply:?}");
        assert_eq!((reply.header("content-range"), reply.header("etag")), (said, "\"v1\""), "{asked}");
        assert!(reply.is_hit(), "{reply:?}");
    }
    for asked in ["bytes=4-2", "bytes=x", "lines=0-1", "bytes="] {
        assert_eq!(range(&gateway, "/x", asked).await.ok().text(), TEXT, "{asked}");
    }
    for asked in ["bytes=10-", "bytes=20-30", "bytes=-0"] {
        let reply = range(&gateway, "/x", asked).await;
        assert_eq!((reply.status.as_u16(), reply.header("content-range")), (416, "bytes */10"), "{asked}");
    }
    let whole = gateway.get("/x").await.ok();
    assert!(whole.is_hit() && whole.text() == TEXT, "{whole:?}");
    assert_eq!(origin.count("/x"), 1);
}

/// The parts of a `multipart/byteranges`: the `Content-Range` and the bytes of each.
fn parts_of(reply: &Reply) -> Vec<(String, String)> {
    let boundary = reply.header("content-type").strip_prefix("multipart/byteranges; boundary=");
    let boundary = boundary.unwrap_or_else(|| panic!("{reply:?}")).trim_matches('"');
    let body = format!("\r\n{}", reply.text());
    let end = format!("\r\n--{boundary}--");
    let (inner, rest) = body.split_once(&end).expect("an end");
    assert_eq!(rest.trim(), "", "nothing follows");
    let begin = format!("\r\n--{boundary}\r\n");
    let parts = inner.split(&begin).skip(1).map(|part| {
        let (head, bytes) = part.split_once("\r\n\r\n").expect("a head");
        let said = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-range").then(|| value.trim().to_owned())
        });
        assert!(head.to_lowercase().contains("content-type: text/plain"), "{head}");
        (said.expect("a content-range"), bytes.to_owned())
    });
    parts.collect()
}

#[tokio::test]
async fn several_parts_at_once() {
    let origin = TestOrigin::start().await;
    digits(&origin, "/x");
    let gateway = gateway(&origin).start().await;
    gateway.get("/x").await.ok();
    let reply = range(&gateway, "/x", "bytes=0-1,5-6, -1").await;
    assert_eq!(reply.status, 206);
    assert_eq!(reply.header("content-length"), reply.body.len().to_string());
    assert!(!reply.headers.contains_key("content-range"), "{reply:?}");
    let expected = [("bytes 0-1/10", "01"), ("bytes 5-6/10", "56"), ("bytes 9-9/10", "9")];
    assert_eq!(parts_of(&reply), expected.map(|(said, bytes)| (said.to_owned(), bytes.to_owned())));
    // A thousand parts would be longer than the whole.
    let many = (0..1000).map(|_| "0-0,2-2").collect::<Vec<_>>().join(",");
    let reply = range(&gateway, "/x", &format!("bytes={many}")).await;
    assert!(reply.body.len() < 1000, "{} bytes of ten", reply.body.len());
}

#[tokio::test]
async fn if_range_tells_which_whole_is_meant() {
    let origin = TestOrigin::start().await;
    digits(&origin, "/x");
    let gateway = gateway(&origin).start().await;
    gateway.get("/x").await.ok();
    for (condition, status) in [
        ("\"v1\"", 206),
        ("\"v2\"", 200),
        ("W/\"v1\"", 200),
        ("Mon, 01 Jan 2024 00:00:00 GMT", 206),
        ("Tue, 02 Jan 2024 00:00:00 GMT", 200),
        ("nonsense", 200),
    ] {
        let reply = gateway.get_with("/x", &[("range", "bytes=0-1"), ("if-range", condition)]).await;
        assert_eq!(reply.status.as_u16(), status, "{condition}: {reply:?}");
        assert_eq!(reply.text(), if status == 206 { "01" } else { TEXT }, "{condition}");
    }
    assert_eq!(origin.count("/x"), 1);
}

#[tokio::test]
async fn a_part_of_what_goes_out_encoded_is_a_part_of_the_plain_bytes() {
    let origin = TestOrigin::start().await;
    let page = "a line of the page, \n".repeat(300);
    let text = page.clone();
    origin.on("/x", move |_| with(&text, &[MINUTE, ("etag", "\"v1\"")]));
    let gateway = gateway(&origin).start().await;
    until("the encoding is there", SOON, || async {
        let reply = gateway.get_with("/x", &[("accept-encoding", "gzip")]).await.ok();
        reply.header("content-encoding") == "gzip"
    })
    .await;
    let fields = [("accept-encoding", "gzip"), ("range", "bytes=5-9")];
    let reply = gateway.get_with("/x", &fields).await;
    assert_eq!((reply.status.as_u16(), reply.text()), (206, &page[5..10]), "{reply:?}");
    assert_eq!((reply.header("content-encoding"), reply.header("etag")), ("", "\"v1\""));
    // The tag of the coded form is weak: it lets nobody put parts together.
    let reply = gateway.get_with("/x", &[fields[0], fields[1], ("if-range", "W/\"v1\"")]).await;
    assert_eq!(reply.status, 200, "{:?}", reply.headers);
}

#[tokio::test]
async fn a_part_of_a_large_file_costs_no_more_than_the_part() {
    let origin = TestOrigin::start().await;
    let whole = Arc::new(noise(50_000_000, 7));
    let file = whole.clone();
    origin.on("/file", move |seen| part(&file, asked(seen).expect("a range and no more"), "\"v1\""));
    let gateway = gateway(&origin).start().await;
    let (idle, _) = gateway.memory();
    for first in [100, 25_000_000, 49_999_000] {
        let reply = range(&gateway, "/file", &format!("bytes={first}-{}", first + 99)).await;
        assert_eq!(reply.status, 206);
        assert_eq!(&reply.body[..], &whole[first..first + 100]);
    }
    assert_eq!(origin.count("/file"), 3);
    let asked: Vec<_> =
        origin.seen("/file").iter().map(|seen| seen.header("range").unwrap().to_owned()).collect();
    assert_eq!(asked, ["bytes=100-199", "bytes=25000000-25000099", "bytes=49999000-49999099"]);
    assert!(gateway.memory().1.saturating_sub(idle) < 10_000_000, "{} bytes more", gateway.memory().1 - idle);
}

#[tokio::test]
async fn a_part_that_was_fetched_is_kept_as_a_part() {
    let origin = TestOrigin::start().await;
    in_parts(&origin, "/x", || "\"v1\"");
    let gateway = gateway(&origin).start().await;
    let first = range(&gateway, "/x", "bytes=2-6").await;
    assert_eq!((first.status.as_u16(), first.text()), (206, "23456"));
    for (asked, gets) in [("bytes=2-6", "23456"), ("bytes=3-4", "34")] {
        let reply = range(&gateway, "/x", asked).await;
        assert_eq!(
            (reply.status.as_u16(), reply.text(), reply.is_hit()),
            (206, gets, true),
            "{asked}: {reply:?}"
        );
    }
    assert_eq!(origin.count("/x"), 1);
    let whole = gateway.get("/x").await;
    assert_eq!((whole.status.as_u16(), whole.text()), (200, TEXT), "a part is not the whole: {whole:?}");
    assert_eq!(origin.count("/x"), 2);
}

#[tokio::test]
async fn parts_of_one_whole_are_put_together() {
    let origin = TestOrigin::start().await;
    // The one digest is of what came, the other of the whole.
    origin.on("/x", |seen| {
        let answer = part(TEXT.as_bytes(), asked(seen).unwrap(), "\"v1\"");
        answer.header("content-digest", "sha-256=:part:").header("repr-digest", "sha-256=:whole:")
    });
    let gateway = gateway(&origin).start().await;
    for (bounds, text) in [("bytes=0-5", "012345"), ("bytes=4-9", "456789")] {
        let reply = range(&gateway, "/x", bounds).await;
        assert_eq!((reply.text(), reply.header("content-digest")), (text, "sha-256=:part:"));
    }
    let whole = gateway.get("/x").await.ok();
    assert!(whole.is_hit() && whole.text() == TEXT, "{whole:?}");
    assert!(!whole.headers.contains_key("content-range"), "{whole:?}");
    assert_eq!(whole.header("content-length"), "10");
    assert_eq!((whole.header("content-digest"), whole.header("repr-digest")), ("", "sha-256=:whole:"));
    assert_eq!(origin.count("/x"), 2);
}

/// The file changes between two ranges: nobody gets one half of each.
#[tokio::test]
async fn parts_of_different_wholes_are_never_mixed() {
    for (old, new) in [("\"v1\"", "\"v2\""), ("W/\"v1\"", "W/\"v1\"")] {
        let origin = TestOrigin::start().await;
        let changed = Arc::new(AtomicBool::new(false));
        let now = changed.clone();
        origin.on("/x", move |seen| {
            let (text, tag) = if now.load(Ordering::SeqCst) { ("abcdefghij", new) } else { (TEXT, old) };
            match asked(seen) {
                Some(bounds) => part(text.as_bytes(), bounds, tag),
                None => with(text, &[MINUTE, ("etag", tag)]),
            }
        });
        let gateway = gateway(&origin).start().await;
        range(&gateway, "/x", "bytes=0-4").await;
        changed.store(true, Ordering::SeqCst);
        range(&gateway, "/x", "bytes=5-9").await;
        let crossing = range(&gateway, "/x", "bytes=3-7").await;
        assert_eq!((crossing.status.as_u16(), crossing.text()), (206, "defgh"), "{old} {new}");
        assert_eq!(gateway.get("/x").await.ok().text(), "abcdefghij", "{old} {new}");
    }
}

/// A range beyond the end is answered 416, to the one who asked: an attacker must not take the file off the net.
#[tokio::test]
async fn a_range_that_failed_is_nobody_elses_answer() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| match seen.header("range") {
        Some(_) => with("", &[MINUTE, ("content-range", "bytes */10")]).status(416),
        None => fresh(TEXT),
    });
    let gateway = gateway(&origin).start().await;
    assert_eq!(range(&gateway, "/x", "bytes=100-").await.status, 416);
    let reply = gateway.get("/x").await;
    assert_eq!((reply.status.as_u16(), reply.text()), (200, TEXT), "the 416 was kept: {reply:?}");
}

/// The same with a condition that failed, which reaches the origin beside a range.
#[tokio::test]
async fn a_condition_that_failed_is_nobody_elses_answer() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| match seen.header("if-match") {
        Some(_) => with("", &[MINUTE]).status(412),
        None => fresh(TEXT),
    });
    let gateway = gateway(&origin).start().await;
    let fields = [("if-match", "\"other\""), ("range", "bytes=0-1")];
    assert_eq!(gateway.get_with("/x", &fields).await.status, 412);
    let reply = gateway.get("/x").await;
    assert_eq!((reply.status.as_u16(), reply.text()), (200, TEXT), "the 412 was kept: {reply:?}");
}

/// Some origins say how long the whole is and send less.
#[tokio::test]
async fn a_part_that_is_shorter_than_it_says_is_not_the_whole() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| match seen.header("range") {
        Some(_) => part(TEXT.as_bytes(), (0, 4), "\"v1\"").header("x-lies", "1").status(206),
        None => fresh(TEXT),
    });
    origin.on("/lies", |seen| match seen.header("range") {
        Some(_) => {
            with("01234", &[MINUTE, ("etag", "\"v1\""), ("content-range", "bytes 0-9/10")]).status(206)
        }
        None => fresh(TEXT),
    });
    let gateway = gateway(&origin).start().await;
    for path in ["/x", "/lies"] {
        range(&gateway, path, "bytes=0-9").await;
        assert_eq!(gateway.get(path).await.ok().text(), TEXT, "{path}");
    }
}

#[tokio::test]
async fn several_parts_that_nobody_has_come_from_the_origin() {
    let origin = TestOrigin::start().await;
    const PARTS: &str = "--b\r\nContent-Range: bytes 0-1/10\r\n\r\n01\r\n--b\r\nContent-Range: bytes 5-6/10\r\n\r\n56\r\n--b--\r\n";
    origin.on("/x", |seen| match seen.header("range") {
        Some(_) => {
            let kind = "multipart/byteranges; boundary=b";
            Answer::new(kind, PARTS).status(206).header(MINUTE.0, MINUTE.1).header("etag", "\"v1\"")
        }
        None => fresh(TEXT),
    });
    let gateway = gateway(&origin).start().await;
    for _ in 0..2 {
        let reply = range(&gateway, "/x", "bytes=0-1,5-6").await;
        assert_eq!((reply.status.as_u16(), reply.text()), (206, PARTS), "{reply:?}");
    }
    assert_eq!(gateway.get("/x").await.ok().text(), TEXT);
}

/// A part of something else says that the whole is no longer what there is; in another coding it is not said of this.
#[tokio::test]
async fn a_part_with_another_tag_ends_the_whole() {
    type Fields = &'static [(&'static str, &'static str)];
    // What the origin says with the part, what the client says, and the end.
    let cases: [(Fields, Fields, bool); 7] = [
        (&[MINUTE, ("etag", "\"v2\"")], &[], true),
        (&[("cache-control", "no-store"), ("etag", "\"v2\"")], &[], true),
        (&[MINUTE, ("etag", "\"v1\"")], &[], false),
        (&[MINUTE, ("etag", "W/\"v1\"")], &[], false),
        (&[MINUTE, ("etag", "\"v2\""), ("content-encoding", "gzip")], &[], false),
        (&[MINUTE, ("etag", "\"v2\"")], &[("authorization", "Basic YW5u")], false),
        (&[MINUTE], &[], false),
    ];
    for (says, shown, ends) in cases {
        let origin = TestOrigin::start().await;
        let gateway = gateway(&origin).start().await;
        origin.on("/x", move |seen| match (seen.number, seen.header("range")) {
            (1, _) => stale(TEXT, ", stale-if-error=600").header("etag", "\"v1\""),
            (_, Some(_)) => with("01", says).status(206).header("content-range", "bytes 0-1/10"),
            (_, None) => with("down", &[]).status(503),
        });
        gateway.get("/x").await.ok();
        let part = gateway.get_with("/x", &[shown, &[("range", "bytes=0-1")]].concat()).await;
        assert_eq!(part.status, 206, "{says:?}: {part:?}");
        let reply = gateway.get("/x").await;
        assert_eq!(reply.text() == TEXT, !ends, "{says:?}: {reply:?}");
    }
}

/// A 206 to a request without a range goes to the one who asked, and is not called stored.
#[tokio::test]
async fn a_part_that_nobody_asked_for_is_not_stored() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |_| part(TEXT.as_bytes(), (0, 1), "\"v1\""));
    let gateway = gateway(&origin).start().await;
    for count in 1..=2 {
        let reply = gateway.get("/x").await;
        assert_eq!((reply.status.as_u16(), reply.text()), (206, "01"), "{reply:?}");
        assert!(!reply.cache_status().contains("stored"), "{reply:?}");
        assert_eq!(origin.count("/x"), count);
    }
    assert!(!range(&gateway, "/x", "bytes=0-0").await.is_hit());
}

type Fields = &'static [(&'static str, &'static str)];

/// RFC 9111, 4.3.5, for a part.
#[tokio::test]
async fn a_head_of_another_whole_ends_the_parts() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).start().await;
    let cases: [(&str, Fields, &str, bool); 5] = [
        ("/same", &[MINUTE, ("etag", "\"v1\"")], "0123456789", false),
        ("/tag", &[MINUTE, ("etag", "\"v2\"")], "0123456789", true),
        ("/private", &[("cache-control", "private"), ("etag", "\"v2\"")], "0123456789", true),
        ("/no-store", &[("cache-control", "no-store"), ("etag", "\"v1\"")], "0123456789", true),
        ("/length", &[MINUTE], "012", true),
    ];
    for (path, fields, body, ends) in cases {
        origin.on(path, |seen| match seen.method.as_str() {
            "GET" => {
                with("01234", &[MINUTE, ("etag", "\"v1\""), ("content-range", "bytes 0-4/10")]).status(206)
            }
            _ => with("", &[]).status(500),
        });
        let range = [("range", "bytes=0-4")];
        assert_eq!(gateway.get_with(path, &range).await.status, 206, "{path}");
        assert!(gateway.get_with(path, &range).await.is_hit(), "{path}");
        let (fields, body) =
            (fields.iter().map(|f| (f.0.to_owned(), f.1.to_owned())).collect::<Vec<_>>(), body.to_owned());
        origin.on(path, move |_| {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
            with(&body, &fields)
        });
        gateway.send_with("HEAD", path, &[]).await;
        let reply = gateway.get_with(path, &range).await;
        assert_eq!(reply.is_hit(), !ends, "{path}: {reply:?}");
    }
}
