//! Tokens signed by somebody else: key sets from a URL and from a file, while they rotate.

use crate::support::{
    client::{send, Reply},
    gateway::{token, JWT_SECRET, KPI},
    tls::{of_http2, Http2},
    *,
};
use base64::{prelude::BASE64_URL_SAFE_NO_PAD, Engine};
use bytes::Bytes;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{json, Value};
use std::time::Duration;
use tokio::net::TcpStream;

const PATH: &str = "/api/widgets/kpi";

/// An Ed25519 key made for these tests: its id, private part and public part.
struct Key {
    id: &'static str,
    private: &'static str,
    public: &'static str,
}

const OLD: Key = Key {
    id: "old",
    private: "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIP0LnKrGzlPbtZDNrwGfPwYkYYdSz8U95t4atMHAHWWL\n-----END PRIVATE KEY-----\n",
    public: "qWBo2HKUlsH4fKUKfTGRHcq3tTWnofzp3VEYn8sbOrw",
};
const NEW: Key = Key {
    id: "new",
    private: "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIO/eNGe4kf/0MQLD8raDFkl74D8iloGus3cXZSa0Fkme\n-----END PRIVATE KEY-----\n",
    public: "Z_vsqv4AKqMDDtfCxRpohILhr529b2xwAui1FZm7mWg",
};

impl Key {
    fn token(&self) -> String {
        self.token_named(Some(self.id))
    }

    /// A token that says that this key signed it.
    fn token_named(&self, kid: Option<&str>) -> String {
        let claims = json!({ "tenant": "acme", "sub": "alice", "exp": now_ms() / 1000 + 600 });
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::EdDSA) };
        let key = EncodingKey::from_ed_pem(self.private.as_bytes()).unwrap();
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    }
}

fn set(keys: &[&Key]) -> serde_json::Value {
    let key =
        |k: &&Key| json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": k.id, "x": k.public });
    json!({ "keys": keys.iter().map(key).collect::<Vec<_>>() })
}

async fn status(gateway: &Gateway, key: &Key) -> u16 {
    send(gateway.request("GET", PATH).bearer_auth(key.token())).await.status.as_u16()
}

#[tokio::test]
async fn a_key_set_from_a_url_rotates_and_a_bad_one_changes_nothing() {
    let (origin, issuer) = (TestOrigin::start().await, TestOrigin::start().await);
    issuer.on("/keys.json", |_| Answer::json(&set(&[&OLD])));
    let place = format!("url = \"{}/keys.json\", refresh = \"50ms\"", issuer.url());
    let gateway = Gateway::with(&origin).jwks("EdDSA", &place).route(PATH, KPI).start().await;
    assert_eq!(status(&gateway, &OLD).await, 200);

    issuer.on("/keys.json", |_| Answer::json(&set(&[&OLD, &NEW])));
    until("the new key is known", SOON, || async { status(&gateway, &NEW).await == 200 }).await;
    assert_eq!(status(&gateway, &OLD).await, 200);

    issuer.on("/keys.json", |_| Answer::json(&set(&[&NEW])));
    until("the old key is forgotten", SOON, || async { status(&gateway, &OLD).await == 401 }).await;

    for bad in ["not json", "{\"keys\": {}}", ""] {
        issuer.on("/keys.json", move |_| Answer::new("application/json", bad));
        let asked = issuer.count("/keys.json");
        until("the bad set was fetched", SOON, || async { issuer.count("/keys.json") > asked + 1 }).await;
        assert_eq!(status(&gateway, &NEW).await, 200, "after {bad}");
    }
}

