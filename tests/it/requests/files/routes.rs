//! Routes of files.

use crate::{
    requests::files::{Tree, DIGITS, SECRET},
    support::*,
};
use std::fs;

/// Everything below `/` from `www`.
async fn gateway(tree: &Tree, more: &str) -> (TestOrigin, Gateway) {
    let origin = TestOrigin::start().await;
    let route = format!("[[route]]\npath = \"/*\"\n{}", tree.files(more));
    let gateway = Gateway::with(&origin).raw(&route).start().await;
    (origin, gateway)
}

#[tokio::test]
async fn a_site_of_files() {
    let tree = Tree::new();
    let (origin, gateway) = gateway(&tree, "").await;
    let page = gateway.get("/").await.ok();
    assert_eq!((page.text(), page.header("content-type")), ("<h1>home</h1>", "text/html; charset=utf-8"));
    assert_eq!((page.header("cache-control"), page.header("accept-ranges")), ("no-cache", "bytes"));
    assert_eq!((page.header("vary"), page.cache_status()), ("Accept-Encoding", "tidegate; detail=file"));
    assert!(page.headers.contains_key("last-modified") && page.headers.contains_key("x-request-id"));
    assert_eq!(gateway.get("/digits.txt?whatever=1").await.ok().text(), DIGITS);
    assert_eq!(gateway.get("/docs/").await.ok().text(), "<h1>docs</h1>");
    // A change is seen within a second.
    let tag = page.header("etag").to_owned();
    tree.write("www/index.html", "<h1>another home</h1>");
    let changed = || async {
        let reply = gateway.get_with("/", &[("if-none-match", &tag)]).await;
        reply.status == 200 && reply.text() == "<h1>another home</h1>"
    };
    until("the change is seen", SOON, changed).await;
    for (path, location) in [("/docs", "/docs/"), ("/docs?a=1&b=2", "/docs/?a=1&b=2"), ("//docs", "/docs/")] {
        let reply = gateway.get(path).await;
        assert_eq!((reply.status.as_u16(), reply.header("location")), (308, location), "{path}");
    }
    for path in ["/nothing", "/docs/nothing", "/digits.txt/", "/.env", "/out", "/link", "/docs/a%5Cb"] {
        gateway.get(path).await.problem(404);
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let reply = gateway.send_with(method, "/digits.txt", &[]).await.problem(405);
        assert_eq!(reply.header("allow"), "GET, HEAD", "{method}");
    }
    assert_eq!(origin.counts().len(), 0);
    let metrics = gateway.metrics().await;
    let count = |outcome| metrics.value("tidegate_files_total", &[("outcome", outcome)]);
    assert_eq!((count("slash"), count("link"), count("whole")), (3.0, 2.0, 4.0), "{metrics:?}");
    assert!(count("not_found") >= 3.0 && count("bad_path") >= 2.0);
    assert!(metrics.value("tidegate_requests_total", &[("result", "file"), ("status", "2xx")]) >= 4.0);
}

