//! What a genuine token must say: times, audience, issuer, and who its bearer is (RFC 7519, 4.1).
//!
//! Pure: claims in, a verdict out. It is only asked about claims whose signature has been verified. Every form that
//! it doesn't know is refused, for what passes here becomes part of a cache key and a header for the origin.

use super::{memory::Known, Identity, TokenError};
use crate::{config::Jwt, name::Tenant};
use serde_json::{Map, Value};
use std::sync::Arc;

/// The longest user or role, in bytes.
const MAX_TEXT: usize = 256;

/// The claims of a token.
pub(super) type Claims = Map<String, Value>;

/// What the configuration asks of claims.
pub(super) struct Rules {
    tenant_claim: String,
    user_claim: String,
    role_claim: String,
    audience: Vec<String>,
    issuer: Vec<String>,
    leeway: u64,
}

impl Rules {
    pub(super) fn new(config: &Jwt) -> Self {
        Self {
            tenant_claim: config.tenant_claim.clone(),
            user_claim: config.user_claim.clone(),
            role_claim: config.role_claim.clone(),
            audience: config.audience.clone(),
            issuer: config.issuer.clone(),
            leeway: config.leeway.as_secs(),
        }
    }

    /// Whom the claims name, when they are acceptable at `now` (Unix seconds).
    pub(super) fn check(&self, claims: &Claims, now: u64) -> Result<Known, TokenError> {
        let expires = numeric_date(claims.get("exp").ok_or(TokenError::Claims)?, f64::floor)?;
        let not_before = claims.get("nbf").map_or(Ok(0), |nbf| numeric_date(nbf, f64::ceil))?;
        self.check_times(expires, not_before, now)?;
        if !self.audience.is_empty() && !names_one_of(claims.get("aud"), &self.audience) {
            return Err(TokenError::Audience);
        }
        let issuer = claims.get("iss").and_then(Value::as_str);
        if !self.issuer.is_empty() && !self.issuer.iter().any(|known| issuer == Some(known)) {
            return Err(TokenError::Issuer);
        }
        let identity = Identity {
            tenant: tenant(claims.get(&self.tenant_claim))?,
            user: text(claims.get(&self.user_claim))?,
            role: text(claims.get(&self.role_claim))?,
            expires,
        };
        Ok(Known { identity: Arc::new(identity), not_before })
    }

    /// Whether `now` lies in `not_before..expires`, widened by the leeway; all in Unix seconds.
    pub(super) fn check_times(&self, expires: u64, not_before: u64, now: u64) -> Result<(), TokenError> {
        if now >= expires.saturating_add(self.leeway) {
            return Err(TokenError::Expired);
        }
        if now < not_before.saturating_sub(self.leeway) {
            return Err(TokenError::NotYetValid);
        }
        Ok(())
    }
}

/// A NumericDate: whole seconds, or a fraction that `round` resolves against the bearer.
fn numeric_date(value: &Value, round: fn(f64) -> f64) -> Result<u64, TokenError> {
    // Beyond this, a float doesn't tell seconds apart.
    const LAST: f64 = 9_007_199_254_740_992.0;
    if let Some(seconds) = value.as_u64() {
        return Ok(seconds);
    }
    match value.as_f64().map(round) {
        // In range, so the cast is exact.
        Some(seconds) if (0.0..LAST).contains(&seconds) => Ok(seconds as u64),
        _ => Err(TokenError::Claims),
    }
}

/// `aud` is one string or a list of them; one match is enough.
fn names_one_of(claim: Option<&Value>, accepted: &[String]) -> bool {
    let accepts = |value: &Value| value.as_str().is_some_and(|name| accepted.iter().any(|a| a == name));
    match claim {
        Some(Value::Array(list)) => list.iter().any(accepts),
        Some(single) => accepts(single),
        None => false,
    }
}

fn tenant(claim: Option<&Value>) -> Result<Tenant, TokenError> {
    let name = claim.and_then(Value::as_str).ok_or(TokenError::Claims)?;
    name.parse().map_err(|_| TokenError::Claims)
}

