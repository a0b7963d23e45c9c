//! The value of a version key: what tells one generation from another, and which of two came first.

use sha2::{Digest, Sha256};
use std::{
    fmt,
    sync::{Arc, LazyLock},
};

/// The version of an absent key.
const ABSENT: &str = "1";

/// The value of a version key, as opaque bytes. Any change of bytes is another version.
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
        let plain = !value.is_empty() && value.len() <= 20 && value.iter().all(u8::is_ascii_digit);
        let tag = match plain {
            true => String::from_utf8_lossy(value).into_owned(),
            // Begins with a letter: no digits can pose as it, nor it as digits.
            false => {
                Sha256::digest(value).iter().take(12).fold(String::from("x"), |t, b| t + &format!("{b:02x}"))
            }
        };
        Self { tag: tag.into() }
    }

    /// A name for what comes after a version that could not be read; no value of a key has such a name.
    pub(super) fn of_this_node(name: String) -> Self {
        Self { tag: name.into() }
    }

    /// The text behind `:v` in the key of an answer: the digits themselves, else `x` and a hash.
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

    /// Returns whether this comes before `other`: a lower number, or an absent key where there was a value that is no number.
    pub fn is_behind(&self, other: &Self) -> bool {
        match (self.number(), other.number()) {
            (Some(this), Some(other)) => this < other,
            (Some(_), None) => self.is_absent(),
            (None, _) => false,
        }
    }

    fn number(&self) -> Option<u64> {
        self.tag.parse().ok()
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
