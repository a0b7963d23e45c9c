//! The admin listener: whom it answers, how long it waits, and that it answers while the door can't.

use crate::support::{
    gateway::{tidegate, GatewayBuilder, KPI},
    process::Process,
    *,
};
use std::{
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A gateway, with what the process is started by before it.
struct Node {
    process: Process,
    door: SocketAddr,
    admin: SocketAddr,
    _dir: TempDir,
}

impl Node {
    /// With so many files to be open at most.
    async fn start(builder: &GatewayBuilder, files: Option<u32>) -> Self {
        for _ in 0..5 {
            let (dir, door, admin) = (TempDir::new().unwrap(), free_address(), free_address());
            let path = dir.path().join("tidegate.toml");
            std::fs::write(&path, builder.toml(door, admin)).unwrap();
            let plain = tidegate(&["run", "--config", path.to_str().unwrap()]);
            let mut limited = Command::new("sh");
            let before = files.map_or_else(|| "true".to_owned(), |files| format!("ulimit -n {files}"));
            limited.arg("-c").arg(format!("{before}; exec \"$@\"")).arg("sh");
            limited.arg(plain.get_program()).args(plain.get_args());
            limited.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let mut process = Process::spawn("tidegate", &mut limited);
            let up = eventually("it runs or ends", SOON, || {
                let (ended, ready) = (process.ended().is_some(), process.output().contains("ready"));
                async move { (ended || ready).then_some(ready && !ended) }
            })
            .await;
            if up {
                return Self { process, door, admin, _dir: dir };
            }
        }
        panic!("the gateway does not start");
    }

    /// The status of one request by a connection of its own; `None` where nothing comes of it.
    async fn ask(&self, request: &str) -> Option<u16> {
        let asking = async {
            let mut stream = TcpStream::connect(self.admin).await.ok()?;
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut head = [0; 12];
            stream.read_exact(&mut head).await.ok()?;
            std::str::from_utf8(&head[9..]).ok()?.parse().ok()
        };
        timeout(Duration::from_secs(3), asking).await.ok().flatten()
    }
}

fn gateway() -> GatewayBuilder {
    GatewayBuilder::new("http://127.0.0.1:9").route("/", KPI)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// The fields that each page of a browser sends decide: its host, and its origin.
#[tokio::test]
async fn only_known_hosts_and_no_pages_are_answered() {
    // The second `[admin]` key goes in front of the table that follows it.
    let toml = |door, admin| {
        let text = gateway().toml(door, admin);
        text.replace("[log]", "hosts = [\"tidegate.internal\", \"*.mesh.example\"]\n[log]")
    };
    let (dir, door, admin) = (TempDir::new().unwrap(), free_address(), free_address());
    let path = dir.path().join("tidegate.toml");
    std::fs::write(&path, toml(door, admin)).unwrap();
    let process = Process::spawn("tidegate", &mut tidegate(&["run", "--config", path.to_str().unwrap()]));
    let node = Node { process, door, admin, _dir: dir };
    until("it runs", SOON, || async { node.process.output().contains("ready") }).await;
    let body = "{\"all\": true}";
    for (fields, status) in [
        (format!("Host: {admin}\r\n"), 200),
        ("Host: localhost\r\n".to_owned(), 200),
        ("Host: Tidegate.Internal:9180\r\n".to_owned(), 200),
        ("Host: a.mesh.example\r\n".to_owned(), 200),
        ("Host: evil.example\r\n".to_owned(), 421),
        (format!("Host: evil.example:{}\r\n", admin.port()), 421),
        ("Host: localhost@evil.example\r\n".to_owned(), 421),
        ("Host: localhost\r\nHost: evil.example\r\n".to_owned(), 400),
        (String::new(), 400),
        ("Host: localhost\r\nOrigin: http://evil.example\r\n".to_owned(), 403),
        ("Host: localhost\r\nOrigin: null\r\n".to_owned(), 403),
        ("Host: localhost\r\nOrigin: http://localhost\r\n".to_owned(), 403),
    ] {
        for path in ["/metrics", "/healthz", "/readyz", "/"] {
            let asked = node.ask(&format!("GET {path} HTTP/1.1\r\n{fields}\r\n")).await;
            assert_eq!(asked, Some(status), "{fields:?} {path}");
        }
        let order = format!(
            "POST /api/purge HTTP/1.1\r\n{fields}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(node.ask(&order).await, Some(status), "{fields:?} purges");
    }
    // RFC 9112, 3.2.2: the target counts more than Host. And who is too old for one is no browser.
    let absolute = |host: &str| format!("GET http://{host}/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(node.ask(&absolute("evil.example")).await, Some(421));
    assert_eq!(node.ask(&absolute("localhost:1")).await, Some(200));
    assert_eq!(node.ask("GET /healthz HTTP/1.0\r\n\r\n").await, Some(200));
    assert_eq!(node.ask("GET /healthz HTTP/1.0\r\nHost: evil.example\r\n\r\n").await, Some(421));
}

/// A head that never ends holds a connection for ten seconds, and as many as anyone likes hold nobody up.
#[tokio::test]
async fn half_heads_end_and_hold_nobody_up() {
    let node = Node::start(&gateway(), None).await;
    let mut half = Vec::new();
    let begin = Instant::now();
    for n in 0..200 {
        let mut stream = TcpStream::connect(node.admin).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ").await.unwrap();
        half.push(stream);
        if n % 20 == 0 {
            assert_eq!(node.ask(&get("/readyz")).await, Some(200), "{n}");
        }
    }
    // Idle ones and those whose body never comes are no better.
    let mut idle = TcpStream::connect(node.admin).await.unwrap();
    idle.write_all(get("/healthz").as_bytes()).await.unwrap();
    half.push(idle);
    let dripping = tokio::spawn(async move {
        for stream in &mut half {
            while stream.write_all(b"x").await.is_ok() {
                let mut read = [0; 1024];
                match timeout(Duration::from_millis(50), stream.read(&mut read)).await {
                    Ok(Ok(0) | Err(_)) => break,
                    _ => continue,
                }
            }
        }
    });
    timeout(3 * SOON, dripping).await.expect("all of them end").unwrap();
    assert!(begin.elapsed() < 2 * SOON, "{:?}", begin.elapsed());
    assert_eq!(node.ask(&get("/readyz")).await, Some(200));
}

/// An operator has to see the node's state at just that time.
#[tokio::test]
async fn it_answers_while_the_door_has_no_descriptors() {
    let node = Node::start(&gateway().setting("max_connections = 1000"), Some(96)).await;
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(TcpStream::connect(node.door).await.unwrap());
    }
    until("the door has none", SOON, || async {
        node.process.output().contains("no connection can be accepted")
    })
    .await;
    for n in 0..50 {
        for path in ["/readyz", "/metrics", "/healthz"] {
            assert_eq!(node.ask(&get(path)).await, Some(200), "{path} {n}");
        }
    }
    // Several at once, which are kept open.
    let mut open = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(node.admin).await.unwrap();
        stream.write_all(get("/readyz").as_bytes()).await.unwrap();
        let mut head = [0; 12];
        timeout(SOON, stream.read_exact(&mut head)).await.expect("an answer").unwrap();
        assert_eq!(&head[9..], b"200");
        open.push(stream);
    }
    // A storm is a line a second.
    assert!(node.process.output().matches("no connection can be accepted").count() < 20);
    drop((held, open));
    until("the door takes connections again", SOON, || async {
        let request = client::client().get(format!("http://{}/nowhere", node.door));
        client::try_send(request).await.is_ok_and(|reply| reply.status == 404)
    })
    .await;
}
