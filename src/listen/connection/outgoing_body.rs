//! A body that is being sent, and its pieces for one system call.

use crate::representation::Body;
use std::io::IoSlice;

/// The rest of a body.
pub(crate) struct OutgoingBody {
    pub(crate) body: Body,
    pub(crate) sent: u64,
}

/// The most pieces of an answer in one system call.
pub(super) const MAX_PIECES: usize = 16;

/// Puts the unsent bytes into `places`, as many pieces as fit; returns their number.
pub(super) fn gather_slices<'s>(
    front: &'s [u8],
    rest: &'s OutgoingBody,
    places: &mut [IoSlice<'s>; MAX_PIECES],
) -> usize {
    let (mut skip, mut count) = (rest.sent, 0);
    let behind = rest.body.pieces().filter_map(|piece| {
        let passed = usize::try_from(skip).map_or(piece.len(), |skip| skip.min(piece.len()));
        skip -= passed as u64;
        Some(&piece[passed..]).filter(|left| !left.is_empty())
    });
    let all = Some(front).filter(|front| !front.is_empty()).into_iter().chain(behind);
    for (place, piece) in places.iter_mut().zip(all) {
        *place = IoSlice::new(piece);
        count += 1;
    }
    count
}
