//! The signature of an event: the Standard Webhooks scheme, version `v1` (HMAC-SHA256 over
//! `id.timestamp.body`).
//!
//! Pure: decides if an event was signed with one of the configured secrets within five minutes of `now`. It
//! keeps no ids: the caller has to detect a replay within the tolerance, by the id.

use crate::{config::Secret, http::refusal_reasons::refusal_reasons};
use base64::{
    alphabet,
    engine::{general_purpose::STANDARD, DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    Engine,
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use subtle::ConstantTimeEq;

/// The largest difference between a timestamp and `now`, either way, in seconds.
pub(crate) const TOLERANCE: u64 = 300;
/// The longest id, in bytes.
pub(crate) const MAX_ID: usize = 256;

/// The prefix of a secret in base64.
const SECRET_PREFIX: &[u8] = b"whsec_";
/// The prefix of the supported signatures.
const SIGNATURE_PREFIX: &str = "v1,";
/// Accepts base64 without padding: secrets are copied by hand, and it gets lost.
const LENIENT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

refusal_reasons! {
    /// The reason why an event is refused.
    pub enum SignatureError;

    /// There is no id.
    NoId => "webhook_no_id", "webhook-id is missing";
    /// One of the fields is repeated: only the caller, which has the fields, can find that.
    Repeated => "webhook_repeated", "webhook-id, webhook-timestamp and webhook-signature must each be sent once";
    /// The id is longer than [`MAX_ID`], or holds a `.` or anything but visible ASCII.
    Id => "webhook_id", "webhook-id must be 1 to 256 visible ASCII characters other than '.'";
    /// There is no timestamp.
    NoTimestamp => "webhook_no_timestamp", "webhook-timestamp is missing";
    /// The timestamp is no decimal number of seconds.
    Timestamp => "webhook_timestamp", "webhook-timestamp must be Unix seconds";
    /// The timestamp is more than [`TOLERANCE`] in the past.
    TooOld => "webhook_too_old", "webhook-timestamp is more than 300 s old";
    /// The timestamp is more than [`TOLERANCE`] in the future.
    TooNew => "webhook_too_new", "webhook-timestamp is more than 300 s ahead";
    /// There is no signature.
    NoSignature => "webhook_no_signature", "webhook-signature is missing";
    /// No `v1` signature that can be decoded.
    Version => "webhook_version", "webhook-signature has no v1 signature in base64";
    /// None of the signatures is from one of the configured secrets.
    Mismatch => "webhook_signature", "webhook-signature does not verify";
}

/// The reason why a secret can't sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The text after `whsec_` is not base64.
    #[error("what follows whsec_ is not base64")]
    Encoding,
    /// The secret is empty.
    #[error("the secret is empty")]
    Empty,
}

/// A secret, decoded and ready to sign. Its `Debug` hides it.
#[derive(Clone)]
pub(crate) struct WebhookKey(Hmac<Sha256>);

impl fmt::Debug for WebhookKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

impl WebhookKey {
    /// Makes a key of a secret: `whsec_<base64>` is decoded, any other text is used as it is.
    ///
    /// # Errors
    /// If the base64 is malformed or the secret is empty.
    pub(crate) fn new(secret: &Secret) -> Result<Self, SecretError> {
        let bytes = match secret.reveal().strip_prefix(SECRET_PREFIX) {
            Some(encoded) => LENIENT_BASE64.decode(encoded).map_err(|_| SecretError::Encoding)?,
            None => secret.reveal().to_vec(),
        };
        if bytes.is_empty() {
            return Err(SecretError::Empty);
        }
        // HMAC takes keys of any length; the error is part of the trait only.
        Hmac::new_from_slice(&bytes).map(Self).map_err(|_| SecretError::Empty)
    }

    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> impl AsRef<[u8]> {
        let mut mac = self.0.clone();
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        mac.finalize().into_bytes()
    }
}

/// Checks that one of the `signatures` (the text of `webhook-signature`, separated by spaces) is from one of
/// the keys, and that `timestamp` is within [`TOLERANCE`] of `now_unix` (seconds).
///
/// # Errors
/// The first reason found, in the order: id, timestamp, signatures.
pub(crate) fn verify_signature(
    keys: &[WebhookKey],
    id: &str,
    timestamp: &str,
    signatures: &str,
    body: &[u8],
    now_unix: u64,
) -> Result<(), SignatureError> {
    // With a '.' in the id, one signature would be good for several readings of "id.timestamp.body".
    if id.is_empty() {
        return Err(SignatureError::NoId);
    }
    if id.len() > MAX_ID || !id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'.') {
        return Err(SignatureError::Id);
    }
    check_timestamp(timestamp, now_unix)?;
    if signatures.is_empty() {
        return Err(SignatureError::NoSignature);
    }
    let claimed: Vec<Vec<u8>> = signatures
        .split(' ')
        .filter_map(|signature| signature.strip_prefix(SIGNATURE_PREFIX))
        .filter_map(|encoded| STANDARD.decode(encoded).ok())
        .collect();
    if claimed.is_empty() {
        return Err(SignatureError::Version);
    }
    let signed = keys.iter().any(|key| {
        let mac = key.mac(id, timestamp, body);
        claimed.iter().any(|claimed| bool::from(claimed.ct_eq(mac.as_ref())))
    });
    if signed {
        Ok(())
    } else {
        Err(SignatureError::Mismatch)
    }
}

