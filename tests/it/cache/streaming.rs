//! Answers that stream: to all who wait, as they come; never complete when the origin broke off; at no more memory
//! than is allowed, and at nobody else's cost when one client is slow or leaves.
//!
//! `load_many_clients_stream_one_cold_answer` moves 10 MB to each of 200 clients. With `TIDEGATE_STREAM=full` it moves
//! 50 MB, and holds the first bytes to 50 ms: meant for a release build (`TIDEGATE_BIN`) on a machine of its own.

use crate::support::{gateway::GatewayBuilder, *};
use futures_util::future::join_all;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const PATH: &str = "/file";
const FOLLOW: &str = r#"cache = { follow = "origin", max_size = "64MiB" }"#;
const NAMESPACED: &str = r#"cache = { namespace = "files", ttl = "60s", max_size = "64MiB" }"#;

fn gateway(origin: &TestOrigin, cache: &str) -> GatewayBuilder {
    Gateway::with(origin).origin("retries = 0").route(PATH, cache)
}

/// Bytes that no encoding is worth, fresh for a minute.
fn file(body: impl Into<bytes::Bytes>) -> Answer {
    Answer::new("application/octet-stream", body).header("cache-control", "max-age=60")
}

/// The framing by which the origin shows the end of its answer.
#[derive(Debug, Clone, Copy)]
enum Framing {
    Length,
    Chunked,
}

impl Framing {
    fn of(self, answer: Answer, length: usize) -> Answer {
        match self {
            Self::Length => answer.length(length),
            Self::Chunked => answer.chunked(),
        }
    }
}

/// Waits until this many clients are connected and the origin holds the answer to one request of theirs.
async fn all_wait(gateway: &Gateway, origin: &TestOrigin, clients: u32) {
    until("all wait for the origin", 2 * SOON, || async {
        let open = gateway.metrics().await.value("tidegate_connections_open", &[]);
        open >= f64::from(clients) && origin.held() == 1
    })
    .await;
}

/// The view that one client had of a streamed answer.
struct Watched {
    first_byte: Instant,
    /// The number of bytes that the origin had sent by then.
    sent_by_then: u64,
    equal: bool,
    end: End,
}

