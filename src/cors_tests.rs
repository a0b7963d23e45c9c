use super::*;
use proptest::prelude::*;

const APP: &str = "https://app.example.com";

fn exact(origin: &str) -> OriginPattern {
    OriginPattern::Exact(origin.into())
}

fn below(scheme: &str, domain: &str) -> OriginPattern {
    OriginPattern::Below { scheme: scheme.into(), domain: domain.into() }
}

fn cors(origins: Vec<OriginPattern>) -> CorsConfig {
    CorsConfig {
        origins: if origins.is_empty() { AllowedOrigins::Any } else { AllowedOrigins::Listed(origins) },
        methods: HeaderValue::from_static("GET, PUT"),
        headers: Some(HeaderValue::from_static("Authorization")),
        expose: Some(HeaderValue::from_static("ETag")),
        credentials: false,
        max_age: HeaderValue::from_static("3600"),
    }
}

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    map
}

/// The fields of an answer that had `before` and is for a request with `origin`.
fn dressed(cors: &CorsConfig, origin: Option<&str>, before: &[(&str, &str)]) -> Vec<String> {
    let request = origin.map_or_else(HeaderMap::new, |origin| map(&[("origin", origin)]));
    let mut answer = map(before);
    apply_cors(cors, &request, &mut answer);
    let mut lines: Vec<_> = answer.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
    lines.sort();
    lines
}

#[test]
fn an_allowed_origin_is_named_and_another_is_not() {
    let cors = cors(vec![exact(APP)]);
    let expected = [
        "access-control-allow-origin: https://app.example.com",
        "access-control-expose-headers: ETag",
        "vary: Origin",
    ];
    assert_eq!(dressed(&cors, Some(APP), &[]), expected);
    for other in
        ["https://app.example.com.evil", "http://app.example.com", "https://app.example.com:8443", "null"]
    {
        assert_eq!(dressed(&cors, Some(other), &[]), ["vary: Origin"], "{other}");
    }
    assert_eq!(dressed(&cors, None, &[]), ["vary: Origin"]);
}

