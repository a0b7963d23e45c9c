//! Fields as a stored answer keeps them: packed one after the other in one piece of memory.
//!
//! Millions of entries may lie in memory, most of which are never requested again. A pair of `HeaderName` and
//! `HeaderValue` takes 72 bytes beside its text; here a field takes a byte or two more than its value. They
//! are unpacked into such pairs when an answer is made. Makes no decisions: any field that HTTP allows comes
//! out as it went in, in the same order, repeated lines too.
//!
//! ```text
//! per field:
//! u8      a known name's place in KNOWN, or OTHER; plus SENSITIVE
//!         of OTHER: number + the name
//! number  + the value
//! ```
//!
//! A number takes seven bits of each byte, the lowest first; the eighth says that more follow.

use crate::http::cache_status::CACHE_STATUS;

use bytes::Bytes;
use http::{header, HeaderName, HeaderValue};
use std::fmt;

/// The code of a name that is not in [`KNOWN_NAMES`].
const OTHER_NAME: u8 = 0x7f;
/// The flag of a value that must not enter an HPACK table.
const SENSITIVE_FLAG: u8 = 0x80;

/// The code of `ETag`.
const ETAG_PLACE: u8 = 0;

/// Names that take one byte. Those in most answers come first: the list is searched in order.
static KNOWN_NAMES: [HeaderName; 46] = [
    header::ETAG,
    header::CONTENT_TYPE,
    header::CACHE_CONTROL,
    header::DATE,
    header::SERVER,
    header::LAST_MODIFIED,
    header::VARY,
    header::EXPIRES,
    header::CONTENT_ENCODING,
    header::SET_COOKIE,
    header::CONTENT_LANGUAGE,
    header::ACCEPT_RANGES,
    header::VIA,
    header::LOCATION,
    header::LINK,
    header::STRICT_TRANSPORT_SECURITY,
    header::X_CONTENT_TYPE_OPTIONS,
    header::X_FRAME_OPTIONS,
    header::X_XSS_PROTECTION,
    header::CONTENT_SECURITY_POLICY,
    header::CONTENT_SECURITY_POLICY_REPORT_ONLY,
    header::REFERRER_POLICY,
    HeaderName::from_static("permissions-policy"),
    HeaderName::from_static("cross-origin-opener-policy"),
    HeaderName::from_static("cross-origin-resource-policy"),
    HeaderName::from_static("cross-origin-embedder-policy"),
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
    HeaderName::from_static("x-powered-by"),
    CACHE_STATUS,
    HeaderName::from_static("cache-tag"),
    HeaderName::from_static("surrogate-key"),
    HeaderName::from_static("cdn-cache-control"),
    HeaderName::from_static("server-timing"),
    HeaderName::from_static("timing-allow-origin"),
    header::CONTENT_DISPOSITION,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::PRAGMA,
    header::ALT_SVC,
    header::RETRY_AFTER,
    header::ALLOW,
];

/// The name of a packed field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackedName<'f> {
    /// A name in `KNOWN`.
    Known(&'static HeaderName),
    /// Any other, in lower case.
    Other(&'f [u8]),
}

impl PackedName<'_> {
    /// Returns true if it is this name.
    pub fn is(self, name: &HeaderName) -> bool {
        match self {
            Self::Known(known) => known == name,
            Self::Other(other) => other == name.as_str().as_bytes(),
        }
    }

    /// The name in lower case.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Known(known) => known.as_str().as_bytes(),
            Self::Other(other) => other,
        }
    }
}

/// A packed field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedLine<'f> {
    /// Its name.
    pub name: PackedName<'f>,
    /// Its value.
    pub value: &'f [u8],
    /// True if its value must not enter an HPACK table.
    pub is_sensitive: bool,
}

/// Fields in their order.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PackedFields(Box<[u8]>);

