//! Invalidation by unsafe requests: of the answers stored for the target, and for the targets that the answer
//! names (RFC 9111, 4.4), on the same authority only.

use http::{header, HeaderMap, HeaderName, Method, StatusCode};
use url::Url;

/// Returns true if a request invalidates the answers stored for its target: any method but the safe ones of
/// IANA's registry, with an answer that is no error.
pub fn invalidates(method: &Method, status: StatusCode) -> bool {
    let safe = ["GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY", "PRI"];
    !safe.contains(&method.as_str()) && (status.is_success() || status.is_redirection())
}

/// The other targets (path and query) that an answer to an unsafe request invalidates: those of `Location`
/// and `Content-Location` on the same authority. The scheme is ignored: the gateway keeps one answer for
/// both.
pub fn also_invalidated(host: &str, target: &str, answer: &HeaderMap) -> Vec<String> {
    let Some(base) = base_url(host, target) else { return Vec::new() };
    let mut targets: Vec<String> = [header::LOCATION, header::CONTENT_LOCATION]
        .iter()
        .flat_map(|field| location_urls(&base, answer, field))
        .filter(|place| is_same_authority(place, &base))
        .map(|place| origin_form(&place))
        .filter(|other| other != target && *other != origin_form(&base))
        .collect();
    targets.sort();
    targets.dedup();
    targets
}

/// Returns true if, by `Content-Location`, the answer is that to a GET of the target (RFC 9110, 8.7).
pub fn content_is_of_target(host: &str, target: &str, answer: &HeaderMap) -> bool {
    let Some(base) = base_url(host, target) else { return false };
    let places = location_urls(&base, answer, &header::CONTENT_LOCATION);
    let is_target = |place: &Url| is_same_authority(place, &base) && origin_form(place) == origin_form(&base);
    !places.is_empty() && places.iter().all(is_target)
}

fn base_url(host: &str, target: &str) -> Option<Url> {
    Url::parse(&format!("http://{host}{target}")).ok().filter(|_| target.starts_with('/'))
}

/// The URLs in a field, relative to `base` (RFC 3986, 5.2); an invalid reference is ignored.
fn location_urls(base: &Url, answer: &HeaderMap, field: &HeaderName) -> Vec<Url> {
    let texts = answer.get_all(field).iter().filter_map(|line| line.to_str().ok());
    texts.filter_map(|text| base.join(text).ok()).collect()
}

fn is_same_authority(place: &Url, base: &Url) -> bool {
    matches!(place.scheme(), "http" | "https") && place.host() == base.host() && place.port() == base.port()
}

/// The path and query.
fn origin_form(url: &Url) -> String {
    url[url::Position::BeforePath..url::Position::AfterQuery].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::LOCATION, value.parse().unwrap())])
    }

    #[test]
    fn what_succeeds_and_is_not_safe_invalidates() {
        let is = |method: &str, status| {
            invalidates(&method.parse().unwrap(), StatusCode::from_u16(status).unwrap())
        };
        for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "FOO", "get"] {
            assert!(is(method, 200) && is(method, 204) && is(method, 303), "{method}");
            assert!(!is(method, 100) && !is(method, 400) && !is(method, 500), "{method}");
        }
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY"] {
            assert!(!is(method, 200), "{method}");
        }
    }

    #[test]
    fn a_place_is_resolved_as_seen_from_the_target() {
        for (place, other) in [
            ("/c/d", Some("/c/d")),
            ("c?x=1", Some("/a/c?x=1")),
            ("../c", Some("/c")),
            ("?y=2", Some("/a/b?y=2")),
            ("http://example.com/c", Some("/c")),
            ("https://EXAMPLE.com/c#part", Some("/c")),
            ("http://example.com:80/c", Some("/c")),
            ("//example.com/c%20d", Some("/c%20d")),
            ("http://example.com", Some("/")),
            ("http://example.org/c", None),
            ("http://example.com:8080/c", None),
            ("ftp://example.com/c", None),
            ("mailto:someone@example.com", None),
            ("http://[", None),
            ("/a/b?x", None),
            ("", None),
        ] {
            let found = also_invalidated("example.com", "/a/b?x", &location(place));
            assert_eq!(found.first().map(String::as_str), other, "{place}");
        }
        assert_eq!(
            also_invalidated("example.com:8080", "/a", &location("http://example.com:8080/c")),
            ["/c"]
        );
        assert_eq!(also_invalidated("[::1]:8080", "/a", &location("c")), ["/c"]);
        assert_eq!(also_invalidated("a b", "/a", &location("/c")), Vec::<String>::new());
        assert_eq!(also_invalidated("example.com", "*", &location("/c")), Vec::<String>::new());
    }

    #[test]
    fn both_fields_count_and_each_place_once() {
        let mut answer = location("/c");
        answer.insert(header::CONTENT_LOCATION, "/d".parse().unwrap());
        assert_eq!(also_invalidated("example.com", "/a", &answer), ["/c", "/d"]);
        answer.insert(header::CONTENT_LOCATION, "http://example.com/c".parse().unwrap());
        assert_eq!(also_invalidated("example.com", "/a", &answer), ["/c"]);
    }

    #[test]
    fn content_is_of_the_target_only_where_it_says_so() {
        let of = |place: &str| {
            let answer = HeaderMap::from_iter([(header::CONTENT_LOCATION, place.parse().unwrap())]);
            content_is_of_target("example.com", "/a/b?x", &answer)
        };
        for place in ["/a/b?x", "b?x", "http://example.com/a/b?x", "https://example.com/a/b?x", ""] {
            assert!(of(place), "{place}");
        }
        for place in ["/a/b", "/a/b?x=1", "http://example.org/a/b?x", "/a/b?X"] {
            assert!(!of(place), "{place}");
        }
        assert!(!content_is_of_target("example.com", "/a", &HeaderMap::new()));
    }
}
