//! Counts HTTP/2 frames (RFC 9113, 4.1) in both directions, to detect floods.
//!
//! Pure: bytes and the time in, a verdict out. The limits of single frames and of a header are the library's.
//! This module limits sequences: streams that are opened to be reset, by the client (CVE-2023-44487) or,
//! because of what it sends, by the library (CVE-2025-8671), and floods of PING frames and their answers,
//! SETTINGS, PRIORITY, CONTINUATION or empty DATA frames. Each is allowed at a rate that no browser reaches,
//! with room for a burst: a browser that leaves a page resets all its streams at once.
//!
//! The library waits without a timeout for the rest of a frame, and of a header in several frames.
//! [`FloodGuard::unfinished_since`] returns the beginning of that wait.

use std::time::{Duration, Instant};

/// The length of the client's connection preface (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 9;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const PUSH_PROMISE: u8 = 0x5;
const GOAWAY: u8 = 0x7;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// Allowed resets: in a burst, and per second.
const RESET_LIMIT: (u32, u32) = (256, 32);
/// Allowed frames without content: in a burst, and per second.
const EMPTY_FRAME_LIMIT: (u32, u32) = (1_024, 128);
/// The length of the error code in a RST_STREAM.
const ERROR_CODE_BYTES: usize = 4;

/// The frames of a connection in both directions.
#[derive(Debug)]
pub(crate) struct FloodGuard {
    received: FrameCursor,
    sent: FrameCursor,
    /// The rest of the error code of a reset that is being sent, and the part of it that has been read.
    code: (usize, u32),
    /// The frame that is being received.
    now: FrameHead,
    /// True between the beginning of a header and the frame that ends it.
    within_header: bool,
    /// The time since which the rest of a frame, or of a header, is awaited.
    since: Option<Instant>,
    resets: TokenBucket,
    empty: TokenBucket,
}

impl FloodGuard {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            received: FrameCursor { skip: PREFACE_BYTES, ..FrameCursor::default() },
            sent: FrameCursor::default(),
            code: (0, 0),
            now: FrameHead::default(),
            within_header: false,
            since: None,
            resets: TokenBucket::new(RESET_LIMIT, now),
            empty: TokenBucket::new(EMPTY_FRAME_LIMIT, now),
        }
    }

    /// Processes bytes of the client. Returns true if the connection may continue.
    pub(crate) fn received(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> bool {
        while let Some(head) = self.received.next(&mut bytes) {
            if !self.within_header {
                self.since = None;
            }
            self.now = head;
            match head.kind {
                HEADERS => self.within_header = head.flags & END_HEADERS == 0,
                CONTINUATION => self.within_header &= head.flags & END_HEADERS == 0,
                _ => {}
            }
            if !self.is_free(head, &now) {
                return false;
            }
        }
        // A slow body has a timeout of its own.
        if self.within_header
            || self.received.is_within_head()
            || self.received.skip > 0 && self.now.kind != DATA
        {
            self.since.get_or_insert_with(now);
        } else {
            self.since = None;
        }
        true
    }

    /// Processes bytes of the server. Returns true if the connection may continue.
    pub(crate) fn sent(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> bool {
        loop {
            while let ((left @ 1.., code), Some((byte, rest))) = (self.code, bytes.split_first()) {
                bytes = rest;
                self.code = (left - 1, code << 8 | u32::from(*byte));
                if left == 1 && is_provoked(self.code.1) && !self.resets.take(now()) {
                    return false;
                }
            }
            match self.sent.next(&mut bytes) {
                None => return true,
                Some(head) if head.kind == RST_STREAM && head.length == ERROR_CODE_BYTES => {
                    // The payload is read here.
                    self.sent.skip = 0;
                    self.code = (ERROR_CODE_BYTES, 0);
                }
                Some(_) => {}
            }
        }
    }

    /// The time since which the rest of a frame, or of a header, has been awaited; bodies do not count.
    pub(crate) fn unfinished_since(&self) -> Option<Instant> {
        self.since
    }

    /// The stream of a partly received DATA frame, and the number of its bytes, which the library has not
    /// seen yet.
    pub(crate) fn arriving(&self) -> Option<(u32, usize)> {
        let FrameHead { kind, length, stream, .. } = self.now;
        (kind == DATA && stream > 0 && self.received.skip > 0).then(|| (stream, length - self.received.skip))
    }

    /// Counts a frame of the client.
    fn is_free(&mut self, head: FrameHead, now: impl Fn() -> Instant) -> bool {
        match head.kind {
            RST_STREAM => self.resets.take(now()),
            // Parts of a request, or flow control of its answer.
            HEADERS | WINDOW_UPDATE | GOAWAY => true,
            // An error that the library answers.
            PUSH_PROMISE => true,
            DATA if head.length > 0 || head.flags & END_STREAM != 0 => true,
            _ => self.empty.take(now()),
        }
    }
}

/// Returns true for an error code by which the library resets a stream because of the client (RFC 9113, 7).
/// The gateway itself uses others: it needs no more (`NO_ERROR`), failed (`INTERNAL_ERROR`) or gave up
/// (`CANCEL`).
fn is_provoked(code: u32) -> bool {
    use h2::Reason;
    [
        Reason::PROTOCOL_ERROR,
        Reason::FLOW_CONTROL_ERROR,
        Reason::STREAM_CLOSED,
        Reason::FRAME_SIZE_ERROR,
        Reason::REFUSED_STREAM,
        Reason::ENHANCE_YOUR_CALM,
    ]
    .contains(&code.into())
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, Default)]
struct FrameHead {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Finds frame headers in bytes that are split arbitrarily.
#[derive(Debug, Default)]
struct FrameCursor {
    /// The next frame header, as far as it has come.
    head: [u8; FRAME_HEAD_BYTES],
    have: usize,
    /// The number of bytes of a payload, or of the preface, that are still to come.
    skip: usize,
}

impl FrameCursor {
    /// Advances to the next frame header. `None`: it is not complete yet, and all bytes were used.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<FrameHead> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        *bytes = &bytes[skipped..];
        let (piece, rest) = bytes.split_at((FRAME_HEAD_BYTES - self.have).min(bytes.len()));
        self.head[self.have..self.have + piece.len()].copy_from_slice(piece);
        self.have += piece.len();
        *bytes = rest;
        if self.have < FRAME_HEAD_BYTES {
            return None;
        }
        self.have = 0;
        let [high, middle, low, kind, flags, a, b, c, d] = self.head;
        self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        // The first bit is reserved.
        let stream = u32::from_be_bytes([a & 0x7f, b, c, d]);
        Some(FrameHead { length: self.skip, kind, flags, stream })
    }

