//! Tests of the verifier against real signatures, and against attempts to bypass them.

mod key_sets;
mod test_keys;

use super::*;
use crate::config::Secret;
use base64::{engine::general_purpose::URL_SAFE_NO_PAD, Engine};
use jsonwebtoken::{
    jwk::{Jwk, KeyAlgorithm},
    EncodingKey, Header,
};
use proptest::prelude::*;
use serde_json::{json, Value};
use std::time::Duration;
use test_keys::{ED_1, ED_2, P256, P384, RSA, RSA_PUBLIC};
use Algorithm::{EdDSA, ES256, ES384, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512};

const MAX_TOKEN: usize = 16 << 10;
const NOW: u64 = 1_700_000_000;
const SECRET: &str = "a secret of the tests, long enough";

fn at(seconds: u64) -> ClockReading {
    let ms = seconds.saturating_mul(1_000);
    ClockReading { now_ms: ms, wall_ms: ms }
}

fn jwt(algorithms: &[Algorithm], keys: JwtKeys) -> JwtConfig {
    JwtConfig {
        algorithms: algorithms.to_vec(),
        keys,
        jwks_max_age: Duration::from_secs(3_600),
        tenant_claim: "tenant".into(),
        default_tenant: None,
        user_claim: "sub".into(),
        role_claim: "role".into(),
        audience: Vec::new(),
        issuer: Vec::new(),
        leeway: Duration::ZERO,
        max_token: MAX_TOKEN,
        cookie: None,
    }
}

fn secrets(list: &[&str]) -> JwtKeys {
    JwtKeys::Secrets(list.iter().map(|secret| Secret::new(*secret)).collect())
}

fn with_secrets(algorithms: &[Algorithm], list: &[&str]) -> Verifier {
    Verifier::new(&jwt(algorithms, secrets(list))).unwrap()
}

fn with_jwks(algorithms: &[Algorithm], keys: &[Value]) -> Verifier {
    let verifier = Verifier::new(&jwt(algorithms, JwtKeys::JwksFile("jwks.json".into()))).unwrap();
    verifier.replace_jwks(&set(keys)).unwrap();
    verifier
}

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// The private key of a PEM constant, for `algorithm`.
fn private(pem: &str, algorithm: Algorithm) -> EncodingKey {
    match algorithm {
        ES256 | ES384 => EncodingKey::from_ec_pem(pem.as_bytes()),
        EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
        _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
    }
    .unwrap()
}

/// The public key of a PEM constant as an entry of a JWKS, without `alg`.
fn public(pem: &str, algorithm: Algorithm, kid: Option<&str>) -> Value {
    let mut jwk = Jwk::from_encoding_key(&private(pem, algorithm), algorithm).unwrap();
    jwk.common.key_algorithm = None;
    jwk.common.key_id = kid.map(str::to_owned);
    serde_json::to_value(jwk).unwrap()
}

fn claims() -> Value {
    json!({ "tenant": "acme", "sub": "ann", "role": "admin", "exp": NOW + 60 })
}

fn signed(key: &EncodingKey, algorithm: Algorithm, kid: Option<&str>, claims: &Value) -> String {
    let mut header = Header::new(algorithm);
    header.kid = kid.map(str::to_owned);
    jsonwebtoken::encode(&header, claims, key).unwrap()
}

fn hs(secret: &str, claims: &Value) -> String {
    signed(&EncodingKey::from_secret(secret.as_bytes()), HS256, None, claims)
}

/// A token with an arbitrary header, signed by HMAC-SHA256 whatever the header says.
fn forged(header: &Value, secret: &[u8]) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(&claims()));
    let key = EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, HS256).unwrap();
    format!("{message}.{signature}")
}

fn verdict(verifier: &Verifier, token: &str) -> Result<RememberedVerdict, TokenError> {
    verifier.verify(token, at(NOW)).map(|(_, remembered)| remembered)
}