/// A user or a role: text or an integer; absent, null and empty mean none.
fn text(claim: Option<&Value>) -> Result<Option<String>, TokenError> {
    let text = match claim {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) if !number.is_f64() => number.to_string(),
        Some(_) => return Err(TokenError::Claims),
    };
    // The origin gets the text as a header, and a receiver strips spaces off a header's ends: with them, two
    // users of ours would be one of the origin's.
    let fits =
        text.len() <= MAX_TEXT && text.trim().len() == text.len() && !text.chars().any(char::is_control);
    if !fits {
        return Err(TokenError::Claims);
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules(audience: &[&str], issuer: &[&str], leeway: u64) -> Rules {
        Rules {
            tenant_claim: "tenant".into(),
            user_claim: "sub".into(),
            role_claim: "role".into(),
            audience: audience.iter().map(ToString::to_string).collect(),
            issuer: issuer.iter().map(ToString::to_string).collect(),
            leeway,
        }
    }

    fn check(rules: &Rules, extra: Value, now: u64) -> Result<Identity, TokenError> {
        let mut claims = json!({ "exp": 1_000, "tenant": "acme" });
        for (name, value) in extra.as_object().unwrap() {
            claims[name] = value.clone();
        }
        rules.check(claims.as_object().unwrap(), now).map(|known| (*known.identity).clone())
    }

    #[test]
    fn the_last_second_is_the_one_before_exp() {
        let strict = rules(&[], &[], 0);
        assert!(check(&strict, json!({}), 999).is_ok());
        assert_eq!(check(&strict, json!({}), 1_000), Err(TokenError::Expired));
        assert_eq!(check(&strict, json!({ "exp": 999.9 }), 999), Err(TokenError::Expired));
        let lenient = rules(&[], &[], 5);
        assert!(check(&lenient, json!({}), 1_004).is_ok());
        assert_eq!(check(&lenient, json!({}), 1_005), Err(TokenError::Expired));
        assert_eq!(check(&lenient, json!({ "exp": u64::MAX }), u64::MAX), Err(TokenError::Expired));
    }

    #[test]
    fn the_first_second_is_nbf() {
        let strict = rules(&[], &[], 0);
        assert!(check(&strict, json!({ "nbf": 500 }), 500).is_ok());
        assert_eq!(check(&strict, json!({ "nbf": 500 }), 499), Err(TokenError::NotYetValid));
        assert_eq!(check(&strict, json!({ "nbf": 499.1 }), 499), Err(TokenError::NotYetValid));
        assert!(check(&rules(&[], &[], 5), json!({ "nbf": 500 }), 495).is_ok());
        assert_eq!(check(&rules(&[], &[], 5), json!({ "nbf": 500 }), 494), Err(TokenError::NotYetValid));
    }

    #[test]
    fn times_that_are_no_times_are_refused() {
        for bad in [json!(null), json!("2000"), json!(-1), json!(1e300), json!([]), json!(true)] {
            assert_eq!(
                check(&rules(&[], &[], 0), json!({ "exp": bad }), 1),
                Err(TokenError::Claims),
                "{bad}"
            );
            assert_eq!(
                check(&rules(&[], &[], 0), json!({ "nbf": bad }), 1),
                Err(TokenError::Claims),
                "{bad}"
            );
        }
        let without_exp = json!({ "tenant": "acme" });
        let verdict = rules(&[], &[], 0).check(without_exp.as_object().unwrap(), 1);
        assert_eq!(verdict.map(|_| ()), Err(TokenError::Claims));
    }

    #[test]
    fn audience_and_issuer_are_checked_only_where_configured() {
        assert!(check(&rules(&[], &[], 0), json!({ "aud": "x", "iss": "y" }), 1).is_ok());
        let strict = rules(&["us", "them"], &["idp"], 0);
        let ours = |aud: Value| check(&strict, json!({ "aud": aud, "iss": "idp" }), 1).map(|_| ());
        assert_eq!(ours(json!("us")), Ok(()));
        assert_eq!(ours(json!(["x", "them"])), Ok(()));
        for bad in [json!("x"), json!([]), json!(null), json!(["x", 1]), json!({ "us": 1 })] {
            assert_eq!(ours(bad), Err(TokenError::Audience));
        }
        assert_eq!(check(&strict, json!({ "iss": "idp" }), 1), Err(TokenError::Audience));
        for bad in [json!("other"), json!(null), json!(["idp"])] {
            assert_eq!(check(&strict, json!({ "aud": "us", "iss": bad }), 1), Err(TokenError::Issuer));
        }
    }

    #[test]
    fn a_token_without_a_proper_tenant_fails_closed() {
        for bad in [json!(null), json!(""), json!("a:b"), json!("a b"), json!(7), json!(["acme"])] {
            assert_eq!(
                check(&rules(&[], &[], 0), json!({ "tenant": bad }), 1),
                Err(TokenError::Claims),
                "{bad}"
            );
        }
        let without = json!({ "exp": 1_000 });
        let verdict = rules(&[], &[], 0).check(without.as_object().unwrap(), 1);
        assert_eq!(verdict.map(|_| ()), Err(TokenError::Claims));
    }

    #[test]
    fn users_and_roles_are_plain_text_or_integers() {
        let user = |sub: Value| check(&rules(&[], &[], 0), json!({ "sub": sub }), 1).map(|i| i.user);
        assert_eq!(user(json!("zoë")), Ok(Some("zoë".into())));
        assert_eq!(user(json!(42)), Ok(Some("42".into())));
        assert_eq!(user(json!(-1)), Ok(Some("-1".into())));
        assert_eq!(user(json!("x".repeat(256))), Ok(Some("x".repeat(256))));
        assert_eq!(user(json!(null)), Ok(None));
        assert_eq!(user(json!("")), Ok(None));
        let long = "x".repeat(257);
        for bad in [json!(1.5), json!(true), json!([]), json!({}), json!(long)] {
            assert_eq!(user(bad.clone()), Err(TokenError::Claims), "{bad}");
        }
        for bad in ["a\nb", "a\r", "\0", "a\u{7f}", "a\u{85}b", " a", "a ", "\u{a0}a", " "] {
            assert_eq!(user(json!(bad)), Err(TokenError::Claims), "{bad:?}");
            let role = check(&rules(&[], &[], 0), json!({ "role": bad }), 1);
            assert_eq!(role, Err(TokenError::Claims), "{bad:?}");
        }
    }
}
