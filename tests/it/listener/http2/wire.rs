//! A connection of HTTP/2 with nothing between the test and its frames.

use super::*;
use tokio::io::{AsyncRead, AsyncWrite};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

/// A frame as it came.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

/// A connection, with TLS or without.
trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// The client's end of a connection.
pub(super) struct Wire {
    stream: Box<dyn Duplex>,
    read: Vec<u8>,
}

impl Wire {
    /// Connects, and says what has to be said first.
    pub(super) async fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream).await
    }

    /// The same by TLS.
    pub(super) async fn connect_by_tls(client: &TlsClient, to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(client.clone().alpn(&["h2"]).over(stream, HOST).await.unwrap()).await
    }

    async fn over(stream: impl Duplex + 'static) -> Self {
        let mut wire = Self { stream: Box::new(stream), read: Vec::new() };
        wire.send(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()).await;
        wire
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        assert!(self.try_send(bytes).await, "the server has hung up");
    }

    /// Sends, where the server may have hung up.
    pub(super) async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// The next frame; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let [a, b, c, kind, _, s, t, u, v, rest @ ..] = &self.read[..] {
                let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
                if let Some(payload) = rest.get(..length) {
                    let (kind, stream) = (*kind, u32::from_be_bytes([*s, *t, *u, *v]));
                    let payload = payload.to_vec();
                    self.read.drain(..9 + length);
                    return Some(Frame { kind, stream, payload });
                }
            }
            let mut piece = [0; 4_096];
            match timeout(2 * SOON, self.stream.read(&mut piece)).await.unwrap() {
                Ok(n) if n > 0 => self.read.extend_from_slice(&piece[..n]),
                _ => return None,
            }
        }
    }

    /// The outcome of a stream: the head of its answer, or the code of its reset.
    pub(super) async fn outcome(&mut self, stream: u32) -> Outcome {
        loop {
            let Some(frame) = self.next().await else { return Outcome::Ended };
            match frame.kind {
                HEADERS if frame.stream == stream => return Outcome::Answered(frame.payload),
                RST_STREAM if frame.stream == stream => {
                    return Outcome::Reset(u32::from_be_bytes(frame.payload.try_into().unwrap()));
                }
                GOAWAY if frame.payload[4..8] != [0; 4] => return Outcome::Ended,
                _ => {}
            }
        }
    }

    /// The reason of the GOAWAY that ends the connection.
    pub(super) async fn farewell(&mut self) -> Option<u32> {
        let mut said = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                said = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
            }
        }
        said
    }
}

/// The outcome of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The fields of the head, packed.
    Answered(Vec<u8>),
    Reset(u32),
    /// With its connection.
    Ended,
}

impl Outcome {
    /// Returns true if it is an answer of this status, the first on its connection.
    pub(super) fn is(&self, status: u16) -> bool {
        // By the static table, or by one of its names and Huffman's code (RFC 7541).
        let begins: &[u8] = match status {
            200 => &[0x88],
            400 => &[0x8c],
            405 => &[0x48, 0x83, 0x68, 0x0d, 0xff],
            408 => &[0x48, 0x83, 0x68, 0x0f, 0x7f],
            501 => &[0x48, 0x82, 0x6c, 0x01],
            503 => &[0x48, 0x83, 0x6c, 0x0c, 0xff],
            _ => panic!("how is {status} packed?"),
        };
        matches!(self, Self::Answered(fields) if fields.starts_with(begins))
    }
}

/// A field, packed as a literal.
pub(super) fn field(name: &str, value: &[u8]) -> Vec<u8> {
    let length = |text: &[u8]| u8::try_from(text.len()).ok().filter(|n| *n < 127).unwrap();
    [&[0, length(name.as_bytes())], name.as_bytes(), &[length(value)], value].concat()
}

/// The fields of a request.
pub(super) fn request(method: &str, path: &[u8], fields: &[(&str, &[u8])]) -> Vec<u8> {
    let begin = [(":method", method.as_bytes()), (":scheme", b"http"), (":path", path), (":authority", b"a")];
    begin.iter().chain(fields).flat_map(|(name, value)| field(name, value)).collect()
}

/// A GET of this path, whole.
pub(super) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET", path.as_bytes(), &[]))
}
