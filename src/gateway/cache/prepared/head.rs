//! Heads serialised for HTTP/1.1, or as fields for HTTP/2, with placeholders for the values that differ
//! between answers and between entries; and the filling of these placeholders.

use crate::{
    cache::entry::prepared_head::{CutField, HeadConditions, HeadHole, PreparedFields, PreparedHead},
    http::{
        date::{date_text, response_date},
        names::REQUEST_ID,
    },
    representation::PackedFields,
};

use http::{header, HeaderMap, HeaderName};
use pingora_http::{HeaderNameVariant, ResponseHeader};
use std::ops::Range;

/// Fields that have the same value in most answers of a route: their values are part of the shared head. All
/// other fields of an entry are placeholders, so that entries can share heads.
static SHARED_FIELDS: [HeaderName; 20] = [
    header::CONTENT_TYPE,
    header::SERVER,
    header::CACHE_CONTROL,
    header::VARY,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::ACCEPT_RANGES,
    header::VIA,
    header::PRAGMA,
    header::ALT_SVC,
    header::STRICT_TRANSPORT_SECURITY,
    header::X_CONTENT_TYPE_OPTIONS,
    header::X_FRAME_OPTIONS,
    header::X_XSS_PROTECTION,
    header::REFERRER_POLICY,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    HeaderName::from_static("x-powered-by"),
];

/// The values of a head that come from the entry.
pub(crate) struct EntryParticulars<'e> {
    fields: &'e PackedFields,
    length: u64,
    /// The first field that has not been used yet: placeholders are filled in the order of the fields.
    from: u8,
}

impl<'e> EntryParticulars<'e> {
    /// The values of an entry with these fields and a body of `length` bytes.
    pub(crate) fn new(fields: &'e PackedFields, length: u64) -> Self {
        Self { fields, length, from: 0 }
    }

    /// The part of a value that comes from the entry, as a placeholder.
    fn hole(&mut self, name: &HeaderName, value: &[u8]) -> Option<(Range<usize>, HeadHole)> {
        if *name == header::CONTENT_LENGTH {
            let mut digits = [0; MAX_DIGITS];
            return (write_decimal(self.length, &mut digits) == value)
                .then_some((0..value.len(), HeadHole::Length));
        }
        if SHARED_FIELDS.contains(name) {
            return None;
        }
        if let Some(range) =
            self.fields.first(name).filter(|_| *name == header::ETAG).and_then(|t| find_open_tag(t, value))
        {
            return Some((range, HeadHole::Tag));
        }
        let mut numbered = (0_u8..=u8::MAX).zip(self.fields.iter()).skip(usize::from(self.from));
        let (place, _) = numbered.find(|(_, line)| line.name.is(name) && line.value == value)?;
        self.from = place.saturating_add(1);
        Some((0..value.len(), HeadHole::Field(place)))
    }
}

/// The position of an entity tag, without its closing quote, in a tag that was derived from it: a weak one,
/// or one with the suffix of a coding.
fn find_open_tag(tag: &[u8], within: &[u8]) -> Option<Range<usize>> {
    let opened = tag.strip_suffix(b"\"").filter(|opened| !opened.is_empty())?;
    let at = if within.starts_with(opened) { 0 } else { b"W/".len() };
    let range = at..at + opened.len();
    (within.get(range.clone()) == Some(opened)).then_some(range)
}

/// A head as a map of fields, for HTTP/2.
pub(crate) fn map_head(
    fields: HeaderMap,
    mut own: EntryParticulars<'_>,
    circumstances: HeadConditions,
) -> PreparedHead {
    let mut cuts = Vec::new();
    for name in fields.keys() {
        let mut lines = fields.get_all(name).iter();
        // A placeholder in one of several lines would require all of them to be set again.
        let (Some(value), None) = (lines.next().filter(|value| !value.is_sensitive()), lines.next()) else {
            continue;
        };
        let value = value.as_bytes();
        if let Some((range, hole)) = own.hole(name, value) {
            let [before, after] = [0..range.start, range.end..value.len()].map(|part| value[part].into());
            cuts.push(CutField { name: name.clone(), before, hole, after });
        }
    }
    let map = Some(Box::new(PreparedFields { fields, cuts: cuts.into() }));
    PreparedHead { circumstances, bytes: Box::default(), holes: Box::default(), map }
}

