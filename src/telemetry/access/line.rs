//! The line of an access record, written straight into a buffer: JSON (RFC 8259), or text as `tracing` writes
//! it.
//!
//! Both begin with the time of the record's end in the same form and length, so that lines can be sorted.
//! Text from outside is escaped: a line never breaks early, and bytes that are no UTF-8 become U+FFFD. Reads
//! no clock.

use super::record::AccessRecord;
use std::{
    cell::Cell,
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    ops::Range,
    time::Duration,
};

const NANOS: u64 = 1_000_000_000;

/// The format of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineFormat {
    Json,
    Text,
}

/// The times when a request began and when its record was made, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestSpan {
    pub(crate) began: u64,
    pub(crate) ended: u64,
}

impl LineFormat {
    pub(crate) fn of(is_json: bool) -> Self {
        if is_json {
            Self::Json
        } else {
            Self::Text
        }
    }

    /// Appends the record's line.
    pub(crate) fn write(self, out: &mut Vec<u8>, record: &AccessRecord<'_>, span: RequestSpan) {
        match self {
            Self::Json => write_json(out, record, span),
            Self::Text => write_text(out, record, span),
        }
    }

    /// The time in a line of this form, of a record or of `tracing`; on a terminal a line begins with a
    /// colour code.
    pub(crate) fn stamp_of(self, line: &[u8]) -> Option<&[u8]> {
        const DIMMED: &[u8] = b"\x1b[2m";
        line.strip_prefix(DIMMED).unwrap_or(line).get(self.stamp())
    }

