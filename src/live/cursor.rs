//! The cursor of a stream: the short tags of the states that a client has, as `id` and `Last-Event-ID`.
//!
//! It needs no history. The tag is made of the content alone, so that it means the same after a restart and
//! on another node, and equal bytes are never sent twice.

use crate::representation::Body;
use std::fmt;

/// The longest version that an id shows, in bytes.
const MAX_VERSION: usize = 64;

/// The short tag of a state: the first 64 bits of the hash of its content, the beginning of the `ETag` that the
/// gateway gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct StateTag(u64);

impl StateTag {
    /// The number of characters of its text.
    pub(crate) const LENGTH: usize = 16;

    /// The tag of this content.
    pub(crate) fn of(body: &Body) -> Self {
        // The cast takes the upper half.
        Self((body.hash() >> 64) as u64)
    }

    /// Reads the text of a tag; what stands behind an `@` is the version, which is for people.
    fn parse(text: &[u8]) -> Option<Self> {
        let tag = text.split(|byte| *byte == b'@').next().unwrap_or_default();
        let hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        if tag.len() != Self::LENGTH || !tag.iter().all(hex) {
            return None;
        }
        std::str::from_utf8(tag).ok().and_then(|tag| u64::from_str_radix(tag, 16).ok()).map(Self)
    }
}

impl fmt::Display for StateTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The states that a client says it has, in the order of the entries that it watches.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct WatchCursor(Vec<Option<StateTag>>);

impl WatchCursor {
    /// Reads a `Last-Event-ID` for this number of entries. An id that can't be placed says nothing: the client
    /// gets the current states.
    pub(crate) fn parse(id: &[u8], entries: usize) -> Self {
        let tags: Vec<_> = id.split(|byte| *byte == b',').take(entries + 1).map(StateTag::parse).collect();
        match tags.len() == entries {
            true => Self(tags),
            false => Self::default(),
        }
    }

    /// The state of an entry that the client has.
    pub(crate) fn of(&self, entry: usize) -> Option<StateTag> {
        self.0.get(entry).copied().flatten()
    }
}

/// Writes the part of an id that one entry has: the tag, and the version if it is text for one line.
pub(super) fn push_id(out: &mut Vec<u8>, tag: StateTag, version: Option<&str>) {
    out.extend_from_slice(tag.to_string().as_bytes());
    let plain = |version: &&str| {
        version.len() <= MAX_VERSION && version.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if let Some(version) = version.filter(plain) {
        out.push(b'@');
        out.extend_from_slice(version.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tag(text: &'static str) -> StateTag {
        StateTag::of(&Body::from(text.as_bytes().to_vec()))
    }

    #[test]
    fn an_id_comes_back_as_the_states_that_it_names() {
        let (kpi, chart) = (tag("kpi"), tag("chart"));
        let mut id = Vec::new();
        push_id(&mut id, kpi, Some("1764547200123"));
        id.push(b',');
        push_id(&mut id, chart, Some("odd\nversion"));
        let cursor = WatchCursor::parse(&id, 2);
        assert_eq!((cursor.of(0), cursor.of(1), cursor.of(2)), (Some(kpi), Some(chart), None));
        assert!(!id.contains(&b'\n'));
    }

    #[test]
    fn an_id_that_can_not_be_placed_says_nothing() {
        let one = tag("one").to_string();
        for id in ["", "x", "1764547200-0", &one.to_uppercase(), &one[1..], &format!("{one},{one}")] {
            assert_eq!(WatchCursor::parse(id.as_bytes(), 1).of(0), None, "{id}");
        }
        let partly = WatchCursor::parse(format!("nothing,{one}").as_bytes(), 2);
        assert_eq!((partly.of(0), partly.of(1)), (None, Some(tag("one"))));
    }

    proptest! {
        #[test]
        fn no_id_breaks_it(id in prop::collection::vec(any::<u8>(), 0..200), entries in 0_usize..9) {
            let cursor = WatchCursor::parse(&id, entries);
            prop_assert!((entries..entries + 3).all(|at| cursor.of(at).is_none()));
        }
    }
}
