//! The client for the gateway's own requests to an origin: fills, forwarded events, health checks.
//!
//! It sends the given request, and nothing of a client's. Idempotent requests are retried on another
//! connection or server, after a growing pause, within the origin's retry budget and its `request_timeout`.
//! An answer that was cut short is an error, and never looks complete.

pub use super::{
    ask::{pause, Ask, AskError, OnInterim},
    blame::{blame, is_malformed, is_unprocessed, judge, MOST_REFUSALS},
};

use super::{
    ask::{failed, is_stale, passes_for_interim},
    connector, framing, plain,
    pool::{At, Picked, Pool},
    session::Choice,
    state::UnderWay,
};
use crate::telemetry::labels::OriginOutcome;
use bytes::{Bytes, BytesMut};
use http::{header, HeaderMap, Method, StatusCode};
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
pub struct Got {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// An answer whose head has been read. Its body is read piece by piece; dropping it before the end closes the
/// connection.
pub struct Answering {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    asked: Asked,
    exchange: Option<Exchange>,
    deadline: Deadline,
    /// The number of bytes of the announced length that have not come; `None` without a length.
    missing: Option<u64>,
}

/// A connection that is in use.
enum Exchange {
    Plain(plain::Exchange),
    /// With TLS, or HTTP/2.
    Pingora(Box<connector::Exchange>),
}

impl Exchange {
    async fn next(&mut self) -> Result<Option<Bytes>, Box<Error>> {
        match self {
            Self::Plain(exchange) => exchange.next().await,
            Self::Pingora(exchange) => Box::pin(exchange.next()).await,
        }
    }

    /// The address of the server that it is connected to.
    fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Plain(exchange) => exchange.address(),
            Self::Pingora(exchange) => exchange.address,
        }
    }

    /// Returns the connection to the idle ones.
    async fn finish(self) {
        match self {
            Self::Plain(exchange) => exchange.finish(),
            Self::Pingora(exchange) => Box::pin(exchange.finish()).await,
        }
    }
}

/// Sends a request, with retries if the method is idempotent.
///
/// # Errors
/// If there was no complete answer of at most `max_size` bytes.
pub async fn ask(
    connector: &Arc<Connector>,
    pool: &Arc<Pool>,
    ask: &Ask,
    max_size: u64,
) -> Result<Got, AskError> {
    let mut tries = Tries::of(pool, ask, None);
    loop {
        let answered = match begin_once(connector, pool, ask, &mut tries, &|_| ()).await {
            Ok(answering) => answering.whole(max_size).await,
            Err(error) => Err(error),
        };
        match answered {
            Err(error @ AskError::Failed { .. }) => tries.another(pool, error).await?,
            other => return other,
        }
    }
}

/// Sends a request, with retries if the method is idempotent, and returns as soon as the head of the answer
/// is read, which must be before `by`.
///
/// # Errors
/// If there was no answer in time.
pub async fn begin(
    connector: &Arc<Connector>,
    pool: &Arc<Pool>,
    ask: &Ask,
    by: Option<Instant>,
    on_interim: OnInterim<'_>,
) -> Result<Answering, AskError> {
    let mut tries = Tries::of(pool, ask, by);
    loop {
        match begin_once(connector, pool, ask, &mut tries, on_interim).await {
            Err(error @ AskError::Failed { .. }) => tries.another(pool, error).await?,
            other => return other,
        }
    }
}

/// The attempts so far, and the retries that are left.
struct Tries {
    choice: Choice,
    left: u32,
    done: u32,
    /// True if the last attempt was the trial of a server that hung.
    was_trial: bool,
    /// The end of the time for the whole exchange.
    deadline: Deadline,
    /// The end of the time for the head of the answer.
    head_by: Deadline,
    began: Instant,
}

impl Tries {
    fn of(pool: &Pool, ask: &Ask, by: Option<Instant>) -> Self {
        let left = if ask.method.is_idempotent() { pool.settings.retries } else { 0 };
        let began = Instant::now();
        let end = pool.settings.request_timeout.map(|time| began + time);
        let (deadline, head_by) = (Deadline(end), Deadline(end.into_iter().chain(by).min()));
        Self { choice: ask.choice(pool), left, done: 0, was_trial: false, deadline, head_by, began }
    }

