//! Signed events: `POST /internal/events/<name>` moves versions.
//!
//! The scheme is Standard Webhooks (see [`signature`]). An event is remembered by its id only after its bumps are
//! recorded: a sender that was told 503, or nothing, sends it again, and at worst a version moves twice. An event
//! that was taken before changes nothing, and of those that come at once with one id one acts: the others wait for what
//! becomes of it, on this node and on all.

mod replay;
pub mod signature;

use crate::{
    cache::{redis::EventStanding, Cache},
    clock::{now_ms, wall_ms},
    config,
    name::Tenant,
    telemetry::labels::EventResult,
};
use ahash::RandomState;
use http::HeaderMap;
use parking_lot::Mutex;
use replay::{EventId, SeenEvents, Turn};
use signature::{SecretError, SignatureError, SigningKey};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// How long an id is remembered: twice the tolerance of an event's timestamp.
const REMEMBER: Duration = Duration::from_secs(600);
/// The time for which an event waits for the end of the same one: senders give up after 15 s and more.
const WAIT: Duration = Duration::from_secs(10);
/// The interval at which it is asked what has become of it on another node.
const LOOK: Duration = Duration::from_millis(25);

/// One `[[event]]`.
pub struct Endpoint {
    /// What the configuration says.
    pub settings: config::Event,
    keys: Vec<SigningKey>,
    bucket: Arc<Mutex<Bucket>>,
}

/// Tokens, and when they were counted.
struct Bucket {
    tokens: f64,
    counted: Instant,
}

/// All `[[event]]`s.
pub struct Events {
    endpoints: Vec<Endpoint>,
    by_path: HashMap<String, usize, RandomState>,
    seen: Arc<SeenEvents>,
    cache: Arc<Cache>,
}

/// Why an event is not the caller's to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untaken {
    /// Its sender has not signed it.
    Unsigned(SignatureError),
    /// This has become of it.
    Ended(EventResult),
}

impl From<SignatureError> for Untaken {
    fn from(error: SignatureError) -> Self {
        Self::Unsigned(error)
    }
}

impl From<EventResult> for Untaken {
    fn from(result: EventResult) -> Self {
        Self::Ended(result)
    }
}

impl Events {
    /// The endpoints of a configuration. What the one before knows of events, and of who has sent many, goes on.
    ///
    /// # Errors
    /// If a secret says that it is base64 and isn't.
    pub fn new(
        events: &[config::Event],
        cache: Arc<Cache>,
        before: Option<&Self>,
    ) -> Result<Self, SecretError> {
        let mut endpoints = Vec::with_capacity(events.len());
        for settings in events {
            let keys = settings.secrets.iter().map(SigningKey::new).collect::<Result<_, _>>()?;
            let before = before.and_then(|before| before.at(&settings.path));
            let bucket = match before.filter(|before| before.settings.rate == settings.rate) {
                Some(before) => before.bucket.clone(),
                None => Arc::new(Mutex::new(Bucket { tokens: burst(settings), counted: Instant::now() })),
            };
            endpoints.push(Endpoint { settings: settings.clone(), keys, bucket });
        }
        let by_path = endpoints.iter().enumerate().map(|(i, e)| (e.settings.path.clone(), i)).collect();
        let seen = before.map(|before| before.seen.clone()).unwrap_or_default();
        Ok(Self { endpoints, by_path, seen, cache })
    }

    /// The endpoint at a path.
    pub fn at(&self, path: &str) -> Option<&Endpoint> {
        self.by_path.get(path).map(|i| &self.endpoints[*i])
    }

