//! An entry: a representation plus when it was made and under which version; and the envelope in which a store
//! keeps it.
//!
//! The envelope is versioned and checksummed. Whatever doesn't decode, an envelope of another version, one that
//! was damaged, a value that somebody else wrote under the same key, is a miss and never an error.
//!
//! ```text
//! "TGE1"  magic and version, 4 bytes
//! u64     XXH3-64 of all that follows, little endian like every number here
//! u64     when it was made, ms since the epoch
//! u16     status
//! u64     Last-Modified in seconds since the epoch, 0: none
//! u16     number of headers, then each: u16 + name, u32 + value
//! …       the plain body
//! ```

use super::version::{Slot, Version};
use crate::{
    config,
    representation::{Outside, Representation},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode};
use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};
use xxhash_rust::xxh3::xxh3_64;

/// A representation in the cache.
#[derive(Debug)]
pub struct Entry {
    /// What is sent.
    pub representation: Representation,
    /// When it was made, in milliseconds since the epoch.
    pub made_ms: u64,
    /// The version that was current when its fill began.
    pub version: Version,
    /// Who knows whether that version is still current.
    pub slot: Arc<Slot>,
}

impl Entry {
    /// How old it is, in milliseconds. A clock that was set back makes it new, not ancient.
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.made_ms)
    }
}

/// What a store holds under the key of an answer.
#[derive(Debug)]
pub enum Stored {
    /// An answer.
    Answer {
        /// What is sent.
        representation: Box<Representation>,
        /// When it was made, in milliseconds since the epoch.
        made_ms: u64,
    },
    /// The answer may not be stored: whoever waits should ask the origin itself (hit-for-miss).
    Mark,
}

/// A value that is no envelope of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not the magic of this version.
    #[error("not an envelope of this version")]
    Foreign,
    /// Cut short, or changed on the way.
    #[error("damaged")]
    Damaged,
}

const ANSWER: &[u8; 4] = b"TGE1";
const MARK: &[u8; 4] = b"TGM1";

/// The value that marks an answer as one that may not be stored.
pub fn mark() -> Bytes {
    Bytes::from_static(MARK)
}

/// Puts an answer in its envelope.
pub fn seal(representation: &Representation, made_ms: u64) -> Bytes {
    let mut inner = BytesMut::with_capacity(256 + representation.body().len());
    inner.put_slice(ANSWER);
    inner.put_u64_le(0);
    inner.put_u64_le(made_ms);
    inner.put_u16_le(representation.status().as_u16());
    let changed = representation.last_modified().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    inner.put_u64_le(changed.map_or(0, |since| since.as_secs()));
    // More headers, or longer ones, than the counters hold can't come out of an HTTP parser.
    let headers = representation.headers();
    inner.put_u16_le(u16::try_from(headers.len()).unwrap_or(u16::MAX));
    for (name, value) in headers.iter().take(usize::from(u16::MAX)) {
        inner.put_u16_le(u16::try_from(name.as_str().len()).unwrap_or(u16::MAX));
        inner.put_slice(name.as_str().as_bytes());
        inner.put_u32_le(u32::try_from(value.len()).unwrap_or(u32::MAX));
        inner.put_slice(value.as_bytes());
    }
    inner.put_slice(representation.body());
    let sum = xxh3_64(&inner[12..]);
    inner[4..12].copy_from_slice(&sum.to_le_bytes());
    inner.freeze()
}

/// Takes an answer out of its envelope.
///
/// # Errors
/// If the value is not a whole envelope of this version.
pub fn open(
    value: Bytes,
    outside: impl FnOnce(StatusCode) -> Outside,
    rules: &config::Encoding,
) -> Result<Stored, EnvelopeError> {
    if &value[..] == MARK {
        return Ok(Stored::Mark);
    }
    let mut rest = value;
    if rest.len() < 12 || &rest[..4] != ANSWER {
        return Err(EnvelopeError::Foreign);
    }
    rest.advance(4);
    if rest.get_u64_le() != xxh3_64(&rest) {
        return Err(EnvelopeError::Damaged);
    }
    open_fields(rest, outside, rules).ok_or(EnvelopeError::Damaged)
}

