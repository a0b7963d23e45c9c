//! The ends of streams: limits, tokens, reloads.

use super::*;
use crate::support::gateway::{sign, token};

fn live(rules: &str, more: &str) -> String {
    format!("cache = {{ namespace = \"kpi\", ttl = \"60s\" }}\nlive = {rules}\n{more}")
}

fn bearer(tenant: &str, user: &str) -> String {
    format!("Bearer {}", token(tenant, user))
}

/// Holds that a stream ends at once, and tells its client when to come back.
async fn ends_at_once(mut stream: EventStream) {
    let (events, end) = stream.rest().await;
    assert_eq!((events.len(), end), (1, End::Clean), "{events:?}");
    let retry: u64 = events[0].data.parse().unwrap();
    assert!(events[0].name == "retry" && (5_000..=10_000).contains(&retry), "{events:?}");
}

#[tokio::test]
async fn a_stream_too_many_ends_at_once_and_takes_no_place() {
    let (origin, _) = shop("/kpi").await;
    let same = [("acme", "ann"), ("acme", "ann"), ("acme", "ann")];
    // The two that have a place, and one that has none; then one of another owner, if there can be one.
    for (limit, whose, other) in [
        ("max_watchers", [("acme", "ann"), ("zen", "bob"), ("tide", "eve")], None),
        (
            "max_watchers_per_tenant",
            [("acme", "ann"), ("acme", "bob"), ("acme", "eve")],
            Some(("zen", "ann")),
        ),
        ("max_watchers_per_user", same, Some(("acme", "bob"))),
        ("max_watchers_per_user", same, Some(("zen", "ann"))),
        ("max_watchers_per_address", [("acme", "ann"), ("zen", "bob"), ("tide", "eve")], None),
    ] {
        let rules = live(&format!("{{ {limit} = 2 }}"), "auth = \"required\"");
        let gateway = Gateway::with(&origin).route("/kpi", &rules).start().await;
        let open = |(tenant, user): (&str, &str)| {
            let bearer = bearer(tenant, user);
            let to = gateway.address();
            async move { EventStream::open(to, "/kpi", &[("Authorization", &bearer)]).await }
        };
        let mut first = open(whose[0]).await;
        first.next().await;
        let mut second = open(whose[1]).await;
        second.next().await;
        for _ in 0..3 {
            ends_at_once(open(whose[2]).await).await;
        }
        until_watched_by(&gateway, "kpi", 2).await;
        assert!((ended(&gateway, "limit").await - 3.0).abs() < f64::EPSILON, "{limit}");
        if let Some(other) = other {
            assert_eq!(open(other).await.next().await.name, "metric_update", "{limit}: {other:?}");
        }
        until_watched_by(&gateway, "kpi", 2).await;
        drop(first);
        until_watched_by(&gateway, "kpi", 1).await;
        assert_eq!(open(whose[2]).await.next().await.name, "metric_update", "{limit}: a place is free");
    }
}

#[tokio::test]
async fn a_stream_tells_of_the_end_of_its_token_and_ends_with_it() {
    let (origin, _) = shop("/kpi").await;
    let gateway = Gateway::with(&origin).route("/kpi", &live("true", "auth = \"required\"")).start().await;
    let expires = now_ms() / 1_000 + 4;
    let soon = sign(&json!({ "tenant": "acme", "sub": "ann", "exp": expires }));
    let fields = [("Authorization", format!("Bearer {soon}"))];
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut stream = EventStream::open(gateway.address(), "/kpi", &fields).await;
    let long = bearer("acme", "ann");
    let mut other = EventStream::open(gateway.address(), "/kpi", &[("Authorization", &long)]).await;
    other.next().await;
    let (events, end) = stream.rest().await;
    assert!(now_ms() + 50 >= expires * 1_000, "it ended too early");
    let names: Vec<_> =
        events.iter().map(|event| event.name.as_str()).filter(|name| *name != "ping").collect();
    assert_eq!(names.last(), Some(&"retry"), "{events:?}");
    assert!(names.contains(&"metric_update") && names.contains(&"token") && names.len() == 3, "{events:?}");
    let left = events.iter().find(|event| event.name == "token").unwrap().json()["expires_in"].as_u64();
    assert!(left.is_some_and(|left| left <= 4) && end == End::Clean, "{events:?}");
    assert!((ended(&gateway, "token").await - 1.0).abs() < f64::EPSILON);
    until_watched_by(&gateway, "kpi", 1).await;
    gateway.get_with("/kpi", &[("Accept", "text/event-stream"), fields[0]]).await.problem(401);
}

#[tokio::test]
async fn a_reload_ends_the_streams_of_changed_routes_alone() {
    let (origin, orders) = shop("/kpi").await;
    let counted = orders.clone();
    origin.on("/other", move |_| Answer::json(&json!({ "orders": counted.load(Ordering::SeqCst) })));
    let with = |event: &str| {
        Gateway::with(&origin)
            .route("/kpi", &live("true", ""))
            .route("/other", &live(&format!("{{ event = \"{event}\" }}"), ""))
            .event("order_created", &["kpi"])
    };
    let gateway = with("before").start().await;
    let mut kept = EventStream::open(gateway.address(), "/kpi", &[]).await;
    let mut changed = EventStream::open(gateway.address(), "/other", &[]).await;
    assert_eq!(
        (kept.next().await.name.as_str(), changed.next().await.name.as_str()),
        ("metric_update", "before")
    );
    assert!(gateway.reload(&with("after").route("/new", "")).await);
    let (events, end) = changed.rest().await;
    let last = events.last().unwrap();
    let retry: u64 = last.data.parse().unwrap();
    assert!(last.name == "retry" && (1_000..=2_000).contains(&retry) && end == End::Clean, "{events:?}");
    assert!((ended(&gateway, "reload").await - 1.0).abs() < f64::EPSILON);
    let mut again = EventStream::open(gateway.address(), "/other", &[]).await;
    assert_eq!(again.next().await.name, "after");
    orders.store(1, Ordering::SeqCst);
    gateway.bump("public").await;
    for stream in [&mut kept, &mut again] {
        assert_eq!(stream.next().await.json(), json!({ "orders": 1 }));
    }
    // A route that goes takes its streams with it.
    assert!(gateway.reload(&Gateway::with(&origin).route("/kpi", &live("true", ""))).await);
    let (events, end) = again.rest().await;
    assert_eq!((events.last().map(|event| event.name.as_str()), end), (Some("retry"), End::Clean));
    until_watched_by(&gateway, "kpi", 1).await;
}

#[tokio::test]
async fn the_limits_and_signatures_of_a_route_hold_for_its_streams() {
    let (origin, _) = shop("/kpi").await;
    let signed = "methods = [\"GET\"]\nsigned = { secret = \"a secret of links that is long enough\" }";
    let gateway = Gateway::with(&origin)
        .route("/kpi", &live("true", "limit = { rate = \"2/1h\" }"))
        .route("/signed", &live("true", signed))
        .start()
        .await;
    let accept = [("Accept", "text/event-stream")];
    for left in ["r=1", "r=0"] {
        let stream = EventStream::open(gateway.address(), "/kpi", &[]).await;
        assert!(stream.head.header("ratelimit").unwrap().contains(left), "{}", stream.head.text);
    }
    gateway.get_with("/kpi", &accept).await.problem(429);
    gateway.get_with("/signed", &accept).await.problem(403);
    until_watched_by(&gateway, "kpi", 0).await;
}
