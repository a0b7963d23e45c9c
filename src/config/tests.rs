//! Files, and what is said about them.

use super::*;
use proptest::prelude::*;

mod headers;
mod live;
mod origins;
mod routes;

const DEMO: &str = include_str!("../../conf/demo.toml");
const PRODUCTION: &str = include_str!("../../conf/tidegate.toml");
const DOCUMENT: &str = include_str!("../../docs/configuration.md");

/// A file without faults, six lines long. `check` puts something after it.
const BASE: &str = r#"listener = [{ address = "127.0.0.1:80" }]
[[origin]]
name = "app"
servers = "http://127.0.0.1:5000"
[jwt]
algorithms = ["HS256"]
"#;
/// The seventh line: `[jwt]` goes on.
const SECRET: &str = "secret = { env = \"JWT\" }\n";
const LONG: &str = "0123456789abcdef0123456789abcdef";

fn environment(name: &str) -> Option<String> {
    match name {
        "EMPTY" => Some(String::new()),
        "SHORT" => Some("hush".to_owned()),
        "BROKEN" => Some("whsec_not base64".to_owned()),
        "ENCODED" => Some("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=".to_owned()),
        "REDIS" => Some("redis://:hush@10.0.0.1:6379/2".to_owned()),
        "JWT" | "JWT_SECRET" | "EVENT_SECRET" => Some(LONG.to_owned()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<LoadedConfig, ConfigFaults> {
    Config::parse(text, "c.toml", &environment)
}

fn faults(text: &str) -> Vec<String> {
    let lines = parse(text).map(|_| String::new()).unwrap_or_else(|faults| faults.to_string());
    lines.lines().map(|line| line.strip_prefix("c.toml:").expect("the file's name").to_owned()).collect()
}

/// The faults reported for the base followed by `text`, whose first line is line 8.
fn after_base(text: &str) -> Vec<String> {
    faults(&format!("{BASE}{SECRET}{text}"))
}

/// The warnings about the base followed by `text`.
fn warnings(text: &str) -> Vec<String> {
    let loaded = parse(&format!("{BASE}{SECRET}{text}")).unwrap_or_else(|faults| panic!("{faults}"));
    loaded
        .warnings
        .iter()
        .map(|line| line.strip_prefix("c.toml:").expect("the file's name").to_owned())
        .collect()
}

/// The faults reported for a route to the only origin, on line 8, with more keys from line 11 on.
fn route(rest: &str) -> Vec<String> {
    after_base(&format!("[[route]]\npath = \"/x\"\norigin = \"app\"\n{rest}"))
}

#[test]
fn the_base_of_these_tests_is_good() {
    assert_eq!(after_base(""), Vec::<String>::new());
    assert_eq!(route(""), Vec::<String>::new());
}

#[test]
fn the_example_of_production_is_accepted_without_a_warning() {
    let loaded = parse(PRODUCTION).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let missing = Config::parse(PRODUCTION, "t.toml", &|_| None).expect_err("no secrets");
    let keys: Vec<_> = missing.list().iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["jwt.secret.env", "event[0].secret.env"]);
}

#[test]
fn the_demo_is_accepted_and_its_secrets_are_warned_about() {
    let loaded = Config::parse(DEMO, "demo.toml", &|_| None).unwrap_or_else(|faults| panic!("{faults}"));
    let keys: Vec<_> = loaded.warnings.iter().filter_map(|line| line.split(": ").nth(1)).collect();
    assert_eq!(keys, ["jwt.secret", "event[0].secret"], "{:?}", loaded.warnings);
    let config = loaded.config;
    assert_eq!(config.listeners[0].address.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.map(|admin| admin.address.to_string()).as_deref(), Some("127.0.0.1:9180"));
    assert!(config.store.redis.is_none());
    let names: Vec<_> = config.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["api_widgets_kpi", "api_widgets_chart", "api_widgets_recent", "socket.io_any", "any"]);
    let CacheMode::Versioned(kpi) = &config.routes[0].cache else { panic!("not cached") };
    assert_eq!((kpi.namespace.as_str(), kpi.scope), ("kpi", CacheScope::Tenant));
    let seconds = [kpi.ttl, kpi.stale_while_revalidate, kpi.stale_if_error].map(|d| d.as_secs());
    assert_eq!(seconds, [20, 10, 600]);
    assert_eq!(config.events[0].secrets[0].reveal(), b"demo-only-event-secret-000001");
}

#[test]
fn the_origin_is_followed_as_the_document_says() {
    let follow = |cache: &str| {
        let text = format!("{BASE}{SECRET}[[route]]\npath = \"/x\"\norigin = \"app\"\ncache = {cache}\n");
        let LoadedConfig { config, .. } = parse(&text).unwrap_or_else(|faults| panic!("{faults}"));
        let CacheMode::Follow(rules) = config.routes[0].cache.clone() else { panic!("does not follow") };
        *rules
    };
    let short = follow("\"origin\"");
    assert_eq!(short, follow("{ follow = \"origin\" }"));
    assert!(!short.request_directives && short.heuristic && !short.set_cookie);
    assert!(short.stale_while_revalidate.is_zero() && short.stale_if_error.is_zero());
    assert_eq!((short.max_size, short.fill_timeout.as_secs(), short.redis), (16 << 20, 30, 0));
    assert_eq!(follow("{ follow = \"origin\", redis = \"1MiB\" }").redis, 1 << 20);
}

#[test]
fn defaults_are_those_of_the_document() {
    let text = format!("{BASE}{SECRET}[[route]]\npath = \"/x\"\norigin = \"app\"\ncache = {{ namespace = \"n\", ttl = \"1s\" }}\n[[event]]\npath = \"/e\"\nsecret = {{ env = \"JWT\" }}\nbump = \"n\"\n");
    let LoadedConfig { config, warnings, .. } = parse(&text).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(warnings, Vec::<String>::new());
    assert!(config.server.threads > 0 && config.admin.is_none());
    let server =
        (config.server.drain.as_secs(), config.server.keepalive.as_secs(), config.server.keepalive_requests);
    assert_eq!(server, (30, 65, 10_000));
    let clients = config.server.clients;
    let times = [clients.header_timeout, clients.body_timeout, clients.send_timeout];
    assert_eq!(times.map(|time| time.as_secs()), [10, 30, 30]);
    assert_eq!((clients.body_min_rate, clients.send_min_rate), (256, 256));
    assert_eq!((clients.max_connections, clients.max_per_address), (None, None));
    assert_eq!((config.store.prefix.as_str(), config.store.memory), ("dash:", 256 << 20));
    assert_eq!((config.store.deadline.as_millis(), config.store.lease.as_millis()), (50, 5000));
    assert_eq!(config.store.outage_ttl, Some(std::time::Duration::from_secs(5)));
    assert_eq!(config.log, LogConfig { format: LogFormat::Auto, access: true });
    let jwt = config.jwt.expect("is there");
    assert_eq!([&jwt.tenant_claim, &jwt.user_claim, &jwt.role_claim], ["tenant", "sub", "role"]);
    assert!(jwt.audience.is_empty() && jwt.issuer.is_empty() && jwt.leeway.is_zero());
    assert_eq!((jwt.max_token, jwt.jwks_max_age.as_secs()), (16 << 10, 86_400));
    assert!(jwt.default_tenant.is_none());
    let origin = &config.origins[0];
    assert_eq!((origin.connect_timeout.as_secs(), origin.read_timeout.as_secs(), origin.retries), (2, 30, 2));
    let route = &config.routes[0];
    assert_eq!((route.auth, route.token_query, route.max_body), (AuthMode::Optional, false, 10 << 20));
    assert!(route.methods.is_empty() && route.host.is_none() && route.websocket.is_none());
    let CacheMode::Versioned(rules) = &route.cache else { panic!("not cached") };
    assert_eq!(
        (rules.scope, rules.max_size, rules.fill_timeout.as_secs()),
        (CacheScope::Public, 1 << 20, 30)
    );
    assert!(rules.stale_while_revalidate.is_zero() && rules.stale_if_error.is_zero());
    assert!(rules.negative_ttl.is_zero() && rules.cache_control.is_none() && rules.query.is_empty());
    let event = &config.events[0];
    assert_eq!((event.rate, event.max_body, event.forward), (100, 64 << 10, None));
    assert_eq!(config.encoding.prefer, [ContentCoding::Brotli, ContentCoding::Zstd, ContentCoding::Gzip]);
    assert_eq!(config.encoding.levels.values().copied().collect::<Vec<_>>(), [5, 3, 6]);
    assert_eq!(config.encoding.min_size, 1024);
}

#[test]
fn every_fault_is_told_in_one_run() {
    let text = r#"[sever]
threads = 4

[[listener]]
address = "127.0.0.1"

[store]
memory = 12.5
deadline = 50

[[origin]]
name = "app"
servers = []

[[route]]
path = "api"
origin = "ap"
cache = { namespace = "kpi", scope = "tenent", tll = "20s" }

[[route]]
origin = "app"
auth = "required"
methods = ["get"]

[[event]]
path = "/e"
secret = { env = "NOWHERE" }
bump = []
"#;
    let expected = r#"1:2: sever: unknown key, did you mean "server"?
5:11: listener[0].address: must be an IP address and a port, such as "127.0.0.1:8080" or "[::]:80"
8:10: store.memory: must be text, not a float
9:12: store.deadline: must be a whole number with a unit (ms, s, m, h, d), such as "20s"
13:11: origin[0].servers: must hold at least one
16:8: route[0].path: must begin with "/"
17:10: route[0].origin: unknown origin "ap", did you mean "app"?
18:9: route[0].cache.ttl: missing
18:38: route[0].cache.scope: unknown value "tenent", did you mean "tenant"?
18:48: route[0].cache.tll: unknown key, did you mean "ttl"?
20:1: route[1].path: missing
22:8: route[1].auth: "required" needs a [jwt] to verify tokens with
23:12: route[1].methods[0]: must be a method in capitals, such as "GET"
27:18: event[0].secret.env: the environment variable "NOWHERE" is not set
28:8: event[0].bump: must hold at least one namespace"#;
    assert_eq!(faults(text), expected.lines().collect::<Vec<_>>());
}

#[test]
fn broken_toml_is_told_with_its_line_and_the_rest_is_still_read() {
    let text = "[server]\ndrain = \n\n[store]\nmemroy = \"1MiB\"\n\n[log\nformat = \"txt\"\n";
    let told = faults(text);
    assert_eq!(
        told.iter().map(|line| line.split(':').next().unwrap_or("")).collect::<Vec<_>>(),
        ["2", "5", "7", "8"]
    );
    assert_eq!(told[1], "5:1: store.memroy: unknown key, did you mean \"memory\"?");
    assert_eq!(faults("a = 1\na = 2\n"), [
        "1:1: a: unknown key, known: server, listener, admin, log, store, jwt, origin, route, event, encoding, headers, accel, live",
        "2:1: duplicate key",
    ]);
}

#[test]
fn a_bracket_that_is_not_closed_is_told_first() {
    let open = "this bracket is not closed before the next key or table";
    for (text, place) in [
        ("[jwt]\nalgorithms = [\"HS256\"\nsecret = \"x\"\n\n[server]\nthreads = 1\n", "2:14"),
        ("x = { y = [1,\n[[route]]\npath = \"/\"\n", "1:11"),
        ("[server]\ntrusted_proxies = [\n  \"10.0.0.0/8\",\n\n[log]\naccess = true\n", "2:19"),
    ] {
        assert_eq!(faults(text).last().unwrap(), &format!("{place}: {open}"), "{text}");
    }
    let base = format!("{BASE}{SECRET}[[route]]\npath = \"/x\"\nmethods = [\"GET\"\norigin = \"app\"\n");
    assert_eq!(faults(&base), [format!("10:11: {open}")]);
}

#[test]
fn tables_of_which_there_may_be_several_stand_in_two_brackets() {
    let first = "8:1: route: must be a list of tables, each under [[route]]";
    assert_eq!(after_base("[route]\npath = \"/a\"\n"), [first]);
    for second in ["[route]", "[[route]]"] {
        let told = after_base(&format!("[route]\npath = \"/a\"\n\n{second}\npath = \"/b\"\n"));
        let twice = told.iter().find(|fault| fault.starts_with("11:")).unwrap_or_else(|| panic!("{told:?}"));
        assert!(twice.ends_with("each of several stands under [[route]], not [route]"), "{twice}");
        assert!(told.iter().all(|fault| !fault.ends_with(": duplicate key")), "{told:?}");
    }
}

#[test]
fn words_of_nginx_and_others_are_answered_with_ours() {
    for (text, told) in [
        ("[[route]]\npath = \"/x\"\norigin = \"app\"\nproxy_pass = \"http://a\"", "11:1: route[0].proxy_pass: a key of nginx's; here it is origin = \"name\", whose servers stand under [[origin]]"),
        ("[[location]]\npath = \"/\"", "8:3: location: a key of nginx's; here it is [[route]] with path, such as \"/api/*\""),
        ("[upstream]", "8:2: upstream: a key of nginx's; here it is [[origin]] with name and servers"),
        ("[[route]]\npath = \"/x\"\norigin = \"http://127.0.0.1:5000\"", "10:10: route[0].origin: must be the name of an [[origin]]: the address stands in its servers"),
        ("[[route]]\npath = \"/x\"\norigin = \"unix:/run/app.sock\"", "10:10: route[0].origin: must be the name of an [[origin]]: the address stands in its servers"),
        ("[[origin]]\nname = \"b\"\nservers = \"http://unix:/run/app.sock\"", "10:11: origin[1].servers: is nginx's way to write a socket: here it is \"unix:/path\", without http://"),
        ("[admin]\naddress = \"unix:/run/tidegate.sock\"", "9:11: admin.address: must be an IP address and a port, such as \"127.0.0.1:8080\" or \"[::]:80\": only origins are reached by sockets of Unix"),
        ("[admin]\naddress = \"*:9180\"", "9:11: admin.address: must be an IP address and a port, such as \"127.0.0.1:8080\" or \"[::]:80\"; every address is \"0.0.0.0:9180\", and of IPv6 \"[::]:9180\""),
        ("[admin]\naddress = \"9180\"", "9:11: admin.address: must be an IP address and a port, such as \"127.0.0.1:8080\" or \"[::]:80\"; every address is \"0.0.0.0:9180\", and of IPv6 \"[::]:9180\""),
        ("[admin]\naddress = \"localhost:9180\"", "9:11: admin.address: must be an IP address and a port, such as \"127.0.0.1:8080\" or \"[::]:80\"; localhost is \"127.0.0.1:9180\""),
        ("[[route]]\npath = \"/x\"\norigin = \"app\"\nwebsocket = true", "11:13: route[0].websocket: must be a table, not a boolean: {} takes its defaults"),
    ] {
        assert_eq!(after_base(text), [told], "{text}");
    }
}

#[test]
fn a_path_that_is_one_path_alone_is_warned_about() {
    let route = |path: &str| format!("[[route]]\npath = \"{path}\"\norigin = \"app\"\n");
    let alone =
        |at: &str, path: &str| format!("{at}: is this path alone; for all below it, write \"{path}*\"");
    assert_eq!(warnings(&route("/")), [alone("9:8: route[0].path", "/")]);
    assert_eq!(warnings(&route("/api/")), [alone("9:8: route[0].path", "/api/")]);
    assert_eq!(warnings(&format!("{}{}", route("/"), route("/*"))), Vec::<String>::new());
}

#[test]
fn what_has_no_effect_is_warned_about() {
    let route = |cache: &str| format!("[[route]]\npath = \"/x\"\norigin = \"app\"\ncache = {{ {cache} }}\n");
    let told = |at: &str, time: &str| {
        format!("11:{at}: route[0].cache.stale_after: has no effect: a fill ends after fill_timeout ({time})")
    };
    let without = |at: &str, key: &str| format!("{at}: store.{key}: has no effect without redis");
    for (text, expected) in [
        (route("follow = \"origin\", stale_after = \"29s\""), vec![]),
        (route("follow = \"origin\", stale_after = \"30s\""), vec![told("44", "30s")]),
        (
            route("namespace = \"kpi\", ttl = \"1s\", fill_timeout = \"1s\", stale_after = \"2s\""),
            vec![told("77", "1s")],
        ),
        (
            "[store]\noutage_ttl = \"1s\"\npoll = \"2s\"\n".to_owned(),
            vec![without("9:14", "outage_ttl"), without("10:8", "poll")],
        ),
        ("[store]\nredis = \"redis://h\"\noutage_ttl = \"1s\"\npoll = \"2s\"\n".to_owned(), vec![]),
    ] {
        let told: Vec<_> =
            warnings(&text).into_iter().filter(|told| told.contains("has no effect")).collect();
        assert_eq!(told, expected, "{text}");
    }
}

#[test]
fn variables_are_told_from_text() {
    let (text, name) = ("[[route]]\npath = \"/x\"\nhost = \"$HOST\"\norigin = \"app\"\n", "HOST");
    assert_eq!(after_base(text).len(), 1);
    let told = warnings("[log]\n[store]\nprefix = \"${HOST}:\"\n");
    assert!(told[1].contains(&format!("10:10: store.prefix: ${name} is not replaced here")), "{told:?}");
    let secret = BASE.to_owned() + "secret = \"$JWT_SECRET\"\n";
    assert_eq!(
        faults(&secret),
        ["7:10: jwt.secret: $JWT_SECRET is not replaced: write { env = \"JWT_SECRET\" }"]
    );
}

#[test]
fn no_secret_is_shown_that_stands_in_the_place_of_a_name() {
    let secrets = [
        "hunter2",
        "S3cr3t",
        "JBSWY3DPEHPK3PXP",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0+/=",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.sig",
    ];
    for secret in secrets {
        for text in [
            format!("{BASE}secret = {{ env = \"{secret}\" }}\n"),
            format!("{BASE}secret = {{ file = \"{secret}\" }}\n"),
            format!("{BASE}{SECRET}[store]\nredis = {{ env = \"{secret}\" }}\n"),
            format!("{BASE}{SECRET}[store]\nredis = {{ file = \"{secret}\" }}\n"),
            format!("{BASE}{SECRET}[store]\nredis = \"{secret}\"\n"),
            format!("{BASE}{SECRET}[store]\nredis = \"redis://u:{secret}@h/x\"\n"),
            format!("{BASE}secret = {{ file = \"{}/{secret}\" }}\n", "/run").replace("/run/", ""),
            format!(
                "{BASE}{SECRET}[[event]]\npath = \"/e\"\nbump = \"n\"\nsecret = {{ env = \"{secret}\" }}\n"
            ),
        ] {
            let told = faults(&text).join("\n");
            assert!(!told.is_empty() && !told.contains(secret), "{told}");
        }
    }
    let pem = "-----BEGIN PRIVATE KEY-----\\nMC4CAQAwBQYDK2VwBCIEIImYV3MG\\n-----END PRIVATE KEY-----";
    for text in [
        format!("{}{SECRET}", BASE.replace("127.0.0.1:80\"", &format!("127.0.0.1:80\", certificates = [{{ cert = \"{pem}\", key = \"{pem}\" }}]"))),
        format!("{BASE}{SECRET}[[origin]]\nname = \"b\"\nservers = \"https://b:1\"\ntls = {{ cert = \"{pem}\", key = \"{pem}\" }}\n"),
    ] {
        let told = faults(&text).join("\n");
        assert!(!told.is_empty() && !told.contains("MC4CAQ"), "{told}");
    }
    let long = secrets[3];
    let told = faults(&format!("{}{SECRET}", BASE.replace("HS256", long))).join("\n");
    assert!(!told.is_empty() && !told.contains(long), "{told}");
    assert_eq!(
        faults(&format!("{BASE}secret = {{ file = \"/run/secrets/jwt\" }}\n")).join(""),
        "7:19: jwt.secret.file: can't read \"/run/secrets/jwt\": No such file or directory (os error 2)"
    );
}

#[test]
fn an_empty_file_lacks_a_listener_and_an_origin() {
    assert_eq!(faults(""), ["1:1: listener: missing", "1:1: origin: missing"]);
    assert_eq!(
        faults("listener = []\norigin = []\n"),
        ["1:12: listener: must hold at least one", "2:10: origin: must hold at least one",]
    );
}

#[test]
fn tables_of_one_key_each() {
    let table: &[(&str, &[&str])] = &[
        ("[server]\nthreads = 1025", &["9:11: server.threads: must be at most 1024"]),
        ("[server]\nthreads = -1", &["9:11: server.threads: must be from 0 to 4294967295"]),
        ("[server]\nkeepalive = \"999ms\"", &["9:13: server.keepalive: must be at least 1s"]),
        ("[server]\ntrusted_proxies = [\"10.0.0.1/8\", \"10.0.0.0/33\", \"lb\", 10]", &["9:20: server.trusted_proxies[0]: has bits beyond its prefix: \"10.0.0.0/8\" is the network", "9:34: server.trusted_proxies[1]: must be a network such as \"10.0.0.0/8\", or an address", "9:49: server.trusted_proxies[2]: must be a network such as \"10.0.0.0/8\", or an address", "9:55: server.trusted_proxies[3]: must be text, not an integer"]),
        ("[server]\nheader_timeout = \"0s\"", &["9:18: server.header_timeout: must be more than 0"]),
        ("[server]\nsend_timeout = 5", &["9:16: server.send_timeout: must be a whole number with a unit (ms, s, m, h, d), such as \"20s\""]),
        ("[server]\nbody_min_rate = \"256\"", &["9:17: server.body_min_rate: must be a whole number with a unit (B, kB, MB, GB, KiB, MiB, GiB), such as \"256MiB\""]),
        ("[server]\ndrain = \"9999d\"", &["9:9: server.drain: must be at most 3650d"]),
        ("server = 5", &["8:1: jwt.server: unknown key, known: algorithms, secret, jwks, tenant_claim, default_tenant, user_claim, role_claim, audience, issuer, leeway, max_token, cookie"]),
        ("[[server]]", &["8:1: server: must be one table, under [server], not a list"]),
        ("[route]\npath = \"/\"", &["8:1: route: must be a list of tables, each under [[route]]"]),
        ("[admin]", &["8:1: admin.address: missing"]),
        ("[admin]\naddress = \"127.0.0.1:80\"", &["9:11: admin.address: the same address as listener[0]"]),
        ("[admin]\naddress = \"0.0.0.0:80\"", &["9:11: admin.address: is every IPv4 address, and so takes 127.0.0.1:80 of listener[0] as well"]),
        ("[admin]\naddress = \"[::ffff:127.0.0.1]:80\"", &["9:11: admin.address: the same address as listener[0]"]),
        ("[admin]\naddress = \"127.0.0.1:81\"\nhosts = [\"a:80\", \"*\", \"tidegate.internal\"]", &["10:10: admin.hosts[0]: must not hold a port, and an IPv6 address stands in brackets", "10:18: admin.hosts[1]: \"*\" may only stand at the beginning, as \"*.\""]),
        ("[log]\nformat = \"txt\"", &["9:10: log.format: unknown value \"txt\", did you mean \"text\"?"]),
        ("[log]\nformat = \"xml\"", &["9:10: log.format: unknown value \"xml\", known: auto, text, json"]),
        ("[log]\naccess = \"yes\"", &["9:10: log.access: must be true or false, not text"]),
        ("[log]\n\"for\\nmat\" = 1", &["9:1: log.\"for\\nmat\": unknown key, did you mean \"format\"?"]),
        ("[store]\nmemory = 0", &["9:10: store.memory: must be more than 0"]),
        ("[store]\nmemory = -5", &["9:10: store.memory: must not be negative, and must be less than 16 EiB"]),
        ("[store]\nmemory = \"1.5GiB\"", &["9:10: store.memory: must be a whole number with a unit (B, kB, MB, GB, KiB, MiB, GiB), such as \"256MiB\""]),
        ("[store]\nprefix = \"a b\"", &["9:10: store.prefix: must be at most 64 printable ASCII characters, none of them a space"]),
        ("[store]\noutage_ttl = \"for ever\"", &["9:14: store.outage_ttl: must be a duration such as \"20s\", or \"unlimited\""]),
        ("[store]\noutage_ttl = \"5\"", &["9:14: store.outage_ttl: must be a whole number with a unit (ms, s, m, h, d), such as \"20s\""]),
        ("[store]\nlease = \"50ms\"", &["9:9: store.lease: must be longer than deadline: it is renewed by calls that may take as long as that"]),
        ("[store]\nredis = \"10.0.0.1\"", &["9:9: store.redis: must be redis://host:port/db, rediss://…, unix:///path or redis+sentinel://…"]),
        ("[store]\nredis = [\"unix:///x\"]", &["9:10: store.redis[0]: a cluster's nodes must be redis:// or rediss:// URLs"]),
        ("[store]\nredis = \"redis://h?timeout=5\"", &["9:9: store.redis: has a parameter that is not db: user and password stand before the host"]),
        ("[store]\nredis = \"redis://h/1?db=7\"", &["9:9: store.redis: names the database twice, in its path and as ?db="]),
        ("[store]\nredis = [\"redis://h/7\"]", &["9:10: store.redis[0]: a cluster has no database but 0"]),
        ("max_token = \"65KiB\"", &["8:13: jwt.max_token: must be from 1 to 65536: fields of a request that are larger are refused with 431"]),
        ("cookie = \"a b\"", &["8:10: jwt.cookie: must be a name of letters, digits and a few signs, at most 64 of them"]),
        ("cookie = \"\"", &["8:10: jwt.cookie: must not be empty"]),
        ("max_token = 0", &["8:13: jwt.max_token: must be from 1 to 65536: fields of a request that are larger are refused with 431"]),
        ("tenant_claim = \"\"", &["8:16: jwt.tenant_claim: must not be empty"]),
        ("tenant_claim = \"/org/~x\"", &["8:16: jwt.tenant_claim: is no JSON pointer (RFC 6901): \"~\" is written \"~0\", \"/\" in a name \"~1\""]),
        ("default_tenant = \"a b\"", &["8:18: jwt.default_tenant: may only hold letters, digits, '_', '.' and '-'"]),
        ("[store]\nredis = []", &["9:9: store.redis: must hold at least one"]),
        ("[store]\nredis = \"redis+sentinel://a:1/m/x\"", &["9:9: store.redis: the database must be a number"]),
        ("[store]\npassword = { env = \"JWT\" }", &["9:12: store.password: is of no use without redis"]),
        ("[store]\nredis = \"redis://h\"\nuser = \"u\"", &["10:8: store.user: needs password as well"]),
        ("[store]\nredis = \"redis://:p@h\"\npassword = { env = \"JWT\" }", &["10:12: store.password: stands in redis as well"]),
        ("[store]\nredis = \"redis://:p@h\"\nuser = \"u\"", &["10:8: store.user: stands in redis as well"]),
        ("[store]\nredis = [\"redis://h\", \"redis://u:p@h\"]\npassword = { env = \"JWT\" }", &["10:12: store.password: stands in redis as well"]),
        ("[store]\nredis = \"unix:///x?user=u&pass=p\"\nuser = \"u\"\npassword = { env = \"JWT\" }", &["10:8: store.user: stands in redis as well", "11:12: store.password: stands in redis as well"]),
        ("[store]\nredis = \"redis+sentinel://:p@a:1/m\"\npassword = { env = \"JWT\" }", &["10:12: store.password: stands in redis as well"]),
        ("[store]\nredis = 6379", &["9:9: store.redis: must be { env = \"NAME\" }, { file = \"path\" } or text, not an integer"]),
        ("[[origin]]\nname = \"app\"\nservers = \"http://b:1\"", &["9:8: origin[1].name: the same name as origin[0]"]),
        ("[[origin]]\nname = \"a:b\"\nservers = \"http://b:1\"", &["9:8: origin[1].name: may only hold letters, digits, '_', '.' and '-'"]),
        ("[[origin]]\nname = \"b\"\nservers = [\"http://b:1\", \"http://b:1\", \"b:1\"]", &["10:26: origin[1].servers[1]: stands there twice", "10:40: origin[1].servers[2]: must be http://host:port, https://host:port or unix:/path"]),
        ("[[origin]]\nname = \"b\"\nservers = \"http://b:1\"\nretries = 11\nread_timeout = \"0s\"\nhealth = { interval = \"0s\" }", &["11:11: origin[1].retries: must be at most 10", "12:16: origin[1].read_timeout: must be more than 0", "13:10: origin[1].health.path: missing", "13:23: origin[1].health.interval: must be more than 0"]),
        ("[[origin]]\nname = \"b\"\nservers = [{ url = \"http://b:1\", weight = 0 }, { weight = 2 }]", &["10:43: origin[1].servers[0].weight: must be from 1 to 1000", "10:48: origin[1].servers[1].url: missing"]),
        ("[[origin]]\nname = \"b\"\nservers = [{ url = \"http://c:1\", wieght = 2 }, 5]", &["10:34: origin[1].servers[0].wieght: unknown key, did you mean \"weight\"?", "10:48: origin[1].servers[1]: must be text, not an integer"]),
        ("[[origin]]\nname = \"b\"\nservers = \"http://b:1\"\nbalance = \"random\"", &["11:11: origin[1].balance: must be \"round-robin\", \"least-connections\" or { hash = \"client\" }"]),
        ("[[origin]]\nname = \"b\"\nservers = \"http://b:1\"\nbalance = { hash = \"ip\" }", &["11:20: origin[1].balance.hash: unknown value \"ip\", known: client, path, tenant"]),
        ("[[origin]]\nname = \"b\"\nservers = \"http://b:1\"\nbalance = { }", &["8:1: origin[1].balance.hash: missing"]),
        ("[[origin]]\nname = \"b\"\nservers = \"http://b:1\"\nsticky = { }", &["11:10: origin[1].sticky: must have query, cookie or both"]),
        ("[[origin]]\nname = \"b\"\nservers = \"http://b:1\"\nsticky = { query = \"a b\", cookie = \"a;b\" }", &["11:20: origin[1].sticky.query: must be a name of letters, digits and a few signs, at most 64 of them", "11:36: origin[1].sticky.cookie: must be a name of letters, digits and a few signs, at most 64 of them"]),
        ("[[origin]]\nname = \"b\"\nservers = \"http://b:1\"\nqueue = 10001\nqueue_timeout = \"0s\"\nidle_timeout = \"0s\"", &["11:9: origin[1].queue: must be at most 10000", "12:17: origin[1].queue_timeout: must be more than 0", "13:16: origin[1].idle_timeout: must be more than 0"]),
        ("[[origin]]\nname = \"b\"\nservers = \"http://b:1\"\nreceive_buffer = \"1KiB\"", &["11:18: origin[1].receive_buffer: must be 0, or 16KiB to 64MiB"]),
        ("[[origin]]\nname = \"b\"\nservers = \"http://b:1\"\ntls = { server_name = \"b\" }", &["11:7: origin[1].tls: is for https servers, and there is none"]),
        ("[[origin]]\nname = \"b\"\nservers = [\"https://a_b.example.com\", \"https://a.b\"]\ntls = { cert = \"/nowhere/c\", ca = \"/nowhere/a\" }", &["11:7: origin[1].tls.key: missing, cert needs it", "11:35: origin[1].tls.ca: can't read \"/nowhere/a\": No such file or directory (os error 2)"]),
        ("[[origin]]\nname = \"b\"\nservers = [\"https://a_b.example.com\"]", &["10:12: origin[1].servers[0]: no certificate can be verified for this name: tls.server_name may give another"]),
        ("[[origin]]\nname = \"b\"\nservers = \"https://b\"\ntls = { server_name = \"a b\" }", &["11:23: origin[1].tls.server_name: no certificate can be verified for this name: tls.server_name may give another"]),
        ("[encoding]\ntypes = [\"text/*\", \"text\"]", &["9:10: encoding.types[0]: must be a media type without parameters, such as \"application/json\"", "9:20: encoding.types[1]: must be a media type without parameters, such as \"application/json\""]),
        ("[encoding]\nprefer = [\"br\", \"brotli\"]", &["9:17: encoding.prefer[1]: unknown value \"brotli\", known: br, zstd, gzip"]),
        ("[[origin]]\nname = \"b\"\nservers = \"http://b\"\nhealth = { path = \"/\", host = \"a b\", headers = { \"Host\" = \"a\" } }", &["11:31: origin[1].health.host: must be a name or an address, with or without a port", "11:50: origin[1].health.headers.Host: must be a field's name, and none that frames a request; Host is health.host"]),
        ("[encoding]\nmemory = -5", &["9:10: encoding.memory: must not be negative, and must be less than 16 EiB"]),
        ("[encoding]\nprefer = [\"br\", \"br\"]", &["9:17: encoding.prefer[1]: stands there twice"]),
        ("[encoding]\nlevels = { br = 12, gzip = 0 }", &["9:17: encoding.levels.br: must be from 0 to 11", "9:28: encoding.levels.gzip: must be from 1 to 9"]),
    ];
    for (text, expected) in table {
        assert_eq!(after_base(text), *expected, "{text}");
    }
}

#[test]
fn events_that_can_not_work() {
    let event = |rest: &str| after_base(&format!("[[event]]\npath = \"/e/x\"\n{rest}"));
    let secret = "secret = { env = \"JWT\" }\nbump = [\"n\"]\n";
    assert_eq!(event(""), ["8:1: event[0].secret: missing", "8:1: event[0].bump: missing"]);
    assert_eq!(
        event("secret = { env = \"BROKEN\" }\nbump = [\"n:m\"]\nrate = 0"),
        [
            "10:10: event[0].secret: what follows whsec_ must be base64",
            "11:9: event[0].bump[0]: may only hold letters, digits, '_', '.' and '-'",
            "12:8: event[0].rate: must be more than 0",
        ]
    );
    assert_eq!(
        event(&format!("{secret}forward = true\norigin = \"xapp\"")),
        ["13:10: event[0].origin: unknown origin \"xapp\", did you mean \"app\"?"]
    );
    assert_eq!(
        event(&format!("{secret}forward = true\n[[origin]]\nname = \"b\"\nservers = \"http://b:1\"")),
        ["8:1: event[0].origin: missing, there are several to choose from"]
    );
    assert_eq!(
        event(&format!("{secret}[[event]]\npath = \"/e/x\"\n{secret}")),
        ["13:8: event[1].path: the same path as event[0]"]
    );
    let prefix = after_base(&format!("[[event]]\npath = \"/e/*\"\n{secret}"));
    assert_eq!(prefix, ["9:8: event[0].path: must be exact, without \"*\""]);
    let text = format!("{BASE}{SECRET}[[event]]\npath = \"/e\"\nforward = true\n{secret}");
    let config = parse(&text).unwrap_or_else(|faults| panic!("{faults}")).config;
    assert_eq!(config.events[0].forward, Some(0));
}

#[test]
fn secrets_come_from_the_environment_or_a_file_beside_the_configuration() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("jwt.key"), format!("{LONG}\r\n")).expect("written");
    std::fs::write(directory.path().join("empty.key"), "\n").expect("written");
    let path = directory.path().join("c.toml");
    std::fs::write(&path, format!("{BASE}secret = {{ file = \"jwt.key\" }}\n")).expect("written");
    let loaded = Config::load(&path).unwrap_or_else(|error| panic!("{error}"));
    let Some(JwtKeys::Secrets(secrets)) = loaded.config.jwt.map(|jwt| jwt.keys) else { panic!("no secrets") };
    assert_eq!(secrets, [Secret::new(LONG)]);

    std::fs::write(&path, format!("{BASE}secret = {{ file = \"empty.key\" }}\n")).expect("written");
    let Err(ConfigError::Faults(faults)) = Config::load(&path) else { panic!("accepted") };
    assert_eq!(faults.list()[0].message, "\"empty.key\" is empty");
    std::fs::write(directory.path().join("empty.key"), format!("\u{feff}{LONG}\n")).expect("written");
    let Err(ConfigError::Faults(faults)) = Config::load(&path) else { panic!("accepted") };
    assert!(faults.list()[0].message.contains("begins with a byte order mark"), "{faults}");
    let Err(ConfigError::Read { .. }) = Config::load(&directory.path().join("none.toml")) else {
        panic!("read")
    };

    let text = format!("{BASE}{SECRET}[[event]]\npath = \"/e\"\nsecret = {{ env = \"ENCODED\" }}\nbump = \"n\"\n[store]\nredis = {{ env = \"REDIS\" }}\n");
    let config = parse(&text).unwrap_or_else(|faults| panic!("{faults}")).config;
    assert_eq!(config.events[0].secrets, [Secret::new(LONG)]);
    assert!(matches!(config.store.redis, Some(RedisConfig::Single(url)) if url.ends_with("/2")));
}

