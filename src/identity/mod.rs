//! Who is asking: from a token to a tenant, a user and a role (RFC 7515, 7517, 7519, 6750).
//!
//! Decides whether a token is genuine, meant for us and valid at a given second, and keeps what it verified in a
//! bounded memory until the token expires, so that a hit doesn't pay for the signature. It fails closed: a token
//! that lacks a tenant or breaks a rule is an error, never an anonymous request. It never reads the clock, never
//! fetches a key by itself, and no error of it holds token text.

mod claims;
mod credentials;
mod jwks;
mod keys;
mod memory;
mod mint;
#[cfg(test)]
mod tests;

pub use credentials::{bearer, plain_bearer, query_token, without_query_token};
pub use mint::{mint, Bearer};

use crate::{
    config::{Jwt, JwtKeys},
    name::Tenant,
};
use arc_swap::ArcSwap;
use claims::Rules;
use jsonwebtoken::Algorithm;
use keys::{Keys, Token};
use memory::{Known, Memory};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN: usize = 8 * 1024;
/// How many tokens of ordinary length (up to 511 bytes) are remembered; longer ones count for more.
pub const MAX_REMEMBERED: usize = 65_536;
/// The longest JWKS document that is accepted, in bytes.
pub const MAX_JWKS: usize = 256 * 1024;

/// What a verified token says about its bearer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The tenant, always there.
    pub tenant: Tenant,
    /// The user: 1 to 256 bytes without control characters or spaces at either end.
    pub user: Option<String>,
    /// The role, held to the same rules as the user.
    pub role: Option<String>,
    /// `exp`: the first second (Unix time) at which the token is no longer valid, leeway apart.
    pub expires: u64,
}

/// Whether a verdict came from memory or paid for a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remembered {
    /// Verified before; only its times were checked again.
    Yes,
    /// Verified now.
    No,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TokenError {
    /// Not a JWS in compact form, or credentials that are no bearer token.
    #[error("the token is malformed")]
    Malformed,
    /// An algorithm that is not configured; `none` is one of them.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// No key confirms the signature.
    #[error("the token's signature does not verify")]
    Signature,
    /// `exp` has come.
    #[error("the token has expired")]
    Expired,
    /// `nbf` has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `aud` is absent or names someone else.
    #[error("the token is meant for another audience")]
    Audience,
    /// `iss` is absent or not one of ours.
    #[error("the token is from another issuer")]
    Issuer,
    /// A claim is missing (`exp`, the tenant) or not of the form that we accept.
    #[error("the token's claims are not acceptable")]
    Claims,
    /// No key has the token's `kid` and fits its algorithm.
    #[error("there is no key for the token")]
    NoKey,
    /// Longer than [`MAX_TOKEN`].
    #[error("the token is longer than {MAX_TOKEN} bytes")]
    TooLong,
}

impl TokenError {
    /// The reason, for access records and `Cache-Status`.
    pub fn detail(self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::Algorithm => "token_algorithm",
            Self::Signature => "token_signature",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Audience => "token_audience",
            Self::Issuer => "token_issuer",
            Self::Claims => "token_claims",
            Self::NoKey => "token_no_key",
            Self::TooLong => "token_too_long",
        }
    }
}

