//! The rules of every connection to a server of Redis, sentinels included: its protocol, how long it may take,
//! and what its errors mean.

use redis::{
    Client, ErrorKind, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult,
};
use std::time::Duration;

/// The time that making a connection may take.
pub(super) const CONNECT: Duration = Duration::from_millis(500);
/// The time for which a heartbeat may stay unanswered. With [`HEARTBEAT`] it bounds how long a silent
/// connection is trusted.
pub(super) const PULSE: Duration = Duration::from_millis(500);
/// Time between heartbeats.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(250);

/// A client of a server, by RESP3, with the user and the database of `settings` or of its own URL.
pub(super) fn client<T: IntoConnectionInfo>(
    at: T,
    settings: Option<RedisConnectionInfo>,
) -> RedisResult<Client> {
    let info = at.into_connection_info()?;
    let settings = settings.unwrap_or_else(|| info.redis_settings().clone());
    Client::open(info.set_redis_settings(settings.set_protocol(ProtocolVersion::RESP3)))
}

/// Returns true if a working server refused the command.
pub(super) fn is_refusal(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}

/// Returns true if a server speaks no RESP3.
pub(super) fn refuses_resp3(error: &RedisError) -> bool {
    error.kind() == ErrorKind::RESP3NotSupported
}

/// The error of a server that doesn't answer.
pub(super) fn silent() -> RedisError {
    (ErrorKind::Io, "the server doesn't answer").into()
}
