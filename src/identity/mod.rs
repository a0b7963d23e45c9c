//! Authentication: from a token to a tenant, a user and a role (RFC 7515, 7517, 7519, 6750).
//!
//! Decides whether a token is genuine, meant for this gateway and valid at a given second, and remembers
//! verified tokens in bounded memory until they expire, so that a hit doesn't pay for the signature. It fails
//! closed: a token that breaks a rule is an error, never an anonymous request. It never fetches a key itself:
//! for an unknown key it asks the keeper of the key set to read it again (`renewal.rs`). No error holds token
//! text.

mod claims;
mod credentials;
mod jwks;
mod keys;
mod memory;
mod mint;
mod renewal;
#[cfg(test)]
mod tests;
mod token_rule;

pub(crate) use {
    credentials::{
        bearer_token, cookie_token, has_other_scheme, plain_bearer_token, query_token, without_query_token,
    },
    mint::{mint_token, TokenBearer},
    renewal::KeyRenewal,
    token_rule::TokenRule,
};

use crate::{
    clock::ClockReading,
    config::{CacheScope, JwtConfig, JwtKeys},
    http::refusal_reasons::refusal_reasons,
    name::Tenant,
};
use arc_swap::{ArcSwap, ArcSwapOption};
use claims::ClaimRules;
use keys::{ParsedToken, VerifyingKeys};
use memory::{KnownToken, TokenMemory};

use jsonwebtoken::Algorithm;

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc,
    },
    time::Duration,
};

/// The number of tokens of ordinary length (up to 511 bytes) that are remembered; longer ones count for more.
pub(crate) const MAX_REMEMBERED: usize = 65_536;
/// The longest JWKS document that is accepted, in bytes.
pub(crate) const MAX_JWKS: usize = 256 * 1024;

/// The identity in a verified token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The tenant, if the token or the configuration names one.
    pub tenant: Option<Tenant>,
    /// The user: 1 to 256 bytes without control characters or spaces at either end.
    pub user: Option<String>,
    /// The role, held to the same rules as the user.
    pub role: Option<String>,
    /// `exp`: the first millisecond (Unix time) at which the token is no longer valid, without leeway.
    pub expires: u64,
}

impl Identity {
    /// Checks that it has all that this scope requires.
    ///
    /// # Errors
    /// The reason, [`TokenError::NoTenant`] or [`TokenError::NoUser`].
    pub fn check_scope(&self, scope: Option<CacheScope>) -> Result<(), TokenError> {
        match scope {
            Some(CacheScope::Tenant) if self.tenant.is_none() => Err(TokenError::NoTenant),
            Some(CacheScope::User) if self.user.is_none() => Err(TokenError::NoUser),
            _ => Ok(()),
        }
    }
}

/// The tenant of a request: `public` without an identity, or if the identity has no tenant.
pub(crate) fn tenant_of(identity: Option<&Identity>) -> &Tenant {
    identity.and_then(|identity| identity.tenant.as_ref()).unwrap_or(Tenant::public())
}

/// The source of a verdict: memory, or a verification of the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RememberedVerdict {
    /// Verified before; only its times were checked again.
    Yes,
    /// Verified now.
    No,
}

