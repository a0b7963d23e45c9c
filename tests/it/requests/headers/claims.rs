//! Fields that only the gateway, or a trusted proxy, may say: no client says them, and nobody makes an answer for others
//! with them.

use crate::support::{
    gateway::{GatewayBuilder, KPI},
    tls::{of_http2, Http2},
    *,
};
use bytes::Bytes;
use tokio::net::TcpStream;

const TRUST: &str = "trusted_proxies = \"127.0.0.0/8\"";
/// A word that must not get through.
const FORGED: &str = "/forged";

/// Fields that a trusted proxy may say, besides the client's address, scheme and host.
const OF_PROXIES: [&str; 38] = [
    "X-Forwarded",
    "X-Forwarded-Prefix",
    "X-Forwarded-Port",
    "X-Forwarded-Ssl",
    "X-Forwarded-Scheme",
    "X-Forwarded-Protocol",
    "X-Forwarded-Server",
    "X-Forwarded-Path",
    "X-Forwarded-Uri",
    "X-Forwarded-User",
    "X-Original-URL",
    "X-Original-Host",
    "X-Rewrite-URL",
    "X-Host",
    "X-HTTP-Host-Override",
    "X-Script-Name",
    "Script-Name",
    "Path-Info",
    "X-Scheme",
    "Front-End-Https",
    "Client-Cert",
    "SSL-Client-Verify",
    "X-SSL-Client-S-DN",
    "Remote-User",
    "X-Remote-User",
    "X-Auth-Request-Email",
    "Remote-Groups",
    "Remote-Email",
    "Remote.Name",
    "X-Client-Cert",
    "X-Client-Verify",
    "X-SSL-Cert",
    "X-ARR-ClientCert",
    "X-Authenticated-User",
    "X-Goog-Authenticated-User-Email",
    "X-Amzn-Oidc-Data",
    "X-MS-Client-Principal-Name",
    "Tailscale-User-Login",
];
/// Fields that nobody may say.
const OF_NOBODY: [&str; 11] = [
    "Proxy",
    "X-Accel-Mapping",
    "X-Sendfile-Type",
    "X-Tenant",
    "X.Tenant",
    "X.Request-Id",
    "SCRIPT_NAME",
    "PATH_INFO",
    "X_Forwarded_Prefix",
    "X-Forwarded_Host",
    "X_Other",
];
/// Fields that any client may say, where its answer is for itself.
const OVERRIDES: [&str; 11] = [
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "X-Client-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "X-Forward-For",
    "Forwarded-For",
    "Fly-Client-IP",
    "DO-Connecting-IP",
    "X-Azure-SocketIP",
];

fn builder(origin: &TestOrigin) -> GatewayBuilder {
    Gateway::with(origin)
        .raw("[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true")
        .route("/off/*", "")
        .route("/followed/*", "cache = \"origin\"")
        .route("/kpi", KPI)
}

/// Sends all of it by each way, and gives what the origin saw of each.
async fn seen_of_all(origin: &TestOrigin, gateway: &Gateway, names: &[&str]) -> Vec<(String, Seen)> {
    let prior = gateway.listeners(2).await[1];
    let h2 = Http2::over(TcpStream::connect(prior).await.unwrap()).await;
    let mut all = Vec::new();
    for (method, path) in [
        ("GET", "/off/x"),
        ("HEAD", "/off/x"),
        ("POST", "/off/x"),
        ("GET", "/followed/x"),
        ("HEAD", "/followed/y"),
        ("POST", "/followed/x"),
        ("GET", "/kpi"),
    ] {
        origin.forget();
        let fields: String = names.iter().map(|name| format!("{name}: {FORGED}\r\n")).collect();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{fields}Connection: close\r\n\r\n");
        raw_exchange(gateway.address(), request.as_bytes()).await;
        all.extend(origin.seen(path).into_iter().map(|seen| (format!("{method} {path}"), seen)));
        origin.forget();
        let mut request = of_http2(method, "b", path, Bytes::new());
        for name in names {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().insert(name, FORGED.parse().unwrap());
        }
        h2.send(request).await.unwrap();
        all.extend(origin.seen(path).into_iter().map(|seen| (format!("HTTP/2 {method} {path}"), seen)));
    }
    // Of the namespace each host gets the same answer.
    assert_eq!(all.len(), 13);
    all
}

