//! The start of a connection, from the accepted socket to the first request: its options, the PROXY header, the
//! TLS handshake, the protocol.

use super::{
    connection::{
        stream::ClientSocket,
        timed_stream::{ConnectionParty, TimedStream},
        timeouts::TimeoutRules,
        HttpConnection,
    },
    connection_limits::ConnectionPermit,
    listeners::BoundListener,
    proxy_protocol,
    tls::ReloadingTls,
    ConnectionServer,
};
use crate::{
    certificate,
    gateway::{ClientCertificate, ConnectionSignals},
    telemetry::labels::{Handshake, ProxyHeader},
};

use http::HeaderValue;
use rustls::ServerConnection;
use socket2::SockRef;
use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpStream,
    time::{timeout_at, Instant as Deadline},
};
use tokio_rustls::server::TlsStream;

/// The time by which the kernel's timeout (`TCP_USER_TIMEOUT`) exceeds `send_timeout`; it also applies while
/// nothing is written.
const KERNEL_MARGIN: Duration = Duration::from_secs(2);

/// A connection whose protocol is known.
pub(super) struct StartedConnection {
    /// Boxed: moved by value, it would take its place in each future on its way.
    pub(super) connection: Box<HttpConnection>,
    /// The client's address.
    pub(super) peer: SocketAddr,
    pub(super) signals: Arc<ConnectionSignals>,
    /// The certificate that its client has presented, if the listener asks for one.
    pub(super) shown: Option<Arc<ClientCertificate>>,
    pub(super) http2: bool,
}

impl ConnectionServer {
    /// Prepares a connection up to the first request. `None` if it failed.
    pub(super) async fn begin(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
        way: &BoundListener,
        place: &mut ConnectionPermit,
        (rules, accepted): (TimeoutRules, Instant),
    ) -> Option<StartedConnection> {
        if let Err(error) = prepare_socket(&stream, &rules) {
            tracing::debug!(%error, "a connection was closed right after it was accepted");
            return None;
        }
        // One deadline for the PROXY header, the TLS handshake and the first bytes of an unknown protocol.
        let by = (accepted + rules.header_timeout).into();
        let peer = self.proxied(&mut stream, peer, way, by).await?;
        if let Err(reason) = place.belongs_to(peer.ip()) {
            self.refuse(&stream, reason);
            return None;
        }
        let (stream, shown, negotiated) = match &way.tls {
            None => (ClientSocket::Plain(stream), None, None),
            Some(tls) => {
                let stream = self.handshake(tls, stream, by).await?;
                let session = stream.get_ref().1;
                let shown = way.asks.then(|| Arc::new(client_certificate(session)));
                let http2 = session.alpn_protocol() == Some(b"h2");
                (ClientSocket::Tls(stream), shown, Some(http2))
            }
        };
        let signals = Arc::new(ConnectionSignals::default());
        let (ledger, places) = (self.services.ledger.clone(), self.services.places.clone());
        let party = ConnectionParty { peer, signals: signals.clone(), ledger, places };
        let guarded = TimedStream::new(stream, party, rules, accepted);
        let mut connection = Box::new(HttpConnection::new(guarded, self.services.closing.clone()));
        let http2 = match negotiated {
            Some(http2) => http2,
            None if way.http2 => timeout_at(by, connection.begins_with_http2()).await.ok()?.ok()?,
            None => false,
        };
        Some(StartedConnection { connection, peer, signals, shown, http2 })
    }

    /// The address of the client: from the PROXY header, or the peer's.
    async fn proxied(
        &self,
        stream: &mut TcpStream,
        peer: SocketAddr,
        way: &BoundListener,
        by: Deadline,
    ) -> Option<SocketAddr> {
        let Some(trusts) = &way.proxied else { return Some(peer) };
        let read = match trusts {
            Some(trusts) if !trusts(peer.ip().to_canonical()) => Err(ProxyHeader::Untrusted),
            _ => match timeout_at(by, proxy_protocol::read_header(stream)).await {
                Ok(read) => read,
                Err(_) => Err(ProxyHeader::Timeout),
            },
        };
        let (said, peer) = match read {
            Ok(Some(client)) => (ProxyHeader::Proxied, Some(client)),
            Ok(None) => (ProxyHeader::Local, Some(peer)),
            Err(why) => {
                tracing::debug!(%peer, %why, "a connection without a PROXY header was closed");
                (why, None)
            }
        };
        self.metrics.proxy_header(said);
        peer
    }

    async fn handshake(
        &self,
        tls: &ReloadingTls,
        stream: TcpStream,
        by: Deadline,
    ) -> Option<Box<TlsStream<TcpStream>>> {
        let failed = match timeout_at(by, tls.accept(stream)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(why)) => why,
            Err(_) => Handshake::Timeout,
        };
        self.metrics.handshake(failed);
        None
    }
}

/// The TLS name and certificate of a client, from its handshake.
fn client_certificate(session: &ServerConnection) -> ClientCertificate {
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let subject = certificate.and_then(|certificate| certificate::read_subject(certificate));
    ClientCertificate {
        to: session.server_name().map(Into::into),
        subject: subject.and_then(|subject| HeaderValue::from_str(&subject).ok()),
    }
}

/// Sets the options of a socket: `TCP_NODELAY`, so that the last piece of an answer doesn't wait for an
/// acknowledgement, and `TCP_USER_TIMEOUT`, so that a client that reads nothing is disconnected even if the
/// whole answer is in the kernel's buffers.
fn prepare_socket(stream: &TcpStream, rules: &TimeoutRules) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_user_timeout(Some(rules.send_timeout + KERNEL_MARGIN))
}
