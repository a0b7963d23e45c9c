//! Routes: where they lead, what limits them, and which of them are the same.

use super::*;

#[test]
fn routes_that_can_not_work() {
    let table: &[(&str, &[&str])] = &[
        ("host = \"a:80\"", &["11:8: route[0].host: must not hold a port, and an IPv6 address stands in brackets"]),
        ("host = \"a.*\"", &["11:8: route[0].host: \"*\" may only stand at the beginning, as \"*.\""]),
        ("host = \"a..b\"", &["11:8: route[0].host: must be a host such as \"dash.example.com\" or \"*.example.com\""]),
        ("auth = \"off\"\ncache = { namespace = \"n\", ttl = \"1s\", scope = \"user\" }", &["11:8: route[0].auth: \"off\" can't go with scope \"user\", which is read from the token"]),
        ("auth = \"off\"\ntoken_query = true", &["12:15: route[0].token_query: can't go with auth = \"off\""]),
        ("token_query = true\ncache = { namespace = \"n\", ttl = \"1s\", query = [\"token\"] }", &["11:15: route[0].token_query: can't go with a cache.query that holds \"token\": tokens stay out of keys"]),
        ("websocket = { idle_timeout = \"0s\" }", &["11:30: route[0].websocket.idle_timeout: must be more than 0"]),
        ("websocket = { origins = [\"dash\", \"https://a/\"], token = \"cookie\" }", &["11:26: route[0].websocket.origins[0]: must be an origin such as \"https://app.example.com\" or \"https://*.example.com\"", "11:34: route[0].websocket.origins[1]: must end with the host or its port: an origin has no path", "11:57: route[0].websocket.token: unknown value \"cookie\", known: header, query, subprotocol"]),
        ("websocket = { origins = [], token = [] }", &["11:25: route[0].websocket.origins: must hold at least one; left out, pages of any origin may open WebSockets", "11:37: route[0].websocket.token: must hold at least one"]),
        ("websocket = { origins = [\"https://a\", \"https://A:443\"], token = [\"query\", \"query\"] }", &["11:39: route[0].websocket.origins[1]: stands there twice", "11:75: route[0].websocket.token[1]: stands there twice"]),
        ("auth = \"off\"\nwebsocket = { token = \"query\" }", &["12:23: route[0].websocket.token: needs a [jwt] to verify tokens with, and can't go with auth = \"off\""]),
        ("cache = \"on\"", &["11:9: route[0].cache: must be \"off\", \"origin\" or a table such as { namespace = \"kpi\", ttl = \"20s\" }"]),
        ("cache = { follow = \"it\", ttl = \"1s\" }", &["11:20: route[0].cache.follow: unknown value \"it\", known: origin", "11:26: route[0].cache.ttl: unknown key, known: follow, request_directives, heuristic, set_cookie, stale_while_revalidate, stale_if_error, max_size, fill_timeout, hedge, stale_after, redis, key_headers, statuses, variants"]),
        ("cache = { follow = \"origin\", statuses = [400, 404], variants = 0 }", &["11:47: route[0].cache.statuses[1]: 404 is none of those that are kept only where they are named: 400, 401, 402, 403, 406, 407, 408, 411, 413, 415, 421, 422, 425, 426, 428, 429, 431", "11:64: route[0].cache.variants: must be from 1 to 1024"]),
        ("cache = { follow = \"origin\", key_headers = [\"X-Forwarded-For\", \"Host\", \"Range\"] }", &["11:45: route[0].cache.key_headers[0]: can't tell answers apart: only the gateway says it", "11:64: route[0].cache.key_headers[1]: can't tell answers apart: the host is in the key already", "11:72: route[0].cache.key_headers[2]: can't tell answers apart: what is asked for, and under which condition, is the client's and the cache's matter"]),
        ("cache = { ttl = \"0s\" }", &["11:9: route[0].cache.namespace: missing", "11:17: route[0].cache.ttl: must be more than 0"]),
        ("cache = { namespace = \"ver\", ttl = \"1s\" }", &["11:23: route[0].cache.namespace: \"ver\" is reserved: keys of the store begin with it"]),
        ("cache = { namespace = \"n\", ttl = \"1s\", cache_control = \"a\\nb\" }", &["11:56: route[0].cache.cache_control: must be a header value: printable ASCII"]),
        ("cache = { namespace = \"n\", ttl = \"1s\", scope = \"tenant\", cache_control = \"max-age=5, Public\" }", &["11:74: route[0].cache.cache_control: \"public\" and \"s-maxage\" can't go with scope \"tenant\" or \"user\""]),
        ("limit = { burst = 0, by = \"adress\" }", &["11:9: route[0].limit.rate: missing", "11:19: route[0].limit.burst: must be more than 0", "11:27: route[0].limit.by: unknown value \"adress\", did you mean \"address\"?"]),
        ("limit = [{ rate = \"10\" }, { rate = \"0/1s\" }, { rate = \"1/1500ms\" }, { rate = \"1/32d\" }, { rate = \"2000000/s\" }, { rate = 5 }]", &["11:19: route[0].limit[0].rate: must be a number of requests and a time, such as \"100/1m\" or \"10/s\"", "11:36: route[0].limit[1].rate: must allow for one request at least", "11:55: route[0].limit[2].rate: must be for whole seconds, from 1s to 31d", "11:78: route[0].limit[3].rate: must be for whole seconds, from 1s to 31d", "11:98: route[0].limit[4].rate: must be at most 1000000 a second", "11:122: route[0].limit[5].rate: must be text, not an integer"]),
        ("limit = [{ rate = \"1/s\", by = {} }, { rate = \"1/s\", by = { header = \"a b\" } }, { rate = \"1/s\", by = { header = \"a\", query = \"b\" } }, { rate = \"1/s\", by = 5 }]", &["11:31: route[0].limit[0].by: must have either header or query", "11:69: route[0].limit[1].by.header: must be the name of a header", "11:101: route[0].limit[2].by: must have either header or query", "11:155: route[0].limit[3].by: must be a word, { header = \"…\" } or { query = \"…\" }, not an integer"]),
        ("limit = [{ rate = \"1/s\", name = \"a\" }, { rate = \"1/m\", name = \"a\" }]", &["11:63: route[0].limit[1].name: another limit of the route has the same name"]),
        ("auth = \"off\"\nlimit = { rate = \"1/s\", by = \"user\" }", &["12:30: route[0].limit.by: is read from tokens: needs a [jwt], and can't go with auth = \"off\""]),
        ("[[route]]\npath = \"/y\"\norigin = \"ap\"", &["13:10: route[1].origin: unknown origin \"ap\", did you mean \"app\"?"]),
        ("[[route]]\npath = \"/x\"\norigin = \"app\"\nmethods = [\"GET\"]", &["12:8: route[1].path: route[0] has the same host, path and method (HEAD comes with GET)"]),
        ("name = \"n\"\n[[route]]\npath = \"/y\"\norigin = \"app\"\nname = \"n\"", &["15:8: route[1].name: another route has the same name"]),
    ];
    for (text, expected) in table {
        assert_eq!(route(text), *expected, "{text}");
    }
    for (path, complaint) in [
        ("/a*", "\"*\" may only stand at the end, as \"/*\""),
        ("/*/a", "\"*\" may only stand at the end, as \"/*\""),
        ("*", "must begin with \"/\""),
        ("", "must begin with \"/\""),
        ("/a?b", "must be a path alone, without \"?\" or \"#\""),
        ("/é", "must be written as in a request: no spaces, other characters percent-encoded"),
    ] {
        let text = format!("[[route]]\npath = \"{path}\"\norigin = \"app\"");
        assert_eq!(after_base(&text), [format!("9:8: route[0].path: {complaint}")]);
    }
}