#[test]
fn what_is_worth_a_word() {
    let none = "1:1: route: there is none: every request but an event's is answered with 404";
    assert_eq!(warnings(""), [none]);
    let text = "[[route]]\npath = \"/e\"\norigin = \"app\"\ncache = { namespace = \"kpi\", ttl = \"1s\" }\n[[event]]\npath = \"/e\"\nsecret = { env = \"SHORT\" }\nbump = [\"kpl\", \"kpi\"]\norigin = \"app\"\n";
    assert_eq!(
        warnings(text),
        [
            "13:8: event[0].path: also the path of the route \"e\", which never gets a request",
            "14:10: event[0].secret: 4 bytes, should have 24 or more",
            "15:9: event[0].bump[0]: no route caches under \"kpl\", did you mean \"kpi\"?",
            "16:10: event[0].origin: does nothing without forward = true",
        ]
    );
    assert_eq!(warnings("[admin]\naddress = \"0.0.0.0:9180\"\n[store]\nredis = \"redis://u:hush@h\"\n"), [
        none,
        "9:11: admin.address: not a loopback address: whoever reaches it reads the metrics and can purge, without a token",
        "11:9: store.redis: its password stands in the file itself, better: { env = \"NAME\" } or { file = \"path\" }",
    ]);
    assert_eq!(
        warnings("[[route]]\npath = \"/static/\"\norigin = \"app\"\n"),
        ["9:8: route[0].path: is this path alone; for all below it, write \"/static/*\""]
    );
    let jwt = BASE.replace("HS256", "HS384");
    let loaded =
        parse(&format!("{jwt}secret = [\"hush\", {{ env = \"JWT\" }}]\n")).unwrap_or_else(|f| panic!("{f}"));
    assert_eq!(loaded.warnings[1..], [
        "c.toml:7:11: jwt.secret[0]: stands in the file itself, better: { env = \"NAME\" } or { file = \"path\" }",
        "c.toml:7:11: jwt.secret[0]: 4 bytes, HS384 should have 48 or more (RFC 7518, 3.2)",
        "c.toml:7:19: jwt.secret[1]: 32 bytes, HS384 should have 48 or more (RFC 7518, 3.2)",
    ]);
}