    /// Allows another attempt, after a pause.
    ///
    /// # Errors
    /// `error`, if no other attempt is allowed.
    async fn another(&mut self, pool: &Pool, error: AskError) -> Result<(), AskError> {
        // After a failed trial another server is asked, at no cost.
        if std::mem::take(&mut self.was_trial) && !self.head_by.has_passed() {
            return Ok(());
        }
        if self.left == 0 || self.head_by.has_passed() || !pool.may_retry() {
            return Err(error);
        }
        self.left -= 1;
        tokio::time::sleep(pause(self.done)).await;
        self.done += 1;
        Ok(())
    }
}

/// The end of the time for something; `None`: no limit.
#[derive(Debug, Clone, Copy)]
struct Deadline(Option<Instant>);

impl Deadline {
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
        work: Pin<&mut impl Future<Output = Result<T, AskError>>>,
    ) -> Result<T, AskError> {
        let Some(end) = self.0 else { return work.await };
        tokio::time::timeout_at(end.into(), work).await.unwrap_or_else(|_| {
            Err(failed(Error::explain(ErrorType::ReadTimedout, "the exchange exceeded its deadline")))
        })
    }
}

async fn begin_once(
    connector: &Arc<Connector>,
    pool: &Arc<Pool>,
    ask: &Ask,
    tries: &mut Tries,
    on_interim: OnInterim<'_>,
) -> Result<Answering, AskError> {
    let (deadline, head_by) = (tries.deadline, tries.head_by);
    let choosing = async { Ok(pool.pick(&tries.choice).await?) };
    let Picked { server, address, under_way, trial, .. } = head_by.bound(pin!(choosing)).await?;
    let trial = trial.filter(|_| ask.method.is_idempotent());
    tries.was_trial = trial.is_some();
    let head_by = head_by.or_within(trial);
    tries.choice.avoid(server, address);
    let at = At { server, address, began: tries.began };
    let mut asked = Asked::new(pool, at, under_way);
    let begun = head_by.bound(pin!(exchange(connector, pool, ask, at, on_interim))).await;
    match &begun {
        Ok((status, headers, exchange)) => {
            asked.at.address = exchange.address();
            asked.outcome = Some(judge(*status));
            pool.heed(asked.at, *status, headers);
        }
        Err(AskError::Failed { outcome, .. }) => asked.outcome = Some(*outcome),
        // No server was asked.
        Err(_) => {}
    }
    let (status, headers, exchange) = begun?;
    let missing = told_length(&headers).filter(|_| has_body(&ask.method, status));
    Ok(Answering { status, headers, asked, exchange: Some(exchange), deadline, missing })
}

/// A request under way, whose outcome is reported to the pool when this is dropped. A request that is
/// abandoned before its answer has begun, because no client wants it any more, has no outcome.
struct Asked {
    pool: Arc<Pool>,
    at: At,
    outcome: Option<OriginOutcome>,
    /// The permit; dropping it lets the next request in the queue proceed.
    _under_way: UnderWay,
}

impl Asked {
    fn new(pool: &Arc<Pool>, at: At, under_way: UnderWay) -> Self {
        Self { pool: pool.clone(), at, outcome: None, _under_way: under_way }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome {
            self.pool.report(self.at, outcome);
        }
    }
}