refusal_reasons! {
    /// The reason why a token is refused.
    pub enum TokenError;

    /// Not a JWS in compact form, or credentials that are no bearer token.
    Malformed => "token_malformed", "the token is malformed";
    /// An algorithm that is not configured, `none` among them.
    Algorithm => "token_algorithm", "the token's algorithm is not accepted";
    /// No key verifies the signature.
    Signature => "token_signature", "the token's signature does not verify";
    /// `exp` has passed.
    Expired => "token_expired", "the token has expired";
    /// `nbf` is in the future.
    NotYetValid => "token_not_yet_valid", "the token is not valid yet";
    /// `aud` is absent or names someone else.
    Audience => "token_audience", "the token is meant for another audience";
    /// `iss` is absent or not one of the configured ones.
    Issuer => "token_issuer", "the token is from another issuer";
    /// `exp` is missing.
    NoExpiry => "token_no_expiry", "the token has no exp";
    /// `exp` or `nbf` is no number of seconds.
    Claims => "token_claims", "the token's exp or nbf is no number of seconds";
    /// The tenant's claim is no valid name.
    Tenant => "token_tenant", "the token's tenant is no valid name";
    /// The scope needs a tenant, and the token names none.
    NoTenant => "token_no_tenant", "the token names no tenant";
    /// The user's claim is neither text nor an integer of 64 bits, or too long.
    User => "token_user", "the token's user is neither plain text nor an integer of 64 bits";
    /// The scope needs a user, and the token names none.
    NoUser => "token_no_user", "the token names no user";
    /// The role's claim is neither text nor an integer of 64 bits, or too long.
    Role => "token_role", "the token's role is neither plain text nor an integer of 64 bits";
    /// No key has the token's `kid` and fits its algorithm.
    NoKey => "token_no_key", "there is no key for the token";
    /// The key set could not be read for longer than its `max_age`.
    OldKeys => "token_old_keys", "the keys that verify tokens are too old";
    /// Longer than `max_token`.
    TooLong => "token_too_long", "the token is too long";
}

/// The reason why keys can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// An empty list of algorithms.
    #[error("at least one algorithm is needed")]
    NoAlgorithm,
    /// `HS…` with a JWKS, or any other algorithm with a secret.
    #[error("{0:?} does not fit the kind of key that is configured")]
    Mixed(Algorithm),
    /// An empty list of secrets, or an empty secret: anyone could sign with it.
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
    /// The JWKS file can't be read, or is not usable.
    #[error("can't use {}: {source}", path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A token can't be made; the library's reason.
    #[error("can't sign the token: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// Verifies tokens with one set of keys at a time.
pub struct Verifier {
    algorithms: Vec<Algorithm>,
    rules: ClaimRules,
    max_token: usize,
    capacity: usize,
    ring: ArcSwap<KeyRing>,
    /// The time for which a key set that can't be read again is trusted.
    max_age: Duration,
    /// The time until which the keys are trusted, by the monotonic clock of [`crate::clock`].
    good_until: AtomicU64,
    renewal: Arc<KeyRenewal>,
    /// The document that holds the keys.
    document: ArcSwapOption<String>,
    /// The reason why the key set could not be read the last time.
    unread: ArcSwapOption<String>,
}

/// The keys, and the tokens that they verified. They are replaced together, so that a token of a removed key
/// is forgotten even if its verification was under way during the change.
struct KeyRing {
    keys: VerifyingKeys,
    memory: TokenMemory,
}

impl KeyRing {
    fn new(keys: VerifyingKeys, capacity: usize) -> Self {
        Self { keys, memory: TokenMemory::new(capacity) }
    }
}

impl Verifier {
    /// A verifier for `[jwt]`. With a JWKS it has no keys, and refuses every token with
    /// [`TokenError::NoKey`], until [`replace_jwks`](Self::replace_jwks) or
    /// [`load_jwks_file`](Self::load_jwks_file) succeeds.
    ///
    /// # Errors
    /// If the algorithms don't fit the kind of key, or a secret is not usable.
    pub fn new(config: &JwtConfig) -> Result<Self, IdentityError> {
        Self::with_capacity(config, MAX_REMEMBERED)
    }

