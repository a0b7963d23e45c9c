//! The heads of an entry's answers as bytes, for the fast lane: all that is the same each time, with holes for the rest.
//!
//! Who makes them decides what they say. Here they stand beside the entry that they belong to, under the circumstances
//! that they are good for; what the next configuration says otherwise is made anew. They are made when an answer is
//! asked for, so that an entry pays for the forms that are in use, and a few of them are kept.

use crate::representation::respond::Form;
use arc_swap::ArcSwapOption;
use http::HeaderMap;
use std::{fmt, sync::Arc};

/// So many heads of one entry are kept; where more are in use they are made anew from time to time.
const MOST: usize = 12;

/// For which answers a head is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Circumstances {
    /// The number of the configuration that it was made by.
    pub site: u32,
    /// The route's place in it.
    pub route: u32,
    /// The listener's place in it.
    pub listener: u32,
    /// In which form the content goes out.
    pub form: Form,
    /// Whether it is a 304.
    pub not_modified: bool,
    /// Whether it is for HTTP/2: fields, not bytes.
    pub http2: bool,
}

/// What differs from one answer to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hole {
    /// The value of `Date`.
    Date,
    /// The value of `Age`.
    Age,
    /// The value of `X-Request-Id`.
    RequestId,
}

/// What goes into the holes.
#[derive(Debug, Clone, Copy)]
pub struct Filling<'f> {
    /// A date as HTTP writes it.
    pub date: &'f [u8],
    /// Seconds.
    pub age: &'f [u8],
    /// The request's id.
    pub request_id: &'f [u8],
}

/// A head, from its first byte to the empty line behind it.
pub struct Head {
    /// Good for these.
    pub circumstances: Circumstances,
    /// All that is the same each time.
    pub bytes: Box<[u8]>,
    /// Where the rest belongs: rising places in `bytes`.
    pub holes: Box<[(u16, Hole)]>,
    /// For HTTP/2, in place of bytes: all its fields.
    pub fields: Option<Box<HeaderMap>>,
}

impl Head {
    /// Writes it out.
    pub fn write(&self, filling: &Filling<'_>, out: &mut Vec<u8>) {
        let mut from = 0;
        for (at, hole) in &self.holes {
            let at = usize::from(*at);
            out.extend_from_slice(self.bytes.get(from..at).unwrap_or_default());
            out.extend_from_slice(match hole {
                Hole::Date => filling.date,
                Hole::Age => filling.age,
                Hole::RequestId => filling.request_id,
            });
            from = at;
        }
        out.extend_from_slice(self.bytes.get(from..).unwrap_or_default());
    }
}

struct Link {
    head: Head,
    next: Option<Arc<Link>>,
}

/// The heads of one entry's answers, the newest first.
#[derive(Default)]
pub struct PreparedHeads(ArcSwapOption<Link>);

impl PreparedHeads {
    /// Writes the head for these circumstances. Returns whether there is one.
    pub fn write(&self, wanted: &Circumstances, filling: &Filling<'_>, out: &mut Vec<u8>) -> bool {
        let first = self.0.load();
        let found = links(first.as_ref()).find(|link| link.head.circumstances == *wanted);
        found.map(|link| link.head.write(filling, out)).is_some()
    }

    /// The fields for these circumstances, if there are any.
    pub fn fields(&self, wanted: &Circumstances) -> Option<HeaderMap> {
        let first = self.0.load();
        let found = links(first.as_ref()).find(|link| link.head.circumstances == *wanted);
        found.and_then(|link| link.head.fields.as_deref().cloned())
    }

    /// Keeps a head. Of two at the same time one may be lost, and is made again.
    pub fn keep(&self, head: Head) {
        let next = self.0.load_full().filter(|first| {
            first.head.circumstances.site == head.circumstances.site && links(Some(first)).count() < MOST
        });
        self.0.store(Some(Arc::new(Link { head, next })));
    }
}

fn links(first: Option<&Arc<Link>>) -> impl Iterator<Item = &Link> {
    std::iter::successors(first.map(|link| &**link), |link| link.next.as_deref())
}

/// A copy may be given other content.
impl Clone for PreparedHeads {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for PreparedHeads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} heads", links(self.0.load().as_ref()).count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(site: u32, route: u32, text: &[u8], holes: &[(u16, Hole)]) -> Head {
        let circumstances =
            Circumstances { site, route, listener: 0, form: Form::AsItIs, not_modified: false, http2: false };
        Head { circumstances, bytes: text.into(), holes: holes.into(), fields: None }
    }

    fn written(heads: &PreparedHeads, site: u32, route: u32) -> Option<String> {
        let wanted = head(site, route, b"", &[]).circumstances;
        let (mut out, filling) = (Vec::new(), Filling { date: b"today", age: b"7", request_id: b"id" });
        heads.write(&wanted, &filling, &mut out).then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_differs_stands_in_its_place() {
        let heads = PreparedHeads::default();
        assert_eq!(written(&heads, 1, 0), None);
        heads.keep(head(1, 0, b"a:b:c:", &[(2, Hole::Age), (2, Hole::Date), (6, Hole::RequestId)]));
        assert_eq!(written(&heads, 1, 0).unwrap(), "a:7todayb:c:id");
        heads.keep(head(1, 3, b"x", &[]));
        assert_eq!(written(&heads, 1, 3).unwrap(), "x");
        assert_eq!(written(&heads, 1, 0).unwrap(), "a:7todayb:c:id");
        assert_eq!(written(&heads.clone(), 1, 0), None, "a copy has heads of its own");
    }

    #[test]
    fn another_configuration_begins_anew_and_no_more_than_some_are_kept() {
        let heads = PreparedHeads::default();
        heads.keep(head(1, 0, b"old", &[]));
        heads.keep(head(2, 1, b"new", &[]));
        assert_eq!((written(&heads, 1, 0), written(&heads, 2, 1).unwrap()), (None, "new".to_owned()));
        for route in 2..100 {
            heads.keep(head(2, route, b"more", &[]));
            assert!(links(heads.0.load().as_ref()).count() <= MOST);
            assert!(written(&heads, 2, route).is_some());
        }
    }
}
