//! An exchange with a server over a connection of Pingora's: with TLS, or by HTTP/2.
//!
//! The counterpart of `native`. It makes one attempt, apart from reused connections that the
//! server had closed; the caller decides about retries.

use super::ask::{continue_attempt, failed, passes_for_interim, InterimSink, OriginError, OriginRequest};
use crate::{
    http::framing,
    origin::{
        retry::RetryTally,
        servers::{NoUpstream, ServerAttempt, ServerGroup},
    },
};
use bytes::Bytes;
use http::{header, HeaderMap, HeaderValue, StatusCode};
use pingora_core::{
    connectors::http::Connector, protocols::http::client::HttpSession, upstreams::peer::HttpPeer, Error,
    ErrorType,
};
use pingora_http::RequestHeader;
use std::{net::SocketAddr, sync::Arc};

/// The connector for the gateway's own requests; Pingora's proxy has another one.
pub(crate) fn make_connector() -> Arc<Connector> {
    Arc::new(Connector::new(None))
}

/// An exchange whose head has been read. Dropping it closes its connection, or resets its stream.
pub(crate) struct PingoraExchange {
    session: HttpSession,
    peer: HttpPeer,
    connector: Arc<Connector>,
    /// The address of the server that it is connected to, if it is known.
    pub(crate) address: Option<SocketAddr>,
}

impl PingoraExchange {
    /// Sends a request to one server and reads the head of its answer.
    ///
    /// # Errors
    /// If there is no answer.
    pub(crate) async fn begin(
        connector: &Arc<Connector>,
        pool: &ServerGroup,
        ask: &OriginRequest,
        at: ServerAttempt,
        on_interim: InterimSink<'_>,
    ) -> Result<(StatusCode, HeaderMap, Self), OriginError> {
        let server = at.server;
        let (peer, reached) = pool.peer(at).ok_or(OriginError::Nobody(NoUpstream::Unhealthy))?;
        let (mut may_be_closed, mut tally) = (true, RetryTally::new(0));
        loop {
            let (mut session, reused) = connector.get_http_session(&peer).await.map_err(failed)?;
            let shared = matches!(session, HttpSession::H2(_));
            let request = make_request(pool, ask, server, shared).ok_or(OriginError::Invalid)?;
            session.set_read_timeout(peer.options.read_timeout);
            session.set_write_timeout(peer.options.write_timeout);
            if let Err(error) = read_head(&mut session, request, &ask.body, on_interim).await {
                let next = continue_attempt(&mut tally, ask, &error, reused && may_be_closed);
                match next.map(|next| next.pause) {
                    None => return Err(failed(error)),
                    Some(Some(pause)) => tokio::time::sleep(pause).await,
                    // A failed HTTP/1 connection is removed; a shared one may be returned again.
                    Some(None) => may_be_closed = !shared,
                }
                continue;
            }
            let Some(answer) = session.response_header() else { return Err(OriginError::Invalid) };
            let (status, headers) = (answer.status, answer.headers.clone());
            let (connector, address) = (connector.clone(), reached.get().copied().or(at.address));
            return Ok((status, headers, Self { session, peer, connector, address }));
        }
    }

    /// Reads the next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// If it was cut short, or a read timed out.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Box<Error>> {
        self.session.read_response_body().await
    }

    /// Returns the connection to the idle ones.
    pub(crate) async fn finish(self) {
        let Self { session, peer, connector, .. } = self;
        connector.release_http_session(session, &peer, peer.options.idle_timeout).await;
    }
}

/// Builds the request for HTTP/1.1 or (`shared`) HTTP/2, whose target has scheme and host.
fn make_request(
    pool: &ServerGroup,
    ask: &OriginRequest,
    server: usize,
    shared: bool,
) -> Option<Box<RequestHeader>> {
    let mut request =
        Box::new(RequestHeader::build(ask.method.clone(), ask.target.as_bytes(), Some(12)).ok()?);
    let host = ask.host.clone().unwrap_or_else(|| pool.authority(server));
    if shared {
        let scheme = if pool.is_tls(server) { "https" } else { "http" };
        request.set_uri(format!("{scheme}://{host}{}", ask.target).parse().ok()?);
    } else {
        request.insert_header(header::HOST, HeaderValue::from_str(&host).ok()?).ok()?;
    }
    for (name, value) in &ask.headers {
        request.append_header(name.clone(), value.clone()).ok()?;
    }
    if !ask.body.is_empty() {
        request.insert_header(header::CONTENT_LENGTH, HeaderValue::from(ask.body.len())).ok()?;
    }
    Some(request)
}

async fn read_head(
    session: &mut HttpSession,
    request: Box<RequestHeader>,
    body: &Bytes,
    on_interim: InterimSink<'_>,
) -> Result<(), Box<Error>> {
    session.write_request_header(request).await?;
    if !body.is_empty() {
        session.write_request_body(body.clone(), true).await?;
    }
    session.finish_request_body().await?;
    for _ in 0..=framing::MOST_INTERIM {
        session.read_response_header().await?;
        match session.response_header() {
            Some(interim) if passes_for_interim(interim.status)? => on_interim(interim),
            _ => return Ok(()),
        }
        // With HTTP/2, interim answers are not returned here, and Pingora panics if a head is read twice.
        if matches!(session, HttpSession::H2(_)) {
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "an unexpected interim answer");
        }
    }
    Error::e_explain(ErrorType::InvalidHTTPHeader, "too many interim answers")
}
