//! Each head is true of the form that its answer goes out in, or would have gone out in: HEAD tells what GET would,
//! a 304 bears the tag that its client holds, and no digest is one of something else.

use crate::origin::passing::{gateway as passing, gzip, on_both, page, text, PATHS};
use crate::support::{
    tls::{of_http2, Http2},
    *,
};
use bytes::Bytes;
use tokio::net::TcpStream;

const OF_THE_FORM: [&str; 7] =
    ["content-length", "content-encoding", "content-type", "accept-ranges", "etag", "vary", "content-digest"];
const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];
const NAMESPACE: &str = "cache = { namespace = \"n\", ttl = \"60s\" }";

fn told(reply: &Reply) -> Vec<(&'static str, String)> {
    OF_THE_FORM.map(|name| (name, reply.all(name))).into()
}

fn digested(seconds: u32) -> Answer {
    let answer = Answer::new("text/html", text()).header("etag", "\"v1\"");
    let answer = answer.header("cache-control", &format!("max-age={seconds}"));
    DIGESTS.iter().fold(answer, |answer, name| answer.header(name, "sha-256=:AAAA:"))
}

/// Pingora proxies what names a field of its connection.
const WAYS: [&[(&str, &str)]; 2] = [&[], &[("connection", "x-named")]];

#[tokio::test]
async fn head_tells_what_get_would() {
    let origin = TestOrigin::start().await;
    for path in PATHS {
        origin.on(path, |_| page(text()).header("accept-ranges", "bytes").header("content-digest", "x"));
    }
    origin.on("/off/small", |_| page("small"));
    origin.on("/off/coded", |_| page(gzip(text().as_bytes())).header("content-encoding", "gzip"));
    for path in ["/followed/kept", "/kpi"] {
        origin.on(path, |_| digested(60));
    }
    let gateway = Gateway::with(&origin)
        .raw("[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true")
        .route("/off/*", "")
        .route("/followed/*", "cache = \"origin\"")
        .route("/kpi", NAMESPACE)
        .start()
        .await;
    let prior = gateway.listeners(2).await[1];
    let h2 = Http2::over(TcpStream::connect(prior).await.unwrap()).await;
    for path in ["/off/x", "/followed/x", "/off/small", "/off/coded", "/followed/kept", "/kpi"] {
        for coding in ["gzip", "br", "zstd", "identity", ""] {
            for way in WAYS {
                let fields = [&[("accept-encoding", coding)][usize::from(coding.is_empty())..], way].concat();
                let ask = |method: &'static str| gateway.send_with(method, path, &fields);
                // What is kept is encoded for who asks again.
                let alike = || async {
                    let (head, get) = (ask("HEAD").await.ok(), ask("GET").await.ok());
                    assert!(head.body.is_empty(), "{path} {coding}");
                    told(&head) == told(&get)
                };
                match path {
                    "/followed/kept" | "/kpi" => until("the heads are alike", SOON, alike).await,
                    _ => {
                        let (head, get) = (ask("HEAD").await.ok(), ask("GET").await.ok());
                        assert_eq!(told(&head), told(&get), "{path} {coding:?} {way:?}");
                    }
                }
            }
            let ask = |method: &'static str| {
                let mut request = of_http2(method, "b", path, Bytes::new());
                request.headers_mut().insert("accept-encoding", coding.parse().unwrap());
                h2.send(request)
            };
            let alike = || async {
                let (head, get) = (ask("HEAD").await.unwrap().ok(), ask("GET").await.unwrap().ok());
                told(&head) == told(&get)
            };
            until(&format!("the heads of {path} are alike by HTTP/2, {coding:?}"), SOON, alike).await;
        }
    }
}

#[tokio::test]
async fn a_304_bears_the_tag_that_its_client_holds() {
    let origin = TestOrigin::start().await;
    on_both(&origin, |seen| match seen.header("if-none-match") {
        Some(_) => Answer::new("text/html", "").status(304).header("etag", "\"v1\""),
        None => page(text()),
    });
    let gateway = passing(&origin).await;
    for path in PATHS {
        for way in WAYS {
            for (coding, tag) in [("gzip", "W/\"v1\""), ("identity", "\"v1\"")] {
                let fields = [&[("accept-encoding", coding)], way].concat();
                let whole = gateway.get_with(path, &fields).await.ok();
                assert_eq!(whole.header("etag"), tag, "{path} {coding} {way:?}");
                let asked = [&fields[..], &[("if-none-match", tag)]].concat();
                let same = gateway.get_with(path, &asked).await;
                assert_eq!(
                    (same.status.as_u16(), same.header("etag")),
                    (304, tag),
                    "{path} {coding} {way:?}"
                );
            }
        }
    }
}

