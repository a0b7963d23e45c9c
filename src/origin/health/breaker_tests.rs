//! Tests of a server that fails, and of one that asks for a pause.

use super::*;

#[test]
fn a_server_that_fails_is_left_alone_then_tried_once() {
    let (mut server, start) = (Breaker::default(), Instant::now());
    for n in 1..=FAILURES_TO_OPEN {
        assert!(server.take(start).is_ok());
        let change = if n == FAILURES_TO_OPEN { BreakerChange::Begins } else { BreakerChange::None };
        assert_eq!(server.note(OriginOutcome::Timeout, (start, None), start), change);
    }
    assert_eq!(server.take(start), Err(OriginOutcome::Timeout));
    let later = start + FIRST_PAUSE;
    assert!(server.may(later).is_ok());
    assert!(server.take(later).is_ok());
    assert!(server.take(later).is_err());
    assert_eq!(
        server.note(OriginOutcome::ConnectFailed, (later, None), later),
        BreakerChange::None,
        "it was left alone already"
    );
    assert_eq!(server.take(later + FIRST_PAUSE), Err(OriginOutcome::ConnectFailed));
    assert!(server.take(later + FIRST_PAUSE * 2).is_ok());
    assert!(server.is_left_alone());
    assert_eq!(server.note(OriginOutcome::Ok, (later, None), later), BreakerChange::Ends);
    assert!(!server.is_left_alone() && server.take(later).is_ok());
    assert!(server.take(later).is_ok());
}

#[test]
fn failures_at_the_same_time_are_one() {
    let (mut server, start) = (Breaker::default(), Instant::now());
    let end = start + Duration::from_secs(1);
    for _ in 0..100 {
        server.note(OriginOutcome::Timeout, (start, None), end);
    }
    assert!(server.take(end).is_ok());
}

#[test]
fn an_error_of_the_application_is_an_answer() {
    let (mut server, start) = (Breaker::default(), Instant::now());
    for _ in 0..100 {
        server.note(OriginOutcome::ServerError, (start, None), start);
    }
    assert!(server.take(start).is_ok());
}

#[test]
fn a_server_rests_by_its_own_word_and_may_be_asked_all_the_same() {
    let (mut server, start) = (Breaker::default(), Instant::now());
    assert!(server.rest(Duration::from_secs(5), start));
    assert!(!server.rest(Duration::from_secs(5), start), "it rests already");
    assert!(server.rests(start) && server.may(start).is_ok());
    assert!(!server.rests(start + Duration::from_secs(5)));
    server.rest(Duration::from_secs(100_000), start);
    assert!(!server.rests(start + LONGEST_REST));
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let rest = |status: u16, value: &str| {
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, value.parse().unwrap())]);
        retry_after(StatusCode::from_u16(status).unwrap(), &headers, now)
    };
    assert_eq!(rest(503, "7"), Some(Duration::from_secs(7)));
    assert_eq!(rest(503, "99999999999999999999999"), Some(LONGEST_REST));
    assert_eq!(rest(503, "Sun, 09 Sep 2001 01:46:50 GMT"), Some(Duration::from_secs(10)));
    for (status, value) in
        [(503, "0"), (503, ""), (503, "-1"), (503, "soon"), (503, "Sun, 09 Sep 2001 01:46:39 GMT")]
    {
        assert_eq!(rest(status, value), None, "{value:?}");
    }
    assert_eq!(rest(429, "7"), None);
    assert_eq!(retry_after(StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new(), now), None);
}

/// A client waits for the trial of a server that hung, while other servers could answer.
#[test]
fn the_trial_of_a_server_that_hung_has_a_short_time() {
    let second = Duration::from_secs(1);
    for (usual, outcome, expected) in [
        (
            Duration::ZERO,
            OriginOutcome::Timeout,
            [Some(second), Some(2 * second), Some(4 * second), Some(4 * second)],
        ),
        (
            second,
            OriginOutcome::Timeout,
            [Some(4 * second), Some(8 * second), Some(16 * second), Some(16 * second)],
        ),
        (Duration::ZERO, OriginOutcome::ConnectFailed, [None; 4]),
    ] {
        let (mut server, mut now) = (Breaker::default(), Instant::now());
        server.note(OriginOutcome::Ok, (now, Some(usual)), now + usual);
        now += usual;
        for _ in 0..FAILURES_TO_OPEN {
            assert_eq!(server.trial_time(), None, "it is no trial");
            server.note(outcome, (now, None), now);
        }
        for expected in expected {
            assert_eq!(server.trial_time(), expected, "{usual:?} {outcome:?}");
            now += LONGEST_PAUSE;
            assert!(server.take(now).is_ok());
            server.note(outcome, (now, None), now);
        }
        server.note(OriginOutcome::Ok, (now, None), now);
        assert_eq!(server.trial_time(), None);
    }
}

/// A request may have waited for a place, or for the body of its client.
#[test]
fn the_usual_time_is_that_of_the_server() {
    let second = Duration::from_secs(1);
    for (took, expected) in [(None, second), (Some(second / 100), second), (Some(second), 4 * second)] {
        let (mut server, began) = (Breaker::default(), Instant::now());
        let now = began + 60 * second;
        server.note(OriginOutcome::Ok, (began, took), now);
        for _ in 0..FAILURES_TO_OPEN {
            server.note(OriginOutcome::Timeout, (now, None), now);
        }
        assert_eq!(server.trial_time(), Some(expected), "{took:?}");
    }
}
