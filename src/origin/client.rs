//! The client that asks an origin on the gateway's own account: fills, forwarded events, checks.
//!
//! It sends what it is told and nothing of a client's request. Idempotent requests are retried on another
//! connection or server, with a growing pause, within the origin's retry budget and its `request_timeout`. An answer
//! that was cut short ends in an error, never as if it were whole.

pub use super::blame::{blame, is_malformed, is_unprocessed, judge, MOST_REFUSALS};

use super::{
    connector, framing, plain,
    pool::{At, Nobody, Picked, Pool},
    session::{Choice, Chooser},
    state::UnderWay,
};
use crate::telemetry::labels::OriginOutcome;
use bytes::{Bytes, BytesMut};
use http::{header, HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use pingora_core::{connectors::http::Connector, Error, ErrorType, OrErr};
use pingora_http::ResponseHeader;
use std::{
    future::Future,
    net::SocketAddr,
    pin::{pin, Pin},
    sync::Arc,
    time::{Duration, Instant},
};

/// A request of the gateway's own.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// The `Host`; `None`: the server's own name.
    pub host: Option<String>,
    /// Further headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
    /// Somebody is served whatever becomes of it: servers that are out are not troubled with it, but for the trials of
    /// their breakers.
    pub spare: bool,
    /// The tenant that it is for, where it is for one: servers may be chosen by it.
    pub tenant: Option<String>,
}

impl Ask {
    /// GET for this target, without anything else.
    pub fn get(target: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            target: target.into(),
            host: None,
            headers: Vec::new(),
            body: Bytes::new(),
            tenant: None,
            spare: false,
        }
    }

    fn choice(&self, pool: &Pool) -> Choice {
        let path = self.target.split('?').next().unwrap_or_default();
        let tenant = self.tenant.as_deref().unwrap_or_default();
        let choice = pool.choice(&Chooser { path, tenant, ..Chooser::default() });
        Choice { spare: self.spare, ..choice }
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Got {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody to ask.
    #[error(transparent)]
    Nobody(#[from] Nobody),
    /// The body is larger than the caller wants.
    #[error("the body is larger than {0} bytes")]
    TooLarge(u64),
    /// The server failed.
    #[error("{}: {error}", outcome.as_str())]
    Failed {
        /// In which way.
        outcome: OriginOutcome,
        /// What Pingora says of it.
        #[source]
        error: Box<Error>,
    },
    /// The request could not be made: its target is not valid.
    #[error("the request is not valid")]
    Invalid,
}

/// An answer whose head has come. Its body is read piece by piece; what is dropped before its end closes the
/// connection.
pub struct Answering {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    asked: Asked,
    exchange: Option<Exchange>,
    deadline: Deadline,
    /// Bytes that the head promises and that have not come; `None`: it promises nothing.
    missing: Option<u64>,
}

/// A connection in use.
enum Exchange {
    Plain(plain::Exchange),
    /// TLS or HTTP/2.
    Pingora(Box<connector::Exchange>),
}

impl Exchange {
    async fn next(&mut self) -> Result<Option<Bytes>, Box<Error>> {
        match self {
            Self::Plain(exchange) => exchange.next().await,
            Self::Pingora(exchange) => Box::pin(exchange.next()).await,
        }
    }

    /// Which of its server's addresses it is with.
    fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Plain(exchange) => exchange.address(),
            Self::Pingora(exchange) => exchange.address,
        }
    }

    /// Gives the connection back.
    async fn finish(self) {
        match self {
            Self::Plain(exchange) => exchange.finish(),
            Self::Pingora(exchange) => Box::pin(exchange.finish()).await,
        }
    }
}

/// Who hears of interim answers (1xx).
pub type OnInterim<'a> = &'a (dyn Fn(&ResponseHeader) + Send + Sync);

/// The first pause before a retry, more or less; doubled with each.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks, with retries where the method allows them.
///
/// # Errors
/// If there was no whole answer of at most `max_size` bytes.
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

/// Asks, with retries where the method allows them, and returns when the head of the answer is there, which it has to be
/// `by` then.
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

/// The pause before a retry: longer with each, and no two alike.
pub fn pause(attempt: u32) -> Duration {
    (PAUSE * 2_u32.saturating_pow(attempt.min(10))).mul_f64(rand::random_range(0.5..1.5))
}

/// What was tried, and what is left of retries.
struct Tries {
    choice: Choice,
    left: u32,
    done: u32,
    /// True if the last attempt was the trial of a server that hung.
    was_trial: bool,
    /// Of the whole exchange.
    deadline: Deadline,
    /// Of the answer's head.
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