impl PackedFields {
    /// Packs the fields.
    pub fn pack<'a>(fields: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>) -> Self {
        /// The initial capacity in bytes: more than most answers need.
        const ROOM: usize = 512;
        let mut packed = Vec::with_capacity(ROOM);
        for (name, value) in fields {
            let sensitive = if value.is_sensitive() { SENSITIVE_FLAG } else { 0 };
            match place_of(name) {
                Some(place) => packed.push(place | sensitive),
                None => {
                    packed.push(OTHER_NAME | sensitive);
                    put_text(&mut packed, name.as_str().as_bytes());
                }
            }
            put_text(&mut packed, value.as_bytes());
        }
        // Copied: a shrunk allocation may keep its size.
        Self(packed.as_slice().into())
    }

    /// Iterates over all of them.
    pub fn iter(&self) -> PackedLines<'_> {
        PackedLines(&self.0)
    }

    /// The values of all lines of a field.
    pub fn all<'f>(&'f self, name: &'f HeaderName) -> impl Iterator<Item = &'f [u8]> + Clone + 'f {
        self.iter().filter(move |line| line.name.is(name)).map(|line| line.value)
    }

    /// The first `ETag`, which is read on hits.
    #[inline]
    pub fn tag(&self) -> Option<&[u8]> {
        let mut lines = self.iter();
        loop {
            let (first, _, value) = lines.raw()?;
            if first & !SENSITIVE_FLAG == ETAG_PLACE {
                return Some(value);
            }
        }
    }

    /// The value of a field's first line.
    pub fn first(&self, name: &HeaderName) -> Option<&[u8]> {
        let (wanted, mut lines) = (place_of(name).unwrap_or(OTHER_NAME), self.iter());
        while let Some((first, other, value)) = lines.raw() {
            if first & !SENSITIVE_FLAG == wanted
                && (wanted != OTHER_NAME || other == name.as_str().as_bytes())
            {
                return Some(value);
            }
        }
        None
    }

    /// Unpacks them into names and values. All values share one buffer.
    pub fn unpack(&self) -> Vec<(HeaderName, HeaderValue)> {
        let all = Bytes::copy_from_slice(&self.0);
        // Packed names and values were valid before.
        let unpacked = |line: PackedLine<'_>| {
            let name = match line.name {
                PackedName::Known(known) => known.clone(),
                PackedName::Other(other) => HeaderName::from_bytes(other).ok()?,
            };
            let mut value = HeaderValue::from_maybe_shared(all.slice_ref(line.value)).ok()?;
            value.set_sensitive(line.is_sensitive);
            Some((name, value))
        };
        PackedLines(&all).filter_map(unpacked).collect()
    }

    /// The bytes that they take, beside [`PackedFields`] itself.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for PackedFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.unpack()).finish()
    }
}

/// Iterates over packed fields.
#[derive(Debug, Clone)]
pub struct PackedLines<'f>(&'f [u8]);

impl<'f> Iterator for PackedLines<'f> {
    type Item = PackedLine<'f>;

    #[inline]
    fn next(&mut self) -> Option<PackedLine<'f>> {
        let (first, other, value) = self.raw()?;
        let name = match first & !SENSITIVE_FLAG {
            OTHER_NAME => PackedName::Other(other),
            place => PackedName::Known(KNOWN_NAMES.get(usize::from(place))?),
        };
        Some(PackedLine { name, value, is_sensitive: first & SENSITIVE_FLAG != 0 })
    }

    /// Skips fields without reading them.
    #[inline]
    fn nth(&mut self, passed: usize) -> Option<PackedLine<'f>> {
        for _ in 0..passed {
            self.raw()?;
        }
        self.next()
    }
}

impl<'f> PackedLines<'f> {
    /// The first byte of a field, its name if that is not known, and its value.
    #[inline]
    fn raw(&mut self) -> Option<(u8, &'f [u8], &'f [u8])> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        let other = if first & !SENSITIVE_FLAG == OTHER_NAME { take_text(&mut self.0)? } else { b"" };
        Some((first, other, take_text(&mut self.0)?))
    }

    /// The value of the field after the next `passed` ones; empty if there is none.
    #[inline]
    pub fn value_behind(&mut self, passed: usize) -> &'f [u8] {
        for _ in 0..passed {
            self.raw();
        }
        self.raw().map_or(b"", |(_, _, value)| value)
    }
}

fn place_of(name: &HeaderName) -> Option<u8> {
    let place = KNOWN_NAMES.iter().position(|known| known == name)?;
    u8::try_from(place).ok()
}

fn put_text(packed: &mut Vec<u8>, text: &[u8]) {
    let mut length = text.len();
    while length > 0x7f {
        // Seven bits, and one more.
        packed.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    packed.push(length as u8);
    packed.extend_from_slice(text);
}

#[inline]
fn take_text<'f>(rest: &mut &'f [u8]) -> Option<&'f [u8]> {
    let (&first, behind) = rest.split_first()?;
    if first < 0x80 {
        let (text, behind) = behind.split_at_checked(usize::from(first))?;
        *rest = behind;
        return Some(text);
    }
    take_long_text(rest)
}

