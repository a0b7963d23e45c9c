//! The value of a version key: what tells one generation from another, and which of two came first.

use super::pickle;
use sha2::{Digest, Sha256};
use std::{
    fmt,
    sync::{Arc, LazyLock},
};

/// The version of an absent key.
const ABSENT: &str = "1";
/// A version from here on is no number: it is too near to what Redis can't count any more (2⁶³), and what follows it is the
/// time. Nanoseconds since 1970 get there in 2116.
const END: u64 = 1 << 62;

/// The value of a version key, as opaque bytes. Any change of bytes is another version; those that hold a number, in
/// plain digits or pickled, are compared by it.
#[derive(Clone)]
pub struct Version {
    tag: Arc<str>,
}

impl Version {
    /// The version that an absent key means.
    pub fn absent() -> Self {
        // Where nothing was ever bumped, each entry would have one of its own.
        static SHARED: LazyLock<Version> = LazyLock::new(|| Version::new(ABSENT.as_bytes()));
        SHARED.clone()
    }

    /// Returns whether it is that of an absent key.
    pub fn is_absent(&self) -> bool {
        &*self.tag == ABSENT
    }

    /// A version from the value of its key.
    pub fn new(value: &[u8]) -> Self {
        if pickle::digits(value).is_some() {
            return Self::named(String::from_utf8_lossy(value).into_owned());
        }
        // Begins with a letter: no digits can pose as it, nor it as digits.
        let tag =
            Sha256::digest(value).iter().take(12).fold(String::from("x"), |t, b| t + &format!("{b:02x}"));
        match pickle::number(value) {
            Some(number) => Self::named(format!("{tag}-{number}")),
            None => Self::named(tag),
        }
    }

    /// The version of this tag: one that stood in the key of an answer, or a name that this node makes up for what it
    /// could not read. No value of a key has one that begins with another letter than `x`.
    pub fn named(tag: String) -> Self {
        Self { tag: tag.into() }
    }

    /// Returns whether it is a time, in milliseconds since 1970 or less than that: nobody counts to it again.
    pub fn is_time(&self) -> bool {
        const EARLIEST: u64 = 1_000_000_000_000;
        self.number().is_some_and(|number| number >= EARLIEST)
    }

    /// The text behind `:v` in the key of an answer: the digits themselves, else `x`, a hash, and the number that is pickled.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The version that a bump at `now_ms` leads to: never backwards, whatever happened to the store.
    pub fn bumped(&self, now_ms: u64) -> Self {
        Self::new(self.successor().max(now_ms).to_string().as_bytes())
    }

    /// The next number; that of a version which is no number is 1.
    pub fn successor(&self) -> u64 {
        self.number().unwrap_or(0).saturating_add(1)
    }

    /// Returns whether this comes before `other`: a lower number, or an absent key where there was a value.
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
