//! Making tokens for tests, demos and the command line: `HS…` only, with the default names of the claims.

use super::{unix_seconds, IdentityError};
use crate::{config::Secret, name::Tenant};
use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, Header};
use serde::Serialize;
use std::time::{Duration, SystemTime};

#[derive(Serialize)]
struct Claims<'a> {
    tenant: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    iat: u64,
    exp: u64,
}

/// A token that is valid from `now` for `ttl` (whole seconds), with the claims `tenant`, `sub`, `role`, `iat`, `exp`.
///
/// # Errors
/// When `algorithm` is not one of the `HS…` family or the secret is empty.
pub fn mint(
    secret: &Secret,
    algorithm: Algorithm,
    tenant: &Tenant,
    user: Option<&str>,
    role: Option<&str>,
    ttl: Duration,
    now: SystemTime,
) -> Result<String, IdentityError> {
    if algorithm.family() != AlgorithmFamily::Hmac {
        return Err(IdentityError::Mixed(algorithm));
    }
    if secret.reveal().is_empty() {
        return Err(IdentityError::EmptySecret);
    }
    let iat = unix_seconds(now);
    let exp = iat.saturating_add(ttl.as_secs());
    let claims = Claims { tenant: tenant.as_str(), sub: user, role, iat, exp };
    let key = EncodingKey::from_secret(secret.reveal());
    Ok(jsonwebtoken::encode(&Header::new(algorithm), &claims, &key)?)
}
