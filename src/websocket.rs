//! WebSocket handshakes (RFC 6455, 4.2): recognises and validates them, and reads the page's origin and a
//! token in the subprotocols.
//!
//! Decides from the head alone, and never accepts a handshake itself: the origin does that with
//! `Sec-WebSocket-Accept`. An answer that doesn't grant the request opens no tunnel. Extensions and
//! subprotocols are negotiated between the two ends.

use crate::{
    config::OriginPattern,
    cors,
    http::{framing::has_body::request_has_body, hop_by_hop::has_connection_option},
};
use base64::{prelude::BASE64_STANDARD, Engine};
use http::{header, HeaderMap, HeaderValue, Method, Version};
use sha1::{Digest, Sha1};

/// The only version of the protocol.
pub(crate) const WEBSOCKET_VERSION: &str = "13";
/// The text that is hashed behind a client's key (RFC 6455, 1.3).
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The marker in front of a token in a list of subprotocols.
const TOKEN_MARK: &str = "bearer";

/// The reason for which a handshake is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandshakeFault {
    /// It does not conform to RFC 6455.
    Malformed,
    /// It has another version of the protocol.
    Version,
}

/// Returns true if a request asks for an upgrade to a WebSocket.
pub(crate) fn is_upgrade_wanted(headers: &HeaderMap) -> bool {
    list_elements(headers, &header::UPGRADE).any(|to| to.eq_ignore_ascii_case("websocket"))
}

/// Checks that a handshake is well formed.
///
/// # Errors
/// The fault in it.
pub(crate) fn check_handshake(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
) -> Result<(), HandshakeFault> {
    let hop = has_connection_option(headers, "upgrade");
    // If a body preceded the first frame, the two ends could disagree on its end.
    if *method != Method::GET || version != Version::HTTP_11 || !hop || request_has_body(headers) {
        return Err(HandshakeFault::Malformed);
    }
    match single_value(headers, &header::SEC_WEBSOCKET_VERSION) {
        Some(version) if version == WEBSOCKET_VERSION => {}
        _ => return Err(HandshakeFault::Version),
    }
    let key =
        single_value(headers, &header::SEC_WEBSOCKET_KEY).and_then(|key| BASE64_STANDARD.decode(key).ok());
    match key.is_some_and(|nonce| nonce.len() == 16) {
        true => Ok(()),
        false => Err(HandshakeFault::Malformed),
    }
}

/// Returns true if the head of a 101 grants the handshake of a request (RFC 6455, 4.1): the same protocol,
/// the proof that this key was read, and no body (RFC 9110, 8.6 and RFC 9112, 6.1). A less strict client, or
/// a proxy in between, would take the following bytes for frames.
pub(crate) fn is_upgrade_granted(request: &HeaderMap, version: Version, answer: &HeaderMap) -> bool {
    let mut protocols = list_elements(answer, &header::UPGRADE);
    let websocket = protocols.next().is_some_and(|to| to.eq_ignore_ascii_case("websocket"));
    let hop = has_connection_option(answer, "upgrade");
    let framed = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    let proof = single_value(request, &header::SEC_WEBSOCKET_KEY).map(accept_value);
    version == Version::HTTP_11
        && websocket
        && protocols.next().is_none()
        && hop
        && !framed.iter().any(|name| answer.contains_key(name))
        && proof.is_some_and(|proof| single_value(answer, &header::SEC_WEBSOCKET_ACCEPT) == Some(&proof))
}

/// The value of `Sec-WebSocket-Accept` for a key.
fn accept_value(key: &str) -> String {
    BASE64_STANDARD.encode(Sha1::new().chain_update(key).chain_update(ACCEPT_GUID).finalize())
}

/// Returns true if the page that opens a WebSocket is allowed to. A request without `Origin` is not a
/// browser's, and is allowed: its sender could as well send any `Origin`.
pub(crate) fn is_origin_allowed(allowed: &[OriginPattern], headers: &HeaderMap) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        _ if allowed.is_empty() => true,
        (None, _) => true,
        (Some(origin), None) => origin
            .to_str()
            .is_ok_and(|origin| allowed.iter().any(|pattern| cors::matches_origin(pattern, origin))),
        (Some(_), Some(_)) => false,
    }
}

/// A token among the offered subprotocols, and the other ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenOffer {
    /// The token.
    pub token: String,
    /// The marker in front of it, as the client wrote it: a browser requires one of its offers in the answer.
    pub mark: HeaderValue,
    /// The other offered subprotocols.
    pub others: Option<HeaderValue>,
}

