//! Answers of every kind: statuses, lifetimes, old clients, requests with content, and what `Cache-Status` says.

use crate::{
    cache::following::{fresh, gateway, says, stale, with, FOLLOW, HEARS, MINUTE},
    support::*,
};

#[tokio::test]
async fn statuses_other_than_200_are_kept_where_they_say_for_how_long() {
    let origin = TestOrigin::start().await;
    for (path, status) in
        [("/204", 204), ("/301", 301), ("/302", 302), ("/404", 404), ("/410", 410), ("/500", 500)]
    {
        let text = if status == 204 { "" } else { "the text" };
        origin.on(path, move |_| with(text, &[MINUTE, ("location", "/there")]).status(status));
    }
    let gateway = gateway(&origin).start().await;
    for (path, status) in
        [("/204", 204), ("/301", 301), ("/302", 302), ("/404", 404), ("/410", 410), ("/500", 500)]
    {
        for turn in 0..2 {
            let reply = gateway.get(path).await;
            assert_eq!((reply.status.as_u16(), reply.header("location")), (status, "/there"));
            assert_eq!(reply.is_hit(), turn == 1, "{path}: {reply:?}");
            // RFC 9110, 8.6; RFC 9112, 6.1
            for name in ["content-length", "transfer-encoding"] {
                assert!(status != 204 || !reply.headers.contains_key(name), "{reply:?}");
            }
        }
        assert_eq!(origin.count(path), 1, "{path}");
    }
}

#[tokio::test]
async fn what_is_over_is_asked_for_again() {
    let origin = TestOrigin::start().await;
    for (path, fields) in [
        ("/expires", &[("expires", "Thu, 01 Jan 1970 00:00:00 GMT")][..]),
        ("/zero", &[("expires", "0"), ("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT")]),
        ("/no-store", &[("cache-control", "no-store, max-age=60")]),
        ("/no-cache", &[("cache-control", "no-cache, max-age=60")]),
        ("/shared", &[("cache-control", "max-age=60, s-maxage=0")]),
        ("/private", &[("cache-control", "private, max-age=60")]),
        ("/cdn", &[("cache-control", "max-age=60"), ("cdn-cache-control", "no-store")]),
        ("/twice", &[("cache-control", "max-age=60"), ("cache-control", "no-store")]),
    ] {
        origin.on(path, move |seen| with(&seen.number.to_string(), fields));
    }
    let gateway = gateway(&origin).start().await;
    for path in ["/expires", "/zero", "/no-store", "/no-cache", "/shared", "/private", "/cdn", "/twice"] {
        let (first, second) = (gateway.get(path).await.ok(), gateway.get(path).await.ok());
        assert!(!second.is_hit() && first.text() != second.text(), "{path}: {second:?}");
    }
}

/// Asks as HTTP/1.0 does: the answer ends with its length or with the connection.
async fn ask_http10(gateway: &Gateway, path: &str, fields: &str) -> Raw {
    raw_exchange(gateway.address(), format!("GET {path} HTTP/1.0\r\nHost: a\r\n{fields}\r\n").as_bytes())
        .await
}

#[tokio::test]
async fn an_old_client_gets_no_chunks() {
    let origin = TestOrigin::start().await;
    let text = "a line of the page, \n".repeat(300);
    for path in ["/x", "/off/x"] {
        let text = text.clone();
        origin.on(path, move |_| fresh(&text).chunked());
    }
    let gateway = gateway(&origin).start().await;
    for path in ["/x", "/x", "/off/x"] {
        let reply = ask_http10(&gateway, path, "").await;
        assert_eq!(reply.status, 200, "{path}");
        assert!(!reply.head.contains("transfer-encoding"), "{path}: {}", reply.head);
        assert!(reply.body == text, "{path}: {} bytes of {}", reply.body.len(), text.len());
    }
}

