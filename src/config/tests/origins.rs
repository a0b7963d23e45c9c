//! Origins, and the certificates and keys that are read with the file.

use super::*;

/// An origin with these lines besides its name, in place of the one of the base.
fn origin(lines: &str) -> Result<LoadedConfig, ConfigFaults> {
    let text = BASE.replace("servers = \"http://127.0.0.1:5000\"", lines);
    parse(&format!("{text}{SECRET}[[route]]\npath = \"/x\"\norigin = \"app\"\n"))
}

#[test]
fn origins_are_what_the_document_says() {
    let plain = origin("servers = \"http://127.0.0.1:5000\"").unwrap_or_else(|f| panic!("{f}")).config;
    let defaults = vec![ServerEntry::at(false, "127.0.0.1", 5000)];
    assert_eq!(plain.origins[0], OriginConfig::with_defaults("app".parse().expect("a name"), defaults));
    let all = "servers = [\"http://a:1\", { url = \"https://b\", weight = 3 }, \"unix:/run/app.sock\"]\n\
        balance = { hash = \"tenant\" }\nsticky = { query = \"sid\", cookie = \"app\", secret = { env = \"JWT\" } }\n\
        http2 = true\ntls = { server_name = \"B.example.com\" }\nmax_connections = 5\nqueue = 7\n\
        queue_timeout = \"1s\"\nrequest_timeout = \"9s\"\nidle_timeout = \"8s\"\n\
        receive_buffer = \"1MiB\"\npanic_mode = false";
    let LoadedConfig { config, warnings, .. } = origin(all).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(warnings, Vec::<String>::new());
    let app = &config.origins[0];
    let servers: Vec<_> = app.servers.iter().map(|s| (s.address.to_string(), s.weight)).collect();
    let wanted = [("http://a:1", 1), ("https://b:443", 3), ("unix:/run/app.sock", 1)];
    assert_eq!(servers, wanted.map(|(url, weight)| (url.to_owned(), weight)));
    assert_eq!((app.balance, app.http2), (BalanceMethod::Hash(HashBy::Tenant), true));
    let sticky = app.sticky.as_ref().expect("is there");
    assert_eq!((sticky.query.as_deref(), sticky.cookie.as_deref()), (Some("sid"), Some("app")));
    assert_eq!(sticky.secret.as_ref().map(Secret::reveal), Some(LONG.as_bytes()));
    assert_eq!(app.tls.server_name.as_deref(), Some("b.example.com"));
    assert_eq!((app.max_connections.map(u32::from), app.queue), (Some(5), 7));
    assert_eq!(app.receive_buffer, Some(1 << 20));
    assert!(!app.panic_mode);
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
    let marked = file("marked", &format!("\u{feff}{}", one.cert.pem()));
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
        (format!("ca = {marked:?}"), "has a byte order mark (U+FEFF) in line 1"),
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
fn cookies_of_two_origins_have_two_names() {
    let other = |name: &str| {
        format!(
            "servers = \"http://a:1\"\nsticky = {{ cookie = \"app\" }}\n[[origin]]\nname = \"other\"\n\
             servers = \"http://b:1\"\nsticky = {{ cookie = \"{name}\" }}"
        )
    };
    assert!(origin(&other("another")).is_ok());
    let faults = origin(&other("app")).err().map(|faults| faults.to_string());
    let text = "origin[1].sticky.cookie: another origin has a cookie of this name";
    assert!(faults.as_ref().is_some_and(|faults| faults.contains(text)), "{faults:?}");
}
