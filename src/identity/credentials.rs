//! The place of a request's token: the `Authorization` header (RFC 6750, 2.1), a cookie, or `?token=` (2.3, under
//! a shorter name).
//!
//! Finds the text of a token, and removes it from a query before that is logged or forwarded. It never
//! verifies. Credentials that an origin might accept as a bearer token although the gateway does not are
//! refused: both must see the same bearer.

use super::TokenError;
use http::{
    header::{AUTHORIZATION, COOKIE},
    HeaderMap,
};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;

const TOKEN_PARAMETER: &[u8] = b"token";

/// The bearer token of `Authorization`; `None` without the header or with another scheme.
///
/// # Errors
/// [`TokenError::Malformed`] for several such headers, several credentials in one, or a bearer token with
/// characters that no token has.
pub(crate) fn bearer_token(headers: &HeaderMap) -> Result<Option<&str>, TokenError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(TokenError::Malformed);
    }
    // Some frameworks look for a bearer token after a comma, too.
    if !value.as_bytes().split(|byte| *byte == b',').any(|part| after_bearer(part).is_some()) {
        return Ok(None);
    }
    after_bearer(value.as_bytes())
        .filter(|token| !token.is_empty() && token.iter().all(|byte| is_token_byte(*byte)))
        .and_then(|token| std::str::from_utf8(token).ok())
        .map(Some)
        .ok_or(TokenError::Malformed)
}

/// Returns true if `Authorization` holds credentials of another scheme, in a form that has one reading: a scheme, one
/// space, and visible ASCII (RFC 9110, 11.4).
pub(crate) fn has_other_scheme(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let mut parts = value.as_bytes().splitn(2, |byte| *byte == b' ');
    let (scheme, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let is_visible = |bytes: &[u8]| bytes.iter().all(|byte| matches!(byte, 0x20..=0x7e));
    let is_scheme =
        !scheme.is_empty() && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    let begins_as_bearer = scheme.get(..6).is_some_and(|begin| begin.eq_ignore_ascii_case(b"bearer"));
    is_scheme
        && !begins_as_bearer
        && !rest.is_empty()
        && is_visible(rest)
        && matches!(bearer_token(headers), Ok(None))
}

/// The token of a value of `Authorization` in the usual form: `Bearer`, one space, a token. `None` only means
/// another form.
pub(crate) fn plain_bearer_token(value: &[u8]) -> Option<&str> {
    let token = value.strip_prefix(b"Bearer ")?;
    let sound = !token.is_empty() && token.iter().all(|byte| is_token_byte(*byte));
    std::str::from_utf8(token).ok().filter(|_| sound)
}

/// The credentials of the scheme `Bearer`; `None` for another scheme.
fn after_bearer(credentials: &[u8]) -> Option<&[u8]> {
    let credentials = credentials.trim_ascii();
    let end = credentials.iter().position(u8::is_ascii_whitespace).unwrap_or(credentials.len());
    let (scheme, token) = credentials.split_at(end);
    scheme.eq_ignore_ascii_case(b"bearer").then(|| token.trim_ascii_start())
}

/// RFC 6750's `b64token`.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)
}

/// The token in a cookie of this name; an empty value is none.
///
/// # Errors
/// [`TokenError::Malformed`] for two cookies of this name with different values, one of which another host of the
/// site may have set.
pub(crate) fn cookie_token<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, TokenError> {
    let mut found = None;
    for line in headers.get_all(COOKIE) {
        for pair in line.as_bytes().split(|byte| *byte == b';') {
            let pair = pair.trim_ascii();
            let Some(value) = pair.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
            else {
                continue;
            };
            let inner = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
            let value = inner.unwrap_or(value);
            if found.replace(value).is_some_and(|before| before != value) {
                return Err(TokenError::Malformed);
            }
        }
    }
    match found.filter(|value| !value.is_empty()) {
        None => Ok(None),
        Some(value) if value.iter().all(|byte| is_token_byte(*byte)) => {
            std::str::from_utf8(value).map(Some).map_err(|_| TokenError::Malformed)
        }
        Some(_) => Err(TokenError::Malformed),
    }
}

/// The first `token` of a query, percent-decoded; a `token` without a value is an empty token.
pub(crate) fn query_token(query: &str) -> Option<Cow<'_, str>> {
    let parameter = query.split('&').find(|parameter| is_token(parameter))?;
    let value = parameter.split_once('=').map_or("", |(_, value)| value);
    Some(percent_decode_str(value).decode_utf8_lossy())
}

/// The query without any `token`; the rest is unchanged, byte for byte.
pub(crate) fn without_query_token(query: &str) -> Cow<'_, str> {
    if !query.split('&').any(is_token) {
        return Cow::Borrowed(query);
    }
    Cow::Owned(query.split('&').filter(|parameter| !is_token(parameter)).collect::<Vec<_>>().join("&"))
}