    /// As [`new`](Self::new), remembering about `capacity` tokens instead of [`MAX_REMEMBERED`].
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_capacity(config: &JwtConfig, capacity: usize) -> Result<Self, IdentityError> {
        let keys = match &config.keys {
            JwtKeys::Secrets(secrets) => VerifyingKeys::secrets(secrets)?,
            JwtKeys::JwksFile(_) | JwtKeys::JwksUrl { .. } => VerifyingKeys::Public(Vec::new()),
        };
        if config.algorithms.is_empty() {
            return Err(IdentityError::NoAlgorithm);
        }
        if let Some(stranger) = config.algorithms.iter().find(|a| !keys.admit(**a)) {
            return Err(IdentityError::Mixed(*stranger));
        }
        Ok(Self {
            algorithms: config.algorithms.clone(),
            rules: ClaimRules::new(config),
            max_token: config.max_token,
            capacity,
            ring: ArcSwap::from_pointee(KeyRing::new(keys, capacity)),
            max_age: config.jwks_max_age,
            good_until: AtomicU64::new(u64::MAX),
            renewal: Arc::default(),
            document: ArcSwapOption::empty(),
            unread: ArcSwapOption::empty(),
        })
    }

    /// The identity of a token's bearer at `now`.
    ///
    /// # Errors
    /// The reason why the token is refused. Refusals are not remembered.
    pub fn verify(
        &self,
        token: &str,
        now: ClockReading,
    ) -> Result<(Arc<Identity>, RememberedVerdict), TokenError> {
        if token.len() > self.max_token {
            return Err(TokenError::TooLong);
        }
        if self.is_outdated(now.now_ms) {
            return Err(TokenError::OldKeys);
        }
        let (ring, now) = (self.ring.load(), unix_ms(now));
        if let Some(known) = ring.memory.recall(token) {
            return match self.rules.check_times(known.identity.expires, known.not_before, now) {
                Ok(()) => Ok((known.identity, RememberedVerdict::Yes)),
                Err(reason) => {
                    ring.memory.forget(token);
                    Err(reason)
                }
            };
        }
        let known = self.verify_uncached(token, &ring.keys, now)?;
        let identity = Arc::clone(&known.identity);
        ring.memory.remember(token, known);
        Ok((identity, RememberedVerdict::No))
    }

    /// The identity of a token's bearer at `now`, if the token was verified before and is still valid;
    /// `None`: call [`Self::verify`]. Changes nothing.
    pub fn remembers(&self, token: &str, now: ClockReading) -> Option<Arc<Identity>> {
        let known = self.ring.load().memory.recall(token).filter(|_| !self.is_outdated(now.now_ms))?;
        let times = self.rules.check_times(known.identity.expires, known.not_before, unix_ms(now));
        times.ok().map(|()| known.identity)
    }

    /// Returns true if a token that was refused for this reason could verify after the key set is read again.
    pub fn may_lack_key(&self, token: &str, refused: TokenError) -> bool {
        if matches!(self.ring.load().keys, VerifyingKeys::Secrets(_)) {
            return false;
        }
        match refused {
            TokenError::NoKey | TokenError::OldKeys => true,
            // Issuers without key ids change their keys as well.
            TokenError::Signature => ParsedToken::parse(token).is_ok_and(|token| token.kid.is_none()),
            _ => false,
        }
    }

    /// Requests that the key set is read again, at once unless it was a moment ago. Returns true if it was
    /// read.
    pub async fn renew(&self) -> bool {
        self.renewal.renew().await
    }

    /// The channel by which the keeper of the key set is asked to read it again.
    pub fn renewal(&self) -> Arc<KeyRenewal> {
        self.renewal.clone()
    }

    /// Records that the key set was read at `now_ms`, changed or not: it is trusted for `max_age` from then
    /// on.
    pub fn confirm(&self, now_ms: u64) {
        self.unread.store(None);
        let max_age = u64::try_from(self.max_age.as_millis()).unwrap_or(u64::MAX);
        self.good_until.store(now_ms.saturating_add(max_age), Ordering::Relaxed);
    }

    /// Records that the key set could not be read, for this reason.
    pub fn read_failed(&self, reason: &dyn std::fmt::Display) {
        self.unread.store(Some(Arc::new(reason.to_string())));
    }

