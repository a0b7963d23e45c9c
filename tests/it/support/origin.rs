//! The test origin: a programmable HTTP server that counts and records what it is asked.
//!
//! Built on hyper itself, so that killing it takes every connection along, as the death of a process would.
//! Besides what a test programs it knows three paths: `/ws/echo` (WebSocket), `/upload` (reports bytes and hash of
//! a streamed body) and `/download?bytes=N&seed=S` (streams [`super::noise`]).

use super::{
    answer::{Answer, Seen},
    hex, noise,
};
use bytes::Bytes;
use futures_util::{SinkExt, Stream, StreamExt};
use http::{header, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{combinators::UnsyncBoxBody, BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        atomic::{AtomicU64, AtomicUsize, Ordering},
        Arc, Mutex,
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    tungstenite::{handshake::derive_accept_key, protocol::Role},
    WebSocketStream,
};

type Handler = Arc<dyn Fn(&Seen) -> Answer + Send + Sync>;

/// The protocol of an origin.
#[derive(Clone, Default)]
pub struct Spoken {
    /// On this socket, not on a port.
    pub unix: Option<PathBuf>,
    /// By TLS.
    pub tls: Option<TlsAcceptor>,
    /// HTTP/2 with prior knowledge; with TLS, HTTP/2 where the client asks for it.
    pub http2: bool,
}

struct State {
    connections: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    ends: Mutex<Vec<(String, Instant)>>,
    sent: Mutex<HashMap<String, Sent>>,
    handlers: Mutex<HashMap<String, Handler>>,
    number: AtomicU64,
    held: AtomicUsize,
    holding: watch::Sender<bool>,
}

/// The progress of streamed bodies.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// When the first byte went.
    pub begun: Instant,
    /// The number of bytes sent.
    pub bytes: u64,
}

/// The server and what it has seen.
pub struct TestOrigin {
    address: SocketAddr,
    spoken: Spoken,
    state: Arc<State>,
    server: Option<AbortHandle>,
}

impl TestOrigin {
    /// Starts an origin on a free port.
    pub async fn start() -> Self {
        Self::start_as(Spoken::default()).await
    }

