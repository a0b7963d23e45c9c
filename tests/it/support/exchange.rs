//! A connection that sends bytes as they are, and reads one answer after another.

use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status line and the fields, as they came.
    pub head: String,
    pub body: Vec<u8>,
    /// True if the connection has ended.
    pub last: bool,
}

impl Reply {
    /// All lines of a field.
    pub fn lines(&self, name: &str) -> Vec<&str> {
        let fields = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    pub fn line(&self, name: &str) -> &str {
        self.lines(name).first().copied().unwrap_or_default()
    }

    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    pub fn is_hit(&self) -> bool {
        self.line("cache-status") == "tidegate; hit"
    }

    /// Returns true if the origin was asked for it.
    pub fn is_forwarded(&self) -> bool {
        self.line("cache-status").contains("fwd=")
    }

    /// The head without what may differ between two answers: the values of `Date`, `Age` and an id that was made here.
    pub fn masked(&self) -> String {
        let made = |value: &str| value.len() == 24 && value.bytes().all(|b| b.is_ascii_hexdigit());
        let line = |line: &str| match line.split_once(": ") {
            Some((name @ ("Date" | "Age"), _)) => format!("{name}: …"),
            Some((name, value)) if name.eq_ignore_ascii_case("x-request-id") && made(value) => {
                format!("{name}: made")
            }
            _ => line.to_owned(),
        };
        self.head.split("\r\n").map(line).collect::<Vec<_>>().join("\n")
    }

    /// The body, without the id that refusals name in it.
    pub fn bare_body(&self) -> Vec<u8> {
        let text = String::from_utf8_lossy(&self.body);
        match self.line("x-request-id") {
            id if self.status() >= 400 && !id.is_empty() => text.replace(id, "id").into_bytes(),
            _ => self.body.clone(),
        }
    }

    pub fn age(&self) -> Option<i64> {
        self.line("age").parse().ok()
    }

    pub fn date(&self) -> Option<i64> {
        let date = httpdate::parse_http_date(self.line("date")).ok()?;
        i64::try_from(date.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs()).ok()
    }
}

/// A connection that is opened when it is needed.
pub struct Wire {
    to: SocketAddr,
    stream: Option<TcpStream>,
    read: Vec<u8>,
}

impl Wire {
    pub fn new(to: SocketAddr) -> Self {
        Self { to, stream: None, read: Vec::new() }
    }

    /// Sends pieces, each by itself.
    pub async fn send(&mut self, pieces: &[&[u8]]) {
        if self.stream.is_none() {
            let stream = TcpStream::connect(self.to).await.unwrap();
            stream.set_nodelay(true).unwrap();
            self.stream = Some(stream);
        }
        for (n, piece) in pieces.iter().enumerate() {
            if n > 0 {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            // Who refuses a request may close the connection before the rest of it.
            drop(self.stream.as_mut().unwrap().write_all(piece).await);
        }
    }

    /// Reads an answer to a request of this method.
    pub async fn receive(&mut self, is_head: bool) -> Reply {
        let reading = async {
            loop {
                let reply = self.read_one(is_head).await;
                // Behind an interim answer comes the other one.
                if reply.status() != 100 || reply.last {
                    return reply;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reading).await.expect("an answer in time")
    }

    async fn read_one(&mut self, is_head: bool) -> Reply {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if !self.more().await {
                let head = String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned();
                return Reply { head, body: Vec::new(), last: true };
            }
        };
        let head = String::from_utf8(self.read.drain(..end + 4).take(end).collect()).unwrap();
        let mut reply = Reply { head, body: Vec::new(), last: false };
        let length = reply.line("content-length").parse::<usize>().ok();
        if reply.status() == 100 {
            // It has no body.
        } else if !is_head && reply.line("transfer-encoding").eq_ignore_ascii_case("chunked") {
            reply.body = self.chunks().await;
        } else if !is_head && !matches!(reply.status(), 204 | 304) {
            while length.is_none_or(|length| self.read.len() < length) && self.more().await {}
            let take = length.unwrap_or(self.read.len()).min(self.read.len());
            reply.body = self.read.drain(..take).collect();
        }
        if reply.line("connection").eq_ignore_ascii_case("close") {
            while self.more().await {}
            // The refusal of what could not be read as HEAD has a body.
            reply.body.append(&mut self.read);
            self.stream = None;
            reply.last = true;
        }
        reply
    }

    /// The content of a body in chunks.
    async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                match self.read.windows(2).position(|w| w == b"\r\n") {
                    Some(at) => break at,
                    None if self.more().await => {}
                    None => return body,
                }
            };
            let size = String::from_utf8_lossy(&self.read[..line]).into_owned();
            let size = usize::from_str_radix(&size, 16).expect("the size of a chunk");
            while self.read.len() < line + 2 + size + 2 {
                if !self.more().await {
                    return body;
                }
            }
            body.extend_from_slice(&self.read[line + 2..line + 2 + size]);
            self.read.drain(..line + 2 + size + 2);
            if size == 0 {
                return body;
            }
        }
    }

    async fn more(&mut self) -> bool {
        let Some(stream) = self.stream.as_mut() else { return false };
        let mut chunk = [0; 32 * 1024];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => {
                self.stream = None;
                false
            }
            Ok(n) => {
                self.read.extend_from_slice(&chunk[..n]);
                true
            }
        }
    }
}