/// An issuer that takes its keys back says it with a set that holds none, or none of the kind that is accepted.
#[tokio::test]
async fn a_key_set_without_a_usable_key_revokes_the_keys() {
    let (origin, issuer) = (TestOrigin::start().await, TestOrigin::start().await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let publish = |text: String| {
        std::fs::write(folder.path().join("new.json"), &text).unwrap();
        std::fs::rename(folder.path().join("new.json"), &file).unwrap();
        issuer.on("/keys.json", move |_| Answer::new("application/json", text.clone()));
    };
    let url = format!("url = \"{}/keys.json\", refresh = \"50ms\"", issuer.url());
    let empty = json!({ "keys": [] });
    let other_kind = json!({ "keys": [{ "kty": "oct", "k": "AAAA", "kid": "old" }] });
    for (place, revoking) in
        [(&url, &empty), (&url, &other_kind), (&format!("file = {:?}", file.to_str().unwrap()), &empty)]
    {
        publish(set(&[&OLD]).to_string());
        let gateway = Gateway::with(&origin).jwks("EdDSA", place).route(PATH, KPI).start().await;
        get(&gateway, PATH, &OLD.token()).await.ok();
        publish(revoking.to_string());
        until("the key is revoked", SOON, || async { status(&gateway, &OLD).await == 401 }).await;
        let refused = get(&gateway, PATH, &OLD.token()).await.problem(401);
        assert_eq!(detail(&refused), "token_no_key", "{place}: {revoking}");
        let told = reasons(&gateway).await;
        assert!(told.iter().any(|reason| reason.contains("no usable key")), "{place}: {told:?}");
        gateway.says("the key set has no usable key").await;
        publish(set(&[&OLD]).to_string());
        until("the key is back", SOON, || async { status(&gateway, &OLD).await == 200 }).await;
        assert_eq!(reasons(&gateway).await, Vec::<String>::new(), "{place}");
    }
}

#[tokio::test]
async fn a_key_set_from_a_file_is_read_again() {
    let origin = TestOrigin::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, set(&[&OLD]).to_string()).unwrap();
    let place = format!("file = {:?}", file.to_str().unwrap());
    let gateway = Gateway::with(&origin).jwks("EdDSA", &place).route(PATH, KPI).start().await;
    assert_eq!(status(&gateway, &OLD).await, 200);
    std::fs::write(&file, set(&[&NEW]).to_string()).unwrap();
    // The unknown key has it read at once.
    assert_eq!(status(&gateway, &NEW).await, 200);
    assert_eq!(status(&gateway, &OLD).await, 401);
}

/// Routes of each kind, which all need a token.
const KINDS: [(&str, &str); 4] = [
    ("/versioned", "auth = \"required\"\ncache = { namespace = \"kpi\", scope = \"user\", ttl = \"60s\" }"),
    ("/followed", "auth = \"required\"\ncache = \"origin\""),
    ("/passed", "auth = \"required\""),
    ("/optional", ""),
];

async fn get(gateway: &Gateway, path: &str, token: &str) -> Reply {
    send(gateway.request("GET", path).bearer_auth(token)).await
}

/// A listener that knows HTTP/2.
const HTTP2: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";

/// GET by HTTP/1.1 and by HTTP/2: who asks is the same by either. The answer to the second.
async fn get_by_both(gateway: &Gateway, path: &str, token: &str) -> Reply {
    let first = get(gateway, path, token).await;
    let stream = TcpStream::connect(gateway.listeners(2).await[1]).await.unwrap();
    let mut request = of_http2("GET", "a", path, Bytes::new());
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let second = Http2::over(stream).await.send(request).await.unwrap();
    let said = |reply: &Reply| {
        let who = (reply.status == 200).then(|| {
            let told = reply.json();
            ["tenant", "user", "role"].map(|claim| told[claim].clone())
        });
        (reply.status, who, detail(reply).to_owned(), reply.header("www-authenticate").to_owned())
    };
    let (by_http1, by_http2) = (said(&first), said(&second));
    assert_eq!((&by_http1.0, &by_http1.1, &by_http1.3), (&by_http2.0, &by_http2.1, &by_http2.3), "{path}");
    if first.status != 200 {
        assert_eq!(by_http1.2, by_http2.2, "{path}");
    }
    second
}

/// The reasons on `/readyz`.
async fn reasons(gateway: &Gateway) -> Vec<String> {
    let reply = send(gateway.client().get(gateway.admin_url("/readyz"))).await.ok().json();
    reply["reasons"].as_array().unwrap().iter().map(|reason| reason.as_str().unwrap().to_owned()).collect()
}

/// The word that tells why, of `Cache-Status`.
fn detail(reply: &Reply) -> &str {
    reply.cache_status().split("detail=").nth(1).unwrap_or_default()
}

#[tokio::test]
async fn a_key_that_is_not_known_has_the_set_fetched_at_once() {
    let (origin, issuer) = (TestOrigin::start().await, TestOrigin::start().await);
    for (path, lines) in KINDS {
        issuer.on("/keys.json", |_| Answer::json(&set(&[&OLD])));
        issuer.forget();
        let place = format!("url = \"{}/keys.json\", refresh = \"1h\"", issuer.url());
        let gateway = Gateway::with(&origin).jwks("EdDSA", &place).route(path, lines).start().await;
        assert_eq!(get(&gateway, path, &OLD.token()).await.status, 200, "{path}");
        issuer.on("/keys.json", |_| Answer::json(&set(&[&NEW])).after(Duration::from_millis(50)));
        // All who sign in at that moment, and they share one request.
        let token = NEW.token();
        let asked = (0..8).map(|_| get(&gateway, path, &token));
        for reply in futures_util::future::join_all(asked).await {
            assert_eq!(reply.ok().json()["tenant"], "acme", "{path}");
        }
        assert_eq!(issuer.count("/keys.json"), 2, "{path}");
    }
}