    /// Waits before another attempt.
    ///
    /// # Errors
    /// `error`, where there is none.
    async fn another(&mut self, pool: &Pool, error: AskError) -> Result<(), AskError> {
        // What a server is tried with, others answer at no cost.
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

/// When the whole exchange must be over, if ever.
#[derive(Debug, Clone, Copy)]
struct Deadline(Option<Instant>);

impl Deadline {
    /// The same, but no later than in so much time from now.
    fn or_within(self, time: Option<Duration>) -> Self {
        let then = time.and_then(|time| Instant::now().checked_add(time));
        Self(self.0.into_iter().chain(then).min())
    }

    fn has_passed(self) -> bool {
        self.0.is_some_and(|end| end <= Instant::now())
    }

    /// # Errors
    /// A timeout, where `work` is not done in time.
    async fn bound<T>(
        self,
        // Pinned: it is large, and would be moved from here into the timeout.
        work: Pin<&mut impl Future<Output = Result<T, AskError>>>,
    ) -> Result<T, AskError> {
        let Some(end) = self.0 else { return work.await };
        tokio::time::timeout_at(end.into(), work).await.unwrap_or_else(|_| {
            Err(failed(Error::explain(ErrorType::ReadTimedout, "the whole exchange took too long")))
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
        // It was not asked at all.
        Err(_) => {}
    }
    let (status, headers, exchange) = begun?;
    let missing = told_length(&headers).filter(|_| has_body(&ask.method, status));
    Ok(Answering { status, headers, asked, exchange: Some(exchange), deadline, missing })
}

/// A request under way: the pool is told what became of it when this is dropped. One that is given up before its
/// answer has begun, because nobody wants it any more, says nothing of the server.
struct Asked {
    pool: Arc<Pool>,
    at: At,
    outcome: Option<OriginOutcome>,
    /// The next one in line comes when this ends.
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
    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// If the answer broke off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, AskError> {
        let Some(exchange) = &mut self.exchange else { return Ok(None) };
        let reading = async { exchange.next().await.map_err(failed) };
        let read = self.deadline.bound(pin!(reading)).await;
        match read {
            Ok(Some(piece)) => {
                self.missing = self.missing.map(|missing| missing.saturating_sub(piece.len() as u64));
                Ok(Some(piece))
            }
            // HTTP/2 can end with its head, whatever that has promised (RFC 9113, 8.1.1), and nobody below looks.
            Ok(None) if self.missing.is_some_and(|missing| missing > 0) => {
                self.exchange = None;
                self.asked.outcome = Some(OriginOutcome::Broken);
                Err(failed(Error::explain(ErrorType::ReadError, "the body is shorter than its head says")))
            }
            Ok(None) => {
                if let Some(exchange) = self.exchange.take() {
                    exchange.finish().await;
                }
                Ok(None)
            }
            Err(error) => {
                self.exchange = None;
                // Past the deadline the server need not be the slow one: whoever reads the body may be.
                if let AskError::Failed { outcome, .. } = &error {
                    if !self.deadline.has_passed() {
                        self.asked.outcome = Some(*outcome);
                    }
                }
                Err(error)
            }
        }
    }

    /// The body, where all of it has come with the head; then nothing is left to be read.
    pub fn at_hand(&mut self) -> Option<Bytes> {
        let Some(Exchange::Plain(exchange)) = &mut self.exchange else { return None };
        let whole = exchange.at_hand()?;
        if let Some(Exchange::Plain(exchange)) = self.exchange.take() {
            exchange.finish();
        }
        Some(whole)
    }

    /// How long the body is, where the head says so.
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

/// Whether an answer has the body that its head tells of (RFC 9110, 6.4.1).
fn has_body(method: &Method, status: StatusCode) -> bool {
    *method != Method::HEAD && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Asks one server for a whole answer, without retries; the pool is not told.
///
/// # Errors
/// If there was no whole answer of at most `max_size` bytes.
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

pub(super) fn failed(error: Box<Error>) -> AskError {
    AskError::Failed { outcome: blame(&error), error }
}

/// Sends a request to one server and reads the head of its answer. A connection that has served before may have been
/// closed by the server meanwhile: that is no failure of the server, and another connection is taken.
async fn exchange(
    connector: &Arc<Connector>,
    pool: &Arc<Pool>,
    ask: &Ask,
    at: At,
    on_interim: OnInterim<'_>,
) -> Result<(StatusCode, HeaderMap, Exchange), AskError> {
    let (status, mut headers, exchange) = match pool.is_plain() {
        true => plain_exchange(pool, ask, at, on_interim).await?,
        // Boxed: its future is many times as large as all others here, which are moved with it.
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
            // Each that fails is one less: in the end a new one is made.
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
    Error::e_explain(ErrorType::InvalidHTTPHeader, "interim answers without an end")
}

/// Whether an answer is interim.
///
/// # Errors
/// If it is one that nobody asked for, and nothing that follows would be HTTP.
pub(super) fn passes_for_interim(status: StatusCode) -> Result<bool, Box<Error>> {
    match status {
        StatusCode::SWITCHING_PROTOCOLS => {
            Error::e_explain(ErrorType::InvalidHTTPHeader, "an upgrade that nobody asked for")
        }
        status => Ok(status.is_informational()),
    }
}

/// Whether a connection that has served before was closed meanwhile, and the request may be sent once more.
pub(super) fn is_stale(ask: &Ask, error: &Error) -> bool {
    ask.method.is_idempotent() && blame(error) != OriginOutcome::Timeout
}

fn write_request(pool: &Pool, ask: &Ask, server: usize) -> Option<Vec<u8>> {
    let own = || Some(pool.authority(server));
    let host = ask.host.as_deref().map_or_else(own, |_| None);
    let host = host.as_deref().or(ask.host.as_deref())?;
    plain::write(&ask.method, ask.target.as_bytes(), host.as_bytes(), &ask.headers, &ask.body)
}