fn take_long_text<'f>(rest: &mut &'f [u8]) -> Option<&'f [u8]> {
    let (mut length, mut shift) = (0_usize, 0_u32);
    loop {
        let (&byte, behind) = rest.split_first()?;
        *rest = behind;
        length |= usize::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
    }
    let (text, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(fields: &[(HeaderName, HeaderValue)]) -> PackedFields {
        PackedFields::pack(fields.iter().map(|(name, value)| (name, value)))
    }

    fn name() -> impl Strategy<Value = HeaderName> {
        let any = "[!#$%&'*+.^_`|~0-9a-zA-Z-]{1,150}";
        prop_oneof![
            (0..KNOWN_NAMES.len()).prop_map(|place| KNOWN_NAMES[place].clone()),
            any.prop_map(|text| HeaderName::from_bytes(text.as_bytes()).unwrap()),
            Just(HeaderName::from_static("x-a")),
        ]
    }

    fn value() -> impl Strategy<Value = HeaderValue> {
        let bytes = prop_oneof![Just(b'\t'), 0x20_u8..0x7f, 0x80_u8..=0xff];
        // Numbers of one byte, of two and, now and then, of three.
        let lengths = prop_oneof![20 => 0..140_usize, 1 => 16_380..16_390_usize];
        let text = lengths.prop_flat_map(move |length| prop::collection::vec(bytes.clone(), length));
        (text, any::<bool>()).prop_map(|(text, sensitive)| {
            let mut value = HeaderValue::from_bytes(&text).unwrap();
            value.set_sensitive(sensitive);
            value
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_packed_comes_out_the_same(fields in prop::collection::vec((name(), value()), 0..20)) {
            let packed = packed(&fields);
            let unpacked = packed.unpack();
            prop_assert_eq!(&unpacked, &fields);
            let sensitive = |(_, value): &(HeaderName, HeaderValue)| value.is_sensitive();
            prop_assert!(unpacked.iter().map(sensitive).eq(fields.iter().map(sensitive)));
            prop_assert_eq!(packed.iter().count(), fields.len());
            for passed in 0..=fields.len() {
                let (mut lines, value) = (packed.iter(), fields.get(passed).map(|(_, value)| value.as_bytes()));
                prop_assert_eq!(packed.iter().nth(passed).map(|line| line.value), value);
                prop_assert_eq!(lines.value_behind(passed), value.unwrap_or_default());
            }
            for (name, _) in &fields {
                let lines = || fields.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_bytes());
                prop_assert!(packed.all(name).eq(lines()));
                prop_assert_eq!(packed.first(name), lines().next());
            }
        }

        #[test]
        fn other_bytes_are_some_fields_or_none(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let fields = PackedFields(bytes.into());
            prop_assert!(fields.unpack().len() <= fields.iter().count());
        }
    }

    #[test]
    fn each_name_is_known_once_and_takes_a_byte() {
        for (place, name) in KNOWN_NAMES.iter().enumerate() {
            assert_eq!(place_of(name), Some(u8::try_from(place).unwrap()), "{name}");
            assert_eq!(packed(&[(name.clone(), HeaderValue::from_static("v"))]).len(), 3);
        }
        assert!(KNOWN_NAMES.len() < usize::from(OTHER_NAME));
        assert_eq!(KNOWN_NAMES[usize::from(ETAG_PLACE)], header::ETAG);
        let fields = [(header::SERVER, "s"), (header::ETAG, "x"), (header::ETAG, "y")];
        let fields = fields.map(|(name, value)| (name, HeaderValue::from_static(value)));
        assert_eq!((packed(&fields).tag(), packed(&fields[..1]).tag()), (Some(&b"x"[..]), None));
    }

    #[test]
    fn lines_of_one_field_keep_their_order() {
        let fields = [("set-cookie", "a"), ("x-other", ""), ("set-cookie", "b"), ("x-other", "1")];
        let fields = fields.map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)));
        let packed = packed(&fields);
        assert_eq!(packed.unpack(), fields);
        assert!(packed.all(&header::SET_COOKIE).eq([b"a", b"b"]));
        assert_eq!(packed.first(&HeaderName::from_static("x-other")), Some(&b""[..]));
        assert_eq!(packed.first(&header::ETAG), None);
        assert!(PackedFields::default().is_empty());
    }
}