#[tokio::test]
async fn issuers_who_name_no_keys_rotate_as_well() {
    let (origin, issuer) = (TestOrigin::start().await, TestOrigin::start().await);
    let nameless = |key: &Key| {
        let mut set = set(&[key]);
        set["keys"][0].as_object_mut().unwrap().remove("kid");
        set
    };
    let (old, new) = (nameless(&OLD), nameless(&NEW));
    issuer.on("/keys.json", move |_| Answer::json(&old));
    let place = format!("url = \"{}/keys.json\", refresh = \"1h\"", issuer.url());
    let gateway = Gateway::with(&origin).jwks("EdDSA", &place).route(PATH, KPI).start().await;
    get(&gateway, PATH, &OLD.token_named(None)).await.ok();
    issuer.on("/keys.json", move |_| Answer::json(&new));
    get(&gateway, PATH, &NEW.token_named(None)).await.ok();
}

#[tokio::test]
async fn invented_keys_have_the_set_fetched_seldom_and_keep_nobody_waiting() {
    let (origin, issuer) = (TestOrigin::start().await, TestOrigin::start().await);
    issuer.on("/keys.json", |_| Answer::json(&set(&[&OLD])));
    let place = format!("url = \"{}/keys.json\", refresh = \"1h\"", issuer.url());
    let gateway = Gateway::with(&origin).jwks("EdDSA", &place).route(PATH, KPI).start().await;
    for number in 0..200 {
        let invented = NEW.token_named(Some(&format!("invented-{number}")));
        let reply = get(&gateway, PATH, &invented).await.problem(401);
        assert_eq!(detail(&reply), "token_no_key");
    }
    assert!(issuer.count("/keys.json") <= 3, "{} requests", issuer.count("/keys.json"));
    assert_eq!(status(&gateway, &OLD).await, 200);
    // Who signs in while this goes on waits for the end of the pause at most.
    issuer.on("/keys.json", |_| Answer::json(&set(&[&NEW])));
    until("the new key is known", SOON, || async { status(&gateway, &NEW).await == 200 }).await;
}

#[tokio::test]
async fn redirects_of_a_key_set_are_followed() {
    let (origin, issuer, store) =
        (TestOrigin::start().await, TestOrigin::start().await, TestOrigin::start().await);
    let to = |status: u16, location: &str| {
        Answer::new("text/plain", "elsewhere").status(status).header("location", location)
    };
    let far = format!("{}/far.json?v=1", store.url());
    store.on("/far.json", |_| Answer::json(&set(&[&OLD])));
    issuer.on("/near.json", |_| Answer::json(&set(&[&OLD])));
    issuer.on("/two", move |_| to(301, "/one"));
    for (status, location) in [(301, "/near.json"), (302, "near.json"), (303, &far), (307, &far), (308, &far)]
    {
        let owned = location.to_owned();
        issuer.on("/one", move |_| to(status, &owned));
        let place = format!("url = \"{}/two\"", issuer.url());
        let gateway = Gateway::with(&origin).jwks("EdDSA", &place).route(PATH, KPI).start().await;
        let reply = get(&gateway, PATH, &OLD.token()).await;
        assert_eq!(reply.status, 200, "{status} {location}: {reply:?}");
    }
    assert_eq!(store.seen("/far.json")[0].query.as_deref(), Some("v=1"));
    for location in ["/one", "ftp://127.0.0.1/keys", "http://", "file:///etc/passwd"] {
        let owned = location.to_owned();
        issuer.on("/one", move |_| to(302, &owned));
        let place = format!("url = \"{}/one\"", issuer.url());
        let gateway = Gateway::with(&origin).jwks("EdDSA", &place).route(PATH, KPI).start().await;
        let reply = get(&gateway, PATH, &OLD.token()).await.problem(401);
        assert_eq!(detail(&reply), "token_no_key", "{location}");
        gateway.says("the key set was not fetched").await;
    }
}