fn forged(seen: &Seen) -> Vec<&str> {
    seen.headers.iter().filter(|(_, value)| *value == FORGED).map(|(name, _)| name.as_str()).collect()
}

fn sorted(names: &[&str]) -> Vec<String> {
    let mut names: Vec<_> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_client_says_nothing_that_only_a_proxy_or_the_gateway_may_say() {
    let origin = TestOrigin::start().await;
    let gateway = builder(&origin).start().await;
    let names = [&OF_PROXIES[..], &OF_NOBODY].concat();
    for (how, seen) in seen_of_all(&origin, &gateway, &names).await {
        assert_eq!(forged(&seen), [""; 0], "{how}");
    }
}

#[tokio::test]
async fn what_a_trusted_proxy_says_passes_and_is_asked_for_nobody_else() {
    let origin = TestOrigin::start().await;
    let gateway = builder(&origin).setting(TRUST).start().await;
    let names = [&OF_PROXIES[..], &OF_NOBODY, &OVERRIDES].concat();
    let passes = sorted(&[&OF_PROXIES[..], &OVERRIDES].concat());
    for (how, seen) in seen_of_all(&origin, &gateway, &names).await {
        let shared = how.contains("/kpi") || how.contains("/followed") && !how.contains("POST");
        let mut got = forged(&seen);
        got.sort_unstable();
        assert_eq!(got, if shared { Vec::new() } else { passes.clone() }, "{how}");
    }
}

/// One anonymous request would put a foreign script into everybody's page.
#[tokio::test]
async fn nobody_makes_an_answer_for_others() {
    for trust in ["", TRUST] {
        let origin = TestOrigin::start().await;
        for path in ["/followed/page", "/followed/posted"] {
            origin.on(path, |seen| {
                let said = forged(seen).concat();
                let answer = Answer::new("text/html", format!("<script src=\"{said}/app.js\"></script>"));
                answer.header("cache-control", "max-age=60").header("content-location", "/followed/posted")
            });
        }
        let gateway = builder(&origin).setting(trust).start().await;
        // `Accept.Language` is `Accept-Language` to CGI, and no `Vary` names it.
        for name in [&OF_PROXIES[..], &OF_NOBODY, &OVERRIDES, &["accept.language"]].concat() {
            let page = format!("/followed/page?{name}");
            for method in ["GET", "HEAD", "GET"] {
                send(gateway.request(method, &page).header(name, FORGED)).await.ok();
            }
            let page = gateway.get(&page).await.ok();
            assert!(page.is_hit() && !page.text().contains(FORGED), "{name}: {page:?}");
            // What a POST was answered with stands for its target (RFC 9110, 9.3.3).
            send(gateway.request("POST", "/followed/posted").header(name, FORGED)).await.ok();
            let posted = gateway.get("/followed/posted").await.ok();
            assert!(!posted.text().contains(FORGED), "{name}: {posted:?}");
            send(gateway.request("DELETE", "/followed/posted")).await;
        }
    }
}

#[tokio::test]
async fn fields_that_a_route_lists_tell_its_answers_apart() {
    let origin = TestOrigin::start().await;
    origin.on("/followed/page", |seen| {
        let said = ["x-forwarded-prefix", "x-http-method-override", "x_mode"].map(|name| seen.header(name));
        Answer::new("text/plain", format!("{said:?}")).header("cache-control", "max-age=60")
    });
    let rules = r#"cache = { follow = "origin", key_headers = ["X-Forwarded-Prefix", "X-HTTP-Method-Override", "X_Mode"] }"#;
    let start = async |settings: &str| {
        Gateway::with(&origin)
            .setting(&format!("underscores = \"pass\"\n{settings}"))
            .route("/followed/*", rules)
            .start()
            .await
    };
    let gateway = start(TRUST).await;
    let asked = [
        ("x-forwarded-prefix", "/a"),
        ("x-forwarded-prefix", "/b"),
        ("x-http-method-override", "PUT"),
        ("x_mode", "1"),
    ];
    for hit in [false, true] {
        for field in asked {
            let reply = gateway.get_with("/followed/page", &[field]).await.ok();
            assert_eq!(reply.is_hit(), hit, "{reply:?}");
            assert_eq!(reply.text().matches(&format!("{:?}", field.1)).count(), 1, "{reply:?}");
            let vary = reply.all("vary").to_ascii_lowercase();
            assert!(vary.contains("x-forwarded-prefix") && vary.contains("x_mode"), "{reply:?}");
        }
    }
    assert_eq!(origin.count("/followed/page"), asked.len());
    // A client that is no trusted proxy has no prefix, with or without an answer for it.
    let gateway = start("").await;
    for hit in [false, true] {
        let reply = gateway.get_with("/followed/page", &[("x-forwarded-prefix", "/a")]).await.ok();
        assert_eq!((reply.text(), reply.is_hit()), ("[None, None, None]", hit));
    }
}

/// gunicorn believes `SCRIPT_NAME` of its neighbours, and runs another route's path.
#[tokio::test]
async fn underscores_pass_where_the_configuration_says_so() {
    let origin = TestOrigin::start().await;
    let names = [&OF_NOBODY[..], &["X_Forwarded_For"]].concat();
    let gateway = builder(&origin).setting("underscores = \"pass\"").start().await;
    for (how, seen) in seen_of_all(&origin, &gateway, &names).await {
        // `Accept_Language` is `Accept-Language` to CGI, and no `Vary` would name it.
        let is_shared = how.contains("/kpi") || how.contains("/followed") && !how.contains("POST");
        let passes: &[&str] = if is_shared { &[] } else { &["x_other"] };
        assert_eq!(forged(&seen), passes, "{how}");
    }
}

/// A proxy may pass on what a client says of the host. Whoever asks for a part, or with credentials, asks alone, and
/// others get the answer all the same where its origin calls it public.
#[tokio::test]
async fn an_answer_for_others_is_made_for_the_host_that_it_is_kept_under() {
    let origin = TestOrigin::start().await;
    let page = |seen: &Seen| {
        let said = ["x-forwarded-host", "forwarded"].map(|name| seen.header(name).unwrap_or_default());
        let link = format!("<https://{}/>; rel=\"canonical\"", said[0]);
        let answer = Answer::new("text/plain", said.concat()).header("link", &link).header("etag", "\"v1\"");
        answer.header("cache-control", "public, max-age=60").header("content-location", "/followed/posted")
    };
    for path in ["/followed/page", "/followed/posted"] {
        origin.on(path, page);
    }
    let gateway = builder(&origin).setting(TRUST).start().await;
    let evil = [("x-forwarded-host", "evil.example"), ("x-forwarded-for", "192.0.2.1")];
    let forwarded = [("forwarded", "for=192.0.2.1;host=evil.example")];
    for (n, told) in [&evil[..], &forwarded].into_iter().enumerate() {
        for (m, alone) in
            [&[][..], &[("range", "bytes=0-999")], &[("authorization", "Basic YTpi")]].into_iter().enumerate()
        {
            let (page, fields) = (format!("/followed/page?{n}-{m}"), [told, alone].concat());
            for method in ["GET", "HEAD", "GET"] {
                gateway.send_with(method, &page, &fields).await;
            }
            let kept = gateway.get(&page).await.ok();
            let heads = format!("{} {:?}", kept.text(), kept.headers);
            assert!(kept.is_hit() && !heads.contains("evil"), "{fields:?}: {kept:?}");
        }
        gateway.send_with("HEAD", "/followed/page?0-0", told).await;
        let kept = gateway.get("/followed/page?0-0").await.ok();
        assert!(!kept.header("link").contains("evil"), "{kept:?}");
        gateway.send_with("POST", "/followed/posted", told).await;
        let posted = gateway.get("/followed/posted").await.ok();
        assert!(!posted.text().contains("evil"), "{posted:?}");
        gateway.send_with("DELETE", "/followed/posted", &[]).await;
    }
}