#[test]
fn no_secret_is_ever_shown() {
    let text = format!("{BASE}secret = \"hush\"\n[store]\nredis = \"redis://:hush@h\"\n[[event]]\npath = \"/e\"\nsecret = \"hush\"\nbump = \"n\"\n");
    let loaded = parse(&text).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(!format!("{loaded:?}").contains("hush"), "{loaded:?}");
    let sentinel = text.replace("redis://:hush@h", "redis+sentinel://:hush@h/m");
    assert!(!format!("{:?}", parse(&sentinel)).contains("hush"));
    for broken in [
        text.replace("redis://:hush@h", "redis//:hush@h"),
        text.replace("redis://:hush@h", "redis+sentinel://:hush@h"),
        text.replace("http://127.0.0.1:5000", "http://u:hush@h"),
        text.replace("secret = \"hush\"\n[store]", "secret = \"hush\njwks = 5\n[store]"),
        text.replace("secret = \"hush\"\n[store]", "secret = [\"hush\", 5]\n[store]"),
        text.replace("secret = \"hush\"\n[store]", "secret = hush\n[store]"),
        text.replace("\"hush\"\nbump", "\"whsec_hush!\"\nbump"),
    ] {
        let faults = parse(&broken).expect_err("broken");
        assert!(!format!("{faults} {faults:?}").contains("hush"), "{faults}");
    }
}

