//! An exchange with a server over a connection of the gateway's own: HTTP/1.1.
//!
//! Used for fills, checks and most proxied requests if there is no TLS, and for proxied bodies in any case
//! (`h1` has the protocol). It knows nothing of the request: it sends serialised bytes, and the caller
//! decides about retries.

pub(crate) use crate::origin::h1::{DuplexEvent, OutgoingBytes};

use crate::origin::{
    h1::{ConnectionTimeouts, OriginConnection},
    servers::{ServerAttempt, ServerGroup},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use pingora_core::{Error, ErrorType};
use pingora_http::ResponseHeader;
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// An exchange under way. Dropping it closes its connection.
#[derive(Debug)]
pub(crate) struct NativeExchange {
    // Boxed: it changes hands several times in an exchange.
    connection: Box<OriginConnection>,
    pool: Arc<ServerGroup>,
    server: usize,
    address: Option<SocketAddr>,
    limits: ConnectionTimeouts,
}

impl NativeExchange {
    /// Takes or opens a connection to a server, at this address or else another one of it, and returns true
    /// if it is reused. All timeouts are bounded by `left`.
    ///
    /// # Errors
    /// If there is no connection.
    pub(crate) async fn begin(
        pool: &Arc<ServerGroup>,
        at: ServerAttempt,
        left: Option<Duration>,
        now: Instant,
    ) -> Result<(Self, bool), Box<Error>> {
        let within = |limit: Duration| left.map_or(limit, |left| left.min(limit));
        let (settings, ServerAttempt { server, address, began, .. }) = (&pool.settings, at);
        let limits = ConnectionTimeouts {
            connect: within(settings.connect_timeout),
            step: within(settings.read_timeout),
        };
        let kept = pool.idle(server).and_then(|idle| idle.take((address, pool.group()), now));
        let reused = kept.is_some();
        let (connection, address) = match kept {
            Some(connection) => (connection, address),
            None => {
                let addresses = pool.addresses(server, address, now);
                let Some(to) = pool.place(at, &addresses) else {
                    return Error::e_explain(ErrorType::ConnectError, "a server without an address");
                };
                let missed = |address| pool.missed(server, address, began);
                let (connection, reached) = Box::pin(OriginConnection::open(to, limits, missed)).await?;
                (connection, reached.or(address))
            }
        };
        Ok((Self { connection, pool: pool.clone(), server, address, limits }, reused))
    }

    /// Sets the timeouts of the following steps: those of the origin, bounded by `left`.
    pub(crate) fn be_patient(&mut self, left: Option<Duration>) {
        let step = self.pool.settings.read_timeout;
        self.limits.step = left.map_or(step, |left| left.min(step));
    }

    /// The address of the server that it is connected to.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Sends a serialised request.
    ///
    /// # Errors
    /// If that fails or times out.
    pub(crate) async fn send(&mut self, request: &[u8]) -> Result<(), Box<Error>> {
        self.connection.send(request, self.limits).await
    }

    /// Sends a part of the request's body, and reads the answer; returns the first event.
    ///
    /// # Errors
    /// If the connection failed; `WriteError` or `WriteTimedout` means that nothing more can be sent.
    pub(crate) async fn go_on(
        &mut self,
        out: &mut OutgoingBytes,
        method: &Method,
    ) -> Result<DuplexEvent, Box<Error>> {
        self.connection.go_on(out, method, self.limits).await
    }

    /// Reads the next head of the answer: interim ones, then the final one.
    ///
    /// # Errors
    /// If there is none, or none in time.
    pub(crate) async fn head(&mut self, method: &Method) -> Result<ResponseHeader, Box<Error>> {
        self.connection.head(method, self.limits).await
    }

    /// Reads the next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// If it was cut short, or a read timed out.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Box<Error>> {
        self.connection.next(self.limits).await
    }

    /// Returns true if the whole body was read together with the head, as far as its length is known.
    pub(crate) fn is_at_hand(&self) -> bool {
        self.connection.is_at_hand()
    }

    /// The whole body, if its length is known and it was read together with the head.
    pub(crate) fn at_hand(&mut self) -> Option<Bytes> {
        self.connection.at_hand()
    }

    /// Returns true if the whole answer has been read.
    pub(crate) fn is_done(&self) -> bool {
        self.connection.is_done()
    }

    /// The trailers.
    pub(crate) fn take_trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.connection.take_trailers()
    }

    /// Returns the connection to the idle ones, if it may be reused.
    pub(crate) fn finish(self) {
        if let Some(idle) = self.pool.idle(self.server) {
            let to = (self.address, self.pool.group());
            idle.keep(to, self.connection, Instant::now() + self.pool.settings.idle_timeout);
        }
    }
}

/// Serialises a request with its body for HTTP/1.1; `None` if that is not possible. Names are capitalised as
/// most software does.
pub(crate) fn write_head(
    method: &Method,
    target: &[u8],
    host: &[u8],
    fields: &[(HeaderName, HeaderValue)],
    body: &[u8],
) -> Option<Vec<u8>> {
    // RFC 9112, 3.2: a target must not contain whitespace.
    let ends = |bytes: &[u8]| bytes.iter().any(|b| *b <= b' ' || *b == 0x7f);
    if target.is_empty() || ends(target) || ends(host) {
        return None;
    }
    let lengths = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let length = 80 + target.len() + host.len() + lengths.sum::<usize>() + body.len();
    let mut text = Vec::with_capacity(length);
    let start = [method.as_str().as_bytes(), b" ", target, b" HTTP/1.1\r\nHost: ", host, b"\r\n"];
    start.iter().for_each(|part| text.extend_from_slice(part));
    for (name, value) in fields {
        write_name(&mut text, name);
        [b": ", value.as_bytes(), b"\r\n"].iter().for_each(|part| text.extend_from_slice(part));
    }
    if !body.is_empty() {
        text.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    text.extend_from_slice(b"\r\n");
    text.extend_from_slice(body);
    Some(text)
}

fn write_name(text: &mut Vec<u8>, name: &HeaderName) {
    let begin = text.len();
    text.extend_from_slice(name.as_str().as_bytes());
    let mut first = true;
    for byte in &mut text[begin..] {
        if first {
            byte.make_ascii_uppercase();
        }
        first = *byte == b'-';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_written_in_one_way() {
        let fields = [
            (HeaderName::from_static("x-real-ip"), HeaderValue::from_static("::1")),
            (HeaderName::from_static("te-"), HeaderValue::from_static("")),
        ];
        let text = write_head(&Method::GET, b"/a?b", b"app:1", &fields, b"").unwrap();
        assert_eq!(text, b"GET /a?b HTTP/1.1\r\nHost: app:1\r\nX-Real-Ip: ::1\r\nTe-: \r\n\r\n");
        let text = write_head(&Method::POST, b"/", b"app", &[], b"hello").unwrap();
        assert_eq!(text, b"POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 5\r\n\r\nhello");
        for (target, host) in
            [("", "a"), ("/ b", "a"), ("/\r\nX: y", "a"), ("/\0", "a"), ("/", "a\r\nb"), ("/", "a b")]
        {
            assert_eq!(
                write_head(&Method::GET, target.as_bytes(), host.as_bytes(), &[], b""),
                None,
                "{target:?}"
            );
        }
    }
}
