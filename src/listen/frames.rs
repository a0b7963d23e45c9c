//! HTTP/2 frames as a client sends them (RFC 9113, 4.1), counted: whether they are of the kind that only costs.
//!
//! Pure: bytes and the time in, a verdict out. The limits of a stream and of its header are the library's; what no
//! single frame breaks is held here: streams that are opened to be reset (CVE-2023-44487), and floods of pings,
//! settings, priorities, continuations or empty data. Each is allowed at a rate that no browser comes near, with room
//! for a burst: a page that is left resets all its streams at once.

use std::time::{Duration, Instant};

/// The client begins with these many bytes that are no frame (RFC 9113, 3.4).
const PREFACE: usize = 24;
const HEAD: usize = 9;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const PUSH_PROMISE: u8 = 0x5;
const PING: u8 = 0x6;
const GOAWAY: u8 = 0x7;
const WINDOW_UPDATE: u8 = 0x8;
/// Of SETTINGS and PING: an answer to one of ours.
const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;

/// Resets at once, and in a second.
const RESETS: (u32, u32) = (256, 32);
/// Frames that carry nothing, at once, and in a second.
const EMPTY: (u32, u32) = (1_024, 128);

/// Reads along with a client's bytes.
#[derive(Debug)]
pub(super) struct Frames {
    /// The head of the next frame, as far as it has come.
    head: [u8; HEAD],
    have: usize,
    /// Bytes of a payload, or of the preface, that have still to come.
    skip: usize,
    resets: Bucket,
    empty: Bucket,
}

impl Frames {
    pub(super) fn new(now: Instant) -> Self {
        let (resets, empty) = (Bucket::new(RESETS, now), Bucket::new(EMPTY, now));
        Self { head: [0; HEAD], have: 0, skip: PREFACE, resets, empty }
    }

    /// Takes the next bytes of the connection. Returns whether it may go on.
    pub(super) fn pass(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let Some((byte, rest)) = bytes.split_first() else { break };
            if let Some(place) = self.head.get_mut(self.have) {
                *place = *byte;
            }
            self.have += 1;
            bytes = rest;
            if self.have == HEAD {
                self.have = 0;
                if !self.frame(now) {
                    return false;
                }
            }
        }
        true
    }

    /// Counts the frame whose head is there.
    fn frame(&mut self, now: Instant) -> bool {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        match kind {
            RST_STREAM => self.resets.take(now),
            // What a request is made of, or flow control of its answer.
            HEADERS | WINDOW_UPDATE | GOAWAY => true,
            // An error, which the library answers.
            PUSH_PROMISE => true,
            DATA if self.skip > 0 || flags & END_STREAM != 0 => true,
            SETTINGS | PING if flags & ACK != 0 => true,
            _ => self.empty.take(now),
        }
    }
}

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    left: u32,
    size: u32,
    /// After so long there is one more.
    each: Duration,
    since: Instant,
}

impl Bucket {
    fn new((size, a_second): (u32, u32), now: Instant) -> Self {
        Self { left: size, size, each: Duration::from_secs(1) / a_second, since: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        if self.left < self.size {
            let gone = now.saturating_duration_since(self.since);
            let more = u32::try_from(gone.as_nanos() / self.each.as_nanos().max(1)).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(more).min(self.size);
            self.since += self.each.saturating_mul(more).min(gone);
        } else {
            self.since = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &1_u32.to_be_bytes(), payload].concat()
    }

    fn after(frames: &[u8]) -> Vec<u8> {
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], frames].concat()
    }

    fn passes(kind: u8, flags: u8, payload: &[u8], times: usize) -> bool {
        let now = Instant::now();
        Frames::new(now).pass(&after(&frame(kind, flags, payload).repeat(times)), now)
    }

    #[test]
    fn what_carries_something_is_free() {
        for (kind, flags, payload) in [
            (HEADERS, 4, &b"head"[..]),
            (WINDOW_UPDATE, 0, &[0, 0, 1, 0]),
            (DATA, 0, b"x"),
            (DATA, END_STREAM, b""),
            (PING, ACK, &[0; 8]),
            (SETTINGS, ACK, b""),
        ] {
            assert!(passes(kind, flags, payload, 100_000), "{kind}");
        }
    }

    #[test]
    fn floods_end_the_connection_and_bursts_do_not() {
        for (kind, payload, most) in [
            (RST_STREAM, &[0; 4][..], RESETS.0),
            (PING, &[0; 8], EMPTY.0),
            (SETTINGS, &[0; 6], EMPTY.0),
            (DATA, b"", EMPTY.0),
            (0x2, &[0; 5], EMPTY.0),
            (0x9, b"x", EMPTY.0),
            (0xbe, b"", EMPTY.0),
        ] {
            assert!(passes(kind, 0, payload, most as usize), "{kind}");
            assert!(!passes(kind, 0, payload, most as usize + 1), "{kind}");
        }
    }

    #[test]
    fn what_comes_slowly_is_never_a_flood() {
        let mut now = Instant::now();
        let mut frames = Frames::new(now);
        assert!(frames.pass(&after(b""), now));
        for _ in 0..20_000 {
            now += Duration::from_secs(1) / RESETS.1;
            assert!(frames.pass(&frame(RST_STREAM, 0, &[0; 4]), now));
        }
    }

    proptest! {
        #[test]
        fn how_bytes_are_cut_makes_no_difference(
            kinds in proptest::collection::vec((0_u8..12, 0_u8..2, 0_usize..40), 0..60),
            cut in 1_usize..50,
        ) {
            let now = Instant::now();
            let all: Vec<u8> = kinds.iter().flat_map(|(k, f, n)| frame(*k, *f, &vec![3; *n])).collect();
            let all = after(&all.repeat(30));
            let mut pieces = Frames::new(now);
            let cut = all.chunks(cut).all(|piece| pieces.pass(piece, now));
            prop_assert_eq!(cut, Frames::new(now).pass(&all, now));
        }

        #[test]
        fn any_bytes_are_counted(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let now = Instant::now();
            Frames::new(now).pass(&bytes, now);
        }
    }
}
