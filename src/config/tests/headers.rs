//! Rules for headers, cross-origin requests and signed links.

use super::*;

#[test]
fn header_rules_that_can_not_work() {
    let table: &[(&str, &[&str])] = &[
        ("request_headers = { set = { X-A = \"$client_pi\" } }", &["11:29: route[0].request_headers.set.X-A: unknown variable \"$client_pi\", did you mean \"client_ip\"?"]),
        ("response_headers = { set = { X-A = \"a$\" } }", &["11:30: route[0].response_headers.set.X-A: \"$\" begins a variable, such as \"$host\"; a dollar is written \"$$\""]),
        ("response_headers = { set = { X-A = \"\" }, add = { X-B = [\"a\", \"é\"] } }", &["11:30: route[0].response_headers.set.X-A: must not be empty: a field is taken off by naming it in remove", "11:62: route[0].response_headers.add.X-B[1]: must be printable ASCII"]),
        ("response_headers = { set = { X-A = \"1\", x-a = \"2\" } }", &["11:41: route[0].response_headers.set.x-a: stands there twice: several lines are written as a list"]),
        ("response_headers = { set = { \"X A\" = \"1\" }, remove = [\"*\", \"X-*-Y\"] }", &["11:30: route[0].response_headers.set.\"X A\": must be the name of a header field", "11:55: route[0].response_headers.remove[0]: must be a field's name, or the beginning of one and \"*\", such as \"X-Powered-*\"", "11:60: route[0].response_headers.remove[1]: must be a field's name, or the beginning of one and \"*\", such as \"X-Powered-*\""]),
        ("request_headers = { set = { Connection = \"close\", X_Tenant = \"a\" }, remove = \"Host\" }", &["11:29: route[0].request_headers.set.Connection: no rule may touch it: it belongs to the connection or the message's framing", "11:51: route[0].request_headers.set.X_Tenant: no rule may touch it: only the gateway says it", "11:78: route[0].request_headers.remove: can only be set: a request has exactly one"]),
        ("request_headers = { set = { Host = \"a b\" } }", &["11:29: route[0].request_headers.set.Host: must be host or host:port"]),
        ("request_headers = { set = { Host = \"$user.x\" } }", &["11:29: route[0].request_headers.set.Host: may only name $host and $tenant: anything else may be no host"]),
        ("request_headers = { set = { X-C = \"$cache\" } }", &["11:29: route[0].request_headers.set.X-C: \"$cache\" is known only when there is an answer"]),
        ("response_headers = { remove = \"Vary\", set = { Content-Length = \"1\" } }", &["11:31: route[0].response_headers.remove: can only be added to: the gateway's own answers differ as well", "11:47: route[0].response_headers.set.Content-Length: no rule may touch it: it belongs to the connection or the message's framing"]),
        ("response_headers = { set = { Access-Control-Allow-Origin = \"*\" } }\ncors = { origins = \"*\" }", &["11:30: route[0].response_headers.set.Access-Control-Allow-Origin: cors says it on this route"]),
        ("response_headers = { unset = [] }", &["11:22: route[0].response_headers.unset: unknown key, known: set, add, remove"]),
        ("request_headers = { set = [\"X-A: b\"] }", &["11:27: route[0].request_headers.set: must be a table such as { \"X-Name\" = \"value\" }, not a list"]),
    ];
    for (text, expected) in table {
        assert_eq!(route(text), *expected, "{text}");
    }
}

#[test]
fn what_is_asked_for_everyone_names_nobody() {
    let cached = |cache: &str, value: &str| {
        let told = route(&format!("cache = {cache}\nrequest_headers = {{ set = {{ X-A = \"{value}\" }} }}"));
        told.iter().filter(|line| line.contains("differs from request to request")).count()
    };
    let versioned = |scope: &str| format!("{{ namespace = \"n\", ttl = \"1s\", scope = \"{scope}\" }}");
    let (public, tenant, user) = (versioned("public"), versioned("tenant"), versioned("user"));
    for (value, faults) in [
        // As many as there are, for: no cache, follow, public, tenant, user.
        ("$path $route", [0, 0, 0, 0, 0]),
        ("$client_ip", [0, 1, 1, 1, 1]),
        ("$remote_addr $request_id $scheme", [0, 3, 3, 3, 3]),
        ("$host", [0, 0, 1, 1, 1]),
        ("$tenant", [0, 1, 1, 0, 0]),
        ("$user", [0, 1, 1, 1, 0]),
        ("$role", [0, 1, 1, 1, 0]),
    ] {
        let found = ["\"off\"", "\"origin\"", &public, &tenant, &user].map(|cache| cached(cache, value));
        assert_eq!(found, faults, "{value}");
    }
    let bound =
        format!("host = \"a.b\"\ncache = {public}\nrequest_headers = {{ set = {{ X-A = \"$host\" }} }}");
    assert_eq!(route(&bound), Vec::<String>::new());
    let for_all = "[headers]\nrequest_headers = { set = { X-A = \"$client_ip\" } }\n";
    let with_route = |cache: &str| {
        after_base(&format!("{for_all}[[route]]\npath = \"/x\"\norigin = \"app\"\ncache = {cache}\n"))
    };
    assert_eq!(with_route("\"off\""), Vec::<String>::new());
    let told = "9:29: headers.request_headers.set.X-A: \"$client_ip\" differs from request to request, and route[0] is cached";
    assert_eq!(with_route("\"origin\""), [told]);
}

