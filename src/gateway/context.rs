//! The state of one request while it passes through the phases.

use super::{
    headers::to_origin,
    proxy::{response::ProxiedResponse, upstream::ServerSearch},
    request::websocket::WebSocketHandshake,
    request_host,
    runtime_config::{RouteRuntime, RuntimeConfig},
    ClientCertificate, ConnectionHold, ConnectionInfo, ConnectionSignals, ListenerInfo,
};
use crate::{
    address::ClientAddress,
    cache::{fill::hedge::UsualFillTime, key::RequestScheme},
    config::RouteConfig,
    http::canonical_path::CanonicalPath,
    identity::{Identity, TokenError},
    limits::rate::LimitTake,
    origin::servers::{ActiveRequest, ReachedAddress, ServerAttempt, ServerGroup},
    route::RouteMatch,
    telemetry::labels::{CacheResult, CutReason, RejectReason},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use pingora_http::RequestHeader;
use std::{
    cell::Cell,
    net::SocketAddr,
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc,
    },
    time::{Duration, Instant},
};

/// The last second of the year 9999, the latest that an HTTP date can express.
const LAST_DATE: u64 = 253_402_300_799;

/// The longest request id that is accepted from a client, in bytes.
const MAX_ID_LENGTH: usize = 64;
/// The length of a generated request id, in bytes.
const OWN_ID_LENGTH: usize = 24;

/// The state of one request.
pub struct RequestContext {
    /// The runtime configuration that was current when the request began.
    pub(super) site: Arc<RuntimeConfig>,
    /// The time at which its head had been read.
    pub(super) began: Instant,
    /// The client: its address, scheme and host.
    pub(super) client: ClientAddress,
    /// True if a trusted proxy has sent it.
    pub(super) by_proxy: bool,
    /// The listener that it came by.
    pub(super) entry: Option<Arc<ListenerInfo>>,
    /// The client's TLS name and certificate, if the listener asks for certificates.
    pub(super) shown: Option<Arc<ClientCertificate>>,
    /// Its id in logs, answers and requests to the origin.
    pub(super) request_id: HeaderValue,
    /// Its path in canonical form, by which rules are chosen.
    pub(super) path: CanonicalPath,
    /// The index of its route.
    pub(super) route: Option<usize>,
    /// The identity from its verified token.
    pub(super) identity: Option<Arc<Identity>>,
    /// The accepted WebSocket handshake, if it is one.
    pub(super) handshake: Option<Box<WebSocketHandshake>>,
    /// The source of its answer.
    pub(super) result: CacheResult,
    /// The `detail` of that, as in `Cache-Status` and the access record.
    pub(super) detail: Option<&'static str>,
    /// The error of its token, if it is refused for that.
    pub(super) refused_token: Option<TokenError>,
    /// The number of bytes of its body that have been read.
    pub(super) body_seen: u64,
    /// The server that it is proxied to.
    pub(super) upstream: Option<ContextServer>,
    /// The state of its search for a server.
    pub(super) seeking: ServerSearch,
    /// The time until the origin's answer began.
    pub(super) origin_time: Option<Duration>,
    /// The flags that it shares with its connection.
    pub(super) signals: Option<Arc<ConnectionSignals>>,
    /// The state of a proxied answer while it passes.
    pub(super) passing: ProxiedResponse,
    /// The tokens that it took from the rate limits of its route.
    pub(super) taken: Vec<LimitTake>,
    /// A guard that is held while any work for the request goes on.
    pub(super) hold: Option<ConnectionHold>,
}

/// A server that a request is proxied to.
pub(crate) struct ContextServer {
    pub(super) pool: Arc<ServerGroup>,
    pub(super) server: usize,
    /// The address of it that is used; `None` for a UNIX socket.
    pub(super) address: Option<SocketAddr>,
    /// The number of its endpoint, with sticky sessions.
    pub(super) endpoint: Option<u64>,
    /// The time within which the answer has to begin, if the request is the trial of a server that hung.
    pub(super) trial: Option<Duration>,
    /// The permit of this request; when it is dropped, the next request in the queue is served.
    #[allow(dead_code, reason = "held, not read")]
    pub(super) under_way: ActiveRequest,
    pub(super) asked: Instant,
    /// The address that Pingora has connected to, if it opened a connection.
    pub(super) reached: Option<ReachedAddress>,
    /// True if the outcome has been reported to the pool.
    pub(super) reported: bool,
}

impl ContextServer {
    /// Notes the address that it was reached at.
    pub(super) fn set_server_address(&mut self, address: Option<SocketAddr>) {
        if self.address != address {
            self.address = address;
            self.endpoint = self.endpoint.and_then(|_| self.pool.endpoint_of(self.server, address));
        }
    }

