//! What requests have said to which a stored answer was found to fit (RFC 9111, 4.1).
//!
//! To compare a request's fields with those of another costs normal forms of both. Clients say the same few things over
//! and over: what was found once is remembered by the very bytes that were said, and compared without making anything.

use super::policy::Match;
use arc_swap::ArcSwapOption;
use std::{fmt, sync::Arc};

/// So many things are remembered of one answer; then it begins anew.
const MOST: usize = 16;
/// What is longer is not remembered.
const LONGEST: usize = 512;

/// One value for each of the fields that an answer varies by; `None` where there is no such field.
type Values = Box<[Option<Box<[u8]>>]>;

/// What fits an answer.
#[derive(Default)]
pub struct Said(ArcSwapOption<Vec<(Values, Match)>>);

impl Said {
    /// How an answer fits what is said now, if that was found out before. `values` are those of the fields that it
    /// varies by, in their order.
    pub fn known<'v>(&self, values: impl Iterator<Item = Option<&'v [u8]>> + Clone) -> Option<Match> {
        let known = self.0.load();
        let is_same = |said: &Values| {
            let mut now = values.clone();
            said.iter().all(|value| now.next() == Some(value.as_deref())) && now.next().is_none()
        };
        known.as_ref()?.iter().find(|(said, _)| is_same(said)).map(|(_, found)| *found)
    }

    /// Remembers what was found out.
    pub fn learn<'v>(&self, values: impl Iterator<Item = Option<&'v [u8]>>, found: Match) {
        let values: Values = values.map(|value| value.map(Box::from)).collect();
        if values.iter().flatten().map(|value| value.len()).sum::<usize>() > LONGEST {
            return;
        }
        let known = self.0.load();
        let before = known.as_ref().filter(|known| known.len() < MOST);
        let mut all = before.map_or_else(Vec::new, |known| known.to_vec());
        all.push((values, found));
        self.0.store(Some(Arc::new(all)));
    }
}

/// A copy may have other content, which fits otherwise.
impl Clone for Said {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} said", self.0.load().as_ref().map_or(0, |known| known.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_is_known_by_its_very_bytes() {
        let said = Said::default();
        let (gzip, none) = ([Some(&b"gzip"[..]), None], [None, None]);
        assert_eq!(said.known(gzip.into_iter()), None);
        said.learn(gzip.into_iter(), Match::Exact);
        said.learn(none.into_iter(), Match::No);
        assert_eq!(said.known(gzip.into_iter()), Some(Match::Exact));
        assert_eq!(said.known(none.into_iter()), Some(Match::No));
        for other in [[Some(&b"Gzip"[..]), None], [Some(b"gzip"), Some(b"")], [None, Some(b"gzip")]] {
            assert_eq!(said.known(other.into_iter()), None, "{other:?}");
        }
        assert_eq!(said.clone().known(gzip.into_iter()), None);
    }

    #[test]
    fn no_more_is_remembered_than_so_much() {
        let said = Said::default();
        for n in 0..100_u32 {
            let value = n.to_string();
            said.learn([Some(value.as_bytes())].into_iter(), Match::Fits);
            assert_eq!(said.known([Some(value.as_bytes())].into_iter()), Some(Match::Fits));
        }
        assert!(said.0.load().as_ref().unwrap().len() <= MOST);
        let long = vec![0; LONGEST + 1];
        said.learn([Some(&long[..])].into_iter(), Match::Fits);
        assert_eq!(said.known([Some(&long[..])].into_iter()), None);
    }
}
