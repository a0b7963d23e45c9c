//! The pages of the admin listener: metrics, health, readiness, an index of them; and purges.
//!
//! Purging is the only action here; access is restricted by the address that it listens on. Web pages are
//! refused (`guard`), whatever name they use for it. Errors are problem documents (RFC 9457).

mod guard;
mod hosts;
mod listener;
mod problem;
mod purge;
mod state;

pub(crate) use hosts::KnownHosts;
pub(crate) use listener::serve;
pub(crate) use state::{AdminState, PurgeFailure, PurgeFuture, Readiness};

use axum::{
    extract::{DefaultBodyLimit, State},
    http::{header::CONTENT_TYPE, StatusCode},
    middleware,
    response::{Html, IntoResponse},
    routing::{get, post},
    Json, Router,
};
use problem::{problem_response, NO_STORE};

/// Serves `/metrics`, `/healthz`, `/readyz`, `/` and `POST /api/purge`.
fn build_router(state: AdminState) -> Router {
    let admit = middleware::from_fn_with_state(state.hosts.clone(), guard::admit);
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/api/purge", post(purge::purge).layer(DefaultBodyLimit::max(purge::MAX_BODY_BYTES)))
        .fallback(|| async { problem_response(StatusCode::NOT_FOUND, None) })
        .method_not_allowed_fallback(|| async { problem_response(StatusCode::METHOD_NOT_ALLOWED, None) })
        .layer(admit)
        .with_state(state)
}

async fn index() -> impl IntoResponse {
    let page = concat!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Tidegate</title>\n",
        "<h1>Tidegate ",
        env!("CARGO_PKG_VERSION"),
        "</h1>\n<ul>\n",
        "<li><a href=\"/metrics\">/metrics</a>: for Prometheus\n",
        "<li><a href=\"/healthz\">/healthz</a>: 200 as long as the process runs\n",
        "<li><a href=\"/readyz\">/readyz</a>: 200 if this node should get requests, else 503 and why\n",
        "<li>POST /api/purge: purges by URL or tag on every node\n",
        "</ul>\n</html>\n",
    );
    (NO_STORE, Html(page))
}

async fn metrics(State(state): State<AdminState>) -> impl IntoResponse {
    let kind = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (NO_STORE, kind, state.metrics.render())
}

async fn healthz() -> impl IntoResponse {
    (NO_STORE, "ok\n")
}