/// Reads the token in `Sec-WebSocket-Protocol: bearer, <token>`, which `new WebSocket(url, ["bearer",
/// token])` sends; `None` without the marker.
///
/// # Errors
/// If the marker has no token behind it, or occurs twice.
pub(crate) fn offered_token(headers: &HeaderMap) -> Result<Option<TokenOffer>, HandshakeFault> {
    let mut offered = list_elements(headers, &header::SEC_WEBSOCKET_PROTOCOL);
    let (mut others, mut found) = (Vec::new(), None);
    while let Some(element) = offered.next() {
        if !element.eq_ignore_ascii_case(TOKEN_MARK) {
            others.push(element);
            continue;
        }
        let token = offered.next().filter(|token| !token.is_empty() && token.bytes().all(is_token_byte));
        match (token, &found) {
            (Some(token), None) => found = Some((element, token)),
            _ => return Err(HandshakeFault::Malformed),
        }
    }
    let Some((mark, token)) = found else { return Ok(None) };
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| HandshakeFault::Malformed);
    let others = if others.is_empty() { None } else { Some(value(&others.join(", "))?) };
    Ok(Some(TokenOffer { token: token.to_owned(), mark: value(mark)?, others }))
}

/// Returns true for a byte that is allowed in both a subprotocol (RFC 9110, 5.6.2) and a token (RFC 6750,
/// 2.1).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+".contains(&byte)
}

/// The elements of a list, over all lines of the field; a line that isn't text counts as an empty one.
fn list_elements<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(name).iter();
    lines.flat_map(|line| line.to_str().unwrap_or_default().split(',').map(str::trim_ascii))
}