#[tokio::test]
async fn keys_are_believed_for_a_time_after_their_set_was_read() {
    let (origin, mut issuer) = (TestOrigin::start().await, TestOrigin::start().await);
    issuer.on("/keys.json", |_| Answer::json(&set(&[&OLD])));
    let place = format!("url = \"{}/keys.json\", refresh = \"100ms\", max_age = \"1s\"", issuer.url());
    let gateway = Gateway::with(&origin).jwks("EdDSA", &place).route(PATH, KPI).start().await;
    get(&gateway, PATH, &OLD.token()).await.ok();
    assert_eq!(reasons(&gateway).await, Vec::<String>::new());
    issuer.kill();
    let told = async |words: &str| reasons(&gateway).await.iter().any(|reason| reason.contains(words));
    until("the reason is told", SOON, || told("the key set can't be read")).await;
    until("the keys are too old", SOON, || async {
        let reply = get(&gateway, PATH, &OLD.token()).await;
        reply.status == 401 && detail(&reply) == "token_old_keys"
    })
    .await;
    assert!(told("tokens are refused").await);
    issuer.restart().await;
    until("the keys are read again", SOON, || async { status(&gateway, &OLD).await == 200 }).await;
    assert_eq!(reasons(&gateway).await, Vec::<String>::new());
}

#[tokio::test]
async fn another_configuration_keeps_the_keys_while_the_issuer_is_away() {
    let (origin, mut issuer) = (TestOrigin::start().await, TestOrigin::start().await);
    issuer.on("/keys.json", |_| Answer::json(&set(&[&OLD])));
    let place = format!("url = \"{}/keys.json\", refresh = \"1h\"", issuer.url());
    let builder = Gateway::with(&origin).jwks("EdDSA", &place).route(PATH, KPI);
    let gateway = builder.start().await;
    get(&gateway, PATH, &OLD.token()).await.ok();
    issuer.kill();
    assert!(gateway.reload(&builder.jwt("leeway = \"5s\"")).await);
    get(&gateway, PATH, &OLD.token()).await.ok();
}

/// A token of the shared secret with these claims; it is good for a while where they say nothing of that.
fn with_claims(claims: &Value) -> String {
    let mut all = json!({ "exp": now_ms() / 1_000 + 600 });
    for (name, value) in claims.as_object().unwrap() {
        all[name] = value.clone();
    }
    let key = EncodingKey::from_secret(JWT_SECRET.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &all, &key).unwrap()
}

#[tokio::test]
async fn a_token_without_a_tenant_passes_where_the_scope_needs_none() {
    let origin = TestOrigin::start().await;
    let scope = |scope| format!("cache = {{ namespace = \"{scope}\", scope = \"{scope}\", ttl = \"60s\" }}");
    let gateway = Gateway::with(&origin)
        .raw(HTTP2)
        .route("/passed", "auth = \"required\"")
        .route("/followed", "auth = \"required\"\ncache = \"origin\"")
        .route("/public", &format!("auth = \"required\"\n{}", scope("public")))
        .route("/user", &scope("user"))
        .route("/tenant", &scope("tenant"))
        .start()
        .await;
    let token = with_claims(&json!({ "sub": "ann", "email": "ann@example.com" }));
    for (path, tenant, user) in [
        ("/passed", json!(null), json!("ann")),
        ("/followed", json!(null), json!("ann")),
        ("/public", json!("public"), json!(null)),
        ("/user", json!("public"), json!("ann")),
    ] {
        // The second one is a hit where there are any.
        for _ in 0..2 {
            let reply = get_by_both(&gateway, path, &token).await.ok();
            let told = reply.json();
            assert_eq!((&told["tenant"], &told["user"]), (&tenant, &user), "{path}");
        }
    }
    let reply = get_by_both(&gateway, "/tenant", &token).await.problem(401);
    assert_eq!(detail(&reply), "token_no_tenant");
    let reply = get_by_both(&gateway, "/user", &with_claims(&json!({ "tenant": "acme" }))).await.problem(401);
    assert_eq!(detail(&reply), "token_no_user");
    // One user's answers are not another's, whether they have a tenant or not.
    let of_acme = with_claims(&json!({ "sub": "ann", "tenant": "acme" }));
    assert_eq!(get_by_both(&gateway, "/user", &of_acme).await.ok().json()["tenant"], "acme");
    assert_eq!(
        get_by_both(&gateway, "/user", &with_claims(&json!({ "sub": "bob" }))).await.ok().json()["user"],
        "bob"
    );
}

