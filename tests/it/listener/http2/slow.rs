//! Clients by HTTP/2 that take their time.

use super::{wire::*, *};

const IMPATIENT: &str =
    "header_timeout = \"1s\"\nbody_timeout = \"1s\"\nbody_min_rate = \"0B\"\nsend_timeout = \"10s\"";

async fn was_cut(stage: &Stage, reason: &str, times: f64) {
    until(&format!("{times} are cut off: {reason}"), SOON, || async {
        let metrics = stage.gateway.metrics().await;
        metrics.value("tidegate_connections_cut_total", &[("reason", reason)]) == times
    })
    .await;
}

#[tokio::test]
async fn a_body_of_which_nothing_comes_gets_408_and_its_connection_goes_on() {
    let mut stage = Stage::set(IMPATIENT).await;
    let mut wire = Wire::connect(stage.prior).await;
    let post = |n| frame(HEADERS, END_HEADERS, n, &request("POST", b"/x", &[]));
    // Nothing of it, some of it, and a part of a frame, behind which nobody can say anything else.
    let parts = [Vec::new(), frame(DATA, 0, 5, b"some"), frame(DATA, 0, 9, b"some")[..11].to_vec()];
    for (n, begin) in (1_u32..).step_by(4).zip(parts) {
        wire.send(&[post(n), begin].concat()).await;
        let outcome = wire.outcome(n).await;
        assert!(
            if n == 1 { outcome.is(408) } else { matches!(outcome, Outcome::Answered(_)) },
            "{outcome:?}"
        );
        if n < 9 {
            wire.send(&get(n + 2, "/fine")).await;
            assert!(matches!(wire.outcome(n + 2).await, Outcome::Answered(_)));
        }
    }
    was_cut(&stage, "body_timeout", 3.0).await;
    assert_eq!(stage.origin.count("/x"), 0);
    stage.gateway.assert_sound().await;
}

/// A frame that comes a byte at a time is a body that goes on.
#[tokio::test]
async fn a_body_whose_frames_come_slowly_arrives() {
    let stage = Stage::set(IMPATIENT).await;
    let mut wire = Wire::connect(stage.prior).await;
    let slowly = frame(DATA, END_STREAM, 1, b"byte by byte");
    let (begin, rest) = slowly.split_at(9);
    wire.send(&[&frame(HEADERS, END_HEADERS, 1, &request("POST", b"/x", &[]))[..], begin].concat()).await;
    for byte in rest {
        tokio::time::sleep(Duration::from_millis(200)).await;
        wire.send(&[*byte]).await;
    }
    assert!(wire.outcome(1).await.is(200));
    assert_eq!(&stage.origin.seen("/x")[0].body[..], b"byte by byte");
}

#[tokio::test]
async fn half_a_header_has_the_time_of_a_header() {
    let mut stage = Stage::set(IMPATIENT).await;
    let head = request("GET", b"/x", &[]);
    let whole =
        [frame(HEADERS, END_STREAM, 1, &head[..10]), frame(CONTINUATION, END_HEADERS, 1, &head[10..])]
            .concat();
    let before_continuation = 9 + 10;
    for cut in [3, 9, 12, before_continuation, before_continuation + 9, whole.len() - 1] {
        let mut wire = Wire::connect(stage.prior).await;
        // A request under way does not keep it.
        wire.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", b"/fine", &[]))).await;
        assert!(wire.outcome(1).await.is(200));
        let rest: Vec<u8> = whole[..cut].to_vec();
        let rest = third(&rest);
        wire.send(&rest).await;
        assert_eq!(timeout(SOON, wire.farewell()).await.expect("it ends"), Some(0), "{cut}");
    }
    was_cut(&stage, "header_timeout", 6.0).await;
    stage.ended("slow").await;
    assert_eq!(stage.origin.count("/x"), 0);
    stage.gateway.assert_sound().await;
}

/// The same bytes for the third stream, where they get so far as to say it.
fn third(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for at in [8, 9 + 10 + 8] {
        if let Some(byte) = bytes.get_mut(at) {
            *byte = 3;
        }
    }
    bytes
}
