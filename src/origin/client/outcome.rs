//! Classifies the outcome of an exchange with a server: the status of the answer, or the kind of failure.
//! Pure.

use crate::telemetry::labels::OriginOutcome;
use h2::Reason;
use http::StatusCode;
use pingora_core::{Error, ErrorType};

/// The outcome of an answer with this status.
pub(crate) fn classify_status(status: StatusCode) -> OriginOutcome {
    match status.is_server_error() {
        true => OriginOutcome::ServerError,
        false => OriginOutcome::Ok,
    }
}

/// The outcome of a failed exchange.
pub(crate) fn classify_error(error: &Error) -> OriginOutcome {
    match error.etype() {
        ErrorType::ConnectTimedout
        | ErrorType::ReadTimedout
        | ErrorType::WriteTimedout
        | ErrorType::TLSHandshakeTimedout => OriginOutcome::Timeout,
        ErrorType::ReadError if timed_out(error) => OriginOutcome::Timeout,
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

/// Returns true if an HTTP/2 server reports that it has not processed a request, which may then be sent
/// again, whatever its method (RFC 9113, 8.7). The library reports streams above the last one of a GOAWAY in
/// this way.
pub(crate) fn is_unprocessed(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<h2::Error>();
    cause.is_some_and(|cause| {
        cause.is_remote() && (cause.is_go_away() || cause.reason() == Some(Reason::REFUSED_STREAM))
    })
}

/// Returns true if a failure is due to an invalid answer: its head or its framing can't be parsed.
pub(crate) fn is_malformed(error: &Error) -> bool {
    matches!(error.etype(), ErrorType::InvalidHTTPHeader | ErrorType::InvalidH2)
}

/// Returns true if the connection itself reported a timeout, as one for an upgrade does.
fn timed_out(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut)
}
