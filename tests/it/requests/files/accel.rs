//! Files that an origin sends by `X-Accel-Redirect`.

use crate::{
    requests::files::{Tree, DIGITS, SECRET},
    support::*,
};
use std::time::{Duration, Instant};

/// The internal location before `big`, and routes of every kind.
async fn gateway(origin: &TestOrigin, tree: &Tree) -> Gateway {
    Gateway::with(origin)
        .route("/off/*", "")
        .route("/deaf/*", "accel = false")
        .route("/follow/*", "cache = \"origin\"")
        .route("/kept/*", "cache = { namespace = \"kept\", ttl = \"60s\" }")
        .raw(&tree.accel())
        .start()
        .await
}

/// Orders this file, as an application does it: with a type, a name, a cookie and an empty body.
fn orders(file: &str) -> Answer {
    Answer::new("application/x-thing", "")
        .header("x-accel-redirect", file)
        .header("content-disposition", "attachment; filename=\"x\"")
        .header("cache-control", "private, max-age=7")
        .header("set-cookie", "a=1")
        .header("access-control-allow-origin", "*")
        .header("etag", "\"of the empty answer\"")
        .header("last-modified", "Mon, 01 Jan 2001 00:00:00 GMT")
}

#[tokio::test]
async fn a_file_goes_out_with_the_fields_of_its_answer() {
    let (origin, tree) = (TestOrigin::start().await, Tree::new());
    let gateway = gateway(&origin, &tree).await;
    for path in ["/off/x", "/follow/x", "/kept/x"] {
        origin.on(path, |_| orders("/protected/digits.bin?ignored=1").header("x-accel-foo", "1"));
        for turn in 1..=3 {
            let reply = gateway.get(path).await.ok();
            assert_eq!(reply.text(), DIGITS, "{path}");
            for (name, value) in [
                ("content-type", "application/x-thing"),
                ("content-length", "10"),
                ("content-disposition", "attachment; filename=\"x\""),
                ("cache-control", "private, max-age=7"),
                ("set-cookie", "a=1"),
                ("access-control-allow-origin", "*"),
                ("accept-ranges", "bytes"),
            ] {
                assert_eq!(reply.all(name), value, "{name} of {path}");
            }
            assert!(!reply.header("last-modified").contains("2001"), "{reply:?}");
            assert!(reply.header("etag").len() > 4 && !reply.header("etag").contains("empty"), "{reply:?}");
            let leaked = reply.headers.keys().find(|name| name.as_str().starts_with("x-accel"));
            assert_eq!(leaked, None, "{path}");
            assert!(reply.cache_status().contains("detail=accel"), "{reply:?}");
            // Never stored.
            assert_eq!(origin.count(path), turn, "{path}");
        }
    }
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("tidegate_accel_total", &[("outcome", "file")]), 9.0);
    assert!(metrics.value("tidegate_fills_total", &[("outcome", "accel")]) >= 2.0);
    // The last one is counted when its client has it already.
    let counted = || async {
        gateway.metrics().await.value("tidegate_requests_total", &[("result", "file")]) as u64 == 9
    };
    until("all are counted", SOON, counted).await;
}

#[tokio::test]
async fn connections_go_on_on_both_sides() {
    let (tree, body) = (Tree::new(), "x".repeat(100_000));
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nX-Accel-Redirect: /protected/digits.bin\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // It sends a body of its own besides: that is for nobody.
    let origin = RawOrigin::start(answer, body).await;
    origin.release();
    let gateway = GatewayBuilder::new(&origin.url()).route("/*", "").raw(&tree.accel()).start().await;
    let request = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n".repeat(5);
    let request = format!("{request}GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut stream = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
    let mut read = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut read).await.unwrap();
    assert_eq!(read.matches("HTTP/1.1 200 OK\r\n").count(), 6, "{read}");
    assert_eq!(read.matches(&format!("\r\n\r\n{DIGITS}")).count(), 6, "{read}");
    assert!(!read.contains("xxx") && !read.to_lowercase().contains("x-accel"), "{read}");
    assert_eq!((origin.requests(), origin.connections()), (6, 1));
}

#[tokio::test]
async fn conditions_ranges_and_head() {
    let (origin, tree) = (TestOrigin::start().await, Tree::new());
    let gateway = gateway(&origin, &tree).await;
    for path in ["/off/x", "/follow/x", "/kept/x"] {
        origin.on(path, |_| orders("/protected/digits.bin"));
        let tag = gateway.get(path).await.ok().header("etag").to_owned();
        let part = gateway.get_with(path, &[("range", "bytes=3-5"), ("if-range", &tag)]).await;
        assert_eq!((part.status.as_u16(), part.text()), (206, "345"), "{path}");
        assert_eq!((part.header("content-range"), part.header("set-cookie")), ("bytes 3-5/10", "a=1"));
        let several = gateway.get_with(path, &[("range", "bytes=0-0,9-9")]).await;
        assert!(several.text().contains("Content-Type: application/x-thing"), "{several:?}");
        assert_eq!(gateway.get_with(path, &[("range", "bytes=99-")]).await.status, 416, "{path}");
        let fresh = gateway.get_with(path, &[("if-none-match", &tag)]).await;
        assert_eq!((fresh.status.as_u16(), fresh.header("etag")), (304, tag.as_str()), "{path}");
        assert_eq!((fresh.header("content-disposition"), fresh.header("set-cookie")), ("", "a=1"), "{path}");
        let head = gateway.send_with("HEAD", path, &[]).await.ok();
        assert_eq!((head.header("content-length"), head.header("etag")), ("10", tag.as_str()), "{path}");
    }
    // Another method leads to the file as well, as with nginx.
    origin.on("/off/export", |_| orders("/protected/digits.bin"));
    assert_eq!(gateway.send_with("POST", "/off/export", &[]).await.ok().text(), DIGITS);
}

