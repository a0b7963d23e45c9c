//! A request as the prepared lane reads it.

use http::Version;
use std::net::IpAddr;

/// A request as the lane has read it: GET or HEAD, well formed, without a body, and without any field that
/// the lane can't handle. Each of these fields occurs at most once.
#[derive(Debug, Clone, Copy, Default)]
pub struct FastRequest<'r> {
    /// True for HEAD.
    pub is_head: bool,
    /// Path and query as they were sent: characters of RFC 3986.
    pub target: &'r str,
    /// The path of `target`, in canonical form.
    pub path: &'r str,
    /// The query of `target`.
    pub query: &'r str,
    /// `Host`
    pub host: &'r str,
    /// `Authorization`
    pub authorization: Option<&'r [u8]>,
    /// `Accept-Encoding`
    pub accept_encoding: Option<&'r [u8]>,
    /// `If-None-Match`
    pub if_none_match: Option<&'r [u8]>,
    /// `If-Modified-Since`
    pub if_modified_since: Option<&'r [u8]>,
    /// `X-Request-Id`
    pub request_id: Option<&'r [u8]>,
    /// True if it has an `Origin`.
    pub origin: bool,
    /// True if it has cache directives: `Cache-Control`, `Pragma`.
    pub directives: bool,
    /// True if it names the client that it is forwarded for, as a proxy does.
    pub forwarded: bool,
    /// True if it names the least version that it accepts.
    pub min_version: bool,
    /// All fields.
    pub fields: &'r [httparse::Header<'r>],
}

/// The client of a request, and the listener that it came by.
#[derive(Debug, Clone, Copy)]
pub struct FastCaller {
    /// The address of the other end.
    pub peer: IpAddr,
    /// The index of the listener.
    pub listener: usize,
    /// The version of HTTP that the client uses.
    pub version: Version,
}