    /// Starts an origin that is spoken to in this way.
    pub async fn start_as(spoken: Spoken) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let state = Arc::new(State {
            connections: AtomicUsize::new(0),
            seen: Mutex::default(),
            ends: Mutex::default(),
            sent: Mutex::default(),
            handlers: Mutex::default(),
            number: AtomicU64::new(0),
            held: AtomicUsize::new(0),
            holding: watch::Sender::new(false),
        });
        let address = listener.local_addr().unwrap();
        let mut origin = Self { address, spoken, state, server: None };
        origin.serve(listener);
        origin
    }

    /// `http://127.0.0.1:<port>`, `https://…` or `unix:…`
    pub fn url(&self) -> String {
        match &self.spoken {
            Spoken { unix: Some(path), .. } => format!("unix:{}", path.display()),
            Spoken { tls: Some(_), .. } => format!("https://{}", self.address),
            _ => format!("http://{}", self.address),
        }
    }

    /// The number of connections so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers this path (without query) so from now on.
    pub fn on(&self, path: &str, answer: impl Fn(&Seen) -> Answer + Send + Sync + 'static) {
        self.state.handlers.lock().unwrap().insert(path.to_owned(), Arc::new(answer));
    }

    /// Holds gated answers from now on.
    pub fn hold(&self) {
        self.state.holding.send_replace(true);
    }

    /// Lets the held answers go, and those to come.
    pub fn release(&self) {
        self.state.holding.send_replace(false);
    }

    /// The number of answers that are held back.
    pub fn held(&self) -> usize {
        self.state.held.load(Ordering::SeqCst)
    }

    /// The number of requests for this path (with any query).
    pub fn count(&self, path: &str) -> usize {
        self.state.seen.lock().unwrap().iter().filter(|seen| seen.path == path).count()
    }

    /// Requests by path and query and tenant, as `/x?q=1 acme`.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for seen in self.state.seen.lock().unwrap().iter() {
            let query = seen.query.as_ref().map(|q| format!("?{q}")).unwrap_or_default();
            let tenant = seen.header("x-tenant").unwrap_or("-");
            *counts.entry(format!("{}{query} {tenant}", seen.path)).or_default() += 1;
        }
        counts
    }

    /// The requests for this path, in their order.
    pub fn seen(&self, path: &str) -> Vec<Seen> {
        self.state.seen.lock().unwrap().iter().filter(|seen| seen.path == path).cloned().collect()
    }

    /// When each answer on this path ended, as the origin saw it.
    pub fn ends(&self, path: &str) -> Vec<Instant> {
        self.state.ends.lock().unwrap().iter().filter(|(p, _)| p == path).map(|(_, at)| *at).collect()
    }

    /// The progress of the newest streamed answer (chunked, broken, held or paced) on this path, if there is one.
    pub fn sent(&self, path: &str) -> Option<Sent> {
        self.state.sent.lock().unwrap().get(path).copied()
    }

    /// Forgets the requests so far (the numbers go on).
    pub fn forget(&self) {
        self.state.seen.lock().unwrap().clear();
        self.state.ends.lock().unwrap().clear();
        self.state.sent.lock().unwrap().clear();
    }

    /// Closes the port and every connection.
    pub fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
        }
    }

    /// Comes back on the same port.
    pub async fn restart(&mut self) {
        self.kill();
        let address = self.address;
        let listener = super::eventually("the origin's port is free again", super::SOON, || async move {
            TcpListener::bind(address).await.ok()
        })
        .await;
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        let (state, spoken) = (self.state.clone(), self.spoken.clone());
        let unix = spoken.unix.as_ref().map(|path| {
            // Left over from before a restart, perhaps.
            drop(std::fs::remove_file(path));
            UnixListener::bind(path).unwrap()
        });
        let server = tokio::spawn(async move {
            // Dropped with this task, and every connection with it.
            let mut connections = JoinSet::new();
            loop {
                let accepted = async {
                    match &unix {
                        Some(unix) => unix.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
                        None => listener.accept().await.map(|(stream, _)| Accepted::Tcp(stream)),
                    }
                };
                tokio::select! {
                    accepted = accepted => {
                        if let Ok(accepted) = accepted {
                            state.connections.fetch_add(1, Ordering::SeqCst);
                            connections.spawn(welcome(accepted, spoken.clone(), state.clone()));
                        }
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        self.server = Some(server.abort_handle());
    }
}

enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

async fn welcome(accepted: Accepted, spoken: Spoken, state: Arc<State>) {
    match accepted {
        Accepted::Unix(stream) => connection(stream, spoken.http2, state).await,
        Accepted::Tcp(stream) => {
            stream.set_nodelay(true).unwrap();
            let Some(tls) = spoken.tls else { return connection(stream, spoken.http2, state).await };
            // Who doesn't trust this server leaves.
            let Ok(stream) = tls.accept(stream).await else { return };
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            connection(stream, http2, state).await;
        }
    }
}

impl Drop for TestOrigin {
    fn drop(&mut self) {
        self.kill();
    }
}

type Body = UnsyncBoxBody<Bytes, io::Error>;
type Reply = Response<Body>;

async fn connection<S>(stream: S, http2: bool, state: Arc<State>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, hyper::Error>(answer(request, &state).await) }
    });
    // A client that leaves is no failure of the origin.
    if http2 {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        drop(builder.serve_connection(TokioIo::new(stream), service).await);
        return;
    }
    let served = hyper::server::conn::http1::Builder::new()
        .max_buf_size(1024 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    drop(served.await);
}

async fn answer(mut request: Request<Incoming>, state: &Arc<State>) -> Reply {
    let mut seen = Seen {
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().map(str::to_owned),
        version: request.version(),
        authority: request.uri().authority().map(ToString::to_string),
        headers: request.headers().clone(),
        body: Bytes::new(),
        number: state.number.fetch_add(1, Ordering::SeqCst) + 1,
    };
    let handler = state.handlers.lock().unwrap().get(&seen.path).cloned();
    if handler.is_none() {
        match seen.path.as_str() {
            "/ws/echo" if seen.header("upgrade").is_some() => {
                state.seen.lock().unwrap().push(seen);
                return websocket(&mut request);
            }
            "/upload" => {
                state.seen.lock().unwrap().push(seen);
                return upload(request.into_body()).await;
            }
            "/download" => {
                let reply = download(seen.query.as_deref().unwrap_or_default());
                state.seen.lock().unwrap().push(seen);
                return reply;
            }
            _ => {}
        }
    }
    match request.into_body().collect().await {
        Ok(body) => seen.body = body.to_bytes(),
        Err(_) => return empty(StatusCode::BAD_REQUEST),
    }
    state.seen.lock().unwrap().push(seen.clone());
    let answer = handler.map_or_else(|| Answer::echo(&seen), |handler| handler(&seen));
    if !answer.delay.is_zero() {
        tokio::time::sleep(answer.delay).await;
    }
    if answer.gated {
        gate(state).await;
    }
    let bare = (seen.method == Method::HEAD || answer.bare) && seen.version == Version::HTTP_2;
    let reply = deliver(answer, seen.path, state.clone());
    if bare {
        without_body(reply)
    } else {
        reply
    }
}

/// The answer to a HEAD: hyper sends its body all the same where it speaks HTTP/2.
fn without_body(reply: Reply) -> Reply {
    let (mut head, body) = reply.into_parts();
    if let Some(length) = hyper::body::Body::size_hint(&body).exact() {
        head.headers.entry(header::CONTENT_LENGTH).or_insert(length.into());
    }
    Response::from_parts(head, full(Bytes::new()))
}

/// Waits until the origin doesn't hold.
async fn gate(state: &State) {
    struct Held<'a>(&'a AtomicUsize);
    impl Drop for Held<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let mut holding = state.holding.subscribe();
    state.held.fetch_add(1, Ordering::SeqCst);
    let _held = Held(&state.held);
    drop(holding.wait_for(|holds| !holds).await);
}

fn deliver(mut answer: Answer, path: String, state: Arc<State>) -> Reply {
    if answer.rate.is_some() && !answer.chunked {
        let length = answer.parts.iter().map(Bytes::len).sum();
        answer = answer.length(length);
    }
    let has_length = answer.headers.contains_key(header::CONTENT_LENGTH);
    let (status, headers) = (answer.status, answer.headers.clone());
    let body = if answer.chunked || answer.broken || has_length {
        StreamBody::new(frames(answer, path, state)).boxed_unsync()
    } else {
        state.ends.lock().unwrap().push((path, Instant::now()));
        full(answer.parts.concat())
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The parts of an answer: each but the first waits until the origin doesn't hold, and for its time where it has one.
fn frames(answer: Answer, path: String, state: Arc<State>) -> impl Stream<Item = io::Result<Frame<Bytes>>> {
    let rate = answer.rate;
    let parts: Vec<Bytes> = match rate {
        Some(_) => answer.parts.into_iter().flat_map(pieces).collect(),
        None => answer.parts,
    };
    let mut frames: Vec<io::Result<Bytes>> = parts.into_iter().map(Ok).collect();
    if answer.broken {
        frames.push(Err(io::Error::other("the origin breaks off")));
    }
    let begin = (frames.into_iter(), None::<Sent>, state, path);
    futures_util::stream::unfold(begin, move |(mut frames, sent, state, path)| async move {
        let Some(frame) = frames.next() else {
            state.ends.lock().unwrap().push((path, Instant::now()));
            return None;
        };
        if let Some(sent) = sent {
            gate(&state).await;
            if let Some(rate) = rate {
                let due = sent.begun + Duration::from_micros(sent.bytes * 1_000_000 / rate);
                tokio::time::sleep_until(due.into()).await;
            }
        }
        let mut sent = sent.unwrap_or_else(|| Sent { begun: Instant::now(), bytes: 0 });
        sent.bytes += frame.as_ref().map_or(0, Bytes::len) as u64;
        state.sent.lock().unwrap().insert(path.clone(), sent);
        Some((frame.map(Frame::data), (frames, Some(sent), state, path)))
    })
}

/// A body in pieces of 64 KiB.
fn pieces(mut body: Bytes) -> Vec<Bytes> {
    std::iter::from_fn(|| (!body.is_empty()).then(|| body.split_to(body.len().min(64 * 1024)))).collect()
}

fn websocket(request: &mut Request<Incoming>) -> Reply {
    let Some(key) = request.headers().get("sec-websocket-key") else {
        return empty(StatusCode::BAD_REQUEST);
    };
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            let echoed = message.is_text() || message.is_binary();
            if echoed && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    for (name, value) in
        [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", &accept)]
    {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}

async fn upload(mut body: Incoming) -> Reply {
    let (mut hash, mut bytes, mut frames) = (Sha256::new(), 0_u64, 0_u64);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return empty(StatusCode::BAD_REQUEST) };
        if let Some(data) = frame.data_ref() {
            hash.update(data);
            bytes += data.len() as u64;
            frames += 1;
        }
    }
    let report = serde_json::json!({"bytes": bytes, "sha256": hex(&hash.finalize()), "frames": frames});
    let mut response = Response::new(full(report.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn download(query: &str) -> Reply {
    let parameter = |name: &str| {
        let found = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
        found.map_or(0, |(_, value)| value.parse::<u64>().unwrap())
    };
    let body = noise(usize::try_from(parameter("bytes")).unwrap(), parameter("seed"));
    let frames = pieces(body.into()).into_iter().map(|piece| Ok(Frame::data(piece)));
    Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
}

fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

fn empty(status: StatusCode) -> Reply {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}
