//! Dates as HTTP writes them (RFC 9110, 5.6.7).

use http::{header, HeaderMap, HeaderValue};
use std::{
    cell::Cell,
    time::{SystemTime, UNIX_EPOCH},
};

/// The last second of the year 9999, the latest that an HTTP date can express.
const LAST_DATE: u64 = 253_402_300_799;

pub(crate) fn http_date(value: &HeaderValue) -> Option<SystemTime> {
    parse_date(value.as_bytes())
}

pub(crate) fn parse_date(value: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.is_ascii())?;
    httpdate::parse_http_date(text.trim()).ok()
}

/// Formats a time as an HTTP date; `None` outside of the years that it can express.
pub fn format_date(time: SystemTime) -> Option<HeaderValue> {
    // httpdate panics before 1970 and beyond the year 9999.
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    (seconds <= LAST_DATE).then(|| HeaderValue::from_str(&httpdate::fmt_http_date(time)).ok())?
}

/// The length of an HTTP date, in bytes.
const DATE_LENGTH: usize = 29;

thread_local! {
    /// The last date that was parsed, and its second: most answers within a second have the same date.
    static LAST_READ: Cell<([u8; DATE_LENGTH], u64)> = const { Cell::new(([0; DATE_LENGTH], 0)) };
}

/// The `Date` of an answer, in seconds since the epoch; 0 if it has none.
pub(crate) fn date_of(headers: &HeaderMap) -> u64 {
    let Some(value) = headers.get(header::DATE) else { return 0 };
    let Ok(text) = <[u8; DATE_LENGTH]>::try_from(value.as_bytes()) else { return read_date(value) };
    let (last, second) = LAST_READ.get();
    if last == text {
        return second;
    }
    let second = read_date(value);
    LAST_READ.set((text, second));
    second
}

fn read_date(value: &HeaderValue) -> u64 {
    let date = value.to_str().ok().and_then(|text| httpdate::parse_http_date(text).ok());
    let seconds = date.and_then(|d| d.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs());
    if seconds <= LAST_DATE {
        seconds
    } else {
        0
    }
}