#[tokio::test]
async fn an_old_client_gets_no_chunks_of_what_is_encoded_on_its_way() {
    let origin = TestOrigin::start().await;
    let text = "a line of the page, \n".repeat(300);
    origin.on("/off/x", move |_| fresh(&text));
    let gateway = gateway(&origin).start().await;
    let reply = ask_http10(&gateway, "/off/x", "Accept-Encoding: gzip\r\n").await;
    assert!(!reply.head.contains("transfer-encoding"), "{}", reply.head);
    assert!(
        reply.body.starts_with("a line") || reply.head.contains("content-encoding: gzip"),
        "{}",
        reply.head
    );
    assert!(!reply.head.contains("keep-alive") || reply.head.contains("content-length"), "{}", reply.head);
}

#[tokio::test]
async fn a_request_with_content_is_between_it_and_the_origin() {
    let origin = TestOrigin::start().await;
    origin.on("/search", |seen| fresh(&format!("found {}", String::from_utf8_lossy(&seen.body))));
    let gateway = gateway(&origin).start().await;
    for wanted in ["a", "b"] {
        let reply = send(gateway.request("GET", "/search").body(wanted)).await.ok();
        assert_eq!(reply.text(), format!("found {wanted}"));
        assert!(!reply.is_hit());
    }
    let chunked = "GET /search HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\nc\r\n0\r\n\r\n";
    assert!(raw_exchange(gateway.address(), chunked.as_bytes()).await.body.contains("found c"));
    assert_eq!(gateway.get("/search").await.ok().text(), "found ");
    assert_eq!(send(gateway.request("GET", "/search").body("d")).await.ok().text(), "found d");
    assert_eq!(origin.count("/search"), 5);
}

/// RFC 9211
#[tokio::test]
async fn cache_status_says_what_happened() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |_| fresh("x"));
    origin.on("/private", |_| with("x", &[("cache-control", "private")]));
    let gateway = gateway(&origin).start().await;
    let miss = gateway.get("/x").await.ok();
    assert!(
        miss.cache_status().starts_with("tidegate;") && says(&miss, "fwd=uri-miss") && says(&miss, "stored")
    );
    let hit = gateway.get("/x").await.ok();
    assert!(says(&hit, "hit") && !hit.cache_status().contains("fwd"), "{}", hit.cache_status());
    let private = gateway.get("/private").await.ok();
    assert!(says(&private, "fwd=uri-miss") && !says(&private, "stored"), "{}", private.cache_status());
    assert!(says(&private, "detail=private"), "{}", private.cache_status());
    let private = gateway.get("/private").await.ok();
    assert!(!private.is_hit() && private.cache_status().contains("fwd="), "{}", private.cache_status());
    let post = gateway.send_with("POST", "/x", &[]).await.ok();
    assert!(says(&post, "fwd=method"), "{}", post.cache_status());
    let off = gateway.get("/off/x").await.ok();
    assert!(says(&off, "fwd=bypass"), "{}", off.cache_status());
}

