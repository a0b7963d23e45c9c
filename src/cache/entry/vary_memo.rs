//! A memo of the requests that a stored answer was compared with (RFC 9111, 4.1).
//!
//! Comparing a request's fields with those of another requires normal forms of both. Clients send the same
//! few values over and over: a result is remembered by the very bytes that were sent, and found again without
//! an allocation.

use crate::cache::policy::VariantMatch;
use arc_swap::ArcSwapOption;
use std::{fmt, sync::Arc};

/// The most values that are remembered for one answer; then it starts anew.
const MAX_MEMOS: usize = 16;
/// The longest value in bytes that is remembered.
const MAX_MEMO_BYTES: usize = 512;

/// One value for each of the fields that an answer varies by; `None` if there is no such field.
type VaryValues = Box<[Option<Box<[u8]>>]>;

/// The results of comparisons with an answer.
#[derive(Default)]
pub struct VaryMemo(ArcSwapOption<Vec<(VaryValues, VariantMatch)>>);

impl VaryMemo {
    /// The known result for these values, if there is one. `values` are those of the fields that the answer
    /// varies by, in their order.
    pub fn known<'v>(&self, values: impl Iterator<Item = Option<&'v [u8]>> + Clone) -> Option<VariantMatch> {
        let known = self.0.load();
        let is_same = |said: &VaryValues| {
            let mut now = values.clone();
            said.iter().all(|value| now.next() == Some(value.as_deref())) && now.next().is_none()
        };
        known.as_ref()?.iter().find(|(said, _)| is_same(said)).map(|(_, found)| *found)
    }

    /// Remembers a result.
    pub fn learn<'v>(&self, values: impl Iterator<Item = Option<&'v [u8]>>, found: VariantMatch) {
        let values: VaryValues = values.map(|value| value.map(Box::from)).collect();
        if values.iter().flatten().map(|value| value.len()).sum::<usize>() > MAX_MEMO_BYTES {
            return;
        }
        let known = self.0.load();
        let before = known.as_ref().filter(|known| known.len() < MAX_MEMOS);
        let mut all = before.map_or_else(Vec::new, |known| known.to_vec());
        all.push((values, found));
        self.0.store(Some(Arc::new(all)));
    }
}

/// A copy may have other content, with other results.
impl Clone for VaryMemo {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for VaryMemo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} said", self.0.load().as_ref().map_or(0, |known| known.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_is_known_by_its_very_bytes() {
        let said = VaryMemo::default();
        let (gzip, none) = ([Some(&b"gzip"[..]), None], [None, None]);
        assert_eq!(said.known(gzip.into_iter()), None);
        said.learn(gzip.into_iter(), VariantMatch::Exact);
        said.learn(none.into_iter(), VariantMatch::No);
        assert_eq!(said.known(gzip.into_iter()), Some(VariantMatch::Exact));
        assert_eq!(said.known(none.into_iter()), Some(VariantMatch::No));
        for other in [[Some(&b"Gzip"[..]), None], [Some(b"gzip"), Some(b"")], [None, Some(b"gzip")]] {
            assert_eq!(said.known(other.into_iter()), None, "{other:?}");
        }
        assert_eq!(said.clone().known(gzip.into_iter()), None);
    }

    #[test]
    fn no_more_is_remembered_than_so_much() {
        let said = VaryMemo::default();
        for n in 0..100_u32 {
            let value = n.to_string();
            said.learn([Some(value.as_bytes())].into_iter(), VariantMatch::Fits);
            assert_eq!(said.known([Some(value.as_bytes())].into_iter()), Some(VariantMatch::Fits));
        }
        assert!(said.0.load().as_ref().unwrap().len() <= MAX_MEMOS);
        let long = vec![0; MAX_MEMO_BYTES + 1];
        said.learn([Some(&long[..])].into_iter(), VariantMatch::Fits);
        assert_eq!(said.known([Some(&long[..])].into_iter()), None);
    }
}