/// Why keys can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// An empty list of algorithms.
    #[error("at least one algorithm is needed")]
    NoAlgorithm,
    /// `HS…` with a JWKS, or any other algorithm with a secret.
    #[error("{0:?} does not fit the kind of key that is configured")]
    Mixed(Algorithm),
    /// An empty list of secrets, or a secret without a byte: anyone could sign with it.
    #[error("a secret must not be empty")]
    EmptySecret,
    /// A secret in PEM form: most likely a public key, with which anyone could sign.
    #[error("a secret must not be a PEM file: a public key is no secret, use a JWKS for it")]
    PemSecret,
    /// A JWKS is given to a verifier that works with secrets.
    #[error("the configuration has secrets, not a JWKS")]
    NotJwks,
    /// A JWKS longer than [`MAX_JWKS`].
    #[error("the JWKS is longer than {MAX_JWKS} bytes")]
    JwksTooLong,
    /// Not a JSON object with a list of `keys`.
    #[error("the JWKS can't be parsed: {0}")]
    JwksSyntax(#[from] serde_json::Error),
    /// No key in the set can verify any of the configured algorithms.
    #[error("the JWKS has no usable key for the configured algorithms")]
    NoUsableKey,
    /// The JWKS file can't be read.
    #[error("can't read {}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A token can't be made; the library's reason.
    #[error("can't sign the token: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// Verifies tokens with one set of keys at a time.
pub struct Verifier {
    algorithms: Vec<Algorithm>,
    rules: Rules,
    capacity: usize,
    ring: ArcSwap<Ring>,
}

/// Keys, and what they verified. They are replaced together, so that a token of a key that is gone is forgotten
/// even when its verification was under way during the change.
struct Ring {
    keys: Keys,
    memory: Memory,
}

impl Ring {
    fn new(keys: Keys, capacity: usize) -> Self {
        Self { keys, memory: Memory::new(capacity) }
    }
}

impl Verifier {
    /// A verifier for `[jwt]`. With a JWKS it has no keys, and refuses every token with [`TokenError::NoKey`],
    /// until [`replace_jwks`](Self::replace_jwks) or [`load_jwks_file`](Self::load_jwks_file) succeeds.
    ///
    /// # Errors
    /// When the algorithms don't fit the kind of key, or a secret is none.
    pub fn new(config: &Jwt) -> Result<Self, IdentityError> {
        Self::with_capacity(config, MAX_REMEMBERED)
    }

    /// As [`new`](Self::new), remembering about `capacity` tokens instead of [`MAX_REMEMBERED`].
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_capacity(config: &Jwt, capacity: usize) -> Result<Self, IdentityError> {
        let keys = match &config.keys {
            JwtKeys::Secrets(secrets) => Keys::secrets(secrets)?,
            JwtKeys::JwksFile(_) | JwtKeys::JwksUrl { .. } => Keys::Public(Vec::new()),
        };
        if config.algorithms.is_empty() {
            return Err(IdentityError::NoAlgorithm);
        }
        if let Some(stranger) = config.algorithms.iter().find(|a| !keys.admit(**a)) {
            return Err(IdentityError::Mixed(*stranger));
        }
        Ok(Self {
            algorithms: config.algorithms.clone(),
            rules: Rules::new(config),
            capacity,
            ring: ArcSwap::from_pointee(Ring::new(keys, capacity)),
        })
    }

    /// Whose token this is, at `now`.
    ///
    /// # Errors
    /// The reason for which the token is refused. Refusals are not remembered.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<(Arc<Identity>, Remembered), TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        let now = unix_seconds(now);
        let ring = self.ring.load();
        if let Some(known) = ring.memory.recall(token) {
            return match self.rules.check_times(known.identity.expires, known.not_before, now) {
                Ok(()) => Ok((known.identity, Remembered::Yes)),
                Err(reason) => {
                    ring.memory.forget(token);
                    Err(reason)
                }
            };
        }
        let known = self.verify_anew(token, &ring.keys, now)?;
        let identity = Arc::clone(&known.identity);
        ring.memory.remember(token, known);
        Ok((identity, Remembered::No))
    }

    /// Whose token this is, at `now`, if it was verified before and still is valid. Anything else [`Self::verify`] has to
    /// judge; this changes nothing.
    pub fn remembers(&self, token: &str, now: SystemTime) -> Option<Arc<Identity>> {
        let known = self.ring.load().memory.recall(token)?;
        let times = self.rules.check_times(known.identity.expires, known.not_before, unix_seconds(now));
        times.ok().map(|()| known.identity)
    }

    fn verify_anew(&self, token: &str, keys: &Keys, now: u64) -> Result<Known, TokenError> {
        let token = Token::parse(token)?;
        if !self.algorithms.contains(&token.algorithm) {
            return Err(TokenError::Algorithm);
        }
        keys.check(&token)?;
        self.rules.check(&token.payload()?, now)
    }

    /// Puts the keys of a JWKS document in the place of those in use and forgets every verified token; a document
    /// with the keys that are in use already changes nothing. Returns how many keys are usable.
    ///
    /// # Errors
    /// When the document is bad or holds no usable key: the keys in use stay.
    pub fn replace_jwks(&self, text: &str) -> Result<usize, IdentityError> {
        let ring = self.ring.load();
        let Keys::Public(current) = &ring.keys else { return Err(IdentityError::NotJwks) };
        let keys = jwks::parse(text, &self.algorithms)?;
        let usable = keys.len();
        if keys != *current {
            self.ring.store(Arc::new(Ring::new(Keys::Public(keys), self.capacity)));
        }
        Ok(usable)
    }

    /// [`replace_jwks`](Self::replace_jwks) with the content of a file. Blocks while it reads.
    ///
    /// # Errors
    /// When the file can't be read, is not UTF-8, or as `replace_jwks`: the keys in use stay.
    pub fn load_jwks_file(&self, path: &Path) -> Result<usize, IdentityError> {
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_JWKS as u64 + 1).read_to_string(&mut text))
            .map_err(|source| IdentityError::File { path: path.to_owned(), source })?;
        self.replace_jwks(&text)
    }

    /// How many tokens are remembered, for the metrics.
    pub fn remembered(&self) -> usize {
        self.ring.load().memory.len()
    }
}

/// A clock before 1970 is broken; as the end of time it makes every token an expired one.
fn unix_seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_secs())
}
