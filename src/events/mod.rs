//! Signed events: `POST /internal/events/<name>` bumps versions.
//!
//! The scheme is Standard Webhooks (see [`signature`]). An event's id is remembered only after its bumps are
//! recorded: a sender that got a 503, or no answer, sends it again, and at worst a version is bumped twice. A
//! repeated event changes nothing. Of concurrent events with one id one is processed; the others wait for its
//! result, on this node and on all.

mod replay;
pub(crate) mod signature;

use crate::{
    cache::{coherence::version::Version, redis::EventStanding, Cache},
    clock::{now_ms, wall_ms},
    config,
    name::{Namespace, Tenant},
    telemetry::labels::EventResult,
};
use ahash::RandomState;
use http::HeaderMap;
use parking_lot::Mutex;
use replay::{EventId, EventTurn, SeenEvents};
use signature::{SecretError, SignatureError, WebhookKey};

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// The time for which an id is remembered: twice the tolerance of an event's timestamp.
const REPLAY_WINDOW: Duration = Duration::from_secs(600);
/// The time for which an event waits for a concurrent one with the same id: senders give up after 15 s and
/// more.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);
/// The interval at which the store is asked for the result of another node.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// One `[[event]]`.
pub struct EventEndpoint {
    /// The configuration of the event.
    pub settings: config::EventConfig,
    keys: Vec<WebhookKey>,
    bucket: Arc<Mutex<EventBucket>>,
}

/// The tokens of a rate limit, and the time when they were counted.
struct EventBucket {
    tokens: f64,
    counted: Instant,
}

/// All `[[event]]`s.
pub struct EventEndpoints {
    endpoints: Vec<EventEndpoint>,
    by_path: HashMap<String, usize, RandomState>,
    seen: Arc<SeenEvents>,
    cache: Arc<Cache>,
}

/// The reason why the caller must not process an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventRefusal {
    /// The signature is missing or wrong.
    Unsigned(SignatureError),
    /// The event was already processed, or failed: its result.
    Ended(EventResult),
}

impl From<SignatureError> for EventRefusal {
    fn from(error: SignatureError) -> Self {
        Self::Unsigned(error)
    }
}

impl From<EventResult> for EventRefusal {
    fn from(result: EventResult) -> Self {
        Self::Ended(result)
    }
}

impl EventEndpoints {
    /// The endpoints of a configuration. The ids that the previous one remembers, and its rate limits, are
    /// kept.
    ///
    /// # Errors
    /// If a secret is marked as base64 and isn't.
    pub fn new(
        events: &[config::EventConfig],
        cache: Arc<Cache>,
        before: Option<&Self>,
    ) -> Result<Self, SecretError> {
        let mut endpoints = Vec::with_capacity(events.len());
        for settings in events {
            let keys = settings.secrets.iter().map(WebhookKey::new).collect::<Result<_, _>>()?;
            let before = before.and_then(|before| before.at(&settings.path));
            let bucket = match before.filter(|before| before.settings.rate == settings.rate) {
                Some(before) => before.bucket.clone(),
                None => {
                    Arc::new(Mutex::new(EventBucket { tokens: burst_of(settings), counted: Instant::now() }))
                }
            };
            endpoints.push(EventEndpoint { settings: settings.clone(), keys, bucket });
        }
        let by_path = endpoints.iter().enumerate().map(|(i, e)| (e.settings.path.clone(), i)).collect();
        let seen = before.map(|before| before.seen.clone()).unwrap_or_default();
        Ok(Self { endpoints, by_path, seen, cache })
    }

    /// The endpoint at a path.
    pub fn at(&self, path: &str) -> Option<&EventEndpoint> {
        self.by_path.get(path).map(|i| &self.endpoints[*i])
    }