    /// The fault of the key set at `now_ms`, as a sentence, if there is one.
    pub fn trouble(&self, now_ms: u64) -> Option<String> {
        let has_keys = !self.ring.load().keys.is_empty();
        let Some(reason) = self.unread.load_full() else {
            let is_empty = self.document.load().is_some() && !has_keys;
            return is_empty.then(|| format!("tokens are refused: {}", IdentityError::NoUsableKey));
        };
        let believed = has_keys && !self.is_outdated(now_ms);
        let instead = if believed { "the last good one is used" } else { "tokens are refused" };
        Some(format!("the key set can't be read, {instead}: {reason}"))
    }

    /// Returns true if the keys are no longer trusted at `now_ms`.
    pub fn is_outdated(&self, now_ms: u64) -> bool {
        now_ms > self.good_until.load(Ordering::Relaxed)
    }

    fn verify_uncached(&self, token: &str, keys: &VerifyingKeys, now: u64) -> Result<KnownToken, TokenError> {
        let token = ParsedToken::parse(token)?;
        if !self.algorithms.contains(&token.algorithm) {
            return Err(TokenError::Algorithm);
        }
        keys.check(&token)?;
        self.rules.check(&token.payload()?, now)
    }

    /// Replaces the keys by those of a JWKS document and forgets every verified token; a document with the
    /// same keys changes nothing. Returns the number of usable keys: with none, the issuer has revoked those
    /// in use, and every token is refused.
    ///
    /// # Errors
    /// If the document is no key set: the keys in use stay.
    pub fn replace_jwks(&self, text: &str) -> Result<usize, IdentityError> {
        let ring = self.ring.load();
        let VerifyingKeys::Public(current) = &ring.keys else { return Err(IdentityError::NotJwks) };
        let keys = jwks::parse_key_set(text, &self.algorithms)?;
        let usable = keys.len();
        self.document.store(Some(Arc::new(text.to_owned())));
        if keys != *current {
            self.ring.store(Arc::new(KeyRing::new(VerifyingKeys::Public(keys), self.capacity)));
        }
        Ok(usable)
    }

    /// Takes over the keys of another verifier, with the rest of the time for which they are trusted.
    pub fn take_over(&self, other: &Self) {
        let Some(text) = other.document.load_full() else { return };
        if self.replace_jwks(&text).is_ok() {
            self.good_until.store(other.good_until.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// [`load_jwks_file`](Self::load_jwks_file) before the first request: a set without a usable key is a
    /// fault.
    ///
    /// # Errors
    /// As there, and [`IdentityError::NoUsableKey`].
    pub fn begin_with_file(&self, path: &Path) -> Result<(), IdentityError> {
        match self.load_jwks_file(path)? {
            0 => {
                Err(IdentityError::File { path: path.to_owned(), source: IdentityError::NoUsableKey.into() })
            }
            _ => Ok(()),
        }
    }

    /// [`replace_jwks`](Self::replace_jwks) with the content of a file. Blocks while it reads.
    ///
    /// # Errors
    /// If the file can't be read or is not UTF-8, and those of `replace_jwks`: the keys in use stay.
    pub fn load_jwks_file(&self, path: &Path) -> Result<usize, IdentityError> {
        let mut text = String::new();
        let named = |source| IdentityError::File { path: path.to_owned(), source };
        File::open(path)
            .and_then(|file| file.take(MAX_JWKS as u64 + 1).read_to_string(&mut text))
            .map_err(|error| named(error.into()))?;
        self.replace_jwks(&text).map_err(|error| named(error.into()))
    }

    /// The number of remembered tokens, for the metrics.
    pub fn remembered(&self) -> usize {
        self.ring.load().memory.len()
    }
}

/// The time by which tokens are checked. A clock before 1970 is broken; the end of time in its place makes
/// every token an expired one.
fn unix_ms(now: ClockReading) -> u64 {
    match now.wall_ms {
        0 => u64::MAX,
        ms => ms,
    }
}
