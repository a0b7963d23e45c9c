//! The heads of an entry's answers as bytes, for the prepared lane: the constant bytes, with holes for the
//! rest.
//!
//! The caller that makes them decides their content. They are valid for the conditions that they name; for
//! another configuration they are made anew. Values of the entry itself, its tag, its dates, its length, are
//! holes as well and filled from its own fields, so that the entries of a route have equal heads. Equal heads
//! are kept once ([`SharedHeads`]), and an entry that is sent a thousand times holds a pointer. A few of them
//! are kept for each entry.

use crate::representation::{fields::PackedLines, respond::ContentForm, PackedFields};
use arc_swap::ArcSwapOption;
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use std::{fmt, sync::Arc};
use xxhash_rust::xxh3::Xxh3;

/// The most heads that are kept of one entry; if more are in use, some are made anew from time to time.
const MAX_HEADS: usize = 12;

/// The circumstances for which a head is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadConditions {
    /// The number of the configuration.
    pub site: u32,
    /// The index of the route in it.
    pub route: u32,
    /// The index of the listener in it.
    pub listener: u32,
    /// The form of the content.
    pub form: ContentForm,
    /// True for a 304.
    pub not_modified: bool,
    /// True for HTTP/2: fields, not bytes.
    pub http2: bool,
}

/// A value that differs from one answer to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadHole {
    /// The value of `Date`.
    Date,
    /// The value of `Age`.
    Age,
    /// The value of `X-Request-Id`.
    RequestId,
    /// The length of the body.
    Length,
    /// The value of the entry's field at this index.
    Field(u8),
    /// The entry's tag without the closing quote.
    Tag,
}

/// The values for the holes.
#[derive(Debug, Clone, Copy)]
pub struct HoleFilling<'f> {
    /// An HTTP date.
    pub date: &'f [u8],
    /// The age in seconds.
    pub age: &'f [u8],
    /// The request's id.
    pub request_id: &'f [u8],
    /// The length of the body in bytes.
    pub length: &'f [u8],
    /// The entry's fields.
    pub fields: &'f PackedFields,
}

/// The values for holes in order; the indices of the entry's fields rise.
struct HoleValues<'f> {
    filling: &'f HoleFilling<'f>,
    lines: PackedLines<'f>,
    passed: u8,
}

impl<'f> HoleValues<'f> {
    fn of(filling: &'f HoleFilling<'f>) -> Self {
        Self { filling, lines: filling.fields.iter(), passed: 0 }
    }

    #[inline]
    fn of_hole(&mut self, hole: HeadHole) -> &'f [u8] {
        match hole {
            HeadHole::Date => self.filling.date,
            HeadHole::Age => self.filling.age,
            HeadHole::RequestId => self.filling.request_id,
            HeadHole::Length => self.filling.length,
            HeadHole::Field(place) => {
                let passed = place.saturating_sub(self.passed);
                self.passed = place.saturating_add(1);
                self.lines.value_behind(usize::from(passed))
            }
            HeadHole::Tag => {
                let tag = self.filling.fields.tag().unwrap_or_default();
                tag.get(..tag.len().saturating_sub(1)).unwrap_or_default()
            }
        }
    }
}

/// A head: either the bytes of HTTP/1.1, up to the empty line at its end, or fields.
#[derive(Debug, PartialEq)]
pub struct PreparedHead {
    /// The circumstances for which it is valid.
    pub circumstances: HeadConditions,
    /// The constant bytes.
    pub bytes: Box<[u8]>,
    /// The holes, with rising positions in `bytes`.
    pub holes: Box<[(u16, HeadHole)]>,
    /// The fields for HTTP/2, in place of bytes.
    pub map: Option<Box<PreparedFields>>,
}

/// The fields of a head.
#[derive(Debug)]
pub struct PreparedFields {
    /// All of them.
    pub fields: HeaderMap,
    /// The fields with holes.
    pub cuts: Box<[CutField]>,
}

/// The order counts as well. Heads with values that must not enter an HPACK table are not shared.
impl PartialEq for PreparedFields {
    fn eq(&self, other: &Self) -> bool {
        let sensitive = |map: &Self| map.fields.values().filter(|value| value.is_sensitive()).count();
        self.fields.iter().eq(&other.fields)
            && self.cuts == other.cuts
            && sensitive(self) == 0
            && sensitive(other) == 0
    }
}

/// A field whose value has a hole.
#[derive(Debug, PartialEq, Eq)]
pub struct CutField {
    /// Its name.
    pub name: HeaderName,
    /// The text before the hole.
    pub before: Box<[u8]>,
    /// The hole.
    pub hole: HeadHole,
    /// The text after the hole.
    pub after: Box<[u8]>,
}

