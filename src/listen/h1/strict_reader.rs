//! The strict reader: lets only HTTP/1.1 pass that all parsers frame alike. It runs before Pingora's parser.
//!
//! Pingora's parser accepts more than RFC 9112 allows: line ends without CR, targets with blanks (which it
//! escapes), lists of lengths, any bytes in a chunk extension, a chunk without a size. A proxy in front of
//! the gateway, or an origin behind it, may frame the same bytes differently (request smuggling). So only the
//! strict form passes: at the first fault the bytes end, `REJECTED_BYTES`, which no parser accepts, is put in
//! their place, and the connection is closed.
//!
//! The checks of methods, targets and lengths are in `request_syntax.rs`.
//!
//! Pure: bytes in, the number of bytes that may pass out. It doesn't interpret requests, and leaves faults to
//! the parser that the parser refuses by itself (characters of names and values, folded lines).

use crate::{
    limits::request::{MAX_FIELDS, MAX_HEAD_BYTES},
    listen::request_syntax::{
        check_request, is_confusable, is_token_byte, is_value_byte, trim_blanks, HeadFault, RequestFraming,
        MALFORMED_HEAD,
    },
};

use http::StatusCode;
use memchr::memchr;

/// Bytes for the parser in place of refused ones: a syntax error in any position.
pub(crate) const REJECTED_BYTES: &[u8] = b"\r\0";

/// The longest line with the size of a chunk, in bytes.
const MAX_SIZE_LINE: usize = 1024;