#[tokio::test]
async fn conditions_and_ranges() {
    let tree = Tree::new();
    let (_origin, gateway) = gateway(&tree, "").await;
    let whole = gateway.get("/digits.txt").await.ok();
    let (tag, changed) = (whole.header("etag").to_owned(), whole.header("last-modified").to_owned());
    assert!(tag.starts_with('"'), "{tag} is not strong");
    for (name, value) in [("if-none-match", &tag), ("if-modified-since", &changed)] {
        let reply = gateway.get_with("/digits.txt", &[(name, value)]).await;
        assert_eq!((reply.status.as_u16(), reply.body.len()), (304, 0), "{name}");
        assert_eq!((reply.header("etag"), reply.header("cache-control")), (tag.as_str(), "no-cache"));
        assert!(!reply.headers.contains_key("content-type"), "{reply:?}");
    }
    assert_eq!(gateway.get_with("/digits.txt", &[("if-match", "\"x\"")]).await.status, 412);
    for (range, text, said) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=8-99", "89", "bytes 8-9/10"),
    ] {
        let reply = gateway.get_with("/digits.txt", &[("range", range), ("if-range", &tag)]).await;
        assert_eq!((reply.status.as_u16(), reply.text(), reply.header("content-range")), (206, text, said));
    }
    let other = gateway.get_with("/digits.txt", &[("range", "bytes=0-1"), ("if-range", "\"x\"")]).await.ok();
    assert_eq!(other.text(), DIGITS);
    let beyond = gateway.get_with("/digits.txt", &[("range", "bytes=10-")]).await;
    assert_eq!((beyond.status.as_u16(), beyond.header("content-range")), (416, "bytes */10"));
    let several = gateway.get_with("/digits.txt", &[("range", "bytes=0-1,4-5")]).await;
    assert_eq!(several.status, 206);
    assert!(several.header("content-type").starts_with("multipart/byteranges; boundary="));
    assert!(several.text().contains("\r\nContent-Range: bytes 4-5/10\r\n\r\n45\r\n--"), "{several:?}");
    let head = gateway.send_with("HEAD", "/digits.txt", &[("range", "bytes=0-1")]).await.ok();
    assert_eq!((head.header("content-length"), head.body.len()), ("10", 0));
    assert_eq!(head.header("etag"), tag);
}

#[tokio::test]
async fn forms_made_beforehand_and_on_the_way() {
    let tree = Tree::new();
    let script = "let x = 1;\n".repeat(1000);
    tree.write("www/app.js", &script);
    tree.write("www/app.js.zst", zstd::encode_all(script.as_bytes(), 3).unwrap());
    tree.write("www/app.js.gz", "beforehand");
    tree.write("www/alone.css", "a { color: red }\n".repeat(1000));
    let (_origin, gateway) = gateway(&tree, "").await;
    let gateway = &gateway;
    let get = |path: &'static str, accepted: &'static str| async move {
        gateway.get_with(path, &[("accept-encoding", accepted)]).await
    };
    let zstd = get("/app.js", "zstd, gzip;q=0.5").await.ok();
    assert_eq!((zstd.header("content-encoding"), zstd.header("vary")), ("zstd", "Accept-Encoding"));
    assert_eq!(zstd.header("content-type"), "text/javascript; charset=utf-8");
    assert_eq!(zstd.decoded(), script.as_bytes());
    assert_eq!(get("/app.js", "gzip").await.ok().text(), "beforehand");
    let plain = gateway.get("/app.js").await.ok();
    assert_eq!((plain.text(), plain.header("vary")), (script.as_str(), "Accept-Encoding"));
    let tags: std::collections::HashSet<_> =
        [&zstd, &plain].map(|reply| reply.header("etag").to_owned()).into();
    assert_eq!(tags.len(), 2);
    // A part of the form that was chosen, so that a broken download of it can go on.
    let part = gateway
        .get_with(
            "/app.js",
            &[("accept-encoding", "zstd"), ("range", "bytes=0-3"), ("if-range", zstd.header("etag"))],
        )
        .await;
    assert_eq!((part.status.as_u16(), &part.body[..]), (206, &zstd.body[..4]));
    // Nobody has made one: it is made on the way, and its tag is weak.
    let made = get("/alone.css", "br").await.ok();
    assert_eq!((made.header("content-encoding"), made.header("vary")), ("br", "Accept-Encoding"));
    assert!(made.header("etag").starts_with("W/") && made.body.len() < 1000);
    assert_eq!(made.decoded(), fs::read(tree.at("www/alone.css")).unwrap());
    let again = gateway
        .get_with("/alone.css", &[("accept-encoding", "br"), ("if-none-match", made.header("etag"))])
        .await;
    assert_eq!(again.status, 304);
}

