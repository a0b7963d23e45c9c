//! A request over a connection of its own, read piece by piece: interim answers, the moment of each byte, and whether the
//! body ended or broke off. What reqwest hides is what the tests of streaming are about.

use super::SOON;
use bytes::{Buf, Bytes, BytesMut};
use std::{fmt::Debug, future::Future, io, net::SocketAddr};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpSocket,
    time::timeout,
};

/// One head, interim or final.
#[derive(Debug, Clone)]
pub struct Head {
    /// Its status.
    pub status: u16,
    /// All of it, lower-cased.
    pub text: String,
}

impl Head {
    /// A header's value, lower-cased, if it is there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.text.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key == name).then(|| value.trim())
        })
    }
}

/// The end of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As its framing says.
    Clean,
    /// The connection ended before.
    Broken,
}

/// The rest of the body, according to its framing.
#[derive(Debug)]
enum Left {
    Length(u64),
    /// In this chunk, with the line end that closes it; `None` before the first chunk.
    Chunk(Option<u64>),
    /// Up to the end of the connection, which says that it will end.
    Connection,
    Nothing,
}

/// A connection.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Debug {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Debug> Stream for S {}

/// One request and its answer.
#[derive(Debug)]
pub struct Transfer {
    stream: Box<dyn Stream>,
    read: BytesMut,
    left: Left,
}

impl Transfer {
    /// Connects and asks; reads nothing yet.
    pub async fn ask(to: SocketAddr, path: &str) -> Self {
        Self::ask_with(to, path, &[]).await
    }

    /// The same, with these fields as they are written here, `Connection` and its like included.
    pub async fn ask_with(to: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Self {
        Self::with_socket(TcpSocket::new_v4().unwrap(), to, path, "1.1", fields).await
    }

    /// The same, by HTTP/1.0.
    pub async fn ask_http10(to: SocketAddr, path: &str) -> Self {
        Self::with_socket(TcpSocket::new_v4().unwrap(), to, path, "1.0", &[]).await
    }

    /// The same, from a client for whom the kernel keeps next to nothing.
    pub async fn ask_narrowly(to: SocketAddr, path: &str) -> Self {
        Self::ask_narrowly_with(to, path, &[]).await
    }

    /// The same, with these fields.
    pub async fn ask_narrowly_with(to: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self::with_socket(socket, to, path, "1.1", fields).await
    }

    async fn with_socket(
        socket: TcpSocket,
        to: SocketAddr,
        path: &str,
        version: &str,
        fields: &[(&str, &str)],
    ) -> Self {
        let stream = socket.connect(to).await.unwrap();
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("GET {path} HTTP/{version}\r\nHost: {to}\r\n{fields}\r\n");
        Self::over(stream, &head).await
    }

    /// A request as it is written here, over this connection.
    pub async fn over<S>(mut stream: S, request: &str) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + Debug + 'static,
    {
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        Self { stream: Box::new(stream), read: BytesMut::new(), left: Left::Nothing }
    }

    /// The next head: of an interim answer, or the final one, after which the body comes.
    pub async fn head(&mut self) -> Head {
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            assert_ne!(soon("a head", self.more()).await.unwrap(), 0, "no head, but {:?}", self.read);
        };
        let text = String::from_utf8_lossy(&self.read.split_to(end + 4)).to_ascii_lowercase();
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        let head = Head { status: status.unwrap_or_else(|| panic!("no status in {text}")), text };
        if head.status >= 200 {
            self.left = match (head.header("transfer-encoding"), head.header("content-length")) {
                (Some("chunked"), None) => Left::Chunk(None),
                (None, Some(length)) => Left::Length(length.parse().unwrap()),
                (None, None) if head.header("connection") == Some("close") => Left::Connection,
                _ => panic!("nothing tells where the body ends: {}", head.text),
            };
        }
        head
    }

    /// The final head; interim ones are skipped.
    pub async fn final_head(&mut self) -> Head {
        loop {
            let head = self.head().await;
            if head.status >= 200 {
                return head;
            }
        }
    }

    /// The next piece of the body, as it comes; an error is how it ended.
    pub async fn piece(&mut self) -> Result<Bytes, End> {
        soon("a piece of the body", self.next_piece()).await
    }

    /// All that comes of the body from here, and how it ended.
    pub async fn rest(&mut self) -> (Vec<u8>, End) {
        let mut body = Vec::new();
        loop {
            match self.piece().await {
                Ok(piece) => body.extend_from_slice(&piece),
                Err(end) => return (body, end),
            }
        }
    }

    async fn next_piece(&mut self) -> Result<Bytes, End> {
        loop {
            while self.begin_chunk() {}
            let here = match self.left {
                Left::Nothing | Left::Length(0) => return Err(End::Clean),
                Left::Length(left) => left,
                Left::Connection => u64::MAX,
                // The line end that closes a chunk is two bytes, and no part of the body.
                Left::Chunk(left) => left.map_or(0, |left| left - 2),
            };
            let len = self.read.len().min(usize::try_from(here).unwrap_or(usize::MAX));
            if len > 0 {
                if let Left::Length(left) | Left::Chunk(Some(left)) = &mut self.left {
                    *left -= len as u64;
                }
                return Ok(self.read.split_to(len).freeze());
            }
            match (self.more().await, &self.left) {
                (Ok(1..), _) => {}
                (Ok(0), Left::Connection) => return Err(End::Clean),
                _ => return Err(End::Broken),
            }
        }
    }

    /// Where a chunk is over: reads past its end and the next one's size, if they are there.
    fn begin_chunk(&mut self) -> bool {
        let close = match self.left {
            Left::Chunk(None) => 0,
            Left::Chunk(Some(2)) => 2,
            _ => return false,
        };
        let Some(line) =
            self.read.get(close..).and_then(|rest| rest.windows(2).position(|two| two == b"\r\n"))
        else {
            return false;
        };
        let size = std::str::from_utf8(&self.read[close..close + line]).unwrap();
        let size = u64::from_str_radix(size, 16).unwrap_or_else(|_| panic!("no size of a chunk: {size:?}"));
        if size == 0 {
            // Without trailers one more line end closes the body.
            let end = close + line + 4;
            if self.read.len() < end {
                return false;
            }
            assert_eq!(&self.read[end - 2..end], b"\r\n", "trailers");
            self.read.advance(end);
            self.left = Left::Nothing;
        } else {
            self.read.advance(close + line + 2);
            self.left = Left::Chunk(Some(size + 2));
        }
        true
    }

    async fn more(&mut self) -> io::Result<usize> {
        self.read.reserve(64 * 1024);
        self.stream.read_buf(&mut self.read).await
    }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.unwrap_or_else(|_| panic!("not within {SOON:?}: {what}"))
}
