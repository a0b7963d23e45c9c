//! Retries: which requests are sent again, and which are not.

use crate::support::{strict::Message, *};
use std::sync::{
    atomic::{AtomicUsize, Ordering},
    Arc,
};

/// Counts the attempts of a request that gets no answer, on a new connection or on a reused one.
async fn asked(method: &str, body: &'static str, retries: u32, kept: bool) -> usize {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let origin = Recorder::start(move |request: &Message| match request.target() {
        "/lost" => {
            counted.fetch_add(1, Ordering::SeqCst);
            Say::bytes("").closing()
        }
        _ => Say::plain(request),
    })
    .await;
    let gateway = GatewayBuilder::new(&origin.url())
        .origin(&format!("retries = {retries}"))
        .route("/*", "")
        .start()
        .await;
    if kept {
        gateway.get("/x").await.ok();
    }
    send(gateway.request(method, "/lost").body(body)).await.problem(502);
    count.load(Ordering::SeqCst)
}

/// As docs/origins.md has it.
#[tokio::test]
async fn what_got_no_answer_is_sent_again_where_it_may_be() {
    for (method, body, retries, kept, times) in [
        ("POST", "hello", 2, false, 1),
        ("POST", "hello", 2, true, 1),
        ("PATCH", "hello", 2, true, 1),
        ("PUT", "hello", 0, false, 1),
        // That a connection has been closed costs a retry where something would be changed.
        ("PUT", "hello", 0, true, 1),
        ("DELETE", "", 0, true, 1),
        ("PUT", "hello", 2, false, 3),
        ("PUT", "hello", 2, true, 3),
        ("DELETE", "", 1, true, 2),
        ("GET", "", 0, false, 1),
        // And nothing where nothing is.
        ("GET", "", 0, true, 2),
        ("OPTIONS", "", 0, true, 2),
    ] {
        assert_eq!(asked(method, body, retries, kept).await, times, "{method} {retries} {kept}");
    }
}

/// More than is kept of it can't be sent again, whatever the method.
#[tokio::test]
async fn a_large_body_is_sent_once() {
    let body: &'static str = Box::leak("x".repeat(1 << 20).into_boxed_str());
    assert_eq!(asked("PUT", body, 2, false).await, 1);
}