#[tokio::test]
async fn what_the_configuration_says_of_them() {
    let tree = Tree::new();
    tree.write("www/app.3f2a91bc.js", "1");
    tree.write("www/start.htm", "start");
    let more = ", index = \"start.htm\", symlinks = true, hidden = true, precompressed = false, \
                cache_control = \"max-age=60\", immutable = \"hashed\"";
    let (_origin, gateway) = gateway(&tree, more).await;
    assert_eq!(gateway.get("/").await.ok().text(), "start");
    assert_eq!(gateway.get("/link").await.ok().text(), DIGITS);
    assert_eq!(gateway.get("/.env").await.ok().text(), SECRET);
    gateway.get("/out").await.problem(404);
    gateway.get("/docs").await.problem(404);
    let reply = gateway.get("/digits.txt").await.ok();
    assert_eq!((reply.header("cache-control"), reply.header("vary")), ("max-age=60", ""));
    let hashed = gateway.get("/app.3f2a91bc.js").await.ok();
    assert_eq!(hashed.header("cache-control"), "public, max-age=31536000, immutable");
}

#[tokio::test]
async fn paths_of_routes_are_taken_off() {
    let tree = Tree::new();
    let origin = TestOrigin::start().await;
    let files = tree.files("");
    let gateway = Gateway::with(&origin)
        .route("/*", "")
        .raw(&format!("[[route]]\npath = \"/static/*\"\n{files}"))
        .raw(&format!("[[route]]\npath = \"/deep/digits.txt\"\n{files}"))
        .raw(&format!("[[route]]\npath = \"/private/*\"\nauth = \"required\"\n{files}"))
        .start()
        .await;
    assert_eq!(gateway.get("/static/digits.txt").await.ok().text(), DIGITS);
    assert_eq!(gateway.get("/static/docs").await.header("location"), "/static/docs/");
    assert_eq!(gateway.get("/deep/digits.txt").await.ok().text(), DIGITS);
    gateway.get("/static/static/digits.txt").await.problem(404);
    assert_eq!(gateway.get("/digits.txt").await.ok().json()["path"], "/digits.txt");
    gateway.get("/private/digits.txt").await.problem(401);
    assert_eq!(gateway.get_as("acme", "/private/digits.txt").await.ok().text(), DIGITS);
}

#[tokio::test]
async fn no_path_leaves_its_root() {
    let tree = Tree::new();
    let (_origin, mut gateway) = gateway(&tree, ", symlinks = true, hidden = true").await;
    nix::sys::stat::lstat(&tree.at("www/out")).unwrap();
    let outside = tree.at("secret");
    let outside = outside.to_str().unwrap();
    let mut paths: Vec<String> = [
        "/../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/docs/../../secret",
        "/docs/%2e%2e/%2e%2e/secret",
        "/..\\secret",
        "/..%5csecret",
        "/%5c..%5csecret",
        "/.%00./secret",
        "/out",
        "/docs/..;/secret",
        "/%252e%252e/secret",
        "/..%c0%afsecret",
        "/%c0%ae%c0%ae/secret",
        "/%ef%bc%8e%ef%bc%8e/secret",
        "/C:/secret",
        "//secret",
        "/./../secret",
        "/docs/./../../secret",
        "/%2f%2e%2e%2fsecret",
        "/....//secret",
        "/proc/self/cwd/secret",
        "/..",
        "/%2e%2e",
        "/..%2f",
        "/%2e%2e%2f%2e%2e%2fetc/passwd",
    ]
    .map(str::to_owned)
    .into();
    paths.extend([
        outside.to_owned(),
        format!("/{outside}"),
        format!("/%2f{outside}"),
        format!("/file://{outside}"),
    ]);
    for path in paths {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let reply = raw_exchange(gateway.address(), request.as_bytes()).await;
        assert!(!reply.body.contains(SECRET) && !reply.body.contains("root:"), "{path}: {reply:?}");
        assert!((400..500).contains(&reply.status), "{path}: {reply:?}");
    }
    gateway.assert_sound().await;
}

#[tokio::test]
async fn a_pipe_hangs_nobody() {
    let tree = Tree::new();
    nix::unistd::mkfifo(&tree.at("www/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (_origin, mut gateway) = gateway(&tree, "").await;
    gateway.get("/pipe").await.problem(404);
    gateway.assert_sound().await;
}
