//! Certificates, and clients that speak TLS and HTTP/2.

use super::client::Reply;
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair,
};
use rustls::{
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        Resumption,
    },
    crypto::aws_lc_rs::default_provider,
    pki_types::{pem::PemObject, CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};
use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{client::TlsStream, TlsAcceptor, TlsConnector};

/// An authority, and a directory for what it signs.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    /// An authority; its own certificate is in `ca.pem`.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "The tests' authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { issuer, directory: TempDir::new().unwrap() };
        std::fs::write(authority.path("ca.pem"), authority.issuer.pem()).unwrap();
        authority
    }

    /// A file of its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The path of a file as TOML.
    pub fn toml(&self, name: &str) -> String {
        format!("{:?}", self.path(name))
    }

    /// Signs a certificate for these hosts, and writes `<name>.crt` and `<name>.key`, the certificate last.
    pub fn issue(&self, name: &str, hosts: &[&str]) {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let (cert, key) = self.sign(CertificateParams::new(hosts).unwrap());
        std::fs::write(self.path(&format!("{name}.key")), key).unwrap();
        std::fs::write(self.path(&format!("{name}.crt")), cert).unwrap();
    }

    /// A certificate for a client of this organisation and name, with its key.
    pub fn client(
        &self,
        organisation: &str,
        name: &str,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organisation);
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (cert, key) = self.sign(params);
        let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
        (cert, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
    }

    /// The same, good until then.
    pub fn client_until(&self, end: OffsetDateTime) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "ann");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = end;
        let (cert, key) = self.sign(params);
        let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
        (cert, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
    }

    /// The configuration of a TLS server for these hosts, which asks its clients for a certificate of this authority
    /// if `clients` is set.
    pub fn accept(&self, hosts: &[&str], http2: bool, clients: bool) -> TlsAcceptor {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let (cert, key) = self.sign(CertificateParams::new(hosts).unwrap());
        let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            false => builder.with_no_client_auth(),
            true => {
                let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let mut config = builder.with_single_cert(chain, key).unwrap();
        if http2 {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        TlsAcceptor::from(Arc::new(config))
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        Arc::new(roots)
    }

    fn sign(&self, params: CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// `{ cert = …, key = … }`
    pub fn files(&self, name: &str) -> String {
        let file = |end: &str| self.toml(&format!("{name}.{end}"));
        format!("{{ cert = {}, key = {} }}", file("crt"), file("key"))
    }

    /// `[[listener]]` on a free port with these certificates, and these further lines.
    pub fn listener(&self, names: &[&str], lines: &str) -> String {
        let files: Vec<String> = names.iter().map(|name| self.files(name)).collect();
        let files = files.join(", ");
        format!("[[listener]]\naddress = \"127.0.0.1:0\"\ncertificates = [{files}]\n{lines}")
    }

    /// A client that trusts it and offers HTTP/1.1.
    pub fn trusting(&self) -> TlsClient {
        TlsClient {
            roots: self.roots(),
            identity: None,
            alpn: vec![b"http/1.1".to_vec()],
            tls12: false,
            resuming: None,
        }
    }
}

/// The offer of a TLS client.
#[derive(Clone)]
pub struct TlsClient {
    roots: Arc<RootCertStore>,
    identity: Option<Arc<(CertificateDer<'static>, PrivateKeyDer<'static>)>>,
    alpn: Vec<Vec<u8>>,
    tls12: bool,
    /// The store of sessions to be resumed.
    resuming: Option<Arc<ClientConfig>>,
}

impl TlsClient {
    /// With this certificate.
    pub fn showing(mut self, identity: (CertificateDer<'static>, PrivateKeyDer<'static>)) -> Self {
        self.identity = Some(Arc::new(identity));
        self
    }

    /// With these protocols.
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        self
    }

    /// TLS 1.2 alone.
    pub fn tls12(mut self) -> Self {
        self.tls12 = true;
        self
    }

    /// Takes up the sessions of earlier connections. What it offers stays as it is now.
    pub fn resuming(mut self) -> Self {
        let mut config = self.config();
        config.resumption = Resumption::in_memory_sessions(16);
        self.resuming = Some(Arc::new(config));
        self
    }

    fn config(&self) -> ClientConfig {
        let versions: &[_] = if self.tls12 { &[&TLS12] } else { &[&TLS13, &TLS12] };
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let mut config = match self.identity.as_deref() {
            Some((cert, key)) => builder.with_client_auth_cert(vec![cert.clone()], key.clone_key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config.resumption = Resumption::disabled();
        config
    }

    /// Connects for this host.
    pub async fn connect(&self, to: SocketAddr, host: &str) -> io::Result<TlsStream<TcpStream>> {
        self.over(TcpStream::connect(to).await?, host).await
    }

    /// The same over a connection that is there.
    pub async fn over<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        host: &str,
    ) -> io::Result<TlsStream<S>> {
        let name = ServerName::try_from(host.to_owned()).unwrap();
        TlsConnector::from(self.resuming.clone().unwrap_or_else(|| Arc::new(self.config())))
            .connect(name, stream)
            .await
    }

    /// The OCSP response that the server passes on in a handshake. The certificate itself is not verified.
    pub async fn staple(&self, to: SocketAddr, host: &str) -> Vec<u8> {
        let mut config = self.config();
        let staple = Arc::new(Staple(Mutex::default()));
        config.dangerous().set_certificate_verifier(staple.clone());
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let stream = TcpStream::connect(to).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let staple = staple.0.lock().unwrap();
        staple.clone()
    }

    /// GET by a connection of its own.
    pub async fn get(&self, to: SocketAddr, host: &str, path: &str) -> Reply {
        self.get_with(to, host, path, &[]).await
    }

    /// The same, with these fields.
    pub async fn get_with(&self, to: SocketAddr, host: &str, path: &str, fields: &[(&str, &str)]) -> Reply {
        let stream = self.connect(to, host).await.unwrap_or_else(|error| panic!("no TLS: {error}"));
        exchange(stream, request("GET", host, path, fields)).await
    }
}

/// Remembers the OCSP response, and takes any certificate.
#[derive(Debug)]
struct Staple(Mutex<Vec<u8>>);

impl ServerCertVerifier for Staple {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = ocsp.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A request of HTTP/1.1 without a body.
pub fn request(method: &str, host: &str, path: &str, fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header("host", host);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(Full::default()).unwrap()
}

/// One request of HTTP/1.1 over a connection.
pub async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Reply
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.unwrap_or_else(|error| panic!("no answer: {error}"));
    let reply = collect(response).await;
    driver.abort();
    reply
}

/// A connection of HTTP/2; ends when it is dropped.
#[derive(Debug)]
pub struct Http2 {
    /// Sends requests, many at once.
    pub sender: http2::SendRequest<Full<Bytes>>,
    driver: tokio::task::JoinHandle<hyper::Result<()>>,
}

impl Http2 {
    /// Over this stream, which has negotiated it or knows.
    pub async fn over<S>(stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        Self { sender, driver: tokio::spawn(connection) }
    }

    /// By TLS and ALPN.
    pub async fn connect(client: &TlsClient, to: SocketAddr, host: &str) -> Self {
        let stream = client.clone().alpn(&["h2"]).connect(to, host).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Self::over(stream).await
    }

    /// A request, answered as a whole.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> hyper::Result<Reply> {
        Ok(collect(self.sender.clone().send_request(request).await?).await)
    }

    /// GET of `https://<host><path>`.
    pub async fn get(&self, host: &str, path: &str) -> Reply {
        self.send(of_http2("GET", host, path, Bytes::new())).await.unwrap()
    }

    /// Waits for the server to end the connection.
    pub async fn ended(self) -> hyper::Result<()> {
        self.driver.await.unwrap()
    }
}

/// A request of HTTP/2.
pub fn of_http2(method: &str, host: &str, path: &str, body: Bytes) -> Request<Full<Bytes>> {
    let uri = format!("https://{host}{path}");
    Request::builder().method(method).uri(uri).body(Full::new(body)).unwrap()
}

async fn collect(response: http::Response<hyper::body::Incoming>) -> Reply {
    let (head, body) = response.into_parts();
    let headers: HeaderMap = head.headers;
    Reply { status: head.status, headers, body: body.collect().await.unwrap().to_bytes() }
}
