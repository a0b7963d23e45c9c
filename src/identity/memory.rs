//! The memory of verified tokens: bounded, and keyed by the whole token.
//!
//! It never decides whether a token is still valid: the caller checks the times again. The whole text is
//! compared, so that a hash collision can't give one bearer the other's identity.

use super::Identity;
use quick_cache::{sync::Cache, Weighter};
use std::sync::Arc;

/// Bytes of token text that count as one entry. Few tokens are longer; those count for more, or they could
/// make the memory sixteen times as large as intended.
const SLOT_BYTES: usize = 512;

/// The verified claims of a token.
#[derive(Debug, Clone)]
pub(super) struct KnownToken {
    pub(super) identity: Arc<Identity>,
    /// `nbf`, Unix milliseconds; 0 if the token has none.
    pub(super) not_before: u64,
}

pub(super) struct TokenMemory(Cache<Box<str>, KnownToken, TokenWeighter>);

#[derive(Clone)]
struct TokenWeighter;

impl Weighter<Box<str>, KnownToken> for TokenWeighter {
    fn weight(&self, token: &Box<str>, _: &KnownToken) -> u64 {
        1 + (token.len() / SLOT_BYTES) as u64
    }
}

impl TokenMemory {
    /// A memory for `capacity` tokens shorter than [`SLOT_BYTES`].
    pub(super) fn new(capacity: usize) -> Self {
        Self(Cache::with_weighter(capacity, capacity as u64, TokenWeighter))
    }

    pub(super) fn recall(&self, token: &str) -> Option<KnownToken> {
        self.0.get(token)
    }

    pub(super) fn remember(&self, token: &str, known: KnownToken) {
        self.0.insert(Box::from(token), known);
    }

    pub(super) fn forget(&self, token: &str) {
        self.0.remove(token);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;

    fn known() -> KnownToken {
        let identity = Identity { tenant: Some(Name::public().clone()), user: None, role: None, expires: 0 };
        KnownToken { identity: Arc::new(identity), not_before: 0 }
    }

    #[test]
    fn never_holds_more_than_its_capacity() {
        let memory = TokenMemory::new(64);
        for n in 0..1_000 {
            memory.remember(&format!("token-{n}"), known());
        }
        assert!((1..=64).contains(&memory.len()), "{}", memory.len());
    }

    #[test]
    fn long_tokens_count_for_more() {
        let memory = TokenMemory::new(64);
        for n in 0..1_000 {
            memory.remember(&format!("{n:04}{}", "x".repeat(8_000)), known());
        }
        assert!((1..=4).contains(&memory.len()), "{}", memory.len());
    }
}
