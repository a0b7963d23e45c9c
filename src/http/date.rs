//! Dates as HTTP writes them (RFC 9110, 5.6.7), parsed and formatted for every lane.
//!
//! They are parsed as strictly as its three forms are defined: an invalid date makes an answer stale
//! (RFC 9111, 5.3), so that leniency would keep an answer too long. Only the case may differ. The name of the
//! day is parsed, and not compared to the date.

use http::{header, HeaderMap, HeaderValue};
use std::{
    cell::Cell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use time::{Date, Month, OffsetDateTime};

/// The most that a year of two digits may lie in the future: fifty years, in seconds.
const FIFTY_YEARS: u64 = 50 * 31_556_952;
/// The last second of a year of four digits, in seconds since the epoch.
const LAST_SECOND: u64 = 253_402_300_799;

/// The time from which on fifty years end with those that POSIX takes for the 21st century: 2018-12-31, in milliseconds.
const POSIX_PIVOT_MS: u64 = 1_546_214_400_000;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// The seconds since the epoch of an HTTP date (0 for an earlier one), or `None` if it is invalid.
///
/// `now_ms` decides the century of a year of two digits.
pub(crate) fn parse_date(text: &[u8], now_ms: u64) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.trim_matches([' ', '\t']).to_ascii_lowercase();
    imf_fixdate(&text).or_else(|| rfc_850(&text, now_ms)).or_else(|| asctime(&text))
}

/// The time of an HTTP date; `None` if it is invalid. A year of two digits is one from 1969 to 2068, as POSIX has it.
pub(crate) fn parse_time(text: &[u8]) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(parse_date(text, POSIX_PIVOT_MS)?))
}

/// Whole seconds since 1970; 0 for earlier times.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The length of an HTTP date as it is sent (IMF-fixdate), in bytes.
pub(crate) const DATE_LENGTH: usize = 29;

const EPOCH_TEXT: [u8; DATE_LENGTH] = *b"Thu, 01 Jan 1970 00:00:00 GMT";

thread_local! {
    /// The last date that was formatted, and its second.
    static LAST_WRITTEN: Cell<(u64, [u8; DATE_LENGTH])> = const { Cell::new((0, EPOCH_TEXT)) };
    /// The last `Date` that was parsed, and its second: most answers within a second have the same date.
    static LAST_READ: Cell<([u8; DATE_LENGTH], u64)> = const { Cell::new((EPOCH_TEXT, 0)) };
}

/// A second since 1970 as an HTTP date, at most the last one of the year 9999: formatted once per second and thread.
pub(crate) fn date_text(second: u64) -> [u8; DATE_LENGTH] {
    let second = second.min(LAST_SECOND);
    let (last, text) = LAST_WRITTEN.get();
    if last == second {
        return text;
    }
    let made = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
    let Ok(made) = <[u8; DATE_LENGTH]>::try_from(made.as_bytes()) else { return text };
    LAST_WRITTEN.set((second, made));
    made
}

