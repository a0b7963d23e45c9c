//! The checks of a genuine token's claims: times, audience, issuer and bearer (RFC 7519, 4.1).
//!
//! Pure: claims in, a verdict out. Called only with claims whose signature has been verified. Unknown forms
//! are refused, since accepted values become part of a cache key and of a header for the origin.

use super::{memory::KnownToken, Identity, TokenError};
use crate::{config::JwtConfig, name::Tenant};

use serde_json::{Map, Value};
use std::sync::Arc;

/// The longest user or role, in bytes.
const MAX_TEXT_BYTES: usize = 256;

/// The claims of a token.
pub(super) type TokenClaims = Map<String, Value>;

/// The configured rules for claims.
pub(super) struct ClaimRules {
    tenant_claim: String,
    default_tenant: Option<Tenant>,
    user_claim: String,
    role_claim: String,
    audience: Vec<String>,
    issuer: Vec<String>,
    /// In milliseconds, as all times here.
    leeway: u64,
}

impl ClaimRules {
    pub(super) fn new(config: &JwtConfig) -> Self {
        Self {
            tenant_claim: config.tenant_claim.clone(),
            default_tenant: config.default_tenant.clone(),
            user_claim: config.user_claim.clone(),
            role_claim: config.role_claim.clone(),
            audience: config.audience.clone(),
            issuer: config.issuer.clone(),
            leeway: u64::try_from(config.leeway.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// The identity in the claims, if they are acceptable at `now` (Unix milliseconds).
    pub(super) fn check(&self, claims: &TokenClaims, now: u64) -> Result<KnownToken, TokenError> {
        let expires = numeric_date(claims.get("exp").ok_or(TokenError::NoExpiry)?)?;
        let not_before = claims.get("nbf").map_or(Ok(0), numeric_date)?;
        self.check_times(expires, not_before, now)?;
        if !self.audience.is_empty() && !names_one_of(claims.get("aud"), &self.audience) {
            return Err(TokenError::Audience);
        }
        let issuer = claims.get("iss").and_then(Value::as_str);
        if !self.issuer.is_empty() && !self.issuer.iter().any(|known| issuer == Some(known)) {
            return Err(TokenError::Issuer);
        }
        let identity = Identity {
            tenant: read_tenant(find_claim(claims, &self.tenant_claim))?
                .or_else(|| self.default_tenant.clone()),
            user: read_text(find_claim(claims, &self.user_claim)).ok_or(TokenError::User)?,
            role: read_text(find_claim(claims, &self.role_claim)).ok_or(TokenError::Role)?,
            expires,
        };
        Ok(KnownToken { identity: Arc::new(identity), not_before })
    }

    /// Returns true if `now` lies in `not_before..expires`, widened by the leeway; all in Unix milliseconds.
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

/// A NumericDate (seconds, with or without a fraction) in milliseconds.
fn numeric_date(value: &Value) -> Result<u64, TokenError> {
    // Beyond this, a float can't represent every second.
    const LAST: f64 = 9_007_199_254_740_992.0;
    if let Some(seconds) = value.as_u64() {
        return Ok(seconds.saturating_mul(1_000));
    }
    match value.as_f64() {
        // In range, so the cast is exact except for the fraction of a millisecond.
        Some(seconds) if (0.0..LAST).contains(&seconds) => Ok((seconds * 1_000.0).round() as u64),
        _ => Err(TokenError::Claims),
    }
}

/// The claim of this name; a name that begins with `/` is a JSON pointer (RFC 6901).
fn find_claim<'c>(claims: &'c TokenClaims, name: &str) -> Option<&'c Value> {
    let Some(pointer) = name.strip_prefix('/') else { return claims.get(name) };
    let (first, rest) = pointer.split_at(pointer.find('/').unwrap_or(pointer.len()));
    claims.get(&unescape_pointer(first))?.pointer(rest)
}

/// Puts a claim where [`find`] looks for it.
pub(super) fn put_claim(claims: &mut TokenClaims, name: &str, value: Value) {
    let Some(pointer) = name.strip_prefix('/') else {
        claims.insert(name.to_owned(), value);
        return;
    };
    match pointer.split_once('/') {
        None => drop(claims.insert(unescape_pointer(pointer), value)),
        Some((first, rest)) => {
            let inner =
                claims.entry(unescape_pointer(first)).or_insert_with(|| Value::Object(TokenClaims::new()));
            if let Value::Object(inner) = inner {
                put_claim(inner, &format!("/{rest}"), value);
            }
        }
    }
}

/// Unescapes a token of a JSON pointer.
fn unescape_pointer(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// Returns true if `aud`, one string or a list of them, names one of these.
fn names_one_of(claim: Option<&Value>, accepted: &[String]) -> bool {
    let accepts = |value: &Value| value.as_str().is_some_and(|name| accepted.iter().any(|a| a == name));
    match claim {
        Some(Value::Array(list)) => list.iter().any(accepts),
        Some(single) => accepts(single),
        None => false,
    }
}

/// A tenant's name; absent and null mean none.
fn read_tenant(claim: Option<&Value>) -> Result<Option<Tenant>, TokenError> {
    match claim {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) => name.parse().map(Some).map_err(|_| TokenError::Tenant),
        Some(_) => Err(TokenError::Tenant),
    }
}

/// A user or a role: text or an integer of 64 bits; absent, null and empty mean none. `None`: the value has
/// another type.
fn read_text(claim: Option<&Value>) -> Option<Option<String>> {
    let text = match claim {
        None | Some(Value::Null) => return Some(None),
        Some(Value::String(text)) => text.clone(),
        // Larger integers are read as floats, which would make one user of two.
        Some(Value::Number(number)) if !number.is_f64() => number.to_string(),
        Some(_) => return None,
    };
    // The origin gets the text as a header, and a receiver strips spaces off a header's ends: two users that
    // differ only in them would be one user of the origin's.
    let fits = text.len() <= MAX_TEXT_BYTES
        && text.trim().len() == text.len()
        && !text.chars().any(char::is_control);
    fits.then(|| Some(text).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules(audience: &[&str], issuer: &[&str], leeway: u64) -> ClaimRules {
        ClaimRules {
            tenant_claim: "tenant".into(),
            default_tenant: None,
            user_claim: "sub".into(),
            role_claim: "role".into(),
            audience: audience.iter().map(ToString::to_string).collect(),
            issuer: issuer.iter().map(ToString::to_string).collect(),
            leeway,
        }
    }

    fn check(rules: &ClaimRules, extra: Value, now: u64) -> Result<Identity, TokenError> {
        let mut claims = json!({ "exp": 1_000, "tenant": "acme" });
        for (name, value) in extra.as_object().unwrap() {
            claims[name] = value.clone();
        }
        rules.check(claims.as_object().unwrap(), now).map(|known| (*known.identity).clone())
    }

    /// The verdict on these claims alone.
    fn check_all(rules: &ClaimRules, claims: &Value) -> Result<Identity, TokenError> {
        rules.check(claims.as_object().unwrap(), 1).map(|known| (*known.identity).clone())
    }

    #[test]
    fn times_count_as_they_are_with_fractions() {
        let (strict, lenient) = (rules(&[], &[], 0), rules(&[], &[], 5_000));
        let expired = Err(TokenError::Expired);
        for (rules, exp, last) in [
            (&strict, json!(1_000), 999_999),
            (&strict, json!(999.5), 999_499),
            (&strict, json!(999.9), 999_899),
            (&lenient, json!(1_000), 1_004_999),
        ] {
            assert!(check(rules, json!({ "exp": exp }), last).is_ok(), "{exp}");
            assert_eq!(check(rules, json!({ "exp": exp }), last + 1), expired, "{exp}");
        }
        assert_eq!(check(&lenient, json!({ "exp": u64::MAX }), u64::MAX), expired);
        for (rules, nbf, first) in [
            (&strict, json!(500), 500_000),
            (&strict, json!(499.1), 499_100),
            (&strict, json!(499.667), 499_667),
            (&lenient, json!(500), 495_000),
        ] {
            assert!(check(rules, json!({ "nbf": nbf }), first).is_ok(), "{nbf}");
            assert_eq!(check(rules, json!({ "nbf": nbf }), first - 1), Err(TokenError::NotYetValid), "{nbf}");
        }
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
        let without = check_all(&rules(&[], &[], 0), &json!({ "tenant": "acme" }));
        assert_eq!(without, Err(TokenError::NoExpiry));
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
    fn a_tenant_that_is_no_name_fails_closed() {
        for bad in [json!(""), json!("a:b"), json!("a b"), json!(7), json!(["acme"]), json!({})] {
            let mut rules = rules(&[], &[], 0);
            assert_eq!(check(&rules, json!({ "tenant": bad }), 1), Err(TokenError::Tenant), "{bad}");
            rules.default_tenant = Some("all".parse().unwrap());
            assert_eq!(check(&rules, json!({ "tenant": bad }), 1), Err(TokenError::Tenant), "{bad}");
        }
    }

    #[test]
    fn a_token_without_a_tenant_has_the_default_one_or_none() {
        let mut rules = rules(&[], &[], 0);
        for none in [json!({ "exp": 1_000 }), json!({ "exp": 1_000, "tenant": null })] {
            rules.default_tenant = None;
            assert_eq!(check_all(&rules, &none).map(|identity| identity.tenant), Ok(None));
            rules.default_tenant = Some("all".parse().unwrap());
            let tenant = check_all(&rules, &none).unwrap().tenant.unwrap();
            assert_eq!(tenant.as_str(), "all");
        }
    }

    #[test]
    fn a_claim_may_be_pointed_to() {
        let claims = json!({
            "exp": 1_000,
            "org": { "id": "acme", "a/b": { "~": "tilde" } },
            "list": [{ "id": "first" }],
            "https://app.example/tenant": "named",
        });
        for (pointer, tenant) in [
            ("/org/id", Some("acme")),
            ("/list/0/id", Some("first")),
            ("/org/a~1b/~0", Some("tilde")),
            ("https://app.example/tenant", Some("named")),
            ("/https:~1~1app.example~1tenant", Some("named")),
            ("/org/other", None),
            ("/list/1/id", None),
            ("org.id", None),
        ] {
            let rules = ClaimRules { tenant_claim: pointer.into(), ..rules(&[], &[], 0) };
            let found = check_all(&rules, &claims).unwrap().tenant;
            assert_eq!(found.as_ref().map(Tenant::as_str), tenant, "{pointer}");
        }
        let mut made = TokenClaims::new();
        put_claim(&mut made, "/org/a~1b", json!("x"));
        put_claim(&mut made, "/org/id", json!("y"));
        put_claim(&mut made, "sub", json!("z"));
        assert_eq!(Value::Object(made), json!({ "org": { "a/b": "x", "id": "y" }, "sub": "z" }));
    }

    #[test]
    fn users_and_roles_are_plain_text_or_integers() {
        let user = |sub: Value| check(&rules(&[], &[], 0), json!({ "sub": sub }), 1).map(|i| i.user);
        assert_eq!(user(json!("zoë")), Ok(Some("zoë".into())));
        assert_eq!(user(json!(42)), Ok(Some("42".into())));
        assert_eq!(user(json!(-1)), Ok(Some("-1".into())));
        assert_eq!(user(json!(u64::MAX)), Ok(Some("18446744073709551615".into())));
        assert_eq!(user(json!(i64::MIN)), Ok(Some("-9223372036854775808".into())));
        assert_eq!(user(json!("x".repeat(256))), Ok(Some("x".repeat(256))));
        assert_eq!(user(json!(null)), Ok(None));
        assert_eq!(user(json!("")), Ok(None));
        let long = "x".repeat(257);
        let large = serde_json::from_str::<Value>("1180591620717411303424").unwrap();
        for bad in [json!(1.5), large, json!(true), json!([]), json!({}), json!(long)] {
            assert_eq!(user(bad.clone()), Err(TokenError::User), "{bad}");
        }
        for bad in ["a\nb", "a\r", "\0", "a\u{7f}", "a\u{85}b", " a", "a ", "\u{a0}a", " "] {
            assert_eq!(user(json!(bad)), Err(TokenError::User), "{bad:?}");
            let role = check(&rules(&[], &[], 0), json!({ "role": bad }), 1);
            assert_eq!(role, Err(TokenError::Role), "{bad:?}");
        }
    }
}
