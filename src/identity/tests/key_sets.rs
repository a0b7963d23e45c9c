//! Tests of the usable keys of a JWKS, the choice among them, and their replacement.

use super::*;
use std::io::Write;

#[test]
fn unusable_keys_are_passed_over_and_a_set_of_them_revokes_the_ones_before() {
    let good = public(ED_1, EdDSA, Some("good"));
    let changed = |name: &str, value: Value| {
        let mut key = public(ED_1, EdDSA, Some("bad"));
        key[name] = value;
        key
    };
    let unusable = [
        json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET), "kid": "bad" }),
        json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET), "kid": "bad", "alg": "EdDSA" }),
        changed("use", json!("enc")),
        changed("key_ops", json!(["encrypt"])),
        changed("alg", json!("RS256")),
        changed("alg", json!("made-up")),
        changed("kty", json!("EC")),
        changed("crv", json!("X25519")),
        changed("x", json!("AAAA")),
        changed("x", json!("%")),
        changed("kid", json!(7)),
        json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "bad" }),
        json!({ "kty": "RSA", "n": "", "e": "AQAB" }),
        json!({ "kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA" }),
        json!({ "kty": "EC", "crv": "P-521", "x": "AAAA", "y": "AAAA" }),
        json!({ "kty": "new" }),
        json!("nonsense"),
    ];
    let accepted = [RS256, ES256, EdDSA];
    for key in &unusable {
        let verifier = with_jwks(&accepted, std::slice::from_ref(&good));
        let token = signed(&private(ED_1, EdDSA), EdDSA, Some("good"), &claims());
        assert_eq!(verdict(&verifier, &token), Ok(RememberedVerdict::No), "{key}");
        assert_eq!(verifier.replace_jwks(&set(std::slice::from_ref(key))).unwrap(), 0, "{key}");
        assert_eq!(verdict(&verifier, &token), Err(TokenError::NoKey), "{key}");
        assert_eq!(verifier.replace_jwks(&set(&[key.clone(), good.clone()])).unwrap(), 1, "{key}");
        assert_eq!(verdict(&verifier, &token), Ok(RememberedVerdict::No), "{key}");
    }
}

#[test]
fn a_modulus_may_have_leading_zeros() {
    let mut key = public(RSA, RS256, None);
    let mut modulus = vec![0; 3];
    modulus.extend(URL_SAFE_NO_PAD.decode(key["n"].as_str().unwrap()).unwrap());
    key["n"] = json!(URL_SAFE_NO_PAD.encode(modulus));
    let token = signed(&private(RSA, RS256), RS256, None, &claims());
    assert_eq!(verdict(&with_jwks(&[RS256], &[key]), &token), Ok(RememberedVerdict::No));
}

#[test]
fn kid_chooses_and_without_kid_all_are_tried() {
    let keys = [public(ED_1, EdDSA, Some("one")), public(ED_2, EdDSA, Some("two"))];
    let verifier = with_jwks(&[EdDSA], &keys);
    let by = |pem, kid| signed(&private(pem, EdDSA), EdDSA, kid, &claims());
    assert_eq!(verdict(&verifier, &by(ED_2, Some("two"))), Ok(RememberedVerdict::No));
    assert_eq!(verdict(&verifier, &by(ED_2, Some("one"))), Err(TokenError::Signature));
    assert_eq!(verdict(&verifier, &by(ED_2, Some("three"))), Err(TokenError::NoKey));
    assert_eq!(verdict(&verifier, &by(ED_2, None)), Ok(RememberedVerdict::No));
    // One `kid` on keys of two types: the algorithm tells them apart.
    let twins = with_jwks(&[EdDSA, ES256], &[public(P256, ES256, Some("k")), public(ED_1, EdDSA, Some("k"))]);
    assert_eq!(verdict(&twins, &by(ED_1, Some("k"))), Ok(RememberedVerdict::No));
}

#[test]
fn at_most_sixteen_keys_are_tried() {
    let last_of = |count: usize| {
        let mut keys: Vec<_> = (1..count).map(|n| public(ED_1, EdDSA, Some(&n.to_string()))).collect();
        keys.push(public(ED_2, EdDSA, Some("last")));
        verdict(&with_jwks(&[EdDSA], &keys), &signed(&private(ED_2, EdDSA), EdDSA, None, &claims()))
    };
    assert_eq!(last_of(16), Ok(RememberedVerdict::No));
    assert_eq!(last_of(17), Err(TokenError::Signature));
}

