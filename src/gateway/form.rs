//! The form of a request: what is made plain before anything is judged by it, and which forms are not for the gateway.
//!
//! RFC 9112, 3.2.2: a server takes absolute targets. Routes, keys and origins know paths and a `Host`: an absolute
//! target becomes these here, so that nobody behind can read another host or path out of it. TRACE would show a client
//! what the gateway adds for the origin. What a client expects beyond RFC 9110, 10.1.1 nobody behind may be asked.

use crate::{authority, telemetry::labels::RejectReason};
use http::{header, HeaderMap, HeaderValue, Method, Uri};
use pingora_core::protocols::http::authority::{raw_target_authority, RawTargetAuthority};
use pingora_http::RequestHeader;

/// Makes a request plain.
///
/// # Errors
/// The reason for which it is refused.
pub(super) fn settle(request: &mut RequestHeader) -> Result<(), RejectReason> {
    if request.method == Method::TRACE {
        return Err(RejectReason::NotImplemented);
    }
    if !is_expectation(&request.headers) {
        return Err(RejectReason::Expectation);
    }
    if is_of_server(request) {
        return Ok(());
    }
    if !request.raw_path().starts_with(b"/") {
        make_relative(request)?;
    }
    if request.uri.path().starts_with("//") {
        merge_leading_slashes(request)?;
    }
    Ok(())
}

/// Makes one of the slashes that a path begins with: an origin could take what follows two of them for a host
/// (RFC 3986, 4.2), and see another path than the one by which rules are chosen.
fn merge_leading_slashes(request: &mut RequestHeader) -> Result<(), RejectReason> {
    let mut parts = request.uri.clone().into_parts();
    let target = parts.path_and_query.as_ref().map_or("", |target| target.as_str());
    let merged = format!("/{}", target.trim_start_matches('/'));
    parts.path_and_query = Some(merged.parse().map_err(|_| RejectReason::BadRequest)?);
    request.set_uri(Uri::from_parts(parts).map_err(|_| RejectReason::BadRequest)?);
    Ok(())
}

/// Takes the root's dot off the host that a request names: with it and without it a host is the same one (RFC 1034, 3.1), for
/// routes and keys as well as for whoever answers. The host was checked.
pub(super) fn strip_root_dot(request: &mut RequestHeader) {
    if let Some(bare) =
        request.headers.get(header::HOST).and_then(|host| authority::without_root_dot(host.to_str().ok()?))
    {
        // It held this text before, and more.
        HeaderValue::try_from(bare).map(|bare| request.insert_header(header::HOST, bare)).ok();
    }
    if let Some(bare) = request.uri.authority().and_then(|named| authority::without_root_dot(named.as_str()))
    {
        let mut parts = request.uri.clone().into_parts();
        parts.authority = bare.parse().ok();
        Uri::from_parts(parts).map(|uri| request.set_uri(uri)).unwrap_or_default();
    }
}

/// Returns whether a request is about the server and none of its resources (RFC 9110, 9.3.7).
pub(super) fn is_of_server(request: &RequestHeader) -> bool {
    request.method == Method::OPTIONS && request.raw_path() == b"*"
}

/// Pingora has seen to it that the host is the one in `Host`, where there is one: HTTP/1.0 needs none.
fn make_relative(request: &mut RequestHeader) -> Result<(), RejectReason> {
    let RawTargetAuthority::Absolute { authority, path_and_query, .. } =
        raw_target_authority(request.raw_path())
    else {
        return Err(RejectReason::BadRequest);
    };
    let host = HeaderValue::from_bytes(authority).map_err(|_| RejectReason::BadHost)?;
    let slash: &[u8] = if path_and_query.starts_with(b"/") { b"" } else { b"/" };
    let target = [slash, path_and_query].concat();
    let set = request.set_raw_path(&target);
    // RFC 9112, 3.2: only HTTP/1.0 may leave it out.
    let needs = !request.headers.contains_key(header::HOST) && request.version == http::Version::HTTP_10;
    let set = if needs { set.and_then(|()| request.insert_header(header::HOST, host)) } else { set };
    set.map_err(|_| RejectReason::BadRequest)
}

/// Whether nothing is expected but `100-continue`.
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
            assert_eq!(settle(&mut old), Ok(()), "{target}");
            assert_eq!(old.raw_path(), path.as_bytes(), "{target}");
            assert_eq!(old.uri.path_and_query().unwrap(), path);
            assert_eq!(old.headers.get("host").map(|host| host.to_str().unwrap()), host, "{target}");
            let mut new = request("GET", target);
            assert_eq!(settle(&mut new), Ok(()), "{target}");
            assert_eq!((new.raw_path(), new.headers.get("host")), (path.as_bytes(), None), "{target}");
        }
        assert_eq!(settle(&mut request("OPTIONS", "*")), Ok(()));
        for target in ["*", "app", "a:80", "http:a", "http:///x", "?x"] {
            assert_eq!(settle(&mut request("GET", target)), Err(RejectReason::BadRequest), "{target}");
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
            settle(&mut request)
        };
        assert_eq!(with(&["100-Continue"]), Ok(()));
        for values in [&["100-continue", "100-continue"][..], &["x"], &[""], &["100-continue, x"]] {
            assert_eq!(with(values), Err(RejectReason::Expectation), "{values:?}");
        }
        assert_eq!(settle(&mut request("TRACE", "/")), Err(RejectReason::NotImplemented));
    }
}