#[test]
fn every_algorithm_makes_the_round_trip_and_is_remembered() {
    let asymmetric = [
        (RSA, RS256),
        (RSA, RS384),
        (RSA, RS512),
        (RSA, PS256),
        (RSA, PS384),
        (RSA, PS512),
        (P256, ES256),
        (P384, ES384),
        (ED_1, EdDSA),
    ];
    let mut tried = Vec::new();
    for (pem, algorithm) in asymmetric {
        let token = signed(&private(pem, algorithm), algorithm, Some("k"), &claims());
        tried.push((with_jwks(&[algorithm], &[public(pem, algorithm, Some("k"))]), token));
    }
    for algorithm in [HS256, HS384, HS512] {
        let tenant = "acme".parse().unwrap();
        let minted = mint_token(
            &Secret::new(SECRET),
            algorithm,
            &TokenBearer {
                tenant: &tenant,
                user: Some("ann"),
                role: Some("admin"),
                lifetime: Duration::from_secs(60),
            },
            None,
            at(NOW).wall(),
        );
        tried.push((with_secrets(&[algorithm], &[SECRET]), minted.unwrap()));
    }
    for (verifier, token) in tried {
        let (identity, remembered) = verifier.verify(&token, at(NOW)).unwrap();
        assert_eq!(remembered, RememberedVerdict::No);
        assert_eq!(identity.tenant.as_ref().unwrap().as_str(), "acme");
        assert_eq!(identity.user.as_deref(), Some("ann"));
        assert_eq!(identity.role.as_deref(), Some("admin"));
        assert_eq!(identity.expires, (NOW + 60) * 1_000);
        let (again, remembered) = verifier.verify(&token, at(NOW)).unwrap();
        assert_eq!((again, remembered), (identity, RememberedVerdict::Yes));
        assert_eq!(verdict(&verifier, &tampered(&token)), Err(TokenError::Signature));
    }
}

/// A token for a given configuration: its claim names, its audience, its issuer.
#[test]
fn what_is_minted_for_a_configuration_verifies_there() {
    let mut jwt = jwt(&[HS256], secrets(&[SECRET]));
    jwt.tenant_claim = "/org/id".to_owned();
    jwt.user_claim = "name".to_owned();
    jwt.audience = vec!["dashboard".to_owned(), "other".to_owned()];
    jwt.issuer = vec!["https://login.example".to_owned()];
    let tenant = "acme".parse().unwrap();
    let bearer =
        TokenBearer { tenant: &tenant, user: Some("ann"), role: None, lifetime: Duration::from_secs(60) };
    let verifier = Verifier::new(&jwt).unwrap();
    let minted = |jwt: Option<&JwtConfig>| {
        mint_token(&Secret::new(SECRET), HS256, &bearer, jwt, at(NOW).wall()).unwrap()
    };
    let (identity, _) = verifier.verify(&minted(Some(&jwt)), at(NOW)).unwrap();
    assert_eq!((identity.tenant.as_ref().unwrap().as_str(), identity.user.as_deref()), ("acme", Some("ann")));
    assert!(verifier.verify(&minted(None), at(NOW)).is_err());
}

/// The token with another tenant under the same signature.
fn tampered(token: &str) -> String {
    let parts: Vec<_> = token.split('.').collect();
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    claims["tenant"] = json!("evil");
    format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2])
}

#[test]
fn a_public_key_is_no_secret() {
    let verifier = with_jwks(&[RS256], &[public(RSA, RS256, Some("k"))]);
    for secret in [RSA_PUBLIC.to_owned(), format!("{RSA_PUBLIC}\n")] {
        let token = forged(&json!({ "alg": "HS256", "kid": "k" }), secret.as_bytes());
        assert_eq!(verdict(&verifier, &token), Err(TokenError::Algorithm));
        let token = forged(&json!({ "alg": "RS256", "kid": "k" }), secret.as_bytes());
        assert_eq!(verdict(&verifier, &token), Err(TokenError::Signature));
        let refused = Verifier::new(&jwt(&[HS256], secrets(&[&secret])));
        assert!(matches!(refused, Err(IdentityError::PemSecret)));
    }
}

