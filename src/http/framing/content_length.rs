//! The length of a body as its head gives it: `Content-Length` (RFC 9110, 8.6).
//!
//! Pure. A sender should give one length once. A request has to ([`request_length`]); an answer may repeat it,
//! in several lines or in a list, as long as all values are equal ([`agreed_length`]).

use crate::http::field_lines::field_lines;

use http::{header, HeaderMap};

/// The most digits of a request's length: one that fits into 64 bits, with a sign or without, at each recipient.
const MAX_REQUEST_DIGITS: usize = 18;

/// The fault of lengths that can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LengthFault {
    /// One is not a number of at most 64 bits.
    #[error("an invalid Content-Length")]
    Invalid,
    /// Two are not equal.
    #[error("differing Content-Length values")]
    Differing,
}

/// Parses one length: digits alone; `None` for anything else, and for more than 64 bits.
pub(crate) fn parse_length(value: &[u8]) -> Option<u64> {
    let add = |sum: u64, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    };
    value.iter().try_fold(0, add).filter(|_| !value.is_empty())
}

/// Parses the value of a request's only line: no list, and at most `MAX_REQUEST_DIGITS`.
pub(crate) fn request_length(value: &[u8]) -> Option<u64> {
    parse_length(value).filter(|_| value.len() <= MAX_REQUEST_DIGITS)
}

/// The length that all lines and all elements of their lists give; `None` without a line.
///
/// # Errors
/// If one is invalid, or if they differ.
pub(crate) fn agreed_length(headers: &HeaderMap) -> Result<Option<u64>, LengthFault> {
    let mut agreed = None;
    for line in field_lines(headers, &header::CONTENT_LENGTH) {
        for element in line.split(|b| *b == b',') {
            let length = parse_length(element.trim_ascii()).ok_or(LengthFault::Invalid)?;
            if *agreed.get_or_insert(length) != length {
                return Err(LengthFault::Differing);
            }
        }
    }
    Ok(agreed)
}

/// The length in a head that was checked before; `None` also for lengths that can't be used.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    agreed_length(headers).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_length_is_digits_of_at_most_64_bits() {
        for (text, length, of_request) in [
            ("0", Some(0), Some(0)),
            ("5", Some(5), Some(5)),
            ("007", Some(7), Some(7)),
            ("999999999999999999", Some(999_999_999_999_999_999), Some(999_999_999_999_999_999)),
            ("1000000000000000000", Some(1_000_000_000_000_000_000), None),
            ("0000000000000000005", Some(5), None),
            ("18446744073709551615", Some(u64::MAX), None),
            ("18446744073709551616", None, None),
            ("99999999999999999999999", None, None),
            ("", None, None),
            ("+5", None, None),
            ("-5", None, None),
            (" 5", None, None),
            ("5 ", None, None),
            ("5.0", None, None),
            ("5;", None, None),
            ("0x5", None, None),
            ("1_0", None, None),
            ("5,5", None, None),
            ("\u{0665}", None, None),
        ] {
            assert_eq!(parse_length(text.as_bytes()), length, "{text:?}");
            assert_eq!(request_length(text.as_bytes()), of_request, "{text:?}");
        }
    }

    #[test]
    fn equal_lengths_count_as_one() {
        let invalid = Err(LengthFault::Invalid);
        for (lines, agreed) in [
            (&[][..], Ok(None)),
            (&["5"], Ok(Some(5))),
            (&["5", "5"], Ok(Some(5))),
            (&["5, 5"], Ok(Some(5))),
            (&["5 ,\t5", "05"], Ok(Some(5))),
            (&["5, 6"], Err(LengthFault::Differing)),
            (&["5", "6"], Err(LengthFault::Differing)),
            (&["5", "x"], invalid),
            (&["5,"], invalid),
            (&[""], invalid),
            (&["5 5"], invalid),
            (&["+5"], invalid),
            (&["\u{00e9}"], invalid),
            (&["18446744073709551616"], invalid),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::CONTENT_LENGTH, HeaderValue::from_bytes(line.as_bytes()).unwrap());
            }
            assert_eq!(agreed_length(&headers), agreed, "{lines:?}");
            assert_eq!(content_length(&headers), agreed.ok().flatten(), "{lines:?}");
        }
    }
}
