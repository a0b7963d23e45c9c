//! Fields of files' answers: by a route's rules as of any other answer, and by the files themselves.

use crate::{
    requests::files::{Tree, DIGITS},
    support::{
        tls::{of_http2, Authority, Http2},
        *,
    },
};
use bytes::Bytes;
use std::{
    fs::File,
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::net::TcpStream;

const PAGE: &str = "https://dash.example";
const RULES: &str = r#"security_headers = true
response_headers = { remove = ["X-Powered-*"], set = { "X-Edge" = "$route" } }
cors = { origins = ["https://dash.example"], credentials = true, expose = ["ETag"] }"#;

/// Holds that the rules were applied.
#[track_caller]
fn is_dressed(what: &str, reply: &Reply, allowed: bool) {
    assert_eq!(reply.headers.get_all("x-edge").iter().count(), 1, "{what}: {reply:?}");
    assert!(!reply.headers.contains_key("x-powered-by"), "{what}: {reply:?}");
    if reply.status != 304 {
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{what}: {reply:?}");
    }
    let (origin, credentials) = if allowed { (PAGE, "true") } else { ("", "") };
    assert_eq!(reply.all("access-control-allow-origin"), origin, "{what}: {reply:?}");
    assert_eq!(reply.all("access-control-allow-credentials"), credentials, "{what}: {reply:?}");
    assert!(reply.all("vary").contains("Origin"), "{what}: {reply:?}");
}

/// An application that orders files, and permits everyone with every answer.
fn orders(app: &TestOrigin) {
    for path in ["/app/file", "/followed/file", "/app/elsewhere", "/followed/elsewhere"] {
        let to = if path.ends_with("file") { "/protected/digits.bin" } else { "/s3/digits" };
        app.on(path, move |_| {
            Answer::new("text/plain", "")
                .header("x-accel-redirect", to)
                .header("access-control-allow-origin", "*")
                .header("access-control-allow-credentials", "true")
                .header("x-powered-by", "Flask")
        });
    }
}

#[tokio::test]
async fn files_are_dressed_like_any_answer() {
    let tree = Tree::new();
    let (app, bucket) = (TestOrigin::start().await, TestOrigin::start().await);
    orders(&app);
    bucket.on("/digits", |seen| {
        let answer = Answer::new("text/plain", DIGITS).header("etag", "\"s3\"");
        match seen.header("if-none-match") {
            Some(_) => answer.status(304),
            None => answer,
        }
    });
    let s3 = format!(
        "[[origin]]\nname = \"s3\"\nservers = {:?}\n[[accel]]\ninternal = \"/s3/\"\norigin = \"s3\"",
        bucket.url()
    );
    let gateway = Gateway::with(&app)
        .raw("[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true")
        .raw(&format!("[[route]]\npath = \"/www/*\"\n{}\n{RULES}", tree.files("")))
        .route("/app/*", RULES)
        .route("/followed/*", &format!("cache = \"origin\"\n{RULES}"))
        .raw(&tree.accel())
        .raw(&s3)
        .start()
        .await;
    let prior = gateway.listeners(2).await[1];
    let h2 = Http2::over(TcpStream::connect(prior).await.unwrap()).await;
    for (path, fields, status) in [
        ("/www/digits.txt", &[][..], 200),
        ("/www/digits.txt", &[("range", "bytes=1-2")], 206),
        ("/www/digits.txt", &[("range", "bytes=50-")], 416),
        ("/www/digits.txt", &[("if-none-match", "*")], 304),
        ("/www/digits.txt", &[("if-match", "\"other\"")], 412),
        ("/www/docs", &[], 308),
        ("/www/nothing", &[], 404),
        ("/app/file", &[], 200),
        ("/app/file", &[("range", "bytes=1-2")], 206),
        ("/app/file", &[("if-none-match", "*")], 304),
        ("/followed/file", &[], 200),
        ("/app/elsewhere", &[], 200),
        ("/app/elsewhere", &[("if-none-match", "\"s3\"")], 304),
        ("/followed/elsewhere", &[], 200),
    ] {
        for page in [PAGE, "https://evil.example"] {
            let fields = [fields, &[("origin", page)]].concat();
            for method in ["GET", "HEAD"] {
                // Ranges are of GET.
                if method == "HEAD" && matches!(status, 206 | 416) {
                    continue;
                }
                let what = format!("{method} {path} {fields:?}");
                let reply = gateway.send_with(method, path, &fields).await;
                assert_eq!(reply.status.as_u16(), status, "{what}: {reply:?}");
                is_dressed(&what, &reply, page == PAGE);
                let mut request = of_http2(method, "dash.example", path, Bytes::new());
                for (name, value) in &fields {
                    request.headers_mut().append(
                        http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                        value.parse().unwrap(),
                    );
                }
                let reply = h2.send(request).await.unwrap();
                assert_eq!(reply.status.as_u16(), status, "HTTP/2 {what}: {reply:?}");
                is_dressed(&format!("HTTP/2 {what}"), &reply, page == PAGE);
            }
        }
    }
}

#[tokio::test]
async fn redirects_to_https_are_dressed_by_the_rules_for_all() {
    let (origin, authority) = (TestOrigin::start().await, Authority::new());
    authority.issue("a", &["dash.example"]);
    let gateway = Gateway::with(&origin)
        .raw(&authority.listener(&["a"], ""))
        .raw("[[listener]]\naddress = \"127.0.0.1:0\"\nredirect_to_https = true")
        .raw("[headers]\nsecurity_headers = true\nresponse_headers = { set = { \"X-All\" = \"1\" } }")
        .route("/*", "")
        .start()
        .await;
    let redirecting = gateway.listeners(3).await[2];
    let request = gateway.client().get(format!("http://{redirecting}/x")).header("host", "dash.example");
    let reply = send(request).await;
    assert_eq!(reply.status, 301);
    assert_eq!((reply.header("x-all"), reply.header("x-content-type-options")), ("1", "nosniff"));
}

fn set_time(tree: &Tree, name: &str, time: SystemTime) {
    File::options().write(true).open(tree.at(name)).unwrap().set_modified(time).unwrap();
}

async fn site(tree: &Tree, more: &str) -> Gateway {
    let origin = TestOrigin::start().await;
    Gateway::with(&origin).raw(&format!("[[route]]\npath = \"/*\"\n{}\n{more}", tree.files(""))).start().await
}

/// Nix, `SOURCE_DATE_EPOCH` and archives fix the times of files.
#[tokio::test]
async fn releases_of_equal_times_and_lengths_have_tags_of_their_own() {
    let tree = Tree::new();
    let gateway = site(&tree, "").await;
    let fixed = [UNIX_EPOCH + Duration::from_secs(1), UNIX_EPOCH + Duration::from_secs(1_000_000_000)];
    for (length, fixed) in [(10, fixed[0]), (10, fixed[1]), (200_000, fixed[0]), (200_000, fixed[1])] {
        let release = |sign: &str| {
            tree.write("www/new.bin", sign.repeat(length));
            set_time(&tree, "www/new.bin", fixed);
            std::fs::rename(tree.at("www/new.bin"), tree.at("www/app.bin")).unwrap();
        };
        release("1");
        let is = |sign: &'static str| {
            let gateway = &gateway;
            move || async move {
                let reply = gateway.get("/app.bin").await.ok();
                reply.text().starts_with(sign).then(|| reply.header("etag").to_owned())
            }
        };
        let first = eventually("the first release is there", SOON, is("1")).await;
        release("2");
        let changed = || async {
            let reply = gateway.get_with("/app.bin", &[("if-none-match", &first)]).await;
            (reply.status == 200).then(|| reply.header("etag").to_owned())
        };
        let second = eventually("the second release is there", SOON, changed).await;
        assert_ne!(first, second);
        let reply = gateway.get("/app.bin").await.ok();
        let dated = reply.headers.contains_key("last-modified");
        assert_eq!(dated, fixed > UNIX_EPOCH + Duration::from_secs(1), "{reply:?}");
    }
}

