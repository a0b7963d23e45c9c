//! Streams of several nodes with one Redis.

use super::*;
use crate::support::gateway::GatewayBuilder;

const VERSION: &str = "dash:ver:kpi:public";

/// A node waits for Redis, and for the fill of another, for longer than any test takes: what it asks for beside is
/// right, and not what these tests count.
const PATIENT: &str = "cache = { namespace = \"kpi\", ttl = \"60s\", hedge = \"20s\" }\nlive = true";

fn node(origin: &TestOrigin, redis: &Redis) -> GatewayBuilder {
    Gateway::with(origin)
        .redis(&redis.url())
        .store("deadline = \"5s\"")
        .route("/kpi", PATIENT)
        .event("order_created", &["kpi"])
}

async fn open(nodes: &[Gateway]) -> Vec<EventStream> {
    let mut streams = Vec::new();
    for node in nodes {
        until("the node is linked", SOON, || node.is_linked()).await;
        for _ in 0..3 {
            let mut stream = EventStream::open(node.address(), "/kpi", &[]).await;
            assert_eq!(stream.next().await.json(), json!({ "orders": 0 }));
            streams.push(stream);
        }
    }
    streams
}

#[tokio::test]
async fn a_change_reaches_the_streams_of_all_nodes_with_one_request_to_the_origin() {
    let ((origin, orders), redis) = (shop("/kpi").await, Redis::start().await);
    let nodes = [node(&origin, &redis).start().await, node(&origin, &redis).start().await];
    let mut streams = open(&nodes).await;
    assert_eq!(origin.count("/kpi"), 1);
    for n in 1..=6_u64 {
        orders.store(n, Ordering::SeqCst);
        match n % 3 {
            0 => nodes[0].bump("public").await,
            1 => nodes[1].bump("public").await,
            // The application's own key.
            _ => redis.run::<()>(&["SET", VERSION, &format!("{}", now_ms() + 10_000 * n)]).await,
        }
        for stream in &mut streams {
            let event = stream.next().await;
            assert_eq!((event.name.as_str(), event.json()), ("metric_update", json!({ "orders": n })));
        }
        assert_eq!(origin.count("/kpi"), n as usize + 1, "one request for all nodes");
    }
}

#[tokio::test]
async fn a_stream_goes_on_at_another_node_with_nothing_twice() {
    let ((origin, orders), redis) = (shop("/kpi").await, Redis::start().await);
    let nodes = [node(&origin, &redis).start().await, node(&origin, &redis).start().await];
    let mut first = EventStream::open(nodes[0].address(), "/kpi", &[]).await;
    let id = first.next().await.id.unwrap();
    drop(first);
    let mut second = EventStream::open(nodes[1].address(), "/kpi", &[("Last-Event-ID", &id)]).await;
    orders.store(1, Ordering::SeqCst);
    nodes[0].bump("public").await;
    assert_eq!(second.next().await.json(), json!({ "orders": 1 }), "nothing came before");
}

#[tokio::test]
async fn streams_of_all_nodes_converge_after_redis_was_gone() {
    let ((origin, orders), mut redis) = (shop("/kpi").await, Redis::start().await);
    let nodes = [node(&origin, &redis).start().await, node(&origin, &redis).start().await];
    let mut streams = open(&nodes).await;
    for round in 1..=2_u64 {
        redis.kill();
        // Bumps that are refused, and changes that nobody tells of.
        for n in 0..3 {
            orders.store(round * 10 + n, Ordering::SeqCst);
            for node in &nodes {
                let reply = node.event("order_created", &json!({ "tenant": "public" })).await;
                assert!(reply.status.is_success() || reply.status == 503, "{reply:?}");
            }
        }
        redis.restart().await;
        for node in &nodes {
            until("the node is linked again", 2 * SOON, || node.is_linked()).await;
        }
        // The sender of events tries again.
        nodes[0].bump("public").await;
        for stream in &mut streams {
            reaches(stream, &json!({ "orders": round * 10 + 2 })).await;
        }
        // And all goes on as before.
        orders.store(round * 10 + 5, Ordering::SeqCst);
        nodes[1].bump("public").await;
        for stream in &mut streams {
            reaches(stream, &json!({ "orders": round * 10 + 5 })).await;
        }
    }
}
