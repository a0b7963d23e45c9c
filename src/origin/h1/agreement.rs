//! Checks that answers are parsed consistently, for arbitrary input. Not used while the gateway serves: the
//! fuzz targets (`fuzz/`) and its own tests call it.
//!
//! An answer is the same however its bytes are cut, and the same that Pingora's client and httparse read.

use super::{
    chunks::{ChunkDecoder, ChunkPiece},
    head::{self, BodyFraming},
};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use httparse::Status;
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_http::RequestHeader;
use tokio::io::{duplex, AsyncWriteExt};

/// The most positions at which the bytes are cut.
const CUTS: usize = 64;
/// The most interim answers before the final one.
const MOST_INTERIM: usize = 8;

/// Parses a server's bytes, up to the end of its connection, as the answer to a request with this method.
///
/// # Panics
/// If the result depends on where the bytes are cut, or differs from that of the other parsers.
pub fn on_answers(bytes: &[u8], method: &Method) {
    let whole = read([bytes], method);
    for cut in (0..bytes.len()).step_by(bytes.len() / CUTS + 1) {
        whole.agrees(&read([&bytes[..cut], &bytes[cut..]], method), bytes.len());
    }
    whole.agrees(&read(bytes.chunks(1), method), bytes.len());
    on_heads(bytes, method);
}

/// Parses chunks.
///
/// # Panics
/// If the result depends on where the bytes are cut, or differs from httparse's.
pub fn on_chunks(bytes: &[u8]) {
    let whole = chunked([bytes]);
    for cut in (0..bytes.len()).step_by(bytes.len() / CUTS + 1) {
        whole.agrees(&chunked([&bytes[..cut], &bytes[cut..]]), bytes.len());
    }
    whole.agrees(&chunked(bytes.chunks(1)), bytes.len());
    if whole.end != ReadEnd::Broken {
        let read = reference(bytes);
        assert!(read.as_ref().is_none_or(|read| *read == whole.body), "{read:?}, {:?}", whole.body);
    }
}

/// The result of parsing.
#[derive(Debug, Default)]
struct ReadBody {
    heads: Vec<(StatusCode, HeaderMap)>,
    keeps: bool,
    body: Vec<u8>,
    /// The number of bytes that are left.
    rest: usize,
    end: ReadEnd,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ReadEnd {
    /// The connection ended before the answer did.
    #[default]
    Early,
    Whole,
    Broken,
}

impl ReadBody {
    fn agrees(&self, other: &Self, length: usize) {
        assert_eq!(self.end, other.end);
        assert_eq!((&self.heads, self.keeps), (&other.heads, other.keeps));
        if self.end == ReadEnd::Broken {
            // Bytes before the fault may have been returned already.
            assert!(other.body.starts_with(&self.body) || self.body.starts_with(&other.body));
        } else {
            assert_eq!((&self.body, self.rest), (&other.body, other.rest));
        }
        assert!(self.body.len() + self.rest <= length);
    }
}

/// Parses an answer as `Connection` does, without the socket.
fn read<'b>(pieces: impl IntoIterator<Item = &'b [u8]>, method: &Method) -> ReadBody {
    let (mut read, mut input, mut pieces) = (ReadBody::default(), Bytes::new(), pieces.into_iter());
    let head = loop {
        match (!input.is_empty()).then(|| head::take_head(&mut input, method)) {
            Some(Err(_)) => {
                read.end = ReadEnd::Broken;
                return read;
            }
            Some(Ok(Some(head))) => {
                read.heads.push((head.head.status, head.head.headers.clone()));
                if !head.head.status.is_informational() {
                    break head;
                }
            }
            None | Some(Ok(None)) => {
                let Some(piece) = pieces.next() else { return read };
                let mut more = head::reopen(std::mem::take(&mut input));
                more.extend_from_slice(piece);
                input = more.freeze();
            }
        }
    };
    read.keeps = head.keeps;
    let left: Vec<Bytes> = std::iter::once(input).chain(pieces.map(Bytes::copy_from_slice)).collect();
    match head.end {
        BodyFraming::Chunks => {
            let chunks = chunked(left.iter().map(|piece| &piece[..]));
            (read.body, read.rest, read.end) = (chunks.body, chunks.rest, chunks.end);
        }
        BodyFraming::Connection => {
            read.body = left.concat();
            read.end = ReadEnd::Whole;
        }
        BodyFraming::Length(length) => {
            let mut all = left.concat();
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            read.end = if length <= all.len() { ReadEnd::Whole } else { ReadEnd::Early };
            read.rest = all.split_off(length.min(all.len())).len();
            read.body = all;
        }
    }
    read
}

