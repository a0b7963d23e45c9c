//! Files, and what is said about them.

use super::*;
use proptest::prelude::*;

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

fn parse(text: &str) -> Result<Loaded, Faults> {
    Config::parse(text, "c.toml", &environment)
}

fn faults(text: &str) -> Vec<String> {
    let lines = parse(text).map(|_| String::new()).unwrap_or_else(|faults| faults.to_string());
    lines.lines().map(|line| line.strip_prefix("c.toml:").expect("the file's name").to_owned()).collect()
}

/// What is said about the base followed by `text`, whose first line is line 8.
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

/// What is said about a route to the only origin, on line 8, with more keys from line 11 on.
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
    assert_eq!(config.admin.map(|admin| admin.to_string()).as_deref(), Some("127.0.0.1:9180"));
    assert!(config.store.redis.is_none());
    let names: Vec<_> = config.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["api_widgets_kpi", "api_widgets_chart", "api_widgets_recent", "socket.io_any", "any"]);
    let CacheMode::Versioned(kpi) = &config.routes[0].cache else { panic!("not cached") };
    assert_eq!((kpi.namespace.as_str(), kpi.scope), ("kpi", Scope::Tenant));
    let seconds = [kpi.ttl, kpi.stale_while_revalidate, kpi.stale_if_error].map(|d| d.as_secs());
    assert_eq!(seconds, [20, 10, 600]);
    assert_eq!(config.events[0].secrets[0].reveal(), b"demo-only-event-secret-000001");
}

