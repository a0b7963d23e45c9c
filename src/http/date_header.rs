//! Dates as HTTP writes them (RFC 9110, 5.6.7).

use http::HeaderValue;
use std::time::{SystemTime, UNIX_EPOCH};

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
    const LAST: u64 = 253_402_300_799;
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    (seconds <= LAST).then(|| HeaderValue::from_str(&httpdate::fmt_http_date(time)).ok())?
}
