//! What is known of one request while it goes through the phases.

use super::{passing::Passing, Signals};
use crate::{identity::Identity, origin::pool::Pool, telemetry::labels::CacheResult};
use http::{HeaderMap, HeaderValue};
use std::{
    net::SocketAddr,
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc,
    },
    time::{Duration, Instant},
};

/// The last second of the year 9999, the last that a date can name.
const LAST_DATE: u64 = 253_402_300_799;

/// One request's state.
pub struct Context {
    /// When its head had been read.
    pub(super) began: Instant,
    /// Who sent it.
    pub(super) peer: Option<SocketAddr>,
    /// What it is called in logs, answers and requests to the origin.
    pub(super) request_id: HeaderValue,
    /// Index of its route.
    pub(super) route: Option<usize>,
    /// Who is behind it.
    pub(super) identity: Option<Arc<Identity>>,
    /// Where its answer comes from.
    pub(super) result: CacheResult,
    /// Why, as `Cache-Status` and the access record tell it.
    pub(super) detail: Option<&'static str>,
    /// Bytes of its body that went by.
    pub(super) body_seen: u64,
    /// The server that it is proxied to.
    pub(super) upstream: Option<Upstream>,
    /// Retries that are left.
    pub(super) retries: Option<u32>,
    /// How long the origin took to begin its answer.
    pub(super) origin_time: Option<Duration>,
    /// What the connection is told.
    pub(super) signals: Option<Arc<Signals>>,
    /// What is done with a proxied answer while it passes.
    pub(super) passing: Passing,
}

/// A server that a request is proxied to.
pub(super) struct Upstream {
    pub(super) pool: Arc<Pool>,
    pub(super) server: usize,
    pub(super) asked: Instant,
    /// Whether the pool knows what became of it.
    pub(super) reported: bool,
}

impl Context {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            peer: None,
            request_id: HeaderValue::from_static(""),
            route: None,
            identity: None,
            result: CacheResult::Bypass,
            detail: None,
            body_seen: 0,
            upstream: None,
            retries: None,
            origin_time: None,
            signals: None,
            passing: Passing::default(),
        }
    }

    /// The answer that is written next has this date of its own.
    pub(super) fn dated(&self, headers: &HeaderMap) {
        let date =
            headers.get(http::header::DATE).and_then(|v| httpdate::parse_http_date(v.to_str().ok()?).ok());
        let seconds =
            date.and_then(|d| d.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs());
        if let Some(signals) = self.signals.as_ref().filter(|_| seconds <= LAST_DATE) {
            signals.date.store(seconds, Ordering::Relaxed);
        }
    }

    /// The id as text.
    pub(super) fn id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }
}

/// Makes ids that no two requests share: a random beginning for the process and a count.
pub(super) struct RequestIds {
    beginning: u32,
    count: AtomicU64,
}

impl RequestIds {
    pub(super) fn new() -> Self {
        Self { beginning: rand::random(), count: AtomicU64::new(0) }
    }

    /// The id of a request: the client's own, if it is a sane one, so that a request can be followed through
    /// everything that handles it.
    pub(super) fn of(&self, headers: &HeaderMap) -> HeaderValue {
        match headers.get("x-request-id").filter(|id| is_sane(id.as_bytes())) {
            Some(id) => id.clone(),
            None => self.next(),
        }
    }

    fn next(&self) -> HeaderValue {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let number = (u128::from(self.beginning) << 64) | u128::from(count);
        let mut text = [0_u8; 24];
        for (place, digit) in text.iter_mut().rev().enumerate() {
            *digit = HEX[(number >> (4 * place)) as usize & 0xf];
        }
        // Hexadecimal digits are a valid value.
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
    }
}

fn is_sane(id: &[u8]) -> bool {
    (1..=64).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_kept_and_any_other_replaced() {
        let ids = RequestIds::new();
        let with =
            |id: &'static str| HeaderMap::from_iter([("x-request-id".parse().unwrap(), id.parse().unwrap())]);
        assert_eq!(ids.of(&with("abc-1")), "abc-1");
        assert_ne!(ids.of(&with("a b")), "a b");
        assert_ne!(ids.of(&HeaderMap::new()), ids.of(&HeaderMap::new()));
        assert_eq!(ids.of(&HeaderMap::new()).len(), 24);
    }
}