    /// Takes an event: checks it and bumps the versions. The caller calls [`EventClaim::remember`] once
    /// nothing can fail any more. Waits for a concurrent event with the same id.
    ///
    /// # Errors
    /// The reason why the caller must not process the event.
    pub async fn take(
        &self,
        endpoint: &EventEndpoint,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<EventClaim, EventRefusal> {
        verify_event(endpoint, headers, body, wall_ms())
            .inspect_err(|error| log_failed_check(endpoint, error))?;
        // Counted after the signature is checked: senders without a key can't use up the rate of the others.
        if !endpoint.admits(Instant::now()) {
            return Err(EventResult::RateLimited.into());
        }
        let tenant = event_tenant(body).inspect_err(|why| log_failed_check(endpoint, why))?;
        let id = field_text(headers, "webhook-id").to_owned();
        let id = EventId { endpoint: endpoint.settings.path.clone(), id };
        let claimed = timeout(TURN_TIMEOUT, self.claim(id)).await.unwrap_or(Err(EventResult::UnderWay));
        if claimed.as_ref().is_err_and(|why| *why != EventResult::StoreDown) {
            return Ok(claimed?);
        }
        // If the store can't tell whether the event is new, bumping is harmless; reporting it as done is not.
        match (self.bump_all(endpoint, &tenant).await, claimed) {
            (Some(made), claimed) => {
                let mut claim = claimed?;
                claim.made = made;
                Ok(claim)
            }
            (None, Ok(claim)) => {
                claim.release().await;
                Err(EventResult::StoreDown.into())
            }
            (None, Err(why)) => Err(why.into()),
        }
    }

    /// The present versions of an event's namespaces, for the sender of an event that was processed before:
    /// no earlier than those that it has made. None if the store can't be asked.
    pub async fn present_versions(&self, endpoint: &EventEndpoint, body: &[u8]) -> MadeVersions {
        let Ok(tenant) = event_tenant(body) else { return Vec::new() };
        let mut present = Vec::new();
        for namespace in &endpoint.settings.bump {
            match self.cache.version_now(namespace, &tenant).await {
                Some(version) => present.push((namespace.clone(), version)),
                None => return Vec::new(),
            }
        }
        present
    }

    /// Waits until no other request processes the event, and claims it.
    ///
    /// # Errors
    /// If it was processed before, or the store can't tell.
    async fn claim(&self, id: EventId) -> Result<EventClaim, EventResult> {
        let turn = self.seen.turn(&id).await;
        if self.seen.knows(&id, now_ms()) {
            return Err(EventResult::Replayed);
        }
        let mut claim = EventClaim {
            id,
            cache: self.cache.clone(),
            seen: self.seen.clone(),
            _turn: turn,
            held: None,
            made: Vec::new(),
        };
        let Some(redis) = self.cache.redis() else { return Ok(claim) };
        let token = format!("{:032x}", rand::random::<u128>());
        // Before the store is called: if its answer is lost, the claim is released all the same.
        claim.hold(token.clone());
        let EventId { endpoint, id } = claim.id.clone();
        loop {
            match redis.claim_event(&endpoint, &id, &token).await {
                Ok(EventStanding::Claimed) => return Ok(claim),
                Ok(EventStanding::Taken) => return Err(EventResult::Replayed),
                Ok(EventStanding::UnderWay) => tokio::time::sleep(POLL_INTERVAL).await,
                Err(_) => return Err(EventResult::StoreDown),
            }
        }
    }

    /// Bumps all namespaces of the event, even if one fails. Returns the versions if all bumps were recorded.
    async fn bump_all(&self, endpoint: &EventEndpoint, tenant: &Tenant) -> Option<MadeVersions> {
        let mut made = Some(Vec::with_capacity(endpoint.settings.bump.len()));
        for namespace in &endpoint.settings.bump {
            match self.cache.bump(namespace, tenant).await {
                Ok(version) => {
                    made.iter_mut().for_each(|made| made.push((namespace.clone(), version.clone())))
                }
                Err(error) => {
                    tracing::warn!(%error, %namespace, %tenant, "a bump was not recorded");
                    made = None;
                }
            }
        }
        made
    }
}

/// The versions that an event has made, by their namespaces.
pub(crate) type MadeVersions = Vec<(Namespace, Version)>;

/// The right to process an event. When it is dropped, a waiting request with the same id gets it.
pub struct EventClaim {
    id: EventId,
    cache: Arc<Cache>,
    seen: Arc<SeenEvents>,
    _turn: EventTurn,
    /// The claim in the store: its token, and the task that renews it.
    held: Option<(String, AbortOnDropHandle<()>)>,
    made: MadeVersions,
}

impl EventClaim {
    /// Renews a token for as long as the claim lasts.
    fn hold(&mut self, token: String) {
        let Some(redis) = self.cache.redis().cloned() else { return };
        let (EventId { endpoint, id }, renewed) = (self.id.clone(), token.clone());
        let renewing = tokio::spawn(async move { redis.renew_event(&endpoint, &id, &renewed).await });
        self.held = Some((token, AbortOnDropHandle::new(renewing)));
    }