#[test]
fn routes_of_files_and_what_they_can_not_have() {
    let files = |rest: &str| after_base(&format!("[[route]]\npath = \"/x/*\"\n{rest}"));
    let table: &[(&str, &[&str])] = &[
        ("files = { root = \".\" }", &[]),
        ("files = { }", &["10:9: route[0].files.root: missing"]),
        ("files = { root = \".\", index = \"a/b\" }", &["10:31: route[0].files.index: must be the name of a file, without a directory"]),
        ("files = { root = \".\", indx = \"b\" }", &["10:23: route[0].files.indx: unknown key, did you mean \"index\"?"]),
        ("files = { root = \".\", cache_control = \"a\\nb\" }", &["10:39: route[0].files.cache_control: must be a header value: printable ASCII"]),
        ("files = { root = \".\", immutable = \"hashed\" }", &[]),
        ("files = { root = \".\", immutable = [\"assets/**\", \"/f/*.woff2\"] }", &[]),
        ("files = { root = \".\", immutable = [\"a\", \"a[\"] }", &["10:41: route[0].files.immutable[1]: must be \"hashed\" or a pattern such as \"assets/**\": unclosed character class; missing ']'"]),
        ("files = { root = \".\" }\norigin = \"app\"", &["11:10: route[0].origin: can't go with files: a route has one or the other"]),
        ("files = { root = \".\" }\ncache = \"origin\"\nwebsocket = {}\naccel = true\nmethods = [\"GET\", \"POST\"]", &[
            "11:9: route[0].cache: can't go with files: they are here already",
            "12:13: route[0].websocket: can't go with files",
            "13:9: route[0].accel: can't go with files: it is about an origin's answers",
            "14:19: route[0].methods[1]: can't go with files: they answer GET and HEAD alone",
        ]),
        ("", &["8:1: route[0].origin: missing"]),
    ];
    for (text, expected) in table {
        assert_eq!(files(text), *expected, "{text}");
    }
    // A configuration with only routes of files needs no origin.
    let alone =
        "listener = [{ address = \"127.0.0.1:80\" }]\n[[route]]\npath = \"/*\"\nfiles = { root = \".\" }\n";
    let config = parse(alone).unwrap_or_else(|faults| panic!("{faults}")).config;
    assert!(config.origins.is_empty());
    let RouteTarget::Files(files) = &config.routes[0].target else { panic!("no files") };
    assert_eq!((files.index.as_str(), files.cache_control.to_str().unwrap()), ("index.html", "no-cache"));
    assert!(files.precompressed && !files.symlinks && !files.hidden);
    assert!(matches!(files.immutable, ImmutableRule::Nothing));
    let warned = warnings("[[route]]\npath = \"/x\"\nfiles = { root = \"/nowhere/x\" }\n");
    assert_eq!(
        warned,
        ["10:18: route[0].files.root: can't look at \"/nowhere/x\": No such file or directory (os error 2)"]
    );
}