    /// Takes an event: checks it and moves the versions. The caller has it remembered with [`EventClaim::remember`] when
    /// nothing can fail any more. Where the same event is under way, its end is waited for.
    ///
    /// # Errors
    /// What becomes of an event that is not the caller's to act on.
    pub async fn take(
        &self,
        endpoint: &Endpoint,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<EventClaim, Untaken> {
        verify(endpoint, headers, body, wall_ms()).inspect_err(|error| complain(endpoint, error))?;
        // Counted only now: whoever can't sign can't use up what those who can are allowed.
        if !endpoint.admits(Instant::now()) {
            return Err(EventResult::RateLimited.into());
        }
        let tenant = tenant(body).inspect_err(|why| complain(endpoint, why))?;
        let id = field(headers, "webhook-id").to_owned();
        let id = EventId { endpoint: endpoint.settings.path.clone(), id };
        let claimed = timeout(WAIT, self.claim(id)).await.unwrap_or(Err(EventResult::UnderWay));
        if claimed.as_ref().is_err_and(|why| *why != EventResult::StoreDown) {
            return Ok(claimed?);
        }
        // Where the store can't tell whether it is new, moving on is harmless; saying that it is done is not.
        match (self.bump_all(endpoint, &tenant).await, claimed) {
            (true, claimed) => Ok(claimed?),
            (false, Ok(claim)) => {
                claim.release().await;
                Err(EventResult::StoreDown.into())
            }
            (false, Err(why)) => Err(why.into()),
        }
    }

    /// Waits until nobody else is at work on an event, and claims it.
    ///
    /// # Errors
    /// If it was taken before, or the store can't tell.
    async fn claim(&self, id: EventId) -> Result<EventClaim, EventResult> {
        let turn = self.seen.turn(&id).await;
        if self.seen.knows(&id, now_ms()) {
            return Err(EventResult::Replayed);
        }
        let mut claim =
            EventClaim { id, cache: self.cache.clone(), seen: self.seen.clone(), _turn: turn, held: None };
        let Some(redis) = self.cache.redis() else { return Ok(claim) };
        let token = format!("{:032x}", rand::random::<u128>());
        // Before the store is asked: where the answer to it is lost, the claim is given back all the same.
        claim.hold(token.clone());
        let EventId { endpoint, id } = claim.id.clone();
        loop {
            match redis.claim_event(&endpoint, &id, &token).await {
                Ok(EventStanding::Claimed) => return Ok(claim),
                Ok(EventStanding::Taken) => return Err(EventResult::Replayed),
                Ok(EventStanding::UnderWay) => tokio::time::sleep(LOOK).await,
                Err(_) => return Err(EventResult::StoreDown),
            }
        }
    }

    /// Whether all bumps were recorded. All are tried, whatever becomes of the first.
    async fn bump_all(&self, endpoint: &Endpoint, tenant: &Tenant) -> bool {
        let mut recorded = true;
        for namespace in &endpoint.settings.bump {
            if let Err(error) = self.cache.bump(namespace, tenant).await {
                tracing::warn!(%error, %namespace, %tenant, "a bump was not recorded");
                recorded = false;
            }
        }
        recorded
    }
}

/// An event that is the holder's to act on. Once this is dropped it is the next one's who has sent it.
pub struct EventClaim {
    id: EventId,
    cache: Arc<Cache>,
    seen: Arc<SeenEvents>,
    _turn: Turn,
    /// What other nodes are told by: the token, and who renews it.
    held: Option<(String, AbortOnDropHandle<()>)>,
}

impl EventClaim {
    /// Has a token renewed for as long as the claim lasts.
    fn hold(&mut self, token: String) {
        let Some(redis) = self.cache.redis().cloned() else { return };
        let (EventId { endpoint, id }, renewed) = (self.id.clone(), token.clone());
        let renewing = tokio::spawn(async move { redis.renew_event(&endpoint, &id, &renewed).await });
        self.held = Some((token, AbortOnDropHandle::new(renewing)));
    }

    /// Remembers the event, so that it changes nothing when it comes again.
    pub async fn remember(mut self) -> EventResult {
        let keep_ms = REMEMBER.as_secs() * 1_000;
        // Here in any case: the sender of what the store did not take sends it again.
        self.seen.remember(self.id.clone(), now_ms(), keep_ms);
        let Some(redis) = self.cache.redis() else { return EventResult::Accepted };
        match redis.remember_event(&self.id.endpoint, &self.id.id, REMEMBER).await {
            Ok(()) => {
                self.held = None;
                EventResult::Accepted
            }
            Err(_) => EventResult::StoreDown,
        }
    }

    /// Leaves the event to who sends it again.
    pub async fn release(mut self) {
        if let (Some((token, _)), Some(redis)) = (self.held.take(), self.cache.redis()) {
            redis.release_event(&self.id.endpoint, &self.id.id, &token).await;
        }
    }
}

impl Drop for EventClaim {
    /// Who has gone, or has panicked, leaves it to others as well.
    fn drop(&mut self) {
        let (Some((token, _)), Some(redis)) = (self.held.take(), self.cache.redis().cloned()) else { return };
        let EventId { endpoint, id } = self.id.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn(async move { redis.release_event(&endpoint, &id, &token).await }));
        }
    }
}

/// Tells the log which check an event failed.
fn complain(endpoint: &Endpoint, error: &dyn std::fmt::Display) {
    tracing::warn!(%error, path = endpoint.settings.path, "an event was refused");
}

fn field<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// Verifies an event by its fields. Of two lines of one of them the origin could read the one that was not signed.
///
/// # Errors
/// The first check that it fails.
fn verify(endpoint: &Endpoint, headers: &HeaderMap, body: &[u8], wall_ms: u64) -> Result<(), SignatureError> {
    const FIELDS: [&str; 3] = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    if FIELDS.iter().any(|name| headers.get_all(*name).iter().nth(1).is_some()) {
        return Err(SignatureError::Repeated);
    }
    let [id, timestamp, signatures] = FIELDS.map(|name| field(headers, name));
    signature::verify(&endpoint.keys, id, timestamp, signatures, body, wall_ms / 1_000)
}

/// Whose versions an event moves: the `tenant` of its JSON object, `public` where it names none.
fn tenant(body: &[u8]) -> Result<Tenant, EventResult> {
    let object: serde_json::Map<_, _> = serde_json::from_slice(body).map_err(|_| EventResult::BadBody)?;
    match object.get("tenant") {
        None => Ok(Tenant::public().clone()),
        Some(serde_json::Value::String(name)) => name.parse().map_err(|_| EventResult::BadTenant),
        Some(_) => Err(EventResult::BadTenant),
    }
}

impl Endpoint {
    /// Whether one more event is taken now.
    fn admits(&self, now: Instant) -> bool {
        let mut bucket = self.bucket.lock();
        let elapsed = now.saturating_duration_since(bucket.counted).as_secs_f64();
        bucket.tokens = (bucket.tokens + elapsed * f64::from(self.settings.rate)).min(burst(&self.settings));
        bucket.counted = now;
        let admitted = bucket.tokens >= 1.0;
        if admitted {
            bucket.tokens -= 1.0;
        }
        admitted
    }
}

fn burst(event: &config::Event) -> f64 {
    f64::from(event.rate) * 2.0
}
