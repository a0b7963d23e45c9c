//! Whether a request wants to watch: `Accept: text/event-stream`, or `Prefer: wait` (RFC 7240).

use http::{header, HeaderMap, HeaderName};
use std::time::Duration;

/// RFC 7240
pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");

/// The media type of a stream of events.
pub(crate) const EVENT_STREAM: &str = "text/event-stream";

/// How a request wants to learn of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LiveWish {
    /// As events, on a response that goes on.
    Stream,
    /// By an answer that may wait for this long.
    Wait(Duration),
}

impl LiveWish {
    /// The wish of a request with these fields.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        if headers.get_all(header::ACCEPT).iter().any(|line| names_event_stream(line.as_bytes())) {
            return Some(Self::Stream);
        }
        let waits = headers.get_all(PREFER).iter().find_map(|line| wait_of(line.to_str().ok()?));
        waits.map(Self::Wait)
    }
}

/// Returns true if `Accept` names streams of events; `*/*` doesn't.
pub(crate) fn names_event_stream(accept: &[u8]) -> bool {
    accept.split(|byte| *byte == b',').any(|range| {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let is_named = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(EVENT_STREAM.as_bytes()));
        let is_zero = |weight: &[u8]| {
            let value = weight.strip_prefix(b"q=").or_else(|| weight.strip_prefix(b"Q="));
            value.is_some_and(|value| value.iter().all(|byte| matches!(byte, b'0' | b'.')))
        };
        is_named && !parts.any(is_zero)
    })
}

/// The `wait` of a `Prefer` line. The first one counts (RFC 7240, 2).
fn wait_of(line: &str) -> Option<Duration> {
    line.split(',')
        .find_map(|preference| {
            let named = preference.split(';').next().unwrap_or_default();
            let (name, value) = named.split_once('=')?;
            let seconds = value.trim().trim_matches('"').parse::<u32>();
            name.trim().eq_ignore_ascii_case("wait").then(|| seconds.ok()).flatten()
        })
        .map(|seconds| Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(name: &'static str, value: &'static str) -> Option<LiveWish> {
        let headers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
        LiveWish::of(&headers)
    }

    #[test]
    fn a_stream_has_to_be_asked_for_by_its_name() {
        for accept in [
            "text/event-stream",
            "Text/Event-Stream",
            "text/html, text/event-stream;q=0.5",
            "text/event-stream ; charset=utf-8",
        ] {
            assert_eq!(wish("accept", accept), Some(LiveWish::Stream), "{accept}");
        }
        for accept in [
            "*/*",
            "text/*",
            "application/json",
            "text/event-stream;q=0",
            "text/event-stream; q=0.0",
            "text/event-streams",
        ] {
            assert_eq!(wish("accept", accept), None, "{accept}");
        }
    }

    #[test]
    fn a_wait_is_read_as_the_preference_says() {
        let waits = |seconds| Some(LiveWish::Wait(Duration::from_secs(seconds)));
        assert_eq!(wish("prefer", "wait=25"), waits(25));
        assert_eq!(wish("prefer", "respond-async, Wait = \"10\"; x=y"), waits(10));
        assert_eq!(wish("prefer", "wait=0"), waits(0));
        for prefer in ["", "wait", "wait=", "wait=-1", "wait=1.5", "waits=3", "return=minimal"] {
            assert_eq!(wish("prefer", prefer), None, "{prefer}");
        }
    }
}
