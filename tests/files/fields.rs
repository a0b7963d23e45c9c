//! What is said of files: by a route's rules as of any other answer, and by the files themselves.

use crate::{
    support::{
        tls::{of_http2, Authority, Http2},
        *,
    },
    Tree, DIGITS,
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