#[tokio::test]
async fn the_tenant_may_lie_deeper_or_be_the_default_one() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).raw(HTTP2)
        .jwt("tenant_claim = \"/org/id\"\nrole_claim = \"/realm_access/roles/0\"\ndefault_tenant = \"everybody\"")
        .route(PATH, KPI)
        .route("/passed", "auth = \"required\"")
        .start()
        .await;
    for (claims, tenant) in [
        (json!({ "org": { "id": "acme" } }), "acme"),
        (json!({ "tenant": "acme" }), "everybody"),
        (json!({ "org": { "id": null } }), "everybody"),
    ] {
        let reply = get_by_both(&gateway, PATH, &with_claims(&claims)).await.ok();
        assert_eq!(reply.json()["tenant"], tenant, "{claims}");
    }
    let malformed = with_claims(&json!({ "org": { "id": "a b" } }));
    assert_eq!(detail(&get_by_both(&gateway, PATH, &malformed).await.problem(401)), "token_tenant");
    let roles = with_claims(&json!({ "realm_access": { "roles": ["admin", "user"] } }));
    assert_eq!(get_by_both(&gateway, "/passed", &roles).await.ok().json()["role"], "admin");
}

#[tokio::test]
async fn each_refusal_of_a_token_says_why() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin)
        .raw(HTTP2)
        .jwt("audience = \"us\"\nissuer = \"idp\"\nmax_token = \"1KiB\"")
        .route(PATH, &format!("auth = \"required\"\n{KPI}"))
        .route("/user", "cache = { namespace = \"u\", scope = \"user\", ttl = \"60s\" }")
        .start()
        .await;
    let now = now_ms() / 1_000;
    let good = json!({ "aud": "us", "iss": "idp", "tenant": "acme", "sub": "ann", "exp": now + 600 });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value,
        }
        let key = EncodingKey::from_secret(JWT_SECRET.as_bytes());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
    };
    let by = |algorithm, secret: &str| {
        jsonwebtoken::encode(&Header::new(algorithm), &good, &EncodingKey::from_secret(secret.as_bytes()))
            .unwrap()
    };
    get_by_both(&gateway, PATH, &with("aud", json!("us"))).await.ok();
    let cases = [
        (PATH, "no.token".to_owned(), "token_malformed"),
        (PATH, by(Algorithm::HS512, JWT_SECRET), "token_algorithm"),
        (PATH, by(Algorithm::HS256, "another secret"), "token_signature"),
        (PATH, with("exp", json!(now - 1)), "token_expired"),
        (PATH, with("nbf", json!(now + 60)), "token_not_yet_valid"),
        (PATH, with("aud", json!("them")), "token_audience"),
        (PATH, with("iss", json!(null)), "token_issuer"),
        (PATH, with("exp", json!(null)), "token_no_expiry"),
        (PATH, with("exp", json!("soon")), "token_claims"),
        (PATH, with("tenant", json!("a b")), "token_tenant"),
        (PATH, with("tenant", json!(null)), "token_no_tenant"),
        (PATH, with("sub", json!([1])), "token_user"),
        (PATH, with("role", json!({})), "token_role"),
        (PATH, with("groups", json!("x".repeat(1_024))), "token_too_long"),
        ("/user", with("sub", json!(null)), "token_no_user"),
    ];
    for (path, token, word) in &cases {
        let reply = get_by_both(&gateway, path, token).await.problem(401);
        assert_eq!(detail(&reply), *word);
        let told = reply.json()["detail"].as_str().unwrap().to_owned();
        let field = format!("Bearer error=\"invalid_token\", error_description=\"{told}\"");
        assert_eq!(reply.header("www-authenticate"), field, "{word}");
    }
    let two = send(gateway.request("GET", PATH).bearer_auth("a").bearer_auth("b")).await.problem(401);
    assert_eq!(detail(&two), "token_malformed");
    let reply = gateway.get(PATH).await.problem(401);
    assert_eq!((detail(&reply), reply.header("www-authenticate")), ("token_missing", "Bearer"));
}

#[tokio::test]
async fn times_of_a_token_count_with_their_fractions() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin).route(PATH, KPI).start().await;
    // A third of a second ago, and half a second from now.
    let since = now_ms() as f64 / 1_000.0 - 0.333;
    get(&gateway, PATH, &with_claims(&json!({ "tenant": "acme", "nbf": since }))).await.ok();
    let until_then = now_ms() as f64 / 1_000.0 + 1.5;
    let short = with_claims(&json!({ "tenant": "acme", "exp": until_then }));
    get(&gateway, PATH, &short).await.ok();
    until("its time is over", SOON, || async { get(&gateway, PATH, &short).await.status == 401 }).await;
    assert!(now_ms() as f64 / 1_000.0 >= until_then);
}