#[test]
fn internal_locations() {
    let table: &[(&str, &[&str])] = &[
        ("internal = \"/p/\"\nroot = \".\"\nsymlinks = true\nhidden = true", &[]),
        ("internal = \"/p/\"\norigin = \"app\"\nprefix = \"/bucket/\"", &[]),
        ("internal = \"/p/\"", &["8:1: accel[0]: must have either root or origin"]),
        (
            "internal = \"/p/\"\nroot = \".\"\norigin = \"app\"",
            &["8:1: accel[0]: must have either root or origin"],
        ),
        ("root = \".\"", &["8:1: accel[0].internal: missing"]),
        ("internal = \"/p\"\nroot = \".\"", &["9:12: accel[0].internal: must end with \"/\""]),
        ("internal = \"p/\"\nroot = \".\"", &["9:12: accel[0].internal: must begin with \"/\""]),
        (
            "internal = \"/p/\"\nroot = \".\"\nprefix = \"/b/\"",
            &["11:10: accel[0].prefix: belongs to origin"],
        ),
        (
            "internal = \"/p/\"\norigin = \"ap\"\nprefix = \"/b\"\nsymlinks = true",
            &[
                "10:10: accel[0].origin: unknown origin \"ap\", did you mean \"app\"?",
                "11:10: accel[0].prefix: must end with \"/\"",
                "12:12: accel[0].symlinks: belongs to root",
            ],
        ),
        (
            "internal = \"/p/\"\nroot = \".\"\n[[accel]]\ninternal = \"/p/\"\nroot = \".\"",
            &["12:12: accel[1].internal: the same as accel[0]"],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(after_base(&format!("[[accel]]\n{text}")), *expected, "{text}");
    }
}

#[test]
fn without_jwt_nothing_may_need_a_token() {
    let base = BASE.replace("[jwt]\nalgorithms = [\"HS256\"]\n", "");
    let text = format!("{base}[[route]]\npath = \"/x\"\norigin = \"app\"\nauth = \"required\"\ntoken_query = true\ncache = {{ namespace = \"n\", ttl = \"1s\", scope = \"tenant\" }}\n");
    assert_eq!(
        faults(&text),
        [
            "8:8: route[0].auth: \"required\" needs a [jwt] to verify tokens with",
            "9:15: route[0].token_query: needs a [jwt] to verify tokens with",
            "10:48: route[0].cache.scope: \"tenant\" needs a [jwt] to verify tokens with",
        ]
    );
    assert!(parse(&base).is_ok());
}

#[test]
fn limits_are_as_the_document_says() {
    let text = r#"limit = [
  { rate = "100/1m" },
  { rate = "10/s", burst = 20, by = { header = "X-Api-Key" }, shared = true },
  { rate = "5/s", by = { query = "key" } },
  { rate = "1000/24h", by = "tenant" },
  { rate = "1/2h", by = "user", name = "slow" },
  { rate = "9/s" },
]"#;
    let text = format!("{BASE}{SECRET}[[route]]\npath = \"/x\"\norigin = \"app\"\n{text}\n");
    let LoadedConfig { config, warnings, .. } = parse(&text).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(
        warnings,
        ["c.toml:13:72: route[0].limit[1].shared: without store.redis each node counts by itself"]
    );
    let limits = &config.routes[0].limits;
    let short: Vec<_> =
        limits.iter().map(|l| (l.name.as_str(), l.requests, l.window.as_secs(), l.burst, l.shared)).collect();
    let expected = [
        ("address", 100, 60, 100, false),
        ("key", 10, 1, 20, true),
        ("key-2", 5, 1, 5, false),
        ("tenant", 1_000, 86_400, 1_000, false),
        ("slow", 1, 7_200, 1, false),
        ("address-2", 9, 1, 9, false),
    ];
    assert_eq!(short, expected);
    assert_eq!(limits[1].by, LimitBy::Header(http::HeaderName::from_static("x-api-key")));
    assert_eq!(limits[2].by, LimitBy::Query("key".to_owned()));
    let one =
        format!("{BASE}{SECRET}[[route]]\npath = \"/x\"\norigin = \"app\"\nlimit = {{ rate = \"1/s\" }}\n");
    let config = parse(&one).unwrap_or_else(|faults| panic!("{faults}")).config;
    assert_eq!(config.routes[0].limits.len(), 1);
    let nine = "{ rate = \"1/s\" }, ".repeat(9);
    assert_eq!(route(&format!("limit = [{nine}]")), ["11:154: route[0].limit[8]: there may be 8 at most"]);
}

