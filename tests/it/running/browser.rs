//! A real browser: the dashboard page shows what the widget APIs say, and a new order is seen; scripts read across
//! origins what `cors` permits, and nothing else.
//!
//! Needs node, Chromium and `npm ci --prefix tests/browser`; without them the tests fail and say so. With
//! `BROWSER_SCREENSHOTS` set to a directory, pictures of the page are left there.

// Clippy knows `#[test]` functions as tests, but not the helpers beside them.

use crate::support::node::run;
use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};
use tidegate::{
    config::Secret,
    demo::{DemoOrigin, DemoSettings},
};

/// The longest time until `tidegate demo` prints its address.
const START: Duration = Duration::from_secs(30);

/// Drives the page at `url`; the script's result.
fn drive(url: &str, name: &str) -> serde_json::Value {
    let mut arguments = vec![url.to_owned()];
    if let Some(directory) = std::env::var_os("BROWSER_SCREENSHOTS").map(PathBuf::from) {
        for (option, form) in [("--screenshot", "desktop"), ("--phone", "phone")] {
            let file = directory.join(format!("{name}-{form}.png"));
            arguments.extend([option.to_owned(), file.display().to_string()]);
        }
    }
    run("dashboard.mjs", &arguments)
}

fn count(result: &serde_json::Value, when: &str) -> u64 {
    result[when]["orders_today"].as_u64().expect("a number of orders")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_the_origin_says() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = DemoSettings {
        // Nobody takes the event: the page works without.
        gateway: "http://127.0.0.1:1".into(),
        jwt_secret: Secret::new("browser test"),
        event_secret: Secret::new("browser test"),
        query_cost: Duration::from_millis(20),
    };
    let origin = DemoOrigin::start(listener, settings).unwrap();
    let url = format!("http://{}/?user=bob", origin.addr);
    let result = tokio::task::spawn_blocking(move || drive(&url, "origin")).await.unwrap();
    assert_eq!((&result["bars"], &result["rows"]), (&24.into(), &20.into()));
    assert_eq!(count(&result, "after"), count(&result, "before") + 1);
    origin.stop.cancel();
    origin.stopped().await.unwrap();
}

/// `tidegate demo`, killed with the test.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("tidegate demo was gone already: {error}");
        }
    }
}

impl Demo {
    /// Starts it on free ports and waits for its `gateway:` line; the gateway's URL.
    fn start() -> (Self, String) {
        let mut demo = Self(
            Command::new(env!("CARGO_BIN_EXE_tidegate"))
                .args(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
                .stdout(Stdio::piped())
                .spawn()
                .expect("the binary starts"),
        );
        let lines = BufReader::new(demo.0.stdout.take().expect("stdout is piped")).lines();
        let (sender, found) = mpsc::channel();
        // Reads to the end, so that the demo never writes into a full pipe.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(url) = line.trim().strip_prefix("gateway: ") {
                    sender.send(url.trim().to_owned()).ok();
                }
            }
        });
        let url = found.recv_timeout(START).expect("`tidegate demo` prints `gateway: http://…` on stdout");
        (demo, url)
    }
}

#[test]
fn the_page_works_through_the_gateway() {
    let (_demo, gateway) = Demo::start();
    let result = drive(&format!("{gateway}/?tenant=acme&user=alice"), "gateway");
    assert_eq!((&result["bars"], &result["rows"]), (&24.into(), &20.into()));
    assert_eq!(count(&result, "after"), count(&result, "before") + 1);
    for widget in ["kpi", "chart", "recent"] {
        let badge = result["badges"][widget].as_str().expect("a badge");
        assert!(!badge.contains("NO CACHE") && !badge.contains("FAILED"), "{widget}: {badge}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_read_what_cors_permits() {
    let [origin, allowed, refused] = [
        crate::support::TestOrigin::start().await,
        crate::support::TestOrigin::start().await,
        crate::support::TestOrigin::start().await,
    ];
    for pages in [&allowed, &refused] {
        pages.on("/page", |_| {
            crate::support::Answer::new("text/html", "<!doctype html><title>a page</title>")
        });
    }
    origin.on("/api", |_| {
        // The application's own permission, for somebody else: it must not stand there twice.
        let answer = crate::support::Answer::new("text/plain", "text")
            .header("access-control-allow-origin", "https://theirs");
        answer.header("cache-control", "max-age=60").header("x-exposed", "1").header("x-hidden", "1")
    });
    let cors = format!(
        "cors = {{ origins = [{:?}], methods = [\"GET\", \"PUT\"], headers = [\"Authorization\"], expose = [\"X-Exposed\"], credentials = true }}",
        allowed.url()
    );
    let gateway = crate::support::Gateway::with(&origin)
        .route("/api", &format!("cache = \"origin\"\nauth = \"off\"\n{cors}"))
        .route("/closed", &format!("auth = \"required\"\n{cors}"))
        .start()
        .await;
    let arguments =
        [format!("{}/page", allowed.url()), format!("{}/page", refused.url()), gateway.url("/api")];
    let read = tokio::task::spawn_blocking(move || run("cors.mjs", &arguments)).await.unwrap();
    let page = &read["allowed"]["read"];
    for request in ["simple", "again", "credentials", "authorized", "put"] {
        let expected = serde_json::json!({ "status": 200, "exposed": "1", "hidden": null });
        assert_eq!(page[request], expected, "{request}: {read:#}");
    }
    assert_eq!((&page["remove"], &page["field"]), (&"refused".into(), &"refused".into()), "{read:#}");
    assert_eq!(page["missing"]["status"], 401, "{read:#}");
    // The console names the very method and the very field.
    let said = read["allowed"]["said"].to_string();
    assert!(said.contains("Method DELETE is not allowed"), "{said}");
    assert!(said.contains("field x-unknown is not allowed"), "{said}");
    let outcomes = read["refused"]["read"].as_object().expect("outcomes");
    assert!(outcomes.len() == 8 && outcomes.values().all(|outcome| outcome == "refused"), "{read:#}");
    // What was refused by a preflight never got to the origin.
    let methods: Vec<_> = origin.seen("/api").iter().map(|seen| seen.method.to_string()).collect();
    assert!(!methods.iter().any(|method| method == "DELETE" || method == "OPTIONS"), "{methods:?}");
}

#[test]
fn an_order_reaches_every_tab_of_its_tenant_without_a_poll() {
    let (_demo, gateway) = Demo::start();
    let result = run("live.mjs", &[gateway]);
    assert_eq!(result["ok"], true);
}
