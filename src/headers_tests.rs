use super::*;
use proptest::prelude::*;

const FACTS: RuleFacts<'static> = RuleFacts {
    client: Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7))),
    remote: Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1))),
    scheme: "https",
    host: "Dash.Example.com.:8443",
    path: "/a/é b",
    request_id: "r-1",
    route: "kpi",
    tenant: "acme",
    user: Some("ann"),
    role: None,
    cache: "hit",
};

/// Rules as the file has them: checked there, made here.
fn rules(remove: &[&str], set: &[(&str, &str)], add: &[(&str, &str)]) -> HeaderRules {
    let name = |text: &str| HeaderName::from_bytes(text.to_ascii_lowercase().as_bytes()).unwrap();
    let pattern = |text: &&str| match text.strip_suffix('*') {
        Some(prefix) => NamePattern::Prefix(prefix.to_ascii_lowercase().into()),
        None => NamePattern::Exact(name(text)),
    };
    HeaderRules {
        remove: remove.iter().map(pattern).collect(),
        set: set.iter().map(|(n, v)| (name(n), vec![template(v)])).collect(),
        add: add.iter().map(|(n, v)| (name(n), template(v))).collect(),
    }
}

fn template(text: &str) -> HeaderTemplate {
    let segment = |word: &str| match Variable::ALL.iter().find(|v| word.strip_prefix('$') == Some(v.name())) {
        Some(variable) => TemplateSegment::Variable(*variable),
        None => TemplateSegment::Text(word.into()),
    };
    match text.contains('$') {
        true => HeaderTemplate::Made(text.split_inclusive(' ').map(|word| segment(word.trim())).collect()),
        false => HeaderTemplate::Fixed(text.parse().unwrap()),
    }
}

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    map
}

fn asked(rules: HeaderRules, fields: &[(&str, &str)]) -> Vec<String> {
    let headers = RouteHeaders { request: vec![rules], ..RouteHeaders::default() };
    let mut fields = map(fields);
    apply_to_origin(&headers, &FACTS, &mut fields);
    lines(&fields)
}

fn told(headers: &RouteHeaders, status: u16, fields: &[(&str, &str)]) -> Vec<String> {
    let mut fields = map(fields);
    apply_to_client(headers, &FACTS, StatusCode::from_u16(status).unwrap(), &mut fields);
    lines(&fields)
}

fn answered(rules: HeaderRules, status: u16, fields: &[(&str, &str)]) -> Vec<String> {
    told(&RouteHeaders { response: vec![rules], ..RouteHeaders::default() }, status, fields)
}

fn lines(fields: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<_> =
        fields.iter().map(|(n, v)| format!("{n}: {}", String::from_utf8_lossy(v.as_bytes()))).collect();
    lines.sort();
    lines
}

#[test]
fn each_variable_stands_for_what_is_known() {
    let said = |variable: Variable| {
        let made = render_value(&HeaderTemplate::Made(vec![TemplateSegment::Variable(variable)]), &FACTS);
        made.map(|value| value.to_str().unwrap().to_owned())
    };
    let expected = [
        (Variable::ClientIp, Some("192.0.2.7")),
        (Variable::RemoteAddr, Some("10.0.0.1")),
        (Variable::Scheme, Some("https")),
        (Variable::Host, Some("dash.example.com")),
        (Variable::Path, Some("/a/%C3%A9%20b")),
        (Variable::RequestId, Some("r-1")),
        (Variable::Route, Some("kpi")),
        (Variable::Tenant, Some("acme")),
        (Variable::User, Some("ann")),
        (Variable::Role, None),
        (Variable::Cache, Some("hit")),
    ];
    assert_eq!(expected.len(), Variable::ALL.len());
    for (variable, text) in expected {
        assert_eq!(said(variable).as_deref(), text, "{variable:?}");
    }
}

#[test]
fn a_mapped_address_is_written_as_the_one_it_stands_for() {
    let facts = RuleFacts { client: Some("::ffff:192.0.2.7".parse().unwrap()), ..FACTS };
    let template = HeaderTemplate::Made(vec![TemplateSegment::Variable(Variable::ClientIp)]);
    assert_eq!(render_value(&template, &facts).unwrap(), "192.0.2.7");
}