    /// The server, as seen by a request that began at `began`.
    pub(super) fn at(&self, began: Instant) -> ServerAttempt {
        let reached = self.reached.as_ref().and_then(|reached| reached.get().copied());
        ServerAttempt { server: self.server, address: reached.or(self.address), began }
    }
}

impl RequestContext {
    pub(super) fn new(site: Arc<RuntimeConfig>) -> Self {
        Self {
            site,
            began: Instant::now(),
            client: ClientAddress::unknown(),
            by_proxy: false,
            entry: None,
            shown: None,
            request_id: HeaderValue::from_static(""),
            path: CanonicalPath::default(),
            route: None,
            identity: None,
            handshake: None,
            result: CacheResult::Bypass,
            detail: None,
            refused_token: None,
            body_seen: 0,
            upstream: None,
            seeking: ServerSearch::default(),
            origin_time: None,
            signals: None,
            passing: ProxiedResponse::default(),
            taken: Vec::new(),
            hold: None,
        }
    }

    /// Notes the connection that the request came by.
    pub(super) fn set_connection(&mut self, connection: ConnectionInfo, headers: &HeaderMap) {
        let ConnectionInfo { peer, signals, listener, shown, hold } = connection;
        self.hold = hold;
        self.signals = Some(signals);
        self.entry = self.site.plan.entries.get(listener).cloned();
        let scheme = self.entry.as_ref().map_or(RequestScheme::Http, |entry| entry.scheme);
        self.client = ClientAddress::of(peer.ip(), scheme, headers, &self.site.trusted);
        self.by_proxy = self.site.trusted.contains(peer.ip().to_canonical());
        self.shown = shown;
    }

    /// The scheme that its client used.
    pub(super) fn scheme(&self) -> RequestScheme {
        self.client.scheme
    }

    /// The subject of its client's certificate, if an origin is told of it, and the field that carries it.
    pub(super) fn subject(&self) -> Option<(&HeaderName, &HeaderValue)> {
        let name = self.entry.as_ref()?.subject.as_ref()?;
        Some((name, self.shown.as_ref()?.subject.as_ref()?))
    }

    /// Its path in the form by which rules are chosen.
    pub(super) fn path_of<'r>(&'r self, request: &'r RequestHeader) -> &'r str {
        self.path.as_str(request.uri.path())
    }

    /// The route that it would match with this method.
    pub(super) fn find_route(&self, request: &RequestHeader, method: &Method) -> RouteMatch<'_> {
        self.site.routes.find(request_host(request), &self.path, request.uri.path(), method)
    }

    /// Notes that it is refused because of its token.
    pub(super) fn refuse_token(&mut self, error: TokenError) -> RejectReason {
        self.refused_token = Some(error);
        RejectReason::Token
    }

    /// The configuration of its route.
    pub(super) fn routed(&self) -> Option<&RouteConfig> {
        self.site.plan.config.routes.get(self.route?)
    }

    /// The runtime state of its route.
    pub(super) fn at_hand(&self) -> Option<&RouteRuntime> {
        self.site.per_route.get(self.route?)
    }

    /// Returns the statistics of the time that fills of its route take.
    pub(super) fn usual_fill_time(&self) -> Arc<UsualFillTime> {
        self.at_hand().map(|at_hand| at_hand.usual.clone()).unwrap_or_default()
    }

    /// Keeps the answer's own `Date`, instead of the current time.
    pub(super) fn dated(&self, headers: &HeaderMap) {
        if let Some(signals) = &self.signals {
            signals.date.store(date_of(headers), Ordering::Relaxed);
        }
    }

    /// Has the pieces of the next body flushed as they come.
    pub(super) fn flows_at_once(&self) {
        if let Some(signals) = &self.signals {
            signals.at_once.store(true, Ordering::Relaxed);
        }
    }

    /// Tells the connection whether (more of) the request's body is awaited; if it is, `body_timeout` applies
    /// to the client.
    pub(super) fn wants_body(&self, wanted: bool) {
        if let Some(signals) = &self.signals {
            signals.wants_body(wanted);
        }
    }

    /// The reason for which the connection, or its stream, was cut off.
    pub(super) fn was_cut(&self) -> Option<CutReason> {
        self.signals.as_ref()?.was_cut()
    }

    /// The request id as text.
    pub(super) fn id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }
}

/// The length of an HTTP date, in bytes.
const DATE_LENGTH: usize = 29;

