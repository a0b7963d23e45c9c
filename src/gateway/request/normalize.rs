//! Normalisation of a request before anything is decided by it, and the forms that are refused.
//!
//! A server accepts absolute targets (RFC 9112, 3.2.2). Routes, keys and origins use a path and a `Host`: an
//! absolute target is split into these, so that no origin can read another host or path from it. TRACE is
//! refused, because it would show a client the fields that the gateway adds for the origin. An `Expect` other
//! than `100-continue` (RFC 9110, 10.1.1) is refused.

use crate::{
    http::{authority, canonical_path::with_one_leading_slash},
    telemetry::labels::RejectReason,
};

use http::{header, HeaderMap, HeaderValue, Method, Uri};
use pingora_core::protocols::http::authority::{raw_target_authority, RawTargetAuthority};
use pingora_http::RequestHeader;

/// Normalises a request.
///
/// # Errors
/// The reason for which it is refused.
pub(crate) fn normalize_request(request: &mut RequestHeader) -> Result<(), RejectReason> {
    if request.method == Method::TRACE {
        return Err(RejectReason::NotImplemented);
    }
    if !is_expectation(&request.headers) {
        return Err(RejectReason::Expectation);
    }
    if is_server_wide(request) {
        return Ok(());
    }
    if !request.raw_path().starts_with(b"/") {
        make_target_relative(request)?;
    }
    if request.uri.path().starts_with("//") {
        merge_leading_slashes(request)?;
    }
    Ok(())
}

/// Merges the leading slashes of a path into one ([`with_one_leading_slash`]).
fn merge_leading_slashes(request: &mut RequestHeader) -> Result<(), RejectReason> {
    let mut parts = request.uri.clone().into_parts();
    let target = parts.path_and_query.as_ref().map_or("", |target| target.as_str());
    let merged = with_one_leading_slash(target).parse();
    parts.path_and_query = Some(merged.map_err(|_| RejectReason::BadRequest)?);
    request.set_uri(Uri::from_parts(parts).map_err(|_| RejectReason::BadRequest)?);
    Ok(())
}

/// Removes the trailing dot from the host of a request: with and without it the host is the same (RFC 1034,
/// 3.1), for routes, keys and the origin. The host was validated before.
pub(crate) fn strip_root_dot(request: &mut RequestHeader) {
    if let Some(bare) =
        request.headers.get(header::HOST).and_then(|host| authority::without_root_dot(host.to_str().ok()?))
    {
        // The value is a part of one that was valid.
        HeaderValue::try_from(bare).map(|bare| request.insert_header(header::HOST, bare)).ok();
    }
    if let Some(bare) = request.uri.authority().and_then(|named| authority::without_root_dot(named.as_str()))
    {
        let mut parts = request.uri.clone().into_parts();
        parts.authority = bare.parse().ok();
        Uri::from_parts(parts).map(|uri| request.set_uri(uri)).unwrap_or_default();
    }
}

/// Returns true if a request is for the server as a whole (`OPTIONS *`; RFC 9110, 9.3.7).
pub(crate) fn is_server_wide(request: &RequestHeader) -> bool {
    request.method == Method::OPTIONS && request.raw_path() == b"*"
}

/// Turns an absolute target into a relative one. Pingora has checked that its host is the one in `Host`, if
/// there is one: HTTP/1.0 needs none.
fn make_target_relative(request: &mut RequestHeader) -> Result<(), RejectReason> {
    let RawTargetAuthority::Absolute { authority, path_and_query, .. } =
        raw_target_authority(request.raw_path())
    else {
        return Err(RejectReason::BadRequest);
    };
    let host = HeaderValue::from_bytes(authority).map_err(|_| RejectReason::BadHost)?;
    let slash: &[u8] = if path_and_query.starts_with(b"/") { b"" } else { b"/" };
    let target = [slash, path_and_query].concat();
    let set = request.set_raw_path(&target);
    // RFC 9112, 3.2: only HTTP/1.0 may omit it.
    let needs = !request.headers.contains_key(header::HOST) && request.version == http::Version::HTTP_10;
    let set = if needs { set.and_then(|()| request.insert_header(header::HOST, host)) } else { set };
    set.map_err(|_| RejectReason::BadRequest)
}

/// Returns true if `Expect` holds nothing but `100-continue`.
fn is_expectation(headers: &HeaderMap) -> bool {
    let mut expected = headers.get_all(header::EXPECT).iter();
    match (expected.next(), expected.next()) {
        (None, _) => true,
        (Some(one), None) => one.as_bytes().eq_ignore_ascii_case(b"100-continue"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Version;

    fn request(method: &str, target: &str) -> RequestHeader {
        RequestHeader::build(method, target.as_bytes(), None).unwrap()
    }

    #[test]
    fn absolute_targets_become_paths() {
        for (target, path, host) in [
            ("http://a/x?y", "/x?y", Some("a")),
            ("HTTPS://a:1/", "/", Some("a:1")),
            ("http://a", "/", Some("a")),
            ("http://a?x", "/?x", Some("a")),
            ("/x", "/x", None),
            ("//x//y?z//", "/x//y?z//", None),
            ("http://a///x", "/x", Some("a")),
        ] {
            let mut old = request("GET", target);
            old.set_version(Version::HTTP_10);
            assert_eq!(normalize_request(&mut old), Ok(()), "{target}");
            assert_eq!(old.raw_path(), path.as_bytes(), "{target}");
            assert_eq!(old.uri.path_and_query().unwrap(), path);
            assert_eq!(old.headers.get("host").map(|host| host.to_str().unwrap()), host, "{target}");
            let mut new = request("GET", target);
            assert_eq!(normalize_request(&mut new), Ok(()), "{target}");
            assert_eq!((new.raw_path(), new.headers.get("host")), (path.as_bytes(), None), "{target}");
        }
        assert_eq!(normalize_request(&mut request("OPTIONS", "*")), Ok(()));
        for target in ["*", "app", "a:80", "http:a", "http:///x", "?x"] {
            assert_eq!(
                normalize_request(&mut request("GET", target)),
                Err(RejectReason::BadRequest),
                "{target}"
            );
        }
    }

    #[test]
    fn the_roots_dot_is_taken_off_the_host() {
        for (host, bare) in [
            ("a.example.", "a.example"),
            ("A.example.:8443", "A.example:8443"),
            ("a.example.:", "a.example"),
            ("a.example", "a.example"),
            ("a.example:80", "a.example:80"),
            ("[::1]:80", "[::1]:80"),
        ] {
            let mut by_field = request("GET", "/x?y");
            by_field.insert_header(header::HOST, host).unwrap();
            strip_root_dot(&mut by_field);
            assert_eq!(by_field.headers["host"], bare, "{host}");
            let mut by_target = request("GET", "/");
            by_target.set_uri(format!("https://{host}/x?y").parse().unwrap());
            strip_root_dot(&mut by_target);
            assert_eq!(by_target.uri.to_string(), format!("https://{bare}/x?y"), "{host}");
        }
    }

    #[test]
    fn expectations() {
        let with = |values: &[&'static str]| {
            let mut request = request("POST", "/");
            for value in values {
                request.append_header("expect", *value).unwrap();
            }
            normalize_request(&mut request)
        };
        assert_eq!(with(&["100-Continue"]), Ok(()));
        for values in [&["100-continue", "100-continue"][..], &["x"], &[""], &["100-continue, x"]] {
            assert_eq!(with(values), Err(RejectReason::Expectation), "{values:?}");
        }
        assert_eq!(normalize_request(&mut request("TRACE", "/")), Err(RejectReason::NotImplemented));
    }
}