fn check_timestamp(timestamp: &str, now: u64) -> Result<(), SignatureError> {
    if timestamp.is_empty() {
        return Err(SignatureError::NoTimestamp);
    }
    if !timestamp.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(SignatureError::Timestamp);
    }
    let sent: u64 = timestamp.parse().map_err(|_| SignatureError::Timestamp)?;
    if now.saturating_sub(sent) > TOLERANCE {
        return Err(SignatureError::TooOld);
    }
    if sent.saturating_sub(now) > TOLERANCE {
        return Err(SignatureError::TooNew);
    }
    Ok(())
}

/// The text of `webhook-signature` for an event that is sent at `timestamp` (Unix seconds).
pub(crate) fn sign_event(key: &WebhookKey, id: &str, timestamp: u64, body: &[u8]) -> String {
    format!("{SIGNATURE_PREFIX}{}", STANDARD.encode(key.mac(id, &timestamp.to_string(), body)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // The example of the scheme's reference implementations.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const SENT: u64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn key(secret: &str) -> WebhookKey {
        WebhookKey::new(&Secret::new(secret)).unwrap()
    }

    fn verdict(signatures: &str, now: u64) -> Result<(), SignatureError> {
        verify_signature(&[key(SECRET)], ID, &SENT.to_string(), signatures, BODY, now)
    }

    #[test]
    fn agrees_with_the_reference() {
        assert_eq!(sign_event(&key(SECRET), ID, SENT, BODY), SIGNATURE);
        assert_eq!(verdict(SIGNATURE, SENT), Ok(()));
    }

    #[test]
    fn one_good_signature_among_several_is_enough() {
        let other = sign_event(&key("another"), ID, SENT, BODY);
        assert_eq!(verdict(&format!("v1a,x {other} {SIGNATURE} v2,y"), SENT), Ok(()));
        assert_eq!(verdict(&other, SENT), Err(SignatureError::Mismatch));
    }

    #[test]
    fn while_a_secret_rotates_both_are_good() {
        let keys = [key("the new one"), key(SECRET)];
        let at = SENT.to_string();
        assert_eq!(verify_signature(&keys, ID, &at, SIGNATURE, BODY, SENT), Ok(()));
        assert_eq!(
            verify_signature(&keys, ID, &at, &sign_event(&keys[0], ID, SENT, BODY), BODY, SENT),
            Ok(())
        );
        assert_eq!(
            verify_signature(&keys[..1], ID, &at, SIGNATURE, BODY, SENT),
            Err(SignatureError::Mismatch)
        );
        assert_eq!(verify_signature(&[], ID, &at, SIGNATURE, BODY, SENT), Err(SignatureError::Mismatch));
    }

    #[test]
    fn other_versions_and_rubbish_are_no_signature() {
        let text = &SIGNATURE[3..];
        for none in [
            "",
            " ",
            "v1",
            "v1,%%",
            text,
            &format!("v1a,{text}"),
            &format!("v2,{text}"),
            &format!("V1,{text}"),
        ] {
            let why = if none.is_empty() { SignatureError::NoSignature } else { SignatureError::Version };
            assert_eq!(verdict(none, SENT), Err(why), "{none:?}");
        }
        for short in ["v1,", "v1,g0hM9SsE"] {
            assert_eq!(verdict(short, SENT), Err(SignatureError::Mismatch), "{short:?}");
        }
    }

    #[test]
    fn tolerates_five_minutes_either_way() {
        assert_eq!(verdict(SIGNATURE, SENT + 300), Ok(()));
        assert_eq!(verdict(SIGNATURE, SENT + 301), Err(SignatureError::TooOld));
        assert_eq!(verdict(SIGNATURE, SENT - 300), Ok(()));
        assert_eq!(verdict(SIGNATURE, SENT - 301), Err(SignatureError::TooNew));
        assert_eq!(verdict(SIGNATURE, u64::MAX), Err(SignatureError::TooOld));
        assert_eq!(verdict(SIGNATURE, 0), Err(SignatureError::TooNew));
    }

    #[test]
    fn a_timestamp_is_digits_only() {
        for bad in ["", "+1614265330", " 1614265330", "1614265330.0", "-1", "0x10", "99999999999999999999999"]
        {
            let verdict = verify_signature(&[key(SECRET)], ID, bad, SIGNATURE, BODY, SENT);
            let why = if bad.is_empty() { SignatureError::NoTimestamp } else { SignatureError::Timestamp };
            assert_eq!(verdict, Err(why), "{bad:?}");
        }
    }

    #[test]
    fn an_id_is_visible_ascii_without_a_dot() {
        let signed = |id: &str| {
            let key = key(SECRET);
            verify_signature(
                std::slice::from_ref(&key),
                id,
                &SENT.to_string(),
                &sign_event(&key, id, SENT, BODY),
                BODY,
                SENT,
            )
        };
        assert_eq!(signed(&"x".repeat(256)), Ok(()));
        for bad in ["", "a b", "a\n", "é", "a.1614265330", &"x".repeat(257)] {
            let why = if bad.is_empty() { SignatureError::NoId } else { SignatureError::Id };
            assert_eq!(signed(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn secrets_are_base64_only_behind_their_mark() {
        let raw = key("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        assert_ne!(sign_event(&raw, ID, SENT, BODY), SIGNATURE);
        assert_eq!(sign_event(&key("whsec_YWI"), ID, SENT, BODY), sign_event(&key("ab"), ID, SENT, BODY));
        let refused = |secret: &str| WebhookKey::new(&Secret::new(secret)).map(|_| ());
        assert_eq!(refused("whsec_%%"), Err(SecretError::Encoding));
        assert_eq!(refused("whsec_"), Err(SecretError::Empty));
        assert_eq!(refused(""), Err(SecretError::Empty));
        assert_eq!(format!("{:?}", key(SECRET)), "SigningKey(…)");
    }

    proptest! {
        #[test]
        fn any_change_is_noticed(at in 0..BODY.len(), flip in 1u8..) {
            let mut body = BODY.to_vec();
            body[at] ^= flip;
            let verdict = verify_signature(&[key(SECRET)], ID, &SENT.to_string(), SIGNATURE, &body, SENT);
            prop_assert_eq!(verdict, Err(SignatureError::Mismatch));
        }

        #[test]
        fn anything_gets_a_verdict(id in ".*", at in ".*", text in ".*", body in ".*", now: u64) {
            let verdict = verify_signature(&[key(SECRET)], &id, &at, &text, body.as_bytes(), now);
            prop_assert!(verdict.is_err());
        }
    }
}