#[test]
fn the_origin_is_followed_as_the_document_says() {
    let follow = |cache: &str| {
        let text = format!("{BASE}{SECRET}[[route]]\npath = \"/x\"\norigin = \"app\"\ncache = {cache}\n");
        let Loaded { config, .. } = parse(&text).unwrap_or_else(|faults| panic!("{faults}"));
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
    let Loaded { config, warnings } = parse(&text).unwrap_or_else(|faults| panic!("{faults}"));
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
    assert_eq!(config.log, Log { format: LogFormat::Auto, access: true });
    let jwt = config.jwt.expect("is there");
    assert_eq!([&jwt.tenant_claim, &jwt.user_claim, &jwt.role_claim], ["tenant", "sub", "role"]);
    assert!(jwt.audience.is_empty() && jwt.issuer.is_empty() && jwt.leeway.is_zero());
    let origin = &config.origins[0];
    assert_eq!((origin.connect_timeout.as_secs(), origin.read_timeout.as_secs(), origin.retries), (2, 30, 2));
    let route = &config.routes[0];
    assert_eq!((route.auth, route.token_query, route.max_body), (Auth::Optional, false, 10 << 20));
    assert!(route.methods.is_empty() && route.host.is_none() && route.websocket.is_none());
    let CacheMode::Versioned(rules) = &route.cache else { panic!("not cached") };
    assert_eq!((rules.scope, rules.max_size, rules.fill_timeout.as_secs()), (Scope::Public, 1 << 20, 30));
    assert!(rules.stale_while_revalidate.is_zero() && rules.stale_if_error.is_zero());
    assert!(rules.negative_ttl.is_zero() && rules.cache_control.is_none() && rules.query.is_empty());
    let event = &config.events[0];
    assert_eq!((event.rate, event.max_body, event.forward), (100, 64 << 10, None));
    assert_eq!(config.encoding.prefer, [Coding::Brotli, Coding::Zstd, Coding::Gzip]);
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
        "1:1: a: unknown key, known: server, listener, admin, log, store, jwt, origin, route, event, encoding, headers, accel",
        "2:1: duplicate key",
    ]);
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
        ("server = 5", &["8:1: jwt.server: unknown key, known: algorithms, secret, jwks, tenant_claim, user_claim, role_claim, audience, issuer, leeway"]),
        ("[[server]]", &["8:1: server: must be a table, not a list"]),
        ("[route]\npath = \"/\"", &["8:1: route: must be a list of tables, each under [[route]]"]),
        ("[admin]", &["8:1: admin.address: missing"]),
        ("[admin]\naddress = \"127.0.0.1:80\"", &["9:11: admin.address: the same address as listener[0]"]),
        ("[log]\nformat = \"txt\"", &["9:10: log.format: unknown value \"txt\", did you mean \"text\"?"]),
        ("[log]\nformat = \"xml\"", &["9:10: log.format: unknown value \"xml\", known: auto, text, json"]),
        ("[log]\naccess = \"yes\"", &["9:10: log.access: must be true or false, not text"]),
        ("[log]\n\"for\\nmat\" = 1", &["9:1: log.\"for\\nmat\": unknown key, did you mean \"format\"?"]),
        ("[store]\nmemory = 0", &["9:10: store.memory: must be more than 0"]),
        ("[store]\nmemory = -5", &["9:10: store.memory: must not be negative, and must be less than 16 EiB"]),
        ("[store]\nmemory = \"1.5GiB\"", &["9:10: store.memory: must be a whole number with a unit (B, kB, MB, GB, KiB, MiB, GiB), such as \"256MiB\""]),
        ("[store]\nprefix = \"a b\"", &["9:10: store.prefix: must be at most 64 printable ASCII characters, none of them a space"]),
        ("[store]\nlease = \"50ms\"", &["9:9: store.lease: must be longer than deadline: it is renewed by calls that may take as long as that"]),
        ("[store]\nredis = \"10.0.0.1\"", &["9:9: store.redis: must be redis://host:port/db, rediss://…, unix:///path or redis+sentinel://…"]),
        ("[store]\nredis = [\"unix:///x\"]", &["9:10: store.redis[0]: a cluster's nodes must be redis:// or rediss:// URLs"]),
        ("[store]\nredis = []", &["9:9: store.redis: must hold at least one"]),
        ("[store]\nredis = \"redis+sentinel://a:1/m/x\"", &["9:9: store.redis: the database must be a number"]),
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
        ("[[origin]]\nname = \"b\"\nservers = \"http://b:1\"\ntls = { server_name = \"b\" }", &["11:7: origin[1].tls: is for https servers, and there is none"]),
        ("[[origin]]\nname = \"b\"\nservers = [\"https://a_b.example.com\", \"https://a.b\"]\ntls = { cert = \"/nowhere/c\", ca = \"/nowhere/a\" }", &["11:7: origin[1].tls.key: missing, cert needs it", "11:35: origin[1].tls.ca: can't read \"/nowhere/a\": No such file or directory (os error 2)"]),
        ("[[origin]]\nname = \"b\"\nservers = [\"https://a_b.example.com\"]", &["10:12: origin[1].servers[0]: no certificate can be verified for this name: tls.server_name may give another"]),
        ("[[origin]]\nname = \"b\"\nservers = \"https://b\"\ntls = { server_name = \"a b\" }", &["11:23: origin[1].tls.server_name: no certificate can be verified for this name: tls.server_name may give another"]),
        ("[encoding]\ntypes = [\"text/*\", \"text\"]", &["9:10: encoding.types[0]: must be a media type without parameters, such as \"application/json\"", "9:20: encoding.types[1]: must be a media type without parameters, such as \"application/json\""]),
        ("[encoding]\nprefer = [\"br\", \"brotli\"]", &["9:17: encoding.prefer[1]: unknown value \"brotli\", known: br, zstd, gzip"]),
        ("[encoding]\nprefer = [\"br\", \"br\"]", &["9:17: encoding.prefer[1]: stands there twice"]),
        ("[encoding]\nlevels = { br = 12, gzip = 0 }", &["9:17: encoding.levels.br: must be from 0 to 11", "9:28: encoding.levels.gzip: must be from 1 to 9"]),
    ];
    for (text, expected) in table {
        assert_eq!(after_base(text), *expected, "{text}");
    }
}

/// An origin with these lines besides its name, in place of the one of the base.
fn origin(lines: &str) -> Result<Loaded, Faults> {
    let text = BASE.replace("servers = \"http://127.0.0.1:5000\"", lines);
    parse(&format!("{text}{SECRET}[[route]]\npath = \"/x\"\norigin = \"app\"\n"))
}

