//! Answers of a cached route that are no 200: how they are sent, and for how long they are recommended.

use crate::support::*;

const PATH: &str = "/api/widgets/kpi";

/// RFC 9110, 8.6: no length. And nothing is there that a tag could name.
#[tokio::test]
async fn a_204_has_neither_a_length_nor_a_tag() {
    let origin = TestOrigin::start().await;
    origin.on(PATH, |_| Answer::new("application/json", "").status(204));
    let cache = r#"cache = { namespace = "kpi", scope = "public", ttl = "60s" }"#;
    let gateway = Gateway::with(&origin).route(PATH, cache).start().await;
    for method in ["GET", "HEAD", "GET"] {
        let reply = send(gateway.request(method, PATH)).await;
        assert_eq!(reply.status, 204, "{method}: {reply:?}");
        for name in ["content-length", "transfer-encoding", "etag", "content-encoding"] {
            assert_eq!(reply.header(name), "", "{method} {name}: {reply:?}");
        }
    }
}

#[tokio::test]
async fn a_404_out_of_the_store_is_recommended_for_its_own_lifetime() {
    let (origin, redis) = (TestOrigin::start().await, Redis::start().await);
    origin.on(PATH, |seen| Answer::echo(seen).status(404));
    let cache = r#"cache = { namespace = "kpi", scope = "public", ttl = "60s", negative_ttl = "20s" }"#;
    let config = Gateway::with(&origin).redis(&redis.url()).route(PATH, cache);
    let (a, b) = (config.start().await, config.start().await);
    let first = a.get(PATH).await;
    until("the store has the answer", SOON, || async {
        redis.keys().await.iter().any(|key| key.starts_with("dash:kpi:public:"))
    })
    .await;
    let second = b.get(PATH).await;
    assert_eq!(origin.count(PATH), 1, "the second node has it from the store");
    for reply in [first, second, b.get(PATH).await] {
        assert_eq!(reply.status, 404, "{reply:?}");
        let told = reply.header("cache-control");
        assert!(told.split(", ").any(|directive| directive == "s-maxage=20"), "{told:?}: {reply:?}");
    }
}