#[tokio::test]
async fn tokens_with_many_groups_are_short_enough() {
    let origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin)
        .raw(HTTP2)
        .route(PATH, KPI)
        .route("/passed", "auth = \"required\"")
        .start()
        .await;
    for groups in [160, 200] {
        let ids: Vec<String> = (0..groups).map(|n| format!("6f1c4bb2-0d6f-4f5e-9a34-{n:012}")).collect();
        let token = with_claims(&json!({ "tenant": "acme", "groups": ids }));
        assert!(token.len() > 8_192 && token.len() <= 16_384, "{}", token.len());
        for path in [PATH, PATH, "/passed"] {
            get_by_both(&gateway, path, &token).await.ok();
        }
    }
    let long = with_claims(&json!({ "tenant": "acme", "groups": "x".repeat(16_384) }));
    assert_eq!(detail(&get_by_both(&gateway, "/passed", &long).await.problem(401)), "token_too_long");
}

#[tokio::test]
async fn a_token_of_the_query_reaches_the_origin_in_authorization() {
    let origin = TestOrigin::start().await;
    let lines = |more: &str| format!("token_query = true\n{more}");
    let gateway = Gateway::with(&origin)
        .route("/passed", &lines(""))
        .route("/followed", &lines("cache = \"origin\""))
        .route("/versioned", &lines("cache = { namespace = \"n\", scope = \"tenant\", ttl = \"60s\" }"))
        .start()
        .await;
    let token = token("acme", "ann");
    for (method, path) in [
        ("GET", "/passed"),
        ("POST", "/passed"),
        ("GET", "/followed"),
        ("HEAD", "/followed"),
        ("POST", "/followed"),
        ("GET", "/versioned"),
    ] {
        origin.forget();
        // A token that doesn't verify goes on where the gateway has no use for it.
        let unknown = format!("a.{}.b", BASE64_URL_SAFE_NO_PAD.encode("x"));
        let tokens = if path == "/versioned" { vec![&token] } else { vec![&token, &unknown] };
        for token in tokens {
            let reply = gateway.send_with(method, &format!("{path}?a=1&token={token}&b=2"), &[]).await.ok();
            let seen = origin.seen(path).pop().unwrap();
            assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {token}")), "{method} {path}");
            assert!(!format!("{:?}", seen.query).contains("token"), "{method} {path}: {:?}", seen.query);
            assert!(!reply.is_hit(), "{method} {path}: {reply:?}");
        }
    }
    // What one token was answered with is not another's, nor that of who has none.
    origin.on("/followed", |seen| {
        let body = seen.header("authorization").unwrap_or("nobody").to_owned();
        Answer::new("text/plain", body).header("cache-control", "max-age=60")
    });
    for token in ["first", "second"] {
        let reply = gateway.get(&format!("/followed?token={token}")).await.ok();
        assert_eq!(reply.text(), format!("Bearer {token}"));
    }
    assert_eq!(gateway.get("/followed").await.ok().text(), "nobody");
}

#[tokio::test]
async fn no_log_shows_a_token() {
    let mut origin = TestOrigin::start().await;
    let gateway = Gateway::with(&origin)
        .log("trace")
        .access()
        .route(PATH, KPI)
        .route("/followed", "token_query = true\ncache = \"origin\"")
        .route("/passed", "token_query = true\nauth = \"required\"")
        .start()
        .await;
    let good = token("acme", "ann");
    let bad = with_claims(&json!({ "tenant": "acme", "exp": 1 }));
    for token in [&good, &bad] {
        for path in [PATH, PATH, "/followed", "/passed"] {
            for method in ["GET", "HEAD", "POST"] {
                let request = gateway.request(method, path).bearer_auth(token).body("x");
                send(request).await;
                let lines = gateway.output();
                assert!(!lines.contains(token.as_str()), "{method} {path}: {lines}");
            }
            send(gateway.request("GET", &format!("{path}?token={token}"))).await;
            let lines = gateway.output();
            assert!(!lines.contains(token.as_str()), "{path} with its token in the query: {lines}");
        }
    }
    origin.kill();
    send(gateway.request("POST", "/passed").bearer_auth(&good).body("x")).await.problem(502);
    until("lines below info are written", SOON, || async { gateway.output().contains("DEBUG") }).await;
    assert!(!gateway.output().contains(good.as_str()));
}
