//! The keys, and the verification of signatures (RFC 7515, 5.2).
//!
//! A key only ever verifies the algorithms it is made for: secrets the `HS…` family, a public key those that
//! its type and its `alg` allow. The token's header chooses among the allowed ones, it never adds one. Keys
//! inside a token (`jwk`, `jku`, `x5c`) are ignored.

use super::{claims::TokenClaims, jwks::PublicKey, IdentityError, TokenError};
use crate::config::Secret;

use base64::{engine::general_purpose::URL_SAFE_NO_PAD, Engine};
use jsonwebtoken::{crypto, Algorithm, AlgorithmFamily, DecodingKey};
use serde::{de::IgnoredAny, Deserialize};

/// The most public keys that are tried for one token.
const MAX_TRIED_KEYS: usize = 16;

/// The parts of a token, none of them verified.
pub(super) struct ParsedToken<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    message: &'a str,
    payload: &'a str,
    signature: &'a str,
}

/// The header parameters that are read here (RFC 7515, 4.1).
#[derive(Deserialize)]
struct TokenHeader {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

impl<'a> ParsedToken<'a> {
    /// Parses a JWS in compact form.
    pub(super) fn parse(token: &'a str) -> Result<Self, TokenError> {
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
        if payload.contains('.') {
            return Err(TokenError::Malformed);
        }
        let header: TokenHeader =
            serde_json::from_slice(&decode_part(header)?).map_err(|_| TokenError::Malformed)?;
        // `crit` lists extensions that must be understood, and none is supported.
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let algorithm = header.alg.parse().map_err(|_| TokenError::Algorithm)?;
        decode_part(signature)?;
        Ok(Self { algorithm, kid: header.kid, message, payload, signature })
    }

    /// The claims; to be read only after [`VerifyingKeys::check`].
    pub(super) fn payload(&self) -> Result<TokenClaims, TokenError> {
        serde_json::from_slice(&decode_part(self.payload)?).map_err(|_| TokenError::Malformed)
    }

    fn signed_by(&self, key: &DecodingKey) -> bool {
        // The library returns an error if a key is not of the algorithm's family: then it didn't sign either.
        crypto::verify(self.signature, self.message.as_bytes(), key, self.algorithm).unwrap_or(false)
    }
}

fn decode_part(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)
}

/// Either secrets or public keys, never both.
pub(super) enum VerifyingKeys {
    /// Tried in order; a token's `kid` is ignored.
    Secrets(Vec<DecodingKey>),
    /// Chosen by `kid` and algorithm.
    Public(Vec<PublicKey>),
}

impl VerifyingKeys {
    pub(super) fn secrets(secrets: &[Secret]) -> Result<Self, IdentityError> {
        let blank = |secret: &Secret| secret.reveal().trim_ascii().is_empty();
        if secrets.is_empty() || secrets.iter().any(blank) {
            return Err(IdentityError::EmptySecret);
        }
        if secrets.iter().any(|secret| secret.reveal().trim_ascii_start().starts_with(b"-----BEGIN ")) {
            return Err(IdentityError::PemSecret);
        }
        Ok(Self::Secrets(secrets.iter().map(|secret| DecodingKey::from_secret(secret.reveal())).collect()))
    }

    /// Returns true if keys of this kind may be used with `algorithm` at all.
    pub(super) fn admit(&self, algorithm: Algorithm) -> bool {
        matches!(self, Self::Secrets(_)) == (algorithm.family() == AlgorithmFamily::Hmac)
    }

    /// Returns true if there are no keys: no token can be genuine.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Secrets(secrets) => secrets.is_empty(),
            Self::Public(keys) => keys.is_empty(),
        }
    }

    /// Checks that one of the keys that fit the token signed it.
    pub(super) fn check(&self, token: &ParsedToken<'_>) -> Result<(), TokenError> {
        let signed = match self {
            Self::Secrets(secrets) => secrets.iter().any(|key| token.signed_by(key)),
            Self::Public(keys) => {
                let fits = |key: &&PublicKey| key.fits(token.kid.as_deref(), token.algorithm);
                let mut candidates = keys.iter().filter(fits).take(MAX_TRIED_KEYS).peekable();
                if candidates.peek().is_none() {
                    return Err(TokenError::NoKey);
                }
                candidates.any(|key| token.signed_by(key.decoding()))
            }
        };
        if signed {
            Ok(())
        } else {
            Err(TokenError::Signature)
        }
    }
}