/// Formats a second since 1970 as an HTTP date.
pub(crate) fn format_date(second: u64) -> HeaderValue {
    // The text is ASCII: the fallback is never taken.
    HeaderValue::from_bytes(&date_text(second))
        .unwrap_or(HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}

/// Formats a time as an HTTP date; `None` outside of the years that it can express.
pub(crate) fn format_time(time: SystemTime) -> Option<HeaderValue> {
    let second = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    (second <= LAST_SECOND).then(|| format_date(second))
}

/// The `Date` of an answer, in seconds since 1970; 0 if it has none that is valid.
pub(crate) fn response_date(headers: &HeaderMap) -> u64 {
    let Some(value) = headers.get(header::DATE) else { return 0 };
    let parse = || parse_time(value.as_bytes()).map_or(0, unix_seconds);
    let Ok(text) = <[u8; DATE_LENGTH]>::try_from(value.as_bytes()) else { return parse() };
    let (last, second) = LAST_READ.get();
    if last == text {
        return second;
    }
    let second = parse();
    LAST_READ.set((text, second));
    second
}

/// `sun, 06 nov 1994 08:49:37 gmt`
fn imf_fixdate(text: &str) -> Option<u64> {
    let (day, rest) = text.split_once(", ")?;
    let [date, month, year, time, "gmt"] = words(rest)? else { return None };
    let known = DAYS.iter().any(|name| name[..3] == *day);
    known.then(|| seconds(digits(year, 4)?, month, digits(date, 2)?, time)).flatten()
}

/// `sunday, 06-nov-94 08:49:37 gmt`
fn rfc_850(text: &str, now_ms: u64) -> Option<u64> {
    let (day, rest) = text.split_once(", ")?;
    let [date, time, "gmt"] = words(rest)? else { return None };
    let mut parts = date.split('-');
    let (Some(date), Some(month), Some(year), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let (date, year) = (digits(date, 2)?, digits(year, 2)?);
    let century = OffsetDateTime::from_unix_timestamp(i64::try_from(now_ms / 1_000).ok()?).ok()?.year() / 100;
    let at = |century: i32| seconds(u32::try_from(century).ok()? * 100 + year, month, date, time);
    let latest = (now_ms / 1_000).saturating_add(FIFTY_YEARS);
    let nearest = [century + 1, century, century - 1].into_iter().filter_map(at).find(|s| *s <= latest);
    DAYS.contains(&day).then_some(nearest).flatten()
}

/// `sun nov  6 08:49:37 1994`
fn asctime(text: &str) -> Option<u64> {
    let part = |range: std::ops::Range<usize>| text.get(range);
    let spaces = [3, 7, 10, 19].iter().all(|at| part(*at..at + 1) == Some(" "));
    let known = DAYS.iter().any(|name| Some(&name[..3]) == part(0..3));
    if text.len() != 24 || !spaces || !known {
        return None;
    }
    let date = part(8..10)?;
    // A one-digit day has a space in place of the first digit.
    let date = date.strip_prefix(' ').map_or_else(|| digits(date, 2), |one| digits(one, 1))?;
    seconds(digits(part(20..24)?, 4)?, part(4..7)?, date, part(11..19)?)
}

/// Exactly `N` words with one space between two of them.
fn words<const N: usize>(text: &str) -> Option<[&str; N]> {
    let words: Vec<&str> = text.split(' ').collect();
    words.try_into().ok()
}

/// A number of exactly `length` digits.
fn digits(text: &str, length: usize) -> Option<u32> {
    let all = text.len() == length && text.bytes().all(|b| b.is_ascii_digit());
    all.then(|| text.parse().ok()).flatten()
}

/// A time; `time` is `08:49:37`, with 60 as the second of a leap second.
fn seconds(year: u32, month: &str, date: u32, time: &str) -> Option<u64> {
    let month = MONTHS.iter().position(|name| *name == month)?;
    let month = Month::try_from(u8::try_from(month + 1).ok()?).ok()?;
    let date = Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(date).ok()?).ok()?;
    let mut parts = time.split(':').map(|part| digits(part, 2));
    let (Some(Some(hour)), Some(Some(minute)), Some(Some(second)), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let midnight = date.midnight().assume_utc().unix_timestamp();
    let within = i64::from(hour * 3_600 + minute * 60 + second);
    Some(u64::try_from(midnight + within).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2026-01-01
    const NOW_MS: u64 = 1_767_225_600_000;

    fn at(text: &str) -> Option<u64> {
        parse_date(text.as_bytes(), NOW_MS)
    }

    #[test]
    fn the_three_forms_mean_the_same() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "SUN, 06 nov 1994 08:49:37 gMT",
            " Sun, 06 Nov 1994 08:49:37 GMT ",
        ] {
            assert_eq!(at(text), Some(784_111_777), "{text}");
        }
        assert_eq!(at("Sun Nov 16 08:49:37 1994"), Some(784_975_777));
        assert_eq!(at("Thu, 31 Dec 1998 23:59:60 GMT"), Some(915_148_800));
        assert_eq!(at("Tue, 19 Jan 2038 14:14:08 GMT"), Some(2_147_523_248));
        assert_eq!(at("Sun, 21 Nov 2286 04:46:39 GMT"), Some(10_000_039_599));
        assert_eq!(at("Mon, 01 Jan 1900 00:00:00 GMT"), Some(0));
    }

    #[test]
    fn a_year_of_two_digits_lies_at_most_fifty_years_ahead() {
        let years = [("50", 2050), ("75", 2075), ("77", 1977), ("99", 1999), ("26", 2026), ("00", 2000)];
        for (two, four) in years {
            let short = format!("Monday, 18-Aug-{two} 02:01:18 GMT");
            assert_eq!(at(&short), at(&format!("Mon, 18 Aug {four} 02:01:18 GMT")), "{short}");
        }
    }

    #[test]
    fn without_a_clock_a_year_of_two_digits_is_read_as_posix_does() {
        let second = |text: &str| parse_time(text.as_bytes()).map(unix_seconds);
        for (two, four) in [("00", 2000), ("68", 2068), ("69", 1969), ("70", 1970), ("94", 1994)] {
            let (short, long) =
                (format!("Friday, 18-Aug-{two} 02:01:18 GMT"), format!("Fri, 18 Aug {four} 02:01:18 GMT"));
            assert_eq!(second(&short), second(&long), "{short}");
        }
        assert_eq!(second("Friday, 31-Feb-94 02:01:18 GMT"), None);
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "0",
            "-1",
            "Thu, 18 Aug 2050 02:01:18 UTC",
            "Thu, 18 Aug 2050 02:01:18 AEST",
            "Thu, 18 Aug 2050 02:01:18",
            "Thu, 18 Aug 50 02:01:18 GMT",
            "Thu 18 Aug 2050 02:01:18 GMT",
            "Thu, 18  Aug  2050 02:01:18 GMT",
            "Thu, 18-Aug-2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02.01.18 GMT",
            "Thu, 18 Aug 2050 2:01:18 GMT",
            "Thu, 18 Aug 2050 02:01:18 GMT, Thu, 18 Aug 2050 02:01:18 GMT",
            "Thx, 18 Aug 2050 02:01:18 GMT",
            "Thu, 31 Feb 2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 24:01:18 GMT",
            "Thu, 18 Aug 2050 02:01:18:00 GMT",
            "Thu, 18-Aug-50 02:01:18 GMT",
            "Thu Aug 8 02:01:18 2050",
            "Thu Aug  8 02:01:18 50",
            "Thu Aug 008 2:01:18 2050",
        ] {
            assert_eq!(at(text), None, "{text}");
        }
    }

    #[test]
    fn a_second_is_written_as_the_library_writes_it() {
        for second in [0, 1, 1_000_000_000, 1_000_000_000, LAST_SECOND] {
            let time = UNIX_EPOCH + Duration::from_secs(second);
            assert_eq!(date_text(second), httpdate::fmt_http_date(time).as_bytes());
            assert_eq!(format_time(time).unwrap(), httpdate::fmt_http_date(time));
        }
        assert_eq!(date_text(u64::MAX), date_text(LAST_SECOND));
        assert_eq!(format_time(UNIX_EPOCH + Duration::from_secs(LAST_SECOND + 1)), None);
        assert_eq!(format_time(UNIX_EPOCH - Duration::from_secs(1)), None);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(seconds in 0..=LAST_SECOND) {
            prop_assert_eq!(parse_date(format_date(seconds).as_bytes(), NOW_MS), Some(seconds));
        }

        #[test]
        fn nothing_that_is_sent_panics(text: Vec<u8>, near in "[A-Za-z]{3}[, ][ 0-9A-Za-z:é-]{0,30}", now: u64) {
            for text in [text.as_slice(), near.as_bytes()] {
                prop_assert!(parse_date(text, now).is_none_or(|s| s <= LAST_SECOND));
            }
        }
    }
}
