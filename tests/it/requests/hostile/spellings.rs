//! No rule is passed by with another spelling of a path or of a host, and one resource has one key.

use super::*;
use crate::support::tls::{of_http2, Http2};
use bytes::Bytes;

/// Rules of every kind beside a route that takes everything.
struct Ruled {
    origin: TestOrigin,
    gateway: Gateway,
    /// For HTTP/2 with prior knowledge.
    prior: std::net::SocketAddr,
    _files: tempfile::TempDir,
}

impl Ruled {
    async fn set() -> Self {
        Self::set_by(false).await
    }

    /// The rules come by a reload; before there were none.
    async fn set_by_a_reload() -> Self {
        Self::set_by(true).await
    }

    async fn set_by(reload: bool) -> Self {
        let (origin, files) = (TestOrigin::start().await, tempfile::tempdir().unwrap());
        std::fs::write(files.path().join("s.txt"), "the secret").unwrap();
        let private = format!(
            "[[route]]\npath = \"/files/*\"\nauth = \"required\"\nfiles = {{ root = {:?} }}",
            files.path().to_str().unwrap()
        );
        let bare = Gateway::with(&origin)
            .raw("[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true")
            .route("/*", "");
        let ruled = bare
            .clone()
            .event_with("order_created", "bump = [\"kpi\"]\nforward = true")
            .route("/admin/*", "auth = \"required\"")
            .route("/user:1/*", "auth = \"required\"")
            .route("/caf%c3%a9", "auth = \"required\"")
            .route("/post/only", "methods = [\"POST\"]")
            .route(
                "/signed/*",
                "methods = [\"GET\"]\nsigned = { secret = \"a secret of links that is long enough\" }",
            )
            .route("/limited/*", "limit = { rate = \"1/h\" }")
            .route("/w/*", r#"cache = { namespace = "kpi", ttl = "10m", query = ["range"] }"#)
            .route("/f/*", "cache = \"origin\"")
            .route("/repos/*", "escaped_slash = \"pass\"")
            .route("/repos/settings", "auth = \"required\"")
            .route("/strict/*", "escaped_slash = \"refuse\"")
            .route("/*", "host = \"admin.example\"\nauth = \"required\"")
            .raw(&private);
        let gateway = if reload { bare.start().await } else { ruled.start().await };
        if reload {
            assert!(gateway.reload(&ruled).await, "{}", gateway.output());
        }
        let [_, prior] = gateway.listeners(2).await.try_into().unwrap();
        Self { origin, gateway, prior, _files: files }
    }

    /// The answers to a request by HTTP/1.1, where the lane reads it and where it doesn't, and by HTTP/2.
    async fn statuses(&self, method: &str, host: &str, target: &str) -> Vec<u16> {
        let mut statuses = Vec::new();
        for aside in ["", "Connection: close\r\n"] {
            let request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{aside}\r\n");
            statuses.push(raw_exchange(self.gateway.address(), request.as_bytes()).await.status);
        }
        // What can't be said by HTTP/2 is not asked.
        if format!("https://{host}{target}").parse::<http::Uri>().is_ok() {
            let h2 = Http2::over(TcpStream::connect(self.prior).await.unwrap()).await;
            let reply = h2.send(of_http2(method, host, target, Bytes::new())).await.unwrap();
            statuses.push(reply.status.as_u16());
        }
        statuses
    }

    fn asked(&self) -> usize {
        self.origin.counts().values().sum()
    }
}

#[tokio::test]
async fn no_spelling_of_a_path_passes_a_rule_by() {
    holds_for_every_spelling_of_a_path(&Ruled::set().await).await;
}

#[tokio::test]
async fn no_spelling_of_a_path_passes_a_rule_by_that_came_with_a_reload() {
    holds_for_every_spelling_of_a_path(&Ruled::set_by_a_reload().await).await;
}

async fn holds_for_every_spelling_of_a_path(stage: &Ruled) {
    for (method, target, status) in [
        // auth
        ("GET", "/admin/users", 401),
        ("GET", "/%61dmin/users", 401),
        ("GET", "/%61%64%6D%69%6E/users", 401),
        ("GET", "//admin/users", 401),
        ("GET", "///admin//users", 401),
        ("GET", "/admin%2fusers", 400),
        ("GET", "/admin%2Fusers", 400),
        ("GET", "/%2fadmin/users", 400),
        ("GET", "/admin%5cusers", 400),
        ("GET", "/admin\\users", 400),
        ("GET", "/\\admin/users", 400),
        ("GET", "/\\host/admin/users", 400),
        ("GET", "/x/..%2fadmin/users", 400),
        ("GET", "/x/..;/admin/users", 400),
        ("GET", "/admin/%zz", 400),
        ("GET", "/%", 400),
        ("GET", "/user%3A1/x", 401),
        ("GET", "/user%3a1/x", 401),
        ("GET", "/caf%C3%A9", 401),
        ("GET", "/%63af%c3%A9", 401),
        ("PUT", "/%61dmin/users", 401),
        ("DELETE", "/%61dmin/users", 401),
        ("GET", "http://a/%61dmin/users", 401),
        // methods, signatures, files
        ("GET", "/%70ost/only", 405),
        ("DELETE", "/post//only", 405),
        ("GET", "/signed/a", 403),
        ("GET", "/%73igned/a", 403),
        ("GET", "//signed/a", 403),
        ("GET", "/signed%2fa", 400),
        ("GET", "/files/s.txt", 401),
        ("GET", "/%66iles/s.txt", 401),
        ("GET", "//files/%73.txt", 401),
        ("GET", "/files%2fs.txt", 400),
        // events
        ("POST", "/internal/events/order_created", 401),
        ("POST", "/internal/events/%6frder_created", 401),
        ("POST", "/internal//events/order_created", 401),
        ("POST", "/internal/events%2forder_created", 400),
        ("POST", "//internal/events/order_created", 401),
        ("GET", "/internal/events/%6frder_created", 405),
        // A route's own policy
        ("GET", "/repos/%73ettings", 401),
        ("GET", "/strict/a%2Fb", 400),
        ("GET", "/strict/a%5Cb", 400),
    ] {
        if target.starts_with("http") {
            let request = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(raw_exchange(stage.gateway.address(), request.as_bytes()).await.status, status);
            continue;
        }
        for got in stage.statuses(method, "a", target).await {
            assert_eq!(got, status, "{method} {target}");
        }
    }
    assert_eq!(stage.asked(), 0, "{:?}", stage.origin.counts());
}

#[tokio::test]
async fn an_origin_is_sent_the_path_that_came() {
    let stage = Ruled::set().await;
    for target in [
        "/a%2Fb",
        "/a%2fb/%7Ec",
        "/x//y",
        "/%41",
        "/repos/group%2Fname",
        "/repos/%2Fsettings",
        "/f/%7Ea//b%3A",
    ] {
        stage.origin.forget();
        for status in stage.statuses("GET", "a", target).await {
            assert_eq!(status, 200, "{target}");
        }
        let seen = stage.origin.seen(target).len();
        assert!(seen > 0 && seen == stage.asked(), "{target}: {:?}", stage.origin.counts());
    }
}

#[tokio::test]
async fn a_limit_counts_all_spellings_together() {
    let stage = Ruled::set().await;
    for (target, status) in
        [("/limited/a", 200), ("/%6Cimited/a", 429), ("//limited/b", 429), ("/limited//a", 429)]
    {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(
            raw_exchange(stage.gateway.address(), request.as_bytes()).await.status,
            status,
            "{target}"
        );
    }
}

#[tokio::test]
async fn spellings_of_one_resource_share_an_answer_and_a_purge() {
    let stage = Ruled::set().await;
    let get = |target: &'static str| {
        let address = stage.gateway.address();
        async move { raw_exchange(address, format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await }
    };
    // Where the gateway spells the request, an origin sees one path.
    for target in ["/w/~a?range=7d", "/%77/%7Ea?range=7d", "//w//%7ea?range=%37d", "/w/%7ea?range=7d&other=1"]
    {
        assert_eq!(get(target).await.status, 200, "{target}");
    }
    assert_eq!((stage.origin.count("/w/~a"), stage.asked()), (1, 1), "{:?}", stage.origin.counts());
    stage.origin.forget();
    stage.origin.on("/f/~b", |_| Answer::new("text/plain", "b").header("cache-control", "max-age=600"));
    stage.origin.on("/f/%c3", |_| Answer::new("text/plain", "c").header("cache-control", "max-age=600"));
    // Where it doesn't, they are equal as far as RFC 3986 says so.
    for spellings in [["/f/~b?x=~", "/f/%7Eb?x=%7E", "/f/%7eb?x=~"], ["/f/%c3?y", "/f/%C3?%79", "/f/%c3?y"]] {
        let before = stage.asked();
        for spelling in spellings {
            assert_eq!(get(spelling).await.status, 200, "{spelling}");
        }
        assert_eq!(stage.asked(), before + 1, "{spellings:?}");
        let order = serde_json::json!({ "url": format!("http://a{}", spellings[1]) });
        stage.gateway.purge(&order).await.ok();
        assert_eq!(get(spellings[0]).await.status, 200);
        assert_eq!(stage.asked(), before + 2, "a purge of {} ends {}", spellings[1], spellings[0]);
    }
}

#[tokio::test]
async fn no_spelling_of_a_host_passes_a_rule_by() {
    holds_for_every_spelling_of_a_host(&Ruled::set().await).await;
}

#[tokio::test]
async fn no_spelling_of_a_host_passes_a_rule_by_that_came_with_a_reload() {
    holds_for_every_spelling_of_a_host(&Ruled::set_by_a_reload().await).await;
}

async fn holds_for_every_spelling_of_a_host(stage: &Ruled) {
    for (host, status) in [
        ("admin.example", 401),
        ("admin.example.", 401),
        ("ADMIN.example.:80", 401),
        ("admin.example:8080", 401),
        ("admin.example..", 400),
        ("admin.example..:80", 400),
        (".admin.example", 400),
        ("admin..example", 400),
        (".", 400),
        ("..", 400),
    ] {
        for got in stage.statuses("GET", host, "/x").await {
            assert_eq!(got, status, "{host}");
        }
    }
    assert_eq!(stage.asked(), 0, "{:?}", stage.origin.counts());
    // What an origin is told has no root's dot either, whoever asks it.
    for target in ["/x", "/f/x"] {
        stage.origin.forget();
        for status in stage.statuses("GET", "other.example.", target).await {
            assert_eq!(status, 200);
        }
        for seen in stage.origin.seen(target) {
            let named = [seen.header("host"), seen.header("x-forwarded-host")];
            assert_eq!(named, [Some("other.example"); 2], "{target}: {seen:?}");
        }
    }
}