#[tokio::test]
async fn names_and_types() {
    let (origin, tree) = (TestOrigin::start().await, Tree::new());
    let gateway = gateway(&origin, &tree).await;
    for (target, text) in [
        ("/protected/big%20file.zip", "zipped"),
        ("/protected/big file.zip", "zipped"),
        ("/protected//sub/page.html", "<p>"),
    ] {
        origin.on("/off/x", move |_| orders(target));
        assert_eq!(gateway.get("/off/x").await.ok().text(), text, "{target}");
    }
    // Where the origin names no type, the file's name does.
    let bare = "HTTP/1.1 200 OK\r\nX-Accel-Redirect: /protected/sub/page.html\r\nContent-Length: 0\r\n\r\n";
    let origin = RawOrigin::start(bare, "").await;
    origin.release();
    let gateway = GatewayBuilder::new(&origin.url()).route("/*", "").raw(&tree.accel()).start().await;
    assert_eq!(gateway.get("/").await.ok().header("content-type"), "text/html; charset=utf-8");
}

#[tokio::test]
async fn what_leads_nowhere_is_a_problem_and_is_counted() {
    let (origin, tree) = (TestOrigin::start().await, Tree::new());
    let gateway = gateway(&origin, &tree).await;
    for route in ["off", "follow", "kept"] {
        for (target, status, outcome) in [
            ("/elsewhere/x", 502, "no_location"),
            ("/protected", 502, "no_location"),
            ("/protected-too/x", 502, "no_location"),
            ("http://example.com/x", 502, "malformed"),
            ("/protected/../secret", 502, "malformed"),
            ("/protected/%2e%2e/secret", 502, "malformed"),
            ("/protected/..%2fsecret", 502, "malformed"),
            ("/protected/nothing", 404, "file"),
            ("/protected/", 404, "file"),
            ("/protected/sub", 404, "file"),
            ("/protected/out", 404, "file"),
            ("/protected/.hidden", 404, "file"),
        ] {
            let path = format!("/{route}/{}", sha256(target.as_bytes()));
            origin.on(&path, move |_| orders(target));
            let before = gateway.metrics().await.value("tidegate_accel_total", &[("outcome", outcome)]);
            let reply = gateway.get(&path).await.problem(status);
            assert!(!reply.text().contains(SECRET) && reply.header("set-cookie").is_empty(), "{target}");
            let after = gateway.metrics().await.value("tidegate_accel_total", &[("outcome", outcome)]);
            assert_eq!(after - before, 1.0, "{target} on {route}");
        }
    }
}

#[tokio::test]
async fn refusals_and_deaf_routes_answer_for_themselves() {
    let (origin, tree) = (TestOrigin::start().await, Tree::new());
    let gateway = gateway(&origin, &tree).await;
    for path in ["/off/no", "/follow/no", "/kept/no"] {
        origin.on(path, |_| {
            Answer::new("text/plain", "no").status(403).header("x-accel-redirect", "/protected/digits.bin")
        });
        let reply = gateway.get(path).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (403, "no"), "{path}");
        assert!(!reply.headers.contains_key("x-accel-redirect"), "{reply:?}");
    }
    origin
        .on("/deaf/x", |_| Answer::new("a/b", "itself").header("x-accel-redirect", "/protected/digits.bin"));
    let reply = gateway.get("/deaf/x").await.ok();
    assert!(reply.text() == "itself" && !reply.headers.contains_key("x-accel-redirect"), "{reply:?}");
    let metrics = gateway.metrics().await;
    let count = |outcome| metrics.value("tidegate_accel_total", &[("outcome", outcome)]);
    assert_eq!((count("status"), count("off")), (3.0, 1.0));
}