#[test]
fn a_routes_rules_come_after_those_for_all() {
    let text = "[headers]\nsecurity_headers = true\nresponse_headers = { remove = \"Server\" }\n\
                [[route]]\npath = \"/a\"\norigin = \"app\"\nresponse_headers = { add = { Link = [\"a\", \"b\"] } }\n\
                [[route]]\npath = \"/b\"\norigin = \"app\"\nsecurity_headers = false\nresponse_headers = {}\n";
    let config = parse(&format!("{BASE}{SECRET}{text}")).unwrap_or_else(|faults| panic!("{faults}")).config;
    let [a, b] = [&config.routes[0].headers, &config.routes[1].headers];
    assert!(config.headers.security && a.security && !b.security);
    assert_eq!((config.headers.response.len(), a.response.len(), b.response.len()), (1, 2, 1));
    assert_eq!(a.response[0], config.headers.response[0]);
    assert_eq!(a.response[1].add.len(), 2);
    assert!(a.request.is_empty() && config.headers.request.is_empty());
}

#[test]
fn cross_origin_permissions_that_browsers_would_not_take() {
    let table: &[(&str, &[&str])] = &[
        ("cors = {}", &["11:8: route[0].cors.origins: missing"]),
        ("cors = { origins = [] }", &["11:20: route[0].cors.origins: must hold at least one"]),
        ("cors = { origins = [\"https://a/\", \"a.b\"] }", &["11:21: route[0].cors.origins[0]: must end with the host or its port: an origin has no path", "11:35: route[0].cors.origins[1]: must be an origin such as \"https://app.example.com\" or \"https://*.example.com\""]),
        ("cors = { origins = \"*\", credentials = true, headers = \"*\" }", &["11:20: route[0].cors.origins: \"*\" can't go with credentials = true: browsers refuse it", "11:55: route[0].cors.headers: \"*\" can't go with credentials = true: browsers take it for a field's name"]),
        ("cors = { origins = [\"*\", \"https://a\"], expose = [\"*\", \"ETag\"] }", &["11:21: route[0].cors.origins[0]: \"*\" stands for every origin: it stands alone", "11:50: route[0].cors.expose[0]: \"*\" stands for every field: it stands alone"]),
        ("cors = { origins = [\"https://a\", \"https://A:443\"], methods = [\"put\"] }", &["11:34: route[0].cors.origins[1]: stands there twice", "11:63: route[0].cors.methods[0]: must be a method in capitals, such as \"GET\""]),
    ];
    for (text, expected) in table {
        assert_eq!(route(text), *expected, "{text}");
    }
    let cors = |rest: &str| {
        let text = format!("{BASE}{SECRET}[[route]]\npath = \"/x\"\norigin = \"app\"\n{rest}");
        let config = parse(&text).unwrap_or_else(|faults| panic!("{faults}")).config;
        *config.routes[0].cors.clone().expect("cors")
    };
    assert_eq!(cors("cors = { origins = \"*\" }").methods, "GET, HEAD, POST");
    assert_eq!(cors("methods = [\"GET\", \"PUT\"]\ncors = { origins = \"*\" }").methods, "GET, HEAD, PUT");
    let full = cors("cors = { origins = \"https://a\", methods = [\"PUT\"], headers = [\"X-A\", \"X-B\"], max_age = \"10m\" }");
    assert_eq!(
        (full.methods, full.headers),
        ("PUT".parse().expect("a value"), Some("X-A, X-B".parse().expect("a value")))
    );
    assert!(full.max_age == "600" && full.expose.is_none() && !full.credentials);
}

#[test]
fn links_that_can_not_be_signed() {
    assert_eq!(route("signed = {}"), ["11:10: route[0].signed.secret: missing"]);
    let query = "signed = { secret = { env = \"JWT\" } }\ncache = { namespace = \"n\", ttl = \"1s\", query = [\"expires\"] }";
    let told =
        "12:49: route[0].cache.query[0]: \"expires\" belongs to the signature, which is taken off first";
    assert_eq!(route(query), [told]);
    let text = "[[route]]\npath = \"/x\"\norigin = \"app\"\nsigned = { secret = { env = \"SHORT\" } }\n";
    assert_eq!(
        warnings(text),
        [
            "11:10: route[0].signed: without methods a signed URL is good for every method",
            "11:21: route[0].signed.secret: 4 bytes, should have 32 or more",
        ]
    );
}
