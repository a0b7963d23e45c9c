//! Requests to the test origin, and its answers.

use bytes::Bytes;
use http::{header, HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use std::time::Duration;

/// One request as the origin got it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The method.
    pub method: Method,
    /// The path without the query.
    pub path: String,
    /// The query, if there is one.
    pub query: Option<String>,
    /// The version of HTTP that it came by.
    pub version: http::Version,
    /// The authority of its target, where it names one (HTTP/2 does).
    pub authority: Option<String>,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; empty for the built-in paths.
    pub body: Bytes,
    /// Its number, from 1, over all requests.
    pub number: u64,
}

impl Seen {
    /// A header's text, or nothing.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// An answer of the origin.
#[derive(Debug, Clone)]
pub struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) parts: Vec<Bytes>,
    pub(super) delay: Duration,
    pub(super) gated: bool,
    pub(super) chunked: bool,
    pub(super) broken: bool,
    pub(super) rate: Option<u64>,
    pub(super) bare: bool,
}

impl Answer {
    /// 200 with a body of this type.
    pub fn new(content_type: &str, body: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        let parts = vec![body.into()];
        Self {
            status: StatusCode::OK,
            headers,
            parts,
            delay: Duration::ZERO,
            gated: false,
            chunked: false,
            broken: false,
            rate: None,
            bare: false,
        }
    }

    /// 200 with JSON.
    pub fn json(body: &serde_json::Value) -> Self {
        Self::new("application/json", body.to_string())
    }

    /// The default: JSON that names the request (path, query, tenant, user, role) and its number.
    pub fn echo(seen: &Seen) -> Self {
        Self::json(&serde_json::json!({
            "path": seen.path,
            "query": seen.query,
            "tenant": seen.header("x-tenant"),
            "user": seen.header("x-user"),
            "role": seen.header("x-role"),
            "seq": seen.number,
        }))
    }

    /// With this status.
    pub fn status(mut self, status: u16) -> Self {
        self.status = StatusCode::from_u16(status).unwrap();
        self
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().unwrap();
        self.headers.append(name, HeaderValue::from_str(value).unwrap());
        self
    }

    /// With a further line whose value need not be ASCII.
    pub fn header_bytes(mut self, name: &str, value: &[u8]) -> Self {
        let name: HeaderName = name.parse().unwrap();
        self.headers.append(name, HeaderValue::from_bytes(value).unwrap());
        self
    }

    /// Only after this time.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Held while the origin holds ([`TestOrigin::hold`]), before its head is sent.
    pub fn gated(mut self) -> Self {
        self.gated = true;
        self
    }

    /// With `Transfer-Encoding: chunked`.
    pub fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// Breaks off after the parts given, once the origin doesn't hold: the connection dies inside the body. Parts
    /// that nobody has read by then may be lost with it.
    pub fn broken(mut self) -> Self {
        self.broken = true;
        self
    }

    /// Ends with its head, whatever length that tells of. Over HTTP/2.
    pub fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// Streamed at this many bytes a second. With a length, where it isn't chunked.
    pub fn paced(mut self, rate: u64) -> Self {
        self.rate = Some(rate);
        self
    }

    /// With this length, whatever is sent of it: an answer that breaks off or is held has one then, and isn't chunked.
    pub fn length(self, length: usize) -> Self {
        self.header("content-length", &length.to_string())
    }

    /// Chunked, and held after the first part until the origin releases.
    pub fn then_held(mut self, rest: impl Into<Bytes>) -> Self {
        self.chunked = true;
        self.parts.push(rest.into());
        self
    }
}
