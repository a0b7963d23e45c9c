//! Socket.IO through the gateway, with everything real: Flask-SocketIO under gunicorn, its message queue in Redis, and the
//! socket.io client in Chromium. By polling, by WebSocket, upgraded from one to the other; over a reload, and at the end.
//!
//! Needs node, Chromium, `npm ci --prefix tests/browser`, Python with venv; without them the tests fail and say so.

use crate::support::{
    gateway::{GatewayBuilder, JWT_SECRET},
    process::Process,
    *,
};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// The longest step on a busy machine.
const STEP: Duration = Duration::from_secs(60);

/// gunicorn with one worker of the application.
struct App {
    address: SocketAddr,
    process: Process,
}

impl App {
    /// Starts one and waits until it answers. The first one emits.
    async fn start(redis: &Redis, name: &str, emits: bool) -> Self {
        let client = browser().join("node_modules/socket.io-client/dist/socket.io.min.js");
        assert!(client.exists(), "socket.io-client is missing: run `npm ci --prefix tests/browser`");
        for _ in 0..5 {
            let address = free_address();
            let arguments = ["--worker-class", "gevent", "--workers", "1", "--graceful-timeout", "1"];
            let mut command = python::module("gunicorn", &arguments).await;
            // By default it closes a connection after 2 s of silence, perhaps just as a POST is on its way.
            command.args(["--keep-alive", "75", "--bind", &address.to_string(), "live_app:app"]);
            command.env("LIVE_REDIS", format!("{}/0", redis.url())).env("LIVE_CLIENT", &client);
            command.env("LIVE_NAME", name).env("LIVE_EMITTER", if emits { "1" } else { "0" });
            let mut process = Process::spawn("gunicorn", command.env("JWT_SECRET", JWT_SECRET));
            let url = format!("http://{address}/name");
            let up = eventually("gunicorn answers or ends", STEP, || {
                let (ended, asked) = (process.ended().is_some(), client::client().get(&url));
                async move {
                    let answered = client::try_send(asked).await.is_ok_and(|reply| reply.status == 200);
                    (ended || answered).then_some(answered)
                }
            })
            .await;
            if up && process.ended().is_none() {
                return Self { address, process };
            }
        }
        panic!("gunicorn does not start");
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// The browser, and what it says; killed with the test.
struct Browser {
    child: Child,
    said: mpsc::Receiver<String>,
}

impl Browser {
    fn drive(url: &str, verified_by: &str, servers: usize) -> Self {
        let mut child = Command::new("node")
            .arg(browser().join("socketio.mjs"))
            .args([url, "--verified-by", verified_by, "--servers", &servers.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("node can't be started: install Node.js 20 or later");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, said) = mpsc::channel(64);
        std::thread::spawn(move || {
            lines.map_while(Result::ok).try_for_each(|line| sender.blocking_send(line))
        });
        Self { child, said }
    }

    /// Waits for a step, past those before it.
    async fn reaches(&mut self, step: &str) {
        let wanted = format!("{{\"step\":\"{step}\"");
        loop {
            let said = tokio::time::timeout(STEP, self.said.recv()).await;
            let Some(line) = said.unwrap_or_else(|_| panic!("the browser never came to {step}")) else {
                let mut error = String::new();
                self.child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
                panic!("before {step}: {error}");
            };
            println!("{line}");
            if line.starts_with(&wanted) {
                return;
            }
        }
    }

    fn goes_on(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn browser() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser")
}

/// All that the browser does: connecting, rooms, leaving and coming back, a reload, the end.
async fn everything(builder: GatewayBuilder, verified_by: &str, servers: usize) {
    let mut gateway = builder.clone().drain("60s").start().await;
    let mut browser = Browser::drive(&gateway.url(""), verified_by, servers);
    browser.reaches("reload").await;
    until("the sockets that are in use are open, and no others", SOON, || async {
        let open = gateway.metrics().await.value("tidegate_websockets_open", &[]);
        (open - 3.0).abs() < 0.1
    })
    .await;
    assert!(gateway.reload(&builder.clone().drain("60s").route("/another", "")).await);
    browser.goes_on();
    browser.reaches("shutdown").await;
    let begin = Instant::now();
    gateway.sigterm();
    browser.goes_on();
    browser.reaches("done").await;
    // A browser answers the close frame by itself: nobody waits for the time that was given.
    assert!(gateway.wait(SOON).await.success());
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    until("it says how it ended", SOON, || async { gateway.output().contains("finished=true") }).await;
}

/// As the documents have it: the application verifies the token in the query itself.
#[tokio::test]
async fn the_application_verifies() {
    let redis = Redis::start().await;
    let app = App::start(&redis, "one", true).await;
    let builder = GatewayBuilder::new(&app.url())
        .route("/socket.io/*", "websocket = { idle_timeout = \"75s\" }")
        .route("/*", "");
    everything(builder, "application", 1).await;
    drop(app.process);
}

/// Two processes with one worker each, as Flask-SocketIO needs it: a session stays with its process, and what one emits
/// reaches the clients of both.
#[tokio::test]
async fn two_processes_share_the_clients() {
    let redis = Redis::start().await;
    let (one, two) = (App::start(&redis, "one", true).await, App::start(&redis, "two", false).await);
    let builder = GatewayBuilder::new(&one.url())
        .server(&two.url())
        .origin("sticky = { query = \"sid\", cookie = \"tidegate_app\" }")
        .route("/socket.io/*", "websocket = { idle_timeout = \"75s\" }")
        .route("/*", "");
    everything(builder, "application", 2).await;
    drop((one.process, two.process));
}

/// The gateway verifies, for polling and for WebSockets, and the application believes `X-Tenant`.
#[tokio::test]
async fn the_gateway_verifies() {
    let redis = Redis::start().await;
    let app = App::start(&redis, "one", true).await;
    let builder = GatewayBuilder::new(&app.url())
        .route(
            "/socket.io/*",
            "auth = \"required\"\ntoken_query = true\nwebsocket = { idle_timeout = \"75s\" }",
        )
        .route("/orders", "auth = \"required\"\ntoken_query = true")
        .route("/*", "");
    everything(builder, "gateway", 1).await;
    drop(app.process);
}
