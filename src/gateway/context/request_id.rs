//! The id of a request: the client's own, or a new one.

use crate::http::names::REQUEST_ID;

use http::{HeaderMap, HeaderValue};
use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
};

/// The longest request id that is accepted from a client, in bytes.
const MAX_ID_LENGTH: usize = 64;

/// The length of a generated request id, in bytes.
const OWN_ID_LENGTH: usize = 24;

/// Generates request ids that are unique: a random prefix and a counter.
pub(crate) struct RequestIdSource {
    beginning: u32,
}

/// The number of values that a thread reserves at once, since a shared counter costs more than the id.
const ID_BLOCK: u64 = 1024;

/// The next block of numbers.
static NEXT_ID_BLOCK: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The thread's next value; at the start of a block, a new block is reserved.
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

impl RequestIdSource {
    pub(crate) fn new() -> Self {
        Self { beginning: rand::random() }
    }

    /// The id of a request: the client's own if it is acceptable, so that a request can be traced through all
    /// servers that handle it.
    pub(crate) fn of(&self, headers: &HeaderMap) -> HeaderValue {
        match headers.get(REQUEST_ID).filter(|id| is_valid_id(id.as_bytes())) {
            Some(id) => id.clone(),
            None => self.next(),
        }
    }

    fn next(&self) -> HeaderValue {
        // Hexadecimal digits are a valid value.
        HeaderValue::from_bytes(&self.next_text()).unwrap_or(HeaderValue::from_static("-"))
    }

    fn next_text(&self) -> [u8; OWN_ID_LENGTH] {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let count = next_number();
        let number = (u128::from(self.beginning) << 64) | u128::from(count);
        let mut text = [0_u8; OWN_ID_LENGTH];
        for (place, digit) in text.iter_mut().rev().enumerate() {
            *digit = HEX[(number >> (4 * place)) as usize & 0xf];
        }
        text
    }

    /// The same as [`Self::of`], for a field's value instead of a head.
    pub(crate) fn accept_client_id(&self, said: Option<&[u8]>) -> RequestId {
        let mut id = RequestId { text: [0; MAX_ID_LENGTH], length: 0 };
        match said.filter(|id| is_valid_id(id)) {
            Some(said) => id.fill(said),
            None => id.fill(&self.next_text()),
        }
        id
    }
}

/// A request's id outside of a header field.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestId {
    text: [u8; MAX_ID_LENGTH],
    length: u8,
}

impl RequestId {
    fn fill(&mut self, text: &[u8]) {
        let length = text.len().min(MAX_ID_LENGTH);
        self.text[..length].copy_from_slice(&text[..length]);
        // At most 64.
        self.length = u8::try_from(length).unwrap_or(0);
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.text[..usize::from(self.length)]
    }
}

/// A number that no other request of this process has.
fn next_number() -> u64 {
    NEXT.with(|next| {
        let taken = match next.get() {
            n if n % ID_BLOCK == 0 => NEXT_ID_BLOCK.fetch_add(1, Ordering::Relaxed) * ID_BLOCK,
            n => n,
        };
        next.set(taken + 1);
        taken
    })
}

fn is_valid_id(id: &[u8]) -> bool {
    (1..=MAX_ID_LENGTH).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_kept_and_any_other_replaced() {
        let ids = RequestIdSource::new();
        let with =
            |id: &'static str| HeaderMap::from_iter([("x-request-id".parse().unwrap(), id.parse().unwrap())]);
        assert_eq!(ids.of(&with("abc-1")), "abc-1");
        assert_ne!(ids.of(&with("a b")), "a b");
        assert_ne!(ids.of(&HeaderMap::new()), ids.of(&HeaderMap::new()));
        assert_eq!(ids.of(&HeaderMap::new()).len(), 24);
    }

    #[test]
    fn no_number_is_given_twice() {
        let take = || (0..3 * ID_BLOCK).map(|_| next_number()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(take)).collect();
        let mut all: Vec<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let given = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), given);
    }
}
