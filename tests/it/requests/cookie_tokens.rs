//! Tokens in a cookie: who is asked, and that no page of another origin can use it.

use crate::support::{
    client::Reply,
    events::EventStream,
    gateway::token,
    tls::{of_http2, Http2},
    *,
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde_json::json;
use tokio::net::TcpStream;

const HOST: &str = "dash.example";
const OWN: &[(&str, &str)] = &[("Origin", "https://dash.example"), ("Sec-Fetch-Site", "same-origin")];
const LISTED: &[(&str, &str)] = &[("Origin", "https://app.example"), ("Sec-Fetch-Site", "same-site")];
const FOREIGN: &[(&str, &str)] = &[("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")];
const LINK: &[(&str, &str)] =
    &[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")];
const OLD: &[(&str, &str)] = &[("Origin", "https://evil.example")];
/// Left to Pingora.
const ASIDE: (&str, &str) = ("Expect", "100-continue");

/// The origin answers with the tenant that it was told, and says which credentials came.
async fn stage() -> (TestOrigin, Gateway) {
    let origin = TestOrigin::start().await;
    for path in ["/tenant", "/proxied", "/followed", "/public", "/anyone"] {
        origin.on(path, |seen| {
            let told = |name: &str| seen.header(name).unwrap_or("-").to_owned();
            let body = json!({ "tenant": told("x-tenant"), "cookie": told("cookie") != "-" });
            let is_followed = seen.path == "/followed";
            Answer::json(&body)
                .header("cache-control", if is_followed { "private, max-age=60" } else { "no-cache" })
        });
    }
    let cors = "cors = { origins = [\"https://app.example\"], credentials = true }";
    let gateway = Gateway::with(&origin)
        .raw("[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true")
        .jwt("cookie = \"session\"")
        .route("/tenant", &format!("auth = \"required\"\nlive = true\ncache = {{ namespace = \"kpi\", scope = \"tenant\", ttl = \"60s\" }}\n{cors}"))
        .route("/proxied", &format!("auth = \"required\"\n{cors}"))
        .route("/followed", &format!("auth = \"required\"\ncache = \"origin\"\n{cors}"))
        .route("/public", "cache = { namespace = \"pub\", ttl = \"60s\" }")
        .route("/anyone", "cache = { namespace = \"any\", scope = \"tenant\", ttl = \"60s\" }")
        .route("/ws/echo", "auth = \"required\"\nwebsocket = {}")
        .route("/ws/listed", "auth = \"required\"\nwebsocket = { origins = [\"https://app.example\"] }")
        .start()
        .await;
    (origin, gateway)
}

fn with_cookie<'a>(cookie: &'a str, fields: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[("Host", HOST), ("Cookie", cookie)], fields].concat()
}

async fn by_http2(connection: &Http2, path: &str, fields: &[(&str, &str)]) -> Reply {
    let mut request = of_http2("GET", HOST, path, Bytes::new());
    for (name, value) in fields.iter().filter(|(name, _)| *name != "Host" && *name != ASIDE.0) {
        let (name, value): (HeaderName, HeaderValue) = (name.parse().unwrap(), value.parse().unwrap());
        request.headers_mut().append(name, value);
    }
    connection.send(request).await.unwrap()
}