#[test]
fn a_key_that_is_gone_stops_working_at_once() {
    let (one, two) = (public(ED_1, EdDSA, Some("one")), public(ED_2, EdDSA, Some("two")));
    let token = signed(&private(ED_1, EdDSA), EdDSA, Some("one"), &claims());
    let verifier = with_jwks(&[EdDSA], &[one.clone(), two.clone()]);
    assert_eq!(verdict(&verifier, &token), Ok(RememberedVerdict::No));
    // The same keys again, as a refresh brings them: nothing is forgotten.
    assert_eq!(verifier.replace_jwks(&set(&[one.clone(), two.clone()])).unwrap(), 2);
    assert_eq!(verdict(&verifier, &token), Ok(RememberedVerdict::Yes));
    assert_eq!(verifier.replace_jwks(&set(std::slice::from_ref(&two))).unwrap(), 1);
    assert_eq!(verifier.remembered(), 0);
    assert_eq!(verdict(&verifier, &token), Err(TokenError::NoKey));
    assert_eq!(verifier.replace_jwks(&set(&[two, one])).unwrap(), 2);
    assert_eq!(verdict(&verifier, &token), Ok(RememberedVerdict::No));
    // The same `kid` on another key.
    verifier.replace_jwks(&set(&[public(ED_2, EdDSA, Some("one"))])).unwrap();
    assert_eq!(verdict(&verifier, &token), Err(TokenError::Signature));
}

#[test]
fn a_bad_set_leaves_the_last_good_one() {
    let verifier = with_jwks(&[EdDSA], &[public(ED_1, EdDSA, None)]);
    let token = signed(&private(ED_1, EdDSA), EdDSA, None, &claims());
    assert_eq!(verdict(&verifier, &token), Ok(RememberedVerdict::No));
    for bad in ["", "{", "[]", "{}", r#"{"keys":{}}"#] {
        assert!(matches!(verifier.replace_jwks(bad), Err(IdentityError::JwksSyntax(_))), "{bad}");
    }
    let padded = set(&[public(ED_2, EdDSA, None)]) + &" ".repeat(MAX_JWKS);
    assert!(matches!(verifier.replace_jwks(&padded), Err(IdentityError::JwksTooLong)));
    assert_eq!(verdict(&verifier, &token), Ok(RememberedVerdict::Yes));
}

/// `/readyz` shows why tokens are refused.
#[test]
fn a_set_without_a_usable_key_revokes_and_says_so() {
    let good = public(ED_1, EdDSA, None);
    let token = signed(&private(ED_1, EdDSA), EdDSA, None, &claims());
    let told = |verifier: &Verifier| verifier.trouble(at(NOW).now_ms).unwrap_or_default();
    for unusable in [&[][..], &[public(RSA, RS256, None), public(P384, ES384, None)]] {
        let verifier = with_jwks(&[EdDSA], std::slice::from_ref(&good));
        assert_eq!((verdict(&verifier, &token), told(&verifier)), (Ok(RememberedVerdict::No), String::new()));
        assert_eq!(verifier.replace_jwks(&set(unusable)).unwrap(), 0);
        assert_eq!((verdict(&verifier, &token), verifier.remembered()), (Err(TokenError::NoKey), 0));
        assert!(verifier.may_lack_key(&token, TokenError::NoKey));
        assert!(told(&verifier).contains("no usable key"), "{}", told(&verifier));
        // Another configuration begins with what is known.
        let next = with_jwks(&[EdDSA], std::slice::from_ref(&good));
        next.take_over(&verifier);
        assert_eq!(verdict(&next, &token), Err(TokenError::NoKey));
        assert!(told(&next).contains("no usable key"), "{}", told(&next));
        verifier.read_failed(&"away");
        let away = "the key set can't be read, tokens are refused: away";
        assert_eq!(told(&verifier), away);
        verifier.confirm(at(NOW).now_ms);
        assert_eq!(verifier.replace_jwks(&set(std::slice::from_ref(&good))).unwrap(), 1);
        assert_eq!((verdict(&verifier, &token), told(&verifier)), (Ok(RememberedVerdict::No), String::new()));
    }
}

