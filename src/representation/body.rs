//! A body: immutable content in one piece or several.
//!
//! Content that arrives in pieces stays in them: a large body is never made contiguous. Cloning and slicing
//! copy no content. A body of one piece costs as much as its `Bytes`.

use bytes::Bytes;
use std::{ops::Range, sync::Arc};
use xxhash_rust::xxh3::{xxh3_128, Xxh3};

/// Immutable content. Two bodies are equal if their content is, regardless of the pieces.
#[derive(Debug, Clone)]
pub struct Body(BodyStorage);

/// No piece is empty, except in the empty body.
#[derive(Debug, Clone)]
enum BodyStorage {
    One(Bytes),
    Several { pieces: Arc<[Bytes]>, length: u64 },
}

impl Body {
    /// A body without content.
    pub const fn new() -> Self {
        Self(BodyStorage::One(Bytes::new()))
    }

    /// The content of all pieces, in their order.
    pub fn from_pieces(mut pieces: Vec<Bytes>) -> Self {
        pieces.retain(|piece| !piece.is_empty());
        if pieces.len() < 2 {
            return Self(BodyStorage::One(pieces.pop().unwrap_or_default()));
        }
        let length = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self(BodyStorage::Several { pieces: pieces.into(), length })
    }

    /// The length in bytes.
    pub fn len(&self) -> u64 {
        match &self.0 {
            BodyStorage::One(piece) => piece.len() as u64,
            BodyStorage::Several { length, .. } => *length,
        }
    }