#[tokio::test]
async fn no_file_was_changed_after_it_was_sent() {
    let tree = Tree::new();
    set_time(&tree, "www/digits.txt", SystemTime::now() + Duration::from_secs(86_400));
    let reply = site(&tree, "").await.get("/digits.txt").await.ok();
    let date = |name| httpdate::parse_http_date(reply.header(name)).unwrap();
    assert!(date("last-modified") <= date("date"), "{reply:?}");
}

/// RFC 9659: browsers take no larger window.
#[tokio::test]
async fn a_form_whose_window_is_too_large_is_not_sent() {
    let tree = Tree::new();
    let script = "let x = 1;\n".repeat(1000);
    for (name, window) in [("small", 23), ("large", 24)] {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(window).unwrap();
        encoder.write_all(script.as_bytes()).unwrap();
        tree.write(&format!("www/{name}.js"), &script);
        tree.write(&format!("www/{name}.js.zst"), encoder.finish().unwrap());
        tree.write(&format!("www/{name}.js.gz"), "beforehand");
    }
    tree.write("www/large.js.br", [0x11, 0x1e, 0x03]);
    let gateway = site(&tree, "").await;
    let get = |path| gateway.get_with(path, &[("accept-encoding", "br, zstd, gzip;q=0.5")]);
    let small = get("/small.js").await.ok();
    assert_eq!((small.header("content-encoding"), small.decoded()), ("zstd", script.into_bytes()));
    let large = get("/large.js").await.ok();
    assert_eq!((large.header("content-encoding"), large.text()), ("gzip", "beforehand"));
}

