//! The error answers of the gateway: one table from reason to problem document.

use super::cached;
use crate::{
    cache::{Failure, FetchError},
    events::signature::SignatureError,
    identity::TokenError,
    representation::problem::Problem,
    telemetry::labels::{EventResult, RejectReason},
    websocket,
};
use http::{header, HeaderValue, Method, StatusCode};

/// The answer to a request that is refused.
pub(super) fn problem(reason: RejectReason) -> Problem {
    let (status, detail) = match reason {
        RejectReason::BadRequest => (StatusCode::BAD_REQUEST, "the request is malformed"),
        RejectReason::BadHost => (StatusCode::BAD_REQUEST, "the Host field is malformed"),
        RejectReason::BadPath => (
            StatusCode::BAD_REQUEST,
            "the path holds a dot segment, a NUL or a % that begins no percent-encoding, or begins with a backslash",
        ),
        RejectReason::EscapedSlash => (
            StatusCode::BAD_REQUEST,
            "the path holds an escaped slash or a backslash, and with a slash there other rules would apply",
        ),
        RejectReason::NotFound => (StatusCode::NOT_FOUND, "no route leads here"),
        RejectReason::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "this method is not allowed here"),
        RejectReason::BodyTooLarge => {
            (StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than is allowed here")
        }
        RejectReason::TooManyParameters => (StatusCode::BAD_REQUEST, "the query has too many parameters"),
        RejectReason::UriTooLong => (StatusCode::URI_TOO_LONG, "the path and query are too long"),
        RejectReason::HeadersTooLarge => {
            (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the header fields are too many or too large")
        }
        RejectReason::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "too many requests"),
        RejectReason::Expectation => (StatusCode::EXPECTATION_FAILED, "this expectation can't be met"),
        RejectReason::NotImplemented => (StatusCode::NOT_IMPLEMENTED, "this method is not implemented"),
        RejectReason::Misdirected => {
            (StatusCode::MISDIRECTED_REQUEST, "the certificate was shown to another host")
        }
        RejectReason::UpgradeRefused => (StatusCode::FORBIDDEN, "no WebSocket is allowed here"),
        RejectReason::Handshake => (StatusCode::BAD_REQUEST, "the WebSocket handshake is malformed"),
        RejectReason::WebSocketVersion => {
            (StatusCode::UPGRADE_REQUIRED, "this version of WebSockets is not spoken here")
        }
        RejectReason::Origin => (StatusCode::FORBIDDEN, "no page of this origin may open a WebSocket here"),
        RejectReason::Token => (StatusCode::UNAUTHORIZED, "the token does not verify"),
        RejectReason::TokenMissing => (StatusCode::UNAUTHORIZED, "a token is needed here"),
        RejectReason::Signature => (StatusCode::FORBIDDEN, "the link has no signature that verifies"),
        RejectReason::Expired => (StatusCode::GONE, "the link has expired"),
        RejectReason::Preflight => {
            (StatusCode::FORBIDDEN, "scripts of this origin may not read what is here")
        }
    };
    let problem = Problem::new(status, detail);
    match reason {
        RejectReason::Token => problem.with(header::WWW_AUTHENTICATE, INVALID_TOKEN),
        RejectReason::WebSocketVersion => problem
            .with(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static(websocket::VERSION))
            .with(header::UPGRADE, HeaderValue::from_static("websocket")),
        RejectReason::TokenMissing => {
            problem.with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
        }
        _ => problem,
    }
}

/// The answer to a request whose token is refused (RFC 6750, 3.1).
pub(super) fn token(error: TokenError) -> Problem {
    let said = format!("Bearer error=\"invalid_token\", error_description=\"{}\"", error.text());
    let said = HeaderValue::try_from(said).unwrap_or(INVALID_TOKEN);
    Problem::new(StatusCode::UNAUTHORIZED, error.text()).with(header::WWW_AUTHENTICATE, said)
}

const INVALID_TOKEN: HeaderValue = HeaderValue::from_static("Bearer error=\"invalid_token\"");

/// Returns true if the connection is closed after such a request: what was read as a request may not be one,
/// and the beginning of the next is uncertain.
pub(super) fn ends_connection(reason: RejectReason) -> bool {
    matches!(
        reason,
        RejectReason::BadRequest
            | RejectReason::BadHost
            | RejectReason::BadPath
            | RejectReason::UriTooLong
            | RejectReason::Expectation
            | RejectReason::NotImplemented
    )
}

