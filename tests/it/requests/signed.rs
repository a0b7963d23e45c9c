//! Signed URLs: links of the application's and of `tidegate sign`, at the edge.

use crate::support::{gateway::tidegate_output, *};
use std::process::Command;

const SECRET: &str = "a secret of the tests, for links alone";

/// A gateway whose route `/files/*` (with these further lines) needs a signature by one of these secrets.
fn builder(origin: &TestOrigin, secrets: &[&str], lines: &str) -> GatewayBuilder {
    let signed = format!("methods = [\"GET\"]\nsigned = {{ secret = {secrets:?} }}\n{lines}");
    Gateway::with(origin).route("/files/*", &signed).route("/*", "")
}

async fn gateway(origin: &TestOrigin, lines: &str) -> Gateway {
    builder(origin, &[SECRET], lines).start().await
}

/// Runs `tidegate sign` for a path; returns what it prints.
async fn sign(gateway: &Gateway, more: &[&str], target: &str) -> String {
    let config = gateway.config();
    let mut arguments = vec!["sign", "--config", config.to_str().unwrap(), "--expires", "1h"];
    arguments.extend(more);
    arguments.push(target);
    let output = tidegate_output(&arguments).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The documented Python, followed by `print(…)` of this.
async fn python(expression: String) -> String {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/headers.md")).unwrap();
    let code = document.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let code = format!("{code}\nprint({expression}, end='')\n");
    let run = move || Command::new("python3").args(["-c", &code]).output().expect("python3 is needed");
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_link_gets_in_and_nothing_else_does() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin, "").await;
    let link = sign(&gateway, &[], "/files/a.csv?day=1").await;
    assert!(link.starts_with("/files/a.csv?day=1&expires="), "{link}");
    let reply = gateway.get(&link).await.ok();
    assert_eq!((&reply.json()["path"], &reply.json()["query"]), (&"/files/a.csv".into(), &"day=1".into()));
    for bad in [
        "/files/a.csv?day=1".to_owned(),
        "/files/a.csv".to_owned(),
        link.replace("day=1", "day=2"),
        link.replace("a.csv", "b.csv"),
        format!("{link}&more=1"),
        link.replace("expires=", "expires=9"),
    ] {
        let refused = gateway.get(&bad).await.problem(403);
        assert_eq!(refused.json()["detail"], "the link has no signature that verifies", "{bad}");
        assert_eq!(refused.cache_status(), "tidegate; detail=signature");
    }
    gateway.send_with("DELETE", &link, &[]).await.problem(405);
    assert_eq!(origin.count("/files/a.csv"), 1);
    assert_eq!(
        gateway.get("/elsewhere?expires=1&signature=x").await.ok().json()["query"],
        "expires=1&signature=x"
    );
}

#[tokio::test]
async fn a_link_that_has_expired_is_gone() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin, "").await;
    let link = python(format!("sign('/files/a.csv', {SECRET:?}.encode(), -5)")).await;
    let gone = gateway.get(&link).await.problem(410);
    assert_eq!(gone.json()["detail"], "the link has expired");
    assert_eq!((gone.cache_status(), gone.header("cache-control")), ("tidegate; detail=expired", "no-store"));
    assert_eq!(origin.count("/files/a.csv"), 0);
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.value("tidegate_rejected_requests_total", &[("reason", "expired")]), 1.0);
}

#[tokio::test]
async fn the_python_of_the_document_makes_links_that_verify() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin, "").await;
    for target in ["/files/a.csv", "/files/a%20b/%ED%95%9C.csv?x=1&y=%2F", "/files/?"] {
        let link = python(format!("sign({target:?}, {SECRET:?}.encode(), 60)")).await;
        let seen = gateway.get(&link).await.ok().json();
        assert_eq!(seen["path"], target.split('?').next().unwrap(), "{link}");
    }
    let query = python(format!("sign_under('/files/m/', {SECRET:?}.encode(), 60)")).await;
    for path in ["/files/m/index.m3u8", "/files/m/1/2.ts"] {
        assert_eq!(
            gateway.get(&format!("{path}?{query}")).await.ok().json()["query"],
            serde_json::Value::Null
        );
    }
    gateway.get(&format!("/files/n/1.ts?{query}")).await.problem(403);
}