    /// Returns true if there is no content.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces in their order, none of them empty.
    pub fn pieces(&self) -> std::slice::Iter<'_, Bytes> {
        match &self.0 {
            BodyStorage::One(piece) if piece.is_empty() => [].iter(),
            BodyStorage::One(piece) => std::slice::from_ref(piece).iter(),
            BodyStorage::Several { pieces, .. } => pieces.iter(),
        }
    }

    /// A part of the body, without copying content. The range is cut at the end of the body.
    pub fn slice(&self, range: Range<u64>) -> Self {
        let mut begin = 0;
        let parts = self.pieces().filter_map(|piece| {
            let length = piece.len() as u64;
            let [from, to] = [range.start, range.end].map(|at| at.saturating_sub(begin).min(length) as usize);
            begin += length;
            (from < to).then(|| piece.slice(from..to))
        });
        Self::from_pieces(parts.collect())
    }

    /// All content as one piece; copied only if it is in several.
    pub fn to_bytes(&self) -> Bytes {
        match &self.0 {
            BodyStorage::One(piece) => piece.clone(),
            BodyStorage::Several { pieces, .. } => pieces.concat().into(),
        }
    }

    /// Copies a small body into memory of its own: as it came, it may share a larger buffer, which would stay
    /// allocated with it.
    pub(super) fn compact(self) -> Self {
        const SMALL: usize = 4 * 1024;
        match self.0 {
            BodyStorage::One(piece) if piece.len() <= SMALL => {
                Bytes::from(Box::<[u8]>::from(&piece[..])).into()
            }
            pieces => Self(pieces),
        }
    }

    /// The body to send with one answer. A small piece is copied: sharing it would take memory for as long as
    /// it is kept, and most of the cache is never sent again.
    pub fn to_send(&self) -> Self {
        const SMALL: usize = 512;
        match &self.0 {
            BodyStorage::One(piece) if piece.len() <= SMALL => Bytes::copy_from_slice(piece).into(),
            _ => self.clone(),
        }
    }

    /// XXH3-128 of the content.
    pub fn hash(&self) -> u128 {
        match &self.0 {
            BodyStorage::One(piece) => xxh3_128(piece),
            BodyStorage::Several { pieces, .. } => {
                let mut hasher = Xxh3::new();
                pieces.iter().for_each(|piece| hasher.update(piece));
                hasher.digest128()
            }
        }
    }

    /// The memory it takes beside itself, in bytes.
    pub(super) fn weight(&self) -> u64 {
        /// The bytes by which a piece is shared.
        const SHARED: usize = 24;
        let one = |piece: &Bytes| allocated_size(piece.len()) + allocated_size(SHARED);
        match &self.0 {
            BodyStorage::One(piece) => one(piece),
            BodyStorage::Several { pieces, .. } => {
                pieces.iter().map(one).sum::<u64>() + size_of_val(&**pieces) as u64
            }
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Bytes> for Body {
    fn from(piece: Bytes) -> Self {
        Self(BodyStorage::One(piece))
    }
}

impl From<Vec<u8>> for Body {
    fn from(content: Vec<u8>) -> Self {
        Bytes::from(content).into()
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        if let (BodyStorage::One(one), BodyStorage::One(other)) = (&self.0, &other.0) {
            return one == other;
        }
        let bytes = |body: &Self| body.pieces().cloned().collect::<Vec<_>>().into_iter().flatten();
        self.len() == other.len() && bytes(self).eq(bytes(other))
    }
}

impl Eq for Body {}

/// The memory that the allocator reserves for `bytes` bytes: it has four size classes between two powers of
/// two.
pub fn allocated_size(bytes: usize) -> u64 {
    let step = (bytes.next_power_of_two() / 8).max(16);
    bytes.next_multiple_of(step) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(content: &[u8], at: &[usize]) -> Body {
        let mut points: Vec<usize> = at.iter().map(|at| at % (content.len() + 1)).collect();
        points.extend([0, content.len()]);
        points.sort_unstable();
        let pieces = points.windows(2).map(|w| Bytes::copy_from_slice(&content[w[0]..w[1]]));
        Body::from_pieces(pieces.collect())
    }

    proptest! {
        #[test]
        fn however_it_is_cut_it_is_the_same(
            content in prop::collection::vec(any::<u8>(), 0..300),
            at in prop::collection::vec(any::<usize>(), 0..6),
            range in (0_u64..400, 0_u64..400),
        ) {
            let (plain, body) = (Body::from(content.clone()), cut(&content, &at));
            prop_assert_eq!(&body, &plain);
            prop_assert_eq!(body.len(), content.len() as u64);
            prop_assert_eq!(body.hash(), plain.hash());
            prop_assert_eq!(&body.to_bytes()[..], &content[..]);
            prop_assert!(body.pieces().all(|piece| !piece.is_empty()));
            let clamped = content.iter().skip(range.0 as usize).take(range.1.saturating_sub(range.0) as usize);
            prop_assert_eq!(body.slice(range.0..range.1).to_bytes().to_vec(), clamped.copied().collect::<Vec<_>>());
        }
    }

    #[test]
    fn slices_and_clones_share_the_content() {
        let body = cut(&[7; 100], &[10, 50]);
        let first = body.pieces().next().unwrap();
        assert_eq!(body.clone().slice(0..5).pieces().next().unwrap().as_ptr(), first.as_ptr());
        let large = Body::from(vec![7; 5_000]);
        assert_eq!(large.to_send().to_bytes().as_ptr(), large.to_bytes().as_ptr());
        assert_eq!(body.to_send(), body);
        let one = Body::from(vec![1, 2, 3]);
        assert_eq!((one.to_send(), one.clone().compact()), (one.clone(), one.clone()));
        assert_eq!(one.to_bytes().as_ptr(), one.pieces().next().unwrap().as_ptr());
        assert_ne!(one, Body::from(vec![1, 2, 4]));
        assert_ne!(cut(&[7; 100], &[10]), cut(&[7; 99], &[10]));
    }

    #[test]
    fn the_common_body_is_no_larger_than_its_bytes() {
        assert_eq!(size_of::<Body>(), size_of::<Bytes>());
        assert_eq!(Body::new().pieces().count(), 0);
        assert!(Body::from_pieces(vec![Bytes::new(), Bytes::new()]).is_empty());
    }
}
