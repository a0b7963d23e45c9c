//! Requests that a page of another origin has caused, as a browser tells them (Fetch Metadata; RFC 6454).
//!
//! Pure. A browser sends a site's cookies with whatever request a page makes, so that who is named by a cookie need
//! not have wanted it. A request without `Sec-Fetch-Site` and `Origin` comes from a browser of before 2020, from a
//! navigation in one, or from no browser at all, which nobody else's page can command.

use http::{header, HeaderMap, HeaderName, Method};

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Returns true if a page of an origin that is not `permitted` has caused a request for `host`. A link that was
/// followed does not count: a browser shows its answer to the user alone.
pub(crate) fn is_cross_origin(
    method: &Method,
    headers: &HeaderMap,
    host: Option<&str>,
    permitted: impl Fn(&str) -> bool,
) -> bool {
    let origin = match field(headers, &header::ORIGIN) {
        FieldText::Absent => None,
        FieldText::One(origin) if permitted(origin) => return false,
        FieldText::One(origin) => Some(origin),
        FieldText::Unclear => return true,
    };
    match field(headers, &FETCH_SITE) {
        FieldText::One("same-origin" | "none") => false,
        FieldText::One(_) | FieldText::Unclear => !is_followed_link(method, headers),
        FieldText::Absent => origin.is_some_and(|origin| !is_of_host(origin, host)),
    }
}

/// Returns true if a navigation of a whole window has caused a request that changes nothing.
fn is_followed_link(method: &Method, headers: &HeaderMap) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
        && matches!(field(headers, &FETCH_MODE), FieldText::One("navigate"))
        && matches!(field(headers, &FETCH_DEST), FieldText::One("document"))
}

/// Returns true if an origin is that of `host`. The scheme is left out: TLS may end before this gateway.
fn is_of_host(origin: &str, host: Option<&str>) -> bool {
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    authority.zip(host).is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host))
}

/// The value of a field that must occur once.
enum FieldText<'h> {
    Absent,
    One(&'h str),
    /// Several lines, or no text.
    Unclear,
}

fn field<'h>(headers: &'h HeaderMap, name: &HeaderName) -> FieldText<'h> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (None, _) => FieldText::Absent,
        (Some(line), None) => line.to_str().map_or(FieldText::Unclear, FieldText::One),
        (Some(_), Some(_)) => FieldText::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_foreign(method: &Method, fields: &[(&'static str, &'static str)]) -> bool {
        let headers = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let headers: HeaderMap = headers.collect();
        is_cross_origin(method, &headers, Some("dash.example:8080"), |origin| origin == "https://app.example")
    }

    #[test]
    fn what_no_page_of_another_origin_has_caused_passes() {
        for fields in [
            &[][..],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
            &[("origin", "https://dash.example:8080")],
            &[("origin", "http://Dash.Example:8080")],
            &[("origin", "https://app.example")],
            &[("origin", "https://app.example"), ("sec-fetch-site", "cross-site")],
        ] {
            for method in [Method::GET, Method::POST] {
                assert!(!is_foreign(&method, fields), "{method} {fields:?}");
            }
        }
    }

    #[test]
    fn what_a_page_of_another_origin_has_caused_does_not() {
        for fields in [
            &[("sec-fetch-site", "cross-site")][..],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "unknown")],
            &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
            &[("origin", "https://other.example")],
            &[("origin", "https://dash.example")],
            &[("origin", "null")],
            &[("origin", "")],
            &[("origin", "https://app.example"), ("origin", "https://app.example")],
            &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")],
            &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
            &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "websocket"), ("sec-fetch-dest", "empty")],
        ] {
            for method in [Method::GET, Method::POST] {
                assert!(is_foreign(&method, fields), "{method} {fields:?}");
            }
        }
    }

    #[test]
    fn a_link_may_be_followed_from_anywhere() {
        let fields = [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        assert!(!is_foreign(&Method::GET, &fields));
        assert!(is_foreign(&Method::POST, &fields), "a form");
    }
}