#[test]
fn what_the_origin_server_said_is_taken_off() {
    let theirs = [
        ("access-control-allow-origin", "https://other.example.com"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-private-network", "true"),
        ("vary", "Accept-Encoding"),
        ("vary", "origin"),
        ("content-type", "a/b"),
    ];
    let rest = ["content-type: a/b", "vary: Accept-Encoding", "vary: origin"];
    assert_eq!(dressed(&cors(vec![exact(APP)]), None, &theirs), rest);
    let named = dressed(&cors(vec![exact(APP)]), Some(APP), &theirs);
    assert_eq!(named.iter().filter(|line| line.starts_with("access-control-allow")).count(), 1, "{named:?}");
}

#[test]
fn everyone_is_told_the_same() {
    let all = ["access-control-allow-origin: *", "access-control-expose-headers: ETag"];
    for origin in [None, Some("null"), Some(APP)] {
        assert_eq!(dressed(&cors(vec![]), origin, &[]), all, "{origin:?}");
    }
}

#[test]
fn credentials_go_along_where_the_route_says_so() {
    let cors = CorsConfig { credentials: true, expose: None, ..cors(vec![exact("null")]) };
    let expected =
        ["access-control-allow-credentials: true", "access-control-allow-origin: null", "vary: Origin"];
    assert_eq!(dressed(&cors, Some("null"), &[]), expected);
    assert_eq!(dressed(&cors, Some(APP), &[]), ["vary: Origin"]);
}

#[test]
fn a_preflight_is_told_what_is_allowed() {
    let cors = cors(vec![exact(APP)]);
    let asks = |origin| map(&[("origin", origin), ("access-control-request-method", "DELETE")]);
    let PreflightAnswer::Allowed(fields) = answer_preflight(&cors, &asks(APP)) else { panic!("refused") };
    let lines: Vec<_> = fields.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
    let expected = [
        "access-control-allow-origin: https://app.example.com",
        "access-control-allow-methods: GET, PUT",
        "access-control-allow-headers: Authorization",
        "access-control-max-age: 3600",
        "vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
    ];
    assert_eq!(lines, expected);
    assert_eq!(answer_preflight(&cors, &asks("https://evil.example")), PreflightAnswer::Refused);
}

#[test]
fn what_is_a_preflight() {
    let asked = |method: Method, fields: &[(&str, &str)]| preflight_method(&method, &map(fields));
    let full = [("origin", APP), ("access-control-request-method", "PUT")];
    assert_eq!(asked(Method::OPTIONS, &full), Some(Method::PUT));
    assert_eq!(asked(Method::GET, &full), None);
    assert_eq!(asked(Method::OPTIONS, &full[..1]), None);
    assert_eq!(asked(Method::OPTIONS, &full[1..]), None);
    assert_eq!(asked(Method::OPTIONS, &[full[0], full[1], full[1]]), None);
    assert_eq!(asked(Method::OPTIONS, &[full[0], ("access-control-request-method", "a b")]), None);
}

#[test]
fn patterns_stand_for_labels() {
    let pattern = below("https://", ".example.com");
    for good in ["https://a.example.com", "https://a-1.b_2.example.com", "https://xn--bcher-kva.example.com"]
    {
        assert!(matches_origin(&pattern, good), "{good}");
    }
    for bad in [
        "https://example.com",
        "https://.example.com",
        "https://a..example.com",
        "https://evil.com/.example.com",
        "https://evil.com#.example.com",
        "https://evil.com:1.example.com",
        "https://evil@a.example.com",
        "https://a.example.com.evil.com",
        "https://aexample.com",
        "https://a.example.com:8443",
        "http://a.example.com",
        "https://A.example.com",
        "https://a.example.com ",
        "https://a.example.com https://b.example.com",
        "https://*.example.com",
        "null",
        "",
    ] {
        assert!(!matches_origin(&pattern, bad), "{bad}");
    }
    assert!(matches_origin(&below("https://", ".example.com:8443"), "https://a.example.com:8443"));
    assert!(!matches_origin(&below("https://", ".example.com:8443"), "https://a.example.com"));
}

#[test]
fn several_lines_of_origin_are_nobody() {
    let mut request = map(&[("origin", APP), ("origin", APP)]);
    let cors = cors(vec![exact(APP)]);
    assert_eq!(allowed_origin(&cors, &request), None);
    request.remove("origin");
    assert_eq!(allowed_origin(&cors, &request), None);
}

/// An origin as a browser would write it, and now and then something else.
fn any_origin() -> impl Strategy<Value = String> {
    let host = "[a-z0-9_-]{1,3}(\\.[a-z0-9-]{0,3}){0,2}(\\.example\\.com)?";
    prop_oneof![
        4 => ("https?", host, "(:[0-9]{1,4})?").prop_map(|(s, h, p)| format!("{s}://{h}{p}")),
        1 => "[a-z:/.#@?* ]{0,20}example\\.com",
        1 => Just("null".to_owned()),
        1 => Just(APP.to_owned()),
    ]
}

proptest! {
    /// The `url` crate, an independent parser, finds every allowed origin below the pattern's domain.
    #[test]
    fn a_pattern_allows_only_what_lies_below_its_domain(origin in any_origin()) {
        if matches_origin(&below("https://", ".example.com"), &origin) {
            let url = url::Url::parse(&origin).expect("a URL");
            prop_assert_eq!(url.scheme(), "https");
            prop_assert_eq!(url.port(), None);
            prop_assert!(url.username().is_empty() && url.path() == "/" && url.query().is_none());
            let labels = url.host_str().and_then(|host| host.strip_suffix(".example.com")).expect("below");
            prop_assert!(!labels.is_empty());
        }
    }

    /// An answer that was made for one origin, stored with all its fields and sent to another.
    #[test]
    fn an_answer_made_for_one_origin_is_never_wrong_for_another(first in any_origin(), second in any_origin()) {
        let cors = CorsConfig { credentials: true, ..cors(vec![exact(APP), exact("null"), below("https://", ".example.com")]) };
        let ask = |origin: &str| origin.parse::<HeaderValue>().map(|v| HeaderMap::from_iter([(header::ORIGIN, v)]));
        let (Ok(first), Ok(second)) = (ask(&first), ask(&second)) else { return Ok(()) };
        let (mut once, mut twice) = (HeaderMap::new(), HeaderMap::new());
        apply_cors(&cors, &second, &mut once);
        apply_cors(&cors, &first, &mut twice);
        apply_cors(&cors, &second, &mut twice);
        prop_assert_eq!(&once, &twice);
        let named: Vec<_> = twice.get_all(header::ACCESS_CONTROL_ALLOW_ORIGIN).iter().collect();
        prop_assert!(named.len() <= 1);
        prop_assert!(named.iter().all(|n| Some(*n) == second.get(header::ORIGIN)));
        prop_assert_eq!(named.len() == 1, twice.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
        prop_assert_eq!(twice.get(header::VARY).unwrap(), "Origin");
    }

    #[test]
    fn any_origin_gets_a_verdict(origin in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(value) = HeaderValue::from_bytes(&origin) {
            let request = HeaderMap::from_iter([(header::ORIGIN, value)]);
            let cors = cors(vec![exact(APP), below("https://", ".example.com")]);
            let mut answer = HeaderMap::new();
            apply_cors(&cors, &request, &mut answer);
            prop_assert!(matches!(answer_preflight(&cors, &request), PreflightAnswer::Refused)
                == !answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
        }
    }
}
