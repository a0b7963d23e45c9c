//! Header rules: what an origin is told, what a client is told, on every way that an answer takes.

mod claims;

use crate::support::*;
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::{client::IntoClientRequest, Message};

/// Namespace `kpi`, scope `tenant`.
const KPI: &str = crate::support::gateway::KPI;
const MINUTE: (&str, &str) = ("cache-control", "max-age=60");

/// Takes off, sets and adds, in answers.
const ANSWERS: &str = r#"response_headers = { remove = ["Server", "X-Powered-*"], set = { "X-Cache" = "$cache", "X-Who" = "$tenant/$user" }, add = { "Link" = ["</a>", "</b>"] } }"#;

fn page(body: &str) -> Answer {
    let answer =
        Answer::new("text/plain", body.to_owned()).header(MINUTE.0, MINUTE.1).header("etag", "\"v1\"");
    answer.header("server", "gunicorn").header("x-powered-by", "Flask").header("link", "</theirs>")
}

/// Holds that the rules of [`ANSWERS`] were applied, once.
#[track_caller]
fn is_dressed(reply: &Reply, links: &str) {
    for gone in ["server", "x-powered-by"] {
        assert!(!reply.headers.contains_key(gone), "{gone} in {:?}", reply.headers);
    }
    assert_eq!(reply.all("link"), links, "{:?}", reply.headers);
}

#[tokio::test]
async fn answers_from_everywhere_are_dressed() {
    let origin = TestOrigin::start().await;
    for path in ["/off", "/followed", "/kpi"] {
        origin.on(path, |_| page("text"));
    }
    let gateway = Gateway::with(&origin)
        .route("/off", ANSWERS)
        .route("/followed", &format!("cache = \"origin\"\n{ANSWERS}"))
        .route("/kpi", &format!("{KPI}\n{ANSWERS}"))
        .start()
        .await;
    let all = "</theirs>, </a>, </b>";
    let proxied = gateway.get("/off").await.ok();
    is_dressed(&proxied, all);
    assert_eq!((proxied.header("x-cache"), proxied.header("x-who")), ("bypass", "public/"));
    for (path, first) in [("/followed", "miss"), ("/kpi", "miss")] {
        for (turn, how) in [first, "hit", "hit"].into_iter().enumerate() {
            let reply = gateway.get(path).await.ok();
            is_dressed(&reply, all);
            assert_eq!(reply.header("x-cache"), how, "{path}, turn {turn}: {:?}", reply.headers);
        }
        // Of one stored answer each client gets its own fields.
        let token = crate::support::gateway::token("public", "ann");
        let reply = gateway.get_with(path, &[("authorization", &format!("Bearer {token}"))]).await.ok();
        assert_eq!(reply.header("x-who"), "public/ann", "{path}");
        assert_eq!(gateway.get(path).await.ok().header("x-who"), "public/", "{path}");
    }
    let head = gateway.send_with("HEAD", "/followed", &[]).await.ok();
    is_dressed(&head, all);
    assert!(head.is_hit(), "{:?}", head.headers);
}

#[tokio::test]
async fn a_304_is_set_and_not_added_to() {
    let origin = TestOrigin::start().await;
    origin.on("/followed", |_| page("text").header("x-frame-options", "DENY"));
    let gateway = Gateway::with(&origin)
        .route("/followed", &format!("cache = \"origin\"\nsecurity_headers = true\n{ANSWERS}"))
        .start()
        .await;
    let full = gateway.get("/followed").await.ok();
    assert_eq!(full.all("x-frame-options"), "DENY");
    assert_eq!(full.header("x-content-type-options"), "nosniff");
    let reply = gateway.get_with("/followed", &[("if-none-match", "\"v1\"")]).await;
    assert_eq!(reply.status, 304);
    assert_eq!(reply.header("x-cache"), "hit");
    for absent in ["link", "x-frame-options", "x-content-type-options"] {
        assert!(!reply.headers.contains_key(absent), "{absent} in {:?}", reply.headers);
    }
}