    /// The versions that the event has made.
    pub fn made(&self) -> &[(Namespace, Version)] {
        &self.made
    }

    /// Remembers the event, so that it changes nothing when it is sent again.
    pub async fn remember(mut self) -> EventResult {
        let keep_ms = REPLAY_WINDOW.as_secs() * 1_000;
        // On this node in any case: if the store did not take it, its sender sends it again.
        self.seen.remember(self.id.clone(), now_ms(), keep_ms);
        let Some(redis) = self.cache.redis() else { return EventResult::Accepted };
        match redis.remember_event(&self.id.endpoint, &self.id.id, REPLAY_WINDOW).await {
            Ok(()) => {
                self.held = None;
                EventResult::Accepted
            }
            Err(_) => EventResult::StoreDown,
        }
    }

    /// Releases the claim for the sender's next attempt.
    pub async fn release(mut self) {
        if let (Some((token, _)), Some(redis)) = (self.held.take(), self.cache.redis()) {
            redis.release_event(&self.id.endpoint, &self.id.id, &token).await;
        }
    }
}

impl Drop for EventClaim {
    /// Releases the claim as well if the request was dropped or panicked.
    fn drop(&mut self) {
        let (Some((token, _)), Some(redis)) = (self.held.take(), self.cache.redis().cloned()) else { return };
        let EventId { endpoint, id } = self.id.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn(async move { redis.release_event(&endpoint, &id, &token).await }));
        }
    }
}

/// Logs the check that an event failed.
fn log_failed_check(endpoint: &EventEndpoint, error: &dyn std::fmt::Display) {
    tracing::warn!(%error, path = endpoint.settings.path, "an event was refused");
}

fn field_text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// Verifies an event by its fields. A repeated field is refused: an origin could read the line that was not
/// signed.
///
/// # Errors
/// The first check that it fails.
fn verify_event(
    endpoint: &EventEndpoint,
    headers: &HeaderMap,
    body: &[u8],
    wall_ms: u64,
) -> Result<(), SignatureError> {
    const FIELDS: [&str; 3] = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    if FIELDS.iter().any(|name| headers.get_all(*name).iter().nth(1).is_some()) {
        return Err(SignatureError::Repeated);
    }
    let [id, timestamp, signatures] = FIELDS.map(|name| field_text(headers, name));
    signature::verify_signature(&endpoint.keys, id, timestamp, signatures, body, wall_ms / 1_000)
}

/// The tenant whose versions an event bumps: `tenant` of its JSON object, or `public` without one.
fn event_tenant(body: &[u8]) -> Result<Tenant, EventResult> {
    let object: serde_json::Map<_, _> = serde_json::from_slice(body).map_err(|_| EventResult::BadBody)?;
    match object.get("tenant") {
        None => Ok(Tenant::public().clone()),
        Some(serde_json::Value::String(name)) => name.parse().map_err(|_| EventResult::BadTenant),
        Some(_) => Err(EventResult::BadTenant),
    }
}

impl EventEndpoint {
    /// Returns true if the rate allows one more event now.
    fn admits(&self, now: Instant) -> bool {
        let mut bucket = self.bucket.lock();
        let elapsed = now.saturating_duration_since(bucket.counted).as_secs_f64();
        bucket.tokens =
            (bucket.tokens + elapsed * f64::from(self.settings.rate)).min(burst_of(&self.settings));
        bucket.counted = now;
        let admitted = bucket.tokens >= 1.0;
        if admitted {
            bucket.tokens -= 1.0;
        }
        admitted
    }
}

fn burst_of(event: &config::EventConfig) -> f64 {
    f64::from(event.rate) * 2.0
}
