//! States as server-sent events (HTML Living Standard, 9.2): encoded once, sent to all who watch.

use super::{
    cursor::{push_id, StateTag},
    gzip::{deflate, push_stored, ContentSum},
};
use crate::representation::Body;
use bytes::Bytes;
use std::{
    io::Write as _,
    sync::{Arc, OnceLock},
};

/// The content of a state is no text in UTF-8: an event can't carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotText;

/// Content in a chunk of HTTP/1.1 (RFC 9112, 7.1), and without it.
#[derive(Debug, Clone)]
pub(crate) struct FramedContent {
    chunk: Bytes,
    /// The position of the content in the chunk.
    begin: usize,
}

impl FramedContent {
    /// Frames content.
    pub(crate) fn new(content: &[u8]) -> Self {
        let mut chunk = Vec::with_capacity(content.len() + 20);
        // Writing to a Vec can't fail.
        write!(chunk, "{:x}\r\n", content.len()).unwrap_or_default();
        let begin = chunk.len();
        chunk.extend_from_slice(content);
        chunk.extend_from_slice(b"\r\n");
        Self { chunk: chunk.into(), begin }
    }

    /// The chunk of HTTP/1.1.
    pub(crate) fn chunk(&self) -> &Bytes {
        &self.chunk
    }

    /// The content.
    pub(crate) fn content(&self) -> Bytes {
        self.chunk.slice(self.begin..self.chunk.len() - 2)
    }

    /// The length of the content, in bytes.
    pub(crate) fn length(&self) -> usize {
        self.chunk.len() - 2 - self.begin
    }
}

/// One state of an entry, as an event.
#[derive(Debug)]
pub(crate) struct LiveEvent {
    tag: StateTag,
    /// The id of a stream that watches this entry alone.
    id: Arc<str>,
    /// The event with its id.
    whole: FramedContent,
    /// The position of its id line.
    id_at: usize,
    /// The event in gzip, once somebody watches who takes it. `None`: it would be no shorter.
    deflated: OnceLock<Option<DeflatedEvent>>,
}

/// An event as deflate blocks.
#[derive(Debug)]
pub(crate) struct DeflatedEvent {
    /// The event with its id, which is a stored block, and the sum of its content.
    pub whole: (FramedContent, ContentSum),
    /// The event without its id.
    pub without_id: (Bytes, ContentSum),
}

impl LiveEvent {
    /// Encodes a state: one `data` line for each line of it.
    ///
    /// # Errors
    /// If it is no text.
    pub(crate) fn encode(name: &str, body: &Body, version: Option<&str>) -> Result<Self, NotText> {
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
        let id = String::from_utf8_lossy(&id).into();
        Ok(Self { tag, id, whole: FramedContent::new(&event), id_at, deflated: OnceLock::new() })
    }

    /// The tag of the state.
    pub(crate) fn tag(&self) -> StateTag {
        self.tag
    }

    /// The id of a stream that watches this entry alone; a part of the id of one that watches several.
    pub(crate) fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The whole event.
    pub(crate) fn whole(&self) -> &FramedContent {
        &self.whole
    }

    /// The event without its id and its end, for a stream that watches several entries.
    pub(crate) fn without_id(&self) -> Bytes {
        self.whole.content().slice(..self.id_at)
    }

    /// The event in gzip, if it was compressed.
    pub(crate) fn deflated(&self) -> Option<&DeflatedEvent> {
        self.deflated.get()?.as_ref()
    }

    /// Returns true if nobody has tried to compress the event.
    pub(crate) fn is_plain(&self) -> bool {
        self.deflated.get().is_none()
    }

    /// Compresses the event, once for all streams in gzip.
    pub(crate) fn deflate(&self, level: u32) {
        self.deflated.get_or_init(|| {
            let (content, without_id) = (self.whole.content(), self.without_id());
            let blocks = deflate(&without_id, level)?;
            let mut whole = Vec::with_capacity(blocks.len() + content.len() - without_id.len() + 5);
            whole.extend_from_slice(&blocks);
            push_stored(&mut whole, &content[self.id_at..]);
            Some(DeflatedEvent {
                whole: (FramedContent::new(&whole), ContentSum::of(&content)),
                without_id: (blocks, ContentSum::of(&without_id)),
            })
        });
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
pub(crate) fn notice(name: &str, data: &str) -> Bytes {
    let mut event = Vec::with_capacity(name.len() + data.len() + 20);
    push_line(&mut event, b"event", name.as_bytes());
    push_line(&mut event, b"data", data.as_bytes());
    event.push(b'\n');
    event.into()
}

/// The time after which a client comes back, in milliseconds, for its `EventSource`.
pub(crate) fn retry_after(milliseconds: u64) -> Bytes {
    Bytes::from(format!("retry: {milliseconds}\n\n"))
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
        assert_eq!(event.whole().content(), expected.as_bytes());
        assert_eq!(event.whole().length(), expected.len());
        assert_eq!(event.whole().chunk(), format!("{:x}\r\n{expected}\r\n", expected.len()).as_bytes());
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
            prop_assert_eq!(data_of(&encoded(&text).whole().content()), plain);
        }
    }
}
