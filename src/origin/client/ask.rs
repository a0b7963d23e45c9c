//! A request of the gateway's own, and why there may be no answer to it.

use super::outcome::{classify_error, is_unprocessed};
use crate::{
    origin::{
        retry::{FailedAttempt, NextAttempt, RequestSource, RetryRequest, RetryTally},
        servers::{
            choice::{LoadBalancing, ServerChoice},
            NoUpstream, ServerGroup,
        },
    },
    telemetry::labels::OriginOutcome,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use pingora_core::{Error, ErrorType};
use pingora_http::ResponseHeader;

/// A request of the gateway's own.
#[derive(Debug, Clone)]
pub struct OriginRequest {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// The `Host`; `None`: the address of the server.
    pub host: Option<String>,
    /// Further fields.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
    /// True if a client can be answered without it (with a stale entry): servers that are out don't get it,
    /// except as the trials of their breakers.
    pub spare: bool,
    /// The tenant that it is for, if any: a server may be chosen by it.
    pub tenant: Option<String>,
}

impl OriginRequest {
    /// A GET for this target, without further fields.
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

    /// What retries depend on: its body is kept, and no client sees the answer to a failed attempt.
    pub(crate) fn retry_request(&self) -> RetryRequest {
        RetryRequest::new(RequestSource::Gateway, &self.method, true)
    }

    pub(crate) fn choice(&self, pool: &ServerGroup) -> ServerChoice {
        let path = self.target.split('?').next().unwrap_or_default();
        let tenant = self.tenant.as_deref().unwrap_or_default();
        let choice = pool.choice(&LoadBalancing { path, tenant, ..LoadBalancing::default() });
        ServerChoice { spare: self.spare, ..choice }
    }
}

/// The reason for which there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// No server is available.
    #[error(transparent)]
    Nobody(#[from] NoUpstream),
    /// The body is larger than the caller wants.
    #[error("the body is larger than {0} bytes")]
    TooLarge(u64),
    /// The server failed.
    #[error("{}: {error}", outcome.as_str())]
    Failed {
        /// The kind of failure.
        outcome: OriginOutcome,
        /// Pingora's description of it.
        #[source]
        error: Box<Error>,
    },
    /// The request could not be built: its target is not valid.
    #[error("the request is not valid")]
    Invalid,
}

/// A callback for interim answers (1xx).
pub(crate) type InterimSink<'a> = &'a (dyn Fn(&ResponseHeader) + Send + Sync);

pub(crate) fn failed(error: Box<Error>) -> OriginError {
    OriginError::Failed { outcome: classify_error(&error), error }
}

/// Returns true if an answer is interim.
///
/// # Errors
/// For a 101 that was not asked for: the following bytes would not be HTTP.
pub(crate) fn passes_for_interim(status: StatusCode) -> Result<bool, Box<Error>> {
    match status {
        StatusCode::SWITCHING_PROTOCOLS => {
            Error::e_explain(ErrorType::InvalidHTTPHeader, "a 101 without a request for an upgrade")
        }
        status => Ok(status.is_informational()),
    }
}

/// Decides whether an attempt goes on with the same server after a failure; `may_be_closed`: the connection was
/// reused, and the server may have closed it before.
pub(crate) fn continue_attempt(
    tally: &mut RetryTally,
    ask: &OriginRequest,
    error: &Error,
    may_be_closed: bool,
) -> Option<NextAttempt> {
    let outcome = classify_error(error);
    let failed = FailedAttempt {
        is_unprocessed: is_unprocessed(error),
        was_reused: may_be_closed && outcome != OriginOutcome::Timeout,
        ..FailedAttempt::of_server(outcome)
    };
    // Retries at another server are the caller's matter.
    tally.settle(ask.retry_request(), failed, false, || false)
}