#[test]
fn without_a_set_nothing_verifies_and_a_file_brings_one() {
    let verifier = Verifier::new(&jwt(&[EdDSA], JwtKeys::JwksFile("jwks.json".into()))).unwrap();
    let token = signed(&private(ED_1, EdDSA), EdDSA, None, &claims());
    assert_eq!(verdict(&verifier, &token), Err(TokenError::NoKey));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    assert!(matches!(verifier.load_jwks_file(file.path()), Err(IdentityError::File { .. })));
    file.write_all(set(&[public(ED_1, EdDSA, None)]).as_bytes()).unwrap();
    assert_eq!(verifier.load_jwks_file(file.path()).unwrap(), 1);
    assert_eq!(verdict(&verifier, &token), Ok(RememberedVerdict::No));
    let mut empty = tempfile::NamedTempFile::new().unwrap();
    empty.write_all(set(&[]).as_bytes()).unwrap();
    let started = Verifier::new(&jwt(&[EdDSA], JwtKeys::JwksFile("jwks.json".into()))).unwrap();
    assert!(matches!(started.begin_with_file(empty.path()), Err(IdentityError::File { .. })));
    let path = file.path().to_owned();
    file.close().unwrap();
    assert!(matches!(verifier.load_jwks_file(&path), Err(IdentityError::File { .. })));
    assert_eq!(verdict(&verifier, &token), Ok(RememberedVerdict::Yes));
}

#[test]
fn keys_that_were_not_read_for_too_long_verify_nothing() {
    let verifier = with_jwks(&[EdDSA], &[public(ED_1, EdDSA, None)]);
    let far = json!({ "tenant": "acme", "exp": NOW + 100_000 });
    let (token, other) = (
        signed(&private(ED_1, EdDSA), EdDSA, None, &far),
        signed(&private(ED_1, EdDSA), EdDSA, None, &claims()),
    );
    let (last, over) = (at(NOW + 3_600), at(NOW + 3_601));
    verifier.confirm(at(NOW).now_ms);
    assert!(verifier.verify(&token, last).is_ok());
    assert!(verifier.remembers(&token, last).is_some());
    assert!(verifier.is_outdated(over.now_ms) && !verifier.is_outdated(last.now_ms));
    // Nor are they trusted for longer because the wall clock was set back.
    let set_back = ClockReading { wall_ms: last.wall_ms, ..over };
    assert_eq!(verifier.verify(&token, set_back).unwrap_err(), TokenError::OldKeys);
    for token in [&token, &other] {
        assert_eq!(verifier.verify(token, over).unwrap_err(), TokenError::OldKeys);
        assert!(verifier.remembers(token, over).is_none());
    }
    assert!(verifier.may_lack_key(&token, TokenError::OldKeys));
    verifier.confirm(over.now_ms);
    assert!(verifier.verify(&token, over).is_ok());
    // Secrets don't expire.
    let by_secret = with_secrets(&[HS256], &[SECRET]);
    assert!(!by_secret.is_outdated(at(NOW * 2).now_ms));
}

#[test]
fn which_refusals_another_reading_could_undo() {
    let verifier = with_jwks(&[EdDSA], &[public(ED_1, EdDSA, Some("one"))]);
    let by = |kid| signed(&private(ED_2, EdDSA), EdDSA, kid, &claims());
    for (kid, refused, may) in [
        (Some("two"), TokenError::NoKey, true),
        (None, TokenError::Signature, true),
        (Some("one"), TokenError::Signature, false),
    ] {
        let token = by(kid);
        assert_eq!(verdict(&verifier, &token), Err(refused), "{kid:?}");
        assert_eq!(verifier.may_lack_key(&token, refused), may, "{kid:?}");
    }
    for never in [TokenError::Expired, TokenError::Audience, TokenError::Malformed, TokenError::TooLong] {
        assert!(!verifier.may_lack_key(&by(None), never), "{never:?}");
    }
    let by_secret = with_secrets(&[HS256], &[SECRET]);
    assert!(!by_secret.may_lack_key(&by(None), TokenError::Signature));
}
