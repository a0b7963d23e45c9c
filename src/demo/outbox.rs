//! The demo's outgoing events: one signed `order_created` for each order, delivered to the gateway at least
//! once or, after a bounded number of tries, given up with an error in the log.
//!
//! Standard Webhooks: `webhook-id` stays the same over the tries, `webhook-timestamp` and `webhook-signature`
//! are made anew for each. Refusals other than 429 and 503 are final: the same bytes would be refused again.

use super::orders::DemoTime;
use crate::{
    config::Secret,
    events::signature::{sign_event, WebhookKey},
    name::Tenant,
};

use axum::body::Body;
use bytes::Bytes;
use http::{header, HeaderMap, Method, Request, StatusCode, Uri};
use hyper_util::{
    client::legacy::{connect::HttpConnector, Client},
    rt::TokioExecutor,
};
use serde::Serialize;
use std::{io, time::Duration};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The most events that wait for delivery; if it is full, an order is refused.
const QUEUE_LENGTH: usize = 1024;
/// Tries per event, the first included.
const MAX_TRIES: u32 = 8;
/// The timeout of one try.
const TRY_TIMEOUT: Duration = Duration::from_secs(5);
/// The first pause if the gateway named none; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two tries, whatever `Retry-After` asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The most bytes of an answer that are read so that its connection can be reused.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The event's body.
#[derive(Debug, Clone, Serialize)]
pub(super) struct OrderCreated {
    /// The tenant of the order.
    #[serde(serialize_with = "text")]
    pub(super) tenant: Tenant,
    /// Its id within the tenant.
    pub(super) order_id: u64,
    /// Whole units of the currency.
    pub(super) amount: u64,
}

fn text<S: serde::Serializer>(tenant: &Tenant, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(tenant.as_str())
}

/// Delivers what comes in through the channel, one event after the other.
pub(super) struct Outbox {
    client: Client<HttpConnector, Body>,
    to: Uri,
    key: WebhookKey,
    queue: mpsc::Receiver<OrderCreated>,
}

/// The result of one try.
#[derive(Debug, PartialEq, Eq)]
enum DeliveryOutcome {
    Delivered,
    Refused(StatusCode),
    Again { why: String, after: Option<Duration> },
}

