//! The client for the gateway's own requests to an origin: fills, forwarded events, health checks.
//!
//! It sends the given request, and nothing of a client's. Idempotent requests are retried on another
//! connection or server, after a growing pause, within the origin's retry budget and its `request_timeout`.
//! An answer that was cut short is an error, and never looks complete.

pub(crate) mod ask;
pub(crate) mod native;
pub(crate) mod outcome;
pub(crate) mod pingora;
pub(crate) use {
    ask::{InterimSink, OriginError, OriginRequest},
    outcome::{classify_error, classify_status, is_malformed, is_unprocessed},
};

use super::{
    retry::{FailedAttempt, RetryRequest, RetryTally},
    servers::{choice::ServerChoice, state::ActiveRequest, PickedServer, ServerAttempt, ServerGroup},
};
use crate::{
    http::{framing, framing::content_length::content_length, framing::has_body::response_has_body},
    telemetry::labels::OriginOutcome,
};
use ask::{continue_attempt, failed, passes_for_interim};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use pingora_core::{connectors::http::Connector, Error, ErrorType, OrErr};
use pingora_http::ResponseHeader;
use std::{
    future::Future,
    net::SocketAddr,
    pin::{pin, Pin},
    sync::Arc,
    time::{Duration, Instant},
};

/// A complete answer.
#[derive(Debug)]
pub struct WholeResponse {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// An answer whose head has been read. Its body is read piece by piece; dropping it before the end closes the
/// connection.
pub struct OriginResponse {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    asked: RequestReport,
    exchange: Option<ClientExchange>,
    deadline: ExchangeDeadline,
    /// The number of bytes of the announced length that have not come; `None` without a length.
    missing: Option<u64>,
}

/// A connection that is in use.
enum ClientExchange {
    Native(native::NativeExchange),
    /// With TLS, or HTTP/2.
    Pingora(Box<pingora::PingoraExchange>),
}

impl ClientExchange {
    async fn next(&mut self) -> Result<Option<Bytes>, Box<Error>> {
        match self {
            Self::Native(exchange) => exchange.next().await,
            Self::Pingora(exchange) => Box::pin(exchange.next()).await,
        }
    }

    /// The address of the server that it is connected to.
    fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Native(exchange) => exchange.address(),
            Self::Pingora(exchange) => exchange.address,
        }
    }

    /// Returns the connection to the idle ones.
    async fn finish(self) {
        match self {
            Self::Native(exchange) => exchange.finish(),
            Self::Pingora(exchange) => Box::pin(exchange.finish()).await,
        }
    }
}

/// Sends a request, with retries if the method is idempotent.
///
/// # Errors
/// If there was no complete answer of at most `max_size` bytes.
pub(crate) async fn send_request(
    connector: &Arc<Connector>,
    pool: &Arc<ServerGroup>,
    ask: &OriginRequest,
    max_size: u64,
) -> Result<WholeResponse, OriginError> {
    let mut tries = RetryState::of(pool, ask, None);
    loop {
        let answered = match begin_once(connector, pool, ask, &mut tries, &|_| ()).await {
            Ok(answering) => answering.whole(max_size).await,
            Err(error) => Err(error),
        };
        match answered {
            Err(error @ OriginError::Failed { .. }) => tries.retry_or_fail(pool, error).await?,
            other => return other,
        }
    }
}

/// Sends a request, with retries if the method is idempotent, and returns as soon as the head of the answer
/// is read, which must be before `by`.
///
/// # Errors
/// If there was no answer in time.
pub(crate) async fn begin_request(
    connector: &Arc<Connector>,
    pool: &Arc<ServerGroup>,
    ask: &OriginRequest,
    by: Option<Instant>,
    on_interim: InterimSink<'_>,
) -> Result<OriginResponse, OriginError> {
    let mut tries = RetryState::of(pool, ask, by);
    loop {
        match begin_once(connector, pool, ask, &mut tries, on_interim).await {
            Err(error @ OriginError::Failed { .. }) => tries.retry_or_fail(pool, error).await?,
            other => return other,
        }
    }
}