    /// The position of the time in a line.
    fn stamp(self) -> Range<usize> {
        const LENGTH: usize = "1994-11-06T08:49:37.000000Z".len();
        let begin = if self == Self::Json { r#"{"timestamp":""#.len() } else { 0 };
        begin..begin + LENGTH
    }
}

fn write_json(out: &mut Vec<u8>, record: &AccessRecord<'_>, span: RequestSpan) {
    let AccessRecord { began: _, duration, request_id, client, method, host, path, version, .. } = record;
    let AccessRecord { status, bytes, route, tenant, result, detail, origin, .. } = record;
    out.extend_from_slice(br#"{"timestamp":""#);
    push_stamp(out, span.ended);
    out.extend_from_slice(br#"","level":"INFO","time":""#);
    push_time(out, span.began);
    out.extend_from_slice(br#"","request_id":""#);
    push_escaped(out, request_id);
    out.extend_from_slice(br#"","client":""#);
    push_address(out, *client);
    out.extend_from_slice(br#"","method":""#);
    push_escaped(out, method.as_bytes());
    out.extend_from_slice(br#"","host":""#);
    push_escaped(out, host);
    out.extend_from_slice(br#"","path":""#);
    push_escaped(out, without_query(path));
    out.extend_from_slice(br#"","version":""#);
    out.extend_from_slice(version_name(*version).as_bytes());
    out.extend_from_slice(br#"","status":"#);
    push_number(out, u64::from(*status));
    out.extend_from_slice(br#","bytes":"#);
    push_number(out, *bytes);
    out.extend_from_slice(br#","duration_ms":"#);
    push_milliseconds(out, *duration);
    if let Some(route) = route {
        out.extend_from_slice(br#","route":""#);
        push_escaped(out, route.as_bytes());
        out.push(b'"');
    }
    if let Some(tenant) = tenant {
        out.extend_from_slice(br#","tenant":""#);
        push_escaped(out, tenant.as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(br#","result":""#);
    out.extend_from_slice(result.as_str().as_bytes());
    out.push(b'"');
    if let Some(detail) = detail {
        out.extend_from_slice(br#","detail":""#);
        push_escaped(out, detail.as_bytes());
        out.push(b'"');
    }
    if let Some(origin) = origin {
        out.extend_from_slice(br#","origin_ms":"#);
        push_milliseconds(out, *origin);
    }
    out.extend_from_slice(b",\"target\":\"access\"}\n");
}

/// Writes a record for people; this form may cost more.
fn write_text(out: &mut Vec<u8>, record: &AccessRecord<'_>, span: RequestSpan) {
    push_stamp(out, span.ended);
    out.extend_from_slice(b"  INFO access: time=\"");
    push_time(out, span.began);
    let lossy = |bytes| String::from_utf8_lossy(bytes);
    let (id, host, path) = (lossy(record.request_id), lossy(record.host), lossy(without_query(record.path)));
    // Writing to a Vec can't fail.
    write!(
        out,
        "\" request_id={id:?} client={} method={:?} host={host:?} path={path:?} version={} status={} bytes={}",
        record.client,
        record.method,
        version_name(record.version),
        record.status,
        record.bytes,
    )
    .unwrap_or_default();
    out.extend_from_slice(b" duration_ms=");
    push_milliseconds(out, record.duration);
    let words = [
        ("route", record.route),
        ("tenant", record.tenant),
        ("result", Some(record.result.as_str())),
        ("detail", record.detail),
    ];
    for (name, word) in words.iter().filter_map(|(name, word)| Some((name, (*word)?))) {
        write!(out, " {name}={word:?}").unwrap_or_default();
    }
    if let Some(origin) = record.origin {
        out.extend_from_slice(b" origin_ms=");
        push_milliseconds(out, origin);
    }
    out.push(b'\n');
}

fn without_query(path: &[u8]) -> &[u8] {
    memchr::memchr(b'?', path).map_or(path, |end| &path[..end])
}

fn version_name(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_09 => "HTTP/0.9",
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2.0",
        http::Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

/// Writes the content of a JSON string, escaped, without its quotes.
fn push_escaped(out: &mut Vec<u8>, text: &[u8]) {
    // Looks at all bytes, whatever it finds: the processor does that many at a time.
    let special = |byte: u8| !(b' '..=b'~').contains(&byte) | (byte == b'"') | (byte == b'\\');
    if !text.iter().fold(false, |found, byte| found | special(*byte)) {
        out.extend_from_slice(text);
        return;
    }
    push_with_escapes(out, text);
}

#[cold]
fn push_with_escapes(out: &mut Vec<u8>, text: &[u8]) {
    for character in String::from_utf8_lossy(text).chars() {
        let short = match character {
            '"' => b'"',
            '\\' => b'\\',
            '\n' => b'n',
            '\r' => b'r',
            '\t' => b't',
            '\u{8}' => b'b',
            '\u{c}' => b'f',
            '\0'..='\u{1f}' => {
                // Writing to a Vec can't fail.
                write!(out, "\\u{:04x}", u32::from(character)).unwrap_or_default();
                continue;
            }
            other => {
                out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn push_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => push_v4(out, address),
        // Writing to a Vec can't fail.
        IpAddr::V6(address) => write!(out, "{address}").unwrap_or_default(),
    }
}

fn push_v4(out: &mut Vec<u8>, address: Ipv4Addr) {
    // Gathered apart: to append to a Vec costs more than a digit.
    let (mut text, mut length) = ([b'.'; "255.255.255.255.".len()], 0);
    for octet in address.octets() {
        let digits = digits::<3>(u64::from(octet));
        let skipped = usize::from(octet < 100) + usize::from(octet < 10);
        for digit in &digits[skipped..] {
            text[length] = *digit;
            length += 1;
        }
        length += 1;
    }
    out.extend_from_slice(&text[..length - 1]);
}

/// Writes milliseconds to the microsecond, with at least one decimal: `152.551`, `150.0`.
fn push_milliseconds(out: &mut Vec<u8>, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    push_number(out, micros / 1000);
    out.push(b'.');
    let digits = digits::<3>(micros % 1000);
    out.extend_from_slice(&digits[..significant(&digits).max(1)]);
}

/// Writes a time to the microsecond, in a fixed length: `1994-11-06T08:49:37.000000Z`.
fn push_stamp(out: &mut Vec<u8>, nanos: u64) {
    push_second(out, nanos / NANOS);
    let mut fraction = *b".000000Z";
    fraction[1..7].copy_from_slice(&digits::<6>(nanos % NANOS / 1000));
    out.extend_from_slice(&fraction);
}

/// Writes a time to the nanosecond, without trailing zeros: `1994-11-06T08:49:37.5Z`.
fn push_time(out: &mut Vec<u8>, nanos: u64) {
    push_second(out, nanos / NANOS);
    let digits = digits::<9>(nanos % NANOS);
    let length = significant(&digits);
    if length > 0 {
        out.push(b'.');
        out.extend_from_slice(&digits[..length]);
    }
    out.push(b'Z');
}

type FormattedSecond = [u8; "1994-11-06T08:49:37".len()];

thread_local! {
    /// The last second that was written, with its text: as a rule the next one is the same.
    static LAST: Cell<(u64, FormattedSecond)> = const { Cell::new((0, *b"1970-01-01T00:00:00")) };
}

fn push_second(out: &mut Vec<u8>, second: u64) {
    LAST.with(|last| {
        if last.get().0 != second {
            last.set((second, format_second(second)));
        }
        out.extend_from_slice(&last.get().1);
    });
}

fn format_second(second: u64) -> FormattedSecond {
    let (year, month, day) = civil(second / 86_400);
    let time = second % 86_400;
    let mut text = *b"0000-00-00T00:00:00";
    text[..4].copy_from_slice(&digits::<4>(year));
    let parts = [(5, month), (8, day), (11, time / 3600), (14, time / 60 % 60), (17, time % 60)];
    for (place, part) in parts {
        text[place..place + 2].copy_from_slice(&digits::<2>(part));
    }
    text
}

/// Year, month and day of the Gregorian calendar, from days since 1970: years are counted from March on, in
/// eras of 400 years, all of one length.
fn civil(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    let days = days + 719_468;
    let (era, day) = (days / ERA, days % ERA);
    let year = (day - day / 1_460 + day / 36_524 - day / (ERA - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (year, day) = (era * 400 + year, day - (153 * month + 2) / 5 + 1);
    if month < 10 {
        (year, month + 3, day)
    } else {
        (year + 1, month - 9, day)
    }
}

/// The last `N` digits of a number.
fn digits<const N: usize>(mut number: u64) -> [u8; N] {
    let mut text = [b'0'; N];
    for pair in text.rchunks_mut(2) {
        // Two at a time: a division is what this costs.
        let (tens, ones) = (number % 100 / 10, number % 10);
        number /= 100;
        match pair {
            [first, second] => (*first, *second) = (b'0' + tens as u8, b'0' + ones as u8),
            [only] => *only = b'0' + ones as u8,
            _ => {}
        }
    }
    text
}

/// The number of digits without trailing zeros.
fn significant(digits: &[u8]) -> usize {
    digits.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1)
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
