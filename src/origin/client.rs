//! The client that asks an origin on the gateway's own account: fills, forwarded events, checks.
//!
//! It sends what it is told and nothing of a client's request. Idempotent requests are retried on another
//! connection or server, with a growing pause, within the origin's retry budget. An answer that was cut short is
//! an error, never an answer.

use super::pool::{Nobody, Picked, Pool};
use crate::telemetry::labels::OriginOutcome;
use bytes::{Bytes, BytesMut};
use http::{header, HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use pingora_core::{connectors::http::Connector, protocols::http::client::HttpSession};
use pingora_core::{Error, ErrorType};
use pingora_http::RequestHeader;
use std::{
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

/// The first pause before a retry; doubled with each.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks, with retries where the method allows them.
///
/// # Errors
/// If there was no whole answer of at most `max_size` bytes.
pub async fn ask(connector: &Connector, pool: &Pool, ask: &Ask, max_size: u64) -> Result<Got, AskError> {
    let mut left = if ask.method.is_idempotent() { pool.settings.retries } else { 0 };
    let mut pause = PAUSE;
    loop {
        let picked = pool.pick()?;
        let asked = Asked { pool, server: picked.server, began: Instant::now(), answered: false };
        let error = match once(connector, pool, ask, &picked, max_size).await {
            Ok(got) => {
                asked.end(judge(got.status));
                return Ok(got);
            }
            Err(error) => error,
        };
        let AskError::Failed { outcome, .. } = &error else {
            // It answered, if not to our liking.
            asked.end(OriginOutcome::Ok);
            return Err(error);
        };
        asked.end(*outcome);
        if left == 0 || !pool.may_retry() {
            return Err(error);
        }
        left -= 1;
        let jitter = rand::random_range(0.5..1.5);
        tokio::time::sleep(pause.mul_f64(jitter)).await;
        pause *= 2;
    }
}

/// A request under way. One that is given up, because its caller's deadline passed, counts as a timeout.
struct Asked<'p> {
    pool: &'p Pool,
    server: usize,
    began: Instant,
    answered: bool,
}

impl Asked<'_> {
    fn end(mut self, outcome: OriginOutcome) {
        self.answered = true;
        self.pool.report(self.server, outcome, self.began);
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.pool.report(self.server, OriginOutcome::Timeout, self.began);
        }
    }
}

/// How an answer counts.
pub fn judge(status: StatusCode) -> OriginOutcome {
    match status.is_server_error() {
        true => OriginOutcome::ServerError,
        false => OriginOutcome::Ok,
    }
}

/// How a failure counts.
pub fn blame(error: &Error) -> OriginOutcome {
    match error.etype() {
        ErrorType::ConnectTimedout
        | ErrorType::ReadTimedout
        | ErrorType::WriteTimedout
        | ErrorType::TLSHandshakeTimedout => OriginOutcome::Timeout,
        ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed => OriginOutcome::Broken,
        ErrorType::ConnectRefused
        | ErrorType::ConnectNoRoute
        | ErrorType::ConnectError
        | ErrorType::SocketError
        | ErrorType::TLSHandshakeFailure
        | ErrorType::InvalidCert
        | ErrorType::HandshakeError => OriginOutcome::ConnectFailed,
        _ => OriginOutcome::Broken,
    }
}

/// Asks one server. A connection from the pool may have been closed by the server meanwhile: that is no failure
/// of the server, and another connection is taken.
pub(super) async fn once(
    connector: &Connector,
    pool: &Pool,
    ask: &Ask,
    picked: &Picked,
    max_size: u64,
) -> Result<Got, AskError> {
    let failed = |error: Box<Error>| AskError::Failed { outcome: blame(&error), error };
    loop {
        let request = make_request(pool, ask, picked.server).ok_or(AskError::Invalid)?;
        let (mut session, reused) = connector.get_http_session(&picked.peer).await.map_err(failed)?;
        session.set_read_timeout(picked.peer.options.read_timeout);
        session.set_write_timeout(picked.peer.options.write_timeout);
        if let Err(error) = head(&mut session, request, &ask.body).await {
            if reused && ask.method.is_idempotent() && blame(&error) != OriginOutcome::Timeout {
                continue;
            }
            return Err(failed(error));
        }
        let Some(answer) = session.response_header() else { return Err(AskError::Invalid) };
        let (status, headers) = (answer.status, answer.headers.clone());
        match body(&mut session, &headers, max_size).await {
            Ok(body) => {
                connector.release_http_session(session, &picked.peer, picked.peer.options.idle_timeout).await;
                return Ok(Got { status, headers, body });
            }
            Err(BodyError::TooLarge) => {
                session.shutdown().await;
                return Err(AskError::TooLarge(max_size));
            }
            Err(BodyError::Broken(error)) => return Err(failed(error)),
        }
    }
}

fn make_request(pool: &Pool, ask: &Ask, server: usize) -> Option<Box<RequestHeader>> {
    let mut request =
        Box::new(RequestHeader::build(ask.method.clone(), ask.target.as_bytes(), Some(12)).ok()?);
    let host = ask.host.clone().unwrap_or_else(|| pool.authority(server));
    request.insert_header(header::HOST, HeaderValue::from_str(&host).ok()?).ok()?;
    for (name, value) in &ask.headers {
        request.append_header(name.clone(), value.clone()).ok()?;
    }
    if !ask.body.is_empty() {
        request.insert_header(header::CONTENT_LENGTH, HeaderValue::from(ask.body.len())).ok()?;
    }
    Some(request)
}

async fn head(
    session: &mut HttpSession,
    request: Box<RequestHeader>,
    body: &Bytes,
) -> Result<(), Box<Error>> {
    session.write_request_header(request).await?;
    if !body.is_empty() {
        session.write_request_body(body.clone(), true).await?;
    }
    session.finish_request_body().await?;
    loop {
        session.read_response_header().await?;
        if session.response_header().is_none_or(|h| !h.status.is_informational()) {
            return Ok(());
        }
    }
}

enum BodyError {
    TooLarge,
    Broken(Box<Error>),
}

async fn body(session: &mut HttpSession, headers: &HeaderMap, max_size: u64) -> Result<Bytes, BodyError> {
    let told = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if told.is_some_and(|length| length > max_size) {
        return Err(BodyError::TooLarge);
    }
    let mut whole = BytesMut::new();
    let mut only: Option<Bytes> = None;
    while let Some(chunk) = session.read_response_body().await.map_err(BodyError::Broken)? {
        if (whole.len() + only.as_ref().map_or(0, Bytes::len) + chunk.len()) as u64 > max_size {
            return Err(BodyError::TooLarge);
        }
        // Most answers come in one piece: that one is kept as it is.
        match only.take() {
            None if whole.is_empty() => only = Some(chunk),
            None => whole.extend_from_slice(&chunk),
            Some(first) => {
                whole.extend_from_slice(&first);
                whole.extend_from_slice(&chunk);
            }
        }
    }
    Ok(only.unwrap_or_else(|| whole.freeze()))
}

/// A connector for the gateway's own requests; Pingora's proxy keeps one of its own.
pub fn connector() -> Arc<Connector> {
    Arc::new(Connector::new(None))
}