async fn readyz(State(state): State<AdminState>) -> impl IntoResponse {
    let readiness = (state.readiness)();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, NO_STORE, Json(readiness))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::coherence::purge::PurgeOrder,
        telemetry::{Metrics, StoreError},
    };

    use parking_lot::Mutex;
    use serde_json::{json, Value};
    use std::sync::Arc;

    struct Admin {
        base: String,
        client: reqwest::Client,
        metrics: Arc<Metrics>,
        readiness: Arc<Mutex<Readiness>>,
        purged: Arc<Mutex<Vec<PurgeOrder>>>,
        store: Arc<Mutex<Result<u64, PurgeFailure>>>,
        server: tokio::task::JoinHandle<()>,
    }

    impl Drop for Admin {
        fn drop(&mut self) {
            self.server.abort();
        }
    }

    impl Admin {
        async fn start() -> Self {
            let metrics = Arc::new(Metrics::new().expect("the declarations agree"));
            let readiness = Arc::new(Mutex::new(Readiness { ready: true, reasons: Vec::new() }));
            let asked = Arc::clone(&readiness);
            let (purged, store) = (Arc::<Mutex<Vec<PurgeOrder>>>::default(), Arc::new(Mutex::new(Ok(7))));
            let (told, takes) = (Arc::clone(&purged), Arc::clone(&store));
            let state = AdminState {
                metrics: Arc::clone(&metrics),
                hosts: Arc::new(KnownHosts::new(vec!["admin.example".to_owned()])),
                readiness: Arc::new(move || asked.lock().clone()),
                purge: Arc::new(move |wanted| {
                    told.lock().extend(wanted);
                    let result = takes.lock().clone();
                    Box::pin(async move { result })
                }),
            };
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let base = format!("http://{}", listener.local_addr().expect("an address"));
            let server = tokio::spawn(serve(listener, state));
            let client = reqwest::Client::builder().no_proxy().build().expect("a client");
            Self { base, client, metrics, readiness, purged, store, server }
        }

        async fn purge(&self, kind: &str, body: impl Into<reqwest::Body>) -> (u16, Option<String>, Value) {
            let request = self.client.post(format!("{}/api/purge", self.base)).header("content-type", kind);
            let answer = request.body(body).send().await.expect("an answer");
            let retry = answer.headers().get("retry-after").map(|v| v.to_str().expect("text").to_owned());
            assert_eq!(answer.headers()["cache-control"], "no-store");
            (answer.status().as_u16(), retry, answer.json().await.expect("JSON"))
        }

        async fn ask(&self, method: reqwest::Method, path: &str) -> (u16, String, String) {
            let url = format!("{}{path}", self.base);
            let answer = self.client.request(method, url).send().await.expect("an answer");
            assert_eq!(answer.headers()["cache-control"], "no-store", "{path}");
            let kind = answer.headers()["content-type"].to_str().expect("text").to_owned();
            (answer.status().as_u16(), kind, answer.text().await.expect("a body"))
        }

        async fn get(&self, path: &str) -> (u16, String, String) {
            self.ask(reqwest::Method::GET, path).await
        }
    }

    #[tokio::test]
    async fn metrics_are_those_of_the_moment() {
        let admin = Admin::start().await;
        for dropped in 1..=2 {
            admin.metrics.log_probe(Box::new(move || dropped));
            let (status, kind, text) = admin.get("/metrics").await;
            assert_eq!((status, kind.as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
            assert!(text.contains(&format!("tidegate_log_lines_dropped_total {dropped}\n")), "{text}");
        }
    }

    #[tokio::test]
    async fn readiness_is_asked_each_time_and_health_is_not() {
        let admin = Admin::start().await;
        let (status, kind, body) = admin.get("/readyz").await;
        assert_eq!((status, kind.as_str()), (200, "application/json"));
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body, json!({"ready": true, "reasons": []}));

        *admin.readiness.lock() = Readiness { ready: false, reasons: vec!["draining".to_owned()] };
        let (status, _, body) = admin.get("/readyz").await;
        assert_eq!(status, 503);
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body, json!({"ready": false, "reasons": ["draining"]}));
        assert_eq!(admin.get("/healthz").await.0, 200);
    }

    #[tokio::test]
    async fn the_index_lists_what_there_is() {
        let admin = Admin::start().await;
        let (status, kind, page) = admin.get("/").await;
        assert_eq!((status, kind.as_str()), (200, "text/html; charset=utf-8"));
        assert!(page.contains(env!("CARGO_PKG_VERSION")));
        let links: Vec<&str> =
            page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(links, ["/metrics", "/healthz", "/readyz"]);
        for link in links {
            assert_eq!(admin.get(link).await.0, 200, "{link}");
        }
    }

    #[tokio::test]
    async fn a_purge_is_handed_on_and_counted() {
        let admin = Admin::start().await;
        let body = r#"{"tags": ["a", "b"], "soft": true}"#;
        let (status, _, answer) = admin.purge("application/json; charset=utf-8", body).await;
        assert_eq!((status, answer), (200, json!({"purged": 7, "soft": true})));
        let tag = |text: &str| PurgeOrder {
            target: crate::cache::coherence::purge::PurgeTarget::Tag(text.into()),
            soft: true,
        };
        assert_eq!(*admin.purged.lock(), [tag("a"), tag("b")]);
    }

    #[tokio::test]
    async fn a_purge_that_the_store_did_not_take_is_a_503() {
        let admin = Admin::start().await;
        for (error, told) in [
            (StoreError::Down, "Redis can't be reached"),
            (StoreError::Timeout, "Redis did not answer in time"),
            (StoreError::Protocol, "Redis refused to write it"),
        ] {
            *admin.store.lock() = Err(PurgeFailure::Store(error));
            let (status, retry, answer) = admin.purge("application/json", r#"{"all": true}"#).await;
            assert_eq!((status, retry.as_deref()), (503, Some("1")));
            assert!(answer["detail"].as_str().expect("text").contains(told), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_purge_that_can_find_nothing_says_so() {
        let admin = Admin::start().await;
        *admin.store.lock() = Err(PurgeFailure::Nothing("its route sends files".to_owned()));
        let (status, retry, answer) = admin.purge("application/json", r#"{"url": "http://a/x"}"#).await;
        assert_eq!((status, retry), (422, None));
        assert_eq!(answer["detail"], "its route sends files");
    }

    #[tokio::test]
    async fn a_purge_that_cannot_be_read_purges_nothing() {
        let admin = Admin::start().await;
        let large = format!(r#"{{"tag": "{}"}}"#, "a".repeat(2 << 20));
        for (kind, body, status, told) in [
            ("application/json", r#"{"url": "/x"}"#, 400, "url: a URL has to begin"),
            ("text/plain", r#"{"all": true}"#, 415, "application/json"),
            ("application/json", large.as_str(), 413, "length limit"),
        ] {
            let (sent, _, answer) = admin.purge(kind, body.to_owned()).await;
            assert_eq!(sent, status, "{answer}");
            assert!(answer["detail"].as_str().expect("text").contains(told), "{answer}");
        }
        assert_eq!(admin.ask(reqwest::Method::GET, "/api/purge").await.0, 405);
        assert!(admin.purged.lock().is_empty());
    }

    /// A page can resolve its own name to this address (DNS rebinding), or send cross-origin requests.
    #[tokio::test]
    async fn no_web_page_is_answered() {
        let admin = Admin::start().await;
        let base = admin.base.strip_prefix("http://").expect("a URL").to_owned();
        let port = base.rsplit(':').next().expect("a port");
        let evil = format!("evil.example:{port}");
        for (fields, status) in [
            (&[][..], 200),
            (&[("host", "localhost")], 200),
            (&[("host", "Admin.Example:1")], 200),
            (&[("host", evil.as_str())], 421),
            (&[("host", "")], 421),
            (&[("host", "10.0.0.1")], 421),
            (&[("origin", "http://evil.example")], 403),
            (&[("origin", "null")], 403),
            (&[("origin", admin.base.as_str())], 403),
            (&[("host", evil.as_str()), ("origin", "null")], 403),
        ] {
            for (method, path) in
                [("GET", "/"), ("GET", "/metrics"), ("GET", "/none"), ("POST", "/api/purge")]
            {
                let url = format!("{}{path}", admin.base);
                let request = admin.client.request(method.parse().expect("a method"), url);
                let request = request.header("content-type", "application/json").body(r#"{"all": true}"#);
                let request =
                    fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
                let answer = request.send().await.expect("an answer");
                let expected = if (status, path) == (200, "/none") { 404 } else { status };
                assert_eq!(answer.status(), expected, "{fields:?} {method} {path}");
            }
        }
        assert_eq!(admin.purged.lock().len(), 3, "those alone that were answered");
    }

    #[tokio::test]
    async fn anything_else_is_a_problem() {
        let admin = Admin::start().await;
        for (method, path, status, title) in [
            (reqwest::Method::GET, "/metrics/", 404, "Not Found"),
            (reqwest::Method::GET, "/x?y=1", 404, "Not Found"),
            (reqwest::Method::POST, "/metrics", 405, "Method Not Allowed"),
        ] {
            let (sent, kind, body) = admin.ask(method, path).await;
            assert_eq!((sent, kind.as_str()), (status, "application/problem+json"), "{path}");
            let body: Value = serde_json::from_str(&body).expect("JSON");
            assert_eq!(body, json!({"type": "about:blank", "title": title, "status": status}));
        }
    }
}