#[test]
fn origins_are_what_the_document_says() {
    let plain = origin("servers = \"http://127.0.0.1:5000\"").unwrap_or_else(|f| panic!("{f}")).config;
    let defaults = vec![OriginServer::at(false, "127.0.0.1", 5000)];
    assert_eq!(plain.origins[0], Origin::with_defaults("app".parse().expect("a name"), defaults));
    let all = "servers = [\"http://a:1\", { url = \"https://b\", weight = 3 }, \"unix:/run/app.sock\"]\n\
        balance = { hash = \"tenant\" }\nsticky = { query = \"sid\", cookie = \"app\", secret = { env = \"JWT\" } }\n\
        http2 = true\ntls = { server_name = \"B.example.com\" }\nmax_connections = 5\nqueue = 7\n\
        queue_timeout = \"1s\"\nrequest_timeout = \"9s\"\nidle_timeout = \"8s\"";
    let Loaded { config, warnings } = origin(all).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(warnings, Vec::<String>::new());
    let app = &config.origins[0];
    let servers: Vec<_> = app.servers.iter().map(|s| (s.address.to_string(), s.weight)).collect();
    let wanted = [("http://a:1", 1), ("https://b:443", 3), ("unix:/run/app.sock", 1)];
    assert_eq!(servers, wanted.map(|(url, weight)| (url.to_owned(), weight)));
    assert_eq!((app.balance, app.http2), (Balance::Hash(HashBy::Tenant), true));
    let sticky = app.sticky.as_ref().expect("is there");
    assert_eq!((sticky.query.as_deref(), sticky.cookie.as_deref()), (Some("sid"), Some("app")));
    assert_eq!(sticky.secret.as_ref().map(Secret::reveal), Some(LONG.as_bytes()));
    assert_eq!(app.tls.server_name.as_deref(), Some("b.example.com"));
    assert_eq!((app.max_connections.map(u32::from), app.queue), (Some(5), 7));
    let times = [Some(app.queue_timeout), app.request_timeout, Some(app.idle_timeout)];
    assert_eq!(times.map(|t| t.map(|t| t.as_secs())), [Some(1), Some(9), Some(8)]);
    let unused = origin("servers = \"http://a:1\"\nqueue = 7").unwrap_or_else(|faults| panic!("{faults}"));
    let told = "c.toml:5:9: origin[0].queue: has no effect without max_connections: nobody waits";
    assert_eq!(unused.warnings, [told]);
}

#[test]
fn certificates_are_read_with_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("is written");
        path.display().to_string()
    };
    let made = || rcgen::generate_simple_self_signed(["b".to_owned()]).expect("is made");
    let (one, two) = (made(), made());
    let (cert, key) = (file("cert", &one.cert.pem()), file("key", &one.signing_key.serialize_pem()));
    let other = file("other", &two.signing_key.serialize_pem());
    let empty = file("empty", "no PEM at all\n");
    let with = |tls: &str| origin(&format!("servers = \"https://b\"\ntls = {{ {tls} }}"));
    let good = with(&format!("ca = {cert:?}, cert = {cert:?}, key = {key:?}"));
    let tls = good.unwrap_or_else(|faults| panic!("{faults}")).config.origins[0].tls.clone();
    let der = one.cert.der().to_vec();
    assert_eq!(tls.ca.len(), 1);
    assert_eq!(tls.ca[0], der);
    let own = tls.identity.expect("is there");
    assert_eq!((own.chain, own.key.reveal()), (vec![der], &one.signing_key.serialize_der()[..]));
    for (tls, complaint) in [
        (format!("ca = {empty:?}"), "holds no certificate, or one that can't be read"),
        (format!("ca = {key:?}"), "holds no certificate, or one that can't be read"),
        (format!("cert = {cert:?}, key = {other:?}"), "does not go with"),
        (format!("cert = {cert:?}, key = {cert:?}"), "holds no private key in PEM"),
        (format!("key = {key:?}"), "missing, key needs it"),
    ] {
        let faults = with(&tls).expect_err("is faulty").to_string();
        assert!(faults.contains(complaint), "{tls}: {faults}");
        assert_eq!(faults.lines().count(), 1, "{faults}");
    }
}

