//! WebSockets byte by byte: a server and a client that shake hands and leave the rest to the test.

use super::{Gateway, GatewayBuilder, SOON};
use futures_util::{SinkExt, StreamExt};
use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tokio_tungstenite::{
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{frame::coding::CloseCode, CloseFrame, Role, WebSocketConfig},
        Error,
    },
    WebSocketStream,
};

/// A server whose connections are upgraded and then handed to a function of the test's.
pub struct SocketServer {
    address: SocketAddr,
    server: AbortHandle,
}

impl SocketServer {
    /// Starts it on a free port. The function gets the connection and the head of the handshake.
    pub async fn start<F, Fut>(serve: F) -> Self
    where
        F: Fn(TcpStream, String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = Arc::new(serve);
        let serving = tokio::spawn(async move {
            // Dropped with this task, and every connection with it.
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let serve = serve.clone();
                connections.spawn(async move {
                    stream.set_nodelay(true).unwrap();
                    let Some(head) = head(&mut stream).await else { return };
                    let key = head.lines().find_map(|line| {
                        let (name, value) = line.split_once(": ")?;
                        name.eq_ignore_ascii_case("sec-websocket-key").then_some(value)
                    });
                    let accept = derive_accept_key(key.unwrap_or_default().as_bytes());
                    let answer = format!(
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Accept: {accept}\r\n\r\n"
                    );
                    if stream.write_all(answer.as_bytes()).await.is_ok() {
                        serve(stream, head).await;
                    }
                });
            }
        });
        Self { address, server: serving.abort_handle() }
    }

    /// `http://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for SocketServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A gateway that lets everything through to a server of WebSockets.
pub async fn through_to(server: SocketAddr) -> Gateway {
    GatewayBuilder::new(&format!("http://{server}")).route("/*", "websocket = {}").start().await
}

/// Echoes messages of any size, and tells who breaks the rules by which code. Returns when it has nothing more to say.
pub async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> WebSocketStream<S> {
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    loop {
        let code = match socket.next().await {
            Some(Ok(message)) if message.is_text() || message.is_binary() => {
                drop(socket.send(message).await);
                continue;
            }
            Some(Ok(_)) => continue,
            Some(Err(Error::Utf8(_))) => CloseCode::Invalid,
            Some(Err(Error::Protocol(_) | Error::Capacity(_))) => CloseCode::Protocol,
            Some(Err(_)) | None => return socket,
        };
        drop(socket.close(Some(CloseFrame { code, reason: "".into() })).await);
        return socket;
    }
}

/// The head of a message, byte by byte up to its end; `None` where the peer closes before.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// The lines of a well-formed handshake.
pub const HANDSHAKE: [&str; 5] = [
    "Host: dash.example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// A request for `path` with these lines.
pub fn request(path: &str, lines: &[&str]) -> String {
    format!("GET {path} HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"))
}

/// Shakes hands, with further lines in the head: the connection behind the answer's head, and that head.
pub async fn open(to: SocketAddr, path: &str, lines: &[&str]) -> (TcpStream, String) {
    let lines = [&HANDSHAKE[..], lines].concat();
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(request(path, &lines).as_bytes()).await.unwrap();
    let head = timeout(SOON, head(&mut stream)).await.expect("an answer").expect("a whole head");
    (stream, head.to_ascii_lowercase())
}

/// [`open`], where the answer has to be a 101.
pub async fn opened(to: SocketAddr, path: &str) -> TcpStream {
    let (stream, head) = open(to, path, &[]).await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
    stream
}

/// A frame: its first byte, its payload, and the mask where a client sends it. The length stands in the shortest form.
pub fn frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut out = vec![first];
    match payload.len() {
        n if n < 126 => out.push(masked | u8::try_from(n).unwrap()),
        n if n < 65_536 => {
            out.push(masked | 126);
            out.extend_from_slice(&u16::try_from(n).unwrap().to_be_bytes());
        }
        n => {
            out.push(masked | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    let key = mask.unwrap_or_default();
    out.extend(mask.iter().flatten());
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

/// A close frame's payload.
pub fn reason(code: u16, text: &str) -> Vec<u8> {
    [&code.to_be_bytes(), text.as_bytes()].concat()
}

/// Everything up to the end; that it comes within [`SOON`] is part of it.
pub async fn to_the_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // A reset is an end as well: what came before it counts.
    drop(timeout(SOON, stream.read_to_end(&mut all)).await.expect("the connection ends"));
    all
}

/// Exactly so many bytes.
pub async fn exactly(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut all = vec![0; bytes];
    timeout(SOON, stream.read_exact(&mut all)).await.expect("the bytes come").expect("all of them");
    all
}