impl Outbox {
    /// Creates an outbox for `{gateway}/internal/events/order_created`, and the sender for events.
    ///
    /// # Errors
    /// `InvalidInput` if the gateway is not an `http` URL or the secret's base64 is invalid.
    pub(super) fn new(gateway: &str, secret: &Secret) -> io::Result<(mpsc::Sender<OrderCreated>, Self)> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
        let to = format!("{}/internal/events/order_created", gateway.trim_end_matches('/'));
        let to: Uri = to.parse().map_err(|e| invalid(format!("gateway URL: {e}")))?;
        if to.scheme_str() != Some("http") || to.host().is_none() {
            return Err(invalid("gateway URL: must begin with http:// and name a host".into()));
        }
        let key = WebhookKey::new(secret).map_err(|e| invalid(format!("event secret: {e}")))?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let (sender, queue) = mpsc::channel(QUEUE_LENGTH);
        Ok((sender, Self { client, to, key, queue }))
    }

    /// Delivers events until `stop`; those that still wait then are lost, as the orders in memory are.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let deliveries = async {
            while let Some(event) = self.queue.recv().await {
                self.deliver(&event).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = deliveries => {}
        }
    }

    async fn deliver(&self, event: &OrderCreated) {
        let body = match serde_json::to_vec(event) {
            Ok(body) => Bytes::from(body),
            Err(error) => return tracing::error!(%error, "an event can't be written as JSON"),
        };
        let id = format!("evt_{:032x}", rand::random::<u128>());
        for attempt in 1..=MAX_TRIES {
            match self.attempt(&id, body.clone()).await {
                DeliveryOutcome::Delivered => return tracing::debug!(%id, attempt, "event delivered"),
                DeliveryOutcome::Refused(status) => {
                    return tracing::error!(%id, %status, "the gateway refused the event");
                }
                DeliveryOutcome::Again { why, .. } if attempt == MAX_TRIES => {
                    tracing::error!(%id, why, "event given up after {MAX_TRIES} tries");
                }
                DeliveryOutcome::Again { why, after } => {
                    let pause = retry_pause(attempt, after);
                    tracing::warn!(%id, attempt, why, ?pause, "event not delivered yet");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn attempt(&self, id: &str, body: Bytes) -> DeliveryOutcome {
        let again = |why: String| DeliveryOutcome::Again { why, after: None };
        let request = match self.request(id, DemoTime::now().seconds(), body) {
            Ok(request) => request,
            Err(error) => return again(error.to_string()),
        };
        let exchange = async {
            let answer = self.client.request(request).await?;
            let (head, body) = answer.into_parts();
            // The connection can only be reused if the body was read to its end.
            if axum::body::to_bytes(Body::new(body), MAX_ANSWER_BYTES).await.is_err() {
                tracing::debug!("the gateway's answer broke off; its status stands");
            }
            Ok::<_, hyper_util::client::legacy::Error>(head)
        };
        match tokio::time::timeout(TRY_TIMEOUT, exchange).await {
            Ok(Ok(head)) => classify_answer(head.status, &head.headers),
            Ok(Err(error)) => again(error.to_string()),
            Err(_) => again(format!("no answer within {TRY_TIMEOUT:?}")),
        }
    }

    fn request(&self, id: &str, timestamp: u64, body: Bytes) -> http::Result<Request<Body>> {
        Request::builder()
            .method(Method::POST)
            .uri(&self.to)
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", sign_event(&self.key, id, timestamp, &body))
            .body(Body::from(body))
    }
}

fn classify_answer(status: StatusCode, headers: &HeaderMap) -> DeliveryOutcome {
    if status.is_success() {
        return DeliveryOutcome::Delivered;
    }
    if status != StatusCode::SERVICE_UNAVAILABLE && status != StatusCode::TOO_MANY_REQUESTS {
        return DeliveryOutcome::Refused(status);
    }
    let seconds = headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
    DeliveryOutcome::Again { why: status.to_string(), after: seconds.map(Duration::from_secs) }
}

fn retry_pause(attempt: u32, asked: Option<Duration>) -> Duration {
    let own = FIRST_PAUSE.saturating_mul(1 << (attempt - 1).min(16));
    asked.unwrap_or(own).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{extract::State, response::IntoResponse, routing::post, Router};
    use std::sync::{
        atomic::{AtomicU32, Ordering},
        Arc,
    };
    use tokio::net::TcpListener;

    #[test]
    fn a_pause_grows_and_obeys_but_is_bounded() {
        let second = Duration::from_secs(1);
        assert_eq!(retry_pause(1, None), FIRST_PAUSE);
        assert_eq!(retry_pause(3, None), FIRST_PAUSE * 4);
        assert_eq!(retry_pause(8, None), LONGEST_PAUSE);
        assert_eq!(retry_pause(1, Some(second)), second);
        assert_eq!(retry_pause(1, Some(second * 3600)), LONGEST_PAUSE);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let mut headers = HeaderMap::new();
        assert_eq!(classify_answer(StatusCode::NO_CONTENT, &headers), DeliveryOutcome::Delivered);
        assert_eq!(
            classify_answer(StatusCode::UNAUTHORIZED, &headers),
            DeliveryOutcome::Refused(StatusCode::UNAUTHORIZED),
            "a bad signature stays bad"
        );
        headers.insert(header::RETRY_AFTER, http::HeaderValue::from_static("2"));
        let DeliveryOutcome::Again { after, .. } = classify_answer(StatusCode::SERVICE_UNAVAILABLE, &headers)
        else {
            panic!("503 is tried again")
        };
        assert_eq!(after, Some(Duration::from_secs(2)));
    }

    #[test]
    fn bad_settings_are_refused() {
        let secret = Secret::new("s");
        for bad in ["", "ftp://a", "https://a", "http://", "http://a b"] {
            assert!(Outbox::new(bad, &secret).is_err(), "{bad:?}");
        }
        assert!(Outbox::new("http://127.0.0.1:8080/", &secret).is_ok());
    }

    type Calls = (AtomicU32, mpsc::Sender<(HeaderMap, Bytes)>);

    /// Answers 503 to the first call and 200 to the others.
    async fn gateway(State(calls): State<Arc<Calls>>, headers: HeaderMap, body: Bytes) -> impl IntoResponse {
        calls.1.send((headers, body)).await.unwrap();
        let first = calls.0.fetch_add(1, Ordering::SeqCst) == 0;
        let status = if first { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        (status, [(header::RETRY_AFTER, "0")])
    }

    #[tokio::test]
    async fn an_event_is_delivered_again_after_a_503_under_the_same_id() {
        let (calls, mut seen) = mpsc::channel(8);
        let app = Router::new()
            .route("/internal/events/order_created", post(gateway))
            .with_state(Arc::new((AtomicU32::new(0), calls)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, app).await });

        let (sender, outbox) = Outbox::new(&url, &Secret::new("shared")).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(outbox.run(stop.clone()));
        for order_id in [7, 8] {
            let event = OrderCreated { tenant: "acme".parse().unwrap(), order_id, amount: 9900 };
            sender.send(event).await.unwrap();
        }

        let mut ids = Vec::new();
        let shared = WebhookKey::new(&Secret::new("shared")).unwrap();
        for order_id in [7, 7, 8] {
            let (headers, body) =
                tokio::time::timeout(Duration::from_secs(20), seen.recv()).await.unwrap().unwrap();
            let expected = format!(r#"{{"tenant":"acme","order_id":{order_id},"amount":9900}}"#);
            assert_eq!(body, expected.as_bytes());
            let text = |name| headers[name].to_str().unwrap().to_owned();
            let id = text("webhook-id");
            let timestamp: u64 = text("webhook-timestamp").parse().unwrap();
            assert_eq!(text("webhook-signature"), sign_event(&shared, &id, timestamp, &body));
            ids.push(id);
        }
        assert_eq!(ids[0], ids[1], "a second try is the same event");
        assert_ne!(ids[1], ids[2]);
        stop.cancel();
        running.await.unwrap();
        server.abort();
    }
}
