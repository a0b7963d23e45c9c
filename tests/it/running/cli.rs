//! The commands: what they print, how they exit, what they refuse.

use crate::support::{
    gateway::{tidegate, tidegate_output, GatewayBuilder, KPI},
    process::Process,
    *,
};
use std::{path::PathBuf, process::Output};
use tempfile::TempDir;

const PATH: &str = "/api/widgets/kpi";

fn file(toml: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("tidegate.toml");
    std::fs::write(&path, toml).unwrap();
    (dir, path)
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn good() -> String {
    GatewayBuilder::new("http://127.0.0.1:9").route(PATH, KPI).toml(free_address(), free_address())
}

#[tokio::test]
async fn check_accepts_a_good_file() {
    let (_dir, path) = file(&good());
    let output = tidegate_output(&["check", "--config", path.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[tokio::test]
async fn check_and_run_tell_every_fault_at_once() {
    let faulty = good()
        .replace("ttl = \"60s\"", "tll = \"60s\", ttl = \"soon\"")
        .replace("origin = \"app\"", "origin = \"ap\"")
        .replace("threads = 2", "treads = 2");
    let (_dir, path) = file(&faulty);
    for command in ["check", "run"] {
        let output = tidegate_output(&[command, "--config", path.to_str().unwrap()]).await;
        let text = text(&output);
        assert_eq!(output.status.code(), Some(64), "{command}: {text}");
        // Each by its line and key; unknown words with the nearest known one.
        for (word, told) in [
            ("treads", &["server.treads", "threads"][..]),
            ("tll", &["cache.tll", "ttl"]),
            ("soon", &["cache.ttl:", "20s"]),
            ("\"ap\"", &["origin", "\"ap\"", "app"]),
        ] {
            let line = faulty.lines().position(|line| line.contains(word)).unwrap() + 1;
            let place = format!("{}:{line}:", path.display());
            let mut faults = text.lines().filter(|fault| fault.contains(&place));
            assert!(
                faults.any(|fault| told.iter().all(|part| fault.contains(part))),
                "{command} doesn't tell of {word} in line {line}: {text}"
            );
        }
    }
}

#[tokio::test]
async fn secrets_are_never_shown() {
    let plain = good().replace("{ env = \"JWT_SECRET\" }", "\"a-very-secret-word-that-nobody-may-see\"");
    let (_dir, path) = file(&plain.replace("threads = 2", "threads = \"two\""));
    let output = tidegate_output(&["check", "--config", path.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    assert!(!text(&output).contains("a-very-secret-word"), "{}", text(&output));
}

#[tokio::test]
async fn a_missing_file_or_secret_is_a_fault_of_the_configuration() {
    let output = tidegate_output(&["check", "--config", "/nonexistent/tidegate.toml"]).await;
    assert!(
        !output.status.success() && text(&output).contains("/nonexistent/tidegate.toml"),
        "{}",
        text(&output)
    );
    let (_dir, path) = file(&good().replace("JWT_SECRET", "NO_SUCH_VARIABLE"));
    let output = tidegate_output(&["check", "--config", path.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output).contains("NO_SUCH_VARIABLE"), "{}", text(&output));
}

#[tokio::test]
async fn run_refuses_an_address_that_is_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = GatewayBuilder::new("http://127.0.0.1:9").route(PATH, KPI);
    for (listener, admin) in [(address, free_address()), (free_address(), address)] {
        let (_dir, path) = file(&config.toml(listener, admin));
        let path = path.to_str().unwrap().to_owned();
        let run = tokio::spawn(async move { tidegate_output(&["run", "--config", &path]).await });
        let output = tokio::time::timeout(SOON, run).await.expect("it doesn't stay").unwrap();
        assert!(!output.status.success());
        let text = text(&output);
        let key = if listener == address { "listener[0].address" } else { "admin.address" };
        assert!(text.contains(&format!("can't listen on {address} ({key})")), "{text}");
        assert!(text.contains("choose another port there"), "{text}");
    }
    let address = address.to_string();
    for (option, other) in [("--listen", "--admin"), ("--admin", "--listen")] {
        let (address, free) = (address.clone(), free_address().to_string());
        let demo =
            tokio::spawn(async move { tidegate_output(&["demo", option, &address, other, &free]).await });
        let output = tokio::time::timeout(SOON, demo).await.expect("it doesn't stay").unwrap();
        assert!(text(&output).contains(&format!("({option})")), "{}", text(&output));
    }
}

/// A configuration that `check` accepts starts: it reads files as `run` does, and tests this machine's addresses.
#[tokio::test]
async fn check_refuses_what_run_would_not_start_with() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let jwks = |path: &str| {
        GatewayBuilder::new("http://127.0.0.1:9")
            .jwks("EdDSA", &format!("file = {path:?}"))
            .route(PATH, KPI)
            .toml(free_address(), free_address())
    };
    let with_secret =
        |path: &str| good().replace("{ env = \"JWT_SECRET\" }", &format!("{{ file = {path:?} }}"));
    let root = |path: &str| format!("{}[[route]]\npath = \"/f/*\"\nfiles = {{ root = {path:?} }}\n", good());
    let oct = r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#;
    for (what, toml) in [
        ("no JSON", jwks(&write("text.json", "keys"))),
        ("no key", jwks(&write("empty.json", "{\"keys\": []}"))),
        ("no usable key", jwks(&write("oct.json", oct))),
        ("an empty file", jwks(&write("nothing.json", ""))),
        ("a directory", jwks(&folder.path().display().to_string())),
        ("a public key as a secret", with_secret(&write("pem", "-----BEGIN PUBLIC KEY-----\n"))),
        ("blanks as a secret", with_secret(&write("blank", "  \n"))),
        ("a file as a directory", root(&write("file", ""))),
        (
            "an address of another machine",
            good().replacen("address = \"127.0.0.1:", "address = \"192.0.2.1:", 1),
        ),
        (
            "an admin address of another machine",
            good().replace("[admin]\naddress = \"127.0.0.1:", "[admin]\naddress = \"192.0.2.1:"),
        ),
    ] {
        let (_dir, path) = file(&toml);
        for command in ["check", "run"] {
            let path = path.to_str().unwrap().to_owned();
            let run = tokio::spawn(async move { tidegate_output(&[command, "--config", &path]).await });
            let output = tokio::time::timeout(SOON, run).await.expect("it doesn't stay").unwrap();
            let told = text(&output);
            let code = if told.contains("can't listen") && command == "run" { 69 } else { 64 };
            assert_eq!(output.status.code(), Some(code), "{command}, {what}: {told}");
        }
    }
    let key =
        r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "qWBo2HKUlsH4fKUKfTGRHcq3tTWnofzp3VEYn8sbOrw"}]}"#;
    let (_dir, path) = file(&jwks(&write("good.json", key)));
    let output = tidegate_output(&["check", "--config", path.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[tokio::test]
async fn warnings_at_the_start_are_lines_of_the_log() {
    // Whoever reads the log reads JSON; the run ends, for its address is taken.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let toml = GatewayBuilder::new("http://127.0.0.1:9")
        .route("/", "")
        .toml(taken.local_addr().unwrap(), free_address())
        .replace("format = \"text\"", "format = \"json\"");
    let (_dir, path) = file(&toml);
    let output = tidegate_output(&["run", "--config", path.to_str().unwrap()]).await;
    let told = text(&output);
    let line =
        told.lines().find(|line| line.contains("is this path alone")).unwrap_or_else(|| panic!("{told}"));
    let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{told}"));
    assert_eq!(line["level"], "WARN");
}

#[tokio::test]
async fn check_binds_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let toml = GatewayBuilder::new("http://127.0.0.1:9").toml(taken.local_addr().unwrap(), free_address());
    let (_dir, path) = file(&toml);
    let output = tidegate_output(&["check", "--config", path.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

/// As nginx has `listen 80` beside `listen [::]:80`.
#[tokio::test]
async fn two_listeners_share_a_port_by_family() {
    if std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default().is_empty() {
        println!("this machine has no IPv6");
        return;
    }
    let config = GatewayBuilder::new("http://127.0.0.1:9").route(PATH, KPI);
    for (first, second, admin) in [
        ("0.0.0.0", Some("[::]"), None),
        ("[::]", Some("0.0.0.0"), None),
        ("127.0.0.1", Some("[::]"), None),
        ("127.0.0.1", Some("[::1]"), None),
        ("[::]", None, Some("127.0.0.1")),
        // Alone it takes both, as ever.
        ("[::]", None, None),
    ] {
        // Somebody may take the port in between: another one is tried then.
        let mut running = None;
        for _ in 0..5 {
            let port = free_address().port();
            let at = |host: &str| format!("{host}:{port}").parse().unwrap();
            let second = second
                .map_or_else(String::new, |host| format!("[[listener]]\naddress = \"{host}:{port}\"\n"));
            let config = config.clone().raw(&second);
            let (dir, path) = file(&config.toml(at(first), admin.map_or_else(free_address, at)));
            let path = path.to_str().unwrap();
            let checked = tidegate_output(&["check", "--config", path]).await;
            assert_eq!(checked.status.code(), Some(0), "{}", text(&checked));
            let mut process = Process::spawn("tidegate", &mut tidegate(&["run", "--config", path]));
            until("it runs or ends", SOON, || {
                let decided = process.ended().is_some() || process.output().contains("ready");
                async move { decided }
            })
            .await;
            if process.ended().is_none() {
                running = Some((process, port, dir));
                break;
            }
        }
        let (mut process, port, _dir) = running.expect("it starts");
        for address in ["127.0.0.1", "[::1]"] {
            let stream = tokio::net::TcpStream::connect(format!("{address}:{port}")).await;
            assert!(stream.is_ok(), "{first} {second:?} {admin:?}: {address}: {stream:?}");
        }
        assert!(process.ended().is_none());
    }
}

/// Nothing is bound to find out.
#[tokio::test]
async fn check_knows_listeners_that_take_the_same_connections() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = GatewayBuilder::new("http://127.0.0.1:9").route(PATH, KPI);
    for (first, second, told) in [
        ("127.0.0.1:8080", "127.0.0.1:8080", Some("the same address as listener[0]")),
        ("0.0.0.0:8080", "127.0.0.1:8080", Some("0.0.0.0:8080 is every IPv4 address")),
        ("127.0.0.1:8080", "0.0.0.0:8080", Some("is every IPv4 address, and so takes 127.0.0.1:8080")),
        ("[::]:8080", "[::1]:8080", Some("[::]:8080 is every IPv6 address")),
        ("[::ffff:127.0.0.1]:8080", "127.0.0.1:8080", Some("the same address as listener[0]")),
        ("127.0.0.1:8080", "224.0.0.1:8080", Some("multicast or broadcast")),
        ("127.0.0.1:8080", "[ff02::1]:8080", Some("multicast or broadcast")),
        ("127.0.0.1:8080", "255.255.255.255:8080", Some("multicast or broadcast")),
        ("0.0.0.0:8080", "[::]:8080", None),
        ("127.0.0.1:0", "127.0.0.1:0", None),
        ("127.0.0.1:8080", &taken.local_addr().unwrap().to_string(), None),
    ] {
        let config = config.clone().raw(&format!("[[listener]]\naddress = {second:?}\n"));
        let (_dir, path) = file(&config.toml(first.parse().unwrap(), free_address()));
        let output = tidegate_output(&["check", "--config", path.to_str().unwrap()]).await;
        let text = text(&output);
        assert_eq!(
            output.status.code(),
            Some(if told.is_some() { 64 } else { 0 }),
            "{first} {second}: {text}"
        );
        assert!(
            told.is_none_or(|told| text.contains("listener[1].address: ") && text.contains(told)),
            "{text}"
        );
    }
}

#[tokio::test]
async fn token_mints_what_the_gateway_takes() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route("/plain", "").start().await;
    let config = gateway.config();
    let config = config.to_str().unwrap();
    let minted = tidegate_output(&[
        "token", "--config", config, "--tenant", "acme", "--user", "ann", "--role", "admin",
    ])
    .await;
    assert!(minted.status.success(), "{}", text(&minted));
    let token = String::from_utf8(minted.stdout).unwrap();
    let reply = send(gateway.request("GET", "/plain").bearer_auth(token.trim())).await.ok().json();
    assert_eq!(
        (&reply["tenant"], &reply["user"], &reply["role"]),
        (&"acme".into(), &"ann".into(), &"admin".into())
    );
}

/// The oldest answer that one of the nodes serves to tenant `acme`.
async fn oldest_served(nodes: &[Gateway]) -> u64 {
    let mut oldest = u64::MAX;
    for node in nodes {
        oldest = oldest.min(node.get_as("acme", PATH).await.ok().seq());
    }
    oldest
}

#[tokio::test]
async fn bump_moves_the_version_on_every_node() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    let config = Gateway::with(&origin).redis(&redis.url()).route(PATH, KPI);
    let nodes = [config.start().await, config.start().await];
    let old = oldest_served(&nodes).await;
    let config = nodes[0].config();
    let config = config.to_str().unwrap();
    let output = tidegate_output(&["bump", "--config", config, "kpi", "acme"]).await;
    assert!(output.status.success(), "{}", text(&output));
    until("the new generation is served", SOON, || async { oldest_served(&nodes).await > old }).await;
    let bad = tidegate_output(&["bump", "--config", config, "kpi", "a:b"]).await;
    assert!(!bad.status.success(), "{}", text(&bad));
    drop(redis);
    let gone = tidegate_output(&["bump", "--config", config, "kpi", "acme"]).await;
    assert!(!gone.status.success(), "{}", text(&gone));
}

#[tokio::test]
async fn sigterm_lets_requests_finish_and_ends_in_time() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |seen| Answer::echo(seen).gated());
    let mut gateway = Gateway::with(&origin).route(PATH, KPI).start().await;
    origin.hold();
    let asking = tokio::spawn(send(gateway.request("GET", PATH)));
    until("the request is at the origin", SOON, || async { origin.held() == 1 }).await;
    gateway.sigterm();
    let address = gateway.address();
    until("no new connection is taken", SOON, || async {
        tokio::net::TcpStream::connect(address).await.is_err() || origin.held() == 0
    })
    .await;
    origin.release();
    asking.await.unwrap().ok();
    assert!(gateway.wait(SOON).await.success());
}
