//! Public keys from a JWKS document (RFC 7517, RFC 7518, RFC 8037).
//!
//! Decides which keys of a set may verify which algorithms. An unknown kind of key is ignored, as RFC 7517
//! (section 5) asks; one for encryption, a symmetric one (`oct`), a malformed or a weak one (RSA below 2,048
//! bits) is not usable. It never fetches anything.

use super::{IdentityError, MAX_JWKS};
use base64::{engine::general_purpose::URL_SAFE_NO_PAD, Engine};
use jsonwebtoken::{
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
    Algorithm, AlgorithmFamily, DecodingKey,
};
use serde::Deserialize;
use std::ops::RangeInclusive;

/// The sizes of an RSA modulus that are accepted, in bits.
const RSA_BITS: RangeInclusive<usize> = 2_048..=8_192;

/// A public key and the algorithms that it may verify.
pub(super) struct PublicKey {
    source: Jwk,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

impl PublicKey {
    /// Returns true if it has that `kid`, if the token names one, and may verify that algorithm.
    pub(super) fn fits(&self, kid: Option<&str>, algorithm: Algorithm) -> bool {
        kid.is_none_or(|kid| self.source.common.key_id.as_deref() == Some(kid))
            && self.algorithms.contains(&algorithm)
    }

    pub(super) fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }

    /// Parses a key. `None`: not usable for any of the `accepted` algorithms.
    fn new(source: Jwk, accepted: &[Algorithm]) -> Option<Self> {
        let common = &source.common;
        let signs = common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|list| list.contains(&KeyOperations::Verify));
        if !signs {
            return None;
        }
        let (made_for, decoding) = key_material(&source.algorithm)?;
        let algorithms: Vec<_> = made_for
            .iter()
            .copied()
            .filter(|algorithm| accepted.contains(algorithm))
            .filter(|algorithm| {
                common.key_algorithm.is_none_or(|named| named == KeyAlgorithm::from(*algorithm))
            })
            .collect();
        (!algorithms.is_empty()).then_some(Self { source, algorithms, decoding })
    }
}

/// Two keys are equal if their entries in the document are.
impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

/// The usable keys of a JWKS document, in its order; there may be none.
pub(super) fn parse_key_set(text: &str, accepted: &[Algorithm]) -> Result<Vec<PublicKey>, IdentityError> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    if text.len() > MAX_JWKS {
        return Err(IdentityError::JwksTooLong);
    }
    let set: Set = serde_json::from_str(text)?;
    let understood = set.keys.into_iter().filter_map(|entry| serde_json::from_value(entry).ok());
    Ok(understood.filter_map(|jwk| PublicKey::new(jwk, accepted)).collect())
}

/// The algorithms for a key of this type and size, and the key.
fn key_material(parameters: &AlgorithmParameters) -> Option<(&'static [Algorithm], DecodingKey)> {
    match parameters {
        AlgorithmParameters::RSA(rsa) => {
            const FAMILY: AlgorithmFamily = AlgorithmFamily::Rsa;
            let (n, e) = (decode_integer(&rsa.n)?, decode_integer(&rsa.e)?);
            let bits = n.len() * 8 - n.first()?.leading_zeros() as usize;
            let strong = RSA_BITS.contains(&bits) && !e.is_empty();
            strong.then(|| (FAMILY.algorithms(), DecodingKey::from_rsa_raw_components(&n, &e)))
        }
        AlgorithmParameters::EllipticCurve(ec) => {
            let (algorithms, size): (&[_], _) = match ec.curve {
                EllipticCurve::P256 => (&[Algorithm::ES256], 32),
                EllipticCurve::P384 => (&[Algorithm::ES384], 48),
                _ => return None,
            };
            let sized = decode_base64(&ec.x)?.len() == size && decode_base64(&ec.y)?.len() == size;
            sized.then(|| DecodingKey::from_ec_components(&ec.x, &ec.y).ok())?.map(|key| (algorithms, key))
        }
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            let x = decode_base64(&pair.x)?;
            (x.len() == 32).then(|| (&[Algorithm::EdDSA] as &[_], DecodingKey::from_ed_der(&x)))
        }
        _ => None,
    }
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// A big-endian integer without the leading zero bytes that some issuers write.
fn decode_integer(text: &str) -> Option<Vec<u8>> {
    let mut bytes = decode_base64(text)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.drain(..zeros);
    Some(bytes)
}
