//! Pages in headless Chromium, which `tests/browser/pages.mjs` drives.
//!
//! Needs node, Chromium and `npm ci --prefix tests/browser`; without them the tests fail and say so.

use serde_json::{json, Value};
use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc, Mutex,
    },
    time::Duration,
};
use tokio::{sync::oneshot, time::timeout};

/// The longest order on a busy machine.
const STEP: Duration = Duration::from_secs(60);

type Answers = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;

/// A browser; killed when it is dropped.
pub struct Browser {
    child: Child,
    orders: Mutex<ChildStdin>,
    answers: Answers,
    next: AtomicU64,
}

impl Browser {
    /// Starts one.
    pub fn start() -> Arc<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
        assert!(
            here.join("node_modules/playwright-core/package.json").exists(),
            "playwright-core is missing: run `npm ci --prefix tests/browser`"
        );
        let mut command = Command::new("node");
        command.arg(here.join("pages.mjs")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("node can't be started: install Node.js 20 or later");
        let orders = Mutex::new(child.stdin.take().unwrap());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let answers = Answers::default();
        let waiting = answers.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let answer: Value = serde_json::from_str(&line).expect("an answer");
                let waits = waiting.lock().unwrap().remove(&answer["n"].as_u64().unwrap());
                drop(waits.map(|waits| waits.send(answer)));
            }
            // Whoever still waits learns that there is nothing more to wait for.
            waiting.lock().unwrap().clear();
        });
        Arc::new(Self { child, orders, answers, next: AtomicU64::new(0) })
    }

    async fn order(&self, mut order: Value) -> Value {
        let n = self.next.fetch_add(1, Ordering::SeqCst);
        let (sender, answer) = oneshot::channel();
        self.answers.lock().unwrap().insert(n, sender);
        order["n"] = n.into();
        writeln!(self.orders.lock().unwrap(), "{order}").unwrap();
        let answer = timeout(STEP, answer).await.expect("the browser answers").expect("the browser runs");
        assert!(answer["error"].is_null(), "{}", answer["error"]);
        answer["result"].clone()
    }

    /// Opens a page. `options`: the `context` whose cookies and channels it shares (its name), a `clock` that can be
    /// moved, what it `lacks`, and the value that its scripts are `given`.
    pub async fn open(self: &Arc<Self>, name: &str, url: &str, options: Value) -> Page {
        let mut order = json!({ "do": "open", "page": name, "url": url });
        order.as_object_mut().unwrap().extend(options.as_object().cloned().unwrap_or_default());
        self.order(order).await;
        Page { browser: self.clone(), name: name.to_owned() }
    }

    /// Starts a proxy in front of this URL; its own.
    pub async fn proxy(&self, name: &str, to: &str) -> String {
        self.order(json!({ "do": "proxy", "proxy": name, "to": to })).await.as_str().unwrap().to_owned()
    }

    /// Has a proxy `pass`, `buffer`, `refuse` streams, or be `down`.
    pub async fn proxy_mode(&self, name: &str, mode: &str) {
        self.order(json!({ "do": "mode", "proxy": name, "mode": mode })).await;
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium ends with node. It may have ended already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A page of it.
pub struct Page {
    browser: Arc<Browser>,
    name: String,
}

impl Page {
    async fn order(&self, what: &str, more: Value) -> Value {
        let mut order = json!({ "do": what, "page": self.name });
        order.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        self.browser.order(order).await
    }

    /// Waits until an expression is true in it.
    pub async fn until(&self, code: &str) {
        self.order("wait", json!({ "code": code })).await;
    }

    /// The same, for at most this time.
    pub async fn until_within(&self, time: Duration, code: &str) {
        self.order("wait", json!({ "code": code, "ms": time.as_millis() as u64 })).await;
    }

    /// The value of an expression in it.
    pub async fn value(&self, code: &str) -> Value {
        self.order("value", json!({ "code": code })).await
    }

    /// Lets its clock jump, as if the computer had slept.
    pub async fn sleep(&self, time: Duration) {
        self.order("forward", json!({ "ms": time.as_millis() as u64 })).await;
    }

    /// Has the browser stop its scripts (`frozen`), or go on (`active`).
    pub async fn become_state(&self, state: &str) {
        self.order("freeze", json!({ "state": state })).await;
    }

    /// Closes it.
    pub async fn close(self) {
        self.order("close", Value::Null).await;
    }

    /// Holds that no script of it has failed.
    pub async fn assert_sound(&self) {
        assert_eq!(self.order("errors", Value::Null).await, json!([]), "{}", self.name);
    }
}
