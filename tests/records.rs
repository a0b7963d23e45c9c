//! Access records as a reader of the log sees them: whole lines among all others, in order, and none missing at the end.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a failure is a panic")]

mod support;

use std::collections::HashMap;
use support::*;

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