#[test]
fn the_header_does_not_widen_what_is_configured() {
    let verifier = with_secrets(&[HS256], &[SECRET]);
    for alg in ["none", "None", "NONE", "", "hs256", "HS1", "HS384", "RS256", "ES256", "EdDSA"] {
        let token = forged(&json!({ "alg": alg }), SECRET.as_bytes());
        assert_eq!(verdict(&verifier, &token), Err(TokenError::Algorithm), "{alg:?}");
    }
    let good = forged(&json!({ "alg": "HS256" }), SECRET.as_bytes());
    assert_eq!(verdict(&verifier, &good), Ok(RememberedVerdict::No));
    let bare = good.rsplit_once('.').unwrap().0.to_owned() + ".";
    assert_eq!(verdict(&verifier, &bare), Err(TokenError::Signature));
    let unsigned =
        format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), bare.split('.').nth(1).unwrap());
    assert_eq!(verdict(&verifier, &unsigned), Err(TokenError::Algorithm));
    // The signature is of HS256, the header says HS512, and both are configured.
    let switched = forged(&json!({ "alg": "HS512" }), SECRET.as_bytes());
    assert_eq!(verdict(&with_secrets(&[HS256, HS512], &[SECRET]), &switched), Err(TokenError::Signature));
}

#[test]
fn a_key_serves_only_what_it_is_made_for() {
    let all = [RS256, RS384, PS256, ES256, ES384, EdDSA];
    let token = |pem, algorithm| signed(&private(pem, algorithm), algorithm, Some("k"), &claims());
    // Each key is tried under an algorithm of another family, by the same `kid`.
    for (pem, of) in [(RSA, RS256), (P256, ES256), (P384, ES384), (ED_1, EdDSA)] {
        let verifier = with_jwks(&all, &[public(pem, of, Some("k"))]);
        for (other, algorithm) in [(RSA, RS256), (P256, ES256), (P384, ES384), (ED_1, EdDSA)] {
            let expected = if algorithm == of { Ok(RememberedVerdict::No) } else { Err(TokenError::NoKey) };
            assert_eq!(
                verdict(&verifier, &token(other, algorithm)),
                expected,
                "{of:?} asked for {algorithm:?}"
            );
        }
    }
    let mut narrow = public(RSA, RS256, Some("k"));
    narrow["alg"] = json!("RS256");
    let verifier = with_jwks(&all, &[narrow]);
    assert_eq!(verdict(&verifier, &token(RSA, RS256)), Ok(RememberedVerdict::No));
    assert_eq!(verdict(&verifier, &token(RSA, RS384)), Err(TokenError::NoKey));
    assert_eq!(verdict(&verifier, &token(RSA, PS256)), Err(TokenError::NoKey));
}

#[test]
fn a_secret_rotates_without_a_gap() {
    let (old, new) = ("the old secret", "the new secret");
    for (list, by_old, by_new) in [
        (vec![old], Ok(RememberedVerdict::No), Err(TokenError::Signature)),
        (vec![new, old], Ok(RememberedVerdict::No), Ok(RememberedVerdict::No)),
        (vec![new], Err(TokenError::Signature), Ok(RememberedVerdict::No)),
    ] {
        let verifier = with_secrets(&[HS256], &list);
        assert_eq!(verdict(&verifier, &hs(old, &claims())), by_old);
        assert_eq!(verdict(&verifier, &hs(new, &claims())), by_new);
    }
}