/// Reads an answer, compares it as it comes.
async fn watch(mut transfer: Transfer, origin: &TestOrigin, whole: &[u8]) -> Watched {
    assert_eq!(transfer.final_head().await.status, 200);
    let (mut first, mut at, mut equal) = (None, 0, true);
    let end = loop {
        match transfer.piece().await {
            Ok(piece) => {
                first.get_or_insert_with(|| (Instant::now(), origin.sent(PATH).unwrap().bytes));
                equal &= whole.get(at..at + piece.len()) == Some(&piece[..]);
                at += piece.len();
            }
            Err(end) => break end,
        }
    };
    let (first_byte, sent_by_then) = first.expect("a body");
    Watched { first_byte, sent_by_then, equal: equal && at == whole.len(), end }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_many_clients_stream_one_cold_answer() {
    const CLIENTS: u32 = 200;
    const RATE: u64 = 5_000_000;
    const MORE_MEMORY: u64 = 120_000_000;
    let full = std::env::var("TIDEGATE_STREAM").is_ok_and(|wanted| wanted == "full");
    let size = if full { 50_000_000 } else { 10_000_000 };
    let origin = Arc::new(TestOrigin::start().await);
    let whole = bytes::Bytes::from(noise(size, 1));
    let answer = file(whole.clone()).paced(RATE).gated();
    origin.on(PATH, move |_| answer.clone());
    let gateway = gateway(&origin, FOLLOW).start().await;
    let (idle, _) = gateway.memory();

    origin.hold();
    let asked = join_all((0..CLIENTS).map(|_| Transfer::ask(gateway.address(), PATH))).await;
    all_wait(&gateway, &origin, CLIENTS).await;
    let watching = asked.into_iter().map(|transfer| {
        let (origin, whole) = (origin.clone(), whole.clone());
        tokio::spawn(async move { watch(transfer, &origin, &whole).await })
    });
    let watching: Vec<_> = watching.collect();
    origin.release();
    let watched: Vec<_> = join_all(watching).await.into_iter().map(Result::unwrap).collect();
    let (_, most) = gateway.memory();

    assert_eq!(origin.count(PATH), 1);
    assert!(watched.iter().all(|client| client.equal && client.end == End::Clean), "an answer differs");
    let begun = origin.sent(PATH).unwrap().begun;
    let mut lags: Vec<_> =
        watched.iter().map(|client| client.first_byte.saturating_duration_since(begun)).collect();
    let (median, worst) = (quantile(&mut lags, 0.5), quantile(&mut lags, 1.0));
    let more = most.saturating_sub(idle);
    println!(
        "{CLIENTS} clients, {size} bytes: first byte after the origin's: median {median:?}, worst {worst:?}"
    );
    println!("memory: {idle} bytes idle, {more} more at most");
    let tenth = size as u64 / 10;
    assert!(watched.iter().all(|client| client.sent_by_then < tenth), "a first byte came late: {worst:?}");
    assert!(!full || worst <= Duration::from_millis(50), "worst {worst:?}");
    assert!(more < MORE_MEMORY, "{more} bytes more than idle");
    until("the answer is stored", SOON, || async { gateway.get(PATH).await.ok().is_hit() }).await;
    assert_eq!(origin.count(PATH), 1);
}

/// The origin breaks off in the middle, under those who read: none of them takes what they have for the whole.
async fn a_cut_is_seen_by_all(cache: &str, framing: Framing) {
    const FOLLOWERS: usize = 8;
    let origin = TestOrigin::start().await;
    let whole = noise(200_000, 2);
    let half = whole.len() / 2;
    let cut = framing.of(file(whole[..half].to_vec()).broken(), whole.len());
    let complete = file(whole.clone());
    origin.on(PATH, move |seen| if seen.number == 1 { cut.clone() } else { complete.clone() });
    let mut gateway = gateway(&origin, cache).start().await;

    origin.hold();
    let mut readers = Vec::new();
    for _ in 0..=FOLLOWERS {
        let mut reader = Transfer::ask(gateway.address(), PATH).await;
        assert_eq!(reader.final_head().await.status, 200);
        let begun = reader.piece().await.expect("the beginning comes before the end").to_vec();
        readers.push((reader, begun));
    }
    assert_eq!(origin.count(PATH), 1, "they are one flight");
    origin.release();
    for (mut reader, mut body) in readers {
        let (more, end) = reader.rest().await;
        body.extend(more);
        assert_eq!(end, End::Broken, "{} of {} bytes looked complete", body.len(), whole.len());
        assert!(whole[..half].starts_with(&body), "what came is not the beginning");
    }

    let next = gateway.get(PATH).await.ok();
    assert!(!next.is_hit() && next.body == whole, "{:?}", next.headers);
    assert_eq!(origin.count(PATH), 2, "nothing was stored of the broken answer");
    let stored = gateway.get(PATH).await.ok();
    assert!(stored.is_hit() && stored.body == whole, "{:?}", stored.headers);
    assert_eq!(origin.count(PATH), 2);
    gateway.assert_sound().await;
}

#[tokio::test]
async fn a_length_cut_short_is_seen_by_all() {
    a_cut_is_seen_by_all(FOLLOW, Framing::Length).await;
}

#[tokio::test]
async fn chunks_cut_short_are_seen_by_all() {
    a_cut_is_seen_by_all(FOLLOW, Framing::Chunked).await;
}

#[tokio::test]
async fn a_length_cut_short_is_seen_by_all_under_a_namespace() {
    a_cut_is_seen_by_all(NAMESPACED, Framing::Length).await;
}

#[tokio::test]
async fn chunks_cut_short_are_seen_by_all_under_a_namespace() {
    a_cut_is_seen_by_all(NAMESPACED, Framing::Chunked).await;
}

#[tokio::test]
async fn a_slow_follower_holds_nobody_up() {
    const QUICK: u32 = 10;
    let origin = TestOrigin::start().await;
    // More than the kernel holds for a client that doesn't read.
    let whole = noise(16_000_000, 3);
    let answer = file(whole.clone()).chunked().gated();
    origin.on(PATH, move |_| answer.clone());
    let gateway = gateway(&origin, FOLLOW).start().await;

    origin.hold();
    let mut slow = Transfer::ask_narrowly(gateway.address(), PATH).await;
    let quick = join_all((0..QUICK).map(|_| Transfer::ask(gateway.address(), PATH))).await;
    all_wait(&gateway, &origin, QUICK + 1).await;
    origin.release();
    slow.final_head().await;
    let mut read = slow.piece().await.unwrap().to_vec();
    let watched = join_all(quick.into_iter().map(|transfer| watch(transfer, &origin, &whole))).await;
    assert!(watched.iter().all(|client| client.equal && client.end == End::Clean));
    // Nor does it lose anything itself.
    let (more, end) = slow.rest().await;
    read.extend(more);
    assert!(end == End::Clean && read == whole, "{} bytes, {end:?}", read.len());
    assert_eq!(origin.count(PATH), 1);
}

/// Too large to be kept: it passes through to all who were there, and what isn't kept costs no memory.
async fn a_large_answer_passes_through(framing: Framing) {
    const CLIENTS: u32 = 8;
    const MORE_MEMORY: u64 = 25_000_000;
    let origin = TestOrigin::start().await;
    let whole = noise(50_000_000, 4);
    // Less than the gateway could pass on: that nobody falls behind is not left to chance.
    let answer = file(whole.clone()).paced(25_000_000).gated();
    let answer = if matches!(framing, Framing::Chunked) { answer.chunked() } else { answer };
    origin.on(PATH, move |_| answer.clone());
    let gateway = gateway(&origin, r#"cache = { follow = "origin", max_size = "1MiB" }"#).start().await;
    let (idle, _) = gateway.memory();

    origin.hold();
    let asked = join_all((0..CLIENTS).map(|_| Transfer::ask(gateway.address(), PATH))).await;
    all_wait(&gateway, &origin, CLIENTS).await;
    origin.release();
    let watched = join_all(asked.into_iter().map(|transfer| watch(transfer, &origin, &whole))).await;
    assert!(watched.iter().all(|client| client.equal && client.end == End::Clean), "an answer differs");
    assert_eq!(origin.count(PATH), 1, "one request for all who were there");
    let more = gateway.memory().1.saturating_sub(idle);
    assert!(more < MORE_MEMORY, "{more} bytes more than idle");

    let mut next = Transfer::ask(gateway.address(), PATH).await;
    assert_eq!(next.final_head().await.status, 200);
    assert_eq!(origin.count(PATH), 2, "nothing was stored");
}

#[tokio::test]
async fn load_a_large_answer_with_a_length_passes_through() {
    a_large_answer_passes_through(Framing::Length).await;
}

#[tokio::test]
async fn load_a_large_answer_in_chunks_passes_through() {
    a_large_answer_passes_through(Framing::Chunked).await;
}

/// The client that led leaves in the middle of the body, and so does one that followed.
async fn leaving_cancels_nothing(cache: &str) {
    let origin = TestOrigin::start().await;
    let whole = noise(200_000, 5);
    let half = whole.len() / 2;
    let answer = file(whole[..half].to_vec()).then_held(whole[half..].to_vec());
    origin.on(PATH, move |_| answer.clone());
    let gateway = gateway(&origin, cache).start().await;

    origin.hold();
    let mut readers = Vec::new();
    for _ in 0..3 {
        let mut reader = Transfer::ask(gateway.address(), PATH).await;
        assert_eq!(reader.final_head().await.status, 200);
        let begun = reader.piece().await.unwrap().to_vec();
        readers.push((reader, begun));
    }
    let (mut stays, mut body) = readers.pop().unwrap();
    drop(readers);
    // The flight is still there to be joined.
    let mut joins = Transfer::ask(gateway.address(), PATH).await;
    joins.final_head().await;
    origin.release();
    let (more, end) = stays.rest().await;
    body.extend(more);
    assert!(end == End::Clean && body == whole, "{} of {} bytes, {end:?}", body.len(), whole.len());
    assert!(joins.rest().await == (whole, End::Clean));
    until("the answer is stored", SOON, || async { gateway.get(PATH).await.ok().is_hit() }).await;
    assert_eq!(origin.count(PATH), 1);
}

#[tokio::test]
async fn clients_that_leave_cancel_nothing() {
    leaving_cancels_nothing(FOLLOW).await;
}

#[tokio::test]
async fn clients_that_leave_cancel_nothing_under_a_namespace() {
    leaving_cancels_nothing(NAMESPACED).await;
}

/// The only client leaves in the middle of the body: the answer is stored all the same. It goes on for long enough
/// that a gateway which writes to the client meanwhile is told that it has left.
async fn what_nobody_reads_is_stored(cache: &str) {
    let origin = TestOrigin::start().await;
    let whole = noise(600_000, 6);
    let answer = file(whole.clone()).paced(1_000_000);
    origin.on(PATH, move |_| answer.clone());
    let gateway = gateway(&origin, cache).start().await;
    let mut leaves = Transfer::ask(gateway.address(), PATH).await;
    leaves.final_head().await;
    leaves.piece().await.unwrap();
    drop(leaves);
    assert!(origin.sent(PATH).unwrap().bytes < whole.len() as u64 / 2, "it was left in the middle");
    until("the origin has sent all", SOON, || async {
        origin.sent(PATH).unwrap().bytes == whole.len() as u64
    })
    .await;
    until("the answer is there", SOON, || async { gateway.get(PATH).await.ok().is_hit() }).await;
    assert!(gateway.get(PATH).await.ok().body == whole);
    assert_eq!(origin.count(PATH), 1);
}

#[tokio::test]
async fn what_nobody_reads_any_more_is_stored() {
    what_nobody_reads_is_stored(FOLLOW).await;
}

#[tokio::test]
async fn what_nobody_reads_any_more_is_stored_under_a_namespace() {
    what_nobody_reads_is_stored(NAMESPACED).await;
}

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload; as=style\r\n\r\n";
const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\
                    Cache-Control: max-age=60\r\n\r\npage";

/// Hints are of use only while the origin still works on the page.
async fn hints_come_early(cache: &str) -> (RawOrigin, Gateway) {
    let origin = RawOrigin::start(HINTS, PAGE).await;
    let gateway = GatewayBuilder::new(&origin.url()).route(PATH, cache).start().await;
    let mut client = Transfer::ask(gateway.address(), PATH).await;
    let hints = client.head().await;
    assert_eq!((hints.status, hints.header("link")), (103, Some("</style.css>; rel=preload; as=style")));
    origin.release();
    let page = client.head().await;
    assert_eq!((page.status, page.header("link")), (200, None));
    assert_eq!(client.rest().await, (b"page".to_vec(), End::Clean));
    (origin, gateway)
}

#[tokio::test]
async fn early_hints_reach_the_client_before_the_answer() {
    let (origin, gateway) = hints_come_early(FOLLOW).await;
    // They are no part of what is stored.
    let mut next = Transfer::ask(gateway.address(), PATH).await;
    let head = next.head().await;
    assert_eq!((head.status, head.header("link")), (200, None));
    assert_eq!(next.rest().await, (b"page".to_vec(), End::Clean));
    assert_eq!(origin.requests(), 1);
}

#[tokio::test]
async fn early_hints_reach_the_client_where_nothing_is_cached() {
    hints_come_early("cache = \"off\"").await;
}

/// HTTP/1.0 knows no interim answers (RFC 9110, 15.2).
#[tokio::test]
async fn an_old_client_gets_no_hints() {
    let origin = RawOrigin::start(HINTS, PAGE).await;
    origin.release();
    let gateway = GatewayBuilder::new(&origin.url()).route(PATH, FOLLOW).start().await;
    let mut client = Transfer::ask_http10(gateway.address(), PATH).await;
    assert_eq!(client.head().await.status, 200);
    assert_eq!(client.rest().await, (b"page".to_vec(), End::Clean));
}