impl PreparedHead {
    /// Writes the head with these values.
    pub fn write(&self, filling: &HoleFilling<'_>, out: &mut Vec<u8>) {
        let (mut rest, mut from, mut values) = (&*self.bytes, 0, HoleValues::of(filling));
        for (at, hole) in &self.holes {
            let Some((before, behind)) = rest.split_at_checked(usize::from(at.saturating_sub(from))) else {
                break;
            };
            out.extend_from_slice(before);
            out.extend_from_slice(values.of_hole(*hole));
            (rest, from) = (behind, *at);
        }
        out.extend_from_slice(rest);
    }

    /// The fields with these values, for HTTP/2.
    pub fn fields(&self, filling: &HoleFilling<'_>) -> Option<HeaderMap> {
        let map = self.map.as_ref()?;
        let (mut fields, mut values) = (map.fields.clone(), HoleValues::of(filling));
        for cut in &map.cuts {
            let text = [&cut.before, values.of_hole(cut.hole), &cut.after].concat();
            fields.insert(cut.name.clone(), HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok()?);
        }
        Some(fields)
    }
}

#[derive(Debug, PartialEq)]
struct HeadLink {
    head: PreparedHead,
    next: Option<Arc<HeadLink>>,
}

impl HeadLink {
    /// A hash that is equal for equal links.
    fn print(&self) -> u64 {
        let mut print = Xxh3::new();
        let HeadConditions { site, route, listener, form: _, not_modified, http2 } = self.head.circumstances;
        for number in [site, route, listener, u32::from(not_modified), u32::from(http2)] {
            print.update(&number.to_le_bytes());
        }
        print.update(&self.head.bytes);
        for (name, value) in self.head.map.iter().flat_map(|map| &map.fields) {
            print.update(name.as_str().as_bytes());
            print.update(value.as_bytes());
        }
        let next = self.next.as_ref().map_or(0, |next| next.print());
        print.update(&next.to_le_bytes());
        print.digest()
    }
}

/// Equal heads, each kept once. The oldest make room for others: then equal heads may be kept twice, which
/// does no harm.
pub struct SharedHeads(Mutex<Box<[Option<Arc<HeadLink>>]>>);

impl Default for SharedHeads {
    fn default() -> Self {
        /// The number of slots; each head has one slot.
        const PLACES: usize = 1_024;
        Self(Mutex::new((0..PLACES).map(|_| None).collect()))
    }
}

impl SharedHeads {
    /// The stored link equal to this one, or this one.
    fn one(&self, link: HeadLink) -> Arc<HeadLink> {
        let print = link.print();
        let mut places = self.0.lock();
        let place = usize::try_from(print % places.len().max(1) as u64).unwrap_or(0);
        match places.get_mut(place) {
            Some(Some(kept)) if **kept == link => kept.clone(),
            Some(place) => place.insert(Arc::new(link)).clone(),
            None => Arc::new(link),
        }
    }
}

/// The heads of one entry's answers, the newest first.
#[derive(Default)]
pub struct PreparedHeads(ArcSwapOption<HeadLink>);

impl PreparedHeads {
    /// Writes the head for these circumstances. Returns true if there is one.
    pub fn write(&self, wanted: &HeadConditions, filling: &HoleFilling<'_>, out: &mut Vec<u8>) -> bool {
        let first = self.0.load();
        let found = links(first.as_ref()).find(|link| link.head.circumstances == *wanted);
        found.map(|link| link.head.write(filling, out)).is_some()
    }

    /// The fields for these circumstances, if there are any.
    pub fn fields(&self, wanted: &HeadConditions, filling: &HoleFilling<'_>) -> Option<HeaderMap> {
        let first = self.0.load();
        let found = links(first.as_ref()).find(|link| link.head.circumstances == *wanted);
        found.and_then(|link| link.head.fields(filling))
    }

    /// Keeps a head, or the stored one equal to it. Of two at the same time one may be lost, and is made
    /// again.
    pub fn keep(&self, head: PreparedHead, alike: &SharedHeads) {
        let next = self.0.load_full().filter(|first| {
            first.head.circumstances.site == head.circumstances.site && links(Some(first)).count() < MAX_HEADS
        });
        self.0.store(Some(alike.one(HeadLink { head, next })));
    }
}

fn links(first: Option<&Arc<HeadLink>>) -> impl Iterator<Item = &HeadLink> {
    std::iter::successors(first.map(|link| &**link), |link| link.next.as_deref())
}