/// Returns true if a parameter's name is `token`, in any spelling.
fn is_token(parameter: &str) -> bool {
    let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
    percent_decode_str(name).eq(TOKEN_PARAMETER.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    #[test]
    fn credentials_of_another_scheme_have_one_reading() {
        let is_other = |values: &[&[u8]]| {
            let values = values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_bytes(value).unwrap()));
            has_other_scheme(&values.collect())
        };
        for value in
            [&b"Basic YTpi"[..], b"Digest username=\"a\", realm=\"b\"", b"AWS4-HMAC-SHA256 Credential=a/b"]
        {
            assert!(is_other(&[value]), "{value:?}");
        }
        for value in [
            &b""[..],
            b"Bearer a",
            b"Bearer\xa0forged.jwt.here",
            b"Bearer:forged",
            b"Bearerforged x",
            b"bearer\ta",
            b"Basic",
            b"Basic \xe9",
            b"Basic a, Bearer b",
            b"Ba:sic a",
        ] {
            assert!(!is_other(&[value]), "{value:?}");
        }
        assert!(!is_other(&[]) && !is_other(&[b"Basic a", b"Basic a"]));
    }

    #[test]
    fn a_token_is_found_among_cookies() {
        let read = |lines: &[&str]| {
            let headers = lines.iter().map(|line| (COOKIE, HeaderValue::from_str(line).unwrap())).collect();
            cookie_token(&headers, "__Host-t").map(|token| token.map(str::to_owned))
        };
        for lines in [
            &["__Host-t=a.b.c"][..],
            &["x=1; __Host-t=a.b.c; y=2"],
            &["x=1;__Host-t=a.b.c"],
            &["x=1", "__Host-t=\"a.b.c\""],
            &["__Host-t=a.b.c; __Host-t=a.b.c"],
        ] {
            assert_eq!(read(lines), Ok(Some("a.b.c".to_owned())), "{lines:?}");
        }
        for lines in
            [&[][..], &["x=1"], &["__Host-t="], &["__Host-t"], &["x__Host-t=a", "__Host-tx=a", "__host-t=a"]]
        {
            assert_eq!(read(lines), Ok(None), "{lines:?}");
        }
        for lines in [
            &["__Host-t=a; __Host-t=b"][..],
            &["__Host-t=a", "__Host-t="],
            &["__Host-t=a b"],
            &["__Host-t=\u{e9}"],
        ] {
            assert_eq!(read(lines), Err(TokenError::Malformed), "{lines:?}");
        }
    }

    fn of(values: &[&str]) -> Result<Option<String>, TokenError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        bearer_token(&headers).map(|token| token.map(str::to_owned))
    }

    #[test]
    fn finds_the_bearer_token() {
        assert_eq!(of(&[]), Ok(None));
        for header in
            ["Bearer a.b-c_d", "bearer a.b-c_d", "BEARER   a.b-c_d", "Bearer\ta.b-c_d", " Bearer a.b-c_d "]
        {
            assert_eq!(of(&[header]), Ok(Some("a.b-c_d".into())), "{header:?}");
        }
        for header in ["Basic dTpw", "", "Bearerx", "Bearerx y", "Digest a=\"b\", c=d", "a.b.c"] {
            assert_eq!(of(&[header]), Ok(None), "{header:?}");
        }
    }

    #[test]
    fn refuses_what_an_origin_could_read_otherwise() {
        for header in [
            "Bearer",
            "Bearer ",
            "Bearer a b",
            "Bearer a,b",
            "Bearer a, Bearer b",
            "Bearer é",
            "Bearer \"a\"",
        ] {
            assert_eq!(of(&[header]), Err(TokenError::Malformed), "{header:?}");
        }
        assert_eq!(of(&["Basic dTpw, Bearer a"]), Err(TokenError::Malformed));
        assert_eq!(of(&["Bearer a", "Bearer a"]), Err(TokenError::Malformed));
        assert_eq!(of(&["Basic dTpw", "Bearer a"]), Err(TokenError::Malformed));
    }

    #[test]
    fn the_query_loses_its_tokens_and_nothing_else() {
        for (query, token, rest) in [
            ("", None, ""),
            ("hours=24&x", None, "hours=24&x"),
            ("token=a.b", Some("a.b"), ""),
            ("a=1&token=a%2Eb&&b=%2F", Some("a.b"), "a=1&&b=%2F"),
            ("t%6Fken=x&to%6ben=y", Some("x"), ""),
            ("token", Some(""), ""),
            ("token=a=b", Some("a=b"), ""),
            ("Token=x&tokens=y&atoken=z", None, "Token=x&tokens=y&atoken=z"),
        ] {
            assert_eq!(query_token(query).as_deref(), token, "{query:?}");
            assert_eq!(without_query_token(query), rest, "{query:?}");
        }
        assert!(matches!(without_query_token("a=1"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn no_token_outlives_its_removal(query in "([a-z%=&]|token|t%6fken|%74oken=){0,24}") {
            let rest = without_query_token(&query).into_owned();
            prop_assert_eq!(query_token(&rest), None);
            prop_assert_eq!(query_token(&query).is_none(), rest == query);
        }

        #[test]
        fn a_plain_bearer_token_is_the_same_one(value in "Bearer [a-z=. ,]{0,8}|.{0,12}") {
            if let Some(token) = plain_bearer_token(value.as_bytes()) {
                prop_assert_eq!(of(&[&value]), Ok(Some(token.to_owned())));
            }
        }

        #[test]
        fn any_header_gets_a_verdict(value in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.insert(AUTHORIZATION, value);
            }
            if let Ok(Some(token)) = bearer_token(&headers) {
                prop_assert!(token.bytes().all(is_token_byte) && !token.is_empty());
            }
        }
    }
}
