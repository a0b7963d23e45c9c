//! The value of a version key: the identity of a generation, and the order of two.

use super::pickle;
use sha2::{Digest, Sha256};
use std::{
    fmt,
    sync::{Arc, LazyLock},
};

/// The version of an absent key.
const ABSENT: &str = "1";
/// The end of numbers: a version from here on is too close to the limit of Redis (2⁶³), and its successor is
/// the time. Nanoseconds since 1970 get there in 2116.
const END: u64 = 1 << 62;

/// The value of a version key, as opaque bytes. Other bytes are another version; those that hold a number, in
/// plain digits or pickled, are compared by it.
#[derive(Clone)]
pub struct Version {
    tag: Arc<str>,
}

impl Version {
    /// The version of an absent key.
    pub fn absent() -> Self {
        // Shared: without any bump, each entry would have one of its own.
        static SHARED: LazyLock<Version> = LazyLock::new(|| Version::new(ABSENT.as_bytes()));
        SHARED.clone()
    }

    /// Returns true if it is that of an absent key.
    pub fn is_absent(&self) -> bool {
        &*self.tag == ABSENT
    }

    /// A version from the value of its key.
    pub fn new(value: &[u8]) -> Self {
        if pickle::parse_digits(value).is_some() {
            return Self::named(String::from_utf8_lossy(value).into_owned());
        }
        // It begins with a letter: no digits can pose as it, nor it as digits.
        let tag =
            Sha256::digest(value).iter().take(12).fold(String::from("x"), |t, b| t + &format!("{b:02x}"));
        match pickle::parse_pickle(value) {
            Some(number) => Self::named(format!("{tag}-{number}")),
            None => Self::named(tag),
        }
    }

    /// The version with this tag: one from the key of an answer, or a name that this node makes up for a
    /// version that it could not read. No value of a key has a tag that begins with a letter other than `x`.
    pub fn named(tag: String) -> Self {
        Self { tag: tag.into() }
    }

    /// Returns true if it is a time, in milliseconds since 1970 or finer: counting never reaches such a
    /// number.
    pub fn is_time(&self) -> bool {
        const EARLIEST: u64 = 1_000_000_000_000;
        self.number().is_some_and(|number| number >= EARLIEST)
    }

    /// The text after `:v` in the key of an answer: the digits themselves, else `x`, a hash, and the pickled
    /// number.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The version after a bump at `now_ms`: never lower, whatever happened to the store.
    pub fn next_version(&self, now_ms: u64) -> Self {
        Self::new(self.successor().max(now_ms).to_string().as_bytes())
    }

    /// The next number; 1 for a version that is no number.
    pub fn successor(&self) -> u64 {
        self.number().unwrap_or(0).saturating_add(1)
    }

    /// Returns true if this comes before `other`: a lower number, or an absent key where there was a value.
    pub fn is_behind(&self, other: &Self) -> bool {
        match (self.number(), other.number()) {
            (Some(this), Some(other)) if this < other => true,
            _ => self.is_absent() && !other.is_absent(),
        }
    }

    fn number(&self) -> Option<u64> {
        let digits = match self.tag.strip_prefix('x') {
            Some(pickled) => pickled.split_once('-')?.1,
            None => &self.tag,
        };
        digits.parse().ok().filter(|number| *number < END)
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.tag, &other.tag) || self.tag == other.tag
    }
}

impl Eq for Version {}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.tag)
    }
}