#[tokio::test]
async fn a_client_orders_nothing() {
    let (origin, tree) = (TestOrigin::start().await, Tree::new());
    let gateway = gateway(&origin, &tree).await;
    let fields = [
        ("x-accel-redirect", "/protected/digits.bin"),
        ("x-accel-mapping", "/var/=/protected/"),
        ("x_accel_redirect", "/protected/digits.bin"),
        ("x-accel-expires", "60"),
    ];
    for path in ["/off/x", "/follow/x", "/kept/x", "/deaf/x"] {
        let reply = gateway.get_with(path, &fields).await.ok();
        assert_eq!(reply.json()["path"], path);
        let seen = origin.seen(path).pop().unwrap();
        let arrived: Vec<_> = seen.headers.keys().filter(|name| name.as_str().contains("accel")).collect();
        assert!(arrived.is_empty(), "{arrived:?} on {path}");
    }
    // The internal path itself is a path like any other.
    gateway.get("/protected/digits.bin").await.problem(404);
    // Orders that do nothing here are removed from answers all the same.
    origin.on("/off/o", |_| {
        Answer::new("a/b", "x").header("x-accel-anything", "1").header("x-accel-expires", "5")
    });
    let reply = gateway.get("/off/o").await.ok();
    assert!(!reply.headers.keys().any(|name| name.as_str().starts_with("x-accel")), "{reply:?}");
}

#[tokio::test]
async fn the_rest_of_the_family() {
    let (origin, tree) = (TestOrigin::start().await, Tree::new());
    tree.write("big/slow.bin", noise(60_000, 1));
    let gateway = gateway(&origin, &tree).await;
    // What is sent in 0.2 s is waited for before the rest goes.
    for (path, limited) in [
        ("/off/file", orders("/protected/slow.bin")),
        ("/off/own", Answer::new("a/b", noise(60_000, 1)).chunked()),
    ] {
        let limited = limited.header("x-accel-limit-rate", "100000");
        origin.on(path, move |_| limited.clone());
        let began = Instant::now();
        assert_eq!(gateway.get(path).await.ok().body, noise(60_000, 1), "{path}");
        if path == "/off/file" {
            assert!(began.elapsed() >= Duration::from_millis(350), "{path}: {:?}", began.elapsed());
        }
    }
    for path in ["/off/charset", "/follow/charset"] {
        origin
            .on(path, |_| Answer::new("text/plain; charset=latin1", "x").header("x-accel-charset", "koi8-r"));
        assert_eq!(
            gateway.get(path).await.ok().header("content-type"),
            "text/plain; charset=koi8-r",
            "{path}"
        );
    }
    origin.on("/off/charset", |_| orders("/protected/digits.bin").header("x-accel-charset", "utf-8"));
    let reply = gateway.get("/off/charset").await.ok();
    assert_eq!(reply.header("content-type"), "application/x-thing; charset=utf-8");
    // Text that is not to be held back is not encoded.
    origin.on("/off/live", |_| {
        Answer::new("text/plain", "x".repeat(5000)).chunked().header("x-accel-buffering", "no")
    });
    let reply = gateway.get_with("/off/live", &[("accept-encoding", "gzip")]).await.ok();
    assert_eq!((reply.header("content-encoding"), reply.body.len()), ("", 5000));
}

#[tokio::test]
async fn a_lifetime_for_the_cache_alone() {
    let (origin, tree) = (TestOrigin::start().await, Tree::new());
    let gateway = gateway(&origin, &tree).await;
    let answer = |expires: &'static str| {
        move |_: &Seen| {
            Answer::new("a/b", "x").header("cache-control", "no-cache").header("x-accel-expires", expires)
        }
    };
    origin.on("/follow/kept", answer("60"));
    origin.on("/follow/until", answer("@4000000000"));
    origin.on("/follow/never", |_| {
        Answer::new("a/b", "x").header("cache-control", "max-age=60").header("x-accel-expires", "0")
    });
    origin.on("/kept/never", answer("0"));
    for (path, hit) in
        [("/follow/kept", true), ("/follow/until", true), ("/follow/never", false), ("/kept/never", false)]
    {
        gateway.get(path).await.ok();
        let reply = gateway.get(path).await.ok();
        assert_eq!((reply.is_hit(), origin.count(path)), (hit, if hit { 1 } else { 2 }), "{path}: {reply:?}");
        assert!(!reply.headers.contains_key("x-accel-expires"), "{reply:?}");
    }
    // Clients are told what was meant for them.
    assert_eq!(gateway.get("/follow/kept").await.ok().header("cache-control"), "no-cache");
}

#[tokio::test]
async fn an_origin_that_breaks_off_orders_nothing() {
    let (origin, tree) = (TestOrigin::start().await, Tree::new());
    let gateway =
        Gateway::with(&origin).origin("retries = 0").route("/*", "").raw(&tree.accel()).start().await;
    origin.on("/x", |_| orders("/protected/digits.bin").length(100).broken());
    gateway.get("/x").await.problem(502);
    origin.on("/x", |_| orders("/protected/digits.bin"));
    assert_eq!(gateway.get("/x").await.ok().text(), DIGITS);
}

#[tokio::test]
async fn a_client_of_old() {
    let (origin, tree) = (TestOrigin::start().await, Tree::new());
    let gateway = gateway(&origin, &tree).await;
    origin.on("/off/x", |_| orders("/protected/digits.bin"));
    let mut transfer = Transfer::ask_http10(gateway.address(), "/off/x").await;
    assert_eq!(transfer.final_head().await.status, 200);
    assert_eq!(transfer.rest().await, (DIGITS.as_bytes().to_vec(), End::Clean));
}