/// A head serialised for HTTP/1.1. `None`: one of the placeholders is missing, or occurs twice.
pub(crate) fn serialize_head(
    head: &ResponseHeader,
    mut own: EntryParticulars<'_>,
    dated_now: bool,
    circumstances: HeadConditions,
) -> Option<PreparedHead> {
    let mut bytes = status_line(head);
    let mut holes = Vec::with_capacity(3);
    let written = head.map(|name, value| {
        let name = name_bytes(&name);
        let plain = HeaderName::from_bytes(name);
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(b": ");
        let is = |other: &HeaderName| name.eq_ignore_ascii_case(other.as_str().as_bytes());
        let hole = match () {
            () if is(&header::AGE) => Some(HeadHole::Age),
            () if is(&REQUEST_ID) => Some(HeadHole::RequestId),
            () if is(&header::DATE) && dated_now => Some(HeadHole::Date),
            () => None,
        };
        let value = value.as_bytes();
        let own = || plain.ok().and_then(|name| own.hole(&name, value));
        match hole.map(|hole| (0..value.len(), hole)).or_else(own) {
            Some((range, hole)) => {
                bytes.extend_from_slice(&value[..range.start]);
                holes.push((bytes.len(), hole));
                bytes.extend_from_slice(&value[range.end..]);
            }
            None => bytes.extend_from_slice(value),
        }
        bytes.extend_from_slice(b"\r\n");
        Ok(())
    });
    written.ok()?;
    bytes.extend_from_slice(b"\r\n");
    let once = |wanted: HeadHole| holes.iter().filter(|(_, hole)| *hole == wanted).count() == 1;
    if !once(HeadHole::Age) || !once(HeadHole::RequestId) || (dated_now && !once(HeadHole::Date)) {
        return None;
    }
    let holes: Option<Box<_>> =
        holes.into_iter().map(|(at, hole)| Some((u16::try_from(at).ok()?, hole))).collect();
    Some(PreparedHead { circumstances, bytes: bytes.into(), holes: holes?, map: None })
}

/// The status line of a head.
fn status_line(head: &ResponseHeader) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend_from_slice(b"HTTP/1.1 ");
    bytes.extend_from_slice(head.status.as_str().as_bytes());
    bytes.push(b' ');
    bytes.extend_from_slice(head.get_reason_phrase().unwrap_or_default().as_bytes());
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn name_bytes<'n>(name: &'n HeaderNameVariant<'_>) -> &'n [u8] {
    match name {
        HeaderNameVariant::Case(name) => name.as_slice(),
        HeaderNameVariant::Titled(name) => name.as_bytes(),
    }
}

/// A serialised head: with its own date, or else with that of `second`, and with the `Connection` field.
/// `kept` is `None` for an interim answer, which has neither.
pub(crate) fn serialized_head(head: &ResponseHeader, kept: Option<bool>, second: u64) -> Vec<u8> {
    let mut bytes = status_line(head);
    let mut field = |name: &[u8], value: &[u8]| {
        for part in [name, b": ", value, b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    };
    let now = || {
        date_text(match response_date(&head.headers) {
            0 => second,
            own => own,
        })
    };
    let mut dated = false;
    let fields = head.map(|name, value| {
        let name = name_bytes(&name);
        if kept.is_some() && name.eq_ignore_ascii_case(b"date") {
            if !std::mem::replace(&mut dated, true) {
                field(name, &now());
            }
        } else if kept.is_none() || !name.eq_ignore_ascii_case(b"connection") {
            field(name, value.as_bytes());
        }
        Ok(())
    });
    // The closure never fails.
    fields.unwrap_or_default();
    if let Some(kept) = kept {
        if !dated {
            field(b"Date", &now());
        }
        field(b"Connection", if kept { b"keep-alive" } else { b"close" });
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// The most digits that a number of seconds has.
pub(crate) const MAX_DIGITS: usize = 20;

/// A number in decimal digits.
pub(crate) fn write_decimal(mut number: u64, digits: &mut [u8; MAX_DIGITS]) -> &[u8] {
    let mut at = MAX_DIGITS;
    loop {
        at -= 1;
        // A digit.
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 || at == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_an_entry_has_for_itself_is_a_hole() {
        let fields = [("server", "s"), ("x-a", "1"), ("etag", "\"t\""), ("x-a", "2"), ("expires", "0")];
        let fields = fields.map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)));
        let fields = PackedFields::pack(fields.iter().map(|(name, value)| (name, value)));
        let all = |lines: &[(&'static str, &str)]| {
            let mut own = EntryParticulars::new(&fields, 300);
            let hole = |(name, value): &(&'static str, &str)| {
                own.hole(&HeaderName::from_static(name), value.as_bytes()).map(|(range, hole)| (hole, range))
            };
            lines.iter().map(hole).collect::<Vec<_>>()
        };
        assert_eq!(all(&[("server", "s"), ("x-b", "1"), ("content-length", "30")]), [None, None, None]);
        assert_eq!(all(&[("content-length", "300")]), [Some((HeadHole::Length, 0..3))]);
        let lines = [("x-a", "1"), ("etag", "\"t-br\""), ("x-a", "2"), ("expires", "0")];
        let expected = [
            (HeadHole::Field(1), 0..1),
            (HeadHole::Tag, 0..2),
            (HeadHole::Field(3), 0..1),
            (HeadHole::Field(4), 0..1),
        ];
        assert_eq!(all(&lines), expected.map(Some));
        assert_eq!(all(&[("etag", "W/\"t\"")]), [Some((HeadHole::Tag, 2..4))]);
        assert_eq!(all(&[("etag", "W/\"u\""), ("x-a", "3")]), [None, None]);
        // Only in order: fields in another order are left unchanged.
        assert_eq!(all(&[("expires", "0"), ("x-a", "1")]), [Some((HeadHole::Field(4), 0..1)), None]);
    }

    #[test]
    fn numbers_are_written_as_they_are() {
        for number in [0, 7, 10, 99, 1_234_567, u64::MAX] {
            assert_eq!(write_decimal(number, &mut [0; MAX_DIGITS]), number.to_string().as_bytes());
        }
    }
}