#[test]
fn a_request_is_told_what_the_rules_say_and_no_more() {
    let rules = rules(
        &["Cookie", "X-Debug-*"],
        &[("X-Client", "$client_ip"), ("X-Role-Of", "$role")],
        &[("X-Seen", "by us")],
    );
    let fields = [
        ("cookie", "a=b"),
        ("x-debug-sql", "1"),
        ("x_debug_all", "1"),
        ("x-debug.a", "1"),
        ("x.debug-a", "1"),
        ("x-client", "1.2.3.4"),
        ("x_client", "1.2.3.4"),
        ("x.client", "1.2.3.4"),
        ("x!client", "1.2.3.4"),
        ("x~client", "1.2.3.4"),
        // What the client claims goes also where there is nothing to put in its place.
        ("x-role-of", "admin"),
        ("x-role.of", "admin"),
        ("x-seen", "by them"),
        ("accept", "*/*"),
    ];
    let expected = ["accept: */*", "x-client: 192.0.2.7", "x-seen: by them", "x-seen: by us"];
    assert_eq!(asked(rules, &fields), expected);
}

#[test]
fn a_pattern_takes_nothing_that_is_reserved() {
    let fields =
        [("host", "a"), ("x-tenant", "t"), ("connection", "close"), ("x-other", "1"), ("range", "bytes=0-")];
    let expected = ["connection: close", "host: a", "range: bytes=0-", "x-tenant: t"];
    let all = ["x-*", "c*", "h*", "r*"];
    assert_eq!(asked(rules(&all, &[], &[]), &fields), expected);
    let fields =
        [("vary", "accept"), ("content-length", "3"), ("content-type", "a/b"), ("x-request-id", "1")];
    let expected = ["content-length: 3", "vary: accept", "x-request-id: 1"];
    assert_eq!(answered(rules(&["c*", "v*", "x-*"], &[], &[]), 200, &fields), expected);
}

#[test]
fn whether_a_clients_field_passes() {
    let headers = RouteHeaders {
        request: vec![rules(&["Cookie"], &[("X-A", "b")], &[("X-B", "c")])],
        ..RouteHeaders::default()
    };
    let passes = |name: &'static str| super::passes_unchanged(&headers, &HeaderName::from_static(name));
    assert!(!passes("cookie") && !passes("x-a") && !passes("x.a"));
    assert!(passes("x-b") && passes("x.b") && passes("accept"));
}

#[test]
fn an_answer_is_told_what_the_rules_say() {
    let rules = rules(&["Server", "X-Powered-*"], &[("Cache-Control", "no-store")], &[("Link", "</a>")]);
    let fields = [
        ("server", "gunicorn"),
        ("x-powered-by", "Flask"),
        ("cache-control", "public"),
        ("cache-control", "max-age=1"),
        ("link", "</b>"),
    ];
    assert_eq!(answered(rules, 200, &fields), ["cache-control: no-store", "link: </a>", "link: </b>"]);
}

#[test]
fn the_routes_rules_come_after_the_ones_for_all() {
    let headers = RouteHeaders {
        response: vec![
            rules(&[], &[("X-Who", "all"), ("X-All", "1")], &[]),
            rules(&["X-All"], &[("X-Who", "route")], &[]),
        ],
        ..RouteHeaders::default()
    };
    assert_eq!(told(&headers, 200, &[]), ["x-who: route"]);
}

#[test]
fn a_304_says_nothing_else_than_the_answer_that_the_client_keeps() {
    let headers = RouteHeaders {
        response: vec![rules(&[], &[("X-Set", "1")], &[("Link", "</a>"), ("Vary", "X")])],
        security: true,
        ..RouteHeaders::default()
    };
    let full = told(&headers, 200, &[("vary", "Accept")]);
    assert!(
        full.contains(&"link: </a>".to_owned()) && full.contains(&"x-frame-options: SAMEORIGIN".to_owned())
    );
    assert_eq!(told(&headers, 304, &[("vary", "Accept")]), ["vary: Accept", "vary: X", "x-set: 1"]);
    assert_eq!(told(&headers, 304, &[]), ["x-set: 1"]);
}