    /// Returns true if a frame header is incomplete.
    fn is_within_head(&self) -> bool {
        self.have > 0
    }
}

/// A token bucket.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    left: u32,
    size: u32,
    /// The time after which a token is added.
    each: Duration,
    since: Instant,
}

impl TokenBucket {
    /// A bucket for a burst of `size`, and a rate per second.
    pub(crate) fn new((size, a_second): (u32, u32), now: Instant) -> Self {
        Self { left: size, size, each: Duration::from_secs(1) / a_second, since: now }
    }

    /// Takes a token. Returns true if there was one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
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
    use h2::Reason;
    use proptest::prelude::*;

    const SETTINGS: u8 = 0x4;
    const PING: u8 = 0x6;
    /// The flag of a SETTINGS or PING frame that acknowledges one of the other side's.
    const ACK: u8 = 0x1;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &1_u32.to_be_bytes(), payload].concat()
    }

    fn after(frames: &[u8]) -> Vec<u8> {
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], frames].concat()
    }

    fn passes(kind: u8, flags: u8, payload: &[u8], times: usize) -> bool {
        let now = Instant::now();
        FloodGuard::new(now).received(&after(&frame(kind, flags, payload).repeat(times)), || now)
    }

    #[test]
    fn what_carries_something_is_free() {
        for (kind, flags, payload) in [
            (HEADERS, 4, &b"head"[..]),
            (WINDOW_UPDATE, 0, &[0, 0, 1, 0]),
            (DATA, 0, b"x"),
            (DATA, END_STREAM, b""),
        ] {
            assert!(passes(kind, flags, payload, 100_000), "{kind}");
        }
    }

    #[test]
    fn floods_end_the_connection_and_bursts_do_not() {
        for (kind, flags, payload, most) in [
            (RST_STREAM, 0, &[0; 4][..], RESET_LIMIT.0),
            (PING, 0, &[0; 8], EMPTY_FRAME_LIMIT.0),
            (PING, ACK, &[0; 8], EMPTY_FRAME_LIMIT.0),
            (SETTINGS, 0, &[0; 6], EMPTY_FRAME_LIMIT.0),
            (SETTINGS, ACK, b"", EMPTY_FRAME_LIMIT.0),
            (DATA, 0, b"", EMPTY_FRAME_LIMIT.0),
            (0x2, 0, &[0; 5], EMPTY_FRAME_LIMIT.0),
            (CONTINUATION, 0, b"x", EMPTY_FRAME_LIMIT.0),
            (0xbe, 0, b"", EMPTY_FRAME_LIMIT.0),
        ] {
            assert!(passes(kind, flags, payload, most as usize), "{kind}");
            assert!(!passes(kind, flags, payload, most as usize + 1), "{kind}");
        }
    }

    #[test]
    fn resets_that_a_client_provokes_are_its_own() {
        let now = Instant::now();
        let resets = |code: Reason, times: u32| {
            frame(RST_STREAM, 0, &u32::from(code).to_be_bytes()).repeat(times as usize)
        };
        for code in [Reason::PROTOCOL_ERROR, Reason::FLOW_CONTROL_ERROR, Reason::STREAM_CLOSED] {
            let mut frames = FloodGuard::new(now);
            assert!(frames.sent(&resets(code, RESET_LIMIT.0), || now), "{code:?}");
            assert!(!frames.sent(&resets(code, 1), || now), "{code:?}");
        }
        for code in [Reason::NO_ERROR, Reason::INTERNAL_ERROR, Reason::CANCEL] {
            assert!(FloodGuard::new(now).sent(&resets(code, 10 * RESET_LIMIT.0), || now), "{code:?}");
        }
        // Both sides are counted together.
        let mut frames = FloodGuard::new(now);
        assert!(frames.received(&after(&resets(Reason::CANCEL, RESET_LIMIT.0)), || now));
        assert!(!frames.sent(&resets(Reason::PROTOCOL_ERROR, 1), || now));
    }

    #[test]
    fn what_is_not_whole_is_known_since_it_began() {
        let begun = Instant::now();
        let later = begun + Duration::from_secs(1);
        let header = frame(HEADERS, END_STREAM, b"half");
        let rest = frame(CONTINUATION, END_HEADERS, b"rest");
        for whole in [
            [&header[..], &rest].concat(),
            frame(HEADERS, END_STREAM | END_HEADERS, b"whole"),
            frame(PING, 0, &[0; 8]),
        ] {
            for cut in 1..whole.len() {
                let mut frames = FloodGuard::new(begun);
                assert!(frames.received(&after(&whole[..cut]), || begun));
                assert_eq!(frames.unfinished_since(), Some(begun), "{cut}");
                assert!(frames.received(b"", || later));
                assert_eq!(frames.unfinished_since(), Some(begun), "{cut}");
                assert!(frames.received(&whole[cut..], || later));
                assert_eq!(frames.unfinished_since(), None, "{cut}");
            }
        }
    }

    #[test]
    fn a_part_of_a_body_is_known_by_its_stream() {
        let now = Instant::now();
        let mut frames = FloodGuard::new(now);
        let data = frame(DATA, 0, b"body");
        assert!(frames.received(&after(&data[..FRAME_HEAD_BYTES + 3]), || now));
        assert_eq!((frames.arriving(), frames.unfinished_since()), (Some((1, 3)), None));
        assert!(frames.received(&data[FRAME_HEAD_BYTES + 3..], || now));
        assert_eq!(frames.arriving(), None);
    }

    #[test]
    fn what_comes_slowly_is_never_a_flood() {
        let mut now = Instant::now();
        let mut frames = FloodGuard::new(now);
        assert!(frames.received(&after(b""), || now));
        for _ in 0..20_000 {
            now += Duration::from_secs(1) / RESET_LIMIT.1;
            assert!(frames.received(&frame(RST_STREAM, 0, &[0; 4]), || now));
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
            let (mut pieces, mut whole) = (FloodGuard::new(now), FloodGuard::new(now));
            let received = all.chunks(cut).all(|piece| pieces.received(piece, || now));
            prop_assert_eq!(received, whole.received(&all, || now));
            if received {
                prop_assert_eq!(pieces.unfinished_since(), whole.unfinished_since());
            }
            let sent = all.chunks(cut).all(|piece| pieces.sent(piece, || now));
            prop_assert_eq!(sent, whole.sent(&all, || now));
        }

        #[test]
        fn any_bytes_are_counted(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let now = Instant::now();
            let mut frames = FloodGuard::new(now);
            frames.received(&bytes, || now);
            frames.sent(&bytes, || now);
            frames.arriving();
        }
    }
}