fn chunked<'b>(pieces: impl IntoIterator<Item = &'b [u8]>) -> ReadBody {
    let (mut read, mut chunks) = (ReadBody::default(), ChunkDecoder::default());
    for piece in pieces {
        if chunks.has_ended() {
            read.rest += piece.len();
            continue;
        }
        let mut input = Bytes::copy_from_slice(piece);
        loop {
            match chunks.next(&mut input) {
                Ok(ChunkPiece::Piece(piece)) => {
                    assert!(!piece.is_empty());
                    read.body.extend_from_slice(&piece);
                }
                // More is read only if nothing is left.
                Ok(ChunkPiece::More) => break assert!(input.is_empty()),
                Ok(ChunkPiece::End) => break,
                Err(_) => {
                    read.end = ReadEnd::Broken;
                    return read;
                }
            }
        }
        read.rest += input.len();
        if chunks.has_ended() {
            read.end = ReadEnd::Whole;
        }
    }
    read
}

/// The content of the chunks as far as they have come, with httparse's parser for the sizes. `None`: it
/// refuses one, as it does for too many digits or for some extensions.
fn reference(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let (line, size) = match httparse::parse_chunk_size(bytes) {
            Ok(Status::Complete(read)) => read,
            Ok(Status::Partial) => return Some(body),
            Err(_) => return None,
        };
        bytes = &bytes[line..];
        let size = usize::try_from(size).unwrap_or(usize::MAX).min(bytes.len());
        body.extend_from_slice(&bytes[..size]);
        if size == 0 {
            return Some(body);
        }
        let (end, rest) = bytes[size..].split_at((bytes.len() - size).min(2));
        assert!(b"\r\n".starts_with(end), "{end:?} behind a chunk");
        bytes = rest;
    }
}

/// Checks that the same heads are accepted and refused as by Pingora's client.
fn on_heads(bytes: &[u8], method: &Method) {
    let mut input = Bytes::copy_from_slice(bytes);
    for _ in 0..MOST_INTERIM {
        let before = input.clone();
        let ours = head::take_head(&mut input, method);
        let theirs = of_pingora(&before, method);
        let read = match ours {
            Ok(Some(read)) => read,
            Ok(None) | Err(_) => return assert!(theirs.is_none(), "Pingora reads {theirs:?}"),
        };
        assert!(before.ends_with(&input) && input.len() < before.len());
        let status = read.head.status;
        assert_eq!(theirs, Some((status, read.head.headers.clone())));
        if !status.is_informational() {
            return;
        }
    }
}

/// The first head, as Pingora's client parses it.
fn of_pingora(bytes: &[u8], method: &Method) -> Option<(StatusCode, HeaderMap)> {
    let reading = async {
        let (near, mut far) = duplex(bytes.len() + 1024);
        far.write_all(bytes).await.ok()?;
        far.shutdown().await.ok()?;
        let mut session = HttpSession::new(Box::new(near));
        let request = RequestHeader::build(method.clone(), b"/", None).ok()?;
        session.write_request_header(Box::new(request)).await.ok()?;
        session.read_response().await.ok()?;
        let head = session.resp_header()?;
        Some((head.status, head.headers.clone()))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().ok()?;
    runtime.block_on(reading)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prelude::*, sample::select};

    proptest! {
        #[test]
        fn answers_are_read_in_one_way(
            pieces in prop::collection::vec(select(vec![
                "HTTP/1.1 200 OK\r\n", "HTTP/1.0 404 X\r\n", "HTTP/1.1 103 \r\n", "HTTP/1.1 204\r\n", "HTTP/1.1 600 X\n",
                "Content-Length: 3\r\n", "Content-Length: 3, 3\r\n", "Content-Length: +3\r\n", "Connection: close\r\n",
                "Transfer-Encoding: chunked\r\n", "Transfer-Encoding: gzip\r\n", "X: y\r\n", "X : y\r\n", " folded\r\n",
                "\r\n", "\n", "\r", " ", ":", "\0", "\u{e9}", "abc", "3\r\nabc\r\n", "3;x\r\nabc\r\n", "0\r\n\r\n",
            ]), 0..12),
            is_head: bool,
        ) {
            let method = if is_head { Method::HEAD } else { Method::GET };
            on_answers(pieces.concat().as_bytes(), &method);
        }

        #[test]
        fn chunks_are_read_in_one_way(
            pieces in prop::collection::vec(select(vec![
                "3\r\nabc\r\n", "0\r\n", "\r\n", "3", "A", ";x=y\r\n", " ;\r\n", "\r", "\n", "abc", "X: y\r\n", "g",
                "fffffffffffffff", "00000000",
            ]), 0..12),
        ) {
            on_chunks(pieces.concat().as_bytes());
        }
    }
}