/// The attempts so far, and the retries that are left.
struct RetryState {
    choice: ServerChoice,
    request: RetryRequest,
    tally: RetryTally,
    /// True if the last attempt was the trial of a server that hung.
    was_trial: bool,
    /// The end of the time for the whole exchange.
    deadline: ExchangeDeadline,
    /// The end of the time for the head of the answer.
    head_by: ExchangeDeadline,
    began: Instant,
}

impl RetryState {
    fn of(pool: &ServerGroup, ask: &OriginRequest, by: Option<Instant>) -> Self {
        let began = Instant::now();
        let end = pool.settings.request_timeout.map(|time| began + time);
        let (deadline, head_by) = (ExchangeDeadline(end), ExchangeDeadline(end.into_iter().chain(by).min()));
        let (choice, request) = (ask.choice(pool), ask.retry_request());
        let tally = RetryTally::new(pool.settings.retries);
        Self { choice, request, tally, was_trial: false, deadline, head_by, began }
    }

    /// Allows another attempt, after a pause.
    ///
    /// # Errors
    /// `error`, if no other attempt is allowed.
    async fn retry_or_fail(&mut self, pool: &ServerGroup, error: OriginError) -> Result<(), OriginError> {
        let OriginError::Failed { outcome, .. } = &error else { return Err(error) };
        let was_trial = std::mem::take(&mut self.was_trial);
        let failed = FailedAttempt { was_trial, ..FailedAttempt::of_server(*outcome) };
        let is_late = self.head_by.has_passed();
        let Some(next) = self.tally.settle(self.request, failed, is_late, || pool.may_retry()) else {
            return Err(error);
        };
        if let Some(pause) = next.pause {
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }
}

/// The end of the time for something; `None`: no limit.
#[derive(Debug, Clone, Copy)]
struct ExchangeDeadline(Option<Instant>);

impl ExchangeDeadline {
    /// The same, but at most `time` from now.
    fn or_within(self, time: Option<Duration>) -> Self {
        let then = time.and_then(|time| Instant::now().checked_add(time));
        Self(self.0.into_iter().chain(then).min())
    }

    fn has_passed(self) -> bool {
        self.0.is_some_and(|end| end <= Instant::now())
    }

    /// Bounds `work` by the deadline.
    ///
    /// # Errors
    /// A timeout, if `work` is not done in time.
    async fn bound<T>(
        self,
        // Pinned: it is large, and would be moved from here into the timeout.
        work: Pin<&mut impl Future<Output = Result<T, OriginError>>>,
    ) -> Result<T, OriginError> {
        let Some(end) = self.0 else { return work.await };
        tokio::time::timeout_at(end.into(), work).await.unwrap_or_else(|_| {
            Err(failed(Error::explain(ErrorType::ReadTimedout, "the exchange exceeded its deadline")))
        })
    }
}

async fn begin_once(
    connector: &Arc<Connector>,
    pool: &Arc<ServerGroup>,
    ask: &OriginRequest,
    tries: &mut RetryState,
    on_interim: InterimSink<'_>,
) -> Result<OriginResponse, OriginError> {
    let (deadline, head_by) = (tries.deadline, tries.head_by);
    let choosing = async { Ok(pool.pick(&tries.choice).await?) };
    let PickedServer { server, address, under_way, trial, .. } = head_by.bound(pin!(choosing)).await?;
    let trial = trial.filter(|_| ask.method.is_idempotent());
    tries.was_trial = trial.is_some();
    let head_by = head_by.or_within(trial);
    tries.choice.avoid_server(server, address);
    let (at, begun_at) = (ServerAttempt::new(server, address, tries.began), Instant::now());
    let mut asked = RequestReport::new(pool, at, under_way);
    let begun = head_by.bound(pin!(open_exchange(connector, pool, ask, at, on_interim))).await;
    match &begun {
        Ok((status, headers, exchange)) => {
            asked.at.address = exchange.address();
            asked.at.took = Some(begun_at.elapsed());
            asked.outcome = Some(classify_status(*status));
            pool.heed(asked.at, *status, headers);
        }
        Err(OriginError::Failed { outcome, .. }) => asked.outcome = Some(*outcome),
        // No server was asked.
        Err(_) => {}
    }
    let (status, headers, exchange) = begun?;
    let missing = content_length(&headers).filter(|_| response_has_body(&ask.method, status));
    Ok(OriginResponse { status, headers, asked, exchange: Some(exchange), deadline, missing })
}

/// A request under way, whose outcome is reported to the pool when this is dropped. A request that is
/// abandoned before its answer has begun, because no client wants it any more, has no outcome.
struct RequestReport {
    pool: Arc<ServerGroup>,
    at: ServerAttempt,
    outcome: Option<OriginOutcome>,
    /// The permit; dropping it lets the next request in the queue proceed.
    _under_way: ActiveRequest,
}

impl RequestReport {
    fn new(pool: &Arc<ServerGroup>, at: ServerAttempt, under_way: ActiveRequest) -> Self {
        Self { pool: pool.clone(), at, outcome: None, _under_way: under_way }
    }
}

impl Drop for RequestReport {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome {
            self.pool.report(self.at, outcome);
        }
    }
}

