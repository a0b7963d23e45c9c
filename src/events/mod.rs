//! Signed events: `POST /internal/events/<name>` moves versions.
//!
//! The scheme is Standard Webhooks (see [`signature`]). An event is remembered by its id only after its bumps are
//! recorded: a sender that was told 503, or nothing, sends it again, and at worst a version moves twice. An event
//! that was taken before changes nothing.

pub mod signature;

use crate::{
    cache::{now_ms, Cache},
    config,
    name::Tenant,
    telemetry::labels::EventResult,
};
use ahash::RandomState;
use http::HeaderMap;
use parking_lot::Mutex;
use signature::{SecretError, SigningKey};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// Ids that are remembered here where there is no store.
const MOST_IDS: usize = 100_000;
/// How long an id is remembered: twice the tolerance of an event's timestamp.
const REMEMBER: Duration = Duration::from_secs(600);

/// One `[[event]]`.
pub struct Endpoint {
    /// What the configuration says.
    pub settings: config::Event,
    keys: Vec<SigningKey>,
    bucket: Mutex<Bucket>,
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
    /// By endpoint and id: a message may go to several endpoints under one id.
    ids: Mutex<HashMap<(String, String), u64>>,
    cache: Arc<Cache>,
}

/// The store can't tell, or did not take it.
struct StoreDown;

impl Events {
    /// The endpoints of a configuration.
    ///
    /// # Errors
    /// If a secret says that it is base64 and isn't.
    pub fn new(events: &[config::Event], cache: Arc<Cache>) -> Result<Self, SecretError> {
        let mut endpoints = Vec::with_capacity(events.len());
        for settings in events {
            let keys = settings.secrets.iter().map(SigningKey::new).collect::<Result<_, _>>()?;
            let bucket = Mutex::new(Bucket { tokens: burst(settings), counted: Instant::now() });
            endpoints.push(Endpoint { settings: settings.clone(), keys, bucket });
        }
        let by_path = endpoints.iter().enumerate().map(|(i, e)| (e.settings.path.clone(), i)).collect();
        Ok(Self { endpoints, by_path, ids: Mutex::default(), cache })
    }

    /// The endpoint at a path.
    pub fn at(&self, path: &str) -> Option<&Endpoint> {
        self.by_path.get(path).map(|i| &self.endpoints[*i])
    }

    /// Takes an event: checks it and moves the versions. The caller has it remembered with [`Events::remember`] when
    /// nothing can fail any more.
    pub async fn take(&self, endpoint: &Endpoint, headers: &HeaderMap, body: &[u8]) -> EventResult {
        let (id, now) = (field(headers, "webhook-id"), now_ms());
        let (timestamp, signatures) =
            (field(headers, "webhook-timestamp"), field(headers, "webhook-signature"));
        if let Err(error) = signature::verify(&endpoint.keys, id, timestamp, signatures, body, now / 1_000) {
            tracing::warn!(%error, path = endpoint.settings.path, "an event was refused");
            return EventResult::BadSignature;
        }
        // Counted only now: whoever can't sign can't use up what those who can are allowed.
        if !endpoint.admits(Instant::now()) {
            return EventResult::RateLimited;
        }
        let tenant = match tenant(body) {
            Ok(tenant) => tenant,
            Err(why) => return why,
        };
        let known = self.knows(endpoint, id, now).await;
        if let Ok(true) = known {
            return EventResult::Replayed;
        }
        // Where the store can't tell whether it is new, moving on is harmless; saying that it is done is not.
        let recorded = self.bump_all(endpoint, &tenant).await;
        match known.is_ok() && recorded {
            true => EventResult::Accepted,
            false => EventResult::StoreDown,
        }
    }

    /// Remembers an event that was taken, so that it changes nothing when it comes again.
    pub async fn remember(&self, endpoint: &Endpoint, headers: &HeaderMap) -> EventResult {
        let id = field(headers, "webhook-id");
        if let Some(redis) = self.cache.redis() {
            return match redis.remember_event(&endpoint.settings.path, id, REMEMBER).await {
                Ok(()) => EventResult::Accepted,
                Err(_) => EventResult::StoreDown,
            };
        }
        let (now, keep) = (now_ms(), REMEMBER.as_secs() * 1_000);
        let mut ids = self.ids.lock();
        if ids.len() >= MOST_IDS {
            ids.retain(|_, until| *until > now);
        }
        if ids.len() < MOST_IDS {
            ids.insert((endpoint.settings.path.clone(), id.to_owned()), now + keep);
        }
        EventResult::Accepted
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

    async fn knows(&self, endpoint: &Endpoint, id: &str, now: u64) -> Result<bool, StoreDown> {
        let path = &endpoint.settings.path;
        match self.cache.redis() {
            Some(redis) => redis.knows_event(path, id).await.map_err(|_| StoreDown),
            None => {
                let name = (path.clone(), id.to_owned());
                Ok(self.ids.lock().get(&name).is_some_and(|until| *until > now))
            }
        }
    }
}

fn field<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
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
