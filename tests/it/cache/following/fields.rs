//! Fields: what the origin says reaches every client, what is of one connection reaches nobody, and nobody claims
//! what only the gateway may say.

use crate::{
    cache::following::{gateway, with, FOLLOW},
    support::{gateway::token, *},
};
use std::time::{Duration, SystemTime};

fn ago(seconds: u64) -> String {
    httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(seconds))
}

#[tokio::test]
async fn a_hit_says_what_the_origin_said_and_how_old_it_is() {
    let origin = TestOrigin::start().await;
    let (date, changed) = (ago(10), ago(5000));
    let fields = [
        ("date", date.as_str()),
        ("last-modified", &changed),
        ("etag", "\"v1\""),
        ("cache-control", "public, max-age=60, community=\"UCI\""),
        ("expires", "Thu, 01 Jan 2099 00:00:00 GMT"),
        ("link", "</a.css>; rel=preload"),
        ("link", "</b.css>; rel=preload"),
        ("x-own", "kept, \"as it is\""),
        ("content-language", "de"),
        ("content-security-policy", "default-src 'self'"),
        ("vary", "X-Other"),
    ];
    let answer = with("the page", &fields);
    origin.on("/x", move |_| answer.clone());
    let gateway = gateway(&origin).start().await;
    let (miss, hit) = (gateway.get("/x").await.ok(), gateway.get("/x").await.ok());
    assert!(!miss.is_hit() && hit.is_hit(), "{miss:?} {hit:?}");
    for reply in [&miss, &hit] {
        assert_eq!(reply.text(), "the page");
        for (name, value) in &fields {
            assert!(reply.all(name).contains(value), "{name}: {value} in {reply:?}");
        }
        for once in
            ["date", "etag", "last-modified", "cache-control", "age", "content-length", "cache-status"]
        {
            assert!(reply.headers.get_all(once).iter().count() <= 1, "{once} in {reply:?}");
        }
        assert_eq!(reply.headers.get_all("link").iter().count(), 2, "{reply:?}");
    }
    let age: u64 = hit.header("age").parse().unwrap();
    assert!((9..30).contains(&age), "it was ten seconds old when it came, to the second: {hit:?}");
    let names = |reply: &Reply| {
        let names = reply.headers.keys().map(|name| name.as_str().to_owned());
        let mut names: Vec<_> = names.filter(|name| name != "age").collect();
        names.sort();
        names
    };
    assert_eq!(names(&miss), names(&hit), "a hit tells neither more nor less");
    assert_eq!(origin.count("/x"), 1);
}

/// An answer with all that is of one connection.
const HOPS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\
    Cache-Control: max-age=60\r\nConnection: X-Hop, x-second-hop\r\nX-Hop: secret\r\nX-Second-Hop: secret\r\n\
    Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authenticate: Basic\r\n\
    Proxy-Authentication-Info: secret\r\nTE: trailers\r\nTrailer: X-End\r\nUpgrade: h2c\r\nX-Own: kept\r\n\r\n";
const HOP_NAMES: [&str; 9] = [
    "x-hop",
    "x-second-hop",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authentication-info",
    "te",
    "trailer",
    "upgrade",
];

#[tokio::test]
async fn what_is_of_the_origins_connection_stays_there() {
    let origin = RawOrigin::start(HOPS, "page").await;
    origin.release();
    let gateway = before(&origin.url()).start().await;
    for path in ["/x", "/x", "/off/x"] {
        let mut client = Transfer::ask(gateway.address(), path).await;
        let head = client.final_head().await;
        assert_eq!((head.status, head.header("x-own")), (200, Some("kept")), "{path}");
        let passed: Vec<_> = HOP_NAMES.iter().filter(|name| head.header(name).is_some()).collect();
        assert!(passed.is_empty(), "{path}: {passed:?}");
        assert!(head.header("connection").is_none_or(|said| !said.contains("hop")), "{path}: {}", head.text);
        assert_eq!(client.rest().await, (b"page".to_vec(), End::Clean), "{path}");
    }
    assert_eq!(origin.requests(), 2, "the second was a hit");
}

fn before(url: &str) -> GatewayBuilder {
    GatewayBuilder::new(url).origin("retries = 0").route("/*", FOLLOW).route("/off/*", "")
}

async fn ask(gateway: &Gateway, path: &str, fields: &[(&str, &str)]) {
    let mut client = Transfer::ask_with(gateway.address(), path, fields).await;
    let head = client.final_head().await;
    assert_eq!(head.status, 200, "{}", head.text);
}

#[tokio::test]
async fn what_is_of_the_clients_connection_stays_there() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).start().await;
    for path in ["/x", "/off/x"] {
        let fields = [
            ("Connection", "X-Hop, x-second-hop"),
            ("X-Hop", "secret"),
            ("X-Second-Hop", "secret"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("TE", "trailers"),
            ("Trailer", "X-End"),
            ("X-Own", "kept"),
        ];
        ask(&gateway, path, &fields).await;
        let seen = origin.seen(path).pop().unwrap();
        assert_eq!(seen.header("x-own"), Some("kept"));
        for name in HOP_NAMES {
            assert_eq!(seen.header(name), None, "{path}: {name} in {seen:?}");
        }
        assert!(seen.header("connection").is_none_or(|said| !said.contains("hop")), "{seen:?}");
        assert!(seen.header("via").is_some_and(|via| via == "1.1 tidegate"), "{seen:?}");
    }
}

