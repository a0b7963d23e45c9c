//! Request smuggling: whatever a client sends, the origin gets exactly the requests that were meant, or nothing.
//!
//! Each case is bytes and a verdict. What the origin got is read by a strict reader of these tests, and behind each case
//! follows a probe on the same connection: it is answered as itself, or not at all.

mod cases;
mod fuzz;
mod replies;
mod stage;

use crate::support::{
    gateway::KPI,
    strict::{self, Message},
    GatewayBuilder, Recorder, Say,
};
use cases::{all, Case, End, PROBE, SMUGGLED, UPGRADES};
use replies::{Gets, Reply};
use stage::{exchange, Stage};
use std::net::SocketAddr;

/// Every case on a route that keeps nothing.
#[tokio::test]
async fn cases_on_an_uncached_route() {
    let mut stage = Stage::set().await;
    let cases = all();
    assert!(cases.len() >= 90, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for (n, case) in cases.iter().enumerate() {
        wrong.extend(stage.judge(case, &format!("/app/{n}-")).await.err());
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(stage.origin.settled().await.requests.is_empty(), "something came late");
    stage.sound().await;
}

/// A refused request is refused on every kind of route, and leaves nothing in a cache.
#[tokio::test]
async fn refusals_on_every_kind_of_route() {
    let mut stage = Stage::set().await;
    let refused = |case: &Case| {
        matches!(case.end, End::Refused(_))
            && case.passes.is_empty()
            && case.own.is_empty()
            && case.group != UPGRADES
    };
    let cases: Vec<Case> = all().into_iter().filter(refused).collect();
    let mut wrong = Vec::new();
    for path in ["/api/widgets/kpi", "/followed/x", "/internal/events/order_created"] {
        for case in &cases {
            wrong.extend(stage.judge(case, path).await.err());
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
    stage.sound().await;
}

/// A hit is answered without its request's body, and a followed route passes it on: what the body holds is never taken for the next request.
#[tokio::test]
async fn bodies_of_requests_that_a_cache_answers() {
    let stage = Stage::set().await;
    for path in ["/api/widgets/kpi", "/followed/fresh"] {
        let sized = format!("Content-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len());
        let chunked =
            format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
        let expecting = format!("Expect: 100-continue\r\n{sized}");
        let mut hits = 0;
        for rest in ["\r\n", &sized, &chunked, &expecting] {
            for method in ["GET", "HEAD"] {
                let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{rest}{PROBE}");
                let (said, ended) = exchange(stage.gateway.address(), request.as_bytes(), false).await;
                assert!(ended, "{method} {path} {rest:?}");
                let (answers, _) = strict::responses(&said, &[method, "GET"]).unwrap();
                assert_eq!(answers[0].status(), 200, "{method} {path} {rest:?}");
                hits +=
                    usize::from(answers[0].head.field("cache-status").is_some_and(|s| s.contains("; hit")));
                if let Some(second) = answers.get(1) {
                    assert_eq!(second.text(), "GET /app/probe", "{method} {path} {rest:?}");
                }
                assert!(answers.len() <= 2, "{method} {path} {rest:?}");
            }
        }
        assert!(hits > 0, "{path}: {hits} hits");
        let record = stage.origin.take();
        assert_eq!(record.illegal, Vec::<String>::new());
        assert!(record.requests.iter().all(|request| request.target() != "/app/smuggled"), "{path}");
    }
}

/// The page counts the cases of each group as they are.
#[test]
fn the_page_tells_what_is_tested() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/hostile-input.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut groups: Vec<&str> = all().iter().map(|case| case.group).collect();
    groups.dedup();
    for group in groups {
        let cases: Vec<Case> = all().into_iter().filter(|case| case.group == group).collect();
        let count = |holds: fn(&Case) -> bool| cases.iter().filter(|case| holds(case)).count();
        let refused = count(|case| matches!(case.end, End::Refused(_)));
        let cut_off = count(|case| matches!(case.end, End::CutOff(_)));
        let passed = count(|case| matches!(case.end, End::Open | End::Closed));
        let row = format!("| {group} | {} | {refused} | {cut_off} | {passed} |", cases.len());
        assert!(page.contains(&row), "docs/hostile-input.md has no row {row}");
    }
}

/// Hop-by-hop fields end with their connection, and no client can send the gateway's own fields.
#[tokio::test]
async fn fields_of_a_connection_end_with_it() {
    let stage = Stage::set().await;
    let fields = "Connection: X-Named, x-other\r\nConnection: X-Third, X-Tenant, X-Real-IP\r\nX-Named: 1\r\nX-Other: 1\r\n\
                  X-Third: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authenticate: Basic\r\n\
                  Proxy-Authentication-Info: x\r\nProxy-Authorization: Basic eA==\r\nTE: trailers\r\nTrailer: X-Sum\r\nUpgrade: h2c\r\n\
                  HTTP2-Settings: AAMAAABk\r\nX_Real_IP: 1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\nX-Kept: 1\r\n";
    let path_and_method =
        [("GET", "/app/x"), ("POST", "/app/x"), ("GET", "/followed/x"), ("POST", "/followed/x")];
    for (method, path) in path_and_method {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n{PROBE}");
        let (said, _) = exchange(stage.gateway.address(), request.as_bytes(), false).await;
        let (answers, _) = strict::responses(&said, &[method, "GET"]).unwrap();
        assert_eq!(answers[0].status(), 200, "{method} {path}");
        let record = stage.origin.take();
        assert_eq!(record.illegal, Vec::<String>::new(), "{method} {path}");
        let head = &record.requests[0].head;
        let named = [
            "x-named",
            "x-other",
            "x-third",
            "x-tenant",
            "x_real_ip",
            "upgrade",
            "keep-alive",
            "te",
            "trailer",
        ];
        let known =
            ["proxy-authenticate", "proxy-authentication-info", "proxy-authorization", "proxy-connection"];
        for gone in named.iter().chain(&known).chain(&["http2-settings"]) {
            assert_eq!(head.field(gone), None, "{method} {path}: {gone}");
        }
        assert!(head.field("connection").is_none_or(|value| value == "keep-alive"), "{method} {path}");
        assert_eq!(head.field("x-kept").as_deref(), Some("1"), "{method} {path}");
        assert_eq!(head.field("x-real-ip").as_deref(), Some("127.0.0.1"), "{method} {path}: named, but ours");
        assert_eq!(head.field("x-forwarded-for").as_deref(), Some("127.0.0.1"), "{method} {path}");
    }
}

/// Whatever an origin says, the client's connection stays in step, and nobody gets what was said to somebody else.
#[tokio::test]
async fn answers_of_an_origin() {
    let replies = replies::all();
    let said = replies.clone();
    let origin = Recorder::start(move |request: &Message| {
        let number =
            request.target().strip_suffix("-bad").and_then(|t| t.rsplit('/').next()?.parse::<usize>().ok());
        number.map_or_else(|| Say::plain(request), |n| said[n].say.clone())
    })
    .await;
    let mut builder = GatewayBuilder::new(&origin.url())
        .origin("retries = 0")
        .route("/app/*", "")
        .route("/followed/*", "cache = \"origin\"");
    for n in 0..replies.len() {
        builder = builder.route(&format!("/cached/{n}-bad"), &KPI.replace("kpi", &format!("kpi{n}")));
    }
    let mut wrong = Vec::new();
    let mut gateway = builder.start().await;
    let to = gateway.address();
    for route in ["/app", "/followed", "/cached"] {
        for (n, reply) in replies.iter().enumerate() {
            let path = format!("{route}/{n}-bad");
            if let Err(fault) = hears(to, &path, reply).await {
                wrong.push(format!("--- {} ({path}): {fault}", reply.what));
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(origin.settled().await.illegal, Vec::<String>::new());
    gateway.assert_sound().await;
}

/// One client asks for this and for a probe; others ask after it.
async fn hears(to: SocketAddr, path: &str, reply: &Reply) -> Result<(), String> {
    let method = reply.method;
    let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n{PROBE}");
    let (said, ended) = exchange(to, request.as_bytes(), false).await;
    let shown = String::from_utf8_lossy(&said[..said.len().min(700)]).into_owned();
    if !ended {
        return Err(format!("no end: {shown:?}"));
    }
    judge(reply, &said).map_err(|fault| format!("{fault}\n{shown:?}"))?;
    for after in 0..2 {
        let path = format!("/app/after{after}");
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let (said, _) = exchange(to, request.as_bytes(), false).await;
        let (answers, _) = strict::responses(&said, &["GET"]).map_err(|illegal| illegal.0)?;
        if answers.first().map(Message::text) != Some(format!("GET {path}")) {
            return Err(format!("somebody else was told {:?}", String::from_utf8_lossy(&said)));
        }
    }
    Ok(())
}

fn judge(reply: &Reply, said: &[u8]) -> Result<(), String> {
    let in_step = |rest: &[Message]| match rest {
        [] => Ok(()),
        [probe] if probe.text() == "GET /app/probe" => Ok(()),
        _ => Err("out of step".to_owned()),
    };
    match (strict::responses(said, &[reply.method, "GET"]), &reply.gets) {
        (Ok((answers, interim)), Gets::Answer(status, body)) => {
            let Some((first, rest)) = answers.split_first() else { return Err("no answer".to_owned()) };
            if (first.status(), first.text().as_str()) != (*status, *body) || interim > 10 {
                return Err(format!("{} and {interim} interim ones", first.status()));
            }
            for name in [
                "x-named",
                "keep-alive",
                "proxy-connection",
                "proxy-authenticate",
                "te",
                "trailer",
                "upgrade",
            ] {
                if first.head.field(name).is_some() {
                    return Err(format!("{name} passed"));
                }
            }
            in_step(rest)
        }
        (Ok((answers, _)), Gets::Failure) => match answers.split_first() {
            Some((first, rest)) if first.status() >= 500 => in_step(rest),
            Some((first, _)) => Err(format!("{} with {:?}", first.status(), first.text())),
            None => Err("no answer".to_owned()),
        },
        // Who reads strictly knows.
        (Err(illegal), Gets::Failure) if illegal.0.starts_with("a response that is cut short") => Ok(()),
        (Err(illegal), _) => Err(illegal.0),
    }
}
