//! The demo origin: a small application behind the gateway, in this process and on loopback, so that
//! `tidegate demo` has something to speed up.
//!
//! It keeps orders in memory, answers the three widgets of a dashboard by really aggregating them, takes new
//! orders, and tells the gateway of each by a signed event. It believes `X-Tenant` and `X-User`, as an
//! application behind the gateway does (the gateway removes those that a client sends), and its page hands a
//! token to whoever asks: it refuses to listen on anything but loopback, and is never part of `tidegate run`.

mod orders;
mod outbox;
mod page;
mod seed;
mod web;

use crate::config::Secret;
use orders::{DemoTime, ShopLedger};

use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// The settings of the demo origin.
#[derive(Debug, Clone)]
pub struct DemoSettings {
    /// The target of its events: `http://host:port` of the gateway.
    pub gateway: String,
    /// The HS256 secret of the page's tokens: that of the gateway's `[jwt]`.
    pub jwt_secret: Secret,
    /// The secret of its events: that of the gateway's `[[event]]`.
    pub event_secret: Secret,
    /// The artificial cost of each widget query. It stands for the database query that a real application
    /// would wait for.
    pub query_cost: Duration,
}

/// The demo origin.
#[derive(Debug)]
pub struct DemoOrigin;

/// A running demo origin.
#[derive(Debug)]
pub struct RunningOrigin {
    /// The address that it listens on.
    pub addr: SocketAddr,
    /// Cancel it to stop: requests under way are finished, events that wait are dropped.
    pub stop: CancellationToken,
    tasks: [JoinHandle<()>; 2],
}