#[test]
fn keys_and_algorithms_must_be_of_one_kind() {
    let jwks =
        || JwtKeys::JwksUrl { url: "https://idp.example/jwks".into(), refresh: Duration::from_secs(300) };
    let refused =
        |algorithms: &[Algorithm], keys| Verifier::new(&jwt(algorithms, keys)).map(|_| ()).unwrap_err();
    assert!(matches!(refused(&[], secrets(&[SECRET])), IdentityError::NoAlgorithm));
    assert!(matches!(refused(&[HS256, RS256], secrets(&[SECRET])), IdentityError::Mixed(RS256)));
    assert!(matches!(refused(&[RS256, HS256], jwks()), IdentityError::Mixed(HS256)));
    assert!(matches!(refused(&[HS256], secrets(&[])), IdentityError::EmptySecret));
    assert!(matches!(refused(&[HS256], secrets(&[SECRET, "\n"])), IdentityError::EmptySecret));
    let with_secret = with_secrets(&[HS256], &[SECRET]);
    assert!(matches!(with_secret.replace_jwks(&set(&[])), Err(IdentityError::NotJwks)));
    let tenant = "acme".parse().unwrap();
    let bearer = TokenBearer { tenant: &tenant, user: None, role: None, lifetime: Duration::from_secs(1) };
    let minted = mint_token(&Secret::new(SECRET), RS256, &bearer, None, at(NOW).wall());
    assert!(matches!(minted, Err(IdentityError::Mixed(RS256))));
}

#[test]
fn times_are_checked_on_each_use() {
    let verifier = with_secrets(&[HS256], &[SECRET]);
    let token = hs(SECRET, &json!({ "tenant": "acme", "nbf": NOW, "exp": NOW + 60 }));
    let when = |seconds| verifier.verify(&token, at(seconds)).map(|(_, remembered)| remembered);
    assert_eq!(when(NOW - 1), Err(TokenError::NotYetValid));
    assert_eq!(verifier.remembered(), 0);
    assert_eq!(when(NOW), Ok(RememberedVerdict::No));
    assert_eq!(when(NOW - 1), Err(TokenError::NotYetValid));
    assert_eq!(when(NOW), Ok(RememberedVerdict::No));
    assert_eq!(when(NOW + 59), Ok(RememberedVerdict::Yes));
    assert_eq!(when(NOW + 60), Err(TokenError::Expired));
    assert_eq!(verifier.remembered(), 0);
    assert_eq!(when(NOW + 60), Err(TokenError::Expired));
    assert_eq!(verifier.verify(&token, at(0)).unwrap_err(), TokenError::Expired);
}

#[test]
fn the_memory_is_bounded_and_holds_no_failures() {
    let verifier = Verifier::with_capacity(&jwt(&[HS256], secrets(&[SECRET])), 64).unwrap();
    for n in 0..500 {
        assert_eq!(verdict(&verifier, &hs("wrong", &json!({ "n": n }))), Err(TokenError::Signature));
        assert_eq!(
            verdict(&verifier, &hs(SECRET, &json!({ "n": n, "tenant": 7, "exp": NOW + 1 }))),
            Err(TokenError::Tenant)
        );
    }
    assert_eq!(verifier.remembered(), 0);
    for n in 0..500 {
        let token = hs(SECRET, &json!({ "tenant": format!("t{n}"), "exp": NOW + 60 }));
        let (identity, _) = verifier.verify(&token, at(NOW)).unwrap();
        assert_eq!(identity.tenant.as_ref().unwrap().as_str(), format!("t{n}"));
    }
    assert!((1..=64).contains(&verifier.remembered()), "{}", verifier.remembered());
}

#[test]
fn what_is_no_token_is_malformed() {
    let verifier = with_secrets(&[HS256], &[SECRET]);
    let good = hs(SECRET, &claims());
    let header = |value: Value| forged(&value, SECRET.as_bytes());
    let malformed = [
        String::new(),
        ".".into(),
        "..".into(),
        "a.b".into(),
        "a.b.c.d.e".into(),
        format!("{good}."),
        format!(".{good}"),
        format!(" {good}"),
        format!("{good}="),
        format!("{good}\n"),
        header(json!({})),
        header(json!({ "alg": 1 })),
        header(json!(["HS256"])),
        header(json!({ "alg": "HS256", "kid": 1 })),
        header(json!({ "alg": "HS256", "crit": ["exp"] })),
        hs(SECRET, &json!(["no", "object"])),
    ];
    for token in malformed {
        assert_eq!(verdict(&verifier, &token), Err(TokenError::Malformed), "{token:?}");
    }
    assert_eq!(verdict(&verifier, &"a".repeat(MAX_TOKEN + 1)), Err(TokenError::TooLong));
    assert_eq!(verdict(&verifier, &"a".repeat(MAX_TOKEN)), Err(TokenError::Malformed));
}

