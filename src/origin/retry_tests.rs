//! Tests of the rule for retries.

use super::*;

const BROKEN: FailedAttempt = FailedAttempt::of_server(OriginOutcome::Broken);
const TIMEOUT: FailedAttempt = FailedAttempt::of_server(OriginOutcome::Timeout);
const UNCONNECTED: FailedAttempt =
    FailedAttempt { outcome: OriginOutcome::ConnectFailed, was_sent: false, ..BROKEN };
const UNCONNECTED_LATE: FailedAttempt = FailedAttempt { outcome: OriginOutcome::Timeout, ..UNCONNECTED };

fn trial(failed: FailedAttempt) -> FailedAttempt {
    FailedAttempt { was_trial: true, ..failed }
}

fn reused(failed: FailedAttempt) -> FailedAttempt {
    FailedAttempt { was_reused: true, ..failed }
}

fn unprocessed(failed: FailedAttempt) -> FailedAttempt {
    FailedAttempt { is_unprocessed: true, ..failed }
}

fn retryable(failed: FailedAttempt) -> FailedAttempt {
    FailedAttempt { is_retryable: true, ..failed }
}

fn by_client(failed: FailedAttempt) -> FailedAttempt {
    FailedAttempt { by_server: false, ..failed }
}

/// Each failure with the verdicts for a fill, and for a client's GET, PUT and POST.
#[test]
fn each_failure_has_its_verdict() {
    use RetryVerdict::{Fail, Reconnect, Repeat, RepeatAtOnce, Retry};
    for (failed, expected) in [
        (BROKEN, [Retry, Retry, Retry, Fail]),
        (TIMEOUT, [Retry, Fail, Fail, Fail]),
        (UNCONNECTED, [Retry, Retry, Retry, Retry]),
        (UNCONNECTED_LATE, [Retry, Retry, Retry, Retry]),
        (trial(TIMEOUT), [RepeatAtOnce, RepeatAtOnce, RepeatAtOnce, Fail]),
        (trial(UNCONNECTED_LATE), [RepeatAtOnce, RepeatAtOnce, RepeatAtOnce, RepeatAtOnce]),
        (trial(UNCONNECTED), [RepeatAtOnce, Retry, Retry, Retry]),
        (trial(BROKEN), [RepeatAtOnce, Retry, Retry, Fail]),
        (reused(BROKEN), [Reconnect, Reconnect, Retry, Fail]),
        (trial(reused(TIMEOUT)), [RepeatAtOnce, RepeatAtOnce, RepeatAtOnce, Fail]),
        (retryable(BROKEN), [Reconnect, Reconnect, Reconnect, Fail]),
        (unprocessed(BROKEN), [Repeat, Repeat, Repeat, Repeat]),
        (unprocessed(reused(BROKEN)), [Repeat, Repeat, Repeat, Repeat]),
        (by_client(BROKEN), [Retry, Fail, Fail, Fail]),
        (by_client(unprocessed(BROKEN)), [Retry, Fail, Fail, Fail]),
        (by_client(trial(TIMEOUT)), [RepeatAtOnce, Fail, Fail, Fail]),
    ] {
        let of = |source, method| decide_retry(RetryRequest::new(source, &method, true), failed, true);
        let found = [
            of(RequestSource::Gateway, Method::GET),
            of(RequestSource::Client, Method::GET),
            of(RequestSource::Client, Method::PUT),
            of(RequestSource::Client, Method::POST),
        ];
        assert_eq!(found, expected, "{failed:?}");
        let event = of(RequestSource::Gateway, Method::POST);
        assert_eq!(
            event,
            if failed.is_unprocessed && failed.by_server { Repeat } else { Fail },
            "{failed:?}"
        );
    }
}

#[test]
fn what_cannot_be_sent_once_more_is_not() {
    for failed in [BROKEN, reused(BROKEN), unprocessed(BROKEN), trial(TIMEOUT)] {
        let request = RetryRequest::new(RequestSource::Client, &Method::GET, false);
        assert_eq!(decide_retry(request, failed, true), RetryVerdict::Fail, "{failed:?}");
    }
}

#[test]
fn without_repeats_the_other_rules_hold() {
    let of = |source, failed| decide_retry(RetryRequest::new(source, &Method::GET, true), failed, false);
    for (failed, own, proxied) in [
        (unprocessed(BROKEN), RetryVerdict::Retry, RetryVerdict::Retry),
        (trial(TIMEOUT), RetryVerdict::Retry, RetryVerdict::Fail),
        (trial(UNCONNECTED_LATE), RetryVerdict::Retry, RetryVerdict::Retry),
        (reused(BROKEN), RetryVerdict::Reconnect, RetryVerdict::Reconnect),
    ] {
        let found = (of(RequestSource::Gateway, failed), of(RequestSource::Client, failed));
        assert_eq!(found, (own, proxied), "{failed:?}");
    }
}

#[test]
fn attempts_are_counted() {
    let request = RetryRequest::new(RequestSource::Client, &Method::GET, true);
    let count = |failed, retries: u32, is_late, budget: u32| {
        let (mut tally, mut budget) = (RetryTally::new(retries), budget);
        let mut spend = || {
            let affordable = budget > 0;
            budget -= u32::from(affordable);
            affordable
        };
        (0..20).take_while(|_| tally.settle(request, failed, is_late, &mut spend).is_some()).count()
    };
    for (failed, retries, is_late, budget, expected) in [
        (BROKEN, 2, false, 10, 2),
        (BROKEN, 5, false, 3, 3),
        (BROKEN, 0, false, 10, 0),
        (BROKEN, 2, true, 10, 0),
        (UNCONNECTED, 2, false, 10, 2),
        (trial(TIMEOUT), 0, false, 0, 3),
        (trial(UNCONNECTED_LATE), 0, false, 0, 3),
        (trial(UNCONNECTED_LATE), 0, true, 0, 0),
        (unprocessed(BROKEN), 0, false, 0, 3),
        (unprocessed(BROKEN), 2, false, 10, 5),
        (unprocessed(BROKEN), 2, true, 10, 0),
    ] {
        assert_eq!(count(failed, retries, is_late, budget), expected, "{failed:?} {retries} {is_late}");
    }
}

#[test]
fn pauses_grow_and_vary() {
    let request = RetryRequest::new(RequestSource::Client, &Method::GET, true);
    let mut tally = RetryTally::new(4);
    for usual in [20, 40, 80, 160].map(Duration::from_millis) {
        let next = tally.settle(request, BROKEN, false, || true).unwrap();
        let pause = next.pause.unwrap();
        assert!(next.elsewhere && (usual / 2..usual * 3 / 2).contains(&pause), "{usual:?} {pause:?}");
    }
    let at_once = RetryTally::new(0).settle(request, trial(TIMEOUT), false, || false);
    assert_eq!(at_once, Some(NextAttempt { elsewhere: true, pause: None, is_excused: false }));
    let reconnect = RetryTally::new(0).settle(request, reused(BROKEN), false, || false);
    assert_eq!(reconnect, Some(NextAttempt { elsewhere: false, pause: None, is_excused: false }));
}
