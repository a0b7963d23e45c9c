//! Finds the boundaries of WebSocket frames (RFC 6455, 5.2).
//!
//! Follows one direction, however its bytes are split, by the frames' headers alone. It reads and keeps no
//! payload, and validates nothing: that is for the two ends. It decides whether the gateway may insert a
//! frame of its own: between two frames, never within one. Between the fragments of a message is permitted as
//! well (5.4).

/// A close frame of a server: going away, 1001 (RFC 6455, 7.4.1).
pub(crate) const GOING_AWAY_FRAME: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

/// The longest header: two bytes, eight of length, four of mask.
const MAX_HEADER_BYTES: usize = 14;
/// The opcode of a close frame.
const CLOSE_OPCODE: u8 = 0x8;

/// The position of a stream within its frames.
#[derive(Debug, Clone, Default)]
pub(crate) struct WebSocketFrames {
    header: [u8; MAX_HEADER_BYTES],
    /// The number of bytes of the header that have come; 0 between frames, and within a payload.
    have: usize,
    /// The number of bytes of the payload that are still to come.
    left: u64,
    closed: bool,
}

impl WebSocketFrames {
    /// Returns true if the last byte ended a frame, or none has come yet.
    pub(crate) fn between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// Returns true if a whole close frame has passed.
    pub(crate) fn closed(&self) -> bool {
        self.closed
    }

    /// Follows all of `data`.
    pub(crate) fn follow(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let n = self.step(data);
            data = &data[n..];
        }
    }

    /// Follows `data` up to the end of the current frame; returns the number of bytes, 0 between frames.
    pub(crate) fn finish(&mut self, data: &[u8]) -> usize {
        let mut n = 0;
        while n < data.len() && !self.between() {
            n += self.step(&data[n..]);
        }
        n
    }

    /// Follows some of `data`, at least one byte and never beyond the end of a frame; returns the number of
    /// bytes.
    fn step(&mut self, data: &[u8]) -> usize {
        if self.left > 0 {
            let n = usize::try_from(self.left).map_or(data.len(), |left| left.min(data.len()));
            self.left -= n as u64;
            self.note_end();
            return n;
        }
        let n = (self.wanted() - self.have).min(data.len());
        self.header[self.have..self.have + n].copy_from_slice(&data[..n]);
        self.have += n;
        if self.have == self.wanted() {
            self.left = self.length();
            self.have = 0;
            self.note_end();
        }
        n
    }

    fn note_end(&mut self) {
        self.closed |= self.left == 0 && self.header[0] & 0x0f == CLOSE_OPCODE;
    }

    /// The length of the header in bytes, as far as its first two bytes determine it.
    fn wanted(&self) -> usize {
        if self.have < 2 {
            return 2;
        }
        let extended = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        2 + extended + mask
    }

    /// The length of the payload, once the header is complete.
    fn length(&self) -> u64 {
        let big_endian = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        match self.header[1] & 0x7f {
            126 => big_endian(&self.header[2..4]),
            127 => big_endian(&self.header[2..10]),
            short => u64::from(short),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Builds a frame.
    fn frame(first: u8, payload: usize, mask: Option<[u8; 4]>, long: bool) -> Vec<u8> {
        let masked = if mask.is_some() { 0x80 } else { 0 };
        let mut out = vec![first];
        match payload {
            n if n < 126 && !long => out.push(masked | u8::try_from(n).unwrap()),
            n if n < 65_536 && !long => {
                out.push(masked | 126);
                out.extend_from_slice(&u16::try_from(n).unwrap().to_be_bytes());
            }
            n => {
                out.push(masked | 127);
                out.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        out.extend(mask.iter().flatten());
        // A payload that looks like close frames.
        out.extend(std::iter::repeat_n(0x88, payload));
        out
    }

    /// The ends of the frames in `bytes`, by a simple reference implementation.
    fn ends(bytes: &[u8]) -> Vec<usize> {
        let (mut ends, mut at) = (vec![0], 0);
        while at < bytes.len() {
            let short = usize::from(bytes[at + 1] & 127);
            let (size, length) = match short {
                126 => (2, usize::from(u16::from_be_bytes(bytes[at + 2..at + 4].try_into().unwrap()))),
                127 => (
                    8,
                    usize::try_from(u64::from_be_bytes(bytes[at + 2..at + 10].try_into().unwrap())).unwrap(),
                ),
                _ => (0, short),
            };
            at += 2 + size + if bytes[at + 1] & 128 == 0 { 0 } else { 4 } + length;
            ends.push(at);
        }
        ends
    }

    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let size = prop_oneof![0..5_usize, 120..130_usize, 65_530..65_540_usize];
        (any::<u8>(), size, proptest::option::of(any::<[u8; 4]>()), any::<bool>())
            .prop_map(|(first, size, mask, long)| frame(first, size, mask, long))
    }

    proptest! {
        #[test]
        fn between_frames_is_where_the_book_says(
            frames in proptest::collection::vec(any_frame(), 0..6),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let bytes = frames.concat();
            let ends = ends(&bytes);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let (mut tracker, mut begin) = (WebSocketFrames::default(), 0);
            for end in cuts {
                tracker.follow(&bytes[begin..end]);
                begin = end;
                prop_assert_eq!(tracker.between(), ends.contains(&end), "after {} of {:?}", end, &ends);
                let whole = &frames[..ends.iter().filter(|e| **e > 0 && **e <= end).count()];
                prop_assert_eq!(tracker.closed(), whole.iter().any(|f| f[0] & 15 == CLOSE_OPCODE));
                // The rest of the current frame, and not a byte more.
                let next = ends.iter().find(|e| **e >= end).copied().unwrap_or(end);
                prop_assert_eq!(tracker.clone().finish(&bytes[end..]), next - end);
            }
        }
    }

    #[test]
    fn every_byte_by_itself() {
        let sizes = [0, 1, 125, 126, 127, 128, 65_535, 65_536];
        let bytes: Vec<u8> = sizes
            .iter()
            .flat_map(|n| [frame(0x82, *n, None, false), frame(0x01, *n, Some([9; 4]), true)].concat())
            .collect();
        let ends = ends(&bytes);
        let mut tracker = WebSocketFrames::default();
        for (at, byte) in bytes.iter().enumerate() {
            assert_eq!(tracker.between(), ends.contains(&at));
            tracker.follow(&[*byte]);
        }
        assert!(tracker.between() && !tracker.closed());
    }

    #[test]
    fn a_close_frame_counts_when_it_is_whole() {
        let mut tracker = WebSocketFrames::default();
        tracker.follow(&GOING_AWAY_FRAME[..3]);
        assert!(!tracker.closed() && !tracker.between());
        tracker.follow(&GOING_AWAY_FRAME[3..]);
        assert!(tracker.closed() && tracker.between());
        let mut bare = WebSocketFrames::default();
        bare.follow(&[0x88, 0]);
        assert!(bare.closed());
    }

    #[test]
    fn no_length_is_too_large() {
        let mut tracker = WebSocketFrames::default();
        tracker.follow(&[0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3]);
        assert!(!tracker.between());
        assert_eq!(tracker.finish(&[0; 100]), 100);
    }
}