impl OriginResponse {
    /// Reads the next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// If the answer was cut short.
    pub async fn next(&mut self) -> Result<Option<Bytes>, OriginError> {
        let Some(exchange) = &mut self.exchange else { return Ok(None) };
        let reading = async { exchange.next().await.map_err(failed) };
        let read = self.deadline.bound(pin!(reading)).await;
        match read {
            Ok(Some(piece)) => {
                self.missing = self.missing.map(|missing| missing.saturating_sub(piece.len() as u64));
                Ok(Some(piece))
            }
            // An HTTP/2 stream can end after its head, whatever length that announces (RFC 9113, 8.1.1), and
            // no lower layer checks it.
            Ok(None) if self.missing.is_some_and(|missing| missing > 0) => {
                self.exchange = None;
                self.asked.outcome = Some(OriginOutcome::Broken);
                Err(failed(Error::explain(ErrorType::ReadError, "the body is shorter than announced")))
            }
            Ok(None) => {
                if let Some(exchange) = self.exchange.take() {
                    exchange.finish().await;
                }
                Ok(None)
            }
            Err(error) => {
                self.exchange = None;
                // After the deadline, the reader of the body may be the slow one, and not the server.
                if let OriginError::Failed { outcome, .. } = &error {
                    if !self.deadline.has_passed() {
                        self.asked.outcome = Some(*outcome);
                    }
                }
                Err(error)
            }
        }
    }

    /// The whole body, if it was read together with the head.
    pub fn at_hand(&mut self) -> Option<Bytes> {
        let Some(ClientExchange::Native(exchange)) = &mut self.exchange else { return None };
        let whole = exchange.at_hand()?;
        if let Some(ClientExchange::Native(exchange)) = self.exchange.take() {
            exchange.finish();
        }
        Some(whole)
    }

    /// The value of `Content-Length`, if there is one.
    pub fn told_length(&self) -> Option<u64> {
        content_length(&self.headers)
    }