thread_local! {
    /// The last date that was parsed, and its second: most answers within a second have the same date.
    static LAST_READ: Cell<([u8; DATE_LENGTH], u64)> = const { Cell::new(([0; DATE_LENGTH], 0)) };
}

/// The `Date` of an answer, in seconds since the epoch; 0 if it has none.
pub(super) fn date_of(headers: &HeaderMap) -> u64 {
    let Some(value) = headers.get(http::header::DATE) else { return 0 };
    let Ok(text) = <[u8; DATE_LENGTH]>::try_from(value.as_bytes()) else { return read_date(value) };
    let (last, second) = LAST_READ.get();
    if last == text {
        return second;
    }
    let second = read_date(value);
    LAST_READ.set((text, second));
    second
}

fn read_date(value: &HeaderValue) -> u64 {
    let date = value.to_str().ok().and_then(|text| httpdate::parse_http_date(text).ok());
    let seconds = date.and_then(|d| d.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs());
    if seconds <= LAST_DATE {
        seconds
    } else {
        0
    }
}

/// Generates request ids that are unique: a random prefix and a counter.
pub(super) struct RequestIdSource {
    beginning: u32,
}

/// The number of values that a thread reserves at once, since a shared counter costs more than the id.
const ID_BLOCK: u64 = 1024;

/// The next block of numbers.
static NEXT_ID_BLOCK: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The thread's next value; at the start of a block, a new block is reserved.
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

impl RequestIdSource {
    pub(super) fn new() -> Self {
        Self { beginning: rand::random() }
    }

    /// The id of a request: the client's own if it is acceptable, so that a request can be traced through all
    /// servers that handle it.
    pub(super) fn of(&self, headers: &HeaderMap) -> HeaderValue {
        match headers.get(to_origin::REQUEST_ID).filter(|id| is_valid_id(id.as_bytes())) {
            Some(id) => id.clone(),
            None => self.next(),
        }
    }

    fn next(&self) -> HeaderValue {
        // Hexadecimal digits are a valid value.
        HeaderValue::from_bytes(&self.next_text()).unwrap_or(HeaderValue::from_static("-"))
    }

    fn next_text(&self) -> [u8; OWN_ID_LENGTH] {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let count = next_number();
        let number = (u128::from(self.beginning) << 64) | u128::from(count);
        let mut text = [0_u8; OWN_ID_LENGTH];
        for (place, digit) in text.iter_mut().rev().enumerate() {
            *digit = HEX[(number >> (4 * place)) as usize & 0xf];
        }
        text
    }

    /// The same as [`Self::of`], for a field's value instead of a head.
    pub(super) fn accept_client_id(&self, said: Option<&[u8]>) -> RequestId {
        let mut id = RequestId { text: [0; MAX_ID_LENGTH], length: 0 };
        match said.filter(|id| is_valid_id(id)) {
            Some(said) => id.fill(said),
            None => id.fill(&self.next_text()),
        }
        id
    }
}

/// A request's id outside of a header field.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestId {
    text: [u8; MAX_ID_LENGTH],
    length: u8,
}

impl RequestId {
    fn fill(&mut self, text: &[u8]) {
        let length = text.len().min(MAX_ID_LENGTH);
        self.text[..length].copy_from_slice(&text[..length]);
        // At most 64.
        self.length = u8::try_from(length).unwrap_or(0);
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.text[..usize::from(self.length)]
    }
}

/// A number that no other request of this process has.
fn next_number() -> u64 {
    NEXT.with(|next| {
        let taken = match next.get() {
            n if n % ID_BLOCK == 0 => NEXT_ID_BLOCK.fetch_add(1, Ordering::Relaxed) * ID_BLOCK,
            n => n,
        };
        next.set(taken + 1);
        taken
    })
}

fn is_valid_id(id: &[u8]) -> bool {
    (1..=MAX_ID_LENGTH).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_kept_and_any_other_replaced() {
        let ids = RequestIdSource::new();
        let with =
            |id: &'static str| HeaderMap::from_iter([("x-request-id".parse().unwrap(), id.parse().unwrap())]);
        assert_eq!(ids.of(&with("abc-1")), "abc-1");
        assert_ne!(ids.of(&with("a b")), "a b");
        assert_ne!(ids.of(&HeaderMap::new()), ids.of(&HeaderMap::new()));
        assert_eq!(ids.of(&HeaderMap::new()).len(), 24);
    }

    #[test]
    fn no_number_is_given_twice() {
        let take = || (0..3 * ID_BLOCK).map(|_| next_number()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(take)).collect();
        let mut all: Vec<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let given = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), given);
    }
}