/// The framing state of a connection's requests.
#[derive(Debug, Default)]
pub struct StrictReader {
    state: ReaderState,
    /// The part of the current line that has come.
    line: Vec<u8>,
    /// The number of bytes of the head, or of the trailers, that have come.
    size: usize,
    fields: usize,
    framing: RequestFraming,
    /// The number of heads that have passed.
    heads: u32,
    /// The index of the request for a WebSocket that has not been answered.
    asked: Option<u32>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ReaderState {
    /// Before a request, and before the empty line that is allowed there.
    #[default]
    Start,
    StartAgain,
    Fields,
    /// Within a body of known length; the number of bytes that are still to come.
    Length(u64),
    Size,
    /// Within a chunk; the number of bytes that are still to come.
    Chunk(u64),
    ChunkCr,
    ChunkLf,
    Trailers,
    /// After a request for a WebSocket, until it is answered.
    Asked,
    /// The connection has switched protocols.
    Free,
    Refused(HeadFault),
}

impl StrictReader {
    /// The number of these bytes that may pass. If it is less than all of them, no later ones may.
    pub fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            match self.step(&bytes[at..]) {
                Ok(taken) => at += taken,
                Err(fault) => {
                    self.state = ReaderState::Refused(fault);
                    self.line = Vec::new();
                    return at;
                }
            }
        }
        at
    }

    /// Returns true between requests, if no byte of the next one has come and no WebSocket is awaited.
    pub(crate) fn is_at_start(&self) -> bool {
        self.state == ReaderState::Start && self.line.is_empty() && self.asked.is_none()
    }

    /// Returns true if no part of a body is expected: the next bytes belong to a head.
    pub(crate) fn is_between_bodies(&self) -> bool {
        matches!(self.state, ReaderState::Start | ReaderState::StartAgain | ReaderState::Fields)
            && self.asked.is_none()
    }

    /// Counts a request that didn't pass through here, since answers are counted as well.
    pub(crate) fn passed_by(&mut self) {
        self.heads = self.heads.wrapping_add(1);
    }

    /// The status of the refusal, if there was one.
    pub(crate) fn refused(&self) -> Option<StatusCode> {
        match self.state {
            ReaderState::Refused(status) => Some(status),
            _ => None,
        }
    }

    /// Returns true if a WebSocket has been requested, and not answered yet.
    pub(crate) fn asks(&self) -> bool {
        self.asked.is_some()
    }

    /// Returns true if [`Self::answer`] has to see the answer to this request, counted from 0.
    pub(crate) fn awaits_answer(&self, request: u32) -> bool {
        self.asked == Some(request)
    }

    /// Notes the head of an answer to a request for a WebSocket.
    pub(crate) fn answer(&mut self, head: &[u8]) {
        let Some(status) = head.strip_prefix(b"HTTP/1.1 ").or_else(|| head.strip_prefix(b"HTTP/1.0 ")) else {
            return;
        };
        if status.starts_with(b"101") {
            self.asked = None;
            if self.refused().is_none() {
                self.state = ReaderState::Free;
            }
        } else if !status.starts_with(b"1") {
            self.asked = None;
            if self.state == ReaderState::Asked {
                self.state = ReaderState::Start;
            }
        }
    }

    /// Processes some bytes, at least one; returns their number.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, HeadFault> {
        match self.state {
            ReaderState::Start
            | ReaderState::StartAgain
            | ReaderState::Fields
            | ReaderState::Size
            | ReaderState::Trailers => self.line(bytes),
            ReaderState::Length(left) => {
                let (taken, left) = skip_bytes(bytes, left);
                self.state = ReaderState::Length(left);
                if left == 0 {
                    self.end_message();
                }
                Ok(taken)
            }
            ReaderState::Chunk(left) => {
                let (taken, left) = skip_bytes(bytes, left);
                self.state = if left == 0 { ReaderState::ChunkCr } else { ReaderState::Chunk(left) };
                Ok(taken)
            }
            ReaderState::ChunkCr if bytes[0] == b'\r' => {
                self.state = ReaderState::ChunkLf;
                Ok(1)
            }
            ReaderState::ChunkLf if bytes[0] == b'\n' => {
                self.state = ReaderState::Size;
                Ok(1)
            }
            // RFC 6455, 4.1: a client waits for the answer. Bytes before it could be meant for either
            // protocol.
            ReaderState::ChunkCr | ReaderState::ChunkLf | ReaderState::Asked => Err(MALFORMED_HEAD),
            ReaderState::Free => Ok(bytes.len()),
            ReaderState::Refused(fault) => Err(fault),
        }
    }

    /// Processes bytes up to the end of a line, or all of them.
    fn line(&mut self, bytes: &[u8]) -> Result<usize, HeadFault> {
        let end = memchr(b'\n', bytes);
        let piece = &bytes[..end.unwrap_or(bytes.len())];
        let (come, most, fault) = match self.state {
            ReaderState::Start | ReaderState::StartAgain => {
                (self.size, MAX_HEAD_BYTES, StatusCode::URI_TOO_LONG)
            }
            ReaderState::Size => (self.line.len(), MAX_SIZE_LINE, MALFORMED_HEAD),
            _ => (self.size, MAX_HEAD_BYTES, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        };
        if come + piece.len() > most {
            return Err(fault);
        }
        self.size += piece.len() + usize::from(end.is_some());
        if end.is_some() && self.line.is_empty() {
            self.check_whole_line(piece)?;
        } else {
            self.line.extend_from_slice(piece);
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                self.check_whole_line(&line)?;
            }
        }
        Ok(piece.len() + usize::from(end.is_some()))
    }

    /// Processes a whole line, without its LF.
    fn check_whole_line(&mut self, line: &[u8]) -> Result<(), HeadFault> {
        let line = line.strip_suffix(b"\r").ok_or(MALFORMED_HEAD)?;
        match self.state {
            // RFC 9112, 2.2: an empty line before a request is ignored.
            ReaderState::Start if line.is_empty() => self.state = ReaderState::StartAgain,
            ReaderState::Start | ReaderState::StartAgain => {
                self.framing =
                    RequestFraming { http_10: check_request_line(line)?, ..RequestFraming::default() };
                self.state = ReaderState::Fields;
            }
            ReaderState::Fields if line.is_empty() => self.end_head()?,
            ReaderState::Fields => {
                self.fields += 1;
                if self.fields > MAX_FIELDS {
                    return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
                }
                let (name, value) = split_field(line)?;
                self.framing.field(name, value)?;
            }
            ReaderState::Size => {
                self.state = parse_chunk_size(line)?;
                self.size = 0;
            }
            ReaderState::Trailers if line.is_empty() => self.end_message(),
            ReaderState::Trailers => check_trailer(line)?,
            _ => return Err(MALFORMED_HEAD),
        }
        Ok(())
    }

    fn end_head(&mut self) -> Result<(), HeadFault> {
        let RequestFraming { http_10, length, chunked, websocket } = self.framing;
        // RFC 9112, 6.1: HTTP/1.0 has no transfer codings, and a length beside chunks indicates smuggling.
        if chunked && (http_10 || length.is_some()) {
            return Err(MALFORMED_HEAD);
        }
        (self.size, self.fields) = (0, 0);
        self.asked = (websocket && !http_10).then_some(self.heads);
        self.heads = self.heads.wrapping_add(1);
        match length {
            _ if chunked => self.state = ReaderState::Size,
            Some(length) if length > 0 => self.state = ReaderState::Length(length),
            _ => self.end_message(),
        }
        Ok(())
    }

    fn end_message(&mut self) {
        self.size = 0;
        self.state = if self.asked.is_some() { ReaderState::Asked } else { ReaderState::Start };
    }
}

