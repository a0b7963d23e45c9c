//! An exchange with the origin, as the decisions about its answer see it.

use crate::clock::ClockReading;

use http::{HeaderMap, Method, StatusCode};

/// A request to the origin and its answer.
#[derive(Debug, Clone, Copy)]
pub struct OriginExchange<'a> {
    /// The method.
    pub method: &'a Method,
    /// The request's fields.
    pub request: &'a HeaderMap,
    /// The request carried `Authorization` or a token.
    pub authorized: bool,
    /// True if the answer names the request's target in `Content-Location`:
    /// [`super::invalidation::content_is_of_target`]. Read for POST only.
    pub content_location_is_target: bool,
    /// The answer's status.
    pub status: StatusCode,
    /// The answer's fields.
    pub answer: &'a HeaderMap,
    /// The time when the request was sent, by [`crate::clock::now_ms`].
    pub requested_ms: u64,
    /// The time when the answer's head arrived. The origin's dates are compared with the wall clock.
    pub received: ClockReading,
}