/// The answer if a path has routes, but for other methods.
pub(super) fn method_not_allowed(allowed: &[Method]) -> Problem {
    let allowed = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    let allow = HeaderValue::from_str(&allowed).unwrap_or(HeaderValue::from_static(""));
    problem(RejectReason::MethodNotAllowed).with(header::ALLOW, allow)
}

/// The answer if the origin gave none.
pub(super) fn no_answer(error: FetchError) -> Problem {
    let (status, detail) = match error {
        FetchError::Unreachable => (StatusCode::BAD_GATEWAY, "the origin can't be reached"),
        FetchError::Malformed => (StatusCode::BAD_GATEWAY, "the origin's answer is malformed"),
        FetchError::Timeout => (StatusCode::GATEWAY_TIMEOUT, "the origin did not answer in time"),
        FetchError::BreakerOpen => (StatusCode::SERVICE_UNAVAILABLE, "no server of the origin is healthy"),
        FetchError::Unresolved => {
            (StatusCode::SERVICE_UNAVAILABLE, "no name of the origin's servers has an address")
        }
        FetchError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "the origin has as much to do as it may have"),
        FetchError::Abandoned => (StatusCode::SERVICE_UNAVAILABLE, "the request to the origin was abandoned"),
    };
    let problem = Problem::new(status, detail);
    match status {
        StatusCode::SERVICE_UNAVAILABLE => problem.with(header::RETRY_AFTER, HeaderValue::from_static("1")),
        _ => problem,
    }
}

/// The answer to `only-if-cached` if nothing is stored (RFC 9111, 5.2.1.7).
pub(super) fn not_here() -> Problem {
    Problem::new(
        StatusCode::GATEWAY_TIMEOUT,
        "nothing is stored for this request, and only-if-cached permits nothing else",
    )
}

/// `Cache-Status` of a stale answer that is sent instead of a new one, and its `detail`, which the access
/// record has as well. `failure` is the reason for which there is no new one; `None`: the fill takes longer
/// than `stale_after`.
pub(super) fn stood_in(failure: Option<Failure>) -> (HeaderValue, &'static str) {
    let (status, why) = match failure {
        Some(Failure::Status(code)) => (format!("; fwd-status={}", code.as_u16()), ORIGIN_ERROR),
        Some(Failure::Fetch(error)) => (String::new(), name_of(error)),
        None => (String::new(), SLOW_ORIGIN),
    };
    (cached::text(format!("tidegate; fwd=stale{status}; detail={why}")), why)
}

const ORIGIN_ERROR: &str = "origin-error";
const SLOW_ORIGIN: &str = "slow-origin";

/// The name of a fetch error, for `Cache-Status` and the access record.
pub(super) fn name_of(error: FetchError) -> &'static str {
    match error {
        FetchError::Unreachable => "origin-unreachable",
        FetchError::Malformed => "origin-malformed",
        FetchError::Timeout => "origin-timeout",
        FetchError::BreakerOpen => "origin-unhealthy",
        FetchError::Unresolved => "origin-unresolved",
        FetchError::Busy => "origin-busy",
        FetchError::Abandoned => "fill-abandoned",
    }
}

/// The answer to an event with a missing or wrong signature.
pub(super) fn unsigned_event(error: SignatureError) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, error.text())
}

/// The answer to an event; `None` if it was accepted.
pub(super) fn event(result: EventResult) -> Option<Problem> {
    let (status, detail) = match result {
        EventResult::Accepted | EventResult::Replayed => return None,
        EventResult::BadSignature => (StatusCode::UNAUTHORIZED, "the signature does not verify"),
        EventResult::BadBody => (StatusCode::BAD_REQUEST, "the body is not a JSON object"),
        EventResult::BadTenant => (StatusCode::BAD_REQUEST, "the tenant's name is not valid"),
        EventResult::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than is allowed here"),
        EventResult::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "too many events"),
        EventResult::StoreDown => (StatusCode::SERVICE_UNAVAILABLE, "the store did not record the event"),
        EventResult::UnderWay => (StatusCode::SERVICE_UNAVAILABLE, "the same event is still under way"),
    };
    let problem = Problem::new(status, detail);
    Some(match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            problem.with(header::RETRY_AFTER, HeaderValue::from_static("1"))
        }
        _ => problem,
    })
}
