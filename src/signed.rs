//! Signed URLs: links that are good until a time, made by the application or by `tidegate sign`.
//!
//! The last parameters of the query are `expires` (Unix seconds) and `signature` (base64url without padding, of an
//! HMAC-SHA256), in this order. What is signed is the request's target exactly as it is sent, path and query up to
//! `&signature=`. Nothing is decoded, sorted or normalised, so that no two readers can take the signed text for
//! different requests; and nothing of scheme, host or method is in it.
//!
//! With `signed_path=/media/a/` right before `expires` the signature is good for every target whose path begins like
//! that, with whatever other parameters: only `signed_path=…&expires=…` is signed then.
//!
//! Decides from a target and a time; the parameters are taken off what goes on to the cache and to the origin.

use crate::config::Secret;
use base64::{engine::general_purpose::URL_SAFE_NO_PAD, Engine};
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::percent_decode_str;
use sha2::Sha256;
use subtle::ConstantTimeEq;

const EXPIRES: &str = "expires";
const SIGNATURE: &str = "signature";
const PATH: &str = "signed_path";
/// The most digits of a time.
const LONGEST_TIME: usize = 15;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No signature, one that does not verify, or parameters in another form.
    #[error("the signature does not verify")]
    Signature,
    /// The signature is good and its time is over.
    #[error("the link has expired")]
    Expired,
}

/// Checks a target (path and query as sent) against the secrets, at `now_unix` (seconds). The target without the
/// parameters of the signature, for whoever answers it.
///
/// # Errors
/// Why it is refused. That a link has expired is told only of one that was signed.
pub fn verify(secrets: &[Secret], target: &str, now_unix: u64) -> Result<String, Refusal> {
    let parts = Parts::read(target).ok_or(Refusal::Signature)?;
    let claimed = URL_SAFE_NO_PAD.decode(parts.signature).map_err(|_| Refusal::Signature)?;
    let is_of = |secret| mac(secret, parts.signed).is_some_and(|mac| bool::from(mac.ct_eq(&claimed)));
    let signed = secrets.iter().any(is_of);
    if !signed || !parts.covers_path() {
        return Err(Refusal::Signature);
    }
    if now_unix > parts.expires {
        return Err(Refusal::Expired);
    }
    Ok(parts.bare())
}

/// Why a target can't be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// It is no path and query as a browser would send it.
    #[error(
        "must be a path and query of printable ASCII, other characters percent-encoded, without a fragment"
    )]
    Target,
    /// It holds a parameter of the signature's already.
    #[error("must not have parameters named {EXPIRES}, {SIGNATURE} or {PATH}")]
    Parameter,
    /// The path to sign for does not fit.
    #[error("the path to sign for must begin and end with \"/\", have no \"?\", \"&\" or \"#\", and the URL must lie below it")]
    Path,
    /// Nothing can be signed with this secret.
    #[error("the secret can't sign")]
    Secret,
}

/// Signs a target until `expires` (Unix seconds). With `below`, for every target whose path begins like that.
///
/// # Errors
/// What is wrong with the target.
pub fn sign(secret: &Secret, target: &str, below: Option<&str>, expires: u64) -> Result<String, SignError> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if !path.starts_with('/') || !is_plain(target) {
        return Err(SignError::Target);
    }
    if query.split('&').any(is_ours) {
        return Err(SignError::Parameter);
    }
    let join = if target.contains('?') { '&' } else { '?' };
    let (signed, whole) = match below {
        None => {
            let signed = format!("{target}{join}{EXPIRES}={expires}");
            (signed.clone(), signed)
        }
        Some(below) => {
            if !is_directory(below) || !path.starts_with(below) {
                return Err(SignError::Path);
            }
            let signed = format!("{PATH}={below}&{EXPIRES}={expires}");
            let whole = format!("{target}{join}{signed}");
            (signed, whole)
        }
    };
    let signature = URL_SAFE_NO_PAD.encode(mac(secret, &signed).ok_or(SignError::Secret)?);
    Ok(format!("{whole}&{SIGNATURE}={signature}"))
}

/// A target, taken apart.
struct Parts<'t> {
    path: &'t str,
    /// The parameters before those of the signature.
    others: &'t str,
    below: Option<&'t str>,
    expires: u64,
    signature: &'t str,
    /// What was signed.
    signed: &'t str,
}

impl<'t> Parts<'t> {
    fn read(target: &'t str) -> Option<Self> {
        if !is_plain(target) {
            return None;
        }
        let (path, query) = target.split_once('?')?;
        let (rest, signature) = last(query, SIGNATURE)?;
        let unsigned = target.len() - query.len() + rest.len();
        let (before, time) = last(rest, EXPIRES)?;
        let digits = time.bytes().all(|b| b.is_ascii_digit()) && (1..=LONGEST_TIME).contains(&time.len());
        let expires = time.parse().ok().filter(|_| digits)?;
        let (others, below) = match last(before, PATH) {
            Some((others, below)) => (others, Some(below)),
            None => (before, None),
        };
        if others.split('&').any(is_ours) {
            return None;
        }
        let signed = match below {
            // Behind the separator that ends the others.
            Some(_) => rest[others.len()..].trim_start_matches('&'),
            None => &target[..unsigned],
        };
        Some(Self { path, others, below, expires, signature, signed })
    }

    /// Whether the path is one that the signature is for.
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

/// The value of a query's last parameter, if it is called so, and what stands before it, without its separator.
fn last<'q>(query: &'q str, name: &str) -> Option<(&'q str, &'q str)> {
    let (before, parameter) = query.rsplit_once('&').unwrap_or(("", query));
    let value = parameter.strip_prefix(name)?.strip_prefix('=')?;
    Some((before, value))
}

/// Whether a parameter is one of the signature's, however its name is written.
fn is_ours(parameter: &str) -> bool {
    let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
    let called = |ours: &&str| percent_decode_str(name).eq(ours.bytes());
    [EXPIRES, SIGNATURE, PATH].iter().any(called)
}

/// What a URL may hold: anything else would be written otherwise by the next one who handles it.
fn is_plain(target: &str) -> bool {
    target.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
}

fn is_directory(path: &str) -> bool {
    path.starts_with('/') && path.ends_with('/') && is_plain(path) && !path.contains(['?', '&'])
}

/// `None` where the key can't be used. HMAC takes keys of any length: the error is part of the trait only.
fn mac(secret: &Secret, text: &str) -> Option<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.reveal()).ok()?;
    mac.update(text.as_bytes());
    Some(mac.finalize().into_bytes().into())
}

#[cfg(test)]
#[path = "signed_tests.rs"]
mod tests;