#[tokio::test]
async fn credentials_for_a_proxy_are_no_business_of_the_origin() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).start().await;
    for path in ["/x", "/off/x"] {
        ask(&gateway, path, &[("Proxy-Authorization", "Basic c2VjcmV0")]).await;
        let seen = origin.seen(path).pop().unwrap();
        assert_eq!(seen.header("proxy-authorization"), None, "{path}: {seen:?}");
    }
}

#[tokio::test]
async fn an_offer_to_upgrade_is_not_passed_on() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).start().await;
    for path in ["/x", "/off/x"] {
        ask(&gateway, path, &[("Upgrade", "h2c")]).await;
        let seen = origin.seen(path).pop().unwrap();
        assert_eq!(seen.header("upgrade"), None, "{path}: {seen:?}");
    }
}

/// RFC 9110, 7.6.1 lets a client name fields that go no further than the first hop. The gateway's own are not the
/// client's to name: an origin without a tenant may well show everything.
#[tokio::test]
async fn nobody_takes_away_what_the_gateway_says() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).start().await;
    let bearer = format!("Bearer {}", token("acme", "ann"));
    let ours =
        ["x-tenant", "x-user", "x-role", "x-real-ip", "x-forwarded-for", "forwarded", "via", "x-request-id"];
    let mut lost = Vec::new();
    for path in ["/x", "/off/x"] {
        for name in ours {
            let fields = [("Authorization", bearer.as_str()), ("Connection", name)];
            let mut client = Transfer::ask_with(gateway.address(), path, &fields).await;
            // Who is refused takes nothing away.
            if client.final_head().await.status == 200
                && origin.seen(path).pop().unwrap().header(name).is_none()
            {
                lost.push((path, name));
            }
        }
    }
    assert!(lost.is_empty(), "the origin isn't told {lost:?}");
}

#[tokio::test]
async fn nobody_claims_what_only_the_gateway_says() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin).start().await;
    for path in ["/x", "/off/x"] {
        let claims = [
            ("X-Tenant", "globex"),
            ("X_Tenant", "globex"),
            ("X-User", "root"),
            ("X-Role", "admin"),
            ("X-Forwarded-For", "6.6.6.6"),
            ("X-Forwarded-Host", "evil.example"),
            ("X-Forwarded-Proto", "https"),
            ("X-Real-IP", "6.6.6.6"),
            ("Forwarded", "for=6.6.6.6"),
        ];
        ask(&gateway, path, &claims).await;
        let seen = origin.seen(path).pop().unwrap();
        for word in ["globex", "root", "admin", "6.6.6.6", "evil"] {
            let told = seen.headers.values().any(|value| value.to_str().unwrap().contains(word));
            assert!(!told, "{path}: {word} in {seen:?}");
        }
        assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"), "{path}");
        assert_eq!(seen.header("x-forwarded-proto"), Some("http"), "{path}");
        assert_eq!(seen.header("x-forwarded-host"), Some(&*gateway.address().to_string()), "{path}");
    }
}

#[tokio::test]
async fn via_names_the_gateway_after_those_before_it() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |_| crate::cache::following::fresh("x").header("via", "1.1 app"));
    origin.on("/off/x", |_| crate::cache::following::fresh("x").header("via", "1.1 app"));
    let gateway = gateway(&origin).start().await;
    let mut told = Vec::new();
    for path in ["/x", "/x", "/off/x"] {
        let reply = gateway.get_with(path, &[("via", "1.0 fred")]).await.ok();
        told.push((path, reply.all("via")));
    }
    for path in ["/x", "/off/x"] {
        let seen = origin.seen(path).pop().unwrap();
        let via: Vec<_> = seen.headers.get_all("via").iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(via.join(", "), "1.0 fred, 1.1 tidegate", "{path}");
    }
    assert_eq!(told, ["/x", "/x", "/off/x"].map(|path| (path, "1.1 app, 1.1 tidegate".to_owned())));
}

/// Apache sends this with every answer. A browser that reads it on an answer of ours would break off.
#[tokio::test]
async fn an_origins_offer_to_upgrade_is_not_passed_on() {
    let head = "HTTP/1.1 200 OK\r\nUpgrade: h2,h2c\r\nConnection: Upgrade\r\nContent-Length: 4\r\n\
                Cache-Control: max-age=60\r\n\r\n";
    let origin = RawOrigin::start(head, "page").await;
    origin.release();
    let gateway = before(&origin.url()).start().await;
    for path in ["/x", "/x", "/off/x"] {
        let mut client = Transfer::ask(gateway.address(), path).await;
        let head = client.final_head().await;
        let named = head.header("connection").is_some_and(|said| said.contains("upgrade"));
        assert!(head.header("upgrade").is_none() && !named, "{path}: {}", head.text);
    }
}
