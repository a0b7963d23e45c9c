//! Tokens signed by somebody else: key sets from a URL and from a file, while they rotate.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a failure is a panic")]

mod support;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use support::{gateway::KPI, *};

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
        let claims = json!({ "tenant": "acme", "sub": "alice", "exp": now_ms() / 1000 + 600 });
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(Algorithm::EdDSA) };
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
    assert_eq!(status(&gateway, &NEW).await, 401);

    issuer.on("/keys.json", |_| Answer::json(&set(&[&OLD, &NEW])));
    until("the new key is known", SOON, || async { status(&gateway, &NEW).await == 200 }).await;
    assert_eq!(status(&gateway, &OLD).await, 200);

    issuer.on("/keys.json", |_| Answer::json(&set(&[&NEW])));
    until("the old key is forgotten", SOON, || async { status(&gateway, &OLD).await == 401 }).await;

    for bad in ["not json", "{\"keys\": []}"] {
        issuer.on("/keys.json", move |_| Answer::new("application/json", bad));
        let asked = issuer.count("/keys.json");
        until("the bad set was fetched", SOON, || async { issuer.count("/keys.json") > asked + 1 }).await;
        assert_eq!(status(&gateway, &NEW).await, 200, "after {bad}");
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
    until("the new key is known", SOON, || async { status(&gateway, &NEW).await == 200 }).await;
    assert_eq!(status(&gateway, &OLD).await, 401);
}