/// A copy may get other content, so it has no heads.
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
    use http::header;

    fn head(site: u32, route: u32, text: &[u8], holes: &[(u16, HeadHole)]) -> PreparedHead {
        let circumstances = HeadConditions {
            site,
            route,
            listener: 0,
            form: ContentForm::AsItIs,
            not_modified: false,
            http2: false,
        };
        PreparedHead { circumstances, bytes: text.into(), holes: holes.into(), map: None }
    }

    fn fields() -> PackedFields {
        let fields = [("content-type", "a/b"), ("etag", "\"tag\""), ("x-own", "own")];
        let fields = fields.map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)));
        PackedFields::pack(fields.iter().map(|(name, value)| (name, value)))
    }

    fn filling(fields: &PackedFields) -> HoleFilling<'_> {
        HoleFilling { date: b"today", age: b"7", request_id: b"id", length: b"300", fields }
    }

    fn written(heads: &PreparedHeads, site: u32, route: u32) -> Option<String> {
        let wanted = head(site, route, b"", &[]).circumstances;
        let (mut out, fields) = (Vec::new(), fields());
        heads.write(&wanted, &filling(&fields), &mut out).then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_differs_stands_in_its_place() {
        let (heads, alike) = (PreparedHeads::default(), SharedHeads::default());
        assert_eq!(written(&heads, 1, 0), None);
        heads.keep(
            head(1, 0, b"a:b:c:", &[(2, HeadHole::Age), (2, HeadHole::Date), (6, HeadHole::RequestId)]),
            &alike,
        );
        assert_eq!(written(&heads, 1, 0).unwrap(), "a:7todayb:c:id");
        heads.keep(head(1, 3, b"x", &[]), &alike);
        assert_eq!(written(&heads, 1, 3).unwrap(), "x");
        assert_eq!(written(&heads, 1, 0).unwrap(), "a:7todayb:c:id");
        assert_eq!(written(&heads.clone(), 1, 0), None, "a copy has heads of its own");
        let own =
            [(0, HeadHole::Field(0)), (1, HeadHole::Length), (2, HeadHole::Tag), (5, HeadHole::Field(2))];
        heads.keep(head(1, 4, b",,-br\"", &own), &alike);
        assert_eq!(written(&heads, 1, 4).unwrap(), "a/b,300,\"tag-brown\"");
    }

    #[test]
    fn fields_with_holes() {
        let cut = |name, before: &[u8], hole, after: &[u8]| CutField {
            name,
            before: before.into(),
            hole,
            after: after.into(),
        };
        let cuts = [
            cut(header::CONTENT_LENGTH, b"", HeadHole::Length, b""),
            cut(header::ETAG, b"W/", HeadHole::Tag, b"\""),
        ];
        let map = HeaderMap::from_iter([
            (header::ETAG, HeaderValue::from_static("")),
            (header::SERVER, HeaderValue::from_static("s")),
            (header::CONTENT_LENGTH, HeaderValue::from_static("")),
        ]);
        let map = Some(Box::new(PreparedFields { fields: map, cuts: cuts.into() }));
        let (heads, alike, own) = (PreparedHeads::default(), SharedHeads::default(), fields());
        let head = PreparedHead { map, ..head(1, 0, b"", &[]) };
        let circumstances = head.circumstances;
        heads.keep(head, &alike);
        let found = heads.fields(&circumstances, &filling(&own)).unwrap();
        let found: Vec<_> = found.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(found, [("etag", "W/\"tag\""), ("server", "s"), ("content-length", "300")]);
    }

    #[test]
    fn another_configuration_begins_anew_and_no_more_than_some_are_kept() {
        let (heads, alike) = (PreparedHeads::default(), SharedHeads::default());
        heads.keep(head(1, 0, b"old", &[]), &alike);
        heads.keep(head(2, 1, b"new", &[]), &alike);
        assert_eq!((written(&heads, 1, 0), written(&heads, 2, 1).unwrap()), (None, "new".to_owned()));
        for route in 2..100 {
            heads.keep(head(2, route, b"more", &[]), &alike);
            assert!(links(heads.0.load().as_ref()).count() <= MAX_HEADS);
            assert!(written(&heads, 2, route).is_some());
        }
    }

    #[test]
    fn heads_that_are_alike_are_kept_once() {
        let (one, other, alike) =
            (PreparedHeads::default(), PreparedHeads::default(), SharedHeads::default());
        for heads in [&one, &other] {
            heads.keep(head(1, 0, b"a", &[(1, HeadHole::Age)]), &alike);
            heads.keep(head(1, 1, b"b", &[]), &alike);
        }
        let same = |a: &PreparedHeads, b: &PreparedHeads| {
            Arc::ptr_eq(&a.0.load_full().unwrap(), &b.0.load_full().unwrap())
        };
        assert!(same(&one, &other));
        other.keep(head(1, 0, b"a", &[(1, HeadHole::Date)]), &alike);
        assert!(!same(&one, &other));
        // Many different ones evict each other, and stay correct.
        for n in 0..5_000_u32 {
            let heads = PreparedHeads::default();
            heads.keep(head(1, 0, n.to_string().as_bytes(), &[]), &alike);
            assert_eq!(written(&heads, 1, 0).unwrap(), n.to_string());
        }
    }
}
