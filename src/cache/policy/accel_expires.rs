//! The meaning of `X-Accel-Redirect` and `X-Accel-Expires` for a cache.
//!
//! Pure. An answer that names a file is for its client alone: the file is sent, and nothing of the answer is
//! stored. Of all lifetimes in an answer, `X-Accel-Expires` has priority: it is meant for this cache alone.

use crate::http::{
    delta_seconds::delta_seconds,
    names::{ACCEL_EXPIRES, ACCEL_REDIRECT},
};
use http::{HeaderMap, HeaderName};

/// Returns true if a field tells a cache what it may store.
pub(crate) fn is_for_a_cache(name: &HeaderName) -> bool {
    [ACCEL_REDIRECT, ACCEL_EXPIRES].contains(name)
}

/// Returns true if an answer names a file to be sent in its place.
pub fn orders_a_file(answer: &HeaderMap) -> bool {
    answer.contains_key(ACCEL_REDIRECT)
}

/// The meaning of `X-Accel-Expires`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccelExpires {
    /// `0`: not to be stored.
    Never,
    /// Fresh for this many seconds.
    For(u64),
    /// `@`: fresh until these seconds since 1970.
    Until(u64),
}

/// Reads the field of an answer; `None` if it is missing or no number.
pub fn accel_expires(answer: &HeaderMap) -> Option<AccelExpires> {
    let value = answer.get(ACCEL_EXPIRES)?.as_bytes().trim_ascii();
    match value.strip_prefix(b"@") {
        Some(until) => std::str::from_utf8(until).ok()?.parse().ok().map(AccelExpires::Until),
        None => match delta_seconds(value)? {
            0 => Some(AccelExpires::Never),
            seconds => Some(AccelExpires::For(seconds)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::policy::test_kit::fields;

    #[test]
    fn lifetimes_as_nginx_reads_them() {
        let of = |value| accel_expires(&fields(&[("x-accel-expires", value)]));
        assert_eq!(of("60"), Some(AccelExpires::For(60)));
        assert_eq!(of("0"), Some(AccelExpires::Never));
        assert_eq!(of("@1700000000"), Some(AccelExpires::Until(1_700_000_000)));
        assert_eq!(of("@0"), Some(AccelExpires::Until(0)));
        for nothing in ["off", "", "-1", "1m", "@", "@x"] {
            assert_eq!(of(nothing), None, "{nothing}");
        }
        assert_eq!(accel_expires(&HeaderMap::new()), None);
        assert!(orders_a_file(&fields(&[("x-accel-redirect", "/x")])) && !orders_a_file(&HeaderMap::new()));
    }
}