#[tokio::test]
async fn names_with_a_colon_are_names() {
    let tree = Tree::new();
    let names = ["a:b.txt", "C:/x.txt", "12:30.log"];
    for name in names {
        tree.write(&format!("www/{name}"), name);
        tree.write(&format!("big/{name}"), name);
    }
    let app = TestOrigin::start().await;
    app.on("/app", |seen| {
        let to = format!("/protected/{}", seen.query.as_deref().unwrap());
        Answer::new("text/plain", "").header("x-accel-redirect", &to)
    });
    let www = format!("[[route]]\npath = \"/www/*\"\n{}", tree.files(""));
    let gateway = Gateway::with(&app).raw(&www).route("/app", "").raw(&tree.accel()).start().await;
    for name in names {
        assert_eq!(gateway.get(&format!("/www/{name}")).await.ok().text(), name);
        assert_eq!(gateway.get(&format!("/www/{}", name.replace(':', "%3A"))).await.ok().text(), name);
        assert_eq!(gateway.get(&format!("/app?{name}")).await.ok().text(), name);
    }
}

#[tokio::test]
async fn head_of_a_file_tells_what_get_would_and_a_304_its_tag() {
    let tree = Tree::new();
    tree.write("www/app.js", "let x = 1;\n".repeat(1000));
    let gateway = site(&tree, "[encoding]\ntypes = [\"application/javascript\"]").await;
    for coding in ["gzip", "br", "identity"] {
        let fields = [("accept-encoding", coding)];
        let get = gateway.get_with("/app.js", &fields).await.ok();
        assert_eq!(get.header("content-encoding"), if coding == "identity" { "" } else { coding });
        let head = gateway.send_with("HEAD", "/app.js", &fields).await.ok();
        for name in ["content-length", "content-encoding", "etag", "vary", "accept-ranges"] {
            assert_eq!(head.all(name), get.all(name), "{coding}: {name}");
        }
        let tag = get.header("etag");
        assert_eq!(tag.starts_with("W/"), coding != "identity");
        let same = gateway.get_with("/app.js", &[fields[0], ("if-none-match", tag)]).await;
        assert_eq!((same.status.as_u16(), same.header("etag")), (304, tag), "{coding}");
    }
}