#[test]
fn keys_of_tokens_must_fit_their_algorithms() {
    let jwt = |rest: &str| faults(&BASE.replace("algorithms = [\"HS256\"]", rest));
    let table: &[(&str, &[&str])] = &[
        ("", &["5:1: jwt.algorithms: missing", "5:1: jwt: needs secret or jwks"]),
        ("algorithms = []\nsecret = { env = \"JWT\" }", &["6:14: jwt.algorithms: must hold at least one"]),
        ("algorithms = [\"none\"]\nsecret = { env = \"JWT\" }", &["6:15: jwt.algorithms[0]: unknown value \"none\", known: HS256, HS384, HS512, RS256, RS384, RS512, PS256, ES256, ES384, EdDSA"]),
        ("algorithms = [\"HS256\", \"RS256\"]\nsecret = { env = \"JWT\" }", &["6:14: jwt.algorithms: HS* must not be mixed with the others: its keys are secrets, theirs public"]),
        ("algorithms = [\"RS256\"]\nsecret = { env = \"JWT\" }", &["6:14: jwt.algorithms: with secret only HS256, HS384 and HS512 can be used, the others need jwks"]),
        ("algorithms = [\"HS512\"]\njwks = { url = \"https://a/\" }", &["7:8: jwt.jwks: holds public keys, HS256, HS384 and HS512 need secret"]),
        ("algorithms = [\"ES256\"]\njwks = { url = \"https://a/\" }\nsecret = { env = \"JWT\" }", &["5:1: jwt: secret and jwks exclude each other"]),
        ("algorithms = [\"ES256\"]\njwks = { url = \"ftp://a/\", refresh = \"0s\" }", &["7:16: jwt.jwks.url: must be an http:// or https:// URL with a host", "7:38: jwt.jwks.refresh: must be more than 0"]),
        ("algorithms = [\"ES256\"]\njwks = { }", &["7:8: jwt.jwks: must have either file or url"]),
        ("algorithms = [\"ES256\"]\njwks = { file = \"/nowhere/k\", refresh = \"1m\" }", &["7:17: jwt.jwks.file: can't read \"/nowhere/k\": No such file or directory (os error 2)", "7:41: jwt.jwks.refresh: belongs to url, a file is re-read when it changes"]),
        ("algorithms = [\"HS256\"]\nsecret = []", &["7:10: jwt.secret: must hold at least one"]),
        ("algorithms = [\"HS256\"]\nsecret = [{ env = \"JWT\" }, { env = \"EMPTY\" }, { }, { file = \"/nowhere/s\" }]", &["7:36: jwt.secret[1].env: the environment variable \"EMPTY\" is empty", "7:47: jwt.secret[2]: must have either env or file", "7:61: jwt.secret[3].file: can't read \"/nowhere/s\": No such file or directory (os error 2)"]),
        ("algorithms = [\"HS256\"]\nsecret = { env = \"JWT\", fil = \"x\" }", &["7:25: jwt.secret.fil: unknown key, did you mean \"file\"?"]),
        ("algorithms = \"HS256\"\nsecret = 5", &["6:14: jwt.algorithms: must be a list, not text", "7:10: jwt.secret: must be { env = \"NAME\" }, { file = \"path\" } or text, not an integer"]),
    ];
    for (text, expected) in table {
        assert_eq!(jwt(text), *expected, "{text}");
    }
}

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
        ("cache = { follow = \"it\", ttl = \"1s\" }", &["11:20: route[0].cache.follow: unknown value \"it\", known: origin", "11:26: route[0].cache.ttl: unknown key, known: follow, request_directives, heuristic, set_cookie, stale_while_revalidate, stale_if_error, max_size, fill_timeout, redis"]),
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
    // Who sends nothing but files asks nobody.
    let alone =
        "listener = [{ address = \"127.0.0.1:80\" }]\n[[route]]\npath = \"/*\"\nfiles = { root = \".\" }\n";
    let config = parse(alone).unwrap_or_else(|faults| panic!("{faults}")).config;
    assert!(config.origins.is_empty());
    let Target::Files(files) = &config.routes[0].target else { panic!("no files") };
    assert_eq!((files.index.as_str(), files.cache_control.to_str().unwrap()), ("index.html", "no-cache"));
    assert!(files.precompressed && !files.symlinks && !files.hidden);
    assert!(matches!(files.immutable, Immutable::Nothing));
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
    let Loaded { config, warnings } = parse(&text).unwrap_or_else(|faults| panic!("{faults}"));
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
    let Loaded { config, warnings } =
        parse(&format!("{BASE}{SECRET}{text}")).unwrap_or_else(|faults| panic!("{faults}"));
    let networks: Vec<_> = config.server.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "2001:db8::1/128", "::/0"]);
    let expected =
        "c.toml:9:49: server.trusted_proxies[2]: holds every address: whoever connects says who he is";
    assert!(warnings.iter().any(|warning| warning == expected), "{warnings:?}");
    assert!(parse(&format!("{BASE}{SECRET}")).is_ok_and(|l| l.config.server.trusted_proxies.is_empty()));
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
    let Err(ConfigError::Read { .. }) = Config::load(&directory.path().join("none.toml")) else {
        panic!("read")
    };

    let text = format!("{BASE}{SECRET}[[event]]\npath = \"/e\"\nsecret = {{ env = \"ENCODED\" }}\nbump = \"n\"\n[store]\nredis = {{ env = \"REDIS\" }}\n");
    let config = parse(&text).unwrap_or_else(|faults| panic!("{faults}")).config;
    assert_eq!(config.events[0].secrets, [Secret::new(LONG)]);
    assert!(matches!(config.store.redis, Some(Redis::Single(url)) if url.ends_with("/2")));
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
        "9:11: admin.address: not a loopback address: whoever reaches it reads the metrics, without a token",
        "11:9: store.redis: its password stands in the file itself, better: { env = \"NAME\" } or { file = \"path\" }",
    ]);
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
    for (title, keys) in raw::TABLES {
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
