//! The error answers of the gateway: one table from reason to problem document.

use crate::{
    cache::{coherence::version::MinVersionError, FillFailure, OriginFetchError},
    events::signature::SignatureError,
    http::cache_status::{CacheStatus, ForwardToken},
    identity::TokenError,
    origin::{
        client::{is_malformed, OriginError},
        servers::NoUpstream,
    },
    representation::problem::ProblemReply,
    telemetry::labels::{EventResult, OriginOutcome, RejectReason},
    websocket,
};

use http::{header, HeaderValue, Method, StatusCode};

/// The answer to a request that is refused.
pub(crate) fn rejection_problem(reason: RejectReason) -> ProblemReply {
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
        RejectReason::CrossOrigin => (
            StatusCode::FORBIDDEN,
            "a page of another origin sent this request: its cookie does not count",
        ),
        RejectReason::Signature => (StatusCode::FORBIDDEN, "the link has no signature that verifies"),
        RejectReason::Expired => (StatusCode::GONE, "the link has expired"),
        RejectReason::NotAcceptable => (
            StatusCode::NOT_ACCEPTABLE,
            "this is a stream of events: the request has to have Accept: text/event-stream",
        ),
        RejectReason::BadWatch => (StatusCode::BAD_REQUEST, "watch has to name entries, as in ?watch=kpi,chart"),
        RejectReason::BadMinVersion => (
            StatusCode::BAD_REQUEST,
            "Tidegate-Min-Version has to name namespaces and versions, as in kpi=1764547200123",
        ),
        RejectReason::Preflight => {
            (StatusCode::FORBIDDEN, "scripts of this origin may not read what is here")
        }
    };
    let problem = ProblemReply::new(status, detail);
    match reason {
        RejectReason::Token => problem.with(header::WWW_AUTHENTICATE, INVALID_TOKEN),
        RejectReason::WebSocketVersion => problem
            .with(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static(websocket::WEBSOCKET_VERSION))
            .with(header::UPGRADE, HeaderValue::from_static("websocket")),
        RejectReason::TokenMissing => {
            problem.with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
        }
        _ => problem,
    }
}

/// The answer to a request whose token is refused (RFC 6750, 3.1).
pub(crate) fn token_problem(error: TokenError) -> ProblemReply {
    let said = format!("Bearer error=\"invalid_token\", error_description=\"{}\"", error.text());
    let said = HeaderValue::try_from(said).unwrap_or(INVALID_TOKEN);
    ProblemReply::new(StatusCode::UNAUTHORIZED, error.text()).with(header::WWW_AUTHENTICATE, said)
}

const INVALID_TOKEN: HeaderValue = HeaderValue::from_static("Bearer error=\"invalid_token\"");

