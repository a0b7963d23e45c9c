//! The access record of a request.

use crate::telemetry::labels::CacheResult;
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

/// The access record of a request. Its values need not be text: bytes that aren't UTF-8 are replaced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AccessRecord<'a> {
    /// The time when the request's head was read.
    pub began: Instant,
    /// From the request's head to the answer's end.
    pub duration: Duration,
    /// `X-Request-Id`
    pub request_id: &'a [u8],
    /// The client's address.
    pub client: IpAddr,
    /// The method.
    pub method: &'a str,
    /// The request's host, as sent; empty if none was.
    pub host: &'a [u8],
    /// The path, without the query.
    pub path: &'a [u8],
    /// HTTP's version towards the client.
    pub version: http::Version,
    /// The status sent; 0: none was.
    pub status: u16,
    /// Body bytes sent.
    pub bytes: u64,
    /// The route's name, if one matched.
    pub route: Option<&'a str>,
    /// The tenant whose answer it was, on routes that read the tenant.
    pub tenant: Option<&'a str>,
    /// The source of the answer.
    pub result: CacheResult,
    /// The reason, one of the gateway's own words.
    pub detail: Option<&'a str>,
    /// The time that the origin took, if it was asked.
    pub origin: Option<Duration>,
}
