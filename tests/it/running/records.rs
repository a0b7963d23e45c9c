//! The log as its reader sees it: whole lines in order, none missing at the end, and nothing waits for a reader that is away.

use crate::support::*;
use std::{collections::HashMap, time::Duration};

/// Fewer lines than a [`Process`] keeps, and more of the gateway's own beside them.
const CLIENTS: usize = 8;
const REQUESTS: usize = 60;

/// The value of a field in a line of text.
fn field<'l>(line: &'l str, name: &str) -> &'l str {
    let begin = line.find(&format!(" {name}=")).unwrap_or_else(|| panic!("no {name} in {line}"));
    let value = &line[begin + name.len() + 2..];
    value.split(' ').next().unwrap().trim_matches('"')
}

#[tokio::test]
async fn every_record_is_a_whole_line_in_order_and_none_is_missing_at_the_end() {
    // Nobody listens there: each fill that fails is a line of another kind, written by other threads.
    let builder = GatewayBuilder::new("http://127.0.0.1:1").access();
    let cache = r#"cache = { namespace = "kpi", scope = "public", ttl = "60s" }"#;
    let mut gateway = builder.route("/app/*", cache).start().await;
    let clients = (0..CLIENTS).map(|client| {
        // A connection of its own.
        let http = reqwest::Client::new();
        let url = |request| gateway.url(&format!("/app/{client}/{request}?token=secret"));
        let urls: Vec<String> = (0..REQUESTS).map(url).collect();
        async move {
            for url in urls {
                let status = http.get(url).send().await.unwrap().status();
                assert!(status.is_server_error(), "{status}");
            }
        }
    });
    futures_util::future::join_all(clients).await;
    // At once: what was recorded last still waits.
    gateway.sigterm();
    assert!(gateway.wait(SOON).await.success());
    let output = gateway.last_output();
    let mut seen: HashMap<String, Vec<usize>> = HashMap::new();
    let mut others = 0;
    for line in output.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        assert!(
            words[0].starts_with("20") && words[0].ends_with('Z') && words[0].len() == 27,
            "torn: {line}"
        );
        assert!(["INFO", "WARN"].contains(&words[1]), "torn: {line}");
        assert!(line.matches("Z  ").count() + line.matches("Z ERROR").count() <= 1, "two in one: {line}");
        if words[2] != "access:" {
            others += 1;
            continue;
        }
        let path: Vec<&str> = field(line, "path").split('/').collect();
        assert_eq!((path[1], field(line, "result")), ("app", "error"), "{line}");
        assert!(!line.contains("secret"), "{line}");
        seen.entry(path[2].to_owned()).or_default().push(path[3].parse().unwrap());
    }
    assert!(others > CLIENTS * REQUESTS / 2, "{others} lines of other kinds:\n{output}");
    let all: Vec<usize> = (0..REQUESTS).collect();
    assert_eq!(seen.len(), CLIENTS);
    assert!(seen.values().all(|requests| *requests == all), "{seen:?}");
}

/// A path that makes long lines.
fn long(path: &str, number: usize) -> String {
    format!("{path}/{}/{number}", "x".repeat(4_000))
}

/// In front of an origin, with a route that is cached and one whose origin is away: each of its requests is a line of
/// its own beside the record.
fn with_an_origin_away(origin: &TestOrigin) -> GatewayBuilder {
    let cache = |origin: &str, namespace: &str| {
        format!(
            "origin = {origin:?}\ncache = {{ namespace = {namespace:?}, scope = \"public\", ttl = \"60s\" }}"
        )
    };
    let route = |path: &str, rest: &str| format!("[[route]]\npath = {path:?}\n{rest}\n");
    Gateway::with(origin)
        .access()
        .raw("[[origin]]\nname = \"away\"\nservers = [\"http://127.0.0.1:1\"]\n")
        .raw(&route("/kept/*", &cache("app", "kpi")))
        .raw(&route("/away/*", &cache("away", "gone")))
}

async fn is_answered(gateway: &Gateway, url: &str) {
    let reply = send(gateway.client().get(url).timeout(SOON)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

async fn dropped(gateway: &Gateway) -> f64 {
    gateway.metrics().await.value("tidegate_log_lines_dropped_total", &[])
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nothing() {
    let (origin, mut redis) = (TestOrigin::start().await, Redis::start().await);
    let gateway = with_an_origin_away(&origin).redis(&redis.url()).start().await;
    let hit = gateway.url("/kept/a");
    is_answered(&gateway, &hit).await;

    gateway.read_output(false);
    redis.kill();
    let mut sent = 0;
    while dropped(&gateway).await == 0.0 {
        assert!(sent < 100_000, "no line is ever dropped");
        let requests = (sent..sent + 64)
            .map(|number| send(gateway.client().get(gateway.url(&long("/away", number))).timeout(SOON)));
        let replies = futures_util::future::join_all(requests).await;
        assert!(replies.iter().all(|reply| reply.status.is_server_error()), "{replies:?}");
        sent += replies.len();
        is_answered(&gateway, &hit).await;
        is_answered(&gateway, &gateway.admin_url("/healthz")).await;
    }

    gateway.read_output(true);
    until("what was dropped is told, and lines flow", SOON, || async {
        is_answered(&gateway, &gateway.url("/kept/again")).await;
        let output = gateway.output();
        let told = output.lines().filter_map(|line| {
            line.strip_suffix(" log lines were dropped: the log's reader is too slow")?.rsplit(' ').next()
        });
        let told: f64 = told.map(|number| number.parse::<f64>().unwrap()).sum();
        told == dropped(&gateway).await && output.contains("/kept/again")
    })
    .await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_does_not_hold_up_the_end() {
    let origin = TestOrigin::start().await;
    let mut gateway = with_an_origin_away(&origin).start().await;
    gateway.read_output(false);
    // More than a pipe holds.
    for number in 0..64 {
        let reply = send(gateway.client().get(gateway.url(&long("/away", number))).timeout(SOON)).await;
        assert!(reply.status.is_server_error(), "{reply:?}");
    }
    gateway.sigterm();
    assert!(gateway.wait(Duration::from_secs(5) + SOON).await.success());
}
