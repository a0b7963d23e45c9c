//! How an exchange with a server counts: what it came to, or in which way it failed. Pure.

use crate::telemetry::labels::OriginOutcome;
use http::StatusCode;
use pingora_core::{Error, ErrorType};

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

/// Whether a connection itself said that it waited for too long, as one for an upgrade does.
fn timed_out(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut)
}