/// Checks a request line; returns true for HTTP/1.0.
fn check_request_line(line: &[u8]) -> Result<bool, HeadFault> {
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(MALFORMED_HEAD);
    };
    check_request(method, target)?;
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(StatusCode::HTTP_VERSION_NOT_SUPPORTED)
        }
        _ => Err(MALFORMED_HEAD),
    }
}

/// A field's name and its value, without surrounding whitespace.
fn split_field(line: &[u8]) -> Result<(&[u8], &[u8]), HeadFault> {
    let colon = memchr(b':', line).filter(|at| *at > 0).ok_or(MALFORMED_HEAD)?;
    if matches!(line[0], b' ' | b'\t') {
        return Err(MALFORMED_HEAD);
    }
    Ok((&line[..colon], trim_blanks(&line[colon + 1..])))
}

/// Parses the size line of a chunk (RFC 9112, 7.1), and returns the next state.
fn parse_chunk_size(line: &[u8]) -> Result<ReaderState, HeadFault> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at(digits);
    let extension = trim_blanks(rest);
    let extended = extension.first() == Some(&b';') && extension.iter().all(|b| is_value_byte(*b));
    if !(1..=15).contains(&digits) || !(rest.is_empty() || extended) {
        return Err(MALFORMED_HEAD);
    }
    let value = |digit: &u8| u64::from(char::from(*digit).to_digit(16).unwrap_or(0));
    match size.iter().fold(0, |size, digit| size << 4 | value(digit)) {
        0 => Ok(ReaderState::Trailers),
        size => Ok(ReaderState::Chunk(size)),
    }
}

/// Checks a trailer. Trailers are dropped (RFC 9110, 6.5.1); one that frames a message is refused.
fn check_trailer(line: &[u8]) -> Result<(), HeadFault> {
    let (name, value) = split_field(line)?;
    let sound = name.iter().all(|b| is_token_byte(*b)) && value.iter().all(|b| is_value_byte(*b));
    let frames = [&b"content-length"[..], b"transfer-encoding", b"host"];
    match sound && !frames.iter().any(|f| f.len() == name.len() && is_confusable(name, f)) {
        true => Ok(()),
        false => Err(MALFORMED_HEAD),
    }
}

/// Returns the number of bytes that belong to `left`, and the number that is left after them.
fn skip_bytes(bytes: &[u8], left: u64) -> (usize, u64) {
    let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    (taken, left - taken as u64)
}

#[cfg(test)]
#[path = "strict_reader_tests.rs"]
mod tests;
