//! States as server-sent events (HTML Living Standard, 9.2): encoded once, sent to all who watch.

use super::cursor::{push_id, StateTag};
use crate::representation::Body;
use bytes::Bytes;
use std::{io::Write as _, sync::Arc};

/// The content of a state is no text in UTF-8: an event can't carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotText;

/// One state of an entry, as an event.
#[derive(Debug)]
pub struct LiveEvent {
    tag: StateTag,
    /// The id of a stream that watches this entry alone.
    id: Arc<str>,
    /// The event with its id, as a chunk of HTTP/1.1 (RFC 9112, 7.1). The other forms are slices of it.
    chunk: Bytes,
    /// Where the event begins and its id line begins in the chunk.
    begin: usize,
    id_at: usize,
}

impl LiveEvent {
    /// Encodes a state: one `data` line for each line of it.
    ///
    /// # Errors
    /// If it is no text.
    pub fn encode(name: &str, body: &Body, version: Option<&str>) -> Result<Self, NotText> {
        let content = body.to_bytes();
        let text = std::str::from_utf8(&content).map_err(|_| NotText)?;
        let tag = StateTag::of(body);
        let mut event = Vec::with_capacity(content.len() + name.len() + 80);
        push_line(&mut event, b"event", name.as_bytes());
        push_data(&mut event, text);
        let id_at = event.len();
        let mut id = Vec::with_capacity(StateTag::LENGTH + 32);
        push_id(&mut id, tag, version);
        push_line(&mut event, b"id", &id);
        event.push(b'\n');
        let chunk = to_chunk(&event);
        let begin = chunk.len() - event.len() - 2;
        let id = String::from_utf8_lossy(&id).into();
        Ok(Self { tag, id, chunk, begin, id_at: begin + id_at })
    }

    /// The tag of the state.
    pub fn tag(&self) -> StateTag {
        self.tag
    }

    /// The id of a stream that watches this entry alone; a part of the id of one that watches several.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The whole event as a chunk of HTTP/1.1.
    pub fn chunk(&self) -> Bytes {
        self.chunk.clone()
    }

    /// The whole event.
    pub fn whole(&self) -> Bytes {
        self.chunk.slice(self.begin..self.chunk.len() - 2)
    }

    /// The event without its id and its end, for a stream that watches several entries.
    pub fn without_id(&self) -> Bytes {
        self.chunk.slice(self.begin..self.id_at)
    }
}

/// A line `name: value`. The value must not hold a line end.
pub(super) fn push_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// A `data` line for each line of a text. CR, LF and CRLF end a line.
fn push_data(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    loop {
        let end = memchr::memchr2(b'\r', b'\n', rest);
        push_line(out, b"data", &rest[..end.unwrap_or(rest.len())]);
        let Some(end) = end else { return };
        let length = if rest[end..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = &rest[end + length..];
    }
}

/// An event of the gateway's own, without an id: the client's cursor stays as it is. `data` is one line.
pub fn notice(name: &str, data: &str) -> Bytes {
    let mut event = Vec::with_capacity(name.len() + data.len() + 20);
    push_line(&mut event, b"event", name.as_bytes());
    push_line(&mut event, b"data", data.as_bytes());
    event.push(b'\n');
    event.into()
}

/// The time after which a client comes back, in milliseconds, for its `EventSource`.
pub fn retry_after(milliseconds: u64) -> Bytes {
    Bytes::from(format!("retry: {milliseconds}\n\n"))
}

/// Frames bytes as a chunk of HTTP/1.1 (RFC 9112, 7.1).
pub fn to_chunk(content: &[u8]) -> Bytes {
    let mut chunk = Vec::with_capacity(content.len() + 20);
    // Writing to a Vec can't fail.
    write!(chunk, "{:x}\r\n", content.len()).unwrap_or_default();
    chunk.extend_from_slice(content);
    chunk.extend_from_slice(b"\r\n");
    chunk.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(text: &str) -> LiveEvent {
        LiveEvent::encode("metric_update", &Body::from(text.as_bytes().to_vec()), Some("7")).unwrap()
    }

    /// Reads an event as the standard says a client does.
    fn data_of(event: &[u8]) -> String {
        let text = std::str::from_utf8(event).unwrap();
        let lines = text.split('\n').filter_map(|line| line.strip_prefix("data: "));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_state_is_an_event_with_a_line_for_each_of_its_lines() {
        let event = encoded("{\n  \"total\": 7\r\n}");
        let id = event.id().clone();
        let expected =
            format!("event: metric_update\ndata: {{\ndata:   \"total\": 7\ndata: }}\nid: {id}\n\n");
        assert_eq!(event.whole(), expected.as_bytes());
        assert_eq!(event.chunk(), format!("{:x}\r\n{expected}\r\n", expected.len()).as_bytes());
        assert!(expected.as_bytes().starts_with(&event.without_id()));
        assert!(event.without_id().ends_with(b"}\n"));
        assert!(id.ends_with("@7") && id.starts_with(&event.tag().to_string()));
    }

    #[test]
    fn equal_content_has_one_tag_and_bytes_that_are_no_text_are_refused() {
        assert_eq!(encoded("{}").tag(), encoded("{}").tag());
        assert_ne!(encoded("{}").tag(), encoded("{} ").tag());
        let broken = LiveEvent::encode("m", &Body::from(vec![b'a', 0xff]), None);
        assert_eq!(broken.err(), Some(NotText));
    }

    #[test]
    fn notices_have_no_id() {
        assert_eq!(notice("ping", "{\"interval\":15}"), &b"event: ping\ndata: {\"interval\":15}\n\n"[..]);
        assert_eq!(retry_after(5_000), &b"retry: 5000\n\n"[..]);
    }

    proptest! {
        #[test]
        fn a_text_comes_out_with_its_line_ends_made_equal(text in "[a-z \u{e9}\u{0}\r\n:]{0,60}") {
            let plain = text.replace("\r\n", "\n").replace('\r', "\n");
            prop_assert_eq!(data_of(&encoded(&text).whole()), plain);
        }
    }
}
