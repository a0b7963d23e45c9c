//! Metrics and access records of answers of the prepared lane, written at once or when the client has
//! received them.

use crate::{
    gateway::{
        cache::prepared::{request::FastCaller, FastAnswer, FastResponder, RequestBatch},
        runtime_config::RuntimeConfig,
    },
    name::Tenant,
    telemetry::{access::record::AccessRecord, labels::CacheResult},
};

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Further values of an access record.
struct RecordExtras<'s> {
    host: &'s [u8],
    path: &'s [u8],
    began: Instant,
    duration: Duration,
    detail: Option<&'static str>,
}

impl FastResponder {
    fn tell(&self, site: &RuntimeConfig, caller: FastCaller, done: &FastAnswer, said: RecordExtras<'_>) {
        let Some(at_hand) = site.per_route.get(done.route) else { return };
        at_hand.metrics.record(CacheResult::Hit, done.status, said.duration, done.bytes);
        if !self.gateway.services.access.is_on() {
            return;
        }
        self.gateway.services.access.record(&AccessRecord {
            began: said.began,
            duration: said.duration,
            request_id: done.id.as_bytes(),
            client: caller.peer.to_canonical(),
            method: if done.is_head { "HEAD" } else { "GET" },
            host: said.host,
            path: said.path,
            version: caller.version,
            status: done.status,
            bytes: done.bytes,
            route: site.plan.config.routes.get(done.route).map(|route| route.name.as_str()),
            tenant: done.tenant.as_ref().map(Tenant::as_str),
            result: CacheResult::Hit,
            detail: said.detail,
            origin: None,
        });
    }
}

impl RequestBatch<'_> {
    /// Counts and records an answer that is being sent. `host` and `path` are the request's.
    pub fn tell(&self, done: &FastAnswer, host: &[u8], path: &[u8], duration: Duration) {
        let said = RecordExtras { host, path, began: self.began, duration, detail: None };
        self.ready.tell(&self.site, self.caller, done, said);
    }

    /// The time since the batch began.
    pub fn lasted(&self) -> Duration {
        self.began.elapsed()
    }

    /// A list for answers that the client doesn't receive at once.
    pub fn late(&self) -> PendingLog {
        PendingLog {
            site: Arc::clone(&self.site),
            caller: self.caller,
            began: self.began,
            answers: Vec::new(),
        }
    }
}

/// Answers that are still being sent, and are recorded at their end.
pub struct PendingLog {
    site: Arc<RuntimeConfig>,
    caller: FastCaller,
    began: Instant,
    answers: Vec<(FastAnswer, Vec<u8>, Vec<u8>)>,
}

impl PendingLog {
    /// Adds an answer; `host` and `path` are the request's.
    pub fn add(&mut self, answered: FastAnswer, host: &[u8], path: &[u8]) {
        self.answers.push((answered, host.to_owned(), path.to_owned()));
    }

    /// Records the answers: they have been sent, or were cut short for the reason in `detail`.
    pub fn tell(&self, ready: &FastResponder, detail: Option<&'static str>) {
        for (done, host, path) in &self.answers {
            let said = RecordExtras { host, path, began: self.began, duration: self.began.elapsed(), detail };
            ready.tell(&self.site, self.caller, done, said);
        }
    }
}