/// Returns true if the connection is closed after such a request: what was read as a request may not be one,
/// and the beginning of the next is uncertain.
pub(crate) fn ends_connection(reason: RejectReason) -> bool {
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
pub(crate) fn method_not_allowed(allowed: &[Method]) -> ProblemReply {
    let allowed = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    let allow = HeaderValue::from_str(&allowed).unwrap_or(HeaderValue::from_static(""));
    rejection_problem(RejectReason::MethodNotAllowed).with(header::ALLOW, allow)
}

/// Translates a failure of the origin client into the error that requests waiting for the fill get.
pub(crate) fn fetch_error(error: &OriginError) -> OriginFetchError {
    match error {
        OriginError::Nobody(NoUpstream::Unhealthy) => OriginFetchError::BreakerOpen,
        OriginError::Nobody(NoUpstream::Unresolved) => OriginFetchError::Unresolved,
        OriginError::Nobody(NoUpstream::QueueFull | NoUpstream::QueueTimeout) => OriginFetchError::Busy,
        OriginError::Nobody(NoUpstream::BreakerOpen(OriginOutcome::Timeout))
        | OriginError::Failed { outcome: OriginOutcome::Timeout, .. } => OriginFetchError::Timeout,
        OriginError::Failed { error, .. } if is_malformed(error) => OriginFetchError::Malformed,
        OriginError::Nobody(NoUpstream::BreakerOpen(_))
        | OriginError::Failed { .. }
        | OriginError::TooLarge(_)
        | OriginError::Invalid => OriginFetchError::Unreachable,
    }
}

/// The answer if the origin gave none.
pub(crate) fn fetch_problem(error: OriginFetchError) -> ProblemReply {
    let (status, detail) = match error {
        OriginFetchError::Unreachable => (StatusCode::BAD_GATEWAY, "the origin can't be reached"),
        OriginFetchError::Malformed => (StatusCode::BAD_GATEWAY, "the origin's answer is malformed"),
        OriginFetchError::Timeout => (StatusCode::GATEWAY_TIMEOUT, "the origin did not answer in time"),
        OriginFetchError::BreakerOpen => {
            (StatusCode::SERVICE_UNAVAILABLE, "no server of the origin is healthy")
        }
        OriginFetchError::Unresolved => {
            (StatusCode::SERVICE_UNAVAILABLE, "no name of the origin's servers has an address")
        }
        OriginFetchError::Busy => {
            (StatusCode::SERVICE_UNAVAILABLE, "the origin has as much to do as it may have")
        }
        OriginFetchError::Abandoned => {
            (StatusCode::SERVICE_UNAVAILABLE, "the request to the origin was abandoned")
        }
    };
    let problem = ProblemReply::new(status, detail);
    match status {
        StatusCode::SERVICE_UNAVAILABLE => problem.with(header::RETRY_AFTER, HeaderValue::from_static("1")),
        _ => problem,
    }
}

/// The answer to `only-if-cached` if nothing is stored (RFC 9111, 5.2.1.7).
pub(crate) fn only_if_cached_problem() -> ProblemReply {
    ProblemReply::new(
        StatusCode::GATEWAY_TIMEOUT,
        "nothing is stored for this request, and only-if-cached permits nothing else",
    )
}

/// The answer to a request with a malformed `Tidegate-Min-Version`.
pub(crate) fn bad_min_version(error: MinVersionError) -> ProblemReply {
    let detail = match error {
        MinVersionError::Malformed => {
            "a member of Tidegate-Min-Version is not a namespace and a version, as in kpi=1764547200123"
        }
        MinVersionError::UnknownNamespace => {
            "a member of Tidegate-Min-Version names a namespace that no route has"
        }
        MinVersionError::TooMany => "Tidegate-Min-Version has more than 16 members",
    };
    ProblemReply::new(StatusCode::BAD_REQUEST, detail)
}

/// The answer if the version that a client knows of is not known, or not filled, in time.
pub(crate) fn min_version_problem() -> ProblemReply {
    ProblemReply::new(
        StatusCode::GATEWAY_TIMEOUT,
        "no answer of the version in Tidegate-Min-Version, or of a later one, was there in time",
    )
}

/// `Cache-Status` of a stale answer that is sent instead of a new one, and its `detail`, which the access
/// record has as well. `failure` is the reason for which there is no new one; `None`: the fill takes longer
/// than `stale_after`.
pub(crate) fn stale_if_error_status(failure: Option<FillFailure>) -> (CacheStatus, &'static str) {
    let stale = CacheStatus::forwarded(ForwardToken::Stale);
    let (stale, why) = match failure {
        Some(FillFailure::Status(code)) => (stale.with_fwd_status(code), ORIGIN_ERROR),
        Some(FillFailure::Fetch(error)) => (stale, error_name(error)),
        None => (stale, SLOW_ORIGIN),
    };
    (stale.with_detail(Some(why)), why)
}

const ORIGIN_ERROR: &str = "origin-error";
const SLOW_ORIGIN: &str = "slow-origin";

/// The name of a fetch error, for `Cache-Status` and the access record.
pub(crate) fn error_name(error: OriginFetchError) -> &'static str {
    match error {
        OriginFetchError::Unreachable => "origin-unreachable",
        OriginFetchError::Malformed => "origin-malformed",
        OriginFetchError::Timeout => "origin-timeout",
        OriginFetchError::BreakerOpen => "origin-unhealthy",
        OriginFetchError::Unresolved => "origin-unresolved",
        OriginFetchError::Busy => "origin-busy",
        OriginFetchError::Abandoned => "fill-abandoned",
    }
}

/// The answer to an event with a missing or wrong signature.
pub(crate) fn signature_problem(error: SignatureError) -> ProblemReply {
    ProblemReply::new(StatusCode::UNAUTHORIZED, error.text())
}

/// The answer to an event; `None` if it was accepted.
pub(crate) fn event_problem(result: EventResult) -> Option<ProblemReply> {
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
    let problem = ProblemReply::new(status, detail);
    Some(match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            problem.with(header::RETRY_AFTER, HeaderValue::from_static("1"))
        }
        _ => problem,
    })
}