fn open_fields(
    mut rest: Bytes,
    outside: impl FnOnce(StatusCode) -> Outside,
    rules: &config::Encoding,
) -> Option<Stored> {
    let made_ms = rest.try_get_u64_le().ok()?;
    let status = StatusCode::from_u16(rest.try_get_u16_le().ok()?).ok()?;
    let changed = Duration::from_secs(rest.try_get_u64_le().ok()?);
    let last_modified = if changed.is_zero() { None } else { Some(UNIX_EPOCH.checked_add(changed)?) };
    let count = rest.try_get_u16_le().ok()?;
    let mut headers = Vec::with_capacity(usize::from(count).min(64));
    for _ in 0..count {
        let length = usize::from(rest.try_get_u16_le().ok()?);
        let name = HeaderName::from_bytes(&take(&mut rest, length)?).ok()?;
        let length = usize::try_from(rest.try_get_u32_le().ok()?).ok()?;
        let value = HeaderValue::from_maybe_shared(take(&mut rest, length)?).ok()?;
        headers.push((name, value));
    }
    // The body is copied out of the envelope only by reference: it shares the value's buffer.
    let representation = Representation::new(status, headers, rest, last_modified, outside(status), rules);
    Some(Stored::Answer { representation: Box::new(representation), made_ms })
}

fn take(rest: &mut Bytes, length: usize) -> Option<Bytes> {
    (rest.len() >= length).then(|| rest.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules() -> config::Encoding {
        config::Encoding {
            types: vec!["application/json".into()],
            min_size: 1_024,
            prefer: vec![],
            levels: Default::default(),
        }
    }

    fn outside(_: StatusCode) -> Outside {
        Outside { cache_control: HeaderValue::from_static("private"), varies_by_authorization: true }
    }

    fn changed() -> std::time::SystemTime {
        UNIX_EPOCH + Duration::from_secs(7)
    }

    fn sample(body: Vec<u8>, value: &[u8]) -> Representation {
        let value = HeaderValue::from_bytes(value).unwrap();
        let headers = vec![(http::header::CONTENT_TYPE, value)];
        Representation::new(
            StatusCode::OK,
            headers,
            body.into(),
            Some(changed()),
            outside(StatusCode::OK),
            &rules(),
        )
    }

    proptest! {
        #[test]
        fn what_is_sealed_comes_out_the_same(
            body in proptest::collection::vec(any::<u8>(), 0..300),
            value in "[ -~]{0,40}",
            made in any::<u64>(),
        ) {
            let sample = sample(body, value.as_bytes());
            let Ok(Stored::Answer { representation, made_ms }) = open(seal(&sample, made), outside, &rules())
            else { return Err(TestCaseError::fail("no answer")) };
            prop_assert_eq!(made_ms, made);
            prop_assert_eq!(representation.body(), sample.body());
            prop_assert_eq!(representation.headers(), sample.headers());
            prop_assert_eq!(representation.last_modified(), Some(changed()));
            prop_assert_eq!(representation.etag(), sample.etag());
        }

        #[test]
        fn a_damaged_envelope_is_found_out(at in 0_usize..200, flip in 1_u8..=255, cut in 0_usize..200) {
            let whole = seal(&sample(vec![7; 150], b"application/json"), 1);
            let mut bent = whole.to_vec();
            let at = at % bent.len();
            bent[at] ^= flip;
            prop_assert!(open(bent.into(), outside, &rules()).is_err());
            let cut = cut % whole.len();
            prop_assert!(open(whole.slice(..cut), outside, &rules()).is_err());
        }

        #[test]
        fn anything_else_is_foreign(value in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assume!(!value.starts_with(ANSWER) && value != MARK);
            prop_assert_eq!(open(value.into(), outside, &rules()).err(), Some(EnvelopeError::Foreign));
        }
    }

    #[test]
    fn a_mark_is_a_mark() {
        assert!(matches!(open(mark(), outside, &rules()), Ok(Stored::Mark)));
    }
}
