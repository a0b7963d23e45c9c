//! Signed URLs: links that are valid until a time, made by the application or by `tidegate sign`.
//!
//! The last parameters of the query are `expires` (Unix seconds) and `signature` (base64url without padding,
//! of an HMAC-SHA256), in this order. The signed text is the request's target exactly as it is sent, path and
//! query up to `&signature=`. Nothing is decoded, sorted or normalised, so that no two readers can take the
//! signed text for different requests. Scheme, host and method are not part of it.
//!
//! With `signed_path=/media/a/` right before `expires` the signature is valid for every target whose path has
//! that prefix, with any other parameters: only `signed_path=…&expires=…` is signed then.
//!
//! Pure: a target and a time in. The parameters are removed from the target for the cache and the origin.

use crate::config::Secret;
use base64::{engine::general_purpose::URL_SAFE_NO_PAD, Engine};
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::percent_decode_str;
use sha2::Sha256;
use subtle::ConstantTimeEq;

const EXPIRES_PARAMETER: &str = "expires";
const SIGNATURE_PARAMETER: &str = "signature";
const PATH_PARAMETER: &str = "signed_path";
/// The most digits of a time.
const MAX_TIME_DIGITS: usize = 15;

/// The reason for which a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignatureRefusal {
    /// No signature, one that does not verify, or parameters in another form.
    #[error("the signature does not verify")]
    Signature,
    /// The signature is valid, and has expired.
    #[error("the link has expired")]
    Expired,
}

/// Verifies a target (path and query as sent) with the secrets, at `now_unix` (seconds). Returns the target
/// without the parameters of the signature.
///
/// # Errors
/// The reason for the refusal. `Expired` is only returned for a valid signature.
pub(crate) fn verify_target(
    secrets: &[Secret],
    target: &str,
    now_unix: u64,
) -> Result<String, SignatureRefusal> {
    let parts = TargetParts::read(target).ok_or(SignatureRefusal::Signature)?;
    let claimed = URL_SAFE_NO_PAD.decode(parts.signature).map_err(|_| SignatureRefusal::Signature)?;
    let is_of = |secret| target_mac(secret, parts.signed).is_some_and(|mac| bool::from(mac.ct_eq(&claimed)));
    let signed = secrets.iter().any(is_of);
    if !signed || !parts.covers_path() {
        return Err(SignatureRefusal::Signature);
    }
    if now_unix > parts.expires {
        return Err(SignatureRefusal::Expired);
    }
    Ok(parts.bare())
}

/// The reason for which a target can't be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignError {
    /// It is not a path and query as a browser would send it.
    #[error(
        "must be a path and query of printable ASCII, other characters percent-encoded, without a fragment"
    )]
    Target,
    /// It has a parameter of the signature already.
    #[error("must not have parameters named {EXPIRES_PARAMETER}, {SIGNATURE_PARAMETER} or {PATH_PARAMETER}")]
    Parameter,
    /// The path to sign for does not match.
    #[error("the path to sign for must begin and end with \"/\", have no \"?\", \"&\" or \"#\", and the URL must lie below it")]
    Path,
    /// The secret can't be used.
    #[error("the secret can't be used for signing")]
    Secret,
}

/// Signs a target until `expires` (Unix seconds). With `below`, for every target whose path has that prefix.
///
/// # Errors
/// The fault in the target.
pub(crate) fn sign_target(
    secret: &Secret,
    target: &str,
    below: Option<&str>,
    expires: u64,
) -> Result<String, SignError> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if !path.starts_with('/') || !is_plain(target) {
        return Err(SignError::Target);
    }
    if query.split('&').any(is_own_parameter) {
        return Err(SignError::Parameter);
    }
    let join = if target.contains('?') { '&' } else { '?' };
    let (signed, whole) = match below {
        None => {
            let signed = format!("{target}{join}{EXPIRES_PARAMETER}={expires}");
            (signed.clone(), signed)
        }
        Some(below) => {
            if !is_directory(below) || !path.starts_with(below) {
                return Err(SignError::Path);
            }
            let signed = format!("{PATH_PARAMETER}={below}&{EXPIRES_PARAMETER}={expires}");
            let whole = format!("{target}{join}{signed}");
            (signed, whole)
        }
    };
    let signature = URL_SAFE_NO_PAD.encode(target_mac(secret, &signed).ok_or(SignError::Secret)?);
    Ok(format!("{whole}&{SIGNATURE_PARAMETER}={signature}"))
}

/// The parts of a target.
struct TargetParts<'t> {
    path: &'t str,
    /// The parameters before those of the signature.
    others: &'t str,
    below: Option<&'t str>,
    expires: u64,
    signature: &'t str,
    /// The text that was signed.
    signed: &'t str,
}

impl<'t> TargetParts<'t> {
    fn read(target: &'t str) -> Option<Self> {
        if !is_plain(target) {
            return None;
        }
        let (path, query) = target.split_once('?')?;
        let (rest, signature) = last_parameter(query, SIGNATURE_PARAMETER)?;
        let unsigned = target.len() - query.len() + rest.len();
        let (before, time) = last_parameter(rest, EXPIRES_PARAMETER)?;
        let digits = time.bytes().all(|b| b.is_ascii_digit()) && (1..=MAX_TIME_DIGITS).contains(&time.len());
        let expires = time.parse().ok().filter(|_| digits)?;
        let (others, below) = match last_parameter(before, PATH_PARAMETER) {
            Some((others, below)) => (others, Some(below)),
            None => (before, None),
        };
        if others.split('&').any(is_own_parameter) {
            return None;
        }
        let signed = match below {
            // After the separator behind the other parameters.
            Some(_) => rest[others.len()..].trim_start_matches('&'),
            None => &target[..unsigned],
        };
        Some(Self { path, others, below, expires, signature, signed })
    }

    /// Returns true if the signature is valid for the path.
    fn covers_path(&self) -> bool {
        self.below.is_none_or(|below| is_directory(below) && self.path.starts_with(below))
    }

    fn bare(&self) -> String {
        match self.others {
            "" => self.path.to_owned(),
            others => format!("{}?{others}", self.path),
        }
    }
}

/// The value of a query's last parameter if it has this name, and the query before it, without its separator.
fn last_parameter<'q>(query: &'q str, name: &str) -> Option<(&'q str, &'q str)> {
    let (before, parameter) = query.rsplit_once('&').unwrap_or(("", query));
    let value = parameter.strip_prefix(name)?.strip_prefix('=')?;
    Some((before, value))
}

/// Returns true for a parameter of the signature, even if its name is percent-encoded.
fn is_own_parameter(parameter: &str) -> bool {
    let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
    let called = |ours: &&str| percent_decode_str(name).eq(ours.bytes());
    [EXPIRES_PARAMETER, SIGNATURE_PARAMETER, PATH_PARAMETER].iter().any(called)
}

/// Returns true if a target has only characters that no recipient rewrites.
fn is_plain(target: &str) -> bool {
    target.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
}

fn is_directory(path: &str) -> bool {
    path.starts_with('/') && path.ends_with('/') && is_plain(path) && !path.contains(['?', '&'])
}

/// `None` if the key can't be used. HMAC accepts keys of any length: the error is only part of the trait.
fn target_mac(secret: &Secret, text: &str) -> Option<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.reveal()).ok()?;
    mac.update(text.as_bytes());
    Some(mac.finalize().into_bytes().into())
}

#[cfg(test)]
#[path = "signed_tests.rs"]
mod tests;