#[tokio::test]
async fn a_cookie_identifies_where_no_page_of_another_origin_asks() {
    let (_origin, gateway) = stage().await;
    let prior = gateway.listeners(2).await[1];
    let http2 = Http2::over(TcpStream::connect(prior).await.unwrap()).await;
    for tenant in ["acme", "globex"] {
        let cookie = format!("theme=dark; session={}; lang=de", token(tenant, "ann"));
        for path in ["/tenant", "/proxied", "/followed"] {
            for (fields, is_known) in
                [(&[][..], true), (OWN, true), (LISTED, true), (LINK, true), (FOREIGN, false), (OLD, false)]
            {
                let fields = with_cookie(&cookie, fields);
                let aside = [&fields[..], &[ASIDE]].concat();
                // Twice: what is stored is found by the next one.
                for _ in 0..2 {
                    for reply in [
                        gateway.get_with(path, &fields).await,
                        gateway.get_with(path, &aside).await,
                        by_http2(&http2, path, &fields).await,
                    ] {
                        if is_known {
                            let body = reply.ok().json();
                            assert_eq!(body["tenant"], tenant, "{path} {fields:?}");
                            assert_eq!(body["cookie"], path != "/tenant", "no fill has cookies: {path}");
                        } else {
                            assert_eq!(
                                reply.cache_status(),
                                "tidegate; detail=cross_origin",
                                "{path} {fields:?}"
                            );
                            reply.problem(403);
                        }
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_header_comes_before_the_cookie_and_what_is_wrong_is_refused() {
    let (_origin, gateway) = stage().await;
    let (acme, globex) = (token("acme", "ann"), token("globex", "bob"));
    let (bearer, cookie) = (format!("Bearer {acme}"), format!("session={globex}"));
    let both = with_cookie(&cookie, &[("Authorization", &bearer)]);
    assert_eq!(gateway.get_with("/tenant", &both).await.ok().json()["tenant"], "acme");
    let broken = with_cookie(&cookie, &[("Authorization", "Bearer x.y.z")]);
    gateway.get_with("/tenant", &broken).await.problem(401);
    let basic = with_cookie(&cookie, &[("Authorization", "Basic YTpi")]);
    assert_eq!(gateway.get_with("/tenant", &basic).await.ok().json()["tenant"], "globex");
    let two = format!("session={acme}; session={globex}");
    for (cookie, detail) in [
        (two.as_str(), "token_malformed"),
        ("session=a b", "token_malformed"),
        ("session=x.y.z", "token_malformed"),
        ("session=", "token_missing"),
        ("sessions=x", "token_missing"),
    ] {
        let reply = gateway.get_with("/tenant", &with_cookie(cookie, &[])).await;
        assert_eq!(reply.cache_status(), format!("tidegate; detail={detail}"), "{cookie}");
        reply.problem(401);
    }
}

#[tokio::test]
async fn where_a_token_is_not_needed_a_foreign_cookie_is_none() {
    let (_origin, gateway) = stage().await;
    let cookie = format!("session={}", token("acme", "ann"));
    let foreign = with_cookie(&cookie, FOREIGN);
    assert_eq!(gateway.get_with("/anyone", &foreign).await.ok().json()["tenant"], "public");
    assert_eq!(gateway.get_with("/anyone", &with_cookie(&cookie, OWN)).await.ok().json()["tenant"], "acme");
    assert_eq!(gateway.get_with("/anyone", &foreign).await.ok().json()["tenant"], "public");
    // Where no token is read, a cookie changes nothing, and costs nothing.
    gateway.get_with("/public", &foreign).await.ok();
    let by_lane = || async { gateway.metrics().await.value("tidegate_fast_lane_total", &[]) };
    let before = by_lane().await;
    assert!(gateway.get_with("/public", &foreign).await.ok().is_hit());
    assert!((by_lane().await - before - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_page_opens_a_stream_and_a_websocket_by_its_cookie_and_no_other_page_does() {
    let (_origin, gateway) = stage().await;
    let cookie = format!("session={}", token("acme", "ann"));
    let mut stream = EventStream::open(gateway.address(), "/tenant", &with_cookie(&cookie, OWN)[1..]).await;
    assert_eq!(stream.next().await.json()["tenant"], "acme");
    let accept = [("Accept", "text/event-stream")];
    let foreign = [&with_cookie(&cookie, FOREIGN)[..], &accept].concat();
    gateway.get_with("/tenant", &foreign).await.problem(403);
    for (path, origin, expected) in [
        ("/ws/echo", None, 101),
        ("/ws/echo", Some("http://dash.example.com"), 101),
        ("/ws/echo", Some("https://evil.example"), 403),
        ("/ws/echo", Some("null"), 403),
        ("/ws/listed", Some("https://app.example"), 200),
        ("/ws/listed", Some("https://evil.example"), 403),
    ] {
        let mut lines = vec![format!("Cookie: {cookie}")];
        lines.extend(origin.map(|origin| format!("Origin: {origin}")));
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let (_, head) = websocket::open(gateway.address(), path, &lines).await;
        assert!(head.starts_with(&format!("http/1.1 {expected}")), "{path} {origin:?}: {head}");
    }
}