/// Whichever form is made by now.
#[tokio::test]
async fn a_304_out_of_the_cache_bears_the_tag_that_its_client_holds() {
    let origin = TestOrigin::start().await;
    for path in ["/followed/kept", "/kpi"] {
        origin.on(path, |_| digested(60));
    }
    let gateway = Gateway::with(&origin)
        .route("/followed/*", "cache = \"origin\"")
        .route("/kpi", NAMESPACE)
        .start()
        .await;
    for path in ["/followed/kept", "/kpi"] {
        let mut held = vec![gateway.get(path).await.ok().header("etag").to_owned()];
        for made in [false, true] {
            for coding in ["gzip", "br"] {
                let fields = [("accept-encoding", coding)];
                let encoded = || async {
                    let reply = gateway.get_with(path, &fields).await.ok();
                    (!made || reply.is_hit() && reply.header("content-encoding") == coding)
                        .then(|| reply.header("etag").to_owned())
                };
                held.push(eventually("the form is made", SOON, encoded).await);
            }
            for tag in held.iter().filter(|tag| !tag.is_empty()) {
                for coding in ["gzip", "br", "zstd", "identity"] {
                    for second in [&[][..], &[("accept", "*/*"), ("range", "bytes=0-1")]] {
                        let fields =
                            [&[("accept-encoding", coding), ("if-none-match", tag)], second].concat();
                        let same = gateway.get_with(path, &fields).await;
                        assert_eq!(
                            (same.status.as_u16(), same.header("etag")),
                            (304, tag.as_str()),
                            "{path}"
                        );
                        let listed = format!("\"other\", {tag}");
                        let listed = [("accept-encoding", coding), ("if-none-match", &listed)];
                        let same = gateway.get_with(path, &listed).await;
                        assert_eq!(
                            (same.status.as_u16(), same.header("etag")),
                            (304, tag.as_str()),
                            "{path}"
                        );
                    }
                }
            }
        }
        assert!(held.iter().collect::<std::collections::HashSet<_>>().len() > 1, "{path}: {held:?}");
    }
}

#[tokio::test]
async fn no_digest_is_one_of_something_else() {
    let origin = TestOrigin::start().await;
    for path in ["/off/x", "/followed/kept", "/kpi"] {
        origin.on(path, |_| digested(60));
    }
    let gateway = Gateway::with(&origin)
        .route("/off/*", "")
        .route("/followed/*", "cache = \"origin\"")
        .route("/kpi", NAMESPACE)
        .start()
        .await;
    let told = |reply: &Reply| DIGESTS.into_iter().filter(|name| reply.headers.contains_key(*name)).count();
    for path in ["/off/x", "/followed/kept", "/kpi"] {
        for coding in ["gzip", "br", "zstd"] {
            let fields = [("accept-encoding", coding)];
            let encoded = || async {
                let reply = gateway.get_with(path, &fields).await.ok();
                let is_encoded = reply.header("content-encoding") == coding;
                assert_eq!(told(&reply), if is_encoded { 0 } else { DIGESTS.len() }, "{path}: {reply:?}");
                is_encoded && (path == "/off/x" || reply.is_hit())
            };
            until("it is encoded", SOON, encoded).await;
        }
        assert_eq!(told(&gateway.get(path).await.ok()), DIGESTS.len(), "{path}");
    }
}

#[tokio::test]
async fn scripts_have_one_type_and_pages_are_always_encoded() {
    let origin = TestOrigin::start().await;
    let kinds = [
        "text/javascript; charset=utf-8",
        "application/javascript",
        "application/x-javascript",
        "text/html",
        "text/css",
    ];
    for kind in kinds {
        origin.on(&format!("/off/{kind}").replace("; ", "-"), move |_| Answer::new(kind, text()));
    }
    for (types, expected) in [
        ("\"application/javascript\"", [true, true, true, true, false]),
        ("\"Text/JavaScript\"", [true, true, true, true, false]),
        ("\"text/css\"", [false, false, false, true, true]),
        ("", [false; 5]),
    ] {
        let gateway = Gateway::with(&origin).raw(&format!("[encoding]\ntypes = [{types}]")).route("/*", "");
        let gateway = gateway.start().await;
        for (kind, expected) in kinds.into_iter().zip(expected) {
            let path = format!("/off/{kind}").replace("; ", "-");
            let reply = gateway.get_with(&path, &[("accept-encoding", "gzip")]).await.ok();
            assert_eq!(reply.header("content-encoding") == "gzip", expected, "{types}: {kind}");
        }
    }
}