impl Answering {
    /// Reads the next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// If the answer was cut short.
    pub async fn next(&mut self) -> Result<Option<Bytes>, AskError> {
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
                if let AskError::Failed { outcome, .. } = &error {
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
        let Some(Exchange::Plain(exchange)) = &mut self.exchange else { return None };
        let whole = exchange.at_hand()?;
        if let Some(Exchange::Plain(exchange)) = self.exchange.take() {
            exchange.finish();
        }
        Some(whole)
    }

    /// The value of `Content-Length`, if there is one.
    pub fn told_length(&self) -> Option<u64> {
        told_length(&self.headers)
    }

    async fn whole(mut self, max_size: u64) -> Result<Got, AskError> {
        if self.told_length().is_some_and(|length| length > max_size) {
            return Err(AskError::TooLarge(max_size));
        }
        let mut whole = BytesMut::new();
        while let Some(piece) = self.next().await? {
            if (whole.len() + piece.len()) as u64 > max_size {
                return Err(AskError::TooLarge(max_size));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(Got { status: self.status, headers: std::mem::take(&mut self.headers), body: whole.freeze() })
    }
}

fn told_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok())
}

/// Returns true if an answer with this status to this method has a body (RFC 9110, 6.4.1).
fn has_body(method: &Method, status: StatusCode) -> bool {
    *method != Method::HEAD && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Sends a request to one server and reads the whole answer, without retries; the outcome is not reported to
/// the pool.
///
/// # Errors
/// If there was no complete answer of at most `max_size` bytes.
pub(super) async fn once(
    connector: &Arc<Connector>,
    pool: &Arc<Pool>,
    ask: &Ask,
    at: At,
    max_size: u64,
) -> Result<StatusCode, AskError> {
    let (status, _, mut exchange) = exchange(connector, pool, ask, at, &|_| ()).await?;
    let mut seen = 0;
    while let Some(piece) = exchange.next().await.map_err(failed)? {
        seen += piece.len() as u64;
        if seen > max_size {
            return Err(AskError::TooLarge(max_size));
        }
    }
    exchange.finish().await;
    Ok(status)
}

/// Sends a request to one server and reads the head of its answer. If a reused connection had been closed by
/// the server, another connection is used: that is no failure of the server.
async fn exchange(
    connector: &Arc<Connector>,
    pool: &Arc<Pool>,
    ask: &Ask,
    at: At,
    on_interim: OnInterim<'_>,
) -> Result<(StatusCode, HeaderMap, Exchange), AskError> {
    let (status, mut headers, exchange) = match pool.is_plain() {
        true => plain_exchange(pool, ask, at, on_interim).await?,
        // Boxed: this future is many times as large as all others here, which would be moved with it.
        false => {
            let begun = Box::pin(connector::Exchange::begin(connector, pool, ask, at, on_interim)).await?;
            (begun.0, begun.1, Exchange::Pingora(Box::new(begun.2)))
        }
    };
    framing::settle(status, &mut headers)
        .or_err(ErrorType::InvalidHTTPHeader, "the frame of an answer")
        .map_err(failed)?;
    Ok((status, headers, exchange))
}

async fn plain_exchange(
    pool: &Arc<Pool>,
    ask: &Ask,
    at: At,
    on_interim: OnInterim<'_>,
) -> Result<(StatusCode, HeaderMap, Exchange), AskError> {
    let request = write_request(pool, ask, at.server).ok_or(AskError::Invalid)?;
    loop {
        let (mut exchange, reused) =
            plain::Exchange::begin(pool, at, None, Instant::now()).await.map_err(failed)?;
        match plain_head(&mut exchange, ask, &request, on_interim).await {
            Ok(head) => {
                let parts = http::response::Parts::from(head);
                return Ok((parts.status, parts.headers, Exchange::Plain(exchange)));
            }
            // Each failure removes an idle connection: in the end a new one is opened.
            Err(error) if reused && is_stale(ask, &error) => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

async fn plain_head(
    exchange: &mut plain::Exchange,
    ask: &Ask,
    request: &[u8],
    on_interim: OnInterim<'_>,
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

fn write_request(pool: &Pool, ask: &Ask, server: usize) -> Option<Vec<u8>> {
    let own = || Some(pool.authority(server));
    let host = ask.host.as_deref().map_or_else(own, |_| None);
    let host = host.as_deref().or(ask.host.as_deref())?;
    plain::write(&ask.method, ask.target.as_bytes(), host.as_bytes(), &ask.headers, &ask.body)
}