#[test]
fn a_key_that_the_token_brings_is_not_used() {
    let verifier = with_jwks(&[EdDSA], &[public(ED_1, EdDSA, None)]);
    let mut header = Header::new(EdDSA);
    header.jwk = Some(Jwk::from_encoding_key(&private(ED_2, EdDSA), EdDSA).unwrap());
    assert_eq!(header.jwk.as_ref().unwrap().common.key_algorithm, Some(KeyAlgorithm::EdDSA));
    let token = jsonwebtoken::encode(&header, &claims(), &private(ED_2, EdDSA)).unwrap();
    assert_eq!(verdict(&verifier, &token), Err(TokenError::Signature));
}

proptest! {
    #[test]
    fn any_text_gets_a_verdict(text in ".{0,200}", header in "[ -~]{0,40}", payload in "[ -~]{0,40}") {
        let verifier = with_secrets(&[HS256], &[SECRET]);
        prop_assert!(verifier.verify(&text, at(NOW)).is_err());
        let encode = |part: &str| URL_SAFE_NO_PAD.encode(part);
        let framed = format!("{}.{}.{}", encode(&header), encode(&payload), encode(&text));
        prop_assert!(verifier.verify(&framed, at(NOW)).is_err());
    }

    #[test]
    fn any_genuine_payload_gets_a_verdict(
        name in "(exp|nbf|tenant|sub|role|[a-z]{3})",
        value in prop_oneof![
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,80}".prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            Just(json!([1, { "a": null }])),
        ],
        now: u64,
    ) {
        let verifier = with_secrets(&[HS256], &[SECRET]);
        let mut claims = claims();
        claims[name] = value;
        let token = hs(SECRET, &claims);
        // Half of the range is as far as a SystemTime goes.
        if let Ok((identity, _)) = verifier.verify(&token, at(now / 2)) {
            prop_assert!((now / 2).saturating_mul(1_000) < identity.expires);
            prop_assert!(identity.user.as_ref().is_none_or(|user| user.len() <= 256 && !user.contains(char::is_control)));
        }
    }

    #[test]
    fn any_changed_byte_is_noticed(at_byte: proptest::sample::Index, byte in "[ -~]") {
        let verifier = with_secrets(&[HS256], &[SECRET]);
        let token = hs(SECRET, &claims());
        prop_assert!(verifier.verify(&token, at(NOW)).is_ok());
        let at_byte = at_byte.index(token.len());
        let mut changed = token.clone();
        changed.replace_range(at_byte..=at_byte, &byte);
        prop_assert_eq!(verifier.verify(&changed, at(NOW)).is_ok(), changed == token);
    }

    #[test]
    fn any_key_set_gets_a_verdict(text in ".{0,100}", kty in "(RSA|EC|OKP|oct)", field in "[a-zA-Z0-9_-]{0,90}") {
        let verifier = with_jwks(&[RS256, ES256, ES384, EdDSA], &[public(ED_1, EdDSA, None)]);
        prop_assert!(verifier.replace_jwks(&text).is_err());
        for crv in ["P-256", "P-384", "Ed25519"] {
            let key = json!({ "kty": kty, "crv": crv, "x": field, "y": field, "n": field, "e": "AQAB", "k": field });
            if verifier.replace_jwks(&set(&[key])).is_ok() {
                for (pem, algorithm) in [(P256, ES256), (P384, ES384), (ED_2, EdDSA)] {
                    let token = signed(&private(pem, algorithm), algorithm, None, &claims());
                    prop_assert!(verifier.verify(&token, at(NOW)).is_err());
                }
            }
        }
    }
}