#[tokio::test]
async fn all_links_to_a_resource_share_one_answer() {
    let versioned = r#"cache = { namespace = "files", ttl = "60s", query = ["day"] }"#;
    for cache in [versioned, "cache = \"origin\""] {
        let origin = TestOrigin::start().await;
        origin.on("/files/a.csv", |_| Answer::new("text/csv", "1,2").header("cache-control", "max-age=60"));
        let gateway = gateway(&origin, cache).await;
        let secret =
            |lifetime: u32| python(format!("sign('/files/a.csv?day=1', {SECRET:?}.encode(), {lifetime})"));
        let (first, second) = (secret(60).await, secret(90).await);
        assert_ne!(first, second);
        gateway.get(&first).await.ok();
        let reply = gateway.get(&second).await.ok();
        assert!(reply.is_hit(), "{cache}: {}", reply.cache_status());
        let under = sign(&gateway, &["--under", "/files/"], "/files/a.csv?day=1").await;
        assert!(gateway.get(&under).await.ok().is_hit(), "{cache}");
        // The stored answer is no way around the signature.
        gateway.get("/files/a.csv?day=1").await.problem(403);
        let seen = origin.seen("/files/a.csv");
        assert_eq!(
            seen.iter().map(|seen| seen.query.as_deref()).collect::<Vec<_>>(),
            [Some("day=1")],
            "{cache}"
        );
    }
}

#[tokio::test]
async fn a_token_may_be_needed_as_well() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin, "auth = \"required\"").await;
    let link = sign(&gateway, &[], "/files/a").await;
    gateway.get(&link).await.problem(401);
    assert_eq!(gateway.get_as("acme", &link).await.ok().json()["tenant"], "acme");
    gateway.get_as("acme", "/files/a").await.problem(403);
}

#[tokio::test]
async fn a_client_that_writes_its_target_otherwise_gains_nothing() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin, "").await;
    let link = sign(&gateway, &["--under", "/files/a/"], "/files/a/x").await;
    let query = link.split_once('?').unwrap().1;
    for (target, status) in [
        (format!("/files/a/x?{query}"), 200),
        (format!("http://a/files/a/x?{query}"), 200),
        (format!("/files/a/x?{query}#y"), 400),
        (format!("/files/a/../b/x?{query}"), 400),
        (format!("/files/a/%2e%2e/b?{query}"), 400),
        (format!("/files/a/..%2fb?{query}"), 400),
        (format!("/files/a/\\..\\b?{query}"), 400),
        (format!("/files//a/x?{query}"), 403),
        (format!("/files/%61/x?{query}"), 403),
        (format!("/files/a/\u{e9}?{query}"), 400),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let raw = raw_exchange(gateway.address(), request.as_bytes()).await;
        assert_eq!(raw.status, status, "{target}: {}", raw.body);
    }
    assert_eq!(origin.seen("/files/a/x").len(), 2);
    assert!(origin.seen("/files/a/x").iter().all(|seen| seen.query.is_none()));
}

#[tokio::test]
async fn sign_tells_what_it_can_not_do() {
    let origin = TestOrigin::start().await;
    let gateway = gateway(&origin, "").await;
    let config = gateway.config();
    let config = config.to_str().unwrap();
    for (arguments, code, told) in [
        (&["--expires", "1h", "/elsewhere"][..], 64, "the route \"any\" has no signed"),
        (&["--expires", "1h", "--route", "file", "/files/a"][..], 64, "no route is called \"file\""),
        (&["--expires", "1h", "--under", "/files/b/", "/files/a"][..], 64, "must lie below it"),
        (&["--expires", "soon", "/files/a"][..], 2, "must be a whole number with a unit"),
        (&["--expires", "10ms", "/files/a"][..], 2, "must be at least 1s"),
    ] {
        let all = [&["sign", "--config", config][..], arguments].concat();
        let output = tidegate_output(&all).await;
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && text.contains(told), "{arguments:?}: {text}");
    }
}

#[tokio::test]
async fn a_secret_rotates_with_a_reload() {
    let origin = TestOrigin::start().await;
    const NEWER: &str = "a newer secret, for links alone as well";
    let gateway = gateway(&origin, "").await;
    let old = sign(&gateway, &[], "/files/a").await;
    assert!(gateway.reload(&builder(&origin, &[NEWER, SECRET], "")).await);
    let new = sign(&gateway, &[], "/files/a").await;
    gateway.get(&old).await.ok();
    gateway.get(&new).await.ok();
    assert!(gateway.reload(&builder(&origin, &[NEWER], "")).await);
    gateway.get(&old).await.problem(403);
    gateway.get(&new).await.ok();
}
