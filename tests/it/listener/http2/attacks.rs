//! Clients that make the gateway reset their streams (CVE-2025-8671), and what their work counts as.

use super::{wire::*, *};
use tokio::time::Instant;

const REFUSED_STREAM: u32 = 7;

impl Stage {
    /// A connection with nothing between the test and its frames.
    async fn wire(&self, tls: bool) -> Wire {
        match tls {
            true => Wire::connect_by_tls(&self.client, self.tls).await,
            false => Wire::connect(self.prior).await,
        }
    }
}

/// A request for a path, and frames for which its stream is reset.
type Provocation = fn(u32, &str) -> Vec<u8>;

fn post(stream: u32, path: &str, fields: &[(&str, &[u8])]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request("POST", path.as_bytes(), fields))
}

fn provocations() -> [(&'static str, Provocation); 5] {
    [
        ("a window that overflows", |n, path| {
            [get(n, path), frame(WINDOW_UPDATE, 0, n, &0x7fff_ffff_u32.to_be_bytes())].concat()
        }),
        ("a priority over itself", |n, path| {
            [get(n, path), frame(PRIORITY, 0, n, &[&n.to_be_bytes()[..], &[1]].concat())].concat()
        }),
        ("a body longer than it says", |n, path| {
            [post(n, path, &[("content-length", b"1")]), frame(DATA, 0, n, b"ab")].concat()
        }),
        ("a reset", |n, path| [get(n, path), frame(RST_STREAM, 0, n, &8_u32.to_be_bytes())].concat()),
        // Where the stream was refused, the library takes them for a stream that goes back, and ends the connection.
        ("trailers that end nothing", |n, path| {
            [post(n, path, &[]), frame(HEADERS, END_HEADERS, n, &field("x", b"y"))].concat()
        }),
    ]
}

#[tokio::test]
async fn streams_that_the_gateway_is_made_to_reset_count_as_the_clients_resets() {
    let mut stage = Stage::set("").await;
    let tried = provocations().into_iter().take(4);
    for ((what, provoke), tls) in tried.flat_map(|provocation| [(provocation, false), (provocation, true)]) {
        let mut wire = stage.wire(tls).await;
        let mut said = None;
        for n in (1..4_001).step_by(2) {
            if !wire.try_send(&provoke(n, "/x")).await {
                break;
            }
        }
        while let Some(frame) = wire.next().await {
            if frame.kind == GOAWAY {
                said = Some(frame.payload[4..8].to_vec());
            }
        }
        // Where the rest of the flood is not read, a reset of the connection may overtake it.
        let expected = ENHANCE_YOUR_CALM.to_be_bytes();
        assert!(said.as_ref().is_none_or(|code| *code == expected), "{what}: {said:?}");
    }
    until("each has ended as a flood", SOON, || async {
        stage.gateway.metrics().await.value("tidegate_http2_connections_total", &[("end", "flood")]) == 8.0
    })
    .await;
    stage.gateway.assert_sound().await;
}

#[tokio::test]
async fn answers_to_pings_that_nobody_sent_are_a_flood() {
    for tls in [false, true] {
        let stage = Stage::set("").await;
        let mut wire = stage.wire(tls).await;
        wire.try_send(&frame(PING, 1, 0, &[0; 8]).repeat(5_000)).await;
        wire.farewell().await;
        stage.ended("flood").await;
    }
}

/// A stream that the client has reset counts as long as the origin works on it: one connection never has more at the origin
/// than it may, and nobody else notices.
#[tokio::test]
async fn who_resets_its_streams_has_no_more_at_the_origin_than_others() {
    for (path, tls) in [("/held", false), ("/held", true), ("/followed/held", true), ("/long/held", false)] {
        for (what, provoke) in provocations() {
            let stage = Stage::set("").await;
            stage.origin.on(path, |seen| Answer::echo(seen).gated());
            stage.origin.hold();
            let mut wire = stage.wire(tls).await;
            let end = Instant::now() + Duration::from_millis(300);
            let (mut n, mut most) = (1, 0);
            while Instant::now() < end {
                let streams = (n..n + 60).step_by(2);
                let some: Vec<u8> = streams.flat_map(|n| provoke(n, &format!("{path}?n={n}"))).collect();
                n += 60;
                if !wire.try_send(&some).await {
                    break;
                }
                let beside = stage.connect().await;
                beside.get(HOST, "/beside").await.ok();
                most = most.max(stage.origin.held());
            }
            assert!(most <= 128, "{path}, {what}, TLS: {tls}: {most} at once");
            stage.origin.release();
        }
    }
}

#[tokio::test]
async fn what_is_reset_still_counts_and_a_further_request_is_refused() {
    for tls in [false, true] {
        counts_what_is_reset(tls).await;
    }
}

async fn counts_what_is_reset(tls: bool) {
    let stage = Stage::set("").await;
    stage.origin.on("/long/x", |seen| Answer::echo(seen).gated());
    stage.origin.hold();
    let mut wire = stage.wire(tls).await;
    let all: Vec<u8> = (1..257).step_by(2).flat_map(|n| get(n, &format!("/long/x?n={n}"))).collect();
    wire.send(&all).await;
    until("all are there", SOON, || async { stage.origin.held() == 128 }).await;
    let gone: Vec<u8> =
        (1..257).step_by(2).flat_map(|n| frame(RST_STREAM, 0, n, &8_u32.to_be_bytes())).collect();
    wire.send(&gone).await;
    wire.send(&get(301, "/long/x?n=301")).await;
    assert_eq!(wire.outcome(301).await, Outcome::Reset(REFUSED_STREAM));
    assert_eq!(stage.origin.held(), 128);
    stage.origin.release();
    for n in (303..2_303).step_by(2) {
        wire.send(&get(n, "/fine")).await;
        if matches!(wire.outcome(n).await, Outcome::Answered(_)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("there is no room again");
}

/// A few connections have no more at the origin than as many of HTTP/1.1.
#[tokio::test]
async fn requests_that_share_a_connection_take_places() {
    let stage = Stage::set("max_connections = 10").await;
    stage.origin.on("/held", |seen| Answer::echo(seen).gated());
    stage.origin.hold();
    let mut wire = Wire::connect(stage.prior).await;
    // The connection's place, and nine more.
    let all: Vec<u8> = (1..41).step_by(2).flat_map(|n| get(n, &format!("/held?n={n}"))).collect();
    wire.send(&all).await;
    let mut refused = 0;
    while refused < 10 {
        let frame = wire.next().await.unwrap();
        if frame.kind == HEADERS {
            refused += 1;
        }
    }
    until("the others are there", SOON, || async { stage.origin.held() == 10 }).await;
    let full = stage.gateway.metrics().await;
    assert_eq!(full.value("tidegate_connections_refused_total", &[("reason", "max_connections")]), 10.0);
    stage.origin.release();
    for _ in 0..10 {
        while wire.next().await.unwrap().kind != HEADERS {}
    }
    wire.send(&get(101, "/after")).await;
    assert!(matches!(wire.outcome(101).await, Outcome::Answered(_)));
}