#[tokio::test]
async fn an_answer_that_streams_is_dressed_for_each_who_reads_it() {
    let origin = TestOrigin::start().await;
    origin.on("/stream", |_| page("first ").then_held("rest"));
    let route = format!("cache = \"origin\"\n{ANSWERS}");
    let gateway = Gateway::with(&origin).route("/stream", &route).start().await;
    origin.hold();
    let asking = [(); 2].map(|()| tokio::spawn(send(gateway.request("GET", "/stream"))));
    until("the first part has gone", SOON, || async { origin.sent("/stream").is_some() }).await;
    origin.release();
    for asked in asking {
        let reply = asked.await.unwrap().ok();
        assert_eq!(reply.text(), "first rest");
        is_dressed(&reply, "</theirs>, </a>, </b>");
    }
}

#[tokio::test]
async fn problems_are_dressed_by_their_route_and_by_the_rules_for_all() {
    let mut origin = TestOrigin::start().await;
    let for_all = "[headers]\nsecurity_headers = true\nresponse_headers = { set = { \"X-All\" = \"1\" } }";
    let gateway = Gateway::with(&origin)
        .origin("retries = 0")
        .route("/x", "response_headers = { set = { \"X-Route\" = \"$route\" } }")
        .route(
            "/closed",
            "auth = \"required\"\nsecurity_headers = false\nresponse_headers = { remove = \"X-All\" }",
        )
        .event("order_created", &["kpi"])
        .raw(for_all)
        .start()
        .await;
    let nowhere = gateway.get("/nowhere").await.problem(404);
    assert_eq!((nowhere.header("x-all"), nowhere.header("x-frame-options")), ("1", "SAMEORIGIN"));
    let event = gateway.send_with("POST", "/internal/events/order_created", &[]).await.problem(401);
    assert_eq!((event.header("x-all"), event.header("x-content-type-options")), ("1", "nosniff"));
    let closed = gateway.get("/closed").await.problem(401);
    assert!(
        !closed.headers.contains_key("x-all") && !closed.headers.contains_key("x-frame-options"),
        "{closed:?}"
    );
    origin.kill();
    let failed = gateway.get("/x").await.problem(502);
    assert_eq!((failed.header("x-all"), failed.header("x-route")), ("1", "x"));
    assert_eq!(failed.header("referrer-policy"), "strict-origin-when-cross-origin");
    let bad = raw_exchange(gateway.address(), b"GET /../x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(bad.status == 400 && bad.head.contains("x-all: 1"), "{}", bad.head);
}

/// A route's rules for requests, and one request through it.
async fn told(lines: &str, fields: &[(&str, &str)]) -> Seen {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route("/x", lines).start().await;
    gateway.get_with("/x", fields).await.ok();
    origin.seen("/x").pop().unwrap()
}

#[tokio::test]
async fn an_origin_is_told_what_the_rules_say() {
    let rules = r#"request_headers = { remove = ["Cookie", "X-Debug-*", "X-*"], set = { "X-Client" = "$client_ip", "X-Who" = "$user", "X-At" = "$scheme://$host$path" }, add = { "X-Tag" = ["a", "b"] } }"#;
    let fields = [
        ("cookie", "a=b"),
        ("x-debug-all", "1"),
        ("x-client", "6.6.6.6"),
        ("x_client", "6.6.6.6"),
        ("x-who", "root"),
        ("x_who", "root"),
        ("x-request-id", "mine"),
        ("accept", "text/html"),
    ];
    let seen = told(rules, &fields).await;
    assert_eq!(seen.header("x-client"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-at"), Some("http://127.0.0.1/x"));
    let tags: Vec<_> = seen.headers.get_all("x-tag").iter().collect();
    assert_eq!(tags, ["a", "b"]);
    for gone in ["cookie", "x-debug-all", "x_client", "x-who", "x_who"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
    // A pattern passes by what only the gateway says.
    assert_eq!(seen.header("x-request-id"), Some("mine"));
    assert_eq!(seen.header("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(seen.header("accept"), Some("text/html"));
}

/// Behind CGI and WSGI each of these is the same variable as a field that a rule sets or takes off.
#[tokio::test]
async fn a_rule_is_about_every_name_that_cgi_reads_alike() {
    let origin = TestOrigin::start().await;
    let rules = r#"request_headers = { set = { "X-Plan" = "free" }, remove = ["X-Group", "X-Debug-*"] }"#;
    let builder = Gateway::with(&origin)
        .setting("underscores = \"pass\"")
        .route("/off", rules)
        .route("/followed", &format!("cache = \"origin\"\n{rules}"));
    let gateway = builder.start().await;
    let alike = ["x-plan", "x.plan", "x!plan", "x~plan", "x_plan", "x-group", "x.group", "x`group"];
    let alike = [&alike[..], &["x-debug-a", "x-debug.a", "x.debug-a", "x+debug|a", "x_debug_a"]].concat();
    let fields: Vec<_> = alike.iter().chain(&["x.other"]).map(|name| (*name, "claimed")).collect();
    for (method, path) in [("GET", "/off"), ("POST", "/off"), ("GET", "/followed"), ("POST", "/followed")] {
        gateway.send_with(method, path, &fields).await.ok();
        let seen = origin.seen(path).pop().unwrap();
        let claimed: Vec<_> = seen.headers.iter().filter(|(_, value)| *value == "claimed").collect();
        // An answer for others is not asked for with a name that CGI reads as another one.
        let is_shared = (method, path) == ("GET", "/followed");
        assert_eq!(claimed.len(), usize::from(!is_shared), "{method} {path}: {claimed:?}");
        let other = (!is_shared).then_some("claimed");
        assert_eq!((seen.header("x-plan"), seen.header("x.other")), (Some("free"), other));
    }
}

#[tokio::test]
async fn no_client_makes_a_line_of_its_own() {
    let rules = r#"request_headers = { set = { "X-User-Agent-Of" = "$user" } }"#;
    let origin = TestOrigin::start().await;
    origin.on("/x", |_| page("text"));
    let gateway = Gateway::with(&origin).route("/x", rules).start().await;
    let exp = now_ms() / 1000 + 60;
    for (user, seen) in [("ann", Some("ann")), ("김민수", Some("김민수"))] {
        let token =
            crate::support::gateway::sign(&serde_json::json!({ "sub": user, "tenant": "acme", "exp": exp }));
        send(gateway.request("GET", "/x").bearer_auth(token)).await.ok();
        let told = origin.seen("/x").pop().unwrap();
        let value =
            told.headers.get("x-user-agent-of").map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        assert_eq!(value.as_deref(), seen);
    }
    let token = crate::support::gateway::sign(
        &serde_json::json!({ "sub": "a\r\nX-Role: admin", "tenant": "acme", "exp": exp }),
    );
    send(gateway.request("GET", "/x").bearer_auth(token)).await;
    if let Some(told) = origin.seen("/x").get(2) {
        assert_eq!((told.header("x-user-agent-of"), told.header("x-role")), (None, None));
    }
}

#[tokio::test]
async fn the_host_can_be_another_one() {
    for (lines, host) in [
        (r#"request_headers = { set = { Host = "inner.example:81" } }"#, "inner.example:81"),
        ("cache = \"origin\"\nrequest_headers = { set = { Host = \"x-$host\" } }", "x-127.0.0.1"),
        ("cache = { namespace = \"n\", ttl = \"1s\" }\nrequest_headers = { set = { Host = \"inner.example\" } }", "inner.example"),
        // What is no host is not sent as one.
        (r#"host = "[::1]"
            request_headers = { set = { Host = "x-$host" } }"#, "[::1]"),
    ] {
        let asked = if lines.starts_with("host") { Some(("host", "[::1]")) } else { None };
        let seen = told(lines, asked.as_slice()).await;
        assert_eq!(seen.header("host"), Some(host), "{lines}");
        if !lines.contains("namespace") {
            let forwarded = seen.header("x-forwarded-host").unwrap();
            assert!(forwarded.starts_with("127.0.0.1:") || forwarded == "[::1]", "{forwarded}");
        }
    }
}

#[tokio::test]
async fn a_fill_is_told_what_the_rules_say() {
    let rules = r#"request_headers = { remove = "Cookie", set = { "X-For" = "$tenant", "User-Agent" = "edge" }, add = { "X-Tag" = "a" } }"#;
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route("/kpi", &format!("{KPI}\n{rules}")).start().await;
    gateway.get_as("acme", "/kpi").await.ok();
    let seen = origin.seen("/kpi").pop().unwrap();
    let said = ["x-for", "user-agent", "x-tag", "x-tenant"].map(|name| seen.header(name).unwrap());
    assert_eq!(said, ["acme", "edge", "a", "acme"]);
    assert!(gateway.get_as("acme", "/kpi").await.ok().is_hit());
}

#[tokio::test]
async fn what_the_origin_does_not_see_chooses_no_variant() {
    let origin = TestOrigin::start().await;
    let answer = |seen: &Seen| {
        let body = format!("{:?} {:?}", seen.header("cookie"), seen.header("accept-language"));
        Answer::new("text/plain", body)
            .header(MINUTE.0, MINUTE.1)
            .header("vary", "Cookie, Accept-Language, X-Kept")
    };
    origin.on("/x", answer);
    let rules = "request_headers = { remove = \"Cookie\", set = { \"Accept-Language\" = \"de\" } }";
    let gateway = Gateway::with(&origin).route("/x", &format!("cache = \"origin\"\n{rules}")).start().await;
    for (cookie, language) in [("a=1", "en"), ("b=2", "fr"), ("c=3", "de")] {
        let reply = gateway.get_with("/x", &[("cookie", cookie), ("accept-language", language)]).await.ok();
        assert_eq!(reply.text(), "None Some(\"de\")");
    }
    assert_eq!(origin.count("/x"), 1);
    // What passes still does.
    gateway.get_with("/x", &[("x-kept", "1")]).await.ok();
    assert_eq!(origin.count("/x"), 2);
}

#[tokio::test]
async fn credentials_that_the_origin_does_not_see_are_no_reason_not_to_share() {
    let origin = TestOrigin::start().await;
    origin.on("/x", |seen| page(seen.header("authorization").unwrap_or("nobody")));
    let take = |rule: &str| format!("auth = \"off\"\ncache = \"origin\"\n{rule}");
    let removing = take("request_headers = { remove = \"Authorization\" }");
    let gateway = Gateway::with(&origin).route("/x", &removing).start().await;
    for user in ["Basic YTpi", "Basic Yzpk"] {
        assert_eq!(gateway.get_with("/x", &[("authorization", user)]).await.ok().text(), "nobody");
    }
    assert_eq!(origin.count("/x"), 1);
    // Without the rule each asks for itself, and sees its own.
    let gateway = Gateway::with(&origin).route("/x", &take("")).start().await;
    for user in ["Basic YTpi", "Basic Yzpk"] {
        assert_eq!(gateway.get_with("/x", &[("authorization", user)]).await.ok().text(), user);
    }
}

#[tokio::test]
async fn a_handshake_is_told_as_well() {
    let origin = TestOrigin::start().await;
    let rules = r#"request_headers = { remove = "Cookie", set = { "X-Client" = "$client_ip" } }"#;
    let route = format!("websocket = {{}}\nsecurity_headers = true\n{rules}\nresponse_headers = {{ set = {{ \"X-Edge\" = \"1\" }} }}");
    let gateway = Gateway::with(&origin).route("/ws/echo", &route).start().await;
    let mut request = gateway.url("/ws/echo").replace("http://", "ws://").into_client_request().unwrap();
    request.headers_mut().insert("cookie", "a=b".parse().unwrap());
    for name in ["x-forwarded-prefix", "x-original-url", "script_name", "proxy", "x.client", "remote-groups"]
    {
        request.headers_mut().insert(name, "/forged".parse().unwrap());
    }
    let (mut socket, answer) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(answer.headers()["x-edge"], "1");
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
    let seen = origin.seen("/ws/echo").pop().unwrap();
    assert_eq!((seen.header("x-client"), seen.header("cookie")), (Some("127.0.0.1"), None));
    assert!(seen.headers.values().all(|value| value != "/forged"), "{seen:?}");
}

#[tokio::test]
async fn nothing_of_the_rules_is_stored() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on("/kpi", |_| page("text"));
    let with =
        |rules: &str| Gateway::with(&origin).redis(&redis.url()).route("/kpi", &format!("{KPI}\n{rules}"));
    let first = with(ANSWERS).start().await;
    assert_eq!(first.get("/kpi").await.ok().all("link"), "</theirs>, </a>, </b>");
    let second = with("").start().await;
    let reply = second.get("/kpi").await.ok();
    assert!(reply.is_hit(), "{:?}", reply.headers);
    assert_eq!(reply.all("link"), "</theirs>");
    assert!(!reply.headers.contains_key("x-cache"), "{:?}", reply.headers);
}
