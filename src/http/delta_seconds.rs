//! Times in seconds (RFC 9111, 1.2.2).

/// The longest time in seconds: a greater one counts as this (RFC 9111, 1.2.2).
pub(crate) const MAX_DELTA_SECONDS: u64 = 1 << 31;

/// Parses seconds, at most [`MAX_DELTA_SECONDS`]; `None` for anything but digits (RFC 9111, 1.2.2).
pub(crate) fn delta_seconds(text: &[u8]) -> Option<u64> {
    let all = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let add = |sum: u64, digit: &u8| (sum * 10 + u64::from(digit - b'0')).min(MAX_DELTA_SECONDS);
    all.then(|| text.iter().fold(0, add))
}