/// RFC 9211, 2.2: what there was, or who wanted it, is a reason of its own.
#[tokio::test]
async fn cache_status_says_why_the_origin_was_asked() {
    let origin = TestOrigin::start().await;
    origin.on("/varies", |seen| with(seen.header("x-v").unwrap_or("none"), &[MINUTE, ("vary", "X-V")]));
    origin.on(
        "/stale",
        |seen| if seen.number % 2 == 1 { stale("x", ", stale-if-error=600") } else { fresh("x") },
    );
    origin.on("/asked", |_| fresh("x"));
    let gateway = Gateway::with(&origin).route("/*", FOLLOW).route("/asked", HEARS).start().await;
    gateway.get("/stale").await.ok();
    let renewed = gateway.get("/stale").await.ok();
    gateway.get_with("/varies", &[("x-v", "a")]).await.ok();
    let varies = gateway.get_with("/varies", &[("x-v", "b")]).await.ok();
    gateway.get("/asked").await.ok();
    let asked = gateway.get_with("/asked", &[("cache-control", "no-cache")]).await.ok();
    let said = [(renewed, "fwd=stale"), (varies, "fwd=vary-miss"), (asked, "fwd=request")];
    let wrong: Vec<_> = said
        .iter()
        .filter(|(reply, why)| !says(reply, why))
        .map(|(r, why)| (r.cache_status(), *why))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// An origin that speaks HTTP/1.0: the end of the connection is the end of the body.
#[tokio::test]
async fn an_old_origin_ends_its_answers_by_closing() {
    let head = "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nCache-Control: max-age=60\r\n\r\n";
    let origin = RawOrigin::start_closing(head, "page").await;
    origin.release();
    let gateway = GatewayBuilder::new(&origin.url()).route("/*", FOLLOW).route("/off/*", "").start().await;
    for path in ["/x", "/x", "/off/x"] {
        let reply = gateway.get(path).await.ok();
        assert_eq!(reply.text(), "page", "{path}: {reply:?}");
    }
    assert_eq!(origin.requests(), 2);
}

/// The origin has closed the connections that were kept: nobody needs to know.
#[tokio::test]
async fn a_connection_that_went_stale_is_no_failure() {
    let mut origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route("/*", FOLLOW).route("/off/*", "").start().await;
    for turn in 0..3 {
        for path in ["/x", "/off/x"] {
            gateway.get(&format!("{path}?turn={turn}")).await.ok();
        }
        origin.restart().await;
    }
}

/// RFC 9112, 3.2.2: a target that names a host is what counts. Whichever it is, it is one and the same for what is
/// asked and for what is kept.
#[tokio::test]
async fn a_target_that_names_a_host_spoils_no_other_hosts_answer() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| fresh(seen.header("host").unwrap()));
    let gateway = gateway(&origin).start().await;
    let request = "GET http://b.example/x HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    let reply = raw_exchange(gateway.address(), request.as_bytes()).await;
    assert!([200, 400].contains(&reply.status), "{reply:?}");
    for host in ["a.example", "b.example"] {
        assert_eq!(gateway.get_with("/x", &[("host", host)]).await.ok().text(), host);
    }
}

/// RFC 9110, 9.3.3: the answer to a POST that says it is what GET would find is kept, if all of it has come.
#[tokio::test]
async fn an_answer_to_post_is_kept_where_it_says_so() {
    let origin = TestOrigin::start().await;
    for path in ["/whole", "/cut", "/elsewhere", "/cookie", "/accel-expires"] {
        origin.on(path, move |seen| {
            let place = if path == "/elsewhere" { "/other" } else { path };
            let answer = fresh(seen.method.as_str()).header("content-location", place);
            match (path, seen.method.as_str()) {
                ("/cut", "POST") => answer.chunked().broken(),
                ("/cookie", _) => answer.header("set-cookie", "session=1"),
                ("/accel-expires", _) => answer.header("x-accel-expires", "0"),
                _ => answer,
            }
        });
    }
    let gateway = gateway(&origin).start().await;
    for path in ["/whole", "/cut", "/elsewhere", "/cookie", "/accel-expires"] {
        let sent = client::try_send(gateway.request("POST", path).body("x")).await;
        let whole = sent.as_ref().is_ok_and(|reply| reply.status == 200);
        assert_eq!(whole, path != "/cut", "{path}: {sent:?}");
        let reply = gateway.get(path).await.ok();
        let expected = if path == "/whole" { ("POST", true) } else { ("GET", false) };
        assert_eq!((reply.text(), reply.is_hit()), expected, "{path}");
    }
}

/// RFC 9211, 2: each cache adds itself to what those nearer to the origin have said.
#[tokio::test]
async fn cache_status_keeps_what_the_origins_own_cache_said() {
    let origin = TestOrigin::start().await;
    for path in ["/x", "/off/x"] {
        origin.on(path, |_| fresh("x").header("cache-status", "inner; hit"));
    }
    let gateway = gateway(&origin).start().await;
    let mut said = Vec::new();
    for (path, ours) in [("/x", "tidegate; fwd=uri-miss; stored"), ("/off/x", "tidegate; fwd=bypass")] {
        let reply = gateway.get(path).await.ok();
        said.push((path, reply.all("cache-status"), format!("inner; hit, {ours}")));
    }
    assert!(said.iter().all(|(_, is, wanted)| is == wanted), "{said:?}");
}
