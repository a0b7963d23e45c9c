//! The clients of the tests: reqwest for well-formed requests, raw TCP for the others.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use std::{io::Read, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A complete answer. `Debug` shows it for failure messages.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, as it was sent (still encoded).
    pub body: Bytes,
}

impl Reply {
    /// A header's text, or `""`.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// All lines of a header, joined.
    pub fn all(&self, name: &str) -> String {
        self.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>().join(", ")
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// `Cache-Status`
    pub fn cache_status(&self) -> &str {
        self.header("cache-status")
    }

    /// Returns true if the answer came from the cache, fresh or stale.
    pub fn is_hit(&self) -> bool {
        self.cache_status().split(';').skip(1).any(|parameter| parameter.trim() == "hit")
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: no JSON in {self:?}"))
    }

    /// The origin's sequence number in the default JSON.
    pub fn seq(&self) -> u64 {
        self.json()["seq"].as_u64().unwrap_or_else(|| panic!("no seq in {self:?}"))
    }

    /// The body after `Content-Encoding`.
    pub fn decoded(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self.header("content-encoding") {
            "" => out.extend_from_slice(&self.body),
            "gzip" => drop(flate2::read::GzDecoder::new(&self.body[..]).read_to_end(&mut out).unwrap()),
            "br" => drop(brotli::Decompressor::new(&self.body[..], 4096).read_to_end(&mut out).unwrap()),
            "zstd" => out = zstd::decode_all(&self.body[..]).unwrap(),
            other => panic!("unknown encoding {other}"),
        }
        out
    }

    /// Holds if the status is 200.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{self:?}");
        self
    }

    /// Holds if this is a JSON problem (RFC 9457) with this status, in the head and in the body.
    #[track_caller]
    pub fn problem(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let body = self.json();
        assert_eq!(body["status"], status, "{self:?}");
        assert!(body["title"].as_str().is_some_and(|title| !title.is_empty()), "{self:?}");
        self
    }
}

/// Sends and reads the whole answer; a connection that breaks is an error.
pub async fn try_send(request: reqwest::RequestBuilder) -> reqwest::Result<Reply> {
    let mut response = request.send().await?;
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    let body = response.bytes().await?;
    Ok(Reply { status, headers, body })
}

/// [`try_send`], where an error fails the test.
pub async fn send(request: reqwest::RequestBuilder) -> Reply {
    try_send(request).await.unwrap_or_else(|error| panic!("no answer: {error:?}"))
}

/// The pooled HTTP/1.1 client of the tests: no redirects, no decoding, no proxy.
pub fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap()
}

/// An answer over a raw connection.
#[derive(Debug, Clone)]
pub struct Raw {
    /// The status of the first answer; 0 where the peer closed without one.
    pub status: u16,
    /// The head of the first answer, lower-cased.
    pub head: String,
    /// The bytes after the head.
    pub body: String,
}

/// Writes `request` and reads one answer: until its `Content-Length` is there, or the end of the connection.
pub async fn raw_exchange(to: SocketAddr, request: &[u8]) -> Raw {
    let exchange = async {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let (mut from, mut into) = stream.split();
        let mut read = Vec::new();
        // Who refuses a request may do so before having read all of it: write and read side by side.
        let write = async {
            // A refusal closes the connection under the writer.
            drop(into.write_all(request).await);
            std::future::pending::<()>().await;
        };
        let answer = async {
            let mut chunk = [0; 16 * 1024];
            while !is_complete(&read) {
                match from.read(&mut chunk).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => read.extend_from_slice(&chunk[..n]),
                }
            }
        };
        tokio::select! { () = write => {} () = answer => {} }
        read
    };
    let read = tokio::time::timeout(Duration::from_secs(20), exchange).await.unwrap_or_else(|_| {
        panic!("no answer to {:?}", String::from_utf8_lossy(&request[..request.len().min(200)]))
    });
    let text = String::from_utf8_lossy(&read).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Raw { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

fn is_complete(read: &[u8]) -> bool {
    let Some(end) = read.windows(4).position(|w| w == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    length.is_some_and(|length| read.len() >= end + 4 + length)
}