#[test]
fn proxies_are_networks_or_addresses() {
    let text = "[server]\ntrusted_proxies = [\"10.0.0.0/8\", \"2001:db8::1\", \"::/0\"]\n";
    let LoadedConfig { config, warnings, .. } =
        parse(&format!("{BASE}{SECRET}{text}")).unwrap_or_else(|faults| panic!("{faults}"));
    let networks: Vec<_> = config.server.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "2001:db8::1/128", "::/0"]);
    let expected =
        "c.toml:9:49: server.trusted_proxies[2]: holds every address: whoever connects says who he is";
    assert!(warnings.iter().any(|warning| warning == expected), "{warnings:?}");
    assert!(parse(&format!("{BASE}{SECRET}")).is_ok_and(|l| l.config.server.trusted_proxies.is_empty()));
}

#[test]
fn fields_that_are_dropped_are_warned_about_where_something_goes_by_them() {
    assert_eq!(
        after_base("[server]\nunderscores = \"maybe\"\n"),
        ["9:15: server.underscores: unknown value \"maybe\", known: drop, pass"]
    );
    let routes = r#"
[[route]]
path = "/x"
origin = "app"
cache = { follow = "origin", key_headers = ["X_Mode", "X-Forwarded-Prefix"] }
limit = [{ rate = "1/s", by = { header = "X-Real-IP" } }, { rate = "1/s", by = { header = "api_key" } }]
"#;
    let keys = |text: &str| -> Vec<String> {
        let lines = warnings(text);
        lines
            .iter()
            .filter(|line| line.contains("is dropped"))
            .filter_map(|line| line.split(": ").nth(1).map(str::to_owned))
            .collect()
    };
    let (key, address, api) =
        ("route[0].cache.key_headers[0]", "route[0].limit[0].by.header", "route[0].limit[1].by.header");
    assert_eq!(keys(routes), [key, address, api]);
    assert_eq!(keys(&format!("[server]\nunderscores = \"pass\"\n{routes}")), [address]);
}

#[test]
fn the_same_path_is_another_route_under_another_host_or_method() {
    let text = r#"
methods = ["GET"]
[[route]]
path = "/x"
origin = "app"
methods = ["POST"]
[[route]]
path = "/x"
host = "A.Example.com."
origin = "app"
[[route]]
path = "/x/*"
origin = "app"
"#;
    let all = format!("{BASE}{SECRET}[[route]]\npath = \"/x\"\norigin = \"app\"{text}");
    let routes = parse(&all).unwrap_or_else(|faults| panic!("{faults}")).config.routes;
    assert_eq!(routes[0].methods, [http::Method::GET, http::Method::HEAD]);
    assert_eq!(routes[2].host.as_deref(), Some("a.example.com"));
    let names: Vec<_> = routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["x", "x_2", "x_3", "x_any"]);
}
