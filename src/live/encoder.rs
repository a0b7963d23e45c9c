//! The coding of a stream: its events as they are, or in gzip.

use super::{
    event::{DeflatedEvent, FramedContent, LiveEvent},
    gzip::{push_stored, ContentSum, StreamSum, GZIP_HEADER},
};

/// The coding of one stream's content.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum StreamEncoder {
    /// As it is.
    #[default]
    Plain,
    /// In gzip.
    Gzip(StreamSum),
}

impl StreamEncoder {
    /// The beginning of a stream in gzip.
    pub(crate) fn gzip() -> Self {
        Self::Gzip(StreamSum::default())
    }

    /// Returns true if the content is encoded.
    pub(crate) fn is_gzip(&self) -> bool {
        matches!(self, Self::Gzip(_))
    }

    /// The bytes before the first event.
    pub(crate) fn header(&self) -> Option<&'static [u8]> {
        self.is_gzip().then_some(&GZIP_HEADER)
    }

    /// The event of a stream that watches one entry, in a form that was made for all if there is one.
    pub(crate) fn event(&mut self, event: &LiveEvent) -> FramedContent {
        match (&mut *self, event.deflated()) {
            (Self::Plain, _) => event.whole().clone(),
            (Self::Gzip(sum), Some(deflated)) => {
                sum.add(&deflated.whole.1);
                deflated.whole.0.clone()
            }
            (Self::Gzip(_), None) => {
                let mut out = Vec::with_capacity(event.whole().length() + 20);
                self.push_text(&mut out, &event.whole().content());
                FramedContent::new(&out)
            }
        }
    }

    /// Appends an event without its id and its end.
    pub(crate) fn push_event(&mut self, out: &mut Vec<u8>, event: &LiveEvent) {
        match (&mut *self, event.deflated()) {
            (Self::Gzip(sum), Some(DeflatedEvent { without_id: (blocks, content), .. })) => {
                sum.add(content);
                out.extend_from_slice(blocks);
            }
            _ => self.push_text(out, &event.without_id()),
        }
    }

    /// Appends text that is this stream's own.
    pub(crate) fn push_text(&mut self, out: &mut Vec<u8>, text: &[u8]) {
        match self {
            Self::Plain => out.extend_from_slice(text),
            Self::Gzip(sum) => {
                sum.add(&ContentSum::of(text));
                push_stored(out, text);
            }
        }
    }

    /// Appends the bytes behind the last event.
    pub(crate) fn push_trailer(&self, out: &mut Vec<u8>) {
        if let Self::Gzip(sum) = self {
            out.extend_from_slice(&sum.trailer());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::representation::Body;
    use std::io::Read;

    /// All that a stream of this coding sends: a state, a notice, and the state without and with its id.
    fn sent(mut encoder: StreamEncoder, event: &LiveEvent) -> Vec<u8> {
        let mut out = encoder.header().unwrap_or_default().to_vec();
        out.extend_from_slice(&encoder.event(event).content());
        encoder.push_text(&mut out, b"event: ping\n\n");
        encoder.push_event(&mut out, event);
        encoder.push_text(&mut out, b"id: 1,2\n\n");
        out.extend_from_slice(&encoder.event(event).content());
        encoder.push_trailer(&mut out);
        out
    }

    #[test]
    fn a_stream_in_gzip_holds_what_a_plain_one_holds() {
        for (content, is_deflated) in [(r#"{"a":1}"#.repeat(500), true), ("{}".to_owned(), false)] {
            let event = LiveEvent::encode("kpi", &Body::from(content.into_bytes()), Some("7")).unwrap();
            let plain = sent(StreamEncoder::Plain, &event);
            let decoded = |stream: &[u8]| {
                let mut content = Vec::new();
                flate2::read::GzDecoder::new(stream).read_to_end(&mut content).unwrap();
                content
            };
            let stored = sent(StreamEncoder::gzip(), &event);
            assert!(event.is_plain());
            assert_eq!(decoded(&stored), plain);
            event.deflate(6);
            assert!(!event.is_plain());
            assert_eq!(event.deflated().is_some(), is_deflated);
            let deflated = sent(StreamEncoder::gzip(), &event);
            assert_eq!(decoded(&deflated), plain);
            assert_eq!(
                deflated.len() < plain.len() / 5,
                is_deflated,
                "{} of {}",
                deflated.len(),
                plain.len()
            );
        }
    }
}