/// The keys in the first column of the tables below the heading `title` of the document.
fn documented(title: &str) -> Vec<&'static str> {
    let mut sections = DOCUMENT.split("\n## ").skip(1);
    let section = sections.find(|section| section.lines().next() == Some(title));
    let section = section.unwrap_or_else(|| panic!("docs/configuration.md has no section {title}"));
    section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
}

#[test]
fn the_document_has_every_key_and_no_other() {
    for (title, keys) in super::file::raw::TABLES {
        let mut documented = documented(title);
        let mut keys = keys.to_vec();
        documented.sort_unstable();
        keys.sort_unstable();
        assert_eq!(documented, keys, "{title}");
    }
}

#[test]
fn the_document_has_every_variable_and_no_other() {
    let known: Vec<_> = Variable::ALL.iter().map(|variable| format!("${}", variable.name())).collect();
    assert_eq!(documented("Variables"), known);
}

proptest! {
    /// A person edits a good file: whatever comes of it is accepted or told, and never panics.
    #[test]
    fn a_damaged_file_is_accepted_or_told(
        position in 0..PRODUCTION.len(),
        length in 0..40usize,
        put_in in "[a-z\\[\\]{}=\",.\n#0-9'é]{0,4}",
    ) {
        let end = (position + length).min(PRODUCTION.len());
        let text = format!(
            "{}{put_in}{}",
            String::from_utf8_lossy(&PRODUCTION.as_bytes()[..position]),
            String::from_utf8_lossy(&PRODUCTION.as_bytes()[end..])
        );
        if let Err(faults) = parse(&text) {
            prop_assert!(!faults.list().is_empty());
            let lines = text.lines().count().max(1) + 1;
            prop_assert!(faults.list().iter().all(|fault| (1..=lines).contains(&fault.line)), "{faults}");
        }
    }

    #[test]
    fn any_text_is_accepted_or_told(text in ".{0,200}") {
        if let Err(faults) = parse(&text) {
            prop_assert!(!faults.list().is_empty());
        }
    }
}