#[test]
fn security_says_only_what_the_origin_left_unsaid() {
    let headers = RouteHeaders { security: true, ..RouteHeaders::default() };
    assert_eq!(
        told(&headers, 404, &[]),
        [
            "referrer-policy: strict-origin-when-cross-origin",
            "x-content-type-options: nosniff",
            "x-frame-options: SAMEORIGIN"
        ]
    );
    let said = [("x-frame-options", "DENY"), ("referrer-policy", "no-referrer")];
    let expected =
        ["referrer-policy: no-referrer", "x-content-type-options: nosniff", "x-frame-options: DENY"];
    assert_eq!(told(&headers, 200, &said), expected);
    let frames = |policy| told(&headers, 200, &[("content-security-policy", policy)]).len();
    assert_eq!(frames("default-src 'self'; Frame-Ancestors https://a"), 3);
    assert_eq!(frames("default-src frame-ancestors"), 4);
    assert_eq!(told(&headers, 101, &[]), Vec::<String>::new());
}

#[test]
fn a_rule_takes_off_what_security_would_say() {
    let headers = RouteHeaders {
        response: vec![rules(&["X-Frame-Options"], &[], &[])],
        security: true,
        ..RouteHeaders::default()
    };
    assert_eq!(told(&headers, 200, &[]).len(), 2);
}

#[test]
fn the_fields_of_a_fill_are_changed_in_the_same_way() {
    let headers = RouteHeaders {
        request: vec![rules(&["Accept"], &[("User-Agent", "us")], &[("Via", "x")])],
        ..RouteHeaders::default()
    };
    let field = |name: HeaderName, value: &'static str| (name, HeaderValue::from_static(value));
    let mut fields =
        vec![field(header::ACCEPT, "*/*"), field(header::USER_AGENT, "tidegate"), field(header::VIA, "y")];
    apply_to_origin(&headers, &FACTS, &mut fields);
    assert_eq!(fields, [field(header::VIA, "y"), field(header::USER_AGENT, "us"), field(header::VIA, "x")]);
    assert_eq!(fields.joined(&header::VIA).unwrap(), b"y,x");
    assert_eq!(fields.names().len(), 2);
}

proptest! {
    #[test]
    fn no_value_holds_a_control_character(user in ".{0,24}|[\\x00-\\x20\\x7f]{0,4}", role in "\\PC{0,8}[\r\n\t]?") {
        let facts = RuleFacts { user: Some(&user), role: Some(&role), host: &user, tenant: &role, ..FACTS };
        for variable in Variable::ALL {
            let made = HeaderTemplate::Made(vec![TemplateSegment::Text("a".into()), TemplateSegment::Variable(*variable)]);
            let made = render_value(&made, &facts).expect("it begins with an a");
            let text = std::str::from_utf8(made.as_bytes()).expect("text");
            prop_assert!(!text.chars().any(char::is_control), "{text:?}");
        }
    }

    #[test]
    fn what_is_set_is_all_that_is_there(before in proptest::collection::vec("[ -~]{0,8}", 0..4), client in any::<[u8; 4]>()) {
        let facts = RuleFacts { client: Some(client.into()), ..FACTS };
        let headers = RouteHeaders { request: vec![rules(&[], &[("X-C", "$client_ip")], &[])], ..RouteHeaders::default() };
        let mut fields = HeaderMap::new();
        for value in &before {
            fields.append("x-c", value.trim().parse().unwrap());
            fields.append("x_c", value.trim().parse().unwrap());
        }
        apply_to_origin(&headers, &facts, &mut fields);
        let expected = format!("x-c: {}", std::net::Ipv4Addr::from(client));
        prop_assert_eq!(lines(&fields), [expected]);
    }
}