    async fn whole(mut self, max_size: u64) -> Result<WholeResponse, OriginError> {
        if self.told_length().is_some_and(|length| length > max_size) {
            return Err(OriginError::TooLarge(max_size));
        }
        let mut whole = BytesMut::new();
        while let Some(piece) = self.next().await? {
            if (whole.len() + piece.len()) as u64 > max_size {
                return Err(OriginError::TooLarge(max_size));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(WholeResponse {
            status: self.status,
            headers: std::mem::take(&mut self.headers),
            body: whole.freeze(),
        })
    }
}

/// Sends a request to one server and reads the whole answer, without retries; the outcome is not reported to
/// the pool.
///
/// # Errors
/// If there was no complete answer of at most `max_size` bytes.
pub(crate) async fn send_once(
    connector: &Arc<Connector>,
    pool: &Arc<ServerGroup>,
    ask: &OriginRequest,
    at: ServerAttempt,
    max_size: u64,
) -> Result<StatusCode, OriginError> {
    let (status, _, mut exchange) = open_exchange(connector, pool, ask, at, &|_| ()).await?;
    let mut seen = 0;
    while let Some(piece) = exchange.next().await.map_err(failed)? {
        seen += piece.len() as u64;
        if seen > max_size {
            return Err(OriginError::TooLarge(max_size));
        }
    }
    exchange.finish().await;
    Ok(status)
}

/// Sends a request to one server and reads the head of its answer. If a reused connection had been closed by
/// the server, another connection is used: that is no failure of the server.
async fn open_exchange(
    connector: &Arc<Connector>,
    pool: &Arc<ServerGroup>,
    ask: &OriginRequest,
    at: ServerAttempt,
    on_interim: InterimSink<'_>,
) -> Result<(StatusCode, HeaderMap, ClientExchange), OriginError> {
    let (status, mut headers, exchange) = match pool.is_plain() {
        true => open_native_exchange(pool, ask, at, on_interim).await?,
        // Boxed: this future is many times as large as all others here, which would be moved with it.
        false => {
            let begun =
                Box::pin(pingora::PingoraExchange::begin(connector, pool, ask, at, on_interim)).await?;
            (begun.0, begun.1, ClientExchange::Pingora(Box::new(begun.2)))
        }
    };
    framing::settle_framing(status, &mut headers)
        .or_err(ErrorType::InvalidHTTPHeader, "the frame of an answer")
        .map_err(failed)?;
    Ok((status, headers, exchange))
}

async fn open_native_exchange(
    pool: &Arc<ServerGroup>,
    ask: &OriginRequest,
    at: ServerAttempt,
    on_interim: InterimSink<'_>,
) -> Result<(StatusCode, HeaderMap, ClientExchange), OriginError> {
    let request = write_request(pool, ask, at.server).ok_or(OriginError::Invalid)?;
    loop {
        let (mut exchange, reused) =
            native::NativeExchange::begin(pool, at, None, Instant::now()).await.map_err(failed)?;
        match read_native_head(&mut exchange, ask, &request, on_interim).await {
            Ok(head) => {
                let parts = http::response::Parts::from(head);
                return Ok((parts.status, parts.headers, ClientExchange::Native(exchange)));
            }
            // Each failure removes an idle connection: in the end a new one is opened.
            Err(error) => {
                if continue_attempt(&mut RetryTally::new(0), ask, &error, reused).is_none() {
                    return Err(failed(error));
                }
            }
        }
    }
}

async fn read_native_head(
    exchange: &mut native::NativeExchange,
    ask: &OriginRequest,
    request: &[u8],
    on_interim: InterimSink<'_>,
) -> Result<ResponseHeader, Box<Error>> {
    exchange.send(request).await?;
    for _ in 0..=framing::MOST_INTERIM {
        let head = exchange.head(&ask.method).await?;
        if !passes_for_interim(head.status)? {
            return Ok(head);
        }
        on_interim(&head);
    }
    Error::e_explain(ErrorType::InvalidHTTPHeader, "too many interim answers")
}

fn write_request(pool: &ServerGroup, ask: &OriginRequest, server: usize) -> Option<Vec<u8>> {
    let own = || Some(pool.authority(server));
    let host = ask.host.as_deref().map_or_else(own, |_| None);
    let host = host.as_deref().or(ask.host.as_deref())?;
    native::write_head(&ask.method, ask.target.as_bytes(), host.as_bytes(), &ask.headers, &ask.body)
}