/// The value of a field that occurs exactly once.
fn single_value<'h>(headers: &'h HeaderMap, name: &header::HeaderName) -> Option<&'h str> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?.to_str().ok()?;
    lines.next().is_none().then_some(first.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;
    use proptest::prelude::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            )
        };
        let mut all = HeaderMap::new();
        fields.iter().map(field).for_each(|(name, value)| {
            all.append(name, value);
        });
        all
    }

    /// The handshake of RFC 6455, 1.2, with one field replaced, or omitted.
    fn verdict(name: &str, value: Option<&str>) -> Result<(), HandshakeFault> {
        let mut fields = vec![
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ];
        fields.retain(|(known, _)| *known != name);
        fields.extend(value.map(|value| (name, value)));
        check_handshake(&Method::GET, Version::HTTP_11, &headers(&fields))
    }

    #[test]
    fn handshakes_are_well_formed() {
        let (good, malformed, version) =
            (Ok(()), Err(HandshakeFault::Malformed), Err(HandshakeFault::Version));
        for (name, value, expected) in [
            ("origin", Some("https://a"), good),
            ("connection", Some("keep-alive, upgrade"), good),
            ("connection", Some("keep-alive"), malformed),
            ("connection", None, malformed),
            ("sec-websocket-version", None, version),
            ("sec-websocket-version", Some("8"), version),
            ("sec-websocket-version", Some("13, 8"), version),
            ("sec-websocket-key", None, malformed),
            ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZQ"), malformed),
            ("sec-websocket-key", Some("dGhlIHNhbXBsZQ=="), malformed),
            ("sec-websocket-key", Some("not base64 at all 123456"), malformed),
            ("content-length", Some("0"), good),
            ("content-length", Some("5"), malformed),
            ("transfer-encoding", Some("chunked"), malformed),
        ] {
            assert_eq!(verdict(name, value), expected, "{name}: {value:?}");
        }
        let all = headers(&[("connection", "upgrade"), ("sec-websocket-version", "13")]);
        assert_eq!(check_handshake(&Method::POST, Version::HTTP_11, &all), malformed);
        assert_eq!(check_handshake(&Method::GET, Version::HTTP_10, &all), malformed);
    }

    #[test]
    fn websockets_are_asked_for_among_others() {
        for (value, wanted) in
            [("websocket", true), ("h2c, WebSocket", true), ("h2c", false), ("websockets", false)]
        {
            assert_eq!(is_upgrade_wanted(&headers(&[("upgrade", value)])), wanted, "{value}");
        }
    }

    #[test]
    fn pages_open_what_they_may() {
        let allowed = [
            OriginPattern::Exact("https://dash.example.com".into()),
            OriginPattern::Below { scheme: "https://".into(), domain: ".example.org".into() },
        ];
        for (origins, may) in [
            (&[][..], true),
            (&["https://dash.example.com"], true),
            (&["https://a.b.example.org"], true),
            (&["https://example.org"], false),
            (&["http://dash.example.com"], false),
            (&["https://dash.example.com:8443"], false),
            (&["https://evil.example.com"], false),
            (&["https://dash.example.com.evil"], false),
            (&["null"], false),
            (&[""], false),
            (&["https://dash.example.com", "https://evil"], false),
        ] {
            let fields: Vec<_> = origins.iter().map(|origin| ("origin", *origin)).collect();
            assert_eq!(is_origin_allowed(&allowed, &headers(&fields)), may, "{origins:?}");
            assert!(is_origin_allowed(&[], &headers(&fields)));
        }
    }

    #[test]
    fn only_what_was_asked_for_is_granted() {
        // The example of RFC 6455, 1.3.
        let request = headers(&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")]);
        let (protocol, hop) = (("upgrade", "WebSocket"), ("connection", "keep-alive, Upgrade"));
        let proof = ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let granted = |fields: &[_]| is_upgrade_granted(&request, Version::HTTP_11, &headers(fields));
        assert!(granted(&[protocol, hop, proof]));
        assert!(granted(&[protocol, hop, proof, ("sec-websocket-protocol", "chat")]));
        assert!(!is_upgrade_granted(&request, Version::HTTP_10, &headers(&[protocol, hop, proof])));
        assert!(!is_upgrade_granted(&headers(&[]), Version::HTTP_11, &headers(&[protocol, hop, proof])));
        for fields in [
            &[hop, proof][..],
            &[protocol, proof],
            &[protocol, hop],
            &[("upgrade", "h2c"), hop, proof],
            &[("upgrade", "h2c, websocket"), hop, proof],
            &[protocol, ("upgrade", "h2c"), hop, proof],
            &[protocol, ("connection", "keep-alive"), proof],
            &[protocol, hop, ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOO=")],
            &[protocol, hop, ("sec-websocket-accept", "S3PPLMBITXAQ9KYGZZHZRBK+XOO=")],
            &[protocol, hop, ("sec-websocket-accept", "dGhlIHNhbXBsZSBub25jZQ==")],
            &[protocol, hop, proof, proof],
            &[protocol, hop, proof, ("content-length", "0")],
            &[protocol, hop, proof, ("content-length", "5")],
            &[protocol, hop, proof, ("transfer-encoding", "chunked")],
        ] {
            assert!(!granted(fields), "{fields:?}");
        }
    }

    fn offer(lines: &[&str]) -> Result<Option<(String, String, String)>, HandshakeFault> {
        let fields: Vec<_> = lines.iter().map(|line| ("sec-websocket-protocol", *line)).collect();
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        offered_token(&headers(&fields)).map(|offer| {
            offer.map(|o| (o.token, text(&o.mark), o.others.as_ref().map(text).unwrap_or_default()))
        })
    }

    #[test]
    fn a_token_among_subprotocols() {
        let found =
            |token: &str, mark: &str, others: &str| Ok(Some((token.into(), mark.into(), others.into())));
        assert_eq!(offer(&[]), Ok(None));
        assert_eq!(offer(&["chat, graphql-ws"]), Ok(None));
        assert_eq!(offer(&["bearer, a.b-c_d"]), found("a.b-c_d", "bearer", ""));
        assert_eq!(offer(&["chat,Bearer,a.b.c ,\tv2"]), found("a.b.c", "Bearer", "chat, v2"));
        assert_eq!(offer(&["chat", "bearer", "a.b", "v2"]), found("a.b", "bearer", "chat, v2"));
        // The token itself may be any word.
        assert_eq!(offer(&["bearer, bearer"]), found("bearer", "bearer", ""));
        for bad in [&["bearer"][..], &["chat, bearer"], &["bearer, "], &["bearer,,a"], &["bearer, a b"]] {
            assert_eq!(offer(bad), Err(HandshakeFault::Malformed), "{bad:?}");
        }
        assert_eq!(offer(&["bearer, a, bearer, b"]), Err(HandshakeFault::Malformed));
    }

    proptest! {
        #[test]
        fn any_head_gets_a_verdict(value in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut all = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                for name in [header::UPGRADE, header::SEC_WEBSOCKET_PROTOCOL, header::SEC_WEBSOCKET_KEY, header::ORIGIN] {
                    all.insert(name, value.clone());
                }
            }
            is_upgrade_wanted(&all);
            prop_assert!(check_handshake(&Method::GET, Version::HTTP_11, &all).is_err());
            is_origin_allowed(&[OriginPattern::Exact("https://a".into())], &all);
            if let Ok(Some(offer)) = offered_token(&all) {
                prop_assert!(offer.token.bytes().all(is_token_byte));
            }
        }
    }
}
