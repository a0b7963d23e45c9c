//! The names that enter cache keys: checked once, then trusted.
//!
//! A [`Name`] holds `[A-Za-z0-9_.-]`, 1 to 64 of them: it needs no escaping inside a key, a metric label or a
//! log line, and can't contain the `:` that separates the parts of a key.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, LazyLock},
};

/// The longest name that is accepted, in bytes.
pub const MAX_NAME: usize = 64;

/// A namespace, a tenant, an origin: a word of safe characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// A namespace of the cache (`kpi`, `chart`).
pub type Namespace = Name;
/// A tenant, named by a token or an event.
pub type Tenant = Name;

/// The reason why a text is not a [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("must not be empty")]
    Empty,
    /// Longer than [`MAX_NAME`] bytes.
    #[error("must not be longer than {MAX_NAME} bytes")]
    TooLong,
    /// A character outside `[A-Za-z0-9_.-]`.
    #[error("may only hold letters, digits, '_', '.' and '-'")]
    Character,
}

impl Name {
    /// The tenant of requests without a token.
    pub fn public() -> &'static Self {
        static PUBLIC: LazyLock<Name> = LazyLock::new(|| Name(Arc::from("public")));
        &PUBLIC
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME {
            return Err(NameError::TooLong);
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')) {
            return Err(NameError::Character);
        }
        Ok(Self(Arc::from(text)))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_split_a_key_is_no_name() {
        for bad in ["", "a:b", "a b", "a/b", "a\0b", "é", "a%3Ab", "a\nb"] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(MAX_NAME + 1).parse::<Name>().is_err());
        for good in ["acme", "a-b_c.d", "0", &"x".repeat(MAX_NAME)] {
            assert_eq!(good.parse::<Name>().map(|n| n.to_string()).as_deref(), Ok(good));
        }
    }
}