impl DemoOrigin {
    /// Starts answering on `listener`, with a day of orders for the tenants `acme`, `globex` and `public`.
    ///
    /// Must be called within a Tokio runtime; connections that were made to the listener before are served
    /// now.
    ///
    /// # Errors
    /// `InvalidInput` if `listener` is not on loopback or a setting is not valid, else the error of reading
    /// the listener's address.
    pub fn start(listener: TcpListener, settings: DemoSettings) -> io::Result<RunningOrigin> {
        let addr = listener.local_addr()?;
        if !addr.ip().is_loopback() {
            let refusal = format!("the demo origin listens on loopback only, not on {addr}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, refusal));
        }
        let (events, outbox) = outbox::Outbox::new(&settings.gateway, &settings.event_secret)?;
        let books = seed::seed_books(DemoTime::now()).map_err(io::Error::other)?;
        let shop = web::ShopState {
            ledger: ShopLedger::of(books),
            query_cost: settings.query_cost,
            events,
            jwt_secret: settings.jwt_secret,
        };
        let stop = CancellationToken::new();
        let serving = axum::serve(listener, web::build_router(Arc::new(shop)))
            .with_graceful_shutdown(stop.clone().cancelled_owned());
        let tasks = [
            tokio::spawn(async move {
                if let Err(error) = serving.await {
                    tracing::error!(%error, "the demo origin stopped");
                }
            }),
            tokio::spawn(outbox.run(stop.clone())),
        ];
        Ok(RunningOrigin { addr, stop, tasks })
    }
}

impl RunningOrigin {
    /// Waits until it has stopped. It only stops after [`stop`](Self::stop) is cancelled.
    ///
    /// # Errors
    /// A panic inside the origin.
    pub async fn stopped(self) -> io::Result<()> {
        for task in self.tasks {
            task.await.map_err(io::Error::other)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::{Client, Response, StatusCode};
    use serde_json::{json, Value};

    async fn listen(address: &str) -> TcpListener {
        TcpListener::bind(address).await.unwrap()
    }

    fn settings(query_cost: Duration) -> DemoSettings {
        DemoSettings {
            // Refuses events at once: no test here waits for them.
            gateway: "http://127.0.0.1:1".into(),
            jwt_secret: Secret::new("jwt"),
            event_secret: Secret::new("event"),
            query_cost,
        }
    }

    struct Site(RunningOrigin, Client);

    async fn site() -> Site {
        let origin = DemoOrigin::start(listen("127.0.0.1:0").await, settings(Duration::ZERO)).unwrap();
        Site(origin, Client::new())
    }

    impl Site {
        async fn fetch(&self, path: &str, tenant: &str) -> Response {
            let url = format!("http://{}{path}", self.0.addr);
            self.1.get(url).header("x-tenant", tenant).send().await.unwrap()
        }

        async fn json(&self, path: &str, tenant: &str) -> Value {
            self.fetch(path, tenant).await.json().await.unwrap()
        }

        async fn order(&self, tenant: &str, body: impl Into<reqwest::Body>) -> Response {
            let request = self.1.post(format!("http://{}/orders", self.0.addr)).header("x-tenant", tenant);
            let request = request.header("x-user", "zed").header("content-type", "application/json");
            request.body(body).send().await.unwrap()
        }
    }

    #[tokio::test]
    async fn an_order_is_in_its_tenant_s_answers_and_in_nobody_else_s() {
        let site = site().await;
        let others = site.json("/api/widgets/recent", "globex").await;
        for (body, user, kind) in [
            (json!({"amount": 9900}), "zed", "order_created"),
            (json!({"amount": 9900, "user": "amy", "type": "gift"}), "amy", "gift"),
        ] {
            let newest = site.json("/api/widgets/recent", "acme").await[0]["id"].as_u64().unwrap();
            let response = site.order("acme", body.to_string()).await;
            assert_eq!(response.status(), StatusCode::CREATED);
            let created: Value = response.json().await.unwrap();
            assert_eq!((&created["id"], &created["tenant"]), (&json!(newest + 1), &json!("acme")));
            let row = &site.json("/api/widgets/recent", "acme").await[0];
            let expected = json!({
                "id": newest + 1, "type": kind, "amount": 9900, "user": user, "ts": created["ts"]
            });
            assert_eq!(row, &expected);
        }
        assert_eq!(site.json("/api/widgets/recent", "globex").await, others);

        // A tenant without a history counts from zero.
        site.order("fresh", r#"{"amount":5}"#).await;
        let kpi = site.json("/api/widgets/kpi", "fresh").await;
        assert_eq!((&kpi["orders_today"], &kpi["revenue_today"]), (&json!(1), &json!(5)));
        assert_eq!(kpi["active_users"], 1);
    }

    #[tokio::test]
    async fn each_tenant_s_query_is_counted_for_itself() {
        let site = site().await;
        for (path, tenant, count) in [
            ("/api/widgets/kpi", "acme", "1"),
            ("/api/widgets/kpi", "acme", "2"),
            ("/api/widgets/chart", "acme", "1"),
            ("/api/widgets/kpi", "globex", "1"),
            ("/api/widgets/kpi", "acme", "3"),
        ] {
            let response = site.fetch(path, tenant).await;
            assert_eq!(response.headers()["x-query-count"], count, "{path} of {tenant}");
            assert_eq!(response.headers()["content-type"], "application/json");
        }
    }

    #[tokio::test]
    async fn a_query_costs_what_was_agreed() {
        let cost = Duration::from_millis(40);
        let site =
            Site(DemoOrigin::start(listen("127.0.0.1:0").await, settings(cost)).unwrap(), Client::new());
        for path in ["/api/widgets/kpi", "/api/widgets/chart", "/api/widgets/recent"] {
            let start = std::time::Instant::now();
            assert_eq!(site.fetch(path, "acme").await.status(), StatusCode::OK);
            assert!(start.elapsed() >= cost, "{path}");
        }
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_refused_with_a_problem() {
        let site = site().await;
        for (path, tenant, status) in [
            ("/api/widgets/chart?hours=0", "acme", 400),
            ("/api/widgets/chart?hours=169", "acme", 400),
            ("/api/widgets/chart?hours=-1", "acme", 400),
            ("/api/widgets/chart?hours=1&hours=2", "acme", 400),
            ("/api/widgets/chart?hours=x", "acme", 400),
            ("/api/widgets/kpi", "a:b", 400),
            ("/?tenant=a%20b", "acme", 400),
            ("/?user=", "acme", 400),
            ("/nowhere", "acme", 404),
            ("/orders", "acme", 405),
        ] {
            refused(site.fetch(path, tenant).await, status, path).await;
        }
        for (body, status) in [
            ("", 400),
            ("{", 400),
            (r#"{"amount":0}"#, 400),
            (r#"{"amount":1000000001}"#, 400),
            (r#"{"amount":-1}"#, 422),
            (r#"{"amount":1,"other":1}"#, 422),
            (r#"{"amount":1,"user":"a\nb"}"#, 400),
            (r#"{"amount":1,"type":"<b>"}"#, 400),
        ] {
            refused(site.order("acme", body).await, status, body).await;
        }
        refused(site.order("acme", vec![b' '; 20_000]).await, 413, "large").await;
        for hours in [1, 168] {
            let chart = site.json(&format!("/api/widgets/chart?hours={hours}"), "acme").await;
            assert_eq!(chart["points"].as_array().map(Vec::len), Some(hours));
        }
    }

    async fn refused(response: Response, status: u16, what: &str) {
        assert_eq!(response.status(), status, "{what}");
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{what}");
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["status"], status, "{what}");
        assert!(problem["detail"].as_str().is_some_and(|d| !d.is_empty()), "{what}");
    }

    #[tokio::test]
    async fn it_listens_on_loopback_only() {
        let refusal = DemoOrigin::start(listen("0.0.0.0:0").await, settings(Duration::ZERO)).unwrap_err();
        assert_eq!(refusal.kind(), io::ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn it_stops_when_told_to() {
        let Site(origin, client) = site().await;
        let url = format!("http://{}/healthz", origin.addr);
        assert_eq!(client.get(&url).send().await.unwrap().status(), StatusCode::OK);
        origin.stop.cancel();
        tokio::time::timeout(Duration::from_secs(20), origin.stopped()).await.unwrap().unwrap();
        assert!(client.get(url).send().await.is_err());
    }
}
