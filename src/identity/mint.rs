//! Makes tokens for tests, demos and the command line: `HS…` only.

use super::{claims, IdentityError};
use crate::{
    config::{JwtConfig, Secret},
    name::Tenant,
};

use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, Header};
use serde_json::{Map, Value};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The bearer of a new token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenBearer<'a> {
    /// The tenant.
    pub tenant: &'a Tenant,
    /// The user.
    pub user: Option<&'a str>,
    /// The role.
    pub role: Option<&'a str>,
    /// The time for which it is valid, in whole seconds.
    pub lifetime: Duration,
}

impl TokenBearer<'_> {
    /// The claims of a token that `jwt` accepts from `now` on: under its claim names, for the first of its
    /// audiences and from the first of its issuers. Without a `jwt`, under the default names.
    fn claims(&self, jwt: Option<&JwtConfig>, now: SystemTime) -> Map<String, Value> {
        let issued = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let named = |name: fn(&JwtConfig) -> &str, default| jwt.map_or(default, name).to_owned();
        let tenant = Some(self.tenant.as_str().into());
        let claims: [(String, Option<Value>); 7] = [
            (named(|jwt| &jwt.tenant_claim, "tenant"), tenant),
            (named(|jwt| &jwt.user_claim, "sub"), self.user.map(Value::from)),
            (named(|jwt| &jwt.role_claim, "role"), self.role.map(Value::from)),
            ("aud".to_owned(), jwt.and_then(|jwt| jwt.audience.first()).cloned().map(Value::from)),
            ("iss".to_owned(), jwt.and_then(|jwt| jwt.issuer.first()).cloned().map(Value::from)),
            ("iat".to_owned(), Some(issued.into())),
            ("exp".to_owned(), Some(issued.saturating_add(self.lifetime.as_secs()).into())),
        ];
        let mut made = Map::new();
        for (name, value) in claims.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            claims::put_claim(&mut made, &name, value);
        }
        made
    }
}

/// Makes a token that is valid from `now` on.
///
/// # Errors
/// If `algorithm` is not one of the `HS…` family or the secret is empty.
pub(crate) fn mint_token(
    secret: &Secret,
    algorithm: Algorithm,
    bearer: &TokenBearer<'_>,
    jwt: Option<&JwtConfig>,
    now: SystemTime,
) -> Result<String, IdentityError> {
    if algorithm.family() != AlgorithmFamily::Hmac {
        return Err(IdentityError::Mixed(algorithm));
    }
    if secret.reveal().is_empty() {
        return Err(IdentityError::EmptySecret);
    }
    let key = EncodingKey::from_secret(secret.reveal());
    Ok(jsonwebtoken::encode(&Header::new(algorithm), &bearer.claims(jwt, now), &key)?)
}
