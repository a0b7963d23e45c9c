//! How an exchange with a server counts: what it came to, or in which way it failed. Pure.

use crate::telemetry::labels::OriginOutcome;
use h2::Reason;
use http::StatusCode;
use pingora_core::{Error, ErrorType};

/// The number of times that a server may say of one request that it has not begun with it, before that counts as a failure.
pub const MOST_REFUSALS: u32 = 3;

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

/// Returns whether a server of HTTP/2 says that it has not begun with a request: that may be sent again, whatever its method
/// (RFC 9113, 8.7). The library ends streams above the last one of a GOAWAY with that.
pub fn is_unprocessed(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<h2::Error>();
    cause.is_some_and(|cause| {
        cause.is_remote() && (cause.is_go_away() || cause.reason() == Some(Reason::REFUSED_STREAM))
    })
}

/// Returns whether a failure is an answer that is none: its head, or how it is framed, can't be read.
pub fn is_malformed(error: &Error) -> bool {
    matches!(error.etype(), ErrorType::InvalidHTTPHeader | ErrorType::InvalidH2)
}

/// Whether a connection itself said that it waited for too long, as one for an upgrade does.
fn timed_out(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut)
}
